//! What to do about the difference between what the parent has and what is here: pure functions.

use std::collections::{BTreeMap, BTreeSet};

use crate::gateway::feed::Scope;
use crate::store::replica::outbox::{OutboxChange, OutboxEntry};
use crate::types::{Cursor, Digest, Mode, RepositoryName, Tag};

/// What a repository holds at the parent.
#[derive(Clone, Default)]
pub struct Desired {
    /// Tags and what they name.
    pub tags: BTreeMap<Tag, Digest>,
    /// Manifests that refer to another one; they need no tag.
    pub referrers: BTreeSet<Digest>,
    /// The parent has not got all of it yet: what is missing was not deleted.
    pub partial: bool,
    /// Where the parent's feed was when its last page was listed.
    pub at: Option<Cursor>,
}

/// What a repository holds here.
#[derive(Clone, Default)]
pub struct Present {
    /// Tags and what they name.
    pub tags: BTreeMap<Tag, Digest>,
    /// Those of the desired manifests that are here.
    pub manifests: BTreeSet<Digest>,
    /// Tags with changes on their way up: they are left alone until the parent has answered.
    pub waiting: BTreeSet<Tag>,
}

/// One thing to do in a repository. `base` is what the tag named when the plan was made: when a
/// client has moved it since, the step is void.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Fetch a manifest and what it needs, then let the tag name it.
    Set {
        /// Which.
        tag: Tag,
        /// What it shall name.
        digest: Digest,
        /// What it named here.
        base: Option<Digest>,
    },
    /// Fetch a manifest and what it needs.
    Add {
        /// Which.
        digest: Digest,
    },
    /// Remove a tag.
    Remove {
        /// Which.
        tag: Tag,
        /// What it named here.
        base: Digest,
    },
    /// Ask again when the parent has answered the changes of the tag that are on their way up.
    HoldBack {
        /// Which.
        tag: Tag,
    },
}

/// The steps that make a repository like the parent's: removals first, because they cost nothing.
/// Each is made when it is asked for, as a repository may have very many tags.
pub fn plan<'a>(desired: &'a Desired, present: &'a Present) -> impl Iterator<Item = Step> + 'a {
    let is_gone = |tag: &Tag| !desired.partial && !desired.tags.contains_key(tag);
    let gone = present.tags.iter().filter(move |(tag, _)| is_gone(tag));
    let removals = gone.map(|(tag, base)| Step::Remove { tag: tag.clone(), base: base.clone() });
    let moved = desired.tags.iter().filter(|(tag, digest)| present.tags.get(tag) != Some(digest));
    let sets = moved.map(move |(tag, digest)| Step::Set {
        tag: tag.clone(),
        digest: digest.clone(),
        base: present.tags.get(tag).cloned(),
    });
    let missing = desired.referrers.difference(&present.manifests);
    let adds = missing.map(|digest| Step::Add { digest: digest.clone() });
    let held_back = move |step: Step| match step {
        Step::Set { tag, .. } | Step::Remove { tag, .. } if present.waiting.contains(&tag) => {
            Step::HoldBack { tag }
        }
        free => free,
    };
    removals.chain(sets).chain(adds).map(held_back)
}

/// What is to be done with whole repositories.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Repositories {
    /// Make them like the parent's.
    pub reconcile: BTreeSet<RepositoryName>,
    /// Remove them: they are not granted any more, and this node is a mirror.
    pub purge: BTreeSet<RepositoryName>,
}

/// Sorts the repositories of both sides. A ReadWrite node keeps what is not granted any more.
pub fn repositories(
    scope: &Scope,
    mode: Mode,
    at_parent: BTreeSet<RepositoryName>,
    here: &BTreeSet<RepositoryName>,
) -> Repositories {
    let mut plan = Repositories::default();
    for repository in at_parent.into_iter().chain(here.iter().cloned()) {
        if scope.covers(&repository) {
            plan.reconcile.insert(repository);
        } else if mode == Mode::ReadOnly && here.contains(&repository) {
            plan.purge.insert(repository);
        }
    }
    plan
}

/// Why a tag does not name at the parent what a change of it begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// It names what the change wants.
    AsWanted,
    /// Nobody else did: this node left it so by an attempt of which it did not hear, or because a
    /// removal of a manifest has or has not reached the parent, or the parent has lost it. Or what
    /// it names was removed here, and goes there soon with all its tags.
    ByUs,
    /// Somebody else moved it.
    ByOthers,
}

/// Who has moved a tag that names `there` at the parent. `deleted`: manifests of the repository
/// whose removal the parent has not confirmed. `goes`: that of `there` is on its way to the parent.
/// `lost`: the parent may have lost what it had.
pub fn moved(
    entry: &OutboxEntry,
    there: Option<&Digest>,
    deleted: &BTreeSet<Digest>,
    goes: bool,
    lost: bool,
) -> Moved {
    let OutboxChange::Tag { base, digest, .. } = &entry.change else {
        return Moved::ByOthers;
    };
    let (base, digest) = (base.as_ref(), digest.as_ref());
    let unheard = entry.unheard.iter().any(|state| state.as_ref() == there);
    // With a manifest its tags go: the parent may have done that already.
    let went = there.is_none() && (lost || base.is_some_and(|base| deleted.contains(base)));
    match there {
        there if there == digest => Moved::AsWanted,
        // It was moved, and back, between the two questions.
        there if there == base => Moved::ByUs,
        _ if unheard || went || goes => Moved::ByUs,
        _ => Moved::ByOthers,
    }
}

/// Sorts work so that what completes soonest comes first.
pub fn cheapest_first<T>(mut work: Vec<(u64, T)>) -> Vec<T> {
    work.sort_by_key(|(bytes, _)| *bytes);
    work.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::replica::node::testing::map;
    use crate::types::digest::Algorithm;
    use crate::types::{Offered, OutboxId};

    fn digest(number: u8) -> Digest {
        Digest::from_raw(Algorithm::Sha256, &[number; 32]).unwrap()
    }

    fn tags(list: &[(&str, u8)]) -> BTreeMap<Tag, Digest> {
        list.iter().map(|(tag, number)| (tag.parse().unwrap(), digest(*number))).collect()
    }

    #[test]
    fn f119_moves_removals_and_referrers_are_followed() {
        let desired = Desired {
            tags: tags(&[("same", 1), ("moved", 2), ("new", 3), ("ours", 4)]),
            referrers: [digest(7), digest(8)].into(),
            partial: false,
            at: None,
        };
        let present = Present {
            tags: tags(&[("same", 1), ("moved", 9), ("gone", 9), ("ours", 5), ("pushed", 6)]),
            manifests: [digest(7)].into(),
            waiting: ["ours", "pushed"].map(|tag| tag.parse().unwrap()).into(),
        };
        let expected = [
            Step::Remove { tag: "gone".parse().unwrap(), base: digest(9) },
            Step::HoldBack { tag: "pushed".parse().unwrap() },
            Step::Set { tag: "moved".parse().unwrap(), digest: digest(2), base: Some(digest(9)) },
            Step::Set { tag: "new".parse().unwrap(), digest: digest(3), base: None },
            Step::HoldBack { tag: "ours".parse().unwrap() },
            Step::Add { digest: digest(8) },
        ];
        assert_eq!(plan(&desired, &present).collect::<Vec<_>>(), expected);
        // A parent that is still filling up has deleted nothing.
        let partial = Desired { partial: true, ..desired };
        assert_eq!(plan(&partial, &present).collect::<Vec<_>>(), expected[2..]);
    }

    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do() {
        let (tags_there, referrers) = (tags(&[("a", 1), ("b", 2)]), [digest(3)].into());
        let desired = Desired { tags: tags_there, referrers, partial: false, at: None };
        let mut present = Present { tags: tags(&[("b", 9), ("c", 9)]), ..Present::default() };
        let steps: Vec<Step> = plan(&desired, &present).collect();
        for step in steps {
            match step {
                Step::Set { tag, digest, base } => {
                    assert_eq!(present.tags.insert(tag, digest), base);
                }
                Step::Add { digest } => assert!(present.manifests.insert(digest)),
                Step::Remove { tag, base } => assert_eq!(present.tags.remove(&tag), Some(base)),
                Step::HoldBack { tag } => panic!("nothing of {tag} waits"),
            }
        }
        assert_eq!(plan(&desired, &present).next(), None);
    }

    #[test]
    fn f118_a_mirror_purges_what_is_not_granted_any_more() {
        let scope = Scope::of_map(&map("maps1", &["repositories/team/*/content/read"]));
        let names = |list: &[&str]| -> BTreeSet<RepositoryName> {
            list.iter().map(|name| name.parse().unwrap()).collect()
        };
        for (mode, purge) in [(Mode::ReadOnly, &["old"][..]), (Mode::ReadWrite, &[])] {
            let (at_parent, here) = (names(&["team/a", "other"]), names(&["team/b", "old"]));
            let plan = repositories(&scope, mode, at_parent, &here);
            assert_eq!(plan.reconcile, names(&["team/a", "team/b"]));
            assert_eq!(plan.purge, names(purge), "{mode}");
        }
    }

    #[test]
    fn f130_a_tag_that_is_not_where_its_change_begins_was_moved_by_us_or_by_others() {
        let change = |base: u8, wanted: u8, unheard: &[u8]| {
            let state = |number: u8| (number > 0).then(|| digest(number));
            let tag = "v1".parse().unwrap();
            let change = OutboxChange::Tag { tag, base: state(base), digest: state(wanted) };
            let id = OutboxId { origin: "dock01".parse().unwrap(), incarnation: 1, sequence: 7 };
            let unheard = unheard.iter().map(|number| state(*number)).collect();
            OutboxEntry {
                id,
                repository: "app".parse().unwrap(),
                change,
                unheard,
                offered: Offered::No,
                instead_of: vec![],
            }
        };
        // From 1 to 2; 3 was attempted before; 0 is no tag. The manifest that the parent may yet
        // have, or have no more; whether it may have lost something; what the tag names there. What
        // is deleted is on its way there, unless the parent has refused that: see below.
        for (base, wanted, unheard, deleted, lost, there, expected) in [
            (1, 2, &[][..], &[][..], false, 2, Moved::AsWanted),
            (1, 2, &[], &[], false, 1, Moved::ByUs),
            (1, 2, &[], &[], false, 3, Moved::ByOthers),
            (1, 2, &[], &[], false, 0, Moved::ByOthers),
            (1, 2, &[3], &[], false, 3, Moved::ByUs),
            (1, 2, &[3], &[], false, 4, Moved::ByOthers),
            (1, 2, &[3], &[], false, 0, Moved::ByOthers),
            (1, 2, &[3, 0], &[], false, 0, Moved::ByUs),
            (1, 2, &[], &[1], false, 0, Moved::ByUs),
            (1, 2, &[], &[3], false, 0, Moved::ByOthers),
            (1, 2, &[], &[3], false, 3, Moved::ByUs),
            (1, 2, &[], &[3], false, 4, Moved::ByOthers),
            (0, 2, &[], &[1], false, 1, Moved::ByUs),
            (0, 2, &[], &[], false, 1, Moved::ByOthers),
            (0, 0, &[1], &[], false, 1, Moved::ByUs),
            (0, 0, &[1], &[], false, 0, Moved::AsWanted),
            (1, 0, &[], &[], false, 2, Moved::ByOthers),
            (1, 2, &[], &[], true, 0, Moved::ByUs),
            (1, 2, &[], &[], true, 3, Moved::ByOthers),
        ] {
            let entry = change(base, wanted, unheard);
            let deleted: BTreeSet<_> = deleted.iter().map(|number| digest(*number)).collect();
            let at_parent = (there > 0).then(|| digest(there));
            let goes = at_parent.as_ref().is_some_and(|there| deleted.contains(there));
            let found = moved(&entry, at_parent.as_ref(), &deleted, goes, lost);
            assert_eq!(found, expected, "{entry} {unheard:?} {deleted:?} {lost} {there}");
        }
        // A removal that the parent has refused takes nothing along.
        let refused =
            moved(&change(1, 2, &[]), Some(&digest(3)), &[digest(3)].into(), false, false);
        assert_eq!(refused, Moved::ByOthers);
        let added = OutboxChange::ManifestAdded { digest: digest(1) };
        let entry = OutboxEntry { change: added, ..change(1, 2, &[]) };
        let found = moved(&entry, Some(&digest(1)), &BTreeSet::new(), false, false);
        assert_eq!(found, Moved::ByOthers);
    }

    #[test]
    fn the_smallest_comes_first() {
        assert_eq!(
            cheapest_first(vec![(5, "c"), (0, "a"), (2, "b"), (5, "d")]),
            ["a", "b", "c", "d"]
        );
    }
}

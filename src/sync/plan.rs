//! What to do about the difference between what the parent has and what is here: pure functions.

use std::collections::{BTreeMap, BTreeSet};

use crate::gateway::feed::Scope;
use crate::store::replica::outbox::{OutboxChange, OutboxEntry};
use crate::types::{Digest, Mode, RepositoryName, Tag};

/// Tags and what they name.
pub type Tags = BTreeMap<Tag, Digest>;

/// Tags of a repository behind some tag, in their order, as one side tells of them.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// What it tells.
    pub of: T,
    /// The last tag that it tells of; `None` where it tells of all.
    pub end: Option<Tag>,
}

/// The tags of a repository from one up to another one, at the parent and here.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// At the parent.
    pub there: Tags,
    /// Here.
    pub here: Tags,
    /// The last tag that it tells of; `None` where it tells of all.
    pub end: Option<Tag>,
    /// What was on its way up before the parent was asked.
    before: Waiting,
}

/// Changes of this node on their way up, at some moment.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Tags of the repository that they are about.
    pub tags: Page<BTreeSet<Tag>>,
    /// The number of the last change that was made, of any repository.
    pub last: u64,
}

impl Stretch {
    /// As much behind `after` as all of these tell of.
    pub fn new(
        after: Option<&Tag>,
        there: Page<Tags>,
        here: Page<Tags>,
        mut before: Waiting,
    ) -> Stretch {
        let end = [there.end, here.end, before.tags.end.take()].into_iter().flatten().min();
        let is_in = |tag: &Tag| {
            after.is_none_or(|after| tag > after) && end.as_ref().is_none_or(|end| tag <= end)
        };
        let (mut there, mut here) = (there.of, here.of);
        there.retain(|tag, _| is_in(tag));
        here.retain(|tag, _| is_in(tag));
        before.tags.of.retain(is_in);
        Stretch { there, here, end, before }
    }

    /// Tags that the parent does not have, and what they name here.
    pub fn unknown_there(&self) -> impl Iterator<Item = (&Tag, &Digest)> {
        self.here.iter().filter(|(tag, _)| !self.there.contains_key(tag))
    }

    /// Tags that do not name here what they name at the parent: what that is, and what they name
    /// here.
    pub fn different(&self) -> impl Iterator<Item = (&Tag, &Digest, Option<&Digest>)> {
        let all = self.there.iter().map(|(tag, digest)| (tag, digest, self.here.get(tag)));
        all.filter(|(_, digest, here)| *here != Some(digest))
    }

    /// Whether the parent may have heard of a change of a tag only after it told what the tag
    /// names: of one that waited before, or that was made since. `last`: the number of the last
    /// change by now.
    pub fn is_old(&self, tag: &Tag, last: u64) -> bool {
        last != self.before.last || self.before.tags.of.contains(tag)
    }
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

/// What is known of something that is here and that the parent lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lacked {
    /// The parent is another one than before, or was set back, and the repository was not compared
    /// with it yet: it may have lost whatever it lacks.
    pub is_new_parent: bool,
    /// A comparison has found that the parent lost it, and the parent has not had it since.
    pub is_kept: bool,
    /// The parent has told of its removal since this node met it, as far as that is remembered.
    pub is_told: bool,
}

/// What becomes of something that is here and that the parent lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The parent has removed it: it goes.
    Goes,
    /// The parent has lost it: it is offered.
    Rises,
    /// The parent has lost it, and this node may not push it: it is kept.
    Stays,
}

impl Lacked {
    /// Whether the parent may have lost it. What the parent tells counts before anything else: it
    /// has had what it removes.
    pub fn may_be_lost(self) -> bool {
        !self.is_told && (self.is_new_parent || self.is_kept)
    }

    /// What becomes of it, where this node may push to the repository or not.
    ///
    /// | new parent | kept | told | may push | fate  |
    /// |------------|------|------|----------|-------|
    /// | any        | any  | yes  | any      | goes  |
    /// | no         | no   | no   | any      | goes  |
    /// | yes        | any  | no   | yes      | rises |
    /// | no         | yes  | no   | yes      | rises |
    /// | yes        | any  | no   | no       | stays |
    /// | no         | yes  | no   | no       | stays |
    pub fn fate(self, may_push: bool) -> Fate {
        match (self.may_be_lost(), may_push) {
            (false, _) => Fate::Goes,
            (true, true) => Fate::Rises,
            (true, false) => Fate::Stays,
        }
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

    fn tags(list: &[(&str, u8)]) -> Tags {
        list.iter().map(|(tag, number)| (tag.parse().unwrap(), digest(*number))).collect()
    }

    fn names(list: &[&str]) -> BTreeSet<Tag> {
        list.iter().map(|tag| tag.parse().unwrap()).collect()
    }

    fn all<T>(of: T) -> Page<T> {
        Page { of, end: None }
    }

    #[test]
    fn f119_differences_are_found_and_what_may_be_older_than_a_change_is_asked_for() {
        let there = tags(&[("same", 1), ("moved", 2), ("new", 3)]);
        let here = tags(&[("same", 1), ("moved", 9), ("gone", 8)]);
        let waiting = Waiting { tags: all(names(&["moved"])), last: 5 };
        let stretch = Stretch::new(None, all(there), all(here), waiting);
        let (moved, new, gone) = (names(&["moved"]), names(&["new"]), names(&["gone"]));
        let [moved, new, gone] = [&moved, &new, &gone].map(|tags| tags.first().unwrap());
        let expected = [(moved, &digest(2), Some(&digest(9))), (new, &digest(3), None)];
        assert_eq!(stretch.different().collect::<Vec<_>>(), expected);
        assert_eq!(stretch.unknown_there().collect::<Vec<_>>(), [(gone, &digest(8))]);
        assert_eq!([moved, new].map(|tag| stretch.is_old(tag, 5)), [true, false]);
        assert_eq!([moved, new].map(|tag| stretch.is_old(tag, 6)), [true, true]);
    }

    /// What a side tells of its tags behind one: `max` of them at most.
    fn page(all: &Tags, after: Option<&Tag>, max: usize) -> Page<Tags> {
        let behind = all.iter().filter(|(tag, _)| after.is_none_or(|after| *tag > after));
        let of: Tags =
            behind.take(max).map(|(tag, digest)| (tag.clone(), digest.clone())).collect();
        let end = of.last_key_value().filter(|_| of.len() == max).map(|(tag, _)| tag.clone());
        Page { of, end }
    }

    /// All ways to have or not to have three tags on each of three sides, with pages of any size.
    #[test]
    fn f119_stretches_tell_of_each_tag_once_whatever_the_sides_have() {
        let side = |mask: u32, number: u8| -> Tags {
            let named = (0..3).filter(|bit| mask & 1 << bit != 0);
            named.map(|bit| (format!("t{bit}").parse().unwrap(), digest(number))).collect()
        };
        for masks in 0..1 << 9 {
            let there = side(masks, 1);
            let here = side(masks >> 3, 2);
            let waited = side(masks >> 6, 3);
            for sizes in 0..27 {
                let [first, second, third] = [1, 3, 9].map(|size| sizes / size % 3 + 1);
                let (mut after, mut found) = (None, (Tags::new(), Tags::new(), BTreeSet::new()));
                loop {
                    let waiting = page(&waited, after.as_ref(), third);
                    let waiting = Page { of: waiting.of.into_keys().collect(), end: waiting.end };
                    let waiting = Waiting { tags: waiting, last: 0 };
                    let there = page(&there, after.as_ref(), first);
                    let here = page(&here, after.as_ref(), second);
                    let mut next = Stretch::new(after.as_ref(), there, here, waiting);
                    let before = found.0.len() + found.1.len() + found.2.len();
                    let more = next.there.len() + next.here.len() + next.before.tags.of.len();
                    found.0.append(&mut next.there);
                    found.1.append(&mut next.here);
                    found.2.append(&mut next.before.tags.of);
                    let now = found.0.len() + found.1.len() + found.2.len();
                    assert_eq!(now, before + more, "{masks} {sizes}");
                    assert!(next.end.is_none() || next.end > after, "{masks} {sizes}");
                    after = next.end;
                    if after.is_none() {
                        break;
                    }
                }
                let waited: BTreeSet<Tag> = waited.keys().cloned().collect();
                assert_eq!(found, (there.clone(), here.clone(), waited), "{masks} {sizes}");
            }
        }
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
                anew: false,
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

    /// Each line of the table, with what `any` stands for in it.
    #[test]
    fn f201_what_the_parent_lacks_goes_rises_or_stays() {
        let mut found = [0; 3];
        for mask in 0..1 << 4 {
            let [is_new_parent, is_kept, is_told, may_push] =
                [1, 2, 4, 8].map(|bit| mask & bit != 0);
            let lacked = Lacked { is_new_parent, is_kept, is_told };
            let expected = match (is_new_parent, is_kept, is_told, may_push) {
                (_, _, true, _) | (false, false, false, _) => Fate::Goes,
                (true, _, false, true) | (false, true, false, true) => Fate::Rises,
                (true, _, false, false) | (false, true, false, false) => Fate::Stays,
            };
            assert_eq!(lacked.fate(may_push), expected, "{lacked:?} {may_push}");
            found[expected as usize] += 1;
        }
        assert_eq!(found, [10, 3, 3]);
    }

    #[test]
    fn the_smallest_comes_first() {
        assert_eq!(
            cheapest_first(vec![(5, "c"), (0, "a"), (2, "b"), (5, "d")]),
            ["a", "b", "c", "d"]
        );
    }
}

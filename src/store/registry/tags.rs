//! Tags: movable names of manifests, switched under a precondition.

use crate::store::replica::delivered::{self, Effect};
use crate::store::replica::heard;
use crate::store::replica::offers;
use crate::store::replica::outbox::{self, Origin, OutboxChange};
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::name_at;
use crate::store::rows::node::{Fact, withheld_tag_key};
use crate::store::rows::tag::{TagRow, conflict_key, tag_key};
use crate::store::rows::untagged::{Untagged, untagged_key};
use crate::store::rows::{Kind, key, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::{Digest, RepositoryName, Tag, UnixSeconds};

/// What a tag must name for a change of it to be made (RFC 9110, section 13.1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Precondition {
    /// Anything.
    #[default]
    None,
    /// Nothing: `If-None-Match: *`.
    Absent,
    /// Something: `If-Match: *`.
    Present,
    /// This: `If-Match: "<digest>"`.
    Is(Digest),
}

impl Precondition {
    /// What the tag must name, if it is one digest.
    fn named(self) -> Option<Digest> {
        match self {
            Precondition::Is(digest) => Some(digest),
            Precondition::None | Precondition::Absent | Precondition::Present => None,
        }
    }

    /// Fails with `Conflict` unless the tag names what it must.
    fn check(&self, tag: &Tag, current: Option<&Digest>) -> Result<(), StoreError> {
        let holds = match self {
            Precondition::None => true,
            Precondition::Absent => current.is_none(),
            Precondition::Present => current.is_some(),
            Precondition::Is(digest) => current == Some(digest),
        };
        if holds {
            return Ok(());
        }
        Err(StoreError::Conflict(match current {
            Some(digest) => format!("the precondition fails: tag {tag} names {digest}"),
            None => format!("the precondition fails: tag {tag} does not exist"),
        }))
    }
}

impl Store {
    /// What a tag names.
    pub fn tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Digest>, StoreError> {
        Ok(self.tag_row(repository, tag)?.map(|row| row.digest))
    }

    /// `Conflict` unless a tag names what it must.
    pub fn check_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        precondition: &Precondition,
    ) -> Result<(), StoreError> {
        precondition.check(tag, self.tag(repository, tag)?.as_ref())
    }

    /// A tag with its times.
    pub fn tag_row(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<TagRow>, StoreError> {
        self.get(&tag_key(repository, tag))
    }

    /// Tags greater than `after`, in lexical order, at most `limit`.
    pub fn tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Tag, TagRow)>, StoreError> {
        let name = repository.as_str().as_bytes();
        let start = prefix(Kind::Tag, &[name]);
        let after = after.map(|tag| key(Kind::Tag, &[name, tag.as_bytes()]));
        let rows = self.scan::<TagRow>(&start, after.as_deref(), limit)?;
        rows.into_iter().map(|(key, row)| Ok((name_at(&key, start.len())?, row))).collect()
    }

    /// Sets or moves a tag. `NotFound` when the manifest is not in the repository, `Conflict` when
    /// the precondition does not hold.
    pub async fn set_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
        precondition: Precondition,
        origin: &Origin,
    ) -> Result<(), StoreError> {
        let now = self.sys().clock.wall_or_floor();
        let (repository, tag) = (repository.clone(), tag.clone());
        let (digest, origin) = (digest.clone(), origin.clone());
        self.commit(move |txn| {
            let effect = Effect::Tag(tag.clone(), Some(digest.clone()));
            if delivered::is_replay(txn, &origin, &repository, &effect)? {
                return Ok(());
            }
            outbox::refuse_held(txn, &origin, &repository, &tag, Some(&digest))?;
            if txn.get::<ManifestRow>(&manifest_key(&repository, &digest))?.is_none() {
                return Err(StoreError::NotFound);
            }
            switch(txn, &repository, &tag, &digest, &precondition, &origin, now)?;
            delivered::record(txn, &origin, &repository)?;
            if origin == Origin::Parent { heard::note_taken(txn) } else { Ok(()) }
        })
        .await
    }

    /// Removes a tag and returns what it named; `None` when a child's delivery finds it gone, which
    /// is what it wants: it goes on to the parent. `NotFound` when there is none, `Conflict` when
    /// the precondition does not hold.
    pub async fn delete_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        precondition: Precondition,
        origin: &Origin,
    ) -> Result<Option<Digest>, StoreError> {
        let (repository, tag, origin) = (repository.clone(), tag.clone(), origin.clone());
        self.commit(move |txn| {
            let effect = Effect::Tag(tag.clone(), None);
            if delivered::is_replay(txn, &origin, &repository, &effect)? {
                return Ok(None);
            }
            outbox::refuse_held(txn, &origin, &repository, &tag, None)?;
            let current = txn.get::<TagRow>(&tag_key(&repository, &tag))?.map(|row| row.digest);
            if current.is_none() && matches!(origin, Origin::Child(_)) {
                delivered::record_only(txn, &origin, &repository)?;
                // The parent may have what this node has not got yet.
                let base = precondition.named();
                let change = OutboxChange::Tag { tag, base, digest: None };
                outbox::enqueue(txn, &origin, &repository, change)?;
                return Ok(None);
            }
            precondition.check(&tag, current.as_ref())?;
            let Some(base) = current else {
                return Err(StoreError::NotFound);
            };
            delivered::record(txn, &origin, &repository)?;
            remove(txn, &repository, &tag)?;
            let change = OutboxChange::Tag { tag, base: Some(base.clone()), digest: None };
            outbox::enqueue(txn, &origin, &repository, change)?;
            if origin == Origin::Parent {
                heard::note_taken(txn)?;
            }
            Ok(Some(base))
        })
        .await
    }
}

/// Removes a tag and, if it came of a conflict, the note of that: the conflict is dealt with.
pub(in crate::store) fn remove(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    tag: &Tag,
) -> Result<(), StoreError> {
    // These notes do not hold for a tag of this name that comes later.
    for note in [conflict_key(repository, tag), withheld_tag_key(repository, tag)] {
        if txn.get::<Fact>(&note)?.is_some() {
            txn.delete(note)?;
        }
    }
    txn.delete(tag_key(repository, tag))
}

/// Makes a tag name a manifest that exists. A delivery of a child that wants what is already so
/// needs no precondition: both sides agree. What is already so goes up all the same: the parent may
/// have moved the tag, and not told yet.
pub(in crate::store) fn switch(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    tag: &Tag,
    digest: &Digest,
    precondition: &Precondition,
    origin: &Origin,
    now: UnixSeconds,
) -> Result<(), StoreError> {
    let key = tag_key(repository, tag);
    let old = txn.get::<TagRow>(&key)?;
    if old.is_none() {
        txn.expect_rows()?;
    }
    let current = old.as_ref().map(|row| &row.digest);
    let same = current == Some(digest);
    let pushed = outbox::is_from_below(txn, origin)?;
    if !(same && matches!(origin, Origin::Child(_))) {
        precondition.check(tag, current)?;
    }
    let change = OutboxChange::Tag {
        tag: tag.clone(),
        base: current.cloned(),
        digest: Some(digest.clone()),
    };
    if *origin == Origin::Parent {
        offers::is_at_parent(txn, repository, Some(tag), digest)?;
    }
    let row = match old {
        // An echo of the parent leaves it as pushed as it was.
        Some(old) if same => TagRow { from_below: old.from_below || pushed, ..old },
        old => {
            let created = old.map_or(now, |row| row.created);
            TagRow { digest: digest.clone(), created, updated: now, from_below: pushed }
        }
    };
    txn.put_changed(key, &row)?;
    forget_untagged(txn, repository, digest)?;
    outbox::enqueue(txn, origin, repository, change)
}

/// Forgets since when a manifest has no tag: one names it now, it was pushed again, or it goes.
pub(in crate::store) fn forget_untagged(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<(), StoreError> {
    let key = untagged_key(repository, digest);
    if txn.get::<Untagged>(&key)?.is_some() {
        txn.delete(key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::manifests::testing::*;
    use super::*;
    use crate::store::replica::node::testing::connected;
    use crate::store::{PutManifest, PutOutcome};
    use crate::types::{Delivery, Offered};

    #[test]
    fn f155_tags_are_listed_in_lexical_pages() {
        smol::block_on(async {
            let store = store();
            push(&store, "a", 1, &["v10", "v2", "V1", "latest", "_x"]).await;
            push(&store, "a/b", 1, &["other"]).await;
            let tags = |after, limit| {
                let tags = store.tags(&"a".parse().unwrap(), after, limit).unwrap();
                tags.iter().map(|(tag, _)| tag.to_string()).collect::<Vec<_>>()
            };
            assert_eq!(tags(None, 9), ["V1", "_x", "latest", "v10", "v2"]);
            assert_eq!(tags(Some("_x"), 2), ["latest", "v10"]);
            assert_eq!(tags(Some("no such tag"), 9), ["v10", "v2"]);
            assert_eq!(tags(Some("v2"), 9), Vec::<String>::new());
        });
    }

    #[test]
    fn tags_move_under_their_precondition() {
        smol::block_on(async {
            let store = store();
            let (a, tag) = ("a".parse().unwrap(), "v1".parse().unwrap());
            for number in 1..=2 {
                push(&store, "a", number, &[]).await;
            }
            let set = async |number, precondition| {
                store.set_tag(&a, &tag, &digest(number), precondition, &Origin::Client).await
            };
            let conflict = |result: Result<(), StoreError>| {
                assert!(matches!(result, Err(StoreError::Conflict(_))), "{result:?}");
            };
            assert_eq!(set(9, Precondition::None).await, Err(StoreError::NotFound));
            conflict(set(1, Precondition::Present).await);
            conflict(set(1, Precondition::Is(digest(1))).await);
            set(1, Precondition::Absent).await.unwrap();
            conflict(set(2, Precondition::Absent).await);
            conflict(set(2, Precondition::Is(digest(2))).await);
            set(2, Precondition::Is(digest(1))).await.unwrap();
            assert_eq!(store.tag(&a, &tag).unwrap(), Some(digest(2)));
            let delete = async |precondition| {
                store.delete_tag(&a, &tag, precondition, &Origin::Client).await
            };
            assert!(delete(Precondition::Is(digest(1))).await.is_err());
            assert_eq!(delete(Precondition::Present).await, Ok(Some(digest(2))));
            assert_eq!(delete(Precondition::None).await, Err(StoreError::NotFound));
        });
    }

    #[test]
    fn a_delivery_that_comes_again_has_no_second_effect() {
        smol::block_on(async {
            let store = store();
            let (a, tag): (RepositoryName, Tag) = ("a".parse().unwrap(), "v1".parse().unwrap());
            for number in 1..=3 {
                push(&store, "a", number, &[]).await;
            }
            let absent = Precondition::Absent;
            store.set_tag(&a, &tag, &digest(1), absent.clone(), &child(7)).await.unwrap();
            // The answer was lost; meanwhile someone else moved the tag.
            store.set_tag(&a, &tag, &digest(2), Precondition::None, &Origin::Client).await.unwrap();
            let again = store.set_tag(&a, &tag, &digest(1), absent.clone(), &child(7)).await;
            assert!(matches!(again, Err(StoreError::OutboxMismatch(_))), "{again:?}");
            assert_eq!(store.tag(&a, &tag).unwrap(), Some(digest(2)));
            // A refused delivery is not recorded as done.
            assert!(store.set_tag(&a, &tag, &digest(3), absent, &child(8)).await.is_err());
            let base = Precondition::Is(digest(2));
            store.set_tag(&a, &tag, &digest(3), base, &child(8)).await.unwrap();
            assert_eq!(store.tag(&a, &tag).unwrap(), Some(digest(3)));
            // Both sides agree already: no conflict.
            let stale = Precondition::Is(digest(1));
            store.set_tag(&a, &tag, &digest(3), stale, &child(9)).await.unwrap();
            let gone = Precondition::Is(digest(3));
            assert!(store.delete_tag(&a, &tag, gone.clone(), &child(10)).await.unwrap().is_some());
            assert_eq!(store.delete_tag(&a, &tag, gone.clone(), &child(10)).await, Ok(None));
            assert_eq!(store.delete_tag(&a, &tag, gone, &child(11)).await, Ok(None));
        });
    }

    #[test]
    fn f033_f121_a_childs_removal_of_a_tag_that_is_not_here_goes_up() {
        smol::block_on(async {
            let store = connected().await;
            let (a, tag): (RepositoryName, Tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
            let change = |base| OutboxChange::Tag { tag: tag.clone(), base, digest: None };
            for (sequence, precondition, base) in
                [(7, Precondition::Is(digest(1)), Some(digest(1))), (8, Precondition::Absent, None)]
            {
                for _answer_lost in [true, false] {
                    let precondition = precondition.clone();
                    let gone = store.delete_tag(&a, &tag, precondition, &child(sequence)).await;
                    assert_eq!(gone, Ok(None));
                }
                let last =
                    store.outbox(9).unwrap().pop().map(|(_, entry)| (entry.id, entry.change));
                let Origin::Child(delivery) = child(sequence) else { unreachable!() };
                assert_eq!(last, Some((delivery.id, change(base))));
            }
            assert_eq!(store.outbox(9).unwrap().len(), 2);
            // Until the parent has answered, what it has does not come back.
            push(&store, "app", 1, &[]).await;
            let any = Precondition::None;
            let set = store.set_tag(&a, &tag, &digest(1), any, &Origin::Parent).await;
            assert!(matches!(set, Err(StoreError::Conflict(_))), "{set:?}");
        });
    }

    /// A root has no parent that could know better.
    #[test]
    fn f201_a_connected_registry_knows_what_was_last_set_by_a_client_or_from_below() {
        smol::block_on(async {
            let offer = |sequence, offered| match child(sequence) {
                Origin::Child(delivery) => Origin::Child(Delivery { offered, ..delivery }),
                other => other,
            };
            for (is_root, store) in [(false, connected().await), (true, store())] {
                let (app, tag): (RepositoryName, Tag) =
                    ("app".parse().unwrap(), "v1".parse().unwrap());
                let from_below = |number| {
                    let row = store.manifest(&app, &digest(number)).unwrap().unwrap();
                    (store.tag_row(&app, &tag).unwrap().unwrap().from_below, row.from_below)
                };
                push(&store, "app", 9, &[]).await;
                for (number, origin, expected) in [
                    (1, Origin::Parent, (false, false)),
                    (2, Origin::Client, (true, true)),
                    (2, Origin::Parent, (true, true)),
                    (2, offer(1, Offered::Mirrored), (true, true)),
                    (1, Origin::Parent, (false, false)),
                    (2, Origin::Parent, (false, true)),
                    (2, offer(2, Offered::No), (true, true)),
                    (3, offer(3, Offered::Mirrored), (false, false)),
                    (3, offer(4, Offered::Pushed), (true, true)),
                ] {
                    for (waiting, _) in store.outbox(9).unwrap() {
                        store.outbox_delivered(waiting, 0).await.unwrap();
                    }
                    let what = format!("{number} {origin:?}");
                    let put = PutManifest { origin, ..image(number, &["v1"]) };
                    assert_eq!(store.put_manifest(&app, put).await, Ok(PutOutcome::Stored));
                    let expected = if is_root { (false, false) } else { expected };
                    assert_eq!(from_below(number), expected, "{what}");
                }
            }
        });
    }
}

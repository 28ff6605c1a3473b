//! Changes made here that the parent has yet to take: written in the same record as the change
//! itself, so that none is ever lost, and delivered in order, those of each repository by itself.

use std::collections::BTreeSet;

use super::own::own_name;
use super::{along, heard, waiting};
use crate::store::rows::derived::{
    About, Count, waiting_about, waiting_name, waiting_removals, waiting_tags,
};
use crate::store::rows::node::{Fact, offered_key, self_config_key};
use crate::store::rows::outbox::{LastOutbox, counter_key, entry_key, number_of, remember};
pub use crate::store::rows::outbox::{OutboxChange, OutboxEntry};
use crate::store::rows::refused::{RefusedChange, refused_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::{
    ConnectedRegistryName, Delivery, Digest, Offered, OutboxId, RepositoryName, Tag,
};

/// Who made a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A client of this node: on a connected registry the change goes up.
    Client,
    /// A child delivered it: on a connected registry it goes up too.
    Child(Delivery),
    /// It came from the parent: it does not go back.
    Parent,
}

impl Store {
    /// The last number that a change got here.
    pub fn outbox_last(&self) -> Result<u64, StoreError> {
        Ok(self.get::<LastOutbox>(&counter_key())?.map_or(0, |last| last.0))
    }

    /// Changes on their way up, oldest first, each with its local number; at most `limit`.
    pub fn outbox(&self, limit: usize) -> Result<Vec<(u64, OutboxEntry)>, StoreError> {
        self.outbox_after(0, limit)
    }

    /// The same behind a number.
    pub fn outbox_after(
        &self,
        number: u64,
        limit: usize,
    ) -> Result<Vec<(u64, OutboxEntry)>, StoreError> {
        let (start, after) = (prefix(Kind::Outbox, &[]), entry_key(number));
        let rows = self.scan::<OutboxEntry>(&start, Some(&after), limit)?;
        rows.into_iter().map(|(key, entry)| Ok((number_of(&key)?, entry))).collect()
    }

    /// One change on its way up.
    pub fn outbox_entry(&self, number: u64) -> Result<Option<OutboxEntry>, StoreError> {
        self.get(&entry_key(number))
    }

    /// Whether a change of this tag is on its way up: the parent's moves of it are not shown then.
    pub fn outbox_holds_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<bool, StoreError> {
        let changes = waiting_about(repository, About::Tag(tag));
        Ok(!self.scan::<Count>(&changes, None, 1)?.is_empty())
    }

    /// Tags of a repository with changes on their way up, behind `after` in lexical order, and the
    /// last of them where there may be more: at most `limit` changes are read.
    pub fn outbox_tags(
        &self,
        repository: &RepositoryName,
        after: Option<&Tag>,
        limit: usize,
    ) -> Result<(BTreeSet<Tag>, Option<Tag>), StoreError> {
        let start = waiting_tags(repository);
        // Behind all changes of that tag, and before those of any that begins with it.
        let after = after.map(|tag| [&start[..], tag.as_str().as_bytes(), &[1]].concat());
        let rows = self.scan::<Count>(&start, after.as_deref(), limit)?;
        let tag = |key: &[u8]| {
            let name = waiting_name(key, start.len());
            std::str::from_utf8(name.strip_suffix(&[0])?).ok()?.parse().ok()
        };
        let tags: BTreeSet<Tag> = rows.iter().filter_map(|(key, _)| tag(key)).collect();
        let end = tags.last().filter(|_| rows.len() == limit).cloned();
        Ok((tags, end))
    }

    /// Removes a change that the parent has taken, and notes where the parent's feed was after it;
    /// 0: it does not tell. Whether the parent had refused the change before.
    pub async fn outbox_delivered(&self, number: u64, heard: u64) -> Result<bool, StoreError> {
        self.taken(number, move |txn| heard::note(txn, heard)).await
    }

    /// Removes a change that the parent has taken, with what else has to be in that record. Of the
    /// tags that went at the parent with a manifest, very many are noted before, some in each
    /// record: what a stop leaves is noted when the removal is delivered again.
    pub(super) async fn taken(
        &self,
        number: u64,
        also: impl Fn(&mut Txn<'_>) -> Result<(), StoreError> + Copy + Send + 'static,
    ) -> Result<bool, StoreError> {
        let mut after = None;
        loop {
            let from: Option<Vec<u8>> = after.take();
            let step = self.commit(move |txn| {
                along::after_removal(txn, number, from)?.map_or_else(
                    || {
                        also(txn)?;
                        Ok(Err(is_taken(txn, number)?))
                    },
                    |more| Ok(Ok(more)),
                )
            });
            match step.await? {
                Ok(more) => after = Some(more),
                Err(was_refused) => return Ok(was_refused),
            }
        }
    }

    /// Leaves out a change whose manifest was deleted since: of a tag, when the tag had moved on
    /// before, so that the change after it begins where this one did; of a manifest pushed by its
    /// digest, whose removal follows. `false`: the tag had not moved on.
    pub async fn outbox_skip(&self, number: u64) -> Result<bool, StoreError> {
        self.commit(move |txn| {
            let Some(entry) = txn.get::<OutboxEntry>(&entry_key(number))? else {
                return Ok(true);
            };
            if let OutboxChange::ManifestAdded { digest } = &entry.change {
                finish(txn, number)?;
                let removal = waiting::last_about(txn, &entry.repository, About::Deleted(digest))?;
                if let Some(removal) = removal
                    && let Some(mut last) = txn.get::<OutboxEntry>(&entry_key(removal))?
                {
                    last.stands_in(entry);
                    txn.put(entry_key(removal), &last)?;
                }
                return Ok(true);
            }
            let Some((next_number, mut next)) = next_beginning(txn, number, &entry)? else {
                return Ok(false);
            };
            next.stands_in(entry);
            txn.put(entry_key(next_number), &next)?;
            finish(txn, number)?;
            Ok(true)
        })
        .await
    }

    /// Lets a change of a tag begin with what the tag names at the parent by our own doing.
    pub async fn outbox_begins(
        &self,
        number: u64,
        there: Option<Digest>,
    ) -> Result<(), StoreError> {
        self.commit(move |txn| {
            let key = entry_key(number);
            let mut entry = txn.get::<OutboxEntry>(&key)?.ok_or(StoreError::NotFound)?;
            if let OutboxChange::Tag { base, .. } = &mut entry.change {
                *base = there;
                entry.unheard.clear();
                txn.put(key, &entry)?;
            }
            Ok(())
        })
        .await
    }

    /// Whether a change that waits brings this manifest up, by itself or with an index that needs
    /// it.
    pub fn outbox_brings(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        self.look_up(|index| waiting::brings(&Txn::new(index), repository, digest))
    }

    /// Manifests of a repository whose removal the parent has not confirmed: it may still have
    /// them, or not.
    pub async fn outbox_deletions(
        &self,
        repository: &RepositoryName,
    ) -> Result<BTreeSet<Digest>, StoreError> {
        let start = waiting_removals(repository);
        let rows = self.pages::<Count>(start.clone()).all().await?;
        let digest = |key: &[u8]| Digest::from_key(waiting_name(key, start.len()));
        Ok(rows.iter().filter_map(|(key, _)| digest(key)).collect())
    }
}

/// Has the change of a tag behind one that is to be dropped begin where this one did.
pub(super) fn begin_before(txn: &mut Txn<'_>, number: u64) -> Result<(), StoreError> {
    let Some(entry) = txn.get::<OutboxEntry>(&entry_key(number))? else {
        return Ok(());
    };
    match next_beginning(txn, number, &entry)? {
        Some((next_number, next)) => txn.put(entry_key(next_number), &next),
        None => Ok(()),
    }
}

/// Whether this node, `own`, gave a change its number since it was started: where it is not, the
/// parent may have had the change, in a state of this store that is lost. Asked in a command only.
pub(in crate::store) fn is_of_this_start(
    txn: &Txn<'_>,
    own: Option<&ConnectedRegistryName>,
    id: &OutboxId,
) -> bool {
    txn.counts().is_some_and(|counts| id.is_of(own, counts.incarnation()))
}

/// The parent has taken a change; whether it had refused it before.
fn is_taken(txn: &mut Txn<'_>, number: u64) -> Result<bool, StoreError> {
    let entry = txn.get::<OutboxEntry>(&entry_key(number))?;
    let was_refused = finish(txn, number)?;
    if let Some(OutboxEntry { repository, change: OutboxChange::ManifestDeleted { .. }, .. }) =
        &entry
    {
        along::note_removal(txn, repository)?;
    }
    // An offer may have been made in vain: everything is compared once all have been made.
    if entry.as_ref().is_some_and(|entry| entry.offered.is_offer()) {
        txn.put_changed(offered_key(), &Fact::Mark)?;
    }
    if let Some(OutboxEntry {
        repository,
        change: OutboxChange::Tag { tag, .. },
        offered: Offered::Mirrored | Offered::Pushed,
        ..
    }) = entry
    {
        may_begin_with_nothing(txn, &repository, &tag)?;
    }
    Ok(was_refused)
}

/// The change of a tag behind one that begins with what this one sets, as it would begin without
/// this one.
fn next_beginning(
    txn: &Txn<'_>,
    number: u64,
    entry: &OutboxEntry,
) -> Result<Option<(u64, OutboxEntry)>, StoreError> {
    let OutboxChange::Tag { tag, base, digest: Some(digest) } = &entry.change else {
        return Ok(None);
    };
    let next = waiting::next_of_tag(txn, &entry.repository, tag, Some(number))?;
    let Some((next_number, mut next)) = next else {
        return Ok(None);
    };
    let OutboxChange::Tag { base: begins, .. } = &mut next.change else {
        return Ok(None);
    };
    if begins.as_ref() != Some(digest) {
        return Ok(None);
    }
    begins.clone_from(base);
    let mut unheard = entry.attempted();
    next.unheard.into_iter().for_each(|state| remember(&mut unheard, state));
    next.unheard = unheard;
    Ok(Some((next_number, next)))
}

/// Whether changes of a tag wait. Notes of the oldest that the parent may have no such tag any
/// more, by nobody's doing.
pub(in crate::store) fn may_begin_with_nothing(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    tag: &Tag,
) -> Result<bool, StoreError> {
    let Some((number, mut entry)) = waiting::oldest_of_tag(txn, repository, tag)? else {
        return Ok(false);
    };
    remember(&mut entry.unheard, None);
    txn.put_changed(entry_key(number), &entry)?;
    Ok(true)
}

/// Takes a change out, whatever had become of it before; whether it had been refused.
pub(in crate::store) fn finish(txn: &mut Txn<'_>, number: u64) -> Result<bool, StoreError> {
    txn.delete(entry_key(number))?;
    let was_refused = txn.get::<RefusedChange>(&refused_key(number))?.is_some();
    if was_refused {
        txn.delete(refused_key(number))?;
    }
    Ok(was_refused)
}

/// Adds a change to the outbox when this node is a connected registry and the change is to go up.
/// Call it in the command that makes the change. A manifest that a client pushes by its digest
/// again waits once, behind what has come since; what waits for the first time, but for removals of
/// what is here, needs a row. What a child delivers has a name of the child's, which the parent may
/// know: it takes no client's place.
pub(in crate::store) fn enqueue(
    txn: &mut Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
    change: OutboxChange,
) -> Result<(), StoreError> {
    let before = match (origin, &change) {
        (Origin::Parent, _) => None,
        (_, OutboxChange::ManifestDeleted { digest }) => given_up(txn, repository, digest)?,
        (Origin::Client, _) => waiting::waits_already(txn, repository, &change)?,
        (Origin::Child(_), _) => None,
    };
    let Some((number, mut entry)) = append(txn, origin, repository, change)? else {
        return Ok(());
    };
    let Some(before) = before else {
        return if entry.brings().is_some() { txn.expect_rows() } else { Ok(()) };
    };
    if let Some(old) = txn.get::<OutboxEntry>(&entry_key(before))? {
        finish(txn, before)?;
        entry.stands_in(old);
        txn.put(entry_key(number), &entry)?;
    }
    Ok(())
}

/// The refused change that was to bring up by its digest a manifest that is deleted now. Others are
/// left out when it is their turn.
fn given_up(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Option<u64>, StoreError> {
    let Some(number) = waiting::last_about(txn, repository, About::Added(digest))? else {
        return Ok(None);
    };
    Ok(txn.has(&refused_key(number))?.then_some(number))
}

/// The same for an offer of this node's.
pub(in crate::store) fn enqueue_offer(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    change: OutboxChange,
    offered: Offered,
) -> Result<(), StoreError> {
    match append(txn, &Origin::Client, repository, change)? {
        Some((number, entry)) => txn.put(entry_key(number), &OutboxEntry { offered, ..entry }),
        None => Ok(()),
    }
}

/// Whether what a change sets is to be known as pushed here or further below: it is newer than what
/// the parent has deleted before. A root has no parent to be told that.
pub(in crate::store) fn is_from_below(txn: &Txn<'_>, origin: &Origin) -> Result<bool, StoreError> {
    let is_pushed = match origin {
        Origin::Client => true,
        Origin::Child(delivery) => delivery.offered != Offered::Mirrored,
        Origin::Parent => false,
    };
    Ok(is_pushed && goes_up(txn)?)
}

/// Whether this node has a parent, to which changes go up.
pub(super) fn goes_up(txn: &Txn<'_>) -> Result<bool, StoreError> {
    txn.has(&self_config_key())
}

/// The same as [`enqueue`]; the entry with its number.
fn append(
    txn: &mut Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
    change: OutboxChange,
) -> Result<Option<(u64, OutboxEntry)>, StoreError> {
    let (Some(own), false) = (own_name(txn)?, *origin == Origin::Parent) else {
        return Ok(None);
    };
    let unheard = match &change {
        OutboxChange::Tag { base: Some(_), digest: Some(_), .. }
            if along::is_removal_unheard(txn, repository)? =>
        {
            vec![None]
        }
        _ => vec![],
    };
    let (repository, is_late) = (repository.clone(), is_late_removal(origin, &change));
    let (id, offered, instead_of, anew) = match origin {
        Origin::Child(delivery) => {
            let Delivery { id, offered, instead_of, anew, .. } = delivery.clone();
            (id, offered, instead_of, anew)
        }
        Origin::Client | Origin::Parent => {
            (next_id(txn, own.clone(), &repository)?, Offered::No, Vec::new(), false)
        }
    };
    let mut entry = OutboxEntry { id, repository, change, unheard, offered, instead_of, anew };
    if is_late {
        let id = next_id(txn, own, &entry.repository)?;
        let ours = OutboxEntry { id, instead_of: Vec::new(), anew: true, ..entry.clone() };
        let of_child = std::mem::replace(&mut entry, ours);
        entry.stands_in(of_child);
    }
    let number = next_number(txn)?;
    txn.put(entry_key(number), &entry)?;
    Ok(Some((number, entry)))
}

/// The next of the names that this node, `own`, gives its changes.
pub(in crate::store) fn next_id(
    txn: &Txn<'_>,
    own: ConnectedRegistryName,
    repository: &RepositoryName,
) -> Result<OutboxId, StoreError> {
    let counts = txn.counts().ok_or(StoreError::Unavailable)?;
    let (incarnation, sequence) = counts.next(repository);
    Ok(OutboxId { origin: own, incarnation, sequence })
}

/// The next local number of a change; it is used from then on.
pub(in crate::store) fn next_number(txn: &mut Txn<'_>) -> Result<u64, StoreError> {
    let last = txn.get::<LastOutbox>(&counter_key())?.map_or(0, |last| last.0);
    let used_up = || StoreError::Invalid("the numbers of changes are used up".to_owned());
    let number = last.checked_add(1).ok_or_else(used_up)?;
    txn.put(counter_key(), &LastOutbox(number))?;
    Ok(number)
}

/// Whether a child removes a manifest later than others of its changes went up. It goes up under a
/// name of this node: under the child's the parent could not tell it from a removal that came
/// before a push.
fn is_late_removal(origin: &Origin, change: &OutboxChange) -> bool {
    let is_again = matches!(origin, Origin::Child(delivery) if delivery.again);
    is_again && matches!(change, OutboxChange::ManifestDeleted { .. })
}

/// `Conflict` for what comes from the parent while a change of the tag, or the removal of the
/// manifest that it shall name, is on its way up: the parent is yet to answer that.
pub(in crate::store) fn refuse_held(
    txn: &Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
    tag: &Tag,
    digest: Option<&Digest>,
) -> Result<(), StoreError> {
    if *origin != Origin::Parent {
        return Ok(());
    }
    let is_deleted = match digest {
        Some(digest) => waiting::waits(txn, repository, About::Deleted(digest))?,
        None => false,
    };
    if is_deleted || waiting::waits(txn, repository, About::Tag(tag))? {
        return Err(StoreError::Conflict(format!("a change of tag {tag} is on its way up")));
    }
    Ok(())
}

/// `Conflict` while the removal of a manifest is on its way up.
pub(in crate::store) fn refuse_deleted(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<(), StoreError> {
    if waiting::waits(txn, repository, About::Deleted(digest))? {
        return Err(StoreError::Conflict(format!("the removal of {digest} is on its way up")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::node::testing::{config, connected};
    use super::super::refused::Refused;
    use super::*;
    use crate::store::content::leases::Lease;
    use crate::store::registry::manifests::testing::{digest, image, push, store};
    use crate::store::{Precondition, PutManifest};

    fn waiting(store: &Store) -> Vec<(String, Option<Digest>)> {
        let entries = store.outbox(100).unwrap();
        let tags = entries.into_iter().filter_map(|(_, entry)| match entry.change {
            OutboxChange::Tag { tag, digest, .. } => Some((tag.to_string(), digest)),
            _ => None,
        });
        tags.collect()
    }

    #[test]
    fn f130_changes_wait_in_the_order_in_which_they_were_made() {
        smol::block_on(async {
            let store = connected().await;
            push(&store, "app", 1, &["v1"]).await;
            push(&store, "app", 2, &["v1", "v2"]).await;
            let (app, v1): (RepositoryName, Tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
            let expected = [("v1", 1), ("v1", 2), ("v2", 2)]
                .map(|(tag, number)| (tag.to_owned(), Some(digest(number))));
            assert_eq!(waiting(&store), expected);
            assert!(store.outbox_holds_tag(&app, &v1).unwrap());
            for _ in 0..2 {
                let (number, _) = store.outbox(1).unwrap().remove(0);
                store.outbox_delivered(number, 0).await.unwrap();
            }
            assert!(!store.outbox_holds_tag(&app, &v1).unwrap());
        });
    }

    #[test]
    fn f130_no_two_stores_give_a_change_the_same_name() {
        smol::block_on(async {
            let mut ids = Vec::new();
            for _ in 0..2 {
                let store = connected().await;
                push(&store, "app", 1, &["v1"]).await;
                ids.push(store.outbox(1).unwrap().remove(0).1.id);
            }
            assert_eq!(ids[0].sequence, ids[1].sequence);
            assert_ne!(ids[0], ids[1]);
            // Parents of the first version read no more than these two.
            assert_eq!(ids[0].to_string(), format!("dock01 {}", ids[0].sequence));
            let bare = OutboxId { incarnation: 0, ..ids[0].clone() };
            assert_eq!(ids[0].to_string().parse(), Ok(bare));
        });
    }

    #[test]
    fn f130_a_deletion_that_was_delivered_ends_what_the_oldest_change_of_each_tag_began_with() {
        smol::block_on(async {
            let store = connected().await;
            for name in ["app", "lab"] {
                for number in [1, 2, 1, 3] {
                    push(&store, name, number, &["v1"]).await;
                }
                let entries = store.outbox(100).unwrap();
                let first = entries.iter().find(|(_, entry)| entry.repository.as_str() == name);
                store.outbox_delivered(first.unwrap().0, 0).await.unwrap();
            }
            let app = "app".parse().unwrap();
            store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
            let entries = store.outbox(100).unwrap();
            let deletion = entries
                .iter()
                .find(|(_, entry)| matches!(entry.change, OutboxChange::ManifestDeleted { .. }));
            store.outbox_delivered(deletion.unwrap().0, 0).await.unwrap();
            let bases = |name: &str| -> Vec<Option<Digest>> {
                let entries = store.outbox(100).unwrap().into_iter();
                let of = entries.filter(|(_, entry)| entry.repository.as_str() == name);
                of.map(|(_, entry)| match entry.change {
                    OutboxChange::Tag { base, .. } => base,
                    other => panic!("{other:?}"),
                })
                .collect()
            };
            assert_eq!(bases("app"), [None, Some(digest(2)), Some(digest(1))]);
            assert_eq!(bases("lab"), [Some(digest(1)), Some(digest(2)), Some(digest(1))]);
        });
    }

    /// Symptom: a client that pushed one manifest by its digest in a loop filled the index of a
    /// device whose parent was away, and nobody could push any more. Cause: each push waited.
    /// Symptom: a push by its digest that the parent had refused, and that was given up by deleting
    /// the manifest, went up after the disk of the device was set back. Cause: the parent never
    /// heard of it.
    #[test]
    fn f130_f201_a_refused_push_that_is_given_up_is_named_by_its_removal() {
        smol::block_on(async {
            let store = connected().await;
            let app = "app".parse().unwrap();
            for is_refused in [true, false] {
                push(&store, "app", 1, &[]).await;
                let (number, added) = store.outbox(9).unwrap().remove(0);
                if is_refused {
                    store.outbox_refused(number, "no".to_owned()).await.unwrap();
                }
                store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
                let mut entries = store.outbox(9).unwrap();
                let (last, removal) = entries.pop().unwrap();
                assert_eq!(removal.change, OutboxChange::ManifestDeleted { digest: digest(1) });
                // One that may be under way to the parent is left out when it is its turn.
                assert_eq!(entries.len(), usize::from(!is_refused));
                assert_eq!(removal.instead_of, if is_refused { vec![added.id] } else { vec![] });
                assert!(!removal.anew && store.refused_changes(9).unwrap().is_empty());
                store.outbox_delivered(last, 0).await.unwrap();
            }
        });
    }

    /// Symptom: a deletion took effect twice after the disks of a device and of its parent were set
    /// back. Cause: the parent passed it on under a name of its own, and did not say whose it was.
    #[test]
    fn f130_f201_a_late_removal_goes_on_under_another_name_that_tells_the_childs() {
        smol::block_on(async {
            let store = connected().await;
            let app = "app".parse().unwrap();
            let id = |sequence| {
                let origin = "child01".parse().unwrap();
                OutboxId { origin, incarnation: 9, sequence }
            };
            for (number, anew, instead_of, told) in
                [(5, false, vec![], vec![id(5)]), (6, true, vec![id(3)], vec![id(3)])]
            {
                push(&store, "app", 1, &[]).await;
                let late = Delivery { again: true, anew, instead_of, ..Delivery::of(id(number)) };
                let origin = Origin::Child(late);
                store.delete_manifest(&app, &digest(1), &origin).await.unwrap();
                let (number, entry) = store.outbox(99).unwrap().pop().unwrap();
                assert_eq!(entry.change, OutboxChange::ManifestDeleted { digest: digest(1) });
                assert_eq!(entry.id.origin.as_str(), "dock01");
                assert_eq!((entry.anew, entry.instead_of), (true, told));
                store.outbox_delivered(number, 0).await.unwrap();
            }
        });
    }

    #[test]
    fn f130_f209_a_manifest_that_is_pushed_by_its_digest_again_waits_once() {
        smol::block_on(async {
            let store = connected().await;
            let app: RepositoryName = "app".parse().unwrap();
            let entries = || store.outbox(99).unwrap();
            let brought = || -> Vec<_> {
                entries().iter().map(|(_, entry)| entry.brings().cloned()).collect()
            };
            for number in [1, 2, 1, 1] {
                push(&store, "app", number, &[]).await;
            }
            assert_eq!(brought(), [Some(digest(2)), Some(digest(1))]);
            assert_eq!(entries()[1].1.instead_of.len(), 2, "the parent may have had these");
            let number = entries()[1].0;
            store.outbox_refused(number, "no".to_owned()).await.unwrap();
            push(&store, "app", 1, &[]).await;
            assert!(!store.outbox_was_refused(entries()[1].0).unwrap(), "it is tried at once");
            // The parent refuses what was under way meanwhile.
            assert_eq!(store.outbox_refused(number, "no".to_owned()).await, Ok(()));
            assert_eq!(store.refused_changes(9).unwrap(), []);
            // What a child offers is another change.
            let id = OutboxId { origin: "dock02".parse().unwrap(), incarnation: 3, sequence: 1 };
            let delivery = Delivery { offered: Offered::Mirrored, ..Delivery::of(id) };
            let offer = PutManifest { origin: Origin::Child(delivery), ..image(1, &[]) };
            store.put_manifest(&app, offer).await.unwrap();
            let waiting = entries();
            assert_eq!(brought(), [Some(digest(2)), Some(digest(1)), Some(digest(1))]);
            assert_eq!(waiting[1].1.offered, Offered::No);
            store.outbox_delivered(waiting[2].0, 0).await.unwrap();
            // What waits behind a removal is another push.
            store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
            push(&store, "app", 1, &[]).await;
            push(&store, "app", 1, &[]).await;
            assert_eq!(brought(), [Some(digest(2)), Some(digest(1)), None, Some(digest(1))]);
        });
    }

    #[test]
    fn f130_no_number_is_given_twice_when_there_are_no_more() {
        smol::block_on(async {
            let store = store();
            let config = config(&["repositories/*/content/read"]);
            store.receive_config(config, "v1".to_owned()).await.unwrap();
            let last = LastOutbox(u64::MAX);
            store.commit(move |txn| txn.put(counter_key(), &last)).await.unwrap();
            let app = "app".parse().unwrap();
            for blob in [100, 101] {
                store.link_blob(&app, &Lease::unseen(&digest(blob)), 1).await.unwrap();
            }
            let pushed = store.put_manifest(&app, image(1, &["v1"])).await;
            assert!(matches!(pushed, Err(StoreError::Invalid(_))), "{pushed:?}");
            assert_eq!(store.outbox(9).unwrap(), []);
            assert_eq!(store.tags(&app, None, 9).unwrap(), []);
        });
    }

    #[test]
    fn f130_the_oldest_change_of_a_repository_is_found() {
        smol::block_on(async {
            let store = connected().await;
            push(&store, "app", 1, &["v1"]).await;
            push(&store, "lab", 2, &["v1"]).await;
            push(&store, "app", 3, &["v1"]).await;
            let number = async |name: &str| {
                let (name, refused) = (name.parse().unwrap(), Refused::default());
                let first = store.outbox_first(&name, &refused).await.unwrap();
                first.map(|(number, entry)| (number, entry.repository.to_string()))
            };
            let all = store.outbox(100).unwrap();
            assert_eq!(number("app").await, Some((all[0].0, "app".to_owned())));
            let (lab, _) = number("lab").await.unwrap();
            assert_eq!(store.outbox_after(lab - 1, 1).unwrap()[0].0, lab);
            assert_eq!(number("other").await, None);
            store.outbox_delivered(lab, 0).await.unwrap();
            assert_ne!(number("lab").await.map(|(number, _)| number), Some(lab));
        });
    }

    #[test]
    fn f130_what_was_deleted_before_it_went_up_is_left_out_of_the_middle() {
        smol::block_on(async {
            let store = connected().await;
            let app: RepositoryName = "app".parse().unwrap();
            for number in 1..=3 {
                push(&store, "app", number, &["v1"]).await;
            }
            let numbers: Vec<u64> = store.outbox(9).unwrap().iter().map(|(n, _)| *n).collect();
            store.delete_manifest(&app, &digest(2), &Origin::Client).await.unwrap();
            assert_eq!(store.outbox_skip(numbers[1]).await, Ok(true));
            assert_eq!(store.outbox_skip(numbers[1]).await, Ok(true), "it is gone");
            let entry = store.outbox_entry(numbers[2]).unwrap().unwrap();
            assert_eq!(entry.id.sequence, numbers[2]);
            let OutboxChange::Tag { base, digest: now, .. } = entry.change else { panic!() };
            assert_eq!((base, now), (Some(digest(1)), Some(digest(3))));
            assert_eq!(entry.unheard, [Some(digest(2))], "an attempt may have been taken");
            assert_eq!(store.outbox_skip(numbers[2]).await, Ok(false), "the last one");
            store.delete_manifest(&app, &digest(3), &Origin::Client).await.unwrap();
            push(&store, "app", 4, &["v1"]).await;
            // Its content is not here any more: no tag is to name it.
            let kept = store.outbox_conflict(numbers[2], None).await;
            assert_eq!(kept, Ok(None));
            let (removal, _) = store.outbox(9).unwrap().remove(2);
            assert_eq!(store.outbox_skip(removal).await, Ok(false), "a removal");
        });
    }

    #[test]
    fn f130_the_parent_moves_nothing_that_is_on_its_way_up() {
        smol::block_on(async {
            let store = connected().await;
            let (app, v1): (RepositoryName, Tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
            let v2: Tag = "v2".parse().unwrap();
            for number in 1..=2 {
                push(&store, "app", number, &["v1"]).await;
            }
            let parent = &Origin::Parent;
            let is_void = |result: Result<(), StoreError>| {
                assert!(matches!(result, Err(StoreError::Conflict(_))), "{result:?}");
            };
            let any = || Precondition::None;
            is_void(store.set_tag(&app, &v1, &digest(1), any(), parent).await);
            is_void(store.delete_tag(&app, &v1, any(), parent).await.map(|_| ()));
            is_void(store.delete_manifest(&app, &digest(1), parent).await);
            store.set_tag(&app, &v2, &digest(1), any(), parent).await.unwrap();
            for (number, _) in store.outbox(9).unwrap() {
                store.outbox_delivered(number, 0).await.unwrap();
            }
            // Nor does it bring back what is being removed.
            store.delete_manifest(&app, &digest(2), &Origin::Client).await.unwrap();
            is_void(store.set_tag(&app, &v1, &digest(2), any(), parent).await);
            is_void(store.set_tag(&app, &v2, &digest(2), any(), parent).await);
            store.set_tag(&app, &v2, &digest(1), any(), parent).await.unwrap();
            for (removal, _) in store.outbox(9).unwrap() {
                store.outbox_delivered(removal, 0).await.unwrap();
            }
            store.delete_manifest(&app, &digest(1), parent).await.unwrap();
            assert_eq!(store.tags(&app, None, 9).unwrap(), []);
        });
    }

    #[test]
    fn f209_tags_with_changes_on_their_way_are_read_some_at_a_time() {
        smol::block_on(async {
            let store = connected().await;
            let app: RepositoryName = "app".parse().unwrap();
            // A tag that begins with another one, and several changes of one.
            let names = ["a", "a-b", "a.b", "a0", "b", "c"];
            push(&store, "app", 1, &names).await;
            for number in [2, 3, 4] {
                push(&store, "app", number, &["a", "b"]).await;
                push(&store, "apps", number, &["d"]).await;
            }
            for limit in 1..16 {
                let (mut after, mut found) = (None, Vec::new());
                loop {
                    let (tags, end) = store.outbox_tags(&app, after.as_ref(), limit).unwrap();
                    found.extend(tags);
                    after = end;
                    if after.is_none() {
                        break;
                    }
                }
                let found: Vec<&str> = found.iter().map(Tag::as_str).collect();
                assert_eq!(found, names, "{limit}");
            }
        });
    }
}

//! What was deleted at the parent, or at a root. A node that was set back asks what its parent has
//! deleted since it had last heard of it, and a root reads that in its own journal: a child that
//! has it still, because it knew this node, or another in its place, before that, offers it in
//! vain. What a client of the child had pushed may be newer than that, and is taken. And what the
//! parent has told of in messages that a full comparison takes the place of.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::inbox::applied;
use super::outbox::Origin;
use super::told::content_message;
use crate::store::rows::link::split_key;
use crate::store::rows::node::{gone_from_key, lineage_key};
use crate::store::rows::{CONTENT, Kind, is_of};
use crate::store::{Store, StoreError, Txn};
use crate::types::message::Message;
use crate::types::{Cursor, Digest, Offered, RepositoryName, Role, Tag};

/// Records of its journal that a root reads at once, bytes.
const READ_AT_ONCE: usize = 1024 * 1024;

/// Tags, and manifests, that are remembered. Over it: a child brings the others back, and the log
/// says so.
const GONE_MAX: usize = 10_000;

/// In memory: a child comes back soon, or brings back what was deleted.
#[derive(Clone, Default)]
pub struct Gone {
    tags: BTreeSet<(RepositoryName, Tag)>,
    manifests: BTreeSet<(RepositoryName, Digest)>,
}

impl Gone {
    /// Takes a message of the parent into account, which comes after those before.
    pub fn hear(&mut self, message: Message) {
        match message {
            Message::Tag { repository, tag, digest: None } if self.tags.len() < GONE_MAX => {
                self.tags.insert((repository, tag));
            }
            Message::Tag { repository, tag, digest: Some(digest) } => {
                self.tags.remove(&(repository.clone(), tag));
                self.manifests.remove(&(repository, digest));
            }
            Message::ManifestDeleted { repository, digest } if self.manifests.len() < GONE_MAX => {
                self.manifests.insert((repository, digest));
            }
            Message::ManifestAdded { repository, digest } => {
                self.manifests.remove(&(repository, digest));
            }
            Message::Tag { .. }
            | Message::ManifestDeleted { .. }
            | Message::ConfigChanged { .. } => {}
        }
    }

    /// Takes a change of the journal into account.
    fn hear_change(&mut self, key: &[u8], row: Option<&[u8]>) -> Result<(), StoreError> {
        if !is_of(&CONTENT, key) {
            return Ok(());
        }
        if let Some(message) = content_message(key, row)? {
            self.hear(message);
        }
        if key.first() == Some(&(Kind::Manifest as u8))
            && row.is_some()
            && let Some((repository, digest)) = split_key(key)
            && let Some(repository) =
                std::str::from_utf8(repository).ok().and_then(|name| name.parse().ok())
        {
            self.manifests.remove(&(repository, digest));
        }
        Ok(())
    }

    /// Whether a tag was deleted.
    pub fn has_tag(&self, repository: &RepositoryName, tag: &Tag) -> bool {
        self.tags.contains(&(repository.clone(), tag.clone()))
    }

    /// Whether a manifest was deleted.
    pub fn has_manifest(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        self.manifests.contains(&(repository.clone(), digest.clone()))
    }

    /// Forgets a tag.
    pub fn forget_tag(&mut self, repository: &RepositoryName, tag: &Tag) {
        self.tags.remove(&(repository.clone(), tag.clone()));
    }

    /// Forgets a manifest.
    pub fn forget_manifest(&mut self, repository: &RepositoryName, digest: &Digest) {
        self.manifests.remove(&(repository.clone(), digest.clone()));
    }

    /// Forgets what is not of such repositories.
    pub fn keep(&mut self, is_kept: impl Fn(&RepositoryName) -> bool) {
        self.tags.retain(|(repository, _)| is_kept(repository));
        self.manifests.retain(|(repository, _)| is_kept(repository));
    }

    /// Tags of a repository that were deleted.
    pub fn tags(&self, repository: &RepositoryName) -> impl Iterator<Item = &Tag> {
        self.tags.iter().filter(move |(of, _)| of == repository).map(|(_, tag)| tag)
    }

    /// Manifests of a repository that were deleted.
    pub fn manifests(&self, repository: &RepositoryName) -> impl Iterator<Item = &Digest> {
        self.manifests.iter().filter(move |(of, _)| of == repository).map(|(_, digest)| digest)
    }

    /// Whether something was deleted that is not remembered.
    fn is_full(&self) -> bool {
        self.tags.len() >= GONE_MAX || self.manifests.len() >= GONE_MAX
    }
}

/// Whether a child offers what it only mirrored.
fn is_mirrored(origin: &Origin) -> bool {
    matches!(origin, Origin::Child(made) if made.offered == Offered::Mirrored)
}

/// Has the comparisons in this life of the store ask for what the parent has deleted since its feed
/// was at `parted`, or, when that is not known, from where this node is in it; where from that is.
/// An earlier place that was noted before counts: another child may know of one.
pub(super) fn begin(
    txn: &mut Txn<'_>,
    parted: Option<Cursor>,
) -> Result<Option<Cursor>, StoreError> {
    let Some(here) = applied(txn)? else {
        return Ok(None);
    };
    let noted = txn.get::<Cursor>(&gone_from_key())?;
    // A position in the feed of another parent, or of one that was set back, tells nothing.
    let is_before = |from: &Cursor| from.epoch == here.epoch && from.sequence <= here.sequence;
    let known = noted.into_iter().chain(parted).filter(is_before);
    let from = known.min_by_key(|from| from.sequence).unwrap_or(here);
    txn.put_changed(gone_from_key(), &from)?;
    Ok(Some(from))
}

/// Notes where the journal begins to be of one state: what was deleted before that may be there
/// again in the state that was lost.
pub(super) fn begin_lineage(txn: &mut Txn<'_>, at: Cursor) -> Result<(), StoreError> {
    txn.put_changed(lineage_key(), &at)
}

impl Store {
    /// Before a root takes an offer, it reads in its own journal what it has deleted, since that is
    /// of one state and as far back as it is kept.
    pub(in crate::store) async fn hear_own(&self, origin: &Origin) -> Result<(), StoreError> {
        if !is_mirrored(origin) || self.role() != Role::Root {
            return Ok(());
        }
        let (Some(since), head) = (self.get::<Cursor>(&lineage_key())?, self.head()) else {
            return Ok(());
        };
        let mut heard = self.shared().heard_own.lock().await;
        let known = heard.filter(|(of, _)| *of == since).map(|(_, through)| through);
        if known.is_none() {
            self.note_gone(Gone::default());
        }
        let mut from = known.unwrap_or(since);
        while from.epoch == head.epoch && from.sequence < head.sequence {
            let records = match self.records_after(from, READ_AT_ONCE).await {
                Err(StoreError::NotFound) => {
                    let oldest = self.shared().segments.list().first().copied();
                    match oldest.and_then(|oldest| oldest.checked_sub(1)) {
                        Some(oldest) if from.sequence < oldest => from.sequence = oldest,
                        _ => from = head,
                    }
                    continue;
                }
                records => records?,
            };
            let mut gone = self.shared().gone.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, row) in records.records.iter().flat_map(|(_, changes)| changes) {
                gone.hear_change(key, row.as_deref())?;
            }
            from = records.through;
        }
        *heard = Some((since, from));
        Ok(())
    }

    /// From where on in its feed the parent is asked what it has deleted: the same place until
    /// everything was compared in this life of the store. `None` before the first comparison.
    pub async fn gone_from(&self) -> Result<Option<Cursor>, StoreError> {
        self.commit(|txn| begin(txn, None)).await
    }

    /// Remembers this, and nothing that was remembered before.
    pub fn note_gone(&self, gone: Gone) {
        if gone.is_full() {
            log::warn!(
                "the parent has deleted more than is remembered: what children offer of it comes \
                 back"
            );
        }
        *self.shared().gone.lock().unwrap_or_else(PoisonError::into_inner) = gone;
    }

    /// Whether the parent has deleted all that a child offers: the manifest, and the tags. Takes
    /// those tags out of the offer that the parent has deleted. A tag that the parent has not
    /// deleted is of a client, who has pushed the manifest again. What a client had pushed at the
    /// child may be newer than the deletion, and is taken as it is.
    pub(in crate::store) fn is_gone(
        &self,
        origin: &Origin,
        repository: &RepositoryName,
        digest: &Digest,
        tags: &mut Vec<Tag>,
    ) -> bool {
        if !is_mirrored(origin) {
            return false;
        }
        let gone = self.shared().gone.lock().unwrap_or_else(PoisonError::into_inner);
        tags.retain(|tag| !gone.has_tag(repository, tag));
        tags.is_empty() && gone.has_manifest(repository, digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::PutOutcome;
    use crate::store::registry::manifests::testing::{child, digest, image, push, store};
    use crate::types::Delivery;

    fn offer(sequence: u64, offered: Offered) -> Origin {
        let Origin::Child(Delivery { id, .. }) = child(sequence) else { panic!("no child") };
        Origin::Child(Delivery { offered, ..Delivery::of(id) })
    }

    /// Symptom: all that was deleted at a root since a leaf's last sync came back everywhere, when
    /// the device between them was replaced before the next. Cause: the leaf offered it to the new
    /// one, which knows of no deletion, and that to the root, which took it.
    #[test]
    fn f201_a_root_takes_no_offer_of_what_it_has_deleted_itself() {
        smol::block_on(async {
            let (store, app): (_, RepositoryName) = (store(), "app".parse().unwrap());
            store.note_start("a").await.unwrap();
            let v1: Tag = "v1".parse().unwrap();
            let mut sequence = 0;
            let mut offered = async |number, offered| {
                sequence += 1;
                let image = image(number, &["v1"]);
                let origin = offer(sequence, offered);
                let put = crate::store::PutManifest { origin, ..image };
                store.put_manifest(&app, put).await.unwrap()
            };
            for number in [1, 2] {
                push(&store, "app", number, &["v1"]).await;
                store.delete_manifest(&app, &digest(number), &Origin::Client).await.unwrap();
                assert_eq!(offered(number, Offered::Mirrored).await, PutOutcome::Replayed);
                assert_eq!(store.tag(&app, &v1).unwrap(), None);
            }
            // What was pushed below may be newer, and what was pushed again is.
            assert_eq!(offered(1, Offered::Pushed).await, PutOutcome::Stored);
            assert_eq!(offered(1, Offered::Mirrored).await, PutOutcome::Stored);
            store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
            // In the state that was lost it may have been there again.
            store.note_set_back(None).await.unwrap();
            assert_eq!(offered(1, Offered::Mirrored).await, PutOutcome::Stored);
            assert_eq!(store.tag(&app, &v1).unwrap(), Some(digest(1)));
        });
    }
}

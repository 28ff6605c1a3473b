//! What was deleted at the parent. A node that was set back asks what its parent has deleted since
//! it had last heard of it: a child that has it still, because it knew this node before that,
//! offers it in vain. What a client of the child had pushed may be newer than that, and is taken.
//! And what the parent has told of in messages that a full comparison takes the place of.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::inbox::applied;
use super::outbox::Origin;
use crate::store::rows::node::gone_from_key;
use crate::store::{Store, StoreError, Txn};
use crate::types::message::Message;
use crate::types::{Cursor, Digest, Offered, RepositoryName, Tag};

/// Tags, and manifests, that are remembered. Over it: a child brings the others back, and the log
/// says so; of what a parent that is not whole has told of, the others stay until it is whole.
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

impl Store {
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

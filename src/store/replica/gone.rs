//! What the parent has deleted since a node that was set back had last heard of it: a child that
//! has it still, because it knew this node before that, offers it in vain.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::outbox::Origin;
use crate::store::Store;
use crate::types::message::Message;
use crate::types::{Digest, RepositoryName, Tag};

/// Tags, and manifests, that are remembered. Over it: a child brings the others back.
const GONE_MAX: usize = 10_000;

/// In memory: a child comes back soon, or brings back what was deleted.
#[derive(Default)]
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
}

impl Store {
    /// Remembers this, and nothing that was remembered before.
    pub fn note_gone(&self, gone: Gone) {
        *self.shared().gone.lock().unwrap_or_else(PoisonError::into_inner) = gone;
    }

    /// Whether the parent has deleted a manifest that a child offers. Takes those tags out of the
    /// offer that it has deleted.
    pub(in crate::store) fn is_gone(
        &self,
        origin: &Origin,
        repository: &RepositoryName,
        digest: &Digest,
        tags: &mut Vec<Tag>,
    ) -> bool {
        if !matches!(origin, Origin::Child(delivery) if delivery.offered) {
            return false;
        }
        let gone = self.shared().gone.lock().unwrap_or_else(PoisonError::into_inner);
        tags.retain(|tag| !gone.tags.contains(&(repository.clone(), tag.clone())));
        gone.manifests.contains(&(repository.clone(), digest.clone()))
    }
}

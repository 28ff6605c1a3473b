//! What a parent that was replaced or restored lacks: it may have lost what it had taken and not
//! passed on, and this node may be the only one that still has it.

use std::collections::BTreeSet;

use super::error::SyncError;
use super::plan::Desired;
use super::worker::Worker;
use crate::gateway::feed::Scope;
use crate::types::{Cursor, Digest, Mode, RepositoryName, Tag};

/// What becomes of what the parent lacks in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offer {
    /// Nothing out of the ordinary: the parent has deleted it.
    None,
    /// It is offered.
    Made,
    /// It stays here: this node may not push to the repository.
    Withheld,
}

impl Worker {
    /// The end of the parent's feed. When that is another feed than the one which this node has
    /// followed, or ends before it, the parent was replaced, restored or set back: that is noted
    /// before anything is told to it, and what the one before it told is not applied any more.
    pub(super) async fn meet_parent(&self) -> Result<Cursor, SyncError> {
        let position = self.upstream.feed_head().await?;
        let Some(epoch) = self.store.parent_epoch()? else {
            self.store.note_parent(position.epoch).await?;
            return Ok(position);
        };
        let follows =
            |known: Cursor| known.epoch == position.epoch && known.sequence <= position.sequence;
        if epoch == position.epoch && self.store.feed_position()?.is_none_or(follows) {
            return Ok(position);
        }
        let mut offered = BTreeSet::new();
        if self.config()?.node.mode == Mode::ReadWrite {
            log::info!("the parent was replaced or restored: it is offered what it lacks");
            // Also where it does not grant that just now.
            offered = self.repositories_here()?;
        }
        let offered: Vec<RepositoryName> = offered.into_iter().collect();
        self.store.meet_parent(position, &offered).await?;
        Ok(position)
    }

    /// What becomes of what the parent lacks in a repository.
    pub(super) fn offer(&self, repository: &RepositoryName) -> Result<Offer, SyncError> {
        if !self.store.is_offered(repository)? {
            return Ok(Offer::None);
        }
        Ok(match Scope::of_writes(&self.config()?).covers(repository) {
            true => Offer::Made,
            false => Offer::Withheld,
        })
    }

    /// Offers the tags that the parent lacks, and the manifests that it lacks and none of these
    /// tags brings.
    pub(super) async fn offer_lacked(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
        tags: &[(Tag, Digest)],
    ) -> Result<(), SyncError> {
        self.store.offer_tags(repository, tags).await?;
        let here = self.manifests_here(repository)?;
        let mut named: BTreeSet<&Digest> = desired.tags.values().collect();
        named.extend(&desired.referrers);
        named.extend(tags.iter().map(|(_, digest)| digest));
        let mut lacked = Vec::new();
        for digest in here.manifests.keys().filter(|digest| !named.contains(digest)) {
            match self.upstream.keeps_manifest(repository, digest).await.map_err(SyncError::from) {
                Ok(true) => {}
                Ok(false) => lacked.push(digest.clone()),
                // It cannot tell; what it has already does no harm.
                Err(error) if error.is_of_item() => lacked.push(digest.clone()),
                Err(error) => return Err(error),
            }
        }
        self.store.offer_manifests(repository, &lacked).await?;
        Ok(self.store.end_offer(repository).await?)
    }
}

//! What a parent that was replaced or restored lacks: it may have lost what it had taken and not
//! passed on, and this node may be the only one that still has it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::error::SyncError;
use super::plan::Desired;
use super::window::LOOK_INTERVAL;
use super::worker::Worker;
use crate::gateway::UpstreamError;
use crate::gateway::feed::Scope;
use crate::store::replica::gone::Gone;
use crate::store::replica::offers::Withheld;
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
        let known = self.store.feed_position()?;
        let heard = self.store.heard()?;
        let last = known.map_or(heard, |known| known.sequence.max(heard));
        let told = self.store.parent_start()?.map(|start| (start, last));
        let (position, was_set_back) = self.upstream.feed_head(told).await?;
        let epochs = [self.store.parent_epoch()?, known.map(|known| known.epoch)];
        let is_same = epochs.into_iter().flatten().all(|epoch| epoch == position.epoch);
        let start = self.upstream.parent_start();
        if is_same && last <= position.sequence && !was_set_back {
            self.store.note_parent(position.epoch, start).await?;
            return Ok(position);
        }
        let mut offered = BTreeSet::new();
        if self.config()?.node.mode == Mode::ReadWrite {
            log::info!("the parent was replaced or restored: it is offered what it lacks");
            // Also where it does not grant that just now.
            offered = self.repositories_here()?;
        }
        self.store.meet_parent(position, start, &offered).await?;
        Ok(position)
    }

    /// Returns when a full comparison is due, which somebody else of this node has asked for.
    pub(super) async fn comparison_due<T>(&self) -> Option<T> {
        loop {
            let seen = self.store.sequence();
            if self.store.reconcile_due().unwrap_or(false) {
                self.state.set(|now| now.polling = false);
                return None;
            }
            if !self.store.wait_after(seen, LOOK_INTERVAL).await {
                return std::future::pending().await;
            }
        }
    }

    /// Notes what the parent has deleted up to here since this node, which was restored or set
    /// back, last heard of it: a child that still has that offers it.
    pub(super) async fn note_gone(&self, head: Cursor) -> Result<(), SyncError> {
        let Some(mut from) = self.store.feed_position()? else {
            return Ok(());
        };
        let mut gone = Gone::default();
        self.store.inbox(usize::MAX)?.into_iter().for_each(|(_, message)| gone.hear(message));
        while from.epoch == head.epoch && from.sequence < head.sequence {
            let batch = match self.upstream.messages(from, Duration::ZERO).await {
                Ok(received) => received.batch,
                Err(UpstreamError::Gone) => break,
                Err(error) => return Err(error.into()),
            };
            if batch.from != from || batch.through.sequence <= from.sequence {
                break;
            }
            batch.items.into_iter().for_each(|item| gone.hear(item.message));
            from = batch.through;
        }
        self.store.note_gone(gone);
        Ok(())
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

    /// Offers what the parent lacks, or keeps it where this node may not push it.
    pub(super) async fn offer_lacked(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
        tags: &[(Tag, Digest)],
        offer: Offer,
    ) -> Result<(), SyncError> {
        let here = self.manifests_here(repository)?.manifests.into_keys().collect();
        let mut manifests = self.lacked(repository, desired, tags, here).await?;
        if offer == Offer::Made {
            self.store.offer_tags(repository, tags).await?;
            self.store.offer_manifests(repository, &manifests).await?;
        } else {
            manifests.extend(tags.iter().map(|(_, digest)| digest.clone()));
            let tags = tags.iter().map(|(tag, _)| tag.clone()).collect();
            let withheld = Withheld { tags, manifests: manifests.into_iter().collect() };
            self.store.withhold(repository, &withheld).await?;
        }
        Ok(self.store.end_offer(repository).await?)
    }

    /// Offers what was kept before, once this node may push it. What the parent has again is like
    /// anything else.
    pub(super) async fn offer_withheld(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
        tags: &[(Tag, Digest)],
        withheld: Withheld,
    ) -> Result<(), SyncError> {
        if Scope::of_writes(&self.config()?).covers(repository) {
            let manifests = withheld.manifests.clone();
            let manifests = self.lacked(repository, desired, tags, manifests).await?;
            self.store.offer_tags(repository, tags).await?;
            self.store.offer_manifests(repository, &manifests).await?;
            return Ok(self.store.release(repository, &withheld).await?);
        }
        let mut again = withheld;
        again.tags.retain(|tag| desired.tags.contains_key(tag));
        let named: BTreeSet<&Digest> = desired.tags.values().chain(&desired.referrers).collect();
        again.manifests.retain(|digest| named.contains(digest));
        Ok(self.store.release(repository, &again).await?)
    }

    /// Those of these manifests that the parent lacks, and that none of these tags brings.
    async fn lacked(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
        tags: &[(Tag, Digest)],
        mut manifests: BTreeSet<Digest>,
    ) -> Result<Vec<Digest>, SyncError> {
        let mut named: BTreeSet<&Digest> = desired.tags.values().collect();
        named.extend(&desired.referrers);
        named.extend(tags.iter().map(|(_, digest)| digest));
        manifests.retain(|digest| !named.contains(digest));
        let mut lacked = Vec::new();
        for digest in manifests {
            match self.upstream.keeps_manifest(repository, &digest).await.map_err(SyncError::from) {
                Ok(true) => {}
                Ok(false) => lacked.push(digest),
                // It cannot tell; what it has already does no harm.
                Err(error) if error.is_of_item() => lacked.push(digest),
                Err(error) => return Err(error),
            }
        }
        Ok(lacked)
    }
}

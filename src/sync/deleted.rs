//! Follows what the parent has deleted. What a change of this node holds back is asked for again
//! when the parent has answered that change.

use std::collections::{BTreeMap, BTreeSet};

use super::debts::Item;
use super::error::SyncError;
use super::plan::Desired;
use super::worker::Worker;
use crate::gateway::feed::Scope;
use crate::store::registry::removal::Watch;
use crate::store::replica::outbox::Origin;
use crate::store::{Precondition, StoreError};
use crate::types::limits::PAGE_MAX;
use crate::types::{Cursor, Digest, Mode, RepositoryName, Tag};

/// Manifests with those that they name, and lost ones with what needs them.
type Here = (BTreeMap<Digest, Vec<Digest>>, BTreeMap<Digest, Digest>);

/// What becomes of what a parent lacks that was replaced or restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offer {
    /// Nothing out of the ordinary: it has deleted it.
    None,
    /// It is offered.
    Made,
    /// It stays here: this node may not push to the repository.
    Withheld,
}

impl Worker {
    /// Deletes manifests that no tag, index or referrer needs any more and that the parent has
    /// deleted. Those that it still has stay: someone may have pinned them by digest. Returns the
    /// manifests that indexes here need and that are not here, each with one of those indexes.
    pub(super) async fn drop_deleted(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
    ) -> Result<BTreeMap<Digest, Digest>, SyncError> {
        let (manifests, lost) = self.manifests_here(repository)?;
        let mut needed: BTreeSet<&Digest> = desired.referrers.iter().collect();
        needed.extend(desired.tags.values());
        needed.extend(manifests.values().flatten());
        for digest in manifests.keys().filter(|digest| !needed.contains(digest)) {
            self.delete_if_gone(repository, digest).await?;
        }
        Ok(lost)
    }

    /// Looks whether the parent was replaced or restored, before anything is told to it, or what
    /// the one before it told is applied.
    pub(super) async fn meet_parent(&self) -> Result<(), SyncError> {
        let (Some(known), Some(config)) = (self.store.feed_position()?, self.store.self_config()?)
        else {
            return Ok(());
        };
        let position = self.upstream.feed_head().await?;
        if known.epoch != position.epoch {
            let here = self.repositories_here()?;
            self.note_offers(position, config.node.mode, &here).await?;
            self.store.request_reconcile().await?;
        }
        Ok(())
    }

    /// Notes where this node offers its parent what that lacks. Its feed is another one than that
    /// which this node has followed: it was replaced or restored, and what it had taken and not
    /// passed on may be nowhere else.
    pub(super) async fn note_offers(
        &self,
        position: Cursor,
        mode: Mode,
        here: &BTreeSet<RepositoryName>,
    ) -> Result<(), SyncError> {
        let known = self.store.feed_position()?;
        let is_another = known.is_some_and(|known| known.epoch != position.epoch);
        if !is_another || mode != Mode::ReadWrite {
            return Ok(());
        }
        log::info!("the parent was replaced or restored: it is offered what it lacks");
        // What waits may begin with what is lost there.
        self.store.outbox_may_begin_with_nothing().await?;
        // Also where it does not grant that just now.
        Ok(self.store.note_offers(here.iter().cloned().collect()).await?)
    }

    /// What becomes of what the parent lacks in a repository.
    pub(super) fn offer(&self, repository: &RepositoryName) -> Result<Offer, SyncError> {
        if !self.store.offers(repository)? {
            return Ok(Offer::None);
        }
        Ok(match Scope::of_writes(&self.config()?).covers(repository) {
            true => Offer::Made,
            false => Offer::Withheld,
        })
    }

    /// Has the manifests go up that the parent lacks, but for those that tags bring which are
    /// `offered`. Returns what [`Worker::drop_deleted`] does.
    pub(super) async fn offer_manifests(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
        offered: &BTreeSet<Digest>,
    ) -> Result<BTreeMap<Digest, Digest>, SyncError> {
        let (mut manifests, lost) = self.manifests_here(repository)?;
        let named: BTreeSet<&Digest> = desired.tags.values().chain(&desired.referrers).collect();
        manifests.retain(|digest, _| !named.contains(digest) && !offered.contains(digest));
        for digest in manifests.keys() {
            if !self.upstream.keeps_manifest(repository, digest).await? {
                self.store.outbox_offer_manifest(repository, digest).await?;
            }
        }
        Ok(lost)
    }

    /// The manifests of a repository with the manifests that each names, and those that indexes
    /// here need and that are not here, each with one of those indexes.
    fn manifests_here(&self, repository: &RepositoryName) -> Result<Here, SyncError> {
        let (mut here, mut lost) = (BTreeMap::new(), BTreeMap::new());
        let mut last: Option<Digest> = None;
        loop {
            let page = self.store.manifests(repository, last.as_ref(), PAGE_MAX)?;
            let Some((end, _)) = page.last() else {
                break;
            };
            last = Some(end.clone());
            for (digest, row) in page {
                lost.extend(row.children.iter().map(|child| (child.clone(), digest.clone())));
                let named: Vec<Digest> = row.named_manifests().cloned().collect();
                here.insert(digest, named);
            }
        }
        lost.retain(|child, _| !here.contains_key(child));
        Ok((here, lost))
    }

    /// Brings back what was deleted of an index that is here, if the parent has it again.
    pub(super) async fn bring_back(
        &self,
        repository: &RepositoryName,
        lost: BTreeMap<Digest, Digest>,
    ) -> Result<(), SyncError> {
        let deleted_here = self.store.outbox_deletions(repository)?;
        let mut again = BTreeSet::new();
        for (child, index) in lost {
            if deleted_here.contains(&child) || again.contains(&index) {
                continue;
            }
            match self.upstream.has_manifest(repository, &child).await.map_err(SyncError::from) {
                Ok(true) => drop(again.insert(index)),
                Ok(false) => {}
                Err(error) if error.is_of_item() => {}
                Err(error) => return Err(error),
            }
        }
        for index in again {
            let result = self.fetcher.obtain(repository, &index, None).await.map(|_| ());
            self.settle(repository, Item::Manifest(index.clone()), Some(&index), result).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        base: Digest,
    ) -> Result<(), SyncError> {
        let (base, item) = (Precondition::Is(base), Item::Tag(tag.clone()));
        match self.store.delete_tag(repository, tag, base, &Origin::Parent).await {
            Ok(_) | Err(StoreError::NotFound) => self.state.paid(repository, &item),
            // A client has moved it since, or waits for the parent's answer.
            Err(StoreError::Conflict(_)) => self.state.hold_back(repository, item),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Deletes what the parent is said to have deleted, if it has: on a ReadWrite node that may be
    /// the echo of a removal of ours, and the manifest was pushed again since.
    pub(super) async fn delete_if_gone(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), SyncError> {
        let watch = self.store.watch_manifest(repository, digest);
        let item = Item::Deleted(digest.clone());
        // What waits now may be delivered before the parent's answer is here; what comes later is
        // noticed by the watch.
        if self.store.outbox_brings(repository, digest)? {
            self.state.hold_back(repository, item);
            return Ok(());
        }
        match self.upstream.keeps_manifest(repository, digest).await.map_err(SyncError::from) {
            Ok(false) => self.delete_manifest(watch, repository, digest).await,
            Ok(true) => {
                self.state.paid(repository, &item);
                Ok(())
            }
            // It is there, though not to be had, or the parent cannot tell yet: ours is good.
            Err(error) if error.is_of_item() => {
                self.state.hold_back(repository, item);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes what the parent has deleted.
    pub(super) async fn delete_manifest(
        &self,
        watch: Watch,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), SyncError> {
        let item = Item::Deleted(digest.clone());
        match self.store.delete_watched(watch, &Origin::Parent).await {
            Ok(()) | Err(StoreError::NotFound) => self.state.paid(repository, &item),
            // A client has pushed it again, or something that needs it.
            Err(StoreError::Conflict(_)) => self.state.hold_back(repository, item),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

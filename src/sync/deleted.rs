//! Follows what the parent has deleted. What a change of this node holds back is asked for again
//! when the parent has answered that change.

use std::collections::{BTreeMap, BTreeSet};

use super::debts::Item;
use super::error::SyncError;
use super::plan::Desired;
use super::worker::Worker;
use crate::store::registry::removal::Watch;
use crate::store::replica::outbox::Origin;
use crate::store::{Precondition, StoreError};
use crate::types::limits::PAGE_MAX;
use crate::types::{Digest, RepositoryName, Tag};

impl Worker {
    /// Deletes manifests that no tag, index or referrer needs any more and that the parent has
    /// deleted. Those that it still has stay: someone may have pinned them by digest. Returns the
    /// manifests that indexes here need and that are not here, each with one of those indexes.
    pub(super) async fn drop_deleted(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
    ) -> Result<BTreeMap<Digest, Digest>, SyncError> {
        let mut needed: BTreeSet<Digest> = desired.referrers.clone();
        needed.extend(desired.tags.values().cloned());
        let (mut rows, mut lost) = (Vec::new(), BTreeMap::new());
        loop {
            let last = rows.last();
            let page = self.store.manifests(repository, last, PAGE_MAX)?;
            if page.is_empty() {
                break;
            }
            for (digest, row) in &page {
                needed.extend(row.named_manifests().cloned());
                lost.extend(row.children.iter().map(|child| (child.clone(), digest.clone())));
            }
            rows.extend(page.into_iter().map(|(digest, _)| digest));
        }
        for digest in rows.iter().filter(|digest| !needed.contains(digest)) {
            self.delete_if_gone(repository, digest).await?;
        }
        for digest in &rows {
            lost.remove(digest);
        }
        Ok(lost)
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

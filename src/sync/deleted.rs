//! Follows what the parent has deleted. What a change of this node holds back is tried again now
//! and then, until the parent has answered that change.

use std::collections::{BTreeMap, BTreeSet};

use super::debts::Item;
use super::error::SyncError;
use super::plan::Desired;
use super::worker::Worker;
use crate::store::registry::removal::Watch;
use crate::store::replica::outbox::Origin;
use crate::store::{Precondition, StoreError};
use crate::sys::spawn::yield_now;
use crate::types::limits::PAGE_MAX;
use crate::types::{Digest, RepositoryName, Tag};

/// Manifests that indexes lack, of which the parent is asked in one comparison of a repository
/// whether it has them again. Over it: others in the next one.
const ASKED_MAX: usize = 256;

/// The manifests of a repository.
pub(super) struct Here {
    /// Each with those that it names.
    pub(super) manifests: BTreeMap<Digest, Vec<Digest>>,
    /// Those that indexes need and that are not here, each with one of those indexes.
    lost: BTreeMap<Digest, Digest>,
}

impl Worker {
    /// Deletes manifests that no tag, index or referrer needs any more and that the parent has
    /// deleted. Those that it still has stay: someone may have pinned them by digest.
    pub(super) async fn drop_deleted(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
        here: &Here,
    ) -> Result<(), SyncError> {
        let mut needed: BTreeSet<&Digest> = desired.referrers.iter().collect();
        needed.extend(desired.tags.values());
        needed.extend(here.manifests.values().flatten());
        for digest in here.manifests.keys().filter(|digest| !needed.contains(digest)) {
            self.delete_if_gone(repository, digest).await?;
        }
        Ok(())
    }

    /// What is here of a repository.
    pub(super) async fn manifests_here(
        &self,
        repository: &RepositoryName,
    ) -> Result<Here, SyncError> {
        let (mut manifests, mut lost) = (BTreeMap::new(), BTreeMap::new());
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
                manifests.insert(digest, named);
            }
            yield_now().await;
        }
        lost.retain(|child, _| !manifests.contains_key(child));
        Ok(Here { manifests, lost })
    }

    /// Brings back what was deleted of an index that is here, if the parent has it again.
    pub(super) async fn bring_back(
        &self,
        repository: &RepositoryName,
        here: Here,
    ) -> Result<(), SyncError> {
        let deleted_here = self.store.outbox_deletions(repository).await?;
        let mut lost: Vec<_> = here.lost.into_iter().collect();
        if lost.len() > ASKED_MAX {
            // All get their turn.
            let first = self.store.sys().rng.number() % lost.len() as u64;
            lost.rotate_left(usize::try_from(first).unwrap_or(0));
        }
        let mut again = BTreeSet::new();
        for (child, index) in lost.into_iter().take(ASKED_MAX) {
            if deleted_here.contains(&child) || again.contains(&index) {
                continue;
            }
            match self.upstream.keeps_manifest(repository, &child).await.map_err(SyncError::from) {
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

    /// Removes repositories that are not granted any more, unless they have something that the
    /// parent does not have: they go at a comparison after it does.
    pub(super) async fn purge(
        &self,
        ungranted: &BTreeSet<RepositoryName>,
    ) -> Result<(), SyncError> {
        let mut kept = BTreeSet::new();
        for repository in ungranted {
            match self.store.delete_repository(repository).await {
                Ok(()) => log::info!("removed repository {repository}: it is not granted any more"),
                Err(StoreError::NotFound) => {}
                Err(StoreError::Conflict(_)) => drop(kept.insert(repository.clone())),
                Err(error) => return Err(error.into()),
            }
        }
        for repository in self.state.kept_anew(&kept) {
            log::warn!(
                "keeping repository {repository}, which is not granted any more: it has what the \
                 parent does not have, see statusDetails in `skerry status`"
            );
        }
        Ok(())
    }

    /// Removes a tag that the parent has removed, if it still names `base`.
    pub(super) async fn remove_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        base: Digest,
    ) -> Result<(), SyncError> {
        let (base, item) = (Precondition::Is(base), Item::Tag(tag.clone()));
        if self.store.is_offered(repository)? {
            // It may be lost there: what is to be offered is settled first.
            self.state.hold_back(repository, item);
            return Ok(());
        }
        if self.store.withholds_tag(repository, tag)? {
            self.state.paid(repository, &item);
            return Ok(());
        }
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
                self.store.parent_has(repository, None, digest).await?;
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
        if self.store.is_offered(repository)? {
            self.state.hold_back(repository, item);
            return Ok(());
        }
        if self.store.withholds_manifest(repository, digest)? {
            self.state.paid(repository, &item);
            return Ok(());
        }
        match self.store.delete_watched(watch, &Origin::Parent).await {
            Ok(()) | Err(StoreError::NotFound) => self.state.paid(repository, &item),
            // A client has pushed it again, or something that needs it.
            Err(StoreError::Conflict(_)) => self.state.hold_back(repository, item),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

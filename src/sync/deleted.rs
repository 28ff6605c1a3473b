//! Follows what the parent has deleted. What a change of this node holds back is tried again now
//! and then, until the parent has answered that change.

use std::collections::BTreeSet;

use super::debts::Item;
use super::error::SyncError;
use super::plan::Desired;
use super::worker::Worker;
use crate::store::registry::removal::Watch;
use crate::store::replica::gone::Told;
use crate::store::replica::outbox::Origin;
use crate::store::{Precondition, Store, StoreError};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName, Tag};

/// The manifests of a repository.
pub(super) struct Here {
    pub(super) manifests: BTreeSet<Digest>,
    /// Those of them that others name.
    named: BTreeSet<Digest>,
}

impl Here {
    /// Reads the manifests one by one: each names up to 20,000 others. Blocks.
    fn read(store: &Store, repository: &RepositoryName) -> Result<Here, StoreError> {
        let manifests = store.manifest_digests(repository)?;
        let mut named = BTreeSet::new();
        store.each_manifest(repository, |_, row| {
            named.extend(row.named_manifests().filter(|named| manifests.contains(*named)).cloned());
        })?;
        Ok(Here { manifests, named })
    }
}

impl Worker {
    /// Deletes manifests that no tag, index or referrer needs any more and that the parent has
    /// deleted, and those that it has told of whatever needs them. Those that it still has stay:
    /// someone may have pinned them by digest.
    pub(super) async fn drop_deleted(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
        here: &Here,
        told: &Told,
    ) -> Result<(), SyncError> {
        let mut needed: BTreeSet<&Digest> = desired.referrers.iter().collect();
        needed.extend(desired.tags.values());
        if !told.has_missed {
            let is_told = |named: &&Digest| told.gone.has_manifest(repository, named);
            needed.extend(here.named.iter().filter(|named| !is_told(named)));
        }
        for digest in here.manifests.iter().filter(|digest| !needed.contains(digest)) {
            self.delete_if_gone(repository, digest).await?;
        }
        Ok(())
    }

    /// What is here of a repository.
    pub(super) async fn manifests_here(
        &self,
        repository: &RepositoryName,
    ) -> Result<Here, SyncError> {
        let (store, repository) = (self.store.clone(), repository.clone());
        Ok(spawn::blocking(move || Here::read(&store, &repository)).await?)
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
            Ok(()) | Err(StoreError::NotFound) => {
                // An index may name it, and the parent may have it again.
                self.fetcher.lacking.note(repository, self.store.sys().clock.monotonic());
                self.state.paid(repository, &item);
            }
            // A client has pushed it again, or something that needs it.
            Err(StoreError::Conflict(_)) => self.state.hold_back(repository, item),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

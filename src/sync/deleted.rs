//! Follows what the parent has deleted. What a change of this node holds back is tried again now
//! and then, until the parent has answered that change.

use std::collections::BTreeSet;

use super::comparison::Section;
use super::debts::Item;
use super::error::SyncError;
use super::worker::{PAGES_MAX, Worker};
use crate::gateway::UpstreamError;
use crate::store::registry::removal::Watch;
use crate::store::replica::outbox::Origin;
use crate::store::{Precondition, StoreError};
use crate::sys::spawn;
use crate::types::limits::PAGE_MAX;
use crate::types::{Digest, RepositoryName, Tag};

/// What the parent says of manifests that are here.
pub(super) enum Unlisted {
    /// These it does not have.
    Lacked(BTreeSet<Digest>),
    /// It is of an earlier version, which does not tell of these.
    Unknown(BTreeSet<Digest>),
}

impl Worker {
    /// Deletes manifests that the parent has deleted, whatever names them here. What it has and
    /// nothing names stays: someone may have pinned it by digest. `listed` tells of some that it
    /// has.
    pub(super) async fn drop_deleted(
        &self,
        repository: &RepositoryName,
        listed: Option<&Section>,
    ) -> Result<(), SyncError> {
        let listed = listed.map(Section::manifests).unwrap_or_default();
        let (mut after, mut pages) = (None, PAGES_MAX);
        loop {
            let here = self.manifests_here(repository, after.as_ref()).await?;
            let Some(last) = here.last().cloned() else { return Ok(()) };
            let here = here.into_iter().filter(|digest| !listed.contains(digest)).collect();
            match self.unlisted(repository, after.as_ref(), here, &mut pages).await? {
                Unlisted::Lacked(lacked) => {
                    for digest in &lacked {
                        self.delete_if_gone(repository, digest).await?;
                    }
                }
                // It is asked for each that nothing names here.
                Unlisted::Unknown(here) => {
                    for digest in &here {
                        if !self.store.is_named_or_tagged(repository, digest)? {
                            self.delete_if_gone(repository, digest).await?;
                        }
                    }
                }
            }
            after = Some(last);
        }
    }

    /// Which of these manifests, all behind `after`, the parent does not list. What it lists is
    /// kept no more than anything else. `pages`: how many of its list may yet be asked for.
    pub(super) async fn unlisted(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        mut here: BTreeSet<Digest>,
        pages: &mut usize,
    ) -> Result<Unlisted, SyncError> {
        let (end, mut after) = (here.last().cloned(), after.cloned());
        while !here.is_empty() && end > after {
            let endless = || {
                let text = "the parent's list of manifests does not end".to_owned();
                SyncError::from(UpstreamError::Protocol(text))
            };
            *pages = pages.checked_sub(1).ok_or_else(endless)?;
            let Some(page) = self.upstream.manifests(repository, after.as_ref()).await? else {
                return Ok(Unlisted::Unknown(here));
            };
            let Some(last) = page.last().cloned() else { break };
            if after.is_some_and(|after| last <= after) {
                return Err(endless());
            }
            for digest in &page {
                if here.remove(digest) {
                    self.store.parent_has(repository, None, digest).await?;
                }
            }
            after = Some(last);
        }
        Ok(Unlisted::Lacked(here))
    }

    /// Follows what the parent has told of that it deleted, where it has not got all of a
    /// repository yet: what it lacks beside that was not deleted.
    pub(super) async fn follow_told(&self, repository: &RepositoryName) -> Result<(), SyncError> {
        let (tags, manifests): (Vec<_>, Vec<_>) = {
            let told = self.state.told();
            (
                told.tags(repository).cloned().collect(),
                told.manifests(repository).cloned().collect(),
            )
        };
        for tag in &tags {
            self.follow_tag(repository, tag, None, true).await?;
        }
        for digest in &manifests {
            match self.store.manifest(repository, digest)? {
                Some(_) => self.delete_if_gone(repository, digest).await?,
                None => self.state.paid(repository, &Item::Deleted(digest.clone())),
            }
        }
        Ok(())
    }

    /// Some of the manifests that are here of a repository behind `after`, in the order of their
    /// digests; none when there are no more.
    pub(super) async fn manifests_here(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
    ) -> Result<Vec<Digest>, SyncError> {
        let (store, repository, after) = (self.store.clone(), repository.clone(), after.cloned());
        let behind = move || store.manifests_behind(&repository, after.as_ref(), PAGE_MAX);
        Ok(spawn::blocking(behind).await?)
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
                Ok(()) => log::info!("removed {repository}, which was not granted any more"),
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
        let lacked = self.lacked_tag(repository, tag, self.store.is_offered(repository)?)?;
        if lacked.may_be_lost() {
            match lacked.is_new_parent {
                // A comparison settles it first.
                true => self.state.hold_back(repository, item),
                false => self.state.paid(repository, &item),
            }
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
        let is_told = self.state.told().has_manifest(repository, digest);
        let kept = match self.upstream.keeps_manifest(repository, digest).await {
            // The parent has told that it deleted the manifest, so that it had it before.
            Err(UpstreamError::NotYet(_)) if is_told => Ok(false),
            kept => kept.map_err(SyncError::from),
        };
        match kept {
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
            // A comparison may yet find that the parent lost a tag of this manifest.
            self.state.hold_back(repository, item);
            return Ok(());
        }
        if self.lacked_manifest(repository, digest, false)?.may_be_lost() {
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

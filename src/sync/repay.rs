//! Sets aside items that cannot be fetched, and retries them.

use super::debts::{Item, Owed};
use super::error::SyncError;
use super::worker::Worker;
use crate::gateway::UpstreamError;
use crate::gateway::feed::Scope;
use crate::types::{Digest, Reference, RepositoryName, Tag};

/// Items that are retried before new messages get their turn.
const AT_ONCE: usize = 16;

/// Items in a row that the parent answers with a server error before this node asks whether
/// the parent works at all.
const FAULTS_MAX: u32 = 8;

impl Worker {
    /// Notes how a try ended. An item that cannot be fetched is set aside; an error that is
    /// returned ends the session.
    pub(super) async fn settle(
        &self,
        repository: &RepositoryName,
        item: Item,
        digest: Option<&Digest>,
        result: Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        match result {
            Ok(()) => {
                self.state.set(|now| now.faults = 0);
                self.state.paid(repository, &item);
                Ok(())
            }
            Err(error) if error.sets_aside() => {
                self.set_aside(repository, item, digest, &error).await.map(|_| ())
            }
            Err(error) => Err(error),
        }
    }

    /// Sets an item aside; `false` when nobody wants it any more, so that nothing is wrong.
    pub(super) async fn set_aside(
        &self,
        repository: &RepositoryName,
        item: Item,
        digest: Option<&Digest>,
        error: &SyncError,
    ) -> Result<bool, SyncError> {
        let no_room = error.lacks_room();
        // What does not fit is not asked for: there may be much of it, and a message tells of what
        // is not wanted any more.
        if no_room.is_none() && !self.is_wanted(repository, &item, digest).await? {
            self.state.paid(repository, &item);
            return Ok(false);
        }
        let (repository, digest) = (repository.clone(), digest.cloned());
        self.state.owe(&Owed { repository, item, digest, reason: error.to_string(), no_room });
        if no_room.is_some() {
            self.note_space();
        }
        self.look_at_parent(error).await?;
        Ok(true)
    }

    /// Whether the parent still has the item: it may have been deleted or moved since, and a
    /// message that says so is on its way.
    async fn is_wanted(
        &self,
        repository: &RepositoryName,
        item: &Item,
        digest: Option<&Digest>,
    ) -> Result<bool, SyncError> {
        let asked = match (item, digest) {
            (Item::Tag(tag), Some(digest)) => {
                let names = self.upstream.tag(repository, &Reference::Tag(tag.clone())).await;
                names.map(|names| names.as_ref() == Some(digest))
            }
            (Item::Manifest(digest), _) => self.upstream.keeps_manifest(repository, digest).await,
            (Item::Tag(_) | Item::Listing | Item::Deleted(_), _) => return Ok(true),
        };
        match asked.map_err(SyncError::from) {
            Ok(wanted) => Ok(wanted),
            Err(error) if error.is_of_item() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Ends the session when the parent cannot serve anything, so that it is not asked for one item
    /// after the other.
    async fn look_at_parent(&self, error: &SyncError) -> Result<(), SyncError> {
        if !matches!(error, SyncError::Upstream(UpstreamError::Busy(..))) {
            self.state.set(|now| now.faults = 0);
            return Ok(());
        }
        self.state.set(|now| now.faults += 1);
        if self.state.now().faults < FAULTS_MAX {
            return Ok(());
        }
        self.state.set(|now| now.faults = 0);
        match self.upstream.ping().await.map_err(SyncError::from) {
            // The fault is not of one item any more: the whole parent does not work.
            Err(error) if error.is_of_item() => {
                let text = format!("the parent hands out nothing: {error}");
                Err(UpstreamError::Unreachable(text).into())
            }
            answered => answered,
        }
    }

    /// Retries the debts that are due.
    pub(super) async fn repay(&self) -> Result<(), SyncError> {
        let now = self.store.sys().clock.monotonic();
        if self.state.debts().is_compare_due(now) {
            // What is not remembered is forgotten only where the comparison is sure to come.
            self.store.request_reconcile().await?;
            self.state.debts().forget_overflow();
            return Ok(());
        }
        let due = self.state.debts().due(now, AT_ONCE);
        if due.is_empty() {
            return Ok(());
        }
        let scope = Scope::of_config(&self.config()?);
        for (repository, item) in due {
            if !scope.covers(&repository) {
                self.state.paid(&repository, &item);
                continue;
            }
            match &item {
                Item::Listing => {
                    self.state.begin_listing();
                    let done = self.reconcile_repository(&repository).await;
                    self.note_listed().await?;
                    match done {
                        Err(error) if error.is_of_item() => {
                            self.settle(&repository, item, None, Err(error)).await?;
                        }
                        done => {
                            done?;
                            self.state.paid(&repository, &item);
                        }
                    }
                }
                Item::Tag(tag) => self.try_tag_again(&repository, tag).await?,
                Item::Deleted(digest) => self.delete_if_gone(&repository, digest).await?,
                Item::Manifest(digest) => {
                    let result = self.bring_manifest(&repository, digest).await;
                    self.settle(&repository, item.clone(), Some(digest), result).await?;
                }
            }
            self.synced_if_whole(&repository).await?;
        }
        Ok(())
    }

    /// Retries a tag with the manifest that it names at the parent by now.
    async fn try_tag_again(&self, repository: &RepositoryName, tag: &Tag) -> Result<(), SyncError> {
        if self.store.outbox_holds_tag(repository, tag)? {
            self.state.hold_back(repository, Item::Tag(tag.clone()));
            return Ok(());
        }
        let base = self.store.tag(repository, tag)?;
        let is_gone = self.state.told().has_tag(repository, tag);
        self.ask_for_tag(repository, tag, base, is_gone).await
    }

    /// Fetches a manifest that the parent has now.
    async fn bring_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), SyncError> {
        let closure = self.fetcher.resolve(repository, digest).await?;
        self.fetcher.note_asked().await?;
        self.fetcher.complete(repository, closure, None).await.map(|_| ())
    }

    /// Marks in the store that there are debts, before the message or the reconcile that found them
    /// is forgotten: after a restart only the mark is left of them.
    pub(super) async fn note_debts(&self) -> Result<(), SyncError> {
        if !self.state.debts().is_empty() {
            self.store.note_debts(true).await?;
        }
        Ok(())
    }
}

//! Lets tags name what they name at the parent.

use super::debts::Item;
use super::error::SyncError;
use super::worker::Worker;
use crate::gateway::UpstreamError;
use crate::types::{Digest, Reference, RepositoryName, Tag};

impl Worker {
    /// Makes a tag name what it names at the parent.
    pub(super) async fn follow_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        told: Option<Digest>,
        asks: bool,
    ) -> Result<(), SyncError> {
        let item = Item::Tag(tag.clone());
        let base = self.store.tag(repository, tag)?;
        if base == told {
            if let Some(digest) = &told {
                self.store.parent_has(repository, Some(tag), digest).await?;
            }
            return self.settle(repository, item, None, Ok(())).await;
        }
        if self.store.outbox_holds_tag(repository, tag)? {
            self.state.hold_back(repository, item);
            return Ok(());
        }
        // On a ReadWrite node the message may be the echo of an older push of ours: what counts is
        // what the tag names at the parent now.
        match asks {
            true => self.ask_for_tag(repository, tag, base, told.is_none()).await,
            false => self.bring_tag(repository, tag, base, told).await,
        }
    }

    /// Lets a tag that names `base` name what it names at the parent now. `is_gone`: the parent has
    /// told of its removal.
    pub(super) async fn ask_for_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        base: Option<Digest>,
        is_gone: bool,
    ) -> Result<(), SyncError> {
        let wanted = match self.upstream.tag(repository, &Reference::Tag(tag.clone())).await {
            Ok(wanted) => wanted,
            Err(UpstreamError::NotYet(_)) if is_gone => None,
            Err(error) => {
                let item = Item::Tag(tag.clone());
                return self.settle(repository, item, None, Err(error.into())).await;
            }
        };
        if wanted != base {
            self.fetcher.note_asked().await?;
        }
        self.bring_tag(repository, tag, base, wanted).await
    }

    /// Lets a tag that names `base` name what is wanted. What cannot be had is set aside.
    async fn bring_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        base: Option<Digest>,
        wanted: Option<Digest>,
    ) -> Result<(), SyncError> {
        let item = Item::Tag(tag.clone());
        let result = match (&wanted, base) {
            (Some(digest), Some(base)) if *digest == base => {
                self.store.parent_has(repository, Some(tag), digest).await?;
                Ok(())
            }
            (Some(digest), base) => {
                match self.fetcher.obtain(repository, digest, Some((tag, base))).await {
                    Ok(true) => Ok(()),
                    Ok(false) => {
                        self.state.hold_back(repository, item);
                        return Ok(());
                    }
                    Err(error) => Err(error),
                }
            }
            (None, Some(base)) => return self.remove_tag(repository, tag, base).await,
            (None, None) => Ok(()),
        };
        self.settle(repository, item, wanted.as_ref(), result).await
    }
}

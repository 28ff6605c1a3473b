//! Brings blobs up, each from where an interrupted attempt of it stopped.

use std::sync::Arc;

use super::error::SyncError;
use crate::gateway::{Upstream, UpstreamError};
use crate::store::Store;
use crate::store::content::blobs::OpenBlob;
use crate::types::{Digest, RepositoryName};

/// Blobs from this length on are noted on disk while they go up, bytes: below, sending all of it
/// again costs no more than two notes do.
const NOTED_BYTES_MIN: u64 = 1024 * 1024;

/// Uploads blobs to the parent.
pub(super) struct Uploader {
    pub(super) store: Store,
    pub(super) upstream: Arc<Upstream>,
}

/// A blob and where it goes.
pub(super) struct Content<'a> {
    pub(super) repository: &'a RepositoryName,
    pub(super) digest: &'a Digest,
    pub(super) blob: &'a OpenBlob,
}

impl Uploader {
    /// Goes on with an upload that the parent still has, or starts one; or has the parent link the
    /// blob from the repository `mount`.
    pub(super) async fn bring(
        &self,
        content: &Content<'_>,
        mount: Option<&RepositoryName>,
    ) -> Result<(), SyncError> {
        let Content { repository, digest, blob } = content;
        if let Some(location) = self.store.push_location(repository, digest)? {
            match self.resume(content, &location).await {
                Ok(()) => {
                    self.note(repository, digest, None).await;
                    return Ok(());
                }
                // It is gone, or it holds something else, as after a power cut: only what becomes
                // of a fresh one tells what the parent thinks of this blob.
                Err(UpstreamError::NotFound(why) | UpstreamError::Refused(_, why)) => {
                    log::info!("{digest} goes up to {repository} from the start: {why}");
                    self.note(repository, digest, None).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(location) = self.upstream.upload_start(repository, digest, mount).await? else {
            return Ok(());
        };
        if blob.len >= NOTED_BYTES_MIN {
            self.note(repository, digest, Some(&location)).await;
        }
        let sent = self.send(content, &location, 0).await;
        if matches!(sent, Ok(()) | Err(UpstreamError::Refused(..))) {
            self.note(repository, digest, None).await;
        }
        match sent {
            // It was there a moment ago: the next attempt starts another.
            Err(UpstreamError::NotFound(text)) => Err(UpstreamError::Busy(404, text).into()),
            other => Ok(other?),
        }
    }

    /// Notes where an upload is, or that none is needed any more. It saves bytes, no more: a disk
    /// that takes no note stops no push.
    pub(super) async fn note(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        location: Option<&str>,
    ) {
        if let Err(error) = self.store.note_push(repository, digest, location).await {
            log::warn!("cannot note how far {digest} has gone up to {repository}: {error}");
        }
    }

    async fn resume(&self, content: &Content<'_>, location: &str) -> Result<(), UpstreamError> {
        let offset = self.offset(content, location).await?;
        log::info!("{} goes up to {} from byte {offset} on", content.digest, content.repository);
        self.send(content, location, offset).await
    }

    /// Sends the rest. While bytes of an earlier request still come in the parent names another
    /// offset: that one counts, as long as it grows.
    async fn send(
        &self,
        content: &Content<'_>,
        location: &str,
        mut offset: u64,
    ) -> Result<(), UpstreamError> {
        let Content { repository, digest, blob } = content;
        loop {
            let sent = self.upstream.upload(repository, location, digest, blob, offset).await;
            let Err(UpstreamError::Refused(416, why)) = sent else {
                return sent;
            };
            let now = self.offset(content, location).await?;
            if now <= offset {
                return Err(UpstreamError::Refused(416, why));
            }
            offset = now;
        }
    }

    async fn offset(&self, content: &Content<'_>, location: &str) -> Result<u64, UpstreamError> {
        let Content { repository, blob, .. } = content;
        let offset = self.upstream.upload_offset(repository, location, blob.len).await?;
        if offset > blob.len {
            let text = format!("the parent has {offset} bytes of {}", blob.len);
            return Err(UpstreamError::NotFound(text));
        }
        Ok(offset)
    }
}

//! Layers that may lie elsewhere and come to the parent after their image.

use std::collections::BTreeMap;

use super::error::SyncError;
use super::fetch::{Fetcher, OPTIONAL_MAX, left_out};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName};

impl Fetcher {
    /// Fetches what an image that is here names, and what may lie elsewhere, as far as it is not
    /// here and the parent has it by now. What cannot be had is left out; an error is one of the
    /// link.
    pub(super) async fn look_elsewhere(
        &self,
        repository: &RepositoryName,
        image: &Digest,
    ) -> Result<(), SyncError> {
        match self.bring_elsewhere(repository, image).await {
            Err(error) if !error.ends_session() => {
                left_out(repository, image, &error);
                Ok(())
            }
            brought => brought,
        }
    }

    async fn bring_elsewhere(
        &self,
        repository: &RepositoryName,
        image: &Digest,
    ) -> Result<(), SyncError> {
        let (store, name, root) = (self.store.clone(), repository.clone(), image.clone());
        let missing =
            spawn::blocking(move || store.missing_elsewhere(&name, &root, OPTIONAL_MAX)).await?;
        let mut there = BTreeMap::new();
        for digest in missing {
            let now = self.store.sys().clock.monotonic();
            if !self.absent.is_worth_asking(repository, &digest, now) {
                continue;
            }
            match self.upstream.blob_len(repository, &digest).await.map_err(SyncError::from) {
                Ok(Some(len)) => {
                    there.insert(digest, len);
                }
                Ok(None) => self.absent.note(repository, &digest, now),
                Err(error) if error.is_of_item() => {
                    self.absent.note(repository, &digest, now);
                    left_out(repository, &digest, &error);
                }
                Err(error) => return Err(error),
            }
        }
        self.blobs(repository, there, false).await
    }
}

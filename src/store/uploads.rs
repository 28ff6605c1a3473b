//! Unfinished content: pushes, and blobs half fetched from the parent. Both survive a restart.

use super::{Store, StoreError};
use crate::types::{Digest, RepositoryName};

/// An unfinished upload, held by one request at a time.
pub struct Upload {}

impl Store {
    /// Starts an upload; fails with `Full` below the reserve, `Unavailable` above the limit.
    pub async fn upload_start(&self, _repository: &RepositoryName) -> Result<Upload, StoreError> {
        todo!()
    }

    /// Takes an upload up again: `NotFound` when there is none of this id in this repository,
    /// `Conflict` while another request holds it.
    pub async fn upload_resume(
        &self,
        _repository: &RepositoryName,
        _id: &str,
    ) -> Result<Upload, StoreError> {
        todo!()
    }

    /// The bytes received so far, without taking the upload.
    pub async fn upload_offset(
        &self,
        _repository: &RepositoryName,
        _id: &str,
    ) -> Result<u64, StoreError> {
        todo!()
    }

    /// The partial fetch of a blob, created or taken up where it stopped; its id is the digest.
    pub async fn fetch_resume(&self, _digest: &Digest) -> Result<Upload, StoreError> {
        todo!()
    }
}

impl Upload {
    /// Its id: a UUID, or the digest of a fetch.
    pub fn id(&self) -> &str {
        todo!()
    }

    /// Bytes received so far.
    pub fn offset(&self) -> u64 {
        todo!()
    }

    /// Appends bytes: hashed and written once.
    pub async fn write(&mut self, _bytes: &[u8]) -> Result<(), StoreError> {
        todo!()
    }

    /// Checks the digest and makes the content durable under its name; returns its length.
    /// `Invalid` when the digest differs: the upload is then removed.
    pub async fn finish(self, _digest: &Digest) -> Result<u64, StoreError> {
        todo!()
    }

    /// Removes the upload.
    pub async fn cancel(self) -> Result<(), StoreError> {
        todo!()
    }
}

//! Content: layers, configs and manifests, named by digest, immutable.

use std::sync::Arc;

use super::{Store, StoreError};
use crate::sys::disk::DiskFile;
use crate::types::Digest;

/// Content, open for reading.
#[derive(Clone)]
pub struct OpenBlob {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its length, bytes.
    pub len: u64,
}

impl Store {
    /// Opens content; `None` when it is not here. Knowing a digest grants nothing: callers look
    /// the link of their repository up first.
    pub async fn blob_open(&self, _digest: &Digest) -> Result<Option<OpenBlob>, StoreError> {
        todo!()
    }

    /// Reads small content whole and checks its digest: manifests.
    pub async fn blob_read(&self, _digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        todo!()
    }

    /// Stores small content durably: manifests. The caller has checked the digest.
    pub async fn blob_put(&self, _digest: &Digest, _bytes: Vec<u8>) -> Result<(), StoreError> {
        todo!()
    }
}

//! The row of a repository.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key};
use crate::types::{RepositoryName, UnixSeconds};

/// A repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RepositoryRow {
    /// When it was first pushed to, or synced.
    pub created: UnixSeconds,
    /// Length of the blobs and manifests that may be pulled from it, bytes.
    pub bytes: u64,
}

impl Row for RepositoryRow {
    const VERSION: u8 = 1;
}

/// The key of a repository.
pub fn repository_key(repository: &RepositoryName) -> Vec<u8> {
    key(Kind::Repository, &[repository.as_str().as_bytes()])
}

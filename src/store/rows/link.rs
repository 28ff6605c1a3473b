//! The links of a repository to content.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key};
use crate::types::{Digest, RepositoryName};

/// A blob that may be pulled from a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlobLink {
    /// Its length, bytes.
    pub size: u64,
}

impl Row for BlobLink {
    const VERSION: u8 = 1;
}

/// The key of a blob's link.
pub fn blob_key(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    key(Kind::Blob, &[repository.as_str().as_bytes(), &digest.to_key()])
}

/// How a repository refers to content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Referred {
    /// As a blob of this length, bytes.
    Blob(u64),
    /// As a manifest of this length, bytes.
    Manifest(u64),
}

impl Referred {
    /// The length that the content must have, bytes.
    pub(in crate::store) fn len(self) -> u64 {
        let (Referred::Blob(len) | Referred::Manifest(len)) = self;
        len
    }
}

/// The repository of a link's key.
pub(in crate::store) fn repository_of(key: &[u8]) -> Option<RepositoryName> {
    split_key(key).and_then(|(name, _)| std::str::from_utf8(name).ok()?.parse().ok())
}

/// The repository's name and the digest that a key of a blob's link or a manifest holds.
pub(in crate::store) fn split_key(key: &[u8]) -> Option<(&[u8], Digest)> {
    let end = key.iter().position(|byte| *byte == 0)?;
    Some((key.get(1..end)?, Digest::from_key(&key[end + 1..])?))
}

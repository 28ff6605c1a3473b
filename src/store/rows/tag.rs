//! The row of a tag.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, is_default, key, prefix};
use crate::store::rows;
use crate::types::{Digest, RepositoryName, Tag, UnixSeconds};

/// A tag.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TagRow {
    /// What it names.
    pub digest: Digest,
    /// When it was first set.
    pub created: UnixSeconds,
    /// When it was last moved.
    pub updated: UnixSeconds,
    /// On a connected registry: a client of it, or of one below it, has set it last, and not the
    /// parent.
    #[serde(skip_serializing_if = "is_default")]
    pub from_below: bool,
}

impl Row for TagRow {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<TagRow, postcard::Error> {
        let ((digest, created, updated), left) = postcard::take_from_bytes(bytes)?;
        Ok(TagRow { digest, created, updated, from_below: rows::last(left)? })
    }
}

/// The key of a tag.
pub fn tag_key(repository: &RepositoryName, tag: &Tag) -> Vec<u8> {
    key(Kind::Tag, &[repository.as_str().as_bytes(), tag.as_str().as_bytes()])
}

/// The key of the note that a tag came of a conflict; it goes with the tag.
pub(in crate::store) fn conflict_key(repository: &RepositoryName, tag: &Tag) -> Vec<u8> {
    let parts = [&b"conflict"[..], repository.as_str().as_bytes(), tag.as_str().as_bytes()];
    key(Kind::Node, &parts)
}

/// What the keys of these notes begin with, of one repository.
pub(in crate::store) fn conflicts_of(repository: &RepositoryName) -> Vec<u8> {
    prefix(Kind::Node, &[b"conflict", repository.as_str().as_bytes()])
}

//! The row of a manifest without a tag, as garbage collection has seen it.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key};
use crate::types::{Digest, RepositoryName, UnixSeconds};

/// Since when a manifest has no tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) struct Untagged(pub(in crate::store) UnixSeconds);

impl Row for Untagged {
    const VERSION: u8 = 1;
}

pub(in crate::store) fn untagged_key(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    key(Kind::Untagged, &[repository.as_str().as_bytes(), &digest.to_key()])
}

//! The row of a manifest without a tag, as garbage collection has seen it.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, is_default, key, last};
use crate::types::{Digest, RepositoryName, UnixSeconds};

/// Since when a manifest has no tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) struct Untagged {
    /// By the wall clock, for versions that go by it.
    pub(in crate::store) since: UnixSeconds,
    /// How long the node had been on, seconds. 0: of an earlier version, which did not note it.
    #[serde(skip_serializing_if = "is_default")]
    pub(in crate::store) on: u64,
}

impl Row for Untagged {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<Untagged, postcard::Error> {
        let (since, left) = postcard::take_from_bytes(bytes)?;
        Ok(Untagged { since, on: last(left)? })
    }
}

pub(in crate::store) fn untagged_key(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    key(Kind::Untagged, &[repository.as_str().as_bytes(), &digest.to_key()])
}

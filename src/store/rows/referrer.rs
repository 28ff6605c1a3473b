//! The row of a manifest that refers to another one.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key};
use crate::types::{Digest, RepositoryName};

/// Marks that a manifest refers to a subject; the manifest's own row says the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReferrerRow;

impl Row for ReferrerRow {
    const VERSION: u8 = 1;
}

/// The key of a referrer. The first byte of a digest gives its length, so that no two pairs share
/// a key although digests may hold zero bytes.
pub fn referrer_key(repository: &RepositoryName, subject: &Digest, digest: &Digest) -> Vec<u8> {
    let parts = [repository.as_str().as_bytes(), &subject.to_key(), &digest.to_key()];
    key(Kind::Referrer, &parts)
}

//! The row of the uploads to the parent that are under way.

use serde::{Deserialize, Serialize};

use super::Row;
use crate::types::{Digest, RepositoryName};

/// Uploads under way, oldest first.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::store) struct Pushes(pub(in crate::store) Vec<Push>);

/// One of them, an element of a list.
#[derive(Serialize, Deserialize)]
pub(in crate::store) struct Push {
    pub(in crate::store) repository: RepositoryName,
    pub(in crate::store) digest: Digest,
    /// What the parent calls the upload.
    pub(in crate::store) location: String,
}

impl Row for Pushes {
    const VERSION: u8 = 1;
}

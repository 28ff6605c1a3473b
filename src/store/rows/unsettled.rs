//! The rows of what was taken from a connected registry and not yet from all below it.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key};
use crate::types::{ConnectedRegistryName, RepositoryPattern};

/// The nodes below one may have more than it: see [`unsettled_key`].
#[derive(Serialize, Deserialize)]
pub(in crate::store) struct Unsettled {
    /// The node above them.
    pub(in crate::store) above: ConnectedRegistryName,
    /// What is taken from them whether it is granted above or not.
    pub(in crate::store) repositories: Vec<RepositoryPattern>,
}

impl Row for Unsettled {
    const VERSION: u8 = 1;
}

/// The key of what the nodes below this one are yet to lose.
pub(in crate::store) fn unsettled_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::Unsettled, &[name.as_str().as_bytes()])
}

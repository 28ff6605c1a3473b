//! The rows of the tree of connected registries: each with its activation and its last status.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key};
use crate::types::connected_registry::{Activation, StatusReport};
use crate::types::{ConnectedRegistry, ConnectedRegistryName, UnixSeconds};

impl Row for ConnectedRegistry {
    const VERSION: u8 = 1;
}

impl Row for Activation {
    const VERSION: u8 = 1;
}

/// The last status report of an instance, as its parent or a node above it holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusRecord {
    /// What the instance said.
    pub report: StatusReport,
    /// When it was last in contact.
    pub last_contact: UnixSeconds,
}

impl Row for StatusRecord {
    const VERSION: u8 = 1;
}

/// The key of a connected registry.
pub fn connected_registry_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::ConnectedRegistry, &[name.as_str().as_bytes()])
}

/// The key of the activation of a connected registry.
pub fn activation_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::Activation, &[name.as_str().as_bytes()])
}

/// The key of the last status report of a connected registry.
pub fn status_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::Status, &[name.as_str().as_bytes()])
}

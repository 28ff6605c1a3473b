//! The desired state of a node.

use serde::{Deserialize, Serialize};

use super::connected_registry::ConnectedRegistryV1;
use super::envelope::{Kind, WireError};
use super::token::{ScopeMapV1, TokenV1};
use super::{Format, Wire, all};
use crate::types::ConnectedRegistryName;
use crate::types::message::{Descendant, NodeConfig};

#[derive(Serialize, Deserialize)]
struct ConfigV1 {
    registry: String,
    node: ConnectedRegistryV1,
    sync_token: TokenV1,
    client_tokens: Vec<TokenV1>,
    children: Vec<ConnectedRegistryV1>,
    child_tokens: Vec<TokenV1>,
    scope_maps: Vec<ScopeMapV1>,
    descendants: Vec<DescendantV1>,
}

#[derive(Serialize, Deserialize)]
struct DescendantV1 {
    name: ConnectedRegistryName,
    version: String,
}

impl Wire for NodeConfig {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        format.write(Kind::NodeConfig, &ConfigV1::from(self))
    }

    fn read(format: Format, bytes: &[u8]) -> Result<NodeConfig, WireError> {
        format.read::<ConfigV1>(Kind::NodeConfig, bytes).map(NodeConfig::from)
    }
}

/// What the version of a desired state is a digest over. A node between two others computes it anew
/// from what it was sent, and so may one of an adjacent version: for a state that has nothing that
/// is newer these bytes never change.
pub fn versioned_bytes(config: NodeConfig) -> Result<Vec<u8>, WireError> {
    postcard::to_allocvec(&ConfigV1::from(config)).map_err(|error| WireError(error.to_string()))
}

impl From<NodeConfig> for ConfigV1 {
    fn from(config: NodeConfig) -> ConfigV1 {
        ConfigV1 {
            registry: config.registry,
            node: config.node.into(),
            sync_token: config.sync_token.into(),
            client_tokens: all(config.client_tokens),
            children: all(config.children),
            child_tokens: all(config.child_tokens),
            scope_maps: all(config.scope_maps),
            descendants: all(config.descendants),
        }
    }
}

impl From<ConfigV1> for NodeConfig {
    fn from(config: ConfigV1) -> NodeConfig {
        NodeConfig {
            registry: config.registry,
            node: config.node.into(),
            sync_token: config.sync_token.into(),
            client_tokens: all(config.client_tokens),
            children: all(config.children),
            child_tokens: all(config.child_tokens),
            scope_maps: all(config.scope_maps),
            descendants: all(config.descendants),
        }
    }
}

impl From<Descendant> for DescendantV1 {
    fn from(Descendant { name, version }: Descendant) -> DescendantV1 {
        DescendantV1 { name, version }
    }
}

impl From<DescendantV1> for Descendant {
    fn from(DescendantV1 { name, version }: DescendantV1) -> Descendant {
        Descendant { name, version }
    }
}

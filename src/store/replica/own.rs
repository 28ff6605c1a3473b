//! What a node and those below it are, by the rows of their desired states.

use crate::store::rows::node::{descendant_key, self_config_key};
use crate::store::{StoreError, Txn, rows};
use crate::types::message::NodeConfig;
use crate::types::{ConnectedRegistry, ConnectedRegistryName};

/// See [`Store::self_config`].
pub(in crate::store) fn own_config(txn: &Txn<'_>) -> Result<Option<NodeConfig>, StoreError> {
    txn.bytes(&self_config_key())?.map(|row| rows::node::own_config(&row)).transpose()
}

/// See [`Store::self_registry`].
pub(in crate::store) fn own_registry(txn: &Txn<'_>) -> Result<Option<String>, StoreError> {
    txn.bytes(&self_config_key())?.map(|row| rows::node::own_registry(&row)).transpose()
}

/// The name of this node, which is in the names of its changes; `None`: its changes go nowhere.
pub(in crate::store) fn own_name(
    txn: &Txn<'_>,
) -> Result<Option<ConnectedRegistryName>, StoreError> {
    txn.head(&self_config_key())?.map(|head| rows::node::own_name(&head)).transpose()
}

/// See [`Store::self_node`].
pub(in crate::store) fn own_node(txn: &Txn<'_>) -> Result<Option<ConnectedRegistry>, StoreError> {
    txn.bytes(&self_config_key())?.map(|row| rows::node::own_node(&row)).transpose()
}

/// The connected registry of a desired state that this node passes on to it.
pub(in crate::store) fn sent_node(
    txn: &Txn<'_>,
    name: &ConnectedRegistryName,
) -> Result<Option<ConnectedRegistry>, StoreError> {
    txn.bytes(&descendant_key(name))?.map(|row| rows::node::own_node(&row)).transpose()
}

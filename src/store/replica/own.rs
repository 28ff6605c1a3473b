//! What a node is, by the row of its own desired state.

use crate::store::rows::node::self_config_key;
use crate::store::{StoreError, Txn, rows};
use crate::types::ConnectedRegistry;
use crate::types::message::NodeConfig;

/// See [`Store::self_config`].
pub(in crate::store) fn own_config(txn: &Txn<'_>) -> Result<Option<NodeConfig>, StoreError> {
    txn.bytes(&self_config_key())?.map(|row| rows::node::own_config(&row)).transpose()
}

/// See [`Store::self_node`].
pub(in crate::store) fn own_node(txn: &Txn<'_>) -> Result<Option<ConnectedRegistry>, StoreError> {
    txn.bytes(&self_config_key())?.map(|row| rows::node::own_node(&row)).transpose()
}

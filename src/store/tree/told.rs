//! The nodes below this one, as commands look for them.

use super::command;
use crate::store::replica::own::sent_node;
use crate::store::{StoreError, Txn};
use crate::types::{ConnectedRegistry, ConnectedRegistryName};

/// The resource of a node below this one: at its parent a row says what it is, and further up, but
/// for the root, the desired state that is passed on.
pub fn node_below(
    txn: &Txn<'_>,
    name: &ConnectedRegistryName,
) -> Result<Option<ConnectedRegistry>, StoreError> {
    match command::connected_registry(txn, name)? {
        Some(node) => Ok(Some(node)),
        None => sent_node(txn, name),
    }
}

/// `NotFound` unless this very connected registry is still there: one that was deleted leaves
/// nothing to the next one of its name.
pub fn require_below(txn: &Txn<'_>, node: &ConnectedRegistry) -> Result<(), StoreError> {
    match node_below(txn, &node.name)?.filter(|now| now.created == node.created) {
        Some(_) => Ok(()),
        None => Err(StoreError::NotFound),
    }
}

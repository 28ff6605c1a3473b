//! What nodes tell of those below them, and whether that still counts.

use super::command;
use crate::store::replica::own::sent_node;
use crate::store::rows::connected_registry::{StatusRecord, activation_key};
use crate::store::{Store, StoreError, Txn};
use crate::types::connected_registry::Activation;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, UnixSeconds};

impl Store {
    /// Whether what is recorded of a node was told since the instance that stands above it is the
    /// one that is active: another one, which took its place, need not have heard of the node.
    pub fn still_counts(
        &self,
        node: &ConnectedRegistry,
        status: &StatusRecord,
    ) -> Result<bool, StoreError> {
        let now = self.sys().clock.wall();
        let since = self.look_up(|index| speaks_since(&Txn::new(index), node, now))?;
        Ok(counts(status.last_contact, since))
    }
}

/// Since when the instance above a node has been the active one. `None`: it is this node, or
/// nobody knows.
pub fn speaks_since(
    txn: &Txn<'_>,
    node: &ConnectedRegistry,
    now: Option<UnixSeconds>,
) -> Result<Option<UnixSeconds>, StoreError> {
    let Some(parent) = &node.parent else {
        return Ok(None);
    };
    let activation = txn.get::<Activation>(&activation_key(parent))?;
    Ok(activation.map(|activation| activation.at).filter(|at| at.is_past(now)))
}

/// Whether what was told then was told by the instance that speaks since then. Of the same second
/// it was told by the one before: see [`told_at`].
pub fn counts(told: UnixSeconds, since: Option<UnixSeconds>) -> bool {
    since.is_none_or(|since| told > since)
}

/// When something counts as told that is told now, by the instance that speaks since then: after
/// that in any case, also in the same second, and while the time is unknown.
pub fn told_at(now: UnixSeconds, since: Option<UnixSeconds>) -> UnixSeconds {
    since.map_or(now, |since| now.max(since.plus(1)))
}

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

//! The permission cascade: what a connected registry may mirror, its parent may mirror too.
//!
//! What is added to the scope map of a sync token is added to those of all its ancestors, in the
//! record of the change itself. What is removed is taken from those of all its descendants: in
//! records of their own that follow, because there may be any number (see [`super::withdrawal`]).

use std::collections::BTreeSet;

use super::command;
use super::granted::{Granted, lacking};
use crate::store::{StoreError, Txn};
use crate::types::limits::TREE_DEPTH_MAX;
use crate::types::token::ScopeMap;
use crate::types::{
    ConnectedRegistry, ConnectedRegistryName, Grant, Mode, RepositoryAction, RepositoryPattern,
    ScopeMapName, TokenName,
};

/// ReadWrite connected registries, each with repositories that it may not write to.
pub type WithoutWrite = Vec<(ConnectedRegistryName, Vec<RepositoryPattern>)>;

/// A scope map that changed because that of a connected registry above or below did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlsoChanged {
    /// Whose sync token has it.
    pub connected_registry: ConnectedRegistryName,
    /// Its name.
    pub scope_map: ScopeMapName,
    /// Granted now: a parent is granted what its child is.
    pub added: Vec<Grant>,
    /// Not granted any more: a child is granted no more than its parent.
    pub removed: Vec<Grant>,
}

impl AlsoChanged {
    /// What became of a scope map, if anything.
    pub(super) fn between(
        connected_registry: ConnectedRegistryName,
        before: &ScopeMap,
        now: &ScopeMap,
    ) -> Option<AlsoChanged> {
        let added = lacking(&now.grants, &before.grants);
        let removed = lacking(&before.grants, &now.grants);
        let scope_map = before.name.clone();
        let changed = !added.is_empty() || !removed.is_empty();
        changed.then_some(AlsoChanged { connected_registry, scope_map, added, removed })
    }
}

/// Grants the ancestors of this node what it is granted. Returns their scope maps that changed.
pub(super) fn settle_above(
    txn: &mut Txn<'_>,
    node: &ConnectedRegistry,
) -> Result<Vec<AlsoChanged>, StoreError> {
    let wanted = sync_map(txn, node)?.grants;
    let mut changed = Vec::new();
    for ancestor in ancestors(txn, node)? {
        let before = sync_map(txn, &ancestor)?;
        let granted = Granted::of(&before.grants);
        let missing: Vec<Grant> =
            wanted.iter().filter(|grant| !granted.cover(grant)).cloned().collect();
        if !missing.is_empty() {
            // A store of an older version may have one that is shared.
            refuse_shared_map(txn, &before.name, &ancestor.sync_token)?;
            let mut map = before.clone();
            map.grants.extend(missing);
            let now = command::put_scope_map(txn, map)?;
            changed.extend(AlsoChanged::between(ancestor.name, &before, &now));
        }
    }
    Ok(changed)
}

/// The ReadWrite ancestors of a node that do not write to some of these repositories, with those:
/// they take no pushes there.
pub(in crate::store) fn without_write(
    txn: &Txn<'_>,
    node: &ConnectedRegistry,
    repositories: &[RepositoryPattern],
) -> Result<WithoutWrite, StoreError> {
    let mut found = Vec::new();
    let path = ancestors(txn, node)?;
    for ancestor in path.into_iter().filter(|ancestor| ancestor.mode == Mode::ReadWrite) {
        let granted = sync_map(txn, &ancestor)?.grants;
        let granted = Granted::of(&granted);
        let write = RepositoryAction::ContentWrite;
        let missing = repositories.iter().filter(|one| !granted.cover_pattern(one, write));
        let missing: Vec<RepositoryPattern> = missing.cloned().collect();
        if !missing.is_empty() {
            found.push((ancestor.name, missing));
        }
    }
    Ok(found)
}

/// The scope map of a node's sync token.
pub(in crate::store) fn sync_map(
    txn: &Txn<'_>,
    node: &ConnectedRegistry,
) -> Result<ScopeMap, StoreError> {
    let token = command::token(txn, &node.sync_token)?.ok_or_else(|| lost(&node.name))?;
    command::scope_map(txn, &token.scope_map)?.ok_or_else(|| lost(&node.name))
}

/// The ancestors of a node, nearest first. `Corrupt` when there are more than a tree has levels: a
/// parent exists before its child and never changes, so that only damage makes a circle.
pub(in crate::store) fn ancestors(
    txn: &Txn<'_>,
    node: &ConnectedRegistry,
) -> Result<Vec<ConnectedRegistry>, StoreError> {
    let mut list: Vec<ConnectedRegistry> = Vec::new();
    let mut next = node.parent.clone();
    while let Some(name) = next {
        if list.len() == TREE_DEPTH_MAX {
            return Err(StoreError::Corrupt(format!(
                "'{}' has more than {TREE_DEPTH_MAX} connected registries above it",
                node.name
            )));
        }
        let parent = command::connected_registry(txn, &name)?.ok_or_else(|| lost(&name))?;
        next = parent.parent.clone();
        list.push(parent);
    }
    Ok(list)
}

/// The descendants of `name` among `all`, each once, parents before their children.
pub(in crate::store) fn descendants_among(
    all: &[ConnectedRegistry],
    name: &ConnectedRegistryName,
) -> Vec<ConnectedRegistry> {
    let mut children: std::collections::BTreeMap<_, Vec<&ConnectedRegistry>> = Default::default();
    for node in all.iter().filter(|node| node.name != *name) {
        if let Some(parent) = &node.parent {
            children.entry(parent).or_default().push(node);
        }
    }
    let mut list: Vec<ConnectedRegistry> = Vec::new();
    let mut level = vec![name];
    while !level.is_empty() {
        let below: Vec<&ConnectedRegistry> =
            level.iter().filter_map(|name| children.get(*name)).flatten().copied().collect();
        level = below.iter().map(|node| &node.name).collect();
        list.extend(below.into_iter().cloned());
    }
    list
}

/// A sync token has its scope map for itself. What is granted below its connected registry is
/// granted in it too: a client's token beside it would be granted that, and with another sync token
/// a change would reach into another branch of the tree. `Conflict` where another token uses it.
pub(super) fn refuse_shared_map(
    txn: &Txn<'_>,
    map: &ScopeMapName,
    sync_token: &TokenName,
) -> Result<(), StoreError> {
    let users = command::users_of_map(txn, map, 2)?;
    match users.iter().find(|user| *user != sync_token) {
        Some(user) => Err(StoreError::Conflict(format!(
            "The scope map '{map}' is used by the token '{user}' too, which would be granted \
             whatever is granted to the connected registry and below it. Give '{user}' another \
             one: skerry token update --name {user} --scope-map NAME; or the sync token \
             '{sync_token}', with all that the nodes below are to keep"
        ))),
        None => Ok(()),
    }
}

/// What [`refuse_shared_map`] says, for a client's token that is to have the scope map: `Conflict`
/// where that of a sync token is meant. Such a token is the only one with its map; in a store of an
/// older version it may not be, and one more is let be, for such a map does not grow.
pub(super) fn refuse_sync_map(txn: &Txn<'_>, map: &ScopeMapName) -> Result<(), StoreError> {
    let [user] = &command::users_of_map(txn, map, 2)?[..] else {
        return Ok(());
    };
    match command::sync_token_of(txn, user)? {
        Some(owner) => Err(StoreError::Conflict(format!(
            "The scope map '{map}' is that of the sync token '{user}' of the connected registry \
             '{owner}': whatever is granted to that and below it would be granted to this token \
             too. Give this one a scope map of its own."
        ))),
        None => Ok(()),
    }
}

/// A connected registry and those below it sync by the gateway actions in its sync scope map:
/// `Conflict` where one of a connected registry that is there was taken out.
pub(super) fn refuse_cut_off(
    txn: &Txn<'_>,
    owner: &ConnectedRegistry,
    before: &ScopeMap,
    now: &ScopeMap,
) -> Result<(), StoreError> {
    for grant in lacking(&before.grants, &now.grants) {
        let Grant::Gateway(name, _) = &grant else { continue };
        let path = match command::connected_registry(txn, name) {
            Ok(Some(node)) => ancestors(txn, &node).map(|path| (node, path)),
            Ok(None) => continue,
            Err(error) => Err(error),
        };
        let (node, path) = match path {
            Ok(found) => found,
            // A damaged row keeps nobody from withdrawing something.
            Err(StoreError::Corrupt(_)) => continue,
            Err(error) => return Err(error),
        };
        let mut path = path.into_iter().map(|ancestor| ancestor.name);
        if node.name == owner.name || path.any(|name| name == owner.name) {
            return Err(StoreError::Conflict(format!(
                "The connected registry '{name}' cannot sync without '{grant}'. To shut it out: \
                 skerry token update --name {} --status disabled; to be rid of it: skerry \
                 connected-registry delete --name {name}",
                node.sync_token
            )));
        }
    }
    Ok(())
}

/// Takes every action on these repositories from a sync scope map, as written there.
pub(super) fn strip(map: &mut ScopeMap, repositories: &BTreeSet<RepositoryPattern>) {
    map.grants.retain(|grant| match grant {
        Grant::Repository(pattern, _) => !repositories.contains(pattern),
        Grant::Gateway(..) => true,
    });
}

pub(super) fn lost(name: &ConnectedRegistryName) -> StoreError {
    StoreError::Corrupt(format!("the parent, sync token or scope map of '{name}' is gone"))
}

#[cfg(test)]
mod tests;

//! The permission cascade: what a connected registry may mirror, its parent may mirror too.
//!
//! What is added to the scope map of a sync token is added to those of all its ancestors; what is
//! removed is taken from those of all its descendants. Both happen in the record of the change
//! itself, so that no reader and no crash sees a child that is granted more than its parent.

use super::command;
use crate::store::{StoreError, Txn};
use crate::types::limits::TREE_DEPTH_MAX;
use crate::types::token::ScopeMap;
use crate::types::{
    ConnectedRegistry, ConnectedRegistryName, Grant, Mode, RepositoryAction, RepositoryPattern,
    ScopeMapName,
};

/// ReadWrite connected registries, each with repositories that it may not write to.
pub(super) type WithoutWrite = Vec<(ConnectedRegistryName, Vec<RepositoryPattern>)>;

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

/// The scope maps above and below a connected registry, as they were before a change of its own.
pub(super) struct Around(Vec<(ConnectedRegistryName, ScopeMap)>);

impl Around {
    /// As they are now. Without a connected registry there are none.
    pub(super) fn of(
        txn: &Txn<'_>,
        node: Option<&ConnectedRegistry>,
    ) -> Result<Around, StoreError> {
        let mut maps = Vec::new();
        if let Some(node) = node {
            for other in ancestors(txn, node)?.into_iter().chain(descendants(txn, &node.name)?) {
                let map = sync_map(txn, &other)?;
                maps.push((other.name, map));
            }
        }
        Ok(Around(maps))
    }

    /// What has become of them.
    pub(super) fn changed(self, txn: &Txn<'_>) -> Result<Vec<AlsoChanged>, StoreError> {
        let mut changed = Vec::new();
        for (connected_registry, before) in self.0 {
            let now = command::scope_map(txn, &before.name)?;
            let now = now.ok_or_else(|| lost(&connected_registry))?.grants;
            let lacking = |these: &[Grant], those: &[Grant]| -> Vec<Grant> {
                these.iter().filter(|grant| !those.contains(grant)).cloned().collect()
            };
            let (added, removed) = (lacking(&now, &before.grants), lacking(&before.grants, &now));
            if !added.is_empty() || !removed.is_empty() {
                let scope_map = before.name;
                changed.push(AlsoChanged { connected_registry, scope_map, added, removed });
            }
        }
        Ok(changed)
    }
}

/// Restores the rule after a change of this node's sync scope map: up, then down.
pub(in crate::store) fn settle(
    txn: &mut Txn<'_>,
    node: &ConnectedRegistry,
) -> Result<(), StoreError> {
    let wanted = sync_map(txn, node)?.grants;
    for ancestor in ancestors(txn, node)? {
        let mut map = sync_map(txn, &ancestor)?;
        let missing = wanted.iter().filter(|grant| !covered(&map.grants, grant));
        let missing: Vec<Grant> = missing.cloned().collect();
        if !missing.is_empty() {
            map.grants.extend(missing);
            command::put_scope_map(txn, map)?;
        }
    }
    for descendant in descendants(txn, &node.name)? {
        let Some(parent) = descendant
            .parent
            .as_ref()
            .map(|name| command::connected_registry(txn, name))
            .transpose()?
        else {
            continue;
        };
        let above = sync_map(txn, &parent.ok_or_else(|| lost(&descendant.name))?)?;
        let mut map = sync_map(txn, &descendant)?;
        let mut kept = intersection(&map.grants, &above.grants);
        kept.sort();
        kept.dedup();
        if kept != map.grants {
            map.grants = kept;
            command::put_scope_map(txn, map)?;
        }
    }
    Ok(())
}

/// The ReadWrite ancestors of a node that do not write to some of these repositories, with those:
/// they take no pushes there.
pub(in crate::store) fn without_write(
    txn: &Txn<'_>,
    node: &ConnectedRegistry,
    repositories: &[RepositoryPattern],
) -> Result<WithoutWrite, StoreError> {
    let mut found = Vec::new();
    for ancestor in ancestors(txn, node)? {
        let granted = sync_map(txn, &ancestor)?.grants;
        let write = |repository: &RepositoryPattern| {
            Grant::Repository(repository.clone(), RepositoryAction::ContentWrite)
        };
        let missing = repositories.iter().filter(|one| !covered(&granted, &write(one)));
        let missing: Vec<RepositoryPattern> = missing.cloned().collect();
        if ancestor.mode == Mode::ReadWrite && !missing.is_empty() {
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

/// The descendants of a node, parents before their children.
pub(in crate::store) fn descendants(
    txn: &Txn<'_>,
    name: &ConnectedRegistryName,
) -> Result<Vec<ConnectedRegistry>, StoreError> {
    let (mut list, mut level) = (Vec::new(), vec![name.clone()]);
    while !level.is_empty() {
        let mut below = Vec::new();
        for above in &level {
            // In a damaged store the parents may form a circle.
            let children = command::children(txn, above, usize::MAX)?.into_iter();
            below.extend(children.filter(|child| child != name));
        }
        for child in &below {
            list.extend(command::connected_registry(txn, child)?);
        }
        level = below;
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

/// A scope map belongs to at most one sync token: otherwise a change below one node would reach
/// into another branch of the tree.
pub(in crate::store) fn refuse_shared_map(
    txn: &Txn<'_>,
    map: &ScopeMapName,
    except: Option<&ConnectedRegistryName>,
) -> Result<(), StoreError> {
    match owner(txn, map)? {
        Some(owner) if Some(&owner.name) != except => Err(StoreError::Conflict(format!(
            "The scope map '{map}' is already that of the connected registry '{}'; give the sync \
             token one of its own.",
            owner.name
        ))),
        _ => Ok(()),
    }
}

/// Whether one of `grants` covers `wanted`.
pub(in crate::store) fn covered(grants: &[Grant], wanted: &Grant) -> bool {
    grants.iter().any(|grant| match (grant, wanted) {
        (Grant::Repository(outer, have), Grant::Repository(inner, want)) => {
            have == want && outer.includes(inner)
        }
        _ => grant == wanted,
    })
}

/// What a child keeps of its grants under those of its parent. Grants at gateways are its own.
fn intersection(child: &[Grant], parent: &[Grant]) -> Vec<Grant> {
    let mut kept = Vec::new();
    for grant in child {
        let Grant::Repository(pattern, action) = grant else {
            kept.push(grant.clone());
            continue;
        };
        if covered(parent, grant) {
            kept.push(grant.clone());
            continue;
        }
        // Patterns are nested or disjoint: what is left are the parent's that lie inside.
        kept.extend(
            parent
                .iter()
                .filter(|above| match above {
                    Grant::Repository(inner, same) => same == action && pattern.includes(inner),
                    Grant::Gateway(..) => false,
                })
                .cloned(),
        );
    }
    kept
}

/// The connected registry whose sync token has this scope map.
pub(super) fn owner(
    txn: &Txn<'_>,
    map: &ScopeMapName,
) -> Result<Option<ConnectedRegistry>, StoreError> {
    for token in command::users_of_map(txn, map, usize::MAX)? {
        if let Some(name) = command::sync_token_of(txn, &token)? {
            return command::connected_registry(txn, &name);
        }
    }
    Ok(None)
}

fn lost(name: &ConnectedRegistryName) -> StoreError {
    StoreError::Corrupt(format!("the parent, sync token or scope map of '{name}' is gone"))
}

#[cfg(test)]
mod tests;

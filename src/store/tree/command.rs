//! The rows of the tree in a command: look-ups, and what every write of a token or a scope map
//! checks.

use std::str::FromStr;

use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::derived::{self, Count};
use crate::store::rows::name_at;
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::token::{SyncTokenOf, sync_token_key, token_key};
use crate::store::{StoreError, Txn};
use crate::types::limits::{DESCRIPTION_MAX, SCOPE_MAP_PERMISSIONS_MAX};
use crate::types::token::{ScopeMap, Token};
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Grant, ScopeMapName, TokenName};

pub(in crate::store) fn connected_registry(
    txn: &Txn<'_>,
    name: &ConnectedRegistryName,
) -> Result<Option<ConnectedRegistry>, StoreError> {
    txn.get(&connected_registry_key(name))
}

/// The connected registries directly below one, by name; at most `limit`.
pub(in crate::store) fn children(
    txn: &Txn<'_>,
    name: &ConnectedRegistryName,
    limit: usize,
) -> Result<Vec<ConnectedRegistryName>, StoreError> {
    named(txn, &derived::below(name), limit)
}

/// The connected registries that have this client token, by name; at most `limit`.
pub(in crate::store) fn with_client(
    txn: &Txn<'_>,
    token: &TokenName,
    limit: usize,
) -> Result<Vec<ConnectedRegistryName>, StoreError> {
    named(txn, &derived::with_client(token), limit)
}

/// The names with which derived keys end that start so.
fn named<N: FromStr>(txn: &Txn<'_>, start: &[u8], limit: usize) -> Result<Vec<N>, StoreError> {
    let rows = txn.page::<Count>(start, limit)?;
    rows.iter().map(|(key, _)| name_at(key, start.len())).collect()
}

/// The connected registry whose sync token this is.
pub(in crate::store) fn sync_token_of(
    txn: &Txn<'_>,
    token: &TokenName,
) -> Result<Option<ConnectedRegistryName>, StoreError> {
    Ok(txn.get::<SyncTokenOf>(&sync_token_key(token))?.map(|owner| owner.0))
}

/// Whether the connected registry is there, with this sync token.
pub(in crate::store) fn is_sync_token_of(
    txn: &Txn<'_>,
    owner: &ConnectedRegistry,
) -> Result<bool, StoreError> {
    Ok(sync_token_of(txn, &owner.sync_token)?.as_ref() == Some(&owner.name))
}

pub(in crate::store) fn token(
    txn: &Txn<'_>,
    name: &TokenName,
) -> Result<Option<Token>, StoreError> {
    txn.get(&token_key(name))
}

/// Writes a token that must not exist yet.
pub(in crate::store) fn add_token(txn: &mut Txn<'_>, token: &Token) -> Result<(), StoreError> {
    if self::token(txn, &token.name)?.is_some() {
        return Err(StoreError::Conflict(format!("The token '{}' exists already.", token.name)));
    }
    txn.put(token_key(&token.name), token)
}

/// The tokens that use this scope map, by name; at most `limit`.
pub(in crate::store) fn users_of_map(
    txn: &Txn<'_>,
    map: &ScopeMapName,
    limit: usize,
) -> Result<Vec<TokenName>, StoreError> {
    named(txn, &derived::users_of(map), limit)
}

pub(in crate::store) fn scope_map(
    txn: &Txn<'_>,
    name: &ScopeMapName,
) -> Result<Option<ScopeMap>, StoreError> {
    txn.get(&scope_map_key(name))
}

/// Writes a scope map that must not exist yet and must grant something.
pub(in crate::store) fn add_scope_map(
    txn: &mut Txn<'_>,
    map: ScopeMap,
) -> Result<ScopeMap, StoreError> {
    if scope_map(txn, &map.name)?.is_some() {
        return Err(StoreError::Conflict(format!("The scope map '{}' exists already.", map.name)));
    }
    if map.grants.is_empty() {
        return Err(StoreError::Invalid(
            "A scope map needs at least one repository or gateway action.".to_owned(),
        ));
    }
    put_scope_map(txn, map)
}

/// Checks, sorts and writes a scope map.
pub(in crate::store) fn put_scope_map(
    txn: &mut Txn<'_>,
    mut map: ScopeMap,
) -> Result<ScopeMap, StoreError> {
    let characters = map.description.chars().count();
    if characters > DESCRIPTION_MAX {
        return Err(StoreError::Invalid(format!(
            "The description has {characters} characters; at most {DESCRIPTION_MAX} are allowed."
        )));
    }
    map.grants.sort_unstable();
    map.grants.dedup();
    let permissions = permissions_of(&map);
    // One that has too many already may lose some: what a node keeps when its parent loses a
    // wildcard can be more patterns than it had.
    if permissions > SCOPE_MAP_PERMISSIONS_MAX && permissions > stored_permissions(txn, &map.name)?
    {
        return Err(StoreError::Invalid(format!(
            "The scope map '{}' would hold {permissions} repository permissions; at most \
             {SCOPE_MAP_PERMISSIONS_MAX} are allowed. A wildcard such as 'team/*' covers many \
             repositories with one.",
            map.name
        )));
    }
    txn.put(scope_map_key(&map.name), &map)?;
    Ok(map)
}

fn permissions_of(map: &ScopeMap) -> usize {
    map.grants.iter().filter(|grant| matches!(grant, Grant::Repository(..))).count()
}

fn stored_permissions(txn: &Txn<'_>, name: &ScopeMapName) -> Result<usize, StoreError> {
    Ok(scope_map(txn, name)?.as_ref().map_or(0, permissions_of))
}

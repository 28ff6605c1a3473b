//! The rows of the tree in a command: look-ups, and what every write of a token or a scope map
//! checks.

use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::token::{SyncTokenOf, sync_token_key, token_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{StoreError, Txn};
use crate::types::limits::{DESCRIPTION_MAX, SCOPE_MAP_REPOSITORIES_MAX};
use crate::types::token::{ScopeMap, Token};
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Grant, ScopeMapName, TokenName};

pub(in crate::store) fn connected_registry(
    txn: &Txn<'_>,
    name: &ConnectedRegistryName,
) -> Result<Option<ConnectedRegistry>, StoreError> {
    txn.get(&connected_registry_key(name))
}

pub(in crate::store) fn connected_registries(
    txn: &Txn<'_>,
) -> Result<Vec<ConnectedRegistry>, StoreError> {
    let rows = txn.scan(&prefix(Kind::ConnectedRegistry, &[]))?;
    Ok(rows.into_iter().map(|(_, registry)| registry).collect())
}

/// The connected registry whose sync token this is.
pub(in crate::store) fn sync_token_of(
    txn: &Txn<'_>,
    token: &TokenName,
) -> Result<Option<ConnectedRegistryName>, StoreError> {
    Ok(txn.get::<SyncTokenOf>(&sync_token_key(token))?.map(|owner| owner.0))
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

/// Every token that uses this scope map.
pub(in crate::store) fn users_of_map(
    txn: &Txn<'_>,
    map: &ScopeMapName,
) -> Result<Vec<Token>, StoreError> {
    let tokens: Vec<(Vec<u8>, Token)> = txn.scan(&prefix(Kind::Token, &[]))?;
    Ok(tokens.into_iter().map(|(_, t)| t).filter(|t| t.scope_map == *map).collect())
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
    map.grants.sort();
    map.grants.dedup();
    let permissions = map.grants.iter().filter(|g| matches!(g, Grant::Repository(..))).count();
    if permissions > SCOPE_MAP_REPOSITORIES_MAX {
        return Err(StoreError::Invalid(format!(
            "The scope map '{}' would hold {permissions} repository permissions; at most \
             {SCOPE_MAP_REPOSITORIES_MAX} are allowed. A wildcard such as 'team/*' covers many \
             repositories with one.",
            map.name
        )));
    }
    txn.put(scope_map_key(&map.name), &map)?;
    Ok(map)
}

//! Scope maps: named lists of grants, managed at the root.

use super::cascade;
use super::tokens::users_of_map;
use crate::store::rows::{Kind, Row, key, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::limits::{DESCRIPTION_MAX, SCOPE_MAP_REPOSITORIES_MAX};
use crate::types::token::ScopeMap;
use crate::types::{Grant, ScopeMapName, UnixSeconds};

impl Row for ScopeMap {
    const VERSION: u8 = 1;
}

/// The key of a scope map.
pub fn scope_map_key(name: &ScopeMapName) -> Vec<u8> {
    key(Kind::ScopeMap, &[name.as_str().as_bytes()])
}

/// A change of a scope map.
#[derive(Default)]
pub struct ScopeMapUpdate {
    /// The new description.
    pub description: Option<String>,
    /// Grants to add.
    pub add: Vec<Grant>,
    /// Grants to remove.
    pub remove: Vec<Grant>,
}

impl Store {
    /// One scope map.
    pub fn scope_map(&self, name: &ScopeMapName) -> Result<Option<ScopeMap>, StoreError> {
        self.get(&scope_map_key(name))
    }

    /// Every scope map, by name.
    pub fn scope_maps(&self) -> Result<Vec<ScopeMap>, StoreError> {
        let rows = self.scan(&prefix(Kind::ScopeMap, &[]), None, usize::MAX)?;
        Ok(rows.into_iter().map(|(_, map)| map).collect())
    }

    /// Creates a scope map. `Conflict` when the name is taken.
    pub async fn scope_map_create(
        &self,
        name: ScopeMapName,
        description: String,
        grants: Vec<Grant>,
    ) -> Result<ScopeMap, StoreError> {
        let created = self.sys().clock.wall_or_floor();
        self.commit(move |txn| {
            let map = ScopeMap { name, description, grants, created };
            create(txn, map)
        })
        .await
    }

    /// Adds and removes grants and sets the description. What is added to or removed from the
    /// scope map of a sync token is added to its ancestors' or removed from its descendants' maps
    /// in the same record.
    pub async fn scope_map_update(
        &self,
        name: ScopeMapName,
        update: ScopeMapUpdate,
    ) -> Result<ScopeMap, StoreError> {
        if update.add.is_empty() && update.remove.is_empty() && update.description.is_none() {
            return Err(StoreError::Invalid("No scope map properties to update.".to_owned()));
        }
        if let Some(both) = update.add.iter().find(|grant| update.remove.contains(grant)) {
            return Err(StoreError::Invalid(format!(
                "Update ambiguity. '{both}' is both added and removed."
            )));
        }
        self.commit(move |txn| {
            let mut map = load(txn, &name)?.ok_or(StoreError::NotFound)?;
            if let Some(description) = update.description {
                map.description = description;
            }
            map.grants.retain(|grant| !update.remove.contains(grant));
            map.grants.extend(update.add);
            let map = write(txn, map)?;
            cascade::after_map_change(txn, &map.name)?;
            load(txn, &name)?.ok_or(StoreError::NotFound)
        })
        .await
    }

    /// Deletes a scope map. `Conflict` while a token uses it.
    pub async fn scope_map_delete(&self, name: ScopeMapName) -> Result<(), StoreError> {
        self.commit(move |txn| {
            load(txn, &name)?.ok_or(StoreError::NotFound)?;
            if let Some(token) = users_of_map(txn, &name)?.first() {
                return Err(StoreError::Conflict(format!(
                    "The scope map '{name}' is used by the token '{}'. Delete the token or give \
                     it another scope map first.",
                    token.name
                )));
            }
            txn.delete(scope_map_key(&name));
            Ok(())
        })
        .await
    }
}

pub(in crate::store) fn load(
    txn: &Txn<'_>,
    name: &ScopeMapName,
) -> Result<Option<ScopeMap>, StoreError> {
    txn.get(&scope_map_key(name))
}

/// Writes a scope map that must not exist yet and must grant something.
pub(in crate::store) fn create(txn: &mut Txn<'_>, map: ScopeMap) -> Result<ScopeMap, StoreError> {
    if load(txn, &map.name)?.is_some() {
        return Err(StoreError::Conflict(format!("The scope map '{}' exists already.", map.name)));
    }
    if map.grants.is_empty() {
        return Err(StoreError::Invalid(
            "A scope map needs at least one repository or gateway action.".to_owned(),
        ));
    }
    write(txn, map)
}

/// Checks, sorts and writes a scope map.
pub(in crate::store) fn write(
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

/// A new scope map for a token or connected registry that brings its own.
pub(in crate::store) fn create_for(
    txn: &mut Txn<'_>,
    name: ScopeMapName,
    description: String,
    grants: Vec<Grant>,
    created: UnixSeconds,
) -> Result<ScopeMap, StoreError> {
    create(txn, ScopeMap { name, description, grants, created })
}

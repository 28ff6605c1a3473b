//! Scope maps: named lists of grants, managed at the root.

use std::collections::BTreeSet;

use super::granted::lacking;
use super::sizes::Sizes;
use super::withdrawal::Others;
use super::{cascade, command, withdrawal};
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError};
use crate::sys::spawn::yield_now;
use crate::types::token::ScopeMap;
use crate::types::{Change, ConnectedRegistry, Grant, ScopeMapName};

/// Tokens that are looked up in one turn.
const AT_ONCE: usize = 64;

/// A change of a scope map.
#[derive(Default)]
pub struct ScopeMapUpdate {
    /// The new description.
    pub description: Option<String>,
    /// What it grants.
    pub grants: Change<Grant>,
}

impl Store {
    /// One scope map.
    pub fn scope_map(&self, name: &ScopeMapName) -> Result<Option<ScopeMap>, StoreError> {
        self.get(&scope_map_key(name))
    }

    /// Every scope map, by name.
    pub async fn scope_maps(&self) -> Result<Vec<ScopeMap>, StoreError> {
        let rows = self.pages(prefix(Kind::ScopeMap, &[])).all().await?;
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
        self.act(move |txn| {
            let map = ScopeMap { name, description, grants, created };
            command::add_scope_map(txn, map)
        })
        .await
    }

    /// Changes the grants and sets the description. What is added to or removed from the
    /// scope map of a sync token is added to its ancestors' or removed from its descendants' maps
    /// after that; returns those too.
    pub async fn scope_map_update(
        &self,
        name: ScopeMapName,
        update: ScopeMapUpdate,
    ) -> Result<(ScopeMap, Others), StoreError> {
        let ScopeMapUpdate { description, grants } = update;
        if grants.is_empty() && description.is_none() {
            return Err(StoreError::Invalid("No scope map properties to update.".to_owned()));
        }
        if let Some(both) = grants.ambiguous().next() {
            return Err(StoreError::Invalid(format!(
                "Update ambiguity. '{both}' is both added and removed."
            )));
        }
        let turn = self.tree_turn().await?;
        let sizes = match grants.wanted().is_empty() && description.is_none() {
            true => Sizes::default(),
            false => self.sizes_of_map(&name).await?,
        };
        // Nobody but who has the turn gives a sync token its scope map.
        let owner = self.owner_of_map(&name).await?;
        turn.change(sizes, move |txn| {
            let before = command::scope_map(txn, &name)?.ok_or(StoreError::NotFound)?;
            let mut map = before.clone();
            if let Some(description) = description {
                map.description = description;
            }
            map.grants = grants.apply(map.grants);
            let map = command::put_scope_map(txn, map)?;
            // A deletion that nobody waits for any more goes before this change.
            let owner = match owner {
                Some(owner) if command::is_sync_token_of(txn, &owner)? => owner,
                _ => return Ok((map, Vec::new())),
            };
            cascade::refuse_cut_off(txn, &owner, &before, &map)?;
            if !lacking(&map.grants, &before.grants).is_empty() {
                cascade::refuse_shared_map(txn, &map.name, &owner.sync_token)?;
            }
            let above = cascade::settle_above(txn, &owner)?;
            withdrawal::begin(txn, &owner, &before, BTreeSet::new())?;
            Ok((map, above))
        })
        .await
    }

    /// The connected registry whose sync token has this scope map; for whoever has the turn to
    /// change the tree. Any number of tokens of clients may have one.
    async fn owner_of_map(
        &self,
        map: &ScopeMapName,
    ) -> Result<Option<ConnectedRegistry>, StoreError> {
        for (number, token) in self.users_of_map(map).await?.iter().enumerate() {
            if let Some(owner) = self.sync_token_owner(token)? {
                return Ok(Some(owner));
            }
            if number % AT_ONCE == AT_ONCE - 1 {
                yield_now().await;
            }
        }
        Ok(None)
    }

    /// Deletes a scope map. `Conflict` while a token uses it.
    pub async fn scope_map_delete(&self, name: ScopeMapName) -> Result<(), StoreError> {
        self.act(move |txn| {
            command::scope_map(txn, &name)?.ok_or(StoreError::NotFound)?;
            if let Some(token) = command::users_of_map(txn, &name, 1)?.first() {
                return Err(StoreError::Conflict(format!(
                    "The scope map '{name}' is used by the token '{token}'. Delete the token or \
                     give it another scope map first."
                )));
            }
            txn.delete(scope_map_key(&name))?;
            Ok(())
        })
        .await
    }
}

//! Scope maps: named lists of grants.

use super::other::all_changed;
use super::{Changed, Changes, Error, Noun};
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::types::token::ScopeMap;
use crate::types::{Change, Grant, ScopeMapName};

/// A scope map to make.
pub struct NewScopeMap {
    /// Its name.
    pub name: ScopeMapName,
    /// For people.
    pub description: String,
    /// What it grants.
    pub grants: Vec<Grant>,
}

/// A change of a scope map.
pub struct ScopeMapChange {
    /// Which.
    pub name: ScopeMapName,
    /// The new description.
    pub description: Option<String>,
    /// What it grants.
    pub grants: Change<Grant>,
}

impl Changes {
    /// Creates a scope map.
    pub async fn scope_map_create(&self, new: NewScopeMap) -> Result<Changed<ScopeMap>, Error> {
        let NewScopeMap { name, description, grants } = new;
        let map = self.manage.store.scope_map_create(name, description, grants).await?;
        log::info!("created scope map name={}", map.name);
        Ok(Changed::of(map))
    }

    /// Changes a scope map, and those above and below that must follow that of a sync token.
    pub async fn scope_map_update(
        &self,
        change: ScopeMapChange,
    ) -> Result<Changed<ScopeMap>, Error> {
        let ScopeMapChange { name, description, grants } = change;
        let changes_grants = !grants.is_empty();
        let update = ScopeMapUpdate { description, grants };
        let updated = self.manage.store.scope_map_update(name.clone(), update).await;
        let (map, others) = updated.map_err(Error::of(Noun::ScopeMap, &name))?;
        log::info!("updated scope map name={name}");
        let late = match changes_grants {
            true => self.manage.late_for_maps(&all_changed(&name, &others)).await,
            false => Ok(Vec::new()),
        };
        Ok(Changed::of(map).with_others(others).with_late(late))
    }

    /// Deletes a scope map that no token uses.
    pub async fn scope_map_delete(&self, name: ScopeMapName) -> Result<Changed<()>, Error> {
        let deleted = self.manage.store.scope_map_delete(name.clone()).await;
        deleted.map_err(Error::of(Noun::ScopeMap, &name))?;
        log::info!("deleted scope map name={name}");
        Ok(Changed::of(()))
    }
}

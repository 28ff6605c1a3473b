//! Permissions: the repositories that a connected registry may mirror.

use super::other::all_changed;
use super::{Changed, Changes, Error, Manage, Noun, Warning};
use crate::store::tree::WithoutWrite;
use crate::types::token::ScopeMap;
use crate::types::{ConnectedRegistryName, RepositoryPattern};

/// A change of what a connected registry may mirror.
pub struct PermissionsChange {
    /// Of which.
    pub name: ConnectedRegistryName,
    /// Repositories to grant, with the actions of its mode.
    pub add: Vec<RepositoryPattern>,
    /// Repositories to take away.
    pub remove: Vec<RepositoryPattern>,
}

impl Manage {
    /// The scope map of the sync token of a connected registry.
    pub fn permissions(&self, name: &ConnectedRegistryName) -> Result<ScopeMap, Error> {
        let token = self.token(&self.connected_registry(name)?.sync_token)?;
        self.scope_map(&token.scope_map)
    }
}

/// That ancestors take no pushes to what they mirror now.
pub(super) fn refuse_pushes(without_write: WithoutWrite) -> impl Iterator<Item = Warning> {
    let warning = |(ancestor, repositories)| Warning::RefusesPushes { ancestor, repositories };
    without_write.into_iter().map(warning)
}

impl Changes {
    /// Grants a connected registry and all above it more repositories, and takes others from it and
    /// all below it.
    pub async fn permissions_update(
        &self,
        change: PermissionsChange,
    ) -> Result<Changed<ScopeMap>, Error> {
        let PermissionsChange { name, add, remove } = change;
        let updated = self.manage.store.permissions_update(name.clone(), add, remove).await;
        let (map, without_write, others) =
            updated.map_err(Error::of(Noun::ConnectedRegistry, &name))?;
        log::info!("updated permissions connected_registry={name}");
        let late = self.manage.late_for_maps(&all_changed(&map.name, &others)).await;
        let changed = Changed::of(map).warn(refuse_pushes(without_write));
        Ok(changed.with_others(others).with_late(late))
    }
}

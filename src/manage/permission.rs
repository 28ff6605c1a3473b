//! Permissions: the repositories that a connected registry may mirror.

use super::{Changed, Changes, Error, Manage, Noun, Warning};
use crate::store::tree::{AlsoChanged, Others};
use crate::types::token::ScopeMap;
use crate::types::{ConnectedRegistryName, Grant, Mode, RepositoryAction, RepositoryPattern};

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

    /// Of the ReadWrite ancestors of a new connected registry, those that were given repositories
    /// to mirror for it and may not write there.
    pub(super) fn mirrors_only(&self, others: &Others) -> Result<Vec<Warning>, Error> {
        let mut warnings = Vec::new();
        for AlsoChanged { connected_registry, added, .. } in &others.changed {
            let ancestor = self.connected_registry(connected_registry)?;
            if ancestor.mode != Mode::ReadWrite {
                continue;
            }
            let grants = self.store.sync_scope_map(&ancestor)?.grants;
            let may_write = |pattern: &RepositoryPattern| {
                grants.contains(&Grant::Repository(pattern.clone(), RepositoryAction::ContentWrite))
            };
            let mirrored = added.iter().filter_map(|grant| match grant {
                Grant::Repository(pattern, RepositoryAction::ContentRead) => Some(pattern.clone()),
                _ => None,
            });
            let repositories: Vec<_> = mirrored.filter(|pattern| !may_write(pattern)).collect();
            if !repositories.is_empty() {
                warnings.push(Warning::RefusesPushes { ancestor: ancestor.name, repositories });
            }
        }
        Ok(warnings)
    }
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
        let refuse = without_write
            .into_iter()
            .map(|(ancestor, repositories)| Warning::RefusesPushes { ancestor, repositories });
        Ok(Changed::of(map).warn(refuse).with_others(others))
    }
}

//! What there is to show: at the root the managed rows, on a connected registry what its parent
//! sent it.

use super::Admin;
use super::fault::Fault;
use crate::store::StoreError;
use crate::types::message::NodeConfig;
use crate::types::token::{ScopeMap, Token};
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Role, ScopeMapName, TokenName};

impl Admin {
    fn config(&self) -> Result<Option<NodeConfig>, StoreError> {
        match self.options.role {
            Role::Root => Ok(None),
            Role::Connected => self.store.self_config(),
        }
    }

    pub(super) fn all_scope_maps(&self) -> Result<Vec<ScopeMap>, StoreError> {
        match self.options.role {
            Role::Root => self.store.scope_maps(),
            Role::Connected => Ok(self.config()?.map(|c| c.scope_maps).unwrap_or_default()),
        }
    }

    pub(super) fn all_tokens(&self) -> Result<Vec<Token>, StoreError> {
        if self.options.role == Role::Root {
            return self.store.tokens();
        }
        let Some(config) = self.config()? else {
            return Ok(Vec::new());
        };
        let mut tokens = config.client_tokens;
        tokens.extend(config.child_tokens);
        tokens.push(config.sync_token);
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tokens)
    }

    pub(super) fn all_registries(&self) -> Result<Vec<ConnectedRegistry>, StoreError> {
        if self.options.role == Role::Root {
            return self.store.connected_registries();
        }
        let Some(config) = self.config()? else {
            return Ok(Vec::new());
        };
        let mut registries = config.children;
        registries.push(config.node);
        registries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(registries)
    }

    pub(super) fn scope_map(&self, name: &ScopeMapName) -> Result<ScopeMap, Fault> {
        let found = match self.options.role {
            Role::Root => self.store.scope_map(name)?,
            Role::Connected => self.all_scope_maps()?.into_iter().find(|map| map.name == *name),
        };
        found.ok_or_else(|| Fault::of(StoreError::NotFound, "scope map", name))
    }

    pub(super) fn token(&self, name: &TokenName) -> Result<Token, Fault> {
        let found = match self.options.role {
            Role::Root => self.store.token(name)?,
            Role::Connected => self.all_tokens()?.into_iter().find(|token| token.name == *name),
        };
        found.ok_or_else(|| Fault::of(StoreError::NotFound, "token", name))
    }

    pub(super) fn registry(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<ConnectedRegistry, Fault> {
        let found = match self.options.role {
            Role::Root => self.store.connected_registry(name)?,
            Role::Connected => self.all_registries()?.into_iter().find(|node| node.name == *name),
        };
        found.ok_or_else(|| Fault::of(StoreError::NotFound, "connected registry", name))
    }
}

//! What there is to show: at the root the managed rows, on a connected registry what its parent
//! sent it.

use serde_json::Value;

use super::Admin;
use super::fault::Fault;
use crate::store::{PAGE_ROWS, StoreError};
use crate::sys::spawn::yield_now;
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

    pub(super) async fn all_scope_maps(&self) -> Result<Vec<ScopeMap>, StoreError> {
        match self.options.role {
            Role::Root => self.store.scope_maps().await,
            Role::Connected => self.sent_scope_maps(),
        }
    }

    fn sent_scope_maps(&self) -> Result<Vec<ScopeMap>, StoreError> {
        Ok(self.config()?.map(|config| config.scope_maps).unwrap_or_default())
    }

    pub(super) async fn all_tokens(&self) -> Result<Vec<Token>, StoreError> {
        match self.options.role {
            Role::Root => self.store.tokens().await,
            Role::Connected => self.sent_tokens(),
        }
    }

    fn sent_tokens(&self) -> Result<Vec<Token>, StoreError> {
        let Some(config) = self.config()? else {
            return Ok(Vec::new());
        };
        let mut tokens = config.client_tokens;
        tokens.extend(config.child_tokens);
        tokens.push(config.sync_token);
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tokens)
    }

    pub(super) async fn all_registries(&self) -> Result<Vec<ConnectedRegistry>, StoreError> {
        match self.options.role {
            Role::Root => self.store.connected_registries().await,
            Role::Connected => self.sent_registries(),
        }
    }

    fn sent_registries(&self) -> Result<Vec<ConnectedRegistry>, StoreError> {
        let Some(config) = self.config()? else {
            return Ok(Vec::new());
        };
        let mut registries = config.children;
        registries.push(config.node);
        registries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(registries)
    }

    /// Prints resources, a page of them at a time: others go on in between.
    pub(super) async fn print_all<T>(
        &self,
        all: &[T],
        print: impl Fn(&T) -> Result<Value, Fault>,
    ) -> Result<Value, Fault> {
        let mut printed = Vec::with_capacity(all.len());
        for page in all.chunks(PAGE_ROWS) {
            for one in page {
                printed.push(print(one)?);
            }
            yield_now().await;
        }
        Ok(Value::Array(printed))
    }

    pub(super) fn scope_map(&self, name: &ScopeMapName) -> Result<ScopeMap, Fault> {
        let found = match self.options.role {
            Role::Root => self.store.scope_map(name)?,
            Role::Connected => self.sent_scope_maps()?.into_iter().find(|map| map.name == *name),
        };
        found.ok_or_else(|| Fault::of(StoreError::NotFound, "scope map", name))
    }

    pub(super) fn token(&self, name: &TokenName) -> Result<Token, Fault> {
        let found = match self.options.role {
            Role::Root => self.store.token(name)?,
            Role::Connected => self.sent_tokens()?.into_iter().find(|token| token.name == *name),
        };
        found.ok_or_else(|| Fault::of(StoreError::NotFound, "token", name))
    }

    pub(super) fn registry(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<ConnectedRegistry, Fault> {
        let found = match self.options.role {
            Role::Root => self.store.connected_registry(name)?,
            Role::Connected => self.sent_registries()?.into_iter().find(|node| node.name == *name),
        };
        found.ok_or_else(|| Fault::of(StoreError::NotFound, "connected registry", name))
    }
}

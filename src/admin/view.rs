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

    /// Whether the rows are of this node: those of an adopted store are of its former tree.
    fn has_rows(&self) -> Result<bool, StoreError> {
        Ok(self.options.role == Role::Root || self.store.self_node()?.is_some())
    }

    pub(super) async fn all_scope_maps(&self) -> Result<Vec<ScopeMap>, StoreError> {
        match self.has_rows()? {
            true => self.store.scope_maps().await,
            false => Ok(Vec::new()),
        }
    }

    pub(super) async fn all_tokens(&self) -> Result<Vec<Token>, StoreError> {
        if !self.has_rows()? {
            return Ok(Vec::new());
        }
        let mut tokens = self.store.tokens().await?;
        tokens.extend(self.own_sync_token()?);
        tokens.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(tokens)
    }

    /// With which a connected registry logs in at its parent: nobody logs in with it here.
    fn own_sync_token(&self) -> Result<Option<Token>, StoreError> {
        Ok(self.config()?.map(|config| config.sync_token))
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
        registries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
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
        let found = if self.has_rows()? { self.store.scope_map(name)? } else { None };
        found.ok_or_else(|| Fault::of(StoreError::NotFound, "scope map", name))
    }

    pub(super) fn token(&self, name: &TokenName) -> Result<Token, Fault> {
        let found = if self.has_rows()? { self.store.token(name)? } else { None };
        let found = match found {
            Some(token) => Some(token),
            None => self.own_sync_token()?.filter(|token| token.name == *name),
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

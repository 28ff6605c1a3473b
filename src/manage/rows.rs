//! What there is to show: at the root the managed rows, on a connected registry what its parent
//! sent it.

use super::{Error, Manage, Noun};
use crate::store::StoreError;
use crate::types::message::NodeConfig;
use crate::types::token::{ScopeMap, Token};
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Role, ScopeMapName, TokenName};

impl Manage {
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

    /// Every scope map, by name.
    pub async fn scope_maps(&self) -> Result<Vec<ScopeMap>, Error> {
        match self.has_rows()? {
            true => Ok(self.store.scope_maps().await?),
            false => Ok(Vec::new()),
        }
    }

    /// Every token, by name.
    pub async fn tokens(&self) -> Result<Vec<Token>, Error> {
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

    pub(super) async fn all_connected_registries(
        &self,
    ) -> Result<Vec<ConnectedRegistry>, StoreError> {
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

    /// One scope map.
    pub fn scope_map(&self, name: &ScopeMapName) -> Result<ScopeMap, Error> {
        let found = if self.has_rows()? { self.store.scope_map(name)? } else { None };
        found.ok_or_else(|| Error::missing(Noun::ScopeMap, name))
    }

    /// One token.
    pub fn token(&self, name: &TokenName) -> Result<Token, Error> {
        let found = if self.has_rows()? { self.store.token(name)? } else { None };
        let found = match found {
            Some(token) => Some(token),
            None => self.own_sync_token()?.filter(|token| token.name == *name),
        };
        found.ok_or_else(|| Error::missing(Noun::Token, name))
    }

    /// One connected registry.
    pub fn connected_registry(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<ConnectedRegistry, Error> {
        let found = match self.options.role {
            Role::Root => self.store.connected_registry(name)?,
            Role::Connected => self.sent_registries()?.into_iter().find(|node| node.name == *name),
        };
        found.ok_or_else(|| Error::missing(Noun::ConnectedRegistry, name))
    }
}

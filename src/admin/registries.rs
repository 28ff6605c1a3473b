//! `connected-registry ...`

use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::also::tell;
use super::print::print_credentials;
use super::tokens::Named;
use crate::manage::connected_registry::{
    ConnectedRegistryChange, MadeConnectedRegistry, NewConnectedRegistry, Settings,
};
use crate::manage::permission::PermissionsChange;
use crate::manage::{Changes, Error};
use crate::types::time::parse_duration_s;
use crate::types::{
    Change, ConnectedRegistry, ConnectedRegistryName, Mode, RepositoryPattern, TokenName,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CreateRegistry {
    name: ConnectedRegistryName,
    parent: Option<ConnectedRegistryName>,
    #[serde(default)]
    repository: Vec<RepositoryPattern>,
    sync_token: Option<TokenName>,
    mode: Option<String>,
    #[serde(default)]
    client_tokens: Vec<TokenName>,
    sync_schedule: Option<String>,
    sync_window: Option<String>,
    sync_message_ttl: Option<String>,
    log_level: Option<String>,
    #[serde(default)]
    connection_string: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct UpdateRegistry {
    name: ConnectedRegistryName,
    #[serde(default)]
    add_client_tokens: Vec<TokenName>,
    #[serde(default)]
    remove_client_tokens: Vec<TokenName>,
    sync_schedule: Option<String>,
    sync_window: Option<String>,
    sync_message_ttl: Option<String>,
    log_level: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteRegistry {
    name: ConnectedRegistryName,
    #[serde(default)]
    cleanup: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ListRegistries {
    parent: Option<ConnectedRegistryName>,
    #[serde(default)]
    no_children: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdatePermissions {
    name: ConnectedRegistryName,
    #[serde(default)]
    add: Vec<RepositoryPattern>,
    #[serde(default)]
    remove: Vec<RepositoryPattern>,
}

impl Admin {
    pub(super) async fn registry_create(
        &self,
        changes: &Changes,
        new: CreateRegistry,
    ) -> Result<Value, Error> {
        let settings = settings(
            new.sync_schedule.as_deref(),
            new.sync_window.as_deref(),
            new.sync_message_ttl.as_deref(),
            new.log_level,
        )?;
        let told = new.connection_string;
        let mode = new.mode.as_deref().map(str::parse::<Mode>).transpose();
        let new = NewConnectedRegistry {
            name: new.name,
            mode: mode.map_err(|error| Error::invalid(format!("{error}.")))?,
            parent: new.parent,
            repositories: new.repository,
            sync_token: new.sync_token,
            client_tokens: new.client_tokens,
            settings,
        };
        let made = changes.connected_registry_create(new, told).await?;
        let MadeConnectedRegistry { node, passwords, connection_string } = &made.resource;
        let mut value = self.print_changed(node);
        if !passwords.is_empty() {
            let credentials = print_credentials(node.sync_token.as_str(), passwords);
            value["syncToken"] = json!({ "name": node.sync_token, "credentials": credentials });
        }
        if let Some(text) = connection_string {
            value["ACR_REGISTRY_CONNECTION_STRING"] = json!(text.expose());
        }
        Ok(tell(value, &made))
    }

    pub(super) async fn registry_update(
        &self,
        changes: &Changes,
        change: UpdateRegistry,
    ) -> Result<Value, Error> {
        let settings = settings(
            change.sync_schedule.as_deref(),
            change.sync_window.as_deref(),
            change.sync_message_ttl.as_deref(),
            change.log_level,
        )?;
        let UpdateRegistry { name, add_client_tokens, remove_client_tokens, .. } = change;
        let client_tokens = Change::Delta { add: add_client_tokens, remove: remove_client_tokens };
        let change = ConnectedRegistryChange { name, client_tokens, settings };
        let changed = changes.connected_registry_update(change).await?;
        Ok(tell(self.print_changed(&changed.resource), &changed))
    }

    pub(super) async fn registry_deactivate(
        &self,
        changes: &Changes,
        which: Named<ConnectedRegistryName>,
    ) -> Result<Value, Error> {
        let changed = changes.connected_registry_deactivate(which.name).await?;
        Ok(tell(self.print_changed(&changed.resource), &changed))
    }

    /// A connected registry after a change. The change was made: one that cannot be shown whole is
    /// named, and is no refusal.
    fn print_changed(&self, node: &ConnectedRegistry) -> Value {
        self.print_registry(node).unwrap_or_else(|error| {
            log::warn!("connected registry '{}' cannot be shown: {error}", node.name);
            json!({ "name": node.name })
        })
    }

    pub(super) fn registry_show(
        &self,
        which: &Named<ConnectedRegistryName>,
    ) -> Result<Value, Error> {
        self.print_registry(&self.manage.connected_registry(&which.name)?)
    }

    pub(super) async fn registry_list(&self, which: &ListRegistries) -> Result<Value, Error> {
        let (parent, no_children) = (which.parent.as_ref(), which.no_children);
        let chosen = self.manage.connected_registries(parent, no_children).await?;
        self.print_all(&chosen, |node| self.print_registry(node)).await
    }

    pub(super) fn client_tokens(
        &self,
        which: &Named<ConnectedRegistryName>,
    ) -> Result<Value, Error> {
        let tokens = self.manage.client_tokens(&which.name)?;
        Ok(tokens.iter().map(|token| self.print_token(token, &[])).collect())
    }

    pub(super) fn permissions_show(
        &self,
        which: &Named<ConnectedRegistryName>,
    ) -> Result<Value, Error> {
        Ok(self.print_scope_map(&self.manage.permissions(&which.name)?))
    }

    pub(super) async fn permissions_update(
        &self,
        changes: &Changes,
        change: UpdatePermissions,
    ) -> Result<Value, Error> {
        let UpdatePermissions { name, add, remove } = change;
        let changed = changes.permissions_update(PermissionsChange { name, add, remove }).await?;
        Ok(tell(self.print_scope_map(&changed.resource), &changed))
    }
}

pub(super) async fn registry_delete(
    changes: &Changes,
    which: DeleteRegistry,
) -> Result<Value, Error> {
    let deleted = changes.connected_registry_delete(which.name, which.cleanup).await?;
    Ok(tell(Value::Null, &deleted))
}

fn settings(
    schedule: Option<&str>,
    window: Option<&str>,
    message_ttl: Option<&str>,
    log_level: Option<String>,
) -> Result<Settings, Error> {
    let schedule = schedule.map(str::parse).transpose();
    Ok(Settings {
        schedule: schedule.map_err(|error| Error::invalid(format!("{error}.")))?,
        sync_window_s: window.map(|text| duration("sync window", text)).transpose()?,
        message_ttl_s: message_ttl.map(|text| duration("message TTL", text)).transpose()?,
        log_level,
    })
}

fn duration(what: &str, text: &str) -> Result<u64, Error> {
    parse_duration_s(text).ok_or_else(|| {
        Error::invalid(format!(
            "The {what} '{text}' is no ISO 8601 duration in days, hours, minutes and seconds, \
             such as P2D or PT3H."
        ))
    })
}

//! Resources as `az acr` prints them with `-o json`.

use serde_json::{Value, json};

use super::Admin;
use super::fault::Fault;
use crate::store::tree::passwords::NewPassword;
use crate::sync::status_details;
use crate::types::connected_registry::{
    ConnectionState, ParentContact, StatusDetail, StatusReport,
};
use crate::types::time::format_duration;
use crate::types::token::{PasswordSlot, ScopeMap, Token};
use crate::types::{ConnectedRegistry, Role, UnixSeconds};

/// The type of a registry's resources, before their own part.
const PROVIDER: &str = "Microsoft.ContainerRegistry/registries";
/// The subscription in resource ids; there is one, and it has no number.
const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000000";
/// The resource group in resource ids.
const RESOURCE_GROUP: &str = "skerry";

impl Admin {
    /// The id of a resource, `.../registries/<registry>/<collection>/<name>`.
    fn id(&self, collection: &str, name: &dyn std::fmt::Display) -> String {
        format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers/{PROVIDER}/\
             {}/{collection}/{name}",
            self.registry_name()
        )
    }

    /// What every resource has.
    fn resource(&self, collection: &str, name: &str) -> Value {
        json!({
            "id": self.id(collection, &name),
            "name": name,
            "provisioningState": "Succeeded",
            "resourceGroup": RESOURCE_GROUP,
            "type": format!("{PROVIDER}/{collection}"),
        })
    }

    pub(super) fn print_scope_map(&self, map: &ScopeMap) -> Value {
        let mut value = self.resource("scopeMaps", map.name.as_str());
        value["actions"] = map.grants.iter().map(ToString::to_string).collect();
        value["creationDate"] = map.created.rfc3339().into();
        value["description"] = match map.description.as_str() {
            "" => Value::Null,
            text => text.into(),
        };
        value["scopeMapType"] = "UserDefined".into();
        value
    }

    /// A token; `new` are the passwords that were just made.
    pub(super) fn print_token(&self, token: &Token, new: &[NewPassword]) -> Value {
        let mut value = self.resource("tokens", token.name.as_str());
        value["creationDate"] = token.created.rfc3339().into();
        value["scopeMapId"] = self.id("scopeMaps", &token.scope_map).into();
        value["status"] = if token.enabled { "enabled" } else { "disabled" }.into();
        value["credentials"] = if new.is_empty() {
            let kept = PasswordSlot::ALL.into_iter().filter_map(|slot| {
                let verifier = token.passwords[slot.index()].as_ref()?;
                Some(print_password(slot, verifier.created, verifier.expires))
            });
            json!({ "passwords": kept.collect::<Vec<_>>() })
        } else {
            print_credentials(token.name.as_str(), new)
        };
        value
    }

    pub(super) fn print_registry(&self, node: &ConnectedRegistry) -> Result<Value, Fault> {
        let Instance { active, state, last_contact, report } = self.instance(node)?;
        let mut value = self.resource("connectedRegistries", node.name.as_str());
        value["activation"] = json!({ "status": if active { "Active" } else { "Inactive" } });
        value["clientTokenIds"] = node.client_tokens.iter().map(|t| self.id("tokens", t)).collect();
        value["connectionState"] = state.name().into();
        value["lastActivityTime"] = last_contact.map(UnixSeconds::rfc3339).into();
        value["logging"] = json!({ "auditLogStatus": "Disabled", "logLevel": node.log_level });
        let known = report.as_ref().filter(|report| !report.login_server.is_empty());
        value["loginServer"] = known.map_or(Value::Null, |report| {
            let tls = if report.tls { "Enabled" } else { "Disabled" };
            json!({ "host": report.login_server, "tls": { "status": tls } })
        });
        value["mode"] = node.mode.name().into();
        value["parent"] = self.print_parent(node, report.as_ref().and_then(|r| r.last_sync))?;
        let details = report.as_ref().map(|report| report.details.iter().map(print_detail));
        value["statusDetails"] = Value::Array(details.into_iter().flatten().collect());
        value["version"] = report.map(|report| report.version).into();
        Ok(value)
    }

    fn print_parent(
        &self,
        node: &ConnectedRegistry,
        last_sync: Option<UnixSeconds>,
    ) -> Result<Value, Fault> {
        let parent = node.parent.as_ref().map(|name| self.id("connectedRegistries", name));
        let gateway = self.parent_gateway(node)?.map(|(endpoint, _)| endpoint);
        Ok(json!({
            "id": parent,
            "syncProperties": {
                "gatewayEndpoint": gateway,
                "lastSyncTime": last_sync.map(UnixSeconds::rfc3339),
                "messageTtl": format_duration(node.message_ttl_s),
                "schedule": node.schedule.to_string(),
                "syncWindow": node.sync_window_s.map(format_duration),
                "tokenId": self.id("tokens", &node.sync_token),
            },
        }))
    }

    /// What is known of the instance behind a connected registry. One that was never activated, was
    /// deactivated, or whose sync token is disabled, counts as Offline whatever it reported before.
    fn instance(&self, node: &ConnectedRegistry) -> Result<Instance, Fault> {
        let own = match self.options.role {
            Role::Root => None,
            Role::Connected => self.store.self_node()?.map(|node| node.name),
        };
        if own.as_ref() == Some(&node.name) {
            return self.own_instance(node);
        }
        let activation = self.store.activation(&node.name)?;
        // A later one than is known here: this registry was restored from a backup since.
        let active = activation.as_ref().is_some_and(|a| a.epoch >= node.activation_epoch);
        let status = self.store.status(&node.name)?;
        let counts = match &status {
            Some(status) => self.store.still_counts(node, status)?,
            None => true,
        };
        let stored = status.as_ref().map(|status| status.last_contact);
        let seen = stored.or(activation.map(|activation| activation.at)).filter(|_| active);
        let report = status.map(|status| status.report);
        let reported = report.as_ref().map(|report| report.state).unwrap_or_default();
        // One with a schedule may not have had a window to report in.
        let heard = report.is_some() || !node.schedule.is_continuous();
        let state = match active && heard && self.store.is_admitted(node)? {
            false => ConnectionState::Offline,
            // Only its own parent talks to a node; what is known of others is what was reported.
            true if node.parent == own => self.contact.state(node, reported, seen),
            true if !self.hears_of(node)? => ConnectionState::Offline,
            // The node above is another one since, to which this one may not have had a window to
            // report in.
            true if !counts && reported != ConnectionState::Offline => {
                self.contact.state(node, reported, seen)
            }
            true => reported,
        };
        let last_contact = self.contact.last_seen(&node.name, stored);
        Ok(Instance { active, state, last_contact, report })
    }

    /// Whether the nodes on the way to this one are in contact, so that what they reported of it
    /// counts. In a damaged store the parents may form a circle.
    fn hears_of(&self, node: &ConnectedRegistry) -> Result<bool, Fault> {
        let Some(parent) = &node.parent else {
            return Ok(true);
        };
        if self.store.is_ancestor(&node.name, &node.name)? {
            return Ok(false);
        }
        Ok(self.instance(&self.registry(parent)?)?.state != ConnectionState::Offline)
    }

    /// This node itself.
    fn own_instance(&self, node: &ConnectedRegistry) -> Result<Instance, Fault> {
        let view = self.store.sync_view();
        let epoch = self.store.activated_epoch()?;
        let active = epoch.is_some_and(|epoch| epoch >= node.activation_epoch);
        let details = status_details(&self.store, view.problems.clone())?;
        let reported = match details.is_empty() {
            true => ConnectionState::Online,
            false => ConnectionState::Unhealthy,
        };
        let state = match (active, view.contact) {
            (false, _) => ConnectionState::Offline,
            (true, ParentContact::InContact) => reported,
            // Between windows it is not Offline, unless it missed too many.
            (true, _) => self.contact.state(node, reported, view.last_contact),
        };
        let report = StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            details,
            last_sync: view.last_sync,
            ..StatusReport::default()
        };
        Ok(Instance { active, state, last_contact: view.last_contact, report: Some(report) })
    }
}

/// The instance behind a connected registry.
struct Instance {
    active: bool,
    state: ConnectionState,
    last_contact: Option<UnixSeconds>,
    report: Option<StatusReport>,
}

/// The user name and passwords that were just made: the only time that they are shown.
pub(super) fn print_credentials(username: &str, new: &[NewPassword]) -> Value {
    let passwords = new.iter().map(|password| {
        let mut value = print_password(password.slot, password.created, password.expires);
        value["value"] = password.value.expose().into();
        value
    });
    json!({ "username": username, "passwords": passwords.collect::<Vec<_>>() })
}

fn print_password(slot: PasswordSlot, created: UnixSeconds, expires: Option<UnixSeconds>) -> Value {
    json!({
        "creationTime": created.rfc3339(),
        "expiry": expires.map(UnixSeconds::rfc3339),
        "name": slot.name(),
    })
}

pub(super) fn print_detail(detail: &StatusDetail) -> Value {
    json!({
        "type": detail.kind,
        "code": detail.code,
        "description": detail.description,
        "timestamp": detail.timestamp.rfc3339(),
        "correlationId": detail.correlation_id,
    })
}

//! Resources as `az acr` prints them with `-o json`.

use serde_json::{Value, json};

use super::Admin;
use crate::manage::Error;
use crate::manage::credential::NewPassword;
use crate::manage::instance::Instance;
use crate::store::PAGE_ROWS;
use crate::sys::spawn::yield_now;
use crate::types::connected_registry::StatusDetail;
use crate::types::time::format_duration;
use crate::types::token::{PasswordSlot, ScopeMap, Token};
use crate::types::{ConnectedRegistry, UnixSeconds};

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
            self.manage.registry_name()
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

    /// Prints resources, a page of them at a time: others go on in between.
    pub(super) async fn print_all<T>(
        &self,
        all: &[T],
        print: impl Fn(&T) -> Result<Value, Error>,
    ) -> Result<Value, Error> {
        let mut printed = Vec::with_capacity(all.len());
        for page in all.chunks(PAGE_ROWS) {
            for one in page {
                printed.push(print(one)?);
            }
            yield_now().await;
        }
        Ok(Value::Array(printed))
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

    pub(super) fn print_registry(&self, node: &ConnectedRegistry) -> Result<Value, Error> {
        let Instance { active, state, last_contact, report } = self.manage.instance(node)?;
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
    ) -> Result<Value, Error> {
        let parent = node.parent.as_ref().map(|name| self.id("connectedRegistries", name));
        let gateway = self.manage.parent_gateway(node)?.map(|(endpoint, _)| endpoint);
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

//! `connected-registry get-settings`: what a device needs to become this connected registry.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Admin;
use super::fault::Fault;
use crate::types::connection_string::{self, NO_ENDPOINT, NO_PASSWORD, Protocol};
use crate::types::endpoint::{is_loopback, is_unspecified};
use crate::types::token::PasswordSlot;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Role};

/// Stands for the device's own address, which only its owner knows.
const NO_LOGIN_SERVER: &str = "<optional: host[:port] by which clients reach this registry>";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GetSettings {
    name: ConnectedRegistryName,
    generate_password: Option<u8>,
    parent_protocol: Option<String>,
}

impl Admin {
    /// The settings; with `generatePassword` that password is replaced, and shown this once.
    pub(super) async fn get_settings(&self, which: GetSettings) -> Result<Value, Fault> {
        let slot = match which.generate_password {
            None => None,
            Some(1) => Some(PasswordSlot::One),
            Some(2) => Some(PasswordSlot::Two),
            Some(_) => return Err(Fault::invalid("A token has the passwords 1 and 2.")),
        };
        let asked = which.parent_protocol.as_deref().map(protocol).transpose()?;
        let node = self.registry(&which.name)?;
        let mut warnings = Vec::new();
        let parent = self.parent_gateway(&node)?;
        let protocol = match (&parent, asked) {
            (Some((_, known)), _) => *known,
            (None, asked) => asked.unwrap_or(Protocol::Https),
        };
        if let (Some((_, known)), Some(asked)) = (&parent, asked)
            && *known != asked
        {
            warnings.push(format!(
                "The parent's gateway speaks {}; the wish for {} is ignored.",
                known.name(),
                asked.name()
            ));
        }
        if protocol == Protocol::Http {
            warnings.push(
                "The connection to the parent is not encrypted: its listener has no TLS. Passwords \
                 and content can be read on the way."
                    .to_owned(),
            );
        }
        warnings
            .extend(self.endpoint_warning(&node, parent.as_ref().map(|(endpoint, _)| endpoint)));
        let mut passwords = Vec::new();
        if let Some(slot) = slot {
            let made = self.store.credential_generate(node.sync_token.clone(), &[slot], None).await;
            passwords = made.map_err(|error| Fault::of(error, "token", &node.sync_token))?;
            log::info!("generated {} token={}", slot.name(), node.sync_token);
        }
        let password = passwords.first().map_or(NO_PASSWORD, |p| p.value.expose());
        // The root's certificate is its own to vouch for; a parent below it has another.
        let pin = self.options.ca_fingerprint.as_deref();
        let pin = pin.filter(|_| node.parent.is_none() && protocol == Protocol::Https);
        warnings.extend(unknown_certificate(&node, parent.as_ref().map(|(_, known)| *known)));
        let endpoint = parent.as_ref().map_or(NO_ENDPOINT, |(endpoint, _)| endpoint);
        let connection_string = connection_string::format(
            node.name.as_str(),
            node.sync_token.as_str(),
            password,
            endpoint,
            protocol,
            pin,
        );
        Ok(print(&node, password, &connection_string, &warnings))
    }

    /// Why a device cannot find its parent by the endpoint that it is given.
    fn endpoint_warning(
        &self,
        node: &ConnectedRegistry,
        endpoint: Option<&String>,
    ) -> Option<String> {
        match (endpoint, &node.parent) {
            (Some(endpoint), _) if is_loopback(endpoint) => Some(format!(
                "Devices on other machines cannot reach {endpoint}: set listen.gateway at a root, \
                 or listen.login at a connected registry, to an address of the network."
            )),
            (Some(endpoint), None) => match &self.options.gateway_warning {
                Some(warning) => Some(format!("The device would not find its parent: {warning}.")),
                None if is_loopback(&self.options.login_server) => Some(format!(
                    "Devices on other machines find {endpoint}, and not {}, where they get their \
                     tokens and content: set listen.login to an address of the network too.",
                    self.options.login_server
                )),
                None => None,
            },
            (Some(endpoint), Some(parent)) if is_unspecified(endpoint) => Some(format!(
                "The parent '{parent}' listens on {endpoint}, an address of no machine: the device \
                 would connect to itself. Set registry.login_server at '{parent}' to a name or \
                 address of that machine and the port, restart it and run this again, or set \
                 parent.gateway_endpoint at the device."
            )),
            (None, Some(parent)) => Some(format!(
                "The parent '{parent}' has not reported its address, so ParentGatewayEndpoint is a \
                 placeholder, and the protocol a guess: activate '{parent}' first and run this \
                 again, or set parent.gateway_endpoint at the device."
            )),
            _ => None,
        }
    }

    /// Where a node's parent takes its messages, and how it speaks there; `None` while a parent
    /// that is a connected registry has not reported it, or is not known here.
    pub(super) fn parent_gateway(
        &self,
        node: &ConnectedRegistry,
    ) -> Result<Option<(String, Protocol)>, Fault> {
        let Some(parent) = &node.parent else {
            let known = self.options.role == Role::Root;
            let endpoint = self.options.gateway_endpoint.clone();
            return Ok(known.then_some((endpoint, protocol(&self.options.scheme)?)));
        };
        let status = self.store.status(parent)?;
        let report = status.map(|status| status.report);
        let report = report.filter(|report| !report.login_server.is_empty());
        Ok(report.map(|report| {
            let protocol = if report.tls { Protocol::Https } else { Protocol::Http };
            (report.login_server, protocol)
        }))
    }
}

/// Only a connected registry itself knows whether its certificate is self-signed, and which.
fn unknown_certificate(node: &ConnectedRegistry, known: Option<Protocol>) -> Option<String> {
    let parent = node.parent.as_ref().filter(|_| known == Some(Protocol::Https))?;
    Some(format!(
        "The certificate of the parent '{parent}' is not known here, and the device must trust it. \
         When it is self-signed, append to the connection string ;ParentCaFingerprint= and the \
         caFingerprint that `skerry status` shows at '{parent}'; when a private authority signed \
         it, set parent.ca_file at the device to the certificate of that authority."
    ))
}

fn protocol(text: &str) -> Result<Protocol, Fault> {
    [Protocol::Http, Protocol::Https]
        .into_iter()
        .find(|protocol| protocol.name().eq_ignore_ascii_case(text))
        .ok_or_else(|| Fault::invalid(format!("Invalid protocol '{text}': valid are http, https.")))
}

fn print(
    node: &ConnectedRegistry,
    password: &str,
    connection_string: &str,
    warnings: &[String],
) -> Value {
    let mut settings = Map::new();
    for (key, value) in [
        ("ACR_REGISTRY_CERTIFICATE_VOLUME", "/var/acr/certs"),
        ("ACR_REGISTRY_CONNECTION_STRING", connection_string),
        ("ACR_REGISTRY_DATA_VOLUME", "/var/acr/data"),
        ("ACR_REGISTRY_LOGIN_SERVER", NO_LOGIN_SERVER),
        ("SYNC_TOKEN_PASSWORD", password),
        ("SYNC_TOKEN_USER", node.sync_token.as_str()),
    ] {
        settings.insert(key.to_owned(), value.into());
    }
    if !warnings.is_empty() {
        settings.insert("warnings".to_owned(), json!(warnings));
    }
    Value::Object(settings)
}

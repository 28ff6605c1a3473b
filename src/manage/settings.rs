//! Settings: what a device needs to become a connected registry.

use super::connected_registry::if_known;
use super::{Changed, Changes, Error, Manage, Noun, Warning};
use crate::types::connection_string::{self, NO_ENDPOINT, NO_PASSWORD, Protocol};
use crate::types::endpoint::{is_loopback, is_unspecified};
use crate::types::token::PasswordSlot;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Role, Secret, TokenName};

/// Which settings to tell.
pub struct GetSettings {
    /// Of which connected registry.
    pub name: ConnectedRegistryName,
    /// The password of its sync token to replace, and to show this once.
    pub generate: Option<PasswordSlot>,
    /// How the device shall speak to a parent of which that is not known.
    pub protocol: Option<Protocol>,
}

/// What a device needs.
pub struct DeviceSettings {
    /// As whom it logs in.
    pub sync_token: TokenName,
    /// The password that was made, or what stands for one.
    pub password: Secret,
    /// All of it in one line.
    pub connection_string: Secret,
}

impl Changes {
    /// The settings of a connected registry.
    pub async fn get_settings(&self, which: GetSettings) -> Result<Changed<DeviceSettings>, Error> {
        let manage = &self.manage;
        let node = manage.connected_registry(&which.name)?;
        let mut made = None;
        if let Some(slot) = which.generate {
            let token = &node.sync_token;
            let passwords = manage.store.credential_generate(token.clone(), &[slot], None).await;
            made = passwords.map_err(Error::of(Noun::Token, token))?.pop();
            log::info!("generated {} token={token}", slot.name());
        }
        let late = made.as_ref().and_then(|_| if_known(manage.parent_late(&node)));
        let password = made.map_or_else(|| Secret::new(NO_PASSWORD), |made| made.value);
        Ok(manage.settings_with(&node, password, which.protocol)?.warn(late))
    }
}

impl Manage {
    /// The settings of a connected registry with this password of its sync token.
    pub(super) fn settings_with(
        &self,
        node: &ConnectedRegistry,
        password: Secret,
        asked: Option<Protocol>,
    ) -> Result<Changed<DeviceSettings>, Error> {
        let mut warnings = Vec::new();
        let parent = self.parent_gateway(node)?;
        let protocol = match (&parent, asked) {
            (Some((_, known)), _) => *known,
            (None, asked) => asked.unwrap_or(Protocol::Https),
        };
        if let (Some((_, known)), Some(asked)) = (&parent, asked)
            && *known != asked
        {
            warnings.push(Warning::ProtocolIgnored { known: *known, asked });
        }
        if protocol == Protocol::Http {
            warnings.push(Warning::NotEncrypted);
        }
        warnings.extend(self.endpoint_warning(node, parent.as_ref().map(|(endpoint, _)| endpoint)));
        // The root's certificate is its own to vouch for; a parent below it has another.
        let pin = self.options.ca_fingerprint.as_deref();
        let pin = pin.filter(|_| node.parent.is_none() && protocol == Protocol::Https);
        warnings.extend(unknown_certificate(node, parent.as_ref().map(|(_, known)| *known)));
        let endpoint = parent.as_ref().map_or(NO_ENDPOINT, |(endpoint, _)| endpoint);
        let connection_string = connection_string::format(
            node.name.as_str(),
            node.sync_token.as_str(),
            password.expose(),
            endpoint,
            protocol,
            pin,
        );
        let connection_string = Secret::new(connection_string);
        let sync_token = node.sync_token.clone();
        let settings = DeviceSettings { sync_token, password, connection_string };
        Ok(Changed::of(settings).warn(warnings))
    }

    /// Why a device cannot find its parent by the endpoint that it is given.
    fn endpoint_warning(
        &self,
        node: &ConnectedRegistry,
        endpoint: Option<&String>,
    ) -> Option<Warning> {
        let login = &self.options.login_server;
        match (endpoint, &node.parent) {
            (Some(endpoint), _) if is_loopback(endpoint) => {
                Some(Warning::LoopbackGateway(endpoint.clone()))
            }
            (Some(gateway), None) => match &self.options.gateway_warning {
                Some(warning) => Some(Warning::GatewayNotFound(warning.clone())),
                None if is_loopback(login) => {
                    Some(Warning::LoopbackLogin { gateway: gateway.clone(), login: login.clone() })
                }
                None => None,
            },
            (Some(endpoint), Some(parent)) if is_unspecified(endpoint) => {
                let (parent, endpoint) = (parent.clone(), endpoint.clone());
                Some(Warning::UnspecifiedGateway { parent, endpoint })
            }
            (None, Some(parent)) => Some(Warning::GatewayUnknown(parent.clone())),
            _ => None,
        }
    }

    /// Where a node's parent takes its messages, and how it speaks there; `None` while a parent
    /// that is a connected registry has not reported it, or is not known here.
    pub fn parent_gateway(
        &self,
        node: &ConnectedRegistry,
    ) -> Result<Option<(String, Protocol)>, Error> {
        let Some(parent) = &node.parent else {
            let known = self.options.role == Role::Root;
            let endpoint = self.options.gateway_endpoint.clone();
            return Ok(known.then_some((endpoint, self.options.protocol)));
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
fn unknown_certificate(node: &ConnectedRegistry, known: Option<Protocol>) -> Option<Warning> {
    let parent = node.parent.as_ref().filter(|_| known == Some(Protocol::Https))?;
    Some(Warning::CertificateUnknown(parent.clone()))
}

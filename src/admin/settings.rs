//! `connected-registry get-settings`: what a device needs to become this connected registry.

use serde::Deserialize;
use serde_json::{Value, json};

use super::also::tell;
use crate::manage::settings::{self, DeviceSettings};
use crate::manage::{Changes, Error};
use crate::types::ConnectedRegistryName;
use crate::types::connection_string::Protocol;
use crate::types::token::PasswordSlot;

/// Stands for the device's own address, which only its owner knows.
const NO_LOGIN_SERVER: &str = "<optional: host[:port] by which clients reach this registry>";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GetSettings {
    name: ConnectedRegistryName,
    generate_password: Option<u8>,
    parent_protocol: Option<String>,
}

/// The settings; with `generatePassword` that password is replaced, and shown this once.
pub(super) async fn get_settings(changes: &Changes, which: GetSettings) -> Result<Value, Error> {
    let generate = match which.generate_password {
        None => None,
        Some(1) => Some(PasswordSlot::One),
        Some(2) => Some(PasswordSlot::Two),
        Some(_) => return Err(Error::invalid("A token has the passwords 1 and 2.")),
    };
    let protocol = which.parent_protocol.as_deref().map(protocol).transpose()?;
    let which = settings::GetSettings { name: which.name, generate, protocol };
    let told = changes.get_settings(which).await?;
    Ok(tell(print(&told.resource), &told))
}

fn protocol(text: &str) -> Result<Protocol, Error> {
    [Protocol::Http, Protocol::Https]
        .into_iter()
        .find(|protocol| protocol.name().eq_ignore_ascii_case(text))
        .ok_or_else(|| Error::invalid(format!("Invalid protocol '{text}': valid are http, https.")))
}

fn print(settings: &DeviceSettings) -> Value {
    json!({
        "ACR_REGISTRY_CERTIFICATE_VOLUME": "/var/acr/certs",
        "ACR_REGISTRY_CONNECTION_STRING": settings.connection_string.expose(),
        "ACR_REGISTRY_DATA_VOLUME": "/var/acr/data",
        "ACR_REGISTRY_LOGIN_SERVER": NO_LOGIN_SERVER,
        "SYNC_TOKEN_PASSWORD": settings.password.expose(),
        "SYNC_TOKEN_USER": settings.sync_token,
    })
}

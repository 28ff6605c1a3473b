//! The way to the parent, as the configuration describes it.

use std::sync::Arc;

use super::identity::PEM_BYTES_MAX;
use super::node::StartError;
use crate::config::{Config, Parent};
use crate::gateway::Contacts;
use crate::http::{Client, ClientOptions};
use crate::store::Store;
use crate::sync::{ActivationError, Engine, EngineOptions};
use crate::types::connection_string::ConnectionString;

/// Makes the sync engine of a connected registry; it has not called its parent yet.
pub(super) fn engine(
    config: &Config,
    parent: &Parent,
    store: &Store,
    contacts: Arc<Contacts>,
    login: &str,
    tls: bool,
) -> Result<Engine, StartError> {
    let mut connection = connection(parent)?;
    if let Some(endpoint) = &parent.gateway_endpoint {
        connection.endpoint.clone_from(endpoint);
    }
    let sys = store.sys();
    let ca_pem = parent.ca_file.as_ref().map(|path| {
        let read = sys.disk.read(path, PEM_BYTES_MAX);
        read.map_err(|error| format!("parent.ca_file {}: {error}", path.display()))
    });
    let ca_pem = ca_pem.transpose()?;
    let private_ca = ca_pem.is_some() || connection.ca_fingerprint.is_some();
    let options = ClientOptions { ca_pem, ca_fingerprint: connection.ca_fingerprint.clone() };
    let client = Client::new(sys, options).map_err(|error| format!("parent.ca_file: {error}"))?;
    let instance_id = store.identity_file("instance-id", || Ok(sys.rng.uuid().into_bytes()))?;
    let login_server = config.registry.login_server.clone();
    let options = EngineOptions {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        login_server: login_server.unwrap_or_else(|| login.to_owned()),
        tls,
        instance_id: String::from_utf8_lossy(&instance_id).into_owned(),
        private_ca,
        contacts,
    };
    Ok(Engine::new(store.clone(), client, connection, options))
}

/// The connection string, parsed; its error never shows the password.
pub(super) fn connection(parent: &Parent) -> Result<ConnectionString, StartError> {
    let text = parent.connection_string.reveal();
    ConnectionString::parse(text, |name| std::env::var(name).ok()).map_err(|error| {
        let cure = "take it from `skerry connected-registry get-settings` at the root";
        StartError::config(format!("parent.connection_string: {error}: {cure}"))
    })
}

/// A device that was never activated does so before it serves. It stops when the parent refuses
/// it, and serves without content when the parent cannot be reached yet.
pub(super) async fn activate(engine: &Engine) -> Result<(), StartError> {
    match engine.activate().await {
        Ok(()) => Ok(()),
        Err(error @ ActivationError::Unreachable(_)) => {
            log::warn!(
                "{error}: trying again; check ParentGatewayEndpoint in the connection string and \
                 the network"
            );
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

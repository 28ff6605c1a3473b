//! The way to the parent, as the configuration describes it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::identity;
use super::node::StartError;
use super::reach;
use crate::config::{Config, ConfigError, Parent};
use crate::gateway::Contacts;
use crate::http::{Client, ClientOptions};
use crate::store::Store;
use crate::sync::{ActivationError, Engine, EngineOptions, publish_stored};
use crate::sys::clock::sleep;
use crate::sys::spawn::blocking;
use crate::sys::{Disk, Sys};
use crate::types::Role;
use crate::types::connection_string::ConnectionString;

/// Reads the configuration again, where the node got it from.
pub type Reread = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// A node without a connection string looks for one this often.
const LOOK: Duration = Duration::from_secs(5);

/// What a connected registry needs to make its sync engine, now or when its connection string has
/// come.
#[derive(Clone)]
pub(super) struct Uplink {
    pub(super) store: Store,
    pub(super) contacts: Arc<Contacts>,
    /// Where clients log in.
    pub(super) login: String,
    /// Every address that it listens on.
    pub(super) listens: Vec<SocketAddr>,
    /// Whether that listener has TLS.
    pub(super) tls: bool,
    pub(super) reread: Option<Reread>,
}

impl Uplink {
    /// The sync engine, which has not called its parent yet; `None` without a connection string.
    /// Blocks: it reads files.
    pub(super) fn engine(&self, config: &Config) -> Result<Option<Engine>, StartError> {
        let Some(parent) = config.reachable_parent() else {
            return Ok(None);
        };
        let connection = connection(parent)?;
        if let Some(file) = &parent.connection_string_file {
            keep(&*self.store.sys().disk, file);
        }
        let store_role = self.store.store_role()?;
        let decided = store_role.decide(config.named_role(), Some(&connection.name));
        decided.map_err(StartError::config)?;
        let sys = self.store.sys();
        let client = client(sys, parent, Some(&connection))?;
        let astray = reach::parent_warning(&config.registry, &connection, &self.listens);
        if let Some(warning) = &astray {
            log::warn!("{warning}");
        }
        self.store.set_credential_fault(astray);
        let instance_id = identity::instance_id(&self.store, &connection.name)?;
        let login_server = config.registry.login_server.clone();
        let options = EngineOptions {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            login_server: login_server.unwrap_or_else(|| self.login.clone()),
            tls: self.tls,
            instance_id,
            private_ca: parent.ca_file.is_some() || connection.ca_fingerprint.is_some(),
            contacts: self.contacts.clone(),
        };
        Ok(Some(Engine::new(self.store.clone(), client, connection, options)))
    }

    /// The same at a start. Whose clients can be served goes on serving them with a connection
    /// string that cannot be parsed, as with none: a start that fails would take the registry from
    /// its network until somebody comes.
    pub(super) fn first_engine(&self, config: &Config) -> Result<Option<Engine>, StartError> {
        if self.store.is_provisioned() && malformed(config).is_some() {
            self.store.stand(Role::Connected, false);
            return Ok(None);
        }
        self.engine(config)
    }

    /// Syncs for ever, once there is a connection string.
    pub(super) async fn run(self, engine: Option<Engine>) {
        let engine = match engine {
            Some(engine) => engine,
            None => self.wait().await,
        };
        match engine.run().await {}
    }

    /// Looks for a connection string until there is one that can be used.
    async fn wait(&self) -> Engine {
        loop {
            sleep(LOOK).await;
            let fault = match self.look().await {
                Ok(engine) => {
                    // What is doubtful about it, `status` goes on saying.
                    let doubt = self.store.credential_fault();
                    self.store.stand(Role::Connected, true);
                    self.store.set_credential_fault(doubt);
                    log::info!("found the connection string");
                    return engine;
                }
                Err(fault) => fault,
            };
            if fault != self.store.credential_fault() {
                if let Some(fault) = &fault {
                    log::error!("the connection string cannot be used: {fault}");
                }
                self.store.set_credential_fault(fault);
            }
        }
    }

    /// An error: why the string that is there cannot be used; `None` when there is none.
    async fn look(&self) -> Result<Engine, Option<String>> {
        let reread = self.reread.clone().ok_or(None)?;
        let this = self.clone();
        let look = move || {
            let config = reread().map_err(|error| Some(error.to_string()))?;
            let engine = this.engine(&config).map_err(|error| Some(error.message))?;
            engine.ok_or_else(|| config.parent.and_then(|parent| why_none(&parent)))
        };
        blocking(look).await
    }
}

/// The connection string is shown once, and its file may have come a moment ago: a power cut is not
/// to empty it after this node was activated with it.
fn keep(disk: &dyn Disk, file: &Path) {
    let keep = || {
        disk.open(file)?.sync_data()?;
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
        disk.sync_dir(dir.unwrap_or(Path::new(".")))
    };
    if let Err(error) = keep() {
        log::debug!("{}: not known to be on the disk: {error}", file.display());
    }
}

/// Says loudly that there is no connection string to use, why, and what is to be done about it.
pub(super) fn report_missing(store: &Store, config: &Config) -> Result<(), StartError> {
    let state = store.node_state()?;
    let fault = config.parent.as_ref().and_then(why_none).or_else(|| malformed(config));
    let cause = fault.as_ref().map(|fault| format!("{fault}: ")).unwrap_or_default();
    log::error!("{}: {cause}{}", state.name(), state.remedy().unwrap_or_default());
    store.set_credential_fault(fault);
    Ok(publish_stored(store)?)
}

/// The client of the parent; before there is a connection string it can be tried only.
pub(super) fn client(
    sys: &Sys,
    parent: &Parent,
    connection: Option<&ConnectionString>,
) -> Result<Client, StartError> {
    let ca_pem = parent.ca_file.as_ref();
    let ca_pem = ca_pem.map(|path| identity::read_pem(&*sys.disk, "parent.ca_file", path));
    let ca_pem = ca_pem.transpose()?;
    let ca_fingerprint = connection.and_then(|connection| connection.ca_fingerprint.clone());
    let options = ClientOptions { ca_pem, ca_fingerprint };
    Ok(Client::new(sys, options).map_err(|error| {
        let file = parent.ca_file.as_ref().map(|path| format!(" {}", path.display()));
        format!("parent.ca_file{}: {error}", file.unwrap_or_default())
    })?)
}

/// Why there is no connection string: its file cannot be read, or is not there.
pub(super) fn why_none(parent: &Parent) -> Option<String> {
    let file = parent.connection_string_file.as_ref();
    let absent = file.filter(|_| parent.connection_string.is_empty());
    let absent = absent.map(|path| format!("{}: there is no such file", path.display()));
    parent.unreadable.clone().or(absent)
}

/// Why the connection string that is there cannot be parsed.
fn malformed(config: &Config) -> Option<String> {
    connection(config.reachable_parent()?).err().map(|error| error.message)
}

/// The connection string, parsed, with the configured endpoint; its error never shows the password.
pub(super) fn connection(parent: &Parent) -> Result<ConnectionString, StartError> {
    let text = parent.connection_string.reveal();
    let (endpoint, lookup) =
        (parent.gateway_endpoint.as_deref(), |name: &str| std::env::var(name).ok());
    ConnectionString::parse_for(text, endpoint, lookup).map_err(|error| {
        let cure = "take it from `skerry connected-registry get-settings` at the root";
        let (origin, key) = (&parent.connection_string_origin, "parent.connection_string");
        StartError::config(ConfigError::at(origin, key, format_args!("{error}: {cure}")).0)
    })
}

/// A device that was never activated does so before it serves. When the parent cannot be reached
/// yet, or refuses it, the node serves status and health, and goes on trying.
pub(super) async fn activate(engine: &Engine) -> Result<(), StartError> {
    match engine.activate().await {
        // The engine has logged a refusal with its remedy.
        Ok(()) | Err(ActivationError::Refused(_)) => Ok(()),
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

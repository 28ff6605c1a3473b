//! The rules of management, once: typed commands, typed answers, and one error.
//!
//! A front end translates: it says who asks for which change, and prints what came of it. The right
//! to make a change, [`Changes`], comes from [`Manage::change`] alone, which leaves changes to the
//! root of the tree and keeps the audit of them.

pub mod audit;
pub mod connected_registry;
pub mod credential;
pub mod error;
pub mod instance;
pub mod late;
pub mod other;
pub mod permission;
pub mod scope_map;
pub mod settings;
pub mod token;
pub mod warning;

mod rows;

use std::sync::Arc;

pub use error::{Error, Kind, Noun, Subject};
pub use warning::Warning;

use audit::Refused;
use late::Late;
use other::OtherChanged;

use crate::store::Store;
use crate::store::tree::Others;
use crate::types::connected_registry::ConnectionState;
use crate::types::connection_string::Protocol;
use crate::types::deed::Deed;
use crate::types::limits::NAME_MAX;
use crate::types::schedule::Schedule;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Role, UnixSeconds};

/// What management tells of the node.
pub struct Options {
    /// What the node is.
    pub role: Role,
    /// The root's name; on a connected registry the name in its desired state comes first.
    pub registry_name: String,
    /// Where clients log in, `host[:port]`.
    pub login_server: String,
    /// What `get-settings` names as the gateway of the root, `host[:port]`.
    pub gateway_endpoint: String,
    /// Why children do not reach this root there.
    pub gateway_warning: Option<String>,
    /// How that gateway speaks, as devices see it.
    pub protocol: Protocol,
    /// SHA-256 of the certificate that the gateway shows, 64 hex digits, when no public authority
    /// vouches for it: devices are told to trust it.
    pub ca_fingerprint: Option<String>,
}

/// Who was in contact when; only the gateway knows, because a poll writes nothing.
pub trait Contact: Send + Sync {
    /// What to call a child's state: its own word while it is in contact, Offline otherwise.
    /// `stored` is the last contact known from before this process.
    fn state(
        &self,
        node: &ConnectedRegistry,
        reported: ConnectionState,
        stored: Option<UnixSeconds>,
    ) -> ConnectionState;

    /// When a child was last in contact. `stored` is the last contact known from before this
    /// process.
    fn last_seen(
        &self,
        name: &ConnectedRegistryName,
        stored: Option<UnixSeconds>,
    ) -> Option<UnixSeconds>;

    /// The schedule and its window that a child was last sent by this process.
    fn told(&self, name: &ConnectedRegistryName) -> Option<(Schedule, Option<u64>)>;
}

/// Shows what is managed, and lets it be changed; a clone does so alike.
#[derive(Clone)]
pub struct Manage {
    store: Store,
    options: Arc<Options>,
    contact: Arc<dyn Contact>,
    refused: Arc<Refused>,
}

/// A change that somebody asks for, as the audit tells of it.
pub struct Asked {
    /// Who: see [`crate::sys::net::Peer`] for callers of the admin socket.
    pub actor: String,
    /// The command, such as `token create`.
    pub action: String,
    /// The name of what it is about; what is no name is cut to the length of one.
    pub subject: String,
}

/// The right to make one change, which is written together with who asked for it.
pub struct Changes {
    manage: Manage,
}

/// What came of a change.
pub struct Changed<T> {
    /// What was changed.
    pub resource: T,
    /// Scope maps of other connected registries that changed with it.
    pub others: Vec<OtherChanged>,
    /// What whoever asked should know.
    pub warnings: Vec<Warning>,
}

impl Manage {
    /// Manages what is in `store`.
    pub fn new(store: Store, options: Options, contact: Arc<dyn Contact>) -> Manage {
        Manage { store, options: Arc::new(options), contact, refused: Arc::default() }
    }

    /// What management tells of the node.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The root's name, as the node's desired state says or the configuration.
    pub fn registry_name(&self) -> String {
        match self.store.self_registry() {
            Ok(Some(registry)) => registry,
            _ => self.options.registry_name.clone(),
        }
    }

    /// Runs a change, at the root only. The audit has it when it was made, and when it was refused.
    pub async fn change<T, F: Future<Output = Result<T, Error>>>(
        &self,
        asked: Asked,
        command: impl FnOnce(Changes) -> F,
    ) -> Result<T, Error> {
        let deed = Deed {
            at: self.store.sys().clock.wall_or_floor(),
            actor: asked.actor,
            action: asked.action,
            subject: asked.subject.chars().take(NAME_MAX).collect(),
        };
        let done = match self.options.role {
            Role::Connected => Err(Error::managed_at_root(&self.registry_name())),
            Role::Root => {
                let store = self.store.doing(deed.clone());
                command(Changes { manage: Manage { store, ..self.clone() } }).await
            }
        };
        if let Err(error) = &done {
            self.refused.note(deed, error);
        }
        done
    }
}

impl<T> Changed<T> {
    fn of(resource: T) -> Changed<T> {
        Changed { resource, others: Vec::new(), warnings: Vec::new() }
    }

    fn warn(mut self, warnings: impl IntoIterator<Item = Warning>) -> Changed<T> {
        self.warnings.extend(warnings);
        self
    }

    /// Tells, also in the log, which scope maps of other connected registries changed too.
    fn with_others(mut self, others: Others) -> Changed<T> {
        let (others, warnings) = other::tell(others);
        self.others.extend(others);
        warnings.iter().for_each(|warning| log::info!("{warning}"));
        self.warn(warnings)
    }

    /// Warns that a change of a token is in force here, and not yet at these devices.
    fn with_late(self, late: Result<Vec<Late>, Error>) -> Changed<T> {
        match late {
            Ok(late) if late.is_empty() => self,
            Ok(late) => {
                let warning = Warning::HeardLate(late);
                log::info!("{warning}");
                self.warn([warning])
            }
            // That does not keep anybody from taking rights away.
            Err(error) => self.warn([Warning::HeardLateUnknown(error)]),
        }
    }
}

#[cfg(test)]
mod tests;

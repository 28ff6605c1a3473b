//! Tries what `serve` would try, beside a service that may be running: it makes nothing, takes no
//! lock and keeps no port.

use std::io::ErrorKind;

use super::identity;
use super::parent;
use super::reach;
use crate::config::{Config, Listener};
use crate::http::TlsAcceptor;
use crate::store::journal::layout::Layout;
use crate::store::recovery::recover::check_journal;
use crate::store::role::role_by_files;
use crate::sys::net::try_bind;
use crate::sys::owner::as_owner;
use crate::sys::{Disk, Spawner, Sys, SystemDisk};
use crate::types::connection_string::ConnectionString;
use crate::types::{Role, StoreRole};

/// What `serve` would fail on, as one line for people; otherwise what it would wait
/// for, or what clients will refuse. `running`:
/// the service of this configuration runs, so that its addresses are in use.
pub fn check(config: &Config, running: bool) -> Result<Vec<String>, String> {
    let sys = Sys::real(Spawner::new());
    let connection = check_parent(&sys, config)?;
    let layout = Layout::new(&config.storage.state_dir);
    let looked = as_owner(layout.root(), || {
        layout.check(&*sys.disk).and_then(|()| layout.check_files(&*sys.disk))
    });
    looked.map_err(|error| error.to_string())?;
    let mut waits = Vec::new();
    if !running {
        let looked = as_owner(layout.root(), || check_journal(&*sys.disk, &layout));
        waits.extend(looked.map_err(|error| error.to_string())?);
    }
    let store = role_by_files(&SystemDisk, &config.storage.state_dir).unwrap_or_else(|| {
        // A connected registry that runs has noted what it is: a root, in its first run, has not.
        let wants_root = connection.is_none() && config.named_role() != Some(Role::Connected);
        if !(running && wants_root) {
            waits.push(
                "what the store belongs to cannot be seen from here (it has no note of that yet): \
                 if it is that of another role than the configuration names, serve says so"
                    .to_owned(),
            );
        }
        StoreRole::New
    });
    let name = connection.as_ref().map(|connection| &connection.name);
    let role = store.decide(config.named_role(), name)?;
    if let Some(identity) = identity::from_files(config)? {
        TlsAcceptor::new(&sys, &identity).map_err(|error| identity::named(config, &error))?;
        waits.extend(identity::warnings(&sys, config, &identity));
    }
    let gateways = config.listen.gateway.iter().filter(|_| role == Role::Root);
    for listener in config.listen.login.iter().chain(gateways) {
        check_address(listener, running)?;
    }
    check_admin_socket(config)?;
    waits.extend(check_names(config, role, connection.as_ref()));
    if role == Role::Connected && connection.is_none() {
        let fault = config.parent.as_ref().and_then(|parent| parent.unreadable.clone());
        waits.push(fault.map_or_else(
            || {
                "there is no connection string that can be seen from here (a credential is seen \
                 by the service only): without one the node waits for it"
                    .to_owned()
            },
            |fault| format!("{fault}: the node waits until it can be read"),
        ));
    }
    Ok(waits)
}

fn check_parent(sys: &Sys, config: &Config) -> Result<Option<ConnectionString>, String> {
    let Some(parent) = config.reachable_parent() else {
        return Ok(None);
    };
    let connection = parent::connection(parent).map_err(|error| error.message)?;
    parent::client(sys, parent, &connection).map_err(|error| error.message)?;
    Ok(Some(connection))
}

/// Where clients, children and this node would be sent to nobody.
fn check_names(config: &Config, role: Role, connection: Option<&ConnectionString>) -> Vec<String> {
    let places = |of: &[Listener]| -> Vec<reach::Place> {
        of.iter().map(|one| (one.address, one.has_tls(&config.tls))).collect()
    };
    let (registry, listen) = (&config.registry, &config.listen);
    let (logins, gateways) = (places(&listen.login), places(&listen.gateway));
    let mut found = reach::warnings(registry, role, &logins, &gateways);
    let logins: Vec<_> = logins.into_iter().map(|(address, _)| address).collect();
    found.extend(connection.and_then(|one| reach::parent_warning(registry, one, &logins)));
    found
}

/// An address in use is no fault while the service runs: it is its own.
fn check_address(listener: &Listener, running: bool) -> Result<(), String> {
    match try_bind(listener.address) {
        Err(error) if running && error.kind() == ErrorKind::AddrInUse => Ok(()),
        result => result.map_err(|error| error.to_string()),
    }
}

/// The state directory may not be there yet; any other directory of the socket must be.
fn check_admin_socket(config: &Config) -> Result<(), String> {
    let socket = &config.listen.admin;
    let directory = socket.parent().filter(|dir| *dir != config.storage.state_dir);
    let missing = directory.filter(|dir| !SystemDisk.exists(dir).unwrap_or(false));
    match missing {
        Some(dir) => Err(format!("listen.admin: {} does not exist", dir.display())),
        None => Ok(()),
    }
}

//! Tries what `serve` would try, beside a service that may be running: it makes nothing, takes no
//! lock and keeps no port.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::identity;
use super::parent;
use super::reach;
use crate::config::{Config, ConfigError, Listener};
use crate::http::TlsAcceptor;
use crate::store::journal::layout::Layout;
use crate::store::recovery::recover::check_journal;
use crate::store::role::role_by_files;
use crate::sys::net::try_bind;
use crate::sys::owner::{Groups, ServiceUser};
use crate::sys::{Disk, Spawner, Sys, SystemDisk};
use crate::types::connection_string::ConnectionString;
use crate::types::{Role, StoreRole};

/// Reads the configuration as whoever calls this can; with what is wrong with that, for people.
pub type Reading<'a> = &'a (dyn Fn() -> Result<(Config, Vec<String>), ConfigError> + Sync);

/// What `serve` would fail on, as one line for people; otherwise what it would wait
/// for, or what clients will refuse. `running`:
/// the service of this configuration runs, so that its addresses are in use. `again` is for the
/// user of the service, when the superuser asks: that user must be able to read it too.
pub fn check(config: &Config, running: bool, again: Reading<'_>) -> Result<Vec<String>, String> {
    let service = ServiceUser::of(&config.storage.state_dir);
    let (role, mut waits) = match service {
        Some(service) => check_as(service, config, running, again)?,
        None => check_here(config, running)?,
    };
    config.check_addresses(role)?;
    let gateways = config.listen.gateway.iter().filter(|_| role == Role::Root);
    let gateways = gateways.map(|listener| ("listen.gateway", listener));
    let logins = config.listen.login.iter().map(|listener| ("listen.login", listener));
    for (key, listener) in logins.chain(gateways) {
        waits.extend(check_address(key, listener, running, service)?);
    }
    Ok(waits)
}

/// What the superuser can use is not what the service can. A fault that is one for that user only
/// is told as that; when another group would mend it, it may be that its unit gives it this group.
fn check_as(
    service: ServiceUser,
    config: &Config,
    running: bool,
    again: Reading<'_>,
) -> Result<(Role, Vec<String>), String> {
    let look = || -> Result<(Role, Vec<String>), String> {
        let (config, doubts) = again().map_err(|error| error.to_string())?;
        let (role, mut waits) = check_here(&config, running)?;
        waits.extend(doubts);
        Ok((role, waits))
    };
    let fault = match service.look(Groups::Known, look) {
        Some(Ok(found)) => return Ok(found),
        Some(Err(fault)) => fault,
        None => return check_here(config, running),
    };
    check_here(config, running)?;
    let (user, state_dir) = (service.name(), config.storage.state_dir.display());
    let who = format!("the user {user}, to whom {state_dir} belongs");
    match service.look(Groups::Any, look) {
        Some(Ok((role, mut waits))) => {
            waits.push(format!(
                "for {who}, serve fails unless its unit has SupplementaryGroups= with the group of \
                 the file: {fault}"
            ));
            Ok((role, waits))
        }
        _ => Err(format!("{fault} (as {who}; the superuser can use it)")),
    }
}

/// The same, but for addresses, with the rights of this thread. Also which role the node has.
fn check_here(config: &Config, running: bool) -> Result<(Role, Vec<String>), String> {
    let sys = Sys::real(Spawner::new());
    let connection = check_parent(&sys, config)?;
    let layout = Layout::new(&config.storage.state_dir);
    let looked = layout.check(&*sys.disk).and_then(|newer| {
        layout.check_files(&*sys.disk)?;
        Ok(newer)
    });
    let newer = looked.map_err(|error| error.to_string())?;
    let mut waits: Vec<String> = newer.map(|cause| cause.to_string()).into_iter().collect();
    if !running {
        let looked = check_journal(&*sys.disk, &layout);
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
        waits.extend(identity::warnings(&sys, config, &identity.certificate_pem));
    }
    waits.extend(identity::self_signed_warnings(&sys, config));
    check_admin_socket(config)?;
    waits.extend(check_names(config, role, connection.as_ref()));
    if role == Role::Connected && connection.is_none() {
        let parent = config.parent.as_ref();
        // It can be used with any, or it keeps the node from using the one that comes.
        let authority = parent.and_then(|parent| parent::client(&sys, parent, None).err());
        waits.extend(authority.map(|error| {
            format!("{}: no connection string can be used before that", error.message)
        }));
        let fault = parent.and_then(parent::why_none);
        waits.push(fault.map_or_else(
            || {
                "there is no connection string that can be seen from here (a credential is seen \
                 by the service only): without one the node waits for it"
                    .to_owned()
            },
            |fault| format!("{fault}: the node waits until there is a connection string"),
        ));
    }
    Ok((role, waits))
}

fn check_parent(sys: &Sys, config: &Config) -> Result<Option<ConnectionString>, String> {
    let Some(parent) = config.reachable_parent() else {
        return Ok(None);
    };
    let connection = parent::connection(parent).map_err(|error| error.message)?;
    parent::client(sys, parent, Some(&connection)).map_err(|error| error.message)?;
    Ok(Some(connection))
}

/// Where clients, children and this node would be sent to nobody.
fn check_names(config: &Config, role: Role, connection: Option<&ConnectionString>) -> Vec<String> {
    let places = |of: &[Listener]| -> Vec<reach::Place> {
        of.iter().map(|one| (one.address, one.has_tls(&config.tls))).collect()
    };
    let (registry, listen) = (&config.registry, &config.listen);
    let (logins, gateways) = (places(&listen.login), places(&listen.gateway));
    let served = gateways.iter().filter(|_| role == Role::Root);
    let served = logins.iter().chain(served).copied();
    let mut found: Vec<_> =
        served.filter_map(|place| reach::plain_http_warning(registry, place)).collect();
    found.extend(reach::warnings(registry, role, &logins, &gateways));
    let logins: Vec<_> = logins.into_iter().map(|(address, _)| address).collect();
    found.extend(connection.and_then(|one| reach::parent_warning(registry, one, &logins)));
    found
}

/// An address in use is no fault while the service runs: it is its own. Nor is one that the user of
/// the service may not listen on: the service manager may pass its socket.
fn check_address(
    key: &str,
    listener: &Listener,
    running: bool,
    service: Option<ServiceUser>,
) -> Result<Option<String>, String> {
    let bind = || try_bind(listener.address);
    let is_forbidden = |bound: &io::Result<()>| {
        bound.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    let mine = bind();
    let is_used = mine.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    let theirs = service.and_then(|service| service.look(Groups::Known, bind));
    let must_be_passed = is_forbidden(theirs.as_ref().unwrap_or(&mine));
    // Who may not listen there does not learn whether somebody does.
    if running && (is_used || is_forbidden(&mine)) {
        return Ok(None);
    }
    if !must_be_passed {
        return mine.map(|()| None).map_err(|error| error.to_string());
    }
    let of = service.map(|service| format!(" {}", service.name())).unwrap_or_default();
    let address = listener.address;
    let now = match is_used {
        true => "what listens there now must be that socket",
        false => "such as skerry.socket, enabled and started while skerry.service is stopped",
    };
    Ok(Some(format!(
        "{key}: the user{of} may not listen on {address}: serve fails unless the service manager \
         passes the socket ({now}), or the unit has AmbientCapabilities=CAP_NET_BIND_SERVICE"
    )))
}

/// The state directory may not be there yet; any other directory of the socket must be.
fn check_admin_socket(config: &Config) -> Result<(), String> {
    let socket = &config.listen.admin;
    let directory = socket.parent().filter(|dir| *dir != config.storage.state_dir);
    let Some(directory) = directory else {
        return Ok(());
    };
    // A socket that is named alone is made in the directory that the program runs in.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    if !SystemDisk.exists(directory).unwrap_or(false) {
        return Err(format!(
            "listen.admin: the directory {} does not exist: create it, or name another",
            directory.display()
        ));
    }
    let failed = |error: io::Error| format!("listen.admin: {}: {error}", directory.display());
    SystemDisk.check_writable(directory).map_err(failed)
}

//! What a node is known by: its signing key and its certificate, made on the first start.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::auth;
use crate::config::{Config, Listener, TlsMode};
use crate::http::objections;
use crate::http::tls::{self, ServerTls, TlsAcceptor};
use crate::store::{Store, StoreError};
use crate::sys::{Disk, Sys, SystemDisk};
use crate::types::connected_registry::is_instance_id;
use crate::types::{ConnectedRegistryName, StoreRole};

/// Largest PEM file that is read, bytes.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// The self-signed certificate and its key, in the identity directory.
const TLS_FILE: &str = "tls.pem";

/// What the parent knows this instance of a connected registry by, in the identity directory.
const INSTANCE_FILE: &str = "instance-id";

/// The key that signs access tokens, and its certificate, in the identity directory.
const SIGNING_FILE: &str = "token-signing";

/// The key that signs access tokens and its certificate. A damaged one is replaced: it protects
/// tokens of a few hours.
pub(super) fn signing(store: &Store) -> Result<auth::keys::Identity, String> {
    let failed = |error: StoreError| format!("the token-signing key: {error}");
    let made = store.identity_file(SIGNING_FILE, || auth::keys::make()?.to_bytes());
    auth::keys::Identity::from_bytes(&made.map_err(failed)?).or_else(|why| {
        log::error!(
            "the token-signing key in the state directory is damaged and was replaced by a new \
             one: tokens issued before are refused, clients log in again: {why}"
        );
        let identity = auth::keys::make()?;
        if !store.read_only() {
            store.replace_identity_file(SIGNING_FILE, &identity.to_bytes()?).map_err(failed)?;
        }
        Ok(identity)
    })
}

/// The id of this instance, made on the first start. One that the parent would refuse as malformed
/// (a power cut may leave an empty file) is replaced: the state that follows has a way out.
pub(super) fn instance_id(
    store: &Store,
    name: &ConnectedRegistryName,
) -> Result<String, StoreError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let is_valid = |bytes: &[u8]| is_instance_id(&text(bytes));
    let make = || Ok(store.sys().rng.uuid().into_bytes());
    let (id, was_replaced) = store.valid_identity_file(INSTANCE_FILE, is_valid, make)?;
    if was_replaced {
        log::warn!(
            "the instance id (identity/{INSTANCE_FILE} in the state directory) is empty or damaged \
             and was replaced by a new one: if {name} was active here, its parent takes this node \
             for another instance (AlreadyActivated) until `skerry connected-registry deactivate \
             --name {name}` at the root; what is here is kept and served"
        );
    }
    Ok(text(&id))
}

/// The acceptor of the listeners with TLS; `None` when it is off.
pub(super) fn tls(
    sys: &Sys,
    config: &Config,
    store: &Store,
    login: &str,
) -> Result<Option<TlsAcceptor>, String> {
    let identity = match config.tls.mode {
        TlsMode::Off => return Ok(None),
        TlsMode::Files => from_files(config)?,
        TlsMode::SelfSigned => Some(made(sys, config, store, login)?),
    };
    let Some(identity) = identity else {
        return Ok(None);
    };
    let acceptor = TlsAcceptor::new(sys, &identity).map_err(|error| named(config, &error))?;
    for warning in warnings(sys, config, &identity) {
        log::warn!("{warning}");
    }
    Ok(Some(acceptor))
}

/// What clients will refuse about a certificate that can be used.
pub(super) fn warnings(sys: &Sys, config: &Config, identity: &ServerTls) -> Vec<String> {
    let has_tls = |of: &[Listener]| of.iter().any(|listener| listener.has_tls(&config.tls));
    let (registry, listen) = (&config.registry, &config.listen);
    let login = registry.login_server.clone().filter(|_| has_tls(&listen.login));
    let gateway = registry.gateway_server.clone().filter(|_| has_tls(&listen.gateway));
    let names = [("registry.login_server", login), ("registry.gateway_server", gateway)];
    let names: Vec<_> =
        names.into_iter().filter_map(|(key, name)| Some((key, host(&name?)))).collect();
    let certificate = match &config.tls.certificate {
        Some(path) => format!("the certificate {}", path.display()),
        None => "the self-signed certificate (identity/tls.pem in the state directory)".to_owned(),
    };
    let objections = objections(&identity.certificate_pem, sys.clock.wall(), &names);
    objections.iter().map(|objection| format!("[tls]: {certificate} {objection}")).collect()
}

/// The configured certificate and key; `None` in another mode.
pub(super) fn from_files(config: &Config) -> Result<Option<ServerTls>, String> {
    let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.private_key) else {
        return Ok(None);
    };
    let read = |key: &str, path: &Path| {
        read_pem(&SystemDisk, key, path).map_err(|error| format!("[tls]: {error}"))
    };
    let certificate = read("tls.certificate", certificate)?;
    Ok(Some(server_tls(certificate, read("tls.private_key", key)?)))
}

/// A fault of the certificate or the key, with the files that they came from.
pub(super) fn named(config: &Config, error: &str) -> String {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    match (path(&config.tls.certificate), path(&config.tls.private_key)) {
        (Some(certificate), Some(key)) => format!(
            "[tls]: tls.certificate {certificate} and tls.private_key {key} cannot be used: {error}"
        ),
        _ => format!("[tls]: {error}"),
    }
}

/// The file that a key of the configuration names; the error names both, and what helps.
pub(super) fn read_pem(disk: &dyn Disk, key: &str, path: &Path) -> Result<Vec<u8>, String> {
    disk.read(path, PEM_BYTES_MAX).map_err(|error| {
        let cure = match error.kind() {
            ErrorKind::NotFound => "put the file there, or correct the path",
            ErrorKind::PermissionDenied => "let the user that runs skerry read it",
            _ => "check the file",
        };
        format!("{key} {}: {error}; {cure}", path.display())
    })
}

/// The fingerprint that devices are told to trust: of a self-signed certificate only. With a
/// certificate of an authority, the authority is trusted.
pub(super) fn private_ca(config: &Config, store: &Store) -> Result<Option<String>, String> {
    if config.tls.mode != TlsMode::SelfSigned {
        return Ok(None);
    }
    let missing = || Err("the certificate was not made".to_owned());
    let pem = store.identity_file(TLS_FILE, missing).map_err(|error| error.to_string())?;
    Ok(tls::fingerprints(&pem)?.into_iter().next())
}

/// A self-signed identity for the names that clients use, kept in the state directory. A damaged
/// one is replaced: without its key nobody can go on with it.
fn made(sys: &Sys, config: &Config, store: &Store, login: &str) -> Result<ServerTls, String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let registry = &config.registry;
    let derived = registry.gateway_host();
    let configured = [&registry.login_server, &registry.gateway_server, &derived];
    for name in configured.into_iter().flatten().map(String::as_str).chain([login]) {
        let name = host(name);
        if !names.contains(&name) && name != "0.0.0.0" && name != "::" {
            names.insert(0, name);
        }
    }
    let make = || {
        let identity = tls::self_signed(&names)?;
        Ok((identity.certificate_pem + &identity.key_pem).into_bytes())
    };
    let both = |pem: &[u8]| server_tls(pem.to_vec(), pem.to_vec());
    let is_valid = |pem: &[u8]| TlsAcceptor::new(sys, &both(pem)).is_ok();
    let was_there = store.has_identity_file(TLS_FILE).map_err(|error| error.to_string())?;
    let pem = store.valid_identity_file(TLS_FILE, is_valid, make);
    let (pem, was_replaced) =
        pem.map_err(|error| format!("the self-signed certificate: {error}"))?;
    if was_replaced {
        log::error!(
            "the self-signed certificate (identity/{TLS_FILE} in the state directory) is empty or \
             damaged and was replaced by a new one: clients that trust the old one must be given \
             this one, and each connected registry below a new connection string (`skerry \
             connected-registry get-settings`)"
        );
    }
    // A new store has nobody yet who could know another one.
    let is_new = || matches!(store.store_role(), Ok(StoreRole::New));
    if !was_there && !is_new() {
        log::warn!(
            "there was no self-signed certificate (identity/{TLS_FILE} in the state directory), so \
             a new one was made: clients that trust an earlier one must be given this one, and \
             each connected registry below a new connection string (`skerry connected-registry \
             get-settings`)"
        );
    }
    Ok(both(&pem))
}

/// The host of `host[:port]`.
fn host(address: &str) -> String {
    let end = address.rfind(':').filter(|at| !address[*at..].contains(']'));
    let host = &address[..end.unwrap_or(address.len())];
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

fn server_tls(certificate_pem: Vec<u8>, key_pem: Vec<u8>) -> ServerTls {
    ServerTls { certificate_pem, key_pem, client_ca_pem: None }
}

//! What a node is known by: its signing key and its certificate, made on the first start.

use crate::auth;
use crate::config::{Config, Listener, TlsMode};
use crate::http::objections;
use crate::http::tls::{self, ServerTls, TlsAcceptor};
use crate::store::{Store, StoreError};
use crate::sys::{Disk, Sys, SystemDisk};

/// Largest PEM file that is read, bytes.
pub(super) const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// The self-signed certificate and its key, in the identity directory.
const TLS_FILE: &str = "tls.pem";

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
        TlsMode::SelfSigned => Some(made(config, store, login)?),
    };
    let Some(identity) = identity else {
        return Ok(None);
    };
    let acceptor = TlsAcceptor::new(sys, &identity)?;
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
    let read = |path: &std::path::Path| {
        let bytes = SystemDisk.read(path, PEM_BYTES_MAX);
        bytes.map_err(|error| format!("[tls]: {}: {error}", path.display()))
    };
    Ok(Some(server_tls(read(certificate)?, read(key)?)))
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

/// A self-signed identity for the names that clients use, kept in the state directory.
fn made(config: &Config, store: &Store, login: &str) -> Result<ServerTls, String> {
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
    let pem = store.identity_file(TLS_FILE, make);
    let pem = pem.map_err(|error| format!("the self-signed certificate: {error}"))?;
    Ok(server_tls(pem.clone(), pem))
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

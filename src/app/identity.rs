//! What a node is known by: its signing key and its certificate, made on the first start.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::auth;
use crate::config::{Config, Listener, TlsMode};
use crate::http::objections;
use crate::http::tls::{self, ServerTls, TlsAcceptor};
use crate::store::journal::layout::Layout;
use crate::store::{Store, StoreError};
use crate::sys::{Disk, Sys, SystemDisk};
use crate::types::connected_registry::is_instance_id;
use crate::types::{ConnectedRegistryName, Role};

/// Largest PEM file that is read, bytes.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// The self-signed certificate and its key, in the identity directory.
const TLS_FILE: &str = "tls.pem";

/// The same, for people.
const SELF_SIGNED_PLACE: &str = "identity/tls.pem in the state directory";

/// How one comes to be for what is configured now. It is not made by itself: who trusts the former
/// one would refuse this node.
const MAKE_ANOTHER: &str = "; to have another one made, remove that file and restart: clients that \
                            trust it must be given the new one, and ";

/// What connected registries below need of another certificate.
const NEW_STRINGS: &str = "each connected registry below a connection string with the new \
                           fingerprint (`skerry connected-registry get-settings` at the root; \
                           below a connected registry, ParentCaFingerprint= is the caFingerprint \
                           that `skerry status` shows there)";

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

/// The acceptor of the listeners with TLS, at these addresses; `None` when it is off. Of a store
/// that `is_new` nobody knows another certificate.
pub(super) fn tls(
    sys: &Sys,
    config: &Config,
    store: &Store,
    addresses: &[SocketAddr],
    is_new: bool,
) -> Result<Option<TlsAcceptor>, String> {
    let identity = match config.tls.mode {
        TlsMode::Off => return Ok(None),
        TlsMode::Files => from_files(config)?,
        TlsMode::SelfSigned => Some(made(sys, config, store, addresses, is_new)?),
    };
    let Some(identity) = identity else {
        return Ok(None);
    };
    let acceptor = TlsAcceptor::new(sys, &identity).map_err(|error| named(config, &error))?;
    for warning in warnings(sys, config, &identity.certificate_pem) {
        log::warn!("{warning}");
    }
    Ok(Some(acceptor))
}

/// What clients will refuse about a certificate that can be used, or that is to be made.
pub(super) fn warnings(sys: &Sys, config: &Config, pem: &[u8]) -> Vec<String> {
    let is_self_signed = config.tls.mode == TlsMode::SelfSigned;
    let (certificate, cure) = match &config.tls.certificate {
        Some(path) if !is_self_signed => {
            (format!("the certificate {}", path.display()), String::new())
        }
        _ => (
            format!("the self-signed certificate ({SELF_SIGNED_PLACE})"),
            format!("{MAKE_ANOTHER}{NEW_STRINGS}"),
        ),
    };
    let objections = objections(pem, sys.clock.wall(), &used_names(config));
    let objections = objections.iter();
    let objections = objections.map(|objection| format!("[tls]: {certificate} {objection}{cure}"));
    nameless(config).into_iter().chain(objections).collect()
}

/// The same before a start: of a self-signed certificate that is in the state directory, or of that
/// which will be made.
pub(super) fn self_signed_warnings(sys: &Sys, config: &Config) -> Vec<String> {
    if config.tls.mode != TlsMode::SelfSigned {
        return Vec::new();
    }
    let path = Layout::new(&config.storage.state_dir).identity().join(TLS_FILE);
    let pem = sys.disk.read(&path, PEM_BYTES_MAX).unwrap_or_default();
    warnings(sys, config, &pem)
}

/// The hosts that clients and children are known to use over TLS, each with the key that says so.
fn used_names(config: &Config) -> Vec<(&'static str, String)> {
    let (registry, listen) = (&config.registry, &config.listen);
    let has_tls = |of: &[Listener]| of.iter().any(|listener| listener.has_tls(&config.tls));
    let mut names = Vec::new();
    if let Some(name) = registry.login_server.as_ref().filter(|_| has_tls(&listen.login)) {
        names.push(("registry.login_server", host(name)));
    } else if config.tls.mode == TlsMode::SelfSigned {
        // Clients may use another name of this machine, which only its owner knows: a certificate
        // of an authority is for that.
        names.extend(addresses_of(config, &listen.login).map(|ip| ("listen.login", ip)));
    }
    // It has no effect on a connected registry, whose children use its login server.
    if config.named_role() == Some(Role::Connected) || !has_tls(&listen.gateway) {
        return names;
    }
    match (&registry.gateway_server, registry.gateway_host()) {
        (Some(name), _) => names.push(("registry.gateway_server", host(name))),
        (None, Some(name)) => names.push(("registry.suffix", name)),
        (None, None) => {
            let first = listen.gateway.get(..1).unwrap_or_default();
            names.extend(addresses_of(config, first).map(|ip| ("listen.gateway", ip)));
        }
    }
    names
}

/// The addresses of the network that these listeners have with TLS.
fn addresses_of<'a>(config: &'a Config, of: &'a [Listener]) -> impl Iterator<Item = String> + 'a {
    let addresses = of.iter().filter(|listener| listener.has_tls(&config.tls));
    let addresses = addresses.map(|listener| listener.address.ip());
    addresses.filter(|ip| !ip.is_loopback() && !ip.is_unspecified()).map(|ip| ip.to_string())
}

/// Why clients on other machines will refuse the self-signed certificate by any name: there is none
/// to put into it.
fn nameless(config: &Config) -> Option<String> {
    let (registry, listen) = (&config.registry, &config.listen);
    let is_named = registry.login_server.is_some() || !used_names(config).is_empty();
    if config.tls.mode != TlsMode::SelfSigned || is_named {
        return None;
    }
    let everywhere =
        |one: &&Listener| one.has_tls(&config.tls) && one.address.ip().is_unspecified();
    let address = listen.login.iter().find(everywhere)?.address;
    Some(format!(
        "[tls]: listen.login is {address} and registry.login_server is not set, so the self-signed \
         certificate is for localhost only: clients on other machines refuse it; set \
         registry.login_server to the name or address that they use, such as \
         \"registry.example:{}\"",
        address.port()
    ))
}

/// The configured certificate and key; `None` in another mode.
pub(super) fn from_files(config: &Config) -> Result<Option<ServerTls>, String> {
    let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.private_key) else {
        return Ok(None);
    };
    // Those of another layer of the configuration may be there too.
    if config.tls.mode != TlsMode::Files {
        return Ok(None);
    }
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

/// The certificate that devices and clients are told to trust, PEM: a self-signed one only. With a
/// certificate of an authority, the authority is trusted.
pub(super) fn private_ca(config: &Config, store: &Store) -> Result<Option<String>, String> {
    if config.tls.mode != TlsMode::SelfSigned {
        return Ok(None);
    }
    let missing = || Err("the certificate was not made".to_owned());
    let pem = store.identity_file(TLS_FILE, missing).map_err(|error| error.to_string())?;
    Ok(certificate_of(&String::from_utf8_lossy(&pem)))
}

/// The fingerprint of a certificate, PEM.
pub(super) fn fingerprint(certificate: &str) -> Result<Option<String>, String> {
    Ok(tls::fingerprints(certificate.as_bytes())?.into_iter().next())
}

/// The first certificate of a file that may hold a private key too.
fn certificate_of(pem: &str) -> Option<String> {
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let from = &pem[pem.find(begin)?..];
    Some(from[..from.find(end)? + end.len()].to_owned() + "\n")
}

/// A self-signed identity for the names that clients use, kept in the state directory. A damaged
/// one is replaced: without its key nobody can go on with it.
fn made(
    sys: &Sys,
    config: &Config,
    store: &Store,
    addresses: &[SocketAddr],
    is_new: bool,
) -> Result<ServerTls, String> {
    let make = || {
        let identity = tls::self_signed(&names(config, addresses))?;
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
             this one, and {NEW_STRINGS}"
        );
    }
    if !was_there && !is_new {
        log::warn!(
            "there was no self-signed certificate (identity/{TLS_FILE} in the state directory), so \
             a new one was made: clients that trust an earlier one must be given this one, and \
             {NEW_STRINGS}"
        );
    }
    Ok(both(&pem))
}

/// Whatever clients and children may use, as far as it is configured or listened on.
fn names(config: &Config, addresses: &[SocketAddr]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let registry = &config.registry;
    let derived = registry.gateway_host();
    let configured = [&registry.login_server, &registry.gateway_server, &derived];
    let configured = configured.into_iter().flatten().map(|name| host(name));
    let listened = addresses.iter().map(|address| address.ip().to_string());
    for name in configured.chain(listened) {
        if !names.contains(&name) && name != "0.0.0.0" && name != "::" {
            names.insert(0, name);
        }
    }
    names
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MAIN_FILE, MapSource, Options, load};
    use crate::sys::Spawner;

    fn config(text: &str) -> Config {
        let text = format!("[tls]\nmode = \"self-signed\"\n{text}");
        load(&Options::default(), &MapSource::default().file(MAIN_FILE, &text)).unwrap().config
    }

    fn warned(text: &str, pem: &str) -> Vec<String> {
        warnings(&Sys::real(Spawner::new()), &config(text), pem.as_bytes())
    }

    /// Symptom: a device was sent to an address that the certificate of its parent was not for.
    #[test]
    fn f145_a_self_signed_certificate_is_for_whatever_children_are_sent_to() {
        let listen = "[listen]\nlogin = \"0.0.0.0:5000\"\ngateway = \"10.99.20.1:22501\"\n";
        let addresses = ["0.0.0.0:5000", "10.99.20.1:22501", "[fd00::1]:1"];
        let names = names(&config(listen), &addresses.map(|text| text.parse().unwrap()));
        assert_eq!(names, ["fd00::1", "10.99.20.1", "localhost", "127.0.0.1", "::1"]);
        let made = tls::self_signed(&names).unwrap().certificate_pem;
        assert_eq!(warned(listen, &made), [""; 0]);
        // That of an earlier version.
        let made = tls::self_signed(&["localhost".to_owned()]).unwrap().certificate_pem;
        let told = warned(listen, &made);
        assert_eq!(told.len(), 1, "{told:?}");
        for part in ["is not for 10.99.20.1 (listen.gateway)", "remove that file", "get-settings"] {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
        let suffix = "[registry]\nsuffix = \"example\"\n";
        let told = warned(suffix, &made);
        assert!(told[0].contains("skerry.local.data.example (registry.suffix)"), "{told:?}");
        assert_eq!(warned("", &made), [""; 0]);
    }

    /// Symptom: nothing said so, neither `config check` nor the log.
    #[test]
    fn f145_a_self_signed_certificate_without_a_name_of_the_network_is_told() {
        let everywhere = "[listen]\nlogin = \"0.0.0.0:5000\"\n";
        // There is none before the first start.
        let told = warned(everywhere, "");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("listen.login is 0.0.0.0:5000"), "{told:?}");
        assert!(told[0].contains("\"registry.example:5000\""), "{told:?}");
        for name in ["login_server", "gateway_server"] {
            let text = format!("{everywhere}[registry]\n{name} = \"reg.example:5000\"\n");
            assert_eq!(warned(&text, ""), [""; 0], "{name}");
        }
        assert_eq!(warned("[listen]\nlogin = \"10.0.0.1:5000\"\n", ""), [""; 0]);
        let plain = "[listen]\nlogin = {address = \"0.0.0.0:5000\", tls = false}\n";
        assert_eq!(warned(plain, ""), [""; 0]);
    }

    /// Symptom: SIGHUP put files of another layer in the place of a self-signed certificate.
    #[test]
    fn f145_files_of_another_layer_are_no_certificate_of_a_self_signed_node() {
        let files = "certificate = \"/none.pem\"\nprivate_key = \"/none.key\"\n";
        assert_eq!(from_files(&config(files)).map(|read| read.is_some()), Ok(false));
    }
}

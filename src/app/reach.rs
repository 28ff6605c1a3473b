//! Where clients, children and this node itself are sent by what is configured, as far as it is
//! known to lead nowhere.

use std::net::{IpAddr, SocketAddr};

use crate::auth::{LoginListener, LoginServer};
use crate::config::{Registry, Scheme};
use crate::http::host_of;
use crate::sys::net::try_bind;
use crate::types::Role;
use crate::types::connection_string::{ConnectionString, Protocol};
use crate::types::endpoint::{self, host_and_port, ip, is_unspecified, standard_port};

/// An address that is listened on, and whether it speaks TLS.
pub(super) type Place = (SocketAddr, bool);

/// A key that names a server, the listeners behind it, and who is sent there.
struct Named<'a> {
    key: &'static str,
    listen: &'static str,
    who: &'static str,
    places: &'a [Place],
}

/// What is wrong with the names by which clients and children are sent to this node.
pub(super) fn warnings(
    registry: &Registry,
    role: Role,
    logins: &[Place],
    gateways: &[Place],
) -> Vec<String> {
    let who = match role {
        Role::Root => "clients",
        Role::Connected => "clients and children",
    };
    let (key, listen) = ("registry.login_server", "listen.login");
    let login = Named { key, listen, who, places: logins };
    let login = registry.login_server.as_deref().and_then(|name| login.fault(registry, name));
    let of_gateway = match role {
        Role::Root => [
            gateway_warning(registry, gateways),
            login_without_tls(registry, logins, gateways),
            plain_elsewhere(registry, logins, gateways),
        ],
        Role::Connected => [None, None, None],
    };
    login.into_iter().chain(of_gateway.into_iter().flatten()).collect()
}

/// The login server of this configuration.
pub(super) fn login_server(registry: &Registry, logins: &[Place]) -> LoginServer {
    server(registry, registry.login_server.as_deref(), logins)
}

fn server(registry: &Registry, name: Option<&str>, places: &[Place]) -> LoginServer {
    let listener = |&(address, tls): &Place| LoginListener { address, tls };
    LoginServer {
        name: name.map(str::to_owned),
        public_scheme: registry.public_scheme.map(|scheme| scheme.name().to_owned()),
        listeners: places.iter().map(listener).collect(),
    }
}

/// Whether those find TLS who are sent to this name, or to the first listener where there is none.
pub(super) fn has_tls(registry: &Registry, name: Option<&str>, places: &[Place]) -> bool {
    let first = places.first().is_some_and(|(_, tls)| *tls);
    // Without a name they are given the address of the first.
    let places = if name.is_some() { places } else { &places[..places.len().min(1)] };
    server(registry, name, places).given(None, first).tls
}

/// A connected registry sends its password to the login server, and not without TLS where the
/// gateway has it.
fn login_without_tls(registry: &Registry, logins: &[Place], gateways: &[Place]) -> Option<String> {
    let server = login_server(registry, logins);
    let is_refused = |&(address, tls): &Place| {
        let host = (!address.ip().is_unspecified()).then(|| address.to_string());
        tls && !server.given(host.as_deref(), true).tls
    };
    (!gateways.is_empty() && gateways.iter().all(is_refused)).then(|| {
        "connected registries are sent to a listen.login without TLS, and listen.gateway has it: \
         none can be a child of this one, for none sends its password without TLS then; give one \
         address of listen.login TLS, or set registry.public_scheme = \"https\" where a proxy ends \
         it"
        .to_owned()
    })
}

/// Without TLS a connected registry sends its password to the host of the gateway only.
fn plain_elsewhere(registry: &Registry, logins: &[Place], gateways: &[Place]) -> Option<String> {
    let login = registry.login_server.as_deref()?;
    let first = gateways.first().filter(|(address, _)| !address.ip().is_unspecified());
    let gateway = registry.gateway_server.clone().or_else(|| registry.gateway_host());
    let gateway = gateway.or_else(|| first.map(|(address, _)| address.to_string()))?;
    let named = registry.gateway_server.as_deref();
    let is_plain = !has_tls(registry, named, gateways) && !has_tls(registry, Some(login), logins);
    let host = |endpoint: &str| host_of(&format!("http://{endpoint}"));
    (is_plain && host(login) != host(&gateway)).then(|| {
        format!(
            "connected registries that are given {gateway} are sent to the login server {login}, \
             which is under another host: without TLS none sends its password there; name both by \
             one host (registry.gateway_server, registry.login_server), or give both TLS"
        )
    })
}

/// Passwords and content go over such a listener for everybody on the way to read.
pub(super) fn plain_http_warning(registry: &Registry, (address, tls): Place) -> Option<String> {
    let is_safe = address.ip().is_loopback() || tls;
    (!is_safe && registry.public_scheme != Some(Scheme::Https)).then(|| {
        format!(
            "{address} speaks plain HTTP beyond this machine: passwords and content can be read \
             on the way; set tls.mode, or registry.public_scheme = \"https\" when a proxy before \
             it has TLS"
        )
    })
}

/// What is wrong with the address of a root that its children are given.
pub(super) fn gateway_warning(registry: &Registry, gateways: &[Place]) -> Option<String> {
    let (key, listen) = ("registry.gateway_server", "listen.gateway");
    if let Some(name) = &registry.gateway_server {
        return Named { key, listen, who: "children", places: gateways }.fault(registry, name);
    }
    let (address, _) = gateways.first().filter(|_| registry.gateway_host().is_none())?;
    address.ip().is_unspecified().then(|| of_no_machine(listen, *address, key))
}

/// What is wrong with the address of a connected registry that its children are given.
pub(super) fn children_warning(registry: &Registry, logins: &[Place]) -> Option<String> {
    let (address, _) = logins.first().filter(|_| registry.login_server.is_none())?;
    let (key, listen) = ("registry.login_server", "listen.login");
    address.ip().is_unspecified().then(|| of_no_machine(listen, *address, key))
}

fn of_no_machine(listen: &str, address: SocketAddr, key: &str) -> String {
    let port = address.port();
    format!(
        "{listen} is {address}, an address of no machine: a child that is given it connects to \
         itself; set {key} to a name or address of this machine and the port, such as \
         \"registry.example:{port}\""
    )
}

impl Named<'_> {
    fn fault(&self, registry: &Registry, name: &str) -> Option<String> {
        let Named { key, listen, who, places } = self;
        let (address, has_tls) = places.first()?;
        let port = address.port();
        if is_unspecified(name) {
            return Some(format!(
                "{key} \"{name}\" is an address of no machine: {who} that are sent there reach \
                 themselves; write a name or address of this machine and the port, such as \
                 \"registry.example:{port}\""
            ));
        }
        if let Some(fault) = endpoint::fault(name) {
            return Some(format!(
                "{key} \"{name}\" {fault}: {who} that are sent there reach nobody"
            ));
        }
        let standard = standard_port(*has_tls);
        let is_served = places.iter().any(|(address, _)| address.port() == standard);
        // With a public scheme, a proxy takes the port.
        if host_and_port(name).1.is_some() || is_served || registry.public_scheme.is_some() {
            return None;
        }
        Some(format!(
            "{key} \"{name}\" names no port, so {who} are sent to port {standard}, where no \
             {listen} is: write \"{name}:{port}\", or, when a proxy takes port {standard}, set \
             registry.public_scheme"
        ))
    }
}

/// What is wrong with the address of the parent, in the connection string or in its place.
pub(super) fn parent_warning(
    registry: &Registry,
    connection: &ConnectionString,
    logins: &[SocketAddr],
) -> Option<String> {
    const CURE: &str = "take a new connection string from `skerry connected-registry \
                        get-settings` at the root, when registry.gateway_server is set there (for \
                        a child of a connected registry, registry.login_server at that one), or \
                        set parent.gateway_endpoint here";
    let endpoint = &connection.endpoint;
    let (host, port) = host_and_port(endpoint);
    let port = port.unwrap_or_else(|| standard_port(connection.protocol == Protocol::Https));
    let is_login = |login: &SocketAddr| login.port() == port && leads_to(ip(endpoint), login.ip());
    let is_name = |name: &String| {
        let (own, own_port) = host_and_port(name);
        own.eq_ignore_ascii_case(host) && own_port == Some(port)
    };
    if logins.iter().any(is_login) || registry.login_server.as_ref().is_some_and(is_name) {
        return Some(format!(
            "the connection string: the address of the parent, {endpoint} is this node itself: \
             {CURE}"
        ));
    }
    is_unspecified(endpoint).then(|| {
        format!(
            "the connection string: the address of the parent, {endpoint} is an address of no \
             machine, so that this node looks for its parent on its own machine: {CURE}"
        )
    })
}

/// Whether who connects to `to` on this machine reaches a listener on `listener`.
fn leads_to(to: Option<IpAddr>, listener: IpAddr) -> bool {
    let Some(to) = to else { return false };
    if to.is_unspecified() {
        return listener.is_unspecified() || listener.is_loopback();
    }
    let is_own = || to.is_loopback() || try_bind(SocketAddr::new(to, 0)).is_ok();
    to == listener || listener.is_unspecified() && is_own()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f068_a_name_without_a_port_is_fine_where_somebody_listens() {
        let place = |text: &str, tls| -> Place { (text.parse().unwrap(), tls) };
        let registry = Registry {
            login_server: Some("[fd00::1]".to_owned()),
            gateway_server: Some("[fd00::1]".to_owned()),
            ..Registry::default()
        };
        let (tls, plain) = ([place("0.0.0.0:443", true)], [place("0.0.0.0:80", false)]);
        for places in [&tls, &plain] {
            assert_eq!(warnings(&registry, Role::Root, places, places), Vec::<String>::new());
        }
        let crossed = [place("0.0.0.0:443", false)];
        let found = warnings(&registry, Role::Root, &crossed, &crossed);
        assert!(found[0].contains("port 80, where no listen.login is"), "{found:?}");
        assert!(found[1].contains("\"[fd00::1]:443\""), "{found:?}");
        assert_eq!(warnings(&registry, Role::Connected, &crossed, &[]).len(), 1);
        let unclear = Registry { gateway_server: Some("fd00::1".to_owned()), ..registry.clone() };
        let found = warnings(&unclear, Role::Root, &tls, &tls);
        assert!(found[0].contains("without brackets"), "{found:?}");
        let everywhere =
            Registry { login_server: Some("0.0.0.0:5000".to_owned()), ..Registry::default() };
        let found = warnings(&everywhere, Role::Connected, &tls, &[]);
        assert!(found[0].contains("reach themselves"), "{found:?}");
        assert_eq!(children_warning(&everywhere, &tls), None);
        assert!(children_warning(&Registry::default(), &tls).is_some());
        let derived = Registry { suffix: Some("example".to_owned()), ..Registry::default() };
        assert_eq!(gateway_warning(&derived, &tls), None);
    }

    /// Symptom: a child was given the address of the second listener and the protocol of the first.
    #[test]
    fn f031_f069_the_protocol_is_that_of_the_listener_which_the_name_leads_to() {
        let place = |text: &str, tls| -> Place { (text.parse().unwrap(), tls) };
        let (plain, secure) = (place("127.0.0.1:5000", false), place("192.0.2.2:5443", true));
        for (name, places, expected) in [
            (None, [plain, secure], Scheme::Http),
            (None, [secure, plain], Scheme::Https),
            (Some("192.0.2.2:5443"), [plain, secure], Scheme::Https),
            (Some("root.example:5443"), [plain, secure], Scheme::Https),
            (Some("127.0.0.1:5000"), [secure, plain], Scheme::Http),
            (Some("proxy.example:8443"), [secure, plain], Scheme::Https),
        ] {
            let registry = Registry::default();
            let found = has_tls(&registry, name, &places);
            assert_eq!(found, expected == Scheme::Https, "{name:?} {places:?}");
        }
    }

    /// Symptom: no device became active below a root whose gateway has TLS and whose login server
    /// has none, and nothing told why; the same again where the login server had a name.
    #[test]
    fn f031_f186_a_login_server_without_tls_below_a_gateway_that_has_it_is_told() {
        let place = |text: &str, tls| -> Place { (text.parse().unwrap(), tls) };
        let (plain, secure) = (place("10.0.0.1:5000", false), place("10.0.0.1:5443", true));
        let gateways = |tls| [place("10.0.0.1:5001", tls)];
        let (none, both) = (Registry::default(), [plain, secure]);
        let named = |name: &str| Registry { login_server: Some(name.to_owned()), ..none.clone() };
        let public = |scheme| Registry { public_scheme: Some(scheme), ..none.clone() };
        for (registry, role, logins, has_tls, expected) in [
            (&none, Role::Root, &[plain][..], true, true),
            (&none, Role::Connected, &[plain], true, false),
            (&none, Role::Root, &[plain], false, false),
            (&none, Role::Root, &both, true, false),
            (&named("login.example"), Role::Root, &[plain], true, false),
            (&named("login.example:5000"), Role::Root, &[plain], true, true),
            (&named("login.example:5443"), Role::Root, &both, true, false),
            (&public(Scheme::Http), Role::Root, &[plain], true, true),
            (&public(Scheme::Https), Role::Root, &[plain], true, false),
        ] {
            let told = warnings(registry, role, logins, &gateways(has_tls));
            let is_told = told.iter().any(|told| told.contains("none can be a child of this one"));
            assert_eq!(is_told, expected, "{:?} {logins:?} {has_tls}", registry.login_server);
        }
    }

    /// Symptom: no device became active below a root whose gateway and login server had different
    /// hosts, and nothing told why.
    #[test]
    fn f031_f186_a_login_server_without_tls_under_another_host_is_told() {
        let place = |text: &str, tls| -> Place { (text.parse().unwrap(), tls) };
        let named = |login: &str, gateway: Option<&str>| Registry {
            login_server: Some(login.to_owned()),
            gateway_server: gateway.map(str::to_owned),
            ..Registry::default()
        };
        for (login, gateway, tls, expected) in [
            ("localhost:5000", None, false, true),
            ("127.0.0.1:5000", None, false, false),
            ("127.0.0.1:5000", None, true, false),
            ("root.example:5000", Some("ROOT.example:5001"), false, false),
            ("[FD00::1]:5000", Some("[fd00:0::1]:5001"), false, false),
            ("root.example:5000", Some("127.0.0.1:5001"), false, true),
        ] {
            let (logins, gateways) =
                ([place("127.0.0.1:5000", tls)], [place("127.0.0.1:5001", tls)]);
            let told = warnings(&named(login, gateway), Role::Root, &logins, &gateways);
            let is_told = told.iter().any(|told| told.contains("under another host"));
            assert_eq!(is_told, expected, "{login} {gateway:?} {tls}: {told:?}");
        }
    }
}

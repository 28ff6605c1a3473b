//! Which login server a child is sent to.

use std::net::SocketAddr;

use crate::types::endpoint::{host_and_port, ip, is_loopback, standard_port};

/// A listener of the login server.
#[derive(Clone, Copy, Debug)]
pub struct LoginListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// The login server of a node as it is configured.
#[derive(Default)]
pub struct LoginServer {
    /// `host[:port]`; unset: the host of a request is taken.
    pub name: Option<String>,
    /// `http` or `https` as clients see it, behind a proxy that ends TLS.
    pub public_scheme: Option<String>,
    /// Where it listens.
    pub listeners: Vec<LoginListener>,
}

/// Where a child is sent that asked at the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    /// With TLS.
    pub tls: bool,
    /// The port beside the child's own name of this machine, where no name is configured.
    pub port: Option<u16>,
}

impl LoginServer {
    /// Where a child is sent that asked for this host at the gateway, with TLS or without: if there
    /// is a choice, to what has TLS as the gateway has it. `None`: it named no host.
    pub fn given(&self, host: Option<&str>, secure: bool) -> Given {
        let listener = match &self.name {
            // A name may be of another machine that passes on what comes for this one.
            Some(name) => self
                .pick(secure, |one| is_named(name, one) && is_at(name, one))
                .or_else(|| self.pick(secure, |one| is_named(name, one))),
            None => self.reached(host, secure),
        };
        let tls = match (&self.public_scheme, listener) {
            (Some(scheme), _) => scheme == "https",
            (None, Some(listener)) => listener.tls,
            // The name is a proxy's, which may end TLS for the login server alone.
            (None, None) => secure || self.listeners.first().is_some_and(|one| one.tls),
        };
        let port = listener.filter(|_| self.name.is_none()).map(|one| one.address.port());
        Given { tls, port }
    }

    /// The listener that whoever reached the gateway by this host reaches too; without one, the
    /// host is perhaps another name of this machine.
    fn reached(&self, host: Option<&str>, secure: bool) -> Option<LoginListener> {
        self.pick(secure, |one| is_at(host.unwrap_or_default(), one))
            .or_else(|| self.pick(secure, |one| !one.address.ip().is_loopback()))
            .or_else(|| self.pick(secure, |_| true))
    }

    fn pick(&self, secure: bool, fits: impl Fn(&LoginListener) -> bool) -> Option<LoginListener> {
        let mut fitting = self.listeners.iter().filter(|one| fits(one));
        let first = fitting.clone().next();
        fitting.find(|one| one.tls == secure).or(first).copied()
    }
}

/// Whether a name is of this listener, as far as its port tells. Others than those on this machine
/// reach one on loopback through a proxy only.
fn is_named(name: &str, listener: &LoginListener) -> bool {
    let port = host_and_port(name).1.unwrap_or(standard_port(listener.tls));
    let is_reached = !listener.address.ip().is_loopback() || is_loopback(name);
    listener.address.port() == port && is_reached
}

/// Whether who connects to this host reaches that listener; a name is one of the network.
fn is_at(host: &str, listener: &LoginListener) -> bool {
    let listener = listener.address.ip().to_canonical();
    if listener.is_loopback() {
        return is_loopback(host) && ip(host).is_none_or(|ip| ip == listener);
    }
    listener.is_unspecified() || ip(host).is_none_or(|ip| ip == listener) && !is_loopback(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: Option<&str>, listeners: &[(&str, bool)]) -> LoginServer {
        let listener =
            |&(at, tls): &(&str, bool)| LoginListener { address: at.parse().unwrap(), tls };
        LoginServer {
            name: name.map(str::to_owned),
            public_scheme: None,
            listeners: listeners.iter().map(listener).collect(),
        }
    }

    #[test]
    fn f031_f186_a_child_is_sent_where_it_can_connect_to_with_tls_as_at_the_gateway() {
        let both = &[("0.0.0.0:5000", false), ("0.0.0.0:5443", true)];
        let local = &[("127.0.0.1:5000", false), ("192.0.2.2:5001", false)];
        let mixed = &[("127.0.0.1:5000", false), ("0.0.0.0:5443", true)];
        let alone = &[("127.0.0.1:5000", false)];
        for (listeners, host, secure, tls, port) in [
            (&both[..], "root.example:5001", true, true, 5443),
            (both, "root.example:5001", false, false, 5000),
            (both, "127.0.0.1:5001", true, true, 5443),
            (local, "127.0.0.1:5001", false, false, 5000),
            (local, "localhost:5001", false, false, 5000),
            (local, "192.0.2.2:5001", false, false, 5001),
            (local, "192.0.2.9:5001", false, false, 5001),
            (local, "root.example:5001", false, false, 5001),
            (mixed, "127.0.0.1:5001", false, false, 5000),
            (mixed, "127.0.0.1:5001", true, true, 5443),
            (mixed, "root.example:5001", false, true, 5443),
            // Perhaps a proxy on this machine leads there.
            (alone, "root.example:5001", false, false, 5000),
            (&[("[::]:5000", true)], "[::1]:5001", true, true, 5000),
        ] {
            let given = server(None, listeners).given(Some(host), secure);
            assert_eq!(given, Given { tls, port: Some(port) }, "{listeners:?} {host} {secure}");
        }
    }

    /// Symptom: a child of a root whose login server was named, with the port of a listener without
    /// TLS, spoke TLS to it. Cause: each name was taken for that of a proxy.
    #[test]
    fn f031_f186_a_name_with_the_port_of_a_listener_is_not_a_proxys() {
        let (plain, tls) = ([("0.0.0.0:5000", false)], [("0.0.0.0:5443", true)]);
        for (name, listeners, secure, expected) in [
            ("root.example:5000", &plain, true, false),
            ("root.example:5443", &tls, false, true),
            ("root.example:443", &plain, true, true),
            ("root.example", &plain, true, true),
            ("root.example", &plain, false, false),
            ("root.example", &tls, false, true),
            ("root.example", &[("0.0.0.0:80", false)], true, false),
            ("root.example", &[("0.0.0.0:443", true)], false, true),
            ("root.example:5000", &[("127.0.0.1:5000", false)], true, true),
            ("127.0.0.1:5000", &[("127.0.0.1:5000", false)], true, false),
            ("localhost:5000", &[("127.0.0.1:5000", false)], true, false),
            ("192.0.2.9:5000", &[("192.0.2.2:5000", false)], true, false),
        ] {
            let given = server(Some(name), listeners).given(Some("10.0.0.1:5001"), secure);
            assert_eq!(given, Given { tls: expected, port: None }, "{name} {listeners:?} {secure}");
        }
        let (one, other) = (("10.9.0.1:5000", false), ("192.0.2.2:5000", true));
        for (name, tls) in [("10.9.0.1:5000", false), ("192.0.2.2:5000", true)] {
            for listeners in [[one, other], [other, one]] {
                let given = server(Some(name), &listeners).given(None, !tls);
                assert_eq!(given, Given { tls, port: None }, "{name} {listeners:?}");
            }
        }
        for scheme in ["http", "https"] {
            let public_scheme = Some(scheme.to_owned());
            let server = LoginServer { public_scheme, ..server(None, &plain) };
            assert_eq!(server.given(None, true).tls, scheme == "https");
        }
    }
}

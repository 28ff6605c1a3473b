//! `host[:port]`, as connection strings, listeners and the names of servers are written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host, without the brackets of an IPv6 address, and the port where there is one.
pub fn host_and_port(endpoint: &str) -> (&str, Option<u16>) {
    let (host, port) = match endpoint.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            port.parse().map_or((endpoint, None), |port| (host, Some(port)))
        }
        _ => (endpoint, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// What is wrong with an endpoint, after its name: nobody can be called at it.
pub fn fault(endpoint: &str) -> Option<&'static str> {
    const PORT: &str = "has no port from 1 to 65535 after its host";
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = |text: &str| is_number(text) && text.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some(rest) = endpoint.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return Some("has a bracket that is not closed");
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return Some("has brackets around what is no IPv6 address, or one of a single link");
        }
        let fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return (!fits).then_some(PORT);
    }
    if endpoint.parse::<Ipv6Addr>().is_ok() {
        return Some("is an IPv6 address without brackets: write [2001:db8::1]:5001, for instance");
    }
    let (host, port) = endpoint.split_once(':').unwrap_or((endpoint, "443"));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_plain) {
        return Some("is not of the form host or host:port");
    }
    if host.split('.').filter(|label| is_number(label)).count() == 4
        && host.parse::<Ipv4Addr>().is_err()
    {
        return Some("has four numbers that are no IPv4 address");
    }
    (!is_port(port)).then_some(PORT)
}

/// The address that an endpoint names; `None` of a name.
pub fn ip(endpoint: &str) -> Option<IpAddr> {
    host_and_port(endpoint).0.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Whether an endpoint names `0.0.0.0` or `::`, which is an address to listen on and that of no
/// machine: who connects to it reaches itself.
pub fn is_unspecified(endpoint: &str) -> bool {
    ip(endpoint).is_some_and(|ip| ip.is_unspecified())
}

/// Whether an endpoint is of this machine alone.
pub fn is_loopback(endpoint: &str) -> bool {
    let (host, _) = host_and_port(endpoint);
    host == "localhost" || ip(endpoint).is_some_and(|ip| ip.is_loopback())
}

/// Whether what listens on one address answers at the other. `[::]` takes IPv4 too (ipv6(7),
/// IPV6_V6ONLY unset).
pub fn answers_at(listener: IpAddr, address: IpAddr) -> bool {
    let (listener, address) = (listener.to_canonical(), address.to_canonical());
    listener == address || listener.is_unspecified() && (listener.is_ipv6() || address.is_ipv4())
}

/// The port of a URL that names none.
pub fn standard_port(has_tls: bool) -> u16 {
    if has_tls { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f069_an_endpoint_has_a_host_and_perhaps_a_port() {
        for (endpoint, expected) in [
            ("root.example", ("root.example", None)),
            ("root.example:5001", ("root.example", Some(5001))),
            ("192.0.2.1:1", ("192.0.2.1", Some(1))),
            ("[::1]:5001", ("::1", Some(5001))),
            ("[::1]", ("::1", None)),
            ("::1", ("::1", None)),
            ("root.example:99999", ("root.example:99999", None)),
        ] {
            assert_eq!(host_and_port(endpoint), expected, "{endpoint}");
        }
        for endpoint in ["0.0.0.0:5000", "0.0.0.0", "[::]:5000", "::", "[::ffff:0.0.0.0]:1"] {
            assert!(is_unspecified(endpoint) && !is_loopback(endpoint), "{endpoint}");
        }
        for good in ["root", "root.example:1", "10.0.0.1:65535", "[FD00::1]", "[::ffff:10.0.0.1]:7"]
        {
            assert_eq!(fault(good), None, "{good}");
        }
        for (bad, why) in [
            ("", "form"),
            ("user@host:1", "form"),
            (":5001", "form"),
            ("fd00::1:5001", "without brackets"),
            ("::1", "without brackets"),
            ("[::1", "not closed"),
            ("[fe80::1%2]:5001", "single link"),
            ("[root]", "no IPv6"),
            ("[::1]5001", "port"),
            ("root:", "port"),
            ("root:0", "port"),
            ("127.0.0.1:99999", "port"),
            ("root:+5001", "port"),
            ("999.1.1.1:5001", "IPv4"),
        ] {
            assert!(fault(bad).is_some_and(|fault| fault.contains(why)), "{bad}: {:?}", fault(bad));
        }
        for (listener, address, answers) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0", "127.0.0.2", true),
            ("0.0.0.0", "::1", false),
            ("::", "127.0.0.2", true),
            ("::", "::1", true),
            ("::1", "::", false),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
        ] {
            let [one, other] = [listener, address].map(|text| text.parse().unwrap());
            assert_eq!(answers_at(one, other), answers, "{listener} {address}");
        }
        for endpoint in ["127.0.0.1:5000", "localhost", "[::1]:5000", "::1", "127.1.2.3"] {
            assert!(is_loopback(endpoint) && !is_unspecified(endpoint), "{endpoint}");
        }
    }
}

//! Which of our repositories stand for another registry's: a mirror is asked with `?ns=<host>`.

use std::fmt;
use std::str::FromStr;

use super::RepositoryName;
use super::limits::NAMESPACE_MAX;
use super::name::NameError;

/// What clients call Docker Hub: the name in references, and the hosts that stand behind it.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// One line of the mapping: `docker.io=mirror/hub` keeps that registry's repositories under
/// `mirror/hub/`; `docker.io` alone keeps them under the names that they have there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// `host` or `host:port`, lower case, as clients name the other registry.
    pub host: String,
    /// Where its repositories are kept.
    pub prefix: Option<RepositoryName>,
}

impl Namespace {
    /// Whether a client that names the registry `host` means this one.
    pub fn is_of(&self, host: &str) -> bool {
        same_registry(&self.host, host)
    }

    /// The repository that holds what the other registry calls `name`; `None` when the name gets
    /// too long. A name below the prefix stays: the client has put it there itself (containerd,
    /// `override_path`).
    pub fn local(&self, name: &RepositoryName) -> Option<RepositoryName> {
        let below = |prefix: &RepositoryName| {
            let rest = name.as_str().strip_prefix(prefix.as_str());
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        match &self.prefix {
            Some(prefix) if !below(prefix) => format!("{prefix}/{name}").parse().ok(),
            _ => Some(name.clone()),
        }
    }
}

/// Whether two hosts are the same registry to clients: without regard to case and default ports,
/// and with all names of Docker Hub being one.
pub fn same_registry(one: &str, other: &str) -> bool {
    let name = |host: &str| {
        let bare = host.strip_suffix(":443").or_else(|| host.strip_suffix(":80"));
        let bare = bare.unwrap_or(host).to_ascii_lowercase();
        if DOCKER_HUB.contains(&bare.as_str()) { DOCKER_HUB[0].to_owned() } else { bare }
    };
    name(one) == name(other)
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.prefix.as_ref().map_or(Ok(()), |prefix| write!(f, "={prefix}"))
    }
}

impl FromStr for Namespace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Namespace, NameError> {
        let (host, prefix) = match text.split_once('=') {
            Some((host, prefix)) => (host, Some(prefix.parse()?)),
            None => (text, None),
        };
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if host.is_empty() || host.len() > NAMESPACE_MAX || !host.bytes().all(good) {
            let rule = "<host> or <host>=<repository>, such as docker.io=mirror/hub";
            return Err(NameError { kind: "namespace", rule });
        }
        Ok(Namespace { host: host.to_ascii_lowercase(), prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f168_namespaces_lead_to_repositories() {
        let name = "library/alpine".parse::<RepositoryName>().unwrap();
        for (text, local) in [
            ("docker.io", "library/alpine"),
            ("Quay.io:443=mirror/quay", "mirror/quay/library/alpine"),
            ("[::1]:5000=a", "a/library/alpine"),
        ] {
            let namespace: Namespace = text.parse().unwrap();
            assert_eq!(namespace.local(&name).unwrap().as_str(), local);
            assert_eq!(namespace.to_string().parse::<Namespace>(), Ok(namespace));
        }
        for bad in ["", "=a", "a b", "a/b", "a=", "a=B", "a=b=c"] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad}");
        }
        let hub: Namespace = "docker.io=hub".parse().unwrap();
        for (name, local) in
            [("hub/alpine", "hub/alpine"), ("hub", "hub/hub"), ("hubs/alpine", "hub/hubs/alpine")]
        {
            assert_eq!(hub.local(&name.parse().unwrap()).unwrap().as_str(), local);
        }
        let long: Namespace = format!("a={}", "x".repeat(250)).parse().unwrap();
        assert_eq!(long.local(&name), None);
    }

    #[test]
    fn f217_registries_have_several_names() {
        for (one, other, same) in [
            ("docker.io", "registry-1.docker.io", true),
            ("Index.Docker.io:443", "docker.io:80", true),
            ("quay.io:443", "quay.io", true),
            ("quay.io:443", "quay.io:80", true),
            ("[::1]:80", "[::1]", true),
            ("[fe80::80]", "[fe80:]", false),
            ("quay.io:4430", "quay.io", false),
            ("xdocker.io", "docker.io", false),
        ] {
            assert_eq!(same_registry(one, other), same, "{one} {other}");
        }
    }
}

//! Which of our repositories stand for another registry's: a mirror is asked with `?ns=<host>`.

use std::fmt;
use std::str::FromStr;

use super::RepositoryName;
use super::limits::NAMESPACE_MAX;
use super::name::NameError;

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
    /// The repository that holds what the other registry calls `name`; `None` when the name gets
    /// too long.
    pub fn local(&self, name: &RepositoryName) -> Option<RepositoryName> {
        match &self.prefix {
            None => Some(name.clone()),
            Some(prefix) => format!("{prefix}/{name}").parse().ok(),
        }
    }
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
        let long: Namespace = format!("a={}", "x".repeat(250)).parse().unwrap();
        assert_eq!(long.local(&name), None);
    }
}

//! What a client is told when its credentials do not suffice (distribution, "Token Authentication
//! Specification").

use super::{Auth, Presented};
use crate::types::scope::Access;
use crate::types::{Reason, Refusal, Role};

/// The makings of a `WWW-Authenticate` header.
pub(super) struct Challenge<'a> {
    scheme: &'a str,
    /// `host[:port]` of the login server, which is also the audience of its tokens.
    pub(super) service: String,
    scope: Option<String>,
}

impl Auth {
    /// The service that a request at the login server is for, which is the audience of tokens
    /// issued and accepted there.
    pub(super) fn service(&self, presented: &Presented<'_>) -> String {
        match (&self.inner.login_server.name, presented.host) {
            (Some(server), _) => server.clone(),
            (None, Some(host)) => host.to_ascii_lowercase(),
            (None, None) => self.inner.registry_name.clone(),
        }
    }

    pub(super) fn challenge<'a>(&'a self, presented: &Presented<'_>) -> Challenge<'a> {
        let scheme = match &self.inner.login_server.public_scheme {
            Some(scheme) => scheme.as_str(),
            None if presented.secure => "https",
            None => "http",
        };
        Challenge { scheme, service: self.service(presented), scope: None }
    }

    /// At the root's gateway the realm is the login server, which listens elsewhere.
    pub(super) fn gateway_challenge<'a>(&'a self, presented: &Presented<'_>) -> Challenge<'a> {
        let challenge = self.challenge(presented);
        if self.inner.role != Role::Root {
            return challenge;
        }
        let given = self.inner.login_server.given(presented.host, presented.secure);
        let service = match given.port.filter(|_| presented.host.is_some()) {
            Some(port) => with_port(&challenge.service, port),
            None => challenge.service,
        };
        Challenge { scheme: if given.tls { "https" } else { "http" }, service, scope: None }
    }
}

impl Challenge<'_> {
    /// Asks for this access, beside what it asks for already.
    pub(super) fn scope(mut self, access: &Access) -> Self {
        self.scope = Some(match self.scope {
            Some(other) => format!("{other} {access}"),
            None => access.to_string(),
        });
        self
    }

    /// No usable credentials were sent.
    pub(super) fn required(&self) -> Refusal {
        let text = "authentication required";
        self.refusal("UNAUTHORIZED", Reason::AuthenticationRequired, text, None)
    }

    /// The credentials are no longer or not at all good.
    pub(super) fn invalid(&self, reason: Reason, text: &str) -> Refusal {
        self.refusal("UNAUTHORIZED", reason, text, Some("invalid_token"))
    }

    /// The credentials are good, but not for this.
    pub(super) fn insufficient(&self) -> Refusal {
        // The first words are the reference product's: tools look for them.
        let text = match &self.scope {
            Some(scope) => {
                format!("Insufficient scopes to perform the operation: it takes {scope}")
            }
            None => "Insufficient scopes to perform the operation".to_owned(),
        };
        self.refusal("DENIED", Reason::NotInScopeMap, &text, Some("insufficient_scope"))
    }

    fn refusal(
        &self,
        code: &'static str,
        reason: Reason,
        text: &str,
        error: Option<&str>,
    ) -> Refusal {
        let mut refusal = Refusal::new(401, code, reason, text);
        refusal.challenge = Some(self.header(error));
        refusal
    }

    /// No blank after a comma: a widespread client splits the header on blanks.
    fn header(&self, error: Option<&str>) -> String {
        let Challenge { scheme, service, scope } = self;
        let mut header =
            format!(r#"Bearer realm="{scheme}://{service}/oauth2/token",service="{service}""#);
        for (name, value) in [("scope", scope.as_deref()), ("error", error)] {
            if let Some(value) = value {
                header.push_str(&format!(r#",{name}="{value}""#));
            }
        }
        header
    }
}

/// `host[:port]` with another port.
fn with_port(host: &str, port: u16) -> String {
    let name = match host.rsplit_once(':') {
        // The colons inside the brackets of an IPv6 address are no port.
        Some((name, rest)) if !rest.contains(']') => name,
        _ => host,
    };
    format!("{name}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_replaced() {
        for (host, expected) in [
            ("a", "a:5000"),
            ("a:5001", "a:5000"),
            ("[::1]", "[::1]:5000"),
            ("[::1]:5001", "[::1]:5000"),
        ] {
            assert_eq!(with_port(host, 5000), expected);
        }
    }
}

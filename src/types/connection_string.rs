//! The connection string: all that a device needs to find its parent and to prove who it is
//! (the form is that of Azure's connected registry).

use std::fmt;

use super::endpoint;
use super::name::NameError;
use super::secret::Secret;
use super::{ConnectedRegistryName, TokenName};

/// Longest connection string, bytes: five names and a host are far below.
const LENGTH_MAX: usize = 4096;

/// Names of the five keys, in the order in which they are written.
const KEYS: [&str; 5] = [
    "ConnectedRegistryName",
    "SyncTokenName",
    "SyncTokenPassword",
    "ParentGatewayEndpoint",
    "ParentEndpointProtocol",
];

/// The optional sixth key.
const FINGERPRINT_KEY: &str = "ParentCaFingerprint";

/// What follows `ParentCaFingerprint=`, before the digits.
pub const FINGERPRINT_PREFIX: &str = "sha256:";

/// Stands for the address of a parent that has not reported one.
pub const NO_ENDPOINT: &str = "<parent gateway endpoint>";

/// Stands for a password that was not asked for.
pub const NO_PASSWORD: &str = "<use --generate-password to generate a new password>";

/// What `get-settings` prints before the string.
const SETTING: &str = "ACR_REGISTRY_CONNECTION_STRING=";

/// How a device reaches its parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Without encryption.
    Http,
    /// TLS.
    Https,
}

impl Protocol {
    /// The URL scheme.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Https => "https",
        }
    }
}

/// A parsed connection string. It holds a password and therefore has no `Debug`.
#[derive(Clone)]
pub struct ConnectionString {
    /// Which connected registry the device is.
    pub name: ConnectedRegistryName,
    /// Its sync token.
    pub sync_token: TokenName,
    /// One of the sync token's passwords.
    pub password: Secret,
    /// `host` or `host:port` of the parent's gateway.
    pub endpoint: String,
    /// How to speak to it.
    pub protocol: Protocol,
    /// SHA-256 of the parent's CA certificate, 64 lower-case hex digits, when it is private.
    pub ca_fingerprint: Option<String>,
}

/// Why a text is no connection string. Never holds the password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionStringError(String);

impl fmt::Display for ConnectionStringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid connection string: {}", self.0)
    }
}

impl std::error::Error for ConnectionStringError {}

impl ConnectionString {
    /// Parses a connection string. Pairs are split on `;` and each on its first `=`, because a
    /// password may hold or start with `=`. An endpoint `$NAME` or `$NAME:port` is resolved by
    /// `lookup`, so that an image can be built without knowing its parent.
    pub fn parse(
        text: &str,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<ConnectionString, ConnectionStringError> {
        ConnectionString::parse_for(text, None, lookup)
    }

    /// The same, with this endpoint of the parent, if any, in place of that in the text.
    pub fn parse_for(
        text: &str,
        endpoint: Option<&str>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<ConnectionString, ConnectionStringError> {
        if text.len() > LENGTH_MAX {
            return Err(error(format!("it is longer than {LENGTH_MAX} bytes")));
        }
        // Editors of another system put a mark before the text.
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.starts_with(SETTING) {
            return Err(error(format!("leave out {SETTING}, which stands before it")));
        }
        if text.starts_with(['"', '\'']) {
            return Err(error("leave out the quotes around it"));
        }
        let values = split(text)?;
        let [name, sync_token, password, written, protocol] = KEYS.map(|key| values.get(key));
        if password == Ok(NO_PASSWORD) {
            return Err(error(
                "SyncTokenPassword is a placeholder: run get-settings with --generate-password 1",
            ));
        }
        let name = name?.parse().map_err(|e: NameError| error(e.to_string()))?;
        let sync_token = sync_token?.parse().map_err(|e: NameError| error(e.to_string()))?;
        let protocol = match protocol?.to_ascii_lowercase().as_str() {
            "http" => Protocol::Http,
            "https" => Protocol::Https,
            _ => return Err(error("ParentEndpointProtocol is neither http nor https")),
        };
        Ok(ConnectionString {
            name,
            sync_token,
            password: Secret::new(password?),
            endpoint: match endpoint {
                Some(endpoint) => endpoint.to_owned(),
                None => resolve(written?, lookup)?,
            },
            protocol,
            ca_fingerprint: values.optional(FINGERPRINT_KEY).map(fingerprint).transpose()?,
        })
    }

    /// The text that [`ConnectionString::parse`] reads, with the password in it.
    pub fn format(&self) -> Secret {
        let text = format(
            self.name.as_str(),
            self.sync_token.as_str(),
            self.password.expose(),
            &self.endpoint,
            self.protocol,
            self.ca_fingerprint.as_deref(),
        );
        Secret::new(text)
    }

    /// `http://host[:port]` or `https://host[:port]` of the parent's gateway.
    pub fn gateway_url(&self) -> String {
        format!("{}://{}", self.protocol.name(), self.endpoint)
    }
}

/// Writes the five keys in the documented order, and the sixth where there is one. The values may
/// be placeholders.
pub fn format(
    name: &str,
    sync_token: &str,
    password: &str,
    endpoint: &str,
    protocol: Protocol,
    ca_fingerprint: Option<&str>,
) -> String {
    let values = [name, sync_token, password, endpoint, protocol.name()];
    let pairs = KEYS.iter().zip(values).map(|(key, value)| format!("{key}={value}"));
    let mut text = pairs.collect::<Vec<_>>().join(";");
    if let Some(hex) = ca_fingerprint {
        text.push_str(&format!(";{FINGERPRINT_KEY}={FINGERPRINT_PREFIX}{hex}"));
    }
    text
}

fn error(text: impl Into<String>) -> ConnectionStringError {
    ConnectionStringError(text.into())
}

struct Values<'a>(Vec<(&'static str, &'a str)>);

impl<'a> Values<'a> {
    fn get(&self, key: &str) -> Result<&'a str, ConnectionStringError> {
        self.optional(key)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| error(format!("{key} is missing")))
    }

    fn optional(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }
}

fn split(text: &str) -> Result<Values<'_>, ConnectionStringError> {
    let mut values = Values(Vec::new());
    for (number, pair) in text.split(';').enumerate() {
        if pair.trim().is_empty() {
            continue;
        }
        // A pair without '=' may be a piece of the password: name its place, not its text.
        let (key, value) =
            pair.split_once('=').ok_or_else(|| error(format!("part {} has no '='", number + 1)))?;
        let key = key.trim();
        let known = KEYS
            .into_iter()
            .chain([FINGERPRINT_KEY])
            .find(|known| known.eq_ignore_ascii_case(key))
            .ok_or_else(|| {
                // The rest of a password with a ';' in it would stand here: do not repeat it
                // unless it looks like a key.
                let word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphabetic());
                let shown = if word && key.len() <= 30 { key } else { "?" };
                error(format!("unknown key '{shown}' in part {}", number + 1))
            })?;
        if values.optional(known).is_some() {
            return Err(error(format!("{known} is given twice")));
        }
        values.0.push((known, value.trim()));
    }
    Ok(values)
}

fn resolve(
    endpoint: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<String, ConnectionStringError> {
    if endpoint == NO_ENDPOINT {
        return Err(error(
            "ParentGatewayEndpoint is the placeholder for a parent whose address was not known: \
             activate the parent before you take the string, or set parent.gateway_endpoint here",
        ));
    }
    let resolved = match endpoint.strip_prefix('$') {
        None => endpoint.to_owned(),
        Some(reference) => {
            let (variable, port) = match reference.split_once(':') {
                Some((variable, port)) => (variable, Some(port)),
                None => (reference, None),
            };
            let host =
                lookup(variable).filter(|host| !host.trim().is_empty()).ok_or_else(|| {
                    error(format!("ParentGatewayEndpoint names ${variable}, which is not set"))
                })?;
            match port {
                Some(port) => format!("{}:{port}", host.trim()),
                None => host.trim().to_owned(),
            }
        }
    };
    match endpoint::fault(&resolved) {
        Some(fault) => Err(error(format!("ParentGatewayEndpoint {fault}"))),
        None => Ok(resolved),
    }
}

fn fingerprint(text: &str) -> Result<String, ConnectionStringError> {
    let hex = text.strip_prefix(FINGERPRINT_PREFIX).unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(error("ParentCaFingerprint is not of the form sha256:<64 hex digits>"));
    }
    Ok(hex.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "ConnectedRegistryName=dock01;SyncTokenName=dock01;\
                        SyncTokenPassword==a=b/c+d==;ParentGatewayEndpoint=reg.example:5001;\
                        ParentEndpointProtocol=https";

    fn parse(text: &str) -> Result<ConnectionString, ConnectionStringError> {
        let lookup = |name: &str| (name == "PARENT").then(|| "10.0.0.1".to_owned());
        ConnectionString::parse(text, lookup)
    }

    fn parse_error(text: &str) -> String {
        match parse(text) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn f069_a_password_may_hold_and_start_with_equals_signs() {
        let parsed = parse(GOOD).unwrap();
        assert_eq!(parsed.password.expose(), "=a=b/c+d==");
        assert_eq!(parsed.gateway_url(), "https://reg.example:5001");
        assert_eq!(parsed.format().expose(), GOOD);
        let pinned = format!("{GOOD};ParentCaFingerprint=sha256:{}", "AB".repeat(32));
        let parsed = parse(&pinned).unwrap();
        assert_eq!(parsed.ca_fingerprint.as_deref(), Some("ab".repeat(32).as_str()));
    }

    #[test]
    fn f071_the_endpoint_may_be_a_variable() {
        for (endpoint, resolved) in [("$PARENT", "10.0.0.1"), ("$PARENT:8000", "10.0.0.1:8000")] {
            let text = GOOD.replace("reg.example:5001", endpoint);
            assert_eq!(parse(&text).unwrap().endpoint, resolved);
        }
        let error = parse_error(&GOOD.replace("reg.example:5001", "$OTHER:1"));
        assert!(error.contains("$OTHER"), "{error}");
    }

    #[test]
    fn f070_an_endpoint_of_the_configuration_replaces_any_in_the_text() {
        for written in ["reg.example:5001", NO_ENDPOINT, "$OTHER:1", ""] {
            let text = GOOD.replace("reg.example:5001", written);
            let parsed = ConnectionString::parse_for(&text, Some("site01.lan:5000"), |_| None);
            assert_eq!(parsed.map(|p| p.endpoint), Ok("site01.lan:5000".to_owned()), "{written}");
        }
        let error = parse_error(&GOOD.replace("reg.example:5001", NO_ENDPOINT));
        assert!(error.contains("placeholder") && error.contains("activate the parent"), "{error}");
    }

    #[test]
    fn f067_what_was_pasted_with_the_string_is_named() {
        assert!(parse(&format!("\u{feff}{GOOD}\r\n")).is_ok(), "a byte order mark");
        for (text, told) in [
            (format!("ACR_REGISTRY_CONNECTION_STRING={GOOD}"), "leave out ACR_REGISTRY"),
            (format!("\"{GOOD}\""), "leave out the quotes"),
            (GOOD.replace("=a=b/c+d==", NO_PASSWORD), "--generate-password 1"),
        ] {
            let error = parse_error(&text);
            assert!(error.contains(told) && !error.contains("a=b"), "{error}");
        }
    }

    #[test]
    fn errors_name_the_key_and_never_the_password() {
        for (key, text) in [
            ("SyncTokenName", GOOD.replace("SyncTokenName=dock01;", "")),
            ("Colour", format!("{GOOD};Colour=red")),
            ("twice", format!("{GOOD};SyncTokenPassword=secretword")),
            ("ParentEndpointProtocol", GOOD.replace("https", "ftp")),
            ("ParentGatewayEndpoint", GOOD.replace("reg.example:5001", "http://a/b")),
            ("ParentCaFingerprint", format!("{GOOD};ParentCaFingerprint=md5:aa")),
            ("connected registry name", GOOD.replace("Name=dock01;Sync", "Name=d;Sync")),
            ("'?'", GOOD.replace("/c+d==", ";secretword9=")),
            ("no '='", GOOD.replace("/c+d==", ";secretword")),
            ("SyncTokenPassword is missing", GOOD.replace("=a=b/c+d==", "")),
        ] {
            let error = parse_error(&text);
            assert!(error.contains(key), "{error}");
            assert!(!error.contains("a=b") && !error.contains("secretword"), "{error}");
        }
    }
}

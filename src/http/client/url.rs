//! Where a request goes.

use std::net::IpAddr;

use http_types::Url;

use super::message::ClientError;

/// A URL in the parts that connecting needs.
pub(in crate::http) struct Target {
    pub(in crate::http) url: Url,
    pub(super) secure: bool,
    /// Without brackets.
    pub(in crate::http) host: String,
    pub(super) port: u16,
}

impl Target {
    /// Takes what is plainly an http or https URL; nothing that a lenient parser would repair.
    pub(in crate::http) fn parse(text: &str) -> Result<Target, ClientError> {
        let bad = |why: &str| ClientError::Url(format!("{why}: {}", without_query(text)));
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(bad("a character that must be percent-encoded"));
        }
        if !(text.starts_with("http://") || text.starts_with("https://")) {
            return Err(bad("it must start with http:// or https://"));
        }
        if !has_plain_authority(text) {
            return Err(bad("the host is not plain ASCII"));
        }
        Target::new(Url::parse(text).map_err(|error| bad(&error.to_string()))?)
    }

    pub(in crate::http) fn join(&self, location: &str) -> Result<Target, ClientError> {
        if location.bytes().any(|byte| byte.is_ascii_control()) || !has_plain_authority(location) {
            return Err(ClientError::Url("redirected to it: the host is not plain ASCII".into()));
        }
        let url = self.url.join(location);
        Target::new(url.map_err(|error| ClientError::Url(format!("redirected to it: {error}")))?)
    }

    fn new(mut url: Url) -> Result<Target, ClientError> {
        let bad = |why: &str| ClientError::Url(why.to_owned());
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("credentials do not belong into a URL"));
        }
        url.set_fragment(None);
        let host = url.host_str().ok_or_else(|| bad("the host is missing"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().ok_or_else(|| bad("the port is missing"))?;
        Ok(Target { secure: url.scheme() == "https", host, port, url })
    }

    /// Names the far end of a connection.
    pub(super) fn peer(&self) -> String {
        format!("{}://{}:{}", self.url.scheme(), self.host, self.port)
    }
}

/// The host of a URL as it is connected to, however it is written; `None` where there is none.
pub fn host_of(url: &str) -> Option<String> {
    let host = Target::parse(url).ok()?.host;
    let address = host.parse::<IpAddr>().map(|address| address.to_canonical().to_string());
    Some(address.unwrap_or(host))
}

/// Whether the host that a URL names, or a reference that may leave it out, needs no decoding. The
/// parser of URLs decodes escapes in hosts, which no registry has, and trips over what comes out.
fn has_plain_authority(text: &str) -> bool {
    // It takes a backslash for a slash, and any number of them after a scheme.
    let slashes = ['/', '\\'];
    let text = text.trim_start();
    let rest = match text.split_once(':') {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => rest,
        _ => match text.strip_prefix(slashes).and_then(|rest| rest.strip_prefix(slashes)) {
            Some(rest) => rest,
            None => return true,
        },
    };
    let authority = rest.trim_start_matches(slashes).split(['/', '\\', '?', '#']).next();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]@".contains(&byte);
    authority.unwrap_or_default().bytes().all(plain)
}

/// Queries may carry signatures and tokens, so no message shows them.
fn without_query(text: &str) -> &str {
    text.split(['?', '@']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_plain_however_a_peer_writes_them() {
        let base = Target::parse("https://h.example:5000/v2/").unwrap();
        for bad in
            ["https://A%CCb/", "//A%CCb/x", "/\\A%CCb", "http:A%CCb/x", "https:/A%CCb", "\t//b"]
        {
            assert!(base.join(bad).is_err(), "{bad}");
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
        for (good, host) in [
            ("/a%CCb:c", "h.example"),
            ("?x=//A%CC", "h.example"),
            ("//B.example/%CC", "b.example"),
        ] {
            assert_eq!(base.join(good).unwrap().host, host, "{good}");
        }
    }
}

//! The client side: pooled connections, deadlines, TLS, bounded redirects.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::TlsConnector;
use http_types::Url;
use rustls_pki_types::ServerName;

use super::fetch::{Answer, Failure, exchange};
use super::pool::{FRESH, Pool};
use super::trust;
use crate::http::message::body::Body;
use crate::http::message::request::Method;
use crate::http::wire::transport::{Transport, Wire};
use crate::sys::disk::DiskFile;
use crate::sys::{Clock, Sys, clock, net};
use crate::types::limits::{DRAIN_BYTES_MAX, PROGRESS_DEADLINE, REDIRECTS_MAX};

/// How a client reaches its peers.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// PEM certificates that are trusted beside the public roots, or beside the fingerprint.
    pub ca_pem: Option<Vec<u8>>,
    /// SHA-256 of a CA certificate that is trusted when the peer presents it in its chain: hex,
    /// optionally after `sha256:`. With it the public roots are not trusted.
    pub ca_fingerprint: Option<String>,
}

/// A client with a pool of connections; a clone shares it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    way: Way,
    pool: Pool,
    clock: Arc<dyn Clock>,
    progress: Duration,
}

/// How peers are reached.
enum Way {
    Network(TlsConnector),
    Unix(PathBuf),
}

/// A request to send.
pub struct ClientRequest {
    /// GET, PUT and so on.
    pub method: Method,
    /// `http://host[:port]/path?query`, or the same with `https`.
    pub url: String,
    /// Header fields; Host, Content-Length and Connection are ours.
    pub headers: Vec<(String, String)>,
    /// What follows.
    pub body: ClientBody,
    /// The head of the answer must be there within this time.
    pub deadline: Duration,
}

/// The body of a request to send.
pub enum ClientBody {
    /// No bytes.
    Empty,
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A range of a file.
    File {
        /// Open for reading.
        file: Arc<dyn DiskFile>,
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
}

/// An answer; the body is read as it comes, under the progress deadline.
pub struct ClientResponse {
    /// For example 200.
    pub status: u16,
    /// Header fields with lower-case names.
    pub headers: Vec<(String, String)>,
    /// What follows.
    pub body: Body,
    /// The URL that answered, after redirects.
    pub url: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The URL cannot be used; the text says why.
    Url(String),
    /// No connection: name not found, refused, unreachable.
    Connect(String),
    /// The peer's certificate or handshake was refused; the text says why.
    Tls(String),
    /// No answer within the deadline.
    Timeout,
    /// The peer does not speak HTTP as it should.
    Protocol(String),
    /// The connection broke.
    Io(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Url(text) => write!(f, "unusable URL: {text}"),
            ClientError::Connect(text) | ClientError::Tls(text) => f.write_str(text),
            ClientError::Timeout => f.write_str("no answer within the deadline"),
            ClientError::Protocol(text) => write!(f, "the peer does not speak HTTP: {text}"),
            ClientError::Io(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl Client {
    /// A client with an empty pool. Fails when the CA certificates cannot be read.
    pub fn new(sys: &Sys, options: ClientOptions) -> Result<Client, String> {
        let connector = trust::connector(sys.clock.clone(), options)?;
        Ok(Client::with(sys, Way::Network(connector)))
    }

    /// A client of one unix socket, whatever host its URLs name: `http://localhost/path`.
    pub fn unix(sys: &Sys, path: impl Into<PathBuf>) -> Client {
        Client::with(sys, Way::Unix(path.into()))
    }

    fn with(sys: &Sys, way: Way) -> Client {
        let pool = Pool::new(sys.clock.clone());
        let clock = sys.clock.clone();
        Client { inner: Arc::new(Inner { way, pool, clock, progress: PROGRESS_DEADLINE }) }
    }

    /// Sends a request and reads the head of the answer. Follows redirects of GET and HEAD, at
    /// most [`REDIRECTS_MAX`], without Authorization once another host is asked, and never from
    /// https to http. The deadline holds for connecting and again for the head of each answer; a
    /// body on its way needs progress instead.
    pub async fn send(&self, request: ClientRequest) -> Result<ClientResponse, ClientError> {
        let mut target = Target::parse(&request.url)?;
        let mut headers = request.headers.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send_once(&target, &request, &headers).await?;
            let response = ClientResponse {
                status: answer.status,
                headers: answer.headers,
                body: answer.body,
                url: target.url.to_string(),
            };
            let follow = matches!(request.method, Method::Get | Method::Head)
                && matches!(response.status, 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.header("location").filter(|_| follow) else {
                return Ok(response);
            };
            let next = target.join(location)?;
            if target.secure && !next.secure {
                let text = format!("{} redirects to an address without TLS", target.host);
                return Err(ClientError::Protocol(text));
            }
            if next.peer() != target.peer() {
                headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
            }
            let mut body = response.body;
            // Read to its end, a short body leaves the connection usable.
            let rest = body.read_all(DRAIN_BYTES_MAX);
            let _ = clock::within(request.deadline, rest).await;
            target = next;
        }
        Err(ClientError::Protocol(format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// One request without redirects. A pooled connection may have died unnoticed: the request
    /// is sent again on a fresh one, if sending it twice does no more than once would.
    async fn send_once(
        &self,
        target: &Target,
        request: &ClientRequest,
        headers: &[(String, String)],
    ) -> Result<Answer, ClientError> {
        let Inner { pool, .. } = &*self.inner;
        let peer = target.peer();
        let idempotent = !matches!(request.method, Method::Post | Method::Patch);
        let age = if idempotent { Duration::MAX } else { FRESH };
        if let Some(wire) = pool.take(&peer, age).await {
            match exchange(wire, pool, &peer, &target.url, request, headers).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Stale(error)) if !idempotent => return Err(error),
                Err(Failure::Stale(error)) => log::debug!("{peer}: sent again after: {error}"),
            }
        }
        let wire = self.connect(target, request.deadline).await?;
        match exchange(wire, pool, &peer, &target.url, request, headers).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Stale(error) | Failure::Final(error)) => Err(error),
        }
    }

    async fn connect(&self, target: &Target, deadline: Duration) -> Result<Wire, ClientError> {
        let Inner { way, clock, progress, .. } = &*self.inner;
        let unreachable = |error: io::Error| ClientError::Connect(error.to_string());
        let started = clock.monotonic();
        let transport = match way {
            Way::Unix(path) => match clock::within(deadline, net::dial_unix(path)).await {
                Ok(stream) => Transport::Plain(stream.map_err(unreachable)?),
                Err(_) => return Err(ClientError::Timeout),
            },
            Way::Network(tls) => {
                let dial = net::dial(&target.host, target.port, deadline);
                let stream = dial.await.map_err(unreachable)?;
                if target.secure {
                    let name = ServerName::try_from(target.host.clone())
                        .map_err(|_| ClientError::Url(format!("no host name: {}", target.host)))?;
                    let left = deadline.saturating_sub(clock.monotonic().saturating_sub(started));
                    match clock::within(left, tls.connect(name, stream)).await {
                        Ok(Ok(stream)) => Transport::Client(Box::new(stream)),
                        Ok(Err(error)) => {
                            return Err(ClientError::Tls(trust::explain(&target.host, &error)));
                        }
                        Err(_) => return Err(ClientError::Timeout),
                    }
                } else {
                    Transport::Plain(stream)
                }
            }
        };
        Ok(Wire::new(transport, clock.clone(), *progress))
    }
}

/// A URL in the parts that connecting needs.
pub(in crate::http) struct Target {
    pub(in crate::http) url: Url,
    secure: bool,
    /// Without brackets.
    pub(in crate::http) host: String,
    port: u16,
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
    fn peer(&self) -> String {
        format!("{}://{}:{}", self.url.scheme(), self.host, self.port)
    }
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

impl ClientRequest {
    /// A request without headers or body under the ordinary deadline.
    pub fn new(method: Method, url: impl Into<String>) -> ClientRequest {
        ClientRequest {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: ClientBody::Empty,
            deadline: crate::types::limits::REQUEST_DEADLINE,
        }
    }

    /// Adds a header field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> ClientRequest {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

impl ClientResponse {
    /// The first header field of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
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

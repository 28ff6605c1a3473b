//! Where a client's connections come from, and where they wait for the next request.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_rustls::client::TlsStream;
use futures_rustls::rustls;
use smol::io::{AsyncRead, AsyncWrite};

use super::client::ClientError;
use crate::sys::Sys;
use crate::sys::clock::within;
use crate::sys::net::{Stream, dial, dial_unix};

/// Idle connections kept per peer; more are closed.
const IDLE_PER_PEER_MAX: usize = 8;
/// Peers with idle connections; beyond it new idle connections are closed.
const PEERS_MAX: usize = 64;
/// An idle connection is not used again after this time: servers close theirs after a minute.
const IDLE_MAX: Duration = Duration::from_secs(45);

/// Scheme, host and port.
pub(super) type Key = (bool, String, u16);

/// A connection to a peer.
pub(super) enum Wire {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

pub(super) struct Pool {
    sys: Sys,
    tls: Option<Arc<rustls::ClientConfig>>,
    unix: Option<PathBuf>,
    idle: Mutex<HashMap<Key, Vec<(Duration, Wire)>>>,
}

impl Pool {
    pub(super) fn new(
        sys: Sys,
        tls: Option<Arc<rustls::ClientConfig>>,
        unix: Option<PathBuf>,
    ) -> Pool {
        Pool { sys, tls, unix, idle: Mutex::default() }
    }

    /// An idle connection that is young enough.
    pub(super) fn take(&self, key: &Key) -> Option<Wire> {
        let now = self.sys.clock.monotonic();
        let mut idle = self.idle.lock().ok()?;
        let connections = idle.get_mut(key)?;
        connections.retain(|(since, _)| now.saturating_sub(*since) < IDLE_MAX);
        let taken = connections.pop().map(|(_, wire)| wire);
        if connections.is_empty() {
            idle.remove(key);
        }
        taken
    }

    pub(super) fn put(&self, key: Key, wire: Wire) {
        let now = self.sys.clock.monotonic();
        let Ok(mut idle) = self.idle.lock() else { return };
        if idle.len() >= PEERS_MAX && !idle.contains_key(&key) {
            return;
        }
        let connections = idle.entry(key).or_default();
        if connections.len() < IDLE_PER_PEER_MAX {
            connections.push((now, wire));
        }
    }

    pub(super) async fn connect(&self, url: &Url, deadline: Duration) -> Result<Wire, ClientError> {
        if let Some(path) = &self.unix {
            let stream = dial_unix(path).await;
            let explain = |e: io::Error| ClientError::Connect(format!("{}: {e}", path.display()));
            return stream.map(Wire::Plain).map_err(explain);
        }
        let stream = dial(&url.host, url.port, deadline)
            .await
            .map_err(|error| ClientError::Connect(format!("{}:{}: {error}", url.host, url.port)))?;
        if !url.tls {
            return Ok(Wire::Plain(stream));
        }
        let config = self.tls.clone().ok_or_else(|| ClientError::Tls("not set up".to_owned()))?;
        let bare = url.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = rustls::pki_types::ServerName::try_from(bare)
            .map_err(|_| ClientError::Url(format!("'{}' is no host name", url.host)))?;
        let connecting = futures_rustls::TlsConnector::from(config).connect(name, stream);
        match within(deadline, connecting).await {
            Ok(Ok(stream)) => Ok(Wire::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(ClientError::Tls(explain_tls(&error, url))),
            Err(_) => Err(ClientError::Timeout),
        }
    }
}

fn explain_tls(error: &io::Error, url: &Url) -> String {
    let text = error.to_string();
    let cure = if text.contains("UnknownIssuer") {
        ": its certificate comes from an unknown authority; name that authority's certificate in \
         [parent] ca_file"
    } else if text.contains("InvalidContentType") || text.contains("corrupt message") {
        ": it does not speak TLS there; use http, or another port"
    } else {
        ""
    };
    format!("{}:{}: {text}{cure}", url.host, url.port)
}

/// The parts of a URL that a request needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Url {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) target: String,
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Url, ClientError> {
        let bad = |why: &str| ClientError::Url(format!("{why}: '{text}'"));
        let (tls, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else {
            return Err(bad("it starts with http:// or https://"));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let port_at = authority.rfind(':').filter(|at| !authority[*at..].contains(']'));
        let (host, port) = match port_at {
            Some(at) => {
                let port = authority[at + 1..].parse().map_err(|_| bad("the port is no number"))?;
                (&authority[..at], port)
            }
            None => (authority, if tls { 443 } else { 80 }),
        };
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".:-[]_".contains(&b);
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(bad("the host is not a name or an address"));
        }
        let target = target.split('#').next().unwrap_or_default();
        if !target.bytes().all(|b| (0x21..0x7f).contains(&b)) {
            return Err(bad("the path has characters that must be percent-encoded"));
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Url { tls, host: host.to_owned(), port, target: format!("{slash}{target}") })
    }

    pub(super) fn key(&self) -> Key {
        (self.tls, self.host.clone(), self.port)
    }

    /// As in the Host header field.
    pub(super) fn host(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// The URL that a Location means.
    pub(super) fn join(&self, location: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        if location.starts_with("http://") || location.starts_with("https://") {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{}{location}", self.host())
        } else {
            let path = self.target.split('?').next().unwrap_or_default();
            let folder = &path[..=path.rfind('/').unwrap_or(0)];
            format!("{scheme}://{}{folder}{location}", self.host())
        }
    }
}

impl Wire {
    fn inner(&mut self) -> Pin<&mut dyn Duplex> {
        match self {
            Wire::Plain(stream) => Pin::new(stream),
            Wire::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().inner().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().inner().poll_close(cx)
    }
}

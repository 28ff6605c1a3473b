//! A request as handlers see it: checked, decoded once, with a body that cannot run away.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use smol::io::{AsyncRead, AsyncReadExt};

use crate::sys::clock;
use crate::types::limits::{LOGIN_BODY_BYTES_MAX, LOGIN_BODY_DEADLINE};
use crate::types::{Reason, Refusal};

pub use http_types::Method;

/// One request.
pub struct Request {
    /// GET, HEAD, PUT and so on.
    pub method: Method,
    /// The path, percent-decoded once, without dot segments; always starts with `/`.
    pub path: String,
    /// The query, percent-decoded, in order.
    pub query: Vec<(String, String)>,
    /// Header fields with lower-case names, in order.
    pub headers: Vec<(String, String)>,
    /// The `Host` as sent, checked to be `host` or `host:port`.
    pub host: Option<String>,
    /// Who asks; `None` on the admin socket.
    pub peer: Option<SocketAddr>,
    /// Whether the connection has TLS.
    pub secure: bool,
    /// What follows the head.
    pub body: Body,
}

impl Request {
    /// The first header field of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first query value of this name.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Every query value of this name.
    pub fn query_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Who sends a body: that bounds how much of it is taken, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Anyone: the body is what a login is made of, or nothing was checked before it. At most
    /// [`LOGIN_BODY_BYTES_MAX`] within [`LOGIN_BODY_DEADLINE`].
    Anyone,
    /// Somebody whose credentials were verified before the body is read.
    LoggedIn,
}

/// Why a body cannot be had whole.
#[derive(Debug)]
pub enum BodyError {
    /// Longer than so many bytes.
    TooLarge(u64),
    /// Not whole in time.
    TooSlow,
    /// Ended early, malformed, or without progress.
    Io(io::Error),
}

impl BodyError {
    /// The answer to it; a body that is not whole is told with `code`.
    pub fn refusal(&self, code: &'static str) -> Refusal {
        match self {
            BodyError::TooLarge(max) => {
                let text = format!("the body is larger than {max} bytes");
                Refusal::new(413, "SIZE_INVALID", Reason::TooLarge, text)
            }
            BodyError::TooSlow => {
                let text = "the request body did not arrive in time";
                Refusal::new(408, code, Reason::Timeout, text)
            }
            BodyError::Io(error) => {
                let (status, reason) = match error.kind() {
                    io::ErrorKind::TimedOut => (408, Reason::Timeout),
                    _ => (400, Reason::Malformed),
                };
                Refusal::new(status, code, reason, format!("the body is not whole: {error}"))
            }
        }
    }
}

/// A body, framed: reading it past its end gives 0 and a truncated one gives `UnexpectedEof`.
pub struct Body {
    reader: Pin<Box<dyn AsyncRead + Send + Sync>>,
    len: Option<u64>,
    watch: Option<Box<dyn Watch>>,
}

/// Tells whether the sender of a body is still there.
pub(crate) trait Watch: Send + Sync {
    /// Ready once it has closed its side, after the whole body.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::new(smol::io::empty(), Some(0))
    }

    /// Wraps a reader that ends where the body ends; `len` as declared, `None` when chunked.
    pub fn new(reader: impl AsyncRead + Send + Sync + 'static, len: Option<u64>) -> Body {
        Body { reader: Box::pin(reader), len, watch: None }
    }

    /// Lets [`Body::gone`] know.
    pub(crate) fn watch(&mut self, watch: impl Watch + 'static) {
        self.watch = Some(Box::new(watch));
    }

    /// Waits until the client has closed its side of the connection, for a handler that would
    /// wait long for nothing. Never ends while the body is unread, or for a body made by hand.
    pub async fn gone(&self) {
        poll_fn(|cx| match &self.watch {
            Some(watch) => watch.poll_gone(cx),
            None => Poll::Pending,
        })
        .await;
    }

    /// Length as declared by Content-Length; `None` when chunked.
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// Whether the body is declared to have no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == Some(0)
    }

    /// Reads some bytes; 0 at the end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).await
    }

    /// Receives the body of a request whole, within the bounds of its sender, at most `max` bytes.
    /// Every handler that takes a whole body takes it here.
    pub async fn receive(&mut self, from: Sender, max: u64) -> Result<Vec<u8>, BodyError> {
        match from {
            Sender::LoggedIn => self.read_all(max).await,
            Sender::Anyone => {
                let body = self.read_all(max.min(LOGIN_BODY_BYTES_MAX));
                let whole = clock::within(LOGIN_BODY_DEADLINE, body).await;
                whole.unwrap_or(Err(BodyError::TooSlow))
            }
        }
    }

    /// Reads it all, at most `max` bytes.
    pub async fn read_all(&mut self, max: u64) -> Result<Vec<u8>, BodyError> {
        if self.len.is_some_and(|len| len > max) {
            return Err(BodyError::TooLarge(max));
        }
        let mut bytes = Vec::new();
        let mut limited = (&mut self.reader).take(max.saturating_add(1));
        limited.read_to_end(&mut bytes).await.map_err(BodyError::Io)?;
        if bytes.len() as u64 > max {
            return Err(BodyError::TooLarge(max));
        }
        Ok(bytes)
    }
}

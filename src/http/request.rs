//! A request as handlers see it: checked, decoded once, with a body that cannot run away.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use smol::io::{AsyncRead, AsyncReadExt};

use crate::sys::clock::within;
use crate::types::limits::PROGRESS_DEADLINE;

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

/// Why a body cannot be had whole.
#[derive(Debug)]
pub enum BodyError {
    /// Longer than the reader allows.
    TooLarge,
    /// Ended early, malformed, or too slow.
    Io(io::Error),
}

/// A body, framed: reading it past its end gives 0 and a truncated one gives `UnexpectedEof`.
pub struct Body {
    reader: Pin<Box<dyn AsyncRead + Send + Sync>>,
    len: Option<u64>,
    progress: Duration,
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::new(smol::io::empty(), Some(0))
    }

    /// Wraps a reader that ends where the body ends; `len` as declared, `None` when chunked.
    pub fn new(reader: impl AsyncRead + Send + Sync + 'static, len: Option<u64>) -> Body {
        Body { reader: Box::pin(reader), len, progress: PROGRESS_DEADLINE }
    }

    /// Length as declared by Content-Length; `None` when chunked.
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// Whether the body is declared to have no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == Some(0)
    }

    /// The same body under another progress deadline.
    #[must_use]
    pub fn with_progress(mut self, deadline: Duration) -> Body {
        self.progress = deadline;
        self
    }

    /// Reads some bytes; 0 at the end. `TimedOut` when the peer makes no progress.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = within(self.progress, self.reader.read(buffer)).await;
        read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads it all, at most `max` bytes.
    pub async fn read_all(&mut self, max: u64) -> Result<Vec<u8>, BodyError> {
        if self.len.is_some_and(|len| len > max) {
            return Err(BodyError::TooLarge);
        }
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match self.read(&mut piece).await.map_err(BodyError::Io)? {
                0 => return Ok(bytes),
                read => bytes.extend_from_slice(&piece[..read]),
            }
            if bytes.len() as u64 > max {
                return Err(BodyError::TooLarge);
            }
        }
    }
}

//! A request to send, its answer, and why there may be none.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::http::message::body::Body;
use crate::http::message::request::Method;
use crate::sys::disk::DiskFile;
use crate::types::limits::REQUEST_DEADLINE;

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
    Connect(io::Error),
    /// The peer's certificate or handshake was refused; the text says why.
    Tls(String),
    /// No answer within the deadline.
    Timeout,
    /// The peer does not speak HTTP as it should.
    Protocol(String),
    /// The connection broke.
    Io(io::Error),
    /// What was to be sent cannot be read; the text says why.
    Source(String),
}

impl ClientError {
    /// The same of an address that somebody else, `from`, redirected to.
    pub(super) fn after_redirect(self, from: &str) -> ClientError {
        let say =
            |text: &dyn fmt::Display| format!("{from} redirects elsewhere, and there: {text}");
        match self {
            ClientError::Connect(error) => {
                ClientError::Connect(io::Error::new(error.kind(), say(&error)))
            }
            ClientError::Tls(text) => ClientError::Tls(say(&text)),
            error => error,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Url(text) => write!(f, "unusable URL: {text}"),
            ClientError::Connect(error) => error.fmt(f),
            ClientError::Tls(text) => f.write_str(text),
            ClientError::Timeout => f.write_str("no answer within the deadline"),
            ClientError::Protocol(text) => write!(f, "the peer does not speak HTTP: {text}"),
            ClientError::Io(error) => write!(f, "the connection broke: {error}"),
            ClientError::Source(text) => {
                write!(f, "the content that was to be sent cannot be read: {text}")
            }
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientRequest {
    /// A request without headers or body under the ordinary deadline.
    pub fn new(method: Method, url: impl Into<String>) -> ClientRequest {
        ClientRequest {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: ClientBody::Empty,
            deadline: REQUEST_DEADLINE,
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

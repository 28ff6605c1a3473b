//! The client side: pooled connections, deadlines, TLS, bounded redirects.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smol::io::{AsyncRead, AsyncWriteExt};

use super::body::{BodyReader, Incoming, Shared};
use super::head::{Buffer, Framing, HeadError, read_head};
use super::pool::{Key, Pool, Url, Wire};
use super::request::{Body, Method};
use super::write::{copy_file, write_all};
use crate::sys::Sys;
use crate::sys::clock::within;
use crate::sys::disk::DiskFile;
use crate::types::limits::{PROGRESS_DEADLINE, REDIRECTS_MAX};

/// Most header fields in an answer. Over it: a protocol error.
const ANSWER_HEADERS_MAX: usize = 100;

/// How a client reaches its peers.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// PEM certificates that are trusted beside the public roots.
    pub ca_pem: Option<Vec<u8>>,
    /// SHA-256 of a CA certificate that is trusted when the peer's chain holds it (hex).
    pub ca_fingerprint: Option<String>,
}

/// A client with a pool of connections; a clone shares it.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

/// A request to send.
pub struct ClientRequest {
    /// GET, PUT and so on.
    pub method: Method,
    /// `http://host[:port]/path?query` or `https://...`.
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

impl Client {
    #[allow(clippy::needless_pass_by_value, reason = "options are made for this call")]
    /// A client with an empty pool. Fails when the CA certificates cannot be read.
    pub fn new(sys: &Sys, options: ClientOptions) -> Result<Client, String> {
        let tls = super::tls::client_config(&options)?;
        Ok(Client { pool: Arc::new(Pool::new(sys.clone(), Some(tls), None)) })
    }

    /// A client that reaches every host through one unix socket: the admin socket.
    pub fn unix(sys: &Sys, socket: &Path) -> Client {
        Client { pool: Arc::new(Pool::new(sys.clone(), None, Some(socket.to_owned()))) }
    }

    /// Sends a request and reads the head of the answer. Follows redirects of GET and HEAD;
    /// Authorization does not travel to another host.
    pub async fn send(&self, mut request: ClientRequest) -> Result<ClientResponse, ClientError> {
        let mut hops = 0;
        loop {
            let url = Url::parse(&request.url)?;
            let mut response = self.exchange(&request, &url).await?;
            let is_read = matches!(request.method, Method::Get | Method::Head);
            let redirect = matches!(response.status, 301 | 302 | 303 | 307 | 308) && is_read;
            let Some(location) = response.header("location").filter(|_| redirect) else {
                response.url = request.url;
                return Ok(response);
            };
            if hops == REDIRECTS_MAX {
                return Err(ClientError::Protocol(format!("more than {REDIRECTS_MAX} redirects")));
            }
            hops += 1;
            let next = url.join(location);
            let target = Url::parse(&next)?;
            if (&target.host, target.port, target.tls) != (&url.host, url.port, url.tls) {
                request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
            }
            request.url = next;
        }
    }

    /// One exchange; tried again on a fresh connection when a pooled one turns out to be closed.
    async fn exchange(
        &self,
        request: &ClientRequest,
        url: &Url,
    ) -> Result<ClientResponse, ClientError> {
        let attempt = async {
            if let Some(idle) = self.pool.take(&url.key()) {
                match self.exchange_on(idle, request, url).await {
                    Err(ClientError::Io(error)) if is_stale(&error) => {}
                    result => return result,
                }
            }
            let fresh = self.pool.connect(url, request.deadline).await?;
            self.exchange_on(fresh, request, url).await
        };
        match &request.body {
            // A file takes as long as it takes; each write has the progress deadline.
            ClientBody::File { .. } => attempt.await,
            _ => within(request.deadline, attempt).await.unwrap_or(Err(ClientError::Timeout)),
        }
    }

    async fn exchange_on(
        &self,
        mut stream: Wire,
        request: &ClientRequest,
        url: &Url,
    ) -> Result<ClientResponse, ClientError> {
        let mut head = request_head(request, url);
        match &request.body {
            ClientBody::Bytes(bytes) => {
                head.extend_from_slice(bytes);
                write_all(&mut stream, &head, PROGRESS_DEADLINE).await?;
            }
            ClientBody::Empty => write_all(&mut stream, &head, PROGRESS_DEADLINE).await?,
            ClientBody::File { file, offset, len } => {
                write_all(&mut stream, &head, PROGRESS_DEADLINE).await?;
                // A refusal may come before the body is through: then read it.
                let sent = copy_file(&mut stream, file, *offset, *len, PROGRESS_DEADLINE).await;
                if let Err(error) = sent {
                    log::debug!("the peer stopped reading a request body: {error}");
                }
            }
        }
        stream.flush().await?;
        let mut buffer = Buffer::default();
        let answer = async {
            loop {
                let head = read_answer(&mut stream, &mut buffer, request.method).await?;
                // Informational answers come before the one that counts (RFC 9110, 15.2).
                if head.status >= 200 {
                    return Ok(head);
                }
            }
        };
        let head = within(request.deadline, answer).await.unwrap_or(Err(ClientError::Timeout))?;
        let len = match head.framing {
            Framing::Length(len) => Some(len),
            _ => None,
        };
        let shared = Incoming::new(stream, buffer, head.framing, false);
        let home = head.keep_alive.then(|| (self.pool.clone(), url.key()));
        let mut reader = Returning { shared, home };
        reader.give_back_if_complete();
        Ok(ClientResponse {
            status: head.status,
            headers: head.headers,
            body: Body::new(reader, len),
            url: String::new(),
        })
    }
}

fn is_stale(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn request_head(request: &ClientRequest, url: &Url) -> Vec<u8> {
    let mut head =
        format!("{} {} HTTP/1.1\r\nhost: {}\r\n", request.method, url.target, url.host());
    let len = match &request.body {
        ClientBody::Empty => 0,
        ClientBody::Bytes(bytes) => bytes.len() as u64,
        ClientBody::File { len, .. } => *len,
    };
    if len > 0 || matches!(request.method, Method::Put | Method::Post | Method::Patch) {
        head.push_str(&format!("content-length: {len}\r\n"));
    }
    head.push_str(concat!("user-agent: skerry/", env!("CARGO_PKG_VERSION"), "\r\n"));
    for (name, value) in &request.headers {
        let visible = value.chars().filter(|c| (' '..='~').contains(c));
        head.push_str(&format!("{name}: {}\r\n", visible.collect::<String>()));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

struct AnswerHead {
    status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    keep_alive: bool,
}

async fn read_answer(
    stream: &mut Wire,
    buffer: &mut Buffer,
    method: Method,
) -> Result<AnswerHead, ClientError> {
    let protocol = |text: &str| ClientError::Protocol(text.to_owned());
    let len = match read_head(stream, buffer).await {
        Ok(len) => len,
        Err(HeadError::Closed) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Err(HeadError::Io(error)) => return Err(error.into()),
        Err(HeadError::Refused(refusal)) => return Err(ClientError::Protocol(refusal.message)),
    };
    let mut fields = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
    let mut raw = httparse::Response::new(&mut fields);
    let parsed = raw.parse(&buffer.filled()[..len]);
    parsed.map_err(|error| ClientError::Protocol(format!("malformed answer: {error}")))?;
    let status = raw.code.ok_or_else(|| protocol("an answer without a status"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let headers: Vec<(String, String)> =
        raw.headers.iter().map(|f| (f.name.to_ascii_lowercase(), text(f.value))).collect();
    let version = raw.version;
    buffer.consume(len);
    let find = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let framing = if method == Method::Head || matches!(status, 100..=199 | 204 | 304) {
        Framing::Length(0)
    } else if let Some(encoding) = find("transfer-encoding") {
        if !encoding.eq_ignore_ascii_case("chunked") {
            return Err(protocol("an answer with an unknown transfer encoding"));
        }
        Framing::Chunked
    } else if let Some(length) = find("content-length") {
        let length = Some(length).filter(|l| l.bytes().all(|b| b.is_ascii_digit()));
        let length = length.and_then(|l| l.parse().ok());
        Framing::Length(length.ok_or_else(|| protocol("an answer with a bad Content-Length"))?)
    } else {
        Framing::UntilClose
    };
    let close = find("connection").is_some_and(|v| v.to_ascii_lowercase().contains("close"));
    let keep_alive = version == Some(1) && !close && framing != Framing::UntilClose;
    Ok(AnswerHead { status, headers, framing, keep_alive })
}

/// The body of an answer; at its end the connection goes back to the pool.
struct Returning {
    shared: Shared<Wire>,
    home: Option<(Arc<Pool>, Key)>,
}

impl Returning {
    fn give_back_if_complete(&mut self) {
        let complete = self.shared.lock().is_ok_and(|incoming| incoming.complete());
        if let Some((pool, key)) = self.home.take_if(|_| complete)
            && let Some(released) = Incoming::release(&self.shared)
            && released.buffer.filled().is_empty()
        {
            pool.put(key, released.stream);
        }
    }
}

impl AsyncRead for Returning {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut reader = BodyReader(self.shared.clone());
        let read = Pin::new(&mut reader).poll_read(cx, buffer);
        if read.is_ready() {
            self.give_back_if_complete();
        }
        read
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::TimedOut => ClientError::Timeout,
            _ => ClientError::Io(error),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Url(text) => write!(f, "unusable URL: {text}"),
            ClientError::Connect(text) => write!(f, "cannot connect: {text}"),
            ClientError::Tls(text) => write!(f, "TLS: {text}"),
            ClientError::Timeout => f.write_str("no answer in time"),
            ClientError::Protocol(text) => write!(f, "not HTTP as expected: {text}"),
            ClientError::Io(error) => write!(f, "the connection broke: {error}"),
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

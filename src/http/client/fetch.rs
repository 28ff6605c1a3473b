//! One request and its answer on one connection of a client.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_types::{Method, Url};
use smol::io::AsyncRead;

use super::heads::{Head, encode_head, parse_head, protocol};
use super::message::{ClientBody, ClientError, ClientRequest};
use super::pool::Pool;
use crate::http::message::body::Body;
use crate::http::wire::file::read_some;
use crate::http::wire::framing::Framing;
use crate::http::wire::head;
use crate::http::wire::transport::Wire;
use crate::sys::clock;
use crate::types::limits::BUFFER_BYTES;

/// Largest head of an answer, bytes. Over it: a protocol error.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most interim (1xx) answers before the real one. Over it: a protocol error.
const INTERIM_MAX: usize = 16;
/// How long an answer may take that a peer may have sent before it broke off our body.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why there is no answer, and whether another connection may have one.
pub(super) enum Failure {
    /// The connection was dead before the peer can have seen the request.
    Stale(ClientError),
    /// As it is.
    Final(ClientError),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Final(error)
    }
}

/// An answer without its body, and how that is framed.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

/// Sends a request and reads the head of the answer. The connection goes back to the pool when
/// the body has been read to its end.
pub(super) async fn exchange(
    mut wire: Wire,
    pool: &Pool,
    peer: &str,
    url: &Url,
    request: &ClientRequest,
    headers: &[(String, String)],
) -> Result<Answer, Failure> {
    let sent = send_request(&mut wire, url, request, headers).await;
    // A peer that refuses a long body may answer and close before it has all of it.
    let limit = if sent.is_err() { LAST_WORDS.min(request.deadline) } else { request.deadline };
    let read = clock::within(limit, read_head(&mut wire, request.method)).await;
    let (head, whole) = match (read, sent) {
        (Ok(Ok(head)), sent) => (head, matches!(sent, Ok(Sent::Whole))),
        (_, Err(error @ ClientError::Protocol(_))) => return Err(Failure::Final(error)),
        (_, Err(error)) => return Err(Failure::Stale(error)),
        (Err(_), Ok(_)) => return Err(Failure::Final(ClientError::Timeout)),
        (Ok(Err(failure)), Ok(_)) => return Err(failure),
    };
    let len = match head.framing {
        Framing::Length(len) => Some(len),
        Framing::End => Some(0),
        _ => None,
    };
    let mut reader = ResponseBody {
        wire: Some(wire),
        framing: head.framing,
        reusable: head.keep && whole,
        pool: pool.clone(),
        peer: peer.to_owned(),
    };
    reader.release_if_over();
    let body = if reader.wire.is_none() { Body::empty() } else { Body::new(reader, len) };
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// How much of a request went out.
#[derive(PartialEq, Eq)]
enum Sent {
    Whole,
    /// The peer answered before it had everything.
    Part,
}

async fn send_request(
    wire: &mut Wire,
    url: &Url,
    request: &ClientRequest,
    headers: &[(String, String)],
) -> Result<Sent, ClientError> {
    let mut bytes = encode_head(url, request, headers)?;
    let sent = match &request.body {
        ClientBody::Empty => write(wire, &bytes).await,
        ClientBody::Bytes(body) if body.len() <= BUFFER_BYTES => {
            bytes.extend_from_slice(body);
            write(wire, &bytes).await
        }
        ClientBody::Bytes(body) => match write(wire, &bytes).await {
            Ok(Sent::Whole) => write(wire, body).await,
            other => other,
        },
        ClientBody::File { file, offset, len } => {
            let (mut offset, end) = (*offset, offset.saturating_add(*len));
            let mut sent = write(wire, &bytes).await;
            let mut buffer = Vec::new();
            while offset < end && matches!(sent, Ok(Sent::Whole)) {
                let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
                buffer.resize(left.min(BUFFER_BYTES), 0);
                let read = read_some(file, &mut buffer, 0, offset).await;
                let count = read.map_err(|error| ClientError::Source(error.to_string()))?;
                if count == 0 {
                    let text = "the file is shorter than it was";
                    return Err(ClientError::Source(text.into()));
                }
                offset += count as u64;
                sent = write(wire, &buffer[..count]).await;
            }
            sent
        }
    };
    match sent {
        Ok(Sent::Whole) => poll_fn(|cx| wire.poll_flush_timed(cx)).await.map(|()| Sent::Whole),
        other => other,
    }
    .map_err(broken)
}

fn broken(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::TimedOut => ClientError::Timeout,
        _ => ClientError::Io(error),
    }
}

/// Writes it all, unless the peer answers meanwhile.
async fn write(wire: &mut Wire, bytes: &[u8]) -> io::Result<Sent> {
    let mut written = 0;
    poll_fn(|cx| {
        while written < bytes.len() {
            match wire.poll_write_timed(cx, &bytes[written..]) {
                Poll::Ready(count) => written += count?,
                Poll::Pending => {
                    return match ready!(wire.poll_fill(cx))? {
                        0 => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                        _ => Poll::Ready(Ok(Sent::Part)),
                    };
                }
            }
        }
        Poll::Ready(Ok(Sent::Whole))
    })
    .await
}

async fn read_head(wire: &mut Wire, method: Method) -> Result<Head, Failure> {
    for _ in 0..INTERIM_MAX {
        let mut searched = 0;
        let bytes = loop {
            let received = wire.received();
            let end = head::end(received, searched);
            if end.unwrap_or(received.len()) > HEAD_BYTES_MAX {
                return Err(protocol("the head of the answer is too large").into());
            }
            if let Some(end) = end {
                let bytes = received[..end].to_vec();
                wire.consume(end);
                break bytes;
            }
            searched = received.len();
            let lost = match poll_fn(|cx| wire.poll_fill(cx)).await {
                Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
                Ok(_) => continue,
                Err(error) => error,
            };
            let error = ClientError::Io(lost);
            return Err(if searched == 0 { Failure::Stale(error) } else { error.into() });
        };
        let head = parse_head(&bytes, method)?;
        match head.status {
            101 => return Err(protocol("the peer switched to another protocol").into()),
            100..=199 => {}
            _ => return Ok(head),
        }
    }
    Err(protocol("too many interim answers").into())
}

/// The body of an answer; it owns the connection until it has been read to its end.
struct ResponseBody {
    wire: Option<Wire>,
    framing: Framing,
    reusable: bool,
    pool: Pool,
    peer: String,
}

impl ResponseBody {
    fn release_if_over(&mut self) {
        if !self.framing.is_over() && self.framing != Framing::Closed {
            return;
        }
        let Some(wire) = self.wire.take() else { return };
        // Bytes that nobody asked for would be taken for the next answer.
        if self.reusable && self.framing.is_over() && wire.received().is_empty() {
            self.pool.put(&self.peer, wire);
        }
    }
}

impl AsyncRead for ResponseBody {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(wire) = &mut this.wire else {
            let clean = this.framing.is_over() || this.framing == Framing::Closed;
            let lost = || Err(io::ErrorKind::ConnectionAborted.into());
            return Poll::Ready(if clean { Ok(0) } else { lost() });
        };
        let result = ready!(this.framing.poll_read(wire, cx, buffer));
        match &result {
            Ok(_) => this.release_if_over(),
            // The framing is closed, but a second read must not look like a clean end.
            Err(error) => {
                let kind = error.kind();
                this.reusable = false;
                this.framing = Framing::Length(1);
                this.wire = None;
                return Poll::Ready(Err(kind.into()));
            }
        }
        Poll::Ready(result)
    }
}

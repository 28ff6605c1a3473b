//! One connection: read a head, let the handler answer, write, drain or close, again.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_rustls::server::TlsStream;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::body::{BodyReader, Incoming, Released};
use super::head::{self, Buffer, Framing, Head, HeadError};
use super::request::{Body, Request};
use super::server::Shutdown;
use super::write::{send_reply, write_all};
use super::{Handler, Reply};
use crate::sys::Sys;
use crate::sys::clock::{sleep, within};
use crate::sys::net::Stream;
use crate::types::limits::{DRAIN_BYTES_MAX, HEAD_DEADLINE, IDLE_DEADLINE, PROGRESS_DEADLINE};
use crate::types::{Reason, Refusal};

/// Answers that take longer are given up when the peer leaves.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For a whole request head.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For the next bytes of a body, in either direction.
    pub progress: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { head: HEAD_DEADLINE, idle: IDLE_DEADLINE, progress: PROGRESS_DEADLINE }
    }
}

/// A plain or an encrypted connection.
pub(super) enum Transport {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

impl Transport {
    fn inner(&mut self) -> Pin<&mut dyn Duplex> {
        match self {
            Transport::Plain(stream) => Pin::new(stream),
            Transport::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Transport {
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

/// What a connection is served with.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) sys: Sys,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) deadlines: Deadlines,
    pub(super) shutdown: Shutdown,
}

/// Serves requests until the peer leaves, a fault ends the connection, or the server stops.
pub(super) async fn serve(service: Service, mut stream: Transport, peer: Option<SocketAddr>) {
    let mut buffer = Buffer::default();
    let secure = matches!(stream, Transport::Tls(_));
    loop {
        let head = match next_head(&service, &mut stream, &mut buffer).await {
            Ok(Some(head)) => head,
            Ok(None) => break,
            Err(refusal) => {
                refuse(&service, &mut stream, refusal).await;
                break;
            }
        };
        match exchange(&service, stream, buffer, head, peer, secure).await {
            Some((kept_stream, kept_buffer)) => (stream, buffer) = (kept_stream, kept_buffer),
            None => return,
        }
    }
    let _ = within(service.deadlines.progress, stream.close()).await;
}

/// The next request head; `None` when the connection is to be closed in silence.
async fn next_head(
    service: &Service,
    stream: &mut Transport,
    buffer: &mut Buffer,
) -> Result<Option<Head>, Refusal> {
    if buffer.filled().is_empty() {
        // Between requests the peer may be silent for longer, and a stopping server leaves.
        let wait = async {
            let first = std::future::poll_fn(|cx| buffer.poll_fill(cx, stream, 4096));
            matches!(within(service.deadlines.idle, first).await, Ok(Ok(n)) if n > 0)
        };
        let stopped = async {
            service.shutdown.wait().await;
            false
        };
        if !wait.or(stopped).await {
            return Ok(None);
        }
    }
    let head = async {
        let len = head::read_head(stream, buffer).await?;
        let parsed = head::parse(&buffer.filled()[..len]).await?;
        buffer.consume(len);
        Ok(parsed)
    };
    match within(service.deadlines.head, head).await {
        Ok(Ok(head)) => Ok(Some(head)),
        Ok(Err(HeadError::Closed | HeadError::Io(_))) => Ok(None),
        Ok(Err(HeadError::Refused(refusal))) => Err(refusal),
        Err(_) => Err(Refusal::new(
            408,
            "UNSUPPORTED",
            Reason::Malformed,
            "the request head did not arrive in time",
        )),
    }
}

/// One request and its reply; the connection comes back when another request may follow.
async fn exchange(
    service: &Service,
    stream: Transport,
    buffer: Buffer,
    head: Head,
    peer: Option<SocketAddr>,
    secure: bool,
) -> Option<(Transport, Buffer)> {
    let started = service.sys.clock.monotonic();
    let shared = Incoming::new(stream, buffer, head.framing, head.expects_continue);
    let len = match head.framing {
        Framing::Length(len) => Some(len),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let body = Body::new(BodyReader(shared.clone()), len);
    let mut request = Request {
        method: head.method,
        path: head.path,
        query: head.query,
        headers: head.headers,
        host: head.host,
        peer,
        secure,
        body: body.with_progress(service.deadlines.progress),
    };
    let metrics = &service.sys.metrics;
    metrics.requests.add(1);
    let handled = AssertUnwindSafe(service.handler.handle(&mut request)).catch_unwind();
    let gone = async {
        peer_gone(&shared).await;
        None
    };
    let (reply, panicked) = match (async { Some(handled.await) }).or(gone).await {
        None => {
            log::debug!("{peer:?} left before it was answered");
            return None;
        }
        Some(Ok(reply)) => (reply, false),
        Some(Err(_)) => {
            metrics.panics.add(1);
            log::error!("defect: a handler panicked on {} {}", request.method, request.path);
            (internal_error(), true)
        }
    };
    let Request { method, path, body, .. } = request;
    drop(body);
    let Released { mut stream, mut buffer, complete, owes_continue } = Incoming::release(&shared)?;
    // A body that was refused unread is drained only if it is short and on its way.
    let rest = len.filter(|len| !complete && !owes_continue && *len <= DRAIN_BYTES_MAX);
    let reusable = head.keep_alive
        && !panicked
        && !service.shutdown.stopping()
        && (complete || rest.is_some());
    let status = reply.status;
    match status {
        400..=499 => metrics.requests_refused.add(1),
        500..=599 => metrics.requests_failed.add(1),
        _ => {}
    }
    let sent = send_reply(&mut stream, reply, method, reusable, service.deadlines.progress).await;
    let milliseconds = (service.sys.clock.monotonic().saturating_sub(started)).as_millis();
    let bytes = *sent.as_ref().unwrap_or(&0);
    metrics.bytes_sent.add(bytes);
    let from = peer.map_or_else(|| "admin".to_owned(), |peer| peer.to_string());
    log::debug!("{from} {method} {path} {status} {bytes} bytes {milliseconds} ms");
    if let Err(error) = sent {
        log::debug!("{from} {method} {path}: the connection ended early: {error}");
        return None;
    }
    if !reusable {
        linger(&mut stream, service.deadlines).await;
        return None;
    }
    if complete {
        return Some((stream, buffer));
    }
    drain(&mut stream, &mut buffer, &shared, service.deadlines).await.then_some((stream, buffer))
}

/// Ends when the peer closes while it waits for an answer: a long poll must not hold on to what
/// nobody will read. Looks only once an answer takes long, and only when no body is awaited.
async fn peer_gone(shared: &super::body::Shared<Transport>) {
    sleep(PATIENCE).await;
    std::future::poll_fn(|cx| match shared.lock() {
        Ok(mut incoming) => incoming.poll_gone(cx),
        Err(_) => Poll::Pending,
    })
    .await;
}

/// Reads what is left of an unread body, so that the next request starts where it should.
async fn drain(
    stream: &mut Transport,
    buffer: &mut Buffer,
    shared: &super::body::Shared<Transport>,
    deadlines: Deadlines,
) -> bool {
    let Some(mut left) = shared.lock().ok().and_then(|incoming| incoming.length_left()) else {
        return false;
    };
    while left > 0 {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.filled().len());
        buffer.consume(here);
        left -= here as u64;
        if left > 0 {
            let more = std::future::poll_fn(|cx| buffer.poll_fill(cx, stream, 16 * 1024));
            match within(deadlines.progress, more).await {
                Ok(Ok(read)) if read > 0 => {}
                _ => return false,
            }
        }
    }
    true
}

/// Closes so that the peer can still read the reply: a socket closed with unread bytes is reset.
async fn linger(stream: &mut Transport, deadlines: Deadlines) {
    let _ = within(deadlines.progress, stream.close()).await;
    let Transport::Plain(stream) = stream else { return };
    let discard = async {
        let mut scratch = [0; 4096];
        let mut left = DRAIN_BYTES_MAX;
        while left > 0 {
            let read = smol::io::AsyncReadExt::read(stream, &mut scratch).await;
            match read {
                Ok(read) if read > 0 => left = left.saturating_sub(read as u64),
                _ => break,
            }
        }
    };
    let _ = within(Duration::from_secs(1).min(deadlines.progress), discard).await;
}

/// Answers a head that is no request, and leaves.
async fn refuse(service: &Service, stream: &mut Transport, refusal: Refusal) {
    service.sys.metrics.requests.add(1);
    service.sys.metrics.requests_refused.add(1);
    log::debug!("refused a request head: {} {}", refusal.status, refusal.message);
    let reply = Reply::from(refusal);
    let method = http_types::Method::Get;
    if send_reply(stream, reply, method, false, service.deadlines.progress).await.is_ok() {
        linger(stream, service.deadlines).await;
    }
}

fn internal_error() -> Reply {
    let text = "an internal error; the log of the registry has its cause";
    Refusal::new(500, "UNSUPPORTED", Reason::StoreUnavailable, text).into()
}

/// Tells a peer that there is no room, and leaves.
pub(super) async fn turn_away(mut stream: Stream, deadlines: Deadlines) {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\n\
        content-type: application/json\r\ncontent-length: 104\r\nconnection: close\r\n\r\n\
        {\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"too many connections\",\
        \"detail\":{\"reason\":\"throttled\"}}]}";
    let _ = write_all(&mut stream, BUSY, deadlines.progress.min(Duration::from_secs(1))).await;
}

//! What a connection, the body that a handler reads, and the reply share.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use smol::io::AsyncRead;

use crate::http::message::body::Watch;
use crate::http::wire::framing::Framing;
use crate::http::wire::transport::Wire;

/// What a client that waits before it sends its body is told.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The wire and the state of the request on it, shared with the body that a handler reads.
pub(super) struct Exchange {
    /// The connection.
    pub(super) wire: Wire,
    /// How the rest of the body of the request is framed.
    pub(super) framing: Framing,
    /// Bytes of `100 Continue` that went out; `None` when none is due.
    pub(super) continues: Option<usize>,
    /// Grows with each request and each reply: an old body cannot read a later request.
    pub(super) number: u64,
    /// Bytes of the body that were read.
    pub(super) received: u64,
    /// Why no more of the body can be read.
    pub(super) fault: Option<io::ErrorKind>,
}

/// A handle to it. Only one task polls at a time, so the lock is never contended for long.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Exchange>>);

impl Shared {
    /// An exchange without a request on a fresh connection.
    pub(super) fn new(wire: Wire) -> Shared {
        let exchange = Exchange {
            wire,
            framing: Framing::End,
            continues: None,
            number: 0,
            received: 0,
            fault: None,
        };
        Shared(Arc::new(Mutex::new(exchange)))
    }

    /// The exchange; a panic elsewhere does not make it unusable, it is closed soon after.
    pub(super) fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins; returns its number.
    pub(super) fn begin(&self, framing: Framing, expects_continue: bool) -> u64 {
        let mut exchange = self.lock();
        exchange.number += 1;
        exchange.framing = framing;
        exchange.continues = expects_continue.then_some(0);
        exchange.received = 0;
        exchange.fault = None;
        exchange.number
    }

    /// Writes it all, under the progress deadline.
    pub(super) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        poll_fn(|cx| {
            let mut exchange = self.lock();
            while written < bytes.len() {
                written += ready!(exchange.wire.poll_write_timed(cx, &bytes[written..]))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends what TLS holds back.
    pub(super) async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.lock().wire.poll_flush_timed(cx)).await
    }
}

/// The body of the request with this number.
pub(super) struct RequestBody {
    pub(super) shared: Shared,
    pub(super) number: u64,
}

impl AsyncRead for RequestBody {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let exchange = &mut *self.shared.lock();
        if exchange.number != self.number {
            return Poll::Ready(Err(io::Error::other("the request is over")));
        }
        if let Some(fault) = exchange.fault {
            return Poll::Ready(Err(fault.into()));
        }
        let result = match ready!(poll_continue(exchange, cx)) {
            Ok(()) => ready!(exchange.framing.poll_read(&mut exchange.wire, cx, buffer)),
            Err(error) => {
                exchange.framing = Framing::Closed;
                Err(error)
            }
        };
        match &result {
            Ok(count) => exchange.received += *count as u64,
            Err(error) => exchange.fault = Some(error.kind()),
        }
        Poll::Ready(result)
    }
}

impl Watch for RequestBody {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let exchange = &mut *self.shared.lock();
        let waits = exchange.framing.is_over() && exchange.wire.received().is_empty();
        if exchange.number != self.number || !waits {
            return Poll::Pending;
        }
        match ready!(exchange.wire.poll_fill(cx)) {
            // The next request came early: somebody is there.
            Ok(count) if count > 0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

/// Tells a waiting client to go on, when the body is first asked for; not one that did not wait.
fn poll_continue(exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let Some(mut written) = exchange.continues else { return Poll::Ready(Ok(())) };
    if written == 0 && !exchange.wire.received().is_empty() {
        exchange.continues = None;
        return Poll::Ready(Ok(()));
    }
    while written < CONTINUE.len() {
        written += ready!(exchange.wire.poll_write_timed(cx, &CONTINUE[written..]))?;
        exchange.continues = Some(written);
    }
    ready!(exchange.wire.poll_flush_timed(cx))?;
    exchange.continues = None;
    Poll::Ready(Ok(()))
}

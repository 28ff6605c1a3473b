//! A connection as both sides use it: a transport, what was received and not yet consumed, and
//! the deadline for progress.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_rustls::{client, server};
use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

use crate::sys::clock::{self, Clock};
use crate::sys::net::Stream;

/// What one read from the socket into our own buffer takes at most, bytes.
const FILL_BYTES: usize = 8 * 1024;

thread_local! {
    /// Where bytes land before a connection has memory for them: clearing it anew for each read
    /// would cost as much as the rest of a small request's read.
    static LANDING: RefCell<[u8; FILL_BYTES]> = const { RefCell::new([0; FILL_BYTES]) };
}

/// What carries the bytes.
pub(in crate::http) enum Transport {
    /// No TLS.
    Plain(Stream),
    /// TLS, and we are the server.
    Server(Box<server::TlsStream<Stream>>),
    /// TLS, and we are the client.
    Client(Box<client::TlsStream<Stream>>),
    /// A script of reads, and a record of writes.
    #[cfg(any(test, fuzzing))]
    Script(super::script::Script),
}

/// A transport with its receive buffer. It holds no memory while it is idle.
pub(in crate::http) struct Wire {
    transport: Transport,
    received: Vec<u8>,
    consumed: usize,
    progress: Progress,
}

impl Wire {
    /// Wraps a fresh connection; reads and writes of bodies must progress within `limit`.
    pub(in crate::http) fn new(
        transport: Transport,
        clock: Arc<dyn Clock>,
        limit: Duration,
    ) -> Wire {
        let progress = Progress { clock, limit, since: None, timer: None };
        Wire { transport, received: Vec::new(), consumed: 0, progress }
    }

    /// The socket, where bytes may go out without passing through us.
    pub(in crate::http) fn as_tcp(&self) -> Option<&Async<TcpStream>> {
        match &self.transport {
            Transport::Plain(stream) => stream.as_tcp(),
            _ => None,
        }
    }

    /// Received and not yet consumed.
    pub(in crate::http) fn received(&self) -> &[u8] {
        &self.received[self.consumed..]
    }

    /// Drops `count` bytes from the front of [`Wire::received`].
    pub(in crate::http) fn consume(&mut self, count: usize) {
        self.consumed = (self.consumed + count).min(self.received.len());
        if self.consumed == self.received.len() {
            self.received = Vec::new();
            self.consumed = 0;
        }
    }

    /// Receives some more; 0 at the end of the stream.
    pub(in crate::http) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        LANDING.with_borrow_mut(|chunk| {
            let count = ready!(Pin::new(&mut self.transport).poll_read(cx, chunk))?;
            if self.consumed > 0 {
                self.received.drain(..self.consumed);
                self.consumed = 0;
            }
            self.received.extend_from_slice(&chunk[..count]);
            Poll::Ready(Ok(count))
        })
    }

    /// Receives some more under the progress deadline.
    pub(in crate::http) fn poll_fill_timed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let result = self.poll_fill(cx);
        self.timed(cx, result)
    }

    /// Reads into `buffer` under the progress deadline, first what was received already.
    pub(in crate::http) fn poll_read_timed(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let waiting = self.received();
        if !waiting.is_empty() {
            let count = waiting.len().min(buffer.len());
            buffer[..count].copy_from_slice(&waiting[..count]);
            self.consume(count);
            return Poll::Ready(Ok(count));
        }
        let result = Pin::new(&mut self.transport).poll_read(cx, buffer);
        self.timed(cx, result)
    }

    /// Writes some bytes under the progress deadline.
    pub(in crate::http) fn poll_write_timed(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = match Pin::new(&mut self.transport).poll_write(cx, bytes) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            result => result,
        };
        self.timed(cx, result)
    }

    /// Sends what TLS holds back, under the progress deadline.
    pub(in crate::http) fn poll_flush_timed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.transport).poll_flush(cx);
        self.timed(cx, result)
    }

    /// Ends our direction of the connection.
    pub(in crate::http) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_close(cx)
    }

    /// Puts the progress deadline around the result of a poll.
    pub(in crate::http) fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.progress.since = None;
            return result;
        }
        if self.progress.poll_expired(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    /// Forgets the progress timer, so that an idle connection costs nothing.
    pub(in crate::http) fn rest(&mut self) {
        self.progress.since = None;
        self.progress.timer = None;
    }
}

/// The time since the peer last took or gave a byte. The timer is set once and looked at when it
/// fires, not set anew at each of the many reads and writes of a body.
struct Progress {
    clock: Arc<dyn Clock>,
    limit: Duration,
    since: Option<Duration>,
    timer: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Progress {
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.clock.monotonic();
        let waited = now.saturating_sub(*self.since.get_or_insert(now));
        let mut next = self.limit;
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(clock::sleep(next)));
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.timer = None;
            if waited >= self.limit {
                return true;
            }
            next = self.limit - waited;
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Server(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Client(stream) => Pin::new(stream).poll_read(cx, buffer),
            #[cfg(any(test, fuzzing))]
            Transport::Script(script) => Pin::new(script).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Server(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Client(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(any(test, fuzzing))]
            Transport::Script(script) => Pin::new(script).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Server(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Client(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(any(test, fuzzing))]
            Transport::Script(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_close(cx),
            Transport::Server(stream) => Pin::new(stream).poll_close(cx),
            Transport::Client(stream) => Pin::new(stream).poll_close(cx),
            #[cfg(any(test, fuzzing))]
            Transport::Script(_) => Poll::Ready(Ok(())),
        }
    }
}

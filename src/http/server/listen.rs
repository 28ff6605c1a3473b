//! Listeners to connections: permits, refusals under overload, and an orderly end.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use event_listener::{Event, listener};
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncWrite};

use super::conn::Connection;
use super::tls::TlsAcceptor;
use crate::http::Handler;
use crate::http::message::budget::Budget;
use crate::http::wire::transport::{Transport, Wire};
use crate::sys::net::{Listener, Stream};
use crate::sys::{Sys, clock};
use crate::types::limits::{HEAD_DEADLINE, IDLE_DEADLINE, PROGRESS_DEADLINE};

/// How long a client that was refused may take to go away.
const LINGER_DEADLINE: Duration = Duration::from_secs(2);
/// How long requests in flight may take to finish once the server shuts down.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);
/// Wait after a failed accept, which for want of descriptors would fail again at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Connections over the limit that are told so at the same time. Over it: closed without a word.
const REFUSALS_MAX: usize = 64;
/// Bytes read from a client that was turned away, so that closing does not reset the answer.
const TURNED_AWAY_READS_MAX: usize = 16;
const OVERLOAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
    content-length: 121\r\ncontent-type: application/json\r\nretry-after: 2\r\n\r\n\
    {\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"too many connections; try \
    again soon\",\"detail\":{\"reason\":\"throttled\"}}]}\n";

/// How long a connection may take for what. Tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A request head, and a TLS handshake.
    pub head: Duration,
    /// The wait for the next request.
    pub idle: Duration,
    /// Any progress of a body, in either direction.
    pub progress: Duration,
    /// The rest of an unread body, and the client's end of a connection that we close.
    pub linger: Duration,
    /// Requests in flight when the server shuts down.
    pub drain: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            head: HEAD_DEADLINE,
            idle: IDLE_DEADLINE,
            progress: PROGRESS_DEADLINE,
            linger: LINGER_DEADLINE,
            drain: DRAIN_DEADLINE,
        }
    }
}

/// What every listener of a server shares; cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// The seams.
    pub sys: Sys,
    /// Who answers.
    pub handler: Arc<dyn Handler>,
    /// How many connections there may be.
    pub permits: Permits,
    /// When to stop.
    pub shutdown: Shutdown,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// What all bodies together may take of memory.
    pub memory: Budget,
}

/// A bounded number of connections, shared between listeners by its clones.
#[derive(Clone)]
pub struct Permits {
    shared: Arc<Counted>,
}

struct Counted {
    max: usize,
    used: AtomicUsize,
    returned: Event,
}

/// The right to one connection, given back when dropped.
pub struct Permit {
    shared: Arc<Counted>,
}

impl Permits {
    /// So many.
    pub fn new(max: usize) -> Permits {
        let shared = Counted { max, used: AtomicUsize::new(0), returned: Event::new() };
        Permits { shared: Arc::new(shared) }
    }

    /// One of them, if any is left.
    pub fn try_acquire(&self) -> Option<Permit> {
        let next = |used| (used < self.shared.max).then_some(used + 1);
        let used = &self.shared.used;
        used.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        Some(Permit { shared: self.shared.clone() })
    }

    /// How many are out.
    pub fn in_use(&self) -> usize {
        self.shared.used.load(Ordering::Acquire)
    }

    /// Waits until all are back.
    pub async fn all_returned(&self) {
        loop {
            listener!(self.shared.returned => returned);
            if self.in_use() == 0 {
                return;
            }
            returned.await;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.shared.used.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.returned.notify(usize::MAX);
        }
    }
}

/// Tells listeners and connections, through any of its clones, that the server shuts down.
#[derive(Clone, Default)]
pub struct Shutdown {
    shared: Arc<Signal>,
}

#[derive(Default)]
struct Signal {
    begun: AtomicBool,
    event: Event,
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Begins it. Listeners close, idle connections too; requests in flight are finished, for at
    /// most the drain deadline.
    pub fn begin(&self) {
        self.shared.begun.store(true, Ordering::Release);
        self.shared.event.notify(usize::MAX);
    }

    /// Whether it has begun.
    pub fn is_begun(&self) -> bool {
        self.shared.begun.load(Ordering::Acquire)
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        loop {
            listener!(self.shared.event => begun);
            if self.is_begun() {
                return;
            }
            begun.await;
        }
    }
}

/// Serves one listener until shutdown begins and its connections have ended, for at most the
/// drain deadline; what is left then is cut off. With `tls` every connection speaks TLS.
pub async fn serve(service: Service, listener: Listener, tls: Option<TlsAcceptor>) {
    let own = Permits::new(usize::MAX);
    let refusals = Permits::new(REFUSALS_MAX);
    let cut = Shutdown::new();
    let mut failing = false;
    loop {
        let stop = async {
            service.shutdown.begun().await;
            None
        };
        let accepted = match stop.or(async { Some(listener.accept().await) }).await {
            None => break,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Some(Err(error)) => {
                // One line for a run of failures, not one for each.
                if !failing {
                    log::warn!("cannot accept connections: {error}; trying again");
                    failing = true;
                }
                clock::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        failing = false;
        let (stream, peer) = accepted;
        match (service.permits.try_acquire(), own.try_acquire()) {
            (Some(permit), Some(counted)) => {
                let (service, tls, cut) = (service.clone(), tls.clone(), cut.clone());
                let spawner = service.sys.spawner.clone();
                let connection = async move {
                    connection(&service, stream, peer, tls).or(cut.begun()).await;
                    drop((permit, counted));
                };
                spawner.spawn(connection).detach();
            }
            _ => turn_away(&service, &refusals, stream, tls.is_some()),
        }
    }
    drop(listener);
    if clock::within(service.deadlines.drain, own.all_returned()).await.is_err() {
        log::warn!("{} connections did not end in time and were cut off", own.in_use());
        cut.begin();
        own.all_returned().await;
    }
}

async fn connection(
    service: &Service,
    stream: Stream,
    peer: Option<SocketAddr>,
    tls: Option<TlsAcceptor>,
) {
    let transport = match tls {
        None => Transport::Plain(stream),
        Some(tls) => match clock::within(service.deadlines.head, tls.accept(stream)).await {
            Ok(Ok(stream)) => Transport::Server(Box::new(stream)),
            Ok(Err(error)) => {
                log::debug!("{peer:?} no TLS connection: {error}");
                return;
            }
            Err(_) => {
                log::debug!("{peer:?} no TLS connection: the handshake came too slowly");
                return;
            }
        },
    };
    Connection::new(service, transport, peer).run().await;
}

/// Tells a client over the limit to come back, if there is room even for that. A client of a TLS
/// listener is only closed: a handshake is what the limit protects from.
fn turn_away(service: &Service, refusals: &Permits, stream: Stream, tls: bool) {
    service.sys.metrics.requests.add(1);
    service.sys.metrics.requests_failed.add(1);
    let Some(permit) = refusals.try_acquire().filter(|_| !tls) else { return };
    let clock = service.sys.clock.clone();
    let linger = service.deadlines.linger;
    let farewell = async move {
        let mut wire = Wire::new(Transport::Plain(stream), clock, linger);
        let _ = clock::within(linger, last_words(&mut wire, OVERLOAD)).await;
        drop(permit);
    };
    service.sys.spawner.spawn(farewell).detach();
}

/// Writes a prepared answer, closes our side, and waits for the client to close its own.
async fn last_words(wire: &mut Wire, text: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < text.len() {
        written += poll_fn(|cx| wire.poll_write_timed(cx, &text[written..])).await?;
    }
    poll_fn(|cx| wire.poll_close(cx)).await?;
    for _ in 0..TURNED_AWAY_READS_MAX {
        if poll_fn(|cx| wire.poll_fill(cx)).await? == 0 {
            break;
        }
        let count = wire.received().len();
        wire.consume(count);
    }
    Ok(())
}

/// Writes a prepared answer to a stream that is then dropped, without waiting. What has come is
/// read, as closing a socket with unread bytes may destroy the answer.
pub(in crate::http) async fn write_once(stream: &mut Stream, text: &[u8]) {
    let mut unread = [0; 1024];
    let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut unread))).await;
    let _ = poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, text)).await;
    let _ = poll_fn(|cx| Pin::new(&mut *stream).poll_close(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prepared_refusal_has_the_length_it_says() {
        let text = std::str::from_utf8(OVERLOAD).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }

    #[test]
    fn permits_are_bounded_and_come_back() {
        let permits = Permits::new(2);
        let first = permits.try_acquire().unwrap();
        let _second = permits.clone().try_acquire().unwrap();
        assert!(permits.try_acquire().is_none());
        drop(first);
        assert_eq!(permits.in_use(), 1);
        assert!(permits.try_acquire().is_some());
    }
}

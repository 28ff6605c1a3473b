//! Listeners: accept, admit, serve, and stop without breaking what is under way.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use event_listener::Event;
use smol::future::FutureExt;

use super::Handler;
use super::conn::{self, Deadlines, Service, Transport};
use super::tls::TlsAcceptor;
use crate::sys::Sys;
use crate::sys::clock::{sleep, within};
use crate::sys::net::{Listener, Stream};

/// How long accepting pauses when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells listeners and connections to stop; a clone is the same switch.
#[derive(Clone, Default)]
pub struct Shutdown {
    inner: Arc<Switch>,
}

#[derive(Default)]
struct Switch {
    stopping: AtomicBool,
    event: Event,
}

impl Shutdown {
    /// Stops everything that watches this switch.
    pub fn stop(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.inner.event.notify(usize::MAX);
    }

    /// Whether [`Shutdown::stop`] was called.
    pub fn stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::SeqCst)
    }

    /// Waits for [`Shutdown::stop`].
    pub async fn wait(&self) {
        while !self.stopping() {
            let stopped = self.inner.event.listen();
            if self.stopping() {
                return;
            }
            stopped.await;
        }
    }
}

/// Permits for connections, shared by all listeners of a node.
#[derive(Clone)]
pub struct Permits {
    inner: Arc<Count>,
}

struct Count {
    used: AtomicUsize,
    max: usize,
    freed: Event,
}

/// One connection's permit; given back when dropped.
struct Permit(Arc<Count>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::SeqCst);
        self.0.freed.notify(usize::MAX);
    }
}

impl Permits {
    /// This many connections at once.
    pub fn new(max: usize) -> Permits {
        Permits { inner: Arc::new(Count { used: AtomicUsize::new(0), max, freed: Event::new() }) }
    }

    /// Connections served now.
    pub fn used(&self) -> usize {
        self.inner.used.load(Ordering::SeqCst)
    }

    fn take(&self) -> Option<Permit> {
        let free = |used| (used < self.inner.max).then_some(used + 1);
        let taken = self.inner.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free);
        taken.is_ok().then(|| Permit(self.inner.clone()))
    }

    /// Waits until no connection is served, at most `limit`; whether there is none.
    pub async fn drained(&self, limit: Duration) -> bool {
        let empty = async {
            loop {
                let freed = self.inner.freed.listen();
                if self.used() == 0 {
                    return;
                }
                freed.await;
            }
        };
        within(limit, empty).await.is_ok()
    }
}

/// What a listener serves.
#[derive(Clone)]
pub struct Server {
    /// The seams.
    pub sys: Sys,
    /// Answers every request.
    pub handler: Arc<dyn Handler>,
    /// Shared by all listeners.
    pub permits: Permits,
    /// Shared by all listeners.
    pub shutdown: Shutdown,
    /// How long peers may take.
    pub deadlines: Deadlines,
}

impl Server {
    /// Accepts connections until the switch is thrown. Connections under way go on.
    pub async fn run(self, listener: Listener, tls: Option<TlsAcceptor>) {
        loop {
            let accepted = async { Some(listener.accept().await) };
            let stopped = async {
                self.shutdown.wait().await;
                None
            };
            let (stream, peer) = match stopped.or(accepted).await {
                None => return,
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    log::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(permit) = self.permits.take() else {
                let deadlines = self.deadlines;
                self.sys.spawner.spawn(conn::turn_away(stream, deadlines)).detach();
                continue;
            };
            let service = Service {
                sys: self.sys.clone(),
                handler: self.handler.clone(),
                deadlines: self.deadlines,
                shutdown: self.shutdown.clone(),
            };
            let tls = tls.clone();
            let serve = async move {
                match handshake(stream, tls, service.deadlines).await {
                    Ok(transport) => conn::serve(service, transport, peer).await,
                    Err(error) => log::debug!("TLS handshake with {peer:?} failed: {error}"),
                }
                drop(permit);
            };
            self.sys.spawner.spawn(serve).detach();
        }
    }
}

async fn handshake(
    stream: Stream,
    tls: Option<TlsAcceptor>,
    deadlines: Deadlines,
) -> io::Result<Transport> {
    let Some(tls) = tls else {
        return Ok(Transport::Plain(stream));
    };
    let accepted = within(deadlines.head, tls.accept(stream)).await;
    let stream = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok(Transport::Tls(Box::new(stream)))
}

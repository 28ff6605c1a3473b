//! What every connection of a server shares: who answers, how many there may be, how long things
//! may take, and when to stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use event_listener::{Event, listener};

use super::admission::Admission;
use crate::http::message::budget::Budget;
use crate::http::message::reply::Reply;
use crate::http::message::request::Request;
use crate::sys::Sys;
use crate::types::limits::{
    DRAIN_DEADLINE, HEAD_DEADLINE, IDLE_DEADLINE, LINGER_DEADLINE, LINGER_PAUSE, PROGRESS_DEADLINE,
};

/// How long requests in flight may take to finish once the server shuts down.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// What answers requests. It never fails: a fault is a reply too.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The body may be left unread; the connection loop deals with the rest.
    fn handle<'a>(
        &'a self,
        request: &'a mut Request,
    ) -> Pin<Box<dyn Future<Output = Reply> + Send + 'a>>;
}

/// How long a connection may take for what. Tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A request head, and a TLS handshake.
    pub head: Duration,
    /// The wait for the next request.
    pub idle: Duration,
    /// Any progress of a body, in either direction.
    pub progress: Duration,
    /// The rest of an unread body, before the connection is used again or closed.
    pub drain: Duration,
    /// What a client still sends after its answer, on a connection that we close.
    pub linger: Duration,
    /// The same, between two of its bytes.
    pub linger_pause: Duration,
    /// Requests in flight when the server shuts down.
    pub stop: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            head: HEAD_DEADLINE,
            idle: IDLE_DEADLINE,
            progress: PROGRESS_DEADLINE,
            drain: DRAIN_DEADLINE,
            linger: LINGER_DEADLINE,
            linger_pause: LINGER_PAUSE,
            stop: STOP_DEADLINE,
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
    /// How many connections there may be, and which.
    pub admission: Admission,
    /// When to stop.
    pub shutdown: Shutdown,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// What all bodies together may take of memory.
    pub memory: Budget,
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

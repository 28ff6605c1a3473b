//! Connections of a client that wait for their next request.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use crate::http::wire::transport::Wire;
use crate::sys::Clock;

/// Idle connections to one peer. Over it: closed.
const IDLE_PER_PEER_MAX: usize = 8;
/// Idle connections in all. Over it: closed.
const IDLE_MAX: usize = 32;
/// An idle connection is not used after this time: shorter than servers keep theirs.
const IDLE_EXPIRY: Duration = Duration::from_secs(45);
/// A request that may not be sent twice takes only a connection that was just used.
pub(super) const FRESH: Duration = Duration::from_secs(3);

/// The idle connections of a client, by peer; a clone shares them.
#[derive(Clone)]
pub(super) struct Pool {
    idle: Arc<Mutex<BTreeMap<String, Vec<Idle>>>>,
    clock: Arc<dyn Clock>,
}

struct Idle {
    wire: Wire,
    since: Duration,
}

impl Pool {
    /// Empty.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Pool {
        Pool { idle: Arc::default(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to `peer` that was used last, at most `age` ago, and is still open.
    pub(super) async fn take(&self, peer: &str, age: Duration) -> Option<Wire> {
        loop {
            let now = self.clock.monotonic();
            let mut idle = {
                let mut all = self.lock();
                expire(&mut all, now);
                all.get_mut(peer)?.pop()?
            };
            if now.saturating_sub(idle.since) > age {
                return None;
            }
            // Bytes or an end where nothing was asked for: the peer gave it up.
            let quiet = poll_fn(|cx| Poll::Ready(idle.wire.poll_fill(cx).is_pending())).await;
            if quiet {
                return Some(idle.wire);
            }
        }
    }

    /// Keeps a connection that stands between two messages.
    pub(super) fn put(&self, peer: &str, mut wire: Wire) {
        wire.rest();
        let now = self.clock.monotonic();
        let mut all = self.lock();
        expire(&mut all, now);
        if all.values().map(Vec::len).sum::<usize>() >= IDLE_MAX {
            return;
        }
        let idle = all.entry(peer.to_owned()).or_default();
        if idle.len() < IDLE_PER_PEER_MAX {
            idle.push(Idle { wire, since: now });
        }
    }
}

fn expire(all: &mut BTreeMap<String, Vec<Idle>>, now: Duration) {
    all.retain(|_, idle| {
        idle.retain(|idle| now.saturating_sub(idle.since) < IDLE_EXPIRY);
        !idle.is_empty()
    });
}

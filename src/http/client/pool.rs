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

    /// The connection to `peer` that was used last, at most `age` ago, and is still open. Older
    /// ones stay for requests that may be sent twice.
    pub(super) async fn take(&self, peer: &str, age: Duration) -> Option<Wire> {
        loop {
            let now = self.clock.monotonic();
            let mut idle = {
                let mut all = self.lock();
                expire(&mut all, now);
                let of_peer = all.get_mut(peer)?;
                of_peer.pop_if(|last| now.saturating_sub(last.since) <= age)?
            };
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::http::wire::transport::Transport;
    use crate::sys::net::{self, Listener};
    use crate::types::UnixSeconds;

    #[derive(Default)]
    struct Hands(AtomicU64);

    impl Clock for Hands {
        fn wall(&self) -> Option<UnixSeconds> {
            None
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn a_connection_that_is_too_old_for_one_request_stays_for_the_next() {
        smol::block_on(async {
            let clock = Arc::new(Hands::default());
            let pool = Pool::new(clock.clone());
            let listener = Listener::tcp("127.0.0.1:0").unwrap();
            let port = listener.local_address().unwrap().port();
            let limit = Duration::from_secs(20);
            let stream = net::dial("127.0.0.1", port, limit).await.unwrap();
            let _peer = listener.accept().await.unwrap();
            pool.put("peer", Wire::new(Transport::Plain(stream), clock.clone(), limit));
            clock.0.store(FRESH.as_secs() + 1, Ordering::Relaxed);
            assert!(pool.take("peer", FRESH).await.is_none(), "not for a POST");
            let wire = pool.take("peer", Duration::MAX).await.expect("for a GET");
            pool.put("peer", wire);
            assert!(pool.take("peer", FRESH).await.is_some(), "just used");
            assert!(pool.take("peer", Duration::MAX).await.is_none(), "taken");
        });
    }
}

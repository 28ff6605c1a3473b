//! A bounded number of anything, and the wait until none is out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use event_listener::{Event, listener};

/// A bounded number of connections, shared by its clones.
#[derive(Clone)]
pub(in crate::http) struct Permits {
    shared: Arc<Counted>,
}

struct Counted {
    max: usize,
    used: AtomicUsize,
    returned: Event,
}

/// The right to one connection, given back when dropped.
pub(in crate::http) struct Permit {
    shared: Arc<Counted>,
}

impl Permits {
    /// So many.
    pub(in crate::http) fn new(max: usize) -> Permits {
        let shared = Counted { max, used: AtomicUsize::new(0), returned: Event::new() };
        Permits { shared: Arc::new(shared) }
    }

    /// One of them, if any is left.
    pub(in crate::http) fn try_acquire(&self) -> Option<Permit> {
        let next = |used| (used < self.shared.max).then_some(used + 1);
        let used = &self.shared.used;
        used.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        Some(Permit { shared: self.shared.clone() })
    }

    /// How many are out.
    pub(in crate::http) fn in_use(&self) -> usize {
        self.shared.used.load(Ordering::Acquire)
    }

    /// Waits until all are back.
    pub(in crate::http) async fn all_returned(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;

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

//! The names of changes that are made here: which start made them, and a count in each repository.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::rows::outbox::incarnation;
use crate::types::RepositoryName;

/// Repositories whose changes are counted at once. Over it: all counts begin anew, under another
/// incarnation.
const COUNTED_MAX: usize = 4096;

/// Counts the changes since this node was started. That a disk was set back to an older copy is
/// never seen from here, but it takes a stop: no two changes ever have the same name.
pub(in crate::store) struct Counts {
    counts: Mutex<Counted>,
}

struct Counted {
    incarnation: u64,
    last: BTreeMap<RepositoryName, u64>,
}

impl Counts {
    /// `life`: random, and another one in a store that was made anew or restored; `start`: random,
    /// at each start.
    pub(in crate::store) fn new(life: u64, start: u64) -> Counts {
        let counted = Counted { incarnation: incarnation(life, start), last: BTreeMap::new() };
        Counts { counts: Mutex::new(counted) }
    }

    /// The incarnation and the number of one more change of a repository. When the change is not
    /// made after all, that number is never used.
    pub(in crate::store) fn next(&self, repository: &RepositoryName) -> (u64, u64) {
        let mut counted = self.locked();
        if counted.last.len() >= COUNTED_MAX && !counted.last.contains_key(repository) {
            let now = counted.incarnation;
            counted.begin(incarnation(now, now.wrapping_add(1)));
        }
        let incarnation = counted.incarnation;
        let last = counted.last.entry(repository.clone()).or_default();
        *last += 1;
        (incarnation, *last)
    }

    /// Begins anew, as a start does.
    #[cfg(test)]
    pub(in crate::store) fn begin(&self, start: u64) {
        let mut counted = self.locked();
        let now = counted.incarnation;
        counted.begin(incarnation(now, start));
    }

    fn locked(&self) -> MutexGuard<'_, Counted> {
        // A panic elsewhere leaves whole counts behind.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn begin(&mut self, incarnation: u64) {
        *self = Counted { incarnation, last: BTreeMap::new() };
    }
}

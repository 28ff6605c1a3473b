//! The names of changes that are made here: which start made them, and a count in each repository.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::types::RepositoryName;
use crate::types::delivery::NO_START;

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
    /// `incarnation`: random, at each start.
    pub(in crate::store) fn new(incarnation: u64) -> Counts {
        Counts { counts: Mutex::new(Counted::of(incarnation)) }
    }

    /// The incarnation and the number of one more change of a repository. When the change is not
    /// made after all, that number is never used.
    pub(in crate::store) fn next(&self, repository: &RepositoryName) -> (u64, u64) {
        let mut counted = self.locked();
        if counted.last.len() >= COUNTED_MAX && !counted.last.contains_key(repository) {
            let next = counted.incarnation.wrapping_add(1);
            counted.begin(next);
        }
        let incarnation = counted.incarnation;
        let last = counted.last.entry(repository.clone()).or_default();
        *last += 1;
        (incarnation, *last)
    }

    /// What tells the changes that are made now from those of other starts.
    pub(in crate::store) fn incarnation(&self) -> u64 {
        self.locked().incarnation
    }

    /// Begins anew, as a start does.
    #[cfg(test)]
    pub(in crate::store) fn begin(&self, incarnation: u64) {
        self.locked().begin(incarnation);
    }

    fn locked(&self) -> MutexGuard<'_, Counted> {
        // A panic elsewhere leaves whole counts behind.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn of(incarnation: u64) -> Counted {
        let incarnation = if incarnation == NO_START { 1 } else { incarnation };
        Counted { incarnation, last: BTreeMap::new() }
    }

    fn begin(&mut self, incarnation: u64) {
        *self = Counted::of(incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f130_f209_counts_begin_anew_with_the_first_repository_too_many() {
        assert_eq!(Counts::new(NO_START).incarnation(), 1);
        let counts = Counts::new(7);
        let next = |number: usize| counts.next(&format!("app{number}").parse().unwrap());
        for number in 0..COUNTED_MAX {
            assert_eq!(next(number), (7, 1));
        }
        assert_eq!(next(0), (7, 2), "one that is counted goes on");
        assert_eq!((next(COUNTED_MAX), counts.incarnation()), ((8, 1), 8));
        assert_eq!((next(0), next(0)), ((8, 1), (8, 2)));
    }
}

//! What collections of garbage have found unreferenced, and since when.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::types::Digest;

/// Unreferenced links, and files, that are remembered between runs. Over it: the rest waits for a
/// later run.
pub(super) const CANDIDATES_MAX: usize = 32_768;

/// What earlier runs found unreferenced, with the monotonic time when each was first found so.
#[derive(Default)]
pub(in crate::store) struct Candidates(Mutex<Option<Found>>);

#[derive(Default)]
pub(super) struct Found {
    pub(super) links: BTreeMap<Vec<u8>, Duration>,
    pub(super) files: BTreeMap<Digest, Duration>,
}

/// What one run works with; goes back when the run ends, however it ends.
pub(super) struct Taken<'a> {
    pub(super) found: Found,
    home: &'a Candidates,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let found = std::mem::take(&mut self.found);
        *self.home.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }
}

impl Candidates {
    /// `None` while another run has them.
    pub(super) fn take(&self) -> Option<Taken<'_>> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Taken { found, home: self })
    }

    /// Whether a run is under way.
    pub(in crate::store) fn is_taken(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// With nothing found.
    pub(in crate::store) fn new() -> Candidates {
        Candidates(Mutex::new(Some(Found::default())))
    }
}

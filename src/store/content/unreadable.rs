//! Content whose file cannot be opened or read though the disk works otherwise: its owner or mode
//! is wrong, or the file system is damaged there. It is not condemned, since its bytes may be good.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::{Shared, Store, StoreError};
use crate::types::UnixSeconds;

/// How long it is told after it was met last.
const TOLD_FOR: Duration = Duration::from_secs(3600);

/// What an operator does about it.
pub const UNREADABLE_REMEDY: &str =
    "give the file back to the user that runs skerry (chown, chmod u+rw), or check the disk";

/// What was met last, within [`TOLD_FOR`].
#[derive(Default)]
pub(in crate::store) struct Unreadable(Mutex<Option<Met>>);

struct Met {
    text: String,
    since: UnixSeconds,
    /// When it was met last, monotonic.
    at: Duration,
}

impl Shared {
    /// Remembers an error if it is one of a file of content.
    pub(in crate::store) fn note_unreadable(&self, error: &StoreError) {
        let StoreError::Unreadable(text) = error else { return };
        let at = self.sys.clock.monotonic();
        let mut met = self.unreadable.lately(at);
        let since = met.take().map_or(self.sys.clock.wall_or_floor(), |met| met.since);
        *met = Some(Met { text: text.clone(), since, at });
    }
}

impl Unreadable {
    /// All content was read.
    pub(in crate::store) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn lately(&self, now: Duration) -> MutexGuard<'_, Option<Met>> {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        met.take_if(|met| now.saturating_sub(met.at) >= TOLD_FOR);
        met
    }
}

impl Store {
    /// A file of content that could not be opened or read lately, if there is one, and since when
    /// there are such files.
    pub fn unreadable_content(&self) -> Option<(String, UnixSeconds)> {
        let met = self.shared().unreadable.lately(self.sys().clock.monotonic());
        met.as_ref().map(|met| (met.text.clone(), met.since))
    }
}

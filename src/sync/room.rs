//! Content that does not fit on the disk: it is set aside, everything else goes on, and it is tried
//! again as soon as there is space.

use std::time::Duration;

use super::state::SPACE;
use super::worker::Worker;
use crate::store::{Shortage, StoreError};
use crate::sys::spawn;

/// Free space is looked at this often while something does not fit.
pub(super) const LOOK: Duration = Duration::from_secs(15);

impl Worker {
    /// Lets what did not fit be tried again as soon as it does.
    pub(super) async fn look_for_room(&self) {
        if self.state.debts().without_room().is_empty() {
            return;
        }
        let store = self.store.clone();
        let room = spawn::blocking(move || store.room()).await;
        self.state.debts().look_for_room(room, self.store.sys().clock.monotonic());
    }

    /// Reports a full disk as long as something does not fit.
    pub(super) fn note_space(&self) {
        let (is_missing, bytes) = {
            let debts = self.state.debts();
            (!debts.without_room().is_empty(), debts.missing_bytes())
        };
        let shortage = self.store.shortage();
        let fits = |Shortage { free, reserve }| free >= reserve.saturating_add(bytes);
        if is_missing {
            match self.store.expect_rows() {
                Err(full) => self.state.disk_problem(&full, None),
                // There is room again, and the next look takes what is missing: until then the
                // cause stays as it was told.
                Ok(()) if shortage.is_some_and(fits) => {}
                Ok(()) => self.state.disk_problem(&StoreError::Full, shortage),
            }
        } else if self.state.contact().is_well() {
            self.state.solved(SPACE);
        }
    }
}

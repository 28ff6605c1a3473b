//! Content that does not fit on the disk: it is set aside, everything else goes on, and it is tried
//! again as soon as there is space.

use std::time::Duration;

use super::state::SPACE;
use super::worker::Worker;
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
        let is_missing = !self.state.debts().without_room().is_empty();
        if is_missing {
            self.state.disk_problem(&self.store.no_room(), self.store.shortage());
        } else if self.state.contact().is_well() {
            self.state.solved(SPACE);
        }
    }
}

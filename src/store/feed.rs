//! The journal as a change feed.

use std::time::Duration;

use super::index::Change;
use super::{Store, StoreError};
use crate::types::Cursor;

/// Some records of the journal.
pub struct Records {
    /// Position after the last one, or the head when there are none.
    pub through: Cursor,
    /// Each with its sequence and what it changed.
    pub records: Vec<(u64, Vec<Change>)>,
}

impl Store {
    /// The position after the last durable record.
    pub fn head(&self) -> Cursor {
        todo!()
    }

    /// Records after `cursor`, in order, about `bytes_max` of them. `NotFound` when the epoch is
    /// another, or the position is too old or lies beyond the head: the follower must reconcile.
    pub async fn records_after(
        &self,
        _cursor: Cursor,
        _bytes_max: usize,
    ) -> Result<Records, StoreError> {
        todo!()
    }

    /// Waits until there is a record after `sequence`, at most `wait`.
    pub async fn wait_after(&self, _sequence: u64, _wait: Duration) {
        todo!()
    }
}

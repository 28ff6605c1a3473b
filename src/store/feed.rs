//! The journal as a change feed.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::index::Change;
use super::journal::SegmentReader;
use super::{Inner, Store, StoreError};
use crate::sys::clock::within;
use crate::sys::spawn::blocking;
use crate::types::Cursor;

/// Recent records kept in memory for followers, bytes. Older ones are read from the journal.
const RING_BYTES_MAX: usize = 1024 * 1024;

/// Some records of the journal.
pub struct Records {
    /// Position after the last one, or the head when there are none.
    pub through: Cursor,
    /// Each with its sequence and what it changed.
    pub records: Vec<(u64, Vec<Change>)>,
}

/// The last records.
#[derive(Default)]
pub(super) struct Ring {
    records: VecDeque<(u64, Vec<Change>)>,
    bytes: usize,
}

fn size(changes: &[Change]) -> usize {
    changes.iter().map(|(key, row)| 64 + key.len() + row.as_ref().map_or(0, Vec::len)).sum()
}

impl Ring {
    pub(super) fn push(&mut self, sequence: u64, changes: Vec<Change>) {
        self.bytes += size(&changes);
        self.records.push_back((sequence, changes));
        while self.bytes > RING_BYTES_MAX
            && let Some((_, old)) = self.records.pop_front()
        {
            self.bytes -= size(&old);
        }
    }

    /// Records after `sequence`; `None` when the next one is no longer here.
    fn after(&self, sequence: u64, bytes_max: usize) -> Option<Vec<(u64, Vec<Change>)>> {
        let first = self.records.front()?.0;
        let skip = usize::try_from((sequence + 1).checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let fits = |(_, changes): &&(u64, Vec<Change>)| {
            let before = bytes;
            bytes += size(changes);
            before < bytes_max
        };
        Some(self.records.iter().skip(skip).take_while(fits).cloned().collect())
    }
}

impl Store {
    /// The position after the last durable record.
    pub fn head(&self) -> Cursor {
        Cursor { epoch: self.inner.epoch, sequence: self.sequence() }
    }

    /// Records after `cursor`, in order, about `bytes_max` of them. `NotFound` when the epoch is
    /// another, or the position is too old or lies beyond the head: the follower must reconcile.
    pub async fn records_after(
        &self,
        cursor: Cursor,
        bytes_max: usize,
    ) -> Result<Records, StoreError> {
        let head = self.head();
        if cursor.epoch != head.epoch || cursor.sequence > head.sequence {
            return Err(StoreError::NotFound);
        }
        if cursor.sequence == head.sequence {
            return Ok(Records { through: head, records: Vec::new() });
        }
        let recent = {
            let ring = self.inner.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.after(cursor.sequence, bytes_max)
        };
        let records = match recent {
            Some(records) => records,
            None => {
                let inner = self.inner.clone();
                blocking(move || inner.read_back(cursor.sequence, head.sequence, bytes_max)).await?
            }
        };
        let through = records.last().map_or(head.sequence, |(sequence, _)| *sequence);
        Ok(Records { through: Cursor { sequence: through, ..head }, records })
    }

    /// Ends every [`Store::wait_after`], now and later: the node is about to stop.
    pub fn stop_waiting(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.grown.notify(usize::MAX);
    }

    /// Whether [`Store::stop_waiting`] was called.
    pub fn stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::Acquire)
    }

    /// Waits until there is a record after `sequence`, at most `wait`.
    pub async fn wait_after(&self, sequence: u64, wait: Duration) {
        let grown = async {
            while self.sequence() <= sequence && !self.stopping() {
                let grown = self.inner.grown.listen();
                if self.sequence() > sequence || self.stopping() {
                    return;
                }
                grown.await;
            }
        };
        let _ = within(wait, grown).await;
    }
}

impl Inner {
    /// Reads records after `after` up to `through` from the segments.
    fn read_back(
        &self,
        after: u64,
        through: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Vec<Change>)>, StoreError> {
        let firsts = self.segments.list();
        let from = firsts.iter().rposition(|first| *first <= after + 1);
        let from = from.ok_or(StoreError::NotFound)?;
        let mut records = Vec::new();
        let mut bytes = 0;
        for first in &firsts[from..] {
            let Ok(mut segment) = SegmentReader::open(&*self.disk, &self.layout, *first) else {
                // Removed meanwhile, or damaged: either way the follower reconciles.
                return Err(StoreError::NotFound);
            };
            while segment.end().sequence < through && bytes < bytes_max {
                match segment.next_record() {
                    Ok(Some(record)) if record.sequence > after => {
                        bytes += size(&record.changes);
                        records.push((record.sequence, record.changes));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Err(StoreError::NotFound),
                }
            }
        }
        match records.first() {
            Some((first, _)) if *first == after + 1 => Ok(records),
            _ => Err(StoreError::NotFound),
        }
    }
}

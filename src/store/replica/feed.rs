//! The journal as a change feed. The newest records are kept in memory, since nearly every
//! follower asks for those; older ones are read from the segments.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use event_listener::Event;

use crate::store::index::Change;
use crate::store::journal::frame::FrameFault;
use crate::store::journal::segment::SegmentReader;
use crate::store::rows::node::is_about_access;
use crate::store::rows::{CONTENT, MANAGEMENT, is_of};
use crate::store::{Shared, Store, StoreError};
use crate::sys::{clock, spawn};
use crate::types::Cursor;

/// How long a durable record may take to be applied to the index: while that is built again, it is
/// waited for no longer.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// Records kept in memory, bytes.
const RING_BYTES_MAX: usize = 512 * 1024;
/// What one record costs beyond its rows, bytes.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// Some records of the journal.
pub struct Records {
    /// Position after the last one, or the head when there are none.
    pub through: Cursor,
    /// Each with its sequence and what it changed.
    pub records: Vec<(u64, Vec<Change>)>,
}

/// The end of the feed.
pub(in crate::store) struct Feed {
    epoch: u64,
    published: AtomicU64,
    reached: AtomicU64,
    /// The last of them that changed who may do what.
    access: AtomicU64,
    /// The last of them that children may be told something of.
    told: AtomicU64,
    changed: Event,
    /// There is something for children.
    news: Event,
    /// The node is about to stop: nobody waits any more.
    stopping: AtomicBool,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    records: VecDeque<(u64, Vec<Change>)>,
    bytes: usize,
}

fn size(changes: &[Change]) -> usize {
    let row = |(key, row): &Change| 48 + key.len() + row.as_ref().map_or(0, Vec::len);
    RECORD_OVERHEAD_BYTES + changes.iter().map(row).sum::<usize>()
}

impl Feed {
    /// A feed that stands at `published`.
    pub(in crate::store) fn new(epoch: u64, published: u64) -> Feed {
        Feed {
            epoch,
            published: AtomicU64::new(published),
            reached: AtomicU64::new(published),
            access: AtomicU64::new(published),
            told: AtomicU64::new(published),
            changed: Event::new(),
            news: Event::new(),
            stopping: AtomicBool::new(false),
            ring: Mutex::default(),
        }
    }

    /// Random; another one when the positions of this store may have been given out before.
    pub(in crate::store) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last sequence that is durable and applied.
    pub(in crate::store) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// The last sequence that is durable: no row that is read is later.
    pub(in crate::store) fn reached(&self) -> u64 {
        self.reached.load(Ordering::Acquire)
    }

    /// The last published sequence whose record changed who may do what.
    pub(in crate::store) fn access(&self) -> u64 {
        self.access.load(Ordering::Acquire)
    }

    /// Notes durable records, before they are applied.
    pub(in crate::store) fn reach(&self, sequence: u64) {
        self.reached.store(sequence, Ordering::Release);
    }

    /// Shows durable, applied records to readers and followers.
    pub(in crate::store) fn publish(&self, records: Vec<(u64, Vec<Change>)>) {
        let Some(last) = records.last().map(|(sequence, _)| *sequence) else {
            return;
        };
        if records.iter().flat_map(|(_, changes)| changes).any(|(key, _)| is_about_access(key)) {
            self.access.store(last, Ordering::Release);
        }
        let for_children = |key: &[u8]| is_of(&CONTENT, key) || is_of(&MANAGEMENT, key);
        let news =
            records.iter().flat_map(|(_, changes)| changes).any(|(key, _)| for_children(key));
        if let Ok(mut ring) = self.ring.lock() {
            for (sequence, changes) in records {
                ring.bytes += size(&changes);
                ring.records.push_back((sequence, changes));
            }
            while ring.bytes > RING_BYTES_MAX {
                let Some((_, changes)) = ring.records.pop_front() else {
                    break;
                };
                ring.bytes -= size(&changes);
            }
        }
        self.published.store(last, Ordering::Release);
        self.changed.notify(usize::MAX);
        if news {
            self.told.store(last, Ordering::Release);
            self.news.notify(usize::MAX);
        }
    }

    /// Records after `sequence` from memory; `None` when they are not all there.
    fn recent(&self, sequence: u64, bytes_max: usize) -> Option<Vec<(u64, Vec<Change>)>> {
        let ring = self.ring.lock().ok()?;
        let oldest = ring.records.front().map(|(first, _)| *first)?;
        let skip = usize::try_from((sequence + 1).checked_sub(oldest)?).ok()?;
        let mut bytes = 0;
        let mut records = Vec::new();
        for (number, changes) in ring.records.iter().skip(skip) {
            if bytes >= bytes_max {
                break;
            }
            bytes += size(changes);
            records.push((*number, changes.clone()));
        }
        Some(records)
    }
}

impl Store {
    /// The position after the last durable record.
    pub fn head(&self) -> Cursor {
        let feed = &self.shared().feed;
        Cursor { epoch: feed.epoch, sequence: feed.published() }
    }

    /// Records after `cursor`, in order, about `bytes_max` bytes of them and at least one.
    /// `NotFound` when the epoch is another, or the position is too old or lies beyond the head:
    /// the follower must reconcile.
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
        let bytes_max = bytes_max.max(1);
        let records = match self.shared().feed.recent(cursor.sequence, bytes_max) {
            Some(records) => records,
            None => {
                let shared = self.shared().clone();
                let read =
                    move || from_segments(&shared, cursor.sequence, head.sequence, bytes_max);
                spawn::blocking(read).await?
            }
        };
        let last = records.last().map_or(head.sequence, |(sequence, _)| *sequence);
        Ok(Records { through: Cursor { sequence: last, ..head }, records })
    }

    /// Ends every [`Store::wait_after`] and [`Store::news_after`], now and later: the node is about
    /// to stop.
    pub fn stop_waiting(&self) {
        let feed = &self.shared().feed;
        feed.stopping.store(true, Ordering::Release);
        feed.changed.notify(usize::MAX);
        feed.news.notify(usize::MAX);
    }

    /// Whether [`Store::stop_waiting`] was called.
    pub fn stopping(&self) -> bool {
        self.shared().feed.stopping.load(Ordering::Acquire)
    }

    /// Waits until there is a record after `sequence`, at most `wait`. `false`: the node is about
    /// to stop, and nobody should wait again.
    pub async fn wait_after(&self, sequence: u64, wait: Duration) -> bool {
        let feed = &self.shared().feed;
        self.wait_for(&feed.changed, &feed.published, sequence, wait).await
    }

    /// The same, until there is one that children may be told something of: very many may wait for
    /// it, and a push is more records than one.
    pub async fn news_after(&self, sequence: u64, wait: Duration) -> bool {
        let feed = &self.shared().feed;
        self.wait_for(&feed.news, &feed.told, sequence, wait).await
    }

    async fn wait_for(
        &self,
        event: &Event,
        last: &AtomicU64,
        sequence: u64,
        wait: Duration,
    ) -> bool {
        let is_over = || last.load(Ordering::Acquire) > sequence || self.stopping();
        let grown = async {
            while !is_over() {
                let listener = event.listen();
                if is_over() {
                    break;
                }
                listener.await;
            }
        };
        let _ = clock::within(wait, grown).await;
        !self.stopping()
    }

    /// Waits until the record of this sequence, which is durable, is shown; not for long.
    pub async fn shown(&self, sequence: u64) {
        if let Some(before) = sequence.checked_sub(1) {
            self.wait_after(before, SHOWN_WITHIN).await;
        }
    }

    /// Whether segments are kept for children that follow the feed.
    pub fn retain_for_children(&self, retain: bool) {
        self.shared().retain.store(retain, Ordering::Relaxed);
    }
}

/// Records with their numbers.
type Read = Vec<(u64, Vec<Change>)>;

/// Records after `after` up to `through` from disk, about `bytes_max` bytes of them, or as many as
/// are there. `NotFound` when the first of them is not.
pub(in crate::store) fn from_segments(
    shared: &Shared,
    after: u64,
    through: u64,
    bytes_max: usize,
) -> Result<Read, StoreError> {
    let firsts = shared.segments.list();
    let start = firsts.partition_point(|first| *first <= after + 1);
    let mut records = Vec::new();
    let (mut bytes, mut next) = (0, after + 1);
    for first in firsts.iter().skip(start.saturating_sub(1)) {
        let mut segment = match SegmentReader::open(&*shared.disk, &shared.layout, *first) {
            Ok(segment) => segment,
            Err(fault) => return those_before(records, fault),
        };
        while next <= through && bytes < bytes_max {
            let record = match segment.next_record() {
                Ok(Some(record)) if record.sequence <= next => record,
                Ok(Some(_)) => return not_none(records),
                Ok(None) => break,
                Err(fault) => return those_before(records, fault),
            };
            if record.sequence == next {
                bytes += size(&record.changes);
                records.push((record.sequence, record.changes));
                next += 1;
            }
        }
        if next > through || bytes >= bytes_max {
            break;
        }
    }
    not_none(records)
}

/// A segment that is gone or damaged is too old: whoever follows has what stands before it, and
/// compares then.
fn those_before(records: Read, fault: FrameFault) -> Result<Read, StoreError> {
    match fault {
        FrameFault::Io(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        FrameFault::Io(_) | FrameFault::Lost(_) | FrameFault::Bad(_) => not_none(records),
    }
}

fn not_none(records: Read) -> Result<Read, StoreError> {
    if records.is_empty() { Err(StoreError::NotFound) } else { Ok(records) }
}

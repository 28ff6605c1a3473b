//! The index: every look-up is answered from here, and nothing acknowledged depends on it.

pub mod sled;

pub(super) mod sums;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::store::StoreError;
use crate::sys::turn;

/// A row's key and its new content, `None` when it is removed.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key and its row.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// What [`Index::head`] reads of a row, bytes.
pub(in crate::store) const HEAD_LEN: usize = 1024;

/// An ordered map from keys to rows that remembers the last journal sequence applied to it.
pub trait Index: Send + Sync {
    /// Looks one key up. It counts as a row read, see [`turn`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.get_uncounted(key)?;
        turn::note(1, key.len() + row.as_ref().map_or(0, Vec::len));
        Ok(row)
    }

    /// The first [`HEAD_LEN`] bytes of a row, however long it is. It counts as a row read.
    fn head(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.head_uncounted(key)?;
        turn::note(1, key.len() + row.as_ref().map_or(0, Vec::len));
        Ok(row)
    }

    /// Up to `limit` rows whose keys start with `prefix` and are greater than `after`, in order.
    /// Each counts as read.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        self.page(prefix, after, limit, usize::MAX)
    }

    /// The same, with no further row when they have `bytes`.
    fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        let rows = self.page_uncounted(prefix, after, limit, bytes)?;
        // One that finds nothing is work too.
        turn::note(rows.len().max(1), rows.iter().map(len).sum());
        Ok(rows)
    }

    /// What [`Index::get`] does, not counted.
    fn get_uncounted(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// What [`Index::head`] does, not counted.
    fn head_uncounted(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// What [`Index::page`] does, not counted.
    fn page_uncounted(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<KeyValue>, StoreError>;
    /// Applies the changes of all records up to `sequence`, all or nothing. With sequence 0 the
    /// index stays marked as incomplete: it is being filled.
    fn apply(&self, sequence: u64, changes: &[Change]) -> Result<(), StoreError>;
    /// The last sequence applied.
    fn applied(&self) -> u64;
    /// How many rows it keeps track of in memory.
    fn rows(&self) -> u64;
    /// How many rows there are and what they add up to, where that is kept beside them.
    fn totals(&self) -> Option<(u64, u64)> {
        None
    }
    /// Writes out what is cached, so that the next start has less to do.
    fn flush(&self) -> Result<(), StoreError>;
    /// Whether it has failed and must be built again.
    fn failed(&self) -> bool;
}

/// Why an index on disk cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IndexFault {
    /// There is none, or it is not whole.
    Damaged(String),
    /// It may be whole, and the disk has no space for its work.
    Full(String),
    /// It may be whole, and this process may not read or write it, or has no file handles for it.
    Denied(String),
}

impl IndexFault {
    /// Whether it may be used once somebody has seen to the cause.
    pub fn may_be_whole(&self) -> bool {
        !matches!(self, IndexFault::Damaged(_))
    }
}

impl fmt::Display for IndexFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (IndexFault::Damaged(text) | IndexFault::Full(text) | IndexFault::Denied(text)) = self;
        f.write_str(text)
    }
}

/// What answers look-ups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IndexKind {
    /// sled, on the real file system.
    Sled {
        /// Its page cache, bytes.
        cache: u64,
    },
    /// A map in memory, for simulated disks.
    Map,
}

/// The hash of a row that indexes and checkpoints sum up: FNV-1a over the key's length, the key
/// and the row, then mixed. Part of the on-disk format.
pub fn row_hash(key: &[u8], row: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let len = (key.len() as u64).to_le_bytes();
    for byte in len.iter().chain(key).chain(row) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// An index in memory: for simulations, and where the one on disk cannot be built.
#[derive(Default)]
pub struct MapIndex(RwLock<Rows>);

/// The last sequence applied, and all rows.
type Rows = (u64, BTreeMap<Vec<u8>, Vec<u8>>);

impl Index for MapIndex {
    fn get_uncounted(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let map = self.0.read().map_err(|_| StoreError::Unavailable)?;
        Ok(map.1.get(key).cloned())
    }

    fn head_uncounted(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let map = self.0.read().map_err(|_| StoreError::Unavailable)?;
        Ok(map.1.get(key).map(|row| head_of(row)))
    }

    fn page_uncounted(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        let map = self.0.read().map_err(|_| StoreError::Unavailable)?;
        let rows = map.1.range::<[u8], _>((lower_bound(prefix, after), Bound::Unbounded));
        let rows = rows.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        let (mut page, mut read) = (Vec::new(), 0);
        for (key, row) in rows {
            page.push((key.clone(), row.clone()));
            read += key.len() + row.len();
            if read >= bytes {
                break;
            }
        }
        Ok(page)
    }

    fn apply(&self, sequence: u64, changes: &[Change]) -> Result<(), StoreError> {
        let mut map = self.0.write().map_err(|_| StoreError::Unavailable)?;
        for (key, row) in changes {
            match row {
                Some(row) => map.1.insert(key.clone(), row.clone()),
                None => map.1.remove(key),
            };
        }
        map.0 = sequence;
        Ok(())
    }

    fn applied(&self) -> u64 {
        self.0.read().map(|map| map.0).unwrap_or(0)
    }

    fn rows(&self) -> u64 {
        self.0.read().map_or(0, |map| map.1.len() as u64)
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn failed(&self) -> bool {
        false
    }
}

/// `IndexFull` when an index has no room for content that needs rows of its own.
pub(in crate::store) fn expect_rows(index: &dyn Index, rows_max: u64) -> Result<(), StoreError> {
    if index.rows() < rows_max { Ok(()) } else { Err(StoreError::IndexFull) }
}

/// What [`Index::head`] reads of this row.
pub(in crate::store) fn head_of(row: &[u8]) -> Vec<u8> {
    row[..row.len().min(HEAD_LEN)].to_vec()
}

/// Bytes of a row and its key.
fn len((key, row): &KeyValue) -> usize {
    key.len() + row.len()
}

/// Where a scan of `prefix` after `after` starts.
pub(in crate::store) fn lower_bound<'a>(
    prefix: &'a [u8],
    after: Option<&'a [u8]>,
) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// How much of an index is built.
#[derive(Default)]
pub struct Built {
    done: AtomicU64,
    total: AtomicU64,
}

impl Built {
    /// Begins, with so many bytes of checkpoint and journal to be read.
    pub(in crate::store) fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// So many more bytes are in the index.
    pub(in crate::store) fn add(&self, bytes: usize) {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Percent of it, 99 at most: it is not done before it answers.
    fn percent(&self) -> u8 {
        let total = self.total.load(Ordering::Relaxed).max(1);
        let done = self.done.load(Ordering::Relaxed).min(total);
        u8::try_from(done.saturating_mul(100) / total).unwrap_or(99).min(99)
    }
}

/// No index: it failed and is being built again, or the store is closed.
#[derive(Default)]
pub struct NoIndex {
    /// How much of the next one is built.
    pub built: Option<Arc<Built>>,
}

impl NoIndex {
    fn error<T>(&self) -> Result<T, StoreError> {
        Err(self
            .built
            .as_ref()
            .map_or(StoreError::Unavailable, |built| StoreError::Rebuilding(built.percent())))
    }
}

impl Index for NoIndex {
    fn get_uncounted(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.error()
    }

    fn head_uncounted(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.error()
    }

    fn page_uncounted(
        &self,
        _prefix: &[u8],
        _after: Option<&[u8]>,
        _limit: usize,
        _bytes: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        self.error()
    }

    fn apply(&self, _sequence: u64, _changes: &[Change]) -> Result<(), StoreError> {
        self.error()
    }

    fn applied(&self) -> u64 {
        0
    }

    fn rows(&self) -> u64 {
        0
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.error()
    }

    fn failed(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_it_is_built_hears_how_far_it_is() {
        let built = Arc::new(Built::default());
        let index = NoIndex { built: Some(built.clone()) };
        assert_eq!(index.get(b"a"), Err(StoreError::Rebuilding(0)));
        built.begin(1000);
        built.add(415);
        assert_eq!(index.get(b"a"), Err(StoreError::Rebuilding(41)));
        built.add(1000);
        assert_eq!(index.scan(b"", None, 1), Err(StoreError::Rebuilding(99)));
        assert_eq!(NoIndex::default().get(b"a"), Err(StoreError::Unavailable));
    }
}

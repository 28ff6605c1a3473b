//! The index: every look-up is answered from here, and nothing acknowledged depends on it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::RwLock;

use super::StoreError;

/// A row's key and its new content, `None` when it is removed.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key and its row.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// An ordered map from keys to rows that remembers the last journal sequence applied to it.
pub trait Index: Send + Sync {
    /// Looks one key up.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Up to `limit` rows whose keys start with `prefix` and are greater than `after`, in order.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<KeyValue>, StoreError>;
    /// Applies the changes of all records up to `sequence`, all or nothing. With sequence 0 the
    /// index stays marked as incomplete: it is being filled.
    fn apply(&self, sequence: u64, changes: &[Change]) -> Result<(), StoreError>;
    /// The last sequence applied.
    fn applied(&self) -> u64;
    /// Writes out what is cached, so that the next start has less to do.
    fn flush(&self) -> Result<(), StoreError>;
    /// Whether it has failed and must be built again.
    fn failed(&self) -> bool;
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
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let map = self.0.read().map_err(|_| StoreError::Unavailable)?;
        Ok(map.1.get(key).cloned())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        let map = self.0.read().map_err(|_| StoreError::Unavailable)?;
        let rows = map.1.range::<[u8], _>((lower_bound(prefix, after), Bound::Unbounded));
        let rows = rows.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(rows.map(|(key, row)| (key.clone(), row.clone())).collect())
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

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn failed(&self) -> bool {
        false
    }
}

/// Where a scan of `prefix` after `after` starts.
pub(super) fn lower_bound<'a>(prefix: &'a [u8], after: Option<&'a [u8]>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// No index: it failed and is being built again, or the store is closed.
pub struct NoIndex;

impl Index for NoIndex {
    fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Err(StoreError::Unavailable)
    }

    fn scan(
        &self,
        _prefix: &[u8],
        _after: Option<&[u8]>,
        _limit: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        Err(StoreError::Unavailable)
    }

    fn apply(&self, _sequence: u64, _changes: &[Change]) -> Result<(), StoreError> {
        Err(StoreError::Unavailable)
    }

    fn applied(&self) -> u64 {
        0
    }

    fn flush(&self) -> Result<(), StoreError> {
        Err(StoreError::Unavailable)
    }

    fn failed(&self) -> bool {
        true
    }
}

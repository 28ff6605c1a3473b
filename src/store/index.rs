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
    /// Applies the changes of all records up to `sequence`, all or nothing.
    fn apply(&self, sequence: u64, changes: &[Change]) -> Result<(), StoreError>;
    /// The last sequence applied.
    fn applied(&self) -> u64;
}

/// An index in memory: for simulations, and while sled is being rebuilt.
#[derive(Default)]
pub struct MapIndex(RwLock<(u64, BTreeMap<Vec<u8>, Vec<u8>>)>);

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
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let rows = map.1.range::<[u8], _>((from, Bound::Unbounded));
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
}

//! What a command sees and changes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::store::StoreError;
use crate::store::counts::Counts;
use crate::store::index::{Change, Index, KeyValue, lower_bound};
use crate::store::rows::derived::{self, Count};
use crate::store::rows::format::FORMAT;
use crate::store::rows::{self, Stored};

/// Rows of which the keys are wanted that are in memory at once.
const ROWS_AT_ONCE: usize = 64;

/// A view of the index under the changes that its group has already made, and a place for more.
pub struct Txn<'a> {
    index: &'a dyn Index,
    group: Option<&'a BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    own: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    life: u64,
    counts: Option<Arc<Counts>>,
    heard: u64,
    format: u32,
}

impl<'a> Txn<'a> {
    /// A view with no pending changes below it.
    pub fn new(index: &'a dyn Index) -> Txn<'a> {
        let (own, counts, format) = (BTreeMap::new(), None, FORMAT);
        Txn { index, group: None, own, life: 0, counts, heard: 0, format }
    }

    /// A view over the changes of the commands before it in the same group.
    pub fn over(index: &'a dyn Index, group: &'a BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Txn<'a> {
        Txn { group: Some(group), ..Txn::new(index) }
    }

    /// Says which life of the store this is, what its changes are counted with, and what was heard
    /// of the parent: see [`Txn::life`], [`Txn::counts`] and [`Txn::heard`].
    pub(in crate::store) fn live(&mut self, life: u64, counts: Arc<Counts>, heard: u64) {
        (self.life, self.counts, self.heard) = (life, Some(counts), heard);
    }

    /// Says which format of the store rows are written in; else the newest.
    pub(in crate::store) fn write_in(&mut self, format: u32) {
        self.format = format;
    }

    /// How far the parent's feed was, at most, when it gave the answers that this node has by now;
    /// 0: it does not tell.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// Whether the command has changed anything so far.
    pub fn has_changed(&self) -> bool {
        !self.own.is_empty()
    }

    /// Random, and another one in a store that was made anew or restored.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// What changes get their names from; `None` where none is made.
    pub(in crate::store) fn counts(&self) -> Option<&Counts> {
        self.counts.as_deref()
    }

    /// Reads one row.
    pub fn get<R: Stored>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.bytes(key)?.map(|bytes| rows::decode(&bytes)).transpose()
    }

    /// Whether there is a row.
    pub fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.bytes(key)?.is_some())
    }

    /// A row as it is stored.
    pub(in crate::store) fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let pending = self.own.get(key).or_else(|| self.group.and_then(|group| group.get(key)));
        match pending {
            Some(row) => Ok(row.clone()),
            None => self.index.get(key),
        }
    }

    /// Reads every row whose key starts with `prefix`, in key order.
    pub fn scan<R: Stored>(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        self.page(prefix, usize::MAX)
    }

    /// The first `limit` of them.
    pub fn page<R: Stored>(
        &self,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        self.page_after(prefix, None, limit)
    }

    /// The same of those whose keys are greater than `after`.
    pub fn page_after<R: Stored>(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        let rows = self.rows(prefix, after, limit)?.into_iter();
        rows.map(|(key, row)| Ok((key, rows::decode(&row)?))).collect()
    }

    /// The keys that start with `prefix`, in order; few of the rows are in memory at a time.
    pub fn keys(&self, prefix: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let page = self.rows(prefix, keys.last().map(Vec::as_slice), ROWS_AT_ONCE)?;
            if page.is_empty() {
                return Ok(keys);
            }
            keys.extend(page.into_iter().map(|(key, _)| key));
        }
    }

    fn rows(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        let mut pending: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for changes in self.group.into_iter().chain([&self.own]) {
            let from = changes.range::<[u8], _>((lower_bound(prefix, after), Bound::Unbounded));
            let under = from.take_while(|(key, _)| key.starts_with(prefix));
            pending.extend(under.map(|(key, change)| (key.as_slice(), change.as_deref())));
        }
        // Each of them may hide one of the index.
        let read = limit.saturating_add(pending.len());
        let stored: Vec<KeyValue> = self.index.scan(prefix, after, read)?;
        let mut rows: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
            stored.into_iter().map(|(key, row)| (key, Some(row))).collect();
        for (key, change) in pending {
            rows.insert(key.to_owned(), change.map(<[u8]>::to_owned));
        }
        let rows = rows.into_iter().filter_map(|(key, row)| row.map(|row| (key, row)));
        Ok(rows.take(limit).collect())
    }

    /// Writes a row.
    pub fn put<R: Stored>(&mut self, key: Vec<u8>, row: &R) -> Result<(), StoreError> {
        self.change(key, Some(row.encoded(self.format)?))
    }

    /// Changes a row, and with it those that follow from it.
    fn change(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) -> Result<(), StoreError> {
        if derived::may_count(&key) {
            let old = self.bytes(&key)?;
            for (derived, by) in derived::difference(&key, old.as_deref(), row.as_deref()) {
                let count = self.get::<Count>(&derived)?.map_or(0, |count| count.0);
                self.own.insert(derived, Count(count.saturating_add_signed(by)).row()?);
            }
        }
        self.own.insert(key, row);
        Ok(())
    }

    /// Writes a row unless it is there already as it should be: flash wears.
    pub fn put_changed<R: Stored + PartialEq>(
        &mut self,
        key: Vec<u8>,
        row: &R,
    ) -> Result<(), StoreError> {
        if self.get::<R>(&key)?.as_ref() == Some(row) {
            return Ok(());
        }
        self.put(key, row)
    }

    /// Removes a row, if it is there.
    pub fn delete(&mut self, key: Vec<u8>) -> Result<(), StoreError> {
        self.change(key, None)
    }

    /// Removes every row whose key starts with `prefix`.
    pub fn clear(&mut self, prefix: &[u8]) -> Result<(), StoreError> {
        let rows = self.rows(prefix, None, usize::MAX)?.into_iter();
        rows.map(|(key, _)| key).try_for_each(|key| self.delete(key))
    }

    /// What the command changed, in key order, and what follows from it.
    pub fn into_changes(self) -> (Vec<Change>, Vec<Change>) {
        self.own.into_iter().partition(|(key, _)| !derived::is_derived(key))
    }
}

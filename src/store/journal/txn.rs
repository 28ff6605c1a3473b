//! What a command sees and changes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::counts::Counts;
use crate::store::StoreError;
use crate::store::index::{Change, Index, KeyValue, expect_rows, head_of, lower_bound};
use crate::store::rows::derived::{self, Count};
use crate::store::rows::format::FORMAT;
use crate::store::rows::{self, Stored};

/// Rows of which the keys are wanted that are in memory at once.
const ROWS_AT_ONCE: usize = 64;

/// Of how many rows that the index may have one is for content alone.
const SPARE: u64 = 8;

/// A view of the index under the changes that its group has already made, and a place for more.
pub struct Txn<'a> {
    index: &'a dyn Index,
    group: Option<&'a BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    own: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    life: u64,
    counts: Option<Arc<Counts>>,
    heard: u64,
    rows_max: u64,
    format: u32,
}

impl<'a> Txn<'a> {
    /// A view with no pending changes below it.
    pub fn new(index: &'a dyn Index) -> Txn<'a> {
        let (own, counts, format) = (BTreeMap::new(), None, FORMAT);
        Txn { index, group: None, own, life: 0, counts, heard: 0, rows_max: u64::MAX, format }
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

    /// Says how many rows the index may have, see [`Txn::expect_rows`].
    pub(in crate::store) fn bound_rows(&mut self, rows_max: u64) {
        self.rows_max = rows_max;
    }

    /// `IndexFull` when content that needs rows of its own finds no room for them.
    pub(in crate::store) fn expect_rows(&self) -> Result<(), StoreError> {
        expect_rows(self.index, self.rows_max)
    }

    /// The same when less than one in [`SPARE`] of them is free: for rows that come with no
    /// content, so that whoever makes such without end leaves room for content.
    pub(in crate::store) fn expect_spare_rows(&self) -> Result<(), StoreError> {
        expect_rows(self.index, self.rows_max - self.rows_max / SPARE)
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
        match self.pending(key) {
            Some(row) => Ok(row.is_some()),
            None => self.has_durable(key),
        }
    }

    /// Whether there is a row whose key starts with `prefix`.
    pub(in crate::store) fn has_any(&self, prefix: &[u8]) -> Result<bool, StoreError> {
        Ok(!self.rows(prefix, None, 1)?.is_empty())
    }

    /// Whether there is a row that is durable, whatever this group of commands makes of it.
    pub(in crate::store) fn has_durable(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.index.head(key)?.is_some())
    }

    /// A row as it is stored.
    pub(in crate::store) fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.pending(key) {
            Some(row) => Ok(row.clone()),
            None => self.index.get(key),
        }
    }

    /// The first [`HEAD_LEN`] bytes of a row as it is stored.
    ///
    /// [`HEAD_LEN`]: crate::store::index::HEAD_LEN
    pub(in crate::store) fn head(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.pending(key) {
            Some(row) => Ok(row.as_deref().map(head_of)),
            None => self.index.head(key),
        }
    }

    /// What the changes that are not durable yet make of a row.
    fn pending(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.own.get(key).or_else(|| self.group.and_then(|group| group.get(key)))
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
        let (mut rows, mut after, mut read) = (Vec::new(), after.map(<[u8]>::to_vec), limit);
        loop {
            let (page, until) = self.merged(prefix, after.as_deref(), read)?;
            rows.extend(page);
            if until.is_none() || rows.len() >= limit {
                rows.truncate(limit);
                return Ok(rows);
            }
            // What was deleted hides rows of the index, maybe many.
            (after, read) = (until, read.max(ROWS_AT_ONCE));
        }
    }

    /// The rows up to a key, which is `None` when they are all; of the index and of the changes
    /// over it no more than `read` each are looked at.
    fn merged(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        read: usize,
    ) -> Result<(Vec<KeyValue>, Option<Vec<u8>>), StoreError> {
        let stored = self.index.scan(prefix, after, read)?;
        // Behind the last row that was looked at there may be more.
        let mut until = stored.last().filter(|_| stored.len() >= read).map(|(key, _)| key.clone());
        let mut rows: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
            stored.into_iter().map(|(key, row)| (key, Some(row))).collect();
        for changes in self.group.into_iter().chain([&self.own]) {
            let from = changes.range::<[u8], _>((lower_bound(prefix, after), Bound::Unbounded));
            let under = from.take_while(|(key, _)| key.starts_with(prefix));
            for (seen, (key, change)) in under.enumerate() {
                if until.as_ref().is_some_and(|until| key > until) {
                    break;
                }
                rows.insert(key.clone(), change.clone());
                if seen + 1 >= read {
                    until = Some(key.clone());
                    break;
                }
            }
        }
        if let Some(until) = &until {
            rows.retain(|key, _| key <= until);
        }
        let rows = rows.into_iter().filter_map(|(key, row)| row.map(|row| (key, row)));
        Ok((rows.collect(), until))
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

    /// Whether the rows are those that the record with this number left.
    pub(in crate::store) fn is_at(&self, sequence: u64) -> bool {
        let changed = self.group.is_some_and(|group| !group.is_empty()) || self.has_changed();
        !changed && self.index.applied() == sequence
    }

    /// Repairs a count of rows, which no change of theirs has made wrong.
    pub(in crate::store) fn set_count(
        &mut self,
        key: Vec<u8>,
        count: Count,
    ) -> Result<(), StoreError> {
        self.own.insert(key, count.row()?);
        Ok(())
    }

    /// Writes a row unless it is there already as it should be: flash wears. One that cannot be
    /// read is replaced.
    pub fn put_changed<R: Stored + PartialEq>(
        &mut self,
        key: Vec<u8>,
        row: &R,
    ) -> Result<(), StoreError> {
        match self.get::<R>(&key) {
            Ok(Some(there)) if there == *row => Ok(()),
            Ok(_) | Err(StoreError::Corrupt(_)) => self.put(key, row),
            Err(error) => Err(error),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::MapIndex;
    use crate::sys::turn;

    type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn row_key(number: u32) -> Vec<u8> {
        format!("row-{number:06}").into_bytes()
    }

    fn index(numbers: impl Iterator<Item = u32>) -> MapIndex {
        let index = MapIndex::default();
        let rows = numbers.map(|number| (row_key(number), Some(vec![1]))).collect::<Vec<_>>();
        index.apply(1, &rows).unwrap();
        index
    }

    /// The keys of 1,600 scope maps that were all changed took 25,699 rows.
    #[test]
    fn f212_keys_are_read_once_however_many_rows_the_command_has_changed() {
        for (row, left) in [(Some(vec![2]), 1600), (None, 0)] {
            let index = index(0..1600);
            let mut txn = Txn::new(&index);
            txn.own = (0..1600).map(|number| (row_key(number), row.clone())).collect();
            let (keys, work) = turn::apart(|| txn.keys(b"row-").unwrap());
            assert_eq!(keys.len(), left);
            assert!(work.rows < 1700, "{work:?}");
        }
        let index = index(0..0);
        let mut txn = Txn::new(&index);
        txn.own = (0..1600).map(|number| (row_key(number), Some(vec![2]))).collect();
        assert_eq!(txn.keys(b"row-").unwrap().len(), 1600);
    }

    #[test]
    fn f212_pages_are_those_of_the_rows_as_the_changes_leave_them() {
        let index = index((0..400).filter(|number| number % 2 == 0));
        let change =
            |number: u32, by: u8| (!number.is_multiple_of(u32::from(by))).then(|| vec![by]);
        let some = |by: u32| (0..400).filter(move |number| number % by < 2);
        let group: Changes = some(5).map(|number| (row_key(number), change(number, 10))).collect();
        let mut txn = Txn::over(&index, &group);
        // A long stretch is deleted, and another is new.
        txn.own = some(7).map(|number| (row_key(number), change(number, 3))).collect();
        txn.own.extend((100..190).map(|number| (row_key(number), None)));
        txn.own.extend((200..290).map(|number| (row_key(number), Some(vec![9]))));
        txn.own.insert(b"roz".to_vec(), Some(vec![9]));
        let there = |key: Vec<u8>| txn.bytes(&key).unwrap().map(|row| (key, row));
        let all: Vec<KeyValue> = (0..400).map(row_key).filter_map(there).collect();
        assert_eq!(txn.rows(b"row-", None, usize::MAX), Ok(all.clone()));
        assert_eq!(txn.keys(b"row-").unwrap().len(), all.len());
        for from in (0..400).step_by(9).map(row_key) {
            let rest: Vec<KeyValue> = all.iter().filter(|(key, _)| *key > from).cloned().collect();
            for limit in [0, 1, 2, 63, 64, 65, 399, usize::MAX] {
                let wanted = rest.iter().take(limit).cloned().collect();
                assert_eq!(txn.rows(b"row-", Some(&from), limit), Ok(wanted), "{limit}");
            }
        }
    }
}

//! What a command sees and changes.

use std::collections::BTreeMap;

use crate::store::StoreError;
use crate::store::index::{Change, Index, KeyValue};
use crate::store::rows::{self, Row};

/// A view of the index under the changes that its group has already made, and a place for more.
pub struct Txn<'a> {
    index: &'a dyn Index,
    group: Option<&'a BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    own: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    incarnation: u64,
}

impl<'a> Txn<'a> {
    /// A view with no pending changes below it.
    pub fn new(index: &'a dyn Index) -> Txn<'a> {
        Txn { index, group: None, own: BTreeMap::new(), incarnation: 0 }
    }

    /// A view over the changes of the commands before it in the same group.
    pub fn over(index: &'a dyn Index, group: &'a BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Txn<'a> {
        Txn { index, group: Some(group), own: BTreeMap::new(), incarnation: 0 }
    }

    /// Says which life of the store this is: see [`Txn::incarnation`].
    pub(in crate::store) fn live(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
    }

    /// Random, and another one in a store that was made anew or restored: what numbers of this
    /// store stand for is only known together with it.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Reads one row.
    pub fn get<R: Row>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        let pending = self.own.get(key).or_else(|| self.group.and_then(|group| group.get(key)));
        match pending {
            Some(Some(bytes)) => rows::decode(bytes).map(Some),
            Some(None) => Ok(None),
            None => self.index.get(key)?.map(|bytes| rows::decode(&bytes)).transpose(),
        }
    }

    /// Reads every row whose key starts with `prefix`, in key order.
    pub fn scan<R: Row>(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        let stored: Vec<KeyValue> = self.index.scan(prefix, None, usize::MAX)?;
        let mut rows: BTreeMap<Vec<u8>, Option<Vec<u8>>> =
            stored.into_iter().map(|(key, row)| (key, Some(row))).collect();
        for changes in self.group.into_iter().chain([&self.own]) {
            let from = changes.range(prefix.to_vec()..);
            for (key, change) in from.take_while(|(key, _)| key.starts_with(prefix)) {
                rows.insert(key.clone(), change.clone());
            }
        }
        rows.into_iter()
            .filter_map(|(key, row)| row.map(|row| Ok((key, rows::decode(&row)?))))
            .collect()
    }

    /// Writes a row.
    pub fn put<R: Row>(&mut self, key: Vec<u8>, row: &R) -> Result<(), StoreError> {
        self.own.insert(key, Some(rows::encode(row)?));
        Ok(())
    }

    /// Writes a row unless it is there already as it should be: flash wears.
    pub fn put_changed<R: Row + PartialEq>(
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
    pub fn delete(&mut self, key: Vec<u8>) {
        self.own.insert(key, None);
    }

    /// Removes every row whose key starts with `prefix`.
    pub fn clear(&mut self, prefix: &[u8]) -> Result<(), StoreError> {
        let stored = self.index.scan(prefix, None, usize::MAX)?.into_iter().map(|(key, _)| key);
        let mut keys: Vec<Vec<u8>> = stored.collect();
        for changes in self.group.into_iter().chain([&self.own]) {
            let from = changes.range(prefix.to_vec()..);
            keys.extend(
                from.take_while(|(key, _)| key.starts_with(prefix)).map(|(k, _)| k.clone()),
            );
        }
        keys.into_iter().for_each(|key| self.delete(key));
        Ok(())
    }

    /// What the command changed, in key order.
    pub fn into_changes(self) -> Vec<Change> {
        self.own.into_iter().collect()
    }
}

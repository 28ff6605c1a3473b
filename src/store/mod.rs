//! All persistence. The journal is the promise: a change is acknowledged when its record is
//! durable there. The index answers every look-up and can be thrown away at any time.
//!
//! One writer runs commands in order. A command is a closure over a [`Txn`]: it reads the index
//! under the pending changes of its own group, decides, and writes rows. The group is appended to
//! the journal, made durable with one fdatasync, applied to the index, and only then acknowledged.

pub mod blobs;
mod cascade;
pub mod connected_registries;
mod delivered;
mod error;
pub mod feed;
pub mod inbox;
pub mod index;
pub mod manifests;
pub mod node;
pub mod outbox;
pub mod passwords;
pub mod referrers;
pub mod repositories;
pub mod row;
pub mod scope_maps;
pub mod tags;
pub mod tokens;
pub mod txn;
pub mod uploads;

pub use error::StoreError;
pub use manifests::{ManifestRow, PutManifest, PutOutcome};
pub use tags::{Precondition, TagRow};
pub use txn::Txn;

use std::sync::{Arc, Mutex};

use index::{Index, MapIndex};
use node::SyncView;
use row::Row;

use crate::sys::Sys;

/// The store of one node; a clone is another handle on it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    sys: Sys,
    index: Box<dyn Index>,
    writer: Mutex<u64>,
    sync_view: Mutex<Arc<SyncView>>,
}

impl Store {
    /// A store in memory only, for tests of what stands above.
    pub fn in_memory(sys: Sys) -> Store {
        let index = Box::new(MapIndex::default());
        let inner = Inner { sys, index, writer: Mutex::new(0), sync_view: Mutex::default() };
        Store { inner: Arc::new(inner) }
    }

    /// The seams that the store was opened with.
    pub fn sys(&self) -> &Sys {
        &self.inner.sys
    }

    /// Reads one row.
    pub fn get<R: Row>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.inner.index.get(key)?.map(|bytes| row::decode(&bytes)).transpose()
    }

    /// Reads rows whose keys start with `prefix` and are greater than `after`, in key order, at
    /// most `limit`.
    pub fn scan<R: Row>(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        let rows = self.inner.index.scan(prefix, after, limit)?;
        rows.into_iter().map(|(key, bytes)| Ok((key, row::decode(&bytes)?))).collect()
    }

    /// Runs a command on the writer and returns when what it changed is durable and visible. If
    /// the command fails, nothing is changed.
    pub async fn commit<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut sequence = self.inner.writer.lock().map_err(|_| StoreError::Unavailable)?;
        let mut txn = Txn::new(&*self.inner.index);
        let value = command(&mut txn)?;
        let changes = txn.into_changes();
        if !changes.is_empty() {
            *sequence += 1;
            self.inner.index.apply(*sequence, &changes)?;
        }
        Ok(value)
    }

    /// The sequence of the last durable record.
    pub fn sequence(&self) -> u64 {
        self.inner.index.applied()
    }
}

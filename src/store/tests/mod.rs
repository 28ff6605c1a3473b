//! Tests of the store as a whole: on a disk in memory that knows what a power cut leaves, and on
//! real directories with sled.

mod checkpoints;
mod content;
mod corruption;
mod crash;
mod damage;
mod format;
mod gc;
mod golden;
mod index;
mod journal;
mod sizes;
mod stuck;
mod threads;
mod waiting;
mod withdrawal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol::block_on;

use super::content::leases::Lease;
use super::journal::{checkpoint, frame};
use super::replica::{outbox, refused};
use super::rows::Row;
use super::rows::link::{BlobLink, Referred, blob_key, split_key};
use super::rows::manifest::manifest_key;
use super::rows::untagged::{Untagged, untagged_key};
use super::*;
use crate::sys::{self, Clock, MemoryDisk, Rng, Spawner, SystemClock, SystemDisk, SystemRng};
use crate::types::{Cursor, Digest, RepositoryName};

/// One test at a time uses sled: the lock that it takes on its files would be kept by a process
/// that another test forks in that moment.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A directory that goes away with its guard. One at a time: a second one waits for the first.
pub(super) struct TempDir(PathBuf, #[allow(dead_code)] std::sync::MutexGuard<'static, ()>);

#[allow(clippy::disallowed_methods, reason = "tests make real directories")]
impl TempDir {
    /// Makes one; `name` only helps to find it.
    pub(super) fn new(name: &str) -> TempDir {
        let unique = SystemRng::new().uuid();
        let path = std::env::temp_dir().join(format!("skerry-{name}-{unique}"));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path, ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    #[allow(clippy::disallowed_methods, reason = "tests clear up real directories")]
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Text(String);

impl Row for Text {
    const VERSION: u8 = 1;
}

/// For tests of what stands above.
impl Store {
    /// A new store on a disk in memory.
    pub(crate) fn in_memory(sys: Sys) -> Store {
        Store::in_memory_on(sys, MemoryDisk::new())
    }

    /// A store on this disk in memory.
    pub(crate) fn in_memory_on(sys: Sys, disk: MemoryDisk) -> Store {
        let sys = Sys { disk: Arc::new(disk), ..sys };
        let root = Path::new("/s");
        let options = StoreOptions { index: IndexKind::Map, ..StoreOptions::new(root) };
        Store::open(sys, options).unwrap().0
    }
}

fn sys_on(disk: &MemoryDisk) -> Sys {
    Sys { disk: Arc::new(disk.clone()), ..Sys::real(Spawner::new()) }
}

fn options(path: &Path, index: IndexKind) -> StoreOptions {
    StoreOptions { index, reserve: 1, ..StoreOptions::new(path) }
}

fn open_memory(disk: &MemoryDisk) -> Result<(Store, Recovery), OpenError> {
    Store::open(sys_on(disk), options(Path::new("/s"), IndexKind::Map))
}

/// As `skerry state cut-journal` does.
fn open_cut(disk: &MemoryDisk) -> Result<(Store, Recovery), OpenError> {
    let cut = StoreOptions { cut_journal: true, ..options(Path::new("/s"), IndexKind::Map) };
    Store::open(sys_on(disk), cut)
}

/// With segments and checkpoints so small that some arise.
fn open_small(disk: &MemoryDisk) -> (Store, Recovery) {
    open_small_with(disk, 5000)
}

fn open_small_with(disk: &MemoryDisk, checkpoint_bytes_min: u64) -> (Store, Recovery) {
    let mut options = options(Path::new("/s"), IndexKind::Map);
    (options.segment_bytes, options.checkpoint_bytes_min) = (2000, checkpoint_bytes_min);
    options.merge_bytes = 1500;
    Store::open(sys_on(disk), options).unwrap()
}

fn open_sled(dir: &TempDir) -> (Store, Recovery) {
    let options = options(&dir.path().join("state"), IndexKind::Sled { cache: 1 << 20 });
    Store::open(Sys::real(Spawner::new()), options).unwrap()
}

fn key(number: u32) -> Vec<u8> {
    format!("\x20row-{number:06}").into_bytes()
}

fn put(store: &Store, number: u32, text: &str) -> Result<(), StoreError> {
    let row = Text(text.to_owned());
    block_on(store.commit(move |txn| txn.put(key(number), &row)))
}

fn delete(store: &Store, number: u32) {
    block_on(store.commit(move |txn| {
        txn.delete(key(number))?;
        Ok(())
    }))
    .unwrap();
}

type Model = BTreeMap<Vec<u8>, Text>;

fn rows(store: &Store) -> Model {
    store.scan::<Text>(b"\x20row", None, usize::MAX).unwrap().into_iter().collect()
}

/// Writes, overwrites and deletes; returns what should be there.
fn churn(store: &Store, from: u32, to: u32) -> Model {
    for number in from..to {
        put(store, number % 97, &format!("text {number}")).unwrap();
        if number % 5 == 0 {
            delete(store, number % 31);
        }
    }
    rows(store)
}

fn segment_path(store_dir: &str, first: u64) -> PathBuf {
    Layout::new(store_dir).segment(first)
}

fn content(disk: &MemoryDisk, path: &Path) -> Vec<u8> {
    disk.read(path, u64::MAX).unwrap()
}

fn overwrite(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    let file = disk.open_rw(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
}

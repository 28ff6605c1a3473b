//! All persistence. The journal is the promise: a change is acknowledged when its record is
//! durable there. The index answers every look-up and can be thrown away at any time.
//!
//! One writer runs commands in order. A command is a closure over a [`Txn`]: it reads the index
//! under the pending changes of its own group, decides, and writes rows. The group is appended to
//! the journal, made durable with one fdatasync, applied to the index, and only then acknowledged.

pub mod blobs;
pub mod checkpoint;
pub mod connected_registries;
pub mod feed;
pub mod frame;
pub mod identity;
pub mod inbox;
pub mod index;
pub mod journal;
pub mod layout;
pub mod manifests;
pub mod node;
pub mod outbox;
pub mod passwords;
pub mod referrers;
pub mod repositories;
pub mod row;
pub mod scope_maps;
pub mod sled_index;
pub mod tags;
pub mod tokens;
pub mod txn;
pub mod uploads;

mod cascade;
mod creation;
mod delivered;
mod error;
mod recover;
mod writer;

#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use layout::OpenError;
pub use manifests::{ManifestRow, PutManifest, PutOutcome};
pub use recover::Recovery;
pub use tags::{Precondition, TagRow};
pub use txn::Txn;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use event_listener::Event;
use smol::channel::{Sender, bounded};

use feed::Ring;
use index::{Index, MapIndex};
use layout::Layout;
use node::SyncView;
use row::Row;
use uploads::Uploads;
use writer::{Job, Message};

use crate::sys::{Disk, Sys};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Directory of all state.
    pub state_dir: PathBuf,
    /// Free space, bytes, below which pushes are refused; never more than 5 % of the disk.
    pub reserve: u64,
    /// Unfinished uploads at once.
    pub uploads_max: usize,
}

/// The store of one node; a clone is another handle on it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    sys: Sys,
    disk: Arc<dyn Disk>,
    layout: Layout,
    options: StoreOptions,
    index: RwLock<Arc<dyn Index>>,
    commands: Commands,
    /// The last durable and visible sequence.
    sequence: AtomicU64,
    grown: Event,
    stopping: AtomicBool,
    epoch: u64,
    ring: Mutex<Ring>,
    segments: journal::Segments,
    uploads: Uploads,
    sync_view: Mutex<Arc<SyncView>>,
    /// Held for as long as the store is in use.
    _lock: Option<Box<dyn Send + Sync>>,
}

/// Where commands go.
enum Commands {
    /// To the writer's thread.
    Thread(Sender<Message>),
    /// Straight to an index in memory.
    Inline(Mutex<()>),
}

impl Store {
    /// Opens the store, brings its index up to the journal, and starts the writer.
    pub async fn open(sys: Sys, options: StoreOptions) -> Result<(Store, Recovery), OpenError> {
        crate::sys::spawn::blocking(move || recover::open(sys, options)).await
    }

    /// A store in memory only, for tests of what stands above.
    pub fn in_memory(sys: Sys) -> Store {
        let options =
            StoreOptions { state_dir: PathBuf::from("/nonexistent"), reserve: 0, uploads_max: 1 };
        let inner = Inner {
            disk: sys.disk.clone(),
            layout: Layout::new(&options.state_dir),
            index: RwLock::new(Arc::new(MapIndex::default())),
            commands: Commands::Inline(Mutex::new(())),
            sequence: AtomicU64::new(0),
            grown: Event::new(),
            stopping: AtomicBool::new(false),
            epoch: 1,
            ring: Mutex::default(),
            segments: journal::Segments::default(),
            uploads: Uploads::default(),
            sync_view: Mutex::default(),
            _lock: None,
            sys,
            options,
        };
        Store { inner: Arc::new(inner) }
    }

    /// The seams that the store was opened with.
    pub fn sys(&self) -> &Sys {
        &self.inner.sys
    }

    fn shared(&self) -> &Inner {
        &self.inner
    }

    /// Reads one row.
    pub fn get<R: Row>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        let row = self.inner.look_up(|index| index.get(key))?;
        row.map(|bytes| row::decode(&bytes)).transpose()
    }

    /// Reads rows whose keys start with `prefix` and are greater than `after`, in key order, at
    /// most `limit`.
    pub fn scan<R: Row>(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        let rows = self.inner.look_up(|index| index.scan(prefix, after, limit))?;
        rows.into_iter().map(|(key, bytes)| Ok((key, row::decode(&bytes)?))).collect()
    }

    /// Runs a command on the writer and returns when what it changed is durable and visible. If
    /// the command fails, nothing is changed.
    pub async fn commit<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match &self.inner.commands {
            Commands::Inline(turn) => {
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                self.inner.run_inline(command)
            }
            Commands::Thread(sender) => {
                let (reply, answer) = bounded(1);
                let job = Job::new(command, reply);
                let sent = sender.send(Message::Run(job)).await;
                sent.map_err(|_| StoreError::Unavailable)?;
                answer.recv().await.unwrap_or(Err(StoreError::Unavailable))
            }
        }
    }

    /// The sequence of the last durable record.
    pub fn sequence(&self) -> u64 {
        self.inner.sequence.load(Ordering::Acquire)
    }

    /// Ends the journal in order, so that the next start has nothing to mend. Later commands are
    /// answered with `Unavailable`.
    pub async fn close(&self) -> Result<(), StoreError> {
        let Commands::Thread(sender) = &self.inner.commands else {
            return Ok(());
        };
        let (reply, answer) = bounded(1);
        sender.send(Message::Close(reply)).await.map_err(|_| StoreError::Unavailable)?;
        answer.recv().await.unwrap_or(Err(StoreError::Unavailable))
    }
}

impl Inner {
    /// The index as it is now; a rebuild puts another one in place.
    fn index(&self) -> Arc<dyn Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_index(&self, index: Arc<dyn Index>) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
    }

    fn look_up<T>(
        &self,
        call: impl FnOnce(&dyn Index) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let index = self.index();
        let result = call(&*index);
        if result.is_err()
            && index.failed()
            && let Commands::Thread(sender) = &self.commands
        {
            // The writer looks at the index before each group. A full queue wakes it as well.
            let _ = sender.try_send(Message::Check);
        }
        result
    }

    fn run_inline<T>(
        &self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let index = self.index();
        let mut txn = Txn::new(&*index);
        let value = command(&mut txn)?;
        let changes = txn.into_changes();
        if !changes.is_empty() {
            let sequence = self.sequence.load(Ordering::Acquire) + 1;
            index.apply(sequence, &changes)?;
            self.publish(sequence, vec![(sequence, changes)]);
        }
        Ok(value)
    }

    /// Makes records visible to followers: they are durable and in the index.
    fn publish(&self, sequence: u64, records: Vec<(u64, Vec<index::Change>)>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for (sequence, changes) in records {
            ring.push(sequence, changes);
        }
        drop(ring);
        self.sequence.store(sequence, Ordering::Release);
        self.grown.notify(usize::MAX);
    }
}

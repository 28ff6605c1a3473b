//! All persistence. The journal is the promise: a change is acknowledged when its record is
//! durable there. The index answers every look-up and can be thrown away at any time.
//!
//! One writer runs commands in order. A command is a closure over a [`Txn`]: it reads the index
//! under the pending changes of its own group, decides, and writes rows. The group is appended to
//! the journal, made durable with one fdatasync, applied to the index, and only then acknowledged.

pub mod backup;
mod candidates;
pub mod content;
pub mod fsck;
pub mod gc;
pub mod identity;
pub mod index;
pub mod journal;
pub mod lineage;
pub mod recovery;
pub mod registry;
pub mod replica;
pub mod role;
pub mod rows;
pub mod tree;

mod confirm;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod marks;
mod paged;
mod recount;
mod unreferenced;
mod writer;

#[cfg(test)]
mod tests;

use content::admission::Admission;
pub use content::space::Shortage;
pub use content::trust::VerifyWhen;
pub use error::StoreError;
pub use index::IndexKind;
pub use journal::layout::OpenError;
pub use journal::txn::Txn;
pub use paged::{PAGE_ROWS, Pages};
pub use recovery::found::Recovery;
pub use registry::manifests::{Asked, PutManifest, PutOutcome, Required, Wanted};
pub use registry::tags::Precondition;
pub use rows::format::{Formats, StoreFormat};
pub use rows::manifest::ManifestRow;
pub use rows::tag::TagRow;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use smol::channel::Sender;

use backup::Hold;
use candidates::Candidates;
use confirm::Written;
use content::arrival::{FanOut, Named};
use content::damage::Damage;
use content::leases::Leases;
use content::opened::Opened;
use content::removal::Aside;
use content::scrub::Scrub;
use content::space::SpaceCheck;
use content::trust::Trust;
use content::unreadable::Unreadable;
use content::uploads::Uploads;
use index::{Index, NoIndex};
use journal::counts::Counts;
use journal::layout::{Format, Layout};
use journal::segment::{Journal, Segments};
use journal::unmade::Unmade;
use recovery::epoch::feed_epoch;
use recovery::loss::{self, Loss};
use registry::removal::Removals;
use replica::feed::Feed;
use replica::gone::Gone;
use replica::node::SyncView;
use replica::unwritten::Unwritten;
use role::Standing;
use rows::Stored;
use writer::{Command, Message, Run, Sizes, Writer};

use crate::sys::clock::sleep;
use crate::sys::outcome::Outcome;
use crate::sys::{Disk, Sys};
use crate::types::deed::Deed;
use crate::types::limits::{SEGMENT_BYTES, UPLOADS_MAX, WRITER_QUEUE_MAX};
use crate::types::{Digest, RepositoryPattern};

/// A checkpoint is not worth its writes before the journal has grown by this, bytes.
const CHECKPOINT_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// How long a request waits for an index that is built again: that of 10,000 manifests takes half
/// a second. Over it: 503 with how far it is.
const INDEX_WAIT: Duration = Duration::from_secs(2);
/// How often it looks.
const INDEX_LOOK: Duration = Duration::from_millis(10);
/// Changed rows that a checkpoint holds in memory at once unless told otherwise, bytes.
const MERGE_BYTES: usize = 4 * 1024 * 1024;

/// The page cache of the index unless told otherwise, bytes.
const INDEX_CACHE_BYTES: u64 = 2 * 1024 * 1024;

/// The reserve unless told otherwise, bytes.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// The least that a node keeps free, bytes: with less the records of deletions and of a collection
/// find no space on a full disk, so that nothing can be freed any more.
pub const RESERVE_BYTES_MIN: u64 = 256 * 1024;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The state directory; its parent must exist.
    pub state_dir: PathBuf,
    /// Free space below which pushes are refused, bytes; never more than 5 % of the file system.
    pub reserve: u64,
    /// Rows of the index with which no content is taken any more: memory is kept for each.
    pub rows_max: u64,
    /// Most unfinished pushes; over it a start is `Unavailable`.
    pub uploads: usize,
    /// Whether segments are kept for children that follow the feed.
    pub retain_for_children: bool,
    /// What repositories may hold, bytes; the first pattern that covers one counts.
    pub quotas: Vec<(RepositoryPattern, u64)>,
    /// When content is hashed beside scrubs.
    pub verify: VerifyWhen,
    /// The formats that this version knows.
    pub formats: Formats,
    /// Look at what is there and change nothing: a backup, or what `fsck` checks.
    pub frozen: bool,
    /// Give up what follows damage of the journal that nothing makes up for; an error when there is
    /// none.
    pub cut_journal: bool,
    /// What answers look-ups.
    pub index: IndexKind,
    /// Size at which a segment is closed, bytes.
    pub segment_bytes: u64,
    /// Growth of the journal below which no checkpoint is made, bytes.
    pub checkpoint_bytes_min: u64,
    /// Changed rows that a checkpoint holds in memory at once, bytes.
    pub merge_bytes: usize,
}

impl StoreOptions {
    /// What a node uses, in this state directory.
    pub fn new(state_dir: &Path) -> StoreOptions {
        StoreOptions {
            state_dir: state_dir.to_owned(),
            reserve: RESERVE_BYTES,
            rows_max: u64::MAX,
            uploads: UPLOADS_MAX,
            retain_for_children: false,
            quotas: Vec::new(),
            verify: VerifyWhen::Scrub,
            formats: Formats::OURS,
            frozen: false,
            cut_journal: false,
            index: IndexKind::Sled { cache: INDEX_CACHE_BYTES },
            segment_bytes: SEGMENT_BYTES,
            checkpoint_bytes_min: CHECKPOINT_BYTES_MIN,
            merge_bytes: MERGE_BYTES,
        }
    }
}

/// The store of one node; a clone is another handle on it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// What this handle is used for, where that is to be known later.
    deed: Option<Arc<Deed>>,
}

struct Inner {
    /// What the writer is asked to do.
    queue: Sender<Message>,
    writer: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
    sync_view: Mutex<Arc<SyncView>>,
    standing: Mutex<Standing>,
    provisioned: AtomicBool,
    /// Dropped last: the directory is ours until the writer is gone.
    _lock: Box<dyn Send + Sync>,
}

/// What the writer, readers and blocking work have in common.
struct Shared {
    sys: Sys,
    disk: Arc<dyn Disk>,
    layout: Layout,
    index: RwLock<Arc<dyn Index>>,
    /// The writer has been asked to look after the index.
    healing: AtomicBool,
    feed: Feed,
    counts: Arc<Counts>,
    /// See [`Store::hearing`].
    heard: Arc<AtomicU64>,
    unwritten: Unwritten,
    gone: Mutex<Gone>,
    segments: Segments,
    unmade: Unmade,
    uploads: Uploads,
    uploads_max: usize,
    fan_out: FanOut,
    space: SpaceCheck,
    retain: AtomicBool,
    read_only: AtomicBool,
    leases: Leases,
    removals: Removals,
    named: Named,
    opened: Opened,
    unreadable: Unreadable,
    garbage: Candidates,
    damage: Damage,
    trust: Trust,
    scrub: Scrub,
    /// Nothing on the disk is changed, ever.
    frozen: bool,
    /// The format, when a newer version wrote the store; it is frozen then.
    newer: Option<u32>,
    written: Written,
    backup: Hold,
    loss: Loss,
    quotas: Vec<(RepositoryPattern, u64)>,
    admission: Admission,
    aside: Aside,
    turns: tree::Turns,
}

impl Shared {
    /// Remembers that somebody has to do with this content.
    fn touch(&self, digest: &Digest) {
        self.leases.touch(digest, self.sys.clock.monotonic());
    }

    /// An error on a store that never changes.
    fn check_frozen(&self) -> Result<(), StoreError> {
        match (self.frozen, self.newer) {
            (false, _) => Ok(()),
            (true, Some(format)) => Err(StoreError::NewerFormat(format)),
            (true, None) => Err(StoreError::Unavailable),
        }
    }

    fn index(&self) -> Arc<dyn Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another index in place and returns the one before.
    fn set_index(&self, index: Arc<dyn Index>) -> Arc<dyn Index> {
        let mut cell = self.index.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *cell, index)
    }
}

impl Store {
    /// Opens the store in a state directory, or makes a new one, and says what was found. Blocks;
    /// may take seconds when the index has to be built again.
    pub fn open(sys: Sys, options: StoreOptions) -> Result<(Store, Recovery), OpenError> {
        let disk = sys.disk.clone();
        let layout = Layout::new(options.state_dir);
        let (lock, format) = layout.take(&*disk, options.formats, options.frozen)?;
        let newer = match format {
            Format::Newer(format) => Some(format.writes),
            Format::New | Format::Ours(_) => None,
        };
        let frozen = options.frozen || newer.is_some();
        let recovered = match frozen {
            true => recovery::recover::look(&disk, &layout)?,
            false => {
                recovery::recover::recover(&disk, &layout, options.index, options.cut_journal)?
            }
        };
        let mut recovery = recovered.recovery;
        recovery.new = format == Format::New && recovered.end.sequence == 0;
        let admission = Admission::default();
        let (epoch, uploads, damage) = match frozen {
            // Followers of a store that cannot change have nothing to follow.
            true => (sys.rng.number(), Uploads::default(), Damage::default()),
            false => (
                journal::ballast::in_any_space(&*disk, &layout, || {
                    feed_epoch(&sys, &*disk, &layout)
                })
                .map_err(OpenError::store(&layout.identity()))?,
                Uploads::open(&sys, &*disk, &layout, &admission)
                    .map_err(OpenError::store(&layout.uploads()))?,
                Damage::open(&*disk, &layout).map_err(OpenError::store(&layout.quarantine()))?,
            ),
        };
        if !frozen {
            recovery::recover::end_of_loss(&*disk, &layout, recovered.end.sequence)
                .map_err(OpenError::store(layout.root()))?;
            loss::mend(&*disk, &layout).map_err(OpenError::io(&layout.loss()))?;
        }
        let since = sys.clock.wall_or_floor();
        let loss = Loss::open(&*disk, &layout, recovery.lost.clone(), since)
            .map_err(OpenError::io(&layout.loss()))?;
        let segments = Segments::new(recovered.firsts);
        let unmade = Unmade::default();
        let shared = Arc::new(Shared {
            feed: Feed::new(epoch, recovered.end.sequence),
            counts: Arc::new(Counts::new(sys.rng.number())),
            heard: Arc::default(),
            unwritten: Unwritten::default(),
            gone: Mutex::default(),
            index: RwLock::new(recovered.index),
            healing: AtomicBool::new(false),
            segments: segments.clone(),
            unmade: unmade.clone(),
            uploads,
            uploads_max: options.uploads,
            fan_out: FanOut::default(),
            space: SpaceCheck::new(options.reserve, options.rows_max),
            retain: AtomicBool::new(options.retain_for_children),
            read_only: AtomicBool::new(false),
            leases: Leases::default(),
            removals: Removals::default(),
            named: Named::default(),
            opened: Opened::default(),
            unreadable: Unreadable::default(),
            garbage: Candidates::open(&*disk, &layout, sys.clock.monotonic()),
            damage,
            trust: Trust::new(options.verify),
            scrub: Scrub::default(),
            frozen,
            newer,
            written: Written::new(options.formats, format.stored(options.formats)),
            backup: Hold::default(),
            loss,
            quotas: options.quotas,
            admission,
            aside: Aside::default(),
            turns: tree::Turns::default(),
            sys,
            disk: disk.clone(),
            layout: layout.clone(),
        });
        if !frozen {
            shared.keep_ballast();
            content::uploads::sweep(&shared);
            shared.doubt_unproven(recovery.clean);
            shared.damage.doubtful.iter().for_each(|digest| shared.trust.doubt(digest));
            if shared.damage.is_unread || shared.trust.is_full() {
                shared.scrub.request();
            }
        }
        let (end, clean) = (recovered.end, recovery.clean);
        let journal = Journal::new(disk, layout.clone(), segments, end, clean, unmade);
        let writer = Writer::new(
            shared.clone(),
            journal,
            options.index,
            recovered.checkpoints,
            recovered.bytes_since,
            Sizes {
                segment_bytes: options.segment_bytes,
                checkpoint_bytes_min: options.checkpoint_bytes_min,
                merge_bytes: options.merge_bytes,
            },
        );
        let (queue, commands) = smol::channel::bounded(WRITER_QUEUE_MAX);
        let thread = shared.sys.spawner.thread("skerry-writer", move || writer.work(&commands));
        let writer = Mutex::new(Some(thread.map_err(OpenError::io(layout.root()))?));
        let (sync_view, standing, provisioned) = Default::default();
        let inner = Inner { queue, writer, shared, sync_view, standing, provisioned, _lock: lock };
        Ok((Store { inner: Arc::new(inner), deed: None }, recovery))
    }

    /// The seams that the store was opened with.
    pub fn sys(&self) -> &Sys {
        &self.shared().sys
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Reads one row.
    pub fn get<R: Stored>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        let row = self.look_up(|index| index.get(key))?;
        row.map(|bytes| rows::decode(&bytes)).transpose()
    }

    /// Reads rows whose keys start with `prefix` and are greater than `after`, in key order, at
    /// most `limit`.
    pub fn scan<R: Stored>(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        let rows = self.look_up(|index| index.scan(prefix, after, limit))?;
        rows.into_iter().map(|(key, bytes)| Ok((key, rows::decode(&bytes)?))).collect()
    }

    fn look_up<T>(
        &self,
        ask: impl FnOnce(&dyn Index) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let index = self.shared().index();
        let answer = ask(&*index);
        if answer.is_err() && index.failed() && !self.shared().healing.swap(true, Ordering::Relaxed)
        {
            // A full queue is no loss: the writer looks at the index before each group.
            let _ = self.inner.queue.try_send(Message::Heal);
        }
        answer
    }

    /// Waits while an index that failed is built again, [`INDEX_WAIT`] at most: what comes
    /// meanwhile is answered late instead of refused.
    pub async fn wait_for_index(&self) {
        let begun = self.sys().clock.monotonic();
        while self.shared().index().failed() {
            let _ = self.look_up(|index| index.get(b""));
            sleep(INDEX_LOOK).await;
            let is_late = self.sys().clock.monotonic().saturating_sub(begun) >= INDEX_WAIT;
            // One that cannot be built just now is tried again much later.
            if is_late || !self.shared().healing.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Runs a command on the writer and returns when what it changed is durable and visible. If
    /// the command fails, nothing is changed. `Unavailable` after the disk failed: the store is
    /// then read-only until it is opened again.
    pub async fn commit<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let outcome = Outcome::new();
        let left = outcome.clone();
        let run = move |txn: &mut Txn<'_>| command(txn).map(|value| left.leave(value));
        self.run(Box::new(run)).await?;
        outcome.take().ok_or(StoreError::Unavailable)
    }

    async fn run(&self, run: Run) -> Result<(), StoreError> {
        self.shared().check_frozen()?;
        let (command, answer) = Command::new(run);
        self.ask_writer(Message::Command(command)).await?;
        answer.recv().await.unwrap_or(Err(StoreError::Unavailable))
    }

    async fn ask_writer(&self, message: Message) -> Result<(), StoreError> {
        self.inner.queue.send(message).await.map_err(|_| StoreError::Unavailable)
    }

    /// The sequence of the last durable record.
    pub fn sequence(&self) -> u64 {
        self.shared().feed.published()
    }

    /// The sequence of the last durable record that changed tokens, scope maps, connected
    /// registries or [`Store::self_config`]: what was read of them after this was asked is right
    /// while the answer stays the same. Pushes and deletes leave it as it is.
    pub fn access_sequence(&self) -> u64 {
        self.shared().feed.access()
    }

    /// The sequence of the last durable record, which may not be shown yet: what was read before
    /// this is not later.
    pub fn reached(&self) -> u64 {
        self.shared().feed.reached()
    }

    /// Whether changes are refused: the disk failed, or a newer version wrote the store.
    pub fn read_only(&self) -> bool {
        self.shared().frozen || self.shared().read_only.load(Ordering::Relaxed)
    }

    /// Why changes are refused, as the error that they get.
    pub fn read_only_cause(&self) -> Option<StoreError> {
        let failed = self.read_only().then_some(StoreError::Unavailable);
        self.shared().check_frozen().err().or(failed)
    }

    /// Makes a checkpoint in place of a damaged journal, so that neither a start nor a backup
    /// depends on what is damaged.
    pub(in crate::store) async fn renew_checkpoint(&self) -> Result<(), StoreError> {
        self.shared().check_frozen()?;
        let (reply, answer) = smol::channel::bounded(1);
        self.ask_writer(Message::Renew(reply)).await?;
        answer.recv().await.unwrap_or(Err(StoreError::Unavailable))
    }

    /// Stops in good order: the next start finds a footer and a written index. Where it cannot be
    /// noted what is doubted, that start takes the stop for an unclean one.
    /// Commands that wait are run first, later ones get `Unavailable`; look-ups go on.
    pub async fn close(&self) -> Result<(), StoreError> {
        if self.shared().frozen {
            return Ok(());
        }
        self.note_garbage_soon().await;
        let noted = self.note_unproven().await;
        if let Err(error) = &noted {
            log::warn!(
                "what is to be hashed after the next start is not noted, so that start hashes \
                 more: {error}"
            );
        }
        let (reply, answer) = smol::channel::bounded(1);
        let message = Message::Close(reply, noted.is_ok());
        self.ask_writer(message).await?;
        answer.recv().await.unwrap_or(Err(StoreError::Unavailable))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
        // Closes sled, which holds a lock of its own, before the directory is let go.
        self.shared.set_index(Arc::new(NoIndex::default()));
    }
}

//! Opening: from what a stop, a kill or a power cut left to a store that answers.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use event_listener::Event;
use smol::channel::bounded;

use super::checkpoint::{self, Checkpoint};
use super::frame::FrameFault;
use super::identity::feed_epoch;
use super::index::{Change, Index, MapIndex};
use super::journal::{self, End, Journal, SegmentReader, Segments};
use super::layout::{Layout, OpenError};
use super::sled_index::SledIndex;
use super::uploads::Uploads;
use super::writer::Writer;
use super::{Commands, Inner, Store, StoreError, StoreOptions};
use crate::sys::{Disk, Sys};
use crate::types::limits::WRITER_QUEUE_MAX;

/// Rows that a rebuild puts into the index at once.
const REBUILD_BATCH: usize = 512;

/// What opening the store found and did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Nothing was there.
    pub new: bool,
    /// The last stop was in order.
    pub clean: bool,
    /// The last durable sequence.
    pub sequence: u64,
    /// Records that the index did not have yet.
    pub replayed: u64,
    /// Bytes of an unfinished append that were cut off; nobody was told that they were stored.
    pub cut_bytes: u64,
    /// Why the index was built again.
    pub rebuilt: Option<String>,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.new, self.clean) {
            (true, _) => "is new",
            (false, true) => "was closed in order",
            (false, false) => "was not closed in order",
        };
        write!(f, "{state}, sequence {}", self.sequence)?;
        if self.replayed > 0 {
            write!(f, ", {} records replayed into the index", self.replayed)?;
        }
        if self.cut_bytes > 0 {
            write!(f, ", {} bytes of an unfinished append cut off", self.cut_bytes)?;
        }
        match &self.rebuilt {
            Some(why) => write!(f, ", index built again: {why}"),
            None => Ok(()),
        }
    }
}

/// What the journal directory holds.
struct Found {
    firsts: Vec<u64>,
    checkpoints: Vec<Checkpoint>,
}

/// The journal read to its end.
struct Tail {
    end: End,
    clean: bool,
    cut_bytes: u64,
    bytes: u64,
}

pub(super) fn open(sys: Sys, options: StoreOptions) -> Result<(Store, Recovery), OpenError> {
    let disk = sys.disk.clone();
    let layout = Layout::new(&options.state_dir);
    let (lock, new) = layout.take(&*disk)?;
    let found = look(&*disk, &layout).map_err(OpenError::io(&layout.journal()))?;
    let opened = SledIndex::open(disk.clone(), &layout.index());
    let applied = opened.as_ref().map_or(0, Index::applied);
    let (base, tail) = read_journal(&*disk, &layout, &found, applied)?;
    let failed = |error: StoreError| OpenError::Io {
        path: layout.root().to_owned(),
        cause: error.to_string(),
    };
    let mut recovery = Recovery {
        new,
        clean: tail.clean,
        sequence: tail.end.sequence,
        cut_bytes: tail.cut_bytes,
        ..Recovery::default()
    };
    let from = base.map_or(End::default(), |base| base.end);
    let usable = opened.and_then(|index| match index.applied() {
        applied if applied > tail.end.sequence => {
            Err(format!("it is at {applied}, the journal ends at {}", tail.end.sequence))
        }
        applied if applied < from.sequence => Err("it is older than the checkpoint".to_owned()),
        _ => Ok(index),
    });
    let index: Arc<dyn Index> = match usable {
        Ok(index) => {
            let end = tail.end.sequence;
            recovery.replayed =
                catch_up(&*disk, &layout, &found.firsts, from, end, &index).map_err(failed)?;
            Arc::new(index)
        }
        Err(why) => {
            recovery.rebuilt = Some(why).filter(|_| !new);
            build_index(&disk, &layout, base, &found.firsts, tail.end.sequence).map_err(failed)?
        }
    };
    // Sequences beyond the journal's end may have been handed out: followers must reconcile.
    let lost = applied > tail.end.sequence;
    let epoch = feed_epoch(&sys, &*disk, &layout, lost).map_err(failed)?;
    let (sender, receiver) = bounded(WRITER_QUEUE_MAX);
    let segments = Segments::new(found.firsts);
    let journal = Journal::new(disk.clone(), layout.clone(), segments.clone(), tail.end);
    let spawner = sys.spawner.clone();
    let inner = Arc::new(Inner {
        sys,
        disk,
        layout,
        options,
        index: RwLock::new(index),
        commands: Commands::Thread(sender),
        sequence: AtomicU64::new(tail.end.sequence),
        grown: Event::new(),
        stopping: AtomicBool::new(false),
        epoch,
        ring: Mutex::default(),
        segments,
        uploads: Uploads::default(),
        sync_view: Mutex::default(),
        _lock: Some(lock),
    });
    let writer = Writer::new(inner.clone(), journal, found.checkpoints, tail.bytes);
    let started = spawner.thread("skerry-writer", move || writer.run(&receiver));
    started.map_err(OpenError::io(inner.layout.root()))?;
    Ok((Store { inner }, recovery))
}

/// Lists segments and the last two complete checkpoints; removes unfinished ones.
fn look(disk: &dyn Disk, layout: &Layout) -> std::io::Result<Found> {
    let (mut firsts, mut sequences) = (Vec::new(), Vec::new());
    for entry in disk.list(&layout.journal())? {
        let number = |suffix: &str| entry.name.strip_suffix(suffix)?.parse::<u64>().ok();
        if let Some(first) = number(".log") {
            firsts.push(first);
        } else if let Some(sequence) = number(".ckpt") {
            sequences.push(sequence);
        } else if entry.name.ends_with(".tmp") {
            disk.remove(&layout.journal().join(&entry.name))?;
        }
    }
    firsts.sort_unstable();
    sequences.sort_unstable();
    let inspect = |sequence: &u64| match checkpoint::inspect(disk, layout, *sequence) {
        Ok(checkpoint) => Some(checkpoint),
        Err(fault) => {
            log::error!("checkpoint {sequence} is damaged and left out: {fault:?}");
            None
        }
    };
    let mut checkpoints: Vec<Checkpoint> = sequences.iter().rev().filter_map(inspect).collect();
    checkpoints.truncate(2);
    checkpoints.reverse();
    Ok(Found { firsts, checkpoints })
}

/// Reads the journal from the newest checkpoint that the segments follow without a gap, and cuts
/// a torn end.
fn read_journal(
    disk: &dyn Disk,
    layout: &Layout,
    found: &Found,
    applied: u64,
) -> Result<(Option<Checkpoint>, Tail), OpenError> {
    let mut bases: Vec<Option<Checkpoint>> = found.checkpoints.iter().copied().map(Some).collect();
    if found.firsts.first().is_none_or(|first| *first == 1) {
        bases.insert(0, None);
    }
    let mut fault = OpenError::Damaged {
        path: layout.journal(),
        what: "neither a checkpoint nor the first segment can be read".to_owned(),
    };
    for base in bases.into_iter().rev() {
        match follow(disk, layout, &found.firsts, base, applied) {
            Ok(tail) => return Ok((base, tail)),
            Err(error @ OpenError::Damaged { .. }) => fault = error,
            Err(error) => return Err(error),
        }
    }
    Err(fault)
}

fn follow(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
    base: Option<Checkpoint>,
    applied: u64,
) -> Result<Tail, OpenError> {
    let mut end = base.map_or(End::default(), |base| base.end);
    let mut tail = Tail { end, clean: true, cut_bytes: 0, bytes: 0 };
    let after: Vec<u64> = firsts.iter().copied().filter(|first| *first > end.sequence).collect();
    for (number, first) in after.iter().enumerate() {
        let is_last = number + 1 == after.len();
        let path = layout.segment(*first);
        let damaged = |what: String| OpenError::Damaged { path: path.clone(), what };
        let io = |fault: FrameFault| match fault {
            FrameFault::Io(error) => OpenError::io(&path)(error),
            FrameFault::Bad(at) => damaged(format!("at byte {at}")),
        };
        let len = disk.file_len(&path).map_err(OpenError::io(&path))?;
        let mut segment = match SegmentReader::open(disk, layout, *first) {
            Ok(segment) => segment,
            // The very first append to a segment did not finish; the index knows of none in it.
            Err(FrameFault::Bad(_)) if is_last && applied < *first => {
                disk.remove(&path).map_err(OpenError::io(&path))?;
                tail.cut_bytes += len;
                tail.clean = false;
                break;
            }
            Err(fault) => return Err(io(fault)),
        };
        if segment.previous() != end {
            return Err(damaged(format!("it does not follow sequence {}", end.sequence)));
        }
        loop {
            match segment.next_record() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(FrameFault::Bad(at)) => {
                    let proven = segment.damage_is_proven().map_err(io)?;
                    if proven || !is_last || applied > segment.end().sequence {
                        return Err(damaged(format!("at byte {at}, in records made durable")));
                    }
                    break;
                }
                Err(fault) => return Err(io(fault)),
            }
        }
        end = segment.end();
        tail.cut_bytes += len - end.len;
        tail.bytes += end.len;
        if is_last {
            tail.clean = segment.closed();
            end = segment.seal(disk, layout).map_err(OpenError::io(&path))?;
        }
    }
    tail.end = end;
    Ok(tail)
}

/// Puts the records that the index lacks into it; returns how many.
fn catch_up(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
    from: End,
    through: u64,
    index: &dyn Index,
) -> Result<u64, StoreError> {
    let applied = index.applied();
    if applied == through {
        return Ok(0);
    }
    journal::replay(disk, layout, firsts, from, through, &mut |record| {
        if record.sequence > applied {
            index.apply(record.sequence, &record.changes)?;
        }
        Ok(())
    })?;
    Ok(through - applied)
}

/// Builds an index from a checkpoint and the records after it. What was there before is kept
/// aside, once; if the disk takes no index, one in memory has to do.
pub(super) fn build_index(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    base: Option<Checkpoint>,
    firsts: &[u64],
    through: u64,
) -> Result<Arc<dyn Index>, StoreError> {
    if let Err(error) = set_aside(&**disk, layout) {
        log::warn!("the old index could not be set aside: {error}");
    }
    match SledIndex::open(disk.clone(), &layout.index()) {
        Ok(index) => match fill(&**disk, layout, base, firsts, through, &index) {
            Ok(()) => return Ok(Arc::new(index)),
            Err(error) => log::error!("the index on disk could not be filled: {error}"),
        },
        Err(error) => log::error!("no index can be made on disk: {error}"),
    }
    let index = MapIndex::default();
    fill(&**disk, layout, base, firsts, through, &index)?;
    Ok(Arc::new(index))
}

fn set_aside(disk: &dyn Disk, layout: &Layout) -> std::io::Result<()> {
    let path = layout.index();
    if !disk.exists(&path)? || disk.list(&path)?.is_empty() {
        return Ok(());
    }
    let aside: PathBuf = layout.root().join("index.bad");
    if disk.exists(&aside)? {
        disk.remove_dir_all(&aside)?;
    }
    disk.rename(&path, &aside)?;
    disk.sync_dir(layout.root())
}

fn fill(
    disk: &dyn Disk,
    layout: &Layout,
    base: Option<Checkpoint>,
    firsts: &[u64],
    through: u64,
    index: &dyn Index,
) -> Result<(), StoreError> {
    let mut batch: Vec<Change> = Vec::with_capacity(REBUILD_BATCH);
    if let Some(base) = base {
        let fault = |fault| match fault {
            FrameFault::Io(error) => StoreError::from(error),
            FrameFault::Bad(at) => {
                StoreError::Corrupt(format!("checkpoint {} at {at}", base.end.sequence))
            }
        };
        let mut rows = checkpoint::Rows::open(disk, layout, base.end.sequence).map_err(fault)?;
        while let Some((key, row)) = rows.next_row().map_err(fault)? {
            batch.push((key, Some(row)));
            if batch.len() == REBUILD_BATCH {
                index.apply(0, &batch)?;
                batch.clear();
            }
        }
        index.apply(0, &batch)?;
        batch.clear();
    }
    let from = base.map_or(End::default(), |base| base.end);
    journal::replay(disk, layout, firsts, from, through, &mut |record| {
        batch.extend(record.changes);
        if batch.len() >= REBUILD_BATCH {
            index.apply(0, &batch)?;
            batch.clear();
        }
        Ok(())
    })?;
    // Only now is it complete: a kill before this line has it built again.
    index.apply(through, &batch)?;
    index.flush()
}

//! The one writer: a thread that runs commands in groups.
//!
//! A group is every command that waits, up to a limit. Each sees the index under the changes of
//! those before it, so that of two conflicting commands one fails. The records of the group are
//! made durable with one sync, applied to the index in one batch, and then all are answered:
//! also those that failed or changed nothing, since they may have seen the others' changes.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use smol::channel::{Receiver, Sender};

use super::index::IndexKind;
use super::index::{Built, Change, NoIndex};
use super::journal::checkpoint::{self, Checkpoint};
use super::journal::segment::{self, Journal, Record};
use super::recovery::rebuild::rebuild;
use super::recovery::salvage::write_out;
use super::rows::Kind;
use super::rows::derived::held_key;
use super::rows::link::split_key;
use super::{Shared, StoreError, Txn};
use crate::sys::turn;
use crate::types::Digest;
use crate::types::limits::{
    GROUP_BYTES_MAX, GROUP_COMMANDS_MAX, JOURNAL_RETAIN_BYTES, RECORD_BYTES_MAX,
};

/// How long a failed attempt to build the index is not repeated.
const HEAL_PAUSE: Duration = Duration::from_secs(30);

/// What the writer is asked to do.
pub(super) enum Message {
    /// Runs a command.
    Command(Command),
    /// Looks after the index, which failed.
    Heal,
    /// Makes a checkpoint in place of a damaged journal.
    Renew(Sender<Result<(), StoreError>>),
    /// Stops: in good order, or (`false`) so that the next start takes it for an unclean stop.
    Close(Sender<Result<(), StoreError>>, bool),
}

/// How a command ended; what it found out it leaves elsewhere.
type Ended = Result<(), StoreError>;

/// What a command does.
pub(super) type Run = Box<dyn FnOnce(&mut Txn<'_>) -> Ended + Send>;

/// A command, and whom to tell how it ended.
pub(super) struct Command {
    run: Run,
    reply: Sender<Ended>,
}

impl Command {
    /// The command, and where its answer arrives.
    pub(super) fn new(run: Run) -> (Command, Receiver<Ended>) {
        let (reply, answer) = smol::channel::bounded(1);
        (Command { run, reply }, answer)
    }
}

/// When segments and checkpoints are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) segment_bytes: u64,
    pub(super) checkpoint_bytes_min: u64,
    pub(super) merge_bytes: usize,
}

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    journal: Journal,
    kind: IndexKind,
    checkpoints: Vec<Checkpoint>,
    running: Option<Running>,
    /// Monotonic time before which the index is not built again.
    no_heal_before: Duration,
    /// Bytes appended since the last checkpoint, and since one was last tried.
    bytes_since: u64,
    bytes_since_try: u64,
    sizes: Sizes,
}

struct Running {
    thread: JoinHandle<()>,
    result: Arc<Mutex<Option<Result<Checkpoint, StoreError>>>>,
    bytes_since: u64,
}

/// A group in the making.
#[derive(Default)]
struct Group {
    overlay: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    records: Vec<(u64, Vec<Change>)>,
    payloads: Vec<Vec<u8>>,
    bytes: usize,
    answers: Vec<(Sender<Ended>, Ended)>,
}

impl Writer {
    /// A writer that continues `journal`.
    pub(super) fn new(
        shared: Arc<Shared>,
        journal: Journal,
        kind: IndexKind,
        checkpoints: Vec<Checkpoint>,
        bytes_since: u64,
        sizes: Sizes,
    ) -> Writer {
        Writer {
            shared,
            journal,
            kind,
            checkpoints,
            running: None,
            no_heal_before: Duration::ZERO,
            bytes_since,
            bytes_since_try: bytes_since,
            sizes,
        }
    }

    /// Works until the store is closed or dropped. A panic outside of a command ends that too: it
    /// is told as a journal that takes nothing more.
    pub(super) fn work(self, queue: &Receiver<Message>) {
        let shared = self.shared.clone();
        if catch_unwind(AssertUnwindSafe(|| self.run(queue))).is_err() {
            shared.sys.metrics.panics.add(1);
            shared.read_only.store(true, Ordering::Relaxed);
            shared.leases.unhide();
            log::error!("the store's writer panicked: changes are refused until a restart");
        }
    }

    fn run(mut self, queue: &Receiver<Message>) {
        let mut held = None;
        while let Some(message) = held.take().or_else(|| queue.recv_blocking().ok()) {
            match message {
                Message::Command(first) => {
                    self.group(first, &mut || match queue.try_recv() {
                        Ok(Message::Command(command)) => Some(command),
                        Ok(other) => {
                            held = Some(other);
                            None
                        }
                        Err(_) => None,
                    });
                    self.maintain();
                }
                Message::Heal => self.heal(),
                Message::Renew(reply) => {
                    let _ = reply.try_send(self.renew());
                }
                Message::Close(reply, in_order) => {
                    let _ = reply.try_send(if in_order { self.close() } else { Ok(()) });
                    break;
                }
            }
        }
        self.wait_for_checkpoint();
    }

    /// Runs `first` and what `more` yields as one group.
    fn group(&mut self, first: Command, more: &mut dyn FnMut() -> Option<Command>) {
        if self.shared.index().failed() {
            self.heal();
        }
        let mut group = Group::default();
        let mut next = Some(first);
        while let Some(command) = next {
            self.run_command(&mut group, command);
            let room = group.answers.len() < GROUP_COMMANDS_MAX && group.bytes < GROUP_BYTES_MAX;
            next = if room { more() } else { None };
        }
        let outcome = self.make_durable(&group.payloads);
        if outcome.is_ok() && !group.overlay.is_empty() {
            let sequence = self.journal.end().sequence;
            self.shared.feed.reach(sequence);
            let changes: Vec<Change> = std::mem::take(&mut group.overlay).into_iter().collect();
            if self.shared.index().apply(sequence, &changes).is_err() {
                // The group is durable: the index is at fault and is built again from the
                // journal, which has the group.
                self.heal();
            }
            self.shared.feed.publish(std::mem::take(&mut group.records));
        }
        self.shared.leases.unhide();
        for (reply, own) in group.answers {
            // Whoever asked may be gone; the channel holds one answer and gets one.
            let _ = reply.try_send(outcome.clone().and(own));
        }
    }

    fn run_command(&mut self, group: &mut Group, Command { run, reply }: Command) {
        let index = self.shared.index();
        if index.failed() || self.journal.poisoned() {
            group.answers.push((reply, Err(StoreError::Unavailable)));
            return;
        }
        let mut txn = Txn::over(&*index, &group.overlay);
        let Shared { feed, counts, heard, written, .. } = &*self.shared;
        txn.live(feed.epoch(), counts.clone(), heard.load(Ordering::Relaxed));
        txn.bound_rows(self.shared.space.rows_max);
        txn.write_in(written.stored().writes);
        let (ran, read) = turn::apart(|| catch_unwind(AssertUnwindSafe(|| run(&mut txn))));
        let (changes, derived) = txn.into_changes();
        let rows = read.rows + (changes.len() + derived.len()) as u64;
        self.shared.sys.metrics.command_rows.note(rows);
        let own = match ran {
            Ok(Ok(())) => self.frame(group, changes, derived),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.shared.sys.metrics.panics.add(1);
                log::error!("a command of the store panicked; nothing was changed");
                Err(StoreError::Io("a command panicked".to_owned()))
            }
        };
        group.answers.push((reply, own));
    }

    fn frame(
        &self,
        group: &mut Group,
        changes: Vec<Change>,
        derived: Vec<Change>,
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            // A count that is repaired: the index alone has it.
            group.overlay.extend(derived);
            return Ok(());
        }
        let sequence = self.journal.end().sequence + 1 + group.records.len() as u64;
        let record = Record { sequence, wall: self.shared.sys.clock.wall(), changes };
        let payload = segment::payload(&record)?;
        if payload.len() > RECORD_BYTES_MAX {
            let text = format!("a change of {} bytes is too large", payload.len());
            return Err(StoreError::Invalid(text));
        }
        let counted: usize = derived.iter().map(|(key, _)| key.len()).sum();
        group.bytes += payload.len() + counted;
        group.payloads.push(payload);
        let now = self.shared.sys.clock.monotonic();
        let mut perhaps_here = self.shared.leases.note(&record.changes, now);
        self.shared.removals.note(&record.changes);
        perhaps_here.extend(derived.iter().filter_map(no_longer_needed));
        group.overlay.extend(record.changes.iter().cloned().chain(derived));
        let (index, leases) = (self.shared.index(), &self.shared.leases);
        let txn = Txn::over(&*index, &group.overlay);
        // The grace of content begins when the last manifest that named it goes. A layer that lies
        // elsewhere and is not here needs no grace, and takes no place among what was touched.
        let is_here = |digest: &&Digest| txn.has(&held_key(&digest.to_key())).unwrap_or(true);
        perhaps_here.iter().filter(is_here).for_each(|digest| leases.touch(digest, now));
        group.records.push((sequence, record.changes));
        Ok(())
    }

    fn make_durable(&mut self, payloads: &[Vec<u8>]) -> Result<(), StoreError> {
        if payloads.is_empty() {
            return Ok(());
        }
        let seed = self.seed();
        let mut appended = self.journal.append(payloads, seed);
        if appended == Err(StoreError::Full) && self.shared.remove_ballast() {
            appended = self.journal.append(payloads, seed);
        }
        match appended {
            Ok(bytes) => {
                self.bytes_since += bytes;
                self.bytes_since_try += bytes;
                self.shared.sys.metrics.journal_groups.add(1);
                self.shared.sys.metrics.journal_bytes.add(bytes);
                Ok(())
            }
            Err(error) => {
                self.tell_if_poisoned(&error);
                Err(error)
            }
        }
    }

    /// After an error of the journal: one that takes nothing more is told of, once.
    fn tell_if_poisoned(&self, error: &StoreError) {
        if self.journal.poisoned() && !self.shared.read_only.swap(true, Ordering::Relaxed) {
            log::error!("the journal cannot be written, changes are refused: {error}");
        }
    }

    /// Closes the segment; what comes next is written to another one.
    fn close_segment(&mut self, stop: bool) -> Result<(), StoreError> {
        let closed = self.journal.close_segment(stop);
        if let Err(error) = &closed {
            self.tell_if_poisoned(error);
        }
        closed
    }

    /// What the CRC of the next segment starts from.
    fn seed(&self) -> u32 {
        u32::try_from(self.shared.sys.rng.number() >> 32).unwrap_or(0)
    }

    /// Builds the index again from the journal.
    fn heal(&mut self) {
        let pause = self.shared.sys.clock.monotonic() < self.no_heal_before;
        if pause || !self.shared.index().failed() {
            self.shared.healing.store(false, Ordering::Relaxed);
            return;
        }
        self.shared.sys.metrics.index_rebuilds.add(1);
        let built = Arc::new(Built::default());
        drop(self.shared.set_index(Arc::new(NoIndex { built: Some(built.clone()) })));
        let firsts = self.shared.segments.list();
        let (disk, layout) = (&self.shared.disk, &self.shared.layout);
        let sequence = self.journal.end().sequence;
        match rebuild(disk, layout, self.kind, &self.checkpoints, &firsts, sequence, &built) {
            Ok(index) => {
                self.shared.set_index(index);
                log::warn!("the index was built again sequence={sequence}");
            }
            Err(error) => {
                log::error!("the index cannot be built again, tried again later: {error}");
                self.no_heal_before = self.shared.sys.clock.monotonic() + HEAL_PAUSE;
            }
        }
        self.shared.healing.store(false, Ordering::Relaxed);
    }

    /// Growth of the journal that makes a checkpoint worth its writes, bytes.
    fn checkpoint_bytes(&self) -> u64 {
        let last = self.checkpoints.last().map_or(0, |last| last.bytes);
        last.max(self.sizes.checkpoint_bytes_min)
    }

    /// Rotates the segment and starts a checkpoint when they are due.
    fn maintain(&mut self) {
        if self.running.as_ref().is_some_and(|running| running.thread.is_finished()) {
            self.wait_for_checkpoint();
        }
        let due = self.checkpoint_bytes();
        if self.journal.segment_len() >= self.sizes.segment_bytes {
            // On a full disk the segment just grows on.
            let _ = self.close_segment(false);
        }
        if self.running.is_some() || self.bytes_since_try < due {
            return;
        }
        self.bytes_since_try = 0;
        if self.close_segment(false).is_err() {
            return;
        }
        let end = self.journal.end();
        let (shared, checkpoints) = (self.shared.clone(), self.checkpoints.clone());
        let (firsts, part) = (self.shared.segments.list(), self.sizes.merge_bytes);
        let result = Arc::new(Mutex::new(None));
        let cell = result.clone();
        let work = move || {
            let made = make_checkpoint(&shared, &checkpoints, &firsts, end, part);
            // The index is written out too, so that the next start has little to catch up with.
            let _ = shared.index().flush();
            if let Ok(mut cell) = cell.lock() {
                *cell = Some(made);
            }
        };
        match self.shared.sys.spawner.thread("skerry-checkpoint", work) {
            Ok(thread) => {
                self.running = Some(Running { thread, result, bytes_since: self.bytes_since });
            }
            Err(error) => log::warn!("no thread for a checkpoint, tried again later: {error}"),
        }
    }

    fn wait_for_checkpoint(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        let _ = running.thread.join();
        let made = running.result.lock().ok().and_then(|mut cell| cell.take());
        match made {
            Some(Ok(checkpoint)) => {
                self.bytes_since -= running.bytes_since;
                self.keep(checkpoint);
            }
            Some(Err(StoreError::Corrupt(_))) => {
                if let Err(error) = self.renew() {
                    log::error!("no checkpoint, tried again later: {error}");
                }
            }
            Some(Err(error)) => log::warn!("no checkpoint, tried again later: {error}"),
            None => log::error!("the checkpoint's thread panicked"),
        }
    }

    /// Makes a checkpoint from what is whole, now: nobody shall depend on what is damaged.
    fn renew(&mut self) -> Result<(), StoreError> {
        self.wait_for_checkpoint();
        self.close_segment(false)?;
        let end = self.journal.end();
        let (disk, layout) = (&*self.shared.disk, &self.shared.layout);
        let firsts = self.shared.segments.list();
        // One from which the journal cannot be read on is of no use any more, and keeps what is
        // damaged after it. What cannot be opened just now is no damage.
        let is_of_use = |c: &Checkpoint| match checkpoint::verify(disk, layout, c.end.sequence) {
            Ok(whole) => {
                let after: Vec<u64> =
                    firsts.iter().copied().filter(|first| *first > whole.end.sequence).collect();
                let read =
                    segment::replay(disk, layout, &after, whole.end, end.sequence, &mut |_| Ok(()));
                !matches!(read, Err(StoreError::Corrupt(_)))
            }
            Err(fault) => fault.damage().is_err(),
        };
        let kept = self.checkpoints.iter().copied().filter(is_of_use).collect();
        let before = std::mem::replace(&mut self.checkpoints, kept);
        let made = match self.checkpoint(end) {
            Ok(made) => made,
            Err(error) => {
                // The fault may pass.
                self.checkpoints = before;
                return Err(error);
            }
        };
        (self.bytes_since, self.bytes_since_try) = (0, 0);
        self.keep(made);
        log::warn!("a checkpoint was made in place of a damaged journal sequence={}", end.sequence);
        Ok(())
    }

    /// The checkpoint at the end of the journal. Where that is damaged, the index is all there is:
    /// a start would take it too. No older one leads there then.
    fn checkpoint(&mut self, end: segment::End) -> Result<Checkpoint, StoreError> {
        let (shared, firsts) = (&self.shared, self.shared.segments.list());
        let made = make_checkpoint(shared, &self.checkpoints, &firsts, end, self.sizes.merge_bytes);
        let index = shared.index();
        match made {
            Err(StoreError::Corrupt(_)) if !index.failed() && index.applied() == end.sequence => {
                let made = write_out(&*shared.disk, &shared.layout, &*index, end)?;
                self.checkpoints.clear();
                Ok(made)
            }
            made => made,
        }
    }

    fn keep(&mut self, checkpoint: Checkpoint) {
        self.shared.sys.metrics.checkpoint_bytes.add(checkpoint.bytes);
        self.checkpoints.retain(|older| older.end.sequence < checkpoint.end.sequence);
        self.checkpoints.push(checkpoint);
        let drop = self.checkpoints.len().saturating_sub(2);
        self.checkpoints.drain(..drop);
        if let Err(error) = self.prune() {
            log::warn!("old journal files cannot be removed: {error}");
        }
    }

    /// Removes checkpoints other than the last two, and segments that neither those nor children
    /// need.
    fn prune(&self) -> Result<(), StoreError> {
        let (disk, layout) = (&self.shared.disk, &self.shared.layout);
        let kept: Vec<_> =
            self.checkpoints.iter().map(|c| layout.checkpoint(c.end.sequence)).collect();
        for entry in disk.list(&layout.journal())? {
            let path = layout.journal().join(&entry.name);
            if entry.name.ends_with(".ckpt") && !kept.contains(&path) {
                disk.remove(&path)?;
            }
        }
        let [older, _] = self.checkpoints[..] else {
            return Ok(());
        };
        let retain = self.shared.retain.load(Ordering::Relaxed);
        let mut budget = if retain { JOURNAL_RETAIN_BYTES } else { 0 };
        let firsts = self.shared.segments.list();
        // Newest first, so that what children may still ask for stays without a gap.
        for pair in firsts.windows(2).rev() {
            let path = layout.segment(pair[0]);
            // One that is missing needs no more than to be forgotten.
            let is_there = disk.exists(&path)?;
            let len = if is_there { disk.file_len(&path)? } else { 0 };
            if pair[1] > older.end.sequence + 1 || len <= budget {
                budget = budget.saturating_sub(len);
                continue;
            }
            budget = 0;
            self.shared.segments.change(|firsts| firsts.retain(|first| *first != pair[0]));
            if is_there {
                disk.remove(&path)?;
            }
        }
        disk.sync_dir(&layout.journal())?;
        Ok(())
    }

    /// Closes the segment and writes the index out. A checkpoint is made only when it is due, so
    /// that a device that is switched off every day does not write all its metadata every day.
    fn close(&mut self) -> Result<(), StoreError> {
        self.wait_for_checkpoint();
        self.close_segment(true)?;
        let end = self.journal.end();
        if self.bytes_since >= self.checkpoint_bytes() {
            match self.checkpoint(end) {
                Ok(made) => self.keep(made),
                Err(error) => log::warn!("no checkpoint, tried again after the start: {error}"),
            }
        }
        let seed = self.seed();
        self.journal.mark_clean(seed)?;
        self.shared.index().flush()
    }
}

/// Merges from the last checkpoint, or from the one before it if that is damaged.
fn make_checkpoint(
    shared: &Shared,
    checkpoints: &[Checkpoint],
    firsts: &[u64],
    end: segment::End,
    part_bytes: usize,
) -> Result<Checkpoint, StoreError> {
    let mut bases: Vec<Option<Checkpoint>> = checkpoints.iter().rev().copied().map(Some).collect();
    bases.push(None);
    let mut result = Err(StoreError::Unavailable);
    for base in bases {
        result = checkpoint::merge(&*shared.disk, &shared.layout, base, firsts, end, part_bytes);
        match &result {
            Err(StoreError::Corrupt(what)) => log::error!("a checkpoint cannot use {what}"),
            _ => break,
        }
    }
    result
}

/// The content that no manifest of a repository names any more, if this is the change of the row
/// that counts them.
fn no_longer_needed((key, row): &Change) -> Option<Digest> {
    let is_gone = row.is_none() && key.first() == Some(&(Kind::Needed as u8));
    let (_, digest) = split_key(key).filter(|_| is_gone)?;
    Some(digest)
}

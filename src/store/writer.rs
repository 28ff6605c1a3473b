//! The one writer: a thread that runs commands in groups. One append and one fdatasync serve all
//! that wait; then the index takes the group, and only then is anyone answered.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use smol::channel::{Receiver, Sender};

use super::checkpoint::{self, Checkpoint};
use super::index::{Change, Index, NoIndex};
use super::journal::{self, Journal, Record};
use super::row::{Kind, prefix};
use super::{Inner, StoreError, Txn, recover};
use crate::types::limits::{
    GROUP_BYTES_MAX, GROUP_COMMANDS_MAX, JOURNAL_RETAIN_BYTES, SEGMENT_BYTES,
};

/// What reaches the writer.
pub(super) enum Message {
    /// Run a command.
    Run(Job),
    /// Look whether the index failed.
    Check,
    /// End the journal in order.
    Close(Sender<Result<(), StoreError>>),
}

/// A command and the way to its caller.
pub(super) struct Job(Box<dyn Command>);

trait Command: Send {
    fn run(&mut self, txn: &mut Txn<'_>) -> Result<(), StoreError>;
    fn reply(self: Box<Self>, result: Result<(), StoreError>);
}

struct Typed<T, F> {
    command: Option<F>,
    value: Option<T>,
    reply: Sender<Result<T, StoreError>>,
}

impl Job {
    pub(super) fn new<T: Send + 'static>(
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
        reply: Sender<Result<T, StoreError>>,
    ) -> Job {
        Job(Box::new(Typed { command: Some(command), value: None, reply }))
    }
}

impl<T, F> Command for Typed<T, F>
where
    T: Send,
    F: FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, txn: &mut Txn<'_>) -> Result<(), StoreError> {
        let command = self.command.take().ok_or(StoreError::Unavailable)?;
        self.value = Some(command(txn)?);
        Ok(())
    }

    fn reply(self: Box<Self>, result: Result<(), StoreError>) {
        let value = self.value.ok_or(StoreError::Unavailable);
        let _ = self.reply.try_send(result.and(value));
    }
}

/// What the checkpoint thread and the writer share.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// The last two, the newest last.
    pub(super) last: Vec<Checkpoint>,
    /// Whether one is being made.
    running: bool,
}

/// The writer's own state.
pub(super) struct Writer {
    inner: Arc<Inner>,
    journal: Journal,
    checkpoints: Arc<Mutex<Checkpoints>>,
    /// Journal bytes since the last checkpoint.
    since_checkpoint: u64,
}

impl Writer {
    pub(super) fn new(
        inner: Arc<Inner>,
        journal: Journal,
        last: Vec<Checkpoint>,
        since_checkpoint: u64,
    ) -> Writer {
        let checkpoints = Arc::new(Mutex::new(Checkpoints { last, running: false }));
        Writer { inner, journal, checkpoints, since_checkpoint }
    }

    /// Runs until the store is closed or every handle on it is gone.
    pub(super) fn run(mut self, commands: &Receiver<Message>) {
        let mut closing = None;
        while let Ok(first) = commands.recv_blocking() {
            let mut jobs = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Run(job) => jobs.push(job),
                    Message::Check => {}
                    Message::Close(reply) => closing = Some(reply),
                }
                let full = jobs.len() >= GROUP_COMMANDS_MAX || closing.is_some();
                next = if full { None } else { commands.try_recv().ok() };
            }
            self.heal_index();
            self.group(jobs);
            if let Some(reply) = closing {
                commands.close();
                let _ = reply.try_send(self.close());
                return;
            }
            self.maintain();
        }
        if let Err(error) = self.close() {
            log::error!("the journal did not end in order: {error}");
        }
    }

    /// One group: run, append, sync, apply, answer. A group that grows too large is ended early
    /// and the rest makes the next one.
    fn group(&mut self, jobs: Vec<Job>) {
        let mut jobs = jobs.into_iter();
        loop {
            let index = self.inner.index();
            let mut overlay = BTreeMap::new();
            let mut records: Vec<Vec<Change>> = Vec::new();
            let mut done = Vec::new();
            let mut bytes = 0;
            for mut job in jobs.by_ref() {
                let mut txn = Txn::over(&*index, &overlay);
                let ran = catch_unwind(AssertUnwindSafe(|| job.0.run(&mut txn)));
                let result = ran.unwrap_or_else(|_| {
                    self.inner.sys.metrics.panics.add(1);
                    log::error!("defect: a store command panicked; it changed nothing");
                    Err(StoreError::Unavailable)
                });
                if result.is_ok() {
                    let changes = txn.into_changes();
                    if !changes.is_empty() {
                        bytes += changes.iter().map(change_len).sum::<usize>();
                        overlay.extend(changes.iter().cloned());
                        records.push(changes);
                    }
                }
                done.push((job, result));
                if bytes > GROUP_BYTES_MAX {
                    break;
                }
            }
            if done.is_empty() {
                return;
            }
            drop(index);
            let durable = if records.is_empty() { Ok(()) } else { self.commit(records) };
            for (job, result) in done {
                // A refusal may rest on what the group had changed: it too waited until here.
                job.0.reply(result.and(durable.clone()));
            }
        }
    }

    /// Makes records durable and visible.
    fn commit(&mut self, records: Vec<Vec<Change>>) -> Result<(), StoreError> {
        let wall = self.inner.sys.clock.wall();
        let first = self.journal.end().sequence + 1;
        let mut payloads = Vec::with_capacity(records.len());
        let mut numbered = Vec::with_capacity(records.len());
        for (sequence, changes) in (first..).zip(records) {
            let record = Record { sequence, wall, changes };
            payloads.push(journal::payload(&record)?);
            numbered.push((sequence, record.changes));
        }
        let seed = u32::try_from(self.inner.sys.rng.number() & 0xffff_ffff).unwrap_or(1);
        let written = self.journal.append(&payloads, seed).inspect_err(|error| {
            let after = if self.journal.poisoned() { "; the store is read-only now" } else { "" };
            log::error!("the journal could not be written: {error}{after}");
        })?;
        self.since_checkpoint += written;
        let metrics = &self.inner.sys.metrics;
        metrics.journal_groups.add(1);
        metrics.journal_bytes.add(written);
        let through = self.journal.end().sequence;
        let all: Vec<Change> =
            numbered.iter().flat_map(|(_, changes)| changes.iter().cloned()).collect();
        if self.inner.index().apply(through, &all).is_err() {
            // The group is durable: the index is brought up to it before anyone is answered.
            self.rebuild_index("a group could not be applied");
        }
        self.inner.publish(through, numbered);
        Ok(())
    }

    fn heal_index(&mut self) {
        if self.inner.index().failed() {
            self.rebuild_index("it failed");
        }
    }

    fn rebuild_index(&mut self, why: &str) {
        log::warn!("building the index again: {why}");
        self.inner.sys.metrics.index_rebuilds.add(1);
        // The old one must be closed before its directory is moved away.
        self.inner.set_index(Arc::new(NoIndex));
        let base = self.lock_checkpoints().last.last().copied();
        let inner = &self.inner;
        let firsts = inner.segments.list();
        let end = self.journal.end().sequence;
        match recover::build_index(&inner.disk, &inner.layout, base, &firsts, end) {
            Ok(index) => {
                inner.set_index(index);
                log::info!("the index is complete again");
            }
            Err(error) => log::error!("the index cannot be built: {error}"),
        }
    }

    fn lock_checkpoints(&self) -> std::sync::MutexGuard<'_, Checkpoints> {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rotates the segment and starts a checkpoint when they are due.
    fn maintain(&mut self) {
        if self.journal.segment_len() >= SEGMENT_BYTES
            && let Err(error) = self.journal.close_segment()
        {
            log::error!("a segment could not be closed: {error}");
            return;
        }
        let mut checkpoints = self.lock_checkpoints();
        let last = checkpoints.last.last().copied();
        let due = self.since_checkpoint > last.map_or(0, |last| last.bytes).max(SEGMENT_BYTES);
        if !due || checkpoints.running || self.journal.poisoned() {
            return;
        }
        checkpoints.running = true;
        drop(checkpoints);
        if let Err(error) = self.journal.close_segment() {
            log::error!("a segment could not be closed: {error}");
            self.lock_checkpoints().running = false;
            return;
        }
        self.since_checkpoint = 0;
        let (inner, checkpoints) = (self.inner.clone(), self.checkpoints.clone());
        let (firsts, end) = (self.inner.segments.list(), self.journal.end());
        let make = move || {
            let made = checkpoint::merge(&*inner.disk, &inner.layout, last, &firsts, end);
            let mut state = checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            match made {
                Ok(made) => {
                    inner.sys.metrics.checkpoint_bytes.add(made.bytes);
                    state.last.push(made);
                    prune(&inner, &mut state.last);
                }
                Err(error) => log::error!("a checkpoint could not be made: {error}"),
            }
        };
        if let Err(error) = self.inner.sys.spawner.thread("skerry-ckpt", make) {
            log::error!("a checkpoint could not be started: {error}");
            self.lock_checkpoints().running = false;
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let index = self.inner.index();
        if let Err(error) = index.flush() {
            log::warn!("the index could not be written out: {error}");
        }
        self.journal.close_segment()
    }
}

fn change_len((key, row): &Change) -> usize {
    key.len() + row.as_ref().map_or(0, Vec::len) + 16
}

/// Keeps the last two checkpoints, the segments after the older one, and what children may still
/// ask for.
fn prune(inner: &Inner, last: &mut Vec<Checkpoint>) {
    if let Err(error) = inner.index().flush() {
        log::warn!("the index could not be written out: {error}");
    }
    while last.len() > 2 {
        let old = last.remove(0);
        if let Err(error) = inner.disk.remove(&inner.layout.checkpoint(old.end.sequence)) {
            log::warn!("an old checkpoint could not be removed: {error}");
        }
    }
    let Some(oldest) = last.first().filter(|_| last.len() == 2) else { return };
    let followers = inner.index().scan(&prefix(Kind::ConnectedRegistry, &[]), None, 1);
    let mut retain = match followers {
        Ok(rows) if rows.is_empty() => 0,
        _ => JOURNAL_RETAIN_BYTES,
    };
    let firsts = inner.segments.list();
    for pair in firsts.windows(2).rev() {
        let (first, next) = (pair[0], pair[1]);
        if next > oldest.end.sequence + 1 {
            continue;
        }
        let path = inner.layout.segment(first);
        let len = inner.disk.file_len(&path).unwrap_or(0);
        if len <= retain {
            retain -= len;
            continue;
        }
        retain = 0;
        inner.segments.change(|firsts| firsts.retain(|known| *known != first));
        if let Err(error) = inner.disk.remove(&path) {
            log::warn!("{} could not be removed: {error}", path.display());
        }
    }
    let _ = inner.disk.sync_dir(&inner.layout.journal());
}

//! Backups: a directory that looks like a state directory, taken while the node runs.
//!
//! A backup is the last checkpoint, the segments after it up to the last durable record, which it
//! names, the identity, what may have been lost before, and the content. The journal's files are
//! held open, so that nothing has to stop; the garbage collection waits, so that what the records
//! refer to stays. A restored store has a new feed epoch: whoever followed it compares everything.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::digest::Context;

use super::index::sums::hash;
use super::journal::checkpoint;
use super::journal::layout::{
    FEED_EPOCH, IDENTITY_BYTES_MAX, LOST_RECORDS, Layout, OpenError, STORE_ID, relative,
};
use super::journal::reached;
use super::journal::segment::{self, End};
use super::recovery::found::Recovery;
use super::recovery::loss;
use super::rows::format::StoreFormat;
use super::{IndexKind, Store, StoreError, StoreOptions};
use crate::sys::disk::{DiskFile, Entry};
use crate::sys::{Disk, Sys, spawn};
use crate::types::digest::Algorithm;
use crate::types::{Digest, RepositoryName};

/// Backups that a store knows of, 17 bytes each. Over it: one to a directory that holds an older
/// one needs `--replace`.
const MARKS_MAX: usize = 512;
/// A backup of which nobody says for this long that it goes on does not hold the garbage collection
/// up.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// Content that a backup did not find and that is noted when it ends. Over it: the next scrub finds
/// the rest.
const MISSING_MAX: usize = 4096;
/// Missing content that a restore names.
const NAMED_MAX: usize = 10;
/// How often the journal's files are listed: one may go meanwhile, or be damaged.
pub(super) const LISTS_MAX: usize = 3;
/// Copied at a time, bytes.
const COPY_BYTES: usize = 256 * 1024;

/// The number of the backup under way, and when somebody last said that it goes on.
#[derive(Default)]
pub(super) struct Hold(Mutex<(u64, Option<Duration>)>);

impl Hold {
    /// Whether a backup is under way.
    pub(super) fn is_held(&self, now: Duration) -> bool {
        self.state().1.is_some_and(|last| now.saturating_sub(last) < HOLD_MAX)
    }

    fn state(&self) -> MutexGuard<'_, (u64, Option<Duration>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file of a backup, beside content.
#[derive(Clone)]
pub struct BackupFile {
    /// Its path in the state directory.
    pub name: String,
    /// How much of it belongs to the backup, bytes.
    pub len: u64,
    /// Open for reading.
    pub file: Arc<dyn DiskFile>,
}

/// A backup under way; the garbage collection waits until it is dropped.
pub struct Backup {
    store: Store,
    number: u64,
    /// The last record in it.
    pub sequence: u64,
    /// The last record that the journal is known to have had. Later than that where the journal
    /// of a store that is only looked at has lost its end.
    pub end: u64,
    /// What may have been lost before.
    pub lost: Option<String>,
    /// What its `format` file says.
    pub format: StoreFormat,
    /// All files beside content and the format, which is written when the rest is there.
    pub files: Vec<BackupFile>,
    /// The content that was not found.
    missing: Mutex<BTreeSet<Digest>>,
}

impl Drop for Backup {
    fn drop(&mut self) {
        let mut hold = self.store.shared().backup.state();
        if hold.0 == self.number {
            hold.1 = None;
        }
    }
}

impl Backup {
    /// Content. `None` when it is not here, or damaged.
    pub async fn content(&self, digest: &Digest) -> Result<Option<BackupFile>, StoreError> {
        let open = self.store.blob_open(digest).await?;
        if open.is_none() {
            let mut missing = self.missing();
            if missing.len() < MISSING_MAX {
                missing.insert(digest.clone());
            }
        }
        let name = relative(digest);
        Ok(open.map(|blob| BackupFile { name, len: blob.len, file: blob.file }))
    }

    /// Notes as damage what was not found although a repository refers to it; reads all links if
    /// there is something.
    pub async fn note_missing(&self) -> Result<(), StoreError> {
        let missing = take(&mut *self.missing());
        if missing.is_empty() {
            return Ok(());
        }
        let mut links = BTreeMap::new();
        self.store
            .each_link(|link| {
                let digest = link.digest()?;
                if missing.contains(&digest) {
                    links.insert(digest, (link.key.clone(), link.referred()?.len()));
                }
                Ok(())
            })
            .await?;
        let mut result = Ok(());
        for (digest, (link, len)) in links {
            let checked = self.store.check_file(link, &digest, len).await;
            result = result.and(checked.map(|_| ()));
        }
        result
    }

    fn missing(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the backup goes on. `false`: another one began, or nobody said so for too long,
    /// and what its records name may have gone since.
    pub fn keep(&self) -> bool {
        let now = self.store.sys().clock.monotonic();
        let mut hold = self.store.shared().backup.state();
        let last = hold.1.filter(|last| now.saturating_sub(*last) < HOLD_MAX);
        let goes_on = hold.0 == self.number && last.is_some();
        if goes_on {
            hold.1 = Some(now);
        }
        goes_on
    }
}

impl Store {
    /// Begins a backup, in place of one that may be under way. `Conflict` while garbage is
    /// collected.
    pub async fn begin_backup(&self) -> Result<Backup, StoreError> {
        let shared = self.shared();
        let number = {
            let mut hold = shared.backup.state();
            *hold = (hold.0 + 1, Some(shared.sys.clock.monotonic()));
            hold.0
        };
        let (store, format) = (self.clone(), self.format());
        let mut backup = Backup {
            store,
            number,
            sequence: 0,
            end: 0,
            lost: self.loss(),
            format,
            files: Vec::new(),
            missing: Mutex::default(),
        };
        if shared.garbage.is_taken() {
            let text = "a garbage collection is under way; try again in a moment";
            return Err(StoreError::Conflict(text.to_owned()));
        }
        let shared = shared.clone();
        self.note_backup().await;
        let mut result = Err(StoreError::Unavailable);
        for _ in 0..LISTS_MAX {
            let listing = shared.clone();
            let listed = spawn::blocking(move || {
                // What is durable now is in the files that are there now, or were a moment ago.
                let reached = reached::read(&*listing.disk, &listing.layout);
                let sequence = listing.feed.published();
                let files = files(&*listing.disk, &listing.layout, sequence)?;
                Ok::<_, StoreError>((sequence, reached.max(sequence), files))
            });
            match listed.await {
                Ok((sequence, end, files)) => {
                    (backup.sequence, backup.end, backup.files) = (sequence, end, files);
                    // After the files: the format may have risen before their last rows.
                    backup.format = self.format();
                    return Ok(backup);
                }
                Err(StoreError::Corrupt(what)) => {
                    log::error!("a backup cannot use {what}");
                    result = Err(StoreError::Corrupt(what));
                    self.renew_checkpoint().await?;
                }
                // A segment may go while the list is made.
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Notes in the file that tells backups of this store from others that there is one more: a
    /// state from before, to which the store may be set back, does not know of it. A full disk must
    /// not keep a backup from being made: without the file other ones are compared.
    async fn note_backup(&self) {
        // A store that nothing may be changed in keeps its last mark.
        if self.shared().frozen {
            return;
        }
        let store = self.clone();
        let noted = spawn::blocking(move || {
            let rng = store.sys().rng.clone();
            let make = || Ok(format!("{}\n", rng.uuid()).into_bytes());
            // One that lost its mark would be the same store as any other that did.
            let is_valid = |file: &[u8]| file.first().is_some_and(u8::is_ascii_graphic);
            let (file, was_replaced) = store.valid_identity_file(STORE_ID, is_valid, make)?;
            if was_replaced {
                log::warn!(
                    "the mark of this store (identity/{STORE_ID} in the state directory) is empty \
                     or damaged and was replaced by a new one: into the directory of an earlier \
                     backup it is backed up with --replace only"
                );
            }
            let text = String::from_utf8_lossy(&file);
            let (id, marks) = text.split_once('\n').unwrap_or((&text, ""));
            let known: Vec<&str> = marks.lines().collect();
            let kept = &known[known.len().saturating_sub(MARKS_MAX - 1)..];
            let lines = std::iter::once(id).chain(kept.iter().copied());
            let text: String = lines.flat_map(|line| [line, "\n"]).collect();
            let text = format!("{text}{:016x}\n", rng.number());
            store.replace_identity_file(STORE_ID, text.as_bytes())
        });
        if let Err(error) = noted.await {
            log::warn!("cannot note that there is a backup of this store: {error}");
        }
    }

    /// Where the store lies.
    pub fn state_dir(&self) -> &Path {
        self.shared().layout.root()
    }
}

/// The journal and the identity, held open. `Corrupt` when what the journal says up to `through`
/// cannot be read from them.
fn files(disk: &dyn Disk, layout: &Layout, through: u64) -> Result<Vec<BackupFile>, StoreError> {
    let mut files = Vec::new();
    let mut add = |name: String, path: &Path| {
        let file = disk.open(path).map_err(StoreError::at(path))?;
        files.push(BackupFile { name, len: file.len().map_err(StoreError::at(path))?, file });
        Ok::<(), StoreError>(())
    };
    let entries = disk.list(&layout.journal()).map_err(StoreError::at(&layout.journal()))?;
    let numbers = |end: &str| {
        let number = |entry: &Entry| entry.name.strip_suffix(end)?.parse::<u64>().ok();
        let mut numbers: Vec<u64> = entries.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    };
    let checkpoints = numbers(".ckpt").into_iter().rev();
    let base =
        checkpoints.map(|number| checkpoint::verify(disk, layout, number)).find_map(Result::ok);
    let from = base.map_or(End::default(), |base| base.end);
    let firsts: Vec<u64> = numbers(".log").into_iter().filter(|n| *n > from.sequence).collect();
    segment::replay(disk, layout, &firsts, from, through, &mut |_| Ok(()))?;
    if from.sequence > 0 {
        let name = format!("journal/{:020}.ckpt", from.sequence);
        add(name, &layout.checkpoint(from.sequence))?;
    }
    for first in firsts {
        add(format!("journal/{first:020}.log"), &layout.segment(first))?;
    }
    if disk.exists(&layout.loss())? {
        add(LOST_RECORDS.to_owned(), &layout.loss())?;
    }
    for entry in disk.list(&layout.identity()).map_err(StoreError::at(&layout.identity()))? {
        if !entry.is_dir && entry.name != FEED_EPOCH && !entry.name.ends_with(".tmp") {
            add(format!("identity/{}", entry.name), &layout.identity().join(&entry.name))?;
        }
    }
    Ok(files)
}

/// What a restore did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// The last record in it.
    pub sequence: u64,
    /// Content that was copied and has its digest.
    pub blobs: u64,
    /// Its length, bytes.
    pub bytes: u64,
    /// Content that is referred to and is not in the backup, or damaged there.
    pub missing: u64,
    /// Some of that content, each with the repositories that refer to it.
    pub named: BTreeMap<Digest, BTreeSet<RepositoryName>>,
    /// The records that the backup has lost, and those that may have been lost before it.
    pub lost: Option<String>,
    /// Files of the identity that are not what they were when the backup was made, or cannot be
    /// read.
    pub changed: Vec<String>,
}

/// Notes in the directory of a backup which record is the last one, and what the identity is.
pub fn seal(disk: &dyn Disk, directory: &Path, end: u64) -> std::io::Result<()> {
    let layout = Layout::new(directory);
    let mut sums = String::new();
    for entry in disk.list(&layout.identity())? {
        let bytes = disk.read(&layout.identity().join(&entry.name), IDENTITY_BYTES_MAX)?;
        sums.push_str(&sum_of(&bytes, &entry.name));
        sums.push('\n');
    }
    disk.replace(&layout.identity_sums(), sums.as_bytes())?;
    reached::replace(disk, &layout, end)
}

/// A line of the sums: the CRC of a file, and its name.
fn sum_of(bytes: &[u8], name: &str) -> String {
    format!("{:08x} {name}", hash(0, &[bytes]))
}

/// The files of the identity that are not what a backup has noted of them. Backups of earlier
/// versions have no note.
fn changed_identity(disk: &dyn Disk, layout: &Layout) -> Vec<String> {
    let sums = disk.read(&layout.identity_sums(), IDENTITY_BYTES_MAX).unwrap_or_default();
    let sums = String::from_utf8_lossy(&sums);
    let names = sums.lines().filter_map(|line| {
        let (_, name) = line.split_once(' ')?;
        let found = disk.read(&layout.identity().join(name), IDENTITY_BYTES_MAX);
        let is_same = found.is_ok_and(|bytes| sum_of(&bytes, name) == line);
        (!is_same).then(|| name.to_owned())
    });
    names.collect()
}

/// Opens a backup to read it; the recovery says what the backup has lost of its own end.
pub fn open(sys: &Sys, directory: &Path) -> Result<(Store, Recovery), OpenError> {
    let layout = Layout::new(directory);
    let options =
        StoreOptions { frozen: true, index: IndexKind::Map, ..StoreOptions::new(directory) };
    for part in [layout.journal(), layout.identity()] {
        if !sys.disk.exists(&part).map_err(OpenError::io(&part))? {
            return Err(OpenError::Backup { path: part, cause: "it is missing".to_owned() });
        }
    }
    // Reads and checks all of its metadata.
    Store::open(sys.clone(), options).map_err(OpenError::of_backup)
}

/// Makes a state directory from a backup. The directory must be empty, or hold a restore that was
/// cut short. Content is hashed on the way. Blocks.
pub fn restore(sys: &Sys, from: &Path, state_dir: &Path) -> Result<Restored, OpenError> {
    let disk = &*sys.disk;
    let (source, target) = (Layout::new(from), Layout::new(state_dir));
    let (backup, recovery) = open(sys, from)?;
    let before = loss::read(disk, &source).map_err(OpenError::io(&source.loss()))?;
    let lock = prepare(disk, &target)?;
    let mut restored = Restored {
        sequence: recovery.sequence,
        lost: backup.loss(),
        changed: changed_identity(disk, &source),
        ..Restored::default()
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: StoreError| OpenError::Io { path, cause: error.to_string() }
    };
    // Several repositories may refer to one.
    let mut missing = BTreeSet::new();
    let copied = backup.each_content(|repository, digest, _| {
        let place = target.blob(digest);
        if let Some(repositories) = restored.named.get_mut(digest) {
            repositories.insert(repository.clone());
        }
        if missing.contains(digest) || disk.exists(&place)? {
            return Ok(());
        }
        match copy(disk, &source.blob(digest), &place, Some(digest)) {
            Ok(bytes) => {
                restored.blobs += 1;
                restored.bytes += bytes;
            }
            Err(StoreError::NotFound | StoreError::Corrupt(_)) => {
                missing.insert(digest.clone());
                if restored.named.len() < NAMED_MAX {
                    let repositories = BTreeSet::from([repository.clone()]);
                    restored.named.insert(digest.clone(), repositories);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    });
    copied.map_err(failed(&target.root().join("blobs")))?;
    restored.missing = missing.len() as u64;
    // As damage is noted: the node that is started there tells of it, and brings it back if it can.
    let quarantine = target.quarantine();
    if !missing.is_empty() {
        disk.create_dir_all(&quarantine).map_err(OpenError::io(&quarantine))?;
    }
    for digest in &missing {
        let place = target.quarantined(digest);
        disk.replace(&place, b"").map_err(OpenError::io(&place))?;
    }
    for directory in [source.identity(), source.journal()] {
        let entries = disk.list(&directory).map_err(OpenError::io(&directory))?;
        // A directory there is a person's.
        for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
            // Of a stopped state that was copied: what is restored has a new one.
            if entry.name == FEED_EPOCH {
                continue;
            }
            let part = directory.file_name().unwrap_or_default();
            let place = target.root().join(part).join(&entry.name);
            match copy(disk, &directory.join(&entry.name), &place, None) {
                Ok(_) => {}
                // The node makes another, as where it is missing.
                Err(StoreError::Corrupt(_)) if directory == source.identity() => {
                    if !restored.changed.contains(&entry.name) {
                        restored.changed.push(entry.name);
                    }
                }
                Err(error) => return Err(failed(&place)(error)),
            }
        }
    }
    // The node that is started there tells of a loss before the backup, and of one of its end.
    if let Some(before) = before {
        loss::write(disk, &target, &before).map_err(OpenError::io(&target.loss()))?;
    }
    let end = reached::read(disk, &source);
    reached::replace(disk, &target, end).map_err(OpenError::io(&target.reached()))?;
    let path = target.root();
    target.write_format(disk, backup.format()).map_err(OpenError::io(path))?;
    disk.sync_fs(path).map_err(OpenError::io(path))?;
    disk.remove(&target.restoring()).map_err(OpenError::io(path))?;
    disk.sync_dir(path).map_err(OpenError::io(path))?;
    drop(lock);
    Ok(restored)
}

/// Takes an empty directory, or what a restore before this one left.
fn prepare(disk: &dyn Disk, target: &Layout) -> Result<Box<dyn Send + Sync>, OpenError> {
    let root = target.root();
    let io = OpenError::io(root);
    disk.create_dir_all(root).map_err(&io)?;
    let lock = disk.lock_dir(root).map_err(|_| OpenError::Locked { path: root.to_owned() })?;
    let unfinished = disk.exists(&target.restoring()).map_err(&io)?;
    let entries = disk.list(root).map_err(&io)?;
    if !unfinished && entries.iter().any(|entry| entry.name != "lost+found") {
        return Err(OpenError::StateDir {
            path: root.to_owned(),
            cause: "it is not empty".to_owned(),
            cure: "restore into an empty directory; move this one away first",
        });
    }
    if !unfinished {
        disk.replace(&target.restoring(), b"a restore is under way\n").map_err(&io)?;
    }
    // Of an unfinished one only content is kept, which is checked by its name.
    for path in [target.reached(), target.loss()] {
        if disk.exists(&path).map_err(&io)? {
            disk.remove(&path).map_err(&io)?;
        }
    }
    for path in [target.journal(), target.identity()] {
        if disk.exists(&path).map_err(&io)? {
            disk.remove_dir_all(&path).map_err(&io)?;
        }
        disk.create_dir_all(&path).map_err(&io)?;
    }
    disk.create_dir_all(&target.uploads()).map_err(&io)?;
    Ok(lock)
}

/// Copies a file; a name never stands for bytes that are not durable. `NotFound` when there is
/// none, `Corrupt` when its bytes do not have the digest or the medium has lost them, `Unreadable`
/// when it cannot be read for a cause that can be cured.
fn copy(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    digest: Option<&Digest>,
) -> Result<u64, StoreError> {
    let unreadable = |error: &std::io::Error| {
        let text = format!("{} cannot be read: {error}", from.display());
        match StoreError::is_fault_of_the_medium(error) {
            true => StoreError::Corrupt(text),
            false => StoreError::Unreadable(text),
        }
    };
    let source = match disk.open(from) {
        Ok(source) => source,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StoreError::NotFound);
        }
        Err(error) => return Err(unreadable(&error)),
    };
    let parent = to.parent().unwrap_or(Path::new("."));
    disk.create_dir_all(parent)?;
    let temporary = to.with_extension("tmp");
    let _ = disk.remove(&temporary);
    let target = disk.create(&temporary)?;
    let algorithm = digest.map_or(Algorithm::Sha256, Digest::algorithm);
    let mut hash = Context::new(algorithm.function());
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    loop {
        let read = source.read_at(&mut buffer, offset).map_err(|error| unreadable(&error));
        let read = read.inspect_err(|_| drop(disk.remove(&temporary)))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        target.write_all_at(&buffer[..read], offset)?;
        offset += read as u64;
    }
    if digest.is_some_and(|digest| hash.finish().as_ref() != digest.raw()) {
        disk.remove(&temporary)?;
        return Err(StoreError::Corrupt(format!("{} has another digest", from.display())));
    }
    target.sync_data()?;
    disk.rename(&temporary, to)?;
    Ok(offset)
}

/// What a backup and a restore come to for the rows, for tests of what stands above.
#[cfg(test)]
impl Store {
    /// All rows but those that follow from others.
    pub(in crate::store) fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = self.look_up(|index| index.scan(&[], None, usize::MAX)).unwrap();
        rows.retain(|(key, _)| !super::rows::derived::is_derived(key));
        rows
    }

    /// The rows that a backup has.
    pub(crate) fn rows_of_backup(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.rows()
    }

    /// A store that has these rows, and a feed epoch of its own. Its journal does not have them.
    pub(crate) fn restored(sys: Sys, rows: Vec<(Vec<u8>, Vec<u8>)>) -> Store {
        let store = Store::in_memory(sys);
        let changes: Vec<_> = rows.into_iter().map(|(key, row)| (key, Some(row))).collect();
        super::recovery::apply::apply(&*store.shared().index(), 1, changes).unwrap();
        store
    }

    /// Sets the disk back to these rows, as a snapshot does, and starts again: the life of the
    /// store stays the same.
    pub(crate) fn set_back(&self, rows: Vec<(Vec<u8>, Vec<u8>)>) {
        let kept: BTreeSet<_> = rows.iter().map(|(key, _)| key.clone()).collect();
        let gone = self.rows().into_iter().map(|(key, _)| key).filter(|key| !kept.contains(key));
        let mut changes: Vec<_> = gone.map(|key| (key, None)).collect();
        changes.extend(rows.into_iter().map(|(key, row)| (key, Some(row))));
        let index = self.shared().index();
        super::recovery::apply::apply(&*index, self.sequence(), changes).unwrap();
        self.start_again();
    }

    /// Gives the changes that are made from here on the names of another start.
    pub(crate) fn start_again(&self) {
        self.shared().counts.begin(self.sys().rng.number());
    }
}

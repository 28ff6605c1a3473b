//! A disk in memory, for tests: it knows what a power cut would leave, and fails on request.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile, Entry, Space};
use crate::types::UnixSeconds;

/// A file system in memory. A clone is another handle on it.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Content>>,
    durable: BTreeMap<PathBuf, Arc<Content>>,
    /// Names that came or went since their directory was synced.
    changed: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    durable_directories: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    syncs_until_failure: Option<u32>,
    full: Arc<AtomicBool>,
    /// The disk says that nothing is free, and takes what is written.
    below_reserve: bool,
    /// The disk is full as long as this file is there.
    filled_by: Option<PathBuf>,
    read_only: bool,
    /// Files that cannot be read.
    unreadable: BTreeSet<PathBuf>,
    /// Files that keep their names.
    immutable: BTreeSet<PathBuf>,
    /// Files that cannot even be looked at.
    hidden: BTreeSet<PathBuf>,
    /// Calls so far that change something.
    calls: u64,
    crash_at: Option<u64>,
    fail_at: Option<u64>,
    full_at: Option<u64>,
    /// Files, by the end of their names, in which every write flips a bit.
    flips: Option<&'static str>,
    /// The call at which the power went or the disk failed.
    struck: Option<(&'static str, PathBuf)>,
    /// What is left since the power went.
    wreck: Option<Wreck>,
    watcher: Option<Watcher>,
}

/// Is called in each read and write of a file, with which of them it is, the path and the bytes.
type Watcher = Arc<dyn Fn(&'static str, &Path, usize) + Send + Sync>;

/// Files and directories at the moment the power went.
#[derive(Clone)]
struct Wreck {
    files: BTreeMap<PathBuf, Bytes>,
    durable: BTreeMap<PathBuf, Bytes>,
    directories: BTreeSet<PathBuf>,
    durable_directories: BTreeSet<PathBuf>,
}

/// What of the bytes that were not synced is found after the power went.
#[derive(Clone, Copy, Debug)]
pub enum Survivors {
    /// None, and no name either: what a disk must keep and no more.
    Synced,
    /// All of them, as when only the process ends.
    Everything,
    /// All names, but of each file by chance the synced bytes, all, the first so many, or zeros in
    /// place of those that were not synced, as file systems do that allocate late.
    Torn(u64),
}

/// The files in a directory. What is below one follows it in the order of paths.
fn files_in<'a, T>(
    files: &'a BTreeMap<PathBuf, T>,
    directory: &'a Path,
) -> impl Iterator<Item = (&'a PathBuf, &'a T)> {
    let below = files.range::<Path, _>((Bound::Included(directory), Bound::Unbounded));
    let below = below.take_while(move |(file, _)| file.starts_with(directory));
    below.filter(move |(file, _)| file.parent() == Some(directory))
}

/// The paths, of those, in a directory.
fn paths_in<'a>(
    paths: &'a BTreeSet<PathBuf>,
    directory: &'a Path,
) -> impl Iterator<Item = &'a PathBuf> {
    let below = paths.range::<Path, _>((Bound::Included(directory), Bound::Unbounded));
    let below = below.take_while(move |child| child.starts_with(directory));
    below.filter(move |child| child.parent() == Some(directory))
}

struct Content(Mutex<Bytes>);

#[derive(Clone, Default)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
}

struct MemoryFile {
    content: Arc<Content>,
    disk: MemoryDisk,
    path: PathBuf,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slice_from(bytes: &[u8], offset: u64) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[start..]
}

impl MemoryDisk {
    /// An empty disk with a root directory.
    pub fn new() -> MemoryDisk {
        let disk = MemoryDisk::default();
        hold(&disk.0).directories.insert(PathBuf::from("/"));
        hold(&disk.0).durable_directories.insert(PathBuf::from("/"));
        disk
    }

    /// What is found after a power cut now: nothing that was not synced.
    pub fn after_power_cut(&self) -> MemoryDisk {
        self.after_crash(Survivors::Synced)
    }

    /// What is found after the power went: at [`MemoryDisk::crash_at`], or now.
    pub fn after_crash(&self, survivors: Survivors) -> MemoryDisk {
        let state = hold(&self.0);
        let wreck = state.wreck.clone().unwrap_or_else(|| state.wreck());
        let (files, directories) = match survivors {
            Survivors::Synced => (wreck.durable, wreck.durable_directories),
            Survivors::Everything | Survivors::Torn(_) => (wreck.files, wreck.directories),
        };
        let mut chance = match survivors {
            Survivors::Torn(seed) => seed,
            _ => 0,
        };
        let found = |(path, bytes): (PathBuf, Bytes)| {
            let left = match survivors {
                Survivors::Synced => bytes.durable,
                Survivors::Everything => bytes.now,
                Survivors::Torn(_) => torn(bytes, &mut chance),
            };
            let bytes = Bytes { now: left.clone(), durable: left };
            (path, Arc::new(Content(Mutex::new(bytes))))
        };
        let files: BTreeMap<_, _> = files.into_iter().map(found).collect();
        let state = State {
            durable: files.clone(),
            files,
            durable_directories: directories.clone(),
            directories,
            ..State::default()
        };
        MemoryDisk(Arc::new(Mutex::new(state)))
    }

    /// Lets the power go at the `call`-th call from the start that changes something; a write
    /// then writes its first half. All later calls fail.
    pub fn crash_at(&self, call: u64) {
        hold(&self.0).crash_at = Some(call);
    }

    /// Fails the `call`-th call from the start that changes something, once.
    pub fn fail_at(&self, call: u64) {
        hold(&self.0).fail_at = Some(call);
    }

    /// Lets every write to a file whose path ends like this flip a bit, or none any more.
    pub fn flip_writes(&self, end: Option<&'static str>) {
        hold(&self.0).flips = end;
    }

    /// Lets the disk be full from the `call`-th call on that changes something.
    pub fn full_at(&self, call: u64) {
        hold(&self.0).full_at = Some(call);
    }

    /// Calls so far that change something.
    pub fn calls(&self) -> u64 {
        hold(&self.0).calls
    }

    /// The call that was struck, and its file.
    pub fn struck(&self) -> Option<(&'static str, PathBuf)> {
        hold(&self.0).struck.clone()
    }

    /// Counts a call; its error when it is struck. `torn` does the half of a write.
    fn step(&self, call: &'static str, path: &Path, torn: impl FnOnce()) -> io::Result<()> {
        let mut state = self.state();
        state.alive()?;
        state.calls += 1;
        if state.full_at == Some(state.calls) {
            state.full.store(true, Ordering::Relaxed);
        }
        if state.fail_at == Some(state.calls) {
            state.struck = Some((call, path.to_owned()));
            return Err(io::Error::from_raw_os_error(5));
        }
        if state.crash_at == Some(state.calls) {
            torn();
            state.struck = Some((call, path.to_owned()));
            state.wreck = Some(state.wreck());
            return state.alive();
        }
        Ok(())
    }

    fn alive(&self) -> io::Result<()> {
        self.state().alive()
    }

    /// Makes reading a file that is opened as `path` fail as a worn disk does.
    pub fn fail_reads(&self, path: &Path) {
        hold(&self.0).unreadable.insert(path.to_owned());
    }

    /// Makes renaming, replacing and removing a file fail.
    pub fn fail_renames(&self, path: &Path) {
        hold(&self.0).immutable.insert(path.to_owned());
    }

    /// Makes every call about a file fail, as on a damaged file system.
    pub fn hide(&self, path: &Path) {
        self.fail_renames(path);
        hold(&self.0).hidden.insert(path.to_owned());
    }

    /// Undoes [`MemoryDisk::hide`].
    pub fn show(&self, path: &Path) {
        hold(&self.0).immutable.remove(path);
        hold(&self.0).hidden.remove(path);
    }

    /// Lets the next `count` calls of `sync_data` succeed and fails those after them.
    pub fn fail_syncs_after(&self, count: u32) {
        hold(&self.0).syncs_until_failure = Some(count);
    }

    /// Makes every write that would lengthen a file fail as on a full disk, after its first half,
    /// or ends that.
    pub fn set_full(&self, full: bool) {
        hold(&self.0).full.store(full, Ordering::Relaxed);
    }

    /// Makes the disk say that nothing is free. Unlike a full one it takes what is written: the
    /// reserve of a node is there for that.
    pub fn set_below_reserve(&self, below_reserve: bool) {
        hold(&self.0).below_reserve = below_reserve;
    }

    /// Lets the disk be full until this file is removed.
    pub fn fill_with(&self, path: &Path) {
        self.set_full(true);
        hold(&self.0).filled_by = Some(path.to_owned());
    }

    /// Says of itself that nothing can be written.
    pub fn set_read_only(&self, read_only: bool) {
        hold(&self.0).read_only = read_only;
    }

    /// Calls `watcher` in each read, write and rename of a file, on the thread that does it.
    pub fn watch(&self, watcher: impl Fn(&'static str, &Path, usize) + Send + Sync + 'static) {
        hold(&self.0).watcher = Some(Arc::new(watcher));
    }

    fn note(&self, what: &'static str, path: &Path, bytes: usize) {
        let watcher = self.state().watcher.clone();
        if let Some(watcher) = watcher {
            watcher(what, path, bytes);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        hold(&self.0)
    }

    fn file(&self, path: &Path, content: Arc<Content>) -> Arc<dyn DiskFile> {
        Arc::new(MemoryFile { content, disk: self.clone(), path: path.to_owned() })
    }
}

impl State {
    fn may_rename(&self, path: &Path) -> io::Result<()> {
        match self.immutable.contains(path) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Ok(()),
        }
    }

    fn wreck(&self) -> Wreck {
        let copy =
            |(path, content): (&PathBuf, &Arc<Content>)| (path.clone(), hold(&content.0).clone());
        Wreck {
            files: self.files.iter().map(copy).collect(),
            durable: self.durable.iter().map(copy).collect(),
            directories: self.directories.clone(),
            durable_directories: self.durable_directories.clone(),
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.wreck.is_some() { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }
}

/// One of the things that happen to bytes that were not synced.
fn torn(bytes: Bytes, chance: &mut u64) -> Vec<u8> {
    *chance =
        chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let Bytes { now, durable } = bytes;
    if now == durable {
        return now;
    }
    let dice = *chance >> 33;
    let same = now.iter().zip(&durable).take_while(|(a, b)| a == b).count();
    match dice % 4 {
        0 => durable,
        1 => now,
        2 => {
            let new = now.len() - same;
            let kept = same + usize::try_from(dice >> 2).unwrap_or(0) % (new + 1);
            now[..kept].to_vec()
        }
        _ => {
            let mut zeros = now;
            zeros[same..].fill(0);
            zeros
        }
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.alive()?;
        if self.disk.state().unreadable.contains(&self.path) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let bytes = hold(&self.content.0);
        let rest = slice_from(&bytes.now, offset);
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        drop(bytes);
        self.disk.note("read", &self.path, len);
        Ok(len)
    }

    fn write_all_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        self.disk.note("write", &self.path, new.len());
        let full = self.disk.state().full.load(Ordering::Relaxed);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let flips = self.disk.state().flips;
        let flips = flips.is_some_and(|end| self.path.to_string_lossy().ends_with(end));
        let put = |new: &[u8]| {
            let mut bytes = hold(&self.content.0);
            let end = start + new.len();
            if end > bytes.now.len() && full {
                // As on a real disk, some of it fits.
                let fits = &new[..new.len() / 2];
                let len = bytes.now.len().max(start + fits.len());
                bytes.now.resize(len, 0);
                bytes.now[start..start + fits.len()].copy_from_slice(fits);
                return Err(io::ErrorKind::StorageFull.into());
            }
            let len = bytes.now.len().max(end);
            bytes.now.resize(len, 0);
            bytes.now[start..end].copy_from_slice(new);
            if flips && end > start {
                bytes.now[start + (end - start) / 2] ^= 1;
            }
            Ok(())
        };
        self.disk.step("write", &self.path, || {
            let _ = put(&new[..new.len() / 2]);
        })?;
        put(new)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.step("fdatasync", &self.path, || {})?;
        let mut state = self.disk.state();
        if let Some(left) = &mut state.syncs_until_failure {
            if *left == 0 {
                return Err(io::Error::other("the disk failed"));
            }
            *left -= 1;
        }
        drop(state);
        let mut bytes = hold(&self.content.0);
        bytes.durable = bytes.now.clone();
        drop(bytes);
        // The power may have gone meanwhile: then nobody is told that this worked.
        self.disk.alive()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.step("truncate", &self.path, || {})?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        hold(&self.content.0).now.resize(len, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(hold(&self.content.0).now.len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let now = self.len()?;
        self.set_len(len.max(now))
    }

    fn as_file(&self) -> Option<&File> {
        None
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.alive()?;
        let state = self.state();
        if state.hidden.contains(path) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let content = state.files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        drop(state);
        Ok(self.file(path, content))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.step("create", path, || {})?;
        let mut state = self.state();
        if state.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let parent = path.parent().ok_or(io::ErrorKind::NotFound)?;
        if !state.directories.contains(parent) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let content = Arc::new(Content(Mutex::default()));
        state.files.insert(path.to_owned(), content.clone());
        state.changed.insert(path.to_owned());
        drop(state);
        Ok(self.file(path, content))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note("rename", from, 0);
        self.step("rename", to, || {})?;
        let mut state = self.state();
        state.may_rename(from)?;
        state.may_rename(to)?;
        if !to.parent().is_some_and(|parent| state.directories.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), content);
        state.changed.extend([from.to_owned(), to.to_owned()]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("unlink", path, || {})?;
        let mut state = self.state();
        state.may_rename(path)?;
        // The bad sectors are another file's then.
        state.unreadable.remove(path);
        let removed = state.files.remove(path);
        state.changed.insert(path.to_owned());
        if removed.is_some() && state.filled_by.as_deref() == Some(path) {
            state.full.store(false, Ordering::Relaxed);
        }
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.step("rmdir", path, || {})?;
        let mut state = self.state();
        if !state.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let State { files, changed, .. } = &mut *state;
        let gone = files.keys().filter(|file| file.starts_with(path));
        changed.extend(gone.cloned());
        files.retain(|file, _| !file.starts_with(path));
        state.directories.retain(|directory| !directory.starts_with(path));
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.step("mkdir", path, || {})?;
        let mut state = self.state();
        state.directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step("fsync directory", path, || {})?;
        let mut state = self.state();
        let changed: Vec<PathBuf> = paths_in(&state.changed, path).cloned().collect();
        for name in changed {
            state.changed.remove(&name);
            match state.files.get(&name).cloned() {
                Some(content) => drop(state.durable.insert(name, content)),
                None => drop(state.durable.remove(&name)),
            }
        }
        let gone: Vec<PathBuf> = paths_in(&state.durable_directories, path).cloned().collect();
        for directory in gone {
            state.durable_directories.remove(&directory);
        }
        let directories: Vec<PathBuf> = paths_in(&state.directories, path).cloned().collect();
        state.durable_directories.extend(directories);
        state.alive()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.alive()?;
        let state = self.state();
        if !state.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |child: &Path, is_dir| {
            let name = child.file_name()?.to_string_lossy().into_owned();
            Some(Entry { name, is_dir })
        };
        let files = files_in(&state.files, path).filter_map(|(file, _)| entry(file, false));
        let directories = paths_in(&state.directories, path).filter_map(|child| entry(child, true));
        let mut entries: Vec<Entry> = files.chain(directories).collect();
        entries.sort_unstable();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.alive()?;
        let state = self.state();
        Ok(state.files.contains_key(path) || state.directories.contains(path))
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        self.open(path)?.len()
    }

    fn modified(&self, _path: &Path) -> io::Result<Option<UnixSeconds>> {
        Ok(None)
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        const TOTAL: u64 = 64 << 30;
        let state = self.state();
        let nothing_free = state.below_reserve || state.full.load(Ordering::Relaxed);
        let free = if nothing_free { 0 } else { TOTAL / 2 };
        Ok(Space { free, total: TOTAL, read_only: state.read_only })
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        if !self.state().locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Unlock(self.clone(), path.to_owned())))
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.step("syncfs", path, || {})?;
        let mut state = self.state();
        for content in state.files.values() {
            let mut bytes = hold(&content.0);
            bytes.durable = bytes.now.clone();
        }
        state.durable = state.files.clone();
        state.changed.clear();
        state.durable_directories = state.directories.clone();
        state.alive()
    }
}

struct Unlock(MemoryDisk, PathBuf);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.state().locked.remove(&self.1);
    }
}

//! A disk in memory, for tests: it knows what a power cut would leave, and fails on request.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
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
    directories: BTreeSet<PathBuf>,
    durable_directories: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    syncs_until_failure: Option<u32>,
    full: Arc<AtomicBool>,
}

struct Content(Mutex<Bytes>);

#[derive(Default)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
}

struct MemoryFile {
    content: Arc<Content>,
    disk: MemoryDisk,
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
        let state = hold(&self.0);
        let copy = |(path, content): (&PathBuf, &Arc<Content>)| {
            let durable = hold(&content.0).durable.clone();
            let bytes = Bytes { now: durable.clone(), durable };
            (path.clone(), Arc::new(Content(Mutex::new(bytes))))
        };
        let files: BTreeMap<_, _> = state.durable.iter().map(copy).collect();
        let directories = state.durable_directories.clone();
        let state = State {
            durable: files.clone(),
            files,
            durable_directories: directories.clone(),
            directories,
            ..State::default()
        };
        MemoryDisk(Arc::new(Mutex::new(state)))
    }

    /// Lets the next `count` calls of `sync_data` succeed and fails those after them.
    pub fn fail_syncs_after(&self, count: u32) {
        hold(&self.0).syncs_until_failure = Some(count);
    }

    /// Makes every write that would lengthen a file fail as on a full disk, or ends that.
    pub fn set_full(&self, full: bool) {
        hold(&self.0).full.store(full, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        hold(&self.0)
    }

    fn file(&self, content: Arc<Content>) -> Arc<dyn DiskFile> {
        Arc::new(MemoryFile { content, disk: self.clone() })
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = hold(&self.content.0);
        let rest = slice_from(&bytes.now, offset);
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_all_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        let full = self.disk.state().full.load(Ordering::Relaxed);
        let mut bytes = hold(&self.content.0);
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + new.len();
        if end > bytes.now.len() {
            if full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            bytes.now.resize(end, 0);
        }
        bytes.now[start..end].copy_from_slice(new);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(left) = &mut self.disk.state().syncs_until_failure {
            if *left == 0 {
                return Err(io::Error::other("the disk failed"));
            }
            *left -= 1;
        }
        let mut bytes = hold(&self.content.0);
        bytes.durable = bytes.now.clone();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
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
        let content = self.state().files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(content))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
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
        drop(state);
        Ok(self.file(content))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let content = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.state().files.remove(path);
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.files.retain(|file, _| !file.starts_with(path));
        state.directories.retain(|directory| !directory.starts_with(path));
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let here = |entry: &Path| entry.parent() == Some(path);
        state.durable.retain(|file, _| !here(file));
        let files: Vec<_> = state.files.iter().filter(|(file, _)| here(file)).collect();
        let files: Vec<_> = files.into_iter().map(|(p, c)| (p.clone(), c.clone())).collect();
        state.durable.extend(files);
        let directories: Vec<_> = state.directories.iter().filter(|d| here(d)).cloned().collect();
        state.durable_directories.retain(|directory| !here(directory));
        state.durable_directories.extend(directories);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        if !state.directories.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |child: &Path, is_dir| {
            let name = child.file_name()?.to_string_lossy().into_owned();
            (child.parent() == Some(path)).then_some(Entry { name, is_dir })
        };
        let files = state.files.keys().filter_map(|file| entry(file, false));
        let directories = state.directories.iter().filter_map(|child| entry(child, true));
        let mut entries: Vec<Entry> = files.chain(directories).collect();
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
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
        let full = self.state().full.load(Ordering::Relaxed);
        Ok(Space { free: if full { 0 } else { TOTAL / 2 }, total: TOTAL })
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        if !self.state().locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Unlock(self.clone(), path.to_owned())))
    }

    fn sync_fs(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state();
        for content in state.files.values() {
            let mut bytes = hold(&content.0);
            bytes.durable = bytes.now.clone();
        }
        state.durable = state.files.clone();
        state.durable_directories = state.directories.clone();
        Ok(())
    }
}

struct Unlock(MemoryDisk, PathBuf);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.state().locked.remove(&self.1);
    }
}

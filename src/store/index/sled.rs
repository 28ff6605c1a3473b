//! The index on disk: one sled tree. sled is fast, but its flush is no fsync, it can panic on
//! damaged files, lose rows silently and refuse to open after a kill. So it is given nothing that
//! cannot be rebuilt, every call into it is fenced, and a count and a checksum of all rows tell
//! at each start whether it is whole.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Change, Index, IndexFault, KeyValue, lower_bound, row_hash, sums};
use crate::store::StoreError;
use crate::sys::Disk;

/// The row that describes all others; no other key starts with a zero byte.
const SEAL_KEY: &[u8] = b"\0seal";
/// 2: with the rows that follow from others. 3: with a sum of its own. 4: with those rows that
/// follow from tokens and connected registries, and tell what brings a manifest up. 5: with the
/// sizes of scope maps.
const SEAL_VERSION: u8 = 5;
/// What stands before that sum.
const SEAL_HEAD_LEN: usize = 25;

/// With less free space sled may not open, bytes.
const SPACE_MIN: u64 = 256 * 1024;
/// An index with fewer rows stays in memory as a whole and costs no more than this does, rows.
const ROWS_IN_MEMORY: u64 = 32_768;
/// A page has this many rows at least, unless rows were removed.
const ROWS_OF_PAGE: usize = 8;
/// How often a page that was read counts as read, see [`note_again`].
const NOTES: usize = 4;

/// What all rows come to; written in the same batch as every change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Seal {
    applied: u64,
    count: u64,
    sum: u64,
}

impl Seal {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = vec![SEAL_VERSION];
        for value in [self.applied, self.count, self.sum] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(sums::hash(0, &[&bytes]).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Seal> {
        let (bytes, own) = bytes.split_at_checked(SEAL_HEAD_LEN)?;
        if *own != sums::hash(0, &[bytes]).to_le_bytes() {
            return None;
        }
        let value = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let seal = Seal { applied: value(1), count: value(9), sum: value(17) };
        (bytes[0] == SEAL_VERSION).then_some(seal)
    }
}

/// sled as an [`Index`].
pub struct SledIndex {
    db: sled::Db,
    disk: Arc<dyn Disk>,
    file: std::path::PathBuf,
    seal: Mutex<Seal>,
    /// Whether there are more than `ROWS_IN_MEMORY`.
    is_large: AtomicBool,
    failed: AtomicBool,
}

impl SledIndex {
    /// Opens the index in `path`, creating an empty one, and reads all of it to see whether it is
    /// whole. sled keeps `cache` bytes of its pages in memory.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, cache: u64) -> Result<SledIndex, IndexFault> {
        remove_unfinished_snapshots(&*disk, path);
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let config = sled::Config::new().path(path).cache_capacity(cache).flush_every_ms(None);
            let db = config.open().map_err(fault)?;
            let seal = verify(&db).map_err(IndexFault::Damaged)?;
            Ok((db, seal))
        }));
        let opened =
            opened.unwrap_or_else(|_| Err(IndexFault::Damaged("sled panicked".to_owned())));
        let (db, seal) = opened.map_err(|fault| match fault {
            // sled needs some to open, and says nothing that tells.
            IndexFault::Damaged(what) if is_full(&*disk, path) => {
                IndexFault::Full(format!("the disk is full ({what})"))
            }
            fault => fault,
        })?;
        Ok(SledIndex {
            db,
            disk,
            file: path.join("db"),
            seal: Mutex::new(seal),
            is_large: AtomicBool::new(seal.count > ROWS_IN_MEMORY),
            failed: AtomicBool::new(false),
        })
    }

    fn note_read(&self, key: &[u8]) -> sled::Result<()> {
        if self.is_large.load(Ordering::Relaxed) { note_again(&self.db, key) } else { Ok(()) }
    }

    /// Runs a call into sled; an error or a panic marks the index as failed.
    fn fenced<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        if self.failed() {
            return Err(StoreError::Unavailable);
        }
        let what = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "sled panicked".to_owned(),
        };
        if !self.failed.swap(true, Ordering::Relaxed) {
            log::error!("the index failed and will be built again: {what}");
        }
        Err(StoreError::Unavailable)
    }
}

/// What keeps sled from opening.
fn fault(error: sled::Error) -> IndexFault {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let text = error.to_string();
    match error {
        sled::Error::Io(error) if StoreError::is_full(&error) => IndexFault::Full(text),
        sled::Error::Io(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => {
            IndexFault::Denied(text)
        }
        // No file handles or no memory just now: ENOMEM, ENFILE, EMFILE.
        sled::Error::Io(error) if matches!(error.raw_os_error(), Some(12 | 23 | 24)) => {
            IndexFault::Denied(text)
        }
        _ => IndexFault::Damaged(text),
    }
}

/// Whether a failure of sled may be one of space.
pub(in crate::store) fn is_full(disk: &dyn Disk, path: &Path) -> bool {
    disk.space(path).is_ok_and(|space| space.free < SPACE_MIN)
}

/// A snapshot that a kill left half-written keeps sled from opening.
fn remove_unfinished_snapshots(disk: &dyn Disk, path: &Path) {
    for entry in disk.list(path).unwrap_or_default() {
        if entry.name.starts_with("snap.") && entry.name.ends_with(".generating") {
            let _ = disk.remove(&path.join(entry.name));
        }
    }
}

/// sled keeps 256 lists of the pages that were read, and looks whether pages have to go when 64
/// entries of a list have come together: without more entries up to 16,384 pages stay in memory,
/// whatever the size of the cache.
fn note_again(db: &sled::Db, key: &[u8]) -> sled::Result<()> {
    (1..NOTES).try_for_each(|_| db.contains_key(key).map(|_| ()))
}

fn verify(db: &sled::Db) -> Result<Seal, String> {
    let mut found = Seal::default();
    let mut written = None;
    for (number, row) in db.iter().enumerate() {
        let (key, row) = row.map_err(|error| error.to_string())?;
        if number as u64 > ROWS_IN_MEMORY && number % ROWS_OF_PAGE == 0 {
            note_again(db, &key).map_err(|error| error.to_string())?;
        }
        if key == SEAL_KEY {
            written =
                Some(Seal::from_bytes(&row).ok_or("its seal is damaged or of another version")?);
            continue;
        }
        found.count += 1;
        found.sum = found.sum.wrapping_add(row_hash(&key, &row));
    }
    let Some(written) = written else {
        return if found.count == 0 { Ok(found) } else { Err("its seal is missing".to_owned()) };
    };
    found.applied = written.applied;
    if found != written {
        return Err(format!("it has {} rows or other ones, not {}", found.count, written.count));
    }
    if found.applied == 0 && found.count > 0 {
        return Err("it was not filled to the end".to_owned());
    }
    Ok(found)
}

impl Index for SledIndex {
    fn get_uncounted(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.fenced(|| {
            let row = self.db.get(key)?.map(|row| row.to_vec());
            self.note_read(key)?;
            Ok(row)
        })
    }

    fn page_uncounted(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        self.fenced(|| {
            let from = lower_bound(prefix, after);
            let (mut rows, mut read) = (Vec::new(), 0);
            for row in self.db.range::<&[u8], _>((from, Bound::Unbounded)) {
                if rows.len() >= limit || read >= bytes {
                    break;
                }
                let (key, row) = row?;
                if rows.len() % ROWS_OF_PAGE == 0 {
                    self.note_read(&key)?;
                }
                if !key.starts_with(prefix) {
                    break;
                }
                if key != SEAL_KEY {
                    read += key.len() + row.len();
                    rows.push((key.to_vec(), row.to_vec()));
                }
            }
            Ok(rows)
        })
    }

    fn apply(&self, sequence: u64, changes: &[Change]) -> Result<(), StoreError> {
        let mut seal = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        // The last change of each key counts.
        let last: BTreeMap<&[u8], Option<&[u8]>> =
            changes.iter().map(|(key, row)| (key.as_slice(), row.as_deref())).collect();
        let next = self.fenced(|| {
            let mut next = Seal { applied: sequence, ..*seal };
            let mut batch = sled::Batch::default();
            for (key, row) in last {
                if let Some(old) = self.db.get(key)? {
                    next.count = next.count.wrapping_sub(1);
                    next.sum = next.sum.wrapping_sub(row_hash(key, &old));
                }
                match row {
                    Some(row) => {
                        next.count = next.count.wrapping_add(1);
                        next.sum = next.sum.wrapping_add(row_hash(key, row));
                        batch.insert(key, row);
                    }
                    None => batch.remove(key),
                }
            }
            batch.insert(SEAL_KEY, next.to_bytes());
            self.db.apply_batch(batch)?;
            Ok(next)
        })?;
        self.is_large.store(next.count > ROWS_IN_MEMORY, Ordering::Relaxed);
        *seal = next;
        Ok(())
    }

    fn applied(&self) -> u64 {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner).applied
    }

    fn totals(&self) -> Option<(u64, u64)> {
        let seal = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        Some((seal.count, seal.sum))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.fenced(|| self.db.flush())?;
        // sled's own flush starts the writing and no more.
        Ok(self.disk.open(&self.file)?.sync_data()?)
    }

    fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests look at real files")]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;
    use crate::sys::SystemDisk;

    fn change(key: &str, row: Option<&str>) -> Change {
        (key.as_bytes().to_vec(), row.map(|row| row.as_bytes().to_vec()))
    }

    /// A process that another test forks in this moment holds the lock until it runs.
    fn open_at(path: &Path) -> Result<SledIndex, String> {
        let open = || SledIndex::open(Arc::new(SystemDisk), path, 1 << 20);
        let is_locked = |opened: &Result<_, String>| {
            opened.as_ref().is_err_and(|error| error.contains("could not acquire lock"))
        };
        let tries = std::iter::repeat_with(|| {
            std::thread::yield_now();
            open().map_err(|fault| fault.to_string())
        });
        tries.take(10_000).find(|opened| !is_locked(opened)).expect("it is locked")
    }

    #[test]
    fn count_and_sum_follow_every_change() {
        let dir = TempDir::new("sled-seal");
        let open = || open_at(&dir.path().join("index"));
        let index = open().unwrap();
        assert_eq!(index.applied(), 0);
        index.apply(1, &[change("a", Some("1")), change("b", Some("2"))]).unwrap();
        index.apply(2, &[change("a", Some("3")), change("c", None), change("b", None)]).unwrap();
        index.apply(3, &[change("d", Some("4")), change("d", Some("5"))]).unwrap();
        drop(index);
        let index = open().unwrap();
        assert_eq!(index.applied(), 3);
        let rows = index.scan(b"", None, 10).unwrap();
        assert_eq!(rows, [(b"a".to_vec(), b"3".to_vec()), (b"d".to_vec(), b"5".to_vec())]);
        assert_eq!(index.scan(b"", Some(b"a"), 10).unwrap().len(), 1);
        assert_eq!(index.scan(b"a", None, 0).unwrap().len(), 0);
    }

    #[test]
    fn a_missing_row_and_a_half_filled_index_are_noticed() {
        let dir = TempDir::new("sled-loss");
        let path = dir.path().join("index");
        let open = || open_at(&path);
        let index = open().unwrap();
        index.apply(7, &[change("a", Some("1")), change("b", Some("2"))]).unwrap();
        index.db.remove("a").unwrap();
        drop(index);
        assert!(open().err().unwrap().contains("rows"));
        std::fs::remove_dir_all(&path).unwrap();
        open().unwrap().apply(0, &[change("a", Some("1"))]).unwrap();
        assert!(open().err().unwrap().contains("filled"));
    }

    /// With a number that is too high, changes that it has not got would not be made up for.
    #[test]
    fn a_changed_bit_of_the_seal_is_noticed() {
        let dir = TempDir::new("sled-seal-bits");
        let path = dir.path().join("index");
        let open = || open_at(&path);
        open().unwrap().apply(7, &[change("a", Some("1"))]).unwrap();
        let index = open().unwrap();
        let seal = index.db.get(SEAL_KEY).unwrap().unwrap().to_vec();
        drop(index);
        for at in 0..seal.len() {
            let mut changed = seal.clone();
            changed[at] ^= 1 << (at % 8);
            open().unwrap().db.insert(SEAL_KEY, changed).unwrap();
            assert!(open().err().unwrap_or_default().contains("seal is damaged"), "byte {at}");
            std::fs::remove_dir_all(&path).unwrap();
            open().unwrap().apply(7, &[change("a", Some("1"))]).unwrap();
        }
        assert_eq!(open().unwrap().applied(), 7);
    }

    #[test]
    fn a_half_written_snapshot_does_not_keep_it_from_opening() {
        let dir = TempDir::new("sled-snapshot");
        let path = dir.path().join("index");
        let open = || open_at(&path);
        open().unwrap().apply(1, &[change("a", Some("1"))]).unwrap();
        std::fs::write(path.join("snap.00000000000000FF.generating"), b"half").unwrap();
        assert_eq!(open().unwrap().get(b"a").unwrap(), Some(b"1".to_vec()));
    }
}

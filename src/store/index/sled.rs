//! The index on disk: one sled tree. sled is fast, but its flush is no fsync, it can panic on
//! damaged files, lose rows silently and refuse to open after a kill. So it is given nothing that
//! cannot be rebuilt, every call into it is fenced, and a count and a checksum of all rows tell
//! at each start whether it is whole.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::time::Duration;

use super::{Change, Index, IndexFault, KeyValue, head_of, lower_bound, row_hash, sums};
use crate::store::StoreError;
use crate::sys::Disk;
use crate::sys::spawn::thread;

/// Where sled has its pages.
pub(in crate::store) const FILE: &str = "db";
/// The row that describes all others. Only this key and those of parts start with a zero byte.
const SEAL_KEY: &[u8] = b"\0seal";
/// How the keys of the further parts of long rows begin.
const PART_KEY: &[u8] = b"\0part";
/// Where all other keys begin.
const FIRST_KEY: &[u8] = b"\x01";
/// What of a row stands together, bytes; a longer one has further parts, up to the first that is
/// shorter than this. sled keeps the last page of each of its 256 lists in memory whatever its
/// cache is, and a page is no shorter than its longest row.
const PART_LEN: usize = 16 * 1024;
/// 2: with the rows that follow from others. 3: with a sum of its own. 4: with those rows that
/// follow from tokens and connected registries, and tell what brings a manifest up. 5: with the
/// sizes of scope maps. 6: with long rows in parts.
const SEAL_VERSION: u8 = 6;
/// What stands before that sum.
const SEAL_HEAD_LEN: usize = 25;

/// With less free space sled may not open, bytes.
const SPACE_MIN: u64 = 256 * 1024;
/// An index that weighs less stays in memory as a whole, bytes.
const BYTES_IN_MEMORY: u64 = 8 * 1024 * 1024;
/// A row in memory weighs this at least, bytes, as measured with keys of digests.
const ROW_WEIGHT_MIN: usize = 176;
/// What is read with one row: a page, which has eight rows at least unless rows were removed.
const PAGE_WEIGHT_MIN: usize = 8 * ROW_WEIGHT_MIN;
/// Changes that sled is given at a time, bytes: some 700 short rows.
const BATCH_WEIGHT: usize = 128 * 1024;
/// How long sled may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// For so many bytes a page that was read counts as read once, see [`Reads`].
const NOTE_BYTES: usize = 512;
/// More reads of one page than this let no more pages go.
const NOTES_MAX: usize = 64;

/// What all rows come to; written in the last batch of every record.
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

/// sled, while it is open.
struct Opened {
    /// `None` once it is being closed.
    db: Option<sled::Db>,
}

impl Opened {
    fn db(&self) -> sled::Result<&sled::Db> {
        let closed = || sled::Error::ReportableBug("it is closed".to_owned());
        self.db.as_ref().ok_or_else(closed)
    }
}

/// sled may panic while it closes, and where the disk is full or it is damaged it may never come
/// back from that.
impl Drop for Opened {
    fn drop(&mut self) {
        let (Some(db), (done, is_done)) = (self.db.take(), mpsc::channel::<()>()) else { return };
        let close = move || {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
            drop(done);
        };
        if thread("skerry-index-end", close).is_ok()
            && is_done.recv_timeout(CLOSE_MAX) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            log::warn!(
                "the index has not closed within {CLOSE_MAX:?}: nobody waits for it any more"
            );
        }
    }
}

/// sled as an [`Index`].
pub struct SledIndex {
    opened: Opened,
    disk: Arc<dyn Disk>,
    file: std::path::PathBuf,
    seal: Mutex<Seal>,
    /// What all rows weigh, bytes.
    weight: AtomicU64,
    /// How many rows sled has of them: a part is one.
    rows: AtomicU64,
    /// Held for each look and for each record, so that a look sees whole records: sled itself
    /// locks one key, or one batch, at a time.
    record: RwLock<()>,
    failed: AtomicBool,
}

impl SledIndex {
    /// Opens the index in `path`, creating an empty one, and reads all of it to see whether it is
    /// whole. sled keeps `cache` bytes of its pages in memory.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, cache: u64) -> Result<SledIndex, IndexFault> {
        remove_unfinished_snapshots(&*disk, path);
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let config = sled::Config::new().path(path).cache_capacity(cache).flush_every_ms(None);
            let opened = Opened { db: Some(config.open().map_err(fault)?) };
            let found = opened
                .db()
                .map_err(fault)
                .and_then(|db| verify(db).map_err(IndexFault::Damaged))?;
            Ok((opened, found))
        }));
        let opened =
            opened.unwrap_or_else(|_| Err(IndexFault::Damaged("sled panicked".to_owned())));
        let (opened, Found { seal, weight, rows }) = opened.map_err(|fault| match fault {
            // sled needs some to open, and says nothing that tells.
            IndexFault::Damaged(what) if is_full(&*disk, path) => {
                IndexFault::Full(format!("the disk is full ({what})"))
            }
            fault => fault,
        })?;
        Ok(SledIndex {
            opened,
            disk,
            file: path.join(FILE),
            seal: Mutex::new(seal),
            weight: AtomicU64::new(weight),
            rows: AtomicU64::new(rows),
            record: RwLock::default(),
            failed: AtomicBool::new(false),
        })
    }

    /// Reads of an index that may not stay in memory as a whole.
    fn reads<'a>(&self, db: &'a sled::Db) -> Option<Reads<'a>> {
        let is_large = self.weight.load(Ordering::Relaxed) > BYTES_IN_MEMORY;
        is_large.then(|| Reads::new(db))
    }

    /// Runs a call that reads, between records.
    fn look<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        let _between_records = self.record.read().unwrap_or_else(PoisonError::into_inner);
        self.fenced(call)
    }

    /// Runs a call into sled; an error or a panic marks the index as failed.
    fn fenced<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, StoreError> {
        if self.failed() {
            return Err(StoreError::Unavailable);
        }
        let call = AssertUnwindSafe(|| self.opened.db().and_then(call));
        let what = match catch_unwind(call) {
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

/// What a row weighs in memory, bytes.
fn weight(key: &[u8], row: &[u8]) -> usize {
    (key.len() + row.len()).max(ROW_WEIGHT_MIN)
}

/// sled keeps 256 lists of the pages that were read, and looks whether pages have to go when 64
/// entries of a list have come together: without more entries up to 16,384 pages stay in memory,
/// whatever the size of the cache and of the pages. So a page counts as read for each few bytes.
struct Reads<'a> {
    db: &'a sled::Db,
    /// Bytes that no entry stands for yet.
    left: usize,
}

impl Reads<'_> {
    fn new(db: &sled::Db) -> Reads<'_> {
        Reads { db, left: 0 }
    }

    /// Notes that something of this weight was read with this key.
    fn note(&mut self, key: &[u8], weight: usize) -> sled::Result<()> {
        self.left += weight;
        let notes = self.left / NOTE_BYTES;
        self.left %= NOTE_BYTES;
        (0..notes.min(NOTES_MAX)).try_for_each(|_| self.db.contains_key(key).map(|_| ()))
    }
}

/// The changes of a record, in batches: sled copies a page for each row of a batch, and frees the
/// copies when the batch has ended.
#[derive(Default)]
struct Batches {
    full: Vec<sled::Batch>,
    last: sled::Batch,
    /// Weight of the last.
    weight: usize,
}

impl Batches {
    fn insert(&mut self, key: &[u8], row: &[u8]) {
        self.last.insert(key, row);
        self.grow(weight(key, row));
    }

    fn remove(&mut self, key: &[u8]) {
        self.last.remove(key);
        self.grow(weight(key, &[]));
    }

    fn grow(&mut self, weight: usize) {
        self.weight += weight;
        if self.weight > BATCH_WEIGHT {
            self.full.push(std::mem::take(&mut self.last));
            self.weight = 0;
        }
    }
}

fn part_key(key: &[u8], number: u32) -> Vec<u8> {
    [PART_KEY, key, &number.to_be_bytes()].concat()
}

/// How many further parts a row of this length has.
fn parts(len: usize) -> u32 {
    u32::try_from(len / PART_LEN).unwrap_or(u32::MAX)
}

/// A row of this key.
fn read(db: &sled::Db, key: &[u8], reads: &mut Option<Reads<'_>>) -> sled::Result<Option<Vec<u8>>> {
    let first = read_first(db, key, reads)?;
    first.map(|row| whole(db, key, &row, reads)).transpose()
}

/// The first part of a row of this key.
fn read_first(
    db: &sled::Db,
    key: &[u8],
    reads: &mut Option<Reads<'_>>,
) -> sled::Result<Option<sled::IVec>> {
    let first = db.get(key)?;
    if let Some(reads) = reads {
        reads.note(key, first.as_ref().map_or(0, |row| row.len()).max(PAGE_WEIGHT_MIN))?;
    }
    Ok(first)
}

/// A row whose first part is this.
fn whole(
    db: &sled::Db,
    key: &[u8],
    first: &[u8],
    reads: &mut Option<Reads<'_>>,
) -> sled::Result<Vec<u8>> {
    let (mut row, mut last, mut number) = (first.to_vec(), first.len(), 0);
    while last == PART_LEN {
        number += 1;
        let key = part_key(key, number);
        let lost = || sled::Error::ReportableBug("a part of a row is gone".to_owned());
        let part = db.get(&key)?.ok_or_else(lost)?;
        if let Some(reads) = reads {
            reads.note(&key, part.len())?;
        }
        last = part.len();
        row.extend_from_slice(&part);
    }
    Ok(row)
}

/// What an index has.
struct Found {
    seal: Seal,
    weight: u64,
    rows: u64,
}

/// Reads all of it.
fn verify(db: &sled::Db) -> Result<Found, String> {
    let text = |error: sled::Error| error.to_string();
    let mut found = Seal::default();
    let (mut total, mut rows, mut reads, mut further) = (0, 0, None, 0);
    let mut written = None;
    for row in db.iter() {
        let (key, row) = row.map_err(text)?;
        let weight = weight(&key, &row);
        total += weight as u64;
        if total > BYTES_IN_MEMORY {
            reads.get_or_insert_with(|| Reads::new(db)).note(&key, weight).map_err(text)?;
        }
        if key == SEAL_KEY {
            written =
                Some(Seal::from_bytes(&row).ok_or("its seal is damaged or of another version")?);
            continue;
        }
        rows += 1;
        if key.starts_with(PART_KEY) {
            further += 1;
            continue;
        }
        found.count += 1;
        let hash = if row.len() == PART_LEN {
            let row = whole(db, &key, &row, &mut reads).map_err(text)?;
            further -= i64::from(parts(row.len()));
            row_hash(&key, &row)
        } else {
            row_hash(&key, &row)
        };
        found.sum = found.sum.wrapping_add(hash);
    }
    if further != 0 {
        return Err("it has parts of rows that are not there".to_owned());
    }
    let Some(written) = written else {
        return match found.count {
            0 => Ok(Found { seal: found, weight: total, rows }),
            _ => Err("its seal is missing".to_owned()),
        };
    };
    found.applied = written.applied;
    if found != written {
        return Err(format!("it has {} rows or other ones, not {}", found.count, written.count));
    }
    if found.applied == 0 && found.count > 0 {
        return Err("it was not filled to the end".to_owned());
    }
    Ok(Found { seal: found, weight: total, rows })
}

impl Index for SledIndex {
    fn get_uncounted(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.look(|db| read(db, key, &mut self.reads(db)))
    }

    fn head_uncounted(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.look(|db| {
            let first = read_first(db, key, &mut self.reads(db))?;
            Ok(first.map(|row| head_of(&row)))
        })
    }

    fn page_uncounted(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<KeyValue>, StoreError> {
        self.look(|db| {
            let from = match lower_bound(prefix, after) {
                Bound::Included([]) => Bound::Included(FIRST_KEY),
                from => from,
            };
            let (mut rows, mut read) = (Vec::new(), 0);
            let mut reads = self.reads(db);
            for row in db.range::<&[u8], _>((from, Bound::Unbounded)) {
                if rows.len() >= limit || read >= bytes {
                    break;
                }
                let (key, row) = row?;
                if let Some(reads) = &mut reads {
                    let page = if rows.is_empty() { PAGE_WEIGHT_MIN } else { 0 };
                    reads.note(&key, weight(&key, &row).max(page))?;
                }
                if !key.starts_with(prefix) {
                    break;
                }
                let row = whole(db, &key, &row, &mut reads)?;
                read += key.len() + row.len();
                rows.push((key.to_vec(), row));
            }
            Ok(rows)
        })
    }

    fn apply(&self, sequence: u64, changes: &[Change]) -> Result<(), StoreError> {
        let mut seal = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        // The last change of each key counts.
        let last: BTreeMap<&[u8], Option<&[u8]>> =
            changes.iter().map(|(key, row)| (key.as_slice(), row.as_deref())).collect();
        // Where the record breaks off, nobody looks before it is known.
        let mut changing = None;
        let (next, all, rows) = self.fenced(|db| {
            let mut reads = self.reads(db);
            let mut all = self.weight.load(Ordering::Relaxed);
            let mut rows = self.rows.load(Ordering::Relaxed);
            let mut next = Seal { applied: sequence, ..*seal };
            let mut batches = Batches::default();
            for (key, row) in last {
                let old = read(db, key, &mut reads)?;
                if let Some(old) = &old {
                    all = all.saturating_sub(weight(key, old) as u64);
                    rows = rows.saturating_sub(1 + u64::from(parts(old.len())));
                    next.count = next.count.wrapping_sub(1);
                    next.sum = next.sum.wrapping_sub(row_hash(key, old));
                }
                let before = old.map_or(0, |old| parts(old.len()));
                let after = row.map_or(0, |row| parts(row.len()));
                match row {
                    Some(row) => {
                        all += weight(key, row) as u64;
                        rows += 1 + u64::from(after);
                        next.count = next.count.wrapping_add(1);
                        next.sum = next.sum.wrapping_add(row_hash(key, row));
                        let (first, further) = row.split_at(row.len().min(PART_LEN));
                        batches.insert(key, first);
                        for number in 1..=after {
                            let at = (number as usize - 1) * PART_LEN;
                            let part = &further[at..further.len().min(at + PART_LEN)];
                            batches.insert(&part_key(key, number), part);
                        }
                    }
                    None => batches.remove(key),
                }
                for number in after + 1..=before {
                    batches.remove(&part_key(key, number));
                }
            }
            // The last: until it is there, a start finds that the rows are not whole.
            batches.last.insert(SEAL_KEY, next.to_bytes());
            changing = Some(self.record.write().unwrap_or_else(PoisonError::into_inner));
            for batch in batches.full.into_iter().chain([batches.last]) {
                db.apply_batch(batch)?;
            }
            Ok((next, all, rows))
        })?;
        drop(changing);
        self.weight.store(all, Ordering::Relaxed);
        self.rows.store(rows, Ordering::Relaxed);
        *seal = next;
        Ok(())
    }

    fn applied(&self) -> u64 {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner).applied
    }

    fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    fn totals(&self) -> Option<(u64, u64)> {
        let seal = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        Some((seal.count, seal.sum))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.fenced(|db| db.flush())?;
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
    use crate::store::index::HEAD_LEN;
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
        index.opened.db().unwrap().remove("a").unwrap();
        drop(index);
        assert!(open().err().unwrap().contains("rows"));
        std::fs::remove_dir_all(&path).unwrap();
        open().unwrap().apply(0, &[change("a", Some("1"))]).unwrap();
        assert!(open().err().unwrap().contains("filled"));
    }

    /// Symptom: some hundred long rows filled the memory of a device, of which it was out at its
    /// next start. Cause: sled keeps 256 pages whatever its cache is, and each had a whole row.
    #[test]
    fn f209_long_rows_are_kept_in_parts_and_none_of_them_is_lost_unnoticed() {
        let dir = TempDir::new("sled-parts");
        let path = dir.path().join("index");
        let open = || open_at(&path);
        let row = |len: usize| -> Vec<u8> { (0..=250).cycle().take(len).collect() };
        let put = |key: &str, len: usize| (key.as_bytes().to_vec(), Some(row(len)));
        let lens = [0, 1, PART_LEN - 1, PART_LEN, PART_LEN + 1, 2 * PART_LEN, 5 * PART_LEN + 7];
        let index = open().unwrap();
        let mut sequence = 0;
        for before in lens {
            for after in lens {
                sequence += 2;
                index.apply(sequence - 1, &[put("a", before), put("b", after)]).unwrap();
                index.apply(sequence, &[put("a", after), put("b", before)]).unwrap();
                assert!(index.get(b"a").unwrap() == Some(row(after)), "{before} {after}");
                assert!(index.head(b"a").unwrap() == Some(row(after.min(HEAD_LEN))), "{after}");
                let [a, b] = [("a", after), ("b", before)]
                    .map(|(key, len)| (key.as_bytes().to_vec(), row(len)));
                assert!(index.scan(b"", None, 10).unwrap() == [a, b], "{before} {after}");
                let longest =
                    index.opened.db().unwrap().iter().map(|row| row.unwrap().1.len()).max();
                assert!(longest <= Some(PART_LEN));
                assert_eq!(
                    index.rows() + 1,
                    index.opened.db().unwrap().len() as u64,
                    "the seal is not counted"
                );
            }
        }
        let (totals, rows) = (index.totals(), index.rows());
        drop(index);
        let index = open().unwrap();
        assert_eq!((index.totals(), index.rows()), (totals, rows));
        let (last, stray) = (part_key(b"b", parts(lens[6])), part_key(b"c", 1));
        let part = index.opened.db().unwrap().remove(&last).unwrap().unwrap();
        assert!(index.get(b"b").is_err(), "it is built again");
        drop(index);
        assert!(open().err().unwrap().contains("part of a row is gone"));
        let db = sled::open(&path).unwrap();
        db.insert(&last, part).unwrap();
        db.insert(&stray, b"x").unwrap();
        drop(db);
        assert!(open().err().unwrap().contains("parts of rows that are not there"));
        sled::open(&path).unwrap().remove(&stray).unwrap();
        let index = open().unwrap();
        index.apply(sequence + 1, &[change("a", None), change("b", None)]).unwrap();
        assert_eq!(index.opened.db().unwrap().len(), 1, "the seal");
    }

    /// Symptom: a long manifest that was deleted while it was pulled had the index built again, and
    /// a scope map that was changed was answered as a mix of two. Cause: each part was read alone.
    #[test]
    fn f209_a_long_row_that_changes_is_read_as_it_was_or_as_it_is() {
        let dir = TempDir::new("sled-torn");
        let index = open_at(&dir.path().join("index")).unwrap();
        let lens = [3 * PART_LEN + 1, 3 * PART_LEN + 1, PART_LEN - 1, 2 * PART_LEN, PART_LEN];
        let rows: Vec<Option<Vec<u8>>> =
            (0..).zip(lens).map(|(byte, len)| Some(vec![byte; len])).chain([None]).collect();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|number| {
                    let (index, rows, is_done) = (&index, &rows, &is_done);
                    scope.spawn(move || {
                        while !is_done.load(Ordering::Relaxed) {
                            let found = match number {
                                0 => index.get(b"a").unwrap(),
                                _ => index.scan(b"a", None, 9).unwrap().pop().map(|row| row.1),
                            };
                            assert!(rows.contains(&found), "{:?}", found.map(|row| row.len()));
                        }
                    })
                })
                .collect();
            for sequence in 1..3000 {
                let row = rows[usize::try_from(sequence).unwrap() % rows.len()].clone();
                index.apply(sequence, &[(b"a".to_vec(), row)]).unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        assert!(!index.failed());
    }

    /// Symptom: two pushes of manifests with 9,900 references had a device out of memory. Cause:
    /// what sled copies for a batch is freed when it ends, and a record was one.
    #[test]
    fn f209_a_long_record_is_given_in_batches_and_seen_as_one() {
        let dir = TempDir::new("sled-batches");
        let path = dir.path().join("index");
        let index = open_at(&path).unwrap();
        let mut batches = Batches::default();
        for number in 0..4 * BATCH_WEIGHT / ROW_WEIGHT_MIN {
            batches.insert(&number.to_be_bytes(), b"");
        }
        assert_eq!(batches.full.len(), 3, "each has one more than fits");
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    let rows = index.scan(b"r", None, usize::MAX).unwrap();
                    assert!(rows.iter().all(|row| row.1 == rows[0].1), "rows of two records");
                }
            });
            for sequence in 1..40_u64 {
                let row = |number| {
                    (format!("r{number:04}").into_bytes(), Some(sequence.to_be_bytes().to_vec()))
                };
                let rows: Vec<Change> = (0..1500).map(row).collect();
                index.apply(sequence, &rows).unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        let totals = index.totals();
        drop(index);
        assert_eq!(open_at(&path).unwrap().totals(), totals);
    }

    /// With a number that is too high, changes that it has not got would not be made up for.
    #[test]
    fn a_changed_bit_of_the_seal_is_noticed() {
        let dir = TempDir::new("sled-seal-bits");
        let path = dir.path().join("index");
        let open = || open_at(&path);
        open().unwrap().apply(7, &[change("a", Some("1"))]).unwrap();
        let index = open().unwrap();
        let seal = index.opened.db().unwrap().get(SEAL_KEY).unwrap().unwrap().to_vec();
        drop(index);
        for at in 0..seal.len() {
            let mut changed = seal.clone();
            changed[at] ^= 1 << (at % 8);
            open().unwrap().opened.db().unwrap().insert(SEAL_KEY, changed).unwrap();
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

    /// What is read of an index that is larger is not all in memory afterwards.
    #[test]
    fn f209_a_large_index_is_not_kept_in_memory_by_what_is_read_of_it() {
        let dir = TempDir::new("sled-large");
        let index = open_at(&dir.path().join("index")).unwrap();
        for (bytes, is_large) in [(BYTES_IN_MEMORY, false), (BYTES_IN_MEMORY + 1, true)] {
            index.weight.store(bytes, Ordering::Relaxed);
            assert_eq!(index.reads(index.opened.db().unwrap()).is_some(), is_large);
        }
    }
}

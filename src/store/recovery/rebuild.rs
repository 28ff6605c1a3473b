//! Filling an index from a checkpoint and the journal.

use std::fmt::Display;
use std::sync::Arc;

use super::apply::apply;
use crate::store::StoreError;
use crate::store::index::sled::{self, SledIndex};
use crate::store::index::{Built, Change, Index, IndexFault, IndexKind, MapIndex};
use crate::store::journal::ballast::give_space;
use crate::store::journal::checkpoint::{Checkpoint, Rows};
use crate::store::journal::frame::FrameFault;
use crate::store::journal::layout::Layout;
use crate::store::journal::segment::{self, End};
use crate::sys::Disk;

/// Changes that a rebuild applies in one batch, bytes. sled copies a page for every row and frees
/// the copies when the batch ends: 256 KiB cost a node of 10,000 manifests 15 MiB for good.
const REBUILD_BATCH_BYTES: usize = 16 * 1024;

/// With less free space, bytes, a broken index is not put aside for a later look.
const ASIDE_SPACE_MIN: u64 = 64 * 1024 * 1024;
/// With less than this beside what the index is built from, none is made on disk: sled begins with
/// segments of half a MiB, and where the disk is full some of its calls never come back.
const SLED_SPACE_MIN: u64 = 4 * 1024 * 1024;

/// Opens the index on disk with a page cache of `cache` bytes; on a full disk once more, in the
/// space that is set aside.
pub(in crate::store) fn open_sled(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    cache: u64,
) -> Result<Arc<dyn Index>, IndexFault> {
    let open = || SledIndex::open(disk.clone(), &layout.index(), cache);
    let opened = match open() {
        Err(IndexFault::Full(_)) if give_space(&**disk, layout) => open(),
        opened => opened,
    };
    Ok(Arc::new(opened?))
}

/// Puts the index aside, or removes it where space is short, and builds a new one from a checkpoint
/// and the records after it: the last checkpoint that is whole. Where sled cannot be used, a map in
/// memory takes its place.
pub(in crate::store) fn rebuild(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    kind: IndexKind,
    checkpoints: &[Checkpoint],
    firsts: &[u64],
    through: u64,
    built: &Built,
) -> Result<Arc<dyn Index>, StoreError> {
    let mut result = Err(StoreError::Unavailable);
    let mut kind = kind;
    let free = || disk.space(layout.root()).map_or(u64::MAX, |space| space.free);
    let mut keep = free() >= ASIDE_SPACE_MIN;
    let mut bases: Vec<Option<Checkpoint>> = checkpoints.iter().rev().copied().map(Some).collect();
    bases.push(None);
    for base in bases {
        let after = base.map_or(0, |base| base.end.sequence);
        let segments = firsts.iter().filter(|first| **first > after);
        let lengths = segments.map(|first| disk.file_len(&layout.segment(*first)).unwrap_or(0));
        let total = base.map_or(0, |base| base.bytes) + lengths.sum::<u64>();
        loop {
            let index: Arc<dyn Index> = match kind {
                IndexKind::Map => Arc::new(MapIndex::default()),
                IndexKind::Sled { cache } => {
                    if let Err(error) = put_index_aside(&**disk, layout, keep) {
                        log::warn!("the old index cannot be put aside: {error}");
                    }
                    keep = false;
                    let is_tight = || free() < SLED_SPACE_MIN.saturating_add(total);
                    while is_tight() && give_space(&**disk, layout) {}
                    let opened = match is_tight() {
                        true => Err(IndexFault::Full("the disk is full".to_owned())),
                        false => open_sled(disk, layout, cache),
                    };
                    match opened {
                        Ok(index) => index,
                        Err(why) => {
                            kind = in_memory(&**disk, layout, &why);
                            continue;
                        }
                    }
                }
            };
            built.begin(total);
            match fill(&**disk, layout, &*index, base, firsts, through, built) {
                Ok(()) => return Ok(index),
                Err(_) if index.failed() => {
                    drop(index);
                    kind = in_memory(&**disk, layout, &"the new one failed too");
                }
                Err(error) => {
                    log::error!("the index cannot be built from a checkpoint: {error}");
                    result = Err(error);
                    break;
                }
            }
        }
    }
    result
}

/// The next index is made in memory. What there is of the one on disk only takes space then, which
/// comes back although sled, which may not have closed, still has the file open.
fn in_memory(disk: &dyn Disk, layout: &Layout, why: &dyn Display) -> IndexKind {
    log::warn!("the index is kept in memory until the next start: {why}");
    let _ = disk.open_rw(&layout.index().join(sled::FILE)).and_then(|file| file.set_len(0));
    let _ = disk.remove_dir_all(&layout.index());
    IndexKind::Map
}

/// Renames the index for a later look at it, at most one; or removes it.
fn put_index_aside(disk: &dyn Disk, layout: &Layout, keep: bool) -> std::io::Result<()> {
    let path = layout.index();
    if !disk.exists(&path)? {
        return Ok(());
    }
    if !keep {
        return disk.remove_dir_all(&path);
    }
    let mut last = 0;
    for entry in disk.list(layout.root())? {
        if let Some(number) = entry.name.strip_prefix("index.bad-") {
            last = last.max(number.parse().unwrap_or(0));
            disk.remove_dir_all(&layout.root().join(&entry.name))?;
        }
    }
    let aside = layout.root().join(format!("index.bad-{}", last + 1_u64));
    disk.rename(&path, &aside)
}

/// Fills an empty index.
pub(in crate::store) fn fill(
    disk: &dyn Disk,
    layout: &Layout,
    index: &dyn Index,
    base: Option<Checkpoint>,
    firsts: &[u64],
    through: u64,
    built: &Built,
) -> Result<(), StoreError> {
    if let Some(base) = base {
        let path = layout.checkpoint(base.end.sequence);
        let fault = |fault: FrameFault| fault.of_file(&path);
        let mut rows = Rows::open(disk, layout, base.end.sequence).map_err(fault)?;
        let mut batch: Vec<Change> = Vec::new();
        let mut bytes = 0;
        while let Some((key, row)) = rows.next_row().map_err(fault)? {
            bytes += key.len() + row.len();
            batch.push((key, Some(row)));
            if bytes > REBUILD_BATCH_BYTES {
                apply(index, 0, std::mem::take(&mut batch))?;
                built.add(bytes);
                bytes = 0;
            }
        }
        apply(index, base.end.sequence, batch)?;
    }
    catch_up(disk, layout, index, base, firsts, through, built)
}

/// Applies the records after those that the index has.
pub(in crate::store) fn catch_up(
    disk: &dyn Disk,
    layout: &Layout,
    index: &dyn Index,
    base: Option<Checkpoint>,
    firsts: &[u64],
    through: u64,
    built: &Built,
) -> Result<(), StoreError> {
    let from = base.map_or(End::default(), |base| base.end);
    let applied = index.applied();
    if applied >= through {
        return Ok(());
    }
    let mut batch: Vec<Change> = Vec::new();
    let (mut bytes, mut last) = (0, applied);
    segment::replay(disk, layout, firsts, from, through, &mut |record| {
        if record.sequence <= applied {
            return Ok(());
        }
        last = record.sequence;
        for (key, row) in record.changes {
            bytes += key.len() + row.as_ref().map_or(0, Vec::len);
            batch.push((key, row));
        }
        if bytes > REBUILD_BATCH_BYTES {
            apply(index, last, std::mem::take(&mut batch))?;
            built.add(bytes);
            bytes = 0;
        }
        Ok(())
    })?;
    apply(index, last, batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::MemoryDisk;

    /// Symptom: a node whose index had failed on a full disk answered nothing any more, and did not
    /// stop. Cause: sled was opened anew there, and did not come back.
    #[test]
    fn f211_on_a_full_disk_an_index_is_built_in_memory() {
        let memory = MemoryDisk::new();
        memory.create_dir_all(std::path::Path::new("/s/index")).unwrap();
        memory.set_full(true);
        let disk: Arc<dyn Disk> = Arc::new(memory);
        let layout = Layout::new(std::path::Path::new("/s"));
        let kind = IndexKind::Sled { cache: 1 << 20 };
        let index = rebuild(&disk, &layout, kind, &[], &[], 0, &Built::default()).unwrap();
        index.apply(1, &[(b"a".to_vec(), Some(b"1".to_vec()))]).unwrap();
        assert_eq!(index.get(b"a"), Ok(Some(b"1".to_vec())));
        assert!(!std::path::Path::new("/s").exists(), "nothing is made on the disk");
        assert!(!disk.exists(&layout.index()).unwrap(), "it only took space");
    }
}

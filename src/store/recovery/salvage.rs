//! What is done when the journal is damaged before its end.

use std::sync::Arc;

use super::apply::apply;
use super::found::{Found, Recovered, Recovery};
use crate::store::StoreError;
use crate::store::index::Index;
use crate::store::journal::checkpoint::{self, Checkpoint};
use crate::store::journal::layout::{Layout, OpenError};
use crate::store::journal::segment::{End, Record, SegmentReader};
use crate::store::rows::derived;
use crate::sys::Disk;

/// Rows that are read from the index at a time when it is written out.
const SALVAGE_ROWS: usize = 256;

/// Where the journal is not what it was.
pub(in crate::store) struct Damage {
    /// The file.
    pub(in crate::store) path: std::path::PathBuf,
    /// What is wrong with it.
    pub(in crate::store) what: String,
    /// The highest sequence that the journal is known to have had.
    pub(in crate::store) last_seen: u64,
}

/// The whole records of damaged segments, in order; a whole one may still say nothing to us.
fn each_whole(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
    each: &mut dyn FnMut(u64, Option<Record>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for first in firsts {
        let Ok(mut segment) = SegmentReader::open(disk, layout, *first) else {
            continue;
        };
        segment.each_whole(each)?;
    }
    Ok(())
}

/// The highest sequence that these segments are known to have had.
pub(in crate::store) fn last_sequence_seen(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
) -> std::io::Result<u64> {
    // A segment with a later name exists only after the records before it were durable.
    let mut last = firsts.last().map_or(0, |first| first.saturating_sub(1));
    each_whole(disk, layout, firsts, &mut |sequence, _| {
        last = last.max(sequence);
        Ok(())
    })
    .map_err(std::io::Error::other)?;
    Ok(last)
}

/// The journal is damaged, or shorter than it was. When the index is whole and, with the records
/// that can still be read, has everything, it becomes the next checkpoint and nothing is lost.
pub(in crate::store) fn salvage(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    mut found: Found,
    damage: &Damage,
    index: Option<Arc<dyn Index>>,
    mut recovery: Recovery,
) -> Result<Recovered, OpenError> {
    let failed = |what: String| OpenError::Damaged { path: damage.path.clone(), what };
    let lost = |why: &str| failed(format!("{}; {why}", damage.what));
    let index = index.ok_or_else(|| lost("the index cannot make up for it: it is damaged too"))?;
    let from = index.applied();
    each_whole(&**disk, layout, &found.firsts, &mut |sequence, record| {
        if let Some(record) = record.filter(|record| record.sequence == sequence)
            && sequence.checked_sub(1) == Some(index.applied())
        {
            apply(&*index, sequence, record.changes)?;
        }
        Ok(())
    })
    .map_err(|error| lost(&error.to_string()))?;
    let sequence = index.applied();
    if sequence < damage.last_seen || sequence == 0 {
        let (first, last) = (sequence + 1, damage.last_seen);
        return Err(lost(&format!(
            "the changes from sequence {first} to {last} are partly lost: the index ends before"
        )));
    }
    let end = End { sequence, ..End::default() };
    let checkpoint = write_out(&**disk, layout, &*index, end)
        .map_err(|error| failed(format!("the index cannot be saved in its place: {error}")))?;
    recovery.damage.push(format!(
        "{}: {}; the index had all of it, nothing is lost, children reconcile",
        damage.path.display(),
        damage.what
    ));
    recovery.sequence = sequence;
    recovery.records_replayed = sequence - from;
    // Nothing before this checkpoint can be relied on, and nothing may be named after it.
    for first in found.firsts.iter().filter(|first| **first > sequence) {
        disk.remove(&layout.segment(*first)).map_err(OpenError::io(&damage.path))?;
    }
    found.firsts.retain(|first| *first <= sequence);
    Ok(Recovered {
        recovery,
        end,
        firsts: found.firsts,
        checkpoints: vec![checkpoint],
        bytes_since: 0,
        index,
        renew_epoch: true,
    })
}

/// Writes all rows of the index as a checkpoint.
fn write_out(
    disk: &dyn Disk,
    layout: &Layout,
    index: &dyn Index,
    end: End,
) -> Result<Checkpoint, StoreError> {
    let mut writer = checkpoint::Writer::new(disk, layout, end)?;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = index.scan(b"", after.as_deref(), SALVAGE_ROWS)?;
        let Some((last, _)) = rows.last() else {
            return writer.finish();
        };
        after = Some(last.clone());
        for (key, row) in rows.into_iter().filter(|(key, _)| !derived::is_derived(key)) {
            writer.row(key, row)?;
        }
    }
}

//! What is done when the journal is damaged before its end.

use std::sync::Arc;

use super::apply::apply;
use super::found::{Found, Recovered, Recovery};
use super::loss;
use super::rebuild::rebuild;
use crate::store::StoreError;
use crate::store::index::sled::is_full;
use crate::store::index::{Built, Index, IndexFault, IndexKind, row_hash};
use crate::store::journal::ballast::in_any_space;
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
    /// Its end cannot be read: it may have had more than that.
    pub(in crate::store) end_missing: bool,
}

/// The whole records of damaged segments, in order; a whole one may still say nothing to us.
/// Returns whether the end of the last one could be read.
fn each_whole(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
    each: &mut dyn FnMut(u64, Option<Record>) -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    let mut end_seen = false;
    for first in firsts {
        end_seen = false;
        let mut segment = match SegmentReader::open(disk, layout, *first) {
            Ok(segment) => segment,
            // What cannot be opened just now is no damage.
            Err(fault) => {
                fault.damage()?;
                continue;
            }
        };
        end_seen = segment.each_whole(each)? == disk.file_len(&layout.segment(*first))?;
    }
    Ok(end_seen)
}

/// The highest sequence that these segments are known to have had, and whether the end of the last
/// one cannot be read.
pub(in crate::store) fn last_sequence_seen(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
) -> std::io::Result<(u64, bool)> {
    // A segment with a later name exists only after the records before it were durable.
    let mut last = firsts.last().map_or(0, |first| first.saturating_sub(1));
    let end_seen = each_whole(disk, layout, firsts, &mut |sequence, _| {
        last = last.max(sequence);
        Ok(())
    })
    .map_err(std::io::Error::other)?;
    Ok((last, !end_seen))
}

/// The journal is damaged, or shorter than it was. When the index is whole and, with the records
/// that can still be read, has everything that is known of, it becomes the next checkpoint. Where
/// the end of the journal is missing, the index need not have had all of it: a change gets into the
/// index after it is durable in the journal, and to the disk later still.
pub(in crate::store) fn salvage(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    found: &Found,
    damage: &Damage,
    index: Result<Arc<dyn Index>, IndexFault>,
    mut recovery: Recovery,
) -> Result<Recovered, OpenError> {
    let lost = |why: &str| OpenError::Damaged {
        path: damage.path.clone(),
        what: format!("{}; {why}", damage.what),
        // The caller knows what is whole before it.
        cure: String::new(),
    };
    let index =
        index.map_err(|fault| lost(&format!("the index cannot make up for it: {fault}")))?;
    let from = index.applied();
    // The index is whole: what keeps it from taking their place can be mended.
    let unsaved = |error: StoreError| OpenError::StateDir {
        path: layout.root().to_owned(),
        cause: format!(
            "{} is damaged: {}; the index may make up for it, and cannot take its place: {error}",
            damage.path.display(),
            damage.what
        ),
        cure: "mend that (free some space, above all), and start the node again; nothing was \
               given up",
    };
    let failed = |error: StoreError| match error {
        StoreError::Full | StoreError::Io(_) => unsaved(error),
        // sled does not say why it fails.
        error if is_full(&**disk, layout.root()) => unsaved(error),
        error => lost(&format!("the index cannot make up for it: {error}")),
    };
    each_whole(&**disk, layout, &found.firsts, &mut |sequence, record| {
        if let Some(record) = record.filter(|record| record.sequence == sequence)
            && sequence.checked_sub(1) == Some(index.applied())
        {
            apply(&*index, sequence, record.changes)?;
        }
        Ok(())
    })
    .map_err(failed)?;
    let sequence = index.applied();
    if sequence < damage.last_seen || sequence == 0 {
        return Err(lost(&format!("the index ends at sequence {sequence}, before it")));
    }
    let end = End { sequence, ..End::default() };
    let what = format!("{}: {}", damage.path.display(), damage.what);
    recovery.damage.push(if damage.end_missing || from > damage.last_seen {
        let cost = format!(
            "{what}; the index goes on to sequence {sequence}: what was changed after that may be \
             lost, also where it was acknowledged"
        );
        loss::begin(&**disk, layout, &cost).map_err(failed)?;
        format!("{cost}; children reconcile")
    } else {
        // The feed goes on: to followers a new epoch is another node, which they offer what it has
        // deleted.
        format!(
            "{what}; the index had all of it, nothing is lost, children that were behind reconcile"
        )
    });
    let write = || write_out(&**disk, layout, &*index, end);
    let checkpoint = in_any_space(&**disk, layout, write).map_err(failed)?;
    recovery.sequence = sequence;
    recovery.records_replayed = sequence - from;
    let firsts = keep_before(&**disk, layout, &found.firsts, sequence)?;
    Ok(Recovered { recovery, end, firsts, checkpoints: vec![checkpoint], bytes_since: 0, index })
}

/// Removes segments that begin after a new checkpoint: nothing before it can be relied on, and
/// nothing may be named after it. Returns the others.
fn keep_before(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
    sequence: u64,
) -> Result<Vec<u64>, OpenError> {
    for first in firsts.iter().filter(|first| **first > sequence) {
        disk.remove(&layout.segment(*first)).map_err(OpenError::io(&layout.journal()))?;
    }
    Ok(firsts.iter().copied().filter(|first| *first <= sequence).collect())
}

/// Gives up all from the damage on, because somebody has said so: what the records up to `whole`
/// say becomes the next checkpoint.
pub(in crate::store) fn cut_off(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    kind: IndexKind,
    found: &Found,
    damage: &Damage,
    whole: u64,
    mut recovery: Recovery,
) -> Result<Recovered, OpenError> {
    let failed = |what: StoreError| OpenError::StateDir {
        path: layout.root().to_owned(),
        cause: format!(
            "what is before the damage in {} cannot be kept: {what}",
            damage.path.display()
        ),
        cure: "free some space there, if it is full, and try again",
    };
    let built = Built::default();
    let (checkpoints, firsts) = (&found.checkpoints, &found.firsts);
    let rows = rebuild(disk, layout, IndexKind::Map, checkpoints, firsts, whole, &built);
    let rows = rows.map_err(failed)?;
    // Followers may know what is lost: its sequences are not used again.
    let end = End { sequence: damage.last_seen.max(whole + 1), ..End::default() };
    let loss = format!(
        "{}: {}; cut off: the changes from sequence {} to {} are lost",
        damage.path.display(),
        damage.what,
        whole + 1,
        end.sequence
    );
    // Before the cut: what only lost changes named must not be garbage for a moment.
    loss::begin(&**disk, layout, &loss).map_err(failed)?;
    let write = || write_out(&**disk, layout, &*rows, end);
    let checkpoint = in_any_space(&**disk, layout, write).map_err(failed)?;
    drop(rows);
    let index = rebuild(disk, layout, kind, &[checkpoint], &[], end.sequence, &built);
    let firsts = keep_before(&**disk, layout, firsts, end.sequence)?;
    recovery.damage.push(format!("{loss}, children reconcile"));
    recovery.sequence = end.sequence;
    Ok(Recovered {
        recovery,
        end,
        firsts,
        checkpoints: vec![checkpoint],
        bytes_since: 0,
        index: index.map_err(failed)?,
    })
}

/// Writes all rows of the index, which is at `end`, as a checkpoint.
pub(in crate::store) fn write_out(
    disk: &dyn Disk,
    layout: &Layout,
    index: &dyn Index,
    end: End,
) -> Result<Checkpoint, StoreError> {
    let mut writer = checkpoint::Writer::new(disk, layout, end)?;
    let mut after: Option<Vec<u8>> = None;
    let (mut count, mut sum) = (0, 0_u64);
    loop {
        let rows = index.scan(b"", after.as_deref(), SALVAGE_ROWS)?;
        let Some((last, _)) = rows.last() else {
            return match index.totals().is_none_or(|totals| totals == (count, sum)) {
                true => writer.finish(),
                false => Err(StoreError::Corrupt("the index has lost rows".to_owned())),
            };
        };
        after = Some(last.clone());
        count += rows.len() as u64;
        sum = rows.iter().fold(sum, |sum, (key, row)| sum.wrapping_add(row_hash(key, row)));
        for (key, row) in rows.into_iter().filter(|(key, _)| !derived::is_derived(key)) {
            writer.row(key, row)?;
        }
    }
}

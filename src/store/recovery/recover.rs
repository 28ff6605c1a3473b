//! Opening: from what a stop of any kind left to a store that answers.
//!
//! The state is a checkpoint and the records after it. A damaged end of the last segment, with
//! nothing behind it that proves it was durable, is the torn end of an append that nobody was
//! told about: it is cut. Damage of the end, and a lost end, look the same; the index and the note
//! of what the journal has reached tell them apart. The one loss that cannot be detected is that
//! of the last changes before a power cut that neither of them knew of yet.

use std::path::Path;
use std::sync::Arc;

use super::found::{Found, Recovered, Recovery};
use super::loss;
use super::rebuild::{catch_up, fill, open_sled, rebuild};
use super::salvage::{Damage, cut_off, last_sequence_seen, salvage};
use crate::store::StoreError;
use crate::store::index::{Built, Index, IndexFault, IndexKind, MapIndex};
use crate::store::journal::ballast::in_any_space;
use crate::store::journal::frame::FrameFault;
use crate::store::journal::layout::{Layout, OpenError};
use crate::store::journal::reached;
use crate::store::journal::segment::{self, End, SEGMENT_HEADER_BYTES_MAX, SegmentReader};
use crate::sys::Disk;

/// Finds out what is there, mends what can be mended, and opens the index.
pub(in crate::store) fn recover(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    kind: IndexKind,
    cut: bool,
) -> Result<Recovered, OpenError> {
    let reached = reached::read(&**disk, layout);
    let mut recovered = recover_up_to(disk, layout, kind, cut, reached)?;
    if let Some(loss) = lost_end(recovered.end.sequence, reached, InIndex::No) {
        loss::begin(&**disk, layout, &loss).map_err(OpenError::store(layout.root()))?;
        recovered.recovery.clean = false;
        recovered.recovery.damage.push(format!("{loss}; children reconcile"));
    }
    Ok(recovered)
}

/// Notes where the journal ends now: the next start finds no loss any more. What follows from one
/// is durable by then, so that a start that is cut short is followed by one that does it anew.
pub(in crate::store) fn end_of_loss(
    disk: &dyn Disk,
    layout: &Layout,
    end: u64,
) -> Result<(), StoreError> {
    if reached::read(disk, layout) <= end {
        return Ok(());
    }
    in_any_space(disk, layout, || Ok(reached::replace(disk, layout, end)?))
}

/// Whether the index may have what the journal has lost.
#[derive(Clone, Copy)]
enum InIndex {
    /// The index was asked, and has not.
    No,
    /// There is no index.
    None,
    /// Nobody has asked the index.
    Unknown,
}

/// What is missing of a journal that has reached a later sequence, for people.
fn lost_end(end: u64, reached: u64, in_index: InIndex) -> Option<String> {
    let (index, unless) = match in_index {
        InIndex::No => (" and of the index", ""),
        InIndex::None => ("", ""),
        InIndex::Unknown => ("", ", unless the index has them"),
    };
    (reached > end).then(|| {
        format!(
            "the journal had reached sequence {reached}, and what is left of it{index} ends at \
             {end}: the changes after {end} are lost, also where they were acknowledged{unless}"
        )
    })
}

/// As far as journal and index go; the journal is known to have `reached` a sequence.
fn recover_up_to(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    kind: IndexKind,
    cut: bool,
    reached: u64,
) -> Result<Recovered, OpenError> {
    let mut found = Found::list(&**disk, layout, false)?;
    let exists = disk.exists(&layout.index()).map_err(OpenError::io(layout.root()))?;
    let index = match kind {
        // One that is made for nothing would look like one that can make up for damage.
        IndexKind::Sled { .. } if !exists => Err(IndexFault::Damaged("there is none".to_owned())),
        IndexKind::Sled { cache } => open_sled(disk, layout, cache),
        IndexKind::Map => Ok(Arc::new(MapIndex::default()) as Arc<dyn Index>),
    };
    let known = index.as_ref().map_or(0, |index| index.applied());
    // Where the index goes on from the last checkpoint, none of its rows are needed.
    if found.base().is_some_and(|base| known < base.end.sequence) {
        found.read_base(&**disk, layout)?;
    }
    let mut walk = walk(&**disk, layout, &found, cut)?;
    let mut recovery =
        Recovery { damage: std::mem::take(&mut found.damage), ..Recovery::default() };
    let whole = walk.end.sequence;
    let may_be_whole = index.as_ref().err().filter(|fault| fault.may_be_whole());
    // What the journal lacks, the index may have.
    let is_short = known > whole || (reached > whole && may_be_whole.is_some());
    let short = || Damage {
        path: layout.journal(),
        what: format!("it ends at sequence {whole}"),
        last_seen: whole,
        end_missing: true,
    };
    if let Some(mut damage) = walk.damage.take().or_else(|| is_short.then(short)) {
        damage.end_missing |= reached > damage.last_seen;
        let last = damage.last_seen.max(reached).max(known);
        if let Some(fault) = may_be_whole {
            return Err(OpenError::StateDir {
                path: layout.root().to_owned(),
                cause: format!(
                    "{} is damaged: {}; the index, which may make up for it, cannot be opened: \
                     {fault}",
                    damage.path.display(),
                    damage.what
                ),
                cure: "free some space there, or give the service its rights back, and start the \
                       node again; nothing was changed",
            });
        }
        return match salvage(disk, layout, &found, &damage, index, recovery.clone()) {
            Err(OpenError::Damaged { .. }) if cut && whole > 0 => {
                damage.last_seen = last;
                cut_off(disk, layout, kind, &found, &damage, whole, recovery)
            }
            Err(OpenError::Damaged { path, what, .. }) => {
                Err(OpenError::Damaged { path, what, cure: way_out(whole, last) })
            }
            salvaged => salvaged,
        };
    }
    check_not_lost(&**disk, layout, whole)?;
    if cut {
        return Err(OpenError::StateDir {
            path: layout.root().to_owned(),
            cause: "its journal is not damaged".to_owned(),
            cure: "there is nothing to cut off: start the node",
        });
    }
    let end = settle(&**disk, layout, &mut found.firsts, &walk)?;
    (recovery.clean, recovery.tail_cut_bytes) = (walk.clean, walk.cut_bytes);
    recovery.sequence = end.sequence;
    let state = State { disk, layout, kind, found: &found, end: end.sequence };
    let index = state.bring_up(index, &mut recovery)?;
    Ok(Recovered {
        recovery,
        end,
        firsts: found.firsts,
        checkpoints: found.checkpoints,
        bytes_since: walk.bytes,
        index,
    })
}

/// What a person can do about damage that nothing makes up for: records up to `whole` can be read,
/// `last` is known to have been there.
fn way_out(whole: u64, last: u64) -> String {
    const RESTORE: &str = "move the state directory away and restore a backup (skerry restore)";
    match whole {
        0 => format!("nothing before it can be read: {RESTORE}, or begin anew without one"),
        _ => format!(
            "{RESTORE}, or run skerry state cut-journal, which keeps everything up to sequence \
             {whole}: the changes after it, at least up to {}, are lost",
            last.max(whole + 1)
        ),
    }
}

/// A store of which only the content is left is not a new one: the content would be garbage to it.
/// `known` is the last sequence in checkpoint or journal: an empty segment says nothing.
fn check_not_lost(disk: &dyn Disk, layout: &Layout, known: u64) -> Result<(), OpenError> {
    if known > 0 || !layout.holds_content(disk).map_err(OpenError::io(layout.root()))? {
        return Ok(());
    }
    Err(OpenError::Damaged {
        path: layout.root().to_owned(),
        what: "there is content in blobs/, but no record in journal/ says whose it is".to_owned(),
        cure: "move it away and restore a backup (skerry restore); or, to begin anew without what \
               the registry held, move blobs/ and journal-end away"
            .to_owned(),
    })
}

/// An undamaged journal and an index that may know less.
struct State<'a> {
    disk: &'a Arc<dyn Disk>,
    layout: &'a Layout,
    kind: IndexKind,
    found: &'a Found,
    end: u64,
}

impl State<'_> {
    /// Applies what the index does not know yet, or builds a new one.
    fn bring_up(
        &self,
        index: Result<Arc<dyn Index>, IndexFault>,
        recovery: &mut Recovery,
    ) -> Result<Arc<dyn Index>, OpenError> {
        let Found { firsts, checkpoints, .. } = self.found;
        let base = self.found.base();
        let from = base.map_or(0, |base| base.end.sequence);
        let index = index.map_err(|fault| fault.to_string());
        let usable = index.and_then(|index| match index.applied() {
            0 if self.kind == IndexKind::Map || self.end == 0 => Ok(index),
            0 => Err("there is none".to_owned()),
            applied if applied >= from => Ok(index),
            applied => Err(format!("it ends at sequence {applied}, too long ago")),
        });
        // Nobody asks yet.
        let built = Built::default();
        let current = usable.and_then(|index| {
            let applied = index.applied();
            let apply = if applied < from { fill } else { catch_up };
            apply(&**self.disk, self.layout, &*index, base, firsts, self.end, &built)
                .map_err(|error| error.to_string())?;
            recovery.records_replayed = self.end - applied.max(from);
            Ok(index)
        });
        current.or_else(|why| {
            recovery.records_replayed = self.end - from;
            let index =
                rebuild(self.disk, self.layout, self.kind, checkpoints, firsts, self.end, &built);
            let index = index.map_err(|error| OpenError::Damaged {
                path: self.layout.journal(),
                what: format!("the index cannot be built from it ({why}): {error}"),
                cure: "start the node again; if it stays so, move the state directory away and \
                       restore a backup (skerry restore)"
                    .to_owned(),
            });
            // A new store has nothing to build it from.
            recovery.index_rebuilt = (self.end > 0).then_some(why);
            index
        })
    }
}

/// Reads what is there into a map in memory and changes nothing.
pub(in crate::store) fn look(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
) -> Result<Recovered, OpenError> {
    let exists = |path: &Path| disk.exists(path).map_err(OpenError::io(path));
    if !exists(&layout.journal())? && !exists(&layout.index())? {
        check_not_lost(&**disk, layout, 0)?;
    }
    let mut found = Found::list(&**disk, layout, true)?;
    found.read_base(&**disk, layout)?;
    let walk = walk(&**disk, layout, &found, false)?;
    if let Some(Damage { path, what, last_seen, .. }) = walk.damage {
        let unless = match exists(&layout.index())? {
            true => "a start makes up for it where the index has all of it, and otherwise: ",
            false => "",
        };
        let cure = format!("{unless}{}", way_out(walk.end.sequence, last_seen));
        return Err(OpenError::Damaged { path, what, cure });
    }
    check_not_lost(&**disk, layout, walk.end.sequence)?;
    let mut recovery = Recovery {
        read_only: true,
        clean: walk.clean,
        sequence: walk.end.sequence,
        tail_cut_bytes: walk.cut_bytes,
        damage: std::mem::take(&mut found.damage),
        ..Recovery::default()
    };
    let in_index = match exists(&layout.index())? {
        true => InIndex::Unknown,
        false => InIndex::None,
    };
    recovery.lost = lost_end(walk.end.sequence, reached::read(&**disk, layout), in_index);
    recovery.damage.extend(recovery.lost.clone());
    let state = State { disk, layout, kind: IndexKind::Map, found: &found, end: walk.end.sequence };
    let index = state.bring_up(Ok(Arc::new(MapIndex::default())), &mut recovery)?;
    Ok(Recovered {
        recovery,
        end: walk.end,
        firsts: found.firsts,
        checkpoints: found.checkpoints,
        bytes_since: walk.bytes,
        index,
    })
}

/// What a start would fail on in the journal, without taking the directory or changing anything.
/// Returns what only the index can make up for: a start sees whether it does.
pub fn check_journal(disk: &dyn Disk, layout: &Layout) -> Result<Option<String>, OpenError> {
    let exists = |path: &Path| disk.exists(path).map_err(OpenError::io(path));
    let has_index = exists(&layout.index())?;
    let checked = match exists(&layout.journal())? {
        // A start makes an empty one.
        false => check_not_lost(disk, layout, 0),
        true => {
            let mut found = Found::list(disk, layout, true)?;
            if !has_index {
                found.read_base(disk, layout)?;
            }
            let walk = walk(disk, layout, &found, false)?;
            match walk.damage {
                None => check_not_lost(disk, layout, walk.end.sequence),
                Some(Damage { path, what, last_seen, .. }) => {
                    let cure = way_out(walk.end.sequence, last_seen);
                    Err(OpenError::Damaged { path, what, cure })
                }
            }
        }
    };
    match checked {
        Err(error) if has_index => {
            Ok(Some(format!("unless the index makes up for it, serve fails: {error}")))
        }
        checked => checked.map(|()| None),
    }
}

/// The last sequence in the journal of a state directory or backup, as far as it can be read;
/// changes nothing.
pub(in crate::store) fn last_sequence(disk: &dyn Disk, layout: &Layout) -> Result<u64, OpenError> {
    let found = Found::list(disk, layout, true)?;
    Ok(walk(disk, layout, &found, false)?.end.sequence)
}

/// What reading all records after the last checkpoint showed.
struct Walk {
    end: End,
    clean: bool,
    bytes: u64,
    cut_bytes: u64,
    /// The last segment, when there is one with a good header.
    last: Option<SegmentReader>,
    /// A segment whose header was never finished.
    stillborn: Option<u64>,
    damage: Option<Damage>,
}

/// What the medium says it has lost it may have again at another start: it counts as damage where
/// somebody has `agreed` that what cannot be read is lost.
fn walk(disk: &dyn Disk, layout: &Layout, found: &Found, agreed: bool) -> Result<Walk, OpenError> {
    let firsts = &found.firsts;
    let end = found.base().map_or(End::default(), |base| base.end);
    let mut walk = Walk {
        end,
        clean: true,
        bytes: 0,
        cut_bytes: 0,
        last: None,
        stillborn: None,
        damage: None,
    };
    if let Some(last) = firsts.last().filter(|last| **last <= end.sequence) {
        walk.clean = segment::ends_with_stop(disk, layout, *last);
    }
    let firsts: Vec<u64> = firsts.iter().copied().filter(|f| *f > end.sequence).collect();
    for (position, first) in firsts.iter().enumerate() {
        let is_last = position + 1 == firsts.len();
        let path = layout.segment(*first);
        if let Err(fault) = walk_segment(disk, layout, *first, is_last, &mut walk) {
            let what = match fault {
                SegmentFault::Io(error) => return Err(OpenError::io(&path)(error)),
                SegmentFault::Lost(error) if !agreed => {
                    return Err(OpenError::Lost { path, cause: error.to_string() });
                }
                SegmentFault::Lost(error) => format!("it cannot be read: {error}"),
                SegmentFault::Damaged(what) => what,
            };
            // Where a checkpoint was given up, that may be why.
            let what = [&[what], &found.damage[..]].concat().join("; ");
            let (last_seen, end_missing) = last_sequence_seen(disk, layout, &firsts[position..])
                .map_err(OpenError::io(&path))?;
            walk.damage = Some(Damage { path, what, last_seen, end_missing });
            break;
        }
    }
    Ok(walk)
}

enum SegmentFault {
    Io(std::io::Error),
    Lost(std::io::Error),
    Damaged(String),
}

impl From<std::io::Error> for SegmentFault {
    fn from(error: std::io::Error) -> SegmentFault {
        SegmentFault::Io(error)
    }
}

fn walk_segment(
    disk: &dyn Disk,
    layout: &Layout,
    first: u64,
    is_last: bool,
    walk: &mut Walk,
) -> Result<(), SegmentFault> {
    let len = disk.file_len(&layout.segment(first))?;
    let mut segment = match SegmentReader::open(disk, layout, first) {
        Ok(segment) => segment,
        Err(FrameFault::Io(error)) => return Err(error.into()),
        Err(FrameFault::Lost(error)) => return Err(SegmentFault::Lost(error)),
        Err(FrameFault::Bad(_)) if is_last && len <= SEGMENT_HEADER_BYTES_MAX => {
            walk.clean = false;
            walk.cut_bytes = len;
            walk.stillborn = Some(first);
            return Ok(());
        }
        Err(FrameFault::Bad(_)) => {
            return Err(SegmentFault::Damaged("its header cannot be read".to_owned()));
        }
    };
    if segment.previous() != walk.end {
        let what = format!(
            "it follows sequence {}, but what is there before it ends at {}",
            segment.previous().sequence,
            walk.end.sequence
        );
        return Err(SegmentFault::Damaged(what));
    }
    loop {
        match segment.next_record() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(FrameFault::Io(error)) => return Err(error.into()),
            Err(FrameFault::Lost(error)) => {
                walk.end = segment.end();
                return Err(SegmentFault::Lost(error));
            }
            Err(FrameFault::Bad(at)) => {
                walk.end = segment.end();
                let proven = !is_last
                    || segment.damage_is_proven().map_err(|fault| match fault {
                        FrameFault::Io(error) => SegmentFault::Io(error),
                        FrameFault::Lost(error) => SegmentFault::Lost(error),
                        FrameFault::Bad(_) => SegmentFault::Damaged(String::new()),
                    })?;
                if proven {
                    let after = segment.end().sequence;
                    let what = format!("byte {at}, after the record of sequence {after}");
                    return Err(SegmentFault::Damaged(what));
                }
                break;
            }
        }
    }
    walk.end = segment.end();
    walk.bytes += walk.end.len;
    walk.cut_bytes = len.saturating_sub(walk.end.len);
    walk.clean = segment.stopped() && walk.cut_bytes == 0;
    walk.last = Some(segment);
    Ok(())
}

/// Cuts a torn tail and closes the last segment.
fn settle(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &mut Vec<u64>,
    walk: &Walk,
) -> Result<End, OpenError> {
    let directory = layout.journal();
    if let Some(first) = walk.stillborn {
        disk.remove(&layout.segment(first)).map_err(OpenError::io(&directory))?;
        firsts.retain(|other| *other != first);
    }
    let mut end = walk.end;
    if let Some(last) = &walk.last {
        end = last.seal(disk, layout).map_err(OpenError::io(&directory))?;
        if end.sequence < last.previous().sequence + 1 {
            // It holds no record; the next segment takes its name.
            let first = end.sequence + 1;
            disk.remove(&layout.segment(first)).map_err(OpenError::io(&directory))?;
            firsts.retain(|other| *other != first);
            end = last.previous();
        }
    }
    if walk.stillborn.is_some() || walk.last.is_some() {
        disk.sync_dir(&directory).map_err(OpenError::io(&directory))?;
    }
    Ok(end)
}

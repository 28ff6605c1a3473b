//! What a start finds on the disk, and what becomes of it.

use std::fmt;
use std::sync::Arc;

use crate::store::index::Index;
use crate::store::journal::checkpoint::{self, Checkpoint};
use crate::store::journal::frame::FrameFault;
use crate::store::journal::layout::{Layout, OpenError};
use crate::store::journal::segment::End;
use crate::sys::Disk;

/// What opening the store found and did; one line for the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// There was no store before.
    pub new: bool,
    /// Nothing may be changed: a newer version wrote the store, or it is only looked at.
    pub read_only: bool,
    /// The last stop was in good order.
    pub clean: bool,
    /// The last sequence in the journal.
    pub sequence: u64,
    /// Records that the index did not know yet.
    pub records_replayed: u64,
    /// Bytes of a torn append that were cut off.
    pub tail_cut_bytes: u64,
    /// Why the index was built again, if it was.
    pub index_rebuilt: Option<String>,
    /// What was damaged, and what it cost.
    pub damage: Vec<String>,
    /// What a journal that is only looked at has lost of its end.
    pub lost: Option<String>,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stop = match (self.new, self.clean) {
            (true, _) => "new store",
            (false, true) => "store opened after a clean stop",
            (false, false) => "store opened after an unclean stop",
        };
        write!(f, "{stop} sequence={} replayed={}", self.sequence, self.records_replayed)?;
        if self.read_only {
            f.write_str(" read_only=true")?;
        }
        if self.tail_cut_bytes > 0 {
            write!(f, " torn_tail_cut_bytes={}", self.tail_cut_bytes)?;
        }
        if let Some(why) = &self.index_rebuilt {
            write!(f, " index_rebuilt=\"{why}\"")?;
        }
        for damage in &self.damage {
            write!(f, " damage=\"{damage}\"")?;
        }
        Ok(())
    }
}

/// What the writer continues from.
pub(in crate::store) struct Recovered {
    pub(in crate::store) recovery: Recovery,
    pub(in crate::store) end: End,
    pub(in crate::store) firsts: Vec<u64>,
    pub(in crate::store) checkpoints: Vec<Checkpoint>,
    /// Bytes in the journal after the last checkpoint.
    pub(in crate::store) bytes_since: u64,
    pub(in crate::store) index: Arc<dyn Index>,
}

/// What the journal directory holds.
pub(in crate::store) struct Found {
    pub(in crate::store) firsts: Vec<u64>,
    pub(in crate::store) checkpoints: Vec<Checkpoint>,
    pub(in crate::store) damage: Vec<String>,
}

impl Found {
    pub(in crate::store) fn list(
        disk: &dyn Disk,
        layout: &Layout,
        frozen: bool,
    ) -> Result<Found, OpenError> {
        let directory = layout.journal();
        let failed = OpenError::io(&directory);
        let mut found = Found { firsts: Vec::new(), checkpoints: Vec::new(), damage: Vec::new() };
        for entry in disk.list(&directory).map_err(&failed)? {
            let number = |name: Option<&str>| name.and_then(|name| name.parse::<u64>().ok());
            if let Some(first) = number(entry.name.strip_suffix(".log")) {
                found.firsts.push(first);
            } else if let Some(sequence) = number(entry.name.strip_suffix(".ckpt")) {
                match checkpoint::inspect(disk, layout, sequence) {
                    Ok(checkpoint) => found.checkpoints.push(checkpoint),
                    Err(fault) => found.damage.push(damage(&entry.name, fault).map_err(&failed)?),
                }
            } else if entry.name.ends_with(".tmp") && !frozen {
                disk.remove(&directory.join(entry.name)).map_err(&failed)?;
            }
        }
        found.firsts.sort_unstable();
        found.checkpoints.sort_unstable_by_key(|checkpoint| checkpoint.end.sequence);
        Ok(found)
    }

    /// The last checkpoint, which the records after it continue.
    pub(in crate::store) fn base(&self) -> Option<Checkpoint> {
        self.checkpoints.last().copied()
    }

    /// Reads the last checkpoint to its end, since its rows will be needed, and gives it up where
    /// it is damaged; then the one before it, and so on.
    pub(in crate::store) fn read_base(
        &mut self,
        disk: &dyn Disk,
        layout: &Layout,
    ) -> Result<(), OpenError> {
        while let Some(base) = self.base() {
            let Err(fault) = checkpoint::verify(disk, layout, base.end.sequence) else {
                break;
            };
            let path = layout.checkpoint(base.end.sequence);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.damage.push(damage(&name, fault).map_err(OpenError::io(&path))?);
            self.checkpoints.pop();
        }
        Ok(())
    }
}

/// What is wrong with a checkpoint; an error when that may be gone at the next start.
fn damage(name: &str, fault: FrameFault) -> std::io::Result<String> {
    let what = fault.damage()?;
    Ok(format!("checkpoint journal/{name} {what}; what is before it is read in its place"))
}

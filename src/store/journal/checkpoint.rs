//! Checkpoints: all rows at one sequence, in key order. A checkpoint is made from the one before
//! and the segments after it, so that damage of the index cannot get in here; from the index only
//! where those are damaged themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::frame::{self, FrameFault, FrameKind, FrameReader};
use super::layout::Layout;
use super::segment::{self, End, PAYLOAD_VERSION};
use crate::store::StoreError;
use crate::store::index::{KeyValue, row_hash};
use crate::sys::Disk;
use crate::sys::disk::DiskFile;
use crate::types::limits::RECORD_BYTES_MAX;

/// Rows are framed together up to about this many bytes.
const BLOCK_BYTES: usize = 32 * 1024;

const TRAILER_BYTES: usize = 17;

/// A checkpoint that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Where the journal stood; the next segment's header repeats it.
    pub end: End,
    /// Its length, bytes.
    pub bytes: u64,
}

/// What its header says. Part of the on-disk format.
#[derive(Serialize, Deserialize)]
struct Header {
    end: End,
}

/// Looks whether the checkpoint at `sequence` is complete, by its ends alone.
pub fn inspect(disk: &dyn Disk, layout: &Layout, sequence: u64) -> Result<Checkpoint, FrameFault> {
    let reader = Rows::open(disk, layout, sequence)?;
    let file = disk.open(&layout.checkpoint(sequence))?;
    let bytes = file.len()?;
    let trailer = (frame::HEAD_BYTES + TRAILER_BYTES) as u64;
    let offset = bytes.checked_sub(trailer).ok_or(FrameFault::Bad(0))?;
    let mut frames = FrameReader::new(file, 0, offset);
    match frames.next_frame()? {
        Some(head) if head.kind == FrameKind::CheckpointTrailer && head.sequence == sequence => {
            Ok(Checkpoint { end: reader.end, bytes })
        }
        _ => Err(FrameFault::Bad(offset)),
    }
}

/// Reads the rows of a checkpoint in key order, checking all of it on the way.
pub struct Rows {
    frames: FrameReader,
    end: End,
    crc: u32,
    count: u64,
    sum: u64,
    block: std::vec::IntoIter<KeyValue>,
    /// The key of the row before; a merge relies on the order.
    last: Vec<u8>,
    done: bool,
}

impl Rows {
    /// Opens the checkpoint at `sequence`.
    pub fn open(disk: &dyn Disk, layout: &Layout, sequence: u64) -> Result<Rows, FrameFault> {
        Rows::open_at(disk, &layout.checkpoint(sequence), sequence)
    }

    fn open_at(disk: &dyn Disk, path: &Path, sequence: u64) -> Result<Rows, FrameFault> {
        let file = disk.open(path)?;
        let mut frames = FrameReader::new(file, 0, 0);
        let bad = FrameFault::Bad(0);
        let Some(head) = frames.next_frame()? else {
            return Err(bad);
        };
        let header = segment::parse_payload::<Header>(frames.payload());
        let (FrameKind::CheckpointHeader, Some(Header { end })) = (head.kind, header) else {
            return Err(bad);
        };
        if end.sequence != sequence || !(1..segment::SEQUENCE_MAX).contains(&sequence) {
            return Err(bad);
        }
        let block = Vec::new().into_iter();
        let (count, sum, last, done) = (0, 0, Vec::new(), false);
        Ok(Rows { frames, end, crc: head.crc, count, sum, block, last, done })
    }

    /// The next row; `None` when all have been read and the trailer agrees with them.
    pub fn next_row(&mut self) -> Result<Option<KeyValue>, FrameFault> {
        loop {
            if let Some(row) = self.block.next() {
                if self.count > 0 && row.0 <= self.last {
                    return Err(FrameFault::Bad(self.frames.offset()));
                }
                self.last.clone_from(&row.0);
                self.count += 1;
                self.sum = self.sum.wrapping_add(row_hash(&row.0, &row.1));
                return Ok(Some(row));
            }
            if self.done {
                return Ok(None);
            }
            self.next_block()?;
        }
    }

    fn next_block(&mut self) -> Result<(), FrameFault> {
        let bad = FrameFault::Bad(self.frames.offset());
        let Some(head) = self.frames.next_frame()? else {
            return Err(bad);
        };
        if head.previous != self.crc || head.sequence != self.end.sequence {
            return Err(bad);
        }
        self.crc = head.crc;
        match head.kind {
            FrameKind::Rows => {
                let rows = segment::parse_payload::<Vec<KeyValue>>(self.frames.payload());
                self.block = rows.ok_or(bad)?.into_iter();
            }
            FrameKind::CheckpointTrailer
                if self.frames.payload() == trailer(self.count, self.sum) =>
            {
                self.done = true;
            }
            _ => return Err(bad),
        }
        Ok(())
    }
}

/// Reads a whole checkpoint; an error unless every byte of it is as it was written.
pub fn verify(disk: &dyn Disk, layout: &Layout, sequence: u64) -> Result<Checkpoint, FrameFault> {
    verify_at(disk, &layout.checkpoint(sequence), sequence)
}

fn verify_at(disk: &dyn Disk, path: &Path, sequence: u64) -> Result<Checkpoint, FrameFault> {
    let mut rows = Rows::open_at(disk, path, sequence)?;
    while rows.next_row()?.is_some() {}
    let bytes = rows.frames.offset();
    if disk.file_len(path)? != bytes {
        return Err(FrameFault::Bad(bytes));
    }
    Ok(Checkpoint { end: rows.end, bytes })
}

fn trailer(count: u64, sum: u64) -> [u8; TRAILER_BYTES] {
    let mut bytes = [PAYLOAD_VERSION; TRAILER_BYTES];
    bytes[1..9].copy_from_slice(&count.to_le_bytes());
    bytes[9..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Writes a checkpoint row by row; it exists once [`Writer::finish`] has read it back.
pub struct Writer<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    file: Arc<dyn DiskFile>,
    end: End,
    offset: u64,
    crc: u32,
    count: u64,
    sum: u64,
    block: Vec<KeyValue>,
    block_bytes: usize,
    is_named: bool,
}

/// A checkpoint that is not finished only takes space, the lack of which may have ended it.
impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !self.is_named {
            let temporary = self.layout.checkpoint(self.end.sequence).with_extension("tmp");
            let _ = self.disk.remove(&temporary);
        }
    }
}

impl<'a> Writer<'a> {
    /// Starts the checkpoint of the state at `end`.
    pub fn new(disk: &'a dyn Disk, layout: &'a Layout, end: End) -> Result<Writer<'a>, StoreError> {
        let temporary = layout.checkpoint(end.sequence).with_extension("tmp");
        if disk.exists(&temporary)? {
            disk.remove(&temporary)?;
        }
        let file = disk.create(&temporary)?;
        let mut writer = Writer {
            disk,
            layout,
            file,
            end,
            offset: 0,
            crc: 0,
            count: 0,
            sum: 0,
            block: Vec::new(),
            block_bytes: 0,
            is_named: false,
        };
        writer.frame(FrameKind::CheckpointHeader, &segment::payload(&Header { end })?)?;
        Ok(writer)
    }

    /// Adds a row; keys come in ascending order.
    pub fn row(&mut self, key: Vec<u8>, row: Vec<u8>) -> Result<(), StoreError> {
        self.count += 1;
        self.sum = self.sum.wrapping_add(row_hash(&key, &row));
        let bytes = key.len() + row.len() + 16;
        if self.block_bytes + bytes > BLOCK_BYTES {
            self.flush()?;
        }
        self.block_bytes += bytes;
        self.block.push((key, row));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if !self.block.is_empty() {
            let payload = segment::payload(&self.block)?;
            self.block.clear();
            self.block_bytes = 0;
            self.frame(FrameKind::Rows, &payload)?;
        }
        Ok(())
    }

    fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), StoreError> {
        let sequence = self.end.sequence;
        let mut bytes = Vec::with_capacity(frame::HEAD_BYTES + payload.len());
        self.crc = frame::append(&mut bytes, 0, kind, sequence, sequence, self.crc, payload)
            .ok_or_else(|| StoreError::Invalid("a row is too large".to_owned()))?;
        self.file.write_all_at(&bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Makes the checkpoint durable, reads it back, and puts it under its name.
    pub fn finish(mut self) -> Result<Checkpoint, StoreError> {
        self.flush()?;
        let trailer = trailer(self.count, self.sum);
        self.frame(FrameKind::CheckpointTrailer, &trailer)?;
        self.file.sync_data()?;
        // What is read back shall come from the disk.
        self.file.forget_cached(0, 0);
        let path = self.layout.checkpoint(self.end.sequence);
        let temporary = path.with_extension("tmp");
        // One of the same name, which may be whole, stays until then.
        let checkpoint = verify_at(self.disk, &temporary, self.end.sequence)
            .map_err(|fault| fault.of_file(&temporary))?;
        self.disk.rename(&temporary, &path)?;
        self.is_named = true;
        self.disk.sync_dir(&self.layout.journal())?;
        Ok(checkpoint)
    }
}

/// Merges `base` with the records after it up to `end` into a new checkpoint. Reads the segments
/// once for every `part_bytes` of changed rows and holds no more of them; memory stays flat.
pub fn merge(
    disk: &dyn Disk,
    layout: &Layout,
    base: Option<Checkpoint>,
    firsts: &[u64],
    end: End,
    part_bytes: usize,
) -> Result<Checkpoint, StoreError> {
    let mut writer = Writer::new(disk, layout, end)?;
    let from = base.map_or(End::default(), |base| base.end);
    let fault = |fault: FrameFault| fault.of_file(&layout.checkpoint(from.sequence));
    let mut rows = match base {
        Some(base) => Some(Rows::open(disk, layout, base.end.sequence).map_err(fault)?),
        None => None,
    };
    let mut next_row = || rows.as_mut().map_or(Ok(None), Rows::next_row).map_err(fault);
    let mut old = next_row()?;
    let mut lower = Vec::new();
    loop {
        let from_key = (lower.as_slice(), part_bytes);
        let part = changes_from(disk, layout, firsts, from, end.sequence, from_key)?;
        for (key, change) in part.changes {
            while let Some((old_key, row)) = old.take_if(|(old_key, _)| *old_key < key) {
                writer.row(old_key, row)?;
                old = next_row()?;
            }
            if old.take_if(|(old_key, _)| *old_key == key).is_some() {
                old = next_row()?;
            }
            if let Some(row) = change {
                writer.row(key, row)?;
            }
        }
        match part.upper {
            Some(upper) => lower = upper,
            None => break,
        }
    }
    while let Some((key, row)) = old.take() {
        writer.row(key, row)?;
        old = next_row()?;
    }
    writer.finish()
}

struct Part {
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The first key that did not fit.
    upper: Option<Vec<u8>>,
}

/// The last changes of the smallest keys from `lower` on, as many as fit `bytes_max`.
fn changes_from(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
    from: End,
    through: u64,
    (lower, bytes_max): (&[u8], usize),
) -> Result<Part, StoreError> {
    let size = |key: &[u8], row: Option<&[u8]>| key.len() + row.map_or(0, <[u8]>::len) + 64;
    let mut part = Part { changes: BTreeMap::new(), upper: None };
    let mut bytes = 0;
    segment::replay(disk, layout, firsts, from, through, &mut |record| {
        for (key, row) in record.changes {
            if *key < *lower || part.upper.as_ref().is_some_and(|upper| key >= *upper) {
                continue;
            }
            bytes += size(&key, row.as_deref());
            if let Some(before) = part.changes.get(&key) {
                bytes -= size(&key, before.as_deref());
            }
            part.changes.insert(key, row);
            while bytes > bytes_max && part.changes.len() > 1 {
                if let Some((key, row)) = part.changes.pop_last() {
                    bytes -= size(&key, row.as_deref());
                    part.upper = Some(key);
                }
            }
        }
        Ok(())
    })?;
    Ok(part)
}

// A block always fits a frame: a row comes from a record, which was framed itself.
const _: () = assert!(BLOCK_BYTES + 1024 < RECORD_BYTES_MAX);

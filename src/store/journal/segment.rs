//! The journal: segments of framed records. A record is durable here before its change is
//! acknowledged or seen by anyone.
//!
//! A segment is named by its first sequence. Its header repeats where the segment before it
//! ended, so that a lost or exchanged segment is noticed; a footer ends a segment that was closed
//! in good order, and says whether the process stopped there. It is created by the first append,
//! so that a start without changes writes nothing.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::frame::{self, FrameFault, FrameKind, FrameReader};
use super::layout::Layout;
use super::reached::Reached;
use super::unmade::Unmade;
use crate::store::StoreError;
use crate::store::index::Change;
use crate::sys::Disk;
use crate::sys::disk::DiskFile;
use crate::types::UnixSeconds;

/// First byte of every payload in the journal.
pub const PAYLOAD_VERSION: u8 = 1;

/// No segment header is longer than this, bytes.
pub const SEGMENT_HEADER_BYTES_MAX: u64 = 64;

/// No journal gets here; a header that says so is damaged.
pub(in crate::store) const SEQUENCE_MAX: u64 = 1 << 62;

/// A footer's payload after the version byte: the next segment follows.
const ROTATED: u8 = 0;
/// The same: the process stopped in good order.
const STOPPED: u8 = 1;
const FOOTER_BYTES: u64 = frame::HEAD_BYTES as u64 + 2;

/// What one command changed. Part of the on-disk format.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its number; the first ever is 1.
    pub sequence: u64,
    /// When it was made, if the clock could be believed.
    pub wall: Option<UnixSeconds>,
    /// The rows it wrote and removed, in key order.
    pub changes: Vec<Change>,
}

/// Where a segment ends; repeated by the header of the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct End {
    /// The last record's sequence.
    pub sequence: u64,
    /// CRC of the last frame.
    pub crc: u32,
    /// Length of the segment, bytes.
    pub len: u64,
}

/// What a segment's header says beside the end of the one before. Part of the on-disk format.
#[derive(Serialize, Deserialize)]
struct Header {
    /// What the CRC of the frames to follow starts from.
    seed: u32,
    /// Length of the segment before, bytes.
    previous_len: u64,
}

/// Puts a version byte before the encoding of `value`.
pub(in crate::store) fn payload<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(value, vec![PAYLOAD_VERSION])
        .map_err(|error| StoreError::Invalid(format!("a record cannot be encoded: {error}")))
}

/// Reads what [`payload`] wrote.
pub(in crate::store) fn parse_payload<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (version, body) = bytes.split_first()?;
    (*version == PAYLOAD_VERSION).then(|| postcard::from_bytes(body).ok()).flatten()
}

/// The first sequences of the segments that exist, ascending.
#[derive(Clone)]
pub struct Segments(Arc<Mutex<Vec<u64>>>);

impl Segments {
    /// Wraps a list.
    pub fn new(firsts: Vec<u64>) -> Segments {
        Segments(Arc::new(Mutex::new(firsts)))
    }

    /// The list as it is now.
    pub fn list(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::store) fn change(&self, change: impl FnOnce(&mut Vec<u64>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The end of the journal, where records are appended.
pub struct Journal {
    disk: Arc<dyn Disk>,
    layout: Layout,
    segments: Segments,
    open: Option<OpenSegment>,
    end: End,
    /// What is there ends with a clean stop.
    clean: bool,
    poisoned: bool,
    reached: Reached,
    unmade: Unmade,
}

struct OpenSegment {
    file: Arc<dyn DiskFile>,
    seed: u32,
    previous: End,
}

impl Journal {
    /// Continues after `end`, in a new segment; `clean`: what is there ends with a clean stop.
    pub(in crate::store) fn new(
        disk: Arc<dyn Disk>,
        layout: Layout,
        segments: Segments,
        end: End,
        clean: bool,
        unmade: Unmade,
    ) -> Journal {
        let reached = Reached::new(disk.clone(), layout.clone());
        Journal { disk, layout, segments, open: None, end, clean, poisoned: false, reached, unmade }
    }

    /// Where it ends; everything up to here is durable.
    pub fn end(&self) -> End {
        self.end
    }

    /// Bytes in the segment that is being written.
    pub fn segment_len(&self) -> u64 {
        if self.open.is_some() { self.end.len } else { 0 }
    }

    /// Whether a failed sync has made it impossible to say what is durable.
    pub fn poisoned(&self) -> bool {
        self.poisoned
    }

    /// Appends the payloads of a group of records and makes them durable; returns the bytes
    /// written. On any error none of them is acknowledged: after `Full` the journal is as before
    /// and can be used; after another error it is poisoned.
    pub fn append(&mut self, payloads: &[Vec<u8>], seed: u32) -> Result<u64, StoreError> {
        if self.poisoned {
            return Err(StoreError::Unavailable);
        }
        if self.open.is_none() {
            self.open_segment(seed)?;
        }
        let seed = self.open.as_ref().map_or(0, |open| open.seed);
        let group = self.end.sequence + 1;
        let mut bytes = Vec::new();
        let mut end = self.end;
        for payload in payloads {
            end.sequence += 1;
            let kind = FrameKind::Record;
            end.crc = frame::append(&mut bytes, seed, kind, end.sequence, group, end.crc, payload)
                .ok_or_else(|| StoreError::Invalid("a change is too large".to_owned()))?;
        }
        self.write(&bytes, self.end.len)?;
        end.len += bytes.len() as u64;
        self.end = end;
        self.reached.note(end.sequence);
        Ok(bytes.len() as u64)
    }

    /// Closes the segment that is being written with a footer; the next append makes a new one.
    /// `stop`: the process is about to end.
    pub fn close_segment(&mut self, stop: bool) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Unavailable);
        }
        let Some(open) = &self.open else {
            return Ok(());
        };
        if open.previous.sequence == self.end.sequence {
            // Its first append failed. A segment without records is no part of the chain.
            let first = self.end.sequence + 1;
            self.end = open.previous;
            self.open = None;
            self.segments.change(|firsts| firsts.retain(|other| *other != first));
            return Ok(self.disk.remove(&self.layout.segment(first))?);
        }
        self.write_footer(stop)
    }

    /// Leaves a sign of a clean stop, where the last segment has none: a segment without records,
    /// which the next start removes. Nothing can be appended after it.
    pub fn mark_clean(&mut self, seed: u32) -> Result<(), StoreError> {
        if self.clean || self.poisoned {
            return Ok(());
        }
        self.open_segment(seed)?;
        self.write_footer(true)
    }

    fn write_footer(&mut self, stop: bool) -> Result<(), StoreError> {
        let seed = self.open.as_ref().map_or(0, |open| open.seed);
        let mut bytes = Vec::new();
        let crc = append_footer(&mut bytes, seed, self.end, stop);
        self.write(&bytes, self.end.len)?;
        self.end = End { crc, len: self.end.len + bytes.len() as u64, ..self.end };
        self.open = None;
        self.clean = stop;
        if stop {
            self.reached.sync();
        }
        Ok(())
    }

    /// Creates the next segment and makes its header durable before any record follows: a bad
    /// header with records behind it is then damage for certain, not a torn append.
    fn open_segment(&mut self, seed: u32) -> Result<(), StoreError> {
        let first = self.end.sequence + 1;
        let path = self.layout.segment(first);
        let mut bytes = Vec::new();
        let crc = append_header(&mut bytes, seed, self.end)?;
        let made = self.disk.create(&path).or_else(|error| match error.kind() {
            // Left by an append that failed: it holds nothing that was acknowledged.
            std::io::ErrorKind::AlreadyExists => {
                self.disk.remove(&path)?;
                self.disk.create(&path)
            }
            _ => Err(error),
        });
        let file = self.unmade.note(&path, made)?;
        self.open = Some(OpenSegment { file, seed, previous: self.end });
        let result = self.write(&bytes, 0).and_then(|()| {
            self.disk.sync_dir(&self.layout.journal()).map_err(|error| {
                self.poisoned = true;
                StoreError::Io(format!("{}: {error}", path.display()))
            })
        });
        if result.is_err() {
            self.open = None;
            let _ = self.disk.remove(&path);
            return result;
        }
        self.end = End { crc, len: bytes.len() as u64, ..self.end };
        self.clean = false;
        self.segments.change(|firsts| firsts.push(first));
        Ok(())
    }

    /// Writes at `offset`, the end of the durable part, and syncs.
    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        let Some(open) = &self.open else {
            return Err(StoreError::Unavailable);
        };
        let written = open.file.write_all_at(bytes, offset).and_then(|()| open.file.sync_data());
        let Err(error) = written else {
            return Ok(());
        };
        let error = StoreError::from(error);
        // On a full disk the attempt is taken back and the journal goes on. After any other
        // error nobody can say what is on the disk: a second fdatasync may succeed although the
        // first one lost data.
        let restored = error == StoreError::Full
            && open.file.set_len(offset).and_then(|()| open.file.sync_data()).is_ok();
        self.poisoned = !restored;
        Err(error)
    }
}

fn append_header(bytes: &mut Vec<u8>, seed: u32, previous: End) -> Result<u32, StoreError> {
    let header = payload(&Header { seed, previous_len: previous.len })?;
    let sequence = previous.sequence;
    let kind = FrameKind::SegmentHeader;
    frame::append(bytes, 0, kind, sequence, sequence, previous.crc, &header)
        .ok_or(StoreError::Unavailable)
}

/// Appends a footer after `end` and returns its CRC.
fn append_footer(bytes: &mut Vec<u8>, seed: u32, end: End, stop: bool) -> u32 {
    // Its group lies after every record of the segment: what stands before it was durable.
    let group = end.sequence + 1;
    let kind = FrameKind::SegmentFooter;
    let payload = [PAYLOAD_VERSION, if stop { STOPPED } else { ROTATED }];
    frame::append(bytes, seed, kind, end.sequence, group, end.crc, &payload).unwrap_or(end.crc)
}

/// Reads one segment and checks that each frame follows the one before.
pub struct SegmentReader {
    frames: FrameReader,
    seed: u32,
    previous: End,
    end: End,
    closed: bool,
    stopped: bool,
    /// A frame was read that is whole and does not belong where it stands.
    misfit: bool,
}

impl SegmentReader {
    /// Opens the segment whose first record has this sequence and reads its header.
    pub fn open(disk: &dyn Disk, layout: &Layout, first: u64) -> Result<SegmentReader, FrameFault> {
        let file = disk.open(&layout.segment(first))?;
        let mut frames = FrameReader::new(file, 0, 0);
        let bad = FrameFault::Bad(0);
        let Some(head) = frames.next_frame()? else {
            return Err(bad);
        };
        let header = parse_payload::<Header>(frames.payload());
        let (FrameKind::SegmentHeader, Some(header)) = (head.kind, header) else {
            return Err(bad);
        };
        if head.sequence >= SEQUENCE_MAX || head.sequence + 1 != first {
            return Err(bad);
        }
        let seed = header.seed;
        frames.set_seed(seed);
        let previous =
            End { sequence: head.sequence, crc: head.previous, len: header.previous_len };
        let end = End { sequence: head.sequence, crc: head.crc, len: frames.offset() };
        let (closed, stopped, misfit) = (false, false, false);
        Ok(SegmentReader { frames, seed, previous, end, closed, stopped, misfit })
    }

    /// Where the segment before it ended.
    pub fn previous(&self) -> End {
        self.previous
    }

    /// Where the part read so far ends.
    pub fn end(&self) -> End {
        self.end
    }

    /// Whether a footer was read that says that the process stopped in good order.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The next record; `None` at the end.
    pub fn next_record(&mut self) -> Result<Option<Record>, FrameFault> {
        loop {
            let Some(head) = self.frames.next_frame()? else {
                return Ok(None);
            };
            // Set back where the frame turns out to belong here.
            self.misfit = true;
            let bad = FrameFault::Bad(self.end.len);
            if self.closed || head.previous != self.end.crc {
                return Err(bad);
            }
            let end = End { sequence: head.sequence, crc: head.crc, len: self.frames.offset() };
            match head.kind {
                FrameKind::Record if head.sequence == self.end.sequence + 1 => {
                    let record = parse_payload::<Record>(self.frames.payload());
                    let record = record.filter(|record| record.sequence == head.sequence);
                    let record = record.ok_or(bad)?;
                    (self.end, self.misfit) = (end, false);
                    return Ok(Some(record));
                }
                FrameKind::SegmentFooter if head.sequence == self.end.sequence => {
                    (self.end, self.misfit) = (end, false);
                    self.closed = true;
                    self.stopped = self.frames.payload().get(1) == Some(&STOPPED);
                }
                _ => return Err(bad),
            }
        }
    }

    /// After a fault: whether something proves that the damaged part was durable once, a whole
    /// frame that does not fit or one later in the segment; otherwise it may be the torn end of
    /// the last append.
    pub fn damage_is_proven(&mut self) -> Result<bool, FrameFault> {
        if self.misfit {
            return Ok(true);
        }
        let torn_group = self.end.sequence + 1;
        while let Some(head) = self.frames.skip_damage()? {
            if head.group > torn_group {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands on every whole record from here, whatever stands between them: its sequence and,
    /// where it can be read, itself. Returns where the last whole frame ends, bytes; what the
    /// medium has lost may follow.
    pub fn each_whole(
        &mut self,
        each: &mut dyn FnMut(u64, Option<Record>) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let mut end = self.end.len;
        loop {
            let head = match self.frames.next_frame() {
                Err(FrameFault::Bad(_)) => self.frames.skip_damage(),
                result => result,
            };
            let head = match head {
                Ok(Some(head)) => head,
                Ok(None) | Err(FrameFault::Lost(_)) => return Ok(end),
                Err(FrameFault::Io(error)) => return Err(error.into()),
                Err(FrameFault::Bad(_)) => return Err(StoreError::Unavailable),
            };
            end = self.frames.offset();
            if head.kind == FrameKind::Record {
                each(head.sequence, parse_payload::<Record>(self.frames.payload()))?;
            }
        }
    }

    /// Cuts what follows the last good frame, adds a footer where there is space, and makes the
    /// segment durable. Returns its end.
    pub fn seal(&self, disk: &dyn Disk, layout: &Layout) -> std::io::Result<End> {
        let file = disk.open_rw(&layout.segment(self.previous.sequence + 1))?;
        if file.len()? != self.end.len {
            file.set_len(self.end.len)?;
        }
        file.sync_data()?;
        if self.closed {
            return Ok(self.end);
        }
        let mut bytes = Vec::new();
        let crc = append_footer(&mut bytes, self.seed, self.end, false);
        let written = file.write_all_at(&bytes, self.end.len).and_then(|()| file.sync_data());
        if written.is_ok() {
            return Ok(End { crc, len: self.end.len + bytes.len() as u64, ..self.end });
        }
        // A full disk must not keep the store from opening: a footer is a convenience.
        file.set_len(self.end.len)?;
        file.sync_data()?;
        Ok(self.end)
    }
}

/// Whether a segment ends with the footer of a clean stop, by its end alone.
pub fn ends_with_stop(disk: &dyn Disk, layout: &Layout, first: u64) -> bool {
    let Ok(segment) = SegmentReader::open(disk, layout, first) else {
        return false;
    };
    let path = layout.segment(first);
    let Ok((file, len)) = disk.open(&path).and_then(|file| Ok((file.clone(), file.len()?))) else {
        return false;
    };
    let mut frames = FrameReader::new(file, segment.seed, len.saturating_sub(FOOTER_BYTES));
    let footer = frames.next_frame().ok().flatten();
    footer.is_some_and(|head| head.kind == FrameKind::SegmentFooter)
        && frames.payload().get(1) == Some(&STOPPED)
}

/// Reads all records after `from` up to `through`, which must be there undamaged, and hands them
/// to `each`.
pub fn replay(
    disk: &dyn Disk,
    layout: &Layout,
    firsts: &[u64],
    from: End,
    through: u64,
    each: &mut dyn FnMut(Record) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut end = from;
    for first in firsts {
        if *first <= end.sequence || end.sequence >= through {
            continue;
        }
        let path = layout.segment(*first);
        let fault = |fault: FrameFault| fault.of_file(&path);
        let mut segment = SegmentReader::open(disk, layout, *first).map_err(fault)?;
        if segment.previous() != end {
            let text = format!("{} does not follow sequence {}", path.display(), end.sequence);
            return Err(StoreError::Corrupt(text));
        }
        while segment.end().sequence < through {
            match segment.next_record().map_err(fault)? {
                Some(record) => each(record)?,
                None => break,
            }
        }
        end = segment.end();
    }
    if end.sequence < through {
        let text = format!("the journal ends at {}, not at {through}", end.sequence);
        return Err(StoreError::Corrupt(text));
    }
    Ok(())
}

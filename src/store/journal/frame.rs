//! Frames: the unit of the journal and of checkpoints.
//!
//! A frame is a head of 36 bytes and a payload, little-endian throughout:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic: `SK`, what kind of frame, `1` |
//! | 4 | length of the payload; never 0 |
//! | 8 | sequence |
//! | 8 | sequence of the first record of the same group |
//! | 4 | CRC of the frame before |
//! | 4 | length of the payload again, inverted |
//! | 4 | CRC-32 of all of the above and the payload |
//!
//! A group is appended with one write and one sync. A frame whose group begins after a damaged
//! one therefore proves that the damaged one was durable once: damage and a torn append can be
//! told apart, except in the last group. The CRC starts from a number that is drawn for each
//! segment, so that neither old bytes of the disk nor a row that imitates a frame pass for one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::store::StoreError;
use crate::store::index::sums::{Sums, hash};
use crate::sys::disk::DiskFile;
use crate::types::limits::RECORD_BYTES_MAX;

/// Bytes before the payload.
pub const HEAD_BYTES: usize = 36;

const READ_BYTES: usize = 64 * 1024;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// The start of a segment.
    SegmentHeader = b'H',
    /// One record.
    Record = b'R',
    /// The end of a segment that was closed in good order.
    SegmentFooter = b'F',
    /// The start of a checkpoint.
    CheckpointHeader = b'C',
    /// Rows of a checkpoint.
    Rows = b'B',
    /// The end of a checkpoint.
    CheckpointTrailer = b'T',
}

impl FrameKind {
    pub(in crate::store) fn from_byte(byte: u8) -> Option<FrameKind> {
        [
            FrameKind::SegmentHeader,
            FrameKind::Record,
            FrameKind::SegmentFooter,
            FrameKind::CheckpointHeader,
            FrameKind::Rows,
            FrameKind::CheckpointTrailer,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What it holds.
    pub kind: FrameKind,
    /// Bytes of payload.
    pub len: u32,
    /// Its sequence.
    pub sequence: u64,
    /// The first sequence of its group.
    pub group: u64,
    /// CRC of the frame before.
    pub previous: u32,
    /// Its own CRC.
    pub crc: u32,
}

/// Appends a frame to `out` and returns its CRC; `None` when the payload is empty or too large.
pub fn append(
    out: &mut Vec<u8>,
    seed: u32,
    kind: FrameKind,
    sequence: u64,
    group: u64,
    previous: u32,
    payload: &[u8],
) -> Option<u32> {
    if payload.is_empty() || payload.len() > RECORD_BYTES_MAX {
        return None;
    }
    let len = u32::try_from(payload.len()).ok()?;
    let start = out.len();
    out.extend_from_slice(&[b'S', b'K', kind as u8, b'1']);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&previous.to_le_bytes());
    out.extend_from_slice(&(!len).to_le_bytes());
    let crc = hash(seed, &[&out[start..], payload]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
    Some(crc)
}

/// Reads a head without checking its CRC; `None` when it cannot be one.
fn parse_head(bytes: &[u8]) -> Option<Head> {
    let bytes: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    let u32_at = |at: usize| {
        let mut four = [0; 4];
        four.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(four)
    };
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if bytes[0] != b'S' || bytes[1] != b'K' || bytes[3] != b'1' {
        return None;
    }
    let len = u32_at(4);
    if len == 0 || len != !u32_at(28) || len as usize > RECORD_BYTES_MAX {
        return None;
    }
    Some(Head {
        kind: FrameKind::from_byte(bytes[2])?,
        len,
        sequence: u64_at(8),
        group: u64_at(16),
        previous: u32_at(24),
        crc: u32_at(32),
    })
}

/// Why the next frame cannot be read.
#[derive(Debug)]
pub enum FrameFault {
    /// The disk failed, and may not the next time.
    Io(io::Error),
    /// The medium says that it has lost what was there.
    Lost(io::Error),
    /// There is no valid frame at this offset.
    Bad(u64),
}

impl From<io::Error> for FrameFault {
    fn from(error: io::Error) -> FrameFault {
        match StoreError::is_fault_of_the_medium(&error) {
            true => FrameFault::Lost(error),
            false => FrameFault::Io(error),
        }
    }
}

impl FrameFault {
    /// What is wrong with a file of which others may have a copy; an error when that may pass.
    pub(in crate::store) fn damage(self) -> io::Result<String> {
        match self {
            FrameFault::Bad(at) => Ok(format!("is damaged at byte {at}")),
            FrameFault::Lost(error) => Ok(format!("cannot be read: {error}")),
            FrameFault::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok("is missing".to_owned())
            }
            FrameFault::Io(error) => Err(error),
        }
    }

    /// The error of who reads this file: `Corrupt` where it is damaged.
    pub(in crate::store) fn of_file(self, path: &Path) -> StoreError {
        match self.damage() {
            Ok(what) => StoreError::Corrupt(format!("{} {what}", path.display())),
            Err(error) => StoreError::at(path)(error),
        }
    }
}

/// Reads frames one after the other, through a buffer as large as the largest of them.
pub struct FrameReader {
    file: Arc<dyn DiskFile>,
    seed: u32,
    buffer: Vec<u8>,
    /// Where in the file the buffer starts.
    base: u64,
    /// Where in the buffer the next frame starts.
    at: usize,
    /// Where in the buffer the last frame read starts.
    last: usize,
    last_len: usize,
    /// Once there was damage: tells cheaply whether a head is what it seems.
    sums: Option<Sums>,
}

impl FrameReader {
    /// Starts at `offset`.
    pub fn new(file: Arc<dyn DiskFile>, seed: u32, offset: u64) -> FrameReader {
        let (buffer, sums) = (Vec::new(), None);
        FrameReader { file, seed, buffer, base: offset, at: 0, last: 0, last_len: 0, sums }
    }

    /// Offset of the next frame.
    pub fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Changes what the CRC starts from, for the frames to come.
    pub fn set_seed(&mut self, seed: u32) {
        self.seed = seed;
    }

    /// The next frame's head; `None` at the end of the file. Its payload is
    /// [`FrameReader::payload`].
    pub fn next_frame(&mut self) -> Result<Option<Head>, FrameFault> {
        self.last = self.at;
        self.last_len = 0;
        if !self.fill(HEAD_BYTES)? {
            let rest = self.buffer.len() - self.at;
            return if rest == 0 { Ok(None) } else { Err(FrameFault::Bad(self.offset())) };
        }
        let bad = FrameFault::Bad(self.offset());
        let Some(head) = parse_head(&self.buffer[self.at..]) else {
            return Err(bad);
        };
        let payload = self.offset() + HEAD_BYTES as u64;
        if let Some(sums) = &mut self.sums {
            let crc = hash(self.seed, &[&self.buffer[self.at..self.at + HEAD_BYTES - 4]]);
            let crc = sums.append(crc, payload, payload + u64::from(head.len))?;
            if crc != Some(head.crc) {
                return Err(bad);
            }
        }
        let len = HEAD_BYTES + head.len as usize;
        if !self.fill(len)? {
            return Err(bad);
        }
        let frame = &self.buffer[self.at..self.at + len];
        if hash(self.seed, &[&frame[..HEAD_BYTES - 4], &frame[HEAD_BYTES..]]) != head.crc {
            return Err(bad);
        }
        (self.last, self.last_len) = (self.at, len);
        self.at += len;
        Ok(Some(head))
    }

    /// The payload of the frame read last.
    pub fn payload(&self) -> &[u8] {
        let frame = &self.buffer[self.last..self.last + self.last_len];
        frame.get(HEAD_BYTES..).unwrap_or_default()
    }

    /// After a fault: the next valid frame at a later offset, if any. Each byte is hashed about
    /// once, whatever there is that looks like heads.
    pub fn skip_damage(&mut self) -> Result<Option<Head>, FrameFault> {
        if self.sums.is_none() {
            self.sums = Some(Sums::new(self.file.clone(), self.offset())?);
        }
        loop {
            self.at += 1;
            if !self.fill(HEAD_BYTES)? {
                return Ok(None);
            }
            match self.next_frame() {
                Err(FrameFault::Bad(_)) => {}
                result => return result,
            }
        }
    }

    /// Whether the buffer holds `len` bytes from the next frame on, after reading more.
    fn fill(&mut self, len: usize) -> io::Result<bool> {
        while self.buffer.len() - self.at.min(self.buffer.len()) < len {
            if self.at > 0 {
                let keep = self.at.min(self.buffer.len());
                self.buffer.drain(..keep);
                self.base += keep as u64;
                self.at -= keep;
                self.last = 0;
                self.last_len = 0;
            }
            let have = self.buffer.len();
            let end = self.base + have as u64;
            let left = self.file.len()?.saturating_sub(end);
            let want = len.saturating_sub(have).max(READ_BYTES) as u64;
            let more = usize::try_from(left.min(want)).map_err(io::Error::other)?;
            if more == 0 || left < len.saturating_sub(have) as u64 {
                return Ok(false);
            }
            self.buffer.resize(have + more, 0);
            let read = self.file.read_at(&mut self.buffer[have..], end)?;
            self.buffer.truncate(have + read);
            if read == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::sums::testing::hashed;
    use crate::sys::{Disk, MemoryDisk};
    use std::path::Path;

    fn file_with(bytes: &[u8]) -> Arc<dyn DiskFile> {
        let disk = MemoryDisk::new();
        let file = disk.create(Path::new("/f")).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn frames_of_every_size_are_read_back() {
        let sizes = [1, 35, 36, 37, READ_BYTES - HEAD_BYTES, READ_BYTES, READ_BYTES * 3 + 1];
        let mut bytes = Vec::new();
        for (number, size) in (0u8..).zip(sizes) {
            let payload = vec![number; size];
            append(&mut bytes, 7, FrameKind::Record, number.into(), 0, 9, &payload).unwrap();
        }
        let mut reader = FrameReader::new(file_with(&bytes), 7, 0);
        for (number, size) in (0u8..).zip(sizes) {
            let head = reader.next_frame().unwrap().unwrap();
            assert_eq!((head.sequence, head.previous), (u64::from(number), 9));
            assert_eq!(reader.payload(), vec![number; size]);
        }
        assert!(reader.next_frame().unwrap().is_none());
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_the_next_frame_found() {
        let mut bytes = Vec::new();
        append(&mut bytes, 7, FrameKind::Record, 1, 1, 0, b"first").unwrap();
        let first = bytes.len();
        append(&mut bytes, 7, FrameKind::Record, 2, 2, 0, b"second").unwrap();
        for bit in 0..first * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::new(file_with(&bytes), 7, 0);
            assert!(matches!(reader.next_frame(), Err(FrameFault::Bad(0))), "bit {bit}");
            assert_eq!(reader.skip_damage().unwrap().unwrap().sequence, 2, "bit {bit}");
            assert_eq!(reader.payload(), b"second");
        }
        let mut reader = FrameReader::new(file_with(&bytes), 8, 0);
        assert!(matches!(reader.next_frame(), Err(FrameFault::Bad(0))), "another segment's CRC");
        assert!(append(&mut bytes, 7, FrameKind::Record, 3, 3, 0, b"").is_none());
    }

    /// A head without its frame: it claims so long a payload.
    fn imitation(len: u32) -> Vec<u8> {
        let mut head = Vec::new();
        append(&mut head, 7, FrameKind::Record, 9, 9, 9, &[0]).unwrap();
        head.truncate(HEAD_BYTES);
        head[4..8].copy_from_slice(&len.to_le_bytes());
        head[28..32].copy_from_slice(&(!len).to_le_bytes());
        head
    }

    #[test]
    fn imitated_heads_cost_little_and_hide_nothing() {
        const LEN: usize = 256 * 1024;
        let mut bytes = Vec::new();
        let (mut heads, mut frames) = (0, 1);
        while bytes.len() + 2 * HEAD_BYTES < LEN {
            let rest = LEN - bytes.len() - 2 * HEAD_BYTES;
            bytes.extend(imitation(u32::try_from(rest).unwrap()));
            heads += 1;
            // Frames between them do not set the work back.
            if heads % 10 == 0 {
                append(&mut bytes, 7, FrameKind::Record, 5, 5, 0, b"whole").unwrap();
                frames += 1;
            }
        }
        append(&mut bytes, 7, FrameKind::Record, 6, 6, 0, &[6; 3000]).unwrap();
        let before = hashed();
        let mut reader = FrameReader::new(file_with(&bytes), 7, 0);
        let (mut whole, mut last) = (0, 0);
        loop {
            let head = match reader.next_frame() {
                Err(FrameFault::Bad(_)) => reader.skip_damage().unwrap(),
                result => result.unwrap(),
            };
            let Some(head) = head else { break };
            (whole, last) = (whole + 1, head.sequence);
        }
        assert_eq!((whole, last), (frames, 6));
        let hashed = hashed() - before;
        // The file three times, and two edges below a step for each head.
        let bound = 3 * bytes.len() as u64 + heads * 1100;
        assert!(hashed < bound, "{hashed} bytes hashed of {}, {heads} heads", bytes.len());
    }
}

//! CRC-32 of any part of a file, from the CRCs of its starts. Damage may be full of what looks like
//! heads of frames, each of which names a long payload: with this, reading on costs as much as the
//! file is long, and two steps for each head.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crc32fast::Hasher;

use crate::sys::disk::DiskFile;

/// Distance of the offsets whose CRC is kept, bytes; an edge of a part costs less than this.
const STEP_BYTES: usize = 512;

/// CRCs of a file up to every so many bytes; of those behind the last part only one is kept.
pub(in crate::store) struct Sums {
    file: Arc<dyn DiskFile>,
    file_len: u64,
    /// Where the first kept CRC ends.
    first: u64,
    /// One for every step from there on.
    marks: VecDeque<u32>,
}

impl Sums {
    /// For parts from `origin` on; each asked for starts behind the one before it.
    pub(in crate::store) fn new(file: Arc<dyn DiskFile>, origin: u64) -> io::Result<Sums> {
        let file_len = file.len()?;
        Ok(Sums { file, file_len, first: origin, marks: VecDeque::from([0]) })
    }

    /// The CRC of bytes that have the CRC `before`, followed by the part of the file from `from` to
    /// `to`, which is not empty; `None` when the file ends earlier.
    pub(in crate::store) fn append(
        &mut self,
        before: u32,
        from: u64,
        to: u64,
    ) -> io::Result<Option<u32>> {
        if to > self.file_len {
            return Ok(None);
        }
        let (start, end) = (self.up_to(from)?, self.up_to(to)?);
        while self.marks.len() > 1 && self.first + STEP_BYTES as u64 <= from {
            self.marks.pop_front();
            self.first += STEP_BYTES as u64;
        }
        // CRCs are linear: what the start adds to the CRC of all is taken out again.
        let mut sum = Hasher::new_with_initial(before ^ start);
        sum.combine(&Hasher::new_with_initial_len(end, to - from));
        Ok(Some(sum.finalize()))
    }

    /// The CRC from the origin up to an offset that is not beyond the end of the file.
    fn up_to(&mut self, offset: u64) -> io::Result<u32> {
        let mut step = [0; STEP_BYTES];
        loop {
            let last = self.first + (self.marks.len() as u64 - 1) * STEP_BYTES as u64;
            if offset < last + STEP_BYTES as u64 {
                break;
            }
            self.file.read_exact_at(&mut step, last)?;
            let before = self.marks.back().copied().unwrap_or(0);
            self.marks.push_back(hash(before, &[&step]));
        }
        let behind = offset.saturating_sub(self.first);
        let behind = usize::try_from(behind).map_err(io::Error::other)?;
        let mark = self.marks.get(behind / STEP_BYTES).copied().unwrap_or(0);
        let edge = behind % STEP_BYTES;
        self.file.read_exact_at(&mut step[..edge], offset - edge as u64)?;
        Ok(hash(mark, &[&step[..edge]]))
    }
}

/// The CRC of bytes that have the CRC `start`, followed by these.
pub(in crate::store) fn hash(start: u32, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new_with_initial(start);
    for part in parts {
        #[cfg(test)]
        testing::count(part.len());
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
pub(in crate::store) mod testing {
    use std::cell::Cell;

    thread_local! {
        static HASHED: Cell<u64> = const { Cell::new(0) };
    }

    pub(crate) fn count(len: usize) {
        HASHED.set(HASHED.get() + len as u64);
    }

    /// Bytes that this thread has hashed.
    pub(crate) fn hashed() -> u64 {
        HASHED.get()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sys::{Disk, MemoryDisk};

    #[test]
    fn parts_have_the_sums_of_their_bytes() {
        let bytes: Vec<u8> = (0..5000_u32).map(|n| (n * n).to_le_bytes()[1]).collect();
        let file = MemoryDisk::new().create(Path::new("/f")).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        for origin in [0, 1, 511, 512, 700] {
            let mut sums = Sums::new(file.clone(), origin as u64).unwrap();
            for from in (origin..5000).step_by(97) {
                for to in [from + 1, from + 512, from + 1500, 5000, 5001] {
                    let sum = sums.append(42, from as u64, to as u64).unwrap();
                    let expected = bytes.get(from..to).map(|part| hash(42, &[part]));
                    assert_eq!(sum, expected, "{from} to {to}, from {origin} on");
                }
            }
            assert!(sums.marks.len() < 12, "what lies behind is forgotten");
        }
    }
}

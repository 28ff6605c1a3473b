//! The last sequence that the journal has reached, in a file beside it: where the journal has lost
//! its end, what is left of it looks like all that was ever acknowledged.
//!
//! The note is written after each group is durable, and not synced before a clean stop: no command
//! waits for it, and the system writes its block back a few times a minute at most. So it never
//! names a record that a power cut can take away. It is exact after a stop of the process of any
//! kind; after a power cut it may lack the changes of the last half minute or so.

use std::sync::Arc;

use super::layout::Layout;
use crate::store::index::sums::hash;
use crate::sys::Disk;
use crate::sys::disk::DiskFile;

/// The text: a sequence of twenty digits, and the CRC of it.
const TEXT_BYTES: usize = 30;

/// Keeps the note.
pub(super) struct Reached {
    disk: Arc<dyn Disk>,
    layout: Layout,
    file: Option<Arc<dyn DiskFile>>,
}

impl Reached {
    pub(super) fn new(disk: Arc<dyn Disk>, layout: Layout) -> Reached {
        Reached { disk, layout, file: None }
    }

    /// Notes that everything up to `sequence` is durable. The note only helps to find a loss: an
    /// error, as on a full disk, costs nothing else, and the next note tries again.
    pub(super) fn note(&mut self, sequence: u64) {
        let path = self.layout.reached();
        if self.file.is_none() {
            self.file = self.disk.open_rw(&path).or_else(|_| self.disk.create(&path)).ok();
        }
        let written =
            self.file.as_ref().map(|file| file.write_all_at(text(sequence).as_bytes(), 0));
        if !matches!(written, Some(Ok(()))) {
            self.file = None;
        }
    }

    /// Makes the last note durable.
    pub(super) fn sync(&self) {
        if let Some(file) = &self.file {
            let root = self.layout.root();
            let _ = file.sync_data().and_then(|()| self.disk.sync_dir(root));
        }
    }
}

fn text(sequence: u64) -> String {
    let number = format!("{sequence:020}");
    format!("{number} {:08x}\n", hash(0, &[number.as_bytes()]))
}

/// What is noted in a state directory; 0 where there is no note, or none that can be read, as when
/// a power cut has torn it.
pub(in crate::store) fn read(disk: &dyn Disk, layout: &Layout) -> u64 {
    let bytes = disk.read(&layout.reached(), TEXT_BYTES as u64).unwrap_or_default();
    let sequence =
        bytes.get(..20).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    sequence.filter(|sequence| text(*sequence).as_bytes() == bytes).unwrap_or(0)
}

/// Durably notes where the journal ends once what is missing has been reported.
pub(in crate::store) fn replace(
    disk: &dyn Disk,
    layout: &Layout,
    sequence: u64,
) -> std::io::Result<()> {
    disk.replace(&layout.reached(), text(sequence).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::MemoryDisk;
    use std::path::Path;

    #[test]
    fn a_note_that_is_damaged_says_nothing() {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new("/s")).unwrap();
        let layout = Layout::new("/s");
        assert_eq!(read(&disk, &layout), 0);
        let mut reached = Reached::new(Arc::new(disk.clone()), layout.clone());
        for sequence in [1, 199, 200, u64::MAX] {
            reached.note(sequence);
            assert_eq!(read(&disk, &layout), sequence);
        }
        reached.note(199);
        let file = disk.open_rw(&layout.reached()).unwrap();
        let old = text(199).into_bytes();
        assert_eq!(old.len(), TEXT_BYTES);
        for bit in 0..old.len() * 8 {
            let mut bytes = old.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            file.write_all_at(&bytes, 0).unwrap();
            assert_eq!(read(&disk, &layout), 0, "bit {bit}");
        }
        // Part of one note over another.
        let new = text(2).into_bytes();
        for at in 0..=new.len() {
            file.write_all_at(&[&new[..at], &old[at..]].concat(), 0).unwrap();
            assert!([0, 2, 199].contains(&read(&disk, &layout)), "{at} bytes");
        }
        for len in 0..old.len() as u64 {
            file.set_len(len).unwrap();
            assert_eq!(read(&disk, &layout), 0, "{len} bytes");
        }
        replace(&disk, &layout, 7).unwrap();
        assert_eq!(read(&disk.after_power_cut(), &layout), 7);
    }
}

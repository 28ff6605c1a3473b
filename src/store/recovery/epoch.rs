//! The epoch of the feed: a start makes it, and a loss of records ends it.

use std::io::ErrorKind;
use std::path::Path;

use crate::store::StoreError;
use crate::store::index::sums::hash;
use crate::store::journal::layout::{IDENTITY_BYTES_MAX, Layout};
use crate::sys::{Disk, Sys};

/// The epoch of the feed, made when there is none. A child takes a parent with another epoch for
/// another parent, and offers it what it has deleted: so the epoch lies in two files, each with its
/// CRC, and one makes up for the other.
pub(in crate::store) fn feed_epoch(
    sys: &Sys,
    disk: &dyn Disk,
    layout: &Layout,
) -> Result<u64, StoreError> {
    let (path, copy_path) = (layout.feed_epoch(), layout.feed_epoch_copy());
    let own = epoch_in(disk, &path)?;
    // What the copy cannot tell just now matters only where it is needed.
    let copy = match own {
        Some(_) => epoch_in(disk, &copy_path).unwrap_or(None),
        None => epoch_in(disk, &copy_path)?,
    };
    let known = own.or(copy);
    let epoch = known.map_or_else(|| sys.rng.number(), |known| known.epoch);
    let whole = Some(Epoch { epoch, has_sum: true });
    let text = epoch_text(epoch);
    if own.is_none() && (disk.exists(&path)? || copy.is_some()) {
        let what = match known {
            Some(_) => "is made anew",
            None => "says nothing any more: the feed has a new epoch, and children reconcile",
        };
        log::warn!("{} was damaged or missing, and {what}", path.display());
    }
    let put = |path: &Path| disk.replace(path, text.as_bytes()).map_err(StoreError::at(path));
    if copy != whole
        && let Err(error) = put(&copy_path)
    {
        log::warn!("the copy of the feed's epoch cannot be written: {error}");
    }
    if own != whole {
        match put(&path) {
            Ok(()) => {}
            // No file has told what the epoch is.
            Err(error) if known.is_none() => return Err(error),
            Err(error) => log::warn!("the feed's epoch cannot be written: {error}"),
        }
    }
    Ok(epoch)
}

/// What a file says of the epoch of the feed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Epoch {
    epoch: u64,
    /// Files of earlier versions have no CRC.
    has_sum: bool,
}

fn epoch_text(epoch: u64) -> String {
    let number = format!("{epoch:016x}");
    format!("{number} {:08x}\n", hash(0, &[number.as_bytes()]))
}

/// What a file says of the epoch; `None` where there is none, or a damaged one. An error that may
/// pass is not taken for damage.
fn epoch_in(disk: &dyn Disk, path: &Path) -> Result<Option<Epoch>, StoreError> {
    let bytes = match disk.read(path, IDENTITY_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if StoreError::is_fault_of_the_medium(&error) => return Ok(None),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::FileTooLarge => return Ok(None),
            _ => return Err(StoreError::at(path)(error)),
        },
    };
    let text = String::from_utf8(bytes).unwrap_or_default();
    let number = text.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let found = number.map(|epoch| Epoch { epoch, has_sum: text == epoch_text(epoch) });
    Ok(found.filter(|found| found.has_sum || text == format!("{:016x}\n", found.epoch)))
}

/// Ends the epoch of the feed: records that followers have seen may be gone. Durable before
/// anything is changed that depends on it, so that a start that is cut short ends it too.
pub(in crate::store) fn end_feed_epoch(disk: &dyn Disk, layout: &Layout) -> Result<(), StoreError> {
    for path in [layout.feed_epoch_copy(), layout.feed_epoch()] {
        if disk.exists(&path)? {
            disk.remove(&path)?;
        }
        // Also of a start before this one, whose removal may not be durable.
        disk.sync_dir(path.parent().unwrap_or(layout.root()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{MemoryDisk, Spawner};

    /// Symptom: one flipped bit in the file gave a parent another epoch, without a word, and what
    /// it had deleted came back with each child that had not heard of it.
    #[test]
    fn f201_f211_damage_of_one_file_does_not_change_the_epoch() {
        let disk = MemoryDisk::new();
        let sys = Sys::real(Spawner::new());
        let layout = Layout::new("/s");
        disk.create_dir_all(&layout.identity()).unwrap();
        let epoch = || feed_epoch(&sys, &disk, &layout).unwrap();
        let first = epoch();
        let paths = [layout.feed_epoch(), layout.feed_epoch_copy()];
        let whole = disk.read(&paths[0], 64).unwrap();
        for path in &paths {
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                disk.replace(path, &bytes).unwrap();
                assert_eq!(epoch(), first, "bit {bit}");
                assert_eq!(disk.read(path, 64).unwrap(), whole, "it is mended");
            }
            for len in 0..whole.len() {
                disk.replace(path, &whole[..len]).unwrap();
                assert_eq!(epoch(), first, "{len} bytes");
            }
            disk.remove(path).unwrap();
            assert_eq!(epoch(), first);
        }
        // Of an earlier version.
        disk.remove(&paths[1]).unwrap();
        disk.replace(&paths[0], b"00000000000000ab\n").unwrap();
        assert_eq!([epoch(), epoch()], [0xab; 2]);
        assert_eq!(disk.read(&paths[0], 64).unwrap().len(), whole.len(), "it has a CRC now");
        disk.remove(&paths[0]).unwrap();
        assert_eq!(epoch(), 0xab);
        disk.fail_reads(&paths[0]);
        assert_eq!(epoch(), 0xab);
        // An end is durable.
        end_feed_epoch(&disk, &layout).unwrap();
        let disk = disk.after_power_cut();
        assert_ne!(feed_epoch(&sys, &disk, &layout).unwrap(), 0xab);
    }
}

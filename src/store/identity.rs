//! Files that make this node itself: keys, instance id, feed epoch.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::index::sums::hash;
use super::journal::layout::Layout;
use super::{Store, StoreError};
use crate::sys::{Disk, Sys};

/// Largest identity file, bytes.
pub(super) const IDENTITY_BYTES_MAX: u64 = 64 * 1024;

pub(super) const FEED_EPOCH: &str = "feed-epoch";
/// Names the store in its backups: made by the first one, and kept by a restore. A line for the
/// store, and one for each backup since, the last of which is the one that the file lies in.
pub(super) const STORE_ID: &str = "store-id";

impl Store {
    /// Reads an identity file; when there is none, durably stores what `make` returns, readable
    /// for this user only. Blocks: call it at start or from the blocking pool.
    pub fn identity_file(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Vec<u8>, String>,
    ) -> Result<Vec<u8>, StoreError> {
        if self.shared().frozen
            && !self.shared().disk.exists(&path_of(&self.shared().layout, name)?)?
        {
            return make().map_err(StoreError::Invalid);
        }
        read_or_create(&*self.shared().disk, &path_of(&self.shared().layout, name)?, make)
    }

    /// Whether there is an identity file of this name. Blocks.
    pub fn has_identity_file(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.shared().disk.exists(&path_of(&self.shared().layout, name)?)?)
    }

    /// Reads an identity file like [`Store::identity_file`]. One that `is_valid` refuses, such as
    /// one that a power cut has emptied, is replaced as if there were none; `true`: it was. An
    /// error of the disk replaces nothing. Blocks.
    pub fn valid_identity_file(
        &self,
        name: &str,
        is_valid: impl Fn(&[u8]) -> bool,
        make: impl Fn() -> Result<Vec<u8>, String>,
    ) -> Result<(Vec<u8>, bool), StoreError> {
        let found = self.identity_file(name, &make)?;
        if is_valid(&found) {
            return Ok((found, false));
        }
        let made = make().map_err(StoreError::Invalid)?;
        if !self.read_only() {
            self.replace_identity_file(name, &made)?;
        }
        Ok((made, true))
    }

    /// Durably replaces an identity file. Blocks.
    pub fn replace_identity_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = path_of(&self.shared().layout, name)?;
        Ok(self.shared().disk.replace(&path, bytes)?)
    }
}

/// The epoch of the feed, made when there is none. A child takes a parent with another epoch for
/// another parent, and offers it what it has deleted: so the epoch lies in two files, each with its
/// CRC, and one makes up for the other.
pub(super) fn feed_epoch(sys: &Sys, disk: &dyn Disk, layout: &Layout) -> Result<u64, StoreError> {
    let (path, copy_path) = (path_of(layout, FEED_EPOCH)?, layout.feed_epoch_copy());
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
pub(super) fn end_feed_epoch(disk: &dyn Disk, layout: &Layout) -> Result<(), StoreError> {
    for path in [layout.feed_epoch_copy(), path_of(layout, FEED_EPOCH)?] {
        if disk.exists(&path)? {
            disk.remove(&path)?;
        }
        // Also of a start before this one, whose removal may not be durable.
        disk.sync_dir(path.parent().unwrap_or(layout.root()))?;
    }
    Ok(())
}

/// Forgets the backups that there are of this store.
pub(super) fn forget_backups(disk: &dyn Disk, layout: &Layout) -> Result<(), StoreError> {
    let path = path_of(layout, STORE_ID)?;
    if !disk.exists(&path)? {
        return Ok(());
    }
    let marks = match disk.read(&path, IDENTITY_BYTES_MAX) {
        // Must not end a start: there is a new one then, which knows of none.
        Err(error) if StoreError::is_fault_of_the_medium(&error) => {
            disk.remove(&path)?;
            return Ok(disk.sync_dir(&layout.identity())?);
        }
        marks => marks.map_err(StoreError::at(&path))?,
    };
    let own = marks.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    match own.len() == marks.len() {
        true => Ok(()),
        false => Ok(disk.replace(&path, own)?),
    }
}

fn path_of(layout: &Layout, name: &str) -> Result<PathBuf, StoreError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(StoreError::Invalid(format!("`{name}` is no name of an identity file")));
    }
    Ok(layout.identity().join(name))
}

fn read_or_create(
    disk: &dyn Disk,
    path: &Path,
    make: impl FnOnce() -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, StoreError> {
    let failed = StoreError::at(path);
    if disk.exists(path).map_err(&failed)? {
        return disk.read(path, IDENTITY_BYTES_MAX).map_err(&failed);
    }
    let bytes = make().map_err(StoreError::Invalid)?;
    disk.replace(path, &bytes).map_err(failed)?;
    Ok(bytes)
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
        let paths = [layout.identity().join(FEED_EPOCH), layout.feed_epoch_copy()];
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

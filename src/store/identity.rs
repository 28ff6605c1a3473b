//! Files that make this node itself: keys, instance id, feed epoch.

use std::path::{Path, PathBuf};

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

/// The epoch of the feed, made when there is none.
pub(super) fn feed_epoch(sys: &Sys, disk: &dyn Disk, layout: &Layout) -> Result<u64, StoreError> {
    let path = path_of(layout, FEED_EPOCH)?;
    let make = || Ok(format!("{:016x}\n", sys.rng.number()).into_bytes());
    let parse = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).ok()?;
        u64::from_str_radix(text.trim_end(), 16).ok()
    };
    if let Some(epoch) = parse(read_or_create(disk, &path, make)?) {
        return Ok(epoch);
    }
    // An unreadable epoch is as good as none: followers reconcile.
    let bytes = make().map_err(StoreError::Invalid)?;
    disk.replace(&path, &bytes)?;
    parse(bytes).ok_or(StoreError::Unavailable)
}

/// Ends the epoch of the feed: records that followers have seen may be gone. Durable before
/// anything is changed that depends on it, so that a start that is cut short ends it too.
pub(super) fn end_feed_epoch(disk: &dyn Disk, layout: &Layout) -> Result<(), StoreError> {
    let path = path_of(layout, FEED_EPOCH)?;
    if disk.exists(&path)? {
        disk.remove(&path)?;
    }
    // Also of a start before this one, whose removal may not be durable.
    Ok(disk.sync_dir(&layout.identity())?)
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

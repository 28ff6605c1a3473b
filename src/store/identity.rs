//! Files that make this node itself: keys, instance id.

use std::path::{Path, PathBuf};

use super::journal::layout::{IDENTITY_BYTES_MAX, Layout};
use super::{Store, StoreError};
use crate::sys::Disk;

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

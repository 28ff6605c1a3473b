//! The format that the store is written in, and the confirmation that lets it rise.
//!
//! After an update a store stays in the format of the version that wrote it, so that this version
//! can take over again. A confirmation first replaces the `format` file, durably; only rows that
//! are written after that are of the newer format.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::journal::ballast::in_any_space;
use super::rows::format::{Formats, StoreFormat};
use super::{Store, StoreError};

/// The formats of a version, and that of the store that it has opened.
pub(super) struct Written {
    formats: Formats,
    stored: Mutex<StoreFormat>,
    /// One confirmation at a time replaces the file.
    confirming: Mutex<()>,
}

impl Written {
    pub(super) fn new(formats: Formats, stored: StoreFormat) -> Written {
        Written { formats, stored: Mutex::new(stored), confirming: Mutex::default() }
    }

    /// What the `format` file says.
    pub(super) fn stored(&self) -> StoreFormat {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, StoreFormat> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rises(&self) -> bool {
        self.stored().writes < self.formats.newest
    }
}

impl Store {
    /// What the `format` file says.
    pub fn format(&self) -> StoreFormat {
        self.shared().written.stored()
    }

    /// The format that the store is written in after [`Store::confirm`], where that is a newer one.
    pub fn format_after_confirmation(&self) -> Option<StoreFormat> {
        let written = &self.shared().written;
        written.rises().then(|| written.formats.newest())
    }

    /// Lets the store rise to the newest format of this version, and returns what the `format` file
    /// says from now on; the same again where it says so already. The version before this one may
    /// not be able to write, or even to read, the store any more. Blocks.
    pub fn confirm(&self) -> Result<StoreFormat, StoreError> {
        if let Some(cause) = self.read_only_cause() {
            return Err(cause);
        }
        let shared = self.shared();
        let written = &shared.written;
        let _one = written.confirming.lock().unwrap_or_else(PoisonError::into_inner);
        if written.rises() {
            let newest = written.formats.newest();
            let (disk, layout) = (&*shared.disk, &shared.layout);
            let write = || layout.write_format(disk, newest).map_err(StoreError::from);
            in_any_space(disk, layout, write)?;
            *written.lock() = newest;
        }
        Ok(written.stored())
    }
}

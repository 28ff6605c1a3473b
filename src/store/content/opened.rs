//! Files of content that are open. Who asks for content that somebody is reading reads the same
//! file: many requests for parts of one blob need one descriptor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::damage::Guarded;
use crate::sys::disk::DiskFile;
use crate::types::Digest;
use crate::types::limits::CONNECTIONS_MAX;

/// Digests that are remembered. Over it, as long as all of them are being read: content is opened
/// for each request.
const OPENED_MAX: usize = CONNECTIONS_MAX;

/// The files of content that are open, by digest.
#[derive(Default)]
pub(in crate::store) struct Opened(Mutex<Files>);

#[derive(Default)]
struct Files {
    open: BTreeMap<Digest, Weak<Guarded>>,
    /// How often a name has come to stand for another file, or for none.
    changes: u64,
}

impl Opened {
    /// The file that somebody has open and that still has the name of the content; without one, the
    /// moment for [`Opened::keep`].
    pub(super) fn get(&self, digest: &Digest) -> Result<Arc<Guarded>, u64> {
        let (file, changes) = {
            let files = self.files();
            (files.open.get(digest).and_then(Weak::upgrade), files.changes)
        };
        file.filter(|file| file.is_in_place()).ok_or(changes)
    }

    /// Shares a file that was opened after `moment`, unless names have changed since.
    pub(super) fn keep(&self, digest: &Digest, file: &Arc<Guarded>, moment: u64) {
        let mut files = self.files();
        if files.open.len() >= OPENED_MAX {
            files.open.retain(|_, file| file.strong_count() > 0);
        }
        if files.changes == moment && files.open.len() < OPENED_MAX {
            files.open.insert(digest.clone(), Arc::downgrade(file));
        }
    }

    /// The name of the content stands for another file from now on, or for none. Who reads the
    /// one that it stood for goes on.
    pub(in crate::store) fn forget(&self, digest: &Digest) {
        let mut files = self.files();
        files.changes += 1;
        files.open.remove(digest);
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guarded {
    /// Whether it may be read, and whether nobody has removed it behind the store's back.
    fn is_in_place(&self) -> bool {
        self.in_service() && self.is_named().unwrap_or(false)
    }
}

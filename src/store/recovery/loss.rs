//! That acknowledged changes may have been lost, until an operator has agreed to it. What they
//! named is without a row now: until then it is not garbage.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::journal::layout::Layout;
use crate::store::{Store, StoreError};
use crate::sys::Disk;

/// What a person does about a loss.
pub const LOSS_REMEDY: &str = "compare with what was pushed last, push again what is missing, or \
                               restore a backup; then run skerry state accept-loss";

/// The largest note of a loss that is read, bytes; the ones written are shorter by far.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// What may have been lost, for people.
#[derive(Default)]
pub(in crate::store) struct Loss(Mutex<Option<String>>);

/// Notes durably what may be lost now, beside what an operator has not agreed to yet.
pub(super) fn note(disk: &dyn Disk, layout: &Layout, text: &str) -> io::Result<()> {
    let noted = read(disk, layout)?.filter(|noted| noted != text);
    let all = noted.map_or_else(|| text.to_owned(), |noted| format!("{noted}; {text}"));
    disk.replace(&layout.loss(), format!("{all}\n").as_bytes())
}

fn read(disk: &dyn Disk, layout: &Layout) -> io::Result<Option<String>> {
    if !disk.exists(&layout.loss())? {
        return Ok(None);
    }
    let bytes = disk.read(&layout.loss(), NOTE_BYTES_MAX)?;
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}

impl Loss {
    /// What is noted in a state directory.
    pub(in crate::store) fn open(disk: &dyn Disk, layout: &Layout) -> io::Result<Loss> {
        Ok(Loss(Mutex::new(read(disk, layout)?)))
    }

    fn cell(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What may have been lost and nobody has agreed to yet, for people. Meanwhile the garbage
    /// collection removes nothing.
    pub fn loss(&self) -> Option<String> {
        self.shared().loss.cell().clone()
    }

    /// Somebody agrees to the loss; returns what it was. `NotFound` when there is none. Blocks.
    pub fn accept_loss(&self) -> Result<String, StoreError> {
        let shared = self.shared();
        shared.check_frozen()?;
        let mut cell = shared.loss.cell();
        let text = cell.clone().ok_or(StoreError::NotFound)?;
        match shared.disk.remove(&shared.layout.loss()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => shared.disk.sync_dir(shared.layout.root())?,
        }
        *cell = None;
        Ok(text)
    }
}

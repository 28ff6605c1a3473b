//! That acknowledged changes may have been lost, until an operator has agreed to it. What they
//! named is without a row now: until then it is not garbage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::epoch::end_feed_epoch;
use crate::store::journal::ballast::in_any_space;
use crate::store::journal::layout::{IDENTITY_BYTES_MAX, Layout, STORE_ID};
use crate::store::{Store, StoreError};
use crate::sys::Disk;
use crate::types::UnixSeconds;

/// What a loss means for the node.
pub const LOSS_REASON: &str = "records may have been lost: no garbage is collected";
/// What a person does about a loss.
pub const LOSS_REMEDY: &str = "compare with what was done last: push again what is missing, and \
                               repeat deletions, new passwords, disabled tokens and withdrawn \
                               permissions (what was good before is good again), or restore a \
                               backup; then run skerry state accept-loss";

/// What a person does about a loss in a store that is only looked at: nobody has asked its index.
const FROZEN_REMEDY: &str = "run the version that wrote the store: it finds out what the index \
                             has, and says what to do";

/// The largest note of losses, bytes. Over it: the first half stays, what follows gives way to the
/// last loss, and of a longer file no more is read.
const NOTE_BYTES_MAX: usize = 4096;
/// Stands in the note for the losses that gave way.
const LEFT_OUT: &str = " ...; ";

/// What may have been lost, for people.
pub(in crate::store) struct Loss {
    text: Mutex<Option<String>>,
    /// When this process found the note.
    since: UnixSeconds,
}

/// Notes durably what may be lost now. Followers of the feed compare everything, and backups from
/// before are not known any more: they may have what is lost.
pub(super) fn begin(disk: &dyn Disk, layout: &Layout, text: &str) -> Result<(), StoreError> {
    note(disk, layout, text)?;
    in_any_space(disk, layout, || {
        end_feed_epoch(disk, layout)?;
        forget_backups(disk, layout)
    })
}

/// Forgets the backups that there are of this store.
fn forget_backups(disk: &dyn Disk, layout: &Layout) -> Result<(), StoreError> {
    let path = layout.identity().join(STORE_ID);
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

/// Notes durably what may be lost, beside the losses that an operator has not agreed to yet.
fn note(disk: &dyn Disk, layout: &Layout, text: &str) -> Result<(), StoreError> {
    const HALF: usize = NOTE_BYTES_MAX / 2 - LEFT_OUT.len();
    let text = start(text, HALF);
    let all = match read(disk, layout)? {
        None => text.to_owned(),
        // By a start that failed behind it, or between the two files, and is repeated now.
        Some(noted) if noted.contains(text) => noted,
        Some(noted) if noted.len() + text.len() + LEFT_OUT.len() < NOTE_BYTES_MAX => {
            format!("{noted}; {text}")
        }
        Some(noted) => format!("{}{LEFT_OUT}{text}", start(&noted, HALF)),
    };
    in_any_space(disk, layout, || Ok(write(disk, layout, &all)?))
}

/// The two files of the note: either tells of a loss.
fn files(layout: &Layout) -> [PathBuf; 2] {
    [layout.loss(), layout.loss_copy()]
}

/// Durably notes what may have been lost, in place of what was noted before: twice, as the loss of
/// the note would make garbage of what only lost records named.
pub(in crate::store) fn write(disk: &dyn Disk, layout: &Layout, text: &str) -> io::Result<()> {
    for path in files(layout) {
        disk.replace(&path, format!("{text}\n").as_bytes())?;
    }
    Ok(())
}

/// Where one of the two files does not have what is noted, since it was damaged or removed, or an
/// earlier version wrote only one, both get it.
pub(in crate::store) fn mend(disk: &dyn Disk, layout: &Layout) -> io::Result<()> {
    let Some(noted) = read(disk, layout)? else { return Ok(()) };
    let has_it = |path: &PathBuf| read_note(disk, path).is_ok_and(|text| text == noted);
    if files(layout).iter().all(has_it) {
        return Ok(());
    }
    let mended = in_any_space(disk, layout, || Ok(write(disk, layout, &noted)?));
    if let Err(error) = mended {
        log::warn!("the two notes of lost records cannot be written: {error}");
    }
    Ok(())
}

/// The characters at the start of a text that are not longer together, bytes.
fn start(text: &str, bytes_max: usize) -> &str {
    let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
    &text[..ends.take_while(|end| *end <= bytes_max).last().unwrap_or(0)]
}

/// What is noted in a state directory or a backup. A note that cannot be read is one of a loss too.
pub(in crate::store) fn read(disk: &dyn Disk, layout: &Layout) -> io::Result<Option<String>> {
    let mut noted = None;
    for path in files(layout) {
        if !disk.exists(&path)? {
            continue;
        }
        match read_note(disk, &path) {
            Ok(text) if !text.is_empty() => return Ok(Some(text)),
            Ok(_) => {
                noted = Some(format!("records may be lost, and {} is empty", path.display()));
            }
            Err(error) => {
                let text = format!("{} cannot be read: {error}", path.display());
                noted = Some(format!("records may be lost, and {text}"));
            }
        }
    }
    Ok(noted)
}

fn read_note(disk: &dyn Disk, path: &Path) -> io::Result<String> {
    let file = disk.open(path)?;
    let len = usize::try_from(file.len()?).unwrap_or(NOTE_BYTES_MAX);
    let mut bytes = vec![0; len.min(NOTE_BYTES_MAX)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

impl Loss {
    /// What is noted in a state directory, and what was `found` and cannot be noted, as of `since`.
    pub(in crate::store) fn open(
        disk: &dyn Disk,
        layout: &Layout,
        found: Option<String>,
        since: UnixSeconds,
    ) -> io::Result<Loss> {
        let all: Vec<_> = read(disk, layout)?.into_iter().chain(found).collect();
        let text = (!all.is_empty()).then(|| all.join("; "));
        Ok(Loss { text: Mutex::new(text), since })
    }

    fn cell(&self) -> MutexGuard<'_, Option<String>> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// What may have been lost and nobody has agreed to yet, for people. Meanwhile the garbage
    /// collection removes nothing.
    pub fn loss(&self) -> Option<String> {
        self.shared().loss.cell().clone()
    }

    /// What a person does about it.
    pub fn loss_remedy(&self) -> &'static str {
        if self.shared().frozen { FROZEN_REMEDY } else { LOSS_REMEDY }
    }

    /// When this process found that out; the wall clock may have been wrong then.
    pub fn loss_since(&self) -> UnixSeconds {
        self.shared().loss.since
    }

    /// Somebody agrees to the loss; returns what it was. `NotFound` when there is none. Blocks.
    pub fn accept_loss(&self) -> Result<String, StoreError> {
        let shared = self.shared();
        shared.check_frozen()?;
        let text = self.loss().ok_or(StoreError::NotFound)?;
        let unless_gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        for path in files(&shared.layout).into_iter().rev() {
            unless_gone(shared.disk.remove(&path))?;
            // The directory may have been removed too.
            let directory = path.parent().unwrap_or(shared.layout.root());
            unless_gone(shared.disk.sync_dir(directory))?;
        }
        *shared.loss.cell() = None;
        shared.damage.announce();
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::MemoryDisk;

    /// Symptom: a start that failed behind its note, and was repeated, added the note each time;
    /// beyond 64 KiB no start could read it.
    #[test]
    fn f211_the_note_of_losses_stays_short_and_keeps_the_first_and_the_last() {
        let disk = MemoryDisk::new();
        let layout = Layout::new("/s");
        disk.create_dir_all(&layout.identity()).unwrap();
        let noted =
            || Loss::open(&disk, &layout, None, UnixSeconds(1)).unwrap().cell().clone().unwrap();
        note(&disk, &layout, "the first").unwrap();
        for _ in 0..3 {
            note(&disk, &layout, "a second").unwrap();
        }
        assert_eq!(noted(), "the first; a second");
        for number in 0..10_000 {
            note(&disk, &layout, &format!("{} loss {number}", "\u{df}".repeat(number % 300)))
                .unwrap();
        }
        let text = noted();
        assert!(
            text.starts_with("the first; a second; ") && text.ends_with(" loss 9999"),
            "{text}"
        );
        assert!(text.len() < NOTE_BYTES_MAX && !text.contains(char::REPLACEMENT_CHARACTER));
        // A path may be long.
        note(&disk, &layout, &format!("{} too", "\u{df}".repeat(10_000))).unwrap();
        assert!(noted().starts_with("the first; a second; ") && noted().contains("; \u{df}\u{df}"));
        // An earlier version did not keep to the bound.
        let long = "lost ".repeat(100_000);
        disk.replace(&layout.loss(), long.as_bytes()).unwrap();
        assert!(long.starts_with(&noted()));
        note(&disk, &layout, "one more").unwrap();
        assert!(noted().ends_with("; one more"));
    }

    fn empty(disk: &MemoryDisk, path: &Path) {
        disk.replace(path, b"").unwrap();
    }

    /// Symptom: with the one note of a loss gone, the next collection removed what it had kept.
    #[test]
    fn f211_a_loss_is_known_while_one_of_its_notes_is_there() {
        let layout = Layout::new("/s");
        for path in files(&layout) {
            let disk = MemoryDisk::new();
            disk.create_dir_all(&layout.identity()).unwrap();
            note(&disk, &layout, "all of it").unwrap();
            let noted = || read(&disk, &layout).unwrap().unwrap();
            // The next start has both again, and so has one that is repeated.
            let mendings: [fn(&MemoryDisk, &Layout); 2] = [
                |disk, layout| mend(disk, layout).unwrap(),
                |disk, layout| note(disk, layout, "all of it").unwrap(),
            ];
            for mending in mendings {
                for harm in [|disk: &MemoryDisk, path: &Path| disk.remove(path).unwrap(), empty] {
                    harm(&disk, &path);
                    mending(&disk, &layout);
                    assert_eq!(disk.read(&path, 64).unwrap(), b"all of it\n");
                }
            }
            disk.replace(&path, b"").unwrap();
            assert_eq!(noted(), "all of it");
            disk.remove(&path).unwrap();
            assert_eq!(noted(), "all of it");
            for path in files(&layout) {
                empty(&disk, &path);
            }
            assert!(noted().starts_with("records may be lost"));
            mend(&disk, &layout).unwrap();
            assert!(noted().starts_with("records may be lost"));
        }
    }
}

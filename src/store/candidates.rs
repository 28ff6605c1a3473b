//! What collections of garbage have found unreferenced, and since when.
//!
//! The times are those that the node was on, over restarts: a device that is on for less than the
//! grace at a time would never collect anything. They are noted in a file now and then and at a
//! stop; what a power cut takes of them lets content stay longer. Since when somebody last used
//! content is noted with them, and what a power cut takes of that is made up for by [`quiet`].

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::content::leases::short;
use super::index::sums::hash;
use super::journal::layout::Layout;
use super::rows::upkeep::{LinkId, Note};
use super::rows::{self, Kind};
use super::{Shared, Store, StoreError};
use crate::sys::{Disk, spawn};
use crate::types::Digest;

/// Unreferenced links, and files, that are remembered between runs, some 50 and 100 bytes each.
/// Over it: the rest waits for a later run, or a link until the node has been on for the grace.
pub(super) const CANDIDATES_MAX: usize = 32_768;

/// Links, and files, that are noted. Over it: the time of the rest begins anew with the next start.
const NOTED_MAX: usize = 4096;

/// Largest note that is read, bytes. Over it: it counts as none.
const NOTE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes of the checksum before a note.
const SUM_BYTES: usize = 4;

/// How long after a start nothing goes: who pushed before a power cut gets on with it.
pub(super) fn quiet(grace: Duration) -> Duration {
    grace / 4
}

/// What earlier runs found unreferenced.
#[derive(Default)]
pub(in crate::store) struct Candidates {
    found: Mutex<Option<Found>>,
    /// How long the node was on before this process, as far as that is noted.
    before: Duration,
    /// When the process opened the store, monotonic.
    opened: Duration,
    /// One note at a time replaces the file.
    noting: Mutex<()>,
}

/// With the time for which the node had been on when each was first found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) links: BTreeMap<LinkId, Duration>,
    pub(super) files: BTreeMap<Digest, Duration>,
}

impl LinkId {
    pub(super) fn of(key: &[u8], digest: &Digest) -> LinkId {
        // Another release of the standard library may hash otherwise: the time then begins anew.
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        LinkId { digest: short(digest), key: hasher.finish() }
    }
}

/// What one run works with; goes back when the run ends, however it ends.
pub(super) struct Taken<'a> {
    pub(super) found: Found,
    home: &'a Candidates,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let found = std::mem::take(&mut self.found);
        *self.home.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }
}

impl Candidates {
    /// What is noted. A note that cannot be read is as good as none: all times begin anew.
    pub(in crate::store) fn open(disk: &dyn Disk, layout: &Layout, now: Duration) -> Candidates {
        let note = disk.read(&path(layout), NOTE_BYTES_MAX).ok().and_then(|bytes| read(&bytes));
        let note = note.unwrap_or_default();
        // A time that has not come yet counts as now.
        let at = |seconds: u64| Duration::from_secs(seconds.min(note.on));
        let links = note.links.into_iter().map(|(key, since)| (key, at(since))).collect();
        let files = note.files.into_iter().map(|(digest, since)| (digest, at(since)));
        let found = Found { links, files: files.collect() };
        let before = Duration::from_secs(note.on);
        let (found, noting) = (Mutex::new(Some(found)), Mutex::default());
        Candidates { found, before, opened: now, noting }
    }

    /// `None` while another run has them.
    pub(super) fn take(&self) -> Option<Taken<'_>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Taken { found, home: self })
    }

    /// Whether a run is under way.
    pub(in crate::store) fn is_taken(&self) -> bool {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// How long the store has been open at `now`, monotonic.
    pub(super) fn up(&self, now: Duration) -> Duration {
        now.saturating_sub(self.opened)
    }

    /// How long the node had been on at `at`, monotonic.
    pub(super) fn on(&self, at: Duration) -> Duration {
        self.before + self.up(at)
    }
}

impl Store {
    /// Notes since when content has been unreferenced and unused. Nothing while a collection is
    /// under way, which notes it at its end; where there is none, a note of before is removed.
    /// Blocks.
    fn note_garbage(&self) -> Result<(), StoreError> {
        let shared = self.shared();
        let _one = shared.garbage.noting.lock().unwrap_or_else(PoisonError::into_inner);
        let path = path(&shared.layout);
        match shared.note_of_found() {
            None => Ok(()),
            Some(note)
                if note.links.is_empty()
                    && note.files.is_empty()
                    // Their time counts from how long the node was on.
                    && !self.has_rows(Kind::Untagged)? =>
            {
                match shared.disk.exists(&path)? {
                    true => Ok(shared.disk.remove(&path)?),
                    false => Ok(()),
                }
            }
            Some(note) => {
                let body = rows::encode(&note)?;
                let mut bytes = hash(0, &[&body]).to_le_bytes().to_vec();
                bytes.extend_from_slice(&body);
                Ok(shared.disk.replace(&path, &bytes)?)
            }
        }
    }

    /// The same, beside what else is done. What is not noted lets content stay longer: a full disk
    /// stops nothing.
    pub async fn note_garbage_soon(&self) {
        let store = self.clone();
        if let Err(error) = spawn::blocking(move || store.note_garbage()).await {
            log::debug!("since when content has been unreferenced is not noted: {error}");
        }
    }
}

impl Shared {
    /// What is to be noted; `None` while a collection is under way.
    fn note_of_found(&self) -> Option<Note> {
        let found = self.garbage.found.lock().unwrap_or_else(PoisonError::into_inner);
        let found = found.as_ref()?;
        let now = self.sys.clock.monotonic();
        let used = |digest: u64, first: &Duration| {
            let used = self.leases.last_used(digest, now);
            used.map_or(*first, |at| self.garbage.on(at).max(*first)).as_secs()
        };
        let link = |(link, first): (&LinkId, &Duration)| (*link, used(link.digest, first));
        let file =
            |(digest, first): (&Digest, &Duration)| (digest.clone(), used(short(digest), first));
        Some(Note {
            on: self.garbage.on(now).as_secs(),
            links: found.links.iter().map(link).take(NOTED_MAX).collect(),
            files: found.files.iter().map(file).take(NOTED_MAX).collect(),
        })
    }
}

fn path(layout: &Layout) -> PathBuf {
    layout.root().join("garbage")
}

fn read(bytes: &[u8]) -> Option<Note> {
    let (sum, body) = bytes.split_at_checked(SUM_BYTES)?;
    let is_whole = hash(0, &[body]).to_le_bytes() == sum;
    is_whole.then(|| rows::decode(body).ok()).flatten()
}

//! Content that failed its check: out of service until good bytes of it come again.
//!
//! A damaged file is moved from `blobs` to `quarantine`; of one that is missing an empty file is
//! left there. So the directory tells, also after a restart, what has to be brought back: from
//! the parent, or by a push. Whoever is reading a file that is condemned reads no further.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::{Event, EventListener};

use super::unreadable::{Step, UNREADABLE_REMEDY};
use crate::store::journal::layout::Layout;
use crate::store::rows::link::Referred;
use crate::store::{Shared, Store, StoreError};
use crate::sys::disk::DiskFile;
use crate::sys::{Disk, spawn};
use crate::types::limits::MANIFEST_LEVELS_MAX;
use crate::types::{Digest, RepositoryName, UnixSeconds};

/// Damaged digests that are remembered. Over it: the rest is found again by the next scrub.
const DAMAGED_MAX: usize = 65_536;
/// What quarantined files may take up, bytes. Over it: of the next ones only the name is kept.
const QUARANTINE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Condemnations that open files are compared with. Over it: files opened before are closed.
const HISTORY_MAX: usize = 1024;
/// Manifests below one whose content is looked for among what is damaged. Over it: damage is not
/// seen from the top, but from the manifest that names it.
const MANIFESTS_MAX: usize = 1024;

/// What is damaged, and who has to know.
#[derive(Default)]
pub(in crate::store) struct Damage {
    /// It is held over calls of the disk: what requests ask is beside it.
    state: Mutex<State>,
    /// How much is known to be damaged.
    known: AtomicUsize,
    /// Whether something is stuck.
    any_stuck: AtomicBool,
    /// Number of condemnations so far.
    condemned: AtomicU64,
    changed: Event,
    /// What earlier runs found is not known.
    pub(in crate::store) is_unread: bool,
    /// What earlier runs found damaged, and whose file is there: it came again just before the
    /// stop, or could not be moved away. It is noted in quarantine until it was hashed.
    pub(in crate::store) doubtful: BTreeSet<Digest>,
}

#[derive(Default)]
struct State {
    known: BTreeSet<Digest>,
    /// What could not be moved away: its file is as good as none.
    stuck: BTreeSet<Digest>,
    /// When somebody first asked since when there is something.
    since: Option<UnixSeconds>,
    /// Bytes in quarantine.
    bytes: u64,
    /// Checks under way, and whether the file was replaced meanwhile.
    checks: BTreeMap<u64, (Digest, bool)>,
    next_check: u64,
    /// The latest condemnations, with their numbers.
    history: VecDeque<(u64, Digest)>,
}

/// A check under way: content that is installed meanwhile is not condemned for what was there
/// before.
pub(in crate::store) struct Check {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.shared.damage.state().checks.remove(&self.id);
    }
}

impl Check {
    /// Announces that the file of `digest` is about to be checked. Blocks, as its end does.
    pub(in crate::store) fn begin(shared: &Arc<Shared>, digest: &Digest) -> Check {
        let mut state = shared.damage.state();
        let id = state.next_check;
        state.next_check += 1;
        state.checks.insert(id, (digest.clone(), false));
        Check { shared: shared.clone(), id }
    }
}

impl Damage {
    /// Wakes who reports what is wrong.
    pub(in crate::store) fn announce(&self) {
        self.changed.notify(usize::MAX);
    }

    /// What earlier runs found and nobody has mended yet.
    pub(in crate::store) fn open(disk: &dyn Disk, layout: &Layout) -> Result<Damage, StoreError> {
        let mut damage = Damage::default();
        let directory = layout.quarantine();
        if !disk.exists(&directory)? {
            return Ok(damage);
        }
        let entries = match disk.list(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                let directory = directory.display();
                log::error!(
                    "what is known to be damaged cannot be read from {directory}: {error}: \
                     {UNREADABLE_REMEDY}; it is looked for again now"
                );
                return Ok(Damage { is_unread: true, ..damage });
            }
        };
        // Somebody may have put a directory there, to look at something.
        for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
            let path = directory.join(&entry.name);
            let Ok(digest) = entry.name.replacen('.', ":", 1).parse::<Digest>() else { continue };
            damage.state().bytes += disk.file_len(&path).unwrap_or(0);
            // A damaged file system may not show one: the others are no worse.
            if !disk.exists(&layout.blob(&digest)).unwrap_or(false) {
                damage.know(&mut damage.state(), &digest);
            } else if damage.doubtful.len() < DAMAGED_MAX {
                damage.doubtful.insert(digest);
            }
        }
        Ok(damage)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts content in its place; no check that is under way will condemn it.
    pub(in crate::store) fn replace(
        &self,
        digest: &Digest,
        rename: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.state();
        rename()?;
        self.no_longer_stuck(&mut state, digest);
        for (checked, replaced) in state.checks.values_mut() {
            *replaced |= checked == digest;
        }
        Ok(())
    }

    /// Remembers damage; whether that is new. What there is no room for is new each time.
    fn know(&self, state: &mut State, digest: &Digest) -> bool {
        let is_new = match state.known.len() < DAMAGED_MAX {
            true => state.known.insert(digest.clone()),
            false => !state.known.contains(digest),
        };
        self.known.store(state.known.len(), Ordering::Release);
        is_new
    }

    /// Whether damaged content is known of.
    pub(super) fn is_any(&self) -> bool {
        self.known.load(Ordering::Acquire) > 0
    }

    /// Whether the file of this content is there, and damaged.
    pub(super) fn is_stuck(&self, digest: &Digest) -> bool {
        self.any_stuck.load(Ordering::Acquire) && self.state().stuck.contains(digest)
    }

    /// Notes that the damaged file is not in the way any more; whether it was.
    fn no_longer_stuck(&self, state: &mut State, digest: &Digest) -> bool {
        let was_stuck = state.stuck.remove(digest);
        self.any_stuck.store(!state.stuck.is_empty(), Ordering::Release);
        was_stuck
    }

    /// Whether this content was condemned after the `opened`-th condemnation.
    fn condemned_since(&self, opened: u64, digest: &Digest) -> bool {
        let state = self.state();
        let forgotten = state.history.front().is_some_and(|(oldest, _)| *oldest > opened + 1);
        forgotten || state.history.iter().any(|(at, other)| *at > opened && other == digest)
    }
}

impl Shared {
    /// Takes content out of service that `check` found damaged. `false` when good content has
    /// replaced it, or it is gone. Blocks.
    pub(in crate::store) fn condemn(
        &self,
        digest: &Digest,
        check: &Check,
        what: &str,
    ) -> Result<bool, StoreError> {
        if self.frozen {
            return Ok(false);
        }
        let from = self.layout.blob(digest);
        let to = self.layout.quarantined(digest);
        let ready = self.make_quarantine();
        let mut state = self.damage.state();
        if state.checks.get(&check.id).is_none_or(|(_, replaced)| *replaced) {
            return Ok(false);
        }
        self.unname(digest);
        // An earlier file of it may lie there, when a move back to its place was not made durable.
        let before = self.disk.file_len(&to).unwrap_or(0);
        let moved = ready.and_then(|()| match self.disk.rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            renamed => renamed.map(|()| true),
        });
        let mut came_loose = false;
        match &moved {
            Ok(false) => return Ok(false),
            Ok(true) => {
                came_loose = self.damage.no_longer_stuck(&mut state, digest);
                state.bytes = state.bytes.saturating_sub(before);
                self.keep_in_quarantine(&mut state, &to);
            }
            Err(error) if state.stuck.len() >= DAMAGED_MAX => {
                return Err(self.file_fault(digest, Step::Write, error));
            }
            Err(_) => {
                // Where at least a name can be made, the next start doubts the file.
                let _ = self.disk.create(&to);
                state.stuck.insert(digest.clone());
                self.damage.any_stuck.store(true, Ordering::Release);
            }
        }
        let number = self.damage.condemned.fetch_add(1, Ordering::Release) + 1;
        state.history.push_back((number, digest.clone()));
        if state.history.len() > HISTORY_MAX {
            state.history.pop_front();
        }
        // Together with the move: good content that comes after it finds what it mends.
        let is_new = self.damage.know(&mut state, digest);
        drop(state);
        // The name goes for good before the new one comes: after a power cut content is missing
        // rather than in two places.
        let quarantine = self.layout.quarantine();
        let synced = moved.and_then(|_| {
            self.disk.sync_dir(from.parent().unwrap_or(self.layout.root()))?;
            self.disk.sync_dir(&quarantine)
        });
        if let Err(error) = synced {
            log::warn!("{} cannot be moved to {}: {error}", from.display(), quarantine.display());
        }
        if is_new {
            self.tell_damage(digest, what);
        } else if came_loose {
            // Good bytes of it could not come before, and can now.
            self.damage.announce();
        }
        Ok(true)
    }

    /// Keeps what quarantined files take up within its bound. One that cannot be cut counts whole.
    fn keep_in_quarantine(&self, state: &mut State, path: &Path) {
        let bytes = self.disk.file_len(path).unwrap_or(0);
        state.bytes += bytes;
        if state.bytes > QUARANTINE_BYTES_MAX || self.check_space().is_err() {
            match self.disk.open_rw(path).and_then(|file| file.set_len(0)) {
                Ok(()) => state.bytes -= bytes,
                Err(error) => log::warn!("{} cannot be cut: {error}", path.display()),
            }
        }
    }

    /// Notes that content, which `check` did not find, is not there although a repository refers to
    /// it. `false` when that is known, or the content came meanwhile.
    pub(in crate::store) fn note_missing(
        &self,
        digest: &Digest,
        check: &Check,
    ) -> Result<bool, StoreError> {
        if self.frozen || self.damage.state().known.contains(digest) {
            return Ok(false);
        }
        let made = self.make_quarantine();
        let mut state = self.damage.state();
        if state.checks.get(&check.id).is_none_or(|(_, replaced)| *replaced) {
            return Ok(false);
        }
        let noted = made.and_then(|()| match self.disk.create(&self.layout.quarantined(digest)) {
            Ok(_) => self.disk.sync_dir(&self.layout.quarantine()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        });
        if let Err(error) = noted {
            // The next start does not know it, and finds it again.
            log::warn!("it cannot be noted on the disk that {digest} is missing: {error}");
        }
        let is_new = self.damage.know(&mut state, digest);
        drop(state);
        if is_new {
            self.tell_damage(digest, "its file is missing");
        }
        Ok(is_new)
    }

    fn make_quarantine(&self) -> io::Result<()> {
        let directory = self.layout.quarantine();
        if !self.disk.exists(&directory)? {
            self.disk.create_dir_all(&directory)?;
            self.disk.sync_dir(self.layout.root())?;
        }
        Ok(())
    }

    fn tell_damage(&self, digest: &Digest, what: &str) {
        log::error!(
            "content {digest} is damaged: {what}; it is not served until it comes again, by a push \
             or, at a connected registry, from the parent"
        );
        self.sys.metrics.blobs_damaged.add(1);
        self.damage.announce();
    }

    /// The file of content was read, and is good: whoever has mended it.
    pub(in crate::store) fn is_good(&self, digest: &Digest) {
        {
            let mut state = self.damage.state();
            let is_noted = state.known.contains(digest) || self.damage.doubtful.contains(digest);
            if !is_noted && !state.stuck.contains(digest) {
                return;
            }
            // Another look at it may have moved it away meanwhile.
            if !self.disk.exists(&self.layout.blob(digest)).unwrap_or(false) {
                return;
            }
            self.damage.no_longer_stuck(&mut state, digest);
        }
        self.healed(digest);
    }

    /// Good content is in its place, durably.
    pub(in crate::store) fn healed(&self, digest: &Digest) {
        let is_doubtful = self.damage.doubtful.contains(digest);
        if is_doubtful || self.damage.state().known.contains(digest) {
            self.forget_damage(digest);
            log::info!("content {digest} is whole again");
            self.sys.metrics.blobs_healed.add(1);
        }
    }

    /// Nothing has to be brought back any more. A quarantined file that stays does no harm: the
    /// next start sees that good content is there.
    fn forget_damage(&self, digest: &Digest) {
        let path = self.layout.quarantined(digest);
        let mut state = self.damage.state();
        let bytes = self.disk.file_len(&path).unwrap_or(0);
        match self.disk.remove(&path) {
            Ok(()) => state.bytes = state.bytes.saturating_sub(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log::warn!("{} cannot be removed: {error}", path.display()),
        }
        state.known.remove(digest);
        self.damage.known.store(state.known.len(), Ordering::Release);
        drop(state);
        self.damage.announce();
    }
}

/// What a look at the file of content showed, see [`Store::check_file`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileCheck {
    /// It is there, with the length that the link notes.
    Good,
    /// It had another length.
    OtherLength,
    /// It is missing.
    Missing,
    /// It cannot be served, which is known, or it came a moment ago.
    Known,
    /// It cannot be opened, as the text says; it stays where it is.
    Unreadable(String),
    /// Nothing has to be there: the link is gone.
    Unlinked,
}

impl Store {
    /// Content that is referred to and cannot be served, at most `limit`.
    pub fn damaged(&self, limit: usize) -> Vec<Digest> {
        self.damaged_after(None, limit)
    }

    /// The same, greater than `after`.
    pub fn damaged_after(&self, after: Option<&Digest>, limit: usize) -> Vec<Digest> {
        let state = self.shared().damage.state();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        state.known.range::<Digest, _>((start, Bound::Unbounded)).take(limit).cloned().collect()
    }

    /// The same, each with the repositories that refer to it. Reads all links while there is some.
    pub async fn damaged_where(
        &self,
        limit: usize,
    ) -> Result<BTreeMap<Digest, BTreeSet<RepositoryName>>, StoreError> {
        let damaged = self.damaged(limit).into_iter().map(|digest| (digest, BTreeSet::new()));
        let mut damaged: BTreeMap<_, BTreeSet<_>> = damaged.collect();
        if damaged.is_empty() {
            return Ok(damaged);
        }
        self.each_link(|link| {
            if let Some(repositories) = damaged.get_mut(&link.digest()?) {
                repositories.insert(link.repository()?);
            }
            Ok(())
        })
        .await?;
        Ok(damaged)
    }

    /// How much content is damaged.
    pub fn damaged_count(&self) -> usize {
        self.shared().damage.known.load(Ordering::Acquire)
    }

    /// Whether a blob is known to be damaged that a manifest names; with `entries_too`, also the
    /// entries of an index, and what they name. Looks nothing up while no damage is known.
    pub async fn names_damage(
        &self,
        repository: &RepositoryName,
        manifest: &Digest,
        entries_too: bool,
    ) -> Result<bool, StoreError> {
        if !self.shared().damage.is_any() {
            return Ok(false);
        }
        let (store, repository, manifest) = (self.clone(), repository.clone(), manifest.clone());
        let levels = if entries_too { MANIFEST_LEVELS_MAX } else { 1 };
        spawn::blocking(move || store.names_damage_now(&repository, manifest, levels)).await
    }

    fn names_damage_now(
        &self,
        repository: &RepositoryName,
        manifest: Digest,
        levels: usize,
    ) -> Result<bool, StoreError> {
        let (mut seen, mut level) = (BTreeSet::new(), BTreeSet::from([manifest]));
        for depth in 0..levels {
            let mut below = BTreeSet::new();
            for digest in level {
                let Some(row) = self.manifest(repository, &digest)? else { continue };
                let state = self.shared().damage.state();
                // The manifest itself is the caller's to check.
                let is_entry = depth > 0 && state.known.contains(&digest);
                if is_entry || row.blobs.iter().any(|blob| state.known.contains(blob)) {
                    return Ok(true);
                }
                drop(state);
                seen.insert(digest);
                if seen.len() == MANIFESTS_MAX {
                    return Ok(false);
                }
                below.extend(row.children.into_iter().filter(|child| !seen.contains(child)));
            }
            level = below;
        }
        Ok(false)
    }

    /// Since when there is damaged content, as far as this process knows.
    pub fn damaged_since(&self) -> UnixSeconds {
        let now = self.sys().clock.wall_or_floor();
        *self.shared().damage.state().since.get_or_insert(now)
    }

    /// Hears when something is found damaged from now on, or is whole again.
    pub fn damage_changes(&self) -> EventListener {
        self.shared().damage.changed.listen()
    }

    /// Looks at the file of content that a link refers to, by the key of the link and the length
    /// that it notes. A file of another length, and one that is missing, is taken out of service;
    /// what is doubted is hashed first.
    pub async fn check_file(
        &self,
        link: Vec<u8>,
        digest: &Digest,
        len: u64,
    ) -> Result<FileCheck, StoreError> {
        let mut unread = None;
        if self.shared().trust.is_doubted(digest) {
            match self.verify(digest, |_| spawn::yield_now()).await {
                // Who brings it again replaces a file that cannot be opened.
                Err(error @ StoreError::Unreadable(_)) => unread = Some(error),
                verdict => drop(verdict?),
            }
        }
        let (store, digest) = (self.clone(), digest.clone());
        let check = spawn::blocking(move || store.check_file_now(&link, &digest, len)).await?;
        match (check, unread) {
            (FileCheck::Good, Some(error)) => Err(error),
            (check, _) => Ok(check),
        }
    }

    /// [`Store::check_file`] for a thread that may block.
    pub(in crate::store) fn check_file_now(
        &self,
        link: &[u8],
        digest: &Digest,
        len: u64,
    ) -> Result<FileCheck, StoreError> {
        let shared = self.shared();
        if shared.damage.is_stuck(digest) {
            return Ok(FileCheck::Known);
        }
        let check = Check::begin(shared, digest);
        // Opened, so that whoever only asks for it hears the same as who reads it.
        let opened = shared.disk.open(&shared.layout.blob(digest));
        match opened.and_then(|file| file.len()) {
            Ok(found) if found == len => Ok(FileCheck::Good),
            Ok(found) => {
                let what = format!("its file has {found} bytes, not {len}");
                let is_new = shared.condemn(digest, &check, &what)?;
                Ok(if is_new { FileCheck::OtherLength } else { FileCheck::Known })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link that went meanwhile went before its file.
                if self.look_up(|index| index.get(link))?.is_none() {
                    return Ok(FileCheck::Unlinked);
                }
                let is_new = shared.note_missing(digest, &check)?;
                Ok(if is_new { FileCheck::Missing } else { FileCheck::Known })
            }
            Err(error) => match shared.file_fault(digest, Step::Open, &error) {
                StoreError::Unreadable(text) => {
                    log::error!("the disk failed: {text}");
                    Ok(FileCheck::Unreadable(text))
                }
                error => Err(error),
            },
        }
    }

    /// The repositories that refer to content, and how. Reads all links.
    pub async fn referring(
        &self,
        digest: &Digest,
    ) -> Result<Vec<(RepositoryName, Referred)>, StoreError> {
        let mut found = Vec::new();
        self.each_link(|link| {
            if link.digest()? == *digest {
                found.push((link.repository()?, link.referred()?));
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Forgets damaged content that no repository refers to any more.
    pub(in crate::store) async fn forget_unreferred_damage(&self) -> Result<(), StoreError> {
        let mut unreferred = self.shared().damage.state().known.clone();
        if unreferred.is_empty() {
            return Ok(());
        }
        self.each_link(|link| {
            unreferred.remove(&link.digest()?);
            Ok(())
        })
        .await?;
        let shared = self.shared().clone();
        spawn::blocking(move || unreferred.iter().for_each(|digest| shared.forget_damage(digest)))
            .await;
        Ok(())
    }
}

/// A file of content, open for reading: once it is condemned, reading fails.
pub(in crate::store) struct Guarded {
    shared: Arc<Shared>,
    digest: Digest,
    file: Arc<dyn DiskFile>,
    /// Condemnations that were known to be of others.
    seen: AtomicU64,
}

impl Guarded {
    /// The file of content, as `open` finds it; what is condemned from the look for it on is not
    /// read.
    pub(in crate::store) fn open(
        shared: &Arc<Shared>,
        digest: &Digest,
        open: impl FnOnce() -> Result<Option<Arc<dyn DiskFile>>, StoreError>,
    ) -> Result<Option<Guarded>, StoreError> {
        let seen = AtomicU64::new(shared.damage.condemned.load(Ordering::Acquire));
        let found = open()?;
        let guard = |file| Guarded { shared: shared.clone(), digest: digest.clone(), file, seen };
        Ok(found.map(guard))
    }

    pub(super) fn in_service(&self) -> bool {
        let now = self.shared.damage.condemned.load(Ordering::Acquire);
        let seen = self.seen.load(Ordering::Relaxed);
        if seen == now {
            return true;
        }
        if self.shared.damage.condemned_since(seen, &self.digest) {
            return false;
        }
        self.seen.store(now, Ordering::Relaxed);
        true
    }
}

fn not_here() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "content is only read through this handle")
}

impl DiskFile for Guarded {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if !self.in_service() {
            return Err(io::Error::other(format!("{} was found damaged", self.digest)));
        }
        let read = self.file.read_at(buffer, offset);
        if read.is_err() {
            // The next to open it finds out whether it is damaged.
            self.shared.trust.doubt(&self.digest);
        }
        read
    }

    fn write_all_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(not_here())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(not_here())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(not_here())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(not_here())
    }

    fn is_named(&self) -> io::Result<bool> {
        self.file.is_named()
    }

    fn as_file(&self) -> Option<&File> {
        self.file.as_file().filter(|_| self.in_service())
    }

    fn bring_in(&self, offset: u64, len: u64) -> io::Result<()> {
        let result = self.file.bring_in(offset, len);
        if result.is_err() {
            self.shared.trust.doubt(&self.digest);
        }
        result
    }

    fn is_cached(&self, offset: u64) -> bool {
        self.file.is_cached(offset)
    }

    fn forget_cached(&self, offset: u64, len: u64) {
        self.file.forget_cached(offset, len);
    }
}

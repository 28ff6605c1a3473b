//! Who has to do with content: who uses it holds it, and what somebody touched a moment ago, as a
//! HEAD or a mount does, may soon be referred to. Neither is collected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::touched::Touched;
use crate::store::index::Change;
use crate::store::rows::link::split_key;
use crate::store::rows::manifest::ManifestRow;
use crate::store::rows::tag::TagRow;
use crate::store::rows::{self, Kind, Stored};
use crate::store::{Shared, Store, StoreError};
use crate::types::{Digest, RepositoryName};

/// Digests that fetches under way keep. Over it: what a further one fetches is kept for as long as
/// anything else that was touched.
const KEPT_MAX: usize = 262_144;

/// Digests by their first eight bytes, with the monotonic time when each was last touched. Two
/// digests that share those bytes share a lease, which keeps more, never less.
#[derive(Default)]
pub(in crate::store) struct Leases {
    table: Mutex<Table>,
    /// A file that was being removed is gone.
    removed: Condvar,
}

#[derive(Default)]
struct Table {
    touched: Touched,
    /// How many use it now, at most one for each request and task.
    held: BTreeMap<u64, usize>,
    /// Files that are being removed now: whoever is about to look at one waits, and nobody else.
    being_removed: BTreeSet<u64>,
    /// Rows whose removal is decided and not yet to be seen in the index, by their keys.
    hidden: BTreeSet<Vec<u8>>,
    /// What is fetched for a manifest of a repository and may take longer than any time that a
    /// touch lasts: nothing refers to it before the manifest is here.
    kept: Kept,
}

/// A manifest that is being fetched.
type Root = (RepositoryName, Digest);

#[derive(Default)]
struct Kept {
    roots: BTreeMap<Root, BTreeSet<u64>>,
    /// How many of the roots keep a digest.
    uses: BTreeMap<u64, usize>,
}

/// Somebody uses content, however long that takes: from before it is looked whether it is here, or
/// before it arrives, until what refers to it is there. Nothing removes it meanwhile, and for the
/// grace after.
pub struct Lease {
    digest: Digest,
    /// `None`: of a test, for content that no collection knows.
    shared: Option<Arc<Shared>>,
}

impl Lease {
    /// Of what.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Of content that may not be there at all.
    #[cfg(test)]
    pub(crate) fn unseen(digest: &Digest) -> Lease {
        Lease { digest: digest.clone(), shared: None }
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        match &self.shared {
            Some(shared) => shared.lease(&self.digest),
            None => Lease { digest: self.digest.clone(), shared: None },
        }
    }
}

impl Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.digest)
    }
}

impl PartialEq for Lease {
    fn eq(&self, other: &Lease) -> bool {
        self.digest == other.digest
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.leases.table().let_go(short(&self.digest), shared.sys.clock.monotonic());
        }
    }
}

impl Shared {
    /// Holds content. Take it before looking whether the content is there.
    pub(in crate::store) fn lease(self: &Arc<Shared>, digest: &Digest) -> Lease {
        *self.leases.table_without(short(digest)).held.entry(short(digest)).or_default() += 1;
        Lease { digest: digest.clone(), shared: Some(self.clone()) }
    }
}

/// The first eight bytes of a digest.
pub(in crate::store) fn short(digest: &Digest) -> u64 {
    digest.raw().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Store {
    /// Keeps the content of a manifest that is being fetched, though nothing refers to it yet,
    /// until the manifest is here or nobody wants it any more; beside what is kept for it already.
    /// In memory only.
    pub fn keep_fetched(
        &self,
        repository: &RepositoryName,
        root: &Digest,
        digests: impl Iterator<Item = Digest>,
    ) {
        self.shared().leases.keep(repository, root, digests);
    }

    /// The manifest is here.
    pub fn release_fetched(&self, repository: &RepositoryName, root: &Digest) {
        let key = (repository.clone(), root.clone());
        self.shared().leases.table().release(&key, self.sys().clock.monotonic());
    }

    /// A row that refers to content, for who may go on to refer to that: the content stays for the
    /// grace from now on, and a row whose removal is decided is not there any more.
    pub(in crate::store) fn row_to_use<R: Stored>(
        &self,
        key: &[u8],
        digest: &Digest,
    ) -> Result<Option<R>, StoreError> {
        if self.look_up(|index| index.get(key))?.is_none() {
            // Who asks for what is not here has nothing to do with content.
            return Ok(None);
        }
        self.shared().touch(digest);
        match self.shared().leases.is_hidden(key) {
            true => Ok(None),
            false => self.get(key),
        }
    }

    /// Keeps only what is fetched for manifests that are `wanted`.
    pub fn keep_fetched_for(&self, wanted: impl Fn(&RepositoryName, &Digest) -> bool) {
        self.shared().leases.keep_only(self.sys().clock.monotonic(), wanted);
    }
}

impl Leases {
    /// Remembers that this was touched. Call it before looking whether the content is there.
    pub(in crate::store) fn touch(&self, digest: &Digest, now: Duration) {
        self.table_without(short(digest)).touch(short(digest), now);
    }

    /// Remembers what a command that is about to be acknowledged refers to. Returns the
    /// layers that it names and that may lie elsewhere: the caller touches those that are here.
    pub(in crate::store) fn note(&self, changes: &[Change], now: Duration) -> Vec<Digest> {
        let (mut table, mut elsewhere) = (self.table(), Vec::new());
        for (key, row) in changes {
            let kind = key.first().copied();
            let Some(row) = row else {
                if kind == Some(Kind::Manifest as u8)
                    && let Some((_, digest)) = split_key(key)
                {
                    table.touch(short(&digest), now);
                }
                continue;
            };
            match kind {
                Some(kind) if kind == Kind::Blob as u8 => {
                    if let Some((_, digest)) = split_key(key) {
                        table.touch(short(&digest), now);
                    }
                }
                Some(kind) if kind == Kind::Manifest as u8 => {
                    let own = split_key(key).map(|(_, digest)| digest);
                    let row = rows::decode::<ManifestRow>(row).ok();
                    let named = row.iter().flat_map(|row| row.blobs.iter().chain(&row.children));
                    for digest in own.iter().chain(named) {
                        table.touch(short(digest), now);
                    }
                    elsewhere.extend(row.and_then(|row| row.elsewhere).into_iter().flatten());
                }
                Some(kind) if kind == Kind::Tag as u8 => {
                    if let Ok(tag) = rows::decode::<TagRow>(row) {
                        table.touch(short(&tag.digest), now);
                    }
                }
                _ => {}
            }
        }
        elsewhere
    }

    /// Whether somebody uses this, or touched it at `since` or later.
    pub(in crate::store) fn is_wanted(&self, digest: &Digest, since: Duration) -> bool {
        self.table().is_wanted(short(digest), since)
    }

    /// When somebody last used this, by [`short`]: `now` while somebody does; `None`: not that is
    /// remembered.
    pub(in crate::store) fn last_used(&self, digest: u64, now: Duration) -> Option<Duration> {
        self.table().last_used(digest, now)
    }

    /// Runs `remove` unless somebody uses this, or touched it at `since` or later. Whoever wants it
    /// meanwhile waits, and then finds it gone.
    pub(in crate::store) fn unless_wanted<T>(
        &self,
        digest: &Digest,
        since: Duration,
        remove: impl FnOnce() -> T,
    ) -> Option<T> {
        {
            let mut table = self.table();
            if table.is_wanted(short(digest), since) {
                return None;
            }
            table.being_removed.insert(short(digest));
        }
        // The disk may take long.
        let _removal = BeingRemoved { leases: self, digest: short(digest) };
        Some(remove())
    }

    /// Hides a row that refers to content, unless somebody uses the content, or touched it at
    /// `since` or later; whether it is hidden now. Only for a command of the writer, which then
    /// deletes the row: whoever touches the content from now on sees by [`Leases::is_hidden`] that
    /// it was too late.
    pub(in crate::store) fn hide_unless_wanted(
        &self,
        key: &[u8],
        digest: &Digest,
        since: Duration,
    ) -> bool {
        let mut table = self.table();
        let is_free = !table.is_wanted(short(digest), since);
        if is_free {
            table.hidden.insert(key.to_vec());
        }
        is_free
    }

    /// Whether a row that the index shows is about to go. To be asked after a touch.
    pub(in crate::store) fn is_hidden(&self, key: &[u8]) -> bool {
        self.table().hidden.contains(key)
    }

    /// The index shows what became of all that was hidden: for the writer, between applying a group
    /// and answering it.
    pub(in crate::store) fn unhide(&self) {
        self.table().hidden.clear();
    }

    /// Keeps this content until it is released under the same manifest, beside what is kept under
    /// that.
    pub(in crate::store) fn keep(
        &self,
        repository: &RepositoryName,
        root: &Digest,
        digests: impl Iterator<Item = Digest>,
    ) {
        let digests: BTreeSet<u64> = digests.map(|digest| short(&digest)).collect();
        let is_being_removed = |table: &mut Table| !table.being_removed.is_disjoint(&digests);
        let table = self.removed.wait_while(self.table(), is_being_removed);
        let kept = &mut table.unwrap_or_else(PoisonError::into_inner).kept;
        if kept.uses.len().saturating_add(digests.len()) <= KEPT_MAX {
            let of_root = kept.roots.entry((repository.clone(), root.clone())).or_default();
            for digest in digests {
                if of_root.insert(digest) {
                    *kept.uses.entry(digest).or_default() += 1;
                }
            }
        }
    }

    /// Keeps only what is fetched for manifests that are `wanted`. What is released counts as
    /// touched `now`.
    pub(in crate::store) fn keep_only(
        &self,
        now: Duration,
        wanted: impl Fn(&RepositoryName, &Digest) -> bool,
    ) {
        let mut table = self.table();
        let roots = table.kept.roots.keys();
        let gone: Vec<Root> = roots.filter(|(name, root)| !wanted(name, root)).cloned().collect();
        for key in &gone {
            table.release(key, now);
        }
    }

    /// Keeps nothing that was not touched.
    pub(in crate::store) fn release_all(&self) {
        self.table().kept = Kept::default();
    }

    /// Forgets what was last touched before `since`.
    pub(in crate::store) fn forget_before(&self, since: Duration) {
        self.table().touched.forget_before(since);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same once this is not being removed.
    fn table_without(&self, digest: u64) -> MutexGuard<'_, Table> {
        let is_being_removed = |table: &mut Table| table.being_removed.contains(&digest);
        self.removed
            .wait_while(self.table(), is_being_removed)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that is being removed.
struct BeingRemoved<'a> {
    leases: &'a Leases,
    digest: u64,
}

impl Drop for BeingRemoved<'_> {
    fn drop(&mut self) {
        self.leases.table().being_removed.remove(&self.digest);
        self.leases.removed.notify_all();
    }
}

impl Table {
    fn touch(&mut self, digest: u64, now: Duration) {
        self.touched.touch(digest, now);
    }

    /// Keeps what is fetched for this manifest no longer than anything else that is touched `now`.
    fn release(&mut self, root: &Root, now: Duration) {
        for digest in self.kept.remove(root) {
            self.touch(digest, now);
        }
    }

    /// One of those who use it does not any more.
    fn let_go(&mut self, digest: u64, now: Duration) {
        let left = self.held.get_mut(&digest).map_or(0, |uses| {
            *uses -= 1;
            *uses
        });
        if left == 0 {
            self.held.remove(&digest);
        }
        self.touch(digest, now);
    }

    fn is_wanted(&self, digest: u64, since: Duration) -> bool {
        self.last_used(digest, Duration::MAX).is_some_and(|at| at >= since)
    }

    fn last_used(&self, digest: u64, now: Duration) -> Option<Duration> {
        if self.held.contains_key(&digest) || self.kept.uses.contains_key(&digest) {
            return Some(now);
        }
        self.touched.last(digest)
    }
}

impl Kept {
    /// Keeps nothing for this manifest any more; what it kept.
    fn remove(&mut self, root: &Root) -> BTreeSet<u64> {
        let digests = self.roots.remove(root).unwrap_or_default();
        for digest in &digests {
            let left = self.uses.get_mut(digest).map_or(0, |uses| {
                *uses -= 1;
                *uses
            });
            if left == 0 {
                self.uses.remove(digest);
            }
        }
        digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    fn digest(number: u32) -> Digest {
        let mut raw = [0; 32];
        raw[..4].copy_from_slice(&number.to_be_bytes());
        Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
    }

    /// Symptom: every request waited while a slow disk let a file go, again and again.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test makes its own threads")]
    fn f209_only_who_wants_what_is_being_removed_waits_for_the_disk() {
        let (leases, second) = (Leases::default(), Duration::from_secs);
        let (done, order) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let remove = || {
                for number in [1, 2] {
                    let (leases, done) = (&leases, done.clone());
                    scope.spawn(move || {
                        leases.touch(&digest(number), second(9));
                        done.send(number).unwrap();
                    });
                }
                let first = order.recv_timeout(second(10));
                std::thread::sleep(Duration::from_millis(20));
                done.send(0).unwrap();
                first
            };
            let first = leases.unless_wanted(&digest(1), second(5), remove);
            assert_eq!(first, Some(Ok(2)), "who wants another one does not wait");
        });
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1]);
        assert!(leases.table().being_removed.is_empty());
    }

    #[test]
    fn what_a_fetch_keeps_outlasts_every_touch_until_it_is_released() {
        let (leases, second) = (Leases::default(), Duration::from_secs);
        let app: RepositoryName = "app".parse().unwrap();
        leases.keep(&app, &digest(1), [digest(2), digest(3)].into_iter());
        leases.keep(&app, &digest(4), [digest(3)].into_iter());
        leases.forget_before(second(1000));
        let held = |number| leases.is_wanted(&digest(number), second(1000));
        assert_eq!([1, 2, 3, 4].map(held), [false, true, true, false]);
        // What is found out later of the same root is kept beside that.
        leases.keep(&app, &digest(1), [digest(5), digest(2)].into_iter());
        assert_eq!([2, 3, 5].map(held), [true, true, true]);
        leases.keep_only(second(999), |_, root| *root == digest(4));
        assert_eq!([2, 3, 5].map(held), [false, true, false]);
        assert!(
            leases.is_wanted(&digest(2), second(999)),
            "it counts as touched when it is released"
        );
        let many = (10..).take(KEPT_MAX).map(digest);
        leases.keep(&app, &digest(6), many);
        assert_eq!([3, 10].map(held), [true, false], "too many to keep");
    }
}

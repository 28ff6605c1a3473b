//! Unfinished content: pushes, and blobs half fetched from the parent. Both survive a restart.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::admission::{Admission, SparedContent};
use super::arrival::create;
use super::left::{self, Left};
use super::pieces::Pieces;
use super::removal;
use super::session::{GIVEN_UP_AFTER, Session};
use super::slots::{self, Slot};
pub use super::upload::Upload;
use crate::store::journal::layout::Layout;
use crate::store::{Shared, Store, StoreError};
use crate::sys::spawn::{self, Threads};
use crate::sys::{Disk, Sys};
use crate::types::limits::UPLOAD_TTL;
use crate::types::{Digest, RepositoryName};

/// A half-fetched blob is kept this long without progress: sync windows may be weeks apart.
const FETCH_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// All unfinished content of the node, by id.
#[derive(Default)]
pub(in crate::store) struct Uploads {
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
    pub(super) pieces: Pieces,
    pub(super) spared: SparedContent,
}

impl Store {
    /// Starts an upload for an account; fails with `Full` below the reserve, `IndexFull` where the
    /// index has no room and nothing is known to be damaged, `Unavailable` above the limit.
    pub async fn upload_start(
        &self,
        repository: &RepositoryName,
        account: &str,
    ) -> Result<Upload, StoreError> {
        let (shared, repository) = (self.shared().clone(), repository.clone());
        let account = account.to_owned();
        spawn::blocking(move || start(&shared, &repository, &account)).await
    }

    /// Takes an upload up again: `NotFound` when there is none of this id in this repository,
    /// `Conflict` while another request holds it. If bytes of an earlier request were lost
    /// because the disk was full or failed, that error is told once.
    pub async fn upload_resume(
        &self,
        repository: &RepositoryName,
        id: &str,
    ) -> Result<Upload, StoreError> {
        let session = self.shared().uploads.find(repository, id).ok_or(StoreError::NotFound)?;
        let mut upload = Upload::hold(self.shared(), session)?;
        upload.load().await?;
        Ok(upload)
    }

    /// The bytes received so far, without taking the upload.
    pub async fn upload_offset(
        &self,
        repository: &RepositoryName,
        id: &str,
    ) -> Result<u64, StoreError> {
        let session = self.shared().uploads.find(repository, id).ok_or(StoreError::NotFound)?;
        let shared = self.shared().clone();
        spawn::blocking_in(Threads::Uploads, move || session.offset(&shared)).await
    }

    /// The partial fetch of a blob, created or taken up where it stopped; its id is the digest.
    /// What cannot be read of it is fetched again. `Conflict` while another holds it; `Unreadable`
    /// when its file is of no use and cannot be removed.
    pub async fn fetch_resume(&self, digest: &Digest) -> Result<Upload, StoreError> {
        let mut upload = self.fetch_hold(digest)?;
        match upload.load().await {
            Err(StoreError::Io(error)) => {
                log::warn!("a partial fetch cannot be read, it begins anew id={digest}: {error}");
                upload.cancel().await?;
                upload = self.fetch_hold(digest)?;
                let again = upload.load().await;
                // Where it cannot be removed either, other fetches may work.
                let (shared, digest) = (self.shared().clone(), digest.clone());
                let is_there = move || shared.disk.exists(&fetch_path(&shared.layout, &digest));
                let is_stuck = spawn::blocking(is_there).await.unwrap_or(true);
                again.map_err(|error| match error {
                    StoreError::Io(text) if is_stuck => StoreError::Unreadable(text),
                    error => error,
                })?;
            }
            loaded => loaded?,
        }
        Ok(upload)
    }

    fn fetch_hold(&self, digest: &Digest) -> Result<Upload, StoreError> {
        let shared = self.shared();
        let (id, path) = (digest.to_string(), fetch_path(&shared.layout, digest));
        let now = shared.sys.clock.monotonic();
        let session =
            shared.uploads.find_or_add(&id, || Session::new(&id, path, None, "", now, None));
        Upload::hold(shared, session)
    }

    /// How much of a blob its partial fetch has, bytes. That counts as wanted now: it does not make
    /// room for the rest of what it belongs to.
    pub async fn fetched_so_far(&self, digest: &Digest) -> u64 {
        let Some(session) = self.shared().uploads.all().get(&digest.to_string()).cloned() else {
            return 0;
        };
        let shared = self.shared().clone();
        spawn::blocking(move || {
            session.touch(&shared);
            session.bytes(&shared)
        })
        .await
    }

    /// Removes uploads of which no bytes have come for a day, fetches for a month, and content that
    /// was moved aside by somebody who is gone. Blocks; to be called about every hour.
    pub fn sweep_uploads(&self) {
        sweep(self.shared());
        removal::remove_aside(self.shared());
        self.shared().keep_ballast();
    }
}

fn fetch_path(layout: &Layout, digest: &Digest) -> PathBuf {
    layout.uploads().join(format!("{}.{}", digest.algorithm().name(), digest.hex()))
}

fn start(
    shared: &Arc<Shared>,
    repository: &RepositoryName,
    account: &str,
) -> Result<Upload, StoreError> {
    // What takes the place of damaged content needs no rows, and only the digest at the end of an
    // upload tells whether it does.
    if !shared.damage.is_any() {
        shared.expect_rows()?;
    }
    shared.make_room(0)?;
    let id = shared.sys.rng.uuid();
    let path = shared.layout.uploads().join(&id);
    let now = shared.sys.clock.monotonic();
    let (kept, repository) = (shared.admission.nothing_of(repository), repository.clone());
    let name = repository.to_string();
    let session = Session::new(&id, path, Some(repository), account, now, Some(kept));
    let session = Arc::new(session);
    let fits = insert(shared, &session, false)
        || remove_idle(shared, account).is_some_and(|own| insert(shared, &session, own));
    if !fits {
        return Err(StoreError::Unavailable);
    }
    let upload = Upload::hold(shared, session.clone())?;
    // Not synced: an upload that is gone after a power cut is one that the client starts again.
    let named = create(shared, &session.meta_path()).and_then(|meta| {
        meta.write_all_at(format!("{name}\n{account}").as_bytes(), 0)?;
        create(shared, &session.path)
    });
    match named {
        Ok(file) => {
            let mut progress = session.progress();
            (progress.file, progress.loaded) = (Some(file), true);
        }
        Err(error) => {
            session.remove(shared);
            return Err(error);
        }
    }
    Ok(upload)
}

/// `false` when too many uploads are open.
fn insert(shared: &Shared, session: &Arc<Session>, in_turn: bool) -> bool {
    let mut all = shared.uploads.all();
    let (open, max) = (slots_of(&all, shared), shared.uploads_max);
    let room = slots::is_free(&open, max, &session.account, in_turn);
    if room {
        all.insert(session.id.clone(), session.clone());
    }
    room
}

fn slots_of(all: &BTreeMap<String, Arc<Session>>, shared: &Shared) -> Vec<Slot> {
    let now = shared.sys.clock.monotonic();
    let pushes = all.values().filter(|session| session.repository.is_some());
    let slot = |session: &Arc<Session>| Slot {
        id: session.id.clone(),
        account: session.account.clone(),
        idle: session.idle_for(now),
    };
    pushes.map(slot).collect()
}

/// Removes an upload that makes room for one of this account; whether it was one of its own. `None`
/// when there is none that nobody holds.
fn remove_idle(shared: &Shared, account: &str) -> Option<bool> {
    let all = shared.uploads.all().clone();
    let leaving = slots::leaving(&slots_of(&all, shared), shared.uploads_max, account);
    // A request that is slow has its upload all the same.
    let free = |session: &&Arc<Session>| !session.held.swap(true, Ordering::Acquire);
    let session = leaving.iter().filter_map(|id| all.get(id)).find(free)?;
    log::info!("an idle upload made room for another id={}", session.id);
    session.remove(shared);
    Some(session.account == account)
}

/// See [`Store::sweep_uploads`].
pub(in crate::store) fn sweep(shared: &Shared) {
    let now = shared.sys.clock.monotonic();
    let sessions: Vec<Arc<Session>> = shared.uploads.all().values().cloned().collect();
    for session in sessions {
        let limit = if session.repository.is_some() { UPLOAD_TTL } else { FETCH_TTL };
        if session.idle_for(now) < limit || session.held.swap(true, Ordering::Acquire) {
            continue;
        }
        log::info!("an unfinished upload was removed id={}", session.id);
        session.remove(shared);
    }
}

impl Uploads {
    /// Finds what earlier runs left, and clears up what is of no use.
    pub(in crate::store) fn open(
        sys: &Sys,
        disk: &dyn Disk,
        layout: &Layout,
        admission: &Admission,
    ) -> Result<Uploads, StoreError> {
        let uploads = Uploads::default();
        let now = sys.clock.monotonic();
        for left in left::find(sys, disk, layout)? {
            let Left { id, path, repository, account, idle, bytes } = left;
            let kept = repository.as_ref().map(|name| admission.nothing_of(name));
            let session = Session::new(&id, path, repository, &account, now, kept);
            session.idle().before = idle;
            session.keep_exactly(bytes);
            uploads.all().insert(id, Arc::new(session));
        }
        Ok(uploads)
    }

    pub(super) fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes room on a full disk, in this order, and its bytes: pushes before fetches, which
    /// would be made again, and of each what was left alone for longest.
    pub(in crate::store) fn given_up(&self, shared: &Shared) -> (Vec<Arc<Session>>, u64) {
        let given_up = self.left_alone(shared, |session| session.bytes(shared) > 0);
        let bytes = given_up.iter().map(|session| session.bytes(shared)).sum();
        (given_up, bytes)
    }

    /// Those of them that nobody has sent anything for long enough, in the same order.
    fn left_alone(&self, shared: &Shared, of: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let now = shared.sys.clock.monotonic();
        let all: Vec<Arc<Session>> = self.all().values().cloned().collect();
        let mut left: Vec<(bool, Reverse<Duration>, Arc<Session>)> = all
            .into_iter()
            .map(|session| (session.repository.is_none(), Reverse(session.idle_for(now)), session))
            .filter(|(_, idle, session)| idle.0 >= GIVEN_UP_AFTER && of(session))
            .collect();
        left.sort_by_key(|(is_fetch, idle, _)| (*is_fetch, *idle));
        left.into_iter().map(|(_, _, session)| session).collect()
    }

    /// The pushes to one repository that make room in its quota, the one that was left alone for
    /// longest first.
    pub(in crate::store) fn given_up_in(
        &self,
        shared: &Shared,
        repository: &RepositoryName,
    ) -> Vec<Arc<Session>> {
        // Whoever asks has its own upload, and has locked what that keeps.
        let makes_room = |session: &Session| {
            session.repository.as_ref() == Some(repository)
                && !session.held.load(Ordering::Acquire)
                && session.kept() > 0
        };
        self.left_alone(shared, makes_room)
    }

    fn find(&self, repository: &RepositoryName, id: &str) -> Option<Arc<Session>> {
        let session = self.all().get(id).cloned()?;
        (session.repository.as_ref() == Some(repository)).then_some(session)
    }

    fn find_or_add(&self, id: &str, make: impl FnOnce() -> Session) -> Arc<Session> {
        self.all().entry(id.to_owned()).or_insert_with(|| Arc::new(make())).clone()
    }
}

//! Unfinished content: pushes, and blobs half fetched from the parent. Both survive a restart.
//!
//! Each byte is written once and hashed while it is in memory. Bytes are gathered into pieces
//! that the blocking pool hashes and writes while the next piece is gathered. A session stays in
//! memory between requests, so that the next one goes on hashing; after a restart the file is
//! hashed again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::digest::{Context, SHA256, SHA512};
use smol::Task;

use super::blobs::{hash_file, install};
use super::leases::Lease;
use super::pieces::Pieces;
use super::slots::{self, Slot};
use crate::store::journal::layout::Layout;
use crate::store::{Shared, Store, StoreError};
use crate::sys::disk::DiskFile;
use crate::sys::{Disk, Sys, spawn};
use crate::types::digest::Algorithm;
use crate::types::limits::UPLOAD_TTL;
use crate::types::{Digest, RepositoryName};

/// A fetch is made durable each time it has grown by this, bytes.
const FETCH_SYNC_BYTES: u64 = 16 * 1024 * 1024;
/// A half-fetched blob is kept this long without progress: sync windows may be weeks apart.
const FETCH_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// On a full disk, one that nobody has touched for this long makes room: longer than a client takes
/// from one chunk to the next.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

/// All unfinished content of the node, by id.
#[derive(Default)]
pub(in crate::store) struct Uploads {
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
    pieces: Pieces,
}

/// One unfinished upload; lives from its start to its end, across requests.
pub(in crate::store) struct Session {
    id: String,
    path: PathBuf,
    /// Where it was started; `None` for a fetch.
    repository: Option<RepositoryName>,
    /// Who started it; empty for a fetch, and where an earlier version did not note it.
    account: String,
    /// A request has it.
    held: AtomicBool,
    /// Pieces to be written, in order.
    pending: Mutex<VecDeque<Vec<u8>>>,
    progress: Mutex<Progress>,
    idle: Mutex<Idle>,
}

/// How long no bytes of a session have come: asking for its state is no progress.
#[derive(Clone, Copy)]
struct Idle {
    /// Monotonic time of the last touch or, if that was in an earlier run, of the start.
    since: Duration,
    /// What had passed before that.
    before: Duration,
}

struct Progress {
    /// Open while bytes arrive; also says that `offset` and `hash` are those of the file.
    file: Option<Arc<dyn DiskFile>>,
    loaded: bool,
    offset: u64,
    synced: u64,
    hash: Context,
    /// Why pieces were dropped; told to the one who wrote them, or to the next holder.
    error: Option<StoreError>,
    gone: bool,
    /// Somebody removes its files, or has.
    removed: bool,
    spare: Vec<u8>,
}

/// An unfinished upload, held by one request at a time. Dropped, it keeps its bytes and can be
/// taken up again.
pub struct Upload {
    shared: Arc<Shared>,
    session: Arc<Session>,
    buffer: Vec<u8>,
    /// How much is gathered, bytes; 0 before the first.
    piece: usize,
    offset: u64,
    /// Where this handle took it up, and the hash of what was there.
    taken_up: (u64, Context),
    writing: Option<Task<Result<(), StoreError>>>,
    failed: Option<StoreError>,
    done: bool,
}

impl Store {
    /// Starts an upload for an account; fails with `Full` below the reserve, `Unavailable` above
    /// the limit.
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
        spawn::blocking(move || session.offset(&shared)).await
    }

    /// The partial fetch of a blob, created or taken up where it stopped; its id is the digest.
    /// What cannot be read of it is fetched again. `Conflict` while another holds it.
    pub async fn fetch_resume(&self, digest: &Digest) -> Result<Upload, StoreError> {
        let mut upload = self.fetch_hold(digest)?;
        match upload.load().await {
            Err(StoreError::Io(error)) => {
                log::warn!("a partial fetch cannot be read, it begins anew id={digest}: {error}");
                upload.cancel().await?;
                upload = self.fetch_hold(digest)?;
                upload.load().await?;
            }
            loaded => loaded?,
        }
        Ok(upload)
    }

    fn fetch_hold(&self, digest: &Digest) -> Result<Upload, StoreError> {
        let shared = self.shared();
        let (id, path) = (digest.to_string(), fetch_path(&shared.layout, digest));
        let now = shared.sys.clock.monotonic();
        let session = shared.uploads.find_or_add(&id, || Session::new(&id, path, None, "", now));
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

    /// Removes uploads of which no bytes have come for a day, and fetches for a month. Blocks; to
    /// be called about every hour.
    pub fn sweep_uploads(&self) {
        sweep(self.shared());
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
    shared.make_room(0)?;
    let id = shared.sys.rng.uuid();
    let path = shared.layout.uploads().join(&id);
    let now = shared.sys.clock.monotonic();
    let session = Arc::new(Session::new(&id, path, Some(repository.clone()), account, now));
    let fits = insert(shared, &session, false)
        || remove_idle(shared, account).is_some_and(|own| insert(shared, &session, own));
    if !fits {
        return Err(StoreError::Unavailable);
    }
    let upload = Upload::hold(shared, session.clone())?;
    // Not synced: an upload that is gone after a power cut is one that the client starts again.
    let named = shared.disk.create(&session.meta_path()).and_then(|meta| {
        meta.write_all_at(format!("{repository}\n{account}").as_bytes(), 0)?;
        shared.disk.create(&session.path)
    });
    match named {
        Ok(file) => {
            let mut progress = session.progress();
            (progress.file, progress.loaded) = (Some(file), true);
        }
        Err(error) => {
            session.remove(shared);
            return Err(error.into());
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
    ) -> Result<Uploads, StoreError> {
        let uploads = Uploads::default();
        let now = sys.clock.monotonic();
        for entry in disk.list(&layout.uploads())? {
            let path = layout.uploads().join(&entry.name);
            let mut account = String::new();
            let (id, repository) = match entry.name.split_once('.') {
                Some((uuid, "meta")) => {
                    if !disk.exists(&layout.uploads().join(uuid))? {
                        disk.remove(&path)?;
                    }
                    continue;
                }
                Some((_, "put")) => {
                    disk.remove(&path)?;
                    continue;
                }
                Some((algorithm, hex)) => (format!("{algorithm}:{hex}"), None),
                None => {
                    let meta = disk.read(&path.with_extension("meta"), 4096);
                    let meta = meta.ok().and_then(|meta| String::from_utf8(meta).ok());
                    let meta = meta.unwrap_or_default();
                    // Earlier versions wrote no account.
                    let (name, sender) = meta.split_once('\n').unwrap_or((&meta, ""));
                    let repository: Option<RepositoryName> = name.parse().ok();
                    sender.clone_into(&mut account);
                    if repository.is_none() {
                        disk.remove(&path)?;
                        continue;
                    }
                    (entry.name.clone(), repository)
                }
            };
            if repository.is_none() && id.parse::<Digest>().is_err() {
                continue;
            }
            let modified = disk.modified(&path)?;
            let session = Session::new(&id, path, repository, &account, now);
            if let (Some(wall), Some(modified)) = (sys.clock.wall(), modified) {
                session.idle().before = Duration::from_secs(wall.since(modified));
            }
            uploads.all().insert(id, Arc::new(session));
        }
        Ok(uploads)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What makes room on a full disk, in this order, and its bytes: pushes before fetches, which
    /// would be made again, and of each what was left alone for longest.
    pub(in crate::store) fn given_up(&self, shared: &Shared) -> (Vec<Arc<Session>>, u64) {
        let now = shared.sys.clock.monotonic();
        let all: Vec<Arc<Session>> = self.all().values().cloned().collect();
        let mut given_up: Vec<(bool, Reverse<Duration>, Arc<Session>)> = all
            .into_iter()
            .map(|session| (session.repository.is_none(), session.idle_for(now), session))
            .filter(|(_, idle, session)| *idle >= GIVEN_UP_AFTER && session.bytes(shared) > 0)
            .map(|(is_fetch, idle, session)| (is_fetch, Reverse(idle), session))
            .collect();
        given_up.sort_by_key(|(is_fetch, idle, _)| (*is_fetch, *idle));
        let bytes = given_up.iter().map(|(_, _, session)| session.bytes(shared)).sum();
        (given_up.into_iter().map(|(_, _, session)| session).collect(), bytes)
    }

    fn find(&self, repository: &RepositoryName, id: &str) -> Option<Arc<Session>> {
        let session = self.all().get(id).cloned()?;
        (session.repository.as_ref() == Some(repository)).then_some(session)
    }

    fn find_or_add(&self, id: &str, make: impl FnOnce() -> Session) -> Arc<Session> {
        self.all().entry(id.to_owned()).or_insert_with(|| Arc::new(make())).clone()
    }
}

impl Session {
    fn new(
        id: &str,
        path: PathBuf,
        repository: Option<RepositoryName>,
        account: &str,
        now: Duration,
    ) -> Session {
        let progress = Progress {
            file: None,
            loaded: false,
            offset: 0,
            synced: 0,
            hash: Context::new(&SHA256),
            error: None,
            gone: false,
            removed: false,
            spare: Vec::new(),
        };
        Session {
            id: id.to_owned(),
            path,
            repository,
            account: account.to_owned(),
            held: AtomicBool::new(false),
            pending: Mutex::default(),
            progress: Mutex::new(progress),
            idle: Mutex::new(Idle { since: now, before: Duration::ZERO }),
        }
    }

    fn meta_path(&self) -> PathBuf {
        self.path.with_extension("meta")
    }

    fn pending(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_for(&self, now: Duration) -> Duration {
        let idle = *self.idle();
        idle.before + now.saturating_sub(idle.since)
    }

    /// Hashes and writes the pieces that wait. Whoever calls it, they are taken in order; after
    /// an error they are dropped, so that no gap can arise.
    fn drain(&self, shared: &Shared) -> Result<(), StoreError> {
        let mut progress = self.progress();
        let mut result = match &progress.error {
            Some(error) => Err(error.clone()),
            None if progress.gone => Err(StoreError::NotFound),
            None => progress.load(shared, self),
        };
        let mut has_come = false;
        loop {
            let Some(mut piece) = self.pending().pop_front() else {
                break;
            };
            has_come = true;
            if result.is_ok() {
                result = progress.write(shared, self.repository.is_none(), &piece);
            }
            piece.clear();
            progress.spare = piece;
        }
        if let Err(error) = &result
            && !progress.gone
        {
            progress.error = Some(error.clone());
        }
        let ends = result == Err(StoreError::Full) && self.repository.is_some();
        drop(progress);
        if has_come {
            self.touch(shared);
        }
        if ends {
            // Its bytes would keep others from what it cannot use. A fetch goes on when it fits.
            log::info!("an upload that the disk has no room for was removed id={}", self.id);
            self.remove(shared);
        }
        result
    }

    /// What it takes on the disk.
    fn bytes(&self, shared: &Shared) -> u64 {
        shared.disk.file_len(&self.path).unwrap_or(0)
    }

    /// Removes it, unless somebody uses it.
    pub(in crate::store) fn evict(&self, shared: &Shared) {
        {
            // Whoever writes its last pieces may be the one who needs the room.
            let Ok(mut progress) = self.progress.try_lock() else { return };
            if self.held.swap(true, Ordering::Acquire) {
                return;
            }
            progress.gone = true;
        }
        log::info!("an upload that was given up made room on the full disk id={}", self.id);
        self.remove(shared);
    }

    /// Writes what waits; until the next request, no file stays open and no memory taken.
    fn rest(&self, shared: &Shared) -> Result<(), StoreError> {
        let drained = self.drain(shared);
        let mut progress = self.progress();
        (progress.file, progress.spare) = (None, Vec::new());
        drained
    }

    /// Cuts off what is behind the first bytes, of which the hash is known.
    fn rewind(&self, shared: &Shared, offset: u64, hash: Context) -> Result<(), StoreError> {
        let mut progress = self.progress();
        self.pending().clear();
        if progress.gone {
            return Err(StoreError::NotFound);
        }
        progress.load(shared, self)?;
        let file = progress.file.take().ok_or(StoreError::NotFound)?;
        // Where it cannot be cut, the file is hashed again.
        progress.loaded = false;
        file.set_len(offset)?;
        (progress.offset, progress.hash, progress.loaded) = (offset, hash, true);
        progress.synced = progress.synced.min(offset);
        progress.error = None;
        drop(progress);
        self.touch(shared);
        shared.forget_space();
        Ok(())
    }

    /// How much there is. After a restart that is the length of the file: to hash gigabytes first
    /// would take longer than a client waits.
    fn offset(&self, shared: &Shared) -> Result<u64, StoreError> {
        let loaded = self.progress().loaded;
        if loaded {
            // What went wrong is for the one who writes; the offset is true in any case.
            let _ = self.drain(shared);
        }
        let progress = self.progress();
        if progress.gone {
            return Err(StoreError::NotFound);
        }
        if progress.loaded || !shared.disk.exists(&self.path)? {
            return Ok(progress.offset);
        }
        Ok(shared.disk.open_rw(&self.path)?.len()?)
    }

    fn touch(&self, shared: &Shared) {
        *self.idle() = Idle { since: shared.sys.clock.monotonic(), before: Duration::ZERO };
    }

    /// Checks the digest and gives the content its name.
    fn finish(&self, shared: &Shared, digest: &Digest) -> Result<u64, StoreError> {
        self.drain(shared)?;
        let mut progress = self.progress();
        if progress.gone {
            return Err(StoreError::NotFound);
        }
        progress.load(shared, self)?;
        let file = progress.file.clone().ok_or(StoreError::NotFound)?;
        if file.len()? != progress.offset {
            // Somebody else wrote to the file: all that it has now is checked.
            progress.loaded = false;
            progress.load(shared, self)?;
        }
        let found = match digest.algorithm() {
            Algorithm::Sha256 => progress.hash.clone().finish(),
            Algorithm::Sha512 => hash_file(&*file, Context::new(&SHA512))?.0.finish(),
        };
        let len = progress.offset;
        // An upload that cannot be installed goes too: after a failed sync the disk may lack bytes
        // that a second sync, which succeeds, does not write again (fsync(2), "EIO").
        let installed = match found.as_ref() == digest.raw() {
            true => install(shared, &self.path, &*file, digest, len).map(|()| len),
            false => Err(StoreError::Invalid(format!(
                "the {len} bytes received do not have the digest {digest}"
            ))),
        };
        progress.gone = true;
        drop(progress);
        self.remove(shared);
        installed
    }

    /// Removes what is left of it, once: first on disk, then in memory. The next fetch of the same
    /// content has the same names, and cannot begin before.
    fn remove(&self, shared: &Shared) {
        {
            let mut progress = self.progress();
            progress.gone = true;
            progress.file = None;
            if std::mem::replace(&mut progress.removed, true) {
                return;
            }
        }
        let _ = shared.disk.remove(&self.path);
        if self.repository.is_some() {
            let _ = shared.disk.remove(&self.meta_path());
        }
        shared.uploads.all().remove(&self.id);
        shared.forget_space();
    }
}

impl Progress {
    /// Opens the file and, in the first use after a restart, hashes what is there.
    fn load(&mut self, shared: &Shared, session: &Session) -> Result<(), StoreError> {
        if self.file.is_none() {
            let path = &session.path;
            let exists = shared.disk.exists(path)?;
            let file = if exists { shared.disk.open_rw(path) } else { shared.disk.create(path) };
            self.file = Some(file?);
        }
        if let Some(file) = self.file.as_ref().filter(|_| !self.loaded) {
            (self.hash, self.offset) = hash_file(&**file, Context::new(&SHA256))?;
            self.synced = self.offset;
            self.loaded = true;
        }
        Ok(())
    }

    fn write(&mut self, shared: &Shared, fetch: bool, piece: &[u8]) -> Result<(), StoreError> {
        shared.take_space(piece.len() as u64)?;
        let file = self.file.clone().ok_or(StoreError::NotFound)?;
        if let Err(error) = file.write_all_at(piece, self.offset) {
            // Some of the piece may have fitted. It is cut off or, where that fails too, counted:
            // the file is then hashed again.
            self.loaded = file.set_len(self.offset).is_ok();
            return Err(error.into());
        }
        self.hash.update(piece);
        self.offset += piece.len() as u64;
        if fetch && self.offset - self.synced >= FETCH_SYNC_BYTES {
            if let Err(error) = file.sync_data() {
                // Bytes written since the last sync may be lost although the next one succeeds:
                // they are cut off, and fetched again.
                self.loaded = false;
                file.set_len(self.synced)?;
                return Err(error.into());
            }
            self.synced = self.offset;
        }
        Ok(())
    }
}

impl Upload {
    fn hold(shared: &Arc<Shared>, session: Arc<Session>) -> Result<Upload, StoreError> {
        if session.held.swap(true, Ordering::Acquire) {
            return Err(StoreError::Conflict("the upload is in use by another request".to_owned()));
        }
        let shared = shared.clone();
        Ok(Upload {
            shared,
            session,
            buffer: Vec::new(),
            piece: 0,
            offset: 0,
            taken_up: (0, Context::new(&SHA256)),
            writing: None,
            failed: None,
            done: false,
        })
    }

    /// Brings the session up to date after taking it.
    async fn load(&mut self) -> Result<(), StoreError> {
        let (shared, session) = (self.shared.clone(), self.session.clone());
        self.taken_up = spawn::blocking(move || {
            let drained = session.drain(&shared);
            let mut progress = session.progress();
            progress.error = None;
            drained.map(|()| (progress.offset, progress.hash.clone()))
        })
        .await?;
        self.offset = self.taken_up.0;
        Ok(())
    }

    /// Its id: a UUID, or the digest of a fetch.
    pub fn id(&self) -> &str {
        &self.session.id
    }

    /// Bytes received so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How much of what is written may be in memory at once, bytes: one piece that is gathered and
    /// one on its way to the disk.
    pub fn memory_bytes(&mut self) -> usize {
        2 * self.take_piece()
    }

    fn take_piece(&mut self) -> usize {
        if self.piece == 0 {
            self.piece = self.shared.uploads.pieces.take();
        }
        self.piece
    }

    /// Appends bytes: hashed and written once. `Full` below the reserve; after an error this
    /// handle is of no more use, but the upload can be resumed.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.take_piece();
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(self.piece.min(bytes.len().next_power_of_two()));
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.piece - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            self.offset += now.len() as u64;
            bytes = later;
            if self.buffer.len() >= self.piece {
                self.settle().await?;
                self.hand_over();
                let (shared, session) = (self.shared.clone(), self.session.clone());
                self.writing = Some(spawn::blocking_task(move || session.drain(&shared)));
            }
        }
        Ok(())
    }

    /// Waits for the piece that is being written.
    async fn settle(&mut self) -> Result<(), StoreError> {
        if let Some(writing) = &mut self.writing {
            let result = writing.await;
            self.writing = None;
            return result.map_err(|error| self.fail(error));
        }
        Ok(())
    }

    /// The writer of the bytes has been told; this handle writes no more.
    fn fail(&mut self, error: StoreError) -> StoreError {
        self.session.progress().error = None;
        self.failed = Some(error.clone());
        error
    }

    fn hand_over(&mut self) {
        if !self.buffer.is_empty() {
            let spare = self.session.progress.try_lock().map(|mut p| std::mem::take(&mut p.spare));
            let full = std::mem::replace(&mut self.buffer, spare.unwrap_or_default());
            self.session.pending().push_back(full);
        }
    }

    /// Writes what is in memory; until more comes, the upload takes none.
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        self.settle().await?;
        self.hand_over();
        self.shared.uploads.pieces.give_back(std::mem::take(&mut self.piece));
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let drained = spawn::blocking(move || session.rest(&shared)).await;
        drained.map_err(|error| self.fail(error))
    }

    /// Writes what is in memory and lets the upload go; returns the bytes received. Dropping
    /// does the same without telling whether it worked.
    pub async fn pause(mut self) -> Result<u64, StoreError> {
        self.flush().await?;
        self.done = true;
        self.session.held.store(false, Ordering::Release);
        Ok(self.offset)
    }

    /// Lets the upload go as it was when this handle took it up: what was written since can be
    /// sent again. `NotFound` when it has ended.
    pub async fn rewind(mut self) -> Result<(), StoreError> {
        if let Some(writing) = self.writing.take() {
            // Whether it was written is all the same.
            let _ = writing.await;
        }
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let (offset, hash) = self.taken_up.clone();
        let result = spawn::blocking(move || session.rewind(&shared, offset, hash)).await;
        self.done = true;
        self.session.held.store(false, Ordering::Release);
        result
    }

    /// Checks the digest and makes the content durable under its name; returns its length, and
    /// what keeps it until it is linked.
    /// `Invalid` when the digest differs. After either error, or when the content cannot be made
    /// durable, the upload is gone; an error of bytes that came before leaves it to be resumed.
    pub async fn finish(mut self, digest: &Digest) -> Result<(Lease, u64), StoreError> {
        self.settle().await?;
        self.hand_over();
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let lease = shared.lease(digest);
        let finish = move || session.finish(&shared, lease.digest()).map(|len| (lease, len));
        let result = spawn::blocking(finish).await;
        self.done = matches!(result, Ok(_) | Err(StoreError::Invalid(_)));
        result.map_err(|error| self.fail(error))
    }

    /// Removes the upload.
    pub async fn cancel(mut self) -> Result<(), StoreError> {
        self.done = true;
        let (shared, session) = (self.shared.clone(), self.session.clone());
        spawn::blocking(move || session.remove(&shared)).await;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            writing.detach();
        }
        self.shared.uploads.pieces.give_back(self.piece);
        if self.done {
            return;
        }
        if self.failed.is_none() {
            self.hand_over();
        }
        let (shared, session) = (self.shared.clone(), self.session.clone());
        session.held.store(false, Ordering::Release);
        spawn::blocking_task(move || {
            let _ = session.rest(&shared);
        })
        .detach();
    }
}

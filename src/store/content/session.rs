//! One unfinished upload: its file, how far it is, and the hash of what is there.
//!
//! Each byte is written once and hashed while it is in memory. A session stays in memory between
//! requests, so that the next one goes on hashing; after a restart the file is hashed again, in
//! steps and without locking the session.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::digest::{Context, SHA256};

use super::admission::KeptRoom;
use super::arrival::{create, install, make_durable};
use super::hashing::hash_file;
use super::leases::Lease;
use crate::store::{Shared, StoreError};
use crate::sys::disk::DiskFile;
use crate::sys::spawn::{self, Threads};
use crate::types::digest::Algorithm;
use crate::types::{Digest, RepositoryName};

/// A fetch is made durable each time it has grown by this, bytes.
const FETCH_SYNC_BYTES: u64 = 16 * 1024 * 1024;
/// On a full disk, one that nobody has touched for this long makes room: longer than a client takes
/// from one chunk to the next.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);
/// How often a file is hashed to which somebody else writes meanwhile.
const HASHED_AT_MOST: usize = 3;

/// One unfinished upload; lives from its start to its end, across requests.
pub(in crate::store) struct Session {
    pub(super) id: String,
    pub(super) path: PathBuf,
    /// Where it was started; `None` for a fetch.
    pub(super) repository: Option<RepositoryName>,
    /// Who started it; empty for a fetch, and where an earlier version did not note it.
    pub(super) account: String,
    /// A request has it.
    pub(super) held: AtomicBool,
    /// Pieces to be written, in order.
    pending: Mutex<VecDeque<Vec<u8>>>,
    pub(super) progress: Mutex<Progress>,
    idle: Mutex<Idle>,
    /// What it keeps of the quota of its repository; `None` for a fetch.
    kept: Option<Mutex<KeptRoom>>,
}

/// How long no bytes of a session have come: asking for its state is no progress.
#[derive(Clone, Copy)]
pub(super) struct Idle {
    /// Monotonic time of the last touch or, if that was in an earlier run, of the start.
    since: Duration,
    /// What had passed before that.
    pub(super) before: Duration,
}

pub(super) struct Progress {
    /// Open while bytes arrive.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// `offset` and `hash` are those of the file.
    pub(super) loaded: bool,
    pub(super) offset: u64,
    synced: u64,
    pub(super) hash: Context,
    /// Why pieces were dropped; told to the one who wrote them, or to the next holder.
    pub(super) error: Option<StoreError>,
    gone: bool,
    /// Somebody removes its files, or has.
    removed: bool,
    pub(super) spare: Vec<u8>,
}

impl Session {
    pub(super) fn new(
        id: &str,
        path: PathBuf,
        repository: Option<RepositoryName>,
        account: &str,
        now: Duration,
        kept: Option<KeptRoom>,
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
            kept: kept.map(Mutex::new),
        }
    }

    pub(super) fn meta_path(&self) -> PathBuf {
        self.path.with_extension("meta")
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keeping(&self) -> Option<MutexGuard<'_, KeptRoom>> {
        self.kept.as_ref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it keeps of a quota, bytes.
    pub(in crate::store) fn kept(&self) -> u64 {
        self.keeping().map_or(0, |kept| kept.bytes())
    }

    pub(super) fn keep_exactly(&self, bytes: u64) {
        if let Some(mut kept) = self.keeping() {
            kept.set(bytes);
        }
    }

    pub(super) fn idle_for(&self, now: Duration) -> Duration {
        let idle = *self.idle();
        idle.before + now.saturating_sub(idle.since)
    }

    /// Hashes what the file has, unless that is known. Only the holder of the session may call it:
    /// nobody else writes to it or removes it meanwhile. When the future is dropped, nothing has
    /// changed, and the next holder begins again.
    pub(super) async fn load(self: &Arc<Session>, shared: &Arc<Shared>) -> Result<(), StoreError> {
        for _ in 0..HASHED_AT_MOST {
            let (session, opening) = (self.clone(), shared.clone());
            let open = move || session.opened(&opening);
            let (file, is_loaded) = spawn::blocking_in(Threads::Uploads, open).await?;
            if is_loaded {
                return Ok(());
            }
            let (hash, len) = hash_whole(&file, Algorithm::Sha256).await?;
            let session = self.clone();
            let loaded = move || session.loaded(&*file, hash, len);
            if spawn::blocking_in(Threads::Uploads, loaded).await? {
                return Ok(());
            }
        }
        Err(self.is_written_to())
    }

    fn opened(&self, shared: &Shared) -> Result<(Arc<dyn DiskFile>, bool), StoreError> {
        let mut progress = self.progress();
        if progress.gone {
            return Err(StoreError::NotFound);
        }
        Ok((progress.open(shared, self)?, progress.loaded))
    }

    /// The first `len` bytes of the file were hashed. `false` when it has another length: somebody
    /// else wrote to it.
    fn loaded(&self, file: &dyn DiskFile, hash: Context, len: u64) -> Result<bool, StoreError> {
        let mut progress = self.progress();
        if progress.loaded {
            // The next holder has hashed the file meanwhile.
            return Ok(true);
        }
        if file.len()? != len {
            return Ok(false);
        }
        (progress.hash, progress.offset, progress.synced) = (hash, len, len);
        progress.loaded = true;
        Ok(true)
    }

    fn is_written_to(&self) -> StoreError {
        StoreError::Conflict(format!("somebody else writes to the upload {}", self.id))
    }

    /// Hashes and writes the pieces that wait. Whoever calls it, they are taken in order; after
    /// an error they are dropped, so that no gap can arise.
    pub(super) fn drain(&self, shared: &Shared) -> Result<(), StoreError> {
        let mut progress = self.progress();
        let mut result = match &progress.error {
            Some(error) => Err(error.clone()),
            None if progress.gone => Err(StoreError::NotFound),
            None => Ok(()),
        };
        let mut has_come = false;
        loop {
            let Some(mut piece) = self.pending().pop_front() else {
                break;
            };
            has_come = true;
            if result.is_ok() {
                result = progress.write(shared, self, &piece);
            }
            piece.clear();
            let spare = std::mem::replace(&mut progress.spare, piece);
            shared.uploads.pieces.keep(&shared.sys, spare);
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
    pub(super) fn bytes(&self, shared: &Shared) -> u64 {
        shared.disk.file_len(&self.path).unwrap_or(0)
    }

    /// Removes it, unless somebody uses it, or has since it was found given up.
    pub(in crate::store) fn evict(&self, shared: &Shared) {
        {
            // Whoever writes its last pieces may be the one who needs the room.
            let Ok(mut progress) = self.progress.try_lock() else { return };
            let is_used = || self.idle_for(shared.sys.clock.monotonic()) < GIVEN_UP_AFTER;
            if is_used() || self.held.swap(true, Ordering::Acquire) {
                return;
            }
            if is_used() {
                self.held.store(false, Ordering::Release);
                return;
            }
            progress.gone = true;
        }
        log::info!("an upload that was given up made room id={}", self.id);
        self.remove(shared);
    }

    /// Writes what waits; until the next request, no file stays open and no memory taken, but for
    /// the buffers that all uploads share.
    pub(super) fn rest(&self, shared: &Shared) -> Result<(), StoreError> {
        let drained = self.drain(shared);
        let mut progress = self.progress();
        progress.file = None;
        shared.uploads.pieces.keep(&shared.sys, std::mem::take(&mut progress.spare));
        drained
    }

    /// Cuts off what is behind the first bytes, of which the hash is known.
    pub(super) fn rewind(
        &self,
        shared: &Shared,
        offset: u64,
        hash: Context,
    ) -> Result<(), StoreError> {
        let mut progress = self.progress();
        self.pending().clear();
        if progress.gone {
            return Err(StoreError::NotFound);
        }
        let file = progress.open(shared, self)?;
        progress.file = None;
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
    pub(super) fn offset(&self, shared: &Shared) -> Result<u64, StoreError> {
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

    pub(super) fn touch(&self, shared: &Shared) {
        *self.idle() = Idle { since: shared.sys.clock.monotonic(), before: Duration::ZERO };
    }

    /// Checks the digest and gives the content its name; returns its length. Only the holder of the
    /// session may call it. The file is hashed before where its hash is not known.
    pub(super) async fn finish(
        self: &Arc<Session>,
        shared: &Arc<Shared>,
        digest: &Digest,
    ) -> Result<(Lease, u64), StoreError> {
        let mut sha512 = None;
        for _ in 0..HASHED_AT_MOST {
            let (session, shared_too, digest) = (self.clone(), shared.clone(), digest.clone());
            let algorithm = digest.algorithm();
            let finish = move || session.finish_hashed(&shared_too, &digest, sha512);
            if let Some(finished) = spawn::blocking_in(Threads::Uploads, finish).await? {
                return Ok(finished);
            }
            self.load(shared).await?;
            sha512 = match algorithm {
                Algorithm::Sha256 => None,
                Algorithm::Sha512 => {
                    let (session, shared) = (self.clone(), shared.clone());
                    let open = move || session.opened(&shared);
                    let (file, _) = spawn::blocking_in(Threads::Uploads, open).await?;
                    Some(hash_whole(&file, algorithm).await?)
                }
            };
        }
        Err(self.is_written_to())
    }

    /// See [`Session::finish`]. `None` when the file has to be hashed first.
    fn finish_hashed(
        &self,
        shared: &Arc<Shared>,
        digest: &Digest,
        sha512: Option<(Context, u64)>,
    ) -> Result<Option<(Lease, u64)>, StoreError> {
        self.drain(shared)?;
        let mut progress = self.progress();
        if progress.gone {
            return Err(StoreError::NotFound);
        }
        let file = progress.open(shared, self)?;
        // A file to which somebody else wrote is hashed again.
        progress.loaded &= file.len()? == progress.offset;
        let hash = match digest.algorithm() {
            Algorithm::Sha256 => Some((progress.hash.clone(), progress.offset)),
            Algorithm::Sha512 => sha512,
        };
        let hash = hash.filter(|(_, hashed)| progress.loaded && *hashed == progress.offset);
        let Some((hash, _)) = hash else {
            return Ok(None);
        };
        let found = hash.finish();
        let len = progress.offset;
        // An upload that cannot be made durable goes too: after a failed sync the disk may lack
        // bytes that a second sync, which succeeds, does not write again (fsync(2), "EIO").
        let durable = match found.as_ref() == digest.raw() {
            true => {
                // The lease is taken no earlier: an upload of other bytes keeps nothing of the
                // content that it names.
                let lease = shared.lease(digest);
                make_durable(shared, &*file, digest, len).map(|()| lease)
            }
            false => Err(StoreError::Invalid(format!(
                "the {len} bytes received do not have the digest {digest}"
            ))),
        };
        let is_whole = durable.is_ok();
        let installed = durable.and_then(|lease| {
            install(shared, &self.path, digest, len)?;
            Ok(Some((lease, len)))
        });
        // A fetch that only got no name has come: it is not fetched again.
        if is_whole && installed.is_err() && self.repository.is_none() {
            return installed;
        }
        progress.gone = true;
        drop(progress);
        self.remove(shared);
        installed
    }

    /// Removes what is left of it, once: first on disk, then in memory. The next fetch of the same
    /// content has the same names, and cannot begin before.
    pub(super) fn remove(&self, shared: &Shared) {
        {
            let mut progress = self.progress();
            progress.gone = true;
            progress.file = None;
            if std::mem::replace(&mut progress.removed, true) {
                return;
            }
        }
        self.keep_exactly(0);
        let _ = shared.disk.remove(&self.path);
        if self.repository.is_some() {
            let _ = shared.disk.remove(&self.meta_path());
        }
        shared.uploads.all().remove(&self.id);
        shared.forget_space();
    }
}

impl Progress {
    /// Opens the file. Where it is not as long as it was when it was closed, somebody else has
    /// removed or changed it: it is hashed again.
    pub(super) fn open(
        &mut self,
        shared: &Shared,
        session: &Session,
    ) -> Result<Arc<dyn DiskFile>, StoreError> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let path = &session.path;
        let file = match shared.disk.open_rw(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(shared, path)?,
            opened => shared.unmade.note(path, opened)?,
        };
        self.loaded &= file.len()? == self.offset;
        self.file = Some(file.clone());
        Ok(file)
    }

    fn write(
        &mut self,
        shared: &Shared,
        session: &Session,
        piece: &[u8],
    ) -> Result<(), StoreError> {
        let file = self.open(shared, session)?;
        if !self.loaded {
            // Whoever holds the session has loaded it, and writes no more after an error.
            return Err(StoreError::Io(format!("the upload {} is not hashed", session.id)));
        }
        let _taken = shared.take_space(piece.len() as u64)?;
        if let Err(error) = file.write_all_at(piece, self.offset) {
            // Some of the piece may have fitted. It is cut off or, where that fails too, counted:
            // the file is then hashed again.
            self.loaded = file.set_len(self.offset).is_ok();
            return Err(error.into());
        }
        self.hash.update(piece);
        self.offset += piece.len() as u64;
        if session.repository.is_none() && self.offset - self.synced >= FETCH_SYNC_BYTES {
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

async fn hash_whole(
    file: &Arc<dyn DiskFile>,
    algorithm: Algorithm,
) -> Result<(Context, u64), StoreError> {
    let context = Context::new(algorithm.function());
    Ok(hash_file(file, context, &mut |_| spawn::yield_now()).await?)
}

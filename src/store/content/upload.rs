//! An unfinished upload in the hands of one request.
//!
//! Bytes are gathered into pieces that the blocking pool hashes and writes while the next piece is
//! gathered.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ring::digest::{Context, SHA256};
use smol::Task;

use super::admission::{KeptRoom, Spared};
use super::leases::Lease;
use super::session::Session;
use crate::store::{Shared, StoreError};
use crate::sys::spawn::{self, Threads};
use crate::types::Digest;

/// Why an upload of what is there already has to wait for its turn.
const BEING_BROUGHT: &str = "another upload brings this content, which the repository has already; \
                             beside that one there is no room for it: try again when it is over";

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
    /// Where what was announced ends, bytes.
    announced: u64,
    /// There is memory for pieces until the next flush.
    gathers: bool,
    /// What is in its repository already costs nothing of the quota.
    spared: Option<Spared>,
    /// Another upload is spared for the same content.
    waits_for_spared: bool,
    done: bool,
}

impl Upload {
    pub(super) fn hold(shared: &Arc<Shared>, session: Arc<Session>) -> Result<Upload, StoreError> {
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
            announced: 0,
            gathers: false,
            spared: None,
            waits_for_spared: false,
            done: false,
        })
    }

    /// Brings the session up to date after taking it.
    pub(super) async fn load(&mut self) -> Result<(), StoreError> {
        self.taken_up = loop {
            let (shared, session) = (self.shared.clone(), self.session.clone());
            let drain = move || {
                let drained = session.drain(&shared);
                let mut progress = session.progress();
                progress.error = None;
                drained?;
                progress.open(&shared, &session)?;
                let known = progress.loaded.then(|| (progress.offset, progress.hash.clone()));
                Ok::<_, StoreError>(known)
            };
            match spawn::blocking_in(Threads::Uploads, drain).await? {
                Some(known) => break known,
                None => self.session.load(&self.shared).await?,
            }
        };
        self.offset = self.taken_up.0;
        self.session.keep_exactly(self.offset);
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

    /// The repository has the content already, which is so long: this upload keeps nothing of the
    /// quota, unless more comes, and ends with the request that holds it. Not where another one is
    /// spared for the same: what came of it many times over would count nowhere.
    pub fn spare_quota(&mut self, digest: &Digest, len: u64) {
        self.spared = self.spared.take().or_else(|| self.spare(digest, len));
        self.waits_for_spared = !self.is_spared();
        if self.is_spared() && self.offset <= len {
            self.session.keep_exactly(0);
        }
    }

    fn spare(&self, digest: &Digest, len: u64) -> Option<Spared> {
        Spared::of(&self.shared, self.session.repository.clone()?, digest, len)
    }

    /// Before so many bytes more come: `Quota` or `Full` when there is no room for them, even after
    /// uploads that were given up have made room. What they take of the quota is kept for them.
    pub async fn expect(&mut self, bytes: u64) -> Result<(), StoreError> {
        if bytes > 0 {
            let shared = self.shared.clone();
            spawn::blocking(move || shared.make_room(bytes)).await?;
        }
        self.announced = self.offset.saturating_add(bytes);
        self.keep(self.announced).await
    }

    /// Whether it ends with the request that holds it: what came is in the repository already, and
    /// no quota counts it.
    fn is_spared(&self) -> bool {
        self.spared.is_some()
    }

    async fn keep(&self, bytes: u64) -> Result<(), StoreError> {
        let fits = match self.session.keeping() {
            Some(mut kept) if bytes > self.spared.as_ref().map_or(0, |spared| spared.len) => {
                self.shared.keep(&mut kept, bytes)
            }
            _ => Ok(()),
        };
        if !matches!(fits, Err(StoreError::Quota(_) | StoreError::QuotaKept(_))) {
            return fits;
        }
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let fits = spawn::blocking(move || match session.keeping() {
            Some(mut kept) => shared.keep_in_turn(&mut kept, bytes),
            None => Ok(()),
        });
        match fits.await {
            Err(StoreError::Quota(_)) if self.waits_for_spared => {
                Err(StoreError::QuotaKept(BEING_BROUGHT.to_owned()))
            }
            fits => fits,
        }
    }

    /// What it keeps of the quota, to be held until its content is linked.
    pub fn take_kept(&mut self) -> Option<KeptRoom> {
        self.session.keeping().map(|mut kept| kept.take())
    }

    /// How much of what is written may be in memory at once, bytes: one piece that is gathered and
    /// one on its way to the disk.
    pub fn memory_bytes(&mut self) -> usize {
        2 * self.take_piece()
    }

    /// There is memory for as much.
    pub fn gather(&mut self) {
        self.gathers = true;
    }

    fn take_piece(&mut self) -> usize {
        if self.piece == 0 {
            self.piece = self.shared.uploads.pieces.take();
        }
        self.piece
    }

    /// Appends bytes: hashed and written once. `Quota` when the repository has no room for them,
    /// `Full` below the reserve; after an error this handle is of no more use, but the upload can
    /// be resumed.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let end = self.offset.saturating_add(bytes.len() as u64);
        if end > self.session.kept() {
            self.keep(end).await?;
        }
        self.take_piece();
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.piece - self.buffer.len()));
            self.make_space(now.len());
            self.buffer.extend_from_slice(now);
            self.offset += now.len() as u64;
            bytes = later;
            if self.buffer.len() >= self.piece {
                self.settle().await?;
                self.hand_over();
                let (shared, session) = (self.shared.clone(), self.session.clone());
                let write = move || session.drain(&shared);
                self.writing = Some(spawn::blocking_task(Threads::Uploads, write));
            }
        }
        Ok(())
    }

    /// Makes space for so many bytes more of a piece. Where there is memory for it that is all of
    /// the piece at once, or all of a small body: to grow step by step would touch twice as much.
    fn make_space(&mut self, more: usize) {
        let needed = self.buffer.len() + more;
        if needed <= self.buffer.capacity() {
            return;
        }
        let left = self.announced.saturating_sub(self.offset).saturating_add(needed as u64);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let wanted = match self.buffer.is_empty() {
            _ if !self.gathers => needed.next_power_of_two(),
            true => left.saturating_sub(more).max(needed),
            false => self.piece,
        };
        let wanted = wanted.min(self.piece);
        let spare = match wanted == self.piece && self.gathers {
            true => self.shared.uploads.pieces.spare(),
            false => None,
        };
        match spare.filter(|spare| spare.capacity() == wanted) {
            Some(mut spare) => {
                spare.extend_from_slice(&self.buffer);
                self.buffer = spare;
            }
            None => self.buffer.reserve_exact(wanted - self.buffer.len()),
        }
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
        self.gathers = false;
        let pieces = &self.shared.uploads.pieces;
        pieces.give_back(std::mem::take(&mut self.piece));
        pieces.keep(&self.shared.sys, std::mem::take(&mut self.buffer));
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let rest = move || session.rest(&shared);
        let drained = spawn::blocking_in(Threads::Uploads, rest).await;
        drained.map_err(|error| self.fail(error))
    }

    /// Writes what is in memory and lets the upload go; returns the bytes received. Dropping
    /// does the same without telling whether it worked.
    pub async fn pause(mut self) -> Result<u64, StoreError> {
        self.flush().await?;
        self.let_go();
        Ok(self.offset)
    }

    /// Lets the upload go as it was when this handle took it up: what was written since can be
    /// sent again. `NotFound` when it has ended. A spared one ends here.
    pub async fn rewind(mut self) -> Result<(), StoreError> {
        if self.is_spared() {
            return self.cancel().await;
        }
        if let Some(writing) = self.writing.take() {
            // Whether it was written is all the same.
            let _ = writing.await;
        }
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let (offset, hash) = self.taken_up.clone();
        let rewind = move || session.rewind(&shared, offset, hash);
        let result = spawn::blocking_in(Threads::Uploads, rewind).await;
        self.offset = offset;
        self.let_go();
        result
    }

    /// Another request may take it up.
    fn let_go(&mut self) {
        self.done = true;
        self.keep_what_came();
        self.session.held.store(false, Ordering::Release);
    }

    /// What was announced and has not come costs nothing.
    fn keep_what_came(&self) {
        let bytes = self.offset.min(self.session.kept());
        self.session.keep_exactly(bytes);
    }

    /// Checks the digest and makes the content durable under its name; returns its length, and
    /// what keeps it until it is linked.
    /// `Invalid` when the digest differs. After either error, or when the content cannot be made
    /// durable, the upload is gone; an error of bytes that came before leaves it to be resumed.
    pub async fn finish(mut self, digest: &Digest) -> Result<(Lease, u64), StoreError> {
        self.settle().await?;
        self.hand_over();
        let result = self.session.finish(&self.shared, digest).await;
        self.done = matches!(result, Ok(_) | Err(StoreError::Invalid(_)));
        result.map_err(|error| self.fail(error))
    }

    /// Removes the upload.
    pub async fn cancel(mut self) -> Result<(), StoreError> {
        let (shared, session) = (self.shared.clone(), self.session.clone());
        spawn::blocking_in(Threads::Uploads, move || session.remove(&shared)).await;
        // A caller that drops this future before leaves the session free for the next one.
        self.done = true;
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
        let (shared, session) = (self.shared.clone(), self.session.clone());
        if self.is_spared() {
            let remove = move || session.remove(&shared);
            spawn::blocking_task(Threads::Uploads, remove).detach();
            return;
        }
        if self.failed.is_none() {
            self.hand_over();
        }
        self.keep_what_came();
        session.held.store(false, Ordering::Release);
        let rest = move || {
            let _ = session.rest(&shared);
        };
        spawn::blocking_task(Threads::Uploads, rest).detach();
    }
}

#[cfg(test)]
mod tests {
    use crate::store::registry::manifests::testing::store;

    #[test]
    fn f209_a_body_that_is_announced_takes_the_memory_of_its_bytes_at_once_and_no_more() {
        smol::block_on(async {
            let store = store();
            for (announced, steps, expected) in [
                (100_000, &[1_000, 4_000, 60_000][..], 100_000),
                // Nothing says how much comes.
                (0, &[1_000, 4_000], 512 * 1024),
            ] {
                let mut upload = store.upload_start(&"app".parse().unwrap(), "").await.unwrap();
                upload.expect(announced).await.unwrap();
                upload.gather();
                for step in steps {
                    upload.write(&vec![7; *step]).await.unwrap();
                }
                assert_eq!(upload.buffer.capacity(), expected, "{announced}");
            }
        });
    }
}

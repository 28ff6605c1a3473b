//! Unfinished content: pushes, and blobs half fetched from the parent. Both survive a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::digest::Context;

use super::blobs::{hash_file, hasher};
use super::{Inner, Store, StoreError};
use crate::sys::disk::DiskFile;
use crate::sys::spawn::blocking;
use crate::types::digest::Algorithm;
use crate::types::limits::UPLOAD_TTL;
use crate::types::{Digest, RepositoryName};

/// Bytes gathered before they are written: one job of the pool for each.
const PIECE_BYTES: usize = 256 * 1024;
/// A fetch is made durable each time it has grown by this much, so that a power cut costs no more.
const FETCH_SYNC_BYTES: u64 = 16 * 1024 * 1024;

/// Uploads of this process: who holds one, and what has been hashed.
#[derive(Default)]
pub(super) struct Uploads {
    held: Mutex<BTreeSet<String>>,
    /// Hashes of uploads at rest, with the length they cover; lost on a restart.
    hashed: Mutex<BTreeMap<String, (u64, Context)>>,
}

/// An unfinished upload, held by one request at a time. When it is dropped its bytes stay.
pub struct Upload {
    inner: Arc<Inner>,
    id: String,
    algorithm: Algorithm,
    is_fetch: bool,
    file: Arc<dyn DiskFile>,
    hash: Option<Context>,
    /// Bytes in the file.
    written: u64,
    /// Bytes made durable.
    synced: u64,
    /// Bytes received, hashed, and not yet in the file.
    pending: Vec<u8>,
}

impl Store {
    /// Starts an upload; fails with `Full` below the reserve, `Unavailable` above the limit.
    pub async fn upload_start(&self, repository: &RepositoryName) -> Result<Upload, StoreError> {
        let inner = self.inner.clone();
        let repository = repository.clone();
        let id = inner.sys.rng.uuid();
        blocking(move || {
            inner.check_space()?;
            let entries = inner.disk.list(&inner.layout.uploads())?;
            let open = entries.iter().filter(|entry| entry.name.ends_with(".repository")).count();
            if open >= inner.options.uploads_max {
                return Err(StoreError::Unavailable);
            }
            let hold = Hold::take(&inner, &id)?;
            let file = inner.disk.create(&inner.data_path(&id))?;
            // Not synced: an upload that a power cut takes away is one that the client repeats.
            let owner = inner.disk.create(&inner.owner_path(&id))?;
            owner.write_all_at(repository.as_str().as_bytes(), 0)?;
            hold.keep();
            Ok(Upload::new(inner, id, Algorithm::Sha256, false, file, 0, None))
        })
        .await
    }

    /// Takes an upload up again: `NotFound` when there is none of this id in this repository,
    /// `Conflict` while another request holds it.
    pub async fn upload_resume(
        &self,
        repository: &RepositoryName,
        id: &str,
    ) -> Result<Upload, StoreError> {
        let (inner, repository, id) = (self.inner.clone(), repository.clone(), id.to_owned());
        blocking(move || {
            inner.check_owner(&repository, &id)?;
            inner.open_upload(id, Algorithm::Sha256, false)
        })
        .await
    }

    /// The bytes received so far, without taking the upload.
    pub async fn upload_offset(
        &self,
        repository: &RepositoryName,
        id: &str,
    ) -> Result<u64, StoreError> {
        let (inner, repository, id) = (self.inner.clone(), repository.clone(), id.to_owned());
        blocking(move || {
            inner.check_owner(&repository, &id)?;
            Ok(inner.disk.file_len(&inner.data_path(&id))?)
        })
        .await
    }

    /// The partial fetch of a blob, created or taken up where it stopped; its id is the digest.
    pub async fn fetch_resume(&self, digest: &Digest) -> Result<Upload, StoreError> {
        let (inner, digest) = (self.inner.clone(), digest.clone());
        blocking(move || {
            inner.check_space()?;
            let id = format!("{}-{}", digest.algorithm().name(), digest.hex());
            let path = inner.data_path(&id);
            if !inner.disk.exists(&path)? {
                inner.disk.create(&path)?;
                inner.disk.sync_dir(&inner.layout.uploads())?;
            }
            inner.open_upload(id, digest.algorithm(), true)
        })
        .await
    }

    /// Removes what nobody has added to for a day; returns how many.
    pub async fn sweep_uploads(&self) -> Result<u64, StoreError> {
        let inner = self.inner.clone();
        blocking(move || inner.sweep(UPLOAD_TTL)).await
    }
}

impl Inner {
    fn data_path(&self, id: &str) -> PathBuf {
        self.layout.uploads().join(format!("{id}.part"))
    }

    fn owner_path(&self, id: &str) -> PathBuf {
        self.layout.uploads().join(format!("{id}.repository"))
    }

    fn check_owner(&self, repository: &RepositoryName, id: &str) -> Result<(), StoreError> {
        let uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if !uuid {
            return Err(StoreError::NotFound);
        }
        match self.disk.read(&self.owner_path(id), 1024) {
            Ok(owner) if owner == repository.as_str().as_bytes() => Ok(()),
            Ok(_) => Err(StoreError::NotFound),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(StoreError::NotFound),
            Err(error) => Err(error.into()),
        }
    }

    fn open_upload(
        self: Arc<Self>,
        id: String,
        algorithm: Algorithm,
        is_fetch: bool,
    ) -> Result<Upload, StoreError> {
        let hold = Hold::take(&self, &id)?;
        let file = self.disk.open_rw(&self.data_path(&id)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => StoreError::NotFound,
            _ => error.into(),
        })?;
        let len = file.len()?;
        let known = lock(&self.uploads.hashed).remove(&id).filter(|(covers, _)| *covers == len);
        let hash = match known {
            Some((_, hash)) => hash,
            // After a restart, or a write that failed half-way: read what is there.
            None => hash_file(&*file, len, algorithm)?,
        };
        hold.keep();
        Ok(Upload::new(self, id, algorithm, is_fetch, file, len, Some(hash)))
    }

    fn sweep(&self, ttl: Duration) -> Result<u64, StoreError> {
        let Some(now) = self.sys.clock.wall() else {
            // Without a clock nobody can say how old a file is.
            return Ok(0);
        };
        let folder = self.layout.uploads();
        let mut swept = 0;
        for entry in self.disk.list(&folder)? {
            let path = folder.join(&entry.name);
            let id = entry.name.split('.').next().unwrap_or_default();
            let modified = self.disk.modified(&path).unwrap_or_default().unwrap_or(now);
            if now.since(modified) < ttl.as_secs() || lock(&self.uploads.held).contains(id) {
                continue;
            }
            lock(&self.uploads.hashed).remove(id);
            self.disk.remove(&path)?;
            swept += u64::from(entry.name.ends_with(".part"));
        }
        Ok(swept)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A claim on an upload that is given back unless it is kept.
struct Hold<'a> {
    inner: &'a Inner,
    id: String,
    kept: bool,
}

impl<'a> Hold<'a> {
    fn take(inner: &'a Inner, id: &str) -> Result<Hold<'a>, StoreError> {
        if !lock(&inner.uploads.held).insert(id.to_owned()) {
            let text = "the upload is being written by another request";
            return Err(StoreError::Conflict(text.to_owned()));
        }
        Ok(Hold { inner, id: id.to_owned(), kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if !self.kept {
            lock(&self.inner.uploads.held).remove(&self.id);
        }
    }
}

impl Upload {
    fn new(
        inner: Arc<Inner>,
        id: String,
        algorithm: Algorithm,
        is_fetch: bool,
        file: Arc<dyn DiskFile>,
        len: u64,
        hash: Option<Context>,
    ) -> Upload {
        let hash = Some(hash.unwrap_or_else(|| hasher(algorithm)));
        let pending = Vec::new();
        Upload { inner, id, algorithm, is_fetch, file, hash, written: len, synced: len, pending }
    }

    /// Its id: a UUID, or the digest of a fetch.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Bytes received so far.
    pub fn offset(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Appends bytes: hashed and written once.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.sys.metrics.bytes_received.add(bytes.len() as u64);
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Hashes and writes what is pending, in the pool.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let piece = std::mem::take(&mut self.pending);
        let hash = self.hash.take().ok_or(StoreError::Unavailable)?;
        let (file, at) = (self.file.clone(), self.written);
        let must_sync = self.is_fetch && at - self.synced >= FETCH_SYNC_BYTES;
        let (mut piece, hash, result) = blocking(move || {
            let mut hash = hash;
            hash.update(&piece);
            let mut result = file.write_all_at(&piece, at);
            if result.is_ok() && must_sync {
                result = file.sync_data();
            }
            (piece, hash, result)
        })
        .await;
        // On an error the hash covers more than the file holds: the next holder reads the file.
        result?;
        self.hash = Some(hash);
        self.written += piece.len() as u64;
        if must_sync {
            self.synced = self.written;
        }
        piece.clear();
        self.pending = piece;
        Ok(())
    }

    /// Checks the digest and makes the content durable under its name; returns its length.
    /// `Invalid` when the digest differs: the upload is then removed.
    pub async fn finish(mut self, digest: &Digest) -> Result<u64, StoreError> {
        self.flush().await?;
        let mut hash = self.hash.take().ok_or(StoreError::Unavailable)?;
        let (inner, file, len) = (self.inner.clone(), self.file.clone(), self.written);
        let (digest, id) = (digest.clone(), self.id.clone());
        let same_algorithm = digest.algorithm() == self.algorithm;
        let result = blocking(move || {
            if !same_algorithm {
                hash = hash_file(&*file, len, digest.algorithm())?;
            }
            let path = inner.data_path(&id);
            if hash.finish().as_ref() != digest.raw() {
                inner.disk.remove(&path)?;
                let _ = inner.disk.remove(&inner.owner_path(&id));
                let text = format!("the content does not have the digest {digest}");
                return Err(StoreError::Invalid(text));
            }
            if inner.disk.exists(&inner.layout.blob(&digest))? {
                inner.disk.remove(&path)?;
            } else {
                file.sync_data()?;
                inner.place(&path, &digest)?;
                inner.sys.metrics.blob_bytes.add(len);
            }
            let _ = inner.disk.remove(&inner.owner_path(&id));
            Ok(len)
        });
        result.await
    }

    /// Removes the upload.
    pub async fn cancel(mut self) -> Result<(), StoreError> {
        self.hash = None;
        self.pending.clear();
        let (inner, id) = (self.inner.clone(), self.id.clone());
        blocking(move || {
            let _ = inner.disk.remove(&inner.owner_path(&id));
            Ok(inner.disk.remove(&inner.data_path(&id))?)
        })
        .await
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // What came in and was not yet written is written now: a broken connection keeps it.
        if let Some(mut hash) = self.hash.take() {
            hash.update(&self.pending);
            if self.file.write_all_at(&self.pending, self.written).is_ok() {
                let len = self.offset();
                lock(&self.inner.uploads.hashed).insert(self.id.clone(), (len, hash));
            }
        }
        lock(&self.inner.uploads.held).remove(&self.id);
    }
}

//! Content: layers, configs and manifests, named by digest, immutable.

use std::path::Path;
use std::sync::Arc;

use ring::digest::{Context, SHA256, SHA512};

use super::{Inner, Store, StoreError};
use crate::sys::disk::DiskFile;
use crate::sys::spawn::blocking;
use crate::types::Digest;
use crate::types::digest::Algorithm;
use crate::types::limits::MANIFEST_BYTES_MAX;

/// Pieces in which a file is hashed, bytes.
const HASH_PIECE_BYTES: usize = 256 * 1024;

/// Content, open for reading.
#[derive(Clone)]
pub struct OpenBlob {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its length, bytes.
    pub len: u64,
}

impl Store {
    /// Opens content; `None` when it is not here. Knowing a digest grants nothing: callers look
    /// the link of their repository up first.
    pub async fn blob_open(&self, digest: &Digest) -> Result<Option<OpenBlob>, StoreError> {
        // Two system calls on names that are nearly always cached: cheaper than the pool.
        let file = match self.inner.disk.open(&self.inner.layout.blob(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let len = file.len()?;
        Ok(Some(OpenBlob { file, len }))
    }

    /// Reads small content whole and checks its digest: manifests.
    pub async fn blob_read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let (inner, digest) = (self.inner.clone(), digest.clone());
        blocking(move || {
            let path = inner.layout.blob(&digest);
            let bytes = match inner.disk.read(&path, MANIFEST_BYTES_MAX) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let mut hash = hasher(digest.algorithm());
            hash.update(&bytes);
            if hash.finish().as_ref() != digest.raw() {
                log::error!("{} does not have its digest: it is not served", path.display());
                return Err(StoreError::Corrupt(digest.to_string()));
            }
            Ok(Some(bytes))
        })
        .await
    }

    /// Stores small content durably: manifests. The caller has checked the digest.
    pub async fn blob_put(&self, digest: &Digest, bytes: Vec<u8>) -> Result<(), StoreError> {
        let (inner, digest) = (self.inner.clone(), digest.clone());
        let temporary = self.inner.layout.uploads().join(format!("{}.part", inner.sys.rng.uuid()));
        blocking(move || {
            if inner.disk.exists(&inner.layout.blob(&digest))? {
                return Ok(());
            }
            inner.check_space()?;
            let file = inner.disk.create(&temporary)?;
            let written = file.write_all_at(&bytes, 0).and_then(|()| file.sync_data());
            let placed = match written {
                Ok(()) => inner.place(&temporary, &digest),
                Err(error) => Err(error.into()),
            };
            if placed.is_err() {
                let _ = inner.disk.remove(&temporary);
            } else {
                inner.sys.metrics.blob_bytes.add(bytes.len() as u64);
            }
            placed
        })
        .await
    }
}

impl Inner {
    /// Gives durable content its name, and makes the name durable.
    pub(super) fn place(&self, from: &Path, digest: &Digest) -> Result<(), StoreError> {
        let path = self.layout.blob(digest);
        let folder = path.parent().unwrap_or(Path::new("."));
        if !self.disk.exists(folder)? {
            self.disk.create_dir_all(folder)?;
            // The new directories' own names, up to the one that was there from the start.
            for above in folder.ancestors().skip(1).take(2) {
                self.disk.sync_dir(above)?;
            }
        }
        self.disk.rename(from, &path)?;
        Ok(self.disk.sync_dir(folder)?)
    }

    /// `Full` below the reserve: what is left is for the journal and for deletes.
    pub(super) fn check_space(&self) -> Result<(), StoreError> {
        let space = self.disk.space(self.layout.root())?;
        let reserve = self.options.reserve.min(space.total / 20);
        if space.free < reserve { Err(StoreError::Full) } else { Ok(()) }
    }
}

/// A running hash of this algorithm.
pub(super) fn hasher(algorithm: Algorithm) -> Context {
    Context::new(match algorithm {
        Algorithm::Sha256 => &SHA256,
        Algorithm::Sha512 => &SHA512,
    })
}

/// Hashes the first `len` bytes of a file.
pub(super) fn hash_file(
    file: &dyn DiskFile,
    len: u64,
    algorithm: Algorithm,
) -> std::io::Result<Context> {
    let mut hash = hasher(algorithm);
    let mut piece = vec![0; HASH_PIECE_BYTES];
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).unwrap_or(usize::MAX).min(piece.len());
        file.read_exact_at(&mut piece[..want], done)?;
        hash.update(&piece[..want]);
        done += want as u64;
    }
    Ok(hash)
}

//! Content: layers, configs and manifests, named by digest, immutable. A name appears only when
//! the content under it is complete and durable.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, SHA512};

use super::leases::short;
use super::{Shared, Store, StoreError};
use crate::sys::disk::DiskFile;
use crate::sys::spawn;
use crate::types::Digest;
use crate::types::digest::Algorithm;
use crate::types::limits::MANIFEST_BYTES_MAX;

/// Content, open for reading.
#[derive(Clone)]
pub struct OpenBlob {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its length, bytes.
    pub len: u64,
}

/// Digests that are remembered as durably named. Over it: all are forgotten, and their directories
/// synced once more.
const NAMED_MAX: usize = 65_536;

/// Content whose name is known to be durable, by the first eight bytes of the digest. A file that
/// is there may have got its name from somebody who still waits for the sync, or whose sync failed:
/// nothing may refer to it before.
#[derive(Default)]
pub(super) struct Named(Mutex<BTreeSet<u64>>);

/// Directories of content whose own name is durable.
#[derive(Default)]
pub(super) struct FanOut(Mutex<BTreeSet<PathBuf>>);

impl Store {
    /// Opens content; `None` when it is not here. Knowing a digest grants nothing: callers look
    /// the link of their repository up first.
    pub async fn blob_open(&self, digest: &Digest) -> Result<Option<OpenBlob>, StoreError> {
        let (shared, digest) = (self.shared().clone(), digest.clone());
        spawn::blocking(move || open(&shared, &digest)).await
    }

    /// The length of content in bytes; `None` when it is not here.
    pub async fn blob_exists_len(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let (shared, digest) = (self.shared().clone(), digest.clone());
        spawn::blocking(move || len(&shared, &digest)).await
    }

    /// Reads small content whole and checks its digest: manifests. `Corrupt` when it differs,
    /// `Invalid` when it is larger than any manifest.
    pub async fn blob_read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let (shared, digest) = (self.shared().clone(), digest.clone());
        spawn::blocking(move || read(&shared, &digest)).await
    }

    /// Stores small content durably: manifests. The caller has checked the digest. `Full` below
    /// the reserve.
    pub async fn blob_put(&self, digest: &Digest, bytes: Vec<u8>) -> Result<(), StoreError> {
        let (shared, digest) = (self.shared().clone(), digest.clone());
        spawn::blocking(move || put(&shared, &digest, &bytes)).await
    }
}

/// An absent file is no error here.
fn present<T>(result: io::Result<T>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open(shared: &Shared, digest: &Digest) -> Result<Option<OpenBlob>, StoreError> {
    shared.touch(digest);
    let Some(file) = present(shared.disk.open(&shared.layout.blob(digest)))? else {
        return Ok(None);
    };
    let len = file.len()?;
    Ok(Some(OpenBlob { file, len }))
}

fn len(shared: &Shared, digest: &Digest) -> Result<Option<u64>, StoreError> {
    shared.touch(digest);
    present(shared.disk.file_len(&shared.layout.blob(digest)))
}

pub(super) fn read(shared: &Shared, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(blob) = open(shared, digest)? else {
        return Ok(None);
    };
    let len = usize::try_from(blob.len).ok().filter(|_| blob.len <= MANIFEST_BYTES_MAX);
    let Some(len) = len else {
        let text = format!("{digest} has {} bytes, more than any manifest", blob.len);
        return Err(StoreError::Invalid(text));
    };
    let mut bytes = vec![0; len];
    blob.file.read_exact_at(&mut bytes, 0)?;
    let algorithm = match digest.algorithm() {
        Algorithm::Sha256 => &SHA256,
        Algorithm::Sha512 => &SHA512,
    };
    if ring::digest::digest(algorithm, &bytes).as_ref() != digest.raw() {
        return Err(StoreError::Corrupt(format!("the content of {digest} has another digest")));
    }
    Ok(Some(bytes))
}

fn put(shared: &Shared, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    if len(shared, digest)? == Some(bytes.len() as u64) {
        return Ok(make_named(shared, digest)?);
    }
    shared.check_space()?;
    let temporary = shared.layout.uploads().join(format!("{}.put", shared.sys.rng.uuid()));
    let file = shared.disk.create(&temporary)?;
    let written = file.write_all_at(bytes, 0).map_err(StoreError::from);
    let stored = written.and_then(|()| install(shared, &temporary, &*file, digest));
    if stored.is_err() {
        let _ = shared.disk.remove(&temporary);
    }
    stored
}

/// Makes a complete file durable and gives it its name. Content of the same length that is there
/// already stays, and the file is removed.
pub(super) fn install(
    shared: &Shared,
    from: &Path,
    file: &dyn DiskFile,
    digest: &Digest,
) -> Result<(), StoreError> {
    let bytes = file.len()?;
    if len(shared, digest)? == Some(bytes) {
        make_named(shared, digest)?;
        return Ok(shared.disk.remove(from)?);
    }
    file.sync_data()?;
    let path = shared.layout.blob(digest);
    let directory = path.parent().unwrap_or(Path::new("."));
    shared.fan_out.make(shared, directory)?;
    shared.disk.rename(from, &path)?;
    shared.disk.sync_dir(directory)?;
    shared.named.insert(digest);
    shared.sys.metrics.blob_bytes.add(bytes);
    Ok(())
}

/// Makes the name of content that is there durable, unless it is known to be.
pub(super) fn make_named(shared: &Shared, digest: &Digest) -> io::Result<()> {
    if !shared.named.contains(digest) {
        let path = shared.layout.blob(digest);
        shared.disk.sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        shared.named.insert(digest);
    }
    Ok(())
}

impl Named {
    /// Whether the name is known to be durable.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.digests().contains(&short(digest))
    }

    fn insert(&self, digest: &Digest) {
        let mut digests = self.digests();
        if digests.len() >= NAMED_MAX {
            digests.clear();
        }
        digests.insert(short(digest));
    }

    /// The name is about to go.
    pub(super) fn remove(&self, digest: &Digest) {
        self.digests().remove(&short(digest));
    }

    fn digests(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FanOut {
    /// Makes sure that a directory of content exists, durably. One that was made shortly before a
    /// power cut may be there and still not be durable, so the first use in each run syncs too.
    fn make(&self, shared: &Shared, directory: &Path) -> io::Result<()> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(directory) {
            return Ok(());
        }
        shared.disk.create_dir_all(directory)?;
        // blobs/sha256/ab: each of the two levels is a name in the one above.
        for parent in directory.ancestors().skip(1).take(2) {
            shared.disk.sync_dir(parent)?;
        }
        known.insert(directory.to_owned());
        Ok(())
    }
}

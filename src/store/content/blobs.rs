//! Content: layers, configs and manifests, named by digest, immutable. A name appears only when
//! the content under it is complete and durable.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::digest::Context;

use super::damage::Guarded;
use super::leases::{Lease, short};
use super::trust::{Verdict, is_fault_of_the_medium, open_raw};
use crate::store::error::of_file;
use crate::store::{Shared, Store, StoreError};
use crate::sys::disk::DiskFile;
use crate::sys::spawn;
use crate::types::Digest;
use crate::types::limits::MANIFEST_BYTES_MAX;

/// Content, open for reading.
#[derive(Clone)]
pub struct OpenBlob {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its length, bytes.
    pub len: u64,
    /// Keeps it.
    pub lease: Lease,
}

/// What of a file is in memory while it is hashed, bytes.
const HASH_STEP_BYTES: usize = 128 * 1024;
/// Digests that are remembered as durably named. Over it: all are forgotten, and their directories
/// synced once more.
const NAMED_MAX: usize = 65_536;

/// Content whose name is known to be durable, by the first eight bytes of the digest. A file that
/// is there may have got its name from somebody who still waits for the sync, or whose sync failed:
/// nothing may refer to it before.
#[derive(Default)]
pub(in crate::store) struct Named(Mutex<BTreeSet<u64>>);

/// Directories of content whose own name is durable.
#[derive(Default)]
pub(in crate::store) struct FanOut(Mutex<BTreeSet<PathBuf>>);

impl Store {
    /// Opens content; `None` when it is not here. Knowing a digest grants nothing: callers look
    /// the link of their repository up first.
    /// What is doubted is hashed first. `Corrupt` when it is damaged and has to stay where it is.
    pub async fn blob_open(&self, digest: &Digest) -> Result<Option<OpenBlob>, StoreError> {
        if self.shared().trust.is_doubted(digest)
            && self.verify(digest, |_| spawn::yield_now()).await? == Verdict::Damaged
            && self.shared().frozen
        {
            return Err(StoreError::Corrupt(format!("{digest} has other bytes")));
        }
        let (shared, digest) = (self.shared().clone(), digest.clone());
        spawn::blocking(move || open(&shared, &digest)).await
    }

    /// Reads small content whole and checks its digest: manifests. `Corrupt` when it differs: it
    /// is out of service then. `Invalid` when it is larger than any manifest.
    pub async fn blob_read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let (shared, digest) = (self.shared().clone(), digest.clone());
        let reading = (shared.clone(), digest.clone());
        let bytes = spawn::blocking(move || read(&reading.0, &reading.1)).await;
        if matches!(bytes, Err(StoreError::Corrupt(_))) {
            return match self.verify(&digest, |_| spawn::yield_now()).await? {
                // Read right the second time, or replaced.
                Verdict::Good(_) => spawn::blocking(move || read(&shared, &digest)).await,
                Verdict::Damaged | Verdict::Gone => bytes,
            };
        }
        bytes
    }

    /// Stores small content durably: manifests. The caller has checked the digest. `Full` below
    /// the reserve.
    pub async fn blob_put(&self, digest: &Digest, bytes: Vec<u8>) -> Result<Lease, StoreError> {
        let shared = self.shared().clone();
        let lease = shared.lease(digest);
        spawn::blocking(move || put(&shared, lease.digest(), &bytes).map(|()| lease)).await
    }
}

fn open(shared: &Arc<Shared>, digest: &Digest) -> Result<Option<OpenBlob>, StoreError> {
    let lease = shared.lease(digest);
    let file = match shared.opened.get(digest) {
        Ok(file) => file,
        Err(moment) => {
            let Some(file) = Guarded::open(shared, digest, || open_file(shared, digest))? else {
                return Ok(None);
            };
            let file = Arc::new(file);
            shared.opened.keep(digest, &file, moment);
            file
        }
    };
    let len = file.len().map_err(|error| of_file(digest, &error))?;
    Ok(Some(OpenBlob { file, len, lease }))
}

fn open_file(shared: &Shared, digest: &Digest) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
    shared.touch(digest);
    open_raw(shared, digest)
}

pub(in crate::store) fn read(
    shared: &Shared,
    digest: &Digest,
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = open_file(shared, digest)? else {
        return Ok(None);
    };
    let bytes_len = file.len().map_err(|error| of_file(digest, &error))?;
    let len = usize::try_from(bytes_len).ok().filter(|_| bytes_len <= MANIFEST_BYTES_MAX);
    let Some(len) = len else {
        let text = format!("{digest} has {bytes_len} bytes, more than any manifest");
        return Err(StoreError::Invalid(text));
    };
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(|error| match is_fault_of_the_medium(&error) {
        true => StoreError::Corrupt(format!("the content of {digest} cannot be read: {error}")),
        false => of_file(digest, &error),
    })?;
    if !digest.is_of(&bytes) {
        return Err(StoreError::Corrupt(format!("the content of {digest} has another digest")));
    }
    Ok(Some(bytes))
}

fn put(shared: &Shared, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    if read(shared, digest).is_ok_and(|present| present.is_some()) {
        return Ok(make_named(shared, digest)?);
    }
    let _taken = shared.take_space(bytes.len() as u64)?;
    let temporary = shared.layout.uploads().join(format!("{}.put", shared.sys.rng.uuid()));
    let file = shared.disk.create(&temporary)?;
    let written = file.write_all_at(bytes, 0).map_err(StoreError::from);
    let hashed = bytes.len() as u64;
    let stored = written.and_then(|()| install(shared, &temporary, &*file, digest, hashed));
    if stored.is_err() {
        let _ = shared.disk.remove(&temporary);
    }
    stored
}

/// Makes a complete file, of whose first `hashed` bytes the digest was checked, durable and gives
/// it its name. It replaces what is there: that may have been damaged since it came. A file of
/// another length is refused: it has bytes that nobody checked.
pub(in crate::store) fn install(
    shared: &Shared,
    from: &Path,
    file: &dyn DiskFile,
    digest: &Digest,
    hashed: u64,
) -> Result<(), StoreError> {
    let bytes = file.len()?;
    if bytes != hashed {
        let text = format!("{digest} was checked over {hashed} bytes, but its file has {bytes}");
        return Err(StoreError::Io(text));
    }
    shared.touch(digest);
    file.sync_data()?;
    let path = shared.layout.blob(digest);
    let directory = path.parent().unwrap_or(Path::new("."));
    shared.fan_out.make(shared, directory)?;
    shared.damage.replace(digest, || shared.disk.rename(from, &path))?;
    shared.opened.forget(digest);
    shared.disk.sync_dir(directory)?;
    shared.named.insert(digest);
    shared.trust.arrived(digest, bytes);
    shared.sys.metrics.blob_bytes.add(bytes);
    shared.healed(digest)
}

/// Makes the name of content that is there durable, unless it is known to be.
pub(in crate::store) fn make_named(shared: &Shared, digest: &Digest) -> io::Result<()> {
    if !shared.named.contains(digest) {
        let path = shared.layout.blob(digest);
        shared.disk.sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        shared.named.insert(digest);
    }
    Ok(())
}

impl Shared {
    /// The name of content is about to go.
    pub(in crate::store) fn unname(&self, digest: &Digest) {
        self.named.remove(digest);
        self.opened.forget(digest);
    }
}

impl Named {
    /// Whether the name is known to be durable.
    pub(in crate::store) fn contains(&self, digest: &Digest) -> bool {
        self.digests().contains(&short(digest))
    }

    fn insert(&self, digest: &Digest) {
        let mut digests = self.digests();
        if digests.len() >= NAMED_MAX {
            digests.clear();
        }
        digests.insert(short(digest));
    }

    /// The name goes.
    fn remove(&self, digest: &Digest) {
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

/// Hashes a whole file; also returns its length.
pub(super) fn hash_file(
    file: &dyn DiskFile,
    mut hash: Context,
) -> Result<(Context, u64), StoreError> {
    let mut buffer = vec![0; HASH_STEP_BYTES];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            return Ok((hash, offset));
        }
        hash.update(&buffer[..read]);
        offset += read as u64;
    }
}

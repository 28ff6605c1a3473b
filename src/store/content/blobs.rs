//! Content: layers, configs and manifests, named by digest, immutable.

use std::io;
use std::sync::Arc;

use super::arrival::{create, install, make_durable, make_named};
use super::damage::Guarded;
use super::leases::Lease;
use super::trust::{Verdict, open_raw};
use super::unreadable::Step;
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
    /// The content was hashed since the start before this file was opened: so this one was, or one
    /// that came later. What is known of the content now may be true of a file in its place.
    pub(super) is_proven: bool,
}

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
    let is_proven = !shared.trust.is_unproven(digest);
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
    let len = file.len().map_err(|error| shared.file_fault(digest, Step::Read, &error))?;
    Ok(Some(OpenBlob { file, len, lease, is_proven }))
}

fn open_file(shared: &Shared, digest: &Digest) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
    shared.touch(digest);
    // A damaged file that cannot be moved away counts as moved away.
    if shared.damage.is_stuck(digest) {
        return Ok(None);
    }
    open_raw(shared, digest)
}

pub(in crate::store) fn read(
    shared: &Shared,
    digest: &Digest,
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = open_file(shared, digest)? else {
        return Ok(None);
    };
    let fault = |error: &io::Error| shared.file_fault(digest, Step::Read, error);
    let bytes_len = file.len().map_err(|error| fault(&error))?;
    let len = usize::try_from(bytes_len).ok().filter(|_| bytes_len <= MANIFEST_BYTES_MAX);
    let Some(len) = len else {
        let text = format!("{digest} has {bytes_len} bytes, more than any manifest");
        return Err(StoreError::Invalid(text));
    };
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).map_err(|error| {
        if StoreError::is_fault_of_the_medium(&error) {
            StoreError::Corrupt(format!("the content of {digest} cannot be read: {error}"))
        } else {
            fault(&error)
        }
    })?;
    if !digest.is_of(&bytes) {
        return Err(StoreError::Corrupt(format!("the content of {digest} has another digest")));
    }
    shared.unreadable.worked(digest, Step::Read);
    Ok(Some(bytes))
}

fn put(shared: &Shared, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    if read(shared, digest).is_ok_and(|present| present.is_some()) {
        make_named(shared, digest)?;
        shared.healed(digest);
        return Ok(());
    }
    let _taken = shared.take_space(bytes.len() as u64)?;
    let temporary = shared.layout.uploads().join(format!("{}.put", shared.sys.rng.uuid()));
    let file = create(shared, &temporary)?;
    let written = file.write_all_at(bytes, 0).map_err(StoreError::from);
    let hashed = bytes.len() as u64;
    let durable = written.and_then(|()| make_durable(shared, &*file, digest, hashed));
    let stored = durable.and_then(|()| install(shared, &temporary, digest, hashed));
    if stored.is_err() {
        let _ = shared.disk.remove(&temporary);
    }
    stored
}

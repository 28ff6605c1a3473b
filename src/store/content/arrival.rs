//! How complete content gets its name: here an upload, a fetch, and what is put whole, become
//! content. A name appears only when the content under it is complete and durable.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::leases::short;
use super::unreadable::Step;
use crate::store::{Shared, StoreError};
use crate::sys::disk::DiskFile;
use crate::types::Digest;

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

/// Creates a file for content that comes.
pub(super) fn create(shared: &Shared, path: &Path) -> Result<Arc<dyn DiskFile>, StoreError> {
    shared.unmade.note(path, shared.disk.create(path))
}

/// Makes a complete file durable, of whose first `hashed` bytes the digest was checked. A file of
/// another length is refused: it has bytes that nobody checked.
pub(in crate::store) fn make_durable(
    shared: &Shared,
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
    file.sync_data().map_err(|error| shared.file_fault(digest, Step::Write, &error))
}

/// Gives such a file its name. It replaces what is there: that may have been damaged since it came.
pub(in crate::store) fn install(
    shared: &Shared,
    from: &Path,
    digest: &Digest,
    bytes: u64,
) -> Result<(), StoreError> {
    name(shared, from, digest).map_err(|error| shared.file_fault(digest, Step::Write, &error))?;
    shared.named.insert(digest);
    shared.trust.arrived(digest, bytes);
    shared.unreadable.worked(digest, Step::Write);
    shared.sys.metrics.blob_bytes.add(bytes);
    shared.healed(digest);
    Ok(())
}

fn name(shared: &Shared, from: &Path, digest: &Digest) -> io::Result<()> {
    let path = shared.layout.blob(digest);
    let directory = path.parent().unwrap_or(Path::new("."));
    shared.fan_out.make(shared, directory)?;
    let rename = || shared.damage.replace(digest, || shared.disk.rename(from, &path));
    match rename() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Somebody has removed the directory, which was empty.
            shared.fan_out.forget(directory);
            shared.fan_out.make(shared, directory)?;
            rename()?;
        }
        renamed => renamed?,
    }
    shared.opened.forget(digest);
    shared.disk.sync_dir(directory)
}

/// Whether content whose write failed could be written now. The content itself is not at hand: a
/// small file beside its place stands for it.
pub(super) fn can_be_written(shared: &Shared, digest: &Digest) -> io::Result<bool> {
    let path = shared.layout.blob(digest);
    if shared.disk.exists(&path)? {
        // Either the content is here and nobody waits for its write, or a damaged file is in its
        // way.
        return Ok(!shared.damage.is_stuck(digest));
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    shared.fan_out.make(shared, directory)?;
    let probe = path.with_extension("tmp");
    // A stop may have left one.
    let _ = shared.disk.remove(&probe);
    let file = shared.disk.create(&probe)?;
    let written = file.write_all_at(b"probe", 0).and_then(|()| file.sync_data());
    shared.disk.remove(&probe)?;
    shared.disk.sync_dir(directory)?;
    written.map(|()| true)
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

    /// A directory is gone.
    fn forget(&self, directory: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::sys::{Spawner, Sys};
    use crate::types::digest::Algorithm;

    /// Whoever installs content has compared the lengths before: this is the last look.
    #[test]
    fn f211_only_a_file_of_exactly_its_hashed_length_is_made_durable() {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let shared = store.shared();
        let hash = ring::digest::digest(Algorithm::Sha256.function(), b"content");
        let digest = Digest::from_raw(Algorithm::Sha256, hash.as_ref()).unwrap();
        let file = create(shared, &shared.layout.uploads().join("a.put")).unwrap();
        file.write_all_at(b"content", 0).unwrap();
        let durable = |hashed| make_durable(shared, &*file, &digest, hashed);
        for hashed in [0, 6, 8] {
            let refused = durable(hashed).unwrap_err().to_string();
            assert!(refused.contains(&format!("over {hashed} bytes, but")), "{refused}");
        }
        assert_eq!(durable(7), Ok(()));
    }
}

//! Content that is hashed while it is sent: what is wrong does not arrive whole, and nothing is
//! read twice.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::Context;

use super::blobs::OpenBlob;
use super::trust::Verdict;
use crate::store::{Shared, Store, StoreError};
use crate::sys::disk::DiskFile;
use crate::sys::spawn;
use crate::types::Digest;

/// Content up to this length is hashed before it is sent, bytes: whoever asks gets an answer, not
/// an end. Images' configs are of this kind.
const FIRST_BYTES_MAX: u64 = 64 * 1024;

impl Store {
    /// The content for somebody who sends all of it, from the start. Unless it was hashed since the
    /// start of the process, that is done on the way: reading the last bytes fails when the digest
    /// is another, and the next who opens it has it taken out of service. `None` when it is
    /// damaged.
    pub async fn sent_whole(&self, blob: OpenBlob) -> Result<Option<OpenBlob>, StoreError> {
        let (shared, digest) = (self.shared(), blob.lease.digest());
        if blob.is_proven {
            return Ok(Some(blob));
        }
        if blob.len <= FIRST_BYTES_MAX {
            return self.proven(digest).await;
        }
        let state = Some((Context::new(digest.algorithm().function()), 0));
        let proof = Proof {
            shared: shared.clone(),
            digest: digest.clone(),
            file: blob.file,
            len: blob.len,
            state: Mutex::new(state),
        };
        Ok(Some(OpenBlob { file: Arc::new(proof), ..blob }))
    }

    /// The content for somebody who sends a part of it, of which nobody can tell whether it is
    /// right. Unless all of it was hashed since the start of the process, that is done beside: what
    /// is damaged is sent for a moment, and not until the next scrub. `None` when it is damaged.
    pub async fn sent_in_part(&self, blob: OpenBlob) -> Result<Option<OpenBlob>, StoreError> {
        let digest = blob.lease.digest();
        if !blob.is_proven {
            if blob.len <= FIRST_BYTES_MAX {
                return self.proven(digest).await;
            }
            self.prove_beside(digest);
        }
        Ok(Some(blob))
    }

    async fn proven(&self, digest: &Digest) -> Result<Option<OpenBlob>, StoreError> {
        match self.verify(digest, |_| spawn::yield_now()).await? {
            // Another file may have been hashed than the one that was open before.
            Verdict::Good(_) => self.blob_open(digest).await,
            Verdict::Damaged | Verdict::Gone => Ok(None),
        }
    }
}

/// A file of content that is read once, from the start to the end. It is hashed to its end whatever
/// becomes known of the content meanwhile: that may be of another file, which a push has put there.
struct Proof {
    shared: Arc<Shared>,
    digest: Digest,
    file: Arc<dyn DiskFile>,
    len: u64,
    /// The hash of the first so many bytes; `None` when there is nothing more to be hashed.
    state: Mutex<Option<(Context, u64)>>,
}

impl Proof {
    /// These bytes were read at `offset`. Fails with the last of them when the digest is another.
    fn hash(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // What is not read in order proves nothing.
        let Some((mut context, hashed)) = state.take().filter(|(_, hashed)| *hashed == offset)
        else {
            return Ok(());
        };
        context.update(bytes);
        let hashed = hashed + bytes.len() as u64;
        if hashed < self.len {
            *state = Some((context, hashed));
        } else if context.finish().as_ref() == self.digest.raw() {
            self.shared.trust.believe(&self.digest);
        } else {
            self.shared.trust.doubt(&self.digest);
            return Err(io::Error::other(format!("{} has another digest", self.digest)));
        }
        Ok(())
    }
}

impl DiskFile for Proof {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.file.read_at(buffer, offset)?;
        self.hash(&buffer[..read], offset)?;
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    /// The system would send it unseen.
    fn as_file(&self) -> Option<&File> {
        None
    }

    fn bring_in(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.bring_in(offset, len)
    }

    fn is_cached(&self, offset: u64) -> bool {
        self.file.is_cached(offset)
    }

    fn forget_cached(&self, offset: u64, len: u64) {
        self.file.forget_cached(offset, len);
    }
}

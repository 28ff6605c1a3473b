//! Who hashes which file: one at a time, for all who ask for its content meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smol::channel::{Receiver, Sender, bounded};

use crate::store::StoreError;
use crate::types::Digest;

/// What hashing content showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is what its name says; so many bytes.
    Good(u64),
    /// It was not, and is out of service now.
    Damaged,
    /// It is not here, or other content came in its place meanwhile.
    Gone,
}

/// What came of a hashing.
type Outcome = Result<Verdict, StoreError>;

/// Hashings under way; as many as there are requests and tasks that hash, at most.
#[derive(Default)]
pub(super) struct Hashings(Mutex<BTreeMap<Digest, Arc<Hashing>>>);

/// One that is under way.
pub(super) struct Hashing {
    outcome: OnceLock<Outcome>,
    /// Closed at its end.
    ended: Receiver<()>,
}

impl Hashing {
    /// What came of it; `None` when it was given up.
    pub(super) async fn ended(self: Arc<Hashing>) -> Option<Outcome> {
        let _ = self.ended.recv().await;
        self.outcome.get().cloned()
    }
}

/// Whose turn it is to hash a file.
pub(super) enum Turn<'a> {
    /// Whoever asked.
    Own(Own<'a>),
    /// Another's, which is under way.
    Another(Arc<Hashing>),
}

/// The turn to hash a file; dropped, it is given up.
pub(super) struct Own<'a> {
    hashings: &'a Hashings,
    digest: Digest,
    hashing: Arc<Hashing>,
    _open: Sender<()>,
}

impl Own<'_> {
    /// Whether somebody waits for what comes of it.
    pub(super) fn is_awaited(&self) -> bool {
        // This turn and the table have one each.
        Arc::strong_count(&self.hashing) > 2
    }

    /// Tells all who wait.
    pub(super) fn end(self, outcome: Outcome) {
        let _ = self.hashing.outcome.set(outcome);
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        self.hashings.table().remove(&self.digest);
    }
}

impl Hashings {
    fn table(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Hashing>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of whoever asks, unless the file is being hashed.
    pub(super) fn begin(&self, digest: &Digest) -> Turn<'_> {
        let mut table = self.table();
        if let Some(hashing) = table.get(digest) {
            return Turn::Another(hashing.clone());
        }
        let (open, ended) = bounded(1);
        let hashing = Arc::new(Hashing { outcome: OnceLock::new(), ended });
        table.insert(digest.clone(), hashing.clone());
        Turn::Own(Own { hashings: self, digest: digest.clone(), hashing, _open: open })
    }
}

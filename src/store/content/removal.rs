//! The removal of content that nothing refers to. The one other way out of the place where content
//! lies is that of damaged content, into quarantine (`damage.rs`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::rows::derived::held_key;
use crate::store::{Shared, Store, StoreError};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName};

/// Files that commands have moved out of the content, and that are yet to be removed: whoever has
/// them removed may be gone by then.
#[derive(Default)]
pub(in crate::store) struct Aside(Mutex<Vec<PathBuf>>);

impl Aside {
    fn all(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Removes content that came for a row which was refused, or whose row was deleted, unless a
    /// row refers to it or somebody else uses it: nothing counts it, and a client could fill a disk
    /// with it. Nobody waits for content without a link. Where that fails, or records may have been
    /// lost, it waits for a collection.
    pub async fn take_back(&self, digest: &Digest) {
        if self.loss().is_some() {
            return;
        }
        if let Err(error) = self.remove_content(digest, Duration::MAX).await {
            log::debug!("content that was refused stays until it is collected: {error}");
        }
    }

    /// What a quota counts no more goes at once, as what was refused does: a client that pushes and
    /// deletes in turn would fill the disk. Elsewhere a collection takes it. A change that waits
    /// for the parent brings nothing without a row.
    pub(in crate::store) async fn give_back(&self, repository: &RepositoryName, digest: &Digest) {
        if self.quota(repository).is_some() {
            self.take_back(digest).await;
        }
    }

    /// Removes a file of content, unless a row refers to it, somebody has touched it since the
    /// monotonic time `since`, or a backup is under way, whose records may refer to it. Whether it
    /// went; `Unreadable`: the disk does not let this one go.
    pub async fn remove_content(
        &self,
        digest: &Digest,
        since: Duration,
    ) -> Result<bool, StoreError> {
        let (shared, digest) = (self.shared().clone(), digest.clone());
        // On the writer: a command that refers to the content was noted before, or comes after
        // and finds the file gone. The length of the file must not hold others up, so it is moved
        // away first.
        let moved = self.commit(move |txn| {
            let (held, now) = (held_key(&digest.to_key()), shared.sys.clock.monotonic());
            // What is deleted in the same group of commands may be there again after a stop.
            if shared.backup.is_held(now) || txn.has(&held)? || txn.has_durable(&held)? {
                return Ok(None);
            }
            let aside = shared.layout.uploads().join(format!("{}.put", shared.sys.rng.uuid()));
            let path = shared.layout.blob(&digest);
            let moved = shared.leases.unless_wanted(&digest, since, || {
                shared.unname(&digest);
                shared.disk.rename(&path, &aside)
            });
            match moved {
                None => Ok(None),
                Some(Ok(())) => {
                    shared.aside.all().push(aside.clone());
                    Ok(Some(aside))
                }
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Some(Err(error)) => Err(stays(&path, &error)),
            }
        });
        let moved = moved.await;
        let shared = self.shared().clone();
        match moved {
            Ok(None) => Ok(false),
            Ok(Some(aside)) => {
                spawn::blocking(move || remove(&shared, &aside)).await?;
                Ok(true)
            }
            // The file may be away also where a record of another command could not be written.
            Err(error) => {
                spawn::blocking(move || remove_aside(&shared)).await;
                Err(error)
            }
        }
    }
}

/// Removes what was moved out of the content and nobody has had removed. What the disk does not let
/// go is tried again the next time. Blocks.
pub(in crate::store) fn remove_aside(shared: &Shared) {
    let aside = shared.aside.all().clone();
    for path in aside {
        if let Err(error) = remove(shared, &path) {
            log::debug!("{error}");
        }
    }
}

fn remove(shared: &Shared, path: &Path) -> Result<(), StoreError> {
    match shared.disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(stays(path, &error)),
        _ => shared.aside.all().retain(|aside| aside != path),
    }
    Ok(())
}

fn stays(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unreadable(format!("{} cannot be removed: {error}", path.display()))
}

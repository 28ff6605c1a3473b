//! Directories of the state in which no file can be made: their owner or mode is wrong, or the
//! file system is damaged there. What needs one is refused, and status says why.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::StoreError;
use crate::sys::Disk;

/// What shows that a file can be made again; it is removed at once.
const PROBE: &str = "probe.tmp";

/// The directories in which the last file could not be made; a clone knows the same.
#[derive(Clone, Default)]
pub(in crate::store) struct Unmade(Arc<State>);

#[derive(Default)]
struct State {
    directories: Mutex<BTreeSet<PathBuf>>,
    /// Held during a look: two would take each other's probe for a fault.
    look: Mutex<()>,
}

impl Unmade {
    /// Notes whether the file at `path` could be made. A full disk is told elsewhere.
    pub(in crate::store) fn note<T>(
        &self,
        path: &Path,
        made: io::Result<T>,
    ) -> Result<T, StoreError> {
        let directory = path.parent().unwrap_or(path);
        match made {
            Ok(file) => {
                self.directories().remove(directory);
                Ok(file)
            }
            Err(error) if StoreError::is_full(&error) => Err(StoreError::Full),
            Err(error) => {
                self.directories().insert(directory.to_owned());
                let directory = directory.display();
                Err(StoreError::Io(format!("no file can be made in {directory}: {error}")))
            }
        }
    }

    /// Tries again to make a file where that failed last; the first error. Blocks.
    pub(in crate::store) fn fault(&self, disk: &dyn Disk) -> Option<StoreError> {
        let _one = self.0.look.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = self.directories().clone();
        let mut faults = failed.iter().filter_map(|directory| {
            let probe = directory.join(PROBE);
            // A stop may have left one.
            let gone = disk.remove(&probe).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            });
            let made = self.note(&probe, gone.and_then(|()| disk.create(&probe)));
            let _ = disk.remove(&probe);
            made.err()
        });
        faults.find(|fault| *fault != StoreError::Full)
    }

    fn directories(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::MemoryDisk;

    #[test]
    fn f211_f212_where_no_file_can_be_made_is_told_until_one_can_be() {
        let (disk, unmade) = (MemoryDisk::new(), Unmade::default());
        let [first, second] = ["/s/uploads/one", "/s/journal/two"].map(Path::new);
        let make = |path: &Path| unmade.note(path, disk.create(path)).map(drop);
        for path in [first, second] {
            assert!(matches!(make(path), Err(StoreError::Io(_))));
        }
        let fault = || unmade.clone().fault(&disk).map(|fault| fault.to_string());
        assert!(fault().unwrap().contains("no file can be made in /s/journal: "));
        disk.create_dir_all(Path::new("/s/journal")).unwrap();
        assert!(fault().unwrap().contains("no file can be made in /s/uploads: "));
        disk.create_dir_all(Path::new("/s/uploads")).unwrap();
        // Without a look in between; after it there is nothing to look at.
        assert_eq!(make(first), Ok(()));
        assert!(unmade.directories().is_empty());
        assert_eq!(fault(), None);
        assert_eq!(disk.list(Path::new("/s/journal")).unwrap(), []);
    }
}

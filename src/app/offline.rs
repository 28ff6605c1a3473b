//! What is done with a state directory or a backup that no node runs on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::store::fsck::FsckReport;
use crate::store::recovery::found::Recovery;
use crate::store::{IndexKind, Store, StoreError, StoreOptions, backup};
use crate::sys::{Spawner, Sys, owner};
use crate::types::{Digest, RepositoryName, Role, StoreRole};

pub use crate::store::backup::{Restored, seal};
pub use crate::store::journal::layout::{IDENTITY_SUMS, JOURNAL_END, LOST_RECORDS, Layout};
pub use crate::store::lineage::Lineage;
pub use crate::store::recovery::loss::LOSS_REMEDY;
pub use crate::store::rows::format::StoreFormat;

/// Changes on their way up that are counted.
pub const WAITING_MAX: usize = 1000;

/// Opens a store to look at it; the error is a line for people.
fn look(state_dir: &Path) -> Result<(Store, Recovery), String> {
    let options =
        StoreOptions { frozen: true, index: IndexKind::Map, ..StoreOptions::new(state_dir) };
    Store::open(Sys::real(Spawner::new()), options).map_err(|error| error.to_string())
}

/// The digests of all content that the repositories in a new backup, which is to go up to
/// `sequence`, refer to, each with its length, bytes, where a row tells that.
pub fn contents(backup: &Path, sequence: u64) -> Result<BTreeMap<Digest, Option<u64>>, String> {
    let opened = backup::open(&Sys::real(Spawner::new()), backup);
    let (store, recovery) = opened.map_err(|error| error.to_string())?;
    if recovery.sequence < sequence {
        let text = "the records that came from the node end at sequence";
        return Err(format!("{text} {}, not {sequence}; try again", recovery.sequence));
    }
    let mut digests = BTreeMap::new();
    let listed = store.each_content(|_, digest, len| {
        digests.insert(digest.clone(), len);
        Ok(())
    });
    listed.map(|()| digests).map_err(|error| error.to_string())
}

/// Which repositories in a new backup refer to each of these digests.
pub fn referring<'a>(
    backup: &Path,
    digests: impl Iterator<Item = &'a Digest>,
) -> Result<BTreeMap<Digest, BTreeSet<RepositoryName>>, String> {
    let opened = backup::open(&Sys::real(Spawner::new()), backup);
    let (store, _) = opened.map_err(|error| error.to_string())?;
    let mut found: BTreeMap<_, _> = digests.map(|d| (d.clone(), BTreeSet::new())).collect();
    let listed = store.each_content(|repository, digest, _| {
        if let Some(repositories) = found.get_mut(digest) {
            repositories.insert(repository.clone());
        }
        Ok(())
    });
    listed.map(|()| found).map_err(|error| error.to_string())
}

/// Makes `state_dir` from a backup, with the owner of the directory, or of that above it; the error
/// is a line for people. No other thread may run yet.
pub fn restore(from: &Path, state_dir: &Path) -> Result<Restored, String> {
    // As whoever calls: the owner of the state need not see where backups are.
    let sys = Sys::real(Spawner::new());
    if !sys.disk.exists(from).map_err(|error| format!("{}: {error}", from.display()))? {
        return Err(format!("there is no backup {}", from.display()));
    }
    if is_within(state_dir, from) || is_within(from, state_dir) {
        return Err(format!(
            "the backup {} and the state directory {} lie in one another: restore into a directory \
             of its own",
            from.display(),
            state_dir.display()
        ));
    }
    let format = Layout::new(from).format();
    if !sys.disk.exists(&format).map_err(|error| format!("{}: {error}", format.display()))? {
        return Err(format!(
            "there is no whole backup in {}: it has no file `format`, which a backup writes last",
            from.display()
        ));
    }
    owner::become_owner(state_dir, "restore")?;
    backup::restore(&sys, from, state_dir).map_err(|error| error.to_string())
}

/// Whether a path is `directory` or lies in it, behind all symbolic links. Neither need exist.
pub fn is_within(path: &Path, directory: &Path) -> bool {
    resolved(path).starts_with(resolved(directory))
}

fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = whole.ancestors().find_map(|ancestor| {
        let missing = whole.strip_prefix(ancestor).ok()?;
        Some(ancestor.canonicalize().ok()?.join(missing))
    });
    real.unwrap_or(whole)
}

/// Gives up what follows damage of the journal in `state_dir`; returns what was found and lost, and
/// whether a loss is to be agreed to. The error is a line for people. No other thread may run yet.
pub fn cut_journal(state_dir: &Path) -> Result<(Recovery, bool), String> {
    owner::become_owner(state_dir, "state cut-journal")?;
    let options = StoreOptions { cut_journal: true, ..StoreOptions::new(state_dir) };
    let opened = Store::open(Sys::real(Spawner::new()), options);
    let (store, recovery) = opened.map_err(|error| error.to_string())?;
    if let Some(cause) = store.read_only_cause() {
        return Err(format!("{cause}; nothing was cut off"));
    }
    let closed = smol::block_on(store.close());
    closed.map(|()| (recovery, store.loss().is_some())).map_err(|error| error.to_string())
}

/// How many changes in `state_dir` have not reached the parent, at most [`WAITING_MAX`]. The error
/// is a line for people.
pub fn waiting(state_dir: &Path) -> Result<usize, String> {
    let (store, _) = look(state_dir)?;
    let waiting = store.outbox(WAITING_MAX).map_err(|error| error.to_string())?;
    Ok(waiting.len())
}

/// Makes the store in `state_dir` that of a node of another role, and leaves it to its owner;
/// returns what it was, and whether anything was to be done. The error is a line for people. No
/// other thread may run yet.
pub fn adopt(state_dir: &Path, role: Role) -> Result<(StoreRole, bool), String> {
    let sys = Sys::real(Spawner::new());
    // A new one would be made where a name was misspelt.
    if !sys.disk.exists(state_dir).map_err(|error| format!("{}: {error}", state_dir.display()))? {
        return Err(format!("there is no state directory {}", state_dir.display()));
    }
    owner::become_owner(state_dir, "state adopt")?;
    let (store, _) =
        Store::open(sys, StoreOptions::new(state_dir)).map_err(|error| error.to_string())?;
    let failed = |error: StoreError| format!("the role cannot be changed: {error}");
    smol::block_on(async {
        let former = store.store_role().map_err(failed)?;
        let is_other = match &former {
            StoreRole::Root => role != Role::Root,
            StoreRole::Unprovisioned | StoreRole::Adopted => role != Role::Connected,
            StoreRole::Connected(_) | StoreRole::New => true,
        };
        if is_other {
            store.adopt(role).await.map_err(failed)?;
        }
        store.close().await.map_err(failed)?;
        Ok((former, is_other))
    })
}

/// Checks the store in `state_dir`, with `content` every byte of it, and changes nothing. Also
/// returns what its next start will find.
pub fn fsck(state_dir: &Path, content: bool) -> Result<(FsckReport, Recovery), String> {
    let (store, recovery) = look(state_dir)?;
    let report = smol::block_on(store.fsck(content)).map_err(|error| error.to_string())?;
    Ok((report, recovery))
}

//! Files of unfinished content that earlier runs have left.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::StoreError;
use crate::store::journal::layout::Layout;
use crate::sys::clock::EARLIEST_TIME;
use crate::sys::{Disk, Sys};
use crate::types::{Digest, RepositoryName};

/// Unfinished content that can be gone on with.
pub(super) struct Left {
    pub(super) id: String,
    pub(super) path: PathBuf,
    /// Where a push was started; `None` for a fetch.
    pub(super) repository: Option<RepositoryName>,
    /// Who started it; empty where that is not known.
    pub(super) account: String,
    /// How long no bytes had come, as far as the clock is known.
    pub(super) idle: Duration,
    pub(super) bytes: u64,
}

/// Finds what there is, and removes what is of no use.
pub(super) fn find(sys: &Sys, disk: &dyn Disk, layout: &Layout) -> Result<Vec<Left>, StoreError> {
    let mut all = Vec::new();
    for entry in disk.list(&layout.uploads())?.into_iter().filter(|entry| !entry.is_dir) {
        match look_at(sys, disk, layout, &entry.name) {
            Ok(left) => all.extend(left),
            // A damaged file system may neither show nor remove one: the others are no worse.
            Err(error) => log::warn!("unfinished content {} stays: {error}", entry.name),
        }
    }
    Ok(all)
}

fn look_at(
    sys: &Sys,
    disk: &dyn Disk,
    layout: &Layout,
    name: &str,
) -> Result<Option<Left>, StoreError> {
    let path = layout.uploads().join(name);
    let mut account = String::new();
    let (id, repository) = match name.split_once('.') {
        Some((uuid, "meta")) => {
            if !disk.exists(&layout.uploads().join(uuid))? {
                disk.remove(&path)?;
            }
            return Ok(None);
        }
        Some((_, "put")) => {
            disk.remove(&path)?;
            return Ok(None);
        }
        Some((algorithm, hex)) => (format!("{algorithm}:{hex}"), None),
        None => {
            let meta = disk.read(&path.with_extension("meta"), 4096);
            let meta = meta.ok().and_then(|meta| String::from_utf8(meta).ok());
            let meta = meta.unwrap_or_default();
            // Earlier versions wrote no account.
            let (repository, sender) = meta.split_once('\n').unwrap_or((&meta, ""));
            let repository: Option<RepositoryName> = repository.parse().ok();
            sender.clone_into(&mut account);
            if repository.is_none() {
                disk.remove(&path)?;
                return Ok(None);
            }
            (name.to_owned(), repository)
        }
    };
    if repository.is_none() && id.parse::<Digest>().is_err() {
        return Ok(None);
    }
    let idle = match (sys.clock.wall(), disk.modified(&path)?) {
        // Earlier than that, the clock was wrong.
        (Some(wall), Some(modified)) if modified >= EARLIEST_TIME => {
            Duration::from_secs(wall.since(modified))
        }
        _ => Duration::ZERO,
    };
    let bytes = disk.file_len(&path).unwrap_or(0);
    Ok(Some(Left { id, path, repository, account, idle, bytes }))
}

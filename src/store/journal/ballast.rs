//! Space on a full disk for what cannot wait: the ballast, and what nobody needs any more.

use super::layout::Layout;
use crate::store::StoreError;
use crate::sys::Disk;

/// Writes what a start cannot go on without; on a full disk once more, in the space that is set
/// aside.
pub(in crate::store) fn in_any_space<T>(
    disk: &dyn Disk,
    layout: &Layout,
    write: impl Fn() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    match write() {
        Err(StoreError::Full) if give_space(disk, layout) => write(),
        written => written,
    }
}

/// Removes the ballast or, where it is gone, indexes that were put aside; whether there was any.
pub(in crate::store) fn give_space(disk: &dyn Disk, layout: &Layout) -> bool {
    let root = layout.root();
    let mut removed = disk.remove(&layout.ballast()).is_ok();
    if removed {
        log::warn!("the disk is full: the space set aside for the journal is in use now");
    } else {
        for entry in disk.list(root).unwrap_or_default() {
            let aside = entry.name.starts_with("index.bad-");
            removed |= aside && disk.remove_dir_all(&root.join(&entry.name)).is_ok();
        }
    }
    if removed {
        let _ = disk.sync_dir(root);
    }
    removed
}

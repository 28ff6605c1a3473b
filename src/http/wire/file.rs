//! Reading a file that is sent without waiting for the disk on the executor.

use std::io::{self, IoSliceMut};
use std::mem;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags};

use crate::sys::disk::DiskFile;
use crate::sys::spawn::blocking;

/// Reads what is in memory; `None` when it is not, or when the file system cannot tell.
pub(in crate::http) fn read_cached(
    file: &Arc<dyn DiskFile>,
    buffer: &mut [u8],
    offset: u64,
) -> Option<io::Result<usize>> {
    let file = file.as_file()?;
    let mut slices = [IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(count) => Some(Ok(count)),
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR | Errno::INVAL) => None,
        Err(error) => Some(Err(error.into())),
    }
}

/// Reads some bytes of a file into `buffer[from..]`: from memory at once, else in the pool.
pub(in crate::http) async fn read_some(
    file: &Arc<dyn DiskFile>,
    buffer: &mut Vec<u8>,
    from: usize,
    offset: u64,
) -> io::Result<usize> {
    if let Some(result) = read_cached(file, &mut buffer[from..], offset) {
        return result;
    }
    let file = file.clone();
    let mut moved = mem::take(buffer);
    let (back, result) = blocking(move || {
        let result = file.read_at(&mut moved[from..], offset);
        (moved, result)
    })
    .await;
    *buffer = back;
    result
}

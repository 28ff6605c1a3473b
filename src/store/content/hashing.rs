//! Hashing a file, without keeping a thread from others until its end.

use std::io;
use std::sync::Arc;

use ring::digest::Context;

use crate::sys::disk::DiskFile;
use crate::sys::spawn;

/// What one job of the blocking pool reads into memory and hashes, bytes: other jobs have their
/// turn between two of them.
const STEP_BYTES: usize = 256 * 1024;

/// Hashes a file from its start up to its end; also returns how many bytes it has. Each step of
/// [`STEP_BYTES`] is followed by `pause` with the number of bytes read.
pub(super) async fn hash_file<F: Future<Output = ()>>(
    file: &Arc<dyn DiskFile>,
    mut context: Context,
    pause: &mut impl FnMut(u64) -> F,
) -> io::Result<(Context, u64)> {
    let mut offset = 0;
    loop {
        let file = file.clone();
        let step = move || {
            // The buffer lives in the job: of many files that are hashed, only a few have one.
            let mut buffer = vec![0; STEP_BYTES];
            let cached = file.is_cached(offset);
            let read = file.read_at(&mut buffer, offset);
            if let Ok(read) = read {
                context.update(&buffer[..read]);
            }
            if !cached {
                // Nobody asked for this part of the file: other files need the page cache.
                file.forget_cached(offset, STEP_BYTES as u64);
            }
            (context, read)
        };
        let (context_back, read) = spawn::blocking(step).await;
        context = context_back;
        let read = read? as u64;
        if read == 0 {
            return Ok((context, offset));
        }
        offset += read;
        pause(read).await;
    }
}

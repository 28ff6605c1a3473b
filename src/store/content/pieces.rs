//! How much of an upload is gathered before it is hashed and written, and in what memory.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys::{Sys, clock};

/// Bytes gathered before they are written; at most two pieces are in memory per upload. What is
/// written in large pieces lies in large pages, which cost less to write and to send.
const PIECE_BYTES: usize = 512 * 1024;
/// The same for all uploads beyond [`LARGE_PIECES_MAX`].
const SMALL_PIECE_BYTES: usize = 128 * 1024;
/// Uploads that gather large pieces at once, so that many of them need little memory.
const LARGE_PIECES_MAX: usize = 8;

/// Buffers of large pieces that stay in memory from one chunk of a push to the next: as many as one
/// upload has. To get them anew costs as much as to hash half of what is gathered in them.
const SPARE_MAX: usize = 2;
/// They are given back after this time without use.
const SPARE_FOR: Duration = Duration::from_secs(1);

/// Shares large pieces out.
#[derive(Default)]
pub(super) struct Pieces {
    /// Holders of large ones.
    large: AtomicUsize,
    spare: Arc<Mutex<Spare>>,
}

#[derive(Default)]
struct Spare {
    buffers: heapless::Vec<Vec<u8>, SPARE_MAX>,
    /// How often one was put here or taken.
    uses: u64,
    /// A task gives them back when their time is over.
    is_watched: bool,
}

impl Pieces {
    /// How much an upload may gather, bytes.
    pub(super) fn take(&self) -> usize {
        let next = |taken| (taken < LARGE_PIECES_MAX).then_some(taken + 1);
        match self.large.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => PIECE_BYTES,
            Err(_) => SMALL_PIECE_BYTES,
        }
    }

    /// An upload of which so much was gathered ends; 0 of one that has taken none.
    pub(super) fn give_back(&self, piece: usize) {
        if piece == PIECE_BYTES {
            self.large.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A buffer for a large piece that an earlier request has left.
    pub(super) fn spare(&self) -> Option<Vec<u8>> {
        let mut spare = lock(&self.spare);
        spare.uses += 1;
        spare.buffers.pop()
    }

    /// Keeps a buffer for the next request, if it is one of a large piece and few are kept.
    pub(super) fn keep(&self, sys: &Sys, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = lock(&self.spare);
        if buffer.capacity() != PIECE_BYTES || spare.buffers.push(buffer).is_err() {
            return;
        }
        spare.uses += 1;
        if !mem::replace(&mut spare.is_watched, true) {
            sys.spawner.spawn(give_back_unused(self.spare.clone())).detach();
        }
    }
}

async fn give_back_unused(spare: Arc<Mutex<Spare>>) {
    let mut uses = None;
    loop {
        {
            let mut spare = lock(&spare);
            if uses == Some(spare.uses) {
                (spare.buffers, spare.is_watched) = (heapless::Vec::new(), false);
                return;
            }
            uses = Some(spare.uses);
        }
        clock::sleep(SPARE_FOR).await;
    }
}

fn lock(spare: &Mutex<Spare>) -> MutexGuard<'_, Spare> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Spawner;

    #[test]
    fn f210_few_buffers_are_kept_for_the_next_chunk_and_not_for_long() {
        let sys = Sys::real(Spawner::new());
        let pieces = Pieces::default();
        for bytes in [PIECE_BYTES, SMALL_PIECE_BYTES, PIECE_BYTES, PIECE_BYTES] {
            pieces.keep(&sys, Vec::with_capacity(bytes));
        }
        assert_eq!(lock(&pieces.spare).buffers.len(), SPARE_MAX);
        assert_eq!(pieces.spare().unwrap().capacity(), PIECE_BYTES);
        sys.spawner.run(1, async {
            while lock(&pieces.spare).is_watched {
                clock::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(pieces.spare().is_none());
    }
}

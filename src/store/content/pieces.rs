//! How much of an upload is gathered before it is hashed and written.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes gathered before they are written; at most two pieces are in memory per upload. What is
/// written in large pieces lies in large pages, which cost less to write and to send.
const PIECE_BYTES: usize = 512 * 1024;
/// The same for all uploads beyond [`LARGE_PIECES_MAX`].
const SMALL_PIECE_BYTES: usize = 128 * 1024;
/// Uploads that gather large pieces at once, so that many of them need little memory.
const LARGE_PIECES_MAX: usize = 8;

/// Shares large pieces out.
#[derive(Default)]
pub(super) struct Pieces {
    /// Holders of large ones.
    large: AtomicUsize,
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
}

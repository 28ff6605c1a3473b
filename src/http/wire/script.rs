//! A transport for tests: reads come in the pieces that the test chose, each after a pause.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use smol::io::{AsyncRead, AsyncWrite};

/// What the far side sends, piece by piece, and what it got.
pub(in crate::http) struct Script {
    pieces: VecDeque<Vec<u8>>,
    paused: bool,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Script {
    /// Sends these pieces and then ends the stream.
    pub(in crate::http) fn new(
        pieces: impl IntoIterator<Item = Vec<u8>>,
    ) -> (Script, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        (Script { pieces, paused: false, written: written.clone() }, written)
    }

    /// Every way to cut `bytes` in two, and byte by byte.
    #[cfg(test)]
    pub(in crate::http) fn cuts(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut cuts: Vec<Vec<Vec<u8>>> =
            (0..bytes.len()).map(|at| vec![bytes[..at].to_vec(), bytes[at..].to_vec()]).collect();
        cuts.push(bytes.iter().map(|byte| vec![*byte]).collect());
        cuts
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(mut piece) = self.pieces.pop_front() else { return Poll::Ready(Ok(0)) };
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.pieces.push_front(piece.split_off(count));
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // One byte fewer than offered, so that every caller meets a short write.
        let count = bytes.len().div_ceil(2);
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

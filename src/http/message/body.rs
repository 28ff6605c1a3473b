//! The body of a request: it cannot run away, and what is kept of it in memory is counted.

use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use smol::io::{AsyncRead, AsyncReadExt};

use super::budget::{Budget, Busy, Reservation};
use super::sender::Sender;
use crate::sys::clock;
use crate::types::limits::BUFFER_BYTES;
use crate::types::{Reason, Refusal};

/// Seconds after which a client may try again to send a body for which there was no memory.
const BUSY_RETRY_AFTER_S: u64 = 5;
/// What a body that is parsed takes in memory, as a multiple of its length: a manifest with
/// thousands of short layers, its rows and their way into the index.
const PARSED_TIMES: u64 = 8;

/// Why a body cannot be had whole.
#[derive(Debug)]
pub enum BodyError {
    /// Longer than so many bytes.
    TooLarge(u64),
    /// Not whole in time.
    TooSlow,
    /// The memory for bodies was taken by others for too long.
    Busy,
    /// Ended early, malformed, or without progress.
    Io(io::Error),
}

impl BodyError {
    /// The answer to it; a body that is not whole is told with `code`.
    pub fn refusal(&self, code: &'static str) -> Refusal {
        match self {
            BodyError::TooLarge(max) => {
                let text = format!("the body is larger than {max} bytes");
                Refusal::new(413, "SIZE_INVALID", Reason::TooLarge, text)
            }
            BodyError::TooSlow => {
                let text = "the request body did not arrive in time";
                Refusal::new(408, code, Reason::Timeout, text)
            }
            BodyError::Busy => {
                let text = "other requests take all memory for bodies; try again soon";
                let mut refusal = Refusal::new(503, "TOOMANYREQUESTS", Reason::Throttled, text);
                refusal.retry_after_s = Some(BUSY_RETRY_AFTER_S);
                refusal
            }
            BodyError::Io(error) => {
                let (status, reason) = match error.kind() {
                    io::ErrorKind::TimedOut => (408, Reason::Timeout),
                    _ => (400, Reason::Malformed),
                };
                Refusal::new(status, code, reason, format!("the body is not whole: {error}"))
            }
        }
    }
}

impl From<Busy> for BodyError {
    fn from(_: Busy) -> BodyError {
        BodyError::Busy
    }
}

/// The body of a request, whole, with the memory that was reserved for it.
pub struct Whole {
    bytes: Vec<u8>,
    reservation: Option<Reservation>,
}

impl Whole {
    /// The bytes, and the reservation, which is to be kept while they are in memory.
    pub fn into_parts(self) -> (Vec<u8>, Option<Reservation>) {
        (self.bytes, self.reservation)
    }
}

impl Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body, framed: reading it past its end gives 0 and a truncated one gives `UnexpectedEof`.
pub struct Body {
    reader: Pin<Box<dyn AsyncRead + Send + Sync>>,
    len: Option<u64>,
    watch: Option<Box<dyn Watch>>,
    /// Where the memory for it comes from; `None` for a body that no server serves.
    budget: Option<Budget>,
}

/// Tells whether the sender of a body is still there.
pub(in crate::http) trait Watch: Send + Sync {
    /// Ready once it has closed its side, after the whole body.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::new(smol::io::empty(), Some(0))
    }

    /// Wraps a reader that ends where the body ends; `len` as declared, `None` when chunked.
    pub fn new(reader: impl AsyncRead + Send + Sync + 'static, len: Option<u64>) -> Body {
        Body { reader: Box::pin(reader), len, watch: None, budget: None }
    }

    /// Lets it take its memory from here.
    pub(in crate::http) fn draw_on(&mut self, budget: &Budget) {
        self.budget = Some(budget.clone());
    }

    /// Lets [`Body::gone`] know.
    pub(in crate::http) fn watch(&mut self, watch: impl Watch + 'static) {
        self.watch = Some(Box::new(watch));
    }

    /// Waits until the client has closed its side of the connection, for a handler that would
    /// wait long for nothing. Never ends while the body is unread, or for a body made by hand.
    pub async fn gone(&self) {
        poll_fn(|cx| match &self.watch {
            Some(watch) => watch.poll_gone(cx),
            None => Poll::Pending,
        })
        .await;
    }

    /// Length as declared by Content-Length; `None` when chunked.
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// Whether the body is declared to have no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == Some(0)
    }

    /// Reads some bytes; 0 at the end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).await
    }

    /// Receives the body of a request whole, within the bounds of its sender, at most `max` bytes.
    /// Every handler that takes a whole body takes it here. Its length, when chunked the most that
    /// it may have, is reserved before the first byte is read.
    pub async fn receive(&mut self, from: Sender, max: u64) -> Result<Whole, BodyError> {
        self.receive_for(from, max, 1).await
    }

    /// The same for a body that is parsed into what takes some times its length.
    pub async fn receive_to_parse(&mut self, from: Sender, max: u64) -> Result<Whole, BodyError> {
        self.receive_for(from, max, PARSED_TIMES).await
    }

    async fn receive_for(
        &mut self,
        from: Sender,
        max: u64,
        times: u64,
    ) -> Result<Whole, BodyError> {
        let max = from.bytes_max(max);
        let most = self.len.unwrap_or(max);
        if most > max {
            return Err(BodyError::TooLarge(max));
        }
        let reservation = self.reserve(from, most.saturating_mul(times)).await?;
        let bytes = clock::within(from.deadline(most), self.read_all(max)).await;
        Ok(Whole { bytes: bytes.unwrap_or(Err(BodyError::TooSlow))?, reservation })
    }

    /// Reserves memory for what a handler keeps of the body while it passes the rest on.
    pub async fn reserve(
        &self,
        from: Sender,
        bytes: u64,
    ) -> Result<Option<Reservation>, BodyError> {
        match &self.budget {
            Some(budget) => Ok(Some(budget.reserve(from, bytes).await?)),
            None => Ok(None),
        }
    }

    /// Reserves memory for bytes of an upload that are gathered before they are written; fails
    /// when there is none at once.
    pub fn reserve_for_upload(&self, bytes: u64) -> Result<Option<Reservation>, Busy> {
        self.budget.as_ref().map(|budget| budget.reserve_for_upload(bytes)).transpose()
    }

    /// Reserves memory for a reply that would take more than a connection has for it; fails when
    /// there is none at once.
    pub fn reserve_for_reply(&self, to: Sender, bytes: u64) -> Result<Option<Reservation>, Busy> {
        self.budget.as_ref().map(|budget| budget.reserve_for_reply_now(to, bytes)).transpose()
    }

    /// Reads it all, at most `max` bytes.
    pub async fn read_all(&mut self, max: u64) -> Result<Vec<u8>, BodyError> {
        if self.len.is_some_and(|len| len > max) {
            return Err(BodyError::TooLarge(max));
        }
        // Never more memory than the length, or the longest that is taken and one byte.
        let most = self.len.unwrap_or(max.saturating_add(1));
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut bytes = vec![0; if self.len.is_some() { most } else { most.min(BUFFER_BYTES) }];
        let mut filled = 0;
        loop {
            let mut end = [0];
            let full = filled == most;
            if filled == bytes.len() && !full {
                let more = filled.min(most - filled);
                bytes.reserve_exact(more);
                bytes.resize(filled + more, 0);
            }
            let free = if full { &mut end[..] } else { &mut bytes[filled..] };
            match self.reader.read(free).await.map_err(BodyError::Io)? {
                0 => break,
                read => filled += read,
            }
            if filled as u64 > max.min(most as u64) {
                return Err(BodyError::TooLarge(max));
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use smol::io::Cursor;

    use super::*;
    use crate::http::message::sender::Account;

    fn known() -> Sender {
        Sender::LoggedIn(Account::of("my-token"))
    }

    #[test]
    fn f209_a_body_reserves_what_it_declares_and_gives_it_back() {
        smol::block_on(async {
            let budget = Budget::new(1 << 20);
            for (bytes, len, reserved) in [(9_000, Some(9_000), 9_000), (300_000, None, 400_000)] {
                let mut body = Body::new(Cursor::new(vec![7; bytes]), len);
                body.draw_on(&budget);
                let whole = body.receive(known(), 400_000).await.ok().unwrap();
                assert!(whole.len() == bytes && whole.iter().all(|byte| *byte == 7));
                let (bytes, reservation) = whole.into_parts();
                assert!(bytes.capacity() <= 400_001, "{}", bytes.capacity());
                assert!(format!("{budget:?}").starts_with(&format!("{reserved} of ")));
                drop(reservation);
                assert!(format!("{budget:?}").starts_with("0 of "));
            }
            for (bytes, len) in [(401, Some(401)), (401, None), (5_000, None)] {
                let mut body = Body::new(Cursor::new(vec![7; bytes]), len);
                let refused = body.receive(known(), 400).await.err().unwrap();
                assert_eq!(refused.refusal("UNSUPPORTED").status, 413);
            }
        });
    }
}

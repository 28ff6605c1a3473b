//! The end of a connection whose client may still be sending when its answer has gone out.
//!
//! Closing a socket with unread bytes resets it. A client then finds that its sending failed, and
//! often never reads why: many send the whole request first. So what it sends is read and dropped,
//! within bounds that a slow client can keep. Meanwhile the connection counts as idle: it gives its
//! place to whoever needs one.

use std::future::poll_fn;

use smol::future::FutureExt;

use super::admission::Place;
use super::exchange::Shared;
use super::service::Service;
use crate::sys::clock;
use crate::sys::spawn::yield_now;
use crate::types::limits::{LINGER_BYTES_MAX, LINGER_STOP_DEADLINE};

/// Stack space for bytes that nobody wants.
const DISCARD_BYTES: usize = 16 * 1024;
/// Bytes that are dropped before other tasks have their turn.
const TURN_BYTES: u64 = 1024 * 1024;

/// Ends our direction of a connection, and waits until its client has ended its own.
pub(super) async fn linger(shared: &Shared, place: &mut Place, service: &Service) {
    let deadlines = service.deadlines;
    place.rest();
    let end = async {
        let closed = poll_fn(|cx| shared.lock().wire.poll_close(cx));
        if matches!(clock::within(deadlines.linger_pause, closed).await, Ok(Ok(()))) {
            discard(shared, service).await;
        }
    };
    let stop = async {
        service.shutdown.begun().await;
        clock::sleep(LINGER_STOP_DEADLINE).await;
    };
    let _ = clock::within(deadlines.linger, end.or(place.displaced()).or(stop)).await;
}

/// Reads and drops what comes. After so many bytes nothing more is read: a client that reads while
/// it sends is then held up, but not cut off, and has the time to find the answer.
async fn discard(shared: &Shared, service: &Service) {
    let pause = service.deadlines.linger_pause;
    let (mut left, mut turn) = (LINGER_BYTES_MAX, TURN_BYTES);
    while left > 0 {
        let some = poll_fn(|cx| shared.lock().wire.poll_read_timed(cx, &mut [0; DISCARD_BYTES]));
        let count = match clock::within(pause, some).await {
            Ok(Ok(count)) if count > 0 => count as u64,
            _ => return,
        };
        left = left.saturating_sub(count);
        turn = turn.saturating_sub(count);
        if turn == 0 {
            turn = TURN_BYTES;
            yield_now().await;
        }
    }
    clock::sleep(pause).await;
}

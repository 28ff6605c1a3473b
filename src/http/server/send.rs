//! Replies to bytes: a head, and the body or the file that follows it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_types::Method;
use rustix::io::Errno;
use rustix::net::{SendFlags, send as send_now};

use super::exchange::Shared;
use super::reply_head::ReplyHead;
use crate::http::message::reply::{Reply, ReplyBody};
use crate::http::wire::file::{read_cached, read_some};
use crate::http::wire::transport::Wire;
use crate::sys::Clock;
use crate::sys::disk::DiskFile;
use crate::sys::spawn::{blocking, yield_now};
use crate::types::limits::{BUFFER_BYTES, COPY_STEP_BYTES, SENDFILE_STEP_BYTES};

/// From this length on sendfile, or a write of its own, costs less than one copy behind the head,
/// bytes.
const SENDFILE_BYTES_MIN: u64 = 32 * 1024;
/// How much of a cold file is brought into memory in one go, bytes.
const READ_AHEAD_BYTES: u64 = 1024 * 1024;
/// Distance of the pages that are probed, bytes. A probe costs as much as sending 16 KiB; a hole
/// that lies between two of them holds up other transfers while it is read.
const PROBE_STEP_BYTES: u64 = 512 * 1024;

/// Tells a fault of our storage from one of the connection.
pub(super) const STORAGE_FAULT: io::ErrorKind = io::ErrorKind::InvalidData;

/// A range of a file that is to follow a head.
struct FileRange {
    file: Arc<dyn DiskFile>,
    offset: u64,
    len: u64,
}

/// Writes a reply, to HEAD without its body: handlers answer HEAD as they answer GET. Returns how
/// many bytes of body went out. After an error the connection is in the middle of a message and
/// must be closed.
pub(super) async fn send(
    shared: &Shared,
    clock: &dyn Clock,
    reply: Reply,
    method: Method,
    close: bool,
) -> io::Result<u64> {
    let bodyless = matches!(reply.status, 204 | 304) || reply.status < 200;
    let length = match &reply.body {
        _ if bodyless => None,
        ReplyBody::Empty => Some(0),
        ReplyBody::Bytes(bytes) => Some(bytes.len() as u64),
        ReplyBody::Head(len) | ReplyBody::File { len, .. } => Some(*len),
    };
    let Reply { status, headers, body, reservation: _reservation, .. } = reply;
    let (mut bytes, file) = match bodyless || method == Method::Head {
        true => (Vec::new(), None),
        false => content(body)?,
    };
    let sent = bytes.len() as u64;
    let date = clock.wall().and_then(|now| http_date(now.0));
    let head = ReplyHead { status, headers: &headers, length, close, date: date.as_deref() };
    let mut buffer = head.bytes(method)?;
    if let Some(file) = file {
        return send_file(shared, buffer, file).await;
    }
    if (bytes.len() as u64) < SENDFILE_BYTES_MIN {
        buffer.append(&mut bytes);
        bytes = Vec::new();
    }
    shared.write_all(&buffer).await?;
    drop(buffer);
    shared.write_all(&bytes).await?;
    shared.flush().await?;
    Ok(sent)
}

/// The bytes that follow a head, or the file that does.
fn content(body: ReplyBody) -> io::Result<(Vec<u8>, Option<FileRange>)> {
    match body {
        ReplyBody::Bytes(bytes) => Ok((bytes, None)),
        ReplyBody::File { file, offset, len } => {
            Ok((Vec::new(), Some(FileRange { file, offset, len })))
        }
        ReplyBody::Empty | ReplyBody::Head(0) => Ok((Vec::new(), None)),
        ReplyBody::Head(_) => {
            Err(io::Error::other("a reply without its body to a method that has one"))
        }
    }
}

thread_local! {
    /// The second that was asked for last, and its date: replies come by the thousand a second.
    static DATE: RefCell<(u64, Option<String>)> = const { RefCell::new((u64::MAX, None)) };
}

/// The form of RFC 9110 section 5.6.7, made once a second; `None` past the year 9999.
fn http_date(seconds: u64) -> Option<String> {
    DATE.with_borrow_mut(|(second, date)| {
        if *second != seconds {
            (*second, *date) = (seconds, format_date(seconds));
        }
        date.clone()
    })
}

fn format_date(seconds: u64) -> Option<String> {
    let timestamp = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&timestamp).ok()
}

async fn send_file(shared: &Shared, head: Vec<u8>, range: FileRange) -> io::Result<u64> {
    let plain = shared.lock().wire.as_tcp().is_some();
    if plain && range.len >= SENDFILE_BYTES_MIN && range.file.as_file().is_some() {
        let held = hold(shared, &head);
        shared.write_all(&head[held..]).await?;
        drop(head);
        sendfile(shared, &range).await?;
    } else {
        copy(shared, head, &range).await?;
    }
    Ok(range.len)
}

/// Gives the head to the system so that it leaves in one segment with the first bytes of the file,
/// as far as there is room; returns how far. What went wrong the next write meets as well.
fn hold(shared: &Shared, head: &[u8]) -> usize {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    let exchange = shared.lock();
    exchange.wire.as_tcp().and_then(|tcp| send_now(tcp, head, flags).ok()).unwrap_or_default()
}

/// The file is shorter than the head promised.
fn short() -> io::Error {
    storage("the file ended before the body did")
}

/// Our own storage failed, not the network: the one kind of error that is not the peer's.
fn storage(cause: impl std::fmt::Display) -> io::Error {
    io::Error::new(STORAGE_FAULT, format!("cannot read the content: {cause}"))
}

/// Kernel to kernel, in steps, so that transfers take turns.
async fn sendfile(shared: &Shared, range: &FileRange) -> io::Result<()> {
    let end = range.offset.saturating_add(range.len);
    let (mut offset, mut warm_until) = (range.offset, range.offset);
    let mut full = false;
    while offset < end {
        let step = (end - offset).min(SENDFILE_STEP_BYTES as u64);
        if offset + step > warm_until {
            warm_until = warm(range, offset, step).await.map_err(storage)?;
        }
        let target = offset + step;
        while offset < target {
            let sent = poll_fn(|cx| {
                let mut exchange = shared.lock();
                poll_sendfile(&mut exchange.wire, cx, range, &mut offset, target, &mut full)
            });
            if let Err(error) = sent.await {
                if error.kind() == STORAGE_FAULT {
                    // The system has read it unseen: whose file it is hears of it by this.
                    let file = range.file.clone();
                    let _ = blocking(move || file.bring_in(offset, 1)).await;
                }
                return Err(error);
            }
        }
        yield_now().await;
    }
    Ok(())
}

/// `full`: the socket has just taken less than it was offered. Offering it more at once is a call
/// in vain, which looks the pages up all the same. Whatever wakes us then, we offer again: a slow
/// reader may have made some room, but not as much as the system waits for.
fn poll_sendfile(
    wire: &mut Wire,
    cx: &mut Context<'_>,
    range: &FileRange,
    offset: &mut u64,
    target: u64,
    full: &mut bool,
) -> Poll<io::Result<()>> {
    let result = loop {
        let (Some(tcp), Some(file)) = (wire.as_tcp(), range.file.as_file()) else {
            return Poll::Ready(Err(io::Error::other("sendfile without a socket")));
        };
        if mem::take(full) {
            // The first answer may tell of room that is used up by now.
            let asked = match tcp.poll_writable(cx) {
                Poll::Ready(Ok(())) => tcp.poll_writable(cx),
                asked => asked,
            };
            if !matches!(asked, Poll::Ready(Ok(()))) {
                break asked;
            }
        }
        // A step fits any usize.
        let count = usize::try_from(target - *offset).unwrap_or(SENDFILE_STEP_BYTES);
        match rustix::fs::sendfile(tcp, file, Some(offset), count) {
            Ok(0) => break Poll::Ready(Err(short())),
            Ok(sent) => {
                *full = sent < count;
                break Poll::Ready(Ok(()));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match tcp.poll_writable(cx) {
                Poll::Ready(Ok(())) => {}
                result => break result,
            },
            Err(error @ (Errno::IO | Errno::UCLEAN | Errno::BADMSG)) => {
                break Poll::Ready(Err(storage(error)));
            }
            Err(error) => break Poll::Ready(Err(error.into())),
        }
    };
    wire.timed(cx, result)
}

/// Makes sure that sendfile will not wait for the disk, as that would stop every other task of
/// this thread. Pages that are not in memory are read by the pool. Returns up to where.
async fn warm(range: &FileRange, offset: u64, step: u64) -> io::Result<u64> {
    let first = (offset == range.offset).then_some(offset);
    let mut probes = first.into_iter().chain(probes(offset, offset + step));
    if probes.all(|at| matches!(read_cached(&range.file, &mut [0], at), Some(Ok(_)))) {
        return Ok(offset + step);
    }
    let end = range.offset.saturating_add(range.len);
    let until = end.min(offset.saturating_add(READ_AHEAD_BYTES));
    let file = range.file.clone();
    blocking(move || file.bring_in(offset, until - offset).map(|()| until)).await
}

/// The last of every so many bytes of a range, up to its very last. What lies before its first
/// byte was the end of another.
fn probes(start: u64, end: u64) -> impl Iterator<Item = u64> {
    let steps = (end - start).div_ceil(PROBE_STEP_BYTES);
    (1..=steps).map(move |step| (start + step * PROBE_STEP_BYTES).min(end) - 1)
}

/// Through one buffer: TLS, unix sockets, simulated disks and what is small enough to share a
/// packet with its head.
async fn copy(shared: &Shared, head: Vec<u8>, range: &FileRange) -> io::Result<()> {
    let mut filled = head.len();
    let mut buffer = head;
    let len = usize::try_from(range.len).unwrap_or(usize::MAX);
    let size = buffer.len().saturating_add(len).min(BUFFER_BYTES.max(buffer.len()));
    buffer.resize(size, 0);
    let (mut offset, end) = (range.offset, range.offset.saturating_add(range.len));
    let mut since_yield = 0;
    while offset < end {
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        buffer.truncate(filled.saturating_add(left).min(size));
        if filled < buffer.len() {
            let read = read_some(&range.file, &mut buffer, filled, offset).await;
            let count = read.map_err(storage)?;
            if count == 0 {
                return Err(short());
            }
            filled += count;
            offset += count as u64;
        }
        if filled == buffer.len() {
            shared.write_all(&buffer).await?;
            since_yield += filled;
            filled = 0;
            buffer.resize(size, 0);
        }
        if since_yield >= COPY_STEP_BYTES {
            since_yield = 0;
            yield_now().await;
        }
    }
    shared.write_all(&buffer[..filled]).await?;
    shared.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_form_of_http() {
        for _ in 0..2 {
            assert_eq!(http_date(784_111_777).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
            assert_eq!(http_date(784_111_778).as_deref(), Some("Sun, 06 Nov 1994 08:49:38 GMT"));
            assert_eq!(http_date(u64::MAX), None);
        }
    }

    #[test]
    fn probes_leave_no_long_gap() {
        assert_eq!(probes(5, 6).collect::<Vec<_>>(), [5]);
        assert_eq!(probes(0, PROBE_STEP_BYTES).collect::<Vec<_>>(), [524_287]);
        assert_eq!(probes(1, PROBE_STEP_BYTES + 2).collect::<Vec<_>>(), [524_288, 524_289]);
    }
}

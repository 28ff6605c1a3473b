//! Replies on the wire: the head and small bodies in one write, files without a copy.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_types::{Method, Response, StatusCode};
use smol::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::conn::Transport;
use super::{Reply, ReplyBody};
use crate::sys::clock::within;
use crate::sys::disk::DiskFile;
use crate::sys::net::Stream;
use crate::sys::spawn::{blocking, yield_now};
use crate::types::limits::{BUFFER_BYTES, SENDFILE_STEP_BYTES};

/// How far a cold file is read ahead, bytes.
const READ_AHEAD_BYTES: u64 = 2 * 1024 * 1024;

/// Writes a reply; returns the number of body bytes.
pub(super) async fn send_reply(
    stream: &mut Transport,
    reply: Reply,
    method: Method,
    keep_alive: bool,
    progress: Duration,
) -> io::Result<u64> {
    let is_head = method == Method::Head;
    let len = match &reply.body {
        ReplyBody::Empty => 0,
        ReplyBody::Bytes(bytes) => bytes.len() as u64,
        ReplyBody::Head(len) | ReplyBody::File { len, .. } => *len,
    };
    let mut head = encode_head(&reply, method, len, keep_alive).await?;
    let sent = match reply.body {
        ReplyBody::Bytes(bytes) if !is_head => {
            head.extend_from_slice(&bytes);
            write_all(stream, &head, progress).await?;
            len
        }
        ReplyBody::File { file, offset, len } if !is_head => {
            write_all(stream, &head, progress).await?;
            send_file(stream, &file, offset, len, progress).await?;
            len
        }
        _ => {
            write_all(stream, &head, progress).await?;
            0
        }
    };
    within(progress, stream.flush())
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok(sent)
}

/// The head as async-h1 writes it, with the lengths that it cannot write.
async fn encode_head(
    reply: &Reply,
    method: Method,
    len: u64,
    keep_alive: bool,
) -> io::Result<Vec<u8>> {
    let status = StatusCode::try_from(reply.status).unwrap_or(StatusCode::InternalServerError);
    let mut response = Response::new(status);
    for (name, value) in &reply.headers {
        // The codec panics on what is not ASCII and does not filter line ends.
        let visible = value.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' });
        response.append_header(*name, visible.collect::<String>());
    }
    if !keep_alive {
        response.insert_header("connection", "close");
    }
    // Body lengths are usize there; on a 32-bit board the true length is put in below.
    let declared = usize::try_from(len).unwrap_or(usize::MAX);
    let body = http_types::Body::from_reader(smol::io::empty(), Some(declared));
    let content_type = response.header("content-type").map(|v| v.as_str().to_owned());
    response.set_body(body);
    match content_type {
        Some(content_type) => drop(response.insert_header("content-type", content_type)),
        None => drop(response.remove_header("content-type")),
    }
    let mut head = Vec::with_capacity(512);
    let mut encoder = async_h1::server::Encoder::new(response, method);
    encoder.read_to_end(&mut head).await?;
    let no_length = matches!(reply.status, 100..=199 | 204 | 304);
    if no_length || declared as u64 != len {
        let text = String::from_utf8_lossy(&head).into_owned();
        let is_length = |line: &&str| !line.to_ascii_lowercase().starts_with("content-length:");
        let mut lines: Vec<String> =
            text.trim_end().split("\r\n").filter(is_length).map(str::to_owned).collect();
        if !no_length {
            lines.push(format!("content-length: {len}"));
        }
        head = format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes();
    }
    Ok(head)
}

/// Writes all of `bytes`; every piece must go out within the progress deadline.
pub(super) async fn write_all<S: AsyncWrite + Unpin>(
    stream: &mut S,
    mut bytes: &[u8],
    progress: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = within(progress, stream.write(bytes)).await;
        match written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// Sends a range of a file: by sendfile on a plain connection, through a buffer otherwise.
pub(super) async fn send_file(
    stream: &mut Transport,
    file: &Arc<dyn DiskFile>,
    offset: u64,
    len: u64,
    progress: Duration,
) -> io::Result<()> {
    match stream {
        Transport::Plain(plain) if file.as_file().is_some() => {
            sendfile(plain, file, offset, len, progress).await
        }
        _ => copy_file(stream, file, offset, len, progress).await,
    }
}

async fn sendfile(
    stream: &mut Stream,
    file: &Arc<dyn DiskFile>,
    mut offset: u64,
    mut len: u64,
    progress: Duration,
) -> io::Result<()> {
    while len > 0 {
        let step = len.min(SENDFILE_STEP_BYTES as u64);
        if !is_cached(file, offset) || !is_cached(file, offset + step - 1) {
            warm(file, offset, step).await?;
        }
        let real = file.as_file().ok_or(io::ErrorKind::Unsupported)?;
        let mut position = offset;
        let count = usize::try_from(step).unwrap_or(SENDFILE_STEP_BYTES);
        match rustix::fs::sendfile(stream.fd(), real, Some(&mut position), count) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => {
                offset += sent as u64;
                len -= sent as u64;
                yield_now().await;
            }
            Err(rustix::io::Errno::AGAIN) => {
                let writable = within(progress, stream.writable()).await;
                writable.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) async fn copy_file<S: AsyncWrite + Unpin>(
    stream: &mut S,
    file: &Arc<dyn DiskFile>,
    mut offset: u64,
    mut len: u64,
    progress: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while len > 0 {
        let want = usize::try_from(len).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let read = match read_cached(file, &mut buffer[..want], offset) {
            Some(read) => read,
            None => {
                let file = file.clone();
                let read = move || {
                    let read = file.read_at(&mut buffer[..want], offset);
                    (buffer, read)
                };
                let (filled, read) = blocking(read).await;
                buffer = filled;
                read?
            }
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all(stream, &buffer[..read], progress).await?;
        offset += read as u64;
        len -= read as u64;
        yield_now().await;
    }
    Ok(())
}

/// Reads what the page cache holds; `None` when the disk would have to be waited for.
fn read_cached(file: &Arc<dyn DiskFile>, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let mut buffers = [io::IoSliceMut::new(buffer)];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    let read = rustix::io::preadv2(file.as_file()?, &mut buffers, offset, flags);
    read.ok().filter(|read| *read > 0)
}

fn is_cached(file: &Arc<dyn DiskFile>, offset: u64) -> bool {
    read_cached(file, &mut [0], offset).is_some()
}

/// Brings the next pages into the cache, in the pool: sendfile would wait for the disk on the
/// executor's own thread.
async fn warm(file: &Arc<dyn DiskFile>, offset: u64, step: u64) -> io::Result<()> {
    let file = file.clone();
    blocking(move || {
        if let Some(real) = file.as_file() {
            let ahead = std::num::NonZeroU64::new(READ_AHEAD_BYTES);
            let _ = rustix::fs::fadvise(real, offset, ahead, rustix::fs::Advice::WillNeed);
        }
        let mut scratch = vec![0; BUFFER_BYTES];
        let mut done = 0;
        while done < step {
            let want = usize::try_from(step - done).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            match file.read_at(&mut scratch[..want], offset + done)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read as u64,
            }
        }
        Ok(())
    })
    .await
}

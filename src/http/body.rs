//! Body framing: a length, chunks, or until the peer closes; 100 Continue on the first read.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use smol::io::{AsyncRead, AsyncWrite};

use super::head::{Buffer, Framing};

/// Longest line of a chunk size with its extensions, or of a trailer, bytes. Over it: 400.
const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// Most trailer lines; all are ignored. Over it: 400.
const TRAILERS_MAX: u8 = 32;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Length(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers(u8),
    Done,
    Failed,
}

/// A connection while a body of its is read. The loop takes the stream back with
/// [`Incoming::release`]; a body that outlives that reads an error.
pub(super) struct Incoming<S> {
    stream: Option<S>,
    buffer: Buffer,
    state: State,
    continue_left: usize,
}

/// Where the body reader and the connection loop meet.
pub(super) type Shared<S> = Arc<Mutex<Incoming<S>>>;

/// What comes back when a body is done with.
pub(super) struct Released<S> {
    pub(super) stream: S,
    pub(super) buffer: Buffer,
    /// Whether the body was read to its end.
    pub(super) complete: bool,
    /// Whether 100 Continue is still owed: the client has not sent the body.
    pub(super) owes_continue: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Incoming<S> {
    pub(super) fn new(
        stream: S,
        buffer: Buffer,
        framing: Framing,
        expects_continue: bool,
    ) -> Shared<S> {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(len) => State::Length(len),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
        let owed = expects_continue && state != State::Done;
        let continue_left = if owed { CONTINUE.len() } else { 0 };
        Arc::new(Mutex::new(Incoming { stream: Some(stream), buffer, state, continue_left }))
    }

    /// Takes the connection back.
    pub(super) fn release(shared: &Shared<S>) -> Option<Released<S>> {
        let mut incoming = shared.lock().ok()?;
        let stream = incoming.stream.take()?;
        Some(Released {
            stream,
            buffer: std::mem::take(&mut incoming.buffer),
            complete: incoming.state == State::Done,
            owes_continue: incoming.continue_left == CONTINUE.len(),
        })
    }

    /// Whether the body was read to its end.
    pub(super) fn complete(&self) -> bool {
        self.state == State::Done
    }

    /// Ready when the body is complete and the peer has closed. A pipelined request stays in the
    /// buffer, and is then proof enough that the peer is there.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state != State::Done || !self.buffer.filled().is_empty() {
            return Poll::Pending;
        }
        let Some(stream) = self.stream.as_mut() else {
            return Poll::Pending;
        };
        match ready!(self.buffer.poll_fill(cx, stream, 4096)) {
            Ok(read) if read > 0 => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    /// How much of a body of declared length is left.
    pub(super) fn length_left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        if out.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let result = self.poll_state(cx, out);
        if let Poll::Ready(Err(_)) = &result {
            self.state = State::Failed;
        }
        result
    }

    fn poll_state(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.state {
                State::Done => return Poll::Ready(Ok(0)),
                State::Failed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                State::Length(left) => {
                    let read = ready!(self.poll_bytes(cx, out, left))?;
                    let left = left - read as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Poll::Ready(Ok(read));
                }
                State::UntilClose => {
                    return match ready!(self.poll_bytes(cx, out, u64::MAX)) {
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                            self.state = State::Done;
                            Poll::Ready(Ok(0))
                        }
                        result => Poll::Ready(result),
                    };
                }
                State::ChunkData(left) => {
                    let read = ready!(self.poll_bytes(cx, out, left))?;
                    let left = left - read as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return Poll::Ready(Ok(read));
                }
                State::ChunkSize => {
                    let line = ready!(self.poll_line(cx))?;
                    let size = chunk_size(&line).ok_or_else(|| malformed("a chunk size"))?;
                    self.state =
                        if size == 0 { State::Trailers(0) } else { State::ChunkData(size) };
                }
                State::ChunkEnd => {
                    if !ready!(self.poll_line(cx))?.is_empty() {
                        return Poll::Ready(Err(malformed("the end of a chunk")));
                    }
                    self.state = State::ChunkSize;
                }
                State::Trailers(seen) => {
                    if ready!(self.poll_line(cx))?.is_empty() {
                        self.state = State::Done;
                    } else if seen == TRAILERS_MAX {
                        return Poll::Ready(Err(malformed("the trailers: too many")));
                    } else {
                        self.state = State::Trailers(seen + 1);
                    }
                }
            }
        }
    }

    /// Some of the next `max` bytes, from the buffer first.
    fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut [u8],
        max: u64,
    ) -> Poll<io::Result<usize>> {
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(out.len());
        let filled = self.buffer.filled();
        if !filled.is_empty() {
            let n = max.min(filled.len());
            out[..n].copy_from_slice(&filled[..n]);
            self.buffer.consume(n);
            return Poll::Ready(Ok(n));
        }
        ready!(self.poll_continue(cx))?;
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        match ready!(Pin::new(stream).poll_read(cx, &mut out[..max]))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            read => Poll::Ready(Ok(read)),
        }
    }

    /// The next line without its end.
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        loop {
            let filled = self.buffer.filled();
            if let Some(end) = filled.iter().position(|b| *b == b'\n') {
                let line = filled[..end].strip_suffix(b"\r").map(<[u8]>::to_vec);
                self.buffer.consume(end + 1);
                return Poll::Ready(line.ok_or_else(|| malformed("a line end")));
            }
            if filled.len() > CHUNK_LINE_BYTES_MAX {
                return Poll::Ready(Err(malformed("a chunk line: too long")));
            }
            ready!(self.poll_continue(cx))?;
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            if ready!(self.buffer.poll_fill(cx, stream, 4096))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Tells the client to go on, before the first read that has to wait for it.
    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.continue_left > 0 {
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let rest = &CONTINUE[CONTINUE.len() - self.continue_left..];
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.continue_left -= written,
            }
            if self.continue_left == 0 {
                // Best effort: a TLS stream flushes again on its next write.
                let _ = Pin::new(stream).poll_flush(cx);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed body: {what}"))
}

/// `1a;extension` to 26. A sign, a blank, or more digits than a u64 holds are malformed.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii_end();
    let hex = !digits.is_empty() && digits.len() <= 16 && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| hex)?;
    u64::from_str_radix(text, 16).ok()
}

/// The body as its reader sees it.
pub(super) struct BodyReader<S>(pub(super) Shared<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for BodyReader<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.0.lock() {
            Ok(mut incoming) => incoming.poll_body(cx, out),
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

//! Where a body ends: by length, by chunks, or with the connection (RFC 9112 section 6).

use std::io;
use std::task::{Context, Poll, ready};

use super::transport::Wire;

/// Longest line with a chunk size and its extensions, bytes. Over it: 400.
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Most bytes of trailer fields after the last chunk; they are read and dropped. Over it: 400.
const TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Below this the rest of a chunk is received together with the line that follows it, bytes.
const DIRECT_BYTES_MIN: u64 = 4 * 1024;

/// How the rest of a body is framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::http) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// A chunk size line comes next.
    ChunkSize,
    /// So many bytes of the chunk are still to come.
    ChunkData(u64),
    /// The line end after a chunk comes next.
    ChunkEnd,
    /// Trailer fields, of which so many bytes were read.
    Trailers(usize),
    /// The body ends with the connection.
    UntilClose,
    /// Nothing is left, and the connection stands at the next message.
    End,
    /// Nothing is left, and the connection is of no further use.
    Closed,
}

impl Framing {
    /// Whether the connection stands behind the body, ready for the next message.
    pub(in crate::http) fn is_over(self) -> bool {
        matches!(self, Framing::End | Framing::Length(0))
    }

    /// Reads bytes of the body; 0 at its end. A peer that leaves early gives `UnexpectedEof`, a
    /// malformed chunk `InvalidData`, a peer that stops sending `TimedOut`. After an error the
    /// framing is [`Framing::Closed`].
    pub(in crate::http) fn poll_read(
        &mut self,
        wire: &mut Wire,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let result = ready!(self.step(wire, cx, buffer));
        if result.is_err() {
            *self = Framing::Closed;
        }
        Poll::Ready(result)
    }

    fn step(
        &mut self,
        wire: &mut Wire,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match *self {
                Framing::End | Framing::Closed => return Poll::Ready(Ok(0)),
                Framing::Length(0) => *self = Framing::End,
                Framing::ChunkData(0) => *self = Framing::ChunkEnd,
                Framing::Length(left) => {
                    let count = ready!(read_part(wire, cx, buffer, left))?;
                    *self = Framing::Length(left - count as u64);
                    return Poll::Ready(Ok(count));
                }
                Framing::ChunkData(left) => {
                    if wire.received().is_empty() && left < DIRECT_BYTES_MIN {
                        ready!(fill(wire, cx))?;
                    }
                    let count = ready!(read_part(wire, cx, buffer, left))?;
                    *self = Framing::ChunkData(left - count as u64);
                    return Poll::Ready(Ok(count));
                }
                Framing::UntilClose => {
                    let count = ready!(wire.poll_read_timed(cx, buffer))?;
                    if count == 0 {
                        *self = Framing::Closed;
                    }
                    return Poll::Ready(Ok(count));
                }
                Framing::ChunkSize => {
                    let line = ready!(line(wire, cx, CHUNK_LINE_BYTES_MAX))?;
                    *self = match chunk_size(&line)? {
                        0 => Framing::Trailers(0),
                        size => Framing::ChunkData(size),
                    };
                }
                Framing::ChunkEnd => {
                    if !ready!(line(wire, cx, 0))?.is_empty() {
                        return Poll::Ready(Err(malformed("a chunk is longer than its size")));
                    }
                    *self = Framing::ChunkSize;
                }
                Framing::Trailers(read) => {
                    let line = ready!(line(wire, cx, TRAILER_BYTES_MAX - read))?;
                    if line.is_empty() {
                        *self = Framing::End;
                    } else {
                        let read = read + line.len() + 2;
                        *self = Framing::Trailers(read.min(TRAILER_BYTES_MAX));
                    }
                }
            }
        }
    }
}

fn malformed(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn read_part(
    wire: &mut Wire,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
    left: u64,
) -> Poll<io::Result<usize>> {
    let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
    match ready!(wire.poll_read_timed(cx, &mut buffer[..count]))? {
        0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        count => Poll::Ready(Ok(count)),
    }
}

fn fill(wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match ready!(wire.poll_fill_timed(cx))? {
        0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        _ => Poll::Ready(Ok(())),
    }
}

/// Takes a line of at most `max` bytes, without its CRLF. A line end that arrives in two pieces
/// is still one: the line stays in the receive buffer until it is whole.
fn line(wire: &mut Wire, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Vec<u8>>> {
    loop {
        let received = wire.received();
        let window = &received[..received.len().min(max + 2)];
        if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
            let Some(line) = window[..end].strip_suffix(b"\r") else {
                return Poll::Ready(Err(malformed("a line of a chunked body ends without CRLF")));
            };
            if line.iter().any(|byte| *byte != b'\t' && (*byte < b' ' || *byte == 0x7f)) {
                return Poll::Ready(Err(malformed("a control byte in the frame of a body")));
            }
            let line = line.to_vec();
            wire.consume(end + 1);
            return Poll::Ready(Ok(line));
        }
        if window.len() == max + 2 {
            return Poll::Ready(Err(malformed("a line of a chunked body is too long")));
        }
        ready!(fill(wire, cx))?;
    }
}

/// The size before any extension. At least one digit; 16 hold every u64. Blanks belong to an
/// extension (RFC 9112, section 7.1.1): without one, where the size ends is a matter of opinion.
fn chunk_size(line: &[u8]) -> io::Result<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    if !(rest.is_empty() || rest.trim_ascii_start().starts_with(b";")) {
        return Err(malformed("a chunk size is not a number"));
    }
    let digits = std::str::from_utf8(digits).map_err(io::Error::other)?;
    if digits.len() > 16 {
        return Err(malformed("a chunk size is too large"));
    }
    u64::from_str_radix(digits, 16).map_err(|_| malformed("a chunk size is missing"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::http::wire::script::Script;
    use crate::http::wire::transport::Transport;
    use crate::sys::SystemClock;

    fn wire(pieces: Vec<Vec<u8>>) -> Wire {
        let (script, _) = Script::new(pieces);
        let clock = Arc::new(SystemClock::new());
        Wire::new(Transport::Script(script), clock, Duration::from_secs(5))
    }

    /// The body, the framing after it, and what is left for the next message.
    fn read(pieces: Vec<Vec<u8>>, mut framing: Framing) -> io::Result<(Vec<u8>, Framing, Vec<u8>)> {
        smol::block_on(async {
            let mut wire = wire(pieces);
            let (mut body, mut buffer) = (Vec::new(), [0; 7]);
            loop {
                let read = |cx: &mut Context<'_>| framing.poll_read(&mut wire, cx, &mut buffer);
                match std::future::poll_fn(read).await? {
                    0 => break,
                    count => body.extend_from_slice(&buffer[..count]),
                }
            }
            while std::future::poll_fn(|cx| wire.poll_fill(cx)).await? > 0 {}
            Ok((body, framing, wire.received().to_vec()))
        })
    }

    #[test]
    fn chunks_may_be_cut_anywhere() {
        let sent = b"4\r\nWiki\r\n00B ; name=\"v\"\r\npedia in 11\r\n0\r\nSum: 1\r\n\r\nGET /";
        for pieces in Script::cuts(sent) {
            let (body, framing, rest) = read(pieces.clone(), Framing::ChunkSize).unwrap();
            assert_eq!(body, b"Wikipedia in 11", "{pieces:?}");
            assert_eq!((framing, &rest[..]), (Framing::End, &b"GET /"[..]));
        }
    }

    #[test]
    fn hostile_chunks_are_errors() {
        let long = format!("4;{}\r\n", "x".repeat(400));
        let trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(1000));
        for bad in [
            "\r\nabc",
            "-4\r\nabcd\r\n0\r\n\r\n",
            "+4\r\nabcd\r\n0\r\n\r\n",
            "0x4\r\nabcd\r\n0\r\n\r\n",
            "4\nabcd\r\n0\r\n\r\n",
            "4 5\r\nabcd\r\n0\r\n\r\n",
            "4 \r\nabcd\r\n0\r\n\r\n",
            "4\t\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "11111111111111111\r\nabcd",
            "4;a\rb\r\nabcd\r\n0\r\n\r\n",
            &long,
            &trailers,
        ] {
            let result = read(vec![bad.as_bytes().to_vec()], Framing::ChunkSize);
            let kind = result.map(|(body, ..)| body).map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::InvalidData), "{bad:?}");
        }
    }

    #[test]
    fn a_peer_that_leaves_early_is_an_error() {
        for (bytes, framing) in [
            (&b"abc"[..], Framing::Length(10)),
            (b"", Framing::Length(1)),
            (b"4\r\nab", Framing::ChunkSize),
            (b"4\r\nabcd\r\n", Framing::ChunkSize),
            (b"4\r\nabcd\r\n0\r\n", Framing::ChunkSize),
        ] {
            let kind = read(vec![bytes.to_vec()], framing).map_err(|error| error.kind());
            assert_eq!(kind, Err(io::ErrorKind::UnexpectedEof), "{bytes:?}");
        }
        let (body, framing, _) = read(vec![b"abc".to_vec()], Framing::UntilClose).unwrap();
        assert_eq!((&body[..], framing), (&b"abc"[..], Framing::Closed));
    }

    #[test]
    fn a_length_leaves_the_next_message_alone() {
        for pieces in Script::cuts(b"0123456789GET /") {
            let (body, _, rest) = read(pieces, Framing::Length(10)).unwrap();
            assert_eq!((&body[..], &rest[..]), (&b"0123456789"[..], &b"GET /"[..]));
        }
    }
}

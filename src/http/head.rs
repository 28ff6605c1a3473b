//! Request heads: read into a bounded buffer, checked, then decoded by the codec.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http_types::Method;
use smol::io::{AsyncRead, AsyncWrite};

use crate::types::limits::{BUFFER_BYTES, HEAD_BYTES_MAX, HEADERS_MAX};
use crate::types::{Reason, Refusal};

/// How a body is framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// Content-Length, or none.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// Until the peer closes: answers only.
    UntilClose,
}

/// A request head that passed every check.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) host: Option<String>,
    pub(super) framing: Framing,
    pub(super) expects_continue: bool,
    pub(super) keep_alive: bool,
}

/// The bytes of a connection that have been read and not yet used: pipelined requests stay here.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// What is there.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Drops the first `n` bytes, which have been used.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start >= self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
            // An idle connection keeps no more than a head's worth.
            self.bytes.shrink_to(HEAD_BYTES_MAX);
        }
    }

    /// Reads more from the peer, at most `max` bytes; 0 at the end of the stream.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let len = self.bytes.len();
        self.bytes.resize(len + max.min(BUFFER_BYTES), 0);
        let read = Pin::new(stream).poll_read(cx, &mut self.bytes[len..]);
        let got = if let Poll::Ready(Ok(read)) = &read { *read } else { 0 };
        self.bytes.truncate(len + got);
        read
    }
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum HeadError {
    /// The peer closed between requests.
    Closed,
    /// The connection broke.
    Io(io::Error),
    /// The head is refused: say so and close.
    Refused(Refusal),
}

fn bad(status: u16, message: &str) -> HeadError {
    let reason = match status {
        413 | 414 | 431 => Reason::TooLarge,
        501 | 505 | 405 => Reason::Unsupported,
        _ => Reason::Malformed,
    };
    HeadError::Refused(Refusal::new(status, "UNSUPPORTED", reason, message))
}

/// Reads until the buffer holds one whole head; returns the head's length.
pub(super) async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Buffer,
) -> Result<usize, HeadError> {
    let mut seen = 0;
    loop {
        // A client may send empty lines before a request (RFC 9112, section 2.2).
        while buffer.filled().starts_with(b"\r\n") && seen < 8 {
            buffer.consume(2);
            seen += 1;
        }
        let filled = buffer.filled();
        // A TLS client hello: say at once that it knocks at the wrong door, it waits for an answer.
        if filled.first().is_some_and(|byte| !byte.is_ascii_graphic()) {
            return Err(bad(400, "this listener speaks plain HTTP, not TLS"));
        }
        if let Some(end) = filled.windows(4).position(|w| w == b"\r\n\r\n") {
            if end + 4 > HEAD_BYTES_MAX {
                return Err(bad(431, "the request head is larger than 16 KiB"));
            }
            return Ok(end + 4);
        }
        if filled.len() >= HEAD_BYTES_MAX {
            return Err(bad(431, "the request head is larger than 16 KiB"));
        }
        let was_empty = filled.is_empty();
        match poll_fn(|cx| buffer.poll_fill(cx, stream, 4096)).await {
            Ok(0) if was_empty => return Err(HeadError::Closed),
            Ok(0) => return Err(bad(400, "the connection ended inside a request head")),
            Ok(_) => {}
            Err(error) => return Err(HeadError::Io(error)),
        }
    }
}

/// Checks a head and hands what is left of it to the codec.
pub(super) async fn parse(bytes: &[u8]) -> Result<Head, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut raw = httparse::Request::new(&mut fields);
    match raw.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(bad(400, "the request head is incomplete")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(bad(431, "the request has more than 64 header fields"));
        }
        Err(httparse::Error::Version) => {
            return Err(bad(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"));
        }
        Err(error) => return Err(bad(400, &format!("malformed request head: {error}"))),
    }
    let (Some(method), Some(target), Some(version)) = (raw.method, raw.path, raw.version) else {
        return Err(bad(400, "the request line is incomplete"));
    };
    let headers = check_fields(raw.headers)?;
    let framing = framing(&headers, version)?;
    let (target, host) = target_and_host(method, target, &headers, version)?;
    let (path, query) = split_target(&target)?;
    let method = decode(method, &headers).await?;
    let is = |name: &str, wanted: &str| {
        let values = headers.iter().filter(|(n, _)| n == name);
        let mut words = values.flat_map(|(_, v)| v.split(','));
        words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    let expects_continue = version == 1 && is("expect", "100-continue");
    if headers.iter().any(|(n, _)| n == "expect") && version == 1 && !expects_continue {
        return Err(bad(417, "the only expectation that is met here is 100-continue"));
    }
    let keep_alive = version == 1 && !is("connection", "close");
    Ok(Head { method, path, query, headers, host, framing, expects_continue, keep_alive })
}

/// Header fields with lower-case names; nothing but printable ASCII gets through.
fn check_fields(fields: &[httparse::Header<'_>]) -> Result<Vec<(String, String)>, HeadError> {
    fields
        .iter()
        .map(|field| {
            let printable = |b: &u8| (0x20..0x7f).contains(b) || *b == b'\t';
            if !field.value.iter().all(printable) {
                let text = format!("the value of header field '{}' is not ASCII", field.name);
                return Err(bad(400, &text));
            }
            let value = String::from_utf8_lossy(field.value).trim().to_owned();
            Ok((field.name.to_ascii_lowercase(), value))
        })
        .collect()
}

/// RFC 9112, section 6: what could be read in two ways is refused.
fn framing(headers: &[(String, String)], version: u8) -> Result<Framing, HeadError> {
    let all = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    };
    let (lengths, encodings) = (all("content-length"), all("transfer-encoding"));
    match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
            let length = length.parse().map_err(|_| bad(400, "Content-Length is too large"))?;
            Ok(Framing::Length(length))
        }
        ([_], []) => Err(bad(400, "Content-Length is not a number")),
        ([], [encoding]) if encoding.eq_ignore_ascii_case("chunked") && version == 1 => {
            Ok(Framing::Chunked)
        }
        ([], _) => Err(bad(501, "the only transfer encoding accepted is chunked")),
        (_, []) => Err(bad(400, "more than one Content-Length")),
        _ => Err(bad(400, "both Content-Length and Transfer-Encoding")),
    }
}

/// Splits an absolute-form target and checks the host (RFC 9112, section 3.2).
fn target_and_host(
    method: &str,
    target: &str,
    headers: &[(String, String)],
    version: u8,
) -> Result<(String, Option<String>), HeadError> {
    let hosts: Vec<&str> =
        headers.iter().filter(|(n, _)| n == "host").map(|(_, v)| v.as_str()).collect();
    let mut host = match hosts.as_slice() {
        [] if version == 0 => None,
        [] => return Err(bad(400, "the Host header field is missing")),
        [host] => Some((*host).to_owned()),
        _ => return Err(bad(400, "more than one Host header field")),
    };
    let absolute = ["http://", "https://"].iter().find_map(|s| target.strip_prefix(s));
    let target = match absolute {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            host = Some(rest[..end].to_owned());
            if rest[end..].starts_with('/') {
                rest[end..].to_owned()
            } else {
                format!("/{}", &rest[end..])
            }
        }
        None if target == "*" && method == "OPTIONS" => "/".to_owned(),
        None if target.starts_with('/') => target.to_owned(),
        None => return Err(bad(400, "the request target is not a path")),
    };
    let good = |host: &str| {
        !host.is_empty()
            && host.len() <= 255
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]_".contains(&b))
    };
    if host.as_deref().is_some_and(|host| !good(host)) {
        return Err(bad(400, "the Host header field is not host or host:port"));
    }
    Ok((target, host))
}

/// A decoded path and its query, in order.
type Target = (String, Vec<(String, String)>);

/// Decodes the path once; what would name another resource after a second look is refused.
fn split_target(target: &str) -> Result<Target, HeadError> {
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = percent_decode(path, false)
        .ok_or_else(|| bad(400, "the path has a malformed percent-encoding"))?;
    let odd = |part: &str| part == "." || part == "..";
    let control = path.bytes().any(|b| b < 0x20 || b == 0x7f || b == b'\\');
    if control || path.split('/').any(odd) {
        return Err(bad(400, "the path has dot segments, backslashes or control characters"));
    }
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent_decode(name, true).zip(percent_decode(value, true));
        pairs.push(decoded.ok_or_else(|| bad(400, "the query has a malformed encoding"))?);
    }
    Ok((path, pairs))
}

/// Percent-decoding; in a query, `+` is a blank. `None` when malformed or not UTF-8.
pub fn percent_decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
                u8::try_from(value).ok()?
            }
            b'+' if plus_is_blank => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Runs the sanitised head through async-h1: a fixed host, no framing, no expectation, and no
/// field that it could trip over. The codec decides on the method.
async fn decode(method: &str, headers: &[(String, String)]) -> Result<Method, HeadError> {
    let mut head = format!("{method} / HTTP/1.1\r\nhost: localhost\r\n");
    const KEPT_ASIDE: [&str; 7] = [
        "host",
        "expect",
        "content-length",
        "transfer-encoding",
        "authorization",
        "connection",
        "upgrade",
    ];
    for (name, value) in headers.iter().filter(|(n, _)| !KEPT_ASIDE.contains(&n.as_str())) {
        // The codec has a limit of its own, 8 KiB; long fields are for us, not for it.
        if head.len() + name.len() + value.len() < 6 * 1024 {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("\r\n");
    match async_h1::server::decode(Memory::new(head.into_bytes())).await {
        Ok(Some((request, _))) => Ok(request.method()),
        _ => Err(bad(501, "the method is not known here")),
    }
}

/// Bytes in memory as a stream for the codec, which wants one that it can clone.
#[derive(Clone)]
struct Memory(Arc<Mutex<smol::io::Cursor<Vec<u8>>>>);

impl Memory {
    fn new(bytes: Vec<u8>) -> Memory {
        Memory(Arc::new(Mutex::new(smol::io::Cursor::new(bytes))))
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.0.lock() {
            Ok(mut cursor) => Pin::new(&mut *cursor).poll_read(cx, buffer),
            Err(_) => Poll::Ready(Ok(0)),
        }
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

//! The way through async-h1's decoders: heads in memory, with nothing in them that the decoders
//! get wrong.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http_types::Method;
use http_types::headers::HeaderValues;
use smol::io::{AsyncRead, AsyncWrite};

use crate::http::message::percent;
use crate::http::message::refusal::refusal;
use crate::types::Refusal;

/// The codec takes heads below 8 KiB, of which 4 may be the path; fields beyond this budget go
/// round it, bytes.
const CODEC_FIELDS_BYTES_MAX: usize = 3 * 1024;

/// Runs a future that has all it needs in memory. Its state stays on the stack, where it does not
/// make every connection larger. `None` if it waits after all.
pub(in crate::http) fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Has the codec decode the sanitised head, with the path as sent; it must decode it as it was
/// decoded here, to `decoded`, `None` for `*`. Credentials and what would not fit go round it;
/// the order of the fields, which it does not keep, is restored.
pub(super) fn through_codec(
    method: Method,
    path: &str,
    decoded: Option<&str>,
    fields: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, Refusal> {
    // The codec knows no `*`; a path stands in for it.
    let (path, same) = decoded.map_or(("/", "/"), |decoded| (path, decoded));
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    let limit = text.len() + CODEC_FIELDS_BYTES_MAX;
    let passes = |text: &str, (name, value): &(String, String)| {
        name != "authorization" && text.len() + name.len() + value.len() + 4 <= limit
    };
    let mut passed = Vec::with_capacity(fields.len());
    for field in &fields {
        let pass = passes(&text, field);
        if pass {
            text.extend([&field.0, ": ", &field.1, "\r\n"]);
        }
        passed.push(pass);
    }
    text.push_str("\r\n");
    let read = now(async_h1::server::decode(Memory::new(text.into_bytes())));
    let Some(Ok(Some((request, _)))) = read else {
        return Err(refusal(400, "malformed request head"));
    };
    if percent::decode(request.url().path(), false).as_deref() != Some(same)
        || request.method() != method
    {
        return Err(refusal(400, "the request target is ambiguous"));
    }
    Ok(restore_order(fields, &passed, |name| request.header(name)))
}

/// The fields as the codec decoded them, in the order in which they came; those that did not
/// pass through it as they were.
pub(in crate::http) fn restore_order<'a>(
    fields: Vec<(String, String)>,
    passed: &[bool],
    decoded: impl Fn(&str) -> Option<&'a HeaderValues>,
) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let pass = passed[headers.len()];
        let earlier = headers.iter().zip(passed);
        let nth = earlier.filter(|((other, _), passed)| **passed && *other == name).count();
        let value = match decoded(&name).and_then(|values| values.get(nth)) {
            Some(decoded) if pass => decoded.as_str().to_owned(),
            _ => value,
        };
        headers.push((name, value));
    }
    headers
}

/// A head in memory in the shape of a connection.
#[derive(Clone)]
pub(in crate::http) struct Memory {
    bytes: Arc<[u8]>,
    at: usize,
}

impl Memory {
    /// Gives these bytes and then the end.
    pub(in crate::http) fn new(bytes: Vec<u8>) -> Memory {
        Memory { bytes: bytes.into(), at: 0 }
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Poll::Ready(Ok(count))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_the_codec_reads_otherwise_is_refused() {
        let read = |path, decoded| through_codec(Method::Put, path, decoded, Vec::new()).is_ok();
        assert!(read("/a%2Fb", Some("/a/b")) && read("*", None));
        assert!(!read("/a/../b", Some("/a/../b")) && !read("/a", Some("/b")));
    }
}

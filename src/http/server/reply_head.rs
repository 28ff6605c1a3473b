//! The head of a reply as bytes: written here to GET and HEAD, encoded by the codec to every other
//! method. Both ways give the same bytes, which a fuzz target holds.

use std::borrow::Cow;
use std::io::Write;

use async_h1::server::Encoder;
use http_types::{Method, Response, StatusCode};
use smol::io::{self, AsyncReadExt};

use crate::http::wire::codec::now;
use crate::http::wire::field::{replace_field, visible};

/// What the head of a reply says.
pub(in crate::http) struct ReplyHead<'a> {
    /// For example 200.
    pub(in crate::http) status: u16,
    /// The fields of the handler; those in [`OURS`] are left out.
    pub(in crate::http) headers: &'a [(&'static str, String)],
    /// Bytes of the body; `None` where the status forbids to tell (RFC 9110 section 8.6).
    pub(in crate::http) length: Option<u64>,
    /// The connection is closed after the reply.
    pub(in crate::http) close: bool,
    /// The time, in the form of HTTP; `None` while it is unknown (section 6.6.1).
    pub(in crate::http) date: Option<&'a str>,
}

/// What no handler says of a message.
const OURS: [&str; 4] = ["content-length", "transfer-encoding", "connection", "date"];

/// Room for the status line and the end of the head, bytes.
const LINES_BYTES: usize = 64;

impl ReplyHead<'_> {
    /// The bytes of the head, to a request with this method.
    pub(super) fn bytes(&self, method: Method) -> io::Result<Vec<u8>> {
        match method {
            Method::Get | Method::Head => Ok(self.write()),
            _ => self.encode(),
        }
    }

    /// The bytes, without the codec: fields by name, as the codec has them.
    pub(in crate::http) fn write(&self) -> Vec<u8> {
        let mut fields = self.fields();
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        let size = fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
        let mut head = Vec::with_capacity(LINES_BYTES + size);
        let code = self.code();
        let reason = match code {
            StatusCode::NotModified => "Not Modified",
            code => code.canonical_reason(),
        };
        // Writing to memory does not fail.
        let _ = write!(head, "HTTP/1.1 {code} {reason}\r\n");
        for (name, value) in &fields {
            for part in [name.as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The bytes as the codec encodes them, corrected.
    pub(in crate::http) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut response = Response::new(self.code());
        response.set_body(http_types::Body::empty());
        response.remove_header("content-type");
        // Without one the codec asks the system's clock.
        response.insert_header("date", "");
        for (name, value) in self.fields() {
            match &*name {
                "date" => drop(response.insert_header("date", &*value)),
                name => response.append_header(name, &*value),
            }
        }
        // It gets no body that is not to be sent, whatever the method was.
        let mut encoder = Encoder::new(response, Method::Get);
        let mut head = Vec::new();
        now(encoder.read_to_end(&mut head)).unwrap_or(Err(io::ErrorKind::WouldBlock.into()))?;
        self.correct(&mut head);
        Ok(head)
    }

    /// The fields, each a name in lower case and a value that ends no line.
    fn fields(&self) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
        let mut fields = Vec::with_capacity(self.headers.len() + OURS.len());
        for (name, value) in self.headers {
            let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                true => Cow::Owned(name.to_ascii_lowercase()),
                false => Cow::Borrowed(*name),
            };
            if !OURS.contains(&&*name) {
                fields.push((name, visible(value)));
            }
        }
        if self.close {
            fields.push(("connection".into(), "close".into()));
        }
        if let Some(length) = self.length {
            fields.push(("content-length".into(), length.to_string().into()));
        }
        if let Some(date) = self.date {
            fields.push(("date".into(), date.into()));
        }
        fields
    }

    fn code(&self) -> StatusCode {
        StatusCode::try_from(self.status).unwrap_or_else(|_| {
            log::error!("the codec has no status {}; sending 500", self.status);
            StatusCode::InternalServerError
        })
    }

    /// Corrects what the codec gets wrong: a length beyond 4 GiB on 32-bit boards, a length and a
    /// date where none may stand, and the reason of 304.
    fn correct(&self, head: &mut Vec<u8>) {
        let field = self.length.map(|length| format!("content-length: {length}\r\n"));
        replace_field(head, b"\r\ncontent-length: ", field.as_deref().unwrap_or_default());
        if self.date.is_none() {
            replace_field(head, b"\r\ndate: ", "");
        }
        if head.starts_with(b"HTTP/1.1 304 Modified\r\n") {
            head.splice(13..13, *b"Not ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(head: &ReplyHead<'_>) -> String {
        let written = String::from_utf8(head.write()).unwrap();
        assert_eq!(String::from_utf8(head.encode().unwrap()).unwrap(), written);
        written
    }

    #[test]
    fn both_ways_to_a_head_give_the_same_bytes() {
        let headers = [
            ("etag", "y".to_owned()),
            ("Date", "then".to_owned()),
            ("X-b", "a\r\nb: \u{e9}".to_owned()),
            ("link", "2".to_owned()),
            ("accept-ranges", "bytes".to_owned()),
            ("link", "1".to_owned()),
            ("x-b", String::new()),
        ];
        let mut said =
            ReplyHead { status: 304, headers: &headers, length: None, close: false, date: None };
        let fields = "accept-ranges: bytes\r\netag: y\r\nlink: 2\r\nlink: 1\r\n\
                      x-b: a??b: ?\r\nx-b: \r\n\r\n";
        assert_eq!(head(&said), format!("HTTP/1.1 304 Not Modified\r\n{fields}"));
        said = ReplyHead { length: Some(5_000_000_000), close: true, headers: &[], ..said };
        said.date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let fields = "connection: close\r\ncontent-length: 5000000000\r\n\
                      date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        for status in 100..600 {
            let head = head(&ReplyHead { status, ..said });
            assert!(head.starts_with("HTTP/1.1 ") && head.ends_with(fields), "{head}");
        }
    }
}

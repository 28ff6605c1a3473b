//! The head of a reply as bytes, encoded by the codec.

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

impl ReplyHead<'_> {
    /// The bytes of the head.
    pub(in crate::http) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut response = Response::new(self.code());
        response.set_body(http_types::Body::empty());
        response.remove_header("content-type");
        for (name, value) in self.headers {
            if !OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                response.append_header(*name, visible(value).as_str());
            }
        }
        if self.close {
            response.insert_header("connection", "close");
        }
        // Without one the codec asks the system's clock.
        response.insert_header("date", self.date.unwrap_or_default());
        // It gets no body that is not to be sent, whatever the method was.
        let mut encoder = Encoder::new(response, Method::Get);
        let mut head = Vec::new();
        now(encoder.read_to_end(&mut head)).unwrap_or(Err(io::ErrorKind::WouldBlock.into()))?;
        self.correct(&mut head);
        Ok(head)
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
        String::from_utf8(head.encode().unwrap()).unwrap()
    }

    #[test]
    fn heads_are_what_the_codec_gets_wrong() {
        let headers = [("etag", "y".to_owned()), ("Date", "then".to_owned())];
        let mut said =
            ReplyHead { status: 304, headers: &headers, length: None, close: false, date: None };
        assert_eq!(head(&said), "HTTP/1.1 304 Not Modified\r\netag: y\r\n\r\n");
        said = ReplyHead { status: 200, length: Some(5_000_000_000), close: true, ..said };
        said.date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let expected = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5000000000\r\n\
                        date: Sun, 06 Nov 1994 08:49:37 GMT\r\netag: y\r\n\r\n";
        assert_eq!(head(&said), expected);
    }
}

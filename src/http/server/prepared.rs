//! Answers that are prepared, to clients that get no connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use smol::io::{AsyncRead, AsyncWrite};

use crate::sys::net::Stream;

/// To a client over the limit of connections.
pub(super) const OVERLOAD: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
    content-length: 121\r\ncontent-type: application/json\r\nretry-after: 2\r\n\r\n\
    {\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"too many connections; try \
    again soon\",\"detail\":{\"reason\":\"throttled\"}}]}\n";
/// To a client that speaks plain HTTP where TLS is spoken.
pub(super) const PLAIN_ON_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 45\r\n\r\n\
    This port speaks TLS: use https:// instead.\r\n";

/// Writes a prepared answer to a stream that is then dropped, without waiting. What has come is
/// read, as closing a socket with unread bytes may destroy the answer.
pub(super) async fn write_once(stream: &mut Stream, text: &[u8]) {
    let mut unread = [0; 1024];
    let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut unread))).await;
    let _ = poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, text)).await;
    let _ = poll_fn(|cx| Pin::new(&mut *stream).poll_close(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prepared_refusal_has_the_length_it_says() {
        let text = std::str::from_utf8(OVERLOAD).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }

    #[test]
    fn the_prepared_hint_has_the_length_it_says() {
        let text = std::str::from_utf8(PLAIN_ON_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}

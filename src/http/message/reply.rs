//! A reply as handlers make it.

use std::sync::Arc;

use super::budget::Reservation;
use super::sender::Sender;
use crate::sys::disk::DiskFile;
use crate::types::Refusal;
use crate::types::limits::BUFFER_BYTES;
use crate::types::refusal::PARTIAL;

/// One reply.
pub struct Reply {
    /// For example 200.
    pub status: u16,
    /// Header fields; values are filtered to visible ASCII when written.
    pub headers: Vec<(&'static str, String)>,
    /// What follows.
    pub body: ReplyBody,
    /// Whose share of the memory for large replies it takes.
    pub to: Sender,
    /// The memory that was reserved for the body, until it is sent.
    pub reservation: Option<Reservation>,
}

/// The body of a reply.
pub enum ReplyBody {
    /// No bytes; `content-length: 0` where the status allows it.
    Empty,
    /// A body in memory: more than one buffer takes a part of the memory for bodies.
    Bytes(Vec<u8>),
    /// The answer to HEAD where the bytes would have to be read first: only their length.
    Head(u64),
    /// A range of a file; a short read closes the connection.
    File {
        /// Open for reading.
        file: Arc<dyn DiskFile>,
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
}

impl Reply {
    /// A reply without a body.
    pub fn new(status: u16) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: ReplyBody::Empty,
            to: Sender::Anyone,
            reservation: None,
        }
    }

    /// A reply with a body in memory.
    pub fn bytes(status: u16, content_type: &str, bytes: impl Into<Vec<u8>>) -> Reply {
        let mut reply = Reply::new(status).with("content-type", content_type);
        reply.body = ReplyBody::Bytes(bytes.into());
        reply
    }

    /// A JSON reply.
    pub fn json(status: u16, value: &serde_json::Value) -> Reply {
        Reply::bytes(status, "application/json", value.to_string())
    }

    /// Adds a header field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    /// Takes the memory for a large body from the share of this sender.
    #[must_use]
    pub fn to(mut self, sender: Sender) -> Reply {
        self.to = sender;
        self
    }

    /// Bytes of a body in memory that is larger than the buffer that each connection may have, and
    /// for which nothing is reserved.
    pub(in crate::http) fn unreserved(&self) -> Option<u64> {
        match &self.body {
            ReplyBody::Bytes(bytes) if bytes.len() > BUFFER_BYTES => {
                self.reservation.is_none().then_some(bytes.len() as u64)
            }
            _ => None,
        }
    }

    /// The first header field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        let body = serde_json::json!({ "errors": [{
            "code": refusal.code,
            "message": refusal.message,
            "detail": { "reason": refusal.reason.name() },
        }]});
        let mut reply = Reply::json(refusal.status, &body);
        if let Some(challenge) = refusal.challenge {
            reply.headers.push(("www-authenticate", challenge));
        }
        if let Some(seconds) = refusal.retry_after_s {
            reply.headers.push(("retry-after", seconds.to_string()));
        }
        if refusal.partial {
            reply.headers.push((PARTIAL, "1".to_owned()));
        }
        reply
    }
}

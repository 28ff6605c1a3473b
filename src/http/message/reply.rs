//! A reply as handlers make it.

use std::sync::Arc;

use crate::sys::disk::DiskFile;
use crate::types::Refusal;
use crate::types::refusal::PARTIAL;

/// One reply.
pub struct Reply {
    /// For example 200.
    pub status: u16,
    /// Header fields; values are filtered to visible ASCII when written.
    pub headers: Vec<(&'static str, String)>,
    /// What follows.
    pub body: ReplyBody,
}

/// The body of a reply.
pub enum ReplyBody {
    /// No bytes; `content-length: 0` where the status allows it.
    Empty,
    /// A small body in memory.
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
        Reply { status, headers: Vec::new(), body: ReplyBody::Empty }
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

//! A request as handlers see it: checked, and decoded once.

use super::body::Body;
use crate::sys::net::Peer;

pub use http_types::Method;

/// One request.
pub struct Request {
    /// GET, HEAD, PUT and so on.
    pub method: Method,
    /// The path, percent-decoded once, without dot segments; always starts with `/`.
    pub path: String,
    /// The query, percent-decoded, in order.
    pub query: Vec<(String, String)>,
    /// Header fields with lower-case names, in order.
    pub headers: Vec<(String, String)>,
    /// The `Host` as sent, checked to be `host` or `host:port`.
    pub host: Option<String>,
    /// Who asks.
    pub peer: Peer,
    /// Whether the connection has TLS.
    pub secure: bool,
    /// Whether it came through the admin socket: who can open that may do everything.
    pub is_operator: bool,
    /// What follows the head.
    pub body: Body,
}

impl Request {
    /// The first header field of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first query value of this name.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Every query value of this name.
    pub fn query_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

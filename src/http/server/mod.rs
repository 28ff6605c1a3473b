//! The server side: from listeners over connections to handlers and back.

pub(super) mod admission;
pub(super) mod conn;
pub(super) mod exchange;
pub(super) mod linger;
pub(super) mod listen;
pub(super) mod permits;
pub(super) mod prepared;
pub(super) mod reply_head;
pub(super) mod send;
pub(super) mod service;
pub mod tls;

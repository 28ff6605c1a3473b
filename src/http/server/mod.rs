//! The server side: from listeners over connections to handlers and back.

pub(super) mod conn;
pub(super) mod listen;
pub(super) mod send;
pub mod tls;

//! HTTP/1.1 on both sides: bytes to requests and replies to bytes. Knows no routes.
//!
//! Our own connection loop stands around async-h1's codec, which by itself panics on a non-ASCII
//! header, drops pipelined requests and answers bad ones with silence. A request head is read into
//! a bounded buffer and checked before the codec sees it; the heads of GET and HEAD and those of
//! their replies do not need it. Bodies are framed here.
//!
//! `message` is what a request and a reply are; `wire` is their bytes, for both sides; `server` and
//! `client` stand above these two and know nothing of each other.

mod message;

mod wire;

mod client;
mod server;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

pub use client::message::{ClientBody, ClientError, ClientRequest, ClientResponse};
pub use client::requests::Client;
pub use client::trust::ClientOptions;
pub use client::url::host_of;
pub use message::body::{Body, BodyError, Whole};
pub use message::budget::{Budget, Busy, Reservation};
pub use message::percent::form_fields;
pub use message::reply::{Reply, ReplyBody};
pub use message::request::{Method, Request};
pub use message::sender::{Account, Sender};
pub use server::admission::Admission;
pub use server::listen::serve;
pub use server::service::{Deadlines, Handler, Service, Shutdown};
pub use server::tls::{self, Identity, ServerTls, TlsAcceptor};
pub use wire::objections::objections;

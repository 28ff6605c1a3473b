//! The gateway: messages between a connected registry and its parent, over HTTP.
//!
//! - `call`: the calls and their words.
//! - [`wire`]: the bytes of messages.
//! - [`downstream`]: what a parent answers; the root and every connected registry are parents.
//! - [`upstream`]: what a child asks, with [`distribution`] for content.
//! - [`directory`]: desired states and their versions.
//! - [`feed`]: journal records, projected onto what a child may see.
//! - [`contacts`]: who was in contact when.

pub mod contacts;
pub mod directory;
pub mod distribution;
pub mod downstream;
pub mod feed;
pub mod upstream;
pub mod wire;

mod call;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod instances;
mod told;

pub use contacts::Contacts;
pub use downstream::{Gateway, GatewayOptions};
pub use upstream::{Upstream, UpstreamError};

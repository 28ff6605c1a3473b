//! The bytes of gateway messages: envelopes of a kind, a length and a postcard body.
//!
//! A body is a row of envelopes. A node skips kinds that it does not know, and what a newer node
//! appended to a kind that it does know, so that neighbours of adjacent versions understand each
//! other; an unknown kind among feed items makes the receiver compare everything instead.
//!
//! In version 1 a message with lists is one envelope, and nothing can be appended to an element of
//! a list: its structs are frozen. In version 2 each element has an envelope of its own. A new
//! field goes to the end of a struct of version 2, with `#[serde(default)]`; a neighbour that asks
//! for version 1, and an older node between two others, lose it. A child asks for both versions and
//! reads the one that it gets; it sends version 2 to a parent that has answered in that.
//!
//! What travels has types of its own, one file for each noun; none of them is stored, and none is
//! what the rest of the program reckons with. Names, digests, grants and times travel as they
//! write themselves.

mod activation;
mod batch;
mod connected_registry;
mod desired;
mod envelope;
mod format;
mod listing;
mod status;
mod token;

#[cfg(test)]
mod tests;

pub use batch::{Received, decode_batch, encode_batch};
pub use desired::versioned_bytes;
pub use envelope::WireError;
pub use format::Format;

use crate::types::limits::DESIRED_STATE_BYTES_MAX;

/// Largest answer to a gateway call, bytes: any desired state stays below, as the root bounds it by
/// the rows that it is made of. Over it: the answer is refused.
pub const BODY_BYTES_MAX: u64 = DESIRED_STATE_BYTES_MAX + 1024 * 1024;

/// A message between neighbours that is no batch.
pub trait Wire: Sized {
    /// As it is sent.
    fn write(self, format: Format) -> Result<Vec<u8>, WireError>;

    /// Reads what [`Wire::write`] of this or an adjacent version wrote.
    fn read(format: Format, bytes: &[u8]) -> Result<Self, WireError>;
}

/// The elements of a list in another form.
fn all<T, U: From<T>>(list: Vec<T>) -> Vec<U> {
    list.into_iter().map(U::from).collect()
}

//! Envelopes: a kind, a length and a postcard body.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before each postcard body: kind (u16) and length (u32), little-endian.
const HEAD_BYTES: usize = 6;

/// What is in an envelope. Part of the protocol: never renumber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum Kind {
    /// Begins a batch; the items follow as envelopes of their own.
    Batch = 1,
    /// A tag was set, moved or removed.
    Tag = 2,
    /// A manifest came that no tag need name.
    ManifestAdded = 3,
    /// A manifest was deleted.
    ManifestDeleted = 4,
    /// A desired state changed.
    ConfigChanged = 5,
    /// A desired state.
    NodeConfig = 16,
    /// A page of what a repository holds.
    Listing = 17,
    /// An instance asks to be the one of its connected registry.
    ActivationRequest = 18,
    /// The parent's consent.
    ActivationAnswer = 19,
    /// What an instance reports of itself.
    StatusReport = 20,
}

/// Why bytes are no message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WireError(pub(super) String);

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed gateway message: {}", self.0)
    }
}

impl std::error::Error for WireError {}

/// A message that fills one envelope.
pub(super) fn single<T: Serialize>(kind: Kind, message: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    append(&mut bytes, kind, message)?;
    Ok(bytes)
}

/// The message in the first envelope of this kind; others are skipped.
pub(super) fn first<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, WireError> {
    for envelope in envelopes(bytes) {
        let (number, body) = envelope?;
        if number == kind as u16 {
            return body_of(body);
        }
    }
    Err(WireError(format!("there is no envelope of kind {}", kind as u16)))
}

/// Adds an envelope.
pub(super) fn append<T: Serialize>(
    bytes: &mut Vec<u8>,
    kind: Kind,
    body: &T,
) -> Result<(), WireError> {
    let body = postcard::to_allocvec(body).map_err(|error| WireError(error.to_string()))?;
    let len = u32::try_from(body.len()).map_err(|_| WireError("too long".to_owned()))?;
    bytes.extend_from_slice(&(kind as u16).to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(())
}

/// What an envelope holds.
pub(super) fn body_of<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    // What follows the fields that we know was appended by a newer version.
    let (value, _rest) =
        postcard::take_from_bytes(body).map_err(|error| WireError(error.to_string()))?;
    Ok(value)
}

/// The envelopes of a message, each with the number of its kind, which may be unknown here.
pub(super) fn envelopes(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), WireError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let envelope = split(bytes);
        bytes = match envelope {
            Some((_, _, rest)) => rest,
            None => &[],
        };
        let envelope = envelope.map(|(kind, body, _)| (kind, body));
        Some(envelope.ok_or_else(|| WireError("an envelope is cut short".to_owned())))
    })
}

fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let kind = u16::from_le_bytes(head.get(..2)?.try_into().ok()?);
    let len = u32::from_le_bytes(head.get(2..)?.try_into().ok()?);
    let (body, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    Some((kind, body, rest))
}

//! Envelopes: a kind, a length and a postcard body.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, forward_to_deserialize_any, ser};

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
    /// Begins a desired state in version 2.
    Desired = 32,
    /// The node itself.
    Node = 33,
    /// The node's own sync token.
    SyncToken = 34,
    /// A token that the node's clients may log in with.
    ClientToken = 35,
    /// A direct child.
    Child = 36,
    /// The sync token of a direct child.
    ChildToken = 37,
    /// A scope map that one of these tokens names.
    ScopeMap = 38,
    /// A node below, with the version of its desired state.
    Descendant = 39,
    /// Begins a listing in version 2.
    ListingHead = 48,
    /// A tag.
    TagEntry = 49,
    /// A manifest that refers to another one as its subject.
    ReferrerEntry = 50,
    /// Manifests of a repository.
    Manifests = 51,
    /// Begins a status report in version 2.
    Status = 56,
    /// A line of a status report.
    StatusDetail = 57,
}

impl Kind {
    const ALL: [Kind; 24] = [
        Kind::Batch,
        Kind::Tag,
        Kind::ManifestAdded,
        Kind::ManifestDeleted,
        Kind::ConfigChanged,
        Kind::NodeConfig,
        Kind::Listing,
        Kind::ActivationRequest,
        Kind::ActivationAnswer,
        Kind::StatusReport,
        Kind::Desired,
        Kind::Node,
        Kind::SyncToken,
        Kind::ClientToken,
        Kind::Child,
        Kind::ChildToken,
        Kind::ScopeMap,
        Kind::Descendant,
        Kind::ListingHead,
        Kind::TagEntry,
        Kind::ReferrerEntry,
        Kind::Manifests,
        Kind::Status,
        Kind::StatusDetail,
    ];

    /// The kind of this number; `None`: a newer version has it.
    pub(super) fn of(number: u16) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
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

/// What an envelope holds, a struct. What follows the fields that are known was appended by a newer
/// version. An older one ends before the last: fields with `#[serde(default)]` may be missing.
pub(super) fn body_of<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, WireError> {
    T::deserialize(Fields { rest: body }).map_err(|error| WireError(error.to_string()))
}

/// The fields of a struct in postcard, which holds neither their number nor their names.
struct Fields<'de> {
    rest: &'de [u8],
}

impl<'de> SeqAccess<'de> for Fields<'de> {
    type Error = postcard::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        field: S,
    ) -> Result<Option<S::Value>, postcard::Error> {
        // No field is written as nothing, so that this is an end.
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut postcard = postcard::Deserializer::from_bytes(self.rest);
        let value = field.deserialize(&mut postcard)?;
        self.rest = postcard.finalize()?;
        Ok(Some(value))
    }
}

impl<'de> Deserializer<'de> for Fields<'de> {
    type Error = postcard::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, postcard::Error> {
        visitor.visit_seq(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

/// A struct inside another one: it has its length before it, so that fields can be appended to
/// either.
pub(super) struct Nested<T>(pub(super) T);

impl<T: Serialize> Serialize for Nested<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = postcard::to_allocvec(&self.0).map_err(ser::Error::custom)?;
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Nested<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Nested<T>, D::Error> {
        body_of(<&[u8]>::deserialize(deserializer)?).map(Nested).map_err(D::Error::custom)
    }
}

/// What begins a message that is divided: each element of its lists has an envelope of its own.
pub(super) trait Head: Serialize + DeserializeOwned {
    /// What its envelope says.
    const KIND: Kind;

    /// Envelopes that follow and belong to it: without their number nobody would see that the last
    /// ones are missing.
    fn elements(&self) -> u32;
}

/// An envelope behind a head. `None`: its kind is not known.
pub(super) type Element<'a> = (Option<Kind>, &'a [u8]);

/// A divided message: its head, and its elements in order.
pub(super) fn divided<H: Head>(bytes: &[u8]) -> Result<(H, Vec<Element<'_>>), WireError> {
    let mut envelopes = envelopes(bytes);
    let Some((kind, body)) = envelopes.next().transpose()? else {
        return Err(WireError("there is no envelope".to_owned()));
    };
    if kind != H::KIND as u16 {
        let wanted = H::KIND as u16;
        return Err(WireError(format!("it begins with kind {kind} in place of {wanted}")));
    }
    let head: H = body_of(body)?;
    let mut elements = Vec::new();
    for _ in 0..head.elements() {
        let cut = || WireError("elements are missing at its end".to_owned());
        let (kind, body) = envelopes.next().ok_or_else(cut)??;
        elements.push((Kind::of(kind), body));
    }
    Ok((head, elements))
}

/// Of as many elements in all as these lists have.
pub(super) fn number_of(lists: &[usize]) -> Result<u32, WireError> {
    u32::try_from(lists.iter().sum::<usize>()).map_err(|_| WireError("too long".to_owned()))
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

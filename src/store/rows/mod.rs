//! Rows and keys. A key is a kind byte and parts joined by zero bytes; a row is a version byte
//! and postcard. What the rest of the program works with is one type, and what stands on the disk
//! is another, so that a field there is not one here by accident.

pub mod connected_registry;
pub mod deed;
pub mod delivered;
pub mod derived;
pub mod format;
pub mod inbox;
pub mod link;
pub mod manifest;
pub mod node;
pub mod outbox;
pub mod pushes;
pub mod referrer;
pub mod refused;
pub mod repository;
pub mod scope_map;
pub mod tag;
pub mod token;
pub mod unsettled;
pub mod untagged;
pub mod upkeep;

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::format::FORMAT;
use crate::store::StoreError;
use crate::types::Digest;

/// What a key's first byte says about the row. Part of the on-disk format: never renumber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// repository -> when it was first pushed to
    Repository = 1,
    /// repository, digest -> a blob that may be pulled there
    Blob = 2,
    /// repository, digest -> a manifest
    Manifest = 3,
    /// repository, tag -> what it names
    Tag = 4,
    /// repository, subject, digest -> a manifest that refers to the subject
    Referrer = 5,
    /// repository, digest -> since when a manifest has no tag, as garbage collection has seen it
    Untagged = 6,
    /// token
    Token = 16,
    /// scope map
    ScopeMap = 17,
    /// connected registry: the resource
    ConnectedRegistry = 18,
    /// connected registry -> its activation, as recorded by its parent
    Activation = 19,
    /// connected registry -> its last status report
    Status = 20,
    /// node -> desired state as received from the parent (on a connected registry)
    NodeConfig = 21,
    /// token -> the connected registry whose sync token it is (at the root)
    SyncToken = 22,
    /// connected registry -> what was taken from it and may not be taken from all nodes below yet
    /// (at the root)
    Unsettled = 23,
    /// number -> a change of what is managed, and who made it (at the root)
    Deed = 24,
    /// singletons of this node, by name: feed epoch, cursor, sync state
    Node = 32,
    /// sequence -> received message, not yet applied
    Inbox = 33,
    /// sequence -> change on its way to the parent
    Outbox = 34,
    /// sequence -> that the parent refused this change
    DeadLetter = 35,
    /// origin connected registry, repository, incarnation -> last outbox number whose effect is
    /// recorded here; without the incarnation for changes that were written before there were any
    Delivered = 36,
    /// repository, tag or digest, sequence -> a change of it on its way to the parent; derived, as
    /// are those below
    Waiting = 0xf0,
    /// repository, digest, tag -> a tag that names the manifest
    Named = 0xf1,
    /// repository, digest -> how many manifests name it
    Needed = 0xf2,
    /// digest -> how many rows of repositories have this content
    Held = 0xf3,
    /// connected registry, connected registry -> the second is directly below the first
    Below = 0xf4,
    /// token, connected registry -> the token is one of its client tokens
    ClientOf = 0xf5,
    /// scope map, token -> the token uses the map
    UserOf = 0xf6,
    /// repository, digest, sequence -> a change on its way to the parent brings this manifest
    Brought = 0xf7,
    /// repository, digest, digest -> the second manifest names the first as a manifest
    NamedBy = 0xf8,
    /// how many repositories were complete at least once
    Synced = 0xf9,
    /// scope map -> how many bytes its row has
    MapBytes = 0xfa,
}

/// Rows whose changes children are told of as changes of content.
pub const CONTENT: [Kind; 3] = [Kind::Tag, Kind::Manifest, Kind::Referrer];

/// Rows that desired states are made of.
pub const MANAGEMENT: [Kind; 4] =
    [Kind::Token, Kind::ScopeMap, Kind::ConnectedRegistry, Kind::NodeConfig];

/// Whether the row of this key is of one of these kinds.
pub fn is_of(kinds: &[Kind], row_key: &[u8]) -> bool {
    let first = row_key.first().copied();
    kinds.iter().any(|kind| first == Some(*kind as u8))
}

/// Joins a kind and parts into a key. Parts that are names hold no zero byte; a part that may
/// (a digest, a number) stands last or has a fixed length.
pub fn key(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind as u8];
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            key.push(0);
        }
        key.extend_from_slice(part);
    }
    key
}

/// The common start of the keys of all rows under `parts`.
pub fn prefix(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    let mut prefix = key(kind, parts);
    if !parts.is_empty() {
        prefix.push(0);
    }
    prefix
}

/// What stands on the disk. A field that is appended later needs no new version: see [`last`]. Any
/// other change does: the row is written in the new version from a format of the store on, and rows
/// of other versions are read through [`Row::decode_other`].
pub trait Row: Serialize + DeserializeOwned {
    /// The version that is written.
    const VERSION: u8;

    /// The row as it is written in a store of this format: its version, and what that says. A type
    /// whose version rose overrides it and writes the version before in formats before.
    fn write(&self, _format: u32) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, vec![Self::VERSION])
    }

    /// Reads a row of this version. A type whose last field came later overrides it: see [`last`].
    fn read(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes)
    }

    /// Decodes a row of another version.
    fn decode_other(version: u8, _bytes: &[u8]) -> Result<Self, StoreError> {
        Err(StoreError::Corrupt(format!("a row of unknown version {version}")))
    }
}

/// A value that can be stored: a row, or one that has a row type of its own.
pub trait Stored: Sized {
    /// The value as a store of this format has it.
    fn encoded(&self, format: u32) -> Result<Vec<u8>, StoreError>;

    /// Reads what [`Stored::encoded`] of this version, or of one before it, wrote.
    fn decoded(bytes: &[u8]) -> Result<Self, StoreError>;
}

impl<R: Row> Stored for R {
    fn encoded(&self, format: u32) -> Result<Vec<u8>, StoreError> {
        self.write(format)
            .map_err(|error| StoreError::Invalid(format!("a row cannot be encoded: {error}")))
    }

    fn decoded(bytes: &[u8]) -> Result<R, StoreError> {
        match bytes.split_first() {
            Some((version, body)) if *version == R::VERSION => R::read(body)
                .map_err(|error| StoreError::Corrupt(format!("a row cannot be decoded: {error}"))),
            Some((version, body)) => R::decode_other(*version, body),
            None => Err(StoreError::Corrupt("an empty row".to_owned())),
        }
    }
}

/// Says which row a value is stored as: each is made from the other.
macro_rules! stored_as {
    ($value:ty, $row:ty) => {
        impl $crate::store::rows::Stored for $value {
            fn encoded(&self, format: u32) -> Result<Vec<u8>, $crate::store::StoreError> {
                <$row>::from(self).encoded(format)
            }

            fn decoded(bytes: &[u8]) -> Result<$value, $crate::store::StoreError> {
                <$row>::decoded(bytes).map(<$value>::from)
            }
        }
    };
}

pub(in crate::store) use stored_as;

/// Reads the last field of a row, from what is left behind the others. Rows of earlier versions end
/// before it: they have its default. Anything else that is left must be the field.
pub(in crate::store) fn last<T>(left: &[u8]) -> Result<T, postcard::Error>
where
    T: DeserializeOwned + Default,
{
    if left.is_empty() { Ok(T::default()) } else { postcard::from_bytes(left) }
}

/// Whether a last field has its default, and need not be written.
pub(in crate::store) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A value as this version's own stores have it.
pub fn encode<S: Stored>(value: &S) -> Result<Vec<u8>, StoreError> {
    value.encoded(FORMAT)
}

/// Reads what [`encode`] wrote.
pub fn decode<S: Stored>(bytes: &[u8]) -> Result<S, StoreError> {
    S::decoded(bytes)
}

/// The name that a key holds from `start` on.
pub(in crate::store) fn name_at<N: std::str::FromStr>(
    key: &[u8],
    start: usize,
) -> Result<N, StoreError> {
    let text = key.get(start..).and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| StoreError::Corrupt("a key holds no valid name".to_owned()))
}

/// The digest that a key holds from `start` on.
pub(in crate::store) fn digest_at(key: &[u8], start: usize) -> Result<Digest, StoreError> {
    key.get(start..)
        .and_then(Digest::from_key)
        .ok_or_else(|| StoreError::Corrupt("a key holds no valid digest".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::registry::manifests::testing::{digest, push, store};
    use crate::store::replica::node::testing;
    use crate::store::replica::outbox::{OutboxChange, OutboxEntry};
    use crate::store::replica::refused::{RefusalState, RefusedChange};
    use crate::store::rows::connected_registry::StatusRecord;
    use crate::store::rows::manifest::ManifestRow;
    use crate::store::rows::tag::TagRow;
    use crate::store::rows::upkeep::Progress;
    use crate::types::connected_registry::{Activation, StatusReport};
    use crate::types::message::Message;
    use crate::types::{Cursor, Offered, OutboxId, UnixSeconds};

    /// Lengths of which the start of a row is read as a row.
    fn read_at<S: Stored>(row: &S) -> (Vec<usize>, usize) {
        let bytes = encode(row).unwrap();
        let reads = |len: &usize| decode::<S>(&bytes[..*len]).is_ok();
        ((0..bytes.len()).filter(reads).collect(), bytes.len())
    }

    /// What a value is stored as, with a tail that a later version wrote, is read as the value.
    fn check_appended<S: Stored + PartialEq>(value: &S) {
        let mut bytes = encode(value).unwrap();
        bytes.extend([1, 0, 7]);
        assert!(decode::<S>(&bytes).unwrap() == *value);
    }

    #[test]
    fn p062_what_later_versions_append_to_a_row_is_left_out() {
        let config = testing::config(&["repositories/app/content/read"]);
        check_appended(&config);
        check_appended(&config.node);
        check_appended(&config.sync_token);
        check_appended(&config.scope_maps[0]);
        check_appended(&Activation { epoch: 1, instance_id: "i".to_owned(), at: UnixSeconds(2) });
        let report = StatusReport { version: "1".to_owned(), ..StatusReport::default() };
        check_appended(&StatusRecord { report, last_contact: UnixSeconds(8) });
        check_appended(&Message::ConfigChanged { name: config.node.name });
        check_appended(&Cursor { epoch: 5, sequence: 9 });
    }

    #[test]
    fn f204_a_damaged_last_field_is_not_taken_for_one_that_is_not_there() {
        let id = OutboxId { origin: "dock01".parse().unwrap(), incarnation: 300, sequence: 7 };
        let change = OutboxChange::ManifestAdded { digest: digest(1) };
        let entry = OutboxEntry {
            id,
            repository: "app".parse().unwrap(),
            change,
            unheard: Vec::new(),
            offered: Offered::No,
            instead_of: vec![],
            anew: false,
        };
        let (found, len) = read_at(&entry);
        assert_eq!(found, [len - 2], "an incarnation of two bytes");
        let (reason, at) = ("no".to_owned(), UnixSeconds(1));
        let refusal = RefusedChange { entry, reason, at, state: RefusalState::Retried, again: 200 };
        let (found, len) = read_at(&refusal);
        assert_eq!(found, [len - 5, len - 2]);
        let mut bytes = encode(&refusal).unwrap();
        bytes[len - 3] = 2;
        assert!(decode::<RefusedChange>(&bytes).is_err(), "no boolean");
        let store = store();
        smol::block_on(push(&store, "app", 1, &["v1"]));
        let row = store.manifest(&"app".parse().unwrap(), &digest(1)).unwrap().unwrap();
        let row = ManifestRow { elsewhere: Some(vec![digest(2), digest(3)]), ..row };
        let (found, len) = read_at(&row);
        let last = postcard::to_extend(&row.elsewhere, Vec::new()).unwrap();
        assert_eq!(found, [len - last.len()]);
        let (found, len) = read_at(&ManifestRow { from_below: true, ..row });
        assert_eq!(found, [len - last.len() - 1, len - 1]);
        let tag = store.tag_row(&"app".parse().unwrap(), &"v1".parse().unwrap()).unwrap().unwrap();
        assert_eq!(read_at(&tag).0, [0; 0]);
        let progress = Progress { failed: true, ..Progress::default() };
        let (found, len) = read_at(&progress);
        assert_eq!(found, [len - 1]);
        let (found, len) = read_at(&TagRow { from_below: true, ..tag });
        assert_eq!(found, [len - 1]);
    }
}

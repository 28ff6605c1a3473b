//! The bytes of gateway messages: envelopes of a kind, a length and a postcard body.
//!
//! A body is a row of envelopes. A node skips kinds that it does not know, and what a newer node
//! appended to a kind that it does know, so that neighbours of adjacent versions understand each
//! other; an unknown kind among feed items makes the receiver compare everything instead.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::connected_registry::StatusReport;
use crate::types::message::{Batch, Item, Listing, Message, NodeConfig};
use crate::types::{ConnectedRegistryName, Cursor, Digest, RepositoryName, Tag};

/// The content type of envelopes.
pub const CONTENT_TYPE: &str = "application/vnd.skerry.gateway.v1+postcard";

/// Largest answer to a gateway call, bytes: a desired state with 50 client tokens, 500 grants
/// each, and ten thousand descendants stays below. Over it: the answer is refused.
pub const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Bytes before each postcard body: kind (u16) and length (u32), little-endian.
const HEAD_BYTES: usize = 6;

/// What is in an envelope. Part of the protocol: never renumber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Kind {
    /// [`BatchHead`]: begins a batch; the items follow as envelopes of their own.
    Batch = 1,
    /// A tag was set, moved or removed.
    Tag = 2,
    /// A manifest came that no tag need name.
    ManifestAdded = 3,
    /// A manifest was deleted.
    ManifestDeleted = 4,
    /// A desired state changed.
    ConfigChanged = 5,
    /// [`NodeConfig`]
    NodeConfig = 16,
    /// [`Listing`]
    Listing = 17,
    /// [`ActivationRequest`]
    ActivationRequest = 18,
    /// [`ActivationAnswer`]
    ActivationAnswer = 19,
    /// [`StatusReport`]
    StatusReport = 20,
}

/// Binds a connected registry to one instance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActivationRequest {
    /// Random, made by the device on its first start.
    pub instance_id: String,
    /// Version of the program.
    pub version: String,
    /// Where its clients log in.
    pub login_server: String,
    /// The epoch under which the direct parent accepted the instance, when that parent reports the
    /// activation to its own parent; `None` from the instance itself.
    pub accepted_epoch: Option<u64>,
}

/// The parent's consent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActivationAnswer {
    /// The epoch of the connected registry; `deactivate` raises it.
    pub activation_epoch: u64,
    /// The head of the parent's feed.
    pub feed: Cursor,
}

#[derive(Serialize, Deserialize)]
struct BatchHead {
    from: Cursor,
    through: Cursor,
}

#[derive(Serialize, Deserialize)]
struct TagItem {
    sequence: u64,
    repository: RepositoryName,
    tag: Tag,
    digest: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
struct ManifestItem {
    sequence: u64,
    repository: RepositoryName,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct ConfigItem {
    sequence: u64,
    name: ConnectedRegistryName,
}

/// Why bytes are no message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WireError(String);

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed gateway message: {}", self.0)
    }
}

impl std::error::Error for WireError {}

/// A message that fills one envelope.
pub trait Wire: Serialize + DeserializeOwned {
    /// What its envelope says.
    const KIND: Kind;
}

impl Wire for NodeConfig {
    const KIND: Kind = Kind::NodeConfig;
}
impl Wire for Listing {
    const KIND: Kind = Kind::Listing;
}
impl Wire for ActivationRequest {
    const KIND: Kind = Kind::ActivationRequest;
}
impl Wire for ActivationAnswer {
    const KIND: Kind = Kind::ActivationAnswer;
}
impl Wire for StatusReport {
    const KIND: Kind = Kind::StatusReport;
}

/// A batch as received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// What was understood.
    pub batch: Batch,
    /// Whether there was something that this version does not know: compare everything.
    pub unknown: bool,
    /// What the parent took this node to mirror when it left out what that does not cover, as
    /// [`Scope::fingerprint`] has it; `None`: it does not tell.
    ///
    /// [`Scope::fingerprint`]: super::feed::Scope::fingerprint
    pub projected: Option<String>,
    /// The parent has never been where this node knows it to have been.
    pub set_back: bool,
}

/// One message in its envelope.
pub fn encode<T: Wire>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    append(&mut bytes, T::KIND, message)?;
    Ok(bytes)
}

/// The first envelope of the wanted kind; others are skipped.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, WireError> {
    for envelope in envelopes(bytes) {
        let (kind, body) = envelope?;
        if kind == T::KIND as u16 {
            return body_of(body);
        }
    }
    Err(WireError(format!("there is no envelope of kind {}", T::KIND as u16)))
}

/// A batch: its head, then one envelope for each item.
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    let head = BatchHead { from: batch.from, through: batch.through };
    append(&mut bytes, Kind::Batch, &head)?;
    for item in &batch.items {
        append_item(&mut bytes, item)?;
    }
    Ok(bytes)
}

/// Reads what [`encode_batch`] of this or an adjacent version wrote.
pub fn decode_batch(bytes: &[u8]) -> Result<Received, WireError> {
    let mut head: Option<BatchHead> = None;
    let (mut items, mut unknown) = (Vec::new(), false);
    for envelope in envelopes(bytes) {
        let (kind, body) = envelope?;
        if kind == Kind::Batch as u16 {
            head = Some(body_of(body)?);
            continue;
        }
        match item(kind, body)? {
            Some(item) => items.push(item),
            None => unknown = true,
        }
    }
    let BatchHead { from, through } =
        head.ok_or_else(|| WireError("a batch has no head".to_owned()))?;
    Ok(Received {
        batch: Batch { from, through, items },
        unknown,
        projected: None,
        set_back: false,
    })
}

fn append_item(bytes: &mut Vec<u8>, item: &Item) -> Result<(), WireError> {
    let sequence = item.sequence;
    match item.message.clone() {
        Message::Tag { repository, tag, digest } => {
            append(bytes, Kind::Tag, &TagItem { sequence, repository, tag, digest })
        }
        Message::ManifestAdded { repository, digest } => {
            append(bytes, Kind::ManifestAdded, &ManifestItem { sequence, repository, digest })
        }
        Message::ManifestDeleted { repository, digest } => {
            append(bytes, Kind::ManifestDeleted, &ManifestItem { sequence, repository, digest })
        }
        Message::ConfigChanged { name } => {
            append(bytes, Kind::ConfigChanged, &ConfigItem { sequence, name })
        }
    }
}

fn item(kind: u16, body: &[u8]) -> Result<Option<Item>, WireError> {
    let known = [Kind::Tag, Kind::ManifestAdded, Kind::ManifestDeleted, Kind::ConfigChanged];
    let Some(kind) = known.into_iter().find(|known| *known as u16 == kind) else {
        return Ok(None);
    };
    let (sequence, message) = match kind {
        Kind::Tag => {
            let TagItem { sequence, repository, tag, digest } = body_of(body)?;
            (sequence, Message::Tag { repository, tag, digest })
        }
        Kind::ManifestAdded => {
            let ManifestItem { sequence, repository, digest } = body_of(body)?;
            (sequence, Message::ManifestAdded { repository, digest })
        }
        Kind::ManifestDeleted => {
            let ManifestItem { sequence, repository, digest } = body_of(body)?;
            (sequence, Message::ManifestDeleted { repository, digest })
        }
        _ => {
            let ConfigItem { sequence, name } = body_of(body)?;
            (sequence, Message::ConfigChanged { name })
        }
    };
    Ok(Some(Item { sequence, message }))
}

fn append<T: Serialize>(bytes: &mut Vec<u8>, kind: Kind, body: &T) -> Result<(), WireError> {
    let body = postcard::to_allocvec(body).map_err(|error| WireError(error.to_string()))?;
    let len = u32::try_from(body.len()).map_err(|_| WireError("too long".to_owned()))?;
    bytes.extend_from_slice(&(kind as u16).to_le_bytes());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(())
}

fn body_of<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    // What follows the fields that we know was appended by a newer version.
    let (value, _rest) =
        postcard::take_from_bytes(body).map_err(|error| WireError(error.to_string()))?;
    Ok(value)
}

fn envelopes(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), WireError>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::UnixSeconds;
    use crate::types::connected_registry::{ConnectionState, StatusDetail};
    use crate::types::digest::Algorithm;
    use crate::types::message::{Descendant, TagEntry};
    use crate::types::token::{ScopeMap, Token, Verifier};
    use crate::types::{ConnectedRegistry, Mode};

    fn digest(number: u8) -> Digest {
        Digest::from_raw(Algorithm::Sha256, &[number; 32]).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        data_encoding::HEXLOWER.encode(bytes)
    }

    fn batch() -> Batch {
        let repository: RepositoryName = "app".parse().unwrap();
        let messages = [
            Message::Tag {
                repository: repository.clone(),
                tag: "v1".parse().unwrap(),
                digest: Some(digest(1)),
            },
            Message::Tag {
                repository: repository.clone(),
                tag: "v2".parse().unwrap(),
                digest: None,
            },
            Message::ManifestAdded { repository: repository.clone(), digest: digest(2) },
            Message::ManifestDeleted { repository, digest: digest(3) },
            Message::ConfigChanged { name: "dock01".parse().unwrap() },
        ];
        let items = (300..).zip(messages).map(|(sequence, message)| Item { sequence, message });
        Batch {
            from: Cursor { epoch: 5, sequence: 299 },
            through: Cursor { epoch: 5, sequence: 310 },
            items: items.collect(),
        }
    }

    fn token(name: &str) -> Token {
        let verifier = Verifier {
            salt: [1; 16],
            hash: [2; 32],
            generation: 3,
            created: UnixSeconds(4),
            expires: Some(UnixSeconds(5)),
        };
        Token {
            name: name.parse().unwrap(),
            scope_map: "maps1".parse().unwrap(),
            enabled: true,
            created: UnixSeconds(6),
            passwords: [Some(verifier), None],
            generations: [3, 0],
        }
    }

    fn config() -> NodeConfig {
        let node = ConnectedRegistry {
            name: "dock01".parse().unwrap(),
            mode: Mode::ReadOnly,
            parent: None,
            sync_token: "sync1".parse().unwrap(),
            client_tokens: vec!["client1".parse().unwrap()],
            schedule: "0 12 * * *".parse().unwrap(),
            sync_window_s: Some(3600),
            message_ttl_s: 86_400,
            log_level: "Information".to_owned(),
            activation_epoch: 2,
            created: UnixSeconds(7),
        };
        NodeConfig {
            registry: "myregistry".to_owned(),
            node,
            sync_token: token("sync1"),
            client_tokens: vec![token("client1")],
            children: vec![],
            child_tokens: vec![],
            scope_maps: vec![ScopeMap {
                name: "maps1".parse().unwrap(),
                description: "d".to_owned(),
                grants: vec!["repositories/app/content/read".parse().unwrap()],
                created: UnixSeconds(8),
            }],
            descendants: vec![Descendant {
                name: "child1".parse().unwrap(),
                version: "ab".to_owned(),
            }],
        }
    }

    /// The bytes of version 1: a node of an adjacent version sends and expects exactly these.
    #[test]
    fn f202_golden_bytes() {
        let key = |n: u8| format!("2101{}", hex(&[n; 32]));
        let expected = [
            // kind, length, epoch 5, sequences 299 and 310
            format!("0100{}05ab0205b602", "06000000"),
            format!("0200{}ac02036170700276 3101{}", "2c000000", key(1)),
            format!("0200{}ad0203617070 027632 00", "0a000000"),
            format!("0300{}ae0203617070{}", "28000000", key(2)),
            format!("0400{}af0203617070{}", "28000000", key(3)),
            format!("0500{}b00206646f636b3031", "09000000"),
        ];
        let expected = expected.concat().replace(' ', "");
        assert_eq!(hex(&encode_batch(&batch()).unwrap()), expected);

        let request = ActivationRequest {
            instance_id: "i".to_owned(),
            version: "1".to_owned(),
            login_server: "a:1".to_owned(),
            accepted_epoch: Some(4),
        };
        assert_eq!(hex(&encode(&request).unwrap()), "12000a0000000169013103613a310104");
        let answer =
            ActivationAnswer { activation_epoch: 1, feed: Cursor { epoch: 5, sequence: 6 } };
        assert_eq!(hex(&encode(&answer).unwrap()), "130003000000010506");
        let listing = Listing {
            at: Cursor { epoch: 5, sequence: 6 },
            tags: vec![TagEntry { tag: "v1".parse().unwrap(), digest: digest(1) }],
            referrers: vec![digest(2)],
            next: Some("v1".parse().unwrap()),
        };
        let expected = format!("1100{}050601027631{}01{}01027631", "4f000000", key(1), key(2));
        assert_eq!(hex(&encode(&listing).unwrap()), expected);
        let report = StatusReport {
            version: "1".to_owned(),
            login_server: "a".to_owned(),
            tls: true,
            state: ConnectionState::Unhealthy,
            details: vec![StatusDetail {
                kind: "Disk".to_owned(),
                code: "DiskError".to_owned(),
                description: "d".to_owned(),
                timestamp: UnixSeconds(1),
                correlation_id: "c".to_owned(),
            }],
            last_sync: Some(UnixSeconds(2)),
        };
        let expected =
            "140020000000013101610103 01 044469736b 094469736b4572726f72 0164 01 0163 01 02";
        let got = hex(&encode(&report).unwrap());
        assert_eq!(got[12..], expected.replace(' ', "")[12..]);
        let expected = concat!(
            "0a6d797265676973747279 06646f636b3031 00 00 0573796e6331 01 07636c69656e7431",
            " 0a30203132202a202a202a 01901c 80a305 0b496e666f726d6174696f6e 02 07",
            " 0573796e6331 056d61707331 01 06 01 01010101010101010101010101010101",
            " 0202020202020202020202020202020202020202020202020202020202020202",
            " 03 04 0105 00 03 00",
            " 01 07636c69656e7431 056d61707331 01 06 01 01010101010101010101010101010101",
            " 0202020202020202020202020202020202020202020202020202020202020202",
            " 03 04 0105 00 03 00 00 00",
            " 01 056d61707331 0164 01 1d7265706f7369746f726965",
            "732f6170702f636f6e74656e742f72656164 08",
            " 01 066368696c6431 026162",
        );
        assert_eq!(hex(&encode(&config()).unwrap())[12..], expected.replace(' ', ""));
    }

    #[test]
    fn messages_round_trip() {
        let received = decode_batch(&encode_batch(&batch()).unwrap()).unwrap();
        assert_eq!(
            received,
            Received { batch: batch(), unknown: false, projected: None, set_back: false }
        );
        let read: NodeConfig = decode(&encode(&config()).unwrap()).unwrap();
        assert!(read == config());
    }

    #[test]
    fn f202_what_a_newer_version_adds_is_skipped() {
        let mut bytes = encode_batch(&batch()).unwrap();
        append(&mut bytes, Kind::Tag, &("longer", 1u8)).unwrap();
        let end = bytes.len();
        // The last envelope gets a kind of the future.
        bytes[end - 14..end - 12].copy_from_slice(&999u16.to_le_bytes());
        let received = decode_batch(&bytes).unwrap();
        assert_eq!(
            received,
            Received { batch: batch(), unknown: true, projected: None, set_back: false }
        );

        #[derive(Serialize)]
        struct Longer(ActivationAnswer, u64);
        let feed = Cursor::default();
        let answer = ActivationAnswer { activation_epoch: 1, feed };
        let mut bytes = Vec::new();
        append(&mut bytes, Kind::ActivationAnswer, &Longer(answer.clone(), 7)).unwrap();
        assert_eq!(decode::<ActivationAnswer>(&bytes), Ok(answer));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        let bytes = encode_batch(&batch()).unwrap();
        for len in 0..bytes.len() {
            match decode_batch(&bytes[..len]) {
                Err(_) => {}
                // Cut between two envelopes: what is there is whole.
                Ok(received) => assert!(received.batch.items.len() < batch().items.len()),
            }
        }
        assert!(decode::<NodeConfig>(&[]).is_err());
        assert!(decode::<NodeConfig>(&[16, 0, 255, 255, 255, 255, 1]).is_err());
    }
}

//! What happened at a parent: a head, then one envelope for each item, in both versions.

use serde::{Deserialize, Serialize};

use super::Format;
use super::envelope::{Kind, WireError, append, body_of, envelopes};
use crate::types::message::{Batch, Item, Message};
use crate::types::{ConnectedRegistryName, Cursor, Digest, RepositoryName, Tag};

#[derive(Serialize, Deserialize)]
struct Head {
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
    /// [`Scope::fingerprint`]: crate::gateway::feed::Scope::fingerprint
    pub projected: Option<String>,
    /// The parent has never been where this node knows it to have been.
    pub set_back: bool,
    /// The version of the desired state that the parent has for this node and could not write, so
    /// that no message tells of it.
    pub desired: Option<String>,
}

impl From<Batch> for Received {
    fn from(batch: Batch) -> Received {
        Received { batch, unknown: false, projected: None, set_back: false, desired: None }
    }
}

/// A batch as it is sent.
pub fn encode_batch(format: Format, batch: Batch) -> Result<Vec<u8>, WireError> {
    if format == Format::Json {
        let json = serde_json::to_vec(&BatchJson::from(batch));
        return json.map_err(|error| WireError(error.to_string()));
    }
    let mut bytes = Vec::new();
    let head = Head { from: batch.from, through: batch.through };
    append(&mut bytes, Kind::Batch, &head)?;
    for item in batch.items {
        append_item(&mut bytes, item)?;
    }
    Ok(bytes)
}

/// Reads what [`encode_batch`] of this or an adjacent version wrote.
pub fn decode_batch(format: Format, bytes: &[u8]) -> Result<Received, WireError> {
    if format == Format::Json {
        let json = serde_json::from_slice::<BatchJson>(bytes);
        return json.map(|json| Batch::from(json).into()).map_err(|e| WireError(e.to_string()));
    }
    let mut head: Option<Head> = None;
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
    let Head { from, through } = head.ok_or_else(|| WireError("a batch has no head".to_owned()))?;
    Ok(Received { unknown, ..Batch { from, through, items }.into() })
}

fn append_item(bytes: &mut Vec<u8>, item: Item) -> Result<(), WireError> {
    let sequence = item.sequence;
    match item.message {
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

/// A batch for people.
#[derive(Serialize, Deserialize)]
struct BatchJson {
    from: Cursor,
    through: Cursor,
    items: Vec<ItemJson>,
}

#[derive(Serialize, Deserialize)]
struct ItemJson {
    sequence: u64,
    message: MessageJson,
}

#[derive(Serialize, Deserialize)]
enum MessageJson {
    Tag { repository: RepositoryName, tag: Tag, digest: Option<Digest> },
    ManifestAdded { repository: RepositoryName, digest: Digest },
    ManifestDeleted { repository: RepositoryName, digest: Digest },
    ConfigChanged { name: ConnectedRegistryName },
}

impl From<Batch> for BatchJson {
    fn from(batch: Batch) -> BatchJson {
        let Batch { from, through, items } = batch;
        let item = |Item { sequence, message }| {
            let message = match message {
                Message::Tag { repository, tag, digest } => {
                    MessageJson::Tag { repository, tag, digest }
                }
                Message::ManifestAdded { repository, digest } => {
                    MessageJson::ManifestAdded { repository, digest }
                }
                Message::ManifestDeleted { repository, digest } => {
                    MessageJson::ManifestDeleted { repository, digest }
                }
                Message::ConfigChanged { name } => MessageJson::ConfigChanged { name },
            };
            ItemJson { sequence, message }
        };
        BatchJson { from, through, items: items.into_iter().map(item).collect() }
    }
}

impl From<BatchJson> for Batch {
    fn from(batch: BatchJson) -> Batch {
        let BatchJson { from, through, items } = batch;
        let item = |ItemJson { sequence, message }| {
            let message = match message {
                MessageJson::Tag { repository, tag, digest } => {
                    Message::Tag { repository, tag, digest }
                }
                MessageJson::ManifestAdded { repository, digest } => {
                    Message::ManifestAdded { repository, digest }
                }
                MessageJson::ManifestDeleted { repository, digest } => {
                    Message::ManifestDeleted { repository, digest }
                }
                MessageJson::ConfigChanged { name } => Message::ConfigChanged { name },
            };
            Item { sequence, message }
        };
        Batch { from, through, items: items.into_iter().map(item).collect() }
    }
}

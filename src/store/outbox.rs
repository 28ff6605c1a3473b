//! Changes made here that the parent has yet to take: written in the same record as the change
//! itself, so that none is ever lost, and delivered in order.

use serde::{Deserialize, Serialize};

use super::node::self_config_key;
use super::row::{Kind, Row, key};
use super::{StoreError, Txn};
use crate::types::message::NodeConfig;
use crate::types::{ConnectedRegistryName, Digest, RepositoryName, Tag};

/// Who made a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A client of this node: on a connected registry the change goes up.
    Client,
    /// A child delivered it, with its outbox id: on a connected registry it goes up too.
    Child(OutboxId),
    /// It came from the parent: it does not go back.
    Parent,
}

/// Names a change for ever, so that a replay has no second effect.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutboxId {
    /// Where the change was first made.
    pub origin: ConnectedRegistryName,
    /// Its number there.
    pub sequence: u64,
}

/// A change on its way up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// Its name.
    pub id: OutboxId,
    /// Where.
    pub repository: RepositoryName,
    /// What.
    pub change: OutboxChange,
}

/// What is to be repeated at the parent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OutboxChange {
    /// A tag was set, or (`None`) removed.
    Tag {
        /// Which.
        tag: Tag,
        /// What it named before, here: the parent must still agree. `None`: it did not exist.
        base: Option<Digest>,
        /// What it names now.
        digest: Option<Digest>,
    },
    /// A manifest was pushed by digest.
    ManifestAdded {
        /// Which.
        digest: Digest,
    },
    /// A manifest was deleted.
    ManifestDeleted {
        /// Which.
        digest: Digest,
    },
}

impl Row for OutboxEntry {
    const VERSION: u8 = 1;
}

/// The number of the last change that this node put into its outbox.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct LastOutbox(u64);

impl Row for LastOutbox {
    const VERSION: u8 = 1;
}

/// Adds a change to the outbox when this node is a connected registry and the change is to go up.
/// Call it in the command that makes the change.
pub(super) fn enqueue(
    txn: &mut Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
    change: OutboxChange,
) -> Result<(), StoreError> {
    let Some(config) = txn.get::<NodeConfig>(&self_config_key())? else {
        return Ok(());
    };
    let counter = key(Kind::Node, &[b"outbox"]);
    let sequence = txn.get::<LastOutbox>(&counter)?.map_or(0, |last| last.0) + 1;
    let id = match origin {
        Origin::Parent => return Ok(()),
        Origin::Client => OutboxId { origin: config.node.name, sequence },
        Origin::Child(id) => id.clone(),
    };
    txn.put(counter, &LastOutbox(sequence))?;
    let entry = OutboxEntry { id, repository: repository.clone(), change };
    txn.put(key(Kind::Outbox, &[&sequence.to_be_bytes()]), &entry)
}

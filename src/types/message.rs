//! What travels between a connected registry and its parent: feed items and desired state.

use super::connected_registry::ConnectedRegistry;
use super::token::{ScopeMap, Token};
use super::{ConnectedRegistryName, Cursor, Digest, RepositoryName, Tag};

/// One change at the parent, projected onto what the child may see. The wire kind of each stands
/// in `gateway::wire`; a kind that a node does not know makes it reconcile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A tag was set, moved or (`None`) removed.
    Tag {
        /// Where.
        repository: RepositoryName,
        /// Which.
        tag: Tag,
        /// What it names now.
        digest: Option<Digest>,
    },
    /// A manifest came that no tag need name, for example a referrer.
    ManifestAdded {
        /// Where.
        repository: RepositoryName,
        /// Which.
        digest: Digest,
    },
    /// A manifest was deleted.
    ManifestDeleted {
        /// Where.
        repository: RepositoryName,
        /// Which.
        digest: Digest,
    },
    /// The desired state of the child or of one of its descendants changed: fetch it.
    ConfigChanged {
        /// Whose.
        name: ConnectedRegistryName,
    },
}

impl Message {
    /// The repository that a message about content is of.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Message::Tag { repository, .. }
            | Message::ManifestAdded { repository, .. }
            | Message::ManifestDeleted { repository, .. } => Some(repository),
            Message::ConfigChanged { .. } => None,
        }
    }
}

/// A message and its position in the parent's feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The parent's journal sequence.
    pub sequence: u64,
    /// What happened.
    pub message: Message,
}

/// Some messages. An empty batch still advances `through`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The child's position before this batch.
    pub from: Cursor,
    /// Its position after it.
    pub through: Cursor,
    /// In order.
    pub items: Vec<Item>,
}

/// The desired state of one node, as its parent sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The registry's name: what the root is called.
    pub registry: String,
    /// The node itself.
    pub node: ConnectedRegistry,
    /// The node's own sync token: its scope map is what the node may mirror.
    pub sync_token: Token,
    /// Tokens that the node's clients may log in with.
    pub client_tokens: Vec<Token>,
    /// The node's direct children.
    pub children: Vec<ConnectedRegistry>,
    /// The sync tokens of the direct children.
    pub child_tokens: Vec<Token>,
    /// Every scope map that one of these tokens names.
    pub scope_maps: Vec<ScopeMap>,
    /// All descendants, with the versions of their desired states.
    pub descendants: Vec<Descendant>,
}

impl NodeConfig {
    /// What the node may mirror, and push to.
    pub fn own_map(&self) -> Option<&ScopeMap> {
        self.scope_maps.iter().find(|map| map.name == self.sync_token.scope_map)
    }

    /// Whether a node of this name is among the descendants.
    pub fn lists(&self, name: &str) -> bool {
        self.descendants.iter().any(|descendant| descendant.name.as_str() == name)
    }
}

/// A descendant whose desired state the node can fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descendant {
    /// Its name.
    pub name: ConnectedRegistryName,
    /// Changes with its desired state.
    pub version: String,
}

/// A tag in a repository listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagEntry {
    /// Which.
    pub tag: Tag,
    /// What it names.
    pub digest: Digest,
}

/// One page of the full listing of a repository, for a reconcile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// The feed position that the listing is not older than.
    pub at: Cursor,
    /// Tags in lexical order.
    pub tags: Vec<TagEntry>,
    /// Manifests that refer to another one as their subject.
    pub referrers: Vec<Digest>,
    /// Pass as `last` for the next page; `None` on the last one.
    pub next: Option<Tag>,
}

/// Manifests of a repository, whatever names them: some at a time, for a reconcile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifests {
    /// In the order of their digests; none: there are no more.
    pub digests: Vec<Digest>,
}

/// Binds a connected registry to one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActivationAnswer {
    /// The epoch of the connected registry; `deactivate` raises it.
    pub activation_epoch: u64,
    /// The head of the parent's feed.
    pub feed: Cursor,
}

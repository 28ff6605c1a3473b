//! The rows of a node about itself: its desired state, and small facts, each under its name.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::connected_registry::ConnectedRegistryRow;
use super::scope_map::ScopeMapRow;
use super::token::TokenRow;
use super::{Kind, Row, is_of, key, prefix, stored_as};
use crate::store::StoreError;
use crate::types::message::{Descendant, NodeConfig};
use crate::types::token::{ScopeMap, Token};
use crate::types::{ConnectedRegistry, ConnectedRegistryName, RepositoryName, Tag, UnixSeconds};

/// A [`NodeConfig`]. What an element of a list is to have later goes into a list of its own at the
/// end.
#[derive(Serialize, Deserialize)]
struct NodeConfigRow {
    registry: String,
    node: ConnectedRegistryRow,
    sync_token: TokenRow,
    client_tokens: Vec<TokenRow>,
    children: Vec<ConnectedRegistryRow>,
    child_tokens: Vec<TokenRow>,
    scope_maps: Vec<ScopeMapRow>,
    descendants: Vec<DescendantRow>,
}

/// A [`Descendant`], an element of a list.
#[derive(Serialize, Deserialize)]
struct DescendantRow {
    name: ConnectedRegistryName,
    version: String,
}

impl Row for NodeConfigRow {
    const VERSION: u8 = 1;
}

impl From<&NodeConfig> for NodeConfigRow {
    fn from(config: &NodeConfig) -> NodeConfigRow {
        NodeConfigRow {
            registry: config.registry.clone(),
            node: (&config.node).into(),
            sync_token: (&config.sync_token).into(),
            client_tokens: config.client_tokens.iter().map(TokenRow::from).collect(),
            children: config.children.iter().map(ConnectedRegistryRow::from).collect(),
            child_tokens: config.child_tokens.iter().map(TokenRow::from).collect(),
            scope_maps: config.scope_maps.iter().map(ScopeMapRow::from).collect(),
            descendants: config.descendants.iter().map(DescendantRow::from).collect(),
        }
    }
}

impl From<NodeConfigRow> for NodeConfig {
    fn from(row: NodeConfigRow) -> NodeConfig {
        NodeConfig {
            registry: row.registry,
            node: row.node.into(),
            sync_token: row.sync_token.into(),
            client_tokens: row.client_tokens.into_iter().map(Token::from).collect(),
            children: row.children.into_iter().map(ConnectedRegistry::from).collect(),
            child_tokens: row.child_tokens.into_iter().map(Token::from).collect(),
            scope_maps: row.scope_maps.into_iter().map(ScopeMap::from).collect(),
            descendants: row.descendants.into_iter().map(Descendant::from).collect(),
        }
    }
}

impl From<&Descendant> for DescendantRow {
    fn from(descendant: &Descendant) -> DescendantRow {
        let Descendant { name, version } = descendant;
        DescendantRow { name: name.clone(), version: version.clone() }
    }
}

impl From<DescendantRow> for Descendant {
    fn from(row: DescendantRow) -> Descendant {
        let DescendantRow { name, version } = row;
        Descendant { name, version }
    }
}

stored_as!(NodeConfig, NodeConfigRow);

/// Reads of the row of this node's own desired state all but the tokens of its children and the
/// scope maps that only these have, which are rows of their own: it is read at each step of the
/// sync, and must not take more memory the more children there are.
pub(in crate::store) fn own_config(row: &[u8]) -> Result<NodeConfig, StoreError> {
    begins(row, |left| {
        let (registry, left) = postcard::take_from_bytes(left)?;
        let (node, left) = postcard::take_from_bytes::<ConnectedRegistryRow>(left)?;
        let (sync_token, left) = postcard::take_from_bytes::<TokenRow>(left)?;
        let (client_tokens, left) = postcard::take_from_bytes::<Vec<TokenRow>>(left)?;
        let (children, left) = postcard::take_from_bytes::<Vec<ConnectedRegistryRow>>(left)?;
        let sync_token = Token::from(sync_token);
        let client_tokens: Vec<Token> = client_tokens.into_iter().map(Token::from).collect();
        let left = each::<TokenRow>(left, drop)?;
        let mut scope_maps = Vec::new();
        let left = each::<ScopeMapRow>(left, |map| {
            let map = ScopeMap::from(map);
            let mut own = client_tokens.iter().chain([&sync_token]);
            if own.any(|token| token.scope_map == map.name) {
                scope_maps.push(map);
            }
        })?;
        let (descendants, _) = postcard::take_from_bytes::<Vec<DescendantRow>>(left)?;
        Ok(NodeConfig {
            registry,
            node: node.into(),
            sync_token,
            client_tokens,
            children: children.into_iter().map(ConnectedRegistry::from).collect(),
            child_tokens: Vec::new(),
            scope_maps,
            descendants: descendants.into_iter().map(Descendant::from).collect(),
        })
    })
}

/// Reads of the same row which connected registry this node is.
pub(in crate::store) fn own_node(row: &[u8]) -> Result<ConnectedRegistry, StoreError> {
    begins(row, |left| {
        let (_, left) = postcard::take_from_bytes::<String>(left)?;
        let (node, _) = postcard::take_from_bytes::<ConnectedRegistryRow>(left)?;
        Ok(node.into())
    })
}

/// Reads of the same row, or of its head, what this node is called.
pub(in crate::store) fn own_name(head: &[u8]) -> Result<ConnectedRegistryName, StoreError> {
    begins(head, |left| {
        let (_, left) = postcard::take_from_bytes::<String>(left)?;
        Ok(postcard::take_from_bytes(left)?.0)
    })
}

/// Reads of the same row what the root is called.
pub(in crate::store) fn own_registry(row: &[u8]) -> Result<String, StoreError> {
    begins(row, |left| Ok(postcard::take_from_bytes::<String>(left)?.0))
}

/// Reads a part of a [`NodeConfigRow`], from its first field on.
fn begins<T>(
    row: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, postcard::Error>,
) -> Result<T, StoreError> {
    match row.split_first() {
        Some((&NodeConfigRow::VERSION, body)) => read(body)
            .map_err(|error| StoreError::Corrupt(format!("a row cannot be decoded: {error}"))),
        _ => Err(StoreError::Corrupt("a desired state of unknown version".to_owned())),
    }
}

/// Reads the elements of a list one after the other; returns what follows the list.
fn each<T: DeserializeOwned>(
    list: &[u8],
    mut element: impl FnMut(T),
) -> Result<&[u8], postcard::Error> {
    let (count, mut left) = postcard::take_from_bytes::<u64>(list)?;
    for _ in 0..count {
        let (one, behind) = postcard::take_from_bytes(left)?;
        element(one);
        left = behind;
    }
    Ok(left)
}

/// A small fact about this node: a version, a number, a mark.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) enum Fact {
    /// The version of a desired state, as the parent calls it.
    Version(String),
    /// The activation epoch under which this instance serves.
    Epoch(u64),
    /// Something is so.
    Mark,
    /// When something happened.
    At(UnixSeconds),
    /// What was asked for has begun, and is not done.
    Begun,
    /// The same, and it was asked for again since.
    Again,
}

impl Row for Fact {
    const VERSION: u8 = 1;
}

/// The key of this node's own desired state, present on an activated connected registry only.
pub fn self_config_key() -> Vec<u8> {
    key(Kind::Node, &[b"config"])
}

/// Whether the row of this key says who may do what here: tokens, their grants, the connected
/// registries and their sync tokens, and what the parent wants this node to be.
pub(in crate::store) fn is_about_access(row_key: &[u8]) -> bool {
    const KINDS: [Kind; 4] =
        [Kind::Token, Kind::ScopeMap, Kind::ConnectedRegistry, Kind::SyncToken];
    is_of(&KINDS, row_key) || row_key == self_config_key()
}

pub(in crate::store) fn descendant_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::NodeConfig, &[name.as_str().as_bytes()])
}

pub(in crate::store) fn version_key(name: &ConnectedRegistryName) -> Vec<u8> {
    key(Kind::Node, &[b"version", name.as_str().as_bytes()])
}

/// The key of the mark that changes were offered, perhaps in vain, since the last comparison that
/// was asked for.
pub(in crate::store) fn offered_key() -> Vec<u8> {
    key(Kind::Node, &[b"offered"])
}

pub(in crate::store) fn epoch_key() -> Vec<u8> {
    key(Kind::Node, &[b"activated"])
}

pub(in crate::store) fn reconcile_key() -> Vec<u8> {
    key(Kind::Node, &[b"reconcile"])
}

pub(in crate::store) fn last_sync_key() -> Vec<u8> {
    key(Kind::Node, &[b"last-sync"])
}

pub(in crate::store) fn last_look_key() -> Vec<u8> {
    key(Kind::Node, &[b"last-look"])
}

pub(in crate::store) fn looked_with_key() -> Vec<u8> {
    key(Kind::Node, &[b"looked-with"])
}

pub(in crate::store) fn debts_key() -> Vec<u8> {
    key(Kind::Node, &[b"debts"])
}

/// What the keys of repositories begin with that were complete at least once.
pub(in crate::store) fn synced() -> Vec<u8> {
    prefix(Kind::Node, &[b"synced"])
}

/// Where the keys start of the repositories whose removal has begun; the name follows.
pub(in crate::store) fn removing() -> Vec<u8> {
    prefix(Kind::Node, &[b"removing"])
}

/// The key of the removal of one.
pub fn removing_key(repository: &RepositoryName) -> Vec<u8> {
    let mut key = removing();
    key.extend_from_slice(repository.as_str().as_bytes());
    key
}

/// The repository of whose removal a row of this key tells.
pub fn purged_in(row_key: &[u8]) -> Option<RepositoryName> {
    std::str::from_utf8(row_key.strip_prefix(&removing()[..])?).ok()?.parse().ok()
}

pub(in crate::store) fn synced_key(repository: &RepositoryName) -> Vec<u8> {
    key(Kind::Node, &[b"synced", repository.as_str().as_bytes()])
}

/// Where the rows start that belong to the place of this node under its parent.
pub(in crate::store) fn own_rows() -> Vec<Vec<u8>> {
    let single = [self_config_key(), epoch_key(), reconcile_key(), last_sync_key()];
    let mut starts: Vec<Vec<u8>> = single.into();
    starts.extend([last_look_key(), looked_with_key(), debts_key(), position_key(), pushes_key()]);
    starts.extend([prefix(Kind::Node, &[b"version"]), synced()]);
    starts.extend([prefix(Kind::Node, &[b"offer"]), parent_epoch_key(), listed_key()]);
    starts.extend([parent_start_key(), compared_key(), heard_key(), gone_from_key()]);
    starts.push(offered_key());
    starts.push(prefix(Kind::Node, &[b"started-at"]));
    starts.push(prefix(Kind::Node, &[b"removal"]));
    starts.push(prefix(Kind::Node, &[b"withheld-tag"]));
    starts.push(prefix(Kind::Node, &[b"withheld-manifest"]));
    starts
}

pub(in crate::store) fn position_key() -> Vec<u8> {
    key(Kind::Node, &[b"cursor"])
}

/// What is kept of a repository though the parent lacks it: tags, or manifests.
pub(in crate::store) fn withheld_tags(repository: &RepositoryName) -> Vec<u8> {
    prefix(Kind::Node, &[b"withheld-tag", repository.as_str().as_bytes()])
}

/// The key of one of these notes.
pub(in crate::store) fn withheld_tag_key(repository: &RepositoryName, tag: &Tag) -> Vec<u8> {
    [&withheld_tags(repository)[..], tag.as_str().as_bytes()].concat()
}

pub(in crate::store) fn withheld_manifests(repository: &RepositoryName) -> Vec<u8> {
    prefix(Kind::Node, &[b"withheld-manifest", repository.as_str().as_bytes()])
}

/// The key of the life of this store in which everything was last compared with the parent.
pub(in crate::store) fn compared_key() -> Vec<u8> {
    key(Kind::Node, &[b"compared-in"])
}

pub(in crate::store) fn heard_key() -> Vec<u8> {
    key(Kind::Node, &[b"heard"])
}

/// Where the parent's feed was when it last took the removal of a manifest of a repository.
pub(in crate::store) fn removal_key(repository: &RepositoryName) -> Vec<u8> {
    key(Kind::Node, &[b"removal", repository.as_str().as_bytes()])
}

pub(in crate::store) fn listed_key() -> Vec<u8> {
    key(Kind::Node, &[b"listed"])
}

/// Where the rows start of the starts of this node.
pub(in crate::store) fn starts() -> Vec<u8> {
    prefix(Kind::Node, &[b"start"])
}

pub(in crate::store) fn start_key(start: &str) -> Vec<u8> {
    key(Kind::Node, &[b"start", start.as_bytes()])
}

/// Where this node was in its parent's feed at a start of it.
pub(in crate::store) fn started_at_key(start: &[u8]) -> Vec<u8> {
    key(Kind::Node, &[b"started-at", start])
}

/// From where on in its parent's feed this node, which was set back, asks what was deleted.
pub(in crate::store) fn gone_from_key() -> Vec<u8> {
    key(Kind::Node, &[b"gone-from"])
}

pub(in crate::store) fn parent_start_key() -> Vec<u8> {
    key(Kind::Node, &[b"parent-start"])
}

pub(in crate::store) fn parent_epoch_key() -> Vec<u8> {
    key(Kind::Node, &[b"parent-epoch"])
}

pub(in crate::store) fn pushes_key() -> Vec<u8> {
    key(Kind::Node, &[b"pushes"])
}

pub(in crate::store) fn offer_key(repository: &RepositoryName) -> Vec<u8> {
    key(Kind::Node, &[b"offer", repository.as_str().as_bytes()])
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// How a [`NodeConfigRow`] begins: of such a row only what the node itself is can be read.
    #[derive(Serialize, Deserialize)]
    pub(crate) struct Beginning {
        registry: String,
        node: ConnectedRegistryRow,
    }

    impl Row for Beginning {
        const VERSION: u8 = NodeConfigRow::VERSION;
    }

    pub(crate) fn beginning(registry: &str, node: &ConnectedRegistry) -> Beginning {
        Beginning { registry: registry.to_owned(), node: node.into() }
    }
}

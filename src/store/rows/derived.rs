//! Rows that follow from others: they are kept in the index only and computed anew with it, so that
//! they cost no byte of the journal and cannot be wrong for longer than an index lives.
//!
//! A row of another kind may count for some derived keys, and a derived row says how many rows
//! count for its key, or how many bytes they have.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::ManifestRow;
use super::node::synced;
use super::outbox::{OutboxChange, OutboxEntry, number_at, number_of};
use super::tag::TagRow;
use super::{Kind, Row, decode, encode, key, prefix};
use crate::store::StoreError;
use crate::types::token::Token;
use crate::types::{
    ConnectedRegistry, ConnectedRegistryName, Digest, RepositoryName, ScopeMapName, Tag, TokenName,
};

/// The first byte of all keys of derived rows, and of no others, is at least this.
const FIRST: u8 = 0xf0;

/// How many rows count for the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) struct Count(pub(in crate::store) u64);

impl Row for Count {
    const VERSION: u8 = 1;
}

impl Count {
    /// The row, `None` for zero.
    pub(in crate::store) fn row(self) -> Result<Option<Vec<u8>>, StoreError> {
        (self.0 > 0).then(|| encode(&self)).transpose()
    }
}

/// Whether this is the key of a derived row.
pub(in crate::store) fn is_derived(key: &[u8]) -> bool {
    key.first().is_some_and(|kind| *kind >= FIRST)
}

/// What a change that waits is about.
#[derive(Clone, Copy)]
pub(in crate::store) enum About<'a> {
    Tag(&'a Tag),
    Added(&'a Digest),
    Deleted(&'a Digest),
}

impl<'a> About<'a> {
    fn of(change: &'a OutboxChange) -> About<'a> {
        match change {
            OutboxChange::Tag { tag, .. } => About::Tag(tag),
            OutboxChange::ManifestAdded { digest } => About::Added(digest),
            OutboxChange::ManifestDeleted { digest } => About::Deleted(digest),
        }
    }
}

/// Where the keys start of the changes of a repository that wait.
pub(in crate::store) fn waiting_in(repository: &RepositoryName) -> Vec<u8> {
    prefix(Kind::Waiting, &[repository.as_str().as_bytes()])
}

/// The same of the removals of manifests: the digest follows, and the number.
pub(in crate::store) fn waiting_removals(repository: &RepositoryName) -> Vec<u8> {
    let mut start = waiting_in(repository);
    start.push(b'd');
    start
}

/// The same of the changes of tags: the tag follows, a zero byte and the number.
pub(in crate::store) fn waiting_tags(repository: &RepositoryName) -> Vec<u8> {
    let mut start = waiting_in(repository);
    start.push(b't');
    start
}

/// The same of the changes of one tag or manifest: the number follows.
pub(in crate::store) fn waiting_about(repository: &RepositoryName, about: About<'_>) -> Vec<u8> {
    let mut start = waiting_in(repository);
    match about {
        About::Tag(tag) => {
            start.push(b't');
            start.extend_from_slice(tag.as_str().as_bytes());
            start.push(0);
        }
        About::Added(digest) => {
            start.push(b'a');
            start.extend_from_slice(&digest.to_key());
        }
        About::Deleted(digest) => {
            start.push(b'd');
            start.extend_from_slice(&digest.to_key());
        }
    }
    start
}

/// The number at the end of the key of a change that waits.
pub(in crate::store) fn waiting_number(key: &[u8]) -> Result<u64, StoreError> {
    number_at(key, key.len().saturating_sub(8))
}

/// What stands in such a key between `start` and its number.
pub(in crate::store) fn waiting_name(key: &[u8], start: usize) -> &[u8] {
    key.get(start..key.len().saturating_sub(8)).unwrap_or_default()
}

/// Where the keys start of the tags that name a manifest; the tag follows.
pub(in crate::store) fn named_in(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    prefix(Kind::Named, &[repository.as_str().as_bytes(), &digest.to_key()])
}

/// The key of how many manifests of a repository name this blob or manifest.
pub(in crate::store) fn needed_key(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    key(Kind::Needed, &[repository.as_str().as_bytes(), &digest.to_key()])
}

/// The key of how many repositories have this content, as a blob or as a manifest.
pub(in crate::store) fn held_key(digest: &[u8]) -> Vec<u8> {
    key(Kind::Held, &[digest])
}

/// Where the keys start of the rows that may count for one of those two keys.
pub(in crate::store) fn counted_below(derived: &[u8]) -> Vec<Vec<u8>> {
    match derived.split_first() {
        Some((kind, rest)) if *kind == Kind::Needed as u8 => {
            let repository = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            vec![prefix(Kind::Manifest, &[repository])]
        }
        _ => vec![prefix(Kind::Blob, &[]), prefix(Kind::Manifest, &[])],
    }
}

/// Whether it can be read for which keys such a row counts.
pub(in crate::store) fn is_counted(key: &[u8], row: &[u8]) -> bool {
    counted(key, row).is_some()
}

/// Where the keys start of the changes that wait and bring a manifest; the number follows.
pub(in crate::store) fn brought_in(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    prefix(Kind::Brought, &[repository.as_str().as_bytes(), &digest.to_key()])
}

/// The same of the manifests that name one as a manifest; the digest follows.
pub(in crate::store) fn named_by(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    prefix(Kind::NamedBy, &[repository.as_str().as_bytes(), &digest.to_key()])
}

/// Where the keys start of the nodes directly below a connected registry; the name follows.
pub(in crate::store) fn below(name: &ConnectedRegistryName) -> Vec<u8> {
    prefix(Kind::Below, &[name.as_str().as_bytes()])
}

/// The same of the connected registries that have this client token.
pub(in crate::store) fn with_client(token: &TokenName) -> Vec<u8> {
    prefix(Kind::ClientOf, &[token.as_str().as_bytes()])
}

/// The same of the tokens that use this scope map.
pub(in crate::store) fn users_of(map: &ScopeMapName) -> Vec<u8> {
    prefix(Kind::UserOf, &[map.as_str().as_bytes()])
}

/// The key of how many bytes the row of a scope map has.
pub(in crate::store) fn map_bytes_key(map: &ScopeMapName) -> Vec<u8> {
    key(Kind::MapBytes, &[map.as_str().as_bytes()])
}

/// The key of how many repositories were complete at least once.
pub(in crate::store) fn synced_count_key() -> Vec<u8> {
    key(Kind::Synced, &[])
}

/// Whether rows with this key may count for derived ones.
pub(in crate::store) fn may_count(key: &[u8]) -> bool {
    const KINDS: [u8; 8] = [
        Kind::Blob as u8,
        Kind::Manifest as u8,
        Kind::Tag as u8,
        Kind::Outbox as u8,
        Kind::Token as u8,
        Kind::ScopeMap as u8,
        Kind::ConnectedRegistry as u8,
        Kind::Node as u8,
    ];
    key.first().is_some_and(|kind| KINDS.contains(kind))
}

/// What the counts of derived keys change by when a row becomes another one. A row that cannot be
/// read counts for nothing.
pub(in crate::store) fn difference(
    key: &[u8],
    old: Option<&[u8]>,
    new: Option<&[u8]>,
) -> BTreeMap<Vec<u8>, i64> {
    let mut changes: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    if let Some((kind, name)) = key.split_first()
        && *kind == Kind::ScopeMap as u8
    {
        // It counts with each of its bytes.
        let [old, new] = [old, new].map(|row| row.map_or(0, |row| row.len() as u64));
        let by = new.wrapping_sub(old).cast_signed();
        let sized = super::key(Kind::MapBytes, &[name]);
        return (by != 0).then_some((sized, by)).into_iter().collect();
    }
    for (row, by) in [(old, -1), (new, 1)] {
        for derived in row.and_then(|row| counted(key, row)).into_iter().flatten() {
            *changes.entry(derived).or_default() += by;
        }
    }
    changes.retain(|_, by| *by != 0);
    changes
}

/// The derived keys for which a row counts, each once.
fn counted(row_key: &[u8], row: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (kind, rest) = row_key.split_first()?;
    let place = || {
        let at = rest.iter().position(|byte| *byte == 0)?;
        Some((&rest[..at], &rest[at + 1..]))
    };
    if *kind == Kind::Outbox as u8 {
        let entry: OutboxEntry = decode(row).ok()?;
        let mut waiting = waiting_about(&entry.repository, About::of(&entry.change));
        waiting.extend(number_of(row_key).ok()?.to_be_bytes());
        let brought = entry.brings().map(|digest| {
            let mut brought = brought_in(&entry.repository, digest);
            brought.extend(&waiting[waiting.len() - 8..]);
            brought
        });
        Some(std::iter::once(waiting).chain(brought).collect())
    } else if *kind == Kind::Tag as u8 {
        let (repository, tag) = place()?;
        let named = decode::<TagRow>(row).ok()?.digest.to_key();
        Some(vec![key(Kind::Named, &[repository, &named, tag])])
    } else if *kind == Kind::Manifest as u8 {
        let (repository, digest) = place()?;
        let row: ManifestRow = decode(row).ok()?;
        let named = row.named_blobs().chain(row.named_manifests());
        let mut keys: Vec<_> =
            named.map(|named| key(Kind::Needed, &[repository, &named.to_key()])).collect();
        let above = row.named_manifests();
        keys.extend(above.map(|named| key(Kind::NamedBy, &[repository, &named.to_key(), digest])));
        keys.sort_unstable();
        keys.dedup();
        keys.push(held_key(digest));
        Some(keys)
    } else if *kind == Kind::Blob as u8 {
        let (_, digest) = place()?;
        Some(vec![held_key(digest)])
    } else if *kind == Kind::Token as u8 {
        let token: Token = decode(row).ok()?;
        Some(vec![key(Kind::UserOf, &[token.scope_map.as_str().as_bytes(), rest])])
    } else if *kind == Kind::ConnectedRegistry as u8 {
        let node: ConnectedRegistry = decode(row).ok()?;
        let clients = node.client_tokens.iter();
        let mut keys: Vec<_> =
            clients.map(|token| key(Kind::ClientOf, &[token.as_str().as_bytes(), rest])).collect();
        keys.sort_unstable();
        keys.dedup();
        let parent = node.parent.iter();
        keys.extend(parent.map(|parent| key(Kind::Below, &[parent.as_str().as_bytes(), rest])));
        Some(keys)
    } else if row_key.starts_with(&synced()) {
        Some(vec![synced_count_key()])
    } else {
        None
    }
}

//! How large desired states are. What a connected registry gets from its parent has a bound, and a
//! change that would make it larger than that is refused at the root: nothing else would reach the
//! connected registry after it, no withdrawal either.
//!
//! Sizes are those of the rows that a desired state is made of. Of scope maps, which are nearly all
//! of it, the index keeps the sizes, so that no map is read for this.

use std::collections::BTreeSet;

use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::derived::{self, Count, map_bytes_key};
use crate::store::rows::token::token_key;
use crate::store::rows::{decode, name_at};
use crate::store::{Store, StoreError, Txn};
use crate::sys::spawn::blocking;
use crate::types::limits::{DESIRED_STATE_BYTES_MAX, TREE_DEPTH_MAX};
use crate::types::token::Token;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, ScopeMapName, TokenName};

/// What stands before each part of a desired state in a message, bytes, at most.
const PART_BYTES: u64 = 16;
/// What a listed descendant has beside its name, bytes: its version.
const LISTED_BYTES: u64 = 72;

/// A row as it is stored, from the index or under the changes of a command.
trait Rows {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// What one token brings: itself, and the name of its scope map.
    fn token(&self, name: &TokenName) -> Result<(u64, Option<ScopeMapName>), StoreError> {
        let Some(row) = self.row(&token_key(name))? else {
            return Ok((0, None));
        };
        let map = decode::<Token>(&row)?.scope_map;
        Ok((row.len() as u64 + PART_BYTES, Some(map)))
    }

    fn map(&self, name: &ScopeMapName) -> Result<u64, StoreError> {
        let row = self.row(&map_bytes_key(name))?;
        let bytes = row.map(|row| decode::<Count>(&row)).transpose()?;
        Ok(bytes.map_or(0, |bytes| bytes.0 + PART_BYTES))
    }

    /// What a node brings with these tokens and their scope maps, each map once.
    fn node(
        &self,
        name: &ConnectedRegistryName,
        tokens: impl Fn(ConnectedRegistry) -> Vec<TokenName>,
    ) -> Result<u64, StoreError> {
        let Some(row) = self.row(&connected_registry_key(name))? else {
            return Ok(0);
        };
        let mut bytes = row.len() as u64 + PART_BYTES;
        let mut maps = BTreeSet::new();
        for token in tokens(decode(&row)?) {
            let (token, map) = self.token(&token)?;
            bytes += token;
            maps.extend(map);
        }
        for map in maps {
            bytes += self.map(&map)?;
        }
        Ok(bytes)
    }

    /// What a node has of its own in its desired state: what clients and its parent need of it.
    fn own(&self, name: &ConnectedRegistryName) -> Result<u64, StoreError> {
        self.node(name, |node| [vec![node.sync_token], node.client_tokens].concat())
    }

    /// What a node brings to the desired state of its parent.
    fn child(&self, name: &ConnectedRegistryName) -> Result<u64, StoreError> {
        self.node(name, |node| vec![node.sync_token])
    }
}

impl Rows for Store {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.look_up(|index| index.get(key))
    }
}

impl Rows for Txn<'_> {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.bytes(key)
    }
}

fn listed(name: &ConnectedRegistryName) -> u64 {
    name.as_str().len() as u64 + LISTED_BYTES + PART_BYTES
}

/// What a command may make larger.
enum Part {
    /// A node, and what its ancestors are granted with it.
    Path,
    /// The scope map of client tokens.
    Map(ScopeMapName),
    /// The scope map that a client token uses; and, for each node, those that it has with its other
    /// tokens, which come there once.
    Token(TokenName, Vec<BTreeSet<ScopeMapName>>),
}

/// Desired states that a command may make larger, and how large they are before it.
#[derive(Default)]
pub(super) struct Sizes(Vec<(Part, Vec<(ConnectedRegistryName, u64)>)>);

/// For whoever has the turn to change the tree.
impl Store {
    /// The desired states of a node, which need not be there yet, and of its ancestors.
    pub(super) async fn sizes_of_path(
        &self,
        name: &ConnectedRegistryName,
        parent: Option<&ConnectedRegistryName>,
    ) -> Result<Sizes, StoreError> {
        let node = self.connected_registry(name)?;
        let mut next = node.map_or(parent.cloned(), |node| node.parent);
        let mut path = vec![name.clone()];
        // A longer one is damage, which the command finds.
        while let Some(above) = next.take().filter(|_| path.len() <= TREE_DEPTH_MAX) {
            next = self.connected_registry(&above)?.and_then(|node| node.parent);
            path.push(above);
        }
        Ok(Sizes(vec![(Part::Path, self.sizes_of(path).await?)]))
    }

    /// Those that a change of this scope map may make larger.
    pub(super) async fn sizes_of_map(&self, map: &ScopeMapName) -> Result<Sizes, StoreError> {
        let users = self.users_of_map(map).await?;
        let (mut sizes, mut nodes) = (Sizes::default(), BTreeSet::new());
        for token in users {
            nodes.extend(self.with_client_token(&token).await?);
            let owner = self.sync_token_owner(&token)?;
            if let Some(owner) = owner {
                sizes.0.extend(self.sizes_of_path(&owner.name, None).await?.0);
            }
        }
        let nodes = self.sizes_of(nodes).await?;
        sizes.0.push((Part::Map(map.clone()), nodes));
        Ok(sizes)
    }

    /// Those that this scope map for this token may make larger.
    pub(super) async fn sizes_of_token(
        &self,
        token: &TokenName,
        map: &ScopeMapName,
    ) -> Result<Sizes, StoreError> {
        let mut sizes = match self.sync_token_owner(token)? {
            Some(owner) => self.sizes_of_path(&owner.name, None).await?,
            None => Sizes::default(),
        };
        let nodes = self.with_client_token(token).await?;
        let mut others = Vec::new();
        for node in &nodes {
            others.push(self.maps_of_others(node, token, map).await?);
        }
        sizes.0.push((Part::Token(token.clone(), others), self.sizes_of(nodes).await?));
        Ok(sizes)
    }

    /// Which of the scope map of a token and of this one a node has with its other tokens too.
    async fn maps_of_others(
        &self,
        node: &ConnectedRegistryName,
        token: &TokenName,
        map: &ScopeMapName,
    ) -> Result<BTreeSet<ScopeMapName>, StoreError> {
        let Some(node) = self.connected_registry(node)? else {
            return Ok(BTreeSet::new());
        };
        let own = self.token(token)?.map(|token| token.scope_map);
        let others = node.client_tokens.iter().chain([&node.sync_token]);
        let keys = others.filter(|other| *other != token).map(token_key).collect();
        let maps = self.rows_of::<Token>(keys).await?.into_iter().map(|other| other.scope_map);
        Ok(maps.filter(|other| other == map || own.as_ref() == Some(other)).collect())
    }

    async fn sizes_of(
        &self,
        names: impl IntoIterator<Item = ConnectedRegistryName>,
    ) -> Result<Vec<(ConnectedRegistryName, u64)>, StoreError> {
        let mut sizes = Vec::new();
        for name in names {
            let bytes = self.desired_state_bytes(&name).await?;
            sizes.push((name, bytes));
        }
        Ok(sizes)
    }

    /// The connected registries whose clients have this token.
    pub async fn with_client_token(
        &self,
        token: &TokenName,
    ) -> Result<Vec<ConnectedRegistryName>, StoreError> {
        self.names(derived::with_client(token)).await
    }

    /// The tokens that use this scope map, by name.
    pub(super) async fn users_of_map(
        &self,
        map: &ScopeMapName,
    ) -> Result<Vec<TokenName>, StoreError> {
        self.names(derived::users_of(map)).await
    }

    /// All names with which derived keys end that start so.
    async fn names<N: std::str::FromStr>(&self, start: Vec<u8>) -> Result<Vec<N>, StoreError> {
        let rows = self.pages::<Count>(start.clone()).all().await?;
        rows.iter().map(|(key, _)| name_at(key, start.len())).collect()
    }
}

impl Store {
    /// The size of the desired state of a node at the root, bytes; 0 when there is none.
    pub async fn desired_state_bytes(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<u64, StoreError> {
        let (store, own) = (self.clone(), name.clone());
        let mut bytes = blocking(move || store.own(&own)).await?;
        let start = derived::below(name);
        let mut pages = self.pages::<Count>(start.clone());
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                break;
            }
            let (store, start) = (self.clone(), start.len());
            let children = move || -> Result<u64, StoreError> {
                let sizes = page.iter().map(|(key, _)| store.child(&name_at(key, start)?));
                sizes.sum()
            };
            bytes += blocking(children).await?;
        }
        let below = self.names_below(name).await?;
        Ok(bytes + below.iter().map(listed).sum::<u64>())
    }
}

impl Sizes {
    /// Runs a command. `Invalid` when it makes a desired state larger than it may be.
    pub(super) fn bound<T>(
        &self,
        txn: &mut Txn<'_>,
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let before = self.measure(txn)?;
        let value = command(txn)?;
        let after = self.measure(txn)?;
        let all = self.0.iter().flat_map(|(_, nodes)| nodes);
        for ((name, total), (before, after)) in all.zip(before.into_iter().zip(after)) {
            let now = total.saturating_sub(before) + after;
            // What makes one smaller is never refused, however large it is.
            if after > before && now > DESIRED_STATE_BYTES_MAX {
                return Err(too_large(name, now));
            }
        }
        Ok(value)
    }

    /// For each of the desired states, the bytes of what the command may change of it.
    fn measure(&self, txn: &Txn<'_>) -> Result<Vec<u64>, StoreError> {
        let mut all = Vec::new();
        for (part, nodes) in &self.0 {
            match part {
                Part::Path => measure_path(txn, nodes, &mut all)?,
                Part::Map(map) => all.extend(vec![txn.map(map)?; nodes.len()]),
                Part::Token(token, others) => {
                    let Some(map) = txn.token(token)?.1 else {
                        all.extend(vec![0; nodes.len()]);
                        continue;
                    };
                    let bytes = txn.map(&map)?;
                    let once = |maps: &BTreeSet<_>| if maps.contains(&map) { 0 } else { bytes };
                    all.extend(others.iter().map(once));
                }
            }
        }
        Ok(all)
    }
}

/// Of the first node what is its own, of the others what they and the one below have.
fn measure_path(
    txn: &Txn<'_>,
    nodes: &[(ConnectedRegistryName, u64)],
    all: &mut Vec<u64>,
) -> Result<(), StoreError> {
    let mut below: Option<u64> = None;
    let mut first = 0;
    for (name, _) in nodes {
        let here = txn.child(name)?;
        let bytes = match below {
            Some(below) => here + below + first,
            None => {
                first = if here > 0 { listed(name) } else { 0 };
                txn.own(name)?
            }
        };
        all.push(bytes);
        below = Some(here);
    }
    Ok(())
}

fn too_large(name: &ConnectedRegistryName, bytes: u64) -> StoreError {
    let mib = |bytes: u64| {
        let tenths = bytes.saturating_mul(10).div_ceil(1024 * 1024);
        format!("{}.{} MiB", tenths / 10, tenths % 10)
    };
    StoreError::Invalid(format!(
        "What the connected registry '{name}' gets from its parent would have {}; at most {} can \
         be delivered. It holds the scope maps of '{name}', of its client tokens and of its direct \
         children. Grant fewer repositories there (a wildcard such as 'team/*' covers many with \
         one), take client tokens off, or put some of the children under other connected \
         registries.",
        mib(bytes),
        mib(DESIRED_STATE_BYTES_MAX)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::registry::manifests::testing::store;
    use crate::store::tree::command;

    #[test]
    fn f035_f209_what_fits_to_the_last_byte_is_taken() {
        let store = store();
        let name: ScopeMapName = "scope-map1".parse().unwrap();
        let grants = vec!["repositories/app/content/read".parse().unwrap()];
        let made = store.scope_map_create(name.clone(), String::new(), grants);
        smol::block_on(made).unwrap();
        let (max, room) = (DESIRED_STATE_BYTES_MAX, 7);
        for (total, described, fits) in [
            (max - room, "x".repeat(7), true),
            (max - room, "x".repeat(8), false),
            // It was too large before, and this makes it no larger.
            (max + room, String::new(), true),
        ] {
            let (name, node) = (name.clone(), "node1".parse().unwrap());
            let sizes = Sizes(vec![(Part::Map(name.clone()), vec![(node, total)])]);
            let widened = store.commit(move |txn| {
                sizes.bound(txn, |txn| {
                    let mut map = command::scope_map(txn, &name)?.unwrap();
                    map.description = described;
                    command::put_scope_map(txn, map).map(|_| ())
                })?;
                Err::<(), _>(StoreError::NotFound)
            });
            let refused = smol::block_on(widened).unwrap_err();
            assert_eq!(matches!(refused, StoreError::NotFound), fits, "{refused}");
        }
    }
}

//! Desired states of the nodes below this one, and their versions.
//!
//! At the root a desired state is computed from the managed rows. Its version is a digest over
//! it, and it lists the versions of all descendants: a change anywhere below changes the version
//! of every node on the way up to the root. A connected registry answers with what it was sent; the
//! desired states of several nodes reach it one after the other, so its versions also tell which of
//! the listed ones it does not have yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway::feed::Scope;
use crate::gateway::wire::versioned_bytes;
use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::token::token_key;
use crate::store::{PAGE_ROWS, Store, StoreError};
use crate::sys::spawn::{blocking, yield_now};
use crate::types::message::{Descendant, NodeConfig};
use crate::types::token::{ScopeMap, Token};
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Role, ScopeMapName, TokenName};

/// How often the rows that a desired state is made of are read again because some of them were
/// changed meanwhile: together they would be a state that there never was. Over it: 503, and the
/// child asks again.
const READS_MAX: usize = 16;

/// Answers what is desired of a node.
pub struct Directory {
    store: Store,
    role: Role,
    registry: String,
    versions: Mutex<Option<Arc<Versions>>>,
    /// Held by whoever computes versions: children that ask meanwhile wait for those.
    loading: smol::lock::Mutex<()>,
}

struct Versions {
    /// The journal sequence that the versions are not older than.
    sequence: u64,
    by_name: BTreeMap<ConnectedRegistryName, String>,
    children: Children,
}

/// The nodes directly below each, by name.
type Children = BTreeMap<ConnectedRegistryName, Vec<ConnectedRegistryName>>;

impl Versions {
    /// The part of the tree below a node, and it.
    fn children_below(&self, name: &ConnectedRegistryName) -> Children {
        let names = below(&self.children, name);
        let names = names.iter().chain([name]);
        let entry = |name| self.children.get_key_value(name);
        names.filter_map(entry).map(|(name, below)| (name.clone(), below.clone())).collect()
    }
}

/// A desired state under its version.
pub struct Versioned {
    /// What is desired.
    pub config: NodeConfig,
    /// Changes with it.
    pub version: String,
}

impl Directory {
    /// A directory of the nodes below this one; `registry` is the name of the root.
    pub fn new(store: Store, role: Role, registry: String) -> Directory {
        let (versions, loading) = (Mutex::default(), smol::lock::Mutex::default());
        Directory { store, role, registry, versions, loading }
    }

    /// What a node below this one mirrors.
    pub fn scope(&self, node: &ConnectedRegistry) -> Result<Scope, StoreError> {
        if let Some((_, map)) = self.store.token_with_map(&node.sync_token)? {
            return Ok(map.as_ref().map(Scope::of_map).unwrap_or_default());
        }
        let config = self.store.descendant_config(&node.name)?;
        Ok(config.as_ref().map(Scope::of_config).unwrap_or_default())
    }

    /// The desired state of a node below this one.
    pub async fn config(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Option<Versioned>, StoreError> {
        if self.role == Role::Connected {
            let Some(config) = self.store.descendant_config(name)? else {
                return Ok(None);
            };
            return self.passed_on(config).await.map(Some);
        }
        let versions = self.versions(self.store.access_sequence()).await?;
        for _ in 0..READS_MAX {
            // Where the versions are older than this, the child asks again for what they belong to.
            let before = self.store.access_sequence();
            let tree = self.around(name, &versions).await?;
            // What was applied while the rows were read may not be shown yet.
            self.store.shown(self.store.reached()).await;
            if self.store.access_sequence() == before {
                let config = tree.and_then(|tree| tree.config(name, &versions.by_name));
                return Ok(config.map(versioned));
            }
        }
        Err(StoreError::Unavailable)
    }

    /// What the desired state of one node is made of: no more rows than it has parts, each as it
    /// was at some time or other.
    async fn around(
        &self,
        name: &ConnectedRegistryName,
        versions: &Versions,
    ) -> Result<Option<Tree>, StoreError> {
        let Some(node) = self.store.connected_registry(name)? else { return Ok(None) };
        let children = versions.children.get(name).cloned().unwrap_or_default();
        let keys = children.iter().map(connected_registry_key).collect();
        let mut nodes = self.store.rows_of::<ConnectedRegistry>(keys).await?;
        let of_clients = node.client_tokens.clone();
        nodes.push(node);
        let of_nodes = nodes.iter().map(|node| &node.sync_token);
        let keys = of_clients.iter().chain(of_nodes).map(token_key).collect();
        let tokens = self.store.rows_of::<Token>(keys).await?;
        let named: BTreeSet<&ScopeMapName> = tokens.iter().map(|token| &token.scope_map).collect();
        let keys = named.into_iter().map(scope_map_key).collect();
        let maps = self.store.rows_of::<ScopeMap>(keys).await?;
        let tree = Tree::of(self.registry.clone(), nodes, tokens, maps);
        Ok(Some(Tree { children: versions.children_below(name), ..tree }))
    }

    /// The version of a node's desired state, not older than the journal's `sequence`.
    pub async fn version(
        &self,
        name: &ConnectedRegistryName,
        sequence: u64,
    ) -> Result<Option<String>, StoreError> {
        if self.role == Role::Connected {
            let config = self.store.descendant_config(name)?;
            let Some(config) = config else { return Ok(None) };
            return Ok(Some(self.passed_on(config).await?.version));
        }
        Ok(self.versions(sequence).await?.by_name.get(name).cloned())
    }

    /// A desired state as this connected registry passes it on. Its version is that of the root
    /// once everything that it lists is here. Before that it is another one, because the child that
    /// it is for asks at once for what is listed, and would not ask again for what it did not get.
    async fn passed_on(&self, config: NodeConfig) -> Result<Versioned, StoreError> {
        let Versioned { config, mut version } = versioned(config);
        for page in config.descendants.chunks(PAGE_ROWS) {
            for listed in page {
                if self.store.descendant_version(&listed.name)?.as_ref() != Some(&listed.version) {
                    version = format!("{version}-without-{}", listed.name);
                    return Ok(Versioned { config, version });
                }
            }
            yield_now().await;
        }
        Ok(Versioned { config, version })
    }

    /// The versions of all nodes. However many ask, one computes them at a time, because the whole
    /// tree is in memory for that; those who waited take its answer, or one of them is the next.
    async fn versions(&self, sequence: u64) -> Result<Arc<Versions>, StoreError> {
        if let Some(versions) = self.versions_since(sequence) {
            return Ok(versions);
        }
        let _alone = self.loading.lock().await;
        if let Some(versions) = self.versions_since(sequence) {
            return Ok(versions);
        }
        // Taken before the rows are read, so that it never claims too much.
        let sequence = self.store.sequence();
        let tree = Tree::load(&self.store, self.registry.clone()).await?;
        let versions = blocking(move || {
            let by_name = tree.versions();
            Arc::new(Versions { sequence, by_name, children: tree.children })
        });
        let versions = versions.await;
        *self.versions.lock().unwrap_or_else(PoisonError::into_inner) = Some(versions.clone());
        Ok(versions)
    }

    fn versions_since(&self, sequence: u64) -> Option<Arc<Versions>> {
        let known = self.versions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|versions| versions.sequence >= sequence)
    }
}

fn versioned(config: NodeConfig) -> Versioned {
    let (config, bytes) = versioned_bytes(config);
    // A value without maps or floats always has an encoding; an empty one would only cost a fetch.
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes.unwrap_or_default());
    Versioned { config, version: data_encoding::HEXLOWER.encode(digest.as_ref()) }
}

/// All managed rows of the root.
struct Tree {
    registry: String,
    nodes: BTreeMap<ConnectedRegistryName, ConnectedRegistry>,
    children: Children,
    tokens: BTreeMap<TokenName, Token>,
    maps: BTreeMap<ScopeMapName, ScopeMap>,
}

impl Tree {
    async fn load(store: &Store, registry: String) -> Result<Tree, StoreError> {
        let nodes = store.connected_registries().await?;
        Ok(Tree::of(registry, nodes, store.tokens().await?, store.scope_maps().await?))
    }

    fn of(
        registry: String,
        nodes: Vec<ConnectedRegistry>,
        tokens: Vec<Token>,
        maps: Vec<ScopeMap>,
    ) -> Tree {
        let mut children = Children::new();
        for node in &nodes {
            if let Some(parent) = &node.parent {
                children.entry(parent.clone()).or_default().push(node.name.clone());
            }
        }
        Tree {
            registry,
            nodes: nodes.into_iter().map(|node| (node.name.clone(), node)).collect(),
            children,
            tokens: tokens.into_iter().map(|token| (token.name.clone(), token)).collect(),
            maps: maps.into_iter().map(|map| (map.name.clone(), map)).collect(),
        }
    }

    /// Versions from the leaves up, because each lists those below it.
    fn versions(&self) -> BTreeMap<ConnectedRegistryName, String> {
        let roots = self.nodes.values().filter(|node| node.parent.is_none());
        let mut order: Vec<ConnectedRegistryName> = Vec::new();
        for root in roots {
            order.push(root.name.clone());
            order.extend(below(&self.children, &root.name));
        }
        let mut versions = BTreeMap::new();
        for name in order.into_iter().rev() {
            if let Some(config) = self.config(&name, &versions) {
                versions.insert(name, versioned(config).version);
            }
        }
        versions
    }

    fn config(
        &self,
        name: &ConnectedRegistryName,
        versions: &BTreeMap<ConnectedRegistryName, String>,
    ) -> Option<NodeConfig> {
        let node = self.nodes.get(name)?.clone();
        let sync_token = self.tokens.get(&node.sync_token)?.clone();
        let known = |name: &TokenName| self.tokens.get(name).cloned();
        let client_tokens: Vec<Token> = node.client_tokens.iter().filter_map(known).collect();
        let children = self.children.get(name).into_iter().flatten();
        let children: Vec<ConnectedRegistry> =
            children.filter_map(|child| self.nodes.get(child).cloned()).collect();
        let child_tokens: Vec<Token> =
            children.iter().filter_map(|child| known(&child.sync_token)).collect();
        let tokens = client_tokens.iter().chain(&child_tokens).chain([&sync_token]);
        let maps: BTreeMap<&ScopeMapName, &ScopeMap> = tokens
            .filter_map(|token| self.maps.get(&token.scope_map))
            .map(|map| (&map.name, map))
            .collect();
        let scope_maps = maps.into_values().cloned().collect();
        let mut below = below(&self.children, name);
        below.sort_unstable();
        let descendants = below.into_iter().filter_map(|name| {
            let version = versions.get(&name)?.clone();
            Some(Descendant { name, version })
        });
        Some(NodeConfig {
            registry: self.registry.clone(),
            node,
            sync_token,
            client_tokens,
            children,
            child_tokens,
            scope_maps,
            descendants: descendants.collect(),
        })
    }
}

/// All descendants, parents before their children. Each has one parent, so that only a circle of
/// them, in a damaged store, would come to the first one again.
fn below(children: &Children, first: &ConnectedRegistryName) -> Vec<ConnectedRegistryName> {
    let children_of = |name: &ConnectedRegistryName| {
        let children = children.get(name).into_iter().flatten();
        children.filter(|child| *child != first).cloned().collect::<Vec<_>>()
    };
    let mut found = children_of(first);
    let mut next = 0;
    while let Some(name) = found.get(next) {
        let children = children_of(name);
        found.extend(children);
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::store::replica::node::testing::{connected_registry, map, token};
    use crate::store::rows::{Kind, key};
    use crate::sys::{Spawner, Sys};

    fn name(text: &str) -> ConnectedRegistryName {
        text.parse().unwrap()
    }

    async fn put_map(store: &Store, map: ScopeMap) {
        let key = key(Kind::ScopeMap, &[map.name.as_str().as_bytes()]);
        store.commit(move |txn| txn.put(key, &map)).await.unwrap();
    }

    /// upper1 over middle1 over lower1; and other1 beside them. Each mirrors a repository of its
    /// own name, and the clients of middle1 see none of those.
    async fn tree() -> (Store, Directory) {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let nodes = [
            ("upper1", None),
            ("middle1", Some("upper1")),
            ("lower1", Some("middle1")),
            ("other1", None),
        ];
        for (name, parent) in nodes {
            let mut node = connected_registry(name, parent);
            if name == "middle1" {
                node.client_tokens.push("client1".parse().unwrap());
            }
            let sync = format!("{name}-sync");
            for token in [token(&sync), token("client1")] {
                let key = key(Kind::Token, &[token.name.as_str().as_bytes()]);
                store.commit(move |txn| txn.put(key, &token)).await.unwrap();
            }
            let grant = format!("repositories/{name}/content/read");
            put_map(&store, map(&format!("{sync}-map"), &[&grant])).await;
            let key = key(Kind::ConnectedRegistry, &[name.as_bytes()]);
            store.commit(move |txn| txn.put(key, &node)).await.unwrap();
        }
        put_map(&store, map("client1-map", &["repositories/of-clients/content/read"])).await;
        let directory = Directory::new(store.clone(), Role::Root, "myregistry".to_owned());
        (store, directory)
    }

    #[test]
    fn a_desired_state_holds_what_its_node_needs() {
        smol::block_on(async {
            let (_store, directory) = tree().await;
            let config = directory.config(&name("middle1")).await.unwrap().unwrap().config;
            assert_eq!(config.sync_token.name.as_str(), "middle1-sync");
            assert_eq!(config.client_tokens.len(), 1);
            assert_eq!(config.children.len(), 1);
            assert_eq!(config.child_tokens[0].name.as_str(), "lower1-sync");
            let maps: Vec<&str> = config.scope_maps.iter().map(|map| map.name.as_str()).collect();
            assert_eq!(maps, ["client1-map", "lower1-sync-map", "middle1-sync-map"]);
            let upper = directory.config(&name("upper1")).await.unwrap().unwrap().config;
            let below: Vec<&str> = upper.descendants.iter().map(|d| d.name.as_str()).collect();
            assert_eq!(below, ["lower1", "middle1"]);
            assert!(directory.config(&name("absent1")).await.unwrap().is_none());
        });
    }

    #[test]
    fn a_change_below_changes_every_version_above_and_no_other() {
        smol::block_on(async {
            let (store, directory) = tree().await;
            let names = ["upper1", "middle1", "lower1", "other1"];
            let versions = async || {
                let mut versions = Vec::new();
                for text in names {
                    let sequence = store.sequence();
                    let version = directory.version(&name(text), sequence).await.unwrap().unwrap();
                    let config = directory.config(&name(text)).await.unwrap().unwrap();
                    assert_eq!(config.version, version);
                    versions.push(version);
                }
                versions
            };
            let before = versions().await;
            assert_eq!(before, versions().await);
            put_map(&store, map("lower1-sync-map", &["repositories/tools/content/read"])).await;
            let after = versions().await;
            let changed: Vec<bool> = before.iter().zip(&after).map(|(a, b)| a != b).collect();
            assert_eq!(changed, [true, true, true, false]);
        });
    }

    /// A client token leaves a scope map, which grants more only while it is away. The rows of a
    /// desired state that is put together meanwhile are read one after the other.
    #[test]
    fn f056_a_desired_state_grants_nothing_that_was_never_granted() {
        smol::block_on(async {
            let (store, directory) = tree().await;
            let wide = ["repositories/of-clients/content/read", "repositories/secret/content/read"];
            put_map(&store, map("low-map", &wide[..1])).await;
            let is_over = AtomicBool::new(false);
            let use_map = async |map: &str| {
                let mut token = token("client1");
                token.scope_map = map.parse().unwrap();
                store.commit(move |txn| txn.put(token_key(&token.name), &token)).await.unwrap();
            };
            let change = async {
                for number in 0..500 {
                    use_map("low-map").await;
                    put_map(&store, map("client1-map", &wide)).await;
                    // Others run, now for a shorter and now for a longer time.
                    for _ in 0..number % 5 {
                        blocking(|| ()).await;
                    }
                    put_map(&store, map("client1-map", &wide[..1])).await;
                    use_map("client1-map").await;
                    blocking(|| ()).await;
                }
                is_over.store(true, Ordering::Relaxed);
            };
            let read = async {
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let config = match directory.config(&name("middle1")).await {
                        Err(StoreError::Unavailable) => continue,
                        found => found.unwrap().unwrap().config,
                    };
                    let used = &config.client_tokens[0].scope_map;
                    let map = config.scope_maps.iter().find(|map| map.name == *used);
                    assert_eq!(map.map(|map| map.grants.len()), Some(1), "{used} after {count}");
                    count += 1;
                }
                assert!(count > 0);
            };
            smol::future::zip(change, read).await;
        });
    }

    #[test]
    fn f209_versions_are_computed_once_however_many_ask() {
        let (store, directory) = smol::block_on(tree());
        let executor = smol::LocalExecutor::new();
        let (sequence, directory) = (store.sequence(), &directory);
        let asked: Vec<_> = (0..50)
            .map(|_| executor.spawn(async move { directory.versions(sequence).await.unwrap() }))
            .collect();
        let answers = smol::block_on(executor.run(async {
            let mut answers = Vec::new();
            for answer in asked {
                answers.push(answer.await);
            }
            answers
        }));
        let computed: BTreeSet<_> = answers.iter().map(Arc::as_ptr).collect();
        assert_eq!(computed.len(), 1);
    }

    #[test]
    fn f117_a_node_below_mirrors_what_its_sync_map_grants() {
        smol::block_on(async {
            let (_root, directory) = tree().await;
            // Below the root no tokens are known but those in the desired states.
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let below = Directory::new(store.clone(), Role::Connected, "myregistry".to_owned());
            for text in ["upper1", "middle1", "lower1"] {
                let at_root = directory.config(&name(text)).await.unwrap().unwrap();
                store.receive_descendant(at_root.config.clone(), at_root.version).await.unwrap();
                for directory in [&directory, &below] {
                    let scope = directory.scope(&at_root.config.node).unwrap();
                    let patterns: Vec<String> =
                        scope.patterns().iter().map(ToString::to_string).collect();
                    assert_eq!(patterns, [text]);
                }
            }
        });
    }

    /// The child of a middle node fetched its own desired state before that of its own child had
    /// come to the middle node, got 404 or an old one for it, and never asked again: a device on
    /// the third level was active and had no desired state until something else changed.
    #[test]
    fn f056_a_child_hears_again_when_the_rest_has_come() {
        smol::block_on(async {
            let (_root, directory) = tree().await;
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let below = Directory::new(store.clone(), Role::Connected, "myregistry".to_owned());
            let told = async || {
                let version = below.version(&name("middle1"), 0).await.unwrap().unwrap();
                let config = below.config(&name("middle1")).await.unwrap().unwrap();
                assert_eq!(config.version, version);
                version
            };
            let middle = directory.config(&name("middle1")).await.unwrap().unwrap();
            store.receive_descendant(middle.config, middle.version.clone()).await.unwrap();
            let without = told().await;
            let lower = directory.config(&name("lower1")).await.unwrap().unwrap();
            store.receive_descendant(lower.config.clone(), "older".to_owned()).await.unwrap();
            assert_eq!(told().await, without);
            store.receive_descendant(lower.config, lower.version).await.unwrap();
            assert_ne!(without, middle.version);
            assert_eq!(told().await, middle.version);
        });
    }

    #[test]
    fn ancestors_are_found() {
        smol::block_on(async {
            let (_store, directory) = tree().await;
            for (upper, lower, expected) in [
                ("upper1", "lower1", true),
                ("middle1", "lower1", true),
                ("lower1", "upper1", false),
                ("upper1", "upper1", false),
                ("other1", "lower1", false),
            ] {
                let found = directory.store.is_ancestor(&name(upper), &name(lower)).unwrap();
                assert_eq!(found, expected, "{upper} {lower}");
            }
        });
    }
}

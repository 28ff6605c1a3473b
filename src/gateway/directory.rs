//! Desired states of the nodes below this one, and their versions.
//!
//! At the root a desired state is computed from the managed rows. Its version is a digest over
//! it, and it lists the versions of all descendants: a change anywhere below changes the version
//! of every node on the way up to the root. A connected registry answers with what it was sent; the
//! desired states of several nodes reach it one after the other, so its versions also tell which of
//! the listed ones it does not have yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway::feed::Scope;
use crate::store::rows::{Kind, key, prefix};
use crate::store::{Store, StoreError};
use crate::sys::spawn::blocking;
use crate::types::message::{Descendant, NodeConfig};
use crate::types::token::{ScopeMap, Token};
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Role, ScopeMapName, TokenName};

/// Answers what is desired of a node.
pub struct Directory {
    store: Store,
    role: Role,
    registry: String,
    versions: Mutex<Option<Arc<Versions>>>,
}

struct Versions {
    /// The journal sequence that the versions are not older than.
    sequence: u64,
    by_name: BTreeMap<ConnectedRegistryName, String>,
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
        Directory { store, role, registry, versions: Mutex::default() }
    }

    /// What a node below this one mirrors.
    pub fn scope(&self, node: &ConnectedRegistry) -> Result<Scope, StoreError> {
        let token = key(Kind::Token, &[node.sync_token.as_str().as_bytes()]);
        if let Some(token) = self.store.get::<Token>(&token)? {
            let map = key(Kind::ScopeMap, &[token.scope_map.as_str().as_bytes()]);
            let map = self.store.get::<ScopeMap>(&map)?;
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
            let version = self.passed_on(&config)?;
            return Ok(Some(Versioned { config, version }));
        }
        let versions = self.versions(self.store.sequence()).await?;
        let (store, name) = (self.store.clone(), name.clone());
        let registry = self.registry.clone();
        let config = blocking(move || {
            let tree = Tree::load(&store, &registry)?;
            Ok::<_, StoreError>(tree.config(&name, &versions.by_name))
        });
        Ok(config.await?.map(versioned))
    }

    /// The version of a node's desired state, not older than the journal's `sequence`.
    pub async fn version(
        &self,
        name: &ConnectedRegistryName,
        sequence: u64,
    ) -> Result<Option<String>, StoreError> {
        if self.role == Role::Connected {
            let config = self.store.descendant_config(name)?;
            return config.map(|config| self.passed_on(&config)).transpose();
        }
        Ok(self.versions(sequence).await?.by_name.get(name).cloned())
    }

    /// The version of a desired state as this connected registry passes it on: that of the root
    /// once everything that it lists is here. Before that it is another one, because the child that
    /// it is for asks at once for what is listed, and would not ask again for what it did not get.
    fn passed_on(&self, config: &NodeConfig) -> Result<String, StoreError> {
        let mut version = version_of(config);
        for listed in &config.descendants {
            if self.store.descendant_version(&listed.name)?.as_ref() != Some(&listed.version) {
                version = format!("{version}-without-{}", listed.name);
                break;
            }
        }
        Ok(version)
    }

    /// The versions of all nodes, computed at most once for each change, however many ask.
    async fn versions(&self, sequence: u64) -> Result<Arc<Versions>, StoreError> {
        let cached = self.versions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(versions) = cached.filter(|versions| versions.sequence >= sequence) {
            return Ok(versions);
        }
        let (store, registry) = (self.store.clone(), self.registry.clone());
        let versions = blocking(move || {
            // Taken before the rows are read, so that it never claims too much.
            let sequence = store.sequence();
            let by_name = Tree::load(&store, &registry)?.versions();
            Ok::<_, StoreError>(Arc::new(Versions { sequence, by_name }))
        });
        let versions = versions.await?;
        *self.versions.lock().unwrap_or_else(PoisonError::into_inner) = Some(versions.clone());
        Ok(versions)
    }
}

fn versioned(config: NodeConfig) -> Versioned {
    let version = version_of(&config);
    Versioned { config, version }
}

fn version_of(config: &NodeConfig) -> String {
    // A value without maps or floats always has an encoding; an empty one would only cost a fetch.
    let bytes = postcard::to_allocvec(config).unwrap_or_default();
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    data_encoding::HEXLOWER.encode(digest.as_ref())
}

/// All managed rows of the root.
struct Tree {
    registry: String,
    nodes: BTreeMap<ConnectedRegistryName, ConnectedRegistry>,
    children: BTreeMap<ConnectedRegistryName, Vec<ConnectedRegistryName>>,
    tokens: BTreeMap<TokenName, Token>,
    maps: BTreeMap<ScopeMapName, ScopeMap>,
}

impl Tree {
    fn load(store: &Store, registry: &str) -> Result<Tree, StoreError> {
        let start = prefix(Kind::ConnectedRegistry, &[]);
        let nodes = store.scan::<ConnectedRegistry>(&start, None, usize::MAX)?;
        let tokens = store.scan::<Token>(&prefix(Kind::Token, &[]), None, usize::MAX)?;
        let maps = store.scan::<ScopeMap>(&prefix(Kind::ScopeMap, &[]), None, usize::MAX)?;
        let mut children: BTreeMap<ConnectedRegistryName, Vec<_>> = BTreeMap::new();
        for (_, node) in &nodes {
            if let Some(parent) = &node.parent {
                children.entry(parent.clone()).or_default().push(node.name.clone());
            }
        }
        Ok(Tree {
            registry: registry.to_owned(),
            nodes: nodes.into_iter().map(|(_, node)| (node.name.clone(), node)).collect(),
            children,
            tokens: tokens.into_iter().map(|(_, token)| (token.name.clone(), token)).collect(),
            maps: maps.into_iter().map(|(_, map)| (map.name.clone(), map)).collect(),
        })
    }

    /// Versions from the leaves up, because each lists those below it.
    fn versions(&self) -> BTreeMap<ConnectedRegistryName, String> {
        let roots = self.nodes.values().filter(|node| node.parent.is_none());
        let mut order: Vec<ConnectedRegistryName> = Vec::new();
        for root in roots {
            order.push(root.name.clone());
            order.extend(self.below(&root.name));
        }
        let mut versions = BTreeMap::new();
        for name in order.into_iter().rev() {
            if let Some(config) = self.config(&name, &versions) {
                versions.insert(name, version_of(&config));
            }
        }
        versions
    }

    /// All descendants, parents before their children. Each has one parent, so that only a circle
    /// of them, in a damaged store, would come to the first one again.
    fn below(&self, first: &ConnectedRegistryName) -> Vec<ConnectedRegistryName> {
        let children_of = |name: &ConnectedRegistryName| {
            let children = self.children.get(name).into_iter().flatten();
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
        let mut below = self.below(name);
        below.sort();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::replica::node::testing::{connected_registry, map, token};
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

    #[test]
    fn f117_a_node_below_mirrors_what_its_sync_map_grants() {
        smol::block_on(async {
            let (_root, directory) = tree().await;
            // Below the root no tokens are known but those in the desired states.
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let below = Directory::new(store.clone(), Role::Connected, "myregistry".to_owned());
            for text in ["upper1", "middle1", "lower1"] {
                let at_root = directory.config(&name(text)).await.unwrap().unwrap();
                store.apply_descendant(at_root.config.clone(), at_root.version).await.unwrap();
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
            store.apply_descendant(middle.config, middle.version.clone()).await.unwrap();
            let without = told().await;
            let lower = directory.config(&name("lower1")).await.unwrap().unwrap();
            store.apply_descendant(lower.config.clone(), "older".to_owned()).await.unwrap();
            assert_eq!(told().await, without);
            store.apply_descendant(lower.config, lower.version).await.unwrap();
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

//! Random management commands on a random tree: the rule holds after each of them.

use super::*;
use crate::store::Store;
use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::token::token_key;
use crate::store::tree::connected_registries::Settings;
use crate::store::tree::creation::NewConnectedRegistry;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::store::tree::tokens::{NewToken, TokenGrants, TokenUpdate};
use crate::sys::{Spawner, Sys};
use crate::types::limits::TREE_DEPTH_MAX;
use crate::types::{Change, GatewayAction, Mode, RepositoryAction, RepositoryPattern};

/// Commands per tree.
const STEPS: usize = 150;
/// Trees, each from its own seed.
const SEEDS: u64 = 12;

const NODES: [&str; 8] =
    ["node01", "node02", "node03", "node04", "node05", "node06", "node07", "node08"];
const PATTERNS: [&str; 8] =
    ["*", "a", "b", "team/*", "team/x", "team/y", "team/sub/*", "team/sub/z"];

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let z = usize::try_from((z ^ (z >> 31)) >> 33).unwrap();
        z % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn patterns(&mut self) -> Vec<RepositoryPattern> {
        (0..self.below(3)).map(|_| self.pick(&PATTERNS).parse().unwrap()).collect()
    }

    fn grants(&mut self) -> Vec<Grant> {
        let actions = RepositoryAction::ALL;
        let mut grants = Vec::new();
        for pattern in self.patterns() {
            grants.push(Grant::Repository(pattern, actions[self.below(actions.len())]));
        }
        grants
    }

    /// Gateway actions of some node, or none.
    fn gateway(&mut self) -> Vec<Grant> {
        let name = self.node();
        GatewayAction::ALL[self.below(4)..]
            .iter()
            .map(|at| Grant::Gateway(name.clone(), *at))
            .collect()
    }

    fn node(&mut self) -> ConnectedRegistryName {
        self.pick(&NODES).parse().unwrap()
    }
}

/// One random command. Refusals are fine: many make no sense in the tree as it is.
async fn step(store: &Store, random: &mut Random) -> Result<(), StoreError> {
    let name = random.node();
    match random.below(11) {
        0..=2 => {
            let sync_token = (random.below(3) == 0).then(|| "spare-token".parse().unwrap());
            let repositories = match sync_token {
                None => vec![random.pick(&PATTERNS).parse().unwrap()],
                Some(_) => Vec::new(),
            };
            let mode = [None, Some(Mode::ReadOnly), Some(Mode::ReadWrite)][random.below(3)];
            let parent = (random.below(4) > 0).then(|| random.node());
            let new = NewConnectedRegistry {
                name,
                mode,
                parent,
                repositories,
                sync_token,
                client_tokens: Vec::new(),
                settings: Settings::default(),
            };
            store.connected_registry_create(new).await.map(|_| ())
        }
        3..=5 => {
            let (add, remove) = (random.patterns(), random.patterns());
            store.permissions_update(name, add, remove).await.map(|_| ())
        }
        6 | 7 => {
            let map = random.pick(&[name.as_str(), "spare-map-1", "spare-map-2"]).parse().unwrap();
            let grants = match random.below(6) {
                0 => Change::Replace(random.grants()),
                1 => {
                    let is_kept = |grant: &Grant| matches!(grant, Grant::Gateway(..));
                    let before = store.scope_map(&map)?.map_or(Vec::new(), |map| map.grants);
                    let kept = before.into_iter().filter(is_kept);
                    Change::Replace(random.grants().into_iter().chain(kept).collect())
                }
                2 => Change::Delta { add: Vec::new(), remove: random.gateway() },
                _ => Change::Delta { add: random.grants(), remove: random.grants() },
            };
            let update = ScopeMapUpdate { grants, description: None };
            store.scope_map_update(map, update).await.map(|_| ())
        }
        8 => {
            let map = random.pick(&[name.as_str(), "spare-map-1", "spare-map-2"]).parse().unwrap();
            let tokens = [name.as_str(), "spare-token", "client-token"];
            let token = random.pick(&tokens).parse().unwrap();
            let update = TokenUpdate { enabled: None, scope_map: Some(map) };
            store.token_update(token, update).await.map(|_| ())
        }
        9 => {
            let map = random.pick(&[name.as_str(), "spare-map-1", "spare-map-2"]);
            let token = token_of(["client-token", "client-token-2"][random.below(2)], map);
            store.token_create(token).await.map(|_| ())
        }
        _ => store.connected_registry_delete(name, random.below(2) == 0).await.map(|_| ()),
    }
}

/// A token without passwords that has a scope map which is there.
fn token_of(name: &str, map: &str) -> NewToken {
    NewToken {
        name: name.parse().unwrap(),
        grants: TokenGrants::Map(map.parse().unwrap()),
        enabled: true,
        passwords: false,
        expires: None,
    }
}

/// Every repository grant of a node is covered by its parent's; its sync token has its scope map
/// for itself, with the gateway actions of the node and of all below it.
fn check(store: &Store) -> usize {
    let all = smol::block_on(store.connected_registries()).unwrap();
    let tokens = smol::block_on(store.tokens()).unwrap();
    let mut checked = 0;
    for node in &all {
        let map = store.sync_scope_map(node).unwrap();
        let users = tokens.iter().filter(|token| token.scope_map == map.name);
        assert_eq!(users.count(), 1, "{} of {}", map.name, node.name);
        let granted = Granted::of(&map.grants);
        let below = descendants_among(&all, &node.name).into_iter().map(|below| below.name);
        for name in below.chain([node.name.clone()]) {
            for action in GatewayAction::ALL {
                let wanted = Grant::Gateway(name.clone(), action);
                assert!(granted.cover(&wanted), "{}: {wanted}", node.name);
            }
        }
        let Some(parent) = &node.parent else {
            continue;
        };
        let parent = all.iter().find(|other| other.name == *parent).expect("the parent is there");
        let above = store.sync_scope_map(parent).unwrap();
        for grant in store.sync_scope_map(node).unwrap().grants {
            if matches!(grant, Grant::Repository(..)) {
                assert!(Granted::of(&above.grants).cover(&grant), "{}: {grant}", node.name);
                checked += 1;
            }
        }
    }
    checked
}

#[test]
fn f082_a_child_is_never_granted_more_than_its_parent() {
    let mut checked = 0;
    for seed in 0..SEEDS {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let mut random = Random(seed);
        smol::block_on(async {
            for map in ["spare-map-1", "spare-map-2"] {
                let grant = "repositories/b/content/read".parse().unwrap();
                let (name, text) = (map.parse().unwrap(), String::new());
                store.scope_map_create(name, text, vec![grant]).await.unwrap();
            }
            for token in ["spare-token", "client-token"] {
                let map = ["spare-map-1", "spare-map-2"][random.below(2)];
                store.token_create(token_of(token, map)).await.unwrap();
            }
            for _ in 0..STEPS {
                let before = store.sequence();
                if step(&store, &mut random).await.is_err() {
                    assert_eq!(store.sequence(), before, "a refused command changes nothing");
                }
                checked += check(&store);
            }
        });
    }
    assert!(checked > 1000, "the trees grew: {checked}");
}

/// Symptom: the map of a client's token was given to a sync token, whose device was then unknown to
/// its parent; and what was granted to a device below was granted to that client.
#[test]
fn f082_who_shares_or_empties_a_sync_scope_map_is_told_why_not() {
    smol::block_on(async {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let grant = "repositories/b/content/read".parse().unwrap();
        let (name, text) = ("users-map".parse().unwrap(), String::new());
        store.scope_map_create(name, text, vec![grant]).await.unwrap();
        store.token_create(token_of("user-token", "users-map")).await.unwrap();
        let mut parent = None;
        for name in &NODES[..2] {
            let name: ConnectedRegistryName = name.parse().unwrap();
            let new = NewConnectedRegistry {
                name: name.clone(),
                mode: None,
                parent: parent.replace(name),
                repositories: vec!["a".parse().unwrap()],
                sync_token: None,
                client_tokens: Vec::new(),
                settings: Settings::default(),
            };
            store.connected_registry_create(new).await.unwrap();
        }
        let update = async |token: &str, map: &str| {
            let update = TokenUpdate { enabled: None, scope_map: Some(map.parse().unwrap()) };
            store.token_update(token.parse().unwrap(), update).await.map(drop)
        };
        let remove = async |grant: &str| {
            let remove = vec![grant.parse().unwrap()];
            let grants = Change::Delta { add: Vec::new(), remove };
            let update = ScopeMapUpdate { grants, description: None };
            store.scope_map_update("node01".parse().unwrap(), update).await.map(drop)
        };
        let refused = [
            (update("node01", "users-map").await, "used by the token 'user-token' too"),
            (update("user-token", "node01").await, "that of the sync token 'node01'"),
            (
                store.token_create(token_of("other-token", "node02")).await.map(drop),
                "that of the sync token 'node02' of the connected registry 'node02'",
            ),
            (remove("gateway/node01/config/read").await, "cannot sync without 'gateway/node01"),
            (remove("gateway/node02/message/write").await, "delete --name node02"),
        ];
        for (result, told) in refused {
            let error = result.unwrap_err();
            assert!(matches!(error, StoreError::Conflict(_)), "{error}");
            assert!(error.to_string().contains(told), "{error}");
        }
        remove("repositories/a/content/read").await.unwrap();
        update("user-token", "users-map").await.unwrap();
    });
}

/// Symptom: a client pulled what was granted to a device below, in a store where an older version
/// had let its token share the scope map of a sync token.
#[test]
fn f082_a_sync_scope_map_that_is_shared_does_not_grow() {
    smol::block_on(async {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let create = async |name: &str, parent: Option<&str>, repository: &str| {
            let new = NewConnectedRegistry {
                name: name.parse().unwrap(),
                mode: None,
                parent: parent.map(|parent| parent.parse().unwrap()),
                repositories: vec![repository.parse().unwrap()],
                sync_token: None,
                client_tokens: Vec::new(),
                settings: Settings::default(),
            };
            store.connected_registry_create(new).await.map(drop)
        };
        create("node01", None, "a").await.unwrap();
        create("node02", Some("node01"), "a").await.unwrap();
        let mut old = store.token(&"node01".parse().unwrap()).unwrap().unwrap();
        old.name = "client-token".parse().unwrap();
        store.commit(move |txn| txn.put(token_key(&old.name), &old)).await.unwrap();
        let secret = || vec!["secret".parse().unwrap()];
        let (above, below) = (|| "node01".parse().unwrap(), || "node02".parse().unwrap());
        let update = async |grants| {
            let update = ScopeMapUpdate { grants, description: None };
            store.scope_map_update("node01".parse().unwrap(), update).await.map(drop)
        };
        let grant = || vec!["repositories/secret/content/read".parse().unwrap()];
        for result in [
            create("node03", Some("node01"), "secret").await,
            create("node03", Some("node02"), "a").await,
            store.permissions_update(above(), secret(), vec![]).await.map(drop),
            store.permissions_update(below(), secret(), vec![]).await.map(drop),
            update(Change::Delta { add: grant(), remove: vec![] }).await,
        ] {
            let text = result.unwrap_err().to_string();
            assert!(text.contains("used by the token 'client-token' too"), "{text}");
        }
        // What is there can be withdrawn, also from the nodes below.
        let remove = vec!["repositories/a/content/read".parse().unwrap()];
        update(Change::Delta { add: vec![], remove }).await.unwrap();
        let reads = |name: &str| {
            let map = store.scope_map(&name.parse().unwrap()).unwrap().unwrap();
            map.grants.contains(&"repositories/a/content/read".parse().unwrap())
        };
        assert_eq!((reads("node01"), reads("node02")), (false, false));
        // The cure that is named.
        let name = || "own-map".parse().unwrap();
        store.scope_map_create(name(), String::new(), grant()).await.unwrap();
        let update = TokenUpdate { enabled: None, scope_map: Some(name()) };
        store.token_update("node01".parse().unwrap(), update).await.unwrap();
        create("node03", Some("node02"), "secret").await.unwrap();
        assert!(check(&store) > 0);
    });
}

/// Rows that no command writes: a damaged store must not stop the node.
#[test]
fn f082_parents_that_form_a_circle_are_an_error_and_not_an_endless_walk() {
    smol::block_on(async {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let mut parent: Option<ConnectedRegistryName> = None;
        for name in &NODES[..3] {
            let name: ConnectedRegistryName = name.parse().unwrap();
            let new = NewConnectedRegistry {
                name: name.clone(),
                mode: None,
                parent: parent.replace(name),
                repositories: vec!["a".parse().unwrap()],
                sync_token: None,
                client_tokens: Vec::new(),
                settings: Settings::default(),
            };
            store.connected_registry_create(new).await.unwrap();
        }
        let first: ConnectedRegistryName = NODES[0].parse().unwrap();
        let mut row = store.connected_registry(&first).unwrap().unwrap();
        row.parent = parent;
        store.commit(move |txn| txn.put(connected_registry_key(&row.name), &row)).await.unwrap();
        let error = store.permissions_update(first.clone(), vec!["b".parse().unwrap()], Vec::new());
        let error = error.await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        let all = smol::block_on(store.connected_registries()).unwrap();
        assert_eq!(descendants_among(&all, &first).len(), 2);
    });
}

#[test]
fn f082_a_tree_has_a_bound_in_depth() {
    smol::block_on(async {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let mut parent: Option<ConnectedRegistryName> = None;
        for level in 0..=TREE_DEPTH_MAX {
            let name: ConnectedRegistryName = format!("level{level}").parse().unwrap();
            let new = NewConnectedRegistry {
                name: name.clone(),
                mode: None,
                parent: parent.replace(name),
                repositories: vec!["a".parse().unwrap()],
                sync_token: None,
                client_tokens: Vec::new(),
                settings: Settings::default(),
            };
            let created = store.connected_registry_create(new).await;
            match created {
                Ok(_) => assert!(level < TREE_DEPTH_MAX, "{level}"),
                Err(error) => {
                    assert_eq!(level, TREE_DEPTH_MAX, "{error}");
                    assert!(error.to_string().contains("64 levels"), "{error}");
                }
            }
        }
    });
}

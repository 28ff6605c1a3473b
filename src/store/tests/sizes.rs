//! Desired states have a bound, and what would make one larger is refused.

use super::*;
use crate::store::tree::connected_registries::{ConnectedRegistryUpdate, Settings};
use crate::store::tree::creation::NewConnectedRegistry;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::store::tree::tokens::{NewToken, TokenGrants, TokenUpdate};
use crate::types::limits::DESIRED_STATE_BYTES_MAX;
use crate::types::message::{Descendant, NodeConfig};
use crate::types::{
    Change, ConnectedRegistryName, Grant, RepositoryAction, RepositoryPattern, ScopeMapName,
    TokenName,
};

fn node(name: &str) -> ConnectedRegistryName {
    name.parse().unwrap()
}

/// A hundred names of nearly the greatest length.
fn long(start: &str) -> Vec<RepositoryPattern> {
    let fill = "x".repeat(230);
    (0..100).map(|number| format!("{start}/{number:03}-{fill}").parse().unwrap()).collect()
}

fn grants(start: &str) -> Vec<Grant> {
    let all = RepositoryAction::ALL;
    let each = |one: RepositoryPattern| all.map(|action| Grant::Repository(one.clone(), action));
    long(start).into_iter().flat_map(each).collect()
}

fn create(
    store: &Store,
    name: &str,
    parent: Option<&str>,
    repositories: Vec<RepositoryPattern>,
    clients: &[&str],
) -> Result<(), StoreError> {
    let new = NewConnectedRegistry {
        name: node(name),
        mode: None,
        parent: parent.map(node),
        repositories,
        sync_token: None,
        client_tokens: clients.iter().map(|client| client.parse().unwrap()).collect(),
        settings: Settings::default(),
    };
    block_on(store.connected_registry_create(new)).map(|_| ())
}

fn token(store: &Store, name: &str, map: &str, granted: Vec<Grant>) {
    let made = store.scope_map_create(map.parse().unwrap(), String::new(), granted);
    block_on(made).unwrap();
    let new = NewToken {
        name: name.parse().unwrap(),
        grants: TokenGrants::Map(map.parse().unwrap()),
        enabled: true,
        passwords: false,
        expires: None,
    };
    block_on(store.token_create(new)).unwrap();
}

fn refused<T>(store: &Store, change: impl Future<Output = Result<T, StoreError>>) {
    let before = store.sequence();
    let error = block_on(change).map(|_| ()).expect_err("it would not fit").to_string();
    assert!(matches!(&error, text if text.contains("'middle'")), "{error}");
    assert!(error.contains("at most 15.0 MiB") && error.contains("wildcard"), "{error}");
    assert_eq!(store.sequence(), before);
}

fn size(store: &Store, name: &str) -> u64 {
    block_on(store.desired_state_bytes(&node(name))).unwrap()
}

/// It came into being and could not be delivered: no change reached the node any more.
#[test]
fn f035_f209_what_makes_a_desired_state_undeliverable_is_refused() {
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    let small = || vec!["repositories/app/content/read".parse().unwrap()];
    token(&store, "client1", "map-small", small());
    token(&store, "client2", "map-large", grants("large"));
    token(&store, "client3", "map-other", small());
    create(&store, "above1", None, long("a"), &[]).unwrap();
    create(&store, "middle", Some("above1"), long("a"), &["client1"]).unwrap();
    let mut children = 0;
    let full = loop {
        let name = format!("leaf{children:03}");
        match create(&store, &name, Some("middle"), long("a"), &[]) {
            Ok(()) => children += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(full.contains("'middle'") && full.contains("at most 15.0 MiB"), "{full}");
    assert!((90..130).contains(&children), "{children}");
    let before = size(&store, "middle");
    assert!(before <= DESIRED_STATE_BYTES_MAX && before > DESIRED_STATE_BYTES_MAX * 9 / 10);
    deliver(&store, children);
    // Other ways to the same.
    let client = |name: &str| vec![name.parse::<TokenName>().unwrap()];
    let linked = || ConnectedRegistryUpdate {
        client_tokens: Change::Delta { add: client("client2"), remove: Vec::new() },
        ..Default::default()
    };
    refused(&store, store.connected_registry_update(node("middle"), linked()));
    let map = |name: &str| name.parse::<ScopeMapName>().unwrap();
    let wider: Vec<_> = grants("large").into_iter().skip(1).collect();
    for grants in [Change::Delta { add: wider.clone(), remove: Vec::new() }, Change::Replace(wider)]
    {
        let wider = ScopeMapUpdate { grants, description: None };
        refused(&store, store.scope_map_update(map("map-small"), wider));
    }
    let large = TokenUpdate { enabled: None, scope_map: Some(map("map-large")) };
    refused(&store, store.token_update("client1".parse().unwrap(), large));
    // What is elsewhere is as before, and so is what makes it smaller.
    create(&store, "beside", None, long("a"), &["client2"]).unwrap();
    let off = TokenUpdate { enabled: Some(false), scope_map: None };
    block_on(store.token_update("client1".parse().unwrap(), off)).unwrap();
    let (removed, kept) = (long("a")[..50].to_vec(), size(&store, "middle"));
    block_on(store.permissions_update(node("leaf000"), Vec::new(), removed.clone())).unwrap();
    assert!(size(&store, "middle") < kept);
    block_on(store.permissions_update(node("middle"), Vec::new(), removed)).unwrap();
    assert!(size(&store, "middle") < kept * 6 / 10);
    block_on(store.connected_registry_update(node("middle"), linked())).unwrap();
}

/// The largest desired state fits in the record of the node that takes it, and is no larger than
/// it is said to be.
fn deliver(store: &Store, children: usize) {
    let parts = block_on(async {
        let name = |number: usize| node(&format!("leaf{number:03}"));
        let one = |name: &ConnectedRegistryName| store.connected_registry(name).unwrap().unwrap();
        let token = |name: &TokenName| store.token(name).unwrap().unwrap();
        let middle = one(&node("middle"));
        let children: Vec<_> = (0..children).map(|number| one(&name(number))).collect();
        let child_tokens: Vec<_> = children.iter().map(|child| token(&child.sync_token)).collect();
        let client_tokens: Vec<_> = middle.client_tokens.iter().map(token).collect();
        let sync_token = token(&middle.sync_token);
        let used = child_tokens.iter().chain(&client_tokens).chain([&sync_token]);
        let maps = used.map(|token| store.scope_map(&token.scope_map).unwrap().unwrap()).collect();
        let version = "0".repeat(64);
        let listed = children
            .iter()
            .map(|child| Descendant { name: child.name.clone(), version: version.clone() });
        NodeConfig {
            registry: "myregistry".to_owned(),
            descendants: listed.collect(),
            node: middle,
            sync_token,
            client_tokens,
            children,
            child_tokens,
            scope_maps: maps,
        }
    });
    let encoded = rows::encode(&parts).unwrap().len() as u64;
    let said = size(store, "middle");
    assert!(encoded <= said && said < encoded + encoded / 50, "{encoded} {said}");
    let (below, _) = open_memory(&MemoryDisk::new()).unwrap();
    block_on(below.receive_config(parts.clone(), "v1".to_owned())).unwrap();
    block_on(below.receive_descendant(parts, "v1".to_owned())).unwrap();
}

/// Symptom: each client token that left a scope map which others still used was taken to make room
/// for the one that it came to, until nothing reached the node any more.
#[test]
fn f035_f209_a_scope_map_that_several_tokens_use_counts_once() {
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    token(&store, "client1", "map-shared", grants("b"));
    token(&store, "client2", "map-small", vec!["repositories/app/content/read".parse().unwrap()]);
    token(&store, "client3", "map-alone", grants("c"));
    let shared = || TokenGrants::Map("map-shared".parse().unwrap());
    let (enabled, passwords, expires) = (true, false, None);
    let name = "client4".parse().unwrap();
    let second = NewToken { name, grants: shared(), enabled, passwords, expires };
    block_on(store.token_create(second)).unwrap();
    create(&store, "middle", None, long("a"), &["client1", "client2", "client4"]).unwrap();
    // Large ones, and small ones into what is left.
    let mut children = 0;
    for repositories in [100, 10] {
        let more = |number: &u32| {
            let name = format!("leaf{number:03}");
            let repositories = long("a")[..repositories].to_vec();
            create(&store, &name, Some("middle"), repositories, &[]).is_ok()
        };
        children = (children..).find(|number| !more(number)).unwrap();
    }
    let to = |map: &str| TokenUpdate { enabled: None, scope_map: Some(map.parse().unwrap()) };
    let update = |token: &str, map: &str| store.token_update(token.parse().unwrap(), to(map));
    refused(&store, update("client1", "map-alone"));
    // What is there already is there once.
    let before = size(&store, "middle");
    block_on(update("client2", "map-shared")).unwrap();
    assert!(size(&store, "middle") < before);
}

/// Symptom: what was left of a wildcard in the scope maps of very many children was more than can
/// be delivered, and no later withdrawal reached their parent.
#[test]
fn f082_f209_what_is_left_of_wildcards_can_be_delivered() {
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    let pattern = |text: &str| -> RepositoryPattern { text.parse().unwrap() };
    let all = [vec![pattern("*")], long("t")[1..].to_vec()].concat();
    create(&store, "middle", None, all, &[]).unwrap();
    let names: Vec<String> = (0..130).map(|child| format!("leaf{child:03}")).collect();
    for name in &names {
        create(&store, name, Some("middle"), vec![pattern("t/*")], &[]).unwrap();
    }
    let remove = store.permissions_update(node("middle"), Vec::new(), vec![pattern("*")]);
    let (_, _, others) = block_on(remove).unwrap();
    let bytes = size(&store, "middle");
    assert!((DESIRED_STATE_BYTES_MAX * 9 / 10..=DESIRED_STATE_BYTES_MAX).contains(&bytes));
    // The first ones have each of the repositories, the others none of them, and it is told.
    assert_eq!(others.changed.len() + others.more, names.len());
    let of_repositories = |name: &String| {
        let child = store.connected_registry(&node(name)).unwrap().unwrap();
        let grants = store.sync_scope_map(&child).unwrap().grants;
        grants.iter().filter(|grant| matches!(grant, Grant::Repository(..))).count()
    };
    let left: Vec<usize> = names.iter().map(of_repositories).collect();
    let (cut, gone): (Vec<&usize>, Vec<&usize>) = left.iter().partition(|count| **count > 0);
    assert!(cut.len() > 50 && gone.len() > 5, "{left:?}");
    assert!(cut.iter().all(|count| **count % 99 == 0), "{left:?}");
}

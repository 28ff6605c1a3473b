//! What is taken from a node with very many below it, and a stop in the middle of that.

use super::*;
use crate::store::journal::segment::SegmentReader;
use crate::store::rows::Kind;
use crate::store::tree::connected_registries::Settings;
use crate::store::tree::creation::NewConnectedRegistry;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::sys::memory_disk::Survivors;
use crate::sys::spawn::yield_now;
use crate::types::{Change, ConnectedRegistryName, Grant, RepositoryAction, RepositoryPattern};

/// Nodes of the wide tree below the one that loses something.
const WIDE: usize = 60;
/// Rows that one command may have to do with, whatever the tree.
const ROWS_MAX: u64 = 400;
/// Bytes of keys and rows in one record, whatever the tree.
const BYTES_MAX: usize = 1024 * 1024;

fn node(name: &str) -> ConnectedRegistryName {
    name.parse().unwrap()
}

fn patterns(names: &[&str]) -> Vec<RepositoryPattern> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn create(store: &Store, name: &str, parent: Option<&str>, repositories: &[RepositoryPattern]) {
    let new = NewConnectedRegistry {
        name: node(name),
        mode: None,
        parent: parent.map(node),
        repositories: repositories.to_vec(),
        sync_token: None,
        client_tokens: Vec::new(),
        settings: Settings::default(),
    };
    block_on(store.connected_registry_create(new)).unwrap();
}

fn take(store: &Store, name: &str, add: &[&str], remove: &[&str]) -> Result<(), StoreError> {
    let taken = store.permissions_update(node(name), patterns(add), patterns(remove));
    block_on(taken).map(|_| ())
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("leaf{number:03}")).collect()
}

/// A node over `count` others, the last of which has one more below it; all mirror `kept` and
/// `lost`, and there is another one beside them.
fn tree(store: &Store, count: usize) {
    let both = patterns(&["lost", "kept"]);
    create(store, "middle", None, &both);
    create(store, "beside", None, &both);
    names(count).iter().for_each(|name| create(store, name, Some("middle"), &both));
    create(store, "lowest", names(count).last().map(String::as_str), &both);
}

/// Whether the sync scope map of a node names a repository.
fn has(store: &Store, name: &str, repository: &str) -> bool {
    let registry = store.connected_registry(&node(name)).unwrap().unwrap();
    let repository: RepositoryPattern = repository.parse().unwrap();
    let grants = store.sync_scope_map(&registry).unwrap().grants;
    grants.iter().any(|grant| matches!(grant, Grant::Repository(one, _) if *one == repository))
}

/// Rows, and bytes of them and of their keys, of each record after this one.
fn records(disk: &MemoryDisk, after: u64) -> Vec<(usize, usize)> {
    let (disk, layout) = (disk.clone(), Layout::new("/s"));
    let mut sizes = Vec::new();
    let mut firsts: Vec<u64> = disk
        .list(&layout.journal())
        .unwrap()
        .iter()
        .filter_map(|entry| entry.name.strip_suffix(".log")?.parse().ok())
        .collect();
    firsts.sort_unstable();
    for first in firsts {
        let mut segment = SegmentReader::open(&disk, &layout, first).ok().unwrap();
        while let Ok(Some(record)) = segment.next_record() {
            if record.sequence > after {
                let len = |(key, row): &(Vec<u8>, Option<Vec<u8>>)| {
                    key.len() + row.as_ref().map_or(0, Vec::len)
                };
                sizes.push((record.changes.len(), record.changes.iter().map(len).sum()));
            }
        }
    }
    sizes
}

/// One record held all scope maps below, up to more than the largest record: nothing could be
/// withdrawn then. Below that, everybody else waited for it.
#[test]
fn f080_f209_a_withdrawal_from_very_many_is_many_small_records() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let long: Vec<String> =
        (0..100).map(|n| format!("factory/line-{n:03}/{}", "x".repeat(222))).collect();
    let all = patterns(&long.iter().map(String::as_str).collect::<Vec<_>>());
    create(&store, "middle", None, &all);
    names(WIDE).iter().for_each(|name| create(&store, name, Some("middle"), &all));
    let before = store.sequence();
    store.sys().metrics.command_rows.begin();
    let others = block_on(async {
        let withdrawn = store.permissions_update(node("middle"), vec![], all[1..].to_vec());
        let is_over = AtomicBool::new(false);
        let withdraw = async {
            let (_, _, others) = withdrawn.await.unwrap();
            is_over.store(true, Ordering::Relaxed);
            others
        };
        let push = async {
            let mut count = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                let row = Text(format!("{count}"));
                store.commit(move |txn| txn.put(b"zapp".to_vec(), &row)).await.unwrap();
                count += 1;
                yield_now().await;
            }
            count
        };
        let (others, pushed) = smol::future::zip(withdraw, push).await;
        assert!(pushed >= 10, "others went on {pushed} times");
        others
    });
    assert_eq!(others.changed.len() + others.more, WIDE);
    assert!(others.left.is_none());
    for name in names(WIDE) {
        assert!(has(&store, &name, &long[0]) && !has(&store, &name, &long[1]), "{name}");
    }
    let rows = store.sys().metrics.command_rows.get();
    assert!(rows <= ROWS_MAX, "a command had to do with {rows} rows");
    drop(store);
    for (rows, bytes) in records(&disk, before) {
        assert!(rows as u64 <= ROWS_MAX && bytes <= BYTES_MAX, "{rows} rows, {bytes} bytes");
    }
}

/// The power goes at each call to the disk while something is taken from a node and all below it.
#[test]
fn f080_f112_a_stop_in_a_withdrawal_leaves_nobody_with_what_was_taken() {
    const COUNT: usize = 70;
    let built = MemoryDisk::new();
    tree(&open_memory(&built).unwrap().0, COUNT);
    let all: Vec<String> =
        names(COUNT).into_iter().chain(["middle".to_owned(), "lowest".to_owned()]).collect();
    let (mut half_done, mut ended) = (0, false);
    for call in 1.. {
        let disk = built.after_crash(Survivors::Everything);
        let (store, _) = open_memory(&disk).unwrap();
        disk.crash_at(disk.calls() + call);
        let acknowledged = take(&store, "middle", &[], &["lost"]).is_ok();
        drop(store);
        for survivors in [Survivors::Synced, Survivors::Everything, Survivors::Torn(call)] {
            let what = format!("call {call}, {survivors:?}");
            let disk = disk.after_crash(survivors);
            let (store, _) = open_memory(&disk).unwrap();
            let begun = !has(&store, "middle", "lost");
            let left = all.iter().filter(|name| has(&store, name, "lost")).count();
            half_done += usize::from(begun && left > 0);
            assert!(begun || left == all.len(), "{what}: {left}");
            assert!(begun || !acknowledged, "{what}");
            if call % 2 == 0 {
                // As the node does when it starts.
                block_on(store.settle_tree()).unwrap();
            } else {
                // Whoever changes the tree first must not give back what was taken.
                take(&store, "leaf001", &["other"], &[]).unwrap();
                assert!(has(&store, "middle", "other") && has(&store, "leaf001", "other"));
            }
            for name in &all {
                assert_eq!(has(&store, name, "lost"), !begun, "{what}: {name}");
                assert!(has(&store, name, "kept"), "{what}: {name}");
            }
            assert!(has(&store, "beside", "lost"), "{what}");
            let notes = prefix_rows(&store, Kind::Unsettled);
            assert_eq!(notes, 0, "{what}");
        }
        if disk.struck().is_none() {
            ended = acknowledged;
            break;
        }
    }
    assert!(ended);
    assert!(half_done >= 6, "a stop between two records was tried {half_done} times");
}

fn prefix_rows(store: &Store, kind: Kind) -> usize {
    store.look_up(|index| index.scan(&rows::prefix(kind, &[]), None, 9)).unwrap().len()
}

/// Whoever asked for it does not wait for the end.
#[test]
fn f080_f209_a_withdrawal_goes_on_when_nobody_waits_for_it() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    tree(&store, 70);
    block_on(async {
        let before = store.sequence();
        let mut taken =
            Box::pin(store.permissions_update(node("middle"), vec![], patterns(&["lost"])));
        while store.sequence() == before {
            assert!(smol::future::poll_once(&mut taken).await.is_none());
            yield_now().await;
        }
        drop(taken);
        assert!(has(&store, "lowest", "lost"));
        store.tree_changed().await;
        store.settle_tree().await.unwrap();
    });
    assert!(names(70).iter().all(|name| !has(&store, name, "lost")));
    assert!(!has(&store, "lowest", "lost") && has(&store, "lowest", "kept"));
    // Who ends it does not wake itself up again.
    let again = smol::future::poll_once(store.tree_changed());
    assert!(block_on(again).is_none());
}

/// A parent's wildcard takes the place of names: below it these are taken all the same.
#[test]
fn f080_what_is_removed_goes_below_although_a_wildcard_stays_above() {
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    create(&store, "middle", None, &patterns(&["team/x", "team/y"]));
    create(&store, "leaf001", Some("middle"), &patterns(&["team/x", "team/y"]));
    take(&store, "middle", &["team/*"], &["team/x"]).unwrap();
    assert!(has(&store, "middle", "team/*") && !has(&store, "leaf001", "team/x"));
    assert!(has(&store, "leaf001", "team/y"));
}

/// What is left of a wildcard below can be more patterns than a scope map may be given.
#[test]
fn f080_a_withdrawal_is_not_refused_because_of_what_stays() {
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    let named = |above: &str, count: usize| -> Vec<String> {
        (0..count).map(|number| format!("{above}/{number}")).collect()
    };
    let (one, two) = (named("a", 99), named("b", 90));
    let of = |names: &[String]| patterns(&names.iter().map(String::as_str).collect::<Vec<_>>());
    create(&store, "middle", None, &patterns(&["a/*", "b/*"]));
    create(&store, "leaf001", Some("middle"), &[of(&one), patterns(&["b/*"])].concat());
    block_on(store.permissions_update(node("middle"), of(&two), vec![])).unwrap();
    let remove = RepositoryAction::ALL
        .iter()
        .map(|action| format!("repositories/b/*/{}", action.name()).parse().unwrap());
    let grants = Change::Delta { add: Vec::new(), remove: remove.collect() };
    let update = ScopeMapUpdate { grants, description: None };
    block_on(store.scope_map_update("middle".parse().unwrap(), update)).unwrap();
    for name in one.iter().chain(&two) {
        assert!(has(&store, "leaf001", name), "{name}");
    }
    assert!(!has(&store, "leaf001", "b/*"));
    let error = take(&store, "leaf001", &["b/91"], &[]).unwrap_err();
    assert!(error.to_string().contains("at most 500"), "{error}");
    take(&store, "leaf001", &[], &["b/1"]).unwrap();
    assert!(!has(&store, "leaf001", "b/1") && has(&store, "leaf001", "b/2"));
}

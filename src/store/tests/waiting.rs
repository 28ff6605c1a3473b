//! What the writer reads and changes in one command while very many changes wait for the parent.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;

use super::*;
use crate::store::registry::manifests::testing::{digest, image, push};
use crate::store::replica::node::testing::connected;
use crate::store::replica::outbox::{Origin, OutboxChange, OutboxEntry, enqueue};
use crate::store::rows::manifest::manifest_key;
use crate::store::rows::outbox::entry_key;
use crate::sys::turn::testing::measure;
use crate::types::digest::Algorithm;
use crate::types::limits::PAGE_MAX;
use crate::types::{Delivery, Digest, Offered, OutboxId, RepositoryName, Tag};

/// Changes that wait, each of a tag of its own.
const WAITING: u64 = 5000;
/// Rows that one command may read and change, and one turn may read, however many changes wait.
const ROWS_MAX: u64 = 2 * PAGE_MAX as u64;

fn app() -> RepositoryName {
    "app".parse().unwrap()
}

fn tag(number: u64) -> Tag {
    format!("w{number:05}").parse().unwrap()
}

/// Lets very many changes wait that begin with manifest 1 and bring manifest 2. Their numbers are
/// higher than those of all that follow.
async fn fill(store: &Store) {
    for from in (0..WAITING).step_by(1000) {
        let put = store.commit(move |txn| {
            (from..from + 1000).try_for_each(|number| {
                let origin = "dock01".parse().unwrap();
                let entry = OutboxEntry {
                    id: OutboxId { origin, incarnation: 1, sequence: number },
                    repository: app(),
                    change: OutboxChange::Tag {
                        tag: tag(number),
                        base: Some(digest(1)),
                        digest: Some(digest(2)),
                    },
                    unheard: Vec::new(),
                    offered: Offered::No,
                    instead_of: Vec::new(),
                    anew: false,
                };
                txn.put(entry_key(number + (1 << 20)), &entry)
            })
        });
        put.await.unwrap();
    }
}

/// Waits for the store, and notes how much one command, and one turn, had to do with at most.
#[allow(clippy::print_stdout, reason = "the figures are what one looks at when it fails")]
async fn measured<T: Debug>(
    store: &Store,
    what: &str,
    found: &mut Vec<String>,
    work: impl Future<Output = Result<T, StoreError>>,
) -> T {
    store.sys().metrics.command_rows.begin();
    let (value, longest) = measure(work).await;
    let rows = store.sys().metrics.command_rows.get().max(longest.turn.rows);
    println!("{what}: {rows} rows");
    if rows > ROWS_MAX {
        found.push(format!("{what}: {rows} rows"));
    }
    value.unwrap()
}

#[test]
fn f209_the_writer_does_not_read_all_that_waits_for_one_change() {
    block_on(async {
        let store = connected().await;
        let (app, mut found) = (app(), Vec::new());
        for number in [1, 2, 3, 4] {
            push(&store, "app", number, &["v1"]).await;
        }
        fill(&store).await;
        let numbers: Vec<u64> = store.outbox(4).unwrap().iter().map(|(n, _)| *n).collect();

        let first = numbers[0];
        store.outbox_refused(first, "no".to_owned()).await.unwrap();
        let renewed = store.outbox_renew(vec![first]);
        measured(&store, "renew", &mut found, renewed).await;
        let (last, _) = store.outbox_after(numbers[3], 4).unwrap().remove(0);
        measured(&store, "renumber", &mut found, store.outbox_renumber(last)).await;
        let brings = async |number| store.outbox_brings(&app, &digest(number));
        assert!(measured(&store, "brings", &mut found, brings(2)).await);
        assert!(!measured(&store, "brings", &mut found, brings(9)).await);

        store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
        let deleted = |entry: &OutboxEntry| entry.change.clone();
        let removal = OutboxChange::ManifestDeleted { digest: digest(1) };
        let entries = store.outbox(100).unwrap().into_iter();
        let (removal, _) = entries.rev().find(|(_, entry)| deleted(entry) == removal).unwrap();
        measured(&store, "removal", &mut found, store.outbox_delivered(removal, 0)).await;
        let base = |number: u64| match store.outbox_entry(number + (1 << 20)).unwrap() {
            Some(OutboxEntry { change: OutboxChange::Tag { base, .. }, .. }) => base,
            other => panic!("{other:?}"),
        };
        let begins: Vec<Option<Digest>> = (0..WAITING).map(base).collect();
        assert!(begins.iter().all(Option::is_none), "the parent has removed all of these tags");
        assert_eq!(store.outbox_entry(removal).unwrap(), None);

        let put = PutManifest { origin: Origin::Parent, ..image(5, &[]) };
        let put = PutManifest { required: Required::Nothing, ..put };
        store.put_manifest(&app, put).await.unwrap();
        let fifth = digest(5);
        let gone = store.delete_manifest(&app, &fifth, &Origin::Parent);
        measured(&store, "deletion by the parent", &mut found, gone).await;
        let skipped = store.outbox_skip((1 << 20) + 7);
        measured(&store, "skip", &mut found, skipped).await;
        assert_eq!(found, Vec::<String>::new());
    });
}

/// A tag that moved thousands of times while its first change was refused.
#[test]
fn f209_a_long_chain_of_a_tag_is_renewed_in_small_commands() {
    const MOVES: u64 = 2000;
    block_on(async {
        let store = connected().await;
        let (app, mut found) = (app(), Vec::new());
        push(&store, "app", 1, &[]).await;
        let row = store.manifest(&app, &digest(1)).unwrap().unwrap();
        let moved = |number: u64| {
            let mut raw = [7; 32];
            // Some contents come again.
            raw[..8].copy_from_slice(&(number % 1500).to_be_bytes());
            Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
        };
        for from in (0..MOVES).step_by(500) {
            let (app, row) = (app.clone(), row.clone());
            let put = store.commit(move |txn| {
                (from..from + 500).try_for_each(|number| {
                    txn.put(manifest_key(&app, &moved(number)), &row)?;
                    let base = number.checked_sub(1).map(moved);
                    let (tag, digest) = (tag(1), Some(moved(number)));
                    let change = OutboxChange::Tag { tag, base, digest };
                    enqueue(txn, &Origin::Client, &app, change)
                })
            });
            put.await.unwrap();
        }
        let (first, _) = store.outbox(2).unwrap().remove(1);
        let (third, _) = store.outbox(4).unwrap().remove(3);
        // It came from another start, which may have delivered it.
        let older = store.outbox_entry(third).unwrap().unwrap();
        let id = OutboxId { incarnation: older.id.incarnation.wrapping_add(1), ..older.id };
        let older = OutboxEntry { id, ..older };
        store.commit(move |txn| txn.put(entry_key(third), &older)).await.unwrap();
        store.outbox_refused(first, "no".to_owned()).await.unwrap();
        let renewed = store.outbox_renew(vec![first]);
        measured(&store, "renew", &mut found, renewed).await;
        assert_eq!(found, Vec::<String>::new());

        let waiting = store.outbox(usize::MAX).unwrap();
        let mut added = BTreeSet::new();
        for (_, entry) in &waiting[1..waiting.len() - 1] {
            let OutboxChange::ManifestAdded { digest } = &entry.change else { panic!("{entry}") };
            assert!(added.insert(digest.clone()), "{entry}");
        }
        let (_, last) = waiting.last().unwrap();
        let digest = Some(moved(MOVES - 1));
        assert_eq!(last.change, OutboxChange::Tag { tag: tag(1), base: None, digest });
        assert_eq!(last.unheard, [Some(moved(0)), Some(moved(2))]);
        let all: BTreeSet<Digest> = (0..MOVES).map(moved).collect();
        let brought = waiting[1..].iter().filter_map(|(_, entry)| entry.brings().cloned());
        assert_eq!(brought.collect::<BTreeSet<_>>(), all);
        let refusals = store.refused_changes(9).unwrap();
        let refused: Vec<_> = refusals.iter().map(|(_, refusal)| refusal.entry.brings()).collect();
        assert_eq!(refused, [Some(&moved(0))]);
    });
}

/// Symptom: a deletion that a device had made before its disk and its parent's were set back
/// removed a tag at the root that was pushed since. Cause: its parent passed the removal of the
/// tag on under a name of its own.
#[test]
fn f130_f201_tags_that_go_with_a_childs_deletion_are_told_by_the_child() {
    block_on(async {
        let store = connected().await;
        let app = "app".parse().unwrap();
        let child = |sequence| {
            let origin = "child01".parse().unwrap();
            Origin::Child(Delivery::of(OutboxId { origin, incarnation: 9, sequence }))
        };
        let waiting = || -> Vec<bool> {
            let entries = store.outbox(99).unwrap().into_iter();
            entries.map(|(_, e)| matches!(e.change, OutboxChange::Tag { .. })).collect()
        };
        push(&store, "app", 1, &["v1"]).await;
        let (number, _) = store.outbox(9).unwrap().remove(0);
        store.outbox_delivered(number, 0).await.unwrap();
        store.delete_manifest(&app, &digest(1), &child(1)).await.unwrap();
        assert_eq!(waiting(), [false]);
        assert_eq!(store.tag(&app, &"v1".parse().unwrap()), Ok(None));
        // What waits to set the tag is followed by its removal.
        push(&store, "app", 2, &["v2"]).await;
        store.delete_manifest(&app, &digest(2), &child(2)).await.unwrap();
        assert_eq!(waiting(), [false, true, true, false]);
    });
}

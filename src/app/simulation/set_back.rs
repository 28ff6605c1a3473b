//! A device whose disk is set back to a snapshot: its store does not know, and counts over again.

use super::between::hook;
use super::scenarios::{FIRST, SECOND, THIRD, app, has, in_tree, named, names, push, rest};
use super::*;
use crate::store::replica::gone::Gone;
use crate::store::rows::connected_registry::activation_key;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::types::message::Message;
use crate::types::{Change, Cursor, Delivery, Offered, OutboxId};

async fn delete(store: &Store, tag: &str) {
    let tag = &names(&[tag])[0];
    store.delete_tag(&app(), tag, Precondition::None, &Origin::Client).await.unwrap();
}

fn first() -> Option<Digest> {
    Some(digest_of(&manifest(FIRST)))
}

#[test]
fn f201_a_device_that_was_set_back_does_not_delete_what_it_has_acknowledged_since() {
    for whole in [true, false] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["v1"], FIRST).await;
            rest(tree, engine).await;
            match whole {
                true => {
                    let first = digest_of(&manifest(FIRST));
                    device.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
                }
                false => delete(device, "v1").await,
            }
            let snapshot = device.rows_of_backup();
            rest(tree, engine).await;
            assert_eq!(named(root, "v1"), None);
            // Pushed again, acknowledged and delivered.
            push(device, &["v1"], FIRST).await;
            rest(tree, engine).await;
            assert_eq!((named(root, "v1"), named(device, "v1")), (first(), first()));
            device.set_back(snapshot);
            assert_eq!(named(device, "v1"), None);
            let engine = tree.start().await;
            rest(tree, &engine).await;
            assert_eq!((named(root, "v1"), named(device, "v1")), (first(), first()), "{whole}");
        });
    }
}

#[test]
fn f201_a_device_that_was_set_back_does_not_set_a_tag_back() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1", "gone"], FIRST).await;
        delete(device, "gone").await;
        rest(tree, engine).await;
        push(device, &["v1"], SECOND).await;
        push(device, &["v1", "gone"], THIRD).await;
        let snapshot = device.rows_of_backup();
        rest(tree, engine).await;
        push(device, &["v1"], FIRST).await;
        delete(device, "gone").await;
        rest(tree, engine).await;
        assert_eq!((named(root, "v1"), named(root, "gone")), (first(), None));
        device.set_back(snapshot);
        let engine = tree.start().await;
        rest(tree, &engine).await;
        for node in [root, device] {
            assert_eq!((named(node, "v1"), named(node, "gone")), (first(), None));
        }
    });
}

/// What the parent lacks goes up, and of its tags no more than the last.
#[test]
fn f201_a_removal_does_not_go_up_again_with_what_the_parent_lacks() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        push(device, &["v1"], SECOND).await;
        delete(device, "v1").await;
        let snapshot = device.rows_of_backup();
        rest(tree, engine).await;
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        let second = digest_of(&manifest(SECOND));
        root.delete_manifest(&app(), &second, &Origin::Client).await.unwrap();
        device.set_back(snapshot);
        let engine = tree.start().await;
        rest(tree, &engine).await;
        assert_eq!((named(root, "v1"), named(device, "v1")), (first(), first()));
    });
}

/// A push whose manifest was deleted before it went up is left out. The device is then set back to
/// where it waits, and the manifest is pushed again there: the push that was left out does not go
/// up after the removals that came after it.
fn left_out_and_set_back(restored: bool, again: &'static [&'static str]) {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["other"], FIRST).await;
        push(device, &["v1"], SECOND).await;
        let second = digest_of(&manifest(SECOND));
        device.delete_manifest(&app(), &second, &Origin::Client).await.unwrap();
        let backup = device.rows_of_backup();
        rest(tree, engine).await;
        assert_eq!((named(root, "v1"), device.outbox(9).unwrap()), (None, vec![]));
        if restored {
            tree.world.restore(backup).await;
        } else {
            device.set_back(backup);
        }
        let device = &tree.world.device();
        let engine = tree.start().await;
        assert_eq!(named(device, "v1"), None, "deleted before the backup");
        push(device, again, SECOND).await;
        push(device, &["v2"], THIRD).await;
        rest(tree, &engine).await;
        assert_eq!(device.conflicts(99).unwrap(), []);
        assert_eq!((named(root, "v1"), named(device, "v1")), (None, None), "it was deleted");
    });
}

#[test]
fn f130_f201_a_deletion_stays_when_a_device_is_restored() {
    left_out_and_set_back(true, &[]);
}

#[test]
fn f130_f201_a_deletion_stays_when_a_disk_is_set_back() {
    left_out_and_set_back(false, &["x"]);
}

/// The same, and the tag is pushed again: by the only writer there is.
#[test]
fn f130_f201_the_only_writer_has_no_conflict_after_a_restore() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["other"], FIRST).await;
        push(device, &["v1"], SECOND).await;
        let second = digest_of(&manifest(SECOND));
        device.delete_manifest(&app(), &second, &Origin::Client).await.unwrap();
        let backup = device.rows_of_backup();
        rest(tree, engine).await;
        tree.world.restore(backup).await;
        let device = &tree.world.device();
        let engine = tree.start().await;
        push(device, &[], SECOND).await;
        push(device, &["v1"], THIRD).await;
        rest(tree, &engine).await;
        assert_eq!(device.conflicts(99).unwrap(), []);
        let third = Some(digest_of(&manifest(THIRD)));
        assert_eq!((named(root, "v1"), named(device, "v1")), (third.clone(), third));
    });
}

/// The parent refused the removal of a manifest after an attempt of which nobody heard. The
/// manifest is pushed again, so that the removal is void: a tag that began with it may be gone at
/// the parent.
#[test]
fn f130_f204_a_removal_that_is_void_since_may_have_taken_its_tags() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        push(device, &["v1"], SECOND).await;
        let first = digest_of(&manifest(FIRST));
        device.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        let waiting = device.outbox(9).unwrap();
        let taken = Origin::Child(Delivery::of(waiting[1].1.id.clone()));
        root.delete_manifest(&app(), &first, &taken).await.unwrap();
        for (number, _) in waiting {
            device.outbox_refused(number, "no".to_owned()).await.unwrap();
        }
        push(device, &["v2"], FIRST).await;
        let engine = tree.start().await;
        rest(tree, &engine).await;
        assert_eq!(device.conflicts(99).unwrap(), []);
        let wanted = Some(digest_of(&manifest(SECOND)));
        assert_eq!((named(root, "v1"), named(device, "v1")), (wanted.clone(), wanted));
        assert_eq!(named(root, "v2"), Some(first));
    });
}

/// The second tag of an image begins where the parent has its content already.
#[test]
fn f130_f201_what_is_pushed_to_a_device_that_was_set_back_arrives_under_all_its_tags() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1", "latest"], FIRST).await;
        rest(tree, engine).await;
        let snapshot = device.rows_of_backup();
        for _ in 0..3 {
            push(device, &["v2", "latest"], SECOND).await;
            rest(tree, engine).await;
            push(device, &["v2", "latest"], FIRST).await;
            rest(tree, engine).await;
        }
        device.set_back(snapshot);
        let engine = tree.start().await;
        push(device, &["v3", "latest"], THIRD).await;
        push(device, &["v1"], THIRD).await;
        rest(tree, &engine).await;
        let third = Some(digest_of(&manifest(THIRD)));
        for tag in ["v1", "v3", "latest"] {
            assert_eq!((named(root, tag), named(device, tag)), (third.clone(), third.clone()));
        }
        assert_eq!(device.conflicts(99).unwrap(), []);
    });
}

/// What the parent has undone since is not an older state of the device: what a client does again
/// is a change of its own.
#[test]
fn f130_f201_a_change_made_again_after_a_set_back_takes_effect_once_more() {
    type Change = (&'static [&'static str], Option<&'static str>);
    let changes: [(&str, Change); 4] = [
        ("set", (&["v1"], None)),
        ("made", (&["new"], None)),
        ("untagged", (&[], Some("x"))),
        ("deleted", (&[], Some("manifest"))),
    ];
    for ((what, (tags, removed)), restarted) in
        changes.into_iter().flat_map(|change| [(change, false), (change, true)])
    {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["v1", "x"], FIRST).await;
            push(device, &["y"], THIRD).await;
            rest(tree, engine).await;
            let snapshot = device.rows_of_backup();
            let third = digest_of(&manifest(THIRD));
            let change = async || {
                if !tags.is_empty() {
                    push(device, tags, SECOND).await;
                }
                match removed {
                    Some("manifest") => {
                        device.delete_manifest(&app(), &third, &Origin::Client).await.unwrap();
                    }
                    Some(tag) => delete(device, tag).await,
                    None => {}
                }
            };
            let state = |store: &Store| {
                let x = named(store, "x").is_some();
                let y = store.manifest(&app(), &third).unwrap().is_some();
                (named(store, "v1"), named(store, "new"), x, y)
            };
            change().await;
            rest(tree, engine).await;
            let wanted = state(root);
            assert_eq!(wanted, state(device));
            // Somebody undoes it at the root.
            push(root, &["v1", "x"], FIRST).await;
            push(root, &["y"], THIRD).await;
            if tags.contains(&"new") {
                delete(root, "new").await;
            }
            rest(tree, engine).await;
            device.set_back(snapshot);
            let mut engine = tree.start().await;
            if restarted {
                change().await;
                device.start_again();
                engine = tree.start().await;
            } else {
                rest(tree, &engine).await;
                change().await;
            }
            rest(tree, &engine).await;
            assert_eq!(
                (state(root), state(device)),
                (wanted.clone(), wanted),
                "{what} {restarted}"
            );
            assert_eq!(device.conflicts(99).unwrap(), [], "{what} {restarted}");
        });
    }
}

/// What waited in the copy was delivered before, and is gone since by somebody's will.
#[test]
fn f201_what_was_deleted_since_does_not_come_back_with_a_device_that_was_set_back() {
    for at_device in [true, false] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["other"], FIRST).await;
            rest(tree, engine).await;
            push(device, &["v1", "v2"], SECOND).await;
            let snapshot = device.rows_of_backup();
            rest(tree, engine).await;
            let second = digest_of(&manifest(SECOND));
            let by = if at_device { device } else { root };
            by.delete_manifest(&app(), &second, &Origin::Client).await.unwrap();
            rest(tree, engine).await;
            device.set_back(snapshot);
            assert_eq!(named(device, "v1"), Some(second.clone()));
            let engine = tree.start().await;
            rest(tree, &engine).await;
            for node in [root, device] {
                let all = node.tags(&app(), None, 9).unwrap();
                assert_eq!(all.len(), 1, "{at_device} {all:?}");
                assert_eq!(node.manifest(&app(), &second).unwrap(), None, "{at_device}");
            }
        });
    }
}

/// The comparison that is under way may have asked already what the parent has deleted.
#[test]
fn f201_a_node_that_a_child_sees_set_back_while_it_compares_compares_again() {
    for during in ["messages?after", "/repositories/app0"] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            device.stand(Role::Connected, true);
            rest(tree, engine).await;
            device.note_set_back(None).await.unwrap();
            push(root, &["v1"], FIRST).await;
            let (noted, listed) = (AtomicBool::new(false), Arc::new(AtomicU64::new(0)));
            let (noted, seen) = (Arc::new(noted), listed.clone());
            hook(&tree.world, move |world, call, status| {
                let (noted, seen) = (noted.clone(), seen.clone());
                async move {
                    if status == 0 && call.contains("/repositories/app0") {
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                    if call.contains(during) && !noted.swap(true, Ordering::Relaxed) {
                        world.device().note_set_back(None).await.unwrap();
                    }
                    false
                }
            });
            engine.pull_once().await.unwrap();
            assert_eq!(listed.load(Ordering::Relaxed), 2, "{during}");
            assert!(!device.reconcile_due().unwrap(), "twice is enough");
        });
    }
}

/// A leaf of the device offers these tags.
async fn offer(device: &Store, offered: &[(&str, u64)]) {
    for ((tag, number), sequence) in offered.iter().zip(1..) {
        let id = OutboxId { origin: "leaf01".parse().unwrap(), incarnation: 1, sequence };
        let delivery = Delivery { offered: Offered::Mirrored, ..Delivery::of(id) };
        store_push(device, &app(), &names(&[tag]), *number, Origin::Child(delivery)).await;
    }
}

/// A node between root and leaf is set back, and starts; the leaf sees it sooner or later.
#[test]
fn f201_what_the_root_has_deleted_does_not_come_back_whenever_a_leaf_sees_a_set_back() {
    for seen in ["at once", "after messages", "after a comparison", "after a start", "by halves"] {
        // The start that the leaf knows is lost, too, or the snapshot is of it.
        for known in ["n-of-the-snapshot", "n-lost"] {
            if known == "n-lost" && seen == "after a start" {
                continue;
            }
            in_tree(async |tree, engine| {
                let (root, device) = (&tree.world.root, &tree.world.device());
                device.stand(Role::Connected, true);
                device.note_start("n-of-the-snapshot").await.unwrap();
                rest(tree, engine).await;
                // The leaf had this, too, and got it again from a client, behind the snapshot.
                push(root, &["again"], THIRD).await;
                engine.pull_once().await.unwrap();
                delete(root, "again").await;
                engine.pull_once().await.unwrap();
                let snapshot = device.rows_of_backup();
                device.note_start("n-lost").await.unwrap();
                push(root, &["untagged"], FIRST).await;
                push(root, &["deleted"], SECOND).await;
                delete(root, "untagged").await;
                let second = digest_of(&manifest(SECOND));
                root.delete_manifest(&app(), &second, &Origin::Client).await.unwrap();
                device.set_back(snapshot);
                device.note_start("n-after").await.unwrap();
                let mut engine = tree.start().await;
                engine.begin_once().await.unwrap();
                if seen != "at once" {
                    engine.pull_once().await.unwrap();
                }
                if seen == "after a comparison" {
                    device.request_reconcile().await.unwrap();
                    engine.pull_once().await.unwrap();
                }
                if seen == "after a start" {
                    device.note_start("n-much-later").await.unwrap();
                }
                let parted = device.parted_at(known).unwrap();
                device.note_set_back(parted).await.unwrap();
                if seen == "by halves" {
                    device.note_start("n-much-later").await.unwrap();
                    engine = tree.start().await;
                    // Another child knows less.
                    device.note_set_back(device.parted_at("n-lost").unwrap()).await.unwrap();
                }
                assert!(device.lacks_a_life().unwrap());
                engine.pull_once().await.unwrap();
                let offered = [("untagged", FIRST), ("deleted", SECOND), ("again", THIRD)];
                offer(device, &offered).await;
                rest(tree, &engine).await;
                for store in [root, device] {
                    let gone = (named(store, "untagged"), named(store, "deleted"));
                    assert_eq!(gone, (None, None), "{seen} {known}");
                    assert!(has(store, FIRST) && !has(store, SECOND), "{seen} {known}");
                    let again = Some(digest_of(&manifest(THIRD)));
                    assert_eq!(named(store, "again"), again, "{seen} {known}");
                }
            });
        }
    }
}

/// The root has deleted an image, which a client has pushed again under another tag.
#[test]
fn f201_a_tag_that_the_root_has_not_deleted_comes_back_with_its_image() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        device.stand(Role::Connected, true);
        rest(tree, engine).await;
        device.note_set_back(None).await.unwrap();
        push(root, &["deleted"], FIRST).await;
        let digest = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
        engine.pull_once().await.unwrap();
        offer(device, &[("deleted", FIRST), ("pushed", FIRST)]).await;
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!((named(store, "deleted"), named(store, "pushed")), (None, first()));
        }
    });
}

/// What an index names goes up before it, in no change of its own.
#[test]
fn f201_the_images_of_an_index_that_is_offered_in_vain_do_not_come_back() {
    for is_gone in [true, false] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            let below = children(MANIFESTS);
            for number in &below {
                push(root, &[], *number).await;
            }
            push(root, &["index"], MANIFESTS).await;
            rest(tree, engine).await;
            let mut gone = Gone::default();
            for number in [MANIFESTS].iter().chain(&below) {
                let digest = digest_of(&manifest(*number));
                root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
                if is_gone {
                    gone.hear(Message::ManifestDeleted { repository: app(), digest });
                }
            }
            if is_gone {
                let (repository, tag) = (app(), names(&["index"]).remove(0));
                gone.hear(Message::Tag { repository, tag, digest: None });
            }
            root.note_gone(gone);
            device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
            engine.begin_once().await.unwrap();
            rest(tree, engine).await;
            assert_eq!(named(root, "index").is_none(), is_gone);
            for number in [MANIFESTS].iter().chain(&below) {
                for store in [root, device] {
                    assert_eq!(has(store, *number), !is_gone, "{number}");
                }
            }
        });
    }
}

/// The device is restored from its rows as they were, or its disk is set back to them.
async fn go_back(tree: &Tree, rows: Vec<(Vec<u8>, Vec<u8>)>, restored: bool) -> Engine {
    match restored {
        true => tree.world.restore(rows).await,
        false => tree.world.device().set_back(rows),
    }
    tree.start().await
}

fn tags(store: &Store) -> Vec<String> {
    let all = store.tags(&app(), None, 9).unwrap();
    all.iter().map(|(tag, _)| tag.to_string()).collect()
}

/// What waited in a copy was delivered since; the parent refuses the first of it once, and the rest
/// goes with a later push.
#[test]
fn f201_f130_what_waited_in_a_copy_and_is_refused_once_is_no_conflict() {
    for restored in [false, true] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["v1"], FIRST).await;
            push(device, &["v1"], SECOND).await;
            let snapshot = device.rows_of_backup();
            rest(tree, engine).await;
            let engine = go_back(tree, snapshot, restored).await;
            let device = &tree.world.device();
            push(device, &["v1"], THIRD).await;
            tree.world.refuses.store(true, Ordering::Relaxed);
            rest(tree, &engine).await;
            let third = Some(digest_of(&manifest(THIRD)));
            assert_eq!((named(root, "v1"), named(device, "v1")), (third.clone(), third));
            assert_eq!(tags(root), ["v1"], "{restored}");
        });
    }
}

/// In the state that is lost the first change was refused, and went with the second.
#[test]
fn f201_f130_what_was_made_one_in_a_state_that_is_lost_is_no_conflict() {
    for restored in [false, true] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["v1"], FIRST).await;
            push(device, &["v1"], SECOND).await;
            let snapshot = device.rows_of_backup();
            tree.world.refuses.store(true, Ordering::Relaxed);
            rest(tree, engine).await;
            let second = Some(digest_of(&manifest(SECOND)));
            assert_eq!(named(root, "v1"), second);
            let engine = go_back(tree, snapshot, restored).await;
            let device = &tree.world.device();
            rest(tree, &engine).await;
            assert_eq!((tags(root), named(device, "v1")), (vec!["v1".to_owned()], second));
        });
    }
}

/// What a tag named in between was delivered, and is deleted since.
#[test]
fn f201_what_was_deleted_since_a_backup_does_not_come_back_from_between() {
    for restored in [false, true] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["v1"], FIRST).await;
            push(device, &["v1"], SECOND).await;
            let snapshot = device.rows_of_backup();
            rest(tree, engine).await;
            let first = digest_of(&manifest(FIRST));
            root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
            rest(tree, engine).await;
            let engine = go_back(tree, snapshot, restored).await;
            rest(tree, &engine).await;
            assert!(!has(root, FIRST) && !has(&tree.world.device(), FIRST), "{restored}");
        });
    }
}

/// While an offer waits that will be in vain, a client pushes the tag: that is a change of its own.
#[test]
fn f201_f130_a_push_behind_an_offer_in_vain_is_no_conflict() {
    for (number, is_deleted) in [(FIRST, true), (SECOND, true), (FIRST, false), (SECOND, false)] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(root, &["v1"], FIRST).await;
            rest(tree, engine).await;
            let mut gone = Gone::default();
            let (repository, tag) = (app(), names(&["v1"]).remove(0));
            gone.hear(Message::Tag { repository, tag, digest: None });
            if is_deleted {
                let digest = digest_of(&manifest(FIRST));
                root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
                gone.hear(Message::ManifestDeleted { repository: app(), digest });
            } else {
                delete(root, "v1").await;
            }
            root.note_gone(gone);
            device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
            engine.begin_once().await.unwrap();
            engine.pull_once().await.unwrap();
            let waiting = device.outbox(9).unwrap();
            assert!(waiting.iter().any(|(_, entry)| entry.offered.is_offer()), "{waiting:?}");
            push(device, &["v1"], number).await;
            rest(tree, engine).await;
            let pushed = Some(digest_of(&manifest(number)));
            assert_eq!((named(root, "v1"), named(device, "v1")), (pushed.clone(), pushed));
            assert_eq!(tags(root), ["v1"], "{number} {is_deleted}");
        });
    }
}

/// It was ReadWrite when it met another parent, and may still write by its scope map.
#[test]
fn f201_f118_a_read_only_device_with_something_to_offer_goes_on_following_its_parent() {
    let spawner = Spawner::new();
    boxed(&spawner, async {
        let tree = tree(spawner.clone(), READ_ONLY).await;
        let (root, device) = (&tree.world.root, &tree.world.device());
        let engine = tree.start().await;
        push(root, &["v1"], FIRST).await;
        engine.pull_once().await.unwrap();
        let map = device.self_config().unwrap().unwrap().sync_token.scope_map;
        let grant = |action| format!("repositories/{}/content/{action}", app()).parse().unwrap();
        let add = ["write", "delete"].map(grant).to_vec();
        let update =
            ScopeMapUpdate { grants: Change::Delta { add, remove: vec![] }, description: None };
        root.scope_map_update(map, update).await.unwrap();
        engine.pull_once().await.unwrap();
        let position = device.feed_position().unwrap().unwrap();
        device.meet_parent(position, None, &[app()].into()).await.unwrap();
        delete(root, "v1").await;
        engine.pull_once().await.unwrap();
        push(root, &["v1"], SECOND).await;
        for _ in 0..4 {
            engine.push_once().await.unwrap();
            engine.pull_once().await.unwrap();
            tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        }
        assert_eq!(named(device, "v1"), named(root, "v1"));
    });
}

/// The answer to a removal is lost, a client pushes the image again, and the removal is refused
/// when it comes again: it has had its effect.
#[test]
fn f130_f204_a_removal_that_is_refused_after_it_took_effect_does_not_take_effect_again() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        let first = digest_of(&manifest(FIRST));
        device.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        let (_, entry) = device.outbox(9).unwrap().pop().unwrap();
        let taken = Origin::Child(Delivery::of(entry.id));
        root.delete_manifest(&app(), &first, &taken).await.unwrap();
        push(root, &["v1"], FIRST).await;
        tree.world.refuses.store(true, Ordering::Relaxed);
        engine.push_once().await.unwrap();
        assert_eq!(device.refused_changes(9).unwrap().len(), 1);
        rest(tree, engine).await;
        assert_eq!((named(root, "v1"), named(device, "v1")), (Some(first.clone()), Some(first)));
    });
}

/// A client of a leaf has pushed again what the root had deleted, the leaf has delivered it, and
/// the node between loses that with its disk: the leaf has the only copy, and offers it.
#[test]
fn f201_what_a_client_has_pushed_again_since_the_deletion_comes_back_from_a_leaf() {
    let lost = Mutex::new(Vec::new());
    for (whole, number) in [(false, SECOND), (false, FIRST), (true, FIRST), (true, SECOND)] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            device.stand(Role::Connected, true);
            push(root, &["latest"], FIRST).await;
            rest(tree, engine).await;
            device.note_start("n-of-the-snapshot").await.unwrap();
            let snapshot = device.rows_of_backup();
            // Root, device and leaf agree on the deletion.
            match whole {
                true => {
                    let first = digest_of(&manifest(FIRST));
                    root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
                }
                false => delete(root, "latest").await,
            }
            engine.pull_once().await.unwrap();
            assert_eq!(named(device, "latest"), None);
            // Acknowledged at the leaf, and delivered by it; not yet passed on.
            let id = OutboxId { origin: "leaf01".parse().unwrap(), incarnation: 1, sequence: 1 };
            let delivery = Delivery::of(id);
            store_push(device, &app(), &names(&["latest"]), number, Origin::Child(delivery)).await;
            let pushed = Some(digest_of(&manifest(number)));
            assert_eq!(named(device, "latest"), pushed);
            device.set_back(snapshot);
            device.note_start("n-after").await.unwrap();
            let engine = tree.start().await;
            engine.begin_once().await.unwrap();
            let parted = device.parted_at("n-of-the-snapshot").unwrap();
            device.note_set_back(parted).await.unwrap();
            engine.pull_once().await.unwrap();
            let id = OutboxId { origin: "leaf01".parse().unwrap(), incarnation: 1, sequence: 2 };
            let delivery = Delivery { offered: Offered::Pushed, ..Delivery::of(id) };
            store_push(device, &app(), &names(&["latest"]), number, Origin::Child(delivery)).await;
            rest(tree, &engine).await;
            let found = (named(device, "latest"), has(device, number), named(root, "latest"));
            let now = (found.0.clone(), found.2, found.1, has(root, number));
            if now != (pushed.clone(), pushed, true, true) {
                lost.lock().unwrap().push(format!("{whole} {number}: {now:?}"));
            }
        });
    }
    let lost = lost.into_inner().unwrap();
    assert!(lost.is_empty(), "{lost:#?}");
}

/// The root stands for the node between, and hears of deletions from its parent.
#[test]
fn f201_a_leaf_says_which_of_its_offers_a_client_had_pushed() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["mirrored", "moved-here", "agreed"], FIRST).await;
        push(device, &["pushed", "moved-there"], SECOND).await;
        push(device, &["untagged"], THIRD).await;
        rest(tree, engine).await;
        push(root, &["moved-there"], FIRST).await;
        push(root, &["agreed"], SECOND).await;
        push(root, &["tagged"], THIRD).await;
        rest(tree, engine).await;
        push(device, &["moved-here", "agreed"], SECOND).await;
        delete(device, "untagged").await;
        rest(tree, engine).await;
        let mut gone = Gone::default();
        for (tag, _) in root.tags(&app(), None, 9).unwrap() {
            gone.hear(Message::Tag { repository: app(), tag, digest: None });
        }
        for number in [FIRST, SECOND, THIRD] {
            let digest = digest_of(&manifest(number));
            root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
            gone.hear(Message::ManifestDeleted { repository: app(), digest });
        }
        root.note_gone(gone);
        device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
        engine.begin_once().await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            let tags = store.tags(&app(), None, 9).unwrap();
            let tags: Vec<_> = tags.iter().map(|(tag, _)| tag.as_str()).collect();
            assert_eq!(tags, ["agreed", "moved-here", "pushed"]);
            let there = [FIRST, SECOND, THIRD].map(|number| has(store, number));
            assert_eq!(there, [false, true, true], "the last by its digest");
        }
    });
}

/// It waited as long as an outage before had made it wait, or, outside its windows, for the next
/// look at its configuration.
#[test]
fn f033_f121_a_replaced_parent_has_its_child_back_with_the_first_call() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        engine.begin_once().await.unwrap();
        let name = device.self_config().unwrap().unwrap().node.name;
        let key = activation_key(&name);
        root.commit(move |txn| txn.delete(key)).await.unwrap();
        engine.begin_once().await.unwrap();
        assert!(root.activation(&name).unwrap().is_some());
    });
}

//! Changes that were made one with others, and a device or an answer that is lost after it.

use super::scenarios::{FIRST, SECOND, THIRD, app, has, in_tree, named, names, push, rest};
use super::*;
use crate::store::replica::outbox::OutboxEntry;
use crate::types::Delivery;

/// The origin of a change as it is delivered.
fn as_delivered(entry: OutboxEntry) -> Origin {
    let OutboxEntry { id, instead_of, anew, .. } = entry;
    Origin::Child(Delivery { instead_of, anew, ..Delivery::of(id) })
}

/// Has the first change that waits refused and tried again.
async fn renew_first(device: &Store) {
    let (number, _) = device.outbox(1).unwrap().remove(0);
    device.outbox_refused(number, "no".to_owned()).await.unwrap();
    device.outbox_retry(0).await.unwrap();
}

/// What a tag named at first went up by its digest, and the tag itself not yet, when the device was
/// set back to where neither had gone up.
#[test]
fn f130_f201_a_renewed_tag_that_has_not_gone_up_goes_up_after_a_disk_is_set_back() {
    in_tree(async |tree, _| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        push(device, &["v1"], SECOND).await;
        let snapshot = device.rows_of_backup();
        renew_first(device).await;
        let (_, added) = device.outbox(1).unwrap().remove(0);
        store_push(root, &app(), &[], FIRST, as_delivered(added)).await;
        device.set_back(snapshot);
        let engine = tree.start().await;
        rest(tree, &engine).await;
        assert_eq!(device.conflicts(99).unwrap(), []);
        let second = Some(digest_of(&manifest(SECOND)));
        assert_eq!((named(root, "v1"), named(device, "v1")), (second.clone(), second));
    });
}

/// What a tag named at first was refused again by its digest, and the tag itself went up.
#[test]
fn f130_f201_what_was_refused_of_a_renewed_tag_is_not_lost_when_a_disk_is_set_back() {
    in_tree(async |tree, _| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        push(device, &["v1"], SECOND).await;
        let snapshot = device.rows_of_backup();
        renew_first(device).await;
        let (_, moved) = device.outbox(2).unwrap().remove(1);
        store_push(root, &app(), &names(&["v1"]), SECOND, as_delivered(moved)).await;
        device.set_back(snapshot);
        let engine = tree.start().await;
        rest(tree, &engine).await;
        assert_eq!(device.conflicts(99).unwrap(), []);
        assert!(has(root, FIRST) && has(device, FIRST), "clients may have pinned it");
    });
}

/// Symptom: what a parent had refused when the disk of a device was copied, and had taken since,
/// took effect once more after the disk was set back. Cause: the change went up under another name
/// each time.
#[test]
fn f130_f201_what_was_refused_when_a_disk_was_copied_takes_effect_once() {
    for (change, refused) in [
        ("push", 0),
        ("push", 1),
        ("push", 2),
        ("move", 0),
        ("move", 2),
        ("remove", 0),
        ("remove", 1),
        ("later", 0),
        ("later", 1),
    ] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            if change != "push" {
                push(root, &["v1"], SECOND).await;
                rest(tree, engine).await;
            }
            let v1: Tag = "v1".parse().unwrap();
            match change {
                "remove" => {
                    device
                        .delete_tag(&app(), &v1, Precondition::None, &Origin::Client)
                        .await
                        .unwrap();
                }
                _ => push(device, &["v1"], FIRST).await,
            }
            let (number, _) = device.outbox(1).unwrap().remove(0);
            device.outbox_refused(number, "no".to_owned()).await.unwrap();
            let snapshot = device.rows_of_backup();
            device.outbox_retry(0).await.unwrap();
            rest(tree, engine).await;
            assert_eq!(named(root, "v1"), named(device, "v1"));
            // Somebody undoes it there.
            match change {
                "push" => root
                    .delete_manifest(&app(), &digest_of(&manifest(FIRST)), &Origin::Client)
                    .await
                    .unwrap(),
                _ => push(root, &["v1"], SECOND).await,
            }
            rest(tree, engine).await;
            let there = named(root, "v1");
            device.set_back(snapshot);
            if change == "later" {
                push(device, &["v1"], THIRD).await;
            }
            // It may be refused under its new names too before it is granted again.
            for _ in 0..refused {
                renew_first(device).await;
            }
            device.outbox_retry(0).await.unwrap();
            let engine = tree.start().await;
            rest(tree, &engine).await;
            let wanted = if change == "later" { Some(digest_of(&manifest(THIRD))) } else { there };
            assert_eq!(
                (named(root, "v1"), named(device, "v1")),
                (wanted.clone(), wanted),
                "{change}"
            );
            assert_eq!(has(root, FIRST), matches!(change, "move" | "later"), "{change}");
            assert_eq!(device.conflicts(99).unwrap(), [], "{change}");
        });
    }
}

/// What a tag named at first was pushed by its digest too, and waits behind the tag's changes.
#[test]
fn f130_f201_content_that_went_up_in_another_change_is_not_lost_when_a_disk_is_set_back() {
    in_tree(async |tree, _| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        push(device, &["v1"], SECOND).await;
        let snapshot = device.rows_of_backup();
        push(device, &[], FIRST).await;
        renew_first(device).await;
        let (_, moved) = device.outbox(2).unwrap().remove(1);
        store_push(root, &app(), &names(&["v1"]), SECOND, as_delivered(moved)).await;
        device.set_back(snapshot);
        let engine = tree.start().await;
        rest(tree, &engine).await;
        assert_eq!(device.conflicts(99).unwrap(), []);
        assert!(has(root, FIRST) && has(device, FIRST), "it was acknowledged before the snapshot");
    });
}

/// The parent has had a change, the answer was lost, and somebody moved the tag back there: what
/// waits behind it does not begin with that.
#[test]
fn f130_f201_a_tag_that_was_moved_back_at_the_parent_is_a_conflict_when_an_answer_was_lost() {
    for (was_there, restarts) in [(true, false), (true, true), (false, false), (false, true)] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            let before = was_there.then(|| digest_of(&manifest(FIRST)));
            if was_there {
                push(device, &["v1"], FIRST).await;
                rest(tree, engine).await;
            }
            push(device, &["v1"], SECOND).await;
            push(device, &["v1"], THIRD).await;
            let (_, moved) = device.outbox(1).unwrap().remove(0);
            let v1 = &names(&["v1"]);
            store_push(root, &app(), v1, SECOND, as_delivered(moved)).await;
            match was_there {
                true => push(root, &["v1"], FIRST).await,
                false => {
                    let any = Precondition::None;
                    root.delete_tag(&app(), &v1[0], any, &Origin::Client).await.unwrap();
                }
            }
            let started;
            let engine = match restarts {
                true => {
                    started = tree.start().await;
                    &started
                }
                false => engine,
            };
            rest(tree, engine).await;
            assert_eq!((named(root, "v1"), named(device, "v1")), (before.clone(), before));
            assert_eq!(device.conflicts(99).unwrap().len(), 1, "{was_there} {restarts}");
            assert!(has(device, THIRD), "both contents are kept");
        });
    }
}

/// The grant was taken away and given back while the device delivered: the desired state that it
/// then found was the one that it had, and what was refused meanwhile waited for an hour.
#[test]
fn f130_a_grant_that_was_away_between_two_looks_costs_no_hour() {
    in_tree(async |tree, engine| {
        let (root, device, world) = (&tree.world.root, &tree.world.device(), &tree.world);
        let minutes = |minutes: u64| tree.hands.0.fetch_add(60 * minutes, Ordering::Relaxed);
        push(device, &["v1"], FIRST).await;
        grant(root, &app(), false).await;
        engine.push_once().await.unwrap();
        assert_eq!(device.refused_changes(9).unwrap().len(), 1);
        grant(root, &app(), true).await;
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "v1"), None);
        minutes(2);
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "v1"), named(device, "v1"));
        // What the device knows not to be granted is not asked for so often.
        grant(root, &app(), false).await;
        engine.pull_once().await.unwrap();
        push(device, &["v2"], SECOND).await;
        engine.push_once().await.unwrap();
        assert_eq!(device.refused_changes(9).unwrap().len(), 1);
        let before = world.requests.load(Ordering::Relaxed);
        for _ in 0..10 {
            minutes(2);
            engine.push_once().await.unwrap();
        }
        assert_eq!(world.requests.load(Ordering::Relaxed), before);
    });
}

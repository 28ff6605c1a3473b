//! Encounters of a device and its parent that dice meet rarely, one by one.

use super::*;
use crate::gateway::UpstreamError;
use crate::store::replica::outbox::{OutboxChange, OutboxEntry};
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::types::Delivery;
use crate::types::message::{Batch, Item, Message};
use crate::types::{Change, Cursor};

/// Images of the tests, and an index of the first two.
pub(super) const FIRST: u64 = 0;
pub(super) const SECOND: u64 = 1;
pub(super) const THIRD: u64 = 2;
const INDEX: u64 = MANIFESTS;

pub(super) fn app() -> RepositoryName {
    repository(0)
}

pub(super) fn names(list: &[&str]) -> Vec<Tag> {
    list.iter().map(|name| name.parse().unwrap()).collect()
}

/// Pushes at one of the two.
pub(super) async fn push(store: &Store, tags: &[&str], number: u64) {
    let put = store_push(store, &app(), &names(tags), number, Origin::Client).await;
    assert_eq!(put, PutOutcome::Stored);
}

pub(super) fn has(store: &Store, number: u64) -> bool {
    store.manifest(&app(), &digest_of(&manifest(number))).unwrap().is_some()
}

pub(super) fn named(store: &Store, tag: &str) -> Option<Digest> {
    store.tag(&app(), &names(&[tag])[0]).unwrap()
}

/// Lets the device push and pull until nothing is left to do.
pub(super) async fn rest(tree: &Tree, engine: &Engine) {
    for _ in 0..6 {
        engine.push_once().await.unwrap();
        engine.pull_once().await.unwrap();
        tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
    }
    tree.world.device().request_reconcile().await.unwrap();
    engine.pull_once().await.unwrap();
}

pub(super) fn in_tree(work: impl AsyncFnOnce(&Tree, &Engine)) {
    let spawner = Spawner::new();
    boxed(&spawner, async {
        let tree = tree(spawner.clone(), 1).await;
        let engine = tree.start().await;
        engine.pull_once().await.unwrap();
        work(&tree, &engine).await;
    });
}

#[test]
fn f130_what_an_index_needs_that_goes_up_is_not_deleted_with_the_parents() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        for number in [FIRST, SECOND] {
            push(root, &[&format!("x{number}")], number).await;
        }
        engine.pull_once().await.unwrap();
        // The client does not push again what is there.
        push(device, &["multi"], INDEX).await;
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        engine.pull_once().await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "multi"), Some(digest_of(&manifest(INDEX))));
            assert!(has(store, FIRST) && has(store, SECOND));
        }
    });
}

#[test]
fn f130_what_is_pushed_again_while_the_parent_says_that_it_is_gone_stays() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["x"], FIRST).await;
        engine.pull_once().await.unwrap();
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        *tree.world.pushed_meanwhile.lock().unwrap() = Some(FIRST);
        engine.pull_once().await.unwrap();
        assert!(tree.world.pushed_meanwhile.lock().unwrap().is_none());
        rest(tree, engine).await;
        assert!(has(root, FIRST) && has(device, FIRST));
    });
}

#[test]
fn f130_an_index_that_names_a_manifest_of_another_index_goes_up_in_order() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        // None of what it names goes up by itself.
        for number in [FIRST, SECOND, INDEX] {
            let put = store_push(device, &app(), &[], number, Origin::Parent).await;
            assert_eq!(put, PutOutcome::Stored);
        }
        let outer = (index(&[FIRST, INDEX]), media::OCI_INDEX);
        let digest = digest_of(&outer.0);
        put(device, &app(), &names(&["multi"]), outer, Origin::Client).await;
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "multi"), Some(digest));
        assert_eq!(device.refused_changes(9).unwrap(), []);
    });
}

#[test]
fn f130_an_index_that_the_parent_has_without_its_children_brings_them() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        for number in [FIRST, SECOND, INDEX] {
            push(device, &[], number).await;
        }
        engine.push_once().await.unwrap();
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        push(device, &["multi"], INDEX).await;
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "multi"), Some(digest_of(&manifest(INDEX))));
        assert!(has(root, FIRST));
    });
}

#[test]
fn f204_f130_a_conflict_that_cannot_be_settled_holds_up_nothing_else() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        engine.pull_once().await.unwrap();
        push(device, &["v1"], SECOND).await;
        push(device, &["v2"], THIRD).await;
        // Its configuration is nowhere.
        let (config, nowhere) = (digest_of(CONFIG).to_string(), digest_of(b"nowhere").to_string());
        let broken = String::from_utf8(manifest(FIRST)).unwrap().replace(&config, &nowhere);
        let broken = (broken.into_bytes(), media::OCI_MANIFEST);
        put(root, &app(), &names(&["v1"]), broken, Origin::Parent).await;
        for _ in 0..6 {
            engine.push_once().await.unwrap();
            tree.hands.0.fetch_add(90, Ordering::Relaxed);
        }
        assert_eq!(named(root, "v2"), Some(digest_of(&manifest(THIRD))));
        let refused = device.refused_changes(9).unwrap();
        assert!(refused[0].1.reason.contains("a conflict over tag v1"), "{refused:?}");
        // The writer goes on, and the parent has the other content again.
        push(root, &["v1"], FIRST).await;
        push(device, &["v1"], THIRD).await;
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "v1"), Some(digest_of(&manifest(THIRD))));
            assert!(has(store, SECOND), "what v1 named in between");
        }
        assert_eq!(device.refused_changes(9).unwrap(), []);
    });
}

/// A parent that takes the change and whose answer is lost.
async fn takes_unheard(root: &Store, device: &Store, number: u64) {
    let (_, entry) = device.outbox(1).unwrap().remove(0);
    let OutboxChange::Tag { tag, .. } = &entry.change else { panic!() };
    let origin = Origin::Child(Delivery::of(entry.id.clone()));
    let put = store_push(root, &app(), std::slice::from_ref(tag), number, origin).await;
    assert_eq!(put, PutOutcome::Stored);
}

#[test]
fn f130_what_others_move_while_a_change_waits_for_its_answer_is_followed_then() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        takes_unheard(root, device, FIRST).await;
        push(root, &["v1"], SECOND).await;
        engine.pull_once().await.unwrap();
        engine.push_once().await.unwrap();
        assert!(device.outbox(9).unwrap().is_empty());
        for _ in 0..6 {
            engine.push_once().await.unwrap();
            engine.pull_once().await.unwrap();
            tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        }
        assert_eq!(named(root, "v1"), Some(digest_of(&manifest(SECOND))));
        assert_eq!(named(device, "v1"), named(root, "v1"), "device differs from the parent");
    });
}

#[test]
fn f130_what_others_delete_while_a_change_waits_for_its_answer_goes_then() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        takes_unheard(root, device, FIRST).await;
        root.delete_manifest(&app(), &digest_of(&manifest(FIRST)), &Origin::Client).await.unwrap();
        engine.pull_once().await.unwrap();
        engine.push_once().await.unwrap();
        for _ in 0..6 {
            engine.push_once().await.unwrap();
            engine.pull_once().await.unwrap();
            tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        }
        assert_eq!(
            (named(device, "v1"), has(device, FIRST)),
            (named(root, "v1"), has(root, FIRST))
        );
    });
}

/// A full comparison. What waits is delivered after the parent has listed what it has, and before
/// the device has heard that; then the link is cut.
async fn compare_while_delivering(tree: &Tree, engine: &Engine) {
    let world = &tree.world;
    world.device().request_reconcile().await.unwrap();
    world.holds_listing.store(true, Ordering::Relaxed);
    let push = async {
        while !world.is_held.load(Ordering::Relaxed) {
            smol::future::yield_now().await;
        }
        engine.push_once().await
    };
    let (_, pushed) = smol::future::zip(engine.pull_once(), push).await;
    pushed.unwrap();
}

#[test]
fn f130_a_push_that_is_delivered_while_the_parent_lists_stays() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        compare_while_delivering(tree, engine).await;
        assert_eq!(named(root, "v1"), Some(digest_of(&manifest(FIRST))));
        assert_eq!(named(device, "v1"), Some(digest_of(&manifest(FIRST))), "acknowledged here");
    });
}

#[test]
fn f130_a_removal_that_is_delivered_while_the_parent_lists_stays() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        device
            .delete_tag(&app(), &names(&["v1"])[0], Precondition::None, &Origin::Client)
            .await
            .unwrap();
        compare_while_delivering(tree, engine).await;
        assert_eq!(named(root, "v1"), None);
        assert_eq!(named(device, "v1"), None, "the removal was acknowledged here");
    });
}

#[test]
fn f130_a_push_of_what_the_parent_has_deleted_brings_it_back() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        engine.pull_once().await.unwrap();
        root.delete_manifest(&app(), &digest_of(&manifest(FIRST)), &Origin::Client).await.unwrap();
        // Acknowledged, after the deletion.
        push(device, &["v1"], FIRST).await;
        engine.push_once().await.unwrap();
        engine.pull_once().await.unwrap();
        rest(tree, engine).await;
        assert!(has(device, FIRST) || has(root, FIRST), "an acknowledged push is nowhere");
    });
}

/// The root has an index of two images, and the device has it without one of them, which was
/// deleted at the root.
async fn loses_a_child(tree: &Tree, engine: &Engine) {
    let (root, device) = (&tree.world.root, &tree.world.device());
    for number in [FIRST, SECOND] {
        push(root, &[], number).await;
    }
    push(root, &["multi"], INDEX).await;
    engine.pull_once().await.unwrap();
    assert!(has(device, FIRST) && has(device, SECOND));
    root.delete_manifest(&app(), &digest_of(&manifest(FIRST)), &Origin::Client).await.unwrap();
    engine.pull_once().await.unwrap();
    assert!(!has(device, FIRST));
}

#[test]
fn f204_a_child_that_comes_back_at_the_parent_comes_with_the_next_tag_of_its_index() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        loses_a_child(tree, engine).await;
        push(root, &[], FIRST).await;
        push(root, &["multi2"], INDEX).await;
        engine.pull_once().await.unwrap();
        assert!(named(device, "multi2").is_some());
        assert!(has(device, FIRST), "the index is served without its child");
    });
}

#[test]
fn f204_a_child_that_comes_back_at_the_parent_comes_with_the_next_comparison() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        loses_a_child(tree, engine).await;
        rest(tree, engine).await;
        assert!(!has(device, FIRST) && has(device, INDEX), "as the root has it");
        push(root, &[], FIRST).await;
        device.request_reconcile().await.unwrap();
        engine.pull_once().await.unwrap();
        assert!(has(device, FIRST), "the index is served without its child");
    });
}

/// The device is set back to what it is now, in another life of its store.
async fn restored(tree: &Tree) -> Engine {
    let rows = tree.world.back_up().await;
    tree.world.restore(rows).await;
    tree.start().await
}

#[test]
fn f201_f204_a_refusal_that_came_with_a_backup_is_not_tried_again_and_again() {
    // The change behind it came with the backup too, was made after it, or removes the manifest.
    for case in 0..3 {
        in_tree(async |tree, _| {
            let (root, device, world) = (&tree.world.root, &tree.world.device(), &tree.world);
            let tags: &[&str] = if case == 2 { &[] } else { &["v1"] };
            push(device, tags, FIRST).await;
            if case == 0 {
                push(device, tags, SECOND).await;
            }
            let engine = restored(tree).await;
            let device = &world.device();
            grant(root, &app(), false).await;
            engine.push_once().await.unwrap();
            assert!(!device.refused_changes(9).unwrap().is_empty());
            match case {
                0 => {}
                1 => push(device, tags, SECOND).await,
                _ => {
                    let first = digest_of(&manifest(FIRST));
                    device.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
                }
            }
            for _ in 0..3 {
                engine.push_once().await.unwrap();
            }
            let before = (device.sequence(), world.requests.load(Ordering::Relaxed));
            engine.push_once().await.unwrap();
            let after = (device.sequence(), world.requests.load(Ordering::Relaxed));
            assert_eq!(after, before, "case {case}: records and requests, and no time passed");
            grant(root, &app(), true).await;
            rest(tree, &engine).await;
            assert_eq!(named(root, "v1"), named(device, "v1"));
            assert_eq!((has(root, FIRST), has(root, SECOND)), (case < 2, case < 2));
            assert!(
                device.outbox(9).unwrap().is_empty() && device.conflicts(99).unwrap().is_empty()
            );
        });
    }
}

#[test]
fn f201_f130_what_came_with_a_backup_is_not_overtaken_by_a_later_change_of_its_tag() {
    // The life of the store that was lost had delivered so many changes of the tag.
    for delivered in 0..4 {
        in_tree(async |tree, engine| {
            let (root, device, world) = (&tree.world.root, &tree.world.device(), &tree.world);
            push(device, &["v1"], FIRST).await;
            // Then the tag is removed, and what is read at once goes up.
            let any = Precondition::None;
            device.delete_tag(&app(), &names(&["v1"])[0], any, &Origin::Client).await.unwrap();
            let many = (0..70).map(|number| format!("t{number}")).collect::<Vec<_>>();
            push(device, &many.iter().map(String::as_str).collect::<Vec<_>>(), THIRD).await;
            push(device, &["v1"], SECOND).await;
            let rows = world.back_up().await;
            match delivered {
                3 => engine.push_once().await.unwrap(),
                _ => {
                    for (_, entry) in device.outbox(delivered).unwrap() {
                        deliver(root, &entry).await;
                    }
                }
            }
            world.restore(rows).await;
            let device = &world.device();
            let engine = tree.start().await;
            world.refuses.store(true, Ordering::Relaxed);
            engine.push_once().await.unwrap();
            rest(tree, &engine).await;
            for store in [root, device] {
                let case = format!("{delivered} delivered");
                assert_eq!(named(store, "v1"), Some(digest_of(&manifest(SECOND))), "{case}");
                assert!(has(store, FIRST), "{case}: what v1 named before");
                assert_eq!(named(store, "t69"), Some(digest_of(&manifest(THIRD))), "{case}");
            }
            let conflict = root.tags(&app(), None, 99).unwrap().into_iter();
            assert!(conflict.count() == 71 && device.outbox(9).unwrap().is_empty());
        });
    }
}

/// The parent takes a change of a tag, as the device delivers it.
async fn deliver(root: &Store, entry: &OutboxEntry) {
    let origin = Origin::Child(Delivery::of(entry.id.clone()));
    let OutboxChange::Tag { tag, digest, .. } = &entry.change else { panic!("{entry}") };
    if digest.is_some() {
        let tags = std::slice::from_ref(tag);
        store_push(root, &app(), tags, FIRST, origin).await;
    } else {
        root.delete_tag(&app(), tag, Precondition::None, &origin).await.unwrap();
    }
}

#[test]
fn f201_f130_a_refused_push_that_other_pushes_have_passed_is_not_taken_for_delivered() {
    for removal in [false, true] {
        in_tree(async |tree, _| {
            let (root, device, world) = (&tree.world.root, &tree.world.device(), &tree.world);
            if removal {
                push(device, &["v1"], FIRST).await;
                tree.start().await.push_once().await.unwrap();
                let any = Precondition::None;
                device.delete_tag(&app(), &names(&["v1"])[0], any, &Origin::Client).await.unwrap();
            } else {
                push(device, &["v1"], FIRST).await;
            }
            push(device, &["v2"], FIRST).await;
            let engine = restored(tree).await;
            world.refuses.store(true, Ordering::Relaxed);
            engine.push_once().await.unwrap();
            let first = Some(digest_of(&manifest(FIRST)));
            assert_eq!(named(root, "v2"), first);
            rest(tree, &engine).await;
            for store in [root, &world.device()] {
                assert_eq!(named(store, "v1"), first.clone().filter(|_| !removal), "{removal}");
                assert_eq!(named(store, "v2"), first, "{removal}");
            }
        });
    }
}

#[test]
fn f204_f130_an_index_goes_up_in_the_round_that_brings_what_was_missing() {
    for is_restored in [false, true] {
        in_tree(async |tree, _| {
            let (root, device, world) = (&tree.world.root, &tree.world.device(), &tree.world);
            for number in [FIRST, SECOND] {
                push(device, &[], number).await;
            }
            push(device, &["multi"], INDEX).await;
            let first = digest_of(&manifest(FIRST));
            device.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
            let engine = match is_restored {
                true => restored(tree).await,
                false => tree.start().await,
            };
            *world.pushed_then.lock().unwrap() = Some(FIRST);
            engine.push_once().await.unwrap();
            assert!(world.pushed_then.lock().unwrap().is_none(), "it was refused");
            assert_eq!(named(root, "multi"), Some(digest_of(&manifest(INDEX))));
            assert_eq!(world.device().refused_changes(9).unwrap(), []);
        });
    }
}

impl World {
    /// Delivers what waits at the device, which are pushes of the first image.
    pub(super) async fn deliver_meanwhile(&self) {
        if !self.delivers_meanwhile.swap(false, Ordering::Relaxed) {
            return;
        }
        for (number, entry) in self.device().outbox(9).unwrap() {
            let tags = match &entry.change {
                OutboxChange::Tag { tag, .. } => vec![tag.clone()],
                _ => Vec::new(),
            };
            let origin = Origin::Child(Delivery::of(entry.id.clone()));
            store_push(&self.root, &app(), &tags, FIRST, origin).await;
            self.device().outbox_delivered(number, 0).await.unwrap();
        }
    }
}

#[test]
fn f130_what_is_delivered_while_the_parent_says_that_it_is_gone_stays() {
    for tags in [&["v2"][..], &[][..]] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(root, &["x"], FIRST).await;
            engine.pull_once().await.unwrap();
            let first = digest_of(&manifest(FIRST));
            root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
            push(device, tags, FIRST).await;
            tree.world.delivers_meanwhile.store(true, Ordering::Relaxed);
            engine.pull_once().await.unwrap();
            assert!(has(device, FIRST), "{tags:?}: acknowledged here");
            rest(tree, engine).await;
            assert!(has(device, FIRST) && has(root, FIRST), "{tags:?}");
        });
    }
}

/// A manifest that refers to the second image.
pub(super) fn referrer() -> (Vec<u8>, &'static str) {
    let subject = manifest(SECOND);
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{0}","artifactType":"a/sig",
            "config":{{"mediaType":"a/b","digest":"{1}","size":2}},"layers":[],
            "subject":{{"mediaType":"{0}","digest":"{2}","size":{3}}}}}"#,
        media::OCI_MANIFEST,
        digest_of(CONFIG),
        digest_of(&subject),
        subject.len()
    );
    (text.into_bytes(), media::OCI_MANIFEST)
}

#[test]
fn f130_a_referrer_that_was_deleted_stays_so_until_the_parent_has_heard() {
    for refused in [false, true] {
        in_tree(async |tree, engine| {
            let (root, device, world) = (&tree.world.root, &tree.world.device(), &tree.world);
            push(device, &["v1"], SECOND).await;
            let digest = digest_of(&referrer().0);
            put(device, &app(), &[], referrer(), Origin::Client).await;
            engine.push_once().await.unwrap();
            let is_at = |store: &Store| store.manifest(&app(), &digest).unwrap().is_some();
            assert!(is_at(root));
            device.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
            if refused {
                world.refuses.store(true, Ordering::Relaxed);
                engine.push_once().await.unwrap();
                assert_eq!(device.refused_changes(9).unwrap().len(), 1);
            }
            // The echo of the push is in the feed.
            engine.pull_once().await.unwrap();
            assert!(!is_at(device), "refused: {refused}");
            rest(tree, engine).await;
            assert_eq!((is_at(device), is_at(root)), (false, false), "refused: {refused}");
        });
    }
}

#[test]
fn f130_a_refused_deletion_lets_no_push_take_the_tag_of_somebody_else() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["x"], FIRST).await;
        engine.pull_once().await.unwrap();
        let first = digest_of(&manifest(FIRST));
        device.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        tree.world.refuses.store(true, Ordering::Relaxed);
        engine.push_once().await.unwrap();
        assert_eq!(device.refused_changes(9).unwrap().len(), 1, "the deletion");
        push(root, &["v9"], FIRST).await;
        push(device, &["v9"], SECOND).await;
        let (_, pushed) = device.outbox(9).unwrap().pop().unwrap();
        assert_eq!(pushed.brings(), Some(&digest_of(&manifest(SECOND))));
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "v9"), Some(first), "somebody else's");
        rest(tree, engine).await;
        assert_eq!(named(root, "v9"), named(device, "v9"));
        assert!(has(root, SECOND) && has(device, SECOND), "ours, under a conflict tag");
    });
}

#[test]
fn f201_f130_what_a_lost_parent_has_told_is_not_applied_against_its_successor() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["n"], FIRST).await;
        push(device, &["n"], SECOND).await;
        push(device, &["waits"], FIRST).await;
        rest(tree, engine).await;
        // The device has received what the parent of before told, and the one of today has neither
        // tag nor manifest.
        let (first, second) = (digest_of(&manifest(FIRST)), digest_of(&manifest(SECOND)));
        let (epoch, at) = (7, |sequence| Cursor { epoch: 7, sequence });
        assert_ne!(device.feed_position().unwrap().unwrap().epoch, epoch);
        for digest in [&first, &second] {
            root.delete_manifest(&app(), digest, &Origin::Client).await.unwrap();
        }
        device.reconciled(at(5)).await.unwrap();
        let n = names(&["n"]).remove(0);
        let told = [
            Message::Tag { repository: app(), tag: n, digest: Some(first) },
            Message::ManifestDeleted { repository: app(), digest: second },
        ];
        let items = (6..).zip(told).map(|(sequence, message)| Item { sequence, message }).collect();
        device.receive(Batch { from: at(5), through: at(7), items }).await.unwrap();
        push(device, &["waits"], THIRD).await;

        engine.begin_once().await.unwrap();
        engine.pull_once().await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "n"), Some(digest_of(&manifest(SECOND))));
            assert_eq!(named(store, "waits"), Some(digest_of(&manifest(THIRD))));
            assert!(has(store, FIRST), "by its digest");
        }
        assert!(device.conflicts(99).unwrap().is_empty());
    });
}

/// The parent has lost the only tag that the device pushed, and has another feed.
async fn loses_its_parent(tree: &Tree, engine: &Engine) {
    let (root, device) = (&tree.world.root, &tree.world.device());
    push(device, &["v1"], FIRST).await;
    rest(tree, engine).await;
    let digest = digest_of(&manifest(FIRST));
    root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
    device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
}

#[test]
fn f201_f130_what_is_moved_while_a_replaced_parent_is_compared_goes_up() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        loses_its_parent(tree, engine).await;
        engine.begin_once().await.unwrap();
        push(device, &["v1"], SECOND).await;
        compare_while_delivering(tree, engine).await;
        tree.world.is_cut.store(false, Ordering::Relaxed);
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "v1"), Some(digest_of(&manifest(SECOND))));
        }
        assert!(device.conflicts(99).unwrap().is_empty());
    });
}

#[test]
fn f201_a_parent_that_is_replaced_while_a_session_goes_on_is_offered_what_it_lacks() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        loses_its_parent(tree, engine).await;
        engine.pull_once().await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "v1"), Some(digest_of(&manifest(FIRST))));
        }
    });
}

#[test]
fn f201_what_a_replaced_parent_lacks_stays_where_it_may_not_be_pushed() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        loses_its_parent(tree, engine).await;
        let map = device.self_config().unwrap().unwrap().sync_token.scope_map;
        let write = |add: bool| {
            let grants = ["content/write", "content/delete"]
                .map(|action| format!("repositories/{}/{action}", app()).parse().unwrap());
            let (add, remove) =
                if add { (grants.to_vec(), Vec::new()) } else { (Vec::new(), grants.to_vec()) };
            let grants = Change::Delta { add, remove };
            root.scope_map_update(map.clone(), ScopeMapUpdate { grants, description: None })
        };
        write(false).await.unwrap();
        engine.begin_once().await.unwrap();
        engine.pull_once().await.unwrap();
        rest(tree, engine).await;
        let first = digest_of(&manifest(FIRST));
        assert_eq!((named(device, "v1"), named(root, "v1")), (Some(first.clone()), None));
        write(true).await.unwrap();
        rest(tree, engine).await;
        assert_eq!(named(root, "v1"), Some(first));
    });
}

#[test]
fn f204_a_comparison_asks_for_no_more_than_so_many_children_that_indexes_lack() {
    in_tree(async |tree, engine| {
        let device = &tree.world.device();
        let lacked: Vec<u64> = (100..500).collect();
        for store in [&tree.world.root, device] {
            let sparse = (index(&lacked), media::OCI_INDEX);
            put(store, &app(), &names(&["sparse"]), sparse, Origin::Parent).await;
        }
        device.request_reconcile().await.unwrap();
        let before = tree.world.requests.load(Ordering::Relaxed);
        engine.pull_once().await.unwrap();
        let asked = tree.world.requests.load(Ordering::Relaxed) - before;
        assert!((256..300).contains(&asked), "{asked}");
    });
}

/// The parent has had a push of this device, has listed what it has, and is restored to before.
#[test]
fn f201_a_parent_that_is_restored_during_a_comparison_is_not_taken_for_the_one_before() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        engine.begin_once().await.unwrap();
        device.request_reconcile().await.unwrap();
        let digest = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
        tree.world.started_anew.store(true, Ordering::Relaxed);
        let pulled = engine.pull_once().await;
        assert_eq!(pulled, Err(UpstreamError::StartedAnew.into()));
        push(device, &["v1"], SECOND).await;
        let pushed = engine.push_once().await;
        assert_eq!(pushed, Err(UpstreamError::StartedAnew.into()), "nor is it told anything");
        assert_eq!(named(device, "v1"), Some(digest_of(&manifest(SECOND))));
        engine.begin_once().await.unwrap();
        engine.push_once().await.unwrap();
    });
}

/// The first comparison has not ended, and the parent, which has had a push, is another one.
#[test]
fn f201_a_parent_that_is_replaced_before_the_first_comparison_ended_is_offered_what_it_lacks() {
    let spawner = Spawner::new();
    boxed(&spawner, async {
        let tree = tree(spawner.clone(), 1).await;
        let engine = tree.start().await;
        engine.begin_once().await.unwrap();
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        engine.push_once().await.unwrap();
        let digest = digest_of(&manifest(FIRST));
        assert_eq!(named(root, "v1"), Some(digest.clone()));
        root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
        assert_eq!(device.feed_position().unwrap(), None);
        device.note_parent(7, None).await.unwrap();
        engine.begin_once().await.unwrap();
        rest(&tree, &engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "v1"), Some(digest.clone()));
        }
    });
}

#[test]
fn f201_a_parent_that_is_behind_what_it_told_is_offered_what_it_lacks() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        let digest = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
        let Cursor { epoch, sequence } = root.head();
        device.reconciled(Cursor { epoch, sequence: sequence + 1 }).await.unwrap();
        engine.begin_once().await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "v1"), Some(digest.clone()));
        }
    });
}

/// A snapshot keeps the epoch, and the parent has gone on since it was set back to that.
#[test]
fn f201_a_parent_that_was_set_back_and_went_on_is_offered_what_it_lacks() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        engine.begin_once().await.unwrap();
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        let digest = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
        let head = root.head();
        // What the device knows of the start before is from later than that start got.
        tree.world.started_anew.store(true, Ordering::Relaxed);
        device.reconciled(Cursor { sequence: head.sequence + 3, ..head }).await.unwrap();
        root.note_start("n1").await.unwrap();
        for number in [SECOND, THIRD, SECOND, THIRD] {
            push(root, &["other"], number).await;
        }
        assert!(device.feed_position().unwrap().unwrap().sequence <= root.head().sequence);
        engine.begin_once().await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "v1"), Some(digest.clone()));
            assert_eq!(named(store, "other"), Some(digest_of(&manifest(THIRD))));
        }
    });
}

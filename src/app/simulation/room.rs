//! What does not fit on the disk of the device, cannot be written there, or not be read.

use std::path::Path;

use super::between::{hook, put_without_bytes, unhook};
use super::scenarios::{FIRST, SECOND, THIRD, app, has, in_tree, named, names, push, rest};
use super::*;
use crate::store::content::leases::Lease;
use crate::store::gc::GcOptions;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::sys::Disk;
use crate::sys::clock::within;
use crate::types::Change;

const GIB: u64 = 1 << 30;

/// Long enough for all that needs no pause.
const SOON: Duration = Duration::from_secs(10);

/// An image that names layers of so many bytes; the device has 32 GiB free.
async fn push_huge(root: &Store, tag: &str, layers: &[u64]) {
    let mut described = Vec::new();
    for (number, size) in layers.iter().enumerate() {
        let digest = digest_of(format!("{tag} {number}").as_bytes());
        if !root.blob_linked(&app(), &digest).unwrap() {
            root.link_blob(&app(), &Lease::unseen(&digest), *size).await.unwrap();
        }
        described.push(format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":{size}}}"#));
    }
    let text = String::from_utf8(manifest(FIRST)).unwrap();
    let layers = format!("\"layers\":[{}]", described.join(","));
    let huge = (text.replace("\"layers\":[]", &layers).into_bytes(), media::OCI_MANIFEST);
    let stored = put(root, &app(), &names(&[tag]), huge, Origin::Client).await;
    assert_eq!(stored, PutOutcome::Stored);
}

/// What the device reports of its disk.
fn disk_error(device: &Store) -> Option<String> {
    let problems = device.sync_view().problems.clone().into_iter();
    problems.filter(|problem| problem.code == "DiskError").map(|p| p.description).next()
}

async fn pull(engine: &Engine) {
    within(SOON, engine.pull_once()).await.expect("nothing is waited for").unwrap();
}

#[test]
fn f210_one_image_that_does_not_fit_holds_up_no_other_repository() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        // Each layer alone would fit.
        push_huge(root, "huge", &[20 * GIB, 20 * GIB]).await;
        let tag: Tag = "small".parse().unwrap();
        store_push(root, &repository(1), std::slice::from_ref(&tag), SECOND, Origin::Client).await;
        hook(&tree.world, async |_, call, _| {
            assert!(!call.contains("Get /v2/app0/blobs/"), "{call}");
            false
        });
        pull(engine).await;
        let second = digest_of(&manifest(SECOND));
        assert_eq!(device.tag(&repository(1), &tag).unwrap(), Some(second));
        assert_eq!(named(device, "huge"), None);
        assert_eq!(device.inbox(9).unwrap(), []);
        let told = disk_error(device).unwrap();
        assert!(told.contains("40960.0 MiB for the content"), "{told}");
        assert!(device.sync_view().without_space.contains(&app()));
        assert!(!device.below_reserve());
        // It is not wanted any more.
        let huge = named(root, "huge").unwrap();
        root.delete_manifest(&app(), &huge, &Origin::Client).await.unwrap();
        pull(engine).await;
        assert_eq!(disk_error(device), None);
        assert!(device.sync_view().without_space.is_empty());
    });
}

#[test]
fn f210_one_image_that_does_not_fit_holds_up_no_other_tag_of_a_comparison() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push_huge(root, "a-huge", &[40 * GIB]).await;
        for number in 0..20 {
            push(root, &[&format!("b{number}")], FIRST).await;
        }
        push(root, &["z-small"], SECOND).await;
        device.mark_synced(&app(), false).await.unwrap();
        device.request_reconcile().await.unwrap();
        pull(engine).await;
        assert_eq!(named(device, "z-small"), named(root, "z-small"));
        assert!(disk_error(device).is_some());
        assert!(!device.is_synced(&app()).unwrap(), "not all of it");
        assert!(!device.reconcile_due().unwrap(), "nothing is compared again");
    });
}

/// A client pushes while the listing is on its way: what the parent has counts then, tag by tag.
#[test]
fn f210_what_did_not_fit_is_not_forgotten_by_the_comparison_that_found_it() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push_huge(root, "huge", &[40 * GIB]).await;
        device.request_reconcile().await.unwrap();
        hook(&tree.world, async |world, call, status| {
            if status == 0 && call.contains("/repositories/app0") {
                *world.hook.lock().unwrap() = None;
                push(&world.device(), &["client"], SECOND).await;
            }
            false
        });
        pull(engine).await;
        assert!(named(device, "client").is_some() && named(device, "huge").is_none());
        assert!(disk_error(device).is_some(), "it is owed");
    });
}

/// A manifest may name any length: that is no fault of the disk.
#[test]
fn f204_f210_an_image_that_names_another_length_than_its_layer_has_is_no_want_of_space() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        let layer = digest_of(b"liar 0");
        let lease = root.blob_put(&layer, b"liar 0".to_vec()).await.unwrap();
        root.link_blob(&app(), &lease, 6).await.unwrap();
        push_huge(root, "liar", &[40 * GIB]).await;
        pull(engine).await;
        let told = device.sync_view().problems.clone();
        assert_eq!((told.len(), told[0].code.as_str()), (1, "SyncIncomplete"), "{told:?}");
        assert!(told[0].description.contains("has 6 bytes at the parent"), "{told:?}");
    });
}

/// The grant is gone when the parent is asked how long the layer is.
#[test]
fn f204_f210_what_does_not_fit_is_a_want_of_space_though_the_parent_does_not_tell_its_length() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push_huge(root, "huge", &[40 * GIB]).await;
        hook(&tree.world, async |world, call, status| {
            if status == 0 && call.starts_with("Head /v2/app0/blobs/") {
                unhook(&world);
                let map = world.device().self_config().unwrap().unwrap().sync_token.scope_map;
                let read = format!("repositories/{}/content/read", app()).parse().unwrap();
                let grants = Change::Delta { add: Vec::new(), remove: vec![read] };
                let update = ScopeMapUpdate { grants, description: None };
                world.root.scope_map_update(map, update).await.unwrap();
            }
            false
        });
        pull(engine).await;
        assert!(tree.world.hook.lock().unwrap().is_none(), "it was asked");
        assert!(disk_error(device).unwrap().contains("40960.0 MiB for the content"));
    });
}

#[test]
fn f210_below_the_reserve_deletions_are_followed_and_the_rest_comes_as_soon_as_there_is_space() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        pull(engine).await;
        tree.disk.set_below_reserve(true);
        // What the device knows of its space is up to a second old.
        tree.hands.0.fetch_add(2, Ordering::Relaxed);
        push(root, &["v2"], SECOND).await;
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        hook(&tree.world, async |_, call, _| {
            assert!(!call.contains("Get /v2/app0/"), "{call}");
            false
        });
        for compare in [false, true] {
            if compare {
                device.request_reconcile().await.unwrap();
            }
            pull(engine).await;
            assert!(!has(device, FIRST) && named(device, "v2").is_none());
            assert!(disk_error(device).unwrap().contains("0.0 MiB free"));
            assert_eq!((device.inbox(9).unwrap(), device.reconcile_due()), (vec![], Ok(false)));
        }
        *tree.world.hook.lock().unwrap() = None;
        tree.disk.set_below_reserve(false);
        tree.hands.0.fetch_add(2, Ordering::Relaxed);
        pull(engine).await;
        assert_eq!((named(device, "v2"), disk_error(device)), (named(root, "v2"), None));
    });
}

/// The device has these images, and has lost the bytes of their manifests.
async fn lose(tree: &Tree, engine: &Engine, numbers: &[u64]) {
    let (root, device) = (&tree.world.root, &tree.world.device());
    for number in numbers {
        push(root, &[&format!("v{number}")], *number).await;
    }
    engine.pull_once().await.unwrap();
    for number in numbers {
        let digest = digest_of(&manifest(*number));
        let path = format!("/s/blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex());
        tree.disk.remove(Path::new(&path)).unwrap();
    }
    device.scrub(u64::MAX).await.unwrap();
    assert_eq!(device.damaged_count(), numbers.len());
}

#[test]
fn f204_content_that_cannot_be_healed_does_not_hold_up_other_content() {
    in_tree(async |tree, engine| {
        lose(tree, engine, &[FIRST, SECOND]).await;
        let device = &tree.world.device();
        // The disk cannot write the first one.
        tree.disk.fail_at(tree.disk.calls() + 1);
        engine.heal_once().await.unwrap();
        assert!(tree.disk.struck().is_some());
        assert_eq!(device.damaged_count(), 1, "the other one is whole");
        engine.heal_once().await.unwrap();
        assert_eq!(device.damaged_count(), 0);
    });
}

#[test]
fn f204_healing_goes_on_where_it_was_when_the_parent_takes_requests_again() {
    in_tree(async |tree, engine| {
        lose(tree, engine, &[FIRST, SECOND, THIRD]).await;
        let (asked, refused) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let calls = asked.clone();
        // The parent answers nothing when it is asked for the second one, and for a while.
        hook(&tree.world, move |world, call, status| {
            let mut calls = calls.lock().unwrap();
            if status == 0 && call.contains("Get /v2/app0/manifests/") {
                calls.push(call);
            }
            if status == 0 && calls.len() > 1 {
                let is_cut = refused.fetch_add(1, Ordering::Relaxed) < 2;
                world.is_cut.store(is_cut, Ordering::Relaxed);
            }
            std::future::ready(false)
        });
        engine.heal_once().await.unwrap();
        assert_eq!(tree.world.device().damaged_count(), 0);
        let mut asked = asked.lock().unwrap().clone();
        assert!(asked.len() > 3, "{asked:?}");
        asked.dedup();
        assert_eq!(asked.len(), 3, "each until it is here: {asked:?}");
    });
}

/// A while is waited for the first: its content may come back.
#[test]
fn f204_many_images_that_are_not_readable_here_hold_up_no_other_for_long() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        for (number, tag) in [(FIRST, "a"), (SECOND, "b"), (THIRD, "c")] {
            put_without_bytes(device, &[tag], number).await;
        }
        push(device, &["good"], THIRD + 1).await;
        let mut rounds = 0;
        while named(root, "good").is_none() {
            engine.push_once().await.unwrap();
            tree.hands.0.fetch_add(16, Ordering::Relaxed);
            rounds += 1;
            assert!(rounds < 8, "each is waited for");
        }
    });
}

/// The parent collects garbage between the content of a push and its manifest, so many times.
fn collects(world: &World, times: u64) {
    let left = Arc::new(AtomicU64::new(times));
    hook(world, move |world, call, status| {
        let left = left.clone();
        async move {
            let is_put = status == 0 && call == "Put /v2/app0/manifests/v1";
            if is_put && left.load(Ordering::Relaxed) > 0 {
                left.fetch_sub(1, Ordering::Relaxed);
                world.root.unlink_blob(&app(), &digest_of(CONFIG)).await.unwrap();
            }
            false
        }
    });
}

/// Symptom: an image whose delivery took longer than the grace of the parent's collection was set
/// aside for an hour at once.
#[test]
fn f204_f206_a_push_whose_content_did_not_stay_at_the_parent_is_brought_again_a_few_times() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        // Each attempt puts the manifest twice, and there are four.
        collects(&tree.world, 7);
        push(device, &["v1"], FIRST).await;
        store_push(device, &repository(1), &names(&["v1"]), FIRST, Origin::Client).await;
        for _ in 0..4 {
            engine.push_once().await.unwrap();
            assert_eq!(root.tags(&repository(1), None, 9).unwrap().len(), 1, "the others go on");
            assert_eq!(device.refused_changes(9).unwrap(), []);
            tree.hands.0.fetch_add(15, Ordering::Relaxed);
        }
        assert_eq!(named(root, "v1"), Some(digest_of(&manifest(FIRST))));
        assert_eq!(device.outbox(9).unwrap(), []);
    });
}

#[test]
fn f204_f206_a_push_whose_content_never_stays_at_the_parent_is_set_aside() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        collects(&tree.world, u64::MAX);
        push(device, &["v1"], FIRST).await;
        push(device, &["v2"], SECOND).await;
        for _ in 0..6 {
            engine.push_once().await.unwrap();
            tree.hands.0.fetch_add(15, Ordering::Relaxed);
        }
        let refused = device.refused_changes(9).unwrap();
        assert!(refused[0].1.reason.contains("content_missing"), "{refused:?}");
        assert_eq!(named(root, "v2"), Some(digest_of(&manifest(SECOND))), "the others go on");
        // Nothing waits for the next one.
        push(device, &["v3"], SECOND).await;
        push(device, &["v1"], THIRD).await;
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "v3"), Some(digest_of(&manifest(SECOND))));
        assert_eq!(named(root, "v1"), None);
        *tree.world.hook.lock().unwrap() = None;
        rest(tree, engine).await;
        assert_eq!(named(root, "v1"), Some(digest_of(&manifest(THIRD))));
        assert_eq!(
            (device.outbox(9).unwrap(), device.refused_changes(9).unwrap()),
            (vec![], vec![])
        );
    });
}

/// Symptom: layers that had come of an image whose rest was owed were collected when the device was
/// restarted between two sync windows, and were fetched again.
#[test]
fn f204_f206_what_was_owed_before_a_start_holds_collections_back_until_it_is_known_again() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        let options = GcOptions { grace: SOON, untagged: None, dry_run: false };
        let waits = async || device.collect_garbage(options).await.unwrap().waits_for_sync;
        put_without_bytes(root, &["v1"], FIRST).await;
        engine.pull_once().await.unwrap();
        assert!(device.debts_noted().unwrap());
        assert!(!waits().await, "what has come is kept in memory");
        let engine = tree.start().await;
        assert_eq!((device.reconcile_due(), device.inbox(1)), (Ok(false), Ok(vec![])));
        assert!(waits().await, "only the disk tells that something is owed");
        let text = device.why_it_waits_for_sync().unwrap();
        assert!(text.contains("content was missing when this node stopped"), "{text}");
        // The parent may never have it again, which must not end collections for ever.
        engine.pull_once().await.unwrap();
        assert!(device.debts_noted().unwrap() && named(device, "v1").is_none());
        assert!(!waits().await, "it is known again what is owed");
    });
}

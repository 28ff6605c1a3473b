//! What a full comparison follows of what the parent has deleted.

use std::sync::atomic::AtomicUsize;

use super::between::{hook, loses, set_back, unhook, write_grants};
use super::scenarios::{
    FIRST, SECOND, THIRD, app, has, in_tree, named, names, push, referrer, rest,
};
use super::*;
use crate::types::{Cursor, Grant};

/// An index, tagged `multi`, and the two images that it names.
async fn push_index(store: &Store) {
    for number in [FIRST, SECOND] {
        push(store, &[], number).await;
    }
    push(store, &["multi"], MANIFESTS).await;
}

/// The root is replaced by one that lacks that index and what it names, and the device compares.
async fn lose_index(tree: &Tree, engine: &Engine) {
    for number in [MANIFESTS, FIRST, SECOND] {
        let lost = digest_of(&manifest(number));
        tree.world.root.delete_manifest(&app(), &lost, &Origin::Client).await.unwrap();
    }
    tree.world.device().reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
    engine.begin_once().await.unwrap();
    engine.pull_once().await.unwrap();
}

/// Symptom: a child of an index that was deleted at the root stayed at a device for good, where
/// other grants had made a comparison due before the device heard of it. Cause: the comparison took
/// the place of the message, and left out whatever an index names.
#[test]
fn f119_a_comparison_follows_the_deletion_of_what_an_index_names() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push_index(root).await;
        engine.pull_once().await.unwrap();
        assert!(has(device, FIRST) && has(device, MANIFESTS));
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        device.request_reconcile().await.unwrap();
        engine.pull_once().await.unwrap();
        assert!(!has(device, FIRST) && has(device, MANIFESTS));
    });
}

/// Symptom: an index never came to a device, newly granted or wiped, once the root had deleted one
/// of its manifests; the devices that had it kept it. Cause: what is not there counted as what is
/// yet to come.
#[test]
fn f119_an_index_comes_without_what_the_parent_has_deleted_of_it() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push_index(root).await;
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        // A parent that is not whole itself may have it yet.
        hook(&tree.world, async |_, _, status| status == 404);
        engine.pull_once().await.unwrap();
        assert_eq!(named(device, "multi"), None);
        unhook(&tree.world);
        tree.hands.0.fetch_add(3600, Ordering::Relaxed);
        engine.pull_once().await.unwrap();
        assert_eq!(named(device, "multi"), Some(digest_of(&manifest(MANIFESTS))));
        assert!(has(device, SECOND) && !has(device, FIRST));
        assert!(device.is_synced(&app()).unwrap());
    });
}

/// Symptom: what the root deleted stayed at the nodes below a device for as long as that lacked one
/// image of the repository, and came back at the root when that device was replaced. Cause: the
/// comparison took the place of the messages, and what is not there counted as what is yet to come.
#[test]
fn f119_f204_a_comparison_follows_what_a_parent_that_is_not_whole_has_told() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        for (tag, number) in [("v1", FIRST), ("v2", SECOND), ("v3", THIRD)] {
            push(root, &[tag], number).await;
        }
        engine.pull_once().await.unwrap();
        let v2 = names(&["v2"]).remove(0);
        root.delete_manifest(&app(), &digest_of(&manifest(FIRST)), &Origin::Client).await.unwrap();
        root.delete_tag(&app(), &v2, Precondition::None, &Origin::Client).await.unwrap();
        // It is not whole, and has told of no removal of what it lacks beside.
        hook(&tree.world, async |_, call, status| {
            status == 404 || (status == 200 && call.contains("/repositories/app0"))
        });
        device.request_reconcile().await.unwrap();
        engine.pull_once().await.unwrap();
        assert_eq!(["v1", "v2"].map(|tag| named(device, tag)), [None, None]);
        assert!(!has(device, FIRST) && has(device, SECOND) && has(device, THIRD));
    });
}

/// Symptom: a child of an index that was deleted at the root while the repository was withdrawn
/// from a ReadWrite device, or before a parent was replaced, stayed at the device for good.
#[test]
fn f119_a_comparison_finds_what_the_parent_has_deleted_whatever_names_it() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push_index(root).await;
        engine.pull_once().await.unwrap();
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        // No message tells of it.
        device.reconciled(root.head()).await.unwrap();
        device.request_reconcile().await.unwrap();
        engine.pull_once().await.unwrap();
        assert!(!has(device, FIRST) && has(device, SECOND) && has(device, MANIFESTS));
    });
}

/// Both sides have more tags than are compared at once, and other ones.
#[test]
fn f119_f209_a_comparison_goes_through_all_tags_and_removes_before_it_fetches() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["a1", "a2", "a3", "b1", "b2", "b3", "z1"], FIRST).await;
        engine.pull_once().await.unwrap();
        for gone in names(&["a2", "b3", "z1"]) {
            root.delete_tag(&app(), &gone, Precondition::None, &Origin::Client).await.unwrap();
        }
        push(root, &["a0", "b2", "c1", "c2", "c3"], SECOND).await;
        device.request_reconcile().await.unwrap();
        let fetched = Arc::new(Mutex::new(Vec::new()));
        let seen = fetched.clone();
        hook(&tree.world, move |world, call, status| {
            if status == 0 && call.starts_with("Get /v2/app0/manifests/") {
                seen.lock().unwrap().push(named(&world.device(), "z1"));
            }
            async { false }
        });
        engine.pull_once().await.unwrap();
        unhook(&tree.world);
        assert_eq!(*fetched.lock().unwrap(), [None], "once, when the last tag was gone");
        let tags = |store: &Store| -> Vec<_> {
            let rows = store.tags(&app(), None, 99).unwrap().into_iter();
            rows.map(|(tag, row)| (tag, row.digest)).collect()
        };
        assert_eq!(tags(device), tags(root));
        assert!(device.is_synced(&app()).unwrap());
    });
}

/// Does something when so many listings were asked for, with whether it was.
fn at_listing<F>(
    world: &World,
    number: usize,
    run: impl Fn(Arc<World>) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let asked = AtomicUsize::new(0);
    hook(world, move |world, call, status| {
        let is_listing = status == 0 && call.ends_with("/repositories/app0");
        let is_it = is_listing && asked.fetch_add(1, Ordering::Relaxed) + 1 == number;
        let done = is_it.then(|| {
            unhook(&world);
            run(world)
        });
        async {
            if let Some(done) = done {
                done.await;
            }
            false
        }
    });
}

/// The root grants pushes, or takes the grant away, and the device has heard of it.
async fn give_grants(world: &World, add: bool, version: &str) {
    write_grants(world, add).await;
    let mut config = world.device().self_config().unwrap().unwrap();
    let own = config.sync_token.scope_map.clone();
    let own = config.scope_maps.iter_mut().find(|map| map.name == own).unwrap();
    own.grants = world.root.scope_map(&own.name).unwrap().unwrap().grants;
    let pushes: Grant = format!("repositories/{}/content/write", app()).parse().unwrap();
    assert_eq!(own.grants.contains(&pushes), add);
    world.device().receive_config(config, version.to_owned()).await.unwrap();
}

/// Symptom: of the tags that a set-back parent had lost, one that was moved while its device might
/// not push was nowhere in the end: the push met a parent without the tag before the comparison
/// had offered it, and was taken for a conflict.
#[test]
fn f201_f130_a_tag_that_was_kept_and_moved_goes_up_once_it_may() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["t1"], FIRST).await;
        loses(tree, engine, &digest_of(&manifest(FIRST))).await;
        push(device, &["t1"], SECOND).await;
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "t1"), None, "refused");
        give_grants(&tree.world, true, "granted").await;
        // Before anything is compared.
        engine.push_once().await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "t1"), Some(digest_of(&manifest(SECOND))));
            assert_eq!(store.tags(&app(), None, 9).unwrap().len(), 1, "no conflict");
        }
    });
}

/// Symptom: a grant was away for a second while hundreds of pushes went up. Those that were refused
/// then waited for an hour, because the desired state was the one before when the next round began.
#[test]
fn f204_what_is_refused_while_a_grant_is_away_goes_up_when_it_is_back() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        engine.begin_once().await.unwrap();
        let before = device.self_config_version().unwrap().unwrap();
        push(device, &["v1"], FIRST).await;
        hook(&tree.world, async |world, call, status| {
            if status == 0 && call.starts_with("Put /v2/app0/manifests/") {
                unhook(&world);
                give_grants(&world, false, "away").await;
            }
            false
        });
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "v1"), None, "refused");
        give_grants(&tree.world, true, &before).await;
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "v1"), Some(digest_of(&manifest(FIRST))));
    });
}

/// Symptom: a grant to push that came while a repository was compared made a device forget which
/// tags it kept for a parent that had lost them, and the next comparison removed them.
#[test]
fn f201_a_grant_that_comes_during_a_comparison_loses_no_tag_that_was_kept() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["b1", "b2", "b3"], SECOND).await;
        push(device, &["a1"], FIRST).await;
        let first = digest_of(&manifest(FIRST));
        loses(tree, engine, &first).await;
        device.request_reconcile().await.unwrap();
        at_listing(&tree.world, 2, async |world: Arc<World>| {
            give_grants(&world, true, "granted").await;
        });
        engine.pull_once().await.unwrap();
        assert!(tree.world.hook.lock().unwrap().is_none());
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "a1"), Some(first.clone()));
        }
        assert!(!device.withholds(&app()).unwrap());
    });
}

/// What was kept without a tag, and the parent has again, is followed like anything else: of a
/// referrer a message may tell, of others only a comparison.
#[test]
fn f201_a_manifest_that_the_parent_has_again_is_withheld_no_more() {
    let told = [(referrer().0, true), (referrer().0, false), (manifest(FIRST), false)];
    for (bytes, is_told) in told {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            let (digest, what) = (digest_of(&bytes), || (bytes.clone(), media::OCI_MANIFEST));
            push(device, &["v1"], SECOND).await;
            put(device, &app(), &[], what(), Origin::Client).await;
            loses(tree, engine, &digest).await;
            put(root, &app(), &[], what(), Origin::Client).await;
            if !is_told {
                device.reconciled(root.head()).await.unwrap();
                device.request_reconcile().await.unwrap();
            }
            engine.pull_once().await.unwrap();
            assert!(device.withheld(&app()).await.unwrap().is_empty(), "told: {is_told}");
            root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
            engine.pull_once().await.unwrap();
            assert_eq!(device.manifest(&app(), &digest).unwrap(), None);
        });
    }
}

/// Symptom: a tag that was kept, came at the parent with another image and was removed there took
/// along what it names here, which the parent had lost.
#[test]
fn f201_what_a_kept_tag_names_goes_up_also_when_others_have_removed_the_tag() {
    // By messages or by a comparison, and the grant comes later; or with the grant.
    for (is_heard, is_compared) in [(true, false), (true, true), (false, true)] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["t1"], FIRST).await;
            loses(tree, engine, &digest_of(&manifest(FIRST))).await;
            push(root, &["t1"], THIRD).await;
            let t1 = names(&["t1"]).remove(0);
            root.delete_tag(&app(), &t1, Precondition::None, &Origin::Client).await.unwrap();
            if is_compared {
                device.request_reconcile().await.unwrap();
            }
            if is_heard {
                engine.pull_once().await.unwrap();
                assert_eq!(named(device, "t1"), None);
                assert!(has(device, FIRST), "it may be nowhere else");
            }
            write_grants(&tree.world, true).await;
            rest(tree, engine).await;
            for store in [root, device] {
                assert_eq!((named(store, "t1"), has(store, FIRST)), (None, true), "{is_heard}");
            }
        });
    }
}

/// Symptom: what a kept tag names came to the parent without the tag, and took the tag along when
/// it was deleted there.
#[test]
fn f201_a_kept_tag_does_not_go_with_a_manifest_that_the_parent_had_without_it() {
    for is_compared in [false, true] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["t1"], FIRST).await;
            let first = digest_of(&manifest(FIRST));
            loses(tree, engine, &first).await;
            let what = (manifest(FIRST), media::OCI_MANIFEST);
            put(root, &app(), &names(&["t2"]), what, Origin::Client).await;
            engine.pull_once().await.unwrap();
            assert_eq!(named(device, "t2"), Some(first.clone()));
            root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
            if is_compared {
                // No message tells of it.
                device.reconciled(root.head()).await.unwrap();
                device.request_reconcile().await.unwrap();
            }
            engine.pull_once().await.unwrap();
            assert_eq!(named(device, "t2"), None, "{is_compared}");
            assert_eq!(named(device, "t1"), Some(first.clone()), "{is_compared}");
            assert!(device.is_synced(&app()).unwrap());
            write_grants(&tree.world, true).await;
            rest(tree, engine).await;
            for store in [root, device] {
                let there = ["t1", "t2"].map(|tag| named(store, tag));
                assert_eq!(there, [Some(first.clone()), None], "{is_compared}");
            }
        });
    }
}

/// Symptom: what was removed at a new parent, after a device had met it and before it had compared
/// the repository, rose again there. Cause: a comparison of one repository heard nothing, and what
/// messages told was on no disk.
#[test]
fn f201_what_a_new_parent_removes_before_it_is_compared_does_not_rise() {
    // Before the repository is compared the device hears of it, or does not, or is started anew.
    for (is_heard, is_started_anew) in [(false, false), (true, false), (true, true)] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["t1"], FIRST).await;
            push(device, &[], SECOND).await;
            rest(tree, engine).await;
            device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
            engine.begin_once().await.unwrap();
            hook(&tree.world, async |_, call, status| {
                status == 200 && call.ends_with("/repositories/app0")
            });
            engine.pull_once().await.unwrap();
            unhook(&tree.world);
            assert!(device.is_offered(&app()).unwrap());
            let t1 = names(&["t1"]).remove(0);
            root.delete_tag(&app(), &t1, Precondition::None, &Origin::Client).await.unwrap();
            let second = digest_of(&manifest(SECOND));
            if !is_started_anew {
                root.delete_manifest(&app(), &second, &Origin::Client).await.unwrap();
            }
            if is_heard {
                engine.pull_once().await.unwrap();
                assert_eq!(named(device, "t1"), None);
            }
            let anew = tree.start().await;
            let engine = if is_started_anew { &anew } else { engine };
            tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
            rest(tree, engine).await;
            assert!(!device.is_offered(&app()).unwrap(), "it was compared");
            rest(tree, engine).await;
            for store in [root, device] {
                let there = (named(store, "t1"), has(store, FIRST), has(store, SECOND));
                assert_eq!(there, (None, true, is_started_anew), "{is_heard} {is_started_anew}");
            }
        });
    }
}

/// Symptom: an index that was kept could never go up again, because one of its images had come to
/// the parent in another way, and was deleted there.
#[test]
fn f201_f206_what_a_kept_index_needs_stays_with_it() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push_index(device).await;
        rest(tree, engine).await;
        write_grants(&tree.world, false).await;
        rest(tree, engine).await;
        lose_index(tree, engine).await;
        push(root, &["t2"], FIRST).await;
        engine.pull_once().await.unwrap();
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        engine.pull_once().await.unwrap();
        assert!(has(device, FIRST) && named(device, "multi").is_some());
        write_grants(&tree.world, true).await;
        rest(tree, engine).await;
        for store in [root, device] {
            let index = Some(digest_of(&manifest(MANIFESTS)));
            assert_eq!((named(store, "multi"), has(store, FIRST)), (index, true));
        }
    });
}

/// What the parent got from others and deleted, while this node might not push, does not rise.
#[test]
fn f201_what_was_kept_and_is_deleted_at_the_parent_goes() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["t1"], FIRST).await;
        let first = digest_of(&manifest(FIRST));
        loses(tree, engine, &first).await;
        push(root, &["t1"], FIRST).await;
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        engine.pull_once().await.unwrap();
        write_grants(&tree.world, true).await;
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!((named(store, "t1"), has(store, FIRST)), (None, false));
        }
    });
}

#[test]
fn f201_a_manifest_that_was_kept_goes_up_once_it_may() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], SECOND).await;
        push(device, &[], FIRST).await;
        loses(tree, engine, &digest_of(&manifest(FIRST))).await;
        write_grants(&tree.world, true).await;
        rest(tree, engine).await;
        assert!(has(root, FIRST) && !device.withholds(&app()).unwrap());
    });
}

/// Symptom: what an index names that a replaced parent lacked was not offered by itself, and went
/// with the index when that was deleted before it had gone up.
#[test]
fn f201_what_an_offered_index_names_stays_when_the_index_is_deleted() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push_index(device).await;
        rest(tree, engine).await;
        lose_index(tree, engine).await;
        let index = digest_of(&manifest(MANIFESTS));
        device.delete_manifest(&app(), &index, &Origin::Client).await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            let there = [FIRST, SECOND, MANIFESTS].map(|number| has(store, number));
            assert_eq!(there, [true, true, false]);
        }
    });
}

/// Symptom: a comparison that was broken off after a tag had been offered offered it once more,
/// though somebody had removed it at the parent since.
#[test]
fn f201_a_tag_that_was_offered_and_removed_is_not_offered_again() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["b1", "b2", "b3"], SECOND).await;
        push(device, &["a1"], FIRST).await;
        rest(tree, engine).await;
        let (first, a1) = (digest_of(&manifest(FIRST)), names(&["a1"]).remove(0));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
        engine.begin_once().await.unwrap();
        at_listing(&tree.world, 2, async |world: Arc<World>| {
            world.is_cut.store(true, Ordering::Relaxed);
        });
        engine.pull_once().await.unwrap_err();
        tree.world.is_cut.store(false, Ordering::Relaxed);
        engine.begin_once().await.unwrap();
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "a1"), Some(first.clone()), "it went up");
        root.delete_tag(&app(), &a1, Precondition::None, &Origin::Client).await.unwrap();
        rest(tree, engine).await;
        tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        rest(tree, engine).await;
        assert_eq!([root, device].map(|store| named(store, "a1")), [None, None]);
        assert!(has(root, FIRST) && has(device, FIRST));
    });
}

/// Symptom: what the parent had told before it was set back counted afterwards, so that what was
/// pushed again in between was not offered, and was removed here.
#[test]
fn f201_what_a_parent_told_before_it_was_set_back_does_not_count() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["t1"], FIRST).await;
        rest(tree, engine).await;
        let first = digest_of(&manifest(FIRST));
        device.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        engine.push_once().await.unwrap();
        assert!(!has(root, FIRST));
        // A comparison hears of that, and is broken off.
        device.request_reconcile().await.unwrap();
        at_listing(&tree.world, 1, async |world: Arc<World>| {
            world.is_cut.store(true, Ordering::Relaxed);
        });
        engine.pull_once().await.unwrap_err();
        tree.world.is_cut.store(false, Ordering::Relaxed);
        let copied = root.sequence();
        push(device, &["t1"], FIRST).await;
        engine.begin_once().await.unwrap();
        engine.push_once().await.unwrap();
        assert_eq!(named(root, "t1"), Some(first.clone()), "acknowledged");
        set_back(&tree.world, copied, &[FIRST]).await;
        let asked = engine.pull_once().await;
        assert_eq!(asked, Err(crate::gateway::UpstreamError::StartedAnew.into()));
        engine.begin_once().await.unwrap();
        rest(tree, engine).await;
        tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "t1"), Some(first.clone()));
        }
    });
}

/// Of a parent that is not whole no section says that something was deleted.
#[test]
fn f119_a_parent_that_was_not_whole_when_it_was_asked_first_has_deleted_nothing() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["a1", "a2", "a3", "z1"], FIRST).await;
        engine.pull_once().await.unwrap();
        let z1 = names(&["z1"]).remove(0);
        root.delete_tag(&app(), &z1, Precondition::None, &Origin::Client).await.unwrap();
        device.reconciled(root.head()).await.unwrap();
        device.request_reconcile().await.unwrap();
        let answered = AtomicUsize::new(0);
        hook(&tree.world, move |_, call, status| {
            let is_listing = status == 200 && call.ends_with("/repositories/app0");
            let is_first = is_listing && answered.fetch_add(1, Ordering::Relaxed) == 0;
            async move { is_first }
        });
        engine.pull_once().await.unwrap();
        unhook(&tree.world);
        assert!(named(device, "z1").is_some());
        tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        engine.pull_once().await.unwrap();
        assert_eq!(named(device, "z1"), None);
    });
}

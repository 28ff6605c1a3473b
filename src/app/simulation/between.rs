//! What happens between a request to the parent and its answer.

use super::scenarios::{FIRST, SECOND, THIRD, app, has, in_tree, named, names, push, rest};
use super::*;
use crate::gateway::UpstreamError;
use crate::store::content::leases::Lease;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::sys::clock::within;
use crate::types::{Change, Cursor, Delivery, Offered, OutboxId};

/// From now on this happens when a request comes, and when its answer goes.
pub(super) fn hook<F>(
    world: &World,
    run: impl Fn(Arc<World>, String, u16) -> F + Send + Sync + 'static,
) where
    F: Future<Output = bool> + Send + 'static,
{
    *world.hook.lock().unwrap() =
        Some(Arc::new(move |world, call, status| Box::pin(run(world, call, status))));
}

pub(super) fn unhook(world: &World) {
    *world.hook.lock().unwrap() = None;
}

#[test]
fn f118_what_changes_while_a_grant_is_away_for_a_moment_is_followed() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        engine.pull_once().await.unwrap();
        assert!(named(device, "v1").is_some());
        push(root, &["v2"], SECOND).await;
        // Before the device asks what it is granted, that is as before.
        hook(&tree.world, async |world, call, status| {
            let root = &world.root;
            if !call.contains("messages?after") {
                return false;
            }
            if status == 0 {
                grant(root, &app(), false).await;
                let first = digest_of(&manifest(FIRST));
                root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
            } else {
                grant(root, &app(), true).await;
                unhook(&world);
            }
            false
        });
        engine.pull_once().await.unwrap();
        assert!(tree.world.hook.lock().unwrap().is_none());
        engine.pull_once().await.unwrap();
        assert_eq!((named(root, "v1"), named(device, "v1")), (None, None));
        assert_eq!(named(device, "v2"), named(root, "v2"));
    });
}

pub(super) async fn write_grants(world: &World, add: bool) {
    let map = world.device().self_config().unwrap().unwrap().sync_token.scope_map;
    let grants = ["content/write", "content/delete"]
        .map(|action| format!("repositories/{}/{action}", app()).parse().unwrap());
    let (add, remove) =
        if add { (grants.to_vec(), Vec::new()) } else { (Vec::new(), grants.to_vec()) };
    let update = ScopeMapUpdate { grants: Change::Delta { add, remove }, description: None };
    world.root.scope_map_update(map, update).await.unwrap();
}

/// The store has an image, and has lost its bytes.
pub(super) async fn put_without_bytes(store: &Store, tags: &[&str], number: u64) {
    let bytes = manifest(number);
    let put = PutManifest {
        content: Lease::unseen(&digest_of(&bytes)),
        media_type: media::OCI_MANIFEST.to_owned(),
        bytes_len: bytes.len() as u64,
        parsed: Manifest::parse(Some(media::OCI_MANIFEST), &bytes).unwrap(),
        tags: names(tags),
        precondition: Precondition::None,
        required: Required::All,
        origin: Origin::Client,
    };
    assert_eq!(store.put_manifest(&app(), put).await, Ok(PutOutcome::Stored));
}

#[test]
fn f211_what_the_parent_has_lost_is_not_taken_for_deleted() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        put_without_bytes(root, &[], FIRST).await;
        let put = store_push(device, &app(), &[], FIRST, Origin::Parent).await;
        assert_eq!(put, PutOutcome::Stored);
        device.request_reconcile().await.unwrap();
        rest(tree, engine).await;
        assert!(has(device, FIRST), "the only good copy");
    });
}

/// The message tells of the deletion, and the manifest was pushed again since.
#[test]
fn f211_what_the_parent_has_lost_since_it_deleted_it_is_kept() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        rest(tree, engine).await;
        assert!(has(device, FIRST));
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        root.take_back(&first).await;
        put_without_bytes(root, &[], FIRST).await;
        rest(tree, engine).await;
        assert!(has(device, FIRST), "the only good copy");
    });
}

#[test]
fn f204_f130_a_conflict_with_content_that_is_damaged_holds_up_nothing_else() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], SECOND).await;
        push(device, &["v2"], THIRD).await;
        put_without_bytes(root, &["v1"], FIRST).await;
        for _ in 0..9 {
            engine.push_once().await.unwrap();
            tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        }
        assert_eq!(named(root, "v2"), Some(digest_of(&manifest(THIRD))));
        assert_eq!(named(device, "v1"), Some(digest_of(&manifest(SECOND))), "ours, still");
    });
}

/// A deletion or garbage collection there comes between the question and the push: once, or again
/// and again.
#[test]
fn f130_content_that_went_at_the_parent_while_a_push_was_brought_is_brought_again_once() {
    for (tag, goes_again) in [("v1", false), ("v2", true)] {
        in_tree(async move |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &[tag], FIRST).await;
            let tried = Arc::new(AtomicU64::new(0));
            let puts = tried.clone();
            hook(&tree.world, move |world, call, status| {
                let puts = puts.clone();
                async move {
                    if status == 0 && call.contains("Put /v2/app0/manifests/") {
                        let is_first = puts.fetch_add(1, Ordering::Relaxed) == 0;
                        if is_first || goes_again {
                            let _ = world.root.unlink_blob(&app(), &digest_of(CONFIG)).await;
                        }
                    }
                    false
                }
            });
            engine.push_once().await.unwrap();
            assert_eq!(tried.load(Ordering::Relaxed), 2);
            assert_eq!(named(root, tag).is_some(), !goes_again);
            for _ in 0..4 {
                tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
                engine.push_once().await.unwrap();
            }
            assert_eq!(tried.load(Ordering::Relaxed), if goes_again { 10 } else { 2 });
            let refused = device.refused_changes(9).unwrap();
            assert_eq!(refused.len(), usize::from(goes_again), "{refused:?}");
        });
    }
}

/// A parent that took the place of another one, and does not get all of a repository.
#[test]
fn f204_f130_a_parent_that_cannot_tell_holds_up_one_tag_and_takes_it_when_it_can() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        rest(tree, engine).await;
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
        hook(&tree.world, async |_, call, status| {
            status == 404 || (status == 200 && call.contains("/repositories/"))
        });
        push(device, &["v1"], SECOND).await;
        push(device, &["v2"], THIRD).await;
        engine.begin_once().await.unwrap();
        for _ in 0..9 {
            engine.push_once().await.unwrap();
            let _ = engine.pull_once().await;
            tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        }
        assert_eq!(named(root, "v2"), Some(digest_of(&manifest(THIRD))));
        unhook(&tree.world);
        rest(tree, engine).await;
        assert_eq!(named(root, "v1"), Some(digest_of(&manifest(SECOND))));
    });
}

#[test]
fn f201_what_a_device_may_only_read_follows_later_deletions_of_a_restored_parent() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["lost"], FIRST).await;
        push(root, &["y"], SECOND).await;
        rest(tree, engine).await;
        write_grants(&tree.world, false).await;
        let lost = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &lost, &Origin::Client).await.unwrap();
        device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
        engine.begin_once().await.unwrap();
        rest(tree, engine).await;
        push(root, &["z"], THIRD).await;
        rest(tree, engine).await;
        // They are deleted long after, and the device's position is too old by then.
        for number in [SECOND, THIRD] {
            let digest = digest_of(&manifest(number));
            root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
        }
        device.reconciled(root.head()).await.unwrap();
        device.request_reconcile().await.unwrap();
        rest(tree, engine).await;
        assert_eq!((named(device, "y"), named(device, "z")), (None, None));
        assert_eq!(named(device, "lost"), Some(lost.clone()), "it may be nowhere else");
        write_grants(&tree.world, true).await;
        rest(tree, engine).await;
        assert_eq!((named(root, "lost"), named(root, "y")), (Some(lost), None));
    });
}

/// The parent moves a tag twice before it answers with its next listing, and another one so often
/// between that what it tells of the second move is not in the first batch.
fn moves_while_it_lists(tree: &Tree) {
    hook(&tree.world, async |world, call, status| {
        if status == 0 && call.contains("/repositories/app0") {
            unhook(&world);
            push(&world.root, &["v1"], SECOND).await;
            for number in 0..1500 {
                push(&world.root, &["latest"], if number % 2 == 0 { FIRST } else { THIRD }).await;
            }
            push(&world.root, &["v1"], THIRD).await;
        }
        false
    });
}

/// A mirror owes a tag; a retry brings it as it is now, and messages that are older take it away.
#[test]
fn f204_a_mirror_that_paid_a_debt_does_not_lose_it_to_older_messages() {
    let spawner = Spawner::new();
    boxed(&spawner, async {
        let tree = tree(spawner.clone(), READ_ONLY).await;
        let (root, device) = (&tree.world.root, &tree.world.device());
        let engine = tree.start().await;
        engine.pull_once().await.unwrap();
        // It cannot be had yet: the parent has lost its bytes.
        put_without_bytes(root, &["v1"], FIRST).await;
        engine.pull_once().await.unwrap();
        assert!(device.debts_noted().unwrap() && named(device, "v1").is_none());
        // The operator deletes it, and pushes it again.
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        push(root, &["v1"], FIRST).await;
        tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        // The debt is paid before the poll; after that the link breaks.
        let paid = Arc::new(AtomicBool::new(false));
        let seen = paid.clone();
        hook(&tree.world, move |world, call, status| {
            let seen = seen.clone();
            async move {
                if status != 0 && call.contains("messages?after") {
                    seen.store(named(&world.device(), "v1").is_some(), Ordering::Relaxed);
                    world.is_cut.store(true, Ordering::Relaxed);
                }
                false
            }
        });
        let _ = engine.pull_once().await;
        assert!(paid.load(Ordering::Relaxed), "it was here");
        assert_eq!(named(root, "v1"), Some(first.clone()));
        assert_eq!(named(device, "v1"), Some(first), "it was here, and the parent has it");
    });
}

/// How new an answer is stands in it: nothing more is asked, one by one over a slow link.
#[test]
fn f204_a_mirror_that_asks_for_what_it_owes_asks_for_no_more() {
    let spawner = Spawner::new();
    boxed(&spawner, async {
        let tree = tree(spawner.clone(), READ_ONLY).await;
        let (root, device) = (&tree.world.root, &tree.world.device());
        let engine = tree.start().await;
        engine.pull_once().await.unwrap();
        put_without_bytes(root, &["v1"], FIRST).await;
        engine.pull_once().await.unwrap();
        push(root, &["v1"], FIRST).await;
        tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        let asked = Arc::new(AtomicU64::new(0));
        let seen = asked.clone();
        hook(&tree.world, move |world, call, status| {
            let seen = seen.clone();
            async move {
                let is_head = status == 0 && call.ends_with("/messages");
                if is_head && named(&world.device(), "v1").is_none() {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                false
            }
        });
        engine.pull_once().await.unwrap();
        assert_eq!(named(device, "v1"), named(root, "v1"));
        assert_eq!(device.listed().unwrap(), Some(root.head()));
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn f119_a_tag_of_a_mirror_does_not_go_back_after_a_comparison() {
    let spawner = Spawner::new();
    boxed(&spawner, async {
        let tree = tree(spawner.clone(), READ_ONLY).await;
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        let engine = tree.start().await;
        engine.pull_once().await.unwrap();
        device.request_reconcile().await.unwrap();
        moves_while_it_lists(&tree);
        engine.pull_once().await.unwrap();
        let third = Some(digest_of(&manifest(THIRD)));
        assert_eq!((named(root, "v1"), named(device, "v1")), (third.clone(), third));
    });
}

#[test]
fn f130_a_child_does_not_use_up_the_numbers_of_its_parent() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        let new = NewConnectedRegistry {
            name: "leaf01".parse().unwrap(),
            mode: None,
            parent: Some("dock01".parse().unwrap()),
            repositories: vec![app().as_str().parse().unwrap()],
            sync_token: None,
            client_tokens: Vec::new(),
            settings: Settings::default(),
        };
        root.connected_registry_create(new).await.unwrap();
        engine.pull_once().await.unwrap();
        let (leaf, own) = ("leaf01".parse().unwrap(), "dock01".parse().unwrap());
        let may = |origin| device.may_deliver(&leaf, origin).unwrap();
        assert!(may(&leaf) && !may(&own), "its parent has numbers of its own");
    });
}

/// An image that names a layer with a size that it does not have is left out, and holds up
/// nothing else.
#[test]
fn f204_a_size_that_a_manifest_makes_up_does_not_stop_the_sync() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        let layer = b"tiny".to_vec();
        let digest = digest_of(&layer);
        let lease = root.blob_put(&digest, layer).await.unwrap();
        root.link_blob(&app(), &lease, 4).await.unwrap();
        let text = String::from_utf8(manifest(SECOND)).unwrap();
        let text = text.replace(&digest_of(CONFIG).to_string(), &digest.to_string());
        let text = text.replace("\"size\":2", "\"size\":1125899906842624");
        let bad = (text.into_bytes(), media::OCI_MANIFEST);
        assert_eq!(
            put(root, &app(), &names(&["bad"]), bad, Origin::Client).await,
            PutOutcome::Stored
        );
        push(root, &["v1"], FIRST).await;
        let pulled = within(Duration::from_secs(40), engine.pull_once()).await;
        assert!(pulled.is_ok(), "it waits for space that it does not need");
        assert_eq!(named(device, "v1"), named(root, "v1"));
    });
}

/// A debt of a tag is tried again before the repository's listing is, while what the
/// replaced parent lacks is yet to be offered.
#[test]
fn f201_a_debt_that_comes_due_before_the_offer_does_not_delete_what_the_parent_lost() {
    for _ in 0..6 {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["v1"], FIRST).await;
            rest(tree, engine).await;
            let first = Some(digest_of(&manifest(FIRST)));
            assert_eq!((named(root, "v1"), named(device, "v1")), (first.clone(), first.clone()));
            // The parent has another image under the tag, whose config it has lost: it is owed.
            let config = digest_of(b"lost");
            let text = String::from_utf8(manifest(SECOND)).unwrap();
            let text = text.replace(&digest_of(CONFIG).to_string(), &config.to_string());
            let text = text.replace("\"size\":2", "\"size\":4");
            root.link_blob(&app(), &Lease::unseen(&config), 4).await.unwrap();
            let bytes = text.into_bytes();
            put(
                root,
                &app(),
                &names(&["v1"]),
                (bytes.clone(), media::OCI_MANIFEST),
                Origin::Client,
            )
            .await;
            engine.begin_once().await.unwrap();
            engine.pull_once().await.unwrap();
            assert_eq!(named(root, "v1"), Some(digest_of(&bytes)));
            assert_eq!(named(device, "v1"), first, "what came last cannot be had");
            assert!(device.debts_noted().unwrap(), "owed");
            // The parent is restored to a state in which it has none of that, and its first listing
            // of the repository fails.
            for digest in [digest_of(&bytes), digest_of(&manifest(FIRST))] {
                root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
            }
            device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
            hook(&tree.world, async |_, call, status| {
                status == 404 || (status == 200 && call.contains("/repositories/app0"))
            });
            engine.begin_once().await.unwrap();
            engine.pull_once().await.unwrap();
            assert!(device.is_offered(&app()).unwrap(), "it is yet to be offered");
            assert_eq!(named(device, "v1"), first);
            // It is not whole for a while.
            for _ in 0..20 {
                tree.hands.0.fetch_add(10, Ordering::Relaxed);
                engine.pull_once().await.unwrap();
            }
            assert_eq!(named(device, "v1"), first);
            unhook(&tree.world);
            while device.is_offered(&app()).unwrap() && named(device, "v1").is_some() {
                tree.hands.0.fetch_add(1, Ordering::Relaxed);
                engine.pull_once().await.unwrap();
            }
            rest(tree, engine).await;
            assert_eq!(
                (named(root, "v1"), named(device, "v1")),
                (first.clone(), first),
                "what was acknowledged is offered"
            );
        });
    }
}

/// A parent between root and leaf is restored from a backup: what is not here may be there.
#[test]
fn f201_a_restored_parent_that_has_a_parent_does_not_tell_what_it_lacks_as_deleted() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        rest(tree, engine).await;
        let backup = tree.world.back_up().await;
        push(root, &["v2"], SECOND).await;
        rest(tree, engine).await;
        assert!(named(device, "v2").is_some());
        tree.world.restore(backup).await;
        let device = tree.world.device();
        device.stand(Role::Connected, true);
        assert_eq!(named(&device, "v2"), None);
        assert!(device.is_partial(&app()).unwrap(), "its children take v2 for deleted");
    });
}

/// The same when only one repository is compared, because its listing was owed.
#[test]
fn f119_a_tag_of_a_mirror_does_not_go_back_after_a_listing_that_was_owed() {
    let spawner = Spawner::new();
    boxed(&spawner, async {
        let tree = tree(spawner.clone(), READ_ONLY).await;
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        let engine = tree.start().await;
        hook(&tree.world, async |_, call, status| {
            status == 200 && call.contains("/repositories/app0")
        });
        engine.pull_once().await.unwrap();
        tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        moves_while_it_lists(&tree);
        engine.pull_once().await.unwrap();
        let third = Some(digest_of(&manifest(THIRD)));
        assert_eq!((named(root, "v1"), named(device, "v1")), (third.clone(), third));
    });
}

/// What is withheld is not removed by an item that was held back before.
#[test]
fn f201_what_is_withheld_is_not_removed_by_what_was_held_back_before() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["v1"], FIRST).await;
        push(root, &["v1"], SECOND).await;
        engine.pull_once().await.unwrap();
        engine.push_once().await.unwrap();
        let second = Some(digest_of(&manifest(SECOND)));
        assert_eq!((named(device, "v1"), named(root, "v1")), (second.clone(), second.clone()));
        write_grants(&tree.world, false).await;
        root.delete_manifest(&app(), &digest_of(&manifest(SECOND)), &Origin::Client).await.unwrap();
        device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
        engine.begin_once().await.unwrap();
        engine.pull_once().await.unwrap();
        assert!(device.withheld(&app()).await.unwrap().tags.contains(&names(&["v1"])[0]));
        assert_eq!(named(device, "v1"), second);
        for _ in 0..9 {
            tree.hands.0.fetch_add(10, Ordering::Relaxed);
            engine.pull_once().await.unwrap();
        }
        assert_eq!(named(device, "v1"), second, "it may be nowhere else");
    });
}

/// What is withheld says nothing of other tags of the repository.
#[test]
fn f201_a_deletion_at_the_parent_is_not_undone_because_another_tag_was_withheld() {
    for withheld in [false, true] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(root, &["y"], SECOND).await;
            push(root, &["lost"], FIRST).await;
            rest(tree, engine).await;
            if withheld {
                write_grants(&tree.world, false).await;
                let lost = digest_of(&manifest(FIRST));
                root.delete_manifest(&app(), &lost, &Origin::Client).await.unwrap();
                device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
                engine.begin_once().await.unwrap();
                rest(tree, engine).await;
                assert!(!device.withheld(&app()).await.unwrap().is_empty());
                write_grants(&tree.world, true).await;
            }
            push(device, &["y"], THIRD).await;
            root.delete_tag(&app(), &names(&["y"])[0], Precondition::None, &Origin::Client)
                .await
                .unwrap();
            device.request_reconcile().await.unwrap();
            engine.pull_once().await.unwrap();
            engine.push_once().await.unwrap();
            assert_eq!(named(root, "y"), None, "somebody has deleted it; withheld: {withheld}");
        });
    }
}

/// A position tells of what was pulled; what was delivered may be later, or have no message.
#[test]
fn f201_a_parent_that_is_behind_what_it_has_acknowledged_is_offered_what_it_lacks() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        engine.begin_once().await.unwrap();
        push(device, &[], FIRST).await;
        engine.push_once().await.unwrap();
        assert!(has(root, FIRST) && device.heard().unwrap() == root.head().sequence);
        let digest = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
        let behind = root.head().sequence + 1;
        device.outbox_delivered(u64::MAX, behind).await.unwrap();
        engine.begin_once().await.unwrap();
        rest(tree, engine).await;
        assert!(has(root, FIRST) && has(device, FIRST));
    });
}

/// The root is restored to a state without a manifest, which the device has and may not push.
pub(super) async fn loses(tree: &Tree, engine: &Engine, digest: &Digest) {
    let (root, device) = (&tree.world.root, &tree.world.device());
    rest(tree, engine).await;
    write_grants(&tree.world, false).await;
    rest(tree, engine).await;
    root.delete_manifest(&app(), digest, &Origin::Client).await.unwrap();
    device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
    engine.begin_once().await.unwrap();
    engine.pull_once().await.unwrap();
    assert!(device.withheld(&app()).await.unwrap().manifests.contains(digest));
    assert!(device.manifest(&app(), digest).unwrap().is_some());
}

/// What was withheld, and the parent has again, is followed like anything else.
#[test]
fn f201_a_tag_that_the_parent_has_again_is_withheld_no_more() {
    for again in [FIRST, SECOND] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["v1"], FIRST).await;
            loses(tree, engine, &digest_of(&manifest(FIRST))).await;
            // Somebody pushes it again at the root; the device follows by the message.
            push(root, &["v1"], again).await;
            engine.pull_once().await.unwrap();
            let digest = digest_of(&manifest(again));
            let now = Some(digest.clone());
            assert_eq!((named(root, "v1"), named(device, "v1")), (now.clone(), now));
            let kept = device.withheld(&app()).await.unwrap();
            assert!(kept.tags.is_empty() && !kept.manifests.contains(&digest));
            // Long after, it is deleted there.
            root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
            rest(tree, engine).await;
            assert_eq!((named(device, "v1"), has(device, again)), (None, false), "{again}");
            assert_eq!(has(device, FIRST), again != FIRST, "what the root lacks is kept");
        });
    }
}

/// The root is set back to where it was at this position: it has what it had then, and its next
/// start says so.
pub(super) async fn set_back(world: &World, position: u64, lost: &[u64]) {
    for number in lost {
        let digest = digest_of(&manifest(*number));
        world.root.delete_manifest(&app(), &digest, &Origin::Client).await.unwrap();
    }
    world.root.note_start_at("n-of-the-copy", position).await.unwrap();
    world.started_anew.store(true, Ordering::Relaxed);
}

/// What a comparison takes is newer than the position that is noted when it ends.
#[test]
fn f201_a_parent_that_is_set_back_while_it_is_compared_is_offered_what_it_lacks() {
    for is_first in [true, false] {
        let spawner = Spawner::new();
        boxed(&spawner, async {
            let tree = tree(spawner.clone(), 1).await;
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(root, &["old"], SECOND).await;
            let engine = tree.start().await;
            engine.begin_once().await.unwrap();
            if !is_first {
                engine.pull_once().await.unwrap();
                device.request_reconcile().await.unwrap();
            }
            let copied = root.sequence();
            push(root, &["v1"], FIRST).await;
            hook(&tree.world, move |world, call, status| async move {
                if status == 0 && call.contains("/repositories/app1") {
                    unhook(&world);
                    set_back(&world, copied, &[FIRST]).await;
                }
                false
            });
            let before = device.sequence();
            let stopped = engine.pull_once().await;
            assert_eq!(stopped, Err(UpstreamError::StartedAnew.into()), "first: {is_first}");
            let first = Some(digest_of(&manifest(FIRST)));
            assert_eq!((named(root, "v1"), named(device, "v1")), (None, first.clone()));
            let records =
                device.records_after(Cursor { sequence: before, ..device.head() }, 1 << 20);
            let changes = records.await.unwrap().records.into_iter().flat_map(|(_, all)| all);
            let noted = changes.filter(|(key, _)| key.ends_with(b"heard")).count();
            engine.begin_once().await.unwrap();
            rest(&tree, &engine).await;
            for store in [root, device] {
                assert_eq!(named(store, "v1"), first, "first: {is_first}");
            }
            assert_eq!(noted, 1, "with what was taken: flash wears");
        });
    }
}

/// What a tag named that is removed or moved while its device asks what the parent lacks.
#[test]
fn f201_what_a_tag_named_when_a_replaced_parent_was_compared_goes_up_without_it() {
    // Its tags first, then its manifests.
    let asked = ["/repositories/app0", "/repositories/app0?manifests"];
    for (asked, to) in asked.into_iter().flat_map(|asked| [(asked, None), (asked, Some(THIRD))]) {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &[], SECOND).await;
            push(device, &["v1"], FIRST).await;
            rest(tree, engine).await;
            let first = digest_of(&manifest(FIRST));
            root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
            device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
            engine.begin_once().await.unwrap();
            hook(&tree.world, move |world, call, status| async move {
                if status == 0 && call.contains(asked) {
                    unhook(&world);
                    let (device, v1) = (world.device(), names(&["v1"]).remove(0));
                    if let Some(to) = to {
                        push(&device, &["v1"], to).await;
                    } else {
                        let (app, any) = (app(), Precondition::None);
                        device.delete_tag(&app, &v1, any, &Origin::Client).await.unwrap();
                    }
                }
                false
            });
            engine.pull_once().await.unwrap();
            assert!(tree.world.hook.lock().unwrap().is_none(), "{asked}");
            rest(tree, engine).await;
            let wanted = to.map(|number| digest_of(&manifest(number)));
            for store in [root, device] {
                assert!(has(store, FIRST), "{asked} {to:?}");
                assert_eq!(named(store, "v1"), wanted);
            }
        });
    }
}

/// A tag is asked for when a message tells of it, and may have been moved since.
#[test]
fn f201_a_parent_that_is_set_back_while_messages_are_applied_is_offered_what_it_lacks() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        engine.begin_once().await.unwrap();
        push(root, &["v1"], FIRST).await;
        let copied = root.sequence();
        hook(&tree.world, async |world, call, status| {
            if status == 0 && call.starts_with("Head") && call.ends_with("/manifests/v1") {
                unhook(&world);
                push(&world.root, &["v1"], SECOND).await;
            }
            false
        });
        engine.pull_once().await.unwrap();
        let [first, second] = [FIRST, SECOND].map(|number| Some(digest_of(&manifest(number))));
        assert_eq!(named(device, "v1"), second);
        assert_eq!(device.feed_position().unwrap().unwrap().sequence, copied);
        set_back(&tree.world, copied, &[SECOND]).await;
        push(root, &["v1"], FIRST).await;
        let asked = engine.pull_once().await;
        assert_eq!(asked, Err(UpstreamError::StartedAnew.into()));
        engine.begin_once().await.unwrap();
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "v1"), first, "the parent's state counts");
            assert!(has(store, SECOND), "what it lacks is there by its digest");
        }
    });
}

/// What nobody has pushed here is not in conflict with what the parent has.
#[test]
fn f201_what_is_offered_yields_to_what_the_parent_has_by_then() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(root, &["v1"], FIRST).await;
        rest(tree, engine).await;
        let first = digest_of(&manifest(FIRST));
        root.delete_manifest(&app(), &first, &Origin::Client).await.unwrap();
        device.reconciled(Cursor { epoch: 7, sequence: 5 }).await.unwrap();
        engine.begin_once().await.unwrap();
        engine.pull_once().await.unwrap();
        assert!(device.outbox_holds_tag(&app(), &names(&["v1"])[0]).unwrap(), "offered");
        push(root, &["v1"], SECOND).await;
        rest(tree, engine).await;
        for store in [root, device] {
            assert_eq!(named(store, "v1"), Some(digest_of(&manifest(SECOND))));
            assert!(has(store, FIRST), "by its digest");
            assert_eq!(store.tags(&app(), None, 9).unwrap().len(), 1, "no conflict");
        }
    });
}

/// A node between root and leaf was restored; what the root has deleted since comes back from the
/// leaf.
#[test]
fn f201_what_a_leaf_offers_in_vain_does_not_come_back() {
    in_tree(async |tree, engine| {
        let root = &tree.world.root;
        rest(tree, engine).await;
        let backup = tree.world.back_up().await;
        push(root, &["untagged"], FIRST).await;
        push(root, &["deleted"], SECOND).await;
        root.delete_tag(&app(), &names(&["untagged"])[0], Precondition::None, &Origin::Client)
            .await
            .unwrap();
        let second = digest_of(&manifest(SECOND));
        root.delete_manifest(&app(), &second, &Origin::Client).await.unwrap();
        tree.world.restore(backup).await;
        let (engine, device) = (tree.start().await, tree.world.device());
        engine.begin_once().await.unwrap();
        engine.pull_once().await.unwrap();
        let offered = [("untagged", FIRST), ("deleted", SECOND), ("lost", THIRD)];
        for ((tag, number), sequence) in offered.into_iter().zip(1..) {
            let id = OutboxId { origin: "leaf01".parse().unwrap(), incarnation: 1, sequence };
            let delivery = Delivery { offered: Offered::Mirrored, ..Delivery::of(id) };
            store_push(&device, &app(), &names(&[tag]), number, Origin::Child(delivery)).await;
        }
        rest(tree, &engine).await;
        for store in [root, &device] {
            assert_eq!(named(store, "lost"), Some(digest_of(&manifest(THIRD))));
            assert_eq!((named(store, "untagged"), named(store, "deleted")), (None, None));
            assert!(has(store, FIRST) && !has(store, SECOND));
        }
    });
}

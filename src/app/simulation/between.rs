//! What happens between a request to the parent and its answer.

use super::scenarios::{FIRST, SECOND, THIRD, app, has, in_tree, named, names, push, rest};
use super::*;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::types::Cursor;

/// From now on this happens when a request comes, and when its answer goes.
fn hook<F>(world: &World, run: impl Fn(Arc<World>, String, u16) -> F + Send + Sync + 'static)
where
    F: Future<Output = bool> + Send + 'static,
{
    *world.hook.lock().unwrap() =
        Some(Arc::new(move |world, call, status| Box::pin(run(world, call, status))));
}

fn unhook(world: &World) {
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

/// The store has the first image, and has lost its bytes.
async fn put_without_bytes(store: &Store, tags: &[&str]) {
    let bytes = manifest(FIRST);
    let put = PutManifest {
        digest: digest_of(&bytes),
        media_type: media::OCI_MANIFEST.to_owned(),
        bytes_len: bytes.len() as u64,
        parsed: Manifest::parse(Some(media::OCI_MANIFEST), &bytes).unwrap(),
        tags: names(tags),
        precondition: Precondition::None,
        content_required: true,
        origin: Origin::Client,
    };
    assert_eq!(store.put_manifest(&app(), put).await, Ok(PutOutcome::Stored));
}

#[test]
fn f211_what_the_parent_has_lost_is_not_taken_for_deleted() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        put_without_bytes(root, &[]).await;
        let put = store_push(device, &app(), &[], FIRST, Origin::Parent).await;
        assert_eq!(put, PutOutcome::Stored);
        device.request_reconcile().await.unwrap();
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
        put_without_bytes(root, &["v1"]).await;
        for _ in 0..9 {
            engine.push_once().await.unwrap();
            tree.hands.0.fetch_add(90_000, Ordering::Relaxed);
        }
        assert_eq!(named(root, "v2"), Some(digest_of(&manifest(THIRD))));
        assert_eq!(named(device, "v1"), Some(digest_of(&manifest(SECOND))), "ours, still");
    });
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
        let map = device.self_config().unwrap().unwrap().sync_token.scope_map;
        let write = |add: bool| {
            let grants = ["content/write", "content/delete"]
                .map(|action| format!("repositories/{}/{action}", app()).parse().unwrap());
            let (add, remove) =
                if add { (grants.to_vec(), Vec::new()) } else { (Vec::new(), grants.to_vec()) };
            root.scope_map_update(map.clone(), ScopeMapUpdate { add, remove, description: None })
        };
        write(false).await.unwrap();
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
        write(true).await.unwrap();
        rest(tree, engine).await;
        assert_eq!((named(root, "lost"), named(root, "y")), (Some(lost), None));
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
        hook(&tree.world, async |world, call, status| {
            if status == 0 && call.contains("/repositories/app0") {
                unhook(&world);
                push(&world.root, &["v1"], SECOND).await;
                // More than one batch.
                for number in 0..1500 {
                    push(&world.root, &["latest"], if number % 2 == 0 { FIRST } else { THIRD })
                        .await;
                }
                push(&world.root, &["v1"], THIRD).await;
            }
            false
        });
        let third = Some(digest_of(&manifest(THIRD)));
        engine.pull_once().await.unwrap();
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

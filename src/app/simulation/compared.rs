//! What a full comparison follows of what the parent has deleted.

use super::between::{hook, unhook};
use super::scenarios::{FIRST, SECOND, THIRD, app, has, in_tree, named, names, push};
use super::*;

/// An index, tagged `multi`, and the two images that it names.
async fn push_index(store: &Store) {
    for number in [FIRST, SECOND] {
        push(store, &[], number).await;
    }
    push(store, &["multi"], MANIFESTS).await;
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

//! What a full comparison follows of what the parent has deleted.

use super::between::{hook, unhook};
use super::scenarios::{FIRST, SECOND, app, has, in_tree, named, push};
use super::*;

/// Symptom: a child of an index that was deleted at the root stayed at a device for good, where
/// other grants had made a comparison due before the device heard of it. Cause: the comparison took
/// the place of the message, and left out whatever an index names.
#[test]
fn f119_a_comparison_follows_the_deletion_of_what_an_index_names() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        for number in [FIRST, SECOND] {
            push(root, &[], number).await;
        }
        push(root, &["multi"], MANIFESTS).await;
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
        for number in [FIRST, SECOND] {
            push(root, &[], number).await;
        }
        push(root, &["multi"], MANIFESTS).await;
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

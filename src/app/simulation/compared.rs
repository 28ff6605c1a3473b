//! What a full comparison follows of what the parent has deleted.

use super::scenarios::{FIRST, SECOND, app, has, in_tree, push};
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

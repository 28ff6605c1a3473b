//! Something between a device and its parent that answers in place of the parent.

use super::scenarios::{FIRST, SECOND, in_tree, named, push};
use super::*;

/// Seconds after which what the parent refused is tried again.
const HOUR: u64 = 3600;
/// The same of what failed there, or what its disk had no space for.
const MINUTES: u64 = 240;

/// A proxy gives up on one image each time; what else waits of its repository is not of it.
#[test]
fn f204_a_push_that_fails_each_time_does_not_hold_up_the_other_tags_of_its_repository() {
    let mut held_up = Vec::new();
    for status in [413, 500, 502, 503, 504, 507] {
        let held = &mut held_up;
        in_tree(async move |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(device, &["large"], FIRST).await;
            push(device, &["small"], SECOND).await;
            *tree.world.fails.lock().unwrap() = Some(("manifests/large".to_owned(), status));
            for _ in 0..20 {
                engine.push_once().await.unwrap();
                tree.hands.0.fetch_add(16, Ordering::Relaxed);
            }
            let refused = device.refused_changes(9).unwrap().len();
            if named(root, "small").is_none() || refused != 1 {
                held.push(format!("{status}: refused {refused}"));
                return;
            }
            // It is shown, and goes up when it can.
            *tree.world.fails.lock().unwrap() = None;
            let later = if status == 413 { HOUR } else { MINUTES };
            tree.hands.0.fetch_add(later, Ordering::Relaxed);
            engine.push_once().await.unwrap();
            assert_eq!(named(root, "large"), named(device, "large"), "{status}");
            assert!(device.outbox(9).unwrap().is_empty(), "{status}");
        });
    }
    assert!(held_up.is_empty(), "{held_up:#?}");
}

/// A parent that can do nothing at all for a while refuses no change.
#[test]
fn f204_what_a_parent_as_a_whole_cannot_take_for_now_is_not_refused() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        push(device, &["one"], FIRST).await;
        push(device, &["two"], SECOND).await;
        tree.world.is_cut.store(true, Ordering::Relaxed);
        for _ in 0..20 {
            engine.push_once().await.unwrap();
            tree.hands.0.fetch_add(16, Ordering::Relaxed);
        }
        assert_eq!(device.refused_changes(9).unwrap().len(), 0);
        tree.world.is_cut.store(false, Ordering::Relaxed);
        tree.hands.0.fetch_add(HOUR, Ordering::Relaxed);
        engine.push_once().await.unwrap();
        engine.push_once().await.unwrap();
        for tag in ["one", "two"] {
            assert!(named(root, tag).is_some(), "{tag}");
        }
    });
}

//! Ends what was begun in the tree: a withdrawal that a stop, or the end of who asked for it, left
//! half done.

use std::time::Duration;

use crate::store::Store;
use crate::sys::clock::sleep;

/// Until it is tried again after a failure: the disk may have space then.
const RETRY: Duration = Duration::from_secs(30);

/// Takes up what is left at the start, and then whenever something was.
pub(super) async fn run(store: Store) {
    loop {
        match store.settle_tree().await {
            Ok(()) => store.tree_changed().await,
            Err(error) => {
                log::debug!("what was withdrawn is not withdrawn below yet: {error}");
                sleep(RETRY).await;
            }
        }
    }
}

//! Runs the garbage collection when it is due.

use std::time::Duration;

use crate::config::Gc;
use crate::store::Store;
use crate::store::gc::GcOptions;
use crate::sys::clock::sleep;
use crate::types::{Role, UnixSeconds};

/// How often it is looked whether a run is due: the wall clock may jump.
const LOOK_PERIOD: Duration = Duration::from_secs(60);
/// Between runs while the time is not known.
const BLIND_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// What a run may remove on this node. What has no tag any more is the root's to remove: a
/// connected registry holds what its parent does.
pub(super) fn options(gc: &Gc, role: Role) -> GcOptions {
    let untagged = gc.untagged_manifests.filter(|_| role == Role::Root);
    GcOptions { grace: gc.grace, untagged, dry_run: false }
}

/// Collects by the schedule, and once more after the grace when something has to wait for it.
pub(super) async fn run(store: Store, gc: Gc, role: Role) {
    let options = options(&gc, role);
    let clock = store.sys().clock.clone();
    let (mut last, mut last_at): (Option<UnixSeconds>, Duration) =
        (clock.wall(), clock.monotonic());
    loop {
        sleep(LOOK_PERIOD).await;
        let due = match (clock.wall(), last) {
            (Some(now), Some(last)) => {
                // A clock that went back makes nothing due.
                gc.schedule.last_until(now).is_some_and(|occurrence| occurrence > last)
            }
            _ => clock.monotonic().saturating_sub(last_at) >= BLIND_PERIOD,
        };
        if !due {
            last = last.or(clock.wall());
            continue;
        }
        (last, last_at) = (clock.wall(), clock.monotonic());
        if collect(&store, options).await {
            sleep(options.grace).await;
            collect(&store, options).await;
        }
    }
}

/// One run; whether something waits for the grace.
async fn collect(store: &Store, options: GcOptions) -> bool {
    match store.collect_garbage(options).await {
        Ok(report) => {
            log::info!(
                "collected garbage blobs={} bytes={} links={} manifests={} waiting={} kept={}",
                report.blobs_removed,
                report.bytes_removed,
                report.links_removed,
                report.manifests_removed,
                report.blobs_waiting,
                report.blobs_kept
            );
            report.blobs_waiting > 0
        }
        Err(error) => {
            log::warn!("garbage was not collected: {error}");
            false
        }
    }
}

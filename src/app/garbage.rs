//! Runs the garbage collection when it is due.

use std::time::Duration;

use crate::config::Gc;
use crate::store::Store;
use crate::store::gc::GcOptions;
use crate::sys::clock::sleep;
use crate::types::{Role, UnixSeconds};

/// The first look comes so long after a start: a node that starts has better things to do.
const FIRST_LOOK: Duration = Duration::from_secs(10);
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

/// Collects by the schedule, and once more after the grace when something has to wait for it. A run
/// that fell into a time when the node was off is made up for after the start.
pub(super) async fn run(store: Store, gc: Gc, role: Role) {
    let options = options(&gc, role);
    let clock = store.sys().clock.clone();
    let noted = store.last_collection().unwrap_or_default();
    let mut is_noted = noted.is_some();
    let mut last: Option<UnixSeconds> = noted.or(clock.wall());
    let mut last_at = clock.monotonic();
    let mut pause = FIRST_LOOK;
    loop {
        sleep(pause).await;
        pause = LOOK_PERIOD;
        let due = match (clock.wall(), last) {
            (Some(now), Some(last)) => {
                // A clock that went back makes nothing due.
                gc.schedule.last_until(now).is_some_and(|occurrence| occurrence > last)
            }
            _ => clock.monotonic().saturating_sub(last_at) >= BLIND_PERIOD,
        };
        if due {
            (last, last_at) = (clock.wall(), clock.monotonic());
            if collect(&store, options).await {
                sleep(options.grace).await;
                collect(&store, options).await;
            }
        }
        last = last.or(clock.wall());
        // Only now: one that is cut short is made up for too. A store that has nothing stays so.
        if (due || !is_noted)
            && store.sequence() > 0
            && let Some(last) = last
        {
            match store.note_collection(last).await {
                Ok(()) => is_noted = true,
                Err(error) => log::debug!("that garbage was collected is not noted: {error}"),
            }
        }
    }
}

/// One run; whether something waits, for the grace or for the sync.
async fn collect(store: &Store, options: GcOptions) -> bool {
    match store.collect_garbage(options).await {
        Ok(report) => {
            if report.waits_for_operator {
                log::warn!("nothing is removed: records may have been lost, see skerry status");
            }
            log::info!(
                "collected garbage blobs={} bytes={} links={} manifests={} waiting={} kept={}",
                report.blobs_removed,
                report.bytes_removed,
                report.links_removed,
                report.manifests_removed,
                report.blobs_waiting,
                report.blobs_kept
            );
            report.blobs_waiting > 0 || report.waits_for_sync
        }
        Err(error) => {
            log::warn!("garbage was not collected: {error}");
            false
        }
    }
}

//! Runs the garbage collection when it is due.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Gc;
use crate::store::Store;
use crate::store::gc::GcOptions;
use crate::sys::clock::{Clock, sleep, within};
use crate::sys::spawn;
use crate::types::{Role, UnixSeconds};

/// The first look comes so long after a start: a node that starts has better things to do.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How often it is looked whether a run is due: the wall clock may jump.
const LOOK_PERIOD: Duration = Duration::from_secs(60);
/// Between runs while the time is not known.
const BLIND_PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How often it is noted since when content has been unreferenced: so much of that time a power cut
/// may take.
const NOTE_PERIOD: Duration = Duration::from_secs(600);
/// Least and longest time between runs that a full disk causes; within these it is the grace:
/// before that nothing goes that the last run has found. Each run reads all rows.
const FULL_PAUSE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(180)];

/// What a run may remove on this node. What has no tag any more is the root's to remove: a
/// connected registry holds what its parent does.
pub(super) fn options(gc: &Gc, role: Role) -> GcOptions {
    let untagged = gc.untagged_manifests.filter(|_| role == Role::Root);
    GcOptions { grace: gc.grace, untagged, dry_run: false }
}

/// When runs are due.
struct Due {
    gc: Gc,
    clock: Arc<dyn Clock>,
    /// When the schedule was followed last: by the wall clock, and monotonic.
    last: Option<UnixSeconds>,
    last_at: Duration,
    /// Whether that is on the disk.
    is_noted: bool,
    /// The end of the last run for any cause, monotonic.
    ended: Option<Duration>,
    /// What was deleted before that began, and how often something had not fitted.
    seen: (u64, u64),
    /// When what waited in the last run for the grace can go, monotonic.
    ripe: Option<Duration>,
    /// When what is unreferenced was noted last, monotonic.
    noted_at: Duration,
    /// When a run is due because the disk is full, monotonic: the last one was a moment ago.
    full: Option<Duration>,
}

impl Due {
    /// Whether the schedule says so.
    fn by_schedule(&mut self) -> bool {
        let due = match (self.clock.wall(), self.last) {
            (Some(now), Some(last)) => {
                // A clock that went back makes nothing due. One that was ahead is believed no more.
                let last = *self.last.insert(last.min(now));
                self.gc.schedule.last_until(now).is_some_and(|occurrence| occurrence > last)
            }
            _ => self.clock.monotonic().saturating_sub(self.last_at) >= BLIND_PERIOD,
        };
        if due {
            (self.last, self.last_at) = (self.clock.wall(), self.clock.monotonic());
            self.is_noted = false;
        } else {
            self.last = self.last.or(self.clock.wall());
        }
        due
    }

    /// Notes since when content has been unreferenced, for a power cut.
    async fn note_found(&mut self, store: &Store) {
        let now = self.clock.monotonic();
        if now.saturating_sub(self.noted_at) >= NOTE_PERIOD {
            self.noted_at = now;
            store.note_garbage_soon().await;
        }
    }

    /// Notes when the schedule was followed: not before what waited is gone, so that a run that is
    /// cut short is made up for too. A store that has nothing stays so.
    async fn note(&mut self, store: &Store) {
        if self.is_noted || self.ripe.is_some() || store.sequence() == 0 {
            return;
        }
        let Some(last) = self.last else { return };
        match store.note_collection(last).await {
            Ok(()) => self.is_noted = true,
            Err(error) => log::debug!("that garbage was collected is not noted: {error}"),
        }
    }

    /// Whether the grace of what waited has passed.
    fn by_grace(&self) -> bool {
        self.ripe.is_some_and(|ripe| ripe <= self.clock.monotonic())
    }

    /// Whether something was deleted since the last run on a disk that is below its reserve, or
    /// has no space for something that came since.
    async fn by_full_disk(&mut self, store: &Store) -> bool {
        self.full = None;
        let (removals, refused) = self.seen;
        if store.removals() == removals {
            return false;
        }
        let looking = store.clone();
        let is_below = spawn::blocking(move || looking.below_reserve()).await;
        if !is_below && store.refused_for_space() == refused {
            return false;
        }
        let pause = self.gc.grace.clamp(FULL_PAUSE[0], FULL_PAUSE[1]);
        let now = self.clock.monotonic();
        self.full = self.ended.map(|ended| ended + pause).filter(|at| *at > now);
        self.full.is_none()
    }

    /// How long to wait before it is looked again.
    fn pause(&self) -> Duration {
        let now = self.clock.monotonic();
        let next = self.ripe.into_iter().chain(self.full).min();
        next.map_or(LOOK_PERIOD, |next| next.saturating_sub(now).min(LOOK_PERIOD))
    }
}

/// Collects by the schedule, after deletions on a full disk, and once more after the grace when
/// something has to wait for it. A run that fell into a time when the node was off is made up for
/// after the start.
pub(super) async fn run(store: Store, gc: Gc, role: Role) {
    let options = options(&gc, role);
    let clock = store.sys().clock.clone();
    let noted = store.last_collection().unwrap_or_default();
    let mut due = Due {
        gc,
        last: noted.or(clock.wall()),
        last_at: clock.monotonic(),
        is_noted: noted.is_some(),
        clock,
        ended: None,
        // What was deleted before the start may make room too.
        seen: (u64::MAX, 0),
        ripe: None,
        noted_at: Duration::ZERO,
        full: None,
    };
    sleep(FIRST_LOOK).await;
    loop {
        due.note(&store).await;
        due.note_found(&store).await;
        // Heard of also if it comes while this looks.
        let deleted = store.removals_made();
        let again = due.by_grace();
        if !due.by_schedule() && !again && !due.by_full_disk(&store).await {
            if within(due.pause(), deleted).await.is_ok() {
                // Many deletions in a row are collected together.
                sleep(FULL_PAUSE[0]).await;
            }
            continue;
        }
        let seen = (store.removals(), store.refused_for_space());
        let waits = collect(&store, options).await;
        let now = due.clock.monotonic();
        (due.ended, due.noted_at) = (Some(now), now);
        due.ripe = match waits {
            // What only the second run finds has its turn with the schedule.
            Ok(waits) => waits.filter(|_| !again).map(|waits| now + waits),
            Err(Failed) => Some(now + FULL_PAUSE[1]),
        };
        if waits.is_ok() {
            due.seen = seen;
        }
    }
}

/// A collection that failed, which is in the log.
struct Failed;

/// One run; for how long something waits, for the grace or for the sync.
async fn collect(store: &Store, options: GcOptions) -> Result<Option<Duration>, Failed> {
    match store.collect_garbage(options).await {
        Ok(report) => {
            if report.waits_for_operator {
                log::warn!("nothing is removed: records may have been lost, see skerry status");
            }
            if report.waits_for_sync {
                log::info!("garbage: {}", store.why_it_waits_for_sync().unwrap_or_default());
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
            Ok(report.ripe.or(report.waits_for_sync.then_some(options.grace)))
        }
        Err(error) => {
            log::warn!("garbage was not collected: {error}");
            Err(Failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Wall(AtomicU64);

    impl Clock for Wall {
        fn wall(&self) -> Option<UnixSeconds> {
            Some(UnixSeconds(self.0.load(Ordering::Relaxed)))
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// A device was on once with a clock that was years ahead, and noted that it collected then.
    #[test]
    fn f141_a_run_in_the_future_was_at_a_time_that_was_not_this_one() {
        let clock = Arc::new(Wall(AtomicU64::new(1_800_000_000)));
        let gc = Gc { schedule: "0 * * * *".parse().unwrap(), ..Gc::default() };
        let mut due = Due {
            gc,
            clock: clock.clone(),
            last: Some(UnixSeconds(2_000_000_000)),
            last_at: Duration::ZERO,
            is_noted: true,
            ended: None,
            seen: (0, 0),
            ripe: None,
            noted_at: Duration::ZERO,
            full: None,
        };
        assert!(!due.by_schedule(), "as if the last were now");
        clock.0.fetch_add(3600, Ordering::Relaxed);
        assert!(due.by_schedule());
        assert!(!due.by_schedule());
        clock.0.fetch_sub(1800, Ordering::Relaxed);
        assert!(!due.by_schedule(), "the clock went back");
    }
}

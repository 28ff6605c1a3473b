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

/// The pause between runs that a full disk causes.
fn full_pause(grace: Duration) -> Duration {
    grace.clamp(FULL_PAUSE[0], FULL_PAUSE[1])
}

/// Why a run takes place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// The schedule says so, or something was deleted while space is needed. What it finds has one
    /// more run when that can go.
    Called,
    /// What had to wait in an earlier run can go. All that the last one found that was called is
    /// ripe at `all`, monotonic.
    Ripe { all: Duration },
}

/// A run that ended.
struct Ended {
    why: Why,
    /// When, monotonic.
    began: Duration,
    at: Duration,
    /// For how long from then on the first of what it left has to wait, if it left something.
    waits: Result<Option<Duration>, Failed>,
    /// Whether the space of that is needed.
    needs_space: bool,
}

impl Ended {
    /// When one more run is due after it, monotonic, and why.
    fn one_more(&self, grace: Duration) -> Option<(Duration, Why)> {
        let waits = match self.waits {
            // It is made up for as what it was.
            Err(Failed) => return Some((self.at + FULL_PAUSE[1], self.why)),
            Ok(waits) => waits?,
        };
        let (all, waits) = match self.why {
            Why::Called => (self.began + grace, waits),
            Why::Ripe { all } if self.needs_space || self.began < all => {
                (all, waits.max(full_pause(grace)))
            }
            // What only this one found has its turn with the schedule.
            Why::Ripe { .. } => return None,
        };
        Some((self.at + waits, Why::Ripe { all }))
    }
}

/// What a run that begins may find something for, each counted since the start.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// What was deleted.
    removals: u64,
    /// Links to blobs that were made, and bytes of content that came: what a push that was given up
    /// leaves is garbage too.
    links: u64,
    bytes: u64,
    /// How often something had not fitted.
    refused: u64,
}

impl Seen {
    fn now(store: &Store) -> Seen {
        Seen {
            removals: store.removals(),
            links: store.links_made(),
            bytes: store.sys().metrics.blob_bytes.get(),
            refused: store.refused_for_space(),
        }
    }
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
    /// What had happened before that began.
    seen: Seen,
    /// When one more run is due after the last one, monotonic, and why.
    one_more: Option<(Duration, Why)>,
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
                // A clock that went back makes nothing due. One that was ahead is believed no more,
                // also after the next start.
                self.is_noted &= last <= now;
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
        if self.is_noted || self.one_more.is_some() || store.sequence() == 0 {
            return;
        }
        let Some(last) = self.last else { return };
        match store.note_collection(last).await {
            Ok(is_noted) => self.is_noted = is_noted,
            Err(error) => log::debug!("that garbage was collected is not noted: {error}"),
        }
    }

    /// Why a run is due now, if one is. One that is due for both has one more after it.
    async fn why(&mut self, store: &Store) -> Option<Why> {
        if self.by_schedule() || self.by_full_disk(store).await {
            return Some(Why::Called);
        }
        let now = self.clock.monotonic();
        self.one_more.filter(|(at, _)| *at <= now).map(|(_, why)| why)
    }

    /// Whether content finds no room, or did not fit the disk since the last run.
    async fn needs_space(&self, store: &Store) -> bool {
        let looking = store.clone();
        spawn::blocking(move || looking.is_out_of_room()).await
            || store.refused_for_space() != self.seen.refused
    }

    /// Whether something was deleted since the last run, or came that may be garbage, where content
    /// finds no room, or did not fit since.
    async fn by_full_disk(&mut self, store: &Store) -> bool {
        self.full = None;
        let now = Seen { refused: self.seen.refused, ..Seen::now(store) };
        if now == self.seen || !self.needs_space(store).await {
            return false;
        }
        let (now, pause) = (self.clock.monotonic(), full_pause(self.gc.grace));
        self.full = self.ended.map(|ended| ended + pause).filter(|at| *at > now);
        self.full.is_none()
    }

    /// How long to wait before it is looked again.
    fn pause(&self) -> Duration {
        let now = self.clock.monotonic();
        let next = self.one_more.map(|(at, _)| at).into_iter().chain(self.full).min();
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
        seen: Seen { removals: u64::MAX, links: 0, bytes: 0, refused: 0 },
        one_more: None,
        noted_at: Duration::ZERO,
        full: None,
    };
    sleep(FIRST_LOOK).await;
    loop {
        due.note_found(&store).await;
        // Heard of also if it comes while this looks.
        let deleted = store.removals_made();
        let Some(why) = due.why(&store).await else {
            due.note(&store).await;
            if within(due.pause(), deleted).await.is_ok() {
                // Many deletions in a row are collected together.
                sleep(FULL_PAUSE[0]).await;
            }
            continue;
        };
        let seen = Seen::now(&store);
        let began = due.clock.monotonic();
        let waits = collect(&store, options).await;
        let at = due.clock.monotonic();
        (due.ended, due.noted_at) = (Some(at), at);
        // Before an operator has agreed to a loss no run makes space.
        let needs_space = store.loss().is_none() && due.needs_space(&store).await;
        let ended = Ended { why, began, at, waits, needs_space };
        due.one_more = ended.one_more(due.gc.grace);
        if ended.waits.is_ok() {
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
    use crate::store::content::leases::Lease;
    use crate::sys::memory_disk::MemoryDisk;
    use crate::sys::{Spawner, Sys};

    /// The wall clock, and the monotonic one in seconds.
    struct Hands(AtomicU64, AtomicU64);

    impl Clock for Hands {
        fn wall(&self) -> Option<UnixSeconds> {
            Some(UnixSeconds(self.0.load(Ordering::Relaxed)))
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.1.load(Ordering::Relaxed))
        }
    }

    fn hands() -> Arc<Hands> {
        Arc::new(Hands(AtomicU64::new(1_800_000_000), AtomicU64::new(1000)))
    }

    fn due(clock: &Arc<Hands>, noted: Option<u64>) -> Due {
        Due {
            gc: Gc { schedule: "0 * * * *".parse().unwrap(), ..Gc::default() },
            clock: clock.clone(),
            last: noted.map(UnixSeconds),
            last_at: Duration::ZERO,
            is_noted: noted.is_some(),
            ended: None,
            seen: Seen { removals: 0, links: 0, bytes: 0, refused: 0 },
            one_more: None,
            noted_at: Duration::ZERO,
            full: None,
        }
    }

    fn store(disk: &MemoryDisk, clock: &Arc<Hands>) -> Store {
        let sys = Sys { clock: clock.clone(), ..Sys::real(Spawner::new()) };
        Store::in_memory_on(sys, disk.clone())
    }

    /// Something is deleted.
    async fn delete(store: &Store) {
        let (app, digest) = ("app".parse().unwrap(), crate::app::sample::digest(b"1"));
        store.link_blob(&app, &Lease::unseen(&digest), 1).await.unwrap();
        store.unlink_blob(&app, &digest).await.unwrap();
    }

    /// A device was on once with a clock that was years ahead, and noted that it collected then.
    #[test]
    fn f141_a_run_in_the_future_was_at_a_time_that_was_not_this_one() {
        let clock = hands();
        let mut due = due(&clock, Some(2_000_000_000));
        assert!(!due.by_schedule(), "as if the last were now");
        clock.0.fetch_add(3600, Ordering::Relaxed);
        assert!(due.by_schedule());
        assert!(!due.by_schedule());
        clock.0.fetch_sub(1800, Ordering::Relaxed);
        assert!(!due.by_schedule(), "the clock went back");
    }

    /// It stayed on the disk, and each start began with it: no run that was missed was made up for.
    #[test]
    fn f212_a_note_of_a_run_in_the_future_is_replaced() {
        smol::block_on(async {
            let (clock, disk) = (hands(), MemoryDisk::new());
            let store = store(&disk, &clock);
            store.note_collection(UnixSeconds(2_000_000_000)).await.unwrap();
            let mut due = due(&clock, Some(2_000_000_000));
            assert!(!due.by_schedule());
            // A full disk has no room for notes: it comes when there is.
            disk.set_full(true);
            due.note(&store).await;
            disk.set_full(false);
            clock.1.fetch_add(60, Ordering::Relaxed);
            due.note(&store).await;
            assert_eq!(store.last_collection(), Ok(Some(UnixSeconds(1_800_000_000))));
        });
    }

    /// The disk stayed full: what had become garbage before a run for another cause, which did not
    /// remove it yet, had no further run.
    #[test]
    fn f212_each_run_that_leaves_something_while_space_is_needed_has_one_more() {
        let s = Duration::from_secs;
        let (called, ripe) = (Why::Called, |all| Why::Ripe { all: s(all) });
        // A run from 1000 s to 1010 s: why, how it ended, whether space is needed; the grace; when
        // the next is due, and why.
        for (why, waits, needs_space, grace, wanted) in [
            (called, Ok(None), false, 60, None),
            (called, Ok(None), true, 60, None),
            (called, Ok(Some(60)), false, 60, Some((1070, ripe(1060)))),
            (called, Ok(Some(60)), true, 60, Some((1070, ripe(1060)))),
            (called, Ok(Some(1)), true, 1, Some((1011, ripe(1001)))),
            // An earlier run had found the first of it.
            (called, Ok(Some(20)), false, 60, Some((1030, ripe(1060)))),
            (called, Err(Failed), false, 60, Some((1190, called))),
            (called, Err(Failed), true, 60, Some((1190, called))),
            (ripe(1000), Ok(None), true, 60, None),
            (ripe(1000), Ok(Some(60)), false, 60, None),
            (ripe(1000), Ok(Some(60)), true, 60, Some((1070, ripe(1000)))),
            // Not without a pause, also when something is in use for very long.
            (ripe(1000), Ok(Some(1)), true, 1, Some((1015, ripe(1000)))),
            (ripe(1000), Ok(Some(1)), true, 3600, Some((1190, ripe(1000)))),
            (ripe(1000), Ok(Some(3600)), true, 3600, Some((4610, ripe(1000)))),
            // Not all is ripe that the run found that was called.
            (ripe(1040), Ok(Some(60)), false, 60, Some((1070, ripe(1040)))),
            (ripe(1000), Err(Failed), false, 60, Some((1190, ripe(1000)))),
        ] {
            let what = format!("{why:?} {:?} {needs_space} {grace}", waits.is_ok());
            let waits = waits.map(|waits: Option<u64>| waits.map(s));
            let ended = Ended { why, began: s(1000), at: s(1010), waits, needs_space };
            let wanted = wanted.map(|(at, why)| (s(at), why));
            assert_eq!(ended.one_more(s(grace)), wanted, "{what}");
        }
    }

    /// It counted as the second of the run before: what it found was to wait for the schedule.
    #[test]
    fn f212_a_run_that_is_due_for_deletions_and_for_what_waited_has_one_more() {
        smol::block_on(async {
            let (clock, disk) = (hands(), MemoryDisk::new());
            let store = store(&disk, &clock);
            let mut due = due(&clock, Some(1_800_000_000));
            let now = clock.monotonic();
            (due.gc.grace, due.ended) = (FULL_PAUSE[0], Some(now));
            due.seen = Seen::now(&store);
            due.one_more = Some((now + FULL_PAUSE[0], Why::Ripe { all: now }));
            delete(&store).await;
            disk.set_full(true);
            assert_eq!(due.why(&store).await, None);
            clock.1.fetch_add(5, Ordering::Relaxed);
            assert_eq!(due.why(&store).await, Some(Why::Called));
        });
    }

    /// Blobs that no manifest came for filled a disk, or the index: nothing was deleted, so no run
    /// came before that of the schedule, and there is no manifest to delete.
    #[test]
    fn f212_what_was_pushed_since_the_last_run_is_looked_at_when_nothing_finds_room() {
        smol::block_on(async {
            let (clock, disk) = (hands(), MemoryDisk::new());
            let store = store(&disk, &clock);
            let mut due = due(&clock, Some(1_800_000_000));
            let (app, digest) = ("app".parse().unwrap(), crate::app::sample::digest(b"1"));
            store.link_blob(&app, &Lease::unseen(&digest), 1).await.unwrap();
            assert_eq!(due.why(&store).await, None, "there is room");
            disk.set_full(true);
            clock.1.fetch_add(60, Ordering::Relaxed);
            assert_eq!(due.why(&store).await, Some(Why::Called));
            due.seen = Seen::now(&store);
            assert_eq!(due.why(&store).await, None, "nothing has come since");
        });
    }
}

//! Runs the scrub when it is due, and keeps what came lately settled.

use std::time::Duration;

use crate::config::Scrub;
use crate::store::Store;
use crate::store::content::scrub::LastScrub;
use crate::sys::clock::{sleep, within};
use crate::types::UnixSeconds;

/// How often it is looked whether one is due: the wall clock may jump.
const LOOK_PERIOD: Duration = Duration::from_secs(60);
/// A scrub that failed is not tried again before; one that fails again, after twice the time.
const RETRY_PERIOD: Duration = Duration::from_secs(600);
/// How often it is looked whether content came and then no more.
const SETTLE_PERIOD: Duration = Duration::from_secs(10);
/// Content that may come before it is settled although more is coming, bytes.
const SETTLE_BYTES: u64 = 64 * 1024 * 1024;

/// Scrubs when it is due, and when it is asked for.
pub(super) async fn run(store: Store, options: Scrub) {
    // What may not have reached the disk before an unclean stop comes first.
    prove(&store).await;
    let clock = store.sys().clock.clone();
    let (started, mut pause) = (clock.monotonic(), RETRY_PERIOD);
    let mut proved = started;
    let period = options.max_age / 2;
    loop {
        let asked = within(LOOK_PERIOD, store.scrub_requested()).await.is_ok();
        let (wall, now) = (clock.wall(), clock.monotonic());
        if store.has_unproven() && now.saturating_sub(proved) >= RETRY_PERIOD {
            prove(&store).await;
            proved = clock.monotonic();
        }
        let up = now.saturating_sub(started);
        let last = store.last_scrub().ok().filter(|_| options.enabled);
        let due = last.is_some_and(|last| is_due(&last, period, wall, now, up));
        if !asked && !due {
            continue;
        }
        match store.scrub(rate(&store, &options)).await {
            Ok(report) => log::info!(
                "scrubbed blobs={} bytes={} damaged={} missing={}",
                report.blobs_checked,
                report.bytes_checked,
                report.damaged,
                report.missing
            ),
            Err(error) => {
                log::warn!("the scrub stopped and will go on later: {error}");
                // Who asks for one does not wait.
                let _ = within(pause, store.scrub_requested()).await;
                pause = (pause * 2).min(RETRY_PERIOD.max(options.max_age / 2));
                continue;
            }
        }
        pause = RETRY_PERIOD;
    }
}

/// Hashes what came before an unclean stop.
async fn prove(store: &Store) {
    if let Err(error) = store.verify_doubted().await {
        log::warn!("content that came before an unclean stop could not be checked: {error}");
    }
}

/// A scrub goes on that was interrupted; the next begins in half the time in which all content is
/// to be hashed, so that each file is, however late in a scrub its turn comes. `now` is monotonic.
fn is_due(
    last: &LastScrub,
    period: Duration,
    wall: Option<UnixSeconds>,
    now: Duration,
    up: Duration,
) -> bool {
    last.interrupted
        || match (last.ended, last.finished, wall) {
            // The wall clock, which may be unknown and jump, counts only where an earlier process
            // has scrubbed.
            (Some(ended), ..) => now.saturating_sub(ended) >= period,
            (None, Some(finished), Some(wall)) if finished <= wall => {
                wall.since(finished) >= period.as_secs()
            }
            // A first one, or no clock, or one that was ahead: the time since the start is all
            // there is.
            _ => up >= period.min(Duration::from_secs(3600)),
        }
}

/// As configured, or what it takes to be through in half of the maximal age.
fn rate(store: &Store, options: &Scrub) -> u64 {
    let last = store.last_scrub().map_or(0, |last| last.bytes);
    let needed = last / (options.max_age.as_secs() / 2).max(1);
    options.rate.0.max(needed.saturating_mul(2))
}

/// Notes from time to time that what came has reached the disk.
pub(super) async fn settle(store: Store) {
    let mut before = 0;
    loop {
        sleep(SETTLE_PERIOD).await;
        let unsettled = store.unsettled();
        let due = unsettled == before || unsettled >= SETTLE_BYTES;
        if due && let Err(error) = store.settle().await {
            log::debug!("what came lately is not settled yet: {error}");
        }
        before = unsettled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a clock, and where nothing can be noted, everything was hashed each minute.
    #[test]
    fn f212_a_scrub_is_due_half_of_the_maximal_age_after_the_last_one() {
        let s = Duration::from_secs;
        let (wall, period) = (1_800_000_000, 10_000);
        let nothing = LastScrub::default();
        let ended = LastScrub { ended: Some(s(50_000)), ..nothing };
        let earlier = LastScrub { finished: Some(UnixSeconds(wall - 4000)), ..nothing };
        // What is known, the clocks, the time since the start.
        for (last, at, now, up, wanted) in [
            (nothing, None, 50_000, 3599, false),
            (nothing, None, 50_000, 3600, true),
            (nothing, Some(wall), 50_000, 3600, true),
            (ended, None, 59_999, 20_000, false),
            (ended, None, 60_000, 20_000, true),
            (ended, Some(wall), 59_999, 20_000, false),
            (earlier, Some(wall), 50_000, 20_000, false),
            (earlier, Some(wall + 6000), 50_000, 10, true),
            (earlier, None, 50_000, 3599, false),
            (earlier, None, 50_000, 3600, true),
            // A clock that went back: after a start it is not believed.
            (earlier, Some(wall - 5000), 50_000, 3600, true),
            (
                LastScrub { ended: Some(s(50_000)), ..earlier },
                Some(wall - 5000),
                50_060,
                3600,
                false,
            ),
            (
                LastScrub { ended: Some(s(50_000)), ..earlier },
                Some(wall + 6000),
                59_999,
                3600,
                false,
            ),
            (LastScrub { interrupted: true, ..ended }, None, 50_060, 20_000, true),
        ] {
            let is_due = is_due(&last, s(period), at.map(UnixSeconds), s(now), s(up));
            assert_eq!(is_due, wanted, "{last:?} {at:?} {now} {up}");
        }
    }
}

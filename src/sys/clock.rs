//! Time. Wall time may be unknown: a device without a battery starts in 1970.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::UnixSeconds;

/// 2026-01-01T00:00:00Z: no wall clock that shows an earlier time is believed.
pub const EARLIEST_TIME: UnixSeconds = UnixSeconds(1_767_225_600);

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Wall time; `None` while it is not to be trusted.
    fn wall(&self) -> Option<UnixSeconds>;

    /// Whether this machine knows the time by itself.
    fn is_set(&self) -> bool {
        self.wall().is_some()
    }

    /// Somebody who is trusted says what time it is: that is [`Clock::wall`] from now on, while
    /// this machine does not know it by itself.
    fn hear(&self, _now: UnixSeconds) {}

    /// Time since some moment in this boot; never goes back, never jumps.
    fn monotonic(&self) -> Duration;

    /// Wall time, or the earliest that it can be.
    fn wall_or_floor(&self) -> UnixSeconds {
        self.wall().unwrap_or(EARLIEST_TIME)
    }
}

/// The system's clocks.
pub struct SystemClock {
    started: Instant,
    /// What the time was at the start by what was heard last; 0: nothing was.
    heard: AtomicU64,
}

impl SystemClock {
    /// Starts the monotonic clock at zero.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn new() -> SystemClock {
        SystemClock { started: Instant::now(), heard: AtomicU64::new(0) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

/// The time by the clock of this machine, unless that cannot be.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
fn system_time() -> Option<UnixSeconds> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let now = UnixSeconds(since_1970.as_secs());
    (now >= EARLIEST_TIME).then_some(now)
}

impl Clock for SystemClock {
    fn wall(&self) -> Option<UnixSeconds> {
        system_time().or_else(|| match self.heard.load(Ordering::Relaxed) {
            0 => None,
            at_start => Some(UnixSeconds(at_start).plus(self.monotonic().as_secs())),
        })
    }

    fn is_set(&self) -> bool {
        system_time().is_some()
    }

    fn hear(&self, now: UnixSeconds) {
        if now >= EARLIEST_TIME {
            let at_start = now.0.saturating_sub(self.monotonic().as_secs());
            self.heard.store(at_start, Ordering::Relaxed);
        }
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Waits for `duration`.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub async fn sleep(duration: Duration) {
    smol::Timer::after(duration).await;
}

/// The deadline passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed;

/// Runs `work` for at most `limit`; drops it when the time is up.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    smol::future::or(async { Ok(work.await) }, async {
        sleep(limit).await;
        Err(Elapsed)
    })
    .await
}

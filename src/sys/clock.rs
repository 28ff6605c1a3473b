//! Time. Wall time may be unknown: a device without a battery starts in 1970.

use std::future::Future;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::UnixSeconds;

/// 2026-01-01T00:00:00Z: no wall clock that shows an earlier time is believed.
pub const EARLIEST_TIME: UnixSeconds = UnixSeconds(1_767_225_600);

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Wall time; `None` while it is not to be trusted.
    fn wall(&self) -> Option<UnixSeconds>;

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
}

impl SystemClock {
    /// Starts the monotonic clock at zero.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn new() -> SystemClock {
        SystemClock { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn wall(&self) -> Option<UnixSeconds> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let now = UnixSeconds(since_1970.as_secs());
        (now >= EARLIEST_TIME).then_some(now)
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

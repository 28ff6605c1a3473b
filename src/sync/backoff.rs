//! How long to wait before trying again.

use std::time::Duration;

use crate::sys::Rng;

/// First wait.
const FIRST: Duration = Duration::from_secs(1);

/// Longest wait: a parent that comes back is found within a minute.
pub const LONGEST: Duration = Duration::from_secs(60);

/// First wait of one item that could not be fetched while the parent answers.
const ITEM_FIRST: Duration = Duration::from_secs(2);

/// Longest wait of one item: each try may transfer a whole blob.
pub const ITEM_LONGEST: Duration = Duration::from_secs(15 * 60);

/// Doubles with each failure in a row, up to [`LONGEST`]; between half of that and all of it, so
/// that a thousand children of a parent that comes back do not all call at once.
pub fn delay(failures: u32, rng: &dyn Rng) -> Duration {
    jittered(FIRST, LONGEST, failures, rng)
}

/// The same for one item: up to [`ITEM_LONGEST`].
pub fn item_delay(failures: u32, rng: &dyn Rng) -> Duration {
    jittered(ITEM_FIRST, ITEM_LONGEST, failures, rng)
}

/// The longest that [`delay`] answers.
pub fn longest(failures: u32) -> Duration {
    whole(FIRST, LONGEST, failures)
}

fn whole(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}

fn jittered(first: Duration, longest: Duration, failures: u32, rng: &dyn Rng) -> Duration {
    let whole = whole(first, longest, failures);
    let half_ms = u64::try_from(whole.as_millis() / 2).unwrap_or(0);
    Duration::from_millis(half_ms + rng.number() % (half_ms + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SystemRng;

    #[test]
    fn f127_waits_grow_and_stay_bounded() {
        let rng = SystemRng::new();
        for (failures, low_ms, high_ms) in [
            (0, 500, 1000),
            (1, 500, 1000),
            (2, 1000, 2000),
            (7, 30_000, 60_000),
            (u32::MAX, 30_000, 60_000),
        ] {
            for _ in 0..50 {
                let delay = delay(failures, &rng).as_millis();
                assert!((low_ms..=high_ms).contains(&delay), "{failures}: {delay}");
            }
        }
    }
}

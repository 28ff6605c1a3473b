//! Whether sync traffic may flow: the schedule of the connected registry, by a clock that may not
//! know the time.

use std::time::Duration;

use crate::types::UnixSeconds;
use crate::types::schedule::{Schedule, Window};

/// With an unknown clock one call an hour is allowed outside windows, for configuration only: a
/// device without a battery could never sync else.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(3600);

/// What may be sent to the parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// Anything, for this long if there is an end.
    Flow(Option<Duration>),
    /// One call for the desired state.
    ConfigOnly,
    /// Nothing for this long; then look again.
    Wait(Duration),
}

/// Decides by the schedule of the last known desired state. `since_probe` is the time since the
/// last call that was allowed for want of a clock.
pub fn traffic(
    schedule: &Schedule,
    window_s: Option<u64>,
    now: Option<UnixSeconds>,
    since_probe: Option<Duration>,
) -> Traffic {
    if schedule.is_continuous() {
        return Traffic::Flow(None);
    }
    let Some(now) = now else {
        return match since_probe {
            Some(since) if since < PROBE_INTERVAL => Traffic::Wait(PROBE_INTERVAL - since),
            _ => Traffic::ConfigOnly,
        };
    };
    match schedule.window(window_s, now) {
        Window::Always => Traffic::Flow(None),
        Window::Open { until } => Traffic::Flow(Some(Duration::from_secs(until.since(now)))),
        Window::Closed { next: Some(next) } => Traffic::Wait(Duration::from_secs(next.since(now))),
        // The schedule never fires again: only a new one helps, and that comes with a restart.
        Window::Closed { next: None } => Traffic::Wait(PROBE_INTERVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<UnixSeconds> {
        Some(UnixSeconds::parse_rfc3339(text).unwrap())
    }

    #[test]
    fn f111_traffic_flows_inside_windows_only() {
        let noon: Schedule = "0 12 * * *".parse().unwrap();
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let second = Duration::from_secs(1);
        for (now, expected) in [
            ("2026-11-21T11:00:00Z", Traffic::Wait(hours(1))),
            ("2026-11-21T11:59:59Z", Traffic::Wait(second)),
            ("2026-11-21T12:00:00Z", Traffic::Flow(Some(hours(2)))),
            ("2026-11-21T13:59:59Z", Traffic::Flow(Some(second))),
            ("2026-11-21T14:00:00Z", Traffic::Wait(hours(22))),
        ] {
            assert_eq!(traffic(&noon, Some(7200), at(now), None), expected, "{now}");
        }
        let never: Schedule = "0 0 31 2 *".parse().unwrap();
        let now = at("2026-11-21T11:00:00Z");
        assert_eq!(traffic(&never, None, now, None), Traffic::Wait(PROBE_INTERVAL));
    }

    #[test]
    fn f177_an_unknown_clock_allows_one_call_an_hour() {
        let noon: Schedule = "0 12 * * *".parse().unwrap();
        assert_eq!(traffic(&noon, None, None, None), Traffic::ConfigOnly);
        let minutes = |n: u64| Duration::from_secs(n * 60);
        assert_eq!(traffic(&noon, None, None, Some(minutes(10))), Traffic::Wait(minutes(50)));
        assert_eq!(traffic(&noon, None, None, Some(minutes(60))), Traffic::ConfigOnly);
        let always = Schedule::continuous();
        assert_eq!(traffic(&always, None, None, None), Traffic::Flow(None));
        assert_eq!(
            traffic(&always, Some(7200), at("2026-11-21T11:00:00Z"), None),
            Traffic::Flow(None)
        );
    }
}

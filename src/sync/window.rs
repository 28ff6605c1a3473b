//! Whether sync traffic may flow: the schedule of the connected registry, by a clock that may not
//! know the time.

use std::time::Duration;

use crate::types::UnixSeconds;
use crate::types::schedule::{Schedule, Window};

/// With an unknown clock one call an hour is allowed outside windows, for configuration only: a
/// device without a battery could never sync else.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(3600);

/// The configuration is looked at this often even when no window opens: otherwise a device whose
/// next window is far away could not be told of another schedule.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(86_400);

/// What may be sent to the parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// Anything, for this long if there is an end.
    Flow(Option<Duration>),
    /// One look at the desired state.
    ConfigOnly,
    /// Nothing for this long; then look again.
    Wait(Duration),
}

/// Decides by the schedule of the last known desired state. `since_probe` is the time since the
/// last call outside a window, `since_look` since the last one that brought the configuration,
/// which is asked for each `look_interval`.
pub fn traffic(
    schedule: &Schedule,
    window_s: Option<u64>,
    now: Option<UnixSeconds>,
    since_probe: Option<Duration>,
    since_look: Option<Duration>,
    look_interval: Duration,
) -> Traffic {
    if schedule.is_continuous() {
        return Traffic::Flow(None);
    }
    let left = |since: Option<Duration>, interval: Duration| {
        since.map_or(Duration::ZERO, |since| interval.saturating_sub(since))
    };
    // One that failed is not repeated at once.
    let probe = left(since_probe, PROBE_INTERVAL);
    let Some(now) = now else {
        return wait_or_look(probe);
    };
    let look = left(since_look, look_interval).max(probe);
    match schedule.window(window_s, now) {
        Window::Always => Traffic::Flow(None),
        Window::Open { until } => Traffic::Flow(Some(Duration::from_secs(until.since(now)))),
        Window::Closed { next: Some(next) } => {
            wait_or_look(look.min(Duration::from_secs(next.since(now))))
        }
        // The schedule never fires again: only a new one helps.
        Window::Closed { next: None } => wait_or_look(look),
    }
}

fn wait_or_look(wait: Duration) -> Traffic {
    if wait.is_zero() { Traffic::ConfigOnly } else { Traffic::Wait(wait) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(
        schedule: &Schedule,
        window_s: Option<u64>,
        now: Option<UnixSeconds>,
        since_probe: Option<Duration>,
        since_look: Option<Duration>,
    ) -> Traffic {
        super::traffic(schedule, window_s, now, since_probe, since_look, LOOK_INTERVAL)
    }

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
            let looked = Some(Duration::ZERO);
            assert_eq!(traffic(&noon, Some(7200), at(now), None, looked), expected, "{now}");
        }
    }

    #[test]
    fn f213_the_configuration_is_looked_at_once_a_day() {
        let now = at("2026-11-21T11:00:00Z");
        let hours = |n: u64| Duration::from_secs(n * 3600);
        for text in ["0 0 31 2 *", "0 0 29 2 *"] {
            let schedule: Schedule = text.parse().unwrap();
            for (since_probe, since_look, expected) in [
                (None, None, Traffic::ConfigOnly),
                (None, Some(hours(5)), Traffic::Wait(hours(19))),
                (None, Some(hours(24)), Traffic::ConfigOnly),
                (Some(hours(1) / 4), Some(hours(25)), Traffic::Wait(hours(3) / 4)),
                (Some(hours(1)), Some(hours(25)), Traffic::ConfigOnly),
            ] {
                let decided = traffic(&schedule, None, now, since_probe, since_look);
                assert_eq!(decided, expected, "{text} {since_probe:?} {since_look:?}");
            }
        }
        // A window comes first when it opens earlier.
        let noon: Schedule = "0 12 * * *".parse().unwrap();
        let decided = traffic(&noon, None, now, None, Some(hours(22)));
        assert_eq!(decided, Traffic::Wait(hours(1)));
        let inside = traffic(&noon, None, at("2026-11-21T12:30:00Z"), None, None);
        assert_eq!(inside, Traffic::Flow(Some(hours(1) / 2)));
    }

    #[test]
    fn f177_an_unknown_clock_allows_one_call_an_hour() {
        let noon: Schedule = "0 12 * * *".parse().unwrap();
        assert_eq!(traffic(&noon, None, None, None, None), Traffic::ConfigOnly);
        let minutes = |n: u64| Duration::from_secs(n * 60);
        assert_eq!(traffic(&noon, None, None, Some(minutes(10)), None), Traffic::Wait(minutes(50)));
        assert_eq!(traffic(&noon, None, None, Some(minutes(60)), None), Traffic::ConfigOnly);
        // By the time that the parent said, which may have been wrong.
        let now = at("2026-11-21T11:00:00Z");
        for (since, expected) in [(20, Traffic::Wait(minutes(40))), (60, Traffic::ConfigOnly)] {
            let looked = Some(minutes(since));
            let decided = super::traffic(&noon, None, now, None, looked, PROBE_INTERVAL);
            assert_eq!(decided, expected);
        }
        let always = Schedule::continuous();
        assert_eq!(traffic(&always, None, None, None, None), Traffic::Flow(None));
        assert_eq!(
            traffic(&always, Some(7200), at("2026-11-21T11:00:00Z"), None, None),
            Traffic::Flow(None)
        );
    }
}

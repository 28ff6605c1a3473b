//! Whether sync traffic may flow: the schedule of the connected registry, by a clock that may not
//! know the time.

use std::time::Duration;

use crate::types::UnixSeconds;
use crate::types::schedule::{Schedule, Window};

/// With an unknown clock one call an hour is allowed outside windows, for configuration only: a
/// device without a battery could never sync else.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(3600);

/// With another connection string, a parent that is away is called this often: an operator waits
/// for what that brings.
pub const NEWS_INTERVAL: Duration = Duration::from_secs(120);

/// So many times in a row. Over it: as rarely as otherwise.
pub const NEWS_TRIES: u32 = 30;

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

/// Calls outside windows, for the configuration only.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// The time since the last one.
    pub since_probe: Option<Duration>,
    /// One that failed is repeated after this, and none is made sooner.
    pub probe_interval: Duration,
    /// The time since the last one that brought the configuration.
    pub since_look: Option<Duration>,
    /// How often that is asked for.
    pub look_interval: Duration,
}

/// Decides by the schedule of the last known desired state.
pub fn traffic(
    schedule: &Schedule,
    window_s: Option<u64>,
    now: Option<UnixSeconds>,
    calls: Calls,
) -> Traffic {
    if schedule.is_continuous() {
        return Traffic::Flow(None);
    }
    let left = |since: Option<Duration>, interval: Duration| {
        since.map_or(Duration::ZERO, |since| interval.saturating_sub(since))
    };
    let probe = left(calls.since_probe, calls.probe_interval);
    let Some(now) = now else {
        return wait_or_look(probe);
    };
    let look = left(calls.since_look, calls.look_interval).max(probe);
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
        super::traffic(schedule, window_s, now, calls(since_probe, since_look))
    }

    fn calls(since_probe: Option<Duration>, since_look: Option<Duration>) -> Calls {
        let (probe_interval, look_interval) = (PROBE_INTERVAL, LOOK_INTERVAL);
        Calls { since_probe, probe_interval, since_look, look_interval }
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

    /// Symptom: a new connection string, which was to make a device hear sooner that a token is
    /// disabled, was tried again after an hour because the parent had been away for a moment.
    #[test]
    fn f213_a_new_connection_string_is_tried_again_soon() {
        let (noon, now) = ("0 12 * * *".parse().unwrap(), at("2026-11-21T14:00:00Z"));
        let second = |n: u64| Duration::from_secs(n);
        for (now, since, expected) in [
            (now, 30, Traffic::Wait(NEWS_INTERVAL - second(30))),
            (None, 30, Traffic::Wait(NEWS_INTERVAL - second(30))),
            (now, 120, Traffic::ConfigOnly),
        ] {
            let probed = calls(Some(second(since)), None);
            let calls = Calls { probe_interval: NEWS_INTERVAL, ..probed };
            assert_eq!(super::traffic(&noon, None, now, calls), expected, "{now:?} {since}");
        }
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
            let calls = Calls { look_interval: PROBE_INTERVAL, ..calls(None, looked) };
            let decided = super::traffic(&noon, None, now, calls);
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

//! Sync schedules: five-field cron in UTC, and the windows that each occurrence opens.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use jiff::civil::Date;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{UnixSeconds, text};

/// Shortest sync window, seconds (ACR: PT1H).
pub const SYNC_WINDOW_S_MIN: u64 = 3600;
/// Longest sync window, seconds (ACR: P7D).
pub const SYNC_WINDOW_S_MAX: u64 = 7 * 86_400;
/// Shortest message time to live, seconds (ACR: P1D).
pub const MESSAGE_TTL_S_MIN: u64 = 86_400;
/// Longest message time to live, seconds (ACR: P90D).
pub const MESSAGE_TTL_S_MAX: u64 = 90 * 86_400;
/// Message time to live unless given, seconds (az: P2D).
pub const MESSAGE_TTL_S_DEFAULT: u64 = 2 * 86_400;

/// The last second of the year 9999: later times have no occurrences.
const LAST_TIME: u64 = 253_402_300_799;

/// How far ahead or back an occurrence is looked for: a leap day comes within eight years.
const HORIZON_DAYS: u64 = 8 * 366;

/// A cron expression; `* * * * *` means continuous.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    day_is_any: bool,
    weekday_is_any: bool,
}

/// Whether sync traffic may flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Window {
    /// Continuous mode.
    Always,
    /// Inside a window.
    Open {
        /// When the window ends.
        until: UnixSeconds,
    },
    /// Outside every window.
    Closed {
        /// When the next one opens; `None` when the schedule never fires again.
        next: Option<UnixSeconds>,
    },
}

impl Schedule {
    /// `* * * * *`
    pub fn continuous() -> Schedule {
        // The expression is valid: a test parses it.
        "* * * * *".parse().unwrap_or_else(|_| unreachable!("the continuous schedule is valid"))
    }

    /// `0 0 * * *`: every midnight.
    pub fn daily() -> Schedule {
        "0 0 * * *".parse().unwrap_or_else(|_| unreachable!("the daily schedule is valid"))
    }

    /// Whether this is the continuous schedule.
    pub fn is_continuous(&self) -> bool {
        self.text == "* * * * *"
    }

    /// The first occurrence strictly after `time`.
    pub fn next_after(&self, time: UnixSeconds) -> Option<UnixSeconds> {
        if time.0 > LAST_TIME {
            return None;
        }
        let first_minute = time.0 / 60 + 1;
        let mut day = first_minute / 1440;
        let last_day = day + HORIZON_DAYS;
        let mut from_minute = first_minute % 1440;
        while day <= last_day {
            if self.fires_on(day)
                && let Some(minute) = (from_minute..1440).find(|m| self.fires_at(*m))
            {
                let next = (day * 1440 + minute) * 60;
                return (next <= LAST_TIME).then_some(UnixSeconds(next));
            }
            day += 1;
            from_minute = 0;
        }
        None
    }

    /// Whether it comes to pass at all after `time`; an error says that it does not, and what
    /// helps. `never`: what would not happen then.
    pub fn check_occurs(&self, time: UnixSeconds, never: &str) -> Result<(), String> {
        match self.next_after(time) {
            Some(_) => Ok(()),
            None => Err(format!(
                "the schedule '{self}' has no occurrence in the next eight years, so {never}. Name \
                 a day that its months have, such as '0 0 28 * *'"
            )),
        }
    }

    /// The last occurrence at or before `time`.
    pub fn last_until(&self, time: UnixSeconds) -> Option<UnixSeconds> {
        let last_minute = time.0.min(LAST_TIME) / 60;
        let mut day = last_minute / 1440;
        let first_day = day.saturating_sub(HORIZON_DAYS);
        let mut to_minute = last_minute % 1440;
        loop {
            if self.fires_on(day)
                && let Some(minute) = (0..=to_minute).rev().find(|m| self.fires_at(*m))
            {
                return Some(UnixSeconds((day * 1440 + minute) * 60));
            }
            if day == first_day {
                return None;
            }
            day -= 1;
            to_minute = 1439;
        }
    }

    /// How long a window is, seconds: as given, else the shortest one; `None` in continuous mode.
    pub fn window_s(&self, given: Option<u64>) -> Option<u64> {
        (!self.is_continuous()).then(|| given.unwrap_or(SYNC_WINDOW_S_MIN))
    }

    /// Whether a window after an occurrence is open at `now`; its length as in
    /// [`Schedule::window_s`].
    pub fn window(&self, window_s: Option<u64>, now: UnixSeconds) -> Window {
        let Some(window_s) = self.window_s(window_s) else {
            return Window::Always;
        };
        match self.last_until(now) {
            Some(start) if now < start.plus(window_s) => {
                Window::Open { until: start.plus(window_s) }
            }
            _ => Window::Closed { next: self.next_after(now) },
        }
    }

    fn fires_at(&self, minute_of_day: u64) -> bool {
        has(self.hours, minute_of_day / 60) && has(self.minutes, minute_of_day % 60)
    }

    /// Vixie's rule: when both day fields are restricted, either may match.
    fn fires_on(&self, days_since_1970: u64) -> bool {
        let Some(date) = date(days_since_1970) else {
            return false;
        };
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        let weekday = date.weekday().to_sunday_zero_offset().unsigned_abs();
        if !has(self.months, month.into()) {
            return false;
        }
        let (day, weekday) = (day.into(), weekday.into());
        match (self.day_is_any, self.weekday_is_any) {
            (false, false) => has(self.days, day) || has(self.weekdays, weekday),
            _ => has(self.days, day) && has(self.weekdays, weekday),
        }
    }
}

/// `None` after the year 9999.
fn date(days_since_1970: u64) -> Option<Date> {
    let hours = i64::try_from(days_since_1970).ok()?.checked_mul(24)?;
    Date::constant(1970, 1, 1).checked_add(SignedDuration::try_from_hours(hours)?).ok()
}

fn has(set: u64, value: u64) -> bool {
    set >> value & 1 == 1
}

/// Why a text is no schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScheduleError(String);

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScheduleError {}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Schedule, ScheduleError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(ScheduleError(format!(
                "invalid schedule '{text}': it has {} fields; five are needed: minute, hour, day \
                 of month, month, day of week",
                fields.len()
            )));
        };
        let parse = |name: &str, field: &str, low: u64, high: u64| {
            parse_field(field, low, high).ok_or_else(|| {
                ScheduleError(format!(
                    "invalid schedule '{text}': {name} '{field}' is not made of {low} to {high}, \
                     '*', lists, ranges and steps"
                ))
            })
        };
        let mut weekdays = parse("day of week", weekday, 0, 7)?;
        // 7 is Sunday too.
        weekdays |= weekdays >> 7 & 1;
        Ok(Schedule {
            text: fields.join(" "),
            minutes: parse("minute", minute, 0, 59)?,
            hours: parse("hour", hour, 0, 23)?,
            days: parse("day of month", day, 1, 31)?,
            months: parse("month", month, 1, 12)?,
            weekdays,
            day_is_any: day.starts_with('*'),
            weekday_is_any: weekday.starts_with('*'),
        })
    }
}

/// Lists of `*`, `a`, `a-b`, each with an optional `/step`; `a/step` runs to the end, as az sends.
fn parse_field(field: &str, low: u64, high: u64) -> Option<u64> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|n| digits && (low..=high).contains(n))
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u64>().ok().filter(|s| *s > 0)?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            None if step.is_some() => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return None;
        }
        let step = usize::try_from(step.unwrap_or(1)).ok()?;
        (from..=to).step_by(step).for_each(|n| set |= 1 << n);
    }
    Some(set)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Schedule, D::Error> {
        text::parse(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixSeconds {
        UnixSeconds::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn occurrences() {
        for (cron, after, next) in [
            ("0 12 * * *", "2026-11-21T11:59:59Z", Some("2026-11-21T12:00:00Z")),
            ("0 12 * * *", "2026-11-21T12:00:00Z", Some("2026-11-22T12:00:00Z")),
            ("*/15 * * * *", "2026-11-21T00:07:00Z", Some("2026-11-21T00:15:00Z")),
            ("5/20 * * * *", "2026-11-21T00:26:00Z", Some("2026-11-21T00:45:00Z")),
            ("0 0 29 2 *", "2026-11-21T00:00:00Z", Some("2028-02-29T00:00:00Z")),
            ("0 0 31 2 *", "2026-11-21T00:00:00Z", None),
            ("0 9 * * 1-5", "2026-11-20T09:00:00Z", Some("2026-11-23T09:00:00Z")),
            ("0 0 * * 7", "2026-11-21T00:00:00Z", Some("2026-11-22T00:00:00Z")),
            ("0 0 13 * 5", "2026-11-21T00:00:00Z", Some("2026-11-27T00:00:00Z")),
            ("30 6,18 1 1,7 *", "2026-11-21T00:00:00Z", Some("2027-01-01T06:30:00Z")),
        ] {
            let schedule: Schedule = cron.parse().unwrap();
            assert_eq!(schedule.next_after(at(after)), next.map(at), "{cron} after {after}");
            if let Some(next) = next {
                assert_eq!(schedule.last_until(at(next)), Some(at(next)), "{cron} at {next}");
            }
        }
    }

    #[test]
    fn windows() {
        let schedule: Schedule = "0 12 * * *".parse().unwrap();
        let (start, end) = (at("2026-11-21T12:00:00Z"), at("2026-11-21T15:00:00Z"));
        assert_eq!(
            schedule.window(Some(3 * 3600), at("2026-11-21T11:59:59Z")),
            Window::Closed { next: Some(start) }
        );
        assert_eq!(schedule.window(Some(3 * 3600), start), Window::Open { until: end });
        assert_eq!(
            schedule.window(Some(3 * 3600), at("2026-11-21T14:59:59Z")),
            Window::Open { until: end }
        );
        assert!(matches!(schedule.window(Some(3 * 3600), end), Window::Closed { .. }));
        assert_eq!(Schedule::continuous().window(None, start), Window::Always);
    }

    #[test]
    fn refuses_what_is_no_schedule() {
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "a * * * *",
            "*/0 * * * *",
            "5-1 * * * *",
            "+5 * * * *",
            "1,,2 * * * *",
        ] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn extreme_times_do_not_panic() {
        let schedule: Schedule = "0 0 29 2 *".parse().unwrap();
        for time in [0, 1, u64::MAX / 2, u64::MAX] {
            let _ = schedule.next_after(UnixSeconds(time));
        }
        assert_eq!(schedule.last_until(UnixSeconds(0)), None);
        // The window that it would open could never be seen: nothing is later than the last time.
        assert_eq!(Schedule::daily().next_after(UnixSeconds(LAST_TIME)), None);
    }
}

//! Wall-clock time and durations as the interfaces write them.

use std::fmt;

use jiff::{Span, SpanRelativeTo, SpanRound, Unit};
use serde::{Deserialize, Serialize};

/// By how much a clock that is right may be put back, seconds.
const CLOCK_LEEWAY_S: u64 = 60;

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This time plus `seconds`, never wrapping.
    pub fn plus(self, seconds: u64) -> UnixSeconds {
        UnixSeconds(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this time; zero when `earlier` is later.
    pub fn since(self, earlier: UnixSeconds) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether this time can have been, at `now`: one further ahead than clocks differ was told by
    /// a clock that was wrong, and counts as unknown. While the present time is unknown, any can.
    pub fn is_past(self, now: Option<UnixSeconds>) -> bool {
        now.is_none_or(|now| self.since(now) <= CLOCK_LEEWAY_S)
    }

    /// RFC 3339 in UTC, as the management API prints times.
    pub fn rfc3339(self) -> String {
        // The last second jiff can print, in the year 9999, bounds the conversion.
        const LAST: i64 = 253_402_207_200;
        let seconds = i64::try_from(self.0).unwrap_or(LAST).min(LAST);
        jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
    }

    /// Parses RFC 3339; `None` before 1970 or when malformed.
    pub fn parse_rfc3339(text: &str) -> Option<UnixSeconds> {
        let timestamp: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(timestamp.as_second()).ok().map(UnixSeconds)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// Parses an ISO 8601 duration such as `PT1H` or `P2D` into seconds; a month or a year has no
/// fixed length and is refused.
pub fn parse_duration_s(text: &str) -> Option<u64> {
    if !text.starts_with('P') {
        return None;
    }
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    u64::try_from(duration.as_secs()).ok()
}

/// Prints seconds as an ISO 8601 duration in days, hours, minutes and seconds.
pub fn format_duration(seconds: u64) -> String {
    // The longest span that jiff has, 20,000 years, bounds the conversion.
    const LONGEST: i64 = 631_107_417_600;
    let seconds = i64::try_from(seconds).unwrap_or(LONGEST).min(LONGEST);
    let in_days = SpanRound::new().largest(Unit::Day).days_are_24_hours();
    Span::new().seconds(seconds).round(in_days).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for (text, seconds) in [
            ("PT1H", 3600),
            ("P2D", 172_800),
            ("P1DT2H3M4S", 93_784),
            ("PT0S", 0),
            ("P7D", 604_800),
        ] {
            assert_eq!(parse_duration_s(text), Some(seconds), "{text}");
            assert_eq!(format_duration(seconds), text);
        }
        assert_eq!(parse_duration_s("P1W"), Some(604_800));
        assert_eq!(format_duration(60), "PT1M");
        assert!(format_duration(u64::MAX).starts_with("P73"));
        for bad in ["", "1h", "P", "P1M", "P1Y", "-PT1H", "PT", "soon", "P1D1H"] {
            assert_eq!(parse_duration_s(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_never_panic() {
        assert_eq!(UnixSeconds(0).rfc3339(), "1970-01-01T00:00:00Z");
        assert!(UnixSeconds(u64::MAX).rfc3339().starts_with("9999"));
        assert_eq!(UnixSeconds::parse_rfc3339("1969-12-31T00:00:00Z"), None);
        let time = UnixSeconds::parse_rfc3339("2026-11-21T01:02:03Z").unwrap();
        assert_eq!(time.rfc3339(), "2026-11-21T01:02:03Z");
    }
}

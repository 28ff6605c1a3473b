//! Wall-clock time and durations as the interfaces write them.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    let span: jiff::Span = text.parse().ok()?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return None;
    }
    let days = i64::from(span.get_weeks()) * 7 + i64::from(span.get_days());
    let seconds = days * 86_400
        + i64::from(span.get_hours()) * 3600
        + span.get_minutes() * 60
        + span.get_seconds();
    u64::try_from(seconds).ok()
}

/// Prints seconds as an ISO 8601 duration in days, hours, minutes and seconds.
pub fn format_duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hours, rest) = (rest / 3600, rest % 3600);
    let (minutes, seconds) = (rest / 60, rest % 60);
    let mut text = String::from("P");
    if days > 0 {
        text.push_str(&format!("{days}D"));
    }
    if hours + minutes + seconds > 0 || days == 0 {
        text.push('T');
        for (value, unit) in [(hours, 'H'), (minutes, 'M'), (seconds, 'S')] {
            if value > 0 {
                text.push_str(&format!("{value}{unit}"));
            }
        }
        if text.ends_with('T') {
            text.push_str("0S");
        }
    }
    text
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
        for bad in ["", "1h", "P", "P1M", "P1Y", "-PT1H", "PT", "soon"] {
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

//! The log: lines on stderr, in the form that reads best where they go.
//!
//! Under systemd each line begins with `<N>`, the priority (sd-daemon(3)), and carries no time,
//! for the journal adds it. Elsewhere a line is `time level message`.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use log::{Level, LevelFilter, Record};

use super::{Clock, SystemClock};

/// Starts the log. `level` holds for the program itself; libraries may only warn.
pub fn init(level: LevelFilter) {
    let journal = goes_to_journal();
    let clock = SystemClock::new();
    let mut builder = filtered();
    builder.format(move |out, record| {
        let time = (!journal).then(|| match clock.wall() {
            Some(time) => time.rfc3339(),
            None => "(time unknown)".to_owned(),
        });
        writeln!(out, "{}", Line { record, time: time.as_deref() })
    });
    // A second start, in a test, keeps the first writer.
    let _ = builder.try_init();
    set_level(level);
}

/// What is logged below the ceiling that [`set_level`] moves while the program runs.
fn filtered() -> env_logger::Builder {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Warn).filter_module("skerry", LevelFilter::Trace);
    // It warns of what a peer sends: with an address as the name of the server, which many clients
    // send, once for each connection. What fails for that is an error, which has a line of ours.
    builder.filter_module("rustls", LevelFilter::Error);
    builder
}

/// Changes the level while the program runs.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Whether stderr is the journal's stream: systemd names its device and inode (systemd.exec(5)).
fn goes_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else {
        return false;
    };
    is_stream(&stream, stat.st_dev, stat.st_ino)
}

fn is_stream(variable: &str, device: u64, inode: u64) -> bool {
    variable.split_once(':').is_some_and(|(wanted_device, wanted_inode)| {
        wanted_device.parse() == Ok(device) && wanted_inode.parse() == Ok(inode)
    })
}

/// One record as one line; `time` is `None` under the journal.
struct Line<'a> {
    record: &'a Record<'a>,
    time: Option<&'a str>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.record.level();
        match self.time {
            None => write!(f, "<{}>", priority(level))?,
            Some(time) => write!(f, "{time} {:<5} ", level.as_str().to_ascii_lowercase())?,
        }
        write!(OneLine(f), "{}", self.record.args())
    }
}

/// As syslog(3) counts.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Escapes control characters: what a peer sent must not look like a line of ours.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(char::is_control) {
            match piece.chars().next_back() {
                Some(last) if last.is_control() => {
                    self.0.write_str(&piece[..piece.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                _ => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use log::Metadata;

    use super::*;

    fn line(level: Level, message: &str, time: Option<&str>) -> String {
        let args = format_args!("{message}");
        let record = Record::builder().level(level).args(args).build();
        Line { record: &record, time }.to_string()
    }

    #[test]
    fn p015_a_line_has_a_priority_only_under_the_journal() {
        assert_eq!(line(Level::Error, "lost", None), "<3>lost");
        assert_eq!(line(Level::Warn, "late", None), "<4>late");
        assert_eq!(line(Level::Info, "ready", None), "<6>ready");
        assert_eq!(line(Level::Debug, "x", None), "<7>x");
        let plain = line(Level::Info, "ready", Some("2026-01-01T00:00:00Z"));
        assert_eq!(plain, "2026-01-01T00:00:00Z info  ready");
    }

    #[test]
    fn f209_what_a_peer_sends_in_a_handshake_is_no_line_of_the_log() {
        let logger = filtered().build();
        let is_logged = |target: &str, level: Level| {
            log::Log::enabled(&logger, &Metadata::builder().target(target).level(level).build())
        };
        assert!(!is_logged("rustls::msgs::handshake", Level::Warn));
        assert!(is_logged("rustls::conn", Level::Error));
        assert!(is_logged("sled::pagecache", Level::Warn) && !is_logged("sled", Level::Info));
        assert!(is_logged("skerry::http::server", Level::Debug));
    }

    #[test]
    fn a_message_stays_on_its_line() {
        assert_eq!(line(Level::Info, "a\n<3>b\u{7}c", None), "<6>a\\n<3>b\\u{7}c");
    }

    #[test]
    fn the_stream_must_match_in_both_numbers() {
        assert!(is_stream("9:4711", 9, 4711));
        for other in ["9:4712", "8:4711", "9", "", "9:4711:1"] {
            assert!(!is_stream(other, 9, 4711), "{other}");
        }
    }
}

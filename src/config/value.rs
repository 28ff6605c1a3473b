//! Single values: from a file, the environment or a flag into a type, and back for people.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo, SpanRound, Unit};
use log::LevelFilter;
use toml::de::DeValue;

use super::model::{Listener, ParentKind, Quota, RoleSetting, Scheme, Secret, TlsMode, Verify};
use crate::types::schedule::Schedule;
use crate::types::{Namespace, RepositoryPattern};

/// A value before its type is known.
pub(super) enum Value {
    /// From the environment or a flag: text that may mean any type; a list has commas, or is an
    /// array as TOML writes it.
    Word(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Boolean(bool),
    /// A TOML array.
    List(Vec<Value>),
    /// A TOML table.
    Table(Vec<(String, Value)>),
    /// A type that no key has.
    Other(&'static str),
}

impl Value {
    /// Takes over a parsed TOML value.
    pub(super) fn from_toml(value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other("an integer beyond 64 bits"), Value::Integer),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| Value::from_toml(item.get_ref())).collect())
            }
            DeValue::Table(table) => Value::Table(
                table
                    .iter()
                    .map(|(key, value)| {
                        (key.get_ref().to_string(), Value::from_toml(value.get_ref()))
                    })
                    .collect(),
            ),
            DeValue::Float(_) => Value::Other("a float"),
            DeValue::Datetime(_) => Value::Other("a date"),
        }
    }

    /// The array that a word is in TOML, if it is one: `[::1]:81` is none.
    fn array(&self) -> Option<Value> {
        let Value::Word(text) = self else {
            return None;
        };
        let value = DeValue::parse(text.trim()).ok()?;
        matches!(value.get_ref(), DeValue::Array(_)).then(|| Value::from_toml(value.get_ref()))
    }

    fn kind(&self) -> &'static str {
        match self {
            Value::Word(_) | Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Boolean(_) => "a boolean",
            Value::List(_) => "an array",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }

    fn text(&self, wanted: &str) -> Result<&str, String> {
        match self {
            Value::Word(text) | Value::Text(text) => Ok(text),
            other => Err(format!("must be {wanted}, not {}", other.kind())),
        }
    }

    fn parse<T: FromStr>(&self, wanted: &str) -> Result<T, String> {
        let text = self.text(wanted)?;
        text.parse().map_err(|_| format!("must be {wanted}, not \"{text}\""))
    }
}

/// The type of a key: how it is read, and how it is shown as TOML (`None`: not set).
pub(super) trait Setting: Sized {
    /// Takes a value, or says what it must be.
    fn read(value: &Value) -> Result<Self, String>;
    /// As TOML writes it.
    fn show(&self) -> Option<String>;
}

fn quoted(text: impl fmt::Display) -> Option<String> {
    Some(format!("{:?}", text.to_string()))
}

impl Setting for String {
    fn read(value: &Value) -> Result<String, String> {
        value.text("a string").map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn read(value: &Value) -> Result<PathBuf, String> {
        match value.text("a path")? {
            "" => Err("must be a path, not empty".to_owned()),
            text => Ok(PathBuf::from(text)),
        }
    }

    fn show(&self) -> Option<String> {
        quoted(self.display())
    }
}

impl Setting for Secret {
    fn read(value: &Value) -> Result<Secret, String> {
        value.text("a string").map(Secret::new)
    }

    fn show(&self) -> Option<String> {
        (!self.is_empty()).then(|| "\"(redacted)\"".to_owned())
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value) -> Result<Option<T>, String> {
        match value {
            Value::Word(text) if text.is_empty() => Ok(None),
            value => T::read(value).map(Some),
        }
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

impl Setting for Vec<String> {
    fn read(value: &Value) -> Result<Vec<String>, String> {
        match value.array().as_ref().unwrap_or(value) {
            Value::Word(text) => {
                Ok(text.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect())
            }
            Value::List(items) => items.iter().map(String::read).collect(),
            other => Err(format!("must be an array of strings, not {}", other.kind())),
        }
    }

    fn show(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(String::show).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// A list of texts that each mean something.
fn read_each<T: FromStr<Err: fmt::Display>>(value: &Value) -> Result<Vec<T>, String> {
    let texts = Vec::<String>::read(value)?;
    texts.iter().map(|text| text.parse().map_err(|fault| format!("\"{text}\": {fault}"))).collect()
}

fn show_each(items: &[impl ToString]) -> Option<String> {
    items.iter().map(ToString::to_string).collect::<Vec<String>>().show()
}

impl Setting for Vec<Namespace> {
    fn read(value: &Value) -> Result<Vec<Namespace>, String> {
        read_each(value)
    }

    fn show(&self) -> Option<String> {
        show_each(self)
    }
}

impl Setting for Vec<RepositoryPattern> {
    fn read(value: &Value) -> Result<Vec<RepositoryPattern>, String> {
        read_each(value)
    }

    fn show(&self) -> Option<String> {
        show_each(self)
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.repositories, self.size)
    }
}

impl FromStr for Quota {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Quota, &'static str> {
        let parts = text.split_once('=').and_then(|(repositories, size)| {
            Some(Quota { repositories: repositories.parse().ok()?, size: size.parse().ok()? })
        });
        parts.ok_or("must be <repository>=<size>, such as \"team/*=10GiB\"")
    }
}

impl Setting for Vec<Quota> {
    fn read(value: &Value) -> Result<Vec<Quota>, String> {
        read_each(value)
    }

    fn show(&self) -> Option<String> {
        show_each(self)
    }
}

impl Setting for usize {
    fn read(value: &Value) -> Result<usize, String> {
        const WANTED: &str = "a whole number that is not negative";
        match value {
            Value::Integer(number) => {
                usize::try_from(*number).map_err(|_| format!("must be {WANTED}, not {number}"))
            }
            Value::Word(_) => value.parse(WANTED),
            other => Err(format!("must be {WANTED}, not {}", other.kind())),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A size in bytes, written as `"64MiB"` or as a number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = ();

    fn from_str(text: &str) -> Result<ByteSize, ()> {
        let unit = UNITS.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)));
        let (number, size) = unit.unwrap_or((text.strip_suffix('B').unwrap_or(text), 1));
        let number: u64 = number.trim_end().parse().map_err(|_| ())?;
        number.checked_mul(size).map(ByteSize).ok_or(())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = UNITS[..4].iter().rev();
        let mut fitting = binary.filter(|(_, size)| self.0 != 0 && self.0.is_multiple_of(*size));
        match fitting.next() {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Setting for ByteSize {
    fn read(value: &Value) -> Result<ByteSize, String> {
        const WANTED: &str = "a size such as \"64MiB\"";
        match value {
            Value::Integer(number) => u64::try_from(*number)
                .map(ByteSize)
                .map_err(|_| format!("must be {WANTED}, not {number}")),
            other => other.parse(WANTED),
        }
    }

    fn show(&self) -> Option<String> {
        quoted(self)
    }
}

impl Setting for Duration {
    fn read(value: &Value) -> Result<Duration, String> {
        const WANTED: &str = "a time such as \"75m\", \"3h\", \"7d\" or \"PT75M\"";
        let span: Span = value.parse(WANTED)?;
        // The length of a month or a year is not known without a date.
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
        let duration = duration.map_err(|_| format!("must be {WANTED}, in weeks at most"))?;
        Duration::try_from(duration).map_err(|_| format!("must be {WANTED}, not negative"))
    }

    fn show(&self) -> Option<String> {
        let in_days = SpanRound::new().largest(Unit::Day).days_are_24_hours();
        let span = Span::try_from(*self).and_then(|span| span.round(in_days)).ok()?;
        quoted(format_args!("{span:#}"))
    }
}

/// Reads `gc.grace`. Whoever means no grace at all is told why there is none, with or without a
/// unit.
pub(super) fn grace(value: &Value) -> Result<Duration, String> {
    let is_bare_zero = match value {
        Value::Integer(number) => *number == 0,
        Value::Word(text) | Value::Text(text) => text.trim() == "0",
        _ => false,
    };
    let grace = if is_bare_zero { Duration::ZERO } else { Duration::read(value)? };
    if grace.is_zero() {
        let text = "must not be 0: a layer would be deleted between its push and that of its \
                    manifest; the default is \"1h\"";
        return Err(text.to_owned());
    }
    Ok(grace)
}

impl Setting for bool {
    fn read(value: &Value) -> Result<bool, String> {
        match value {
            Value::Boolean(flag) => Ok(*flag),
            value => value.parse("true or false"),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for Schedule {
    fn read(value: &Value) -> Result<Schedule, String> {
        value.parse("five cron fields such as \"0 0 * * *\"")
    }

    fn show(&self) -> Option<String> {
        quoted(self)
    }
}

impl Setting for Vec<Listener> {
    fn read(value: &Value) -> Result<Vec<Listener>, String> {
        let listeners: Vec<Listener> = match value.array().as_ref().unwrap_or(value) {
            Value::Word(text) => text.split(',').map(|t| listen(t.trim())).collect(),
            Value::List(items) => items.iter().map(one_listener).collect(),
            other => one_listener(other).map(|listener| vec![listener]),
        }?;
        if listeners.is_empty() {
            return Err("must name at least one address".to_owned());
        }
        Ok(listeners)
    }

    fn show(&self) -> Option<String> {
        let show = |listener: &Listener| match listener.tls {
            None => format!("\"{}\"", listener.address),
            Some(tls) => format!("{{ address = \"{}\", tls = {tls} }}", listener.address),
        };
        match self.as_slice() {
            [listener] => Some(show(listener)),
            listeners => {
                Some(format!("[{}]", listeners.iter().map(show).collect::<Vec<_>>().join(", ")))
            }
        }
    }
}

fn one_listener(value: &Value) -> Result<Listener, String> {
    const WANTED: &str = "an address such as \"0.0.0.0:5000\" or a table {address, tls}";
    let Value::Table(fields) = value else {
        return listen(value.text(WANTED)?);
    };
    let mut listener = None;
    let mut tls = None;
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("address", value) => listener = Some(listen(value.text(WANTED)?)?),
            ("tls", Value::Boolean(flag)) => tls = Some(*flag),
            ("tls", other) => return Err(format!("tls must be a boolean, not {}", other.kind())),
            (other, _) => {
                return Err(format!("unknown key '{other}' in a listener (address, tls)"));
            }
        }
    }
    let listener = listener.ok_or("a listener needs an address")?;
    Ok(Listener { tls, ..listener })
}

fn listen(text: &str) -> Result<Listener, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!("must be an IP address and a port such as \"0.0.0.0:5000\", not \"{text}\"")
    })?;
    Ok(Listener { address, tls: None })
}

macro_rules! words {
    ($type:ident, $wanted:literal, $($name:literal => $value:ident),+) => {
        impl Setting for $type {
            fn read(value: &Value) -> Result<$type, String> {
                match value.text($wanted)? {
                    $($name => Ok($type::$value),)+
                    other => Err(format!("must be {}, not \"{other}\"", $wanted)),
                }
            }

            fn show(&self) -> Option<String> {
                match self {
                    $($type::$value => quoted($name),)+
                }
            }
        }
    };
}

words!(Scheme, "\"http\" or \"https\"", "http" => Http, "https" => Https);
words!(
    TlsMode, "\"off\", \"self-signed\" or \"files\"",
    "off" => Off, "self-signed" => SelfSigned, "files" => Files
);
words!(
    RoleSetting, "\"auto\", \"root\" or \"connected\"",
    "auto" => Auto, "root" => Root, "connected" => Connected
);
words!(
    Verify, "\"scrub\", \"first-send-per-boot\" or \"first-read-per-boot\"",
    "scrub" => Scrub, "first-send-per-boot" => FirstSendPerBoot,
    "first-read-per-boot" => FirstReadPerBoot
);
words!(ParentKind, "\"skerry\" or \"oci\"", "skerry" => Skerry, "oci" => Oci);
words!(
    LevelFilter, "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    "off" => Off, "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug,
    "trace" => Trace
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        let size = |text: &str| text.parse::<ByteSize>().map(|s| s.0);
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size("5GB"), Ok(5_000_000_000));
        assert_eq!(size("17"), Ok(17));
        assert_eq!(size("17B"), Ok(17));
        assert!(size("").is_err() && size("-1").is_err() && size("99999999999TiB").is_err());
        for text in ["64MiB", "3GiB", "17B", "0B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn times_read_and_print() {
        let read = |text: &str| Duration::read(&Value::Text(text.to_owned()));
        assert_eq!(read("75m"), Ok(Duration::from_secs(4500)));
        assert_eq!(read("PT75M"), Ok(Duration::from_secs(4500)));
        assert_eq!(read("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(read("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(read("2w 1d"), Ok(Duration::from_secs(1_296_000)));
        assert!(read("-1h").is_err() && read("soon").is_err() && read("75").is_err());
        assert!(read("1 month").unwrap_err().contains("weeks"));
        for (seconds, as_shown) in [(4500, "\"1h 15m\""), (604_800, "\"7d\"")] {
            let shown = Duration::from_secs(seconds).show().unwrap();
            assert_eq!(shown, as_shown);
            assert_eq!(read(shown.trim_matches('"')), Ok(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn listeners_take_three_forms() {
        let address = "127.0.0.1:80".parse().unwrap();
        let text = Value::Text("127.0.0.1:80".to_owned());
        assert_eq!(Vec::read(&text), Ok(vec![Listener { address, tls: None }]));
        let table = || {
            Value::Table(vec![
                ("address".to_owned(), Value::Text("127.0.0.1:80".to_owned())),
                ("tls".to_owned(), Value::Boolean(true)),
            ])
        };
        let with_tls = Listener { address, tls: Some(true) };
        assert_eq!(Vec::read(&table()), Ok(vec![with_tls]));
        let list = Value::List(vec![text, table()]);
        assert_eq!(Vec::read(&list), Ok(vec![Listener { address, tls: None }, with_tls]));
        let words = Value::Word("127.0.0.1:80, [::1]:81".to_owned());
        assert_eq!(Vec::<Listener>::read(&words).unwrap().len(), 2);
        assert!(Vec::<Listener>::read(&Value::List(Vec::new())).is_err());
        assert!(Vec::<Listener>::read(&Value::Integer(5000)).is_err());
        assert!(Vec::<Listener>::read(&Value::Text("localhost:5000".to_owned())).is_err());
    }
}

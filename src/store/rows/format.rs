//! The `format` file: which format a store is written in, and who may read it.
//!
//! A version reads the formats from [`Formats::reads_from`] on and writes the newest that it knows,
//! but a store that an older version wrote stays in that version's format, so that the older
//! version can take over again, until `skerry confirm` says that this one is to stay.

use std::fmt;
use std::str::FromStr;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

const FORMAT_TEXT: &str = "skerry store format ";
/// Stands behind the number where versions that know only older formats can read the store too.
const READABLE_TEXT: &str = ", readable from ";

/// What the `format` file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreFormat {
    /// The format that the store is written in.
    pub writes: u32,
    /// The oldest format that a version must know to read the store.
    pub readable_from: u32,
}

impl fmt::Display for StoreFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORMAT_TEXT}{}", self.writes)?;
        match self.readable_from == self.writes {
            true => Ok(()),
            false => write!(f, "{READABLE_TEXT}{}", self.readable_from),
        }
    }
}

impl FromStr for StoreFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<StoreFormat, ()> {
        let text = text.trim_end().strip_prefix(FORMAT_TEXT).ok_or(())?;
        let (writes, from) = text.split_once(READABLE_TEXT).unwrap_or((text, text));
        let number = |text: &str| text.parse::<u32>().map_err(|_| ());
        let format = StoreFormat { writes: number(writes)?, readable_from: number(from)? };
        match (1..=format.writes).contains(&format.readable_from) {
            true => Ok(format),
            false => Err(()),
        }
    }
}

/// The formats that a version knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Formats {
    /// The one that it writes when nothing speaks against it.
    pub newest: u32,
    /// The oldest that it reads, and goes on writing until it is confirmed.
    pub reads_from: u32,
    /// The oldest format that a version must know to read what this one writes in `newest`.
    pub readable_from: u32,
}

impl Formats {
    /// Those of this version.
    pub const OURS: Formats = Formats { newest: FORMAT, reads_from: 1, readable_from: 1 };

    /// What this version's own stores say.
    pub fn newest(self) -> StoreFormat {
        StoreFormat { writes: self.newest, readable_from: self.readable_from }
    }

    /// What can be done with a store of this format.
    pub(in crate::store) fn access(self, stored: StoreFormat) -> Access {
        match stored.writes {
            writes if writes > self.newest && stored.readable_from > self.newest => Access::TooNew,
            writes if writes > self.newest => Access::Read,
            writes if writes < self.reads_from => Access::TooOld,
            _ => Access::Write,
        }
    }
}

/// What a version can do with a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) enum Access {
    /// Read and write it, in the format that the store has.
    Write,
    /// Serve it read-only: a newer version writes it, in rows that this version can read.
    Read,
    /// Nothing: a newer version writes it, in rows that this version cannot read.
    TooNew,
    /// Nothing: it is of a version whose format this one no longer reads.
    TooOld,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_names_who_writes_and_who_can_read() {
        let format = |writes, readable_from| StoreFormat { writes, readable_from };
        for (text, wanted) in [
            ("skerry store format 1", format(1, 1)),
            ("skerry store format 7", format(7, 7)),
            ("skerry store format 3, readable from 2", format(3, 2)),
        ] {
            assert_eq!(text.parse(), Ok(wanted));
            assert_eq!(format!("{text}\n").parse(), Ok(wanted));
            assert_eq!(wanted.to_string(), text);
        }
        for text in [
            "",
            "skerry store format ",
            "skerry store format 0",
            "skerry store format 3, readable from 4",
            "skerry store format 3, readable from 0",
            "skerry store format 3, readable from",
            "skerry store format 3, readable from 2, or so",
            "a skerry store format 1",
        ] {
            assert_eq!(text.parse::<StoreFormat>(), Err(()), "{text}");
        }
        assert_eq!(Formats::OURS.newest().to_string(), "skerry store format 1");
    }

    #[test]
    fn a_version_writes_reads_or_refuses_a_store_by_its_format() {
        let knows = Formats { newest: 3, reads_from: 2, readable_from: 2 };
        for (text, access) in [
            ("1", Access::TooOld),
            ("2", Access::Write),
            ("3, readable from 2", Access::Write),
            ("4, readable from 1", Access::Read),
            ("9, readable from 3", Access::Read),
            ("4", Access::TooNew),
            ("9, readable from 4", Access::TooNew),
        ] {
            let stored = format!("{FORMAT_TEXT}{text}").parse().unwrap();
            assert_eq!(knows.access(stored), access, "{text}");
        }
    }
}

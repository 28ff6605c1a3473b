//! Positions in a change feed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The header in which a node says a child where its feed is: what the answer to a delivery or a
/// question tells is not later.
pub const SEQUENCE: &str = "skerry-sequence";

/// A position in one node's change feed: an epoch and a sequence number.
///
/// The epoch is random; it changes when the node may have forgotten numbers that it had handed
/// out (restore, damage), so that a stale position is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// The feed's epoch.
    pub epoch: u64,
    /// Everything up to this journal sequence has been seen.
    pub sequence: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.epoch, self.sequence)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Cursor, ()> {
        let (epoch, sequence) = text.split_once('.').ok_or(())?;
        Ok(Cursor {
            epoch: u64::from_str_radix(epoch, 16).map_err(|_| ())?,
            sequence: sequence.parse().map_err(|_| ())?,
        })
    }
}

//! The row of a change that the parent refused.

use serde::{Deserialize, Serialize};

use super::outbox::{BareEntry, OutboxEntry};
use super::{Kind, Row, is_default, key, stored_as};
use crate::store::rows;
use crate::types::UnixSeconds;

/// The longest pause of a change that is refused again and again, rounds: a day, when there is a
/// round every hour.
const PAUSE_MAX: u64 = 24;

/// That the parent refused a change: the first that waits of its tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedChange {
    /// What was to be done.
    pub entry: OutboxEntry,
    /// What the parent said last.
    pub reason: String,
    /// When it said no first.
    pub at: UnixSeconds,
    /// Whether it holds its tag up.
    pub state: RefusalState,
    /// How often it was refused after the first time.
    pub again: u32,
}

/// What becomes of a refused change for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalState {
    /// It waits for its next attempt.
    Stands,
    /// It is on its way up again.
    Retried,
}

impl RefusedChange {
    pub(in crate::store) fn stands(&self) -> bool {
        self.state == RefusalState::Stands
    }

    /// Whether it is tried again in this round: after the first refusal in the next, then in every
    /// second, every fourth, and so on; in round 0 always.
    pub(in crate::store) fn is_due(&self, round: u64) -> bool {
        let pause = 1_u64.checked_shl(self.again).unwrap_or(PAUSE_MAX).min(PAUSE_MAX);
        self.stands() && round.is_multiple_of(pause)
    }
}

/// A [`RefusedChange`].
#[derive(Serialize, Deserialize)]
struct RefusedRow {
    entry: BareEntry,
    reason: String,
    at: UnixSeconds,
    #[serde(skip_serializing_if = "is_default")]
    more: RefusedEnd,
}

/// What the first rows did not have.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct RefusedEnd {
    incarnation: u64,
    retried: bool,
    #[serde(skip_serializing_if = "is_default")]
    again: u32,
}

impl Row for RefusedRow {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<RefusedRow, postcard::Error> {
        let ((entry, reason, at), left) = postcard::take_from_bytes(bytes)?;
        Ok(RefusedRow { entry, reason, at, more: RefusedEnd::read(left)? })
    }
}

impl RefusedEnd {
    fn read(left: &[u8]) -> Result<RefusedEnd, postcard::Error> {
        if left.is_empty() {
            return Ok(RefusedEnd::default());
        }
        let ((incarnation, retried), left) = postcard::take_from_bytes(left)?;
        Ok(RefusedEnd { incarnation, retried, again: rows::last(left)? })
    }
}

impl From<&RefusedChange> for RefusedRow {
    fn from(refusal: &RefusedChange) -> RefusedRow {
        let (retried, incarnation) = (!refusal.stands(), refusal.entry.id.incarnation);
        let more = RefusedEnd { incarnation, retried, again: refusal.again };
        let entry = BareEntry::of(&refusal.entry);
        RefusedRow { entry, reason: refusal.reason.clone(), at: refusal.at, more }
    }
}

impl From<RefusedRow> for RefusedChange {
    fn from(row: RefusedRow) -> RefusedChange {
        let RefusedRow { entry, reason, at, more } = row;
        let entry = entry.with(more.incarnation);
        let state = if more.retried { RefusalState::Retried } else { RefusalState::Stands };
        RefusedChange { entry, reason, at, state, again: more.again }
    }
}

stored_as!(RefusedChange, RefusedRow);

pub(in crate::store) fn refused_key(number: u64) -> Vec<u8> {
    key(Kind::DeadLetter, &[&number.to_be_bytes()])
}

//! How far the parent's feed was when it gave what this node has from it, and when it last answered
//! a delivery: a parent that is not there any more has lost some of that.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::store::rows::node::{Fact, heard_key};
use crate::store::{Store, StoreError, Txn};

impl Store {
    /// The highest sequence of the parent's feed that an answer, to a delivery or a question, was
    /// of: what was taken from it is not later.
    pub fn heard(&self) -> Result<u64, StoreError> {
        Ok(match self.get(&heard_key())? {
            Some(Fact::Epoch(sequence)) => sequence,
            _ => 0,
        })
    }

    /// Where whoever asks the parent notes the highest sequence that the answers of this session
    /// are of, at most; 0: the parent does not tell. The next record that takes something from the
    /// parent has it too.
    pub fn hearing(&self) -> Arc<AtomicU64> {
        self.shared().heard.clone()
    }
}

/// Notes how new that may be which a command has taken from the parent. Call it last in the
/// command: what changes nothing is not to be written.
pub(in crate::store) fn note_taken(txn: &mut Txn<'_>) -> Result<(), StoreError> {
    if txn.has_changed() { note(txn, txn.heard()) } else { Ok(()) }
}

/// Notes one more, in the record that takes the delivered change out.
pub(super) fn note(txn: &mut Txn<'_>, sequence: u64) -> Result<(), StoreError> {
    let is_news = match txn.get(&heard_key())? {
        Some(Fact::Epoch(before)) => sequence > before,
        _ => sequence > 0,
    };
    if is_news { txn.put(heard_key(), &Fact::Epoch(sequence)) } else { Ok(()) }
}

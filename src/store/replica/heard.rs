//! How far the parent's feed was when it last answered a delivery: a parent that is not there any
//! more has lost it.

use crate::store::rows::node::{Fact, heard_key};
use crate::store::{Store, StoreError, Txn};

impl Store {
    /// The highest sequence of the parent's feed that a delivery was answered with.
    pub fn heard(&self) -> Result<u64, StoreError> {
        Ok(match self.get(&heard_key())? {
            Some(Fact::Epoch(sequence)) => sequence,
            _ => 0,
        })
    }
}

/// Notes one more, in the record that takes the delivered change out.
pub(super) fn note(txn: &mut Txn<'_>, sequence: u64) -> Result<(), StoreError> {
    let is_news = match txn.get(&heard_key())? {
        Some(Fact::Epoch(before)) => sequence > before,
        _ => sequence > 0,
    };
    if is_news { txn.put(heard_key(), &Fact::Epoch(sequence)) } else { Ok(()) }
}

//! Which changes of connected registries below have taken effect here: a delivery whose answer
//! was lost comes again, and must not have a second effect.

use serde::{Deserialize, Serialize};

use super::outbox::Origin;
use super::row::{Kind, Row, key};
use super::{StoreError, Txn};
use crate::types::RepositoryName;

/// The outbox number of the last change of one origin in one repository that took effect here.
/// Changes of one origin in one repository arrive in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Delivered(u64);

impl Row for Delivered {
    const VERSION: u8 = 1;
}

fn delivered_key(origin: &Origin, repository: &RepositoryName) -> Option<(Vec<u8>, u64)> {
    let Origin::Child(id) = origin else {
        return None;
    };
    let parts = [id.origin.as_str().as_bytes(), repository.as_str().as_bytes()];
    Some((key(Kind::Delivered, &parts), id.sequence))
}

/// Whether this delivery has already taken effect.
pub(super) fn is_replay(
    txn: &Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
) -> Result<bool, StoreError> {
    let Some((key, sequence)) = delivered_key(origin, repository) else {
        return Ok(false);
    };
    Ok(txn.get::<Delivered>(&key)?.is_some_and(|last| sequence <= last.0))
}

/// Records that this delivery takes effect. Call it in the command that has the effect.
pub(super) fn record(
    txn: &mut Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
) -> Result<(), StoreError> {
    match delivered_key(origin, repository) {
        Some((key, sequence)) => txn.put(key, &Delivered(sequence)),
        None => Ok(()),
    }
}

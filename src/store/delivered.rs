//! Which changes of connected registries below have taken effect here: a delivery whose answer
//! was lost comes again, and must not have a second effect.

use serde::{Deserialize, Serialize};

use super::outbox::Origin;
use super::row::{Kind, Row, key, prefix};
use super::{StoreError, Txn};
use crate::types::{ConnectedRegistryName, RepositoryName};

/// The outbox number of the last change of one origin in one repository that took effect here.
/// Changes of one origin in one repository arrive in order. A store that was made anew or restored
/// there counts over again, under another incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Delivered(u64);

impl Row for Delivered {
    const VERSION: u8 = 1;
}

fn delivered_key(origin: &Origin, repository: &RepositoryName) -> Option<(Vec<u8>, u64)> {
    let Origin::Child(id) = origin else {
        return None;
    };
    let (origin, incarnation) = (id.origin.as_str().as_bytes(), id.incarnation.to_be_bytes());
    let parts = [origin, repository.as_str().as_bytes(), &incarnation];
    let known = if id.incarnation == 0 { &parts[..2] } else { &parts };
    Some((key(Kind::Delivered, known), id.sequence))
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

/// Forgets the deliveries of a connected registry that is deleted: one of the same name that comes
/// later is another one.
pub(super) fn forget(txn: &mut Txn<'_>, origin: &ConnectedRegistryName) -> Result<(), StoreError> {
    for (key, _) in
        txn.scan::<Delivered>(&prefix(Kind::Delivered, &[origin.as_str().as_bytes()]))?
    {
        txn.delete(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::manifests::testing::{digest, push, store};
    use super::super::outbox::OutboxId;
    use super::super::{Precondition, Store};
    use super::*;

    fn child(origin: &str, incarnation: u64, sequence: u64) -> Origin {
        Origin::Child(OutboxId { origin: origin.parse().unwrap(), incarnation, sequence })
    }

    /// Delivers that `v1` of `app` names this; what it names afterwards.
    async fn deliver(store: &Store, number: u8, origin: &Origin) -> u8 {
        let (app, v1) = ("app".parse().unwrap(), "v1".parse().unwrap());
        let any = Precondition::None;
        store.set_tag(&app, &v1, &digest(number), any, origin).await.unwrap();
        store.tag(&app, &v1).unwrap().unwrap().raw()[0]
    }

    #[test]
    fn f130_a_store_that_counts_over_again_is_not_taken_for_the_one_before() {
        smol::block_on(async {
            let store = store();
            for number in 1..=6 {
                push(&store, "app", number, &[]).await;
            }
            assert_eq!(deliver(&store, 1, &child("dock01", 0, 8)).await, 1);
            assert_eq!(deliver(&store, 2, &child("dock01", 0, 7)).await, 1, "a replay");
            assert_eq!(deliver(&store, 2, &child("dock01", 9, 7)).await, 2, "another life");
            assert_eq!(deliver(&store, 3, &child("dock01", 9, 7)).await, 2, "a replay in that");
            assert_eq!(deliver(&store, 3, &child("dock01", 10, 1)).await, 3);
            assert_eq!(deliver(&store, 4, &child("dock02", 9, 1)).await, 4);
            let dock = "dock01".parse().unwrap();
            store.commit(move |txn| forget(txn, &dock)).await.unwrap();
            assert_eq!(deliver(&store, 5, &child("dock01", 0, 1)).await, 5, "another dock01");
            assert_eq!(deliver(&store, 6, &child("dock02", 9, 1)).await, 5, "the same dock02");
        });
    }
}

//! The instances behind connected registries, as their parents record them.

use crate::store::rows::connected_registry::{StatusRecord, activation_key, status_key};
use crate::store::{Store, StoreError};
use crate::types::connected_registry::{Activation, StatusReport};
use crate::types::{ConnectedRegistryName, UnixSeconds};

/// Records an activation durably. `Conflict` when another instance holds the same epoch, unless
/// the `authority` over the node, its direct parent, lies below: then its word counts.
pub(super) async fn activate(
    store: &Store,
    name: &ConnectedRegistryName,
    new: Activation,
    authority_below: bool,
) -> Result<(), StoreError> {
    let key = activation_key(name);
    store
        .commit(move |txn| {
            if let Some(old) = txn.get::<Activation>(&key)? {
                let same = old.instance_id == new.instance_id;
                if old.epoch == new.epoch && same {
                    return Ok(());
                }
                if old.epoch > new.epoch || (old.epoch == new.epoch && !authority_below) {
                    return Err(StoreError::Conflict("another instance is active".to_owned()));
                }
            }
            txn.put(key, &new)
        })
        .await
}

/// Records a status report durably, unless it says what the last one said.
pub(super) async fn record_status(
    store: &Store,
    name: &ConnectedRegistryName,
    report: StatusReport,
) -> Result<(), StoreError> {
    let clock = &store.sys().clock;
    let (key, now, last_contact) = (status_key(name), clock.wall(), clock.wall_or_floor());
    store
        .commit(move |txn| {
            let old = txn.get::<StatusRecord>(&key)?.map(|record| record.report);
            let known = old.as_ref().and_then(|report| report.last_sync);
            let last_sync = later_sync(known, report.last_sync, now);
            let report = StatusReport { last_sync, ..report };
            if old.as_ref() == Some(&report) {
                return Ok(());
            }
            txn.put(key, &StatusRecord { report, last_contact })
        })
        .await
}

/// The later of what was known and what is told: a device knows its last sync only roughly after a
/// restart, and reports may overtake each other. What lies in the future here is a wrong clock's.
fn later_sync(
    known: Option<UnixSeconds>,
    told: Option<UnixSeconds>,
    now: Option<UnixSeconds>,
) -> Option<UnixSeconds> {
    let Some(now) = now else {
        return known.max(told);
    };
    known.filter(|known| *known <= now).max(told.map(|told| told.min(now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Spawner, Sys};

    #[test]
    fn f212_the_last_sync_does_not_run_backwards() {
        let at = |seconds: u64| Some(UnixSeconds(seconds));
        for (known, told, now, expected) in [
            (None, at(5), at(9), at(5)),
            (at(5), at(7), at(9), at(7)),
            (at(7), at(5), at(9), at(7)),
            (at(7), None, at(9), at(7)),
            (at(5), at(12), at(9), at(9)),
            (at(12), at(5), at(9), at(5)),
            (at(7), at(5), None, at(7)),
        ] {
            assert_eq!(later_sync(known, told, now), expected, "{known:?} {told:?} {now:?}");
        }
    }

    #[test]
    fn f031_one_instance_holds_an_epoch() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let name: ConnectedRegistryName = "dock01".parse().unwrap();
            let instance = |epoch, id: &str| Activation {
                epoch,
                instance_id: id.to_owned(),
                at: UnixSeconds(1),
            };
            activate(&store, &name, instance(0, "a"), false).await.unwrap();
            // A restart of the same device is no second activation, and writes nothing.
            let before = store.sequence();
            activate(&store, &name, instance(0, "a"), false).await.unwrap();
            assert_eq!(store.sequence(), before);
            assert!(activate(&store, &name, instance(0, "b"), false).await.is_err());
            // After a deactivation the next one may come, and the old one may not.
            activate(&store, &name, instance(1, "b"), false).await.unwrap();
            assert!(activate(&store, &name, instance(0, "a"), false).await.is_err());
            assert!(activate(&store, &name, instance(1, "a"), false).await.is_err());
            // What the direct parent of a node reports counts.
            activate(&store, &name, instance(1, "c"), true).await.unwrap();
            assert_eq!(store.activation(&name).unwrap().unwrap().instance_id, "c");
        });
    }
}

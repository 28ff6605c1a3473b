//! The instances behind connected registries, as their parents record them.

use crate::store::rows::connected_registry::{StatusRecord, activation_key, status_key};
use crate::store::{Store, StoreError};
use crate::types::connected_registry::{Activation, StatusReport};
use crate::types::{ConnectedRegistryName, UnixSeconds};

/// Who says that an instance is active.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    /// The instance itself: this node is its direct parent and decides.
    Here,
    /// The direct parent of the node, which has decided.
    Below,
}

/// Records an activation durably, of a connected registry whose epoch is `granted` here. `Conflict`
/// when another instance holds it, or what a node below tells is older than what is known.
///
/// An instance that is recorded under a later epoch than is granted holds it too: the one above
/// was restored from a backup since. The same instance then goes on under what is granted.
pub(super) async fn activate(
    store: &Store,
    name: &ConnectedRegistryName,
    new: Activation,
    granted: u64,
    authority: Authority,
) -> Result<(), StoreError> {
    let key = activation_key(name);
    store
        .commit(move |txn| {
            if let Some(old) = txn.get::<Activation>(&key)? {
                let same = old.instance_id == new.instance_id;
                if old.epoch == new.epoch && same {
                    return Ok(());
                }
                let refused = match authority {
                    Authority::Here => !same && old.epoch >= granted,
                    Authority::Below => new.epoch < granted && new.epoch < old.epoch,
                };
                if refused {
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
    let (clock, report) = (&store.sys().clock, report.bounded());
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
    fn f031_f032_f201_who_may_be_recorded_as_active() {
        use Authority::{Below, Here};
        smol::block_on(async {
            let name: ConnectedRegistryName = "dock01".parse().unwrap();
            let instance = |(epoch, id): (u64, &str)| Activation {
                epoch,
                instance_id: id.to_owned(),
                at: UnixSeconds(1),
            };
            for (old, new, granted, authority, expected) in [
                ((1, "a"), (1, "b"), 1, Here, false),
                // After a deactivation any may come, also the one before.
                ((1, "a"), (2, "a"), 2, Here, true),
                ((1, "a"), (2, "b"), 2, Here, true),
                // The parent was restored to a state before a deactivation.
                ((3, "a"), (1, "a"), 1, Here, true),
                ((3, "a"), (1, "b"), 1, Here, false),
                // What the direct parent of a node reports counts,
                ((1, "a"), (1, "b"), 1, Below, true),
                ((3, "a"), (1, "b"), 1, Below, true),
                ((1, "a"), (3, "b"), 1, Below, true),
                // unless it has not heard of the deactivation yet.
                ((2, "b"), (1, "a"), 2, Below, false),
                ((2, "a"), (1, "a"), 2, Below, false),
            ] {
                let store = Store::in_memory(Sys::real(Spawner::new()));
                activate(&store, &name, instance(old), old.0, Here).await.unwrap();
                // A restart of the same device is no second activation, and writes nothing.
                let before = store.sequence();
                activate(&store, &name, instance(old), old.0, Here).await.unwrap();
                assert_eq!(store.sequence(), before);
                let result = activate(&store, &name, instance(new), granted, authority).await;
                assert_eq!(result.is_ok(), expected, "{old:?} {new:?} {granted}");
                let now = store.activation(&name).unwrap();
                assert_eq!(now, Some(instance(if expected { new } else { old })));
            }
        });
    }
}

//! The instances behind connected registries, as their parents record them.

use crate::store::rows::connected_registry::{StatusRecord, activation_key, status_key};
use crate::store::tree::told::{counts, require_below, speaks_since, told_at};
use crate::store::{Store, StoreError};
use crate::types::connected_registry::{Activation, StatusReport};
use crate::types::{ConnectedRegistry, UnixSeconds};

/// How far the stored contact with a node is behind the last one, seconds: flash wears.
const CONTACT_KEPT_S: u64 = 3600;

/// Who says that an instance is active.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    /// The instance itself: this node is its direct parent and decides.
    Here,
    /// The direct parent of the node, which has decided.
    Below,
}

/// Records an activation durably, of a connected registry that was granted its epoch here.
/// `NotFound` when it was deleted since it was looked up, `Conflict` when another instance holds
/// it, or what a node below tells is older than what is known.
///
/// An instance that is recorded under a later epoch than is granted holds it too: the one above
/// was restored from a backup since. The same instance then goes on under what is granted.
pub(super) async fn activate(
    store: &Store,
    node: ConnectedRegistry,
    new: Activation,
    authority: Authority,
) -> Result<(), StoreError> {
    let (key, granted) = (activation_key(&node.name), node.activation_epoch);
    store
        .commit(move |txn| {
            require_below(txn, &node)?;
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

/// Records a status report durably, unless it says what the last one said and that is not old.
/// `NotFound` when the connected registry was deleted since it was looked up.
pub(super) async fn record_status(
    store: &Store,
    node: ConnectedRegistry,
    report: StatusReport,
) -> Result<(), StoreError> {
    let (clock, report) = (&store.sys().clock, report.bounded());
    let (key, now, at) = (status_key(&node.name), clock.wall(), clock.wall_or_floor());
    store
        .commit(move |txn| {
            require_below(txn, &node)?;
            let since = speaks_since(txn, &node, now)?;
            let old = txn.get::<StatusRecord>(&key)?;
            let known = old.as_ref().and_then(|old| old.report.last_sync);
            let last_sync = later_sync(known, report.last_sync, now);
            let report = StatusReport { last_sync, ..report };
            // The same word of another instance above counts where that of the one before does not.
            let stands = |old: &StatusRecord| {
                is_recent(old.last_contact, now) && counts(old.last_contact, since)
            };
            if old.is_some_and(|old| old.report == report && stands(&old)) {
                return Ok(());
            }
            let last_contact = told_at(at, since);
            txn.put(key, &StatusRecord { report, last_contact })
        })
        .await
}

/// Records durably that a node is in contact, where what is stored of that does not show it: a node
/// with nothing to report is heard of all the same, and a restart forgets the rest. One without a
/// schedule reports as soon as it is active.
pub(super) async fn record_contact(
    store: &Store,
    node: &ConnectedRegistry,
) -> Result<(), StoreError> {
    let now = store.sys().clock.wall();
    let report = match store.status(&node.name)? {
        Some(status) if !is_recent(status.last_contact, now) => status.report,
        None if !node.schedule.is_continuous() => StatusReport::default(),
        _ => return Ok(()),
    };
    record_status(store, node.clone(), report).await
}

/// Whether a contact that was stored then shows at `now` that a node is in contact; one that lies
/// in the future is of a clock that was ahead.
fn is_recent(stored: UnixSeconds, now: Option<UnixSeconds>) -> bool {
    now.is_none_or(|now| stored.is_past(Some(now)) && now.since(stored) < CONTACT_KEPT_S)
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
    use crate::store::Txn;
    use crate::store::replica::node::testing::{config, connected_registry};
    use crate::store::rows::connected_registry::connected_registry_key;
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
            let node = connected_registry("dock01", None);
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
                add(&store, &node).await;
                let granted_at =
                    |epoch| ConnectedRegistry { activation_epoch: epoch, ..node.clone() };
                activate(&store, granted_at(old.0), instance(old), Here).await.unwrap();
                // A restart of the same device is no second activation, and writes nothing.
                let before = store.sequence();
                activate(&store, granted_at(old.0), instance(old), Here).await.unwrap();
                assert_eq!(store.sequence(), before);
                let result = activate(&store, granted_at(granted), instance(new), authority).await;
                assert_eq!(result.is_ok(), expected, "{old:?} {new:?} {granted}");
                let now = store.activation(&node.name).unwrap();
                assert_eq!(now, Some(instance(if expected { new } else { old })));
            }
        });
    }

    async fn add(store: &Store, node: &ConnectedRegistry) {
        let node = node.clone();
        let put = move |txn: &mut Txn<'_>| txn.put(connected_registry_key(&node.name), &node);
        store.commit(put).await.unwrap();
    }

    /// Symptom: a new device met another instance, of a connected registry that had been deleted
    /// and created again. Cause: an activation that arrived while it was deleted was recorded.
    #[test]
    fn f031_f033_an_instance_of_one_that_was_deleted_is_not_recorded() {
        smol::block_on(async {
            let root = Store::in_memory(Sys::real(Spawner::new()));
            let middle = Store::in_memory(Sys::real(Spawner::new()));
            let deep = connected_registry("cell03", Some("child01"));
            add(&root, &deep).await;
            let mut desired = config(&[]);
            desired.node = deep.clone();
            middle.receive_descendant(desired, "v1".to_owned()).await.unwrap();
            let again = ConnectedRegistry { created: deep.created.plus(1), ..deep.clone() };
            let gone = connected_registry("cell04", Some("child01"));
            for store in [&root, &middle] {
                for (node, expected) in [
                    (&deep, Ok(())),
                    (&again, Err(StoreError::NotFound)),
                    (&gone, Err(StoreError::NotFound)),
                ] {
                    let (instance_id, at) = ("a".to_owned(), UnixSeconds(1));
                    let activation = Activation { epoch: 0, instance_id, at };
                    let activated =
                        activate(store, node.clone(), activation, Authority::Below).await;
                    assert_eq!(activated, expected, "{node:?}");
                    let report = StatusReport::default();
                    assert_eq!(record_status(store, node.clone(), report).await, expected);
                }
                assert_eq!(store.activation(&gone.name), Ok(None));
                assert_eq!(store.status(&gone.name), Ok(None));
            }
        });
    }

    /// Symptom: after a restart of a root, a device was last in contact days before, and one with a
    /// schedule that had looked at its configuration since was Offline. Cause: only a report was
    /// stored.
    #[test]
    fn f035_f212_a_contact_is_stored_where_the_stored_one_is_old_or_ahead_of_the_clock() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let now = store.sys().clock.wall_or_floor();
            let deep = connected_registry("cell03", Some("line02"));
            add(&store, &deep).await;
            assert_eq!(record_contact(&store, &deep).await, Ok(()));
            assert_eq!(store.status(&deep.name), Ok(None));
            let schedule = "0 12 * * *".parse().unwrap();
            let scheduled = ConnectedRegistry { schedule, ..deep.clone() };
            assert_eq!(record_contact(&store, &scheduled).await, Ok(()));
            assert!(store.status(&deep.name).unwrap().unwrap().last_contact >= now);
            let old = now.0 - CONTACT_KEPT_S;
            for (told, is_replaced) in [(old + 60, false), (old, true), (now.0 + 100_000, true)] {
                let (report, last_contact) = (StatusReport::default(), UnixSeconds(told));
                let status = StatusRecord { report, last_contact };
                store.record_status(deep.name.clone(), status).await.unwrap();
                record_contact(&store, &deep).await.unwrap();
                let noted = store.status(&deep.name).unwrap().unwrap().last_contact;
                assert_eq!(noted != last_contact, is_replaced);
                assert!(noted <= now.plus(60), "{noted:?}");
            }
        });
    }

    /// The same report is news when another instance makes it, and when the one before was noted
    /// while the clock was ahead.
    #[test]
    fn f035_f212_a_report_that_does_not_count_is_replaced_by_the_same() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let now = store.sys().clock.wall_or_floor();
            let deep = connected_registry("cell03", Some("line02"));
            add(&store, &deep).await;
            let line = || "line02".parse().unwrap();
            for (active, told, is_news) in [
                (None, now.0 - 100, false),
                (Some(now.0 - 200), now.0 - 100, false),
                (Some(now.0 - 50), now.0 - 100, true),
                (None, now.0 + 100_000, true),
                // The clock was ahead when the one above was activated.
                (Some(now.0 + 100_000), now.0 - 100, false),
            ] {
                let report = StatusReport::default();
                let last_contact = UnixSeconds(told);
                let status = StatusRecord { report: report.clone(), last_contact };
                store.record_status(deep.name.clone(), status).await.unwrap();
                if let Some(at) = active {
                    let instance_id = "a".to_owned();
                    let activation = Activation { epoch: 0, instance_id, at: UnixSeconds(at) };
                    store.record_activation(line(), activation).await.unwrap();
                }
                record_status(&store, deep.clone(), report).await.unwrap();
                let noted = store.status(&deep.name).unwrap().unwrap().last_contact;
                assert_eq!(noted >= now && noted <= now.plus(60), is_news, "{active:?} {told}");
            }
        });
    }
}

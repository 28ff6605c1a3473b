//! What of the deliveries a collection forgets: a child may name repositories and nodes without
//! end.

use super::delivered::is_below;
use super::unsent::is_unsent;
use crate::store::rows::repository::repository_key;
use crate::store::rows::{Kind, name_at, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::RepositoryName;

/// Repositories that are not here any more, or never were, of which the deliveries of one origin
/// are remembered: a child may name such without end. Over it: a collection forgets those of the
/// others.
const GONE_MAX: usize = 256;

/// The same for repositories of origins that nobody knows here, of all such together: devices that
/// are gone, and names that a child made up.
const UNKNOWN_MAX: usize = 1024;

/// Repositories of which the deliveries are forgotten in one command.
const FORGOTTEN_AT_ONCE: usize = 16;

impl Store {
    /// Forgets what was delivered to repositories that are not here, but of [`GONE_MAX`] of each
    /// origin, and of origins that are not below this node, but to [`UNKNOWN_MAX`].
    pub(in crate::store) async fn forget_deliveries(&self) -> Result<(), StoreError> {
        let mut keys = self.keys(prefix(Kind::Delivered, &[]));
        let mut known = Known::default();
        loop {
            let look = keys.work(move |store, page| {
                let (is_last, mut over) = (page.is_empty(), Vec::new());
                for (key, _) in page {
                    let Some(place) = Place::of(&key).filter(|place| *place != known.last) else {
                        continue;
                    };
                    let is_over = store.look_up(|index| known.is_over(&Txn::new(index), &place))?;
                    over.extend(is_over.then(|| place.clone()));
                    known.last = place;
                }
                Ok((is_last, over, known))
            });
            let (is_last, over, so_far) = look.await?;
            known = so_far;
            if is_last {
                return Ok(());
            }
            for some in over.chunks(FORGOTTEN_AT_ONCE) {
                let some = some.to_vec();
                self.commit(move |txn| some.iter().try_for_each(|place| forget(txn, place)))
                    .await?;
            }
        }
    }
}

/// Where the keys start of what one origin has delivered to one repository.
#[derive(Clone, PartialEq, Eq, Default)]
struct Place {
    start: Vec<u8>,
    /// Of its names, how far that of the origin goes.
    origin_end: usize,
}

impl Place {
    fn of(key: &[u8]) -> Option<Place> {
        let origin_end = key.iter().position(|byte| *byte == 0)?;
        let name = key.get(origin_end + 1..)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Some(Place { start: key.get(..origin_end + 1 + end)?.to_vec(), origin_end })
    }

    fn origin(&self) -> &[u8] {
        &self.start[..self.origin_end]
    }

    /// Whether it is of an origin that is not below this node, and whether its repository is not
    /// here, with nothing of it on its way up.
    fn is_unknown_or_gone(&self, txn: &Txn<'_>) -> Result<(bool, bool), StoreError> {
        let name = self.start.get(1..self.origin_end).and_then(|name| str::from_utf8(name).ok());
        let origin = name.and_then(|name| name.parse().ok());
        let is_below = origin.map_or(Ok(true), |origin| is_below(txn, &origin))?;
        let repository: RepositoryName = name_at(&self.start, self.origin_end + 1)?;
        let is_gone = !txn.has(&repository_key(&repository))? && !is_unsent(txn, &repository)?;
        Ok((!is_below, is_gone))
    }
}

/// What is kept, so far.
#[derive(Default)]
struct Known {
    last: Place,
    /// Repositories of the last origin that are gone.
    gone: usize,
    unknown: usize,
}

impl Known {
    /// Counts one more place; whether it is one too many.
    fn is_over(&mut self, txn: &Txn<'_>, place: &Place) -> Result<bool, StoreError> {
        if place.origin() != self.last.origin() {
            self.gone = 0;
        }
        let (is_unknown, is_gone) = place.is_unknown_or_gone(txn)?;
        self.gone += usize::from(is_gone);
        self.unknown += usize::from(is_unknown);
        Ok(is_gone && self.gone > GONE_MAX || is_unknown && self.unknown > UNKNOWN_MAX)
    }
}

/// Forgets what was delivered there, unless the origin or the repository has come since.
fn forget(txn: &mut Txn<'_>, place: &Place) -> Result<(), StoreError> {
    let (is_unknown, is_gone) = place.is_unknown_or_gone(txn)?;
    if is_unknown || is_gone {
        txn.delete(place.start.clone())?;
        txn.clear(&[&place.start[..], &[0]].concat())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::Precondition;
    use crate::store::registry::manifests::testing::{digest, push, store};
    use crate::store::replica::node::testing::connected_registry;
    use crate::store::replica::outbox::Origin;
    use crate::store::rows::connected_registry::connected_registry_key;
    use crate::store::rows::delivered::{Delivered, delivered_key};
    use crate::types::{Delivery, OutboxId, Tag};

    fn child(origin: &str, incarnation: u64, sequence: u64) -> Origin {
        let id = OutboxId { origin: origin.parse().unwrap(), incarnation, sequence };
        Origin::Child(Delivery::of(id))
    }

    /// Delivers that `v1` of `app` names the first.
    async fn deliver(store: &Store, origin: &Origin) {
        let (app, v1) = ("app".parse().unwrap(), "v1".parse().unwrap());
        store.set_tag(&app, &v1, &digest(1), Precondition::None, origin).await.unwrap();
    }

    /// Symptom: a child that deleted tags in repositories that never were, or delivered in names of
    /// nodes that never were, filled the index for good. Cause: what was delivered was remembered
    /// for ever.
    #[test]
    fn f130_f209_of_repositories_that_are_gone_few_deliveries_are_remembered() {
        smol::block_on(async {
            let store = store();
            push(&store, "app", 1, &[]).await;
            let v1: Tag = "v1".parse().unwrap();
            let untag = async |repository: &str, origin: &Origin| {
                let name = repository.parse().unwrap();
                store.delete_tag(&name, &v1, Precondition::None, origin).await
            };
            for number in 0..GONE_MAX + 40 {
                for start in [0, 7, 8] {
                    let repository = format!("n{number:04}");
                    assert_eq!(untag(&repository, &child("dock01", start, 1)).await, Ok(None));
                }
            }
            let some = ["app", "app/b", "z"];
            for (name, origin) in
                some.into_iter().flat_map(|name| [(name, "dock01"), (name, "line02")])
            {
                assert_eq!(untag(name, &child(origin, 7, 1)).await, Ok(None));
            }
            let rows = |origin: &str| {
                store.scan::<Delivered>(&prefix(Kind::Delivered, &[origin.as_bytes()]), None, 9999)
            };
            assert_eq!(rows("dock01").unwrap().len(), (GONE_MAX + 40) * 3 + 3);
            store.forget_deliveries().await.unwrap();
            assert_eq!(rows("dock01").unwrap().len(), (GONE_MAX - 1) * 3 + 2);
            assert_eq!(rows("line02").unwrap().len(), 3);
            // What is here stays known, and the first of what is not.
            deliver(&store, &child("dock01", 9, 9)).await;
            for (name, is_known) in
                [("app", true), ("app/b", true), ("n0254", true), ("n0255", false), ("z", false)]
            {
                let key = delivered_key(
                    &OutboxId { origin: "dock01".parse().unwrap(), incarnation: 7, sequence: 1 },
                    &name.parse().unwrap(),
                );
                assert_eq!(store.get::<Delivered>(&key).unwrap().is_some(), is_known, "{name}");
            }
            // Of origins that nobody knows, so many of all together.
            let node = connected_registry("zeta01", None);
            let known = move |txn: &mut Txn<'_>| txn.put(connected_registry_key(&node.name), &node);
            store.commit(known).await.unwrap();
            for number in 0..UNKNOWN_MAX + 9 {
                deliver(&store, &child(&format!("made{number}"), 1, 1)).await;
            }
            deliver(&store, &child("zeta01", 1, 1)).await;
            store.forget_deliveries().await.unwrap();
            let places: BTreeSet<Vec<u8>> = store
                .scan::<Delivered>(&prefix(Kind::Delivered, &[]), None, 9999)
                .unwrap()
                .iter()
                .filter_map(|(key, _)| Some(Place::of(key)?.start))
                .collect();
            assert_eq!(places.len(), UNKNOWN_MAX + 1);
            assert_eq!(rows("zeta01").unwrap().len(), 1);
        });
    }
}

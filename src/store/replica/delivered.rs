//! Which changes of connected registries below have taken effect here: a delivery whose answer
//! was lost comes again, and must not have a second effect.

use serde::{Deserialize, Serialize};

use super::outbox::{Delivery, Origin};
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::tag::{TagRow, tag_key};
use crate::store::rows::{self, Kind, Row, is_default, key, prefix};
use crate::store::{StoreError, Txn};
use crate::types::{ConnectedRegistryName, Digest, RepositoryName, Tag};

/// Numbers that are kept with their effects, for each origin and repository. A child delivers one
/// after the other and names the lowest that it has no answer for, so there are one or two. Over
/// it: the lowest is forgotten, and a replay of it gets a new number.
const OPEN_MAX: usize = 64;

/// Incarnations of one store whose deliveries are remembered, for each repository: of its starts,
/// those in which it changed the repository. Over it: those of the one that was heard of first are
/// forgotten, and a replay of them that still comes, from a backup or a copy of a disk that is so
/// old, takes effect.
const INCARNATIONS_MAX: usize = 16;

/// What one incarnation of an origin has delivered to one repository. Its changes there arrive in
/// order. Every start there has an incarnation of its own, since a store that was made anew,
/// restored or set back counts over again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Delivered {
    /// The number of the last change that took effect here.
    last: u64,
    #[serde(skip_serializing_if = "is_default")]
    more: DeliveredEnd,
}

/// What the first rows did not have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct DeliveredEnd {
    /// The numbers for which the child may not have had an answer, with what each stands for.
    open: Vec<(u64, Effect)>,
    /// Counts the incarnations of the origin, in the order in which this node heard of them.
    #[serde(skip_serializing_if = "is_default")]
    place: u64,
}

impl Row for Delivered {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<Delivered, postcard::Error> {
        let (last, left) = postcard::take_from_bytes(bytes)?;
        if left.is_empty() {
            return Ok(Delivered { last, more: DeliveredEnd::default() });
        }
        let (open, left) = postcard::take_from_bytes(left)?;
        Ok(Delivered { last, more: DeliveredEnd { open, place: rows::last(left)? } })
    }
}

/// What a delivery wants to be so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) enum Effect {
    /// A tag names this, or (`None`) does not exist.
    Tag(Tag, Option<Digest>),
    /// A manifest is here, or not.
    Manifest(Digest, bool),
}

fn delivered_key(delivery: &Delivery, repository: &RepositoryName) -> Vec<u8> {
    let id = &delivery.id;
    let (origin, incarnation) = (id.origin.as_str().as_bytes(), id.incarnation.to_be_bytes());
    let parts = [origin, repository.as_str().as_bytes(), &incarnation];
    key(Kind::Delivered, if id.incarnation == 0 { &parts[..2] } else { &parts })
}

/// Whether this delivery has already taken effect. `OutboxMismatch` when its number has stood for
/// something else, unless what it wants is so already. A child that names no lowest number is
/// believed that no number stands for two things.
pub(in crate::store) fn is_replay(
    txn: &Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
    effect: &Effect,
) -> Result<bool, StoreError> {
    let Origin::Child(delivery) = origin else {
        return Ok(false);
    };
    let Some(known) = txn.get::<Delivered>(&delivered_key(delivery, repository))? else {
        return Ok(false);
    };
    let number = delivery.id.sequence;
    if number > known.last {
        return Ok(false);
    }
    let same = known.more.open.iter().any(|(open, what)| *open == number && what == effect);
    if delivery.lowest.is_none() || same || is_so(txn, repository, effect)? {
        return Ok(true);
    }
    Err(StoreError::OutboxMismatch(format!(
        "change {number} of '{}' in {repository} was another one, or was confirmed: the last here \
         is {}; deliver this one under a new number",
        delivery.id.origin, known.last
    )))
}

fn is_so(txn: &Txn<'_>, repository: &RepositoryName, effect: &Effect) -> Result<bool, StoreError> {
    Ok(match effect {
        Effect::Tag(tag, wanted) => {
            let row = txn.get::<TagRow>(&tag_key(repository, tag))?;
            row.map(|row| row.digest) == *wanted
        }
        Effect::Manifest(digest, wanted) => {
            txn.get::<ManifestRow>(&manifest_key(repository, digest))?.is_some() == *wanted
        }
    })
}

/// Records that this delivery takes effect. Call it in the command that has the effect.
pub(in crate::store) fn record(
    txn: &mut Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
    effect: Effect,
) -> Result<(), StoreError> {
    let Origin::Child(delivery) = origin else {
        return Ok(());
    };
    let (key, number) = (delivered_key(delivery, repository), delivery.id.sequence);
    let known = txn.get::<Delivered>(&key)?;
    let mut row = match known {
        Some(known) => known,
        None => {
            let place = begin(txn, delivery, repository)?;
            Delivered { last: 0, more: DeliveredEnd { open: Vec::new(), place } }
        }
    };
    row.last = row.last.max(number);
    if let Some(lowest) = delivery.lowest {
        let open = &mut row.more.open;
        open.retain(|(open, _)| *open >= lowest && *open != number);
        open.push((number, effect));
        let over = open.len().saturating_sub(OPEN_MAX);
        open.drain(..over);
    }
    txn.put(key, &row)
}

/// Makes room for another incarnation, forgetting the first ones; its place.
fn begin(
    txn: &mut Txn<'_>,
    delivery: &Delivery,
    repository: &RepositoryName,
) -> Result<u64, StoreError> {
    // Changes that were written before stores told are of one incarnation, the first.
    if delivery.id.incarnation == 0 {
        return Ok(0);
    }
    let parts = [delivery.id.origin.as_str().as_bytes(), repository.as_str().as_bytes()];
    let rows = txn.scan::<Delivered>(&prefix(Kind::Delivered, &parts))?;
    let mut known: Vec<_> = rows.into_iter().map(|(key, row)| (row.more.place, key)).collect();
    known.sort();
    let next = known.last().map_or(0, |(place, _)| place.saturating_add(1));
    let over = (known.len() + 1).saturating_sub(INCARNATIONS_MAX);
    known.into_iter().take(over).try_for_each(|(_, key)| txn.delete(key))?;
    Ok(next)
}

/// Forgets the deliveries of a connected registry that is deleted: one of the same name that comes
/// later is another one.
pub(in crate::store) fn forget(
    txn: &mut Txn<'_>,
    origin: &ConnectedRegistryName,
) -> Result<(), StoreError> {
    for (key, _) in
        txn.scan::<Delivered>(&prefix(Kind::Delivered, &[origin.as_str().as_bytes()]))?
    {
        txn.delete(key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::outbox::OutboxId;
    use super::*;
    use crate::store::registry::manifests::testing::{digest, push, store};
    use crate::store::{Precondition, Store};

    fn child(origin: &str, incarnation: u64, sequence: u64) -> Origin {
        let id = OutboxId { origin: origin.parse().unwrap(), incarnation, sequence };
        Origin::Child(Delivery { id, lowest: None, offered: false })
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
            assert_eq!(deliver(&store, 2, &child("dock01", 9, 7)).await, 2, "another start");
            assert_eq!(deliver(&store, 3, &child("dock01", 9, 7)).await, 2, "a replay in that");
            assert_eq!(deliver(&store, 3, &child("dock01", 10, 1)).await, 3);
            assert_eq!(deliver(&store, 4, &child("dock02", 9, 1)).await, 4);
            let dock = "dock01".parse().unwrap();
            store.commit(move |txn| forget(txn, &dock)).await.unwrap();
            assert_eq!(deliver(&store, 5, &child("dock01", 0, 1)).await, 5, "another dock01");
            assert_eq!(deliver(&store, 6, &child("dock02", 9, 1)).await, 5, "the same dock02");
        });
    }

    #[test]
    fn f130_only_the_last_incarnations_of_a_store_are_remembered() {
        smol::block_on(async {
            let store = store();
            let over = u8::try_from(INCARNATIONS_MAX).unwrap() + 2;
            for number in 1..=over + 2 {
                push(&store, "app", number, &[]).await;
            }
            let rows = || {
                let start = prefix(Kind::Delivered, &[b"dock01", b"app"]);
                store.scan::<Delivered>(&start, None, 99).unwrap().len()
            };
            // In no order: they are random.
            let incarnation = |number: u8| u64::from(number.wrapping_mul(97)) + 1;
            for number in 1..=over {
                let origin = child("dock01", incarnation(number), 7);
                assert_eq!(deliver(&store, number, &origin).await, number);
                assert_eq!(rows(), INCARNATIONS_MAX.min(number.into()));
            }
            for number in 3..=over {
                let origin = child("dock01", incarnation(number), 7);
                assert_eq!(deliver(&store, over + 1, &origin).await, over, "a replay");
            }
            let other = child("dock02", 1, 1);
            assert_eq!(deliver(&store, over + 2, &other).await, over + 2, "another one");
            assert_eq!(rows(), INCARNATIONS_MAX);
        });
    }
}

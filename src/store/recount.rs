//! The repair of derived counts that are found to be wrong.
//!
//! The rows that a count follows from may be too many for one command. They are read a page at a
//! time, and a command that sees the same rows as the read did writes the count.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::derived::{self, Count, counted_below, is_counted};
use super::{Store, StoreError, Txn};

/// Counts that one collection repairs. Over it: the rest waits for a later one.
pub(super) const WRONG_MAX: usize = 256;

/// How often rows are counted that change meanwhile. Over it: a later collection counts them.
const TRIES: usize = 3;

/// What was counted, by the keys of the counts.
type Counted = BTreeMap<Vec<u8>, u64>;

impl Store {
    /// Counts again the rows that these counts follow from, and repairs the counts.
    pub(super) async fn recount(&self, wrong: BTreeSet<Vec<u8>>) -> Result<(), StoreError> {
        let mut places: BTreeMap<Vec<Vec<u8>>, Vec<Vec<u8>>> = BTreeMap::new();
        for key in wrong {
            places.entry(counted_below(&key)).or_default().push(key);
        }
        for (starts, keys) in places {
            if !self.recount_below(&starts, &keys).await? {
                log::info!("{} counts are yet to be repaired: their rows changed", keys.len());
            }
        }
        Ok(())
    }

    async fn recount_below(
        &self,
        starts: &[Vec<u8>],
        keys: &[Vec<u8>],
    ) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            let through = self.look_up(|index| Ok(index.applied()))?;
            let Some(counted) = self.count_rows(starts, keys).await? else {
                log::warn!("a count is not repaired: a row that it follows from cannot be read");
                return Ok(true);
            };
            if self.commit(move |txn| repair(txn, through, counted)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The counts as they follow from the rows; `None` when a row cannot be read.
    async fn count_rows(
        &self,
        starts: &[Vec<u8>],
        keys: &[Vec<u8>],
    ) -> Result<Option<Counted>, StoreError> {
        let mut counted: Counted = keys.iter().map(|key| (key.clone(), 0)).collect();
        for start in starts {
            let mut pages = self.keys(start.clone());
            loop {
                let mut so_far = counted;
                let count = move |_: &Store, page: Vec<(Vec<u8>, Vec<u8>)>| {
                    for (key, row) in &page {
                        if !is_counted(key, row) {
                            return Ok(None);
                        }
                        for (derived, by) in derived::difference(key, None, Some(row)) {
                            if let Some(count) = so_far.get_mut(&derived) {
                                *count = count.saturating_add_signed(by);
                            }
                        }
                    }
                    Ok(Some((so_far, page.is_empty())))
                };
                let Some((so_far, is_last)) = pages.work(count).await? else { return Ok(None) };
                counted = so_far;
                if is_last {
                    break;
                }
            }
        }
        Ok(Some(counted))
    }
}

/// Whether the rows are still those that were counted, and the counts are right now.
fn repair(txn: &mut Txn<'_>, through: u64, counted: Counted) -> Result<bool, StoreError> {
    if !txn.is_at(through) {
        return Ok(false);
    }
    for (key, count) in counted {
        let was = txn.get::<Count>(&key).unwrap_or_default().map_or(0, |count| count.0);
        if was != count {
            log::error!("the index counted {was} rows where {count} are, and is repaired");
            txn.set_count(key, Count(count))?;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::gc::GcOptions;
    use crate::store::registry::manifests::testing::{digest, push, store};
    use crate::store::replica::outbox::Origin;
    use crate::store::rows::derived::{held_key, needed_key};
    use crate::store::rows::manifest::manifest_key;
    use crate::types::digest::Algorithm;
    use crate::types::{Digest, RepositoryName};

    fn count(store: &Store, key: &[u8]) -> u64 {
        store.get::<Count>(key).unwrap().map_or(0, |count| count.0)
    }

    #[test]
    fn f206_a_count_becomes_what_the_rows_add_up_to() {
        smol::block_on(async {
            let store = store();
            let app: RepositoryName = "app".parse().unwrap();
            for (name, number) in [("app", 1), ("app", 2), ("other", 1)] {
                push(&store, name, number, &[]).await;
            }
            let keys = [needed_key(&app, &digest(100)), held_key(&digest(100).to_key())];
            for wrong in [0, 1, 7] {
                let set = keys.clone();
                let set = move |txn: &mut Txn<'_>| {
                    set.into_iter().try_for_each(|key| txn.set_count(key, Count(wrong)))
                };
                store.commit(set).await.unwrap();
                assert_eq!(keys.each_ref().map(|key| count(&store, key)), [wrong; 2]);
                store.recount(keys.clone().into()).await.unwrap();
                assert_eq!(keys.each_ref().map(|key| count(&store, key)), [2, 2]);
            }
            // Changes go on from there.
            store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
            assert_eq!(keys.each_ref().map(|key| count(&store, key)), [1, 2]);
        });
    }

    /// Symptom: what the index counted wrongly was found by each collection, and never went.
    #[test]
    fn f206_a_collection_repairs_the_counts_that_it_disagrees_with() {
        smol::block_on(async {
            let store = store();
            let app: RepositoryName = "app".parse().unwrap();
            let options = GcOptions { grace: Duration::ZERO, untagged: None, dry_run: false };
            let gc = async || store.collect_garbage(options).await.unwrap();
            push(&store, "app", 1, &[]).await;
            store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
            let bytes = b"content".to_vec();
            let function = Algorithm::Sha256.function();
            let hash = ring::digest::digest(function, &bytes);
            let content = Digest::from_raw(Algorithm::Sha256, hash.as_ref()).unwrap();
            drop(store.blob_put(&content, bytes).await.unwrap());
            let keys = [needed_key(&app, &digest(100)), held_key(&content.to_key())];
            let set = move |txn: &mut Txn<'_>| {
                keys.into_iter().try_for_each(|key| txn.set_count(key, Count(1)))
            };
            store.commit(set).await.unwrap();
            let disagreements = || store.sys().metrics.gc_disagreements.get();
            let (first, dry) = (gc().await, GcOptions { dry_run: true, ..options });
            assert_eq!((first.links_removed, first.blobs_removed, disagreements()), (0, 0, 0));
            store.collect_garbage(dry).await.unwrap();
            assert_eq!(disagreements(), 0);
            let second = gc().await;
            assert_eq!((second.links_removed, second.blobs_removed, disagreements()), (1, 0, 2));
            let third = gc().await;
            assert_eq!((third.links_removed, third.blobs_removed, disagreements()), (1, 1, 2));
        });
    }

    #[test]
    fn f206_a_count_of_rows_that_changed_meanwhile_or_cannot_be_read_is_not_written() {
        smol::block_on(async {
            let store = store();
            let app: RepositoryName = "app".parse().unwrap();
            push(&store, "app", 1, &[]).await;
            let key = needed_key(&app, &digest(100));
            let through = store.look_up(|index| Ok(index.applied())).unwrap();
            let counted = Counted::from([(key.clone(), 9)]);
            push(&store, "app", 2, &[]).await;
            let late = counted.clone();
            assert_eq!(store.commit(move |txn| repair(txn, through, late)).await, Ok(false));
            assert_eq!(count(&store, &key), 2);
            // A command before it in the same group may have changed them too.
            let index = store.shared().index();
            let group = BTreeMap::from([(b"row".to_vec(), None)]);
            assert_eq!(
                repair(&mut Txn::over(&*index, &group), index.applied(), counted),
                Ok(false)
            );
            let bad = vec![(manifest_key(&app, &digest(3)), Some(b"bad".to_vec()))];
            index.apply(index.applied(), &bad).unwrap();
            let set = key.clone();
            store.commit(move |txn| txn.set_count(set, Count(7))).await.unwrap();
            store.recount([key.clone()].into()).await.unwrap();
            assert_eq!(count(&store, &key), 7);
        });
    }
}

//! Which starts of this node its state remembers, so that a child sees when the state was set back:
//! by a copy of an older one or a snapshot of the disk, which keep the epoch of the feed.

use crate::store::rows::node::{Fact, start_key, starts};
use crate::store::{Store, StoreError};

/// Starts that are remembered. Over it: the oldest is forgotten, and a child that was away for as
/// many takes this node for one that was set back, and offers it what it lacks.
const STARTS_MAX: usize = 1024;

impl Store {
    /// Remembers this start, before a child hears of it.
    pub async fn note_start(&self, start: &str) -> Result<(), StoreError> {
        let (key, begins) = (start_key(start), self.sequence());
        self.commit(move |txn| {
            if txn.get::<Fact>(&key)?.is_some() {
                return Ok(());
            }
            let mut known: Vec<(u64, Vec<u8>)> =
                txn.scan::<Fact>(&starts())?.into_iter().filter_map(begin_of).collect();
            known.sort();
            let over = (known.len() + 1).saturating_sub(STARTS_MAX);
            known.into_iter().take(over).try_for_each(|(_, oldest)| txn.delete(oldest))?;
            txn.put(key, &Fact::Epoch(begins))
        })
        .await
    }

    /// Remembers a start that began there.
    #[cfg(test)]
    pub(crate) async fn note_start_at(&self, start: &str, begins: u64) -> Result<(), StoreError> {
        let key = start_key(start);
        self.commit(move |txn| txn.put(key, &Fact::Epoch(begins))).await
    }

    /// Whether this state has been at the sequence in that start, which the child knows of.
    pub fn has_been_at(&self, start: &str, sequence: u64) -> Result<bool, StoreError> {
        let Some(Fact::Epoch(begin)) = self.get(&start_key(start))? else {
            return Ok(false);
        };
        let rows = self.scan::<Fact>(&starts(), None, usize::MAX)?;
        let later = rows.into_iter().filter_map(begin_of).map(|(begins, _)| begins);
        let end = later.filter(|other| *other > begin).min().unwrap_or(self.reached());
        Ok(sequence <= end)
    }
}

fn begin_of((key, fact): (Vec<u8>, Fact)) -> Option<(u64, Vec<u8>)> {
    let Fact::Epoch(begins) = fact else { return None };
    Some((begins, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::registry::manifests::testing::{push, store};

    #[test]
    fn f201_a_state_that_was_set_back_has_not_been_where_it_was() {
        smol::block_on(async {
            let store = store();
            let mut at = Vec::new();
            for (number, start) in (1..).zip(["a", "b", "c"]) {
                store.note_start(start).await.unwrap();
                store.note_start(start).await.unwrap();
                push(&store, "app", number, &["v1"]).await;
                at.push(store.sequence());
            }
            let has = |start: &str, sequence| store.has_been_at(start, sequence).unwrap();
            assert!(has("a", 0) && has("a", at[0]) && has("b", at[1]) && has("c", at[2]));
            assert!(!has("a", at[0] + 1), "that is of the next start");
            assert!(!has("c", at[2] + 1) && !has("d", 0));
            for number in 0..STARTS_MAX {
                store.note_start(&format!("s{number}")).await.unwrap();
            }
            assert!(!has("c", 0), "forgotten");
            assert_eq!(store.scan::<Fact>(&starts(), None, usize::MAX).unwrap().len(), STARTS_MAX);
        });
    }
}

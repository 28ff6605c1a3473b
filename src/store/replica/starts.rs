//! Which starts of this node its state remembers, so that a child sees when the state was set back:
//! by a copy of an older one or a snapshot of the disk, which keep the epoch of the feed.

use super::inbox::applied;
use crate::store::rows::node::{Fact, start_key, started_at_key, starts};
use crate::store::{Store, StoreError};
use crate::types::Cursor;

/// Starts that are remembered. Over it: the oldest is forgotten, and a child that was away for as
/// many takes this node for one that was set back, and offers it what it lacks.
const STARTS_MAX: usize = 1024;

impl Store {
    /// Remembers this start and where in the parent's feed it begins, before a child hears of it
    /// and before anything is taken from the parent.
    pub async fn note_start(&self, start: &str) -> Result<(), StoreError> {
        let (key, begins) = (start_key(start), self.sequence());
        let at = started_at_key(start.as_bytes());
        self.commit(move |txn| {
            if txn.get::<Fact>(&key)?.is_some() {
                return Ok(());
            }
            let mut known: Vec<(u64, Vec<u8>)> =
                txn.scan::<Fact>(&starts())?.into_iter().filter_map(begin_of).collect();
            known.sort_unstable();
            let over = (known.len() + 1).saturating_sub(STARTS_MAX);
            for (_, oldest) in known.into_iter().take(over) {
                txn.delete(started_at(&oldest))?;
                txn.delete(oldest)?;
            }
            if let Some(position) = applied(txn)? {
                txn.put(at, &position)?;
            }
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

    /// Where this node was in its parent's feed when its state parted from the one that a child
    /// knows, which was in that start; `None`: that is not known. When that start is lost too, it
    /// may be later than that, and is never earlier.
    pub fn parted_at(&self, start: &str) -> Result<Option<Cursor>, StoreError> {
        let known = self.scan::<Fact>(&starts(), None, usize::MAX)?;
        let known = known.into_iter().filter_map(begin_of);
        let parted = match self.get(&start_key(start))? {
            Some(Fact::Epoch(begin)) => known.filter(|(begins, _)| *begins > begin).min(),
            // Of those that are remembered only this one is certainly not of the other state.
            _ => known.max(),
        };
        let Some((_, key)) = parted else {
            return Ok(None);
        };
        self.get(&started_at(&key))
    }
}

/// The key of where a start begins in the parent's feed, from the start's own key.
fn started_at(start: &[u8]) -> Vec<u8> {
    started_at_key(start.get(starts().len()..).unwrap_or_default())
}

fn begin_of((key, fact): (Vec<u8>, Fact)) -> Option<(u64, Vec<u8>)> {
    let Fact::Epoch(begins) = fact else { return None };
    Some((begins, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::registry::manifests::testing::{push, store};
    use crate::store::rows::{Kind, prefix};
    use crate::types::message::{Batch, Item, Message};

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

    #[test]
    fn f201_a_start_tells_where_a_state_parted_from_another() {
        smol::block_on(async {
            let store = store();
            let at = |sequence| Cursor { epoch: 7, sequence };
            store.note_start("a").await.unwrap();
            assert_eq!(store.parted_at("a"), Ok(None), "it runs");
            assert_eq!(store.parted_at("lost"), Ok(None), "before the first comparison");
            store.reconciled(at(3)).await.unwrap();
            let repository = "app".parse().unwrap();
            let message = Message::Tag { repository, tag: "v1".parse().unwrap(), digest: None };
            let items = vec![Item { sequence: 5, message }];
            store.receive(Batch { from: at(3), through: at(8), items }).await.unwrap();
            store.note_start("b").await.unwrap();
            let waiting = store.inbox(9).unwrap().into_iter().map(|(id, _)| id).collect();
            store.inbox_done(waiting).await.unwrap();
            store.note_start("c").await.unwrap();
            assert_eq!(store.parted_at("a"), Ok(Some(at(4))), "5 was not applied");
            assert_eq!(store.parted_at("b"), Ok(Some(at(8))));
            assert_eq!(store.parted_at("c"), Ok(None));
            assert_eq!(store.parted_at("lost"), Ok(Some(at(8))), "not before this start");
            for number in 0..STARTS_MAX {
                store.note_start(&format!("s{number}")).await.unwrap();
            }
            let rows = prefix(Kind::Node, &[b"started-at"]);
            assert_eq!(store.scan::<Cursor>(&rows, None, usize::MAX).unwrap().len(), STARTS_MAX);
        });
    }
}

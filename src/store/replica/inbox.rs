//! Messages from the parent: durable before they are applied, together with the position in the
//! parent's feed, so that a crash between any two steps changes nothing.

use crate::store::rows::inbox::item_key;
use crate::store::rows::node::{
    Fact, compared_key, gone_from_key, listed_key, position_key, reconcile_key,
};
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::Cursor;
use crate::types::message::{Batch, Item, Message};

/// Names a received message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxId(Vec<u8>);

impl InboxId {
    /// Its number in the parent's feed.
    pub fn sequence(&self) -> u64 {
        let number = self.0.get(1..9).and_then(|bytes| bytes.try_into().ok());
        number.map_or(u64::MAX, u64::from_be_bytes)
    }
}

impl Store {
    /// Up to where the parent's listings of the last full comparison told what messages tell again:
    /// those are older than what is here.
    pub fn listed(&self) -> Result<Option<Cursor>, StoreError> {
        self.get(&listed_key())
    }

    /// Notes that.
    pub async fn note_listed(&self, through: Cursor) -> Result<(), StoreError> {
        self.commit(move |txn| {
            let before = txn.get::<Cursor>(&listed_key())?;
            let is_past = |before: Cursor| {
                before.epoch == through.epoch && before.sequence >= through.sequence
            };
            if before.is_some_and(is_past) {
                return Ok(());
            }
            txn.put(listed_key(), &through)
        })
        .await
    }

    /// Notes that everything was compared in this life of the store, before [`Store::reconciled`].
    /// Another comparison that was asked for meanwhile notes it: a child may have seen only after
    /// this one had begun that the state was set back.
    pub async fn note_compared(&self) -> Result<(), StoreError> {
        self.commit(|txn| {
            if txn.get::<Fact>(&reconcile_key())? == Some(Fact::Again) {
                return Ok(());
            }
            if txn.get::<Cursor>(&gone_from_key())?.is_some() {
                txn.delete(gone_from_key())?;
            }
            let life = Fact::Epoch(txn.life());
            txn.put_changed(compared_key(), &life)
        })
        .await
    }

    /// The position up to which messages were received; `None` before the first reconcile.
    pub fn feed_position(&self) -> Result<Option<Cursor>, StoreError> {
        self.get(&position_key())
    }

    /// Makes received messages and the new position durable, in one record. `Conflict` when the
    /// batch does not begin at the position: there is a gap, or it came twice.
    pub async fn receive(&self, batch: Batch) -> Result<(), StoreError> {
        self.commit(move |txn| {
            let position = txn.get::<Cursor>(&position_key())?;
            if position != Some(batch.from) {
                return Err(StoreError::Conflict(format!(
                    "messages start at {}, which is not the position",
                    batch.from
                )));
            }
            let through = batch.through;
            if through.epoch != batch.from.epoch || through.sequence < batch.from.sequence {
                return Err(StoreError::Invalid(format!("messages end at {through}")));
            }
            let (mut last, mut number) = (batch.from.sequence, 0);
            for Item { sequence, message } in batch.items {
                if sequence < last || sequence > through.sequence {
                    return Err(StoreError::Invalid("messages are out of order".to_owned()));
                }
                number = if sequence == last { number + 1 } else { 0 };
                last = sequence;
                txn.put(item_key(sequence, number), &message)?;
            }
            if through != batch.from {
                txn.put(position_key(), &through)?;
            }
            Ok(())
        })
        .await
    }

    /// Received messages that are not applied yet, oldest first, at most `limit`.
    pub fn inbox(&self, limit: usize) -> Result<Vec<(InboxId, Message)>, StoreError> {
        let rows = self.scan::<Message>(&prefix(Kind::Inbox, &[]), None, limit)?;
        Ok(rows.into_iter().map(|(key, row)| (InboxId(key), row)).collect())
    }

    /// Removes messages that were applied.
    pub async fn inbox_done(&self, applied: Vec<InboxId>) -> Result<(), StoreError> {
        if applied.is_empty() {
            return Ok(());
        }
        self.commit(move |txn| {
            applied.into_iter().try_for_each(|id| txn.delete(id.0))?;
            Ok(())
        })
        .await
    }

    /// Ends a full comparison that was started at `position`: messages that were waiting are
    /// older than that, and what came since will be sent.
    pub async fn reconciled(&self, position: Cursor) -> Result<(), StoreError> {
        self.commit(move |txn| {
            // One that was asked for since it began is still due.
            if txn.get::<Fact>(&reconcile_key())? != Some(Fact::Again) {
                txn.delete(reconcile_key())?;
            }
            begin_at(txn, position)
        })
        .await
    }
}

/// Up to where messages were not only received but applied too, at least; `None` before the first
/// reconcile.
pub(super) fn applied(txn: &Txn<'_>) -> Result<Option<Cursor>, StoreError> {
    let Some(position) = txn.get::<Cursor>(&position_key())? else {
        return Ok(None);
    };
    let waiting = txn.page::<Message>(&prefix(Kind::Inbox, &[]), 1)?;
    let first = waiting.into_iter().map(|(key, _)| InboxId(key).sequence()).next();
    let before = first.map_or(u64::MAX, |first| first.saturating_sub(1));
    Ok(Some(Cursor { sequence: position.sequence.min(before), ..position }))
}

/// Forgets what was received: the parent's feed is followed from this position on.
pub(super) fn begin_at(txn: &mut Txn<'_>, position: Cursor) -> Result<(), StoreError> {
    txn.clear(&prefix(Kind::Inbox, &[]))?;
    txn.put(position_key(), &position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Spawner, Sys};

    fn at(sequence: u64) -> Cursor {
        Cursor { epoch: 7, sequence }
    }

    fn item(sequence: u64, name: &str) -> Item {
        let message = Message::ConfigChanged { name: name.parse().unwrap() };
        Item { sequence, message }
    }

    fn batch(from: u64, through: u64, items: Vec<Item>) -> Batch {
        Batch { from: at(from), through: at(through), items }
    }

    fn waiting(store: &Store) -> Vec<String> {
        let name = |(_, message)| match message {
            Message::ConfigChanged { name } => name.to_string(),
            other => panic!("{other:?}"),
        };
        store.inbox(100).unwrap().into_iter().map(name).collect()
    }

    #[test]
    fn f126_a_batch_that_comes_again_has_no_second_effect() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            assert!(store.receive(batch(0, 1, vec![])).await.is_err());
            store.reconciled(at(3)).await.unwrap();
            let items = vec![item(4, "first"), item(4, "second"), item(300, "third")];
            let sent = batch(3, 301, items);
            store.receive(sent.clone()).await.unwrap();
            assert!(matches!(store.receive(sent).await, Err(StoreError::Conflict(_))));
            assert_eq!(store.feed_position().unwrap(), Some(at(301)));
            assert_eq!(waiting(&store), ["first", "second", "third"]);
            let applied = store.inbox(1).unwrap().into_iter().map(|(id, _)| id).collect();
            store.inbox_done(applied).await.unwrap();
            assert_eq!(waiting(&store), ["second", "third"]);
            store.reconciled(at(400)).await.unwrap();
            assert_eq!(waiting(&store), Vec::<String>::new());
        });
    }

    #[test]
    fn a_gap_or_disorder_is_refused_whole() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            store.reconciled(at(3)).await.unwrap();
            for bad in [
                batch(4, 5, vec![item(5, "first")]),
                batch(3, 5, vec![item(5, "first"), item(4, "second")]),
                batch(3, 5, vec![item(6, "first")]),
                batch(3, 2, vec![]),
                Batch { from: at(3), through: Cursor { epoch: 8, sequence: 9 }, items: vec![] },
            ] {
                assert!(store.receive(bad).await.is_err());
            }
            assert_eq!(store.feed_position().unwrap(), Some(at(3)));
            assert_eq!(waiting(&store), Vec::<String>::new());
            let before = store.sequence();
            store.receive(batch(3, 3, vec![])).await.unwrap();
            assert_eq!(store.sequence(), before);
        });
    }
}

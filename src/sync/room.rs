//! What a node does while its disk is full: it still follows whatever makes room. Otherwise the
//! deletions that would free the disk would wait behind the content that does not fit.

use std::time::Duration;

use super::error::SyncError;
use super::worker::Worker;
use crate::gateway::UpstreamError;
use crate::gateway::feed::Scope;
use crate::store::StoreError;
use crate::sys::clock::sleep;
use crate::sys::spawn;
use crate::types::message::{Batch, Message};
use crate::types::{Cursor, Mode};

/// Free space is looked at this often.
const LOOK: Duration = Duration::from_secs(15);

/// Before everything is compared again, which costs a listing of each repository.
const COMPARE_PAUSE: Duration = Duration::from_secs(60);

/// Messages that wait on a full disk. Over it: everything is compared instead, and they go.
const WAITING_MAX: usize = 1000;

impl Worker {
    /// Returns when it is worth trying again: there is space, something made room, or everything
    /// is to be compared.
    pub(super) async fn wait_for_space(&self) -> Result<(), SyncError> {
        loop {
            let position = match self.store.feed_position()? {
                Some(position) if !self.store.reconcile_due()? => position,
                _ => {
                    // A comparison takes what was deleted away by itself.
                    sleep(COMPARE_PAUSE).await;
                    return Ok(());
                }
            };
            self.take_in(position).await?;
            let made_room = self.apply_what_makes_room().await?;
            self.note_what_waits()?;
            self.state.publish_changes(&self.store)?;
            let store = self.store.clone();
            let full = spawn::blocking(move || store.below_reserve()).await;
            if made_room || !full || self.store.reconcile_due()? {
                return Ok(());
            }
        }
    }

    /// Notes the repositories whose content the waiting messages tell of. Of a comparison that did
    /// not find space, the comparison has noted them.
    pub(super) fn note_what_waits(&self) -> Result<(), SyncError> {
        if self.store.reconcile_due()? {
            return Ok(());
        }
        let scope = Scope::of_config(&self.config()?);
        let messages = self.store.inbox(2 * WAITING_MAX)?.into_iter();
        let brought = messages.filter_map(|(_, message)| match message {
            Message::Tag { repository, digest: Some(_), .. }
            | Message::ManifestAdded { repository, .. } => Some(repository),
            _ => None,
        });
        self.state.set_without_space(brought.filter(|name| scope.covers(name)).collect());
        Ok(())
    }

    /// Waits for messages and makes them durable.
    async fn take_in(&self, position: Cursor) -> Result<(), SyncError> {
        if self.store.inbox(WAITING_MAX)?.len() >= WAITING_MAX {
            return Ok(self.store.request_reconcile().await?);
        }
        let received = match self.poll(position, LOOK).await {
            Err(UpstreamError::Gone) => return Ok(self.store.request_reconcile().await?),
            received => received?,
        };
        let batch = received.batch;
        let gap = batch.from != position || batch.through.epoch != position.epoch;
        if gap || received.unknown || self.is_of_others(received.projected.as_deref())? {
            return Ok(self.store.request_reconcile().await?);
        }
        if !batch.items.is_empty() {
            self.store.receive(Batch { from: position, ..batch }).await?;
        }
        Ok(())
    }

    /// Applies, of the messages that wait, those that need no space; whether there were any.
    async fn apply_what_makes_room(&self) -> Result<bool, SyncError> {
        let (ids, messages): (Vec<_>, Vec<_>) =
            self.store.inbox(2 * WAITING_MAX)?.into_iter().unzip();
        let config = self.config()?;
        let scope = Scope::of_config(&config);
        let (mut done, mut config_changed) = (Vec::new(), false);
        for (at, message) in messages.iter().enumerate() {
            if !makes_room(message) || messages[at + 1..].iter().any(|m| replaces(m, message)) {
                continue;
            }
            if matches!(message, Message::ConfigChanged { .. }) {
                config_changed = true;
            } else {
                let asks = config.node.mode == Mode::ReadWrite || self.is_listed(&ids[at])?;
                match self.apply_content(message, asks, &scope).await {
                    Ok(()) => {}
                    // On a ReadWrite node the tag may name something else by now.
                    Err(SyncError::Store(StoreError::Full)) => continue,
                    Err(error) => return Err(error),
                }
            }
            // With it go those that it replaces: applied later they would undo it.
            let replaced = (0..at).filter(|earlier| replaces(message, &messages[*earlier]));
            done.extend(replaced.chain([at]).map(|number| ids[number].clone()));
        }
        if config_changed {
            // Before the message is forgotten.
            self.refresh_config().await?;
        }
        let made_room = !done.is_empty();
        self.note_debts().await?;
        self.store.inbox_done(done).await?;
        Ok(made_room)
    }
}

fn makes_room(message: &Message) -> bool {
    match message {
        Message::Tag { digest, .. } => digest.is_none(),
        Message::ManifestDeleted { .. } | Message::ConfigChanged { .. } => true,
        Message::ManifestAdded { .. } => false,
    }
}

/// Whether nothing is left to do for an earlier message once the later one is applied.
fn replaces(later: &Message, earlier: &Message) -> bool {
    use Message::{ManifestAdded, ManifestDeleted, Tag};
    match (later, earlier) {
        (Tag { repository, tag, .. }, Tag { repository: other, tag: other_tag, .. }) => {
            repository == other && tag == other_tag
        }
        (
            ManifestAdded { repository, digest } | ManifestDeleted { repository, digest },
            ManifestAdded { repository: other, digest: other_digest }
            | ManifestDeleted { repository: other, digest: other_digest },
        ) => repository == other && digest == other_digest,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fetch::Fetcher;
    use super::super::state::State;
    use super::*;
    use crate::gateway::upstream::testing::parent;
    use crate::gateway::{Upstream, wire};
    use crate::store::Store;
    use crate::store::registry::manifests::testing::push;
    use crate::store::replica::node::testing::connected;
    use crate::sys::{Spawner, Sys};
    use crate::types::Digest;
    use crate::types::digest::Algorithm;
    use crate::types::message::Item;

    fn digest(number: u8) -> Digest {
        Digest::from_raw(Algorithm::Sha256, &[number; 32]).unwrap()
    }

    fn tag(name: &str, digest: Option<Digest>) -> Message {
        Message::Tag { repository: "app".parse().unwrap(), tag: name.parse().unwrap(), digest }
    }

    fn worker(store: &Store, upstream: Arc<Upstream>) -> Worker {
        Worker {
            store: store.clone(),
            upstream: upstream.clone(),
            fetcher: Fetcher { store: store.clone(), upstream, strikes: Arc::default() },
            state: Arc::new(State::new(store.sys())),
        }
    }

    /// What a node at epoch 3, sequence 5 does with a batch: its position then, how many messages
    /// wait, and whether everything is to be compared.
    async fn after(batch: Batch) -> (u64, usize, bool) {
        let body = wire::encode_batch(&batch).unwrap();
        let upstream = Arc::new(parent(move |_, _| (200, body.clone())));
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let position = Cursor { epoch: 3, sequence: 5 };
        store.reconciled(position).await.unwrap();
        worker(&store, upstream).take_in(position).await.unwrap();
        let position = store.feed_position().unwrap().unwrap();
        (position.sequence, store.inbox(9).unwrap().len(), store.reconcile_due().unwrap())
    }

    #[test]
    fn what_is_held_back_on_a_full_disk_is_known_after_a_restart() {
        smol::block_on(async {
            let store = connected().await;
            let position = Cursor { epoch: 3, sequence: 5 };
            store.begin_reconcile().await.unwrap();
            store.reconciled(position).await.unwrap();
            // It waits for the parent's answer, and the parent tells of a removal.
            push(&store, "app", 1, &["v1"]).await;
            let through = Cursor { epoch: 3, sequence: 6 };
            let items = vec![Item { sequence: 6, message: tag("v1", None) }];
            store.receive(Batch { from: position, through, items }).await.unwrap();
            let worker = worker(&store, Arc::new(parent(|_, _| (404, Vec::new()))));
            assert_eq!(worker.apply_what_makes_room().await, Ok(true));
            assert_eq!(store.inbox(9).unwrap(), []);
            assert!(!worker.state.debts().is_empty() && store.debts_noted().unwrap());
        });
    }

    #[test]
    fn messages_that_do_not_follow_lead_to_a_comparison() {
        smol::block_on(async {
            let at = |epoch, sequence| Cursor { epoch, sequence };
            let item = Item { sequence: 6, message: tag("v1", Some(digest(1))) };
            let batch = |from, through| Batch { from, through, items: vec![item.clone()] };
            assert_eq!(after(batch(at(3, 5), at(3, 6))).await, (6, 1, false));
            for (from, through) in
                [(at(3, 4), at(3, 6)), (at(2, 5), at(3, 6)), (at(3, 5), at(4, 6))]
            {
                assert_eq!(after(batch(from, through)).await, (5, 0, true), "{from} {through}");
            }
        });
    }

    #[test]
    fn only_what_needs_no_space_is_applied_on_a_full_disk() {
        let repository = || "app".parse().unwrap();
        assert!(makes_room(&tag("v1", None)));
        assert!(makes_room(&Message::ManifestDeleted {
            repository: repository(),
            digest: digest(1)
        }));
        assert!(makes_room(&Message::ConfigChanged { name: "dock01".parse().unwrap() }));
        assert!(!makes_room(&tag("v1", Some(digest(1)))));
        assert!(!makes_room(&Message::ManifestAdded {
            repository: repository(),
            digest: digest(1)
        }));
    }

    #[test]
    fn what_was_deleted_since_is_not_fetched_later() {
        let deleted = |number| Message::ManifestDeleted {
            repository: "app".parse().unwrap(),
            digest: digest(number),
        };
        let added = |number| Message::ManifestAdded {
            repository: "app".parse().unwrap(),
            digest: digest(number),
        };
        assert!(replaces(&tag("v1", None), &tag("v1", Some(digest(1)))));
        assert!(replaces(&tag("v1", Some(digest(1))), &tag("v1", None)));
        assert!(!replaces(&tag("v1", None), &tag("v2", Some(digest(1)))));
        assert!(replaces(&deleted(1), &added(1)));
        assert!(!replaces(&deleted(1), &added(2)));
        assert!(!replaces(&deleted(1), &tag("v1", Some(digest(1)))));
    }
}

//! What a parent that was replaced or restored lacks: it may have lost what it had taken and not
//! passed on, and this node may be the only one that still has it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::debts::Item;
use super::deleted::Unlisted;
use super::error::SyncError;
use super::plan::{Fate, Lacked};
use super::window::LOOK_INTERVAL;
use super::worker::{PAGES_MAX, Worker};
use crate::gateway::UpstreamError;
use crate::gateway::feed::Scope;
use crate::store::replica::gone::Gone;
use crate::store::replica::offers::Withheld;
use crate::sys::spawn;
use crate::types::limits::PAGE_MAX;
use crate::types::message::Message;
use crate::types::{Cursor, Digest, Mode, RepositoryName, Tag};

/// What counts for all that the parent lacks in a repository, from a comparison on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    /// See [`Lacked::is_new_parent`].
    pub(super) is_new_parent: bool,
    /// Whether this node may push to the repository.
    pub(super) may_push: bool,
}

impl Worker {
    /// The end of the parent's feed. When that is another feed than the one which this node has
    /// followed, or ends before it, the parent was replaced, restored or set back: that is noted
    /// before anything is told to it, and what the one before it told is not applied any more.
    pub(super) async fn meet_parent(&self) -> Result<Cursor, SyncError> {
        let known = self.store.feed_position()?;
        let heard = self.store.heard()?;
        let last = known.map_or(heard, |known| known.sequence.max(heard));
        let told = self.store.parent_start()?.map(|start| (start, last));
        let (position, was_set_back) = self.upstream.feed_head(told).await?;
        let epochs = [self.store.parent_epoch()?, known.map(|known| known.epoch)];
        let is_same = epochs.into_iter().flatten().all(|epoch| epoch == position.epoch);
        let start = self.upstream.parent_start();
        if is_same && last <= position.sequence && !was_set_back {
            self.store.note_parent(position.epoch, start).await?;
            return Ok(position);
        }
        let mut offered = BTreeSet::new();
        if self.config()?.node.mode == Mode::ReadWrite {
            log::info!("the parent is another one or was set back: it is offered what it lacks");
            // Also where it does not grant that just now.
            offered = self.repositories_here().await?;
        }
        self.store.meet_parent(position, start, &offered).await?;
        // The parent as it was before has told that: what it had deleted may be here anew.
        *self.state.told() = Gone::default();
        Ok(position)
    }

    /// Returns when a full comparison is due, which somebody else of this node has asked for.
    pub(super) async fn comparison_due<T>(&self) -> Option<T> {
        loop {
            let seen = self.store.sequence();
            if self.store.reconcile_due().unwrap_or(false) {
                self.state.set(|now| now.polling = false);
                return None;
            }
            if !self.store.wait_after(seen, LOOK_INTERVAL).await {
                return std::future::pending().await;
            }
        }
    }

    /// Notes what the parent has deleted up to here since the state that this node was restored or
    /// set back to: a child that still has that offers it.
    pub(super) async fn note_gone(&self, head: Cursor) -> Result<(), SyncError> {
        let parted = self.store.gone_from().await?;
        let mut gone = Gone::default();
        // What was applied since is asked for again. When the parent does not have that any more,
        // only the rest is heard.
        for from in parted.into_iter().chain(self.store.feed_position()?) {
            self.store.inbox(usize::MAX)?.into_iter().for_each(|(_, message)| gone.hear(message));
            if self.hear_gone(&mut gone, from, head).await? {
                break;
            }
        }
        self.store.note_gone(gone);
        Ok(())
    }

    /// Hears what the parent has told of that it deleted, behind what was heard, up to where a full
    /// comparison begins: that takes the place of those messages.
    pub(super) async fn hear_told(
        &self,
        from: Option<Cursor>,
        head: Cursor,
    ) -> Result<(), SyncError> {
        let mut gone = Gone::default();
        // What another parent has told says nothing of this one.
        if let Some(from) = from.filter(|from| from.epoch == head.epoch) {
            gone = self.state.told().clone();
            for (_, message) in self.store.inbox(usize::MAX)? {
                gone.hear(message);
            }
            if !self.hear_gone(&mut gone, from, head).await? {
                log::debug!("the parent does not remember all that it has deleted since {from}");
                gone = Gone::default();
            }
        }
        *self.state.told() = gone;
        self.state.set_told_until(head);
        Ok(())
    }

    /// Hears what the parent has deleted from one position to another; `false`: it does not have
    /// all of that any more. It keeps a bounded part of its feed, so this ends.
    async fn hear_gone(
        &self,
        gone: &mut Gone,
        mut from: Cursor,
        head: Cursor,
    ) -> Result<bool, SyncError> {
        while from.epoch == head.epoch && from.sequence < head.sequence {
            let batch = match self.upstream.messages(from, Duration::ZERO).await {
                Ok(received) => received.batch,
                Err(UpstreamError::Gone) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            if batch.from != from || batch.through.sequence <= from.sequence {
                return Ok(false);
            }
            batch.items.into_iter().for_each(|item| gone.hear(item.message));
            from = batch.through;
        }
        Ok(true)
    }

    fn may_push(&self, repository: &RepositoryName) -> Result<bool, SyncError> {
        let config = self.config()?;
        let writes = config.node.mode == Mode::ReadWrite;
        Ok(writes && Scope::of_writes(&config).covers(repository))
    }

    /// What counts now for all that the parent lacks in a repository.
    pub(super) fn standing(&self, repository: &RepositoryName) -> Result<Standing, SyncError> {
        let is_new_parent = self.store.is_offered(repository)?;
        Ok(Standing { is_new_parent, may_push: self.may_push(repository)? })
    }

    /// What is known of a tag that the parent lacks.
    pub(super) fn lacked_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        is_new_parent: bool,
    ) -> Result<Lacked, SyncError> {
        let is_kept = self.store.withholds_tag(repository, tag)?;
        let is_told = self.state.told().has_tag(repository, tag);
        Ok(Lacked { is_new_parent, is_kept, is_told })
    }

    /// What is known of a manifest that the parent lacks.
    pub(super) fn lacked_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        is_new_parent: bool,
    ) -> Result<Lacked, SyncError> {
        let is_kept = self.store.withholds_manifest(repository, digest)?;
        let is_told = self.state.told().has_manifest(repository, digest);
        Ok(Lacked { is_new_parent, is_kept, is_told })
    }

    /// Hears what the parent tells of a repository, before that is followed: of what it removes,
    /// and of what it has had since this node met it, which is kept no more. What a tag names here
    /// is kept on, unless that is what the parent had.
    pub(super) async fn hear(&self, message: &Message) -> Result<(), SyncError> {
        match message {
            Message::Tag { repository, tag, digest } => {
                self.store.release_tag(repository, tag).await?;
                if let Some(digest) = digest {
                    self.store.parent_has(repository, None, digest).await?;
                }
            }
            Message::ManifestAdded { repository, digest }
            | Message::ManifestDeleted { repository, digest } => {
                self.store.parent_has(repository, None, digest).await?;
            }
            Message::ConfigChanged { .. } => {}
        }
        self.state.told().hear(message.clone());
        Ok(())
    }

    /// Where something may be taken for lost, hears what the parent has told by now: what is not in
    /// a list that it has made was removed before that.
    pub(super) async fn hear_on(
        &self,
        repository: &RepositoryName,
        standing: Standing,
    ) -> Result<(), SyncError> {
        if standing.is_new_parent || standing.may_push && self.store.withholds(repository)? {
            let (head, _) = self.upstream.feed_head(None).await?;
            let mut gone = self.state.told().clone();
            let until = self.state.told_until().filter(|until| until.epoch == head.epoch);
            // Where the parent's feed begins later by now, what it told before that still counts.
            if let Some(from) = until
                && self.hear_gone(&mut gone, from, head).await?
            {
                *self.state.told() = gone;
            }
            self.state.set_told_until(head);
        }
        Ok(())
    }

    /// Ends that what the parent has again is kept though the parent lacks it: tags with what they
    /// name there, and manifests that need no tag.
    pub(super) async fn release_what_is_there(
        &self,
        repository: &RepositoryName,
        tags: impl Iterator<Item = (&Tag, &Digest)>,
        referrers: &[Digest],
    ) -> Result<(), SyncError> {
        if !self.store.withholds(repository)? {
            return Ok(());
        }
        let tags = tags.map(|(tag, digest)| (Some(tag.clone()), digest.clone()));
        let referrers = referrers.iter().map(|digest| (None, digest.clone()));
        let all: Vec<_> = tags.chain(referrers).collect();
        let (store, name) = (self.store.clone(), repository.clone());
        let kept = spawn::blocking(move || store.withheld_among(&name, all)).await?;
        for (tag, digest) in kept {
            self.store.parent_has(repository, tag.as_ref(), &digest).await?;
        }
        Ok(())
    }

    /// Offers manifests that the parent may have lost, or keeps them, once that was done with all
    /// tags. Then nothing is left to be offered.
    pub(super) async fn offer_manifests(
        &self,
        repository: &RepositoryName,
        standing: Standing,
    ) -> Result<(), SyncError> {
        let (mut after, mut pages) = (None, PAGES_MAX);
        loop {
            let some: Vec<_> = match standing.is_new_parent {
                true => self.manifests_here(repository, after.as_ref()).await?,
                false if !standing.may_push => return Ok(()),
                false => {
                    let kept =
                        self.store.withheld_manifests(repository, after.as_ref(), PAGE_MAX)?;
                    kept.into_iter().collect()
                }
            };
            let Some(last) = some.last().cloned() else { break };
            let some = some.into_iter().collect();
            let lacked = match self.unlisted(repository, after.as_ref(), some, &mut pages).await? {
                Unlisted::Lacked(lacked) => lacked,
                Unlisted::Unknown(some) => self.lacked(repository, some).await?,
            };
            self.hear_on(repository, standing).await?;
            let (mut rising, mut kept) = (Vec::new(), BTreeSet::new());
            for digest in lacked {
                let lacked = self.lacked_manifest(repository, &digest, standing.is_new_parent)?;
                match lacked.fate(standing.may_push) {
                    // A tag that is yet to be offered may name this manifest.
                    Fate::Goes if standing.is_new_parent => {
                        self.state.hold_back(repository, Item::Deleted(digest));
                    }
                    Fate::Goes => {}
                    Fate::Rises => rising.push(digest),
                    Fate::Stays => drop(kept.insert(digest)),
                }
            }
            self.store.offer_manifests(repository, &rising).await?;
            let kept = Withheld { tags: BTreeSet::new(), manifests: kept };
            self.store.withhold(repository, &kept).await?;
            after = Some(last);
        }
        if standing.may_push {
            self.store.release(repository).await?;
        }
        if standing.is_new_parent {
            self.store.end_offer(repository).await?;
        }
        Ok(())
    }

    /// Those of these manifests that the parent lacks.
    async fn lacked(
        &self,
        repository: &RepositoryName,
        manifests: BTreeSet<Digest>,
    ) -> Result<BTreeSet<Digest>, SyncError> {
        let mut lacked = BTreeSet::new();
        for digest in manifests {
            match self.upstream.keeps_manifest(repository, &digest).await.map_err(SyncError::from) {
                Ok(true) => continue,
                Ok(false) => {}
                // It cannot tell; what it has already does no harm.
                Err(error) if error.is_of_item() => {}
                Err(error) => return Err(error),
            }
            lacked.insert(digest);
        }
        Ok(lacked)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::fetch::Fetcher;
    use super::super::state::State;
    use super::*;
    use crate::gateway::upstream::testing::parent;
    use crate::gateway::wire::{Format, encode_batch};
    use crate::store::content::leases::Lease;
    use crate::store::replica::node::testing::connected;
    use crate::store::replica::outbox::Origin;
    use crate::store::{Precondition, PutManifest, Required};
    use crate::types::digest::Algorithm;
    use crate::types::message::{Batch, Item};
    use crate::types::{Delivery, Offered, OutboxId};
    use crate::types::{Manifest, Role, media};

    const EPOCH: u64 = 3;

    fn at(sequence: u64) -> Cursor {
        Cursor { epoch: EPOCH, sequence }
    }

    fn removal(sequence: u64, tag: &str) -> Item {
        let (repository, tag) = ("app".parse().unwrap(), tag.parse().unwrap());
        Item { sequence, message: Message::Tag { repository, tag, digest: None } }
    }

    /// Of its feed the parent has what comes after 12, and this node has 9 to 12 unapplied.
    #[test]
    fn f201_of_what_the_parent_has_deleted_the_rest_is_heard_when_its_feed_begins_later() {
        smol::block_on(async {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let heard = asked.clone();
            let upstream = Arc::new(parent(move |path, _| {
                let after = path.split(['.', '&']).nth(1).unwrap_or_default().to_owned();
                let is_there = after == "12";
                heard.lock().unwrap().push(after);
                let batch = Batch { from: at(12), through: at(20), items: vec![removal(15, "b")] };
                if is_there {
                    (200, encode_batch(Format::V1, batch).unwrap())
                } else {
                    (410, Vec::new())
                }
            }));
            let store = connected().await;
            store.stand(Role::Connected, true);
            store.reconciled(at(9)).await.unwrap();
            let items = vec![removal(10, "a")];
            store.receive(Batch { from: at(9), through: at(12), items }).await.unwrap();
            store.note_set_back(Some(at(5))).await.unwrap();
            let fetcher = Fetcher {
                store: store.clone(),
                upstream: upstream.clone(),
                strikes: Arc::default(),
                lacking: Arc::default(),
            };
            let state = Arc::new(State::new(store.sys()));
            let refreshing = smol::lock::Mutex::default();
            let worker = Worker { store: store.clone(), upstream, fetcher, state, refreshing };
            worker.note_gone(at(20)).await.unwrap();
            assert_eq!(*asked.lock().unwrap(), ["5", "12"]);

            let app: RepositoryName = "app".parse().unwrap();
            for (tag, sequence) in ["a", "b", "c"].into_iter().zip(1..) {
                let id = OutboxId { origin: "leaf01".parse().unwrap(), incarnation: 1, sequence };
                let delivery = Delivery { offered: Offered::Mirrored, ..Delivery::of(id) };
                let (index, digest) = (media::OCI_INDEX, [1; 32]);
                let text = format!(r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[]}}"#);
                let put = PutManifest {
                    content: Lease::unseen(&Digest::from_raw(Algorithm::Sha256, &digest).unwrap()),
                    media_type: index.to_owned(),
                    bytes_len: text.len() as u64,
                    parsed: Manifest::parse(Some(index), text.as_bytes()).unwrap(),
                    tags: vec![tag.parse().unwrap()],
                    precondition: Precondition::None,
                    required: Required::Nothing,
                    origin: Origin::Child(delivery),
                };
                store.put_manifest(&app, put).await.unwrap();
            }
            let tags = store.tags(&app, None, 9).unwrap();
            let tags: Vec<_> = tags.iter().map(|(tag, _)| tag.as_str()).collect();
            assert_eq!(tags, ["c"]);
        });
    }
}

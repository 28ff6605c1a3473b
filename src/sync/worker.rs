//! Follows the parent: desired state, full comparison, then messages.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use smol::lock::Mutex;

use super::debts::Item;
use super::error::SyncError;
use super::fetch::Fetcher;
use super::plan;
use super::room;
use super::state::State;
use crate::gateway::feed::Scope;
use crate::gateway::wire::Received;
use crate::gateway::{Upstream, UpstreamError};
use crate::store::Store;
use crate::store::replica::inbox::InboxId;
use crate::sys::spawn::yield_now;
use crate::types::limits::PAGE_MAX;
use crate::types::message::{Batch, Message, NodeConfig};
use crate::types::{Cursor, Mode, RepositoryName, RepositoryPattern};

/// How long a poll waits at the parent.
const POLL_WAIT: Duration = Duration::from_secs(60);

/// The same while this node does not know the time: the parent may hear of it, and says it with its
/// next answer.
const TIMELESS_WAIT: Duration = Duration::from_secs(10);

/// Messages applied between two notes of progress.
const CHUNK: usize = 100;

/// An empty stretch of the feed is noted on disk only this often: a poll writes nothing.
const NOTE_INTERVAL: Duration = Duration::from_secs(3600);

/// Pages of one listing or of the catalog; over it the parent is taken for faulty.
pub(super) const PAGES_MAX: usize = 10_000;

/// Follows the parent.
pub(super) struct Worker {
    pub(super) store: Store,
    pub(super) upstream: Arc<Upstream>,
    pub(super) fetcher: Fetcher,
    pub(super) state: Arc<State>,
    /// Held while the desired state is asked for: an older answer does not follow a newer one.
    pub(super) refreshing: Mutex<()>,
}

impl Worker {
    /// Brings this node up to date and keeps it so; ends with an error only.
    pub(super) async fn follow(&self) -> Result<Infallible, SyncError> {
        self.begin().await?;
        let mut position = self.up_to_date().await?;
        let clock = &self.store.sys().clock;
        let mut noted = clock.monotonic();
        loop {
            self.refresh_missing().await?;
            let polled = async { Some(self.poll(position, self.patience()).await) };
            let Some(received) = smol::future::or(polled, self.comparison_due()).await else {
                position = further(position, self.up_to_date().await?);
                continue;
            };
            let received = match received {
                Ok(received) => received,
                Err(UpstreamError::Gone) => {
                    log::info!(
                        "the parent no longer has this node's position: full reconcile requested"
                    );
                    self.store.request_reconcile().await?;
                    position = self.up_to_date().await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if !self.can_follow(position, &received).await? {
                self.refresh_config().await?;
                position = self.up_to_date().await?;
                continue;
            }
            if let Some(version) = &received.desired
                && self.store.newest_config_version()?.as_ref() != Some(version)
            {
                self.refresh_config().await?;
            }
            let batch = received.batch;
            position = batch.through;
            let is_empty = batch.items.is_empty();
            if !is_empty || clock.monotonic().saturating_sub(noted) > NOTE_INTERVAL {
                // What lies between the position on disk and this batch was empty.
                let from = self.store.feed_position()?.unwrap_or(batch.from);
                self.store.receive(Batch { from, ..batch }).await?;
                noted = clock.monotonic();
            }
            self.look_for_room().await;
            if !is_empty || self.patience().is_zero() {
                position = further(position, self.up_to_date().await?);
            }
        }
    }

    /// Whether these messages follow on a position, and nothing was left out of them. Otherwise a
    /// full reconcile is requested.
    async fn can_follow(&self, position: Cursor, received: &Received) -> Result<bool, SyncError> {
        let batch = &received.batch;
        let gap = batch.from != position || batch.through.epoch != position.epoch;
        let what = match self.is_of_others(received.projected.as_deref())? {
            true => "messages for other grants",
            false if gap || received.unknown => "messages that cannot be followed",
            false => return Ok(true),
        };
        log::info!("the parent sent {what}: full reconcile requested");
        self.store.request_reconcile().await?;
        Ok(false)
    }

    /// Whether the parent has left out of its messages what this node does not mirror, with other
    /// grants in mind than those that this node has: they may be as before already.
    fn is_of_others(&self, projected: Option<&str>) -> Result<bool, SyncError> {
        let Some(projected) = projected else {
            return Ok(false);
        };
        let ours = Scope::of_config(&self.config()?).fingerprint();
        // Once for each: a parent that has not got this node's desired state yet goes on so.
        Ok(self.state.is_projected_anew((projected != ours).then_some(projected)))
    }

    /// Brings this node up to date, with what the parent has told by now.
    #[cfg(test)]
    pub(super) async fn follow_once(&self) -> Result<(), SyncError> {
        self.begin().await?;
        self.refresh_config().await?;
        self.look_for_room().await;
        let position = self.up_to_date().await?;
        if self.upstream.feed_head(None).await?.0 != position {
            match self.upstream.messages(position, Duration::ZERO).await {
                Ok(received) if self.can_follow(position, &received).await? => {
                    self.store.receive(received.batch).await?;
                }
                Ok(_) => self.refresh_config().await?,
                Err(UpstreamError::Gone) => self.store.request_reconcile().await?,
                Err(error) => return Err(error.into()),
            }
            self.up_to_date().await?;
        }
        Ok(())
    }

    /// How long nothing is due.
    fn patience(&self) -> Duration {
        let debts = self.state.debts();
        let clock = &self.store.sys().clock;
        let longest = match (debts.without_room().is_empty(), clock.wall()) {
            (false, _) => room::LOOK,
            (true, None) => TIMELESS_WAIT,
            (true, Some(_)) => POLL_WAIT,
        };
        let now = clock.monotonic();
        let lasts = self.state.contact().lasts_in(now);
        let next = [debts.next(now), self.state.missing().next(now), lasts];
        let next = next.into_iter().flatten().min();
        next.map_or(longest, |next| next.min(longest))
    }

    /// Catches up. Returns the position to poll from. However long the content takes that is
    /// fetched, what the parent grants and takes away counts meanwhile.
    async fn up_to_date(&self) -> Result<Cursor, SyncError> {
        let (done, is_done) = smol::channel::bounded(1);
        let caught_up = async move {
            let position = self.catch_up().await;
            drop(done);
            position
        };
        let (position, ()) = smol::future::try_zip(caught_up, self.hear_until(is_done)).await?;
        self.finished().await?;
        Ok(position)
    }

    async fn poll(&self, position: Cursor, wait: Duration) -> Result<Received, UpstreamError> {
        self.state.set(|now| now.polling = true);
        // The request states the wait in whole seconds.
        let wait = Duration::from_secs(wait.as_secs().max(1));
        let received = self.upstream.messages(position, wait).await;
        self.state.set(|now| now.polling = false);
        received
    }

    /// The parent has let this node in.
    async fn begin(&self) -> Result<(), SyncError> {
        self.store.set_hurdle(None);
        self.state.contact().follow();
        self.state.publish(&self.store)?;
        if self.store.debts_noted()? && self.state.debts().is_empty() {
            log::info!(
                "content was missing or held back when this node stopped: full reconcile requested"
            );
            self.store.request_reconcile().await?;
        }
        Ok(())
    }

    /// The messages are applied, and what was due is compared. What is owed or held back is left,
    /// and is tried again by itself.
    async fn finished(&self) -> Result<(), SyncError> {
        self.state.set_arriving(BTreeSet::new());
        if let Some(cause) = self.store.read_only_cause() {
            // What was told is applied, and nothing more can be: the failures go on being counted.
            self.state.set(|now| now.syncing = false);
            self.state.contact().fails_on();
            self.note_space();
            self.state.stays_unwritten(&cause);
            return Ok(self.state.publish(&self.store)?);
        }
        self.state.succeeded();
        self.note_space();
        let is_large = |name: &_, root: &_| self.fetcher.lacking.is_large(name, root);
        self.store.keep_fetched_for(|name, root| {
            self.state.debts().may_fetch(name, root) || is_large(name, root)
        });
        if self.state.debts().is_empty() {
            self.store.note_debts(false).await?;
        }
        if let Some(time) = self.store.sys().clock.wall() {
            self.state.set(|now| now.last_sync = Some(time));
            // Once an hour is enough for a fact that the next start can do without.
            let noted = self.store.last_sync()?;
            if noted.is_none_or(|noted| time.since(noted) > NOTE_INTERVAL.as_secs()) {
                self.store.record_sync(time).await?;
            }
        }
        Ok(self.state.publish(&self.store)?)
    }

    /// Compares everything if that is due, and applies the messages that wait on disk. Returns the
    /// position to poll from.
    async fn catch_up(&self) -> Result<Cursor, SyncError> {
        loop {
            let position = match self.store.feed_position()? {
                Some(position) if !self.store.reconcile_due()? => position,
                _ => {
                    self.reconcile().await?;
                    continue;
                }
            };
            let messages = self.store.inbox(CHUNK)?;
            if messages.is_empty() {
                // Every message up to this position was heard.
                self.state.told_until_at_least(position);
                self.repay().await?;
                if self.store.reconcile_due()? {
                    continue;
                }
                return Ok(position);
            }
            self.apply(messages).await?;
        }
    }

    /// Compares everything that is granted with the parent.
    async fn reconcile(&self) -> Result<(), SyncError> {
        // Whatever changes from here on is told from this position on.
        let position = self.meet_parent().await?;
        // Of a parent that was set back the rest is of another time.
        let heard = self.store.feed_position()?;
        self.refresh_config().await?;
        // A child that sees from here on that this node was set back asks for another comparison.
        self.store.begin_reconcile().await?;
        if self.store.lacks_a_life()? {
            self.note_gone(position).await?;
        }
        self.hear_told(heard, position).await?;
        let config = self.config()?;
        let scope = Scope::of_config(&config);
        log::info!("full reconcile started");
        self.state.begin_listing();
        self.state.set(|now| now.syncing = true);
        self.state.publish(&self.store)?;
        let at_parent = self.granted_at_parent(&scope).await?;
        let here = self.repositories_here().await?;
        let mut plan = plan::repositories(&scope, config.node.mode, at_parent, &here);
        // Whether it is granted by now or not: what is left of it is not whole.
        plan.purge.extend(self.store.half_removed().await?);
        self.purge(&plan.purge).await?;
        let strangers = self.store.synced_repositories().await?;
        for repository in strangers.iter().filter(|repository| !scope.covers(repository)) {
            self.store.mark_synced(repository, false).await?;
        }
        for repository in &plan.reconcile {
            match self.reconcile_repository(repository).await {
                Err(error) if error.is_of_item() => {
                    self.settle(repository, Item::Listing, None, Err(error)).await?;
                }
                Err(error) => return Err(error),
                Ok(()) => {
                    self.state.paid(repository, &Item::Listing);
                    self.synced_if_whole(repository).await?;
                }
            }
        }
        self.state.debts().keep(&plan.reconcile);
        self.state.told().keep(|repository| plan.reconcile.contains(repository));
        self.note_debts().await?;
        self.note_listed().await?;
        self.store.note_compared().await?;
        Ok(self.store.reconciled(position).await?)
    }

    /// Notes how far the listings since the last note have told what messages tell again.
    pub(super) async fn note_listed(&self) -> Result<(), SyncError> {
        if let Some(listed) = self.state.listed() {
            self.store.note_listed(listed).await?;
        }
        Ok(())
    }

    pub(super) fn config(&self) -> Result<NodeConfig, SyncError> {
        let config = self.store.self_config()?;
        let absent = || UpstreamError::Protocol("the parent sent no desired state".to_owned());
        config.ok_or_else(|| absent().into())
    }

    /// Notes that a repository is as the parent has it, unless something of it is set aside.
    pub(super) async fn synced_if_whole(
        &self,
        repository: &RepositoryName,
    ) -> Result<(), SyncError> {
        if !self.state.debts().owes(repository) && !self.store.is_synced(repository)? {
            self.store.mark_synced(repository, true).await?;
            return Ok(self.state.publish(&self.store)?);
        }
        Ok(self.state.publish_changes(&self.store)?)
    }

    /// Granted repositories by name, and what the parent has under the wildcards.
    async fn granted_at_parent(
        &self,
        scope: &Scope,
    ) -> Result<BTreeSet<RepositoryName>, SyncError> {
        let mut names = BTreeSet::new();
        let mut wildcard = false;
        for pattern in scope.patterns() {
            match pattern {
                RepositoryPattern::One(name) => {
                    names.insert(name.clone());
                }
                RepositoryPattern::All | RepositoryPattern::Under(_) => wildcard = true,
            }
        }
        if !wildcard {
            return Ok(names);
        }
        let mut last: Option<RepositoryName> = None;
        for _ in 0..PAGES_MAX {
            let page = self.upstream.catalog(last.as_ref().map(RepositoryName::as_str)).await?;
            let Some(end) = page.last() else {
                return Ok(names);
            };
            if last.as_ref().is_some_and(|last| end <= last) {
                break;
            }
            last = Some(end.clone());
            names.extend(page.into_iter().filter(|name| scope.covers(name)));
        }
        Err(UpstreamError::Protocol("the parent's catalog does not end".to_owned()).into())
    }

    pub(super) async fn repositories_here(&self) -> Result<BTreeSet<RepositoryName>, SyncError> {
        let mut names = BTreeSet::new();
        loop {
            let last = names.last().map(RepositoryName::as_str);
            let page = self.store.repositories(last, PAGE_MAX)?;
            if page.is_empty() {
                return Ok(names);
            }
            names.extend(page);
            yield_now().await;
        }
    }

    /// Applies messages in order. Each can be applied again: a crash in between does no harm.
    async fn apply(&self, messages: Vec<(InboxId, Message)>) -> Result<(), SyncError> {
        let config = self.config()?;
        let scope = Scope::of_config(&config);
        self.announce(&messages, &scope)?;
        let (mut done, mut config_changed) = (Vec::new(), false);
        let mut result = Ok(());
        for (position, (id, message)) in messages.iter().enumerate() {
            // Not granted any more, or not yet: a comparison settles it.
            let repository = message.repository().filter(|repository| scope.covers(repository));
            if repository.is_some()
                && let Err(error) = self.hear(message).await
            {
                result = Err(error);
                break;
            }
            let later = messages[position + 1..].iter().map(|(_, message)| message);
            if is_superseded(message, later) {
                done.push(id.clone());
                continue;
            }
            if matches!(message, Message::ConfigChanged { .. }) {
                config_changed = true;
                done.push(id.clone());
                continue;
            }
            let applied = match repository {
                Some(repository) => {
                    self.apply_content(id, message, config.node.mode, repository).await
                }
                None => Ok(()),
            };
            match applied {
                Ok(()) => done.push(id.clone()),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if config_changed {
            // Before the message is forgotten.
            self.refresh_config().await?;
        }
        self.note_debts().await?;
        self.store.inbox_done(done).await?;
        result
    }

    /// Says that what these messages tell of is on its way, where nothing was before.
    fn announce(&self, messages: &[(InboxId, Message)], scope: &Scope) -> Result<(), SyncError> {
        let named = messages.iter().filter_map(|(_, message)| match message {
            Message::Tag { repository, digest: Some(_), .. }
            | Message::ManifestAdded { repository, .. } => Some(repository),
            _ => None,
        });
        let mut new: BTreeSet<RepositoryName> = BTreeSet::new();
        for name in named.filter(|name| scope.covers(name)) {
            if !self.store.is_synced(name)? {
                new.insert(name.clone());
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.state.set_arriving(new);
        Ok(self.state.publish(&self.store)?)
    }

    /// Whether the parent is asked what it has now: always on a ReadWrite node, and where a listing
    /// has told of it already, or of what came after it.
    fn asks(&self, mode: Mode, id: &InboxId) -> Result<bool, SyncError> {
        if mode == Mode::ReadWrite {
            return Ok(true);
        }
        let listed = self.store.listed()?.zip(self.store.feed_position()?);
        Ok(listed.is_some_and(|(listed, now)| {
            listed.epoch == now.epoch && id.sequence() <= listed.sequence
        }))
    }

    /// Applies one message about content. What counts is what the parent says now, if it is asked:
    /// the message may be older than what is here. What cannot be had is set aside.
    async fn apply_content(
        &self,
        id: &InboxId,
        message: &Message,
        mode: Mode,
        repository: &RepositoryName,
    ) -> Result<(), SyncError> {
        match message {
            Message::Tag { tag, digest, .. } => {
                let asks = self.asks(mode, id)?;
                self.follow_tag(repository, tag, digest.clone(), asks).await?;
            }
            Message::ManifestAdded { digest, .. } => {
                let result = self.fetcher.obtain(repository, digest, None).await;
                let (item, result) = (Item::Manifest(digest.clone()), result.map(|_| ()));
                self.settle(repository, item, Some(digest), result).await?;
            }
            Message::ManifestDeleted { digest, .. } => {
                self.state.paid(repository, &Item::Manifest(digest.clone()));
                // What images lack is fetched beside this: the manifest may come again meanwhile.
                let watch = self.store.watch_manifest(repository, digest);
                match self.asks(mode, id)? {
                    true => self.delete_if_gone(repository, digest).await?,
                    false => self.delete_manifest(watch, repository, digest).await?,
                }
            }
            Message::ConfigChanged { .. } => {}
        }
        // The first push to a repository under a wildcard.
        if self.store.is_synced(repository)? {
            return Ok(());
        }
        self.synced_if_whole(repository).await
    }
}

/// The position to poll from: an empty stretch is not on disk yet.
fn further(polled: Cursor, on_disk: Cursor) -> Cursor {
    let is_new = on_disk.epoch != polled.epoch || on_disk.sequence > polled.sequence;
    if is_new { on_disk } else { polled }
}

/// Whether a later message says where the same tag is, so that the content between need not be
/// fetched.
fn is_superseded<'a>(message: &Message, mut later: impl Iterator<Item = &'a Message>) -> bool {
    let Message::Tag { repository, tag, .. } = message else {
        return false;
    };
    later.any(|later| match later {
        Message::Tag { repository: other, tag: other_tag, .. } => {
            other == repository && other_tag == tag
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::upstream::testing::parent;
    use crate::store::registry::manifests::testing::push;
    use crate::store::replica::node::testing::connected;
    use crate::types::digest::Algorithm;
    use crate::types::{Digest, message};

    const POSITION: Cursor = Cursor { epoch: 3, sequence: 5 };

    /// A worker at [`POSITION`], of a device whose parent has nothing.
    async fn worker() -> Worker {
        let (store, upstream) = (connected().await, Arc::new(parent(|_, _| (404, Vec::new()))));
        store.begin_reconcile().await.unwrap();
        store.reconciled(POSITION).await.unwrap();
        Worker {
            state: Arc::new(State::new(store.sys())),
            fetcher: Fetcher {
                store: store.clone(),
                upstream: upstream.clone(),
                strikes: Arc::default(),
                lacking: Arc::default(),
            },
            refreshing: Mutex::default(),
            store,
            upstream,
        }
    }

    fn batch(from: Cursor, through: Cursor) -> Batch {
        let (repository, tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
        let message = Message::Tag { repository, tag, digest: None };
        Batch { from, through, items: vec![message::Item { sequence: 6, message }] }
    }

    #[test]
    fn what_is_held_back_is_known_after_a_restart() {
        smol::block_on(async {
            let worker = worker().await;
            let store = &worker.store;
            // It waits for the parent's answer, and the parent tells of a removal.
            push(store, "app", 1, &["v1"]).await;
            store.receive(batch(POSITION, Cursor { sequence: 6, ..POSITION })).await.unwrap();
            worker.apply(store.inbox(9).unwrap()).await.unwrap();
            assert_eq!(store.inbox(9).unwrap(), []);
            assert!(!worker.state.debts().is_empty() && store.debts_noted().unwrap());
        });
    }

    #[test]
    fn messages_that_do_not_follow_lead_to_a_comparison() {
        smol::block_on(async {
            let at = |epoch, sequence| Cursor { epoch, sequence };
            for (from, through, unknown, follows) in [
                (POSITION, at(3, 6), false, true),
                (POSITION, at(3, 6), true, false),
                (at(3, 4), at(3, 6), false, false),
                (at(2, 5), at(3, 6), false, false),
                (POSITION, at(4, 6), false, false),
            ] {
                let worker = worker().await;
                let batch = batch(from, through);
                let received =
                    Received { batch, unknown, projected: None, set_back: false, desired: None };
                let done = worker.can_follow(POSITION, &received).await;
                assert_eq!(done, Ok(follows), "{from} {through}");
                assert_eq!(worker.store.reconcile_due().unwrap(), !follows, "{from} {through}");
            }
        });
    }

    #[test]
    fn only_the_last_move_of_a_tag_counts() {
        let tag = |name: &str, number: u8| Message::Tag {
            repository: "app".parse().unwrap(),
            tag: name.parse().unwrap(),
            digest: Digest::from_raw(Algorithm::Sha256, &[number; 32]),
        };
        let messages = [tag("v1", 1), tag("v2", 2), tag("v1", 3)];
        let superseded: Vec<bool> = (0..messages.len())
            .map(|n| is_superseded(&messages[n], messages[n + 1..].iter()))
            .collect();
        assert_eq!(superseded, [true, false, false]);
    }
}

//! What images here name without needing it, and lack: the parent may have it by now. It is asked
//! for beside everything else, a repository at a time, so that nothing waits for it but what is of
//! its own kind and repository.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, EventListener};
use log::Level;
use smol::future::or;

use super::error::SyncError;
use super::fetch::{Fetcher, left_out};
use super::refusal::is_unreachable;
use crate::gateway::UpstreamError;
use crate::gateway::feed::Scope;
use crate::store::StoreError;
use crate::store::registry::lacking::Named;
use crate::sys::clock::within;
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName};

/// What a repository lacks and is asked for at a time. Over it: some of the rest the next time.
const ASKED_MAX: usize = 256;

/// After these times what a repository still lacks is asked for again: a parent may be about to
/// fetch it from its own. Then it waits for the round, or for news of an image that lacks
/// something. The first is also the shortest time between two looks.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(15), Duration::from_secs(60), Duration::from_secs(600)];

/// From the end of a round through all repositories to the next.
const ROUND: Duration = Duration::from_secs(3600);

/// Repositories that are remembered. Over it: what is news waits for the round.
const REPOSITORIES_MAX: usize = 1024;

/// Which repositories lack something, and when they are looked at.
#[derive(Default)]
pub(super) struct Lacking {
    table: Mutex<Table>,
    changed: Event,
}

#[derive(Default)]
struct Table {
    repositories: BTreeMap<RepositoryName, Turn>,
    /// When a round may begin or go on, monotonic.
    round: Duration,
    /// The last repository of the round that is under way.
    after: Option<RepositoryName>,
}

struct Turn {
    /// Looks since there was news.
    tries: usize,
    /// When the next is, monotonic; `None`: not by itself.
    due: Option<Duration>,
    /// When the next may be.
    earliest: Duration,
    is_under_way: bool,
}

impl Table {
    /// An image of this repository lacks something.
    fn note(&mut self, repository: &RepositoryName, now: Duration) {
        if let Some(turn) = self.repositories.get_mut(repository) {
            turn.tries = 0;
            turn.due = turn.due.into_iter().chain([turn.earliest]).min();
        } else if self.repositories.len() < REPOSITORIES_MAX {
            let turn = Turn { tries: 0, due: Some(now), earliest: now, is_under_way: false };
            self.repositories.insert(repository.clone(), turn);
        }
    }

    /// A repository that is due.
    fn take(&mut self, now: Duration) -> Option<RepositoryName> {
        self.repositories
            .retain(|_, turn| turn.is_under_way || turn.due.is_some() || turn.earliest > now);
        let mut turns = self.repositories.iter_mut();
        let is_due = |turn: &Turn| !turn.is_under_way && turn.due.is_some_and(|due| due <= now);
        let (repository, turn) = turns.find(|(_, turn)| is_due(turn))?;
        (turn.is_under_way, turn.due) = (true, None);
        Some(repository.clone())
    }

    /// The next repository of a round, unless it is looked at already.
    fn take_next(&mut self, repository: RepositoryName, now: Duration) -> Option<RepositoryName> {
        self.after = Some(repository.clone());
        let none = Turn { tries: PAUSES.len(), due: None, earliest: now, is_under_way: false };
        let turn = self.repositories.entry(repository.clone()).or_insert(none);
        (!std::mem::replace(&mut turn.is_under_way, true)).then_some(repository)
    }

    /// A look has ended. There may have been news meanwhile.
    fn done(&mut self, repository: &RepositoryName, lacks: bool, now: Duration) {
        let Some(turn) = self.repositories.get_mut(repository) else { return };
        turn.earliest = now.saturating_add(PAUSES[0]);
        let pause = PAUSES.get(turn.tries).filter(|_| lacks || turn.due.is_some());
        turn.due = pause.map(|pause| now.saturating_add(*pause));
        turn.tries = turn.tries.saturating_add(1);
        turn.is_under_way = false;
    }

    /// When there is something to do next.
    fn next(&self) -> Duration {
        let waiting = self.repositories.values().filter(|turn| !turn.is_under_way);
        waiting.filter_map(|turn| turn.due).fold(self.round, Duration::min)
    }
}

impl Lacking {
    /// An image of this repository lacks something, at `now`, monotonic.
    pub(super) fn note(&self, repository: &RepositoryName, now: Duration) {
        self.table().note(repository, now);
        self.changed.notify(usize::MAX);
    }

    fn listen(&self) -> EventListener {
        self.changed.listen()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves whole entries behind.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the parent has under a digest.
enum AtParent {
    Manifest,
    /// A blob of so many bytes.
    Blob(u64),
}

/// Asks for what is lacking.
pub(super) struct Seeker {
    pub(super) fetcher: Fetcher,
    pub(super) lacking: Arc<Lacking>,
}

impl Seeker {
    /// Looks at each repository when it is due, four at a time; ends with an error that concerns
    /// this node only.
    pub(super) async fn seek_all(&self) -> Result<Infallible, SyncError> {
        for turn in self.lacking.table().repositories.values_mut() {
            if std::mem::take(&mut turn.is_under_way) {
                turn.due = Some(turn.earliest);
            }
        }
        or(or(self.seek(), self.seek()), or(self.seek(), self.seek())).await
    }

    async fn seek(&self) -> Result<Infallible, SyncError> {
        loop {
            let changed = self.lacking.listen();
            if !self.seek_next().await? {
                let next = self.lacking.table().next();
                let _ = within(next.saturating_sub(self.now()), changed).await;
            }
        }
    }

    /// `false` when nothing is due.
    async fn seek_next(&self) -> Result<bool, SyncError> {
        let Some(repository) = self.take()? else { return Ok(false) };
        let looked = self.look(&repository).await;
        let lacks = *looked.as_ref().unwrap_or(&true);
        self.lacking.table().done(&repository, lacks, self.now());
        looked.map(|_| true)
    }

    fn take(&self) -> Result<Option<RepositoryName>, StoreError> {
        let (now, mut table) = (self.now(), self.lacking.table());
        loop {
            if let Some(repository) = table.take(now) {
                return Ok(Some(repository));
            }
            if now < table.round {
                return Ok(None);
            }
            let after = table.after.as_ref().map(RepositoryName::as_str);
            let Some(next) = self.fetcher.store.repositories(after, 1)?.pop() else {
                (table.round, table.after) = (now.saturating_add(ROUND), None);
                return Ok(None);
            };
            if let Some(repository) = table.take_next(next, now) {
                return Ok(Some(repository));
            }
        }
    }

    /// Asks for what a repository lacks and fetches what the parent has of it; whether anything is
    /// lacking then. An error concerns this node: whether the link is broken shows elsewhere, and
    /// one answer that does not come stops nothing else.
    async fn look(&self, repository: &RepositoryName) -> Result<bool, SyncError> {
        let (level, error) = match self.bring(repository).await {
            Err(error) if is_unreachable(&error) => (Level::Debug, error),
            Err(error) if !error.ends_session() => (Level::Warn, error),
            looked => return looked,
        };
        log::log!(level, "what images of {repository} lack cannot be asked for: {error}");
        Ok(true)
    }

    async fn bring(&self, repository: &RepositoryName) -> Result<bool, SyncError> {
        let store = &self.fetcher.store;
        let config = store.self_config()?;
        if !config.is_some_and(|config| Scope::of_config(&config).covers(repository)) {
            return Ok(false);
        }
        let from = store.sys().rng.number();
        let (reading, name) = (store.clone(), repository.clone());
        let lacking = spawn::blocking(move || reading.lacking(&name, from, ASKED_MAX)).await?;
        if lacking.is_empty() {
            return Ok(false);
        }
        // The parent is yet to hear of those.
        let deleted_here = store.outbox_deletions(repository).await?;
        let mut lacks = false;
        for (digest, named) in lacking {
            if deleted_here.contains(&digest) {
                continue;
            }
            match self.bring_one(repository, &digest, named).await {
                Ok(is_here) => lacks |= !is_here,
                Err(error) if error.is_of_item() => {
                    left_out(repository, &digest, &error);
                    lacks = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(lacks)
    }

    /// `false` when the parent does not have it.
    async fn bring_one(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        named: Named,
    ) -> Result<bool, SyncError> {
        match self.at_parent(repository, digest, named).await? {
            Some(AtParent::Manifest) => {
                self.fetcher.obtain(repository, digest, None).await?;
            }
            Some(AtParent::Blob(len)) => {
                self.fetcher.store.check_quota(repository, len)?;
                self.fetcher.blob(repository, digest, len).await?;
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    async fn at_parent(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        named: Named,
    ) -> Result<Option<AtParent>, SyncError> {
        let upstream = &self.fetcher.upstream;
        if named != Named::Blob {
            match upstream.keeps_manifest(repository, digest).await {
                Ok(true) => return Ok(Some(AtParent::Manifest)),
                Ok(false) | Err(UpstreamError::NotYet(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if named == Named::Manifest {
            return Ok(None);
        }
        Ok(upstream.blob_len(repository, digest).await?.map(AtParent::Blob))
    }

    fn now(&self) -> Duration {
        self.fetcher.store.sys().clock.monotonic()
    }
}

/// For a test that decides what happens when.
#[cfg(test)]
impl Seeker {
    /// Looks at all repositories once, whenever they are due.
    pub(super) async fn seek_once(&self) -> Result<(), SyncError> {
        *self.lacking.table() = Table::default();
        while self.seek_next().await? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Symptom: one account that pushed images of 256 layers that were nowhere kept everything
    /// else of a device waiting, 15 s for each of them. Cause: the parent was asked for each layer
    /// of each image before the next thing was done.
    #[test]
    fn f206_f209_what_is_lacking_is_asked_for_again_and_again_but_not_often() {
        let (mut table, app) =
            (Table { round: at(3600), ..Table::default() }, "app".parse().unwrap());
        let (note, app) = (Table::note, &app);
        assert_eq!(table.take(at(0)), None);
        note(&mut table, app, at(1));
        assert_eq!(table.take(at(1)).as_ref(), Some(app));
        assert_eq!((table.take(at(1)), table.next()), (None, at(3600)), "it is under way");
        for (now, next) in [(2, Some(17)), (17, Some(77)), (77, Some(677)), (677, None)] {
            if now > 2 {
                assert_eq!((table.next(), table.take(at(now - 1))), (at(now), None));
                assert_eq!(table.take(at(now)).as_ref(), Some(app));
            }
            table.done(app, true, at(now));
            assert_eq!(table.next(), next.map_or(at(3600), at));
        }
        // News brings the next look forward, not nearer than the shortest pause.
        note(&mut table, app, at(680));
        assert_eq!((table.next(), table.take(at(691))), (at(692), None));
        assert_eq!(table.take(at(692)).as_ref(), Some(app));
        note(&mut table, app, at(693));
        assert_eq!(table.take(at(693)), None);
        table.done(app, false, at(694));
        assert_eq!(table.next(), at(709), "there was news while it was under way");
        assert_eq!(table.take(at(709)).as_ref(), Some(app));
        table.done(app, false, at(710));
        note(&mut table, app, at(711));
        assert_eq!(table.next(), at(725));
        assert_eq!(table.take(at(725)).as_ref(), Some(app));
        table.done(app, false, at(726));
        assert_eq!((table.take(at(740)), table.repositories.len()), (None, 1));
        assert_eq!((table.take(at(741)), table.repositories.len()), (None, 0), "it is forgotten");
    }

    #[test]
    fn f206_f209_a_round_comes_by_each_repository_once_and_the_table_has_a_bound() {
        let name = |number: usize| format!("r{number:04}").parse::<RepositoryName>().unwrap();
        let mut table = Table::default();
        assert_eq!(table.take_next(name(1), at(5)), Some(name(1)));
        assert_eq!(table.take_next(name(1), at(5)), None, "it is under way");
        table.done(&name(1), true, at(6));
        assert_eq!(table.repositories[&name(1)].due, None, "until the next round or news");
        (0..=REPOSITORIES_MAX).for_each(|number| table.note(&name(number), at(7)));
        assert_eq!(table.repositories.len(), REPOSITORIES_MAX);
        assert_eq!(table.repositories[&name(1)].due, Some(at(21)));
    }
}

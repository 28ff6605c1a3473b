//! What images here name without needing it, and lack: the parent may have it by now. It is asked
//! for beside everything else, a repository at a time, so that nothing waits for what is nowhere.
//! What the parent has is fetched where all else is, between one message and the next: no deletion
//! and no withdrawn grant is undone by it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, EventListener};
use log::Level;
use smol::future::or;

use super::error::SyncError;
use super::fetch::Fetcher;
use super::refusal::is_unreachable;
use super::worker::Worker;
use crate::gateway::UpstreamError;
use crate::gateway::feed::Scope;
use crate::store::StoreError;
use crate::store::registry::lacking::Named;
use crate::sys::clock::{sleep, within};
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

/// Repositories that are remembered. Over it: a round comes within the last of [`PAUSES`], for what
/// is news of another one.
const REPOSITORIES_MAX: usize = 1024;

/// What the parent has and is yet to be fetched. Over it: a look ends and begins anew in a minute.
const FOUND_MAX: usize = 1024;

/// After this time nothing more is begun to be fetched before new messages get their turn. What was
/// begun is brought to its end: one that waits for its next turn would lose its space to another.
const FETCH_TIME: Duration = Duration::from_secs(10);

/// The pause after a link broke at what was fetched. It doubles up to the second of [`PAUSES`].
const CUT_PAUSE: Duration = Duration::from_secs(5);

/// Which repositories lack something and when they are looked at, and what was found.
#[derive(Default)]
pub(super) struct Lacking {
    table: Mutex<Table>,
    changed: Event,
    arrived: Event,
}

#[derive(Default)]
struct Table {
    repositories: BTreeMap<RepositoryName, Turn>,
    round: Round,
    found: BTreeMap<(RepositoryName, Digest), AtParent>,
    /// The last of that which was fetched: all get their turn.
    fetched: Option<(RepositoryName, Digest)>,
    /// How often a link broke since something came.
    cuts: u32,
    /// Until when nothing is fetched, monotonic.
    paused: Duration,
}

#[derive(Default)]
struct Round {
    /// When it may begin or go on, monotonic.
    due: Duration,
    /// The last repository of the one that is under way.
    after: Option<RepositoryName>,
    /// Whether it goes before repositories that are due: each has every other turn.
    is_next: bool,
    /// Whether there was one: what the first finds may have been news before a restart.
    was_one: bool,
    /// Whether something that is not remembered waits for the next.
    is_wanted: bool,
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

/// How a look ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Looked {
    /// Nothing is lacking.
    Whole,
    /// Something is, or not all was looked at.
    Lacks,
    /// The parent did not answer, or something failed here.
    Failed,
}

/// How fetching something ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fetched {
    Here,
    /// It cannot be had, or nothing names it any more.
    LeftOut,
    /// The link broke: a poll finds out whether it does at this content only.
    Cut,
}

/// What the parent has under a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AtParent {
    Manifest,
    /// A blob of so many bytes.
    Blob(u64),
}

impl Turn {
    fn new(tries: usize, now: Duration) -> Turn {
        Turn { tries, due: None, earliest: now, is_under_way: false }
    }
}

impl Table {
    /// An image of this repository lacks something.
    fn note(&mut self, repository: &RepositoryName, now: Duration) {
        if let Some(turn) = self.repositories.get_mut(repository) {
            turn.tries = 0;
            turn.due = turn.due.into_iter().chain([turn.earliest]).min();
        } else if self.repositories.len() < REPOSITORIES_MAX {
            let turn = Turn { due: Some(now), ..Turn::new(0, now) };
            self.repositories.insert(repository.clone(), turn);
        } else if self.round.after.is_some() {
            self.round.is_wanted = true;
        } else {
            self.round.due = self.round.due.min(now.saturating_add(PAUSES[2]));
        }
    }

    /// The repository that is due for the longest time.
    fn take(&mut self, now: Duration) -> Option<RepositoryName> {
        self.repositories
            .retain(|_, turn| turn.is_under_way || turn.due.is_some() || turn.earliest > now);
        let waiting = self.repositories.iter_mut().filter(|(_, turn)| !turn.is_under_way);
        let due = waiting.filter_map(|(name, turn)| Some((turn.due?, name, turn)));
        let (due, repository, turn) = due.min_by_key(|(due, ..)| *due)?;
        if due > now {
            return None;
        }
        (turn.is_under_way, turn.due) = (true, None);
        Some(repository.clone())
    }

    /// The next repository of a round, unless it is looked at already.
    fn take_next(&mut self, repository: RepositoryName, now: Duration) -> Option<RepositoryName> {
        self.round.after = Some(repository.clone());
        let tries = if self.round.was_one { PAUSES.len() } else { 0 };
        let none = Turn::new(tries, now);
        let turn = self.repositories.entry(repository.clone()).or_insert(none);
        if turn.is_under_way {
            return None;
        }
        (turn.is_under_way, turn.due) = (true, None);
        Some(repository)
    }

    fn end_round(&mut self, now: Duration) {
        let pause = if self.round.is_wanted { PAUSES[2] } else { ROUND };
        self.round = Round { due: now.saturating_add(pause), was_one: true, ..Round::default() };
    }

    /// A look has ended. There may have been news meanwhile.
    fn done(&mut self, repository: &RepositoryName, looked: Looked, now: Duration) {
        let is_full = self.repositories.len() > REPOSITORIES_MAX;
        let Some(turn) = self.repositories.get_mut(repository) else { return };
        let pause = match looked {
            _ if turn.due.is_some() => Some(PAUSES[0]),
            Looked::Whole => None,
            Looked::Lacks => PAUSES.get(turn.tries).copied(),
            Looked::Failed => Some(PAUSES[1]),
        };
        turn.tries = turn.tries.saturating_add(usize::from(looked != Looked::Failed));
        turn.earliest = now.saturating_add(PAUSES[0]);
        turn.due = pause.map(|pause| now.saturating_add(pause));
        turn.is_under_way = false;
        if looked == Looked::Whole && turn.due.is_none() {
            self.repositories.remove(repository);
        } else if is_full {
            self.repositories.remove(repository);
            self.round.is_wanted = true;
        }
    }

    /// Something that was found has had its turn.
    fn fetched(&mut self, key: &(RepositoryName, Digest), how: Fetched, now: Duration) {
        match how {
            Fetched::Here => {
                self.cuts = 0;
                // There is room to ask for more.
                self.note(&key.0, now);
            }
            Fetched::LeftOut => {}
            Fetched::Cut => {
                let pause = CUT_PAUSE.saturating_mul(1 << self.cuts.min(8)).min(PAUSES[1]);
                (self.cuts, self.paused) = (self.cuts.saturating_add(1), now.saturating_add(pause));
            }
        }
        // What was cut goes on where it was before anything else.
        if how != Fetched::Cut {
            self.found.remove(key);
            self.fetched = Some(key.clone());
        }
    }

    /// The next of what was found.
    fn next_found(&self) -> Option<((RepositoryName, Digest), AtParent)> {
        let after = self.fetched.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.found.range((after, Bound::Unbounded)).next();
        next.or_else(|| self.found.first_key_value()).map(|(key, what)| (key.clone(), *what))
    }

    /// When there is something to do next.
    fn next(&self) -> Duration {
        let waiting = self.repositories.values().filter(|turn| !turn.is_under_way);
        waiting.filter_map(|turn| turn.due).fold(self.round.due, Duration::min)
    }
}

impl Lacking {
    /// An image of this repository lacks something, at `now`, monotonic.
    pub(super) fn note(&self, repository: &RepositoryName, now: Duration) {
        self.table().note(repository, now);
        self.changed.notify(usize::MAX);
    }

    /// Whether something waits to be fetched at `now`, monotonic.
    pub(super) fn has_found(&self, now: Duration) -> bool {
        let table = self.table();
        !table.found.is_empty() && now >= table.paused
    }

    /// How long what was found waits after a link broke.
    pub(super) fn pause(&self, now: Duration) -> Option<Duration> {
        let table = self.table();
        let is_paused = !table.found.is_empty() && table.paused > now;
        is_paused.then(|| table.paused.saturating_sub(now))
    }

    /// Ends when something more is found.
    pub(super) fn arrives(&self) -> EventListener {
        self.arrived.listen()
    }

    fn is_full(&self) -> bool {
        self.table().found.len() >= FOUND_MAX
    }

    fn is_found(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        self.table().found.contains_key(&(repository.clone(), digest.clone()))
    }

    fn find(&self, repository: &RepositoryName, digest: &Digest, what: AtParent) {
        self.table().found.insert((repository.clone(), digest.clone()), what);
        self.arrived.notify(usize::MAX);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves whole entries behind.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            let changed = self.lacking.changed.listen();
            if self.fetcher.store.read_only_cause().is_some() {
                sleep(PAUSES[1]).await;
            } else if !self.seek_next().await? {
                let next = self.lacking.table().next();
                let _ = within(next.saturating_sub(self.now()), changed).await;
            }
        }
    }

    /// `false` when nothing is due.
    async fn seek_next(&self) -> Result<bool, SyncError> {
        let Some(repository) = self.take()? else { return Ok(false) };
        let looked = self.look(&repository).await;
        let how = *looked.as_ref().unwrap_or(&Looked::Failed);
        self.lacking.table().done(&repository, how, self.now());
        self.lacking.changed.notify(usize::MAX);
        looked.map(|_| true)
    }

    fn take(&self) -> Result<Option<RepositoryName>, StoreError> {
        let (now, mut table) = (self.now(), self.lacking.table());
        if !table.round.is_next
            && let Some(repository) = table.take(now)
        {
            table.round.is_next = true;
            return Ok(Some(repository));
        }
        table.round.is_next = false;
        while now >= table.round.due {
            let after = table.round.after.as_ref().map(RepositoryName::as_str);
            let Some(next) = self.fetcher.store.repositories(after, 1)?.pop() else {
                table.end_round(now);
                break;
            };
            if let Some(repository) = table.take_next(next, now) {
                return Ok(Some(repository));
            }
        }
        Ok(table.take(now))
    }

    /// Asks for what a repository lacks. An error concerns this node: whether the link is broken
    /// shows elsewhere, and one answer that does not come stops nothing else.
    async fn look(&self, repository: &RepositoryName) -> Result<Looked, SyncError> {
        let (level, error) = match self.ask(repository).await {
            Err(error) if is_unreachable(&error) => (Level::Debug, error),
            Err(error) if !error.ends_session() => (Level::Warn, error),
            looked => return looked,
        };
        log::log!(level, "what images of {repository} lack cannot be asked for: {error}");
        Ok(Looked::Failed)
    }

    async fn ask(&self, repository: &RepositoryName) -> Result<Looked, SyncError> {
        let store = &self.fetcher.store;
        let config = store.self_config()?;
        if !config.is_some_and(|config| Scope::of_config(&config).covers(repository)) {
            return Ok(Looked::Whole);
        }
        let from = store.sys().rng.number();
        let (reading, name) = (store.clone(), repository.clone());
        let (lacking, is_all) =
            spawn::blocking(move || reading.lacking(&name, from, ASKED_MAX)).await?;
        if lacking.is_empty() {
            return Ok(if is_all { Looked::Whole } else { Looked::Lacks });
        }
        // A question that gets no answer ends the look, and is not always before the same others.
        let mut lacking: Vec<_> = lacking.into_iter().collect();
        let first = usize::try_from(from).unwrap_or(0) % lacking.len();
        lacking.rotate_left(first);
        // The parent is yet to hear of those.
        let deleted_here = store.outbox_deletions(repository).await?;
        let mut left_out = LeftOut::default();
        for (digest, named) in lacking {
            if deleted_here.contains(&digest) || self.lacking.is_found(repository, &digest) {
                continue;
            }
            if self.lacking.is_full() {
                left_out.tell();
                return Ok(Looked::Failed);
            }
            match self.at_parent(repository, &digest, named).await {
                Ok(None) => {}
                Ok(Some(what)) => self.lacking.find(repository, &digest, what),
                Err(error) if error.is_of_item() => {
                    left_out.note(&(repository.clone(), digest), &error);
                }
                Err(error) => {
                    left_out.tell();
                    return Err(error);
                }
            }
        }
        left_out.tell();
        Ok(Looked::Lacks)
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

impl Worker {
    /// Fetches some of what the parent was found to have. What cannot be had is left out; an error
    /// ends the session. `false` when there was nothing.
    pub(super) async fn bring_found(&self) -> Result<bool, SyncError> {
        let (lacking, mut left_out) = (&self.fetcher.lacking, LeftOut::default());
        let now = || self.store.sys().clock.monotonic();
        let end = now().saturating_add(FETCH_TIME);
        let (mut has_found, mut result) = (false, Ok(()));
        while now() < end && result.is_ok() {
            let next = lacking.table().next_found();
            let Some((key, what)) = next else { break };
            has_found = true;
            let how = match self.bring_one(&key, what).await {
                Ok(how) => how,
                Err(error) => {
                    left_out.note(&key, &error);
                    let is_cut = is_unreachable(&error);
                    if !is_cut && !error.sets_aside() {
                        result = Err(error);
                    }
                    if is_cut { Fetched::Cut } else { Fetched::LeftOut }
                }
            };
            lacking.table().fetched(&key, how, now());
            if how == Fetched::Cut {
                break;
            }
        }
        left_out.tell();
        lacking.changed.notify(usize::MAX);
        result.map(|()| has_found)
    }

    async fn bring_one(
        &self,
        (repository, digest): &(RepositoryName, Digest),
        what: AtParent,
    ) -> Result<Fetched, SyncError> {
        let is_wanted = Scope::of_config(&self.config()?).covers(repository)
            && self.store.is_named(repository, digest)?;
        if !is_wanted {
            return Ok(Fetched::LeftOut);
        }
        match what {
            AtParent::Manifest => self.bring_manifest(repository, digest).await?,
            AtParent::Blob(len) => {
                self.store.check_quota(repository, len)?;
                let brought = self.fetcher.blob(repository, digest, len).await;
                brought.map_err(|error| error.with_needed(len))?;
            }
        }
        Ok(Fetched::Here)
    }
}

/// Content that nothing needs and that cannot be had: the log has one line for all of it.
#[derive(Default)]
struct LeftOut {
    first: Option<String>,
    more: usize,
}

impl LeftOut {
    fn note(&mut self, (repository, digest): &(RepositoryName, Digest), error: &SyncError) {
        match self.first {
            Some(_) => self.more += 1,
            None => {
                let reason = error.to_string();
                let first = format!("repository={repository} digest={digest} reason={reason:?}");
                self.first = Some(first);
            }
        }
    }

    fn tell(self) {
        if let LeftOut { first: Some(first), more } = self {
            log::warn!("skipped optional content {first} more={more}");
        }
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
    use crate::types::digest::Algorithm;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn key(number: u8) -> (RepositoryName, Digest) {
        let digest = Digest::from_raw(Algorithm::Sha256, &[number; 32]).unwrap();
        ("app".parse().unwrap(), digest)
    }

    /// Symptom: one account that pushed images of 256 layers that were nowhere kept everything
    /// else of a device waiting, 15 s for each of them. Cause: the parent was asked for each layer
    /// of each image before the next thing was done.
    #[test]
    fn f206_f209_what_is_lacking_is_asked_for_again_and_again_but_not_often() {
        let (mut table, app) = (Table::default(), "app".parse().unwrap());
        table.end_round(at(0));
        let app = &app;
        assert_eq!(table.take(at(0)), None);
        table.note(app, at(1));
        assert_eq!(table.take(at(1)).as_ref(), Some(app));
        assert_eq!((table.take(at(1)), table.next()), (None, at(3600)), "it is under way");
        for (now, next) in [(2, Some(17)), (17, Some(77)), (77, Some(677)), (677, None)] {
            if now > 2 {
                assert_eq!((table.next(), table.take(at(now - 1))), (at(now), None));
                assert_eq!(table.take(at(now)).as_ref(), Some(app));
            }
            table.done(app, Looked::Lacks, at(now));
            assert_eq!(table.next(), next.map_or(at(3600), at));
        }
        // News brings the next look forward, not nearer than the shortest pause.
        table.note(app, at(680));
        assert_eq!((table.next(), table.take(at(691))), (at(692), None));
        assert_eq!(table.take(at(692)).as_ref(), Some(app));
        table.note(app, at(693));
        assert_eq!(table.take(at(693)), None);
        table.done(app, Looked::Whole, at(694));
        assert_eq!(table.next(), at(709), "there was news while it was under way");
        assert_eq!(table.take(at(709)).as_ref(), Some(app));
        table.done(app, Looked::Whole, at(710));
        assert_eq!((table.take(at(710)), table.repositories.len()), (None, 0), "it is forgotten");
    }

    /// Symptom: of 300 layers that the parent had all along 256 came, and the rest an hour later.
    /// Cause: a look that found all it had asked for was the last.
    #[test]
    fn f206_more_than_is_asked_for_at_a_time_is_asked_for_soon_and_no_answer_is_no_try() {
        let (mut table, app) = (Table::default(), "app".parse().unwrap());
        table.end_round(at(0));
        table.note(&app, at(0));
        let mut now = 0;
        for (looked, how, next) in [
            (Looked::Lacks, Fetched::Here, 15),
            (Looked::Lacks, Fetched::Here, 30),
            (Looked::Lacks, Fetched::LeftOut, 45),
            (Looked::Failed, Fetched::LeftOut, 105),
            (Looked::Failed, Fetched::Cut, 165),
            (Looked::Lacks, Fetched::LeftOut, 225),
            (Looked::Lacks, Fetched::LeftOut, 825),
            (Looked::Lacks, Fetched::Here, 840),
        ] {
            assert_eq!(table.take(at(now)).as_ref(), Some(&app));
            table.done(&app, looked, at(now));
            table.fetched(&key(1), how, at(now));
            assert_eq!(table.next(), at(next), "{looked:?}");
            now = next;
        }
    }

    /// Symptom: who had eight repositories whose names came first, or 1,024 of any name, kept what
    /// came late to others away for minutes or an hour.
    #[test]
    fn f206_f209_who_is_due_longest_goes_first_and_a_round_comes_by_each_repository() {
        let name = |number: usize| format!("r{number:04}").parse::<RepositoryName>().unwrap();
        let mut table = Table::default();
        table.end_round(at(0));
        table.note(&name(9), at(1));
        table.note(&name(1), at(2));
        assert_eq!([table.take(at(3)), table.take(at(3))], [Some(name(9)), Some(name(1))]);
        table.done(&name(1), Looked::Lacks, at(6));
        assert_eq!(table.take_next(name(9), at(7)), None, "it is under way");
        assert_eq!(table.take_next(name(1), at(7)), Some(name(1)));
        table.done(&name(1), Looked::Whole, at(8));
        assert!(!table.repositories.contains_key(&name(1)), "it is whole");
        assert_eq!(table.take_next(name(2), at(9)), Some(name(2)));
        table.done(&name(2), Looked::Lacks, at(9));
        assert_eq!(table.repositories[&name(2)].due, None, "until the next round or news");
        (0..REPOSITORIES_MAX + 7).for_each(|number| table.note(&name(number), at(10)));
        assert_eq!(table.repositories.len(), REPOSITORIES_MAX);
        assert!(table.round.is_wanted, "one is under way, and may have passed it");
        table.end_round(at(11));
        assert_eq!(table.round.due, at(611));
        table.end_round(at(27));
        assert_eq!(table.round.due, at(3627));
        table.note(&name(5000), at(30));
        assert_eq!(table.round.due, at(630), "none is under way");
        assert_eq!(table.take_next(name(6000), at(31)), Some(name(6000)));
        table.done(&name(6000), Looked::Lacks, at(31));
        assert_eq!(table.repositories.len(), REPOSITORIES_MAX, "it is not remembered");
        // What the first round after a start finds may be new.
        let mut table = Table::default();
        assert_eq!(table.take_next(name(1), at(0)), Some(name(1)));
        table.done(&name(1), Looked::Lacks, at(1));
        assert_eq!(table.repositories[&name(1)].due, Some(at(16)));
    }

    /// Symptom: what some repositories lacked was fetched and never that of others, whose names
    /// come later.
    #[test]
    fn f206_what_is_found_is_fetched_in_turn() {
        let mut table = Table::default();
        assert_eq!(table.next_found(), None);
        table.found.extend([2, 4].map(|number| (key(number), AtParent::Manifest)));
        for (fetched, next) in [(1, 2), (2, 4), (3, 4), (4, 2)] {
            table.fetched = Some(key(fetched));
            assert_eq!(table.next_found(), Some((key(next), AtParent::Manifest)), "{fetched}");
        }
        table.fetched(&key(4), Fetched::LeftOut, at(1));
        assert_eq!(table.next_found(), Some((key(2), AtParent::Manifest)), "the other is gone");
        for (now, paused) in [(10, 15), (20, 30), (40, 60), (70, 110), (200, 260), (300, 360)] {
            table.fetched(&key(2), Fetched::Cut, at(now));
            assert_eq!(table.paused, at(paused), "it doubles up to a minute");
        }
        assert!(table.next_found().is_some(), "it goes on");
        table.fetched(&key(2), Fetched::Here, at(400));
        assert_eq!((table.cuts, table.next_found()), (0, None));
    }
}

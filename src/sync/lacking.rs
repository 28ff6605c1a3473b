//! What images here name without needing it, and lack: the parent may have it by now. It is asked
//! for and fetched beside everything else, a repository at a time, so that nothing waits for it but
//! what is of its own kind. What is deleted meanwhile is not brought back: see
//! [`Store::put_fetched`](crate::store::Store::put_fetched).

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::Event;
use log::Level;
use smol::future::or;
use smol::lock::Semaphore;

use super::error::SyncError;
use super::fetch::Fetcher;
use super::refusal::is_unreachable;
use crate::gateway::UpstreamError;
use crate::gateway::feed::Scope;
use crate::store::registry::lacking::Named;
use crate::store::{StoreError, Wanted};
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

/// Repositories that are remembered. Over it: news takes the place of one that was looked at, which
/// waits for a round that comes within the last of [`PAUSES`].
const REPOSITORIES_MAX: usize = 1024;

/// What is fetched during a look, bytes. What is larger is fetched one after the other.
const SMALL_MAX: u64 = 1024 * 1024;

/// Looks that fetch at once: the link is for what is needed.
const FETCHING_MAX: usize = 2;

/// A look that has fetched for so long ends, and goes on when others have had their turn.
const FETCH_TIME: Duration = Duration::from_secs(5);

/// What is large and waits, of a repository. Over it: it is found again.
const LARGE_MAX: usize = 16;

/// The pause after a link broke at what is large, or the parent did not hand it out.
const CUT_PAUSE: Duration = Duration::from_secs(5);

/// The same where some of it came.
const FURTHER_PAUSE: Duration = Duration::from_secs(1);

/// Which repositories lack something and when they are looked at, and what is large of it.
#[derive(Default)]
pub(super) struct Lacking {
    table: Mutex<Table>,
    changed: Event,
}

#[derive(Default)]
struct Table {
    repositories: BTreeMap<RepositoryName, Turn>,
    round: Round,
    /// The repositories take turns.
    large: VecDeque<Large>,
}

/// What the parent has of a repository, and is large.
struct Large {
    repository: RepositoryName,
    items: VecDeque<(Digest, AtParent)>,
    /// Whether one of them came: there may be more that was not remembered.
    came: bool,
}

#[derive(Default)]
struct Round {
    /// When it may begin or go on, monotonic.
    due: Duration,
    /// The last repository of the one that is under way.
    after: Option<RepositoryName>,
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
    /// Something is, or not all was looked at; and whether something came.
    Lacks { came: bool },
    /// Something came, and others wait for their turn.
    More,
    /// The parent did not answer, or something failed here.
    Failed,
}

/// What the parent has under a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AtParent {
    Manifest,
    /// A blob of so many bytes.
    Blob(u64),
}

/// How fetching something large ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Came,
    /// The link broke.
    Cut,
    /// The parent does not hand it out just now.
    Later,
    /// It cannot be had, or is not wanted any more.
    LeftOut,
}

/// What became of something that is lacking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fetched {
    Here,
    /// The parent does not have it, or nothing here names it any more.
    Nothing,
    /// It is larger than what may be fetched now.
    Large(AtParent),
}

impl Table {
    /// An image of this repository lacks something.
    fn note(&mut self, repository: &RepositoryName, now: Duration) {
        if let Some(turn) = self.repositories.get_mut(repository) {
            turn.tries = 0;
            turn.due = turn.due.into_iter().chain([turn.earliest]).min();
            return;
        }
        if self.is_full() {
            self.want_round(now);
            let looked_at = |turn: &Turn| !turn.is_under_way && turn.tries > 0;
            let others = self.repositories.iter().filter(|(_, turn)| looked_at(turn));
            let oldest = others.max_by_key(|(_, turn)| turn.tries).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { return };
            self.repositories.remove(&oldest);
        }
        self.add(repository.clone(), 0, now);
    }

    fn add(&mut self, repository: RepositoryName, tries: usize, now: Duration) {
        let turn = Turn { tries, due: Some(now), earliest: now, is_under_way: false };
        self.repositories.insert(repository, turn);
    }

    fn is_full(&self) -> bool {
        self.repositories.len() >= REPOSITORIES_MAX
    }

    /// Something that is not remembered waits for a round.
    fn want_round(&mut self, now: Duration) {
        if self.round.after.is_some() {
            self.round.is_wanted = true;
        } else {
            self.round.due = self.round.due.min(now.saturating_add(PAUSES[2]));
        }
    }

    /// Whether the next repository of a round is to be remembered.
    fn wants_next(&self, now: Duration) -> bool {
        now >= self.round.due && !self.is_full()
    }

    /// The next repository of a round; `None`: there are no more.
    fn go_round(&mut self, next: Option<RepositoryName>, now: Duration) {
        let Some(next) = next else {
            let pause = if self.round.is_wanted { PAUSES[2] } else { ROUND };
            self.round =
                Round { due: now.saturating_add(pause), was_one: true, ..Round::default() };
            return;
        };
        self.round.after = Some(next.clone());
        if !self.repositories.contains_key(&next) {
            let tries = if self.round.was_one { PAUSES.len() } else { 0 };
            self.add(next, tries, now);
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

    /// A look has ended. There may have been news meanwhile.
    fn done(&mut self, repository: &RepositoryName, looked: Looked, now: Duration) {
        let Some(turn) = self.repositories.get_mut(repository) else { return };
        if matches!(looked, Looked::More | Looked::Lacks { came: true }) {
            turn.tries = 0;
        }
        let pause = match looked {
            Looked::More => Some(Duration::ZERO),
            _ if turn.due.is_some() => Some(PAUSES[0]),
            Looked::Whole => None,
            Looked::Lacks { .. } => PAUSES.get(turn.tries).copied(),
            Looked::Failed => Some(PAUSES[1]),
        };
        turn.tries = turn.tries.saturating_add(usize::from(looked != Looked::Failed));
        turn.earliest = now.saturating_add(pause.unwrap_or(PAUSES[0]).min(PAUSES[0]));
        turn.due = pause.map(|pause| now.saturating_add(pause));
        turn.is_under_way = false;
        if looked == Looked::Whole && turn.due.is_none() {
            self.repositories.remove(repository);
        }
    }

    /// When a look is due next.
    fn next(&self) -> Duration {
        let waiting = self.repositories.values().filter(|turn| !turn.is_under_way);
        let round = if self.is_full() { Duration::MAX } else { self.round.due };
        waiting.filter_map(|turn| turn.due).fold(round, Duration::min)
    }

    fn is_large(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        let mut all = self.large.iter().filter(|large| large.repository == *repository);
        all.any(|large| large.items.iter().any(|(item, _)| item == digest))
    }

    fn add_large(&mut self, repository: &RepositoryName, item: (Digest, AtParent)) {
        let same = self.large.iter_mut().find(|large| large.repository == *repository);
        if let Some(large) = same {
            if large.items.len() < LARGE_MAX {
                large.items.push_back(item);
            }
        } else if self.large.len() < REPOSITORIES_MAX {
            let (repository, items) = (repository.clone(), VecDeque::from([item]));
            self.large.push_back(Large { repository, items, came: false });
        }
    }

    fn next_large(&self) -> Option<(RepositoryName, Digest, AtParent)> {
        let Large { repository, items, .. } = self.large.front()?;
        items.front().map(|(digest, what)| (repository.clone(), digest.clone(), *what))
    }

    /// The next of what is large has had its turn: those of other repositories come before it and
    /// what is left of its own.
    fn end_large(&mut self, ended: Ended, now: Duration) {
        let Some(mut large) = self.large.pop_front() else { return };
        let item = large.items.pop_front();
        large.items.extend(item.filter(|_| ended == Ended::Cut));
        large.came |= ended == Ended::Came;
        if ended == Ended::Later {
            self.ask_later(&large.repository, now);
        }
        if !large.items.is_empty() {
            self.large.push_back(large);
        } else if large.came {
            self.note(&large.repository, now);
        }
    }

    /// A repository is looked at again as after a look that got no answer.
    fn ask_later(&mut self, repository: &RepositoryName, now: Duration) {
        if !self.repositories.contains_key(repository) && !self.is_full() {
            self.add(repository.clone(), PAUSES.len(), now.saturating_add(PAUSES[1]));
        }
    }
}

impl Lacking {
    /// An image of this repository lacks something, at `now`, monotonic.
    pub(super) fn note(&self, repository: &RepositoryName, now: Duration) {
        self.table().note(repository, now);
        self.changed.notify(usize::MAX);
    }

    /// Whether this is large and waits, or is being fetched.
    pub(super) fn is_large(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        self.table().is_large(repository, digest)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves whole entries behind.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for what is lacking, and fetches it.
pub(super) struct Seeker {
    fetcher: Fetcher,
    fetching: Semaphore,
}

impl Seeker {
    pub(super) fn new(fetcher: Fetcher) -> Seeker {
        Seeker { fetcher, fetching: Semaphore::new(FETCHING_MAX) }
    }

    /// Looks at each repository when it is due, four at a time; ends with an error that concerns
    /// this node only.
    pub(super) async fn seek_all(&self) -> Result<Infallible, SyncError> {
        for turn in self.lacking().table().repositories.values_mut() {
            if std::mem::take(&mut turn.is_under_way) {
                turn.due = Some(turn.earliest);
            }
        }
        let looks = or(or(self.seek(), self.seek()), or(self.seek(), self.seek()));
        or(looks, self.bring_large()).await
    }

    async fn seek(&self) -> Result<Infallible, SyncError> {
        loop {
            let changed = self.lacking().changed.listen();
            if self.fetcher.store.read_only_cause().is_some() {
                sleep(PAUSES[1]).await;
            } else if !self.seek_next().await? {
                let next = self.lacking().table().next();
                let _ = within(next.saturating_sub(self.now()), changed).await;
            }
        }
    }

    /// `false` when nothing is due.
    async fn seek_next(&self) -> Result<bool, SyncError> {
        let Some(repository) = self.take()? else { return Ok(false) };
        let looked = match self.look(&repository).await {
            Ok(looked) => looked,
            Err(error) => {
                self.lacking().table().done(&repository, Looked::Failed, self.now());
                tell(&repository, error)?;
                return Ok(true);
            }
        };
        self.lacking().table().done(&repository, looked, self.now());
        self.lacking().changed.notify(usize::MAX);
        Ok(true)
    }

    fn take(&self) -> Result<Option<RepositoryName>, StoreError> {
        let (now, mut table) = (self.now(), self.lacking().table());
        if table.wants_next(now) {
            let after = table.round.after.as_ref().map(RepositoryName::as_str);
            let next = self.fetcher.store.repositories(after, 1)?.pop();
            table.go_round(next, now);
        }
        Ok(table.take(now))
    }

    /// Asks for what a repository lacks, and fetches what of it is small.
    async fn look(&self, repository: &RepositoryName) -> Result<Looked, SyncError> {
        if !self.is_granted(repository)? {
            return Ok(Looked::Whole);
        }
        let store = &self.fetcher.store;
        let from = store.sys().rng.number();
        let (reading, name) = (store.clone(), repository.clone());
        let (lacking, is_all) =
            spawn::blocking(move || reading.lacking(&name, from, ASKED_MAX)).await?;
        if lacking.is_empty() && is_all {
            return Ok(Looked::Whole);
        }
        // A question that gets no answer ends the look, and is not always before the same others.
        let mut lacking: Vec<_> = lacking.into_iter().collect();
        let first = usize::try_from(from).unwrap_or(0).checked_rem(lacking.len());
        lacking.rotate_left(first.unwrap_or(0));
        // The parent is yet to hear of the deletions that were made here.
        let deleted_here = store.outbox_deletions(repository).await?;
        let (mut left_out, mut came, mut spent) = (LeftOut::default(), false, Duration::ZERO);
        for (digest, named) in lacking {
            if self.lacking().is_large(repository, &digest) || deleted_here.contains(&digest) {
                continue;
            }
            match self.ask(repository, &digest, named, &mut spent).await {
                Ok(Fetched::Here) => came = true,
                Ok(Fetched::Nothing) => {}
                Ok(Fetched::Large(what)) => {
                    self.lacking().table().add_large(repository, (digest, what));
                    self.lacking().changed.notify(usize::MAX);
                }
                Err(error) if error.sets_aside() => left_out.note(repository, &digest, &error),
                Err(error) => {
                    left_out.tell();
                    return Err(error);
                }
            }
            if came && spent > FETCH_TIME {
                left_out.tell();
                return Ok(Looked::More);
            }
        }
        left_out.tell();
        Ok(Looked::Lacks { came })
    }

    /// Asks for one of what is lacking, and fetches it if it is small; `spent` grows by what that
    /// takes.
    async fn ask(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        named: Named,
        spent: &mut Duration,
    ) -> Result<Fetched, SyncError> {
        let Some(what) = self.at_parent(repository, digest, named).await? else {
            return Ok(Fetched::Nothing);
        };
        let _fetching = self.fetching.acquire().await;
        let begun = self.now();
        let fetched = self.fetch(repository, digest, what, SMALL_MAX).await;
        *spent += self.now().saturating_sub(begun);
        fetched
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

    /// Fetches what the parent has, unless more than `most` bytes of it are missing.
    async fn fetch(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        what: AtParent,
        most: u64,
    ) -> Result<Fetched, SyncError> {
        let (fetcher, store) = (&self.fetcher, &self.fetcher.store);
        match what {
            AtParent::Manifest => {
                let mut closure = fetcher.resolve(repository, digest).await?;
                if closure.missing_bytes > most {
                    return Ok(Fetched::Large(what));
                }
                closure.wanted = Wanted::Named;
                fetcher.note_asked().await?;
                let is_here = fetcher.complete(repository, closure, None).await?;
                Ok(if is_here { Fetched::Here } else { Fetched::Nothing })
            }
            AtParent::Blob(len) => {
                store.check_quota(repository, len)?;
                let missing = len.saturating_sub(store.fetched_so_far(digest).await);
                let fits = store.expect_space(missing).await.map_err(SyncError::from);
                fits.map_err(|error| error.with_needed(missing))?;
                if missing > most {
                    return Ok(Fetched::Large(what));
                }
                let came = fetcher.blob(repository, digest, len, Some(digest)).await;
                came.map_err(|error| error.with_needed(missing))?;
                Ok(Fetched::Here)
            }
        }
    }

    /// Fetches what is large, one after the other.
    async fn bring_large(&self) -> Result<Infallible, SyncError> {
        loop {
            let changed = self.lacking().changed.listen();
            if self.fetcher.store.read_only_cause().is_some() {
                sleep(PAUSES[1]).await;
            } else {
                match self.bring_next_large().await? {
                    None => changed.await,
                    Some(pause) => sleep(pause).await,
                }
            }
        }
    }

    /// Fetches the next of what is large. The pause after it; `None` when there was nothing.
    async fn bring_next_large(&self) -> Result<Option<Duration>, SyncError> {
        let next = self.lacking().table().next_large();
        let Some((repository, digest, what)) = next else { return Ok(None) };
        let wanted = async {
            let is_wanted = self.is_granted(&repository)?
                && self.fetcher.store.is_named(&repository, &digest)?;
            match is_wanted {
                true => self.fetch(&repository, &digest, what, u64::MAX).await,
                false => Ok(Fetched::Nothing),
            }
        };
        let before = self.fetcher.store.fetched_so_far(&digest).await;
        let fetched = wanted.await;
        let ended = match &fetched {
            Ok(Fetched::Here) => Ended::Came,
            Err(error) if is_unreachable(error) => Ended::Cut,
            Err(error) if !error.sets_aside() => Ended::Later,
            Ok(_) | Err(_) => Ended::LeftOut,
        };
        self.lacking().table().end_large(ended, self.now());
        self.lacking().changed.notify(usize::MAX);
        let Err(error) = fetched else { return Ok(Some(Duration::ZERO)) };
        if error.sets_aside() {
            let mut left_out = LeftOut::default();
            left_out.note(&repository, &digest, &error);
            left_out.tell();
            return Ok(Some(Duration::ZERO));
        }
        tell(&repository, error)?;
        let is_further = self.fetcher.store.fetched_so_far(&digest).await > before;
        Ok(Some(if is_further { FURTHER_PAUSE } else { CUT_PAUSE }))
    }

    fn is_granted(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        let config = self.fetcher.store.self_config()?;
        Ok(config.is_some_and(|config| Scope::of_config(&config).covers(repository)))
    }

    fn lacking(&self) -> &Lacking {
        &self.fetcher.lacking
    }

    fn now(&self) -> Duration {
        self.fetcher.store.sys().clock.monotonic()
    }
}

/// Tells of an error, and returns it when it concerns this node: whether the link is broken shows
/// elsewhere, and one answer that does not come stops nothing else.
fn tell(repository: &RepositoryName, error: SyncError) -> Result<(), SyncError> {
    let level = match is_unreachable(&error) {
        true => Level::Debug,
        false if error.ends_session() => return Err(error),
        false => Level::Warn,
    };
    log::log!(level, "what images of {repository} lack cannot be had: {error}");
    Ok(())
}

/// Content that nothing needs and that cannot be had: the log has one line for all of it.
#[derive(Default)]
struct LeftOut {
    first: Option<String>,
    more: usize,
}

impl LeftOut {
    fn note(&mut self, repository: &RepositoryName, digest: &Digest, error: &SyncError) {
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
    /// Looks at all repositories, whenever they are due, and fetches what is large, until nothing
    /// more comes.
    pub(super) async fn seek_once(&self) -> Result<(), SyncError> {
        loop {
            let before = self.fetcher.store.sequence();
            *self.lacking().table() = Table::default();
            while self.seek_next().await? {}
            while self.bring_next_large().await?.is_some() {}
            if self.fetcher.store.sequence() == before {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    const LACKS: Looked = Looked::Lacks { came: false };
    const CAME: Looked = Looked::Lacks { came: true };

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn name(number: usize) -> RepositoryName {
        format!("r{number:04}").parse().unwrap()
    }

    /// One whose next round is in an hour.
    fn table() -> Table {
        let mut table = Table::default();
        table.go_round(None, at(0));
        table
    }

    /// Symptom: one account that pushed images of 256 layers that were nowhere kept everything
    /// else of a device waiting, 15 s for each of them. Cause: the parent was asked for each layer
    /// of each image before the next thing was done.
    #[test]
    fn f206_f209_what_is_lacking_is_asked_for_again_and_again_but_not_often() {
        let (mut table, app) = (table(), &name(1));
        assert_eq!(table.take(at(0)), None);
        table.note(app, at(1));
        assert_eq!(table.take(at(1)).as_ref(), Some(app));
        assert_eq!((table.take(at(1)), table.next()), (None, at(3600)), "it is under way");
        for (now, next) in [(2, Some(17)), (17, Some(77)), (77, Some(677)), (677, None)] {
            if now > 2 {
                assert_eq!((table.next(), table.take(at(now - 1))), (at(now), None));
                assert_eq!(table.take(at(now)).as_ref(), Some(app));
            }
            table.done(app, LACKS, at(now));
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
        let (mut table, app) = (table(), name(1));
        table.note(&app, at(0));
        let mut now = 0;
        for (looked, next) in [
            (CAME, 15),
            (CAME, 30),
            (LACKS, 90),
            (Looked::Failed, 150),
            (Looked::More, 150),
            (LACKS, 210),
            (Looked::Failed, 270),
            (LACKS, 870),
        ] {
            assert_eq!(table.take(at(now)).as_ref(), Some(&app));
            table.done(&app, looked, at(now));
            assert_eq!(table.next(), at(next), "{looked:?}");
            now = next;
        }
    }

    /// Symptom: who had eight repositories whose names came first, or 1,024 of any name, kept what
    /// came late to others away for minutes or an hour.
    #[test]
    fn f206_f209_who_is_due_longest_goes_first_and_a_round_comes_by_each_repository() {
        let mut table = table();
        table.note(&name(9), at(1));
        table.note(&name(1), at(2));
        assert_eq!([table.take(at(3)), table.take(at(3))], [Some(name(9)), Some(name(1))]);
        // Who has more to fetch waits until others have had their turn.
        table.note(&name(2), at(4));
        table.done(&name(9), Looked::More, at(5));
        assert_eq!([table.take(at(6)), table.take(at(6))], [Some(name(2)), Some(name(9))]);
        for number in [1, 2, 9] {
            table.done(&name(number), Looked::Whole, at(6));
        }
        assert!(table.repositories.is_empty());
        // A round has each, once.
        assert!(table.wants_next(at(3600)) && !table.wants_next(at(3599)));
        table.note(&name(3), at(3600));
        for number in [3, 4] {
            table.go_round(Some(name(number)), at(3601));
        }
        assert_eq!([table.take(at(3602)), table.take(at(3602))], [Some(name(3)), Some(name(4))]);
        table.done(&name(4), LACKS, at(3602));
        assert_eq!(table.repositories[&name(4)].due, None, "until the next round or news");
        table.done(&name(3), LACKS, at(3602));
        assert_eq!(table.repositories[&name(3)].due, Some(at(3617)), "it was news");
        table.go_round(None, at(3603));
        assert_eq!(table.next(), at(3617));
        // What the first round after a start finds may be new.
        let mut table = Table::default();
        table.go_round(Some(name(1)), at(0));
        assert_eq!(table.take(at(0)), Some(name(1)));
        table.done(&name(1), LACKS, at(1));
        assert_eq!(table.repositories[&name(1)].due, Some(at(16)));
    }

    /// Symptom: an image with one absent layer, pushed to 1,100 repositories, kept what came late
    /// to others away for ten minutes.
    #[test]
    fn f206_f209_news_takes_the_place_of_what_was_looked_at() {
        let mut table = table();
        (0..REPOSITORIES_MAX + 7).for_each(|number| table.note(&name(number), at(10)));
        assert_eq!(table.repositories.len(), REPOSITORIES_MAX);
        assert_eq!(table.next(), at(10));
        assert!(!table.repositories.contains_key(&name(REPOSITORIES_MAX)), "none was looked at");
        assert_eq!(table.round.due, at(610), "a round comes for those");
        assert_eq!(table.take(at(11)), Some(name(0)));
        table.note(&name(5000), at(12));
        assert!(!table.repositories.contains_key(&name(5000)), "it is under way");
        table.done(&name(0), LACKS, at(13));
        table.note(&name(5000), at(14));
        assert!(!table.repositories.contains_key(&name(0)));
        assert_eq!(table.repositories[&name(5000)].due, Some(at(14)));
        assert_eq!(table.repositories.len(), REPOSITORIES_MAX);
        assert!(!table.wants_next(at(700)), "a round waits for places");
        table.round.due = at(0);
        assert_eq!(table.next(), at(10), "and nobody waits for it meanwhile");
        table.round.after = Some(name(1));
        table.note(&name(6000), at(20));
        table.go_round(None, at(21));
        assert_eq!(table.round.due, at(621), "it may have passed that one");
    }

    /// Symptom: what some repositories lacked was fetched and never that of others, whose names
    /// come later, or that was found later; and a layer that the link cut kept all others away.
    #[test]
    fn f206_f209_what_is_large_is_fetched_in_turn() {
        let item = |number: u8| {
            let digest = Digest::from_raw(Algorithm::Sha256, &[number; 32]).unwrap();
            (digest, AtParent::Blob(u64::from(number)))
        };
        let mut table = table();
        assert_eq!(table.next_large(), None);
        (0..20).for_each(|number| table.add_large(&name(7), item(number)));
        assert_eq!(table.large[0].items.len(), LARGE_MAX);
        table.add_large(&name(8), item(30));
        table.add_large(&name(6), item(40));
        assert!(table.is_large(&name(7), &item(1).0) && !table.is_large(&name(8), &item(1).0));
        // The first is cut, and is tried again when all others have had their turn.
        for (expected, ended) in [
            ((7, 0), Ended::Cut),
            ((8, 30), Ended::Came),
            ((6, 40), Ended::LeftOut),
            ((7, 1), Ended::Came),
            ((7, 2), Ended::LeftOut),
        ] {
            let (repository, digest, _) = table.next_large().unwrap();
            assert_eq!((repository, digest), (name(expected.0), item(expected.1).0));
            table.end_large(ended, at(9));
        }
        assert_eq!(table.large.len(), 1);
        assert_eq!(table.large[0].items.back(), Some(&item(0)));
        // Where something came, there may be more that was not remembered.
        let noted = |table: &Table| table.repositories.keys().cloned().collect::<Vec<_>>();
        assert_eq!(noted(&table), [name(8)]);
        (1..LARGE_MAX - 1).for_each(|_| table.end_large(Ended::LeftOut, at(9)));
        assert_eq!((table.next_large(), noted(&table)), (None, vec![name(7), name(8)]));
        // What is not handed out waits for a look, and nothing else waits for it.
        table.add_large(&name(5), item(50));
        table.end_large(Ended::Later, at(9));
        assert_eq!((table.next_large(), table.repositories[&name(5)].due), (None, Some(at(69))));
        (0..REPOSITORIES_MAX + 3).for_each(|number| table.add_large(&name(number), item(1)));
        assert_eq!(table.large.len(), REPOSITORIES_MAX);
    }
}

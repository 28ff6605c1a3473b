//! Content that could not be fetched from the parent. It is set aside, reported and retried, so
//! that it delays nothing else. The list is in memory; the store has a mark while it is not empty,
//! and a start that finds the mark runs a full reconcile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::backoff;
use crate::sys::Rng;
use crate::types::connected_registry::{DetailCode, StatusDetail};
use crate::types::{Digest, RepositoryName, Tag, UnixSeconds};

/// Debts that are remembered. Over it: a further one is only logged, no repository becomes synced,
/// and a full reconcile follows after [`COMPARE_AFTER`], or once all that is remembered and did not
/// fit is here.
const OWED_MAX: usize = 1024;

/// Items that are held back and remembered. Over it: a full reconcile follows after
/// [`COMPARE_AFTER`].
const HELD_MAX: usize = 1024;

/// How long items that are not remembered wait for the next full reconcile.
const COMPARE_AFTER: Duration = Duration::from_secs(3600);

/// Longest reason in a report, characters. Over it: the reason is cut.
const REASON_MAX: usize = 400;

/// The part of a repository that could not be fetched.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Item {
    /// The list of what it holds.
    Listing,
    /// What a tag names.
    Tag(Tag),
    /// A manifest that no tag need name.
    Manifest(Digest),
    /// A manifest that the parent has deleted, and that is still here.
    Deleted(Digest),
}

impl Item {
    /// As the log has it, `key=value`.
    pub(super) fn field(&self) -> String {
        match self {
            Item::Listing => "listing=true".to_owned(),
            Item::Tag(tag) => format!("tag={tag}"),
            Item::Manifest(digest) => format!("digest={digest}"),
            Item::Deleted(digest) => format!("deleted={digest}"),
        }
    }
}

/// An item with its repository.
pub(super) type Key = (RepositoryName, Item);

/// An item that could not be fetched, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Owed {
    pub(super) repository: RepositoryName,
    pub(super) item: Item,
    /// What was to be fetched, where that is known.
    pub(super) digest: Option<Digest>,
    pub(super) reason: String,
    /// How many bytes are missing, 0 where that is not known, of an item for which the disk has no
    /// space.
    pub(super) no_room: Option<u64>,
}

/// What is told of a debt.
struct Debt {
    digest: Option<Digest>,
    reason: String,
    no_room: Option<u64>,
    /// There was space for it at the last look.
    had_room: bool,
    since: UnixSeconds,
    correlation_id: String,
    /// The comparison in which it was last found, or which came before that.
    compared: u64,
}

/// Items that are tried again, as many as are remembered.
struct Tries<T> {
    rows: BTreeMap<Key, Try<T>>,
    max: usize,
    /// When the first item was found that did not fit into `rows`, monotonic.
    overflow: Option<Duration>,
}

struct Try<T> {
    /// So far.
    times: u32,
    /// Monotonic.
    due: Duration,
    of: T,
}

impl<T> Tries<T> {
    fn new(max: usize) -> Tries<T> {
        Tries { rows: BTreeMap::new(), max, overflow: None }
    }

    /// One more try of an item; `None`: there are too many to remember this one.
    fn note(
        &mut self,
        key: Key,
        now: Duration,
        rng: &dyn Rng,
        of: impl FnOnce() -> T,
    ) -> Option<&mut Try<T>> {
        if self.rows.len() >= self.max && !self.rows.contains_key(&key) {
            self.overflow.get_or_insert(now);
            return None;
        }
        let row = self.rows.entry(key).or_insert_with(|| Try { times: 0, due: now, of: of() });
        row.times = row.times.saturating_add(1);
        row.due = now.saturating_add(backoff::item_delay(row.times, rng));
        Some(row)
    }

    /// Those of one repository.
    fn of(&self, repository: &RepositoryName) -> impl Iterator<Item = &T> {
        let first = (repository.clone(), Item::Listing);
        let rows = self.rows.range(first..);
        rows.take_while(move |((other, _), _)| other == repository).map(|(_, row)| &row.of)
    }

    fn keep(&mut self, wanted: &BTreeSet<RepositoryName>) {
        self.rows.retain(|(repository, _), _| wanted.contains(repository));
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.overflow.is_none()
    }

    fn next(&self) -> Option<Duration> {
        let overflow = self.overflow.map(|at| at.saturating_add(COMPARE_AFTER));
        self.rows.values().map(|row| row.due).chain(overflow).min()
    }

    /// Items whose time has come, each with the number of tries so far.
    fn due(&self, now: Duration) -> impl Iterator<Item = (u32, &Key)> {
        let due = self.rows.iter().filter(move |(_, row)| row.due <= now);
        due.map(|(key, row)| (row.times, key))
    }

    fn is_over(&self, now: Duration) -> bool {
        self.overflow.is_some_and(|at| now.saturating_sub(at) >= COMPARE_AFTER)
    }
}

/// Everything that is owed or held back. No item is both.
pub(super) struct Debts {
    owed: Tries<Debt>,
    /// Repositories of items that did not fit on the disk and are not remembered.
    no_room: BTreeSet<RepositoryName>,
    /// A change of this node waits for the parent's answer: nothing is missing, and the parent is
    /// asked when it has answered.
    held: Tries<()>,
    /// Comparisons of a repository that were begun.
    compares: u64,
}

impl Default for Debts {
    fn default() -> Debts {
        let no_room = BTreeSet::new();
        Debts { owed: Tries::new(OWED_MAX), no_room, held: Tries::new(HELD_MAX), compares: 0 }
    }
}

impl Owed {
    fn key(&self) -> Key {
        (self.repository.clone(), self.item.clone())
    }
}

impl Debts {
    /// Notes one more failure; the number of them so far. `now` is monotonic, `since` wall time.
    pub(super) fn owe(
        &mut self,
        owed: &Owed,
        now: Duration,
        since: UnixSeconds,
        rng: &dyn Rng,
    ) -> u32 {
        let (key, compared) = (owed.key(), self.compares);
        self.held.rows.remove(&key);
        let debt = || Debt {
            digest: None,
            reason: String::new(),
            no_room: None,
            had_room: false,
            since,
            correlation_id: rng.uuid(),
            compared,
        };
        let Some(tried) = self.owed.note(key, now, rng, debt) else {
            self.no_room.extend(owed.no_room.map(|_| owed.repository.clone()));
            return 1;
        };
        tried.of.no_room = owed.no_room;
        tried.of.compared = compared;
        tried.of.digest.clone_from(&owed.digest);
        tried.of.reason = owed.reason.chars().take(REASON_MAX).collect();
        tried.times
    }

    /// Notes that the parent has changed an item, which a change of this node holds back: the
    /// parent may have changed it after it took that one, and says so only once. Returns whether it
    /// was missing before.
    pub(super) fn hold_back(
        &mut self,
        repository: RepositoryName,
        item: Item,
        now: Duration,
        rng: &dyn Rng,
    ) -> bool {
        let key = (repository, item);
        // What was missing is not wanted until the parent has answered.
        let was_missing = self.owed.rows.remove(&key).is_some();
        self.held.note(key, now, rng, || ());
        was_missing
    }

    /// Removes an item that is here, or that nobody wants any more; whether it was missing.
    pub(super) fn paid(&mut self, repository: &RepositoryName, item: &Item) -> bool {
        let key = (repository.clone(), item.clone());
        self.held.rows.remove(&key);
        self.owed.rows.remove(&key).is_some()
    }

    /// Drops the debts of a repository that was compared as a whole, but for those that this
    /// comparison has found.
    pub(super) fn compared(&mut self, repository: &RepositoryName, comparison: u64) {
        let is_found = |debt: &Debt| debt.compared >= comparison;
        self.owed.rows.retain(|(other, _), row| other != repository || is_found(&row.of));
    }

    /// Drops what is not of these repositories.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<RepositoryName>) {
        self.owed.keep(wanted);
        self.no_room.retain(|repository| wanted.contains(repository));
        self.held.keep(wanted);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.held.is_empty()
    }

    /// Whether something of the repository is owed, as far as that is known: it may be among what
    /// is not remembered.
    pub(super) fn owes(&self, repository: &RepositoryName) -> bool {
        self.owed.overflow.is_some() || self.owed.of(repository).next().is_some()
    }

    /// Whether this manifest may be what is to be fetched for something that is owed and fits: what
    /// has come of anything else takes the space from others.
    pub(super) fn may_fetch(&self, repository: &RepositoryName, root: &Digest) -> bool {
        let fits = self.owed.of(repository).filter(|debt| debt.no_room.is_none());
        let mut fetched = fits.map(|debt| debt.digest.as_ref());
        self.owed.overflow.is_some()
            || self.held.of(repository).next().is_some()
            || fetched.any(|digest| digest.is_none_or(|d| d == root))
    }

    /// Repositories of which something is owed, as far as that is remembered.
    pub(super) fn repositories(&self) -> BTreeSet<RepositoryName> {
        let owed = self.owed.rows.keys().map(|(repository, _)| repository);
        owed.chain(&self.no_room).cloned().collect()
    }

    /// Repositories of which something does not fit on the disk.
    pub(super) fn without_room(&self) -> BTreeSet<RepositoryName> {
        let rows = self.owed.rows.iter().filter(|(_, row)| row.of.no_room.is_some());
        rows.map(|((repository, _), _)| repository).chain(&self.no_room).cloned().collect()
    }

    /// How many bytes are missing of all that does not fit, at most: content that two items share
    /// may be counted twice.
    pub(super) fn missing_bytes(&self) -> u64 {
        let debts = self.owed.rows.values().map(|row| &row.of);
        // Two tags may name the same.
        let missing: BTreeMap<_, u64> =
            debts.filter_map(|debt| Some((debt.digest.as_ref(), debt.no_room?))).collect();
        missing.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Lets all be due that did not fit and fits now. `room`: bytes that are free beside the
    /// reserve; `None`: the reserve is in use.
    pub(super) fn look_for_room(&mut self, room: Option<u64>, now: Duration) {
        for row in self.owed.rows.values_mut() {
            let Some(bytes) = row.of.no_room else { continue };
            let has_room = room.is_some_and(|room| bytes <= room);
            // Only once: if it fails again, then not for want of free bytes.
            if has_room && !row.of.had_room {
                row.due = now;
            }
            row.of.had_room = has_room;
        }
    }

    /// At most `max` items whose time has come, those with the fewest tries first.
    pub(super) fn due(&self, now: Duration, max: usize) -> Vec<Key> {
        let mut due: Vec<_> = self.owed.due(now).chain(self.held.due(now)).collect();
        due.sort_by_key(|(times, _)| *times);
        due.into_iter().take(max).map(|(_, key)| key.clone()).collect()
    }

    /// How long until the next item is due; `None` when there is none.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        let rest = self.rest_may_fit().then_some(now);
        let next = self.owed.next().into_iter().chain(self.held.next()).chain(rest).min();
        next.map(|due| due.saturating_sub(now))
    }

    /// Whether all is here that is remembered and did not fit, and not all is remembered.
    fn rest_may_fit(&self) -> bool {
        let rows = &self.owed.rows;
        !self.no_room.is_empty()
            && rows.len() < self.owed.max
            && rows.values().all(|row| row.of.no_room.is_none())
    }

    /// A repository is about to be compared as a whole: what is not remembered is found again.
    /// Which comparison that is.
    pub(super) fn begin_compare(&mut self, repository: &RepositoryName) -> u64 {
        self.no_room.remove(repository);
        self.compares += 1;
        self.compares
    }

    /// Whether a full reconcile is due now, because there are more items than are remembered.
    pub(super) fn is_compare_due(&self, now: Duration) -> bool {
        self.rest_may_fit() || self.owed.is_over(now) || self.held.is_over(now)
    }

    /// A full reconcile is requested: it finds what is not remembered.
    pub(super) fn forget_overflow(&mut self) {
        (self.owed.overflow, self.held.overflow) = (None, None);
    }

    /// The first debts as a report lists them.
    pub(super) fn details(&self, max: usize) -> Vec<StatusDetail> {
        let detail = |((repository, item), tried): (&Key, &Try<Debt>)| {
            let Debt { digest, reason, since, correlation_id, .. } = &tried.of;
            let name = name(repository, item);
            StatusDetail {
                kind: DetailCode::SyncIncomplete.kind().to_owned(),
                code: DetailCode::SyncIncomplete.name().to_owned(),
                description: match digest {
                    Some(digest) => format!("{name} is not complete: {digest}: {reason}"),
                    None => format!("{name} is not complete: {reason}"),
                },
                timestamp: *since,
                correlation_id: correlation_id.clone(),
            }
        };
        self.owed.rows.iter().take(max).map(detail).collect()
    }
}

fn name(repository: &RepositoryName, item: &Item) -> String {
    match item {
        Item::Tag(tag) => format!("{repository}:{tag}"),
        Item::Listing | Item::Manifest(_) | Item::Deleted(_) => repository.to_string(),
    }
}

/// As the log has it, `key=value`.
impl fmt::Display for Owed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository={}", self.repository)?;
        if !matches!(self.item, Item::Manifest(_)) {
            write!(f, " {}", self.item.field())?;
        }
        if let Some(digest) = &self.digest {
            write!(f, " digest={digest}")?;
        }
        write!(f, " reason={:?}", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SystemRng;
    use crate::types::digest::Algorithm;

    fn owed(repository: &str, tag: &str) -> Owed {
        Owed {
            repository: repository.parse().unwrap(),
            item: Item::Tag(tag.parse().unwrap()),
            digest: Digest::from_raw(Algorithm::Sha256, &[7; 32]),
            reason: "it is \"not\" there".to_owned(),
            no_room: None,
        }
    }

    fn owe(debts: &mut Debts, owed: &Owed, now: Duration) -> u32 {
        debts.owe(owed, now, UnixSeconds(9), &SystemRng::new())
    }

    #[test]
    fn f204_a_thing_is_owed_until_itself_is_paid() {
        let (mut debts, now) = (Debts::default(), Duration::from_secs(100));
        let (ten, one) = (owed("app", "v10"), owed("app", "v1"));
        assert_eq!(owe(&mut debts, &ten, now), 1);
        assert_eq!(owe(&mut debts, &one, now), 1);
        assert_eq!(owe(&mut debts, &ten, now), 2);
        assert!(debts.paid(&one.repository, &one.item));
        assert!(!debts.paid(&one.repository, &one.item));
        let told: Vec<String> = debts.details(9).into_iter().map(|d| d.description).collect();
        let digest = ten.digest.clone().unwrap();
        assert_eq!(told, [format!("app:v10 is not complete: {digest}: it is \"not\" there")]);
        let other = Digest::from_raw(Algorithm::Sha256, &[8; 32]).unwrap();
        let may_fetch = |name: &str, root| debts.may_fetch(&name.parse().unwrap(), root);
        assert!(may_fetch("app", &digest) && !may_fetch("app", &other));
        assert!(!may_fetch("lab", &digest));
        let shown =
            format!("repository=app tag=v10 digest={digest} reason=\"it is \\\"not\\\" there\"");
        assert_eq!(ten.to_string(), shown);
        let other = "app2".parse().unwrap();
        let comparison = debts.begin_compare(&other);
        debts.compared(&other, comparison);
        assert!(!debts.is_empty());
        let comparison = debts.begin_compare(&ten.repository);
        owe(&mut debts, &one, now);
        debts.compared(&ten.repository, comparison);
        let told: Vec<String> = debts.details(9).into_iter().map(|d| d.description).collect();
        assert!(told.len() == 1 && told[0].starts_with("app:v1 "), "found again: {told:?}");
        let comparison = debts.begin_compare(&ten.repository);
        debts.compared(&ten.repository, comparison);
        assert!(debts.is_empty());
    }

    #[test]
    fn f204_what_is_owed_comes_due_again_and_what_failed_least_first() {
        let (mut debts, now) = (Debts::default(), Duration::from_secs(100));
        let (often, once) = (owed("app", "often"), owed("lab", "once"));
        for _ in 0..30 {
            owe(&mut debts, &often, now);
        }
        owe(&mut debts, &once, now);
        assert_eq!(debts.due(now, 9), []);
        let next = debts.next(now).unwrap();
        assert_eq!(debts.due(now + next, 9), [once.key()]);
        let longest = now + backoff::ITEM_LONGEST;
        assert_eq!(debts.due(longest, 9), [once.key(), often.key()]);
        assert_eq!(debts.due(longest, 1), [once.key()]);
        assert_eq!(debts.repositories().len(), 2);
        let owes = |name: &str| debts.owes(&name.parse().unwrap());
        assert_eq!(["aa", "app", "b", "lab", "z"].map(owes), [false, true, false, true, false]);
        debts.keep(&[once.repository.clone()].into());
        assert_eq!(debts.due(longest, 9), [once.key()]);
    }

    fn without_room(tag: &str, bytes: u64) -> Owed {
        let digest = Digest::from_raw(Algorithm::Sha256, &[tag.as_bytes()[0]; 32]);
        Owed { no_room: Some(bytes), digest, ..owed("big", tag) }
    }

    #[test]
    fn f210_what_does_not_fit_is_due_as_soon_as_it_does_and_once() {
        let (mut debts, now) = (Debts::default(), Duration::from_secs(100));
        let (large, small) = (without_room("large", 50), without_room("small", 5));
        for owed in [&large, &without_room("latest", 50), &small, &owed("app", "v1")] {
            owe(&mut debts, owed, now);
        }
        assert_eq!(debts.missing_bytes(), 55, "two tags that name the same");
        let big: BTreeSet<RepositoryName> = ["big".parse().unwrap()].into();
        assert_eq!(debts.without_room(), big);
        assert!(!debts.may_fetch(&large.repository, large.digest.as_ref().unwrap()));
        for (room, due) in [(None, vec![]), (Some(4), vec![]), (Some(5), vec![small.key()])] {
            debts.look_for_room(room, now);
            assert_eq!(debts.due(now, 9), due, "{room:?}");
        }
        // It does not fit in another way than by its bytes: only the pauses grow.
        owe(&mut debts, &small, now);
        debts.look_for_room(Some(6), now);
        assert_eq!(debts.due(now, 9), []);
        debts.look_for_room(None, now);
        debts.look_for_room(Some(6), now);
        assert_eq!(debts.due(now, 9), [small.key()]);
    }

    #[test]
    fn f210_what_does_not_fit_and_is_not_remembered_is_compared_once_the_rest_is_here() {
        let (mut debts, now) = (Debts::default(), Duration::from_secs(100));
        for number in 0..OWED_MAX {
            owe(&mut debts, &without_room(&format!("t{number}"), 5), now);
        }
        let beyond = Owed { repository: "beyond".parse().unwrap(), ..without_room("v1", 5) };
        owe(&mut debts, &beyond, now);
        let beyond = BTreeSet::from([beyond.repository]);
        assert!(debts.repositories().is_superset(&beyond));
        assert!(debts.without_room().is_superset(&beyond) && !debts.is_compare_due(now));
        for number in 0..OWED_MAX {
            assert_ne!(debts.next(now), Some(Duration::ZERO));
            let Owed { repository, item, .. } = without_room(&format!("t{number}"), 5);
            debts.paid(&repository, &item);
        }
        assert_eq!(debts.next(now), Some(Duration::ZERO));
        assert!(debts.is_compare_due(now));
        debts.forget_overflow();
        debts.begin_compare(beyond.first().unwrap());
        assert!(debts.is_empty() && debts.without_room().is_empty());
    }

    #[test]
    fn what_is_held_back_is_no_debt_and_has_a_bound_of_its_own() {
        let (mut debts, now) = (Debts::default(), Duration::from_secs(100));
        let app: RepositoryName = "app".parse().unwrap();
        for number in 0..=HELD_MAX {
            let item = Item::Tag(format!("t{number}").parse().unwrap());
            debts.hold_back(app.clone(), item, now, &SystemRng::new());
        }
        assert_eq!(debts.held.rows.len(), HELD_MAX);
        assert!(!debts.owes(&app) && debts.repositories().is_empty() && !debts.is_empty());
        assert!(debts.details(9).is_empty() && !debts.paid(&app, &Item::Listing));
        assert_eq!(owe(&mut debts, &owed("app", "t1"), now), 1, "missing now");
        assert!(debts.owes(&app) && debts.details(9).len() == 1);
        assert!(!debts.held.rows.contains_key(&owed("app", "t1").key()));
        debts.hold_back(app.clone(), owed("app", "t1").item, now, &SystemRng::new());
        assert!(!debts.owes(&app), "a change of ours came in between");
        assert!(debts.is_compare_due(now + COMPARE_AFTER));
    }

    #[test]
    fn what_is_too_much_to_remember_is_compared_later() {
        let (mut debts, now) = (Debts::default(), Duration::from_secs(100));
        for number in 0..=OWED_MAX {
            owe(&mut debts, &owed("app", &format!("t{number}")), now);
        }
        assert_eq!(debts.owed.rows.len(), OWED_MAX);
        debts.keep(&BTreeSet::new());
        assert!(!debts.is_empty(), "one is known to be owed, not which");
        assert!(debts.owes(&"app".parse().unwrap()), "it may be of any repository");
        assert_eq!(debts.next(now), Some(COMPARE_AFTER));
        assert!(!debts.is_compare_due(now));
        assert!(debts.is_compare_due(now + COMPARE_AFTER) && !debts.is_empty());
        debts.forget_overflow();
        assert!(debts.is_empty() && !debts.owes(&"app".parse().unwrap()));
    }
}

//! Content that could not be fetched from the parent. It is set aside, reported and retried, so
//! that it delays nothing else. The list is in memory; the store has a mark while it is not empty,
//! and a start that finds the mark runs a full reconcile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::backoff;
use crate::sys::Rng;
use crate::types::connected_registry::StatusDetail;
use crate::types::{Digest, RepositoryName, Tag, UnixSeconds};

/// Debts that are remembered. Over it: a further one is only logged, no repository becomes synced,
/// and a full reconcile follows after [`COMPARE_AFTER`].
const DEBTS_MAX: usize = 2048;

/// Items of them that may be held back. Over it: a full reconcile follows after [`COMPARE_AFTER`].
const HELD_MAX: usize = 1024;

/// How long debts that are not remembered wait for the next full reconcile.
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
}

struct Debt {
    digest: Option<Digest>,
    reason: String,
    since: UnixSeconds,
    correlation_id: String,
    tries: u32,
    /// Monotonic.
    due: Duration,
    /// A change of this node waits for the parent's answer: nothing is missing, and the parent is
    /// asked when it has answered.
    held: bool,
}

/// Everything that is owed.
#[derive(Default)]
pub(super) struct Debts {
    rows: BTreeMap<Key, Debt>,
    /// When the first failure was found that did not fit into `rows`, monotonic.
    overflow: Option<Duration>,
    /// The same of what is held back.
    held_overflow: Option<Duration>,
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
        let Some(debt) = self.note(owed.key(), now, since, rng) else {
            return 1;
        };
        debt.digest.clone_from(&owed.digest);
        debt.reason = owed.reason.chars().take(REASON_MAX).collect();
        if std::mem::replace(&mut debt.held, false) {
            debt.tries = 1;
            debt.since = since;
        }
        debt.tries
    }

    /// Notes that the parent has changed an item, which a change of this node holds back: the
    /// parent may have changed it after it took that one, and says so only once.
    pub(super) fn hold_back(
        &mut self,
        repository: RepositoryName,
        item: Item,
        now: Duration,
        since: UnixSeconds,
        rng: &dyn Rng,
    ) {
        let key = (repository, item);
        let held = self.rows.values().filter(|debt| debt.held).count();
        if held >= HELD_MAX && !self.rows.contains_key(&key) {
            self.held_overflow.get_or_insert(now);
            return;
        }
        if let Some(debt) = self.note(key, now, since, rng) {
            debt.held = true;
        }
    }

    /// One more try of an item; `None`: there are too many to remember this one.
    fn note(
        &mut self,
        key: Key,
        now: Duration,
        since: UnixSeconds,
        rng: &dyn Rng,
    ) -> Option<&mut Debt> {
        if self.rows.len() >= DEBTS_MAX && !self.rows.contains_key(&key) {
            self.overflow.get_or_insert(now);
            return None;
        }
        let debt = self.rows.entry(key).or_insert_with(|| Debt {
            digest: None,
            reason: String::new(),
            since,
            correlation_id: rng.uuid(),
            tries: 0,
            due: now,
            held: false,
        });
        debt.tries = debt.tries.saturating_add(1);
        debt.due = now.saturating_add(backoff::item_delay(debt.tries, rng));
        Some(debt)
    }

    /// Removes the debt of an item that is here, or that nobody wants any more; whether something
    /// was missing.
    pub(super) fn paid(&mut self, repository: &RepositoryName, item: &Item) -> bool {
        let debt = self.rows.remove(&(repository.clone(), item.clone()));
        debt.is_some_and(|debt| !debt.held)
    }

    /// Drops the debts of a repository that was compared as a whole, except these and what is held
    /// back.
    pub(super) fn compared(&mut self, repository: &RepositoryName, owed: &BTreeSet<Item>) {
        self.rows
            .retain(|(other, item), debt| other != repository || owed.contains(item) || debt.held);
    }

    /// Drops the debts of all repositories but these.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<RepositoryName>) {
        self.rows.retain(|(repository, _), _| wanted.contains(repository));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.overflow.is_none() && self.held_overflow.is_none()
    }

    /// Whether something of the repository is owed, as far as that is known: it may be among what
    /// is not remembered.
    pub(super) fn owes(&self, repository: &RepositoryName) -> bool {
        let first = (repository.clone(), Item::Listing);
        self.overflow.is_some()
            || self
                .rows
                .range(first..)
                .take_while(|((other, _), _)| other == repository)
                .any(|(_, debt)| !debt.held)
    }

    /// Whether this manifest may be what is to be fetched for something that is owed.
    pub(super) fn may_fetch(&self, repository: &RepositoryName, root: &Digest) -> bool {
        let first = (repository.clone(), Item::Listing);
        let rows = self.rows.range(first..).take_while(|((other, _), _)| other == repository);
        self.overflow.is_some()
            || rows
                .map(|(_, debt)| debt.digest.as_ref())
                .any(|digest| digest.is_none_or(|d| d == root))
    }

    /// Repositories of which something is owed.
    pub(super) fn repositories(&self) -> BTreeSet<RepositoryName> {
        let owed = self.rows.iter().filter(|(_, debt)| !debt.held);
        owed.map(|((repository, _), _)| repository.clone()).collect()
    }

    /// At most `max` debts whose retry time has come, those with the fewest tries first.
    pub(super) fn due(&self, now: Duration, max: usize) -> Vec<Key> {
        let mut due: Vec<_> = self.rows.iter().filter(|(_, debt)| debt.due <= now).collect();
        due.sort_by_key(|(_, debt)| debt.tries);
        due.into_iter().take(max).map(|(key, _)| key.clone()).collect()
    }

    /// How long until the next debt is due; `None` when there is none.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        let rows = self.rows.values().map(|debt| debt.due);
        let overflow = self.overflow.into_iter().chain(self.held_overflow);
        let overflow = overflow.map(|at| at.saturating_add(COMPARE_AFTER));
        rows.chain(overflow).min().map(|due| due.saturating_sub(now))
    }

    /// Whether a full reconcile is due now, because there are more debts than are remembered.
    pub(super) fn compare(&mut self, now: Duration) -> bool {
        let first = self.overflow.into_iter().chain(self.held_overflow).min();
        let due = first.is_some_and(|at| now.saturating_sub(at) >= COMPARE_AFTER);
        if due {
            (self.overflow, self.held_overflow) = (None, None);
        }
        due
    }

    /// The first of them as a report lists them.
    pub(super) fn details(&self, max: usize) -> Vec<StatusDetail> {
        let detail = |((repository, item), debt): (&Key, &Debt)| StatusDetail {
            kind: "Sync".to_owned(),
            code: "SyncIncomplete".to_owned(),
            description: match &debt.digest {
                Some(digest) => {
                    format!("{} is not complete: {digest}: {}", name(repository, item), debt.reason)
                }
                None => format!("{} is not complete: {}", name(repository, item), debt.reason),
            },
            timestamp: debt.since,
            correlation_id: debt.correlation_id.clone(),
        };
        self.rows.iter().filter(|(_, debt)| !debt.held).take(max).map(detail).collect()
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
        debts.compared(&"app2".parse().unwrap(), &BTreeSet::new());
        assert!(!debts.is_empty());
        debts.compared(&ten.repository, &BTreeSet::new());
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

    #[test]
    fn what_is_held_back_is_no_debt_and_has_a_bound_of_its_own() {
        let (mut debts, now) = (Debts::default(), Duration::from_secs(100));
        let app: RepositoryName = "app".parse().unwrap();
        for number in 0..=HELD_MAX {
            let item = Item::Tag(format!("t{number}").parse().unwrap());
            debts.hold_back(app.clone(), item, now, UnixSeconds(9), &SystemRng::new());
        }
        assert_eq!(debts.rows.len(), HELD_MAX);
        assert!(!debts.owes(&app) && debts.repositories().is_empty() && !debts.is_empty());
        assert!(debts.details(9).is_empty() && !debts.paid(&app, &Item::Listing));
        assert_eq!(owe(&mut debts, &owed("app", "t1"), now), 1, "missing now");
        assert!(debts.owes(&app) && debts.details(9).len() == 1);
        assert!(debts.compare(now + COMPARE_AFTER));
    }

    #[test]
    fn what_is_too_much_to_remember_is_compared_later() {
        let (mut debts, now) = (Debts::default(), Duration::from_secs(100));
        for number in 0..=DEBTS_MAX {
            owe(&mut debts, &owed("app", &format!("t{number}")), now);
        }
        assert_eq!(debts.rows.len(), DEBTS_MAX);
        debts.keep(&BTreeSet::new());
        assert!(!debts.is_empty(), "one is known to be owed, not which");
        assert!(debts.owes(&"app".parse().unwrap()), "it may be of any repository");
        assert_eq!(debts.next(now), Some(COMPARE_AFTER));
        assert!(!debts.compare(now));
        assert!(debts.compare(now + COMPARE_AFTER));
        assert!(debts.is_empty() && !debts.owes(&"app".parse().unwrap()));
    }
}

//! Changes that the parent refuses. A refusal is a state of a change, never its end: the change
//! stays on its way up, its tag and its content stay here, and it is tried again, under a new
//! number, when there is reason to. Later changes of the same tag wait behind it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::manifests::{ManifestRow, manifest_key};
use super::outbox::{self, BareEntry, Origin, OutboxChange, OutboxEntry, entry_key, number_of};
use super::row::{self, Kind, Row, is_default, key, prefix};
use super::tags::{TagRow, tag_key};
use super::{Store, StoreError, Txn};
use crate::sys::spawn;
use crate::types::{Digest, Reason, RepositoryName, Tag, UnixSeconds};

/// Refusals read at once, and renewed in one record.
const PAGE: usize = 256;

/// Changes after which a record takes no further refusal. A refusal is renewed in one record with
/// all that waits of its tag, so a record may hold more than that.
const RENEWED_MAX: usize = 1024;

/// The longest pause of a change that is refused again and again, rounds: a day, when there is a
/// round every hour.
const PAUSE_MAX: u64 = 24;

/// That the parent refused a change: the first that waits of its tag.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "RefusedRow", into = "RefusedRow")]
pub struct RefusedChange {
    /// What was to be done.
    pub entry: OutboxEntry,
    /// What the parent said last.
    pub reason: String,
    /// When it said no first.
    pub at: UnixSeconds,
    /// Whether it holds its tag up.
    pub state: RefusalState,
    /// How often it was refused after the first time.
    pub again: u32,
}

/// What becomes of a refused change for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalState {
    /// It waits for its next attempt, and later changes of its tag wait behind it.
    Stands,
    /// It is on its way up again.
    Retried,
}

impl RefusedChange {
    fn stands(&self) -> bool {
        self.state == RefusalState::Stands
    }

    /// Whether it is tried again in this round: after the first refusal in the next, then in every
    /// second, every fourth, and so on; in round 0 always.
    fn is_due(&self, round: u64) -> bool {
        let pause = 1_u64.checked_shl(self.again).unwrap_or(PAUSE_MAX).min(PAUSE_MAX);
        self.stands() && round.is_multiple_of(pause)
    }
}

impl Row for RefusedChange {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<RefusedChange, postcard::Error> {
        let ((entry, reason, at), left) = postcard::take_from_bytes(bytes)?;
        let more = RefusedEnd::read(left)?;
        Ok(RefusedRow { entry, reason, at, more }.into())
    }
}

#[derive(Serialize, Deserialize)]
struct RefusedRow {
    entry: BareEntry,
    reason: String,
    at: UnixSeconds,
    #[serde(skip_serializing_if = "is_default")]
    more: RefusedEnd,
}

/// What the first rows did not have.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct RefusedEnd {
    incarnation: u64,
    retried: bool,
    #[serde(skip_serializing_if = "is_default")]
    again: u32,
}

impl RefusedEnd {
    fn read(left: &[u8]) -> Result<RefusedEnd, postcard::Error> {
        if left.is_empty() {
            return Ok(RefusedEnd::default());
        }
        let ((incarnation, retried), left) = postcard::take_from_bytes(left)?;
        Ok(RefusedEnd { incarnation, retried, again: row::last(left)? })
    }
}

impl From<RefusedChange> for RefusedRow {
    fn from(refusal: RefusedChange) -> RefusedRow {
        let retried = !refusal.stands();
        let (entry, incarnation) = BareEntry::of(refusal.entry);
        let more = RefusedEnd { incarnation, retried, again: refusal.again };
        RefusedRow { entry, reason: refusal.reason, at: refusal.at, more }
    }
}

impl From<RefusedRow> for RefusedChange {
    fn from(row: RefusedRow) -> RefusedChange {
        let RefusedRow { entry, reason, at, more } = row;
        let entry = entry.with(more.incarnation);
        let state = if more.retried { RefusalState::Retried } else { RefusalState::Stands };
        RefusedChange { entry, reason, at, state, again: more.again }
    }
}

pub(super) fn refused_key(number: u64) -> Vec<u8> {
    key(Kind::DeadLetter, &[&number.to_be_bytes()])
}

/// The refusals that stand.
#[derive(Default)]
pub struct Refused {
    numbers: BTreeSet<u64>,
    /// Each with the number of the change that was refused.
    tags: BTreeMap<RepositoryName, BTreeMap<Tag, u64>>,
    /// Changes that the parent refused because content is missing there, with the manifest that
    /// each was to bring.
    incomplete: BTreeMap<RepositoryName, BTreeMap<u64, Digest>>,
}

impl Refused {
    /// Whether a change has to wait: it was refused, or another one of its tag was.
    pub fn holds_up(&self, number: u64, entry: &OutboxEntry) -> bool {
        self.numbers.contains(&number) || self.of_tag(entry).is_some()
    }

    fn of_tag(&self, entry: &OutboxEntry) -> Option<u64> {
        let OutboxChange::Tag { tag, .. } = &entry.change else {
            return None;
        };
        self.tags.get(&entry.repository)?.get(tag).copied()
    }

    /// The refused change that this later one makes void: it removes the tag that the other one
    /// was to set. That refusal is over then.
    pub fn ended_by(&mut self, number: u64, entry: &OutboxEntry) -> Option<u64> {
        let OutboxChange::Tag { tag, digest: None, .. } = &entry.change else {
            return None;
        };
        let refused = self.of_tag(entry).filter(|refused| *refused < number)?;
        self.tags.get_mut(&entry.repository)?.remove(tag);
        self.numbers.remove(&refused);
        Some(refused)
    }

    /// Changes that were refused for want of the manifest that this delivered change has brought.
    /// Each is named once.
    pub fn completed_by(
        &mut self,
        entry: &OutboxEntry,
        store: &Store,
    ) -> Result<Vec<u64>, StoreError> {
        let (Some(brought), Some(incomplete)) =
            (entry.brings(), self.incomplete.get_mut(&entry.repository))
        else {
            return Ok(Vec::new());
        };
        let mut completed = Vec::new();
        for (number, digest) in &*incomplete {
            let row = store.manifest(&entry.repository, digest)?;
            if row.is_some_and(|row| row.named_manifests().any(|named| named == brought)) {
                completed.push(*number);
            }
        }
        incomplete.retain(|number, _| !completed.contains(number));
        Ok(completed)
    }

    /// Adds one.
    pub fn add(&mut self, number: u64, entry: OutboxEntry) {
        self.numbers.insert(number);
        if let OutboxChange::Tag { tag, .. } = entry.change {
            self.tags.entry(entry.repository).or_default().insert(tag, number);
        }
    }
}

impl Store {
    /// What the parent has refused and not taken since, oldest first, at most `limit`.
    pub fn refused_changes(&self, limit: usize) -> Result<Vec<(u64, RefusedChange)>, StoreError> {
        self.refused_changes_after(0, limit)
    }

    fn refused_changes_after(
        &self,
        number: u64,
        limit: usize,
    ) -> Result<Vec<(u64, RefusedChange)>, StoreError> {
        let (start, after) = (prefix(Kind::DeadLetter, &[]), refused_key(number));
        let rows = self.scan::<RefusedChange>(&start, Some(&after), limit)?;
        rows.into_iter().map(|(key, refusal)| Ok((number_of(&key)?, refusal))).collect()
    }

    /// The refusals that stand: what is being tried again is not among them. It lets others run
    /// after each page.
    pub async fn refused(&self) -> Result<Refused, StoreError> {
        let (mut refused, mut after) = (Refused::default(), 0);
        loop {
            let page = self.refused_changes_after(after, PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(refused);
            };
            after = *last;
            for (number, refusal) in page.into_iter().filter(|(_, refusal)| refusal.stands()) {
                let wants_content = refusal.reason.contains(Reason::ContentMissing.name());
                if let Some(digest) = refusal.entry.brings().filter(|_| wants_content) {
                    let there = refused.incomplete.entry(refusal.entry.repository.clone());
                    there.or_default().insert(number, digest.clone());
                }
                refused.add(number, refusal.entry);
            }
            spawn::yield_now().await;
        }
    }

    /// Whether the refusal of this change stands.
    pub fn is_refused(&self, number: u64) -> Result<bool, StoreError> {
        let refusal = self.get::<RefusedChange>(&refused_key(number))?;
        Ok(refusal.is_some_and(|refusal| refusal.stands()))
    }

    /// Notes that the parent refuses a change.
    pub async fn outbox_refused(&self, number: u64, reason: String) -> Result<(), StoreError> {
        let now = self.sys().clock.wall_or_floor();
        self.commit(move |txn| {
            let entry = txn.get::<OutboxEntry>(&entry_key(number))?.ok_or(StoreError::NotFound)?;
            let before = txn.get::<RefusedChange>(&refused_key(number))?;
            let (at, again) =
                before.map_or((now, 0), |before| (before.at, before.again.saturating_add(1)));
            let refusal = RefusedChange { entry, reason, at, state: RefusalState::Stands, again };
            txn.put(refused_key(number), &refusal)
        })
        .await
    }

    /// Has what the parent has refused tried again, in round 0 all of it, in a later round (they
    /// are an hour apart) what was not refused too often: the pause doubles up to a day.
    pub async fn outbox_retry(&self, round: u64) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let page = self.refused_changes_after(after, PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = *last;
            let due = page.into_iter().filter(|(_, refusal)| refusal.is_due(round));
            let mut due: Vec<u64> = due.map(|(number, _)| number).collect();
            while !due.is_empty() {
                due = self.commit(move |txn| renumber_some(txn, due)).await?;
            }
            spawn::yield_now().await;
        }
    }

    /// Gives a change, with those of its tag behind it, new numbers, leaving out so many: the old
    /// one stands for something else at the parent.
    pub async fn outbox_renumber(&self, number: u64, left_out: u64) -> Result<(), StoreError> {
        self.commit(move |txn| {
            let mut waiting = Waiting::read(txn)?;
            renumber(txn, &mut waiting, number, left_out).map(|_| ())
        })
        .await
    }
}

/// The changes of tags that wait, in order.
struct Waiting(BTreeMap<RepositoryName, BTreeMap<Tag, Vec<(u64, OutboxEntry)>>>);

impl Waiting {
    fn read(txn: &Txn<'_>) -> Result<Waiting, StoreError> {
        let mut chains = Waiting(BTreeMap::new());
        for (key, entry) in txn.scan::<OutboxEntry>(&prefix(Kind::Outbox, &[]))? {
            if let OutboxChange::Tag { tag, .. } = &entry.change {
                let tags = chains.0.entry(entry.repository.clone()).or_default();
                tags.entry(tag.clone()).or_default().push((number_of(&key)?, entry));
            }
        }
        Ok(chains)
    }

    /// Takes those of the same tag behind a change.
    fn take_behind(&mut self, number: u64, entry: &OutboxEntry) -> Vec<(u64, OutboxEntry)> {
        let OutboxChange::Tag { tag, .. } = &entry.change else {
            return Vec::new();
        };
        let tags = self.0.get_mut(&entry.repository);
        let mut chain = tags.and_then(|tags| tags.remove(tag)).unwrap_or_default();
        chain.retain(|(other, _)| *other > number);
        chain
    }
}

/// Renumbers refused changes until there are enough for one record; returns the rest.
fn renumber_some(txn: &mut Txn<'_>, numbers: Vec<u64>) -> Result<Vec<u64>, StoreError> {
    let (mut waiting, mut renewed) = (Waiting::read(txn)?, 0);
    let mut numbers = numbers.into_iter();
    while renewed < RENEWED_MAX
        && let Some(number) = numbers.next()
    {
        renewed += renumber(txn, &mut waiting, number, 0)?;
    }
    Ok(numbers.collect())
}

/// Writes the changes of a tag that wait from this one on once more, in order, under new numbers,
/// and takes the old ones out: no entry is ever edited. Returns how many there were.
fn renumber(
    txn: &mut Txn<'_>,
    waiting: &mut Waiting,
    number: u64,
    left_out: u64,
) -> Result<usize, StoreError> {
    let mut refusal = txn.get::<RefusedChange>(&refused_key(number))?;
    let head = match (txn.get::<OutboxEntry>(&entry_key(number))?, &refusal) {
        (Some(entry), _) => entry,
        // Early builds took what was refused out of the outbox.
        (None, Some(refusal)) if still_stands(txn, &refusal.entry)? => refusal.entry.clone(),
        (None, _) => {
            txn.delete(refused_key(number));
            return Ok(1);
        }
    };
    let repository = head.repository.clone();
    let behind = waiting.take_behind(number, &head);
    let mut chain = vec![(number, head)];
    chain.extend(behind);
    for (old, _) in &chain {
        outbox::finish(txn, *old)?;
    }
    let count = chain.len();
    let chain: Vec<OutboxEntry> = chain.into_iter().map(|(_, entry)| entry).collect();
    // Only the first one may have been attempted.
    let mut unheard = chain.first().map(OutboxEntry::attempted).unwrap_or_default();
    for change in renewed(txn, &repository, chain)? {
        let unheard = match &change {
            OutboxChange::Tag { .. } => std::mem::take(&mut unheard),
            OutboxChange::ManifestAdded { .. } | OutboxChange::ManifestDeleted { .. } => Vec::new(),
        };
        let origin = &Origin::Client;
        let added = outbox::append(txn, origin, &repository, change, unheard, left_out)?;
        // The refusal is known until the parent takes the first of them.
        if let (Some((number, entry)), Some(known)) = (added, refusal.take()) {
            txn.put(
                refused_key(number),
                &RefusedChange { entry, state: RefusalState::Retried, ..known },
            )?;
        }
    }
    Ok(count)
}

/// What the changes of a tag that wait come to when they go up later than others that were made
/// after them.
fn renewed(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    mut chain: Vec<OutboxEntry>,
) -> Result<Vec<OutboxChange>, StoreError> {
    let mut changes = Vec::new();
    for digest in leave_out_removed(&mut chain) {
        let added = OutboxChange::ManifestAdded { digest };
        changes.extend(as_of_now(txn, repository, added, None)?);
    }
    if let Some((start, back)) = goes_back(&chain)
        && txn.get::<ManifestRow>(&manifest_key(repository, &start))?.is_some()
    {
        changes.extend(back);
        return Ok(changes);
    }
    for (position, entry) in chain.iter().enumerate() {
        let next = chain.get(position + 1);
        changes.extend(as_of_now(txn, repository, entry.change.clone(), next)?);
    }
    Ok(changes)
}

/// Replaces what waits of a tag up to its last removal by the removal of what the parent has. Who
/// removes a tag does not want any more what it named then; what it had named before that, and
/// moved away from, is returned: clients may have pinned it.
fn leave_out_removed(chain: &mut Vec<OutboxEntry>) -> Vec<Digest> {
    let names = |entry: &OutboxEntry| match &entry.change {
        OutboxChange::Tag { digest, .. } => digest.clone(),
        OutboxChange::ManifestAdded { .. } | OutboxChange::ManifestDeleted { .. } => None,
    };
    let removes =
        |entry: &OutboxEntry| matches!(&entry.change, OutboxChange::Tag { digest: None, .. });
    let Some(last) = chain.iter().rposition(removes) else {
        return Vec::new();
    };
    let moved = chain[..=last].windows(2).filter(|pair| !removes(&pair[1]));
    let mut kept: Vec<Digest> = moved.filter_map(|pair| names(&pair[0])).collect();
    let first = match &chain[0].change {
        OutboxChange::Tag { base, .. } => base.clone(),
        OutboxChange::ManifestAdded { .. } | OutboxChange::ManifestDeleted { .. } => None,
    };
    chain.drain(..last);
    if let OutboxChange::Tag { base, .. } = &mut chain[0].change {
        *base = first;
    }
    kept.retain(|digest| !chain.iter().any(|entry| names(entry).as_ref() == Some(digest)));
    kept
}

/// Where the changes of a tag begin and end, and what they come to: what it named in between goes
/// up without it, because clients may have pinned that. `None`: they do not end where they began,
/// or the tag was removed in between.
fn goes_back(chain: &[OutboxEntry]) -> Option<(Digest, Vec<OutboxChange>)> {
    let tags = chain.iter().map(|entry| match &entry.change {
        OutboxChange::Tag { tag, base, digest: Some(digest) } => Some((tag, base, digest)),
        _ => None,
    });
    let tags = tags.collect::<Option<Vec<_>>>()?;
    let ((tag, base, _), (_, _, last)) = (tags.first()?, tags.last()?);
    let start = base.as_ref().filter(|start| start == last)?;
    let between = tags.iter().filter(|(_, _, digest)| *digest != start);
    let added = |digest: &Digest| OutboxChange::ManifestAdded { digest: digest.clone() };
    let mut changes: Vec<_> = between.map(|(_, _, digest)| added(digest)).collect();
    let (tag, base, digest) = ((*tag).clone(), Some(start.clone()), Some(start.clone()));
    changes.push(OutboxChange::Tag { tag, base, digest });
    Some((start.clone(), changes))
}

/// What a change is when it goes up later than others that were made after it; `None`: void.
fn as_of_now(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    change: OutboxChange,
    next: Option<&OutboxEntry>,
) -> Result<Option<OutboxChange>, StoreError> {
    let here = |digest: &Digest| {
        Ok::<_, StoreError>(txn.get::<ManifestRow>(&manifest_key(repository, digest))?.is_some())
    };
    let keep = match &change {
        OutboxChange::Tag { tag, base, digest } => {
            // The tag went with its manifest where the next change does not begin with that.
            let tag_stays = match (next.map(|next| &next.change), digest) {
                (Some(OutboxChange::Tag { base, .. }), digest) => base == digest,
                (_, Some(digest)) => here(digest)?,
                (_, None) => false,
            };
            let digest = digest.clone().filter(|_| tag_stays);
            return Ok(Some(OutboxChange::Tag { tag: tag.clone(), base: base.clone(), digest }));
        }
        OutboxChange::ManifestAdded { digest } => here(digest)?,
        OutboxChange::ManifestDeleted { digest } => !here(digest)?,
    };
    Ok(Some(change).filter(|_| keep))
}

/// Whether a change is still what this node shows.
fn still_stands(txn: &Txn<'_>, entry: &OutboxEntry) -> Result<bool, StoreError> {
    let repository = &entry.repository;
    Ok(match &entry.change {
        OutboxChange::Tag { tag, digest, .. } => {
            let now = txn.get::<TagRow>(&tag_key(repository, tag))?.map(|row| row.digest);
            now.is_some() && now == *digest
        }
        OutboxChange::ManifestAdded { digest } => {
            txn.get::<ManifestRow>(&manifest_key(repository, digest))?.is_some()
        }
        OutboxChange::ManifestDeleted { .. } => false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Precondition;
    use super::super::manifests::testing::{digest, push};
    use super::super::node::testing::connected;
    use super::*;

    /// What waits: numbers, tags, and what they move from and to.
    fn waiting(store: &Store) -> Vec<(u64, String, u8, u8)> {
        let byte = |digest: Option<Digest>| digest.map_or(0, |digest| digest.raw()[0]);
        let entries = store.outbox(100).unwrap().into_iter();
        let tags = entries.filter_map(|(number, entry)| match entry.change {
            OutboxChange::Tag { tag, base, digest } => {
                assert_eq!(entry.id.sequence, number);
                Some((number, tag.to_string(), byte(base), byte(digest)))
            }
            _ => None,
        });
        tags.collect()
    }

    #[test]
    fn f204_a_refused_change_stays_and_is_tried_again_with_what_waits_behind_it() {
        smol::block_on(async {
            let store = connected().await;
            push(&store, "app", 1, &["v1"]).await;
            push(&store, "app", 2, &["v1", "v2"]).await;
            let before = waiting(&store);
            let (first, tag) = (before[0].0, |n: usize| (before[n].1.as_str(), before[n].0));
            store.outbox_refused(first, "too large".to_owned()).await.unwrap();
            assert_eq!(waiting(&store), before);
            let refused = store.refused().await.unwrap();
            let held = store.outbox(9).unwrap().into_iter();
            let held: Vec<bool> = held.map(|(n, entry)| refused.holds_up(n, &entry)).collect();
            assert_eq!(held, [true, true, false]);
            assert_eq!(
                store.outbox_first(&"app".parse().unwrap(), &refused).await.unwrap().unwrap().0,
                tag(2).1
            );
            let refusals = store.refused_changes(10).unwrap();
            assert_eq!((refusals.len(), refusals[0].1.reason.as_str()), (1, "too large"));

            store.outbox_retry(0).await.unwrap();
            let after = waiting(&store);
            let last = before[2].0;
            let expected = [
                before[2].clone(),
                (last + 1, "v1".to_owned(), 0, 1),
                (last + 2, "v1".to_owned(), 1, 2),
            ];
            assert_eq!(after, expected);
            let refusals = store.refused_changes(10).unwrap();
            assert_eq!(
                (refusals.len(), refusals[0].0, refusals[0].1.stands()),
                (1, last + 1, false)
            );
            assert!(store.refused().await.unwrap().numbers.is_empty());
            store.outbox_refused(last + 1, "still".to_owned()).await.unwrap();
            assert_eq!(store.refused_changes(1).unwrap()[0].1.at, refusals[0].1.at);
            store.outbox_done(last + 1).await.unwrap();
            assert_eq!(store.refused_changes(10).unwrap(), []);
            // Behind a number that stands for something else many are left out.
            store.outbox_renumber(last + 2, 100).await.unwrap();
            assert_eq!(waiting(&store).last(), Some(&(last + 103, "v1".to_owned(), 1, 2)));
        });
    }

    #[test]
    fn f204_what_was_deleted_meanwhile_is_not_brought_back_and_not_deleted_twice() {
        smol::block_on(async {
            let store = connected().await;
            let app = "app".parse().unwrap();
            let delete = async |number| {
                store.delete_manifest(&app, &digest(number), &Origin::Client).await.unwrap();
            };
            push(&store, "app", 1, &["v1"]).await;
            push(&store, "app", 2, &["v1"]).await;
            delete(2).await;
            push(&store, "app", 3, &["v1"]).await;
            // It is here again, under another tag.
            push(&store, "app", 2, &["v2"]).await;
            let all: Vec<u64> = store.outbox(9).unwrap().iter().map(|(n, _)| *n).collect();
            for number in [all[0], all[3]] {
                store.outbox_refused(number, "no".to_owned()).await.unwrap();
            }
            store.outbox_retry(0).await.unwrap();
            let tags: Vec<_> = waiting(&store).into_iter().map(|(_, t, b, d)| (t, b, d)).collect();
            let tag = |name: &str, base, digest| (name.to_owned(), base, digest);
            assert_eq!(tags, [tag("v2", 0, 2), tag("v1", 0, 0), tag("v1", 0, 3)]);
            let others = store.outbox(9).unwrap().into_iter().map(|(_, entry)| entry.change);
            let others: Vec<_> =
                others.filter(|change| !matches!(change, OutboxChange::Tag { .. })).collect();
            // The deletion is void.
            assert_eq!(others, [OutboxChange::ManifestAdded { digest: digest(1) }]);
        });
    }

    #[test]
    fn f204_what_is_refused_again_and_again_is_tried_less_often_and_in_few_records() {
        smol::block_on(async {
            let store = connected().await;
            let number = PAGE + 10;
            push(&store, "app", 1, &[]).await;
            for tag in 0..number {
                push(&store, "app", 1, &[&format!("v{tag}")]).await;
            }
            let refuse = async || {
                for (number, _) in store.outbox(usize::MAX).unwrap() {
                    if !store.is_refused(number).unwrap() {
                        store.outbox_refused(number, "no".to_owned()).await.unwrap();
                    }
                }
            };
            let mut tried = Vec::new();
            for round in 1..=80 {
                refuse().await;
                let before = store.sequence();
                store.outbox_retry(round).await.unwrap();
                let records = store.sequence() - before;
                assert!(records <= 2, "{records} records for {number} refusals");
                if records > 0 {
                    tried.push(round);
                }
            }
            assert_eq!(tried, [1, 2, 4, 8, 16, 24, 48, 72]);
            assert_eq!(store.outbox(usize::MAX).unwrap().len(), number + 1);
        });
    }

    #[test]
    fn f204_a_refusal_ends_with_the_removal_of_its_tag() {
        smol::block_on(async {
            let store = connected().await;
            let app = "app".parse().unwrap();
            let remove = async |tag: &str| {
                let tag = tag.parse().unwrap();
                let any = Precondition::None;
                store.delete_tag(&app, &tag, any, &Origin::Client).await.unwrap();
            };
            push(&store, "app", 1, &["v2", "v3"]).await;
            for (number, _) in store.outbox(9).unwrap() {
                store.outbox_done(number).await.unwrap();
            }
            // New, and removed; known to the parent, moved, removed, and set again; moved and back.
            push(&store, "app", 2, &["v1", "v2", "v3"]).await;
            for (number, _) in store.outbox(9).unwrap() {
                store.outbox_refused(number, "no".to_owned()).await.unwrap();
            }
            remove("v1").await;
            remove("v2").await;
            push(&store, "app", 3, &["v2"]).await;
            push(&store, "app", 1, &["v3"]).await;
            let mut refused = store.refused().await.unwrap();
            for (number, entry) in store.outbox(9).unwrap() {
                let ended = refused.ended_by(number, &entry);
                let removes = matches!(entry.change, OutboxChange::Tag { digest: None, .. });
                assert_eq!(ended.is_some(), removes, "{entry}");
                assert_eq!(refused.ended_by(number, &entry), None, "{entry}");
                if let Some(ended) = ended {
                    assert!(!refused.holds_up(ended, &entry) && ended < number);
                    store.outbox_renumber(ended, 0).await.unwrap();
                }
            }
            let tags = |store: &Store| -> Vec<_> {
                waiting(store).into_iter().map(|(_, t, b, d)| (t, b, d)).collect()
            };
            let tag = |name: &str, base, digest| (name.to_owned(), base, digest);
            let v2 = [tag("v2", 1, 0), tag("v2", 0, 3)];
            let v3 = [tag("v3", 1, 2), tag("v3", 2, 1)];
            // The parent may have taken the first move of it, and not have been heard.
            let v1 = [tag("v1", 0, 0)];
            assert_eq!(tags(&store), [v3.as_slice(), &v1, &v2].concat());
            assert_eq!(store.refused_changes(9).unwrap().len(), 3);
            store.outbox_retry(0).await.unwrap();
            assert_eq!(tags(&store), [&v1[..], &v2, &[tag("v3", 1, 1)]].concat());
            for (_, entry) in store.outbox(9).unwrap() {
                let begins = entry.change == OutboxChange::ManifestAdded { digest: digest(2) };
                let tried = match &entry.change {
                    OutboxChange::Tag { digest: Some(to), .. } if *to == digest(3) => vec![],
                    _ if begins => vec![],
                    _ => vec![Some(digest(2))],
                };
                assert_eq!(entry.unheard, tried, "{entry}");
            }
            // What v3 named between can be pulled by its digest.
            let changes = store.outbox(9).unwrap().into_iter().map(|(_, entry)| entry.change);
            let added = OutboxChange::ManifestAdded { digest: digest(2) };
            assert_eq!(changes.filter(|change| *change == added).count(), 1);
        });
    }

    #[test]
    fn f204_what_early_builds_took_out_of_the_outbox_goes_up_if_it_is_still_here() {
        smol::block_on(async {
            let store = connected().await;
            push(&store, "app", 1, &["v1", "v2"]).await;
            let (app, v2) = ("app".parse().unwrap(), "v2".parse().unwrap());
            for (number, entry) in store.outbox(9).unwrap() {
                store.outbox_done(number).await.unwrap();
                let (reason, at) = ("no".to_owned(), UnixSeconds(1));
                let refusal =
                    RefusedChange { entry, reason, at, state: RefusalState::Stands, again: 0 };
                store.commit(move |txn| txn.put(refused_key(number), &refusal)).await.unwrap();
            }
            store.delete_tag(&app, &v2, Precondition::None, &Origin::Parent).await.unwrap();
            store.outbox_retry(0).await.unwrap();
            let tags: Vec<_> = waiting(&store).into_iter().map(|(_, t, b, d)| (t, b, d)).collect();
            assert_eq!(tags, [("v1".to_owned(), 0, 1)]);
            assert_eq!(store.refused_changes(9).unwrap().len(), 1);
        });
    }
}

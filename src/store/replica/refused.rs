//! Changes that the parent refuses. A refusal is a state of a change, never its end: the change
//! stays on its way up, its tag and its content stay here, and it is tried again, under a new
//! number, when there is reason to. A later change of the same tag is one: the tag then goes where
//! it is now, and what was refused goes up by its digest.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::rows::derived::{About, Count, named_by, waiting_about, waiting_number};
use crate::store::rows::outbox::{OutboxChange, OutboxEntry, entry_key, number_of};
use crate::store::rows::refused::refused_key;
pub use crate::store::rows::refused::{RefusalState, RefusedChange};
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::sys::spawn;
use crate::types::limits::PAGE_MAX;
use crate::types::{Digest, Reason, RepositoryName, Tag};

/// Refusals read at once, and renewed in one record.
const PAGE: usize = 256;

/// Removals of one manifest that are looked at. Over it: the rest counts as refused.
const REMOVALS_MAX: usize = 64;

/// The refusals that stand.
#[derive(Default)]
pub struct Refused {
    numbers: BTreeSet<u64>,
    /// Each with the number of the change that was refused.
    tags: BTreeMap<RepositoryName, BTreeMap<Tag, u64>>,
    /// Manifests pushed by their digest, each with the numbers of the changes that were refused.
    added: BTreeMap<RepositoryName, BTreeMap<Digest, BTreeSet<u64>>>,
    /// Manifests that the parent refused because content is missing there, each with the numbers
    /// of the changes that were to bring it.
    incomplete: BTreeMap<RepositoryName, BTreeMap<Digest, BTreeSet<u64>>>,
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

    /// A refused change that this later one makes one with itself, because it is of the same tag,
    /// or void, because it removes the manifest. That refusal does not stand any more then.
    pub fn overtaken_by(&mut self, number: u64, entry: &OutboxEntry) -> Option<u64> {
        let overtaken = match &entry.change {
            OutboxChange::Tag { .. } => self.of_tag(entry).filter(|refused| *refused < number)?,
            OutboxChange::ManifestDeleted { digest } => {
                let refused = self.added.get(&entry.repository)?.get(digest)?;
                refused.first().copied().filter(|first| *first < number)?
            }
            OutboxChange::ManifestAdded { .. } => return None,
        };
        self.forget(&entry.repository, overtaken);
        Some(overtaken)
    }

    /// Changes that were refused for want of the manifest that this delivered change has brought.
    /// Each is named once.
    pub async fn completed_by(&mut self, entry: &OutboxEntry, store: &Store) -> Vec<u64> {
        let mut completed = Vec::new();
        let Some(brought) = entry.brings() else { return completed };
        let start = named_by(&entry.repository, brought);
        let mut keys = store.keys(start.clone());
        while self.incomplete.get(&entry.repository).is_some_and(|those| !those.is_empty()) {
            // What cannot be read is no fault of the change that was delivered.
            let page = keys.next_keys().await.unwrap_or_default();
            if page.is_empty() {
                break;
            }
            for key in page {
                let above = Digest::from_key(key.get(start.len()..).unwrap_or_default());
                let those = self.incomplete.get_mut(&entry.repository);
                let numbers = above.zip(those).and_then(|(above, those)| those.remove(&above));
                completed.extend(numbers.into_iter().flatten());
            }
        }
        for number in &completed {
            self.forget(&entry.repository, *number);
        }
        completed
    }

    /// Takes out one that does not stand any more.
    fn forget(&mut self, repository: &RepositoryName, number: u64) {
        self.numbers.remove(&number);
        if let Some(tags) = self.tags.get_mut(repository) {
            tags.retain(|_, refused| *refused != number);
        }
        if let Some(added) = self.added.get_mut(repository) {
            added.values_mut().for_each(|numbers| numbers.retain(|refused| *refused != number));
        }
        if let Some(incomplete) = self.incomplete.get_mut(repository) {
            incomplete.retain(|_, numbers| {
                numbers.remove(&number);
                !numbers.is_empty()
            });
        }
    }

    /// Adds one.
    pub fn add(&mut self, number: u64, refusal: RefusedChange) {
        let RefusedChange { entry, reason, .. } = refusal;
        self.numbers.insert(number);
        if reason.contains(Reason::ContentMissing.name())
            && let Some(digest) = entry.brings()
        {
            let there = self.incomplete.entry(entry.repository.clone()).or_default();
            there.entry(digest.clone()).or_default().insert(number);
        }
        match entry.change {
            OutboxChange::Tag { tag, .. } => {
                self.tags.entry(entry.repository).or_default().insert(tag, number);
            }
            OutboxChange::ManifestAdded { digest } => {
                let added = self.added.entry(entry.repository).or_default();
                added.entry(digest).or_default().insert(number);
            }
            OutboxChange::ManifestDeleted { .. } => {}
        }
    }
}

impl Store {
    /// The oldest change of a repository that can be delivered. It lets others run after each page.
    pub async fn outbox_first(
        &self,
        repository: &RepositoryName,
        refused: &Refused,
    ) -> Result<Option<(u64, OutboxEntry)>, StoreError> {
        let mut after = 0;
        loop {
            let page = self.outbox_after(after, PAGE_MAX)?;
            let Some((last, _)) = page.last() else {
                return Ok(None);
            };
            after = *last;
            let mut entries = page.into_iter();
            let first = entries.find(|(number, entry)| {
                entry.repository == *repository && !refused.holds_up(*number, entry)
            });
            if first.is_some() {
                return Ok(first);
            }
            spawn::yield_now().await;
        }
    }

    /// What the parent has refused and not taken since, oldest first, at most `limit`.
    pub fn refused_changes(&self, limit: usize) -> Result<Vec<(u64, RefusedChange)>, StoreError> {
        self.refused_changes_after(0, limit)
    }

    /// The same behind a number.
    pub(in crate::store) fn refused_changes_after(
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
                refused.add(number, refusal);
            }
            spawn::yield_now().await;
        }
    }

    /// The refusal of this change, if it stands.
    pub fn outbox_refusal(&self, number: u64) -> Result<Option<RefusedChange>, StoreError> {
        let refusal = self.get::<RefusedChange>(&refused_key(number))?;
        Ok(refusal.filter(RefusedChange::stands))
    }

    /// Whether the parent has refused this change, and not taken it since.
    pub fn outbox_was_refused(&self, number: u64) -> Result<bool, StoreError> {
        Ok(self.get::<RefusedChange>(&refused_key(number))?.is_some())
    }

    /// Whether the removal of a manifest is on its way to the parent, which has not refused it.
    pub fn outbox_deletes(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let start = waiting_about(repository, About::Deleted(digest));
        let waiting = self.look_up(|index| Txn::new(index).page::<Count>(&start, REMOVALS_MAX))?;
        for (key, _) in waiting {
            if !self.outbox_was_refused(waiting_number(&key)?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes that the parent refuses a change.
    pub async fn outbox_refused(&self, number: u64, reason: String) -> Result<(), StoreError> {
        let now = self.sys().clock.wall_or_floor();
        self.commit(move |txn| {
            // A client has pushed it again while it was under way: that change is tried by itself.
            let Some(entry) = txn.get::<OutboxEntry>(&entry_key(number))? else { return Ok(()) };
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
            self.outbox_renew(due.map(|(number, _)| number).collect()).await?;
            spawn::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::testing::connected;
    use super::*;
    use crate::store::Precondition;
    use crate::store::registry::manifests::testing::{digest, push, put};
    use crate::store::replica::outbox::Origin;
    use crate::sys::turn::testing::measure;
    use crate::types::{UnixSeconds, media};

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
            assert_eq!(after, [before[2].clone(), (last + 2, "v1".to_owned(), 0, 2)]);
            let renewed = |number| store.outbox_entry(number).unwrap().unwrap();
            let added = OutboxChange::ManifestAdded { digest: digest(1) };
            assert_eq!(renewed(last + 1).change, added, "what v1 named before");
            assert_eq!(renewed(last + 2).unheard, [Some(digest(1))]);
            let refusals = store.refused_changes(10).unwrap();
            assert_eq!(
                (refusals.len(), refusals[0].0, refusals[0].1.stands()),
                (1, last + 1, false)
            );
            assert!(store.refused().await.unwrap().numbers.is_empty());
            store.outbox_refused(last + 1, "still".to_owned()).await.unwrap();
            assert_eq!(store.refused_changes(1).unwrap()[0].1.at, refusals[0].1.at);
            store.outbox_delivered(last + 1, 0).await.unwrap();
            assert_eq!(store.refused_changes(10).unwrap(), []);
            store.outbox_renumber(last + 2).await.unwrap();
            assert_eq!(waiting(&store).last(), Some(&(last + 3, "v1".to_owned(), 0, 2)));
            // What the parent is known to have by our doing is not remembered.
            store.outbox_begins(last + 3, Some(digest(1))).await.unwrap();
            assert_eq!(waiting(&store).last(), Some(&(last + 3, "v1".to_owned(), 1, 2)));
            assert_eq!(store.outbox_entry(last + 3).unwrap().unwrap().unheard, []);
        });
    }

    /// Symptom: with thousands of refusals each delivery read as many manifests in one turn.
    #[test]
    fn f204_f209_what_a_delivered_manifest_completes_is_found_by_its_name() {
        smol::block_on(async {
            let (store, app) = (connected().await, "app".parse().unwrap());
            for number in [1, 2] {
                push(&store, "app", number, &[]).await;
            }
            let index = |children: &[u8]| {
                let entries: Vec<String> = children
                    .iter()
                    .map(|child| {
                        let (kind, digest) = (media::OCI_MANIFEST, digest(*child));
                        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":9}}"#)
                    })
                    .collect();
                format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
            };
            for (number, children) in [(10, &[1][..]), (11, &[2]), (12, &[1, 2])] {
                let manifest = put(number, media::OCI_INDEX, &index(children), &[]);
                store.put_manifest(&app, manifest).await.unwrap();
            }
            let waiting = store.outbox(9).unwrap();
            let mut refused = Refused::default();
            for (number, entry) in &waiting[2..] {
                let reason = format!("{}: not there", Reason::ContentMissing.name());
                store.outbox_refused(*number, reason).await.unwrap();
                refused.add(*number, store.outbox_refusal(*number).unwrap().unwrap());
                assert!(refused.holds_up(*number, entry));
            }
            let numbers: Vec<u64> = waiting.iter().map(|(number, _)| *number).collect();
            let brought = &waiting[0].1;
            let (completed, longest) = measure(refused.completed_by(brought, &store)).await;
            assert_eq!(completed, [numbers[2], numbers[4]]);
            assert_eq!(longest.turn.rows, 0, "it reads on the pool");
            assert!(!refused.holds_up(numbers[2], &waiting[2].1));
            assert_eq!(refused.completed_by(brought, &store).await, [0; 0]);
            let second = &waiting[1].1;
            assert_eq!(refused.completed_by(second, &store).await, [numbers[3]]);
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
            assert_eq!(tags, [tag("v2", 0, 2), tag("v1", 0, 3)]);
            let others = store.outbox(9).unwrap().into_iter().map(|(_, entry)| entry.change);
            let others: Vec<_> =
                others.filter(|change| !matches!(change, OutboxChange::Tag { .. })).collect();
            // The deletion is void.
            let added = |number| OutboxChange::ManifestAdded { digest: digest(number) };
            assert_eq!(others, [added(1), added(2)]);
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
                    if store.outbox_refusal(number).unwrap().is_none() {
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
    fn f204_a_refused_change_does_not_hold_its_tag_up() {
        smol::block_on(async {
            let store = connected().await;
            let app = "app".parse().unwrap();
            let remove = async |tag: &str| {
                let tag = tag.parse().unwrap();
                let any = Precondition::None;
                store.delete_tag(&app, &tag, any, &Origin::Client).await.unwrap();
            };
            let tags = |store: &Store| -> Vec<_> {
                waiting(store).into_iter().map(|(_, t, b, d)| (t, b, d)).collect()
            };
            let tag = |name: &str, base, digest| (name.to_owned(), base, digest);
            let added = |store: &Store| -> Vec<Digest> {
                let entries = store.outbox(99).unwrap().into_iter().map(|(_, entry)| entry.change);
                let added = |change| match change {
                    OutboxChange::ManifestAdded { digest } => Some(digest),
                    _ => None,
                };
                entries.filter_map(added).collect()
            };
            let overtake = async |expected: &[usize]| {
                let mut refused = store.refused().await.unwrap();
                let mut found = Vec::new();
                for (number, entry) in store.outbox(99).unwrap() {
                    found.push(0);
                    while let Some(overtaken) = refused.overtaken_by(number, &entry) {
                        *found.last_mut().unwrap() += 1;
                        assert!(!refused.holds_up(overtaken, &entry) && overtaken < number);
                        store.outbox_renew(vec![overtaken]).await.unwrap();
                    }
                }
                assert_eq!(found, expected);
            };
            push(&store, "app", 1, &["v2", "v3"]).await;
            for (number, _) in store.outbox(9).unwrap() {
                store.outbox_delivered(number, 0).await.unwrap();
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
            // The second of v2 has the first with it.
            overtake(&[0, 0, 0, 1, 1, 0, 1]).await;
            let ends = [tag("v1", 0, 0), tag("v2", 1, 3), tag("v3", 1, 1)];
            assert_eq!(tags(&store), ends);
            // What they named between can be pulled by its digest.
            assert_eq!(added(&store), [digest(2)]);
            for (_, entry) in store.outbox(9).unwrap() {
                let is_tag = matches!(entry.change, OutboxChange::Tag { .. });
                assert_eq!(entry.unheard.contains(&Some(digest(2))), is_tag, "{entry}");
            }
            let refused = store.refused_changes(9).unwrap();
            assert!(refused.iter().all(|(_, change)| change.entry.brings() == Some(&digest(2))));
            assert_eq!(refused.len(), 1);
            // Who deletes the manifest gives it up: its removal stands for what was refused.
            for (number, _) in refused {
                store.outbox_refused(number, "no".to_owned()).await.unwrap();
            }
            store.delete_manifest(&app, &digest(2), &Origin::Client).await.unwrap();
            overtake(&[0; 4]).await;
            assert_eq!(added(&store), []);
            assert_eq!(store.refused_changes(9).unwrap(), []);
        });
    }

    #[test]
    fn f209_a_removal_that_is_void_notes_very_many_tags_in_more_than_one_record() {
        smol::block_on(async {
            let store = connected().await;
            let app = "app".parse().unwrap();
            push(&store, "app", 1, &[]).await;
            store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
            let (removal, _) = store.outbox(9).unwrap().pop().unwrap();
            store.outbox_refused(removal, "no".to_owned()).await.unwrap();
            for tag in 0..600 {
                let tag = format!("v{tag}");
                push(&store, "app", 1, &[&tag]).await;
                push(&store, "app", 2, &[&tag]).await;
            }
            for (number, entry) in store.outbox(9999).unwrap() {
                if entry.brings() == Some(&digest(1)) {
                    store.outbox_delivered(number, 0).await.unwrap();
                }
            }
            let before = store.head().sequence;
            store.outbox_retry(0).await.unwrap();
            assert_eq!(store.head().sequence - before, 3, "256 tags each");
            let waiting = store.outbox(9999).unwrap();
            assert_eq!(waiting.len(), 600);
            assert!(waiting.iter().all(|(_, entry)| entry.unheard == [None]));
        });
    }

    #[test]
    fn f204_one_refused_manifest_waits_once() {
        smol::block_on(async {
            let store = connected().await;
            push(&store, "app", 1, &[]).await;
            for number in [2, 3, 2, 3] {
                push(&store, "app", number, &["v1"]).await;
                for (number, _) in store.outbox(99).unwrap() {
                    store.outbox_refused(number, "no".to_owned()).await.unwrap();
                }
                store.outbox_retry(0).await.unwrap();
            }
            let mut added = Vec::new();
            for (_, entry) in store.outbox(99).unwrap() {
                match entry.change {
                    OutboxChange::ManifestAdded { digest } => added.push(digest),
                    change => assert!(matches!(change, OutboxChange::Tag { .. }), "{change:?}"),
                }
            }
            added.sort_unstable();
            assert_eq!(added, [digest(1), digest(2), digest(3)]);
        });
    }

    #[test]
    fn f204_what_early_builds_took_out_of_the_outbox_goes_up_if_it_is_still_here() {
        smol::block_on(async {
            let store = connected().await;
            push(&store, "app", 1, &["v1", "v2"]).await;
            let (app, v2) = ("app".parse().unwrap(), "v2".parse().unwrap());
            for (number, entry) in store.outbox(9).unwrap() {
                store.outbox_delivered(number, 0).await.unwrap();
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

//! Deleting a manifest with the tags that name it: however many they are, a bounded number at a
//! time. By the parent's word it stays where something names or needs it that the parent has lost.
//!
//! A few tags go in the record that removes the manifest; of many, the first record also names the
//! deletion for the parent, so that it is carried through everywhere if this node stops in the
//! middle.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::{Event, EventListener};

use super::{repositories, tags};
use crate::store::index::Change;
use crate::store::replica::delivered::{self, Effect};
use crate::store::replica::outbox::{self, Origin, OutboxChange, OutboxEntry};
use crate::store::replica::waiting;
use crate::store::replica::{heard, offers};
use crate::store::rows::derived::{About, Count, named_in, needed_key};
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::name_at;
use crate::store::rows::referrer::referrer_key;
use crate::store::rows::tag::TagRow;
use crate::store::rows::{self, Kind, prefix};
use crate::store::{Shared, Store, StoreError, Txn};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName, Tag};

/// Tags that one record removes.
const PAGE: usize = 1000;
/// How often the manifests of a repository are gone through to delete all: what an index needs can
/// go when that has. Indexes that are nested deeper leave something.
const PASSES_MAX: usize = 16;
/// Tags whose removal the parent is told one by one, before that of their manifest, so that each of
/// them has all its changes in order. More go there without a word, with the manifest: they stay
/// there if the parent refuses the deletion and the manifest is pushed again before it is retried.
const TAGS_TOLD_MAX: usize = 64;
/// Records of one deletion. Over it, because tags are set as fast as they go: `Unavailable`.
const RECORDS_MAX: usize = 10_000;
/// Deletions of manifests that are remembered. Over it: what was asked for before the last one that
/// is forgotten counts as deleted since, and is asked for again.
const DELETIONS_MAX: usize = 16_384;

/// Manifests that are being deleted, and whether a tag was made to name one since; which were
/// deleted lately, and how much was deleted so far.
#[derive(Default)]
pub(in crate::store) struct Removals {
    table: Mutex<Table>,
    /// Manifests, and links to blobs, that were deleted since the start.
    made: AtomicU64,
    /// Links to blobs that were made since the start.
    links: AtomicU64,
    more: Event,
}

#[derive(Default)]
struct Table {
    next: u64,
    watched: BTreeMap<u64, Watched>,
    deletions: Deletions,
}

/// The manifests that were deleted lately, or that the parent was said to have deleted, in order.
#[derive(Default)]
struct Deletions {
    /// How many there were since the start.
    made: u64,
    /// Hashes of the keys of the last ones: two that share one only cost a question.
    lately: VecDeque<u64>,
}

impl Deletions {
    fn note(&mut self, key: &[u8]) {
        self.made += 1;
        if self.lately.len() >= DELETIONS_MAX {
            self.lately.pop_front();
        }
        self.lately.push_back(hash(key));
    }

    /// Whether this one was deleted after the first `since`.
    fn has_since(&self, since: u64, key: &[u8]) -> bool {
        let more = usize::try_from(self.made.saturating_sub(since)).unwrap_or(usize::MAX);
        let hash = hash(key);
        more > self.lately.len() || self.lately.iter().rev().take(more).any(|old| *old == hash)
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

struct Watched {
    repository: RepositoryName,
    digest: Digest,
    /// A tag was made to name it.
    tagged: bool,
    /// It came again, or something that needs it.
    brought: bool,
}

impl Removals {
    /// Notices what a command that is about to be acknowledged sets and deletes.
    pub(in crate::store) fn note(&self, changes: &[Change]) {
        let content = [Kind::Manifest as u8, Kind::Blob as u8];
        let is_removal = |(key, row): &&Change| {
            row.is_none() && key.first().is_some_and(|kind| content.contains(kind))
        };
        let removals = changes.iter().filter(is_removal).count() as u64;
        if removals > 0 {
            self.made.fetch_add(removals, Ordering::Relaxed);
            self.more.notify(usize::MAX);
        }
        let is_link =
            |(key, row): &&Change| row.is_some() && key.first() == Some(&(Kind::Blob as u8));
        let links = changes.iter().filter(is_link).count() as u64;
        self.links.fetch_add(links, Ordering::Relaxed);
        let mut table = self.table();
        for (key, row) in changes {
            let Some(kind) = key.first() else { continue };
            let Some(row) = row else {
                if *kind == Kind::Manifest as u8 {
                    table.deletions.note(key);
                }
                continue;
            };
            for watched in table.watched.values_mut() {
                watched.note(*kind, key, row);
            }
        }
    }

    /// Whether a manifest with this key was deleted after the first `since` deletions. To be asked
    /// by commands.
    pub(in crate::store) fn has_deleted_since(&self, since: u64, key: &[u8]) -> bool {
        self.table().deletions.has_since(since, key)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn note(&mut self, kind: u8, key: &[u8], row: &[u8]) {
        let is_in = |kind| key.starts_with(&prefix(kind, &[self.repository.as_str().as_bytes()]));
        if kind == Kind::Tag as u8 && is_in(Kind::Tag) {
            let tag = rows::decode::<TagRow>(row);
            self.tagged |= tag.is_ok_and(|tag| tag.digest == self.digest);
        } else if kind == Kind::Manifest as u8 && is_in(Kind::Manifest) {
            let manifest = rows::decode::<ManifestRow>(row);
            let needs = |row: ManifestRow| row.named_manifests().any(|named| *named == self.digest);
            self.brought |=
                key == manifest_key(&self.repository, &self.digest) || manifest.is_ok_and(needs);
        } else if kind == Kind::Outbox as u8 {
            let entry = rows::decode::<OutboxEntry>(row);
            self.brought |= entry.is_ok_and(|entry| {
                entry.repository == self.repository && entry.brings() == Some(&self.digest)
            });
        }
    }
}

/// Watches one manifest until it is dropped.
pub struct Watch {
    shared: Arc<Shared>,
    id: u64,
    repository: RepositoryName,
    digest: Digest,
}

impl Watch {
    fn begin(shared: &Arc<Shared>, repository: &RepositoryName, digest: &Digest) -> Watch {
        let (repository, digest) = (repository.clone(), digest.clone());
        let watched = Watched {
            repository: repository.clone(),
            digest: digest.clone(),
            tagged: false,
            brought: false,
        };
        let mut table = shared.removals.table();
        let id = table.next;
        table.next += 1;
        table.watched.insert(id, watched);
        Watch { shared: shared.clone(), id, repository, digest }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.removals.table().watched.remove(&self.id);
    }
}

/// Whether a tag was set since this was last asked. To be asked by commands.
fn take_tagged(shared: &Shared, id: u64) -> bool {
    let mut table = shared.removals.table();
    table.watched.get_mut(&id).is_some_and(|watched| std::mem::take(&mut watched.tagged))
}

/// Whether the manifest came again since it is watched, or something that needs it.
fn was_brought(shared: &Shared, id: u64) -> bool {
    shared.removals.table().watched.get(&id).is_some_and(|watched| watched.brought)
}

/// What has become of a manifest that is being deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// It is still there. See [`Removal::kept`].
    There(Option<Vec<u8>>),
    /// It is gone, or the delivery has taken effect before.
    Done,
    /// It stays, because another manifest needs it.
    Needed,
    /// It stays, because what names it here is kept though the parent lacks that.
    Kept,
}

type Outcome = Result<Step, StoreError>;

/// One deletion.
struct Removal<'a> {
    store: &'a Store,
    origin: &'a Origin,
    watch: Watch,
    /// Whether the parent will hear of it.
    announced: bool,
    /// Whether it stays if another manifest needs it.
    spares_needed: bool,
    /// The last tag that was looked at, by its key, where some of them stay, and the manifest with
    /// them.
    kept: Option<Vec<u8>>,
}

impl Store {
    /// How many manifests and links to blobs were deleted since the start, also by garbage
    /// collection.
    pub fn removals(&self) -> u64 {
        self.shared().removals.made.load(Ordering::Relaxed)
    }

    /// How many links to blobs were made since the start: a push that was given up leaves them.
    pub fn links_made(&self) -> u64 {
        self.shared().removals.links.load(Ordering::Relaxed)
    }

    /// How many manifests were deleted here, or by the parent's word, since the start: what is
    /// asked for from now on is not brought by [`Store::put_fetched`] when it is deleted meanwhile.
    pub fn deletions(&self) -> u64 {
        self.shared().removals.table().deletions.made
    }

    /// Hears when there are more removals from now on.
    pub fn removals_made(&self) -> EventListener {
        self.shared().removals.more.listen()
    }

    /// Deletes a manifest with the tags that name it, many of them in several records. `NotFound`
    /// when there is none; a child's delivery that finds it gone has what it wants here, and goes
    /// on to the parent.
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        origin: &Origin,
    ) -> Result<(), StoreError> {
        self.delete_watched(self.watch_manifest(repository, digest), origin).await
    }

    /// Deletes the manifests of a repository with their tags; how many these were. What is pushed
    /// meanwhile may stay, with what it needs. `Unavailable` when the node is about to stop.
    pub async fn delete_all(
        &self,
        repository: &RepositoryName,
        origin: &Origin,
    ) -> Result<u64, StoreError> {
        let mut deleted = 0;
        for _ in 0..PASSES_MAX {
            let (gone, needed) = self.delete_unneeded(repository, origin).await?;
            deleted += gone;
            if gone == 0 || needed == 0 {
                break;
            }
        }
        Ok(deleted)
    }

    /// Deletes those manifests of a repository that no other one needs; how many these were, and
    /// how many stay.
    async fn delete_unneeded(
        &self,
        repository: &RepositoryName,
        origin: &Origin,
    ) -> Result<(u64, u64), StoreError> {
        let (mut after, mut gone, mut needed) = (None, 0, 0);
        loop {
            let (store, name, from) = (self.clone(), repository.clone(), after.take());
            let page = move || store.manifests_behind(&name, from.as_ref(), PAGE);
            let page = spawn::blocking(page).await?;
            let Some(last) = page.last().cloned() else { return Ok((gone, needed)) };
            after = Some(last);
            for digest in &page {
                if self.stopping() {
                    return Err(StoreError::Unavailable);
                }
                let watch = self.watch_manifest(repository, digest);
                let removal = Removal::new(self, origin, watch);
                match (Removal { spares_needed: true, ..removal }).run().await {
                    Ok(Step::Needed | Step::Kept) => needed += 1,
                    Ok(_) => gone += 1,
                    Err(StoreError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Watches a manifest from before the parent is asked whether it has it.
    pub fn watch_manifest(&self, repository: &RepositoryName, digest: &Digest) -> Watch {
        Watch::begin(self.shared(), repository, digest)
    }

    /// Deletes a manifest that is watched. `Conflict` when the parent is said to have deleted it,
    /// and it came again since, or something that needs it: the parent may have that by now.
    pub async fn delete_watched(&self, watch: Watch, origin: &Origin) -> Result<(), StoreError> {
        if *origin == Origin::Parent {
            // It may be on its way here.
            let key = manifest_key(&watch.repository, &watch.digest);
            self.shared().removals.table().deletions.note(&key);
        }
        let digest = watch.digest.clone();
        match Removal::new(self, origin, watch).run().await? {
            Step::Kept => {
                let text = format!("what names manifest {digest} here is kept for the parent");
                Err(StoreError::Conflict(text))
            }
            _ => Ok(()),
        }
    }
}

impl<'a> Removal<'a> {
    fn new(store: &'a Store, origin: &'a Origin, watch: Watch) -> Removal<'a> {
        Removal { store, origin, watch, announced: false, spares_needed: false, kept: None }
    }

    /// Removes the manifest with all its tags.
    async fn run(mut self) -> Outcome {
        for _ in 0..RECORDS_MAX {
            match self.step().await? {
                Step::There(kept) => self.kept = kept,
                Step::Done => {
                    let Watch { repository, digest, .. } = &self.watch;
                    self.store.give_back(repository, digest).await;
                    return Ok(Step::Done);
                }
                stays => return Ok(stays),
            }
        }
        Err(StoreError::Unavailable)
    }

    /// Removes some of many tags, or the last ones and the manifest.
    async fn step(&mut self) -> Result<Step, StoreError> {
        let (shared, id, before) = (self.watch.shared.clone(), self.watch.id, self.announced);
        let (spares_needed, kept) = (self.spares_needed, self.kept.take());
        let step = self.command(move |txn, repository, digest, origin| {
            // A tag that was set since may have gone up, and have brought it back there.
            let was_tagged = take_tagged(&shared, id);
            let announced = before && !was_tagged;
            if delivered::is_replay(txn, origin, repository, &gone(digest))? {
                return Ok(Step::Done);
            }
            if txn.get::<ManifestRow>(&manifest_key(repository, digest))?.is_none() {
                return is_gone(txn, repository, digest, origin, before);
            }
            // What was announced is carried through.
            if spares_needed && !before && txn.has(&needed_key(repository, digest))? {
                return Ok(Step::Needed);
            }
            // An index that is kept goes up with what it needs.
            if *origin == Origin::Parent
                && txn.has(&needed_key(repository, digest))?
                && offers::withholds(txn, repository)?
            {
                return Ok(Step::Kept);
            }
            let start = named_in(repository, digest);
            let mut named = txn.page_after::<Count>(&start, kept.as_deref(), PAGE + 1)?;
            let is_last = named.len() <= PAGE;
            named.truncate(PAGE);
            let last = named.last().map(|(key, _)| key.clone());
            let tags: Vec<Tag> =
                named.iter().map(|(key, _)| name_at(key, start.len())).collect::<Result<_, _>>()?;
            if is_last {
                delivered::record(txn, origin, repository)?;
            }
            if !announced {
                if is_last {
                    tell_tags(txn, repository, digest, origin, &tags)?;
                }
                announce(txn, repository, digest, origin)?;
            }
            let mut stays = kept.is_some();
            for tag in &tags {
                // The parent has lost this tag, which is yet to be offered with its manifest.
                if *origin == Origin::Parent && offers::is_tag_withheld(txn, repository, tag)? {
                    stays = true;
                } else {
                    tags::remove(txn, repository, tag)?;
                }
            }
            if !is_last {
                return Ok(Step::There(last.filter(|_| stays)));
            }
            if stays {
                return Ok(Step::Kept);
            }
            remove_untagged(txn, repository, digest)?;
            Ok(Step::Done)
        });
        let step = step.await?;
        self.announced = true;
        Ok(step)
    }

    async fn command<F>(&self, run: F) -> Result<Step, StoreError>
    where
        F: FnOnce(&mut Txn<'_>, &RepositoryName, &Digest, &Origin) -> Outcome + Send + 'static,
    {
        let (repository, digest) = (self.watch.repository.clone(), self.watch.digest.clone());
        let (shared, id, origin) = (self.watch.shared.clone(), self.watch.id, self.origin.clone());
        self.store
            .commit(move |txn| {
                if origin == Origin::Parent
                    && (was_brought(&shared, id) || waiting::brings(txn, &repository, &digest)?)
                {
                    let text =
                        format!("manifest {digest} was pushed here, or something that needs it");
                    return Err(StoreError::Conflict(text));
                }
                let step = run(txn, &repository, &digest, &origin)?;
                if origin == Origin::Parent {
                    heard::note_taken(txn)?;
                }
                Ok(step)
            })
            .await
    }
}

/// What a delivery of this deletion wants to be so.
fn gone(digest: &Digest) -> Effect {
    Effect::Manifest(digest.clone(), false)
}

/// What becomes of the deletion of a manifest that is not here.
fn is_gone(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    origin: &Origin,
    announced: bool,
) -> Result<Step, StoreError> {
    match origin {
        // The parent may have what this node has not got yet. A child's change goes on under its
        // own name.
        Origin::Child(_) => {
            delivered::record_only(txn, origin, repository)?;
            if !announced {
                announce(txn, repository, digest, origin)?;
            }
        }
        Origin::Client | Origin::Parent if !announced => return Err(StoreError::NotFound),
        // Somebody else deleted it since the first record.
        Origin::Client | Origin::Parent => {}
    }
    Ok(Step::Done)
}

/// Lets the parent hear of a few tags that go with their manifest.
fn tell_tags(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    origin: &Origin,
    tags: &[Tag],
) -> Result<(), StoreError> {
    if *origin == Origin::Parent || tags.len() > TAGS_TOLD_MAX {
        return Ok(());
    }
    for tag in tags {
        // A child tells of its tags itself: under another name the parent would take that for new,
        // also where the child's disk was set back. What a change from here waits for goes on.
        let is_told = matches!(origin, Origin::Child(_));
        if is_told && !waiting::waits(txn, repository, About::Tag(tag))? {
            continue;
        }
        let (tag, base) = (tag.clone(), Some(digest.clone()));
        let change = OutboxChange::Tag { tag, base, digest: None };
        outbox::enqueue(txn, &Origin::Client, repository, change)?;
    }
    Ok(())
}

/// Lets the parent hear of it. It drops the tags that name the manifest there, as we do here.
fn announce(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    origin: &Origin,
) -> Result<(), StoreError> {
    let change = OutboxChange::ManifestDeleted { digest: digest.clone() };
    outbox::enqueue(txn, origin, repository, change)
}

/// Removes a manifest that no tag names; `false` when there is none.
pub(in crate::store) fn remove_untagged(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<bool, StoreError> {
    let key = manifest_key(repository, digest);
    let Some(row) = txn.get::<ManifestRow>(&key)? else { return Ok(false) };
    if let Some(subject) = &row.subject {
        txn.delete(referrer_key(repository, subject, digest))?;
    }
    tags::forget_untagged(txn, repository, digest)?;
    offers::is_at_parent(txn, repository, None, digest)?;
    txn.delete(key)?;
    repositories::release(txn, repository, row.size)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::manifests::testing::*;
    use super::*;
    use crate::store::replica::node::testing::connected;
    use crate::store::replica::offers::Withheld;
    use crate::store::{Asked, Precondition, PutManifest, PutOutcome, Wanted};
    use crate::types::{Cursor, media};

    fn app() -> RepositoryName {
        "app".parse().unwrap()
    }

    /// A device with two manifests that take turns in so many tags.
    async fn device(tags: usize) -> Store {
        let store = connected().await;
        for number in [1, 2] {
            push(&store, "app", number, &[]).await;
        }
        for number in 0..tags {
            let named = if number % 2 == 0 { 1 } else { 2 };
            set(&store, &format!("t{number}"), named, &Origin::Parent).await.unwrap();
        }
        store
    }

    async fn set(store: &Store, tag: &str, named: u8, origin: &Origin) -> Result<(), StoreError> {
        let (tag, any): (Tag, _) = (tag.parse().unwrap(), Precondition::None);
        store.set_tag(&app(), &tag, &digest(named), any, origin).await
    }

    fn tags(store: &Store, named: u8) -> usize {
        let tags = store.tags(&app(), None, usize::MAX).unwrap();
        tags.iter().filter(|(_, row)| row.digest == digest(named)).count()
    }

    async fn records(store: &Store, after: u64) -> Vec<Vec<Change>> {
        let cursor = Cursor { sequence: after, ..store.head() };
        let records = store.records_after(cursor, usize::MAX).await.unwrap().records;
        records.into_iter().map(|(_, changes)| changes).collect()
    }

    /// Symptom: a deletion that a ReadWrite device had acknowledged and delivered was undone there
    /// by a transfer of the same image that had begun before, until the parent was in reach again.
    #[test]
    fn f204_what_was_deleted_since_it_was_asked_for_is_not_put() {
        smol::block_on(async {
            let (store, app) = (device(0).await, app());
            let fetched = async |number: u8, since, wanted| {
                let put = PutManifest { origin: Origin::Parent, ..image(number, &[]) };
                store.put_fetched(&app, put, Asked { since, wanted }).await
            };
            let before = store.deletions();
            store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
            let deleted = Err(StoreError::NotFound);
            assert_eq!(fetched(1, before, Wanted::Needed).await, deleted);
            assert_eq!(fetched(3, before, Wanted::Needed).await, Ok(PutOutcome::Stored));
            let after = store.deletions();
            assert_eq!(fetched(1, after, Wanted::Needed).await, Ok(PutOutcome::Stored));
            // What is here came again.
            assert_eq!(fetched(1, before, Wanted::Needed).await, Ok(PutOutcome::Stored));
            // The parent's word counts before the content is here.
            let gone = store.delete_manifest(&app, &digest(4), &Origin::Parent).await;
            assert_eq!(gone, Err(StoreError::NotFound));
            assert_eq!(fetched(4, after, Wanted::Needed).await, deleted);
            // Nothing names it.
            let unnamed = fetched(4, store.deletions(), Wanted::Named).await;
            assert!(matches!(unnamed, Err(StoreError::Conflict(_))), "{unnamed:?}");
            // What is not remembered counts as deleted.
            let before = store.deletions();
            for _ in 0..=DELETIONS_MAX {
                let _ = store.delete_manifest(&app, &digest(5), &Origin::Parent).await;
            }
            assert_eq!(fetched(6, before, Wanted::Needed).await, deleted);
            let now = store.deletions();
            assert_eq!(fetched(6, now, Wanted::Needed).await, Ok(PutOutcome::Stored));
        });
    }

    /// It came beside the deletion: the parent may have it again.
    #[test]
    fn f204_what_comes_while_its_deletion_is_watched_is_not_deleted_by_the_parents_word() {
        smol::block_on(async {
            let (store, app) = (device(0).await, app());
            store.delete_manifest(&app, &digest(1), &Origin::Client).await.unwrap();
            // Nothing of it waits, which would hold the parent's word up too.
            for (number, _) in store.outbox(9).unwrap() {
                store.outbox_delivered(number, 0).await.unwrap();
            }
            let watch = store.watch_manifest(&app, &digest(1));
            let put = PutManifest { origin: Origin::Parent, ..image(1, &[]) };
            assert_eq!(store.put_manifest(&app, put).await, Ok(PutOutcome::Stored));
            let deleted = store.delete_watched(watch, &Origin::Parent).await;
            assert!(matches!(deleted, Err(StoreError::Conflict(_))), "{deleted:?}");
            assert!(store.manifest(&app, &digest(1)).unwrap().is_some());
        });
    }

    #[test]
    fn f209_many_tags_go_with_their_manifest_in_bounded_records() {
        smol::block_on(async {
            for (count, several) in [(20, false), (5 * PAGE, true)] {
                let store = device(count).await;
                let before = store.sequence();
                store.delete_manifest(&app(), &digest(1), &Origin::Client).await.unwrap();
                assert_eq!((tags(&store, 1), tags(&store, 2)), (0, count / 2));
                assert_eq!(store.manifest(&app(), &digest(1)).unwrap(), None);
                let records = records(&store, before).await;
                assert_eq!(records.len() > 1, several, "{} records", records.len());
                assert!(records.iter().all(|changes| changes.len() < 2 * PAGE + 20));
                // The parent hears of it with the first tag that goes, and once; of a few tags too.
                let outbox = |changes: &[Change]| {
                    let entry = |key: &[u8]| key.first() == Some(&(Kind::Outbox as u8));
                    changes.iter().filter(|(key, _)| entry(key)).count()
                };
                let told = if several { 1 } else { count / 2 + 1 };
                assert_eq!(outbox(&records[0]), told);
                assert_eq!(records.iter().map(|changes| outbox(changes)).sum::<usize>(), told);
                let gone = store.delete_manifest(&app(), &digest(1), &Origin::Client).await;
                assert_eq!(gone, Err(StoreError::NotFound));
            }
        });
    }

    /// An index that is pushed while a repository is deleted keeps what it needs.
    #[test]
    fn f206_what_a_manifest_needs_goes_after_it_and_not_before() {
        smol::block_on(async {
            let (store, app) = (device(20).await, app());
            let text = |named: u8| {
                let (kind, digest) = (media::OCI_MANIFEST, digest(named));
                format!(
                    r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[
                        {{"mediaType":"{kind}","digest":"{digest}","size":1}}]}}"#,
                    media::OCI_INDEX
                )
            };
            // Each is behind what it names in the order of the digests.
            for (number, named, tags) in [(3, 1, &[][..]), (4, 3, &["index"])] {
                let index = put(number, media::OCI_INDEX, &text(named), tags);
                assert_eq!(store.put_manifest(&app, index).await, Ok(PutOutcome::Stored));
            }
            let origin = Origin::Client;
            assert_eq!(store.delete_unneeded(&app, &origin).await, Ok((2, 2)), "4 and 2");
            let index = put(4, media::OCI_INDEX, &text(3), &["again"]);
            assert_eq!(store.put_manifest(&app, index).await, Ok(PutOutcome::Stored));
            let watch = store.watch_manifest(&app, &digest(1));
            let removal = Removal::new(&store, &origin, watch);
            let spared = Removal { spares_needed: true, ..removal };
            assert_eq!(spared.run().await, Ok(Step::Needed));
            assert!([1, 3, 4].iter().all(|n| store.manifest(&app, &digest(*n)).unwrap().is_some()));
            assert_eq!(store.delete_all(&app, &origin).await, Ok(3));
            assert!(!store.holds_manifests(&app).unwrap());
            assert_eq!(store.delete_all(&app, &origin).await, Ok(0));
        });
    }

    #[test]
    fn a_tag_that_is_set_while_its_manifest_goes_goes_too() {
        smol::block_on(async {
            let store = device(2 * PAGE + 4).await;
            let (repository, first) = (app(), digest(1));
            let watch = store.watch_manifest(&repository, &first);
            let origin = &Origin::Client;
            let mut removal = Removal::new(&store, origin, watch);
            assert_eq!(removal.step().await, Ok(Step::There(None)));
            // Behind the two manifests.
            let told = store.outbox(9).unwrap().len();
            set(&store, "other", 2, &Origin::Client).await.unwrap();
            set(&store, "late", 1, &Origin::Client).await.unwrap();
            assert_eq!(removal.step().await, Ok(Step::Done));
            assert_eq!((tags(&store, 1), tags(&store, 2)), (0, PAGE + 3));
            let waiting: Vec<_> = store.outbox(99).unwrap().into_iter().map(|(_, e)| e).collect();
            let deletion = OutboxChange::ManifestDeleted { digest: first };
            assert_eq!((told, waiting[2].change == deletion), (3, true));
            assert!(waiting.last().unwrap().change == deletion, "the tag may have gone up between");
            let late = set(&store, "later", 1, &Origin::Client).await;
            assert_eq!(late, Err(StoreError::NotFound));
            drop(removal);
            assert!(store.shared().removals.table().watched.is_empty());
        });
    }

    /// Of the tags some are on the first page, and the last one of all.
    #[test]
    fn f201_tags_that_the_parent_has_lost_keep_their_manifest_and_no_other_tag() {
        smol::block_on(async {
            let (store, app) = (device(4 * PAGE).await, app());
            for (number, _) in store.outbox(9).unwrap() {
                store.outbox_delivered(number, 0).await.unwrap();
            }
            let kept: BTreeSet<Tag> = ["t0", "t10", "t998"].map(|tag| tag.parse().unwrap()).into();
            let withheld = Withheld { tags: kept.clone(), manifests: BTreeSet::new() };
            store.withhold(&app, &withheld).await.unwrap();
            let kept_on = store.delete_manifest(&app, &digest(1), &Origin::Parent).await;
            assert!(matches!(kept_on, Err(StoreError::Conflict(_))), "{kept_on:?}");
            let left = store.tags(&app, None, usize::MAX).unwrap().into_iter();
            let left = left.filter(|(_, row)| row.digest == digest(1)).map(|(tag, _)| tag);
            assert_eq!(left.collect::<BTreeSet<_>>(), kept);
            assert!(store.manifest(&app, &digest(1)).unwrap().is_some());
            store.release(&app).await.unwrap();
            let withheld = Withheld { manifests: [digest(1)].into(), ..Withheld::default() };
            store.withhold(&app, &withheld).await.unwrap();
            store.delete_manifest(&app, &digest(1), &Origin::Parent).await.unwrap();
            assert_eq!((tags(&store, 1), tags(&store, 2)), (0, 2 * PAGE));
            assert_eq!(store.manifest(&app, &digest(1)), Ok(None));
            assert!(!store.withholds(&app).unwrap());
        });
    }

    #[test]
    fn a_delivery_that_comes_again_deletes_nothing_new() {
        smol::block_on(async {
            let store = device(3 * PAGE).await;
            store.delete_manifest(&app(), &digest(1), &child(7)).await.unwrap();
            push(&store, "app", 1, &["again"]).await;
            let again = store.delete_manifest(&app(), &digest(1), &child(7)).await;
            assert!(matches!(again, Err(StoreError::OutboxMismatch(_))), "{again:?}");
            assert_eq!(tags(&store, 1), 1);
            store.delete_manifest(&app(), &digest(1), &child(8)).await.unwrap();
            assert_eq!(tags(&store, 1), 0);
        });
    }

    #[test]
    fn f033_f121_a_childs_removal_of_a_manifest_that_is_not_here_goes_up() {
        smol::block_on(async {
            let store = connected().await;
            for _answer_lost in [true, false] {
                store.delete_manifest(&app(), &digest(1), &child(7)).await.unwrap();
            }
            let waiting: Vec<_> = store.outbox(9).unwrap().into_iter().map(|(_, e)| e).collect();
            let Origin::Child(delivery) = child(7) else { unreachable!() };
            let change = OutboxChange::ManifestDeleted { digest: digest(1) };
            let found: Vec<_> = waiting.into_iter().map(|e| (e.id, e.change)).collect();
            assert_eq!(found, [(delivery.id, change)]);
        });
    }

    #[test]
    fn f033_f121_a_childs_removal_of_a_manifest_that_goes_meanwhile_goes_up() {
        smol::block_on(async {
            let store = device(2).await;
            let (repository, first) = (app(), digest(1));
            let watch = store.watch_manifest(&repository, &first);
            let origin = &child(7);
            let mut removal = Removal::new(&store, origin, watch);
            store.delete_manifest(&repository, &first, &Origin::Client).await.unwrap();
            assert_eq!(removal.step().await, Ok(Step::Done));
            let Origin::Child(delivery) = child(7) else { unreachable!() };
            let change = OutboxChange::ManifestDeleted { digest: first };
            let last = store.outbox(9).unwrap().pop().map(|(_, entry)| (entry.id, entry.change));
            assert_eq!(last, Some((delivery.id, change)));
        });
    }
}

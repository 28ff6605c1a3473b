//! What the engine is doing and what hinders it, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::contact::{Contact, Place};
use super::debts::{Debts, Item, Owed};
use super::desired::{MISSING, Missing};
use crate::store::replica::gone::Gone;
use crate::store::replica::node::SyncView;
use crate::store::{Shortage, Store, StoreError};
use crate::sys::Sys;
use crate::types::connected_registry::{DetailCode, ParentContact, StatusDetail};
use crate::types::text::mib;
use crate::types::{Cursor, RepositoryName, UnixSeconds};

/// Nodes below with a problem, and items that are missing, that a status report lists. Over it: the
/// rest is in the log, or on its debug level.
const PROBLEMS_MAX: usize = 20;

/// The problem that content does not fit.
pub(super) const SPACE: &str = "space";
/// The problem that the disk fails.
const DISK: &str = "disk";

/// Shared by the parts of the engine.
pub(super) struct State {
    sys: Sys,
    now: Mutex<Now>,
    contact: Mutex<Contact>,
    problems: Mutex<BTreeMap<String, StatusDetail>>,
    missing: Mutex<Missing>,
    debts: Mutex<Debts>,
    /// What the parent has told of that it deleted, and could not be followed yet.
    told: Mutex<Gone>,
    /// Up to where the parent's feed was heard for that.
    told_until: Mutex<Option<Cursor>>,
    /// Repositories of messages that are received and not applied yet.
    arriving: Mutex<BTreeSet<RepositoryName>>,
    /// Repositories that are not granted any more and have what the parent does not have.
    kept: Mutex<BTreeSet<RepositoryName>>,
    /// What the parent last took this node to mirror, if that was something else.
    projected: Mutex<Option<String>>,
    /// The latest of the listings of the full comparison that is under way.
    listed: Mutex<Option<Cursor>>,
    /// Something is missing, or not any more, since others were last shown.
    changed: AtomicBool,
}

/// What the engine is doing.
#[derive(Clone, Copy, Default)]
pub(super) struct Now {
    /// A full comparison is running.
    pub(super) syncing: bool,
    /// A poll waits at the parent.
    pub(super) polling: bool,
    /// Items in a row that the parent answered with a server error.
    pub(super) faults: u32,
    /// When the parent was last asked for the desired state, in this process.
    pub(super) looked: Option<UnixSeconds>,
    /// End of the last sync that succeeded, of this process.
    pub(super) last_sync: Option<UnixSeconds>,
}

impl State {
    pub(super) fn new(sys: &Sys) -> State {
        State {
            sys: sys.clone(),
            now: Mutex::default(),
            contact: Mutex::default(),
            problems: Mutex::default(),
            missing: Mutex::default(),
            debts: Mutex::default(),
            told: Mutex::default(),
            told_until: Mutex::default(),
            arriving: Mutex::default(),
            kept: Mutex::default(),
            projected: Mutex::default(),
            listed: Mutex::default(),
            changed: AtomicBool::new(false),
        }
    }

    pub(super) fn now(&self) -> Now {
        *lock(&self.now)
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Now)) {
        change(&mut lock(&self.now));
    }

    /// How it stands with the parent.
    pub(super) fn contact(&self) -> MutexGuard<'_, Contact> {
        lock(&self.contact)
    }

    /// Notes that the parent has let this node in: what failed at the door is over.
    pub(super) fn let_in(&self) {
        self.contact().let_in();
        self.solved(Place::Door.problem());
    }

    /// Notes that the messages are applied, and what was due is compared; what failed before is
    /// over when that lasts.
    pub(super) fn succeeded(&self) {
        self.set(|now| now.syncing = false);
        let time = self.sys.clock.monotonic();
        self.contact().succeeded(time);
        self.settle();
        if self.contact().is_well() {
            self.is_over();
        }
    }

    fn is_over(&self) {
        self.solved(Place::Inside.problem());
        self.solved(DISK);
    }

    /// Notes that what failed is over, if a success has lasted by now.
    pub(super) fn settle(&self) {
        let before = self.contact().lasts(self.sys.clock.monotonic());
        if let Some(before) = before {
            self.is_over();
            let is_whole = self.debts().is_empty();
            let left = match is_whole {
                true => "up to date",
                false => "up to date but for what the status names",
            };
            log::info!(
                "the sync works again: in contact with the parent, {left} (failures in a row \
                 before: {before})"
            );
        }
    }

    /// Notes that this was all that is done outside a window.
    pub(super) fn looked(&self) {
        let over = self.contact().looked();
        if let Some(before) = over {
            log::info!("the parent answers again (failures in a row before: {before})");
        }
    }

    /// Notes a problem under a key; the first sighting gives it its time and its correlation id,
    /// which is logged.
    pub(super) fn problem(&self, key: &str, code: DetailCode, description: String) {
        let mut problems = lock(&self.problems);
        if let Some(known) = problems.get_mut(key) {
            known.description = description;
            return;
        }
        let others = || problems.keys().filter(|key| key.starts_with(MISSING)).count();
        if key.starts_with(MISSING) && others() >= PROBLEMS_MAX {
            log::debug!("{}: {description}", code.name());
            return;
        }
        let correlation_id = self.sys.rng.uuid();
        log::warn!("{}: {description} (correlation id {correlation_id})", code.name());
        let timestamp = self.sys.clock.wall_or_floor();
        let (kind, code) = (code.kind().to_owned(), code.name().to_owned());
        let detail = StatusDetail { kind, code, description, timestamp, correlation_id };
        problems.insert(key.to_owned(), detail);
    }

    /// Whether the problem of this key is noted.
    pub(super) fn has_problem(&self, key: &str) -> bool {
        lock(&self.problems).contains_key(key)
    }

    /// Forgets the problems whose keys start so, except those of what is still there.
    pub(super) fn keep_problems(&self, start: &str, is_there: impl Fn(&str) -> bool) {
        lock(&self.problems).retain(|key, _| key.strip_prefix(start).is_none_or(&is_there));
    }

    /// Notes a fault of the disk here. `shortage`: the figures of a full one.
    pub(super) fn disk_problem(&self, error: &StoreError, shortage: Option<Shortage>) {
        let (key, description) = match (error, shortage) {
            (StoreError::Full, Some(shortage)) => {
                (SPACE, disk_full(error, shortage, self.debts().missing_bytes()))
            }
            (StoreError::Full, None) => (SPACE, error.to_string()),
            (StoreError::IndexFull, _) => (
                SPACE,
                format!(
                    "{error}: delete manifests at the parent (one with thousands of layers has as \
                     many rows), or raise limits.memory here, and with it MemoryMax of the \
                     service: what does not fit comes by itself then"
                ),
            ),
            (StoreError::Io(_) | StoreError::Unreadable(_) | StoreError::Corrupt(_), _) => {
                (DISK, error.to_string())
            }
            _ => return,
        };
        self.problem(key, DetailCode::DiskError, description);
    }

    /// Notes that nothing can be written, though the parent is followed.
    pub(super) fn stays_unwritten(&self, cause: &StoreError) {
        // It may tell of the link, which works.
        let session = Place::Inside.problem();
        if self.has_problem(session) {
            self.problem(session, DetailCode::SyncFailed, cause.to_string());
        }
    }

    /// When missing desired states are asked for again.
    pub(super) fn missing(&self) -> MutexGuard<'_, Missing> {
        lock(&self.missing)
    }

    /// Forgets the problem of this key.
    pub(super) fn solved(&self, key: &str) {
        lock(&self.problems).remove(key);
    }

    /// Notes an item that cannot be fetched.
    pub(super) fn owe(&self, owed: &Owed) {
        let (clock, rng) = (&self.sys.clock, &*self.sys.rng);
        let tries = self.debts().owe(owed, clock.monotonic(), clock.wall_or_floor(), rng);
        self.changed.fetch_or(tries == 1, Ordering::Relaxed);
        match tries {
            1 => log::warn!("set aside {owed}: it is tried again"),
            tries => log::debug!("tried again {owed} tries={tries}"),
        }
    }

    /// Notes an item that the parent has changed, and that a change of this node holds back.
    pub(super) fn hold_back(&self, repository: &RepositoryName, item: Item) {
        let (clock, rng) = (&self.sys.clock, &*self.sys.rng);
        log::debug!("held back by a change of this node repository={repository} {}", item.field());
        let (repository, now) = (repository.clone(), clock.monotonic());
        let was_missing = self.debts().hold_back(repository, item, now, rng);
        self.changed.fetch_or(was_missing, Ordering::Relaxed);
    }

    /// An item is here, or is not wanted any more.
    pub(super) fn paid(&self, repository: &RepositoryName, item: &Item) {
        match item {
            Item::Tag(tag) => self.told().forget_tag(repository, tag),
            Item::Deleted(digest) => self.told().forget_manifest(repository, digest),
            Item::Listing => self.told().keep(|other| other != repository),
            Item::Manifest(_) => {}
        }
        if self.debts().paid(repository, item) {
            self.changed.store(true, Ordering::Relaxed);
            log::info!("resolved missing content repository={repository} {}", item.field());
        }
    }

    /// Notes for what the parent takes this node, `None` for what it is; whether that is wrong, and
    /// in another way than before.
    pub(super) fn is_projected_anew(&self, projected: Option<&str>) -> bool {
        let before = std::mem::replace(&mut *lock(&self.projected), projected.map(str::to_owned));
        projected.is_some() && before.as_deref() != projected
    }

    /// These repositories are kept though they are not granted any more; those that were not
    /// before.
    pub(super) fn kept_anew(&self, kept: &BTreeSet<RepositoryName>) -> Vec<RepositoryName> {
        let before = std::mem::replace(&mut *lock(&self.kept), kept.clone());
        kept.difference(&before).cloned().collect()
    }

    /// A full comparison begins.
    pub(super) fn begin_listing(&self) {
        *lock(&self.listed) = None;
    }

    /// A repository was listed when the parent's feed was here.
    pub(super) fn note_listed(&self, at: Cursor) {
        let mut listed = lock(&self.listed);
        if listed.is_none_or(|listed| at.sequence > listed.sequence) {
            *listed = Some(at);
        }
    }

    /// The latest of them.
    pub(super) fn listed(&self) -> Option<Cursor> {
        *lock(&self.listed)
    }

    /// Content of these repositories is on its way.
    pub(super) fn set_arriving(&self, repositories: BTreeSet<RepositoryName>) {
        *lock(&self.arriving) = repositories;
    }

    /// What the parent has told of that it deleted, and could not be followed yet: it may not be
    /// whole, and cannot tell then that it has it no more.
    pub(super) fn told(&self) -> MutexGuard<'_, Gone> {
        lock(&self.told)
    }

    /// Up to where the parent's feed was heard.
    pub(super) fn told_until(&self) -> Option<Cursor> {
        *lock(&self.told_until)
    }

    pub(super) fn set_told_until(&self, until: Cursor) {
        *lock(&self.told_until) = Some(until);
    }

    /// All messages up to here were heard; more may have been.
    pub(super) fn told_until_at_least(&self, at: Cursor) {
        let mut until = lock(&self.told_until);
        if until.is_none_or(|until| until.epoch != at.epoch || until.sequence < at.sequence) {
            *until = Some(at);
        }
    }

    pub(super) fn debts(&self) -> MutexGuard<'_, Debts> {
        lock(&self.debts)
    }

    pub(super) fn problems(&self) -> Vec<StatusDetail> {
        let mut details: Vec<StatusDetail> = lock(&self.problems).values().cloned().collect();
        details.extend(self.debts().details(PROBLEMS_MAX));
        details
    }

    /// Repositories of which something is missing; `None`: this process knows of none.
    fn incomplete(&self) -> Option<BTreeSet<RepositoryName>> {
        let debts = self.debts();
        (!debts.is_empty()).then(|| debts.repositories())
    }

    /// Lets others see what is missing, if that has changed.
    pub(super) fn publish_changes(&self, store: &Store) -> Result<(), StoreError> {
        if self.changed.load(Ordering::Relaxed) { self.publish(store) } else { Ok(()) }
    }

    /// Lets others see what the engine does.
    pub(super) fn publish(&self, store: &Store) -> Result<(), StoreError> {
        self.changed.store(false, Ordering::Relaxed);
        let stored = stored(store)?;
        let known = self.incomplete();
        let any_incomplete = known.is_none() && stored.any_incomplete;
        let mut incomplete = known.unwrap_or_default();
        incomplete.extend(lock(&self.arriving).iter().cloned());
        let without_space = self.debts().without_room();
        let now = self.now();
        let last_sync = now.last_sync.max(stored.last_sync);
        let (problems, wall) = (self.problems(), self.sys.clock.wall());
        let mut contact = self.contact();
        contact.note_lost(wall);
        store.publish_sync(SyncView {
            waiting_for_window: contact.waiting_for_window(),
            contact: contact.parent(),
            failure: contact.failure().cloned(),
            lost_since: contact.lost_since(),
            incomplete,
            any_incomplete,
            without_space,
            problems,
            last_sync,
            last_contact: now.looked.max(stored.last_contact).max(last_sync),
            ..stored
        });
        Ok(())
    }
}

/// Lets others see what is known of earlier syncs, on a node that has no connection string to sync
/// with.
pub fn publish_stored(store: &Store) -> Result<(), StoreError> {
    let contact = ParentContact::NoConnectionString;
    store.publish_sync(SyncView { contact, ..stored(store)? });
    Ok(())
}

/// What earlier syncs left on the disk.
fn stored(store: &Store) -> Result<SyncView, StoreError> {
    let last_sync = store.last_sync()?;
    Ok(SyncView {
        any_incomplete: store.debts_noted()?,
        compared: store.feed_position()?.is_some() && !store.reconcile_due()?,
        last_sync,
        last_contact: store.last_look()?.max(last_sync),
        ..SyncView::default()
    })
}

/// What a full disk lacks, and what helps.
fn disk_full(error: &StoreError, Shortage { free, reserve }: Shortage, missing: u64) -> String {
    // Of what was not asked for, below the reserve, the size is not known.
    let wanted = match missing {
        0 => "space".to_owned(),
        missing => mib(missing),
    };
    let [free, reserve] = [free, reserve].map(mib);
    format!(
        "{error}: {free} free, needed are the reserve of {reserve} (storage.reserve) and {wanted} \
         for the content that does not fit; free space on the file system of storage.state_dir, \
         enlarge it, or delete content at the parent, whose space comes back when garbage \
         collection has found it unused for gc.grace (it begins by itself unless gc.enabled is \
         false, then with `skerry gc`): what does not fit comes by itself then"
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a whole value behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Spawner, turn};

    #[test]
    fn f036_a_disk_problem_is_reported_until_it_is_solved() {
        let state = State::new(&Sys::real(Spawner::new()));
        state.disk_problem(&StoreError::NotFound, None);
        assert_eq!(state.problems(), []);
        state.disk_problem(&StoreError::Full, None);
        let first = state.problems();
        assert_eq!((first.len(), first[0].code.as_str()), (1, "DiskError"));
        // Seen again it is the same problem: the report does not change.
        state.disk_problem(&StoreError::Full, None);
        assert_eq!(state.problems(), first);
        for tag in ["v1", "latest"] {
            let item = Item::Tag(tag.parse().unwrap());
            let (repository, reason) = ("app".parse().unwrap(), String::new());
            let no_room = Some((5 << 20) + 1);
            state.owe(&Owed { repository, item, digest: None, reason, no_room });
        }
        let shortage = Shortage { free: 1 << 20, reserve: 64 << 20 };
        state.disk_problem(&StoreError::Full, Some(shortage));
        let text = &state.problems()[0].description;
        for figure in ["1.0 MiB free", "64.0 MiB (storage.reserve)", "5.1 MiB for the content"] {
            assert!(text.contains(figure), "{figure}: {text}");
        }
        state.solved(SPACE);
        assert_eq!(state.problems().len(), 2, "each that does not fit");
    }

    /// Symptom: a device whose clock had been ahead once said `lastSyncTime: 2029` for three years.
    /// Cause: the last sync never ran backwards.
    #[test]
    fn f212_a_last_sync_in_the_future_gives_way_to_the_next() {
        smol::block_on(async {
            let sys = Sys::real(Spawner::new());
            let (store, state) = (Store::in_memory(sys.clone()), State::new(&sys));
            let now = sys.clock.wall().unwrap();
            let ahead = now.plus(3 * 365 * 86_400);
            store.record_sync(ahead).await.unwrap();
            store.record_look(ahead, "f".to_owned()).await.unwrap();
            state.publish(&store).unwrap();
            assert_eq!((store.sync_view().last_sync, store.sync_view().last_contact), (None, None));
            state.set(|state| (state.last_sync, state.looked) = (Some(now), Some(now)));
            state.publish(&store).unwrap();
            let view = store.sync_view();
            assert_eq!((view.last_sync, view.last_contact), (Some(now), Some(now)));
            assert_eq!(store.last_sync(), Ok(None), "the next sync is noted");
            store.record_sync(now).await.unwrap();
            assert_eq!(store.last_sync(), Ok(Some(now)));
        });
    }

    /// It is published for each repository that is whole for the first time.
    #[test]
    fn f209_publishing_costs_the_same_however_many_repositories_are_whole() {
        smol::block_on(async {
            let sys = Sys::real(Spawner::new());
            let (store, state) = (Store::in_memory(sys.clone()), State::new(&sys));
            let mut read = Vec::new();
            for count in [10, 3000] {
                for number in 0..count {
                    let name = format!("r{number:05}").parse().unwrap();
                    store.mark_synced(&name, true).await.unwrap();
                }
                store.note_debts(true).await.unwrap();
                let (published, work) = turn::apart(|| state.publish(&store));
                published.unwrap();
                read.push(work.rows);
            }
            assert_eq!(read[0], read[1], "rows");
        });
    }

    /// Symptom: a middle with 20 nodes below it whose desired states could not be had told nobody
    /// of its own disk.
    #[test]
    fn f036_a_problem_of_this_node_is_not_crowded_out() {
        let state = State::new(&Sys::real(Spawner::new()));
        for number in 0..2 * PROBLEMS_MAX {
            let key = format!("{MISSING}{number}");
            state.problem(&key, DetailCode::SyncFailed, "gone".to_owned());
        }
        assert_eq!(state.problems().len(), PROBLEMS_MAX);
        state.disk_problem(&StoreError::Io("EIO".to_owned()), None);
        assert!(state.problems().iter().any(|told| told.code == "DiskError"));
    }

    #[test]
    fn problems_are_bounded() {
        let state = State::new(&Sys::real(Spawner::new()));
        let repository: RepositoryName = "app".parse().unwrap();
        let items: Vec<Item> = (0..2 * PROBLEMS_MAX)
            .map(|number| Item::Tag(format!("t{number}").parse().unwrap()))
            .collect();
        for item in &items {
            let (repository, item) = (repository.clone(), item.clone());
            state.owe(&Owed {
                repository,
                item,
                digest: None,
                reason: String::new(),
                no_room: None,
            });
        }
        assert_eq!(state.problems().len(), PROBLEMS_MAX);
        for item in &items {
            state.paid(&repository, item);
        }
        assert_eq!(state.problems(), []);
    }
}

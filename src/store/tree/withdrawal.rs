//! Changes of the tree, one at a time, and what is taken from all nodes below one.
//!
//! What a connected registry loses, all below it lose. There may be any number of those, and a
//! record has a bound; so the record of the change takes it from the node itself, with a note that
//! those below are yet to lose it, and records of a bounded size follow, parents before their
//! children. The last one removes the note. Until then nobody else changes the tree; pushes and
//! everything else go on in between. After a stop the node takes the rest up when it starts.
//!
//! What is left of a wildcard is each of the repositories in it that the parent still has. Where
//! they would make a desired state larger than it may be, the wildcard goes as a whole: a
//! withdrawal is never refused, and one that could not be delivered would be none.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smol::channel::{Receiver, Sender};
use smol::lock::{Mutex, MutexGuard};

use super::cascade::{self, AlsoChanged};
use super::command;
use super::granted::{Granted, covered, intersection, lacking};
use super::sizes::Sizes;
use crate::store::rows::derived::{self, Count};
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::unsettled::{Unsettled, unsettled_key};
use crate::store::rows::{self, Kind, name_at, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::limits::DESIRED_STATE_BYTES_MAX;
use crate::types::token::ScopeMap;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Grant, RepositoryPattern};

/// Nodes that one record takes something from.
const NODES_AT_ONCE: usize = 32;

/// Grants of nodes that one record looks at; it ends with the node that brings it to this number.
/// With the longest names a record has three quarters of a mebibyte.
const GRANTS_AT_ONCE: usize = 2000;

/// Grants that are told one by one of other scope maps that changed. Over it: their number.
const TOLD_MAX: usize = 20_000;

/// Whose turn it is to change the tree.
pub struct Turns {
    turn: Mutex<()>,
    /// Somebody began a withdrawal and may not have ended it; the command may wait for the writer.
    is_left: AtomicBool,
    /// Says so to whoever ends it.
    begun: (Sender<()>, Receiver<()>),
}

impl Default for Turns {
    fn default() -> Turns {
        let (turn, is_left) = (Mutex::default(), AtomicBool::new(false));
        Turns { turn, is_left, begun: smol::channel::bounded(1) }
    }
}

/// Scope maps that changed with another one.
#[derive(Default, Debug)]
pub struct Others {
    /// What became of them: of as many as 20,000 grants name.
    pub changed: Vec<AlsoChanged>,
    /// How many more lost something.
    pub more: usize,
    /// Why some nodes have not lost yet what was taken from one above; they will.
    pub left: Option<StoreError>,
    told: usize,
}

impl Others {
    fn of(changed: Vec<AlsoChanged>) -> Others {
        let mut others = Others::default();
        others.add(changed);
        others
    }

    fn add(&mut self, changed: Vec<AlsoChanged>) {
        for one in changed {
            if self.told >= TOLD_MAX {
                self.more += 1;
                continue;
            }
            self.told += one.added.len() + one.removed.len();
            self.changed.push(one);
        }
    }
}

/// What a command gives, and the scope maps above that it changed.
pub(super) type Changed<T> = (T, Vec<AlsoChanged>);

/// The right to change the tree, until it is dropped.
pub(super) struct Turn<'a> {
    store: &'a Store,
    /// A withdrawal may have begun that has not ended.
    open: AtomicBool,
    _guard: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Whoever had the turn was cancelled, or the disk refused.
        if *self.open.get_mut() {
            let turns = &self.store.shared().turns;
            turns.is_left.store(true, Ordering::Relaxed);
            // A full channel says so already.
            let _ = turns.begun.0.try_send(());
        }
    }
}

impl Store {
    /// Waits for the turn to change the tree, and takes from nodes what an earlier change left.
    pub(super) async fn tree_turn(&self) -> Result<Turn<'_>, StoreError> {
        let guard = self.shared().turns.turn.lock().await;
        let turn = Turn { store: self, open: AtomicBool::new(false), _guard: guard };
        if self.shared().turns.is_left.swap(false, Ordering::Relaxed) {
            turn.open.store(true, Ordering::Relaxed);
            // What the writer had to do before this is shown now.
            turn.commit(|_| Ok(())).await?;
        }
        turn.settle(&mut Others::default()).await?;
        Ok(turn)
    }

    /// Takes from the nodes below others what is yet to be taken from them.
    pub async fn settle_tree(&self) -> Result<(), StoreError> {
        self.tree_turn().await.map(drop)
    }

    /// Returns when something may be left for [`Store::settle_tree`].
    pub async fn tree_changed(&self) {
        // The store has both ends.
        let _ = self.shared().turns.begun.1.recv().await;
    }

    /// The names of all nodes below one, parents before their children.
    pub(super) async fn names_below(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Vec<ConnectedRegistryName>, StoreError> {
        let (mut names, mut next) = (Vec::new(), 0);
        // In a damaged store the parents may form a circle.
        let mut seen = HashSet::from([name.clone()]);
        let mut above = name.clone();
        loop {
            let start = derived::below(&above);
            let mut pages = self.pages::<Count>(start.clone());
            loop {
                let page = pages.next().await?;
                if page.is_empty() {
                    break;
                }
                for (key, _) in page {
                    let below: ConnectedRegistryName = name_at(&key, start.len())?;
                    if seen.insert(below.clone()) {
                        names.push(below);
                    }
                }
            }
            let Some(one) = names.get(next) else {
                return Ok(names);
            };
            (above, next) = (one.clone(), next + 1);
        }
    }
}

impl Turn<'_> {
    /// Runs a command that changes one node and its ancestors, and takes from all below it what the
    /// command has noted with [`begin`].
    pub(super) async fn change<T: Send + 'static>(
        &self,
        sizes: Sizes,
        command: impl FnOnce(&mut Txn<'_>) -> Result<Changed<T>, StoreError> + Send + 'static,
    ) -> Result<(T, Others), StoreError> {
        self.open.store(true, Ordering::Relaxed);
        let (value, above) = self.act(move |txn| sizes.bound(txn, command)).await?;
        let mut others = Others::of(above);
        if let Err(error) = self.settle(&mut others).await {
            log::warn!("a withdrawal is not done below yet, tried again: {error}");
            others.left = Some(error);
        }
        Ok((value, others))
    }

    /// Runs a command that is the deed of whoever has the turn.
    pub(super) async fn act<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.store.act(command).await
    }

    /// Runs a command.
    async fn commit<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.store.commit(command).await
    }

    /// Takes from all nodes what they are yet to lose.
    async fn settle(&self, others: &mut Others) -> Result<(), StoreError> {
        loop {
            let start = prefix(Kind::Unsettled, &[]);
            let first = self.store.scan::<Unsettled>(&start, None, 1)?.into_iter().next();
            let Some((_, note)) = first else {
                self.open.store(false, Ordering::Relaxed);
                return Ok(());
            };
            self.open.store(true, Ordering::Relaxed);
            self.settle_below(note, others).await?;
        }
    }

    async fn settle_below(&self, note: Unsettled, others: &mut Others) -> Result<(), StoreError> {
        let names = Arc::new(self.store.names_below(&note.above).await?);
        let removed: Arc<BTreeSet<_>> = Arc::new(note.repositories.into_iter().collect());
        let (mut at, mut room) = (0, Room::new());
        loop {
            let (all, removed, above) = (names.clone(), removed.clone(), note.above.clone());
            let some = self.commit(move |txn| {
                let rest = &all[at..];
                let settled = settle_some(txn, rest, &removed, room)?;
                if settled.done == rest.len() {
                    txn.delete(unsettled_key(&above))?;
                }
                Ok(settled)
            });
            let settled = some.await?;
            others.add(settled.changed);
            at += settled.done;
            if at == names.len() {
                return Ok(());
            }
            room = settled.room;
            for name in settled.wanted {
                let bytes = self.store.desired_state_bytes(&name).await?;
                room.insert(name, DESIRED_STATE_BYTES_MAX.saturating_sub(bytes));
            }
        }
    }
}

/// Notes that all nodes below this one are yet to lose what it lost since its sync scope map was
/// `before`, and these repositories.
pub(super) fn begin(
    txn: &mut Txn<'_>,
    node: &ConnectedRegistry,
    before: &ScopeMap,
    removed: BTreeSet<RepositoryPattern>,
) -> Result<(), StoreError> {
    let now = cascade::sync_map(txn, node)?;
    let lost = lacking(&before.grants, &now.grants);
    let has_lost = lost.iter().any(|grant| matches!(grant, Grant::Repository(..)));
    if !has_lost && removed.is_empty() || command::children(txn, &node.name, 1)?.is_empty() {
        return Ok(());
    }
    let note = Unsettled { above: node.name.clone(), repositories: removed.into_iter().collect() };
    txn.put(unsettled_key(&node.name), &note)
}

/// By how many bytes desired states may grow yet, of those that were asked for.
type Room = HashMap<ConnectedRegistryName, u64>;

/// What became of some nodes.
struct Settled {
    /// How many they are.
    done: usize,
    changed: Vec<AlsoChanged>,
    room: Room,
    /// Whose room has to be known before the next one is settled.
    wanted: Vec<ConnectedRegistryName>,
}

/// Takes from the first of these nodes what their parents are not granted, and what is removed.
fn settle_some(
    txn: &mut Txn<'_>,
    names: &[ConnectedRegistryName],
    removed: &BTreeSet<RepositoryPattern>,
    room: Room,
) -> Result<Settled, StoreError> {
    let mut settled = Settled { done: 0, changed: Vec::new(), room, wanted: Vec::new() };
    let mut grants = 0;
    for name in names.iter().take(NODES_AT_ONCE) {
        match settle_one(txn, name, removed, &mut settled) {
            Ok(looked_at) => grants += looked_at,
            // Nothing is granted to it by what is gone, and the others lose what they have to.
            Err(StoreError::Corrupt(what)) => log::error!("connected registry {name}: {what}"),
            Err(error) => return Err(error),
        }
        if !settled.wanted.is_empty() {
            break;
        }
        settled.done += 1;
        if grants >= GRANTS_AT_ONCE {
            break;
        }
    }
    Ok(settled)
}

/// The grants that it looked at. Does nothing when the room of somebody has to be known first.
fn settle_one(
    txn: &mut Txn<'_>,
    name: &ConnectedRegistryName,
    removed: &BTreeSet<RepositoryPattern>,
    settled: &mut Settled,
) -> Result<usize, StoreError> {
    let Some(node) = command::connected_registry(txn, name)? else {
        return Ok(0);
    };
    let Some(parent) = &node.parent else {
        return Ok(0);
    };
    let parent = command::connected_registry(txn, parent)?.ok_or_else(|| cascade::lost(name))?;
    let above = cascade::sync_map(txn, &parent)?;
    let before = cascade::sync_map(txn, &node)?;
    let above = Granted::of(&above.grants);
    let mut stripped = before.clone();
    cascade::strip(&mut stripped, removed);
    let mut now = ScopeMap { grants: intersection(&stripped.grants, &above), ..stripped.clone() };
    let growth = rows::encode(&now)?.len().saturating_sub(rows::encode(&before)?.len()) as u64;
    if growth > 0 {
        let concerned = [&node.name, &parent.name];
        let unknown = concerned.into_iter().filter(|name| !settled.room.contains_key(*name));
        settled.wanted = unknown.cloned().collect();
        if !settled.wanted.is_empty() {
            return Ok(0);
        }
        let fits = concerned.into_iter().all(|name| settled.room[name] >= growth);
        if !fits {
            now.grants = covered(&stripped.grants, &above);
        }
        for name in concerned.into_iter().filter(|_| fits) {
            settled.room.entry(name.clone()).and_modify(|room| *room = room.saturating_sub(growth));
        }
    }
    let changed = AlsoChanged::between(node.name, &before, &now);
    if changed.is_some() {
        // Not refused, however many patterns are left of a wildcard: something is withdrawn.
        txn.put(scope_map_key(&now.name), &now)?;
    }
    settled.changed.extend(changed);
    Ok(before.grants.len())
}

//! Changes of the tree, one at a time, and what is taken from all nodes below one.
//!
//! What a connected registry loses, all below it lose. There may be any number of those, and a
//! record has a bound; so the record of the change takes it from the node itself, with a note that
//! those below are yet to lose it, and records of a bounded size follow, parents before their
//! children. The last one removes the note. Until then nobody else changes the tree; pushes and
//! everything else go on in between. After a stop the node takes the rest up when it starts.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smol::channel::{Receiver, Sender};
use smol::lock::{Mutex, MutexGuard};

use super::cascade::{self, AlsoChanged};
use super::command;
use super::granted::{Granted, intersection, lacking};
use super::sizes::Sizes;
use crate::store::rows::derived::{self, Count};
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::unsettled::{Unsettled, unsettled_key};
use crate::store::rows::{Kind, name_at, prefix};
use crate::store::{Store, StoreError, Txn};
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
        let (value, above) = self.commit(move |txn| sizes.bound(txn, command)).await?;
        let mut others = Others::of(above);
        if let Err(error) = self.settle(&mut others).await {
            log::warn!("a withdrawal is not done below yet, tried again: {error}");
            others.left = Some(error);
        }
        Ok((value, others))
    }

    /// Runs a command.
    pub(super) async fn commit<T: Send + 'static>(
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
        let mut at = 0;
        loop {
            let (all, removed, above) = (names.clone(), removed.clone(), note.above.clone());
            let some = self.commit(move |txn| {
                let rest = &all[at..];
                let (done, changed) = settle_some(txn, rest, &removed)?;
                if done == rest.len() {
                    txn.delete(unsettled_key(&above))?;
                }
                Ok((done, changed))
            });
            let (done, changed) = some.await?;
            others.add(changed);
            at += done;
            if at == names.len() {
                return Ok(());
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

/// Takes from the first of these nodes what their parents are not granted, and what is removed.
/// Returns from how many.
fn settle_some(
    txn: &mut Txn<'_>,
    names: &[ConnectedRegistryName],
    removed: &BTreeSet<RepositoryPattern>,
) -> Result<(usize, Vec<AlsoChanged>), StoreError> {
    let (mut done, mut grants, mut changed) = (0, 0, Vec::new());
    for name in names.iter().take(NODES_AT_ONCE) {
        done += 1;
        match settle_one(txn, name, removed) {
            Ok((looked_at, one)) => {
                grants += looked_at;
                changed.extend(one);
            }
            // Nothing is granted to it by what is gone, and the others lose what they have to.
            Err(StoreError::Corrupt(what)) => log::error!("{what}"),
            Err(error) => return Err(error),
        }
        if grants >= GRANTS_AT_ONCE {
            break;
        }
    }
    Ok((done, changed))
}

/// The grants that it looked at, and what became of them.
fn settle_one(
    txn: &mut Txn<'_>,
    name: &ConnectedRegistryName,
    removed: &BTreeSet<RepositoryPattern>,
) -> Result<(usize, Option<AlsoChanged>), StoreError> {
    let Some(node) = command::connected_registry(txn, name)? else {
        return Ok((0, None));
    };
    let Some(parent) = &node.parent else {
        return Ok((0, None));
    };
    let parent = command::connected_registry(txn, parent)?.ok_or_else(|| cascade::lost(name))?;
    let above = cascade::sync_map(txn, &parent)?;
    let before = cascade::sync_map(txn, &node)?;
    let mut now = before.clone();
    cascade::strip(&mut now, removed);
    now.grants = intersection(&now.grants, &Granted::of(&above.grants));
    let changed = AlsoChanged::between(node.name, &before, &now);
    if changed.is_some() {
        // Not refused, however many patterns are left of a wildcard: something is withdrawn.
        txn.put(scope_map_key(&now.name), &now)?;
    }
    Ok((before.grants.len(), changed))
}

//! What this store belongs to, and what its node is and waits for.

use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::journal::layout::Layout;
use super::recovery::epoch::{end_feed_epoch, feed_epoch};
use super::replica::own::own_config;
use super::rows::connected_registry::connected_registry_key;
use super::rows::node::{Fact, own_rows, parent_epoch_key};
use super::rows::scope_map::scope_map_key;
use super::rows::token::{SyncTokenOf, sync_token_key, token_key};
use super::rows::{Kind, prefix};
use super::{Store, StoreError, Txn};
use crate::sys::Disk;
use crate::types::message::NodeConfig;
use crate::types::role::Hurdle;
use crate::types::token::{ScopeMap, Token};
use crate::types::{ConnectedRegistry, NodeState, Role, StoreRole};

/// The identity file that says what the store belongs to.
const ROLE: &str = "role";
/// Its largest size, bytes.
const ROLE_BYTES_MAX: u64 = 256;

/// What the node of this store is, as decided at its start; in memory only.
pub(super) struct Standing {
    role: Role,
    has_credential: bool,
    hurdle: Option<Hurdle>,
    /// Whether the hurdle is why the sync fails now. One that is not is no news when it comes
    /// again.
    is_hindered: bool,
    credential_fault: Option<String>,
}

impl Default for Standing {
    fn default() -> Standing {
        Standing {
            role: Role::Root,
            has_credential: false,
            hurdle: None,
            is_hindered: false,
            credential_fault: None,
        }
    }
}

impl Standing {
    /// What the parent refuses, if that is why the sync fails now.
    fn hindrance(&self) -> Option<Hurdle> {
        self.hurdle.clone().filter(|_| self.is_hindered)
    }
}

/// What the store in a state directory belongs to, as far as its files tell; looks without taking
/// the directory. `None`: there is a store without a note of it, and only its rows tell.
pub fn role_by_files(disk: &dyn Disk, state_dir: &Path) -> Option<StoreRole> {
    let layout = Layout::new(state_dir);
    let is_new = || disk.list(&layout.journal()).unwrap_or_default().is_empty();
    match noted_role(disk, state_dir) {
        Some(StoreRole::Unprovisioned) if layout.holds_content(disk).unwrap_or(false) => {
            Some(StoreRole::Adopted)
        }
        None => is_new().then_some(StoreRole::New),
        noted => noted,
    }
}

/// What the identity file in a state directory says.
pub(super) fn noted_role(disk: &dyn Disk, state_dir: &Path) -> Option<StoreRole> {
    let path = Layout::new(state_dir).identity().join(ROLE);
    let bytes = disk.read(&path, ROLE_BYTES_MAX).ok()?;
    StoreRole::parse(&String::from_utf8(bytes).ok()?)
}

impl Store {
    /// What this store belongs to. A store of an older version has no note of it: its rows tell.
    pub fn store_role(&self) -> Result<StoreRole, StoreError> {
        if let Some(name) = self.self_name()? {
            return Ok(StoreRole::Connected(name));
        }
        let noted = noted_role(&*self.shared().disk, self.shared().layout.root());
        if noted == Some(StoreRole::Root) {
            return Ok(StoreRole::Root);
        }
        let is_connected = noted.is_some() || self.activated_epoch()?.is_some();
        Ok(match (is_connected, self.holds_something()?) {
            (true, true) => StoreRole::Adopted,
            (true, false) => StoreRole::Unprovisioned,
            (false, true) => StoreRole::Root,
            (false, false) => StoreRole::New,
        })
    }

    fn holds_something(&self) -> Result<bool, StoreError> {
        let kinds = [Kind::Token, Kind::ScopeMap, Kind::ConnectedRegistry, Kind::Repository];
        for kind in kinds {
            if self.has_rows(kind)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes down what the store belongs to under this role of its node, so that it stays so
    /// without configuration. A root without anything of its own is not noted: it may still become
    /// a connected registry. Blocks.
    pub fn note_role(&self, role: Role) -> Result<(), StoreError> {
        let note = match (role, self.store_role()?) {
            // What was noted as a connected registry and serves as a root is one from now on:
            // otherwise a later start takes it for a connected registry and clears its tokens.
            (Role::Root, StoreRole::Root | StoreRole::Unprovisioned | StoreRole::Adopted) => {
                StoreRole::Root
            }
            (Role::Root, StoreRole::New | StoreRole::Connected(_)) => return Ok(()),
            (Role::Connected, known @ StoreRole::Connected(_)) => known,
            (Role::Connected, _) => StoreRole::Unprovisioned,
        };
        let shared = self.shared();
        if shared.frozen || noted_role(&*shared.disk, shared.layout.root()) == Some(note.clone()) {
            return Ok(());
        }
        self.replace_identity_file(ROLE, format!("{note}\n").as_bytes())
    }

    /// Sets what the node is, and whether it has a connection string.
    pub fn stand(&self, role: Role, has_credential: bool) {
        let mut standing = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
        *standing = Standing { role, has_credential, ..Standing::default() };
    }

    /// What the node is.
    pub(super) fn role(&self) -> Role {
        self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner).role
    }

    /// Notes why the connection string cannot be used, where there is one; for people.
    pub fn set_credential_fault(&self, fault: Option<String>) {
        let mut standing = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.credential_fault = fault;
    }

    /// Why the connection string cannot be used; `None` when there is none, or when it is in use.
    pub fn credential_fault(&self) -> Option<String> {
        let standing = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.credential_fault.clone()
    }

    /// Notes what the parent refuses, or (`None`) that it accepts this instance. Returns whether
    /// that is news.
    pub fn set_hurdle(&self, hurdle: Option<Hurdle>) -> bool {
        let mut standing = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = standing.hurdle != hurdle;
        standing.is_hindered = hurdle.is_some();
        standing.hurdle = hurdle;
        is_news
    }

    /// Notes that the sync fails for another cause than what the parent refused before: it could
    /// not be asked, or answered something else.
    pub fn pass_over_hurdle(&self) {
        let mut standing = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.is_hindered = false;
    }

    /// The state of a node that its parent refuses; `None` when it does not. Costs no look at the
    /// rows.
    pub fn refused_state(&self) -> Option<NodeState> {
        let standing = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let hurdle = standing.hindrance().filter(|_| standing.has_credential);
        hurdle.map(NodeState::Refused)
    }

    /// What this node is and does just now.
    pub fn node_state(&self) -> Result<NodeState, StoreError> {
        let (role, has_credential, hurdle) = {
            let standing = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
            (standing.role, standing.has_credential, standing.hindrance())
        };
        if role == Role::Root {
            return Ok(NodeState::Root);
        }
        let is_activated = self.self_node()?.is_some();
        Ok(match (hurdle, is_activated, has_credential) {
            (Some(hurdle), _, true) => NodeState::Refused(hurdle),
            (_, true, true) => NodeState::Active,
            (_, true, false) => NodeState::CredentialMissing,
            (_, false, true) => NodeState::Activating,
            (_, false, false) => NodeState::Unprovisioned,
        })
    }

    /// Whether a connected registry has a desired state to serve by. Once true, always true.
    pub fn is_provisioned(&self) -> bool {
        let cell = &self.inner.provisioned;
        if !cell.load(Ordering::Relaxed) && matches!(self.self_node(), Ok(Some(_))) {
            cell.store(true, Ordering::Relaxed);
        }
        cell.load(Ordering::Relaxed)
    }

    /// Makes this the store of a node of another role; content stays. As a root it keeps the
    /// tokens, scope maps and connected registries that its parent sent; as a connected registry it
    /// has none until its parent accepts it. That parent is offered what it lacks, which may be
    /// nowhere else. Changes on their way to the former parent are dropped.
    pub async fn adopt(&self, role: Role) -> Result<(), StoreError> {
        self.shared().check_frozen()?;
        // Whoever followed the store compares everything with what it is now.
        let (disk, layout) = (&*self.shared().disk, &self.shared().layout);
        end_feed_epoch(disk, layout)?;
        feed_epoch(self.sys(), disk, layout)?;
        let note = match role {
            Role::Root => StoreRole::Root,
            Role::Connected => StoreRole::Unprovisioned,
        };
        let note = || self.replace_identity_file(ROLE, format!("{note}\n").as_bytes());
        if role == Role::Root {
            // The note comes first: while the desired state is here, that counts and the command
            // can be repeated; without it a note of the former role would.
            note()?;
        }
        self.commit(move |txn| match role {
            Role::Root => become_root(txn),
            Role::Connected => {
                let managed = [Kind::Token, Kind::ScopeMap, Kind::ConnectedRegistry];
                let known = [Kind::SyncToken, Kind::Activation, Kind::Status, Kind::Delivered];
                let known = known.into_iter().chain([Kind::Unsettled]);
                for kind in managed.into_iter().chain(known) {
                    txn.clear(&prefix(kind, &[]))?;
                }
                forget_parent(txn)?;
                // Whoever becomes its parent is not the one that has had what is here.
                txn.put(parent_epoch_key(), &Fact::Epoch(NO_EPOCH))
            }
        })
        .await?;
        match role {
            Role::Root => Ok(()),
            Role::Connected => note(),
        }
    }

    pub(super) fn has_rows(&self, kind: Kind) -> Result<bool, StoreError> {
        Ok(!self.look_up(|index| index.scan(&prefix(kind, &[]), None, 1))?.is_empty())
    }
}

/// The epoch of no feed: those are random.
const NO_EPOCH: u64 = 0;

/// The tree below becomes a tree of its own.
fn become_root(txn: &mut Txn<'_>) -> Result<(), StoreError> {
    if let Some(own) = own_config(txn)? {
        let below = txn.scan::<NodeConfig>(&prefix(Kind::NodeConfig, &[]))?;
        for (_, config) in below {
            put_token(txn, &config.sync_token)?;
            for token in &config.client_tokens {
                put_token(txn, token)?;
            }
            for map in &config.scope_maps {
                txn.put_changed::<ScopeMap>(scope_map_key(&map.name), map)?;
            }
            put_node(txn, config.node, &own.node)?;
        }
        for child in &own.children {
            put_node(txn, child.clone(), &own.node)?;
        }
    }
    forget_parent(txn)
}

fn put_token(txn: &mut Txn<'_>, token: &Token) -> Result<(), StoreError> {
    txn.put_changed(token_key(&token.name), token)
}

fn put_node(
    txn: &mut Txn<'_>,
    mut node: ConnectedRegistry,
    former: &ConnectedRegistry,
) -> Result<(), StoreError> {
    node.parent = node.parent.filter(|parent| *parent != former.name);
    txn.put(sync_token_key(&node.sync_token), &SyncTokenOf(node.name.clone()))?;
    txn.put_changed(connected_registry_key(&node.name), &node)
}

/// Forgets what belongs to the place under a parent. The number of the last change stays, so that
/// no number is given twice.
fn forget_parent(txn: &mut Txn<'_>) -> Result<(), StoreError> {
    for kind in [Kind::NodeConfig, Kind::Inbox, Kind::Outbox, Kind::DeadLetter] {
        txn.clear(&prefix(kind, &[]))?;
    }
    for start in own_rows() {
        txn.clear(&start)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::content::leases::Lease;
    use crate::store::registry::manifests::testing::digest;
    use crate::store::replica::node::testing::{config, map, token};
    use std::sync::Arc;

    use crate::store::{IndexKind, StoreOptions};
    use crate::sys::memory_disk::Survivors;
    use crate::sys::{MemoryDisk, Spawner, Sys};

    const APP: &str = "repositories/app/content/read";

    fn store() -> Store {
        Store::in_memory(Sys::real(Spawner::new()))
    }

    #[test]
    fn f166_a_store_knows_what_it_belongs_to() {
        smol::block_on(async {
            let store = store();
            assert_eq!(store.store_role(), Ok(StoreRole::New));
            store.note_role(Role::Root).unwrap();
            assert_eq!(store.store_role(), Ok(StoreRole::New), "an empty root may become another");
            store.note_role(Role::Connected).unwrap();
            assert_eq!(store.store_role(), Ok(StoreRole::Unprovisioned));
            store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
            let device = StoreRole::Connected("dock01".parse().unwrap());
            assert_eq!(store.store_role(), Ok(device.clone()));
            store.note_role(Role::Connected).unwrap();
            let shared = store.shared();
            assert_eq!(noted_role(&*shared.disk, shared.layout.root()), Some(device));
        });
    }

    #[test]
    fn f166_files_tell_the_role_of_a_store_or_that_only_its_rows_do() {
        smol::block_on(async {
            let disk = MemoryDisk::new();
            let by_files = || role_by_files(&disk, "/s".as_ref());
            assert_eq!(by_files(), Some(StoreRole::New));
            // As a store of an earlier version is: there is no note.
            let store = open(&disk);
            store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
            assert_eq!(by_files(), None);
            store.note_role(Role::Connected).unwrap();
            assert_eq!(by_files(), Some(StoreRole::Connected("dock01".parse().unwrap())));
        });
    }

    #[test]
    fn f166_a_store_that_serves_as_a_root_is_one_whatever_it_was_first_started_as() {
        smol::block_on(async {
            let store = store();
            store.note_role(Role::Connected).unwrap();
            // The operator mends the configuration; nothing was synced yet.
            assert_eq!(store.store_role().unwrap().decide(Some(Role::Root), None), Ok(Role::Root));
            store.note_role(Role::Root).unwrap();
            assert_eq!(store.store_role(), Ok(StoreRole::Root));
            let parent = "dock01".parse().unwrap();
            let decided = store.store_role().unwrap().decide(Some(Role::Connected), Some(&parent));
            assert!(decided.unwrap_err().contains("skerry state adopt"));
        });
    }

    /// A store on this disk.
    fn open(disk: &MemoryDisk) -> Store {
        let sys = Sys { disk: Arc::new(disk.clone()), ..Sys::real(Spawner::new()) };
        let options =
            StoreOptions { index: IndexKind::Map, reserve: 1, ..StoreOptions::new("/s".as_ref()) };
        Store::open(sys, options).unwrap().0
    }

    /// A device with a tree below it is made a root, and the power goes at the `call`-th call of
    /// that which changes something. Returns whether it went.
    async fn adopt_until_a_power_cut(call: u64, survivors: Survivors) -> bool {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        store.note_role(Role::Connected).unwrap();
        store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
        store.note_role(Role::Connected).unwrap();
        disk.crash_at(disk.calls() + call);
        let adopted = store.adopt(Role::Root).await;
        let (went, disk) = (disk.struck().is_some(), disk.after_crash(survivors));
        drop(store);
        let store = open(&disk);
        let clients = || store.token(&"client01".parse().unwrap()).unwrap().is_some();
        match store.store_role().unwrap() {
            StoreRole::Root => assert!(clients(), "call {call}"),
            role => {
                assert!(matches!(role, StoreRole::Connected(_)), "call {call}: {role:?}");
                assert!(adopted.is_err());
                store.adopt(Role::Root).await.unwrap();
                assert_eq!((store.store_role(), clients()), (Ok(StoreRole::Root), true));
            }
        }
        went
    }

    #[test]
    fn f166_a_power_cut_during_an_adoption_leaves_the_former_role_or_the_new_one() {
        smol::block_on(async {
            for survivors in [Survivors::Synced, Survivors::Everything] {
                let mut call = 1;
                while adopt_until_a_power_cut(call, survivors).await {
                    call += 1;
                }
                assert!(call > 4, "{call}");
            }
        });
    }

    #[test]
    fn an_adopted_store_keeps_nothing_of_its_former_place() {
        smol::block_on(async {
            let store = store();
            store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
            store.note_debts(true).await.unwrap();
            store.record_look(crate::types::UnixSeconds(8), "f".to_owned()).await.unwrap();
            store.adopt(Role::Root).await.unwrap();
            assert_eq!((store.debts_noted(), store.last_look()), (Ok(false), Ok(None)));
        });
    }

    #[test]
    fn f166_a_store_without_a_note_is_what_its_rows_say() {
        smol::block_on(async {
            let root = store();
            let row = token("token1");
            root.commit(move |txn| txn.put(token_key(&row.name), &row)).await.unwrap();
            assert_eq!(root.store_role(), Ok(StoreRole::Root));
            let device = store();
            device.record_activated(1).await.unwrap();
            assert_eq!(device.store_role(), Ok(StoreRole::Unprovisioned));
        });
    }

    #[test]
    fn the_state_names_what_is_missing() {
        smol::block_on(async {
            let store = store();
            let state = || store.node_state().unwrap().name();
            assert_eq!(state(), "Root");
            store.stand(Role::Connected, false);
            assert_eq!((state(), store.is_provisioned()), ("Unprovisioned", false));
            store.stand(Role::Connected, true);
            assert_eq!(state(), "Activating");
            let kind = crate::types::role::HurdleKind::Unauthorized;
            let hurdle = Hurdle { kind, text: "no".to_owned() };
            assert!(store.set_hurdle(Some(hurdle.clone())));
            assert!(!store.set_hurdle(Some(hurdle.clone())));
            assert_eq!(state(), "Unauthorized");
            store.pass_over_hurdle();
            assert_eq!((state(), store.refused_state()), ("Activating", None));
            assert!(!store.set_hurdle(Some(hurdle)), "it was told before");
            assert_eq!(state(), "Unauthorized");
            assert!(store.set_hurdle(None));
            store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
            assert_eq!((state(), store.is_provisioned()), ("Active", true));
            store.stand(Role::Connected, false);
            assert_eq!(state(), "CredentialMissing");
        });
    }

    #[test]
    fn a_device_that_becomes_a_root_keeps_its_tree() {
        smol::block_on(async {
            let store = store();
            store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
            let mut below = config(&[APP]);
            below.node =
                crate::store::replica::node::testing::connected_registry("leaf01", Some("child01"));
            below.sync_token = token("leaf01-sync");
            below.client_tokens = vec![token("client02")];
            below.scope_maps = vec![map("leaf01-sync-map", &[APP]), map("client02-map", &[APP])];
            store.receive_descendant(below, "v2".to_owned()).await.unwrap();
            store.record_activated(7).await.unwrap();
            store.record_sync(crate::types::UnixSeconds(8)).await.unwrap();
            let lab = "lab".parse().unwrap();
            store.link_blob(&lab, &Lease::unseen(&digest(1)), 5).await.unwrap();
            store.adopt(Role::Root).await.unwrap();
            assert_eq!(store.store_role(), Ok(StoreRole::Root));
            // What it was to its parent is forgotten, and nothing else.
            assert_eq!((store.activated_epoch(), store.last_sync()), (Ok(None), Ok(None)));
            assert!(store.repository(&lab).unwrap().is_some());
            let parent = |name: &str| {
                let node = store.connected_registry(&name.parse().unwrap()).unwrap().unwrap();
                node.parent.map(|parent| parent.to_string())
            };
            assert_eq!((parent("child01"), parent("leaf01")), (None, Some("child01".to_owned())));
            for name in ["client01", "child01-sync", "leaf01-sync", "client02"] {
                let map = format!("{name}-map").parse().unwrap();
                assert!(store.token(&name.parse().unwrap()).unwrap().is_some(), "{name}");
                assert!(store.scope_map(&map).unwrap().is_some(), "{map}");
            }
            let owner = store.sync_token_owner(&"leaf01-sync".parse().unwrap()).unwrap().unwrap();
            assert_eq!(owner.name.as_str(), "leaf01");
            let below = prefix(Kind::NodeConfig, &[]);
            let below = store.scan::<NodeConfig>(&below, None, 1).unwrap();
            assert!(!store.reconcile_due().unwrap() && below.is_empty());

            store.adopt(Role::Connected).await.unwrap();
            assert_eq!(store.store_role(), Ok(StoreRole::Adopted));
            assert!(store.tokens().await.unwrap().is_empty());
            assert!(store.sync_token_owner(&"leaf01-sync".parse().unwrap()).unwrap().is_none());
        });
    }
}

//! What this node knows of itself, and the desired states that its parent sent.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::gone;
use super::own::{own_config, own_name, own_node, own_registry};
use crate::store::rows::connected_registry::{activation_key, connected_registry_key, status_key};
use crate::store::rows::derived::{Count, synced_count_key};
use crate::store::rows::node::{
    Fact, compared_key, debts_key, descendant_key, epoch_key, last_look_key, last_sync_key,
    looked_with_key, offered_key, reconcile_key, removing, self_config_key, synced, synced_key,
    version_key,
};
use crate::store::rows::{Kind, Stored, key, name_at, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::connected_registry::{ParentContact, StatusDetail};
use crate::types::message::NodeConfig;
use crate::types::token::{ScopeMap, Token};
use crate::types::{
    ConnectedRegistry, ConnectedRegistryName, Cursor, Grant, RepositoryName, Role, UnixSeconds,
};

/// Why an attempt to sync failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncFailure {
    /// For people.
    pub text: String,
    /// Whether there was no answer at all.
    pub unreachable: bool,
}

/// What the sync engine lets others see of itself; in memory only.
#[derive(Clone, Default)]
pub struct SyncView {
    /// Whether the engine waits for a window.
    pub waiting_for_window: bool,
    /// How it stands with the parent.
    pub contact: ParentContact,
    /// Why the last attempt to sync failed, if it did.
    pub failure: Option<SyncFailure>,
    /// Since when this node is out of contact, if it is.
    pub lost_since: Option<UnixSeconds>,
    /// Repositories of which something is on its way, or could not be had.
    pub incomplete: BTreeSet<RepositoryName>,
    /// Something could not be had before the start, and nobody knows any more what: each repository
    /// that was complete at least once may be one of those.
    pub any_incomplete: bool,
    /// Those of which something waits for space on the disk here.
    pub without_space: BTreeSet<RepositoryName>,
    /// Whether everything that is granted was compared with the parent: what it had then is known.
    pub compared: bool,
    /// What is reported upward as wrong.
    pub problems: Vec<StatusDetail>,
    /// End of the last sync that succeeded.
    pub last_sync: Option<UnixSeconds>,
    /// When the parent last answered, to about a day.
    pub last_contact: Option<UnixSeconds>,
}

impl Store {
    /// The desired state that the parent sent last; `None` on the root and before activation. The
    /// tokens of the children, and the scope maps that only these have, are left out: they are rows
    /// like those of the root.
    pub fn self_config(&self) -> Result<Option<NodeConfig>, StoreError> {
        self.look_up(|index| own_config(&Txn::new(index)))
    }

    /// The connected registry that this node is, by the same.
    pub fn self_node(&self) -> Result<Option<ConnectedRegistry>, StoreError> {
        self.look_up(|index| own_node(&Txn::new(index)))
    }

    /// What this node is called, by the same.
    pub fn self_name(&self) -> Result<Option<ConnectedRegistryName>, StoreError> {
        self.look_up(|index| own_name(&Txn::new(index)))
    }

    /// What the root is called, by the same.
    pub fn self_registry(&self) -> Result<Option<String>, StoreError> {
        self.look_up(|index| own_registry(&Txn::new(index)))
    }

    /// The version under which the parent sent [`Store::self_config`].
    pub fn self_config_version(&self) -> Result<Option<String>, StoreError> {
        match self.self_name()? {
            Some(name) => self.version(&name),
            None => Ok(None),
        }
    }

    /// Takes over the desired state of this node, all in one record: the tokens, scope maps and
    /// children that it lists become rows like those of the root, so that logins are answered from
    /// this disk, and what it does not list any more goes. When the granted repositories have
    /// changed, a reconcile becomes due.
    pub(super) async fn apply_config(
        &self,
        config: Arc<NodeConfig>,
        version: String,
    ) -> Result<(), StoreError> {
        self.commit(move |txn| {
            let old = own_config(txn)?;
            if old.as_ref().map(granted) != Some(granted(&config)) {
                ask_for_reconcile(txn)?;
            }
            materialise(txn, &config)?;
            forget_strangers(txn, &config)?;
            txn.put_changed(version_key(&config.node.name), &Fact::Version(version))?;
            txn.put_changed(self_config_key(), &*config)
        })
        .await
    }

    /// The desired state of a descendant, as this node passes it on.
    pub fn descendant_config(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Option<NodeConfig>, StoreError> {
        match self.unwritten_below(name)? {
            Some(config) => Ok(Some(config)),
            None => self.get(&descendant_key(name)),
        }
    }

    /// The version under which the parent listed [`Store::descendant_config`] when it was fetched.
    pub fn descendant_version(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Option<String>, StoreError> {
        match self.unwritten_version(name) {
            Some(version) => Ok(Some(version)),
            None => self.version(name),
        }
    }

    /// Stores the desired state of a descendant.
    pub(super) async fn apply_descendant(
        &self,
        config: NodeConfig,
        version: String,
    ) -> Result<(), StoreError> {
        self.commit(move |txn| {
            // What cannot be read is about to be replaced.
            let known = match txn.get::<NodeConfig>(&descendant_key(&config.node.name)) {
                Err(StoreError::Corrupt(_)) => None,
                known => known?,
            };
            let is_child = txn.has(&connected_registry_key(&config.node.name))?;
            // Of a child this node's own desired state has told before.
            if let Some(known) = known.filter(|_| !is_child) {
                forget_instance(txn, &known.node, &config.node)?;
            }
            txn.put_changed(version_key(&config.node.name), &Fact::Version(version))?;
            txn.put_changed(descendant_key(&config.node.name), &config)
        })
        .await
    }

    /// The activation epoch under which the parent accepted this instance.
    pub fn activated_epoch(&self) -> Result<Option<u64>, StoreError> {
        match self.get(&epoch_key())? {
            Some(Fact::Epoch(epoch)) => Ok(Some(epoch)),
            _ => Ok(None),
        }
    }

    /// Remembers the activation epoch. Where that is the one before, nothing is written, so that a
    /// node whose disk takes nothing gets on to its desired state.
    pub async fn record_activated(&self, epoch: u64) -> Result<(), StoreError> {
        if self.activated_epoch()? == Some(epoch) {
            return Ok(());
        }
        self.commit(move |txn| txn.put_changed(epoch_key(), &Fact::Epoch(epoch))).await
    }

    /// Whether content is to be compared with the parent's in full.
    pub fn reconcile_due(&self) -> Result<bool, StoreError> {
        Ok(self.get::<Fact>(&reconcile_key())?.is_some() || self.lacks_a_life()?)
    }

    /// Whether the store was restored or set back, or has lost records, since everything was last
    /// compared: the parent may have what was here before.
    pub fn lacks_a_life(&self) -> Result<bool, StoreError> {
        let compared = self.get::<Fact>(&compared_key())?;
        Ok(compared.is_some_and(|life| life != Fact::Epoch(self.shared().feed.epoch())))
    }

    /// Notes that a child has seen that the state of this node was set back: the parent may have
    /// what was here before, and a comparison is due, also after one that is under way. It asks for
    /// what the parent has deleted since its feed was at `parted`, if that is known. A root has
    /// none.
    pub async fn note_set_back(&self, parted: Option<Cursor>) -> Result<(), StoreError> {
        if self.role() == Role::Root {
            return Ok(());
        }
        self.commit(move |txn| {
            ask_for_reconcile(txn)?;
            gone::begin(txn, parted)?;
            let other = Fact::Epoch(!txn.life());
            txn.put_changed(compared_key(), &other)
        })
        .await
    }

    /// Notes that a full comparison begins: one that is requested from here on is due after it.
    pub async fn begin_reconcile(&self) -> Result<(), StoreError> {
        self.commit(|txn| txn.put_changed(reconcile_key(), &Fact::Begun)).await
    }

    /// Makes a full comparison due: a gap in the feed, an unknown message, a resync.
    pub async fn request_reconcile(&self) -> Result<(), StoreError> {
        self.commit(ask_for_reconcile).await
    }

    /// Whether changes were offered, perhaps in vain, since [`Store::compare_offered`].
    pub fn has_offered(&self) -> Result<bool, StoreError> {
        Ok(self.get::<Fact>(&offered_key())?.is_some())
    }

    /// The offers have been made: a full comparison becomes due.
    pub async fn compare_offered(&self) -> Result<(), StoreError> {
        self.commit(|txn| {
            txn.delete(offered_key())?;
            ask_for_reconcile(txn)
        })
        .await
    }

    /// Whether something that the parent has could not be had; the engine knows what.
    pub fn debts_noted(&self) -> Result<bool, StoreError> {
        Ok(self.get::<Fact>(&debts_key())?.is_some())
    }

    /// Notes that something could not be had, or (`false`) that nothing is missing.
    pub async fn note_debts(&self, owed: bool) -> Result<(), StoreError> {
        if self.debts_noted()? == owed {
            return Ok(());
        }
        self.commit(move |txn| {
            if owed {
                return txn.put_changed(debts_key(), &Fact::Mark);
            }
            txn.delete(debts_key())?;
            Ok(())
        })
        .await
    }

    /// Repositories whose content was complete at least once.
    pub async fn synced_repositories(&self) -> Result<BTreeSet<RepositoryName>, StoreError> {
        self.repositories_with(synced()).await
    }

    /// Repositories whose removal has begun and was not carried through.
    pub async fn half_removed(&self) -> Result<BTreeSet<RepositoryName>, StoreError> {
        self.repositories_with(removing()).await
    }

    async fn repositories_with(
        &self,
        start: Vec<u8>,
    ) -> Result<BTreeSet<RepositoryName>, StoreError> {
        let rows = self.pages::<Fact>(start.clone()).all().await?;
        let name = |key: &[u8]| std::str::from_utf8(key.get(start.len()..)?).ok()?.parse().ok();
        Ok(rows.iter().filter_map(|(key, _)| name(key)).collect())
    }

    /// How many there are.
    pub fn synced_count(&self) -> Result<u64, StoreError> {
        Ok(self.get::<Count>(&synced_count_key())?.map_or(0, |count| count.0))
    }

    /// Whether the content of a repository was complete at least once.
    pub fn is_synced(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        Ok(self.get::<Fact>(&synced_key(repository))?.is_some())
    }

    /// Whether this node has never held all that its own parent has in a repository, or has lost
    /// some of it: what is not here may be there, and a child must not take it for deleted.
    pub fn is_partial(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        let was_whole = self.is_synced(repository)? && !self.lacks_a_life()?;
        if self.role() == Role::Root || was_whole {
            return Ok(false);
        }
        // The engine knows in memory what is missing; after a start only the disk tells that
        // something is.
        Ok(self.feed_position()?.is_none()
            || self.reconcile_due()?
            || self.debts_noted()?
            || self.sync_view().incomplete.contains(repository))
    }

    /// Notes that the content of a repository is complete, or (`false`) that the repository is
    /// not mirrored any more.
    pub async fn mark_synced(
        &self,
        repository: &RepositoryName,
        synced: bool,
    ) -> Result<(), StoreError> {
        let key = synced_key(repository);
        self.commit(move |txn| {
            match (synced, txn.get::<Fact>(&key)?.is_some()) {
                (true, false) => txn.put(key, &Fact::Mark)?,
                (false, true) => txn.delete(key)?,
                _ => {}
            }
            Ok(())
        })
        .await
    }

    /// When a sync last ended well.
    pub fn last_sync(&self) -> Result<Option<UnixSeconds>, StoreError> {
        self.time(&last_sync_key())
    }

    /// Notes that a sync ended well.
    pub async fn record_sync(&self, at: UnixSeconds) -> Result<(), StoreError> {
        self.commit(move |txn| txn.put_changed(last_sync_key(), &Fact::At(at))).await
    }

    /// When the parent was last asked for the desired state, to about a day.
    pub fn last_look(&self) -> Result<Option<UnixSeconds>, StoreError> {
        self.time(&last_look_key())
    }

    /// Which connection string it was asked with: its fingerprint.
    pub fn looked_with(&self) -> Result<Option<String>, StoreError> {
        match self.get(&looked_with_key())? {
            Some(Fact::Version(fingerprint)) => Ok(Some(fingerprint)),
            _ => Ok(None),
        }
    }

    /// Notes that the parent answered what the desired state is.
    pub async fn record_look(&self, at: UnixSeconds, with: String) -> Result<(), StoreError> {
        self.commit(move |txn| {
            txn.put_changed(last_look_key(), &Fact::At(at))?;
            txn.put_changed(looked_with_key(), &Fact::Version(with))
        })
        .await
    }

    /// Notes that the last look at the configuration does not count any more, as one with another
    /// connection string than any that there is.
    pub async fn forget_look(&self) -> Result<(), StoreError> {
        let none = Fact::Version(String::new());
        self.commit(move |txn| txn.put_changed(looked_with_key(), &none)).await
    }

    /// Publishes the state of the sync engine.
    pub fn publish_sync(&self, view: SyncView) {
        if let Ok(mut cell) = self.inner.sync_view.lock() {
            *cell = Arc::new(view);
        }
    }

    /// The state that the sync engine published last.
    pub fn sync_view(&self) -> Arc<SyncView> {
        self.inner.sync_view.lock().map(|cell| cell.clone()).unwrap_or_default()
    }

    /// A time that was noted. One in the future is of a clock that was ahead once: nobody knows it.
    fn time(&self, key: &[u8]) -> Result<Option<UnixSeconds>, StoreError> {
        match self.get(key)? {
            Some(Fact::At(at)) => Ok(Some(at).filter(|at| at.is_past(self.sys().clock.wall()))),
            _ => Ok(None),
        }
    }

    fn version(&self, name: &ConnectedRegistryName) -> Result<Option<String>, StoreError> {
        match self.get(&version_key(name))? {
            Some(Fact::Version(version)) => Ok(Some(version)),
            _ => Ok(None),
        }
    }
}

/// Makes a full comparison due, also after one that is under way.
pub(super) fn ask_for_reconcile(txn: &mut Txn<'_>) -> Result<(), StoreError> {
    let fact = match txn.get::<Fact>(&reconcile_key())? {
        Some(Fact::Begun | Fact::Again) => Fact::Again,
        _ => Fact::Mark,
    };
    txn.put_changed(reconcile_key(), &fact)
}

/// The repository grants of a node's sync scope map: what it mirrors.
fn granted(config: &NodeConfig) -> Vec<Grant> {
    let grants = config.own_map().into_iter().flat_map(|map| &map.grants);
    let mut grants: Vec<Grant> =
        grants.filter(|grant| matches!(grant, Grant::Repository(..))).cloned().collect();
    grants.sort_unstable();
    grants
}

fn materialise(txn: &mut Txn<'_>, config: &NodeConfig) -> Result<(), StoreError> {
    let tokens = config.client_tokens.iter().chain(&config.child_tokens);
    let tokens = tokens.map(|token| (token.name.as_str(), token)).collect();
    replace_all::<Token>(txn, Kind::Token, tokens)?;
    let maps = config.scope_maps.iter().map(|map| (map.name.as_str(), map)).collect();
    replace_all::<ScopeMap>(txn, Kind::ScopeMap, maps)?;
    for child in &config.children {
        if let Some(known) = txn.get(&connected_registry_key(&child.name))? {
            forget_instance(txn, &known, child)?;
        }
    }
    let children = config.children.iter().map(|child| (child.name.as_str(), child)).collect();
    replace_all::<ConnectedRegistry>(txn, Kind::ConnectedRegistry, children)
}

/// Makes `rows` the only rows of this kind.
fn replace_all<R: Stored + PartialEq>(
    txn: &mut Txn<'_>,
    kind: Kind,
    rows: Vec<(&str, &R)>,
) -> Result<(), StoreError> {
    let mut wanted = BTreeSet::new();
    for (name, row) in rows {
        let row_key = key(kind, &[name.as_bytes()]);
        txn.put_changed(row_key.clone(), row)?;
        wanted.insert(row_key);
    }
    for row_key in txn.keys(&prefix(kind, &[]))? {
        if !wanted.contains(&row_key) {
            txn.delete(row_key)?;
        }
    }
    Ok(())
}

/// Forgets what was known of nodes that are not descendants any more.
fn forget_strangers(txn: &mut Txn<'_>, config: &NodeConfig) -> Result<(), StoreError> {
    let known: BTreeSet<&str> = config.descendants.iter().map(|d| d.name.as_str()).collect();
    let start = prefix(Kind::NodeConfig, &[]);
    for row_key in txn.keys(&start)? {
        let name: ConnectedRegistryName = name_at(&row_key, start.len())?;
        if !known.contains(name.as_str()) {
            txn.delete(row_key)?;
            txn.delete(version_key(&name))?;
            txn.delete(activation_key(&name))?;
            txn.delete(status_key(&name))?;
        }
    }
    Ok(())
}

/// Forgets the instance of a connected registry that was deleted, when one of the same name was
/// made since.
fn forget_instance(
    txn: &mut Txn<'_>,
    known: &ConnectedRegistry,
    now: &ConnectedRegistry,
) -> Result<(), StoreError> {
    if known.created != now.created {
        txn.delete(activation_key(&now.name))?;
        txn.delete(status_key(&now.name))?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::types::Mode;
    use crate::types::message::Descendant;
    use crate::types::schedule::{MESSAGE_TTL_S_DEFAULT, Schedule};

    /// A token whose scope map has another name: `<name>-map`.
    pub(crate) fn token(name: &str) -> Token {
        Token {
            name: name.parse().unwrap(),
            scope_map: format!("{name}-map").parse().unwrap(),
            enabled: true,
            created: UnixSeconds(1),
            passwords: [None, None],
            generations: [0, 0],
        }
    }

    pub(crate) fn map(name: &str, grants: &[&str]) -> ScopeMap {
        ScopeMap {
            name: name.parse().unwrap(),
            description: String::new(),
            grants: grants.iter().map(|grant| grant.parse().unwrap()).collect(),
            created: UnixSeconds(1),
        }
    }

    /// A connected registry whose sync token has another name: `<name>-sync`.
    pub(crate) fn connected_registry(name: &str, parent: Option<&str>) -> ConnectedRegistry {
        ConnectedRegistry {
            name: name.parse().unwrap(),
            mode: Mode::ReadWrite,
            parent: parent.map(|parent| parent.parse().unwrap()),
            sync_token: format!("{name}-sync").parse().unwrap(),
            client_tokens: vec![],
            schedule: Schedule::continuous(),
            sync_window_s: None,
            message_ttl_s: MESSAGE_TTL_S_DEFAULT,
            log_level: "Information".to_owned(),
            activation_epoch: 0,
            created: UnixSeconds(1),
        }
    }

    /// The store of a connected registry that mirrors every repository.
    pub(crate) async fn connected() -> Store {
        let store = crate::store::registry::manifests::testing::store();
        let config = config(&["repositories/*/content/read"]);
        store.receive_config(config, "v1".to_owned()).await.unwrap();
        store
    }

    /// `dock01` with the client token `client01` and the child `child01`; each of the three is
    /// granted other repositories than the others.
    pub(crate) fn config(grants: &[&str]) -> NodeConfig {
        let mut node = connected_registry("dock01", None);
        node.client_tokens.push("client01".parse().unwrap());
        NodeConfig {
            registry: "myregistry".to_owned(),
            node,
            sync_token: token("dock01-sync"),
            client_tokens: vec![token("client01")],
            children: vec![connected_registry("child01", Some("dock01"))],
            child_tokens: vec![token("child01-sync")],
            scope_maps: vec![
                map("client01-map", &["repositories/of-clients/content/read"]),
                map("dock01-sync-map", grants),
                map("child01-sync-map", &["repositories/of-children/content/read"]),
            ],
            descendants: vec![Descendant {
                name: "child01".parse().unwrap(),
                version: "v1".to_owned(),
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use crate::store::index::HEAD_LEN;
    use crate::sys::{Spawner, Sys, turn};

    const APP: &str = "repositories/app/content/read";

    #[test]
    fn a_desired_state_replaces_the_one_before() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let first = config(&[APP]);
            store.receive_config(first.clone(), "v1".to_owned()).await.unwrap();
            let token_key = |name: &str| key(Kind::Token, &[name.as_bytes()]);
            assert!(store.get::<Token>(&token_key("client01")).unwrap().is_some());
            assert!(store.get::<Token>(&token_key("child01-sync")).unwrap().is_some());
            assert!(store.reconcile_due().unwrap());
            let mut child = config(&[APP]);
            child.node = connected_registry("child01", Some("dock01"));
            store.receive_descendant(child.clone(), "v7".to_owned()).await.unwrap();
            assert_eq!(store.self_config_version().unwrap().as_deref(), Some("v1"));

            let mut second = first.clone();
            second.client_tokens.clear();
            second.children.clear();
            second.child_tokens.clear();
            second.scope_maps.retain(|map| map.name == second.sync_token.scope_map);
            second.descendants.clear();
            store.receive_config(second, "v2".to_owned()).await.unwrap();
            assert!(store.get::<Token>(&token_key("client01")).unwrap().is_none());
            assert!(store.get::<Token>(&token_key("child01-sync")).unwrap().is_none());
            assert!(store.descendant_config(&child.node.name).unwrap().is_none());
            assert!(store.descendant_version(&child.node.name).unwrap().is_none());
            let maps = store.scan::<ScopeMap>(&prefix(Kind::ScopeMap, &[]), None, 9).unwrap();
            assert_eq!(maps.len(), 1);
            assert_eq!(maps[0].1.name.as_str(), "dock01-sync-map");
            assert_eq!(store.self_config_version().unwrap().as_deref(), Some("v2"));
        });
    }

    #[test]
    fn f209_what_a_node_reads_of_itself_holds_nothing_that_only_its_children_need() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let sent = config(&[APP]);
            store.receive_config(sent.clone(), "v1".to_owned()).await.unwrap();
            let own = store.self_config().unwrap().unwrap();
            let left_out = own.scope_maps.iter().map(|map| map.name.as_str());
            assert_eq!(left_out.collect::<Vec<_>>(), ["client01-map", "dock01-sync-map"]);
            let rest = NodeConfig { child_tokens: Vec::new(), ..sent.clone() };
            assert!(own == NodeConfig { scope_maps: own.scope_maps.clone(), ..rest });
            assert!(store.self_node().unwrap() == Some(sent.node.clone()));
            let (token, map) = store.token_with_map(&sent.child_tokens[0].name).unwrap().unwrap();
            assert!(token == sent.child_tokens[0] && map.as_ref() == Some(&sent.scope_maps[2]));
        });
    }

    /// Every change that is made here bears the name of this node, and its desired state is as long
    /// as the rights of its clients.
    #[test]
    fn f209_the_name_of_a_node_is_read_without_the_rest_of_its_desired_state() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            assert_eq!(store.self_name(), Ok(None));
            let names = (0..2000).map(|number| format!("repositories/app{number}/content/read"));
            let names: Vec<String> = names.collect();
            let grants: Vec<&str> = names.iter().map(String::as_str).collect();
            let sent = config(&grants);
            store.receive_config(sent.clone(), "v1".to_owned()).await.unwrap();
            let (name, work) = turn::apart(|| store.self_name());
            assert_eq!(name, Ok(Some(sent.node.name.clone())));
            let (node, all) = turn::apart(|| store.self_node());
            assert!(node.unwrap() == Some(sent.node));
            let head = HEAD_LEN as u64;
            assert!(work.bytes < 2 * head && all.bytes > 20 * head, "{work:?}, {all:?}");
        });
    }

    #[test]
    fn the_same_desired_state_writes_nothing() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
            let before = store.sequence();
            store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
            assert_eq!(store.sequence(), before);
        });
    }

    #[test]
    fn f118_a_change_of_scope_makes_a_reconcile_due() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            store.receive_config(config(&[APP]), "v1".to_owned()).await.unwrap();
            // One that is asked for while another one is under way is due after it.
            for expected in [true, false] {
                store.begin_reconcile().await.unwrap();
                assert!(store.reconcile_due().unwrap());
                if expected {
                    store.request_reconcile().await.unwrap();
                }
                store.reconciled(Cursor::default()).await.unwrap();
                assert_eq!(store.reconcile_due(), Ok(expected));
            }
            let mut renamed = config(&[APP]);
            renamed.node.log_level = "Debug".to_owned();
            store.receive_config(renamed, "v2".to_owned()).await.unwrap();
            assert!(!store.reconcile_due().unwrap());
            let wider = config(&[APP, "repositories/tools/content/read"]);
            store.receive_config(wider, "v3".to_owned()).await.unwrap();
            assert!(store.reconcile_due().unwrap());
        });
    }

    #[test]
    fn what_a_node_notes_of_itself_lies_in_rows_of_its_own() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let before = store.scan::<Fact>(&prefix(Kind::Node, &[]), None, 99).unwrap().len();
            store.record_activated(7).await.unwrap();
            store.record_sync(UnixSeconds(8)).await.unwrap();
            store.record_look(UnixSeconds(9), "f".to_owned()).await.unwrap();
            store.request_reconcile().await.unwrap();
            store.note_debts(true).await.unwrap();
            let rows = store.scan::<Fact>(&prefix(Kind::Node, &[]), None, 99).unwrap();
            assert_eq!(rows.len() - before, 6, "{rows:?}");
            assert_eq!(store.activated_epoch(), Ok(Some(7)));
            assert_eq!(store.last_sync(), Ok(Some(UnixSeconds(8))));
            assert_eq!(store.last_look(), Ok(Some(UnixSeconds(9))));
            assert_eq!(store.looked_with(), Ok(Some("f".to_owned())));
        });
    }

    #[test]
    fn synced_repositories_are_remembered() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let names: [RepositoryName; 2] = ["a/b".parse().unwrap(), "c".parse().unwrap()];
            for name in &names {
                store.mark_synced(name, true).await.unwrap();
            }
            store.mark_synced(&names[1], false).await.unwrap();
            let synced: Vec<_> = store.synced_repositories().await.unwrap().into_iter().collect();
            assert_eq!(synced, names[..1]);
            assert_eq!(store.synced_count(), Ok(1));
        });
    }
}

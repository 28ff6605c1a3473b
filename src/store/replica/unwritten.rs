//! Desired states that this node has heard of, its own and those of the nodes below it, until they
//! are on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::{Event, EventListener};

use crate::store::rows::{decode, encode};
use crate::store::{Store, StoreError};
use crate::types::ConnectedRegistryName;
use crate::types::message::NodeConfig;

/// Desired states of nodes below this one that are remembered where the disk takes nothing, bytes
/// as they would be written. Over it: a node below hears of its own once the disk takes it, for
/// which it is fetched again.
const BELOW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What could not be written yet. One worker receives and writes, one state after the other.
#[derive(Default)]
pub(in crate::store) struct Unwritten {
    states: Mutex<States>,
    /// One of a node below may be passed on.
    changed: Event,
}

#[derive(Default)]
struct States {
    own: Option<(Arc<NodeConfig>, String)>,
    below: BTreeMap<ConnectedRegistryName, Below>,
}

/// The desired state of a node below, as it would be written.
struct Below {
    bytes: Arc<Vec<u8>>,
    version: String,
    activation_epoch: u64,
    /// It is passed on all the same. Until writing has failed, nothing is that a power cut could
    /// take from this node and not from those below it.
    is_shown: bool,
}

impl Unwritten {
    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl States {
    /// What is passed on to a node below, where that is not on disk.
    fn shown(&self, name: &ConnectedRegistryName) -> Option<&Below> {
        self.below.get(name).filter(|state| state.is_shown)
    }

    /// Remembers the desired state of a node below, which is about to be written, if there is room.
    fn remember(&mut self, name: &ConnectedRegistryName, state: Below) {
        let others = self.below.iter().filter(|(other, _)| *other != name);
        let bytes: usize = others.map(|(_, other)| other.bytes.len()).sum();
        if bytes + state.bytes.len() > BELOW_BYTES_MAX {
            // The one before stays: it is newer than what is on disk.
            return;
        }
        // Where the one before could not be written, its successor is passed on in its place.
        let is_shown = self.shown(name).is_some();
        self.below.insert(name.clone(), Below { is_shown, ..state });
    }
}

impl Store {
    /// Takes over the desired state of this node, which the parent sent as `version`. What it takes
    /// away counts at once, also where the disk takes nothing; what it grants counts once it is
    /// durable. Writes what was received and could not be written before, too.
    pub async fn receive_config(
        &self,
        config: NodeConfig,
        version: String,
    ) -> Result<(), StoreError> {
        let config = Arc::new(config);
        let is_news = {
            let listed: BTreeSet<_> = config.descendants.iter().map(|node| &node.name).collect();
            let mut states = self.shared().unwritten.states();
            states.below.retain(|name, _| listed.contains(name));
            let before = states.own.replace((config.clone(), version.clone()));
            before.is_none_or(|(_, before)| before != version)
        };
        let written = self.write_own().await;
        if let Err(error) = &written
            && is_news
        {
            log::warn!(
                "the configuration from the parent cannot be written: what it takes away counts \
                 until this node stops, what it grants does not: {error}"
            );
        }
        written?;
        self.write_received().await
    }

    /// Takes over the desired state of a node below this one. What cannot be written is passed on
    /// all the same.
    pub async fn receive_descendant(
        &self,
        config: NodeConfig,
        version: String,
    ) -> Result<(), StoreError> {
        let name = config.node.name.clone();
        let state = Below {
            bytes: Arc::new(encode(&config)?),
            version: version.clone(),
            activation_epoch: config.node.activation_epoch,
            is_shown: false,
        };
        self.shared().unwritten.states().remember(&name, state);
        let written = self.apply_descendant(config, version).await;
        match &written {
            // Whatever is in memory is not newer.
            Ok(()) => drop(self.shared().unwritten.states().below.remove(&name)),
            Err(_) => self.show_below(),
        }
        written
    }

    /// Passes on from memory what is there: the disk does not take it.
    fn show_below(&self) {
        let unwritten = &self.shared().unwritten;
        let mut states = unwritten.states();
        states.below.values_mut().for_each(|state| state.is_shown = true);
        drop(states);
        unwritten.changed.notify(usize::MAX);
    }

    /// Writes what was received and could not be written before, if there is something. An error is
    /// the first one: each is tried, unless the disk takes nothing.
    pub async fn write_received(&self) -> Result<(), StoreError> {
        let mut written = self.write_own().await;
        let below: Vec<_> = {
            let states = self.shared().unwritten.states();
            let of = |(name, state): (&ConnectedRegistryName, &Below)| {
                (name.clone(), state.bytes.clone(), state.version.clone())
            };
            states.below.iter().map(of).collect()
        };
        if !below.is_empty() {
            // Writing them failed, or was given up.
            self.show_below();
        }
        for (name, bytes, version) in below {
            use StoreError::{Io, NewerFormat, Unavailable};
            if matches!(written, Err(Io(_) | NewerFormat(_) | Unavailable)) {
                break;
            }
            let applied = async {
                let config = decode::<NodeConfig>(&bytes)?;
                self.apply_descendant(config, version).await
            };
            match applied.await {
                Ok(()) => drop(self.shared().unwritten.states().below.remove(&name)),
                Err(error) => written = written.and(Err(error)),
            }
        }
        written
    }

    async fn write_own(&self) -> Result<(), StoreError> {
        let Some((config, version)) = self.shared().unwritten.states().own.clone() else {
            return Ok(());
        };
        self.apply_config(config.clone(), version).await?;
        let mut states = self.shared().unwritten.states();
        if states.own.as_ref().is_some_and(|(now, _)| Arc::ptr_eq(now, &config)) {
            states.own = None;
        }
        Ok(())
    }

    /// The desired state that this node has heard of and that is not on disk: it is being
    /// written, or the disk takes nothing. What it takes away counts; what it grants does
    /// not yet.
    pub fn unwritten_config(&self) -> Option<Arc<NodeConfig>> {
        self.shared().unwritten.states().own.as_ref().map(|(config, _)| config.clone())
    }

    /// The newest desired state that this node has heard of, on disk or not.
    pub fn newest_config(&self) -> Result<Option<Arc<NodeConfig>>, StoreError> {
        match self.unwritten_config() {
            Some(config) => Ok(Some(config)),
            None => Ok(self.self_config()?.map(Arc::new)),
        }
    }

    /// The version of that.
    pub fn newest_config_version(&self) -> Result<Option<String>, StoreError> {
        let version = {
            let states = self.shared().unwritten.states();
            states.own.as_ref().map(|(_, version)| version.clone())
        };
        match version {
            Some(version) => Ok(Some(version)),
            None => self.self_config_version(),
        }
    }

    /// The desired state of a node below that could not be written.
    pub(super) fn unwritten_below(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Option<NodeConfig>, StoreError> {
        let states = self.shared().unwritten.states();
        let bytes = states.shown(name).map(|state| state.bytes.clone());
        drop(states);
        bytes.map(|bytes| decode(&bytes)).transpose()
    }

    /// The version of that.
    pub fn unwritten_version(&self, name: &ConnectedRegistryName) -> Option<String> {
        self.shared().unwritten.states().shown(name).map(|state| state.version.clone())
    }

    /// The activation epoch that a node below is granted by what could not be written.
    pub(in crate::store) fn unwritten_epoch(&self, name: &ConnectedRegistryName) -> Option<u64> {
        let states = self.shared().unwritten.states();
        let of_own = states.own.as_ref().and_then(|(config, _)| {
            let child = config.children.iter().find(|child| child.name == *name)?;
            Some(child.activation_epoch)
        });
        of_own.max(states.below.get(name).map(|state| state.activation_epoch))
    }

    /// Waits for the next one that cannot be written, from now on.
    pub fn next_unwritten(&self) -> EventListener {
        self.shared().unwritten.changed.listen()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use smol::block_on;

    use super::*;
    use crate::store::replica::node::testing;
    use crate::store::rows::node::{Fact, descendant_key};
    use crate::store::{IndexKind, StoreOptions};
    use crate::sys::{MemoryDisk, Spawner, Sys};

    /// Symptom: below a node whose disk was full a connected registry that was deactivated was
    /// refused to the new device, and both heard that the other one was active.
    #[test]
    fn f032_f182_what_cannot_be_written_deactivates_too() {
        let disk = MemoryDisk::new();
        let sys = Sys { disk: Arc::new(disk.clone()), ..Sys::real(Spawner::new()) };
        let options = StoreOptions { index: IndexKind::Map, ..StoreOptions::new(Path::new("/s")) };
        let (store, _) = Store::open(sys, options).unwrap();
        let mut own = testing::config(&["repositories/app/content/read"]);
        let child = own.children[0].name.clone();
        let lower = testing::connected_registry("lower1", Some(child.as_str()));
        let mut below = NodeConfig { node: lower.clone(), ..own.clone() };
        own.descendants[0].name = lower.name.clone();
        block_on(store.receive_config(own.clone(), "v1".to_owned())).unwrap();
        block_on(store.receive_descendant(below.clone(), "v1".to_owned())).unwrap();
        let epoch =
            |name| store.node_below(name).unwrap().map(|node| node.activation_epoch).unwrap();
        let before = [&child, &lower.name].map(epoch);
        disk.fail_syncs_after(0);
        own.children[0].activation_epoch += 1;
        below.node.activation_epoch += 1;
        block_on(store.receive_config(own, "v2".to_owned())).unwrap_err();
        assert_eq!(epoch(&child), before[0] + 1);
        block_on(store.receive_descendant(below, "v2".to_owned())).unwrap_err();
        assert_eq!(epoch(&lower.name), before[1] + 1);
    }

    #[test]
    fn f211_a_state_that_cannot_be_read_is_replaced() {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let own = testing::config(&["repositories/app/content/read"]);
        let node = testing::connected_registry("lower1", None);
        let below = NodeConfig { node: node.clone(), ..own };
        let key = descendant_key(&node.name);
        block_on(store.commit(move |txn| txn.put(key, &Fact::Mark))).unwrap();
        assert!(store.descendant_config(&node.name).is_err());
        block_on(store.receive_descendant(below.clone(), "v1".to_owned())).unwrap();
        assert!(store.descendant_config(&node.name).unwrap() == Some(below));
    }

    #[test]
    fn f182_a_state_whose_writing_was_given_up_is_passed_on_too() {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let name: ConnectedRegistryName = "node1".parse().unwrap();
        store.shared().unwritten.states().remember(&name, state(9, "v1"));
        assert!(store.unwritten_version(&name).is_none());
        block_on(store.write_received()).unwrap_err();
        assert_eq!(store.unwritten_version(&name).unwrap(), "v1");
    }

    fn state(bytes: usize, version: &str) -> Below {
        let (bytes, version) = (Arc::new(vec![0; bytes]), version.to_owned());
        Below { bytes, version, activation_epoch: 1, is_shown: false }
    }

    #[test]
    fn f209_f210_states_of_nodes_below_have_a_bound_in_memory() {
        let mut states = States::default();
        let [one, two] = ["node1", "node2"].map(|name| name.parse().unwrap());
        let half = BELOW_BYTES_MAX / 2;
        for name in [&one, &two] {
            states.remember(name, state(half, "v1"));
            assert!(states.shown(name).is_none(), "it may be written yet");
        }
        let version = |states: &States, name| states.shown(name).map(|state| state.version.clone());
        states.below.values_mut().for_each(|state| state.is_shown = true);
        states.remember(&two, state(half + 1, "v2"));
        assert_eq!(version(&states, &two).unwrap(), "v1", "what was there before stays");
        states.remember(&two, state(half, "v3"));
        assert_eq!(version(&states, &two).unwrap(), "v3", "it takes the place of one that was");
    }
}

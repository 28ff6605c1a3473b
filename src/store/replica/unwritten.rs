//! Desired states that this node has heard of, its own and those of the nodes below it, until they
//! are on disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::{Event, EventListener};

use crate::store::rows::encode;
use crate::store::{Store, StoreError};
use crate::types::ConnectedRegistryName;
use crate::types::message::NodeConfig;

/// Desired states of nodes below this one that are remembered where the disk takes nothing, bytes
/// as they would be written. Over it: a node below hears of its own once the disk takes it.
const BELOW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What could not be written yet.
#[derive(Default)]
pub(in crate::store) struct Unwritten {
    states: Mutex<States>,
    /// One of a node below came.
    changed: Event,
}

#[derive(Default)]
struct States {
    own: Option<Heard>,
    below: BTreeMap<ConnectedRegistryName, Heard>,
}

#[derive(Clone)]
struct Heard {
    config: Arc<NodeConfig>,
    version: String,
    bytes: usize,
}

impl Unwritten {
    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Takes over the desired state of this node, which the parent sent as `version`. What it takes
    /// away counts at once, also where the disk takes nothing; what it grants counts once it is
    /// durable.
    pub async fn receive_config(
        &self,
        config: NodeConfig,
        version: String,
    ) -> Result<(), StoreError> {
        let is_news = {
            let mut states = self.shared().unwritten.states();
            states.below.retain(|name, _| config.lists(name.as_str()));
            let heard = Heard { config: Arc::new(config), version, bytes: 0 };
            let before = states.own.replace(heard.clone());
            before.is_none_or(|before| before.version != heard.version)
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
        written
    }

    /// Takes over the desired state of a node below this one. What cannot be written is passed on
    /// all the same.
    pub async fn receive_descendant(
        &self,
        config: NodeConfig,
        version: String,
    ) -> Result<(), StoreError> {
        let (name, config) = (config.node.name.clone(), Arc::new(config));
        let written = self.apply_descendant(config.clone(), version.clone()).await;
        let unwritten = &self.shared().unwritten;
        let before = unwritten.states().below.remove(&name);
        if written.is_err() {
            let bytes = encode(&*config)?.len();
            let mut states = unwritten.states();
            let all: usize = states.below.values().map(|heard| heard.bytes).sum();
            if all + bytes <= BELOW_BYTES_MAX {
                let is_news = before.is_none_or(|before| before.version != version);
                states.below.insert(name, Heard { config, version, bytes });
                drop(states);
                if is_news {
                    unwritten.changed.notify(usize::MAX);
                }
            } else {
                log::warn!("the configuration of {name} cannot be written and is not passed on");
            }
        }
        written
    }

    /// Writes what was received and could not be written before, if there is something.
    pub async fn write_received(&self) -> Result<(), StoreError> {
        self.write_own().await?;
        let below: Vec<_> = self.shared().unwritten.states().below.values().cloned().collect();
        for Heard { config, version, .. } in below {
            self.apply_descendant(config.clone(), version).await?;
            let mut states = self.shared().unwritten.states();
            let now = states.below.get(&config.node.name);
            if now.is_some_and(|now| Arc::ptr_eq(&now.config, &config)) {
                states.below.remove(&config.node.name);
            }
        }
        Ok(())
    }

    async fn write_own(&self) -> Result<(), StoreError> {
        let Some(heard) = self.shared().unwritten.states().own.clone() else {
            return Ok(());
        };
        self.apply_config(heard.config.clone(), heard.version).await?;
        let mut states = self.shared().unwritten.states();
        if states.own.as_ref().is_some_and(|now| Arc::ptr_eq(&now.config, &heard.config)) {
            states.own = None;
        }
        Ok(())
    }

    /// The desired state that this node has heard of and that is not on disk: it is being written,
    /// or the disk takes nothing. What it takes away counts; what it grants does not yet.
    pub fn unwritten_config(&self) -> Option<Arc<NodeConfig>> {
        self.shared().unwritten.states().own.as_ref().map(|heard| heard.config.clone())
    }

    /// The version of that.
    pub fn unwritten_version(&self) -> Option<String> {
        self.shared().unwritten.states().own.as_ref().map(|heard| heard.version.clone())
    }

    /// The desired state of a node below that could not be written, and its version.
    pub fn unwritten_below(
        &self,
        name: &ConnectedRegistryName,
    ) -> Option<(Arc<NodeConfig>, String)> {
        let states = self.shared().unwritten.states();
        states.below.get(name).map(|heard| (heard.config.clone(), heard.version.clone()))
    }

    /// Waits for the next one that cannot be written, from now on.
    pub fn next_unwritten(&self) -> EventListener {
        self.shared().unwritten.changed.listen()
    }
}

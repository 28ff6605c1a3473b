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
    own: Option<(Arc<NodeConfig>, String)>,
    below: BTreeMap<ConnectedRegistryName, Encoded>,
    /// The versions of those that there was no room for.
    passed_over: BTreeMap<ConnectedRegistryName, String>,
}

/// The desired state of a node below, as it would be written.
#[derive(Clone, PartialEq, Eq)]
struct Encoded {
    bytes: Arc<Vec<u8>>,
    version: String,
}

impl Unwritten {
    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl States {
    /// Remembers the desired state of a node below; whether it is another one than before.
    fn remember(&mut self, name: &ConnectedRegistryName, state: &Encoded) -> bool {
        let others = self.below.iter().filter(|(other, _)| *other != name);
        let bytes: usize = others.map(|(_, other)| other.bytes.len()).sum();
        if bytes + state.bytes.len() > BELOW_BYTES_MAX {
            // The one before stays: it is newer than what is on disk.
            self.passed_over.insert(name.clone(), state.version.clone());
            return false;
        }
        self.passed_over.remove(name);
        let before = self.below.insert(name.clone(), state.clone());
        before.is_none_or(|before| before.version != state.version)
    }

    /// The disk takes what is written: this one is on it.
    fn is_written(&mut self, name: &ConnectedRegistryName, state: &Encoded) {
        if self.below.get(name) == Some(state) {
            self.below.remove(name);
        }
        self.passed_over.clear();
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
        let config = Arc::new(config);
        let is_news = {
            let listed: BTreeSet<_> = config.descendants.iter().map(|node| &node.name).collect();
            let mut states = self.shared().unwritten.states();
            states.below.retain(|name, _| listed.contains(name));
            states.passed_over.retain(|name, _| listed.contains(name));
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
        written
    }

    /// Takes over the desired state of a node below this one. What cannot be written is passed on
    /// all the same.
    pub async fn receive_descendant(
        &self,
        config: NodeConfig,
        version: String,
    ) -> Result<(), StoreError> {
        let name = config.node.name.clone();
        let state = Encoded { bytes: Arc::new(encode(&config)?), version };
        let unwritten = &self.shared().unwritten;
        let is_news = unwritten.states().remember(&name, &state);
        let written = self.apply_descendant(config, state.version.clone()).await;
        match &written {
            Ok(()) => unwritten.states().is_written(&name, &state),
            Err(_) if is_news => {
                unwritten.changed.notify(usize::MAX);
            }
            Err(_) => {}
        }
        written
    }

    /// Writes what was received and could not be written before, if there is something. What there
    /// was no room for is asked for again, one at a time until the disk takes it. An error is the
    /// first one: each is tried.
    pub async fn write_received(&self) -> Result<(), StoreError> {
        let mut written = self.write_own().await;
        let below: Vec<_> = {
            let states = self.shared().unwritten.states();
            states.below.iter().map(|(name, state)| (name.clone(), state.clone())).collect()
        };
        for (name, state) in below {
            let applied = async {
                let config = decode::<NodeConfig>(&state.bytes)?;
                self.apply_descendant(config, state.version.clone()).await
            };
            match applied.await {
                Ok(()) => self.shared().unwritten.states().is_written(&name, &state),
                Err(error) => written = written.and(Err(error)),
            }
        }
        if written.is_ok() {
            self.shared().unwritten.states().passed_over.pop_first();
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
        states.passed_over.clear();
        Ok(())
    }

    /// The desired state that this node has heard of and that is not on disk, and its version: it
    /// is being written, or the disk takes nothing. What it takes away counts; what it grants does
    /// not yet.
    pub fn unwritten_config(&self) -> Option<(Arc<NodeConfig>, String)> {
        self.shared().unwritten.states().own.clone()
    }

    /// The desired state of a node below that could not be written, and its version.
    pub(super) fn unwritten_below(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Option<(NodeConfig, String)>, StoreError> {
        let state = self.shared().unwritten.states().below.get(name).cloned();
        state.map(|state| Ok((decode(&state.bytes)?, state.version))).transpose()
    }

    /// The version of that.
    pub fn unwritten_version(&self, name: &ConnectedRegistryName) -> Option<String> {
        let states = self.shared().unwritten.states();
        states.below.get(name).map(|state| state.version.clone())
    }

    /// Whether there was no room for this version while it cannot be written.
    pub fn is_passed_over(&self, name: &ConnectedRegistryName, version: &str) -> bool {
        let states = self.shared().unwritten.states();
        states.passed_over.get(name).is_some_and(|over| over == version)
    }

    /// Waits for the next one that cannot be written, from now on.
    pub fn next_unwritten(&self) -> EventListener {
        self.shared().unwritten.changed.listen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What there is no room for is not fetched again and again, and what was there before stays.
    #[test]
    fn f209_f210_states_of_nodes_below_have_a_bound_in_memory() {
        let mut states = States::default();
        let [one, two] = ["node1", "node2"].map(|name| name.parse().unwrap());
        let state = |bytes: usize, version: &str| Encoded {
            bytes: Arc::new(vec![0; bytes]),
            version: version.to_owned(),
        };
        let half = BELOW_BYTES_MAX / 2;
        assert!(states.remember(&one, &state(half, "v1")));
        assert!(!states.remember(&one, &state(half, "v1")), "nobody is woken for the same");
        assert!(states.remember(&two, &state(half, "v1")));
        assert!(!states.remember(&two, &state(half + 1, "v2")));
        assert!(states.below[&two] == state(half, "v1") && states.passed_over[&two] == "v2");
        assert!(states.remember(&two, &state(half - 1, "v3")));
        assert!(states.passed_over.is_empty());
        assert!(!states.remember(&one, &state(half + 2, "v2")));
        // Another one came while this one was written.
        states.is_written(&two, &state(half, "v1"));
        assert!(states.below.len() == 2 && states.passed_over.is_empty());
        states.is_written(&two, &state(half - 1, "v3"));
        assert_eq!(states.below.len(), 1);
    }
}

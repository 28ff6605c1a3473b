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
    below: BTreeMap<ConnectedRegistryName, Below>,
    /// The versions of those that there was no room for.
    passed_over: BTreeMap<ConnectedRegistryName, String>,
}

/// What is known of a node below.
struct Below {
    newest: Encoded,
    /// What could not be written, and is passed on all the same: this one, or the one before while
    /// this one is being written. Until writing fails, nothing is passed on that a power cut could
    /// take from this node and not from those below it.
    shown: Option<Encoded>,
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
    /// What is passed on to a node below, where that is not on disk.
    fn shown(&self, name: &ConnectedRegistryName) -> Option<&Encoded> {
        self.below.get(name).and_then(|below| below.shown.as_ref())
    }

    /// Remembers the desired state of a node below, which is about to be written, if there is room.
    fn remember(&mut self, name: &ConnectedRegistryName, state: &Encoded) {
        let others = self.below.iter().filter(|(other, _)| *other != name);
        let bytes: usize = others.map(|(_, other)| other.newest.bytes.len()).sum();
        if bytes + state.bytes.len() > BELOW_BYTES_MAX {
            // The one before stays: it is newer than what is on disk.
            self.passed_over.insert(name.clone(), state.version.clone());
            return;
        }
        self.passed_over.remove(name);
        let before = self.below.remove(name);
        let shown = before.and_then(|before| before.shown);
        self.below.insert(name.clone(), Below { newest: state.clone(), shown });
    }

    /// The disk took nothing: this one is passed on from memory. Whether it is another one than
    /// was passed on before, so that somebody is to be woken.
    fn show(&mut self, name: &ConnectedRegistryName, state: &Encoded) -> bool {
        let Some(below) = self.below.get_mut(name).filter(|below| below.newest == *state) else {
            return false;
        };
        let before = below.shown.replace(state.clone());
        before.is_none_or(|before| before.version != state.version)
    }

    /// The disk takes what is written, and this one is on it.
    fn forget(&mut self, name: &ConnectedRegistryName, state: &Encoded) {
        if self.below.get(name).is_some_and(|below| below.newest == *state) {
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
        unwritten.states().remember(&name, &state);
        let written = self.apply_descendant(config, state.version.clone()).await;
        match &written {
            Ok(()) => unwritten.states().forget(&name, &state),
            Err(_) if unwritten.states().show(&name, &state) => {
                unwritten.changed.notify(usize::MAX);
            }
            Err(_) => {}
        }
        written
    }

    /// Writes what was received and could not be written before, if there is something. What there
    /// was no room for is asked for again, one at a time until the disk takes it. An error is the
    /// first one: each is tried, unless the disk takes nothing.
    pub async fn write_received(&self) -> Result<(), StoreError> {
        let mut written = self.write_own().await;
        let below: Vec<_> = {
            let states = self.shared().unwritten.states();
            states.below.iter().map(|(name, below)| (name.clone(), below.newest.clone())).collect()
        };
        for (name, state) in below {
            use StoreError::{Io, NewerFormat, Unavailable};
            if matches!(written, Err(Io(_) | NewerFormat(_) | Unavailable)) {
                break;
            }
            let applied = async {
                let config = decode::<NodeConfig>(&state.bytes)?;
                self.apply_descendant(config, state.version.clone()).await
            };
            match applied.await {
                Ok(()) => self.shared().unwritten.states().forget(&name, &state),
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
        let state = self.shared().unwritten.states().shown(name).cloned();
        state.map(|state| Ok((decode(&state.bytes)?, state.version))).transpose()
    }

    /// The version of that.
    pub fn unwritten_version(&self, name: &ConnectedRegistryName) -> Option<String> {
        self.shared().unwritten.states().shown(name).map(|state| state.version.clone())
    }

    /// Whether this version of the desired state of a node below is here, or was and had no room
    /// while it cannot be written: it is not asked for again.
    pub fn knows_descendant(
        &self,
        name: &ConnectedRegistryName,
        version: &str,
    ) -> Result<bool, StoreError> {
        let over = self.shared().unwritten.states().passed_over.get(name).cloned();
        Ok(over.as_deref() == Some(version)
            || self.descendant_version(name)?.as_deref() == Some(version))
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
        let first = state(half, "v1");
        for name in [&one, &two] {
            states.remember(name, &first);
        }
        assert!(states.shown(&one).is_none(), "it may be written yet");
        assert!(states.show(&one, &first) && states.show(&two, &first));
        assert!(!states.show(&one, &first), "nobody is woken for the same");
        states.remember(&two, &state(half + 1, "v2"));
        assert!(!states.show(&two, &state(half + 1, "v2")));
        assert!(states.shown(&two) == Some(&first) && states.passed_over[&two] == "v2");
        let third = state(half - 1, "v3");
        states.remember(&two, &third);
        assert!(states.passed_over.is_empty());
        assert!(states.shown(&two) == Some(&first), "the one before, until it is known");
        assert!(states.show(&two, &third) && states.shown(&two) == Some(&third));
        states.remember(&one, &state(half + 2, "v2"));
        assert_eq!(states.passed_over[&one], "v2");
        // Another one came while this one was written.
        states.forget(&two, &first);
        assert!(states.below.len() == 2 && states.passed_over.is_empty());
        states.forget(&two, &third);
        assert!(states.shown(&two).is_none() && states.below.len() == 1);
    }
}

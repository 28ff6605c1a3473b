//! The desired state that this node has heard of, until it is on disk.

use std::sync::{Arc, Mutex, PoisonError};

use crate::store::Store;
use crate::types::message::NodeConfig;

/// The last desired state from the parent; `None` once it is on disk.
#[derive(Default)]
pub(in crate::store) struct Received(Mutex<Option<Arc<NodeConfig>>>);

impl Received {
    pub(super) fn set(&self, config: Option<Arc<NodeConfig>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    fn get(&self) -> Option<Arc<NodeConfig>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Store {
    /// The desired state that this node has heard of and that is not on disk: it is being written,
    /// or the disk takes nothing. What it takes away counts; what it grants does not yet.
    pub fn received_config(&self) -> Option<Arc<NodeConfig>> {
        self.shared().received.get()
    }

    /// The parent has no other desired state than [`Store::self_config`].
    pub fn config_is_current(&self) {
        self.shared().received.set(None);
    }
}

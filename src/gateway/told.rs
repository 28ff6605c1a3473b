//! What each child has been told: in memory only; after a restart it is told again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::types::ConnectedRegistryName;

/// The version of its desired state that each child fetched last.
#[derive(Default)]
pub(super) struct Told(Mutex<BTreeMap<ConnectedRegistryName, String>>);

impl Told {
    pub(super) fn set(&self, name: &ConnectedRegistryName, version: String) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(name.clone(), version);
    }

    pub(super) fn get(&self, name: &ConnectedRegistryName) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

//! What this node knows of itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::row::{Kind, Row, key};
use super::{Store, StoreError};
use crate::types::RepositoryName;
use crate::types::message::NodeConfig;

impl Row for NodeConfig {
    const VERSION: u8 = 1;
}

/// The key of this node's own desired state, present on an activated connected registry only.
pub fn self_config_key() -> Vec<u8> {
    key(Kind::Node, &[b"config"])
}

/// What the sync engine lets others see of itself, to explain a miss; in memory only.
#[derive(Clone, Default)]
pub struct SyncView {
    /// Repositories whose content was complete at least once.
    pub synced: BTreeSet<RepositoryName>,
    /// Whether the engine waits for a window.
    pub waiting_for_window: bool,
    /// Whether the parent was in contact at the last attempt.
    pub online: bool,
}

impl Store {
    /// The desired state that the parent sent last; `None` on the root and before activation.
    pub fn self_config(&self) -> Result<Option<NodeConfig>, StoreError> {
        self.get(&self_config_key())
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
}

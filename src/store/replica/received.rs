//! The desired state that this node has heard of, until it is on disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::{Store, StoreError};
use crate::types::message::NodeConfig;

/// The last desired state from the parent, and its version; `None` once it is on disk.
#[derive(Default)]
pub(in crate::store) struct Received(Mutex<Option<(Arc<NodeConfig>, String)>>);

impl Received {
    fn cell(&self) -> MutexGuard<'_, Option<(Arc<NodeConfig>, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let received = &self.shared().received;
        let is_news = received.cell().as_ref().is_none_or(|(_, before)| *before != version);
        *received.cell() = Some((Arc::new(config), version));
        let written = self.write_received().await;
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

    /// Writes what was received and could not be written before, if there is something.
    pub async fn write_received(&self) -> Result<(), StoreError> {
        let received = &self.shared().received;
        let Some((config, version)) = received.cell().clone() else {
            return Ok(());
        };
        self.apply_config(config.clone(), version).await?;
        let mut cell = received.cell();
        if cell.as_ref().is_some_and(|(now, _)| Arc::ptr_eq(now, &config)) {
            *cell = None;
        }
        Ok(())
    }

    /// The desired state that this node has heard of and that is not on disk: it is being written,
    /// or the disk takes nothing. What it takes away counts; what it grants does not yet.
    pub fn received_config(&self) -> Option<Arc<NodeConfig>> {
        self.shared().received.cell().as_ref().map(|(config, _)| config.clone())
    }

    /// The parent has no other desired state than [`Store::self_config`].
    pub fn config_is_current(&self) {
        *self.shared().received.cell() = None;
    }
}

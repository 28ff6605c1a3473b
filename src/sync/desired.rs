//! What the parent desires of this node and of those below it.

use super::error::SyncError;
use super::window::LOOK_INTERVAL;
use super::worker::Worker;
use crate::gateway::UpstreamError;
use crate::types::connected_registry::DetailCode;
use crate::types::message::NodeConfig;

impl Worker {
    /// Fetches the desired states that changed: this node's and those of its descendants. What one
    /// grants is durable before it takes effect; what this node's own takes away counts at once,
    /// and what cannot be written is passed on to the nodes below all the same.
    pub(super) async fn refresh_config(&self) -> Result<(), SyncError> {
        let known = self.store.newest_config_version()?;
        let name = self.upstream.name();
        let written = match self.upstream.config(name, known.as_deref()).await? {
            Some((config, version)) => {
                let written = self.store.receive_config(config, version).await;
                if written.is_ok() {
                    log::info!("configuration updated from parent");
                }
                written
            }
            None => self.store.write_received().await,
        };
        let looked = match &written {
            Ok(()) => self.note_look().await,
            Err(_) => Ok(()),
        };
        let Some(config) = self.store.newest_config()? else {
            written?;
            return looked;
        };
        if self.store.activated_epoch()?.is_some_and(|epoch| epoch < config.node.activation_epoch) {
            let text = "the connected registry was deactivated".to_owned();
            return Err(UpstreamError::AlreadyActivated(text).into());
        }
        self.state.keep_problems("desired-", |name| config.lists(name));
        self.refresh_descendants(&config).await?;
        written?;
        looked
    }

    async fn refresh_descendants(&self, config: &NodeConfig) -> Result<(), SyncError> {
        let mut written = Ok(());
        for descendant in &config.descendants {
            let name = &descendant.name;
            if self.store.knows_descendant(name, &descendant.version)? {
                continue;
            }
            match self.upstream.config(name, None).await {
                // The parent may have another one than it lists, until it has that one.
                Ok(Some((config, version))) => {
                    let one = self.store.receive_descendant(config, version).await;
                    written = written.and(one);
                    self.state.solved(&format!("desired-{name}"));
                }
                Ok(None) => {}
                // It was deleted a moment ago, or the parent does not have it yet: either way the
                // parent has another desired state for this node soon.
                Err(UpstreamError::NotFound(_) | UpstreamError::Forbidden(_)) => {}
                // This one cannot be had; this node and the others can do without.
                Err(UpstreamError::Protocol(text)) => {
                    let key = format!("desired-{name}");
                    self.state.problem(&key, DetailCode::SyncFailed, text);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written?)
    }

    /// Remembers that the parent was asked, and with which connection string; on disk once a day.
    async fn note_look(&self) -> Result<(), SyncError> {
        let Some(now) = self.store.sys().clock.wall() else {
            return Ok(());
        };
        self.state.set(|state| state.looked = Some(now));
        let noted = self.store.last_look()?.filter(|noted| *noted <= now);
        let with = self.upstream.fingerprint();
        if noted.is_none_or(|noted| now.since(noted) >= LOOK_INTERVAL.as_secs())
            || self.store.looked_with()?.as_ref() != Some(&with)
        {
            self.store.record_look(now, with).await?;
        }
        Ok(())
    }
}

//! What the parent desires of this node and of those below it.

use std::time::Duration;

use super::error::SyncError;
use super::window::LOOK_INTERVAL;
use super::worker::Worker;
use crate::gateway::UpstreamError;
use crate::types::connected_registry::DetailCode;
use crate::types::message::NodeConfig;

/// How the keys of problems begin that are about desired states which cannot be had.
const MISSING: &str = "desired-";

/// How long one that cannot be had is not asked for again.
const AGAIN: Duration = Duration::from_secs(300);

impl Worker {
    /// Asks once more for the desired states that could not be had, if it is time to; `asked` is
    /// when that was done last, monotonic.
    pub(super) async fn refresh_missing(&self, asked: &mut Duration) -> Result<(), SyncError> {
        let now = self.store.sys().clock.monotonic();
        if now.saturating_sub(*asked) >= AGAIN && self.state.has_problem(MISSING) {
            *asked = now;
            self.refresh_config().await?;
        }
        Ok(())
    }

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
        self.state.keep_problems(MISSING, |name| config.lists(name));
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
            let problem = format!("{MISSING}{name}");
            match self.upstream.config(name, None).await {
                // The parent may have another one than it lists, until it has that one.
                Ok(Some((config, version))) => {
                    let one = self.store.receive_descendant(config, version).await;
                    written = written.and(one);
                    self.state.solved(&problem);
                }
                Ok(None) => {}
                // It was deleted a moment ago, or the parent does not have it yet: either way the
                // parent has another desired state for this node soon.
                Err(UpstreamError::NotFound(_) | UpstreamError::Forbidden(_)) => {}
                // This one cannot be had; this node and the others can do without. It is asked for
                // again after a while.
                Err(UpstreamError::Protocol(text) | UpstreamError::Busy(_, text)) => {
                    self.state.problem(&problem, DetailCode::SyncFailed, text);
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

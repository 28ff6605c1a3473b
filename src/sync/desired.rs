//! What the parent desires of this node and of those below it.

use std::convert::Infallible;
use std::time::Duration;

use smol::channel::Receiver;

use super::error::SyncError;
use super::refusal::is_unreachable;
use super::window::LOOK_INTERVAL;
use super::worker::Worker;
use crate::gateway::UpstreamError;
use crate::sys::clock::within;
use crate::types::connected_registry::DetailCode;
use crate::types::message::NodeConfig;

/// How the keys of problems begin that are about desired states which cannot be had.
pub(super) const MISSING: &str = "desired-";

/// When those are asked for again that could not be had: the pause doubles from the first to the
/// longest.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// How often the parent is asked for the desired state while no poll can tell that it changed.
const HEAR: Duration = Duration::from_secs(5);

/// When the desired states of nodes below are asked for again that could not be had.
#[derive(Default)]
pub(super) struct Missing {
    /// Monotonic; `None`: none is missing.
    due: Option<Duration>,
    pause: Duration,
}

impl Missing {
    /// What came of asking for them.
    fn note(&mut self, is_missing: bool, now: Duration) {
        if !is_missing {
            *self = Missing::default();
            return;
        }
        self.pause = (self.pause * 2).clamp(AGAIN, AGAIN_MAX);
        self.due = Some(now + self.pause);
    }

    fn is_any(&self) -> bool {
        self.due.is_some()
    }

    /// How long it is until they are asked for, if there are any.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        self.due.map(|due| due.saturating_sub(now))
    }
}

impl Worker {
    /// Asks once more for the desired states that could not be had, if it is time to.
    pub(super) async fn refresh_missing(&self) -> Result<(), SyncError> {
        let next = self.state.missing().next(self.store.sys().clock.monotonic());
        if next.is_some_and(|next| next.is_zero()) {
            self.refresh_config().await?;
        }
        Ok(())
    }

    /// Asks for the desired state now and then until `done` is closed, and is not left in the
    /// middle of it. An error says that the parent has nothing more for this node: whether the link
    /// is broken shows where content comes.
    pub(super) async fn hear_until(&self, done: Receiver<Infallible>) -> Result<(), SyncError> {
        while within(HEAR, done.recv()).await.is_err() {
            match self.refresh_config().await {
                Err(error) if error.ends_session() && !is_unreachable(&error) => return Err(error),
                Err(error) => log::debug!("the configuration cannot be asked for: {error}"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Fetches the desired states that changed: this node's and those of its descendants. What one
    /// grants is durable before it takes effect; what this node's own takes away counts at once,
    /// and what cannot be written is passed on to the nodes below all the same.
    pub(super) async fn refresh_config(&self) -> Result<(), SyncError> {
        let _refreshing = self.refreshing.lock().await;
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
        let Some(config) = self.store.newest_config()? else {
            written?;
            return self.note_look().await;
        };
        if self.store.activated_epoch()?.is_some_and(|epoch| epoch < config.node.activation_epoch) {
            if written.is_ok() {
                self.note_look().await?;
            }
            let text = "the connected registry was deactivated".to_owned();
            return Err(UpstreamError::AlreadyActivated(text).into());
        }
        self.state.keep_problems(MISSING, |name| config.lists(name));
        self.refresh_descendants(&config).await?;
        written?;
        // A look that was cut short is no look: the nodes below wait for the rest.
        let is_whole = !self.state.missing().is_any();
        if is_whole { self.note_look().await } else { Ok(()) }
    }

    async fn refresh_descendants(&self, config: &NodeConfig) -> Result<(), SyncError> {
        let (mut written, mut is_missing) = (Ok(()), false);
        for descendant in &config.descendants {
            let name = &descendant.name;
            let problem = format!("{MISSING}{name}");
            if self.store.descendant_version(name)?.as_ref() == Some(&descendant.version) {
                self.state.solved(&problem);
                continue;
            }
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
                Err(UpstreamError::NotFound(_) | UpstreamError::Forbidden(_)) => is_missing = true,
                Err(error) => {
                    let is_garbage = matches!(error, UpstreamError::Protocol(_));
                    let error = SyncError::from(error);
                    if !is_garbage && !error.is_of_item() {
                        return Err(error);
                    }
                    // This one cannot be had; this node and the others can do without.
                    is_missing = true;
                    let text = format!("the desired state of {name} cannot be had: {error}");
                    self.state.problem(&problem, DetailCode::SyncFailed, text);
                }
            }
        }
        self.state.missing().note(is_missing, self.store.sys().clock.monotonic());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f204_what_is_missing_is_asked_for_soon_and_then_less_often() {
        let (mut missing, mut now) = (Missing::default(), Duration::from_secs(9));
        assert_eq!(missing.next(now), None);
        for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
            missing.note(true, now);
            assert_eq!(missing.next(now), Some(Duration::from_secs(pause)));
            now += Duration::from_secs(pause);
            assert_eq!(missing.next(now), Some(Duration::ZERO));
        }
        missing.note(false, now);
        assert_eq!(missing.next(now), None);
    }
}

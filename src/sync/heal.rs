//! Brings damaged content back from the parent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::Level;

use super::backoff;
use super::error::SyncError;
use super::fetch::Fetcher;
use crate::gateway::UpstreamError;
use crate::store::Store;
use crate::store::rows::link::Referred;
use crate::sys::clock::{sleep, within};
use crate::types::{Digest, Reason};

/// Damaged content that is gone through at a time.
const BATCH: usize = 64;
/// What could not be brought back is tried again after this time.
const RETRY: Duration = Duration::from_secs(300);

/// Damaged content of which the log says why it cannot be healed. Over it: the rest is for the
/// debug level, and `status` tells how much is damaged.
const TOLD_MAX: usize = 256;

/// Heals what a scrub or a read found damaged.
pub(super) struct Healer {
    pub(super) store: Store,
    pub(super) fetcher: Fetcher,
    /// Why content cannot be healed, as the log has it.
    pub(super) told: Mutex<BTreeMap<Digest, String>>,
}

impl Healer {
    /// Heals at once, then whenever something is found; ends with an error only.
    pub(super) async fn heal_all(&self) -> Result<Infallible, SyncError> {
        loop {
            let changes = self.store.damage_changes();
            self.heal_known().await?;
            let _ = within(RETRY, changes).await;
        }
    }

    /// Tries to heal everything that is known to be damaged, once. What cannot be healed is left
    /// for the next time; while the parent takes no requests that waits. An error concerns the
    /// parent as a whole.
    pub(super) async fn heal_known(&self) -> Result<(), SyncError> {
        let (mut after, mut refused) = (None, 0);
        let mut known = self.told().clone();
        loop {
            let damaged = self.store.damaged_after(after.as_ref(), BATCH);
            let Some(last) = damaged.last() else {
                // What is left of the known is not damaged any more.
                self.told().retain(|digest, _| !known.contains_key(digest));
                return Ok(());
            };
            after = Some(last.clone());
            for digest in &damaged {
                known.remove(digest);
                self.heal_patiently(digest, &mut refused).await?;
            }
        }
    }

    /// Tries to heal this content, again after a pause while the parent takes no requests at all.
    /// `refused`: how many in a row it has not taken.
    async fn heal_patiently(&self, digest: &Digest, refused: &mut u32) -> Result<(), SyncError> {
        loop {
            let Err(error) = self.heal(digest).await else {
                *refused = 0;
                self.told().remove(digest);
                return Ok(());
            };
            if !is_of_one(&error) && !is_busy(&error) {
                return Err(error);
            }
            let text = format!("{digest} cannot be healed just now: {error}");
            let level = if self.is_news(digest, &text) { Level::Warn } else { Level::Debug };
            log::log!(level, "{text}");
            if is_busy(&error) {
                *refused = refused.saturating_add(1);
                sleep(backoff::delay(*refused, &*self.store.sys().rng)).await;
            }
            if is_of_one(&error) {
                return Ok(());
            }
        }
    }

    /// Whether the log does not say this of the content already: it is tried again for ever.
    fn is_news(&self, digest: &Digest, text: &str) -> bool {
        let mut told = self.told();
        if told.get(digest).is_some_and(|known| known == text)
            || (told.len() >= TOLD_MAX && !told.contains_key(digest))
        {
            return false;
        }
        told.insert(digest.clone(), text.to_owned());
        true
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<Digest, String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches content anew, from any repository that refers to it.
    async fn heal(&self, digest: &Digest) -> Result<(), SyncError> {
        let mut last = None;
        for (repository, referred) in self.store.referring(digest).await? {
            let healed = match referred {
                Referred::Blob(size) => self.fetcher.blob(&repository, digest, size, None).await,
                Referred::Manifest(_) => {
                    self.fetcher.manifest(&repository, digest).await.map(|_| ())
                }
            };
            match healed {
                Ok(()) => return Ok(()),
                // Another repository may have it; what fails here fails for each.
                Err(error) if error.is_of_item() && !matches!(error, SyncError::Store(_)) => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        last.map_or(Ok(()), Err)
    }
}

/// Whether other content can be healed all the same. A disk here may fail at one file only; where
/// it fails as a whole, whatever else is written says so.
fn is_of_one(error: &SyncError) -> bool {
    matches!(error, SyncError::Store(_)) || error.is_of_item()
}

/// Whether the parent, or something before it, may take no other request either.
fn is_busy(error: &SyncError) -> bool {
    let damaged = Reason::ContentDamaged.name();
    matches!(error, SyncError::Upstream(UpstreamError::Busy(_, text)) if !text.contains(damaged))
}

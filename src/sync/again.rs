//! What was asked for lately though nothing needs it: who sets many tags for one image must not
//! have each of them ask the parent for all that it names and does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::closure::Closure;
use super::error::SyncError;
use super::fetch::Fetcher;
use crate::types::limits::MANIFESTS_BELOW_MAX;
use crate::types::{Digest, Manifest, RepositoryName};

/// How long what an image names without needing it is not asked for again.
const PAUSE: Duration = Duration::from_secs(600);

/// Images that are remembered. Over it: others are not asked about while these are.
const IMAGES_MAX: usize = 1024;

/// When it was asked for last, by repository and image.
#[derive(Default)]
pub(super) struct Again(Mutex<BTreeMap<(RepositoryName, Digest), Duration>>);

impl Again {
    /// Whether it may be asked for at `now`, monotonic; if so, it counts as asked for.
    pub(super) fn may_ask(
        &self,
        repository: &RepositoryName,
        image: &Digest,
        now: Duration,
    ) -> bool {
        // A panic elsewhere leaves whole entries behind.
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (repository.clone(), image.clone());
        if asked.contains_key(&key) || asked.len() >= IMAGES_MAX {
            asked.retain(|_, at| now.saturating_sub(*at) < PAUSE);
        }
        let may = !asked.contains_key(&key) && asked.len() < IMAGES_MAX;
        if may {
            asked.insert(key, now);
        }
        may
    }
}

impl Fetcher {
    /// Fetches what an image that is here names, and what may lie elsewhere, as far as it is not
    /// here and the parent has it by now.
    pub(super) async fn look_elsewhere(
        &self,
        repository: &RepositoryName,
        root: &Digest,
    ) -> Result<(), SyncError> {
        let (mut closure, mut left) = (Closure::new(root), vec![root.clone()]);
        let mut seen = BTreeSet::from([root.clone()]);
        while let Some(digest) = left.pop() {
            let Some(row) = self.store.manifest(repository, &digest)? else { continue };
            for blob in row.elsewhere.iter().flatten() {
                if self.store.blob_linked(repository, blob)? {
                    continue;
                }
                if let Some(bytes) = self.store.blob_read(&digest).await?
                    && let Ok(parsed) = Manifest::parse(Some(&row.media_type), &bytes)
                {
                    closure.note_named(&parsed);
                }
                break;
            }
            let below = row.children.into_iter().filter(|child| seen.insert(child.clone()));
            left.extend(below.take(MANIFESTS_BELOW_MAX - left.len().min(MANIFESTS_BELOW_MAX)));
        }
        // Of a type that nobody knows, a manifest comes along with the image only.
        let _ = self.find_optional(repository, &mut closure).await?;
        self.blobs(repository, closure.optional, false).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    /// Symptom: one push that set 64 tags for one image had each device ask its parent 32,800
    /// times, and everything else waited.
    #[test]
    fn f206_f209_an_image_is_asked_about_once_in_a_while_whatever_names_it() {
        let (again, app) = (Again::default(), "app".parse().unwrap());
        let image = |number: usize| {
            let mut raw = [0; 32];
            raw[..8].copy_from_slice(&number.to_be_bytes());
            Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
        };
        let may_ask =
            |number, seconds| again.may_ask(&app, &image(number), Duration::from_secs(seconds));
        assert!(may_ask(0, 5));
        assert!(!may_ask(0, 604));
        assert!((1..IMAGES_MAX).all(|number| may_ask(number, 6)));
        assert!(!may_ask(IMAGES_MAX, 7), "no more are remembered");
        assert!(may_ask(0, 605));
        assert!(may_ask(IMAGES_MAX, 606), "those of before are forgotten");
    }
}

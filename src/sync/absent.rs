//! Digests that the parent said it does not have, of content that an image names without needing
//! it. A device remembers them for a while: otherwise each of many tags for one image would have it
//! ask for all of them again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::types::{Digest, RepositoryName};

/// How long something is not asked for again.
const PAUSE: Duration = Duration::from_secs(600);

/// Digests of a repository that are remembered. Over it: nothing else of it is asked for while
/// these are.
const DIGESTS_MAX: usize = 256;

/// Repositories of which some are remembered. Over it: what is known of another one is forgotten.
const REPOSITORIES_MAX: usize = 64;

/// When the parent last said so, by repository and digest.
#[derive(Default)]
pub(super) struct Absent(Mutex<BTreeMap<RepositoryName, BTreeMap<Digest, Duration>>>);

impl Absent {
    /// Whether the parent may have this at `now`, monotonic.
    pub(super) fn is_worth_asking(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        now: Duration,
    ) -> bool {
        let mut absent = self.table();
        let Some(known) = absent.get_mut(repository) else { return true };
        if known.len() >= DIGESTS_MAX || known.contains_key(digest) {
            known.retain(|_, at| now.saturating_sub(*at) < PAUSE);
        }
        known.len() < DIGESTS_MAX && !known.contains_key(digest)
    }

    /// The parent does not have this.
    pub(super) fn note(&self, repository: &RepositoryName, digest: &Digest, now: Duration) {
        let mut absent = self.table();
        if !absent.contains_key(repository) && absent.len() >= REPOSITORIES_MAX {
            absent.pop_first();
        }
        let known = absent.entry(repository.clone()).or_default();
        if known.len() < DIGESTS_MAX {
            known.insert(digest.clone(), now);
        }
    }

    /// The parent has this after all.
    pub(super) fn forget(&self, repository: &RepositoryName, digest: &Digest) {
        if let Some(known) = self.table().get_mut(repository) {
            known.remove(digest);
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<RepositoryName, BTreeMap<Digest, Duration>>> {
        // A panic elsewhere leaves whole entries behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    /// Symptom: one push that set 64 tags for one image had each device ask its parent 32,800
    /// times, and everything else waited.
    #[test]
    fn f206_f209_what_the_parent_does_not_have_is_asked_for_once_in_a_while() {
        let (absent, app) = (Absent::default(), "app".parse().unwrap());
        let digest = |number: usize| {
            let mut raw = [0; 32];
            raw[..8].copy_from_slice(&number.to_be_bytes());
            Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
        };
        let second = Duration::from_secs;
        let is_worth = |name: &RepositoryName, number, at| {
            absent.is_worth_asking(name, &digest(number), second(at))
        };
        assert!(is_worth(&app, 0, 4));
        absent.note(&app, &digest(0), second(5));
        assert!(!is_worth(&app, 0, 604) && is_worth(&app, 1, 604) && is_worth(&app, 0, 605));
        (0..DIGESTS_MAX).for_each(|number| absent.note(&app, &digest(number), second(700)));
        assert!(!is_worth(&app, DIGESTS_MAX, 701), "no more of it are remembered");
        let other = |number: usize| format!("r{number:03}").parse::<RepositoryName>().unwrap();
        assert!(is_worth(&other(0), DIGESTS_MAX, 701), "another repository");
        absent.forget(&app, &digest(0));
        assert!(is_worth(&app, 0, 702) && is_worth(&app, DIGESTS_MAX, 702));
        (0..REPOSITORIES_MAX).for_each(|number| {
            absent.note(&other(number), &digest(0), second(703));
        });
        assert!(is_worth(&app, 1, 704), "what is known of another one is forgotten");
        assert!(!is_worth(&other(1), 0, 704));
    }
}

//! What the parent was asked for lately though nothing needs it: who sets many tags for one image
//! must not have each of them ask for all that it names and the parent does not have.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::types::{Digest, RepositoryName};

/// How long something is not asked for again.
const PAUSE: Duration = Duration::from_secs(600);

/// Digests that are remembered. Over it: nothing else is asked for while these are.
const DIGESTS_MAX: usize = 1024;

/// When each was asked for last.
#[derive(Default)]
pub(super) struct Again(Mutex<BTreeMap<(RepositoryName, Digest), Duration>>);

impl Again {
    /// Whether this may be asked for at `now`, monotonic; if so, it counts as asked for.
    pub(super) fn may_ask(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        now: Duration,
    ) -> bool {
        // A panic elsewhere leaves whole entries behind.
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (repository.clone(), digest.clone());
        if asked.contains_key(&key) || asked.len() >= DIGESTS_MAX {
            asked.retain(|_, at| now.saturating_sub(*at) < PAUSE);
        }
        let may = !asked.contains_key(&key) && asked.len() < DIGESTS_MAX;
        if may {
            asked.insert(key, now);
        }
        may
    }

    /// The answers did not come.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    /// Symptom: one push that set 64 tags for one image had each device ask its parent 32,800
    /// times, and everything else waited.
    #[test]
    fn f206_f209_what_is_not_needed_is_asked_for_once_in_a_while_whatever_names_it() {
        let (again, app) = (Again::default(), "app".parse().unwrap());
        let digest = |number: usize| {
            let mut raw = [0; 32];
            raw[..8].copy_from_slice(&number.to_be_bytes());
            Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
        };
        let may_ask =
            |number, seconds| again.may_ask(&app, &digest(number), Duration::from_secs(seconds));
        assert!(may_ask(0, 5));
        assert!(!may_ask(0, 604));
        assert!((1..DIGESTS_MAX).all(|number| may_ask(number, 6)));
        assert!(!may_ask(DIGESTS_MAX, 7), "no more are remembered");
        assert!(may_ask(0, 605));
        assert!(may_ask(DIGESTS_MAX, 606), "those of before are forgotten");
        again.forget();
        assert!(may_ask(0, 607));
    }
}

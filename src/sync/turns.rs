//! Whose turn it is to be pushed. A repository whose push fails waits by itself: its own changes
//! stay in order behind the one that failed, those of the others go on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::backoff;
use crate::sys::Rng;
use crate::types::RepositoryName;

/// How long a repository, of which a change was set aside for what many may meet at once, does not
/// wait for another that meets it: its content cannot be read here, does not stay at the parent, or
/// finds no room there.
const IMPATIENT: Duration = Duration::from_secs(600);

/// Repositories whose last push failed, or of which a change was set aside: no more of them than
/// have changes on their way up.
#[derive(Default)]
pub(super) struct Turns {
    failed: BTreeMap<RepositoryName, Failed>,
    /// Until when nothing is waited for, monotonic.
    impatient: BTreeMap<RepositoryName, Duration>,
}

struct Failed {
    /// In a row.
    times: u32,
    /// Monotonic.
    until: Duration,
}

impl Turns {
    /// Whether a push of this repository failed, and none has worked since.
    pub(super) fn waits(&self, repository: &RepositoryName) -> bool {
        self.failed.contains_key(repository)
    }

    /// How many pushes of this repository have failed in a row.
    pub(super) fn times(&self, repository: &RepositoryName) -> u32 {
        self.failed.get(repository).map_or(0, |failed| failed.times)
    }

    /// A change was set aside for what many may meet at once.
    pub(super) fn set_aside(&mut self, repository: &RepositoryName, now: Duration) {
        self.impatient.retain(|_, until| *until > now);
        self.impatient.insert(repository.clone(), now.saturating_add(IMPATIENT));
    }

    /// Whether that is waited for no more, because a change was set aside for it a while ago.
    pub(super) fn is_impatient(&self, repository: &RepositoryName, now: Duration) -> bool {
        self.impatient.get(repository).is_some_and(|until| *until > now)
    }

    /// A push worked, or there is none left.
    pub(super) fn worked(&mut self, repository: &RepositoryName) {
        self.failed.remove(repository);
    }

    /// A push failed and is to be tried again. When it took the connection to the parent along
    /// (`session_ends`), whoever connects again waits for all; the repository has only to let the
    /// others go first.
    pub(super) fn failed(
        &mut self,
        repository: &RepositoryName,
        session_ends: bool,
        now: Duration,
        rng: &dyn Rng,
    ) {
        let failed = self.failed.entry(repository.clone());
        let failed = failed.or_insert(Failed { times: 0, until: now });
        failed.times = failed.times.saturating_add(1);
        failed.until = match session_ends {
            true => now,
            false => now.saturating_add(backoff::delay(failed.times, rng)),
        };
    }

    /// Repositories that have waited long enough, those that failed least first.
    pub(super) fn due(&self, now: Duration) -> Vec<RepositoryName> {
        let mut due: Vec<_> =
            self.failed.iter().filter(|(_, failed)| failed.until <= now).collect();
        due.sort_by_key(|(_, failed)| failed.times);
        due.into_iter().map(|(repository, _)| repository.clone()).collect()
    }

    /// How long until one is due; `None` when none waits.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        self.failed.values().map(|failed| failed.until.saturating_sub(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SystemRng;

    #[test]
    fn f130_each_repository_waits_for_itself() {
        let (rng, now) = (SystemRng::new(), Duration::from_secs(100));
        let [app, lab, other] = ["app", "lab", "other"].map(|name| name.parse().unwrap());
        let mut turns = Turns::default();
        assert_eq!((turns.due(now), turns.next(now)), (vec![], None));
        for _ in 0..3 {
            turns.failed(&app, false, now, &rng);
        }
        turns.failed(&lab, false, now, &rng);
        assert!(turns.waits(&app) && turns.waits(&lab) && !turns.waits(&other));
        assert_eq!(turns.due(now), []);
        assert_eq!([&app, &lab, &other].map(|name| turns.times(name)), [3, 1, 0]);
        let next = turns.next(now).unwrap();
        assert!((500..=1000).contains(&next.as_millis()), "{next:?}: that of lab");
        assert_eq!(turns.due(now + next), std::slice::from_ref(&lab));
        assert_eq!(turns.due(now + backoff::LONGEST), [lab.clone(), app.clone()]);
        turns.worked(&lab);
        assert!(!turns.waits(&lab));
        turns.set_aside(&lab, now);
        let impatient = |turns: &Turns, name, time| turns.is_impatient(name, time);
        assert!(impatient(&turns, &lab, now) && !impatient(&turns, &app, now));
        assert!(!impatient(&turns, &lab, now + IMPATIENT));
        // A push that breaks every connection comes last and does not wait longer than the session.
        turns.failed(&app, true, now, &rng);
        turns.failed(&other, true, now, &rng);
        assert_eq!((turns.due(now), turns.next(now)), (vec![other, app], Some(Duration::ZERO)));
    }
}

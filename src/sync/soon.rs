//! Changes that the parent did not take, and may take soon.

use std::collections::BTreeSet;
use std::time::Duration;

/// The time from one round to the next in which what the parent refused is tried again: it may
/// have more room, and tells nobody. What is refused again and again is left out of more rounds.
pub(super) const RETRY_REFUSED: Duration = Duration::from_secs(3600);

/// The time until what may be taken soon is tried again: the parent's disk is full or failed at
/// this, or other uploads keep the room of a quota there, or it does not grant what the desired
/// state of this node grants. It doubles, up to [`RETRY_REFUSED`], until something works or there
/// is other news.
const RETRY_SOON: Duration = Duration::from_secs(120);

/// Changes that are tried again so soon. Over it: the rest waits until one of them goes up, or for
/// [`RETRY_REFUSED`].
const SOON_MAX: usize = 1024;

/// Changes that the parent may take soon.
#[derive(Default)]
pub(super) struct Soon {
    pub(super) numbers: BTreeSet<u64>,
    /// When they are tried, monotonic.
    due: Duration,
    /// From when the first was set aside to then; below [`RETRY_SOON`] that counts.
    pause: Duration,
    /// There were more than [`SOON_MAX`].
    more: bool,
    /// When that was last told, monotonic.
    told: Option<Duration>,
}

impl Soon {
    pub(super) fn due(&self, now: Duration) -> Vec<u64> {
        let due = self.numbers.iter().copied();
        if now >= self.due { due.collect() } else { Vec::new() }
    }

    pub(super) fn add(&mut self, number: u64, now: Duration) {
        if self.numbers.is_empty() {
            let pause = self.pause.max(RETRY_SOON);
            (self.due, self.pause) = (now + pause, RETRY_REFUSED.min(pause * 2));
        }
        match self.numbers.len() < SOON_MAX {
            true => drop(self.numbers.insert(number)),
            false => self.more = true,
        }
    }

    /// How long it is until they are due, if there are any.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        (!self.numbers.is_empty()).then(|| self.due.saturating_sub(now))
    }

    /// What was refused went up: the pause begins anew, also for what is set aside already. Whether
    /// more is set aside than is tried soon, told once in [`RETRY_SOON`] at most: a parent may have
    /// room for one change after the other.
    #[must_use]
    pub(super) fn hope(&mut self, now: Duration) -> bool {
        self.pause = Duration::ZERO;
        self.due = self.due.min(now + RETRY_SOON);
        let is_told = self.told.is_some_and(|told| now.saturating_sub(told) < RETRY_SOON);
        let more = self.more && !is_told;
        if more {
            (self.more, self.told) = (false, Some(now));
        }
        more
    }

    /// The parent or the desired state has changed, and all changes are tried now.
    pub(super) fn begin_anew(&mut self) {
        *self = Soon { told: self.told, ..Soon::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn f127_f204_the_pause_doubles_up_to_an_hour_until_there_is_hope() {
        let mut soon = Soon::default();
        let mut now = at(5);
        for pause in [120, 240, 480, 960, 1920, 3600, 3600, 120] {
            // The last one after something worked.
            if pause == 120 {
                assert!(!soon.hope(now));
            }
            assert_eq!(soon.next(now), None);
            soon.add(7, now);
            // One that comes later does not put off the first, nor double the pause.
            soon.add(8, now + at(60));
            assert_eq!(soon.next(now), Some(at(pause)));
            assert_eq!(soon.due(now + at(pause - 1)), [0; 0]);
            now += at(pause);
            assert_eq!(soon.due(now), [7, 8]);
            soon.numbers.clear();
        }
    }

    /// What was set aside before waited for an hour all the same.
    #[test]
    fn f127_f204_there_is_hope_for_what_is_set_aside_already() {
        let mut soon = Soon { pause: at(3600), ..Soon::default() };
        soon.add(7, at(0));
        assert!(!soon.hope(at(60)));
        assert_eq!((soon.due(at(179)), soon.due(at(180))), (vec![], vec![7]));
        soon.begin_anew();
        soon.add(9, at(60));
        assert_eq!((soon.due(at(179)), soon.due(at(180))), (vec![], vec![9]));
    }

    #[test]
    fn f204_what_is_tried_soon_has_a_bound() {
        let mut soon = Soon::default();
        (0..=SOON_MAX as u64).for_each(|number| soon.add(number, at(0)));
        assert_eq!(soon.due(at(120)).len(), SOON_MAX);
    }

    /// Symptom: of 1,733 pushes that found no room at the parent 1,024 went up when there was some,
    /// and the others an hour later.
    #[test]
    fn f127_f204_what_is_more_than_is_tried_soon_is_tried_when_one_goes_up() {
        let mut soon = Soon::default();
        (0..SOON_MAX as u64).for_each(|number| soon.add(number, at(0)));
        assert!(!soon.hope(at(1)));
        soon.add(SOON_MAX as u64, at(1));
        assert_eq!(soon.numbers.len(), SOON_MAX);
        assert_eq!((soon.hope(at(2)), soon.hope(at(3))), (true, false));
        // Not each time: a parent may have room for one after the other.
        soon.begin_anew();
        (0..=SOON_MAX as u64).for_each(|number| soon.add(number, at(4)));
        assert_eq!([5, 121, 122, 123].map(|now| soon.hope(at(now))), [false, false, true, false]);
    }
}

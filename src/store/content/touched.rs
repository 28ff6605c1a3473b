//! When content was last touched, of as many digests as a node meets in a grace: of the latest
//! exactly, of those before by filters (Bloom, "Space/time trade-offs in hash coding with allowable
//! errors", 1970), which take one of some hundred that were not touched for one that was, and never
//! miss one. Who pushes very much so keeps a little more, instead of all; who touches the same
//! again and again keeps what was touched somewhat longer.

use std::collections::BTreeMap;
use std::time::Duration;

/// Digests of which it is known exactly, some 35 bytes each. Over it: they go into a filter.
const EXACT_MAX: usize = 32_768;

/// Filters, 64 KiB each. Over it: two become one. Of twice as many digests as all of them are
/// meant for, two of five that were not touched is taken for one that was.
const FILTERS_MAX: usize = 16;

/// Bits of a filter, a power of two: with 16 for each digest one of 1,700 others is taken for one
/// of its own.
const FILTER_BITS: u64 = 16 * EXACT_MAX as u64;

/// Bits of each digest.
const BITS_EACH: u64 = 8;

/// Digests by their first eight bytes, with the monotonic time when each was last touched.
#[derive(Default)]
pub(super) struct Touched {
    exact: BTreeMap<u64, Duration>,
    /// The oldest first.
    filters: Vec<Filter>,
}

struct Filter {
    bits: Vec<u64>,
    /// When the first of its digests was touched.
    from: Duration,
    /// When the last of its digests was touched.
    until: Duration,
}

impl Touched {
    pub(super) fn touch(&mut self, digest: u64, now: Duration) {
        if self.exact.len() >= EXACT_MAX && !self.exact.contains_key(&digest) {
            self.filters.push(Filter::of(&self.exact));
            self.exact.clear();
            if self.filters.len() > FILTERS_MAX {
                self.join_two();
            }
        }
        // Whoever read the clock first may come last.
        let last = self.exact.entry(digest).or_default();
        *last = now.max(*last);
    }

    /// When it was last touched, or later; `None`: not that is remembered.
    pub(super) fn last(&self, digest: u64) -> Option<Duration> {
        let filtered = || self.filters.iter().rev().find(|filter| filter.has(digest));
        let known = self.exact.get(&digest).copied();
        known.or_else(|| filtered().map(|filter| filter.until))
    }

    /// Joins the two neighbours that were filled in the shortest time together, so that all filters
    /// come to stand for about the same length of time.
    fn join_two(&mut self) {
        let span = |later: &usize| {
            self.filters[*later].until.saturating_sub(self.filters[*later - 1].from)
        };
        let Some(later) = (1..self.filters.len()).min_by_key(span) else { return };
        let later_filter = self.filters.remove(later);
        self.filters[later - 1].add(&later_filter);
    }

    /// Forgets what was last touched before `since`.
    pub(super) fn forget_before(&mut self, since: Duration) {
        self.exact.retain(|_, at| *at >= since);
        self.filters.retain(|filter| filter.until >= since);
    }
}

impl Filter {
    fn of(digests: &BTreeMap<u64, Duration>) -> Filter {
        let mut bits = vec![0_u64; usize::try_from(FILTER_BITS / 64).unwrap_or_default()];
        for (word, bit) in digests.keys().copied().flat_map(places) {
            bits[word] |= bit;
        }
        let (first, last) = (digests.values().min(), digests.values().max());
        let at = |time: Option<&Duration>| time.copied().unwrap_or_default();
        Filter { bits, from: at(first), until: at(last) }
    }

    /// With those of a filter that was filled after this one.
    fn add(&mut self, later: &Filter) {
        self.bits.iter_mut().zip(&later.bits).for_each(|(word, more)| *word |= more);
        self.until = later.until;
    }

    fn has(&self, digest: u64) -> bool {
        places(digest).all(|(word, bit)| self.bits[word] & bit != 0)
    }
}

/// The bits of a digest: the word, and the bit in it.
fn places(digest: u64) -> impl Iterator<Item = (usize, u64)> {
    // Two hashes make as many as are needed (Kirsch and Mitzenmacher, "Less hashing, same
    // performance", 2006).
    let mixed = digest.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (first, step) = (mixed >> 32, mixed & 0xffff_ffff | 1);
    (0..BITS_EACH).map(move |number| {
        let place = first.wrapping_add(number * step) % FILTER_BITS;
        (usize::try_from(place / 64).unwrap_or_default(), 1 << (place % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// The first bytes of a digest.
    fn digest(number: u64) -> u64 {
        let hash = ring::digest::digest(&ring::digest::SHA256, &number.to_be_bytes());
        u64::from_be_bytes(hash.as_ref()[..8].try_into().unwrap())
    }

    /// Symptom: who pushed and deleted 65,537 blobs in a grace kept every collection from removing
    /// anything. Cause: with more than could be remembered everything counted as touched just now.
    #[test]
    fn f141_f209_very_many_that_are_touched_keep_little_else() {
        let (mut touched, page) = (Touched::default(), EXACT_MAX as u64);
        let pages = FILTERS_MAX as u64 + 1;
        for number in 0..pages * page {
            touched.touch(digest(number), second(10 + number / page));
        }
        for number in (0..pages * page).step_by(101) {
            let at = touched.last(digest(number));
            assert_eq!(at.max(Some(second(10 + number / page))), at, "{number}");
        }
        let kept = |touched: &Touched| {
            let others = (0..10_000).map(|number| digest(u64::MAX - number));
            others.filter(|other| touched.last(*other).is_some()).count()
        };
        assert!(kept(&touched) < 300, "{} of 10000", kept(&touched));
        // As many again.
        for number in pages * page..2 * pages * page {
            touched.touch(digest(number), second(10 + number / page));
        }
        for number in (0..2 * pages * page).step_by(101) {
            let at = touched.last(digest(number));
            assert_eq!(at.max(Some(second(10 + number / page))), at, "{number}");
        }
        assert!(kept(&touched) < 4500, "{} of 10000", kept(&touched));
        touched.forget_before(second(10 + 2 * pages - 1));
        assert!(kept(&touched) < 100, "{} of 10000", kept(&touched));
        touched.forget_before(second(1000));
        assert_eq!(touched.last(digest(2 * pages * page - 1)), None);
    }

    /// Symptom: who pushed and deleted 40,000 blobs in turn kept every collection from removing
    /// anything. Cause: each touch counted as one of something else.
    #[test]
    fn f141_f209_what_is_touched_again_and_again_keeps_nothing_else() {
        const TURNS: u64 = 60;
        let (mut touched, unused) = (Touched::default(), digest(u64::MAX));
        touched.touch(unused, second(1));
        for turn in 0..TURNS {
            for number in 0..40_000 {
                touched.touch(digest(number), second(2 + turn));
            }
        }
        let kept =
            (0..10_000).filter(|number| touched.last(digest(u64::MAX / 2 - number)).is_some());
        assert!(kept.count() < 300);
        let last = touched.last(unused);
        assert!((Some(second(1))..Some(second(2 + TURNS / 4))).contains(&last), "{last:?}");
        for number in (0..40_000).step_by(101) {
            assert_eq!(touched.last(digest(number)), Some(second(1 + TURNS)), "{number}");
        }
        touched.forget_before(second(2 + TURNS / 4));
        assert_eq!(touched.last(unused), None);
    }
}

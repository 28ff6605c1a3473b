//! When content was last touched, of as many digests as a node meets in a grace: of the latest
//! exactly, of those before by filters (Bloom, "Space/time trade-offs in hash coding with allowable
//! errors", 1970), which take one of some hundred that were not touched for one that was, and never
//! miss one. Who pushes very much so keeps a little more, instead of all.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Digests of which it is known exactly, some 35 bytes each. Over it: they go into a filter.
const EXACT_MAX: usize = 32_768;

/// Filters, 64 KiB each. Over it: all content counts as touched when the last one in the oldest
/// was.
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
    filters: VecDeque<Filter>,
    /// Until when everything may have been touched: what is known of it no more.
    all: Option<Duration>,
}

struct Filter {
    bits: Vec<u64>,
    /// When the last of its digests was touched.
    until: Duration,
}

impl Touched {
    pub(super) fn touch(&mut self, digest: u64, now: Duration) {
        if self.exact.len() >= EXACT_MAX && !self.exact.contains_key(&digest) {
            if self.filters.len() >= FILTERS_MAX {
                self.all = self.all.max(self.filters.pop_front().map(|filter| filter.until));
            }
            self.filters.push_back(Filter::of(&self.exact));
            self.exact.clear();
        }
        self.exact.insert(digest, now);
    }

    /// When it was last touched, or later; `None`: not that is remembered.
    pub(super) fn last(&self, digest: u64) -> Option<Duration> {
        let filtered = || self.filters.iter().rev().find(|filter| filter.has(digest));
        let known = self.exact.get(&digest).copied();
        known.or_else(|| filtered().map(|filter| filter.until)).max(self.all)
    }

    /// Forgets what was last touched before `since`.
    pub(super) fn forget_before(&mut self, since: Duration) {
        self.exact.retain(|_, at| *at >= since);
        self.filters.retain(|filter| filter.until >= since);
        self.all = self.all.filter(|at| *at >= since);
    }
}

impl Filter {
    fn of(digests: &BTreeMap<u64, Duration>) -> Filter {
        let mut bits = vec![0_u64; usize::try_from(FILTER_BITS / 64).unwrap_or_default()];
        for (word, bit) in digests.keys().copied().flat_map(places) {
            bits[word] |= bit;
        }
        Filter { bits, until: digests.values().copied().max().unwrap_or_default() }
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
        let others = || (0..10_000).map(|number| digest(u64::MAX - number));
        let kept = others().filter(|other| touched.last(*other).is_some()).count();
        assert!(kept < 300, "{kept} of 10000");
        // What is forgotten was touched when the last of it was, at the latest.
        touched.touch(digest(pages * page), second(99));
        assert!(others().all(|other| touched.last(other) >= Some(second(10))));
        let late = others().filter(|other| touched.last(*other) > Some(second(10))).count();
        assert!(late < 300, "{late} of 10000");
        touched.forget_before(second(11));
        assert!(others().filter(|other| touched.last(*other).is_some()).count() < 300);
        assert_eq!(touched.last(digest(pages * page)), Some(second(99)));
        touched.forget_before(second(100));
        assert_eq!(touched.last(digest(pages * page)), None);
    }
}

//! Which accounts have how many of the uploads that may be open, and which of them make room.
//!
//! An account that has half of them or more gets none of the last quarter: its own upload that
//! made no progress for longest makes room, if that is longer than [`IDLE_AFTER`]. So one account
//! that opens uploads without end leaves a quarter to the others, and one that pushes alone loses
//! next to nothing.

use std::cmp::Reverse;
use std::time::Duration;

/// An upload of an account with so many makes room after this time without progress: longer than a
/// client takes from one chunk to the next.
const IDLE_AFTER: Duration = Duration::from_secs(60);
/// An upload of anybody makes room after this time without progress: clients seldom cancel what
/// they give up.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// An open upload.
pub(super) struct Slot {
    pub(super) id: String,
    /// Who started it; empty where that is not known.
    pub(super) account: String,
    /// The time without progress.
    pub(super) idle: Duration,
}

/// Whether another upload of this account may be opened, of `max` in all. `in_turn`: in the place
/// of one of its own, which has made room.
pub(super) fn is_free(open: &[Slot], max: usize, account: &str, in_turn: bool) -> bool {
    let is_last = max.saturating_sub(open.len()) <= max / 4;
    open.len() < max && (in_turn || !(is_last && is_large(open, max, account)))
}

/// The uploads that may make room for one of this account, best first.
pub(super) fn leaving(open: &[Slot], max: usize, account: &str) -> Vec<String> {
    let own = is_large(open, max, account);
    let may_leave = |slot: &&Slot| {
        if own {
            return slot.account == account && slot.idle >= IDLE_AFTER;
        }
        slot.idle >= ABANDONED_AFTER
            || slot.idle >= IDLE_AFTER && is_large(open, max, &slot.account)
    };
    let mut leaving: Vec<&Slot> = open.iter().filter(may_leave).collect();
    leaving.sort_by_key(|slot| Reverse(slot.idle));
    leaving.into_iter().map(|slot| slot.id.clone()).collect()
}

/// Whether an account has half of all or more.
fn is_large(open: &[Slot], max: usize, account: &str) -> bool {
    let own = open.iter().filter(|slot| slot.account == account).count();
    !account.is_empty() && own >= max.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(of: &[(&str, usize, u64)]) -> Vec<Slot> {
        let slot = |(account, number, idle): (&str, usize, u64)| Slot {
            id: format!("{account}{number}"),
            account: account.to_owned(),
            idle: Duration::from_secs(idle),
        };
        of.iter().flat_map(|(a, n, idle)| (0..*n).map(move |n| slot((a, n, *idle)))).collect()
    }

    #[test]
    fn f209_one_account_leaves_a_quarter_of_the_uploads_to_others() {
        let open = slots(&[("one", 47, 0)]);
        assert!(is_free(&open, 64, "one", false));
        let open = slots(&[("one", 48, 0)]);
        assert!(!is_free(&open, 64, "one", false) && is_free(&open, 64, "two", false));
        assert!(is_free(&slots(&[("one", 31, 0), ("two", 20, 0)]), 64, "one", false));
        assert!(!is_free(&slots(&[("one", 32, 0), ("two", 32, 0)]), 64, "three", false));
        // An upload of an earlier version has no account.
        assert!(is_free(&slots(&[("", 63, 0)]), 64, "", false));
        // The place of one of its own, but not when others have taken all meanwhile.
        assert!(is_free(&slots(&[("one", 39, 0), ("two", 24, 0)]), 64, "one", true));
        assert!(!is_free(&slots(&[("one", 39, 0), ("two", 25, 0)]), 64, "one", true));
    }

    #[test]
    fn f209_the_own_upload_that_is_idle_longest_makes_room_first() {
        let mut open = slots(&[("one", 48, 59), ("two", 16, 599)]);
        assert!(leaving(&open, 64, "one").is_empty());
        open[7].idle = Duration::from_secs(60);
        open[9].idle = Duration::from_secs(70);
        assert_eq!(leaving(&open, 64, "one"), ["one9", "one7"]);
        assert_eq!(leaving(&open, 64, "two"), ["one9", "one7"]);
        open[50].idle = Duration::from_secs(600);
        assert_eq!(leaving(&open, 64, "three"), ["two2", "one9", "one7"]);
        assert_eq!(leaving(&open, 64, "one"), ["one9", "one7"], "none of others");
    }
}

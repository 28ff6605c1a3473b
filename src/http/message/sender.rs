//! Who sends the body of a request.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::types::limits::{BODY_BYTES_PER_S, LOGIN_BODY_BYTES_MAX, LOGIN_BODY_DEADLINE};

/// Who sends a body: that bounds how much of it is taken, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sender {
    /// Anyone: the body is what a login is made of, or nothing was checked before it. At most
    /// [`LOGIN_BODY_BYTES_MAX`] within [`LOGIN_BODY_DEADLINE`].
    Anyone,
    /// Somebody whose credentials were verified before the body is read: a second more for each
    /// [`BODY_BYTES_PER_S`].
    LoggedIn(Account),
}

/// Whose login it was: what one account sends has its own share of the memory for bodies. Two
/// accounts of the same hash have one share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Account(u64);

impl Account {
    /// By the name of a token, or of whatever else logs in.
    pub fn of(name: &str) -> Account {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Account(hasher.finish())
    }
}

impl Sender {
    /// The longest body, where a route takes `max` bytes.
    pub(super) fn bytes_max(self, max: u64) -> u64 {
        match self {
            Sender::Anyone => max.min(LOGIN_BODY_BYTES_MAX),
            Sender::LoggedIn(_) => max,
        }
    }

    /// How long a body of this length may take.
    pub(super) fn deadline(self, bytes: u64) -> Duration {
        match self {
            Sender::Anyone => LOGIN_BODY_DEADLINE,
            Sender::LoggedIn(_) => {
                LOGIN_BODY_DEADLINE + Duration::from_secs(bytes.div_ceil(BODY_BYTES_PER_S))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Sender {
        Sender::LoggedIn(Account::of("my-token"))
    }

    #[test]
    fn f209_what_a_sender_may_take() {
        let seconds = |sender: Sender, bytes| sender.deadline(bytes).as_secs();
        assert_eq!(seconds(Sender::Anyone, 1 << 20), 10);
        for (bytes, limit) in [(0, 10), (1, 11), (65_536, 11), (65_537, 12), (4 << 20, 74)] {
            assert_eq!(seconds(known(), bytes), limit, "{bytes}");
        }
        assert_eq!(Sender::Anyone.bytes_max(1 << 20), LOGIN_BODY_BYTES_MAX);
        assert_eq!(Sender::Anyone.bytes_max(10), 10);
        assert_eq!(known().bytes_max(1 << 20), 1 << 20);
    }
}

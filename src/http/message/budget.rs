//! One budget of bytes over all connections for what is kept in memory of the bodies of requests
//! and of large replies.
//!
//! A handler reserves memory before it reads the first byte of a body. All bodies together thus
//! never take more than the budget, whatever length their senders announce and however slowly they
//! send. A request that waits for a reservation holds no memory. Requests without a login share
//! [`LOGIN_SHARE`]; the rest is only for requests with a login. Uploads,
//! which may take for ever, share [`UPLOAD_SHARE`] and never wait: without a reservation they
//! gather nothing. Replies, which may take as long, share [`REPLY_SHARE`]. One account has a
//! quarter, or the largest body, and half of the share of replies: however many connections it
//! opens, the others are served.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::{Event, listener};

use super::sender::{Account, Sender};
use crate::sys::clock;
use crate::types::limits::{
    BODY_WAIT_DEADLINE, LOGIN_SHARE, MANIFEST_BYTES_MAX, REPLY_SHARE, UPLOAD_SHARE,
};

/// Bytes that all bodies together may take; clones share them.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Mutex<Accounts>>,
}

struct Accounts {
    /// The whole budget, bytes.
    total: u64,
    /// Bytes of all reservations.
    used: u64,
    /// Bytes of them that requests without a login have reserved.
    used_before_login: u64,
    /// Bytes of them that uploads have reserved.
    used_by_uploads: u64,
    /// What each account that has logged in has reserved: at most one entry for each connection.
    used_by_account: BTreeMap<Account, u64>,
    /// What large replies have reserved, by whom they are for: at most one entry for each
    /// connection.
    used_by_replies: BTreeMap<Sender, u64>,
    /// Reservations that wait for free memory, first come first served.
    waiting: VecDeque<Arc<Ticket>>,
}

/// What a reservation is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A body that is received whole.
    Whole(Sender),
    /// Bytes of an upload that are gathered before they are written.
    Upload,
    /// A large reply to whoever sent the request.
    Reply(Sender),
}

const BEFORE_LOGIN: Purpose = Purpose::Whole(Sender::Anyone);

/// One reservation that waits or is granted.
struct Ticket {
    purpose: Purpose,
    bytes: u64,
    granted: AtomicBool,
    news: Event,
}

/// Reserved bytes. Dropping it gives them back; dropped while it waits, it waits no more.
pub struct Reservation {
    budget: Budget,
    ticket: Arc<Ticket>,
}

/// No memory became free in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: u64) -> Budget {
        let waiting = VecDeque::new();
        let accounts = Accounts {
            total,
            used: 0,
            used_before_login: 0,
            used_by_uploads: 0,
            used_by_account: BTreeMap::new(),
            used_by_replies: BTreeMap::new(),
            waiting,
        };
        Budget { shared: Arc::new(Mutex::new(accounts)) }
    }

    /// Reserves `bytes`, waiting for them at most [`BODY_WAIT_DEADLINE`].
    pub async fn reserve(&self, from: Sender, bytes: u64) -> Result<Reservation, Busy> {
        self.wait(Purpose::Whole(from), bytes).await
    }

    /// Reserves bytes for a large reply, waiting for them likewise.
    pub async fn reserve_for_reply(&self, to: Sender, bytes: u64) -> Result<Reservation, Busy> {
        self.wait(Purpose::Reply(to), bytes).await
    }

    async fn wait(&self, purpose: Purpose, bytes: u64) -> Result<Reservation, Busy> {
        let reservation = self.enqueue(purpose, bytes);
        let granted = async {
            loop {
                listener!(reservation.ticket.news => news);
                if reservation.is_granted() {
                    return;
                }
                news.await;
            }
        };
        clock::within(BODY_WAIT_DEADLINE, granted).await.map_err(|_| Busy)?;
        Ok(reservation)
    }

    /// Reserves bytes that an upload may gather, if they are free and nobody waits for them.
    pub fn reserve_for_upload(&self, bytes: u64) -> Result<Reservation, Busy> {
        self.reserve_now(Purpose::Upload, bytes)
    }

    /// Reserves bytes for a large reply, if they are free and nobody waits for them.
    pub fn reserve_for_reply_now(&self, to: Sender, bytes: u64) -> Result<Reservation, Busy> {
        self.reserve_now(Purpose::Reply(to), bytes)
    }

    fn reserve_now(&self, purpose: Purpose, bytes: u64) -> Result<Reservation, Busy> {
        let reservation = self.enqueue(purpose, bytes);
        if reservation.is_granted() { Ok(reservation) } else { Err(Busy) }
    }

    fn enqueue(&self, purpose: Purpose, bytes: u64) -> Reservation {
        let mut accounts = self.lock();
        // A request for more than its whole share would wait for ever.
        let bytes = bytes.min(accounts.share(purpose));
        let (granted, news) = (AtomicBool::new(false), Event::new());
        let ticket = Arc::new(Ticket { purpose, bytes, granted, news });
        accounts.waiting.push_back(ticket.clone());
        accounts.grant();
        Reservation { budget: self.clone(), ticket }
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = self.lock();
        write!(f, "{} of {} bytes reserved", accounts.used, accounts.total)
    }
}

impl Accounts {
    /// What may be reserved for a purpose at most.
    fn share(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Whole(Sender::LoggedIn(_)) => {
                (self.total / 4).max(MANIFEST_BYTES_MAX).min(self.total)
            }
            Purpose::Whole(Sender::Anyone) => self.part(LOGIN_SHARE),
            Purpose::Upload => self.part(UPLOAD_SHARE),
            Purpose::Reply(_) => self.part(REPLY_SHARE) / 2,
        }
    }

    fn part(&self, (parts, of): (u64, u64)) -> u64 {
        self.total / of * parts
    }

    /// Whether so many more bytes are over a share.
    fn is_full(&mut self, purpose: Purpose, bytes: u64) -> bool {
        let replies: u64 = self.used_by_replies.values().sum();
        let is_reply = matches!(purpose, Purpose::Reply(_));
        *self.used_of_share(purpose) + bytes > self.share(purpose)
            || is_reply && replies + bytes > self.part(REPLY_SHARE)
    }

    /// What is reserved of a share.
    fn used_of_share(&mut self, purpose: Purpose) -> &mut u64 {
        match purpose {
            Purpose::Whole(Sender::LoggedIn(account)) => {
                self.used_by_account.entry(account).or_default()
            }
            Purpose::Whole(Sender::Anyone) => &mut self.used_before_login,
            Purpose::Upload => &mut self.used_by_uploads,
            Purpose::Reply(sender) => self.used_by_replies.entry(sender).or_default(),
        }
    }

    /// Grants waiting reservations in their order. A later one overtakes only those that wait for
    /// a part of their own full share.
    fn grant(&mut self) {
        let (mut index, mut half_is_full) = (0, false);
        while let Some(ticket) = self.waiting.get(index) {
            let (purpose, bytes) = (ticket.purpose, ticket.bytes);
            let anyone = purpose == BEFORE_LOGIN;
            let full = self.is_full(purpose, bytes);
            half_is_full |= anyone && full;
            if full || anyone && half_is_full {
                index += 1;
                continue;
            }
            if bytes > self.total - self.used {
                return;
            }
            self.used += bytes;
            *self.used_of_share(purpose) += bytes;
            if let Some(ticket) = self.waiting.remove(index) {
                ticket.granted.store(true, Ordering::Release);
                ticket.news.notify(1);
            }
        }
    }
}

impl Reservation {
    fn is_granted(&self) -> bool {
        self.ticket.granted.load(Ordering::Acquire)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut accounts = self.budget.lock();
        if self.is_granted() {
            accounts.used -= self.ticket.bytes;
            *accounts.used_of_share(self.ticket.purpose) -= self.ticket.bytes;
        } else {
            accounts.waiting.retain(|waiting| !Arc::ptr_eq(waiting, &self.ticket));
        }
        accounts.grant();
        accounts.used_by_account.retain(|_, used| *used > 0);
        accounts.used_by_replies.retain(|_, used| *used > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYONE: Purpose = BEFORE_LOGIN;

    fn known() -> Sender {
        Sender::LoggedIn(Account::of("my-token"))
    }

    #[test]
    fn f209_a_part_is_only_for_those_who_have_logged_in() {
        let budget = Budget::new(100);
        let first = budget.enqueue(ANYONE, 30);
        let second = budget.enqueue(ANYONE, 30);
        let third = budget.enqueue(ANYONE, 5);
        assert!(first.is_granted() && !second.is_granted());
        assert!(!third.is_granted(), "it would overtake the second");
        let known = budget.enqueue(Purpose::Whole(known()), 70);
        assert!(known.is_granted(), "it waits for nobody's share");
        drop(first);
        assert!(second.is_granted(), "30 + 70");
        assert!(!third.is_granted());
        drop(known);
        assert!(third.is_granted());
        assert_eq!(format!("{budget:?}"), "35 of 100 bytes reserved");
        drop((second, third));
        assert_eq!(format!("{budget:?}"), "0 of 100 bytes reserved");
    }

    #[test]
    fn f209_first_come_first_served() {
        let budget = Budget::new(100);
        let all = budget.enqueue(Purpose::Whole(known()), 100);
        let large = budget.enqueue(Purpose::Whole(known()), 80);
        let other = Sender::LoggedIn(Account::of("other-token"));
        let small = budget.enqueue(Purpose::Whole(other), 30);
        let stranger = budget.enqueue(ANYONE, 10);
        drop(all);
        assert!(large.is_granted() && !small.is_granted());
        assert!(!stranger.is_granted(), "there is memory, but the small one came before");
        drop(small);
        assert!(stranger.is_granted(), "who gives up lets the next one in");
        assert_eq!(budget.enqueue(ANYONE, 1000).ticket.bytes, 36, "never more than its share");
        drop((large, stranger));
        assert!(budget.lock().waiting.is_empty());
    }

    #[test]
    fn f209_an_account_has_a_share_and_leaves_the_rest_to_others() {
        let of = |name: &str| Purpose::Whole(Sender::LoggedIn(Account::of(name)));
        let budget = Budget::new(64 << 20);
        let held: Vec<Reservation> = (0..12).map(|_| budget.enqueue(of("one"), 4 << 20)).collect();
        assert_eq!(held.iter().filter(|held| held.is_granted()).count(), 4);
        assert!(budget.enqueue(of("other"), 4 << 20).is_granted());
        drop(held);
        assert!(budget.lock().used_by_account.is_empty());
        // The smallest budget lets each have the largest body.
        let budget = Budget::new(2 * MANIFEST_BYTES_MAX);
        let (one, other) =
            (budget.enqueue(of("one"), 4 << 20), budget.enqueue(of("other"), 4 << 20));
        assert!(one.is_granted() && other.is_granted());
    }

    #[test]
    fn f209_uploads_share_a_part_and_never_wait() {
        let budget = Budget::new(80);
        let first = budget.reserve_for_upload(20).ok().unwrap();
        let second = budget.reserve_for_upload(10).ok().unwrap();
        assert_eq!(budget.reserve_for_upload(1).err(), Some(Busy));
        let (stranger, friend) =
            (budget.enqueue(ANYONE, 40), budget.enqueue(Purpose::Whole(known()), 10));
        assert!(stranger.is_granted() && friend.is_granted());
        let waiting = budget.enqueue(Purpose::Whole(known()), 25);
        drop(second);
        assert!(!waiting.is_granted());
        assert_eq!(budget.reserve_for_upload(1).err(), Some(Busy), "somebody waits for it");
        drop(first);
        assert!(waiting.is_granted());
        drop((stranger, friend, waiting));
        assert!(budget.reserve_for_upload(30).is_ok());
        assert_eq!(format!("{budget:?}"), "0 of 80 bytes reserved");
    }

    #[test]
    fn f209_replies_share_a_part_and_one_account_has_half_of_it() {
        let to = |name: &str| Sender::LoggedIn(Account::of(name));
        let budget = Budget::new(160);
        let first = budget.reserve_for_reply_now(to("one"), 10).ok().unwrap();
        assert_eq!(budget.reserve_for_reply_now(to("one"), 1).err(), Some(Busy));
        let second = budget.reserve_for_reply_now(to("other"), 1000).ok().unwrap();
        assert_eq!(second.ticket.bytes, 10, "never more than its share");
        assert_eq!(budget.reserve_for_reply_now(Sender::Anyone, 1).err(), Some(Busy));
        assert!(budget.enqueue(Purpose::Whole(to("one")), 40).is_granted(), "bodies have theirs");
        let waits = budget.enqueue(Purpose::Reply(to("one")), 5);
        assert!(!waits.is_granted());
        drop(first);
        assert!(waits.is_granted());
        drop((second, waits));
        assert_eq!(format!("{budget:?}"), "0 of 160 bytes reserved");
        assert!(budget.lock().used_by_replies.is_empty());
    }

    #[test]
    fn f209_a_wait_ends_with_room_or_in_time() {
        smol::block_on(async {
            let budget = Budget::new(10);
            let held = budget.reserve(known(), 10).await.ok();
            let waiter = budget.reserve(known(), 1);
            let release = async {
                smol::future::yield_now().await;
                drop(held);
                std::future::pending().await
            };
            assert!(smol::future::or(waiter, release).await.is_ok());
        });
    }
}

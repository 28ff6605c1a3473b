//! Who was in contact when: in memory only, because a poll writes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys::Sys;
use crate::types::connected_registry::ConnectionState;
use crate::types::schedule::Schedule;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, UnixSeconds};

/// A continuous child calls at least every [`CALL_INTERVAL`], or has a poll waiting; after this
/// time without either it is Offline.
pub const ONLINE_FOR: Duration = Duration::from_secs(45);

/// A child that has no poll waiting, because it is fetching content, calls this often.
pub const CALL_INTERVAL: Duration = Duration::from_secs(15);

/// A scheduled child is Offline after this many missed occurrences.
const MISSED_OCCURRENCES: usize = 3;

/// The last contact with each child.
pub struct Contacts {
    sys: Sys,
    children: Mutex<BTreeMap<ConnectedRegistryName, Contact>>,
    schedules: Mutex<BTreeMap<ConnectedRegistryName, (Schedule, Option<u64>)>>,
}

#[derive(Clone, Copy, Default)]
struct Contact {
    at: Duration,
    wall: Option<UnixSeconds>,
    polls: u32,
}

impl Contacts {
    /// Nobody was in contact yet.
    pub fn new(sys: &Sys) -> Arc<Contacts> {
        let (children, schedules) = Default::default();
        Arc::new(Contacts { sys: sys.clone(), children, schedules })
    }

    /// Notes a call of the instance that is active; one of another instance is no contact.
    pub fn touch(&self, name: &ConnectedRegistryName) {
        self.update(name, |_| {});
    }

    /// Notes that a child has what is desired of it: this schedule is in force there from now on.
    pub fn tell(&self, node: &ConnectedRegistry) {
        let mut schedules = self.schedules.lock().unwrap_or_else(PoisonError::into_inner);
        schedules.insert(node.name.clone(), (node.schedule.clone(), node.sync_window_s));
    }

    /// The schedule and its window that a child was last sent by this process.
    pub fn told(&self, name: &ConnectedRegistryName) -> Option<(Schedule, Option<u64>)> {
        self.schedules.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Notes a poll; the child stays in contact until the guard is dropped.
    pub fn poll(self: &Arc<Self>, name: &ConnectedRegistryName) -> PollGuard {
        self.update(name, |contact| contact.polls += 1);
        PollGuard { contacts: self.clone(), name: name.clone() }
    }

    /// When the child was last in contact: now, while a poll waits. `stored` is the last contact
    /// known from before this process, if any.
    pub fn last_seen(
        &self,
        name: &ConnectedRegistryName,
        stored: Option<UnixSeconds>,
    ) -> Option<UnixSeconds> {
        let contact = self.lock().get(name).copied();
        let now = self.sys.clock.wall();
        match contact {
            Some(contact) if contact.polls > 0 && now.is_some() => now,
            contact => later_contact(contact, stored, now),
        }
    }

    /// What to call the child's state: its own word while it is in contact, Offline otherwise.
    /// `stored` is the last contact known from before this process, if any.
    pub fn state(
        &self,
        node: &ConnectedRegistry,
        reported: ConnectionState,
        stored: Option<UnixSeconds>,
    ) -> ConnectionState {
        let contact = self.lock().get(&node.name).copied();
        let recent = contact.is_some_and(|contact| {
            contact.polls > 0 || self.sys.clock.monotonic().saturating_sub(contact.at) < ONLINE_FOR
        });
        let now = self.sys.clock.wall();
        if !recent && !is_on_schedule(node, later_contact(contact, stored, now), now) {
            return ConnectionState::Offline;
        }
        match reported {
            ConnectionState::Offline => ConnectionState::Online,
            // The end of a window cuts a sync short.
            ConnectionState::Syncing if !recent => ConnectionState::Online,
            other => other,
        }
    }

    fn update(&self, name: &ConnectedRegistryName, change: impl FnOnce(&mut Contact)) {
        let mut children = self.lock();
        let contact = children.entry(name.clone()).or_default();
        contact.at = self.sys.clock.monotonic();
        contact.wall = self.sys.clock.wall();
        change(contact);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ConnectedRegistryName, Contact>> {
        // A panic elsewhere leaves whole entries behind.
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The later of what this process saw and what is stored. One in the future is of a clock that was
/// ahead once, and hides no right one.
fn later_contact(
    contact: Option<Contact>,
    stored: Option<UnixSeconds>,
    now: Option<UnixSeconds>,
) -> Option<UnixSeconds> {
    let seen = contact.and_then(|contact| contact.wall);
    [seen, stored].into_iter().flatten().filter(|at| at.is_past(now)).max()
}

/// Whether a scheduled node was in contact since the third last occurrence.
fn is_on_schedule(
    node: &ConnectedRegistry,
    last: Option<UnixSeconds>,
    now: Option<UnixSeconds>,
) -> bool {
    if node.schedule.is_continuous() {
        return false;
    }
    let last = last.filter(|last| last.is_past(now));
    let (Some(last), Some(mut at)) = (last, now) else {
        return false;
    };
    for _ in 0..MISSED_OCCURRENCES {
        let Some(occurrence) = node.schedule.last_until(at) else {
            return true;
        };
        if last >= occurrence || occurrence.0 == 0 {
            return true;
        }
        at = UnixSeconds(occurrence.0 - 1);
    }
    false
}

/// A waiting poll.
pub struct PollGuard {
    contacts: Arc<Contacts>,
    name: ConnectedRegistryName,
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        self.contacts.update(&self.name, |contact| {
            contact.polls = contact.polls.saturating_sub(1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::replica::node::testing::connected_registry;
    use crate::sys::Spawner;
    use crate::sys::clock::Clock;

    fn at(text: &str) -> Option<UnixSeconds> {
        Some(UnixSeconds::parse_rfc3339(text).unwrap())
    }

    #[test]
    fn f035_a_waiting_poll_is_contact() {
        let contacts = Contacts::new(&Sys::real(Spawner::new()));
        let node = connected_registry("dock01", None);
        let state = |reported| contacts.state(&node, reported, None);
        assert_eq!(state(ConnectionState::Online), ConnectionState::Offline);
        let poll = contacts.poll(&node.name);
        assert_eq!(state(ConnectionState::Offline), ConnectionState::Online);
        assert_eq!(state(ConnectionState::Unhealthy), ConnectionState::Unhealthy);
        drop(poll);
        assert_eq!(state(ConnectionState::Online), ConnectionState::Online);
        assert!(contacts.last_seen(&node.name, None).is_some());
    }

    #[test]
    fn f212_between_windows_no_sync_runs() {
        let contacts = Contacts::new(&Sys::real(Spawner::new()));
        let mut node = connected_registry("dock01", None);
        node.schedule = "0 12 * * *".parse().unwrap();
        let state = |reported| contacts.state(&node, reported, contacts.sys.clock.wall());
        assert_eq!(state(ConnectionState::Syncing), ConnectionState::Online);
        assert_eq!(state(ConnectionState::Unhealthy), ConnectionState::Unhealthy);
        contacts.touch(&node.name);
        assert_eq!(state(ConnectionState::Syncing), ConnectionState::Syncing);
    }

    /// A clock that stands where it is put.
    struct Hands(Mutex<(Duration, UnixSeconds)>);

    impl Clock for Hands {
        fn wall(&self) -> Option<UnixSeconds> {
            Some(self.0.lock().unwrap().1)
        }

        fn monotonic(&self) -> Duration {
            self.0.lock().unwrap().0
        }
    }

    /// Symptom: a scheduled device was Offline until it reported something else, and its last
    /// activity was in 2036, though it had called at each window. Cause: a contact from when the
    /// clock was ahead once hid the right one.
    #[test]
    fn f212_a_contact_in_the_future_hides_no_right_one() {
        let now = at("2026-11-21T12:00:00Z").unwrap();
        let hands = Arc::new(Hands(Mutex::new((Duration::ZERO, now))));
        let contacts = Contacts::new(&Sys { clock: hands.clone(), ..Sys::real(Spawner::new()) });
        let mut node = connected_registry("dock01", None);
        node.schedule = "0 12 * * *".parse().unwrap();
        let ahead = at("2036-11-21T12:00:00Z");
        let view = |stored| {
            let state = contacts.state(&node, ConnectionState::Online, stored);
            (state, contacts.last_seen(&node.name, stored))
        };
        assert_eq!(view(ahead), (ConnectionState::Offline, None));
        contacts.touch(&node.name);
        *hands.0.lock().unwrap() = (2 * ONLINE_FOR, now.plus(90));
        assert_eq!(view(ahead), (ConnectionState::Online, Some(now)));
        assert_eq!(view(at("2026-11-20T12:00:00Z")), (ConnectionState::Online, Some(now)));
        // Its own word from when the clock was ahead counts no more.
        *hands.0.lock().unwrap() = (2 * ONLINE_FOR, now.plus(10 * 365 * 86_400));
        contacts.touch(&node.name);
        *hands.0.lock().unwrap() = (4 * ONLINE_FOR, now);
        assert_eq!(view(None), (ConnectionState::Offline, None));
        assert_eq!(view(Some(now)), (ConnectionState::Online, Some(now)));
        // A clock that was put right by a moment makes nothing unknown.
        assert_eq!(view(Some(now.plus(30))), (ConnectionState::Online, Some(now.plus(30))));
    }

    #[test]
    fn a_scheduled_node_may_miss_two_occurrences() {
        let mut node = connected_registry("dock01", None);
        node.schedule = "0 12 * * *".parse().unwrap();
        let now = at("2026-11-21T13:00:00Z");
        for (last, good) in [
            ("2026-11-21T12:00:01Z", true),
            ("2026-11-19T12:30:00Z", true),
            ("2026-11-19T11:00:00Z", false),
        ] {
            assert_eq!(is_on_schedule(&node, at(last), now), good, "{last}");
        }
        assert!(!is_on_schedule(&node, None, now));
        assert!(!is_on_schedule(&node, at("2036-11-21T12:00:01Z"), now));
        assert!(!is_on_schedule(&node, at("2026-11-21T12:00:01Z"), None));
        node.schedule = "* * * * *".parse().unwrap();
        assert!(!is_on_schedule(&node, now, now));
    }
}

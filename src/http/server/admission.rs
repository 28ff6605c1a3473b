//! Which connections are served when more come than there may be.
//!
//! When all places are taken, the connection that has waited longest for its next request gives
//! its place to a new one: either side may close an idle connection at any time (RFC 9112 section
//! 9.5). A request under way keeps its place, a long poll too.
//!
//! The last places, [`RESERVE_SHARE`], are not for an address that holds more than half of all: it
//! gets one in exchange for an idle one of its own. A stranger cannot keep everybody else out with
//! slow requests, and many clients behind one NAT or proxy lose next to nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_listener::{Event, listener};

use super::permits::{Permit, Permits};

/// One of so many places is kept free of whoever holds more than half of them.
const RESERVE_SHARE: usize = 16;
/// Who sits behind an IPv6 address has the whole network of this prefix.
const IPV6_PREFIX: u128 = u128::MAX << 64;

/// A bounded number of places for connections, shared between listeners by its clones.
#[derive(Clone)]
pub struct Admission {
    /// The places; one that is taken is also in use while its connection is idle.
    pub(in crate::http) permits: Permits,
    max: usize,
    shared: Arc<Mutex<Crowd>>,
}

#[derive(Default)]
struct Crowd {
    /// Places that each address holds: at most one entry for each connection.
    held: BTreeMap<IpAddr, usize>,
    /// Connections that wait for their next request; the first has waited longest.
    idle: BTreeMap<u64, Idle>,
    /// Number of the next one that becomes idle.
    next: u64,
}

/// An idle connection, and its place, which another may take.
struct Idle {
    permit: Permit,
    address: Option<IpAddr>,
    displaced: Arc<Event>,
}

/// The place of one connection, given back when dropped, unless another has taken it.
pub(in crate::http) struct Place {
    admission: Admission,
    address: Option<IpAddr>,
    /// `None` while the connection is idle, and after it was displaced.
    permit: Option<Permit>,
    /// Its number among the idle ones.
    resting: Option<u64>,
    displaced: Arc<Event>,
}

impl Admission {
    /// So many places.
    pub fn new(max: usize) -> Admission {
        Admission { permits: Permits::new(max), max, shared: Arc::default() }
    }

    /// A place for a connection from this address, if need be that of an idle connection; `None`
    /// when there is none to be had. A peer without an address is one of this machine.
    pub(in crate::http) fn admit(&self, peer: Option<IpAddr>) -> Option<Place> {
        let address = peer.map(site);
        let mut crowd = self.lock();
        let held = address.and_then(|address| crowd.held.get(&address)).copied().unwrap_or(0);
        let free = self.max.saturating_sub(self.permits.in_use());
        let crowds = held > self.max / 2 && free <= self.max / RESERVE_SHARE;
        let free = if crowds { None } else { self.permits.try_acquire() };
        let permit = match free {
            Some(permit) => permit,
            None => crowd.displace(|idle| !crowds || idle.address == address)?,
        };
        if let Some(address) = address {
            *crowd.held.entry(address).or_default() += 1;
        }
        drop(crowd);
        let (admission, displaced) = (self.clone(), Arc::default());
        Some(Place { admission, address, permit: Some(permit), resting: None, displaced })
    }

    fn lock(&self) -> MutexGuard<'_, Crowd> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    /// Takes the place of the connection that has been idle longest, of those that `may` go.
    fn displace(&mut self, may: impl Fn(&Idle) -> bool) -> Option<Permit> {
        let number = *self.idle.iter().find(|(_, idle)| may(idle))?.0;
        let idle = self.idle.remove(&number)?;
        self.leave(idle.address);
        idle.displaced.notify(1);
        Some(idle.permit)
    }

    fn leave(&mut self, address: Option<IpAddr>) {
        if let Some(address) = address
            && let Some(held) = self.held.get_mut(&address)
        {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&address);
            }
        }
    }
}

impl Place {
    /// The connection waits for its next request from now on.
    pub(in crate::http) fn rest(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let idle = Idle { permit, address: self.address, displaced: self.displaced.clone() };
        let mut crowd = self.admission.lock();
        let number = crowd.next;
        crowd.next += 1;
        crowd.idle.insert(number, idle);
        self.resting = Some(number);
    }

    /// The connection is used again; `false` when another has its place.
    pub(in crate::http) fn resume(&mut self) -> bool {
        if let Some(number) = self.resting {
            self.permit = self.admission.lock().idle.remove(&number).map(|idle| idle.permit);
            if self.permit.is_some() {
                self.resting = None;
            }
        }
        self.resting.is_none()
    }

    /// Waits until another has the place of this idle connection.
    pub(in crate::http) async fn displaced(&self) {
        loop {
            listener!(self.displaced => displaced);
            if self.is_displaced() {
                return;
            }
            displaced.await;
        }
    }

    /// Whether another has it.
    pub(in crate::http) fn is_displaced(&self) -> bool {
        let waits = |number| self.admission.lock().idle.contains_key(&number);
        self.resting.is_some_and(|number| !waits(number))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.resume() {
            self.admission.lock().leave(self.address);
        }
    }
}

/// Whom an address stands for.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_PREFIX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn f209_the_connection_that_is_idle_longest_gives_way() {
        let admission = Admission::new(2);
        let (mut first, mut second) =
            (admission.admit(None).unwrap(), admission.admit(None).unwrap());
        assert!(admission.admit(None).is_none(), "both are in use");
        second.rest();
        first.rest();
        let third = admission.admit(None).unwrap();
        assert!(second.is_displaced() && !first.is_displaced());
        assert!(!second.resume() && first.resume());
        smol::block_on(second.displaced());
        assert!(admission.admit(None).is_none(), "the first is in use again");
        drop(second);
        assert_eq!(admission.permits.in_use(), 2);
        drop((first, third));
        assert_eq!(admission.permits.in_use(), 0);
    }

    #[test]
    fn f209_one_address_does_not_get_the_last_places() {
        let admission = Admission::new(64);
        let crowd = address("192.0.2.1");
        let mut held: Vec<Place> = std::iter::from_fn(|| admission.admit(crowd)).collect();
        assert_eq!(held.len(), 60);
        let mut others: Vec<Place> =
            (0..4).map(|_| admission.admit(address("192.0.2.2")).unwrap()).collect();
        assert!(admission.admit(address("192.0.2.3")).is_none());
        // What it gives up itself it can use, and nobody else's.
        others[0].rest();
        assert!(admission.admit(crowd).is_none());
        held[7].rest();
        held.push(admission.admit(crowd).unwrap());
        assert!(held[7].is_displaced() && !others[0].is_displaced());
        others.push(admission.admit(address("192.0.2.3")).unwrap());
        assert!(others[0].is_displaced());
        drop((held, others));
        assert_eq!(admission.permits.in_use(), 0);
        assert!(admission.lock().held.is_empty() && admission.lock().idle.is_empty());
        // Few places have none to spare, and one address may have them all.
        let few = Admission::new(4);
        let all: Vec<Place> = std::iter::from_fn(|| few.admit(crowd)).collect();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn f209_a_network_of_ipv6_is_one_address() {
        let same = |a: &str, b: &str| site(a.parse().unwrap()) == site(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}

//! Slows peers down whose logins keep failing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

/// Failures of one peer within [`WINDOW`] before it is told to wait.
pub(super) const FAILURES_MAX: u32 = 10;
/// Failures are counted for this long.
const WINDOW: Duration = Duration::from_secs(60);
/// Peers remembered. The one whose window began first makes room for a new one.
const PEERS_MAX: usize = 1024;

struct Failures {
    count: u32,
    since: Duration,
}

/// Counts failures by peer, in memory.
#[derive(Default)]
pub(super) struct Throttle(Mutex<BTreeMap<IpAddr, Failures>>);

impl Throttle {
    /// Counts a failure at `now` (monotonic). Returns how many seconds the peer is to wait when it
    /// has had too many.
    pub(super) fn failed(&self, peer: Option<IpAddr>, now: Duration) -> Option<u64> {
        let peer = network(peer?);
        let mut peers = self.0.lock().ok()?;
        if !peers.contains_key(&peer) && peers.len() >= PEERS_MAX {
            let oldest = peers.iter().min_by_key(|(_, failures)| failures.since);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                peers.remove(&oldest);
            }
        }
        let failures = peers.entry(peer).or_insert(Failures { count: 0, since: now });
        if now.saturating_sub(failures.since) >= WINDOW {
            *failures = Failures { count: 0, since: now };
        }
        failures.count = failures.count.saturating_add(1);
        let left = WINDOW.saturating_sub(now.saturating_sub(failures.since));
        (failures.count > FAILURES_MAX).then(|| left.as_secs().max(1))
    }
}

/// One IPv6 host has a whole /64 to call from.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_slowed_down_and_forgiven() {
        let throttle = Throttle::default();
        let peer: Option<IpAddr> = Some("2001:db8::1".parse().unwrap());
        let neighbour: Option<IpAddr> = Some("2001:db8::2".parse().unwrap());
        let other: Option<IpAddr> = Some("10.0.0.1".parse().unwrap());
        for _ in 0..FAILURES_MAX {
            assert_eq!(throttle.failed(peer, Duration::from_secs(5)), None);
        }
        assert_eq!(throttle.failed(neighbour, Duration::from_secs(15)), Some(50));
        assert_eq!(throttle.failed(other, Duration::from_secs(15)), None);
        assert_eq!(throttle.failed(peer, Duration::from_secs(65)), None);
        assert_eq!(throttle.failed(None, Duration::from_secs(65)), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let throttle = Throttle::default();
        for number in 0..3000_u32 {
            let peer = IpAddr::V4(number.into());
            throttle.failed(Some(peer), Duration::from_secs(number.into()));
        }
        assert_eq!(throttle.0.lock().unwrap().len(), PEERS_MAX);
    }
}

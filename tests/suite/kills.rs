//! Clients push while the process is killed, again and again.
//! `SKERRY_LONG=1 cargo test --test suite kills` kills ten times as often.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::load::{Audit, Ledger, login};
use crate::support::node::{self, Node};

/// Seconds after which a garbage collection may remove something, and milliseconds after which it
/// has; one collection runs after the other.
const GRACES: [(u64, u64); 2] = [(1, 2500), (5, 6500)];
/// Every so many rounds one is long enough for that. The number is odd, so that the graces take
/// turns.
const LONG_ROUND: u64 = 15;

/// Which of the graces a round has: one after the other.
fn grace_of(round: u64) -> usize {
    usize::from(!round.is_multiple_of(2))
}

fn configuration(round: u64) -> String {
    let seconds = GRACES[grace_of(round)].0;
    format!("[gc]\nenabled = false\ngrace = \"{seconds}s\"\n")
}

#[test]
fn f116_f130_f141_f206_killed_while_it_collects_garbage_nothing_acknowledged_is_lost() {
    let rounds = if std::env::var_os("SKERRY_LONG").is_some() { 300 } else { 30 };
    let mut root = Node::root_with(&configuration(0));
    let user = root.pusher("owner-token", "*");
    let user = (user.0.as_str(), user.1.as_str());
    let first = Duration::ZERO;
    let ledgers = [Ledger::with_grace(first), Ledger::of_copies(first)];
    let mut token = login(&root.login, user, &ledgers.each_ref()).unwrap();
    let ([ledger, copies], mut removed) = (&ledgers, [0; GRACES.len()]);
    for round in 0..rounds {
        let (seconds, long_enough) = GRACES[grace_of(round)];
        ledgers.iter().for_each(|ledger| ledger.set_grace(Duration::from_secs(seconds)));
        let (address, before) = (root.login.clone(), ledger.acknowledged());
        let (socket, dead) = (root.socket(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let collector = scope.spawn(|| collect_until(&dead, &socket));
            let end = End(&dead);
            let die = || {
                // Each round dies at another moment of a push, of a checkpoint, of a rotation.
                let long = round % LONG_ROUND == LONG_ROUND - 1;
                let lived = if long { long_enough } else { 5 + (round * 37) % 120 };
                std::thread::sleep(Duration::from_millis(lived));
                // On a slow machine that may be too short for any change.
                let patience = if round % 3 == 0 { 500 } else { 0 };
                for _ in 0..patience {
                    if ledger.acknowledged() > before {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                root.kill();
            };
            ledger.press_with(&address, &token, round, &[], || {
                copies.press_with(&address, &token, round, &[], die);
            });
            drop(end);
            removed[grace_of(round)] += collector.join().unwrap();
        });
        root.set_configuration(&configuration(round + 1));
        root.start();
        // The client can log in again.
        token = login(&root.login, user, &ledgers.each_ref()).unwrap();
        let audit = |ledger: &Ledger| ledger.audit_with(&root.login, &token, Audit::Fresh);
        let lost = ledgers.each_ref().map(audit).concat();
        assert!(lost.is_empty(), "round {round}: {lost:#?}");
    }
    let audit = |ledger: &Ledger| ledger.audit_with(&root.login, &token, Audit::All);
    let lost = ledgers.each_ref().map(audit).concat();
    assert!(lost.is_empty(), "{lost:#?}");
    assert!(!root.log().contains("the index disagree"), "what was used counted as garbage");
    let (changes, tags) = (ledger.acknowledged(), ledger.tags());
    assert!(changes >= rounds / 3 && tags > 0, "{changes} changes were acknowledged");
    assert!(removed.iter().all(|removed| *removed > 0), "no garbage was removed: {removed:?}");
    let (mounted, referrers) = (copies.acknowledged(), ledger.referrers() + copies.referrers());
    assert!(mounted > 0 && referrers > 0, "{mounted} mounted, {referrers} referrers");
    let removed: u64 = removed.iter().sum();
    eprintln!(
        "{rounds} kills, {changes} acknowledged changes and {mounted} where blobs are mounted, \
         {tags} tags, {referrers} referrers, {removed} blobs removed as garbage, nothing lost"
    );
}

/// Ends the collector, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Collects garbage over and over; how many blobs went.
fn collect_until(dead: &AtomicBool, socket: &std::path::Path) -> u64 {
    let mut removed = 0;
    while !dead.load(Ordering::Relaxed) {
        let mut command = Command::new(node::binary());
        command.arg("--admin-socket").arg(socket).args(["gc", "-o", "json"]);
        let output = command.stdin(Stdio::null()).output().expect("the built binary");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        removed += report["blobsRemoved"].as_u64().unwrap_or(0);
    }
    removed
}

//! Clients push while the process is killed, again and again.
//! `SKERRY_LONG=1 cargo test --test suite kills` kills ten times as often.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::load::{Audit, Ledger};
use crate::support::node::{self, Node};

/// What a garbage collection may remove, and when; one runs after the other.
const GC: &str = "[gc]\nenabled = false\ngrace = \"1s\"\n";
const GRACE: Duration = Duration::from_secs(1);
/// Every so many rounds one is long enough for a garbage collection to remove something.
const LONG_ROUND: u64 = 10;

#[test]
fn f116_f130_f141_f206_killed_while_it_collects_garbage_nothing_acknowledged_is_lost() {
    let rounds = if std::env::var_os("SKERRY_LONG").is_some() { 300 } else { 30 };
    let mut root = Node::root_with(GC);
    let user = root.pusher("owner-token", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let (ledger, mut removed) = (Ledger::with_grace(GRACE), 0);
    for round in 0..rounds {
        let (address, before) = (root.login.clone(), ledger.acknowledged());
        let (socket, dead) = (root.socket(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let collector = scope.spawn(|| collect_until(&dead, &socket));
            let end = End(&dead);
            ledger.load(&address, user, round, || {
                // Each round dies at another moment of a push, of a checkpoint, of a rotation.
                let long = round % LONG_ROUND == LONG_ROUND - 1;
                let lived = if long { 2500 } else { 5 + (round * 37) % 120 };
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
            });
            drop(end);
            removed += collector.join().unwrap();
        });
        root.start();
        let lost = ledger.audit(&root.login, user, Audit::Fresh);
        assert!(lost.is_empty(), "round {round}: {lost:#?}");
    }
    let lost = ledger.audit(&root.login, user, Audit::All);
    assert!(lost.is_empty(), "{lost:#?}");
    let (changes, tags) = (ledger.acknowledged(), ledger.tags());
    assert!(changes >= rounds / 3 && tags > 0, "{changes} changes were acknowledged");
    assert!(removed > 0, "no garbage was removed");
    eprintln!(
        "{rounds} kills, {changes} acknowledged changes, {tags} tags, {removed} blobs removed as \
         garbage, nothing lost"
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

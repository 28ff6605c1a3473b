//! Clients push while the process is killed, again and again.
//! `SKERRY_LONG=1 cargo test --test suite kills` kills ten times as often.

use std::time::Duration;

use crate::support::load::{Audit, Ledger};
use crate::support::node::Node;

#[test]
fn f116_f130_killed_under_load_nothing_acknowledged_is_lost() {
    let rounds = if std::env::var_os("SKERRY_LONG").is_some() { 300 } else { 30 };
    let mut root = Node::root();
    let user = root.pusher("owner-token", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let ledger = Ledger::default();
    for round in 0..rounds {
        let (address, before) = (root.login.clone(), ledger.acknowledged());
        ledger.load(&address, user, round, || {
            // Each round dies at another moment of a push, of a checkpoint, of a rotation.
            std::thread::sleep(Duration::from_millis(5 + (round * 37) % 120));
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
        root.start();
        let lost = ledger.audit(&root.login, user, Audit::Fresh);
        assert!(lost.is_empty(), "round {round}: {lost:#?}");
    }
    let lost = ledger.audit(&root.login, user, Audit::All);
    assert!(lost.is_empty(), "{lost:#?}");
    let (changes, tags) = (ledger.acknowledged(), ledger.tags());
    assert!(changes >= rounds / 3 && tags > 0, "{changes} changes were acknowledged");
    eprintln!("{rounds} kills, {changes} acknowledged changes, {tags} tags, nothing lost");
}

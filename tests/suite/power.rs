//! The power fails under load: what was not synced is gone, and all that was acknowledged is there.
//! `SKERRY_LONG=1 cargo test --test suite power -- --nocapture` cuts it 50 times.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::http::token;
use crate::support::image::{self, Image};
use crate::support::load::{Audit, Ledger};
use crate::support::lossy::{Dice, Lossy, Syncs};
use crate::support::node::Node;
use crate::support::{eventually, skip};

/// A cut comes after at most so many changes of the disk: some thirty pushes.
const CHANGES_MAX: u64 = 2000;
/// Starting and stopping take fewer.
const EDGE_CHANGES_MAX: u64 = 40;
/// The default of `gc.grace`.
const GRACE: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_secs(120);
/// Then the power fails anyway.
const LIMIT: Duration = Duration::from_secs(3);

/// A node whose state lies on a disk that forgets. The parts go in this order.
struct Rig {
    disk: Lossy,
    node: Node,
    user: (String, String),
    ledger: Ledger,
    dice: Dice,
    cuts: u64,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.node.kill();
    }
}

impl Rig {
    /// A root; `None`, loudly, where such a disk cannot be had.
    fn root() -> Option<Rig> {
        let mut node = Node::device("");
        node.make_root();
        let mut rig = Rig::new(node)?;
        rig.user = rig.node.pusher("owner-token", "app");
        Some(rig)
    }

    /// Starts a node on a disk that forgets.
    fn new(mut node: Node) -> Option<Rig> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            skip("needs root and /dev/fuse");
            return None;
        }
        std::fs::create_dir(node.state()).unwrap();
        let disk = match Lossy::mount(&node.state()) {
            Ok(disk) => disk,
            Err(error) => {
                skip(&format!("no FUSE file system can be mounted: {error}"));
                return None;
            }
        };
        node.start();
        let (user, ledger) = (Default::default(), Ledger::with_grace(GRACE));
        Some(Rig { disk, node, user, ledger, dice: Dice::new(1), cuts: 0 })
    }

    fn user(&self) -> (&str, &str) {
        (&self.user.0, &self.user.1)
    }

    /// Cuts the power at a random change under load.
    fn cut_under_load(&mut self, round: u64) {
        self.disk.fail_at(1 + self.dice.below(CHANGES_MAX));
        self.ledger.load(&self.node.login, self.user(), round, || self.fail());
        self.forget(round);
    }

    /// Cuts the power at a random change while the node starts or stops.
    fn cut_at_the_edge(&mut self, round: u64, stop: bool) {
        self.disk.fail_at(1 + self.dice.below(EDGE_CHANGES_MAX));
        if stop {
            self.signal(Signal::TERM);
        } else {
            self.node.spawn();
        }
        self.fail();
        self.forget(round);
    }

    /// Waits until the disk stands still, and ends the process before it hears of anything.
    fn fail(&self) {
        self.disk.wait_for_failure(LIMIT);
        self.signal(Signal::KILL);
        self.disk.release();
    }

    /// Every second time, a random part of what was not synced has reached the disk.
    fn forget(&mut self, round: u64) {
        self.node.kill();
        self.disk.cut((round % 2 == 1).then_some(&mut self.dice));
        self.cuts += 1;
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.node.pid()).unwrap()).unwrap();
        // Stopping may have ended it already.
        let _ = kill_process(pid, signal);
    }

    /// Starts the node on what is left; what was acknowledged and does not hold.
    fn losses(&mut self, what: Audit) -> Vec<String> {
        self.node.spawn();
        match self.node.ready() {
            Err(why) => vec![format!("{why}: {}", self.node.log())],
            Ok(()) => {
                let mut lost = self.ledger.audit(&self.node.login, self.user(), what);
                let told = self.node.json(&["status"])["lostRecords"].clone();
                lost.extend(told.as_str().map(|told| format!("the node says: {told}")));
                lost
            }
        }
    }
}

/// If this fails, the rig does not discriminate, and the other test proves nothing.
#[test]
fn a_disk_that_lies_about_syncs_loses_what_was_acknowledged() {
    for syncs in [Syncs::Lie, Syncs::NamesLie] {
        let Some(mut rig) = Rig::root() else { return };
        rig.disk.set_syncs(syncs);
        rig.disk.fail_at(CHANGES_MAX);
        rig.ledger.load(&rig.node.login, rig.user(), 0, || rig.fail());
        rig.forget(0);
        let (acknowledged, lost) = (rig.ledger.acknowledged(), rig.losses(Audit::All));
        assert!(acknowledged > 0 && !lost.is_empty(), "{syncs:?}: of {acknowledged} none is lost");
        eprintln!("{syncs:?}: {acknowledged} acknowledged, {} findings, {}", lost.len(), lost[0]);
    }
}

#[test]
fn f116_f130_the_power_fails_under_load_and_nothing_acknowledged_is_lost() {
    let rounds = if std::env::var_os("SKERRY_LONG").is_some() { 50 } else { 8 };
    let Some(mut rig) = Rig::root() else { return };
    for round in 0..rounds {
        rig.cut_under_load(round);
        if round % 3 == 2 {
            rig.cut_at_the_edge(round / 3, false);
        }
        let lost = rig.losses(Audit::Fresh);
        assert!(lost.is_empty(), "round {round}: {lost:#?}\n{}", rig.node.log());
        if round % 3 == 1 {
            rig.cut_at_the_edge(round / 3, true);
            let lost = rig.losses(Audit::Fresh);
            assert!(lost.is_empty(), "round {round}, stopping: {lost:#?}\n{}", rig.node.log());
        }
    }
    let lost = rig.ledger.audit(&rig.node.login, rig.user(), Audit::All);
    assert!(lost.is_empty(), "{lost:#?}");
    let (cuts, changes) = (rig.cuts, rig.ledger.acknowledged());
    assert!(changes > rounds, "{changes} changes were acknowledged");
    eprintln!("{cuts} cuts, {changes} acknowledged changes, nothing lost");
}

/// The parent is gone, so all of it waits in the outbox.
#[test]
fn f116_f130_pushes_made_offline_outlive_power_cuts_and_reach_the_parent() {
    let rounds = if std::env::var_os("SKERRY_LONG").is_some() { 25 } else { 3 };
    let mut root = Node::root();
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    let Some(mut rig) = Rig::new(Node::device(&connection)) else { return };
    rig.user = user.clone();
    let user = (user.0.as_str(), user.1.as_str());
    eventually(SOON, "the client can log in", || token(&rig.node.login, user.0, user.1, &[]).ok());
    root.kill();
    for round in 0..rounds {
        rig.cut_under_load(round);
        let lost = rig.losses(Audit::Fresh);
        assert!(lost.is_empty(), "round {round}: {lost:#?}\n{}", rig.node.log());
    }
    // Changes are delivered in order: when this is there, everything is.
    let last = Image::new(7, &[100]);
    assert_eq!(last.push(&rig.node.login, user, "app", "last").status, 201);
    root.start();
    eventually(SOON, "the last push", || image::pull(&root.login, user, "app", "last").ok());
    let lost = rig.ledger.audit(&root.login, user, Audit::Tags);
    assert!(lost.is_empty(), "at the parent: {lost:#?}\n{}", rig.node.log());
    let (cuts, changes) = (rig.cuts, rig.ledger.acknowledged());
    assert!(changes > rounds, "{changes} changes were acknowledged");
    eprintln!("{cuts} cuts offline, {changes} acknowledged changes, all at the parent");
}

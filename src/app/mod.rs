//! Wires everything: one node for `serve`, two of them for `demo`.

mod check;
pub mod demo;
mod garbage;
mod identity;
mod node;
pub mod offline;
mod parent;
mod reach;
mod router;
mod sample;
mod scrub;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod turns;
mod withdrawals;

pub use check::{Reading, check};
pub use demo::{DemoOptions, demo};
pub use parent::Reread;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use smol::future::FutureExt;

use crate::config::Config;
use crate::sys::clock::sleep;
use crate::sys::notify::{Notifier, PING_PERIOD, State};
use crate::sys::signals::{Signals, Wish};
use crate::sys::spawn::{self, Spawner};
use crate::sys::volatile_kind;
use node::Node;

/// Exit code for a configuration that cannot work (sysexits.h).
const EX_CONFIG: u8 = 78;

/// How long a start asks for more time. One that takes longer hangs, and is ended by the service
/// manager.
const START_MAX: Duration = Duration::from_secs(3600);

/// Runs a node until it is told to stop; the exit code says how it went. A node without a
/// connection string looks for one with `reread`.
pub fn serve(config: Config, reread: Reread) -> ExitCode {
    spawn::limit_blocking_threads(config.limits.blocking_threads);
    let spawner = Spawner::new();
    let threads = config.listen.threads;
    // A task like any other, so that it is not polled each time anything at all happens.
    let main = spawner.spawn(run(spawner.clone(), config, reread));
    spawner.run(threads, main)
}

/// On a device this is a partition that was not mounted, in a container a volume.
fn warn_of_volatile_state(state_dir: &Path) {
    if let Some(kind) = volatile_kind(state_dir) {
        log::warn!(
            "storage.state_dir {} is on {kind}: identity, tokens and content may be gone at the \
             next boot; mount a disk or a volume there",
            state_dir.display()
        );
    }
}

async fn run(spawner: Spawner, config: Config, reread: Reread) -> ExitCode {
    let notifier = Notifier::from_environment();
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            log::error!("cannot catch signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let state_dir = config.storage.state_dir.clone();
    let start = async { Some(Node::start(spawner, config, Some(reread)).await) };
    let interrupted = async {
        while matches!(signals.next().await, Ok(Wish::Hangup)) {}
        None
    };
    let node = match start.or(interrupted).or(ask_for_time(&notifier)).await {
        Some(Ok(node)) => node,
        Some(Err(error)) => {
            log::error!("{}", error.message);
            // 78: the unit does not start it again until somebody mends the cause.
            return if error.is_config { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE };
        }
        None => {
            log::info!("the node was stopped before it was ready");
            return ExitCode::SUCCESS;
        }
    };
    warn_of_volatile_state(&state_dir);
    let summary = node.summary();
    log::info!("ready: {summary}");
    notifier.tell(&[State::Ready, State::Status(summary.clone())]);
    attend(&node, summary, &notifier, &mut signals).await;
    notifier.tell(&[State::Stopping]);
    log::info!("stopping");
    node.stop().await;
    ExitCode::SUCCESS
}

/// A start may have to build a large index again on a slow disk, or to wait for its parent: without
/// more time the service manager would end it, and the next one would begin at the same place.
async fn ask_for_time<T>(notifier: &Notifier) -> T {
    let mut waited = Duration::ZERO;
    while waited < START_MAX && notifier.is_heard() {
        notifier.tell(&[State::ExtendTimeout(3 * PING_PERIOD)]);
        sleep(PING_PERIOD).await;
        waited += PING_PERIOD;
    }
    std::future::pending().await
}

/// Feeds the watchdog, tells the service manager of changes since what it was `told`, and follows
/// signals until one asks for a stop.
async fn attend(node: &Node, mut told: String, notifier: &Notifier, signals: &mut Signals) {
    let feed = async {
        if !notifier.is_heard() {
            return std::future::pending().await;
        }
        loop {
            sleep(notifier.watchdog().unwrap_or(PING_PERIOD)).await;
            // The store answers before the watchdog is fed: a wedged node is restarted.
            let summary = node.summary();
            let mut states = Vec::new();
            states.extend(notifier.watchdog().map(|_| State::Watchdog));
            if summary != told {
                states.push(State::Status(summary.clone()));
                told = summary;
            }
            if !states.is_empty() {
                notifier.tell(&states);
            }
        }
    };
    let follow = async {
        loop {
            match signals.next().await {
                Ok(Wish::Hangup) => node.reload(),
                Ok(Wish::Terminate | Wish::Interrupt) => return,
                Err(error) => {
                    log::error!("cannot catch signals: {error}");
                    return;
                }
            }
        }
    };
    feed.or(follow).await;
}

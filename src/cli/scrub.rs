//! `skerry scrub`

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::call::Call;
use super::output::{self, View};
use super::{EXIT_FAILED, Failure, Global, admin_client};
use crate::config::SystemSource;

/// How often it is asked how far it is.
const ASK_PERIOD: Duration = Duration::from_millis(300);

/// Starts a scrub and, unless told not to, follows it to its end; fails when something is damaged.
pub(super) fn run(full_speed: bool, no_wait: bool, global: &Global) -> Result<ExitCode, Failure> {
    let report = follow(full_speed, no_wait, global)?;
    output::answer(View::Object, report.clone(), global.output)?;
    let (damaged, unfinished) = (complain_of(&report), !no_wait && is_unfinished(&report));
    Ok(if damaged || unfinished { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

/// The same, but returns what it found.
pub(super) fn follow(full_speed: bool, no_wait: bool, global: &Global) -> Result<Value, Failure> {
    let socket =
        admin_client::socket(global.admin_socket.as_deref(), &global.options(), &SystemSource)?;
    let start = Call::new("scrub", View::Object).flag("start", true).flag("fullSpeed", full_speed);
    let mut answer = admin_client::post(&socket, start.path, &start.body.into())?;
    let is_running = |answer: &Value| answer["running"] == Value::Bool(true);
    let shows = std::io::stderr().is_terminal();
    while !no_wait && is_running(&answer) {
        smol::block_on(crate::sys::clock::sleep(ASK_PERIOD));
        answer = admin_client::post(&socket, "scrub", &json!({}))?;
        if shows {
            let (percent, blobs) = (&answer["percent"], &answer["blobsChecked"]);
            let _ = write!(std::io::stderr(), "\r{percent} %, {blobs} blobs");
        }
    }
    if shows && !no_wait {
        let _ = writeln!(std::io::stderr());
    }
    Ok(answer)
}

/// Says that not everything was looked at, if that is so.
pub(super) fn is_unfinished(report: &Value) -> bool {
    let unfinished = report["percent"].as_u64() != Some(100);
    if unfinished {
        output::complain(
            "not everything could be checked; the log of the node names what, and why",
        );
    }
    unfinished
}

/// Says how much is damaged, if anything is.
pub(super) fn complain_of(report: &Value) -> bool {
    let damaged = report["waitingToBeHealed"].as_u64().unwrap_or(0);
    if damaged > 0 {
        output::complain(&format!(
            "{damaged} stored objects are damaged or missing; they are fetched again from the \
             parent, or push them again"
        ));
    }
    damaged > 0
}

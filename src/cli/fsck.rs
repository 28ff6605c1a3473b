//! `skerry fsck`

use std::process::ExitCode;

use serde_json::{Value, json};

use super::output::{self, View};
use super::{EXIT_FAILED, Failure, Global, admin_client, scrub};
use crate::app::offline;
use crate::config::SystemSource;

/// Checks the store of the node that runs, or, when none runs, the configured state directory,
/// which is not changed.
pub(super) fn run(content: bool, global: &Global) -> Result<ExitCode, Failure> {
    let socket =
        admin_client::socket(global.admin_socket.as_deref(), &global.options(), &SystemSource)?;
    if !admin_client::answers(&socket) {
        return tell(check(content, global)?, global);
    }
    // First: what it finds is out of service then, and a problem of what needs it.
    let scrubbed = content.then(|| scrub::follow(true, false, global)).transpose()?;
    let mut report = admin_client::post(&socket, "fsck", &json!({}))?;
    let (mut damaged, mut unfinished) = (false, false);
    if let Some(scrubbed) = scrubbed {
        damaged = scrub::complain_of(&scrubbed);
        unfinished = scrub::is_unfinished(&scrubbed);
        report["blobsHashed"] = scrubbed["blobsChecked"].clone();
        report["content"] = scrubbed;
    }
    let told = tell(report, global)?;
    Ok(if damaged || unfinished { ExitCode::from(EXIT_FAILED) } else { told })
}

fn check(content: bool, global: &Global) -> Result<Value, Failure> {
    let state_dir = global.state_dir()?;
    let (mut report, recovery) = offline::fsck(&state_dir, content).map_err(Failure::new)?;
    report.problems += recovery.damage.len() as u64;
    report.found.extend(recovery.damage);
    let mut value = serde_json::to_value(report).unwrap_or_default();
    value["sequence"] = recovery.sequence.into();
    value["tornTailBytes"] = recovery.tail_cut_bytes.into();
    Ok(value)
}

fn tell(mut report: Value, global: &Global) -> Result<ExitCode, Failure> {
    let problems = report["problems"].as_u64().unwrap_or(0);
    if global.output.is_none()
        && let Some(Value::Array(found)) = report.as_object_mut().and_then(|o| o.remove("found"))
    {
        found.iter().filter_map(Value::as_str).for_each(output::complain);
    }
    output::answer(View::Object, report, global.output)?;
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

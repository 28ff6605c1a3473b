//! `scrub`: hashing all content, now; and how far it is.

use serde::Deserialize;
use serde_json::Value;

use super::Admin;
use super::fault::Fault;
use crate::types::UnixSeconds;

/// `scrub`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Scrub {
    /// Begin one unless it runs.
    #[serde(default)]
    start: bool,
    /// Without the configured limit on its rate.
    #[serde(default)]
    full_speed: bool,
}

impl Admin {
    pub(super) fn scrub(&self, wanted: &Scrub) -> Result<Value, Fault> {
        if wanted.start {
            self.store.request_scrub(if wanted.full_speed { 0 } else { self.options.scrub_rate });
        }
        let report = self.store.scrub_report()?;
        let mut value = serde_json::to_value(report).unwrap_or_default();
        value["finished"] = report.finished.map(UnixSeconds::rfc3339).into();
        value["waitingToBeHealed"] = self.store.damaged_count().into();
        Ok(value)
    }
}

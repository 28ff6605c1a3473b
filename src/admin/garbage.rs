//! `gc`: a garbage collection at once.

use serde::Deserialize;
use serde_json::Value;

use super::Admin;
use super::fault::Fault;
use crate::store::gc::GcOptions;

/// `gc`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Collect {
    #[serde(default)]
    dry_run: bool,
}

impl Admin {
    pub(super) async fn collect_garbage(&self, wanted: Collect) -> Result<Value, Fault> {
        let options = GcOptions { dry_run: wanted.dry_run, ..self.options.gc };
        let report = self.store.collect_garbage(options).await?;
        let mut value = serde_json::to_value(report).unwrap_or_default();
        let mut warnings: Vec<Value> = Vec::new();
        if report.waits_for_sync {
            let text = "A sync is under way: nothing was removed. Try again when it is done.";
            warnings.push(text.into());
        }
        if report.blobs_waiting > 0 {
            let grace = options.grace.as_secs();
            warnings.push(
                format!(
                    "{} blobs are unreferenced; a run goes on to remove them when {grace} s have \
                     passed since one first found them so.",
                    report.blobs_waiting
                )
                .into(),
            );
        }
        value["warnings"] = warnings.into();
        Ok(value)
    }
}

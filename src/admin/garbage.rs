//! `gc`: a garbage collection at once.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::fault::Fault;
use crate::store::StoreError;
use crate::store::gc::GcOptions;
use crate::sys::spawn;

/// `gc`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Collect {
    #[serde(default)]
    dry_run: bool,
}

impl Admin {
    /// `accept-loss`: an operator agrees that records were lost.
    pub(super) async fn accept_loss(&self) -> Result<Value, Fault> {
        let store = self.store.clone();
        match spawn::blocking(move || store.accept_loss()).await {
            Ok(text) => {
                log::warn!("somebody has agreed to a loss: {text}");
                Ok(json!({ "accepted": text }))
            }
            Err(StoreError::NotFound) => {
                Err(Fault::not_found("There is no loss of records that waits to be agreed to."))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn collect_garbage(&self, wanted: Collect) -> Result<Value, Fault> {
        let options = GcOptions { dry_run: wanted.dry_run, ..self.options.gc };
        let report = self.store.collect_garbage(options).await?;
        let mut value = serde_json::to_value(report).unwrap_or_default();
        let mut warnings: Vec<Value> = Vec::new();
        if report.waits_for_sync {
            warnings.push(self.store.why_it_waits_for_sync()?.into());
        }
        if report.waits_for_operator {
            let text = "Nothing was removed, and the figures are those of a dry run: records may \
                        have been lost (see status). Restore a backup, or run skerry state \
                        accept-loss.";
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

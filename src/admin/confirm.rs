//! `confirm`: this version is to stay, and the store may rise to its format.

use serde_json::{Value, json};

use super::Admin;
use super::fault::Fault;
use crate::sys::spawn;

impl Admin {
    pub(super) async fn confirm(&self) -> Result<Value, Fault> {
        let before = self.store.format();
        let store = self.store.clone();
        let now = spawn::blocking(move || store.confirm()).await?;
        if now != before {
            log::warn!(
                "confirmed: from format {} the store rose to format {}, readable from {}",
                before.writes,
                now.writes,
                now.readable_from
            );
        }
        Ok(json!({ "storeFormat": self.print_format() }))
    }

    /// The format of the store, and whether a newer one waits for a confirmation.
    pub(super) fn print_format(&self) -> Value {
        let stored = self.store.format();
        let next = self.store.format_after_confirmation();
        let mut value = json!({
            "writes": stored.writes,
            "readableFrom": stored.readable_from,
            "awaitsConfirmation": next.is_some(),
        });
        if let Some(next) = next {
            value["afterConfirmation"] = next.writes.into();
        }
        value
    }
}

//! `skerry audit`: who changed what, and who was refused a change.

use serde_json::{Value, json};

use super::Admin;
use super::fault;
use super::tokens::Nothing;
use crate::manage::Error;
use crate::manage::audit::Entry;

impl Admin {
    pub(super) async fn audit(&self, _: Nothing) -> Result<Value, Error> {
        let print = |Entry { deed, refused }: Entry| {
            json!({
                "time": deed.at.rfc3339(),
                "actor": deed.actor,
                "action": deed.action,
                "subject": deed.subject,
                "outcome": refused.map_or("Succeeded", fault::code),
            })
        };
        Ok(self.manage.audit().await?.into_iter().map(print).collect())
    }
}

//! `skerry audit`: who changed what, and who was refused a change.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::Admin;
use super::fault::Fault;
use crate::sys::net::Peer;
use crate::types::UnixSeconds;
use crate::types::deed::Deed;
use crate::types::limits::{NAME_MAX, REFUSED_DEEDS_MAX};

/// The last changes that were refused since the start. They are nowhere else but in the log:
/// somebody who may do nothing must not make this node write.
#[derive(Default)]
pub(super) struct Refused(Mutex<VecDeque<(Deed, String)>>);

impl Refused {
    pub(super) fn note(&self, deed: Deed, fault: &Fault) {
        let Deed { actor, action, subject, .. } = &deed;
        log::info!("refused: {action} subject={subject} actor=\"{actor}\": {}", fault.message);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REFUSED_DEEDS_MAX {
            all.pop_front();
        }
        all.push_back((deed, fault.code.to_owned()));
    }
}

/// What a verb with this body is going to do.
pub(super) fn deed(verb: &str, peer: Peer, body: &Value, at: UnixSeconds) -> Deed {
    let subject = body["name"].as_str().unwrap_or_default();
    Deed {
        at,
        actor: peer.to_string(),
        action: verb.replace('/', " "),
        // What is no name is refused, and not longer here than a name.
        subject: subject.chars().take(NAME_MAX).collect(),
    }
}

impl Admin {
    pub(super) async fn audit(&self) -> Result<Value, Fault> {
        let done = self.store.deeds().await?;
        let refused = self.refused.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut refused = refused.into_iter().map(|(deed, code)| (deed, Some(code))).peekable();
        let mut all = Vec::new();
        // Those that were done keep their order, whatever the clock did.
        for deed in done {
            while let Some(earlier) = refused.next_if(|(refused, _)| refused.at < deed.at) {
                all.push(earlier);
            }
            all.push((deed, None));
        }
        all.extend(refused);
        let print = |(deed, code): (Deed, Option<String>)| {
            json!({
                "time": deed.at.rfc3339(),
                "actor": deed.actor,
                "action": deed.action,
                "subject": deed.subject,
                "outcome": code.as_deref().unwrap_or("Succeeded"),
            })
        };
        Ok(all.into_iter().map(print).collect())
    }
}

//! Which devices hear of a change later than at once, because their sync windows are closed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Admin;
use super::also::warn;
use super::fault::Fault;
use crate::sys::spawn::yield_now;
use crate::types::limits::TREE_DEPTH_MAX;
use crate::types::schedule::Window;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, TokenName, UnixSeconds};

/// Devices that a warning names. Over it: it says how many more there are.
const NAMED_MAX: usize = 10;

/// Devices that are looked up in one turn.
const AT_ONCE: usize = 64;

/// Where and how long a change waits on its way to a device.
pub(super) struct Late {
    /// The device that it is for.
    name: ConnectedRegistryName,
    /// The node on the way whose window opens last; the device itself, or one above it.
    via: ConnectedRegistryName,
    /// The schedule of that node.
    schedule: String,
    /// Whether that is known to be in force there: this node sent it.
    known: bool,
    /// When its window opens; `None`: never.
    next: Option<UnixSeconds>,
}

impl Late {
    fn when(&self) -> String {
        let next = self.next.map_or("never again".to_owned(), UnixSeconds::rfc3339);
        let whose = match self.via == self.name {
            true => "its next window opens".to_owned(),
            false => format!("the next window of '{}' opens", self.via),
        };
        match self.known {
            true => format!("when {whose} ({next})"),
            false => format!("when {whose} ({next} with the schedule '{}')", self.schedule),
        }
    }
}

impl Admin {
    /// When the device of a connected registry hears of a change, unless at once; `None` for one
    /// that is not active too.
    pub(super) fn late(&self, node: &ConnectedRegistry) -> Result<Option<Late>, Fault> {
        if self.store.activation(&node.name)?.is_none() {
            return Ok(None);
        }
        let at = self.store.sys().clock.wall_or_floor();
        let (mut link, mut late) = (node.clone(), None::<Late>);
        for _ in 0..TREE_DEPTH_MAX {
            let told = self.contact.told(&link.name);
            let known = told.is_some();
            let (schedule, window_s) =
                told.unwrap_or_else(|| (link.schedule.clone(), link.sync_window_s));
            if let Window::Closed { next } = schedule.window(window_s, at) {
                let later = |other: &Late| {
                    other.next.is_some_and(|other| next.is_none_or(|next| next > other))
                };
                if late.as_ref().is_none_or(later) {
                    let (via, schedule) = (link.name.clone(), schedule.to_string());
                    late = Some(Late { name: node.name.clone(), via, schedule, known, next });
                }
            }
            let Some(parent) = link.parent.take() else { break };
            match self.store.connected_registry(&parent)? {
                Some(parent) => link = parent,
                None => break,
            }
        }
        Ok(late)
    }

    /// When the device of a connected registry learns of another schedule, unless at once: until
    /// then the one that it has heard of is in force.
    pub(super) fn schedule_late(
        &self,
        before: &ConnectedRegistry,
        now: &ConnectedRegistry,
    ) -> Result<Option<String>, Fault> {
        let asked = (&now.schedule, now.sync_window_s);
        let told = self.contact.told(&now.name);
        let is_told = told.as_ref().is_some_and(|told| (&told.0, told.1) == asked);
        if is_told || (&before.schedule, before.sync_window_s) == asked {
            return Ok(None);
        }
        let Some(late) = self.late(before)? else {
            return Ok(None);
        };
        let name = &now.name;
        let in_force = match &told {
            Some((schedule, _)) => {
                format!("The schedule '{schedule}' is in force at the device of '{name}'.")
            }
            None => format!(
                "The schedule '{}', or an earlier one, may be in force at the device of '{name}', \
                 which has not asked this node for its configuration since this node was started.",
                before.schedule
            ),
        };
        Ok(Some(format!(
            "{in_force} It learns of the new one {} or at its daily look at the configuration. \
             Sooner: give it another connection string (skerry connected-registry get-settings \
             --name {name} --generate-password 2) and restart it.",
            late.when()
        )))
    }

    /// The devices that go by a token and hear of a change of it later than at once: those whose
    /// clients have it, and the parent of one that syncs with it.
    pub(super) async fn late_for_token(&self, token: &TokenName) -> Result<Vec<Late>, Fault> {
        let with_client = self.store.with_client_token(token).await?;
        let of_sync = self.store.sync_token_owner(token)?.and_then(|node| node.parent);
        let (mut late, mut looked) = (Vec::new(), 0_usize);
        for name in with_client.into_iter().chain(of_sync).collect::<BTreeSet<_>>() {
            if let Some(node) = self.store.connected_registry(&name)? {
                late.extend(self.late(&node)?);
            }
            looked += 1;
            // Each takes a row or more, and very many may have the token.
            if looked.is_multiple_of(AT_ONCE) {
                yield_now().await;
            }
        }
        Ok(late)
    }
}

/// Warns that a change of a token is in force here, and not yet there.
pub(super) fn warn_of_late(value: &mut Value, late: &Result<Vec<Late>, Fault>) {
    let late = match late {
        Ok(late) => late,
        // That does not keep anybody from taking rights away.
        Err(fault) => {
            let text = format!("Which devices hear of this later is not known: {}", fault.message);
            return warn(value, vec![text]);
        }
    };
    let named = late.iter().take(NAMED_MAX);
    let mut devices: Vec<_> =
        named.map(|late| format!("'{}' hears of it {}", late.name, late.when())).collect();
    if late.len() > NAMED_MAX {
        devices.push(format!("{} more hear of it later too", late.len() - NAMED_MAX));
    }
    if devices.is_empty() {
        return;
    }
    let text = format!(
        "Not every device goes by this yet: {}, or at the daily look at the configuration. Until \
         then the token is there what it was. Sooner: give a device another connection string (\
         skerry connected-registry get-settings --name NAME --generate-password 2) and restart it.",
        devices.join("; ")
    );
    log::info!("{text}");
    warn(value, vec![text]);
}

/// Warns that a device which was deactivated does not know it yet.
pub(super) fn warn_of_late_end(value: &mut Value, late: Option<&Late>) {
    if let Some(late) = late {
        let text = format!(
            "The device of '{}' hears of this {} or at its daily look at the configuration. Until \
             then it does not say so, and serves what it has.",
            late.name,
            late.when()
        );
        warn(value, vec![text]);
    }
}

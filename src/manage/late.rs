//! Which devices hear of a change later than at once, because their sync windows are closed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Manage, Warning};
use crate::sys::spawn::yield_now;
use crate::types::limits::TREE_DEPTH_MAX;
use crate::types::schedule::Window;
use crate::types::{
    ConnectedRegistry, ConnectedRegistryName, ScopeMapName, TokenName, UnixSeconds,
};

/// Devices that are looked up in one turn.
const AT_ONCE: usize = 64;

/// Where and how long a change waits on its way to a device.
pub struct Late {
    /// The device that it is for.
    pub name: ConnectedRegistryName,
    /// The node on the way whose window opens last; the device itself, or one above it.
    pub via: ConnectedRegistryName,
    /// The schedule of that node.
    pub schedule: String,
    /// Whether that is known to be in force there: this node sent it.
    pub known: bool,
    /// When its window opens; `None`: never.
    pub next: Option<UnixSeconds>,
}

impl Late {
    /// When it ends, for people.
    pub(super) fn when(&self) -> String {
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

impl Manage {
    /// When the device of a connected registry hears of a change, unless at once; `None` for one
    /// that is not active too.
    pub(super) fn late(&self, node: &ConnectedRegistry) -> Result<Option<Late>, Error> {
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

    /// When the parent of a device hears of its new password, unless at once.
    pub(super) fn parent_late(&self, node: &ConnectedRegistry) -> Result<Option<Warning>, Error> {
        let Some(parent) = &node.parent else { return Ok(None) };
        let late = self.late(&self.connected_registry(parent)?)?;
        Ok(late.map(Warning::PasswordHeardLate))
    }

    /// When the device of a connected registry learns of another schedule, unless at once: until
    /// then the one that it has heard of is in force.
    pub(super) fn schedule_late(
        &self,
        before: &ConnectedRegistry,
        now: &ConnectedRegistry,
    ) -> Result<Option<Warning>, Error> {
        let asked = (&now.schedule, now.sync_window_s);
        let told = self.contact.told(&now.name);
        let is_told = told.as_ref().is_some_and(|told| (&told.0, told.1) == asked);
        if is_told || (&before.schedule, before.sync_window_s) == asked {
            return Ok(None);
        }
        let told = told.map(|(schedule, _)| schedule);
        let stored = before.schedule.clone();
        let late = self.late(before)?;
        Ok(late.map(|late| Warning::ScheduleHeardLate { late, told, stored }))
    }

    /// The devices that go by a token and hear of a change of it later than at once: those whose
    /// clients have it, and the parent of one that syncs with it.
    pub(super) async fn late_for_token(&self, token: &TokenName) -> Result<Vec<Late>, Error> {
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

    /// The devices that hear later than at once of a change of scope maps: those that go by a token
    /// with one, and those that sync with one.
    pub(super) async fn late_for_maps(
        &self,
        maps: &BTreeSet<ScopeMapName>,
    ) -> Result<Vec<Late>, Error> {
        let mut late = BTreeMap::new();
        for token in self.store.tokens().await? {
            if !maps.contains(&token.scope_map) {
                continue;
            }
            let owner = self.store.sync_token_owner(&token.name)?;
            let own = owner.map(|node| self.late(&node)).transpose()?.flatten();
            let all = self.late_for_token(&token.name).await?.into_iter().chain(own);
            late.extend(all.map(|late| (late.name.clone(), late)));
        }
        Ok(late.into_values().collect())
    }
}

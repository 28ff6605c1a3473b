//! Instances: what is known of the node behind a connected registry.

use super::{Error, Manage};
use crate::sync::status_details;
use crate::types::connected_registry::{ConnectionState, ParentContact, StatusReport};
use crate::types::{ConnectedRegistry, Role, UnixSeconds};

/// What is known of the instance behind a connected registry.
pub struct Instance {
    /// Whether one was activated, and not deactivated since.
    pub active: bool,
    /// How it does.
    pub state: ConnectionState,
    /// When it was last in contact with its parent.
    pub last_contact: Option<UnixSeconds>,
    /// What it last reported.
    pub report: Option<StatusReport>,
}

impl Manage {
    /// What is known of the instance behind a connected registry. One that was never activated, was
    /// deactivated, or whose sync token is disabled, counts as Offline whatever it reported before.
    pub fn instance(&self, node: &ConnectedRegistry) -> Result<Instance, Error> {
        let own = match self.options.role {
            Role::Root => None,
            Role::Connected => self.store.self_name()?,
        };
        if own.as_ref() == Some(&node.name) {
            return self.own_instance(node);
        }
        let activation = self.store.activation(&node.name)?;
        // A later one than is known here: this registry was restored from a backup since.
        let active = activation.as_ref().is_some_and(|a| a.epoch >= node.activation_epoch);
        let status = self.store.status(&node.name)?;
        let counts = match &status {
            Some(status) => self.store.still_counts(node, status)?,
            None => true,
        };
        let stored = status.as_ref().map(|status| status.last_contact);
        let seen = stored.or(activation.map(|activation| activation.at)).filter(|_| active);
        let now = self.store.sys().clock.wall();
        let report = status.filter(|status| status.report.is_told()).map(|status| {
            // What a clock told that was ahead, here or at the node, is unknown.
            let last_sync = status.report.last_sync.filter(|at| at.is_past(now));
            StatusReport { last_sync, ..status.report }
        });
        let reported = report.as_ref().map(|report| report.state).unwrap_or_default();
        // One with a schedule may not have had a window to report in.
        let heard = report.is_some() || !node.schedule.is_continuous();
        let state = match active && heard && self.store.is_admitted(node)? {
            false => ConnectionState::Offline,
            // Only its own parent talks to a node; what is known of others is what was reported.
            true if node.parent == own => self.contact.state(node, reported, seen),
            true if !self.hears_of(node)? => ConnectionState::Offline,
            // The node above is another one since, to which this one may not have had a window to
            // report in.
            true if !counts && reported != ConnectionState::Offline => {
                self.contact.state(node, reported, seen)
            }
            true => reported,
        };
        let last_contact = self.contact.last_seen(&node.name, stored);
        Ok(Instance { active, state, last_contact, report })
    }

    /// Whether the nodes on the way to this one are in contact, so that what they reported of it
    /// counts. In a damaged store the parents may form a circle.
    fn hears_of(&self, node: &ConnectedRegistry) -> Result<bool, Error> {
        let Some(parent) = &node.parent else {
            return Ok(true);
        };
        if self.store.is_ancestor(&node.name, &node.name)? {
            return Ok(false);
        }
        Ok(self.instance(&self.connected_registry(parent)?)?.state != ConnectionState::Offline)
    }

    /// This node itself.
    fn own_instance(&self, node: &ConnectedRegistry) -> Result<Instance, Error> {
        let view = self.store.sync_view();
        let epoch = self.store.activated_epoch()?;
        let active = epoch.is_some_and(|epoch| epoch >= node.activation_epoch);
        let details = status_details(&self.store, view.problems.clone())?;
        let reported = match details.is_empty() {
            true => ConnectionState::Online,
            false => ConnectionState::Unhealthy,
        };
        let state = match (active, view.contact) {
            (false, _) => ConnectionState::Offline,
            (true, ParentContact::InContact) => reported,
            // Between windows it is not Offline, unless it missed too many.
            (true, _) => self.contact.state(node, reported, view.last_contact),
        };
        let report = StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            details,
            last_sync: view.last_sync,
            ..StatusReport::default()
        };
        Ok(Instance { active, state, last_contact: view.last_contact, report: Some(report) })
    }
}

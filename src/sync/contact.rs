//! What the attempts to follow the parent have come to. Pure: each event brings its time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::backoff;
use super::error::SyncError;
use super::refusal::{is_about_this_node, is_denial, is_no_gateway};
use crate::gateway::UpstreamError;
use crate::store::replica::node::SyncFailure;
use crate::types::UnixSeconds;
use crate::types::connected_registry::ParentContact;

/// Causes of one outage that the log has. Over it: the others are for the debug level.
const CAUSES_MAX: usize = 8;

/// How far a turn has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Place {
    /// The parent has not let this node in.
    #[default]
    Door,
    /// It has: what fails from here on refuses something else than this node.
    Inside,
}

impl Place {
    /// The key of the problem that fails there each time.
    pub(super) fn problem(self) -> &'static str {
        match self {
            Place::Door => "door",
            Place::Inside => "session",
        }
    }
}

/// How it stands with the parent.
#[derive(Default)]
pub(super) struct Contact {
    /// The parent answered the last call.
    online: bool,
    /// No window is open.
    waiting_for_window: bool,
    /// How far the turn that runs has come.
    place: Place,
    /// How far the one had come that failed last, unless one has succeeded since.
    failed_at: Place,
    /// Failures in a row.
    failures: u32,
    /// Failures in a row before the last that ended, and when that was, monotonic.
    recovered: Option<(u32, Duration)>,
    /// The parent was found again after an outage, and failures counted anew, since the last sync.
    found: bool,
    /// Failures in a row of which each was that the parent knows no such connected registry, denies
    /// it its configuration, or is no gateway; before this node followed it.
    denials: u32,
    /// Why the last attempt failed, until the parent lets this node in.
    failure: Option<SyncFailure>,
    /// Since when the attempts fail, if they do.
    lost_since: Option<UnixSeconds>,
    /// What the log says of the outage that lasts.
    causes: BTreeSet<String>,
}

/// A failure among those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failed {
    /// Failures in a row, with this one.
    pub(super) failures: u32,
    /// Of them, those at the end that were denials.
    pub(super) denials: u32,
    pub(super) place: Place,
    /// It is the first since the parent answered, or has another cause than all before it: the
    /// first one is often only how the parent went away.
    pub(super) is_new: bool,
}

impl Contact {
    /// A turn begins.
    pub(super) fn begin(&mut self) {
        self.place = Place::Door;
    }

    /// Whether this turn waits for a window.
    pub(super) fn wait(&mut self, waits: bool) {
        self.waiting_for_window = waits;
        self.online &= !waits;
    }

    /// The parent has let this node in.
    pub(super) fn let_in(&mut self) {
        self.place = Place::Inside;
    }

    /// This node follows the parent.
    pub(super) fn follow(&mut self) {
        self.online = true;
        self.denials = 0;
        self.failure = None;
    }

    /// That was all that is done outside a window: what failed at the door is over, and what failed
    /// inside is not tried anew.
    pub(super) fn looked(&mut self) {
        if self.failed_at == Place::Door {
            (self.failures, self.denials, self.found) = (0, 0, false);
            self.failure = None;
        }
    }

    /// The messages are applied, and what was due is compared. Returns the failures before.
    pub(super) fn succeeded(&mut self, time: Duration) -> u32 {
        self.found = false;
        self.failed_at = Place::Door;
        let before = std::mem::take(&mut self.failures);
        if before > 0 {
            self.recovered = Some((before, time));
        }
        before
    }

    /// A turn has failed.
    pub(super) fn failed(&mut self, error: &SyncError, time: Duration) -> Failed {
        let was_unreachable = self.failure.as_ref().is_some_and(|failure| failure.unreachable);
        let is_found = is_about_this_node(error) && was_unreachable;
        // Only once in an outage: behind a proxy, one of two parents may stay away.
        let before = if is_found && !self.found { 0 } else { self.failures_before(time) };
        self.found |= is_found;
        self.failed_at = self.place;
        self.failures = before.saturating_add(1);
        let is_denied = is_denial(error) && !self.online;
        let is_denied = is_denied || (is_no_gateway(error) && self.place == Place::Door);
        self.denials = if is_denied { self.denials.saturating_add(1) } else { 0 };
        // What fails on the disk here says nothing of the parent.
        self.online &= !matches!(error, SyncError::Upstream(_));
        self.failed_to_begin(error);
        let is_new = self.is_new(error);
        let Contact { failures, denials, place, .. } = *self;
        Failed { failures, denials, place, is_new }
    }

    /// The first contact has failed.
    pub(super) fn failed_to_begin(&mut self, error: &SyncError) {
        self.failure = Some(SyncFailure {
            text: error.to_string(),
            unreachable: matches!(error, SyncError::Upstream(UpstreamError::Unreachable(_))),
        });
    }

    /// Failures in a row before one at this time, monotonic. A success that did not last as long as
    /// the pause before it was none: what fails each time after it would be tried each second.
    fn failures_before(&self, time: Duration) -> u32 {
        match self.recovered {
            Some((failures, at))
                if self.failures == 0 && time.saturating_sub(at) < backoff::longest(failures) =>
            {
                failures
            }
            _ => self.failures,
        }
    }

    fn is_new(&mut self, error: &SyncError) -> bool {
        if self.failures == 1 {
            self.causes.clear();
        }
        self.causes.len() < CAUSES_MAX && self.causes.insert(error.to_string())
    }

    /// Remembers since when the attempts fail. `at`: what time it is, if that is known.
    pub(super) fn note_lost(&mut self, at: Option<UnixSeconds>) {
        let is_lost = self.parent() == ParentContact::OutOfContact;
        self.lost_since = self.lost_since.or(at).filter(|_| is_lost);
    }

    pub(super) fn parent(&self) -> ParentContact {
        match (self.online, self.waiting_for_window, self.failures) {
            (true, _, _) => ParentContact::InContact,
            (false, true, _) => ParentContact::WaitingForWindow,
            (false, false, 0) => ParentContact::Connecting,
            (false, false, _) => ParentContact::OutOfContact,
        }
    }

    pub(super) fn waiting_for_window(&self) -> bool {
        self.waiting_for_window
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn failure(&self) -> Option<&SyncFailure> {
        self.failure.as_ref()
    }

    pub(super) fn lost_since(&self) -> Option<UnixSeconds> {
        self.lost_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symptom: "the sync works again" each second, and a call to the parent, while what came after
    /// it failed each time. Cause: each success counted the failures anew.
    #[test]
    fn f036_f212_a_success_that_does_not_last_is_none() {
        let cut: SyncError = UpstreamError::Unreachable("unexpected end of file".to_owned()).into();
        for (pause, next) in [(7, 5), (8, 1)] {
            let mut contact = Contact::default();
            let mut at = Duration::from_secs(100);
            for failures in 1..5 {
                assert_eq!(contact.failed(&cut, at).failures, failures);
                contact.succeeded(at);
            }
            at += Duration::from_secs(pause);
            let failures = contact.failed(&cut, at).failures;
            assert_eq!(failures, next, "the pause after four is eight seconds");
        }
    }
}

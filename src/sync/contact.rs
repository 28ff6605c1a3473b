//! What the attempts to follow the parent have come to. Pure: each event brings its time.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use super::backoff;
use super::error::SyncError;
use super::refusal::{is_about_this_node, is_denial, is_no_gateway, is_unreachable};
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
    /// How far the one had come that failed last.
    failed_at: Place,
    /// Failures in a row.
    failures: u32,
    /// Failures in a row before a success that is not known to last yet, and when that was,
    /// monotonic.
    trial: Option<(u32, Duration)>,
    /// The parent was found again in this outage, and failures counted anew.
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
    /// It is the first of an outage, or has another cause than all before it: the first one is
    /// often only how the parent went away.
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
    /// inside is not tried anew. Returns the failures that are over, if there were any.
    pub(super) fn looked(&mut self) -> Option<NonZeroU32> {
        if self.failures > 0 && self.failed_at == Place::Inside {
            return None;
        }
        self.denials = 0;
        self.failure = None;
        self.found = false;
        self.causes.clear();
        NonZeroU32::new(std::mem::take(&mut self.failures))
    }

    /// What succeeded is none while nothing can be written.
    pub(super) fn fails_on(&mut self) {
        if let Some((before, _)) = self.trial.take() {
            self.failures = before;
        }
    }

    /// The messages are applied, and what was due is compared.
    pub(super) fn succeeded(&mut self, time: Duration) {
        let before = std::mem::take(&mut self.failures);
        if before > 0 {
            self.trial = Some((before, time));
        }
    }

    /// Whether a success has lasted by now, for as long as the pause before it; returns the
    /// failures before. One that does not was none: what fails each time after it would be tried,
    /// and told, each second.
    pub(super) fn lasts(&mut self, time: Duration) -> Option<u32> {
        let (before, _) = self.trial.filter(|_| self.lasts_in(time) == Some(Duration::ZERO))?;
        self.trial = None;
        self.found = false;
        self.causes.clear();
        Some(before)
    }

    /// When it will have lasted; `None`: nothing is on trial.
    pub(super) fn lasts_in(&self, time: Duration) -> Option<Duration> {
        let (before, at) = self.trial?;
        Some(backoff::longest(before).saturating_sub(time.saturating_sub(at)))
    }

    /// Whether all that failed is known to be over.
    pub(super) fn is_well(&self) -> bool {
        self.failures == 0 && self.trial.is_none()
    }

    /// A turn has failed, and no success before it had lasted.
    pub(super) fn failed(&mut self, error: &SyncError) -> Failed {
        let was_unreachable = self.failure.as_ref().is_some_and(|failure| failure.unreachable);
        let is_found = is_about_this_node(error) && was_unreachable;
        // Only once in an outage: behind a proxy, one of two parents may stay away.
        let before = self.trial.take().map_or(self.failures, |(before, _)| before);
        let before = if is_found && !self.found { 0 } else { before };
        self.found |= is_found;
        self.failed_at = self.place;
        self.failures = before.saturating_add(1);
        let is_denied = is_denial(error) && !self.online;
        let is_denied = is_denied || (is_no_gateway(error) && self.place == Place::Door);
        self.denials = if is_denied { self.denials.saturating_add(1) } else { 0 };
        // What fails on the disk here says nothing of the parent, which may have let this node in.
        self.online |= self.place == Place::Inside;
        self.online &= !matches!(error, SyncError::Upstream(_));
        self.set_failure(error);
        let is_new = self.causes.len() < CAUSES_MAX && self.causes.insert(error.to_string());
        let Contact { failures, denials, place, .. } = *self;
        Failed { failures, denials, place, is_new }
    }

    /// Remembers why the last attempt failed.
    pub(super) fn set_failure(&mut self, error: &SyncError) {
        let (text, unreachable) = (error.to_string(), is_unreachable(error));
        self.failure = Some(SyncFailure { text, unreachable });
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

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Why the last attempt failed; between windows only if none succeeded since.
    pub(super) fn failure(&self) -> Option<&SyncFailure> {
        self.failure.as_ref().filter(|_| self.failures > 0 || !self.waiting_for_window)
    }

    pub(super) fn lost_since(&self) -> Option<UnixSeconds> {
        self.lost_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::UpstreamError;
    use crate::store::StoreError;

    /// What a turn does, after which it fails if there is an error.
    #[derive(Clone, Copy, Debug)]
    enum Turn {
        /// It fails at the door.
        Door(usize),
        /// It is let in, and fails there.
        Inside(usize),
        /// It succeeds, and then something fails at once.
        Short(usize),
        /// It succeeds, and then something fails after two minutes.
        Long(usize),
        /// It looks at the configuration outside a window.
        Look,
    }

    fn errors() -> [SyncError; 4] {
        [
            UpstreamError::Unreachable("no route".to_owned()).into(),
            UpstreamError::Forbidden("no".to_owned()).into(),
            UpstreamError::Protocol("nonsense".to_owned()).into(),
            StoreError::Unavailable.into(),
        ]
    }

    fn turns() -> Vec<Turn> {
        let kinds = [Turn::Door, Turn::Inside, Turn::Short, Turn::Long];
        let each = |kind: fn(usize) -> Turn| (0..errors().len()).map(kind);
        kinds.into_iter().flat_map(each).chain([Turn::Look]).collect()
    }

    /// What was seen of a series of turns.
    struct Seen {
        contact: Contact,
        at: Duration,
        errors: [SyncError; 4],
        /// Failures in a row, as they should be counted.
        failures: u32,
        /// The parent was found again in this outage.
        found: bool,
        /// The log said last that the sync stopped.
        is_told: bool,
    }

    impl Seen {
        fn new() -> Seen {
            let (contact, at) = (Contact::default(), Duration::from_secs(1000));
            let is_told = false;
            Seen { contact, at, errors: errors(), failures: 0, found: false, is_told }
        }

        fn succeed(&mut self, goes_on_for: Duration) {
            self.contact.let_in();
            self.contact.follow();
            self.contact.succeeded(self.at);
            assert!(self.contact.parent() == ParentContact::InContact);
            assert_eq!(self.contact.lasts(self.at), None, "it is not told before it has lasted");
            self.at += goes_on_for;
            let told = self.contact.lasts(self.at);
            if goes_on_for >= backoff::LONGEST {
                assert_eq!(told, (self.failures > 0).then_some(self.failures));
                assert!(self.contact.is_well());
                (self.failures, self.found, self.is_told) = (0, false, false);
            } else {
                assert!(told.is_none() || self.failures == 1, "{told:?} {}", self.failures);
                assert_eq!(self.contact.is_well(), self.failures == 0);
            }
        }

        fn fail(&mut self, error: usize) {
            let was_unreachable = self.contact.failure.as_ref().is_some_and(|one| one.unreachable);
            let failed = self.contact.failed(&self.errors[error]);
            let is_found = was_unreachable && error == 1;
            self.failures = if is_found && !self.found { 1 } else { self.failures + 1 };
            self.found |= is_found;
            assert_eq!(
                failed.failures, self.failures,
                "each counts, but for one news in an outage"
            );
            assert_eq!(self.contact.parent() == ParentContact::InContact, self.follows(error));
            self.is_told |= failed.is_new;
            assert!(self.is_told, "the log does not say that it works");
            self.at += backoff::longest(failed.failures);
        }

        /// What fails on the disk here says nothing of the parent.
        fn follows(&self, error: usize) -> bool {
            error == 3 && (self.contact.online || self.contact.place == Place::Inside)
        }

        fn turn(&mut self, turn: Turn) {
            self.contact.begin();
            self.contact.wait(matches!(turn, Turn::Look));
            match turn {
                Turn::Door(_) => {}
                Turn::Inside(_) => self.contact.let_in(),
                Turn::Short(_) => self.succeed(Duration::from_millis(10)),
                Turn::Long(_) => self.succeed(Duration::from_secs(120)),
                Turn::Look => {
                    self.contact.let_in();
                    let is_over =
                        self.contact.failed_at == Place::Door || self.contact.failures == 0;
                    let over = self.contact.looked();
                    assert_eq!(over, NonZeroU32::new(if is_over { self.failures } else { 0 }));
                    if is_over {
                        (self.failures, self.found, self.is_told) = (0, false, false);
                    }
                    assert_eq!(self.contact.failures(), self.failures);
                }
            }
            if let Turn::Door(error)
            | Turn::Inside(error)
            | Turn::Short(error)
            | Turn::Long(error) = turn
            {
                self.fail(error);
            }
        }
    }

    /// Symptoms: "the sync works again" each second, and a call to the parent, while what came
    /// after it failed each time; the same as the last word of the log while the parent was away.
    /// Cause: each success ended the outage.
    #[test]
    fn f036_f212_whatever_happens_tries_become_rarer_and_the_log_stays_true() {
        let turns = turns();
        let count = turns.len();
        for series in 0..count.pow(4) {
            let mut seen = Seen::new();
            let mut left = series;
            for _ in 0..4 {
                seen.turn(turns[left % count]);
                left /= count;
            }
        }
    }

    #[test]
    fn f036_f212_a_success_that_does_not_last_is_none() {
        let cut: SyncError = UpstreamError::Unreachable("unexpected end of file".to_owned()).into();
        for (pause, next) in [(7, 5), (8, 1)] {
            let mut contact = Contact::default();
            let mut at = Duration::from_secs(100);
            for failures in 1..5 {
                assert_eq!(contact.failed(&cut).failures, failures);
                contact.succeeded(at);
            }
            assert_eq!(contact.lasts_in(at), Some(Duration::from_secs(8)));
            at += Duration::from_secs(pause);
            contact.lasts(at);
            let failures = contact.failed(&cut).failures;
            assert_eq!(failures, next, "the pause after four is eight seconds");
        }
    }
}

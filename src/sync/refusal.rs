//! What an answer of the parent says of this node: which of them refuse it, and which pass by
//! themselves.

use super::error::SyncError;
use crate::gateway::UpstreamError;
use crate::types::role::HurdleKind;

/// Failures in a row that have nothing to do with the link before they are reported.
pub(super) const REPORTED_AFTER: u32 = 3;

/// Whether the parent says that it knows no such connected registry, or that this one may not do
/// what it asks for.
pub(super) fn is_denial(error: &SyncError) -> bool {
    let SyncError::Upstream(error) = error else {
        return false;
    };
    matches!(error, UpstreamError::Forbidden(_) | UpstreamError::NotFound(_))
}

/// Whether nobody answered, or not to the end.
pub(super) fn is_unreachable(error: &SyncError) -> bool {
    matches!(error, SyncError::Upstream(UpstreamError::Unreachable(_)))
}

/// Whether the parent has looked at who asks. After an outage the pauses start anew then: the
/// parent is back, and it may hear of this node in a moment. One that is overloaded does not
/// answer so.
pub(super) fn is_about_this_node(error: &SyncError) -> bool {
    let unknown = SyncError::from(UpstreamError::ActivationUnknown);
    is_denial(error)
        || *error == unknown
        || matches!(error, SyncError::Upstream(UpstreamError::Unauthorized(_)))
}

/// Whether what answers does not speak as a gateway does.
pub(super) fn is_no_gateway(error: &SyncError) -> bool {
    let SyncError::Upstream(error) = error else {
        return false;
    };
    match error {
        UpstreamError::NoGateway(_) => true,
        UpstreamError::Refused(..) => error.is_foreign(),
        _ => false,
    }
}

/// What kind of refusal an error is; `None` for what passes by itself. Once this instance is
/// active, only the loss of that is one, or a denial that lasts: a parent that takes the place of
/// another, or has not heard of this node yet, answers the first ones of `denials` in a row. So
/// does a portal on the way.
pub(super) fn refusal_kind(error: &SyncError, active: bool, denials: u32) -> Option<HurdleKind> {
    let may_pass = is_denial(error) || is_no_gateway(error);
    if active && may_pass && denials < REPORTED_AFTER {
        return None;
    }
    let SyncError::Upstream(error) = error else {
        return None;
    };
    match error {
        UpstreamError::AlreadyActivated(text) if text.contains("ALREADY_ACTIVATED") => {
            Some(HurdleKind::AlreadyActivated)
        }
        UpstreamError::AlreadyActivated(_) => Some(HurdleKind::Deactivated),
        UpstreamError::NoGateway(_) => Some(HurdleKind::NotAGateway),
        UpstreamError::Protocol(_) => (!active).then_some(HurdleKind::NotAGateway),
        error if error.is_foreign() => Some(HurdleKind::NotAGateway),
        UpstreamError::Refused(..) if active => None,
        UpstreamError::Unauthorized(_) => Some(HurdleKind::Unauthorized),
        UpstreamError::Forbidden(_) | UpstreamError::NotFound(_) if active => {
            Some(HurdleKind::Unknown)
        }
        UpstreamError::Forbidden(_) | UpstreamError::NotFound(_) | UpstreamError::Refused(..) => {
            Some(HurdleKind::ActivationRefused)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn f031_f034_only_what_needs_somebody_is_a_refusal() {
        use UpstreamError::*;
        let text = || r#"{"errors":[]}"#.to_owned();
        let foreign = || "<html>".to_owned();
        let already = || AlreadyActivated("ALREADY_ACTIVATED".to_owned());
        let few = REPORTED_AFTER - 1;
        for (error, active, denials, wanted) in [
            (already(), false, 0, Some(HurdleKind::AlreadyActivated)),
            (already(), true, 0, Some(HurdleKind::AlreadyActivated)),
            (AlreadyActivated(text()), true, 0, Some(HurdleKind::Deactivated)),
            (Unauthorized(text()), false, 0, Some(HurdleKind::Unauthorized)),
            (Unauthorized(text()), true, 0, Some(HurdleKind::Unauthorized)),
            (NotFound(text()), false, 0, Some(HurdleKind::ActivationRefused)),
            (NotFound(text()), true, few, None),
            (NotFound(text()), true, REPORTED_AFTER, Some(HurdleKind::Unknown)),
            (Unauthorized(foreign()), true, 0, Some(HurdleKind::NotAGateway)),
            (Unauthorized(foreign()), false, 0, Some(HurdleKind::NotAGateway)),
            (NotFound(foreign()), false, 0, Some(HurdleKind::NotAGateway)),
            (NotFound(foreign()), true, few, None),
            (NotFound(foreign()), true, REPORTED_AFTER, Some(HurdleKind::NotAGateway)),
            (Refused(405, foreign()), false, 0, Some(HurdleKind::NotAGateway)),
            (Refused(405, foreign()), true, few, None),
            (Refused(405, foreign()), true, REPORTED_AFTER, Some(HurdleKind::NotAGateway)),
            (Refused(405, text()), false, 0, Some(HurdleKind::ActivationRefused)),
            (Refused(405, text()), true, REPORTED_AFTER, None),
            (Protocol(text()), false, 0, Some(HurdleKind::NotAGateway)),
            (Protocol(text()), true, REPORTED_AFTER, None),
            (NoGateway(text()), false, 0, Some(HurdleKind::NotAGateway)),
            (NoGateway(text()), true, few, None),
            (NoGateway(text()), true, REPORTED_AFTER, Some(HurdleKind::NotAGateway)),
            (Forbidden(text()), false, 0, Some(HurdleKind::ActivationRefused)),
            (Forbidden(text()), true, few, None),
            (Forbidden(text()), true, REPORTED_AFTER, Some(HurdleKind::Unknown)),
            (Unreachable(text()), false, REPORTED_AFTER, None),
            (Busy(503, text()), false, REPORTED_AFTER, None),
            (Busy(503, text()), true, REPORTED_AFTER, None),
        ] {
            let kind = refusal_kind(&error.clone().into(), active, denials);
            assert_eq!(kind, wanted, "{error:?} {active} {denials}");
        }
        assert_eq!(refusal_kind(&StoreError::Full.into(), false, 0), None);
    }
}

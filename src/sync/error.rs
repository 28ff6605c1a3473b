//! Why a sync stopped.

use std::fmt;

use crate::gateway::UpstreamError;
use crate::store::StoreError;
use crate::types::Reason;
use crate::types::text::mib;

/// Reasons in an answer that say that the parent cannot answer at all just now.
const OF_THE_WHOLE: [&str; 2] = ["\"store_unavailable\"", "\"throttled\""];

/// Why a step of a sync was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncError {
    /// The parent.
    Upstream(UpstreamError),
    /// The disk here.
    Store(StoreError),
    /// What the parent sent is not what it should be, so this one item is left out.
    Content(String),
    /// The disk here has no space for an item beside its reserve. With how many bytes of it are
    /// missing; 0 where that is not known.
    NoRoom(u64),
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncError::Upstream(error) => error.fmt(f),
            SyncError::Store(error) => error.fmt(f),
            SyncError::Content(text) => f.write_str(text),
            SyncError::NoRoom(0) => StoreError::Full.fmt(f),
            SyncError::NoRoom(bytes) => {
                write!(f, "the disk here has no space for the {} that are missing", mib(*bytes))
            }
        }
    }
}

impl std::error::Error for SyncError {}

impl From<UpstreamError> for SyncError {
    fn from(error: UpstreamError) -> SyncError {
        SyncError::Upstream(error)
    }
}

impl From<StoreError> for SyncError {
    fn from(error: StoreError) -> SyncError {
        SyncError::Store(error)
    }
}

impl SyncError {
    /// Whether the rest of a sync can go on without the item that failed.
    pub fn is_local(&self) -> bool {
        match self {
            SyncError::Content(_) => true,
            SyncError::Upstream(error) => matches!(
                error,
                UpstreamError::NotFound(_)
                    | UpstreamError::Forbidden(_)
                    | UpstreamError::Refused(..)
            ),
            // The repository keeps what it has; the others go on.
            SyncError::Store(error) => matches!(error, StoreError::Quota(_)),
            SyncError::NoRoom(_) => false,
        }
    }

    /// Says of a full disk how many bytes of an item are missing, 0 where that is not known.
    pub(super) fn with_needed(self, bytes: u64) -> SyncError {
        match self {
            SyncError::Store(StoreError::Full) => SyncError::NoRoom(bytes),
            other => other,
        }
    }

    /// Whether an item is set aside because of this, and everything else goes on.
    pub fn sets_aside(&self) -> bool {
        self.is_of_item() || self.lacks_room().is_some()
    }

    /// How many bytes of an item are missing for which there is no room here; 0: not known.
    pub(super) fn lacks_room(&self) -> Option<u64> {
        match self {
            SyncError::NoRoom(bytes) => Some(*bytes),
            SyncError::Store(StoreError::IndexFull) => Some(0),
            _ => None,
        }
    }

    /// Whether only the item that was to be fetched is at fault, here or at the parent. What
    /// concerns the link, the login, the parent as a whole or the space here is not: of an item
    /// that does not fit, nothing is left out.
    pub fn is_of_item(&self) -> bool {
        match self {
            SyncError::Content(_) => true,
            SyncError::NoRoom(_) => false,
            SyncError::Store(error) => {
                use StoreError::{Invalid, Quota, Unreadable};
                matches!(error, Quota(_) | Invalid(_) | Unreadable(_))
            }
            SyncError::Upstream(error) => match error {
                UpstreamError::NotFound(_)
                | UpstreamError::NotYet(_)
                | UpstreamError::Lost(_)
                | UpstreamError::Forbidden(_)
                | UpstreamError::QuotaKept(_)
                | UpstreamError::Refused(..)
                | UpstreamError::Malformed(_)
                | UpstreamError::PreconditionFailed
                | UpstreamError::Gone => true,
                UpstreamError::Busy(status, text) => {
                    *status >= 500 && !OF_THE_WHOLE.iter().any(|reason| text.contains(reason))
                }
                UpstreamError::Unauthorized(_)
                | UpstreamError::AlreadyActivated(_)
                | UpstreamError::OutboxMismatch { .. }
                | UpstreamError::ActivationUnknown
                | UpstreamError::StartedAnew
                | UpstreamError::Unreachable(_)
                | UpstreamError::Protocol(_)
                | UpstreamError::NoGateway(_) => false,
            },
        }
    }

    /// Whether an item may be had or taken soon: content cannot be read just now, here or at a
    /// parent that is not whole yet, or the parent, or a proxy before it, failed at this one.
    pub fn may_pass(&self) -> bool {
        matches!(self, SyncError::Content(_)) || self.is_of_item() && !self.is_local()
    }

    /// Whether the parent refuses a manifest for want of what that needs.
    pub(super) fn lacks_content(&self) -> bool {
        matches!(self, SyncError::Upstream(error) if error.is_for(Reason::ContentMissing))
    }

    /// Whether the parent, or a proxy before it, failed at this one, or has no room for it: its
    /// disk is full, or other uploads keep the room of a quota.
    pub(super) fn is_of_the_parent(&self) -> bool {
        matches!(self, SyncError::Upstream(UpstreamError::QuotaKept(_) | UpstreamError::Busy(..)))
    }

    /// Whether the parent says that it has no room: on its disk, in its index, or in a quota of
    /// which other uploads keep some.
    pub(super) fn finds_no_room_there(&self) -> bool {
        let SyncError::Upstream(error) = self else { return false };
        matches!(error, UpstreamError::QuotaKept(_) | UpstreamError::Busy(507, _))
    }

    /// Whether the parent says that this node may not do this.
    pub(super) fn is_about_rights(&self) -> bool {
        matches!(self, SyncError::Upstream(UpstreamError::Forbidden(_)))
    }

    /// Whether nothing can be done with the parent for now.
    pub fn ends_session(&self) -> bool {
        let SyncError::Upstream(error) = self else {
            return false;
        };
        self.needs_an_operator()
            || matches!(
                error,
                UpstreamError::ActivationUnknown
                    | UpstreamError::StartedAnew
                    | UpstreamError::Unreachable(_)
            )
    }

    /// Whether trying again soon is useless: someone has to act first.
    pub fn needs_an_operator(&self) -> bool {
        matches!(
            self,
            SyncError::Upstream(
                UpstreamError::Unauthorized(_) | UpstreamError::AlreadyActivated(_)
            )
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f204_a_fault_of_one_thing_is_told_from_one_of_the_parent() {
        let busy = |status, reason: &str| {
            let text = format!(r#"{{"errors":[{{"detail":{{"reason":"{reason}"}}}}]}}"#);
            SyncError::from(UpstreamError::Busy(status, text))
        };
        let text = || "x".to_owned();
        for (error, of_item) in [
            (busy(503, "content_damaged"), true),
            (busy(502, ""), true),
            (UpstreamError::QuotaKept(text()).into(), true),
            (busy(503, "store_unavailable"), false),
            (busy(429, "throttled"), false),
            (busy(408, "timeout"), false),
            (UpstreamError::NotFound(text()).into(), true),
            (UpstreamError::NotYet(text()).into(), true),
            (UpstreamError::Malformed(text()).into(), true),
            (UpstreamError::Gone.into(), true),
            (UpstreamError::Unauthorized(text()).into(), false),
            (UpstreamError::ActivationUnknown.into(), false),
            (UpstreamError::StartedAnew.into(), false),
            (UpstreamError::Unreachable(text()).into(), false),
            (UpstreamError::Protocol(text()).into(), false),
            (StoreError::Quota(text()).into(), true),
            (StoreError::Unreadable(text()).into(), true),
            (StoreError::Full.into(), false),
            (StoreError::IndexFull.into(), false),
            (StoreError::Io(text()).into(), false),
            (SyncError::Content(text()), true),
            (SyncError::NoRoom(9), false),
        ] {
            assert_eq!(error.is_of_item(), of_item, "{error:?}");
            // Nothing else of a repository waits for either.
            assert!(of_item || !error.is_local() && !error.may_pass(), "{error:?}");
            let is_room = error.lacks_room().is_some();
            assert_eq!(error.sets_aside(), of_item || is_room, "{error:?}");
        }
    }
}

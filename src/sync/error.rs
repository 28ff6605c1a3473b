//! Why a sync stopped.

use std::fmt;

use crate::gateway::UpstreamError;
use crate::store::StoreError;

/// Why a step of a sync was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncError {
    /// The parent.
    Upstream(UpstreamError),
    /// The disk here.
    Store(StoreError),
    /// What the parent sent is not what it should be, so this one thing is left out.
    Content(String),
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncError::Upstream(error) => error.fmt(f),
            SyncError::Store(error) => error.fmt(f),
            SyncError::Content(text) => f.write_str(text),
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
    /// Whether the rest of a sync can go on without the thing that failed.
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
        }
    }

    /// Whether nothing can be done with the parent for now.
    pub fn ends_session(&self) -> bool {
        let SyncError::Upstream(error) = self else {
            return false;
        };
        self.needs_an_operator() || matches!(error, UpstreamError::Unreachable(_))
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

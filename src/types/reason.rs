//! Why a request was refused: a closed list that travels in the OCI error's `detail`.

/// A machine-readable reason. README lists each; a user can see why a pull missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No credentials, or none that this node accepts.
    AuthenticationRequired,
    /// The access token is expired, tampered with or was issued elsewhere.
    TokenInvalid,
    /// The token is disabled, deleted, or no longer accepted here.
    TokenDisabled,
    /// The password behind the access token was replaced or has expired.
    PasswordRevoked,
    /// The scope map does not grant the action.
    NotInScopeMap,
    /// This connected registry takes no pushes.
    ReadOnly,
    /// The repository is not among those that the parent grants this node.
    NotInSyncScope,
    /// The parent does not grant this node to write to the repository: a push could not go up.
    NotInSyncWriteScope,
    /// Granted, and on its way: the first sync of this repository has not finished.
    NotSyncedYet,
    /// Granted, but no sync window is open.
    WaitingForWindow,
    /// Left out by the repository's platform filter.
    PlatformFiltered,
    /// No such repository, manifest, blob, tag or upload here.
    NotFound,
    /// The request is malformed.
    Malformed,
    /// The digest does not match the content.
    DigestMismatch,
    /// A manifest names content that is not there.
    ContentMissing,
    /// Manifests of the repository name the blob that is to be deleted.
    StillNeeded,
    /// A chunk is not the next one.
    OutOfOrder,
    /// Larger than a limit of this node.
    TooLarge,
    /// The requested range lies outside the content.
    RangeInvalid,
    /// A precondition (If-Match, If-None-Match) does not hold.
    PreconditionFailed,
    /// A child named its change with a number that stands for another one here.
    OutboxMismatch,
    /// A child names a change that another of its changes took the place of.
    OutboxReplaced,
    /// A child delivers a change of a connected registry that is not below it here.
    OriginNotBelow,
    /// The method or feature is not offered.
    Unsupported,
    /// Too many requests, uploads or failed logins; Retry-After says when.
    Throttled,
    /// Free space is below the reserve.
    DiskReserve,
    /// The index has as many rows as memory is meant for.
    IndexFull,
    /// The repository would hold more than its quota.
    QuotaExceeded,
    /// The store cannot take or answer anything just now; Retry-After says when.
    StoreUnavailable,
    /// The content failed its check and is being healed.
    ContentDamaged,
    /// Another instance serves this connected registry.
    AlreadyActivated,
    /// The connected registry was deactivated: start the instance anew to activate it. Or its
    /// parent has no record of the instance, which then activates itself.
    NotActivated,
    /// The position in the change feed is unknown or too old: reconcile.
    FeedGone,
    /// The request was meant for this node before its last start: it may have been restored since.
    StartedAnew,
    /// The client was too slow to send its request.
    Timeout,
    /// A defect of this program; its log says which.
    Internal,
}

impl Reason {
    /// Every reason, in the order in which they are documented.
    pub const ALL: [Reason; 36] = [
        Reason::AuthenticationRequired,
        Reason::TokenInvalid,
        Reason::TokenDisabled,
        Reason::PasswordRevoked,
        Reason::NotInScopeMap,
        Reason::ReadOnly,
        Reason::NotInSyncScope,
        Reason::NotInSyncWriteScope,
        Reason::NotSyncedYet,
        Reason::WaitingForWindow,
        Reason::PlatformFiltered,
        Reason::NotFound,
        Reason::Malformed,
        Reason::DigestMismatch,
        Reason::ContentMissing,
        Reason::StillNeeded,
        Reason::OutOfOrder,
        Reason::TooLarge,
        Reason::RangeInvalid,
        Reason::PreconditionFailed,
        Reason::OutboxMismatch,
        Reason::OutboxReplaced,
        Reason::OriginNotBelow,
        Reason::Unsupported,
        Reason::Throttled,
        Reason::DiskReserve,
        Reason::IndexFull,
        Reason::QuotaExceeded,
        Reason::StoreUnavailable,
        Reason::ContentDamaged,
        Reason::AlreadyActivated,
        Reason::NotActivated,
        Reason::FeedGone,
        Reason::StartedAnew,
        Reason::Timeout,
        Reason::Internal,
    ];

    /// Whether the body of an error names this reason. What a client chose, as a name in the
    /// message, has no quotes around it there.
    pub fn is_in(self, body: &str) -> bool {
        body.contains(&format!("\"{}\"", self.name()))
    }

    /// Whether the body of an error, which may be cut short, is one of ours: an OCI error that says
    /// why. Others too say words such as `not_found`.
    pub fn is_given_in(body: &str) -> bool {
        let is_named = |reason: Reason, detail: &str| {
            detail.contains(&format!("\"reason\":\"{}\"", reason.name()))
        };
        let detail = body.strip_prefix("{\"errors\":[{\"code\":\"").and_then(|rest| {
            let (_, detail) = rest.split_once("\"detail\":{")?;
            Some(detail)
        });
        detail.is_some_and(|detail| Reason::ALL.into_iter().any(|one| is_named(one, detail)))
    }

    /// The word in the `detail` of an OCI error.
    pub fn name(self) -> &'static str {
        match self {
            Reason::AuthenticationRequired => "authentication_required",
            Reason::TokenInvalid => "token_invalid",
            Reason::TokenDisabled => "token_disabled",
            Reason::PasswordRevoked => "password_revoked",
            Reason::NotInScopeMap => "not_in_scope_map",
            Reason::ReadOnly => "read_only",
            Reason::NotInSyncScope => "not_in_sync_scope",
            Reason::NotInSyncWriteScope => "not_in_sync_write_scope",
            Reason::NotSyncedYet => "not_synced_yet",
            Reason::WaitingForWindow => "waiting_for_window",
            Reason::PlatformFiltered => "platform_filtered",
            Reason::NotFound => "not_found",
            Reason::Malformed => "malformed",
            Reason::DigestMismatch => "digest_mismatch",
            Reason::ContentMissing => "content_missing",
            Reason::StillNeeded => "still_needed",
            Reason::OutOfOrder => "out_of_order",
            Reason::TooLarge => "too_large",
            Reason::RangeInvalid => "range_invalid",
            Reason::PreconditionFailed => "precondition_failed",
            Reason::OutboxMismatch => "outbox_mismatch",
            // Children of earlier versions look for the word before it.
            Reason::OutboxReplaced => "outbox_mismatch_replaced",
            Reason::OriginNotBelow => "origin_not_below",
            Reason::Unsupported => "unsupported",
            Reason::Throttled => "throttled",
            Reason::DiskReserve => "disk_reserve",
            Reason::IndexFull => "index_full",
            Reason::QuotaExceeded => "quota_exceeded",
            Reason::StoreUnavailable => "store_unavailable",
            Reason::ContentDamaged => "content_damaged",
            Reason::AlreadyActivated => "already_activated",
            Reason::NotActivated => "not_activated",
            Reason::FeedGone => "feed_gone",
            Reason::StartedAnew => "started_anew",
            Reason::Timeout => "timeout",
            Reason::Internal => "internal_error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_client_chose_is_no_reason() {
        let body = |name: &str| {
            let message = format!("another change of {name} came before");
            serde_json::json!({"errors":[{"code":"DENIED","message":message,
                "detail":{"reason":"outbox_mismatch"}}]})
            .to_string()
        };
        for name in ["outbox_mismatch_replaced", "\"outbox_mismatch_replaced\""] {
            assert!(Reason::OutboxMismatch.is_in(&body(name)));
            assert!(!Reason::OutboxReplaced.is_in(&body(name)));
        }
    }

    #[test]
    fn f176_the_readme_lists_every_reason_and_no_other() {
        let readme = include_str!("../../README.md");
        let section = readme.split("### Why a request was refused").nth(1).unwrap();
        let section = section.split("\n#").next().unwrap();
        let documented: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(word, _)| word)
            .collect();
        assert_eq!(Reason::Internal as usize + 1, Reason::ALL.len(), "ALL has all");
        let ours: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(documented, ours);
    }
}

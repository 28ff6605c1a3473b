//! Faults of the store, told to clients. The only place where this is decided.

use crate::store::StoreError;
use crate::types::{Reason, Refusal};

/// Seconds after which a client may try again what cannot be done now.
const RETRY_AFTER_S: u64 = 5;

/// A fault of the store in a place where none of its kinds means anything special. Details of
/// damage and of the disk go to the log, not to the client.
pub fn store_refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::NotFound => {
            Refusal::new(404, "NAME_UNKNOWN", Reason::NotFound, "there is no such thing here")
        }
        StoreError::Conflict(text) => Refusal::new(412, "DENIED", Reason::PreconditionFailed, text),
        StoreError::OutboxMismatch(text) => {
            Refusal::new(409, "DENIED", Reason::OutboxMismatch, text)
        }
        StoreError::OutboxReplaced(text) => {
            Refusal::new(409, "DENIED", Reason::OutboxReplaced, text)
        }
        StoreError::Invalid(text) => Refusal::new(400, "UNSUPPORTED", Reason::Malformed, text),
        StoreError::Full => Refusal::new(
            507,
            "DENIED",
            Reason::DiskReserve,
            "this registry's disk is full or below its reserve; it takes pushes again when space \
             is freed",
        ),
        StoreError::IndexFull => Refusal::new(
            507,
            "DENIED",
            Reason::IndexFull,
            "this registry has no memory to keep track of more content; it takes pushes again when \
             manifests are deleted",
        ),
        StoreError::Quota(text) => Refusal::new(403, "DENIED", Reason::QuotaExceeded, text),
        StoreError::QuotaKept(text) => Refusal {
            retry_after_s: Some(RETRY_AFTER_S),
            ..Refusal::new(403, "DENIED", Reason::QuotaExceeded, text)
        },
        StoreError::Unavailable | StoreError::Rebuilding(_) | StoreError::NewerFormat(_) => {
            unavailable(&error.to_string())
        }
        StoreError::Corrupt(text) => {
            log::error!("stored data is damaged: {text}");
            damaged()
        }
        StoreError::Unreadable(text) => {
            log::error!("the disk failed: {text}");
            not_served(
                "a file of this content cannot be read or written here: see the status of this \
                 registry",
            )
        }
        StoreError::Io(text) => {
            log::error!("the disk failed: {text}");
            unavailable("the disk of this registry failed")
        }
    }
}

/// Something to try again later.
pub fn unavailable(message: &str) -> Refusal {
    let mut refusal = Refusal::new(503, "TOOMANYREQUESTS", Reason::StoreUnavailable, message);
    refusal.retry_after_s = Some(RETRY_AFTER_S);
    refusal
}

/// Content that is known here but cannot be given.
pub fn damaged() -> Refusal {
    not_served("the stored content is damaged and not served until it is healed")
}

fn not_served(message: &str) -> Refusal {
    let mut refusal = Refusal::new(503, "TOOMANYREQUESTS", Reason::ContentDamaged, message);
    refusal.retry_after_s = Some(RETRY_AFTER_S);
    refusal
}

/// The same, told to somebody who may bring it: it is unknown until then. A child does not take it
/// for deleted.
pub fn damaged_here(code: &'static str) -> Refusal {
    let message = "the stored content is damaged; push it again to heal it";
    Refusal { partial: true, ..Refusal::new(404, code, Reason::ContentDamaged, message) }
}

/// A malformed part of a request.
pub fn malformed(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(400, code, Reason::Malformed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f159_faults_have_codes_of_the_table() {
        const TABLE: [&str; 14] = [
            "BLOB_UNKNOWN",
            "BLOB_UPLOAD_INVALID",
            "BLOB_UPLOAD_UNKNOWN",
            "DIGEST_INVALID",
            "MANIFEST_BLOB_UNKNOWN",
            "MANIFEST_INVALID",
            "MANIFEST_UNKNOWN",
            "NAME_INVALID",
            "NAME_UNKNOWN",
            "SIZE_INVALID",
            "UNAUTHORIZED",
            "DENIED",
            "UNSUPPORTED",
            "TOOMANYREQUESTS",
        ];
        for (error, status, reason) in [
            (StoreError::NotFound, 404, Reason::NotFound),
            (StoreError::Conflict("x".to_owned()), 412, Reason::PreconditionFailed),
            (StoreError::OutboxMismatch("x".to_owned()), 409, Reason::OutboxMismatch),
            (StoreError::OutboxReplaced("x".to_owned()), 409, Reason::OutboxReplaced),
            (StoreError::Invalid("x".to_owned()), 400, Reason::Malformed),
            (StoreError::Full, 507, Reason::DiskReserve),
            (StoreError::IndexFull, 507, Reason::IndexFull),
            (StoreError::Quota("over".to_owned()), 403, Reason::QuotaExceeded),
            (StoreError::QuotaKept("over".to_owned()), 403, Reason::QuotaExceeded),
            (StoreError::Unavailable, 503, Reason::StoreUnavailable),
            (StoreError::Rebuilding(41), 503, Reason::StoreUnavailable),
            (StoreError::Corrupt("/secret/path".to_owned()), 503, Reason::ContentDamaged),
            (StoreError::Unreadable("/secret/path".to_owned()), 503, Reason::ContentDamaged),
            (StoreError::Io("/secret/path".to_owned()), 503, Reason::StoreUnavailable),
        ] {
            let passes = status == 503 || matches!(error, StoreError::QuotaKept(_));
            let refusal = store_refusal(error);
            assert_eq!((refusal.status, refusal.reason), (status, reason));
            assert!(TABLE.contains(&refusal.code));
            assert!(!refusal.message.contains("secret"));
            assert_eq!(refusal.retry_after_s.is_some(), passes);
        }
    }
}

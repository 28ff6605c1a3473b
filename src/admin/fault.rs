//! Errors of the management interface: `{"error":{"code","message"}}`.

use crate::http::Reply;
use crate::store::StoreError;

/// Why a command was not done.
#[derive(Debug)]
pub(super) struct Fault {
    /// HTTP status.
    pub(super) status: u16,
    /// One word.
    pub(super) code: &'static str,
    /// A sentence with the cause and, where there is one, the cure.
    pub(super) message: String,
}

impl Fault {
    pub(super) fn invalid(message: impl Into<String>) -> Fault {
        Fault { status: 400, code: "InvalidArgument", message: message.into() }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Fault {
        Fault { status: 404, code: "NotFound", message: message.into() }
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Fault {
        Fault { status: 409, code, message: message.into() }
    }

    /// The fault behind a store error; `kind` and `name` say what was not found.
    pub(super) fn of(error: StoreError, kind: &str, name: &dyn std::fmt::Display) -> Fault {
        match error {
            StoreError::NotFound => {
                Fault::not_found(format!("The {kind} '{name}' could not be found."))
            }
            other => Fault::from(other),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        let message = error.to_string();
        match error {
            StoreError::NotFound => Fault::not_found("There is no such thing."),
            StoreError::Invalid(_) => Fault::invalid(message),
            StoreError::Conflict(_)
            | StoreError::OutboxMismatch(_)
            | StoreError::OutboxReplaced(_) => Fault::conflict("Conflict", message),
            StoreError::Quota(_) | StoreError::QuotaKept(_) => {
                Fault { status: 403, code: "QuotaExceeded", message }
            }
            StoreError::Full => Fault { status: 507, code: "DiskFull", message },
            StoreError::NewerFormat(_) => Fault { status: 503, code: "ReadOnlyStore", message },
            StoreError::Unavailable | StoreError::Rebuilding(_) => {
                Fault { status: 503, code: "Unavailable", message }
            }
            StoreError::Corrupt(_) | StoreError::Unreadable(_) | StoreError::Io(_) => {
                log::error!("a management command failed: {message}");
                Fault { status: 500, code: "StoreError", message }
            }
        }
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Reply {
        let error = serde_json::json!({ "code": fault.code, "message": fault.message });
        Reply::json(fault.status, &serde_json::json!({ "error": error }))
    }
}

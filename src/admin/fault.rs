//! Errors of the management interface: `{"error":{"code","message"}}`.

use crate::http::Reply;
use crate::manage::{Error, Kind};
use crate::store::StoreError;

/// Why a call was not answered as it was meant.
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
    pub(super) fn not_found(message: impl Into<String>) -> Fault {
        Error::not_found(message).into()
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Fault {
        Fault { status: 409, code, message: message.into() }
    }
}

/// The word for what is to be thought of a command.
pub(super) fn code(kind: Kind) -> &'static str {
    meaning(kind).1
}

/// The HTTP status and the word.
fn meaning(kind: Kind) -> (u16, &'static str) {
    match kind {
        Kind::Invalid => (400, "InvalidArgument"),
        Kind::NotFound => (404, "NotFound"),
        Kind::Conflict => (409, "Conflict"),
        Kind::ManagedAtRoot => (409, "ManagedAtRoot"),
        Kind::QuotaExceeded => (403, "QuotaExceeded"),
        Kind::DiskFull => (507, "DiskFull"),
        Kind::ReadOnlyStore => (503, "ReadOnlyStore"),
        Kind::Unavailable => (503, "Unavailable"),
        Kind::Failed => (500, "StoreError"),
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        let (status, code) = meaning(error.kind);
        Fault { status, code, message: error.to_string() }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Error::from(error).into()
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Reply {
        let error = serde_json::json!({ "code": fault.code, "message": fault.message });
        Reply::json(fault.status, &serde_json::json!({ "error": error }))
    }
}

//! What is answered to a request that no handler sees, or whose handler failed.

use crate::types::{Reason, Refusal};

/// A refusal of a head or of a body, in the form of an OCI error.
pub(in crate::http) fn refusal(status: u16, text: impl Into<String>) -> Refusal {
    let (code, reason) = match status {
        408 => ("UNSUPPORTED", Reason::Timeout),
        413 | 414 | 431 => ("SIZE_INVALID", Reason::TooLarge),
        417 | 501 | 505 => ("UNSUPPORTED", Reason::Unsupported),
        500 => ("UNSUPPORTED", Reason::Internal),
        503 => ("TOOMANYREQUESTS", Reason::Throttled),
        _ => ("UNSUPPORTED", Reason::Malformed),
    };
    Refusal::new(status, code, reason, text)
}

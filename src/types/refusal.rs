//! A refused request, ready to be told to a client.

use super::Reason;

/// The header of an answer that lacks what this node has not got from its own parent yet, or has
/// lost: what is missing was not deleted.
pub const PARTIAL: &str = "skerry-partial";

/// What a client is told when it does not get what it asked for. `http` turns it into a reply
/// with an OCI error body: `{"errors":[{"code","message","detail":{"reason"}}]}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// From the OCI table (distribution-spec, "Error Codes").
    pub code: &'static str,
    /// From our closed list.
    pub reason: Reason,
    /// For people: the cause and, where there is one, the cure.
    pub message: String,
    /// The `WWW-Authenticate` header of a 401.
    pub challenge: Option<String>,
    /// Seconds for `Retry-After`.
    pub retry_after_s: Option<u64>,
    /// Whether the answer carries [`PARTIAL`].
    pub partial: bool,
}

impl Refusal {
    /// A refusal without extra headers.
    pub fn new(
        status: u16,
        code: &'static str,
        reason: Reason,
        message: impl Into<String>,
    ) -> Refusal {
        let message = message.into();
        let (challenge, retry_after_s, partial) = (None, None, false);
        Refusal { status, code, reason, message, challenge, retry_after_s, partial }
    }
}

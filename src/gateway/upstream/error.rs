//! Why a call to the parent failed.

use std::fmt;

use crate::http::ClientError;
use crate::types::{Digest, Reason};

/// Why the parent did not do what was asked, by what the caller does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UpstreamError {
    /// The sync token's password is wrong, or the token is disabled. Retry rarely.
    Unauthorized(String),
    /// The sync token works, but does not allow this.
    Forbidden(String),
    /// Another instance is active, or this one was deactivated. Retry rarely.
    AlreadyActivated(String),
    /// The parent has no record of this instance, as one that was replaced: activate again.
    ActivationUnknown,
    /// The position in the feed is unknown or too old: reconcile.
    Gone,
    /// There is no such thing at the parent.
    NotFound(String),
    /// There is no such thing at the parent, which has not got all of it from its own parent yet:
    /// this says nothing of a deletion.
    NotYet(String),
    /// The parent knows this manifest and has not deleted it, but has lost some of its content.
    Lost(Digest),
    /// A tag does not name what it should.
    PreconditionFailed,
    /// The parent has had the change before, or (`replaced`) another in its place, and what that
    /// made has changed since.
    OutboxMismatch {
        /// Whether it was another one.
        replaced: bool,
    },
    /// The parent has no room in a quota while other uploads keep it there.
    QuotaKept(String),
    /// The parent will never accept this.
    Refused(u16, String),
    /// The parent is there but cannot answer now: retry.
    Busy(u16, String),
    /// No connection, or no answer in time: retry.
    Unreachable(String),
    /// The parent does not speak as it should: retry rarely.
    Protocol(String),
    /// What answers in the parent's place is not a gateway: retry rarely.
    NoGateway(String),
    /// This one answer is not what it should be; others may be.
    Malformed(String),
    /// The parent was started anew since the session began: it may have been restored or replaced.
    StartedAnew,
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamError::Unauthorized(text)
            | UpstreamError::Forbidden(text)
            | UpstreamError::AlreadyActivated(text)
            | UpstreamError::NotFound(text)
            | UpstreamError::Unreachable(text)
            | UpstreamError::Protocol(text)
            | UpstreamError::NoGateway(text)
            | UpstreamError::Malformed(text) => f.write_str(&words(text)),
            UpstreamError::NotYet(text) => {
                write!(f, "the parent has not got all of it yet: {}", words(text))
            }
            UpstreamError::Lost(digest) => {
                write!(f, "content of {digest} is damaged at the parent")
            }
            UpstreamError::ActivationUnknown => {
                f.write_str("the parent has no record of this instance")
            }
            UpstreamError::StartedAnew => f.write_str("the parent was started anew"),
            UpstreamError::Gone => f.write_str("the position in the parent's feed is too old"),
            UpstreamError::PreconditionFailed => f.write_str("the tag was moved at the parent"),
            UpstreamError::OutboxMismatch { .. } => {
                f.write_str("the parent has had the change before, and counts what came after it")
            }
            UpstreamError::QuotaKept(text) => write!(f, "status 403: {text}"),
            UpstreamError::Refused(status, text) | UpstreamError::Busy(status, text) => {
                write!(f, "status {status}: {}", words(text))
            }
        }
    }
}

/// An error of the parent for people: its message, and its reason as README lists it. The text may
/// be cut short; what is not of the form of the registry API is shown as it is.
fn words(text: &str) -> String {
    let value = |key: &str| {
        let (_, rest) = text.split_once(&format!("\"{key}\":"))?;
        serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok()
    };
    match (value("message").filter(|_| text.starts_with('{')), value("reason")) {
        (Some(message), Some(reason)) => format!("{message} ({reason})"),
        (Some(message), None) => message,
        (None, _) => text.to_owned(),
    }
}

impl std::error::Error for UpstreamError {}

impl UpstreamError {
    /// Whether something that does not speak the registry API says no: what answers is not the
    /// parent. For answers that may have a body, so not to HEAD.
    pub fn is_foreign(&self) -> bool {
        match self {
            UpstreamError::Unauthorized(text)
            | UpstreamError::Forbidden(text)
            | UpstreamError::NotFound(text)
            | UpstreamError::Refused(_, text) => !text.starts_with('{'),
            _ => false,
        }
    }

    /// What it says that `endpoint` answered so, where a gateway asks for a login.
    pub(super) fn instead_of_login(status: u16, text: String, endpoint: &str) -> UpstreamError {
        match status {
            408 | 429 | 500.. => UpstreamError::Busy(status, text),
            _ => UpstreamError::NoGateway(format!(
                "{endpoint} is no gateway: it answered {status} instead of asking for a login"
            )),
        }
    }

    /// `NoGateway` for what people read: no gateway answers a call with that.
    pub(super) fn refuse_text(content_type: Option<&str>) -> Result<(), UpstreamError> {
        match content_type {
            Some(text) if text.to_ascii_lowercase().starts_with("text/") => {
                let text = format!("what answers is no gateway: it answered with {text}");
                Err(UpstreamError::NoGateway(text))
            }
            _ => Ok(()),
        }
    }

    /// Whether the parent gives this reason for a refusal.
    pub fn is_for(&self, reason: Reason) -> bool {
        let UpstreamError::Refused(_, text) = self else {
            return false;
        };
        reason.is_in(text)
    }
}

impl From<ClientError> for UpstreamError {
    fn from(error: ClientError) -> UpstreamError {
        match error {
            ClientError::Url(text) | ClientError::Protocol(text) => UpstreamError::Protocol(text),
            ClientError::Connect(error) => UpstreamError::Unreachable(error.to_string()),
            ClientError::Tls(text) => {
                // The text may advise another URL, and a node has a connection string.
                let key = "(ParentEndpointProtocol in the connection string is https)";
                UpstreamError::Unreachable(format!("TLS with the parent failed {key}: {text}"))
            }
            ClientError::Timeout => {
                UpstreamError::Unreachable("the parent did not answer in time".to_owned())
            }
            ClientError::Source(_) => UpstreamError::Malformed(error.to_string()),
            ClientError::Io(error) => {
                UpstreamError::Unreachable(format!("the connection to the parent broke: {error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f031_f212_what_answers_in_a_gateways_place_is_told_from_one_that_is_busy() {
        for (status, is_busy) in
            [(200, false), (302, false), (403, false), (404, false), (407, false), (408, true)]
                .into_iter()
                .chain([(429, true), (499, false), (500, true), (503, true), (511, true)])
        {
            match UpstreamError::instead_of_login(status, "<html>".to_owned(), "p:443") {
                UpstreamError::Busy(told, _) => assert!(is_busy && told == status, "{status}"),
                UpstreamError::NoGateway(text) => {
                    assert!(!is_busy && text.contains(&format!("answered {status}")), "{text}");
                }
                other => panic!("{status}: {other:?}"),
            }
        }
        let none = |content_type| UpstreamError::refuse_text(content_type).is_ok();
        assert!(none(None) && none(Some("application/octet-stream")));
        assert!(!none(Some("Text/HTML")) && !none(Some("text/plain; charset=utf-8")));
    }

    #[test]
    fn f212_an_error_is_shown_by_its_message_and_reason() {
        let whole = r#"{"errors":[{"code":"DENIED","detail":{"reason":"read_only"},
            "message":"It is \"ReadOnly\"."}]}"#;
        assert_eq!(words(whole), "It is \"ReadOnly\". (read_only)");
        let cut = &whole[..whole.len() - 3];
        assert_eq!(words(cut), words(whole));
        let other = r#"{"errors":[{"code":"X","message":"No."},{"message":"Nor."}]}"#;
        assert_eq!(words(other), "No.");
        for text in ["status 502", "<html>\"message\":\"x\"", "{\"message\":\"x", "{}"] {
            assert_eq!(words(text), text);
        }
    }
}

//! What an answer of the parent means.

use std::time::Duration;

use super::{ERROR_TEXT_MAX, UpstreamError, digest_header};
use crate::gateway::wire::BODY_BYTES_MAX;
use crate::http::{Body, BodyError, ClientError, ClientRequest, ClientResponse, Method};
use crate::sys::clock::within;
use crate::types::limits::{PROGRESS_DEADLINE, SLOWEST_BYTES_PER_S, SMALL_BODY_BYTES_MAX};
use crate::types::refusal::PARTIAL;
use crate::types::{ConnectedRegistryName, Reason};

/// What an answer over the bound of its body is.
const TOO_LARGE: &str = "the parent's answer is too large";

#[allow(clippy::needless_pass_by_value, reason = "it ends the error's way, in map_err")]
pub(in crate::gateway) fn protocol(error: impl ToString) -> UpstreamError {
    UpstreamError::Protocol(error.to_string())
}

/// What is wrong with the body of one answer says nothing of the others.
pub(in crate::gateway) fn malformed(error: UpstreamError) -> UpstreamError {
    match error {
        UpstreamError::Protocol(text) => UpstreamError::Malformed(text),
        other => other,
    }
}

/// Whether the answer is what a tag names, a manifest, or that there is none.
pub(super) fn asks_of_manifests(request: &ClientRequest) -> bool {
    matches!(request.method, Method::Get | Method::Head) && request.url.contains("/manifests/")
}

/// Says of a desired state of this node or one below it that is too large what it is, and what
/// helps.
pub(super) fn of_desired_state(
    name: &ConnectedRegistryName,
    error: UpstreamError,
) -> UpstreamError {
    match error {
        UpstreamError::Protocol(text) if text == TOO_LARGE => protocol(format!(
            "the desired state of '{name}' cannot be had, as it has more than {} MiB: at the \
             root, grant '{name}' and its direct children fewer repositories (a wildcard such as \
             'team/*' covers many with one), take client tokens off, or put some of the children \
             under other connected registries",
            BODY_BYTES_MAX / (1024 * 1024)
        )),
        other => other,
    }
}

/// The whole body of an answer. The slowest link that is accepted has the time for its length; one
/// on which nothing moves ends at the progress deadline of the connection.
pub(in crate::gateway) async fn body(
    response: ClientResponse,
    max: u64,
) -> Result<Vec<u8>, UpstreamError> {
    whole(response.body, max, PROGRESS_DEADLINE).await
}

/// `patience`: how long an empty body may take.
async fn whole(mut body: Body, max: u64, patience: Duration) -> Result<Vec<u8>, UpstreamError> {
    // A body in chunks does not tell its length before.
    let bytes = body.len().unwrap_or(max).min(max);
    let deadline = patience + Duration::from_secs(bytes.div_ceil(SLOWEST_BYTES_PER_S));
    match within(deadline, body.read_all(max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(BodyError::Io(error))) => Err(ClientError::Io(error).into()),
        Ok(Err(_)) => Err(protocol(TOO_LARGE)),
        Err(_) => Err(ClientError::Timeout.into()),
    }
}

/// Whether an answer may come from somebody who is not the parent. The others tell of the thing
/// that was asked for.
pub(super) fn is_doubtful(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::NotFound(_)
        | UpstreamError::NotYet(_)
        | UpstreamError::Lost(_)
        | UpstreamError::Gone
        | UpstreamError::PreconditionFailed
        | UpstreamError::OutboxMismatch { .. }
        | UpstreamError::AlreadyActivated(_)
        | UpstreamError::ActivationUnknown
        | UpstreamError::Malformed(_) => false,
        UpstreamError::Refused(status, _) => ![409, 413, 416].contains(status),
        UpstreamError::Unauthorized(_)
        | UpstreamError::Forbidden(_)
        | UpstreamError::QuotaKept(_)
        | UpstreamError::Busy(..)
        | UpstreamError::Unreachable(_)
        | UpstreamError::StartedAnew
        | UpstreamError::NoGateway(_)
        | UpstreamError::Protocol(_) => true,
    }
}

/// Passes good answers on and names the others.
pub(super) async fn check(response: ClientResponse) -> Result<ClientResponse, UpstreamError> {
    if matches!(response.status, 200..=299 | 304) {
        return Ok(response);
    }
    let partial = response.header(PARTIAL).is_some();
    let passes = response.header("retry-after").is_some();
    let named = digest_header(&response, "docker-content-digest");
    let (status, text) = error_text(response).await;
    Err(match status {
        404 if partial => named.map_or(UpstreamError::NotYet(text), UpstreamError::Lost),
        401 => UpstreamError::Forbidden(text),
        403 if passes && Reason::QuotaExceeded.is_in(&text) => UpstreamError::QuotaKept(text),
        404 => UpstreamError::NotFound(text),
        409 if text.contains("ACTIVATION_UNKNOWN") => UpstreamError::ActivationUnknown,
        409 if text.contains("_ACTIVATED") => UpstreamError::AlreadyActivated(text),
        409 if Reason::OutboxMismatch.is_in(&text) => {
            UpstreamError::OutboxMismatch { replaced: false }
        }
        409 if Reason::OutboxReplaced.is_in(&text) => {
            UpstreamError::OutboxMismatch { replaced: true }
        }
        410 => UpstreamError::Gone,
        412 => UpstreamError::PreconditionFailed,
        408 | 429 | 500.. => UpstreamError::Busy(status, text),
        _ => UpstreamError::Refused(status, text),
    })
}

/// The status and the body of an error, as the parent wrote it.
pub(super) async fn error_text(response: ClientResponse) -> (u16, String) {
    let status = response.status;
    let bytes = body(response, SMALL_BODY_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let text: String = visible.take(ERROR_TEXT_MAX).collect();
    let text = text.trim();
    (status, if text.is_empty() { format!("status {status}") } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use smol::future::{FutureExt, pending};
    use smol::io::AsyncRead;

    use super::*;
    use crate::sys::clock::sleep;

    /// The bytes of a body, which come when something has happened.
    struct Late(Pin<Box<dyn Future<Output = ()> + Send + Sync>>, io::Cursor<Vec<u8>>);

    impl AsyncRead for Late {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            if self.1.position() == 0 {
                ready!(self.0.poll(cx));
            }
            Poll::Ready(io::Read::read(&mut self.1, buffer))
        }
    }

    #[test]
    fn f204_an_answer_has_the_time_that_the_slowest_link_needs() {
        let read = |body| smol::block_on(whole(body, 9 * SLOWEST_BYTES_PER_S, Duration::ZERO));
        let bytes = vec![7; 8192];
        for len in [Some(8192), None] {
            let late = Box::pin(sleep(Duration::from_millis(50)));
            let body = Body::new(Late(late, io::Cursor::new(bytes.clone())), len);
            assert_eq!(read(body), Ok(bytes.clone()), "{len:?}");
        }
        let never = Late(Box::pin(pending()), io::Cursor::new(vec![7]));
        let ended = read(Body::new(never, Some(1)));
        assert!(matches!(ended, Err(UpstreamError::Unreachable(_))), "{ended:?}");
    }
}

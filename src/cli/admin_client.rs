//! Calls of a running node over its admin socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{EXIT_NOT_FOUND, Failure};
use crate::config::{self, Options, Source};
use crate::http::{BodyError, Client, ClientBody, ClientError, ClientRequest, Method};
use crate::sys::clock::within;
use crate::sys::{Spawner, Sys};
use crate::types::limits::BUFFER_BYTES;

/// A call must be answered within this time, in whole.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// Largest answer, bytes: a list of 10,000 connected registries has about 10 MiB.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What a backup that was broken off leaves is used by the next one.
const BACKUP_AGAIN: &str = "once the node answers, run the backup again";
/// What to do where a device takes no changes.
const READ_ONLY: &str =
    "It is ReadOnly: change what its parent has, at the root, and it follows at its next sync.";
/// Where management is.
const MANAGEMENT: &str = "/admin/v1/";
/// Where the service of this machine has its socket.
const SERVICE_SOCKET: &str = "/run/skerry/admin.sock";

/// The socket to use: as given, of the unit that we run in, of the service of this machine, or
/// below the state directory of the configuration. A `--config` names another node than the
/// machine's service.
pub(super) fn socket(
    given: Option<&Path>,
    options: &Options,
    source: &dyn Source,
) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let service = Path::new(SERVICE_SOCKET);
    let own_unit = source.variables().get("RUNTIME_DIRECTORY").is_some_and(|v| !v.is_empty());
    // Who may not look has no other node to ask either: its configuration is there too.
    let is_there = service.try_exists().unwrap_or(true);
    if options.file.is_none() && options.set.is_empty() && !own_unit && is_there {
        return Ok(service.to_owned());
    }
    Ok(config::load(options, source)?.config.listen.admin)
}

/// What a node answers.
pub(super) struct Answer {
    /// The JSON, `Null` when there is none.
    pub(super) value: Value,
    /// The path of the next page.
    pub(super) next: Option<String>,
}

/// Sends `body` to `/admin/v1/<path>` and gives the JSON of the answer, `Null` when it has none.
pub(super) fn post(socket: &Path, path: &str, body: &Value) -> Result<Value, Failure> {
    let mut request = request(Method::Post, &format!("{MANAGEMENT}{path}"), DEADLINE);
    request.body = ClientBody::Bytes(body.to_string().into_bytes());
    let request = request.with("content-type", "application/json");
    Ok(call(socket, path, request)?.value)
}

/// Sends a request without a body to any path.
pub(super) fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    deadline: Duration,
) -> Result<Answer, Failure> {
    call(socket, path, request(method, path, deadline))
}

/// `what` is the name of the call in messages.
fn call(socket: &Path, what: &str, request: ClientRequest) -> Result<Answer, Failure> {
    let deadline = request.deadline;
    let called = smol::block_on(within(deadline, async {
        let mut response = client(socket).send(request).await?;
        let body = response.body.read_all(ANSWER_BYTES_MAX).await;
        let next = response.header("link").and_then(next_page);
        Ok((response.status, next, body.map_err(broken)?))
    }));
    let (status, next, body) = called
        .unwrap_or(Err(ClientError::Timeout))
        .map_err(|error| failure(&error, |error| no_answer(socket, what, deadline, error)))?;
    let value = match body.as_slice() {
        [] => Value::Null,
        bytes => serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).trim().to_owned())),
    };
    if (200..300).contains(&status) {
        return Ok(Answer { value, next });
    }
    Err(refusal(status, &value))
}

/// The path in a `Link` with `rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (path, rest) = link.strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| path.to_owned())
}

/// Whether a node listens at this socket.
pub(super) fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Fetches `/admin/v1/<path>` and hands its bytes to `sink`, however many they are.
pub(super) fn get(
    socket: &Path,
    path: &str,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Failure> {
    let request = request(Method::Get, &format!("{MANAGEMENT}{path}"), DEADLINE);
    let downloaded = smol::block_on(async {
        let mut response = client(socket).send(request).await?;
        if response.status != 200 {
            let body = response.body.read_all(ANSWER_BYTES_MAX).await.map_err(broken)?;
            let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            return Ok(Err(refusal(response.status, &value)));
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match response.body.read(&mut buffer).await.map_err(ClientError::Io)? {
                0 => return Ok(Ok(())),
                read => sink(&buffer[..read]).map_err(ClientError::Io)?,
            }
        }
    });
    downloaded.unwrap_or_else(|error| {
        let node = socket.display();
        Err(failure(&error, |error| {
            format!("{path} did not come whole from {node}: {error}; {BACKUP_AGAIN}")
        }))
    })
}

/// A client for one call: a connection that is kept may have died by the next one.
fn client(socket: &Path) -> Client {
    Client::unix(&Sys::real(Spawner::new()), socket)
}

fn request(method: Method, path: &str, deadline: Duration) -> ClientRequest {
    let mut request = ClientRequest::new(method, format!("http://localhost{path}"));
    request.deadline = deadline;
    request.with("accept", "application/json")
}

/// Why an answer did not come to its end.
fn broken(error: BodyError) -> ClientError {
    match error {
        BodyError::Io(error) => ClientError::Io(error),
        _ => ClientError::Protocol("the answer is too long".to_owned()),
    }
}

/// Says what to do where nothing listens; of other errors what `say` does.
fn failure(error: &ClientError, say: impl FnOnce(&ClientError) -> String) -> Failure {
    match error {
        ClientError::Connect(error) => no_node(error),
        error => Failure::new(say(error)),
    }
}

fn no_answer(socket: &Path, path: &str, deadline: Duration, error: &ClientError) -> String {
    let node = socket.display();
    match error {
        _ if path.starts_with("backup/") => {
            format!("the node at {node} gave no answer: {error}; {BACKUP_AGAIN}")
        }
        ClientError::Timeout => format!(
            "the node at {node} gave no answer within {} s; it may still be at work: what it has \
             begun it ends. Look at what is there (`show`, `list`) before you repeat the command",
            deadline.as_secs()
        ),
        _ => format!("the node at {node} gave no answer: {error}"),
    }
}

fn no_node(error: &io::Error) -> Failure {
    let cure = match error.kind() {
        io::ErrorKind::PermissionDenied => "use root or the user that runs the node",
        io::ErrorKind::NotFound => {
            "start one with 'skerry serve' (one that runs has lost its socket: restart it), or \
             name its socket with --admin-socket"
        }
        _ => "start one with 'skerry serve', or name its socket with --admin-socket",
    };
    Failure::new(format!("no node answers: {error}; {cure}"))
}

/// What `{"error": {"code", "message"}}` says; the list form of the registry API is read too.
fn refusal(status: u16, value: &Value) -> Failure {
    let message = ["/error/message", "/errors/0/message"]
        .iter()
        .find_map(|pointer| value.pointer(pointer)?.as_str())
        .or(value.as_str().filter(|text| !text.is_empty()));
    let message = match message {
        Some(message) => message.to_owned(),
        None => format!("the node answered {status} without a reason"),
    };
    let message = match value.pointer("/errors/0/detail/reason").and_then(Value::as_str) {
        Some("read_only") => format!("{message} {READ_ONLY}"),
        _ => message,
    };
    let code = if status == 404 { EXIT_NOT_FOUND } else { super::EXIT_FAILED };
    Failure { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MapSource;

    #[test]
    fn f209_a_command_that_takes_long_is_no_failure_without_a_word() {
        let text = no_answer(Path::new("/s"), "gc", DEADLINE, &ClientError::Timeout);
        assert!(text.contains("within 30 s") && text.contains("at work"), "{text}");
        let text = no_answer(
            Path::new("/s"),
            "gc",
            DEADLINE,
            &ClientError::Io(io::ErrorKind::ConnectionReset.into()),
        );
        assert!(!text.contains("at work"), "{text}");
        let text = no_answer(Path::new("/s"), "backup/end", DEADLINE, &ClientError::Timeout);
        assert!(text.ends_with(BACKUP_AGAIN), "{text}");
    }

    #[test]
    fn refusals_have_exit_codes() {
        let body = serde_json::json!({ "error": { "code": "NotFound", "message": "no such" } });
        let failure = refusal(404, &body);
        assert_eq!((failure.code, failure.message.as_str()), (3, "no such"));
        assert_eq!(refusal(409, &body).code, 1);
        assert!(refusal(500, &Value::Null).message.contains("500"));
    }

    #[test]
    fn a_missing_node_is_one_line_with_path_and_cure() {
        let path = Path::new("/nowhere/admin.sock");
        let failure = post(path, "status", &Value::Null).unwrap_err();
        assert!(failure.message.contains("/nowhere/admin.sock"));
        assert!(failure.message.contains("--admin-socket"));
        assert!(!failure.message.contains('\n'));
    }

    #[test]
    fn the_socket_is_found() {
        let options = Options { file: Some("/c.toml".into()), ..Options::default() };
        let source = MapSource::default().file("/c.toml", "[storage]\nstate_dir = \"/s\"\n");
        assert_eq!(socket(None, &options, &source).unwrap(), Path::new("/s/admin.sock"));
        let given = socket(Some(Path::new("/g")), &options, &source).unwrap();
        assert_eq!(given, Path::new("/g"));
        let unit = source.variable("RUNTIME_DIRECTORY", "/run/x");
        assert_eq!(socket(None, &options, &unit).unwrap(), Path::new("/run/x/admin.sock"));
    }
}

//! One exchange with a running node over its admin socket.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{EXIT_NOT_FOUND, Failure};
use crate::config::{self, Options, Source};
use crate::sys::{Clock, SystemClock};

/// The whole exchange must be done within this time.
const DEADLINE: Duration = Duration::from_secs(30);
/// Largest answer, bytes: a list of 10,000 connected registries has about 10 MiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest head of an answer, bytes.
const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header fields of an answer.
const HEADERS_MAX: usize = 32;
/// What a backup that was broken off leaves is used by the next one.
const BACKUP_AGAIN: &str = "once the node answers, run the backup again";
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

/// Sends `body` to `/admin/v1/<path>` and gives the JSON of the answer, `Null` when it has none.
pub(super) fn post(socket: &Path, path: &str, body: &Value) -> Result<Value, Failure> {
    let stream = UnixStream::connect(socket).map_err(|error| no_node(socket, &error))?;
    let answer = exchange(stream, path, &body.to_string())
        .map_err(|error| Failure::new(no_answer(socket, path, &error)))?;
    let value = match answer.body.as_slice() {
        [] => Value::Null,
        bytes => serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).trim().to_owned())),
    };
    if (200..300).contains(&answer.status) {
        return Ok(value);
    }
    Err(refusal(answer.status, &value))
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
    let stream = UnixStream::connect(socket).map_err(|error| no_node(socket, &error))?;
    let answer = download(stream, path, sink).map_err(|error| {
        let node = socket.display();
        Failure::new(format!("{path} did not come whole from {node}: {error}; {BACKUP_AGAIN}"))
    })?;
    if answer.status == 200 {
        return Ok(());
    }
    let value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    Err(refusal(answer.status, &value))
}

/// The answer, without its body when it is 200: `sink` has that.
fn download(
    mut stream: UnixStream,
    path: &str,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Answer> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let head =
        format!("GET /admin/v1/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let (status, start, mut left) = loop {
        let read = read(&mut stream, &mut buffer)?;
        if read == 0 || received.len() > ANSWER_HEAD_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&buffer[..read]);
        if let Some(head) = parse_head(&received)? {
            break head;
        }
    };
    let mut body = received.split_off(start);
    left = left.checked_sub(body.len() as u64).ok_or_else(|| io::Error::other("a long body"))?;
    if status == 200 {
        sink(&body)?;
        body.clear();
    }
    while left > 0 {
        let read = read(&mut stream, &mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.checked_sub(read as u64).ok_or_else(|| io::Error::other("a long body"))?;
        match status {
            200 => sink(&buffer[..read])?,
            _ => body.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(Answer { status, body })
}

/// Status, where the body starts, and its length, if the head is complete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<(u16, usize, u64)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|_| io::Error::other("it is not HTTP"))?;
    let httparse::Status::Complete(start) = parsed else { return Ok(None) };
    let len = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let len = len.and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse().ok());
    let len = len.ok_or_else(|| io::Error::other("a body without a length"))?;
    Ok(Some((response.code.unwrap_or(0), start, len)))
}

/// Reads what has come. A program that is stopped and goes on has lost nothing by that.
fn read(stream: &mut UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            read => return read,
        }
    }
}

fn no_answer(socket: &Path, path: &str, error: &io::Error) -> String {
    let node = socket.display();
    match error.kind() {
        _ if path.starts_with("backup/") => {
            format!("the node at {node} gave no answer: {error}; {BACKUP_AGAIN}")
        }
        io::ErrorKind::TimedOut => format!(
            "the node at {node} gave no answer within {} s; it may still be at work: what it has \
             begun it ends. Look at what is there (`show`, `list`) before you repeat the command",
            DEADLINE.as_secs()
        ),
        _ => format!("the node at {node} gave no answer: {error}"),
    }
}

fn no_node(socket: &Path, error: &io::Error) -> Failure {
    let cure = match error.kind() {
        io::ErrorKind::PermissionDenied => "use root or the user that runs the node",
        io::ErrorKind::NotFound => {
            "start one with 'skerry serve' (one that runs has lost its socket: restart it), or \
             name its socket with --admin-socket"
        }
        _ => "start one with 'skerry serve', or name its socket with --admin-socket",
    };
    Failure::new(format!("no node answers at {}: {error}; {cure}", socket.display()))
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
    let code = if status == 404 { EXIT_NOT_FOUND } else { super::EXIT_FAILED };
    Failure { code, message }
}

/// A whole answer.
#[derive(PartialEq, Eq, Debug)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

fn exchange(mut stream: UnixStream, path: &str, body: &str) -> io::Result<Answer> {
    let clock = SystemClock::new();
    stream.set_write_timeout(Some(DEADLINE))?;
    let head = format!(
        "POST /admin/v1/{path} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut received = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = DEADLINE.checked_sub(clock.monotonic()).filter(|left| !left.is_zero());
        let left = left.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
        stream.set_read_timeout(Some(left))?;
        let read = read(&mut stream, &mut buffer)?;
        received.extend_from_slice(&buffer[..read]);
        if let Some(answer) = parse(&received, read == 0)? {
            return Ok(answer);
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if received.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
    }
}

/// The answer in `bytes`, if it is complete; `ended` when no more will come.
fn parse(bytes: &[u8], ended: bool) -> io::Result<Option<Answer>> {
    let malformed = |_| io::Error::other("it is not HTTP");
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = response.parse(bytes).map_err(malformed)? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or(0);
    let header = |name: &str| {
        let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| String::from_utf8_lossy(field.value).trim().to_ascii_lowercase())
    };
    let rest = &bytes[start..];
    if header("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
        return Ok(dechunk(rest)?.map(|body| Answer { status, body }));
    }
    let body = match header("content-length") {
        Some(text) => {
            let len: usize = text.parse().map_err(|_| io::Error::other("a bad length"))?;
            rest.get(..len)
        }
        None if status == 204 => Some(&rest[..0]),
        None => ended.then_some(rest),
    };
    Ok(body.map(|body| Answer { status, body: body.to_vec() }))
}

/// The bytes of a chunked body (RFC 9112, section 7.1), if it is complete.
fn dechunk(mut rest: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let bad = || io::Error::other("a bad chunk");
    let mut body = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(rest).map_err(|_| bad())? {
            httparse::Status::Complete(found) => found,
            httparse::Status::Partial => return Ok(None),
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).map_err(|_| bad())?;
        let end = start.checked_add(size).and_then(|end| end.checked_add(2)).ok_or_else(bad)?;
        let Some(chunk) = rest.get(start..end) else {
            return Ok(None);
        };
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MapSource;

    #[test]
    fn an_answer_is_complete_when_its_framing_says_so() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let answer = Answer { status: 200, body: b"{}".to_vec() };
        assert_eq!(parse(text, false).unwrap(), Some(answer));
        assert_eq!(parse(&text[..text.len() - 1], false).unwrap(), None);
        let chunked =
            b"HTTP/1.1 404 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n";
        let answer = Answer { status: 404, body: b"abc".to_vec() };
        assert_eq!(parse(chunked, false).unwrap(), Some(answer));
        let until_end = b"HTTP/1.0 200 OK\r\n\r\nx";
        assert_eq!(parse(until_end, false).unwrap(), None);
        assert!(parse(until_end, true).unwrap().is_some());
        assert!(parse(b"SSH-2.0-x\r\n\r\n", false).is_err());
    }

    #[test]
    fn an_exchange_over_a_socket_pair() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue").unwrap();
        let answer = exchange(ours, "status", "{}").unwrap();
        assert_eq!(answer.body, b"true");
        let mut request = [0; 512];
        let read = theirs.read(&mut request).unwrap();
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        assert!(request.starts_with("POST /admin/v1/status HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("content-length: 2\r\n"), "{request}");
    }

    #[test]
    fn f209_a_command_that_takes_long_is_no_failure_without_a_word() {
        let text = no_answer(Path::new("/s"), "gc", &io::ErrorKind::TimedOut.into());
        assert!(text.contains("within 30 s") && text.contains("at work"), "{text}");
        let text = no_answer(Path::new("/s"), "gc", &io::ErrorKind::ConnectionReset.into());
        assert!(!text.contains("at work"), "{text}");
        let text = no_answer(Path::new("/s"), "backup/end", &io::ErrorKind::TimedOut.into());
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

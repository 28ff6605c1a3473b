//! What peers send, for fuzzing: heads, bodies, whole connections, places to go.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use super::client::heads;
use super::client::url::Target;
use super::server::conn::Connection;
use super::server::reply_head::ReplyHead;
use super::wire::framing::Framing;
use super::wire::head;
use super::wire::script::Script;
use super::wire::transport::{Transport, Wire};
use super::{
    Admission, Budget, ClientRequest, Deadlines, Handler, Reply, Request, Service, Shutdown,
};
use crate::sys::net::Peer;
use crate::sys::{Spawner, Sys};
use crate::types::limits::{PROGRESS_DEADLINE, SMALL_BODY_BYTES_MAX};
use http_types::Method;

/// The head of a request, whole and byte by byte.
pub(crate) fn request_head(bytes: &[u8]) {
    let whole = head::end(bytes, 0);
    let mut searched = 0;
    let by_byte = (0..=bytes.len()).find_map(|len| {
        let end = head::end(&bytes[..len], searched);
        searched = len;
        end
    });
    assert_eq!(whole, by_byte, "where the head ends");
    let bytes = &bytes[..whole.unwrap_or(bytes.len())];
    let parsed = head::parse(bytes);
    assert_eq!(parsed, head::parse_with_codec(bytes), "not the same without the codec");
    match parsed {
        Ok(head) => check_head(&head),
        Err(refusal) => assert!((400..=505).contains(&refusal.status), "{}", refusal.status),
    }
}

fn check_head(head: &head::Head) {
    if let Some(path) = &head.path {
        assert!(path.starts_with('/') && !path.chars().any(char::is_control), "{path:?}");
        let dots = path.split(['/', '\\']).any(|part| part == "." || part == "..");
        assert!(!dots, "{path:?}");
    }
    for (name, value) in &head.headers {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
        assert_eq!(*name, name.to_ascii_lowercase());
        assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b) || b == b'\t'), "{value:?}");
        let framing = ["host", "content-length", "transfer-encoding", "connection"];
        assert!(!framing.contains(&name.as_str()), "{name}");
    }
    if let Some(host) = &head.host {
        assert!(!host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']), "{host:?}");
    }
    assert!(!head.expects_continue || !head.framing.is_over());
}

/// The head of an answer, to a method that the first byte says.
pub(crate) fn answer_head(bytes: &[u8]) {
    let Some((method, bytes)) = bytes.split_first() else { return };
    let method = [Method::Get, Method::Head, Method::Put][usize::from(method % 3)];
    let Ok(head) = heads::parse_head(bytes, method) else { return };
    assert!((100..=999).contains(&head.status));
    for (name, value) in &head.headers {
        assert!(name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
        assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{value:?}");
    }
}

/// The head of a reply: two bytes that choose the status, one that chooses what else it says, then
/// its fields, a line each: a byte that chooses the name, and the value.
pub(crate) fn reply_head(bytes: &[u8]) {
    let [high, low, kind, fields @ ..] = bytes else { return };
    let names = ["etag", "link", "X-Upper", "Date", "content-type", "x-upper", "connection", "a"];
    let fields = fields.split(|byte| *byte == b'\n').filter_map(|line| line.split_first());
    let headers: Vec<(&'static str, String)> = fields
        .map(|(name, value)| (names[usize::from(name % 8)], String::from_utf8_lossy(value).into()))
        .collect();
    let head = ReplyHead {
        status: u16::from(*high) * 4 + u16::from(*low),
        headers: &headers,
        length: (kind & 1 == 1).then_some(1 << (kind / 4)),
        close: kind & 2 == 2,
        date: (kind & 4 == 4).then_some("Sun, 06 Nov 1994 08:49:37 GMT"),
    };
    let written = head.write();
    assert_eq!(head::end(&written, 0), Some(written.len()));
    let encoded = head.encode().expect("the codec encodes");
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&encoded));
}

/// Cuts bytes at places that follow from `seed`.
fn pieces(seed: u8, bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut state, mut rest) = (u32::from(seed), bytes);
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = 1 + (state >> 24) as usize % usize::from(seed / 4 + 1);
        let (piece, after) = rest.split_at(len.min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

/// What came of a body: its bytes, the fault that ended it, and what followed it.
type Outcome = (Vec<u8>, Option<io::ErrorKind>, Vec<u8>);

/// A body: two bytes that choose its framing and where it is cut, then what is received. However
/// it is cut, the same comes out.
pub(crate) fn body(bytes: &[u8]) {
    let [kind, seed, received @ ..] = bytes else { return };
    let length = u64::from(*seed);
    let (framing, received) = match kind % 5 {
        0 => (Framing::ChunkSize, received.to_vec()),
        1 => (Framing::Length(length), received.to_vec()),
        2 => (Framing::Length(u64::MAX), received.to_vec()),
        3 => (Framing::UntilClose, received.to_vec()),
        _ => (Framing::ChunkSize, in_chunks(&pieces(*seed, received))),
    };
    let whole = read_body(framing, vec![received.clone()], 64 * 1024);
    assert_eq!(read_body(framing, pieces(*seed, &received), 1 + usize::from(*kind)), whole);
    let by_byte = received.iter().map(|byte| vec![*byte]).collect();
    assert_eq!(read_body(framing, by_byte, 64 * 1024), whole);
    let sent = &bytes[2..];
    match kind % 5 {
        1 if sent.len() as u64 >= length => {
            let (body, after) = sent.split_at(usize::from(*seed));
            assert_eq!(whole, (body.to_vec(), None, after.to_vec()));
        }
        1 | 2 => assert_eq!(whole.1, Some(io::ErrorKind::UnexpectedEof)),
        3 => assert_eq!(whole, (sent.to_vec(), None, Vec::new())),
        4 => assert_eq!(whole, (sent.to_vec(), None, b"GET /".to_vec())),
        _ => {}
    }
}

fn in_chunks(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut sent = Vec::new();
    for piece in pieces {
        sent.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        sent.extend_from_slice(piece);
        sent.extend_from_slice(b"\r\n");
    }
    sent.extend_from_slice(b"0\r\n\r\nGET /");
    sent
}

fn read_body(framing: Framing, pieces: Vec<Vec<u8>>, buffer_len: usize) -> Outcome {
    let (script, _) = Script::new(pieces);
    let clock = sys().clock.clone();
    let mut wire = Wire::new(Transport::Script(script), clock, PROGRESS_DEADLINE);
    let (body, fault) = read_to_end(framing, &mut wire, buffer_len);
    let rest = match fault {
        None => read_to_end(Framing::UntilClose, &mut wire, 64 * 1024).0,
        Some(_) => Vec::new(),
    };
    (body, fault, rest)
}

fn read_to_end(
    mut framing: Framing,
    wire: &mut Wire,
    buffer_len: usize,
) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut cx = Context::from_waker(Waker::noop());
    let (mut body, mut buffer) = (Vec::new(), vec![0; buffer_len]);
    loop {
        match framing.poll_read(wire, &mut cx, &mut buffer) {
            // The script pauses and goes on.
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => return (body, None),
            Poll::Ready(Ok(count)) => body.extend_from_slice(&buffer[..count]),
            Poll::Ready(Err(error)) => return (body, Some(error.kind())),
        }
    }
}

fn sys() -> &'static Sys {
    static SYS: OnceLock<Sys> = OnceLock::new();
    SYS.get_or_init(|| Sys::real(Spawner::new()))
}

/// What a handler saw of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    host: Option<String>,
    body: Result<Vec<u8>, io::ErrorKind>,
}

/// Remembers requests; a path with an `i` in it leaves the body unread.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<Seen>>>);

impl Witness {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: &mut Request) -> Reply {
        let body = match request.path.contains('i') {
            true => Ok(Vec::new()),
            false => match request.body.read_all(SMALL_BODY_BYTES_MAX).await {
                Ok(bytes) => Ok(bytes),
                Err(super::BodyError::TooLarge(_)) => Err(io::ErrorKind::FileTooLarge),
                Err(super::BodyError::TooSlow | super::BodyError::Busy) => {
                    Err(io::ErrorKind::TimedOut)
                }
                Err(super::BodyError::Io(error)) => Err(error.kind()),
            },
        };
        let status = if body.is_ok() { 200 } else { 400 };
        self.seen().push(Seen {
            method: request.method,
            path: request.path.clone(),
            query: request.query.clone(),
            headers: request.headers.clone(),
            host: request.host.clone(),
            body,
        });
        Reply::bytes(status, "text/plain", "seen")
    }
}

impl Handler for Witness {
    fn handle<'a>(
        &'a self,
        request: &'a mut Request,
    ) -> Pin<Box<dyn Future<Output = Reply> + Send + 'a>> {
        Box::pin(self.answer(request))
    }
}

/// A connection: a byte that chooses where it is cut, then all that the client sends. However it
/// is cut, the handler sees the same requests and the client gets as many answers.
pub(crate) fn connection(bytes: &[u8]) {
    let Some((seed, sent)) = bytes.split_first() else { return };
    let whole = serve(vec![sent.to_vec()]);
    assert_eq!(serve(pieces(*seed, sent)), whole);
    assert_eq!(serve(sent.iter().map(|byte| vec![*byte]).collect()), whole);
}

fn serve(pieces: Vec<Vec<u8>>) -> (Vec<Seen>, Vec<String>) {
    let witness = Witness::default();
    let service = Service {
        sys: sys().clone(),
        handler: Arc::new(witness.clone()),
        admission: Admission::new(1),
        shutdown: Shutdown::default(),
        deadlines: Deadlines::default(),
        memory: Budget::new(u64::MAX),
    };
    let place = service.admission.admit(None).expect("the only connection");
    let (script, written) = Script::new(pieces);
    let mut run = Box::pin(
        Connection::new(&service, Transport::Script(script), Peer::Local(None), place).run(),
    );
    smol::block_on(poll_fn(|cx| run.as_mut().poll(cx)));
    let written = written.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = String::from_utf8_lossy(&written);
    // Whether `100 Continue` goes out depends on what has come by then.
    let answers = text.lines().filter(|line| line.starts_with("HTTP/1.1 "));
    let answers = answers.filter(|line| !line.starts_with("HTTP/1.1 100")).map(str::to_owned);
    (witness.seen().clone(), answers.collect())
}

/// A URL, and on the next line a `Location` that answers it: no more than one request goes out
/// for each, to the host that the URL names.
pub(crate) fn location(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (url, location) = text.split_once('\n').unwrap_or((&text, ""));
    let Ok(target) = Target::parse(url) else { return };
    check_target(&target);
    if let Ok(next) = target.join(location) {
        check_target(&next);
    }
}

fn check_target(target: &Target) {
    assert!(!target.host.is_empty());
    let request = ClientRequest::new(Method::Get, target.url.as_str());
    let Ok(head) = heads::encode_head(&target.url, &request, &request.headers) else { return };
    assert_eq!(head::end(&head, 0), Some(head.len()), "{}", String::from_utf8_lossy(&head));
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Request::new(&mut fields);
    let complete = parsed.parse(&head).is_ok_and(|status| status.is_complete());
    assert!(complete, "{}", String::from_utf8_lossy(&head));
    let hosts: Vec<_> =
        parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host")).collect();
    let [host] = hosts[..] else { panic!("not one host: {}", String::from_utf8_lossy(&head)) };
    assert!(String::from_utf8_lossy(host.value).contains(&target.host), "{}", target.url);
}

//! Refusals that come before a client has sent its whole request: the client reads the answer,
//! whether it reads while it sends or only afterwards, and however slowly it sends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::http::{Answer, bearer, parse, token};
use crate::support::image::{digest, noise};
use crate::support::node::Node;

/// More than a manifest may have.
const LARGE_BYTES: usize = 5_000_000;
const LOGIN: &str = "content-type: application/x-www-form-urlencoded\r\n";

/// A request whose body is sent as its test sends it.
struct Request {
    stream: TcpStream,
}

impl Request {
    /// Sends the head of a request whose body has so many bytes.
    fn begin(address: &str, line: &str, fields: &str, len: usize) -> Request {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head =
            format!("{line} HTTP/1.1\r\nhost: {address}\r\n{fields}content-length: {len}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        Request { stream }
    }

    /// Sends a part of the body; the connection must take it whole.
    fn send(&mut self, part: &[u8], what: &str) {
        let sent = self.stream.write_all(part);
        sent.unwrap_or_else(|error| panic!("{what}: the body broke off: {error}"));
    }

    fn answer(mut self, what: &str) -> Answer {
        let mut bytes = Vec::new();
        let read = self.stream.read_to_end(&mut bytes);
        read.unwrap_or_else(|error| panic!("{what}: the answer broke off: {error}"));
        parse(&bytes, false).unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

/// A root whose repository `small` has little room, and what its owner sends along.
fn root() -> (Node, String) {
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("quotas = [\"small=1MiB\"]\n");
    root.add_configuration("[limits]\nuploads = 2\nconnections = 16\n");
    root.start();
    let user = root.pusher("owner-token", "*");
    let scopes = ["repository:small:pull,push", "repository:app:pull,push"];
    let owner = token(&root.login, &user.0, &user.1, &scopes).unwrap();
    (root, owner)
}

fn whole(repository: &str, blob: &[u8]) -> String {
    format!("POST /v2/{repository}/blobs/uploads/?digest={}", digest(blob))
}

#[test]
fn f210_a_client_that_sends_first_and_reads_then_reads_a_refusal() {
    let (root, owner) = root();
    let fields = format!("authorization: Bearer {owner}\r\n");
    let large = noise(1, LARGE_BYTES);
    let begin = |_| bearer(&root.login, &owner, "POST", "/v2/app/blobs/uploads/", &[], b"");
    for (line, fields, status, what) in [
        ("PUT /v2/app/manifests/v1", fields.as_str(), 413, "a manifest that is too large"),
        ("POST /oauth2/token", LOGIN, 413, "a form that is too large"),
        (&whole("app", &large), "", 401, "a blob without a login"),
        (&whole("small", &large), &fields, 403, "a blob beyond the quota"),
        (&whole("app", &large), &fields, 429, "an upload too many"),
    ] {
        if status == 429 {
            // Both uploads that may be open are.
            assert_eq!((0..2).map(begin).filter(|begun| begun.status == 202).count(), 2);
        }
        let mut request = Request::begin(&root.login, line, fields, large.len());
        request.send(&large, what);
        let answer = request.answer(what);
        assert_eq!(answer.status, status, "{what}: {answer:?}");
    }
}

/// It is never told that the connection broke: its sending stops, and it finds the answer.
#[test]
fn f210_a_client_that_reads_while_it_sends_finds_a_refusal_of_a_body_without_end() {
    const STEP_BYTES: usize = 64 << 10;
    const SENT_BYTES_MAX: usize = 256 << 20;
    let (root, owner) = root();
    let fields = format!("authorization: Bearer {owner}\r\n");
    let line = "PUT /v2/app/manifests/v1";
    let mut request = Request::begin(&root.login, line, &fields, 1 << 40);
    request.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let (step, mut sent) = (vec![0; STEP_BYTES], 0);
    let stopped = loop {
        match request.stream.write(&step) {
            Ok(bytes) if sent < SENT_BYTES_MAX => sent += bytes,
            Ok(_) => break None,
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(stopped, Some(ErrorKind::WouldBlock), "after {sent} bytes");
    assert_eq!(request.answer("a manifest without end").status, 413);
}

#[test]
fn f210_a_slow_client_reads_a_refusal() {
    const BYTES: usize = 300_000;
    const BYTES_PER_S: usize = 50_000;
    let (root, owner) = root();
    let fields = format!("authorization: Bearer {owner}\r\n");
    let mut full = Request::begin(&root.login, &whole("small", b"x"), &fields, 2 << 20);
    let mut stranger = Request::begin(&root.login, &whole("app", b"x"), "", BYTES);
    let mut form = Request::begin(&root.login, "POST /oauth2/token", LOGIN, BYTES);
    for _ in 0..BYTES * 10 / BYTES_PER_S {
        for (request, what) in [(&mut full, "full"), (&mut stranger, "401"), (&mut form, "form")] {
            request.send(&[b'x'; BYTES_PER_S / 10], what);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(full.answer("full").error().1, "quota_exceeded");
    assert_eq!(stranger.answer("without a login").status, 401);
    assert_eq!(form.answer("form").status, 413);
}

/// There is no connection left, and yet there is an answer.
#[test]
fn f210_a_client_over_the_limit_of_connections_reads_that_after_it_has_sent() {
    let (root, owner) = root();
    let held: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(&root.login).unwrap()).collect();
    let fields = format!("authorization: Bearer {owner}\r\n");
    let blob = noise(1, LARGE_BYTES);
    for _ in 0..3 {
        let mut request = Request::begin(&root.login, &whole("app", &blob), &fields, blob.len());
        request.send(&blob, "a blob");
        let answer = request.answer("a blob");
        assert_eq!((answer.status, answer.error().1.as_str()), (503, "throttled"));
    }
    drop(held);
}

/// Those that read no answer leave their places to others, and are no hindrance to a stop.
#[test]
fn f209_f210_clients_that_were_refused_and_stay_keep_nobody_out() {
    let (mut root, owner) = root();
    let fields = format!("authorization: Bearer {owner}\r\n");
    let line = "PUT /v2/app/manifests/v1";
    let mut refused = Vec::new();
    for number in 0..40 {
        let mut request = Request::begin(&root.login, line, &fields, LARGE_BYTES);
        let mut start = [0; 12];
        request.stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 413", "request {number}");
        refused.push(request);
    }
    assert!(root.stop().success());
    assert!(!root.log().contains("did not end in time"), "{}", root.log());
    drop(refused);
}

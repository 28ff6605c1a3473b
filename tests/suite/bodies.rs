//! Bodies of very many requests at once: what they hold in memory, and who gets through.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::net;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::eventually;
use crate::support::http::{Answer, bearer, parse, send, token};
use crate::support::image::{Image, MANIFEST, digest, noise, push_blob};
use crate::support::node::Node;

/// As many as one address gets beside those that push meanwhile.
const CONNECTIONS: usize = 940;
/// A manifest is small enough here to be one of very many.
const MANIFEST_BYTES: usize = 255 * 1024;
/// Connections, heads and the program take a part of it, and bodies the 16 MiB of their budget;
/// without one they would be 250 MiB.
const CEILING_KIB: u64 = 128 * 1024;

/// A request whose body is sent as far as it is taken, and never to its end.
struct Held {
    stream: TcpStream,
    bytes: Vec<u8>,
    sent: usize,
    failed: bool,
}

impl Held {
    fn open(address: &str, line: &str, fields: &str, len: usize) -> Held {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{fields}\
             content-length: {len}\r\n\r\n"
        );
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + len - 1, b' ');
        Held { stream, bytes, sent: 0, failed: false }
    }

    /// Sends what is taken now; whether that was anything.
    fn send(&mut self) -> bool {
        let before = self.sent;
        while !self.failed && self.sent < self.bytes.len() {
            match self.stream.write(&self.bytes[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.failed = true,
            }
        }
        self.sent > before
    }

    /// What came back, once the other side has closed; `None` when the answer was lost with it.
    fn answer(mut self) -> Option<Answer> {
        self.stream.set_nonblocking(false).unwrap();
        self.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut bytes = Vec::new();
        let _ = self.stream.read_to_end(&mut bytes);
        parse(&bytes, false).ok()
    }
}

/// As many requests as there may be, each sent as far as it is taken.
fn flood(address: &str, line: &str, fields: &str, len: usize) -> Vec<Held> {
    let open = |_| Held::open(address, line, fields, len);
    let mut all: Vec<Held> = (0..CONNECTIONS).map(open).collect();
    let mut idle = 0;
    while idle < 5 {
        let moved = all.iter_mut().filter_map(|held| held.send().then_some(())).count();
        idle = if moved == 0 { idle + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(20));
    }
    all
}

/// Room for as many sockets in this process and the ones that it starts.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

#[test]
fn f209_bodies_of_very_many_connections_have_one_budget() {
    raise_file_limit();
    let root = Node::root_with("[limits]\nbody_memory = \"16MiB\"\n");
    let user = root.pusher("owner-token", "*");
    let user = (user.0.as_str(), user.1.as_str());
    let held = flood(&root.login, "POST /oauth2/token", "", 1 << 20);
    let image = Image::new(3, &[300_000, 2_000_000]);
    let push = |tag: &str| {
        eventually(Duration::from_secs(90), "a push gets through", || {
            let answer = image.push(&root.login, user, "app", tag);
            assert!([201, 503].contains(&answer.status), "{}", answer.status);
            assert_eq!(answer.header("retry-after").is_some(), answer.status == 503);
            (answer.status == 201).then_some(())
        });
    };
    push("before-login");
    let answers: Vec<u16> = held.into_iter().filter_map(Held::answer).map(|a| a.status).collect();
    assert!(answers.iter().all(|status| *status == 413), "{answers:?}");
    assert!(!answers.is_empty());

    let owner = token(&root.login, user.0, user.1, &["repository:app:pull,push"]).unwrap();
    let fields = format!("authorization: Bearer {owner}\r\ncontent-type: {MANIFEST}\r\n");
    let held = flood(&root.login, "PUT /v2/app/manifests/x", &fields, MANIFEST_BYTES);
    push("logged-in");
    let answers: Vec<Answer> = held.into_iter().filter_map(Held::answer).collect();
    let of = |status: u16| answers.iter().filter(move |answer| answer.status == status);
    eprintln!("{} waited in vain, {} were too slow", of(503).count(), of(408).count());
    assert_eq!(of(503).count() + of(408).count(), answers.len());
    let refused = of(503).next().expect("one that waited in vain");
    assert_eq!(refused.error(), ("TOOMANYREQUESTS".to_owned(), "throttled".to_owned()));
    assert!(refused.header("retry-after").is_some());

    let peak = root.peak_rss_kib();
    eprintln!("{peak} KiB at most");
    assert!(peak < CEILING_KIB, "{peak} KiB");
    assert_eq!(root.metric("skerry_panics_total"), 0);
    push("afterwards");
    assert_eq!(send(&root.login, "GET", "/readyz", &[], b"").unwrap().status, 200);
}

/// A PATCH of which only `sent` arrives.
fn slow_upload(address: &str, owner: &str, location: &str, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let len = 1 << 20;
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {owner}\r\n\
         connection: close\r\ncontent-length: {len}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(sent).unwrap();
    stream
}

/// The number of bytes an upload says it has, while another request sends to it.
fn written(address: &str, owner: &str, location: &str) -> usize {
    let answer = bearer(address, owner, "GET", location, &[], b"");
    assert_eq!(answer.status, 204, "{answer:?}");
    let range = answer.header("range").unwrap_or_default();
    range.strip_prefix("0-").and_then(|last| last.parse().ok()).map_or(0, |last: usize| last + 1)
}

/// More slow uploads than the memory for bodies could gather: each has its bytes written, but for
/// its last buffer, and everybody else is served at the first attempt.
#[test]
fn f209_slow_uploads_keep_nobody_out() {
    const SLOW: usize = 150;
    const BUFFER: usize = 32 * 1024;
    raise_file_limit();
    let root = Node::root_with("[limits]\nbody_memory = \"16MiB\"\n");
    let user = root.pusher("owner-token", "*");
    let owner = token(&root.login, &user.0, &user.1, &["repository:app:pull,push"]).unwrap();
    let whole = noise(5, 1 << 20);
    let arrived = 300_000;
    let slow: Vec<(String, TcpStream)> = (0..SLOW)
        .map(|_| {
            let answer = bearer(&root.login, &owner, "POST", "/v2/app/blobs/uploads/", &[], b"");
            let location = answer.header("location").unwrap().to_owned();
            let stream = slow_upload(&root.login, &owner, &location, &whole[..arrived]);
            (location, stream)
        })
        .collect();

    let scope = ["repository:app:pull,push"];
    assert!(token(&root.login, &user.0, &user.1, &scope).is_ok(), "a login");
    let layers: Vec<Vec<u8>> = (0..40).map(|seed| noise(100 + seed, 600_000)).collect();
    std::thread::scope(|scope| {
        for layer in &layers {
            let push = || push_blob(&root.login, &owner, "app", layer).status;
            scope.spawn(move || assert_eq!(push(), 201));
        }
    });
    let mut image = Image::of("amd64", "many layers", layers);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["annotations"] = serde_json::json!({ "long": "x".repeat(3_500_000) });
    image.manifest = manifest.to_string().into_bytes();
    assert_eq!(image.push_with(&root.login, &owner, "app", "v1").status, 201);
    let answer = bearer(&root.login, &owner, "GET", "/v2/app/manifests/v1", &[], b"");
    assert!(answer.status == 200 && answer.body == image.manifest);

    for (location, _) in &slow {
        eventually(Duration::from_secs(60), "what arrived is written", || {
            (written(&root.login, &owner, location) > arrived - BUFFER).then_some(())
        });
    }
    let (location, mut stream) = slow.into_iter().next().unwrap();
    stream.write_all(&whole[arrived..]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(parse(&answer, false).unwrap().status, 202);
    let target = format!("{location}?digest={}", digest(&whole));
    assert_eq!(bearer(&root.login, &owner, "PUT", &target, &[], b"").status, 201);
    let peak = root.peak_rss_kib();
    eprintln!("{peak} KiB at most");
    assert!(peak < CEILING_KIB, "{peak} KiB");
}

/// One account that sends large manifests and never ends them does not keep the others out.
#[test]
fn f209_one_account_does_not_take_all_memory_for_bodies() {
    let root = Node::root();
    let (slow, other) = (root.pusher("slow-token", "app"), root.pusher("other-token", "lab"));
    let bearing = token(&root.login, &slow.0, &slow.1, &["repository:app:pull,push"]).unwrap();
    let fields = format!("authorization: Bearer {bearing}\r\ncontent-type: {MANIFEST}\r\n");
    let line = "PUT /v2/app/manifests/x";
    let mut held: Vec<Held> =
        (0..12).map(|_| Held::open(&root.login, line, &fields, 4 << 20)).collect();
    let mut idle = 0;
    while idle < 5 {
        let moved = held.iter_mut().filter_map(|held| held.send().then_some(())).count();
        idle = if moved == 0 { idle + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(20));
    }
    let image = Image::new(5, &[1000]);
    let answer = image.push(&root.login, (&other.0, &other.1), "lab", "v1");
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// A connection whose reader takes next to nothing.
fn deaf(address: &str) -> TcpStream {
    let address: std::net::SocketAddr = address.parse().unwrap();
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
    net::sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    net::connect(&socket, &address).unwrap();
    TcpStream::from(socket)
}

#[test]
fn f209_slow_readers_of_large_manifests_hold_no_memory() {
    raise_file_limit();
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let owner = token(&root.login, &user.0, &user.1, &["repository:app:pull,push"]).unwrap();
    let mut image = Image::new(4, &[1000]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["annotations"] = serde_json::json!({ "long": "x".repeat(3_500_000) });
    image.manifest = manifest.to_string().into_bytes();
    assert_eq!(image.push_with(&root.login, &owner, "app", "v1").status, 201);
    let head = format!(
        "GET /v2/app/manifests/v1 HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {owner}\r\n\r\n",
        root.login
    );
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = deaf(&root.login);
        stream.write_all(head.as_bytes()).unwrap();
        let mut start = [0; 15];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        held.push(stream);
    }
    let peak = root.peak_rss_kib();
    eprintln!("{peak} KiB at most");
    assert!(peak < CEILING_KIB, "{peak} KiB");
    drop(held);
    let target = "/v2/app/manifests/v1";
    let answer = bearer(&root.login, &owner, "GET", target, &[], b"");
    assert!(answer.status == 200 && answer.body == image.manifest);
    let answer = bearer(&root.login, &owner, "HEAD", target, &[], b"");
    let declared = answer.header("content-length").unwrap();
    assert_eq!((answer.status, declared), (200, &*image.manifest.len().to_string()));
}

/// Each asks so often that the kernel does not take all answers, and reads none.
#[test]
fn f209_slow_readers_of_listings_hold_little_memory() {
    const READERS: usize = 60;
    raise_file_limit();
    let root = Node::root_with("[limits]\nbody_memory = \"16MiB\"\n");
    let user = root.pusher("owner-token", "*");
    let owner = token(&root.login, &user.0, &user.1, &["repository:app:pull,push"]).unwrap();
    let image = Image::new(6, &[1000]);
    assert_eq!(image.push_with(&root.login, &owner, "app", "v1").status, 201);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["subject"] = serde_json::json!({
        "mediaType": MANIFEST, "digest": image.digest(), "size": image.manifest.len()
    });
    let mut pushed = Vec::new();
    for number in 0..80 {
        manifest["annotations"] = serde_json::json!({ number.to_string(): "x".repeat(15_000) });
        let bytes = manifest.to_string();
        let target = format!("/v2/app/manifests/{}", digest(bytes.as_bytes()));
        let headers = [("content-type", MANIFEST)];
        let answer = bearer(&root.login, &owner, "PUT", &target, &headers, bytes.as_bytes());
        assert_eq!(answer.status, 201);
        pushed.push(digest(bytes.as_bytes()));
    }
    let before = root.rss_kib();
    let target = format!("/v2/app/referrers/{}", image.digest());
    let head = format!(
        "GET {target} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {owner}\r\n\r\n",
        root.login
    );
    let hold = || {
        let mut held = Vec::new();
        for _ in 0..READERS {
            let mut stream = deaf(&root.login);
            stream.write_all(head.repeat(20).as_bytes()).unwrap();
            held.push(stream);
        }
        for stream in &mut held {
            let mut start = [0; 15];
            stream.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 200 OK");
        }
        held
    };
    let held = hold();
    let other = root.pusher("other-token", "*");
    let other = token(&root.login, &other.0, &other.1, &["repository:app:pull"]).unwrap();
    let (mut next, mut listed) = (Some(target), Vec::new());
    while let Some(target) = next {
        let answer = bearer(&root.login, &other, "GET", &target, &[], b"");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.len() <= 256 * 1024, "{}", answer.body.len());
        let all = answer.json()["manifests"].as_array().unwrap().clone();
        listed.extend(all.iter().map(|one| one["digest"].as_str().unwrap().to_owned()));
        let link = answer.header("link").and_then(|link| link.strip_prefix('<')?.split_once('>'));
        next = link.map(|(target, _)| target.to_owned());
    }
    pushed.sort();
    listed.sort();
    assert!(listed == pushed, "{} of {}", listed.len(), pushed.len());
    drop(held);
    // What they held, the next ones use.
    drop(hold());
    let more = root.peak_rss_kib().saturating_sub(before);
    eprintln!("{before} KiB before, {more} KiB more");
    assert!(more < 24 * 1024, "{more} KiB more than {before} KiB");
}

#[test]
fn f209_a_budget_that_is_too_small_is_refused() {
    let mut node = Node::device("x");
    node.make_root();
    node.add_configuration("[limits]\nbody_memory = \"7MiB\"\n");
    let output = node.run_to_end();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("limits.body_memory") && text.contains("from 8MiB"), "{text}");
}

/// Pages of memory that a process has been given so far.
fn pages_taken(node: &Node) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// Symptom: a push in chunks of 1 MiB cost half as much CPU again as a whole one, as each chunk
/// took its memory anew.
#[test]
fn f209_a_push_in_chunks_uses_its_memory_again() {
    const CHUNKS: usize = 64;
    const CHUNK_BYTES: usize = 1 << 20;
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let owner = token(&root.login, &user.0, &user.1, &["repository:app:pull,push"]).unwrap();
    let send = |method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]| {
        bearer(&root.login, &owner, method, target, headers, body)
    };
    let begun = send("POST", "/v2/app/blobs/uploads/", &[], b"");
    let upload = begun.header("location").unwrap().to_owned();
    let blob = noise(1, CHUNKS * CHUNK_BYTES);
    let mut before = 0;
    for (number, chunk) in blob.chunks(CHUNK_BYTES).enumerate() {
        let first = number * CHUNK_BYTES;
        let range = format!("{first}-{}", first + chunk.len() - 1);
        assert_eq!(send("PATCH", &upload, &[("content-range", &range)], chunk).status, 202);
        if number == 0 {
            before = pages_taken(&root);
        }
    }
    let pages = (pages_taken(&root) - before) / (CHUNKS as u64 - 1);
    eprintln!("{pages} pages for each chunk");
    assert!(pages < 16, "{pages} pages of memory for each chunk");
    let last = format!("{upload}?digest={}", digest(&blob));
    assert_eq!(send("PUT", &last, &[], b"").status, 201);
}

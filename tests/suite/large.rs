//! A blob of 5 GiB: lengths and offsets that 32 bits do not hold, wherever a client meets them.
//! `tests/cross` runs it against a build for a 32-bit board, which takes minutes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ring::digest::{Context, SHA256};

use crate::support::http::{Answer, bearer, parse, token};
use crate::support::node::Node;

const GIB: u64 = 1 << 30;
const BLOB_BYTES: u64 = 5 * GIB;
const STEP_BYTES: u64 = 1 << 20;
/// Under emulation the digest of what is there already may be taken first.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1800);

/// The content from one offset to another: every 8 bytes are their own number.
fn content(from: u64, to: u64) -> Vec<u8> {
    let words = from / 8..to.div_ceil(8);
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.drain(..usize::try_from(from % 8).unwrap());
    bytes.truncate(usize::try_from(to - from).unwrap());
    bytes
}

fn steps(from: u64, to: u64) -> impl Iterator<Item = Vec<u8>> {
    let step = usize::try_from(STEP_BYTES).unwrap();
    (from..to).step_by(step).map(move |at| content(at, to.min(at + STEP_BYTES)))
}

fn named(hash: Context) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(hash.finish().as_ref()))
}

/// A node and who may push to it.
struct Large {
    node: Node,
    user: (String, String),
}

impl Large {
    fn token(&self) -> String {
        let scopes = ["repository:large:pull,push"];
        token(&self.node.login, &self.user.0, &self.user.1, &scopes).unwrap()
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        bearer(&self.node.login, &self.token(), method, target, headers, b"")
    }

    /// A connection with the head of a request sent.
    fn open(&self, method: &str, target: &str, headers: &[(&str, String)]) -> TcpStream {
        let (login, token) = (&self.node.login, self.token());
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {login}\r\n");
        head.push_str(&format!("connection: close\r\nauthorization: Bearer {token}\r\n"));
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = TcpStream::connect(login).unwrap();
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream
    }

    /// Sends a chunk, of which only what is before `cut` comes; the answer.
    fn chunk(&self, target: &str, from: u64, to: u64, cut: u64) -> Option<Answer> {
        let length = ("content-length", (to - from).to_string());
        let range = ("content-range", format!("{from}-{}", to - 1));
        let mut stream = self.open("PATCH", target, &[length, range]);
        // A refusal may come before all is sent.
        let _ = steps(from, cut).try_for_each(|bytes| stream.write_all(&bytes));
        (cut == to).then(|| answer(&mut BufReader::new(stream)))
    }

    /// How far the upload is.
    fn offset(&self, target: &str) -> u64 {
        let status = self.ask("GET", target, &[]);
        assert_eq!(status.status, 204);
        let last = status.header("range").unwrap().strip_prefix("0-").unwrap().to_owned();
        last.parse::<u64>().unwrap() + 1
    }

    fn restart(&mut self) {
        assert!(self.node.stop().success());
        self.node.start();
    }

    /// HEAD, parts on either side of 4 GiB, what is not there, and the whole.
    fn reads(&self, name: &str) {
        let target = format!("/v2/large/blobs/{name}");
        let length = BLOB_BYTES.to_string();
        let head = self.ask("HEAD", &target, &[]);
        assert_eq!((head.status, head.header("content-length")), (200, Some(length.as_str())));
        for (asked, from, to) in [
            ("4294967290-4294967309", 4 * GIB - 6, 4 * GIB + 14),
            ("4294967295-4294967295", 4 * GIB - 1, 4 * GIB),
            ("4294967296-4294967296", 4 * GIB, 4 * GIB + 1),
            ("5368709000-9999999999", BLOB_BYTES - 120, BLOB_BYTES),
            ("5368709100-", BLOB_BYTES - 20, BLOB_BYTES),
            ("-300", BLOB_BYTES - 300, BLOB_BYTES),
        ] {
            let part = self.ask("GET", &target, &[("range", &format!("bytes={asked}"))]);
            let range = format!("bytes {from}-{}/{BLOB_BYTES}", to - 1);
            assert_eq!((part.status, part.header("content-range")), (206, Some(range.as_str())));
            assert_eq!(part.body, content(from, to), "{asked}");
        }
        // The second is within the blob when only 32 bits of it are looked at.
        for asked in ["5368709120-", "9663676416-9663676500"] {
            let none = self.ask("GET", &target, &[("range", &format!("bytes={asked}"))]);
            let range = format!("bytes */{BLOB_BYTES}");
            assert_eq!((none.status, none.header("content-range")), (416, Some(range.as_str())));
        }
        let mut reader = BufReader::new(self.open("GET", &target, &[]));
        let whole = answer(&mut reader);
        assert_eq!((whole.status, whole.header("content-length")), (200, Some(length.as_str())));
        let (mut hash, mut bytes, mut total) = (Context::new(&SHA256), vec![0; 1 << 20], 0);
        loop {
            match reader.read(&mut bytes).unwrap() {
                0 => break,
                count => {
                    hash.update(&bytes[..count]);
                    total += count as u64;
                }
            }
        }
        assert_eq!((total, named(hash).as_str()), (BLOB_BYTES, name));
    }
}

/// The head of an answer; the body is left in the reader.
fn answer(reader: &mut BufReader<TcpStream>) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(reader.read_until(b'\n', &mut head).unwrap() > 0, "the head ends early");
    }
    parse(&head, true).unwrap()
}

#[test]
#[ignore = "moves 20 GiB: tests/cross runs it"]
fn f148_f149_f152_a_blob_of_5_gib_is_pushed_resumed_and_read() {
    let node = Node::root();
    let user = node.pusher("owner-token", "*");
    let mut large = Large { node, user };
    let started = large.ask("POST", "/v2/large/blobs/uploads/", &[]);
    let target = started.header("location").unwrap().to_owned();
    // Up to 4 GiB, across it, and then across a restart.
    let beyond = 4 * GIB + 64 * STEP_BYTES;
    for (from, to) in [(0, GIB), (GIB, 4 * GIB - 8), (4 * GIB - 8, beyond)] {
        let taken = large.chunk(&target, from, to, to).unwrap();
        let range = format!("0-{}", to - 1);
        assert_eq!((taken.status, taken.header("range")), (202, Some(range.as_str())));
    }
    large.restart();
    assert_eq!(large.offset(&target), beyond);
    // The right place when only 32 bits of it are looked at.
    let wrapped = beyond - 4 * GIB;
    let refused = large.chunk(&target, wrapped, wrapped + 1, wrapped + 1).unwrap();
    assert_eq!(refused.status, 416);
    assert_eq!(large.offset(&target), beyond);
    // The connection breaks; the client goes on from where the node says it is.
    large.chunk(&target, beyond, BLOB_BYTES, beyond + 100 * STEP_BYTES);
    let mut offset = large.offset(&target);
    assert!(offset >= beyond);
    while offset < BLOB_BYTES {
        // The node may still be at what the broken connection sent: busy, or further than it said.
        let taken = large.chunk(&target, offset, BLOB_BYTES, BLOB_BYTES).unwrap();
        assert!(matches!(taken.status, 202 | 409 | 416), "{taken:?}");
        std::thread::sleep(Duration::from_millis(200));
        offset = large.offset(&target);
    }
    let mut hash = Context::new(&SHA256);
    steps(0, BLOB_BYTES).for_each(|bytes| hash.update(&bytes));
    let name = named(hash);
    let digest = format!("{target}?digest={name}");
    let stream = large.open("PUT", &digest, &[("content-length", "0".to_owned())]);
    assert_eq!(answer(&mut BufReader::new(stream)).status, 201);
    large.reads(&name);
    large.restart();
    large.reads(&name);
}

//! Servers and clients over real loopback sockets, and raw peers that misbehave.

mod client;
mod hardening;
mod server;

use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::sys::net::Listener;
use crate::sys::{Disk, Spawner, Sys, SystemDisk, clock};

/// A directory that goes with the test.
pub(super) struct TempDir(PathBuf);

impl TempDir {
    pub(super) fn new() -> TempDir {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("skerry-http-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        SystemDisk.create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = SystemDisk.remove_dir_all(&self.0);
    }
}

/// Bytes that repeat nowhere near, so that a shifted copy is noticed.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Calls `check` with many copies of `text` that have up to three other bytes each.
pub(super) fn each_damaged(text: &[u8], check: impl Fn(&[u8])) {
    for changes in noise(3000 * 24).chunks(24) {
        let mut bytes = text.to_vec();
        for change in changes.chunks(8) {
            let number = u64::from_le_bytes(change.try_into().unwrap());
            let at = usize::try_from(number % bytes.len() as u64).unwrap();
            bytes[at] = change[5];
        }
        check(&bytes);
    }
}

/// Answers in ways that the tests ask for by path.
pub(super) struct TestHandler {
    pub(super) file: PathBuf,
}

impl Handler for TestHandler {
    fn handle<'a>(
        &'a self,
        request: &'a mut Request,
    ) -> Pin<Box<dyn Future<Output = Reply> + Send + 'a>> {
        Box::pin(self.answer(request))
    }
}

impl TestHandler {
    async fn answer(&self, request: &mut Request) -> Reply {
        match request.path.as_str() {
            "/hello" => Reply::bytes(200, "text/plain", "hello").with("x-bad", "a\r\nb: c"),
            "/big" => Reply::bytes(200, "text/plain", noise(300_000)),
            "/large" => {
                let len = request.query("len").and_then(|text| text.parse().ok());
                Reply::bytes(200, "text/plain", noise(len.unwrap_or_default()))
            }
            "/none" => Reply::new(204),
            "/unchanged" => Reply::new(304).with("etag", "\"x\""),
            "/ignore" => Reply::new(202),
            "/refuse" => message::refusal::refusal(413, "too large").into(),
            "/panic" => panic!("on purpose"),
            "/slow" => {
                clock::sleep(Duration::from_millis(300)).await;
                Reply::bytes(200, "text/plain", "slow")
            }
            "/wait" => {
                request.body.gone().await;
                Reply::new(200)
            }
            "/echo" => match request.body.read_all(10_000_000).await {
                Ok(bytes) => Reply::bytes(200, "application/octet-stream", bytes),
                Err(BodyError::Io(error)) => {
                    Reply::bytes(400, "text/plain", format!("{:?}", error.kind()))
                }
                Err(_) => Reply::new(413),
            },
            "/file" => {
                let file = SystemDisk.open(&self.file).unwrap();
                let number = |name| request.query(name).and_then(|text| text.parse().ok());
                let offset = number("offset").unwrap_or(0);
                let len = number("len").unwrap_or_else(|| file.len().unwrap() - offset);
                let mut reply = Reply::new(200);
                reply.body = ReplyBody::File { file, offset, len };
                reply
            }
            "/length" => {
                let mut reply = Reply::new(200);
                reply.body = ReplyBody::Head(5_000_000_000);
                reply
            }
            "/fields" => {
                let seen = |name: &str| request.header(name).unwrap_or("-").to_owned();
                let text = ["authorization", "user-agent", "range"].map(seen).join("|");
                Reply::bytes(200, "text/plain", text)
            }
            "/redirect" => {
                let status = request.query("status").and_then(|text| text.parse().ok());
                let to = request.query("to").unwrap_or("/hello").to_owned();
                Reply::bytes(status.unwrap_or(307), "text/plain", "moved").with("location", to)
            }
            _ => Reply::new(404),
        }
    }
}

/// A running server.
pub(super) struct TestServer {
    pub(super) sys: Sys,
    pub(super) service: Service,
    pub(super) port: u16,
    pub(super) task: Option<smol::Task<()>>,
    pub(super) dir: TempDir,
    pub(super) content: Vec<u8>,
}

pub(super) fn quick() -> Deadlines {
    Deadlines {
        head: Duration::from_millis(500),
        idle: Duration::from_millis(700),
        progress: Duration::from_millis(500),
        drain: Duration::from_millis(500),
        linger: Duration::from_secs(2),
        linger_pause: Duration::from_millis(500),
        stop: Duration::from_secs(2),
    }
}

/// Makes closures capture the server whole: its task must live as long as the test.
impl Drop for TestServer {
    fn drop(&mut self) {}
}

impl TestServer {
    /// On a free port of the loopback interface.
    pub(super) fn start(sys: &Sys, connections: usize, tls: Option<TlsAcceptor>) -> TestServer {
        let dir = TempDir::new();
        let file = dir.path().join("content");
        let content = noise(5 * 1024 * 1024 + 77);
        SystemDisk.create(&file).unwrap().write_all_at(&content, 0).unwrap();
        let service = Service {
            sys: sys.clone(),
            handler: Arc::new(TestHandler { file }),
            admission: Admission::new(connections),
            shutdown: Shutdown::new(),
            deadlines: quick(),
            memory: Budget::new(u64::MAX),
        };
        let listener = Listener::tcp("127.0.0.1:0").unwrap();
        let port = listener.local_address().unwrap().port();
        let task = Some(sys.spawner.spawn(serve(service.clone(), listener, tls)));
        TestServer { sys: sys.clone(), service, port, task, dir, content }
    }

    /// Waits for the end of the server.
    pub(super) async fn ended(&mut self) {
        self.task.take().unwrap().await;
    }

    pub(super) async fn connect(&self) -> Async<TcpStream> {
        Async::<TcpStream>::connect(([127, 0, 0, 1], self.port)).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    pub(super) async fn raw(&self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        read_end(&mut stream).await
    }

    pub(super) async fn raw_text(&self, bytes: impl AsRef<[u8]>) -> String {
        String::from_utf8_lossy(&self.raw(bytes).await).into_owned()
    }
}

pub(super) async fn read_end(stream: &mut Async<TcpStream>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read: io::Result<usize> = stream.read_to_end(&mut bytes).await;
    if let Err(error) = read {
        panic!("{error} after {:?}", String::from_utf8_lossy(&bytes));
    }
    bytes
}

/// Runs a test with a server; no test may hang.
pub(super) fn with_server<F: Future<Output = ()>>(test: impl FnOnce(TestServer) -> F) {
    run(|sys| test(TestServer::start(&sys, 64, None)));
}

pub(super) fn run<F: Future<Output = ()>>(test: impl FnOnce(Sys) -> F) {
    let spawner = Spawner::new();
    let sys = Sys::real(spawner.clone());
    let limit = Duration::from_secs(30);
    spawner.run(1, clock::within(limit, test(sys))).expect("the test took too long");
}

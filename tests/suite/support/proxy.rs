//! A TCP proxy between a node and its parent: it counts, cuts and refuses.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
    /// What no request may contain, and the answer to it before the connection is cut.
    gate: Mutex<Option<(String, String)>>,
    /// What is sent to the parent after this waits.
    held: Mutex<Option<String>>,
    /// Requests that contain this go through, and their answers do not come back.
    lost: Mutex<Option<String>>,
}

pub struct Proxy {
    pub address: String,
    counts: Arc<Counts>,
}

impl Proxy {
    pub fn new(target: &str) -> Proxy {
        Proxy::slow(target, u64::MAX)
    }

    /// One that lets so many bytes per second through on each connection.
    pub fn slow(target: &str, rate: u64) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let counts = Arc::new(Counts::default());
        let (shared, target) = (counts.clone(), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let both = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                shared.open.lock().unwrap().extend(both);
                let mute = Arc::new(AtomicBool::new(false));
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                pump(ends, &shared, &mute, true, rate);
                pump((server, client), &shared, &mute, false, rate);
            }
        });
        Proxy { address, counts }
    }

    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Cuts what is connected now.
    pub fn cut(&self) {
        for stream in self.counts.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on answers requests that contain this by itself and cuts the connection.
    pub fn refuse(&self, request: &str, answer: &str) {
        *self.counts.gate.lock().unwrap() = Some((request.to_owned(), answer.to_owned()));
    }

    /// From now on lets requests that contain this through, and cuts the connection when the answer
    /// comes.
    pub fn lose_answer(&self, request: &str) {
        *self.counts.lost.lock().unwrap() = Some(request.to_owned());
    }

    /// From now on nothing of requests that contain this goes through, and nobody says so.
    pub fn hold(&self, request: &str) {
        *self.counts.held.lock().unwrap() = Some(request.to_owned());
    }

    /// Refuses and holds nothing any more.
    pub fn pass(&self) {
        *self.counts.held.lock().unwrap() = None;
        *self.counts.lost.lock().unwrap() = None;
        *self.counts.gate.lock().unwrap() = None;
    }

    /// Bytes to the parent.
    pub fn up(&self) -> u64 {
        self.counts.up.load(Ordering::SeqCst)
    }

    /// Bytes from the parent.
    pub fn down(&self) -> u64 {
        self.counts.down.load(Ordering::SeqCst)
    }

    /// Bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.down() + self.up()
    }
}

fn pump(
    (mut from, mut to): (TcpStream, TcpStream),
    counts: &Arc<Counts>,
    mute: &Arc<AtomicBool>,
    up: bool,
    rate: u64,
) {
    let (counts, mute) = (counts.clone(), mute.clone());
    std::thread::spawn(move || {
        from.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            let counter = if up { &counts.up } else { &counts.down };
            counter.fetch_add(read as u64, Ordering::SeqCst);
            let has = |text: &str| {
                up && buffer[..read].windows(text.len()).any(|part| part == text.as_bytes())
            };
            if counts.lost.lock().unwrap().as_deref().is_some_and(has) {
                mute.store(true, Ordering::SeqCst);
            } else if !up && mute.load(Ordering::SeqCst) {
                break;
            }
            if let Some((request, answer)) = &*counts.gate.lock().unwrap()
                && has(request)
            {
                let _ = from.write_all(answer.as_bytes());
                break;
            }
            while counts.held.lock().unwrap().as_deref().is_some_and(has) {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_micros(read as u64 * 1_000_000 / rate));
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

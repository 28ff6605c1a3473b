//! A TCP proxy between a node and its parent: it counts, and it can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

#[derive(Default)]
struct Counts {
    cut: AtomicBool,
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    /// Bytes after which the next connection breaks; 0 = never.
    break_after: AtomicU64,
}

pub struct Proxy {
    pub address: String,
    counts: Arc<Counts>,
}

impl Proxy {
    pub fn new(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let counts = Arc::new(Counts::default());
        let (shared, target) = (counts.clone(), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                if shared.cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&target) else { continue };
                pump(client.try_clone().unwrap(), server.try_clone().unwrap(), &shared, true);
                pump(server, client, &shared, false);
            }
        });
        Proxy { address, counts }
    }

    /// Refuses and breaks all traffic, or lets it flow again.
    pub fn cut(&self, cut: bool) {
        self.counts.cut.store(cut, Ordering::SeqCst);
    }

    /// Breaks the connection that carries the `n`-th byte down from now.
    pub fn break_after(&self, n: u64) {
        let now = self.counts.down.load(Ordering::SeqCst);
        self.counts.break_after.store(now + n, Ordering::SeqCst);
    }

    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Bytes from the parent.
    pub fn down(&self) -> u64 {
        self.counts.down.load(Ordering::SeqCst)
    }

    /// Bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.down() + self.counts.up.load(Ordering::SeqCst)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, counts: &Arc<Counts>, up: bool) {
    let counts = counts.clone();
    std::thread::spawn(move || {
        from.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 16 * 1024];
        loop {
            if counts.cut.load(Ordering::SeqCst) {
                break;
            }
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => break,
            };
            let counter = if up { &counts.up } else { &counts.down };
            let total = counter.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
            let limit = counts.break_after.load(Ordering::SeqCst);
            if !up && limit != 0 && total >= limit {
                counts.break_after.store(0, Ordering::SeqCst);
                break;
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

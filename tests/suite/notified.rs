//! What the service manager is told.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::TempDir;
use crate::support::node::Node;

/// A service manager's socket; one read waits so long.
fn manager(dir: &TempDir, patience: Duration) -> (PathBuf, UnixDatagram) {
    let path = dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    (path, socket)
}

/// The next status that is told, within half a minute.
fn next_status(manager: &UnixDatagram) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        let Ok(read) = manager.recv(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        if let Some(status) = text.lines().find_map(|line| line.strip_prefix("STATUS=")) {
            return Some(status.to_owned());
        }
    }
    None
}

#[test]
fn f212_the_service_manager_hears_of_each_change_of_the_state() {
    let mut root = Node::root();
    let string = root.connect("dock01", &["--repository", "app"]);
    let dir = TempDir::new();
    let (socket, manager) = manager(&dir, Duration::from_secs(1));
    let mut device = Node::device("x");
    device.lose_connection_string();
    device.add_configuration(&format!(
        "[parent]\nconnection_string_file = \"{}\"\n",
        device.connection_string_file().display()
    ));
    device.notify(&socket);
    device.spawn();
    let status = next_status(&manager).unwrap();
    assert_eq!(status, "connected registry, Unprovisioned");
    std::fs::write(device.connection_string_file(), string).unwrap();
    let told = |part: &str| {
        let mut before = String::new();
        while let Some(status) = next_status(&manager) {
            assert_ne!(status, before, "it is told of changes only");
            if status.contains(part) {
                return status;
            }
            before = status;
        }
        panic!("no status has {part:?} in it: {}", device.log());
    };
    let status = told("parent in contact");
    assert!(status.starts_with("dock01: "), "{status}");
    assert!(root.stop().success());
    assert_eq!(device.json(&["status"])["summary"], told("parent out of contact"));
}

/// A start that the service manager ends would begin at the same place again.
#[test]
fn f212_a_start_asks_the_service_manager_for_time() {
    let dir = TempDir::new();
    let (socket, manager) = manager(&dir, Duration::from_secs(30));
    let mut root = Node::device("");
    root.make_root();
    root.notify(&socket);
    root.spawn();
    let next = || {
        let mut buffer = [0; 4096];
        let read = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    };
    assert_eq!(next(), "EXTEND_TIMEOUT_USEC=30000000");
    assert!(next().starts_with("READY=1\n"));
}

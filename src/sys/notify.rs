//! Tells the service manager how we are (sd_notify(3)): one datagram per message. The crate
//! `sd-notify` sends on a blocking socket, passes line breaks in a status on as further
//! assignments, and reads the environment each time, which no test can set without unsafe code.

use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often the watchdog is fed, and a changed status told; the unit's `WatchdogSec` is at least
/// three times this.
pub const PING_PERIOD: Duration = Duration::from_secs(10);

/// What is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// The node serves.
    Ready,
    /// One line for people, shown by `systemctl status`.
    Status(String),
    /// A stop has begun.
    Stopping,
    /// The node is alive.
    Watchdog,
    /// The start needs this much more time from now on.
    ExtendTimeout(Duration),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Ready => f.write_str("READY=1"),
            // A line break would begin another assignment.
            State::Status(text) => write!(f, "STATUS={}", text.replace(char::is_control, " ")),
            State::Stopping => f.write_str("STOPPING=1"),
            State::Watchdog => f.write_str("WATCHDOG=1"),
            State::ExtendTimeout(time) => write!(f, "EXTEND_TIMEOUT_USEC={}", time.as_micros()),
        }
    }
}

/// A way to the service manager; without one, messages go nowhere.
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The service manager that started this process, as `$NOTIFY_SOCKET` says.
    pub fn from_environment() -> Notifier {
        let variable = |name: &str| std::env::var(name).ok();
        Notifier::new(
            variable("NOTIFY_SOCKET").as_deref(),
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
        )
    }

    fn new(socket: Option<&str>, usec: Option<&str>, pid: Option<&str>) -> Notifier {
        let to = socket.filter(|name| !name.is_empty()).and_then(|name| match open(name) {
            Ok(to) => Some(to),
            Err(error) => {
                log::warn!("cannot tell the service manager anything: {name}: {error}");
                None
            }
        });
        let for_us = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let limit = usec.filter(|_| for_us && to.is_some()).and_then(|usec| usec.parse().ok());
        let watchdog = limit.filter(|usec| *usec > 0).map(Duration::from_micros);
        Notifier { to, watchdog: watchdog.map(|limit| PING_PERIOD.min(limit / 3)) }
    }

    /// Whether anybody hears what is told.
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// How often [`State::Watchdog`] is to be sent; `None` when nobody waits for it.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends one or several states in one datagram. Never blocks; a loss is only logged.
    pub fn tell(&self, states: &[State]) {
        let Some((socket, address)) = &self.to else {
            return;
        };
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        if let Err(error) = socket.send_to_addr(lines.join("\n").as_bytes(), address) {
            log::debug!("the service manager was not told: {error}");
        }
    }
}

fn open(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
        None => return Err(io::Error::other("neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let read = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..read].to_vec()).unwrap()
    }

    #[test]
    fn datagrams_reach_an_abstract_socket() {
        let name = format!("skerry-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier::new(Some(&format!("@{name}")), Some("30000000"), None);
        assert_eq!(notifier.watchdog(), Some(PING_PERIOD));
        notifier.tell(&[State::Ready, State::Status("serving\nREADY=0".to_owned())]);
        assert_eq!(receive(&manager), "READY=1\nSTATUS=serving READY=0");
        notifier.tell(&[State::ExtendTimeout(Duration::from_secs(5))]);
        assert_eq!(receive(&manager), "EXTEND_TIMEOUT_USEC=5000000");
    }

    #[test]
    fn datagrams_reach_a_path() {
        let path = std::env::temp_dir().join(format!("skerry-notify-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path.to_str(), Some("3000000"), Some("1"));
        assert_eq!(notifier.watchdog(), None, "the watchdog is another process's");
        notifier.tell(&[State::Stopping, State::Watchdog]);
        assert_eq!(receive(&manager), "STOPPING=1\nWATCHDOG=1");
        rustix::fs::unlink(&path).unwrap();
    }

    #[test]
    fn nobody_listens_and_nothing_fails() {
        for socket in [None, Some(""), Some("relative"), Some("/nowhere/at/all")] {
            Notifier::new(socket, Some("1"), None).tell(&[State::Ready]);
        }
        let zero = Notifier::new(Some("@skerry-none"), Some("0"), None);
        assert_eq!(zero.watchdog(), None);
    }
}

//! Sockets that the service manager opened for us (sd_listen_fds(3)): low ports without any
//! capability, and connections that wait while the program restarts.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// The first descriptor passed.
const FIRST: i32 = 3;
/// Most descriptors taken.
const SOCKETS_MAX: i32 = 16;

/// A socket that listens already.
pub struct Passed {
    /// `FileDescriptorName=` of the socket unit: `login` or `gateway`.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// The sockets passed to this process; none when they were meant for another, or on any other
/// start than by a socket unit.
pub fn passed() -> io::Result<Vec<Passed>> {
    let variable = |name: &str| std::env::var(name).ok();
    take(
        variable("LISTEN_PID").as_deref(),
        variable("LISTEN_FDS").as_deref(),
        variable("LISTEN_FDNAMES").as_deref(),
        FIRST,
    )
}

fn take(
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
    first: i32,
) -> io::Result<Vec<Passed>> {
    let (Some(pid), Some(count)) = (pid, count) else {
        return Ok(Vec::new());
    };
    if pid.parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let count: i32 = count.parse().map_err(|_| io::Error::other("LISTEN_FDS is no number"))?;
    if !(0..=SOCKETS_MAX).contains(&count) {
        return Err(io::Error::other(format!("LISTEN_FDS is {count}, not 0 to {SOCKETS_MAX}")));
    }
    let mut names = names.unwrap_or_default().split(':');
    // A descriptor number cannot be owned without unsafe code, but the kernel gives a copy of it.
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    (first..first + count)
        .map(|number| {
            let copy = pidfd_getfd(&own, number, PidfdGetfdFlags::empty())?;
            let name = names.next().unwrap_or_default().to_owned();
            Ok(Passed { name, socket: copy })
        })
        .collect()
}

#[cfg(test)]
#[path = "../../tests/suite/support/skip.rs"]
#[allow(clippy::disallowed_methods, unreachable_pub, reason = "shared with tests/suite")]
mod skip;

#[cfg(test)]
mod tests {
    use super::skip::skip;
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a socket as the service manager opens it")]
    fn p020_sockets_are_taken_only_when_they_are_ours() {
        let opened = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = opened.as_raw_fd();
        let pid = std::process::id().to_string();
        let got = match take(Some(&pid), Some("1"), Some("login"), number) {
            Ok(got) => got,
            Err(error) if error.raw_os_error() == Some(1) => {
                return skip("this sandbox forbids pidfd_getfd");
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].name, "login");
        let listener = TcpListener::from(got.into_iter().next().unwrap().socket);
        assert_eq!(listener.local_addr().unwrap(), opened.local_addr().unwrap());
        assert!(take(Some("1"), Some("1"), None, number).unwrap().is_empty());
        assert!(take(None, None, None, number).unwrap().is_empty());
        assert!(take(Some(&pid), Some("9999"), None, number).is_err());
    }
}

//! Sockets: listeners, inherited or our own, and connections to peers.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

use super::clock;

/// Connections that the kernel holds for us until we accept them: children that all come back
/// after a power cut must not be refused.
const BACKLOG: i32 = 1024;
/// A silent peer is asked for a sign of life after this time, so that a long poll through a
/// router that forgot it does not hang for ever.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// A socket that accepts connections.
pub struct Listener {
    inner: Inner,
}

enum Inner {
    Tcp(Async<TcpListener>),
    Unix { listener: Async<UnixListener>, _file: Option<SocketFile> },
}

/// The name of a unix socket that we made, removed with the listener unless a successor has
/// already put its own in place.
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Over TCP.
    Address(SocketAddr),
    /// A process of this machine, and the user as which it opened the unix socket; `None` where the
    /// kernel does not say.
    Local(Option<u32>),
}

impl Peer {
    /// Its address; `None` on this machine.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Peer::Address(address) => Some(address.ip()),
            Peer::Local(_) => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(address) => address.fmt(f),
            Peer::Local(Some(user)) => write!(f, "uid {user}"),
            Peer::Local(None) => f.write_str("local"),
        }
    }
}

/// A connection without TLS.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(Async<TcpStream>),
    /// Over a unix socket.
    Unix(Async<UnixStream>),
}

impl Listener {
    /// Listens on `host:port`, `[v6]:port` or `:port` (every interface). Port 0 lets the kernel
    /// choose. The error names the address and the cure.
    pub fn tcp(address: &str) -> io::Result<Listener> {
        let fail = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {}", cure(&error)))
        };
        let listener = bind_tcp(address).map_err(fail)?;
        rustix::net::listen(&listener, BACKLOG).map_err(|error| fail(error.into()))?;
        Ok(Listener { inner: accepting(listener).map_err(fail)? })
    }

    /// Listens on a unix socket that only its owner may use. A socket that nobody answers on is
    /// replaced; one that a live process answers on is an error.
    pub fn unix(path: &Path) -> io::Result<Listener> {
        let fail = |error: io::Error| {
            let text = format!("cannot listen on {}: {}", path.display(), cure(&error));
            io::Error::new(error.kind(), text)
        };
        refuse_if_taken(path).map_err(fail)?;
        bind_unix(path).map_err(fail)
    }

    /// Takes over a socket that listens already, TCP or unix.
    pub fn inherited(socket: OwnedFd) -> io::Result<Listener> {
        use rustix::net::{AddressFamily, sockopt};
        if !sockopt::socket_acceptconn(&socket)? {
            return Err(invalid("it is not a listening stream socket"));
        }
        let inner = match sockopt::socket_domain(&socket)? {
            AddressFamily::INET | AddressFamily::INET6 => accepting(TcpListener::from(socket))?,
            AddressFamily::UNIX => {
                Inner::Unix { listener: Async::new(UnixListener::from(socket))?, _file: None }
            }
            _ => return Err(invalid("it is neither TCP nor a unix socket")),
        };
        Ok(Listener { inner })
    }

    /// Where it listens; `None` for a unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.inner {
            Inner::Tcp(listener) => listener.get_ref().local_addr().ok(),
            Inner::Unix { .. } => None,
        }
    }

    /// Waits for a connection.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.inner {
            Inner::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // A v4 peer on a v6 socket is known by its v4 address in every log and limit.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Ok((Stream::Tcp(stream), Peer::Address(peer)))
            }
            Inner::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let peer = rustix::net::sockopt::socket_peercred(stream.get_ref());
                let user = peer.ok().map(|peer| peer.uid.as_raw());
                Ok((Stream::Unix(stream), Peer::Local(user)))
            }
        }
    }
}

impl Drop for SocketFile {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether this process could listen on `address`: binds a socket to it that never listens, and
/// lets it go. The error names the address and the cure.
pub fn try_bind(address: SocketAddr) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let attempt = || -> rustix::io::Result<()> {
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)
    };
    attempt().map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("cannot listen on {address}: {}", cure(&error)))
    })
}

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
fn bind_tcp(address: &str) -> io::Result<TcpListener> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(invalid("an address is `host:port`, for example 127.0.0.1:5000"));
    };
    let port: u16 =
        port.parse().map_err(|_| invalid("the port must be a number from 0 to 65535"))?;
    if host.is_empty() || host == "*" {
        // A kernel without IPv6 has no `::`.
        return TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err(invalid("an IPv6 address stands in brackets, for example [::1]:5000"));
    }
    let mut addresses: Vec<SocketAddr> = (bare.unwrap_or(host), port).to_socket_addrs()?.collect();
    // The first that works is taken: for `localhost` the one that every client tries.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(&addresses[..])
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// What went wrong with a listener, and what helps.
fn cure(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there; stop it, or set another address under [listen]".into()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; use a port above 1023, grant CAP_NET_BIND_SERVICE, or let the service \
             manager pass the socket (systemctl enable --now skerry.socket while skerry.service is \
             stopped)"
                .into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; use one of its own, or 0.0.0.0 for all".into()
        }
        _ => error.to_string(),
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn refuse_if_taken(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is not a socket"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a running process answers on it; stop that one first",
            )),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            // Removed between the two calls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// Binds under a name of our own, sets the mode, and only then listens and renames: nobody can
/// connect before the mode holds, and a stale socket is replaced in one step.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
fn bind_unix(path: &Path) -> io::Result<Listener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let _ = std::fs::remove_file(&temporary);
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(&temporary)?)?;
    let listener = UnixListener::from(socket);
    let placed = std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| rustix::net::listen(&listener, BACKLOG).map_err(Into::into))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    let file = SocketFile { path: path.to_owned(), inode: inode(path)? };
    Ok(Listener { inner: Inner::Unix { listener: Async::new(listener)?, _file: Some(file) } })
}

/// A listener whose connections are prepared: Linux hands its options on to each of them.
fn accepting(listener: TcpListener) -> io::Result<Inner> {
    prepare(&listener);
    Ok(Inner::Tcp(Async::new(listener)?))
}

/// Small answers leave at once, and a dead peer is noticed. Neither is worth failing for.
fn prepare(socket: impl AsFd) {
    use rustix::net::sockopt;
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let _ = sockopt::set_socket_keepalive(&socket, true);
    let _ = sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE);
}

/// Connects to a host name or address (IPv6 without brackets), trying each of its addresses in
/// turn, all within `deadline`. The error says what failed in words.
pub async fn dial(host: &str, port: u16, deadline: Duration) -> io::Result<Stream> {
    let timeout = |what: &str| io::Error::new(io::ErrorKind::TimedOut, what.to_owned());
    let connect = async {
        let addresses = smol::net::resolve((host, port)).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot resolve {host}: {error}"))
        })?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in addresses {
            // An address that swallows packets must leave time for the next one.
            let share = deadline / left.max(1);
            left -= 1;
            let attempt = Async::<TcpStream>::connect(address);
            match clock::within(share, attempt).await {
                Ok(Ok(stream)) => {
                    prepare(stream.get_ref());
                    return Ok(Stream::Tcp(stream));
                }
                Ok(Err(error)) => {
                    let text = format!("cannot connect to {host} ({address}): {error}");
                    last = io::Error::new(error.kind(), text);
                }
                Err(_) => last = timeout(&format!("no answer from {host} ({address})")),
            }
        }
        Err(last)
    };
    match clock::within(deadline, connect).await {
        Ok(result) => result,
        Err(_) => Err(timeout(&format!("no connection to {host} within {deadline:?}"))),
    }
}

/// Connects to a unix socket.
pub async fn dial_unix(path: &Path) -> io::Result<Stream> {
    let stream = Async::<UnixStream>::connect(path).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot connect to {}: {error}", path.display()))
    })?;
    Ok(Stream::Unix(stream))
}

impl Stream {
    /// The TCP socket behind it, for sendfile.
    pub fn as_tcp(&self) -> Option<&Async<TcpStream>> {
        match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Unix(_) => None,
        }
    }

    /// Looks at the next bytes and leaves them; 0 when the peer closed.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Stream::Tcp(stream) = self else { return Ok(0) };
        stream.peek(buffer).await
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    /// Several records of TLS leave in one call.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our direction; the peer sees the end of the stream.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match self.get_mut() {
            Stream::Tcp(stream) => stream.get_ref().shutdown(std::net::Shutdown::Write),
            Stream::Unix(stream) => stream.get_ref().shutdown(std::net::Shutdown::Write),
        };
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(result: io::Result<Listener>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn an_occupied_port_names_address_and_cure() {
        let first = Listener::tcp("127.0.0.1:0").unwrap();
        let address = first.local_address().unwrap().to_string();
        let text = error(Listener::tcp(&address));
        assert!(text.contains(&address) && text.contains("another address"), "{text}");
        assert!(error(Listener::tcp("127.0.0.1")).contains("host:port"));
        assert!(error(Listener::tcp("::1:5000")).contains("brackets"));
        assert!(error(Listener::tcp("127.0.0.1:http")).contains("number"));
        assert!(error(Listener::tcp("192.0.2.1:0")).contains("no such address"));
    }

    #[test]
    fn a_v4_peer_of_a_v6_socket_keeps_its_v4_address() {
        smol::block_on(async {
            let listener = Listener::tcp(":0").unwrap();
            let port = listener.local_address().unwrap().port();
            let _client = dial("127.0.0.1", port, Duration::from_secs(5)).await.unwrap();
            let (_, peer) = listener.accept().await.unwrap();
            assert!(peer.ip().unwrap().is_ipv4());
        });
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test of the seam")]
    fn connections_are_prepared_on_our_own_and_on_inherited_listeners() {
        use rustix::net::sockopt;
        let own = Listener::tcp("127.0.0.1:0").unwrap();
        let socket = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let inherited = Listener::inherited(socket.into()).unwrap();
        for listener in [own, inherited] {
            smol::block_on(async {
                let port = listener.local_address().unwrap().port();
                let client = dial("127.0.0.1", port, Duration::from_secs(5)).await.unwrap();
                let (accepted, _) = listener.accept().await.unwrap();
                for stream in [client, accepted] {
                    let socket = stream.as_tcp().unwrap().get_ref();
                    assert_eq!(sockopt::tcp_nodelay(socket), Ok(true));
                    assert_eq!(sockopt::socket_keepalive(socket), Ok(true));
                    assert_eq!(sockopt::tcp_keepidle(socket), Ok(KEEPALIVE_IDLE));
                }
            });
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test of the seam")]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = std::env::temp_dir().join(format!("skerry-net-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("admin.sock");
        smol::block_on(async {
            let first = Listener::unix(&path).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(error(Listener::unix(&path)).contains("running process"));
            let _ = dial_unix(&path).await.unwrap();
            drop(first);
            assert!(!path.exists(), "removed with its listener");
            // Left behind by a process that was killed.
            drop(UnixListener::bind(&path).unwrap());
            let second = Listener::unix(&path).unwrap();
            dial_unix(&path).await.unwrap();
            drop(second);
            std::fs::write(&path, "text").unwrap();
            assert!(error(Listener::unix(&path)).contains("not a socket"));
            assert!(path.exists());
        });
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_listening_socket_is_taken_over() {
        smol::block_on(async {
            let first = Listener::tcp("127.0.0.1:0").unwrap();
            let port = first.local_address().unwrap().port();
            let Inner::Tcp(socket) = &first.inner else { panic!("TCP") };
            let copy = socket.get_ref().try_clone().unwrap();
            let second = Listener::inherited(copy.into()).unwrap();
            drop(first);
            assert_eq!(second.local_address().unwrap().port(), port);
            let client = dial("127.0.0.1", port, Duration::from_secs(5)).await.unwrap();
            second.accept().await.unwrap();
            let Stream::Tcp(client) = client else { panic!("TCP") };
            let client = client.into_inner().unwrap();
            assert!(Listener::inherited(client.into()).is_err(), "not a listener");
        });
    }

    #[test]
    fn a_refused_connection_says_so() {
        let port = {
            let listener = Listener::tcp("127.0.0.1:0").unwrap();
            listener.local_address().unwrap().port()
        };
        let result = smol::block_on(dial("127.0.0.1", port, Duration::from_secs(5)));
        let text = result.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("127.0.0.1") && text.contains("refused"), "{text}");
    }
}

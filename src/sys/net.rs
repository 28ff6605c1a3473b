//! Sockets: listeners, outgoing connections, and one stream type over both kinds.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

use super::clock::within;
use super::spawn::blocking;

/// A listening socket.
pub enum Listener {
    /// TCP.
    Tcp(Async<TcpListener>),
    /// A unix socket; its file is removed when the listener goes.
    Unix(Async<UnixListener>, PathBuf),
}

/// A connection.
pub enum Stream {
    /// TCP.
    Tcp(Async<TcpStream>),
    /// A unix socket.
    Unix(Async<UnixStream>),
}

impl Listener {
    /// Listens on `host:port`. The error names the address, the cause and the cure.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn tcp(address: &str) -> io::Result<Listener> {
        let explain = |error: io::Error| {
            let cure = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "another process listens there; stop it or choose another port under [listen]"
                }
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need a socket unit or the capability; choose another port \
                     under [listen]"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this machine has no such address; correct it under [listen]"
                }
                _ => "write it as host:port under [listen]",
            };
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}: {cure}"))
        };
        let resolved = address.to_socket_addrs().map_err(explain)?.next();
        let resolved = resolved.ok_or_else(|| explain(io::ErrorKind::NotFound.into()))?;
        let listener = TcpListener::bind(resolved).map_err(explain)?;
        Ok(Listener::Tcp(Async::new(listener)?))
    }

    /// Listens on a unix socket that only its owner may use. A stale file is replaced; one that
    /// a live process answers on is not.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn unix(path: &Path) -> io::Result<Listener> {
        if UnixStream::connect(path).is_ok() {
            let text = format!("{}: another process answers on this socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let explain = |e: io::Error| {
            io::Error::new(e.kind(), format!("cannot listen on {}: {e}", path.display()))
        };
        let listener = UnixListener::bind(path).map_err(explain)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Listener::Unix(Async::new(listener)?, path.to_owned()))
    }

    /// Waits for a connection; the address of a TCP peer.
    pub async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.get_ref().set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Some(peer)))
            }
            Listener::Unix(listener, _) => Ok((Stream::Unix(listener.accept().await?.0), None)),
        }
    }

    /// The address that is listened on; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.get_ref().local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

impl Drop for Listener {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Connects to a host name or address within `deadline`, trying each address in turn.
pub async fn dial(host: &str, port: u16, deadline: Duration) -> io::Result<Stream> {
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let connect = async {
        let resolve = move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        let addresses = blocking(resolve).await?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match Async::<TcpStream>::connect(address).await {
                Ok(stream) => {
                    stream.get_ref().set_nodelay(true)?;
                    return Ok(Stream::Tcp(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    within(deadline, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Connects to a unix socket.
pub async fn dial_unix(path: &Path) -> io::Result<Stream> {
    Ok(Stream::Unix(Async::<UnixStream>::connect(path).await?))
}

impl Stream {
    /// The socket itself, for sendfile.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.get_ref().as_fd(),
            Stream::Unix(stream) => stream.get_ref().as_fd(),
        }
    }

    /// Waits until the socket takes bytes.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.writable().await,
            Stream::Unix(stream) => stream.writable().await,
        }
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

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_close(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}

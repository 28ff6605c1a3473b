//! Requests to peers: pooled connections, deadlines, TLS, bounded redirects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::TlsConnector;
use rustls_pki_types::ServerName;

use super::fetch::{Answer, Failure, exchange};
use super::message::{ClientError, ClientRequest, ClientResponse};
use super::pool::{FRESH, Pool};
use super::trust::{self, ClientOptions};
use super::url::Target;
use crate::http::message::request::Method;
use crate::http::wire::transport::{Transport, Wire};
use crate::sys::{Clock, Sys, clock, net};
use crate::types::limits::{DRAIN_BYTES_MAX, PROGRESS_DEADLINE, REDIRECTS_MAX};

/// A client with a pool of connections; a clone shares it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    way: Way,
    pool: Pool,
    clock: Arc<dyn Clock>,
    progress: Duration,
}

/// How peers are reached.
enum Way {
    /// With whether a certificate is pinned.
    Network(TlsConnector, bool),
    Unix(PathBuf),
}

impl Client {
    /// A client with an empty pool. Fails when the CA certificates cannot be read.
    pub fn new(sys: &Sys, options: ClientOptions) -> Result<Client, String> {
        let is_pinned = options.ca_fingerprint.is_some();
        let connector = trust::connector(sys.clock.clone(), options)?;
        Ok(Client::with(sys, Way::Network(connector, is_pinned)))
    }

    /// A client of one unix socket, whatever host its URLs name: `http://localhost/path`.
    pub fn unix(sys: &Sys, path: impl Into<PathBuf>) -> Client {
        Client::with(sys, Way::Unix(path.into()))
    }

    fn with(sys: &Sys, way: Way) -> Client {
        let pool = Pool::new(sys.clock.clone());
        let clock = sys.clock.clone();
        Client { inner: Arc::new(Inner { way, pool, clock, progress: PROGRESS_DEADLINE }) }
    }

    /// Sends a request and reads the head of the answer. Follows redirects of GET and HEAD, at
    /// most [`REDIRECTS_MAX`], without Authorization once another host is asked, and never from
    /// https to http. The deadline holds for connecting and again for the head of each answer; a
    /// body on its way needs progress instead.
    pub async fn send(&self, request: ClientRequest) -> Result<ClientResponse, ClientError> {
        let mut target = Target::parse(&request.url)?;
        let mut headers = request.headers.clone();
        let mut asked: Option<String> = None;
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.send_once(&target, &request, &headers).await;
            let answer = answer.map_err(|error| match &asked {
                Some(peer) => error.after_redirect(peer),
                None => error,
            })?;
            let response = ClientResponse {
                status: answer.status,
                headers: answer.headers,
                body: answer.body,
                url: target.url.to_string(),
            };
            let follow = matches!(request.method, Method::Get | Method::Head)
                && matches!(response.status, 301 | 302 | 303 | 307 | 308);
            let Some(location) = response.header("location").filter(|_| follow) else {
                return Ok(response);
            };
            let next = target.join(location)?;
            if target.secure && !next.secure {
                let text = format!("{} redirects to an address without TLS", target.host);
                return Err(ClientError::Protocol(text));
            }
            if next.peer() != target.peer() {
                headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
            }
            let mut body = response.body;
            // Read to its end, a short body leaves the connection usable.
            let rest = body.read_all(DRAIN_BYTES_MAX);
            let _ = clock::within(request.deadline, rest).await;
            asked.get_or_insert_with(|| format!("{}:{}", target.host, target.port));
            target = next;
        }
        Err(ClientError::Protocol(format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// One request without redirects. A pooled connection may have died unnoticed: the request
    /// is sent again on a fresh one, if sending it twice does no more than once would.
    async fn send_once(
        &self,
        target: &Target,
        request: &ClientRequest,
        headers: &[(String, String)],
    ) -> Result<Answer, ClientError> {
        let Inner { pool, .. } = &*self.inner;
        let peer = target.peer();
        let idempotent = !matches!(request.method, Method::Post | Method::Patch);
        let age = if idempotent { Duration::MAX } else { FRESH };
        if let Some(wire) = pool.take(&peer, age).await {
            match exchange(wire, pool, &peer, &target.url, request, headers).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Stale(error)) if !idempotent => return Err(error),
                Err(Failure::Stale(error)) => log::debug!("{peer}: sent again after: {error}"),
            }
        }
        let wire = self.connect(target, request.deadline).await?;
        match exchange(wire, pool, &peer, &target.url, request, headers).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Stale(error) | Failure::Final(error)) => Err(error),
        }
    }

    async fn connect(&self, target: &Target, deadline: Duration) -> Result<Wire, ClientError> {
        let Inner { way, clock, progress, .. } = &*self.inner;
        let started = clock.monotonic();
        let transport = match way {
            Way::Unix(path) => match clock::within(deadline, net::dial_unix(path)).await {
                Ok(stream) => Transport::Plain(stream.map_err(ClientError::Connect)?),
                Err(_) => return Err(ClientError::Timeout),
            },
            Way::Network(tls, is_pinned) => {
                let dial = net::dial(&target.host, target.port, deadline);
                let stream = dial.await.map_err(ClientError::Connect)?;
                if target.secure {
                    let name = ServerName::try_from(target.host.clone())
                        .map_err(|_| ClientError::Url(format!("no host name: {}", target.host)))?;
                    let left = deadline.saturating_sub(clock.monotonic().saturating_sub(started));
                    match clock::within(left, tls.connect(name, stream)).await {
                        Ok(Ok(stream)) => Transport::Client(Box::new(stream)),
                        Ok(Err(error)) => {
                            let text = trust::explain(&target.host, &error, *is_pinned);
                            return Err(ClientError::Tls(text));
                        }
                        Err(_) => return Err(ClientError::Timeout),
                    }
                } else {
                    Transport::Plain(stream)
                }
            }
        };
        Ok(Wire::new(transport, clock.clone(), *progress))
    }
}

//! Listeners to connections: admission, refusals under overload, and an orderly end.

use std::io;
use std::time::Duration;

use smol::future::FutureExt;

use super::admission::{Admission, Place};
use super::conn::Connection;
use super::exchange::Shared;
use super::linger::linger;
use super::permits::Permits;
use super::prepared::OVERLOAD;
use super::service::{Service, Shutdown};
use super::tls::TlsAcceptor;
use crate::http::wire::transport::{Transport, Wire};
use crate::sys::clock;
use crate::sys::net::{Listener, Peer, Stream};

/// Wait after a failed accept, which for want of descriptors would fail again at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Connections over the limit that are told so at the same time. Over it: the one that was told
/// first is reset, or the new one is closed without a word.
const REFUSALS_MAX: usize = 64;

/// Serves one listener until shutdown begins and its connections have ended, for at most the
/// drain deadline; what is left then is cut off. With `tls` every connection speaks TLS.
pub async fn serve(service: Service, listener: Listener, tls: Option<TlsAcceptor>) {
    let own = Permits::new(usize::MAX);
    let refusals = Admission::new(REFUSALS_MAX);
    let cut = Shutdown::new();
    let mut failing = false;
    loop {
        let stop = async {
            service.shutdown.begun().await;
            None
        };
        let accepted = match stop.or(async { Some(listener.accept().await) }).await {
            None => break,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Some(Err(error)) => {
                // One line for a run of failures, not one for each.
                if !failing {
                    log::warn!("cannot accept connections: {error}; trying again");
                    failing = true;
                }
                clock::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        failing = false;
        let (stream, peer) = accepted;
        let address = peer.ip();
        match (service.admission.admit(address), own.try_acquire()) {
            (Some(place), Some(counted)) => {
                let (service, tls, cut) = (service.clone(), tls.clone(), cut.clone());
                let spawner = service.sys.spawner.clone();
                let connection = async move {
                    connection(&service, stream, peer, place, tls).or(cut.begun()).await;
                    drop(counted);
                };
                spawner.spawn(connection).detach();
            }
            _ if tls.is_none() => turn_away(&service, refusals.admit(address), stream),
            // A handshake is what the limit protects from.
            _ => count_refusal(&service),
        }
    }
    drop(listener);
    if clock::within(service.deadlines.stop, own.all_returned()).await.is_err() {
        log::warn!("{} connections did not end in time and were cut off", own.in_use());
        cut.begin();
        own.all_returned().await;
    }
}

async fn connection(
    service: &Service,
    stream: Stream,
    peer: Peer,
    place: Place,
    tls: Option<TlsAcceptor>,
) {
    let transport = match tls {
        None => Transport::Plain(stream),
        Some(tls) => match clock::within(service.deadlines.head, tls.accept(stream)).await {
            Ok(Ok(stream)) => Transport::Server(Box::new(stream)),
            Ok(Err(error)) => {
                log::debug!("{peer} no TLS connection: {error}");
                return;
            }
            Err(_) => {
                log::debug!("{peer} no TLS connection: the handshake came too slowly");
                return;
            }
        },
    };
    Connection::new(service, transport, peer, place).run().await;
}

/// Tells a client over the limit to come back, if there is room even for that.
fn turn_away(service: &Service, place: Option<Place>, stream: Stream) {
    count_refusal(service);
    let Some(mut place) = place else { return };
    let service = service.clone();
    let spawner = service.sys.spawner.clone();
    let farewell = async move {
        let (clock, limit) = (service.sys.clock.clone(), service.deadlines.linger_pause);
        let shared = Shared::new(Wire::new(Transport::Plain(stream), clock, limit));
        if shared.write_all(OVERLOAD).await.is_ok() {
            linger(&shared, &mut place, &service).await;
        }
    };
    spawner.spawn(farewell).detach();
}

fn count_refusal(service: &Service) {
    service.sys.metrics.requests.add(1);
    service.sys.metrics.requests_failed.add(1);
}

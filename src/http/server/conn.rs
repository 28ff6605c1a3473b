//! One connection: heads in, requests to the handler, replies out, until either side ends it.

use std::future::poll_fn;
use std::io;
use std::panic::AssertUnwindSafe;

use http_types::Method;
use smol::future::FutureExt;

use super::admission::Place;
use super::exchange::{CONTINUE, RequestBody, Shared};
use super::linger::linger;
use super::send;
use super::service::Service;
use super::tls::HANDSHAKE_RECORD;
use crate::http::message::body::{Body, BodyError};
use crate::http::message::refusal::refusal;
use crate::http::message::reply::Reply;
use crate::http::message::request::Request;
use crate::http::wire::framing::Framing;
use crate::http::wire::head::{self, Head};
use crate::http::wire::transport::{Transport, Wire};
use crate::sys::clock;
use crate::sys::net::Peer;
use crate::types::Refusal;
use crate::types::limits::{DRAIN_BYTES_MAX, HEAD_BYTES_MAX};

/// Stack space for bytes that nobody wants.
const DISCARD_BYTES: usize = 4 * 1024;

/// A connection to a client.
pub(in crate::http) struct Connection {
    service: Service,
    shared: Shared,
    peer: Peer,
    place: Place,
    secure: bool,
}

/// What came instead of, or as, the next head.
enum Next {
    Head(Box<Head>),
    Refused(Refusal),
    Closed,
}

/// What becomes of the connection after a reply.
#[derive(PartialEq, Eq)]
enum After {
    Keep,
    Close,
    /// The client may still be sending: see [`linger`].
    Linger,
}

impl Connection {
    /// Takes over a fresh connection.
    pub(in crate::http) fn new(
        service: &Service,
        transport: Transport,
        peer: Peer,
        place: Place,
    ) -> Self {
        let secure = matches!(transport, Transport::Server(_));
        let wire = Wire::new(transport, service.sys.clock.clone(), service.deadlines.progress);
        let shared = Shared::new(wire);
        Connection { service: service.clone(), shared, peer, place, secure }
    }

    /// Serves it to its end.
    pub(in crate::http) async fn run(mut self) {
        let mut first = true;
        let after = loop {
            let after = match self.next_head(first).await {
                Next::Head(head) => self.answer(*head).await,
                Next::Refused(refusal) => self.refuse(refusal).await,
                Next::Closed => After::Close,
            };
            if after != After::Keep {
                break after;
            }
            first = false;
        };
        if self.place.is_displaced() {
            return;
        }
        if after == After::Linger {
            return linger(&self.shared, &mut self.place, &self.service).await;
        }
        let close = poll_fn(|cx| self.shared.lock().wire.poll_close(cx));
        let _ = clock::within(self.service.deadlines.drain, close).await;
    }

    /// Waits for a head. A connection without a byte of the next one is closed without a word
    /// when it is idle too long, another one needs its place, or the server shuts down.
    async fn next_head(&mut self, first: bool) -> Next {
        let deadlines = self.service.deadlines;
        if self.shared.lock().wire.received().is_empty() {
            let limit = if first { deadlines.head } else { deadlines.idle };
            if !first {
                self.place.rest();
            }
            let fill = async { poll_fn(|cx| self.shared.lock().wire.poll_fill(cx)).await.ok() };
            let stop = async {
                self.service.shutdown.begun().or(self.place.displaced()).await;
                None
            };
            let filled = clock::within(limit, fill.or(stop)).await;
            match filled {
                Ok(Some(count)) if count > 0 && self.place.resume() => {}
                _ => return Next::Closed,
            }
        }
        let read = async {
            let mut searched = 0;
            loop {
                if let Some(bytes) = self.take_head(&mut searched)? {
                    return Ok(Some(bytes));
                }
                match poll_fn(|cx| self.shared.lock().wire.poll_fill(cx)).await {
                    Ok(0) | Err(_) => return Ok(None),
                    Ok(_) => {}
                }
            }
        };
        let bytes = match clock::within(deadlines.head, read).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => return Next::Closed,
            Ok(Err(refusal)) => return Next::Refused(refusal),
            // An empty line after the last body is no request.
            Err(_) if self.shared.lock().wire.received().is_empty() => return Next::Closed,
            Err(_) => return Next::Refused(refusal(408, "the request head came too slowly")),
        };
        match head::parse(&bytes) {
            Ok(head) => Next::Head(Box::new(head)),
            Err(refusal) => Next::Refused(refusal),
        }
    }

    fn take_head(&self, searched: &mut usize) -> Result<Option<Vec<u8>>, Refusal> {
        let wire = &mut self.shared.lock().wire;
        // Some clients send an empty line after a body (RFC 9112 section 2.2).
        let skip = wire.received().iter().take_while(|byte| b"\r\n".contains(byte)).count();
        if skip > 0 && *searched == 0 {
            wire.consume(skip);
        }
        let received = wire.received();
        // A client that tries TLS first falls back at once on any answer, and waits without one.
        if received.first() == Some(&HANDSHAKE_RECORD) {
            return Err(refusal(400, "this port speaks plain HTTP: use http://"));
        }
        let end = head::end(received, *searched);
        if end.unwrap_or(received.len()) > HEAD_BYTES_MAX {
            let text = format!("the request head is larger than {HEAD_BYTES_MAX} bytes");
            return Err(refusal(431, text));
        }
        *searched = received.len();
        let Some(end) = end else { return Ok(None) };
        let bytes = received[..end].to_vec();
        wire.consume(end);
        Ok(Some(bytes))
    }

    /// Answers what is not a request that a handler may see, and ends the connection: where the
    /// next request would start is unknown.
    async fn refuse(&self, refusal: Refusal) -> After {
        let started = self.service.sys.clock.monotonic();
        let text = refusal.message.clone();
        let reply = Reply::from(refusal);
        let status = reply.status;
        let clock = &*self.service.sys.clock;
        let sent = send::send(&self.shared, clock, reply, Method::Get, true).await;
        self.account(status, &sent, started, &format_args!("({text})"));
        After::Linger
    }

    async fn answer(&self, head: Head) -> After {
        let started = self.service.sys.clock.monotonic();
        let number = self.shared.begin(head.framing, head.expects_continue);
        let (method, mut close) = (head.method, head.close);
        let label = head.path.clone().unwrap_or_else(|| "*".into());
        let reply = match head.path.is_some() {
            true => self.handle(head, number).await,
            false => Ok(Reply::new(204).with("allow", "GET, HEAD, POST, PUT, PATCH, DELETE")),
        };
        let reply = reply.unwrap_or_else(|panicked| {
            close = true;
            panicked
        });
        let (reply, unread) = match self.settle(reply).await {
            Ok(settled) => settled,
            Err(_) => return After::Close,
        };
        close |= self.service.shutdown.is_begun() || unread == Unread::Lost;
        let status = reply.status;
        let clock = &*self.service.sys.clock;
        let sent = send::send(&self.shared, clock, reply, method, close).await;
        self.account(status, &sent, started, &format_args!("{method} {label}"));
        if sent.is_err() {
            return After::Close;
        }
        let drained = unread == Unread::Nothing
            || !close
                && clock::within(self.service.deadlines.drain, self.discard(DRAIN_BYTES_MAX))
                    .await
                    .is_ok_and(|result| result.is_ok())
                && self.shared.lock().framing.is_over();
        self.shared.lock().wire.rest();
        match (close, drained) {
            (false, true) => After::Keep,
            (true, true) => After::Close,
            (_, false) => After::Linger,
        }
    }

    /// Calls the handler. Its panic costs this connection and nothing else.
    async fn handle(&self, head: Head, number: u64) -> Result<Reply, Reply> {
        let len = match head.framing {
            Framing::Length(len) => Some(len),
            Framing::End => Some(0),
            _ => None,
        };
        let body = RequestBody { shared: self.shared.clone(), number };
        let watch = RequestBody { shared: self.shared.clone(), number };
        let mut body = if len == Some(0) { Body::empty() } else { Body::new(body, len) };
        body.watch(watch);
        body.draw_on(&self.service.memory);
        let mut request = Request {
            method: head.method,
            path: head.path.unwrap_or_default(),
            query: head.query,
            headers: head.headers,
            host: head.host,
            peer: self.peer,
            secure: self.secure,
            is_operator: false,
            body,
        };
        let work = self.reply(&mut request);
        AssertUnwindSafe(work).catch_unwind().await.map_err(|cause| {
            let text = cause
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| cause.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            self.service.sys.metrics.panics.add(1);
            let Request { method, path, .. } = &request;
            log::error!("defect: the handler of {method} {path} panicked: {text}");
            refusal(500, "an internal error, which the log describes").into()
        })
    }

    /// Lets the handler make a reply. One that takes more memory than a connection may has to
    /// reserve it; until that can be had, the reply is not in memory, and is then made again.
    async fn reply(&self, request: &mut Request) -> Reply {
        let handler = &self.service.handler;
        let mut reply = handler.handle(request).await;
        // What was changed cannot be answered with a refusal; such answers are short.
        let large = reply.unreserved().filter(|_| request.method == Method::Get);
        let Some(bytes) = large else { return reply };
        let (memory, to) = (&self.service.memory, reply.to);
        let mut reserved = memory.reserve_for_reply_now(to, bytes);
        if reserved.is_err() {
            drop(reply);
            reserved = memory.reserve_for_reply(to, bytes).await;
            if let Err(busy) = reserved {
                return BodyError::from(busy).refusal("UNSUPPORTED").into();
            }
            reply = handler.handle(request).await;
            if reply.unreserved().is_some_and(|again| again > bytes) {
                return BodyError::Busy.refusal("UNSUPPORTED").into();
            }
        }
        reply.reservation = reserved.ok();
        reply
    }

    /// Cuts the body off from the handler and looks at what it left. A body that failed for the
    /// client's fault is answered as such, if the handler only knew that something failed.
    async fn settle(&self, reply: Reply) -> io::Result<(Reply, Unread)> {
        let (fault, half_continued) = {
            let mut exchange = self.shared.lock();
            exchange.number += 1;
            self.service.sys.metrics.bytes_received.add(exchange.received);
            let half = exchange.continues.filter(|written| *written > 0);
            (exchange.fault, half)
        };
        if let Some(written) = half_continued {
            self.shared.write_all(&CONTINUE[written.min(CONTINUE.len())..]).await?;
        }
        let reply = match fault {
            Some(io::ErrorKind::TimedOut) if reply.status >= 400 => {
                refusal(408, "the request body came too slowly").into()
            }
            Some(io::ErrorKind::InvalidData) if reply.status >= 400 => {
                refusal(400, "the chunked request body is malformed").into()
            }
            _ => reply,
        };
        let exchange = self.shared.lock();
        let unread = match exchange.framing {
            framing if framing.is_over() => Unread::Nothing,
            // The client may send the body or not: nobody can tell where the next request starts.
            _ if exchange.continues == Some(0) => Unread::Lost,
            Framing::Length(left) if left <= DRAIN_BYTES_MAX => Unread::Some,
            Framing::Length(_) | Framing::Closed => Unread::Lost,
            _ => Unread::Some,
        };
        Ok((reply, unread))
    }

    /// Reads and drops the rest of the body, at most `max` bytes.
    async fn discard(&self, max: u64) -> io::Result<()> {
        let mut left = max;
        loop {
            let count = poll_fn(|cx| {
                let exchange = &mut *self.shared.lock();
                exchange.framing.poll_read(&mut exchange.wire, cx, &mut [0; DISCARD_BYTES])
            })
            .await? as u64;
            if count == 0 || count > left {
                return Ok(());
            }
            left -= count;
        }
    }

    /// Counts a reply and logs it in one line, without query or fields, which may hold secrets.
    fn account(
        &self,
        status: u16,
        sent: &io::Result<u64>,
        started: std::time::Duration,
        label: &std::fmt::Arguments<'_>,
    ) {
        let sys = &self.service.sys;
        sys.metrics.requests.add(1);
        match status {
            400..=499 => sys.metrics.requests_refused.add(1),
            500.. => sys.metrics.requests_failed.add(1),
            _ => {}
        }
        let took_ms = sys.clock.monotonic().saturating_sub(started).as_millis();
        match sent {
            Ok(bytes) => {
                sys.metrics.bytes_sent.add(*bytes);
                log::debug!("{} {label} {status} bytes={bytes} ms={took_ms}", self.peer);
            }
            Err(error) if error.kind() == send::STORAGE_FAULT => {
                log::error!("{} {label} {status} cut off: {error}", self.peer);
            }
            Err(error) => {
                log::debug!("{} {label} {status} cut off: {error} ms={took_ms}", self.peer);
            }
        }
    }
}

/// What a handler left of a body.
#[derive(PartialEq, Eq)]
enum Unread {
    Nothing,
    /// Little enough, perhaps, to read it and keep the connection.
    Some,
    /// Too much, or the place where it ends is not known.
    Lost,
}

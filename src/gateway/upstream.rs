//! The client of a parent: logs in with the sync token, and makes the gateway's calls.
//!
//! The connection string names one endpoint, the gateway. Its challenge names the login server,
//! which gives tokens and content.

mod answer;
mod error;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use answer::{asks_of_manifests, check, error_text, is_doubtful, of_desired_state};
pub(super) use answer::{body, malformed, protocol};
pub use error::UpstreamError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::call::{DESIRED, EPOCH, INSTANCE, NOTED, PROJECTED, SET_BACK, START, TIME};
use super::wire::{BODY_BYTES_MAX, Format, Received, Wire, decode_batch};
use crate::http::{Client, ClientBody, ClientRequest, ClientResponse, Method, host_of};
use crate::sys::Sys;
use crate::types::connected_registry::{Activation, StatusReport};
use crate::types::connection_string::{ConnectionString, Protocol};
use crate::types::cursor::SEQUENCE;
use crate::types::limits::{REQUEST_DEADLINE, SMALL_BODY_BYTES_MAX};
use crate::types::message::{ActivationAnswer, ActivationRequest, Listing, Manifests, NodeConfig};
use crate::types::refusal::PARTIAL;
use crate::types::scope::Access;
use crate::types::{
    ConnectedRegistryName, Cursor, Digest, GatewayAction, RepositoryName, Tag, UnixSeconds,
};

/// A token is renewed this long before it ends.
const RENEW_BEFORE: Duration = Duration::from_secs(60);

/// Tokens kept at once, one for each repository in use. Over it: all are asked for anew.
const TOKENS_MAX: usize = 256;

/// The gateway is asked for the login server again after this time, in case another one answers
/// under the old name.
const REALM_LIFETIME: Duration = Duration::from_secs(600);

/// What an answer says of an error, at most, characters.
const ERROR_TEXT_MAX: usize = 1000;

/// Where tokens and content come from, as the gateway's challenge says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Realm {
    /// The token endpoint.
    pub(super) url: String,
    /// `http://host[:port]` of the login server.
    pub(super) origin: String,
    service: String,
}

/// A realm as long as it is believed.
struct Known {
    realm: Realm,
    /// Monotonic.
    until: Duration,
}

struct Bearer {
    token: String,
    /// Monotonic.
    until: Duration,
}

/// A client of the parent. It holds the sync token's password and therefore has no `Debug`.
pub struct Upstream {
    pub(super) sys: Sys,
    pub(super) client: Client,
    connection: ConnectionString,
    instance_id: String,
    /// The epoch under which this instance was activated since the start of the process; 0: it was
    /// not.
    epoch: AtomicU64,
    /// Whether a private CA is configured: whoever it certifies is trusted to be the login server.
    private_ca: bool,
    realm: Mutex<Option<Known>>,
    tokens: Mutex<BTreeMap<String, Bearer>>,
    parent_start: Mutex<Option<String>>,
    /// The parent has answered in the second version since the session began: it reads that too.
    reads_v2: AtomicBool,
    /// The highest sequence of the parent's feed that an answer of this session is of.
    heard: Arc<AtomicU64>,
    /// The same of answers about manifests and tags; 0: those tell none.
    pub(super) asked: AtomicU64,
}

impl Upstream {
    /// A client that has not called yet. In `heard` it notes how new the parent's answers are.
    pub fn new(
        sys: &Sys,
        client: Client,
        connection: ConnectionString,
        instance_id: String,
        private_ca: bool,
        heard: Arc<AtomicU64>,
    ) -> Upstream {
        let (sys, realm, tokens) = (sys.clone(), Mutex::default(), Mutex::default());
        let (epoch, asked) = (AtomicU64::new(0), AtomicU64::new(0));
        let (parent_start, reads_v2) = (Mutex::default(), AtomicBool::new(false));
        Upstream {
            sys,
            client,
            connection,
            instance_id,
            epoch,
            private_ca,
            realm,
            tokens,
            parent_start,
            reads_v2,
            heard,
            asked,
        }
    }

    /// The connected registry that this node is.
    pub fn name(&self) -> &ConnectedRegistryName {
        &self.connection.name
    }

    /// Changes when the parent is started anew; `None`: it does not tell.
    pub fn parent_start(&self) -> Option<String> {
        lock(&self.parent_start).clone()
    }

    /// Begins a session: the start of the parent that tells this node its desired state next is the
    /// only one that is asked or told anything in it.
    pub fn begin_session(&self) {
        *lock(&self.parent_start) = None;
        self.reads_v2.store(false, Ordering::Relaxed);
        self.heard.store(0, Ordering::Relaxed);
        self.asked.store(0, Ordering::Relaxed);
    }

    /// The highest sequence of the parent's feed that an answer of this session is of; 0: it tells
    /// none.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Tells this connection string from others, without telling what is in it.
    pub fn fingerprint(&self) -> String {
        let ConnectionString { name, sync_token, password, endpoint, protocol, ca_fingerprint } =
            &self.connection;
        let (password, authority) = (password.expose(), ca_fingerprint.as_deref());
        let text = format!("{name} {sync_token} {password} {endpoint} {protocol:?} {authority:?}");
        let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        data_encoding::HEXLOWER.encode(hash.as_ref())
    }

    /// Binds the connected registry to this instance. The second time in a process the parent
    /// refuses that when the connected registry was deactivated since.
    pub async fn activate(
        &self,
        version: &str,
        login_server: &str,
    ) -> Result<ActivationAnswer, UpstreamError> {
        let request = ActivationRequest {
            instance_id: self.instance_id.clone(),
            version: version.to_owned(),
            login_server: login_server.to_owned(),
            accepted_epoch: None,
        };
        let answer = self.post_activation(self.name(), request).await?;
        self.epoch.store(answer.activation_epoch, Ordering::Relaxed);
        Ok(answer)
    }

    /// Reports the activation of a node below this one.
    pub async fn report_activation(
        &self,
        name: &ConnectedRegistryName,
        activation: &Activation,
    ) -> Result<(), UpstreamError> {
        let request = ActivationRequest {
            instance_id: activation.instance_id.clone(),
            version: String::new(),
            login_server: String::new(),
            accepted_epoch: Some(activation.epoch),
        };
        self.post_activation(name, request).await.map(|_| ())
    }

    async fn post_activation(
        &self,
        name: &ConnectedRegistryName,
        request: ActivationRequest,
    ) -> Result<ActivationAnswer, UpstreamError> {
        let response = self.tell(Method::Post, name, "activation", request).await?;
        self.message(response).await
    }

    /// The desired state of this node or one below it, with its version; `None` when it is still
    /// the `known` version.
    pub async fn config(
        &self,
        name: &ConnectedRegistryName,
        known: Option<&str>,
    ) -> Result<Option<(NodeConfig, String)>, UpstreamError> {
        let request = || {
            let request = self.gateway(Method::Get, name, "config");
            match known {
                Some(version) => request.with("if-none-match", format!("\"{version}\"")),
                None => request,
            }
        };
        let response = self.send(&gateway_scope(name), request).await?;
        *lock(&self.parent_start) = response.header(START).map(str::to_owned);
        if response.status == 304 {
            return Ok(None);
        }
        let etag = response.header("etag").map(|etag| etag.trim_matches('"').to_owned());
        let config: NodeConfig =
            self.message(response).await.map_err(|error| of_desired_state(name, error))?;
        if config.node.name != *name {
            return Err(protocol(format!("the parent sent the state of {}", config.node.name)));
        }
        Ok(Some((config, etag.unwrap_or_default())))
    }

    /// A device without a battery goes by the time of its parent until it is told by the network.
    fn hear_time(&self, response: &ClientResponse) {
        let Some(now) = response.header(TIME).and_then(|text| text.parse().ok()) else { return };
        let (clock, now) = (&self.sys.clock, UnixSeconds(now));
        let before = clock.wall();
        clock.hear(now);
        let is_right = |at: UnixSeconds| at.is_past(Some(now)) && now.is_past(Some(at));
        if !clock.is_set() && clock.wall().is_some() && !before.is_some_and(is_right) {
            log::info!("the clock of this machine is not set: the parent says {}", now.rfc3339());
        }
    }

    /// Reports the state of this node or of one below it.
    pub async fn put_status(
        &self,
        name: &ConnectedRegistryName,
        report: &StatusReport,
    ) -> Result<(), UpstreamError> {
        self.tell(Method::Put, name, "status", report.clone()).await.map(|_| ())
    }

    /// The position in the parent's feed before which nothing needs to be told: a full comparison
    /// starts here. And whether the parent has never been where it was when it was last heard of:
    /// `known` is which start of it that was, and the sequence.
    pub async fn feed_head(
        &self,
        known: Option<(String, u64)>,
    ) -> Result<(Cursor, bool), UpstreamError> {
        let call = match known {
            // Its name is letters and digits.
            Some((start, sequence)) if start.starts_with(NOTED) => {
                format!("messages?start={start}&sequence={sequence}")
            }
            _ => "messages".to_owned(),
        };
        let request = || self.gateway(Method::Get, self.name(), &call);
        let received = self.batch(request).await?;
        let head = received.batch.through;
        // A parent of an earlier version tells no more with its other answers.
        self.heard.fetch_max(head.sequence, Ordering::Relaxed);
        Ok((head, received.set_back))
    }

    /// Messages after a position. Waits for some, at most `wait`.
    pub async fn messages(&self, after: Cursor, wait: Duration) -> Result<Received, UpstreamError> {
        let call = format!("messages?after={after}&wait={}", wait.as_secs());
        let request = || {
            let mut request = self.gateway(Method::Get, self.name(), &call);
            request.deadline = wait + REQUEST_DEADLINE;
            request
        };
        self.batch(request).await
    }

    async fn batch(&self, request: impl Fn() -> ClientRequest) -> Result<Received, UpstreamError> {
        let response = self.send(&gateway_scope(self.name()), request).await?;
        let projected = response.header(PROJECTED).map(str::to_owned);
        let set_back = response.header(SET_BACK).is_some();
        let desired = response.header(DESIRED).map(str::to_owned);
        let format = self.format_of(&response)?;
        let bytes = body(response, BODY_BYTES_MAX).await?;
        Ok(Received {
            projected,
            set_back,
            desired,
            ..decode_batch(format, &bytes).map_err(protocol)?
        })
    }

    /// A page of what a repository holds at the parent, and whether the parent itself has not got
    /// all of it yet.
    pub async fn listing(
        &self,
        repository: &RepositoryName,
        last: Option<&Tag>,
    ) -> Result<(Listing, bool), UpstreamError> {
        let call = match last {
            // Neither repository names nor tags hold a character that a URL would change.
            Some(tag) => format!("repositories/{repository}?last={tag}"),
            None => format!("repositories/{repository}"),
        };
        let request = || self.gateway(Method::Get, self.name(), &call);
        let response = self.send(&gateway_scope(self.name()), request).await?;
        let partial = response.header(PARTIAL).is_some();
        let listing: Listing = self.message(response).await.map_err(malformed)?;
        self.heard.fetch_max(listing.at.sequence, Ordering::Relaxed);
        Ok((listing, partial))
    }

    /// Some manifests that the parent has of a repository behind `after`, in the order of their
    /// digests; none when there are no more. `None`: it is of an earlier version, which does not
    /// tell.
    pub async fn manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
    ) -> Result<Option<Vec<Digest>>, UpstreamError> {
        let after = after.map(Digest::to_string).unwrap_or_default();
        let call = format!("repositories/{repository}?manifests={after}");
        let request = || self.gateway(Method::Get, self.name(), &call);
        let response = self.send(&gateway_scope(self.name()), request).await?;
        let format = self.format_of(&response)?;
        let bytes = body(response, BODY_BYTES_MAX).await?;
        match Manifests::read(format, &bytes) {
            Ok(page) => Ok(Some(page.digests)),
            // That one lists what it holds, whatever is asked.
            Err(_) if Listing::read(format, &bytes).is_ok() => Ok(None),
            Err(error) => Err(malformed(protocol(error))),
        }
    }

    /// Tells the parent something, in the second version only if it reads that.
    async fn tell<T: Wire>(
        &self,
        method: Method,
        name: &ConnectedRegistryName,
        call: &str,
        message: T,
    ) -> Result<ClientResponse, UpstreamError> {
        let reads_v2 = self.reads_v2.load(Ordering::Relaxed);
        let format = if reads_v2 { Format::V2 } else { Format::V1 };
        let bytes = message.write(format).map_err(protocol)?;
        let request = || {
            let request = self.gateway(method, name, call);
            let mut request = request.with("content-type", format.content_type());
            request.body = ClientBody::Bytes(bytes.clone());
            request
        };
        let answer = self.send(&gateway_scope(name), request).await;
        if answer.is_err() {
            // A parent of an earlier version may have taken the place of the one before.
            self.reads_v2.store(false, Ordering::Relaxed);
        }
        let answer = answer?;
        UpstreamError::refuse_text(answer.header("content-type"))?;
        Ok(answer)
    }

    /// The message in an answer.
    async fn message<T: Wire>(&self, response: ClientResponse) -> Result<T, UpstreamError> {
        let format = self.format_of(&response)?;
        T::read(format, &body(response, BODY_BYTES_MAX).await?).map_err(protocol)
    }

    /// In what form an answer is, which is the form that the parent is told things in.
    fn format_of(&self, response: &ClientResponse) -> Result<Format, UpstreamError> {
        let content_type = response.header("content-type");
        UpstreamError::refuse_text(content_type)?;
        let format = Format::of(content_type);
        self.reads_v2.store(format == Format::V2, Ordering::Relaxed);
        Ok(format)
    }

    fn gateway(&self, method: Method, name: &ConnectedRegistryName, call: &str) -> ClientRequest {
        let url = format!("{}/gateway/v1/{name}/{call}", self.connection.gateway_url());
        let request = ClientRequest::new(method, url).with("accept", Format::accepted());
        let request = request.with(INSTANCE, self.instance_id.clone());
        match self.epoch.load(Ordering::Relaxed) {
            0 => request,
            epoch => request.with(EPOCH, epoch.to_string()),
        }
    }

    /// `http://host[:port]` of the parent's login server.
    pub(super) async fn login_server(&self) -> Result<String, UpstreamError> {
        Ok(self.realm().await?.origin)
    }

    /// Sends a request with a token for these scopes; once more with a new token when it is
    /// refused, because the old one may have been revoked.
    pub(super) async fn send(
        &self,
        scopes: &[Access],
        request: impl Fn() -> ClientRequest,
    ) -> Result<ClientResponse, UpstreamError> {
        let (token, fresh) = self.bearer(scopes).await?;
        let mut response = self.send_once(request(), &token).await?;
        if response.status == 401 && !fresh {
            lock(&self.tokens).remove(&scope_key(scopes));
            let (token, _) = self.bearer(scopes).await?;
            response = self.send_once(request(), &token).await?;
        }
        let checked = check(response).await;
        if checked.as_ref().is_err_and(is_doubtful) {
            self.forget_realm();
        }
        checked
    }

    /// The login server may have moved, or was named wrong: the gateway is asked again.
    fn forget_realm(&self) {
        if let Some(known) = lock(&self.realm).as_mut() {
            known.until = Duration::ZERO;
        }
    }

    async fn send_once(
        &self,
        request: ClientRequest,
        token: &str,
    ) -> Result<ClientResponse, UpstreamError> {
        self.sys.metrics.sync_requests.add(1);
        let mut request = request.with("authorization", format!("Bearer {token}"));
        let (meant, is_asked) = (self.parent_start(), asks_of_manifests(&request));
        if let Some(start) = &meant {
            request = request.with(START, start.clone());
        }
        let result = self.client.send(request).await;
        if result.is_err() {
            self.forget_realm();
        }
        let response = result?;
        self.hear_time(&response);
        let answers = response.header(START);
        if meant.as_deref().zip(answers).is_some_and(|(meant, answers)| meant != answers) {
            return Err(UpstreamError::StartedAnew);
        }
        // Of a proxy or a portal, where the parent tells with each how new it is: it says nothing
        // of what the parent has.
        let tells = self.asked.load(Ordering::Relaxed) > 0;
        let is_text = UpstreamError::refuse_text(response.header("content-type")).is_err();
        let is_untold = response.status == 404 && response.header(SEQUENCE).is_none();
        if is_asked && is_untold && (tells || is_text) {
            let text = "it is not the parent that answers so".to_owned();
            return Err(UpstreamError::Refused(404, text));
        }
        // Before anybody sees the answer, and takes something from it.
        if let Some(sequence) = response.header(SEQUENCE).and_then(|text| text.parse().ok()) {
            self.heard.fetch_max(sequence, Ordering::Relaxed);
            self.asked.fetch_max(if is_asked { sequence } else { 0 }, Ordering::Relaxed);
        }
        Ok(response)
    }

    /// A token for these scopes, and whether it was given just now.
    async fn bearer(&self, scopes: &[Access]) -> Result<(String, bool), UpstreamError> {
        let key = scope_key(scopes);
        let now = self.sys.clock.monotonic();
        if let Some(bearer) = lock(&self.tokens).get(&key)
            && now < bearer.until
        {
            return Ok((bearer.token.clone(), false));
        }
        let realm = self.realm().await?;
        let asked = self.ask_for_token(&realm, scopes).await;
        if asked.is_err() {
            self.forget_realm();
        }
        let (token, lifetime) = asked?;
        // A token that is good for longer than can be counted is one.
        let until = now.saturating_add(lifetime.saturating_sub(RENEW_BEFORE));
        let mut tokens = lock(&self.tokens);
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(key, Bearer { token: token.clone(), until });
        Ok((token, true))
    }

    /// A new token, and how long it is good for.
    async fn ask_for_token(
        &self,
        realm: &Realm,
        scopes: &[Access],
    ) -> Result<(String, Duration), UpstreamError> {
        let mut url = format!("{}?service={}", realm.url, percent(&realm.service));
        for scope in scopes {
            url.push_str(&format!("&scope={}", percent(&scope.to_string())));
        }
        let user = format!("{}:{}", self.connection.sync_token, self.connection.password.expose());
        let basic = data_encoding::BASE64.encode(user.as_bytes());
        let request =
            ClientRequest::new(Method::Get, url).with("authorization", format!("Basic {basic}"));
        self.sys.metrics.sync_requests.add(1);
        let response = self.client.send(request).await?;
        if response.status == 401 {
            return Err(UpstreamError::Unauthorized(error_text(response).await.1));
        }
        let bytes = body(check(response).await?, SMALL_BODY_BYTES_MAX).await?;
        let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(protocol)?;
        let token = answer.access_token.or(answer.token);
        let token = token.ok_or_else(|| protocol("the parent's answer holds no token"))?;
        // RFC 6750 gives no default; Docker's is 60 seconds, which leaves nothing to keep.
        Ok((token, Duration::from_secs(answer.expires_in.unwrap_or(60))))
    }

    async fn realm(&self) -> Result<Realm, UpstreamError> {
        let now = self.sys.clock.monotonic();
        if let Some(known) = &*lock(&self.realm)
            && now < known.until
        {
            return Ok(known.realm.clone());
        }
        let request = self.gateway(Method::Get, self.name(), "config");
        self.sys.metrics.sync_requests.add(1);
        let response = self.client.send(request).await?;
        if response.status != 401 {
            let (status, text) = error_text(response).await;
            return Err(UpstreamError::instead_of_login(status, text, &self.connection.endpoint));
        }
        let challenge = response.header("www-authenticate").unwrap_or_default();
        let realm = parse_challenge(challenge).ok_or_else(|| {
            let text = "what answers asks for a login and names no token server";
            UpstreamError::NoGateway(text.to_owned())
        })?;
        if let Some(why) = self.distrusts(&realm.origin) {
            let origin = &realm.origin;
            let text = format!("the gateway names {origin} as its login server, which {why}");
            return Err(protocol(text));
        }
        let known = Known { realm: realm.clone(), until: now + REALM_LIFETIME };
        let old = lock(&self.realm).replace(known);
        if old.is_none_or(|old| old.realm != realm) {
            log::debug!("the parent's login server is named {}", realm.origin);
            // What another one gave is good for nothing here.
            lock(&self.tokens).clear();
        }
        Ok(realm)
    }

    /// Why the password does not go there: it goes to the gateway's host, or to whom a configured
    /// private CA certifies; and never without TLS when the gateway has it.
    fn distrusts(&self, origin: &str) -> Option<&'static str> {
        let secure = origin.starts_with("https://");
        if self.connection.protocol == Protocol::Https && !secure {
            return Some("has no TLS, while the gateway has it: no password is sent there");
        }
        let host = host_of(&self.connection.gateway_url());
        let known = host.is_some() && host == host_of(origin) || (secure && self.private_ca);
        (!known).then_some("is neither on its host nor certified by a configured CA")
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    token: Option<String>,
    expires_in: Option<u64>,
}

fn gateway_scope(name: &ConnectedRegistryName) -> [Access; 1] {
    let actions = GatewayAction::ALL.map(GatewayAction::scope_name);
    [Access::new("gateway", name.as_str(), &actions)]
}

fn scope_key(scopes: &[Access]) -> String {
    scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a whole value behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads `Bearer realm="...",service="..."`.
pub(super) fn parse_challenge(text: &str) -> Option<Realm> {
    let (scheme, mut rest) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut url, mut service) = (None, None);
    while let Some((name, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        match name.trim_matches([' ', ',']) {
            "realm" => url = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = after;
    }
    let url = url?;
    let (scheme, authority) = url.split_once("://")?;
    let authority = authority.split(['/', '?']).next().filter(|authority| !authority.is_empty())?;
    let known = ["http", "https"].contains(&scheme) && !url.contains('?');
    let origin = format!("{scheme}://{authority}");
    known.then(|| Realm { origin, service: service.unwrap_or_default(), url })
}

/// What is not reserved in a URL (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes a query value.
pub(super) fn percent(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// The scope of pulls from a repository, and of pushes and deletes where they are needed.
pub(super) fn repository_scope(repository: &RepositoryName, write: bool) -> [Access; 1] {
    let actions: &[&str] = if write { &["pull", "push", "delete"] } else { &["pull"] };
    [Access::new("repository", repository.as_str(), actions)]
}

/// Reads the digest that a registry names in a header.
pub(super) fn digest_header(response: &ClientResponse, name: &str) -> Option<Digest> {
    response.header(name)?.parse().ok()
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::testing::{parent, parent_with_tokens, upstream};
    use super::*;
    use crate::sys::Clock;
    use crate::types::UnixSeconds;
    use crate::types::connected_registry::ConnectionState;

    fn report() -> StatusReport {
        StatusReport {
            version: "1".to_owned(),
            login_server: "dock.example:5000".to_owned(),
            tls: false,
            state: ConnectionState::Online,
            details: Vec::new(),
            last_sync: None,
        }
    }

    #[test]
    fn a_token_that_is_refused_is_replaced_once() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        // The second request finds the first token void; nothing pleases the fourth.
        let upstream = parent(move |_, token| {
            let mut heard = lock(&heard);
            heard.push(token.split(' ').next().unwrap().to_owned());
            let refused = heard.len() == 2 || heard.len() > 3;
            (if refused { 401 } else { 204 }, Vec::new())
        });
        smol::block_on(async {
            let name = upstream.name().clone();
            for _ in 0..2 {
                assert_eq!(upstream.put_status(&name, &report()).await, Ok(()));
            }
            let refused = upstream.put_status(&name, &report()).await;
            assert!(refused.is_err());
        });
        assert_eq!(*lock(&asked), ["1", "1", "2", "2", "3"]);
    }

    /// A day after the start.
    struct Late;

    impl Clock for Late {
        fn wall(&self) -> Option<UnixSeconds> {
            None
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(86_400)
        }
    }

    #[test]
    fn a_token_that_is_good_for_as_long_as_can_be_said_is_used() {
        let mut upstream = parent_with_tokens(u64::MAX, |_, token| {
            (if token.starts_with("1 ") { 204 } else { 403 }, Vec::new())
        });
        upstream.sys.clock = Arc::new(Late);
        smol::block_on(async {
            let name = upstream.name().clone();
            for _ in 0..2 {
                assert_eq!(upstream.put_status(&name, &report()).await, Ok(()));
            }
        });
    }

    #[test]
    fn a_token_is_used_for_what_it_was_given_for() {
        let upstream = parent(|path, token| {
            let name = path.split('/').nth(3).unwrap_or_default();
            let fits = token.contains(&format!("gateway%3A{name}%3A"));
            (if fits { 204 } else { 403 }, Vec::new())
        });
        smol::block_on(async {
            for name in ["dock01", "ship01", "dock01"] {
                let name = name.parse().unwrap();
                assert_eq!(upstream.put_status(&name, &report()).await, Ok(()), "{name}");
            }
        });
    }

    #[test]
    fn challenges_are_read() {
        let realm = parse_challenge(concat!(
            r#"Bearer realm="https://reg.example:5000/oauth2/token","#,
            r#"service="reg.example:5000",scope="gateway:dock01:config_read,config_write""#,
        ));
        let expected = Realm {
            url: "https://reg.example:5000/oauth2/token".to_owned(),
            origin: "https://reg.example:5000".to_owned(),
            service: "reg.example:5000".to_owned(),
        };
        assert_eq!(realm, Some(expected));
        for bad in [
            "",
            "Basic realm=\"x\"",
            "Bearer",
            "Bearer realm=\"nonsense\"",
            "Bearer realm=\"ftp://a/b\"",
            "Bearer realm=\"http:///b\"",
            "Bearer service=\"a\"",
            "Bearer realm=\"http://a/b",
        ] {
            assert_eq!(parse_challenge(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_password_goes_to_the_gateways_host_only() {
        for (endpoint, protocol, ca, origin, accepted) in [
            ("reg.example:5001", "http", false, "http://reg.example:5000", true),
            ("reg.example:5001", "http", false, "https://REG.example:5000", true),
            ("reg.example:5001", "https", false, "http://reg.example:5000", false),
            ("reg.example:5001", "https", false, "https://other.example", false),
            ("reg.example:5001", "https", true, "https://other.example", true),
            ("reg.example:5001", "http", true, "http://other.example", false),
            ("[::1]:5001", "http", false, "http://[::1]:5000", true),
            ("reg.example", "http", false, "http://reg.example.evil", false),
            ("[FD00:9:0::1]:5001", "http", false, "http://[fd00:9::1]:5000", true),
            ("[::ffff:10.9.0.1]:5001", "http", false, "http://[::ffff:a09:1]:5000", true),
            ("[::ffff:10.9.0.1]:5001", "http", false, "http://10.9.0.1:5000", true),
            ("10.9.0.1:5001", "http", false, "http://10.9.0.2:5000", false),
        ] {
            let upstream = upstream(endpoint, protocol, ca);
            assert_eq!(upstream.distrusts(origin).is_none(), accepted, "{endpoint} {origin}");
        }
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(
            percent("gateway:dock01:config_read,x y"),
            "gateway%3Adock01%3Aconfig_read%2Cx%20y"
        );
    }
}

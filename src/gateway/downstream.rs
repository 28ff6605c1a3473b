//! What a parent answers to its children: the root and every connected registry alike.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use smol::future::FutureExt;

use super::call::{Call, DESIRED, EPOCH, INSTANCE, NOTED, PROJECTED, SET_BACK, START, TIME, route};
use super::contacts::Contacts;
use super::directory::Directory;
use super::feed::{project, referrer_of_key};
use super::instances::{self, Authority};
use super::told;
use super::wire::{Format, Wire, WireError, encode_batch};
use crate::auth::{Auth, Presented, Principal};
use crate::http::{Account, Reply, Request, Sender};
use crate::store::rows::referrer::ReferrerRow;
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError};
use crate::sys::spawn::{self, yield_now};
use crate::types::connected_registry::{Activation, StatusReport, is_instance_id};
use crate::types::cursor::SEQUENCE;
use crate::types::limits::{PAGE_MAX, POLL_WAIT_MAX, SMALL_BODY_BYTES_MAX};
use crate::types::message::{
    ActivationAnswer, ActivationRequest, Batch, Item, Listing, Manifests, Message, TagEntry,
};
use crate::types::refusal::PARTIAL;
use crate::types::{
    ConnectedRegistry, ConnectedRegistryName, Cursor, Digest, GatewayAction, Reason, Refusal,
    RepositoryName, Role, Tag,
};

/// Journal that one batch of messages is made of, bytes: a batch stays far below the largest body.
const BATCH_BYTES: usize = 256 * 1024;

/// No child has seen that the state was set back; behind every place in a feed.
const NOT_SET_BACK: u64 = u64::MAX;

/// Referrers in one listing. Over it the rest is left to the messages of later pushes; a
/// repository with that many does not occur.
const REFERRERS_MAX: usize = 50_000;

/// ACR's words (ACR, "Troubleshoot the connected registry").
const ALREADY_ACTIVATED: &str = "Failed to activate the connected registry as it is already \
                                 activated by another instance. Only one instance is supported at \
                                 any time.";

/// What this node is.
pub struct GatewayOptions {
    /// The root, or a connected registry with children of its own.
    pub role: Role,
    /// The name of the root; a connected registry passes on what it was sent.
    pub registry: String,
    /// Shared with whoever shows the state of children.
    pub contacts: Arc<Contacts>,
}

/// Answers the gateway's calls.
pub struct Gateway {
    store: Store,
    auth: Auth,
    directory: Directory,
    contacts: Arc<Contacts>,
    told: told::Told,
    /// Random: children see that this node was started anew.
    start: String,
    /// Whether the store remembers that.
    start_noted: AtomicBool,
    /// A child has seen in this start that the state was set back: how far, in the feed of this
    /// node's parent. [`NOT_SET_BACK`]: none has.
    set_back: AtomicU64,
}

impl Gateway {
    /// A gateway over this store.
    pub fn new(store: Store, auth: Auth, options: GatewayOptions) -> Gateway {
        let directory = Directory::new(store.clone(), options.role, options.registry);
        let told = told::Told::default();
        let contacts = options.contacts;
        // The letter says that starts are remembered: earlier versions told of theirs too.
        let start = format!("{NOTED}{:016x}", store.sys().rng.number());
        let start_noted = AtomicBool::new(false);
        let set_back = AtomicU64::new(NOT_SET_BACK);
        Gateway { store, auth, directory, contacts, told, start, start_noted, set_back }
    }

    /// The answer to a request, here or to the registry, that was meant for an earlier start of
    /// this node: who sent it believes to know what this node has, which may have been restored
    /// since.
    pub fn refuse_earlier(&self, request: &Request) -> Option<Reply> {
        let meant = request.header(START).filter(|start| *start != self.start)?;
        let message = format!("The node was started anew; the request is meant for {meant}.");
        let refusal = Refusal::new(409, "DENIED", Reason::StartedAnew, message);
        Some(Reply::from(refusal).with(START, self.start.clone()))
    }

    /// Answers one request below `/gateway/v1/`.
    pub async fn handle(&self, request: &mut Request) -> Reply {
        match self.answer(request).await {
            Ok(reply) => reply,
            Err(refusal) => refusal.into(),
        }
    }

    async fn answer(&self, request: &mut Request) -> Result<Reply, Refusal> {
        let (name, call) = route(request.method, &request.path)?;
        let caller = self.admit(request, &name, call.action())?;
        // An activation decides itself which instance is the one.
        if caller.itself && !matches!(call, Call::Activation) {
            self.note_contact(&caller.node).await;
        }
        let to = caller.sender();
        let reply = match call {
            Call::Activation => self.activation(request, &caller).await,
            Call::Config => self.config(request, &caller).await,
            Call::Status => self.status(request, &caller).await,
            Call::Messages => self.messages(request, &caller).await,
            Call::Repository(name) => self.repository(request, &caller, &name).await,
        };
        let now = self.store.sys().clock.wall().map(|now| now.0.to_string());
        reply.map(|reply| now.into_iter().fold(reply.to(to), |reply, now| reply.with(TIME, now)))
    }

    /// Who asks must be the connected registry itself or stand above it, with a scope map that
    /// names the action.
    fn admit(
        &self,
        request: &Request,
        name: &ConnectedRegistryName,
        action: GatewayAction,
    ) -> Result<Caller, Refusal> {
        let presented = Presented {
            authorization: request.header("authorization"),
            host: request.host.as_deref(),
            secure: request.secure,
            is_operator: false,
            peer: request.peer.ip(),
        };
        let authorized = self.auth.gateway(&presented, name, action)?;
        let node = self.store.node_below(name).map_err(fault)?.ok_or_else(|| unknown(name))?;
        let Principal::Child(child) = &authorized.principal else {
            return Err(denied());
        };
        let itself = child == name;
        if !itself && !self.store.is_ancestor(child, name).map_err(fault)? {
            return Err(denied());
        }
        // An activation decides itself which instance is the one.
        let activates =
            action == GatewayAction::ConfigWrite && request.path.ends_with("/activation");
        if itself && !activates {
            self.check_instance(request, &node)?;
        } else if !itself {
            // Only the active instance of a node speaks for those below it.
            let speaker = self.store.node_below(child).map_err(fault)?;
            self.check_instance(request, &speaker.ok_or_else(|| unknown(child))?)?;
        }
        Ok(Caller { node, itself })
    }

    /// The active instance of a node has called.
    async fn note_contact(&self, node: &ConnectedRegistry) {
        self.contacts.touch(&node.name);
        if let Err(error) = instances::record_contact(&self.store, node).await {
            log::debug!("the contact with {} is not stored: {error}", node.name);
        }
    }

    /// An instance that names itself must be the one that is active.
    fn check_instance(&self, request: &Request, node: &ConnectedRegistry) -> Result<(), Refusal> {
        let Some(instance) = request.header(INSTANCE) else {
            return Ok(());
        };
        match self.store.activation(&node.name).map_err(fault)? {
            Some(active) if active.epoch < node.activation_epoch => Err(not_activated()),
            Some(active) if active.instance_id != instance => Err(already_activated()),
            Some(_) => Ok(()),
            None if was_deactivated(request, node) => Err(not_activated()),
            // This node may have taken the place of another one: no record is no deactivation.
            None => Err(activation_unknown()),
        }
    }

    async fn activation(&self, request: &mut Request, caller: &Caller) -> Result<Reply, Refusal> {
        let asked: ActivationRequest = read(request, caller).await?;
        if !is_instance_id(&asked.instance_id) {
            return Err(malformed("the instance id is not 1 to 64 visible characters"));
        }
        let epoch = match asked.accepted_epoch {
            Some(accepted) if !caller.itself => accepted,
            None if caller.itself => caller.node.activation_epoch,
            _ => return Err(malformed("an activation is asked for by its own connected registry")),
        };
        // An instance that activates itself again is not the operator who starts it again.
        if caller.itself && was_deactivated(request, &caller.node) {
            return Err(not_activated());
        }
        let name = &caller.node.name;
        let at = self.store.sys().clock.wall_or_floor();
        let activation = Activation { epoch, instance_id: asked.instance_id, at };
        let authority = if caller.itself { Authority::Here } else { Authority::Below };
        match instances::activate(&self.store, caller.node.clone(), activation, authority).await {
            Ok(()) => {}
            Err(StoreError::NotFound) => return Err(unknown(name)),
            Err(StoreError::Conflict(_)) => {
                log::warn!("refused a second instance of connected registry {name}");
                return Err(already_activated());
            }
            Err(error) => return Err(fault(error)),
        }
        if caller.itself {
            self.note_contact(&caller.node).await;
            log::info!("connected registry {name} is active (version {})", asked.version);
        }
        respond(request, ActivationAnswer { activation_epoch: epoch, feed: self.store.head() })
    }

    async fn config(&self, request: &Request, caller: &Caller) -> Result<Reply, Refusal> {
        let name = &caller.node.name;
        let found = self.directory.config(name).await.map_err(fault)?;
        let found = found.ok_or_else(|| unknown(name))?;
        let etag = format!("\"{}\"", found.version);
        if caller.itself {
            self.contacts.tell(&found.config.node);
            self.told.set(name, found.version);
        }
        let is_known = request.header("if-none-match").is_some_and(|value| value == etag);
        let reply = if is_known { Reply::new(304) } else { respond(request, found.config)? };
        let reply = reply.with("etag", etag);
        // A store that remembers nothing more tells of no start.
        match self.note_start().await {
            Ok(()) => Ok(reply.with(START, self.start.clone())),
            Err(_) => Ok(reply),
        }
    }

    /// Remembers this start, before a child hears of it and before anything else is changed in it.
    pub async fn note_start(&self) -> Result<(), StoreError> {
        if !self.start_noted.load(Ordering::Relaxed) {
            self.store.note_start(&self.start).await?;
            self.start_noted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn status(&self, request: &mut Request, caller: &Caller) -> Result<Reply, Refusal> {
        let report: StatusReport = read(request, caller).await?;
        match instances::record_status(&self.store, caller.node.clone(), report).await {
            Ok(()) => Ok(Reply::new(204)),
            Err(StoreError::NotFound) => Err(unknown(caller.name())),
            Err(error) => Err(fault(error)),
        }
    }

    /// The next messages after the position in `after`, or, without one, the position to start
    /// from. Waits for some, at most `wait` seconds; the waiter is gone when the client goes.
    async fn messages(&self, request: &Request, caller: &Caller) -> Result<Reply, Refusal> {
        let Some(after) = request.query("after") else {
            // A child that has heard of what is not shown yet would take this for a state before.
            self.store.shown(self.store.reached()).await;
            let head = self.store.head();
            let end = Batch { from: head, through: head, items: vec![] };
            let reply = respond_batch(request, end)?;
            let known = request.query("start").zip(request.query("sequence"));
            let Some((start, at)) = known.and_then(|(start, at)| Some((start, at.parse().ok()?)))
            else {
                return Ok(reply);
            };
            if self.store.has_been_at(start, at).map_err(fault)? {
                return Ok(reply);
            }
            self.was_set_back(caller, start).await.map_err(fault)?;
            return Ok(reply.with(SET_BACK, "1".to_owned()));
        };
        let from: Cursor = after.parse().map_err(|()| malformed("'after' is no position"))?;
        let wait = match request.query("wait").map(str::parse::<u64>) {
            None => Duration::ZERO,
            Some(Ok(seconds)) => Duration::from_secs(seconds).min(POLL_WAIT_MAX),
            Some(Err(_)) => return Err(malformed("'wait' is no number of seconds")),
        };
        let _polling =
            (caller.itself && !wait.is_zero()).then(|| self.contacts.poll(caller.name()));
        let clock = &self.store.sys().clock;
        let deadline = clock.monotonic() + wait;
        let (mut through, mut projected) = (from, BTreeSet::new());
        let unwritten_before = self.store.unwritten_version(caller.name());
        loop {
            let next_unwritten = self.store.next_unwritten();
            let unwritten = self.store.unwritten_version(caller.name());
            let items = self.next_items(&mut through, caller, &mut projected).await?;
            let remaining = deadline.saturating_sub(clock.monotonic());
            let is_over = remaining.is_zero() || self.store.stopping();
            let is_told = !items.is_empty() || projected.len() > 1;
            if is_told || is_over || unwritten != unwritten_before {
                let mut reply = respond_batch(request, Batch { from, through, items })?;
                if unwritten.is_some() {
                    let version = self.directory.version(caller.name(), 0).await.map_err(fault)?;
                    reply = reply.with(DESIRED, version.unwrap_or_default());
                }
                // Several are none that the child can have.
                let scopes: Vec<String> = projected.into_iter().collect();
                return Ok(reply.with(PROJECTED, scopes.join(" ")));
            }
            // A long stretch may have nothing for children: it is not waited for at its end only.
            if through.sequence < self.store.head().sequence {
                yield_now().await;
                continue;
            }
            let news = async {
                self.store.news_after(through.sequence, remaining).await;
                false
            };
            let heard = async {
                next_unwritten.await;
                false
            };
            let hung_up = async {
                request.body.gone().await;
                true
            };
            if news.or(heard).or(hung_up).await {
                // Nobody reads this.
                return respond_batch(request, Batch { from, through, items });
            }
        }
    }

    /// A node that has a parent compares with it before its children offer it anything: once in
    /// each start, and again for a child that knows of a state which it parted from still earlier.
    async fn was_set_back(&self, caller: &Caller, start: &str) -> Result<(), StoreError> {
        let parted = self.store.parted_at(start)?;
        let at = parted.map_or(NOT_SET_BACK - 1, |parted| parted.sequence);
        if at < self.set_back.load(Ordering::Relaxed) {
            let child = caller.name();
            log::warn!("{child} knows a later state: set back, or {child} had another parent");
            self.store.note_set_back(parted).await?;
            self.set_back.fetch_min(at, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What the next stretch of the journal means to this child; moves the position over it.
    async fn next_items(
        &self,
        through: &mut Cursor,
        caller: &Caller,
        projected: &mut BTreeSet<String>,
    ) -> Result<Vec<Item>, Refusal> {
        let records = match self.store.records_after(*through, BATCH_BYTES).await {
            Ok(records) => records,
            Err(StoreError::NotFound) => return Err(gone()),
            Err(error) => return Err(fault(error)),
        };
        *through = records.through;
        let name = caller.name();
        // The grants of this moment: a change of them is told as a change of the desired state. If
        // they are as before when the child asks for that, it sees that they were others here.
        let node = self.store.node_below(name).map_err(fault)?.ok_or_else(|| unknown(name))?;
        let scope = self.directory.scope(&node).map_err(fault)?;
        projected.insert(scope.fingerprint());
        let (mut items, mut management) = (Vec::new(), None);
        for (sequence, changes) in &records.records {
            let projection = project(changes, &scope).map_err(fault)?;
            let item = |message| Item { sequence: *sequence, message };
            items.extend(projection.messages.into_iter().map(item));
            if projection.purged {
                // The child takes this for grants that are not its own, and compares everything:
                // once for each removal.
                projected.insert(format!("purged-{sequence}"));
            }
            if projection.management {
                management = Some(*sequence);
            }
        }
        if let Some(sequence) = management {
            let version = self.directory.version(name, sequence).await.map_err(fault)?;
            if !caller.itself || self.told.get(name) != version {
                let message = Message::ConfigChanged { name: name.clone() };
                items.push(Item { sequence: through.sequence, message });
            }
        }
        Ok(items)
    }

    /// A page of what a repository holds, for a full comparison: tags, or, with `manifests`, what
    /// manifests there are behind that one. A repository that does not exist yet is empty.
    async fn repository(
        &self,
        request: &Request,
        caller: &Caller,
        repository: &RepositoryName,
    ) -> Result<Reply, Refusal> {
        let scope = self.directory.scope(&caller.node).map_err(fault)?;
        if !scope.covers(repository) {
            let message = format!("The repository {repository} is not granted.");
            return Err(Refusal::new(404, "NAME_UNKNOWN", Reason::NotInSyncScope, message));
        }
        if let Some(after) = request.query("manifests") {
            let after = match after {
                "" => None,
                text => Some(text.parse().map_err(|_| malformed("'manifests' is no digest"))?),
            };
            let (store, repository) = (self.store.clone(), repository.clone());
            let behind = move || store.manifests_behind(&repository, after.as_ref(), PAGE_MAX);
            let digests = spawn::blocking(behind).await.map_err(fault)?;
            return respond(request, Manifests { digests });
        }
        // Taken before the rows are read: the listing is not older than this.
        let at = self.store.head();
        let is_partial = || self.store.is_partial(repository).map_err(fault);
        let was_partial = is_partial()?;
        let last = request.query("last");
        let rows = self.store.tags(repository, last, PAGE_MAX).map_err(fault)?;
        let next =
            if rows.len() == PAGE_MAX { rows.last().map(|(tag, _)| tag.clone()) } else { None };
        let entry = |(tag, row): (Tag, crate::store::TagRow)| TagEntry { tag, digest: row.digest };
        let tags = rows.into_iter().map(entry).collect();
        let referrers = if next.is_none() { self.referrers(repository).await? } else { vec![] };
        let reply = respond(request, Listing { at, tags, referrers, next })?;
        // What came after the rows were read, and made it whole, is not among them.
        let partial = was_partial || is_partial()?;
        // Read after the rows: the listing is not newer than this.
        let reply = reply.with(SEQUENCE, self.store.reached().to_string());
        Ok(if partial { reply.with(PARTIAL, "1".to_owned()) } else { reply })
    }

    async fn referrers(&self, repository: &RepositoryName) -> Result<Vec<Digest>, Refusal> {
        let start = prefix(Kind::Referrer, &[repository.as_str().as_bytes()]);
        let mut pages = self.store.pages::<ReferrerRow>(start);
        let mut digests: Vec<Digest> = Vec::new();
        while digests.len() < REFERRERS_MAX {
            let page = pages.next().await.map_err(fault)?;
            if page.is_empty() {
                break;
            }
            digests.extend(page.iter().filter_map(|(key, _)| referrer_of_key(key, repository)));
        }
        digests.sort_unstable();
        digests.dedup();
        Ok(digests)
    }
}

/// Who is served, and whether it is the node itself or one above it that asks.
struct Caller {
    node: ConnectedRegistry,
    itself: bool,
}

impl Caller {
    fn name(&self) -> &ConnectedRegistryName {
        &self.node.name
    }

    /// As the bounds of bodies and replies see it.
    fn sender(&self) -> Sender {
        Sender::LoggedIn(Account::of(self.node.name.as_str()))
    }
}

async fn read<T: Wire>(request: &mut Request, caller: &Caller) -> Result<T, Refusal> {
    let format = Format::of(request.header("content-type"));
    let body = request.body.receive(caller.sender(), SMALL_BODY_BYTES_MAX);
    let bytes = body.await.map_err(|error| error.refusal("UNSUPPORTED"))?;
    T::read(format, &bytes).map_err(|error| malformed(&error.to_string()))
}

fn respond<T: Wire>(request: &Request, message: T) -> Result<Reply, Refusal> {
    respond_with(request, |format| message.write(format))
}

fn respond_batch(request: &Request, batch: Batch) -> Result<Reply, Refusal> {
    respond_with(request, |format| encode_batch(format, batch))
}

fn respond_with(
    request: &Request,
    write: impl FnOnce(Format) -> Result<Vec<u8>, WireError>,
) -> Result<Reply, Refusal> {
    let format = Format::asked(request.header("accept"));
    let bytes = write(format).map_err(|error| fault(StoreError::Io(error.to_string())))?;
    Ok(Reply::bytes(200, format.content_type(), bytes))
}

fn unknown(name: &ConnectedRegistryName) -> Refusal {
    let message = format!("The connected registry '{name}' is not below this registry.");
    Refusal::new(404, "NAME_UNKNOWN", Reason::NotFound, message)
}

fn denied() -> Refusal {
    let message = "Only a connected registry and those above it use its gateway.";
    Refusal::new(403, "DENIED", Reason::NotInScopeMap, message)
}

fn already_activated() -> Refusal {
    Refusal::new(409, "ALREADY_ACTIVATED", Reason::AlreadyActivated, ALREADY_ACTIVATED)
}

fn not_activated() -> Refusal {
    let message = "The connected registry was deactivated. Restart this instance to activate it \
                   again, or remove it if another one is to take its place.";
    Refusal::new(409, "NOT_ACTIVATED", Reason::NotActivated, message)
}

fn activation_unknown() -> Refusal {
    let message = "This parent has no record of the instance: activate it again.";
    Refusal::new(409, "ACTIVATION_UNKNOWN", Reason::NotActivated, message)
}

/// Whether the epoch has been raised since the instance that asks was activated.
fn was_deactivated(request: &Request, node: &ConnectedRegistry) -> bool {
    let epoch = request.header(EPOCH).and_then(|text| text.parse::<u64>().ok());
    epoch.is_some_and(|epoch| epoch < node.activation_epoch)
}

fn gone() -> Refusal {
    let message = "This position in the feed is unknown or too old: compare everything.";
    Refusal::new(410, "UNKNOWN", Reason::FeedGone, message)
}

fn malformed(text: &str) -> Refusal {
    let message = format!("The request is malformed: {text}.");
    Refusal::new(400, "UNSUPPORTED", Reason::Malformed, message)
}

/// A fault of ours: the detail is for the log.
#[allow(clippy::needless_pass_by_value, reason = "it ends the error's way, in map_err")]
fn fault(error: StoreError) -> Refusal {
    // Why nothing can be written is in the log once, and each child calls every few seconds.
    let is_known = matches!(
        error,
        StoreError::Unavailable | StoreError::NewerFormat(_) | StoreError::Rebuilding(_)
    );
    let level = if is_known { log::Level::Debug } else { log::Level::Warn };
    log::log!(level, "the gateway cannot answer: {error}");
    let (status, reason) = match error {
        StoreError::Full => (507, Reason::DiskReserve),
        StoreError::IndexFull => (507, Reason::IndexFull),
        StoreError::Corrupt(_) => (500, Reason::ContentDamaged),
        _ => (503, Reason::StoreUnavailable),
    };
    let mut refusal =
        Refusal::new(status, "UNKNOWN", reason, "The gateway cannot answer just now.");
    refusal.retry_after_s = Some(5);
    refusal
}

#[cfg(test)]
mod tests {
    mod middle;
    mod poll;

    use super::*;
    use crate::auth::{AuthOptions, LoginListener, LoginServer, keys};
    use crate::http::{Body, Method};
    use crate::store::tree::connected_registries::Settings;
    use crate::store::tree::creation::NewConnectedRegistry;
    use crate::sys::net::Peer;
    use crate::sys::{Spawner, Sys};
    use crate::types::UnixSeconds;

    fn request(method: Method, path: &str) -> Request {
        Request {
            method,
            path: path.to_owned(),
            query: vec![],
            headers: vec![],
            host: None,
            peer: Peer::Local(None),
            secure: false,
            is_operator: false,
            body: Body::empty(),
        }
    }

    /// A root with the connected registry `dock01`; what its sync token presents.
    async fn root() -> (Store, Gateway, String) {
        let sys = Sys::real(Spawner::new());
        let store = Store::in_memory(sys.clone());
        let new = NewConnectedRegistry {
            name: "dock01".parse().unwrap(),
            mode: None,
            parent: None,
            repositories: vec!["app".parse().unwrap()],
            sync_token: None,
            client_tokens: Vec::new(),
            settings: Settings::default(),
        };
        let passwords = store.connected_registry_create(new).await.unwrap().0.passwords;
        let user = format!("dock01:{}", passwords[0].value.expose());
        let options = AuthOptions {
            role: Role::Root,
            registry_name: "myregistry".into(),
            login_server: LoginServer {
                listeners: vec![LoginListener { address: ([0, 0, 0, 0], 5000).into(), tls: false }],
                ..LoginServer::default()
            },
            access_lifetime: Duration::from_secs(600),
            refresh_lifetime: Duration::from_secs(600),
            anonymous_pull: Vec::new(),
            identity: keys::make().unwrap(),
        };
        let auth = Auth::new(store.clone(), options).unwrap();
        let options = GatewayOptions {
            role: Role::Root,
            registry: "myregistry".to_owned(),
            contacts: Contacts::new(&sys),
        };
        let gateway = Gateway::new(store.clone(), auth, options);
        let basic = data_encoding::BASE64.encode(user.as_bytes());
        (store, gateway, format!("Basic {basic}"))
    }

    /// Makes the instance `one` that of `dock01`.
    async fn activate(store: &Store) -> ConnectedRegistryName {
        let name: ConnectedRegistryName = "dock01".parse().unwrap();
        let epoch = store.connected_registry(&name).unwrap().unwrap().activation_epoch;
        let activation = Activation { epoch, instance_id: "one".into(), at: UnixSeconds(1) };
        store.record_activation(name.clone(), activation).await.unwrap();
        name
    }

    #[test]
    fn f031_f033_who_asks_must_be_the_instance_that_is_active_now() {
        smol::block_on(async {
            let (store, gateway, authorization) = root().await;
            let name: ConnectedRegistryName = "dock01".parse().unwrap();
            let now = store.connected_registry(&name).unwrap().unwrap().activation_epoch;
            let ask = async |instance: &str| {
                let mut request = request(Method::Get, "/gateway/v1/dock01/config");
                request.host = Some("reg.example:5001".to_owned());
                for (name, value) in [("authorization", &*authorization), (INSTANCE, instance)] {
                    request.headers.push((name.to_owned(), value.to_owned()));
                }
                gateway.answer(&mut request).await.map_err(|refusal| refusal.reason)
            };
            let reason = async |instance: &str| ask(instance).await.err();
            assert_eq!(reason("one").await, Some(not_activated().reason));
            for (epoch, expected) in [
                (now, [None, Some(already_activated().reason)]),
                (now - 1, [Some(not_activated().reason); 2]),
            ] {
                let at = UnixSeconds(1);
                let activation = Activation { epoch, instance_id: "one".to_owned(), at };
                store.record_activation(name.clone(), activation).await.unwrap();
                assert_eq!([reason("one").await, reason("two").await], expected, "{epoch}");
            }
        });
    }

    #[test]
    fn f034_f212_a_refused_instance_is_no_contact() {
        smol::block_on(async {
            let (store, gateway, authorization) = root().await;
            let name = activate(&store).await;
            let ask = async |method, call: &str, instance: &str| {
                let mut request = request(method, &format!("/gateway/v1/dock01/{call}"));
                let asked = ActivationRequest {
                    instance_id: instance.to_owned(),
                    version: "1".to_owned(),
                    login_server: "dock.example:5000".to_owned(),
                    accepted_epoch: None,
                };
                let bytes = asked.write(Format::Json).unwrap();
                let len = Some(bytes.len() as u64);
                request.body = Body::new(smol::io::Cursor::new(bytes), len);
                request.host = Some("reg.example:5001".to_owned());
                for (name, value) in [
                    ("authorization", &*authorization),
                    (INSTANCE, instance),
                    ("content-type", "application/json"),
                ] {
                    request.headers.push((name.to_owned(), value.to_owned()));
                }
                let refused = gateway.answer(&mut request).await.err();
                let is_seen = gateway.contacts.last_seen(&name, None).is_some();
                (refused.map(|refusal| refusal.reason), is_seen)
            };
            let refused = (Some(Reason::AlreadyActivated), false);
            assert_eq!(ask(Method::Post, "activation", "two").await, refused);
            assert_eq!(ask(Method::Get, "config", "two").await, refused);
            assert_eq!(ask(Method::Post, "activation", "one").await, (None, true));
        });
    }

    #[test]
    fn f201_a_node_that_was_set_back_is_not_whole_until_it_has_compared_with_its_parent() {
        smol::block_on(async {
            let (store, gateway, authorization) = root().await;
            store.stand(Role::Connected, true);
            activate(&store).await;
            let app = "app".parse().unwrap();
            let compare = async || {
                store.mark_synced(&app, true).await.unwrap();
                store.note_compared().await.unwrap();
                store.reconciled(store.head()).await.unwrap();
            };
            for start in ["nfirst", "nsecond", "nknown"] {
                compare().await;
                store.note_start(start).await.unwrap();
            }
            for (start, sequence, is_known, is_due) in [
                ("nknown", "1", true, false),
                ("nother", "1", false, true),
                ("nother", "1", false, false),
                // It was set back behind that, before the second one: that is earlier.
                ("nfirst", "999", false, true),
                ("nfirst", "999", false, false),
            ] {
                let mut request = request(Method::Get, "/gateway/v1/dock01/messages");
                request.query = [("start", start), ("sequence", sequence)]
                    .map(|(n, v)| (n.into(), v.into()))
                    .into();
                request.host = Some("reg.example:5001".to_owned());
                for (name, value) in [("authorization", &*authorization), (INSTANCE, "one")] {
                    request.headers.push((name.to_owned(), value.to_owned()));
                }
                let reply = gateway.answer(&mut request).await.unwrap();
                assert_eq!(reply.headers.iter().any(|(n, _)| *n == SET_BACK), !is_known, "{start}");
                assert_eq!(store.is_partial(&app).unwrap(), is_due, "{start}");
                assert_eq!(store.reconcile_due().unwrap(), is_due, "{start}");
                compare().await;
            }
        });
    }

    #[test]
    fn calls_can_be_answered_on_any_thread() {
        fn is_send<T: Send>(_: T) {}
        #[allow(dead_code, reason = "compiling it is the test")]
        fn check(gateway: &Gateway, request: &mut Request) {
            is_send(gateway.handle(request));
        }
    }
}

//! One node, wired: store, identity, protocols, listeners, and an ordered stop.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smol::Task;

use super::parent::{Reread, Uplink};
use super::router::{Door, Router};
use super::{garbage, identity, parent, reach, scrub, withdrawals};
use crate::admin::{Admin, AdminOptions, summary};
use crate::auth::{Auth, AuthOptions};
use crate::config::{self, Config, MemoryPlan, Verify};
use crate::gateway::{Contacts, Gateway, GatewayOptions};
use crate::http::{Admission, Budget, Deadlines, Service, Shutdown, TlsAcceptor, serve};
use crate::manage::{self, Contact, Manage};
use crate::registry::{Registry, RegistryOptions};
use crate::store::role::role_by_files;
use crate::store::{IndexKind, OpenError, RESERVE_BYTES_MIN, Store, StoreOptions, VerifyWhen};
use crate::sync::Engine;
use crate::sys::activation::{self, Passed};
use crate::sys::cgroup::memory_max;
use crate::sys::clock::sleep;
use crate::sys::net::Listener;
use crate::sys::spawn::blocking;
use crate::sys::{Spawner, Sys, SystemDisk};
use crate::token::Tokens;
use crate::types::connected_registry::ConnectionState;
use crate::types::connection_string::Protocol;
use crate::types::endpoint::answers_at;
use crate::types::limits::{ADMIN_BODY_MEMORY_BYTES, ADMIN_CONNECTIONS_MAX};
use crate::types::schedule::Schedule;
use crate::types::{
    ConnectedRegistry, ConnectedRegistryName, NodeState, Role, StoreRole, UnixSeconds,
};

/// How often free space is looked at.
const SPACE_PERIOD: Duration = Duration::from_secs(5);
/// For how long after a push was refused for want of space the disk counts as full that has little
/// beside its reserve.
const REFUSED_LATELY: Duration = Duration::from_secs(600);
/// How often unfinished uploads are looked through.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(3600);

/// Why a node does not start: one line that names the cause and the cure.
pub(super) struct StartError {
    pub(super) message: String,
    /// The configuration is at fault, or the format of the store: starting again would not help.
    pub(super) is_config: bool,
}

impl StartError {
    /// A fault of the configuration.
    pub(super) fn config(message: String) -> StartError {
        StartError { message, is_config: true }
    }

    /// The store cannot be opened; one of another format is not opened by another start either.
    fn store(error: &OpenError) -> StartError {
        StartError { is_config: error.is_format(), message: error.to_string() }
    }
}

impl<E: std::fmt::Display> From<E> for StartError {
    fn from(error: E) -> StartError {
        StartError { message: error.to_string(), is_config: false }
    }
}

/// A running node.
pub(super) struct Node {
    /// Where clients log in, `host:port` as listened on.
    pub(super) login: String,
    /// Where children connect, `host:port` as listened on.
    pub(super) gateway: String,
    /// What clients and children are told to use in their place.
    login_server: String,
    gateway_endpoint: String,
    store: Store,
    shutdown: Shutdown,
    /// Listeners; each ends when its connections have.
    tasks: Vec<Task<()>>,
    /// The sync engine and housekeeping.
    background: Vec<Task<()>>,
    tls: Option<(TlsAcceptor, Config)>,
}

impl Node {
    /// Opens the store, makes or reads the identity, activates a connected registry that never
    /// was, listens, and serves. Returns when every listener accepts connections.
    pub(super) async fn start(
        spawner: Spawner,
        config: Config,
        reread: Option<Reread>,
    ) -> Result<Node, StartError> {
        let sys = Sys::real(spawner);
        // The listeners come first: an occupied port must not touch the state.
        let (logins, gateways) = listeners(&config)?;
        let (seams, options) = (sys.clone(), store_options(&config));
        let opened = blocking(move || Store::open(seams, options)).await;
        let (store, recovery) = opened.map_err(|error| StartError::store(&error))?;
        let level = if recovery.damage.is_empty() { log::Level::Info } else { log::Level::Warn };
        log::log!(level, "store {}: {recovery}", config.storage.state_dir.display());
        if let Some(loss) = store.loss() {
            let remedy = store.loss_remedy();
            log::error!("{loss}; {remedy}; no garbage is collected until then");
        }
        if let Some(cause) = store.read_only_cause() {
            log::error!("{cause}; run the newer version again, or restore a backup");
        }
        if let Some(next) = store.format_after_confirmation() {
            log::info!(
                "the store stays in format {}, which the version before this one can use, until \
                 skerry confirm; then it is written in format {}",
                store.format().writes,
                next.writes
            );
        }
        let found = store.store_role()?;
        let role = found.decide(config.named_role(), None).map_err(StartError::config)?;
        config.check_addresses(role).map_err(StartError::config)?;
        store.stand(role, config.reachable_parent().is_some());
        let gateways = match role {
            Role::Root => gateways?,
            Role::Connected => Vec::new(),
        };
        warn_of_listeners(&config, role, &logins, &gateways);
        let admin_listener = admin_listener(&config)?;

        let login = address(&logins);
        let gateway = if role == Role::Root { address(&gateways) } else { login.clone() };
        let contacts = Contacts::new(&sys);
        let name = config.registry.login_server.as_deref();
        let tls = reach::has_tls(&config.registry, name, &places(&logins));
        let reader = store.clone();
        let login_server = login.clone();
        let listens = places(&logins).into_iter().map(|(address, _)| address).collect();
        let uplink = Uplink { store: reader, contacts, login: login_server, listens, tls, reread };
        let engine = match role {
            Role::Root => None,
            Role::Connected => uplink.first_engine(&config)?,
        };
        // Before the parent is asked, which may take long: a kill meanwhile changes no role.
        note_role(&store, role).await;
        match &engine {
            Some(engine) => parent::activate(engine).await?,
            None if role == Role::Connected => parent::report_missing(&store, &config)?,
            None => {}
        }
        // With the name that the parent gave.
        note_role(&store, role).await;
        if role == Role::Connected {
            warn_for_children(&config, &store, &logins);
        }
        let is_new = found == StoreRole::New;
        let node = Wiring { sys, config, role, is_new, store, login, gateway };
        node.serve(logins, gateways, admin_listener, uplink, engine)
    }
}

/// What a node is made of, before it serves.
struct Wiring {
    sys: Sys,
    config: Config,
    role: Role,
    /// Whether the store belonged to nobody before this start.
    is_new: bool,
    store: Store,
    login: String,
    gateway: String,
}

impl Wiring {
    /// Lets every listener accept connections, and starts what runs beside them.
    fn serve(
        self,
        logins: Listeners,
        gateways: Listeners,
        admin_listener: Option<Listener>,
        uplink: Uplink,
        engine: Option<Engine>,
    ) -> Result<Node, StartError> {
        let Wiring { sys, config, role, is_new, store, login, gateway } = self;
        let auth = Auth::new(store.clone(), auth_options(&config, role, &store, &logins)?)?;
        let addresses: Vec<_> =
            places(&logins).into_iter().chain(places(&gateways)).map(|(at, _)| at).collect();
        let tls = identity::tls(&sys, &config, &store, &addresses, is_new)?;
        let contacts = uplink.contacts.clone();
        let certificate = identity::private_ca(&config, &store)?;
        let trusted = certificate.as_deref();
        let options = manage_options(&config, role, trusted, &login, &gateway, &gateways)?;
        let login_server = options.login_server.clone();
        let gateway_endpoint = options.gateway_endpoint.clone();
        let manage = Manage::new(store.clone(), options, Arc::new(Seen(contacts.clone())));
        let options = admin_options(&config, role, certificate);
        let router = Arc::new(Router {
            role,
            store: store.clone(),
            registry: Registry::new(store.clone(), auth.clone(), registry_options(&config, role)),
            tokens: Tokens::new(&store, auth.clone()),
            gateway: gateway_api(&config, role, &store, &auth, &contacts),
            admin: Admin::new(store.clone(), manage, options),
        });
        let admission = Admission::new(config.limits.connections);
        // Clients, however many, do not keep the operator out.
        let operators = Admission::new(ADMIN_CONNECTIONS_MAX);
        let their_memory = Budget::new(ADMIN_BODY_MEMORY_BYTES);
        let memory = Budget::new(config.limits.body_memory.0);
        let shutdown = Shutdown::default();
        let mut tasks = Vec::new();
        let mut open = |listener: Listener, tls: Option<TlsAcceptor>, door: Door| {
            let (admission, memory) = match door {
                Door::Admin => (&operators, &their_memory),
                Door::Login | Door::Gateway => (&admission, &memory),
            };
            let service = Service {
                sys: sys.clone(),
                handler: router.clone().behind(door),
                admission: admission.clone(),
                shutdown: shutdown.clone(),
                deadlines: Deadlines::default(),
                memory: memory.clone(),
            };
            tasks.push(sys.spawner.spawn(serve(service, listener, tls)));
        };
        for (listener, encrypted) in logins {
            open(listener, tls.clone().filter(|_| encrypted), Door::Login);
        }
        for (listener, encrypted) in gateways {
            open(listener, tls.clone().filter(|_| encrypted), Door::Gateway);
        }
        if let Some(listener) = admin_listener {
            open(listener, None, Door::Admin);
        }
        let mut background = Vec::new();
        if role == Role::Connected {
            background.push(sys.spawner.spawn(uplink.run(engine)));
        }
        if role == Role::Root {
            background.push(sys.spawner.spawn(withdrawals::run(store.clone())));
        }
        background.push(sys.spawner.spawn(housekeeping(store.clone())));
        background.push(sys.spawner.spawn(look_at_space(store.clone())));
        background.push(sys.spawner.spawn(scrub::run(store.clone(), config.scrub.clone())));
        background.push(sys.spawner.spawn(scrub::settle(store.clone())));
        if config.gc.enabled {
            let run = garbage::run(store.clone(), config.gc.clone(), role);
            background.push(sys.spawner.spawn(run));
        }
        let tls = tls.map(|acceptor| (acceptor, config));
        Ok(Node {
            login,
            gateway,
            login_server,
            gateway_endpoint,
            store,
            shutdown,
            tasks,
            background,
            tls,
        })
    }
}

fn store_options(config: &Config) -> StoreOptions {
    let quotas = config.registry.quotas.iter();
    StoreOptions {
        reserve: config.storage.reserve.0.max(RESERVE_BYTES_MIN),
        rows_max: MemoryPlan::index_rows(config, memory_max()),
        uploads: config.limits.uploads,
        quotas: quotas.map(|quota| (quota.repositories.clone(), quota.size.0)).collect(),
        verify: match config.storage.verify {
            Verify::Scrub => VerifyWhen::Scrub,
            Verify::FirstSendPerBoot => VerifyWhen::FirstSend,
            Verify::FirstReadPerBoot => VerifyWhen::FirstRead,
        },
        index: IndexKind::Sled { cache: config.limits.index_cache.0 },
        ..StoreOptions::new(&config.storage.state_dir)
    }
}

/// Writes down what the store belongs to; a disk that refuses does not keep the node from serving.
async fn note_role(store: &Store, role: Role) {
    let store = store.clone();
    if let Err(error) = blocking(move || store.note_role(role)).await {
        log::warn!("cannot note the role of this store: {error}");
    }
}

impl Node {
    /// Stops in order: no new connections, requests under way get their time, the store closes.
    pub(super) async fn stop(self) {
        // The engine goes first: it would take the end of all waiting for news.
        for task in self.background {
            task.cancel().await;
        }
        self.shutdown.begin();
        self.store.stop_waiting();
        for task in self.tasks {
            task.await;
        }
        // It may have been accepted by its parent, or have got its first rows, while it ran.
        let is_root = matches!(self.store.node_state(), Ok(NodeState::Root));
        note_role(&self.store, if is_root { Role::Root } else { Role::Connected }).await;
        // It is written once an hour while the node runs; the next start shows it.
        if let Some(last_sync) = self.store.sync_view().last_sync
            && let Err(error) = self.store.record_sync(last_sync).await
        {
            log::warn!("cannot note the time of the last sync: {error}");
        }
        if let Err(error) = self.store.close().await {
            log::error!("the store did not close in order: {error}");
        }
    }

    /// Reads again what can change while running: the certificate. A bad one changes nothing.
    pub(super) fn reload(&self) {
        let Some((acceptor, config)) = &self.tls else {
            return;
        };
        let reloaded = identity::from_files(config).and_then(|identity| {
            let Some(identity) = identity else {
                return Ok(Vec::new());
            };
            acceptor.reload(&identity).map_err(|error| identity::named(config, &error))?;
            Ok(identity::warnings(self.store.sys(), config, &identity.certificate_pem))
        });
        match reloaded {
            Ok(warnings) => {
                log::info!("the certificate was read again");
                warnings.iter().for_each(|warning| log::warn!("{warning}"));
            }
            Err(error) => log::error!("the old certificate stays: {error}"),
        }
    }

    /// One line for people about the state of the node.
    pub(super) fn summary(&self) -> String {
        summary(&self.store, &self.login_server, &self.gateway_endpoint)
    }
}

/// Listening sockets, each with whether it speaks TLS.
type Listeners = Vec<(Listener, bool)>;

/// The listeners of login server and gateway. Whether a gateway is needed may be for the store to
/// say: then it is an error only at a root.
fn listeners(config: &Config) -> Result<(Listeners, Result<Listeners, StartError>), StartError> {
    let mut passed = activation::passed()?;
    let logins = listen(&mut passed, "login", &config.listen.login, config)?;
    let gateways = match config.named_role() {
        Some(Role::Connected) => Ok(Vec::new()),
        _ => listen(&mut passed, "gateway", &config.listen.gateway, config),
    };
    if let Some(unknown) = passed.first() {
        let text = "the service manager passed a socket that no listener takes:";
        let cure = "FileDescriptorName= is login, or, at a root, gateway";
        return Err(StartError::config(format!("{text} '{}'; {cure}", unknown.name)));
    }
    // Of a store without a note only its rows tell: its gateway is asked for when it is open.
    match (gateways, role_by_files(&SystemDisk, &config.storage.state_dir)) {
        (Err(error), Some(StoreRole::New | StoreRole::Root)) => {
            // What is in the way may be the listener above.
            Err(config.check_addresses(Role::Root).err().map_or(error, StartError::config))
        }
        (gateways, _) => Ok((logins, gateways)),
    }
}

/// Takes the sockets that the service manager passed under this name, else binds its own.
fn listen(
    passed: &mut Vec<Passed>,
    name: &str,
    wanted: &[config::Listener],
    config: &Config,
) -> Result<Listeners, StartError> {
    let (ours, rest): (Vec<_>, Vec<_>) = passed.drain(..).partition(|one| one.name == name);
    *passed = rest;
    if ours.is_empty() {
        let bind = |one: &config::Listener| {
            Ok((Listener::tcp(&one.address.to_string())?, one.has_tls(&config.tls)))
        };
        return wanted.iter().map(bind).collect();
    }
    // Which of the configured addresses a passed socket stands for is not known.
    let tls = wanted.first().is_some_and(|one| one.has_tls(&config.tls));
    let inherit = |one: Passed| Ok((Listener::inherited(one.socket)?, tls));
    let listeners = ours.into_iter().map(inherit).collect::<Result<Listeners, StartError>>()?;
    warn_of_unserved(name, wanted, &listeners);
    Ok(listeners)
}

/// An address of the configuration whose place a passed socket took, somewhere else.
fn warn_of_unserved(name: &str, wanted: &[config::Listener], passed: &[(Listener, bool)]) {
    let places: Vec<_> = passed.iter().filter_map(|(one, _)| one.local_address()).collect();
    let covers = |place: &SocketAddr, address: SocketAddr| {
        place.port() == address.port() && answers_at(place.ip(), address.ip())
    };
    let shown: Vec<_> = places.iter().map(ToString::to_string).collect();
    for address in wanted.iter().map(|one| one.address) {
        if !places.iter().any(|place| covers(place, address)) {
            log::warn!(
                "listen.{name}: {address} is not served: the service manager passed {} in its \
                 place; set listen.{name} to the address of the socket unit, or disable that unit",
                shown.join(", ")
            );
        }
    }
}

/// The socket of the management verbs; `None`, loudly, on a disk that has no place for its name:
/// clients are served all the same, and what they delete makes room.
fn admin_listener(config: &Config) -> Result<Option<Listener>, StartError> {
    match Listener::unix(&config.listen.admin) {
        Err(error) if error.kind() == ErrorKind::StorageFull => {
            log::error!(
                "{error}: serving without the admin socket, so no management verb works; delete \
                 tags or manifests, or files of others, and restart"
            );
            Ok(None)
        }
        listener => Ok(Some(listener?)),
    }
}

/// What is known to be unsafe, or to lead nowhere, of where this node listens and is said to be.
fn warn_of_listeners(config: &Config, role: Role, logins: &Listeners, gateways: &Listeners) {
    let (logins, gateways) = (places(logins), places(gateways));
    for place in logins.iter().chain(&gateways) {
        let warning = reach::plain_http_warning(&config.registry, *place);
        warning.iter().for_each(|warning| log::warn!("{warning}"));
    }
    for warning in reach::warnings(&config.registry, role, &logins, &gateways) {
        log::warn!("configuration: {warning}");
    }
}

/// A device without children may listen as it likes: nobody is sent there.
fn warn_for_children(config: &Config, store: &Store, logins: &Listeners) {
    let has_children = store.has_connected_registries().unwrap_or(false);
    let warning = reach::children_warning(&config.registry, &places(logins));
    if let Some(warning) = warning.filter(|_| has_children) {
        log::warn!("configuration: {warning}");
    }
}

fn places(listeners: &Listeners) -> Vec<reach::Place> {
    let place = |(listener, tls): &(Listener, bool)| Some((listener.local_address()?, *tls));
    listeners.iter().filter_map(place).collect()
}

fn address(listeners: &Listeners) -> String {
    let first = listeners.first().and_then(|(listener, _)| listener.local_address());
    first.map(|address| address.to_string()).unwrap_or_default()
}

fn auth_options(
    config: &Config,
    role: Role,
    store: &Store,
    logins: &Listeners,
) -> Result<AuthOptions, StartError> {
    Ok(AuthOptions {
        role,
        registry_name: config.registry.name.clone(),
        login_server: reach::login_server(&config.registry, &places(logins)),
        access_lifetime: config.tokens.access_lifetime,
        refresh_lifetime: config.tokens.refresh_lifetime,
        anonymous_pull: config.registry.anonymous_pull.clone(),
        identity: identity::signing(store)?,
    })
}

fn registry_options(config: &Config, role: Role) -> RegistryOptions {
    let registry = &config.registry;
    RegistryOptions {
        role,
        namespaces: registry.namespaces.clone(),
        login_server: registry.login_server.clone(),
    }
}

fn gateway_api(
    config: &Config,
    role: Role,
    store: &Store,
    auth: &Auth,
    contacts: &Arc<Contacts>,
) -> Gateway {
    let registry = config.registry.name.clone();
    let options = GatewayOptions { role, registry, contacts: contacts.clone() };
    let gateway = Gateway::new(store.clone(), auth.clone(), options);
    // First of all that this start changes. A store that takes no changes needs it not.
    if let Err(error) = smol::block_on(gateway.note_start()) {
        log::debug!("this start is not remembered: {error}");
    }
    gateway
}

/// What `get-settings` tells devices of this root, and `show` of its children.
fn manage_options(
    config: &Config,
    role: Role,
    certificate: Option<&str>,
    login: &str,
    gateway: &str,
    gateways: &Listeners,
) -> Result<manage::Options, StartError> {
    let registry = &config.registry;
    let name = registry.gateway_server.as_deref();
    let tls = reach::has_tls(registry, name, &places(gateways));
    Ok(manage::Options {
        role,
        registry_name: registry.name.clone(),
        login_server: registry.login_server.clone().unwrap_or_else(|| login.to_owned()),
        gateway_endpoint: gateway_endpoint(registry, gateway),
        gateway_warning: reach::gateway_warning(registry, &places(gateways)),
        protocol: if tls { Protocol::Https } else { Protocol::Http },
        ca_fingerprint: certificate.map(identity::fingerprint).transpose()?.flatten(),
    })
}

fn admin_options(config: &Config, role: Role, certificate: Option<String>) -> AdminOptions {
    let gc = garbage::options(&config.gc, role);
    AdminOptions { gc, scrub_rate: config.scrub.rate.0, certificate }
}

/// How devices reach the gateway that listens on `address`.
fn gateway_endpoint(registry: &config::Registry, address: &str) -> String {
    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
    match (&registry.gateway_server, registry.gateway_host()) {
        (Some(server), _) => server.clone(),
        (None, Some(host)) => format!("{host}:{port}"),
        (None, None) => address.to_owned(),
    }
}

/// What the gateway saw of its children, as `manage` asks for it.
pub(super) struct Seen(pub(super) Arc<Contacts>);

impl Contact for Seen {
    fn state(
        &self,
        node: &ConnectedRegistry,
        reported: ConnectionState,
        stored: Option<UnixSeconds>,
    ) -> ConnectionState {
        self.0.state(node, reported, stored)
    }

    fn last_seen(
        &self,
        name: &ConnectedRegistryName,
        stored: Option<UnixSeconds>,
    ) -> Option<UnixSeconds> {
        self.0.last_seen(name, stored)
    }

    fn told(&self, name: &ConnectedRegistryName) -> Option<(Schedule, Option<u64>)> {
        self.0.told(name)
    }
}

/// Tells when the disk has no space for pushes, and when it has again.
async fn look_at_space(store: Store) {
    let (mut refused, mut last) = (store.refused_for_space(), None);
    loop {
        let (seen, now) = (store.refused_for_space(), store.sys().clock.monotonic());
        if seen != refused {
            (refused, last) = (seen, Some(now));
        }
        let is_lately = last.is_some_and(|at| now.saturating_sub(at) < REFUSED_LATELY);
        let looking = store.clone();
        blocking(move || looking.look_at_space(is_lately)).await;
        sleep(SPACE_PERIOD).await;
    }
}

/// Removes what nobody came back for, and keeps the journal for those who follow it.
async fn housekeeping(store: Store) {
    loop {
        match store.has_connected_registries() {
            Ok(has_children) => store.retain_for_children(has_children),
            Err(error) => log::warn!("cannot look for children: {error}"),
        }
        sleep(HOUSEKEEPING_PERIOD).await;
        let store = store.clone();
        blocking(move || store.sweep_uploads()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    /// Symptom: with a reserve of one byte the records of deletions found no space on a disk that
    /// pushes had filled, and no collection could free any.
    #[test]
    fn f210_a_node_keeps_enough_free_to_free_more() {
        let mut config = Config::default();
        for (configured, kept) in [(0, 256 << 10), (1, 256 << 10), (1 << 20, 1 << 20)] {
            config.storage.reserve = ByteSize(configured);
            assert_eq!(store_options(&config).reserve, kept);
        }
    }
}

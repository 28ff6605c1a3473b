//! The engine: activates this node at its parent, and syncs when the schedule allows it.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::backoff;
use super::contact::{Failed, Place};
use super::error::SyncError;
use super::fetch::Fetcher;
use super::heal::Healer;
use super::lacking::Seeker;
use super::push::Pusher;
use super::refusal::{REPORTED_AFTER, is_unreachable, refusal_kind};
use super::report::Reporter;
use super::state::State;
use super::upload::Uploader;
use super::window::{
    Calls, LOOK_INTERVAL, NEWS_INTERVAL, NEWS_TRIES, PROBE_INTERVAL, Traffic, traffic,
};
use super::worker::Worker;
use crate::gateway::contacts::CALL_INTERVAL;
use crate::gateway::{Contacts, Upstream, UpstreamError};
use crate::http::Client;
use crate::store::{Store, StoreError};
use crate::sys::clock::{sleep, within};
use crate::types::NodeState;
use crate::types::connected_registry::DetailCode;
use crate::types::connection_string::ConnectionString;
use crate::types::limits::REQUEST_DEADLINE;
use crate::types::role::{Hurdle, HurdleKind};

/// Why a schedule opens no window.
const NO_TIME: &str = "the clock of this machine is not set, and the parent has not said what time \
    it is: no sync window opens. Set the clock (NTP); the parent is asked at a start, once an \
    hour, and within minutes after a call that failed";

/// The schedule and the clock are looked at this often: either may have been changed.
const LOOK: Duration = Duration::from_secs(10);

/// Longest pause of a node that its own disk, or the login server alone, keeps from following its
/// parent: it is shown as offline after three quarters of a minute without a call.
const QUIET_MAX: Duration = CALL_INTERVAL.saturating_mul(2);

/// How long a look at the configuration outside a window may take. Over it: the next one.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// What the engine tells the parent of this node, and what it needs to know.
#[derive(Clone)]
pub struct EngineOptions {
    /// Version of the program.
    pub version: String,
    /// Where clients log in, `host[:port]`.
    pub login_server: String,
    /// Whether that listener has TLS.
    pub tls: bool,
    /// Random, made on the first start and kept: it tells this device from a second one.
    pub instance_id: String,
    /// Whether a CA of its own is configured for the parent.
    pub private_ca: bool,
    /// Contacts of this node's own children, shared with its gateway.
    pub contacts: Arc<Contacts>,
}

/// Why the first contact with the parent failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ActivationError {
    /// The parent says no: another instance is active, or the password is wrong. Somebody has to
    /// act at the root; [`Engine::run`] goes on trying.
    Refused(String),
    /// No answer yet: [`Engine::run`] goes on trying.
    Unreachable(String),
    /// The disk here fails.
    Store(StoreError),
}

impl fmt::Display for ActivationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failed to activate the connected registry instance. ")?;
        match self {
            ActivationError::Refused(text) => f.write_str(text),
            ActivationError::Unreachable(text) => {
                write!(f, "The parent cannot be reached: {text}")
            }
            ActivationError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ActivationError {}

impl From<SyncError> for ActivationError {
    fn from(error: SyncError) -> ActivationError {
        match error {
            SyncError::Store(error) => ActivationError::Store(error),
            SyncError::Upstream(UpstreamError::Unreachable(_) | UpstreamError::Busy(..)) => {
                ActivationError::Unreachable(error.to_string())
            }
            other => ActivationError::Refused(match status_of(&other) {
                // ACR's words (ACR, issue 620).
                Some(status) => {
                    format!("The request failed with status: {status}, Response: {other}")
                }
                None => other.to_string(),
            }),
        }
    }
}

/// The status behind an answer that refuses an activation.
fn status_of(error: &SyncError) -> Option<u16> {
    let SyncError::Upstream(error) = error else {
        return None;
    };
    match error {
        UpstreamError::Unauthorized(_) | UpstreamError::Forbidden(_) => Some(401),
        UpstreamError::NotFound(_) => Some(404),
        UpstreamError::AlreadyActivated(_) => Some(409),
        UpstreamError::Refused(status, _) => Some(*status),
        _ => None,
    }
}

/// Drives this node to the state that its parent grants.
pub struct Engine {
    store: Store,
    state: Arc<State>,
    upstream: Arc<Upstream>,
    worker: Worker,
    pusher: Pusher,
    healer: Healer,
    seeker: Seeker,
    reporter: Reporter,
    options: EngineOptions,
    /// Whether the parent accepted this instance since the start of the process.
    active: AtomicBool,
    /// Monotonic time of the last call outside a window.
    probed: Mutex<Option<Duration>>,
}

impl Engine {
    /// An engine that has not called yet.
    pub fn new(
        store: Store,
        client: Client,
        connection: ConnectionString,
        options: EngineOptions,
    ) -> Engine {
        let sys = store.sys().clone();
        let (id, private_ca) = (options.instance_id.clone(), options.private_ca);
        let upstream = Upstream::new(&sys, client, connection, id, private_ca, store.hearing());
        let (upstream, state) = (Arc::new(upstream), Arc::new(State::new(&sys)));
        let fetcher = Fetcher {
            store: store.clone(),
            upstream: upstream.clone(),
            strikes: Arc::default(),
            lacking: Arc::default(),
        };
        Engine {
            worker: Worker {
                store: store.clone(),
                upstream: upstream.clone(),
                fetcher: fetcher.clone(),
                state: state.clone(),
                refreshing: smol::lock::Mutex::default(),
            },
            healer: Healer {
                store: store.clone(),
                fetcher: fetcher.clone(),
                told: Mutex::default(),
            },
            seeker: Seeker::new(fetcher.clone()),
            pusher: Pusher {
                store: store.clone(),
                upstream: upstream.clone(),
                uploader: Uploader { store: store.clone(), upstream: upstream.clone() },
                fetcher,
                turns: Mutex::default(),
                retries: Mutex::default(),
            },
            reporter: Reporter {
                store: store.clone(),
                upstream: upstream.clone(),
                state: state.clone(),
                options: options.clone(),
                told: Mutex::default(),
                failed: Mutex::default(),
            },
            store,
            state,
            upstream,
            options,
            active: AtomicBool::new(false),
            probed: Mutex::default(),
        }
    }

    /// The first contact: binds the connected registry to this instance and fetches its desired
    /// state. Does nothing on a node that has one already; such a node serves without its parent.
    pub async fn activate(&self) -> Result<(), ActivationError> {
        self.state.publish(&self.store).map_err(ActivationError::Store)?;
        if self.store.self_node().map_err(ActivationError::Store)?.is_some() {
            return Ok(());
        }
        if let Err(error) = self.ensure_active().await {
            self.note_refusal(&error, 0);
            self.state.contact().set_failure(&error);
            self.state.publish(&self.store).map_err(ActivationError::Store)?;
            return Err(error.into());
        }
        match self.worker.refresh_config().await {
            // The parent has accepted this instance and has not received its desired state yet.
            Err(error @ SyncError::Upstream(UpstreamError::NotFound(_))) => {
                Err(ActivationError::Unreachable(error.to_string()))
            }
            result => Ok(result?),
        }
    }

    /// Syncs for ever. Local pulls never wait for this.
    pub async fn run(&self) -> Infallible {
        if let Err(error) = self.state.publish(&self.store) {
            log::warn!("cannot publish sync status: {error}");
        }
        loop {
            let pause = self.try_turn().await;
            sleep(pause).await;
        }
    }

    /// A turn, and what is to be done when it failed; returns how long to pause.
    async fn try_turn(&self) -> Duration {
        match self.turn().await {
            Ok(pause) => pause,
            Err(error) => {
                let pause = self.failed(&error);
                if self.store.refused_state().is_some()
                    && let Err(error) = self.void_look().await
                {
                    log::debug!("the refusal is not noted: {error}");
                }
                self.tell(&error).await;
                pause
            }
        }
    }

    /// One stretch of syncing or waiting; returns how long to pause.
    async fn turn(&self) -> Result<Duration, SyncError> {
        self.state.contact().begin();
        // The disk may take it by now, and the parent may be out of reach.
        if let Err(error) = self.store.write_received().await {
            log::debug!("the configuration cannot be written yet: {error}");
        }
        let traffic = self.traffic()?;
        let waits = !matches!(traffic, Traffic::Flow(_));
        self.state.contact().wait(waits);
        match traffic {
            Traffic::Wait(time) => {
                self.state.settle();
                match self.store.sys().clock.wall() {
                    Some(_) => self.state.solved("clock"),
                    None => {
                        self.state.problem("clock", DetailCode::SyncFailed, NO_TIME.to_owned());
                    }
                }
                self.state.publish(&self.store)?;
                Ok(time.min(LOOK))
            }
            Traffic::ConfigOnly => {
                let now = self.store.sys().clock.monotonic();
                *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                log::info!("looking at the configuration outside a sync window");
                self.upstream.begin_session();
                let looked = within(LOOK_MAX, self.greet()).await.unwrap_or_else(|_| {
                    let text = "the parent took too long to tell the configuration".to_owned();
                    Err(UpstreamError::Unreachable(text).into())
                });
                // A parent that was away has not said what time it is, and a window may be open.
                if looked.is_err() && self.store.sys().clock.wall().is_none() {
                    *self.probed.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                looked?;
                // The parent refuses this node no more, whatever fails inside.
                self.store.set_hurdle(None);
                self.state.looked();
                Ok(Duration::ZERO)
            }
            Traffic::Flow(_) => {
                self.state.solved("clock");
                let work = async { self.session().await.map(|never| match never {}) };
                let end = async { Ok(self.window_end().await) };
                let result = smol::future::or(work, end).await;
                self.state.set(|now| {
                    now.polling = false;
                    now.syncing = false;
                });
                result
            }
        }
    }

    fn traffic(&self) -> Result<Traffic, StoreError> {
        let Some(node) = self.store.self_node()? else {
            return Ok(Traffic::Flow(None));
        };
        let clock = &self.store.sys().clock;
        let probed = *self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let since_probe = probed.map(|at| clock.monotonic().saturating_sub(at));
        let now = clock.wall();
        // Another connection string is an operator's word that there is news: a look with the one
        // before does not count. A look in the future was at a time that was not this one.
        let (with, own) = (self.store.looked_with()?, self.upstream.fingerprint());
        let same = with.as_ref() == Some(&own);
        let is_unheard = {
            let contact = self.state.contact();
            let is_away = contact.failure().is_some_and(|failure| failure.unreachable);
            is_away && contact.failures() <= NEWS_TRIES
        };
        let is_news = is_unheard && with.is_some_and(|with| with != own);
        let looked = self.state.now().looked.max(self.store.last_look()?);
        let looked = looked.filter(|_| same).zip(now).filter(|(at, now)| at <= now);
        let since_look = looked.map(|(at, now)| Duration::from_secs(now.since(at)));
        // The parent's time is asked for often: it may have been wrong.
        let look_interval = if clock.is_set() { LOOK_INTERVAL } else { PROBE_INTERVAL };
        let probe_interval = if is_news { NEWS_INTERVAL } else { PROBE_INTERVAL };
        let calls = Calls { since_probe, probe_interval, since_look, look_interval };
        Ok(traffic(&node.schedule, node.sync_window_s, now, calls))
    }

    /// What was heard before the parent refused this node does not count: a restart looks again,
    /// with whichever connection string, and tells the refusal again.
    async fn void_look(&self) -> Result<(), StoreError> {
        match self.store.looked_with()? {
            Some(with) if !with.is_empty() => self.store.forget_look().await,
            _ => Ok(()),
        }
    }

    /// Returns when no traffic may flow any more. What is in flight is dropped then; it is taken
    /// up where it stopped.
    async fn window_end(&self) -> Duration {
        loop {
            match self.traffic() {
                Ok(Traffic::Flow(left)) => sleep(left.unwrap_or(LOOK).min(LOOK)).await,
                Ok(_) => {
                    log::info!("the sync window has ended");
                    return Duration::ZERO;
                }
                // A store that cannot answer stops the session by itself.
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// Pulls, pushes and reports side by side until one of them fails.
    async fn session(&self) -> Result<Infallible, SyncError> {
        self.upstream.begin_session();
        self.greet().await?;
        self.worker.meet_parent().await?;
        let pushes = smol::future::or(self.pusher.deliver_all(), self.reporter.report_all());
        let mends = smol::future::or(self.healer.heal_all(), self.seeker.seek_all());
        let pulls = smol::future::or(self.worker.follow(), mends);
        smol::future::or(pulls, pushes).await
    }

    /// Activates this instance where that is due, and asks for the desired state. A parent that
    /// knows of no activation has taken the place of the one that did: this instance activates
    /// again at once, since waiting would help nobody.
    async fn greet(&self) -> Result<(), SyncError> {
        let was_active = self.active.load(Ordering::Relaxed);
        self.ensure_active().await?;
        match self.worker.refresh_config().await {
            Err(SyncError::Upstream(UpstreamError::ActivationUnknown)) if was_active => {
                log::info!("the parent knows of no activation of this node: it is asked for again");
                self.active.store(false, Ordering::Relaxed);
                self.ensure_active().await?;
                self.worker.refresh_config().await?;
            }
            result => result?,
        }
        self.state.let_in();
        Ok(())
    }

    async fn ensure_active(&self) -> Result<(), SyncError> {
        if self.active.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (version, login_server) = (&self.options.version, &self.options.login_server);
        let answer = self.upstream.activate(version, login_server).await?;
        if let Err(error) = self.store.record_activated(answer.activation_epoch).await {
            // Nothing can be written: what the desired state takes away counts all the same.
            let heard = self.worker.refresh_config().await;
            log::debug!("the configuration was asked for: {heard:?}");
            return Err(error.into());
        }
        self.active.store(true, Ordering::Relaxed);
        self.store.set_hurdle(None);
        log::info!("active as connected registry {}", self.upstream.name());
        Ok(())
    }

    /// Lets status, health and, once, the log say what somebody has to do about a refusal; returns
    /// whether the error is one. The cure may be under way: in a tree the parent may only not have
    /// heard of it yet.
    fn note_refusal(&self, error: &SyncError, denials: u32) -> bool {
        let active = self.active.load(Ordering::Relaxed);
        let Some(kind) = refusal_kind(error, active, denials) else {
            // What fails on the disk here says nothing of the parent.
            if matches!(error, SyncError::Upstream(_)) {
                self.store.pass_over_hurdle();
            }
            return false;
        };
        let hurdle = Hurdle { kind, text: error.to_string() };
        let state = NodeState::Refused(hurdle.clone());
        if self.store.set_hurdle(Some(hurdle)) {
            let text = match kind {
                HurdleKind::Unknown => error.to_string(),
                _ => ActivationError::from(error.clone()).to_string(),
            };
            let remedy = state.remedy().unwrap_or_default();
            log::error!("{}: {text}: {remedy}", state.name());
        }
        true
    }

    /// Tells the parent what keeps this node from following it, though it can be asked: it would
    /// take a node that calls for one that is well.
    async fn tell(&self, error: &SyncError) {
        let flows = matches!(self.traffic(), Ok(Traffic::Flow(_)));
        let (failures, place) = {
            let contact = self.state.contact();
            (contact.failures(), contact.place())
        };
        let is_away = error.ends_session() && (place == Place::Door || !is_unreachable(error));
        let is_known = failures >= REPORTED_AFTER && !is_away;
        if !flows || !is_known || !self.active.load(Ordering::Relaxed) {
            return;
        }
        match within(REQUEST_DEADLINE, self.reporter.report_failure()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::debug!("cannot tell the parent what is wrong: {error}"),
            Err(_) => log::debug!("the parent took too long to hear what is wrong"),
        }
    }

    /// Notes a failure and says how long to wait.
    fn failed(&self, error: &SyncError) -> Duration {
        self.state.settle();
        let Failed { failures, denials, place, is_new } = self.state.contact().failed(error);
        if let SyncError::Store(error) = error {
            self.state.disk_problem(error, self.store.shortage());
        }
        // A parent that lets this node in each time is there: its login server may not be.
        let is_link = is_unreachable(error) && place == Place::Door;
        let is_reported = failures >= REPORTED_AFTER && !is_link;
        if is_reported || self.state.has_problem(place.problem()) {
            self.state.problem(place.problem(), DetailCode::SyncFailed, error.to_string());
        }
        let is_refused = self.note_refusal(error, denials);
        if let Err(error) = self.state.publish(&self.store) {
            log::warn!("cannot publish sync status: {error}");
        }
        if *error == UpstreamError::ActivationUnknown.into() {
            self.active.store(false, Ordering::Relaxed);
        }
        if is_refused {
            log::debug!("the parent refuses this instance, {failures} failures in a row");
        } else if is_new {
            log::warn!("the sync stopped and will be tried again: {error}");
        } else {
            log::debug!("the sync failed {failures} times in a row: {error}");
        }
        let delay = backoff::delay(failures, &*self.store.sys().rng);
        // The parent would take a node for offline that is quiet for longer.
        let is_seen = is_unreachable(error) && place == Place::Inside;
        if is_seen || matches!(error, SyncError::Store(_)) { delay.min(QUIET_MAX) } else { delay }
    }
}

/// Steps of a session, for a test that decides what happens between them.
#[cfg(test)]
impl Engine {
    /// Delivers what can be delivered now.
    pub(crate) async fn push_once(&self) -> Result<(), SyncError> {
        self.ensure_active().await?;
        self.pusher.deliver_round().await.map(|_| ())
    }

    /// What comes first.
    pub(crate) async fn begin_once(&self) -> Result<(), SyncError> {
        self.upstream.begin_session();
        self.greet().await?;
        self.worker.meet_parent().await.map(|_| ())
    }

    /// Syncs until that fails.
    pub(crate) async fn fail_once(&self) {
        self.try_turn().await;
    }

    /// Tries to heal what is known to be damaged.
    pub(crate) async fn heal_once(&self) -> Result<(), SyncError> {
        self.ensure_active().await?;
        self.healer.heal_known().await
    }

    /// Tells the parent how this node and those below it are.
    pub(crate) async fn report_once(&self) -> Result<(), SyncError> {
        self.reporter.report(&mut None).await
    }

    /// Does what is due, and what the parent has told by now, and asks for what is lacking.
    pub(crate) async fn pull_once(&self) -> Result<(), SyncError> {
        self.ensure_active().await?;
        self.worker.follow_once().await?;
        self.seeker.seek_once().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::contacts::ONLINE_FOR;
    use crate::http::ClientOptions;
    use crate::store::replica::node::testing::config;
    use crate::sys::{Spawner, Sys};
    use crate::types::Role;
    use crate::types::connected_registry::{ParentContact, StatusDetail};

    fn engine(store: &Store) -> Engine {
        let text = "ConnectedRegistryName=dock01;SyncTokenName=sync01;SyncTokenPassword=x;\
                    ParentGatewayEndpoint=127.0.0.1:1;ParentEndpointProtocol=http";
        let connection = ConnectionString::parse(text, |_| None).map_err(|e| e.to_string());
        let client = Client::new(store.sys(), ClientOptions::default()).unwrap();
        let options = EngineOptions {
            version: "1".to_owned(),
            login_server: "dock.example:5000".to_owned(),
            tls: false,
            instance_id: "i".to_owned(),
            private_ca: false,
            contacts: Contacts::new(store.sys()),
        };
        Engine::new(store.clone(), client, connection.unwrap_or_else(|e| panic!("{e}")), options)
    }

    /// A turn fails there.
    fn fails(engine: &Engine, error: &SyncError, place: Place) -> Duration {
        engine.state.contact().begin();
        if place == Place::Inside {
            engine.state.contact().let_in();
        }
        engine.failed(error)
    }

    #[test]
    fn f129_a_node_that_was_activated_starts_without_its_parent() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let desired = config(&["repositories/app/content/read"]);
            store.receive_config(desired, "v1".to_owned()).await.unwrap();
            assert_eq!(engine(&store).activate().await, Ok(()));
        });
    }

    #[test]
    fn f212_a_fault_of_the_disk_here_is_not_one_of_the_parent() {
        let engine = engine(&Store::in_memory(Sys::real(Spawner::new())));
        engine.state.contact().follow();
        let full = SyncError::from(StoreError::Full);
        for (error, online) in [(full, true), (UpstreamError::Gone.into(), false)] {
            engine.failed(&error);
            let contact = engine.state.contact().parent();
            assert_eq!(contact == ParentContact::InContact, online, "{error}");
        }
    }

    /// Symptom: a device whose disk took nothing was shown as offline in turn with unhealthy.
    #[test]
    fn f036_f127_a_node_that_cannot_follow_its_parent_calls_it_often_enough_to_be_seen() {
        let engine = engine(&Store::in_memory(Sys::real(Spawner::new())));
        let disk: SyncError = StoreError::Unavailable.into();
        let longest = (0..20).map(|_| engine.failed(&disk)).max();
        assert!(longest <= Some(QUIET_MAX) && QUIET_MAX < ONLINE_FOR, "{longest:?}");
        let cut: SyncError = UpstreamError::Unreachable("unexpected end of file".to_owned()).into();
        let engine = self::engine(&Store::in_memory(Sys::real(Spawner::new())));
        for place in [Place::Inside, Place::Door] {
            let longest = (0..20).map(|_| fails(&engine, &cut, place)).max();
            assert_eq!(longest <= Some(QUIET_MAX), place == Place::Inside, "{longest:?}");
            let is_told = engine.state.has_problem(Place::Inside.problem());
            assert!(is_told, "the gateway answers, and the login server does not");
            assert!(!engine.state.has_problem(Place::Door.problem()), "the link is no problem");
        }
        let busy = UpstreamError::Busy(503, "x".to_owned()).into();
        let longest = (0..20).map(|_| engine.failed(&busy)).max();
        assert!(longest > Some(QUIET_MAX), "a parent that is overloaded is spared");
    }

    #[test]
    fn f121_f127_a_parent_that_is_back_is_not_kept_waiting_for_the_outage_before() {
        let away = SyncError::from(UpstreamError::Unreachable("no route".to_owned()));
        let shortest = Duration::from_secs(1);
        for (answer, starts_anew) in [
            (UpstreamError::Forbidden("x".to_owned()), true),
            (UpstreamError::NotFound("x".to_owned()), true),
            (UpstreamError::Unauthorized("x".to_owned()), true),
            (UpstreamError::ActivationUnknown, true),
            (UpstreamError::Busy(503, "x".to_owned()), false),
            (UpstreamError::Protocol("x".to_owned()), false),
        ] {
            let engine = engine(&Store::in_memory(Sys::real(Spawner::new())));
            for _ in 0..8 {
                engine.failed(&away);
            }
            let answer = SyncError::from(answer);
            assert_eq!(engine.failed(&answer) <= shortest, starts_anew, "{answer}");
            // The same answer again and again, or in turn with none, is waited for as ever.
            for _ in 0..3 {
                engine.failed(&answer);
                engine.failed(&away);
            }
            assert!(engine.failed(&answer) > shortest * 10, "{answer}");
        }
    }

    #[test]
    fn the_parents_words_reach_whoever_starts_the_node() {
        let text = r#"{"errors":[{"code":"UNAUTHORIZED","message":"Incorrect Password"}]}"#;
        let error = SyncError::from(UpstreamError::Unauthorized(text.to_owned()));
        assert!(error.needs_an_operator());
        let shown = ActivationError::from(error).to_string();
        assert!(shown.ends_with("status: 401, Response: Incorrect Password"), "{shown}");
        let error = SyncError::from(UpstreamError::Unreachable("no route".to_owned()));
        assert!(matches!(ActivationError::from(error), ActivationError::Unreachable(_)));
    }

    /// In a tree a parent may not have heard of its child yet: that passes by itself.
    #[test]
    fn f031_only_denials_in_a_row_of_the_session_itself_are_one() {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let engine = engine(&store);
        engine.active.store(true, Ordering::Relaxed);
        let denied: SyncError = UpstreamError::NotFound("no".to_owned()).into();
        let away: SyncError = UpstreamError::Unreachable("no route".to_owned()).into();
        let is_told = |errors: &[&SyncError], online: bool| {
            for error in errors {
                if online {
                    engine.state.contact().follow();
                }
                engine.failed(error);
            }
            store.set_hurdle(None)
        };
        assert!(!is_told(&[&away, &away, &denied, &denied, &away, &denied], false));
        assert!(is_told(&[&denied, &denied], false));
        assert!(!is_told(&[&denied, &denied, &denied, &denied], true), "of something else");
    }

    /// Symptom: `Unauthorized` and its remedy for as long as the parent, which had refused the
    /// sync token once, could not be reached. Cause: only an acceptance replaced a refusal.
    #[test]
    fn f034_f212_what_is_told_is_why_the_sync_fails_now() {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        store.stand(Role::Connected, true);
        let engine = engine(&store);
        engine.active.store(true, Ordering::Relaxed);
        let refused = UpstreamError::Unauthorized(r#"{"errors":[]}"#.to_owned()).into();
        let away: SyncError = UpstreamError::Unreachable("no route".to_owned()).into();
        let full = StoreError::Full.into();
        let told = |error: &SyncError| {
            engine.failed(error);
            let session =
                engine.state.problems().into_iter().find(|told| told.code == "SyncFailed");
            (store.refused_state().map(|state| state.name()), session.map(|told| told.description))
        };
        let says = |error: &SyncError| Some(error.to_string());
        for _ in 0..REPORTED_AFTER {
            assert_eq!(told(&away), (None, None), "that is not a problem of this node");
        }
        // The parent is found again: the failures are counted anew.
        for _ in 1..REPORTED_AFTER {
            assert_eq!(told(&refused), (Some("Unauthorized"), None));
        }
        assert_eq!(told(&refused), (Some("Unauthorized"), says(&refused)));
        assert_eq!(told(&full), (Some("Unauthorized"), says(&full)), "the disk here");
        let first = engine.state.problems();
        assert_eq!(told(&away), (None, says(&away)));
        assert_eq!(told(&refused), (Some("Unauthorized"), says(&refused)));
        let ids = |details: &[_]| -> Vec<String> {
            details.iter().map(|told: &StatusDetail| told.correlation_id.clone()).collect()
        };
        assert_eq!(ids(&engine.state.problems()), ids(&first), "it is the same problem");
    }

    /// Symptom: between two windows `SyncFailed` for days after the parent had let the node in.
    #[test]
    fn f036_what_failed_at_the_door_is_over_when_the_parent_opens() {
        let wrong: SyncError = UpstreamError::Protocol("nonsense".to_owned()).into();
        let denied: SyncError = UpstreamError::Forbidden("not your messages".to_owned()).into();
        let away: SyncError = UpstreamError::Unreachable("no route".to_owned()).into();
        let disk: SyncError = StoreError::Io("EIO".to_owned()).into();
        let (door, inside) = (Place::Door, Place::Inside);
        for (failures, left) in [
            ([(&wrong, door), (&wrong, door), (&wrong, door)], None),
            ([(&wrong, door), (&wrong, door), (&disk, door)], None),
            ([(&wrong, inside), (&wrong, inside), (&wrong, door)], None),
            ([(&away, inside), (&wrong, door), (&wrong, door)], None),
            ([(&wrong, inside), (&wrong, inside), (&wrong, inside)], Some(&wrong)),
            ([(&denied, inside), (&denied, inside), (&denied, inside)], Some(&denied)),
            ([(&wrong, door), (&wrong, door), (&disk, inside)], Some(&disk)),
        ] {
            let engine = engine(&Store::in_memory(Sys::real(Spawner::new())));
            for (error, place) in failures {
                fails(&engine, error, place);
            }
            let last = failures[2].1;
            assert!(engine.state.has_problem(last.problem()));
            engine.state.contact().looked();
            let failures_left = engine.state.contact().failures();
            assert_eq!(failures_left == 0, last == door, "{failures:?}");
            fails(&engine, &away, door);
            engine.state.let_in();
            engine.state.contact().looked();
            let told = |code: &str| {
                let problems = engine.state.problems().into_iter();
                problems.filter(|told| told.code == code).map(|told| told.description).next()
            };
            assert_eq!(told("SyncFailed"), left.map(ToString::to_string), "{failures:?}");
            assert_eq!(engine.state.contact().failures(), 0, "{failures:?}");
        }
    }

    /// Symptom: `Active`, and a remedy that sends somebody to the parent, for as long as a portal
    /// answered in its place.
    #[test]
    fn f031_f212_a_portal_that_stays_is_not_a_gateway() {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        store.stand(Role::Connected, true);
        let engine = engine(&store);
        engine.active.store(true, Ordering::Relaxed);
        let portal: SyncError = UpstreamError::NoGateway("text/html".to_owned()).into();
        let told = |place| {
            fails(&engine, &portal, place);
            store.refused_state().map(|state| state.name())
        };
        for _ in 0..REPORTED_AFTER * 2 {
            assert_eq!(told(Place::Inside), None, "a gateway let this node in");
        }
        for _ in 1..REPORTED_AFTER {
            assert_eq!(told(Place::Door), None);
        }
        assert_eq!(told(Place::Door), Some("NotAGateway"));
    }

    #[test]
    fn the_engine_can_run_as_a_task() {
        fn is_send<T: Send>(_: T) {}
        let store = Store::in_memory(Sys::real(Spawner::new()));
        let engine = Arc::new(engine(&store));
        is_send(async move { engine.run().await });
    }
}

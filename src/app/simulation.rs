//! A device and its parent in one process, every part of them real: the store, the sync, the
//! registry, the tokens and the gateway. A writer works at the device while the parent refuses,
//! does not answer, or answers what the device does not hear, and while the device loses its power
//! or its disk: then it is restored from a backup that has all that the writer was told (its rows
//! come into a store of another incarnation, on another disk). Nobody else writes, so at every
//! moment the device has what its writer was told, and at rest the parent has it too.
//!
//! A seed replays: `SKERRY_SEED=7 cargo test --lib simulation`.

mod between;
mod compared;
mod parent;
mod proxy;
mod renewal;
mod room;
mod scenarios;
mod set_back;
mod too_large;
mod two_writers;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::parent::{Hook, Parent};
use self::versions::Versions;
use crate::auth::{Auth, AuthOptions, LoginListener, LoginServer, keys};
use crate::gateway::feed::Scope;
use crate::gateway::{Contacts, Gateway, GatewayOptions};
use crate::http::{
    Admission, Budget, Client, ClientOptions, Deadlines, Handler, Method, Reply, Request, Service,
    Shutdown, serve,
};
use crate::registry::{Registry, RegistryOptions};
use crate::store::replica::outbox::Origin;
use crate::store::tree::connected_registries::Settings;
use crate::store::tree::creation::NewConnectedRegistry;
use crate::store::{Precondition, PutManifest, PutOutcome, Required, Store, StoreError};
use crate::sync::{Engine, EngineOptions, SyncError};
use crate::sys::memory_disk::MemoryDisk;
use crate::sys::net::Listener;
use crate::sys::{Clock, Spawner, Sys, SystemClock};
use crate::token::Tokens;
use crate::types::connection_string::ConnectionString;
use crate::types::digest::Algorithm;
use crate::types::{
    Digest, Manifest, Mode, Reason, Refusal, RepositoryName, Role, Tag, UnixSeconds, media,
};

/// Seeds of an ordinary run.
const SEEDS: u64 = 60;
/// What the writer, the parent and the power do in one seed.
const STEPS: u64 = 60;
/// Restores in one seed: the parent tells the deliveries of so many lives of a store, and one more,
/// apart.
const RESTORES_MAX: u64 = 2;
/// Rounds after which both sides must agree, once nothing disturbs them any more.
const ROUNDS_MAX: usize = 30;

/// In the place of a seed: the device is ReadOnly, and nothing is random.
const READ_ONLY: u64 = u64::MAX;

const REPOSITORIES: u64 = 2;
const TAGS: u64 = 2;
const MANIFESTS: u64 = 4;
const INDEXES: u64 = 2;

/// Random numbers, the same for the same seed.
struct Dice(AtomicU64);

impl Dice {
    fn roll(&self, sides: u64) -> u64 {
        let mut state = self.0.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.store(state, Ordering::Relaxed);
        (state >> 16) % sides
    }
}

/// A clock that jumps when it is told to.
struct Hands(AtomicU64, SystemClock);

impl Clock for Hands {
    fn wall(&self) -> Option<UnixSeconds> {
        Some(UnixSeconds(1_800_000_000 + self.0.load(Ordering::Relaxed)))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed)) + self.1.monotonic()
    }
}

type Tags = BTreeMap<(RepositoryName, Tag), Digest>;
type Manifests = BTreeSet<(RepositoryName, Digest)>;

/// What the writer was told.
#[derive(Default)]
struct Told {
    tags: Tags,
    /// What was pushed and not deleted.
    manifests: Manifests,
    log: Vec<String>,
}

impl Told {
    fn pushed(&mut self, app: &RepositoryName, tags: &[Tag], digest: &Digest) {
        self.manifests.insert((app.clone(), digest.clone()));
        for tag in tags {
            self.tags.insert((app.clone(), tag.clone()), digest.clone());
        }
    }

    /// What a tag named can be pulled by its digest when it is gone.
    fn untagged(&mut self, app: &RepositoryName, tag: &Tag) -> Option<Digest> {
        self.tags.remove(&(app.clone(), tag.clone()))
    }

    fn deleted(&mut self, app: &RepositoryName, digest: &Digest) -> bool {
        self.tags.retain(|(of, _), named| of != app || named != digest);
        self.manifests.remove(&(app.clone(), digest.clone()))
    }

    /// What is not there, and should be.
    fn missing(&self, there: &Manifests) -> Vec<String> {
        let missing = self.manifests.difference(there);
        missing.map(|(app, digest)| format!("{app}@{}", &digest.hex()[..6])).collect()
    }
}

/// What all of them share.
struct World {
    /// What a test does when a request comes to the parent, and when its answer goes.
    hook: Mutex<Option<Hook>>,
    dice: Dice,
    /// Nothing happens out of the ordinary.
    calm: AtomicBool,
    /// Somebody writes at the parent too.
    two_writers: AtomicBool,
    /// The power of the device fails.
    dark: AtomicBool,
    /// While the parent answers that it does not have it, this is pushed again, and delivered.
    pushed_meanwhile: Mutex<Option<u64>>,
    /// The same, but what waits at the device is delivered.
    delivers_meanwhile: AtomicBool,
    /// The next listing is held until the device has nothing to deliver, and then the link is cut.
    holds_listing: AtomicBool,
    /// A listing is held.
    is_held: AtomicBool,
    /// No request is answered.
    is_cut: AtomicBool,
    /// When the parent refuses a change, this is pushed at the device.
    pushed_then: Mutex<Option<u64>>,
    /// Changes whose path has this in it fail with this status, by a proxy before the parent.
    fails: Mutex<Option<(String, u16)>>,
    /// The parent refuses the next change.
    refuses: AtomicBool,
    /// The parent was started anew.
    started_anew: AtomicBool,
    /// Which of the two know what of the gateway's messages.
    versions: Versions,
    /// Requests to the parent.
    requests: AtomicU64,
    /// The writer makes no change: there is a backup, and it has all that was acknowledged.
    quiet: AtomicBool,
    /// Changes that the writer is making.
    writing: AtomicU64,
    /// Another one after each restore.
    device: Mutex<Store>,
    root: Store,
    told: Mutex<Told>,
}

fn repository(number: u64) -> RepositoryName {
    format!("app{number}").parse().unwrap()
}

/// One of the images is named by its SHA-512 digest.
fn digest_of(bytes: &[u8]) -> Digest {
    let is_odd = bytes.ends_with(br#"{"number":"3"}}"#);
    let algorithm = if is_odd { Algorithm::Sha512 } else { Algorithm::Sha256 };
    Digest::from_raw(algorithm, ring::digest::digest(algorithm.function(), bytes).as_ref()).unwrap()
}

const CONFIG: &[u8] = b"{}";

/// Images, and behind them indexes of two images each.
fn manifest(number: u64) -> Vec<u8> {
    if number >= MANIFESTS {
        return index(&children(number));
    }
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}",
            "config":{{"mediaType":"a/b","digest":"{}","size":2}},
            "layers":[],"annotations":{{"number":"{number}"}}}}"#,
        media::OCI_MANIFEST,
        digest_of(CONFIG)
    )
    .into_bytes()
}

/// The images of an index; an image has none.
fn children(number: u64) -> Vec<u64> {
    let first = number.checked_sub(MANIFESTS);
    first.map(|first| vec![first, (first + 1) % MANIFESTS]).unwrap_or_default()
}

fn index(children: &[u64]) -> Vec<u8> {
    let entries = children.iter().map(|number| {
        let bytes = manifest(*number);
        let media_type = media_type(*number);
        let (digest, size) = (digest_of(&bytes), bytes.len());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    });
    let entries = entries.collect::<Vec<_>>().join(",");
    let index = media::OCI_INDEX;
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[{entries}]}}"#);
    text.into_bytes()
}

fn media_type(number: u64) -> &'static str {
    if number < MANIFESTS { media::OCI_MANIFEST } else { media::OCI_INDEX }
}

impl World {
    fn device(&self) -> Store {
        self.device.lock().unwrap().clone()
    }

    fn note(&self, text: String) {
        self.told.lock().unwrap().log.push(text);
    }

    /// What a client of the device may do to this repository now.
    fn may_write(&self, repository: &RepositoryName) -> bool {
        let config = self.device().self_config().unwrap();
        config.is_some_and(|config| Scope::of_config(&config).covers(repository))
    }

    /// Ends when the power of the device fails.
    async fn power_fails(&self) {
        while !self.dark.swap(false, Ordering::Relaxed) {
            smol::future::yield_now().await;
        }
    }

    async fn write(&self) {
        self.writing.fetch_add(1, Ordering::Relaxed);
        self.change().await;
        self.writing.fetch_sub(1, Ordering::Relaxed);
    }

    /// One random thing that the writer does.
    async fn change(&self) {
        let app = repository(self.dice.roll(REPOSITORIES));
        let tag: Tag = format!("v{}", self.dice.roll(TAGS)).parse().unwrap();
        let number = self.dice.roll(MANIFESTS + INDEXES);
        let digest = digest_of(&manifest(number));
        let kind = self.dice.roll(12);
        if self.quiet.load(Ordering::Relaxed) || !self.may_write(&app) {
            return;
        }
        let short = &digest.hex()[..6].to_owned();
        match kind {
            0..=5 => self.push(&app, &[tag], number).await,
            6 => {
                let all = (0..TAGS).map(|number| format!("v{number}").parse().unwrap());
                self.push(&app, &all.collect::<Vec<_>>(), number).await;
            }
            7 => self.push(&app, &[], number).await,
            8 | 9 => {
                let result =
                    self.device().delete_tag(&app, &tag, Precondition::None, &Origin::Client).await;
                let mut told = self.told.lock().unwrap();
                let was = told.untagged(&app, &tag);
                told.log.push(format!("  writer: delete {app}:{tag}: {}", result.is_ok()));
                assert_eq!(result.ok().flatten(), was, "{app}:{tag}");
            }
            _ => {
                let result = self.device().delete_manifest(&app, &digest, &Origin::Client).await;
                let mut told = self.told.lock().unwrap();
                told.log.push(format!("  writer: delete {app}@{short}: {}", result.is_ok()));
                let was = told.deleted(&app, &digest);
                let expected = if was { Ok(()) } else { Err(StoreError::NotFound) };
                assert_eq!(result, expected, "{app}@{short}");
            }
        }
    }

    async fn push(&self, app: &RepositoryName, tags: &[Tag], number: u64) {
        let put = store_push(&self.device(), app, tags, number, Origin::Client).await;
        if let PutOutcome::ChildMissing(_) = put {
            return;
        }
        assert_eq!(put, PutOutcome::Stored);
        let digest = digest_of(&manifest(number));
        let mut told = self.told.lock().unwrap();
        let short = &digest.hex()[..6];
        let names: Vec<&str> = tags.iter().map(Tag::as_str).collect();
        told.log.push(format!("  writer: push {app}:{} {short}", names.join(",")));
        told.pushed(app, tags, &digest);
    }

    async fn push_meanwhile(&self) {
        let Some(number) = self.pushed_meanwhile.lock().unwrap().take() else {
            return;
        };
        for store in [&self.device(), &self.root] {
            store_push(store, &repository(0), &[], number, Origin::Client).await;
        }
        for (number, _) in self.device().outbox(9).unwrap() {
            self.device().outbox_delivered(number, 0).await.unwrap();
        }
    }

    /// Pushes the images again that were deleted below an index, which cannot go up without.
    async fn mend_indexes(&self) {
        for (app, number) in
            (0..REPOSITORIES).flat_map(|app| (0..INDEXES).map(move |number| (app, number)))
        {
            let (app, number) = (repository(app), MANIFESTS + number);
            let wanted = (app.clone(), digest_of(&manifest(number)));
            if !self.told.lock().unwrap().manifests.contains(&wanted) {
                continue;
            }
            for child in children(number) {
                let child_key = (app.clone(), digest_of(&manifest(child)));
                if !self.told.lock().unwrap().manifests.contains(&child_key) {
                    self.push(&app, &[], child).await;
                }
            }
        }
    }

    /// Ends when the writer knows how its changes ended: one may be at the device before that.
    async fn writer_is_told(&self) {
        while self.writing.load(Ordering::Relaxed) > 0 {
            smol::future::yield_now().await;
        }
    }

    /// All that a backup has of the rows. Until it is restored the writer makes no change.
    async fn back_up(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.quiet.store(true, Ordering::Relaxed);
        self.writer_is_told().await;
        self.device().rows_of_backup()
    }

    /// The device has the state of its backup, in another life of its store.
    async fn restore(&self, rows: Vec<(Vec<u8>, Vec<u8>)>) {
        let store = Store::restored(self.device().sys().clone(), rows);
        let content = (0..MANIFESTS + INDEXES).map(manifest).chain([CONFIG.to_vec()]);
        for bytes in content {
            store.blob_put(&digest_of(&bytes), bytes).await.unwrap();
        }
        *self.device.lock().unwrap() = store;
        self.quiet.store(false, Ordering::Relaxed);
    }

    async fn maybe_write(&self) {
        if self.calm.load(Ordering::Relaxed) || self.dice.roll(6) > 0 {
            return;
        }
        match self.two_writers.load(Ordering::Relaxed) {
            true => self.scribble().await,
            false => self.write().await,
        }
    }

    /// The device has what its writer was told.
    async fn check(&self, what: &str) {
        self.writer_is_told().await;
        let tags = tags(&self.device());
        let told = self.told.lock().unwrap();
        let missing = told.missing(&manifests(&self.device()));
        if tags != told.tags || !missing.is_empty() {
            let (tags, wanted, log) = (shown(&tags), shown(&told.tags), told.log.join("\n"));
            panic!("{what}\nthe device lacks {missing:?} and has {tags}\nwanted {wanted}\n{log}");
        }
    }
}

async fn store_push(
    store: &Store,
    app: &RepositoryName,
    tags: &[Tag],
    number: u64,
    origin: Origin,
) -> PutOutcome {
    put(store, app, tags, (manifest(number), media_type(number)), origin).await
}

async fn put(
    store: &Store,
    app: &RepositoryName,
    tags: &[Tag],
    (bytes, media_type): (Vec<u8>, &str),
    origin: Origin,
) -> PutOutcome {
    let digest = digest_of(&bytes);
    let content = store.blob_put(&digest, bytes.clone()).await.unwrap();
    let put = PutManifest {
        content,
        media_type: media_type.to_owned(),
        bytes_len: bytes.len() as u64,
        parsed: Manifest::parse(Some(media_type), &bytes).unwrap(),
        tags: tags.to_vec(),
        precondition: Precondition::None,
        required: if origin == Origin::Client { Required::All } else { Required::Nothing },
        origin,
    };
    store.put_manifest(app, put).await.unwrap()
}

fn tags(store: &Store) -> Tags {
    let mut all = Tags::new();
    for number in 0..REPOSITORIES {
        let app = repository(number);
        for (tag, row) in store.tags(&app, None, 99).unwrap() {
            all.insert((app.clone(), tag), row.digest);
        }
    }
    all
}

fn manifests(store: &Store) -> Manifests {
    let mut all = Manifests::new();
    for number in 0..REPOSITORIES {
        let app = repository(number);
        let here = store.manifests(&app, None, 99).unwrap();
        all.extend(here.into_iter().map(|(digest, _)| (app.clone(), digest)));
    }
    all
}

fn shown(tags: &Tags) -> String {
    let one = |((app, tag), digest): (&(RepositoryName, Tag), &Digest)| {
        format!("{app}:{tag}={}", &digest.hex()[..6])
    };
    tags.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn sys(spawner: &Spawner, hands: &Arc<Hands>) -> Sys {
    Sys { clock: hands.clone(), ..Sys::real(spawner.clone()) }
}

/// A device and its parent.
struct Tree {
    world: Arc<World>,
    hands: Arc<Hands>,
    /// Of the device.
    disk: MemoryDisk,
    connection: String,
    _server: smol::Task<()>,
}

impl Tree {
    /// The sync of a device that starts.
    async fn start(&self) -> Engine {
        let store = self.world.device();
        let sys = store.sys();
        let parsed = ConnectionString::parse(&self.connection, |_| None);
        let connection = parsed.map_err(|error| error.to_string());
        let options = EngineOptions {
            version: "1".to_owned(),
            login_server: "dock.example:5000".to_owned(),
            tls: false,
            instance_id: "i".to_owned(),
            private_ca: false,
            contacts: Contacts::new(sys),
        };
        let client = Client::new(sys, ClientOptions::default()).unwrap();
        let engine = Engine::new(
            store.clone(),
            client,
            connection.unwrap_or_else(|e| panic!("{e}")),
            options,
        );
        engine.activate().await.unwrap();
        engine
    }
}

async fn tree(spawner: Spawner, seed: u64) -> Tree {
    let hands = Arc::new(Hands(AtomicU64::new(0), SystemClock::new()));
    let (root_sys, device_sys) = (sys(&spawner, &hands), sys(&spawner, &hands));
    let disk = MemoryDisk::new();
    let root = Store::in_memory(root_sys.clone());
    let device = Store::in_memory_on(device_sys.clone(), disk.clone());
    for (store, number) in
        [&root, &device].into_iter().flat_map(|s| (0..REPOSITORIES).map(move |n| (s, n)))
    {
        let config = digest_of(CONFIG);
        let lease = store.blob_put(&config, CONFIG.to_vec()).await.unwrap();
        store.link_blob(&repository(number), &lease, CONFIG.len() as u64).await.unwrap();
    }
    let new = NewConnectedRegistry {
        name: "dock01".parse().unwrap(),
        mode: (seed == READ_ONLY).then_some(Mode::ReadOnly),
        parent: None,
        repositories: (0..REPOSITORIES).map(|n| repository(n).as_str().parse().unwrap()).collect(),
        sync_token: None,
        client_tokens: Vec::new(),
        settings: Settings::default(),
    };
    let passwords = root.connected_registry_create(new).await.unwrap().0.passwords;
    let listener = Listener::tcp("127.0.0.1:0").unwrap();
    let address = listener.local_address().unwrap();
    let auth_options = AuthOptions {
        role: Role::Root,
        registry_name: "myregistry".into(),
        login_server: LoginServer {
            listeners: vec![LoginListener { address, tls: false }],
            ..LoginServer::default()
        },
        access_lifetime: Duration::from_secs(1 << 30),
        refresh_lifetime: Duration::from_secs(600),
        anonymous_pull: Vec::new(),
        identity: keys::make().unwrap(),
    };
    let auth = Auth::new(root.clone(), auth_options).unwrap();
    let world = Arc::new(World {
        hook: Mutex::default(),
        dice: Dice(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)),
        calm: AtomicBool::new(true),
        two_writers: AtomicBool::new(false),
        dark: AtomicBool::new(false),
        pushed_meanwhile: Mutex::default(),
        delivers_meanwhile: AtomicBool::new(false),
        holds_listing: AtomicBool::new(false),
        is_held: AtomicBool::new(false),
        is_cut: AtomicBool::new(false),
        pushed_then: Mutex::default(),
        fails: Mutex::default(),
        refuses: AtomicBool::new(false),
        started_anew: AtomicBool::new(false),
        versions: Versions::default(),
        requests: AtomicU64::new(0),
        quiet: AtomicBool::new(false),
        writing: AtomicU64::new(0),
        device: Mutex::new(device.clone()),
        root: root.clone(),
        told: Mutex::default(),
    });
    let registry_options =
        RegistryOptions { role: Role::Root, namespaces: Vec::new(), login_server: None };
    let gateway = || {
        let contacts = Contacts::new(&root_sys);
        let registry = "myregistry".to_owned();
        let options = GatewayOptions { role: Role::Root, registry, contacts };
        Gateway::new(root.clone(), auth.clone(), options)
    };
    let (gateway, gateway_anew) = (gateway(), gateway());
    let parent = Parent {
        world: world.clone(),
        registry: Registry::new(root.clone(), auth.clone(), registry_options),
        tokens: Tokens::new(&root, auth),
        gateway,
        gateway_anew,
    };
    let service = Service {
        sys: root_sys,
        handler: Arc::new(parent),
        admission: Admission::new(100),
        shutdown: Shutdown::default(),
        deadlines: Deadlines::default(),
        memory: Budget::new(64 << 20),
    };
    let server = spawner.spawn(serve(service, listener, None));
    let connection = format!(
        "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword={};\
         ParentGatewayEndpoint={address};ParentEndpointProtocol=http",
        passwords[0].value.expose()
    );
    Tree { world, hands, disk, connection, _server: server }
}

async fn run(spawner: Spawner, seed: u64) {
    let tree = tree(spawner, seed).await;
    let (world, hands) = (&tree.world, &tree.hands);
    let root = &world.root;
    let mut now = tree.start().await;
    now.pull_once().await.unwrap();
    world.calm.store(false, Ordering::Relaxed);
    let (mut withheld, mut backup, mut restores) = (BTreeSet::new(), None, 0);
    for step in 0..STEPS {
        let mut stays = true;
        match world.dice.roll(20) {
            0..=3 if backup.is_some() => {
                world.note(format!("{step}: the device is restored"));
                world.restore(backup.take().unwrap()).await;
                (stays, restores) = (false, restores + 1);
            }
            0..=7 => world.write().await,
            8..=11 => {
                world.note(format!("{step}: push"));
                stays = until_dark(world, Box::pin(now.push_once())).await;
            }
            12..=14 => {
                world.note(format!("{step}: pull"));
                stays = until_dark(world, Box::pin(now.pull_once())).await;
            }
            15 => {
                world.note(format!("{step}: both"));
                let (pull, push) = (now.pull_once(), now.push_once());
                let both = async {
                    let (pulled, pushed) = smol::future::zip(pull, push).await;
                    pulled.and(pushed)
                };
                stays = until_dark(world, Box::pin(both)).await;
            }
            16 => {
                let number = world.dice.roll(REPOSITORIES);
                let app = repository(number);
                let granted = withheld.remove(&number) || !withheld.insert(number);
                world.note(format!("{step}: {app} granted: {granted}"));
                grant(root, &app, granted).await;
            }
            17 if restores < RESTORES_MAX && backup.is_none() => {
                world.note(format!("{step}: a backup"));
                backup = Some(world.back_up().await);
            }
            17 => stays = false,
            18 => {
                world.device().request_reconcile().await.unwrap();
            }
            _ => {
                hands.0.fetch_add(1 + world.dice.roll(4000), Ordering::Relaxed);
            }
        }
        if !stays {
            world.note(format!("{step}: the device starts anew"));
            now = tree.start().await;
        }
        world.check(&format!("seed {seed}, step {step}")).await;
    }
    world.quiet.store(false, Ordering::Relaxed);
    world.calm.store(true, Ordering::Relaxed);
    world.note("calm".to_owned());
    let device = &world.device();
    for number in withheld {
        grant(root, &repository(number), true).await;
    }
    world.mend_indexes().await;
    let mut rounds = 0;
    loop {
        let pulled = now.pull_once().await;
        let pushed = now.push_once().await;
        world.check(&format!("seed {seed}, at rest: {pulled:?} {pushed:?}")).await;
        if device.outbox(9).unwrap().is_empty() && device.refused_changes(9).unwrap().is_empty() {
            break;
        }
        rounds += 1;
        if rounds > ROUNDS_MAX {
            let log = world.told.lock().unwrap().log.join("\n");
            panic!("seed {seed}: {:?} {pushed:?}\n{log}", device.outbox(9).unwrap());
        }
        hands.0.fetch_add(90_000, Ordering::Relaxed);
    }
    device.request_reconcile().await.unwrap();
    now.pull_once().await.unwrap();
    world.check(&format!("seed {seed}, compared")).await;
    let told = world.told.lock().unwrap();
    let there = tags(&world.root);
    let wanted = shown(&told.tags);
    let log = told.log.join("\n");
    assert!(
        there == told.tags,
        "seed {seed}\nat the root {}\nwanted {wanted}\n{log}",
        shown(&there)
    );
    let lost = told.missing(&manifests(&world.root));
    assert!(lost.is_empty(), "seed {seed}\nnot at the root: {lost:?}\n{log}");
    assert!(device.conflicts(99).unwrap().is_empty(), "seed {seed}\n{log}");
}

/// Does what the device does until its power fails; `false`: it did.
async fn until_dark(
    world: &World,
    work: Pin<Box<dyn Future<Output = Result<(), SyncError>> + '_>>,
) -> bool {
    let work = async {
        let done = work.await;
        world.note(format!("  done: {done:?}"));
        true
    };
    let dark = async {
        world.power_fails().await;
        false
    };
    smol::future::or(dark, work).await
}

async fn grant(root: &Store, app: &RepositoryName, add: bool) {
    let pattern = vec![app.as_str().parse().unwrap()];
    let (added, removed) = if add { (pattern, Vec::new()) } else { (Vec::new(), pattern) };
    root.permissions_update("dock01".parse().unwrap(), added, removed).await.unwrap();
}

/// Runs it where a future of its size has room: it does not fit on the stack of a test.
fn boxed(spawner: &Spawner, work: impl Future<Output = ()>) {
    let work: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(work);
    spawner.run(1, work);
}

/// The seed or the number of seeds that the environment names, else so many.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SKERRY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SKERRY_SEEDS").unwrap_or(usual),
    }
}

#[test]
fn f130_what_a_device_acknowledged_arrives_whatever_becomes_of_its_deliveries() {
    for seed in seeds(SEEDS) {
        let spawner = Spawner::new();
        boxed(&spawner, run(spawner.clone(), seed));
    }
}

//! The configuration as the program uses it: every value with its unit and its default.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::Origin;
use super::value::ByteSize;
use crate::types::limits::{BLOCKING_THREADS, BODY_MEMORY_BYTES, CONNECTIONS_MAX, UPLOADS_MAX};
use crate::types::schedule::Schedule;
use crate::types::{Namespace, RepositoryPattern, Role};

/// A text that must not be shown: it has no `Debug`, and is printed nowhere.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself; never pass it to a log or an error message.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The whole configuration of a node.
#[derive(Clone, Default)]
pub struct Config {
    /// Names by which clients know the node.
    pub registry: Registry,
    /// Where it listens.
    pub listen: Listen,
    /// Where its state is.
    pub storage: Storage,
    /// The certificate of its listeners.
    pub tls: Tls,
    /// `Some`: this node is a connected registry; the connection string may still be missing.
    pub parent: Option<Parent>,
    /// Lifetimes of what it signs.
    pub tokens: Tokens,
    /// When and what garbage it collects.
    pub gc: Gc,
    /// How it looks for damaged content.
    pub scrub: Scrub,
    /// What it writes to the log.
    pub log: Log,
    /// What it may use of its machine.
    pub limits: Limits,
}

impl Config {
    /// The role that the configuration names; `None`: the store says what it is, and a new one
    /// becomes a root.
    pub fn named_role(&self) -> Option<Role> {
        match (self.registry.role, &self.parent) {
            (RoleSetting::Root, _) => Some(Role::Root),
            (RoleSetting::Connected, _) | (RoleSetting::Auto, Some(_)) => Some(Role::Connected),
            (RoleSetting::Auto, None) => None,
        }
    }

    /// The parent, when there is a connection string for it.
    pub fn reachable_parent(&self) -> Option<&Parent> {
        self.parent.as_ref().filter(|parent| !parent.connection_string.is_empty())
    }
}

/// `[registry]`: names by which clients know the node.
#[derive(Clone)]
pub struct Registry {
    /// What the node is. Default: `auto`.
    pub role: RoleSetting,
    /// Name of the root, 5 to 50 letters or digits. Default: `skerry`. A connected registry takes
    /// its name from the connection string.
    pub name: String,
    /// Part of the gateway's host name, `<name>.<region>.data.<suffix>`. Default: `local`.
    pub region: String,
    /// End of the gateway's host name. Default: none; the gateway is known by its address then.
    pub suffix: Option<String>,
    /// Host, with the port unless it is 80 or 443, that clients use. Default: any is accepted.
    pub login_server: Option<String>,
    /// Host and port of the root's gateway, as connection strings name it. Default: the derived
    /// host with the listener's port, or the listener's address without `suffix`.
    pub gateway_server: Option<String>,
    /// What clients speak when something in front of the node ends TLS. Default: as listened.
    pub public_scheme: Option<Scheme>,
    /// Other registries that this node mirrors, each `host` or `host=prefix`: where a request
    /// with `?ns=host` finds its repository. Default: any `ns` is taken, names stay as they are.
    pub namespaces: Vec<Namespace>,
    /// What repositories may hold, each `repository=size`; the first that fits counts. Default:
    /// any amount.
    pub quotas: Vec<Quota>,
    /// Repositories from which everybody may pull without a login, each a name, `team/*` or `*`.
    /// Default: none.
    pub anonymous_pull: Vec<RepositoryPattern>,
}

impl Registry {
    /// The host of the root's gateway, `<name>.<region>.data.<suffix>`, when there is a suffix.
    pub fn gateway_host(&self) -> Option<String> {
        let suffix = self.suffix.as_ref()?;
        Some(format!("{}.{}.data.{suffix}", self.name, self.region).to_ascii_lowercase())
    }
}

/// What the repositories of a pattern may hold, each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Which repositories.
    pub repositories: RepositoryPattern,
    /// How much.
    pub size: ByteSize,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            role: RoleSetting::Auto,
            name: "skerry".to_owned(),
            region: "local".to_owned(),
            suffix: None,
            login_server: None,
            gateway_server: None,
            public_scheme: None,
            namespaces: Vec::new(),
            quotas: Vec::new(),
            anonymous_pull: Vec::new(),
        }
    }
}

/// `registry.role`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RoleSetting {
    /// A connected registry with a parent; otherwise what the store is, and a new one a root.
    #[default]
    Auto,
    /// A root.
    Root,
    /// A connected registry, also while it has no connection string: images are made with this.
    Connected,
}

/// How clients reach a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Plain.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// As URLs write it.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// `[listen]`: where the node listens.
#[derive(Clone)]
pub struct Listen {
    /// The login server: registry API and tokens, on a connected registry also the gateway.
    /// Default: `127.0.0.1:5000`.
    pub login: Vec<Listener>,
    /// The gateway of the root. Default: `127.0.0.1:5001`. No effect on a connected registry.
    pub gateway: Vec<Listener>,
    /// Threads of the executor, 1 to 64. Default: 1.
    pub threads: usize,
    /// The admin socket. Default: `$RUNTIME_DIRECTORY/admin.sock`, else
    /// `<state_dir>/admin.sock`.
    pub admin: PathBuf,
}

impl Default for Listen {
    fn default() -> Listen {
        let loopback =
            |port| Listener { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), tls: None };
        Listen {
            login: vec![loopback(5000)],
            gateway: vec![loopback(5001)],
            threads: 1,
            admin: PathBuf::new(),
        }
    }
}

/// One address to listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Address and port; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Whether it speaks TLS; `None`: as `tls.mode` says.
    pub tls: Option<bool>,
}

impl Listener {
    /// Whether it speaks TLS under these settings.
    pub fn has_tls(&self, tls: &Tls) -> bool {
        self.tls.unwrap_or(tls.mode != TlsMode::Off)
    }
}

/// `[storage]`: where the state is.
#[derive(Clone)]
pub struct Storage {
    /// Directory of all state; another than `$STATE_DIRECTORY` is refused. Default:
    /// `/var/lib/skerry`, or `./skerry-data` when there is no configuration file.
    pub state_dir: PathBuf,
    /// Free space, bytes, below which pushes are refused; never less than 256 KiB, nor more than
    /// 5 % of the file system. Default: 64 MiB.
    pub reserve: ByteSize,
    /// When content is hashed beside scrubs. Default: `first-send-per-boot`.
    pub verify: Verify,
}

impl Default for Storage {
    fn default() -> Storage {
        Storage {
            state_dir: PathBuf::new(),
            reserve: ByteSize(64 * 1024 * 1024),
            verify: Verify::FirstSendPerBoot,
        }
    }
}

/// `[tls]`: the certificate of the listeners.
#[derive(Clone, Default)]
pub struct Tls {
    /// Default: `off`.
    pub mode: TlsMode,
    /// PEM file with the certificate chain, for mode `files`.
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key, for mode `files`.
    pub private_key: Option<PathBuf>,
}

/// Where the certificate comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    /// Listeners are plain.
    #[default]
    Off,
    /// Made on first start and kept in the state directory.
    SelfSigned,
    /// Read from `certificate` and `private_key`, and again when they change.
    Files,
}

/// `[parent]`: makes the node a connected registry.
#[derive(Clone, Default)]
pub struct Parent {
    /// Default: `skerry`.
    pub kind: ParentKind,
    /// The connection string, from whichever place it came; empty when none has come yet, and when
    /// the kind is `oci`.
    pub connection_string: Secret,
    /// Which place that is.
    pub connection_string_origin: Origin,
    /// Why the first place that has one cannot be read: it is waited for.
    pub unreadable: Option<String>,
    /// File with the connection string. Wins over the key `connection_string`.
    pub connection_string_file: Option<PathBuf>,
    /// `host[:port]` that replaces `ParentGatewayEndpoint` of the connection string.
    pub gateway_endpoint: Option<String>,
    /// PEM file with certificates that are trusted beside the public roots.
    pub ca_file: Option<PathBuf>,
    /// Kind `oci`: base URL of the registry.
    pub url: Option<String>,
    /// Kind `oci`: patterns of the repositories to draw.
    pub repositories: Vec<String>,
    /// Kind `oci`: user name there.
    pub username: Option<String>,
    /// Kind `oci`: file with the password there.
    pub password_file: Option<PathBuf>,
}

/// What the parent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ParentKind {
    /// Another node of a skerry tree.
    #[default]
    Skerry,
    /// Any OCI registry.
    Oci,
}

/// `[tokens]`: lifetimes of what the node signs.
#[derive(Clone)]
pub struct Tokens {
    /// Of an access token, 1 minute to 24 hours. Default: 75 minutes.
    pub access_lifetime: Duration,
    /// Of a refresh token, 1 minute to 30 days. Default: 3 hours.
    pub refresh_lifetime: Duration,
}

impl Default for Tokens {
    fn default() -> Tokens {
        Tokens {
            access_lifetime: Duration::from_secs(75 * 60),
            refresh_lifetime: Duration::from_secs(3 * 3600),
        }
    }
}

/// `[gc]`: garbage collection.
#[derive(Clone)]
pub struct Gc {
    /// Whether it runs by itself. Default: true.
    pub enabled: bool,
    /// When it runs: five cron fields in UTC; once a day while the time is not known. Default:
    /// `0 0 * * *`.
    pub schedule: Schedule,
    /// How long content must have been unreferenced and untouched before it is removed. Default:
    /// 1 hour.
    pub grace: Duration,
    /// How long the root keeps a manifest that has no tag. Default: for ever.
    pub untagged_manifests: Option<Duration>,
}

impl Default for Gc {
    fn default() -> Gc {
        Gc {
            enabled: true,
            schedule: Schedule::daily(),
            grace: Duration::from_secs(3600),
            untagged_manifests: None,
        }
    }
}

/// `[scrub]`: hashing all content in the background.
#[derive(Clone)]
pub struct Scrub {
    /// Whether it runs by itself. Default: true.
    pub enabled: bool,
    /// How much is read per second, bytes; more when `max_age` could not be kept otherwise.
    /// Default: 8 MiB.
    pub rate: ByteSize,
    /// Everything is hashed again within this time. Default: 7 days.
    pub max_age: Duration,
}

impl Default for Scrub {
    fn default() -> Scrub {
        Scrub {
            enabled: true,
            rate: ByteSize(8 * 1024 * 1024),
            max_age: Duration::from_secs(7 * 86_400),
        }
    }
}

/// When content is hashed beside scrubs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verify {
    /// After an unclean stop what came last; otherwise by scrubs only.
    Scrub,
    /// Also while it is first sent whole after each start: the connection ends before the last
    /// byte of what is damaged.
    #[default]
    FirstSendPerBoot,
    /// Also before it is first read after each start.
    FirstReadPerBoot,
}

/// `[log]`: what the node writes to the log.
#[derive(Clone)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`. Default: `info`.
    pub level: LevelFilter,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: LevelFilter::Info }
    }
}

/// `[limits]`: what the node may use of its machine; never more than the built-in ceilings.
#[derive(Clone)]
pub struct Limits {
    /// Memory of the whole process, bytes, that the other limits are checked against.
    /// Default: not checked.
    pub memory: Option<ByteSize>,
    /// Connections served at once. Default: 1024.
    pub connections: usize,
    /// Memory for the bodies of all requests together, bytes; at least twice the largest body.
    /// Default: 32 MiB.
    pub body_memory: ByteSize,
    /// Open uploads. Default: 1000.
    pub uploads: usize,
    /// Threads for work that blocks, 1 to 64; three of eight write what comes of uploads. Default:
    /// 8.
    pub blocking_threads: usize,
    /// Cache of the index, bytes, 1 MiB to 1 GiB. Default: 4 MiB.
    pub index_cache: ByteSize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory: None,
            connections: CONNECTIONS_MAX,
            body_memory: ByteSize(BODY_MEMORY_BYTES),
            uploads: UPLOADS_MAX,
            blocking_threads: BLOCKING_THREADS,
            index_cache: ByteSize(4 * 1024 * 1024),
        }
    }
}

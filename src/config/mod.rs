//! One typed configuration, merged from its layers. A later layer wins, key by key:
//!
//! 1. built-in values ([`Config::default`]);
//! 2. `/usr/share/skerry/board.toml`, the board that the image was made for;
//! 3. `/usr/lib/skerry/conf.d/*.toml`, the maker of the image;
//! 4. `/etc/skerry/skerry.toml`, or the file of `--config`;
//! 5. `/etc/skerry/conf.d/*.toml`;
//! 6. `/run/skerry/conf.d/*.toml`, until the next boot;
//! 7. the environment: `SKERRY_SECTION__KEY`, and the `ACR_*` names of Azure's runtime;
//! 8. flags: `--set section.key=value`.
//!
//! Files of a directory are read in the order of their names. A file masks files of the same name
//! in earlier directories, also when it is empty, as systemd does it. With `--config` the layers
//! below `/etc` and `/run` are left out, so that two nodes on one machine do not mix; board and
//! maker describe the machine itself and stay.
//!
//! An unknown key, a wrong type or a value out of range is an error that names file, line and key.

mod board;
mod explain;
mod finish;
mod keys;
mod layers;
mod model;
mod plan;
mod source;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use board::{BoardProfile, read_board};
pub use explain::{Explained, explain};
pub use model::{
    Config, Gc, Limits, Listen, Listener, Log, Parent, ParentKind, Quota, Registry, RoleSetting,
    Scheme, Scrub, Secret, Storage, Tls, TlsMode, Tokens, Verify,
};
pub use plan::{FIXED_BYTES, MemoryPlan, PER_CONNECTION_BYTES, PER_THREAD_BYTES};
pub use source::{MapSource, Source, SystemSource};
pub use value::ByteSize;

use layers::Merge;

/// The board profile that an image carries.
pub const BOARD_FILE: &str = "/usr/share/skerry/board.toml";
/// Where the maker of an image puts settings.
pub const VENDOR_DIR: &str = "/usr/lib/skerry/conf.d";
/// The owner's configuration.
pub const MAIN_FILE: &str = "/etc/skerry/skerry.toml";
/// Where the owner's tools put settings.
pub const LOCAL_DIR: &str = "/etc/skerry/conf.d";
/// Settings until the next boot.
pub const RUNTIME_DIR: &str = "/run/skerry/conf.d";
/// State, when a configuration file exists and nothing else says where.
pub const STATE_DIR: &str = "/var/lib/skerry";
/// State, when there is no configuration file at all.
pub const STATE_DIR_WITHOUT_CONFIG: &str = "./skerry-data";
/// The name of the connection string among the service's credentials.
pub const CONNECTION_STRING_CREDENTIAL: &str = "skerry.connection-string";

/// What the command line says about the configuration.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// `--config FILE`.
    pub file: Option<PathBuf>,
    /// `--set section.key=value`, in order.
    pub set: Vec<String>,
    /// `--board FILE`: another board profile than [`BOARD_FILE`].
    pub board: Option<PathBuf>,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// No layer sets it.
    #[default]
    BuiltIn,
    /// A line of a file; lines count from 1.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A credential that the service manager passed.
    Credential(String),
    /// `--set`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built-in"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Credential(name) => write!(f, "credential {name}"),
            Origin::Flag => f.write_str("--set"),
        }
    }
}

/// A configuration that cannot be used; prints one line with its place, the key and the cure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(pub String);

impl ConfigError {
    /// The fault of a value: where it is, its key, what is wrong.
    pub fn at(origin: &Origin, key: &str, message: impl fmt::Display) -> ConfigError {
        match origin {
            Origin::BuiltIn => ConfigError(format!("{key}: {message}")),
            _ => ConfigError(format!("{origin}: {key}: {message}")),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The merged configuration and how it came about.
pub struct Loaded {
    /// Ready to use.
    pub config: Config,
    /// Who set each key that is not built in.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What is set but has no effect, for people.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// Who set `key`.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::BuiltIn)
    }

    /// What whoever uses the state directory from a shell is told: that a service may not.
    pub fn unmanaged_state_dir(&self) -> Option<String> {
        finish::unmanaged_state_dir(self)
    }
}

/// Reads and merges every layer. Errors are for people, one line; the process exits with 78.
pub fn load(options: &Options, source: &dyn Source) -> Result<Loaded, ConfigError> {
    let mut merge = Merge::new(source);
    merge.board(options)?;
    merge.files(options)?;
    merge.environment()?;
    merge.flags(options)?;
    finish::finish(merge)
}

#[cfg(test)]
mod tests;

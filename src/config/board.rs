//! The board profile: ordinary keys of the configuration, and facts about the hardware that
//! images and tests are made from.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::layers::syntax_error;
use super::{ConfigError, Source};

/// The facts. The program itself uses only the ordinary keys beside them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct BoardProfile {
    /// Profile whose values hold where this one has none: the file of that name beside this one,
    /// or one directory up.
    pub inherit: Option<String>,
    /// The machine.
    #[serde(default)]
    pub board: Board,
    /// Partitions of its image.
    #[serde(default)]
    pub image: Image,
    /// How it runs in the emulator.
    pub test: Option<Emulator>,
}

/// `[board]`
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Board {
    /// Equal to the name of its directory.
    pub id: String,
    /// For people.
    pub name: String,
    /// As `uname -m` prints it.
    pub arch: String,
    /// `MACHINE` in Yocto.
    pub machine: String,
    /// Processor cores.
    pub cores: u32,
    /// Memory, MiB.
    pub ram_mib: u32,
    /// Smallest storage it is sold with, MiB.
    pub storage_mib: u32,
    /// `emmc`, `sd`, `nvme` or `virtio`.
    pub storage: String,
    /// Whether it keeps time without power.
    pub rtc: bool,
    /// Whether the processor has AES instructions.
    pub aes: bool,
    /// Whether it has a hardware watchdog (for PID 1, never for us).
    pub watchdog: bool,
}

/// `[image]`
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// Size of the boot partition, MiB.
    pub boot_mib: u32,
    /// Size of each of the two root partitions, MiB.
    pub root_mib: u32,
    /// Size of the data partition before it grows, MiB.
    pub data_mib: u32,
    /// File system label of the data partition.
    pub data_label: String,
}

/// `[test]`
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emulator {
    /// The emulator's program.
    pub program: String,
    /// `-machine`.
    pub machine: String,
    /// `-m`, MiB.
    pub memory_mib: u32,
    /// Seconds from power on to READY.
    pub boot_s: u32,
}

impl BoardProfile {
    /// Top-level names that are facts, not configuration.
    pub(super) const SECTIONS: [&'static str; 4] = ["inherit", "board", "image", "test"];
}

/// Reads the facts of a profile, without what it inherits.
pub fn read_board(path: &Path, text: &str) -> Result<BoardProfile, ConfigError> {
    toml::from_str(text).map_err(|error| syntax_error(path, text, &error))
}

/// The profile that this one inherits from: path and text.
pub(super) fn base_of(
    source: &dyn Source,
    path: &Path,
    text: &str,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let Some(name) = read_board(path, text)?.inherit else {
        return Ok(None);
    };
    let error = |message: String| ConfigError(format!("{}: inherit: {message}", path.display()));
    if name.is_empty() || name.contains(['/', '.']) {
        return Err(error(format!("must be the name of a profile, not \"{name}\"")));
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    for candidate in [dir.join(format!("{name}.toml")), dir.join(format!("../{name}.toml"))] {
        let found = source.read(&candidate).map_err(|e| error(format!("cannot read: {e}")))?;
        if let Some(text) = found {
            if read_board(&candidate, &text)?.inherit.is_some() {
                return Err(error(format!("{name} itself inherits; one level is all there is")));
            }
            return Ok(Some((candidate, text)));
        }
    }
    Err(error(format!("there is no {name}.toml beside it")))
}

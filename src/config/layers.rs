//! Reads the layers and merges them, remembering who set what.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::board::{self, BoardProfile};
use super::keys;
use super::model::Config;
use super::value::Value;
use super::{
    BOARD_FILE, ConfigError, LOCAL_DIR, MAIN_FILE, Options, Origin, RUNTIME_DIR, Source, VENDOR_DIR,
};

/// Files in one configuration directory.
const FILES_MAX: usize = 256;

/// Variables of Azure's runtime that are keys under another name.
const ALIASES: [(&str, &str); 1] = [("ACR_REGISTRY_LOGIN_SERVER", "registry.login_server")];

/// A merge under way.
pub(super) struct Merge<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) config: Config,
    pub(super) origins: BTreeMap<&'static str, Origin>,
    pub(super) warnings: Vec<String>,
    /// The environment.
    pub(super) variables: BTreeMap<String, String>,
    /// Whether the owner gave any file: then state goes to the system's place.
    pub(super) has_files: bool,
}

impl<'a> Merge<'a> {
    pub(super) fn new(source: &'a dyn Source) -> Merge<'a> {
        Merge {
            source,
            config: Config::default(),
            origins: BTreeMap::new(),
            warnings: Vec::new(),
            variables: source.variables(),
            has_files: false,
        }
    }

    /// The board profile, after the one it inherits from.
    pub(super) fn board(&mut self, options: &Options) -> Result<(), ConfigError> {
        let path = options.board.clone().unwrap_or_else(|| PathBuf::from(BOARD_FILE));
        let Some(text) = self.read(&path)? else {
            return match options.board {
                Some(_) => Err(ConfigError(format!("{}: no such file", path.display()))),
                None => Ok(()),
            };
        };
        if let Some((base, base_text)) = board::base_of(self.source, &path, &text)? {
            self.text(&base, &base_text, true)?;
        }
        self.text(&path, &text, true)
    }

    /// Everything between the board and the environment.
    pub(super) fn files(&mut self, options: &Options) -> Result<(), ConfigError> {
        let dirs: &[&str] = match options.file {
            Some(_) => &[VENDOR_DIR],
            None => &[VENDOR_DIR, LOCAL_DIR, RUNTIME_DIR],
        };
        let mut names = Vec::new();
        for dir in dirs {
            names.push(self.list(Path::new(dir))?);
        }
        let main = options.file.clone().unwrap_or_else(|| PathBuf::from(MAIN_FILE));
        for (level, dir) in dirs.iter().enumerate() {
            for name in &names[level] {
                let masked = names[level + 1..].iter().any(|later| later.contains(name));
                let path = Path::new(dir).join(name);
                if !masked && let Some(text) = self.read(&path)? {
                    self.has_files |= *dir != VENDOR_DIR;
                    self.text(&path, &text, false)?;
                }
            }
            if level == 0 {
                self.main_file(&main, options.file.is_some())?;
            }
        }
        Ok(())
    }

    fn main_file(&mut self, path: &Path, named: bool) -> Result<(), ConfigError> {
        match self.read(path)? {
            Some(text) => {
                self.has_files = true;
                self.text(path, &text, false)
            }
            None if named => Err(ConfigError(format!("{}: no such file", path.display()))),
            None => Ok(()),
        }
    }

    /// `SKERRY_SECTION__KEY` and the aliases; the former win. A variable without `__` is not
    /// ours: container engines set `SKERRY_PORT` and the like for a service of that name.
    pub(super) fn environment(&mut self) -> Result<(), ConfigError> {
        for (name, path) in ALIASES {
            if let Some(text) = self.variables.get(name).cloned().filter(|text| !text.is_empty()) {
                self.set(path, &Value::Word(text), Origin::Environment(name.to_owned()))?;
            }
        }
        for (name, text) in self.variables.clone() {
            let Some((section, key)) =
                name.strip_prefix("SKERRY_").and_then(|rest| rest.split_once("__"))
            else {
                continue;
            };
            let path = format!("{section}.{key}").to_ascii_lowercase();
            self.set(&path, &Value::Word(text), Origin::Environment(name))?;
        }
        Ok(())
    }

    /// `--set section.key=value`.
    pub(super) fn flags(&mut self, options: &Options) -> Result<(), ConfigError> {
        for set in &options.set {
            let (path, text) = set
                .split_once('=')
                .ok_or_else(|| ConfigError(format!("--set {set}: must be section.key=value")))?;
            self.set(path.trim(), &Value::Word(text.to_owned()), Origin::Flag)?;
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Option<String>, ConfigError> {
        let result = self.source.read(path);
        result.map_err(|error| failed(path, "read", &error))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, ConfigError> {
        let mut names = self.source.list(dir).map_err(|error| failed(dir, "list", &error))?;
        names.retain(|name| name.ends_with(".toml") && !name.starts_with('.'));
        if names.len() > FILES_MAX {
            let found = names.len();
            return Err(ConfigError(format!(
                "{}: {found} files, more than {FILES_MAX}",
                dir.display()
            )));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Merges one file.
    fn text(&mut self, path: &Path, text: &str, is_board: bool) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| syntax_error(path, text, &error))?;
        if is_board {
            board::read_board(path, text)?;
        }
        for (key, value) in table.get_ref() {
            if is_board && BoardProfile::SECTIONS.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let file = FileText { path, text };
            self.walk(&file, key.get_ref(), &key.span(), value.get_ref())?;
        }
        Ok(())
    }

    fn walk(
        &mut self,
        file: &FileText<'_>,
        path: &str,
        span: &Range<usize>,
        value: &DeValue<'_>,
    ) -> Result<(), ConfigError> {
        let origin = Origin::File(file.path.to_owned(), line_of(file.text, span.start));
        match value {
            DeValue::Table(table) if keys::is_section(path) => {
                for (key, value) in table {
                    let inner = format!("{path}.{}", key.get_ref());
                    self.walk(file, &inner, &key.span(), value.get_ref())?;
                }
                Ok(())
            }
            _ if keys::is_section(path) => {
                Err(ConfigError::at(&origin, path, "must be a table: it is a section"))
            }
            value => self.set(path, &Value::from_toml(value), origin),
        }
    }

    fn set(&mut self, path: &str, value: &Value, origin: Origin) -> Result<(), ConfigError> {
        let Some(key) = keys::find(path) else {
            return Err(ConfigError::at(&origin, path, keys::unknown(path)));
        };
        (key.set)(&mut self.config, value)
            .map_err(|message| ConfigError::at(&origin, path, message))?;
        self.origins.insert(key.path, origin);
        Ok(())
    }
}

fn failed(path: &Path, what: &str, error: &io::Error) -> ConfigError {
    let cure = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; use root or the user that runs the service, who must be able to read it, or, for a \
             node of your own, --config FILE"
        }
        _ => "",
    };
    ConfigError(format!("{}: cannot {what}: {error}{cure}", path.display()))
}

struct FileText<'a> {
    path: &'a Path,
    text: &'a str,
}

/// The line of a byte, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// One line for a file that is no TOML, or does not have the form it should.
pub(super) fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map_or(1, |span| line_of(text, span.start));
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    ConfigError(format!("{}:{line}: {message}", path.display()))
}

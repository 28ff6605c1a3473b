//! Where configuration is read from: files and environment, or maps in tests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::{self, Disk, SystemDisk};

/// Largest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Files and environment, as configuration needs them.
pub trait Source {
    /// The content of a file; `None` when there is none.
    fn read(&self, path: &Path) -> io::Result<Option<String>>;
    /// Names in a directory, sorted; empty when there is none.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// The permission bits of a file; `None` when they are not known.
    fn mode(&self, path: &Path) -> Option<u32>;
    /// All environment variables that are UTF-8, sorted by name.
    fn variables(&self) -> BTreeMap<String, String>;
}

/// The machine itself.
pub struct SystemSource;

impl Source for SystemSource {
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        let bytes = match SystemDisk.read(path, FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        String::from_utf8(bytes).map(Some).map_err(|_| io::Error::other("it is not UTF-8"))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        match SystemDisk.list(dir) {
            Ok(entries) => Ok(entries.into_iter().filter(|e| !e.is_dir).map(|e| e.name).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn mode(&self, path: &Path) -> Option<u32> {
        sys::mode(path)
    }

    fn variables(&self) -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }
}

/// Files and variables in memory.
#[derive(Clone, Default)]
pub struct MapSource {
    /// Content by path.
    pub files: BTreeMap<PathBuf, String>,
    /// Permission bits by path; of others they are not known.
    pub modes: BTreeMap<PathBuf, u32>,
    /// Environment.
    pub variables: BTreeMap<String, String>,
}

impl MapSource {
    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>, text: &str) -> MapSource {
        self.files.insert(path.into(), text.to_owned());
        self
    }

    /// Sets the permission bits of a file.
    #[must_use]
    pub fn mode(mut self, path: impl Into<PathBuf>, bits: u32) -> MapSource {
        self.modes.insert(path.into(), bits);
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> MapSource {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }
}

impl Source for MapSource {
    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        Ok(self.files.get(path).cloned())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inside = self.files.keys().filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
        Ok(inside.filter_map(name).collect())
    }

    fn mode(&self, path: &Path) -> Option<u32> {
        self.modes.get(path).copied()
    }

    fn variables(&self) -> BTreeMap<String, String> {
        self.variables.clone()
    }
}

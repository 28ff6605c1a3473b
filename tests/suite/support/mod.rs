//! What the tests share: nodes as real processes, a plain HTTP client that is not ours, images,
//! a load with a book of what was promised, disks that fail, a proxy that counts and cuts, and
//! skips that are counted.

pub mod authority;
pub mod clients;
pub mod fuse;
pub mod http;
pub mod image;
pub mod load;
pub mod lossy;
pub mod node;
pub mod proxy;
pub mod skip;
pub mod small_disk;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use skip::skip;

/// A directory that goes when the value does.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        TempDir::below(&std::env::temp_dir()).expect("a temporary directory")
    }

    /// In a directory other than the usual one.
    pub fn below(directory: &Path) -> std::io::Result<TempDir> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: a socket path may have 107 bytes.
        let path = directory.join(format!("skt-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(TempDir(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::env::var_os("SKERRY_TEST_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Whether a program can be run.
pub fn have(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

/// A program from the path or from the cache that `tests/run` fills.
pub fn tool(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let cached = ["bin", "debian/usr/bin", "debian/usr/sbin"].map(|dir| cache().join(dir));
    let mut dirs = std::env::split_paths(&paths).chain(cached);
    dirs.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
}

/// Where what the tests need is kept between runs.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let from = |name| std::env::var_os(name).map(PathBuf::from);
    let general = || from("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"));
    from("SKERRY_TEST_CACHE").unwrap_or_else(|| general().join("skerry-tests"))
}

/// Polls until `check` gives something; fails with `what` after `limit`.
pub fn eventually<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

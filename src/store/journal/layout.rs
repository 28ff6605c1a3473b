//! Where things lie in the state directory, and taking possession of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::StoreError;
use crate::store::rows::format::{Access, Formats, StoreFormat};
use crate::sys::Disk;
use crate::types::Digest;
use crate::types::digest::Algorithm;

/// The file with the last sequence that the journal has reached.
pub const JOURNAL_END: &str = "journal-end";
/// The file that is there while records may have been lost.
pub const LOST_RECORDS: &str = "lost-records";
/// The file of a backup that says what its identity was.
pub const IDENTITY_SUMS: &str = "identity-sums";

/// Largest identity file, bytes.
pub(in crate::store) const IDENTITY_BYTES_MAX: u64 = 64 * 1024;
/// The file of the identity with the epoch of the feed.
pub(in crate::store) const FEED_EPOCH: &str = "feed-epoch";
/// The file of the identity that names the store in its backups: made by the first one, and kept
/// by a restore. A line for the store, and one for each backup since, the last of which is the one
/// that the file lies in.
pub(in crate::store) const STORE_ID: &str = "store-id";

/// With less free space no store is begun, bytes: its format, identity and first segment.
const NEW_SPACE_MIN: u64 = 64 * 1024;

/// What the state directory says about its format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) enum Format {
    /// Nothing: the store is new.
    New,
    /// This format, which this version writes.
    Ours(StoreFormat),
    /// A newer one, which this version can read and must not write.
    Newer(StoreFormat),
}

impl Format {
    /// The format that a store opened by a version with these formats is in.
    pub(in crate::store) fn stored(self, formats: Formats) -> StoreFormat {
        match self {
            Format::New => formats.newest(),
            Format::Ours(stored) | Format::Newer(stored) => stored,
        }
    }
}

/// Paths under one state directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// Why a store cannot be opened. One line each: what, why, and what to do.
#[derive(Debug)]
pub enum OpenError {
    /// The state directory cannot be used.
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
        /// What to do about it.
        cure: &'static str,
    },
    /// Another process uses the state directory.
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// A newer version wrote the store so that this one cannot read it; nothing was changed.
    NewerFormat {
        /// Which state directory.
        path: PathBuf,
        /// The format of the store.
        found: StoreFormat,
        /// The newest format that this version knows.
        known: u32,
    },
    /// The store is of a version whose format this one no longer reads; nothing was changed.
    OlderFormat {
        /// Which state directory.
        path: PathBuf,
        /// The format of the store.
        found: StoreFormat,
        /// The formats that this version knows.
        known: Formats,
    },
    /// The journal is damaged where nothing else can make up for it; nothing was changed.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        what: String,
        /// What to do about it.
        cure: String,
    },
    /// The medium does not give a part of the journal back.
    Lost {
        /// The file.
        path: PathBuf,
        /// What the medium says.
        cause: String,
    },
    /// A backup cannot be restored; nothing was changed.
    Backup {
        /// What is wrong in it: a file, or a directory.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The disk failed.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// What helps where another user, often root, has used the directory.
const CHOWN: &str = "give every file there to the user that runs skerry (chown -R)";

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::StateDir { path, cause, cure } => {
                write!(f, "cannot use the state directory {}: {cause}; {cure}", path.display())
            }
            OpenError::Locked { path } => write!(
                f,
                "the state directory {} is in use by another skerry process; stop that one, or \
                 set storage.state_dir to another directory",
                path.display()
            ),
            OpenError::NewerFormat { path, found, known } => write!(
                f,
                "the state directory {} is written in format {}, which only a version that knows \
                 format {} can read; this version knows none newer than format {known}; nothing \
                 was changed: run the newer version, or restore a backup that this version made",
                path.display(),
                found.writes,
                found.readable_from
            ),
            OpenError::OlderFormat { path, found, known } => write!(
                f,
                "the state directory {} is written in format {}, this version reads formats {} \
                 to {}; nothing was changed: run a version that reads both, and skerry confirm \
                 with it, before this one",
                path.display(),
                found.writes,
                known.reads_from,
                known.newest
            ),
            OpenError::Damaged { path, what, cure } => {
                write!(f, "{} is damaged: {what}; {cure}; nothing was changed", path.display())
            }
            OpenError::Lost { path, cause } => write!(
                f,
                "{}: {cause}; if that stays so: skerry state cut-journal takes the index in its \
                 place or, where that does not have all of it, tells what is lost",
                path.display()
            ),
            OpenError::Backup { path, cause } => write!(
                f,
                "the backup cannot be used: {}: {cause}; where the node that it is of still has \
                 everything, back up again into the same directory, which mends it; otherwise \
                 restore another backup; nothing was changed",
                path.display()
            ),
            OpenError::Io { path, cause } => write!(f, "{}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    /// Whether the store is of a format that this version cannot read: starting it again does not
    /// help.
    pub fn is_format(&self) -> bool {
        matches!(self, OpenError::NewerFormat { .. } | OpenError::OlderFormat { .. })
    }

    /// The same fault of a backup: the cures of a state directory would make the backup worse.
    pub(in crate::store) fn of_backup(self) -> OpenError {
        match self {
            OpenError::Damaged { path, what: cause, .. } | OpenError::Lost { path, cause } => {
                OpenError::Backup { path, cause }
            }
            other => other,
        }
    }

    /// Wraps a fault of the disk at `path`.
    pub(in crate::store) fn io(path: &Path) -> impl Fn(io::Error) -> OpenError + '_ {
        move |error| {
            let cause = match error.kind() {
                io::ErrorKind::PermissionDenied => format!("{error}; {CHOWN}"),
                _ => error.to_string(),
            };
            OpenError::Io { path: path.to_owned(), cause }
        }
    }

    /// The same of a fault that the store has named.
    pub(in crate::store) fn store(path: &Path) -> impl Fn(StoreError) -> OpenError + '_ {
        move |error| {
            let cause = match error {
                StoreError::Full => format!("{error}; free some space"),
                other => other.to_string(),
            };
            OpenError::Io { path: path.to_owned(), cause }
        }
    }
}

/// What wrote the store is not known, so nothing is guessed.
fn bad_format(path: PathBuf, fault: &str, formats: Formats) -> OpenError {
    let cure = format!(
        "write `{}` to it, unless a newer version has used the store: then run that one",
        formats.newest()
    );
    OpenError::Damaged { path, what: fault.to_owned(), cure }
}

/// Where content is below a state directory.
pub(in crate::store) fn relative(digest: &Digest) -> String {
    Layout::new("").blob(digest).display().to_string()
}

impl Layout {
    /// The paths under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Layout {
        Layout { root: root.into() }
    }

    /// The state directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that names the format.
    pub fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    /// Content by digest: `blobs/sha256/ab/<hex>`.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join("blobs").join(digest.algorithm().name()).join(&hex[..2]).join(hex)
    }

    /// The directory of all content named by this algorithm.
    pub fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    /// Whether there is any content.
    pub(in crate::store) fn holds_content(&self, disk: &dyn Disk) -> io::Result<bool> {
        for algorithm in Algorithm::ALL {
            let directory = self.blobs(algorithm);
            if !disk.exists(&directory)? {
                continue;
            }
            for entry in disk.list(&directory)? {
                if entry.is_dir && !disk.list(&directory.join(&entry.name))?.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The directory of damaged content; there only when some was found.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Where damaged content is put: `quarantine/sha256.<hex>`.
    pub fn quarantined(&self, digest: &Digest) -> PathBuf {
        self.quarantine().join(format!("{}.{}", digest.algorithm().name(), digest.hex()))
    }

    /// The directory of unfinished content.
    pub fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// The directory of segments and checkpoints.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// The segment whose first record has this sequence.
    pub fn segment(&self, first: u64) -> PathBuf {
        self.journal().join(format!("{first:020}.log"))
    }

    /// The checkpoint of all metadata at this sequence.
    pub fn checkpoint(&self, sequence: u64) -> PathBuf {
        self.journal().join(format!("{sequence:020}.ckpt"))
    }

    /// The index.
    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Keys and numbers that make this node itself.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The last sequence that the journal has reached.
    pub(in crate::store) fn reached(&self) -> PathBuf {
        self.root.join(JOURNAL_END)
    }

    /// There while records may have been lost and no operator has agreed to it.
    pub(in crate::store) fn loss(&self) -> PathBuf {
        self.root.join(LOST_RECORDS)
    }

    /// A second copy of [`Layout::loss`], which goes with the identity into a backup.
    pub(in crate::store) fn loss_copy(&self) -> PathBuf {
        self.identity().join(LOST_RECORDS)
    }

    /// What the files of [`Layout::identity`] were when the backup was made; in a backup only.
    pub(in crate::store) fn identity_sums(&self) -> PathBuf {
        self.root.join(IDENTITY_SUMS)
    }

    /// The epoch of the feed.
    pub(in crate::store) fn feed_epoch(&self) -> PathBuf {
        self.identity().join(FEED_EPOCH)
    }

    /// A second copy of the epoch of the feed, outside of the identity, which a backup takes.
    pub(in crate::store) fn feed_epoch_copy(&self) -> PathBuf {
        self.root.join("feed-epoch")
    }

    /// Space kept for the journal on a full disk.
    pub fn ballast(&self) -> PathBuf {
        self.root.join("ballast")
    }

    /// There while a restore is under way or was cut short.
    pub fn restoring(&self) -> PathBuf {
        self.root.join("restoring")
    }

    /// Takes the directory for this process, checks that its format is one of `formats`, and makes
    /// what is missing, unless `frozen`. Returns the guard of the lock, and the format.
    pub(in crate::store) fn take(
        &self,
        disk: &dyn Disk,
        formats: Formats,
        frozen: bool,
    ) -> Result<(Box<dyn Send + Sync>, Format), OpenError> {
        if !frozen {
            self.make_root(disk)?;
        }
        let lock = match disk.lock_dir(&self.root) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(OpenError::Locked { path: self.root.clone() });
            }
            // A file system without locks (NFS) is good enough for a backup that is looked at.
            Err(_) if frozen && disk.exists(&self.root).unwrap_or(false) => Box::new(()),
            Err(error) => return Err(self.unusable(&error)),
        };
        let format = self.check_format(disk, formats)?;
        if frozen || matches!(format, Format::Newer(_)) {
            return Ok((lock, format));
        }
        disk.check_writable(&self.root).map_err(|error| self.unusable(&error))?;
        self.make_directories(disk).map_err(|error| self.unusable(&error))?;
        if format == Format::New {
            self.write_format(disk, formats.newest()).map_err(|error| self.unusable(&error))?;
        }
        Ok((lock, format))
    }

    /// Writes the `format` file, durably: the store is whole.
    pub fn write_format(&self, disk: &dyn Disk, format: StoreFormat) -> io::Result<()> {
        disk.replace(&self.format(), format!("{format}\n").as_bytes())
    }

    /// Makes the state directory, but not its parents: where the disk for the state is not
    /// mounted, nothing may be written beside it.
    fn make_root(&self, disk: &dyn Disk) -> Result<(), OpenError> {
        let failed = |error: io::Error| self.unusable(&error);
        if disk.exists(&self.root).map_err(failed)? {
            return Ok(());
        }
        let parent = self.check_parent(disk)?;
        disk.check_writable(parent).map_err(failed)?;
        disk.create_dir_all(&self.root).map_err(failed)?;
        disk.sync_dir(parent).map_err(failed)
    }

    /// The directory that the state directory stands in, which must exist.
    fn check_parent(&self, disk: &dyn Disk) -> Result<&Path, OpenError> {
        let parent = match self.root.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let leads_nowhere = disk.leads_nowhere(&self.root);
        if !leads_nowhere && disk.exists(parent).map_err(|error| self.unusable(&error))? {
            return Ok(parent);
        }
        let missing = if leads_nowhere { Path::new("what it links to") } else { parent };
        Err(OpenError::StateDir {
            path: self.root.clone(),
            cause: format!("{} does not exist", missing.display()),
            cure: "mount its file system or create it, or set storage.state_dir",
        })
    }

    /// Whether the directory can be used, or made: neither makes nor takes it. Why the store in it
    /// would be served read-only, if it would.
    pub fn check(&self, disk: &dyn Disk) -> Result<Option<StoreError>, OpenError> {
        let failed = |error: io::Error| self.unusable(&error);
        if !disk.exists(&self.root).map_err(failed)? {
            let parent = self.check_parent(disk)?;
            disk.check_writable(parent).map_err(failed)?;
            return self.check_space(disk, parent);
        }
        disk.list(&self.root).map_err(failed)?;
        let format = self.check_format(disk, Formats::OURS)?;
        if let Format::Newer(format) = format {
            return Ok(Some(StoreError::NewerFormat(format.writes)));
        }
        disk.check_writable(&self.root).map_err(failed)?;
        match format {
            Format::New => self.check_space(disk, &self.root),
            Format::Newer(_) | Format::Ours(_) => Ok(None),
        }
    }

    /// Whether a new store can be made.
    fn check_space(&self, disk: &dyn Disk, at: &Path) -> Result<Option<StoreError>, OpenError> {
        let space = disk.space(at).map_err(|error| self.unusable(&error))?;
        let full = || self.unusable(&io::ErrorKind::StorageFull.into());
        if space.free < NEW_SPACE_MIN { Err(full()) } else { Ok(None) }
    }

    /// Whether what a start opens can be opened: the format, the identity, the journal, the index,
    /// and the directories that it writes to.
    pub fn check_files(&self, disk: &dyn Disk) -> Result<(), OpenError> {
        if !disk.exists(&self.root).map_err(|error| self.unusable(&error))? {
            return Ok(());
        }
        let is_ours = matches!(self.check_format(disk, Formats::OURS)?, Format::Ours(_));
        for directory in [self.identity(), self.journal(), self.index()] {
            self.check_directory(disk, &directory, is_ours)?;
        }
        for directory in [self.uploads(), self.root.join("blobs"), self.quarantine()] {
            if is_ours && disk.exists(&directory).map_err(|error| self.unusable(&error))? {
                disk.check_writable(&directory).map_err(|error| self.closed(&directory, &error))?;
            }
        }
        Ok(())
    }

    /// A directory of files that a start opens; where it is not there, it is made.
    fn check_directory(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        is_ours: bool,
    ) -> Result<(), OpenError> {
        let closed = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| self.closed(&path, &error)
        };
        if !disk.exists(directory).map_err(closed(directory))? {
            return Ok(());
        }
        if is_ours {
            disk.check_writable(directory).map_err(closed(directory))?;
        }
        for entry in disk.list(directory).map_err(closed(directory))? {
            let path = directory.join(&entry.name);
            let opened = match entry.is_dir {
                true => disk.list(&path).map(drop),
                // The identity is only read, and replaced as a whole.
                false if is_ours && directory != self.identity() => disk.open_rw(&path).map(drop),
                false => disk.open(&path).map(drop),
            };
            match opened {
                // The service beside us has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => opened.map_err(closed(&path))?,
            }
        }
        Ok(())
    }

    /// A file or directory of ours that cannot be opened.
    fn closed(&self, path: &Path, error: &io::Error) -> OpenError {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        OpenError::StateDir {
            path: self.root.clone(),
            cause: format!("{} cannot be opened: {error}", path.display()),
            cure: match error.kind() {
                io::ErrorKind::PermissionDenied => CHOWN,
                _ => "check the disk",
            },
        }
    }

    fn make_directories(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut made = false;
        for path in [self.root.join("blobs"), self.uploads(), self.journal(), self.identity()] {
            if !disk.exists(&path)? {
                disk.create_dir_all(&path)?;
                made = true;
            }
        }
        if made { disk.sync_dir(&self.root) } else { Ok(()) }
    }

    /// The format; an error when it is none that we can read.
    fn check_format(&self, disk: &dyn Disk, formats: Formats) -> Result<Format, OpenError> {
        let path = self.format();
        let exists = |path: &Path| disk.exists(path).map_err(|error| self.unusable(&error));
        if exists(&self.restoring())? {
            return Err(OpenError::StateDir {
                path: self.root.clone(),
                cause: "a restore was not finished".to_owned(),
                cure: "run skerry restore again",
            });
        }
        if !exists(&path)? {
            // A first start that was cut short leaves directories without this file, but no
            // journal: that is written by a store that is whole.
            let journal = disk.list(&self.journal()).unwrap_or_default();
            if journal.is_empty() {
                return Ok(Format::New);
            }
            return Err(bad_format(path, "it is missing", formats));
        }
        let bytes = disk.read(&path, 4096).map_err(|error| self.closed(&path, &error))?;
        let Ok(found) = String::from_utf8_lossy(&bytes).parse::<StoreFormat>() else {
            return Err(bad_format(path, "it does not name a format", formats));
        };
        let (path, known) = (self.root.clone(), formats);
        match formats.access(found) {
            Access::Write => Ok(Format::Ours(found)),
            Access::Read => Ok(Format::Newer(found)),
            Access::TooNew => Err(OpenError::NewerFormat { path, found, known: known.newest }),
            Access::TooOld => Err(OpenError::OlderFormat { path, found, known }),
        }
    }

    fn unusable(&self, error: &io::Error) -> OpenError {
        let cure = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "make it owned by and writable for the user that runs skerry, or set \
                 storage.state_dir"
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                "mount its file system for writing, or set storage.state_dir"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space",
            io::ErrorKind::Unsupported => "set storage.state_dir to a directory on a disk",
            io::ErrorKind::NotADirectory => "remove the file that stands in its place",
            _ => "check the disk, or set storage.state_dir",
        };
        OpenError::StateDir { path: self.root.clone(), cause: error.to_string(), cure }
    }
}

//! Faults of the store, named by what the caller does next.

use std::fmt;
use std::path::Path;

/// Why the store did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// There is no such thing.
    NotFound,
    /// The command's precondition does not hold; the text says which.
    Conflict(String),
    /// The request breaks a rule; the text says which and how to mend it.
    Invalid(String),
    /// A child's change has taken effect before, and what it made has changed since.
    OutboxMismatch(String),
    /// Another of its changes took the place of this one, and is not so any more either.
    OutboxReplaced(String),
    /// Free space is below the reserve, or the disk is full.
    Full,
    /// The index has as many rows as memory is meant for.
    IndexFull,
    /// The repository would hold more than its quota; the text gives the numbers.
    Quota(String),
    /// It would not, but for content that comes in other uploads: it may have room soon.
    QuotaKept(String),
    /// Cannot be done now; try again later.
    Unavailable,
    /// A newer version, which writes this format, wrote the store: nothing is changed, ever.
    NewerFormat(u32),
    /// The index is being built again; so much of it is there, percent.
    Rebuilding(u8),
    /// Stored bytes failed their check; the text says where.
    Corrupt(String),
    /// One file of content cannot be opened, read, written or removed, and all others perhaps can;
    /// the text is for the log.
    Unreadable(String),
    /// The disk failed; the text is for the log.
    Io(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NotFound => f.write_str("not found"),
            StoreError::Conflict(text)
            | StoreError::Invalid(text)
            | StoreError::OutboxMismatch(text)
            | StoreError::OutboxReplaced(text)
            | StoreError::Quota(text)
            | StoreError::QuotaKept(text) => f.write_str(text),
            StoreError::Full => f.write_str("the disk is full or below its reserve"),
            StoreError::IndexFull => {
                f.write_str("the index has as many rows as limits.memory has room for")
            }
            StoreError::Unavailable => f.write_str("the store is not available just now"),
            StoreError::NewerFormat(format) => write!(
                f,
                "a newer version of skerry wrote this store (format {format}): it is served \
                 read-only and left as it is"
            ),
            StoreError::Rebuilding(percent) => write!(
                f,
                "the index failed and is being built again, {percent} % so far; nothing is lost"
            ),
            StoreError::Corrupt(text) => write!(f, "stored data is damaged: {text}"),
            StoreError::Unreadable(text) | StoreError::Io(text) => write!(f, "disk error: {text}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> StoreError {
        match StoreError::is_full(&error) {
            true => StoreError::Full,
            false => StoreError::Io(error.to_string()),
        }
    }
}

impl StoreError {
    /// What a fault of the disk at this path is to the store.
    pub(in crate::store) fn at(path: &Path) -> impl Fn(std::io::Error) -> StoreError {
        |error| match StoreError::from(error) {
            StoreError::Io(text) => StoreError::Io(format!("{}: {text}", path.display())),
            other => other,
        }
    }

    /// Whether the disk says that it has no space.
    pub(in crate::store) fn is_full(error: &std::io::Error) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded)
    }

    /// Whether the disk cannot read what it holds; other errors pass.
    pub(in crate::store) fn is_fault_of_the_medium(error: &std::io::Error) -> bool {
        // EIO; EUCLEAN and EBADMSG are how file systems say that their own checks failed.
        matches!(error.raw_os_error(), Some(5 | 117 | 74))
    }
}

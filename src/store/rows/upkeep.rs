//! The rows of what is done with content from time to time: hashing it, and collecting garbage.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, is_default, key};
use crate::store::rows;
use crate::types::{Digest, UnixSeconds};

/// Up to which record all content is known to have reached the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) struct Settled {
    pub(in crate::store) sequence: u64,
}

impl Row for Settled {
    const VERSION: u8 = 1;
}

pub(in crate::store) fn settled_key() -> Vec<u8> {
    key(Kind::Node, &[b"settled"])
}

/// What unclean stops may have taken and is not all hashed yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::store) struct Unproven {
    /// The content that the records after this one brought,
    pub(in crate::store) after: u64,
    /// up to this one; not above the other: none.
    pub(in crate::store) through: u64,
    /// All content, beside that.
    pub(in crate::store) all: Pass,
}

/// How far the scrub is that goes over what is doubtful.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::store) enum Pass {
    /// None is needed.
    #[default]
    Done,
    /// It begins with the first file.
    Due,
    /// It goes on where the scrub is.
    UnderWay,
}

impl Unproven {
    pub(in crate::store) fn is_any(&self) -> bool {
        self.has_range() || self.all != Pass::Done
    }

    /// Whether it is content that some records brought.
    pub(in crate::store) fn has_range(&self) -> bool {
        self.after < self.through
    }
}

impl Row for Unproven {
    const VERSION: u8 = 1;
}

pub(in crate::store) fn unproven_key() -> Vec<u8> {
    key(Kind::Node, &[b"unproven"])
}

/// How far the scrub is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::store) struct Progress {
    /// The directory of content that is next.
    pub(in crate::store) position: u32,
    /// When the last one ended that went over everything.
    pub(in crate::store) finished: Option<UnixSeconds>,
    /// Bytes hashed by this one so far.
    pub(in crate::store) bytes: u64,
    /// Bytes hashed by the last one.
    pub(in crate::store) bytes_last: u64,
    /// Whether something could not be checked by this one so far.
    #[serde(skip_serializing_if = "is_default")]
    pub(in crate::store) failed: bool,
}

impl Row for Progress {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<Progress, postcard::Error> {
        let ((position, finished, bytes, bytes_last), left) = postcard::take_from_bytes(bytes)?;
        Ok(Progress { position, finished, bytes, bytes_last, failed: rows::last(left)? })
    }
}

pub(in crate::store) fn progress_key() -> Vec<u8> {
    key(Kind::Node, &[b"scrub"])
}

/// When the schedule last let garbage be collected, by the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) struct Collected(pub(in crate::store) UnixSeconds);

impl Row for Collected {
    const VERSION: u8 = 1;
}

pub(in crate::store) fn collected_key() -> Vec<u8> {
    key(Kind::Node, &[b"collected"])
}

/// A link to a blob, by numbers: its key can be as long as the name of a repository. Two that share
/// them count as found at the same time; each is looked at by its key before it goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(in crate::store) struct LinkId {
    /// The first eight bytes of the digest.
    pub(in crate::store) digest: u64,
    /// A hash of the key.
    pub(in crate::store) key: u64,
}

/// What garbage collection has found unreferenced, and after how many seconds for which the node
/// had been on. It stands in a file of its own.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::store) struct Note {
    pub(in crate::store) on: u64,
    pub(in crate::store) links: Vec<(LinkId, u64)>,
    pub(in crate::store) files: Vec<(Digest, u64)>,
}

impl Row for Note {
    const VERSION: u8 = 2;
}

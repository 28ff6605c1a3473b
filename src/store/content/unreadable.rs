//! Content whose file cannot be opened, read or written though the disk works otherwise: its owner
//! or mode, or that of its directory, is wrong, or the file system is damaged there. It is not
//! condemned, since its bytes may be good.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::journal::layout::relative;
use crate::store::{Shared, Store, StoreError};
use crate::types::{Digest, UnixSeconds};

/// How long it is told after it was met last: what waits for it is tried once a day at least.
const TOLD_FOR: Duration = Duration::from_secs(25 * 3600);
/// Files that are remembered. Over it: the rest is told when one of these is well again.
const REMEMBERED_MAX: usize = 64;

/// What an operator does about it.
pub const UNREADABLE_REMEDY: &str = "give it and its directory back to the user that runs \
                                     skerry (chown, chmod u+rwX), or check the disk";

/// What is done with a file of content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) enum Step {
    Open,
    Read,
    /// It comes, and gets its name.
    Write,
}

impl Step {
    fn done(self) -> &'static str {
        match self {
            Step::Open => "opened",
            Step::Read => "read",
            Step::Write => "written",
        }
    }
}

/// The files that failed, each with the step that did.
#[derive(Default)]
pub(in crate::store) struct Unreadable {
    files: Mutex<Files>,
    /// Whether there are any: every request asks.
    any: AtomicBool,
}

#[derive(Default)]
struct Files {
    met: BTreeMap<Digest, Met>,
    /// When there was first one.
    since: Option<UnixSeconds>,
}

struct Met {
    step: Step,
    text: String,
    /// When it was met last, monotonic.
    at: Duration,
}

impl Shared {
    /// What a fault of the file of this content is; it is remembered if other files may work.
    pub(in crate::store) fn file_fault(
        &self,
        digest: &Digest,
        step: Step,
        error: &io::Error,
    ) -> StoreError {
        let text = format!("the file {} cannot be {}: {error}", relative(digest), step.done());
        match error.raw_os_error() {
            // EMFILE, ENFILE, ENOMEM, EROFS: no other file can be opened, or written, either.
            Some(24 | 23 | 12 | 30) => return StoreError::Io(text),
            _ if StoreError::is_full(error) => return StoreError::Full,
            _ => {}
        }
        let at = self.sys.clock.monotonic();
        let mut files = self.unreadable.lately(at);
        files.since.get_or_insert(self.sys.clock.wall_or_floor());
        if files.met.len() < REMEMBERED_MAX || files.met.contains_key(digest) {
            files.met.insert(digest.clone(), Met { step, text: text.clone(), at });
            self.unreadable.any.store(true, Ordering::Release);
        }
        StoreError::Unreadable(text)
    }
}

impl Unreadable {
    /// A step worked that failed once, perhaps. What was written whole is well in all of them.
    pub(in crate::store) fn worked(&self, digest: &Digest, step: Step) {
        if self.any.load(Ordering::Acquire) {
            let mut files = self.files();
            if files.met.get(digest).is_some_and(|met| met.step == step || step == Step::Write) {
                files.met.remove(digest);
            }
            self.settle(&mut files);
        }
    }

    /// All content was read. What could not be written stays, since reading does not show whether
    /// it can be written now.
    pub(in crate::store) fn forget(&self) {
        let mut files = self.files();
        files.met.retain(|_, met| met.step == Step::Write);
        self.settle(&mut files);
    }

    /// The content that could not be written lately.
    pub(super) fn unwritten(&self) -> Vec<Digest> {
        let files = self.files();
        let failed = files.met.iter().filter(|(_, met)| met.step == Step::Write);
        failed.map(|(digest, _)| digest.clone()).collect()
    }

    fn settle(&self, files: &mut Files) {
        if files.met.is_empty() {
            files.since = None;
            self.any.store(false, Ordering::Release);
        }
    }

    fn lately(&self, now: Duration) -> MutexGuard<'_, Files> {
        let mut files = self.files();
        files.met.retain(|_, met| now.saturating_sub(met.at) < TOLD_FOR);
        self.settle(&mut files);
        files
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// A file of content that could not be opened, read or written lately, if there is one, how
    /// many more there are, and since when there are such files.
    pub fn unreadable_content(&self) -> Option<(String, UnixSeconds)> {
        let files = self.shared().unreadable.lately(self.sys().clock.monotonic());
        let text = files.met.values().next()?.text.clone();
        let text = match files.met.len() - 1 {
            0 => text,
            more => format!("{text} (and {more} more)"),
        };
        Some((text, files.since.unwrap_or_default()))
    }
}

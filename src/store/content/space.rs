//! Free space: the reserve below which pushes are refused, and the ballast within it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::unreadable::UNREADABLE_REMEDY;
use crate::store::index::expect_rows;
use crate::store::journal::ballast::give_space;
use crate::store::{Shared, Store, StoreError};
use crate::sys::disk::Space;
use crate::sys::spawn;
use crate::types::UnixSeconds;
use crate::types::text::mib;

/// How long a look at the free space is good for.
const SPACE_AGE_MAX: Duration = Duration::from_secs(1);
/// What to do about a full disk.
pub const FULL_REMEDY: &str = "free some space, or delete manifests: unless gc.enabled is false, \
    garbage collection then begins by itself and gives their space back after gc.grace";
/// What to do about an index that has no room for more.
const INDEX_REMEDY: &str = "delete manifests (one with thousands of layers has as many rows), \
    collect what nothing names with `skerry gc`, or raise limits.memory, and with it MemoryMax of \
    the service";
/// What is set aside for the journal on a full disk, bytes; never more than half the reserve.
const BALLAST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Remembers how much space there was a moment ago.
pub(in crate::store) struct SpaceCheck {
    reserve: u64,
    /// Rows of the index with which no content is taken any more.
    pub(in crate::store) rows_max: u64,
    last: Mutex<Look>,
    /// How often something did not fit.
    refusals: AtomicU64,
    /// The ballast has been used and is not back yet.
    ballast_gone: AtomicBool,
    /// What keeps pushes out, as [`Store::look_at_space`] has found.
    told: Mutex<Option<Told>>,
}

/// What keeps pushes out.
struct Told {
    text: String,
    since: UnixSeconds,
    /// It is only that there is no space.
    is_short: bool,
}

#[derive(Default)]
struct Look {
    /// When, and the space less what has been taken of it.
    found: Option<(Duration, Space)>,
    /// Bytes that were taken and may not be on the disk yet: no look knows of them.
    taken: u64,
}

/// Space for bytes that are being written; dropped when they are, or will not be.
pub(in crate::store) struct TakenSpace<'a> {
    check: &'a SpaceCheck,
    bytes: u64,
}

impl Drop for TakenSpace<'_> {
    fn drop(&mut self) {
        self.check.look().taken -= self.bytes;
    }
}

impl SpaceCheck {
    /// With the reserve of the configuration, bytes, and most rows of the index.
    pub(in crate::store) fn new(reserve: u64, rows_max: u64) -> SpaceCheck {
        let (last, ballast_gone) = (Mutex::default(), AtomicBool::new(false));
        let told = Mutex::default();
        SpaceCheck { reserve, rows_max, last, refusals: AtomicU64::new(0), ballast_gone, told }
    }

    fn look(&self) -> MutexGuard<'_, Look> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, space: Space) -> u64 {
        self.reserve.min(space.total / 20)
    }
}

/// What a disk has on which something did not fit, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shortage {
    /// Free space a moment ago.
    pub free: u64,
    /// What must stay free.
    pub reserve: u64,
}

impl Store {
    /// The figures behind the last [`StoreError::Full`], without a call; `None` before the first
    /// look at the disk.
    pub fn shortage(&self) -> Option<Shortage> {
        let check = &self.shared().space;
        let (_, space) = check.look().found?;
        Some(Shortage { free: space.free, reserve: check.reserve(space) })
    }

    /// Free space on the file system of the state directory, at most a second old. Blocks.
    pub fn space(&self) -> Result<Space, StoreError> {
        self.shared().space_now()
    }

    /// Whether free space is below the reserve. Blocks.
    pub fn below_reserve(&self) -> bool {
        self.shared().leaves_reserve(0) == Err(StoreError::Full)
    }

    /// Looks whether pushes can be taken, and logs once that they cannot, and once that they can
    /// again. `has_refused`: some did not fit lately. Blocks.
    pub fn look_at_space(&self, has_refused: bool) {
        // The ballast is made again where it has been used and there is space.
        let _ = self.shared().check_space();
        let text = match self.hindrance() {
            // That the disk cannot be asked says nothing of its space.
            Some(Hindrance::Unasked(_)) => return,
            Some(Hindrance::Full) => Some((self.shortage_text(), true)),
            // Just above the reserve what is larger than the rest is refused.
            None if has_refused && self.shortage().is_some_and(|s| s.free / 2 < s.reserve) => {
                Some((self.shortage_text(), true))
            }
            // No fault of the disk.
            None | Some(Hindrance::Refused(StoreError::NewerFormat(_))) => None,
            Some(other) => Some((format!("{}; {}", other.cause(), other.remedy()), false)),
        };
        let mut told = self.told();
        match (&mut *told, text) {
            // The figures of one that is short are no news.
            (Some(told), Some((text, is_short)))
                if told.is_short == is_short && (is_short || told.text == text) =>
            {
                told.text = text;
            }
            (_, Some((text, is_short))) => {
                let free = self.shortage().filter(|_| is_short);
                let free = free.map_or(String::new(), |one| format!("{} free: ", mib(one.free)));
                log::warn!("{free}{text}");
                *told = Some(Told { text, since: self.sys().clock.wall_or_floor(), is_short });
            }
            (Some(before), None) => {
                let what = if before.is_short { "has space for" } else { "takes" };
                log::info!("the disk {what} pushes again");
                *told = None;
            }
            (None, None) => {}
        }
    }

    /// What keeps pushes out, and since when.
    pub fn unwritable(&self) -> Option<(String, UnixSeconds)> {
        self.told().as_ref().map(|told| (told.text.clone(), told.since))
    }

    fn told(&self) -> MutexGuard<'_, Option<Told>> {
        self.shared().space.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same from look to look, so that it is no news each time.
    fn shortage_text(&self) -> String {
        let reserve = mib(self.shortage().map_or(0, |shortage| shortage.reserve));
        format!(
            "pushes are refused, the disk is full or below its reserve of {reserve} \
             (storage.reserve); {FULL_REMEDY}"
        )
    }

    /// How often since the start content did not fit, whether or not the reserve is in use.
    pub fn refused_for_space(&self) -> u64 {
        self.shared().space.refusals.load(Ordering::Relaxed)
    }

    /// `Full`, before the first of so many bytes of content comes, when they would not fit, even
    /// after uploads that were given up have made room.
    pub async fn expect_space(&self, bytes: u64) -> Result<(), StoreError> {
        let shared = self.shared().clone();
        spawn::blocking(move || shared.make_room(bytes)).await
    }

    /// How many rows the index has, and with how many no content is taken any more, if there is
    /// such a number.
    pub fn index_rows(&self) -> (u64, Option<u64>) {
        let max = Some(self.shared().space.rows_max).filter(|max| *max < u64::MAX);
        (self.shared().index().rows(), max)
    }

    /// `IndexFull` when no content is taken that needs rows of its own. What takes the place of
    /// damaged content needs none.
    pub fn expect_rows(&self) -> Result<(), StoreError> {
        self.shared().expect_rows()
    }

    /// Whether content finds no room. Blocks.
    pub fn is_out_of_room(&self) -> bool {
        self.expect_rows().is_err() || self.below_reserve()
    }

    /// How much is free beside the reserve, bytes; `None` below it, and when nothing can be
    /// written. Blocks.
    pub fn room(&self) -> Option<u64> {
        let shared = self.shared();
        shared.expect_rows().and_then(|()| shared.leaves_reserve(0)).ok()?;
        let space = shared.space_now().ok()?;
        space.free.checked_sub(shared.space.reserve(space))
    }
}

/// Why the store takes no pushes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hindrance {
    /// No change is taken, as the error says: the disk failed, or a newer version wrote the store.
    Refused(StoreError),
    /// The file system is mounted read-only.
    ReadOnly,
    /// Free space is below the reserve.
    Full,
    /// The index has as many rows as there may be.
    IndexFull,
    /// No file can be made in a directory of the state, as the error says.
    NoFile(StoreError),
    /// The file system does not say how it is.
    Unasked(StoreError),
}

impl Hindrance {
    /// What it is, for people.
    pub fn cause(&self) -> String {
        match self {
            Hindrance::Refused(cause @ StoreError::NewerFormat(_)) => cause.to_string(),
            Hindrance::Refused(_) => {
                "the store is read-only since the disk failed; the log says how".to_owned()
            }
            Hindrance::ReadOnly => {
                "the file system of the state directory is mounted read-only: changes are refused"
                    .to_owned()
            }
            Hindrance::Full => {
                "the disk is full or below its reserve: pushes are refused".to_owned()
            }
            Hindrance::IndexFull => format!("{}: pushes are refused", StoreError::IndexFull),
            Hindrance::NoFile(fault) => format!("{fault}: what has to write there is refused"),
            Hindrance::Unasked(error) => format!("the disk cannot be asked: {error}"),
        }
    }

    /// What is to be done about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Hindrance::Refused(StoreError::NewerFormat(_)) => {
                "run the newer version again, or restore a backup that this version made"
            }
            Hindrance::Refused(_) => "check the disk, then start the service again",
            Hindrance::ReadOnly => {
                "check the disk, mount it for writing, then start the service again"
            }
            Hindrance::Full => FULL_REMEDY,
            Hindrance::IndexFull => INDEX_REMEDY,
            Hindrance::NoFile(_) => UNREADABLE_REMEDY,
            Hindrance::Unasked(_) => "check the disk",
        }
    }
}

impl Store {
    /// Why pushes are refused just now. Where no file could be made last, that is tried again.
    /// Blocks.
    pub fn hindrance(&self) -> Option<Hindrance> {
        if let Some(cause) = self.read_only_cause() {
            return Some(Hindrance::Refused(cause));
        }
        match self.shared().space_now() {
            Err(error) => Some(Hindrance::Unasked(error)),
            Ok(Space { read_only: true, .. }) => Some(Hindrance::ReadOnly),
            Ok(space) if space.free < self.shared().space.reserve(space) => Some(Hindrance::Full),
            Ok(_) if self.shared().expect_rows().is_err() => Some(Hindrance::IndexFull),
            Ok(_) => self.shared().unmade.fault(&*self.shared().disk).map(Hindrance::NoFile),
        }
    }
}

impl Shared {
    fn space_now(&self) -> Result<Space, StoreError> {
        let now = self.sys.clock.monotonic();
        let mut look = self.space.look();
        match look.found {
            Some((at, space)) if now.saturating_sub(at) < SPACE_AGE_MAX => Ok(space),
            _ => {
                let mut space = self.disk.space(self.layout.root())?;
                space.free = space.free.saturating_sub(look.taken);
                look.found = Some((now, space));
                Ok(space)
            }
        }
    }

    /// `IndexFull` when no content is taken that needs more rows.
    pub(in crate::store) fn expect_rows(&self) -> Result<(), StoreError> {
        expect_rows(&*self.index(), self.space.rows_max)
    }

    /// `Full` when free space is below the reserve.
    pub(in crate::store) fn check_space(&self) -> Result<(), StoreError> {
        self.leaves_reserve(0)
    }

    fn leaves_reserve(&self, bytes: u64) -> Result<(), StoreError> {
        self.check_frozen()?;
        let space = self.space_now()?;
        if self.space.ballast_gone.load(Ordering::Relaxed) {
            self.keep_ballast();
        }
        let wanted = self.space.reserve(space).saturating_add(bytes);
        if space.free < wanted { Err(StoreError::Full) } else { Ok(()) }
    }

    /// `Full` when so many bytes more would not leave the reserve, even after uploads that were
    /// given up have made room.
    pub(in crate::store) fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        let fits = |bytes| self.leaves_reserve(bytes) != Err(StoreError::Full);
        if fits(bytes) {
            return self.leaves_reserve(bytes);
        }
        self.forget_space();
        let (given_up, idle_bytes) = self.uploads.given_up(self);
        // What cannot fit in any case costs no other upload its bytes, unless the reserve is used.
        let goal = if fits(bytes.saturating_sub(idle_bytes)) { bytes } else { 0 };
        for upload in given_up {
            if fits(goal) {
                break;
            }
            upload.evict(self);
            self.forget_space();
        }
        let fits = self.leaves_reserve(bytes);
        if fits == Err(StoreError::Full) {
            self.space.refusals.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    /// The next look is a new one: space was given back.
    pub(in crate::store) fn forget_space(&self) {
        self.space.look().found = None;
    }

    /// Takes the space for bytes that are about to be written, so that the reserve holds however
    /// many are written at once; `Full` when they would not leave it.
    pub(in crate::store) fn take_space(&self, bytes: u64) -> Result<TakenSpace<'_>, StoreError> {
        loop {
            self.make_room(bytes)?;
            let mut look = self.space.look();
            // Where another has taken the room meanwhile, or looks anew, so does this one.
            if let Some((_, space)) = look.found.as_mut()
                && space.free >= self.space.reserve(*space).saturating_add(bytes)
            {
                space.free -= bytes;
                look.taken += bytes;
                return Ok(TakenSpace { check: &self.space, bytes });
            }
        }
    }

    /// Sets the ballast aside, if it is not there and space is plenty.
    pub(in crate::store) fn keep_ballast(&self) {
        if self.frozen {
            return;
        }
        let path = self.layout.ballast();
        let Ok(space) = self.space_now() else {
            return;
        };
        let reserve = self.space.reserve(space);
        let bytes = BALLAST_BYTES_MAX.min(reserve / 2);
        let is_there = self.disk.exists(&path).unwrap_or(true);
        // It is set aside as soon as there is space again.
        let gone = !is_there && space.free < reserve + 2 * bytes;
        self.space.ballast_gone.store(gone, Ordering::Relaxed);
        if bytes == 0 || is_there || gone {
            return;
        }
        // Another one may be setting it aside: the file is of whoever made it.
        let Ok(file) = self.disk.create(&path) else { return };
        // Where the file system cannot allocate there is no ballast; the reserve remains.
        if file.allocate(bytes).is_err() {
            let _ = self.disk.remove(&path);
        }
        // What was free a moment ago does not tell of the ballast.
        self.forget_space();
    }

    /// Gives space to the journal: the ballast, or an index that was put aside; whether there was
    /// any.
    pub(in crate::store) fn remove_ballast(&self) -> bool {
        let removed = give_space(&*self.disk, &self.layout);
        // A look at the space finds out whether it is back already.
        self.space.ballast_gone.fetch_or(removed, Ordering::Relaxed);
        removed
    }
}

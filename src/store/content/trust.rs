//! Content that has to be hashed before it is served, and hashing it.
//!
//! A disk may acknowledge a sync and still lose what was written when the power goes. So after an
//! unclean stop everything that came since the last record of [`Store::settle`] is hashed again:
//! what is asked for first comes first, the rest in the background. What is not hashed when content
//! is settled, or the node stops, is noted, and the next start goes on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::digest::Context;

use super::damage::Check;
use super::hashing::hash_file;
pub use super::hashings::Verdict;
use super::hashings::{Hashings, Turn};
use super::leases::short;
use super::unreadable::Step;
use crate::store::replica::feed::from_segments;
use crate::store::rows::link::split_key;
use crate::store::rows::upkeep::{Pass, Settled, Unproven, settled_key, unproven_key};
use crate::store::rows::{self, Kind, Stored};
use crate::store::{Shared, Store, StoreError, Txn};
use crate::sys::disk::DiskFile;
use crate::sys::spawn;
use crate::types::Digest;

/// Doubtful content that is remembered. Over it: a scrub goes over everything at once.
const SUSPECTS_MAX: usize = 16_384;
/// Content that was hashed since the start, eight bytes each. Over it: it is hashed again.
const CHECKED_MAX: usize = 65_536;
/// Content that is hashed on somebody's word at most once in this time.
const RECHECK_PAUSE: Duration = Duration::from_secs(300);
/// Content hashed on somebody's word in [`RECHECK_PAUSE`]. Over it: further words are not heeded;
/// who fetches the content again and still finds it wrong says so again.
const RECHECKS_MAX: usize = 16;
/// Content of which parts were sent and that waits to be hashed. Over it: the next part asks again.
const TO_PROVE_MAX: usize = 256;
/// Records that bring no content and still are not settled. Over it: they are, so that the journal
/// has what came since for as long as it may be asked for.
const UNSETTLED_RECORDS_MAX: u64 = 4096;
/// Content that came and is not settled, some 30 bytes each. Over it: all counts as such.
const UNSETTLED_MAX: usize = 65_536;
/// Journal read at a time, bytes.
const JOURNAL_BYTES: usize = 1024 * 1024;

/// When content is hashed beside scrubs, and beside what came last before an unclean stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VerifyWhen {
    /// Never.
    #[default]
    Scrub,
    /// While it is first sent whole after a start.
    FirstSend,
    /// Before it is first read after a start.
    FirstRead,
}

/// What is believed of the content on disk.
#[derive(Default)]
pub(in crate::store) struct Trust {
    when: VerifyWhen,
    doubts: Mutex<Doubts>,
    /// Bytes of content that came since the last settling.
    unsettled: AtomicU64,
    came: Mutex<Came>,
    hashings: Hashings,
}

/// Content that came since the last settling, by the first eight bytes of the digest.
#[derive(Default)]
struct Came {
    /// How many settlings were begun.
    settlings: u64,
    /// With that number when it came.
    content: BTreeMap<u64, u64>,
    /// That number when more came than is remembered.
    all: Option<u64>,
}

#[derive(Default)]
struct Doubts {
    suspects: BTreeSet<Digest>,
    /// What unclean stops left doubtful.
    unproven: Unproven,
    checked: BTreeSet<u64>,
    /// What was hashed lately on somebody's word, and when, monotonic.
    rechecked: BTreeMap<u64, Duration>,
    /// Content of which parts were sent.
    to_prove: BTreeSet<Digest>,
    /// Whether it is being hashed, one after the other.
    is_proving: bool,
}

impl Trust {
    /// Everything is hashed after a start, and `when`.
    pub(in crate::store) fn new(when: VerifyWhen) -> Trust {
        Trust { when, ..Trust::default() }
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets content be hashed before it is served again.
    pub(in crate::store) fn doubt(&self, digest: &Digest) {
        let mut doubts = self.doubts();
        if doubts.suspects.len() < SUSPECTS_MAX {
            doubts.suspects.insert(digest.clone());
        }
        doubts.checked.remove(&short(digest));
    }

    /// Whether more may be doubtful than is remembered.
    pub(in crate::store) fn is_full(&self) -> bool {
        self.doubts().suspects.len() >= SUSPECTS_MAX
    }

    /// What unclean stops left and is not all hashed yet.
    pub(in crate::store) fn unproven(&self) -> Unproven {
        self.doubts().unproven
    }

    pub(in crate::store) fn set_unproven(&self, unproven: Unproven) {
        self.doubts().unproven = unproven;
    }

    /// What the records brought that unclean stops left doubtful has been hashed.
    fn prove_range(&self) {
        let unproven = &mut self.doubts().unproven;
        (unproven.after, unproven.through) = (0, 0);
    }

    /// Whether the next scrub has to begin with the first file.
    pub(super) fn is_pass_due(&self) -> bool {
        self.unproven().all == Pass::Due
    }

    /// A scrub has begun with the first file, and after a restart it goes on where it was.
    pub(super) fn begin_pass(&self) {
        self.doubts().unproven.all = Pass::UnderWay;
    }

    /// It has been over everything.
    pub(super) fn end_pass(&self) {
        self.doubts().unproven.all = Pass::Done;
    }

    /// Content came, whole.
    pub(in crate::store) fn arrived(&self, digest: &Digest, bytes: u64) {
        self.believe(digest);
        self.came().note(digest);
        self.unsettled.fetch_add(bytes.max(1), Ordering::Relaxed);
    }

    fn came(&self) -> MutexGuard<'_, Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may have come since the last settling: the journal has to say so, also where what
    /// came is known, or nothing doubts it after an unclean stop.
    pub(in crate::store) fn is_unsettled(&self, digest: &Digest) -> bool {
        let came = self.came();
        came.all.is_some() || came.content.contains_key(&short(digest))
    }

    /// It was hashed, or came, since the start.
    pub(in crate::store) fn believe(&self, digest: &Digest) {
        let mut doubts = self.doubts();
        doubts.suspects.remove(digest);
        if self.when != VerifyWhen::Scrub {
            if doubts.checked.len() >= CHECKED_MAX {
                doubts.checked.clear();
            }
            doubts.checked.insert(short(digest));
        }
    }

    /// There is no such content here: nothing is to be doubted, and a file that is put there is not
    /// hashed yet.
    fn note_gone(&self, digest: &Digest) {
        let mut doubts = self.doubts();
        doubts.suspects.remove(digest);
        doubts.checked.remove(&short(digest));
    }

    /// Whether it is to be hashed now on somebody's word.
    fn begins_recheck(&self, digest: &Digest, now: Duration) -> bool {
        let rechecked = &mut self.doubts().rechecked;
        rechecked.retain(|_, at| now.saturating_sub(*at) < RECHECK_PAUSE);
        if rechecked.len() >= RECHECKS_MAX || rechecked.contains_key(&short(digest)) {
            return false;
        }
        rechecked.insert(short(digest), now);
        true
    }

    /// Notes content that is to be hashed beside; whether somebody has to begin with it.
    fn begins_proving(&self, digest: &Digest) -> bool {
        let mut doubts = self.doubts();
        if doubts.to_prove.len() < TO_PROVE_MAX {
            doubts.to_prove.insert(digest.clone());
        }
        !std::mem::replace(&mut doubts.is_proving, true)
    }

    /// What is to be hashed next; with `None` the hashing ends.
    fn next_to_prove(&self) -> Option<Digest> {
        let mut doubts = self.doubts();
        let next = doubts.to_prove.pop_first();
        doubts.is_proving = next.is_some();
        next
    }

    /// Whether it has to be hashed before it is served.
    pub(in crate::store) fn is_doubted(&self, digest: &Digest) -> bool {
        let doubts = self.doubts();
        doubts.suspects.contains(digest)
            || (self.when == VerifyWhen::FirstRead && !doubts.checked.contains(&short(digest)))
    }

    /// Whether it has to be hashed while it is sent.
    pub(in crate::store) fn is_unproven(&self, digest: &Digest) -> bool {
        self.when == VerifyWhen::FirstSend && !self.doubts().checked.contains(&short(digest))
    }
}

impl Came {
    fn note(&mut self, digest: &Digest) {
        if self.content.len() >= UNSETTLED_MAX && !self.content.contains_key(&short(digest)) {
            self.content.clear();
            self.all = Some(self.settlings);
        }
        if self.all.is_some() {
            self.all = Some(self.settlings);
        } else {
            self.content.insert(short(digest), self.settlings);
        }
    }

    /// The number of the settling that begins.
    fn begin(&mut self) -> u64 {
        self.settlings += 1;
        self.settlings
    }

    /// What came before a settling was begun has reached the disk.
    fn end(&mut self, settling: u64) {
        self.content.retain(|_, at| *at >= settling);
        self.all = self.all.filter(|at| *at >= settling);
    }
}

impl Store {
    /// Hashes content and takes it out of service when it is not what its name says. Each step of
    /// some bytes is followed by `pause` with the number of bytes read, unless somebody waits for
    /// this: each file is hashed once at a time, for all who ask meanwhile.
    pub async fn verify<F: Future<Output = ()>>(
        &self,
        digest: &Digest,
        mut pause: impl FnMut(u64) -> F,
    ) -> Result<Verdict, StoreError> {
        loop {
            match self.shared().trust.hashings.begin(digest) {
                Turn::Own(own) => {
                    let pause = |bytes| {
                        let pause = (!own.is_awaited()).then(|| pause(bytes));
                        async move {
                            match pause {
                                Some(pause) => pause.await,
                                None => spawn::yield_now().await,
                            }
                        }
                    };
                    let verdict = self.hash_and_judge(digest, pause).await;
                    own.end(verdict.clone());
                    return verdict;
                }
                Turn::Another(hashing) => {
                    if let Some(verdict) = hashing.ended().await {
                        return verdict;
                    }
                }
            }
        }
    }

    async fn hash_and_judge<F: Future<Output = ()>>(
        &self,
        digest: &Digest,
        mut pause: impl FnMut(u64) -> F,
    ) -> Result<Verdict, StoreError> {
        let shared = self.shared().clone();
        let beginning = (shared.clone(), digest.clone());
        let check = spawn::blocking(move || Check::begin(&beginning.0, &beginning.1)).await;
        // Memory or a cable may have erred: only what is read wrong twice is condemned.
        let mut what = String::new();
        for attempt in 0..2 {
            let opening = (shared.clone(), digest.clone());
            let opened = spawn::blocking(move || open_raw(&opening.0, &opening.1)).await?;
            let Some(file) = opened else {
                shared.trust.note_gone(digest);
                return Ok(Verdict::Gone);
            };
            if attempt > 0 {
                file.forget_cached(0, 0);
            }
            match hash(&file, digest, &mut pause).await {
                Ok((true, len)) => {
                    shared.trust.believe(digest);
                    shared.unreadable.worked(digest, Step::Read);
                    let (shared, digest) = (shared.clone(), digest.clone());
                    let end = move || {
                        drop(check);
                        shared.is_good(&digest);
                    };
                    spawn::blocking(end).await;
                    return Ok(Verdict::Good(len));
                }
                Ok((false, len)) => what = format!("its {len} bytes have another digest"),
                Err(error) if StoreError::is_fault_of_the_medium(&error) => {
                    what = error.to_string();
                }
                Err(error) => return Err(shared.file_fault(digest, Step::Read, &error)),
            }
        }
        // Damaged content is served to nobody, also before it is known as such.
        shared.trust.doubt(digest);
        if shared.frozen {
            return Ok(Verdict::Damaged);
        }
        let condemning = (shared.clone(), digest.clone());
        let condemned = spawn::blocking(move || {
            let (shared, digest) = condemning;
            shared.condemn(&digest, &check, &what)
        });
        let condemned = condemned.await?;
        shared.trust.note_gone(digest);
        Ok(if condemned { Verdict::Damaged } else { Verdict::Gone })
    }

    /// Somebody got other bytes than the digest says: hashes the content here, however lately it
    /// came, beside what else is done with it. Most words are of a link or a memory elsewhere, so
    /// until then it is served.
    pub fn recheck(&self, digest: &Digest) {
        let sys = self.sys();
        if !self.shared().trust.begins_recheck(digest, sys.clock.monotonic()) {
            return;
        }
        let (store, digest) = (self.clone(), digest.clone());
        let task = async move {
            match store.verify(&digest, |_| spawn::yield_now()).await {
                Ok(Verdict::Good(_)) => {
                    log::info!("a child got other bytes of {digest}, which is whole here");
                }
                Ok(Verdict::Damaged | Verdict::Gone) => {}
                Err(error) => log::warn!("{digest} could not be hashed for a child: {error}"),
            }
        };
        sys.spawner.spawn(task).detach();
    }

    /// Hashes content beside what else is done with it, one after the other.
    pub(super) fn prove_beside(&self, digest: &Digest) {
        if !self.shared().trust.begins_proving(digest) {
            return;
        }
        let store = self.clone();
        let task = async move {
            while let Some(digest) = store.shared().trust.next_to_prove() {
                if !store.shared().trust.is_unproven(&digest) {
                    continue;
                }
                if let Err(error) = store.verify(&digest, |_| spawn::yield_now()).await {
                    log::warn!("{digest}, of which a part was sent, could not be hashed: {error}");
                }
            }
        };
        self.sys().spawner.spawn(task).detach();
    }

    /// Hashes what is doubted. What cannot be hashed now stays doubted, and is when somebody asks
    /// for it; the first error is returned.
    pub async fn verify_doubted(&self) -> Result<(), StoreError> {
        let doubted = self.shared().trust.doubts().suspects.clone();
        let mut result = Ok(());
        for digest in doubted.iter().filter(|digest| self.shared().trust.is_doubted(digest)) {
            let verdict = self.verify(digest, |_| spawn::yield_now()).await;
            result = result.and(verdict.map(|_| ()));
        }
        result?;
        self.shared().trust.prove_range();
        self.note_unproven().await
    }

    /// Up to which record all content has reached the disk.
    fn settled(&self) -> Result<u64, StoreError> {
        Ok(self.get::<Settled>(&settled_key())?.map_or(0, |settled| settled.sequence))
    }

    /// Notes what unclean stops left and is not all hashed yet.
    pub(in crate::store) async fn note_unproven(&self) -> Result<(), StoreError> {
        let unproven = self.shared().trust.unproven();
        let noted = self.get::<Unproven>(&unproven_key())?.unwrap_or_default();
        match noted == unproven {
            true => Ok(()),
            false => self.commit(move |txn| put_unproven(txn, unproven)).await,
        }
    }

    /// Whether content of before an unclean stop waits to be hashed by [`Store::verify_doubted`].
    pub fn has_unproven(&self) -> bool {
        self.shared().trust.unproven().has_range()
    }

    /// How much content waits to be hashed.
    pub fn doubted(&self) -> usize {
        self.shared().trust.doubts().suspects.len()
    }

    /// Bytes of content that came since the last [`Store::settle`].
    pub fn unsettled(&self) -> u64 {
        self.shared().trust.unsettled.load(Ordering::Relaxed)
    }

    /// Has the file system write everything out, and notes it: what is older need not be hashed
    /// after the next unclean stop.
    pub async fn settle(&self) -> Result<(), StoreError> {
        let shared = self.shared().clone();
        let bytes = shared.trust.unsettled.load(Ordering::Relaxed);
        let sequence = shared.feed.published();
        // The journal goes away in time, and with it what a later start would read.
        let is_behind = sequence.saturating_sub(self.settled()?) > UNSETTLED_RECORDS_MAX;
        if (bytes == 0 && !is_behind) || self.read_only() {
            return Ok(());
        }
        let (syncing, settling) = (shared.clone(), shared.trust.came().begin());
        spawn::blocking(move || {
            // What is left on a full disk is for what somebody waits for.
            syncing.check_space()?;
            Ok::<(), StoreError>(syncing.disk.sync_fs(syncing.layout.root())?)
        })
        .await?;
        // No sync brings back what an unclean stop has taken.
        let unproven = shared.trust.unproven();
        self.commit(move |txn| {
            txn.put(settled_key(), &Settled { sequence })?;
            put_unproven(txn, unproven)
        })
        .await?;
        shared.trust.came().end(settling);
        shared.trust.unsettled.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Shared {
    fn row<R: Stored>(&self, key: &[u8]) -> Result<Option<R>, StoreError> {
        self.index().get(key)?.map(|row| rows::decode(&row)).transpose()
    }

    /// At a start: doubts what earlier unclean stops left, and, when the last one `is_clean` not,
    /// what came since the last settling. What cannot be told any more may be everything.
    pub(in crate::store) fn doubt_unproven(&self, is_clean: bool) {
        let unproven = self.find_unproven(is_clean).unwrap_or_else(|error| {
            log::warn!("what came before an unclean stop cannot be told: all is hashed: {error}");
            Unproven { all: Pass::Due, ..Unproven::default() }
        });
        self.trust.set_unproven(unproven);
        if unproven.all != Pass::Done {
            self.scrub.request();
        }
    }

    fn find_unproven(&self, is_clean: bool) -> Result<Unproven, StoreError> {
        let mut unproven: Unproven = self.row(&unproven_key())?.unwrap_or_default();
        if !is_clean {
            let settled = self.row::<Settled>(&settled_key())?;
            let settled = settled.map_or(0, |settled| settled.sequence);
            let before = if unproven.has_range() { unproven.after } else { settled };
            (unproven.after, unproven.through) = (settled.min(before), self.feed.published());
        }
        if !self.doubt_content_of(unproven.after, unproven.through)? {
            unproven = Unproven { all: Pass::Due, ..Unproven::default() };
        }
        Ok(unproven)
    }

    /// Doubts the content that these records brought. `false` when that cannot be told any more.
    fn doubt_content_of(&self, mut after: u64, through: u64) -> Result<bool, StoreError> {
        while after < through {
            let records = match from_segments(self, after, through, JOURNAL_BYTES) {
                Ok(records) => records,
                Err(StoreError::NotFound) => return Ok(false),
                Err(error) => return Err(error),
            };
            for (sequence, changes) in records {
                after = sequence;
                for (key, row) in changes {
                    let of_content = key.first() == Some(&(Kind::Blob as u8))
                        || key.first() == Some(&(Kind::Manifest as u8));
                    if let Some((_, digest)) = split_key(&key).filter(|_| of_content)
                        && row.is_some()
                    {
                        self.trust.doubt(&digest);
                    }
                }
            }
        }
        Ok(!self.trust.is_full())
    }
}

fn put_unproven(txn: &mut Txn<'_>, unproven: Unproven) -> Result<(), StoreError> {
    match unproven.is_any() {
        true => txn.put_changed(unproven_key(), &unproven),
        false if txn.has(&unproven_key())? => txn.delete(unproven_key()),
        false => Ok(()),
    }
}

/// Opens the file of content; `None` when it is not there.
pub(super) fn open_raw(
    shared: &Shared,
    digest: &Digest,
) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
    match shared.disk.open(&shared.layout.blob(digest)) {
        Ok(file) => {
            shared.unreadable.worked(digest, Step::Open);
            Ok(Some(file))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(shared.file_fault(digest, Step::Open, &error)),
    }
}

/// Whether the bytes have the digest, and how many they are.
async fn hash<F: Future<Output = ()>>(
    file: &Arc<dyn DiskFile>,
    digest: &Digest,
    pause: &mut impl FnMut(u64) -> F,
) -> io::Result<(bool, u64)> {
    let context = Context::new(digest.algorithm().function());
    let (context, len) = hash_file(file, context, pause).await?;
    Ok((context.finish().as_ref() == digest.raw(), len))
}

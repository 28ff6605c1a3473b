//! The scrub: goes over all content again and again, hashes it, and takes out of service what is
//! damaged, so that rot is found while a good copy can still be had.
//!
//! It reads at a limited rate and goes on where it stopped after a restart. When it has been over
//! all files it reads the journal, and looks whether each file is there that a repository refers
//! to.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::Event;
use serde::Serialize;

use super::arrival::can_be_written;
use super::damage::FileCheck;
use super::trust::Verdict;
use super::unreadable::Step;
use crate::store::rows::upkeep::{Progress, progress_key};
use crate::store::{Shared, Store, StoreError};
use crate::sys::clock::sleep;
use crate::sys::spawn;
use crate::types::digest::Algorithm;
use crate::types::{Digest, UnixSeconds};

/// Each of the two algorithms has this many directories of content.
const FAN_OUT: u32 = 256;
const POSITIONS: u32 = FAN_OUT * 2;
/// The position is noted whenever so many bytes were hashed, so that at most these are hashed
/// twice after a restart.
const NOTE_BYTES: u64 = 256 * 1024 * 1024;
/// A pause shorter than this is saved up.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// What a scrub found so far; of the last one when none is running.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubReport {
    /// Whether it is running.
    pub running: bool,
    /// How far it is, 0 to 100.
    pub percent: u32,
    /// Files hashed by this run of the process.
    pub blobs_checked: u64,
    /// Their length, bytes.
    pub bytes_checked: u64,
    /// Files taken out of service.
    pub damaged: u64,
    /// Files that are missing.
    pub missing: u64,
    /// When the last one ended that went over everything.
    pub finished: Option<UnixSeconds>,
}

/// Whether one is running, and what is wished.
#[derive(Default)]
pub(in crate::store) struct Scrub {
    running: AtomicBool,
    requested: AtomicBool,
    /// The rate that was asked for, bytes per second; 0: no limit.
    wished_rate: Mutex<Option<u64>>,
    /// The rate of the one that runs.
    rate: AtomicU64,
    wished: Event,
    report: Mutex<ScrubReport>,
    own: Mutex<Own>,
}

/// What this process knows of its own scrubs, also where nothing can be noted.
#[derive(Clone, Copy, Default)]
struct Own {
    progress: Option<Progress>,
    /// When the last one ended that went over everything, monotonic.
    ended: Option<Duration>,
}

/// What is known of the scrubs so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LastScrub {
    /// When the last one ended that went over everything, by the wall clock, if that was known.
    pub finished: Option<UnixSeconds>,
    /// When the last one of this process ended that did, monotonic.
    pub ended: Option<Duration>,
    /// Whether one stopped half-way.
    pub interrupted: bool,
    /// How many bytes the last one hashed.
    pub bytes: u64,
}

impl Scrub {
    /// Lets one begin at once.
    pub(in crate::store) fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.wished.notify(usize::MAX);
    }

    /// Begins a run, at the rate that was asked for or at this one; `None` while another one runs.
    /// Who asks for one meanwhile asks either before it begins, or of the one that runs.
    fn begin(&self, rate: u64) -> Option<Running<'_>> {
        let mut wished = self.wished_rate.lock().unwrap_or_else(PoisonError::into_inner);
        if self.running.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.requested.store(false, Ordering::Release);
        self.rate.store(wished.take().unwrap_or(rate), Ordering::Relaxed);
        Some(Running(self))
    }

    fn report(&self) -> MutexGuard<'_, ScrubReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the run however it ends.
struct Running<'a>(&'a Scrub);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.report().running = false;
        self.0.running.store(false, Ordering::Release);
    }
}

/// Spreads reading over time.
struct Pace<'a> {
    shared: &'a Shared,
    due: Mutex<Duration>,
}

impl Pace<'_> {
    async fn read(&self, bytes: u64) {
        self.shared.sys.metrics.scrub_bytes.add(bytes);
        let rate = self.shared.scrub.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return spawn::yield_now().await;
        }
        let now = self.shared.sys.clock.monotonic();
        let pause = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            *due = now.max(*due) + Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
            *due - now
        };
        if pause >= PAUSE_MIN {
            sleep(pause).await;
        }
    }
}

impl Store {
    /// Asks for a scrub at once; `rate` in bytes per second, 0 for no limit, also holds for one
    /// that is running.
    pub fn request_scrub(&self, rate: u64) {
        let scrub = &self.shared().scrub;
        let mut wished = scrub.wished_rate.lock().unwrap_or_else(PoisonError::into_inner);
        if scrub.running.load(Ordering::Acquire) {
            scrub.rate.store(rate, Ordering::Relaxed);
            return;
        }
        *wished = Some(rate);
        drop(wished);
        scrub.request();
    }

    /// Waits until one is asked for.
    pub async fn scrub_requested(&self) {
        let scrub = &self.shared().scrub;
        loop {
            let wished = scrub.wished.listen();
            if scrub.requested.load(Ordering::Acquire) {
                return;
            }
            wished.await;
        }
    }

    /// What the scrub that runs, or ran last, found.
    pub fn scrub_report(&self) -> Result<ScrubReport, StoreError> {
        let finished = self.progress()?.finished;
        let report = *self.shared().scrub.report();
        let requested = self.shared().scrub.requested.load(Ordering::Acquire);
        let running = report.running || requested;
        Ok(ScrubReport { finished, running, ..report })
    }

    /// What is known of the scrubs so far.
    pub fn last_scrub(&self) -> Result<LastScrub, StoreError> {
        let progress = self.progress()?;
        Ok(LastScrub {
            finished: progress.finished,
            ended: self.shared().scrub.own().ended,
            interrupted: progress.position > 0,
            bytes: progress.bytes_last,
        })
    }

    /// How far the scrub is: by what this process knows, or an earlier one has noted.
    fn progress(&self) -> Result<Progress, StoreError> {
        let known = self.shared().scrub.own().progress;
        match known {
            Some(progress) => Ok(progress),
            None => Ok(self.get::<Progress>(&progress_key())?.unwrap_or_default()),
        }
    }

    /// Hashes all content from where the last scrub stopped, at `rate` bytes per second, 0 for no
    /// limit. `Conflict` while another one runs.
    pub async fn scrub(&self, rate: u64) -> Result<ScrubReport, StoreError> {
        let shared = self.shared().clone();
        let Some(running) = shared.scrub.begin(rate) else {
            return Err(StoreError::Conflict("a scrub is under way already".to_owned()));
        };
        *shared.scrub.report() = ScrubReport { running: true, ..ScrubReport::default() };
        let mut progress = self.progress()?;
        if shared.trust.is_pass_due() {
            let Progress { finished, bytes_last, .. } = progress;
            progress = Progress { finished, bytes_last, ..Progress::default() };
            // Where that is not noted, a pass that breaks off begins anew.
            if self.note(progress).await {
                shared.trust.begin_pass();
            }
        }
        let pace = Pace { shared: &shared, due: Mutex::default() };
        let mut noted = progress.bytes;
        let mut failed = None;
        while progress.position < POSITIONS {
            shared.scrub.report().percent = progress.position * 100 / POSITIONS;
            self.scrub_directory(&pace, &mut progress, &mut failed).await?;
            progress.position += 1;
            progress.failed |= failed.is_some();
            if progress.bytes - noted >= NOTE_BYTES {
                noted = progress.bytes;
                self.note(progress).await;
            }
        }
        // What could not be looked at stays unproven: the next pass hashes all of it again.
        if failed.is_none() && !progress.failed {
            shared.trust.end_pass();
        }
        if let Err(error) = self.note_unproven().await {
            log::debug!("that all content was hashed is not noted: {error}");
        }
        self.check_metadata(&mut failed).await;
        self.find_missing(&mut failed).await?;
        self.forget_unreferred_damage().await?;
        if progress.failed {
            let text = "something could not be checked before this scrub was interrupted";
            failed.get_or_insert_with(|| StoreError::Unreadable(text.to_owned()));
        }
        // It does not count as one when not everything could be looked at.
        let finished = if failed.is_some() { progress.finished } else { shared.sys.clock.wall() };
        let bytes_last = progress.bytes;
        progress = Progress { finished, bytes_last, ..Progress::default() };
        self.note(progress).await;
        if let Some(error) = failed {
            return Err(error);
        }
        shared.scrub.own().ended = Some(shared.sys.clock.monotonic());
        shared.unreadable.forget();
        let probing = shared.clone();
        spawn::blocking(move || forget_unwritten(&probing)).await;
        shared.scrub.report().percent = 100;
        drop(running);
        self.scrub_report()
    }

    async fn scrub_directory(
        &self,
        pace: &Pace<'_>,
        progress: &mut Progress,
        failed: &mut Option<StoreError>,
    ) -> Result<(), StoreError> {
        let shared = self.shared().clone();
        let position = progress.position;
        let found = spawn::blocking(move || directory(&shared, position)).await;
        let found = found.unwrap_or_else(|error| {
            self.note_failed(failed, &format!("directory {position} of content"), error);
            Vec::new()
        });
        for digest in found {
            let verdict = match self.verify(&digest, |bytes| pace.read(bytes)).await {
                Ok(verdict) => verdict,
                Err(error) => {
                    self.note_failed(failed, &digest, error);
                    continue;
                }
            };
            let mut report = self.shared().scrub.report();
            report.blobs_checked += u64::from(verdict != Verdict::Gone);
            match verdict {
                Verdict::Good(bytes) => {
                    report.bytes_checked += bytes;
                    progress.bytes += bytes;
                }
                Verdict::Damaged => report.damaged += 1,
                Verdict::Gone => {}
            }
        }
        Ok(())
    }

    /// Rot in the journal is found while the index has all that it says.
    async fn check_metadata(&self, failed: &mut Option<StoreError>) {
        match self.check_journal().await {
            Ok(report) => report.found.iter().for_each(|text| log::error!("{text}")),
            Err(error) => self.note_failed(failed, &"the journal", error),
        }
    }

    /// What cannot be looked at keeps nothing else from it; the scrub answers with the first error
    /// when it ends.
    fn note_failed(&self, failed: &mut Option<StoreError>, what: &dyn Display, error: StoreError) {
        log::warn!("{what} cannot be checked: {error}");
        failed.get_or_insert(error);
    }

    /// Where to go on after a restart; a store that cannot be written, or is full, is scrubbed all
    /// the same. Returns whether it is noted.
    async fn note(&self, progress: Progress) -> bool {
        self.shared().scrub.own().progress = Some(progress);
        let store = self.clone();
        if spawn::blocking(move || store.below_reserve()).await {
            return false;
        }
        let noted = self.commit(move |txn| txn.put(progress_key(), &progress)).await;
        if let Err(error) = &noted {
            log::debug!("the progress of the scrub is not noted: {error}");
        }
        noted.is_ok()
    }

    /// Looks whether each file is there, with the right length, that a repository refers to.
    async fn find_missing(&self, failed: &mut Option<StoreError>) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (store, from) = (self.clone(), after.take());
            let page = move || find_missing_page(&store, from.as_deref());
            let (last, wrong, damaged_rows) = spawn::blocking(page).await?;
            for error in damaged_rows {
                self.note_failed(failed, &"a link", error);
            }
            for (link, digest, len) in wrong {
                let found = match self.check_file(link, &digest, len).await {
                    Ok(found) => found,
                    Err(error) => {
                        self.note_failed(failed, &digest, error);
                        continue;
                    }
                };
                let mut report = self.shared().scrub.report();
                match found {
                    FileCheck::OtherLength => report.damaged += 1,
                    FileCheck::Missing => report.missing += 1,
                    FileCheck::Unreadable(text) => {
                        failed.get_or_insert(StoreError::Unreadable(text));
                    }
                    FileCheck::Good | FileCheck::Known | FileCheck::Unlinked => {}
                }
            }
            if last.is_none() {
                return Ok(());
            }
            after = last;
            spawn::yield_now().await;
        }
    }
}

/// Forgets the failed writes that would not fail any more.
fn forget_unwritten(shared: &Shared) {
    for digest in shared.unreadable.unwritten() {
        match can_be_written(shared, &digest) {
            Ok(true) => shared.unreadable.worked(&digest, Step::Write),
            Ok(false) => {}
            Err(error) => log::warn!("{digest} still cannot be written: {error}"),
        }
    }
}

/// The content of one directory of the fan-out.
fn directory(shared: &Shared, position: u32) -> Result<Vec<Digest>, StoreError> {
    let algorithm = Algorithm::ALL[(position / FAN_OUT) as usize % Algorithm::ALL.len()];
    let path = shared.layout.blobs(algorithm).join(format!("{:02x}", position % FAN_OUT));
    if !shared.disk.exists(&path)? {
        return Ok(Vec::new());
    }
    let digest = |name: &str| format!("{}:{name}", algorithm.name()).parse::<Digest>().ok();
    Ok(shared.disk.list(&path)?.iter().filter_map(|entry| digest(&entry.name)).collect())
}

/// The last key of a page of links, if there are any; the links whose file is missing or has
/// another length than the right one; and what is wrong with rows that cannot be decoded.
type Page = (Option<Vec<u8>>, Vec<(Vec<u8>, Digest, u64)>, Vec<StoreError>);

fn find_missing_page(store: &Store, after: Option<&[u8]>) -> Result<Page, StoreError> {
    let shared = store.shared();
    let page = store.links(after)?;
    let (mut wrong, mut damaged_rows) = (Vec::new(), Vec::new());
    for link in &page {
        let decoded = link.digest().and_then(|digest| Ok((digest, link.referred()?.len())));
        let (digest, len) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                damaged_rows.push(error);
                continue;
            }
        };
        match shared.disk.file_len(&shared.layout.blob(&digest)) {
            Ok(found) if found == len => {}
            // What cannot be looked at is found out there.
            _ => wrong.push((link.key.clone(), digest, len)),
        }
    }
    Ok((page.last().map(|link| link.key.clone()), wrong, damaged_rows))
}

//! Looks over a store: the journal, the checkpoints, and the file of every link.

use std::collections::BTreeMap;

use serde::Serialize;

use super::content::trust::Verdict;
use super::journal::checkpoint;
use super::journal::frame::FrameFault;
use super::journal::layout::{Layout, relative};
use super::journal::segment::SegmentReader;
use super::{Store, StoreError};
use crate::store::rows::link::Referred;
use crate::sys::disk::Entry;
use crate::sys::{Disk, spawn};
use crate::types::Digest;

/// Problems that are listed; all are counted.
const LISTED_MAX: usize = 100;

/// What was looked at, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FsckReport {
    /// Checkpoints read to the end.
    pub checkpoints: u64,
    /// Segments of the journal read to the end.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Links of repositories to content.
    pub links: u64,
    /// Files whose content was hashed.
    pub blobs_hashed: u64,
    /// Problems in all.
    pub problems: u64,
    /// The first of them, each with what it costs.
    pub found: Vec<String>,
}

impl FsckReport {
    fn problem(&mut self, text: String) {
        self.problems += 1;
        if self.found.len() < LISTED_MAX {
            self.found.push(text);
        }
    }
}

impl Store {
    /// Reads the journal and the checkpoints, and looks whether each file is there, with the
    /// right length, that a repository refers to; with `content` also hashes each. Changes nothing
    /// on a frozen store; on a running one what is damaged is taken out of service.
    pub async fn fsck(&self, content: bool) -> Result<FsckReport, StoreError> {
        let mut report = self.check_journal().await?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (store, from) = (self.clone(), after.take());
            let page = spawn::blocking(move || store.check_links(from.as_deref())).await?;
            if page.last.is_none() {
                return Ok(report);
            }
            after = page.last;
            report.links += page.digests.len() as u64;
            page.problems.into_iter().for_each(|text| report.problem(text));
            if content {
                self.check_content(&page.digests, &mut report).await?;
            }
        }
    }

    /// Reads the journal and the checkpoints. On a running store a new checkpoint is made in place
    /// of what a start would need and could not use, while the index has all of it.
    pub(in crate::store) async fn check_journal(&self) -> Result<FsckReport, StoreError> {
        let store = self.clone();
        let (mut report, faults) = spawn::blocking(move || store.read_journal()).await?;
        let mut makes_up = "another checkpoint, the index or the parent makes up for it";
        if faults.iter().any(|fault| fault.is_needed) && !self.shared().frozen {
            match self.renew_checkpoint().await {
                Ok(()) => makes_up = "a new checkpoint takes its place",
                Err(error) => {
                    report.problem(format!("no checkpoint can be made: {error}"));
                }
            }
        }
        for JournalFault { name, at, .. } in faults {
            report.problem(format!("journal/{name} is damaged at byte {at}; {makes_up}"));
        }
        Ok(report)
    }

    fn read_journal(&self) -> Result<(FsckReport, Vec<JournalFault>), StoreError> {
        let mut report = FsckReport::default();
        let (disk, layout) = (&*self.shared().disk, &self.shared().layout);
        let entries = disk.list(&layout.journal())?;
        let given_up = given_up(disk, layout, &entries);
        // What is being appended meanwhile comes behind this.
        let acknowledged = self.sequence();
        let (mut faults, mut base, mut segments) = (Vec::new(), 0, BTreeMap::new());
        for entry in entries {
            let number =
                |end| entry.name.strip_suffix(end).and_then(|n: &str| n.parse::<u64>().ok());
            let fault = if let Some(sequence) = number(".ckpt") {
                if sequence < given_up {
                    continue;
                }
                report.checkpoints += 1;
                let read = checkpoint::verify(disk, layout, sequence);
                read.map(|whole| base = base.max(whole.end.sequence)).err()
            } else if let Some(first) = number(".log") {
                if first <= given_up || first > acknowledged {
                    continue;
                }
                report.segments += 1;
                segments.insert(entry.name.clone(), first);
                read_segment(disk, layout, first, acknowledged, &mut report.records).err()
            } else {
                None
            };
            let name = entry.name;
            match fault {
                // It was removed meanwhile, as nobody needs it any more.
                Some(FrameFault::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Some(FrameFault::Io(error)) => {
                    report.problem(format!("journal/{name} cannot be read: {error}"));
                }
                Some(FrameFault::Bad(at)) => {
                    faults.push(JournalFault { name, at, is_needed: true });
                }
                None => {}
            }
        }
        for fault in &mut faults {
            fault.is_needed = segments.get(&fault.name).is_none_or(|first| *first > base);
        }
        Ok((report, faults))
    }

    fn check_links(&self, after: Option<&[u8]>) -> Result<Page, StoreError> {
        let shared = self.shared();
        let mut page = Page::default();
        for link in self.links(after)? {
            page.last = Some(link.key.clone());
            let (name, digest) = match (link.repository(), link.digest()) {
                (Ok(name), Ok(digest)) => (name, digest),
                (Err(error), _) | (_, Err(error)) => {
                    page.problems.push(error.to_string());
                    continue;
                }
            };
            let file = relative(&digest);
            let len = link.referred().map(Referred::len);
            let place = shared.layout.blob(&digest);
            // Opened: the length of what nobody can read is no news.
            let found = shared.disk.open(&place).and_then(|file| file.len());
            if found.is_ok() {
                page.digests.push(digest.clone());
            }
            match (len, found) {
                (Err(error), _) => page.problems.push(format!("{name}: {digest}: {error}")),
                (Ok(len), Ok(found)) if found == len => {}
                (Ok(len), Ok(found)) => {
                    let text = format!("{file} has {found} bytes, not {len}; {name} needs it");
                    page.problems.push(text);
                }
                (_, Err(error)) => {
                    if self.look_up(|index| index.get(&link.key))?.is_some() {
                        let what = match shared.disk.file_len(&shared.layout.quarantined(&digest)) {
                            Ok(0) => "is known to be damaged or missing".to_owned(),
                            Ok(_) => "is damaged and in quarantine".to_owned(),
                            Err(_) => format!("cannot be read: {error}"),
                        };
                        page.problems.push(format!("{file} {what}; {name} needs it"));
                    }
                }
            }
        }
        Ok(page)
    }

    async fn check_content(
        &self,
        digests: &[Digest],
        report: &mut FsckReport,
    ) -> Result<(), StoreError> {
        for digest in digests {
            // In a frozen store nothing is moved.
            match self.verify(digest, |_| spawn::yield_now()).await {
                Ok(Verdict::Good(_)) => report.blobs_hashed += 1,
                Ok(Verdict::Damaged) => {
                    report.blobs_hashed += 1;
                    report.problem(format!("{} does not have its digest", relative(digest)));
                }
                // It went meanwhile.
                Ok(Verdict::Gone) => {}
                // The others are no worse.
                Err(StoreError::Unreadable(text)) => report.problem(text),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The sequence of the last checkpoint that was made in place of a damaged journal, which such a
/// one follows no end of: nobody reads what is before it any more, and it goes in time.
fn given_up(disk: &dyn Disk, layout: &Layout, entries: &[Entry]) -> u64 {
    let sequences = entries.iter().filter_map(|e| e.name.strip_suffix(".ckpt")?.parse().ok());
    let whole = sequences.filter_map(|sequence| checkpoint::inspect(disk, layout, sequence).ok());
    let made = whole.filter(|checkpoint| checkpoint.end.len == 0);
    made.map(|checkpoint| checkpoint.end.sequence).max().unwrap_or(0)
}

/// A damaged file of the journal.
struct JournalFault {
    name: String,
    /// Where, bytes.
    at: u64,
    /// A checkpoint, or a segment after the last one that is whole.
    is_needed: bool,
}

/// Some links that were looked at.
#[derive(Default)]
struct Page {
    last: Option<Vec<u8>>,
    /// Those whose files can be opened.
    digests: Vec<Digest>,
    problems: Vec<String>,
}

fn read_segment(
    disk: &dyn Disk,
    layout: &Layout,
    first: u64,
    acknowledged: u64,
    records: &mut u64,
) -> Result<(), FrameFault> {
    let (mut segment, mut read) = (SegmentReader::open(disk, layout, first)?, 0);
    while read < acknowledged
        && let Some(record) = segment.next_record()?
    {
        read = record.sequence;
        *records += 1;
    }
    Ok(())
}

//! Looks over a store: the journal, the checkpoints, and the file of every link.

use serde::Serialize;

use super::backup::LISTS_MAX;
use super::content::trust::Verdict;
use super::journal::checkpoint::{self, Checkpoint};
use super::journal::layout::relative;
use super::journal::segment::{self, End};
use super::{Store, StoreError};
use crate::store::rows::link::Referred;
use crate::sys::disk::Entry;
use crate::sys::spawn;
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

    /// Reads the checkpoints and, from the first of them that is whole, the journal. On a running
    /// store a new checkpoint is made in place of what a start could not use, while the index has
    /// all of it.
    pub(in crate::store) async fn check_journal(&self) -> Result<FsckReport, StoreError> {
        let mut read = self.read_journal().await?;
        for _ in 1..LISTS_MAX {
            // What a newer checkpoint has made superfluous goes at any time.
            if read.damaged.is_empty() || !self.is_pruned(read.base).await? {
                break;
            }
            read = self.read_journal().await?;
        }
        let JournalRead { mut report, damaged, .. } = read;
        let mut makes_up = "another checkpoint, the index or the parent makes up for it";
        if !damaged.is_empty() && !self.shared().frozen {
            match self.renew_checkpoint().await {
                Ok(()) => makes_up = "a new checkpoint takes its place",
                Err(error) => report.problem(format!("no checkpoint can be made: {error}")),
            }
        }
        damaged.into_iter().for_each(|what| report.problem(format!("{what}; {makes_up}")));
        Ok(report)
    }

    /// Reads each checkpoint, and the segments after the first of them that is whole: those between
    /// two are what makes up for the second.
    async fn read_journal(&self) -> Result<JournalRead, StoreError> {
        let JournalRead { mut report, mut damaged, mut base } = JournalRead::default();
        let store = self.clone();
        let checkpoints = spawn::blocking(move || store.checkpoints_in_use()).await?;
        for sequence in checkpoints {
            // One at a time: other work has its turn in between.
            let store = self.clone();
            match spawn::blocking(move || store.read_checkpoint(sequence)).await {
                Ok(None) => continue,
                Ok(Some(whole)) => base = base.or(Some(whole.end)),
                Err(StoreError::Corrupt(what)) => damaged.push(what),
                Err(error) => report.problem(error.to_string()),
            }
            report.checkpoints += 1;
        }
        // Without a checkpoint that is whole, they continue nothing.
        if base.is_some() || damaged.is_empty() {
            let (store, from) = (self.clone(), base.unwrap_or_default());
            let read = spawn::blocking(move || store.read_segments(from)).await;
            (report.segments, report.records) = (read.0, read.1);
            match read.2 {
                Ok(()) => {}
                Err(StoreError::Corrupt(what)) => damaged.push(what),
                Err(error) => report.problem(error.to_string()),
            }
        }
        Ok(JournalRead { report, damaged, base })
    }

    /// Whether nobody needs the checkpoint any more that the segments were read from.
    async fn is_pruned(&self, base: Option<End>) -> Result<bool, StoreError> {
        let store = self.clone();
        spawn::blocking(move || {
            let (disk, layout) = (&*store.shared().disk, &store.shared().layout);
            match base {
                Some(end) => Ok(!disk.exists(&layout.checkpoint(end.sequence))?),
                None => Ok(!store.checkpoints_in_use()?.is_empty()),
            }
        })
        .await
    }

    /// The sequences of the checkpoints that a start may read, the oldest first: from the last one
    /// on that was made in place of a damaged journal, which such a one follows no end of. What is
    /// before it goes in time.
    fn checkpoints_in_use(&self) -> Result<Vec<u64>, StoreError> {
        let (disk, layout) = (&*self.shared().disk, &self.shared().layout);
        let number = |entry: Entry| entry.name.strip_suffix(".ckpt")?.parse::<u64>().ok();
        let entries = disk.list(&layout.journal())?;
        let mut all: Vec<u64> = entries.into_iter().filter_map(number).collect();
        all.sort_unstable();
        let is_first = |sequence: &u64| {
            checkpoint::inspect(disk, layout, *sequence).is_ok_and(|whole| whole.end.len == 0)
        };
        let first = all.iter().rposition(is_first).unwrap_or(0);
        Ok(all.split_off(first.min(all.len())))
    }

    /// `None` for one that was removed meanwhile, as nobody needs it any more.
    fn read_checkpoint(&self, sequence: u64) -> Result<Option<Checkpoint>, StoreError> {
        let (disk, layout) = (&*self.shared().disk, &self.shared().layout);
        let path = layout.checkpoint(sequence);
        match checkpoint::verify(disk, layout, sequence) {
            Err(_) if !disk.exists(&path)? => Ok(None),
            read => read.map(Some).map_err(|fault| fault.of_file(&path)),
        }
    }

    /// Reads what the journal says after `from`: so many segments and records, and whether all is
    /// there.
    fn read_segments(&self, from: End) -> (u64, u64, Result<(), StoreError>) {
        let (disk, layout) = (&*self.shared().disk, &self.shared().layout);
        // What is being appended meanwhile comes behind this.
        let acknowledged = self.sequence();
        let mut firsts = self.shared().segments.list();
        firsts.retain(|first| (from.sequence + 1..=acknowledged).contains(first));
        let mut records = 0;
        let read = segment::replay(disk, layout, &firsts, from, acknowledged, &mut |_| {
            records += 1;
            Ok(())
        });
        (firsts.len() as u64, records, read)
    }

    fn check_links(&self, after: Option<&[u8]>) -> Result<Page, StoreError> {
        let shared = self.shared();
        let (mut page, mut noted) = (Page::default(), Ok(()));
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
            if let Ok(len) = len
                && !shared.frozen
                && !found.as_ref().is_ok_and(|found| *found == len)
            {
                // As a scrub does: it goes out of service, is told, and comes back where it can.
                noted = noted.and(self.check_file_now(&link.key, &digest, len).map(|_| ()));
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
        if let Err(error) = noted {
            log::warn!("damage that fsck found is not noted: {error}");
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

/// What reading the journal showed.
#[derive(Default)]
struct JournalRead {
    report: FsckReport,
    damaged: Vec<String>,
    /// The end of the checkpoint that the segments were read from.
    base: Option<End>,
}

/// Some links that were looked at.
#[derive(Default)]
struct Page {
    last: Option<Vec<u8>>,
    /// Those whose files can be opened.
    digests: Vec<Digest>,
    problems: Vec<String>,
}

//! `skerry backup` and `skerry restore`

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ring::digest::Context;
use serde_json::{Value, json};

use super::{EXIT_FAILED, Failure, Global, admin_client, output};
use crate::app::offline::{self, Layout, Lineage, Restored, StoreFormat};
use crate::config::SystemSource;
use crate::sys::clock::sleep;
use crate::sys::spawn::thread;
use crate::sys::{Disk, SystemDisk};
use crate::types::digest::Algorithm;
use crate::types::{Digest, RepositoryName};

/// Where the metadata of a backup is until it is whole.
const INCOMING: &str = "incoming";
/// Read at a time to be hashed, bytes.
const READ_BYTES: usize = 256 * 1024;
/// Missing objects that are named, and repositories that are named for each.
const NAMED_MAX: usize = 10;
/// The node is told this often that a backup goes on.
const KEEP_PERIOD: Duration = Duration::from_secs(10);
/// A backup that moves nothing for this long, as to a file server that is gone, keeps nothing at
/// the node.
const STILL_MAX: Duration = Duration::from_secs(3600);
/// Pieces that were written or read so far.
static MOVED: AtomicU64 = AtomicU64::new(0);
/// Its directories.
const PARTS: [&str; 2] = ["journal", "identity"];
/// Its files beside `format`; not every backup has all.
const NOTES: [&str; 3] = [offline::JOURNAL_END, offline::LOST_RECORDS, offline::IDENTITY_SUMS];

/// Copies everything of a running node to a directory. One that holds an older backup gets what is
/// new, and loses what is not referred to any more; with `replace` also where that is of another
/// store. With `verify` what is there is hashed, and what is damaged taken again.
pub(super) fn backup(
    directory: &Path,
    replace: bool,
    verify: bool,
    global: &Global,
) -> Result<ExitCode, Failure> {
    let socket =
        admin_client::socket(global.admin_socket.as_deref(), &global.options(), &SystemSource)?;
    let taking = Taking { disk: &SystemDisk, target: directory, replace, verify, socket: &socket };
    taking.check_directory().map_err(|error| disk_failure(directory, &error))?;
    // Before the node is asked: that would end the other one.
    let mut lock = taking.lock()?;
    let begun = admin_client::post(&socket, "backup/begin", &json!({}))?;
    let id = begun["id"].as_str().unwrap_or_default().to_owned();
    let taken = keep(&socket, &id).and_then(|()| taking.take(&begun, &id, &mut lock));
    // Also when it failed: the node need not wait.
    let ended = admin_client::post(&socket, "backup/end", &json!({ "id": id }));
    let Taken { content, new, again, bytes, missing } = taken?;
    ended?;
    output::print(&format!(
        "backup of sequence {} in {}: {content} objects, {new} new ones with {bytes} \
         bytes{again}\n",
        begun["sequence"],
        directory.display(),
        again = match again {
            0 => String::new(),
            again => format!("; {again} of them were here and damaged"),
        }
    ))?;
    if missing > 0 {
        output::complain(&format!(
            "{} damaged or missing at the node, or cannot be read there, and not in the backup; \
             back up again when that is mended: `skerry status` says what helps",
            objects_are(missing)
        ));
    }
    let loss = begun["lostRecords"].as_str();
    if let Some(loss) = loss {
        output::complain(&format!(
            "the node lacks records, and so does the backup: {loss}; {}",
            begun["lossRemedy"].as_str().unwrap_or_default()
        ));
    }
    Ok(exit_code(missing > 0 || loss.is_some()))
}

/// Tells the node, for as long as this command runs, that the backup goes on: nothing that is
/// deleted there goes meanwhile.
fn keep(socket: &Path, id: &str) -> Result<(), Failure> {
    let (socket, id) = (socket.to_owned(), json!({ "id": id }));
    let keep = move || {
        let (mut seen, mut still) = (0, Duration::ZERO);
        loop {
            let moved = MOVED.load(Ordering::Relaxed);
            still = if moved == seen { still + KEEP_PERIOD } else { Duration::ZERO };
            seen = moved;
            if still <= STILL_MAX {
                // What ended meanwhile is told where the next piece is asked for.
                let _ = admin_client::post(&socket, "backup/keep", &id);
            }
            smol::block_on(sleep(KEEP_PERIOD));
        }
    };
    let thread = thread("skerry-backup-keep", keep);
    thread.map(|_| ()).map_err(|error| Failure::new(format!("cannot start a thread: {error}")))
}

/// Makes the configured state directory from a backup.
pub(super) fn restore(directory: &Path, global: &Global) -> Result<ExitCode, Failure> {
    let state_dir = global.state_dir()?;
    let restored = offline::restore(directory, &state_dir).map_err(Failure::new)?;
    let Restored { sequence, blobs, bytes, missing, named, lost, changed } = restored;
    output::print(&format!(
        "restored sequence {sequence} to {}: {blobs} objects with {bytes} bytes; children compare \
         everything when the node is started\n\
         What was changed since that backup is undone: a device hears it again from its parent; at \
         a root, repeat deletions, new passwords, disabled tokens, withdrawn permissions and \
         deactivations; a device that took another one's place since is AlreadyActivated: delete \
         its connected registry and create it again with the same --sync-token\n",
        state_dir.display()
    ))?;
    for (digest, repositories) in &named {
        output::complain(&format!(
            "{digest} is not in the backup, or damaged there; it is needed by {}",
            some(repositories)
        ));
    }
    if missing > 0 {
        output::complain(&format!(
            "{} not in the backup, or damaged there: not served until pushed again or fetched from \
             the parent; `skerry status` names what is missing once the node is started",
            objects_are(missing)
        ));
    }
    if let Some(lost) = &lost {
        output::complain(&format!(
            "the backup lacks records: {lost}; once the node is started, {}",
            offline::LOSS_REMEDY
        ));
    }
    for name in &changed {
        output::complain(&format!(
            "identity/{name} is missing or damaged in the backup: the node that is started there \
             makes another where it can; restore another backup if there is one"
        ));
    }
    Ok(exit_code(missing > 0 || lost.is_some() || !changed.is_empty()))
}

fn exit_code(is_incomplete: bool) -> ExitCode {
    if is_incomplete { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS }
}

fn objects_are(count: u64) -> String {
    if count == 1 { "1 object is".to_owned() } else { format!("{count} objects are") }
}

/// Whether a file of the backup has this length, if that is known.
fn has_length(disk: &dyn Disk, place: &Path, len: Option<u64>) -> std::io::Result<bool> {
    let found = disk.open(place)?.len()?;
    MOVED.fetch_add(1, Ordering::Relaxed);
    Ok(len.is_none_or(|len| len == found))
}

/// Whether a file of the backup has these bytes.
fn is_whole(disk: &dyn Disk, place: &Path, digest: &Digest) -> std::io::Result<bool> {
    let file = disk.open(place)?;
    let mut hash = Context::new(digest.algorithm().function());
    let (mut buffer, mut offset) = (vec![0; READ_BYTES], 0);
    loop {
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            return Ok(hash.finish().as_ref() == digest.raw());
        }
        hash.update(&buffer[..read]);
        offset += read as u64;
        MOVED.fetch_add(1, Ordering::Relaxed);
    }
}

/// The first of these names, and how many more there are.
fn some(repositories: &BTreeSet<RepositoryName>) -> String {
    let named: Vec<_> = repositories.iter().take(NAMED_MAX).map(RepositoryName::as_str).collect();
    let text = named.join(", ");
    match repositories.len() - named.len() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// A backup being taken.
struct Taking<'a> {
    disk: &'a dyn Disk,
    target: &'a Path,
    /// Whatever backup is there.
    replace: bool,
    /// What is there is hashed.
    verify: bool,
    socket: &'a Path,
}

/// What was taken.
#[derive(Default)]
struct Taken {
    content: u64,
    new: u64,
    /// New ones in the place of damaged files.
    again: u64,
    bytes: u64,
    missing: u64,
}

fn disk_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

impl Taking<'_> {
    /// An empty directory, one that holds a backup, or none yet: that is made when there is
    /// something to put into it.
    fn check_directory(&self) -> std::io::Result<()> {
        if !self.disk.exists(self.target)? {
            return Ok(());
        }
        let entries = self.disk.list(self.target)?;
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        if has("format") && has("uploads") {
            let text = "it is a state directory; name a directory outside of it";
            return Err(std::io::Error::other(text));
        }
        let known = |name: &str| {
            // The second one an earlier version left when it was killed.
            let other = ["format", "format.tmp", "blobs", INCOMING, "lost+found"];
            other.contains(&name) || PARTS.contains(&name) || NOTES.contains(&name)
        };
        match entries.iter().find(|entry| !known(&entry.name)) {
            Some(entry) => Err(std::io::Error::other(format!(
                "it holds {}, which is no part of a backup; name an empty directory",
                entry.name
            ))),
            None => Ok(()),
        }
    }

    /// Keeps other backups and restores out of the directory, once it is there. Where the file
    /// system has no locks (NFS), it does without.
    fn lock(&self) -> Result<Option<Box<dyn Send + Sync>>, Failure> {
        if !self.disk.exists(self.target).map_err(|error| disk_failure(self.target, &error))? {
            return Ok(None);
        }
        match self.disk.lock_dir(self.target) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(Failure::new(format!(
                    "another backup to {0}, or a restore from it, is under way; wait until that \
                     has ended, or name another directory",
                    self.target.display()
                )))
            }
            lock => Ok(lock.ok()),
        }
    }

    fn take(
        &self,
        begun: &Value,
        id: &str,
        lock: &mut Option<Box<dyn Send + Sync>>,
    ) -> Result<Taken, Failure> {
        let incoming = self.target.join(INCOMING);
        let io = |error: std::io::Error| disk_failure(self.target, &error);
        let state = Path::new(begun["stateDirectory"].as_str().unwrap_or("/"));
        if state.parent().is_some() && offline::is_within(self.target, state) {
            return Err(Failure::new(format!(
                "{} lies in the state directory {}; name a directory on another disk, or at least \
                 outside of it",
                self.target.display(),
                state.display()
            )));
        }
        self.disk.create_dir_all(self.target).map_err(io)?;
        if lock.is_none() {
            *lock = self.lock()?;
        }
        if self.disk.exists(&incoming).map_err(io)? {
            self.disk.remove_dir_all(&incoming).map_err(io)?;
        }
        for part in PARTS {
            self.disk.create_dir_all(&incoming.join(part)).map_err(io)?;
        }
        for (number, file) in begun["files"].as_array().into_iter().flatten().enumerate() {
            let name = file["name"].as_str().unwrap_or_default();
            let place = incoming.join(name);
            // The node names them; none may lie elsewhere.
            if name.contains("..") || place.parent().is_none_or(|p| !self.is_dir(p)) {
                return Err(Failure::new(format!("the node names a file '{name}'")));
            }
            self.download(&format!("backup/{id}/{number}"), &place, None)?;
        }
        if let Err(failure) = self.check_lineage(&incoming) {
            self.disk.remove_dir_all(&incoming).map_err(io)?;
            return Err(failure);
        }
        let format = begun["format"].as_str().unwrap_or_default().parse::<StoreFormat>();
        let numbers = (begun["sequence"].as_u64(), begun["end"].as_u64());
        let ((Some(sequence), Some(end)), Ok(format)) = (numbers, format) else {
            let text = "the node does not name the format and the end of its store; restart it";
            return Err(Failure::new(text));
        };
        offline::seal(self.disk, &incoming, end).map_err(io)?;
        Layout::new(&incoming).write_format(self.disk, format).map_err(io)?;
        let wanted = offline::contents(&incoming, sequence).map_err(Failure::new)?;
        let taken = self.take_content(&incoming, id, &wanted)?;
        self.put_in_place(&incoming).map_err(io)?;
        // Not before: until then it is the older backup that is there.
        if let Err(error) = self.prune(&wanted) {
            output::complain(&format!(
                "the backup is whole; what it does not need any more is not all removed from {}: \
                 {error}",
                self.target.display()
            ));
        }
        Ok(taken)
    }

    /// A root that came up empty, or a wrong directory, must not cost the backup that is there.
    fn check_lineage(&self, incoming: &Path) -> Result<(), Failure> {
        if self.replace {
            return Ok(());
        }
        let look = |path: &Path| {
            Lineage::of(self.disk, path).map_err(|error| {
                let text = format!("{error}; say --replace if the backup that is there may go");
                disk_failure(path, &std::io::Error::other(text))
            })
        };
        let (Some(old), Some(new)) = (look(self.target)?, look(incoming)?) else {
            return Ok(());
        };
        old.check_replaced_by(&new).map_err(|why| {
            Failure::new(format!(
                "{} is left as it was: {why}; name another directory, or say --replace if that \
                 backup may go",
                self.target.display()
            ))
        })
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.disk.list(path).is_ok()
    }

    /// Downloads the content that the metadata refers to and that is not here yet, or not whole.
    fn take_content(
        &self,
        incoming: &Path,
        id: &str,
        wanted: &BTreeMap<Digest, Option<u64>>,
    ) -> Result<Taken, Failure> {
        let layout = Layout::new(self.target);
        let mut taken = Taken::default();
        // What the node says of some of the missing objects.
        let mut missing = BTreeMap::new();
        // Files that are here are hashed last: the node holds off garbage collection for a while
        // only, and new objects must have come by then.
        let mut here_before = Vec::new();
        for (digest, len) in wanted {
            let place = layout.blob(digest);
            let here = self.disk.exists(&place).map_err(|error| disk_failure(&place, &error))?;
            // A file that cannot be read is replaced like one that is damaged.
            if here && has_length(self.disk, &place, *len).unwrap_or(false) {
                here_before.push(digest);
            } else {
                self.take_object(id, digest, here, &mut taken, &mut missing)?;
            }
        }
        for digest in here_before {
            match !self.verify || is_whole(self.disk, &layout.blob(digest), digest).unwrap_or(false)
            {
                true => taken.content += 1,
                false => self.take_object(id, digest, true, &mut taken, &mut missing)?,
            }
        }
        if !missing.is_empty() {
            let referring = offline::referring(incoming, missing.keys()).map_err(Failure::new)?;
            for (digest, said) in &missing {
                let who = referring.get(digest).map(some).unwrap_or_default();
                output::complain(&format!("{said} {digest} is needed by {who}."));
            }
        }
        Ok(taken)
    }

    /// Downloads an object, or notes that the node does not have it.
    fn take_object(
        &self,
        id: &str,
        digest: &Digest,
        again: bool,
        taken: &mut Taken,
        missing: &mut BTreeMap<Digest, String>,
    ) -> Result<(), Failure> {
        match self.download_content(id, digest, &Layout::new(self.target).blob(digest)) {
            Ok(bytes) => {
                taken.content += 1;
                taken.new += 1;
                taken.again += u64::from(again);
                taken.bytes += bytes;
            }
            Err(failure) if failure.code == super::EXIT_NOT_FOUND => {
                taken.missing += 1;
                if missing.len() < NAMED_MAX {
                    missing.insert(digest.clone(), failure.message);
                }
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Downloads content. Where that fails, by its digest above all, the node looks at what it has:
    /// what is damaged there goes out of service, and is not there any more. What came wrong on
    /// the way comes once more.
    fn download_content(&self, id: &str, digest: &Digest, place: &Path) -> Result<u64, Failure> {
        let path = format!("backup/{id}/{digest}");
        match self.download(&path, place, Some(digest)) {
            Err(failure) if failure.code != super::EXIT_NOT_FOUND => {
                let wanted = json!({ "digest": digest });
                match admin_client::post(self.socket, "backup/verify", &wanted) {
                    Ok(_) => self.download(&path, place, Some(digest)),
                    // The node cannot read it, and says why.
                    Err(cause) if cause.code == super::EXIT_NOT_FOUND => Err(cause),
                    // The first one says more.
                    Err(_) => Err(failure),
                }
            }
            downloaded => downloaded,
        }
    }

    /// Removes content that no record of the backup refers to.
    fn prune(&self, wanted: &BTreeMap<Digest, Option<u64>>) -> std::io::Result<()> {
        let layout = Layout::new(self.target);
        for algorithm in Algorithm::ALL {
            let top = layout.blobs(algorithm);
            if !self.disk.exists(&top)? {
                continue;
            }
            // What a person left there is neither.
            for fan_out in self.disk.list(&top)?.into_iter().filter(|entry| entry.is_dir) {
                let directory = top.join(&fan_out.name);
                for entry in self.disk.list(&directory)?.into_iter().filter(|entry| !entry.is_dir) {
                    let digest = format!("{}:{}", algorithm.name(), entry.name).parse::<Digest>();
                    if digest.is_ok_and(|digest| !wanted.contains_key(&digest)) {
                        self.disk.remove(&directory.join(&entry.name))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The metadata takes the place of an older one. Cut short, it is noticed: the format is gone.
    fn put_in_place(&self, incoming: &Path) -> std::io::Result<()> {
        let root = self.target;
        let format = Layout::new(root).format();
        if self.disk.exists(&format)? {
            self.disk.remove(&format)?;
            self.disk.sync_dir(root)?;
        }
        for part in PARTS {
            let (from, to) = (incoming.join(part), root.join(part));
            if self.disk.exists(&to)? {
                self.disk.remove_dir_all(&to)?;
            }
            self.disk.rename(&from, &to)?;
        }
        for note in NOTES {
            let (from, to) = (incoming.join(note), root.join(note));
            if self.disk.exists(&to)? {
                self.disk.remove(&to)?;
            }
            if self.disk.exists(&from)? {
                self.disk.rename(&from, &to)?;
            }
        }
        let _ = self.disk.remove(&format.with_extension("tmp"));
        // Last: it says that all of the rest is there.
        self.disk.sync_fs(root)?;
        self.disk.rename(&Layout::new(incoming).format(), &format)?;
        self.disk.sync_dir(root)?;
        self.disk.remove_dir_all(incoming)
    }

    /// Downloads one piece; its bytes are durable before its name is there. One with a digest is
    /// hashed.
    fn download(&self, path: &str, place: &Path, digest: Option<&Digest>) -> Result<u64, Failure> {
        let io = |error: std::io::Error| disk_failure(place, &error);
        let parent = place.parent().unwrap_or(Path::new("."));
        self.disk.create_dir_all(parent).map_err(io)?;
        let temporary = place.with_extension("tmp");
        let _ = self.disk.remove(&temporary);
        let file = self.disk.create(&temporary).map_err(io)?;
        let algorithm = digest.map_or(Algorithm::Sha256, Digest::algorithm);
        let mut hash = Context::new(algorithm.function());
        let (mut offset, mut unwritten) = (0, None);
        let downloaded = admin_client::get(self.socket, path, &mut |bytes| {
            hash.update(bytes);
            file.write_all_at(bytes, offset).inspect_err(|error| {
                unwritten = Some(disk_failure(&temporary, error));
            })?;
            offset += bytes.len() as u64;
            MOVED.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        if let Err(failure) = downloaded {
            let _ = self.disk.remove(&temporary);
            // What the disk here does not take is no fault of the node.
            return Err(unwritten.unwrap_or(failure));
        }
        if digest.is_some_and(|digest| hash.finish().as_ref() != digest.raw()) {
            let _ = self.disk.remove(&temporary);
            return Err(Failure::new(format!("{path} came with another digest; try again")));
        }
        file.sync_data().map_err(io)?;
        self.disk.rename(&temporary, place).map_err(io)?;
        Ok(offset)
    }
}

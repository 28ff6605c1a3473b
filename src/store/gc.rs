//! Garbage collection: content that nothing refers to goes, while pushes and pulls go on.
//!
//! A run looks at all rows and files and remembers what it finds unreferenced. What an earlier
//! run found so too, at least the grace before, is removed, unless somebody touched it since: rows
//! first, by commands of the writer, then files. The grace, and the retention of manifests without
//! a tag, count while the node is on, over restarts; the wall clock plays no part. No link and no
//! file goes in the first quarter of the grace after a start, and no manifest before all of it is
//! over, as nothing is noted of who asked for one. When the schedule last let one run is noted, so
//! that one that was missed is made up for after the start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::candidates::{CANDIDATES_MAX, Found, quiet};
use super::content::leases::short;
use super::marks::{in_part, marked, sorted};
use super::recount::WRONG_MAX;
use super::registry::lacking::is_named_or_tagged;
use super::registry::removal::remove_untagged;
use super::registry::repositories;
use super::replica::outbox::{self, Origin, OutboxChange};
use super::replica::waiting;
use super::rows::derived::{Count, held_key, needed_key};
use super::rows::link::{BlobLink, repository_of, split_key};
use super::rows::manifest::{ManifestRow, manifest_key};
use super::rows::untagged::{Untagged, untagged_key};
use super::rows::upkeep::{Collected, LinkId, collected_key};
use super::rows::{Kind, prefix};
use super::unreferenced::{Stuck, Used, files, kept, look_for_tags, notes_of_nothing, used};
use super::{Shared, Store, StoreError, Txn};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName, UnixSeconds};

/// Rows read at a time, and removed in one command.
const PAGE: usize = 256;

/// What a run may remove.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// How long something must have been unreferenced and untouched.
    pub grace: Duration,
    /// How long a manifest may stay without a tag, a place in an index, or a subject that exists;
    /// `None`: for ever.
    pub untagged: Option<Duration>,
    /// Remove nothing, only tell.
    pub dry_run: bool,
}

/// What a run found and did. With `dry_run` the removed ones are those that would have gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// Nothing was removed, as asked ([`GcOptions::dry_run`]) or because of one of the next two.
    pub dry_run: bool,
    /// What was fetched from the parent may not be referred to yet, so nothing was removed: see
    /// [`Store::why_it_waits_for_sync`].
    pub waits_for_sync: bool,
    /// Records may have been lost and no operator has agreed to it yet, so nothing was removed.
    pub waits_for_operator: bool,
    /// Manifests removed because they had no tag for long.
    pub manifests_removed: u64,
    /// Links of repositories to blobs that no manifest there names, removed.
    pub links_removed: u64,
    /// Files removed.
    pub blobs_removed: u64,
    /// Their length, bytes.
    pub bytes_removed: u64,
    /// Unreferenced files that have to wait for the grace.
    pub blobs_waiting: u64,
    /// Their length, bytes.
    pub bytes_waiting: u64,
    /// Files that stay.
    pub blobs_kept: u64,
    /// Their length, bytes.
    pub bytes_kept: u64,
    /// When the first of those that wait for the grace can go, from the start of the run on.
    #[serde(skip)]
    pub ripe: Option<Duration>,
}

/// Links that no manifest of their repository uses, as a run finds them.
#[derive(Default)]
struct Links {
    /// Those that stay, with when they were first found; in a dry run all.
    unused: BTreeMap<LinkId, Duration>,
    /// Those that would have gone in a dry run.
    gone: BTreeSet<LinkId>,
    /// How many are not remembered.
    beyond: u64,
}

impl Links {
    /// Whether there was a place for it.
    fn find(&mut self, link: LinkId, first: Duration) -> bool {
        let has_place = self.unused.len() < CANDIDATES_MAX;
        if has_place {
            self.unused.insert(link, first);
        }
        has_place
    }

    fn remove(&mut self, link: &LinkId, dry_run: bool) {
        if dry_run {
            // As many as are remembered: the figures are those of a run.
            self.gone.extend(Some(*link).filter(|link| self.unused.contains_key(link)));
        } else {
            self.unused.remove(link);
        }
    }
}

/// One run.
struct Run {
    shared: Arc<Shared>,
    store: Store,
    options: GcOptions,
    /// How long the node has been on, and the store open.
    on: Duration,
    up: Duration,
    /// What was touched from then on is not removed. One moment for the whole run: a link that
    /// is kept because of a touch must keep its file, however slow the run is.
    since: Duration,
    report: GcReport,
    /// The keys of counts that are wrong.
    wrong: BTreeSet<Vec<u8>>,
}

/// What a command made of links that no manifest of their repository uses.
#[derive(Default)]
struct Unlinked {
    removed: Vec<LinkId>,
    /// The keys of counts by which one is used.
    wrong: Vec<Vec<u8>>,
}

impl Store {
    /// Collects garbage. `Conflict` while another run is under way.
    pub async fn collect_garbage(&self, options: GcOptions) -> Result<GcReport, StoreError> {
        let shared = self.shared().clone();
        if !options.dry_run {
            shared.check_frozen()?;
        }
        let mut taken = shared.garbage.take().ok_or_else(|| {
            StoreError::Conflict("a garbage collection is under way already".to_owned())
        })?;
        if shared.backup.is_held(shared.sys.clock.monotonic()) {
            let text = "a backup is under way: try again when it has ended, which is a minute \
                        after one that was broken off";
            return Err(StoreError::Conflict(text.to_owned()));
        }
        let store = self.clone();
        let full = spawn::blocking(move || store.below_reserve()).await;
        // On a full disk what the sync has fetched so far may go: it would not get on either.
        let held_back = self.sync_under_way()? && !full;
        // What a lost record named would be garbage, and is all that is left of it.
        let is_lost = self.loss().is_some();
        let dry_run = options.dry_run || held_back || is_lost;
        if full && !dry_run {
            shared.leases.release_all();
            let shared = shared.clone();
            let _ = spawn::blocking(move || shared.make_room(0)).await;
        }
        let options = GcOptions { dry_run, ..options };
        let started = shared.sys.clock.monotonic();
        let report = GcReport {
            dry_run,
            waits_for_sync: held_back,
            waits_for_operator: is_lost,
            ..GcReport::default()
        };
        let since = started.saturating_sub(options.grace);
        let (on, up) = (shared.garbage.on(started), shared.garbage.up(started));
        let store = self.clone();
        let (shared, wrong) = (shared.clone(), BTreeSet::new());
        let mut run = Run { shared, store, options, on, up, since, report, wrong };
        run.collect(&mut taken.found).await?;
        let report = run.report;
        drop((run, taken));
        if !options.dry_run {
            self.note_garbage_soon().await;
        }
        Ok(report)
    }

    /// Notes when garbage was collected by the schedule; `false` on a full disk, which has no room
    /// for notes.
    pub async fn note_collection(&self, now: UnixSeconds) -> Result<bool, StoreError> {
        let store = self.clone();
        if spawn::blocking(move || store.below_reserve()).await {
            return Ok(false);
        }
        self.commit(move |txn| txn.put(collected_key(), &Collected(now))).await?;
        Ok(true)
    }

    /// When that was last noted; `None`: never.
    pub fn last_collection(&self) -> Result<Option<UnixSeconds>, StoreError> {
        Ok(self.get::<Collected>(&collected_key())?.map(|row| row.0))
    }
}

impl Run {
    async fn collect(&mut self, found: &mut Found) -> Result<(), StoreError> {
        let mut is_full = false;
        if let Some(retention) = self.options.untagged {
            unless_full(self.remove_untagged(retention).await, &mut is_full)?;
        }
        let gone = unless_full(self.remove_links(found).await, &mut is_full)?;
        self.remove_files(found, &gone, &mut is_full).await?;
        let wrong = std::mem::take(&mut self.wrong);
        unless_full(self.store.recount(wrong).await, &mut is_full)?;
        if is_full {
            return Err(StoreError::Full);
        }
        if !self.options.dry_run {
            self.shared.leases.forget_before(self.since);
            self.forget_empty_repositories().await?;
            self.store.forget_deliveries().await?;
        }
        Ok(())
    }

    /// Forgets repositories that hold nothing any more, some of them in each command.
    async fn forget_empty_repositories(&self) -> Result<(), StoreError> {
        let mut after: Option<String> = None;
        loop {
            let from = after.take();
            let look = move |store: &Store| {
                let page = store.repositories(from.as_deref(), PAGE)?;
                let last = page.last().map(RepositoryName::to_string);
                let mut empty = Vec::new();
                for name in page {
                    if !store.holds_content(&name)? {
                        empty.push(name);
                    }
                }
                Ok((empty, last))
            };
            let (empty, last) = self.blocking(look).await?;
            if last.is_none() {
                return Ok(());
            }
            after = last;
            if !empty.is_empty() {
                // A push may have come to one since.
                let forget = move |txn: &mut Txn<'_>| {
                    let forget = |name| repositories::forget_if_empty(txn, name).map(|_| ());
                    empty.iter().try_for_each(forget)
                };
                self.store.commit(forget).await?;
            }
        }
    }

    fn ripe(&self, first_found: Duration) -> bool {
        first_found < self.on && self.waits(first_found).is_zero()
    }

    /// How much is left of the grace, and of the quiet time after a start.
    fn waits(&self, first_found: Duration) -> Duration {
        let grace = self.options.grace;
        let of_grace = grace.saturating_sub(self.on.saturating_sub(first_found));
        of_grace.max(quiet(grace).saturating_sub(self.up))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.store.clone();
        spawn::blocking(move || work(&store)).await
    }

    /// Removes links that no manifest of their repository uses; returns those that a dry run would
    /// have removed.
    async fn remove_links(&mut self, found: &mut Found) -> Result<BTreeSet<LinkId>, StoreError> {
        let mut links = Links::default();
        let mut after: Option<RepositoryName> = None;
        loop {
            let from = after.clone();
            let names = move |store: &Store| {
                store.repositories(from.as_ref().map(RepositoryName::as_str), PAGE)
            };
            let names = self.blocking(names).await?;
            let Some(last) = names.last() else { break };
            after = Some(last.clone());
            for name in names {
                let removed = self.remove_links_of(&name, found, &mut links).await?;
                self.report.links_removed += removed;
            }
        }
        if links.beyond > 0 {
            log::info!(
                "garbage: the grace of {} links that nothing names begins with a later run, which \
                 is more than are remembered at once",
                links.beyond
            );
        }
        // A file that another repository uses waits for nothing, but its link here does.
        let waiting = links.unused.iter().filter(|(link, _)| !links.gone.contains(*link));
        waiting.for_each(|(_, first)| self.note_wait(*first));
        found.links = links.unused;
        Ok(links.gone)
    }

    /// How many it removed of a repository, or with a dry run would have.
    async fn remove_links_of(
        &mut self,
        name: &RepositoryName,
        found: &Found,
        links: &mut Links,
    ) -> Result<u64, StoreError> {
        // A node that has been on for the grace remembers every use of a link within it, and every
        // deletion of the last manifest that named it: a link of which it remembers neither has
        // waited, whether it found a place or not.
        let knows_all_uses = self.up >= self.options.grace;
        let (mut part, mut parts, mut removed) = (0, 1, 0);
        while part < parts {
            let used = match used(&self.store, name, part, parts).await? {
                Used::Digests(used) => used,
                Used::TooMany => {
                    // In smaller parts. What went is not met again, and what stays is found again.
                    (part, parts) = (0, parts * 2);
                    removed = if self.options.dry_run { 0 } else { removed };
                    continue;
                }
                Used::Unknown(manifest) => {
                    log::warn!(
                        "no layer of {name} is collected: manifest {manifest} cannot be read and \
                         may name it; push it again or delete it"
                    );
                    break;
                }
            };
            let mut keys = self.store.keys(prefix(Kind::Blob, &[name.as_str().as_bytes()]));
            while let page = keys.next_keys().await?
                && !page.is_empty()
            {
                let mut ripe = Vec::new();
                for key in page {
                    let Some((_, digest)) = split_key(&key) else { continue };
                    let number = short(&digest);
                    if !in_part(number, part, parts) || used.binary_search(&number).is_ok() {
                        continue;
                    }
                    let link = LinkId::of(&key, &digest);
                    let first = found.links.get(&link).copied().unwrap_or(self.on);
                    let has_place = links.find(link, first);
                    if self.ripe(first) || !has_place && knows_all_uses {
                        ripe.push((key, digest));
                    } else if !has_place {
                        links.beyond += 1;
                    }
                }
                let went = match self.options.dry_run {
                    true => self.removable(&ripe),
                    false => self.unlink(ripe).await?,
                };
                removed += went.len() as u64;
                went.iter().for_each(|link| links.remove(link, self.options.dry_run));
            }
            part += 1;
        }
        Ok(removed)
    }

    /// The links that would go now.
    fn removable(&self, links: &[(Vec<u8>, Digest)]) -> Vec<LinkId> {
        let free = |digest: &Digest| !self.shared.leases.is_wanted(digest, self.since);
        let free = links.iter().filter(|(_, digest)| free(digest));
        free.map(|(key, digest)| LinkId::of(key, digest)).collect()
    }

    /// The links that went.
    async fn unlink(&mut self, links: Vec<(Vec<u8>, Digest)>) -> Result<Vec<LinkId>, StoreError> {
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let (shared, since) = (self.shared.clone(), self.since);
        let unlinked = self.store.commit(move |txn| unlink(txn, &shared, links, since)).await?;
        unlinked.wrong.into_iter().for_each(|key| self.note_wrong(key));
        Ok(unlinked.removed)
    }

    fn note_wrong(&mut self, count: Vec<u8>) {
        if self.wrong.len() < WRONG_MAX {
            self.wrong.insert(count);
        }
    }

    /// Looks why a file stays of which a look at the rows has found nothing, no link either.
    fn look_at_held(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let key = held_key(&digest.to_key());
        let is_held = self.store.get::<Count>(&key)?.is_some();
        if is_held && !self.shared.leases.is_wanted(digest, self.since) {
            disagrees(&self.shared, &format!("a repository has {digest}"));
            self.note_wrong(key);
        }
        Ok(())
    }

    /// Removes files that no row refers to. Those that only unused links refer to count as
    /// unreferenced from now on, so that they need not wait twice, but stay as long as a link does.
    async fn remove_files(
        &mut self,
        found: &mut Found,
        gone: &BTreeSet<LinkId>,
        is_full: &mut bool,
    ) -> Result<(), StoreError> {
        let linked = found.links.keys().filter(|link| !gone.contains(*link));
        let linked = sorted(linked.map(|link| link.digest).collect());
        let (mut unreferenced, mut kept_files) = (BTreeMap::new(), (0, 0));
        let (mut part, mut parts, mut stuck) = (0, 1, Stuck::default());
        while part < parts {
            let Some(marked) = marked(&self.store, &found.links, part, parts).await? else {
                // Too many digests: in smaller parts, from the start.
                (part, parts, stuck) = (0, parts * 2, Stuck::default());
                (unreferenced, kept_files) = (BTreeMap::new(), (0, 0));
                continue;
            };
            let files = files(&self.store, marked, part, parts).await?;
            stuck.add_all(files.stuck);
            kept_files = (kept_files.0 + files.kept, kept_files.1 + files.bytes_kept);
            let room = CANDIDATES_MAX.saturating_sub(unreferenced.len());
            unreferenced.extend(files.unreferenced.into_iter().take(room));
            part += 1;
        }
        (self.report.blobs_kept, self.report.bytes_kept) = kept_files;
        let mut kept = BTreeMap::new();
        for (digest, bytes) in unreferenced {
            let first = found.files.get(&digest).copied().unwrap_or(self.on);
            // What a link that stays holds is seen when the file would go; a dry run looks here.
            let is_linked = linked.binary_search(&short(&digest)).is_ok();
            let removable = self.ripe(first) && !(self.options.dry_run && is_linked);
            let went = match removable {
                true => self.remove_file(&digest).await,
                false => Ok(false),
            };
            let went = match went {
                Err(StoreError::Unreadable(error)) => {
                    stuck.add(error);
                    false
                }
                // A record that another command made was to go to the disk with this.
                went => unless_full(went, is_full)?,
            };
            if went {
                self.report.blobs_removed += 1;
                self.report.bytes_removed += bytes;
                if !self.options.dry_run {
                    continue;
                }
            } else {
                if removable && !is_linked && !self.options.dry_run {
                    self.look_at_held(&digest)?;
                }
                self.report.blobs_waiting += 1;
                self.report.bytes_waiting += bytes;
                self.note_wait(first);
            }
            if kept.len() < CANDIDATES_MAX {
                kept.insert(digest, first);
            }
        }
        stuck.log();
        found.files = kept;
        Ok(())
    }

    /// Something stays that was first found then: another run may remove it.
    fn note_wait(&mut self, first_found: Duration) {
        // Who uses what could go now may do so for as long again.
        let waits = Some(self.waits(first_found)).filter(|waits| !waits.is_zero());
        self.note_wait_of(waits.unwrap_or(self.options.grace));
    }

    fn note_wait_of(&mut self, waits: Duration) {
        self.report.ripe = Some(self.report.ripe.map_or(waits, |other| other.min(waits)));
    }

    /// Whether the file went, or with a dry run would have gone.
    async fn remove_file(&self, digest: &Digest) -> Result<bool, StoreError> {
        match self.options.dry_run {
            true => Ok(!self.shared.leases.is_wanted(digest, self.since)),
            false => self.store.remove_content(digest, self.since).await,
        }
    }

    /// Removes manifests that have been without a tag for long, and remembers since when others
    /// have been.
    async fn remove_untagged(&mut self, retention: Duration) -> Result<(), StoreError> {
        if !self.options.dry_run {
            self.forget_notes_of_nothing().await?;
        }
        let mut after: Option<RepositoryName> = None;
        loop {
            let from = after.clone();
            let names = move |store: &Store| {
                store.repositories(from.as_ref().map(RepositoryName::as_str), PAGE)
            };
            let names = self.blocking(names).await?;
            let Some(last) = names.last() else { return Ok(()) };
            after = Some(last.clone());
            for name in names {
                let removed = self.remove_untagged_of(&name, retention).await?;
                self.report.manifests_removed += removed;
            }
        }
    }

    /// How many it removed of a repository, or with a dry run would have.
    async fn remove_untagged_of(
        &mut self,
        name: &RepositoryName,
        retention: Duration,
    ) -> Result<u64, StoreError> {
        let since = self.shared.sys.clock.wall_or_floor();
        let now = Untagged { since, on: self.on.as_secs() };
        let (mut part, mut parts, mut removed) = (0, 1, 0);
        while part < parts {
            let Some(kept) = kept(&self.store, name, part, parts).await? else {
                // Too many digests: in smaller parts. What went is not met again.
                (part, parts) = (0, parts * 2);
                removed = if self.options.dry_run { 0 } else { removed };
                continue;
            };
            let kept = Arc::new(kept);
            let start = prefix(Kind::Manifest, &[name.as_str().as_bytes()]);
            let mut manifests = self.store.pages::<ManifestRow>(start);
            loop {
                let (kept, repository) = (kept.clone(), name.clone());
                let look = manifests.work(move |store, page| {
                    look_for_tags(store, &repository, page, |digest| {
                        in_part(digest, part, parts).then(|| kept.binary_search(&digest).is_ok())
                    })
                });
                let Some(looked) = look.await? else { break };
                if !self.options.dry_run {
                    self.forget_notes(looked.kept_again).await?;
                }
                for (digest, noted) in looked.untagged {
                    // A time that has not come yet counts as now: the count began anew.
                    let noted = noted.filter(|on| (1..=now.on).contains(on));
                    let due = noted.is_some_and(|on| now.on - on >= retention.as_secs());
                    let waits = self.manifest_waits(&digest);
                    if due && !waits.is_zero() {
                        self.note_wait_of(waits);
                    } else if due {
                        let is_gone =
                            self.options.dry_run || self.remove_manifest(name, &digest).await?;
                        removed += u64::from(is_gone);
                    } else if noted.is_none() && !self.options.dry_run {
                        let name = name.clone();
                        self.store.commit(move |txn| note(txn, &name, &digest, now)).await?;
                    }
                }
            }
            part += 1;
        }
        Ok(removed)
    }

    /// For how long a manifest stays though its retention is over.
    fn manifest_waits(&self, digest: &Digest) -> Duration {
        match self.shared.leases.is_wanted(digest, self.since) {
            true => self.options.grace,
            false => self.options.grace.saturating_sub(self.up),
        }
    }

    /// Deletes notes about manifests that are gone: earlier versions left them behind.
    async fn forget_notes_of_nothing(&self) -> Result<(), StoreError> {
        let mut notes = self.store.keys(prefix(Kind::Untagged, &[]));
        while let Some(gone) = notes.work(notes_of_nothing).await? {
            self.forget_notes(gone).await?;
        }
        Ok(())
    }

    /// Deletes these notes. When what one is about has just become untagged again, its time
    /// starts anew.
    async fn forget_notes(&self, keys: Vec<Vec<u8>>) -> Result<(), StoreError> {
        for page in keys.chunks(PAGE) {
            let page = page.to_vec();
            let forget = move |txn: &mut Txn<'_>| {
                page.into_iter().try_for_each(|key| txn.delete(key))?;
                Ok(())
            };
            self.store.commit(forget).await?;
        }
        Ok(())
    }

    async fn remove_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let (shared, since) = (self.shared.clone(), self.since);
        let (repository, digest) = (repository.clone(), digest.clone());
        let remove =
            move |txn: &mut Txn<'_>| remove_manifest(txn, &shared, &repository, &digest, since);
        self.store.commit(remove).await
    }
}

/// Removes those of these links that are free; which.
fn unlink(
    txn: &mut Txn<'_>,
    shared: &Shared,
    links: Vec<(Vec<u8>, Digest)>,
    since: Duration,
) -> Result<Unlinked, StoreError> {
    let mut unlinked = Unlinked::default();
    for (key, digest) in links {
        let Some(link) = txn.get::<BlobLink>(&key)? else { continue };
        let Some(name) = repository_of(&key) else { continue };
        // A push that uses the link was noted before this command ran.
        if shared.leases.is_wanted(&digest, since) {
            continue;
        }
        if txn.get::<Count>(&needed_key(&name, &digest))?.is_some() {
            disagrees(shared, &format!("{name} needs blob {digest}"));
            unlinked.wrong.push(needed_key(&name, &digest));
            continue;
        }
        if !shared.leases.hide_unless_wanted(&key, &digest, since) {
            continue;
        }
        repositories::release(txn, &name, link.size)?;
        unlinked.removed.push(LinkId::of(&key, &digest));
        txn.delete(key)?;
    }
    Ok(unlinked)
}

/// Removes an untagged manifest that is free; whether it was.
fn remove_manifest(
    txn: &mut Txn<'_>,
    shared: &Shared,
    repository: &RepositoryName,
    digest: &Digest,
    since: Duration,
) -> Result<bool, StoreError> {
    // The subject may have come since the rows were looked at; a tag or an index that came has
    // touched the manifest. What goes up stays until the parent has it.
    let key = manifest_key(repository, digest);
    if is_named_or_tagged(txn, repository, digest)?
        || refers(txn, repository, digest)?
        || waiting::brings(txn, repository, digest)?
        || !shared.leases.hide_unless_wanted(&key, digest, since)
    {
        return Ok(false);
    }
    let removed = remove_untagged(txn, repository, digest)?;
    if removed {
        let change = OutboxChange::ManifestDeleted { digest: digest.clone() };
        outbox::enqueue(txn, &Origin::Client, repository, change)?;
    }
    Ok(removed)
}

/// What was seen as garbage is needed, though nobody has touched it since: it stays, and the run
/// counts anew what it is needed for.
fn disagrees(shared: &Shared, what: &str) {
    shared.sys.metrics.gc_disagreements.add(1);
    log::error!("garbage collection and the index disagree, nothing is removed: {what}");
}

/// Whether a manifest has a subject that exists.
fn refers(txn: &Txn<'_>, repository: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
    let row = txn.get::<ManifestRow>(&manifest_key(repository, digest))?;
    let Some(subject) = row.and_then(|row| row.subject) else { return Ok(false) };
    Ok(txn.get::<ManifestRow>(&manifest_key(repository, &subject))?.is_some())
}

/// Notes that a manifest, if it is still there, has no tag.
fn note(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    now: Untagged,
) -> Result<(), StoreError> {
    match txn.get::<ManifestRow>(&manifest_key(repository, digest))? {
        Some(_) => txn.put(untagged_key(repository, digest), &now),
        None => Ok(()),
    }
}

/// On a full disk a collection goes on with what needs no record: files that no row refers to.
fn unless_full<T: Default>(
    result: Result<T, StoreError>,
    is_full: &mut bool,
) -> Result<T, StoreError> {
    match result {
        Err(StoreError::Full) => {
            *is_full = true;
            Ok(T::default())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::PutOutcome;
    use crate::store::registry::manifests::testing::{digest, image, push, put, store};
    use crate::store::rows::link::blob_key;
    use crate::types::media;

    /// Symptom: a HEAD was 200 for what went a moment later.
    #[test]
    fn f141_f206_what_a_command_removes_is_hidden_until_its_group_is_done() {
        smol::block_on(async {
            let store = store();
            let app: RepositoryName = "app".parse().unwrap();
            push(&store, "app", 1, &[]).await;
            let (shared, since) = (store.shared().clone(), Duration::MAX);
            let (manifest, name) = (manifest_key(&app, &digest(1)), app.clone());
            let in_command = store.commit(move |txn| {
                let removed = remove_manifest(txn, &shared, &name, &digest(1), since)?;
                Ok((removed, shared.leases.is_hidden(&manifest)))
            });
            assert_eq!(in_command.await, Ok((true, true)));
            let (shared, link) = (store.shared().clone(), blob_key(&app, &digest(100)));
            let links = vec![(link.clone(), digest(100))];
            let in_command = store.commit(move |txn| {
                let removed = unlink(txn, &shared, links, since)?.removed.len();
                Ok((removed, shared.leases.is_hidden(&link)))
            });
            assert_eq!(in_command.await, Ok((1, true)));
            // What stays, as after an error, is shown again, by the group of any command.
            push(&store, "app", 2, &[]).await;
            let key = manifest_key(&app, &digest(2));
            assert!(store.shared().leases.hide_unless_wanted(&key, &digest(2), since));
            assert_eq!(store.manifest_to_use(&app, &digest(2)), Ok(None));
            store.commit(|_| Ok(())).await.unwrap();
            assert!(store.manifest_to_use(&app, &digest(2)).unwrap().is_some());
        });
    }

    /// A look at the rows that has missed everything, a long time ago.
    #[test]
    fn f206_what_is_needed_when_it_would_go_stays_whatever_a_look_has_found() {
        smol::block_on(async {
            let store = store();
            let app: RepositoryName = "app".parse().unwrap();
            push(&store, "app", 1, &["v1"]).await;
            let text = format!(
                r#"{{"schemaVersion":2,
                    "manifests":[{{"mediaType":"{}","digest":"{}","size":9}}]}}"#,
                media::OCI_MANIFEST,
                digest(2)
            );
            push(&store, "app", 2, &[]).await;
            store.put_manifest(&app, put(3, media::OCI_INDEX, &text, &[])).await.unwrap();
            let shared = store.shared().clone();
            let mut run = Run {
                shared: shared.clone(),
                store: store.clone(),
                options: GcOptions { grace: Duration::ZERO, untagged: None, dry_run: false },
                on: Duration::MAX,
                up: Duration::MAX,
                since: Duration::MAX,
                report: GcReport::default(),
                wrong: BTreeSet::new(),
            };
            let link = (blob_key(&app, &digest(100)), digest(100));
            // Somebody has used it since the look: nothing is wrong.
            let lease = shared.lease(&digest(100));
            assert_eq!(run.unlink(vec![link.clone()]).await, Ok(Vec::new()));
            drop(lease);
            assert_eq!(shared.sys.metrics.gc_disagreements.get(), 0);
            assert_eq!(run.unlink(vec![link.clone()]).await, Ok(Vec::new()));
            assert_eq!(shared.sys.metrics.gc_disagreements.get(), 1);
            assert_eq!(run.remove_file(&digest(100)).await, Ok(false));
            for number in [1, 2] {
                assert_eq!(run.remove_manifest(&app, &digest(number)).await, Ok(false), "{number}");
            }
            for number in [3, 2, 1] {
                store.delete_manifest(&app, &digest(number), &Origin::Client).await.unwrap();
            }
            let id = LinkId::of(&link.0, &link.1);
            assert_eq!(run.unlink(vec![link]).await, Ok(vec![id]));
            let again = store.put_manifest(&app, image(1, &[])).await;
            assert_eq!(again, Ok(PutOutcome::BlobMissing(digest(100))));
        });
    }
}

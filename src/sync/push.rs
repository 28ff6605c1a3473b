//! Changes made here or below, delivered to the parent: those of each repository in the order in
//! which they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::SyncError;
use super::fetch::Fetcher;
use super::plan::{Moved, moved};
use super::soon::{RETRY_REFUSED, Soon};
use super::turns::Turns;
use super::upload::{Content, Uploader};
use crate::gateway::distribution::{Change, FetchedManifest};
use crate::gateway::{Upstream, UpstreamError};
use crate::store::content::trust::Verdict;
use crate::store::replica::outbox::{OutboxChange, OutboxEntry};
use crate::store::replica::refused::Refused;
use crate::store::{ManifestRow, Precondition, Store, StoreError};
use crate::sys::spawn;
use crate::types::limits::{MANIFEST_LEVELS_MAX, PAGE_MAX};
use crate::types::message::NodeConfig;
use crate::types::token::grants;
use crate::types::{
    ConnectedRegistryName, Delivery, Digest, Manifest, Mode, Reason, Reference, RepositoryAction,
    RepositoryName, Tag,
};

/// How long to wait for a change at most before looking again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Changes that are read at once.
const AT_ONCE: usize = 64;

/// Of a change that the parent refuses because it lacks what was deleted here.
const NOT_WHOLE: &str = "; that is not here either: push it here again, or delete here, by its \
                         digest, the manifest that names it";

/// How often in a row a change is tried whose content cannot be read here or did not stay at the
/// parent until all of it was there, for which other uploads keep the quota, of which the parent
/// cannot tell yet what it has, or which fails there as nothing else does, before the others of its
/// repository go first: some seconds, in which that may pass. From then on the change waits like
/// one that the parent refused.
const UNREADABLE_MAX: u32 = 4;

/// A new session with the parent has everything tried again when the last attempt was so long ago.
const AWAY: Duration = Duration::from_secs(60);

/// How often one change is delivered in a row because the tag names at the parent what this node
/// left there. Over it: the repository waits.
const BEGUN_ANEW_MAX: u32 = 3;

/// Changes delivered before the repositories that wait get their turn.
const ROUND_MAX: usize = 1000;

/// Delivers the outbox.
pub(super) struct Pusher {
    pub(super) store: Store,
    pub(super) upstream: Arc<Upstream>,
    pub(super) uploader: Uploader,
    pub(super) fetcher: Fetcher,
    /// Kept from one session to the next.
    pub(super) turns: Mutex<Turns>,
    pub(super) retries: Mutex<Retries>,
}

/// When to try what the parent refused.
#[derive(Default)]
pub(super) struct Retries {
    /// The desired state and the start of the parent at the last attempt: another one may grant
    /// more, or have another quota. And how much was healed here: what was missing may be back.
    seen: Option<(Option<String>, Option<String>, u64)>,
    /// When the next attempt is due, monotonic: [`RETRY_REFUSED`] after the last one.
    next: Duration,
    /// Attempts since one of them changed.
    round: u64,
    /// Changes that were set aside and may be taken soon.
    soon: Soon,
    /// Changes wait because this node is ReadOnly, which was said.
    held_up: bool,
}

impl Retries {
    /// The parent was away: a quota or another configuration of its own may have changed, which it
    /// tells nobody. A link that breaks again and again is no reason.
    fn session_begins(&mut self, now: Duration) {
        let last = self.next.saturating_sub(RETRY_REFUSED);
        if now.saturating_sub(last) >= AWAY {
            self.seen = None;
        }
    }
}

impl Pusher {
    /// Delivers what there is, waits for more, and so on; ends with an error only. What a parent
    /// cannot take just now is tried again here, so that pulling goes on.
    pub(super) async fn deliver_all(&self) -> Result<Infallible, SyncError> {
        self.retries().session_begins(self.now());
        loop {
            let (seen, damage) = (self.store.sequence(), self.store.damage_changes());
            let pause = self.deliver_round().await?;
            let damage = async {
                damage.await;
                true
            };
            if !smol::future::or(self.store.wait_after(seen, pause), damage).await {
                return std::future::pending().await;
            }
        }
    }

    /// Delivers what can be delivered now; how long nothing more is due.
    pub(super) async fn deliver_round(&self) -> Result<Duration, SyncError> {
        if !self.is_read_write()? {
            self.tell_what_waits()?;
            return Ok(LOOK_AGAIN);
        }
        self.retries().held_up = false;
        self.retry_refused().await?;
        let mut refused = self.store.refused().await?;
        self.deliver_new(&mut refused).await?;
        self.try_again(&mut refused).await?;
        if self.store.has_offered()? {
            self.store.compare_offered().await?;
        }
        let (now, soon) = (self.now(), self.retries().soon.next(self.now()));
        let next = self.turns().next(now).into_iter().chain(soon).min();
        Ok(next.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN))
    }

    /// Says once that a ReadOnly node has what it took before it was one.
    fn tell_what_waits(&self) -> Result<(), StoreError> {
        if !self.retries().held_up && !self.store.outbox(1)?.is_empty() {
            self.retries().held_up = true;
            log::warn!(
                "changes that were made here wait, because this connected registry is ReadOnly \
                 now: see statusDetails in `skerry status`"
            );
        }
        Ok(())
    }

    fn is_read_write(&self) -> Result<bool, StoreError> {
        Ok(self.store.self_node()?.is_some_and(|node| node.mode == Mode::ReadWrite))
    }

    fn now(&self) -> Duration {
        self.store.sys().clock.monotonic()
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // A panic elsewhere leaves whole entries behind.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retries(&self) -> MutexGuard<'_, Retries> {
        // A panic elsewhere leaves whole values behind.
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what the parent refused tried again: at the start, when the desired state is another
    /// one, the parent was started anew or content was healed here, and now and then.
    async fn retry_refused(&self) -> Result<(), SyncError> {
        let soon = self.retries().soon.due(self.now());
        self.store.outbox_renew(soon.clone()).await?;
        // Only now: an attempt that failed halfway is repeated.
        self.retries().soon.numbers.retain(|number| !soon.contains(number));
        let healed = self.store.sys().metrics.blobs_healed.get();
        let seen = Some((self.store.self_config_version()?, self.upstream.parent_start(), healed));
        let now = self.now();
        let round = {
            let retries = self.retries();
            match retries.seen == seen {
                true if now < retries.next => return Ok(()),
                true => retries.round + 1,
                false => 0,
            }
        };
        self.store.outbox_retry(round).await?;
        let mut retries = self.retries();
        if round == 0 {
            retries.soon.begin_anew();
        }
        (retries.seen, retries.round, retries.next) = (seen, round, now + RETRY_REFUSED);
        Ok(())
    }

    /// Delivers the changes of repositories that wait for nothing, oldest first.
    async fn deliver_new(&self, refused: &mut Refused) -> Result<(), SyncError> {
        let (mut after, mut delivered) = (0, 0);
        loop {
            let changes = self.store.outbox_after(after, AT_ONCE)?;
            if changes.is_empty() {
                return Ok(());
            }
            let mut overtaken = Vec::new();
            for (number, entry) in &changes {
                while let Some(refused) = refused.overtaken_by(*number, entry) {
                    overtaken.push(refused);
                }
            }
            self.store.outbox_renew(overtaken).await?;
            for (number, entry) in changes {
                after = number;
                if self.turns().waits(&entry.repository) || refused.holds_up(number, &entry) {
                    continue;
                }
                // What became of the one before may have changed it.
                let Some(entry) = self.store.outbox_entry(number)? else {
                    continue;
                };
                if delivered == ROUND_MAX || !self.is_read_write()? {
                    return Ok(());
                }
                delivered += 1;
                self.attempt(number, entry, refused).await?;
            }
            // Any number may be held up.
            spawn::yield_now().await;
        }
    }

    /// Delivers the oldest change of each repository that has waited long enough; when it works,
    /// the others follow in the next round.
    async fn try_again(&self, refused: &mut Refused) -> Result<(), SyncError> {
        let due = self.turns().due(self.now());
        for repository in due {
            match self.store.outbox_first(&repository, refused).await? {
                Some(_) if !self.is_read_write()? => return Ok(()),
                Some((number, entry)) => {
                    self.attempt(number, entry, refused).await?;
                }
                None => self.turns().worked(&repository),
            }
        }
        Ok(())
    }

    /// Delivers one change. When it fails, its repository waits; the error is one that ends the
    /// session.
    async fn attempt(
        &self,
        number: u64,
        entry: OutboxEntry,
        refused: &mut Refused,
    ) -> Result<(), SyncError> {
        let repository = &entry.repository;
        let Err(error) = self.settle(number, &entry).await else {
            self.turns().worked(repository);
            if let Some(refusal) = self.store.outbox_refusal(number)? {
                refused.add(number, refusal);
                return Ok(());
            }
            let completed = refused.completed_by(&entry, &self.store).await;
            return Ok(self.store.outbox_renew(completed).await?);
        };
        let ends = error.ends_session();
        self.turns().failed(repository, ends, self.now(), &*self.store.sys().rng);
        if ends {
            return Err(error);
        }
        log::warn!("retrying a push to the parent repository={repository}: {error}");
        Ok(())
    }

    /// Delivers one change and takes it out of the outbox, or notes that it was refused.
    async fn settle(&self, number: u64, entry: &OutboxEntry) -> Result<(), SyncError> {
        let mut entry = entry.clone();
        for _ in 0..BEGUN_ANEW_MAX {
            if self.lost_its_manifest(&entry)? {
                // Another one follows that begins with it, or the tag went with its manifest.
                if !self.store.outbox_skip(number).await? {
                    self.store.outbox_renumber(number).await?;
                }
                return Ok(());
            }
            let delivered = match self.deliver(number, &entry).await {
                // Tried at once: what was changed later must not overtake it.
                Err(SyncError::Upstream(UpstreamError::PreconditionFailed)) => {
                    match self.settle_moved(number, &entry).await {
                        Ok(Some(begun_anew)) => {
                            entry = begun_anew;
                            continue;
                        }
                        Ok(None) => return Ok(()),
                        Err(error) => Err(error),
                    }
                }
                delivered => delivered,
            };
            match delivered {
                Ok(()) => return self.done(number, &entry).await,
                // It was deleted between the look at its row and the reading of its bytes.
                Err(SyncError::Content(_)) if self.lost_its_manifest(&entry)? => continue,
                // A leaf that is below another node now: what it has handed in goes on as ours.
                Err(SyncError::Upstream(error))
                    if entry.id.origin != *self.upstream.name()
                        && error.is_for(Reason::OriginNotBelow) =>
                {
                    return Ok(self.store.outbox_renumber(number).await?);
                }
                Err(SyncError::Upstream(UpstreamError::OutboxMismatch { replaced })) => {
                    return self.overtaken(number, &entry, replaced).await;
                }
                // The content may come back, here or there.
                Err(error)
                    if self.may_pass(&entry, &error)? && self.is_tried_at_once(&entry, &error) =>
                {
                    return Err(error);
                }
                // Of a conflict the parent's content may not fit here.
                Err(error) if error.sets_aside() => {
                    let version = self.store.self_config_version()?;
                    let mut reason = refusal_text(self.upstream.name(), &entry, &error);
                    if error.lacks_content() && !self.is_whole_here(&entry)? {
                        reason.push_str(NOT_WHOLE);
                    }
                    log::error!("cannot push {entry} to the parent, tried again later: {reason}");
                    if meets_many(&error) && self.may_pass(&entry, &error)? {
                        self.turns().set_aside(&entry.repository, self.now());
                    }
                    if error.is_of_the_parent()
                        || error.lacks_room().is_some()
                        || error.is_about_rights() && self.is_granted(&entry)?
                    {
                        let now = self.now();
                        self.retries().soon.add(number, now);
                    }
                    self.store.outbox_refused(number, reason).await?;
                    self.note_desired_state(&version);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Err(UpstreamError::Busy(503, format!("{entry}: the tag is being moved there")).into())
    }

    /// A change was refused under this desired state. When that is not the one of the last attempt,
    /// the next one may be that again, and yet grant what this one did not.
    fn note_desired_state(&self, version: &Option<String>) {
        let mut retries = self.retries();
        if retries.seen.as_ref().is_some_and(|(seen, ..)| seen != version) {
            retries.seen = None;
        }
    }

    /// Whether the change may be taken soon. What the parent lacks of it, and was brought, went
    /// there before the rest had come: a collection took it.
    fn may_pass(&self, entry: &OutboxEntry, error: &SyncError) -> Result<bool, StoreError> {
        Ok(error.may_pass() || error.lacks_content() && self.is_whole_here(entry)?)
    }

    /// Whether the desired state of this node grants a change. Where the parent refuses it all the
    /// same, the grant was taken away, perhaps to be given back before this node hears of it.
    fn is_granted(&self, entry: &OutboxEntry) -> Result<bool, StoreError> {
        let action = match &entry.change {
            OutboxChange::Tag { digest: Some(_), .. } | OutboxChange::ManifestAdded { .. } => {
                RepositoryAction::ContentWrite
            }
            _ => RepositoryAction::ContentDelete,
        };
        let config = self.store.self_config()?;
        let map = config.as_ref().and_then(NodeConfig::own_map);
        Ok(map.is_some_and(|map| grants(&map.grants, &entry.repository, action)))
    }

    /// Whether all is here that the manifest of a change needs.
    fn is_whole_here(&self, entry: &OutboxEntry) -> Result<bool, StoreError> {
        let repository = &entry.repository;
        let row = entry.brings().map(|digest| self.store.manifest(repository, digest));
        let Some(row) = row.transpose()?.flatten() else {
            return Ok(false);
        };
        for child in &row.children {
            if self.store.manifest(repository, child)?.is_none() {
                return Ok(false);
            }
        }
        for blob in &row.blobs {
            if !self.store.blob_linked(repository, blob)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the change is not tried in vain for long yet.
    fn is_tried_at_once(&self, entry: &OutboxEntry, error: &SyncError) -> bool {
        let (turns, repository) = (self.turns(), &entry.repository);
        turns.times(repository) < UNREADABLE_MAX
            && !(meets_many(error) && turns.is_impatient(repository, self.now()))
    }

    /// The parent has a change.
    async fn done(&self, number: u64, entry: &OutboxEntry) -> Result<(), SyncError> {
        if self.store.outbox_delivered(number, self.upstream.heard()).await? {
            let now = self.now();
            let mut retries = self.retries();
            if retries.soon.hope(now) {
                // All that was refused is tried again.
                retries.seen = None;
            }
            drop(retries);
            log::info!("delivered what the parent had refused: {entry}");
        }
        Ok(())
    }

    /// Whether a change brings a manifest that was deleted here since.
    fn lost_its_manifest(&self, entry: &OutboxEntry) -> Result<bool, StoreError> {
        let manifest = entry.brings().map(|digest| self.store.manifest(&entry.repository, digest));
        Ok(matches!(manifest.transpose()?, Some(None)))
    }

    /// The parent has had this change, and what it made has changed since: the answer was lost, or
    /// this store was restored or set back.
    async fn overtaken(
        &self,
        number: u64,
        entry: &OutboxEntry,
        replaced: bool,
    ) -> Result<(), SyncError> {
        log::warn!(
            "{entry} was delivered before, and has changed at the parent since: the parent's state \
             counts"
        );
        Ok(self.store.outbox_overtaken(number, replaced).await?)
    }

    async fn deliver(&self, number: u64, entry: &OutboxEntry) -> Result<(), SyncError> {
        let repository = &entry.repository;
        let again = self.store.outbox_was_refused(number)?;
        let (id, offered, anew) = (entry.id.clone(), entry.offered, entry.anew);
        let instead_of = entry.instead_of.clone();
        let delivery = Delivery { id, offered, again, instead_of, anew };
        let delivery = Some(&delivery);
        match &entry.change {
            OutboxChange::Tag { tag, base, digest } => {
                let precondition = match base {
                    Some(base) => Precondition::Is(base.clone()),
                    None => Precondition::Absent,
                };
                let change = Change { precondition, delivery };
                match digest {
                    Some(digest) => self.put(entry, digest, Some(tag), &change).await,
                    None => self.delete(repository, &Reference::Tag(tag.clone()), &change).await,
                }
            }
            OutboxChange::ManifestAdded { digest } => {
                let change = Change { precondition: Precondition::None, delivery };
                self.put(entry, digest, None, &change).await
            }
            OutboxChange::ManifestDeleted { digest } => {
                let change = Change { precondition: Precondition::None, delivery };
                self.delete(repository, &Reference::Digest(digest.clone()), &change).await
            }
        }
    }

    async fn delete(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        change: &Change<'_>,
    ) -> Result<(), SyncError> {
        match self.upstream.delete(repository, reference, change).await {
            // Gone is what was wanted.
            Ok(()) | Err(UpstreamError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings a manifest up with all it needs, and lets the tag, if any, name it.
    async fn put(
        &self,
        entry: &OutboxEntry,
        digest: &Digest,
        tag: Option<&Tag>,
        change: &Change<'_>,
    ) -> Result<(), SyncError> {
        let repository = &entry.repository;
        let Some(row) = self.store.manifest(repository, digest)? else {
            return Err(SyncError::Content(format!("{entry} is being deleted here")));
        };
        let to = (repository, digest, tag);
        let is_there = self.upstream.has_manifest(repository, digest).await?;
        // What it names goes up in no change of its own: nothing comes along with an offer in vain.
        let is_offer = change.delivery.is_some_and(|delivery| delivery.offered.is_offer());
        let goes_first = is_there || is_offer && row.named_manifests().next().is_some();
        match self.bring(to, &row, change, !goes_first).await {
            // What it needs was there when the parent was asked, and was deleted since; or it is
            // offered, and not in vain.
            Err(SyncError::Upstream(error)) if error.is_for(Reason::ContentMissing) => {
                self.bring(to, &row, change, true).await
            }
            Ok(()) if !is_there && goes_first => {
                // What it names without needing it.
                if self.upstream.has_manifest(repository, digest).await? {
                    self.bring_content(repository, digest).await?;
                }
                Ok(())
            }
            brought => brought,
        }
    }

    async fn bring(
        &self,
        (repository, digest, tag): (&RepositoryName, &Digest, Option<&Tag>),
        row: &ManifestRow,
        change: &Change<'_>,
        with_content: bool,
    ) -> Result<(), SyncError> {
        if with_content {
            self.bring_content(repository, digest).await?;
        }
        let manifest = self.read(digest, row.media_type.clone()).await?;
        Ok(self.upstream.put_manifest(repository, (digest, tag), &manifest, change).await?)
    }

    /// Brings up the blobs of a manifest and, first, the manifests below it that the parent lacks.
    async fn bring_content(
        &self,
        repository: &RepositoryName,
        root: &Digest,
    ) -> Result<(), SyncError> {
        // How deep each lies at most, below the root: an index may name a manifest of an upper
        // level again. Rows are read when it is their turn: some are large.
        let (mut depths, mut left_out) = (BTreeMap::new(), BTreeSet::new());
        let mut level = BTreeSet::from([root.clone()]);
        for depth in 0..MANIFEST_LEVELS_MAX {
            let mut below = BTreeSet::new();
            for digest in level {
                let is_new = !depths.contains_key(&digest) && digest != *root;
                if left_out.contains(&digest)
                    || is_new && self.upstream.has_manifest(repository, &digest).await?
                {
                    left_out.insert(digest);
                    continue;
                }
                if !is_new {
                    // Each level may name all of them again.
                    spawn::yield_now().await;
                }
                // Left out on purpose, or lying elsewhere: the parent decides.
                let Some(row) = self.store.manifest(repository, &digest)? else {
                    left_out.insert(digest);
                    continue;
                };
                below.extend(row.named_manifests().cloned());
                depths.insert(digest, depth);
            }
            level = below;
        }
        let mut order: Vec<_> = depths.into_iter().map(|(digest, depth)| (depth, digest)).collect();
        order.sort_unstable();
        for (_, digest) in order.into_iter().rev() {
            let Some(row) = self.store.manifest(repository, &digest)? else {
                continue;
            };
            let manifest = self.read(&digest, row.media_type).await?;
            self.bring_blobs(repository, &digest, &manifest).await?;
            if digest != *root {
                let change = Change { precondition: Precondition::None, delivery: None };
                let to = (&digest, None);
                self.upstream.put_manifest(repository, to, &manifest, &change).await?;
            }
        }
        Ok(())
    }

    /// Brings up the blobs that a manifest needs, and those of the others that are here.
    async fn bring_blobs(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: &FetchedManifest,
    ) -> Result<(), SyncError> {
        let parsed = Manifest::parse(Some(&manifest.media_type), &manifest.bytes)
            .map_err(|error| SyncError::Content(format!("manifest {digest}: {error}")))?;
        for blob in parsed.required_blobs() {
            self.bring_blob(repository, &blob.digest).await?;
        }
        for blob in parsed.optional().map(|descriptor| &descriptor.digest) {
            let is_here = self.store.blob_linked(repository, blob)?
                && self.store.blob_open(blob).await?.is_some();
            if is_here {
                self.bring_blob(repository, blob).await?;
            }
        }
        Ok(())
    }

    async fn bring_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), SyncError> {
        if self.upstream.has_blob(repository, digest).await? {
            self.uploader.note(repository, digest, None).await;
            return Ok(());
        }
        let Some(blob) = self.store.blob_open(digest).await? else {
            return Err(not_whole(digest));
        };
        let mount = self.also_in(repository, digest)?;
        let content = Content { repository, digest, blob: &blob };
        match self.uploader.bring(&content, mount.as_ref()).await {
            // The bytes may have gone wrong here as well as on their way.
            Err(SyncError::Upstream(error)) if error.is_for(Reason::DigestMismatch) => {
                match self.store.verify(digest, |_| spawn::yield_now()).await? {
                    Verdict::Good(_) => Err(error.into()),
                    Verdict::Damaged | Verdict::Gone => Err(not_whole(digest)),
                }
            }
            brought => brought,
        }
    }

    /// Another repository here that has the blob, of the first `PAGE_MAX`: where the parent has it
    /// there too, it can link the blob instead of receiving it.
    fn also_in(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<RepositoryName>, SyncError> {
        for other in self.store.repositories(None, PAGE_MAX)? {
            if other != *repository && self.store.blob_linked(&other, digest)? {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    async fn read(
        &self,
        digest: &Digest,
        media_type: String,
    ) -> Result<FetchedManifest, SyncError> {
        match self.store.blob_read(digest).await? {
            Some(bytes) => Ok(FetchedManifest { media_type, bytes }),
            None => Err(SyncError::Content(format!("manifest {digest} is missing here"))),
        }
    }

    /// The tag does not name at the parent what the change begins with. Returns the change as it
    /// begins now, if it is to be tried again at once.
    async fn settle_moved(
        &self,
        number: u64,
        entry: &OutboxEntry,
    ) -> Result<Option<OutboxEntry>, SyncError> {
        let OutboxChange::Tag { tag, .. } = &entry.change else {
            // Only changes of tags carry a precondition.
            let reason = "the parent answered with a precondition that was not made".to_owned();
            self.store.outbox_refused(number, reason).await?;
            return Ok(None);
        };
        let repository = &entry.repository;
        let there = self.upstream.tag(repository, &Reference::Tag(tag.clone())).await?;
        match self.moved(number, entry, there.as_ref()).await? {
            Moved::AsWanted => self.done(number, entry).await?,
            Moved::ByUs => {
                self.store.outbox_begins(number, there).await?;
                return Ok(self.store.outbox_entry(number)?);
            }
            Moved::ByOthers if self.store.outbox_passed(number, there.clone()).await? => {}
            Moved::ByOthers => self.settle_conflict(number, entry, tag, there).await?,
        }
        Ok(None)
    }

    /// Who has moved the tag of a change that names `there` at the parent.
    async fn moved(
        &self,
        number: u64,
        entry: &OutboxEntry,
        there: Option<&Digest>,
    ) -> Result<Moved, StoreError> {
        let deleted = self.store.outbox_deletions(&entry.repository).await?;
        let goes = match there {
            Some(there) => self.store.outbox_deletes(&entry.repository, there)?,
            None => false,
        };
        let is_kept = match &entry.change {
            OutboxChange::Tag { tag, .. } => self.store.withholds_tag(&entry.repository, tag)?,
            _ => false,
        };
        let lost = is_kept || self.store.is_offered(&entry.repository)?;
        // Read after that: an offer, and the keeping of a tag, end once the change says that the
        // parent may lack the tag.
        let now = self.store.outbox_entry(number)?;
        Ok(moved(now.as_ref().unwrap_or(entry), there, &deleted, goes, lost))
    }

    /// The parent moved the tag meanwhile. Its content is fetched, so that the name can go to it,
    /// and ours is kept under a conflict tag.
    async fn settle_conflict(
        &self,
        number: u64,
        entry: &OutboxEntry,
        tag: &Tag,
        parents: Option<Digest>,
    ) -> Result<(), SyncError> {
        let repository = &entry.repository;
        let open = |error: String| {
            SyncError::Content(format!("a conflict over tag {tag} cannot be settled: {error}"))
        };
        if let Some(theirs) = &parents {
            match self.fetcher.obtain_needed(repository, theirs).await {
                Ok(()) => {}
                Err(error) if error.is_of_item() => return Err(open(error.to_string())),
                Err(error) => return Err(error),
            }
        }
        let kept = match self.store.outbox_conflict(number, parents).await {
            Err(StoreError::NotFound) => {
                return Err(open("the parent's content was deleted here meanwhile".to_owned()));
            }
            kept => kept?,
        };
        if let Some(kept) = kept {
            log::warn!(
                "tag {repository}:{tag} was moved or removed at the parent too: our content is now \
                 {kept}"
            );
        }
        Ok(())
    }
}

/// Whether many changes of a repository may meet this at once: content cannot be read here, or is
/// missing at the parent, or finds no room there.
fn meets_many(error: &SyncError) -> bool {
    matches!(error, SyncError::Content(_)) || error.lacks_content() || error.finds_no_room_there()
}

/// Content cannot go up before it is here again.
fn not_whole(digest: &Digest) -> SyncError {
    SyncError::Content(format!(
        "blob {digest} is missing here or damaged; push the image here again: that heals it, and \
         then it goes up"
    ))
}

/// What an operator reads of a refusal. The answer to a HEAD says no more than its status.
fn refusal_text(node: &ConnectedRegistryName, entry: &OutboxEntry, error: &SyncError) -> String {
    match error {
        SyncError::Upstream(UpstreamError::Forbidden(_)) => format!(
            "{error}: the scope map of the sync token does not grant this in {0}; at the root, \
             `skerry connected-registry permissions update --name {node} --add {0}` does",
            entry.repository
        ),
        error => error.to_string(),
    }
}

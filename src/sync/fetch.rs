//! Content from the parent: a manifest with everything that it needs, each byte once.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::closure::{Closure, Part, names};
use super::error::SyncError;
use super::lacking::Lacking;
use super::strikes::Strikes;
use crate::gateway::distribution::FetchedManifest;
use crate::gateway::feed::Scope;
use crate::gateway::{Upstream, UpstreamError};
use crate::http::ClientResponse;
use crate::store::content::leases::Lease;
use crate::store::content::trust::Verdict;
use crate::store::content::uploads::Upload;
use crate::store::replica::outbox::Origin;
use crate::store::{
    Asked, Precondition, PutManifest, PutOutcome, Required, Store, StoreError, Wanted,
};
use crate::sys::clock::{sleep, within};
use crate::sys::spawn::{self, yield_now};
use crate::types::limits::{
    BUFFER_BYTES, MANIFEST_LEVELS_MAX, MANIFESTS_BELOW_MAX, PROGRESS_DEADLINE,
};
use crate::types::manifest::Descriptor;
use crate::types::{Cursor, Digest, Manifest, Mode, RepositoryName, Tag};

/// Blobs fetched at once.
const PARALLEL_BLOBS: usize = 4;

/// How often a transfer looks whether its repository is still granted: a withdrawal does not wait
/// for its end.
const GRANT_LOOK: Duration = Duration::from_secs(2);

/// How long to wait for another fetch of the same blob before looking again.
const SAME_BLOB_WAIT: Duration = Duration::from_millis(200);

/// Fetches content; a clone shares the connections.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) store: Store,
    pub(super) upstream: Arc<Upstream>,
    pub(super) strikes: Arc<Strikes>,
    pub(super) lacking: Arc<Lacking>,
}

pub(super) struct Received {
    content: Lease,
    media_type: String,
    bytes_len: u64,
    parsed: Manifest,
}

impl Fetcher {
    /// Fetches a manifest and the manifests below it, and finds out which blobs are missing.
    /// `NoRoom` where that needs fetching and the disk is below its reserve. What is deleted here
    /// from now on is not brought back by it.
    pub(super) async fn resolve(
        &self,
        repository: &RepositoryName,
        root: &Digest,
    ) -> Result<Closure, SyncError> {
        self.look_below(repository, root).await.map_err(|error| error.with_needed(0))
    }

    async fn look_below(
        &self,
        repository: &RepositoryName,
        root: &Digest,
    ) -> Result<Closure, SyncError> {
        let mut closure = Closure::new(root, self.store.deletions());
        self.descend(repository, &mut closure).await?;
        // Found from the root down; an index may name a manifest of an upper level again, so
        // children are put in order by need when they are stored.
        closure.manifests.reverse();
        Ok(closure)
    }

    /// Fetches the root and the manifests that it needs.
    async fn descend(
        &self,
        repository: &RepositoryName,
        closure: &mut Closure,
    ) -> Result<(), SyncError> {
        let mut level = vec![closure.root.clone()];
        closure.seen.extend(level.iter().cloned());
        for _ in 0..MANIFEST_LEVELS_MAX {
            let mut below = Vec::new();
            for digest in level {
                // A manifest became visible here only when everything that it needs was: what is
                // missing of it now was deleted since, at the parent too, which may have it again.
                if self.store.manifest(repository, &digest)?.is_some() {
                    continue;
                }
                // One of them is the root.
                if closure.manifests.len() + closure.deleted.len() > MANIFESTS_BELOW_MAX {
                    let text = format!("{} needs too many manifests", closure.root);
                    return Err(SyncError::Content(text));
                }
                let received = match self.manifest(repository, &digest).await {
                    // The parent had what an index needs before the index, so that it has deleted
                    // it since; one that has not got it yet, or has lost it, says so.
                    Err(SyncError::Upstream(UpstreamError::NotFound(_)))
                        if digest != closure.root =>
                    {
                        closure.deleted.insert(digest);
                        continue;
                    }
                    received => received?,
                };
                below.extend(self.note(repository, received, closure).await?);
                closure.check_size()?;
            }
            if below.is_empty() {
                return Ok(());
            }
            level = below;
        }
        Err(SyncError::Content(format!("{} nests indexes too deeply", closure.root)))
    }

    /// Notes a manifest and what it names; the manifests that it needs and that were not seen.
    async fn note(
        &self,
        repository: &RepositoryName,
        received: Received,
        closure: &mut Closure,
    ) -> Result<Vec<Digest>, SyncError> {
        let Received { content, media_type, bytes_len, parsed } = received;
        self.store.keep_fetched(repository, &closure.root, names(content.digest(), &parsed));
        self.note_blobs(repository, &parsed, closure).await?;
        closure.manifests.push(Part { content, media_type, bytes_len });
        let children = parsed.required_manifests().map(|child| &child.digest);
        Ok(children.filter(|child| closure.seen.insert((*child).clone())).cloned().collect())
    }

    /// Fetches a manifest and stores its bytes; nothing refers to them yet. Bytes that are here, as
    /// of an attempt that was broken off, are not fetched again.
    pub(super) async fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Received, SyncError> {
        let fetched = match self.manifest_here(repository, digest).await {
            Ok(None) => {
                self.store.expect_space(0).await?;
                self.upstream.manifest(repository, digest).await.map_err(SyncError::from)
            }
            Ok(Some(here)) => Ok(here),
            Err(error) => Err(error),
        };
        let fetched = self.strikes.judge(digest, 0, fetched)?;
        if !digest.is_of(&fetched.bytes) {
            let text = format!("the parent sent other bytes for manifest {digest}");
            return Err(SyncError::Content(text));
        }
        let parsed = Manifest::parse(Some(&fetched.media_type), &fetched.bytes)
            .map_err(|error| SyncError::Content(format!("manifest {digest}: {error}")))?;
        let bytes_len = fetched.bytes.len() as u64;
        let content = self.store.blob_put(digest, fetched.bytes).await?;
        Ok(Received { content, media_type: fetched.media_type, bytes_len, parsed })
    }

    /// A manifest whose bytes are in the store. The parent says whether it has it now and of what
    /// type it is: bytes may be of something that was deleted.
    async fn manifest_here(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<FetchedManifest>, SyncError> {
        // What cannot be read is replaced.
        let Ok(Some(bytes)) = self.store.blob_read(digest).await else {
            return Ok(None);
        };
        match self.upstream.manifest_type(repository, digest).await {
            Ok(media_type) => Ok(Some(FetchedManifest { media_type, bytes })),
            // The parent has lost something that the manifest names; the manifest may be had.
            Err(UpstreamError::Lost(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn note_blobs(
        &self,
        repository: &RepositoryName,
        parsed: &Manifest,
        closure: &mut Closure,
    ) -> Result<(), SyncError> {
        for &Descriptor { ref digest, size, .. } in parsed.required_blobs() {
            if closure.blobs.contains_key(digest) || self.store.blob_linked(repository, digest)? {
                continue;
            }
            if self.store.blob_open(digest).await?.is_none() {
                let missing = size.saturating_sub(self.store.fetched_so_far(digest).await);
                closure.missing_bytes = closure.missing_bytes.saturating_add(missing);
                closure.largest = closure.largest.take().max(Some((size, digest.clone())));
            }
            closure.blobs.insert(digest.clone(), size);
        }
        Ok(())
    }

    /// Fetches what is missing, makes it visible, and lets the tag, if any, name it: that is the
    /// last step. `false` when the tag does not name its base any more: a client moved it. What
    /// comes is kept when it fails or is dropped, however long it takes to be tried again; `NoRoom`
    /// is told before anything comes.
    pub(super) async fn complete(
        &self,
        repository: &RepositoryName,
        closure: Closure,
        tag: Option<(&Tag, Option<Digest>)>,
    ) -> Result<bool, SyncError> {
        let (root, missing) = (closure.root.clone(), closure.missing_bytes);
        let result = self.bring(repository, closure, tag).await;
        let result = result.map_err(|error| error.with_needed(missing))?;
        self.store.release_fetched(repository, &root);
        let (store, name) = (self.store.clone(), repository.clone());
        if spawn::blocking(move || store.lacks(&name, &root)).await? {
            self.lacking.note(repository, self.store.sys().clock.monotonic());
        }
        Ok(result)
    }

    async fn bring(
        &self,
        repository: &RepositoryName,
        mut closure: Closure,
        tag: Option<(&Tag, Option<Digest>)>,
    ) -> Result<bool, SyncError> {
        let coming = closure.blobs.values().fold(0, |sum: u64, size| sum.saturating_add(*size));
        self.store.check_quota(repository, coming)?;
        self.check_room(repository, &closure).await?;
        let named = (closure.wanted == Wanted::Named).then(|| closure.root.clone());
        self.blobs(repository, std::mem::take(&mut closure.blobs), named).await?;
        let (tags, precondition) = match tag {
            Some((tag, Some(base))) => (vec![tag.clone()], Precondition::Is(base)),
            Some((tag, None)) => (vec![tag.clone()], Precondition::Absent),
            None => (Vec::new(), Precondition::None),
        };
        if !tags.is_empty() {
            closure.wanted = Wanted::Needed;
        }
        let root = closure.root.clone();
        let Some(root_is_new) =
            self.put_manifests(repository, closure, &tags, &precondition).await?
        else {
            return Ok(false);
        };
        match tags.first() {
            Some(tag) if !root_is_new => {
                let parent = Origin::Parent;
                match self.store.set_tag(repository, tag, &root, precondition, &parent).await {
                    Ok(()) => Ok(true),
                    Err(StoreError::Conflict(_)) => Ok(false),
                    // The manifest was deleted between two steps: the next attempt fetches it.
                    Err(StoreError::NotFound) => Err(StoreError::Unavailable.into()),
                    Err(error) => Err(error.into()),
                }
            }
            _ => Ok(true),
        }
    }

    /// `Full` unless all that is missing fits: a part of it would only take the space from others.
    async fn check_room(
        &self,
        repository: &RepositoryName,
        closure: &Closure,
    ) -> Result<(), SyncError> {
        let Some((size, digest)) = &closure.largest else {
            return Ok(());
        };
        self.store.expect_rows()?;
        let fits = self.store.expect_space(closure.missing_bytes).await;
        if fits == Err(StoreError::Full) {
            // A manifest may name any length.
            match self.upstream.blob_len(repository, digest).await.map_err(SyncError::from) {
                Ok(Some(len)) if len != *size => return Err(other_length(digest, &len, *size)),
                Err(error) if !error.is_of_item() => return Err(error),
                _ => {}
            }
        }
        Ok(fits?)
    }

    /// Makes manifests visible, each after those that it needs; the tags name the root. Whether the
    /// root was among them; `None` when a tag does not name its base any more, or what no tag names
    /// is not wanted any more; `Content` when one of them was deleted since they were asked for.
    async fn put_manifests(
        &self,
        repository: &RepositoryName,
        closure: Closure,
        tags: &[Tag],
        precondition: &Precondition,
    ) -> Result<Option<bool>, SyncError> {
        let Closure { root, since, wanted, manifests, deleted, .. } = closure;
        let required = match deleted.is_empty() {
            true => Required::All,
            false => Required::AllBut(Arc::new(deleted)),
        };
        let mut waiting: VecDeque<Part> = manifests.into();
        let mut refused = 0;
        let mut root_is_new = false;
        while let Some(part) = waiting.pop_front() {
            let digest = part.content.digest();
            let is_root = *digest == root;
            let stored = match self.parsed_again(&part).await {
                Ok(Some(parsed)) => {
                    let (tags, precondition, wanted) = match is_root {
                        true => (tags.to_vec(), precondition.clone(), wanted),
                        false => (vec![], Precondition::None, Wanted::Needed),
                    };
                    let put = PutManifest {
                        content: part.content.clone(),
                        media_type: part.media_type.clone(),
                        bytes_len: part.bytes_len,
                        parsed,
                        tags,
                        precondition,
                        required: required.clone(),
                        origin: Origin::Parent,
                    };
                    self.store.put_fetched(repository, put, Asked { since, wanted }).await
                }
                Ok(None) => Ok(PutOutcome::BlobMissing(digest.clone())),
                Err(error) => Err(error),
            };
            let missing = match stored {
                Ok(PutOutcome::Stored | PutOutcome::Replayed) => {
                    root_is_new |= is_root;
                    refused = 0;
                    continue;
                }
                Ok(PutOutcome::ChildMissing(_)) if refused < waiting.len() => {
                    refused += 1;
                    waiting.push_back(part);
                    continue;
                }
                Ok(PutOutcome::ChildMissing(missing) | PutOutcome::BlobMissing(missing)) => missing,
                Err(StoreError::Conflict(_)) => return Ok(None),
                // The parent is asked again.
                Err(StoreError::NotFound) => {
                    let text = format!("manifest {digest} was deleted since it was asked for");
                    return Err(SyncError::Content(text));
                }
                Err(error) => return Err(error.into()),
            };
            // It was here a moment ago: the next attempt fetches it again.
            log::warn!("{missing} vanished from {repository} during a sync");
            return Err(StoreError::Unavailable.into());
        }
        Ok(Some(root_is_new))
    }

    /// A manifest of a closure, from its bytes; `None` when they are gone or damaged since.
    async fn parsed_again(&self, part: &Part) -> Result<Option<Manifest>, StoreError> {
        match self.store.blob_read(part.content.digest()).await {
            Ok(Some(bytes)) => Manifest::parse(Some(&part.media_type), &bytes)
                .map(Some)
                .map_err(|error| StoreError::Invalid(error.to_string())),
            Ok(None) | Err(StoreError::Corrupt(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes how far the parent's feed is, after the parent was asked what it has and before this
    /// node acts on the answer: no message up to there undoes what the answer has brought.
    pub(super) async fn note_asked(&self) -> Result<(), SyncError> {
        // A ReadWrite node asks about every message.
        let config = self.store.self_config()?;
        if config.is_none_or(|config| config.node.mode != Mode::ReadOnly) {
            return Ok(());
        }
        // The answer has told, and the epoch is that of this session.
        let told = self.store.parent_epoch()?.zip(self.upstream.asked());
        let position = match told {
            Some((epoch, sequence)) => Cursor { epoch, sequence },
            None => self.upstream.feed_head(None).await?.0,
        };
        Ok(self.store.note_listed(position).await?)
    }

    /// Fetches a manifest with all it needs, and lets the tag name it.
    pub(super) async fn obtain(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        tag: Option<(&Tag, Option<Digest>)>,
    ) -> Result<bool, SyncError> {
        let closure = self.resolve(repository, digest).await?;
        self.complete(repository, closure, tag).await
    }

    /// The same for what a tag is about to name, whatever became of it here.
    pub(super) async fn obtain_needed(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), SyncError> {
        let mut closure = self.resolve(repository, digest).await?;
        closure.wanted = Wanted::Needed;
        self.complete(repository, closure, None).await.map(|_| ())
    }

    /// A few at a time, while something names `named`. The tasks end with this call, also when it
    /// is dropped at a window's end.
    async fn blobs(
        &self,
        repository: &RepositoryName,
        blobs: BTreeMap<Digest, u64>,
        named: Option<Digest>,
    ) -> Result<(), SyncError> {
        let count = blobs.len().min(PARALLEL_BLOBS);
        let queue: Arc<Mutex<VecDeque<(Digest, u64)>>> =
            Arc::new(Mutex::new(blobs.into_iter().collect()));
        let workers: Vec<_> = (0..count)
            .map(|_| {
                let (this, repository) = (self.clone(), repository.clone());
                let (queue, named) = (queue.clone(), named.clone());
                self.store.sys().spawner.spawn(async move {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some((digest, size)) = next else {
                            return Ok::<(), SyncError>(());
                        };
                        this.blob(&repository, &digest, size, named.as_ref()).await?;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await?;
        }
        Ok(())
    }

    /// Brings one blob here, from where an earlier attempt stopped, and links it; if `named`,
    /// `Content` when no manifest of the repository names that any more.
    pub(super) async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size: u64,
        named: Option<&Digest>,
    ) -> Result<(), SyncError> {
        let lease = self.blob_content(repository, digest, size).await?;
        let Some(named) = named else {
            return Ok(self.store.link_blob(repository, &lease, size).await?);
        };
        match self.store.link_named_blob(repository, &lease, size, named).await {
            Err(StoreError::Conflict(text)) => Err(SyncError::Content(text)),
            linked => Ok(linked?),
        }
    }

    async fn blob_content(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<Lease, SyncError> {
        let mut is_again = false;
        loop {
            if let Some(open) = self.store.blob_open(digest).await? {
                if open.len == size {
                    return Ok(open.lease);
                }
                // The file was cut, or the manifest that the parent has names a wrong length.
                match self.store.verify(digest, |_| yield_now()).await? {
                    // It has come anew meanwhile.
                    Verdict::Good(len) if len == size && !is_again => {
                        is_again = true;
                        continue;
                    }
                    Verdict::Good(len) => {
                        let text = format!("{digest} has {len} bytes, not {size} as named");
                        return Err(SyncError::Content(text));
                    }
                    Verdict::Damaged | Verdict::Gone => {}
                }
            }
            match self.store.fetch_resume(digest).await {
                Ok(upload) => return self.transfer(repository, digest, size, upload).await,
                // Another tag needs the same blob and is fetching it.
                Err(StoreError::Conflict(_)) => sleep(SAME_BLOB_WAIT).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn transfer(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size: u64,
        mut upload: Upload,
    ) -> Result<Lease, SyncError> {
        if upload.offset() > size {
            upload.cancel().await?;
            return Err(SyncError::Content(format!("{digest} is longer than the {size} named")));
        }
        if upload.offset() < size {
            let received = self.receive(repository, digest, size, &mut upload).await;
            if let Err(error @ SyncError::Content(_)) = received {
                // What came belongs to other content than is wanted.
                upload.cancel().await?;
                return Err(error);
            }
            self.strikes.judge(digest, upload.offset(), received)?;
        }
        match upload.finish(digest).await {
            Ok((lease, _)) => Ok(lease),
            Err(StoreError::Invalid(text)) => {
                if let Err(error) = self.upstream.doubt_blob(repository, digest).await {
                    log::debug!("the parent is not told that {digest} came wrong: {error}");
                }
                Err(SyncError::Content(text))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Receives the rest. `Content` when the parent has another number of bytes than is named:
    /// where it tells so before, nothing is transferred.
    async fn receive(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        size: u64,
        upload: &mut Upload,
    ) -> Result<(), SyncError> {
        let offset = upload.offset();
        let other = |len: &dyn fmt::Display| other_length(digest, len, size);
        let response = match self.upstream.blob(repository, digest, offset).await {
            Err(UpstreamError::Refused(416, _)) => return Err(other(&format!("at most {offset}"))),
            response => response?,
        };
        if let Some(len) = whole_len(&response).filter(|len| *len != size) {
            return Err(other(&len));
        }
        // Only now: a manifest may name any length.
        self.store.expect_space(size.saturating_sub(offset)).await?;
        let skip = bytes_to_skip(&response, offset)?;
        let is_framed = is_framed(&response);
        self.copy(repository, response, skip, size, upload).await?;
        if upload.offset() < size {
            // It ended by its own measure, or just with the connection.
            return Err(match is_framed {
                true => other(&upload.offset()),
                false => unreachable("the parent's answer ended early".to_owned()),
            });
        }
        Ok(())
    }

    fn expect_grant(&self, repository: &RepositoryName) -> Result<(), SyncError> {
        let config = self.store.self_config()?;
        if config.is_none_or(|config| Scope::of_config(&config).covers(repository)) {
            return Ok(());
        }
        Err(UpstreamError::Forbidden(format!("{repository} is not granted any more")).into())
    }

    /// Until the answer ends, or all is here. `Forbidden` when the repository is not granted any
    /// more.
    async fn copy(
        &self,
        repository: &RepositoryName,
        mut response: ClientResponse,
        mut skip: u64,
        size: u64,
        upload: &mut Upload,
    ) -> Result<(), SyncError> {
        let fetched = &self.store.sys().metrics.sync_bytes_fetched;
        let mut buffer = vec![0; BUFFER_BYTES];
        let clock = &self.store.sys().clock;
        let mut looked = clock.monotonic();
        while upload.offset() < size {
            if clock.monotonic().saturating_sub(looked) >= GRANT_LOOK {
                looked = clock.monotonic();
                self.expect_grant(repository)?;
            }
            let read = match within(PROGRESS_DEADLINE, response.body.read(&mut buffer)).await {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => return Err(unreachable(error.to_string())),
                Err(_) => return Err(unreachable("no more bytes came".to_owned())),
            };
            if read == 0 {
                return Ok(());
            }
            fetched.add(read as u64);
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(read);
            skip -= skipped as u64;
            let room = usize::try_from(size - upload.offset()).unwrap_or(usize::MAX);
            let end = skipped.saturating_add(room).min(read);
            upload.write(&buffer[skipped..end]).await?;
        }
        Ok(())
    }
}

fn other_length(digest: &Digest, len: &dyn fmt::Display, size: u64) -> SyncError {
    SyncError::Content(format!("{digest} has {len} bytes at the parent, not {size} as named"))
}

fn unreachable(text: String) -> SyncError {
    UpstreamError::Unreachable(text).into()
}

/// The length of the whole blob, as the answer tells it.
fn whole_len(response: &ClientResponse) -> Option<u64> {
    match response.status {
        206 => response.header("content-range")?.rsplit_once('/')?.1.parse().ok(),
        _ => response.header("content-length")?.parse().ok(),
    }
}

/// Whether the answer says itself where it ends.
fn is_framed(response: &ClientResponse) -> bool {
    ["content-length", "transfer-encoding"].iter().any(|name| response.header(name).is_some())
}

/// How much of the answer to a ranged request is already here.
fn bytes_to_skip(response: &ClientResponse, offset: u64) -> Result<u64, SyncError> {
    if response.status != 206 {
        return Ok(offset);
    }
    let range = response.header("content-range").and_then(|range| range.strip_prefix("bytes "));
    let first = range.and_then(|range| range.split('-').next()).and_then(|n| n.parse::<u64>().ok());
    match first {
        Some(first) if first <= offset => Ok(offset - first),
        _ => Err(SyncError::Content("the parent sent another range".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Body;

    fn answer(status: u16, headers: &[(&str, &str)]) -> ClientResponse {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ClientResponse {
            status,
            headers: headers.collect(),
            body: Body::empty(),
            url: String::new(),
        }
    }

    #[test]
    fn f204_an_answer_tells_the_length_of_the_whole() {
        let (length, range) = ("content-length", "content-range");
        for (status, headers, whole, framed) in [
            (200, &[(length, "300")][..], Some(300), true),
            (206, &[(length, "100"), (range, "bytes 200-299/300")], Some(300), true),
            (206, &[(length, "100"), (range, "bytes 200-299/*")], None, true),
            (206, &[(length, "100")], None, true),
            (200, &[("transfer-encoding", "chunked")], None, true),
            (200, &[], None, false),
        ] {
            let answer = answer(status, headers);
            assert_eq!((whole_len(&answer), is_framed(&answer)), (whole, framed), "{headers:?}");
        }
    }

    #[test]
    fn f128_a_resumed_answer_is_joined_where_it_belongs() {
        let response = |status, range: Option<&str>| {
            let headers: Vec<_> = range.map(|range| ("content-range", range)).into_iter().collect();
            answer(status, &headers)
        };
        for (status, range, expected) in [
            (206, Some("bytes 100-199/200"), Some(0)),
            (206, Some("bytes 0-199/200"), Some(100)),
            (206, Some("bytes 150-199/200"), None),
            (206, Some("nonsense"), None),
            (206, None, None),
            (200, None, Some(100)),
        ] {
            assert_eq!(bytes_to_skip(&response(status, range), 100).ok(), expected, "{range:?}");
        }
    }
}

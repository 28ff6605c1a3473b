//! Manifests of a repository: pushed whole, with their tags, in one command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::repositories::{self};
use super::tags::{self, Precondition};
use crate::store::content::damage::FileCheck;
use crate::store::content::leases::Lease;
use crate::store::replica::delivered::{self, Effect};
use crate::store::replica::heard;
use crate::store::replica::offers;
use crate::store::replica::outbox::{self, Origin, OutboxChange};
use crate::store::rows::derived::needed_key;
use crate::store::rows::digest_at;
use crate::store::rows::link::{BlobLink, blob_key};
use crate::store::rows::manifest::{
    ManifestRow, elsewhere, is_media_type, manifest_key, once_each,
};
use crate::store::rows::referrer::{ReferrerRow, referrer_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{Shared, Store, StoreError, Txn};
use crate::sys::spawn;
use crate::types::limits::{MANIFEST_LEVELS_MAX, MANIFESTS_BELOW_MAX};
use crate::types::manifest::ManifestKind;
use crate::types::{Digest, Manifest, RepositoryName, Tag, UnixSeconds};

/// A manifest to add; its bytes are durable already.
pub struct PutManifest {
    /// Its bytes, held since they came.
    pub content: Lease,
    /// Served as Content-Type.
    pub media_type: String,
    /// Its length, bytes.
    pub bytes_len: u64,
    /// Its content.
    pub parsed: Manifest,
    /// Tags that shall name it.
    pub tags: Vec<Tag>,
    /// Must hold for each of the tags.
    pub precondition: Precondition,
    /// What of its content must be in the repository.
    pub required: Required,
    /// Who made the change.
    pub origin: Origin,
}

/// What of the content of a manifest must be in the repository before it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Required {
    /// All that it needs.
    All,
    /// All but these manifests, which the parent has deleted.
    AllBut(Arc<BTreeSet<Digest>>),
    /// Nothing.
    #[cfg(test)]
    Nothing,
}

/// What a manifest of the parent was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// For a tag, or for a manifest that comes with it.
    Needed,
    /// For itself: not while its removal here is on its way up.
    Told,
    /// For an index that is here: neither then, nor when no manifest names it any more.
    Named,
}

/// When a manifest of the parent was asked for, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// [`Store::deletions`] before that.
    pub since: u64,
    /// What for.
    pub wanted: Wanted,
}

/// What became of a manifest to add.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutOutcome {
    /// It is there, and the tags name it.
    Stored,
    /// The same delivery took effect before; nothing was changed now.
    Replayed,
    /// Nothing was changed: this blob is not linked in the repository.
    BlobMissing(Digest),
    /// Nothing was changed: this manifest of the index is not in the repository.
    ChildMissing(Digest),
}

impl Store {
    /// A manifest of a repository.
    pub fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<ManifestRow>, StoreError> {
        self.get(&manifest_key(repository, digest))
    }

    /// The same for who may go on to name it: it stays for the grace of garbage from now on.
    pub fn manifest_to_use(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<ManifestRow>, StoreError> {
        self.row_to_use(&manifest_key(repository, digest), digest)
    }

    /// Manifests greater than `after` in the order of their digests, at most `limit`.
    pub fn manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, ManifestRow)>, StoreError> {
        let start = prefix(Kind::Manifest, &[repository.as_str().as_bytes()]);
        let after = after.map(|digest| manifest_key(repository, digest));
        let rows = self.scan::<ManifestRow>(&start, after.as_deref(), limit)?;
        rows.into_iter().map(|(key, row)| Ok((digest_at(&key, start.len())?, row))).collect()
    }

    /// The digests of the manifests behind `after`, in their order, at least `enough` where there
    /// are so many; none when there are no more. Blocks.
    pub fn manifests_behind(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        enough: usize,
    ) -> Result<Vec<Digest>, StoreError> {
        let start = prefix(Kind::Manifest, &[repository.as_str().as_bytes()]);
        let mut after = after.map(|digest| manifest_key(repository, digest));
        let mut digests = Vec::new();
        while digests.len() < enough {
            let page = self.page_of_bytes(&start, after.as_deref())?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, _) in page {
                digests.push(digest_at(&key, start.len())?);
            }
        }
        Ok(digests)
    }

    /// Those of these manifests that are not in the repository.
    pub fn manifests_missing(
        &self,
        repository: &RepositoryName,
        digests: Vec<Digest>,
    ) -> Result<Vec<Digest>, StoreError> {
        self.look_up(|index| {
            let txn = Txn::new(index);
            let mut missing = Vec::new();
            for digest in digests {
                if !txn.has(&manifest_key(repository, &digest))? {
                    missing.push(digest);
                }
            }
            Ok(missing)
        })
    }

    /// What of a manifest's content is not in the repository: `BlobMissing` or `ChildMissing`.
    /// [`Store::put_manifest`] asks again in its command; this spares storing the bytes.
    pub fn missing_content(
        &self,
        repository: &RepositoryName,
        parsed: &Manifest,
    ) -> Result<Option<PutOutcome>, StoreError> {
        let blob = |digest: &Digest| self.blob_linked(repository, digest);
        let child = |digest: &Digest| Ok(self.manifest_to_use(repository, digest)?.is_some());
        first_missing(parsed, blob, child)
    }

    /// `Invalid` when something in the repository has another size than a manifest says: clients
    /// refuse what they pull then, and devices do not fetch it. What is not here may have any, and
    /// what a manifest of unknown type says is its own affair.
    pub fn check_sizes(
        &self,
        repository: &RepositoryName,
        parsed: &Manifest,
    ) -> Result<(), StoreError> {
        if parsed.kind == ManifestKind::Opaque {
            return Ok(());
        }
        let blobs = parsed.config.iter().chain(&parsed.layers);
        for named in blobs.chain(&parsed.children) {
            let digest = &named.digest;
            // An entry of an index whose type nobody knows may be either.
            let manifest = match parsed.kind {
                ManifestKind::Index => self.manifest(repository, digest)?,
                _ => None,
            };
            let found = match manifest {
                Some(row) => Some(row.size),
                None => self.blob_link(repository, digest)?.map(|link| link.size),
            };
            if let Some(len) = found.filter(|len| *len != named.size) {
                return Err(StoreError::Invalid(format!(
                    "the manifest names {digest} with {} bytes, and it has {len}",
                    named.size
                )));
            }
        }
        Ok(())
    }

    /// `Invalid` when a manifest needs more of others than a device fetches, in number or depth.
    /// What of it is not in the repository needs nothing as far as is known.
    pub async fn check_nesting(
        &self,
        repository: &RepositoryName,
        parsed: &Manifest,
    ) -> Result<(), StoreError> {
        let named: BTreeSet<Digest> =
            parsed.required_manifests().map(|child| child.digest.clone()).collect();
        if named.is_empty() {
            return Ok(());
        }
        let (store, repository) = (self.clone(), repository.clone());
        spawn::blocking(move || store.check_levels(&repository, named)).await
    }

    /// A level has everything to which a way of so many steps leads: also what another level has.
    fn check_levels(
        &self,
        repository: &RepositoryName,
        mut level: BTreeSet<Digest>,
    ) -> Result<(), StoreError> {
        let mut seen = BTreeSet::new();
        for _ in 1..MANIFEST_LEVELS_MAX {
            let mut below = BTreeSet::new();
            for digest in level {
                if let Some(row) = self.manifest(repository, &digest)? {
                    below.extend(row.children);
                }
                seen.insert(digest);
                if seen.len().max(below.len()) > MANIFESTS_BELOW_MAX {
                    return Err(StoreError::Invalid(format!(
                        "the index needs more than {MANIFESTS_BELOW_MAX} manifests, which devices \
                         do not fetch; name fewer"
                    )));
                }
            }
            if below.is_empty() {
                return Ok(());
            }
            level = below;
        }
        Err(StoreError::Invalid(format!(
            "the index nests more than {MANIFEST_LEVELS_MAX} levels of manifests, itself and the \
             images counted, which devices do not fetch; name the images in fewer levels"
        )))
    }

    /// What of a manifest's content the repository has and cannot serve, because its file is
    /// missing or has another length: `BlobMissing` or `ChildMissing`, so that the client brings
    /// it again.
    pub async fn unservable_content(
        &self,
        repository: &RepositoryName,
        parsed: &Manifest,
    ) -> Result<Option<PutOutcome>, StoreError> {
        let is_bad = |found| !matches!(found, FileCheck::Good | FileCheck::Unlinked);
        for descriptor in parsed.required_blobs() {
            let digest = &descriptor.digest;
            let Some(link) = self.blob_link(repository, digest)? else { continue };
            if is_bad(self.check_file(blob_key(repository, digest), digest, link.size).await?) {
                return Ok(Some(PutOutcome::BlobMissing(digest.clone())));
            }
        }
        for descriptor in parsed.required_manifests() {
            let digest = &descriptor.digest;
            let Some(row) = self.manifest(repository, digest)? else { continue };
            if is_bad(self.check_file(manifest_key(repository, digest), digest, row.size).await?) {
                return Ok(Some(PutOutcome::ChildMissing(digest.clone())));
            }
        }
        Ok(None)
    }

    /// Adds a manifest and sets its tags, all in one record: whoever sees the tag can have the
    /// content. `Conflict` when the precondition does not hold for a tag.
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        put: PutManifest,
    ) -> Result<PutOutcome, StoreError> {
        self.put(repository, put, None).await
    }

    /// The same for a manifest of the parent: `NotFound` when it was deleted since it was asked
    /// for, here or by the parent's word, or may have been; `Conflict` when it is not wanted any
    /// more.
    pub async fn put_fetched(
        &self,
        repository: &RepositoryName,
        put: PutManifest,
        asked: Asked,
    ) -> Result<PutOutcome, StoreError> {
        self.put(repository, put, Some(asked)).await
    }

    async fn put(
        &self,
        repository: &RepositoryName,
        mut put: PutManifest,
        asked: Option<Asked>,
    ) -> Result<PutOutcome, StoreError> {
        let (now, quota) = (self.sys().clock.wall_or_floor(), self.quota(repository));
        if self.is_gone(&put.origin, repository, put.content.digest(), &mut put.tags) {
            return Ok(PutOutcome::Replayed);
        }
        // Room that an upload keeps is not for a manifest. A delivery may be a replay.
        let is_new = put.origin == Origin::Client
            && self.manifest(repository, put.content.digest())?.is_none();
        let more = if is_new { put.bytes_len } else { 0 };
        let _kept = self.keep_room(repository, more).await?;
        let (repository, shared) = (repository.clone(), self.shared().clone());
        self.commit(move |txn| {
            if let Some(asked) = asked {
                asked.check(txn, &shared, &repository, put.content.digest())?;
            }
            let outcome = add(txn, &repository, &put, now, quota)?;
            if put.origin == Origin::Parent {
                heard::note_taken(txn)?;
            }
            Ok(outcome)
        })
        .await
    }
}

impl Asked {
    fn check(
        self,
        txn: &Txn<'_>,
        shared: &Shared,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let key = manifest_key(repository, digest);
        // What is here was not deleted, or came again.
        if !txn.has(&key)? && shared.removals.has_deleted_since(self.since, &key) {
            return Err(StoreError::NotFound);
        }
        if self.wanted != Wanted::Needed {
            outbox::refuse_deleted(txn, repository, digest)?;
        }
        if self.wanted == Wanted::Named && !txn.has(&needed_key(repository, digest))? {
            let text = format!("nothing in {repository} names manifest {digest} any more");
            return Err(StoreError::Conflict(text));
        }
        Ok(())
    }
}

fn add(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    put: &PutManifest,
    now: UnixSeconds,
    quota: Option<u64>,
) -> Result<PutOutcome, StoreError> {
    let effect = match put.tags.first() {
        Some(tag) => Effect::Tag(tag.clone(), Some(put.content.digest().clone())),
        None => Effect::Manifest(put.content.digest().clone(), true),
    };
    if delivered::is_replay(txn, &put.origin, repository, &effect)? {
        return Ok(PutOutcome::Replayed);
    }
    for tag in &put.tags {
        outbox::refuse_held(txn, &put.origin, repository, tag, Some(put.content.digest()))?;
    }
    if let Some(missing) = missing_now(txn, repository, put)? {
        return Ok(missing);
    }
    let row_key = manifest_key(repository, put.content.digest());
    let old = txn.get::<ManifestRow>(&row_key)?;
    let more = if old.is_some() { 0 } else { put.bytes_len };
    repositories::charge(txn, repository, now, more, quota)?;
    let mut row = row_of(put, old.as_ref().map_or(now, |row| row.pushed));
    row.from_below =
        old.as_ref().is_some_and(|row| row.from_below) || outbox::is_from_below(txn, &put.origin)?;
    if old.as_ref() != Some(&row) {
        txn.expect_rows()?;
        if let Some(subject) = &row.subject {
            txn.put(referrer_key(repository, subject, put.content.digest()), &ReferrerRow)?;
        }
        txn.put(row_key, &row)?;
    }
    tags::forget_untagged(txn, repository, put.content.digest())?;
    if put.origin == Origin::Parent {
        offers::is_at_parent(txn, repository, None, put.content.digest())?;
    }
    for tag in &put.tags {
        tags::switch(
            txn,
            repository,
            tag,
            put.content.digest(),
            &put.precondition,
            &put.origin,
            now,
        )?;
    }
    // A tag on its way up brings its manifest along. What is here already goes up too: the tag that
    // was to bring it may have been removed before.
    if put.tags.is_empty() {
        let change = OutboxChange::ManifestAdded { digest: put.content.digest().clone() };
        outbox::enqueue(txn, &put.origin, repository, change)?;
    }
    delivered::record(txn, &put.origin, repository)?;
    Ok(PutOutcome::Stored)
}

fn row_of(put: &PutManifest, pushed: UnixSeconds) -> ManifestRow {
    let parsed = &put.parsed;
    let blobs = parsed.config.iter().chain(&parsed.layers);
    let local = blobs.clone().filter(|descriptor| !descriptor.is_external());
    let elsewhere = elsewhere(parsed);
    let content = blobs.chain(&parsed.children).map(|descriptor| descriptor.size);
    ManifestRow {
        media_type: put.media_type.clone(),
        size: put.bytes_len,
        config_media_type: parsed.config.as_ref().map(|config| config.media_type.clone()),
        artifact_type: parsed.referrer_type().filter(|text| is_media_type(text)).map(str::to_owned),
        subject: parsed.subject.as_ref().map(|subject| subject.digest.clone()),
        annotations: match parsed.subject {
            Some(_) => parsed.annotations.clone(),
            None => BTreeMap::new(),
        },
        blobs: once_each(local),
        children: once_each(parsed.children.iter()),
        content_size: content.fold(0, u64::saturating_add),
        pushed,
        elsewhere: Some(elsewhere),
        from_below: false,
    }
}

/// What is not in the repository of what must be.
fn missing_now(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    put: &PutManifest,
) -> Result<Option<PutOutcome>, StoreError> {
    let deleted = match &put.required {
        Required::All => None,
        Required::AllBut(deleted) => Some(deleted),
        #[cfg(test)]
        Required::Nothing => return Ok(None),
    };
    let blob = |d: &Digest| Ok(txn.get::<BlobLink>(&blob_key(repository, d))?.is_some());
    let child = |d: &Digest| {
        let is_deleted = deleted.is_some_and(|deleted| deleted.contains(d));
        Ok(is_deleted || txn.get::<ManifestRow>(&manifest_key(repository, d))?.is_some())
    };
    first_missing(&put.parsed, blob, child)
}

fn first_missing(
    parsed: &Manifest,
    blob: impl Fn(&Digest) -> Result<bool, StoreError>,
    child: impl Fn(&Digest) -> Result<bool, StoreError>,
) -> Result<Option<PutOutcome>, StoreError> {
    for descriptor in parsed.required_blobs() {
        if !blob(&descriptor.digest)? {
            return Ok(Some(PutOutcome::BlobMissing(descriptor.digest.clone())));
        }
    }
    for descriptor in parsed.required_manifests() {
        if !child(&descriptor.digest)? {
            return Ok(Some(PutOutcome::ChildMissing(descriptor.digest.clone())));
        }
    }
    Ok(None)
}

/// What the tests of rows share.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::sys::{Spawner, Sys};
    use crate::types::digest::Algorithm;
    use crate::types::media;
    use crate::types::{Delivery, OutboxId};

    pub(crate) fn store() -> Store {
        Store::in_memory(Sys::real(Spawner::new()))
    }

    pub(crate) fn digest(number: u8) -> Digest {
        Digest::from_raw(Algorithm::Sha256, &[number; 32]).unwrap()
    }

    pub(in crate::store) fn child(sequence: u64) -> Origin {
        let id = OutboxId { origin: "dock01".parse().unwrap(), incarnation: 0, sequence };
        Origin::Child(Delivery::of(id))
    }

    /// An image that names configuration 100 of 20 bytes and layer 101 of 300.
    pub(in crate::store) fn image(number: u8, tags: &[&str]) -> PutManifest {
        let text = format!(
            r#"{{"schemaVersion":2,
                "config":{{"mediaType":"application/x","digest":"{}","size":20}},
                "layers":[{{"mediaType":"application/y","digest":"{}","size":300}}]}}"#,
            digest(100),
            digest(101)
        );
        put(number, media::OCI_MANIFEST, &text, tags)
    }

    pub(crate) fn put(number: u8, media_type: &str, text: &str, tags: &[&str]) -> PutManifest {
        PutManifest {
            content: Lease::unseen(&digest(number)),
            media_type: media_type.to_owned(),
            bytes_len: text.len() as u64,
            parsed: Manifest::parse(Some(media_type), text.as_bytes()).unwrap(),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            precondition: Precondition::None,
            required: Required::All,
            origin: Origin::Client,
        }
    }

    /// Pushes an image with its content.
    pub(crate) async fn push(store: &Store, name: &str, number: u8, tags: &[&str]) {
        let name = name.parse().unwrap();
        for (blob, size) in [(100, 20), (101, 300)] {
            store.link_blob(&name, &Lease::unseen(&digest(blob)), size).await.unwrap();
        }
        let outcome = store.put_manifest(&name, image(number, tags)).await.unwrap();
        assert_eq!(outcome, PutOutcome::Stored);
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use crate::types::media;

    fn index_of(numbers: &[u8]) -> String {
        let entries: Vec<String> = numbers
            .iter()
            .map(|number| {
                let (kind, digest) = (media::OCI_MANIFEST, digest(*number));
                let size = 1000 + u32::from(*number);
                format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
            })
            .collect();
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
    }

    #[test]
    fn f153_content_must_be_there_first() {
        smol::block_on(async {
            let store = store();
            let a: RepositoryName = "a".parse().unwrap();
            let missing = store.put_manifest(&a, image(1, &["v1"])).await.unwrap();
            assert_eq!(missing, PutOutcome::BlobMissing(digest(100)));
            assert_eq!(store.repository(&a).unwrap(), None);
            // Linked in another repository is not linked here.
            push(&store, "b", 1, &[]).await;
            store.link_blob(&a, &Lease::unseen(&digest(100)), 20).await.unwrap();
            let missing = store.put_manifest(&a, image(1, &["v1"])).await.unwrap();
            assert_eq!(missing, PutOutcome::BlobMissing(digest(101)));
            push(&store, "a", 1, &["v1"]).await;
            let index = index_of(&[1, 2]);
            let missing =
                store.put_manifest(&a, put(9, media::OCI_INDEX, &index, &["i"])).await.unwrap();
            assert_eq!(missing, PutOutcome::ChildMissing(digest(2)));
            assert_eq!(store.tag(&a, &"i".parse().unwrap()).unwrap(), None);
            let mut partial = put(9, media::OCI_INDEX, &index, &["i"]);
            partial.required = Required::Nothing;
            assert_eq!(store.put_manifest(&a, partial).await.unwrap(), PutOutcome::Stored);
            let row = store.manifest(&a, &digest(9)).unwrap().unwrap();
            assert_eq!(row.children, [digest(1), digest(2)]);
            assert_eq!(row.content_size, 1001 + 1002);
            let image = store.manifest(&a, &digest(1)).unwrap().unwrap();
            assert_eq!(image.content_size, 20 + 300);
        });
    }

    #[test]
    fn f209_a_row_has_each_reference_once() {
        smol::block_on(async {
            let store = store();
            let a: RepositoryName = "a".parse().unwrap();
            store.link_blob(&a, &Lease::unseen(&digest(100)), 2).await.unwrap();
            store.link_blob(&a, &Lease::unseen(&digest(99)), 2).await.unwrap();
            let layer = |of, kind| {
                format!(r#"{{"mediaType":"{kind}","digest":"{}","size":2}}"#, digest(of))
            };
            let elsewhere = layer(98, "application/vnd.oci.image.layer.nondistributable.v1.tar");
            let three = [layer(100, "a/b"), layer(99, "a/b"), elsewhere].join(",");
            let layers = vec![three; 3_333].join(",");
            let config = layer(100, "a/b");
            let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
            let image = put(1, media::OCI_MANIFEST, &text, &[]);
            assert_eq!(store.put_manifest(&a, image).await.unwrap(), PutOutcome::Stored);
            let index = index_of(&[1, 1, 1]);
            let index = put(2, media::OCI_INDEX, &index, &[]);
            assert_eq!(store.put_manifest(&a, index).await.unwrap(), PutOutcome::Stored);
            let [image, index] =
                [1, 2].map(|number| store.manifest(&a, &digest(number)).unwrap().unwrap());
            assert_eq!(image.blobs, [digest(100), digest(99)]);
            assert_eq!(image.elsewhere, Some(vec![digest(98)]));
            assert_eq!(image.content_size, 2 * 10_000, "as the manifest says");
            assert_eq!(index.children, [digest(1)]);
        });
    }

    #[test]
    fn f207_an_index_needs_a_bounded_number_of_manifests() {
        smol::block_on(async {
            let store = store();
            let a: RepositoryName = "a".parse().unwrap();
            let index = |digests: std::ops::Range<usize>| {
                let entry = |number: usize| {
                    let (kind, hex) = (media::OCI_MANIFEST, format!("{number:064x}"));
                    format!(r#"{{"mediaType":"{kind}","digest":"sha256:{hex}","size":1}}"#)
                };
                let entries: Vec<String> = digests.map(entry).collect();
                format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
            };
            // Two indexes below, which count too, of images that need not be here.
            let half = MANIFESTS_BELOW_MAX / 2;
            for (number, images) in [(1, 0..half), (2, half..2 * half - 2), (3, half..2 * half)] {
                let text = index(images);
                let mut below = put(number, media::OCI_INDEX, &text, &[]);
                below.required = Required::Nothing;
                store.put_manifest(&a, below).await.unwrap();
            }
            let parsed = |numbers: &[u8]| {
                Manifest::parse(Some(media::OCI_INDEX), index_of(numbers).as_bytes()).unwrap()
            };
            assert_eq!(store.check_nesting(&a, &parsed(&[1, 2])).await, Ok(()));
            let error = store.check_nesting(&a, &parsed(&[1, 3])).await.unwrap_err();
            assert!(error.to_string().contains("more than 10000 manifests"), "{error}");
        });
    }

    #[test]
    fn f157_deleting_a_manifest_drops_its_tags() {
        smol::block_on(async {
            let store = store();
            let a: RepositoryName = "a".parse().unwrap();
            push(&store, "a", 1, &["v1", "latest"]).await;
            push(&store, "a", 2, &["v2"]).await;
            store.delete_manifest(&a, &digest(1), &Origin::Client).await.unwrap();
            let tags = store.tags(&a, None, 10).unwrap();
            assert_eq!(tags.len(), 1);
            assert_eq!(tags[0].0.as_str(), "v2");
            let again = store.delete_manifest(&a, &digest(1), &Origin::Client).await;
            assert_eq!(again, Err(StoreError::NotFound));
            store.delete_manifest(&a, &digest(1), &child(1)).await.unwrap();
        });
    }

    #[test]
    fn f154_referrers_follow_their_manifests() {
        smol::block_on(async {
            let store = store();
            let a: RepositoryName = "a".parse().unwrap();
            let subject = format!(
                r#"{{"schemaVersion":2,"artifactType":"application/sig","manifests":[],
                    "annotations":{{"k":"v"}},
                    "subject":{{"mediaType":"{}","digest":"{}","size":5}}}}"#,
                media::OCI_MANIFEST,
                digest(1)
            );
            for number in [5, 3, 4] {
                let signature = put(number, media::OCI_INDEX, &subject, &[]);
                store.put_manifest(&a, signature).await.unwrap();
            }
            let page = store.referrers(&a, &digest(1), None, 2).unwrap();
            assert_eq!(page.iter().map(|(d, _)| d.clone()).collect::<Vec<_>>(), [3, 4].map(digest));
            assert_eq!(page[0].1.artifact_type.as_deref(), Some("application/sig"));
            assert_eq!(page[0].1.annotations["k"], "v");
            let rest = store.referrers(&a, &digest(1), Some(&digest(4)), 2).unwrap();
            assert_eq!(rest.len(), 1);
            store.delete_manifest(&a, &digest(5), &Origin::Client).await.unwrap();
            assert_eq!(store.referrers(&a, &digest(1), None, 9).unwrap().len(), 2);
            assert_eq!(store.referrers(&a, &digest(2), None, 9).unwrap(), []);
            // Symptom: sixteen rows of 4 MiB were in memory for one page. Rows are read whole.
            let long = subject.replace("application/sig", &format!("a/{}", "b".repeat(300)));
            store.put_manifest(&a, put(6, media::OCI_INDEX, &long, &[])).await.unwrap();
            let rest = store.referrers(&a, &digest(1), Some(&digest(5)), 2).unwrap();
            assert_eq!((rest.len(), &rest[0].1.artifact_type), (1, &None));
        });
    }

    #[test]
    fn a_push_that_comes_again_changes_nothing() {
        smol::block_on(async {
            let store = store();
            let a: RepositoryName = "a".parse().unwrap();
            push(&store, "a", 1, &["v1"]).await;
            let before = store.sequence();
            push(&store, "a", 1, &["v1"]).await;
            assert_eq!(store.sequence(), before);

            let mut delivery = image(2, &["v1"]);
            delivery.origin = child(4);
            delivery.precondition = Precondition::Is(digest(1));
            assert_eq!(store.put_manifest(&a, delivery).await.unwrap(), PutOutcome::Stored);
            let mut replay = image(2, &["v1"]);
            replay.origin = child(4);
            replay.precondition = Precondition::Is(digest(1));
            assert_eq!(store.put_manifest(&a, replay).await.unwrap(), PutOutcome::Replayed);
        });
    }

    #[test]
    fn a_failed_precondition_leaves_no_trace() {
        smol::block_on(async {
            let store = store();
            let a: RepositoryName = "a".parse().unwrap();
            push(&store, "a", 1, &["v1"]).await;
            let before = store.sequence();
            let mut late = image(2, &["new", "v1"]);
            late.precondition = Precondition::Absent;
            let result = store.put_manifest(&a, late).await;
            assert!(matches!(result, Err(StoreError::Conflict(_))));
            assert_eq!(store.sequence(), before);
            assert_eq!(store.manifest(&a, &digest(2)).unwrap(), None);
        });
    }
}

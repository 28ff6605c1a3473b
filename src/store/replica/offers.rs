//! What a node offers a parent that was replaced or restored, and may have lost what it had taken.

use std::collections::BTreeSet;

use super::inbox;
use super::node::ask_for_reconcile;
use super::outbox::{OutboxChange, enqueue_offer, may_begin_with_nothing};
use super::waiting::{self, waits};
use crate::store::rows::derived::About;
use crate::store::rows::digest_at;
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::node::{
    Fact, heard_key, offer_key, parent_epoch_key, parent_start_key, withheld_manifests,
    withheld_tag_key, withheld_tags,
};
use crate::store::rows::tag::{TagRow, tag_key};
use crate::store::{Store, StoreError, Txn};
use crate::types::{Cursor, Digest, Offered, RepositoryName, Tag};

/// Repositories, tags or manifests that one record notes as offered.
const OFFERS_AT_ONCE: usize = 256;

/// What a repository keeps though the parent lacks it: this node may not push it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Withheld {
    /// By name.
    pub tags: BTreeSet<Tag>,
    /// Those that the tags name too.
    pub manifests: BTreeSet<Digest>,
}

impl Withheld {
    /// Whether it keeps nothing.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.manifests.is_empty()
    }

    fn keys(&self, repository: &RepositoryName) -> Vec<Vec<u8>> {
        let tags = self.tags.iter().map(|tag| withheld_tag_key(repository, tag));
        let manifests = self.manifests.iter().map(|digest| manifest_mark(repository, digest));
        tags.chain(manifests).collect()
    }
}

impl Store {
    /// The epoch of the parent's feed at the first contact, or at the last one in which it had
    /// another one than before.
    pub fn parent_epoch(&self) -> Result<Option<u64>, StoreError> {
        match self.get(&parent_epoch_key())? {
            Some(Fact::Epoch(epoch)) => Ok(Some(epoch)),
            // Earlier versions noted only the position.
            _ => Ok(self.feed_position()?.map(|position| position.epoch)),
        }
    }

    /// The start of the parent that this node has last heard of.
    pub fn parent_start(&self) -> Result<Option<String>, StoreError> {
        match self.get(&parent_start_key())? {
            Some(Fact::Version(start)) => Ok(Some(start)),
            _ => Ok(None),
        }
    }

    /// Notes the parent: what its position and the answers of this session are of.
    pub async fn note_parent(&self, epoch: u64, start: Option<String>) -> Result<(), StoreError> {
        let noted = Some(epoch) == self.parent_epoch()? && start == self.parent_start()?;
        if noted {
            return Ok(());
        }
        self.commit(move |txn| put_parent(txn, epoch, start)).await
    }

    /// Follows the feed of a parent that was replaced or restored, from this position on and after
    /// a full comparison. What it lacks of these repositories is offered to it: it may have lost
    /// it.
    pub async fn meet_parent(
        &self,
        position: Cursor,
        start: Option<String>,
        offered: &BTreeSet<RepositoryName>,
    ) -> Result<(), StoreError> {
        self.mark(offered.iter().map(offer_key).collect()).await?;
        self.commit(move |txn| {
            ask_for_reconcile(txn)?;
            inbox::begin_at(txn, position)?;
            txn.delete(heard_key())?;
            put_parent(txn, position.epoch, start)
        })
        .await
    }

    /// Makes these marks, some of them in one record.
    async fn mark(&self, keys: Vec<Vec<u8>>) -> Result<(), StoreError> {
        for page in keys.chunks(OFFERS_AT_ONCE) {
            let page = page.to_vec();
            self.commit(|txn| {
                page.into_iter().try_for_each(|key| txn.put_changed(key, &Fact::Mark))
            })
            .await?;
        }
        Ok(())
    }

    /// Whether what the parent lacks in this repository is offered to it.
    pub fn is_offered(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        Ok(self.get::<Fact>(&offer_key(repository))?.is_some())
    }

    /// Notes that what the parent lacked in this repository is on its way up, or is kept.
    pub async fn end_offer(&self, repository: &RepositoryName) -> Result<(), StoreError> {
        let key = offer_key(repository);
        self.commit(move |txn| {
            txn.delete(key)?;
            Ok(())
        })
        .await
    }

    /// Keeps what the parent lacks of a repository, from this comparison on.
    pub async fn withhold(
        &self,
        repository: &RepositoryName,
        withheld: &Withheld,
    ) -> Result<(), StoreError> {
        self.mark(withheld.keys(repository)).await
    }

    /// Whether anything is kept of a repository though the parent lacks it.
    pub fn withholds(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        self.look_up(|index| withholds(&Txn::new(index), repository))
    }

    /// Manifests that are kept though the parent lacks them, behind `after` in the order of their
    /// digests, at most `limit`.
    pub fn withheld_manifests(
        &self,
        repository: &RepositoryName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<BTreeSet<Digest>, StoreError> {
        let start = withheld_manifests(repository);
        let after = after.map(|after| manifest_mark(repository, after));
        let rows = self.scan::<Fact>(&start, after.as_deref(), limit)?;
        rows.iter().map(|(key, _)| digest_at(key, start.len())).collect()
    }

    /// Those of these, tags with what they name and manifests alone, of which anything is kept.
    /// Blocks.
    pub fn withheld_among(
        &self,
        repository: &RepositoryName,
        all: Vec<(Option<Tag>, Digest)>,
    ) -> Result<Vec<(Option<Tag>, Digest)>, StoreError> {
        let mut kept = Vec::new();
        for (tag, digest) in all {
            let of_tag = tag.as_ref().map(|tag| self.withholds_tag(repository, tag)).transpose()?;
            if of_tag == Some(true) || self.withholds_manifest(repository, &digest)? {
                kept.push((tag, digest));
            }
        }
        Ok(kept)
    }

    /// All that is kept of a repository.
    #[cfg(test)]
    pub async fn withheld(&self, repository: &RepositoryName) -> Result<Withheld, StoreError> {
        let start = withheld_tags(repository);
        let rows = self.pages::<Fact>(start.clone()).all().await?;
        let tags = rows.iter().map(|(key, _)| crate::store::rows::name_at(key, start.len()));
        let tags = tags.collect::<Result<_, _>>()?;
        let start = withheld_manifests(repository);
        let rows = self.pages::<Fact>(start.clone()).all().await?;
        let manifests = rows.iter().map(|(key, _)| digest_at(key, start.len()));
        Ok(Withheld { tags, manifests: manifests.collect::<Result<_, _>>()? })
    }

    /// Whether a tag is kept though the parent lacks it.
    pub fn withholds_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<bool, StoreError> {
        self.look_up(|index| is_tag_withheld(&Txn::new(index), repository, tag))
    }

    /// Whether a manifest is.
    pub fn withholds_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        Ok(self.get::<Fact>(&manifest_mark(repository, digest))?.is_some())
    }

    /// Keeps nothing of a repository more than anything else.
    pub async fn release(&self, repository: &RepositoryName) -> Result<(), StoreError> {
        for start in [withheld_tags(repository), withheld_manifests(repository)] {
            let mut pages = self.pages::<Fact>(start);
            loop {
                let page = pages.next().await?;
                if page.is_empty() {
                    break;
                }
                self.commit(|txn| page.into_iter().try_for_each(|(key, _)| txn.delete(key)))
                    .await?;
            }
        }
        Ok(())
    }

    /// Keeps a tag no more than any other: the parent had one of this name since it lacked it. What
    /// the tag names here is kept on.
    pub async fn release_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<(), StoreError> {
        let key = withheld_tag_key(repository, tag);
        if self.get::<Fact>(&key)?.is_none() {
            return Ok(());
        }
        self.commit(move |txn| txn.delete(key)).await
    }

    /// The parent has a manifest, named by a tag if any, that is here already: it is kept no more
    /// than anything else.
    pub async fn parent_has(
        &self,
        repository: &RepositoryName,
        tag: Option<&Tag>,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let is_tag_withheld = tag.map(|tag| self.withholds_tag(repository, tag)).transpose()?;
        if is_tag_withheld != Some(true) && !self.withholds_manifest(repository, digest)? {
            return Ok(());
        }
        let (repository, tag, digest) = (repository.clone(), tag.cloned(), digest.clone());
        self.commit(move |txn| is_at_parent(txn, &repository, tag.as_ref(), &digest)).await
    }

    /// Has tags that the parent lacks go up as they are. Those with changes that wait go up with
    /// these, which may begin with nothing there. Of one that was moved or removed since, what it
    /// named goes up by its digest: nothing else brings that. So does what a client had pushed and
    /// the parent had tagged: it may have deleted the tag. What was kept is kept no more than that.
    pub async fn offer_tags(
        &self,
        repository: &RepositoryName,
        tags: &[(Tag, Digest)],
    ) -> Result<(), StoreError> {
        for page in tags.chunks(OFFERS_AT_ONCE) {
            let (repository, page) = (repository.clone(), page.to_vec());
            self.commit(move |txn| {
                for (tag, digest) in page {
                    is_at_parent(txn, &repository, Some(&tag), &digest)?;
                    let begins = may_begin_with_nothing(txn, &repository, &tag)?;
                    let row = txn.get::<TagRow>(&tag_key(&repository, &tag))?;
                    let Some(row) = row.filter(|row| row.digest == digest) else {
                        offer_manifest(txn, &repository, digest)?;
                        continue;
                    };
                    if !begins {
                        offer_tag(txn, &repository, tag, row)?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Has manifests that the parent lacks go up by their digests, but for those that were deleted
    /// since, or are on their way, by themselves or with a tag. An index on its way does not count:
    /// it may be deleted before it goes.
    pub async fn offer_manifests(
        &self,
        repository: &RepositoryName,
        manifests: &[Digest],
    ) -> Result<(), StoreError> {
        for page in manifests.chunks(OFFERS_AT_ONCE) {
            let (repository, page) = (repository.clone(), page.to_vec());
            self.commit(move |txn| {
                for digest in page {
                    is_at_parent(txn, &repository, None, &digest)?;
                    if !waiting::brings_itself(txn, &repository, &digest)? {
                        offer_manifest(txn, &repository, digest)?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// Has a tag go up as it is, and what it names by its digest if only that was pushed by a client.
fn offer_tag(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    tag: Tag,
    row: TagRow,
) -> Result<(), StoreError> {
    let (digest, offered) = (row.digest, Offered::of(row.from_below));
    let change = OutboxChange::Tag { tag, base: None, digest: Some(digest.clone()) };
    enqueue_offer(txn, repository, change, offered)?;
    let manifest = txn.get::<ManifestRow>(&manifest_key(repository, &digest))?;
    if !row.from_below && manifest.is_some_and(|manifest| manifest.from_below) {
        offer_manifest(txn, repository, digest)?;
    }
    Ok(())
}

/// Has a manifest go up by its digest, if it is still here and not on its way.
pub(in crate::store) fn offer_manifest(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: Digest,
) -> Result<(), StoreError> {
    let Some(row) = txn.get::<ManifestRow>(&manifest_key(repository, &digest))? else {
        return Ok(());
    };
    if !waits(txn, repository, About::Added(&digest))? {
        let change = OutboxChange::ManifestAdded { digest };
        enqueue_offer(txn, repository, change, Offered::of(row.from_below))?;
    }
    Ok(())
}

/// Ends that a manifest, and a tag if any, are kept though the parent lacks them: it has them, they
/// are on their way to it, or they go here. Call it in the command that does that.
pub(in crate::store) fn is_at_parent(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    tag: Option<&Tag>,
    digest: &Digest,
) -> Result<(), StoreError> {
    let tag = tag.map(|tag| withheld_tag_key(repository, tag));
    for key in tag.into_iter().chain([manifest_mark(repository, digest)]) {
        if txn.get::<Fact>(&key)?.is_some() {
            txn.delete(key)?;
        }
    }
    Ok(())
}

/// Whether anything is kept of a repository though the parent lacks it.
pub(in crate::store) fn withholds(
    txn: &Txn<'_>,
    repository: &RepositoryName,
) -> Result<bool, StoreError> {
    for start in [withheld_tags(repository), withheld_manifests(repository)] {
        if txn.has_any(&start)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a tag is kept though the parent lacks it.
pub(in crate::store) fn is_tag_withheld(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    tag: &Tag,
) -> Result<bool, StoreError> {
    Ok(txn.get::<Fact>(&withheld_tag_key(repository, tag))?.is_some())
}

fn manifest_mark(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    [&withheld_manifests(repository)[..], &digest.to_key()].concat()
}

/// Notes the epoch of the parent's feed, and which start of the parent that is, if it tells.
fn put_parent(txn: &mut Txn<'_>, epoch: u64, start: Option<String>) -> Result<(), StoreError> {
    if let Some(start) = start {
        txn.put_changed(parent_start_key(), &Fact::Version(start))?;
    }
    txn.put_changed(parent_epoch_key(), &Fact::Epoch(epoch))
}

#[cfg(test)]
mod tests {
    use super::super::node::testing::connected;
    use super::super::outbox::Origin;
    use super::*;
    use crate::store::registry::manifests::testing::{digest, push};

    #[test]
    fn f201_nothing_is_offered_twice_and_what_waits_may_begin_with_nothing() {
        smol::block_on(async {
            let store = connected().await;
            let app: RepositoryName = "app".parse().unwrap();
            let names: Vec<String> =
                (0..=OFFERS_AT_ONCE).map(|number| format!("t{number:03}")).collect();
            let all: Vec<&str> = names.iter().map(String::as_str).collect();
            push(&store, "app", 1, &all).await;
            push(&store, "app", 2, &["moved"]).await;
            let delivered = store.outbox(usize::MAX).unwrap();
            for (number, _) in &delivered {
                store.outbox_delivered(*number, 0).await.unwrap();
            }
            push(&store, "app", 2, &["t000"]).await;
            let rows = store.tags(&app, None, usize::MAX).unwrap().into_iter();
            let mut tags: Vec<_> = rows.map(|(tag, row)| (tag, row.digest)).collect();
            tags.iter_mut().filter(|(tag, _)| tag.as_str() == "moved").for_each(|(_, was)| {
                *was = digest(1);
            });
            for _ in 0..2 {
                store.offer_tags(&app, &tags).await.unwrap();
                store.offer_manifests(&app, &[digest(1), digest(9)]).await.unwrap();
            }
            let waiting = store.outbox(usize::MAX).unwrap();
            assert_eq!(waiting.len(), 1 + OFFERS_AT_ONCE + 1, "but for the one that was moved");
            assert_eq!(waiting[0].1.unheard, [None]);
            let added = OutboxChange::ManifestAdded { digest: digest(1) };
            assert_eq!(waiting.iter().filter(|(_, entry)| entry.change == added).count(), 1);

            // An offer may have been made in vain, which is known after a power cut too.
            for (is_offer, expected) in [(false, false), (true, true)] {
                let some = waiting.iter().find(|(_, entry)| entry.offered.is_offer() == is_offer);
                store.outbox_delivered(some.unwrap().0, 0).await.unwrap();
                assert_eq!(store.has_offered().unwrap(), expected);
            }
            store.compare_offered().await.unwrap();
            assert!(store.reconcile_due().unwrap() && !store.has_offered().unwrap());
        });
    }

    #[test]
    fn f201_another_parent_is_noted_whether_its_start_is_known_or_not() {
        smol::block_on(async {
            let store = connected().await;
            for (epoch, start) in [(7, "a"), (8, "a"), (8, "b")] {
                store.note_parent(epoch, Some(start.to_owned())).await.unwrap();
                assert_eq!(store.parent_epoch(), Ok(Some(epoch)));
                assert_eq!(store.parent_start().unwrap().as_deref(), Some(start));
            }
        });
    }

    #[test]
    fn f201_what_is_kept_is_read_some_at_a_time_and_released_as_a_whole() {
        smol::block_on(async {
            let store = connected().await;
            let [app, other]: [RepositoryName; 2] =
                ["app", "apps"].map(|name| name.parse().unwrap());
            let tags: BTreeSet<Tag> =
                (0..=OFFERS_AT_ONCE).map(|number| format!("t{number}").parse().unwrap()).collect();
            let manifests: BTreeSet<Digest> = (1..=3).map(digest).collect();
            let kept = Withheld { tags, manifests };
            for repository in [&app, &other] {
                assert!(!store.withholds(repository).unwrap());
                store.withhold(repository, &kept).await.unwrap();
                assert_eq!(store.withheld(repository).await, Ok(kept.clone()));
            }
            let (mut after, mut found) = (None, BTreeSet::new());
            for left in [2, 1, 0] {
                let page = store.withheld_manifests(&app, after.as_ref(), 2).unwrap();
                assert_eq!(page.len(), usize::from(left > 0) + usize::from(left > 1));
                after = page.last().cloned().or(after);
                found.extend(page);
            }
            assert_eq!(found, kept.manifests);
            store.release(&app).await.unwrap();
            assert!(!store.withholds(&app).unwrap() && store.withholds(&other).unwrap());
            for manifest in [1, 2, 3] {
                store.parent_has(&other, None, &digest(manifest)).await.unwrap();
            }
            assert!(store.withholds(&other).unwrap(), "tags");
            // A client has deleted what was kept.
            push(&store, "apps", 1, &["t0", "t1"]).await;
            store.delete_manifest(&other, &digest(1), &Origin::Client).await.unwrap();
            let left = store.withheld(&other).await.unwrap().tags;
            assert_eq!(left.len(), kept.tags.len() - 2);
        });
    }
}

//! Follows what the parent has deleted. What a change of this node holds back is tried again now
//! and then, until the parent has answered that change.

use std::collections::{BTreeMap, BTreeSet};

use super::debts::Item;
use super::error::SyncError;
use super::plan::Desired;
use super::worker::Worker;
use crate::store::registry::removal::Watch;
use crate::store::replica::outbox::Origin;
use crate::store::{Precondition, Store, StoreError};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName, Tag};

/// Manifests that indexes lack, of which the parent is asked in one comparison of a repository
/// whether it has them again. Over it: others in the next one.
const ASKED_MAX: usize = 256;

/// The manifests of a repository.
pub(super) struct Here {
    pub(super) manifests: BTreeSet<Digest>,
    /// Those of them that others name.
    named: BTreeSet<Digest>,
    lost: Lost,
}

/// Manifests that indexes need and that are not here: as many as are asked for in one comparison.
struct Lost {
    /// The place in the order of digests from which they are taken. It differs each time, so that
    /// all get their turn.
    from: u64,
    /// By their distance from there, each with one of those indexes.
    next: BTreeMap<(u64, Digest), Digest>,
}

impl Lost {
    fn note(&mut self, child: Digest, index: &Digest) {
        let place = child.raw().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte));
        self.next.insert((place.wrapping_sub(self.from), child), index.clone());
        if self.next.len() > ASKED_MAX {
            self.next.pop_last();
        }
    }
}

impl Here {
    /// Reads the manifests one by one: each names up to 20,000 others. Blocks.
    fn read(store: &Store, repository: &RepositoryName, from: u64) -> Result<Here, StoreError> {
        let lost = Lost { from, next: BTreeMap::new() };
        let manifests = store.manifest_digests(repository)?;
        let mut here = Here { manifests, named: BTreeSet::new(), lost };
        store.each_manifest(repository, |digest, row| {
            let found = row.named_manifests().filter(|named| here.manifests.contains(*named));
            here.named.extend(found.cloned());
            for child in row.children {
                if !here.manifests.contains(&child) {
                    here.lost.note(child, &digest);
                }
            }
        })?;
        Ok(here)
    }
}

impl Worker {
    /// Deletes manifests that no tag, index or referrer needs any more and that the parent has
    /// deleted. Those that it still has stay: someone may have pinned them by digest.
    pub(super) async fn drop_deleted(
        &self,
        repository: &RepositoryName,
        desired: &Desired,
        here: &Here,
    ) -> Result<(), SyncError> {
        let mut needed: BTreeSet<&Digest> = desired.referrers.iter().collect();
        needed.extend(desired.tags.values());
        needed.extend(&here.named);
        for digest in here.manifests.iter().filter(|digest| !needed.contains(digest)) {
            self.delete_if_gone(repository, digest).await?;
        }
        Ok(())
    }

    /// What is here of a repository.
    pub(super) async fn manifests_here(
        &self,
        repository: &RepositoryName,
    ) -> Result<Here, SyncError> {
        let (store, repository) = (self.store.clone(), repository.clone());
        let from = store.sys().rng.number();
        Ok(spawn::blocking(move || Here::read(&store, &repository, from)).await?)
    }

    /// Brings back what was deleted of an index that is here, if the parent has it again.
    pub(super) async fn bring_back(
        &self,
        repository: &RepositoryName,
        here: Here,
    ) -> Result<(), SyncError> {
        let deleted_here = self.store.outbox_deletions(repository).await?;
        let mut again = BTreeSet::new();
        for ((_, child), index) in here.lost.next {
            if deleted_here.contains(&child) || again.contains(&index) {
                continue;
            }
            match self.upstream.keeps_manifest(repository, &child).await.map_err(SyncError::from) {
                Ok(true) => {
                    self.fetcher.absent.forget(repository, &child);
                    again.insert(index);
                }
                Ok(false) => {}
                Err(error) if error.is_of_item() => {}
                Err(error) => return Err(error),
            }
        }
        for index in again {
            let result = self.fetcher.obtain(repository, &index, None).await.map(|_| ());
            self.settle(repository, Item::Manifest(index.clone()), Some(&index), result).await?;
        }
        Ok(())
    }

    /// Removes repositories that are not granted any more, unless they have something that the
    /// parent does not have: they go at a comparison after it does.
    pub(super) async fn purge(
        &self,
        ungranted: &BTreeSet<RepositoryName>,
    ) -> Result<(), SyncError> {
        let mut kept = BTreeSet::new();
        for repository in ungranted {
            match self.store.delete_repository(repository).await {
                Ok(()) => log::info!("removed repository {repository}: it is not granted any more"),
                Err(StoreError::NotFound) => {}
                Err(StoreError::Conflict(_)) => drop(kept.insert(repository.clone())),
                Err(error) => return Err(error.into()),
            }
        }
        for repository in self.state.kept_anew(&kept) {
            log::warn!(
                "keeping repository {repository}, which is not granted any more: it has what the \
                 parent does not have, see statusDetails in `skerry status`"
            );
        }
        Ok(())
    }

    /// Removes a tag that the parent has removed, if it still names `base`.
    pub(super) async fn remove_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        base: Digest,
    ) -> Result<(), SyncError> {
        let (base, item) = (Precondition::Is(base), Item::Tag(tag.clone()));
        if self.store.is_offered(repository)? {
            // It may be lost there: what is to be offered is settled first.
            self.state.hold_back(repository, item);
            return Ok(());
        }
        if self.store.withholds_tag(repository, tag)? {
            self.state.paid(repository, &item);
            return Ok(());
        }
        match self.store.delete_tag(repository, tag, base, &Origin::Parent).await {
            Ok(_) | Err(StoreError::NotFound) => self.state.paid(repository, &item),
            // A client has moved it since, or waits for the parent's answer.
            Err(StoreError::Conflict(_)) => self.state.hold_back(repository, item),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Deletes what the parent is said to have deleted, if it has: on a ReadWrite node that may be
    /// the echo of a removal of ours, and the manifest was pushed again since.
    pub(super) async fn delete_if_gone(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), SyncError> {
        let watch = self.store.watch_manifest(repository, digest);
        let item = Item::Deleted(digest.clone());
        // What waits now may be delivered before the parent's answer is here; what comes later is
        // noticed by the watch.
        if self.store.outbox_brings(repository, digest)? {
            self.state.hold_back(repository, item);
            return Ok(());
        }
        match self.upstream.keeps_manifest(repository, digest).await.map_err(SyncError::from) {
            Ok(false) => self.delete_manifest(watch, repository, digest).await,
            Ok(true) => {
                self.store.parent_has(repository, None, digest).await?;
                self.state.paid(repository, &item);
                Ok(())
            }
            // It is there, though not to be had, or the parent cannot tell yet: ours is good.
            Err(error) if error.is_of_item() => {
                self.state.hold_back(repository, item);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes what the parent has deleted.
    pub(super) async fn delete_manifest(
        &self,
        watch: Watch,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), SyncError> {
        let item = Item::Deleted(digest.clone());
        if self.store.is_offered(repository)? {
            self.state.hold_back(repository, item);
            return Ok(());
        }
        if self.store.withholds_manifest(repository, digest)? {
            self.state.paid(repository, &item);
            return Ok(());
        }
        match self.store.delete_watched(watch, &Origin::Parent).await {
            Ok(()) | Err(StoreError::NotFound) => self.state.paid(repository, &item),
            // A client has pushed it again, or something that needs it.
            Err(StoreError::Conflict(_)) => self.state.hold_back(repository, item),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::registry::manifests::testing::{digest, put, store};
    use crate::types::media;

    #[test]
    fn f209_of_what_indexes_lack_a_bounded_part_is_remembered_at_a_time() {
        smol::block_on(async {
            let (store, app): (_, RepositoryName) = (store(), "app".parse().unwrap());
            let entry = |digest: &str, urls| {
                let kind = media::OCI_MANIFEST;
                format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":2{urls}}}"#)
            };
            let elsewhere = |number: usize| format!("sha256:{number:02x}{number:062x}");
            let index = async |number: u8, entries: Vec<String>| {
                let text = format!(
                    r#"{{"schemaVersion":2,"x":{number},"manifests":[{}]}}"#,
                    entries.join(",")
                );
                let index = put(number, media::OCI_INDEX, &text, &[]);
                store.put_manifest(&app, index).await.unwrap();
            };
            // They may lie elsewhere, and are not here.
            let far = (0..256).map(|n| entry(&elsewhere(n), r#","urls":["x"]"#)).collect();
            index(1, far).await;
            index(2, vec![entry(&digest(1).to_string(), "")]).await;
            let here = Here::read(&store, &app, 0xff << 56).unwrap();
            assert_eq!(here.manifests, BTreeSet::from([digest(1), digest(2)]));
            assert_eq!(here.named, BTreeSet::from([digest(1)]));
            assert_eq!(here.lost.next.len(), 256);
            // One more: those go first that come next from the place.
            index(3, vec![entry(&format!("sha256:7f{}", "f".repeat(62)), r#","urls":["x"]"#)])
                .await;
            let here = Here::read(&store, &app, 0x80 << 56).unwrap();
            let asked: Vec<String> =
                here.lost.next.keys().map(|(_, child)| child.to_string()).collect();
            assert_eq!((asked.len(), &asked[0]), (ASKED_MAX, &elsewhere(0x80)));
            assert_eq!(asked.last(), Some(&elsewhere(0x7f)));
        });
    }
}

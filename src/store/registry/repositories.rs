//! Repositories, and the blobs that may be pulled from each.

use crate::store::content::admission;
use crate::store::content::arrival::make_named;
use crate::store::content::leases::Lease;
use crate::store::replica::unsent::is_unsent;
use crate::store::rows::derived::{Count, needed_key};
use crate::store::rows::link::{BlobLink, blob_key, split_key};
use crate::store::rows::manifest::ManifestRow;
use crate::store::rows::node::{Fact, removing_key};
use crate::store::rows::repository::{RepositoryRow, repository_key};
use crate::store::rows::tag::conflicts_of;
use crate::store::rows::{Kind, key, name_at, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName, UnixSeconds};

/// Manifests that are named as what needs a blob.
const NAMED_MAX: usize = 3;

/// Pages of manifests in which is looked for those.
const PAGES_LOOKED_THROUGH: usize = 40;

impl Store {
    /// Names of repositories greater than `after`, in order, at most `limit`.
    pub fn repositories(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, StoreError> {
        let start = prefix(Kind::Repository, &[]);
        let after = after.map(|name| key(Kind::Repository, &[name.as_bytes()]));
        let rows = self.scan::<RepositoryRow>(&start, after.as_deref(), limit)?;
        rows.iter().map(|(key, _)| name_at(key, start.len())).collect()
    }

    /// Whether a repository holds a manifest. One without is of use only to who pushes to it.
    pub fn holds_manifests(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        let start = prefix(Kind::Manifest, &[repository.as_str().as_bytes()]);
        self.look_up(|index| Txn::new(index).has_any(&start))
    }

    /// Whether a repository holds anything, be it what nobody needs.
    pub(in crate::store) fn holds_content(
        &self,
        repository: &RepositoryName,
    ) -> Result<bool, StoreError> {
        self.look_up(|index| holds(&Txn::new(index), repository))
    }

    /// Those of these repositories that hold manifests.
    pub fn those_with_manifests(
        &self,
        all: Vec<RepositoryName>,
    ) -> Result<Vec<RepositoryName>, StoreError> {
        let mut holding = Vec::new();
        for name in all {
            if self.holds_manifests(&name)? {
                holding.push(name);
            }
        }
        Ok(holding)
    }

    /// A repository; `None` when nothing was ever pushed or synced to it.
    pub fn repository(
        &self,
        repository: &RepositoryName,
    ) -> Result<Option<RepositoryRow>, StoreError> {
        self.get(&repository_key(repository))
    }

    /// Allows a blob to be pulled from a repository, which is created if need be. The content is
    /// there, since before the lease was looked at; its name is made durable first if need be.
    pub async fn link_blob(
        &self,
        repository: &RepositoryName,
        lease: &Lease,
        size: u64,
    ) -> Result<(), StoreError> {
        self.link(repository, lease, size, None).await
    }

    /// The same for what came from the parent without being needed: `Conflict` when no manifest of
    /// the repository names `named` any more, the blob or what needs it.
    pub async fn link_named_blob(
        &self,
        repository: &RepositoryName,
        lease: &Lease,
        size: u64,
        named: &Digest,
    ) -> Result<(), StoreError> {
        self.link(repository, lease, size, Some(needed_key(repository, named))).await
    }

    async fn link(
        &self,
        repository: &RepositoryName,
        lease: &Lease,
        size: u64,
        needed: Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let (shared, digest) = (self.shared(), lease.digest());
        if !shared.named.contains(digest) {
            let (shared, digest) = (shared.clone(), digest.clone());
            spawn::blocking(move || make_named(&shared, &digest)).await?;
        }
        let (now, quota) = (self.sys().clock.wall_or_floor(), self.quota(repository));
        let (repository, key) = (repository.clone(), blob_key(repository, digest));
        // Whoever waits for the command may be gone before it runs.
        let (shared, lease) = (shared.clone(), lease.clone());
        self.commit(move |txn| {
            if let Some(needed) = &needed
                && !txn.has(needed)?
            {
                let text = format!("nothing in {repository} names it any more");
                return Err(StoreError::Conflict(text));
            }
            let (link, old) = (BlobLink { size }, txn.get::<BlobLink>(&key)?);
            if old != Some(link) {
                txn.expect_rows()?;
                release(txn, &repository, old.map_or(0, |old| old.size))?;
                charge(txn, &repository, now, size, quota)?;
                txn.put(key, &link)?;
            } else if shared.trust.is_unsettled(lease.digest()) {
                txn.put(key, &link)?;
            }
            Ok(())
        })
        .await
    }

    /// Allows a blob of one repository to be pulled from another too; `false` when it is not
    /// linked in the first.
    pub async fn mount_blob(
        &self,
        from: &RepositoryName,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let Some(link) = self.blob_link(from, digest)? else { return Ok(false) };
        let (now, quota) = (self.sys().clock.wall_or_floor(), self.quota(repository));
        let (source, target) = (blob_key(from, digest), blob_key(repository, digest));
        let more = match self.get::<BlobLink>(&target)? {
            None => link.size,
            Some(_) => 0,
        };
        let _kept = self.keep_room(repository, more).await?;
        let repository = repository.clone();
        self.commit(move |txn| {
            let Some(link) = txn.get::<BlobLink>(&source)? else {
                return Ok(false);
            };
            if txn.get::<BlobLink>(&target)?.is_none() {
                txn.expect_rows()?;
                charge(txn, &repository, now, link.size, quota)?;
                txn.put(target, &link)?;
            }
            Ok(true)
        })
        .await
    }

    /// Ends that a blob can be pulled from a repository. `NotFound` when it could not, `Conflict`
    /// when manifests there name it.
    pub async fn unlink_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let (name, key) = (repository.clone(), blob_key(repository, digest));
        let needed = needed_key(repository, digest);
        let unlinked = self.commit(move |txn| {
            let link = txn.get::<BlobLink>(&key)?.ok_or(StoreError::NotFound)?;
            if let Some(Count(manifests)) = txn.get::<Count>(&needed)? {
                return Ok(Some(manifests));
            }
            txn.delete(key)?;
            release(txn, &name, link.size)?;
            Ok(None)
        });
        if let Some(manifests) = unlinked.await? {
            let some = self.naming(repository, digest).await?;
            let some: Vec<String> = some.iter().map(ToString::to_string).collect();
            let which = match some.len() {
                0 => String::new(),
                _ => format!(", such as {}", some.join(", ")),
            };
            return Err(StoreError::Conflict(format!(
                "manifests of {repository} name this blob ({manifests} in all{which}): delete \
                 those first"
            )));
        }
        self.give_back(repository, digest).await;
        Ok(())
    }

    /// Some manifests of a repository that name a blob, of the first [`PAGES_LOOKED_THROUGH`]
    /// pages.
    async fn naming(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
    ) -> Result<Vec<Digest>, StoreError> {
        let start = prefix(Kind::Manifest, &[repository.as_str().as_bytes()]);
        let (mut manifests, mut found, mut left) = (self.pages(start), Vec::new(), NAMED_MAX);
        for _ in 0..PAGES_LOOKED_THROUGH {
            let page: Vec<(Vec<u8>, ManifestRow)> = manifests.next().await?;
            if page.is_empty() {
                break;
            }
            let naming = page.iter().filter(|(_, row)| row.named_blobs().any(|one| one == blob));
            let naming = naming.filter_map(|(key, _)| split_key(key)).map(|(_, digest)| digest);
            found.extend(naming.take(left));
            left = NAMED_MAX - found.len();
            if left == 0 {
                break;
            }
        }
        Ok(found)
    }

    /// What a repository may hold, bytes; `None`: any amount.
    pub(in crate::store) fn quota(&self, repository: &RepositoryName) -> Option<u64> {
        self.shared().quota(repository)
    }

    /// `Quota` when a repository has no room for so many bytes more: before they are fetched.
    pub fn check_quota(&self, repository: &RepositoryName, bytes: u64) -> Result<(), StoreError> {
        let Some(quota) = self.quota(repository) else { return Ok(()) };
        let used = self.repository(repository)?.map_or(0, |row| row.bytes);
        admission::check(repository, used, 0, bytes, quota)
    }

    /// Whether a blob may be pulled from a repository.
    pub fn blob_linked(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        Ok(self.blob_link(repository, digest)?.is_some())
    }

    /// What a repository has noted of a blob that may be pulled from it. The blob stays for the
    /// grace of garbage from now on.
    pub fn blob_link(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<BlobLink>, StoreError> {
        self.row_to_use(&blob_key(repository, digest), digest)
    }

    /// Removes a repository with its tags, manifests and links, a bounded number in each record:
    /// what a stop leaves is removed by the next call, and is told by [`Store::half_removed`]. The
    /// parent does not hear of it, and children compare the repository: its parent may have it.
    /// `NotFound` when there is none, `Conflict` when it has something that the parent does not
    /// have.
    pub async fn delete_repository(&self, repository: &RepositoryName) -> Result<(), StoreError> {
        let own = repository_key(repository);
        if self.get::<RepositoryRow>(&own)?.is_none() {
            return Err(StoreError::NotFound);
        }
        self.look_up(|index| refuse_unsent(&Txn::new(index), repository))?;
        self.mark_synced(repository, false).await?;
        let half = removing_key(repository);
        let mark = half.clone();
        self.commit(move |txn| txn.put(mark, &Fact::Mark)).await?;
        let starts = contents(repository);
        loop {
            for start in &starts {
                self.delete_rows_of(repository, start).await?;
            }
            let repository = repository.clone();
            let (half, own) = (half.clone(), own.clone());
            let ended = self.commit(move |txn| {
                refuse_unsent(txn, &repository)?;
                // What was let in before has brought a row since: nothing would find it again.
                if holds(txn, &repository)? {
                    return Ok(false);
                }
                txn.delete(half)?;
                txn.delete(own)?;
                Ok(true)
            });
            if ended.await? {
                return Ok(());
            }
        }
    }

    /// Removes rows of a repository that is being removed: in one command a page, of a manifest
    /// that names very much only that. Each row counts for as many as it names.
    async fn delete_rows_of(
        &self,
        repository: &RepositoryName,
        start: &[u8],
    ) -> Result<(), StoreError> {
        let mut keys = self.keys(start.to_vec());
        loop {
            let page = keys.next_keys().await?;
            if page.is_empty() {
                return Ok(());
            }
            let repository = repository.clone();
            self.commit(move |txn| {
                // A push that was let in before may have come to its end since.
                refuse_unsent(txn, &repository)?;
                // By this, children tell it from a deletion.
                txn.put(removing_key(&repository), &Fact::Mark)?;
                page.into_iter().try_for_each(|key| txn.delete(key))
            })
            .await?;
        }
    }
}

/// Where the keys start of all that is in a repository: names before what they name.
fn contents(repository: &RepositoryName) -> Vec<Vec<u8>> {
    let kinds = [Kind::Tag, Kind::Referrer, Kind::Untagged, Kind::Manifest, Kind::Blob];
    let starts = kinds.map(|kind| prefix(kind, &[repository.as_str().as_bytes()]));
    starts.into_iter().chain([conflicts_of(repository)]).collect()
}

/// Forgets a repository that holds nothing, of which nothing is on its way up or kept for the
/// parent: each name would cost a row for ever. Returns whether it did. A push makes it anew.
pub(in crate::store) fn forget_if_empty(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
) -> Result<bool, StoreError> {
    if is_unsent(txn, repository)? || txn.has(&removing_key(repository))? {
        return Ok(false);
    }
    if holds(txn, repository)? {
        return Ok(false);
    }
    txn.delete(repository_key(repository))?;
    Ok(true)
}

/// Whether anything is in a repository.
fn holds(txn: &Txn<'_>, repository: &RepositoryName) -> Result<bool, StoreError> {
    for start in contents(repository) {
        if txn.has_any(&start)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `Conflict` when a repository has something that the parent does not have.
fn refuse_unsent(txn: &Txn<'_>, repository: &RepositoryName) -> Result<(), StoreError> {
    if is_unsent(txn, repository)? {
        let text = format!("repository {repository} has what the parent does not have");
        return Err(StoreError::Conflict(text));
    }
    Ok(())
}

/// Counts bytes that come to a repository, which is created if there is none yet. `Quota` when
/// they are too many.
pub(in crate::store) fn charge(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    now: UnixSeconds,
    bytes: u64,
    quota: Option<u64>,
) -> Result<(), StoreError> {
    let key = repository_key(repository);
    let old = txn.get::<RepositoryRow>(&key)?;
    let mut row = old.unwrap_or(RepositoryRow { created: now, bytes: 0 });
    if let Some(quota) = quota {
        admission::check(repository, row.bytes, 0, bytes, quota)?;
    }
    row.bytes = row.bytes.saturating_add(bytes);
    if old != Some(row) {
        txn.put(key, &row)?;
    }
    Ok(())
}

/// Counts bytes that leave a repository.
pub(in crate::store) fn release(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    bytes: u64,
) -> Result<(), StoreError> {
    let key = repository_key(repository);
    match txn.get::<RepositoryRow>(&key)? {
        Some(mut row) if bytes > 0 => {
            row.bytes = row.bytes.saturating_sub(bytes);
            txn.put(key, &row)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::manifests::testing::*;
    use super::*;
    use crate::store::index::Change;
    use crate::store::paged::PAGE_ROWS;
    use crate::store::replica::node::testing::connected;
    use crate::store::rows::node::{purged_in, synced_key};
    use crate::sys::turn::testing::measure;
    use crate::types::media;

    #[test]
    fn f156_repositories_are_listed_in_pages() {
        smol::block_on(async {
            let store = store();
            for name in ["b", "a/b", "a", "a-b", "c"] {
                store
                    .link_blob(&name.parse().unwrap(), &Lease::unseen(&digest(1)), 5)
                    .await
                    .unwrap();
            }
            let names = |after, limit| {
                let names = store.repositories(after, limit).unwrap();
                names.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            assert_eq!(names(None, 3), ["a", "a-b", "a/b"]);
            assert_eq!(names(Some("a/b"), 3), ["b", "c"]);
            assert_eq!(names(Some("aa"), 1), ["b"]);
            assert_eq!(names(Some("c"), 3), Vec::<String>::new());
            assert_eq!(names(None, 0), Vec::<String>::new());
        });
    }

    /// Symptom: a node whose grant of such a repository went needed all its memory, at each start.
    /// Cause: a thousand whole rows were read in one turn, and removed in one command.
    #[test]
    fn f209_a_repository_of_large_manifests_is_removed_a_few_at_a_time() {
        const LAYERS: u64 = 1500;
        smol::block_on(async {
            let (store, large) = (store(), "large".parse().unwrap());
            let layers: Vec<String> = (0..LAYERS)
                .map(|layer| {
                    let digest = format!("sha256:{layer:064x}");
                    let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar";
                    format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":1}}"#)
                })
                .collect();
            let text = format!(
                r#"{{"schemaVersion":2,
                    "config":{{"mediaType":"application/x","digest":"{}","size":20}},
                    "layers":[{}]}}"#,
                digest(100),
                layers.join(",")
            );
            store.link_blob(&large, &Lease::unseen(&digest(100)), 20).await.unwrap();
            for number in 1..=20 {
                let manifest = put(number, media::OCI_MANIFEST, &text, &[]);
                store.put_manifest(&large, manifest).await.unwrap();
            }
            store.sys().metrics.command_rows.begin();
            let (removed, longest) = measure(store.delete_repository(&large)).await;
            removed.unwrap();
            assert_eq!(store.repository(&large).unwrap(), None);
            let rows = store.sys().metrics.command_rows.get();
            assert!((LAYERS..8 * LAYERS).contains(&rows), "{rows} rows in a command");
            // In memory the writer runs on the turn of its caller, and looks at each layer once.
            assert!(longest.turn.bytes < 100 * LAYERS, "{longest:?}");
            assert!(longest.job.bytes < 256 * 1024, "{longest:?}");
        });
    }

    /// Symptom: a link and its file stayed for good, in no repository. Cause: a push that was let
    /// in before brought it between the last look and the last command.
    #[test]
    fn f206_no_row_of_a_repository_outlives_it() {
        smol::block_on(async {
            let (store, a) = (store(), "a".parse().unwrap());
            for _ in 0..5 {
                push(&store, "a", 1, &["v1"]).await;
                let link = async {
                    for _ in 0..1000 {
                        store.link_blob(&a, &Lease::unseen(&digest(7)), 5).await.unwrap();
                        spawn::yield_now().await;
                        let is_there = store.repository(&a).unwrap().is_some();
                        assert!(is_there || !store.blob_linked(&a, &digest(7)).unwrap());
                    }
                };
                let (removed, ()) = smol::future::zip(store.delete_repository(&a), link).await;
                removed.unwrap();
            }
        });
    }

    /// Symptom: a HEAD was 200, and the manifest that was pushed next was told that the blob is not
    /// there. Cause: its removal was decided, and the index did not show it yet.
    #[test]
    fn f141_f206_a_link_whose_removal_is_decided_is_not_shown_any_more() {
        smol::block_on(async {
            let (store, a): (_, RepositoryName) = (store(), "a".parse().unwrap());
            let b = "b".parse().unwrap();
            for name in [&a, &b] {
                store.link_blob(name, &Lease::unseen(&digest(1)), 5).await.unwrap();
            }
            let leases = &store.shared().leases;
            let key = blob_key(&a, &digest(1));
            let later = store.sys().clock.monotonic() + Duration::from_secs(60);
            assert!(leases.hide_unless_wanted(&key, &digest(1), later));
            assert!(!store.blob_linked(&a, &digest(1)).unwrap());
            assert!(store.blob_linked(&b, &digest(1)).unwrap(), "another link to it stays");
            leases.unhide();
            assert!(store.blob_linked(&a, &digest(1)).unwrap(), "the removal has failed");
            assert!(!leases.hide_unless_wanted(&key, &digest(1), Duration::ZERO), "it was touched");
            assert!(!leases.is_hidden(&key));
        });
    }

    #[test]
    fn a_digest_known_elsewhere_grants_nothing() {
        smol::block_on(async {
            let store = store();
            let (a, b): (RepositoryName, RepositoryName) =
                ("a".parse().unwrap(), "b".parse().unwrap());
            store.link_blob(&a, &Lease::unseen(&digest(1)), 5).await.unwrap();
            assert!(store.blob_linked(&a, &digest(1)).unwrap());
            assert!(!store.blob_linked(&b, &digest(1)).unwrap());
            assert!(!store.mount_blob(&b, &a, &digest(2)).await.unwrap());
            assert_eq!(store.repository(&b).unwrap(), None);
            assert!(store.mount_blob(&a, &b, &digest(1)).await.unwrap());
            store.unlink_blob(&a, &digest(1)).await.unwrap();
            assert_eq!(store.unlink_blob(&a, &digest(1)).await, Err(StoreError::NotFound));
            assert!(store.blob_linked(&b, &digest(1)).unwrap());
        });
    }

    #[test]
    fn deleting_a_repository_leaves_its_neighbours() {
        smol::block_on(async {
            let store = store();
            for name in ["a", "a/b", "a-b"] {
                push(&store, name, 1, &["v1"]).await;
            }
            let a: RepositoryName = "a".parse().unwrap();
            let many: Vec<String> = (0..=PAGE_ROWS).map(|number| format!("t{number}")).collect();
            let many: Vec<&str> = many.iter().map(String::as_str).collect();
            push(&store, "a", 2, &many).await;
            store.delete_repository(&a).await.unwrap();
            assert_eq!(store.delete_repository(&a).await, Err(StoreError::NotFound));
            assert_eq!(store.tags(&a, None, 10).unwrap(), []);
            assert_eq!(store.manifest(&a, &digest(1)).unwrap(), None);
            for name in ["a/b", "a-b"] {
                let name = name.parse().unwrap();
                assert_eq!(store.tags(&name, None, 10).unwrap().len(), 1);
                assert!(store.manifest(&name, &digest(1)).unwrap().is_some());
            }
        });
    }

    #[test]
    fn f118_f130_a_repository_with_changes_that_wait_is_not_deleted() {
        smol::block_on(async {
            let store = connected().await;
            let app: RepositoryName = "app".parse().unwrap();
            push(&store, "app", 1, &["v1", "v2"]).await;
            store.mark_synced(&app, true).await.unwrap();
            for (number, _) in store.outbox(9).unwrap() {
                let deleted = store.delete_repository(&app).await;
                assert!(matches!(deleted, Err(StoreError::Conflict(_))), "{deleted:?}");
                assert_eq!(store.tags(&app, None, 9).unwrap().len(), 2);
                assert!(store.is_synced(&app).unwrap());
                store.outbox_delivered(number, 0).await.unwrap();
            }
            store.delete_repository(&app).await.unwrap();
            assert_eq!(store.repositories(None, 9).unwrap(), []);
        });
    }

    /// A stop in between leaves less than the parent has, which a child must not take for all.
    #[test]
    fn f118_a_repository_that_is_being_deleted_is_not_known_as_whole() {
        smol::block_on(async {
            let store = store();
            let app: RepositoryName = "app".parse().unwrap();
            push(&store, "app", 1, &["v1"]).await;
            store.mark_synced(&app, true).await.unwrap();
            let before = store.head();
            store.delete_repository(&app).await.unwrap();
            let records = store.records_after(before, usize::MAX).await.unwrap().records;
            let (_, first) = &records[0];
            let keys: Vec<&[u8]> = first.iter().map(|(key, _)| key.as_slice()).collect();
            assert_eq!(keys, [synced_key(&app)]);
        });
    }

    /// Symptom: a device served 500 of 1,500 signatures for good, and said that all was well.
    /// Cause: it was stopped between two records of a removal, and granted the repository again:
    /// the manifests were there, and their rows as referrers were not.
    #[test]
    fn f206_a_removal_that_is_not_carried_through_is_told_until_it_is() {
        smol::block_on(async {
            let (store, app): (_, RepositoryName) = (store(), "app".parse().unwrap());
            push(&store, "app", 2, &["v1"]).await;
            let before = store.head();
            store.delete_repository(&app).await.unwrap();
            let records = store.records_after(before, usize::MAX).await.unwrap().records;
            let mark = |(_, changes): &(u64, Vec<Change>)| {
                let found = changes.iter().find(|(key, _)| *key == removing_key(&app));
                found.map(|(_, row)| row.is_some())
            };
            let mut marks: Vec<bool> = records.iter().filter_map(mark).collect();
            assert_eq!(marks.pop(), Some(false));
            assert_eq!(records.last().and_then(mark), Some(false), "all else is gone then");
            assert!(marks.len() > 3 && !marks.contains(&false), "each record has it");
            assert_eq!(purged_in(&removing_key(&app)), Some(app.clone()));
            assert_eq!(purged_in(&synced_key(&app)), None);
            assert!(store.half_removed().await.unwrap().is_empty());
            let key = removing_key(&app);
            store.commit(move |txn| txn.put(key, &Fact::Mark)).await.unwrap();
            let half: Vec<_> = store.half_removed().await.unwrap().into_iter().collect();
            assert_eq!(half, std::slice::from_ref(&app));
        });
    }
}

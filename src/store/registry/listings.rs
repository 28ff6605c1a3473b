//! What is in a repository, as a whole.

use crate::store::index::KeyValue;
use crate::store::rows::derived::{Count, named_in};
use crate::store::rows::manifest::ManifestRow;
use crate::store::rows::tag::TagRow;
use crate::store::rows::{self, Kind, digest_at, name_at, prefix};
use crate::store::{Store, StoreError};
use crate::types::{Digest, RepositoryName, Tag, UnixSeconds};

/// How much is in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// When it was first pushed to, or synced.
    pub created: UnixSeconds,
    /// When a manifest was last pushed to it, or a tag moved, of those that are there.
    pub changed: UnixSeconds,
    /// How many manifests.
    pub manifests: u64,
    /// How many tags.
    pub tags: u64,
}

impl Store {
    /// How much is in a repository; `NotFound` when that is nothing. Reads all of it, page by page.
    pub async fn summary(&self, repository: &RepositoryName) -> Result<Summary, StoreError> {
        let created = self.repository(repository)?.ok_or(StoreError::NotFound)?.created;
        let mut summary = Summary { created, changed: created, manifests: 0, tags: 0 };
        self.each_manifest_time(repository, |_, pushed| {
            summary.manifests += 1;
            summary.changed = summary.changed.max(pushed);
        })
        .await?;
        self.each_tag(repository, |_, row| {
            summary.tags += 1;
            summary.changed = summary.changed.max(row.updated);
        })
        .await?;
        if summary.manifests == 0 {
            return Err(StoreError::NotFound);
        }
        Ok(summary)
    }

    /// Calls `each` for every tag of a repository, in lexical order, page by page.
    pub async fn each_tag(
        &self,
        repository: &RepositoryName,
        mut each: impl FnMut(Tag, TagRow) + Send,
    ) -> Result<(), StoreError> {
        let start = prefix(Kind::Tag, &[repository.as_str().as_bytes()]);
        let mut pages = self.pages::<TagRow>(start.clone());
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, row) in page {
                each(name_at(&key, start.len())?, row);
            }
        }
    }

    /// Calls `each` for every manifest of a repository with the time when it was pushed, in the
    /// order of their digests, page by page.
    pub async fn each_manifest_time(
        &self,
        repository: &RepositoryName,
        mut each: impl FnMut(Digest, UnixSeconds) + Send,
    ) -> Result<(), StoreError> {
        let start = prefix(Kind::Manifest, &[repository.as_str().as_bytes()]);
        let (name_at, mut pages) = (start.len(), self.pages::<ManifestRow>(start));
        loop {
            let times = move |_: &Store, page: Vec<KeyValue>| {
                let time = |(key, row): KeyValue| {
                    let row: ManifestRow = rows::decode(&row)?;
                    Ok((digest_at(&key, name_at)?, row.pushed))
                };
                page.into_iter().map(time).collect::<Result<Vec<_>, StoreError>>()
            };
            let page = pages.work(times).await?;
            if page.is_empty() {
                return Ok(());
            }
            page.into_iter().for_each(|(digest, pushed)| each(digest, pushed));
        }
    }

    /// The tags that name a manifest, in lexical order, at most `limit`.
    pub fn tags_of(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        limit: usize,
    ) -> Result<Vec<Tag>, StoreError> {
        let start = named_in(repository, digest);
        let rows = self.scan::<Count>(&start, None, limit)?;
        rows.iter().map(|(key, _)| name_at(key, start.len())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::registry::manifests::testing::{digest, push, store};

    #[test]
    fn f185_what_is_in_a_repository_is_counted_and_named() {
        smol::block_on(async {
            let store = store();
            let app: RepositoryName = "app".parse().unwrap();
            assert_eq!(store.summary(&app).await, Err(StoreError::NotFound));
            push(&store, "app", 1, &["v2", "v1"]).await;
            push(&store, "app", 2, &["latest"]).await;
            push(&store, "apple", 3, &["v1"]).await;
            let summary = store.summary(&app).await.unwrap();
            assert_eq!((summary.manifests, summary.tags), (2, 3));
            assert!(summary.created <= summary.changed);
            let names = |number, limit| {
                let tags = store.tags_of(&app, &digest(number), limit).unwrap();
                tags.iter().map(Tag::to_string).collect::<Vec<_>>()
            };
            assert_eq!(names(1, 9), ["v1", "v2"]);
            assert_eq!(names(1, 1), ["v1"]);
            assert_eq!(names(2, 9), ["latest"]);
            assert!(names(3, 9).is_empty(), "it is in another repository");
        });
    }
}

//! What is in a repository, as a whole.

use crate::store::rows::derived::{Count, named_in};
use crate::store::rows::manifest::ManifestRow;
use crate::store::rows::tag::TagRow;
use crate::store::rows::{self, Kind, name_at, prefix};
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
    /// How much is in a repository; `NotFound` when there is none. Reads all of it. Blocks.
    pub fn summary(&self, repository: &RepositoryName) -> Result<Summary, StoreError> {
        let created = self.repository(repository)?.ok_or(StoreError::NotFound)?.created;
        let mut summary = Summary { created, changed: created, manifests: 0, tags: 0 };
        self.each_row(&prefix(Kind::Manifest, &[repository.as_str().as_bytes()]), |_, row| {
            summary.manifests += 1;
            summary.changed = summary.changed.max(rows::decode::<ManifestRow>(row)?.pushed);
            Ok(())
        })?;
        self.each_tag(repository, |_, row| {
            summary.tags += 1;
            summary.changed = summary.changed.max(row.updated);
        })?;
        Ok(summary)
    }

    /// Calls `each` for every tag of a repository, in lexical order. Blocks.
    pub fn each_tag(
        &self,
        repository: &RepositoryName,
        mut each: impl FnMut(Tag, TagRow),
    ) -> Result<(), StoreError> {
        let start = prefix(Kind::Tag, &[repository.as_str().as_bytes()]);
        self.each_row(&start, |key, row| {
            each(name_at(&key, start.len())?, rows::decode(row)?);
            Ok(())
        })
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
            assert_eq!(store.summary(&app), Err(StoreError::NotFound));
            push(&store, "app", 1, &["v2", "v1"]).await;
            push(&store, "app", 2, &["latest"]).await;
            push(&store, "apple", 3, &["v1"]).await;
            let summary = store.summary(&app).unwrap();
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

//! Repositories with something that the parent does not have, as far as is known: it may be nowhere
//! else.

use std::collections::BTreeSet;

use super::waiting;
use crate::store::rows::derived::Count;
use crate::store::rows::node::{Fact, offer_key, withheld_manifests, withheld_tags};
use crate::store::rows::{Kind, Stored, name_at, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::RepositoryName;

/// Behind every key that begins with the name of a repository and a zero byte.
const BEHIND: [u8; 2] = [0, 0xff];

impl Store {
    /// Repositories with changes that the parent has not taken, or with content that it may have
    /// lost, by name; at most `limit`.
    pub fn unsent(&self, limit: usize) -> Result<Vec<RepositoryName>, StoreError> {
        let mut names = self.first_parts::<Count>(&prefix(Kind::Waiting, &[]), limit)?;
        for mark in [&b"offer"[..], b"withheld-tag", b"withheld-manifest"] {
            names.extend(self.first_parts::<Fact>(&prefix(Kind::Node, &[mark]), limit)?);
        }
        Ok(names.into_iter().take(limit).collect())
    }

    /// The names with which keys go on that start so, each once, at most `limit`.
    fn first_parts<R: Stored>(
        &self,
        start: &[u8],
        limit: usize,
    ) -> Result<BTreeSet<RepositoryName>, StoreError> {
        let (mut names, mut after) = (BTreeSet::new(), None::<Vec<u8>>);
        while names.len() < limit {
            let rows = self.scan::<R>(start, after.as_deref(), 1)?;
            let Some((key, _)) = rows.first() else {
                break;
            };
            let end = key[start.len()..].iter().position(|byte| *byte == 0);
            let name = &key[..end.map_or(key.len(), |end| start.len() + end)];
            names.insert(name_at(name, start.len())?);
            after = Some([name, &BEHIND].concat());
        }
        Ok(names)
    }
}

/// Whether a repository is one of these.
pub(in crate::store) fn is_unsent(
    txn: &Txn<'_>,
    repository: &RepositoryName,
) -> Result<bool, StoreError> {
    if waiting::any_waits(txn, repository)? || txn.get::<Fact>(&offer_key(repository))?.is_some() {
        return Ok(true);
    }
    for start in [withheld_tags(repository), withheld_manifests(repository)] {
        if !txn.page::<Fact>(&start, 1)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::super::node::testing::connected;
    use super::super::offers::Withheld;
    use super::*;
    use crate::store::registry::manifests::testing::{digest, push};
    use crate::types::Cursor;

    /// What is unsent, and whether each of these repositories is.
    fn unsent(store: &Store) -> Vec<String> {
        let names: Vec<_> = store.unsent(99).unwrap().iter().map(ToString::to_string).collect();
        for name in ["a", "a-b", "a/b", "b", "c"] {
            let repository = name.parse().unwrap();
            let is_unsent =
                store.look_up(|index| is_unsent(&Txn::new(index), &repository)).unwrap();
            assert_eq!(is_unsent, names.iter().any(|unsent| unsent == name), "{name}");
        }
        names
    }

    #[test]
    fn f118_f130_what_only_this_node_has_is_known_by_its_repository() {
        smol::block_on(async {
            let store = connected().await;
            for name in ["a/b", "a", "a-b", "b"] {
                push(&store, name, 1, &["v1", "v2"]).await;
            }
            assert_eq!(unsent(&store), ["a", "a-b", "a/b", "b"]);
            assert_eq!(store.unsent(2).unwrap().len(), 2);
            for (number, entry) in store.outbox(99).unwrap() {
                if entry.repository.as_str() != "a-b" {
                    store.outbox_delivered(number, 0).await.unwrap();
                } else {
                    store.outbox_refused(number, "no".to_owned()).await.unwrap();
                }
            }
            assert_eq!(unsent(&store), ["a-b"]);
            let b: RepositoryName = "b".parse().unwrap();
            let position = Cursor { epoch: 1, sequence: 1 };
            store.meet_parent(position, None, &[b.clone()].into()).await.unwrap();
            assert_eq!(unsent(&store), ["a-b", "b"]);
            let tags = ["v1".parse().unwrap()].into();
            let some = Withheld { tags, manifests: [digest(1)].into() };
            store.withhold(&"a".parse().unwrap(), &some).await.unwrap();
            store.end_offer(&b).await.unwrap();
            assert_eq!(unsent(&store), ["a", "a-b"]);
        });
    }
}

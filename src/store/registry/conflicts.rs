//! Conflicts over tags: the parent had moved what was changed here too. The parent's content keeps
//! the name, and ours goes under another one.

use super::tags::{self, Precondition};
use crate::store::replica::heard;
use crate::store::replica::offers;
use crate::store::replica::outbox::{Origin, OutboxChange, OutboxEntry, finish};
use crate::store::replica::waiting;
use crate::store::rows::derived::About;
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::node::Fact;
use crate::store::rows::outbox::entry_key;
use crate::store::rows::tag::{TagRow, conflict_key, tag_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::limits::TAG_MAX;
use crate::types::{ConnectedRegistryName, Digest, RepositoryName, Tag, UnixSeconds};

impl Store {
    /// Conflict tags that nobody has dealt with: they still exist. Each with the time at which the
    /// conflict was found; those of the first `limit` notes.
    pub fn conflicts(
        &self,
        limit: usize,
    ) -> Result<Vec<(RepositoryName, Tag, UnixSeconds)>, StoreError> {
        let start = prefix(Kind::Node, &[b"conflict"]);
        let mut conflicts = Vec::new();
        for (row_key, fact) in self.scan::<Fact>(&start, None, limit)? {
            let rest = row_key.get(start.len()..).and_then(|rest| std::str::from_utf8(rest).ok());
            let names = rest.and_then(|rest| rest.split_once('\0'));
            let names = names.and_then(|(r, t)| Some((r.parse().ok()?, t.parse().ok()?)));
            let (Some((repository, tag)), Fact::At(at)) = (names, fact) else {
                continue;
            };
            if self.get::<TagRow>(&tag_key(&repository, &tag))?.is_some() {
                conflicts.push((repository, tag, at));
            }
        }
        Ok(conflicts)
    }

    /// Settles a change of a tag that the parent had moved meanwhile, in one record: the parent's
    /// content keeps the name (`parents`, `None` when the parent removed it; its content must be
    /// here), and ours stays under [`conflict_tag`], an ordinary tag that goes up in turn. While
    /// later changes of the tag wait, the name is left to them. Returns the conflict tag;
    /// `NotFound` when the parent's content was deleted here meanwhile.
    pub async fn outbox_conflict(
        &self,
        number: u64,
        parents: Option<Digest>,
    ) -> Result<Option<Tag>, StoreError> {
        let now = self.sys().clock.wall_or_floor();
        self.commit(move |txn| {
            let kept = settle(txn, number, parents.as_ref(), now)?;
            heard::note_taken(txn)?;
            Ok(kept)
        })
        .await
    }
}

/// Notes a conflict tag, in the command that makes it.
pub(in crate::store) fn note_conflict(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    tag: &Tag,
    now: UnixSeconds,
) -> Result<(), StoreError> {
    txn.put_changed(conflict_key(repository, tag), &Fact::At(now))
}

fn settle(
    txn: &mut Txn<'_>,
    number: u64,
    parents: Option<&Digest>,
    now: UnixSeconds,
) -> Result<Option<Tag>, StoreError> {
    let entry = txn.get::<OutboxEntry>(&entry_key(number))?.ok_or(StoreError::NotFound)?;
    let OutboxChange::Tag { tag, digest, .. } = &entry.change else {
        return Err(StoreError::Invalid("only tags can conflict".to_owned()));
    };
    let repository = &entry.repository;
    finish(txn, number)?;
    let mut kept = None;
    let here = |digest: &Digest| txn.get::<ManifestRow>(&manifest_key(repository, digest));
    let ours = digest.as_ref().map(|ours| Ok::<_, StoreError>((ours, here(ours)?)));
    // What was deleted since is not to be kept.
    if let Some((ours, Some(_))) = ours.transpose()? {
        kept = keep(txn, &entry, tag, ours, now)?;
    }
    if waiting::waits(txn, repository, About::Tag(tag))? {
        return Ok(kept);
    }
    match parents {
        Some(theirs) => {
            if txn.get::<ManifestRow>(&manifest_key(repository, theirs))?.is_none() {
                return Err(StoreError::NotFound);
            }
            let any = Precondition::None;
            tags::switch(txn, repository, tag, theirs, &any, &Origin::Parent, now)?;
        }
        None if txn.get::<TagRow>(&tag_key(repository, tag))?.is_some() => {
            tags::remove(txn, repository, tag)?;
        }
        None => {}
    }
    Ok(kept)
}

/// Keeps what a change lets its tag name, which goes to other content, under a conflict tag; what
/// was only offered was pushed by nobody since the parent had it, and goes up by its digest.
fn keep(
    txn: &mut Txn<'_>,
    entry: &OutboxEntry,
    tag: &Tag,
    ours: &Digest,
    now: UnixSeconds,
) -> Result<Option<Tag>, StoreError> {
    let repository = &entry.repository;
    if entry.offered.is_offer() {
        offers::offer_manifest(txn, repository, ours.clone())?;
        return Ok(None);
    }
    let name = conflict_tag(tag, &entry.id.origin, ours)?;
    let any = Precondition::None;
    tags::switch(txn, repository, &name, ours, &any, &Origin::Client, now)?;
    if let Some(number) = waiting::last_about(txn, repository, About::Tag(&name))?
        && let Some(mut ours) = txn.get::<OutboxEntry>(&entry_key(number))?
    {
        ours.stands_in(entry.clone());
        txn.put(entry_key(number), &ours)?;
    }
    note_conflict(txn, repository, &name, now)?;
    Ok(Some(name))
}

/// Where a node keeps its own content of a tag that its parent had moved meanwhile:
/// `<tag, truncated>.conflict-<origin>-<12 hex digits>`, and if the tag is such a one already, the
/// same with `-2`, `-3` and so on: another one each time, however long it is.
pub fn conflict_tag(
    tag: &Tag,
    origin: &ConnectedRegistryName,
    digest: &Digest,
) -> Result<Tag, StoreError> {
    let hex = digest.hex();
    let mark = format!(".conflict-{origin}-{}", hex.get(..12).unwrap_or(&hex));
    let (name, suffix) = match before_mark(tag.as_str(), &mark) {
        Some((name, count)) => (name, format!("{mark}-{}", count.saturating_add(1))),
        None => (tag.as_str(), mark),
    };
    // The suffix has at most 84 characters, and a tag is ASCII.
    let kept = name.len().min(TAG_MAX - suffix.len());
    let text = format!("{}{suffix}", &name[..kept]);
    text.parse().map_err(|_| StoreError::Invalid(format!("'{text}' is no tag")))
}

/// What a conflict tag has before its mark, and how many conflicts it has been through.
fn before_mark<'a>(tag: &'a str, mark: &str) -> Option<(&'a str, u32)> {
    let (name, count) = tag.rsplit_once(mark)?;
    match count.strip_prefix('-') {
        Some(count) => Some((name, count.parse().ok()?)),
        None => count.is_empty().then_some((name, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::registry::manifests::testing::{digest, push};
    use crate::store::replica::node::testing::connected;

    #[test]
    fn a_conflict_keeps_both_contents() {
        smol::block_on(async {
            let store = connected().await;
            let (app, v1): (RepositoryName, Tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
            push(&store, "app", 9, &[]).await;
            push(&store, "app", 1, &["v1"]).await;
            push(&store, "app", 2, &["v1"]).await;
            let tags: Vec<u64> = store
                .outbox(100)
                .unwrap()
                .into_iter()
                .filter(|(_, entry)| entry.brings() != Some(&digest(9)))
                .map(|(number, _)| number)
                .collect();
            // A later change of the tag waits: the name stays with it.
            let kept = store.outbox_conflict(tags[0], Some(digest(9))).await.unwrap().unwrap();
            assert_eq!(kept.as_str(), "v1.conflict-dock01-010101010101");
            assert_eq!(store.tag(&app, &kept).unwrap(), Some(digest(1)));
            assert_eq!(store.tag(&app, &v1).unwrap(), Some(digest(2)));
            // The rest of the chain becomes a conflict tag too, and the parent's content shows.
            let kept = store.outbox_conflict(tags[1], Some(digest(9))).await.unwrap().unwrap();
            assert_eq!(store.tag(&app, &kept).unwrap(), Some(digest(2)));
            assert_eq!(store.tag(&app, &v1).unwrap(), Some(digest(9)));
            assert!(!store.outbox_holds_tag(&app, &v1).unwrap());
            assert!(store.outbox_holds_tag(&app, &kept).unwrap());
            assert_eq!(store.conflicts(99).unwrap().len(), 2);
            let any = Precondition::None;
            store.delete_tag(&app, &kept, any, &Origin::Client).await.unwrap();
            assert_eq!(store.conflicts(99).unwrap().len(), 1);
        });
    }

    /// However the tag goes: by itself, with its manifest, or with its repository.
    #[test]
    fn f130_the_note_of_a_conflict_goes_with_its_tag() {
        smol::block_on(async {
            let store = connected().await;
            let app: RepositoryName = "app".parse().unwrap();
            let notes = || {
                let start = prefix(Kind::Node, &[b"conflict"]);
                store.scan::<Fact>(&start, None, usize::MAX).unwrap().len()
            };
            for number in 1..=4 {
                push(&store, "app", number, &["v1"]).await;
                let moved = store.outbox(100).unwrap().pop().unwrap().0;
                store.outbox_conflict(moved, None).await.unwrap().unwrap();
            }
            assert_eq!((notes(), store.conflicts(99).unwrap().len()), (4, 4));
            let (_, tag, _) = store.conflicts(99).unwrap().remove(0);
            let (client, any) = (Origin::Client, Precondition::None);
            let named = store.delete_tag(&app, &tag, any, &client).await.unwrap();
            assert_eq!(notes(), 3);
            let next = [1, 2, 3, 4].map(digest).into_iter().find(|one| Some(one) != named.as_ref());
            store.delete_manifest(&app, &next.unwrap(), &client).await.unwrap();
            assert_eq!(notes(), 2);
            for (number, _) in store.outbox(100).unwrap() {
                store.outbox_delivered(number, 0).await.unwrap();
            }
            store.delete_repository(&app).await.unwrap();
            assert_eq!(notes(), 0);
        });
    }

    #[test]
    fn a_conflict_with_a_removal_keeps_the_removal() {
        smol::block_on(async {
            let store = connected().await;
            let (app, v1): (RepositoryName, Tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
            push(&store, "app", 1, &["v1"]).await;
            let (number, _) = store.outbox(1).unwrap().remove(0);
            let kept = store.outbox_conflict(number, None).await.unwrap().unwrap();
            assert_eq!(store.tag(&app, &v1).unwrap(), None);
            assert_eq!(store.tag(&app, &kept).unwrap(), Some(digest(1)));
        });
    }

    #[test]
    fn conflict_tags_fit() {
        let tag: Tag = "t".repeat(128).parse().unwrap();
        let origin = "a".repeat(50).parse().unwrap();
        let name = conflict_tag(&tag, &origin, &digest(1)).unwrap();
        assert_eq!(name.as_str().len(), 128);
        assert!(name.as_str().ends_with("-010101010101"));
    }

    #[test]
    fn f130_no_conflict_tag_is_its_own() {
        let origin = "a".repeat(50).parse().unwrap();
        for len in [1, 60, 128] {
            let mut tags: Vec<Tag> = vec!["t".repeat(len).parse().unwrap()];
            for _ in 0..12 {
                let last = &tags[tags.len() - 1];
                let next = conflict_tag(last, &origin, &digest(1)).unwrap();
                assert!(!tags.contains(&next), "{next}");
                tags.push(next);
            }
            assert!(tags[12].as_str().ends_with("-010101010101-12"));
            let other = conflict_tag(&tags[12], &origin, &digest(2)).unwrap();
            assert!(other.as_str().ends_with("-020202020202"));
        }
    }
}

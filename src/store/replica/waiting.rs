//! Which changes wait to go up: answers about a tag, a manifest or a repository, of few rows each.

use std::collections::BTreeSet;

use crate::store::rows::derived::{
    About, Count, brought_in, named_by, waiting_about, waiting_in, waiting_number,
};
use crate::store::rows::digest_at;
use crate::store::rows::outbox::{OutboxChange, OutboxEntry, entry_key};
use crate::store::{StoreError, Txn};
use crate::types::{Digest, RepositoryName, Tag};

/// Indexes above a manifest in which is looked for one that is on its way up. Over it: the manifest
/// counts as brought up with one of them, and stays here as long as any change waits.
const ABOVE_MAX: usize = 256;

/// Whether any change of a repository waits.
pub(in crate::store) fn any_waits(
    txn: &Txn<'_>,
    repository: &RepositoryName,
) -> Result<bool, StoreError> {
    Ok(!txn.page::<Count>(&waiting_in(repository), 1)?.is_empty())
}

/// Whether changes of a tag or manifest wait.
pub(in crate::store) fn waits(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    about: About<'_>,
) -> Result<bool, StoreError> {
    Ok(!txn.page::<Count>(&waiting_about(repository, about), 1)?.is_empty())
}

/// The first change of a tag that waits behind a number.
pub(super) fn next_of_tag(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    tag: &Tag,
    number: Option<u64>,
) -> Result<Option<(u64, OutboxEntry)>, StoreError> {
    let start = waiting_about(repository, About::Tag(tag));
    let after = number.map(|number| [&start[..], &number.to_be_bytes()].concat());
    let Some((key, _)) = txn.page_after::<Count>(&start, after.as_deref(), 1)?.pop() else {
        return Ok(None);
    };
    let number = waiting_number(&key)?;
    Ok(txn.get::<OutboxEntry>(&entry_key(number))?.map(|entry| (number, entry)))
}

/// The oldest change of a tag that waits.
pub(in crate::store) fn oldest_of_tag(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    tag: &Tag,
) -> Result<Option<(u64, OutboxEntry)>, StoreError> {
    next_of_tag(txn, repository, tag, None)
}

/// Changes of a tag that wait behind a number, oldest first, at most `limit`.
pub(in crate::store) fn of_tag_behind(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    tag: &Tag,
    number: u64,
    limit: usize,
) -> Result<Vec<(u64, OutboxEntry)>, StoreError> {
    let start = waiting_about(repository, About::Tag(tag));
    let after = [&start[..], &number.to_be_bytes()].concat();
    let mut waiting = Vec::new();
    for (key, _) in txn.page_after::<Count>(&start, Some(&after), limit)? {
        let number = waiting_number(&key)?;
        if let Some(entry) = txn.get::<OutboxEntry>(&entry_key(number))? {
            waiting.push((number, entry));
        }
    }
    Ok(waiting)
}

/// The number of the last change of a tag or manifest that waits.
pub(in crate::store) fn last_about(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    about: About<'_>,
) -> Result<Option<u64>, StoreError> {
    let start = waiting_about(repository, about);
    let behind = |number: Option<u64>| -> Result<Option<u64>, StoreError> {
        let after = number.map(|number| [&start[..], &number.to_be_bytes()].concat());
        let row = txn.page_after::<Count>(&start, after.as_deref(), 1)?.pop();
        row.map(|(key, _)| waiting_number(&key)).transpose()
    };
    let Some(mut last) = behind(None)? else { return Ok(None) };
    // Very many may wait, and this stands in commands: a step that finds one is followed by one
    // twice as long, a step that finds none by half of it.
    let mut step: u64 = 1;
    loop {
        match behind(Some(last.saturating_add(step - 1)))? {
            Some(found) => (last, step) = (found, step.saturating_mul(2)),
            None if step == 1 => return Ok(Some(last)),
            None => step /= 2,
        }
    }
}

/// The number of a change that waits and does what this one would do: brings a manifest by its
/// digest. What was added before a removal is gone then.
pub(super) fn waits_already(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    change: &OutboxChange,
) -> Result<Option<u64>, StoreError> {
    let OutboxChange::ManifestAdded { digest } = change else {
        return Ok(None);
    };
    let last = |about| last_about(txn, repository, about);
    let (added, deleted) = (last(About::Added(digest))?, last(About::Deleted(digest))?);
    Ok(added.filter(|_| added > deleted))
}

/// Whether a change that waits brings this manifest up by itself, with a tag or without.
pub(in crate::store) fn brings_itself(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<bool, StoreError> {
    Ok(!txn.page::<Count>(&brought_in(repository, digest), 1)?.is_empty())
}

/// Whether a change that waits brings this manifest up, by itself or with an index that needs it.
pub(in crate::store) fn brings(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<bool, StoreError> {
    if !any_waits(txn, repository)? {
        return Ok(false);
    }
    let (mut seen, mut next, mut left) = (BTreeSet::new(), vec![digest.clone()], ABOVE_MAX);
    while let Some(digest) = next.pop() {
        if brings_itself(txn, repository, &digest)? {
            return Ok(true);
        }
        let start = named_by(repository, &digest);
        let above = txn.page::<Count>(&start, left + 1)?;
        if above.len() > left {
            return Ok(true);
        }
        left -= above.len();
        for (key, _) in above {
            let above = digest_at(&key, start.len())?;
            if seen.insert(above.clone()) {
                next.push(above);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::super::node::testing::connected;
    use super::super::outbox::Origin;
    use super::*;
    use crate::store::registry::manifests::testing::{digest, push};

    #[test]
    fn f209_the_last_of_very_many_changes_is_found_without_reading_all() {
        smol::block_on(async {
            let store = connected().await;
            let app: RepositoryName = "app".parse().unwrap();
            let one = digest(1);
            let last = |about| store.look_up(|index| last_about(&Txn::new(index), &app, about));
            let mut pushed = None;
            for round in 0..40 {
                assert_eq!(last(About::Added(&one)), Ok(pushed));
                assert_eq!(last(About::Deleted(&one)), Ok(pushed.map(|number| number + 1)));
                for _ in 0..round {
                    push(&store, "lab", 2, &["v1"]).await;
                }
                push(&store, "app", 1, &[]).await;
                pushed = store.outbox(9999).unwrap().last().map(|(number, _)| *number);
                store.delete_manifest(&app, &one, &Origin::Client).await.unwrap();
            }
        });
    }
}

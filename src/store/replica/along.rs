//! Tags that go at the parent along with a manifest whose removal it takes: changes of them begin
//! with nothing then.

use crate::store::rows::derived::{Count, waiting_number, waiting_tags};
use crate::store::rows::outbox::{OutboxChange, OutboxEntry, entry_key, remember};
use crate::store::{StoreError, Txn};
use crate::types::{Digest, RepositoryName};

/// Tags of which one record notes that they are gone at the parent.
const TAGS_AT_ONCE: usize = 256;

/// When the parent has taken the removal of a manifest, with the tags that named it there: changes
/// of some tags that begin with it, and wait, begin with nothing now, or with what an attempt left.
/// Returns behind which key there are more of them, `None` when there are none.
pub(super) fn after_removal(
    txn: &mut Txn<'_>,
    number: u64,
    after: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let entry = txn.get::<OutboxEntry>(&entry_key(number))?;
    let Some(OutboxEntry { repository, change: OutboxChange::ManifestDeleted { digest }, .. }) =
        entry
    else {
        return Ok(None);
    };
    tags_without(txn, &repository, &digest, after, true)
}

/// The parent may have deleted a manifest, with the tags that named it there, before it refused to:
/// changes that begin with it, and wait, may begin with nothing.
pub(super) fn tags_may_be_gone(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        after = tags_without(txn, repository, digest, after, false)?;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The parent, unless `certain` perhaps, has no manifest `digest` any more, nor tags that named it:
/// notes it of some tags, and returns behind which key there are more.
fn tags_without(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    mut after: Option<Vec<u8>>,
    certain: bool,
) -> Result<Option<Vec<u8>>, StoreError> {
    let start = waiting_tags(repository);
    for _ in 0..TAGS_AT_ONCE {
        // Of each tag the oldest: one that was written anew has a higher number than the removal.
        let oldest = txn.page_after::<Count>(&start, after.as_deref(), 1)?.pop();
        let Some((mut key, _)) = oldest else { return Ok(None) };
        begin_without(txn, waiting_number(&key)?, digest, certain)?;
        key.truncate(key.len() - size_of::<u64>());
        key.extend(u64::MAX.to_be_bytes());
        after = Some(key);
    }
    Ok(after)
}

fn begin_without(
    txn: &mut Txn<'_>,
    number: u64,
    digest: &Digest,
    certain: bool,
) -> Result<(), StoreError> {
    let Some(mut entry) = txn.get::<OutboxEntry>(&entry_key(number))? else {
        return Ok(());
    };
    let attempted = entry.attempted();
    let OutboxChange::Tag { base, .. } = &mut entry.change else {
        return Ok(());
    };
    let begins = base.as_ref() == Some(digest);
    if begins && certain {
        *base = None;
    } else if begins || attempted.iter().any(|state| state.as_ref() == Some(digest)) {
        remember(&mut entry.unheard, None);
    } else {
        return Ok(());
    }
    txn.put(entry_key(number), &entry)
}

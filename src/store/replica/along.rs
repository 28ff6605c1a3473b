//! Tags that go at the parent along with a manifest whose removal it takes: changes of them begin
//! with nothing then.

use super::inbox;
use crate::store::rows::derived::{Count, waiting_number, waiting_tags};
use crate::store::rows::node::{Fact, heard_key, removal_key};
use crate::store::rows::outbox::{OutboxChange, OutboxEntry, entry_key, remember};
use crate::store::{StoreError, Txn};
use crate::types::{Digest, RepositoryName};

/// Tags of which one record notes that they are gone at the parent.
const TAGS_AT_ONCE: usize = 256;

/// When the parent has taken the removal of a manifest, with the tags that named it there: changes
/// of some tags that begin with it, and wait, begin with nothing now, or with what an attempt left;
/// others that set a tag may.
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

/// The parent may have made this removal of a manifest, and taken the tags along that named it
/// there, before it refused it: changes that begin with it, and wait, may begin with nothing.
/// Returns as [`after_removal`] does.
pub(super) fn tags_may_be_gone(
    txn: &mut Txn<'_>,
    removal: &OutboxEntry,
    after: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let OutboxChange::ManifestDeleted { digest } = &removal.change else { return Ok(None) };
    tags_without(txn, &removal.repository, digest, after, false)
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
    let (attempted, is_offer) = (entry.attempted(), entry.offered.is_offer());
    let OutboxChange::Tag { base, digest: sets, .. } = &mut entry.change else {
        return Ok(());
    };
    let begins = base.as_ref() == Some(digest);
    // The parent may have let the tag name what went.
    let may_have_moved = certain && sets.is_some() && !is_offer;
    let may_name_it = attempted.iter().any(|state| state.as_ref() == Some(digest));
    if begins && certain {
        *base = None;
    } else if begins || may_have_moved || may_name_it {
        remember(&mut entry.unheard, None);
    } else {
        return Ok(());
    }
    txn.put_changed(entry_key(number), &entry)
}

/// Notes where the parent's feed is when it has taken the removal of a manifest: this node hears
/// from the feed which tags went with it.
pub(super) fn note_removal(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
) -> Result<(), StoreError> {
    match txn.get::<Fact>(&heard_key())? {
        Some(at) => txn.put_changed(removal_key(repository), &at),
        None => Ok(()),
    }
}

/// Whether a tag of a repository may have gone at the parent with a manifest that was removed here,
/// and this node has not heard of it yet.
pub(super) fn is_removal_unheard(
    txn: &mut Txn<'_>,
    repository: &RepositoryName,
) -> Result<bool, StoreError> {
    let key = removal_key(repository);
    let Some(Fact::Epoch(at)) = txn.get(&key)? else { return Ok(false) };
    let is_heard = inbox::applied(txn)?.is_some_and(|applied| applied.sequence >= at);
    if is_heard {
        txn.delete(key)?;
    }
    Ok(!is_heard)
}

//! Changes that go up later than others that were made after them: refused ones that are tried
//! again, and those whose number is used at the parent. Those of one tag are made one.

use std::collections::BTreeSet;

use super::node::ask_for_reconcile;
use super::outbox::{self, Origin, OutboxChange, OutboxEntry};
use super::refused::{RefusalState, RefusedChange};
use crate::store::rows::derived::About;
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::outbox::{entry_key, remember};
use crate::store::rows::refused::refused_key;
use crate::store::rows::tag::{TagRow, tag_key};
use crate::store::{Store, StoreError, Txn};
use crate::types::{Digest, RepositoryName};

/// Changes after which a record takes no further refusal. A refusal is renewed in one record with
/// all that waits of its tag, so a record may hold more than that.
const RENEWED_MAX: usize = 1024;

impl Store {
    /// Has these refused changes tried again, each with what waits of its tag. Returns the lowest
    /// number that is not a new one: what has it must go up before later changes of its tag.
    pub async fn outbox_renew(&self, mut numbers: Vec<u64>) -> Result<Option<u64>, StoreError> {
        let mut lowest = None;
        while !numbers.is_empty() {
            let (left, kept) = self.commit(move |txn| renew_some(txn, numbers)).await?;
            numbers = left;
            lowest = lowest.into_iter().chain(kept).min();
        }
        Ok(lowest)
    }

    /// Removes a change that the parent has taken before, or (`replaced`) another in its place,
    /// since the answer or a state of this store was lost: what the parent has now may be later,
    /// and is compared. What the parent has had itself somebody has moved since; the change of a
    /// tag behind one that it has not had begins where that did.
    pub async fn outbox_overtaken(&self, number: u64, replaced: bool) -> Result<(), StoreError> {
        let also = move |txn: &mut Txn<'_>| {
            if replaced {
                outbox::begin_before(txn, number)?;
            }
            ask_for_reconcile(txn)
        };
        self.taken(number, also).await.map(|_| ())
    }

    /// Writes a change, with those of its tag behind it, anew, as what they come to now.
    pub async fn outbox_renumber(&self, number: u64) -> Result<(), StoreError> {
        self.commit(move |txn| {
            if txn.has(&entry_key(number))? {
                renumber(txn, number)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes a change of a tag one with those behind it, when one of these, which was not made
    /// since the start, lets the tag name what it names at the parent: that one was delivered in a
    /// state of this store that is lost. `false`: none does.
    pub async fn outbox_passed(
        &self,
        number: u64,
        there: Option<Digest>,
    ) -> Result<bool, StoreError> {
        self.commit(move |txn| {
            let Some(entry) = txn.get::<OutboxEntry>(&entry_key(number))? else {
                return Ok(false);
            };
            let OutboxChange::Tag { tag, .. } = &entry.change else {
                return Ok(false);
            };
            for (other, later) in outbox::of_tag(txn, &entry.repository, tag)? {
                let OutboxChange::Tag { digest, .. } = &later.change else { continue };
                let names_that = other > number && *digest == there;
                if names_that && !outbox::is_of_this_start(txn, &later.id)? {
                    renumber(txn, number)?;
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }
}

/// The changes of the same tag that wait behind one.
fn behind(
    txn: &Txn<'_>,
    number: u64,
    entry: &OutboxEntry,
) -> Result<Vec<(u64, OutboxEntry)>, StoreError> {
    let OutboxChange::Tag { tag, .. } = &entry.change else {
        return Ok(Vec::new());
    };
    let mut chain = outbox::of_tag(txn, &entry.repository, tag)?;
    chain.retain(|(other, _)| *other > number);
    Ok(chain)
}

/// The number of a change that waits and does what this one would do: brings a manifest by its
/// digest. What was added before a removal is gone then.
fn waits_already(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    change: &OutboxChange,
) -> Result<Option<u64>, StoreError> {
    let OutboxChange::ManifestAdded { digest } = change else {
        return Ok(None);
    };
    let last = |about| outbox::last_about(txn, repository, about);
    let (added, deleted) = (last(About::Added(digest))?, last(About::Deleted(digest))?);
    Ok(added.filter(|_| added > deleted))
}

/// Renews refused changes until there are enough for one record; returns the rest, and the lowest
/// number that is not a new one.
fn renew_some(txn: &mut Txn<'_>, numbers: Vec<u64>) -> Result<(Vec<u64>, Option<u64>), StoreError> {
    let (mut renewed, mut lowest) = (0, None);
    let mut numbers = numbers.into_iter();
    while renewed < RENEWED_MAX
        && let Some(number) = numbers.next()
    {
        renewed += match keeps_number(txn, number)? {
            true => {
                lowest = lowest.into_iter().chain([number]).min();
                1
            }
            false => renumber(txn, number)?,
        };
    }
    Ok((numbers.collect(), lowest))
}

/// Has the refused removal of a manifest tried under its own name: the parent may have had it
/// before it refused it, or in a state of this store that is lost, and says so; under another one
/// it would take away what was pushed since. What a tag shall name depends on what it names.
/// `false`: it is another change, or the manifest is here again.
fn keeps_number(txn: &mut Txn<'_>, number: u64) -> Result<bool, StoreError> {
    let entry = txn.get::<OutboxEntry>(&entry_key(number))?;
    let refusal = txn.get::<RefusedChange>(&refused_key(number))?;
    let (Some(entry), Some(refusal)) = (entry, refusal) else {
        return Ok(false);
    };
    let OutboxChange::ManifestDeleted { digest } = &entry.change else {
        return Ok(false);
    };
    if txn.get::<ManifestRow>(&manifest_key(&entry.repository, digest))?.is_some() {
        return Ok(false);
    }
    let retried = RefusedChange { state: RefusalState::Retried, ..refusal };
    txn.put(refused_key(number), &retried)?;
    Ok(true)
}

/// Writes a change once more, under a new number, with those of its tag that wait behind it made
/// one, and takes the old ones out. Returns how many there were.
fn renumber(txn: &mut Txn<'_>, number: u64) -> Result<usize, StoreError> {
    let refusal = txn.get::<RefusedChange>(&refused_key(number))?;
    let head = match (txn.get::<OutboxEntry>(&entry_key(number))?, &refusal) {
        (Some(entry), _) => entry,
        // Early builds took what was refused out of the outbox.
        (None, Some(refusal)) if still_stands(txn, &refusal.entry)? => refusal.entry.clone(),
        (None, _) => {
            txn.delete(refused_key(number))?;
            return Ok(1);
        }
    };
    let behind = behind(txn, number, &head)?;
    outbox::finish(txn, number)?;
    let mut chain = vec![head];
    for (old, entry) in behind {
        outbox::finish(txn, old)?;
        chain.push(entry);
    }
    let changes = renewed(txn, &chain)?;
    let renewed = chain.len();
    write(txn, chain, changes, refusal)?;
    Ok(renewed)
}

/// Writes what changes of one tag, or a single one, come to. What the parent refused of them, the
/// first, stays known with the change that brings it. Each takes the place of those that brought
/// the same, so that these are not known as had before their content is, the last that of the rest.
fn write(
    txn: &mut Txn<'_>,
    mut chain: Vec<OutboxEntry>,
    changes: Vec<OutboxChange>,
    mut refusal: Option<RefusedChange>,
) -> Result<(), StoreError> {
    let Some(repository) = chain.first().map(|entry| entry.repository.clone()) else {
        return Ok(());
    };
    let (repository, is_single) = (&repository, chain.len() == 1);
    let refused = chain.first().and_then(OutboxEntry::brings).cloned();
    let are_offers = chain.iter().all(|entry| entry.offered.is_offer());
    // What a client had pushed is among it, or all came from the parent.
    let offered = chain.iter().map(|entry| entry.offered).max().unwrap_or_default();
    let unheard = may_be_there(txn, &chain)?;
    let last = changes.len().saturating_sub(1);
    for (place, change) in changes.into_iter().enumerate() {
        if let Some(number) = waits_already(txn, repository, &change)? {
            if let Some(mut entry) = txn.get::<OutboxEntry>(&entry_key(number))? {
                take_places(&mut chain, &mut entry, place == last);
                txn.put_changed(entry_key(number), &entry)?;
            }
            continue;
        }
        let unheard = match &change {
            OutboxChange::Tag { .. } => unheard.clone(),
            OutboxChange::ManifestAdded { .. } | OutboxChange::ManifestDeleted { .. } => Vec::new(),
        };
        let origin = &Origin::Client;
        let added = outbox::append(txn, origin, repository, change, unheard)?;
        let Some((number, mut entry)) = added else { continue };
        if are_offers {
            entry.offered = offered;
        }
        take_places(&mut chain, &mut entry, place == last);
        txn.put(entry_key(number), &entry)?;
        if (entry.brings() == refused.as_ref() || is_single)
            && let Some(known) = refusal.take()
        {
            let renewed = RefusedChange { entry, state: RefusalState::Retried, ..known };
            txn.put(refused_key(number), &renewed)?;
        }
    }
    Ok(())
}

/// Has a change take the place of those of a chain that brought the same, or of all that are left.
fn take_places(chain: &mut Vec<OutboxEntry>, entry: &mut OutboxEntry, all: bool) {
    let brings = entry.brings().cloned();
    let ours = chain.extract_if(.., |old| all || old.brings() == brings.as_ref());
    ours.for_each(|old| entry.stands_in(old));
}

/// What a tag may name at the parent when these changes of it are left out: of those that this
/// start numbered only the first may have been attempted, of the others, that came from below or
/// with a copy, each may have been delivered.
fn may_be_there(txn: &Txn<'_>, chain: &[OutboxEntry]) -> Result<Vec<Option<Digest>>, StoreError> {
    let mut states = Vec::new();
    for (place, entry) in chain.iter().enumerate() {
        if place == 0 || !outbox::is_of_this_start(txn, &entry.id)? {
            entry.attempted().into_iter().for_each(|state| remember(&mut states, state));
        }
    }
    Ok(states)
}

/// What changes that wait come to when they go up later than others that were made after them:
/// those of one tag, or a single one. The tag goes at once to where it is now. What it named in
/// between goes up without it, because clients may have pinned it, and so does what it named when
/// it was removed: whatever is refused of that holds up no tag.
fn renewed(txn: &mut Txn<'_>, chain: &[OutboxEntry]) -> Result<Vec<OutboxChange>, StoreError> {
    let Some(OutboxEntry { repository, .. }) = chain.first() else {
        return Ok(Vec::new());
    };
    let here = |digest: &Digest| {
        Ok::<_, StoreError>(txn.get::<ManifestRow>(&manifest_key(repository, digest))?.is_some())
    };
    let (tag, base, wanted) = match chain {
        [OutboxEntry { change: OutboxChange::Tag { tag, base, .. }, .. }, ..] => {
            match chain.last().and_then(OutboxEntry::brings) {
                // A row that cannot be read is no row that is gone: the tag is not to be removed.
                Some(last) if here(last)? => (tag, base, Some(last)),
                _ => (tag, base, None),
            }
        }
        [OutboxEntry { change: OutboxChange::ManifestAdded { digest }, .. }, ..] => {
            let change = OutboxChange::ManifestAdded { digest: digest.clone() };
            return Ok(if here(digest)? { vec![change] } else { Vec::new() });
        }
        [OutboxEntry { change: OutboxChange::ManifestDeleted { digest }, .. }, ..] => {
            let change = OutboxChange::ManifestDeleted { digest: digest.clone() };
            if !here(digest)? {
                return Ok(vec![change]);
            }
            // It is void, and the parent may have had it before it refused it.
            outbox::tags_may_be_gone(txn, repository, digest)?;
            return Ok(Vec::new());
        }
        [] => return Ok(Vec::new()),
    };
    let (mut changes, mut seen) = (Vec::new(), BTreeSet::new());
    for digest in chain.iter().filter_map(OutboxEntry::brings) {
        if Some(digest) != wanted && seen.insert(digest) && here(digest)? {
            changes.push(OutboxChange::ManifestAdded { digest: digest.clone() });
        }
    }
    let (base, digest) = (base.clone(), wanted.cloned());
    changes.push(OutboxChange::Tag { tag: tag.clone(), base, digest });
    Ok(changes)
}

/// Whether a change is still what this node shows.
fn still_stands(txn: &Txn<'_>, entry: &OutboxEntry) -> Result<bool, StoreError> {
    let repository = &entry.repository;
    Ok(match &entry.change {
        OutboxChange::Tag { tag, digest, .. } => {
            let now = txn.get::<TagRow>(&tag_key(repository, tag))?.map(|row| row.digest);
            now.is_some() && now == *digest
        }
        OutboxChange::ManifestAdded { digest } => {
            txn.get::<ManifestRow>(&manifest_key(repository, digest))?.is_some()
        }
        OutboxChange::ManifestDeleted { .. } => false,
    })
}

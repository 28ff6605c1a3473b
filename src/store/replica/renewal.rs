//! Changes that go up later than others that were made after them: refused ones that are tried
//! again, and those whose number is used at the parent. Those of one tag are made one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::node::ask_for_reconcile;
use super::outbox::{self, OutboxChange, OutboxEntry};
use super::own::own_name;
use super::refused::{RefusalState, RefusedChange};
use super::{along, waiting};
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::outbox::{entry_key, remember};
use crate::store::rows::refused::refused_key;
use crate::store::rows::tag::{TagRow, tag_key};
use crate::store::{Store, StoreError, Txn};
use crate::types::{ConnectedRegistryName, Digest, Offered, RepositoryName};

/// Changes after which a record takes no further refusal. A refusal is renewed in one record with
/// what waits of its tag, so a record may hold [`CHAIN_MAX`] more.
const RENEWED_MAX: usize = 256;

/// Changes of a tag that are made one with the one before them in one record. Over it: those in the
/// middle leave the tag's chain before, so many in each record.
const CHAIN_MAX: usize = 64;

impl Store {
    /// Has these refused changes tried again, each with what waits of its tag.
    pub async fn outbox_renew(&self, numbers: Vec<u64>) -> Result<(), StoreError> {
        let (mut numbers, mut after) = (VecDeque::from(numbers), None);
        while !numbers.is_empty() {
            (numbers, after) = self.commit(move |txn| renew_some(txn, numbers, after)).await?;
        }
        Ok(())
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
        let mut after: Option<Vec<u8>> = None;
        loop {
            let step = move |txn: &mut Txn<'_>| match txn.has(&entry_key(number))? {
                true => renumber(txn, number, after),
                false => Ok(Renumbered::One(0)),
            };
            match self.commit(step).await? {
                Renumbered::One(_) => return Ok(()),
                Renumbered::Shortened => after = None,
                Renumbered::NotedUntil(key) => after = Some(key),
            }
        }
    }

    /// Makes a change of a tag one with those behind it, when one of these, which was not made
    /// since the start, lets the tag name what it names at the parent: that one was delivered in a
    /// state of this store that is lost. `false`: none does.
    pub async fn outbox_passed(
        &self,
        number: u64,
        there: Option<Digest>,
    ) -> Result<bool, StoreError> {
        let passed = self.was_passed(number, there).await?;
        if passed {
            self.outbox_renumber(number).await?;
        }
        Ok(passed)
    }

    async fn was_passed(&self, number: u64, there: Option<Digest>) -> Result<bool, StoreError> {
        let mut after = number;
        loop {
            let there = there.clone();
            match self.commit(move |txn| passed(txn, number, after, &there)).await? {
                Passed::Yes => return Ok(true),
                Passed::NotUntil(last) => after = last,
                Passed::No => return Ok(false),
            }
        }
    }
}

/// Whether a change of a tag behind another one lets it name what it names at the parent.
enum Passed {
    Yes,
    /// None up to this one does; there may be more.
    NotUntil(u64),
    No,
}

/// Looks at some changes of a tag behind `after` for one that lets the tag name `there` and was not
/// made since the start.
fn passed(
    txn: &Txn<'_>,
    number: u64,
    after: u64,
    there: &Option<Digest>,
) -> Result<Passed, StoreError> {
    let Some(entry) = txn.get::<OutboxEntry>(&entry_key(number))? else { return Ok(Passed::No) };
    let own = own_name(txn)?;
    let page = behind(txn, after, &entry, CHAIN_MAX)?;
    for (_, later) in &page {
        let OutboxChange::Tag { digest, .. } = &later.change else { continue };
        if digest == there && !outbox::is_of_this_start(txn, own.as_ref(), &later.id) {
            return Ok(Passed::Yes);
        }
    }
    Ok(page.last().map_or(Passed::No, |(last, _)| Passed::NotUntil(*last)))
}

/// The first changes of the same tag that wait behind one, at most `limit`.
fn behind(
    txn: &Txn<'_>,
    number: u64,
    entry: &OutboxEntry,
    limit: usize,
) -> Result<Vec<(u64, OutboxEntry)>, StoreError> {
    match &entry.change {
        OutboxChange::Tag { tag, .. } => {
            waiting::of_tag_behind(txn, &entry.repository, tag, number, limit)
        }
        OutboxChange::ManifestAdded { .. } | OutboxChange::ManifestDeleted { .. } => Ok(Vec::new()),
    }
}

/// Renews refused changes until there are enough for one record; returns the rest, and behind which
/// key there are more tags for the first of them.
fn renew_some(
    txn: &mut Txn<'_>,
    mut numbers: VecDeque<u64>,
    mut after: Option<Vec<u8>>,
) -> Result<(VecDeque<u64>, Option<Vec<u8>>), StoreError> {
    let mut renewed = 0;
    while renewed < RENEWED_MAX
        && let Some(number) = numbers.pop_front()
    {
        if keeps_number(txn, number)? {
            renewed += 1;
            continue;
        }
        match renumber(txn, number, after.take())? {
            Renumbered::One(changes) => renewed += changes,
            Renumbered::Shortened => {
                numbers.push_front(number);
                break;
            }
            Renumbered::NotedUntil(key) => {
                numbers.push_front(number);
                after = Some(key);
                break;
            }
        }
    }
    Ok((numbers, after))
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
    if is_here(txn, &entry.repository, digest)? {
        return Ok(false);
    }
    let retried = RefusedChange { state: RefusalState::Retried, ..refusal };
    txn.put(refused_key(number), &retried)?;
    Ok(true)
}

/// What has become of a change and those of its tag that wait behind it.
enum Renumbered {
    /// They were made one, so many.
    One(usize),
    /// There are too many for one record: [`CHAIN_MAX`] of them have left the chain.
    Shortened,
    /// Of the tags that may have gone with a removal those up to this key are noted.
    NotedUntil(Vec<u8>),
}

/// Writes a change once more, under a new number, with those of its tag that wait behind it made
/// one, and takes the old ones out. `after`: see [`Renumbered::NotedUntil`].
fn renumber(
    txn: &mut Txn<'_>,
    number: u64,
    after: Option<Vec<u8>>,
) -> Result<Renumbered, StoreError> {
    let refusal = txn.get::<RefusedChange>(&refused_key(number))?;
    let head = match (txn.get::<OutboxEntry>(&entry_key(number))?, &refusal) {
        (Some(entry), _) => entry,
        // Early builds took what was refused out of the outbox.
        (None, Some(refusal)) if still_stands(txn, &refusal.entry)? => refusal.entry.clone(),
        (None, _) => {
            txn.delete(refused_key(number))?;
            return Ok(Renumbered::One(1));
        }
    };
    let is_void = match &head.change {
        OutboxChange::ManifestDeleted { digest } => is_here(txn, &head.repository, digest)?,
        OutboxChange::Tag { .. } | OutboxChange::ManifestAdded { .. } => false,
    };
    if is_void {
        // The parent may have had it before it refused it.
        let more = along::tags_may_be_gone(txn, &head, after)?;
        return match more {
            Some(key) => Ok(Renumbered::NotedUntil(key)),
            None => outbox::finish(txn, number).map(|_| Renumbered::One(RENEWED_MAX)),
        };
    }
    let mut behind = behind(txn, number, &head, CHAIN_MAX + 1)?;
    if behind.len() > CHAIN_MAX {
        shorten(txn, behind)?;
        return Ok(Renumbered::Shortened);
    }
    behind.insert(0, (number, head));
    let mut chain = Vec::new();
    for (old, entry) in behind {
        outbox::finish(txn, old)?;
        chain.push(entry);
    }
    let changes = renewed(txn, &chain)?;
    let (own, renewed) = (own_of(txn)?, chain.len());
    let unheard = may_be_there(txn, &own, &chain, true);
    write(txn, &own, &mut Places::of(chain), changes, unheard, refusal)?;
    Ok(Renumbered::One(renewed))
}

/// Leaves all but the last of these changes of one tag out of its chain: the last begins where the
/// first did, and what they brought goes up by its digest. Another one stands before them.
fn shorten(txn: &mut Txn<'_>, mut chain: Vec<(u64, OutboxEntry)>) -> Result<(), StoreError> {
    let Some((last_number, mut last)) = chain.pop() else { return Ok(()) };
    let mut left_out = Vec::new();
    for (number, entry) in chain {
        outbox::finish(txn, number)?;
        left_out.push(entry);
    }
    if let Some(OutboxChange::Tag { base: begins, .. }) = left_out.first().map(|e| &e.change)
        && let OutboxChange::Tag { base, .. } = &mut last.change
    {
        base.clone_from(begins);
    }
    let own = own_of(txn)?;
    let mut unheard = may_be_there(txn, &own, &left_out, false);
    last.unheard.into_iter().for_each(|state| remember(&mut unheard, state));
    last.unheard = unheard;
    if left_out.iter().any(|entry| !entry.offered.is_offer()) {
        last.offered = Offered::No;
    }
    let added = added(txn, &left_out, last.brings())?;
    let mut left_out = Places::of(left_out);
    write(txn, &own, &mut left_out, added, Vec::new(), None)?;
    left_out.give_all(&mut last);
    txn.put(entry_key(last_number), &last)
}

/// The changes of one tag, or a single one, whose places others take.
struct Places {
    chain: Vec<Option<OutboxEntry>>,
    /// By what they bring.
    bring: BTreeMap<Digest, Vec<usize>>,
}

impl Places {
    fn of(chain: Vec<OutboxEntry>) -> Places {
        let mut bring: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        for (place, entry) in chain.iter().enumerate() {
            if let Some(digest) = entry.brings() {
                bring.entry(digest.clone()).or_default().push(place);
            }
        }
        Places { chain: chain.into_iter().map(Some).collect(), bring }
    }

    fn all(&self) -> impl Iterator<Item = &OutboxEntry> {
        self.chain.iter().flatten()
    }

    /// Has a change take the place of those that brought the same.
    fn give(&mut self, entry: &mut OutboxEntry) {
        let places = entry.brings().and_then(|digest| self.bring.remove(digest));
        let ours =
            places.into_iter().flatten().filter_map(|place| self.chain.get_mut(place)?.take());
        ours.for_each(|old| entry.stands_in(old));
    }

    /// Has a change take the place of all that are left.
    fn give_all(&mut self, entry: &mut OutboxEntry) {
        self.bring.clear();
        self.chain.drain(..).flatten().for_each(|old| entry.stands_in(old));
    }
}

/// Writes what changes of one tag, or a single one, come to. What the parent refused of them, the
/// first, stays known with the change that brings it. Each takes the place of those that brought
/// the same, so that these are not known as had before their content is, that of the tag the place
/// of the rest; the tag may name at the parent what is `unheard`.
fn write(
    txn: &mut Txn<'_>,
    own: &ConnectedRegistryName,
    chain: &mut Places,
    changes: Vec<OutboxChange>,
    mut unheard: Vec<Option<Digest>>,
    mut refusal: Option<RefusedChange>,
) -> Result<(), StoreError> {
    let Some(first) = chain.all().next() else { return Ok(()) };
    let (repository, refused) = (first.repository.clone(), first.brings().cloned());
    let is_single = chain.all().count() == 1;
    // What a client had pushed is among it, or all came from the parent.
    let offered = match chain.all().all(|entry| entry.offered.is_offer()) {
        true => chain.all().map(|entry| entry.offered).max().unwrap_or_default(),
        false => Offered::No,
    };
    for change in changes {
        if let Some(number) = waiting::waits_already(txn, &repository, &change)? {
            if let Some(mut entry) = txn.get::<OutboxEntry>(&entry_key(number))? {
                chain.give(&mut entry);
                txn.put_changed(entry_key(number), &entry)?;
                if entry.brings() == refused.as_ref() && !txn.has(&refused_key(number))? {
                    stays_known(txn, number, entry, refusal.take())?;
                }
            }
            continue;
        }
        let is_of_tag = matches!(change, OutboxChange::Tag { .. });
        let unheard = if is_of_tag { std::mem::take(&mut unheard) } else { Vec::new() };
        let (number, id) =
            (outbox::next_number(txn)?, outbox::next_id(txn, own.clone(), &repository)?);
        let (repository, instead_of) = (repository.clone(), Vec::new());
        let anew = true;
        let mut entry = OutboxEntry { id, repository, change, unheard, offered, instead_of, anew };
        match is_of_tag || is_single {
            true => chain.give_all(&mut entry),
            false => chain.give(&mut entry),
        }
        txn.put(entry_key(number), &entry)?;
        if entry.brings() == refused.as_ref() || is_single {
            stays_known(txn, number, entry, refusal.take())?;
        }
    }
    Ok(())
}

/// Lets what was refused be known with the change that brings it now.
fn stays_known(
    txn: &mut Txn<'_>,
    number: u64,
    entry: OutboxEntry,
    refusal: Option<RefusedChange>,
) -> Result<(), StoreError> {
    let Some(known) = refusal else { return Ok(()) };
    txn.put(refused_key(number), &RefusedChange { entry, state: RefusalState::Retried, ..known })
}

/// What a tag may name at the parent when these changes of it are left out: of those that this
/// start numbered none has been attempted, but perhaps (`first_too`) the first; of the others, that
/// came from below or with a copy, each may have been delivered.
fn may_be_there(
    txn: &Txn<'_>,
    own: &ConnectedRegistryName,
    chain: &[OutboxEntry],
    first_too: bool,
) -> Vec<Option<Digest>> {
    let mut states = Vec::new();
    for (place, entry) in chain.iter().enumerate() {
        let is_first = first_too && place == 0;
        let attempted = match is_first || !outbox::is_of_this_start(txn, Some(own), &entry.id) {
            true => entry.attempted(),
            // Of those that were left out before it.
            false => entry.unheard.clone(),
        };
        attempted.into_iter().for_each(|state| remember(&mut states, state));
    }
    states
}

/// The name of this node. A node without one has no parent that changes could be written for: the
/// command ends, and those that wait stay as they are.
fn own_of(txn: &Txn<'_>) -> Result<ConnectedRegistryName, StoreError> {
    own_name(txn)?.ok_or(StoreError::Unavailable)
}

/// What changes that wait come to when they go up later than others that were made after them:
/// those of one tag, or a single one. The tag goes at once to where it is now. What it named in
/// between goes up without it, because clients may have pinned it, and so does what it named when
/// it was removed: whatever is refused of that holds up no tag.
fn renewed(txn: &Txn<'_>, chain: &[OutboxEntry]) -> Result<Vec<OutboxChange>, StoreError> {
    let Some(OutboxEntry { repository, .. }) = chain.first() else {
        return Ok(Vec::new());
    };
    let here = |digest: &Digest| is_here(txn, repository, digest);
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
            return Ok(vec![OutboxChange::ManifestDeleted { digest: digest.clone() }]);
        }
        [] => return Ok(Vec::new()),
    };
    let mut changes = added(txn, chain, wanted)?;
    let (base, digest) = (base.clone(), wanted.cloned());
    changes.push(OutboxChange::Tag { tag: tag.clone(), base, digest });
    Ok(changes)
}

/// What brings up by their digests the manifests that a tag named in between and that are here
/// still, but the one that another change brings.
fn added(
    txn: &Txn<'_>,
    chain: &[OutboxEntry],
    but: Option<&Digest>,
) -> Result<Vec<OutboxChange>, StoreError> {
    let (mut changes, mut seen) = (Vec::new(), BTreeSet::new());
    for entry in chain {
        let Some(digest) = entry.brings().filter(|digest| Some(*digest) != but) else { continue };
        if seen.insert(digest) && is_here(txn, &entry.repository, digest)? {
            changes.push(OutboxChange::ManifestAdded { digest: digest.clone() });
        }
    }
    Ok(changes)
}

fn is_here(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<bool, StoreError> {
    // A row that cannot be read is no row that is gone.
    Ok(txn.get::<ManifestRow>(&manifest_key(repository, digest))?.is_some())
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

//! Which changes of connected registries below have taken effect here: a delivery whose answer
//! was lost comes again, and must not have a second effect.

use super::outbox::{Origin, goes_up};
use super::unsent::is_unsent;
use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::delivered::{
    Delivered, DeliveredEnd, DeliveredMore, Numbers, Runs, delivered_key,
};
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::node::descendant_key;
use crate::store::rows::repository::repository_key;
use crate::store::rows::tag::{TagRow, tag_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::delivery::NO_START;
use crate::types::{ConnectedRegistryName, Delivery, Digest, OutboxId, RepositoryName, Tag};

/// Incarnations of one store whose deliveries are remembered, for each repository: of its starts,
/// those in which it changed the repository. Over it: the one that was heard of first becomes an
/// earlier one.
const INCARNATIONS_MAX: usize = 16;

/// Earlier incarnations of which the first run of numbers is remembered, for each repository: all
/// of them, where nothing was refused. Of a replay of another number, from a backup or a copy of a
/// disk that is so old, a push takes effect, where the tag names what it named before, and a
/// removal does not. Over it: the first of them are taken for new ones.
const EARLIER_MAX: usize = 1024;

/// The row under it lists the earlier ones, each with the end of its
/// first run (in `taken`) and its highest number (in `replaced`).
const EARLIER: u64 = NO_START;

/// Repositories that are not here any more, or never were, of which the deliveries of one origin
/// are remembered: a child may name such without end. Over it: a collection forgets those of the
/// others.
const GONE_MAX: usize = 256;

/// Repositories of which the deliveries are forgotten in one command.
const FORGOTTEN_AT_ONCE: usize = 16;

/// Runs of numbers that are kept of one incarnation in one repository. A child delivers one number
/// after the other and leaves out what was refused. Over it: the lowest run is forgotten; of a
/// replay of it a push takes effect, and a removal does not.
const RUNS_MAX: usize = 256;

impl Runs {
    fn has(&self, number: u64) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    fn add(&mut self, number: u64) {
        let runs = &mut self.0;
        let place = runs.partition_point(|(first, _)| *first < number);
        runs.insert(place, (number, number));
        runs.dedup_by(|next, run| {
            let joins = run.1.checked_add(1) == Some(next.0);
            if joins {
                run.1 = next.1;
            }
            joins
        });
        let over = runs.len().saturating_sub(RUNS_MAX);
        runs.drain(..over);
    }
}

impl Delivered {
    /// Whether the change with this number is to have no effect any more.
    fn has(&self, number: u64) -> bool {
        let taken = &self.more.more.numbers.taken;
        number <= self.last && (taken.0.is_empty() || taken.has(number))
    }

    /// Whether the change with this number may have had its effect, and nobody remembers.
    fn may_have(&self, number: u64) -> bool {
        let runs = &self.more.more.numbers.taken.0;
        runs.len() >= RUNS_MAX && runs.first().is_some_and(|(first, _)| number < *first)
    }

    /// The end of the first run, from the first number on; 0: there is none.
    fn whole(&self) -> u64 {
        match self.more.more.numbers.taken.0.first() {
            Some((0 | 1, last)) => *last,
            Some(_) => 0,
            None => self.last,
        }
    }

    /// Whether that is so because another change took its place.
    fn is_replaced(&self, number: u64) -> bool {
        self.more.more.numbers.replaced.has(number)
    }

    /// Notes that the change takes effect, or that another one takes its place.
    fn add(&mut self, number: u64, is_replaced: bool) {
        if self.has(number) {
            return;
        }
        let Numbers { taken, replaced } = &mut self.more.more.numbers;
        if taken.0.is_empty() && self.last > 0 {
            taken.0.push((0, self.last));
        }
        self.last = self.last.max(number);
        self.more.open.clear();
        taken.add(number);
        if is_replaced {
            replaced.add(number);
        }
    }
}

impl Store {
    /// Forgets what was delivered to repositories that are not here, but of [`GONE_MAX`] of each
    /// origin.
    pub(in crate::store) async fn forget_deliveries(&self) -> Result<(), StoreError> {
        let mut keys = self.keys(prefix(Kind::Delivered, &[]));
        let (mut last, mut gone) = (Vec::new(), 0);
        loop {
            let (mut before, mut of_origin) = (std::mem::take(&mut last), gone);
            let look = keys.work(move |store, page| {
                let is_last = page.is_empty();
                let mut over = Vec::new();
                for (key, _) in page {
                    let Some((start, repository)) = of_repository(&key) else { continue };
                    if start == before {
                        continue;
                    }
                    if origin_of(start) != origin_of(&before) {
                        of_origin = 0;
                    }
                    before = start.to_vec();
                    if store.look_up(|index| is_gone(&Txn::new(index), &repository))? {
                        of_origin += 1;
                        over.extend((of_origin > GONE_MAX).then_some((start.to_vec(), repository)));
                    }
                }
                Ok((is_last, over, before, of_origin))
            });
            let (is_last, over, start, count) = look.await?;
            (last, gone) = (start, count);
            if is_last {
                return Ok(());
            }
            for some in over.chunks(FORGOTTEN_AT_ONCE) {
                let some = some.to_vec();
                self.commit(move |txn| {
                    for (start, repository) in &some {
                        // It may have come since.
                        if is_gone(txn, repository)? {
                            txn.delete(start.clone())?;
                            txn.clear(&[&start[..], &[0]].concat())?;
                        }
                    }
                    Ok(())
                })
                .await?;
            }
        }
    }
}

/// Whether a repository is not here, and nothing of it on its way up.
fn is_gone(txn: &Txn<'_>, repository: &RepositoryName) -> Result<bool, StoreError> {
    Ok(!txn.has(&repository_key(repository))? && !is_unsent(txn, repository)?)
}

/// How the keys begin of what the origin of one has delivered to its repository, and that.
fn of_repository(key: &[u8]) -> Option<(&[u8], RepositoryName)> {
    let origin = origin_of(key)?;
    let name = key.get(origin.len() + 1..)?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let repository = std::str::from_utf8(name.get(..end)?).ok()?.parse().ok()?;
    Some((key.get(..origin.len() + 1 + end)?, repository))
}

/// How the keys begin of what the origin of one has delivered.
fn origin_of(key: &[u8]) -> Option<&[u8]> {
    key.get(..key.iter().position(|byte| *byte == 0)?)
}

/// What a delivery wants to be so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store) enum Effect {
    /// A tag names this, or (`None`) does not exist.
    Tag(Tag, Option<Digest>),
    /// A manifest is here, or not.
    Manifest(Digest, bool),
}

/// Whether this delivery has already taken effect. When it has, and what it wants is not so any
/// more, what came after it counts: `OutboxMismatch`, or `OutboxReplaced` when another change took
/// its place. A removal that may have taken effect, or one of a manifest that comes later than
/// others of its start, is of a state of the child that is lost unless it was refused before: a
/// push may have come after it, so that it takes no effect any more either.
pub(in crate::store) fn is_replay(
    txn: &Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
    effect: &Effect,
) -> Result<bool, StoreError> {
    let Origin::Child(delivery) = origin else {
        return Ok(false);
    };
    let (id, number) = (&delivery.id, delivery.id.sequence);
    let known = txn.get::<Delivered>(&delivered_key(id, repository))?;
    let is_removal = matches!(effect, Effect::Manifest(_, false) | Effect::Tag(_, None));
    let mut is_over = match had(txn, known.as_ref(), is_removal, id, repository)? {
        Had::Yes => true,
        Had::Maybe => is_removal && !delivery.again,
        Had::No => {
            let is_late = known.as_ref().is_some_and(|known| number < known.last);
            is_late && matches!(effect, Effect::Manifest(_, false)) && !delivery.again
        }
    };
    let mut is_replaced = known.is_some_and(|known| known.is_replaced(number));
    if !is_over && let Some(before) = made_before(txn, delivery, repository)? {
        (is_over, is_replaced) = (true, before.is_replaced);
    }
    if !is_over {
        return Ok(false);
    }
    if is_so(txn, repository, effect)? {
        return Ok(true);
    }
    let origin = &delivery.id.origin;
    Err(match is_replaced {
        true => StoreError::OutboxReplaced(format!(
            "another change took the place of change {number} of '{origin}' in {repository}: what \
             came after it counts"
        )),
        false => StoreError::OutboxMismatch(format!(
            "change {number} of '{origin}' in {repository} has had its effect before, or is too \
             late: what came after it counts"
        )),
    })
}

/// What became of the changes that one makes once more, when none of them is new.
struct MadeBefore {
    /// Others took the place of all of them.
    is_replaced: bool,
}

/// See there; `None`: the change is one of its own, or makes one that is new. A device that was set
/// back to where a change was refused makes it once more under another name each time.
fn made_before(
    txn: &Txn<'_>,
    delivery: &Delivery,
    repository: &RepositoryName,
) -> Result<Option<MadeBefore>, StoreError> {
    if !delivery.anew || delivery.instead_of.is_empty() {
        return Ok(None);
    }
    let mut is_replaced = true;
    for id in &delivery.instead_of {
        let known = txn.get::<Delivered>(&delivered_key(id, repository))?;
        // Of what was written before stores told, only the highest number is known for sure.
        let is_told = id.incarnation != 0;
        if !is_told || !matches!(had(txn, known.as_ref(), true, id, repository)?, Had::Yes) {
            return Ok(None);
        }
        is_replaced &= known.is_some_and(|known| known.is_replaced(id.sequence));
    }
    Ok(Some(MadeBefore { is_replaced }))
}

/// Whether a change has had its effect, as far as that is remembered.
enum Had {
    No,
    Maybe,
    Yes,
}

/// Whether this change has; of a start that is `known`, `Maybe` is found out for removals only.
fn had(
    txn: &Txn<'_>,
    known: Option<&Delivered>,
    is_removal: bool,
    id: &OutboxId,
    repository: &RepositoryName,
) -> Result<Had, StoreError> {
    match known {
        Some(known) if known.has(id.sequence) => return Ok(Had::Yes),
        Some(known) if known.may_have(id.sequence) => return Ok(Had::Maybe),
        Some(_) if !is_removal => return Ok(Had::No),
        Some(_) | None => {}
    }
    Ok(match earlier(txn, id, repository)? {
        Some(Earlier { whole, .. }) if id.sequence <= whole => Had::Yes,
        // It may run still, and make changes that are new.
        Some(Earlier { last, .. }) if id.sequence > last => Had::No,
        Some(_) => Had::Maybe,
        None => Had::No,
    })
}

/// What is remembered of an earlier start.
struct Earlier {
    /// The end of its first run.
    whole: u64,
    /// Its highest number that took effect.
    last: u64,
}

/// That of the start that made this change, where it is an earlier one.
fn earlier(
    txn: &Txn<'_>,
    id: &OutboxId,
    repository: &RepositoryName,
) -> Result<Option<Earlier>, StoreError> {
    let row = txn.get::<Delivered>(&earlier_key(id, repository))?.unwrap_or_default();
    let Numbers { taken, replaced } = row.more.more.numbers;
    let of = |starts: Runs| {
        starts.0.into_iter().find(|(start, _)| *start == id.incarnation).map(|(_, end)| end)
    };
    let last = of(replaced);
    Ok(of(taken).map(|whole| Earlier { whole, last: last.unwrap_or(u64::MAX) }))
}

fn earlier_key(id: &OutboxId, repository: &RepositoryName) -> Vec<u8> {
    delivered_key(&OutboxId { incarnation: EARLIER, ..id.clone() }, repository)
}

fn is_so(txn: &Txn<'_>, repository: &RepositoryName, effect: &Effect) -> Result<bool, StoreError> {
    Ok(match effect {
        Effect::Tag(tag, wanted) => {
            let row = txn.get::<TagRow>(&tag_key(repository, tag))?;
            row.map(|row| row.digest) == *wanted
        }
        Effect::Manifest(digest, wanted) => {
            txn.get::<ManifestRow>(&manifest_key(repository, digest))?.is_some() == *wanted
        }
    })
}

/// Records that this delivery takes effect, and that none of the changes that it takes the place of
/// is to have one. Call it in the command that has the effect.
pub(in crate::store) fn record(
    txn: &mut Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
) -> Result<(), StoreError> {
    let Origin::Child(delivery) = origin else {
        return Ok(());
    };
    delivery.instead_of.iter().try_for_each(|id| add(txn, id, repository, true))?;
    add(txn, &delivery.id, repository, false)
}

/// The same of a delivery that finds nothing here to change: `IndexFull` where it makes a row, here
/// or on the way up, and few of them are free.
pub(in crate::store) fn record_only(
    txn: &mut Txn<'_>,
    origin: &Origin,
    repository: &RepositoryName,
) -> Result<(), StoreError> {
    if let Origin::Child(delivery) = origin
        && (goes_up(txn)? || !txn.has(&delivered_key(&delivery.id, repository))?)
    {
        txn.expect_spare_rows()?;
    }
    record(txn, origin, repository)
}

fn add(
    txn: &mut Txn<'_>,
    id: &OutboxId,
    repository: &RepositoryName,
    is_replaced: bool,
) -> Result<(), StoreError> {
    let key = delivered_key(id, repository);
    let mut row = match txn.get::<Delivered>(&key)? {
        Some(known) => known,
        None => {
            // A child may make names up, and no row of such a name is ever forgotten.
            if is_replaced || !is_below(txn, &id.origin)? {
                txn.expect_rows()?;
            }
            begin(txn, id, repository)?
        }
    };
    row.add(id.sequence, is_replaced);
    txn.put_changed(key, &row)
}

/// Whether a connected registry is below this node, as far as that is known here.
fn is_below(txn: &Txn<'_>, name: &ConnectedRegistryName) -> Result<bool, StoreError> {
    Ok(txn.has(&connected_registry_key(name))? || txn.has(&descendant_key(name))?)
}

/// The row of an incarnation that has none, with what is remembered of it; room is made for it.
fn begin(
    txn: &mut Txn<'_>,
    id: &OutboxId,
    repository: &RepositoryName,
) -> Result<Delivered, StoreError> {
    // Changes that were written before stores told are of one incarnation, the first.
    if id.incarnation == 0 {
        return Ok(Delivered::default());
    }
    let parts = [id.origin.as_str().as_bytes(), repository.as_str().as_bytes()];
    let rows = txn.scan::<Delivered>(&prefix(Kind::Delivered, &parts))?.into_iter();
    let list = earlier_key(id, repository);
    let mut known: Vec<_> = rows.filter(|(key, _)| *key != list).collect();
    known.sort_unstable_by_key(|(_, row)| row.more.more.place);
    let next = known.last().map_or(0, |(_, row)| row.more.more.place.saturating_add(1));
    let over = (known.len() + 1).saturating_sub(INCARNATIONS_MAX);
    let own = earlier(txn, id, repository)?;
    let mut all = txn.get::<Delivered>(&list)?.unwrap_or_default();
    let Numbers { taken, replaced } = &mut all.more.more.numbers;
    let mut note = |start: u64, Earlier { whole, last }: Earlier| {
        for (starts, end) in [(&mut taken.0, whole), (&mut replaced.0, last)] {
            starts.retain(|(earlier, _)| *earlier != start);
            starts.push((start, end));
            starts.drain(..starts.len().saturating_sub(EARLIER_MAX));
        }
    };
    for (key, row) in known.into_iter().take(over) {
        if let Some(start) = key.last_chunk().copied().map(u64::from_be_bytes) {
            note(start, Earlier { whole: row.whole(), last: row.last });
        }
        txn.delete(key)?;
    }
    let (mut last, mut numbers) = (0, Numbers::default());
    if let Some(own) = own {
        // What it had between its first run and its highest number stays unknown, so that it stays
        // an earlier one.
        numbers.taken.0.push((0, own.whole));
        last = if own.last == u64::MAX { own.whole } else { own.last };
        note(id.incarnation, own);
    }
    if all != Delivered::default() {
        txn.put_changed(list, &all)?;
    }
    let more = DeliveredMore { place: next, numbers };
    Ok(Delivered { last, more: DeliveredEnd { open: Vec::new(), more } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Precondition;
    use crate::store::registry::manifests::testing::{digest, push, store};
    use crate::store::rows;

    fn child(origin: &str, incarnation: u64, sequence: u64) -> Origin {
        let id = OutboxId { origin: origin.parse().unwrap(), incarnation, sequence };
        Origin::Child(Delivery::of(id))
    }

    /// Delivers that `v1` of `app` names this; what it names afterwards.
    async fn deliver(store: &Store, number: u8, origin: &Origin) -> u8 {
        let (app, v1) = ("app".parse().unwrap(), "v1".parse().unwrap());
        let any = Precondition::None;
        store.set_tag(&app, &v1, &digest(number), any, origin).await.unwrap();
        store.tag(&app, &v1).unwrap().unwrap().raw()[0]
    }

    /// Whether such a delivery is a replay.
    fn replay(store: &Store, number: u8, origin: &Origin) -> Result<bool, StoreError> {
        let effect = Effect::Tag("v1".parse().unwrap(), Some(digest(number)));
        let app = "app".parse().unwrap();
        store.look_up(|index| is_replay(&Txn::new(index), origin, &app, &effect))
    }

    #[test]
    fn f130_a_start_that_counts_over_again_is_not_taken_for_the_one_before() {
        smol::block_on(async {
            let store = store();
            for number in 1..=6 {
                push(&store, "app", number, &[]).await;
            }
            assert_eq!(deliver(&store, 1, &child("dock01", 0, 8)).await, 1);
            assert_eq!(deliver(&store, 2, &child("dock01", 9, 7)).await, 2, "another start");
            assert_eq!(deliver(&store, 2, &child("dock01", 9, 7)).await, 2, "a replay in that");
            assert_eq!(deliver(&store, 3, &child("dock01", 10, 1)).await, 3);
            assert_eq!(deliver(&store, 4, &child("dock02", 9, 1)).await, 4);
        });
    }

    #[test]
    fn f130_a_change_takes_effect_once_in_whatever_order_changes_come() {
        smol::block_on(async {
            let store = store();
            for number in 1..=9 {
                push(&store, "app", number, &[]).await;
            }
            let number = |number| child("dock01", 9, number);
            for first in [1, 2, 4, 7, 6] {
                let digest = u8::try_from(first).unwrap();
                assert_eq!(deliver(&store, digest, &number(first)).await, digest);
            }
            for taken in [1, 2, 4] {
                let replay = replay(&store, u8::try_from(taken).unwrap(), &number(taken));
                assert!(matches!(replay, Err(StoreError::OutboxMismatch(_))), "{replay:?}");
            }
            // What was refused before is new.
            for late in [3, 5] {
                let digest = u8::try_from(late).unwrap();
                assert_eq!(deliver(&store, digest, &number(late)).await, digest);
            }
            // But what it would remove may have been pushed since, unless the child says so.
            deliver(&store, 1, &number(10)).await;
            let app = "app".parse().unwrap();
            let late = store.delete_manifest(&app, &digest(9), &number(8)).await;
            assert!(matches!(late, Err(StoreError::OutboxMismatch(_))), "{late:?}");
            let Origin::Child(mut again) = number(8) else { unreachable!() };
            again.again = true;
            for _ in 0..2 {
                let origin = Origin::Child(again.clone());
                assert_eq!(store.delete_manifest(&app, &digest(9), &origin).await, Ok(()));
                assert_eq!(store.manifest(&app, &digest(9)), Ok(None));
            }
        });
    }

    #[test]
    fn f130_the_lowest_runs_are_forgotten() {
        let mut row = Delivered::default();
        for number in 1..=400 {
            row.add(number * 2, number % 2 == 0);
            assert!(row.has(number * 2) && !row.has(number * 2 - 1));
        }
        assert_eq!(row.more.more.numbers.taken.0.len(), RUNS_MAX);
        assert!(!row.has(2) && row.may_have(2) && row.whole() == 0);
        let lowest = row.more.more.numbers.taken.0[0].0;
        assert!(row.may_have(lowest - 1) && !row.may_have(lowest + 1));
        row.add(799, false);
        assert_eq!(row.more.more.numbers.taken.0.last(), Some(&(798, 800)));
        assert_eq!([798, 799, 800].map(|number| row.is_replaced(number)), [false, false, true]);
        let bytes = rows::encode(&row).unwrap();
        assert_eq!(rows::decode::<Delivered>(&bytes).unwrap(), row);
        row.more.more.numbers.replaced = Runs::default();
        let before = rows::encode(&row).unwrap();
        assert!(bytes.starts_with(&before));
        assert_eq!(rows::decode::<Delivered>(&before).unwrap(), row);
        // As earlier versions wrote it.
        let mut old = Delivered { last: 7, more: DeliveredEnd::default() };
        assert_eq!(rows::decode::<Delivered>(&rows::encode(&old).unwrap()).unwrap(), old);
        old.add(9, false);
        assert!(old.has(3) && old.has(7) && !old.has(8) && old.has(9));
    }

    /// Symptom: a device that was set back by more than 16 of its starts pushed what its parent had
    /// had, and what was deleted there since was there again.
    #[test]
    fn f130_of_earlier_starts_the_first_run_is_remembered() {
        smol::block_on(async {
            let store = store();
            for number in 1..=4 {
                push(&store, "app", number, &[]).await;
            }
            let starts = u64::try_from(INCARNATIONS_MAX + EARLIER_MAX).unwrap() + 1;
            // In no order: they are random.
            let of = |start: u64, number| child("dock01", start.wrapping_mul(u64::MAX / 7), number);
            for start in 1..=starts {
                assert_eq!(deliver(&store, 1, &of(start, 1)).await, 1);
                assert_eq!(deliver(&store, 2, &of(start, 2)).await, 2);
                assert_eq!(deliver(&store, 1, &of(start, 5)).await, 1);
            }
            let (app, v1): (RepositoryName, Tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
            let is_over = |result: &Result<bool, StoreError>| {
                matches!(result, Err(StoreError::OutboxMismatch(_)))
            };
            for start in [2, starts - 17, starts - 16, starts - 15] {
                for (number, had) in [(1, true), (2, true), (3, false)] {
                    let result = replay(&store, 3, &of(start, number));
                    assert_eq!(is_over(&result), had, "{start} {number}: {result:?}");
                }
            }
            assert_eq!(replay(&store, 3, &of(1, 1)), Ok(false), "one too many");
            // One that was refused comes late, and the start has a row again.
            assert_eq!(deliver(&store, 4, &of(2, 4)).await, 4);
            for (number, had) in [(1, true), (2, true), (3, false), (4, true)] {
                let result = replay(&store, 3, &of(2, number));
                assert_eq!(is_over(&result), had, "{number}: {result:?}");
            }
            let untag = async |number| {
                store.delete_tag(&app, &v1, Precondition::None, &of(2, number)).await
            };
            let late = untag(3).await;
            assert!(matches!(late, Err(StoreError::OutboxMismatch(_))), "{late:?}");
            assert_eq!(untag(6).await, Ok(Some(digest(4))), "a new one");
        });
    }

    /// Symptom: deletions at a device were undone until it was started again. Cause: late changes
    /// of 16 starts before had made its start an earlier one, and no number of that was new.
    #[test]
    fn f130_late_changes_of_earlier_starts_leave_the_running_start_its_removals() {
        smol::block_on(async {
            let store = store();
            for number in 1..=3 {
                push(&store, "app", number, &[]).await;
            }
            let live = u64::try_from(INCARNATIONS_MAX).unwrap() + 1;
            for start in 1..=live {
                assert_eq!(deliver(&store, 1, &child("dock01", start, 1)).await, 1);
                assert_eq!(deliver(&store, 2, &child("dock01", start, 3)).await, 2);
            }
            for start in 1..live {
                assert_eq!(deliver(&store, 3, &child("dock01", start, 2)).await, 3);
            }
            let (app, v1): (RepositoryName, Tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
            let untag = async |number| {
                let origin = child("dock01", live, number);
                store.delete_tag(&app, &v1, Precondition::None, &origin).await
            };
            let late = untag(2).await;
            assert!(matches!(late, Err(StoreError::OutboxMismatch(_))), "{late:?}");
            assert_eq!(untag(4).await, Ok(Some(digest(3))));
            assert_eq!(deliver(&store, 1, &child("dock01", live, 5)).await, 1);
            assert_eq!(untag(6).await, Ok(Some(digest(1))));
        });
    }

    /// Symptom: a child that deleted tags in repositories that never were filled the index. Cause:
    /// what was delivered to a repository was remembered for ever.
    #[test]
    fn f130_f209_of_repositories_that_are_gone_few_deliveries_are_remembered() {
        smol::block_on(async {
            let store = store();
            push(&store, "app", 1, &[]).await;
            let v1: Tag = "v1".parse().unwrap();
            let untag = async |repository: &str, origin: &Origin| {
                let name = repository.parse().unwrap();
                store.delete_tag(&name, &v1, Precondition::None, origin).await
            };
            for number in 0..GONE_MAX + 40 {
                for start in [0, 7, 8] {
                    let repository = format!("n{number:04}");
                    assert_eq!(untag(&repository, &child("dock01", start, 1)).await, Ok(None));
                }
            }
            let some = ["app", "app/b", "z"];
            for (name, origin) in
                some.into_iter().flat_map(|name| [(name, "dock01"), (name, "line02")])
            {
                assert_eq!(untag(name, &child(origin, 7, 1)).await, Ok(None));
            }
            let rows = |origin: &str| {
                store.scan::<Delivered>(&prefix(Kind::Delivered, &[origin.as_bytes()]), None, 9999)
            };
            assert_eq!(rows("dock01").unwrap().len(), (GONE_MAX + 40) * 3 + 3);
            store.forget_deliveries().await.unwrap();
            assert_eq!(rows("dock01").unwrap().len(), (GONE_MAX - 1) * 3 + 2);
            assert_eq!(rows("line02").unwrap().len(), 3);
            // What is here stays known, and the first of what is not.
            deliver(&store, 1, &child("dock01", 9, 9)).await;
            for (name, is_known) in
                [("app", true), ("app/b", true), ("n0254", true), ("n0255", false), ("z", false)]
            {
                let key = delivered_key(
                    &OutboxId { origin: "dock01".parse().unwrap(), incarnation: 7, sequence: 1 },
                    &name.parse().unwrap(),
                );
                assert_eq!(store.get::<Delivered>(&key).unwrap().is_some(), is_known, "{name}");
            }
        });
    }

    #[test]
    fn f130_only_the_last_incarnations_of_a_store_are_remembered() {
        smol::block_on(async {
            let store = store();
            let over = u8::try_from(INCARNATIONS_MAX).unwrap() + 2;
            for number in 1..=over + 2 {
                push(&store, "app", number, &[]).await;
            }
            let rows = || {
                let start = prefix(Kind::Delivered, &[b"dock01", b"app"]);
                store.scan::<Delivered>(&start, None, 99).unwrap().len()
            };
            // In no order: they are random.
            let incarnation = |number: u8| u64::from(number.wrapping_mul(97)) + 1;
            for number in 1..=over {
                let origin = child("dock01", incarnation(number), 7);
                assert_eq!(deliver(&store, number, &origin).await, number);
                let list = usize::from(usize::from(number) > INCARNATIONS_MAX);
                assert_eq!(rows(), INCARNATIONS_MAX.min(number.into()) + list);
            }
            for number in 3..=over {
                let origin = child("dock01", incarnation(number), 7);
                let is_last = number == over;
                assert_eq!(replay(&store, number, &origin).is_ok(), is_last, "{number}: a replay");
            }
            let other = child("dock02", 1, 1);
            assert_eq!(deliver(&store, over + 2, &other).await, over + 2, "another one");
            assert_eq!(rows(), INCARNATIONS_MAX + 1);
            // What one that is forgotten would remove may have been pushed since.
            let (app, v1): (RepositoryName, Tag) = ("app".parse().unwrap(), "v1".parse().unwrap());
            let gone = [child("dock01", incarnation(1), 6), child("dock01", incarnation(2), 1)];
            for origin in gone {
                let untag = store.delete_tag(&app, &v1, Precondition::None, &origin).await;
                assert!(matches!(untag, Err(StoreError::OutboxMismatch(_))), "{untag:?}");
                let delete = store.delete_manifest(&app, &digest(1), &origin).await;
                assert!(matches!(delete, Err(StoreError::OutboxMismatch(_))), "{delete:?}");
                let Origin::Child(made) = origin else { unreachable!() };
                let again = Origin::Child(Delivery { again: true, ..made });
                assert_eq!(replay(&store, 1, &again), Ok(false), "a push");
            }
            let new = child("dock01", 5_000, 1);
            let untag = store.delete_tag(&app, &v1, Precondition::None, &new).await;
            assert_eq!(untag, Ok(Some(digest(over + 2))));
        });
    }
}

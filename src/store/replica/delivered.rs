//! Which changes of connected registries below have taken effect here: a delivery whose answer
//! was lost comes again, and must not have a second effect.

use super::outbox::{Origin, goes_up};
use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::delivered::{
    Delivered, DeliveredEnd, DeliveredMore, Numbers, Runs, delivered_key,
};
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::node::descendant_key;
use crate::store::rows::tag::{TagRow, tag_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{StoreError, Txn};
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

    /// Whether another change took the place of this one.
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
    let mut memory = remembered(txn, id, repository)?;
    if !memory.is_over(effect, delivery.again) {
        match made_before(txn, delivery, repository)? {
            Some(before) => memory = before,
            None => return Ok(false),
        }
    }
    if is_so(txn, repository, effect)? {
        return Ok(true);
    }
    let origin = &id.origin;
    Err(match memory {
        Memory::Replaced => StoreError::OutboxReplaced(format!(
            "another change took the place of change {number} of '{origin}' in {repository}: what \
             came after it counts"
        )),
        Memory::Taken | Memory::Faded | Memory::Late | Memory::New => {
            StoreError::OutboxMismatch(format!(
                "change {number} of '{origin}' in {repository} has had its effect before, or is \
                 too late: what came after it counts"
            ))
        }
    })
}

/// What is remembered of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Memory {
    /// It has had its effect.
    Taken,
    /// It is to have none: another one took its place.
    Replaced,
    /// It may have had its effect: what is remembered does not reach back so far.
    Faded,
    /// It has had none, and later ones of its start have.
    Late,
    /// It has had none.
    New,
}

impl Memory {
    /// Whether a change takes no effect any more. Behind a removal, of a manifest or of what is
    /// forgotten, a push may have come, unless it was refused before (`again`); what a push made
    /// that is forgotten is there, or was removed.
    fn is_over(self, effect: &Effect, again: bool) -> bool {
        match (self, effect) {
            (Memory::Taken | Memory::Replaced, _) => true,
            (Memory::Faded, Effect::Tag(_, None) | Effect::Manifest(_, false))
            | (Memory::Late, Effect::Manifest(_, false)) => !again,
            (Memory::Faded | Memory::Late | Memory::New, _) => false,
        }
    }
}

fn remembered(
    txn: &Txn<'_>,
    id: &OutboxId,
    repository: &RepositoryName,
) -> Result<Memory, StoreError> {
    let (row, number) = (txn.get::<Delivered>(&delivered_key(id, repository))?, id.sequence);
    if let Some(row) = &row {
        if row.has(number) {
            let is_replaced = row.is_replaced(number);
            return Ok(if is_replaced { Memory::Replaced } else { Memory::Taken });
        }
        if row.may_have(number) {
            return Ok(Memory::Faded);
        }
    }
    Ok(match earlier(txn, id, repository)? {
        Some(Earlier { whole, .. }) if number <= whole => Memory::Taken,
        Some(Earlier { last, .. }) if number <= last => Memory::Faded,
        // An earlier start may run still, and make changes that are new.
        Some(_) | None if row.as_ref().is_some_and(|row| number < row.last) => Memory::Late,
        Some(_) | None => Memory::New,
    })
}

/// What became of the changes that one makes once more, where none of them is new: others took the
/// place of all of them, or not. `None`: the change is one of its own, or makes one that is new. A
/// device that was set back to where a change was refused makes it once more under another name
/// each time.
fn made_before(
    txn: &Txn<'_>,
    delivery: &Delivery,
    repository: &RepositoryName,
) -> Result<Option<Memory>, StoreError> {
    if !delivery.anew || delivery.instead_of.is_empty() {
        return Ok(None);
    }
    let mut all = Memory::Replaced;
    for id in &delivery.instead_of {
        // Of what was written before stores told, only the highest number is known for sure.
        let is_told = id.incarnation != 0;
        match remembered(txn, id, repository)? {
            Memory::Replaced if is_told => {}
            Memory::Taken if is_told => all = Memory::Taken,
            _ => return Ok(None),
        }
    }
    Ok(Some(all))
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
    for id in &delivery.instead_of {
        // A child may make names up, as many as a request has room for.
        if id.origin == delivery.id.origin || is_below(txn, &id.origin)? {
            add(txn, id, repository, true)?;
        }
    }
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
            // A child may make names up.
            if !is_below(txn, &id.origin)? {
                txn.expect_spare_rows()?;
            } else if is_replaced {
                txn.expect_rows()?;
            }
            begin(txn, id, repository)?
        }
    };
    row.add(id.sequence, is_replaced);
    txn.put_changed(key, &row)
}

/// Whether a connected registry is below this node, as far as that is known here.
pub(super) fn is_below(txn: &Txn<'_>, name: &ConnectedRegistryName) -> Result<bool, StoreError> {
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
    use crate::store::registry::manifests::testing::{digest, push, store};
    use crate::store::replica::node::testing::connected_registry;
    use crate::store::rows;
    use crate::store::{Precondition, Store};

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
    fn f130_what_is_forgotten_pushes_again_and_removes_nothing() {
        let (tag, digest): (Tag, _) = ("v1".parse().unwrap(), digest(1));
        let effects = [
            Effect::Tag(tag.clone(), Some(digest.clone())),
            Effect::Manifest(digest.clone(), true),
            Effect::Tag(tag, None),
            Effect::Manifest(digest, false),
        ];
        // For each effect, of a change that was not refused before and of one that was.
        let (no, yes, unless_refused) = ([false; 2], [true; 2], [true, false]);
        let table = [
            (Memory::Taken, [yes, yes, yes, yes]),
            (Memory::Replaced, [yes, yes, yes, yes]),
            (Memory::Faded, [no, no, unless_refused, unless_refused]),
            (Memory::Late, [no, no, no, unless_refused]),
            (Memory::New, [no, no, no, no]),
        ];
        for (memory, wanted) in table {
            let is_over = |effect| [false, true].map(|again| memory.is_over(effect, again));
            assert_eq!(effects.each_ref().map(is_over), wanted, "{memory:?}");
        }
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

    /// Symptom: a child that named 32 nodes that never were in each request filled the index.
    #[test]
    fn f130_f209_names_of_unknown_nodes_are_not_noted_for_another_change() {
        smol::block_on(async {
            let store = store();
            push(&store, "app", 1, &[]).await;
            let node = connected_registry("dock02", None);
            let known = move |txn: &mut Txn<'_>| txn.put(connected_registry_key(&node.name), &node);
            store.commit(known).await.unwrap();
            let Origin::Child(mut made) = child("dock01", 1, 9) else { unreachable!() };
            let id = |origin: &str| OutboxId { origin: origin.parse().unwrap(), ..made.id.clone() };
            made.instead_of = ["dock01", "dock02", "nobody"].map(id).to_vec();
            made.instead_of[0].incarnation = 2;
            deliver(&store, 1, &Origin::Child(made)).await;
            let rows = store.scan::<Delivered>(&prefix(Kind::Delivered, &[]), None, 99).unwrap();
            assert_eq!(rows.len(), 3);
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

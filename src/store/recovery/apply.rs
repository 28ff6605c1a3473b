//! Applies the changes of records to an index, with what follows from them.

use std::collections::BTreeMap;

use crate::store::StoreError;
use crate::store::index::{Change, Index};
use crate::store::rows;
use crate::store::rows::derived::{self, Count};

/// [`Index::apply`] with the rows that follow from these: a journal has none of them.
pub(in crate::store) fn apply(
    index: &dyn Index,
    sequence: u64,
    changes: Vec<Change>,
) -> Result<(), StoreError> {
    // The last change of each key counts.
    let last: BTreeMap<Vec<u8>, Option<Vec<u8>>> = changes.into_iter().collect();
    let mut counts: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for (key, row) in last.iter().filter(|(key, _)| derived::may_count(key)) {
        let old = index.get(key)?;
        for (derived, by) in derived::difference(key, old.as_deref(), row.as_deref()) {
            *counts.entry(derived).or_default() += by;
        }
    }
    let mut all: Vec<Change> =
        last.into_iter().filter(|(key, _)| !derived::is_derived(key)).collect();
    for (key, by) in counts {
        let old = index.get(&key)?.map(|row| rows::decode::<Count>(&row)).transpose()?;
        let count = old.map_or(0, |count| count.0).saturating_add_signed(by);
        all.push((key, Count(count).row()?));
    }
    index.apply(sequence, &all)
}

//! The audit: who changed what, in the same record as the change.

use crate::store::rows::deed::{Deeds, deed_key, deeds_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::deed::Deed;
use crate::types::limits::DEEDS_MAX;

impl Store {
    /// A handle on the same store with which this is done: the change that it makes is written
    /// together with it. The time of the deed is when its command came.
    pub fn doing(&self, deed: Deed) -> Store {
        Store { deed: Some(deed.into()), ..self.clone() }
    }

    /// The last changes of what is managed here, oldest first; at most [`DEEDS_MAX`].
    pub async fn deeds(&self) -> Result<Vec<Deed>, StoreError> {
        let rows = self.pages(prefix(Kind::Deed, &[])).all().await?;
        Ok(rows.into_iter().map(|(_, deed)| deed).collect())
    }

    /// Runs a command that is, or begins, the deed of this handle.
    pub(in crate::store) async fn act<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Txn<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let deed = self.deed.clone();
        self.commit(move |txn| {
            let value = command(txn)?;
            // A command that writes nothing has done nothing.
            if let Some(deed) = deed
                && txn.has_changed()
            {
                write(txn, &deed)?;
            }
            Ok(value)
        })
        .await
    }
}

fn write(txn: &mut Txn<'_>, deed: &Deed) -> Result<(), StoreError> {
    let Deeds(number) = txn.get(&deeds_key())?.unwrap_or_default();
    txn.put(deed_key(number), deed)?;
    if let Some(oldest) = number.checked_sub(DEEDS_MAX) {
        txn.delete(deed_key(oldest))?;
    }
    txn.put(deeds_key(), &Deeds(number + 1))
}

#[cfg(test)]
mod tests {
    use smol::block_on;

    use super::*;
    use crate::store::registry::manifests::testing::store;
    use crate::types::UnixSeconds;

    fn deed(subject: &str) -> Deed {
        let [actor, action] = ["uid 0", "scope-map create"].map(str::to_owned);
        Deed { at: UnixSeconds(7), actor, action, subject: subject.to_owned() }
    }

    #[test]
    fn a_deed_is_written_with_its_change_and_only_then() {
        let store = store();
        let grant = || vec!["repositories/app/content/read".parse().unwrap()];
        let create = |name: &str| {
            let store = store.doing(deed(name));
            let made = store.scope_map_create(name.parse().unwrap(), String::new(), grant());
            block_on(made).map(drop)
        };
        create("map-one").unwrap();
        let sequence = store.sequence();
        assert!(create("map-one").is_err(), "it exists already");
        block_on(store.doing(deed("nothing")).act(|_| Ok(()))).unwrap();
        assert_eq!(store.sequence(), sequence, "no record of a deed alone");
        create("map-two").unwrap();
        assert_eq!(store.sequence(), sequence + 1, "one record for both");
        let deeds = block_on(store.deeds()).unwrap();
        assert_eq!(deeds, [deed("map-one"), deed("map-two")]);
    }

    #[test]
    fn f209_the_oldest_deeds_go() {
        let store = store();
        let put = |txn: &mut Txn<'_>| {
            (0..=DEEDS_MAX).try_for_each(|number| write(txn, &deed(&number.to_string())))
        };
        block_on(store.commit(put)).unwrap();
        let deeds = block_on(store.deeds()).unwrap();
        let ends = [deeds.first(), deeds.last()].map(|deed| deed.unwrap().subject.clone());
        assert_eq!(deeds.len() as u64, DEEDS_MAX);
        assert_eq!(ends, ["1".to_owned(), DEEDS_MAX.to_string()]);
    }
}

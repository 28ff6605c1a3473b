//! What a node offers a parent that was replaced or restored, and may have lost what it had taken.

use super::outbox::{Origin, OutboxChange, OutboxEntry, enqueue};
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::node::{Fact, offer_key};
use crate::store::rows::outbox::{entry_key, remember};
use crate::store::rows::tag::{TagRow, tag_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError};
use crate::types::{Digest, RepositoryName, Tag};

/// Repositories noted in one record as those in which the parent is offered what it lacks.
const OFFERS_AT_ONCE: usize = 256;

impl Store {
    /// Notes that in these repositories the parent may have lost what it had: what it lacks is
    /// offered to it at the next comparison.
    pub async fn note_offers(&self, repositories: Vec<RepositoryName>) -> Result<(), StoreError> {
        for page in repositories.chunks(OFFERS_AT_ONCE) {
            let keys: Vec<_> = page.iter().map(offer_key).collect();
            self.commit(|txn| {
                keys.into_iter().try_for_each(|key| txn.put_changed(key, &Fact::Mark))
            })
            .await?;
        }
        Ok(())
    }

    /// Whether what the parent lacks in this repository is offered to it.
    pub fn offers(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        Ok(self.get::<Fact>(&offer_key(repository))?.is_some())
    }

    /// Notes that what the parent lacked in this repository is on its way up.
    pub async fn offered(&self, repository: &RepositoryName) -> Result<(), StoreError> {
        let key = offer_key(repository);
        self.commit(move |txn| {
            txn.delete(key);
            Ok(())
        })
        .await
    }

    /// Notes of each tag with changes that wait that the parent may have no such tag any more, by
    /// nobody's doing.
    pub async fn outbox_may_begin_with_nothing(&self) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let page = self.outbox_after(after, OFFERS_AT_ONCE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = *last;
            let numbers: Vec<u64> = page.into_iter().map(|(number, _)| number).collect();
            self.commit(move |txn| {
                for number in numbers {
                    let row_key = entry_key(number);
                    if let Some(mut entry) = txn.get::<OutboxEntry>(&row_key)?
                        && matches!(entry.change, OutboxChange::Tag { .. })
                    {
                        remember(&mut entry.unheard, None);
                        txn.put_changed(row_key, &entry)?;
                    }
                }
                Ok(())
            })
            .await?;
        }
    }

    /// Has a tag go up as it is, as one that the parent does not have, unless it was moved or
    /// changes of it wait.
    pub async fn outbox_offer_tag(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let (repository, tag, digest) = (repository.clone(), tag.clone(), digest.clone());
        self.commit(move |txn| {
            let named = txn.get::<TagRow>(&tag_key(&repository, &tag))?.map(|row| row.digest);
            let waiting = txn.scan::<OutboxEntry>(&prefix(Kind::Outbox, &[]))?;
            let is_free = !waiting.iter().any(|(_, entry)| entry.is_of_tag(&repository, &tag));
            if named.as_ref() == Some(&digest) && is_free {
                let change = OutboxChange::Tag { tag, base: None, digest: Some(digest) };
                enqueue(txn, &Origin::Client, &repository, change)?;
            }
            Ok(())
        })
        .await
    }

    /// Has a manifest go up by its digest, if it is here.
    pub async fn outbox_offer_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let (repository, digest) = (repository.clone(), digest.clone());
        self.commit(move |txn| {
            if txn.get::<ManifestRow>(&manifest_key(&repository, &digest))?.is_some() {
                let change = OutboxChange::ManifestAdded { digest };
                enqueue(txn, &Origin::Client, &repository, change)?;
            }
            Ok(())
        })
        .await
    }
}

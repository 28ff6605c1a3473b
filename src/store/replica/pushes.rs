//! Uploads to the parent that are under way: what a cut or a restart interrupts goes on where the
//! parent has it.

use crate::store::rows::node::pushes_key;
use crate::store::rows::pushes::{Push, Pushes};
use crate::store::{Store, StoreError};
use crate::types::{Digest, RepositoryName};

/// Uploads that are remembered. Over it the oldest is forgotten: its blob is sent from the start.
const PUSHES_MAX: usize = 16;
/// Longest location that is remembered, bytes. Over it: the blob is sent from the start.
const LOCATION_BYTES_MAX: usize = 2048;

impl Push {
    fn is_of(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        self.repository == *repository && self.digest == *digest
    }
}

impl Store {
    /// Where the parent has a part of a blob, as it called the place.
    pub fn push_location(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<String>, StoreError> {
        let pushes = self.get::<Pushes>(&pushes_key())?.unwrap_or_default().0;
        let found = pushes.into_iter().find(|push| push.is_of(repository, digest));
        Ok(found.map(|push| push.location))
    }

    /// Notes where the upload of a blob is, or that there is none any more.
    pub async fn note_push(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        location: Option<&str>,
    ) -> Result<(), StoreError> {
        let location = location.filter(|location| location.len() <= LOCATION_BYTES_MAX);
        if location.is_none() && self.push_location(repository, digest)?.is_none() {
            return Ok(());
        }
        let (repository, digest) = (repository.clone(), digest.clone());
        let location = location.map(str::to_owned);
        self.commit(move |txn| {
            let mut pushes = txn.get::<Pushes>(&pushes_key())?.unwrap_or_default();
            pushes.0.retain(|push| !push.is_of(&repository, &digest));
            if let Some(location) = location {
                pushes.0.push(Push { repository, digest, location });
            }
            let over = pushes.0.len().saturating_sub(PUSHES_MAX);
            pushes.0.drain(..over);
            if pushes.0.is_empty() {
                txn.delete(pushes_key())?;
                return Ok(());
            }
            txn.put(pushes_key(), &pushes)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::registry::manifests::testing::{digest, store};

    #[test]
    fn f170_the_last_uploads_are_remembered() {
        smol::block_on(async {
            let store = store();
            let (app, lab) = ("app".parse().unwrap(), "lab".parse().unwrap());
            let at = |repository, number| store.push_location(repository, &digest(number)).unwrap();
            store.note_push(&app, &digest(1), Some("app/1")).await.unwrap();
            store.note_push(&lab, &digest(1), Some("lab/1")).await.unwrap();
            store.note_push(&app, &digest(1), Some("app/2")).await.unwrap();
            assert_eq!(at(&app, 1).as_deref(), Some("app/2"), "the newer one");
            assert_eq!(at(&lab, 1).as_deref(), Some("lab/1"));
            assert_eq!(at(&app, 2), None);
            let before = store.sequence();
            store.note_push(&app, &digest(2), None).await.unwrap();
            store.note_push(&app, &digest(2), Some(&"x".repeat(3000))).await.unwrap();
            assert_eq!((at(&app, 2), store.sequence()), (None, before), "nothing to note");
            for number in 10..9 + u8::try_from(PUSHES_MAX).unwrap() {
                store.note_push(&app, &digest(number), Some("more")).await.unwrap();
            }
            assert_eq!(at(&lab, 1), None, "the oldest is forgotten");
            assert_eq!(at(&app, 1).as_deref(), Some("app/2"));
            store.note_push(&app, &digest(1), None).await.unwrap();
            assert_eq!(at(&app, 1), None);
        });
    }
}

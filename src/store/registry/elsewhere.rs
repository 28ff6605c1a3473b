//! What images name that may lie elsewhere by design, and is not here.

use std::collections::BTreeSet;

use crate::store::rows::link::{BlobLink, blob_key};
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::{Store, StoreError};
use crate::types::{Digest, RepositoryName};

/// Manifests of an index that are looked at. Over it: the rest is not.
const MANIFESTS_MAX: usize = 256;

/// What they name that is looked for. Over it: the rest is not.
const LOOKED_FOR_MAX: usize = 16_384;

impl Store {
    /// Of what an image names and may lie elsewhere, what cannot be pulled from its repository; at
    /// most `limit`. Blocks.
    pub fn missing_elsewhere(
        &self,
        repository: &RepositoryName,
        root: &Digest,
        limit: usize,
    ) -> Result<BTreeSet<Digest>, StoreError> {
        let (mut missing, mut left) = (BTreeSet::new(), vec![root.clone()]);
        let (mut seen, mut looked) = (0, 0);
        while let Some(digest) = left.pop() {
            seen += 1;
            let row = self.get::<ManifestRow>(&manifest_key(repository, &digest))?;
            let Some(ManifestRow { elsewhere, children, .. }) = row else { continue };
            for blob in elsewhere.into_iter().flatten() {
                looked += 1;
                if missing.len() >= limit || looked > LOOKED_FOR_MAX {
                    return Ok(missing);
                }
                // Nobody uses it by being asked whether it is here.
                if self.get::<BlobLink>(&blob_key(repository, &blob))?.is_none() {
                    missing.insert(blob);
                }
            }
            let room = MANIFESTS_MAX.saturating_sub(seen + left.len());
            left.extend(children.into_iter().take(room));
        }
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use crate::store::PutOutcome;
    use crate::store::content::leases::Lease;
    use crate::store::registry::manifests::testing::{digest, put, store};
    use crate::types::media;

    #[test]
    fn f206_f209_what_lies_elsewhere_is_looked_for_within_bounds() {
        smol::block_on(async {
            let (store, app) = (store(), "app".parse().unwrap());
            let layer = |number: u8| {
                let digest = digest(number);
                format!(
                    r#"{{"mediaType":"a/b","size":4,"digest":"{digest}","urls":["http://a/"]}}"#
                )
            };
            let layers: Vec<String> = (200..210).map(layer).collect();
            store.link_blob(&app, &Lease::unseen(&digest(100)), 5).await.unwrap();
            let text = format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{}","size":5}},
                    "layers":[{}]}}"#,
                digest(100),
                layers.join(",")
            );
            let pushed = store.put_manifest(&app, put(1, media::OCI_MANIFEST, &text, &[])).await;
            assert_eq!(pushed, Ok(PutOutcome::Stored));
            let entry = format!(
                r#"{{"mediaType":"{}","digest":"{}","size":9}}"#,
                media::OCI_MANIFEST,
                digest(1)
            );
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
            let pushed = store.put_manifest(&app, put(2, media::OCI_INDEX, &text, &[])).await;
            assert_eq!(pushed, Ok(PutOutcome::Stored));
            store.link_blob(&app, &Lease::unseen(&digest(203)), 4).await.unwrap();
            let found = store.missing_elsewhere(&app, &digest(2), 256).unwrap();
            let wanted = (200..210).filter(|number| *number != 203).map(digest).collect();
            assert_eq!(found, wanted);
            assert_eq!(store.missing_elsewhere(&app, &digest(2), 3).unwrap().len(), 3);
        });
    }
}

//! Which manifests refer to which as their subject (OCI distribution-spec, "Listing Referrers").

use crate::store::rows::digest_at;
use crate::store::rows::referrer::{ReferrerRow, referrer_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{ManifestRow, Store, StoreError};
use crate::types::{Digest, RepositoryName};

impl Store {
    /// Manifests that refer to `subject`, greater than `after`, in the order of their digests, at
    /// most `limit`, without what they name. The subject itself need not exist.
    pub fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, ManifestRow)>, StoreError> {
        let start = prefix(Kind::Referrer, &[repository.as_str().as_bytes(), &subject.to_key()]);
        let after = after.map(|digest| referrer_key(repository, subject, digest));
        let rows = self.scan::<ReferrerRow>(&start, after.as_deref(), limit)?;
        let mut found = Vec::with_capacity(rows.len());
        for (key, ReferrerRow) in rows {
            let digest = digest_at(&key, start.len())?;
            // A manifest deleted between the two reads is simply no longer listed.
            if let Some(row) = self.manifest(repository, &digest)? {
                let (blobs, children) = (Vec::new(), Vec::new());
                found.push((digest, ManifestRow { blobs, children, elsewhere: None, ..row }));
            }
        }
        Ok(found)
    }
}

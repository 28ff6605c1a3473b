//! What manifests name, may be without, and lack: layers that may lie elsewhere, entries of an
//! index that may be absent, and manifests of an index that were deleted.

use std::collections::BTreeMap;

use crate::store::rows::derived::{Count, named_in, needed_key};
use crate::store::rows::link::blob_key;
use crate::store::rows::manifest::{ManifestRow, manifest_key};
use crate::store::rows::{self, Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::digest::Algorithm;
use crate::types::{Digest, RepositoryName};

/// Manifests below an index that are looked at. Over it: the rest is not.
const MANIFESTS_MAX: usize = 256;

/// What is named that is looked for at a time. Over it: the rest is not.
const LOOKED_FOR_MAX: usize = 16_384;

/// As what content is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Named {
    /// As a blob.
    Blob,
    /// As a manifest.
    Manifest,
    /// As something of a type that nobody knows.
    Either,
}

/// What a manifest may be without.
fn may_lack(row: ManifestRow) -> impl Iterator<Item = (Digest, Named)> {
    let is_image = row.is_image();
    let (named, blobs) = match is_image {
        true => (Named::Blob, Vec::new()),
        false => (Named::Either, row.blobs),
    };
    let elsewhere = row.elsewhere.into_iter().flatten();
    let others = elsewhere.chain(blobs).map(move |digest| (digest, named));
    others.chain(row.children.into_iter().map(|digest| (digest, Named::Manifest)))
}

impl Store {
    /// Whether a manifest, or one below it, lacks something that it may be without. Blocks.
    pub fn lacks(&self, repository: &RepositoryName, root: &Digest) -> Result<bool, StoreError> {
        let (mut left, mut seen, mut looked) = (vec![root.clone()], 0, 0);
        while let Some(digest) = left.pop() {
            seen += 1;
            let row = self.get::<ManifestRow>(&manifest_key(repository, &digest))?;
            for (name, named) in row.into_iter().flat_map(may_lack) {
                looked += 1;
                match self.look_for(repository, &name, named)? {
                    None => return Ok(true),
                    Some(Named::Manifest) if seen + left.len() < MANIFESTS_MAX => left.push(name),
                    Some(_) => {}
                }
                if looked >= LOOKED_FOR_MAX {
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// What manifests of a repository lack that they may be without, at most `limit`, and whether
    /// that is all. Those come first whose digest begins with `from` or is greater. Blocks.
    pub fn lacking(
        &self,
        repository: &RepositoryName,
        from: u64,
        limit: usize,
    ) -> Result<(BTreeMap<Digest, Named>, bool), StoreError> {
        let start = prefix(Kind::Manifest, &[repository.as_str().as_bytes()]);
        let mut raw = [0; 32];
        raw[..8].copy_from_slice(&from.to_be_bytes());
        let middle = Digest::from_raw(Algorithm::Sha256, &raw);
        let middle = middle.map_or_else(|| start.clone(), |at| manifest_key(repository, &at));
        let (mut found, mut looked, mut is_again) = (BTreeMap::new(), 0, false);
        let mut after = Some(middle.clone());
        loop {
            let page = self.page_of_bytes(&start, after.as_deref())?;
            match page.last() {
                None if is_again => return Ok((found, true)),
                None => is_again = true,
                Some(_) => {}
            }
            after = page.last().map(|(key, _)| key.clone());
            for (key, row) in page {
                if is_again && key > middle {
                    return Ok((found, true));
                }
                // A manifest may lack more than is asked for: its names too begin at another place.
                let mut names: Vec<_> = may_lack(rows::decode(&row)?).collect();
                let first = usize::try_from(from).unwrap_or(0).checked_rem(names.len());
                names.rotate_left(first.unwrap_or(0));
                for (name, named) in names {
                    if found.len() >= limit || looked >= LOOKED_FOR_MAX {
                        return Ok((found, false));
                    }
                    looked += 1;
                    if self.look_for(repository, &name, named)?.is_none() {
                        let known = found.entry(name).or_insert(named);
                        *known = if *known == named { named } else { Named::Either };
                    }
                }
            }
        }
    }

    /// Whether a manifest of the repository names this blob or manifest.
    pub fn is_named(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        Ok(self.get::<Count>(&needed_key(repository, digest))?.is_some())
    }

    /// Whether a tag or a manifest of the repository names this manifest.
    pub fn is_named_or_tagged(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        self.look_up(|index| is_named_or_tagged(&Txn::new(index), repository, digest))
    }

    /// As what it is here. Nobody uses content by being asked whether it is here.
    fn look_for(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        named: Named,
    ) -> Result<Option<Named>, StoreError> {
        // Whole rows of thousands of children would take long to read.
        let is_here = |key: &[u8]| self.look_up(|index| index.get(key)).map(|row| row.is_some());
        if named != Named::Blob && is_here(&manifest_key(repository, digest))? {
            return Ok(Some(Named::Manifest));
        }
        let is_blob = named != Named::Manifest && is_here(&blob_key(repository, digest))?;
        Ok(is_blob.then_some(Named::Blob))
    }
}

/// Whether a tag or a manifest of the repository names this manifest.
pub(in crate::store) fn is_named_or_tagged(
    txn: &Txn<'_>,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<bool, StoreError> {
    let is_tagged = txn.has_any(&named_in(repository, digest))?;
    Ok(is_tagged || txn.has(&needed_key(repository, digest))?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Named;
    use crate::store::content::leases::Lease;
    use crate::store::registry::manifests::testing::{digest, put, store};
    use crate::store::{PutOutcome, StoreError};
    use crate::types::media;

    #[test]
    fn f206_f209_what_manifests_lack_is_found_within_bounds() {
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
            let image = |layers: &[String]| {
                format!(
                    r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{}","size":5}},
                        "layers":[{}]}}"#,
                    digest(100),
                    layers.join(",")
                )
            };
            let entry = |number, more| {
                let (kind, digest) = (media::OCI_MANIFEST, digest(number));
                format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":9{more}}}"#)
            };
            let index = |entries: &[String]| {
                format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","))
            };
            let whole = image(&[]);
            for (number, kind, text) in [
                (1, media::OCI_MANIFEST, image(&layers)),
                (2, media::OCI_INDEX, index(&[entry(1, "")])),
                (3, media::OCI_MANIFEST, whole.clone()),
                (4, media::OCI_INDEX, index(&[entry(3, ""), entry(210, r#","urls":["x"]"#)])),
                (5, media::OCI_INDEX, index(&[entry(3, "")])),
            ] {
                let pushed = store.put_manifest(&app, put(number, kind, &text, &[])).await;
                assert_eq!(pushed, Ok(PutOutcome::Stored), "{number}");
            }
            let link = async |blob: u8, named: u8| {
                let (lease, named) = (Lease::unseen(&digest(blob)), digest(named));
                store.link_named_blob(&app, &lease, 4, &named).await
            };
            assert_eq!([link(203, 203).await, link(98, 3).await], [Ok(()), Ok(())]);
            let unnamed = link(99, 99).await;
            assert!(matches!(unnamed, Err(StoreError::Conflict(_))), "{unnamed:?}");
            let lacks = |number| store.lacks(&app, &digest(number)).unwrap();
            assert_eq!([1, 2, 3, 4, 5].map(lacks), [true, true, false, true, false]);
            assert!(!lacks(77), "it is not here");
            let wanted = (200..211).filter(|number| *number != 203);
            let wanted = wanted
                .map(|number| {
                    (digest(number), if number == 210 { Named::Manifest } else { Named::Blob })
                })
                .collect();
            for from in [0, 3 << 56 | u64::MAX >> 8, u64::MAX] {
                let found = store.lacking(&app, from, 256).unwrap();
                assert_eq!(found, (BTreeMap::clone(&wanted), true), "{from}");
            }
            // Those behind the place come first.
            let first = |from| {
                let (mut found, is_all) = store.lacking(&app, from, 1).unwrap();
                assert!(!is_all);
                found.pop_first().unwrap().0
            };
            let place = |number| u64::from_be_bytes(digest(number).raw()[..8].try_into().unwrap());
            assert!((200..210).map(digest).any(|layer| layer == first(place(1) - 1)));
            assert_eq!(first(place(4) - 1), digest(210));
        });
    }
}

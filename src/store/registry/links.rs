//! The links of repositories to content: every blob and every manifest that a repository holds.

use crate::store::rows::link::BlobLink;
use crate::store::rows::link::split_key;
use crate::store::rows::link::{Referred, repository_of};
use crate::store::rows::{self, Kind, prefix};
use crate::store::{ManifestRow, Store, StoreError};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName};

/// A link as it is in the index.
pub(in crate::store) struct Link {
    pub(in crate::store) key: Vec<u8>,
    row: Vec<u8>,
}

impl Link {
    /// `Corrupt` when its key names no content.
    pub(in crate::store) fn digest(&self) -> Result<Digest, StoreError> {
        split_key(&self.key).map(|(_, digest)| digest).ok_or_else(|| self.corrupt())
    }

    /// `Corrupt` when its key names no repository.
    pub(in crate::store) fn repository(&self) -> Result<RepositoryName, StoreError> {
        repository_of(&self.key).ok_or_else(|| self.corrupt())
    }

    pub(in crate::store) fn referred(&self) -> Result<Referred, StoreError> {
        if self.key.first() == Some(&(Kind::Blob as u8)) {
            return rows::decode::<BlobLink>(&self.row).map(|link| Referred::Blob(link.size));
        }
        rows::decode::<ManifestRow>(&self.row).map(|manifest| Referred::Manifest(manifest.size))
    }

    fn corrupt(&self) -> StoreError {
        let text = format!("a link with a key of {} bytes names nothing", self.key.len());
        StoreError::Corrupt(text)
    }
}

impl Store {
    /// The next links whose keys are greater than `after`, blobs first; none when that was the
    /// last. Blocks.
    pub(in crate::store) fn links(&self, after: Option<&[u8]>) -> Result<Vec<Link>, StoreError> {
        for kind in [Kind::Blob, Kind::Manifest] {
            let start = prefix(kind, &[]);
            if after.is_some_and(|after| after.first() > start.first()) {
                continue;
            }
            let page = self.page_of_bytes(&start, after)?;
            if !page.is_empty() {
                return Ok(page.into_iter().map(|(key, row)| Link { key, row }).collect());
            }
        }
        Ok(Vec::new())
    }

    /// Calls `each` for every link, in the order of [`Store::links`], a page at a time: others go
    /// on in between.
    pub(in crate::store) async fn each_link(
        &self,
        mut each: impl FnMut(&Link) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let store = self.clone();
            let page = spawn::blocking(move || store.links(after.as_deref())).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            page.iter().try_for_each(&mut each)?;
        }
    }

    /// All content that repositories refer to, each digest once per repository and use, in no
    /// order, with its length, bytes; `None` where that cannot be read. Blocks.
    pub fn each_content(
        &self,
        mut each: impl FnMut(&RepositoryName, &Digest, Option<u64>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut page = self.links(None)?;
        while let Some(last) = page.last() {
            let after = last.key.clone();
            page.iter().try_for_each(|link| {
                let len = link.referred().ok().map(Referred::len);
                each(&link.repository()?, &link.digest()?, len)
            })?;
            page = self.links(Some(&after))?;
        }
        Ok(())
    }
}

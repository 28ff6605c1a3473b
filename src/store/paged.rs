//! Rows that are read a page at a time, each on the blocking pool: others go on in between, however
//! many rows there are. What comes or goes meanwhile may be among them or not.

use std::marker::PhantomData;

use super::index::KeyValue;
use super::rows::{self, Stored};
use super::{Store, StoreError};
use crate::sys::spawn;

/// Rows of a page: as many are read in one job, and handed on before others go on.
pub const PAGE_ROWS: usize = 256;
/// A page has no further row when it has this many bytes.
const PAGE_BYTES: usize = 128 * 1024;

/// The rows under a prefix that were not read yet.
pub struct Pages<R> {
    store: Store,
    start: Vec<u8>,
    after: Option<Vec<u8>>,
    row: PhantomData<fn() -> R>,
}

impl Store {
    /// All rows whose keys start with `start`.
    pub fn pages<R: Stored + Send + 'static>(&self, start: Vec<u8>) -> Pages<R> {
        Pages { store: self.clone(), start, after: None, row: PhantomData }
    }

    /// The keys of those rows.
    pub(in crate::store) fn keys(&self, start: Vec<u8>) -> Pages<()> {
        Pages { store: self.clone(), start, after: None, row: PhantomData }
    }

    /// The rows with these keys, as far as they are there, in the order of the keys.
    pub async fn rows_of<R: Stored + Send + 'static>(
        &self,
        keys: Vec<Vec<u8>>,
    ) -> Result<Vec<R>, StoreError> {
        let mut rows = Vec::with_capacity(keys.len());
        for page in keys.chunks(PAGE_ROWS) {
            let (store, page) = (self.clone(), page.to_vec());
            let read = move || -> Result<Vec<R>, StoreError> {
                let rows = page.iter().map(|key| store.get::<R>(key));
                rows.filter_map(Result::transpose).collect()
            };
            rows.append(&mut spawn::blocking(read).await?);
        }
        Ok(rows)
    }

    /// The next rows in key order, for jobs on the blocking pool; none when that was the last.
    pub(in crate::store) fn page_of_bytes(
        &self,
        start: &[u8],
        after: Option<&[u8]>,
    ) -> Result<Vec<KeyValue>, StoreError> {
        self.look_up(|index| index.page(start, after, PAGE_ROWS, PAGE_BYTES))
    }
}

impl<R> Pages<R> {
    /// Reads the next rows in key order, and does what is to be done with them in the same job. No
    /// rows when that was the last.
    pub(in crate::store) async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Store, Vec<KeyValue>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (store, start, after) = (self.store.clone(), self.start.clone(), self.after.take());
        let job = move || -> Result<_, StoreError> {
            let page = store.page_of_bytes(&start, after.as_deref())?;
            let last = page.last().map(|(key, _)| key.clone());
            Ok((work(&store, page)?, last))
        };
        let (done, last) = spawn::blocking(job).await?;
        self.after = last;
        Ok(done)
    }
}

impl Pages<()> {
    /// The next keys, in order; none when that was the last.
    pub async fn next_keys(&mut self) -> Result<Vec<Vec<u8>>, StoreError> {
        self.work(|_, page| Ok(page.into_iter().map(|(key, _)| key).collect())).await
    }
}

impl<R: Stored + Send + 'static> Pages<R> {
    /// The next rows in key order; none when that was the last.
    pub async fn next(&mut self) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        self.work(|_, page| {
            page.into_iter().map(|(key, row)| Ok((key, rows::decode(&row)?))).collect()
        })
        .await
    }

    /// All that are left. For rows that one answer is made of.
    pub async fn all(mut self) -> Result<Vec<(Vec<u8>, R)>, StoreError> {
        let mut all = Vec::new();
        loop {
            let mut page = self.next().await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.append(&mut page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::tag::{TagRow, tag_key};
    use crate::store::rows::{Kind, prefix};
    use crate::sys::turn::testing::measure;
    use crate::sys::{Spawner, Sys};
    use crate::types::digest::Algorithm;
    use crate::types::{Digest, UnixSeconds};

    #[test]
    fn f209_pages_have_a_bound_in_rows_and_in_bytes() {
        smol::block_on(async {
            let store = Store::in_memory(Sys::real(Spawner::new()));
            let row = TagRow {
                digest: Digest::from_raw(Algorithm::Sha256, &[1; 32]).unwrap(),
                created: UnixSeconds(1),
                updated: UnixSeconds(1),
                from_below: false,
            };
            // Names of the greatest length in one of them.
            for (name, tag_len) in [("short".to_owned(), 8), ("l".repeat(255), 128)] {
                let name: crate::types::RepositoryName = name.parse().unwrap();
                let keys: Vec<Vec<u8>> = (0..3 * PAGE_ROWS)
                    .map(|n| tag_key(&name, &format!("{n:0tag_len$}").parse().unwrap()))
                    .collect();
                let (put, all) = (row.clone(), keys.clone());
                let put =
                    store.commit(move |txn| keys.into_iter().try_for_each(|k| txn.put(k, &put)));
                put.await.unwrap();
                let start = prefix(Kind::Tag, &[name.as_str().as_bytes()]);
                let (rows, longest) = measure(store.pages::<TagRow>(start).all()).await;
                let found: Vec<Vec<u8>> = rows.unwrap().into_iter().map(|(key, _)| key).collect();
                assert_eq!(found, all);
                let job = longest.job;
                assert_eq!((longest.turn.rows, job.rows), (0, PAGE_ROWS as u64));
                assert!(job.bytes < 2 * PAGE_BYTES as u64, "{job:?}");
                let some = [all[700].clone(), b"none".to_vec(), all[3].clone()].to_vec();
                assert_eq!(store.rows_of::<TagRow>(some).await.unwrap().len(), 2);
            }
        });
    }
}

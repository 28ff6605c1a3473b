//! The list of manifests that refer to one as their subject.

use serde_json::{Value, json};

use super::Registry;
use super::error::store_refusal;
use super::page::next_link;
use super::route::bad_digest;
use crate::auth::{Authorized, Pull};
use crate::http::{Reply, Request};
use crate::store::{ManifestRow, Store, StoreError};
use crate::sys::spawn;
use crate::types::limits::{PAGE_MAX, REFERRERS_PAGE_BYTES_MAX};
use crate::types::{Digest, Refusal, RepositoryName, media};

/// Referrers read from the store at once, on the blocking pool: a filter may pass over many, and
/// other requests must not wait for all of them.
const STEP: usize = 100;

impl Registry {
    /// end-12: GET: an image index, empty when nothing refers to the subject.
    pub(super) async fn referrers(
        &self,
        _who: &Authorized<Pull>,
        request: &Request,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Result<Reply, Refusal> {
        let filter = request.query("artifactType").filter(|filter| !filter.is_empty());
        let after = request.query("last").map(str::parse).transpose();
        let after: Option<Digest> = after.map_err(|fault| bad_digest(400, fault))?;
        let (descriptors, next) =
            list(&self.store, name, subject, filter, after).await.map_err(store_refusal)?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_INDEX,
            "manifests": descriptors,
        });
        let mut reply = Reply::bytes(200, media::OCI_INDEX, index.to_string());
        if filter.is_some() {
            reply = reply.with("oci-filters-applied", "artifactType");
        }
        if let Some(last) = next {
            let last = last.to_string();
            let mut query = vec![("last", last.as_str())];
            query.extend(filter.map(|filter| ("artifactType", filter)));
            let path = format!("/v2/{name}/referrers/{subject}");
            reply = reply.with("link", next_link(&path, &query));
        }
        Ok(reply)
    }
}

/// A page of descriptors, and the last one on it if there are more.
async fn list(
    store: &Store,
    name: &RepositoryName,
    subject: &Digest,
    filter: Option<&str>,
    mut after: Option<Digest>,
) -> Result<(Vec<Value>, Option<Digest>), StoreError> {
    let (mut page, mut bytes, mut last) = (Vec::new(), 0, None);
    loop {
        let (step, end) = matching(store, name, subject, filter, after).await?;
        after = Some(match end {
            Some(end) => end,
            None => return Ok((page, None)),
        });
        for (digest, row) in step {
            if page.len() == PAGE_MAX || bytes > REFERRERS_PAGE_BYTES_MAX {
                return Ok((page, last));
            }
            let descriptor = descriptor(&digest, &row);
            bytes += descriptor.to_string().len();
            page.push(descriptor);
            last = Some(digest);
        }
    }
}

/// Those of the next referrers that the filter lets through, and the last one looked at, if any.
async fn matching(
    store: &Store,
    name: &RepositoryName,
    subject: &Digest,
    filter: Option<&str>,
    after: Option<Digest>,
) -> Result<(Vec<(Digest, ManifestRow)>, Option<Digest>), StoreError> {
    let (store, name, subject) = (store.clone(), name.clone(), subject.clone());
    let filter = filter.map(str::to_owned);
    spawn::blocking(move || {
        let mut step = store.referrers(&name, &subject, after.as_ref(), STEP)?;
        let end = step.last().map(|(digest, _)| digest.clone());
        if let Some(filter) = filter {
            step.retain(|(_, row)| row.artifact_type.as_deref() == Some(filter.as_str()));
        }
        Ok((step, end))
    })
    .await
}

/// A manifest as listings show it (OCI image-spec, "Descriptor").
fn descriptor(digest: &Digest, row: &ManifestRow) -> Value {
    let mut descriptor = json!({
        "mediaType": row.media_type,
        "digest": digest.to_string(),
        "size": row.size,
    });
    if let Some(artifact_type) = &row.artifact_type {
        descriptor["artifactType"] = json!(artifact_type);
    }
    if !row.annotations.is_empty() {
        descriptor["annotations"] = json!(row.annotations);
    }
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::content::leases::Lease;
    use crate::store::replica::outbox::Origin;
    use crate::store::{Precondition, PutManifest};
    use crate::sys::{Spawner, Sys};
    use crate::types::Manifest;
    use crate::types::digest::Algorithm;

    fn digest(number: u16) -> Digest {
        let mut raw = [0; 32];
        raw[..2].copy_from_slice(&number.to_be_bytes());
        Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
    }

    /// A store where `count` referrers of digest 0 take turns in two artifact types.
    async fn store(count: u16, note: &str) -> Store {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        for number in 1..=count {
            let kind = if number % 2 == 0 { "application/even" } else { "application/odd" };
            let text = format!(
                r#"{{"schemaVersion":2,"artifactType":"{kind}","annotations":{{"n":"{note}"}},
                    "subject":{{"mediaType":"{}","digest":"{}","size":3}}}}"#,
                media::OCI_MANIFEST,
                digest(0)
            );
            let put = PutManifest {
                content: Lease::unseen(&digest(number)),
                media_type: media::OCI_INDEX.to_owned(),
                bytes_len: text.len() as u64,
                parsed: Manifest::parse(Some(media::OCI_INDEX), text.as_bytes()).unwrap(),
                tags: Vec::new(),
                precondition: Precondition::None,
                content_required: true,
                origin: Origin::Client,
            };
            store.put_manifest(&"a".parse().unwrap(), put).await.unwrap();
        }
        store
    }

    #[test]
    fn f154_referrers_are_filtered() {
        smol::block_on(async {
            let store = store(301, "x").await;
            let name = "a".parse().unwrap();
            let count =
                async |filter| list(&store, &name, &digest(0), filter, None).await.unwrap().0.len();
            assert_eq!(count(None).await, 301);
            assert_eq!(count(Some("application/even")).await, 150);
            assert_eq!(count(Some("application/none")).await, 0);
            let rest = list(&store, &name, &digest(0), None, Some(digest(300))).await;
            let (page, _) = rest.unwrap();
            assert_eq!(page[0]["digest"], digest(301).to_string());
            assert_eq!(page[0]["artifactType"], "application/odd");
            assert_eq!(page[0]["annotations"]["n"], "x");
        });
    }

    #[test]
    fn f209_a_filter_that_passes_over_many_lets_others_in() {
        smol::block_on(async {
            let store = store(1000, "x").await;
            let name = "a".parse().unwrap();
            let mut turns = 0;
            let listed = smol::future::or(
                async { Some(list(&store, &name, &digest(0), Some("a/none"), None).await) },
                async {
                    loop {
                        turns += 1;
                        spawn::yield_now().await;
                    }
                },
            );
            assert_eq!(listed.await, Some(Ok((Vec::new(), None))));
            // One for each of eleven steps, but for those that end before they are looked at.
            assert!(turns >= 3, "others had {turns} turns");
        });
    }

    #[test]
    fn large_listings_come_in_pages() {
        smol::block_on(async {
            let note = "x".repeat(15_000);
            let store = store(200, &note).await;
            let name = "a".parse().unwrap();
            let (mut seen, mut after, mut pages) = (0, None, 0);
            loop {
                let (page, next) = list(&store, &name, &digest(0), None, after).await.unwrap();
                seen += page.len();
                pages += 1;
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!((seen, pages), (200, 3));
        });
    }
}

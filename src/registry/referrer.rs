//! The list of manifests that refer to one as their subject.

use serde_json::{Value, json};

use super::error::store_refusal;
use super::page::next_link;
use super::route::bad_digest;
use super::{Registry, sender};
use crate::auth::{Authorized, Pull};
use crate::http::{Reply, Request};
use crate::store::{ManifestRow, Store, StoreError};
use crate::sys::spawn;
use crate::types::limits::{BUFFER_BYTES, PAGE_MAX, REFERRERS_PAGE_BYTES_MAX};
use crate::types::{Digest, Refusal, RepositoryName, media};

/// Referrers read from the store at once, on the blocking pool: a filter may pass over many, and
/// other requests must not wait for all of them.
const STEP: usize = 96;
/// Of them, those whose annotations are in memory at once.
const ROWS: usize = 16;
/// What stands around the descriptors of a page, bytes.
const FRAME_BYTES: usize = 256;

impl Registry {
    /// end-12: GET: an image index, empty when nothing refers to the subject. A page has as many
    /// descriptors as a connection has memory for, or, while there is memory for large replies, up
    /// to [`REFERRERS_PAGE_BYTES_MAX`].
    pub(super) async fn referrers(
        &self,
        who: &Authorized<Pull>,
        request: &Request,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Result<Reply, Refusal> {
        let filter = request.query("artifactType").filter(|filter| !filter.is_empty());
        let after = request.query("last").map(str::parse).transpose();
        let after: Option<Digest> = after.map_err(|fault| bad_digest(400, fault))?;
        let to = sender(&who.principal);
        let mut reservation = None;
        let more_room = || {
            let reserved = request.body.reserve_for_reply(to, REFERRERS_PAGE_BYTES_MAX as u64);
            reserved.is_ok_and(|reserved| {
                reservation = reserved;
                true
            })
        };
        let listing = Listing {
            store: self.store.clone(),
            name: name.clone(),
            subject: subject.clone(),
            filter: filter.map(str::to_owned),
            after,
            text: String::new(),
            count: 0,
        };
        let (descriptors, next) = list(listing, more_room).await.map_err(store_refusal)?;
        let mut index = String::with_capacity(FRAME_BYTES + descriptors.len());
        index.push_str("{\"schemaVersion\":2,\"mediaType\":\"");
        index.push_str(media::OCI_INDEX);
        index.push_str("\",\"manifests\":[");
        index.push_str(&descriptors);
        index.push_str("]}");
        drop(descriptors);
        let mut reply = Reply::bytes(200, media::OCI_INDEX, index).to(to);
        reply.reservation = reservation;
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

/// A page of descriptors as JSON, and the last one looked at if there are more. `more_room` is
/// asked once, when they come to more than a connection has memory for.
async fn list(
    mut listing: Listing,
    mut more_room: impl FnMut() -> bool,
) -> Result<(String, Option<Digest>), StoreError> {
    let mut room = BUFFER_BYTES - FRAME_BYTES;
    loop {
        let state;
        (listing, state) = listing.extend(room).await?;
        match state {
            State::Under => {}
            State::Ended => return Ok((listing.text, None)),
            State::Full => {
                let is_large = room > BUFFER_BYTES || listing.count == PAGE_MAX;
                if is_large || !more_room() {
                    return Ok((listing.text, listing.after));
                }
                room = REFERRERS_PAGE_BYTES_MAX - FRAME_BYTES;
            }
        }
    }
}

/// A page that is being made.
struct Listing {
    store: Store,
    name: RepositoryName,
    subject: Digest,
    filter: Option<String>,
    /// The last one looked at.
    after: Option<Digest>,
    /// Descriptors, with commas between them.
    text: String,
    count: usize,
}

#[derive(PartialEq, Eq)]
enum State {
    /// There may be more, and there is room.
    Under,
    /// The next one has no room.
    Full,
    Ended,
}

impl Listing {
    /// Adds some of the next referrers, as far as they have room.
    async fn extend(mut self, room: usize) -> Result<(Listing, State), StoreError> {
        spawn::blocking(move || {
            let mut state = State::Under;
            for _ in 0..STEP / ROWS {
                state = self.add(room)?;
                if state != State::Under {
                    break;
                }
            }
            Ok((self, state))
        })
        .await
    }

    fn add(&mut self, room: usize) -> Result<State, StoreError> {
        let after = self.after.as_ref();
        let rows = self.store.referrers(&self.name, &self.subject, after, ROWS)?;
        if rows.is_empty() {
            return Ok(State::Ended);
        }
        for (digest, row) in rows {
            if self.filter.is_none() || row.artifact_type == self.filter {
                let descriptor = descriptor(&digest, &row).to_string();
                // The first one has room anyway: a page must not be empty when there are more.
                let fits = self.text.len() + 1 + descriptor.len() <= room && self.count < PAGE_MAX;
                if self.count > 0 {
                    if !fits {
                        return Ok(State::Full);
                    }
                    self.text.push(',');
                }
                self.text.push_str(&descriptor);
                self.count += 1;
            }
            self.after = Some(digest);
        }
        Ok(State::Under)
    }
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
    use crate::store::{Precondition, PutManifest, Required};
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
                required: Required::All,
                origin: Origin::Client,
            };
            store.put_manifest(&"a".parse().unwrap(), put).await.unwrap();
        }
        store
    }

    fn listing(
        store: &Store,
        name: &RepositoryName,
        filter: Option<&str>,
        after: Option<Digest>,
    ) -> Listing {
        Listing {
            store: store.clone(),
            name: name.clone(),
            subject: digest(0),
            filter: filter.map(str::to_owned),
            after,
            text: String::new(),
            count: 0,
        }
    }

    /// A page where there is memory for large ones.
    async fn page(
        store: &Store,
        name: &RepositoryName,
        filter: Option<&str>,
        after: Option<Digest>,
    ) -> (Vec<Value>, Option<Digest>) {
        let (text, next) = list(listing(store, name, filter, after), || true).await.unwrap();
        (serde_json::from_str(&format!("[{text}]")).unwrap(), next)
    }

    #[test]
    fn f154_referrers_are_filtered() {
        smol::block_on(async {
            let store = store(301, "x").await;
            let name = "a".parse().unwrap();
            let count = async |filter| page(&store, &name, filter, None).await.0.len();
            assert_eq!(count(None).await, 301);
            assert_eq!(count(Some("application/even")).await, 150);
            assert_eq!(count(Some("application/none")).await, 0);
            let (page, _) = page(&store, &name, None, Some(digest(300))).await;
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
            // Each step is a job of its own on the blocking pool, behind what waits there.
            let mut under_way = listing(&store, &name, Some("a/none"), None);
            let mut looked_at = Vec::new();
            loop {
                let state;
                (under_way, state) = under_way.extend(BUFFER_BYTES).await.unwrap();
                looked_at.push(under_way.after.clone().unwrap());
                if state == State::Ended {
                    break;
                }
            }
            let step = u16::try_from(STEP).unwrap();
            let steps = (1..=10).map(|number| number * step).chain([1000]);
            assert_eq!(looked_at, steps.map(digest).collect::<Vec<_>>());
            assert_eq!(page(&store, &name, Some("a/none"), None).await, (Vec::new(), None));
        });
    }

    #[test]
    fn f209_large_listings_come_in_pages_of_what_there_is_memory_for() {
        smol::block_on(async {
            let store = store(200, &"x".repeat(15_000)).await;
            let name = "a".parse().unwrap();
            for (has_room, most, pages) in [(true, 256 * 1024, 12), (false, 64 * 1024, 50)] {
                let (mut seen, mut after, mut count) = (0, None, 0);
                loop {
                    let asked = listing(&store, &name, None, after);
                    let (text, next) = list(asked, || has_room).await.unwrap();
                    assert!(text.len() < most, "{}", text.len());
                    let page: Vec<Value> = serde_json::from_str(&format!("[{text}]")).unwrap();
                    seen += page.len();
                    count += 1;
                    after = next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!((seen, count), (200, pages));
            }
        });
    }
}

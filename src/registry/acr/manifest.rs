//! Manifests with their tags, their sizes and what they are for.

use serde::Deserialize;
use serde_json::{Value, json};

use super::listing::{Listing, Order};
use super::{ROOT, attributes, registry_of};
use crate::auth::{Authorized, ReadMetadata};
use crate::http::{Reply, Request};
use crate::registry::error::store_refusal;
use crate::registry::{Registry, sender};
use crate::store::{Store, StoreError};
use crate::sys::spawn;
use crate::types::{Digest, Refusal, RepositoryName, Tag, UnixSeconds};

/// Manifests in one page: the configuration of each is read.
const MANIFESTS_MAX: usize = 100;
/// Tags that are shown of one manifest.
const TAGS_MAX: usize = 256;
/// Longest configuration that is read for what it is for, bytes.
const CONFIG_BYTES_MAX: u64 = 64 * 1024;

/// What the configuration of an image says that is shown.
#[derive(Deserialize, Default)]
struct Platform {
    architecture: Option<String>,
    os: Option<String>,
}

impl Registry {
    /// GET `_manifests`.
    pub(super) async fn manifests_list(
        &self,
        who: &Authorized<ReadMetadata>,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<Reply, Refusal> {
        let listing = Listing::of(request, MANIFESTS_MAX)?;
        if self.store.repository(name).map_err(store_refusal)?.is_none() {
            return Err(self.not_read(name, StoreError::NotFound));
        }
        let (store, repository, asked) = (self.store.clone(), name.clone(), listing.clone());
        let found = spawn::blocking(move || {
            let (digests, more) = match chosen(&store, &repository, &asked)? {
                Ok(chosen) => chosen,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let mut entries = Vec::new();
            for digest in digests {
                // One that went meanwhile is not shown.
                entries.extend(Entry::of(&store, &repository, digest)?);
            }
            Ok(Ok((entries, more)))
        });
        let (entries, more) = found.await.map_err(store_refusal)??;
        let last = entries.last().map(|entry| (entry.digest.clone(), entry.pushed));
        let mut shown = Vec::new();
        for entry in entries {
            shown.push(self.with_platform(name, entry).await);
        }
        let body = json!({
            "registry": registry_of(request), "imageName": name.as_str(), "manifests": shown,
        });
        let mut reply = Reply::json(200, &body).to(sender(&who.principal));
        if let Some((digest, pushed)) = last.filter(|_| more) {
            let path = format!("{ROOT}{name}/_manifests");
            reply = reply.with("link", listing.link(&path, &digest.to_string(), pushed));
        }
        Ok(reply)
    }

    /// GET of one.
    pub(super) async fn manifest_show(
        &self,
        request: &Request,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let (store, repository, of) = (self.store.clone(), name.clone(), digest.clone());
        let entry = spawn::blocking(move || Entry::of(&store, &repository, of)).await;
        let missing = || self.miss("MANIFEST_UNKNOWN", name, format_args!("{name}@{digest}"));
        let entry = entry.map_err(store_refusal)?.ok_or_else(missing)?;
        let manifest = self.with_platform(name, entry).await;
        let body = json!({
            "registry": registry_of(request),
            "imageName": name.as_str(),
            "manifest": manifest,
        });
        Ok(Reply::json(200, &body))
    }

    /// An entry with what an image is for, as its configuration says; without that where it is not
    /// here, or none.
    async fn with_platform(&self, name: &RepositoryName, entry: Entry) -> Value {
        let Entry { mut view, config, .. } = entry;
        let small = config.filter(|digest| {
            let link = self.store.blob_link(name, digest).ok().flatten();
            link.is_some_and(|link| link.size <= CONFIG_BYTES_MAX)
        });
        let bytes = match small {
            Some(digest) => self.store.blob_read(&digest).await.ok().flatten(),
            None => None,
        };
        let platform = bytes.and_then(|bytes| serde_json::from_slice::<Platform>(&bytes).ok());
        let Platform { architecture, os } = platform.unwrap_or_default();
        for (name, value) in [("architecture", architecture), ("os", os)] {
            if let Some(value) = value {
                view[name] = value.into();
            }
        }
        view
    }
}

/// A manifest as it is shown, but for its platform.
struct Entry {
    digest: Digest,
    pushed: UnixSeconds,
    config: Option<Digest>,
    view: Value,
}

/// The digests of a page, and whether more follow. Blocks.
fn chosen(
    store: &Store,
    repository: &RepositoryName,
    listing: &Listing,
) -> Result<Result<(Vec<Digest>, bool), Refusal>, StoreError> {
    let pushed = |text: &str| {
        let row = text.parse().ok().and_then(|digest| store.manifest(repository, &digest).ok());
        row.flatten().map(|row| row.pushed)
    };
    let mut chosen = match listing.begin(pushed) {
        Ok(chosen) => chosen,
        Err(refusal) => return Ok(Err(refusal)),
    };
    match listing.order {
        Order::Name => {
            let after = listing.after.as_ref().and_then(|text| text.parse().ok());
            let digests = store.manifests_behind(repository, after.as_ref(), listing.limit + 1)?;
            digests.iter().for_each(|digest| chosen.look(&digest.to_string(), UnixSeconds(0)));
        }
        Order::Oldest | Order::Newest => store.each_manifest(repository, |digest, row| {
            chosen.look(&digest.to_string(), row.pushed);
        })?,
    }
    let (names, more) = chosen.end();
    Ok(Ok((names.iter().filter_map(|text| text.parse().ok()).collect(), more)))
}

impl Entry {
    /// `None` where there is no such manifest. Blocks.
    fn of(
        store: &Store,
        repository: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<Entry>, StoreError> {
        let Some(row) = store.manifest(repository, &digest)? else { return Ok(None) };
        let tags = store.tags_of(repository, &digest, TAGS_MAX)?;
        let mut changed = row.pushed;
        for tag in &tags {
            let tag = store.tag_row(repository, tag)?;
            changed = tag.map_or(changed, |tag| changed.max(tag.updated));
        }
        let mut view = json!({
            "digest": digest.to_string(),
            "imageSize": row.content_size + row.size,
            "createdTime": row.pushed.rfc3339(),
            "lastUpdateTime": changed.rfc3339(),
            "mediaType": row.media_type,
            "tags": tags.iter().map(Tag::as_str).collect::<Vec<_>>(),
            "changeableAttributes": attributes(),
        });
        let config = row.blobs.first().filter(|_| row.config_media_type.is_some()).cloned();
        for (name, value) in
            [("configMediaType", row.config_media_type), ("artifactType", row.artifact_type)]
        {
            if let Some(value) = value {
                view[name] = value.into();
            }
        }
        Ok(Some(Entry { digest, pushed: row.pushed, config, view }))
    }
}

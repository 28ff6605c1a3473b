//! Manifests with their tags, their sizes and what they are for.

use serde::Deserialize;
use serde_json::{Value, json};

use super::listing::{Listed, Listing, Order};
use super::{ROOT, attributes, registry_of};
use crate::auth::{Authorized, ReadMetadata};
use crate::http::{Reply, Request};
use crate::registry::error::{malformed, store_refusal};
use crate::registry::{Registry, sender};
use crate::store::{Store, StoreError};
use crate::sys::spawn;
use crate::types::limits::BUFFER_BYTES;
use crate::types::{Digest, Refusal, RepositoryName, Tag, UnixSeconds};

/// Manifests in one page: the configuration of each is read.
const MANIFESTS_MAX: usize = 100;
/// Tags that are shown of one manifest.
const TAGS_MAX: usize = 100;
/// Longest text that is shown of what clients say of a manifest, characters.
const TEXT_MAX: usize = 255;
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
        if !self.store.holds_manifests(name).map_err(store_refusal)? {
            return Err(self.not_read(name, StoreError::NotFound));
        }
        let _turn = self.turn_to_scan().await?;
        let (chosen, mut more) = self.manifests_chosen(name, &listing).await?;
        let (mut shown, mut bytes, mut last) = (Vec::new(), 0, None);
        for (digest, pushed) in chosen {
            // A page of long entries ends early: it takes no more memory than a connection has.
            if bytes > BUFFER_BYTES {
                more = true;
                break;
            }
            // One that went meanwhile is not shown.
            if let Some(entry) = self.entry(name, &digest).await? {
                bytes += entry.to_string().len();
                shown.push(entry);
            }
            last = Some((digest, pushed));
        }
        let body = json!({
            "registry": registry_of(request), "imageName": name.as_str(), "manifests": shown,
        });
        let mut reply = Reply::json(200, &body).to(sender(&who.principal));
        if let (true, Some((digest, pushed))) = (more, last) {
            let path = format!("{ROOT}{name}/_manifests");
            reply = reply.with("link", listing.link(&path, &digest, pushed));
        }
        Ok(reply)
    }

    /// The manifests of a page, and whether more follow.
    async fn manifests_chosen(
        &self,
        name: &RepositoryName,
        listing: &Listing,
    ) -> Result<(Vec<Listed>, bool), Refusal> {
        let after = listing.after.as_deref().map(str::parse::<Digest>).transpose();
        let mut after =
            after.map_err(|fault| malformed("DIGEST_INVALID", format!("last: {fault}")))?;
        let pushed = |text: &str| {
            let digest = text.parse().ok();
            let row = digest.and_then(|digest| self.store.manifest(name, &digest).ok());
            row.flatten().map(|row| row.pushed)
        };
        let mut chosen = listing.begin(pushed)?;
        if listing.order != Order::Name {
            let look = |digest: Digest, pushed| chosen.look(&digest.to_string(), pushed);
            self.store.each_manifest_time(name, look).await.map_err(store_refusal)?;
            return Ok(chosen.end());
        }
        let mut found = 0;
        while found <= listing.limit {
            let (store, repository, from) = (self.store.clone(), name.clone(), after.clone());
            let page = move || store.manifests_behind(&repository, from.as_ref(), 1);
            let page = spawn::blocking(page).await.map_err(store_refusal)?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            found += page.len();
            page.iter().for_each(|digest| chosen.look(&digest.to_string(), UnixSeconds(0)));
        }
        Ok(chosen.end())
    }

    /// GET of one.
    pub(super) async fn manifest_show(
        &self,
        who: &Authorized<ReadMetadata>,
        request: &Request,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let missing = || self.miss("MANIFEST_UNKNOWN", name, format_args!("{name}@{digest}"));
        let entry = self.entry(name, &digest.to_string()).await?.ok_or_else(missing)?;
        let body = json!({
            "registry": registry_of(request), "imageName": name.as_str(), "manifest": entry,
        });
        Ok(Reply::json(200, &body).to(sender(&who.principal)))
    }

    /// A manifest as it is shown, with what an image is for, as its configuration says; without
    /// that where it is not here, or none.
    async fn entry(&self, name: &RepositoryName, digest: &str) -> Result<Option<Value>, Refusal> {
        let Ok(digest) = digest.parse::<Digest>() else { return Ok(None) };
        let (store, repository) = (self.store.clone(), name.clone());
        let entry = spawn::blocking(move || Entry::of(&store, &repository, &digest)).await;
        let Some(Entry { mut view, config }) = entry.map_err(store_refusal)? else {
            return Ok(None);
        };
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
        say(&mut view, "architecture", architecture);
        say(&mut view, "os", os);
        Ok(Some(view))
    }
}

/// Adds what a client has said of a manifest, unless that is too long.
fn say(view: &mut Value, name: &str, text: Option<String>) {
    if let Some(text) = text.filter(|text| text.len() <= TEXT_MAX) {
        view[name] = text.into();
    }
}

/// A manifest as it is shown, but for its platform.
struct Entry {
    config: Option<Digest>,
    view: Value,
}

impl Entry {
    /// `None` where there is no such manifest. Blocks.
    fn of(
        store: &Store,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Entry>, StoreError> {
        let Some(row) = store.manifest(repository, digest)? else { return Ok(None) };
        let tags = store.tags_of(repository, digest, TAGS_MAX)?;
        let mut changed = row.pushed;
        for tag in &tags {
            let tag = store.tag_row(repository, tag)?;
            changed = tag.map_or(changed, |tag| changed.max(tag.updated));
        }
        let mut view = json!({
            "digest": digest.to_string(),
            "imageSize": row.content_size.saturating_add(row.size),
            "createdTime": row.pushed.rfc3339(),
            "lastUpdateTime": changed.rfc3339(),
            "mediaType": row.media_type,
            "tags": tags.iter().map(Tag::as_str).collect::<Vec<_>>(),
            // Azure's does not tell these: without a tag it is not for nothing here.
            "needed": store.is_named(repository, digest)?,
            "subject": row.subject.as_ref().map(Digest::to_string),
            "changeableAttributes": attributes(),
        });
        let config = row.blobs.first().filter(|_| row.config_media_type.is_some()).cloned();
        say(&mut view, "configMediaType", row.config_media_type);
        say(&mut view, "artifactType", row.artifact_type);
        Ok(Some(Entry { config, view }))
    }
}

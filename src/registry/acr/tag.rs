//! Tags with what they name.

use serde_json::{Value, json};

use super::listing::{Listed, Listing, Order};
use super::{ROOT, attributes, registry_of};
use crate::auth::{Authorized, ReadMetadata};
use crate::http::{Reply, Request};
use crate::registry::error::{malformed, store_refusal};
use crate::registry::{Registry, sender};
use crate::store::StoreError;
use crate::store::rows::tag::TagRow;
use crate::sys::spawn;
use crate::types::{Digest, Refusal, RepositoryName, Tag};

/// Tags in one page, which takes no more memory than a connection has.
const TAGS_MAX: usize = 100;

impl Registry {
    /// GET `_tags`: those of the whole repository, or of the manifest `digest`.
    pub(super) async fn tags_list(
        &self,
        who: &Authorized<ReadMetadata>,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<Reply, Refusal> {
        let listing = Listing::of(request, TAGS_MAX)?;
        let of = match request.query("digest").filter(|text| !text.is_empty()) {
            Some(text) => {
                let digest = text.parse::<Digest>();
                Some(digest.map_err(|fault| malformed("DIGEST_INVALID", fault.to_string()))?)
            }
            None => None,
        };
        if !self.store.holds_manifests(name).map_err(store_refusal)? {
            return Err(self.not_read(name, StoreError::NotFound));
        }
        let _turn = self.turn_to_scan().await?;
        let (entries, more) = self.tags_chosen(name, &listing, of.as_ref()).await?;
        let last = entries.last().cloned();
        let (store, repository) = (self.store.clone(), name.clone());
        let read = move || {
            let tags = entries.iter().filter_map(|(name, _)| name.parse::<Tag>().ok());
            let row = |tag: Tag| Ok(store.tag_row(&repository, &tag)?.map(|row| (tag, row)));
            tags.filter_map(|tag| row(tag).transpose()).collect::<Result<Vec<_>, StoreError>>()
        };
        let rows = spawn::blocking(read).await.map_err(store_refusal)?;
        // One that went, or moved to another manifest, meanwhile is not shown.
        let rows = rows.iter().filter(|(_, row)| of.as_ref().is_none_or(|of| *of == row.digest));
        let shown: Vec<Value> = rows.map(|(tag, row)| view(tag, row)).collect();
        let body =
            json!({ "registry": registry_of(request), "imageName": name.as_str(), "tags": shown });
        let mut reply = Reply::json(200, &body).to(sender(&who.principal));
        if let (true, Some((tag, changed))) = (more, last) {
            reply = reply.with("link", listing.link(&format!("{ROOT}{name}/_tags"), &tag, changed));
        }
        Ok(reply)
    }

    /// The tags of a page, and whether more follow.
    async fn tags_chosen(
        &self,
        name: &RepositoryName,
        listing: &Listing,
        of: Option<&Digest>,
    ) -> Result<(Vec<Listed>, bool), Refusal> {
        let changed = |tag: &str| {
            let row = tag.parse().ok().and_then(|tag| self.store.tag_row(name, &tag).ok());
            row.flatten().map(|row| row.updated)
        };
        let mut chosen = listing.begin(changed)?;
        if listing.order == Order::Name && of.is_none() {
            let found = self.store.tags(name, listing.after.as_deref(), listing.limit + 1);
            let found = found.map_err(store_refusal)?;
            found.iter().for_each(|(tag, row)| chosen.look(tag.as_str(), row.updated));
        } else {
            let look = |tag: Tag, row: TagRow| {
                if of.is_none_or(|digest| *digest == row.digest) {
                    chosen.look(tag.as_str(), row.updated);
                }
            };
            self.store.each_tag(name, look).await.map_err(store_refusal)?;
        }
        Ok(chosen.end())
    }

    /// GET of one.
    pub(super) fn tag_show(
        &self,
        who: &Authorized<ReadMetadata>,
        request: &Request,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<Reply, Refusal> {
        let row = self.store.tag_row(name, tag).map_err(store_refusal)?;
        let missing = || self.miss("MANIFEST_UNKNOWN", name, format_args!("{name}:{tag}"));
        let body = json!({
            "registry": registry_of(request),
            "imageName": name.as_str(),
            "tag": view(tag, &row.ok_or_else(missing)?),
        });
        Ok(Reply::json(200, &body).to(sender(&who.principal)))
    }
}

fn view(tag: &Tag, row: &TagRow) -> Value {
    json!({
        "name": tag.as_str(),
        "digest": row.digest.to_string(),
        "createdTime": row.created.rfc3339(),
        "lastUpdateTime": row.updated.rfc3339(),
        "signed": false,
        "changeableAttributes": attributes(),
    })
}

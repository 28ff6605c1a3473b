//! Tags with what they name.

use serde_json::{Value, json};

use super::listing::{Listing, Order};
use super::{ROOT, attributes, registry_of};
use crate::auth::{Authorized, ReadMetadata};
use crate::http::{Reply, Request};
use crate::registry::error::{malformed, store_refusal};
use crate::registry::{Registry, sender};
use crate::store::StoreError;
use crate::store::rows::tag::TagRow;
use crate::sys::spawn;
use crate::types::limits::PAGE_MAX;
use crate::types::{Digest, Refusal, RepositoryName, Tag};

impl Registry {
    /// GET `_tags`: those of the whole repository, or of the manifest `digest`.
    pub(super) async fn tags_list(
        &self,
        who: &Authorized<ReadMetadata>,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<Reply, Refusal> {
        let listing = Listing::of(request, PAGE_MAX)?;
        let of = match request.query("digest").filter(|text| !text.is_empty()) {
            Some(text) => {
                let digest = text.parse::<Digest>();
                Some(digest.map_err(|fault| malformed("DIGEST_INVALID", fault.to_string()))?)
            }
            None => None,
        };
        if self.store.repository(name).map_err(store_refusal)?.is_none() {
            return Err(self.not_read(name, StoreError::NotFound));
        }
        let (store, repository) = (self.store.clone(), name.clone());
        let asked = listing.clone();
        let found = spawn::blocking(move || {
            if asked.order == Order::Name && of.is_none() {
                let mut tags = store.tags(&repository, asked.after.as_deref(), asked.limit + 1)?;
                let more = tags.len() > asked.limit;
                tags.truncate(asked.limit);
                return Ok(Ok((tags, more)));
            }
            let changed = |name: &str| {
                let row = name.parse().ok().and_then(|tag| store.tag_row(&repository, &tag).ok());
                row.flatten().map(|row| row.updated)
            };
            let mut chosen = match asked.begin(changed) {
                Ok(chosen) => chosen,
                Err(refusal) => return Ok(Err(refusal)),
            };
            store.each_tag(&repository, |tag, row| {
                if of.as_ref().is_none_or(|digest| *digest == row.digest) {
                    chosen.look(tag.as_str(), row.updated);
                }
            })?;
            let (names, more) = chosen.end();
            let mut tags = Vec::new();
            for name in names {
                let Ok(tag) = name.parse::<Tag>() else { continue };
                // One that went meanwhile is not shown.
                tags.extend(store.tag_row(&repository, &tag)?.map(|row| (tag, row)));
            }
            Ok(Ok((tags, more)))
        });
        let (tags, more) = found.await.map_err(store_refusal)??;
        let shown: Vec<Value> = tags.iter().map(|(tag, row)| view(tag, row)).collect();
        let body =
            json!({ "registry": registry_of(request), "imageName": name.as_str(), "tags": shown });
        let mut reply = Reply::json(200, &body).to(sender(&who.principal));
        if let (true, Some((tag, row))) = (more, tags.last()) {
            let path = format!("{ROOT}{name}/_tags");
            reply = reply.with("link", listing.link(&path, tag.as_str(), row.updated));
        }
        Ok(reply)
    }

    /// GET of one.
    pub(super) fn tag_show(
        &self,
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
        Ok(Reply::json(200, &body))
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

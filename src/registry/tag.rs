//! The list of a repository's tags.

use super::error::store_refusal;
use super::page::{Page, next_link};
use super::{Registry, sender};
use crate::auth::{Authorized, ReadMetadata};
use crate::http::{Reply, Request};
use crate::types::{Refusal, RepositoryName};

impl Registry {
    /// end-8: GET, in lexical order.
    pub(super) fn tags(
        &self,
        who: &Authorized<ReadMetadata>,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<Reply, Refusal> {
        let page = Page::of(request)?;
        if self.store.repository(name).map_err(store_refusal)?.is_none() {
            return Err(self.miss("NAME_UNKNOWN", name, format_args!("repository {name}")));
        }
        // One more than asked for says whether there is a next page.
        let found = self.store.tags(name, page.after.as_deref(), page.limit + 1);
        let mut tags: Vec<String> =
            found.map_err(store_refusal)?.into_iter().map(|(tag, _)| tag.to_string()).collect();
        let more = tags.len() > page.limit;
        tags.truncate(page.limit);
        let body = serde_json::json!({ "name": name.as_str(), "tags": tags });
        let mut reply = Reply::json(200, &body).to(sender(&who.principal));
        if let (true, Some(last)) = (more, tags.last()) {
            let query = [("n", page.limit.to_string()), ("last", last.clone())];
            let query = query.each_ref().map(|(name, value)| (*name, value.as_str()));
            reply = reply.with("link", next_link(&format!("/v2/{name}/tags/list"), &query));
        }
        Ok(reply)
    }
}

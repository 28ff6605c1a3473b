//! The list of repositories, as far as the sender may see them.

use super::Registry;
use super::error::store_refusal;
use super::page::{Page, next_link};
use crate::auth::{Authorized, Catalog};
use crate::http::{Reply, Request};
use crate::sys::spawn;
use crate::types::limits::PAGE_MAX;
use crate::types::{Refusal, RepositoryName};

impl Registry {
    /// GET `/v2/_catalog`, in lexical order.
    pub(super) async fn catalog(
        &self,
        who: &Authorized<Catalog>,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        let page = Page::of(request)?;
        let mut names: Vec<RepositoryName> = Vec::new();
        let mut after = page.after.clone();
        // One more than asked for says whether there is a next page.
        while names.len() <= page.limit {
            let found = self.store.repositories(after.as_deref(), PAGE_MAX);
            let found = found.map_err(store_refusal)?;
            let Some(last) = found.last() else {
                break;
            };
            after = Some(last.to_string());
            names.extend(found.into_iter().filter(|name| self.auth.lists(who, name)));
            // A token that sees little of a large registry must not hold others up.
            spawn::yield_now().await;
        }
        let more = names.len() > page.limit;
        names.truncate(page.limit);
        let mut reply = Reply::json(200, &serde_json::json!({ "repositories": names }));
        if let (true, Some(last)) = (more, names.last()) {
            let limit = page.limit.to_string();
            let query = [("n", limit.as_str()), ("last", last.as_str())];
            reply = reply.with("link", next_link("/v2/_catalog", &query));
        }
        Ok(reply)
    }
}

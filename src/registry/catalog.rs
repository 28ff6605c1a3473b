//! The list of repositories, as far as the sender may see them.

use super::Registry;
use super::error::store_refusal;
use super::page::{Page, next_link};
use crate::auth::{Authorized, Catalog, Principal};
use crate::http::{Reply, Request};
use crate::sys::spawn;
use crate::types::Refusal;
use crate::types::limits::{BUFFER_BYTES, PAGE_MAX};

/// What stands around the names of a page, bytes.
const FRAME_BYTES: usize = 32;
/// What stands around one of them, bytes.
const QUOTES_BYTES: usize = 3;

impl Registry {
    /// GET `_catalog` at `path`, in lexical order: the repositories that hold something, and for
    /// children those that hold nothing any more, which they compare. A page of very long names
    /// ends early: it takes no more memory than a connection has.
    pub(super) async fn catalog(
        &self,
        who: &Authorized<Catalog>,
        request: &Request,
        path: &str,
    ) -> Result<Reply, Refusal> {
        let page = Page::of(request)?;
        let (mut names, mut bytes, mut more) = (Vec::new(), FRAME_BYTES, false);
        let mut after = page.after.clone();
        while !more {
            let (store, from) = (self.store.clone(), after.take());
            let found = move || store.repositories(from.as_deref(), PAGE_MAX);
            let mut found = spawn::blocking(found).await.map_err(store_refusal)?;
            let Some(last) = found.last() else {
                break;
            };
            after = Some(last.to_string());
            found.retain(|name| self.auth.lists(who, name));
            if !matches!(who.principal, Principal::Child(_)) {
                let store = self.store.clone();
                let holding = move || store.those_with_manifests(found);
                found = spawn::blocking(holding).await.map_err(store_refusal)?;
            }
            for name in found {
                bytes += name.as_str().len() + QUOTES_BYTES;
                names.push(name.to_string());
                more = names.len() > page.limit || bytes > BUFFER_BYTES;
                if more {
                    break;
                }
            }
        }
        if more {
            // It only shows that there is a next page.
            names.pop();
        }
        let mut reply = Reply::json(200, &serde_json::json!({ "repositories": names }));
        if let (true, Some(last)) = (more, names.last()) {
            let limit = page.limit.to_string();
            let query = [("n", limit.as_str()), ("last", last.as_str())];
            reply = reply.with("link", next_link(path, &query));
        }
        Ok(reply)
    }
}

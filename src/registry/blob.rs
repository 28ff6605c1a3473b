//! Blobs: read whole or in part, unlinked.

use super::Registry;
use super::conditional::{client_has, etag, range_applies};
use super::error::{damaged, damaged_here, store_refusal};
use super::range::{Wanted, wanted};
use crate::auth::{Authorized, Delete, Principal, Pull};
use crate::http::{Method, Reply, ReplyBody, Request};
use crate::store::StoreError;
use crate::store::content::damage::FileCheck;
use crate::store::rows::link::blob_key;
use crate::types::digest::DOUBT;
use crate::types::{Digest, Reason, Refusal, RepositoryName};

impl Registry {
    /// end-2: GET and HEAD of a blob.
    pub(super) async fn blob_get(
        &self,
        who: &Authorized<Pull>,
        request: &Request,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let link = self.store.blob_link(name, digest).map_err(store_refusal)?;
        let Some(link) = link else {
            return Err(self.miss("BLOB_UNKNOWN", name, format_args!("blob {digest}")));
        };
        if request.header(DOUBT).is_some() && matches!(who.principal, Principal::Child(_)) {
            self.store.recheck(digest);
        }
        let facts = |reply: Reply| {
            reply
                .with("docker-content-digest", digest.to_string())
                .with("etag", etag(digest))
                .with("cache-control", "private, max-age=31536000, immutable")
        };
        if client_has(request, digest) {
            return Ok(facts(Reply::new(304)));
        }
        let open = match self.store.blob_open(digest).await {
            // Looked at below.
            Err(StoreError::Unreadable(_)) => None,
            open => open.map_err(store_refusal)?,
        };
        let open = open.filter(|blob| blob.len == link.size);
        if open.is_none() {
            let checked = self.store.check_file(blob_key(name, digest), digest, link.size).await;
            if checked.map_err(store_refusal)? == FileCheck::Unlinked {
                return Err(self.miss("BLOB_UNKNOWN", name, format_args!("blob {digest}")));
            }
        }
        // Linked, and yet not to be had: it is out of service. Who asks by HEAD is about to push,
        // and so can bring it back.
        let blob = open.ok_or_else(|| match request.method {
            Method::Head => damaged_here("BLOB_UNKNOWN"),
            _ => damaged(),
        })?;
        let range = request.header("range").filter(|_| range_applies(request, digest));
        // A range is defined for GET only (RFC 9110, section 14.2).
        let range = range.filter(|_| request.method == Method::Get);
        let (status, offset, len) = match wanted(range, blob.len) {
            Wanted::All => (200, 0, blob.len),
            Wanted::Part { offset, len } => (206, offset, len),
            Wanted::Unsatisfiable => {
                let message = format!("the blob has {} bytes; the range is not in it", blob.len);
                let refusal = Refusal::new(416, "SIZE_INVALID", Reason::RangeInvalid, message);
                let reply = Reply::from(refusal).with("accept-ranges", "bytes");
                return Ok(reply.with("content-range", format!("bytes */{}", blob.len)));
            }
        };
        let mut reply = facts(Reply::new(status))
            .with("content-type", "application/octet-stream")
            .with("accept-ranges", "bytes");
        if status == 206 {
            let last = offset + len - 1;
            reply = reply.with("content-range", format!("bytes {offset}-{last}/{}", blob.len));
        }
        let is_whole = len == blob.len;
        let blob = match request.method {
            Method::Get if is_whole => self.store.sent_whole(blob).await,
            Method::Get => self.store.sent_in_part(blob).await,
            _ => Ok(Some(blob)),
        };
        let blob = blob.map_err(store_refusal)?.ok_or_else(damaged)?;
        reply.body = ReplyBody::File { file: blob.file, offset, len };
        Ok(reply)
    }

    /// end-10: DELETE of a blob: it can no longer be pulled from this repository. One that a
    /// manifest there names stays, since an image that is listed can be pulled.
    pub(super) async fn blob_delete(
        &self,
        _who: &Authorized<Delete>,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        match self.store.unlink_blob(name, digest).await {
            Ok(()) => Ok(Reply::new(202)),
            Err(StoreError::NotFound) => {
                Err(self.miss("BLOB_UNKNOWN", name, format_args!("blob {digest}")))
            }
            Err(StoreError::Conflict(text)) => {
                let refusal = Refusal::new(405, "DENIED", Reason::StillNeeded, text);
                Ok(Reply::from(refusal).with("allow", "GET, HEAD"))
            }
            Err(error) => Err(store_refusal(error)),
        }
    }
}

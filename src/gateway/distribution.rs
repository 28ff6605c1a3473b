//! Content at the parent: the OCI distribution API, from the client's side.

use std::time::Duration;

use serde::Deserialize;

use super::upstream::{
    Upstream, UpstreamError, body, digest_header, percent, protocol, repository_scope,
};
use crate::http::{ClientBody, ClientRequest, ClientResponse, Method};
use crate::store::Precondition;
use crate::store::blobs::OpenBlob;
use crate::store::outbox::OutboxId;
use crate::types::limits::{MANIFEST_BYTES_MAX, REQUEST_DEADLINE, SMALL_BODY_BYTES_MAX};
use crate::types::media;
use crate::types::scope::Access;
use crate::types::{Digest, Reference, RepositoryName};

/// Bytes per second that the slowest link is taken to carry when a deadline for an upload is set.
const SLOWEST_BYTES_PER_S: u64 = 4 * 1024;

/// Names in one page of the parent's catalog.
const CATALOG_PAGE: usize = 1000;

/// A manifest as the parent sent it; the digest over the bytes is the caller's to check.
pub struct FetchedManifest {
    /// Content-Type, without parameters.
    pub media_type: String,
    /// The body.
    pub bytes: Vec<u8>,
}

/// A delivery of a change: what it depends on, and its name for ever.
pub struct Delivery<'a> {
    /// What the tag must name at the parent.
    pub precondition: Precondition,
    /// The change's name; `None` for content that a change brings along.
    pub id: Option<&'a OutboxId>,
}

#[derive(Deserialize)]
struct CatalogPage {
    repositories: Option<Vec<String>>,
}

impl Upstream {
    /// A page of the repositories that the sync token may see; empty after the last one.
    pub async fn catalog(&self, last: Option<&str>) -> Result<Vec<RepositoryName>, UpstreamError> {
        let mut path = format!("_catalog?n={CATALOG_PAGE}");
        if let Some(last) = last {
            path.push_str(&format!("&last={}", percent(last)));
        }
        let scope = [Access::new("registry", "catalog", &["*"])];
        let response = self.content(&scope, Method::Get, &path, |request| request).await?;
        let bytes = body(response, SMALL_BODY_BYTES_MAX).await?;
        let page: CatalogPage = serde_json::from_slice(&bytes).map_err(protocol)?;
        let names = page.repositories.unwrap_or_default();
        // A name that is none of ours to have is skipped, not fatal.
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// What a tag names at the parent.
    pub async fn tag(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<Digest>, UpstreamError> {
        let path = format!("{repository}/manifests/{reference}");
        let scope = repository_scope(repository, false);
        match self.content(&scope, Method::Head, &path, accept_manifests).await {
            Ok(response) => digest_header(&response, "docker-content-digest")
                .map(Some)
                .ok_or_else(|| protocol("the parent names no digest")),
            Err(UpstreamError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A manifest by its digest.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<FetchedManifest, UpstreamError> {
        let path = format!("{repository}/manifests/{digest}");
        let scope = repository_scope(repository, false);
        let response = self.content(&scope, Method::Get, &path, accept_manifests).await?;
        let media_type = response.header("content-type").and_then(media::essence);
        let media_type = media_type.ok_or_else(|| protocol("a manifest came without its type"))?;
        let bytes = body(response, MANIFEST_BYTES_MAX).await?;
        self.sys.metrics.sync_bytes_fetched.add(bytes.len() as u64);
        Ok(FetchedManifest { media_type, bytes })
    }

    /// A blob from `offset` on. The answer is 206 with that range, or 200 with the whole blob.
    pub async fn blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        offset: u64,
    ) -> Result<ClientResponse, UpstreamError> {
        let path = format!("{repository}/blobs/{digest}");
        let scope = repository_scope(repository, false);
        let ranged = |request: ClientRequest| match offset {
            0 => request,
            _ => request.with("range", format!("bytes={offset}-")),
        };
        self.content(&scope, Method::Get, &path, ranged).await
    }

    /// Whether the parent has a blob in this repository.
    pub async fn has_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, UpstreamError> {
        let path = format!("{repository}/blobs/{digest}");
        let scope = repository_scope(repository, true);
        match self.content(&scope, Method::Head, &path, |request| request).await {
            Ok(_) => Ok(true),
            Err(UpstreamError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the parent has a manifest in this repository.
    pub async fn has_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, UpstreamError> {
        Ok(self.tag(repository, &Reference::Digest(digest.clone())).await?.is_some())
    }

    /// Uploads a blob from its file, or has the parent link it from the repository `mount`.
    pub async fn push_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        blob: &OpenBlob,
        mount: Option<&RepositoryName>,
    ) -> Result<(), UpstreamError> {
        let mut scope = repository_scope(repository, true).to_vec();
        let mut path = format!("{repository}/blobs/uploads/");
        if let Some(from) = mount {
            path.push_str(&format!("?mount={digest}&from={from}"));
            scope.extend(repository_scope(from, false));
        }
        let start = self.content(&scope, Method::Post, &path, |request| request).await?;
        if start.status == 201 {
            return Ok(());
        }
        let location =
            start.header("location").ok_or_else(|| protocol("an upload has no place"))?;
        let location = below_v2(location).ok_or_else(|| protocol("an upload is elsewhere"))?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{separator}digest={digest}");
        let with_file = |mut request: ClientRequest| {
            request.body = ClientBody::File { file: blob.file.clone(), offset: 0, len: blob.len };
            request.deadline =
                REQUEST_DEADLINE + Duration::from_secs(blob.len / SLOWEST_BYTES_PER_S);
            request.with("content-type", "application/octet-stream")
        };
        let scope = repository_scope(repository, true);
        match self.content(&scope, Method::Put, &path, with_file).await {
            Ok(_) => Ok(()),
            // The upload was there a moment ago: the next attempt starts another.
            Err(UpstreamError::NotFound(text)) => Err(UpstreamError::Busy(404, text)),
            Err(error) => Err(error),
        }
    }

    /// Puts a manifest under a digest or a tag.
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        manifest: &FetchedManifest,
        delivery: &Delivery<'_>,
    ) -> Result<(), UpstreamError> {
        let path = format!("{repository}/manifests/{reference}");
        let with_body = |mut request: ClientRequest| {
            request.body = ClientBody::Bytes(manifest.bytes.clone());
            delivery.name(request.with("content-type", manifest.media_type.clone()))
        };
        let scope = repository_scope(repository, true);
        self.content(&scope, Method::Put, &path, with_body).await.map(|_| ())
    }

    /// Deletes a manifest, or removes a tag.
    pub async fn delete(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        delivery: &Delivery<'_>,
    ) -> Result<(), UpstreamError> {
        let path = format!("{repository}/manifests/{reference}");
        let scope = repository_scope(repository, true);
        let named = |request| delivery.name(request);
        self.content(&scope, Method::Delete, &path, named).await.map(|_| ())
    }

    async fn content(
        &self,
        scope: &[Access],
        method: Method,
        path: &str,
        finish: impl Fn(ClientRequest) -> ClientRequest,
    ) -> Result<ClientResponse, UpstreamError> {
        let url = format!("{}/v2/{path}", self.login_server().await?);
        self.send(scope, || finish(ClientRequest::new(method, url.clone()))).await
    }
}

impl Delivery<'_> {
    fn name(&self, request: ClientRequest) -> ClientRequest {
        let request = match &self.precondition {
            Precondition::None => request,
            Precondition::Absent => request.with("if-none-match", "*"),
            Precondition::Present => request.with("if-match", "*"),
            Precondition::Is(digest) => request.with("if-match", format!("\"{digest}\"")),
        };
        match self.id {
            Some(id) => request.with("skerry-outbox-id", format!("{} {}", id.origin, id.sequence)),
            None => request,
        }
    }
}

fn accept_manifests(request: ClientRequest) -> ClientRequest {
    request.with("accept", format!("{}, */*", media::MANIFESTS.join(", ")))
}

/// The part after `/v2/` of a Location, relative or absolute: uploads stay on the login server
/// that gave the token, however it calls itself.
pub(super) fn below_v2(location: &str) -> Option<&str> {
    let path = match location.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map(|(_, path)| path)?,
        None => location.strip_prefix('/')?,
    };
    path.strip_prefix("v2/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_stay_on_the_login_server() {
        for (location, expected) in [
            ("/v2/a/b/blobs/uploads/1?x=y", Some("a/b/blobs/uploads/1?x=y")),
            ("http://evil.example/v2/a/blobs/uploads/1", Some("a/blobs/uploads/1")),
            ("https://reg.example:5000/other", None),
            ("v2/a", None),
            ("", None),
        ] {
            assert_eq!(below_v2(location), expected, "{location}");
        }
    }
}

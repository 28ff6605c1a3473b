//! Content at the parent: the OCI distribution API, from the client's side.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;

use super::upstream::{
    Upstream, UpstreamError, body, digest_header, malformed, percent, protocol, repository_scope,
};
use crate::http::{ClientBody, ClientRequest, ClientResponse, Method};
use crate::store::Precondition;
use crate::store::content::blobs::OpenBlob;
use crate::types::cursor::SEQUENCE;
use crate::types::digest::{Algorithm, DOUBT};
use crate::types::limits::{
    MANIFEST_BYTES_MAX, REQUEST_DEADLINE, SLOWEST_BYTES_PER_S, SMALL_BODY_BYTES_MAX,
};
use crate::types::media;
use crate::types::scope::Access;
use crate::types::{Delivery, Digest, Reason, Reference, RepositoryName, Tag};

/// Largest body of one request of an upload, bytes. A parent keeps what has arrived when a request
/// breaks off; where something between holds bodies back until they are whole, this much is lost.
pub const UPLOAD_CHUNK_BYTES: u64 = 16 * 1024 * 1024;

/// Names in one page of the parent's catalog.
const CATALOG_PAGE: usize = 1000;

/// A manifest as the parent sent it; the digest over the bytes is the caller's to check.
pub struct FetchedManifest {
    /// Content-Type, without parameters.
    pub media_type: String,
    /// The body.
    pub bytes: Vec<u8>,
}

/// How content is changed at the parent.
pub struct Change<'a> {
    /// What the tag must name there.
    pub precondition: Precondition,
    /// `None` for content that a change brings along.
    pub delivery: Option<&'a Delivery>,
}

#[derive(Deserialize)]
struct CatalogPage {
    repositories: Option<Vec<String>>,
}

impl Upstream {
    /// Whether the parent answers requests for content at all.
    pub async fn ping(&self) -> Result<(), UpstreamError> {
        self.content(&[], Method::Get, "", |request| request).await.map(|_| ())
    }

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

    /// What a tag names at the parent, which may have lost content of it. `None`: it was removed
    /// there, or never set; a parent that cannot tell that yet answers `NotYet`.
    pub async fn tag(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<Digest>, UpstreamError> {
        match self.whole_manifest(repository, reference, false).await {
            Err(UpstreamError::Lost(digest)) => Ok(Some(digest)),
            answer => answer,
        }
    }

    /// The same, but `Lost` when content is missing there: who asks in order to write hears that
    /// of an index too.
    async fn whole_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        writes: bool,
    ) -> Result<Option<Digest>, UpstreamError> {
        let path = format!("{repository}/manifests/{reference}");
        let scope = repository_scope(repository, writes);
        match self.content(&scope, Method::Head, &path, accept_manifests).await {
            Ok(response) => digest_header(&response, "docker-content-digest")
                .map(Some)
                .ok_or_else(|| malformed(protocol("the parent names no digest"))),
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
        let media_type = media_type_of(&response)?;
        let bytes = body(response, MANIFEST_BYTES_MAX).await.map_err(malformed)?;
        self.sys.metrics.sync_bytes_fetched.add(bytes.len() as u64);
        Ok(FetchedManifest { media_type, bytes })
    }

    /// The type of a manifest that the parent has now, without its bytes.
    pub async fn manifest_type(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<String, UpstreamError> {
        let path = format!("{repository}/manifests/{digest}");
        let scope = repository_scope(repository, false);
        let response = self.content(&scope, Method::Head, &path, accept_manifests).await?;
        media_type_of(&response)
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

    /// Tells the parent that the bytes that came of a blob have another digest: it looks whether
    /// those that it has are damaged. Earlier versions do not.
    pub async fn doubt_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), UpstreamError> {
        let path = format!("{repository}/blobs/{digest}");
        let scope = repository_scope(repository, false);
        let doubting = |request: ClientRequest| request.with(DOUBT, "1");
        self.content(&scope, Method::Head, &path, doubting).await.map(|_| ())
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
            Err(UpstreamError::NotFound(_) | UpstreamError::NotYet(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The length of a blob that can be pulled from this repository at the parent, bytes; `None`
    /// when there is none, or the parent does not say how long it is.
    pub async fn blob_len(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        let path = format!("{repository}/blobs/{digest}");
        let scope = repository_scope(repository, false);
        match self.content(&scope, Method::Head, &path, |request| request).await {
            Ok(response) => {
                let len = response.header("content-length").and_then(|text| text.parse().ok());
                if len.is_none() {
                    log::warn!(
                        "the parent names no length of a blob repository={repository} \
                         digest={digest}"
                    );
                }
                Ok(len)
            }
            Err(UpstreamError::NotFound(_) | UpstreamError::NotYet(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the parent has a manifest in this repository now, with all that it names, so that
    /// nothing of it need be brought.
    pub async fn has_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, UpstreamError> {
        let reference = Reference::Digest(digest.clone());
        match self.whole_manifest(repository, &reference, true).await {
            Ok(found) => Ok(found.is_some()),
            Err(UpstreamError::NotYet(_) | UpstreamError::Lost(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the parent has not deleted a manifest. One that has not got it yet cannot tell:
    /// `NotYet`.
    pub async fn keeps_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, UpstreamError> {
        Ok(self.tag(repository, &Reference::Digest(digest.clone())).await?.is_some())
    }

    /// Not below which sequence of the parent's feed the answers of this session are about what it
    /// has; `None`: it does not tell. Earlier versions tell with other answers only.
    pub fn asked(&self) -> Option<u64> {
        Some(self.asked.load(Ordering::Relaxed)).filter(|sequence| *sequence > 0)
    }

    /// Starts the upload of a blob; its location, for the calls below. `None`: the parent has
    /// linked the blob from the repository `mount` instead.
    pub async fn upload_start(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        mount: Option<&RepositoryName>,
    ) -> Result<Option<String>, UpstreamError> {
        let mut scope = repository_scope(repository, true).to_vec();
        let mut path = format!("{repository}/blobs/uploads/");
        if let Some(from) = mount {
            path.push_str(&format!("?mount={digest}&from={from}"));
            scope.extend(repository_scope(from, false));
        }
        let start = self.content(&scope, Method::Post, &path, |request| request).await?;
        if start.status == 201 {
            return Ok(None);
        }
        let location =
            start.header("location").ok_or_else(|| protocol("an upload has no place"))?;
        let location = below_v2(location).ok_or_else(|| protocol("an upload is elsewhere"))?;
        Ok(Some(location.to_owned()))
    }

    /// How many bytes of the `blob_len` of a blob the parent has in an upload; `NotFound` when it
    /// knows none there.
    pub async fn upload_offset(
        &self,
        repository: &RepositoryName,
        location: &str,
        blob_len: u64,
    ) -> Result<u64, UpstreamError> {
        let scope = repository_scope(repository, true);
        // It may have to read what it has.
        let patient = |mut request: ClientRequest| {
            request.deadline = upload_deadline(blob_len);
            request
        };
        let status = self.content(&scope, Method::Get, location, patient).await?;
        Ok(status.header("range").and_then(received).unwrap_or(0))
    }

    /// Sends the rest of a blob to its upload and finishes that. Each part says where it belongs:
    /// `Refused(416, _)` when the parent does not have exactly `offset` bytes.
    pub async fn upload(
        &self,
        repository: &RepositoryName,
        location: &str,
        digest: &Digest,
        blob: &OpenBlob,
        mut offset: u64,
    ) -> Result<(), UpstreamError> {
        let (separator, len) = (if location.contains('?') { '&' } else { '?' }, blob.len);
        let last = format!("{location}{separator}digest={digest}");
        let fits = offset == 0 && len <= UPLOAD_CHUNK_BYTES;
        // A request of its own, so that the one that finishes can be repeated without content.
        while !fits && offset < len {
            let end = len.min(offset.saturating_add(UPLOAD_CHUNK_BYTES));
            self.upload_part(repository, Method::Patch, location, blob, offset..end).await?;
            offset = end;
        }
        self.upload_part(repository, Method::Put, &last, blob, offset..len).await
    }

    async fn upload_part(
        &self,
        repository: &RepositoryName,
        method: Method,
        path: &str,
        blob: &OpenBlob,
        part: Range<u64>,
    ) -> Result<(), UpstreamError> {
        let len = part.end - part.start;
        let with_file = |mut request: ClientRequest| {
            request.deadline = upload_deadline(part.end);
            if len == 0 {
                return request;
            }
            request.body = ClientBody::File { file: blob.file.clone(), offset: part.start, len };
            request
                .with("content-type", "application/octet-stream")
                .with("content-range", format!("{}-{}", part.start, part.end - 1))
        };
        let scope = repository_scope(repository, true);
        match self.content(&scope, method, path, with_file).await {
            Ok(_) => Ok(()),
            // An earlier request of ours is not over there: its end is near.
            Err(UpstreamError::Refused(409, text)) => Err(UpstreamError::Busy(409, text)),
            Err(error) => Err(error),
        }
    }

    /// Puts a manifest under its digest, and lets a tag name it, on which the precondition is then.
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        (digest, tag): (&Digest, Option<&Tag>),
        manifest: &FetchedManifest,
        change: &Change<'_>,
    ) -> Result<(), UpstreamError> {
        let path = put_path(repository, digest, tag);
        let with_body = |mut request: ClientRequest| {
            request.body = ClientBody::Bytes(manifest.bytes.clone());
            change.name(request.with("content-type", manifest.media_type.clone()))
        };
        let scope = repository_scope(repository, true);
        let response = self.content(&scope, Method::Put, &path, with_body).await?;
        let named = digest_header(&response, "docker-content-digest");
        confirmed(&response, response.status == 201 && named.as_ref() == Some(digest))
    }

    /// Deletes a manifest, or removes a tag. `NotFound`: there is none.
    pub async fn delete(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        change: &Change<'_>,
    ) -> Result<(), UpstreamError> {
        let path = format!("{repository}/manifests/{reference}");
        let scope = repository_scope(repository, true);
        let named = |request| change.name(request);
        let response = match self.content(&scope, Method::Delete, &path, named).await {
            Err(UpstreamError::NotFound(text)) if !Reason::is_given_in(&text) => {
                return Err(unconfirmed(404));
            }
            response => response?,
        };
        confirmed(&response, response.status == 202 && response.header(SEQUENCE).is_some())
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

/// Whether the parent has said that it made a change. What is on the way in its place, such as the
/// portal of a hotel, may say yes to everything.
fn confirmed(response: &ClientResponse, is_said: bool) -> Result<(), UpstreamError> {
    if is_said { Ok(()) } else { Err(unconfirmed(response.status)) }
}

fn unconfirmed(status: u16) -> UpstreamError {
    let text = "what answers is not the parent: to a change it answered";
    UpstreamError::NoGateway(format!("{text} {status}, and does not say what it did"))
}

impl Change<'_> {
    fn name(&self, request: ClientRequest) -> ClientRequest {
        let request = match &self.precondition {
            Precondition::None => request,
            Precondition::Absent => request.with("if-none-match", "*"),
            Precondition::Present => request.with("if-match", "*"),
            Precondition::Is(digest) => request.with("if-match", format!("\"{digest}\"")),
        };
        let fields = self.delivery.map(Delivery::fields).unwrap_or_default();
        fields.into_iter().fold(request, |request, (name, value)| request.with(name, value))
    }
}

/// Where a manifest is put. A parent names what comes under a tag alone by its SHA-256 digest.
fn put_path(repository: &RepositoryName, digest: &Digest, tag: Option<&Tag>) -> String {
    match tag {
        Some(tag) if digest.algorithm() == Algorithm::Sha256 => {
            format!("{repository}/manifests/{tag}")
        }
        Some(tag) => format!("{repository}/manifests/{digest}?tag={tag}"),
        None => format!("{repository}/manifests/{digest}"),
    }
}

/// Without parameters.
fn media_type_of(manifest: &ClientResponse) -> Result<String, UpstreamError> {
    let media_type = manifest.header("content-type").and_then(media::essence);
    media_type.ok_or_else(|| malformed(protocol("a manifest came without its type")))
}

fn accept_manifests(request: ClientRequest) -> ClientRequest {
    request.with("accept", format!("{}, */*", media::MANIFESTS.join(", ")))
}

/// How long the answer to a request may take that brings an upload to this length, bytes: sending,
/// and reading over what is there.
fn upload_deadline(len: u64) -> Duration {
    REQUEST_DEADLINE + Duration::from_secs(len / SLOWEST_BYTES_PER_S)
}

/// What a `Range` says an upload has, bytes: `0-<last>`. An empty one says `0-0` too, and one of a
/// single byte is taken for empty.
fn received(range: &str) -> Option<u64> {
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last.saturating_add(1) })
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
    use super::super::upstream::testing::parent;
    use super::*;
    use crate::store::registry::manifests::testing::digest;

    #[test]
    fn f170_a_parent_says_how_much_it_has() {
        for (range, expected) in [
            ("0-0", Some(0)),
            ("0-1", Some(2)),
            ("bytes=0-9", Some(10)),
            ("0-18446744073709551615", Some(u64::MAX)),
            ("5-9", None),
            ("0-", None),
            ("", None),
        ] {
            assert_eq!(received(range), expected, "{range}");
        }
    }

    /// Symptom: a push at a device was taken for delivered, and removed at the next comparison, and
    /// a deletion was undone. Cause: any yes counted, also that of a portal in the parent's place.
    #[test]
    fn f206_f212_a_change_is_delivered_when_the_parent_says_so() {
        const OURS: &str = r#"{"errors":[{"code":"X","detail":{"reason":"not_found"}}]}"#;
        let (repository, digest) = ("app".parse().unwrap(), digest(1));
        let change = Change { precondition: Precondition::None, delivery: None };
        for status in [200, 201, 202, 204, 206, 304, 404] {
            let foreign = [r#"{"error":"not_found"}"#, r#"{"errors":[{"code":"not_found"}]}"#];
            for body in ["<html>", "", "{}", OURS].into_iter().chain(foreign) {
                let upstream = parent(move |_, _| (status, body.as_bytes().to_vec()));
                let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
                let manifest = FetchedManifest { media_type, bytes: b"{}".to_vec() };
                let tag: Tag = "v1".parse().unwrap();
                let told = smol::block_on(async {
                    let to = (&digest, Some(&tag));
                    let put = upstream.put_manifest(&repository, to, &manifest, &change).await;
                    let reference = Reference::Tag(tag.clone());
                    (put, upstream.delete(&repository, &reference, &change).await)
                });
                assert!(told.0.is_err(), "{status} {body}: {told:?}");
                let is_gone = matches!(told.1, Err(UpstreamError::NotFound(_)));
                assert_eq!(is_gone, status == 404 && body == OURS, "{status} {body}: {told:?}");
                assert!(told.1.is_err());
            }
        }
    }

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

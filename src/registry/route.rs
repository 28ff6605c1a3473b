//! From a method and a path to what is asked for. Pure; repository names may hold any of the words
//! that separate them from what follows, so paths are read from their end.

use crate::http::{Method, Reply};
use crate::types::digest::DigestError;
use crate::types::{Digest, Reason, Reference, Refusal, RepositoryName, Tag};

/// What is asked for (OCI distribution-spec, "Endpoints").
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// end-1: is this a registry, and am I known?
    Ping,
    /// List repositories.
    Catalog,
    /// end-2: read a blob.
    BlobGet(RepositoryName, Digest),
    /// end-10: unlink a blob.
    BlobDelete(RepositoryName, Digest),
    /// end-4a, end-4b, end-11: start an upload, push a blob whole, or mount one.
    UploadStart(RepositoryName),
    /// end-13: how far is an upload?
    UploadStatus(RepositoryName, String),
    /// end-5: append to an upload.
    UploadAppend(RepositoryName, String),
    /// end-6: finish an upload.
    UploadFinish(RepositoryName, String),
    /// end-14: give an upload up.
    UploadCancel(RepositoryName, String),
    /// end-3: read a manifest.
    ManifestGet(RepositoryName, Reference),
    /// end-7: push a manifest.
    ManifestPut(RepositoryName, Reference),
    /// end-9: delete a manifest or untag.
    ManifestDelete(RepositoryName, Reference),
    /// end-8: list tags.
    Tags(RepositoryName),
    /// end-12: list the manifests that refer to one.
    Referrers(RepositoryName, Digest),
}

impl Route {
    /// The repository that is asked for, if it is one.
    pub(super) fn repository(&mut self) -> Option<&mut RepositoryName> {
        match self {
            Route::Ping | Route::Catalog => None,
            Route::BlobGet(name, _)
            | Route::BlobDelete(name, _)
            | Route::UploadStart(name)
            | Route::UploadStatus(name, _)
            | Route::UploadAppend(name, _)
            | Route::UploadFinish(name, _)
            | Route::UploadCancel(name, _)
            | Route::ManifestGet(name, _)
            | Route::ManifestPut(name, _)
            | Route::ManifestDelete(name, _)
            | Route::Tags(name)
            | Route::Referrers(name, _) => Some(name),
        }
    }

    /// Whether the request wants to change something.
    pub fn changes(&self) -> bool {
        match self {
            Route::Ping
            | Route::Catalog
            | Route::BlobGet(..)
            | Route::ManifestGet(..)
            | Route::Tags(_)
            | Route::Referrers(..) => false,
            Route::BlobDelete(..)
            | Route::UploadStart(_)
            | Route::UploadStatus(..)
            | Route::UploadAppend(..)
            | Route::UploadFinish(..)
            | Route::UploadCancel(..)
            | Route::ManifestPut(..)
            | Route::ManifestDelete(..) => true,
        }
    }
}

/// Why a path leads nowhere, and for a 405 the methods that it takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoRoute {
    /// What the client is told.
    pub refusal: Refusal,
    /// For the `Allow` header (RFC 9110, section 15.5.6).
    pub allow: Option<&'static str>,
}

impl From<NoRoute> for Reply {
    fn from(NoRoute { refusal, allow }: NoRoute) -> Reply {
        let mut reply = Reply::from(refusal);
        reply.headers.extend(allow.map(|methods| ("allow", methods.to_owned())));
        reply
    }
}

impl From<Refusal> for NoRoute {
    fn from(refusal: Refusal) -> NoRoute {
        NoRoute { refusal, allow: None }
    }
}

/// Finds the route of a request under `/v2/`.
pub fn route(method: Method, path: &str) -> Result<Route, NoRoute> {
    let Some(rest) = path.strip_prefix("/v2") else {
        return Err(unknown_path().into());
    };
    if rest.is_empty() || rest == "/" {
        return match method {
            Method::Get | Method::Head => Ok(Route::Ping),
            _ => Err(not_allowed("GET, HEAD")),
        };
    }
    let Some(rest) = rest.strip_prefix('/') else {
        return Err(unknown_path().into());
    };
    if rest == "_catalog" {
        return match method {
            Method::Get | Method::Head => Ok(Route::Catalog),
            _ => Err(not_allowed("GET, HEAD")),
        };
    }
    // A trailing slash is usual after `uploads` only.
    let rest = rest.strip_suffix("/blobs/uploads/").map_or(rest, |_| &rest[..rest.len() - 1]);
    let (head, last) = rest.rsplit_once('/').ok_or_else(unknown_path)?;
    if let Some(name) = head.strip_suffix("/blobs/uploads") {
        return upload(method, name, last);
    }
    let (name, noun) = head.rsplit_once('/').ok_or_else(unknown_path)?;
    match (noun, last) {
        ("blobs", "uploads") => match method {
            Method::Post => Ok(Route::UploadStart(repository(name)?)),
            _ => Err(not_allowed("POST")),
        },
        ("blobs", digest) => blob(method, name, digest),
        ("manifests", reference) => manifest(method, name, reference),
        ("tags", "list") => match method {
            Method::Get | Method::Head => Ok(Route::Tags(repository(name)?)),
            _ => Err(not_allowed("GET, HEAD")),
        },
        ("referrers", digest) => match method {
            Method::Get | Method::Head => {
                let name = repository(name)?;
                let digest = digest.parse().map_err(|fault| bad_digest(400, fault))?;
                Ok(Route::Referrers(name, digest))
            }
            _ => Err(not_allowed("GET, HEAD")),
        },
        _ => Err(unknown_path().into()),
    }
}

fn blob(method: Method, name: &str, digest: &str) -> Result<Route, NoRoute> {
    match method {
        Method::Get | Method::Head => {
            let name = repository(name)?;
            let digest = digest.parse().map_err(|fault| bad_digest(404, fault))?;
            Ok(Route::BlobGet(name, digest))
        }
        Method::Delete => {
            let name = repository(name)?;
            let digest = digest.parse().map_err(|fault| bad_digest(400, fault))?;
            Ok(Route::BlobDelete(name, digest))
        }
        _ => Err(not_allowed("GET, HEAD, DELETE")),
    }
}

fn upload(method: Method, name: &str, id: &str) -> Result<Route, NoRoute> {
    let make: fn(RepositoryName, String) -> Route = match method {
        Method::Get | Method::Head => Route::UploadStatus,
        Method::Patch => Route::UploadAppend,
        Method::Put => Route::UploadFinish,
        Method::Delete => Route::UploadCancel,
        _ => return Err(not_allowed("GET, HEAD, PATCH, PUT, DELETE")),
    };
    let name = repository(name)?;
    // Only ids that we could have handed out reach the store: fetches of our own are named
    // otherwise, and no client may touch them.
    let is_uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !is_uuid {
        let message = "there is no upload of this id";
        return Err(Refusal::new(404, "BLOB_UPLOAD_UNKNOWN", Reason::NotFound, message).into());
    }
    Ok(make(name, id.to_owned()))
}

fn manifest(method: Method, name: &str, text: &str) -> Result<Route, NoRoute> {
    let make: fn(RepositoryName, Reference) -> Route = match method {
        Method::Get | Method::Head => Route::ManifestGet,
        Method::Put => Route::ManifestPut,
        Method::Delete => Route::ManifestDelete,
        _ => return Err(not_allowed("GET, HEAD, PUT, DELETE")),
    };
    let name = repository(name)?;
    // What cannot exist cannot be found; what cannot be made is a bad request.
    let reading = matches!(method, Method::Get | Method::Head);
    let status = if reading { 404 } else { 400 };
    let reference = if text.contains(':') {
        Reference::Digest(text.parse().map_err(|fault| bad_digest(status, fault))?)
    } else {
        let tag: Tag = text.parse().map_err(|fault: crate::types::name::NameError| {
            let code = if reading { "MANIFEST_UNKNOWN" } else { "NAME_INVALID" };
            Refusal::new(status, code, Reason::Malformed, fault.to_string())
        })?;
        Reference::Tag(tag)
    };
    Ok(make(name, reference))
}

pub(super) fn repository(name: &str) -> Result<RepositoryName, Refusal> {
    name.parse().map_err(|fault: crate::types::name::NameError| {
        Refusal::new(404, "NAME_INVALID", Reason::Malformed, fault.to_string())
    })
}

/// A digest that cannot be used.
pub(super) fn bad_digest(status: u16, fault: DigestError) -> Refusal {
    Refusal::new(status, "DIGEST_INVALID", Reason::Malformed, fault.to_string())
}

pub(super) fn unknown_path() -> Refusal {
    let message = "no endpoint of the registry API has this path";
    Refusal::new(404, "NAME_INVALID", Reason::Malformed, message)
}

pub(super) fn not_allowed(methods: &'static str) -> NoRoute {
    let message = format!("this path takes {methods}");
    let refusal = Refusal::new(405, "UNSUPPORTED", Reason::Unsupported, message);
    NoRoute { refusal, allow: Some(methods) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn paths_lead_to_routes() {
        let digest: Digest = A.parse().unwrap();
        let by_tag = |tag: &str| Reference::Tag(tag.parse().unwrap());
        let by_digest = Reference::Digest(digest.clone());
        let id = ID.to_owned();
        for (method, path, expected) in [
            (Method::Get, "/v2".to_owned(), Route::Ping),
            (Method::Head, "/v2/".to_owned(), Route::Ping),
            (Method::Get, "/v2/_catalog".to_owned(), Route::Catalog),
            (Method::Get, format!("/v2/a/blobs/{A}"), Route::BlobGet(name("a"), digest.clone())),
            (
                Method::Head,
                format!("/v2/a/blobs/b/blobs/{A}"),
                Route::BlobGet(name("a/blobs/b"), digest.clone()),
            ),
            (
                Method::Delete,
                format!("/v2/a/b/blobs/{A}"),
                Route::BlobDelete(name("a/b"), digest.clone()),
            ),
            (Method::Post, "/v2/a/blobs/uploads/".to_owned(), Route::UploadStart(name("a"))),
            (Method::Post, "/v2/a/blobs/uploads".to_owned(), Route::UploadStart(name("a"))),
            (
                Method::Post,
                "/v2/a/blobs/uploads/blobs/uploads/".to_owned(),
                Route::UploadStart(name("a/blobs/uploads")),
            ),
            (
                Method::Patch,
                format!("/v2/a/blobs/uploads/{ID}"),
                Route::UploadAppend(name("a"), id.clone()),
            ),
            (
                Method::Put,
                format!("/v2/uploads/x/blobs/uploads/{ID}"),
                Route::UploadFinish(name("uploads/x"), id.clone()),
            ),
            (
                Method::Get,
                format!("/v2/a/blobs/uploads/{ID}"),
                Route::UploadStatus(name("a"), id.clone()),
            ),
            (
                Method::Delete,
                format!("/v2/a/blobs/uploads/{ID}"),
                Route::UploadCancel(name("a"), id.clone()),
            ),
            (
                Method::Get,
                "/v2/a/manifests/latest".to_owned(),
                Route::ManifestGet(name("a"), by_tag("latest")),
            ),
            (
                Method::Get,
                "/v2/tags/list/manifests/list".to_owned(),
                Route::ManifestGet(name("tags/list"), by_tag("list")),
            ),
            (
                Method::Put,
                format!("/v2/a/manifests/{A}"),
                Route::ManifestPut(name("a"), by_digest.clone()),
            ),
            (
                Method::Delete,
                format!("/v2/manifests/manifests/{A}"),
                Route::ManifestDelete(name("manifests"), by_digest),
            ),
            (Method::Get, "/v2/a/tags/list".to_owned(), Route::Tags(name("a"))),
            (Method::Get, "/v2/tags/tags/list".to_owned(), Route::Tags(name("tags"))),
            (Method::Get, format!("/v2/a/referrers/{A}"), Route::Referrers(name("a"), digest)),
        ] {
            assert_eq!(route(method, &path), Ok(expected), "{method} {path}");
        }
    }

    #[test]
    fn f160_bad_paths_are_refused_by_code() {
        let blob = format!("/v2/a/blobs/{A}");
        let upper = format!("/v2/Abc/blobs/{A}");
        let short = "/v2/a/blobs/sha256:aa";
        let upload = format!("/v2/a/blobs/uploads/{ID}");
        let long_tag = format!("/v2/a/manifests/{}", "t".repeat(129));
        for (method, path, status, code) in [
            (Method::Get, "/", 404, "NAME_INVALID"),
            (Method::Get, "/v3/", 404, "NAME_INVALID"),
            (Method::Get, "/v2x", 404, "NAME_INVALID"),
            (Method::Get, "/v2//", 404, "NAME_INVALID"),
            (Method::Get, "/v2/a", 404, "NAME_INVALID"),
            (Method::Get, "/v2/a/b/c", 404, "NAME_INVALID"),
            (Method::Get, "/v2/manifests/latest", 404, "NAME_INVALID"),
            (Method::Get, "/v2//manifests/latest", 404, "NAME_INVALID"),
            (Method::Get, "/v2/a/tags/other", 404, "NAME_INVALID"),
            (Method::Get, upper.as_str(), 404, "NAME_INVALID"),
            (Method::Get, "/v2/a/manifests/", 404, "MANIFEST_UNKNOWN"),
            (Method::Get, "/v2/a/manifests/.INVALID", 404, "MANIFEST_UNKNOWN"),
            (Method::Put, "/v2/a/manifests/.INVALID", 400, "NAME_INVALID"),
            (Method::Put, long_tag.as_str(), 400, "NAME_INVALID"),
            (Method::Get, "/v2/a/manifests/sha256:zz", 404, "DIGEST_INVALID"),
            (Method::Put, "/v2/a/manifests/md5:00", 400, "DIGEST_INVALID"),
            (Method::Get, short, 404, "DIGEST_INVALID"),
            (Method::Delete, short, 400, "DIGEST_INVALID"),
            (Method::Get, "/v2/a/referrers/x", 400, "DIGEST_INVALID"),
            (Method::Get, "/v2/a/blobs/uploads/sha256:aa", 404, "BLOB_UPLOAD_UNKNOWN"),
            (Method::Put, blob.as_str(), 405, "UNSUPPORTED"),
            (Method::Post, upload.as_str(), 405, "UNSUPPORTED"),
            (Method::Get, "/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
            (Method::Post, "/v2/", 405, "UNSUPPORTED"),
            (Method::Post, "/v2/_catalog", 405, "UNSUPPORTED"),
            (Method::Delete, "/v2/a/tags/list", 405, "UNSUPPORTED"),
        ] {
            let error = route(method, path).unwrap_err();
            assert_eq!((error.refusal.status, error.refusal.code), (status, code), "{path}");
            assert_eq!(error.allow.is_some(), status == 405);
        }
    }

    #[test]
    fn any_text_is_an_answer() {
        let pieces = ["", "/", "v2", "a", "blobs", "uploads", "manifests", "tags", "list", A, ":"];
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut path = String::from("/v2");
            for _ in 0..7 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pick = usize::try_from(seed >> 33).unwrap() % pieces.len();
                path.push_str(pieces[pick]);
                path.push_str(if seed >> 60 == 0 { "" } else { "/" });
            }
            let _ = route(Method::Get, &path);
            let _ = route(Method::Put, path.trim_end_matches('/'));
        }
    }
}

//! Manifests: served byte for byte as they came, pushed whole, deleted with their tags.

use std::sync::Arc;

use smol::lock::MutexGuard;

use super::conditional::{self, client_has, etag};
use super::error::{damaged, damaged_here, malformed, store_refusal};
use super::{Registry, sender};
use crate::auth::{Authorized, Delete, Principal, Pull, Push};
use crate::http::{Method, Reply, ReplyBody, Request};
use crate::store::content::damage::FileCheck;
use crate::store::replica::outbox::Origin;
use crate::store::rows::manifest::manifest_key;
use crate::store::{Precondition, PutManifest, PutOutcome, Required, Store, StoreError};
use crate::sys::spawn;
use crate::types::cursor::SEQUENCE;
use crate::types::digest::Algorithm;
use crate::types::limits::{
    ANNOTATIONS_BYTES_MAX, BUFFER_BYTES, MANIFEST_BYTES_MAX, TAGS_PER_PUSH_MAX,
};
use crate::types::{Digest, Manifest, Reason, Reference, Refusal, RepositoryName, Tag};

/// Larger manifests are parsed, and stored, one at a time, bytes.
const LARGE_MANIFEST_BYTES: usize = 64 * 1024;
/// What a manifest names and is looked up in one turn of the executor: of more, beside it.
const NAMED_IN_A_TURN: usize = 256;

impl Registry {
    /// end-3: GET and HEAD. A HEAD reads no file, but what is known to be lost is not there for who
    /// may bring it: a client that finds a manifest sends none of its content. Of an index that
    /// counts only for who asks in order to push: its other entries can be pulled. The digest is
    /// told all the same, so that a child knows what is here.
    pub(super) async fn manifest_get(
        &self,
        who: &Authorized<Pull>,
        request: &Request,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Reply, Refusal> {
        let digest = match reference {
            Reference::Tag(tag) => self.store.tag(name, tag).map_err(store_refusal)?,
            Reference::Digest(digest) => Some(digest.clone()),
        };
        let digest = digest.ok_or_else(|| self.manifest_miss(name, reference))?;
        let row = self.store.manifest_to_use(name, &digest).map_err(store_refusal)?;
        // What else is in the row may be long, and clients may take long.
        let known = row.map(|row| (row.media_type, row.size));
        let (media_type, size) = known.ok_or_else(|| self.manifest_miss(name, reference))?;
        let facts = |reply: Reply| {
            reply.with("docker-content-digest", digest.to_string()).with("etag", etag(&digest))
        };
        if client_has(request, &digest) {
            return Ok(facts(Reply::new(304)));
        }
        let mut reply = facts(Reply::new(200)).with("content-type", media_type);
        reply.body = match request.method {
            Method::Head => {
                let is_whole = self.is_servable(name, &digest, size).await?
                    && !(self.auth.may_push(who, name)
                        && self.is_damaged_below(name, &digest, who).await?);
                if !is_whole {
                    return Ok(facts(Reply::from(damaged_here("MANIFEST_UNKNOWN"))));
                }
                ReplyBody::Head(size)
            }
            _ if size > BUFFER_BYTES as u64 => {
                self.large_manifest(who, request, name, &digest, size).await?
            }
            _ => ReplyBody::Bytes(self.manifest_bytes(name, &digest, size).await?),
        };
        Ok(reply)
    }

    /// Whether content that a manifest names is known to be damaged: blobs, and for who comes to
    /// push also what the entries of an index need.
    async fn is_damaged_below(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        who: &Authorized<Pull>,
    ) -> Result<bool, Refusal> {
        let entries_too = self.auth.is_for_push(who, name);
        self.store.names_damage(name, digest, entries_too).await.map_err(store_refusal)
    }

    /// Whether a manifest's file is there; one that is missing or cut is out of service then.
    async fn is_servable(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<bool, Refusal> {
        let checked = self.store.check_file(manifest_key(name, digest), digest, size).await;
        Ok(matches!(checked.map_err(store_refusal)?, FileCheck::Good | FileCheck::Unlinked))
    }

    async fn manifest_bytes(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<Vec<u8>, Refusal> {
        if let Some(bytes) = self.cache.get(digest) {
            return Ok(bytes.to_vec());
        }
        let bytes = self.checked_bytes(name, digest, size).await?;
        self.cache.put(digest, &bytes);
        Ok(bytes)
    }

    /// The bytes of a manifest, whose digest was checked.
    async fn checked_bytes(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<Vec<u8>, Refusal> {
        if let Some(bytes) = self.store.blob_read(digest).await.map_err(store_refusal)? {
            return Ok(bytes);
        }
        let checked = self.store.check_file(manifest_key(name, digest), digest, size).await;
        Err(match checked.map_err(store_refusal)? {
            FileCheck::Unlinked => self.manifest_miss(name, &Reference::Digest(digest.clone())),
            _ => damaged(),
        })
    }

    /// A large manifest is in memory only while its digest is checked, and then goes out from its
    /// file: however slowly its readers take it, they hold none.
    async fn large_manifest(
        &self,
        who: &Authorized<Pull>,
        request: &Request,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<ReplyBody, Refusal> {
        let reserved = request.body.reserve(sender(&who.principal), size).await;
        let _reservation = reserved.map_err(|error| error.refusal("UNSUPPORTED"))?;
        let len = self.checked_bytes(name, digest, size).await?.len() as u64;
        let open = self.store.blob_open(digest).await.map_err(store_refusal)?;
        let blob = open.filter(|blob| blob.len == len).ok_or_else(damaged)?;
        Ok(ReplyBody::File { file: blob.file, offset: 0, len })
    }

    fn manifest_miss(&self, name: &RepositoryName, reference: &Reference) -> Refusal {
        match reference {
            Reference::Tag(tag) => {
                self.miss("MANIFEST_UNKNOWN", name, format_args!("{name}:{tag}"))
            }
            Reference::Digest(digest) => {
                self.miss("MANIFEST_UNKNOWN", name, format_args!("{name}@{digest}"))
            }
        }
    }

    /// end-7: PUT by tag or by digest. The tag is switched last, in the record that adds the
    /// manifest, after the bytes are durable.
    pub(super) async fn manifest_put(
        &self,
        who: &Authorized<Push>,
        request: &mut Request,
        name: &RepositoryName,
        reference: Reference,
    ) -> Result<Reply, Refusal> {
        let precondition = conditional::precondition(request)?;
        let origin = conditional::origin(&self.store, request, &who.principal)?;
        let content_type = request.header("content-type").map(str::to_owned);
        let tags = tags_of(request, &reference)?;
        if matches!(origin, Origin::Child(_)) && tags.len() > 1 {
            return Err(malformed("UNSUPPORTED", "a named change sets one tag"));
        }
        let from = sender(&who.principal);
        let body = request.body.receive_to_parse(from, MANIFEST_BYTES_MAX).await;
        let body = body.map_err(|error| error.refusal("MANIFEST_INVALID"))?;
        // Kept until the answer: the bytes, and what they are parsed into, are in memory so long.
        let (bytes, _reservation) = body.into_parts();
        let is_large = bytes.len() > LARGE_MANIFEST_BYTES;
        let turn = self.turn(is_large).await;
        let (digest, parsed, bytes) = check_manifest(bytes, content_type, &reference).await?;
        // What it names may have to be read, which can take long.
        drop(turn);
        let parsed = Arc::new(parsed);
        self.check_named(name, &parsed, &origin).await?;
        let is_delivery = matches!(origin, Origin::Child(_));
        let bytes_len = bytes.len() as u64;
        if !is_delivery {
            let tags = (&tags[..], &precondition);
            self.check_before(name, &digest, bytes_len, tags).map_err(store_refusal)?;
        }
        let content = self.store.blob_put(&digest, bytes).await.map_err(store_refusal)?;
        let mut reply = Reply::new(201)
            .with("location", format!("/v2/{name}/manifests/{digest}"))
            .with("docker-content-digest", digest.to_string());
        if let Some(subject) = &parsed.subject {
            reply = reply.with("oci-subject", subject.digest.to_string());
        }
        if matches!(reference, Reference::Digest(_)) {
            reply.headers.extend(tags.iter().map(|tag| ("oci-tag", tag.to_string())));
        }
        let put = PutManifest {
            content,
            media_type: parsed.media_type.clone(),
            bytes_len,
            parsed: Arc::unwrap_or_clone(parsed),
            tags,
            precondition,
            required: Required::All,
            origin,
        };
        let _turn = self.turn(is_large).await;
        let outcome = self.store.put_manifest(name, put).await;
        if !matches!(outcome, Ok(PutOutcome::Stored | PutOutcome::Replayed)) {
            self.store.take_back(&digest).await;
        }
        match outcome.map_err(store_refusal)? {
            PutOutcome::Stored | PutOutcome::Replayed if is_delivery => Ok(self.delivered(reply)),
            PutOutcome::Stored | PutOutcome::Replayed => Ok(reply),
            missing => Err(refused(missing)),
        }
    }

    /// Whether the tags are what they must be, and there is room for a manifest that is not here:
    /// bytes are not written in vain. The command that stores it decides.
    fn check_before(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        bytes: u64,
        (tags, precondition): (&[Tag], &Precondition),
    ) -> Result<(), StoreError> {
        for tag in tags {
            self.store.check_tag(name, tag, precondition)?;
        }
        if self.store.manifest(name, digest)?.is_none() {
            self.store.check_quota(name, bytes)?;
            self.store.expect_rows()?;
        }
        Ok(())
    }

    /// The turn of a large manifest to be parsed or stored: what comes of it meanwhile is in memory
    /// once.
    async fn turn(&self, is_large: bool) -> Option<MutexGuard<'_, ()>> {
        if is_large { Some(self.large.lock().await) } else { None }
    }

    /// Whether a node accepts what a manifest names. Content that is missing is told before bytes
    /// are stored in vain. A delivery may be a replay, which must not fail for what has been
    /// deleted since: the command finds out.
    async fn check_named(
        &self,
        name: &RepositoryName,
        parsed: &Arc<Manifest>,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let mut missing = None;
        if *origin == Origin::Client {
            let asked = self.ask(name, parsed, Store::missing_content).await;
            missing = asked.map_err(store_refusal)?;
        }
        if missing.is_none() {
            // A child brings what is damaged here.
            let bad = self.store.unservable_content(name, parsed).await;
            missing = bad.map_err(store_refusal)?;
        }
        if let Some(missing) = missing {
            return Err(refused(missing));
        }
        self.ask(name, parsed, Store::check_sizes).await.map_err(not_accepted)?;
        self.store.check_nesting(name, parsed).await.map_err(not_accepted)
    }

    /// Asks the store about everything that a manifest names.
    async fn ask<T: Send + 'static>(
        &self,
        name: &RepositoryName,
        parsed: &Arc<Manifest>,
        ask: fn(&Store, &RepositoryName, &Manifest) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if parsed.layers.len() + parsed.children.len() <= NAMED_IN_A_TURN {
            return ask(&self.store, name, parsed);
        }
        let (store, name, parsed) = (self.store.clone(), name.clone(), parsed.clone());
        spawn::blocking(move || ask(&store, &name, &parsed)).await
    }

    /// Tells a child where the feed is that has its change.
    fn delivered(&self, reply: Reply) -> Reply {
        reply.with(SEQUENCE, self.store.sequence().to_string())
    }

    /// end-9: DELETE. A tag is taken away and its manifest stays; a manifest goes with its tags.
    pub(super) async fn manifest_delete(
        &self,
        who: &Authorized<Delete>,
        request: &Request,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Reply, Refusal> {
        let origin = conditional::origin(&self.store, request, &who.principal)?;
        let result = match reference {
            Reference::Tag(tag) => {
                let precondition = conditional::precondition(request)?;
                self.store.delete_tag(name, tag, precondition, &origin).await.map(|_| ())
            }
            Reference::Digest(digest) => self.store.delete_manifest(name, digest, &origin).await,
        };
        if result.is_ok() && who.principal == Principal::Operator {
            let by = self.name_of(request, &who.principal);
            log::info!("deleted repository={name} reference={reference} by={by}");
        }
        match result {
            Ok(()) if matches!(origin, Origin::Child(_)) => Ok(self.delivered(Reply::new(202))),
            Ok(()) => Ok(Reply::new(202)),
            Err(StoreError::NotFound) => Err(self.manifest_miss(name, reference)),
            Err(error) => Err(store_refusal(error)),
        }
    }
}

/// Checks the digest of a manifest and parses it.
async fn check_manifest(
    bytes: Vec<u8>,
    content_type: Option<String>,
    reference: &Reference,
) -> Result<(Digest, Manifest, Vec<u8>), Refusal> {
    let expected = match reference {
        Reference::Tag(_) => None,
        Reference::Digest(digest) => Some(digest.clone()),
    };
    // Milliseconds of work for a large one, which other requests should not wait for.
    if bytes.len() > BUFFER_BYTES {
        spawn::blocking(move || check(bytes, content_type.as_deref(), expected)).await
    } else {
        check(bytes, content_type.as_deref(), expected)
    }
}

/// The tags that a push sets: the one in the path, or those in the query of a push by digest.
fn tags_of(request: &Request, reference: &Reference) -> Result<Vec<Tag>, Refusal> {
    if let Reference::Tag(tag) = reference {
        return Ok(vec![tag.clone()]);
    }
    let mut tags: Vec<Tag> = Vec::new();
    for text in request.query_all("tag") {
        let tag = text.parse().map_err(|fault: crate::types::name::NameError| {
            malformed("NAME_INVALID", fault.to_string())
        })?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        if tags.len() > TAGS_PER_PUSH_MAX {
            let message = format!("a push sets at most {TAGS_PER_PUSH_MAX} tags");
            return Err(Refusal::new(414, "UNSUPPORTED", Reason::TooLarge, message));
        }
    }
    Ok(tags)
}

fn check(
    bytes: Vec<u8>,
    content_type: Option<&str>,
    expected: Option<Digest>,
) -> Result<(Digest, Manifest, Vec<u8>), Refusal> {
    let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let digest = digest_of(algorithm, &bytes);
    if expected.is_some_and(|expected| expected != digest) {
        let message = format!("the manifest has the digest {digest}");
        return Err(Refusal::new(400, "DIGEST_INVALID", Reason::DigestMismatch, message));
    }
    let parsed = Manifest::parse(content_type, &bytes)
        .map_err(|fault| malformed("MANIFEST_INVALID", fault.to_string()))?;
    if parsed.subject.is_some() && parsed.has_more_annotations {
        let message = format!(
            "a manifest with a subject has at most {ANNOTATIONS_BYTES_MAX} bytes of annotations, \
             with 16 for each: listings of referrers must have them all"
        );
        return Err(Refusal::new(413, "SIZE_INVALID", Reason::TooLarge, message));
    }
    Ok((digest, parsed, bytes))
}

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let raw = ring::digest::digest(algorithm.function(), bytes);
    Digest::from_raw(algorithm, raw.as_ref())
        .unwrap_or_else(|| unreachable!("the function gives digests of its algorithm's length"))
}

/// What the store does not accept is a fault of the manifest.
fn not_accepted(error: StoreError) -> Refusal {
    match error {
        StoreError::Invalid(text) => malformed("MANIFEST_INVALID", text),
        other => store_refusal(other),
    }
}

fn refused(outcome: PutOutcome) -> Refusal {
    let message = match outcome {
        PutOutcome::BlobMissing(digest) => {
            format!("the manifest names blob {digest}, which this repository does not have")
        }
        PutOutcome::ChildMissing(digest) => {
            format!("the index names manifest {digest}, which this repository does not have")
        }
        PutOutcome::Stored | PutOutcome::Replayed => String::new(),
    };
    Refusal::new(400, "MANIFEST_BLOB_UNKNOWN", Reason::ContentMissing, message)
}

#[cfg(test)]
mod tests {
    use super::super::conditional::testing::request;
    use super::*;
    use crate::types::media;

    #[test]
    fn a_push_by_digest_is_checked() {
        let text = br#"{"schemaVersion":2,"manifests":[]}"#;
        let run = |expected: Option<Digest>| {
            check(text.to_vec(), Some(media::OCI_INDEX), expected).map(|(digest, ..)| digest)
        };
        for algorithm in Algorithm::ALL {
            let good = digest_of(algorithm, text);
            assert_eq!(run(Some(good.clone())), Ok(good));
            let refusal = run(Some(digest_of(algorithm, b"other"))).unwrap_err();
            assert_eq!((refusal.status, refusal.code), (400, "DIGEST_INVALID"));
        }
        assert_eq!(run(None).unwrap().algorithm(), Algorithm::Sha256);
        let refusal = check(b"{".to_vec(), Some(media::OCI_INDEX), None).unwrap_err();
        assert_eq!((refusal.status, refusal.code), (400, "MANIFEST_INVALID"));
    }

    #[test]
    fn tags_come_from_the_path_or_the_query() {
        let mut request = request(Method::Put, &[]);
        for tag in ["a", "b", "a"] {
            request.query.push(("tag".to_owned(), tag.to_owned()));
        }
        let digest = Reference::Digest(digest_of(Algorithm::Sha256, b""));
        let tags = |request: &Request, reference: &Reference| {
            let tags = tags_of(request, reference)?;
            Ok::<_, Refusal>(tags.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(tags(&request, &digest).unwrap(), ["a", "b"]);
        assert_eq!(tags(&request, &Reference::Tag("v1".parse().unwrap())).unwrap(), ["v1"]);
        request.query = vec![("tag".to_owned(), "-".to_owned())];
        assert_eq!(tags(&request, &digest).unwrap_err().code, "NAME_INVALID");
        request.query =
            (0..=TAGS_PER_PUSH_MAX).map(|n| ("tag".to_owned(), format!("t{n}"))).collect();
        assert_eq!(tags(&request, &digest).unwrap_err().status, 414);
    }
}

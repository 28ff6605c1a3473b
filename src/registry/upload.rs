//! Uploads: a blob comes whole, in chunks, as a stream, or from another repository. What has
//! arrived stays when a connection breaks, and the client goes on from there.

use super::Registry;
use super::error::{malformed, store_refusal};
use super::presented;
use super::range::{self, Chunk};
use super::route::bad_digest;
use crate::auth::{Authorized, Push};
use crate::http::{Body, BodyError, Reply, Request, Room, Sender};
use crate::store::StoreError;
use crate::store::uploads::Upload;
use crate::types::limits::BUFFER_BYTES;
use crate::types::{Digest, Reason, Refusal, RepositoryName};

/// Seconds after which a client may try to start an upload that is one too many.
const TOO_MANY_RETRY_S: u64 = 30;

impl Registry {
    /// Who starts an upload, and the repository that the blob can be mounted from, where one is
    /// named and the sender may pull from it.
    pub(super) fn upload_sender(
        &self,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<(Authorized<Push>, Option<RepositoryName>), Refusal> {
        let sender = presented(request);
        let named = request.query("mount").and(request.query("from"));
        let Some(from) = named.and_then(|from| from.parse().ok()) else {
            return Ok((self.auth.repository(&sender, name)?, None));
        };
        let (who, pull) = self.auth.mount(&sender, name, &from)?;
        Ok((who, pull.map(|_| from)))
    }

    /// end-4a, end-4b, end-11: POST.
    pub(super) async fn upload_start(
        &self,
        who: &Authorized<Push>,
        request: &mut Request,
        name: &RepositoryName,
        from: Option<&RepositoryName>,
    ) -> Result<Reply, Refusal> {
        let whole = asked_digest(request, "digest")?;
        let mount = asked_digest(request, "mount")?;
        if !matches!(request.query("digest-algorithm"), None | Some("sha256" | "sha512")) {
            let message = "only sha256 and sha512 digests are supported";
            return Err(malformed("DIGEST_INVALID", message));
        }
        if let (Some(digest), Some(from)) = (mount, from)
            && self.mount(from, name, &digest).await?
        {
            return Ok(created(name, &digest));
        }
        let coming = request.body.len().unwrap_or(0);
        self.store.check_quota(name, coming).map_err(store_refusal)?;
        let mut upload = self.store.upload_start(name).await.map_err(start_refusal)?;
        let Some(digest) = whole else {
            return Ok(progress(202, name, upload.id(), upload.offset()));
        };
        // Nobody learns the id of this upload: it is of no use when the body does not come whole.
        match receive(&mut upload, &mut request.body, None).await {
            Ok(_room) => self.finish(who, upload, name, &digest).await,
            Err(refusal) => {
                if let Err(error) = upload.cancel().await {
                    log::warn!("cannot remove a broken upload: {error}");
                }
                Err(refusal)
            }
        }
    }

    /// end-11: links a blob of another repository. When it cannot, an upload is started instead,
    /// so that the client can send the blob.
    async fn mount(
        &self,
        from: &RepositoryName,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, Refusal> {
        match self.store.blob_open(digest).await {
            Ok(Some(_)) => {}
            Ok(None) | Err(StoreError::Corrupt(_)) => return Ok(false),
            Err(error) => return Err(store_refusal(error)),
        }
        self.store.mount_blob(from, name, digest).await.map_err(store_refusal)
    }

    /// end-13: GET: how far is it?
    pub(super) async fn upload_status(
        &self,
        _who: &Authorized<Push>,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Reply, Refusal> {
        let offset = self.store.upload_offset(name, id).await.map_err(upload_refusal)?;
        Ok(progress(204, name, id, offset))
    }

    /// end-5: PATCH.
    pub(super) async fn upload_append(
        &self,
        _who: &Authorized<Push>,
        request: &mut Request,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Reply, Refusal> {
        let chunk = announced(request)?;
        let mut upload = self.store.upload_resume(name, id).await.map_err(upload_refusal)?;
        if let Some(reply) = out_of_order(chunk, &upload, name) {
            return Ok(reply);
        }
        let coming = upload.offset() + request.body.len().unwrap_or(0);
        self.store.check_quota(name, coming).map_err(store_refusal)?;
        let _room = receive(&mut upload, &mut request.body, chunk).await?;
        // Written before it is acknowledged: a full disk is told to whom it concerns.
        let offset = upload.pause().await.map_err(store_refusal)?;
        Ok(progress(202, name, id, offset))
    }

    /// end-6: PUT, perhaps with the last chunk.
    pub(super) async fn upload_finish(
        &self,
        who: &Authorized<Push>,
        request: &mut Request,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Reply, Refusal> {
        let Some(digest) = asked_digest(request, "digest")? else {
            return Err(malformed("DIGEST_INVALID", "the query has no digest to finish with"));
        };
        let chunk = announced(request)?;
        let mut upload = match self.store.upload_resume(name, id).await {
            Ok(upload) => upload,
            // The answer to an earlier attempt was lost: the blob is what the client wants.
            Err(StoreError::NotFound) if self.linked(name, &digest)? => {
                return Ok(created(name, &digest));
            }
            Err(error) => return Err(upload_refusal(error)),
        };
        if let Some(reply) = out_of_order(chunk, &upload, name) {
            return Ok(reply);
        }
        let _room = receive(&mut upload, &mut request.body, chunk).await?;
        self.finish(who, upload, name, &digest).await
    }

    /// end-14: DELETE.
    pub(super) async fn upload_cancel(
        &self,
        _who: &Authorized<Push>,
        name: &RepositoryName,
        id: &str,
    ) -> Result<Reply, Refusal> {
        let upload = self.store.upload_resume(name, id).await.map_err(upload_refusal)?;
        upload.cancel().await.map_err(store_refusal)?;
        Ok(Reply::new(204))
    }

    async fn finish(
        &self,
        _who: &Authorized<Push>,
        upload: Upload,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        let size = upload.finish(digest).await.map_err(|error| match error {
            StoreError::Invalid(_) => {
                let message = format!("the content does not have the digest {digest}");
                Refusal::new(400, "DIGEST_INVALID", Reason::DigestMismatch, message)
            }
            error => store_refusal(error),
        })?;
        // The content is durable; only now can it be asked for.
        self.store.link_blob(name, digest, size).await.map_err(store_refusal)?;
        Ok(created(name, digest))
    }

    fn linked(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, Refusal> {
        self.store.blob_linked(name, digest).map_err(store_refusal)
    }
}

/// Appends a body to an upload in steps of [`BUFFER_BYTES`]. When the body breaks off, what has
/// arrived is kept. What the upload holds in memory stays reserved until it is written.
async fn receive(
    upload: &mut Upload,
    body: &mut Body,
    chunk: Option<Chunk>,
) -> Result<Option<Room>, Refusal> {
    if body.is_empty() {
        return check_len(0, chunk).map(|()| None);
    }
    // What is on its way is never more than the body has.
    let pieces = upload.memory_bytes() as u64;
    let held = body.len().map_or(pieces, |len| pieces.min(len)) + BUFFER_BYTES as u64;
    let room = body.reserve(Sender::LoggedIn, held).await;
    let room = room.map_err(|error| error.refusal("BLOB_UPLOAD_INVALID"))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut received: u64 = 0;
    loop {
        let (filled, end) = fill(body, &mut buffer).await;
        received += filled as u64;
        if chunk.is_some_and(|chunk| received > chunk.len) {
            return check_len(received, chunk).map(|()| room);
        }
        if filled > 0 {
            upload.write(&buffer[..filled]).await.map_err(store_refusal)?;
        }
        match end {
            Some(Ok(())) => return check_len(received, chunk).map(|()| room),
            Some(Err(error)) => {
                return Err(BodyError::Io(error).refusal("BLOB_UPLOAD_INVALID"));
            }
            None => {}
        }
    }
}

/// Fills the buffer as far as the body goes; says how the body ended if it did.
async fn fill(body: &mut Body, buffer: &mut [u8]) -> (usize, Option<std::io::Result<()>>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match body.read(&mut buffer[filled..]).await {
            Ok(0) => return (filled, Some(Ok(()))),
            Ok(read) => filled += read,
            Err(error) => return (filled, Some(Err(error))),
        }
    }
    (filled, None)
}

fn check_len(received: u64, chunk: Option<Chunk>) -> Result<(), Refusal> {
    match chunk {
        Some(chunk) if chunk.len != received => {
            let message =
                format!("Content-Range announces {} bytes, the body has other", chunk.len);
            Err(malformed("SIZE_INVALID", message))
        }
        _ => Ok(()),
    }
}

/// The place that a chunk announces for itself; `None` for a stream, which goes on where the
/// upload ends.
fn announced(request: &Request) -> Result<Option<Chunk>, Refusal> {
    let Some(header) = request.header("content-range") else {
        return Ok(None);
    };
    let chunk = range::chunk(header).ok_or_else(|| {
        malformed("BLOB_UPLOAD_INVALID", "Content-Range has the form <first byte>-<last byte>")
    })?;
    match request.body.len() {
        // The last request of a push may repeat where it stands and bring nothing.
        Some(0) => Ok(Some(Chunk { first: chunk.first, len: 0 })),
        Some(len) => check_len(len, Some(chunk)).map(|()| Some(chunk)),
        None => Ok(Some(chunk)),
    }
}

/// The answer to a chunk that is not the next one: where to go on.
fn out_of_order(chunk: Option<Chunk>, upload: &Upload, name: &RepositoryName) -> Option<Reply> {
    let (chunk, offset) = (chunk?, upload.offset());
    if chunk.first == offset {
        return None;
    }
    let message = format!("the upload has {offset} bytes; the next chunk starts there");
    let refusal = Refusal::new(416, "BLOB_UPLOAD_INVALID", Reason::OutOfOrder, message);
    let mut reply = Reply::from(refusal);
    reply.headers.extend(progress(416, name, upload.id(), offset).headers);
    Some(reply)
}

fn asked_digest(request: &Request, field: &str) -> Result<Option<Digest>, Refusal> {
    let text = request.query(field);
    text.map(|text| text.parse().map_err(|fault| bad_digest(400, fault))).transpose()
}

fn progress(status: u16, name: &RepositoryName, id: &str, offset: u64) -> Reply {
    Reply::new(status)
        .with("location", format!("/v2/{name}/blobs/uploads/{id}"))
        .with("range", range::progress(offset))
        .with("docker-upload-uuid", id)
}

fn created(name: &RepositoryName, digest: &Digest) -> Reply {
    Reply::new(201)
        .with("location", format!("/v2/{name}/blobs/{digest}"))
        .with("docker-content-digest", digest.to_string())
}

/// A start that fails for the number of open uploads is the sender's to retry.
fn start_refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable => {
            let message = "too many uploads are open; finish or cancel some";
            let mut refusal = Refusal::new(429, "TOOMANYREQUESTS", Reason::Throttled, message);
            refusal.retry_after_s = Some(TOO_MANY_RETRY_S);
            refusal
        }
        error => store_refusal(error),
    }
}

fn upload_refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::NotFound => Refusal::new(
            404,
            "BLOB_UPLOAD_UNKNOWN",
            Reason::NotFound,
            "there is no upload of this id in this repository",
        ),
        StoreError::Conflict(_) => Refusal::new(
            409,
            "BLOB_UPLOAD_INVALID",
            Reason::OutOfOrder,
            "another request is sending to this upload",
        ),
        error => store_refusal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::conditional::testing::request;
    use super::*;
    use crate::http::Method;

    #[test]
    fn f152_chunks_announce_their_place() {
        let read = |header: Option<&str>, len: Option<u64>| {
            let headers: Vec<_> =
                header.map(|value| ("content-range", value)).into_iter().collect();
            let mut request = request(Method::Patch, &headers);
            request.body = Body::new(smol::io::empty(), len);
            announced(&request)
        };
        assert_eq!(read(None, None), Ok(None));
        assert_eq!(read(Some("0-9"), None), Ok(Some(Chunk { first: 0, len: 10 })));
        assert_eq!(read(Some("5-9"), Some(5)), Ok(Some(Chunk { first: 5, len: 5 })));
        assert_eq!(read(Some("5-9"), Some(0)), Ok(Some(Chunk { first: 5, len: 0 })));
        assert_eq!(read(Some("5-9"), Some(4)).unwrap_err().code, "SIZE_INVALID");
        assert_eq!(read(Some("9-5"), Some(4)).unwrap_err().code, "BLOB_UPLOAD_INVALID");
    }

    #[test]
    fn a_body_that_breaks_off_keeps_what_came() {
        use smol::io::{AsyncReadExt, Cursor};
        smol::block_on(async {
            let broken = Cursor::new(vec![7; 100]).chain(smol::io::BufReader::new(Broken));
            let mut body = Body::new(broken, Some(500));
            let mut buffer = vec![0; 64];
            assert!(matches!(fill(&mut body, &mut buffer).await, (64, None)));
            assert!(matches!(fill(&mut body, &mut buffer).await, (36, Some(Err(_)))));
        });
    }

    struct Broken;

    impl smol::io::AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::task::Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()))
        }
    }
}

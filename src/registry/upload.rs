//! Uploads: a blob comes whole, in chunks, as a stream, or from another repository. What has
//! arrived stays when a connection breaks, and the client goes on from there.

use super::error::{malformed, store_refusal};
use super::range::{self, Chunk};
use super::route::bad_digest;
use super::{Registry, account, presented};
use crate::auth::{Authorized, Push};
use crate::http::{Body, BodyError, Busy, Reply, Request, Reservation};
use crate::store::StoreError;
use crate::store::content::damage::FileCheck;
use crate::store::content::uploads::Upload;
use crate::store::rows::link::blob_key;
use crate::sys::clock;
use crate::types::limits::{BUFFER_BYTES, UPLOAD_PACE};
use crate::types::{Digest, Reason, Refusal, RepositoryName};

/// Seconds after which a client may try to start an upload that is one too many.
const TOO_MANY_RETRY_S: u64 = 30;
/// Bytes read and written at once by an upload that gathers nothing. They are copied on their way
/// to the disk: the two are the body buffer that each connection has.
const STEP_BYTES: usize = BUFFER_BYTES / 2;

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
        let upload = self.store.upload_start(name, account(&who.principal)).await;
        let mut upload = upload.map_err(start_refusal)?;
        let Some(digest) = whole else {
            // A repository that is full says so at once.
            let fits = upload.expect(0).await.map_err(Fault::from);
            let (upload, ()) = kept(upload, fits).await?;
            return Ok(progress(202, name, upload.id(), upload.offset()));
        };
        let received = match self.spare(&mut upload, name, &digest).await {
            Ok(()) => receive(&mut upload, &mut request.body, None).await,
            Err(refusal) => Err(Fault::Refused(refusal)),
        };
        match received {
            Ok(_held) => self.finish(who, upload, name, &digest).await,
            Err(Fault::Broken(refusal) | Fault::Refused(refusal)) => {
                // Nobody learns the id of this upload.
                remove(upload).await;
                Err(refusal)
            }
        }
    }

    /// Content that can be pulled from a repository already costs nothing more of its quota.
    async fn spare(
        &self,
        upload: &mut Upload,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), Refusal> {
        if let Some(len) = self.len(name, digest).await? {
            upload.spare_quota(digest, len);
        }
        Ok(())
    }

    /// end-11: links a blob of another repository. When it cannot, an upload is started instead,
    /// so that the client can send the blob.
    async fn mount(
        &self,
        from: &RepositoryName,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, Refusal> {
        // Who asks for what is not there has nothing to do with content.
        if self.store.blob_link(from, digest).map_err(store_refusal)?.is_none() {
            return Ok(false);
        }
        match self.store.blob_open(digest).await {
            Ok(Some(_)) if self.has(from, digest).await? => {}
            Ok(_) | Err(StoreError::Corrupt(_) | StoreError::Unreadable(_)) => return Ok(false),
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
        let received = receive(&mut upload, &mut request.body, chunk).await;
        let (mut upload, _held) = kept(upload, received).await?;
        // Written before it is acknowledged: a full disk is told to whom it concerns.
        let written = upload.flush().await.map_err(|error| store_refusal(error).into());
        let (upload, ()) = kept(upload, written).await?;
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
            Err(StoreError::NotFound) if self.has(name, &digest).await? => {
                return Ok(created(name, &digest));
            }
            Err(error) => return Err(upload_refusal(error)),
        };
        if let Some(reply) = out_of_order(chunk, &upload, name) {
            return Ok(reply);
        }
        self.spare(&mut upload, name, &digest).await?;
        let received = receive(&mut upload, &mut request.body, chunk).await;
        let (upload, _held) = kept(upload, received).await?;
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
        mut upload: Upload,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, Refusal> {
        // The quota may have been another one when the bytes came.
        let fits = upload.expect(0).await.map_err(Fault::from);
        let (mut upload, ()) = kept(upload, fits).await?;
        let _room = upload.take_kept();
        let (lease, size) = upload.finish(digest).await.map_err(|error| match error {
            StoreError::Invalid(_) => {
                let message = format!("the content does not have the digest {digest}");
                Refusal::new(400, "DIGEST_INVALID", Reason::DigestMismatch, message)
            }
            error => store_refusal(error),
        })?;
        // The content is durable; only now can it be asked for.
        let linked = self.store.link_blob(name, &lease, size).await;
        if linked.is_err() {
            drop(lease);
            self.store.take_back(digest).await;
        }
        linked.map_err(store_refusal)?;
        Ok(created(name, digest))
    }

    /// Whether a blob can be pulled from a repository.
    async fn has(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, Refusal> {
        Ok(self.len(name, digest).await?.is_some())
    }

    /// The length of a blob that can be pulled from a repository, bytes.
    async fn len(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>, Refusal> {
        let Some(link) = self.store.blob_link(name, digest).map_err(store_refusal)? else {
            return Ok(None);
        };
        let checked = self.store.check_file(blob_key(name, digest), digest, link.size).await;
        let is_good = checked.map_err(store_refusal)? == FileCheck::Good;
        Ok(is_good.then_some(link.size))
    }
}

/// Why the body of a request was not taken as a whole.
enum Fault {
    /// It broke off: what has arrived stays, and the client goes on from there.
    Broken(Refusal),
    /// It is refused.
    Refused(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refused(refusal)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Refused(store_refusal(error))
    }
}

/// What becomes of an upload after a fault: where it cannot fit the quota, the disk or the index it
/// ends, and what came of it takes no space; any other chunk that is refused can be sent again.
async fn kept<T>(upload: Upload, result: Result<T, Fault>) -> Result<(Upload, T), Refusal> {
    let refusal = match result {
        Ok(value) => return Ok((upload, value)),
        Err(Fault::Broken(refusal)) => return Err(refusal),
        Err(Fault::Refused(refusal)) => refusal,
    };
    use Reason::{DiskReserve, IndexFull, QuotaExceeded};
    if matches!(refusal.reason, QuotaExceeded | DiskReserve | IndexFull) {
        remove(upload).await;
        return Err(refusal);
    }
    if let Err(error) = upload.rewind().await {
        log::warn!("cannot drop a refused chunk: {error}");
    }
    Err(refusal)
}

async fn remove(upload: Upload) {
    if let Err(error) = upload.cancel().await {
        log::warn!("cannot remove a refused upload: {error}");
    }
}

/// Appends a body to an upload, one buffer after the other; what the quota or the disk has no room
/// for is refused before it comes, as far as its length is told. When the body breaks off, what has
/// arrived is kept. While the buffers fill quickly, and there is memory, the upload gathers them
/// into pieces. What it then holds is returned, to be kept until it is written.
async fn receive(
    upload: &mut Upload,
    body: &mut Body,
    chunk: Option<Chunk>,
) -> Result<Gathers, Fault> {
    let mut gathers = Gathers::Nothing;
    upload.expect(body.len().unwrap_or(0)).await?;
    if body.is_empty() {
        check_len(0, chunk)?;
        return Ok(gathers);
    }
    let mut buffer = Buffer { bytes: vec![0; STEP_BYTES], filled: 0, slow: false };
    let mut received: u64 = 0;
    loop {
        let end = buffer.fill(body, &gathers).await;
        received += buffer.filled as u64;
        if chunk.is_some_and(|chunk| received > chunk.len) {
            check_len(received, chunk)?;
        }
        if end.is_none() && !buffer.slow && matches!(gathers, Gathers::Nothing) {
            gathers = Gathers::start(upload, body);
        }
        upload.write(buffer.bytes()).await?;
        match end {
            Some(Ok(())) => {
                check_len(received, chunk)?;
                return Ok(gathers);
            }
            Some(Err(error)) => {
                let refusal = BodyError::Io(error).refusal("BLOB_UPLOAD_INVALID");
                return Err(Fault::Broken(refusal));
            }
            None => {}
        }
        if buffer.slow || matches!(gathers, Gathers::Nothing) {
            upload.flush().await?;
            gathers = Gathers::Nothing;
        }
        (buffer.filled, buffer.slow) = (0, false);
    }
}

/// Whether an upload gathers bytes before it writes them.
enum Gathers {
    /// Each buffer is written before the next one is read.
    Nothing,
    /// Pieces, in the memory that is reserved.
    Pieces { _memory: Option<Reservation> },
}

impl Gathers {
    fn start(upload: &mut Upload, body: &Body) -> Gathers {
        // What is on its way is never more than the body has.
        let pieces = upload.memory_bytes() as u64;
        let held = body.len().map_or(pieces, |len| pieces.min(len));
        match body.reserve_for_upload(held) {
            Ok(_memory) => {
                upload.gather();
                Gathers::Pieces { _memory }
            }
            Err(Busy) => Gathers::Nothing,
        }
    }
}

/// What a connection has read of an upload.
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    /// It was not full within [`UPLOAD_PACE`].
    slow: bool,
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Fills it as far as the body goes; says how the body ended if it did. An upload that has
    /// memory reserved does not wait for a slow sender with it: the buffer is then not full.
    async fn fill(&mut self, body: &mut Body, gathers: &Gathers) -> Option<std::io::Result<()>> {
        loop {
            match clock::within(UPLOAD_PACE, self.read(body)).await {
                Ok(end) => return end,
                Err(_) => self.slow = true,
            }
            if matches!(gathers, Gathers::Pieces { .. }) {
                return None;
            }
        }
    }

    async fn read(&mut self, body: &mut Body) -> Option<std::io::Result<()>> {
        while self.filled < self.bytes.len() {
            match body.read(&mut self.bytes[self.filled..]).await {
                Ok(0) => return Some(Ok(())),
                Ok(read) => self.filled += read,
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
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
            let mut buffer = Buffer { bytes: vec![0; 64], filled: 0, slow: false };
            assert!(buffer.fill(&mut body, &Gathers::Nothing).await.is_none());
            assert_eq!((buffer.bytes(), buffer.slow), (&[7; 64][..], false));
            buffer.filled = 0;
            assert!(matches!(buffer.fill(&mut body, &Gathers::Nothing).await, Some(Err(_))));
            assert_eq!(buffer.bytes(), [7; 36]);
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

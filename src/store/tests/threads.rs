//! What uploads take of the threads for work that blocks: all of the node waits for the same few.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::sys::clock::sleep;
use crate::sys::spawn::{self, Threads};
use crate::types::digest::Algorithm;
use crate::types::limits::BLOCKING_THREADS;

/// Many times what is hashed in one job.
const LARGE_BYTES: usize = 3 << 20;
/// Of these, hashed together: more than there are threads.
const LARGE: usize = 2 * BLOCKING_THREADS;
const SLOW_READ: Duration = Duration::from_millis(30);

fn repository() -> RepositoryName {
    "library/alpine".parse().unwrap()
}

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let raw = ring::digest::digest(algorithm.function(), bytes);
    Digest::from_raw(algorithm, raw.as_ref()).unwrap()
}

fn is_of_an_upload(path: &Path) -> bool {
    path.starts_with("/s/uploads") && path.extension().is_none()
}

async fn start(store: &Store, bytes: &[u8]) -> String {
    let mut upload = store.upload_start(&repository(), "").await.unwrap();
    upload.write(bytes).await.unwrap();
    let id = upload.id().to_owned();
    upload.pause().await.unwrap();
    id
}

/// Hashes large uploads together, after a restart or for a digest of SHA-512.
async fn hash_large(finish: bool) {
    let (disk, bytes) = (MemoryDisk::new(), vec![7; LARGE_BYTES]);
    let (mut store, _) = open_memory(&disk).unwrap();
    let mut ids = Vec::new();
    for _ in 0..LARGE {
        ids.push(start(&store, &bytes).await);
    }
    let mut uploads = Vec::new();
    if finish {
        for id in &ids {
            uploads.push(store.upload_resume(&repository(), id).await.unwrap());
        }
    } else {
        drop(store);
        store = open_memory(&disk).unwrap().0;
    }
    let spawner = Spawner::new();
    // Other work comes in the midst of it.
    let ((came, coming), read) = (smol::channel::bounded(1), Arc::new(AtomicUsize::new(0)));
    disk.watch(move |what, path, bytes| {
        if what != "read" || !is_of_an_upload(path) {
            return;
        }
        let before = read.fetch_add(bytes, Ordering::SeqCst);
        // The disk is slow until then: what counts is whose turn it is, not which of the threads
        // the machine lets run.
        if came.is_empty() {
            block_on(sleep(SLOW_READ));
        }
        if before < LARGE_BYTES / 3 && before + bytes >= LARGE_BYTES / 3 {
            let (read, came) = (read.clone(), came.clone());
            let other = move || came.try_send(read.load(Ordering::SeqCst)).unwrap();
            spawn::blocking_task(Threads::Common, other).detach();
        }
    });
    let digest = digest_of(Algorithm::Sha512, &bytes);
    let mut tasks = Vec::new();
    let mut uploads = uploads.into_iter();
    for id in ids {
        let (store, digest, held) = (store.clone(), digest.clone(), uploads.next());
        tasks.push(spawner.spawn(async move {
            match held {
                Some(upload) => upload.finish(&digest).await.unwrap().1,
                None => store.upload_resume(&repository(), &id).await.unwrap().offset(),
            }
        }));
    }
    let read = spawner.run(2, async {
        for task in tasks {
            assert_eq!(task.await, LARGE_BYTES as u64);
        }
        coming.recv().await.unwrap()
    });
    let all = LARGE_BYTES * LARGE;
    assert!(read < all / 4, "{read} of {all} bytes were hashed before other work had its turn");
}

/// After a restart, a few clients that go on with gigabytes kept everything else waiting.
#[test]
fn f211_other_work_has_its_turn_while_uploads_are_hashed() {
    for finish in [false, true] {
        block_on(hash_large(finish));
    }
}

/// A client that hangs up while its upload is hashed leaves it as it was; meanwhile others are
/// answered how far it is.
#[test]
fn f211_an_upload_that_nobody_waits_for_any_more_can_be_taken_up_again() {
    block_on(async {
        let (disk, bytes) = (MemoryDisk::new(), vec![7; LARGE_BYTES]);
        let (store, _) = open_memory(&disk).unwrap();
        let id = start(&store, &bytes).await;
        drop(store);
        let (store, _) = open_memory(&disk).unwrap();
        let (reads, reading) = smol::channel::unbounded();
        disk.watch(move |what, path, _| {
            if what == "read" && is_of_an_upload(path) {
                let _ = reads.try_send(());
            }
        });
        for _ in 0..2 {
            let resume = async { drop(store.upload_resume(&repository(), &id).await) };
            let hang_up = async { reading.recv().await.unwrap() };
            smol::future::or(hang_up, resume).await;
            let offset = store.upload_offset(&repository(), &id).await;
            assert_eq!(offset, Ok(LARGE_BYTES as u64));
        }
        let digest = digest_of(Algorithm::Sha256, &bytes);
        let upload = store.upload_resume(&repository(), &id).await.unwrap();
        assert_eq!(upload.finish(&digest).await.map(|(_, len)| len), Ok(LARGE_BYTES as u64));
    });
}

/// Somebody else wrote to the file of an upload: what is named is what the file has.
#[test]
fn f211_a_file_that_somebody_else_wrote_to_is_hashed_again() {
    block_on(async {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for more in [&b"more"[..], &[8; 100_000]] {
                let disk = MemoryDisk::new();
                let (store, _) = open_memory(&disk).unwrap();
                let id = start(&store, b"some").await;
                let upload = store.upload_resume(&repository(), &id).await.unwrap();
                let path = Layout::new("/s").uploads().join(&id);
                disk.open_rw(&path).unwrap().write_all_at(more, 4).unwrap();
                let digest = digest_of(algorithm, &[b"some", more].concat());
                let finished = upload.finish(&digest).await.map(|(_, len)| len);
                assert_eq!(finished, Ok(4 + more.len() as u64));
            }
        }
    });
}

/// Each upload that was written had a thread of its own, up to 500 of them.
#[test]
fn f211_uploads_at_once_take_no_more_threads_than_there_are() {
    const UPLOADS: usize = 40;
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let mut uploads = Vec::new();
        for _ in 0..UPLOADS {
            uploads.push(store.upload_start(&repository(), "").await.unwrap());
        }
        let (running, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
        let (highest, (open, gate)) = (most.clone(), smol::channel::bounded::<()>(1));
        disk.watch(move |what, path, _| {
            if what == "write" && is_of_an_upload(path) {
                highest.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                let _ = gate.recv_blocking();
                running.fetch_sub(1, Ordering::SeqCst);
            }
        });
        for (number, upload) in uploads.iter_mut().enumerate() {
            let piece = vec![u8::try_from(number).unwrap(); upload.memory_bytes() / 2];
            upload.write(&piece).await.unwrap();
            // Whoever gives its upload up while it is written leaves the thread to nobody else.
            (0..1000).for_each(|_| std::thread::yield_now());
        }
        drop(open);
        for upload in uploads {
            upload.pause().await.unwrap();
        }
        let most = most.load(Ordering::SeqCst);
        assert!((1..=BLOCKING_THREADS).contains(&most), "{most} jobs at once");
    });
}

/// What was missing was zeros in the content, which was acknowledged.
#[test]
fn f211_an_upload_whose_file_is_gone_or_cut_between_two_requests_has_what_is_there() {
    for len in [None, Some(0), Some(3)] {
        block_on(async {
            let disk = MemoryDisk::new();
            let (store, _) = open_memory(&disk).unwrap();
            let id = start(&store, b"something").await;
            let path = Layout::new("/s").uploads().join(&id);
            match len {
                Some(len) => disk.open_rw(&path).unwrap().set_len(len).unwrap(),
                None => disk.remove(&path).unwrap(),
            }
            let mut upload = store.upload_resume(&repository(), &id).await.unwrap();
            assert_eq!(upload.offset(), len.unwrap_or(0));
            upload.write(b" else").await.unwrap();
            let digest = digest_of(Algorithm::Sha256, b"something else");
            let finished = upload.finish(&digest).await.map(drop);
            assert!(matches!(finished, Err(StoreError::Invalid(_))), "{finished:?}");
        });
    }
}

/// It was held for ever, and whoever wanted the content waited for it without end.
#[test]
fn f204_a_fetch_whose_removal_nobody_waits_for_can_be_taken_up_again() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let digest = digest_of(Algorithm::Sha256, b"content");
        let fetch = store.fetch_resume(&digest).await.unwrap();
        let (open, gate) = smol::channel::bounded::<()>(1);
        for _ in 0..BLOCKING_THREADS {
            let gate = gate.clone();
            let stalled = move || gate.recv_blocking().is_err();
            spawn::blocking_task(Threads::Uploads, stalled).detach();
        }
        assert!(smol::future::poll_once(Box::pin(fetch.cancel())).await.is_none());
        drop(open);
        assert!(store.fetch_resume(&digest).await.is_ok());
    });
}

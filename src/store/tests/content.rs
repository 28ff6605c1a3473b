//! Uploads, fetches and content.

use std::sync::atomic::Ordering;

use super::gc::Hands;
use super::*;
use crate::store::content::space::Hindrance;
use crate::store::content::trust::Verdict;
use crate::store::journal::layout::Layout;
use crate::store::registry::manifests::PutManifest;
use crate::store::registry::manifests::testing::{digest, image, push};
use crate::store::replica::node::testing::{config, connected_registry};
use crate::store::replica::outbox::Origin;
use crate::store::rows::connected_registry::connected_registry_key;
use crate::types::{Delivery, OutboxId, Tag};

fn repository() -> RepositoryName {
    "library/alpine".parse().unwrap()
}

fn digest_of(bytes: &[u8], name: &str) -> Digest {
    let algorithm = if name == "sha256" { &ring::digest::SHA256 } else { &ring::digest::SHA512 };
    let raw = ring::digest::digest(algorithm, bytes);
    format!("{name}:{}", data_encoding::HEXLOWER.encode(raw.as_ref())).parse().unwrap()
}

fn some_bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

/// Pushes a blob.
async fn stored(store: &Store, repository: &RepositoryName, bytes: &[u8]) -> Digest {
    let digest = digest_of(bytes, "sha256");
    let mut upload = store.upload_start(repository, "").await.unwrap();
    upload.write(bytes).await.unwrap();
    let (lease, len) = upload.finish(&digest).await.unwrap();
    store.link_blob(repository, &lease, len).await.unwrap();
    digest
}

async fn read_blob(store: &Store, digest: &Digest) -> Option<Vec<u8>> {
    let blob = store.blob_open(digest).await.unwrap()?;
    let mut bytes = vec![0; usize::try_from(blob.len).unwrap()];
    blob.file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn an_upload_becomes_content_once_and_stays() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        // Content comes to nodes that have something noted: a token, or what a parent grants.
        put(&store, 1, "one").unwrap();
        for (len, name) in [(0, "sha256"), (1, "sha256"), (700_000, "sha256"), (300_000, "sha512")]
        {
            let bytes = some_bytes(len);
            let digest = digest_of(&bytes, name);
            assert!(store.blob_open(&digest).await.unwrap().is_none());
            for _ in 0..2 {
                let mut upload = store.upload_start(&repository(), "").await.unwrap();
                for part in bytes.chunks(50_001) {
                    upload.write(part).await.unwrap();
                }
                assert_eq!(upload.finish(&digest).await.map(|(_, len)| len), Ok(len as u64));
            }
            let cut = open_memory(&disk.after_power_cut()).unwrap().0;
            assert_eq!(read_blob(&cut, &digest).await, Some(bytes));
            assert_eq!(
                cut.blob_open(&digest).await.unwrap().map(|blob| blob.len),
                Some(len as u64)
            );
        }
        assert!(disk.list(Path::new("/s/uploads")).unwrap().is_empty());
        assert_eq!(store.sys().metrics.blob_bytes.get(), 2 * 1_000_001);
    });
}

#[test]
fn an_upload_of_another_digest_is_refused_and_removed() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        let id = upload.id().to_owned();
        upload.write(b"these").await.unwrap();
        let digest = digest_of(b"those", "sha256");
        assert!(matches!(upload.finish(&digest).await, Err(StoreError::Invalid(_))));
        assert!(store.blob_open(&digest).await.unwrap().is_none());
        let gone = store.upload_resume(&repository(), &id).await.map(|_| ());
        assert_eq!(gone, Err(StoreError::NotFound));
        assert!(disk.list(Path::new("/s/uploads")).unwrap().is_empty());
    });
}

#[test]
fn an_upload_goes_on_where_it_stopped_across_requests_and_restarts() {
    block_on(async {
        let disk = MemoryDisk::new();
        let bytes = some_bytes(900_000);
        let digest = digest_of(&bytes, "sha256");
        let (store, _) = open_memory(&disk).unwrap();
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        let id = upload.id().to_owned();
        let busy = store.upload_resume(&repository(), &id).await.map(|_| ());
        assert!(matches!(busy, Err(StoreError::Conflict(_))));
        let other: RepositoryName = "library/other".parse().unwrap();
        let elsewhere = store.upload_resume(&other, &id).await.map(|_| ());
        assert_eq!(elsewhere, Err(StoreError::NotFound));
        upload.write(&bytes[..300_000]).await.unwrap();
        drop(upload);
        assert_eq!(store.upload_offset(&repository(), &id).await, Ok(300_000));
        let mut upload = store.upload_resume(&repository(), &id).await.unwrap();
        assert_eq!(upload.offset(), 300_000);
        upload.write(&bytes[300_000..500_000]).await.unwrap();
        assert_eq!(upload.pause().await, Ok(500_000));
        drop(store);
        let (store, _) = open_memory(&disk).unwrap();
        assert_eq!(store.upload_offset(&repository(), &id).await, Ok(500_000));
        let mut upload = store.upload_resume(&repository(), &id).await.unwrap();
        upload.write(&bytes[500_000..]).await.unwrap();
        assert_eq!(upload.finish(&digest).await.map(|(_, len)| len), Ok(900_000));
        assert_eq!(read_blob(&store, &digest).await, Some(bytes));
    });
}

#[test]
fn how_far_an_upload_is_takes_no_reading_after_a_restart() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        let id = upload.id().to_owned();
        upload.write(&some_bytes(500_000)).await.unwrap();
        assert_eq!(upload.pause().await, Ok(500_000));
        drop(store);
        // Gigabytes on a board take longer to read than a client waits.
        disk.fail_reads(&Path::new("/s/uploads").join(&id));
        let (store, _) = open_memory(&disk).unwrap();
        assert_eq!(store.upload_offset(&repository(), &id).await, Ok(500_000));
        assert!(store.upload_resume(&repository(), &id).await.is_err());
    });
}

#[test]
fn a_fetch_goes_on_where_it_stopped_and_tells_a_full_disk_once() {
    block_on(async {
        let disk = MemoryDisk::new();
        let bytes = some_bytes(400_000);
        let digest = digest_of(&bytes, "sha256");
        let (store, _) = open_memory(&disk).unwrap();
        let mut fetch = store.fetch_resume(&digest).await.unwrap();
        assert_eq!((fetch.id(), fetch.offset()), (digest.to_string().as_str(), 0));
        fetch.write(&bytes[..150_000]).await.unwrap();
        fetch.pause().await.unwrap();
        drop(store);
        let (store, _) = open_memory(&disk).unwrap();
        let mut fetch = store.fetch_resume(&digest).await.unwrap();
        assert_eq!(fetch.offset(), 150_000);
        disk.set_full(true);
        fetch.write(&bytes[150_000..200_000]).await.unwrap();
        assert_eq!(fetch.pause().await, Err(StoreError::Full));
        disk.set_full(false);
        let mut fetch = store.fetch_resume(&digest).await.unwrap();
        assert_eq!(fetch.offset(), 150_000);
        fetch.write(&bytes[150_000..]).await.unwrap();
        assert_eq!(fetch.finish(&digest).await.map(|(_, len)| len), Ok(400_000));
        assert_eq!(read_blob(&store, &digest).await, Some(bytes));
    });
}

/// A sync that failed may have dropped bytes, and the next one succeeds all the same.
#[test]
fn f210_an_upload_whose_sync_failed_is_not_finished_by_another_sync() {
    block_on(async {
        let (disk, clock) = (MemoryDisk::new(), Arc::new(Hands::default()));
        let sys = Sys { clock, ..sys_on(&disk) };
        let store = Store::open(sys, options(Path::new("/s"), IndexKind::Map)).unwrap().0;
        let bytes = some_bytes(1000);
        let digest = digest_of(&bytes, "sha256");
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        let id = upload.id().to_owned();
        upload.write(&bytes).await.unwrap();
        disk.fail_syncs_after(0);
        assert!(matches!(upload.finish(&digest).await, Err(StoreError::Unreadable(_))));
        disk.fail_syncs_after(u32::MAX);
        let again = store.upload_resume(&repository(), &id).await.map(|_| ());
        assert_eq!(again, Err(StoreError::NotFound));
        assert_eq!(read_blob(&store, &digest).await, None);
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        upload.write(&bytes).await.unwrap();
        assert_eq!(upload.finish(&digest).await.map(|(_, len)| len), Ok(1000));
    });
}

/// Whoever wanted to remove a fetch that had failed meanwhile leaves the one after it alone: both
/// have the same file.
#[test]
fn f211_a_fetch_that_is_gone_takes_nothing_from_its_successor() {
    block_on(async {
        let (disk, clock) = (MemoryDisk::new(), Arc::new(Hands::default()));
        let sys = Sys { clock: clock.clone(), ..sys_on(&disk) };
        let store = Store::open(sys, options(Path::new("/s"), IndexKind::Map)).unwrap().0;
        let bytes = some_bytes(1000);
        let digest = digest_of(&bytes, "sha256");
        let mut fetch = store.fetch_resume(&digest).await.unwrap();
        fetch.write(&bytes).await.unwrap();
        fetch.pause().await.unwrap();
        clock.pass(Duration::from_secs(60));
        // A full disk looks for what makes room.
        let (given_up, _) = store.shared().uploads.given_up(store.shared());
        assert_eq!(given_up.len(), 1);
        let fetch = store.fetch_resume(&digest).await.unwrap();
        disk.fail_syncs_after(0);
        assert!(matches!(fetch.finish(&digest).await, Err(StoreError::Unreadable(_))));
        disk.fail_syncs_after(u32::MAX);

        let mut successor = store.fetch_resume(&digest).await.unwrap();
        assert_eq!(successor.offset(), 0);
        successor.write(&bytes).await.unwrap();
        successor.flush().await.unwrap();
        clock.pass(Duration::from_secs(60));
        given_up[0].evict(store.shared());
        let busy = store.fetch_resume(&digest).await.map(|_| ());
        assert!(matches!(busy, Err(StoreError::Conflict(_))), "{busy:?}");
        assert_eq!(successor.finish(&digest).await.map(|(_, len)| len), Ok(1000));
        assert_eq!(read_blob(&store, &digest).await, Some(bytes));
    });
}

/// Symptom: an upload was removed whose last chunk had just been acknowledged. Cause: others that
/// make room too were removed first, which took long.
#[test]
fn f210_an_upload_that_goes_on_meanwhile_makes_no_room() {
    block_on(async {
        let (disk, clock) = (MemoryDisk::new(), Arc::new(Hands::default()));
        let sys = Sys { clock: clock.clone(), ..sys_on(&disk) };
        let store = Store::open(sys, options(Path::new("/s"), IndexKind::Map)).unwrap().0;
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        let id = upload.id().to_owned();
        upload.write(&some_bytes(1000)).await.unwrap();
        upload.pause().await.unwrap();
        clock.pass(Duration::from_secs(60));
        let (given_up, _) = store.shared().uploads.given_up(store.shared());
        let mut upload = store.upload_resume(&repository(), &id).await.unwrap();
        upload.write(&some_bytes(1000)).await.unwrap();
        upload.pause().await.unwrap();
        given_up[0].evict(store.shared());
        let upload = store.upload_resume(&repository(), &id).await.unwrap();
        assert_eq!(upload.offset(), 2000);
        upload.pause().await.unwrap();
        clock.pass(Duration::from_secs(60));
        given_up[0].evict(store.shared());
        assert!(store.upload_resume(&repository(), &id).await.is_err());
    });
}

/// A write fails in the middle of a chunk, and the client then finishes with what it had sent
/// before, whose content another repository has. An upload ends that the disk has no room for.
#[test]
fn f211_what_a_failed_write_left_is_never_installed() {
    block_on(async {
        for (full, failing_call) in [(true, None), (true, Some(2)), (false, Some(1))] {
            let (disk, clock) = (MemoryDisk::new(), Arc::new(Hands::default()));
            let sys = Sys { clock, ..sys_on(&disk) };
            let store = Store::open(sys, options(Path::new("/s"), IndexKind::Map)).unwrap().0;
            let (good, more) = (some_bytes(1000), vec![0xaa; 700_000]);
            let digest = digest_of(&good, "sha256");
            let mut upload = store.upload_start(&repository(), "").await.unwrap();
            upload.write(&good).await.unwrap();
            assert_eq!(upload.finish(&digest).await.map(|(_, len)| len), Ok(1000));

            let mut upload = store.upload_start(&repository(), "").await.unwrap();
            let id = upload.id().to_owned();
            upload.write(&good).await.unwrap();
            upload.pause().await.unwrap();
            let mut upload = store.upload_resume(&repository(), &id).await.unwrap();
            disk.set_full(full);
            if let Some(call) = failing_call {
                disk.fail_at(disk.calls() + call);
            }
            let _ = upload.write(&more).await;
            let failed = upload.pause().await;
            assert_eq!(failed == Err(StoreError::Full), full, "{failed:?}");
            disk.set_full(false);
            assert_eq!(disk.struck().is_some(), failing_call.is_some());
            let upload = store.upload_resume(&repository(), &id).await;
            assert_eq!(upload.is_ok(), !full);
            if let Ok(upload) = upload {
                assert_eq!(upload.offset(), 1000, "what came of the piece is cut off");
                assert_eq!(upload.finish(&digest).await.map(|(_, len)| len), Ok(1000));
            }
            assert_eq!(disk.list(Path::new("/s/uploads")).unwrap(), []);
            assert!(read_blob(&store, &digest).await == Some(good), "other bytes");
        }
    });
}

/// A chunk of several pieces, of which a later one fails, can be sent again as a whole.
#[test]
fn f210_a_chunk_that_was_refused_leaves_the_upload_where_it_was() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let bytes = some_bytes(1_500_000);
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        let id = upload.id().to_owned();
        upload.write(&bytes[..1000]).await.unwrap();
        upload.pause().await.unwrap();
        for failing_call in [None, Some(2)] {
            let mut upload = store.upload_resume(&repository(), &id).await.unwrap();
            assert_eq!(upload.offset(), 1000);
            if let Some(call) = failing_call {
                disk.fail_at(disk.calls() + call);
            }
            let _ = upload.write(&bytes[1000..]).await;
            let written = upload.flush().await;
            assert_eq!(written.is_err(), failing_call.is_some(), "{written:?}");
            upload.rewind().await.unwrap();
            assert_eq!(store.upload_offset(&repository(), &id).await, Ok(1000));
        }
        let mut upload = store.upload_resume(&repository(), &id).await.unwrap();
        upload.write(&bytes[1000..]).await.unwrap();
        assert_eq!(
            upload.finish(&digest_of(&bytes, "sha256")).await.map(|(_, len)| len),
            Ok(1_500_000)
        );
    });
}

#[test]
fn manifests_are_checked_when_they_are_read() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let digest = digest_of(b"{}", "sha256");
        assert_eq!(store.blob_read(&digest).await, Ok(None));
        store.blob_put(&digest, b"{}".to_vec()).await.unwrap();
        store.blob_put(&digest, b"{}".to_vec()).await.unwrap();
        assert_eq!(store.blob_read(&digest).await, Ok(Some(b"{}".to_vec())));
        overwrite(&disk, &Layout::new("/s").blob(&digest), b"[]");
        assert!(matches!(store.blob_read(&digest).await, Err(StoreError::Corrupt(_))));
    });
}

#[test]
fn too_many_uploads_and_too_little_space_are_refused() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        for _ in 0..UPLOADS_MAX {
            store.upload_start(&repository(), "").await.unwrap();
        }
        let more = store.upload_start(&repository(), "").await.map(|_| ());
        assert_eq!(more, Err(StoreError::Unavailable));
        drop(store);
        let disk = MemoryDisk::new();
        disk.set_full(true);
        let store = Store::open(sys_on(&disk), options(Path::new("/s"), IndexKind::Map));
        assert!(store.is_err(), "not even the format file fits");
        disk.set_full(false);
        let (store, _) = open_memory(&disk).unwrap();
        drop(store);
        disk.set_full(true);
        let (store, _) = open_memory(&disk).unwrap();
        let full = store.upload_start(&repository(), "").await.map(|_| ());
        assert_eq!(full, Err(StoreError::Full));
    });
}

#[test]
fn an_abandoned_upload_makes_room_when_there_are_too_many() {
    block_on(async {
        let (disk, clock) = (MemoryDisk::new(), Arc::new(Hands::default()));
        let sys = Sys { clock: clock.clone(), ..sys_on(&disk) };
        let options = StoreOptions { uploads: 2, ..options(Path::new("/s"), IndexKind::Map) };
        let (store, _) = Store::open(sys, options).unwrap();
        let mut ids = Vec::new();
        for _ in 0..2 {
            let upload = store.upload_start(&repository(), "").await.unwrap();
            ids.push(upload.id().to_owned());
            upload.pause().await.unwrap();
            clock.pass(Duration::from_secs(1));
        }
        let start = async || store.upload_start(&repository(), "").await.map(|_| ());
        let offset = async |id: &str| store.upload_offset(&repository(), id).await;
        clock.pass(Duration::from_secs(298));
        let mut first = store.upload_resume(&repository(), &ids[0]).await.unwrap();
        first.write(b"a").await.unwrap();
        first.pause().await.unwrap();
        clock.pass(Duration::from_secs(300));
        assert_eq!(offset(&ids[1]).await, Ok(0), "to ask for it is no progress");
        assert_eq!(start().await, Err(StoreError::Unavailable));
        clock.pass(Duration::from_secs(1));
        assert_eq!(start().await, Ok(()));
        assert_eq!(offset(&ids[1]).await, Err(StoreError::NotFound), "left alone for longest");
        assert_eq!(offset(&ids[0]).await, Ok(1));
    });
}

#[test]
fn an_upload_in_use_is_not_abandoned_however_slow() {
    block_on(async {
        let (disk, clock) = (MemoryDisk::new(), Arc::new(Hands::default()));
        let sys = Sys { clock: clock.clone(), ..sys_on(&disk) };
        let options = StoreOptions { uploads: 2, ..options(Path::new("/s"), IndexKind::Map) };
        let (store, _) = Store::open(sys, options).unwrap();
        let slow = store.upload_start(&repository(), "").await.unwrap();
        clock.pass(Duration::from_secs(1));
        let left = store.upload_start(&repository(), "").await.unwrap();
        let id = left.id().to_owned();
        left.pause().await.unwrap();
        clock.pass(Duration::from_secs(600));
        let mut other = store.upload_start(&repository(), "").await.unwrap();
        assert_eq!(store.upload_offset(&repository(), &id).await, Err(StoreError::NotFound));
        clock.pass(Duration::from_secs(600));
        let more = store.upload_start(&repository(), "").await.map(|_| ());
        assert_eq!(more, Err(StoreError::Unavailable), "both are in use");
        other.write(b"abc").await.unwrap();
        assert_eq!(slow.pause().await, Ok(0));
        assert_eq!(other.finish(&digest_of(b"abc", "sha256")).await.map(|(_, len)| len), Ok(3));
    });
}

#[test]
fn a_store_in_memory_keeps_content_too() {
    block_on(async {
        let store = Store::in_memory(Sys::real(Spawner::new()));
        put(&store, 1, "one").unwrap();
        assert_eq!(rows(&store).len(), 1);
        let digest = digest_of(b"abc", "sha256");
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        upload.write(b"abc").await.unwrap();
        upload.finish(&digest).await.unwrap();
        assert_eq!(store.blob_read(&digest).await, Ok(Some(b"abc".to_vec())));
        assert_eq!(store.identity_file("key", || Ok(b"k".to_vec())), Ok(b"k".to_vec()));
        assert_eq!(store.identity_file("key", || Ok(Vec::new())), Ok(b"k".to_vec()));
        let records = store.records_after(Cursor { sequence: 0, ..store.head() }, 1).await;
        assert_eq!(records.unwrap().records.len(), 1);
    });
}

#[test]
fn an_upload_waits_in_pieces_of_one_size_however_it_arrives() {
    block_on(async {
        let bytes = some_bytes(1536 * 1024);
        let mut writes = Vec::new();
        for first in [512, 500, 1] {
            let disk = MemoryDisk::new();
            let (store, _) = open_memory(&disk).unwrap();
            let mut upload = store.upload_start(&repository(), "").await.unwrap();
            let before = disk.calls();
            let (head, tail) = bytes.split_at(first * 1024);
            upload.write(head).await.unwrap();
            upload.write(tail).await.unwrap();
            assert_eq!(upload.pause().await, Ok(bytes.len() as u64));
            writes.push(disk.calls() - before);
        }
        assert_eq!(writes, [writes[0]; 3]);
    });
}

#[test]
fn f211_nothing_is_written_behind_a_piece_that_was_lost() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let mut upload = store.upload_start(&repository(), "").await.unwrap();
        let id = upload.id().to_owned();
        upload.write(&some_bytes(1000)).await.unwrap();
        upload.pause().await.unwrap();
        let mut upload = store.upload_resume(&repository(), &id).await.unwrap();
        disk.fail_at(disk.calls() + 1);
        // One piece on its way, and the begin of another behind it; then the client is gone.
        upload.write(&some_bytes(600 * 1024)).await.unwrap();
        while disk.struck().is_none() {
            std::thread::yield_now();
        }
        drop(upload);
        let resume = async || store.upload_resume(&repository(), &id).await.map(|u| u.offset());
        assert!(resume().await.is_err(), "it is told that something was lost");
        assert_eq!(resume().await, Ok(1000));
    });
}

#[test]
fn f211_a_file_system_that_cannot_be_written_is_noticed_before_anything_fails() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!(store.hindrance(), None);
    store.shared().forget_space();
    disk.set_read_only(true);
    assert_eq!(store.hindrance(), Some(Hindrance::ReadOnly));
}

/// One bad sector in what was fetched of one blob ends every session of the sync.
#[test]
fn f211_a_fetch_whose_file_cannot_be_read_begins_anew() {
    block_on(async {
        let disk = MemoryDisk::new();
        let bytes = some_bytes(400_000);
        let digest = digest_of(&bytes, "sha256");
        let (store, _) = open_memory(&disk).unwrap();
        let mut fetch = store.fetch_resume(&digest).await.unwrap();
        fetch.write(&bytes[..150_000]).await.unwrap();
        fetch.pause().await.unwrap();
        drop(store);
        let (store, _) = open_memory(&disk).unwrap();
        let uploads = Layout::new("/s").uploads();
        for entry in disk.list(&uploads).unwrap() {
            disk.fail_reads(&uploads.join(&entry.name));
        }
        let mut last = None;
        for _ in 0..5 {
            last = Some(store.fetch_resume(&digest).await.map(|upload| upload.offset()));
        }
        assert!(matches!(last, Some(Ok(_))), "{last:?}");
    });
}

/// The free space of a moment ago is shared out once, however many ask for it together.
#[test]
fn f210_the_reserve_holds_when_many_uploads_take_space_together() {
    const TAKEN_BYTES: u64 = 3 << 30;
    let (disk, clock) = (MemoryDisk::new(), Arc::new(Hands::default()));
    let sys = Sys { clock, ..sys_on(&disk) };
    let store = Store::open(sys, options(Path::new("/s"), IndexKind::Map)).unwrap().0;
    for _ in 0..300 {
        store.shared().forget_space();
        let fit = (store.room().unwrap() / TAKEN_BYTES) as usize;
        let start = std::sync::Barrier::new(16);
        let taken = std::thread::scope(|scope| {
            let take = || {
                start.wait();
                store.shared().take_space(TAKEN_BYTES).ok()
            };
            let takers: Vec<_> = (0..16).map(|_| scope.spawn(take)).collect();
            let taken: Vec<_> =
                takers.into_iter().filter_map(|taker| taker.join().unwrap()).collect();
            taken.len()
        });
        assert_eq!(taken, fit);
    }
}

/// What comes from the parent is charged when it is here, whatever uploads keep of the quota.
#[test]
fn f210_what_a_sync_takes_beyond_what_uploads_keep_refuses_nothing_that_fits() {
    use crate::store::registry::manifests::testing::image;
    use crate::store::replica::outbox::Origin;
    block_on(async {
        let mut found = Vec::new();
        for (what, synced) in [("fits", 300), ("over", 500)] {
            let (disk, clock) = (MemoryDisk::new(), Arc::new(Hands::default()));
            let sys = Sys { clock: clock.clone(), ..sys_on(&disk) };
            let mut options = options(Path::new("/s"), IndexKind::Map);
            options.quotas = vec![("app".parse().unwrap(), 1000)];
            let store = Store::open(sys, options).unwrap().0;
            let app: RepositoryName = "app".parse().unwrap();
            // A push that its client gives up.
            let mut upload = store.upload_start(&app, "somebody").await.unwrap();
            upload.expect(0).await.unwrap();
            upload.write(&some_bytes(600)).await.unwrap();
            upload.pause().await.unwrap();
            // A sync: the blob is taken, as what uploads keep is nothing to it.
            let blob = some_bytes(synced);
            let digest = digest_of(&blob, "sha256");
            store.check_quota(&app, synced as u64).unwrap();
            let lease = store.blob_put(&digest, blob).await.unwrap();
            store.link_blob(&app, &lease, synced as u64).await.unwrap();
            clock.pass(Duration::from_secs(60));
            let manifest = image(1, &["v1"]);
            let manifest = PutManifest {
                origin: Origin::Parent,
                required: Required::Nothing,
                bytes_len: 10,
                ..manifest
            };
            let put = store.put_manifest(&app, manifest).await;
            found.push(format!("{what}: parent's manifest {put:?}"));
            let mut other = store.upload_start(&app, "another").await.unwrap();
            found.push(format!("{what}: next push {:?}", other.expect(150).await));
        }
        assert!(found.iter().all(|line| line.contains("Ok(")), "{found:#?}");
    });
}

/// Symptom: some hundred manifests with thousands of layers each took more memory at a start than
/// the service may have. Cause: sled keeps some of it for each row, and their number had no bound.
#[test]
fn f209_an_index_with_all_the_rows_that_memory_is_meant_for_takes_no_more_content() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let name: RepositoryName = "app".parse().unwrap();
        push(&store, "app", 1, &["v1"]).await;
        push(&store, "app", 2, &["v2"]).await;
        let bad = stored(&store, &name, b"bad").await;
        let node = connected_registry("dock01", None);
        let known = move |txn: &mut Txn<'_>| txn.put(connected_registry_key(&node.name), &node);
        store.commit(known).await.unwrap();
        let rows = store.shared().index().rows();
        drop(store);
        let bounded = |rows_max| {
            let options = options(Path::new("/s"), IndexKind::Map);
            let clock = Arc::new(Hands::default());
            let sys = Sys { clock: clock.clone(), ..sys_on(&disk) };
            (Store::open(sys, StoreOptions { rows_max, ..options }).unwrap().0, clock)
        };
        let (store, clock) = bounded(rows + 1);
        assert_eq!((store.hindrance(), store.is_out_of_room()), (None, false));
        assert!(store.room().is_some() && store.expect_space(9).await.is_ok());
        // The last that fits may have more rows than are left.
        store.put_manifest(&name, image(3, &["v3"])).await.unwrap();
        assert_eq!((store.hindrance(), store.room()), (Some(Hindrance::IndexFull), None));
        assert!(store.is_out_of_room());
        let full = StoreError::IndexFull;
        assert_eq!(store.expect_rows(), Err(full.clone()));
        assert_eq!(store.expect_space(9).await, Ok(()), "what heals is taken");
        assert_eq!(store.upload_start(&name, "").await.err(), Some(full.clone()));
        let blob = Lease::unseen(&digest(102));
        assert_eq!(store.link_blob(&name, &blob, 9).await, Err(full.clone()));
        // What takes the place of damaged content has its rows.
        overwrite(&disk, &Layout::new("/s").blob(&bad), b"bed");
        let verdict = store.verify(&bad, |_| std::future::ready(())).await.unwrap();
        assert_eq!(verdict, Verdict::Damaged);
        assert_eq!(stored(&store, &name, b"bad").await, bad);
        assert_eq!(store.upload_start(&name, "").await.err(), Some(full.clone()));
        let other: RepositoryName = "other".parse().unwrap();
        assert_eq!(store.mount_blob(&name, &other, &digest(100)).await, Err(full.clone()));
        for put in [image(4, &[]), image(3, &["v4"])] {
            assert_eq!(store.put_manifest(&name, put).await, Err(full.clone()));
        }
        let tag = |text: &str| text.parse::<Tag>().unwrap();
        let set = async |text: &str| {
            let (tag, any) = (tag(text), Precondition::None);
            store.set_tag(&name, &tag, &digest(1), any, &Origin::Parent).await
        };
        assert_eq!(set("v5").await, Err(full.clone()));
        // So does what a child says to have deleted, which is not here.
        let child = |origin: &str| {
            let id = OutboxId { origin: origin.parse().unwrap(), incarnation: 7, sequence: 1 };
            Origin::Child(Delivery::of(id))
        };
        let origin = child("dock01");
        let gone = store.delete_tag(&name, &tag("v5"), Precondition::None, &origin).await;
        assert_eq!(gone, Err(full.clone()));
        assert_eq!(store.delete_manifest(&name, &digest(9), &origin).await, Err(full.clone()));
        // In a name that nobody knows a change is another row too, where there is something.
        let v2 = PutManifest { origin: child("line02"), ..image(2, &["v2"]) };
        assert_eq!(store.put_manifest(&name, v2).await, Err(full.clone()));
        // What takes no further row goes on, and what there is stays.
        store.put_manifest(&name, image(2, &["v3"])).await.unwrap();
        assert_eq!(set("v3").await, Ok(()));
        let moved = PutManifest { origin: Origin::Parent, ..image(3, &["v2"]) };
        store.put_manifest(&name, moved).await.unwrap();
        store.look_at_space(false);
        let told = store.unwritable();
        clock.wall.fetch_add(60, Ordering::Relaxed);
        store.look_at_space(false);
        assert_eq!(store.unwritable(), told, "since then");
        let (text, _) = told.unwrap();
        assert!(text.contains("limits.memory") && text.contains("delete manifests"), "{text}");
        for number in [1, 2] {
            store.delete_manifest(&name, &digest(number), &Origin::Client).await.unwrap();
        }
        assert_eq!(store.hindrance(), None);
        store.look_at_space(false);
        assert_eq!(store.unwritable(), None);
        store.put_manifest(&name, image(4, &["v4"])).await.unwrap();
    });
}

/// Symptom: a child filled the index of the node between it and the root while the root was away,
/// with removals of what was not there, and nobody could push. Cause: each waited in a row of its
/// own, and none asked for room.
#[test]
fn f209_removals_of_what_is_not_there_leave_room_in_the_index_for_content() {
    block_on(async {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let name: RepositoryName = "app".parse().unwrap();
        for number in 1..=2 {
            push(&store, "app", number, &[]).await;
        }
        let granted = config(&["repositories/app/content/write"]);
        store.receive_config(granted, "v1".to_owned()).await.unwrap();
        let rows = store.shared().index().rows();
        drop(store);
        let rows_max = 4 * rows;
        let options = options(Path::new("/s"), IndexKind::Map);
        let (store, _) = Store::open(sys_on(&disk), StoreOptions { rows_max, ..options }).unwrap();
        let v1: Tag = "v1".parse().unwrap();
        let child = |sequence| {
            let id = OutboxId { origin: "child01".parse().unwrap(), incarnation: 7, sequence };
            Origin::Child(Delivery::of(id))
        };
        let full = StoreError::IndexFull;
        let mut refused = 0;
        for number in 1..4 * rows {
            let any = Precondition::None;
            let untag = store.delete_tag(&name, &v1, any, &child(2 * number)).await;
            let delete = store.delete_manifest(&name, &digest(9), &child(2 * number + 1)).await;
            assert!(untag == Ok(None) || untag == Err(full.clone()), "{untag:?}");
            assert!(delete == Ok(()) || delete == Err(full.clone()), "{delete:?}");
            refused += u64::from(untag.is_err()) + u64::from(delete.is_err());
        }
        assert!(refused > rows, "{refused}");
        assert_eq!(store.hindrance(), None);
        store.put_manifest(&name, image(3, &["v1"])).await.unwrap();
        // What moves a tag to and fro waits in rows of its own too.
        let mut moved = Vec::new();
        for number in 1..4 * rows {
            let (any, tag) = (Precondition::None, digest(1 + (number % 2) as u8));
            moved.push(store.set_tag(&name, &v1, &tag, any, &child(9 * rows + number)).await);
        }
        assert_eq!(moved.last(), Some(&Err(full)));
        assert!(store.shared().index().rows() < rows_max + 9);
        // What frees rows is taken.
        let here = store.tag(&name, &v1).unwrap();
        let gone = store.delete_tag(&name, &v1, Precondition::None, &child(99 * rows)).await;
        assert!(here.is_some() && gone == Ok(here), "{gone:?}");
    });
}

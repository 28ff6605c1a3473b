//! Content that rots, is lost, or may not have reached the disk.

use super::gc::{digest_of, name};
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::store::content::damage::Check;
use crate::store::content::scrub::{LastScrub, ScrubReport};
use crate::store::content::trust::Verdict;
use crate::store::content::unreadable::Step;
use crate::store::replica::outbox::Origin;
use crate::store::rows::upkeep::{Pass, Progress, Unproven, progress_key};
use crate::sys::spawn;
use crate::types::{Manifest, media};

/// Stores content and links it, as a push does.
fn push(store: &Store, bytes: &[u8]) -> Digest {
    let digest = digest_of(bytes);
    block_on(async {
        let mut upload = store.upload_start(&name("app"), "").await.unwrap();
        upload.write(bytes).await.unwrap();
        let (lease, len) = upload.finish(&digest).await.unwrap();
        store.link_blob(&name("app"), &lease, len).await.unwrap();
    });
    digest
}

/// Stores a manifest without content under a tag, as a push does.
fn push_manifest(store: &Store, tag: &str) -> Digest {
    let text = r#"{"schemaVersion":2,"manifests":[]}"#;
    let digest = digest_of(text.as_bytes());
    let manifest = PutManifest {
        content: Lease::unseen(&digest),
        media_type: media::OCI_INDEX.to_owned(),
        bytes_len: text.len() as u64,
        parsed: Manifest::parse(Some(media::OCI_INDEX), text.as_bytes()).unwrap(),
        tags: vec![tag.parse().unwrap()],
        precondition: Precondition::None,
        required: Required::All,
        origin: Origin::Client,
    };
    block_on(async {
        store.blob_put(&digest, text.as_bytes().to_vec()).await.unwrap();
        store.put_manifest(&name("app"), manifest).await.unwrap();
    });
    digest
}

fn place(digest: &Digest) -> PathBuf {
    Layout::new("/s").blob(digest)
}

fn flip(disk: &MemoryDisk, digest: &Digest) {
    let mut bytes = content(disk, &place(digest));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    overwrite(disk, &place(digest), &bytes);
}

fn scrub(store: &Store) -> ScrubReport {
    block_on(store.scrub(0)).unwrap()
}

fn get(store: &Store, digest: &Digest) -> Option<Vec<u8>> {
    block_on(async {
        let blob = store.blob_open(digest).await.unwrap()?;
        let mut bytes = vec![0; usize::try_from(blob.len).unwrap()];
        blob.file.read_exact_at(&mut bytes, 0).ok()?;
        Some(bytes)
    })
}

fn quarantine(disk: &MemoryDisk) -> usize {
    disk.list(Path::new("/s/quarantine")).map_or(0, |entries| entries.len())
}

#[test]
fn f173_a_flipped_bit_is_found_and_never_served_until_good_bytes_come() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let (good, bad) = (push(&store, &[1; 9000]), push(&store, &[2; 600_000]));
    let report = scrub(&store);
    assert_eq!((report.blobs_checked, report.bytes_checked, report.damaged), (2, 609_000, 0));

    let open = block_on(store.blob_open(&bad)).unwrap().unwrap();
    let other = block_on(store.blob_open(&good)).unwrap().unwrap();
    flip(&disk, &bad);
    let report = scrub(&store);
    assert_eq!((report.damaged, report.missing, report.percent), (1, 0, 100));
    assert_eq!((get(&store, &bad), get(&store, &good)), (None, Some(vec![1; 9000])));
    // Who was reading it reads no further; who reads something else does.
    assert!(open.file.read_at(&mut [0; 10], 500_000).is_err());
    assert_eq!(other.file.read_at(&mut [0; 10], 0).unwrap(), 10);
    assert_eq!(store.damaged(9), std::slice::from_ref(&bad));
    assert_eq!(store.damaged_after(Some(&bad), 9), []);
    assert_eq!(block_on(store.referring(&bad)), Ok(vec![(name("app"), Referred::Blob(600_000))]));

    // Also after a power cut at once, until a push heals it.
    drop(store);
    let disk = disk.after_power_cut();
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!((store.damaged_count(), get(&store, &bad)), (1, None));
    push(&store, &[2; 600_000]);
    assert_eq!((store.damaged_count(), quarantine(&disk)), (0, 0));
    assert_eq!(get(&store, &bad), Some(vec![2; 600_000]));
    assert_eq!(store.sys().metrics.blobs_healed.get(), 1);
    assert_eq!(scrub(&store).damaged, 0);
}

#[test]
fn a_damaged_manifest_is_taken_out_of_service_by_the_first_read() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let bytes = b"{\"schemaVersion\":2}".to_vec();
    let digest = digest_of(&bytes);
    block_on(store.blob_put(&digest, bytes.clone())).unwrap();
    flip(&disk, &digest);
    assert!(matches!(block_on(store.blob_read(&digest)), Err(StoreError::Corrupt(_))));
    assert_eq!((block_on(store.blob_read(&digest)), store.damaged_count()), (Ok(None), 1));
    block_on(store.blob_put(&digest, bytes.clone())).unwrap();
    assert_eq!(block_on(store.blob_read(&digest)), Ok(Some(bytes.clone())));
    // Rot that nobody has noticed yet is healed by a push too.
    flip(&disk, &digest);
    block_on(store.blob_put(&digest, bytes.clone())).unwrap();
    assert_eq!(block_on(store.blob_read(&digest)), Ok(Some(bytes)));
}

/// Its owner was wrong: each pull was 503, and status, scrub and readiness said nothing.
#[test]
fn f211_content_that_cannot_be_opened_is_told_and_not_condemned() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let [hidden, other] = ["hidden", "other"].map(|text| digest_of(text.as_bytes()));
    for (digest, text) in [(&hidden, "hidden"), (&other, "other")] {
        block_on(store.blob_put(digest, text.into())).unwrap();
    }
    disk.hide(&place(&hidden));
    assert_eq!(store.unreadable_content(), None);
    assert!(matches!(block_on(store.blob_open(&hidden)), Err(StoreError::Unreadable(_))));
    let (told, _) = store.unreadable_content().unwrap();
    assert!(told.contains(&hidden.hex()), "{told}");
    assert!(matches!(block_on(store.scrub(0)), Err(StoreError::Unreadable(_))));
    assert_eq!(store.damaged_count(), 0);
    assert_eq!(get(&store, &other), Some(b"other".to_vec()));
}

#[test]
fn files_that_are_missing_cut_or_unreadable_are_found() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let digests: Vec<Digest> = (1..=4).map(|n| push(&store, &[n; 3000])).collect();
    disk.remove(&place(&digests[0])).unwrap();
    overwrite(&disk, &place(&digests[1]), &[2; 1000]);
    disk.fail_reads(&place(&digests[2]));
    let report = scrub(&store);
    assert_eq!((report.damaged, report.missing), (2, 1), "{report:?}");
    for bad in &digests[..3] {
        assert_eq!(get(&store, bad), None);
    }
    assert_eq!(get(&store, &digests[3]), Some(vec![4; 3000]));
    // Nothing new is found again, and what nobody refers to any more is let go.
    let report = scrub(&store);
    assert_eq!((report.damaged, report.missing, store.damaged_count()), (0, 0, 3));
    for bad in &digests[..3] {
        block_on(store.unlink_blob(&name("app"), bad)).unwrap();
    }
    scrub(&store);
    assert_eq!((store.damaged_count(), quarantine(&disk)), (0, 0));
}

/// Symptom: every HEAD of a manifest waited for the disk while an upload got its name.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test makes its own threads")]
fn f209_whoever_asks_whether_anything_is_damaged_waits_for_no_disk() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let bad = push(&store, &[1; 3000]);
    flip(&disk, &bad);
    scrub(&store);
    let (asking, (counted, counts)) = (store.clone(), std::sync::mpsc::channel());
    disk.watch(move |what, path, _| {
        if what == "rename" && path.components().any(|part| part.as_os_str() == "uploads") {
            let (asking, answer) = (asking.clone(), std::sync::mpsc::channel());
            std::thread::spawn(move || answer.0.send(asking.damaged_count()));
            counted.send(answer.1.recv_timeout(Duration::from_secs(10))).unwrap();
        }
    });
    push(&store, &[2; 3000]);
    assert_eq!(counts.try_iter().collect::<Vec<_>>(), [Ok(1)]);
    // The watcher holds the store, which holds the disk.
    disk.watch(|_, _, _| ());
}

#[test]
fn what_is_replaced_while_it_is_checked_is_not_condemned() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let digest = push(&store, &[7; 600_000]);
    flip(&disk, &digest);
    let again = store.clone();
    let mut replaced = false;
    // The second pass has begun to read the damaged file when a push puts a good one there.
    let verdict = block_on(store.verify(&digest, |_| {
        if !replaced {
            replaced = true;
            push(&again, &[7; 600_000]);
            flip(&disk, &digest);
        }
        std::future::ready(())
    }));
    assert_eq!(verdict, Ok(Verdict::Gone));
    assert!(disk.exists(&place(&digest)).unwrap());
}

#[test]
fn f116_what_came_before_an_unclean_stop_is_hashed_before_it_is_served() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let settled = push(&store, &[1; 5000]);
    block_on(store.settle()).unwrap();
    assert_eq!(store.unsettled(), 0);
    let (bad, good) = (push(&store, &[2; 5000]), push(&store, &[3; 5000]));
    // A manifest; and rows that are about no content of their own.
    let manifest = push_manifest(&store, "v1");
    put(&store, 1, "not about content").unwrap();
    drop(store);
    // The disk lied: names and lengths are there, bytes are not.
    let disk = disk.after_power_cut();
    overwrite(&disk, &place(&bad), &[0; 5000]);
    let (store, recovery) = open_memory(&disk).unwrap();
    assert_eq!((recovery.clean, store.doubted()), (false, 3));
    assert_eq!((get(&store, &bad), store.doubted()), (None, 2));
    block_on(store.verify_doubted()).unwrap();
    assert_eq!((store.doubted(), store.damaged(9)), (0, vec![bad]));
    assert_eq!(get(&store, &good), Some(vec![3; 5000]));
    assert_eq!(get(&store, &settled), Some(vec![1; 5000]));
    assert!(get(&store, &manifest).is_some());
    block_on(store.close()).unwrap();
    drop(store);
    let (store, recovery) = open_memory(&disk).unwrap();
    assert_eq!((recovery.clean, store.doubted()), (true, 0));
}

/// Symptom: wrong bytes were served whole, once. Cause: what took the place of content that was
/// settled left no record, so that nothing doubted it after an unclean stop.
#[test]
fn f116_what_takes_the_place_of_content_is_hashed_after_an_unclean_stop() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let again = push(&store, &[1; 5000]);
    push(&store, &[2; 5000]);
    block_on(store.settle()).unwrap();
    assert_eq!(push(&store, &[1; 5000]), again);
    drop(store);
    let disk = disk.after_power_cut();
    overwrite(&disk, &place(&again), &[0; 5000]);
    let (store, recovery) = open_memory(&disk).unwrap();
    assert_eq!((recovery.clean, store.doubted()), (false, 1));
    assert_eq!((get(&store, &again), store.damaged(9)), (None, vec![again]));
}

/// What is settled is linked again without a record: flash wears.
#[test]
fn f116_only_what_came_since_the_last_settling_is_noted_again() {
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    let digest = push(&store, &[1; 5000]);
    let link = || {
        let lease = store.shared().lease(&digest);
        block_on(store.link_blob(&name("app"), &lease, 5000)).unwrap();
        store.sequence()
    };
    let noted = link();
    block_on(store.settle()).unwrap();
    let settled = store.sequence();
    assert!(settled > noted);
    assert_eq!(link(), settled);
}

/// What brings no content is settled too, seldom: else the journal has gone in which a later start
/// would look for what came since.
#[test]
fn f116_what_brings_no_content_is_settled_before_the_journal_forgets_it() {
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    push(&store, &[1; 5000]);
    block_on(store.settle()).unwrap();
    let settled = store.sequence();
    let mut writes = 0;
    for number in 0..5000 {
        put(&store, number, "no content").unwrap();
        let before = store.sequence();
        block_on(store.settle()).unwrap();
        writes += store.sequence() - before;
        assert!(writes <= 1, "{}", store.sequence() - settled);
        assert_eq!(writes, u64::from(number >= 4095), "{number}");
    }
}

/// Symptom: a clean stop, or a settling, before that was done, and what was left was believed.
#[test]
fn f116_what_an_unclean_stop_left_is_doubted_until_it_was_hashed() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let bad = push(&store, &[2; 5000]);
    drop(store);
    let disk = disk.after_power_cut();
    overwrite(&disk, &place(&bad), &[0; 5000]);
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!(store.doubted(), 1);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!(store.doubted(), 1, "after a clean stop");
    push(&store, &[3; 5000]);
    block_on(store.settle()).unwrap();
    drop(store);
    let disk = disk.after_power_cut();
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!(store.doubted(), 2, "after a settling");
    assert_eq!(get(&store, &bad), None);
    block_on(store.verify_doubted()).unwrap();
    block_on(store.settle()).unwrap();
    block_on(store.close()).unwrap();
    drop(store);
    let (store, recovery) = open_memory(&disk).unwrap();
    assert_eq!((recovery.clean, store.doubted()), (true, 0));
}

/// Symptom: content was believed that was doubted before a stop which could not note that.
#[test]
fn f116_a_stop_that_cannot_note_what_is_doubted_is_an_unclean_one() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    push(&store, &[2; 5000]);
    drop(store);
    let disk = disk.after_power_cut();
    let (store, _) = open_memory(&disk).unwrap();
    // The disk is full for the note only.
    let (watched, journal) = (disk.clone(), Layout::new("/s").journal());
    let writes = AtomicUsize::new(0);
    disk.watch(move |what, path, _| {
        if what == "write" && path.starts_with(&journal) {
            watched.set_full(writes.fetch_add(1, Ordering::Relaxed) == 0);
        }
    });
    block_on(store.close()).unwrap();
    drop(store);
    let (store, recovery) = open_memory(&disk).unwrap();
    assert_eq!((recovery.clean, store.doubted()), (false, 1));
}

/// Where it cannot be told any more what came before an unclean stop, all is hashed, over restarts.
#[test]
fn f116_a_scrub_of_everything_that_is_doubtful_goes_on_after_a_restart() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let digests: Vec<Digest> = (0..9).map(|n| push(&store, &[n; 5000])).collect();
    let unproven = Unproven { all: Pass::Due, ..Unproven::default() };
    store.shared().trust.set_unproven(unproven);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!(store.shared().trust.unproven(), unproven);
    assert!(store.scrub_report().unwrap().running, "it is asked for");
    // The first position that an earlier scrub has noted does not count.
    let progress = Progress { position: 511, ..Progress::default() };
    block_on(store.commit(move |txn| txn.put(progress_key(), &progress))).unwrap();
    let broken_off = || {
        let scrub = async { Some(store.scrub(1).await) };
        let end = async {
            sleep(Duration::from_millis(100)).await;
            None
        };
        assert_eq!(block_on(smol::future::or(scrub, end)), None);
        store.shared().trust.unproven().all
    };
    disk.set_full(true);
    assert_eq!(broken_off(), Pass::Due, "where it is to go on is not noted");
    disk.set_full(false);
    // One that is not ended goes on.
    assert_eq!(broken_off(), Pass::UnderWay);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!(store.shared().trust.unproven().all, Pass::UnderWay);
    disk.hide(&place(&digests[0]));
    block_on(store.scrub(0)).unwrap_err();
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_memory(&disk).unwrap();
    // What could not be looked at then may be wrong when it can be read.
    assert_eq!(store.shared().trust.unproven().all, Pass::UnderWay);
    disk.show(&place(&digests[0]));
    block_on(store.scrub(0)).unwrap();
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_memory(&disk).unwrap();
    assert!(!store.shared().trust.unproven().is_any());
}

/// Symptom: damaged content arrived whole where somebody pushed the same content meanwhile.
#[test]
fn f211_content_that_is_being_sent_is_hashed_to_its_end_also_when_it_comes_anew() {
    let disk = MemoryDisk::new();
    let bytes = vec![7; 200_000];
    let mut options = options(Path::new("/s"), IndexKind::Map);
    options.verify = VerifyWhen::FirstSend;
    let open = || Store::open(sys_on(&disk), options.clone()).unwrap().0;
    let store = open();
    let digest = push(&store, &bytes);
    block_on(store.close()).unwrap();
    drop(store);
    for is_begun in [true, false] {
        flip(&disk, &digest);
        let store = open();
        let blob = block_on(store.blob_open(&digest)).unwrap().unwrap();
        let whole = |blob| block_on(store.sent_whole(blob)).unwrap().unwrap().file;
        let begun = is_begun.then(|| whole(blob.clone()));
        let mut buffer = vec![0; 50_000];
        if let Some(begun) = &begun {
            begun.read_exact_at(&mut buffer, 0).unwrap();
        }
        push(&store, &bytes);
        let file = begun.unwrap_or_else(|| whole(blob));
        let rest = if is_begun { 50_000 } else { 0 };
        let mut places = (rest..200_000).step_by(50_000);
        let read = places.try_for_each(|at| file.read_exact_at(&mut buffer, at));
        assert!(read.is_err(), "begun: {is_begun}");
        block_on(store.close()).unwrap();
    }
}

/// Symptom: each of those who asked for doubted content hashed all of it.
#[test]
fn f209_who_asks_for_content_that_is_hashed_waits_for_that() {
    const LEN: usize = 1 << 20;
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let (digest, bad) = (push(&store, &[1; LEN]), push(&store, &[2; LEN]));
    flip(&disk, &bad);
    let read = Arc::new(AtomicUsize::new(0));
    let counted = read.clone();
    disk.watch(move |what, _, bytes| {
        if what == "read" {
            counted.fetch_add(bytes, Ordering::Relaxed);
        }
    });
    for (digest, wanted, times) in
        [(&digest, Verdict::Good(LEN as u64), 1), (&bad, Verdict::Damaged, 2)]
    {
        read.store(0, Ordering::Relaxed);
        let ask = || store.verify(digest, |_| spawn::yield_now());
        let executor = smol::LocalExecutor::new();
        let mut given_up = Box::pin(ask());
        assert!(block_on(smol::future::poll_once(&mut given_up)).is_none());
        let asked: Vec<_> = (0..16).map(|_| executor.spawn(ask())).collect();
        block_on(executor.run(async {
            spawn::yield_now().await;
            // Whose turn it was goes away; another one takes over.
            drop(given_up);
            for asked in asked {
                assert_eq!(asked.await, Ok(wanted));
            }
        }));
        let read = read.load(Ordering::Relaxed);
        assert!(read <= (times + 1) * LEN, "{read} bytes read for {digest}");
    }
}

#[test]
fn everything_is_hashed_on_the_first_read_when_that_is_wished() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let (good, bad) = (push(&store, &[1; 5000]), push(&store, &[2; 5000]));
    block_on(store.close()).unwrap();
    drop(store);
    flip(&disk, &bad);
    let mut options = options(Path::new("/s"), IndexKind::Map);
    options.verify = VerifyWhen::FirstRead;
    let (store, _) = Store::open(sys_on(&disk), options).unwrap();
    assert_eq!((get(&store, &bad), get(&store, &good)), (None, Some(vec![1; 5000])));
    // Once: rot that comes later is the scrub's to find.
    flip(&disk, &good);
    assert!(get(&store, &good).is_some());
    assert_eq!(scrub(&store).damaged, 1);
}

/// The file cannot be taken away, as on a file system that has become read-only.
#[test]
fn f173_f211_what_is_found_damaged_is_not_served_if_it_has_to_stay_where_it_is() {
    let read = |store: &Store, digest: &Digest| {
        block_on(store.blob_open(digest)).map(|blob| blob.is_some())
    };
    let mut failed = 0;
    for call in 1.. {
        let disk = MemoryDisk::new();
        let (store, _) = open_memory(&disk).unwrap();
        let bad = push(&store, &[2; 600_000]);
        flip(&disk, &bad);
        disk.fail_at(disk.calls() + call);
        let failure = block_on(store.scrub(0)).err();
        assert!(!matches!(read(&store, &bad), Ok(true)), "{call} {failure:?}");
        disk.fail_at(u64::MAX);
        assert!(!matches!(read(&store, &bad), Ok(true)), "{call} {failure:?}");
        failed += usize::from(disk.struck().is_some());
        if disk.struck().is_none() {
            break;
        }
    }
    assert!(failed >= 3, "{failed}");
    for verify in [VerifyWhen::Scrub, VerifyWhen::FirstRead, VerifyWhen::FirstSend] {
        let disk = MemoryDisk::new();
        let bad = push(&open_memory(&disk).unwrap().0, &[2; 600_000]);
        flip(&disk, &bad);
        let options = options(Path::new("/s"), IndexKind::Map);
        let options = StoreOptions { verify, frozen: true, ..options };
        let (store, _) = Store::open(sys_on(&disk), options).unwrap();
        if verify == VerifyWhen::Scrub {
            // On the word of a child.
            let verdict = block_on(store.verify(&bad, |_| std::future::ready(())));
            assert_eq!(verdict, Ok(Verdict::Damaged));
        }
        if verify == VerifyWhen::FirstSend {
            let open = block_on(store.blob_open(&bad)).unwrap().unwrap();
            let file = block_on(store.sent_whole(open)).unwrap().unwrap().file;
            assert!(file.read_exact_at(&mut vec![0; 600_000], 0).is_err());
        }
        for _ in 0..2 {
            assert!(matches!(read(&store, &bad), Err(StoreError::Corrupt(_))), "{verify:?}");
        }
        assert!(disk.exists(&place(&bad)).unwrap());
    }
}

#[test]
fn f211_what_is_sent_whole_is_hashed_on_the_way_once() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let lens = [5000, 200_000, 200_000];
    let [small, good, bad] = [0, 1, 2].map(|n: u8| push(&store, &vec![n; lens[usize::from(n)]]));
    block_on(store.close()).unwrap();
    drop(store);
    [&small, &bad].into_iter().for_each(|digest| flip(&disk, digest));
    let mut options = options(Path::new("/s"), IndexKind::Map);
    options.verify = VerifyWhen::FirstSend;
    let (store, _) = Store::open(sys_on(&disk), options).unwrap();
    let send = |digest: &Digest| {
        let open = block_on(store.blob_open(digest)).unwrap()?;
        let len = open.len;
        let file = block_on(store.sent_whole(open)).unwrap()?.file;
        let (mut sent, mut piece) = (0, vec![0; 64 * 1024]);
        while sent < len {
            sent += file.read_at(&mut piece, sent).ok().filter(|read| *read > 0)? as u64;
        }
        Some(sent)
    };
    assert_eq!([&small, &good, &bad].map(&send), [None, Some(200_000), None]);
    for digest in [&small, &bad] {
        assert!(block_on(store.blob_open(digest)).unwrap().is_none(), "it is out of service");
    }
    // Once: rot that comes later is the scrub's to find.
    flip(&disk, &good);
    assert_eq!(send(&good), Some(200_000));
    assert_eq!(scrub(&store).damaged, 1);
}

#[test]
fn a_scrub_goes_on_after_a_restart_where_it_was() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    for number in 0..40 {
        push(&store, &[number; 2000]);
    }
    // Dropped in the middle: the position is noted by bytes only, so it begins anew.
    let half = async {
        let mut steps = 0;
        let scrub = store.scrub(1000);
        let mut scrub = std::pin::pin!(scrub);
        std::future::poll_fn(|cx| {
            steps += 1;
            if steps > 3 { std::task::Poll::Ready(()) } else { scrub.as_mut().poll(cx).map(|_| ()) }
        })
        .await;
    };
    block_on(half);
    assert!(!store.scrub_report().unwrap().running);
    store.request_scrub(0);
    assert!(store.scrub_report().unwrap().running, "it is about to run");
    assert_eq!(store.last_scrub(), Ok(LastScrub::default()));
    let report = scrub(&store);
    assert_eq!((report.blobs_checked, report.running), (40, false));
    let last = store.last_scrub().unwrap();
    assert_eq!((last.finished.is_some(), last.interrupted, last.bytes), (true, false, 80_000));
    assert!(last.ended.is_some());
}

/// Nothing was known of a scrub that could not be noted: the next began at once, and where one had
/// been interrupted it went over the same part again and again.
#[test]
fn f212_a_scrub_that_cannot_be_noted_ended_all_the_same() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    push(&store, &[1; 2000]);
    let halfway = Progress { position: 511, ..Progress::default() };
    block_on(store.commit(move |txn| txn.put(progress_key(), &halfway))).unwrap();
    drop(store);
    disk.set_full(true);
    let options = options(Path::new("/s"), IndexKind::Map);
    let (store, _) = Store::open(sys_on(&disk), options).unwrap();
    assert!(store.last_scrub().unwrap().interrupted);
    scrub(&store);
    let last = store.last_scrub().unwrap();
    assert!(last.ended.is_some() && !last.interrupted, "{last:?}");
    assert_eq!(scrub(&store).blobs_checked, 1);
}

/// What an earlier process could not check was forgotten, and what was told of it deleted.
#[test]
fn f212_a_scrub_that_goes_on_does_not_count_when_not_all_was_checked() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let hidden = push(&store, &[1; 2000]);
    let begin = |failed| {
        let halfway = Progress { position: 512, failed, ..Progress::default() };
        block_on(store.commit(move |txn| txn.put(progress_key(), &halfway))).unwrap();
    };
    let told = |store: &Store| store.unreadable_content().is_some();
    let mut seen = Vec::new();
    for (is_hidden, failed) in [(false, true), (true, false), (false, false)] {
        begin(failed);
        let disk = disk.after_power_cut();
        let (store, _) = open_memory(&disk).unwrap();
        if is_hidden {
            disk.hide(&place(&hidden));
        }
        let met = std::io::Error::other("met before");
        store.shared().file_fault(&digest_of(b"gone"), Step::Read, &met);
        let result = block_on(store.scrub(0));
        let last = store.last_scrub().unwrap();
        assert!(!last.interrupted);
        seen.push((result.is_ok(), last.ended.is_some(), last.finished.is_some(), told(&store)));
        if failed {
            scrub(&store);
            assert!(!told(&store), "the next one has checked all");
        }
    }
    let unfinished = (false, false, false, true);
    assert_eq!(seen, [unfinished, unfinished, (true, true, true, false)]);
}

/// A look that began before the content came says nothing of what is there now.
#[test]
fn f211_content_that_comes_during_a_look_is_not_reported_missing() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let digest = push(&store, &[1; 3000]);
    disk.remove(&place(&digest)).unwrap();
    let look = Check::begin(store.shared(), &digest);
    push(&store, &[1; 3000]);
    assert_eq!(store.shared().note_missing(&digest, &look), Ok(false));
    assert_eq!(store.damaged_count(), 0);
    disk.remove(&place(&digest)).unwrap();
    let look = Check::begin(store.shared(), &digest);
    assert_eq!(store.shared().note_missing(&digest, &look), Ok(true));
    assert_eq!(store.damaged_count(), 1);
}

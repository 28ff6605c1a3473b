//! Collections among wrong clocks, damaged file systems and clients that ask for anything.

use std::sync::mpsc::Sender;

use super::*;

/// Who may read a repository asked for very many things that are not there, and no collection
/// removed anything for a while, again and again.
#[test]
fn f209_who_asks_for_what_is_not_here_keeps_no_garbage() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    assert_eq!(bench.gc().blobs_waiting, 1);
    bench.hands.pass(2 * HOUR);
    let (app, mut raw) = (name("app"), [7; 32]);
    for number in 0..70_000_u32 {
        raw[..4].copy_from_slice(&number.to_be_bytes());
        let digest = Digest::from_raw(Algorithm::Sha256, &raw).unwrap();
        assert!(!store.blob_linked(&app, &digest).unwrap());
    }
    assert_eq!(bench.gc().blobs_removed, 1);
    assert!(!bench.has(&layer));
}

/// After an unclean stop on a damaged file system.
#[test]
fn f211_files_that_the_disk_does_not_show_keep_no_node_from_its_start() {
    let bench = Bench::new();
    let layer = blob(&bench.store, "app", b"layer");
    let layout = Layout::new("/s");
    bench.disk.create_dir_all(&layout.quarantine()).unwrap();
    let uuid = "0b4b3a1e-0000-4000-8000-000000000000";
    for path in [
        layout.uploads().join(uuid),
        layout.uploads().join(format!("{uuid}.meta")),
        layout.uploads().join(format!("{uuid}.put")),
        layout.quarantined(&layer),
        layout.quarantined(&digest_of(b"other")),
    ] {
        bench.disk.create(&path).unwrap();
        bench.disk.hide(&path);
    }
    let Bench { store, disk, .. } = bench;
    drop(store);
    let bench = Bench::on(disk);
    assert!(block_on(bench.store.blob_open(&layer)).unwrap().is_some());
}

/// A root without a clock, to which the time came: the months from the earliest time on counted.
#[test]
fn f141_retention_counts_the_time_that_the_node_is_on() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    image(store, "app", std::slice::from_ref(&layer), &[]).unwrap();
    let policy = GcOptions { untagged: Some(24 * HOUR), ..OPTIONS };
    let gc = |store: &Store| block_on(store.collect_garbage(policy)).unwrap().manifests_removed;
    bench.hands.pass(HOUR);
    assert_eq!(gc(store), 0);
    bench.hands.wall.store(400 * 86_400, Ordering::Relaxed);
    bench.hands.pass(12 * HOUR);
    assert_eq!(gc(store), 0, "the clock jumped");
    // Over a restart.
    let Bench { store, disk, .. } = bench;
    block_on(store.close()).unwrap();
    drop(store);
    let bench = Bench::on(disk);
    bench.hands.pass(11 * HOUR);
    assert_eq!(gc(&bench.store), 0);
    bench.hands.pass(2 * HOUR);
    assert_eq!(gc(&bench.store), 1);
    // What an earlier version noted has no such time: it begins now.
    let tag = image(&bench.store, "app", &[layer.clone(), layer], &[]).unwrap();
    let key = untagged_key(&name("app"), &tag);
    let noted = Untagged { since: UnixSeconds(1), on: 0 };
    block_on(bench.store.commit(move |txn| txn.put(key, &noted))).unwrap();
    bench.hands.pass(25 * HOUR);
    assert_eq!(gc(&bench.store), 0);
    bench.hands.pass(24 * HOUR);
    assert_eq!(gc(&bench.store), 1);
}

/// Symptom: a client asked for a platform's manifest, heard that it is here, and the index that it
/// pushed next was told that it is not. Cause: nothing noted who asks for a manifest.
#[test]
fn f206_a_manifest_that_somebody_asked_for_stays_for_the_grace() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    let loose = image(store, "app", std::slice::from_ref(&layer), &[]).unwrap();
    let policy = GcOptions { untagged: Some(24 * HOUR), ..OPTIONS };
    let run = |store: &Store, dry_run| {
        let report = block_on(store.collect_garbage(GcOptions { dry_run, ..policy })).unwrap();
        (report.manifests_removed, report.ripe)
    };
    bench.hands.pass(HOUR);
    assert_eq!(run(store, false).0, 0, "seen for the first time");
    bench.hands.pass(25 * HOUR);
    assert_eq!(run(store, true).0, 1, "nobody has asked");
    let is_there = |store: &Store| store.manifest_to_use(&name("app"), &loose).unwrap().is_some();
    assert!(is_there(store));
    bench.hands.pass(HOUR / 2);
    for dry_run in [true, false] {
        let (removed, ripe) = run(store, dry_run);
        assert_eq!(removed, 0, "half of the grace");
        assert!(ripe.is_some_and(|waits| waits <= HOUR), "{ripe:?}");
    }
    // Nobody knows who asked before a start.
    assert!(is_there(store));
    let Bench { store, disk, .. } = bench;
    drop(store);
    let bench = Bench::on(disk);
    bench.hands.pass(HOUR / 2);
    assert_eq!(run(&bench.store, false).0, 0, "half of the grace after a start");
    bench.hands.pass(HOUR);
    assert_eq!(run(&bench.store, false).0, 1);
    assert!(!is_there(&bench.store));
}

/// Symptom: a layer that a run met while it was pushed went with the run after its manifest was
/// deleted, a minute later.
#[test]
fn f206_the_grace_begins_when_the_last_that_named_content_goes() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    bench.gc();
    let digest = image(store, "app", std::slice::from_ref(&layer), &["v1"]).unwrap();
    bench.hands.pass(14 * HOUR);
    block_on(store.delete_manifest(&name("app"), &digest, &Origin::Client)).unwrap();
    bench.hands.pass(HOUR / 2);
    let report = bench.gc();
    assert_eq!((report.links_removed, report.blobs_removed), (0, 0), "half of the grace");
    bench.hands.pass(HOUR);
    let report = bench.gc();
    assert_eq!((report.links_removed, report.blobs_removed), (1, 2));
    assert!(!bench.has(&layer));
}

/// Links blobs to a repository, of which one is there.
fn link(store: &Store, repository: &str, count: u64) -> Vec<Digest> {
    let digest = |number: u64| digest_of(&number.to_be_bytes());
    let digests: Vec<Digest> = (0..count).map(digest).collect();
    for page in digests.chunks(1000) {
        let (app, page) = (name(repository), page.to_vec());
        let put = store.commit(move |txn| {
            let mut keys = page.iter().map(|digest| blob_key(&app, digest));
            keys.try_for_each(|key| txn.put(key, &BlobLink { size: 0 }))
        });
        block_on(put).unwrap();
    }
    digests.into_iter().chain([blob(store, repository, b"first")]).collect()
}

/// Symptom: a collection took 40 MiB where thousands of blobs had been pushed to a repository of a
/// long name, and no manifest after them: the node was killed. Cause: what was found was kept, and
/// noted, by its whole key, several times.
#[test]
fn f209_links_are_collected_by_number_and_as_many_as_there_are() {
    const LINKS: u64 = 33_000;
    let bench = Bench::new();
    let store = &bench.store;
    let first = format!("{}/a", "a".repeat(240));
    link(store, &first, LINKS);
    link(store, "b", 1000);
    let dry = || block_on(store.collect_garbage(GcOptions { dry_run: true, ..OPTIONS })).unwrap();
    bench.hands.pass(HOUR / 2);
    assert_eq!(bench.gc().links_removed, 0);
    bench.hands.pass(HOUR / 2 + Duration::from_secs(1));
    let beyond = LINKS + 1 + 1001 - 32_768;
    assert_eq!((dry().links_removed, bench.gc().links_removed), (beyond, beyond));
    let note = bench.disk.file_len(&Path::new("/s").join("garbage")).unwrap();
    assert!((4096 * 9..4096 * 40).contains(&note), "{note} bytes");
    // What could not be remembered has been used by nobody for the grace.
    for removed in [32_768, 0] {
        bench.hands.pass(2 * HOUR);
        assert_eq!((dry().links_removed, bench.gc().links_removed), (removed, removed));
        assert!(!bench.disk.exists(&Path::new("/s").join("garbage")).unwrap());
    }
    assert_eq!(rows_of_kind(store, rows::Kind::Blob), 0);
}

/// Symptom: a repository of which much was in use again and again, and nothing named it, kept the
/// links of all others from being collected. Cause: it had all places for what is remembered.
#[test]
fn f141_what_is_in_use_of_one_repository_does_not_keep_the_garbage_of_another() {
    let bench = Bench::new();
    let store = &bench.store;
    let used = link(store, "a", 66_000);
    let unused = blob(store, "b", b"unused");
    // In turn: each run has those that were used before it.
    let (halves, mut removed) = (used.chunks(33_001), 0);
    for half in halves.cycle().take(4) {
        bench.hands.pass(HOUR / 2);
        for digest in half {
            assert!(store.blob_linked(&name("a"), digest).unwrap());
        }
        removed += bench.gc().links_removed;
    }
    assert_eq!(removed, 1);
    bench.hands.pass(HOUR);
    bench.gc();
    assert!(!bench.has(&unused));
}

/// Symptom: who pushed and deleted 57 manifests an hour, of 9,900 layers each that lie elsewhere,
/// kept every collection from removing anything. Cause: each layer counted as used.
#[test]
fn f141_what_lies_elsewhere_and_is_not_here_is_not_remembered() {
    let bench = Bench::new();
    let (store, app) = (&bench.store, name("app"));
    let (here, away) = (blob(store, "app", b"here"), digest_of(b"away"));
    let layer = |digest: &Digest| {
        let media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar";
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":4,"urls":["http://a/"]}}"#
        )
    };
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{here}","size":4}},
            "layers":[{},{}]}}"#,
        layer(&here),
        layer(&away)
    );
    let (manifest, put) = put_of(&text);
    let content = block_on(store.blob_put(&manifest, text.into_bytes())).unwrap();
    let put = PutManifest { content, ..put };
    assert_eq!(block_on(store.put_manifest(&app, put)), Ok(PutOutcome::Stored));
    bench.hands.pass(2 * HOUR);
    block_on(store.delete_manifest(&app, &manifest, &Origin::Client)).unwrap();
    let last = |digest: &Digest| store.shared().leases.last_used(short(digest), 9 * HOUR);
    assert_eq!((last(&here), last(&away)), (Some(2 * HOUR), None));
}

/// Symptom: a client kept each collection from removing anything, and what was refused from going,
/// by uploads of nothing under the names of other content. Cause: each counted as a use of that.
#[test]
fn f209_f210_who_names_content_that_it_does_not_have_keeps_none() {
    let bench = Bench::new();
    let store = &bench.store;
    let (refused, app) = (digest_of(b"refused"), name("app"));
    let lease = block_on(store.blob_put(&refused, b"refused".to_vec())).unwrap();
    let upload = block_on(store.upload_start(&app, "")).unwrap();
    assert!(matches!(block_on(upload.finish(&refused)), Err(StoreError::Invalid(_))));
    let other = digest_of(b"other");
    let upload = block_on(store.upload_start(&app, "")).unwrap();
    assert!(matches!(block_on(upload.finish(&other)), Err(StoreError::Invalid(_))));
    assert_eq!(store.shared().leases.last_used(short(&other), HOUR), None);
    block_on(store.take_back(&refused));
    assert!(bench.has(&refused), "it is still being put");
    drop(lease);
    block_on(store.take_back(&refused));
    assert!(!bench.has(&refused));
}

/// Symptom: a backup was not whole, and what it named was nowhere after a restore. Cause: a push
/// that was refused took content along that had been deleted since the backup began.
#[test]
fn f201_what_is_refused_takes_nothing_from_under_a_backup() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    let backup = block_on(store.begin_backup()).unwrap();
    block_on(store.unlink_blob(&name("app"), &layer)).unwrap();
    block_on(store.take_back(&layer));
    assert!(bench.has(&layer));
    drop(backup);
    block_on(store.take_back(&layer));
    assert!(!bench.has(&layer));
}

#[test]
fn f201_a_backup_holds_collections_for_as_long_as_it_is_said_to_go_on() {
    let bench = Bench::new();
    let (second, backup) = (Duration::from_secs(1), block_on(bench.store.begin_backup()).unwrap());
    let gc = || block_on(bench.store.collect_garbage(OPTIONS)).map(|_| ());
    for _ in 0..4 {
        bench.hands.pass(50 * second);
        assert!(matches!(gc(), Err(StoreError::Conflict(_))));
        assert!(backup.keep());
    }
    bench.hands.pass(61 * second);
    assert_eq!(gc(), Ok(()));
    // What its records name may have gone.
    assert!(!backup.keep() && gc().is_ok());
}

/// Does something while the writer is busy, so that what follows is written together; the writer
/// goes on when it is told to.
fn with_busy_writer<T>(store: &Store, work: impl FnOnce(Sender<()>) -> T) -> T {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let (begin, is_busy) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            block_on(store.commit(move |_| {
                begin.send(()).unwrap();
                wait.recv().unwrap();
                Ok(())
            }))
        });
        is_busy.recv().unwrap();
        work(release)
    })
}

/// Symptom: an image whose deletion was answered with 507 was listed, and its manifest gone. Cause:
/// a push of the same that was refused took its file, by a deletion that was not durable yet.
#[test]
fn f211_a_deletion_that_is_not_durable_takes_no_content_along() {
    let bench = Bench::new();
    let (store, app) = (&bench.store, name("app"));
    let layer = blob(store, "app", b"layer");
    let outcome = with_busy_writer(store, |release| {
        std::thread::scope(|scope| {
            let both = scope.spawn(|| {
                let (deleted, taken) = (store.unlink_blob(&app, &layer), store.take_back(&layer));
                block_on(smol::future::zip(deleted, taken)).0
            });
            block_on(sleep(Duration::from_secs(1)));
            release.send(()).unwrap();
            both.join().unwrap()
        })
    });
    assert_eq!(outcome, Ok(()));
    assert!(bench.has(&layer), "a failed write, or a power cut, could have undone the deletion");
    block_on(store.take_back(&layer));
    assert!(!bench.has(&layer));
}

/// Symptom: a client that deleted a repository and closed the connection left the content, which no
/// quota counted any more, on the disk until the next start.
#[test]
fn f210_content_that_is_removed_goes_though_nobody_waits_for_it() {
    let bench = Bench::new();
    let (store, app) = (&bench.store, name("app"));
    let layer = blob(store, "app", b"layer");
    block_on(store.unlink_blob(&app, &layer)).unwrap();
    with_busy_writer(store, |release| {
        let mut taken = Box::pin(store.take_back(&layer));
        assert!(block_on(smol::future::poll_once(&mut taken)).is_none());
        drop(taken);
        release.send(()).unwrap();
    });
    block_on(store.commit(|_| Ok(()))).unwrap();
    let left = || bench.disk.list(&Layout::new("/s").uploads()).unwrap().len();
    assert_eq!((bench.has(&layer), left()), (false, 1));
    store.sweep_uploads();
    assert_eq!(left(), 0);
}

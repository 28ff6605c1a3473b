//! Files that nobody can open, move, write or remove: an owner or a mode is wrong, or the file
//! system is damaged there. What they are not needed for goes on.

use std::io;

use super::gc::{HOUR, Hands, OPTIONS, digest_of, name};
use super::*;
use crate::store::content::damage::FileCheck;
use crate::store::content::trust::VerifyWhen;
use crate::store::gc::GcOptions;
use crate::store::replica::outbox::Origin;
use crate::store::rows::link::BlobLink;
use crate::sys::Disk;
use crate::sys::disk::{DiskFile, Entry, Space};
use crate::types::{Manifest, Tag, UnixSeconds, media};

fn place(digest: &Digest) -> PathBuf {
    Layout::new("/s").blob(digest)
}

fn flip(disk: &MemoryDisk, digest: &Digest) {
    let mut bytes = content(disk, &place(digest));
    bytes[0] ^= 0x10;
    overwrite(disk, &place(digest), &bytes);
}

fn put_blob(store: &Store, text: &str) -> Digest {
    let digest = digest_of(text.as_bytes());
    let lease = block_on(store.blob_put(&digest, text.into())).unwrap();
    block_on(store.link_blob(&name("app"), &lease, text.len() as u64)).unwrap();
    digest
}

fn is_here(store: &Store, digest: &Digest) -> bool {
    block_on(store.blob_open(digest)).unwrap().is_some()
}

/// Symptom: pushes failed until a restart. Cause: a directory that was there once was taken to be
/// there for good.
#[test]
fn f211_an_empty_directory_of_content_that_somebody_removes_is_made_again() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let digest = put_blob(&store, "first");
    block_on(store.unlink_blob(&name("app"), &digest)).unwrap();
    disk.remove_dir_all(place(&digest).parent().unwrap()).unwrap();
    assert_eq!(put_blob(&store, "first"), digest);
    assert_eq!(block_on(store.blob_read(&digest)), Ok(Some(b"first".to_vec())));
}

/// Symptom: wrong bytes were served after a restart. Cause: damage that could not be moved away was
/// known in memory only.
#[test]
fn f211_damage_that_cannot_be_moved_away_is_doubted_after_a_restart() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let bad = put_blob(&store, "bad");
    flip(&disk, &bad);
    disk.fail_renames(&place(&bad));
    assert_eq!(block_on(store.scrub(0)).unwrap().damaged, 1);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, recovery) = open_memory(&disk).unwrap();
    assert_eq!((recovery.clean, store.doubted()), (true, 1));
    drop(store);
    // A restart before anybody has asked for it knows it too.
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!(store.doubted(), 1);
    assert!(!is_here(&store, &bad));
    assert_eq!(store.damaged(9), std::slice::from_ref(&bad));
    disk.show(&place(&bad));
    block_on(store.blob_put(&bad, b"bad".to_vec())).unwrap();
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!((store.doubted(), store.damaged_count()), (0, 0));
    assert!(is_here(&store, &bad));
}

/// A file system that went read-only, or a quarantine of another owner: each GET hashed the file
/// twice and was 503 as if the whole disk had failed, a child took nothing more from this node, and
/// the damage was told nowhere.
#[test]
fn f211_damage_that_cannot_be_moved_away_is_damage_all_the_same() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let [bad, good] = ["bad", "good"].map(|text| put_blob(&store, text));
    flip(&disk, &bad);
    disk.fail_renames(&place(&bad));
    for _ in 0..2 {
        assert_eq!(block_on(store.scrub(0)).unwrap().damaged, 1);
        assert_eq!(store.damaged(9), std::slice::from_ref(&bad));
        assert_eq!((is_here(&store, &bad), is_here(&store, &good)), (false, true));
        assert_eq!(block_on(store.blob_read(&bad)), Ok(None));
    }
    let again = || block_on(store.blob_put(&bad, b"bad".to_vec())).map(|_| ());
    let error = again().unwrap_err();
    assert!(matches!(error, StoreError::Unreadable(_)), "{error:?}");
    assert!(store.unreadable_content().unwrap().0.contains("cannot be written"));
    disk.show(&place(&bad));
    again().unwrap();
    assert_eq!(block_on(store.blob_read(&bad)), Ok(Some(b"bad".to_vec())));
    assert_eq!((store.damaged_count(), store.unreadable_content()), (0, None));
}

/// The push that healed was refused, and the damage stayed until a restart.
#[test]
fn f211_a_quarantined_file_that_cannot_be_removed_keeps_nothing_from_being_whole() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let bad = put_blob(&store, "bad");
    flip(&disk, &bad);
    assert_eq!(block_on(store.scrub(0)).unwrap().damaged, 1);
    disk.fail_renames(&Layout::new("/s").quarantined(&bad));
    block_on(store.blob_put(&bad, b"bad".to_vec())).unwrap();
    assert_eq!((is_here(&store, &bad), store.damaged_count()), (true, 0));
    assert!(block_on(store.scrub(0)).unwrap().finished.is_some());
}

/// It was fetched again and again, once for each repository that refers to it.
#[test]
fn f204_a_fetch_that_only_gets_no_name_is_not_fetched_again() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let digest = digest_of(b"blob");
    disk.fail_renames(&place(&digest));
    let mut fetch = block_on(store.fetch_resume(&digest)).unwrap();
    block_on(fetch.write(b"blob")).unwrap();
    for _ in 0..2 {
        let error = block_on(fetch.finish(&digest)).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Unreadable(_)), "{error:?}");
        fetch = block_on(store.fetch_resume(&digest)).unwrap();
        assert_eq!(fetch.offset(), 4);
    }
    disk.show(&place(&digest));
    assert_eq!(block_on(fetch.finish(&digest)).map(|(_, len)| len), Ok(4));
    assert!(is_here(&store, &digest));
}

/// An operator had copied the good file back: it was out of service until a restart.
#[test]
fn f211_content_that_was_mended_by_hand_is_whole() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let [stuck, lost] = ["stuck", "lost"].map(|text| put_blob(&store, text));
    flip(&disk, &stuck);
    disk.fail_renames(&place(&stuck));
    disk.remove(&place(&lost)).unwrap();
    let report = block_on(store.scrub(0)).unwrap();
    assert_eq!((report.damaged, report.missing, store.damaged_count()), (1, 1, 2));
    flip(&disk, &stuck);
    disk.replace(&place(&lost), b"lost").unwrap();
    assert_eq!(block_on(store.scrub(0)).unwrap().damaged, 0);
    assert_eq!((store.damaged_count(), is_here(&store, &stuck)), (0, true));
}

/// The remedy had worked, and the node was Unhealthy for another hour.
#[test]
fn f212_what_cannot_be_opened_is_told_until_it_can_be() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let [a, b] = ["a", "b"].map(|text| put_blob(&store, text));
    for digest in [&a, &b] {
        disk.hide(&place(digest));
        assert!(block_on(store.blob_open(digest)).is_err());
    }
    assert!(store.unreadable_content().unwrap().0.contains("1 more"));
    for (digest, told) in [(&a, true), (&b, false)] {
        disk.show(&place(digest));
        assert!(is_here(&store, digest));
        assert_eq!(store.unreadable_content().is_some(), told);
    }
}

/// A push that nobody repeated left the node Unhealthy for a day.
#[test]
fn f212_a_failed_write_is_told_until_a_scrub_finds_that_it_would_work() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let told_after_scrub = || {
        block_on(store.scrub(0)).unwrap();
        store.unreadable_content().is_some()
    };
    let push = |digest: &Digest, text: &str| {
        let pushed = block_on(store.blob_put(digest, text.into())).map(|_| ());
        assert!(matches!(pushed, Err(StoreError::Unreadable(_))), "{pushed:?}");
    };
    let new = digest_of(b"new");
    disk.fail_renames(&place(&new));
    push(&new, "new");
    disk.show(&place(&new));
    // The directory takes no file yet.
    let probe = place(&new).with_extension("tmp");
    disk.create(&probe).unwrap();
    disk.fail_renames(&probe);
    assert!(told_after_scrub());
    disk.show(&probe);
    assert!(!told_after_scrub());
    assert_eq!(disk.list(place(&new).parent().unwrap()).unwrap(), []);
    // What cannot be moved away is in the way of a push.
    let bad = put_blob(&store, "bad");
    flip(&disk, &bad);
    disk.fail_renames(&place(&bad));
    block_on(store.scrub(0)).unwrap();
    push(&bad, "bad");
    assert!(told_after_scrub());
    disk.show(&place(&bad));
    assert!(!told_after_scrub());
}

/// A single row ended the look at all that came after it.
#[test]
fn f204_a_link_that_cannot_be_decoded_keeps_nothing_else_from_a_scrub() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let lost = put_blob(&store, "lost");
    let nothing = rows::key(rows::Kind::Blob, &[b"aaa"]);
    block_on(store.commit(move |txn| txn.put(nothing, &BlobLink { size: 1 }))).unwrap();
    disk.remove(&place(&lost)).unwrap();
    assert!(matches!(block_on(store.scrub(0)), Err(StoreError::Corrupt(_))));
    assert_eq!(store.damaged(9), [lost]);
}

/// The cause was gone, and a device waited for minutes before it fetched the content again.
#[test]
fn f204_stuck_damage_that_can_be_moved_away_again_wakes_who_heals() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let bad = put_blob(&store, "bad");
    flip(&disk, &bad);
    disk.fail_renames(&place(&bad));
    let scrub_is_heard = || {
        let changes = store.damage_changes();
        assert_eq!(block_on(store.scrub(0)).unwrap().damaged, 1);
        block_on(smol::future::poll_once(changes)).is_some()
    };
    assert_eq!([scrub_is_heard(), scrub_is_heard()], [true, false]);
    disk.show(&place(&bad));
    assert!(scrub_is_heard());
    assert_eq!(store.damaged(9), [bad]);
}

/// As after a power cut: what is doubted is hashed before it is opened for somebody.
#[test]
fn f212_what_is_doubted_and_cannot_be_opened_is_told() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let a = put_blob(&store, "a");
    block_on(store.close()).unwrap();
    drop(store);
    let mut options = options(Path::new("/s"), IndexKind::Map);
    options.verify = VerifyWhen::FirstRead;
    let (store, _) = Store::open(sys_on(&disk), options).unwrap();
    disk.hide(&place(&a));
    assert!(matches!(block_on(store.blob_open(&a)), Err(StoreError::Unreadable(_))));
    assert!(store.unreadable_content().is_some());
    // Symptom: 503 for HEAD and every push of it. Who looks brings it again, which replaces it.
    let check = block_on(store.check_file(Vec::new(), &a, 1));
    assert!(matches!(check, Ok(FileCheck::Unreadable(_))), "{check:?}");
}

/// Every session with the parent ended with it.
#[test]
fn f204_a_partial_fetch_that_is_stuck_is_a_fault_of_its_item() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let digest = digest_of(b"blob");
    let mut upload = block_on(store.fetch_resume(&digest)).unwrap();
    block_on(upload.write(b"bl")).unwrap();
    block_on(upload.pause()).unwrap();
    drop(store);
    let uploads = Layout::new("/s").uploads();
    for entry in disk.list(&uploads).unwrap() {
        disk.hide(&uploads.join(&entry.name));
    }
    let (store, _) = open_memory(&disk).unwrap();
    let error = block_on(store.fetch_resume(&digest)).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Unreadable(_)), "{error:?}");
}

/// The check ended at the first such file, without a report; without a look at the content it
/// passed.
#[test]
fn f116_fsck_names_what_cannot_be_opened_and_looks_at_the_rest() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|text| put_blob(&store, text));
    disk.hide(&place(&a));
    flip(&disk, &b);
    for (with_content, problems, hashed) in [(false, 1, 0), (true, 2, 2)] {
        let report = block_on(store.fsck(with_content)).unwrap();
        assert_eq!((report.problems, report.blobs_hashed), (problems, hashed), "{report:?}");
        assert!(report.found[0].contains(&a.hex()), "{report:?}");
    }
    assert!(is_here(&store, &c));
}

/// A disk that does something in the middle of moving damage away.
struct Hooked(MemoryDisk, Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Disk for Hooked {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path)
    }
    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open_rw(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir_all(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let then = self.1.lock().unwrap().take_if(|_| path.ends_with("quarantine"));
        if let Some(then) = then {
            then();
        }
        self.0.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn file_len(&self, path: &Path) -> io::Result<u64> {
        self.0.file_len(path)
    }
    fn modified(&self, path: &Path) -> io::Result<Option<UnixSeconds>> {
        self.0.modified(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock_dir(path)
    }
    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        self.0.sync_fs(path)
    }
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        self.0.read(path, max)
    }
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.replace(path, bytes)
    }
}

/// Its damage was noted after the good bytes had come, and stayed so until a restart.
#[test]
fn f211_good_bytes_that_come_while_damage_is_moved_away_end_it() {
    let disk = MemoryDisk::new();
    let hooked = Arc::new(Hooked(disk.clone(), Mutex::new(None)));
    let sys = Sys { disk: hooked.clone(), ..Sys::real(Spawner::new()) };
    let store = Store::open(sys, options(Path::new("/s"), IndexKind::Map)).unwrap().0;
    let bad = put_blob(&store, "bad");
    flip(&disk, &bad);
    let (again, digest) = (store.clone(), bad.clone());
    *hooked.1.lock().unwrap() = Some(Box::new(move || {
        let push = move || drop(block_on(again.blob_put(&digest, b"bad".to_vec())).unwrap());
        Spawner::new().thread("push", push).unwrap().join().unwrap();
    }));
    assert_eq!(block_on(store.scrub(0)).unwrap().damaged, 1);
    assert!(hooked.1.lock().unwrap().is_none());
    assert_eq!(block_on(store.blob_read(&bad)), Ok(Some(b"bad".to_vec())));
    assert_eq!(store.damaged(9), []);
}

/// A rollback, or the same push again, between two daily collections was never seen by one: the
/// manifest went two hours later.
#[test]
fn f141_the_retention_begins_anew_with_a_tag_or_a_push_that_no_collection_saw() {
    let disk = MemoryDisk::new();
    let hands = Arc::new(Hands::default());
    let sys = Sys { clock: hands.clone(), ..sys_on(&disk) };
    let store = Store::open(sys, options(Path::new("/s"), IndexKind::Map)).unwrap().0;
    let app = name("app");
    let text = r#"{"schemaVersion":2,"manifests":[]}"#;
    let digest = digest_of(text.as_bytes());
    let put = || {
        let put = PutManifest {
            content: Lease::unseen(&digest),
            media_type: media::OCI_INDEX.to_owned(),
            bytes_len: text.len() as u64,
            parsed: Manifest::parse(Some(media::OCI_INDEX), text.as_bytes()).unwrap(),
            tags: vec![],
            precondition: Precondition::None,
            required: Required::All,
            origin: Origin::Client,
        };
        block_on(store.put_manifest(&app, put)).unwrap();
    };
    let policy = GcOptions { untagged: Some(168 * HOUR), ..OPTIONS };
    let gc = || block_on(store.collect_garbage(policy)).unwrap().manifests_removed;
    block_on(store.blob_put(&digest, text.as_bytes().to_vec())).unwrap();
    put();
    let nearly_over = |days| {
        for _ in 0..days {
            hands.pass(24 * HOUR);
            assert_eq!(gc(), 0);
        }
        hands.pass(22 * HOUR);
    };
    nearly_over(7);
    let (tag, origin): (Tag, _) = ("latest".parse().unwrap(), Origin::Client);
    block_on(store.set_tag(&app, &tag, &digest, Precondition::None, &origin)).unwrap();
    hands.pass(HOUR);
    block_on(store.delete_tag(&app, &tag, Precondition::None, &origin)).unwrap();
    hands.pass(HOUR);
    assert_eq!(gc(), 0, "two hours after it lost its tag");
    nearly_over(6);
    put();
    hands.pass(2 * HOUR);
    assert_eq!(gc(), 0, "two hours after it was pushed");
    hands.pass(168 * HOUR);
    assert_eq!(gc(), 1);
}

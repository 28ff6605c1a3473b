//! The engine as a whole, on real directories.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::row::{Kind, Row, key, prefix};
use super::{OpenError, Recovery, Store, StoreError, StoreOptions};
use crate::sys::{Spawner, Sys};
use crate::types::digest::Algorithm;
use crate::types::{Cursor, Digest};

/// A directory that goes when the value does.
pub(super) struct TempDir(PathBuf);

#[allow(clippy::disallowed_methods, reason = "tests stand outside the seams")]
impl TempDir {
    pub(super) fn new(name: &str) -> TempDir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skerry-store-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

#[allow(clippy::disallowed_methods, reason = "tests stand outside the seams")]
impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Note(u64);

impl Row for Note {
    const VERSION: u8 = 1;
}

fn note_key(number: u64) -> Vec<u8> {
    key(Kind::Node, &[b"note", &number.to_be_bytes()])
}

async fn open(dir: &TempDir) -> Result<(Store, Recovery), OpenError> {
    let options = StoreOptions { state_dir: dir.path().join("state"), reserve: 0, uploads_max: 10 };
    Store::open(Sys::real(Spawner::new()), options).await
}

async fn put(store: &Store, number: u64) -> Result<(), StoreError> {
    store.commit(move |txn| txn.put(note_key(number), &Note(number))).await
}

fn notes(store: &Store) -> Vec<u64> {
    let rows = store.scan::<Note>(&prefix(Kind::Node, &[b"note"]), None, usize::MAX).unwrap();
    rows.into_iter().map(|(_, note)| note.0).collect()
}

/// The state as a kill leaves it: copied while the store is open.
#[allow(clippy::disallowed_methods, reason = "tests stand outside the seams")]
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn segment(dir: &TempDir) -> PathBuf {
    dir.path().join("state/journal/00000000000000000001.log")
}

#[test]
fn f116_what_was_acknowledged_is_there_after_a_kill() {
    smol::block_on(async {
        let (dir, killed) = (TempDir::new("kill"), TempDir::new("killed"));
        let (store, recovery) = open(&dir).await.unwrap();
        assert!(recovery.new);
        for number in 0..20 {
            put(&store, number).await.unwrap();
        }
        let refused = store
            .commit(|txn| {
                txn.put(note_key(99), &Note(99))?;
                Err::<(), _>(StoreError::Conflict("no".to_owned()))
            })
            .await;
        assert!(refused.is_err());
        copy(&dir.path().join("state"), &killed.path().join("state"));
        let (again, recovery) = open(&killed).await.unwrap();
        assert!(!recovery.clean && !recovery.new);
        assert_eq!(notes(&again), (0..20).collect::<Vec<_>>());
        assert_eq!(again.sequence(), 20);
        assert_eq!(again.head().epoch, store.head().epoch);
        put(&again, 20).await.unwrap();
        again.close().await.unwrap();
        assert_eq!(put(&again, 21).await, Err(StoreError::Unavailable));
    });
}

#[test]
fn a_clean_stop_leaves_nothing_to_mend() {
    smol::block_on(async {
        let (dir, copied) = (TempDir::new("clean"), TempDir::new("cleaned"));
        let (store, _) = open(&dir).await.unwrap();
        put(&store, 1).await.unwrap();
        store.close().await.unwrap();
        copy(&dir.path().join("state"), &copied.path().join("state"));
        let (again, recovery) = open(&copied).await.unwrap();
        assert!(recovery.clean);
        assert_eq!((recovery.replayed, recovery.rebuilt), (0, None));
        assert_eq!(notes(&again), [1]);
    });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "tests stand outside the seams")]
fn a_torn_append_is_cut_at_every_byte() {
    smol::block_on(async {
        let dir = TempDir::new("torn");
        let (store, _) = open(&dir).await.unwrap();
        put(&store, 1).await.unwrap();
        put(&store, 2).await.unwrap();
        let before = std::fs::metadata(segment(&dir)).unwrap().len();
        // A kill before the index took the last group: its copy is older than the journal.
        let old_index = TempDir::new("torn-index");
        copy(&dir.path().join("state"), &old_index.path().join("state"));
        put(&store, 3).await.unwrap();
        let whole = std::fs::read(segment(&dir)).unwrap();
        assert!(whole.len() as u64 > before);
        for cut in usize::try_from(before).unwrap()..whole.len() {
            let torn = TempDir::new("torn-copy");
            copy(&old_index.path().join("state"), &torn.path().join("state"));
            std::fs::write(segment(&torn), &whole[..cut]).unwrap();
            let (again, recovery) = open(&torn).await.unwrap();
            assert_eq!(notes(&again), [1, 2], "cut at {cut}");
            assert_eq!(recovery.cut_bytes, cut as u64 - before);
            put(&again, 4).await.unwrap();
            assert_eq!(notes(&again), [1, 2, 4]);
        }
    });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "tests stand outside the seams")]
fn damage_in_the_middle_of_the_journal_is_reported() {
    smol::block_on(async {
        let dir = TempDir::new("flip");
        let (store, _) = open(&dir).await.unwrap();
        for number in 0..10 {
            put(&store, number).await.unwrap();
        }
        let whole = std::fs::read(segment(&dir)).unwrap();
        for at in [60, whole.len() / 3, whole.len() / 2] {
            let damaged = TempDir::new("flipped");
            copy(&dir.path().join("state"), &damaged.path().join("state"));
            std::fs::remove_dir_all(damaged.path().join("state/index")).unwrap();
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(segment(&damaged), &bytes).unwrap();
            match open(&damaged).await {
                Err(OpenError::Damaged { .. }) => {}
                Err(error) => panic!("byte {at}: {error}"),
                Ok((store, _)) => panic!("byte {at}: opened with {:?}", notes(&store)),
            }
            assert_eq!(std::fs::read(segment(&damaged)).unwrap(), bytes, "left as it was");
        }
    });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "tests stand outside the seams")]
fn a_lost_or_damaged_index_is_built_again() {
    smol::block_on(async {
        let dir = TempDir::new("index");
        let (store, _) = open(&dir).await.unwrap();
        for number in 0..50 {
            put(&store, number).await.unwrap();
        }
        store.commit(|txn| Ok(txn.delete(note_key(7)))).await.unwrap();
        let wanted = notes(&store);
        store.close().await.unwrap();
        for harm in ["gone", "zeroed", "truncated"] {
            let harmed = TempDir::new("harmed");
            copy(&dir.path().join("state"), &harmed.path().join("state"));
            let db = harmed.path().join("state/index/db");
            match harm {
                "gone" => std::fs::remove_dir_all(harmed.path().join("state/index")).unwrap(),
                "zeroed" => {
                    let len = std::fs::metadata(&db).unwrap().len();
                    std::fs::write(&db, vec![0; usize::try_from(len).unwrap()]).unwrap();
                }
                _ => std::fs::write(&db, b"not a database").unwrap(),
            }
            let (again, recovery) = open(&harmed).await.unwrap();
            let made_up = recovery.rebuilt.is_some() || recovery.replayed == 51;
            assert!(made_up, "{harm}: {recovery}");
            assert_eq!(notes(&again), wanted, "{harm}");
        }
    });
}

#[test]
fn of_two_commands_that_expect_the_same_one_wins() {
    smol::block_on(async {
        let dir = TempDir::new("cas");
        let (store, _) = open(&dir).await.unwrap();
        let claim = |value: u64| {
            store.commit(move |txn| match txn.get::<Note>(&note_key(0))? {
                None => txn.put(note_key(0), &Note(value)),
                Some(_) => Err(StoreError::Conflict("taken".to_owned())),
            })
        };
        let (one, two) = smol::future::zip(claim(1), claim(2)).await;
        assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
        let panicked = store.commit(|_| -> Result<(), _> { panic!("a defect") }).await;
        assert_eq!(panicked, Err(StoreError::Unavailable));
        put(&store, 5).await.unwrap();
    });
}

#[test]
fn checkpoints_hold_what_the_journal_held() {
    smol::block_on(async {
        let (dir, copied) = (TempDir::new("ckpt"), TempDir::new("ckpt-copy"));
        let (store, _) = open(&dir).await.unwrap();
        let big = key(Kind::Node, &[b"big"]);
        for round in 0..12 {
            let row: Vec<u8> = vec![round; 1024 * 1024];
            let big = big.clone();
            store
                .commit(move |txn| {
                    txn.put(big, &Blob(row))?;
                    txn.put(note_key(u64::from(round)), &Note(u64::from(round)))
                })
                .await
                .unwrap();
        }
        for _ in 0..200 {
            if store.sys().metrics.checkpoint_bytes.get() > 0 {
                break;
            }
            crate::sys::clock::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert!(store.sys().metrics.checkpoint_bytes.get() > 0, "a checkpoint was made");
        store.close().await.unwrap();
        copy(&dir.path().join("state"), &copied.path().join("state"));
        #[allow(clippy::disallowed_methods, reason = "tests stand outside the seams")]
        std::fs::remove_dir_all(copied.path().join("state/index")).unwrap();
        let (again, recovery) = open(&copied).await.unwrap();
        assert!(recovery.rebuilt.is_some());
        assert_eq!(notes(&again), (0..12).collect::<Vec<_>>());
        assert_eq!(again.get::<Blob>(&big).unwrap().unwrap().0, vec![11; 1024 * 1024]);
    });
}

#[derive(Serialize, Deserialize)]
struct Blob(Vec<u8>);

impl Row for Blob {
    const VERSION: u8 = 1;
}

#[test]
fn the_feed_knows_its_epoch_and_its_bounds() {
    smol::block_on(async {
        let dir = TempDir::new("feed");
        let (store, _) = open(&dir).await.unwrap();
        for number in 0..5 {
            put(&store, number).await.unwrap();
        }
        let head = store.head();
        let at = |sequence| Cursor { epoch: head.epoch, sequence };
        let records = store.records_after(at(2), usize::MAX).await.unwrap();
        let sequences: Vec<u64> = records.records.iter().map(|(s, _)| *s).collect();
        assert_eq!(sequences, [3, 4, 5]);
        assert_eq!(records.through, head);
        assert!(store.records_after(head, usize::MAX).await.unwrap().records.is_empty());
        let beyond = store.records_after(at(6), usize::MAX).await;
        assert!(matches!(beyond, Err(StoreError::NotFound)));
        let other = Cursor { epoch: head.epoch ^ 1, sequence: 2 };
        assert!(matches!(store.records_after(other, 1).await, Err(StoreError::NotFound)));
        // From the segments, after a restart.
        let copied = TempDir::new("feed-copy");
        store.close().await.unwrap();
        copy(&dir.path().join("state"), &copied.path().join("state"));
        let (again, _) = open(&copied).await.unwrap();
        let records = again.records_after(at(0), usize::MAX).await.unwrap();
        assert_eq!(records.records.len(), 5);
    });
}

fn digest(bytes: &[u8]) -> Digest {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    Digest::from_raw(Algorithm::Sha256, hash.as_ref()).unwrap()
}

#[test]
fn f128_an_upload_goes_on_after_a_restart() {
    smol::block_on(async {
        let (dir, killed) = (TempDir::new("upload"), TempDir::new("upload-killed"));
        let (store, _) = open(&dir).await.unwrap();
        let content: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
        let repository = "app".parse().unwrap();
        let mut upload = store.upload_start(&repository).await.unwrap();
        let id = upload.id().to_owned();
        upload.write(&content[..1_000_001]).await.unwrap();
        let held = store.upload_resume(&repository, &id).await;
        assert!(matches!(held, Err(StoreError::Conflict(_))));
        drop(upload);
        assert_eq!(store.upload_offset(&repository, &id).await, Ok(1_000_001));
        copy(&dir.path().join("state"), &killed.path().join("state"));
        for store in [store, open(&killed).await.unwrap().0] {
            let other = "other".parse().unwrap();
            let wrong = store.upload_resume(&other, &id).await;
            assert!(matches!(wrong, Err(StoreError::NotFound)));
            let mut upload = store.upload_resume(&repository, &id).await.unwrap();
            assert_eq!(upload.offset(), 1_000_001);
            upload.write(&content[1_000_001..]).await.unwrap();
            let name = digest(&content);
            assert_eq!(upload.finish(&name).await.unwrap(), content.len() as u64);
            let blob = store.blob_open(&name).await.unwrap().unwrap();
            assert_eq!(blob.len, content.len() as u64);
            assert!(store.upload_offset(&repository, &id).await.is_err());
        }
    });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "tests stand outside the seams")]
fn content_with_another_digest_is_neither_stored_nor_served() {
    smol::block_on(async {
        let dir = TempDir::new("digest");
        let (store, _) = open(&dir).await.unwrap();
        let repository = "app".parse().unwrap();
        let mut upload = store.upload_start(&repository).await.unwrap();
        upload.write(b"something else").await.unwrap();
        let name = digest(b"something");
        assert!(matches!(upload.finish(&name).await, Err(StoreError::Invalid(_))));
        assert!(store.blob_open(&name).await.unwrap().is_none());

        store.blob_put(&name, b"something".to_vec()).await.unwrap();
        assert_eq!(store.blob_read(&name).await.unwrap().unwrap(), b"something");
        let hex = name.hex();
        let path = dir.path().join("state/blobs/sha256").join(&hex[..2]).join(&hex);
        std::fs::write(path, b"sOmething").unwrap();
        assert!(matches!(store.blob_read(&name).await, Err(StoreError::Corrupt(_))));
        let empty = store.upload_start(&repository).await.unwrap();
        assert_eq!(empty.finish(&digest(b"")).await, Ok(0));
    });
}

#[test]
fn a_state_directory_serves_one_process() {
    smol::block_on(async {
        let dir = TempDir::new("lock");
        let (store, _) = open(&dir).await.unwrap();
        assert!(matches!(open(&dir).await, Err(OpenError::Locked { .. })));
        drop(store);
    });
}

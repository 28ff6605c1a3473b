//! The format on disk: files of earlier versions are read, today's are written alike, and those of
//! later versions are left alone.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use super::crash::{Node, first_half, second_half};
use super::gc::{Hands, OPTIONS, digest_of};
use super::*;
use crate::store::backup::{self, BackupFile};
use crate::store::gc::GcOptions;
use crate::store::index::{Change, Index, MapIndex};
use crate::store::recovery::apply::apply;
use crate::store::registry::manifests::testing::child;
use crate::store::replica::node::testing;
use crate::store::replica::outbox::Origin;
use crate::store::rows::connected_registry::{StatusRecord, connected_registry_key};
use crate::store::rows::{Kind, derived, prefix};
use crate::types::connected_registry::{ConnectionState, StatusDetail, StatusReport};
use crate::types::message::NodeConfig;
use crate::types::token::Token;
use crate::types::{ConnectedRegistry, Manifest, UnixSeconds, media};

/// A state directory as it was written, beside content: names and bytes.
#[allow(clippy::disallowed_methods, reason = "golden files are real files")]
fn golden(top: &str) -> Vec<(String, Vec<u8>)> {
    let top = Path::new(top);
    let mut names = vec!["format".to_owned()];
    for entry in std::fs::read_dir(top.join("journal")).unwrap() {
        names.push(format!("journal/{}", entry.unwrap().file_name().to_string_lossy()));
    }
    names.sort();
    names.into_iter().map(|name| (name.clone(), std::fs::read(top.join(name)).unwrap())).collect()
}

/// As today.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/golden/1b");
/// As by the first builds, whose changes on their way up bore no incarnation.
const FIRST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/golden/1");

/// Numbers that are the same in every run.
struct Counted(AtomicU64);

impl Rng for Counted {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            let next = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            *byte = next.to_le_bytes()[6];
        }
    }
}

/// Every kind of record, with a checkpoint in the middle, on a clock that stands.
fn written_today() -> (MemoryDisk, BTreeMap<Vec<u8>, Vec<u8>>) {
    let disk = MemoryDisk::new();
    let rng: Arc<dyn Rng> = Arc::new(Counted(AtomicU64::new(1)));
    let hands = Arc::new(Hands::default());
    let open = |checkpoint_bytes_min| {
        let sys = Sys { clock: hands.clone(), rng: rng.clone(), ..sys_on(&disk) };
        let mut options = options(Path::new("/s"), IndexKind::Map);
        options.retain_for_children = true;
        options.checkpoint_bytes_min = checkpoint_bytes_min;
        let store = Store::open(sys, options).unwrap().0;
        Node::with(&disk, hands.clone(), store)
    };
    // One checkpoint, in the middle of the first half.
    let mut node = open(6000);
    for (what, act) in first_half() {
        act(&mut node).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    block_on(node.store().close()).unwrap();
    drop(node);
    let mut node = open(u64::MAX);
    for (what, act) in second_half() {
        act(&mut node).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    extras(node.store());
    let view = node.store().rows().into_iter().collect();
    drop(node);
    (disk, view)
}

/// The kinds of rows that the steps leave none of.
fn extras(store: &Store) {
    let app: RepositoryName = "app".parse().unwrap();
    let [text, untagged] = ["a subject", "another"].map(|subject| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{0}","size":300}},
            "layers":[],"subject":{{"mediaType":"{1}","digest":"{0}","size":9}}}}"#,
            digest_of(subject.as_bytes()),
            media::OCI_MANIFEST
        )
    });
    let put = |text: &str, origin| PutManifest {
        content: Lease::unseen(&digest_of(text.as_bytes())),
        media_type: media::OCI_MANIFEST.to_owned(),
        bytes_len: text.len() as u64,
        parsed: Manifest::parse(Some(media::OCI_MANIFEST), text.as_bytes()).unwrap(),
        tags: Vec::new(),
        precondition: Precondition::None,
        required: Required::Nothing,
        origin,
    };
    block_on(async {
        for (number, text) in [(5, &text), (6, &untagged)] {
            store.blob_put(&digest_of(text.as_bytes()), text.clone().into_bytes()).await.unwrap();
            store.put_manifest(&app, put(text, child(number))).await.unwrap();
        }
        store.settle().await.unwrap();
        let report = StatusReport {
            version: "1".to_owned(),
            login_server: "dock.example:5000".to_owned(),
            tls: true,
            state: ConnectionState::Unhealthy,
            details: vec![StatusDetail {
                kind: "Disk".to_owned(),
                code: "DiskError".to_owned(),
                description: "full".to_owned(),
                timestamp: UnixSeconds(7),
                correlation_id: "c".to_owned(),
            }],
            last_sync: Some(UnixSeconds(6)),
        };
        let record = StatusRecord { report, last_contact: UnixSeconds(8) };
        store.record_status("docks1".parse().unwrap(), record).await.unwrap();
        let policy = GcOptions { untagged: Some(Duration::from_secs(3600)), ..OPTIONS };
        store.collect_garbage(policy).await.unwrap();
        let desired = config(&["repositories/app/content/read"]);
        let below = desired.descendants[0].clone();
        store.receive_config(desired.clone(), "v1".to_owned()).await.unwrap();
        let below = NodeConfig { node: connected_registry(below.name.as_str(), None), ..desired };
        store.receive_descendant(below, "v2".to_owned()).await.unwrap();
        store.delete_manifest(&app, &digest_of(text.as_bytes()), &Origin::Client).await.unwrap();
        store.put_manifest(&app, put(&text, Origin::Client)).await.unwrap();
        let (number, _) = store.outbox(1).unwrap()[0].clone();
        store.outbox_refused(number, "no".to_owned()).await.unwrap();
    });
}

/// As these rows stood when the files were written: everything of a node has the node's name.
fn connected_registry(name: &str, parent: Option<&str>) -> ConnectedRegistry {
    let sync_token = name.parse().unwrap();
    ConnectedRegistry { sync_token, ..testing::connected_registry(name, parent) }
}

/// `dock01` with the client token `client01` and the child `child01`.
fn config(grants: &[&str]) -> NodeConfig {
    let token = |name: &str| Token { scope_map: name.parse().unwrap(), ..testing::token(name) };
    let app = &["repositories/app/content/read"];
    NodeConfig {
        node: connected_registry("dock01", None),
        sync_token: token("dock01"),
        client_tokens: vec![token("client01")],
        children: vec![connected_registry("child01", Some("dock01"))],
        child_tokens: vec![token("child01")],
        scope_maps: vec![
            testing::map("dock01", grants),
            testing::map("client01", app),
            testing::map("child01", app),
        ],
        ..testing::config(grants)
    }
}

fn journal(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    let list = disk.list(Path::new("/s/journal")).unwrap();
    let read = |name: &str| content(disk, &Path::new("/s/journal").join(name));
    let mut files: Vec<_> =
        list.into_iter().map(|e| (format!("journal/{}", e.name), read(&e.name))).collect();
    files.push(("format".to_owned(), content(disk, Path::new("/s/format"))));
    files
}

fn place(files: &[(String, Vec<u8>)]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for directory in ["blobs", "uploads", "journal", "identity"] {
        disk.create_dir_all(&Path::new("/s").join(directory)).unwrap();
    }
    for (name, bytes) in files {
        let file = disk.create(&Path::new("/s").join(name)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }
    disk.sync_fs(Path::new("/")).unwrap();
    disk
}

#[test]
#[allow(clippy::disallowed_methods, reason = "with SKERRY_WRITE_GOLDEN it makes the files anew")]
fn format_1_is_written_as_ever() {
    let files = journal(&written_today().0);
    if std::env::var_os("SKERRY_WRITE_GOLDEN").is_some() {
        let golden = Path::new(GOLDEN);
        let _ = std::fs::remove_dir_all(golden.join("journal"));
        std::fs::create_dir_all(golden.join("journal")).unwrap();
        for (name, bytes) in &files {
            std::fs::write(golden.join(name), bytes).unwrap();
        }
    }
    let golden = golden(GOLDEN);
    assert_eq!(files.len(), golden.len(), "{:?}", files.iter().map(|f| &f.0).collect::<Vec<_>>());
    assert!(files.iter().any(|(name, _)| name.ends_with(".ckpt")));
    for (name, bytes) in &files {
        let golden = golden.iter().find(|(other, _)| other == name);
        let golden = golden.unwrap_or_else(|| panic!("there is no golden file {name}"));
        assert!(*bytes == golden.1, "{name} is written in another way: that is a new format");
    }
}

#[test]
fn f211_what_follows_from_the_rows_is_the_same_however_the_index_came_to_them() {
    let (disk, _) = written_today();
    let (store, _) = open_memory(&disk).unwrap();
    // No row of the first formats has a client token, and no manifest is an index.
    let mut node = testing::connected_registry("ship02", None);
    node.client_tokens.push("client01".parse().unwrap());
    let mut manifests = store.scan::<ManifestRow>(&prefix(Kind::Manifest, &[]), None, 1).unwrap();
    let (key, row) = manifests.remove(0);
    let row = ManifestRow { children: vec![digest_of(b"child")], ..row };
    let put = store.commit(move |txn| {
        txn.put(key, &row)?;
        txn.put(connected_registry_key(&node.name), &node)
    });
    block_on(put).unwrap();
    let all = |index: &dyn Index| index.scan(&[], None, usize::MAX).unwrap();
    let grown = all(&*store.shared().index());
    let derived = grown.iter().filter(|(key, _)| derived::is_derived(key));
    let kinds: BTreeSet<u8> = derived.map(|(key, _)| key[0]).collect();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    let mut rows: Vec<Change> =
        store.rows().into_iter().map(|(key, row)| (key, Some(row))).collect();
    for _ in 0..2 {
        let index = MapIndex::default();
        for (number, page) in (1..).zip(rows.chunks(3)) {
            apply(&index, number, page.to_vec()).unwrap();
        }
        assert!(all(&index) == grown);
        // Nothing is left of rows that go again, and a batch may say so twice.
        let gone =
            rows.iter().flat_map(|(key, row)| [(key.clone(), row.clone()), (key.clone(), None)]);
        apply(&index, 999, gone.collect()).unwrap();
        assert!(all(&index).is_empty(), "{:?}", all(&index));
        rows.reverse();
    }
}

#[test]
fn format_1_is_read() {
    let (_, expected) = written_today();
    let disk = place(&golden(GOLDEN));
    let (store, recovery) = open_memory(&disk).unwrap();
    assert!(!recovery.new && recovery.damage.is_empty(), "{recovery}");
    let found: BTreeMap<Vec<u8>, Vec<u8>> = store.rows().into_iter().collect();
    assert!(found == expected, "the golden files hold other rows");
    // Each kind of row is among them, and can be decoded.
    let kinds: BTreeSet<u8> = found.keys().map(|key| key[0]).collect();
    assert_eq!(kinds.len(), 18, "{kinds:?}");
    assert_eq!(store.repositories(None, 10).unwrap().len(), 1);
    assert_eq!(block_on(store.connected_registries()).unwrap().len(), 1);
    put(&store, 1, "goes on").unwrap();
}

#[test]
fn what_the_first_builds_wrote_is_read() {
    let (_, expected) = written_today();
    let (store, recovery) = open_memory(&place(&golden(FIRST))).unwrap();
    assert!(!recovery.new && recovery.damage.is_empty(), "{recovery}");
    let rows = store.rows();
    let (changed, found): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|(key, _)| [Kind::Outbox as u8, Kind::DeadLetter as u8].contains(&key[0]));
    let differ = |(key, row): &(Vec<u8>, Vec<u8>)| expected.get(key) != Some(row);
    // Of manifests, today's rows say more.
    for (key, row) in found.iter().filter(|(key, _)| key[0] == Kind::Manifest as u8) {
        assert!(expected[key] != *row && expected[key].starts_with(row));
        assert_eq!(rows::decode::<ManifestRow>(row).unwrap().elsewhere, None);
    }
    let differ: BTreeSet<u8> = found.into_iter().filter(differ).map(|(key, _)| key[0]).collect();
    // The workload of today adds a manifest, and deletes the note about one with the manifest.
    let known = [Kind::Repository, Kind::Manifest, Kind::Untagged, Kind::Node, Kind::Delivered];
    assert_eq!(differ, known.map(|kind| kind as u8).into());
    let waiting = store.outbox(9).unwrap();
    let refusals = store.refused_changes(9).unwrap();
    assert_eq!((changed.len(), refusals.len()), (2, 1));
    let entries = waiting.iter().map(|(_, entry)| entry).chain([&refusals[0].1.entry]);
    for entry in entries {
        assert_eq!(entry.id.incarnation, 0, "{entry:?}");
        assert_eq!(entry.repository.as_str(), "app");
    }
    assert_eq!(refusals[0].1.reason, "no");
}

#[test]
fn a_newer_store_is_served_read_only_and_left_as_it_is() {
    let mut files = golden(GOLDEN);
    files[0].1 = b"skerry store format 7, readable from 1\n".to_vec();
    let disk = place(&files);
    let before = disk.calls();
    let (store, recovery) = open_memory(&disk).unwrap();
    assert!(recovery.read_only && store.read_only(), "{recovery}");
    let app: RepositoryName = "app".parse().unwrap();
    assert!(!store.tags(&app, None, 10).unwrap().is_empty());
    assert_eq!(put(&store, 1, "no"), Err(StoreError::NewerFormat(7)));
    block_on(async {
        let started = store.upload_start(&app, "").await.map(drop);
        assert_eq!(started, Err(StoreError::NewerFormat(7)));
        let digest = digest_of(b"x");
        assert!(store.blob_put(&digest, b"x".to_vec()).await.is_err());
        assert!(store.blob_open(&digest).await.unwrap().is_none());
        store.settle().await.unwrap();
        store.close().await.unwrap();
    });
    store.sweep_uploads();
    drop(store);
    assert_eq!(disk.calls(), before, "something was changed");

    let mut files = golden(GOLDEN);
    files[0].1 = b"skerry store format 7\n".to_vec();
    let refused = open_memory(&place(&files)).map(|_| ()).unwrap_err();
    assert!(matches!(refused, OpenError::NewerFormat { .. }), "{refused}");
}

#[test]
fn f201_a_backup_is_restored_with_a_new_epoch_and_an_unfinished_restore_is_noticed() {
    let disk = MemoryDisk::new();
    let (store, _) = open_small(&disk);
    let expected = churn(&store, 0, 400);
    let content = b"some content".to_vec();
    let digest = digest_of(&content);
    block_on(async {
        let lease = store.blob_put(&digest, content.clone()).await.unwrap();
        store.link_blob(&"app".parse().unwrap(), &lease, content.len() as u64).await.unwrap();
    });
    // As `skerry backup` does, with changes going on.
    let taken = block_on(store.begin_backup()).unwrap();
    let refused = block_on(store.collect_garbage(OPTIONS));
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    churn(&store, 400, 800);
    for directory in ["/b/journal", "/b/identity"] {
        disk.create_dir_all(Path::new(directory)).unwrap();
    }
    let piece = block_on(taken.content(&digest)).unwrap().unwrap();
    disk.create_dir_all(Path::new("/b").join(&piece.name).parent().unwrap()).unwrap();
    for file in taken.files.iter().chain([&piece]) {
        let mut bytes = vec![0; usize::try_from(file.len).unwrap()];
        file.file.read_exact_at(&mut bytes, 0).unwrap();
        let target = disk.create(&Path::new("/b").join(&file.name)).unwrap();
        target.write_all_at(&bytes, 0).unwrap();
    }
    Layout::new("/b").write_format(&disk, taken.format).unwrap();
    let names_epoch = |file: &BackupFile| file.name.ends_with("feed-epoch");
    assert!(!taken.files.iter().any(names_epoch), "what is restored begins a new one");
    drop(taken);
    assert!(block_on(store.collect_garbage(OPTIONS)).is_ok());

    let sys = sys_on(&disk);
    let restore = |to: &str| backup::restore(&sys, Path::new("/b"), Path::new(to));
    let refused = restore("/s").unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    let restored = restore("/r").unwrap();
    assert_eq!((restored.blobs, restored.missing), (1, 0));
    let refused = restore("/r").unwrap_err();
    assert!(refused.to_string().contains("empty"), "{refused}");
    let open = |path: &str| Store::open(sys_on(&disk), options(Path::new(path), IndexKind::Map));
    let (again, recovery) = open("/r").unwrap();
    assert!(recovery.damage.is_empty() && !recovery.new, "{recovery}");
    assert_eq!(rows(&again), expected);
    assert_eq!(block_on(again.blob_read(&digest)), Ok(Some(content)));
    assert_ne!(again.head().epoch, store.head().epoch);
    let report = block_on(again.fsck(true)).unwrap();
    assert_eq!((report.links, report.blobs_hashed, report.problems), (1, 1, 0), "{report:?}");
    drop(again);

    // A restore that was cut short is not taken for a store, and can be done again.
    let marker = disk.create(Path::new("/r/restoring")).unwrap();
    drop(marker);
    let refused = open("/r").map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("skerry restore"), "{refused}");
    assert_eq!(restore("/r").unwrap().missing, 0);
    assert_eq!(rows(&open("/r").unwrap().0), expected);

    // What is damaged in the backup is not restored, and is told.
    overwrite(&disk, &Path::new("/b").join(&piece.name), b"some confetti");
    let restored = restore("/q").unwrap();
    let named = BTreeMap::from([(digest.clone(), BTreeSet::from(["app".parse().unwrap()]))]);
    assert_eq!((restored.missing, restored.named), (1, named));
    let (store, _) = open("/q").unwrap();
    let report = block_on(store.fsck(true)).unwrap();
    assert_eq!((report.problems, store.damaged(9)), (1, vec![digest]), "{report:?}");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a backup lies on a real disk")]
fn a_backup_that_cannot_be_read_is_not_restored_without_what_is_in_it() {
    let dir = TempDir::new("unreadable");
    let (state, target) = (dir.path().join("state"), dir.path().join("target"));
    let sys = Sys::real(Spawner::new());
    let (store, _) = Store::open(sys.clone(), options(&state, IndexKind::Map)).unwrap();
    let content = b"some content".to_vec();
    let digest = digest_of(&content);
    block_on(async {
        let lease = store.blob_put(&digest, content.clone()).await.unwrap();
        store.link_blob(&"app".parse().unwrap(), &lease, content.len() as u64).await.unwrap();
        store.close().await.unwrap();
    });
    drop(store);
    // Not the file is missing: the way to it is damaged.
    let blob = Layout::new(&state).blob(&digest);
    std::fs::remove_dir_all(blob.parent().unwrap()).unwrap();
    std::fs::write(blob.parent().unwrap(), b"no directory").unwrap();
    let failed = backup::restore(&sys, &state, &target).map(|restored| restored.missing);
    assert!(matches!(&failed, Err(OpenError::Io { .. })), "{failed:?}");
}

//! Garbage collection against pushes, heads, mounts, syncs and restarts.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::store::content::leases::short;
use crate::store::gc::{GcOptions, GcReport};
use crate::store::paged::PAGE_ROWS;
use crate::store::registry::manifests::testing::child;
use crate::store::replica::outbox::Origin;
use crate::store::rows::upkeep::LinkId;
use crate::sys::turn::testing::measure;
use crate::types::digest::Algorithm;
use crate::types::{Manifest, Tag, UnixSeconds, media};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const OPTIONS: GcOptions = GcOptions { grace: HOUR, untagged: None, dry_run: false };

/// A clock that the test moves; the wall clock jumps about.
#[derive(Default)]
pub(super) struct Hands {
    seconds: AtomicU64,
    pub(super) wall: AtomicU64,
    /// Seconds that pass each time somebody looks at the clock: a slow machine.
    per_look: AtomicU64,
}

impl Hands {
    pub(super) fn pass(&self, time: Duration) {
        self.seconds.fetch_add(time.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn wall(&self) -> Option<UnixSeconds> {
        Some(UnixSeconds(self.wall.load(Ordering::Relaxed)))
    }

    fn monotonic(&self) -> Duration {
        let step = self.per_look.load(Ordering::Relaxed);
        Duration::from_secs(self.seconds.fetch_add(step, Ordering::Relaxed))
    }
}

mod empty;
mod faults;

struct Bench {
    store: Store,
    hands: Arc<Hands>,
    disk: MemoryDisk,
}

impl Bench {
    fn new() -> Bench {
        Bench::on(MemoryDisk::new())
    }

    fn on(disk: MemoryDisk) -> Bench {
        let hands = Arc::new(Hands::default());
        let sys = Sys { clock: hands.clone(), ..sys_on(&disk) };
        let store = Store::open(sys, options(Path::new("/s"), IndexKind::Map)).unwrap().0;
        Bench { store, hands, disk }
    }

    fn gc(&self) -> GcReport {
        block_on(self.store.collect_garbage(OPTIONS)).unwrap()
    }

    /// A run now and one when all grace is over; what the second did.
    fn gc_twice(&self) -> GcReport {
        self.hands.pass(2 * HOUR);
        self.gc();
        self.hands.pass(2 * HOUR);
        self.gc()
    }

    fn has(&self, digest: &Digest) -> bool {
        self.disk.exists(&Layout::new("/s").blob(digest)).unwrap()
    }
}

/// On a disk that takes longer for a write than the grace is, a collection may run twice between
/// two steps of a push or of a sync.
#[test]
fn f206_content_that_somebody_uses_stays_however_long_each_step_takes() {
    let bench = Bench::new();
    let (store, app) = (&bench.store, name("app"));
    let (layer, other) = (digest_of(b"layer"), digest_of(b"other"));
    let lease = block_on(store.blob_put(&layer, b"layer".to_vec())).unwrap();
    drop(block_on(store.blob_put(&other, b"other".to_vec())).unwrap());
    assert_eq!(bench.gc_twice().blobs_removed, 1);
    assert!(bench.has(&layer) && !bench.has(&other));
    block_on(store.link_blob(&app, &lease, 5)).unwrap();
    let text = format!(
        r#"{{"schemaVersion":2,"layers":[],
            "config":{{"mediaType":"a/b","digest":"{layer}","size":5}}}}"#
    );
    let (manifest, put) = put_of(&text);
    let content = block_on(store.blob_put(&manifest, text.into_bytes())).unwrap();
    drop(lease);
    // Who reads holds it too, and so may link it elsewhere.
    let open = block_on(store.blob_open(&layer)).unwrap().unwrap();
    block_on(store.unlink_blob(&app, &layer)).unwrap();
    assert_eq!(bench.gc_twice().blobs_removed, 0);
    block_on(store.link_blob(&app, &open.lease, 5)).unwrap();
    drop(open);
    let put = PutManifest { content, tags: vec!["v1".parse().unwrap()], ..put };
    assert_eq!(block_on(store.put_manifest(&app, put)), Ok(PutOutcome::Stored));
    assert_eq!(bench.gc_twice().blobs_removed, 0);
    assert!(bench.has(&layer) && bench.has(&manifest));
}

pub(super) fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    Digest::from_raw(Algorithm::Sha256, hash.as_ref()).unwrap()
}

/// Stores a blob and links it.
fn blob(store: &Store, repository: &str, bytes: &[u8]) -> Digest {
    let digest = digest_of(bytes);
    let lease = block_on(store.blob_put(&digest, bytes.to_vec())).unwrap();
    block_on(store.link_blob(&name(repository), &lease, bytes.len() as u64)).unwrap();
    digest
}

/// Puts an image of these layers; its digest, or what is missing.
fn image(
    store: &Store,
    repository: &str,
    layers: &[Digest],
    tags: &[&str],
) -> Result<Digest, PutOutcome> {
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| format!(r#"{{"mediaType":"application/y","digest":"{layer}","size":1}}"#))
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"config":{0},"layers":[{1}]}}"#,
        layers[0],
        layers.join(",")
    );
    let (digest, put) = put_of(&text);
    let content = block_on(store.blob_put(&digest, text.into_bytes())).unwrap();
    let put =
        PutManifest { content, tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(), ..put };
    match block_on(store.put_manifest(&name(repository), put)).unwrap() {
        PutOutcome::Stored => Ok(digest),
        missing => Err(missing),
    }
}

/// An image's digest, and how it is pushed, without what holds its bytes.
fn put_of(text: &str) -> (Digest, PutManifest) {
    let digest = digest_of(text.as_bytes());
    let put = PutManifest {
        content: Lease::unseen(&digest),
        media_type: media::OCI_MANIFEST.to_owned(),
        bytes_len: text.len() as u64,
        parsed: Manifest::parse(Some(media::OCI_MANIFEST), text.as_bytes()).unwrap(),
        tags: Vec::new(),
        precondition: Precondition::None,
        required: Required::All,
        origin: Origin::Client,
    };
    (digest, put)
}

fn delete(store: &Store, repository: &str, digest: &Digest) {
    block_on(store.delete_manifest(&name(repository), digest, &Origin::Client)).unwrap();
}

#[test]
fn f141_unreferenced_content_goes_after_the_grace_and_the_rest_stays() {
    let bench = Bench::new();
    let store = &bench.store;
    let (shared, own) = (blob(store, "app", b"shared"), blob(store, "app", b"own"));
    let first = image(store, "app", std::slice::from_ref(&shared), &["v1"]).unwrap();
    let second = image(store, "app", &[shared.clone(), own.clone()], &["v2"]).unwrap();
    assert_eq!(bench.gc_twice().blobs_removed, 0);
    delete(store, "app", &second);
    let report = bench.gc();
    assert_eq!((report.blobs_removed, report.blobs_waiting), (0, 2), "{report:?}");
    let waiting = report.bytes_waiting;
    assert!(waiting > b"own".len() as u64, "{report:?}");
    assert!(bench.has(&own) && bench.has(&second));
    bench.hands.pass(HOUR / 2);
    assert_eq!(bench.gc().blobs_removed, 0, "the grace is not over");
    bench.hands.pass(HOUR);
    let dry = block_on(store.collect_garbage(GcOptions { dry_run: true, ..OPTIONS })).unwrap();
    assert_eq!((dry.blobs_removed, dry.links_removed), (2, 1), "{dry:?}");
    assert!(bench.has(&own), "a dry run removes nothing");
    let report = bench.gc();
    assert_eq!((report.blobs_removed, report.links_removed), (2, 1), "{report:?}");
    assert_eq!((report.blobs_kept, report.blobs_waiting), (2, 0));
    assert!(report.bytes_kept > b"shared".len() as u64, "{report:?}");
    assert_eq!((report.bytes_removed, report.bytes_waiting), (waiting, 0));
    assert!(!bench.has(&own) && !bench.has(&second));
    assert!(bench.has(&shared) && bench.has(&first));
    assert!(!store.blob_linked(&name("app"), &own).unwrap());
    assert!(store.blob_linked(&name("app"), &shared).unwrap());
    assert_eq!(bench.disk.list(&Layout::new("/s").uploads()).unwrap(), [], "nothing lies about");
}

#[test]
fn f141_a_file_that_the_disk_does_not_let_go_keeps_no_other_one() {
    let bench = Bench::new();
    let store = &bench.store;
    let digests = [b"a", b"b", b"c"].map(|bytes| blob(store, "app", bytes));
    let path = |number: usize| Layout::new("/s").blob(&digests[number]);
    bench.disk.fail_renames(&path(0));
    bench.disk.hide(&path(1));
    let report = bench.gc_twice();
    assert_eq!((report.blobs_removed, report.blobs_waiting), (1, 1), "{report:?}");
    assert!(bench.has(&digests[0]) && bench.has(&digests[1]) && !bench.has(&digests[2]));
}

/// A device that is never on for as long as the grace.
#[test]
fn f141_f206_the_grace_counts_over_restarts() {
    let (disk, minutes) = (MemoryDisk::new(), |count: u64| Duration::from_secs(60 * count));
    let mut bench = Bench::on(disk.clone());
    let (used, unused) = (blob(&bench.store, "app", b"used"), blob(&bench.store, "app", b"unused"));
    let run = |bench: &Bench, at: u64| {
        bench.hands.seconds.store(60 * at, Ordering::Relaxed);
        bench.hands.wall.store(4_000_000_000 * (at % 2), Ordering::Relaxed);
        let report = bench.gc();
        (report.blobs_removed, report.ripe)
    };
    let restart = |bench: &mut Bench| {
        block_on(bench.store.close()).unwrap();
        *bench = Bench::new();
        *bench = Bench::on(disk.clone());
    };
    assert_eq!(run(&bench, 30), (0, Some(HOUR)));
    bench.hands.pass(minutes(10));
    restart(&mut bench);
    assert_eq!(run(&bench, 0), (0, Some(minutes(50))));
    bench.hands.pass(minutes(40));
    // Whoever asks for it has time to refer to it, also after a stop.
    assert!(bench.store.blob_link(&name("app"), &used).unwrap().is_some());
    bench.hands.pass(minutes(9));
    restart(&mut bench);
    assert_eq!(run(&bench, 0), (0, Some(minutes(15))), "the first quarter after a start is quiet");
    assert_eq!(run(&bench, 14), (0, Some(minutes(1))));
    assert_eq!(run(&bench, 16), (1, Some(minutes(35))));
    assert!(bench.has(&used) && !bench.has(&unused));
    // What a power cut takes of the time lets content stay for longer.
    bench.hands.pass(minutes(10));
    let cut = Bench::on(bench.disk.after_power_cut());
    assert_eq!(run(&cut, 0), (0, Some(minutes(35))));
}

#[test]
fn f141_a_damaged_note_of_what_is_unreferenced_counts_as_none() {
    let disk = MemoryDisk::new();
    let path = Path::new("/s/garbage");
    let bench = Bench::on(disk.clone());
    let digest = blob(&bench.store, "app", b"own");
    bench.gc();
    block_on(bench.store.close()).unwrap();
    drop(bench);
    let mut note = disk.read(path, 1 << 20).unwrap();
    let last = note.len() - 1;
    note[last] ^= 1;
    disk.replace(path, &note).unwrap();
    let bench = Bench::on(disk.clone());
    bench.hands.pass(2 * HOUR);
    assert_eq!((bench.gc().blobs_removed, bench.gc().ripe), (0, Some(HOUR)));
    bench.hands.pass(2 * HOUR);
    assert_eq!(bench.gc().blobs_removed, 1);
    assert!(!bench.has(&digest) && !disk.exists(path).unwrap(), "there is nothing to note");
}

#[test]
fn whoever_looked_at_content_can_still_refer_to_it() {
    let bench = Bench::new();
    let store = &bench.store;
    let (head, mount) = (blob(store, "app", b"head"), blob(store, "app", b"mount"));
    let (pushed, lost) = (blob(store, "app", b"pushed again"), blob(store, "app", b"lost"));
    bench.hands.pass(2 * HOUR);
    bench.gc();
    bench.hands.pass(2 * HOUR);
    // As HEAD, mount and a push of what is there already do.
    assert!(store.blob_linked(&name("app"), &head).unwrap());
    assert!(block_on(store.mount_blob(&name("app"), &name("other"), &mount)).unwrap());
    blob(store, "app", b"pushed again");
    let report = bench.gc();
    assert_eq!((report.blobs_removed, report.links_removed), (1, 1), "{report:?}");
    assert!(!bench.has(&lost));
    bench.hands.pass(HOUR / 2);
    image(store, "app", &[head, pushed], &["v1"]).unwrap();
    image(store, "other", std::slice::from_ref(&mount), &["v1"]).unwrap();
    let report = bench.gc_twice();
    assert_eq!(report.links_removed + report.blobs_removed, 0, "the marks were overtaken");
    assert_eq!(bench.gc_twice().blobs_kept, 5);
    assert_eq!(store.blob_linked(&name("app"), &mount), Ok(false), "the source's link went");
}

/// What a push relies on: content that can be referred to is there.
fn assert_whole(bench: &Bench, digest: &Digest, what: &str) {
    let linked = bench.store.get::<BlobLink>(&blob_key(&name("app"), digest));
    assert!(linked.unwrap().is_none() || bench.has(digest), "{what}: a link without its file");
}

#[test]
fn f206_a_layer_touched_just_under_a_grace_ago_keeps_link_and_file_in_a_slow_run() {
    // The grace of the touch ends at each step of the run in turn.
    for early in (0..6000).step_by(300) {
        let bench = Bench::new();
        let layer = blob(&bench.store, "app", b"layer");
        bench.hands.pass(2 * HOUR);
        bench.gc();
        bench.hands.pass(HOUR);
        assert!(bench.store.blob_linked(&name("app"), &layer).unwrap());
        bench.hands.pass(HOUR - Duration::from_secs(early.min(3599)));
        bench.hands.per_look.store(600, Ordering::Relaxed);
        bench.gc();
        bench.hands.per_look.store(0, Ordering::Relaxed);
        assert_whole(&bench, &layer, &format!("{early} s early"));
    }
}

#[test]
fn f206_a_layer_that_was_garbage_and_is_pushed_again_keeps_its_file_with_its_link() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    block_on(store.unlink_blob(&name("app"), &layer)).unwrap();
    bench.hands.pass(2 * HOUR);
    assert_eq!(bench.gc().blobs_waiting, 1);
    blob(store, "app", b"layer");
    bench.hands.pass(2 * HOUR);
    let report = bench.gc();
    assert_whole(&bench, &layer, "the link is new to the collection");
    assert_eq!((report.blobs_removed, report.blobs_waiting), (0, 1), "{report:?}");
    image(store, "app", std::slice::from_ref(&layer), &["v1"]).unwrap();
    assert_eq!(bench.gc_twice().blobs_removed, 0);
    assert!(bench.has(&layer));
}

/// A manifest's row as earlier versions wrote it.
#[derive(Serialize)]
struct EarlierRow {
    media_type: String,
    size: u64,
    config_media_type: Option<String>,
    artifact_type: Option<String>,
    subject: Option<Digest>,
    annotations: BTreeMap<String, String>,
    blobs: Vec<Digest>,
    children: Vec<Digest>,
    content_size: u64,
    pushed: UnixSeconds,
}

impl<'de> Deserialize<'de> for EarlierRow {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<EarlierRow, D::Error> {
        unreachable!("it is only written")
    }
}

impl Row for EarlierRow {
    const VERSION: u8 = 1;
}

/// Lets the row of a manifest be as an earlier version wrote it.
fn write_as_earlier(store: &Store, repository: &str, digest: &Digest) {
    let row = store.manifest(&name(repository), digest).unwrap().unwrap();
    let earlier = EarlierRow {
        media_type: row.media_type,
        size: row.size,
        config_media_type: row.config_media_type,
        artifact_type: row.artifact_type,
        subject: row.subject,
        annotations: row.annotations,
        blobs: row.blobs,
        children: row.children,
        content_size: row.content_size,
        pushed: row.pushed,
    };
    let key = manifest_key(&name(repository), digest);
    block_on(store.commit(move |txn| txn.put(key, &earlier))).unwrap();
    assert_eq!(store.manifest(&name(repository), digest).unwrap().unwrap().elsewhere, None);
}

#[test]
fn f206_layers_that_may_lie_elsewhere_are_kept_also_in_a_store_of_an_earlier_version() {
    let types = [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    ];
    for earlier in [false, true] {
        let bench = Bench::new();
        let store = &bench.store;
        let (config, own) = (blob(store, "app", b"config"), blob(store, "app", b"own"));
        let layers = [blob(store, "app", b"foreign"), blob(store, "app", b"nondistributable")];
        let urls = blob(store, "app", b"urls");
        let named = |media_type: &str, digest: &Digest, more: &str| {
            format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":1{more}}}"#)
        };
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{},{},{}]}}"#,
            named("a/b", &config, ""),
            named("a/b", &own, ""),
            named(types[0], &layers[0], r#","urls":["https://example.com/layer"]"#),
            named(types[1], &layers[1], ""),
            named("a/b", &urls, r#","urls":["https://example.com/layer"]"#)
        );
        let (manifest, put) = put_of(&text);
        block_on(store.blob_put(&manifest, text.into_bytes())).unwrap();
        block_on(store.put_manifest(&name("app"), put)).unwrap();
        if earlier {
            write_as_earlier(store, "app", &manifest);
            // What cannot be read might name anything.
            let file = Layout::new("/s").blob(&manifest);
            let bytes = content(&bench.disk, &file);
            overwrite(&bench.disk, &file, b"damaged");
            let waste = blob(store, "app", b"waste");
            assert_eq!(bench.gc_twice().links_removed, 0);
            overwrite(&bench.disk, &file, &bytes);
            assert_eq!(bench.gc_twice().links_removed, 1);
            assert!(!bench.has(&waste));
        }
        assert_eq!(bench.gc_twice().blobs_removed, 0, "{earlier}");
        for digest in layers.iter().chain([&config, &own, &urls, &manifest]) {
            assert!(bench.has(digest), "{earlier}");
        }
        let row = store.manifest(&name("app"), &manifest).unwrap().unwrap();
        assert_eq!(row.elsewhere.map(|named| named.len()), Some(3), "{earlier}");
        delete(store, "app", &manifest);
        assert_eq!(bench.gc_twice().blobs_removed, 6, "{earlier}");
    }
}

#[test]
fn f209_indexes_that_name_the_next_one_twice_are_looked_at_once_each() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    let mut below = image(store, "app", std::slice::from_ref(&layer), &[]).unwrap();
    let mut pinned = vec![layer, below.clone()];
    for level in 0..30 {
        let entry =
            format!(r#"{{"mediaType":"{}","digest":"{below}","size":1}}"#, media::OCI_INDEX);
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","annotations":{{"level":"{level}"}},
                "manifests":[{entry},{entry}]}}"#,
            media::OCI_INDEX
        );
        below = digest_of(text.as_bytes());
        block_on(store.blob_put(&below, text.into_bytes())).unwrap();
        pinned.push(below.clone());
    }
    delete(store, "app", &pinned[1]);
    put_refusal(store, &below);
    assert_eq!(bench.gc_twice().blobs_removed, 0);
    assert!(pinned.iter().all(|digest| bench.has(digest)));
}

#[test]
fn what_waits_for_the_parent_is_pinned() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    let manifest = image(store, "app", std::slice::from_ref(&layer), &["v1"]).unwrap();
    let refused_key = put_refusal(store, &manifest);
    delete(store, "app", &manifest);
    assert_eq!(bench.gc_twice().blobs_removed, 0);
    assert!(bench.has(&layer) && bench.has(&manifest));
    block_on(store.commit(move |txn| {
        txn.delete(refused_key)?;
        Ok(())
    }))
    .unwrap();
    assert_eq!(bench.gc_twice().blobs_removed, 2);
}

#[test]
fn what_a_push_of_an_unknown_type_names_is_pinned_with_what_that_names() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    let below = image(store, "app", std::slice::from_ref(&layer), &[]).unwrap();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.example.unknown",
            "layers":[{{"mediaType":"{}","digest":"{below}","size":1}}]}}"#,
        media::OCI_MANIFEST
    );
    let unknown = digest_of(text.as_bytes());
    block_on(store.blob_put(&unknown, text.into_bytes())).unwrap();
    delete(store, "app", &below);
    put_refusal(store, &unknown);
    assert_eq!(bench.gc_twice().blobs_removed, 0);
    assert!([&layer, &below, &unknown].into_iter().all(|digest| bench.has(digest)));
}

#[test]
fn what_is_fetched_is_kept_until_its_manifest_is_here() {
    let bench = Bench::new();
    let (store, app) = (&bench.store, name("app"));
    let (layer, root) = (digest_of(b"layer"), digest_of(b"root"));
    block_on(store.blob_put(&layer, b"layer".to_vec())).unwrap();
    store.keep_fetched(&app, &root, std::iter::once(layer.clone()));
    // That something did not fit does not make the disk full.
    assert_eq!(block_on(store.expect_space(1 << 60)), Err(StoreError::Full));
    assert_eq!(bench.gc_twice().blobs_removed, 0);
    assert!(bench.has(&layer));
    store.release_fetched(&app, &root);
    bench.gc_twice();
    assert!(!bench.has(&layer));
}

/// Lets a refused push of a manifest of `app` wait; the key of its row.
fn put_refusal(store: &Store, manifest: &Digest) -> Vec<u8> {
    let Origin::Child(delivery) = child(1) else { unreachable!() };
    let change = outbox::OutboxChange::ManifestAdded { digest: manifest.clone() };
    let entry = outbox::OutboxEntry {
        id: delivery.id,
        repository: name("app"),
        change,
        unheard: Vec::new(),
        offered: crate::types::Offered::No,
        instead_of: vec![],
        anew: false,
    };
    let (reason, at) = ("no".to_owned(), UnixSeconds(1));
    let state = refused::RefusalState::Stands;
    let refusal = refused::RefusedChange { entry, reason, at, state, again: 0 };
    let key = rows::key(rows::Kind::DeadLetter, &[&1_u64.to_be_bytes()]);
    let kept = key.clone();
    block_on(store.commit(move |txn| txn.put(kept, &refusal))).unwrap();
    key
}

#[test]
fn f206_what_waits_for_the_parent_is_marked_in_parts() {
    let bench = Bench::new();
    let store = &bench.store;
    let layers: Vec<Digest> = (0..20).map(|n| blob(store, "app", &[n; 9])).collect();
    let manifest = image(store, "app", &layers, &["v1"]).unwrap();
    put_refusal(store, &manifest);
    delete(store, "app", &manifest);
    let links = store.look_up(|index| index.scan(&[rows::Kind::Blob as u8], None, 100)).unwrap();
    let id = |key: &[u8]| LinkId::of(key, &split_key(key).unwrap().1);
    let unused = links.into_iter().map(|(key, _)| (id(&key), Duration::ZERO)).collect();
    let marked =
        |part, parts| block_on(marks::marked(store, &unused, part, parts)).unwrap().unwrap();
    let (whole, even, odd) = (marked(0, 1), marked(0, 2), marked(1, 2));
    assert!(whole.len() > layers.len(), "the manifest and what it names");
    assert!(even.iter().all(|digest| digest % 2 == 0) && odd.iter().all(|digest| digest % 2 == 1));
    assert_eq!(even.len() + odd.len(), whole.len());
}

/// However many changes wait, no more than a page of them is in memory.
#[test]
fn f206_f209_the_last_of_very_many_changes_that_wait_keeps_what_it_brings() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    let manifest = image(store, "app", std::slice::from_ref(&layer), &["v1"]).unwrap();
    let refused = put_refusal(store, &manifest);
    delete(store, "app", &manifest);
    let row = store.get::<refused::RefusedChange>(&refused).unwrap().unwrap();
    let marks = || block_on(marks::marked(store, &BTreeMap::new(), 0, 1)).unwrap().unwrap();
    let of = |number: u64, kind| rows::key(kind, &[&number.to_be_bytes()]);
    for kind in [rows::Kind::DeadLetter, rows::Kind::Outbox] {
        let (refused, row) = (refused.clone(), row.clone());
        block_on(store.commit(move |txn| {
            txn.delete(refused)?;
            for number in 2..=600_u64 {
                let digest = match number {
                    600 => row.entry.brings().cloned().unwrap(),
                    _ => digest_of(&number.to_be_bytes()),
                };
                let change = outbox::OutboxChange::ManifestAdded { digest };
                let entry = outbox::OutboxEntry { change, ..row.entry.clone() };
                match kind {
                    rows::Kind::Outbox => txn.put(of(number, kind), &entry)?,
                    _ => {
                        let refusal = refused::RefusedChange { entry, ..row.clone() };
                        txn.put(of(number, kind), &refusal)?;
                    }
                }
            }
            Ok(())
        }))
        .unwrap();
        assert!(marks().binary_search(&short(&manifest)).is_ok(), "{kind:?}");
        let clear = move |txn: &mut Txn<'_>| (2..=600).try_for_each(|n| txn.delete(of(n, kind)));
        block_on(store.commit(clear)).unwrap();
        assert!(marks().binary_search(&short(&manifest)).is_err(), "{kind:?}");
    }
}

/// Symptom: a collection held a thread of the pool until it had read all manifests of a repository,
/// all links and all files.
#[test]
fn f209_a_collection_reads_a_page_at_a_time() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    let manifest = image(store, "app", std::slice::from_ref(&layer), &["v1"]).unwrap();
    let app = name("app");
    let row = store.manifest(&app, &manifest).unwrap().unwrap();
    for page in 0..4_u64 {
        let (app, row) = (app.clone(), row.clone());
        let put = store.commit(move |txn| {
            for number in 0..PAGE_ROWS as u64 {
                let digest = digest_of(&[page, number].map(u64::to_be_bytes).concat());
                txn.put(manifest_key(&app, &digest), &row)?;
                txn.put(blob_key(&app, &digest), &BlobLink { size: 1 })?;
                txn.put(untagged_key(&app, &digest), &Untagged { since: UnixSeconds(1), on: 1 })?;
            }
            Ok(())
        });
        block_on(put).unwrap();
    }
    let policy = GcOptions { untagged: Some(HOUR), dry_run: true, ..OPTIONS };
    let (report, longest) = block_on(measure(store.collect_garbage(policy)));
    assert!(report.unwrap().dry_run);
    // Of each manifest its row, that of its subject and its note.
    assert!(longest.job.rows <= 3 * PAGE_ROWS as u64, "{longest:?}");
    assert!(longest.turn.rows <= PAGE_ROWS as u64, "{longest:?}");
}

#[test]
fn manifests_without_a_tag_go_when_the_policy_says_so() {
    let bench = Bench::new();
    let store = &bench.store;
    let layer = blob(store, "app", b"layer");
    let tagged = image(store, "app", std::slice::from_ref(&layer), &["v1"]).unwrap();
    let loose = image(store, "app", &[layer.clone(), layer.clone()], &[]).unwrap();
    let policy = GcOptions { untagged: Some(24 * HOUR), ..OPTIONS };
    let gc = |options| block_on(store.collect_garbage(options)).unwrap().manifests_removed;
    let day = |n: u64| {
        bench.hands.wall.store(n * 86_400, Ordering::Relaxed);
        bench.hands.pass(24 * HOUR);
    };
    day(10);
    assert_eq!((gc(policy), gc(policy)), (0, 0), "seen for the first time");
    // A tag for a while starts the time anew.
    let tag: Tag = "v2".parse().unwrap();
    let (app, none) = (name("app"), Precondition::None);
    block_on(store.set_tag(&app, &tag, &loose, none.clone(), &Origin::Client)).unwrap();
    day(12);
    assert_eq!(gc(policy), 0);
    block_on(store.delete_tag(&app, &tag, none, &Origin::Client)).unwrap();
    day(14);
    assert_eq!(gc(policy), 0);
    day(15);
    assert_eq!(gc(OPTIONS), 0, "without the policy nothing goes");
    assert_eq!(gc(policy), 1);
    assert!(store.manifest(&app, &tagged).unwrap().is_some());
    assert!(store.manifest(&app, &loose).unwrap().is_none());
    assert!(rows_of_kind(store, rows::Kind::Untagged) == 0, "the note goes with the manifest");
}

#[test]
fn f206_since_when_a_manifest_has_no_tag_goes_with_the_manifest() {
    let bench = Bench::new();
    let store = &bench.store;
    let policy = GcOptions { untagged: Some(24 * HOUR), ..OPTIONS };
    let gc = || block_on(store.collect_garbage(policy)).unwrap().manifests_removed;
    let day = |n: u64| {
        bench.hands.wall.store(n * 86_400, Ordering::Relaxed);
        bench.hands.pass(24 * HOUR);
    };
    let layer = blob(store, "app", b"layer");
    let push = || image(store, "app", std::slice::from_ref(&layer), &[]).unwrap();
    for how in ["the manifest", "the repository"] {
        let loose = push();
        day(10);
        assert_eq!((gc(), rows_of_kind(store, rows::Kind::Untagged)), (0, 1));
        match how {
            "the manifest" => delete(store, "app", &loose),
            _ => block_on(store.delete_repository(&name("app"))).unwrap(),
        }
        assert_eq!(rows_of_kind(store, rows::Kind::Untagged), 0, "{how} was deleted");
        blob(store, "app", b"layer");
        assert_eq!(push(), loose);
        day(20);
        assert_eq!(gc(), 0, "pushed again after {how} was deleted, the time starts anew");
        delete(store, "app", &loose);
    }
    // An earlier version left such a note behind.
    let loose = digest_of(b"never pushed");
    let key = untagged_key(&name("app"), &loose);
    let note = Untagged { since: UnixSeconds(1), on: 1 };
    block_on(store.commit(move |txn| txn.put(key, &note))).unwrap();
    gc();
    assert_eq!(rows_of_kind(store, rows::Kind::Untagged), 0, "a note of nothing");
}

#[test]
fn f141_a_dry_run_writes_nothing() {
    let bench = Bench::new();
    let store = &bench.store;
    let policy = GcOptions { untagged: Some(24 * HOUR), ..OPTIONS };
    let gc = |options| block_on(store.collect_garbage(options)).unwrap();
    let layer = blob(store, "app", b"layer");
    let push = |n: usize| image(store, "app", &vec![layer.clone(); n], &[]).unwrap();
    let loose: Vec<Digest> = (1..4).map(push).collect();
    gc(policy);
    for (n, digest) in loose.iter().enumerate() {
        let (app, tag) = (name("app"), format!("v{n}").parse().unwrap());
        block_on(store.set_tag(&app, &tag, digest, Precondition::None, &Origin::Client)).unwrap();
    }
    // As an earlier version left them.
    let note = Untagged { since: UnixSeconds(1), on: 1 };
    for digest in loose.into_iter().chain([digest_of(b"never pushed")]) {
        let key = untagged_key(&name("app"), &digest);
        block_on(store.commit(move |txn| txn.put(key, &note))).unwrap();
    }
    let state = || (store.sequence(), rows_of_kind(store, rows::Kind::Untagged));
    let (before, notes) = state();
    assert_eq!(notes, 4);
    gc(GcOptions { dry_run: true, ..policy });
    assert_eq!(state(), (before, notes));
    gc(policy);
    assert_eq!(state(), (before + 2, 0), "one record for notes of nothing, one for those tagged");
}

fn rows_of_kind(store: &Store, kind: rows::Kind) -> usize {
    store.look_up(|index| index.scan(&[kind as u8], None, usize::MAX)).unwrap().len()
}

#[test]
fn f141_ten_thousand_pushes_against_collections_back_to_back_lose_nothing() {
    let disk = MemoryDisk::new();
    let store = Store::open(sys_on(&disk), options(Path::new("/s"), IndexKind::Map)).unwrap().0;
    let grace = Duration::from_millis(30);
    let done = Arc::new(AtomicBool::new(false));
    let collector = {
        let (store, done) = (store.clone(), done.clone());
        #[allow(clippy::disallowed_methods, reason = "a test makes its own threads")]
        std::thread::spawn(move || {
            let (mut removed, mut runs) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let report =
                    block_on(store.collect_garbage(GcOptions { grace, ..OPTIONS })).unwrap();
                removed += report.blobs_removed;
                runs += 1;
            }
            (removed, runs)
        })
    };
    let mut live: std::collections::VecDeque<(Digest, Vec<Digest>)> = Default::default();
    let mut retried = 0;
    for number in 0..10_000_u32 {
        // Layers come back after they became garbage.
        let layers = [format!("own {}", number % 500), format!("base {}", number % 7)];
        let tag = format!("t{}", number % 40);
        let (manifest, layers) = loop {
            let layers = layers.each_ref().map(|layer| blob(&store, "app", layer.as_bytes()));
            match image(&store, "app", &layers, &[&tag]) {
                Ok(manifest) => break (manifest, layers.to_vec()),
                // A push slower than the grace is told that it must send the layer again.
                Err(PutOutcome::BlobMissing(_)) => retried += 1,
                Err(other) => panic!("{other:?}"),
            }
        };
        live.retain(|(digest, _)| *digest != manifest);
        live.push_back((manifest, layers));
        if live.len() > 40 {
            let (old, _) = live.pop_front().unwrap();
            delete(&store, "app", &old);
        }
        if number % 499 == 0 {
            check(&store, &live);
        }
    }
    check(&store, &live);
    done.store(true, Ordering::Relaxed);
    let (removed, runs) = collector.join().unwrap();
    check(&store, &live);
    assert!(removed > 0 && runs > 10, "{removed} files went in {runs} runs");
    assert!(retried < 100, "{retried} pushes had to be repeated");
}

fn check<'a>(store: &Store, live: impl IntoIterator<Item = &'a (Digest, Vec<Digest>)>) {
    for (manifest, layers) in live {
        assert!(store.manifest(&name("app"), manifest).unwrap().is_some());
        for digest in layers.iter().chain([manifest]) {
            let bytes = block_on(store.blob_read(digest)).unwrap();
            assert!(bytes.is_some(), "{digest} was lost");
        }
        for layer in layers {
            assert!(store.blob_linked(&name("app"), layer).unwrap());
        }
    }
}

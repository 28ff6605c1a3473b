//! Every kind of file, damaged in every way: what is acknowledged is there or its absence is
//! told, and nothing wrong is ever handed out.

#![allow(clippy::disallowed_methods, reason = "tests damage real files")]

use std::collections::BTreeSet;
use std::fs;

use super::gc::{digest_of, name};
use super::*;
use crate::store::replica::outbox::Origin;
use crate::types::{Manifest, media};

type View = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    FlippedBit,
    Cut,
    ZeroedBlock,
    Deleted,
    Duplicated,
}

const HARMS: [Harm; 5] =
    [Harm::FlippedBit, Harm::Cut, Harm::ZeroedBlock, Harm::Deleted, Harm::Duplicated];

/// What became of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    /// Everything is there and right.
    Whole,
    /// All records are there; some content is out of service, and that is known.
    ContentOut,
    /// The last records are gone, and that is known.
    Behind,
    /// It does not open, and says why.
    Refused,
}

/// A state directory with all kinds of files, as a stop left it.
struct Base {
    dir: TempDir,
    view: View,
    history: Vec<View>,
    content: BTreeMap<Digest, Vec<u8>>,
}

fn view(store: &Store) -> View {
    store.look_up(|index| index.scan(&[], None, usize::MAX)).unwrap().into_iter().collect()
}

fn small(path: &Path, kind: IndexKind) -> StoreOptions {
    let mut options = options(path, kind);
    (options.segment_bytes, options.checkpoint_bytes_min) = (2000, 5000);
    options.retain_for_children = true;
    options
}

async fn fill(store: &Store, number: u32, content: &mut BTreeMap<Digest, Vec<u8>>) {
    let repository = name("app");
    let layer: Vec<u8> = format!("layer {number} ").bytes().cycle().take(40_000).collect();
    let digest = digest_of(&layer);
    let mut upload = store.upload_start(&repository, "").await.unwrap();
    upload.write(&layer).await.unwrap();
    let (lease, len) = upload.finish(&digest).await.unwrap();
    store.link_blob(&repository, &lease, len).await.unwrap();
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{digest}","size":40000}},
            "layers":[]}}"#
    );
    let bytes = text.into_bytes();
    let manifest = digest_of(&bytes);
    let lease = store.blob_put(&manifest, bytes.clone()).await.unwrap();
    let put = PutManifest {
        content: lease,
        media_type: media::OCI_MANIFEST.to_owned(),
        bytes_len: bytes.len() as u64,
        parsed: Manifest::parse(Some(media::OCI_MANIFEST), &bytes).unwrap(),
        tags: vec![format!("v{number}").parse().unwrap()],
        precondition: Precondition::None,
        required: Required::All,
        origin: Origin::Client,
    };
    assert_eq!(store.put_manifest(&repository, put).await, Ok(PutOutcome::Stored));
    content.insert(digest, layer);
    content.insert(manifest, bytes);
}

/// With a clean stop: sled and all. Without: the journal alone has to do.
fn base(clean: bool) -> Base {
    let dir = TempDir::new("corruption");
    let path = dir.path().join("base");
    let kind = if clean { IndexKind::Sled { cache: 1 << 20 } } else { IndexKind::Map };
    let (mut content, mut history) = (BTreeMap::new(), Vec::new());
    let sys = || Sys::real(Spawner::new());
    let (store, _) = Store::open(sys(), small(&path, kind)).unwrap();
    block_on(async {
        for number in 0..3 {
            fill(&store, number, &mut content).await;
        }
    });
    churn(&store, 0, 150);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = Store::open(sys(), small(&path, kind)).unwrap();
    for number in 0..60 {
        put(&store, number, &format!("later {number}")).unwrap();
        history.push(view(&store));
    }
    // An upload that is not finished.
    block_on(async {
        let mut upload = store.upload_start(&name("app"), "").await.unwrap();
        upload.write(&[7; 20_000]).await.unwrap();
        upload.pause().await.unwrap();
    });
    if clean {
        block_on(store.close()).unwrap();
    }
    let view = view(&store);
    drop(store);
    Base { dir, view, history, content }
}

/// Copies a directory with all that is in it.
pub(super) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
}

fn files(directory: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

/// The kind of a file; of many alike the first and the last stand for all.
fn kind(root: &Path, path: &Path, all: &[PathBuf]) -> Option<String> {
    let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
    let alike = |end: &str| -> Vec<&PathBuf> {
        all.iter()
            .filter(|p| p.starts_with(root.join("journal")) && p.to_string_lossy().ends_with(end))
            .collect()
    };
    let place = |end: &str, what: &str| {
        let all = alike(end);
        let first = all.first().is_some_and(|p| *p == path);
        let last = all.last().is_some_and(|p| *p == path);
        match (first, last) {
            (_, true) => Some(format!("last {what}")),
            (true, _) => Some(format!("first {what}")),
            _ => None,
        }
    };
    match name.split('/').next().unwrap_or_default() {
        "journal" if name.ends_with(".ckpt") => place(".ckpt", "checkpoint"),
        "journal" => place(".log", "segment"),
        "blobs" => Some(
            if fs::metadata(path).unwrap().len() > 10_000 { "layer" } else { "manifest" }
                .to_owned(),
        ),
        "index" => Some(format!(
            "index {}",
            name.split('/').nth(1).unwrap_or_default().split('.').next().unwrap_or_default()
        )),
        "uploads" if name.ends_with(".meta") => Some("upload's name".to_owned()),
        "uploads" => Some("upload".to_owned()),
        "identity" => Some(name),
        other => Some(other.to_owned()),
    }
}

fn harm(path: &Path, harm: Harm) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    match harm {
        Harm::FlippedBit if bytes.is_empty() => return,
        Harm::FlippedBit => bytes[middle] ^= 0x04,
        Harm::Cut => bytes.truncate(middle),
        Harm::ZeroedBlock => {
            let end = bytes.len().min(middle + 512);
            bytes[middle.saturating_sub(512)..end].fill(0);
        }
        Harm::Deleted => return fs::remove_file(path).unwrap(),
        Harm::Duplicated => {
            // Under the next name of its kind, where it has one.
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let next = match name.split_once('.') {
                Some((number, end)) if number.len() == 20 => {
                    format!("{:020}.{end}", number.parse::<u64>().unwrap() + 1)
                }
                _ => format!("{name}~"),
            };
            fs::copy(path, path.with_file_name(next)).unwrap();
            return;
        }
    }
    fs::write(path, bytes).unwrap();
}

fn outcome(base: &Base, state: &Path, index: IndexKind, what: &str) -> Outcome {
    let opened = Store::open(Sys::real(Spawner::new()), small(state, index));
    let (store, _) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            assert!(error.to_string().len() > 20, "{what}: {error}");
            return Outcome::Refused;
        }
    };
    let found = view(&store);
    if found != base.view {
        assert!(base.history.contains(&found), "{what}: rows that never were");
        let loss = store.loss().unwrap_or_else(|| panic!("{what}: nobody is told of a loss"));
        assert!(loss.contains("are lost"), "{what}: {loss}");
        return Outcome::Behind;
    }
    block_on(store.scrub(0)).unwrap();
    let mut out = 0;
    for (digest, expected) in &base.content {
        let read = block_on(async {
            let blob = store.blob_open(digest).await.unwrap()?;
            let mut bytes = vec![0; usize::try_from(blob.len).unwrap()];
            blob.file.read_exact_at(&mut bytes, 0).ok().map(|()| bytes)
        });
        match read {
            Some(bytes) => assert!(bytes == *expected, "{what}: wrong bytes of {digest}"),
            None => out += 1,
        }
    }
    assert_eq!(out, store.damaged_count(), "{what}: what is out of service is known");
    put(&store, 900, "life goes on").unwrap_or_else(|error| panic!("{what}: {error}"));
    if out > 0 { Outcome::ContentOut } else { Outcome::Whole }
}

fn matrix(clean: bool) -> BTreeMap<String, Vec<(String, Outcome)>> {
    let base = base(clean);
    let root = base.dir.path().join("base");
    let state = base.dir.path().join("state");
    let index = if clean { IndexKind::Sled { cache: 1 << 20 } } else { IndexKind::Map };
    let mut all = Vec::new();
    files(&root, &mut all);
    let mut table: BTreeMap<String, Vec<(String, Outcome)>> = BTreeMap::new();
    for path in &all {
        let Some(kind) = kind(&root, path, &all) else { continue };
        for kind_of_harm in HARMS {
            copy_tree(&root, &state);
            harm(&state.join(path.strip_prefix(&root).unwrap()), kind_of_harm);
            let what = format!("{kind}, {kind_of_harm:?} ({})", path.display());
            let outcome = outcome(&base, &state, index, &what);
            table.entry(kind.clone()).or_default().push((format!("{kind_of_harm:?}"), outcome));
            fs::remove_dir_all(&state).unwrap();
        }
    }
    table
}

#[allow(clippy::print_stderr, reason = "the table is for people")]
fn counts(table: &BTreeMap<String, Vec<(String, Outcome)>>) -> BTreeMap<Outcome, usize> {
    let mut counts = BTreeMap::new();
    for (kind, cases) in table {
        let row: BTreeSet<String> = cases.iter().map(|(h, o)| format!("{h}: {o:?}")).collect();
        eprintln!("{kind:20} {}", row.into_iter().collect::<Vec<_>>().join(", "));
        for (_, outcome) in cases {
            *counts.entry(*outcome).or_default() += 1;
        }
    }
    eprintln!("{counts:?}");
    counts
}

#[test]
fn damage_after_a_clean_stop_costs_nothing_or_is_told() {
    let table = matrix(true);
    let counts = counts(&table);
    // How many files the index has is sled's business.
    let known = [Outcome::ContentOut, Outcome::Behind, Outcome::Refused];
    let known = known.map(|outcome| counts.get(&outcome).copied().unwrap_or(0));
    assert_eq!(known, [24, 0, 4]);
    assert!(counts[&Outcome::Whole] >= 50);
    for (kind, cases) in &table {
        for (harm, outcome) in cases {
            let expected = match (kind.as_str(), harm.as_str()) {
                // Of content there is one copy here: the parent or a push has another.
                ("layer" | "manifest", "Duplicated") => Outcome::Whole,
                ("layer" | "manifest", _) => Outcome::ContentOut,
                // Nothing is guessed where it is not known what wrote the store.
                ("format", "Duplicated") => Outcome::Whole,
                ("format", _) => Outcome::Refused,
                _ => Outcome::Whole,
            };
            assert_eq!(*outcome, expected, "{kind}, {harm}");
        }
    }
}

#[test]
fn damage_after_an_unclean_stop_without_an_index_is_told() {
    let table = matrix(false);
    let all = [Outcome::Whole, Outcome::ContentOut, Outcome::Behind, Outcome::Refused];
    let counts = counts(&table);
    let [whole, out, behind, refused] = all.map(|outcome| counts[&outcome]);
    // Where the damage meets the last segment depends on how the records fell into groups.
    assert_eq!((whole, out, behind + refused), (48, 24, 8), "{behind} behind");
    for (kind, cases) in &table {
        for (harm, outcome) in cases {
            let what = format!("{kind}, {harm}: {outcome:?}");
            match kind.as_str() {
                // What is after the damage is gone; in the middle the start fails instead.
                "last segment" => assert!(
                    matches!(outcome, Outcome::Whole | Outcome::Behind | Outcome::Refused),
                    "{what}"
                ),
                "layer" | "manifest" | "format" => {}
                _ => assert!(matches!(outcome, Outcome::Whole | Outcome::Refused), "{what}"),
            }
        }
    }
}

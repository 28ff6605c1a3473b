//! What a disk may hold, for fuzzing: segments, checkpoints and rows that nobody vouches for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use smol::block_on;

use super::index::{KeyValue, row_hash};
use super::journal::checkpoint::{self, Rows};
use super::journal::frame::{self, FrameFault, FrameKind, HEAD_BYTES};
use super::journal::layout::{Layout, OpenError};
use super::journal::segment::{self, End, PAYLOAD_VERSION, SegmentReader};
use super::replica::outbox::OutboxEntry;
use super::replica::refused::RefusedChange;
use super::rows::connected_registry::StatusRecord;
use super::rows::{self, Stored};
use super::{IndexKind, ManifestRow, Store, StoreOptions, TagRow};
use crate::store::rows::link::BlobLink;
use crate::store::rows::repository::{RepositoryRow, repository_key};
use crate::sys::{Disk, MemoryDisk, Spawner, Sys};
use crate::types::connected_registry::{Activation, ConnectedRegistry};
use crate::types::message::NodeConfig;
use crate::types::token::{ScopeMap, Token};
use crate::types::{Digest, UnixSeconds};

const ROOT: &str = "/s";

/// A segment as it is, and once more with its checksums made to fit, so that what is behind them
/// is reached: by itself, and as all that a store has.
pub(crate) fn journal(bytes: &[u8]) {
    let layout = Layout::new(ROOT);
    for bytes in [bytes.to_vec(), mended(bytes)] {
        let named = first_sequence(&bytes).map_or(1, |sequence| sequence.wrapping_add(1));
        read_segment(&layout, named, &bytes);
        open_again(&[(layout.segment(1), bytes)]);
    }
}

fn read_segment(layout: &Layout, first: u64, bytes: &[u8]) {
    let disk = disk_with(&[(layout.segment(first), bytes.to_vec())]);
    segment::ends_with_stop(&disk, layout, first);
    let Ok(mut segment) = SegmentReader::open(&disk, layout, first) else { return };
    loop {
        let before = segment.end();
        match segment.next_record() {
            Ok(Some(record)) => {
                assert_eq!(record.sequence, before.sequence + 1);
                assert!(segment.end().len > before.len);
            }
            Ok(None) => break,
            Err(FrameFault::Bad(_)) => {
                segment.damage_is_proven().expect("a disk in memory can be read");
                break;
            }
            Err(FrameFault::Io(error) | FrameFault::Lost(error)) => panic!("{error}"),
        }
    }
    let mut segment = SegmentReader::open(&disk, layout, first).expect("it was opened before");
    segment.each_whole(&mut |_, _| Ok(())).expect("a disk in memory can be read");
}

/// A checkpoint as it is and with its checksums made to fit; and what follows it, if anything, as
/// the first segment. The first two bytes say how long the segment is.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let Some((len, bytes)) = bytes.split_first_chunk() else { return };
    let len = usize::from(u16::from_le_bytes(*len)).min(bytes.len());
    let (checkpoint, segment) = bytes.split_at(bytes.len() - len);
    let layout = Layout::new(ROOT);
    for (checkpoint, segment) in
        [(checkpoint.to_vec(), segment.to_vec()), (mended(checkpoint), mended(segment))]
    {
        let sequence = first_sequence(&checkpoint).unwrap_or(1);
        let disk = disk_with(&[(layout.checkpoint(sequence), checkpoint.clone())]);
        let verified = checkpoint::verify(&disk, &layout, sequence);
        let inspected = checkpoint::inspect(&disk, &layout, sequence);
        if let Ok(verified) = verified {
            assert_eq!(inspected.ok(), Some(verified));
            let mut rows = Rows::open(&disk, &layout, sequence).expect("it is whole");
            let mut last: Option<Vec<u8>> = None;
            while let Some((key, _)) = rows.next_row().expect("it is whole") {
                assert!(last.is_none_or(|last| last < key), "keys ascend");
                last = Some(key);
            }
        }
        let mut files = vec![(layout.checkpoint(sequence), checkpoint)];
        if let (false, Some(before)) = (segment.is_empty(), first_sequence(&segment)) {
            files.push((layout.segment(before.wrapping_add(1)), segment));
        }
        open_again(&files);
    }
}

/// Sequence of the frame that the file starts with.
fn first_sequence(bytes: &[u8]) -> Option<u64> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    Some(u64::from_le_bytes(head[8..16].try_into().ok()?))
}

/// Makes lengths, links and checksums of the frames fit, as far as there are frames.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut rest, mut seed, mut previous) = (bytes, 0, None);
    let (mut count, mut sum) = (0_u64, 0_u64);
    while let Some((head, after)) = rest.split_at_checked(HEAD_BYTES) {
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or([0; 8]));
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or([0; 4]));
        let Some(kind) = FrameKind::from_byte(head[2]) else { break };
        let len = (u32_at(4) as usize).min(after.len());
        let (payload, after) = after.split_at(len);
        let mut payload = payload.to_vec();
        if kind == FrameKind::Rows {
            let rows = segment::parse_payload::<Vec<KeyValue>>(&payload).unwrap_or_default();
            count += rows.len() as u64;
            sum = rows.iter().fold(sum, |sum, (k, row)| sum.wrapping_add(row_hash(k, row)));
        }
        if kind == FrameKind::CheckpointTrailer && payload.len() == 17 {
            payload[0] = PAYLOAD_VERSION;
            payload[1..9].copy_from_slice(&count.to_le_bytes());
            payload[9..].copy_from_slice(&sum.to_le_bytes());
        }
        let link = previous.unwrap_or_else(|| u32_at(24));
        let crc = frame::append(&mut out, seed, kind, number(8), number(16), link, &payload);
        if crc.is_none() {
            break;
        }
        if kind == FrameKind::SegmentHeader {
            seed = segment::parse_payload::<(u32, u64)>(&payload).map_or(0, |header| header.0);
        }
        previous = crc;
        rest = after;
    }
    out.extend_from_slice(rest);
    out
}

fn disk_with(files: &[(PathBuf, Vec<u8>)]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let layout = Layout::new(ROOT);
    disk.create_dir_all(&layout.journal()).expect("a disk in memory");
    let format = (layout.format(), b"skerry store format 1\n".to_vec());
    for (path, bytes) in files.iter().chain([&format]) {
        let file = disk.create(path).expect("no file is there twice");
        file.write_all_at(bytes, 0).expect("a disk in memory");
    }
    disk.sync_fs(layout.root()).expect("a disk in memory");
    disk
}

fn open(disk: &MemoryDisk) -> Result<Store, OpenError> {
    let sys = Sys { disk: Arc::new(disk.clone()), ..Sys::real(Spawner::new()) };
    let base = StoreOptions::new(ROOT.as_ref());
    let options = StoreOptions {
        index: IndexKind::Map,
        reserve: 1,
        // So that closing makes a checkpoint of what was found.
        checkpoint_bytes_min: 1,
        ..base
    };
    Store::open(sys, options).map(|(store, _)| store)
}

type Content = (u64, BTreeMap<Vec<u8>, Vec<u8>>);

fn content(store: &Store) -> Content {
    let rows = store.shared().index().scan(b"", None, usize::MAX).expect("a map never fails");
    (store.sequence(), rows.into_iter().collect())
}

/// What opens must open again with the same rows, after any stop and after a change; what is
/// refused as damaged must be left as it is.
fn open_again(files: &[(PathBuf, Vec<u8>)]) {
    let disk = disk_with(files);
    let store = match open(&disk) {
        Ok(store) => store,
        Err(OpenError::Damaged { .. }) => {
            // Rows of a checkpoint are read last, when a torn end has been cut already.
            let only_segments =
                files.iter().all(|(path, _)| path.extension() == Some("log".as_ref()));
            for (path, bytes) in files.iter().filter(|_| only_segments) {
                assert_eq!(disk.read(path, u64::MAX).ok().as_ref(), Some(bytes));
            }
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let found = content(&store);
    drop(store);
    let same = |disk: &MemoryDisk, expected: &Content, when: &str| {
        let store = open(disk).unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(content(&store), *expected, "{when}");
        store
    };
    drop(same(&disk.after_power_cut(), &found, "after a power cut"));
    let store = same(&disk, &found, "opened again");
    let name = "changed".parse().expect("a repository name");
    let key = repository_key(&name);
    let row = RepositoryRow { created: UnixSeconds(1), bytes: 5 };
    block_on(store.commit(move |txn| txn.put(key, &row))).expect("what opens can be changed");
    assert_eq!(content(&store).0, found.0 + 1);
    // Else the stop would.
    block_on(store.note_unproven()).expect("what is doubted can be noted");
    let changed = content(&store);
    drop(same(&disk.after_power_cut(), &changed, "changed, after a power cut"));
    block_on(store.close()).expect("what opens can be closed");
    drop(store);
    drop(same(&disk, &changed, "changed and closed"));
}

/// A row of the type that the first byte chooses: what is read can be written, and read again.
pub(crate) fn row(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 12 {
        0 => again::<RepositoryRow>(bytes),
        1 => again::<BlobLink>(bytes),
        2 => again::<ManifestRow>(bytes),
        3 => again::<TagRow>(bytes),
        4 => again::<Token>(bytes),
        5 => again::<ScopeMap>(bytes),
        6 => again::<ConnectedRegistry>(bytes),
        7 => again::<Activation>(bytes),
        8 => again::<StatusRecord>(bytes),
        9 => again::<NodeConfig>(bytes),
        10 => again::<OutboxEntry>(bytes),
        _ => again::<RefusedChange>(bytes),
    }
}

fn again<R: Stored>(bytes: &[u8]) {
    if let Ok(row) = rows::decode::<R>(bytes) {
        let written = rows::encode(&row).expect("what was read can be written");
        let second: R = rows::decode(&written).expect("what was written can be read");
        assert_eq!(rows::encode(&second), Ok(written));
    }
}

/// Some rows, each with the byte that chooses its type.
pub(crate) fn rows() -> Vec<Vec<u8>> {
    let digest = Digest::from_key(&[&[1], [7; 32].as_slice()].concat()).expect("a digest");
    let time = UnixSeconds(1_700_000_000);
    let tag = TagRow { digest: digest.clone(), created: time, updated: time, from_below: true };
    let manifest = ManifestRow {
        media_type: crate::types::media::OCI_MANIFEST.to_owned(),
        size: 500,
        config_media_type: Some("application/vnd.oci.image.config.v1+json".to_owned()),
        artifact_type: None,
        subject: Some(digest.clone()),
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        blobs: vec![digest.clone(), digest.clone()],
        children: vec![digest.clone()],
        content_size: 70_000,
        pushed: time,
        elsewhere: Some(vec![digest.clone()]),
        from_below: true,
    };
    let encoded = [
        (0, rows::encode(&RepositoryRow { created: time, bytes: 5 })),
        (1, rows::encode(&BlobLink { size: 70_000 })),
        (2, rows::encode(&manifest)),
        (3, rows::encode(&tag)),
    ];
    let with_kind = |(kind, row): (u8, Result<Vec<u8>, _>)| {
        [vec![kind], row.expect("a row can be written")].concat()
    };
    let mut seeds: Vec<Vec<u8>> = encoded.into_iter().map(with_kind).collect();
    seeds.extend((4..12).map(|kind| vec![kind, 1, 4, b'n', b'a', b'm', b'e', 0, 0, 0]));
    seeds
}

/// Segments and checkpoints of a store that was changed a few times and then stopped, by name.
fn written(changes: u32, close: bool) -> Vec<(String, Vec<u8>)> {
    let disk = disk_with(&[]);
    let store = open(&disk).expect("a new store");
    for number in 0..changes {
        let name = format!("repository/{}", number % 3).parse().expect("a repository name");
        let row = RepositoryRow { created: UnixSeconds(number.into()), bytes: 5 };
        let change = move |txn: &mut super::Txn<'_>| match number % 4 {
            3 => {
                txn.delete(repository_key(&name))?;
                Ok(())
            }
            _ => txn.put(repository_key(&name), &row),
        };
        block_on(store.commit(change)).expect("a disk in memory");
    }
    if close {
        block_on(store.close()).expect("a disk in memory");
    }
    drop(store);
    let directory = Layout::new(ROOT).journal();
    let entries = disk.list(&directory).expect("a disk in memory");
    let read = |name: String| {
        let bytes = disk.read(&directory.join(&name), u64::MAX).expect("a disk in memory");
        (name, bytes)
    };
    entries.into_iter().map(|entry| read(entry.name)).collect()
}

/// Segments that ended in every way.
pub(crate) fn segments() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (changes, close) in [(1, false), (6, false), (6, true)] {
        let files = written(changes, close).into_iter();
        seeds.extend(files.filter(|(name, _)| name.ends_with(".log")).map(|(_, bytes)| bytes));
    }
    let torn = seeds[1].len() - 5;
    seeds.push(seeds[1][..torn].to_vec());
    seeds
}

/// Checkpoints, alone and with the segment before them.
pub(crate) fn checkpoints() -> Vec<Vec<u8>> {
    let end = End { sequence: 9, crc: 5, len: 700 };
    let disk = disk_with(&[]);
    let layout = Layout::new(ROOT);
    let mut writer = checkpoint::Writer::new(&disk, &layout, end).expect("a disk in memory");
    for name in ["a/b", "c", "d"] {
        let key = repository_key(&name.parse().expect("a repository name"));
        let row =
            rows::encode(&RepositoryRow { created: UnixSeconds(1), bytes: 5 }).expect("a row");
        writer.row(key, row).expect("a disk in memory");
    }
    writer.finish().expect("a disk in memory");
    let alone = disk.read(&layout.checkpoint(9), u64::MAX).expect("a disk in memory");
    let mut seeds = vec![[&[0, 0], alone.as_slice()].concat()];
    let files = written(6, true);
    let with = |ending: &str| {
        files.iter().rfind(|(name, _)| name.ends_with(ending)).map_or(Vec::new(), |f| f.1.clone())
    };
    let (checkpoint, segment) = (with(".ckpt"), with(".log"));
    let len = u16::try_from(segment.len()).unwrap_or(0).to_le_bytes();
    seeds.push([&len, checkpoint.as_slice(), &segment].concat());
    seeds
}

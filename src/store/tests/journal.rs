//! The journal, checkpoints, groups and the feed.

use super::*;
use crate::store::content::space::Hindrance;
use crate::store::journal::segment as log;
use crate::store::replica::feed::from_segments;
use crate::store::rows::Kind;
use crate::sys::memory_disk::Survivors;

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_time() {
    let disk = MemoryDisk::new();
    let (store, recovery) = open_small(&disk);
    assert!(recovery.new && recovery.clean);
    let mut expected = Model::new();
    for round in 0..40 {
        expected = churn(&store, round * 20, round * 20 + 20);
        let (cut, recovery) = open_small(&disk.after_power_cut());
        assert_eq!(rows(&cut), expected, "round {round}");
        assert!(!recovery.clean, "{recovery}");
        assert_eq!(cut.sequence(), store.sequence());
    }
    block_on(store.close()).unwrap();
    let checkpoints = disk.list(Path::new("/s/journal")).unwrap();
    assert_eq!(checkpoints.iter().filter(|e| e.name.ends_with(".ckpt")).count(), 2);
    drop(store);
    let (store, recovery) = open_small(&disk.after_power_cut());
    assert!(recovery.clean && !recovery.new, "{recovery}");
    assert_eq!(rows(&store), expected);
    put(&store, 1, "again").unwrap();
}

/// A push is a record for each layer, and a scrub notes how far it is: all of them woke all polls.
#[test]
fn f209_only_what_children_are_told_of_wakes_their_polls() {
    let store = Store::in_memory(Sys::real(Spawner::new()));
    for kind in [Kind::Blob, Kind::Untagged, Kind::Inbox, Kind::Tag, Kind::Token] {
        let mut polls = std::pin::pin!(store.news_after(store.sequence(), Duration::from_secs(60)));
        assert_eq!(block_on(smol::future::poll_once(polls.as_mut())), None);
        let key = rows::key(kind, &[b"app", b"v1"]);
        block_on(store.commit(move |txn| txn.delete(key))).unwrap();
        let woken = block_on(smol::future::poll_once(polls.as_mut())).is_some();
        assert_eq!(woken, [Kind::Tag, Kind::Token].contains(&kind), "{kind:?}");
    }
}

/// Of a node that was never started again that is the whole journal.
#[test]
fn f116_fsck_reads_the_segment_that_is_being_written() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    for number in 1..=3 {
        put(&store, number, "row").unwrap();
    }
    let fsck = || block_on(store.fsck(false)).unwrap();
    let report = fsck();
    assert_eq!((report.segments, report.records, report.problems), (1, 3, 0), "{report:?}");
    let path = segment_path("/s", 1);
    let mut bytes = content(&disk, &path);
    // What comes behind the last record that was acknowledged may be half written.
    let whole = bytes.len();
    bytes.extend([7; 20]);
    overwrite(&disk, &path, &bytes);
    assert_eq!(fsck().problems, 0);
    bytes[whole - 20] ^= 1;
    overwrite(&disk, &path, &bytes);
    let report = fsck();
    assert_eq!((report.records, report.problems), (2, 1), "{report:?}");
}

#[test]
fn a_start_without_changes_writes_no_journal() {
    let disk = MemoryDisk::new();
    put(&open_memory(&disk).unwrap().0, 1, "one").unwrap();
    let mut before = None;
    for _ in 0..3 {
        let (store, recovery) = open_memory(&disk).unwrap();
        assert!(!recovery.clean);
        drop(store);
        let files = disk.list(Path::new("/s/journal")).unwrap();
        assert_eq!(*before.get_or_insert(files.clone()), files);
    }
    for _ in 0..3 {
        let (store, _) = open_memory(&disk).unwrap();
        block_on(store.close()).unwrap();
        drop(store);
        let (store, recovery) = open_memory(&disk).unwrap();
        assert!(recovery.clean, "{recovery}");
        drop(store);
    }
}

#[test]
fn a_torn_append_is_cut_wherever_it_tears() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    put(&store, 1, "one").unwrap();
    let path = segment_path("/s", 1);
    let durable = content(&disk, &path).len();
    put(&store, 2, "two").unwrap();
    let whole = content(&disk, &path);
    drop(store);
    for len in durable..whole.len() {
        let disk = disk.after_power_cut();
        overwrite(&disk, &path, &whole[..len]);
        let (store, recovery) = open_memory(&disk).unwrap();
        assert_eq!(recovery.tail_cut_bytes, (len - durable) as u64);
        assert_eq!((rows(&store).len(), store.sequence(), recovery.clean), (1, 1, false));
        put(&store, 3, "three").unwrap();
        drop(store);
        let (store, _) = open_memory(&disk.after_power_cut()).unwrap();
        assert_eq!((rows(&store).len(), store.sequence()), (2, 2));
        assert!(disk.exists(&segment_path("/s", 2)).unwrap(), "a new segment is opened");
    }
    // A sector of the append that never arrived while a later one did.
    let mut torn = whole.clone();
    torn[durable + 40] ^= 1;
    overwrite(&disk, &path, &torn);
    assert_eq!(open_memory(&disk).unwrap().0.sequence(), 1);
}

#[test]
fn a_segment_whose_creation_was_cut_short_is_no_damage() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    put(&store, 1, "one").unwrap();
    drop(store);
    let header = content(&disk, &segment_path("/s", 1));
    for len in [0, 1, 35, 40] {
        let disk = disk.after_power_cut();
        drop(open_memory(&disk).unwrap());
        let next = segment_path("/s", 2);
        disk.create(&next).unwrap().write_all_at(&header[..len], 0).unwrap();
        let (store, recovery) = open_memory(&disk).unwrap();
        assert_eq!((store.sequence(), recovery.tail_cut_bytes), (1, len as u64));
        put(&store, 2, "two").unwrap();
    }
}

#[test]
fn a_flipped_bit_before_the_end_is_noticed_wherever_it_is() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    for number in 0..3 {
        put(&store, number, "some text").unwrap();
    }
    let path = segment_path("/s", 1);
    let end_of_third = content(&disk, &path).len();
    put(&store, 4, "the last group").unwrap();
    drop(store);
    let whole = content(&disk, &path);
    for byte in 0..end_of_third {
        let disk = disk.after_power_cut();
        let mut bad = whole.clone();
        bad[byte] ^= 0x10;
        overwrite(&disk, &path, &bad);
        let error = open_memory(&disk).map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, OpenError::Damaged { .. }), "byte {byte}: {text}");
        assert!(text.contains(".log is damaged"), "{text}");
        assert_eq!(content(&disk, &path), bad, "nothing is changed");
    }
}

#[test]
fn a_damaged_checkpoint_is_replaced_by_the_one_before_and_the_journal() {
    let disk = MemoryDisk::new();
    let (store, _) = open_small(&disk);
    let expected = churn(&store, 0, 800);
    block_on(store.close()).unwrap();
    drop(store);
    let journal = Path::new("/s/journal");
    let names = disk.list(journal).unwrap();
    let newest = names.iter().rfind(|entry| entry.name.ends_with(".ckpt")).unwrap();
    let path = journal.join(&newest.name);
    let whole = content(&disk, &path);
    for byte in [0, 50, whole.len() / 2, whole.len() - 1] {
        let disk = disk.after_power_cut();
        let mut bad = whole.clone();
        bad[byte] ^= 1;
        overwrite(&disk, &path, &bad);
        let (store, _) = open_small(&disk);
        assert_eq!(rows(&store), expected, "byte {byte}");
        let expected = churn(&store, 800, 1600);
        block_on(store.close()).unwrap();
        drop(store);
        assert_eq!(rows(&open_small(&disk).0), expected);
    }
}

#[test]
fn of_two_compare_and_swaps_in_one_group_one_wins() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    // Holds the writer until all commands wait, so that they form one group.
    let (go, gate) = smol::channel::bounded::<()>(1);
    let hold = store.commit(move |_| {
        let _ = gate.recv_blocking();
        Ok(())
    });
    let swap = |name: &'static str| {
        store.commit(move |txn| match txn.get::<Text>(&key(1))? {
            None => txn.put(key(1), &Text(name.to_owned())),
            Some(Text(other)) => Err(StoreError::Conflict(other)),
        })
    };
    let read = store.commit(|txn| txn.get::<Text>(&key(1)));
    let broken = store.commit(|_| -> Result<(), StoreError> { panic!("a defect") });
    let all = smol::future::zip(
        smol::future::zip(hold, smol::future::zip(swap("a"), broken)),
        smol::future::zip(swap("b"), read),
    );
    let opener = async {
        sleep(Duration::from_millis(100)).await;
        go.send(()).await.unwrap();
    };
    let (((_, (first, broken)), (second, read)), ()) = block_on(smol::future::zip(all, opener));
    assert_eq!(first, Ok(()));
    assert_eq!(second, Err(StoreError::Conflict("a".to_owned())));
    assert_eq!(read, Ok(Some(Text("a".to_owned()))));
    assert!(matches!(broken, Err(StoreError::Io(_))));
    assert_eq!(store.sequence(), 1);
    assert_eq!(store.sys().metrics.journal_groups.get(), 1);
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_ends_all_writing() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    put(&store, 1, "one").unwrap();
    disk.fail_syncs_after(0);
    assert!(matches!(put(&store, 2, "two"), Err(StoreError::Io(_))));
    assert_eq!(put(&store, 3, "three"), Err(StoreError::Unavailable));
    assert!(store.read_only());
    assert_eq!((rows(&store).len(), store.sequence()), (1, 1));
    assert_eq!(rows(&open_memory(&disk.after_power_cut()).unwrap().0).len(), 1);
}

/// Symptom: each change failed, and the node called itself healthy.
#[test]
#[allow(clippy::disallowed_methods, reason = "the writer is a thread")]
fn f212_a_writer_that_panics_is_told_of() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    put(&store, 1, "before").unwrap();
    disk.watch(|what, _, _| assert_ne!(what, "write", "of a test"));
    assert_eq!(put(&store, 2, "lost"), Err(StoreError::Unavailable));
    let told = || {
        std::thread::sleep(Duration::from_millis(5));
        store.read_only()
    };
    assert!((0..2000).any(|_| told()));
    assert!(store.read_only_cause().is_some());
}

/// Symptom: a journal that failed as a segment was closed refused everything, and neither status
/// nor log nor readiness said so.
#[test]
fn f210_a_journal_that_fails_as_a_segment_is_closed_is_told_of() {
    // Of these syncs some are of records, and some of what closes a segment behind them.
    for syncs in 0..40 {
        let disk = MemoryDisk::new();
        let (store, _) = open_small(&disk);
        disk.fail_syncs_after(syncs);
        let refused = (0..).find_map(|number| put(&store, number, &"x".repeat(100)).err());
        assert!(store.read_only(), "after {syncs} syncs: {refused:?}");
    }
}

const READ_ONLY_CHILD: &str = "SKERRY_TEST_READ_ONLY_CHILD";

/// The body of the process that [`a_journal_that_fails_is_told_of_once`] reads the log of.
#[test]
fn writes_to_a_journal_that_fails() {
    if std::env::var_os(READ_ONLY_CHILD).is_none() {
        return;
    }
    sys::log::init(::log::LevelFilter::Error);
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    disk.fail_syncs_after(0);
    for number in 0..3 {
        put(&store, number, "lost").unwrap_err();
    }
}

#[test]
fn a_journal_that_fails_is_told_of_once() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::journal::writes_to_a_journal_that_fails", "--nocapture"])
        .env(READ_ONLY_CHILD, "1")
        .output()
        .unwrap();
    let log = String::from_utf8(child.stderr).unwrap();
    assert!(child.status.success(), "{log}");
    let told: Vec<&str> = log.lines().filter(|line| line.contains("cannot be written")).collect();
    assert_eq!(told.len(), 1, "{log}");
    // By the first failure, which says why: those after it know only that writing has ended.
    assert!(!told[0].contains(&StoreError::Unavailable.to_string()), "{log}");
}

#[test]
fn a_store_that_is_dropped_has_ended_its_writer() {
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    let shared = Arc::downgrade(&store.inner.shared);
    let busy = store.commit(|_| {
        (0..10_000).for_each(|_| std::thread::yield_now());
        Ok(())
    });
    // Polled once: the command waits in the queue.
    let _ = block_on(smol::future::poll_once(busy));
    drop(store);
    assert!(shared.upgrade().is_none(), "the writer is still at work");
}

#[test]
fn a_full_disk_refuses_changes_until_there_is_space() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    disk.set_full(true);
    assert_eq!(put(&store, 1, "one"), Err(StoreError::Full), "no segment can be made");
    disk.set_full(false);
    put(&store, 1, "one").unwrap();
    disk.set_full(true);
    assert_eq!(put(&store, 2, "two"), Err(StoreError::Full));
    assert!(!store.read_only());
    drop(store);
    let (store, _) = open_memory(&disk).unwrap();
    assert_eq!(put(&store, 2, "two"), Err(StoreError::Full));
    disk.set_full(false);
    put(&store, 2, "two").unwrap();
    assert_eq!(rows(&open_memory(&disk.after_power_cut()).unwrap().0).len(), 2);
}

#[test]
fn nothing_is_seen_before_it_is_durable() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let writer = store.clone();
    let thread = store.sys().spawner.thread("test-writer", move || {
        for number in 0..200 {
            put(&writer, number, "text").unwrap();
        }
    });
    while store.sequence() < 200 {
        let seen = rows(&store).len();
        let durable = rows(&open_memory(&disk.after_power_cut()).unwrap().0).len();
        assert!(seen <= durable, "{seen} rows seen, {durable} durable");
    }
    thread.unwrap().join().unwrap();
}

#[test]
fn two_processes_and_newer_formats_are_refused_untouched() {
    let disk = MemoryDisk::new();
    let first = open_memory(&disk).unwrap();
    let text = open_memory(&disk).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("/s is in use"), "{text}");
    drop(first);
    overwrite(&disk, Path::new("/s/format"), b"skerry store format 7\n");
    let text = open_memory(&disk).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("format 7") && text.contains("format 1"), "{text}");
    overwrite(&disk, Path::new("/s/format"), b"what?");
    assert!(matches!(open_memory(&disk), Err(OpenError::Damaged { .. })));
    let absent = options(Path::new("/not/there"), IndexKind::Map);
    let text = Store::open(sys_on(&disk), absent).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("/not/there") && text.contains("mount"), "{text}");
}

#[test]
fn the_feed_hands_out_every_record_and_notices_strangers() {
    let disk = MemoryDisk::new();
    let (store, _) = open_small(&disk);
    let start = store.head();
    churn(&store, 0, 60);
    let follow = |store: &Store, mut cursor: Cursor| {
        let mut sequences = Vec::new();
        while cursor != store.head() {
            let records = block_on(store.records_after(cursor, 300)).unwrap();
            sequences.extend(records.records.iter().map(|(sequence, _)| *sequence));
            cursor = records.through;
        }
        sequences
    };
    let all: Vec<u64> = (1..=store.sequence()).collect();
    assert_eq!(follow(&store, start), all, "from memory");
    store.retain_for_children(true);
    block_on(store.close()).unwrap();
    let head = store.head();
    drop(store);
    let (store, _) = open_small(&disk);
    assert_eq!(store.head(), head, "the epoch stays");
    put(&store, 1, "new").unwrap();
    let all: Vec<u64> = (1..=store.sequence()).collect();
    assert_eq!(follow(&store, start), all, "from segments");
    let ask = |cursor| block_on(store.records_after(cursor, 300)).map(|_| ());
    let head = store.head();
    assert_eq!(ask(Cursor { epoch: head.epoch ^ 1, ..head }), Err(StoreError::NotFound));
    let beyond = Cursor { sequence: head.sequence + 1, ..head };
    assert_eq!(ask(beyond), Err(StoreError::NotFound));
    block_on(store.wait_after(head.sequence - 1, Duration::from_secs(60)));
    block_on(store.wait_after(head.sequence, Duration::from_millis(5)));
    let limit = Duration::from_secs(20);
    let stop = async { store.stop_waiting() };
    let waited = block_on(smol::future::zip(store.wait_after(head.sequence, limit), stop)).0;
    assert!(!waited, "a node that stops waits for nobody");
    // Without children the old segments go, and with them the old positions.
    store.retain_for_children(false);
    churn(&store, 0, 800);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_small(&disk);
    assert_eq!(block_on(store.records_after(start, 1)).map(|_| ()), Err(StoreError::NotFound));
}

#[test]
fn a_follower_needs_no_segment_before_its_position() {
    let disk = MemoryDisk::new();
    let (store, _) = open_small(&disk);
    store.retain_for_children(true);
    churn(&store, 0, 60);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_small(&disk);
    let segments = store.shared().segments.list();
    let (first, second) = (segments[0], segments[1]);
    let layout = Layout::new("/s");
    let both = from_segments(store.shared(), first - 1, second, usize::MAX).unwrap();
    assert_eq!(both.last().map(|(sequence, _)| *sequence), Some(second), "of both segments");
    overwrite(&disk, &layout.segment(first), b"damaged");
    let read = |after| from_segments(store.shared(), after, second, 1);
    assert_eq!(read(second - 1).map(|records| records[0].0), Ok(second));
    assert_eq!(read(second - 2).map(|records| records.len()), Err(StoreError::NotFound));
    // What the medium has lost keeps no child waiting.
    disk.fail_reads(&layout.segment(second));
    assert_eq!(read(second - 1).map(|records| records.len()), Err(StoreError::NotFound));
}

#[test]
fn a_checkpoint_that_reads_back_wrong_is_not_used() {
    let disk = MemoryDisk::new();
    let (store, _) = open_small(&disk);
    churn(&store, 0, 300);
    block_on(store.close()).unwrap();
    drop(store);
    let checkpoints = || {
        let entries = disk.list(Path::new("/s/journal")).unwrap();
        entries.into_iter().filter(|e| e.name.ends_with(".ckpt")).collect::<Vec<_>>()
    };
    let before = checkpoints();
    assert!(!before.is_empty());
    disk.flip_writes(Some(".tmp"));
    let (store, _) = open_small(&disk);
    let expected = churn(&store, 300, 1200);
    // It may not be able to make one at the end either.
    let _ = block_on(store.close());
    drop(store);
    disk.flip_writes(None);
    assert_eq!(checkpoints(), before);
    let (store, recovery) = open_small(&disk.after_power_cut());
    assert!(recovery.damage.is_empty(), "{recovery}");
    assert_eq!(rows(&store), expected);
}

#[test]
fn a_segment_that_is_not_the_next_one_is_noticed() {
    let disk = MemoryDisk::new();
    let mut options = options(Path::new("/s"), IndexKind::Map);
    options.segment_bytes = 2000;
    let (store, _) = Store::open(sys_on(&disk), options).unwrap();
    churn(&store, 0, 200);
    drop(store);
    let names = disk.list(Path::new("/s/journal")).unwrap();
    assert!(names.len() > 4, "{names:?}");
    let path = |n: usize| Path::new("/s/journal").join(&names[n].name);
    // The same records under the same name, as another store would have written them.
    let other = MemoryDisk::new();
    let mut options = super::options(Path::new("/s"), IndexKind::Map);
    options.segment_bytes = 2000;
    let (store, _) = Store::open(sys_on(&other), options).unwrap();
    churn(&store, 0, 200);
    drop(store);
    overwrite(&disk, &path(2), &content(&other, &path(2)));
    let (_, recovery) = open_memory(&disk).unwrap();
    let damage = recovery.damage.join(" ");
    assert!(damage.contains("it follows sequence"), "{recovery}");
}

#[test]
fn a_whole_record_that_nobody_can_read_is_damage_and_stays_as_it_is() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    put(&store, 1, "one").unwrap();
    drop(store);
    let path = segment_path("/s", 1);
    let mut bytes = content(&disk, &path);
    let header_len = frame::HEAD_BYTES + usize::from(bytes[4]);
    let header: (u32, u64) = log::parse_payload(&bytes[frame::HEAD_BYTES..header_len]).unwrap();
    let crc = header_len + frame::HEAD_BYTES - 4;
    let previous = u32::from_le_bytes(bytes[crc..crc + 4].try_into().unwrap());
    let kind = frame::FrameKind::Record;
    frame::append(&mut bytes, header.0, kind, 2, 2, previous, b"what is this?").unwrap();
    overwrite(&disk, &path, &bytes);
    for _ in 0..2 {
        let opened = open_memory(&disk).map(|(_, recovery)| recovery);
        assert!(matches!(opened, Err(OpenError::Damaged { .. })), "{opened:?}");
        assert_eq!(content(&disk, &path), bytes, "nothing is changed");
    }
}

#[test]
fn impossible_sequences_and_orders_are_damage() {
    let disk = MemoryDisk::new();
    drop(open_memory(&disk).unwrap());
    let layout = Layout::new("/s");
    for sequence in [0, u64::MAX] {
        let end = log::End { sequence, ..log::End::default() };
        let writer = checkpoint::Writer::new(&disk, &layout, end).unwrap();
        assert!(writer.finish().is_err(), "{sequence}");
    }
    let end = log::End { sequence: 5, ..log::End::default() };
    let mut writer = checkpoint::Writer::new(&disk, &layout, end).unwrap();
    for key in ["b", "a"] {
        writer.row(key.as_bytes().to_vec(), vec![1]).unwrap();
    }
    assert!(writer.finish().is_err());
    let mut header = Vec::new();
    let payload = log::payload(&(1_u32, 0_u64)).unwrap();
    let kind = frame::FrameKind::SegmentHeader;
    frame::append(&mut header, 0, kind, u64::MAX, u64::MAX, 0, &payload).unwrap();
    disk.create(&layout.segment(0)).unwrap().write_all_at(&header, 0).unwrap();
    assert!(log::SegmentReader::open(&disk, &layout, 0).is_err());
}

/// The journal of a node between root and leaf was cut off: what it lost its parent has.
#[test]
fn f201_what_a_cut_journal_lost_is_not_told_to_children_as_deleted() {
    use crate::store::registry::manifests::testing::{digest, image};
    use crate::store::replica::node::testing::config;
    use crate::store::replica::outbox::Origin;
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let app: RepositoryName = "app".parse().unwrap();
    let at = |sequence| Cursor { epoch: 9, sequence };
    let put = |number: u8, tag: &str| {
        for (blob, size) in [(100, 20), (101, 300)] {
            block_on(store.link_blob(&app, &Lease::unseen(&digest(blob)), size)).unwrap();
        }
        let put = PutManifest { origin: Origin::Parent, ..image(number, &[tag]) };
        assert_eq!(block_on(store.put_manifest(&app, put)), Ok(PutOutcome::Stored));
    };
    block_on(store.receive_config(config(&["repositories/*/content/read"]), "v1".to_owned()))
        .unwrap();
    block_on(store.begin_reconcile()).unwrap();
    put(1, "v1");
    block_on(store.mark_synced(&app, true)).unwrap();
    block_on(store.note_compared()).unwrap();
    block_on(store.reconciled(at(5))).unwrap();
    let kept = store.sequence();
    put(2, "v2");
    put(3, "v3");
    let segment = segment_path("/s", 1);
    let len = content(&disk, &segment).len();
    for number in 0..5 {
        block_on(store.record_sync(crate::types::UnixSeconds(number))).unwrap();
    }
    block_on(store.close()).unwrap();
    drop(store);
    // The record of v3 is damaged.
    let mut bytes = content(&disk, &segment);
    bytes[len - 40] ^= 1;
    overwrite(&disk, &segment, &bytes);
    assert!(matches!(open_memory(&disk), Err(OpenError::Damaged { .. })));
    let (store, recovery) = open_cut(&disk).unwrap();
    assert!(recovery.sequence > kept);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, _) = open_memory(&disk).unwrap();
    store.stand(crate::types::Role::Connected, true);
    let tags = store.tags(&app, None, 9).unwrap();
    assert!(tags.len() < 3, "{tags:?}");
    assert!(store.is_partial(&app).unwrap(), "a child takes v3 for deleted");
}

/// Symptom: a journal that had lost its end together with the index was taken for whole, its feed
/// went on in the same epoch, and what the lost records named was garbage.
#[test]
fn f211_what_a_journal_lost_of_what_it_had_reached_is_told_wherever_it_ends() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let path = segment_path("/s", 1);
    let mut ends = vec![0];
    for number in 0..4 {
        put(&store, number, "text").unwrap();
        ends.push(content(&disk, &path).len());
    }
    let epoch = store.head().epoch;
    drop(store);
    let whole = content(&disk, &path);
    let header = log::SegmentReader::open(&disk, &Layout::new("/s"), 1).unwrap().end().len;
    // The process was killed: the system has all that it wrote.
    let killed = || disk.after_crash(Survivors::Everything);
    for len in 1..whole.len() {
        for zeros in [false, true] {
            // With a damaged header the start fails.
            if zeros && (len as u64) < header {
                continue;
            }
            let disk = killed();
            let rest = if zeros { whole.len() - len } else { 0 };
            overwrite(&disk, &path, &[&whole[..len], &vec![0; rest]].concat());
            let frozen = StoreOptions { frozen: true, ..options(Path::new("/s"), IndexKind::Map) };
            let (store, looked) = Store::open(sys_on(&disk), frozen).unwrap();
            assert!(store.loss().unwrap().contains("are lost"), "{looked}");
            // A backup of it says so too.
            let backup = block_on(store.begin_backup()).unwrap();
            assert!((backup.end, backup.lost.is_some()) == (4, true), "{looked}");
            drop((backup, store));
            assert!(looked.damage.iter().any(|what| what.contains("are lost")), "{looked}");
            let (store, recovery) = open_memory(&disk).unwrap();
            let kept = ends.iter().filter(|end| **end <= len).count() as u64 - 1;
            assert_eq!(store.sequence(), kept, "{len} bytes, {zeros}: {recovery}");
            let loss = store.loss().unwrap_or_else(|| panic!("{len} bytes, {zeros}: {recovery}"));
            assert!(
                loss.contains("reached sequence 4") && loss.contains(&format!("after {kept} "))
            );
            assert!(!recovery.clean && recovery.damage.len() == 1, "{recovery}");
            assert_ne!(store.head().epoch, epoch, "its sequences are given again");
            // Once: what is written from then on is another matter.
            store.accept_loss().unwrap();
            put(&store, 9, "again").unwrap();
            drop(store);
            let (store, recovery) = open_memory(&disk).unwrap();
            assert_eq!((store.loss(), recovery.damage.len()), (None, 0), "{recovery}");
        }
    }
    // What nobody was told of is cut without a word.
    for torn in 1..100 {
        let disk = killed();
        overwrite(&disk, &path, &[&whole[..], &vec![0xa5; torn]].concat());
        let (store, recovery) = open_memory(&disk).unwrap();
        assert_eq!((store.sequence(), store.loss()), (4, None), "{recovery}");
        assert!(recovery.damage.is_empty() && store.head().epoch == epoch, "{recovery}");
    }
    // A clean stop makes the note durable.
    let (store, _) = open_memory(&disk).unwrap();
    put(&store, 5, "text").unwrap();
    block_on(store.close()).unwrap();
    drop(store);
    let disk = disk.after_power_cut();
    disk.remove(&segment_path("/s", 5)).unwrap();
    assert!(open_memory(&disk).unwrap().0.loss().unwrap().contains("after 4 "));
}

/// Each change failed, and the node said that all is well.
#[test]
fn f211_f212_a_journal_that_gets_no_segment_is_told_until_it_does() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    disk.remove_dir_all(Path::new("/s/journal")).unwrap();
    let failed = put(&store, 1, "one").unwrap_err();
    assert!(failed.to_string().contains("no file can be made in /s/journal: "), "{failed}");
    assert_eq!(store.hindrance(), Some(Hindrance::NoFile(failed)));
    disk.create_dir_all(Path::new("/s/journal")).unwrap();
    assert_eq!(store.hindrance(), None);
    put(&store, 1, "one").unwrap();
}

/// The damage is before the end that is lost too.
#[test]
fn f211_a_journal_that_is_cut_off_is_cut_up_to_what_it_had_reached() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let path = segment_path("/s", 1);
    let mut ends = Vec::new();
    for number in 0..9 {
        put(&store, number, "text").unwrap();
        ends.push(content(&disk, &path).len());
    }
    drop(store);
    let mut bytes = content(&disk, &path);
    bytes.truncate(ends[5]);
    bytes[ends[2] + 40] ^= 1;
    overwrite(&disk, &path, &bytes);
    let error = open_memory(&disk).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("up to sequence 3") && error.contains("at least up to 9"), "{error}");
    let (store, recovery) = open_cut(&disk).unwrap();
    assert_eq!(store.sequence(), 9, "{recovery}");
    assert_eq!(rows(&store).len(), 3);
    // What only the lost changes named stays until somebody agrees to that too.
    let loss = store.loss().unwrap();
    assert!(loss.contains("changes from sequence 4 to 9 are lost"), "{loss}");
}

/// What is remembered of logins outlives a push, and no change of what a login stands on.
#[test]
fn only_a_change_of_who_may_do_what_raises_the_sequence_of_access() {
    use crate::store::rows::{Kind, key, node::self_config_key};
    let (store, _) = open_memory(&MemoryDisk::new()).unwrap();
    let named = |kind| key(kind, &[b"name"]);
    let about = [Kind::Token, Kind::ScopeMap, Kind::ConnectedRegistry, Kind::SyncToken];
    let other = [Kind::Activation, Kind::Status, Kind::NodeConfig, Kind::Node, Kind::Inbox];
    let about = about.map(|kind| (named(kind), true));
    let other = other.map(|kind| (named(kind), false));
    for (row, raises) in about.into_iter().chain(other).chain([(self_config_key(), true)]) {
        for delete in [false, true] {
            let (before, row) = (store.access_sequence(), row.clone());
            let changed = block_on(store.commit(move |txn| match delete {
                true => txn.delete(row).map(drop),
                false => txn.put(row, &Text("x".to_owned())),
            }));
            assert_eq!(changed, Ok(()));
            let expected = if raises { store.sequence() } else { before };
            assert_eq!(store.access_sequence(), expected, "{raises} {delete}");
        }
    }
}

/// A store whose journal holds four records, its first segment and where each of them ends.
fn with_four_records(disk: &MemoryDisk) -> (u64, Vec<u8>, Vec<usize>) {
    let (store, _) = open_memory(disk).unwrap();
    let path = segment_path("/s", 1);
    let mut ends = Vec::new();
    for number in 0..4 {
        put(&store, number, "text").unwrap();
        ends.push(content(disk, &path).len());
    }
    (store.head().epoch, content(disk, &path), ends)
}

/// The power goes again while a start tells of lost records.
#[test]
fn f204_a_start_that_is_cut_short_while_it_tells_a_loss_still_ends_the_epoch() {
    let disk = MemoryDisk::new();
    let (epoch, whole, ends) = with_four_records(&disk);
    overwrite(&disk, &segment_path("/s", 1), &whole[..ends[1]]);
    let mut cut_short = 0;
    for call in 1..40 {
        for survivors in [Survivors::Everything, Survivors::Synced] {
            let disk = disk.after_crash(Survivors::Everything);
            disk.crash_at(call);
            let struck = open_memory(&disk).map(|_| ());
            cut_short += u32::from(struck.is_err());
            let disk = disk.after_crash(survivors);
            let (store, _) = open_memory(&disk).unwrap();
            assert!(store.loss().is_some(), "call {call} {survivors:?}: {struck:?}");
            assert_ne!(store.head().epoch, epoch, "call {call} {survivors:?}: {struck:?}");
        }
    }
    assert!(cut_short > 10, "{cut_short}");
}

/// The space that is set aside for the journal is for this too.
#[test]
fn f204_a_node_starts_on_a_full_disk_after_a_loss() {
    let disk = MemoryDisk::new();
    let with_reserve =
        StoreOptions { reserve: 64 << 20, ..options(Path::new("/s"), IndexKind::Map) };
    drop(Store::open(sys_on(&disk), with_reserve).unwrap());
    let (epoch, whole, ends) = with_four_records(&disk);
    for is_lost in [false, true] {
        let disk = disk.after_crash(Survivors::Everything);
        overwrite(&disk, &segment_path("/s", 1), &whole[..ends[if is_lost { 1 } else { 3 }]]);
        let ballast = Path::new("/s/ballast");
        assert!(disk.exists(ballast).unwrap());
        disk.fill_with(ballast);
        let (store, recovery) = open_memory(&disk).unwrap();
        assert_eq!(store.loss().is_some(), is_lost, "{recovery}");
        assert_eq!(store.head().epoch != epoch, is_lost);
        assert_eq!(disk.exists(ballast).unwrap(), !is_lost, "it is used where it is needed");
    }
}

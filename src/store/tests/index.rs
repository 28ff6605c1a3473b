//! The index on real disks: kills, flipped bits, loss.

use super::corruption::copy_tree;
use super::*;

#[test]
fn the_index_is_built_again_when_it_is_gone_or_damaged() {
    let dir = TempDir::new("store-index");
    let (store, _) = open_sled(&dir);
    let expected = churn(&store, 0, 300);
    block_on(store.close()).unwrap();
    drop(store);
    let (store, recovery) = open_sled(&dir);
    assert!(recovery.clean && recovery.index_rebuilt.is_none(), "{recovery}");
    assert_eq!((rows(&store), recovery.records_replayed), (expected.clone(), 0));
    drop(store);
    let index = dir.path().join("state/index");
    let disk = SystemDisk;
    disk.remove_dir_all(&index).unwrap();
    let (store, recovery) = open_sled(&dir);
    assert!(recovery.index_rebuilt.is_some() && rows(&store) == expected, "{recovery}");
    drop(store);
    for name in ["db", "conf"] {
        let file = disk.open_rw(&index.join(name)).unwrap();
        let len = file.len().unwrap();
        file.write_all_at(&[0xa5; 40], len / 3).unwrap();
        drop(file);
        let (store, _) = open_sled(&dir);
        assert_eq!(rows(&store), expected, "{name}");
        churn(&store, 0, 10);
        drop(store);
        let (store, _) = open_sled(&dir);
        churn(&store, 0, 300);
        assert_eq!(rows(&store), expected, "{name}");
    }
}

#[test]
fn whatever_bit_of_the_index_flips_the_answers_stay_right() {
    let dir = TempDir::new("store-flips");
    let (store, _) = open_sled(&dir);
    let expected = churn(&store, 0, 200);
    block_on(store.close()).unwrap();
    drop(store);
    let index = dir.path().join("state/index");
    let random = SystemRng::new();
    for round in 0..25 {
        let file = SystemDisk.open_rw(&index.join("db")).unwrap();
        let offset = random.number() % file.len().unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << (round % 8)], offset).unwrap();
        drop(file);
        let (store, recovery) = open_sled(&dir);
        assert_eq!(rows(&store), expected, "round {round}, byte {offset}: {recovery}");
        block_on(store.close()).unwrap();
    }
}

const KILLED_CHILD: &str = "SKERRY_TEST_KILLED_CHILD";

/// The body of the process that [`kills_lose_nothing_that_was_acknowledged`] kills.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(KILLED_CHILD) else {
        return;
    };
    let mut options = options(Path::new(&path), IndexKind::Sled { cache: 1 << 20 });
    (options.segment_bytes, options.checkpoint_bytes_min) = (20_000, 60_000);
    let (store, _) = Store::open(Sys::real(Spawner::new()), options).unwrap();
    loop {
        let number = u32::try_from(store.sequence()).unwrap();
        put(&store, number % 1000, &format!("{number}")).unwrap();
        #[allow(clippy::print_stdout, reason = "how the parent learns what was acknowledged")]
        {
            println!("\nacknowledged {number}");
        }
    }
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    use std::io::BufRead;
    let dir = TempDir::new("store-kill");
    let mut written = 0;
    for round in 0..15_u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::index::writes_until_it_is_killed", "--nocapture"])
            .env(KILLED_CHILD, dir.path().join("state"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = None;
        let stop_after = 1 + round * round * 7;
        let mut count = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("acknowledged ") {
                last = number.parse::<u32>().ok();
                count += 1;
                if count == stop_after {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let last = last.unwrap();
        let (store, recovery) = open_sled(&dir);
        assert!(!recovery.clean && store.sequence() > u64::from(last), "{recovery}");
        written = u32::try_from(store.sequence()).unwrap();
        let expected: Model = (written.saturating_sub(1000)..written)
            .map(|number| (key(number % 1000), Text(number.to_string())))
            .collect();
        assert_eq!(rows(&store), expected, "round {round}: {recovery}");
    }
    assert!(written > 1000);
}

#[test]
fn an_index_that_fails_at_run_time_is_built_again_meanwhile() {
    let dir = TempDir::new("store-heal");
    let (store, _) = open_sled(&dir);
    let expected = churn(&store, 0, 100);
    let mut progress = Vec::new();
    // An index of so few rows may be there again before this thread has looked once.
    for _ in 0..200 {
        store.shared().set_index(Arc::new(NoIndex::default()));
        assert_eq!(store.get::<Text>(&key(1)), Err(StoreError::Unavailable));
        while let Err(error) = store.get::<Text>(&key(1)) {
            match error {
                StoreError::Rebuilding(percent) => progress.push(percent),
                StoreError::Unavailable => std::thread::yield_now(),
                other => panic!("{other}"),
            }
        }
        if !progress.is_empty() {
            break;
        }
    }
    assert!(!progress.is_empty() && progress.is_sorted(), "{progress:?}");
    assert_eq!(rows(&store), expected);
    store.shared().set_index(Arc::new(NoIndex::default()));
    put(&store, 1000, "more").unwrap();
    assert_eq!(rows(&store).len(), expected.len() + 1);
}

#[test]
fn one_look_at_an_index_that_failed_is_enough_to_have_it_built_again() {
    let dir = TempDir::new("store-heal-once");
    let (store, _) = open_sled(&dir);
    let expected = churn(&store, 0, 100);
    store.shared().set_index(Arc::new(NoIndex::default()));
    assert_eq!(store.get::<Text>(&key(1)), Err(StoreError::Unavailable));
    let clock = &store.sys().clock;
    let deadline = clock.monotonic() + Duration::from_secs(60);
    // Without a look-up: a second one would be asking again.
    while store.shared().index().get(&key(1)).is_err() {
        assert!(clock.monotonic() < deadline, "nobody builds the index again");
        std::thread::yield_now();
    }
    assert_eq!(rows(&store), expected);
}

/// Symptom: on a full disk, where the index fails now and then, pulls had 503 for milliseconds.
#[test]
fn f211_a_request_waits_while_an_index_that_failed_is_built_again() {
    let dir = TempDir::new("store-heal-wait");
    let (store, _) = open_sled(&dir);
    churn(&store, 0, 100);
    for _ in 0..20 {
        store.shared().set_index(Arc::new(NoIndex::default()));
        block_on(store.wait_for_index());
        store.get::<Text>(&key(1)).unwrap();
    }
}

#[test]
fn damage_that_the_index_makes_up_for_costs_nothing() {
    let dir = TempDir::new("store-salvage");
    let (store, _) = open_sled(&dir);
    let expected = churn(&store, 0, 100);
    let epoch = store.head().epoch;
    drop(store);
    let disk = SystemDisk;
    let path = Layout::new(dir.path().join("state")).segment(1);
    disk.open_rw(&path).unwrap().write_all_at(b"rotten", 500).unwrap();
    let (store, recovery) = open_sled(&dir);
    assert_eq!(recovery.damage.len(), 1, "{recovery}");
    assert_eq!(rows(&store), expected);
    assert_eq!(store.head().epoch, epoch, "to children it is the same node");
    assert_eq!(block_on(store.fsck(false)).unwrap().found, [""; 0]);
    assert_eq!(store.loss(), None, "the journal can be read to its end: {recovery}");
    put(&store, 500, "more").unwrap();
    drop(store);
    let (store, recovery) = open_sled(&dir);
    assert!(recovery.damage.is_empty(), "{recovery}");
    assert_eq!(rows(&store).len(), expected.len() + 1);
    // A journal that lost its end although the index knows of it.
    drop(store);
    let last = recovery.sequence;
    disk.remove(&Layout::new(dir.path().join("state")).segment(last)).unwrap();
    let (store, recovery) = open_sled(&dir);
    assert_eq!(recovery.damage.len(), 1, "{recovery}");
    assert_eq!((rows(&store).len(), store.sequence()), (expected.len() + 1, last));
    assert!(store.loss().unwrap().contains("may be lost"), "{recovery}");
}

/// sled can come up as it was long ago, and be whole as far as it can tell.
#[test]
fn f211_an_index_that_is_behind_does_not_make_up_for_a_journal_without_its_end() {
    let dir = TempDir::new("store-behind");
    let (store, _) = open_sled(&dir);
    churn(&store, 0, 20);
    block_on(store.close()).unwrap();
    drop(store);
    let layout = Layout::new(dir.path().join("state"));
    let (old, base) = (dir.path().join("old"), dir.path().join("base"));
    copy_tree(&layout.index(), &old);
    let (store, recovery) = open_sled(&dir);
    let behind = recovery.sequence;
    churn(&store, 20, 60);
    drop(store);
    SystemDisk.remove_dir_all(&layout.index()).unwrap();
    copy_tree(&old, &layout.index());
    copy_tree(layout.root(), &base);
    for harm in ["the last segment zeroed", "all segments removed"] {
        SystemDisk.remove_dir_all(layout.root()).unwrap();
        copy_tree(&base, layout.root());
        let segments = SystemDisk.list(&layout.journal()).unwrap();
        let mut segments: Vec<_> =
            segments.iter().map(|e| layout.journal().join(&e.name)).collect();
        segments.sort();
        assert_eq!(segments.len(), 2);
        if harm.contains("zeroed") {
            let file = SystemDisk.open_rw(&segments[1]).unwrap();
            let zeros = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.write_all_at(&zeros, 0).unwrap();
        } else {
            segments.iter().for_each(|path| SystemDisk.remove(path).unwrap());
        }
        let (store, recovery) = open_sled(&dir);
        assert_eq!(store.sequence(), behind, "{harm}: {recovery}");
        assert!(store.loss().unwrap().contains("may be lost"), "{harm}: {recovery}");
        drop(store);
        let (store, _) = open_sled(&dir);
        assert!(store.accept_loss().unwrap().contains("may be lost"), "{harm}");
        assert_eq!(store.accept_loss(), Err(StoreError::NotFound));
    }
}

#[test]
fn opening_ten_thousand_rows_is_quick() {
    let dir = TempDir::new("store-10k");
    let (store, _) = open_sled(&dir);
    for block in 0..100 {
        block_on(store.commit(move |txn| {
            for number in 0..100 {
                txn.put(key(block * 100 + number), &Text("x".repeat(200)))?;
            }
            Ok(())
        }))
        .unwrap();
    }
    let timed = |what: &str| {
        let clock = SystemClock::new();
        let (store, recovery) = open_sled(&dir);
        let took = clock.monotonic();
        log::info!("{what}: {took:?}, {recovery}");
        assert_eq!(rows(&store).len(), 10_000);
        assert!(took < Duration::from_secs(30), "{what} took {took:?}");
        (store, format!("{what} {took:?}; "))
    };
    drop(store);
    let (store, unclean) = timed("unclean");
    block_on(store.close()).unwrap();
    drop(store);
    let (store, clean) = timed("clean");
    drop(store);
    SystemDisk.remove_dir_all(&dir.path().join("state/index")).unwrap();
    let (_, rebuilt) = timed("index rebuilt");
    #[allow(clippy::print_stderr, reason = "the figures are what the test is for")]
    {
        eprintln!("open with 10,000 rows: {unclean}{clean}{rebuilt}");
    }
}

//! Checkpoints that are damaged where their ends do not show it.

use super::*;
use crate::store::journal::layout::LOST_RECORDS;
use crate::store::recovery::recover::check_journal;
use crate::sys::memory_disk::Survivors;

const JOURNAL: &str = "/s/journal";

/// A store that has had two checkpoints, and what is in it.
fn with_checkpoints(disk: &MemoryDisk) -> Model {
    // None is made but these two, however busy the machine is, also not at the next start.
    let (store, _) = open_small_with(disk, u64::MAX);
    for (from, to) in [(0, 400), (400, 800)] {
        churn(&store, from, to);
        block_on(store.renew_checkpoint()).unwrap();
    }
    put(&store, 1, "after the last checkpoint").unwrap();
    let expected = rows(&store);
    block_on(store.close()).unwrap();
    assert_eq!(files(disk, ".ckpt").len(), 2);
    expected
}

/// The first segment after the last checkpoint.
fn after_the_last_checkpoint(disk: &MemoryDisk) -> Option<PathBuf> {
    let last = files(disk, ".ckpt").pop().map_or(0, |path| number(&path));
    files(disk, ".log").into_iter().find(|path| number(path) > last)
}

/// The files of the journal with this ending, in order.
fn files(disk: &MemoryDisk, end: &str) -> Vec<PathBuf> {
    let entries = disk.list(Path::new(JOURNAL)).unwrap();
    let names = entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(end));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.iter().map(|name| Path::new(JOURNAL).join(name)).collect()
}

fn number(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

fn damage(disk: &MemoryDisk, path: &Path) {
    let mut bytes = content(disk, path);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(disk, path, &bytes);
}

/// A segment after the last checkpoint but one, and before the last.
fn segment_between(disk: &MemoryDisk) -> PathBuf {
    let checkpoints: Vec<u64> = files(disk, ".ckpt").iter().map(|path| number(path)).collect();
    let between = |path: &PathBuf| (checkpoints[0] + 1..=checkpoints[1]).contains(&number(path));
    let segments: Vec<PathBuf> = files(disk, ".log").into_iter().filter(between).collect();
    segments[segments.len() / 2].clone()
}

#[test]
fn f211_where_no_checkpoint_and_no_index_is_whole_the_way_out_is_named_and_leads_out() {
    let disk = MemoryDisk::new();
    with_checkpoints(&disk);
    let (newest, segment) = (files(&disk, ".ckpt").pop().unwrap(), segment_between(&disk));
    damage(&disk, &newest);
    damage(&disk, &segment);
    let checked = check_journal(&disk, &Layout::new("/s")).map(|_| ()).unwrap_err().to_string();
    let refused = open_memory(&disk).map(|_| ()).unwrap_err().to_string();
    for text in [checked, refused] {
        let names = |path: &Path| text.contains(path.file_name().unwrap().to_str().unwrap());
        assert!(names(&newest) && names(&segment), "{text}");
        assert!(text.contains("skerry state cut-journal"), "{text}");
    }
    let (store, recovery) = open_cut(&disk).unwrap();
    assert!(store.loss().unwrap().contains("are lost"), "{recovery}");
    assert!(!rows(&store).is_empty());
    put(&store, 1, "life goes on").unwrap();
}

#[test]
fn f211_a_checkpoint_that_the_medium_has_lost_is_replaced_by_the_one_before() {
    let disk = MemoryDisk::new();
    let expected = with_checkpoints(&disk);
    disk.fail_reads(&files(&disk, ".ckpt").pop().unwrap());
    let (store, recovery) = open_memory(&disk).unwrap();
    assert_eq!(rows(&store), expected);
    assert!(recovery.to_string().contains("cannot be read"), "{recovery}");
}

/// What is whole at the end of a run is damaged while the node runs on.
fn f201_backup_of(harm: impl Fn(&MemoryDisk)) {
    let disk = MemoryDisk::new();
    let expected = with_checkpoints(&disk);
    let (store, _) = open_small(&disk);
    harm(&disk);
    let backup = block_on(store.begin_backup()).unwrap();
    let copy = MemoryDisk::new();
    for directory in ["/b/journal", "/b/identity"] {
        copy.create_dir_all(Path::new(directory)).unwrap();
    }
    for file in &backup.files {
        let mut bytes = vec![0; usize::try_from(file.len).unwrap()];
        file.file.read_exact_at(&mut bytes, 0).unwrap();
        copy.create(&Path::new("/b").join(&file.name)).unwrap().write_all_at(&bytes, 0).unwrap();
    }
    Layout::new("/b").write_format(&copy, backup.format).unwrap();
    drop(backup);
    backup::restore(&sys_on(&copy), Path::new("/b"), Path::new("/s")).unwrap();
    let (restored, recovery) = open_memory(&copy).unwrap();
    assert!(recovery.damage.is_empty(), "{recovery}");
    assert_eq!(rows(&restored), expected);
    // Nor does the next start depend on what is damaged.
    put(&store, 1, "life goes on").unwrap();
    let expected = rows(&store);
    drop(store);
    assert_eq!(rows(&open_small(&disk).0), expected);
}

#[test]
fn f201_a_backup_does_without_a_checkpoint_that_is_damaged_in_its_middle() {
    f201_backup_of(|disk| damage(disk, &files(disk, ".ckpt")[1]));
}

#[test]
fn f201_a_backup_of_a_journal_of_which_the_index_is_the_last_copy_is_whole() {
    f201_backup_of(|disk| {
        files(disk, ".ckpt").iter().for_each(|path| damage(disk, path));
    });
    f201_backup_of(|disk| {
        damage(disk, &files(disk, ".ckpt")[1]);
        damage(disk, &segment_between(disk));
    });
    f201_backup_of(|disk| {
        let last = number(&files(disk, ".ckpt")[1]);
        let after = |path: &PathBuf| number(path) > last;
        damage(disk, files(disk, ".log").iter().find(|path| after(path)).unwrap());
    });
}

#[test]
fn f116_f211_what_rots_in_the_journal_is_made_up_for_by_the_scrub_and_by_fsck() {
    for is_scrub in [true, false] {
        let disk = MemoryDisk::new();
        let expected = with_checkpoints(&disk);
        let (store, _) = open_small(&disk);
        files(&disk, ".ckpt").iter().for_each(|path| damage(&disk, path));
        if is_scrub {
            block_on(store.scrub(0)).unwrap();
        } else {
            let report = block_on(store.fsck(false)).unwrap();
            assert_eq!(report.problems, 2, "{report:?}");
            assert!(report.found[0].contains("a new checkpoint takes its place"), "{report:?}");
        }
        let report = block_on(store.fsck(false)).unwrap();
        assert_eq!((report.problems, report.checkpoints), (0, 1), "{report:?}");
        drop(store);
        let (store, recovery) = open_memory(&disk.after_power_cut()).unwrap();
        assert!(recovery.damage.is_empty(), "{recovery}");
        assert_eq!(rows(&store), expected);
    }
}

/// Symptom: fsck told of damage that was none. Cause: what it read on from went meanwhile.
#[test]
fn f116_fsck_reads_no_segment_that_may_go_meanwhile() {
    // As the next checkpoint has them removed, before each step of fsck.
    let prune = |store: &Store, disk: &MemoryDisk| {
        let [first, last] = files(disk, ".ckpt").try_into().unwrap();
        disk.remove(&first).unwrap();
        let last = number(&last);
        store.shared().segments.change(|firsts| firsts.retain(|first| *first > last));
        let old = files(disk, ".log").into_iter().filter(|path| number(path) <= last);
        old.for_each(|path| disk.remove(&path).unwrap());
    };
    let (mut step, mut short) = (0, 0);
    loop {
        let disk = MemoryDisk::new();
        with_checkpoints(&disk);
        let (store, _) = open_small(&disk);
        let mut fsck = Box::pin(store.fsck(false));
        let mut steps = 0;
        let report = block_on(std::future::poll_fn(|context| {
            if steps == step {
                prune(&store, &disk);
            }
            steps += 1;
            fsck.as_mut().poll(context)
        }));
        let report = report.unwrap();
        if steps <= step {
            // How many there are depends on how soon each look is done.
            if step > 1 {
                break;
            }
            short += 1;
            assert!(short < 100, "{step}: fsck has fewer steps than that");
            continue;
        }
        assert_eq!(report.problems, 0, "{step}: {report:?}");
        assert_eq!(files(&disk, ".ckpt").len(), 1, "{step}: a checkpoint was made");
        step += 1;
    }
}

/// Symptom: no scrub read what makes up for the last checkpoint, and once that was damaged too, no
/// start was possible.
#[test]
fn f116_fsck_reads_the_segments_between_the_checkpoints() {
    for is_at_the_end in [false, true] {
        let disk = MemoryDisk::new();
        with_checkpoints(&disk);
        let (store, _) = open_small(&disk);
        if is_at_the_end {
            block_on(store.renew_checkpoint()).unwrap();
        }
        damage(&disk, &segment_between(&disk));
        let report = block_on(store.fsck(false)).unwrap();
        assert_eq!(report.problems, 1, "{report:?}");
        assert!(report.found[0].contains("a new checkpoint takes its place"), "{report:?}");
        assert_eq!(block_on(store.fsck(false)).unwrap().problems, 0);
    }
}

/// Symptom: no checkpoint was made any more, and neither fsck nor the scrub made one.
#[test]
fn f116_f211_what_the_medium_loses_of_the_journal_is_made_up_for_while_the_node_runs() {
    f201_backup_of(|disk| disk.fail_reads(&files(disk, ".ckpt")[1]));
    f201_backup_of(|disk| disk.fail_reads(&after_the_last_checkpoint(disk).unwrap()));
    let disk = MemoryDisk::new();
    with_checkpoints(&disk);
    let (store, _) = open_small(&disk);
    let lost = files(&disk, ".ckpt").pop().unwrap();
    disk.fail_reads(&lost);
    let report = block_on(store.fsck(false)).unwrap();
    assert_eq!(report.problems, 1, "{report:?}");
    assert!(report.found[0].contains("a new checkpoint takes its place"), "{report:?}");
    assert!(!disk.exists(&lost).unwrap());
    // Without anybody who looks.
    let lost = files(&disk, ".ckpt").pop().unwrap();
    disk.fail_reads(&lost);
    churn(&store, 800, 1600);
    block_on(store.close()).unwrap();
    assert!(!disk.exists(&lost).unwrap());
}

/// Symptom: fsck saw no problem, each backup failed, and what was pushed from then on was lost with
/// the index.
#[test]
fn f116_f201_f211_a_segment_that_is_gone_is_made_up_for_while_the_node_runs() {
    let remove = |path: &Path, disk: &MemoryDisk| disk.remove(path).unwrap();
    f201_backup_of(|disk| {
        damage(disk, &files(disk, ".ckpt")[1]);
        remove(&segment_between(disk), disk);
    });
    f201_backup_of(|disk| remove(files(disk, ".log").last().unwrap(), disk));
    let disk = MemoryDisk::new();
    let (store, _) = open_small(&disk);
    let mut expected = churn(&store, 0, 30);
    for name in ["the last", "the only one"] {
        remove(files(&disk, ".log").last().unwrap(), &disk);
        let report = block_on(store.fsck(false)).unwrap();
        assert_eq!(report.problems, 1, "{name}: {report:?}");
        assert!(report.found[0].contains("is missing; a new checkpoint"), "{name}: {report:?}");
        assert_eq!(block_on(store.fsck(false)).unwrap().problems, 0, "{name}");
        assert_eq!(rows(&open_memory(&disk.after_power_cut()).unwrap().0), expected, "{name}");
        expected = churn(&store, 30, 60);
    }
    // What is gone is forgotten too: what nobody needs goes on to be removed.
    churn(&store, 60, 900);
    block_on(store.close()).unwrap();
    assert_eq!(files(&disk, ".ckpt").len(), 2);
    assert!(store.shared().segments.list().len() < 20, "{:?}", store.shared().segments.list());
}

/// It may have it again at the next start: nothing is given up unless somebody says so.
#[test]
fn f211_a_segment_that_the_medium_has_lost_is_given_up_when_somebody_says_so() {
    let disk = MemoryDisk::new();
    with_checkpoints(&disk);
    let segment = files(&disk, ".log").pop().unwrap();
    disk.fail_reads(&segment);
    let before = disk.calls();
    let refused = open_memory(&disk).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("if that stays so: skerry state cut-journal"), "{refused}");
    assert_eq!(disk.calls(), before, "something was changed");
    let (store, recovery) = open_cut(&disk).unwrap();
    assert!(store.loss().unwrap().contains("it cannot be read"), "{recovery}");
    put(&store, 1, "life goes on").unwrap();
}

/// A checkpoint that is made later shows nothing of it.
#[test]
fn f201_f211_a_loss_goes_into_backups_until_somebody_agrees_to_it() {
    let disk = MemoryDisk::new();
    with_checkpoints(&disk);
    disk.fail_reads(&files(&disk, ".log").pop().unwrap());
    let (store, _) = open_cut(&disk).unwrap();
    let tells = || {
        let backup = block_on(store.begin_backup()).unwrap();
        backup.files.iter().any(|file| file.name == LOST_RECORDS)
    };
    assert!(store.loss().is_some() && tells());
    store.accept_loss().unwrap();
    assert!(!tells());
}

#[test]
fn f204_a_cut_that_is_cut_short_still_ends_the_epoch() {
    let disk = MemoryDisk::new();
    let (store, _) = open_memory(&disk).unwrap();
    let (epoch, path) = (store.head().epoch, segment_path("/s", 1));
    let mut ends = Vec::new();
    for number in 0..4 {
        put(&store, number, "text").unwrap();
        ends.push(content(&disk, &path).len());
    }
    drop(store);
    let mut bytes = content(&disk, &path);
    bytes[ends[1] + 40] ^= 1;
    overwrite(&disk, &path, &bytes);
    let mut was_cut = 0;
    for call in 1..60 {
        for survivors in [Survivors::Everything, Survivors::Synced] {
            let disk = disk.after_crash(Survivors::Everything);
            disk.crash_at(call);
            let _ = open_cut(&disk);
            let disk = disk.after_crash(survivors);
            was_cut += u32::from(open_memory(&disk).is_ok());
            let (store, _) = open_memory(&disk).or_else(|_| open_cut(&disk)).unwrap();
            assert!(store.loss().is_some(), "call {call} {survivors:?}");
            assert_ne!(store.head().epoch, epoch, "call {call} {survivors:?}");
        }
    }
    assert!((10..100).contains(&was_cut), "{was_cut}");
}

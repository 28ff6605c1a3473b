//! A store that versions with different formats use in turn. The versions to come are made up: one
//! knows what the third format writes, the next one writes it.

use super::*;
use crate::store::backup;
use crate::sys::memory_disk::Survivors;

/// A version that reads what the third format writes, and writes rows of its own format.
const SECOND: Formats = Formats { newest: 2, reads_from: 1, readable_from: 1 };
/// The version after it.
const THIRD: Formats = Formats { newest: 3, reads_from: 1, readable_from: 2 };

/// [`Text`] as the third version knows it: from format 3 on its rows are of version 2.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Grown {
    number: u64,
    text: String,
}

impl Row for Grown {
    const VERSION: u8 = 2;

    fn write(&self, format: u32) -> Result<Vec<u8>, postcard::Error> {
        match format {
            ..3 => Text(self.text.clone()).write(format),
            3.. => postcard::to_extend(self, vec![2]),
        }
    }

    fn decode_other(version: u8, bytes: &[u8]) -> Result<Grown, StoreError> {
        assert_eq!(version, 1);
        let Text(text) = postcard::from_bytes(bytes).unwrap();
        Ok(Grown { number: 0, text })
    }
}

/// As the second version knows it.
#[derive(Serialize, Deserialize)]
struct Foreseen(String);

impl Row for Foreseen {
    const VERSION: u8 = 1;

    fn decode_other(version: u8, bytes: &[u8]) -> Result<Foreseen, StoreError> {
        assert_eq!(version, 2);
        let Grown { text, .. } = postcard::from_bytes(bytes).unwrap();
        Ok(Foreseen(text))
    }
}

fn open_by(disk: &MemoryDisk, formats: Formats) -> Result<Store, OpenError> {
    let options = StoreOptions { formats, ..options(Path::new("/s"), IndexKind::Map) };
    Store::open(sys_on(disk), options).map(|(store, _)| store)
}

fn put_grown(store: &Store, number: u32) -> Result<(), StoreError> {
    let row = Grown { number: number.into(), text: format!("text {number}") };
    block_on(store.commit(move |txn| txn.put(key(number), &row)))
}

/// The version of a row as it is stored.
fn version_of(store: &Store, number: u32) -> u8 {
    let row = store.look_up(|index| index.get(&key(number))).unwrap();
    row.unwrap_or_else(|| panic!("row {number} is lost"))[0]
}

fn format_file(disk: &MemoryDisk) -> String {
    String::from_utf8(content(disk, Path::new("/s/format"))).unwrap()
}

fn close(store: &Store) {
    block_on(store.close()).unwrap();
}

/// A store of the first version, which a later one has opened and not confirmed.
fn unconfirmed() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open_by(&disk, Formats::OURS).unwrap();
    put(&store, 1, "text 1").unwrap();
    close(&store);
    drop(store);
    let store = open_by(&disk, THIRD).unwrap();
    put_grown(&store, 2).unwrap();
    assert_eq!(store.format(), Formats::OURS.newest());
    assert_eq!(store.format_after_confirmation(), Some(THIRD.newest()));
    assert_eq!(version_of(&store, 2), 1, "as the version before can read it");
    close(&store);
    drop(store);
    assert_eq!(format_file(&disk), "skerry store format 1\n");
    disk
}

#[test]
fn p062_a_version_writes_what_the_one_before_can_use_until_it_is_confirmed() {
    let disk = unconfirmed();
    // Back to the first version, which goes on as if nothing had been.
    let store = open_by(&disk, Formats::OURS).unwrap();
    assert_eq!((store.read_only(), store.format_after_confirmation()), (false, None));
    put(&store, 3, "text 3").unwrap();
    let texts: Vec<String> = rows(&store).into_values().map(|text| text.0).collect();
    assert_eq!(texts, ["text 1", "text 2", "text 3"]);
    close(&store);
    drop(store);

    let store = open_by(&disk, THIRD).unwrap();
    assert_eq!(store.confirm(), Ok(THIRD.newest()));
    assert_eq!(format_file(&disk), "skerry store format 3, readable from 2\n");
    put_grown(&store, 4).unwrap();
    assert_eq!([1, 2, 3, 4].map(|number| version_of(&store, number)), [1, 1, 1, 2]);
    let calls = disk.calls();
    assert_eq!(store.confirm(), Ok(THIRD.newest()), "once more");
    assert_eq!((disk.calls(), store.format_after_confirmation()), (calls, None));
    close(&store);
    drop(store);
    let store = open_by(&disk, THIRD).unwrap();
    assert_eq!((store.format(), store.format_after_confirmation()), (THIRD.newest(), None));
    put_grown(&store, 5).unwrap();
    let all = store.scan::<Grown>(b"\x20row", None, usize::MAX).unwrap();
    let found: Vec<_> = all.into_iter().map(|(_, row)| (row.number, row.text)).collect();
    let text = |number: u64| format!("text {number}");
    assert_eq!(found, [(0, text(1)), (0, text(2)), (0, text(3)), (4, text(4)), (5, text(5))]);
}

#[test]
fn p062_after_a_confirmation_an_older_version_reads_or_ends_and_says_why() {
    let disk = unconfirmed();
    let store = open_by(&disk, THIRD).unwrap();
    store.confirm().unwrap();
    put_grown(&store, 3).unwrap();
    close(&store);
    drop(store);
    let calls = disk.calls();

    let store = open_by(&disk, SECOND).unwrap();
    let all = store.scan::<Foreseen>(b"\x20row", None, usize::MAX).unwrap();
    let texts: Vec<String> = all.into_iter().map(|(_, row)| row.0).collect();
    assert_eq!(texts, ["text 1", "text 2", "text 3"]);
    assert_eq!(store.read_only_cause(), Some(StoreError::NewerFormat(3)));
    assert_eq!(put(&store, 9, "no"), Err(StoreError::NewerFormat(3)));
    assert_eq!(store.confirm(), Err(StoreError::NewerFormat(3)));
    assert_eq!((store.format(), store.format_after_confirmation()), (THIRD.newest(), None));
    drop(store);

    let refused = open_by(&disk, Formats::OURS).map(drop).unwrap_err();
    assert!(refused.is_format());
    let text = refused.to_string();
    let parts =
        ["/s", "format 3", "knows format 2", "newer than format 1", "run the newer", "restore"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    let fifth = Formats { newest: 5, reads_from: 4, readable_from: 4 };
    let refused = open_by(&disk, fifth).map(drop).unwrap_err();
    assert!(refused.is_format());
    let text = refused.to_string();
    let parts = ["/s", "format 3", "formats 4 to 5", "skerry confirm"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    assert_eq!(disk.calls(), calls, "something was changed");
}

/// What is found after a confirmation that was cut short is of one format or the other, and no row
/// is of a newer one than the file says.
fn check_either(disk: &MemoryDisk, is_confirmed: bool, what: &str) {
    let text = format_file(disk);
    let format: StoreFormat = text.parse().unwrap_or_else(|()| panic!("{what}: {text:?}"));
    let either = [Formats::OURS.newest(), THIRD.newest()];
    assert!(either.contains(&format) && (!is_confirmed || format == either[1]), "{what}: {text}");
    let store = open_by(disk, THIRD).unwrap_or_else(|error| panic!("{what}: {error}"));
    for (number, must) in [(1, true), (2, true), (3, is_confirmed)] {
        let row = store.get::<Grown>(&key(number)).unwrap();
        assert!(!must || row.is_some(), "{what}: row {number}");
        let is_newer = row.is_some() && version_of(&store, number) == 2;
        assert!(!is_newer || format.writes == 3, "{what}: row {number} is newer than {text}");
    }
    close(&store);
    drop(store);
    let before = open_by(disk, Formats::OURS);
    assert_eq!(before.is_ok(), format.writes == 1, "{what}: {text}");
}

#[test]
fn p062_a_confirmation_that_is_cut_short_leaves_one_format_or_the_other() {
    let mut files = Vec::new();
    for fails in [false, true] {
        for call in 1.. {
            let disk = unconfirmed();
            let store = open_by(&disk, THIRD).unwrap();
            let strike = disk.calls() + call;
            match fails {
                true => disk.fail_at(strike),
                false => disk.crash_at(strike),
            }
            let confirmed = store.confirm();
            let written = put_grown(&store, 3);
            let Some((what, file)) = disk.struck() else {
                assert!(confirmed.is_ok() && written.is_ok());
                break;
            };
            let what = format!("{what} of {} (fails: {fails})", file.display());
            let is_acknowledged = confirmed.is_ok() && written.is_ok();
            if fails && confirmed.is_err() {
                assert_eq!(written, Ok(()), "{what}");
                assert_eq!(store.confirm(), Ok(THIRD.newest()), "{what}: again");
            }
            drop(store);
            let torn = Survivors::Torn(call);
            for survivors in [Survivors::Synced, Survivors::Everything, torn] {
                let what = format!("{what}, {survivors:?}");
                check_either(&disk.after_crash(survivors), is_acknowledged, &what);
            }
            files.push(file);
        }
    }
    let of_format = files.iter().filter(|file| file.starts_with("/s/format.tmp")).count();
    assert!(of_format >= 6, "{files:?}");
}

#[test]
fn p062_a_backup_and_a_restore_keep_the_format() {
    let disk = unconfirmed();
    let sys = sys_on(&disk);
    let format_of = |path: &str| String::from_utf8(content(&disk, Path::new(path))).unwrap();
    backup::restore(&sys, Path::new("/s"), Path::new("/before")).unwrap();
    assert_eq!(format_of("/before/format"), "skerry store format 1\n");
    let store = open_by(&disk, THIRD).unwrap();
    assert_eq!(block_on(store.begin_backup()).unwrap().format, Formats::OURS.newest());
    store.confirm().unwrap();
    assert_eq!(block_on(store.begin_backup()).unwrap().format, THIRD.newest());
    close(&store);
    drop(store);
    let file = disk.open_rw(Path::new("/s/format")).unwrap();
    let newer = "skerry store format 3, readable from 1\n";
    file.set_len(0).unwrap();
    file.write_all_at(newer.as_bytes(), 0).unwrap();
    backup::restore(&sys, Path::new("/s"), Path::new("/after")).unwrap();
    assert_eq!(format_of("/after/format"), newer, "the rows of a newer version are its own");
}

/// Symptom: `config check` said ok on a full file system, where the first start failed.
#[test]
fn f143_a_new_store_needs_space_and_one_that_is_there_does_not() {
    let disk = MemoryDisk::new();
    let layout = Layout::new("/s");
    let check = || layout.check(&disk).map_err(|error| error.to_string());
    assert_eq!(check(), Ok(None));
    disk.set_full(true);
    let text = check().unwrap_err();
    assert!(text.contains("free some space"), "{text}");
    disk.set_full(false);
    drop(open_memory(&disk).unwrap());
    disk.set_full(true);
    assert_eq!(check(), Ok(None));
}

//! Files of a store are damaged at random, and it is started again: no wrong byte is served,
//! nothing is lost without a word, and a start that fails names a way out that works.
//! `SKERRY_LONG=1 cargo test --test suite random_damage` damages it 300 times.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::http::{Answer, basic, send, token};
use crate::support::image::{self, Image, MANIFEST};
use crate::support::node::Node;

const REPOSITORY: &str = "app";
/// Sizes of the layers of each image; what is sent whole is hashed on the way when it is large.
const LAYERS: &[usize] = &[2000, 90_000];
const IMAGES: u64 = 6;
/// Reasons that say what is wrong; a client that hears one has been told.
const TOLD: [&str; 2] = ["content_damaged", "store_unavailable"];

/// A xorshift generator: a seed gives the same damage on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % sides
    }
}

/// A store as it was left, and what it had acknowledged by then.
struct Left {
    state: PathBuf,
    tags: BTreeMap<String, Image>,
}

#[test]
fn f211_whatever_is_damaged_no_wrong_byte_is_served_and_no_loss_is_silent() {
    let rounds = if std::env::var_os("SKERRY_LONG").is_some() { 300 } else { 24 };
    let seed = std::env::var("SKERRY_SEED").ok().and_then(|seed| seed.parse().ok());
    let first: u64 = seed.unwrap_or(1);
    let mut root = Node::root_with("[scrub]\nenabled = false\n");
    let user = root.pusher("owner-token", REPOSITORY);
    let user = (user.0.as_str(), user.1.as_str());
    let lefts = leave(&mut root, user);
    let backup = root.dir.join("backup");
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for round in first..first + rounds {
        let mut dice = Dice(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let left = &lefts[dice.roll(lefts.len())];
        replace(&root.state(), &left.state);
        let what = damage(&root.state(), &mut dice);
        let context = format!("SKERRY_SEED={round}: {}, {what:?}", left.state.display());
        root.spawn();
        let outcome = match root.ready() {
            Ok(()) => audit(&root, user, left, &context),
            Err(_) => {
                root.kill();
                let left = if way_out(&root, &backup, &context) { &lefts[0] } else { left };
                root.start();
                let told = audit(&root, user, left, &context);
                // A file of content may be damaged too, and that has no other way out.
                let of_content = what.iter().any(|damage| damage.starts_with("blobs/"));
                let is_right = told == "nothing lost" || of_content && told == "damage told";
                assert!(is_right, "{context}: {told} after the way out");
                "started by the way out"
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
        push_all(&root, user, left, &context);
        root.kill();
    }
    eprintln!("{rounds} damages from seed {first}: {outcomes:?}");
    assert!(outcomes.len() > 1, "the damage did nothing: {outcomes:?}");
}

/// Fills the store; leaves a copy of it as it was after a clean stop, and one after a kill. The
/// backup has what the first has.
fn leave(root: &mut Node, user: (&str, &str)) -> Vec<Left> {
    let mut tags = BTreeMap::new();
    let push = |root: &Node, tags: &mut BTreeMap<String, Image>, tag: String, seed: u64| {
        let image = Image::new(seed, LAYERS);
        assert_eq!(image.push(&root.login, user, REPOSITORY, &tag).status, 201);
        tags.insert(tag, image);
    };
    for number in 0..IMAGES {
        push(root, &mut tags, format!("v{number}"), number + 1);
    }
    push(root, &mut tags, "v0".to_owned(), 50);
    let backup = root.dir.join("backup");
    let output = root.run(&["backup", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    root.stop();
    let clean = Left { state: root.dir.join("clean"), tags: tags.clone() };
    copy(&root.state(), &clean.state);
    root.start();
    for number in IMAGES..2 * IMAGES {
        push(root, &mut tags, format!("v{number}"), number + 1);
    }
    root.kill();
    let killed = Left { state: root.dir.join("killed"), tags };
    copy(&root.state(), &killed.state);
    vec![clean, killed]
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.expect("cp").success());
}

fn replace(state: &Path, with: &Path) {
    let _ = std::fs::remove_dir_all(state);
    copy(with, state);
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

/// Damages one to three files, or what belongs together; says what it did.
fn damage(state: &Path, dice: &mut Dice) -> Vec<String> {
    let mut what = Vec::new();
    if dice.roll(8) == 0 {
        for directory in ["journal", "index"] {
            let _ = std::fs::remove_dir_all(state.join(directory));
        }
        return vec!["journal and index gone".to_owned()];
    }
    for _ in 0..=dice.roll(3) {
        // First a kind of file: there are many more of content than of any other.
        let kinds = ["journal", "index", "blobs", "blobs", "identity", ""];
        let directory = state.join(kinds[dice.roll(kinds.len())]);
        let below = if directory.is_dir() { files(&directory) } else { Vec::new() };
        let Some(file) = below.get(dice.roll(below.len().max(1))) else { continue };
        let name = file.strip_prefix(state).unwrap().display().to_string();
        if name.ends_with(".sock") || name == "lock" {
            continue;
        }
        let mut bytes = std::fs::read(file).unwrap();
        let at = dice.roll(bytes.len().max(1));
        let how = match dice.roll(6) {
            0 => {
                std::fs::remove_file(file).unwrap();
                what.push(format!("{name}: gone"));
                continue;
            }
            1 => {
                bytes.truncate(at);
                format!("cut at {at}")
            }
            2 => {
                let end = (at + 512).min(bytes.len());
                bytes[at..end].fill(0);
                format!("zeros at {at}")
            }
            3 => {
                bytes.extend_from_slice(&image::noise(at as u64, 100));
                "longer".to_owned()
            }
            _ if bytes.is_empty() => continue,
            _ => {
                bytes[at] ^= 1 << dice.roll(8);
                format!("a bit at {at}")
            }
        };
        std::fs::write(file, bytes).unwrap();
        what.push(format!("{name}: {how}"));
    }
    what
}

/// Reads everything that was acknowledged, twice: nothing wrong comes, and what does not come is
/// told, or all of the loss is. Returns how it went.
fn audit(root: &Node, user: (&str, &str), left: &Left, context: &str) -> &'static str {
    let loss_is_told = !root.json(&["status"])["lostRecords"].is_null();
    let authorization = basic(user.0, user.1);
    let login = format!("/oauth2/token?service=x&scope=repository:{REPOSITORY}:pull");
    let headers = [("authorization", authorization.as_str())];
    let answer = send(&root.login, "GET", &login, &headers, b"").unwrap();
    if answer.status != 200 {
        assert!(loss_is_told, "{context}: the login is refused: {answer:?}");
        return "loss told";
    }
    let bearer = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
    let get = |path: &str| {
        let headers = [("authorization", bearer.as_str()), ("accept", MANIFEST)];
        send(&root.login, "GET", &format!("/v2/{REPOSITORY}/{path}"), &headers, b"")
    };
    let mut outcome = "nothing lost";
    for _ in 0..2 {
        for (tag, image) in &left.tags {
            let blobs = image.blobs().map(|blob| (format!("blobs/{}", image::digest(blob)), blob));
            let all = [(format!("manifests/{tag}"), &image.manifest)].into_iter().chain(blobs);
            for (path, expected) in all {
                match get(&path) {
                    Ok(answer) if answer.status == 200 && answer.body == *expected => {}
                    // The last bytes of what is found wrong while it is sent are not sent.
                    Err(_) => outcome = "damage told",
                    Ok(answer) if is_told(&answer) => outcome = "damage told",
                    Ok(answer) if loss_is_told && answer.status == 404 => outcome = "loss told",
                    // An older state of a tag, which was acknowledged too.
                    Ok(answer) if loss_is_told && answer.status == 200 => {
                        let old = Image::new(1, LAYERS).manifest;
                        assert!(tag == "v0" && answer.body == old, "{context}: {path}");
                        outcome = "loss told";
                    }
                    Ok(answer) => {
                        panic!("{context}: {path}: {} {:?}", answer.status, answer.headers)
                    }
                }
            }
        }
    }
    outcome
}

fn is_told(answer: &Answer) -> bool {
    answer.status == 503 && TOLD.contains(&answer.error().1.as_str())
}

/// A start that failed has said how to go on; that is done. Whether it took the backup.
fn way_out(root: &Node, backup: &Path, context: &str) -> bool {
    let output = root.run_to_end();
    let said = String::from_utf8_lossy(&output.stderr);
    const FORMAT: &str = "skerry store format 1";
    if said.contains(&format!("write `{FORMAT}` to it")) {
        std::fs::write(root.state().join("format"), format!("{FORMAT}\n")).unwrap();
        return false;
    }
    assert!(said.contains("skerry restore"), "{context}: no way out: {said}");
    std::fs::remove_dir_all(root.state()).unwrap();
    let mut restore = Command::new(crate::support::node::binary());
    restore.arg("--set").arg(format!("storage.state_dir={}", root.state().display()));
    let output = restore.arg("restore").arg(backup).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{context}: {output:?}");
    true
}

/// What is pushed again is whole again.
fn push_all(root: &Node, user: (&str, &str), left: &Left, context: &str) {
    let scope = format!("repository:{REPOSITORY}:pull,push");
    let Ok(token) = token(&root.login, user.0, user.1, &[&scope]) else { return };
    for (tag, image) in &left.tags {
        let answer = image.push_with(&root.login, &token, REPOSITORY, tag);
        assert_eq!(answer.status, 201, "{context}: {tag}: {answer:?}");
        let pulled = image::pull_with(&root.login, &token, REPOSITORY, tag);
        assert_eq!(pulled.ok(), Some(image.digest()), "{context}: {tag}");
    }
}

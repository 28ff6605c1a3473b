//! State directories that have lost a part: nothing acknowledged is given up unasked, and what a
//! person has to do is named, and works.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::http::{bearer, send, token};
use crate::support::image::{self, Image};
use crate::support::node::Node;
use crate::support::{eventually, skip};
use crate::sync::{SOON, pair, pull};

/// What a start says that fails.
fn refusal(node: &Node) -> String {
    let output = node.run_to_end();
    assert!(!output.status.success(), "it started: {}", node.log());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn remove_index(node: &Node) {
    fs::remove_dir_all(node.state().join("index")).unwrap();
}

/// Content without a journal would be garbage to an empty store, which two runs of the garbage
/// collection would delete.
#[test]
fn f211_a_store_that_has_lost_its_journal_is_not_taken_for_a_new_one() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let image = Image::new(1, &[60_000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    root.stop();
    let state = root.state();
    // Before a start has made an empty journal, and after it.
    let everybody_says = || {
        for verb in [&["config", "check"][..], &["fsck"], &["state", "cut-journal", "--yes"]] {
            let output = root.run_configured(verb);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{verb:?} passes: {output:?}");
            for part in ["no record in journal/", "skerry restore"] {
                assert!(text.contains(part), "{verb:?}: no `{part}` in: {text}");
            }
        }
    };
    fs::remove_dir_all(state.join("journal")).unwrap();
    remove_index(&root);
    everybody_says();
    for format in [true, false] {
        if !format {
            fs::remove_file(state.join("format")).unwrap();
        }
        let why = refusal(&root);
        for part in ["journal", "blobs", "skerry restore", "move"] {
            assert!(why.contains(part), "no `{part}` in: {why}");
        }
        assert!(root.blob_file(&image.layers[0]).exists());
    }
    // The other way out that is named, for a registry that is to begin anew.
    for part in ["blobs", "journal-end"] {
        fs::rename(state.join(part), state.join(part).with_extension("old")).unwrap();
    }
    root.start();
    assert_eq!(root.json(&["status"])["lostRecords"], serde_json::Value::Null);
    assert!(root.blob_file(&image.layers[0]).parent().is_none_or(|path| !path.exists()));
}

/// Symptom: a journal that was cut to nothing, or to its header, and a lost index made a new store,
/// which deleted all content as garbage.
#[test]
fn f211_content_is_kept_when_only_an_empty_journal_is_left() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let image = Image::new(6, &[60_000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    root.kill();
    remove_index(&root);
    let journal = root.state().join("journal");
    let [segment] = fs::read_dir(journal).unwrap().collect::<Vec<_>>().try_into().unwrap();
    let segment = fs::OpenOptions::new().write(true).open(segment.unwrap().path()).unwrap();
    for len in [50, 24, 1, 0] {
        segment.set_len(len).unwrap();
        let why = refusal(&root);
        for part in ["no record in journal/", "blobs/", "skerry restore"] {
            assert!(why.contains(part), "{len} bytes: no `{part}` in: {why}");
        }
        assert!(root.blob_file(&image.layers[0]).exists());
        assert_eq!(segment.metadata().unwrap().len(), len, "it was changed");
    }
}

/// The newest segment of the journal in a state directory or backup.
pub fn last_segment(state: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(state.join("journal")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.pop().unwrap()
}

/// Symptom: with the end of the journal gone after a kill, the log said that nothing was lost: a
/// token that had been disabled worked again, pushes were gone, and their content was garbage.
#[test]
fn f211_a_loss_of_records_is_told_and_nothing_is_removed_until_somebody_agrees() {
    let mut root = Node::root_with("[gc]\nenabled = false\ngrace = \"1s\"\n");
    let user = root.pusher("pusher-one", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let [kept, gone] = [7, 8].map(|seed| Image::new(seed, &[20_000]));
    for (image, tag) in [(&kept, "kept"), (&gone, "gone")] {
        assert_eq!(image.push(&root.login, user, "app", tag).status, 201);
    }
    let deleter = token(&root.login, user.0, user.1, &["repository:app:pull,push,delete"]).unwrap();
    let path = format!("/v2/app/manifests/{}", gone.digest());
    assert_eq!(bearer(&root.login, &deleter, "DELETE", &path, &[], b"").status, 202);
    // A torn append was never acknowledged: it alarms nobody.
    root.kill();
    let segment = last_segment(&root.state());
    let whole = fs::read(&segment).unwrap();
    fs::write(&segment, [&whole[..], &[0xa5; 700]].concat()).unwrap();
    root.start();
    assert_eq!(root.json(&["status"])["lostRecords"], serde_json::Value::Null);
    assert!(!root.log().contains("warn  store"), "{}", root.log());

    for number in 0..5 {
        assert_eq!(kept.push(&root.login, user, "app", &format!("t{number}")).status, 201);
    }
    root.kill();
    fs::remove_file(last_segment(&root.state())).unwrap();
    for _ in 0..2 {
        root.start();
        let status = root.json(&["status"]);
        let told = status["lostRecords"].as_str().unwrap_or_default();
        assert!(told.contains("may be lost") && !told.contains("nothing is lost"), "{status}");
        assert!(status["remedy"].as_str().unwrap().contains("accept-loss"), "{status}");
        assert_eq!(root.metric("skerry_records_lost"), 1);
        root.kill();
    }
    let log = root.log();
    assert!(log.contains("no garbage is collected until") && !log.contains("nothing is lost"));
    root.start();
    let file = root.blob_file(&gone.layers[0]);
    let removed = |held: bool| {
        eventually(Duration::from_secs(20), "the garbage is ripe", || {
            let report = root.json(&["gc"]);
            assert_eq!(report["waitsForOperator"], held, "{report}");
            (report["blobsRemoved"].as_u64() > Some(0)).then_some(report)
        })
    };
    assert_eq!(removed(true)["dryRun"], true);
    assert!(file.exists());
    let accepted = root.run(&["state", "accept-loss", "--yes"]);
    assert!(accepted.status.success(), "{accepted:?}");
    assert_eq!(root.run(&["state", "accept-loss", "--yes"]).status.code(), Some(3));
    assert_eq!(root.json(&["status"])["lostRecords"], serde_json::Value::Null);
    removed(false);
    assert!(!file.exists());
    root.kill();
    root.start();
    assert_eq!(root.json(&["status"])["lostRecords"], serde_json::Value::Null);
    assert_eq!(image::pull(&root.login, user, "app", "kept").unwrap(), kept.digest());
}

/// Symptom: when the end of the journal and the index were lost together, what could be read of the
/// journal was taken for all of it: pushes were gone with a word at level info, and the next
/// collections removed their content.
#[test]
fn f211_a_lost_end_of_the_journal_is_told_also_when_the_index_is_lost_with_it() {
    for stop in [Node::kill as fn(&mut Node), |node: &mut Node| {
        node.stop();
    }] {
        let mut root = Node::root_with("[gc]\nenabled = false\ngrace = \"1s\"\n");
        let user = root.pusher("pusher-one", "app");
        let images: Vec<_> = (0..6).map(|seed| Image::new(seed, &[9_000])).collect();
        for (number, image) in images.iter().enumerate() {
            let pushed = image.push(&root.login, (&user.0, &user.1), "app", &format!("t{number}"));
            assert_eq!(pushed.status, 201);
        }
        stop(&mut root);
        let base = root.state().with_extension("base");
        copy(&root.state(), &base);
        for harm in ["torn", "zeros", "cut"] {
            fs::remove_dir_all(root.state()).unwrap();
            copy(&base, &root.state());
            remove_index(&root);
            harm_end(&last_segment(&root.state()), harm);
            let before = root.log().len();
            root.start();
            let log = root.log()[before..].to_owned();
            match harm {
                "torn" => check_whole(&root, &user, &images[5], &log),
                _ => check_lost(&mut root, &user, &images[5], &log),
            }
            root.kill();
        }
    }
}

/// Symptom: the index, which had all of a journal that had lost its end, was put aside as damaged,
/// and the changes were told as lost. Cause: it could not be opened just then.
#[test]
fn f211_an_index_that_cannot_be_opened_is_kept_where_the_journal_lost_its_end() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let image = Image::new(12, &[9_000]);
    for tag in ["t1", "t2", "t3", "last"] {
        assert_eq!(image.push(&root.login, user, "app", tag).status, 201);
    }
    root.stop();
    let segment = last_segment(&root.state());
    let whole = fs::read(&segment).unwrap();
    fs::write(&segment, &whole[..whole.len() / 2]).unwrap();
    let attributes = |flag: &str| {
        let file = root.state().join("index/db");
        Command::new("chattr").arg(flag).arg(file).status()
    };
    if !attributes("+i").is_ok_and(|status| status.success()) {
        return skip("files that cannot be written (chattr +i)");
    }
    let refused = [&["state", "cut-journal", "--yes"][..], &["serve"]]
        .map(|command| root.run_configured(command));
    assert!(attributes("-i").unwrap().success());
    for refused in refused {
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{why}");
        for part in ["it ends at sequence", "cannot be opened", "nothing was changed"] {
            assert!(why.contains(part), "no `{part}` in: {why}");
        }
    }
    root.start();
    assert_eq!(image::pull(&root.login, user, "app", "last").unwrap(), image.digest());
    assert!(root.json(&["status"])["lostRecords"].as_str().unwrap().contains("may be lost"));
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Harms a segment behind what a power cut leaves whole, or what was acknowledged.
fn harm_end(segment: &Path, harm: &str) {
    const LOST: usize = 1500;
    let whole = fs::read(segment).unwrap();
    let kept = &whole[..whole.len() - LOST];
    let harmed = match harm {
        "torn" => [&whole[..], &[0xa5; 300]].concat(),
        "zeros" => [kept, &[0; LOST]].concat(),
        _ => kept.to_vec(),
    };
    fs::write(segment, harmed).unwrap();
}

fn check_whole(root: &Node, user: &(String, String), last: &Image, log: &str) {
    assert!(!log.contains("warn  store") && !log.contains(" error "), "{log}");
    assert_eq!(root.json(&["status"])["lostRecords"], serde_json::Value::Null);
    assert_eq!(root.json(&["gc"])["waitsForOperator"], false);
    let pulled = image::pull(&root.login, (&user.0, &user.1), "app", "t5");
    assert_eq!(pulled.unwrap(), last.digest());
}

fn check_lost(root: &mut Node, user: &(String, String), last: &Image, log: &str) {
    let user = (user.0.as_str(), user.1.as_str());
    assert!(image::pull(&root.login, user, "app", "t5").is_err(), "nothing is lost");
    let status = root.json(&["status"]);
    let told = status["lostRecords"].as_str().unwrap_or_else(|| panic!("nobody is told: {log}"));
    let error = log.lines().find(|line| line.contains(" error ")).unwrap_or_default();
    for part in [told, "are lost", "push again", "restore a backup", "accept-loss"] {
        assert!(error.contains(part), "no `{part}` in: {log}");
    }
    eventually(Duration::from_secs(20), "the garbage is ripe", || {
        let report = root.json(&["gc"]);
        assert_eq!(report["waitsForOperator"], true, "{report}");
        (report["blobsRemoved"].as_u64() > Some(0)).then_some(())
    });
    assert!(root.blob_file(&last.layers[0]).exists() && root.blob_file(&last.manifest).exists());
    assert!(root.run(&["state", "accept-loss", "--yes"]).status.success());
    assert_eq!(last.push(&root.login, user, "app", "t5").status, 201);
    root.kill();
    root.start();
    assert_eq!(root.json(&["status"])["lostRecords"], serde_json::Value::Null, "told again");
    assert_eq!(image::pull(&root.login, user, "app", "t5").unwrap(), last.digest());
}

/// The key protects tokens of a few hours only.
#[test]
fn f211_a_damaged_token_signing_key_is_replaced() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let image = Image::new(2, &[20_000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let key = root.state().join("identity/token-signing");
    let scope = ["repository:app:pull"];
    for (number, harm) in ["flipped", "cut", "emptied", "another version"].iter().enumerate() {
        let before = token(&root.login, &user.0, &user.1, &scope).unwrap();
        root.stop();
        let bytes = fs::read(&key).unwrap();
        match *harm {
            // In the private key.
            "flipped" => {
                let mut bytes = bytes;
                bytes[50] ^= 1;
                fs::write(&key, bytes).unwrap();
            }
            "cut" => fs::write(&key, &bytes[..bytes.len() / 2]).unwrap(),
            "emptied" => fs::write(&key, b"").unwrap(),
            _ => fs::write(&key, [b"\xee", &bytes[1..]].concat()).unwrap(),
        }
        root.start();
        let log = root.log();
        assert_eq!(log.matches("error the token-signing key").count(), number + 1, "{harm}: {log}");
        let asked = bearer(&root.login, &before, "GET", "/v2/app/manifests/v1", &[], b"");
        assert_eq!(asked.status, 401, "{harm}");
        let pulled = image::pull(&root.login, (&user.0, &user.1), "app", "v1");
        assert_eq!(pulled.unwrap(), image.digest(), "{harm}");
        // The new one stays.
        let after = token(&root.login, &user.0, &user.1, &scope).unwrap();
        root.kill();
        root.start();
        let asked = bearer(&root.login, &after, "GET", "/v2/app/manifests/v1", &[], b"");
        assert_eq!(asked.status, 200, "{harm}");
    }
}

#[test]
fn f211_a_damaged_format_file_is_mended_as_the_error_says() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let image = Image::new(3, &[20_000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let format = root.state().join("format");
    for harm in [b"".as_slice(), b"skerry store", b"\0\0\0\0"] {
        root.stop();
        fs::write(&format, harm).unwrap();
        let why = refusal(&root);
        let text = why.split('`').nth(1).unwrap_or_else(|| panic!("no text to write in: {why}"));
        assert!(why.contains("write `") && why.contains("newer version"), "{why}");
        fs::write(&format, text).unwrap();
        root.start();
        let pulled = image::pull(&root.login, (&user.0, &user.1), "app", "v1");
        assert_eq!(pulled.unwrap(), image.digest());
    }
}

/// The journal is damaged and the index, which could make up for it, is gone. The way out is named
/// with what it costs, and keeps what came before the damage.
#[test]
fn f211_a_damaged_journal_without_an_index_is_cut_when_somebody_says_so() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let [early, late] = [4, 5].map(|seed| Image::new(seed, &[20_000]));
    assert_eq!(early.push(&root.login, user, "app", "early").status, 201);
    let segment = last_segment(&root.state());
    let kept = fs::metadata(&segment).unwrap().len();
    for tag in ["late", "later", "latest"] {
        assert_eq!(late.push(&root.login, user, "app", tag).status, 201);
    }
    root.kill();
    remove_index(&root);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[usize::try_from(kept).unwrap() + 40] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let why = refusal(&root);
    for part in ["skerry restore", "skerry state cut-journal", "are lost"] {
        assert!(why.contains(part), "no `{part}` in: {why}");
    }
    // What serve fails on is what a check says.
    let check = || root.run_configured(&["config", "check"]);
    let checked = check();
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stderr).contains("cut-journal"), "{checked:?}");
    let output = root.run_configured(&["state", "cut-journal", "--yes"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("lost"), "{text}");
    assert!(check().status.success(), "{:?}", check());
    // What was mended passes, stopped and running.
    let output = root.run_configured(&["fsck"]);
    assert!(output.status.success(), "{output:?}");
    root.start();
    assert_eq!(root.json(&["fsck"])["problems"], 0);
    // Content that only the lost changes named is no garbage until somebody agrees.
    let told = root.json(&["status"]);
    assert!(told["lostRecords"].as_str().unwrap().contains("cut off"), "{told}");
    assert_eq!(image::pull(&root.login, user, "app", "early").unwrap(), early.digest());
    assert_eq!(image::pull(&root.login, user, "app", "latest").unwrap_err().status, 404);
    assert_eq!(late.push(&root.login, user, "app", "latest").status, 201);
    root.kill();
    root.start();
    assert_eq!(image::pull(&root.login, user, "app", "latest").unwrap(), late.digest());
    // There is nothing to cut any more, and nothing is.
    root.stop();
    let output = root.run_configured(&["state", "cut-journal", "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    root.start();
    assert_eq!(image::pull(&root.login, user, "app", "latest").unwrap(), late.digest());
}

/// Symptom: each push failed, and neither `status`, `/readyz` nor the log named the directory.
#[test]
fn f211_f212_a_directory_that_takes_no_file_is_named_until_it_does() {
    let root = Node::root();
    let (user, password) = root.pusher("owner-token", "*");
    let login = root.login.clone();
    let push = |seed: u64| {
        let image = Image::new(seed, &[100_000]);
        image.push(&login, (&user, &password), "app", "v1").status
    };
    let ready =
        || String::from_utf8(send(&login, "GET", "/readyz", &[], b"").unwrap().body).unwrap();
    assert_eq!((push(72), ready().as_str()), (201, "ready\n"));
    let (directory, aside) = (root.state().join("uploads"), root.state().join("aside"));
    fs::rename(&directory, &aside).unwrap();
    fs::write(&directory, b"").unwrap();
    assert_eq!(push(73), 503);
    let told = root.json(&["status"]);
    let reason = format!("no file can be made in {}: ", directory.display());
    assert!(told["reason"].as_str().unwrap().contains(&reason), "{told}");
    assert!(told["remedy"].as_str().unwrap().contains("chown"), "{told}");
    assert!(ready().starts_with("ready, but ") && ready().contains(&reason), "{}", ready());
    assert!(root.log().contains(&reason), "{}", root.log());
    fs::remove_file(&directory).unwrap();
    fs::rename(&aside, &directory).unwrap();
    // By itself, and not with the next push only.
    assert_eq!(ready(), "ready\n");
    assert_eq!(push(74), 201);
}

/// Symptom: each start failed, named no cure, and `config check` saw nothing.
#[test]
fn f211_a_quarantine_that_cannot_be_read_stops_nothing() {
    let mut root = Node::root();
    let (user, password) = root.pusher("owner-token", "*");
    let image = Image::new(75, &[20_000]);
    assert_eq!(image.push(&root.login, (&user, &password), "app", "v1").status, 201);
    let layer = root.blob_file(&image.layers[0]);
    fs::write(&layer, vec![7; image.layers[0].len()]).unwrap();
    let scrubbed = root.run(&["scrub", "--full-speed"]);
    assert!(!scrubbed.status.success(), "{scrubbed:?}");
    root.stop();
    // Root may list every directory: something else stands in its place.
    let quarantine = root.state().join("quarantine");
    fs::remove_dir_all(&quarantine).unwrap();
    fs::write(&quarantine, b"").unwrap();
    let checked = root.run_configured(&["config", "check"]);
    let why = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && why.contains("quarantine"), "{why}");
    root.start();
    assert!(root.log().contains("what is known to be damaged cannot be read"), "{}", root.log());
    eventually(SOON, "what is damaged is known again", || {
        (root.json(&["status"])["damagedBlobs"] == 1).then_some(())
    });
}

/// Symptom: a directory in `quarantine/` or `uploads/` stopped every start, one stray file beside
/// the blobs every garbage collection. Cause: what lies there was taken for a file of ours.
#[test]
fn f211_what_a_person_left_in_the_state_directory_is_left_alone() {
    let mut root = Node::root();
    let (user, password) = root.pusher("owner-token", "*");
    let image = Image::new(71, &[2000]);
    assert_eq!(image.push(&root.login, (&user, &password), "app", "v1").status, 201);
    root.stop();
    let state = root.state();
    let quarantined = format!("quarantine/{}", image.digest().replace(':', "."));
    let directories = [&quarantined, "uploads/old", "identity/old"].map(|name| state.join(name));
    for directory in &directories {
        fs::create_dir_all(directory).unwrap();
    }
    let stray = state.join("blobs/sha256/notes.txt");
    fs::write(&stray, "x").unwrap();
    root.start();
    let backup = state.with_file_name("backup");
    for command in [&["gc"][..], &["fsck"], &["scrub"], &["backup", backup.to_str().unwrap()]] {
        let output = root.run(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    assert!(directories.iter().chain([&stray]).all(|path| path.exists()));
    fs::write(backup.join("blobs/sha256/.DS_Store"), "x").unwrap();
    for part in ["identity/old", "journal/old"] {
        fs::create_dir_all(backup.join(part)).unwrap();
    }
    let output = root.run(&["backup", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let other = format!("storage.state_dir={}", state.with_file_name("other").display());
    let output = root.run(&["--set", &other, "restore", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let pulled = image::pull(&root.login, (&user, &password), "app", "v1");
    assert_eq!(pulled.unwrap(), image.digest());
}

/// Symptom: with an empty instance id (a power cut may leave one) a device started and never synced
/// again: its parent refused it as malformed, and the remedy was about a connection string.
#[test]
fn f211_a_damaged_instance_id_is_replaced_and_the_way_out_is_named() {
    let (root, mut device, user) = pair("ReadOnly");
    let file = device.state().join("identity/instance-id");
    let id = fs::read(&file).unwrap();
    // What a person has edited is the same.
    device.stop();
    fs::write(&file, [&id[..], b"\n"].concat()).unwrap();
    device.start();
    eventually(SOON, "it is in contact", || {
        (device.json(&["status"])["sync"]["contact"] == "in contact").then_some(())
    });
    for harm in [b"".as_slice(), &[0; 36]] {
        device.kill();
        fs::write(&file, harm).unwrap();
        let before = device.log().len();
        device.start();
        let status = eventually(SOON, "the parent refuses the new instance", || {
            let status = device.json(&["status"]);
            (status["state"] != "Active" && status["parentSays"].is_string()).then_some(status)
        });
        assert_eq!(status["state"], "AlreadyActivated", "{status}");
        let log = device.log()[before..].to_owned();
        let warning = log.lines().find(|line| line.contains("instance id")).unwrap_or_default();
        assert!(warning.contains("connected-registry deactivate --name dock01"), "{log}");
        assert!(pull(&device, &user, "app", "v1").is_ok(), "what is here is served");
        root.json(&["connected-registry", "deactivate", "--name", "dock01", "--yes"]);
        eventually(SOON * 4, "it is active again", || {
            let status = device.json(&["status"]);
            if status["state"] == "Deactivated" {
                device.stop();
                device.start();
            }
            (status["state"] == "Active").then_some(())
        });
    }
}

#[test]
fn f211_a_damaged_self_signed_certificate_is_replaced() {
    let mut root = Node::root_with("[tls]\nmode = \"self-signed\"\n");
    let file = root.state().join("identity/tls.pem");
    let pem = fs::read(&file).unwrap();
    for harm in [b"".as_slice(), &pem[..pem.len() / 2]] {
        root.kill();
        fs::write(&file, harm).unwrap();
        let before = root.log().len();
        root.start();
        let log = root.log()[before..].to_owned();
        assert!(log.contains("error the self-signed certificate"), "{log}");
        let made = fs::read(&file).unwrap();
        assert!(made != harm && made.len() > pem.len() / 2);
        root.kill();
        root.start();
        assert_eq!(fs::read(&file).unwrap(), made, "the new one stays");
    }
}

/// Symptom: a device that had lost acknowledged changes was `Online` at its root, without a word;
/// while its parent was out of contact the remedy in its own status was about that only.
#[test]
fn f211_a_loss_at_a_device_is_told_at_its_root_and_beside_what_else_is_wrong() {
    let (mut root, mut device, user) = pair("ReadWrite");
    for number in 0..6 {
        let (image, tag) = (Image::new(70 + number, &[9_000]), format!("t{number}"));
        assert_eq!(image.push(&device.login, (&user.0, &user.1), "app", &tag).status, 201);
    }
    device.kill();
    remove_index(&device);
    harm_end(&last_segment(&device.state()), "cut");
    device.start();
    let at_root = |root: &Node| {
        let shown = root.json(&["connected-registry", "show", "--name", "dock01"]);
        let details = shown["statusDetails"].as_array().unwrap().clone();
        let told = details.into_iter().find(|detail| detail["code"] == "RecordsLost");
        (shown["connectionState"].clone(), told)
    };
    let (state, told) = eventually(SOON, "the root knows", || {
        let (state, told) = at_root(&root);
        Some((state, told?))
    });
    assert_eq!((&state, &told["type"]), (&"Unhealthy".into(), &"Storage".into()), "{told}");
    for part in ["are lost", "push again", "skerry state accept-loss"] {
        assert!(told["description"].as_str().unwrap().contains(part), "no `{part}`: {told}");
    }
    root.kill();
    device.kill();
    // As a node that was set back: it compares everything.
    for file in ["identity/feed-epoch", "feed-epoch"] {
        fs::remove_file(device.state().join(file)).unwrap();
    }
    device.start();
    let status = eventually(SOON * 2, "it says that its parent is away", || {
        let status = device.json(&["status"]);
        (status["sync"]["contact"] == "out of contact").then_some(status)
    });
    assert!(status["lostRecords"].is_string(), "{status}");
    for (field, parts) in [
        ("reason", ["cannot connect", "records may have been lost"]),
        ("remedy", ["check that the parent runs", "skerry state accept-loss"]),
    ] {
        let text = status[field].as_str().unwrap();
        assert!(parts.iter().all(|part| text.contains(part)), "{field}: {status}");
    }
    // What the garbage collection waits for is said as it is.
    let collected = device.run(&["gc"]);
    let why = String::from_utf8_lossy(&collected.stderr).into_owned();
    for part in ["is to be compared with the parent", "which is out of contact", "a dry run"] {
        assert!(why.contains(part), "no `{part}` in: {why}");
    }
    root.start();
    assert!(device.run(&["state", "accept-loss", "--yes"]).status.success());
    eventually(SOON * 2, "it is not told any more", || at_root(&root).1.is_none().then_some(()));
}

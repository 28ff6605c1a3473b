//! Changes made at a device on their way up: none is taken for another, refused for ever, or lost.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::http::{Answer, bearer, token};
use crate::support::image::{INDEX, Image, MANIFEST, digest, push_blob};
use crate::support::node::{Node, sync_token};
use crate::sync::{SOON, pull, root_behind};

pub type User = (String, String);

/// Connects a ReadWrite device that mirrors `app`, and starts it.
fn device(root: &Node, user: &User) -> Node {
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    Node::start_device(&connection)
}

/// Pushes an image of this seed at a node, as soon as it takes pushes; its digest.
pub fn push(node: &Node, user: &User, seed: u64, repository: &str, tag: &str) -> String {
    let image = Image::new(seed, &[2000]);
    eventually(SOON, "a push is taken", || {
        let answer = image.push(&node.login, (&user.0, &user.1), repository, tag);
        (answer.status == 201).then_some(())
    });
    image.digest()
}

/// A peer that was cut off without a word is noticed after 30 s without progress, and the next call
/// waits its turn.
const AFTER_CUTS: Duration = Duration::from_secs(120);

/// Waits until each of these tags names what it should.
pub fn arrive(node: &Node, user: &User, repository: &str, tags: &[(String, String)]) {
    for (tag, digest) in tags {
        eventually(AFTER_CUTS, &format!("{repository}:{tag} arrives"), || {
            pull(node, user, repository, tag).ok().filter(|came| came == digest)
        });
    }
}

fn push_all(node: &Node, user: &User, names: &str, seeds: std::ops::Range<u64>) -> Vec<User> {
    let push = |seed| {
        let tag = format!("{names}{seed}");
        let digest = push(node, user, seed, "app", &tag);
        (tag, digest)
    };
    seeds.map(push).collect()
}

#[test]
fn f130_pushes_of_a_device_that_was_deleted_and_made_again_arrive_and_stay() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let first = device(&root, &user);
    let before = push_all(&first, &user, "before", 1..5);
    arrive(&root, &user, "app", &before);
    drop(first);
    let delete = ["connected-registry", "delete", "--name", "dock01", "--cleanup", "--yes"];
    let output = root.run(&delete);
    assert!(output.status.success(), "{output:?}");
    let second = device(&root, &user);
    arrive(&second, &user, "app", &before);
    let after = push_all(&second, &user, "after", 11..14);
    arrive(&root, &user, "app", &after);
    // A full comparison later they are still there.
    let add = ["connected-registry", "permissions", "update", "--name", "dock01", "--add", "lab"];
    root.json(&add);
    push(&root, &user, 20, "lab", "v1");
    eventually(SOON, "the comparison is over", || pull(&second, &user, "lab", "v1").ok());
    for node in [&root, &second] {
        arrive(node, &user, "app", &before);
        arrive(node, &user, "app", &after);
    }
}

#[test]
fn f130_f201_pushes_of_a_device_that_was_restored_arrive_and_stay() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let mut device = device(&root, &user);
    let kept = push_all(&device, &user, "kept", 1..3);
    arrive(&root, &user, "app", &kept);
    let backup = device.state().with_file_name("backup");
    let output = device.run(&["backup", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let lost = push_all(&device, &user, "lost", 11..16);
    arrive(&root, &user, "app", &lost);

    restore(&mut device, &backup);
    let after = push_all(&device, &user, "after", 21..28);
    arrive(&root, &user, "app", &after);
    // What had arrived at the parent comes back from there.
    for node in [&root, &device] {
        for tags in [&kept, &lost, &after] {
            arrive(node, &user, "app", tags);
        }
    }
    let log = device.log();
    assert!(!log.contains("moved or removed at the parent too"), "{log}");
}

/// Replaces the state of a device by a backup of it, as an operator does, and starts it.
fn restore(device: &mut Node, backup: &std::path::Path) {
    device.kill();
    std::fs::rename(device.state(), device.state().with_file_name("broken")).unwrap();
    let state = format!("storage.state_dir={}", device.state().display());
    let output = device.run(&["--set", &state, "restore", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    device.start();
}

#[test]
fn f130_f201_what_a_restored_device_had_delivered_before_undoes_nothing_that_came_after() {
    deliver_again_after(0);
}

/// Symptom: what a device pushed again from an old backup was there again at the root, though it
/// had been deleted since. Cause: deliveries of the last 16 starts were remembered.
#[test]
fn f130_f201_nor_does_what_it_had_delivered_many_starts_ago() {
    deliver_again_after(18);
}

/// Has a device make so many starts between a backup, in which changes wait, and its restore.
fn deliver_again_after(starts: u64) {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let mut device = device(&root, &user);
    let first = [("v1", 1), ("old", 2)]
        .map(|(tag, seed)| (tag.to_owned(), push(&device, &user, seed, "app", tag)));
    arrive(&root, &user, "app", &first);
    root.kill();
    let waiting = [("v1", 3), ("new", 4)]
        .map(|(tag, seed)| (tag.to_owned(), push(&device, &user, seed, "app", tag)));
    assert_eq!(delete(&device, &user, "app", "old"), 202);
    let backup = device.state().with_file_name("backup");
    let output = device.run(&["backup", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    root.start();
    arrive(&root, &user, "app", &waiting);
    // All of that has arrived, and is changed again.
    assert_eq!(delete(&device, &user, "app", "new"), 202);
    let mut last = [("v1", 5), ("old", 6)]
        .map(|(tag, seed)| (tag.to_owned(), push(&device, &user, seed, "app", tag)));
    arrive(&root, &user, "app", &last);
    for start in 0..starts {
        device.kill();
        device.start();
        last[1].1 = push(&device, &user, 1000 + start, "app", "old");
        arrive(&root, &user, "app", &last);
    }

    restore(&mut device, &backup);
    let after = push(&device, &user, 7, "app", "after");
    arrive(&root, &user, "app", &[("after".to_owned(), after.clone())]);
    let wanted: BTreeMap<_, _> = last.into_iter().chain([("after".to_owned(), after)]).collect();
    for node in [&root, &device] {
        eventually(SOON, &format!("{wanted:?} at both ends"), || {
            (tags(node, &user, "app") == wanted).then_some(())
        });
    }
    let log = device.log();
    assert!(!log.contains("moved or removed at the parent too"), "{log}");
}

/// Symptom: an image that was deleted at the root was there again after a device was restored.
/// Cause: the root had refused the push when the backup was made, and taken it since; the restored
/// device pushed it under another name.
#[test]
fn f130_f201_nor_does_what_the_parent_had_refused_when_the_backup_was_made() {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let mut device = device(&root, &user);
    let first = [("v1".to_owned(), push(&device, &user, 1, "app", "v1"))];
    arrive(&root, &user, "app", &first);
    root.kill();
    let waiting = [("v1", 2), ("new", 3)]
        .map(|(tag, seed)| (tag.to_owned(), push(&device, &user, seed, "app", tag)));
    device.kill();
    root.start();
    permissions(&root, &["--add", "lab", "--remove", "app"]);
    device.start();
    eventually(SOON, "both are refused", || (refused(&root).len() == 2).then_some(()));
    let backup = device.state().with_file_name("backup");
    let output = device.run(&["backup", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    permissions(&root, &["--add", "app"]);
    arrive(&root, &user, "app", &waiting);
    // Both are undone there: one is deleted, the other one is what it was.
    assert_eq!(delete(&root, &user, "app", &waiting[1].1), 202);
    push(&root, &user, 1, "app", "v1");

    restore(&mut device, &backup);
    let after = [first[0].clone(), ("after".to_owned(), push(&device, &user, 4, "app", "after"))];
    arrive(&root, &user, "app", &after);
    let wanted: BTreeMap<_, _> = after.into_iter().collect();
    for node in [&root, &device] {
        eventually(SOON, &format!("{wanted:?} at both ends"), || {
            (tags(node, &user, "app") == wanted).then_some(())
        });
    }
    eventually(SOON, "nothing is refused", || refused(&root).is_empty().then_some(()));
}

/// What the root shows of refused pushes of the device.
fn refused(root: &Node) -> Vec<String> {
    let shown = root.json(&["connected-registry", "show", "--name", "dock01"]);
    let details = shown["statusDetails"].as_array().cloned().unwrap_or_default();
    let refused = details.iter().filter(|detail| detail["code"] == "PushRefused");
    refused.map(|detail| detail["description"].as_str().unwrap().to_owned()).collect()
}

pub fn permissions(root: &Node, change: &[&str]) {
    let mut update = vec!["connected-registry", "permissions", "update", "--name", "dock01"];
    update.extend_from_slice(change);
    root.json(&update);
}

/// Has the device compare everything with the root, and waits until that is over.
pub fn compare(root: &Node, device: &Node, user: &User, repository: &str) {
    permissions(root, &["--add", repository]);
    push(root, user, 900, repository, "v1");
    eventually(SOON, "the comparison is over", || pull(device, user, repository, "v1").ok());
}

#[test]
fn f204_f130_a_push_over_the_parents_quota_stays_and_goes_up_when_there_is_room() {
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("quotas = [\"app=100KiB\"]\n");
    root.start();
    let user = root.pusher("owner-token", "*");
    let mut device = device(&root, &user);
    let push_at = |device: &Node, seed, sizes: &[usize], tag: &str| {
        let image = Image::new(seed, sizes);
        let owner = (user.0.as_str(), user.1.as_str());
        let answer = image.push(&device.login, owner, "app", tag);
        assert_eq!(answer.status, 201, "{answer:?}");
        (tag.to_owned(), image.digest())
    };
    let small = vec![("small".to_owned(), push(&device, &user, 1, "app", "small"))];
    arrive(&root, &user, "app", &small);
    let (_, first) = push_at(&device, 2, &[300_000], "big");
    let told = eventually(SOON, "the refusal is told", || refused(&root).pop());
    for part in ["app:big", first.as_str(), "quota_exceeded", "102400"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Its tag moves on, and another one is removed; the others are not held up.
    let (_, untagged) = push_at(&device, 5, &[320_000], "gone");
    assert_eq!(delete(&device, &user, "app", "gone"), 202);
    let big = vec![push_at(&device, 3, &[310_000], "big")];
    let other = vec![push_at(&device, 4, &[10], "other")];
    arrive(&root, &user, "app", &other);
    compare(&root, &device, &user, "lab");
    device.kill();
    device.start();
    compare(&root, &device, &user, "lab2");
    for (reference, digest) in [("big", &big[0].1), (&first, &first), (&untagged, &untagged)] {
        assert_eq!(pull(&device, &user, "app", reference).as_ref().ok(), Some(digest));
    }
    assert_eq!(pull(&root, &user, "app", "big").unwrap_err().status, 404);
    eventually(SOON, "it is told once more", || refused(&root).pop());

    root.kill();
    root.know_only_as("quotas = [\"app=10MiB\"]\n");
    // The device notices that it is started anew, however soon.
    root.start();
    arrive(&root, &user, "app", &big);
    arrive(&device, &user, "app", &big);
    for digest in [&first, &untagged] {
        eventually(SOON, "what a tag named before arrives", || {
            pull(&root, &user, "app", digest).ok()
        });
    }
    assert_eq!(pull(&root, &user, "app", "gone").unwrap_err().status, 404);
    eventually(SOON, "nothing is refused", || refused(&root).is_empty().then_some(()));
    let log = device.log();
    assert!(!log.contains("moved or removed at the parent too"), "{log}");
}

/// Symptom: while the parent had no room each push of a repository was tried for ten seconds, and
/// what was deleted after them, which makes room, waited for all of them.
#[test]
fn f204_f130_pushes_that_find_no_room_at_the_parent_hold_up_no_deletion_one_by_one() {
    const PUSHES: u64 = 5;
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("quotas = [\"app=200KiB\"]\n");
    root.start();
    let user = root.pusher("owner-token", "*");
    let device = device(&root, &user);
    let small = vec![("small".to_owned(), push(&device, &user, 1, "app", "small"))];
    arrive(&root, &user, "app", &small);
    // Somebody's upload that goes on keeps what is left of the quota.
    let access = token(&root.login, &user.0, &user.1, &["repository:app:*"]).unwrap();
    let ask = |method: &str, target: &str, body: &[u8]| {
        bearer(&root.login, &access, method, target, &[], body)
    };
    let started = ask("POST", "/v2/app/blobs/uploads/", b"");
    let upload = started.header("location").unwrap().to_owned();
    assert_eq!(ask("PATCH", &upload, &[7; 190_000]).status, 202);
    let ended = AtomicBool::new(false);
    let pushes: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while !ended.load(Ordering::Relaxed) && begun.elapsed() < 2 * SOON {
                ask("PATCH", &upload, b"7");
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        let pushes = (0..PUSHES).map(|seed| {
            let (image, tag) = (Image::new(10 + seed, &[20_000]), format!("v{seed}"));
            let answer = image.push(&device.login, (&user.0, &user.1), "app", &tag);
            (tag, image.digest(), answer.status)
        });
        let pushes = pushes.collect();
        assert_eq!(delete(&device, &user, "app", "small"), 202);
        eventually(SOON, "the deletion arrives", || pull(&root, &user, "app", "small").err());
        ended.store(true, Ordering::Relaxed);
        pushes
    });
    assert!(pushes.iter().all(|(_, _, status)| *status == 201), "{pushes:?}");
    let log = device.log();
    let tries = log.matches("retrying a push to the parent repository=app").count();
    assert!((1..=4).contains(&tries), "{tries} tries in vain at once: {log}");
    // All arrive when there is room.
    assert_eq!(ask("DELETE", &upload, b"").status, 204);
    let pushes: Vec<_> = pushes.into_iter().map(|(tag, digest, _)| (tag, digest)).collect();
    root.kill();
    root.start();
    arrive(&root, &user, "app", &pushes);
}

#[test]
fn f204_f130_a_push_that_the_grant_forbids_stays_and_goes_up_when_it_allows_it() {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let mut device = device(&root, &user);
    let before = vec![("v1".to_owned(), push(&device, &user, 1, "app", "v1"))];
    arrive(&root, &user, "app", &before);
    root.kill();
    let offline = [("v1", 2), ("v2", 3), ("v2", 4)]
        .map(|(tag, seed)| (tag.to_owned(), push(&device, &user, seed, "app", tag)));
    device.kill();
    root.start();
    permissions(&root, &["--add", "lab", "--remove", "app"]);
    device.start();
    // The two tags, and what v2 named first.
    eventually(SOON, "the refusals are told", || (refused(&root).len() == 3).then_some(()));
    let told = refused(&root).remove(0);
    assert!(told.contains("permissions update --name dock01 --add app"), "{told}");
    assert!(told.contains("or its parent is restarted"), "{told}");
    permissions(&root, &["--add", "app"]);
    let last = [offline[0].clone(), offline[2].clone()];
    for node in [&root, &device] {
        arrive(node, &user, "app", &last);
    }
    compare(&root, &device, &user, "lab2");
    arrive(&device, &user, "app", &last);
    eventually(SOON, "nothing is refused", || refused(&root).is_empty().then_some(()));
    let log = device.log();
    assert!(!log.contains("moved or removed at the parent too"), "{log}");
    assert!(log.contains("delivered what the parent had refused: "), "{log}");
}

#[test]
fn f204_f130_content_that_cannot_be_read_here_is_no_refusal_of_the_parent() {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let device = device(&root, &user);
    push_all(&device, &user, "before", 1..2);
    root.kill();
    let image = Image::new(2, &[2000]);
    let pushed = vec![("v1".to_owned(), push(&device, &user, 2, "app", "v1"))];
    let hex = digest(&image.layers[0])["sha256:".len()..].to_owned();
    let layer = device.state().join("blobs/sha256").join(&hex[..2]).join(&hex);
    let aside = layer.with_extension("aside");
    std::fs::rename(&layer, &aside).unwrap();
    root.start();
    // What waits in the same repository comes later, and is not held up for ever.
    let other = vec![("other".to_owned(), push(&device, &user, 3, "app", "other"))];
    arrive(&root, &user, "app", &other);
    let told = eventually(SOON, "the fault is told", || refused(&root).pop());
    assert!(told.contains("app:v1") && told.contains("is missing here"), "{told}");
    assert!(!told.contains("the parent refused"), "{told}");
    assert!(!device.log().contains("the parent refused"), "{}", device.log());
    // It is there again.
    std::fs::rename(&aside, &layer).unwrap();
    permissions(&root, &["--add", "lab"]);
    arrive(&root, &user, "app", &pushed);
}

#[test]
fn f204_f130_an_index_goes_up_as_soon_as_the_child_is_back_that_was_deleted_before() {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let device = device(&root, &user);
    let children = [1, 2].map(|seed| Image::new(seed, &[100]));
    let entries = children.each_ref().map(|child| {
        serde_json::json!({"mediaType": MANIFEST, "digest": child.digest(),
            "size": child.manifest.len()})
    });
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let index = index.to_string();
    push_all(&device, &user, "before", 11..12);
    root.kill();
    let owner = (user.0.as_str(), user.1.as_str());
    let push_child = |child: &Image| {
        let pushed = child.push(&device.login, owner, "app", &child.digest());
        assert_eq!(pushed.status, 201, "{pushed:?}");
    };
    children.iter().for_each(push_child);
    let scope = "repository:app:pull,push";
    let bearer_token = token(&device.login, owner.0, owner.1, &[scope]).unwrap();
    let typed = [("content-type", INDEX)];
    let target = "/v2/app/manifests/multi";
    let put = bearer(&device.login, &bearer_token, "PUT", target, &typed, index.as_bytes());
    assert_eq!(put.status, 201, "{put:?}");
    assert_eq!(delete(&device, &user, "app", &children[0].digest()), 202);
    root.start();
    let told = eventually(SOON, "the refusal is told", || refused(&root).pop());
    assert!(told.contains("app:multi") && told.contains(&children[0].digest()), "{told}");
    // The tag does not wait for that.
    let other = vec![("multi".to_owned(), push(&device, &user, 3, "app", "multi"))];
    arrive(&root, &user, "app", &other);
    let by_digest = format!("app@{}", digest(index.as_bytes()));
    eventually(SOON, "the index is refused by its digest", || {
        refused(&root).pop().filter(|told| told.contains(&by_digest))
    });
    push_child(&children[0]);
    let arrives = || pull(&root, &user, "app", &digest(index.as_bytes())).ok();
    eventually(SOON, "the index arrives", arrives);
    arrive(&root, &user, "app", &other);
    eventually(SOON, "nothing is refused", || refused(&root).is_empty().then_some(()));
}

#[test]
fn f130_a_state_that_was_set_back_loses_no_push() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let mut device = device(&root, &user);
    let kept = push_all(&device, &user, "kept", 1..3);
    arrive(&root, &user, "app", &kept);
    assert!(device.stop().success());
    // As a snapshot does: the store does not know, so it gives the same numbers again.
    let (state, copy) = (device.state(), device.state().with_file_name("copy"));
    let copied = Command::new("cp").arg("-a").args([&state, &copy]).status().unwrap();
    assert!(copied.success());
    device.start();
    let lost = push_all(&device, &user, "lost", 11..16);
    arrive(&root, &user, "app", &lost);
    device.kill();
    std::fs::rename(&state, state.with_file_name("broken")).unwrap();
    std::fs::rename(&copy, &state).unwrap();
    device.start();
    let after = push_all(&device, &user, "after", 21..24);
    for node in [&root, &device] {
        for tags in [&kept, &lost, &after] {
            arrive(node, &user, "app", tags);
        }
    }
}

#[test]
fn f130_a_number_stands_for_one_change_only() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    let password = connection.split("SyncTokenPassword=").nth(1).unwrap();
    let password = password.split(';').next().unwrap();
    let images = [1, 2, 3].map(|seed| Image::new(seed, &[100]));
    let scope = "repository:app:pull,push,delete";
    let sync = token(&root.login, &sync_token("dock01"), password, &[scope]).unwrap();
    for blob in images.iter().flat_map(Image::blobs) {
        assert_eq!(push_blob(&root.login, &sync, "app", blob).status, 201);
    }
    let send = |method: &str, tag: &str, number: u64, image: usize| {
        let id = format!("dock01 {number}");
        let headers = [
            ("content-type", MANIFEST),
            ("skerry-outbox-id", id.as_str()),
            ("skerry-outbox-incarnation", "00000000000000aa"),
        ];
        let target = format!("/v2/app/manifests/{tag}");
        let body: &[u8] = if method == "PUT" { &images[image].manifest } else { b"" };
        bearer(&root.login, &sync, method, &target, &headers, body)
    };
    let now = |tag: &str| pull(&root, &user, "app", tag).ok();
    let mismatch = |answer: Answer| {
        assert_eq!((answer.status, answer.error().1.as_str()), (409, "outbox_mismatch"));
    };
    assert_eq!(send("PUT", "v1", 5, 0).status, 201);
    assert_eq!(send("PUT", "v1", 6, 1).status, 201);
    mismatch(send("PUT", "v1", 5, 0));
    mismatch(send("PUT", "v2", 5, 0));
    mismatch(send("DELETE", "v1", 6, 0));
    assert_eq!(send("PUT", "v1", 6, 1).status, 201, "its answer may have been lost");
    assert_eq!(send("PUT", "v1", 5, 1).status, 201, "the tag names it already");
    assert_eq!(now("v1"), Some(images[1].digest()));
    assert_eq!(send("PUT", "v1", 4, 2).status, 201, "it was refused before");
    assert_eq!(now("v1"), Some(images[2].digest()));
    assert_eq!(send("DELETE", "v1", 7, 0).status, 202);
    assert_eq!(send("DELETE", "v1", 7, 0).status, 202, "a replay");
    assert_eq!(send("PUT", "v4", 8, 0).status, 201);
    mismatch(send("PUT", "v1", 6, 1));
    mismatch(send("DELETE", &images[0].digest(), 3, 0));
    assert_eq!((now("v1"), now("v2")), (None, None));
    assert_eq!(now("v4"), Some(images[0].digest()), "a late removal takes nothing away");
}

/// Removes a tag, or a manifest by its digest, at a node.
pub fn delete(node: &Node, user: &User, repository: &str, reference: &str) -> u16 {
    let scope = format!("repository:{repository}:pull,push,delete");
    let bearer_token = token(&node.login, &user.0, &user.1, &[&scope]).unwrap();
    let target = format!("/v2/{repository}/manifests/{reference}");
    bearer(&node.login, &bearer_token, "DELETE", &target, &[], b"").status
}

/// All tags of a repository, with what they name.
pub fn tags(node: &Node, user: &User, repository: &str) -> BTreeMap<String, String> {
    let scope = format!("repository:{repository}:pull,metadata_read");
    let bearer_token = token(&node.login, &user.0, &user.1, &[&scope]).unwrap();
    let target = format!("/v2/{repository}/tags/list?n=1000");
    let answer = bearer(&node.login, &bearer_token, "GET", &target, &[], b"");
    if answer.status == 404 {
        return BTreeMap::new();
    }
    let list = answer.json()["tags"].as_array().cloned().unwrap_or_default();
    let named = |tag: &serde_json::Value| {
        let tag = tag.as_str().unwrap().to_owned();
        let target = format!("/v2/{repository}/manifests/{tag}");
        let answer = bearer(&node.login, &bearer_token, "HEAD", &target, &[], b"");
        let digest = answer.header("docker-content-digest").unwrap_or("gone").to_owned();
        (tag, digest)
    };
    list.iter().map(named).collect()
}

/// Runs these steps at a device whose parent is away, and checks that both sides end as the device
/// was left.
fn offline(steps: &dyn Fn(&Node, &User)) {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let device = device(&root, &user);
    let before = [("v0", 1), ("v1", 1)]
        .map(|(tag, seed)| (tag.to_owned(), push(&device, &user, seed, "app", tag)));
    arrive(&root, &user, "app", &before);
    root.kill();
    steps(&device, &user);
    let wanted = tags(&device, &user, "app");
    root.start();
    // What is pushed last arrives last.
    let last = push(&device, &user, 99, "app", "last");
    arrive(&root, &user, "app", &[("last".to_owned(), last.clone())]);
    let wanted: BTreeMap<_, _> = wanted.into_iter().chain([("last".to_owned(), last)]).collect();
    for node in [&root, &device] {
        eventually(SOON, &format!("{wanted:?} at both ends"), || {
            (tags(node, &user, "app") == wanted).then_some(())
        });
    }
    let log = device.log();
    assert!(!log.contains("moved or removed at the parent too"), "{log}");
}

#[test]
fn f130_a_manifest_that_was_deleted_before_it_went_up_leaves_its_tag_to_what_came_after() {
    offline(&|device, user| {
        let b = push(device, user, 2, "app", "v1");
        let c = push(device, user, 3, "app", "v1");
        assert_eq!(delete(device, user, "app", &b), 202);
        assert_eq!(tags(device, user, "app")["v1"], c);
    });
    offline(&|device, user| {
        // A new tag, and one that ends with its manifest and begins again.
        let b = push(device, user, 2, "app", "new");
        push(device, user, 3, "app", "new");
        push(device, user, 4, "app", "v1");
        let d = push(device, user, 5, "app", "v1");
        for digest in [&b, &d] {
            assert_eq!(delete(device, user, "app", digest), 202);
        }
        push(device, user, 6, "app", "v1");
        let a = push(device, user, 1, "app", "v2");
        assert_eq!(delete(device, user, "app", &a), 202);
    });
    offline(&|device, user| {
        let b = push(device, user, 2, "app", "v1");
        assert_eq!(delete(device, user, "app", &b), 202);
        push(device, user, 2, "app", "v2");
        assert_eq!(delete(device, user, "app", "v2"), 202);
    });
}

#[test]
fn f130_a_change_whose_answer_was_lost_is_no_foreign_move() {
    let (root, login, _gateway) = root_behind(u64::MAX);
    let user = root.pusher("owner-token", "*");
    let connection = root.connect("dock01", &["--mode", "ReadWrite", "--repository", "app"]);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    let a = push(&device, &user, 1, "app", "v1");
    arrive(&root, &user, "app", &[("v1".to_owned(), a)]);
    // The parent takes it, and the device does not hear of it and goes on.
    login.lose_answer("PUT /v2/app/manifests/v1");
    let b = push(&device, &user, 2, "app", "v1");
    arrive(&root, &user, "app", &[("v1".to_owned(), b.clone())]);
    let other = push(&device, &user, 3, "app", "other");
    let c = push(&device, &user, 4, "app", "v1");
    assert_eq!(delete(&device, &user, "app", &b), 202);
    login.pass();
    let wanted = [("v1".to_owned(), c), ("other".to_owned(), other)];
    arrive(&root, &user, "app", &wanted);
    let wanted = BTreeMap::from(wanted);
    for node in [&root, &device] {
        assert_eq!(tags(node, &user, "app"), wanted, "{}", device.log());
    }
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One writer that pushes, moves and deletes at a device, over a link that breaks.
#[test]
fn f130_a_writer_whose_link_breaks_is_never_in_conflict_with_itself() {
    let long = std::env::var_os("SKERRY_LONG").is_some();
    let seconds = Duration::from_secs(if long { 300 } else { 15 });
    let seed = std::env::var("SKERRY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + 1);
    eprintln!("SKERRY_SEED={seed}");
    let (root, login, gateway) = root_behind(u64::MAX);
    let user = root.pusher("owner-token", "*");
    let repositories: Vec<String> = (0..6).map(|n| format!("app{n}")).collect();
    let mut arguments = vec!["--mode", "ReadWrite", "--repository"];
    arguments.extend(repositories.iter().map(String::as_str));
    let connection = root.connect("dock01", &arguments);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    push(&device, &user, 1, "app0", "ready");
    let done = AtomicBool::new(false);
    let mut operations = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(seed ^ 0x5555_5555);
            while !done.load(Ordering::Relaxed) {
                let link = if dice.roll(3) == 0 { &gateway } else { &login };
                // Breaks at every moment of a delivery, and now and then stays away for a while.
                link.cut();
                if dice.roll(4) == 0 {
                    link.refuse("/", "");
                    std::thread::sleep(Duration::from_millis(dice.roll(2500)));
                    link.pass();
                }
                std::thread::sleep(Duration::from_millis(dice.roll(120)));
            }
        });
        let (mut dice, start) = (Dice(seed), Instant::now());
        while start.elapsed() < seconds {
            let repository = &repositories[usize::try_from(dice.roll(6)).unwrap()];
            let image = Image::new(10 + dice.roll(6), &[200]);
            let tag = format!("v{}", dice.roll(3));
            match dice.roll(10) {
                0..6 => {
                    let owner = (user.0.as_str(), user.1.as_str());
                    let answer = image.push(&device.login, owner, repository, &tag);
                    assert_eq!(answer.status, 201, "{answer:?}");
                }
                6..9 => {
                    let status = delete(&device, &user, repository, &image.digest());
                    assert!([202, 404].contains(&status), "{status}");
                }
                _ => {
                    let status = delete(&device, &user, repository, &tag);
                    assert!([202, 404].contains(&status), "{status}");
                }
            }
            operations += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    login.pass();
    gateway.pass();
    for repository in &repositories {
        push(&device, &user, 2, repository, "last");
    }
    for repository in &repositories {
        let last = Image::new(2, &[2000]).digest();
        arrive(&root, &user, repository, &[("last".to_owned(), last)]);
        let both = || (tags(&device, &user, repository), tags(&root, &user, repository));
        let limit = Instant::now() + AFTER_CUTS;
        while Instant::now() < limit && both().0 != both().1 {
            std::thread::sleep(Duration::from_millis(100));
        }
        let (here, there) = both();
        assert_eq!(here, there, "{repository}, {operations} operations: {}", device.log());
        let conflicts = here.keys().filter(|tag| tag.contains(".conflict-"));
        assert_eq!(conflicts.count(), 0, "{repository}, {operations} operations: {here:?}");
    }
    let shown = root.json(&["connected-registry", "show", "--name", "dock01"]);
    assert!(!shown.to_string().contains("TagConflict"), "{shown}");
    eprintln!("{operations} operations");
}

#[test]
fn f082_f130_a_push_that_cannot_go_up_is_not_accepted() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let middle = device(&root, &user);
    let leaf = ["--parent", "dock01", "--mode", "ReadOnly", "--repository", "app"];
    root.connect("leaf01", &leaf);
    let before = vec![("v1".to_owned(), push(&middle, &user, 1, "app", "v1"))];
    push(&root, &user, 2, "zz", "v1");
    let add = ["connected-registry", "permissions", "update", "--name", "leaf01", "--add", "zz"];
    let output = root.run(&add);
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let digest = eventually(SOON, "zz at the middle", || pull(&middle, &user, "zz", "v1").ok());

    let scope = "repository:zz:pull,push,delete";
    let bearer_token = token(&middle.login, &user.0, &user.1, &[scope]).unwrap();
    let image = Image::new(3, &[100]);
    let content_type = [("content-type", MANIFEST)];
    for (method, target, body) in [
        ("POST", "/v2/zz/blobs/uploads/", &[][..]),
        ("PUT", "/v2/zz/manifests/v2", &image.manifest),
        ("DELETE", "/v2/zz/manifests/v1", &[]),
        ("DELETE", &format!("/v2/zz/manifests/{digest}"), &[]),
    ] {
        let answer = bearer(&middle.login, &bearer_token, method, target, &content_type, body);
        assert_eq!(answer.status, 403, "{method} {target}: {answer:?}");
        assert_eq!(answer.error(), ("DENIED".to_owned(), "not_in_sync_write_scope".to_owned()));
    }
    assert_eq!(pull(&middle, &user, "zz", "v1").ok(), Some(digest));
    for part in ["warning: ", "'dock01'", "zz", "permissions update --name dock01 --add zz"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Where the node may write it takes pushes as ever, and here as soon as it may.
    arrive(&root, &user, "app", &before);
    let output = root.run(&[
        "connected-registry",
        "permissions",
        "update",
        "--name",
        "dock01",
        "--add",
        "zz",
    ]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let after = vec![("v2".to_owned(), push(&middle, &user, 3, "zz", "v2"))];
    arrive(&root, &user, "zz", &after);
}

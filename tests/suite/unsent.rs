//! Changes that wait at a device which may not deliver them any more: it is ReadOnly now.

use std::collections::BTreeMap;

use crate::delivery::{User, arrive, compare, delete, permissions, push, tags};
use crate::support::eventually;
use crate::support::http::token;
use crate::support::image::{Image, push_blob};
use crate::support::node::{Node, sync_token};
use crate::sync::{SOON, pull};

/// Deletes the connected registry of a device; it goes on, and takes pushes as before.
fn remove(root: &Node) {
    let output = root.run(&["connected-registry", "delete", "--name", "dock01", "--yes"]);
    assert!(output.status.success(), "{output:?}");
}

/// Creates it again in this mode, with the sync token and the grants that it had.
fn create_again(root: &Node, user: &User, mode: &str) {
    let token = sync_token("dock01");
    let mut create = vec!["connected-registry", "create", "--name", "dock01", "--mode", mode];
    create.extend(["--sync-token", &token, "--client-tokens", &user.0]);
    root.json(&create);
}

/// Waits until the device refuses pushes as a ReadOnly one does.
fn is_read_only(device: &Node, user: &User) {
    let scope = "repository:app:pull,push";
    let bearer_token = token(&device.login, &user.0, &user.1, &[scope]).unwrap();
    eventually(SOON, "the device is ReadOnly", || {
        let answer = push_blob(&device.login, &bearer_token, "app", b"blob");
        (answer.status == 403 && answer.error().1 == "read_only").then_some(())
    });
}

/// The repositories of which a node tells that something waits, each with what it tells.
fn told(details: &serde_json::Value) -> BTreeMap<String, String> {
    let details = details["statusDetails"].as_array().cloned().unwrap_or_default();
    let of_code = details.iter().filter(|detail| detail["code"] == "PushWaiting");
    let text = |detail: &serde_json::Value| detail["description"].as_str().unwrap().to_owned();
    of_code
        .map(|detail| (text(detail).split(' ').next().unwrap().to_owned(), text(detail)))
        .collect()
}

fn names(told: &BTreeMap<String, String>) -> Vec<&str> {
    told.keys().map(String::as_str).collect()
}

/// Symptom: a device whose connected registry was deleted and created again as ReadOnly, without
/// one of its repositories, deleted that with pushes which it had acknowledged and not delivered.
/// Cause: a ReadOnly device purged what is not granted, whatever waited in it.
#[test]
fn f118_f130_what_a_device_took_before_it_became_read_only_waits_until_it_may_go_up() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let connection = root.connect("dock01", &["--repository", "app", "lab", "old"]);
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    for (seed, repository) in [(1, "app"), (2, "lab"), (3, "old")] {
        for tag in ["v1", "v2", "v3"] {
            let digest = push(&device, &user, seed, repository, tag);
            arrive(&root, &user, repository, &[(tag.to_owned(), digest)]);
        }
    }
    remove(&root);
    eventually(SOON, "it is deleted", || {
        (device.json(&["status"])["sync"]["contact"] == "out of contact").then_some(())
    });
    let mut waiting = Vec::new();
    for (seed, repository) in [(11, "app"), (21, "lab")] {
        push(&device, &user, seed, repository, "v1");
        waiting.push((repository, push(&device, &user, seed + 1, repository, "v1")));
        waiting.push((repository, push(&device, &user, seed + 2, repository, "new")));
        assert_eq!(delete(&device, &user, repository, "v2"), 202);
    }
    let untagged = [("app", 11), ("lab", 21)]
        .map(|(repository, seed)| (repository, Image::new(seed, &[2000]).digest()));
    waiting.extend(untagged);
    let before = ["app", "lab"].map(|repository| tags(&device, &user, repository));

    create_again(&root, &user, "ReadOnly");
    permissions(&root, &["--remove", "lab", "old"]);
    is_read_only(&device, &user);
    compare(&root, &device, &user, "one");
    let keeps = |device: &Node| {
        for (repository, digest) in &waiting {
            let pulled = pull(device, &user, repository, digest);
            assert_eq!(pulled.as_ref().ok(), Some(digest), "{repository}: {}", device.log());
        }
        let now = ["app", "lab"].map(|repository| tags(device, &user, repository));
        assert_eq!(now, before);
    };
    keeps(&device);
    assert!(tags(&device, &user, "old").is_empty(), "nothing of it waits");
    // The parent moves, removes and deletes on: nothing of that undoes what waits.
    push(&root, &user, 31, "app", "v1");
    push(&root, &user, 32, "app", "new");
    push(&root, &user, 33, "app", "v2");
    let moved = push(&root, &user, 34, "app", "v4");
    eventually(SOON, "v4 comes", || pull(&device, &user, "app", "v4").ok());
    assert_eq!(delete(&root, &user, "app", "v4"), 202);
    assert_eq!(delete(&root, &user, "app", &moved), 202);
    eventually(SOON, "v4 goes", || pull(&device, &user, "app", "v4").err());
    keeps(&device);
    device.kill();
    device.start();
    compare(&root, &device, &user, "two");
    keeps(&device);

    let shown = device.json(&["status"])["sync"].clone();
    assert_eq!(names(&told(&shown)), ["app", "lab"]);
    let (app, lab) = (told(&shown)["app"].clone(), told(&shown)["lab"].clone());
    let create = format!(
        "`skerry connected-registry create --name dock01 --sync-token {} --mode ReadWrite \
         --client-tokens {}`",
        sync_token("dock01"),
        user.0
    );
    assert!(app.contains(&create) && !app.contains("granted"), "no {create}: {app}");
    for part in ["permissions update --name dock01 --add lab`", "is deleted here when they"] {
        assert!(lab.contains(part), "{part}: {lab}");
    }
    eventually(SOON, "the root shows it", || {
        let shown = root.json(&["connected-registry", "show", "--name", "dock01"]);
        (names(&told(&shown)) == ["app", "lab"]).then_some(())
    });
    let log = device.log();
    let kept = |line: &&str| line.contains("keeping repository lab");
    assert_eq!(log.lines().filter(kept).count(), 2, "once for each start: {log}");

    permissions(&root, &["--add", "lab"]);
    compare(&root, &device, &user, "three");
    keeps(&device);
    let shown = device.json(&["status"])["sync"].clone();
    assert!(!told(&shown)["lab"].contains("is deleted here"), "{shown}");

    remove(&root);
    create_again(&root, &user, "ReadWrite");
    permissions(&root, &["--add", "lab"]);
    arrive(&root, &user, "lab", &[("v1".to_owned(), waiting[2].1.clone())]);
    for (repository, digest) in &waiting {
        eventually(SOON, "it arrives", || pull(&root, &user, repository, digest).ok());
    }
    eventually(SOON, "nothing waits", || {
        let shown = device.json(&["status"])["sync"].clone();
        (shown["waitingChanges"] == 0 && told(&shown).is_empty()).then_some(())
    });
    assert!(!tags(&root, &user, "lab").contains_key("v2"));

    // Now it may go.
    remove(&root);
    create_again(&root, &user, "ReadOnly");
    permissions(&root, &["--remove", "lab"]);
    eventually(SOON, "it is purged", || tags(&device, &user, "lab").is_empty().then_some(()));
}

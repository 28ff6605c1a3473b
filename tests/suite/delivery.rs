//! Changes made at a device on their way up: none is taken for another, refused for ever, or lost.

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::node::Node;
use crate::sync::{SOON, pull};

type User = (String, String);

/// Connects a ReadWrite device that mirrors `app`, and starts it.
fn device(root: &Node, user: &User) -> Node {
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    Node::start_device(&connection)
}

/// Pushes an image of this seed at a node, as soon as it takes pushes; its digest.
fn push(node: &Node, user: &User, seed: u64, repository: &str, tag: &str) -> String {
    let image = Image::new(seed, &[2000]);
    eventually(SOON, "a push is taken", || {
        let answer = image.push(&node.login, (&user.0, &user.1), repository, tag);
        (answer.status == 201).then_some(())
    });
    image.digest()
}

/// Waits until each of these tags names what it should.
fn arrive(node: &Node, user: &User, repository: &str, tags: &[(String, String)]) {
    for (tag, digest) in tags {
        eventually(SOON, &format!("{repository}:{tag} arrives"), || {
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

    device.kill();
    std::fs::rename(device.state(), device.state().with_file_name("broken")).unwrap();
    let state = format!("storage.state_dir={}", device.state().display());
    let output = device.run(&["--set", &state, "restore", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    device.start();
    let after = push_all(&device, &user, "after", 21..28);
    arrive(&root, &user, "app", &after);
    // What had arrived at the parent comes back from there.
    for node in [&root, &device] {
        for tags in [&kept, &lost, &after] {
            arrive(node, &user, "app", tags);
        }
    }
    let log = device.log();
    assert!(!log.contains("was moved at the parent too"), "{log}");
}

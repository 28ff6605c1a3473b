//! What a tag names stays what its pusher chose, on every way between the nodes of a tree.

use std::collections::BTreeMap;

use crate::delivery::{User, delete, tags};
use crate::support::eventually;
use crate::support::http::{bearer, token};
use crate::support::image::{Image, MANIFEST, digest, push_blob, sha512};
use crate::support::node::Node;
use crate::sync::{SOON, pair};

/// Starts a ReadWrite node that mirrors `app`.
fn below(root: &Node, name: &str, parent: &[&str], user: &User) -> Node {
    let own = ["--repository", "app", "--mode", "ReadWrite"];
    let connection = root.connect(name, &[parent, &own].concat());
    root.link(name, &user.0);
    Node::start_device(&connection)
}

/// Pushes an image by its SHA-512 digest with these tags, as soon as the node takes pushes; the
/// digest.
fn push_sha512(node: &Node, user: &User, image: &Image, tags: &[&str]) -> String {
    let scope = ["repository:app:pull,push"];
    let pushed = eventually(SOON, "a push is taken", || {
        let bearer_token = token(&node.login, &user.0, &user.1, &scope).ok()?;
        for blob in image.blobs() {
            let pushed = push_blob(&node.login, &bearer_token, "app", blob);
            (pushed.status == 201).then_some(())?;
        }
        let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        let name = sha512(&image.manifest);
        let target = format!("/v2/app/manifests/{name}?{}", query.join("&"));
        let typed = [("content-type", MANIFEST)];
        let put = bearer(&node.login, &bearer_token, "PUT", &target, &typed, &image.manifest);
        (put.status == 201).then_some(put)
    });
    pushed.header("docker-content-digest").unwrap().to_owned()
}

fn push(node: &Node, user: &User, image: &Image, tag: &str) -> String {
    let pushed = image.push(&node.login, (&user.0, &user.1), "app", tag);
    assert_eq!(pushed.status, 201, "{pushed:?}");
    image.digest()
}

/// Whether a manifest can be had by its digest.
fn has(node: &Node, user: &User, name: &str) -> bool {
    let scope = ["repository:app:pull"];
    let bearer_token = token(&node.login, &user.0, &user.1, &scope).unwrap();
    let target = format!("/v2/app/manifests/{name}");
    let answer = bearer(&node.login, &bearer_token, "GET", &target, &[], b"");
    let is_whole = [digest(&answer.body), sha512(&answer.body)].contains(&name.to_owned());
    answer.status == 200 && is_whole
}

/// Waits until a node has exactly these tags.
fn arrive(node: &Node, user: &User, wanted: &[(&str, &String)]) {
    let named = |(tag, name): &(&str, &String)| ((*tag).to_owned(), (*name).clone());
    let wanted: BTreeMap<_, _> = wanted.iter().map(named).collect();
    eventually(SOON * 2, &format!("{wanted:?}"), || {
        (tags(node, user, "app") == wanted).then_some(())
    });
}

#[test]
fn f130_a_tag_names_at_every_tier_the_digest_that_its_pusher_chose() {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let middle = below(&root, "dock01", &[], &user);
    let leaf = below(&root, "leaf01", &["--parent", "dock01"], &user);
    let images = [1, 2, 3, 4].map(|seed| Image::new(seed, &[2000]));
    let first = push_sha512(&leaf, &user, &images[0], &["v1", "v2"]);
    let down = push_sha512(&root, &user, &images[3], &["down"]);
    for node in [&root, &middle, &leaf] {
        arrive(node, &user, &[("down", &down), ("v1", &first), ("v2", &first)]);
        assert!(has(node, &user, &first) && !has(node, &user, &images[0].digest()));
    }
    // Moved to another algorithm, and there and back, while the link is down.
    root.kill();
    for tag in ["moved", "back"] {
        push_sha512(&leaf, &user, &images[1], &[tag]);
        push(&leaf, &user, &images[2], tag);
    }
    let back = push_sha512(&leaf, &user, &images[1], &["back"]);
    root.start();
    let moved = images[2].digest();
    for node in [&root, &middle, &leaf] {
        let all =
            [("back", &back), ("down", &down), ("moved", &moved), ("v1", &first), ("v2", &first)];
        arrive(node, &user, &all);
    }
    assert_eq!(delete(&leaf, &user, "app", &first), 202);
    for node in [&root, &middle, &leaf] {
        arrive(node, &user, &[("back", &back), ("down", &down), ("moved", &moved)]);
        assert!(!has(node, &user, &first) && !has(node, &user, &images[0].digest()));
    }
}

#[test]
fn f130_content_that_a_conflict_keeps_has_the_digest_that_its_pusher_chose() {
    let (mut root, mut device, user) = pair("ReadWrite");
    let before = Image::new(1, &[40_000]).digest();
    arrive(&device, &user, &[("v1", &before)]);
    let images = [2, 3].map(|seed| Image::new(seed, &[2000]));
    root.kill();
    let ours = push_sha512(&device, &user, &images[0], &["v1"]);
    device.kill();
    root.start();
    let theirs = push_sha512(&root, &user, &images[1], &["v1"]);
    device.start();
    let kept = eventually(SOON, "the conflict is settled", || {
        tags(&device, &user, "app").into_keys().find(|tag| tag.contains(".conflict-"))
    });
    for node in [&root, &device] {
        arrive(node, &user, &[("v1", &theirs), (&kept, &ours)]);
        for name in [&theirs, &ours] {
            assert!(has(node, &user, name));
        }
    }
}

#[test]
fn f201_a_restored_root_is_offered_tags_by_the_digests_that_their_pushers_chose() {
    let (mut root, device, user) = pair("ReadWrite");
    let before = Image::new(1, &[40_000]).digest();
    let backup = root.state().with_file_name("backup");
    let output = root.run(&["backup", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let pushed = push_sha512(&root, &user, &Image::new(2, &[2000]), &["v2"]);
    let wanted = [("v1", &before), ("v2", &pushed)];
    for node in [&root, &device] {
        arrive(node, &user, &wanted);
    }
    root.kill();
    std::fs::rename(root.state(), root.state().with_file_name("lost")).unwrap();
    let state = format!("storage.state_dir={}", root.state().display());
    let output = root.run(&["--set", &state, "restore", backup.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    root.start();
    for node in [&root, &device] {
        arrive(node, &user, &wanted);
        assert!(has(node, &user, &pushed));
    }
}

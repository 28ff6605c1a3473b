//! Clients push while the process is killed, again and again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::http::{send, token};
use crate::support::image::{self, Image, MANIFEST};
use crate::support::node::Node;

/// What a tag may name: what was acknowledged last, and what was under way when the process died.
#[derive(Default)]
struct Tag {
    acknowledged: Option<String>,
    under_way: Option<String>,
}

#[test]
fn f116_f130_killed_under_load_nothing_acknowledged_is_lost() {
    let rounds = if std::env::var_os("SKERRY_LONG").is_some() { 300 } else { 30 };
    let mut root = Node::root();
    let user = root.pusher("owner-token", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let tags: Mutex<BTreeMap<String, Tag>> = Mutex::default();
    let mut pushes = 0;
    for round in 0..rounds {
        let address = root.login.clone();
        let scope = "repository:app:pull,push";
        let bearer = format!("Bearer {}", token(&address, user.0, user.1, &[scope]).unwrap());
        std::thread::scope(|scope| {
            let pushers: Vec<_> = (0..3)
                .map(|pusher| {
                    let (address, bearer, tags) = (&address, &bearer, &tags);
                    scope.spawn(move || push_until_killed(address, bearer, round, pusher, tags))
                })
                .collect();
            // Each round dies at another moment of a push, of a checkpoint, of a rotation.
            std::thread::sleep(Duration::from_millis(5 + (round * 37) % 120));
            root.kill();
            pushes += pushers.into_iter().map(|pusher| pusher.join().unwrap()).sum::<u64>();
        });
        root.start();
        for (tag, state) in tags.lock().unwrap().iter_mut() {
            let found = match image::pull(&root.login, user, "app", tag) {
                Ok(digest) => Some(digest),
                Err(answer) => {
                    assert_eq!(answer.status, 404, "round {round}, {tag}: {answer:?}");
                    None
                }
            };
            let known = found == state.acknowledged || found == state.under_way;
            assert!(known && (found.is_some() || state.acknowledged.is_none()), "{round} {tag}");
            *state = Tag { acknowledged: found, under_way: None };
        }
    }
    let tags = tags.lock().unwrap();
    assert!(pushes > rounds && !tags.is_empty(), "{pushes} pushes were acknowledged");
    eprintln!("{rounds} kills, {pushes} acknowledged pushes, {} tags, nothing lost", tags.len());
}

/// Pushes images to tags of its own; how many were acknowledged.
fn push_until_killed(
    address: &str,
    bearer: &str,
    round: u64,
    pusher: u64,
    tags: &Mutex<BTreeMap<String, Tag>>,
) -> u64 {
    for number in 0.. {
        let seed = round * 10_000 + pusher * 1000 + number;
        let image = Image::new(seed, &[3000, 70_000]);
        let tag = format!("p{pusher}-{}", number % 3);
        let under_way = Some(image.digest());
        tags.lock().unwrap().entry(tag.clone()).or_default().under_way.clone_from(&under_way);
        match push(address, bearer, &image, &tag) {
            Ok(201) => {
                let state = Tag { acknowledged: under_way, under_way: None };
                tags.lock().unwrap().insert(tag, state);
            }
            _ => return number,
        }
    }
    unreachable!("numbers do not end")
}

/// Pushes an image; the status of the answer that ended it. A connection that breaks is an error.
fn push(address: &str, bearer: &str, image: &Image, tag: &str) -> std::io::Result<u16> {
    let auth = ("authorization", bearer);
    for blob in image.blobs() {
        let start = send(address, "POST", "/v2/app/blobs/uploads/", &[auth], b"")?;
        let Some(location) = start.header("location") else { return Ok(start.status) };
        let target = format!("{location}?digest={}", image::digest(blob));
        let status = send(address, "PUT", &target, &[auth], blob)?.status;
        if status != 201 {
            return Ok(status);
        }
    }
    let target = format!("/v2/app/manifests/{tag}");
    let headers = [auth, ("content-type", MANIFEST)];
    Ok(send(address, "PUT", &target, &headers, &image.manifest)?.status)
}

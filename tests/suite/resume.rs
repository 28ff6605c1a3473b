//! Transfers that are cut off go on where they were.

use std::time::Duration;

use crate::support::eventually;
use crate::support::image::{self, Image};
use crate::support::node::Node;
use crate::sync::{SOON, root_behind};

/// What may come twice: what was in buffers when the process ended.
const CHUNK: u64 = 16 * 1024 * 1024;

/// Waits until the largest unfinished upload of a node has so many bytes.
fn wait_for_part(node: &Node, bytes: u64) {
    eventually(Duration::from_secs(60), "a part is there", || {
        let entries = std::fs::read_dir(node.state().join("uploads")).into_iter().flatten();
        let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
        let largest = sizes.map(|data| data.len()).max().unwrap_or(0);
        (largest > bytes).then_some(())
    });
}

/// The link is cut, the device is killed, the parent is killed: no byte goes up twice.
#[test]
fn f170_an_upward_push_goes_on_after_cuts_and_kills() {
    const LAYER: usize = 48 << 20;
    let (mut root, login, gateway) = root_behind(16 << 20);
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    let image = Image::new(91, &[LAYER]);
    let pushed = eventually(SOON, "the device takes pushes", || {
        Some(image.push(&device.login, owner, "app", "v1")).filter(|answer| answer.status == 201)
    });
    assert_eq!(pushed.header("docker-content-digest"), Some(image.digest().as_str()));
    for step in 1..=4_u64 {
        wait_for_part(&root, step * (8 << 20));
        match step {
            1 | 4 => {
                login.cut();
                gateway.cut();
            }
            2 => {
                device.kill();
                device.start();
            }
            _ => {
                root.kill();
                root.start();
            }
        }
    }
    let pulled = eventually(Duration::from_secs(120), "the image is at the root", || {
        image::pull(&root.login, owner, "app", "v1").ok()
    });
    assert_eq!(pulled, image.digest());
    let (up, layer) = (login.up(), LAYER as u64);
    eprintln!("{up} bytes went up for a layer of {layer}: {:.4}", up as f64 / layer as f64);
    assert!(
        (layer..layer + layer / 100 + CHUNK).contains(&up),
        "{up} bytes went up for a layer of {LAYER}, over two cuts and two kills"
    );
    let resumed = device.log().matches("from byte").count();
    assert!(resumed >= 4, "{resumed} times resumed:\n{}", device.log());
}

/// What the parent has of an upload is damaged or gone after a power cut: the push starts anew, and
/// is not taken for one that the parent refuses.
#[test]
fn f170_an_upward_push_starts_anew_when_the_parent_lost_what_it_had() {
    const LAYER: usize = 6 << 20;
    let (mut root, _login, _gateway) = root_behind(3 << 20);
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    for (seed, tag) in [(92, "damaged"), (93, "gone")] {
        let image = Image::new(seed, &[LAYER]);
        eventually(SOON, "the device takes pushes", || {
            (image.push(&device.login, owner, "app", tag).status == 201).then_some(())
        });
        wait_for_part(&root, 1 << 20);
        root.kill();
        for entry in std::fs::read_dir(root.state().join("uploads")).unwrap() {
            let path = entry.unwrap().path();
            if tag == "gone" {
                std::fs::remove_file(path).unwrap();
            } else if path.extension().is_none() {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[1000] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
        }
        root.start();
        let pulled = eventually(Duration::from_secs(90), "the image is at the root", || {
            image::pull(&root.login, owner, "app", tag).ok()
        });
        assert_eq!(pulled, image.digest(), "{tag}");
        let restarts = device.log().matches("from the start").count();
        assert_eq!(restarts, if tag == "gone" { 2 } else { 1 }, "{tag}:\n{}", device.log());
    }
    assert!(!device.log().contains("refused change"), "{}", device.log());
}

#[test]
fn f128_f170_a_blob_half_fetched_goes_on_after_kills() {
    const LAYER: usize = 48 << 20;
    let (root, login, _gateway) = root_behind(24 << 20);
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let image = Image::new(90, &[LAYER]);
    assert_eq!(image.push(&root.login, owner, "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let mut device = Node::device(&connection);
    for step in 1..=3_u64 {
        device.start();
        wait_for_part(&device, step * (8 << 20));
        device.kill();
    }
    device.start();
    let pulled = eventually(Duration::from_secs(120), "the image is at the device", || {
        image::pull(&device.login, owner, "app", "v1").ok()
    });
    assert_eq!(pulled, image.digest());
    let (down, layer) = (login.down(), LAYER as u64);
    eprintln!("{down} bytes came for a layer of {layer}: {:.4}", down as f64 / layer as f64);
    assert!(
        (layer..layer + layer / 100 + CHUNK).contains(&down),
        "{down} bytes came for a layer of {LAYER}, over three kills"
    );
}

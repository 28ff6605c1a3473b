//! Transfers that are cut off go on where they were.

use std::time::Duration;

use crate::support::eventually;
use crate::support::image::{self, Image};
use crate::support::node::Node;
use crate::support::proxy::Proxy;

/// What may come twice: what was in buffers when the process ended.
const CHUNK: u64 = 16 * 1024 * 1024;

#[test]
fn f128_f170_a_blob_half_fetched_goes_on_after_kills() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    const LAYER: usize = 48 << 20;
    let image = Image::new(90, &[LAYER]);
    assert_eq!(image.push(&root.login, owner, "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let proxy = Proxy::slow(&root.gateway, 24 << 20);
    let connection = connection.replace(&root.gateway, &proxy.address);
    let mut device = Node::device(&connection);
    let state = device.state();
    for step in 1..=3_u64 {
        device.start();
        eventually(Duration::from_secs(60), "a part is there", || {
            let entries = std::fs::read_dir(state.join("uploads")).into_iter().flatten();
            let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
            let largest = sizes.map(|data| data.len()).max().unwrap_or(0);
            (largest > step * (8 << 20)).then_some(())
        });
        device.kill();
    }
    device.start();
    let pulled = eventually(Duration::from_secs(120), "the image is at the device", || {
        image::pull(&device.login, owner, "app", "v1").ok()
    });
    assert_eq!(pulled, image.digest());
    let down = proxy.down();
    assert!(
        down < LAYER as u64 + CHUNK + (1 << 20),
        "{down} bytes came for a layer of {LAYER}, over three kills"
    );
}

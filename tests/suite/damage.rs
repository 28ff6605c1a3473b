//! Damage that is noticed in transit: it is acted on where it lies, and told with its cure.

use std::time::Duration;

use crate::scrub::flip_a_bit;
use crate::state::last_segment;
use crate::support::eventually;
use crate::support::http::{bearer, token};
use crate::support::image::{self, Image};
use crate::support::node::Node;
use crate::sync::{SOON, pair, pull};

/// The next attempts at one thing are minutes apart when it failed some times.
const RETRIED: Duration = Duration::from_secs(120);

/// What `status` says once it counts one damaged object.
fn damaged(node: &Node) -> serde_json::Value {
    eventually(RETRIED, "the damage is found", || {
        let status = node.json(&["status"]);
        (status["damagedBlobs"] == 1).then_some(status)
    })
}

/// Symptom: what rotted at a root since it came there was sent to every child, which found it wrong
/// at each attempt; the root knew of nothing, and a push of the image again found all of it there.
#[test]
fn f211_what_a_child_finds_damaged_is_taken_out_of_service_at_the_parent() {
    let (root, mut device, user) = pair("ReadOnly");
    let owner = (user.0.as_str(), user.1.as_str());
    device.kill();
    let image = Image::new(60, &[200_000]);
    assert_eq!(image.push(&root.login, owner, "app", "v2").status, 201);
    let layer = image::digest(&image.layers[0]);
    flip_a_bit(&root, &layer);
    device.start();
    damaged(&root);
    assert!(pull(&device, &user, "app", "v2").is_err());
    assert_eq!(image.push(&root.login, owner, "app", "v2").status, 201);
    assert_eq!(root.json(&["status"])["damagedBlobs"], 0);
    eventually(RETRIED, "the device has it", || pull(&device, &user, "app", "v2").ok());
}

/// Symptom: a device whose own content had rotted showed its parent as the one that refused it.
#[test]
fn f211_a_device_that_delivers_damaged_content_finds_it_and_delivers_it_once_healed() {
    let (mut root, device, user) = pair("ReadWrite");
    let owner = (user.0.as_str(), user.1.as_str());
    root.kill();
    let image = Image::new(61, &[200_000]);
    assert_eq!(image.push(&device.login, owner, "app", "v2").status, 201);
    flip_a_bit(&device, &image::digest(&image.layers[0]));
    root.start();
    damaged(&device);
    let refused = eventually(RETRIED, "it is told", || {
        let details = device.json(&["status"])["sync"]["statusDetails"].clone();
        let mut details = details.as_array().unwrap().iter();
        let refused = details.find(|detail| detail["code"] == "PushRefused")?;
        refused["description"].as_str().map(str::to_owned)
    });
    assert!(refused.contains("is missing here or damaged; push the image here again"), "{refused}");
    assert!(!refused.contains("digest_mismatch"), "{refused}");
    assert_eq!(image.push(&device.login, owner, "app", "v2").status, 201);
    assert_eq!(device.json(&["status"])["damagedBlobs"], 0);
    eventually(RETRIED, "it goes up by itself", || pull(&root, &user, "app", "v2").ok());
}

/// Symptom: a root was said to heal by a scrub, which has nothing to heal from; `status` counted
/// what was damaged and did not name it; fsck missed a file that the node itself had moved.
#[test]
fn f173_what_is_damaged_is_told_with_what_heals_it() {
    let root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let owner = (user.0.as_str(), user.1.as_str());
    let image = Image::new(62, &[200_000]);
    assert_eq!(image.push(&root.login, owner, "app", "v1").status, 201);
    let layer = image::digest(&image.layers[0]);
    flip_a_bit(&root, &layer);
    root.run(&["scrub", "--full-speed"]);

    let status = damaged(&root);
    let named = serde_json::json!([{ "digest": layer, "repositories": ["app"] }]);
    assert_eq!(status["damagedContent"], named, "{status}");
    assert!(status["reason"].as_str().unwrap().contains("damaged or missing"), "{status}");
    let remedy = status["remedy"].as_str().unwrap();
    assert!(remedy.contains("push the images again") && !remedy.contains("parent"), "{remedy}");

    let checked = root.run(&["fsck"]);
    let text = String::from_utf8_lossy(&checked.stderr);
    assert!(text.contains("is damaged and in quarantine"), "{text}");
    let backup = root.state().with_file_name("backup");
    let taken = root.run(&["backup", backup.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&taken.stderr);
    assert!(text.contains("push the images again") && !text.contains("scrub"), "{text}");

    assert_eq!(image.push(&root.login, owner, "app", "v1").status, 201);
    let status = root.json(&["status"]);
    assert!(status["damagedContent"].is_null() && status["reason"].is_null(), "{status}");
}

/// Symptom: `-o json fsck --content` printed one document for the records and one for the content.
#[test]
fn fsck_of_content_prints_one_document() {
    let root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let owner = (user.0.as_str(), user.1.as_str());
    let image = Image::new(63, &[200_000]);
    assert_eq!(image.push(&root.login, owner, "app", "v1").status, 201);
    let whole = root.json(&["fsck", "--content"]);
    assert_eq!((&whole["problems"], &whole["blobsHashed"]), (&0.into(), &3.into()), "{whole}");
    flip_a_bit(&root, &image::digest(&image.layers[0]));
    let checked = root.run(&["-o", "json", "fsck", "--content"]);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((&report["problems"], &report["content"]["damaged"]), (&1.into(), &1.into()));
    assert!(report["found"][0].as_str().unwrap().contains("quarantine"), "{report}");
}

/// Symptom: one flipped bit in an old segment of a parent's journal, of which the index had all,
/// and what the parent had deleted came back with each device that had not heard of it yet. Cause:
/// the start ended the epoch of the feed: to a device, a parent of another epoch is another parent.
#[test]
fn f201_f211_a_deletion_is_not_undone_because_the_journal_was_damaged_before_it() {
    for quarter in [1, 2, 3] {
        let (mut root, mut device, user) = pair("ReadWrite");
        let owner = (user.0.as_str(), user.1.as_str());
        let images: Vec<_> = (0..6).map(|number| Image::new(700 + number, &[4_000])).collect();
        for (number, image) in images.iter().enumerate() {
            assert_eq!(image.push(&root.login, owner, "app", &format!("t{number}")).status, 201);
        }
        eventually(SOON, "the device has all", || pull(&device, &user, "app", "t5").ok());
        device.stop();
        let scope = ["repository:app:pull,push,delete"];
        let deleter = token(&root.login, owner.0, owner.1, &scope).unwrap();
        for image in &images[..3] {
            let path = format!("/v2/app/manifests/{}", image.digest());
            assert_eq!(bearer(&root.login, &deleter, "DELETE", &path, &[], b"").status, 202);
        }
        let old = last_segment(&root.state());
        root.stop();
        std::fs::write(root.state().join("identity/feed-epoch"), "damaged").unwrap();
        let mut bytes = std::fs::read(&old).unwrap();
        let at = bytes.len() * quarter / 4;
        bytes[at] ^= 1;
        std::fs::write(&old, bytes).unwrap();
        root.start();
        assert!(root.log().contains("nothing is lost"), "{}", root.log());
        device.start();
        let after = Image::new(750, &[4_000]);
        assert_eq!(after.push(&root.login, owner, "app", "after").status, 201);
        eventually(SOON, "the device follows", || pull(&device, &user, "app", "after").ok());
        for node in [&root, &device] {
            for (number, image) in images.iter().enumerate() {
                let found = pull(node, &user, "app", &format!("t{number}"));
                match number {
                    0..3 => assert_eq!(found.unwrap_err().status, 404, "{quarter}: t{number}"),
                    _ => assert_eq!(found.unwrap(), image.digest(), "{quarter}: t{number}"),
                }
            }
        }
    }
}

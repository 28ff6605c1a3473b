//! Quotas of repositories.

use std::time::Duration;

use crate::support::eventually;
use crate::support::http::{bearer, token};
use crate::support::image::{self, Image};
use crate::support::node::Node;
use crate::sync::SOON;

#[test]
fn f203_a_push_over_the_quota_is_refused_and_a_sync_respects_it() {
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("quotas = [\"small=300KiB\"]\n");
    root.add_configuration("[gc]\ngrace = \"1s\"\nenabled = false\n");
    root.start();
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let (first, second) = (Image::new(1, &[200_000]), Image::new(2, &[150_000]));
    assert_eq!(first.push(&root.login, owner, "small", "v1").status, 201);
    // Refused before the bytes are sent where their number is told, and with the numbers.
    let scopes = ["repository:small:pull,push,delete", "repository:large:pull,push"];
    let bearer_token = token(&root.login, owner.0, owner.1, &scopes).unwrap();
    let layer = &second.layers[0];
    let path = format!("/v2/small/blobs/uploads/?digest={}", image::digest(layer));
    let refused = bearer(&root.login, &bearer_token, "POST", &path, &[], layer);
    assert_eq!((refused.status, refused.error().1.as_str()), (403, "quota_exceeded"));
    let message = refused.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("307200") && message.contains("151552"), "{message}");
    // In chunks too, at the latest when the whole is there; and by mounting it.
    let refused = image::push_blob(&root.login, &bearer_token, "small", layer);
    assert_eq!(refused.error().1, "quota_exceeded");
    assert_eq!(second.push(&root.login, owner, "large", "v1").status, 201);
    let mount = format!("/v2/small/blobs/uploads/?mount={}&from=large", image::digest(layer));
    let refused = bearer(&root.login, &bearer_token, "POST", &mount, &[], b"");
    assert_eq!((refused.status, refused.error().1.as_str()), (403, "quota_exceeded"));
    // What is there stays, and can be pushed again.
    assert_eq!(image::pull(&root.login, owner, "small", "v1").unwrap(), first.digest());
    assert_eq!(first.push(&root.login, owner, "small", "again").status, 201);

    // A device with a smaller quota keeps what it has and says what it left out.
    let connection = root.connect("dock01", &["--repository", "small", "large"]);
    root.link("dock01", &user.0);
    let mut device = Node::device(&connection);
    device.add_configuration("[registry]\nquotas = [\"large=100KiB\"]\n");
    device.start();
    eventually(SOON, "what fits is at the device", || {
        image::pull(&device.login, owner, "small", "v1").ok()
    });
    eventually(Duration::from_secs(60), "the rest is told at the root", || {
        let shown = root.json(&["connected-registry", "show", "--name", "dock01"]).to_string();
        (shown.contains("SyncIncomplete") && shown.contains("may hold 102400")).then_some(())
    });
    assert!(image::pull(&device.login, owner, "large", "v1").is_err());

    // Room comes by deleting, when the garbage is collected.
    let path = format!("/v2/small/manifests/{}", first.digest());
    assert_eq!(bearer(&root.login, &bearer_token, "DELETE", &path, &[], b"").status, 202);
    eventually(Duration::from_secs(20), "there is room", || {
        root.json(&["gc"]);
        (second.push(&root.login, owner, "small", "v2").status == 201).then_some(())
    });
}

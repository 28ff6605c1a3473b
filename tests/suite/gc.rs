//! Garbage collection of a running node.

use std::time::Duration;

use crate::support::eventually;
use crate::support::http::{bearer, token};
use crate::support::image::{self, Image};
use crate::support::node::Node;

#[test]
fn f141_f142_garbage_goes_on_demand_and_what_is_used_stays() {
    let root = Node::root_with("[gc]\nenabled = false\ngrace = \"1s\"\n");
    let user = root.token(
        "token-one",
        &[("app", &["content/read", "content/write", "content/delete", "metadata/read"])],
    );
    let user = (user.0.as_str(), user.1.as_str());
    let (kept, gone) = (Image::new(1, &[9000, 500]), Image::new(2, &[7000]));
    for (image, tag) in [(&kept, "kept"), (&gone, "gone")] {
        assert_eq!(image.push(&root.login, user, "app", tag).status, 201);
    }
    let path = format!("/v2/app/manifests/{}", gone.digest());
    let scope = "repository:app:pull,push,delete";
    let deleter = token(&root.login, user.0, user.1, &[scope]).unwrap();
    assert_eq!(bearer(&root.login, &deleter, "DELETE", &path, &[], b"").status, 202);
    let first = root.json(&["gc", "--dry-run"]);
    assert!(first["blobsWaiting"].as_u64() > Some(0), "{first}");
    let report = eventually(Duration::from_secs(20), "the garbage goes", || {
        let report = root.json(&["gc"]);
        (report["blobsRemoved"].as_u64() > Some(0)).then_some(report)
    });
    assert_eq!(report["blobsWaiting"], 0, "{report}");
    let pull = |tag| image::pull(&root.login, user, "app", tag).unwrap();
    assert_eq!(pull("kept"), kept.digest());
    // What went can come back.
    assert_eq!(gone.push(&root.login, user, "app", "gone").status, 201);
    assert_eq!(pull("gone"), gone.digest());
}

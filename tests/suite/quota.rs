//! Quotas of repositories.

use std::path::Path;
use std::time::Duration;

use crate::support::eventually;
use crate::support::http::{Answer, bearer, stream, token};
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

/// Bytes in the files of a directory of the state, and of those below it.
fn bytes_in(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => bytes_in(&entry.path()),
            false => entry.metadata().map_or(0, |data| data.len()),
        })
        .sum()
}

/// What cannot fit is refused while it comes, and takes no space: neither as an upload nor as
/// content that waits for garbage collection.
#[test]
fn f210_a_stream_beyond_the_quota_is_refused_as_it_comes_and_takes_no_space() {
    const QUOTA: u64 = 1 << 20;
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("quotas = [\"small=1MiB\"]\n");
    root.start();
    let user = root.pusher("owner-token", "*");
    let scope = "repository:small:pull,push";
    let bearer_token = token(&root.login, &user.0, &user.1, &[scope]).unwrap();
    let begin = || {
        let begun =
            bearer(&root.login, &bearer_token, "POST", "/v2/small/blobs/uploads/", &[], b"");
        begun.header("location").unwrap().to_owned()
    };
    let refused = |answer: &Answer, what: &str| {
        let reason = answer.error().1;
        assert_eq!((answer.status, reason.as_str()), (403, "quota_exceeded"), "{what}: {answer:?}");
    };
    let large = image::noise(5, 40 << 20);
    let upload = begin();
    refused(&stream(&root.login, &bearer_token, "PATCH", &upload, &[], &large), "a stream");
    let gone = bearer(&root.login, &bearer_token, "GET", &upload, &[], b"");
    assert_eq!(gone.error().0, "BLOB_UPLOAD_UNKNOWN", "{gone:?}");
    let last = format!("{}?digest={}", begin(), image::digest(&large));
    refused(&stream(&root.login, &bearer_token, "PUT", &last, &[], &large), "a last chunk");
    let whole = format!("/v2/small/blobs/uploads/?digest={}", image::digest(&large));
    refused(&stream(&root.login, &bearer_token, "POST", &whole, &[], &large), "a whole blob");
    assert_eq!(bytes_in(&root.state().join("uploads")), 0);
    assert_eq!(bytes_in(&root.state().join("blobs")), 0);

    // Each of two fits, both do not: the second is not installed.
    let blobs = [image::noise(6, 700_000), image::noise(7, 700_000)];
    let uploads = [begin(), begin()];
    for (upload, blob) in uploads.iter().zip(&blobs) {
        assert_eq!(stream(&root.login, &bearer_token, "PATCH", upload, &[], blob).status, 202);
    }
    let finish = |number: usize| {
        let target = format!("{}?digest={}", uploads[number], image::digest(&blobs[number]));
        bearer(&root.login, &bearer_token, "PUT", &target, &[], b"")
    };
    assert_eq!(finish(0).status, 201);
    refused(&finish(1), "the second of two");
    assert_eq!(bytes_in(&root.state().join("uploads")), 0);
    let held = bytes_in(&root.state().join("blobs"));
    assert!(held < QUOTA, "{held} bytes are there");
}

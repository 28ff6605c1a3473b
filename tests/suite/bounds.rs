//! What a registry does not accept because those below it could not follow.

use serde_json::{Value, json};

use crate::external::{App, descriptor};
use crate::support::image::{MANIFEST, digest};
use crate::support::node::Node;

/// The distribution-spec wants all annotations in the listing of referrers.
#[test]
fn f154_annotations_that_a_listing_of_referrers_could_not_have_are_refused() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let app = App::at(&root, &user);
    app.push(b"{}");
    let empty = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    let subject = descriptor(MANIFEST, b"a manifest that nobody pushed");
    let artifact = |annotations: Value, has_subject: bool| {
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "artifactType": "application/x.note", "config": empty, "layers": [empty],
            "annotations": annotations});
        if has_subject {
            manifest["subject"] = subject.clone();
        }
        manifest.to_string().into_bytes()
    };
    let many: serde_json::Map<String, Value> =
        (0..16).map(|number| (format!("note-{number:02}"), json!("x".repeat(1000)))).collect();
    let mut over = many.clone();
    over.insert("one".to_owned(), json!("more"));
    let over = artifact(over.into(), true);
    let refused = app.put(&digest(&over), MANIFEST, &over);
    let error = ("SIZE_INVALID".to_owned(), "too_large".to_owned());
    assert_eq!((refused.status, refused.error()), (413, error), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.body).contains("16384 bytes"), "{refused:?}");

    let whole = artifact(many.clone().into(), true);
    assert_eq!(app.put(&digest(&whole), MANIFEST, &whole).status, 201);
    let name = subject["digest"].as_str().unwrap();
    let listed = app.get("referrers", name).json();
    assert_eq!(listed["manifests"][0]["annotations"], Value::from(many));
    // What no listing has may be of any length.
    let alone = artifact(json!({"long": "x".repeat(100_000)}), false);
    assert_eq!(app.put(&digest(&alone), MANIFEST, &alone).status, 201);
}

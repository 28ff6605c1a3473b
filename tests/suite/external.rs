//! Content that a manifest names without needing it: layers that lie elsewhere, types that nobody
//! knows.

use serde_json::json;

use crate::support::http::{Answer, bearer, token};
use crate::support::image::{INDEX, Image, MANIFEST, digest};
use crate::support::node::Node;

/// A type that no registry knows.
const UNKNOWN: &str = "application/vnd.example.model.v1+json";

/// A node and a token that may do everything in `app` there.
struct App<'a> {
    node: &'a Node,
    token: String,
}

impl<'a> App<'a> {
    fn at(node: &'a Node, user: &(String, String)) -> App<'a> {
        let scope = "repository:app:pull,push,delete";
        App { node, token: token(&node.login, &user.0, &user.1, &[scope]).unwrap() }
    }

    fn get(&self, what: &str, name: &str) -> Answer {
        let target = format!("/v2/app/{what}/{name}");
        bearer(&self.node.login, &self.token, "GET", &target, &[], b"")
    }

    fn put(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Answer {
        let target = format!("/v2/app/manifests/{reference}");
        let headers = [("content-type", media_type)];
        bearer(&self.node.login, &self.token, "PUT", &target, &headers, bytes)
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

#[test]
fn f206_an_index_may_name_a_child_of_unknown_type() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let app = App::at(&root, &user);
    let image = Image::new(1, &[5000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let model = json!({"weights": "elsewhere"}).to_string().into_bytes();
    assert_eq!(app.put(&digest(&model), UNKNOWN, &model).status, 201);
    let index = |entries: &[serde_json::Value]| {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        index.to_string().into_bytes()
    };
    let known = descriptor(MANIFEST, &image.manifest);
    let accepted = index(&[known.clone(), descriptor(UNKNOWN, &model)]);
    let pushed = app.put("models", INDEX, &accepted);
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let served = app.get("manifests", &digest(&model));
    assert_eq!((served.status, served.header("content-type")), (200, Some(UNKNOWN)));
    assert_eq!(app.get("manifests", "models").body, accepted);
    // What is of a known type must be here all the same.
    let absent = index(&[known, descriptor(MANIFEST, b"never pushed")]);
    assert_eq!(app.put("absent", INDEX, &absent).error().0, "MANIFEST_BLOB_UNKNOWN");
}

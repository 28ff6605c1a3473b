//! Content that a manifest names without needing it: layers that lie elsewhere, types that nobody
//! knows.

use serde_json::json;

use crate::support::eventually;
use crate::support::http::{Answer, bearer, token};
use crate::support::image::{self, INDEX, Image, MANIFEST, digest, noise, push_blob};
use crate::support::node::Node;
use crate::sync::{SOON, root_behind};

/// A type that no registry knows.
pub const UNKNOWN: &str = "application/vnd.example.model.v1+json";

const WRITES: &[&str] = &["content/read", "content/write"];

/// A node and a token that may do everything in a repository there, `app` unless another is said.
pub struct App<'a> {
    node: &'a Node,
    name: &'static str,
    token: String,
}

impl<'a> App<'a> {
    pub fn at(node: &'a Node, user: &(String, String)) -> App<'a> {
        App::of(node, user, "app")
    }

    fn of(node: &'a Node, user: &(String, String), name: &'static str) -> App<'a> {
        let scope = format!("repository:{name}:pull,push,delete");
        App { node, name, token: token(&node.login, &user.0, &user.1, &[&scope]).unwrap() }
    }

    pub fn get(&self, what: &str, name: &str) -> Answer {
        let target = format!("/v2/{}/{what}/{name}", self.name);
        bearer(&self.node.login, &self.token, "GET", &target, &[], b"")
    }

    pub fn delete(&self, what: &str, name: &str) -> Answer {
        let target = format!("/v2/{}/{what}/{name}", self.name);
        bearer(&self.node.login, &self.token, "DELETE", &target, &[], b"")
    }

    pub fn put(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Answer {
        let target = format!("/v2/{}/manifests/{reference}", self.name);
        let headers = [("content-type", media_type)];
        bearer(&self.node.login, &self.token, "PUT", &target, &headers, bytes)
    }

    pub fn push(&self, blob: &[u8]) {
        assert_eq!(push_blob(&self.node.login, &self.token, self.name, blob).status, 201);
    }
}

/// A manifest with so many layers that are elsewhere; its configuration is `{}`.
pub fn elsewhere(number: usize, layers: usize) -> Vec<u8> {
    let layer = |layer: usize| {
        let digest = format!("sha256:{number:032x}{layer:032x}");
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 9, "digest": digest,
            "urls": ["https://layers.example.com/a"]})
    };
    let layers: Vec<serde_json::Value> = (0..layers).map(layer).collect();
    let config = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
        "layers": layers});
    manifest.to_string().into_bytes()
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
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

/// Content that is named without being needed, each piece unlike those of another seed.
struct External {
    blobs: Vec<Vec<u8>>,
    image: Vec<u8>,
    /// A manifest of unknown type, which names the last of the blobs.
    model: Vec<u8>,
    /// What is named and is nowhere.
    absent: Vec<u8>,
    index: Vec<u8>,
}

impl External {
    fn new(seed: u64) -> External {
        let sizes = [2000, 2001, 2002, 2003, 2004, 2005, 2006, 2009];
        let blob = |(number, size): (u64, usize)| noise(seed * 100 + number, size);
        let mut blobs: Vec<Vec<u8>> = (0..).zip(sizes).map(blob).collect();
        let absent = blobs.pop().unwrap();
        let with_urls = |mut named: serde_json::Value| {
            named["urls"] = json!(["https://layers.example.com/a"]);
            named
        };
        let image = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &blobs[0]),
            "layers": [
                descriptor("application/vnd.oci.image.layer.v1.tar", &blobs[1]),
                with_urls(descriptor("application/vnd.oci.image.layer.v1.tar", &blobs[2])),
                with_urls(descriptor(
                    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &blobs[3])),
                descriptor(
                    "application/vnd.oci.image.layer.nondistributable.v1.tar", &blobs[4]),
                with_urls(descriptor("application/vnd.oci.image.layer.v1.tar", &absent)),
            ],
        });
        let image = image.to_string().into_bytes();
        let model = json!({"blobs": [descriptor("application/vnd.example.weights", &blobs[6])]});
        let model = model.to_string().into_bytes();
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": [
                descriptor(MANIFEST, &image), descriptor(UNKNOWN, &model),
                descriptor("application/vnd.example.cache", &blobs[5]),
                descriptor("application/vnd.example.cache", &absent),
            ],
        });
        External { blobs, image, model, absent, index: index.to_string().into_bytes() }
    }

    fn push(&self, app: &App<'_>, tag: &str) {
        self.blobs.iter().for_each(|blob| app.push(blob));
        for (media_type, bytes) in [(MANIFEST, &self.image), (UNKNOWN, &self.model)] {
            assert_eq!(app.put(&digest(bytes), media_type, bytes).status, 201, "{media_type}");
        }
        assert_eq!(app.put(tag, INDEX, &self.index).status, 201);
    }

    /// Checks that all but what is nowhere is served.
    fn assert_at(&self, app: &App<'_>, place: &str) {
        for (number, blob) in self.blobs.iter().enumerate() {
            let served = app.get("blobs", &digest(blob));
            assert!(
                served.status == 200 && served.body == *blob,
                "blob {number} {place}: {served:?}"
            );
        }
        for bytes in [&self.image, &self.model, &self.index] {
            assert_eq!(app.get("manifests", &digest(bytes)).body, *bytes, "{place}");
        }
        assert_eq!(app.get("blobs", &digest(&self.absent)).status, 404, "{place}");
    }
}

/// Collects until something that nobody names is gone.
fn collect(node: &Node, app: &App<'_>, seed: u64) {
    let waste = noise(seed, 3000);
    app.push(&waste);
    let removed = eventually(SOON, "the waste goes", || {
        let removed = node.json(&["gc"])["blobsRemoved"].as_u64().unwrap();
        (removed > 0).then_some(removed)
    });
    assert_eq!(removed, 1, "only the waste goes");
    assert_eq!(app.get("blobs", &digest(&waste)).status, 404);
}

#[test]
fn f206_content_that_may_lie_elsewhere_is_kept_and_travels_down_and_up() {
    const GC: &str = "[gc]\nenabled = false\ngrace = \"1s\"\n";
    let root = Node::root_with(GC);
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    let at_root = App::at(&root, &user);
    let down = External::new(1);
    down.push(&at_root, "down");
    collect(&root, &at_root, 1001);
    down.assert_at(&at_root, "at the root after a collection");

    let mut device = Node::device(&connection);
    device.add_configuration(GC);
    device.start();
    let at_device = eventually(SOON, "a login at the device", || {
        let scope = "repository:app:pull,push,delete";
        let token = token(&device.login, &user.0, &user.1, &[scope]).ok()?;
        Some(App { node: &device, name: "app", token })
    });
    eventually(SOON, "the index at the device", || {
        (at_device.get("manifests", "down").status == 200).then_some(())
    });
    eventually(SOON, "what may lie elsewhere at the device", || {
        let named = down.blobs.iter().map(|blob| ("blobs", digest(blob)));
        let mut named = named.chain([("manifests", digest(&down.model))]);
        named.all(|(kind, digest)| at_device.get(kind, &digest).status == 200).then_some(())
    });
    down.assert_at(&at_device, "at the device");
    let up = External::new(2);
    up.push(&at_device, "up");
    eventually(SOON, "the index at the root", || {
        (at_root.get("manifests", "up").status == 200).then_some(())
    });
    up.assert_at(&at_root, "at the root");
    collect(&device, &at_device, 1002);
    for external in [&down, &up] {
        external.assert_at(&at_device, "at the device after a collection");
    }
}

/// Symptom: a layer that came to the root after its image was at no device, whatever was done with
/// the image. Cause: an image that is here was not looked at again.
#[test]
fn f206_what_comes_to_the_parent_later_is_fetched_without_a_word_of_anybody() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let at_root = App::at(&root, &user);
    let External { blobs, image, absent, .. } = External::new(3);
    blobs.iter().for_each(|blob| at_root.push(blob));
    assert_eq!(at_root.put("v1", MANIFEST, &image).status, 201);
    let device = Node::start_device(&connection);
    let at_device = seen(&device, &user, "v1");
    assert_eq!(at_device.get("blobs", &digest(&absent)).status, 404);
    at_root.push(&absent);
    eventually(SOON * 3, "the layer at the device", || {
        let blob = at_device.get("blobs", &digest(&absent));
        (blob.status == 200 && blob.body == absent).then_some(())
    });
}

/// Symptom: of 300 layers that the root had all along 256 came, and the others an hour later.
#[test]
fn f206_more_layers_than_are_asked_for_at_a_time_come_soon() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let at_root = App::at(&root, &user);
    let layers: Vec<Vec<u8>> = (0..300).map(|number| noise(5000 + number, 64)).collect();
    let named = layers.iter().map(|layer| {
        let mut named = descriptor("application/vnd.oci.image.layer.v1.tar", layer);
        named["urls"] = json!(["https://layers.example.com/a"]);
        named
    });
    let image = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": named.collect::<Vec<_>>()});
    at_root.push(b"{}");
    layers.iter().for_each(|layer| at_root.push(layer));
    let pushed = at_root.put("v1", MANIFEST, image.to_string().as_bytes());
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let device = Node::start_device(&connection);
    let at_device = seen(&device, &user, "v1");
    let mut left = layers.iter().peekable();
    eventually(SOON * 3, "all layers", || {
        while left.next_if(|layer| at_device.get("blobs", &digest(layer)).status == 200).is_some() {
        }
        left.peek().is_none().then_some(())
    });
}

/// The device, once it has the tag.
fn seen<'a>(device: &'a Node, user: &(String, String), tag: &str) -> App<'a> {
    eventually(SOON, "the image at the device", || {
        let token = token(&device.login, &user.0, &user.1, &["repository:app:pull"]).ok()?;
        let app = App { node: device, name: "app", token };
        (app.get("manifests", tag).status == 200).then_some(app)
    })
}

/// Symptom: one account that pushed images of 256 layers that were nowhere kept all else of a
/// device waiting, a token that was disabled and another repository too, 15 s for each image, or
/// for ever where the link broke now and then. Cause: a tag waited until each had been asked for.
#[test]
fn f206_f209_nothing_waits_for_what_may_lie_elsewhere() {
    let (root, login, _gateway) = root_behind(u64::MAX);
    let user = root.token("owner-token", &["app", "other"].map(|name| (name, WRITES)));
    let connection = root.connect("dock01", &["--repository", "app", "other"]);
    root.link("dock01", &user.0);
    let at_root = App::at(&root, &user);
    let External { blobs, image, absent, .. } = External::new(4);
    blobs.iter().for_each(|blob| at_root.push(blob));
    login.hold(&format!("HEAD /v2/app/blobs/{}", digest(&absent)));
    let device = Node::start_device(&connection);
    assert_eq!(at_root.put("v1", MANIFEST, &image).status, 201);
    let at_device = seen(&device, &user, "v1");
    let other = Image::new(5, &[2000]);
    assert_eq!(other.push(&root.login, (&user.0, &user.1), "other", "v1").status, 201);
    eventually(SOON, "the other image at the device", || {
        image::pull(&device.login, (&user.0, &user.1), "other", "v1").ok()
    });
    at_root.push(&absent);
    eventually(SOON, "it is not waited for", || {
        device.log().contains("what images of app lack").then_some(())
    });
    assert!(!device.log().contains("the sync stopped"), "{}", device.log());
    login.pass();
    eventually(SOON * 3, "it comes", || {
        (at_device.get("blobs", &digest(&absent)).body == absent).then_some(())
    });
}

/// Symptom: a tag never came, and of one kind of answer nothing came any more, because the parent
/// could not hand out a layer that nobody needs.
#[test]
fn f206_what_may_lie_elsewhere_and_cannot_be_had_stops_no_tag() {
    let (root, login, _gateway) = root_behind(u64::MAX);
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let app = App::at(&root, &user);
    let device = Node::start_device(&connection);
    let broken =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let unmeasured = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    let config = descriptor("application/vnd.oci.image.config.v1+json", b"{}");
    app.push(b"{}");
    for (round, method, answer) in
        [(1, "GET", broken), (2, "HEAD", broken), (3, "HEAD", unmeasured)]
    {
        let [layer, elsewhere] = [1, 2].map(|n| noise(900 + 10 * round + n, 3000));
        let kind = "application/vnd.oci.image.layer.v1.tar";
        let mut external = descriptor(kind, &elsewhere);
        external["urls"] = json!(["https://layers.example.com/a"]);
        let image = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [external, descriptor(kind, &layer)],
        });
        let image = image.to_string().into_bytes();
        [&layer, &elsewhere].into_iter().for_each(|blob| app.push(blob));
        login.refuse(&format!("{method} /v2/app/blobs/{}", digest(&elsewhere)), answer);
        let tag = format!("v{round}");
        assert_eq!(app.put(&tag, MANIFEST, &image).status, 201);
        let at_device = eventually(SOON, "a login at the device", || {
            let scope = "repository:app:pull";
            let token = token(&device.login, &user.0, &user.1, &[scope]).ok()?;
            Some(App { node: &device, name: "app", token })
        });
        eventually(SOON, &format!("{tag} comes"), || {
            (at_device.get("manifests", &tag).status == 200).then_some(())
        });
        assert_eq!(at_device.get("blobs", &digest(&layer)).body, layer);
        assert_eq!(at_device.get("blobs", &digest(&elsewhere)).status, 404);
        login.pass();
    }
    let log = device.log();
    assert!(!log.contains("set aside") && !log.contains("the sync stopped"), "{log}");
}

/// An image whose layers lie elsewhere, and at the node of this, with a configuration of its own.
fn push_elsewhere(app: &App<'_>, tag: &str, config: &[u8], layers: &[Vec<u8>]) {
    let named = layers.iter().map(|layer| {
        let mut named = descriptor("application/vnd.oci.image.layer.v1.tar", layer);
        named["urls"] = json!(["https://layers.example.com/a"]);
        named
    });
    let image = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.empty.v1+json", config),
        "layers": named.collect::<Vec<_>>()});
    app.push(config);
    layers.iter().for_each(|layer| app.push(layer));
    assert_eq!(app.put(tag, MANIFEST, image.to_string().as_bytes()).status, 201);
}

/// Symptom: layers that nobody needs and whose transfer a proxy refused ended a session each, and
/// kept those of all other repositories away, up to a minute for each.
#[test]
fn f206_f209_layers_that_cannot_be_had_keep_no_others_away() {
    let (root, login, _gateway) = root_behind(u64::MAX);
    let user = root.token("owner-token", &["app", "other"].map(|name| (name, WRITES)));
    let connection = root.connect("dock01", &["--repository", "app", "other"]);
    root.link("dock01", &user.0);
    let [app, other] = ["app", "other"].map(|name| App::of(&root, &user, name));
    push_elsewhere(&app, "v1", b"{}", &[]);
    let device = Node::start_device(&connection);
    let at_device = seen(&device, &user, "v1");
    let answer =
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\nconnection: close\r\n\r\nslow";
    login.refuse("GET /v2/app/blobs/", answer);
    let layers = |from: u64| (from..from + 8).map(|seed| noise(seed, 3000)).collect::<Vec<_>>();
    let [cut, good] = [7000, 7100].map(layers);
    push_elsewhere(&app, "v2", b"{}", &cut);
    eventually(SOON, "the image is not waited for", || {
        (at_device.get("manifests", "v2").status == 200).then_some(())
    });
    push_elsewhere(&other, "v1", b"{ }", &good);
    eventually(SOON, "the layers of the other repository at the device", || {
        let token = token(&device.login, &user.0, &user.1, &["repository:other:pull"]).ok()?;
        let app = App { node: &device, name: "other", token };
        good.iter().all(|layer| app.get("blobs", &digest(layer)).status == 200).then_some(())
    });
    assert!(!device.log().contains("the sync stopped"), "{}", device.log());
}

//! What a registry does not accept because those below it could not follow.

use serde_json::{Value, json};

use crate::external::{App, UNKNOWN, descriptor, elsewhere};
use crate::support::eventually;
use crate::support::http::{send, token};
use crate::support::image::{INDEX, Image, MANIFEST, digest, noise};
use crate::support::node::Node;
use crate::sync::SOON;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Symptom: a push with a wrong size was accepted, and no device ever had the tag.
#[test]
fn f207_a_manifest_that_tells_a_wrong_size_is_refused() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let app = App::at(&root, &user);
    let [config, layer, external] = [1, 2, 3].map(|seed| noise(seed, 2000));
    [&config, &layer, &external].into_iter().for_each(|blob| app.push(blob));
    let image = Image::new(1, &[5000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let sized = |mut named: Value, size: usize| {
        named["size"] = json!(size);
        named
    };
    let elsewhere = |bytes: &[u8]| {
        let mut named = descriptor(LAYER, bytes);
        named["urls"] = json!(["https://layers.example.com/a"]);
        named
    };
    let image_of = |config: &Value, layer: &Value| {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [layer]});
        (MANIFEST, manifest.to_string().into_bytes())
    };
    let index_of = |entry: &Value| {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        (INDEX, index.to_string().into_bytes())
    };
    let (configured, layered) = (descriptor(CONFIG, &config), descriptor(LAYER, &layer));
    let child = descriptor(MANIFEST, &image.manifest);
    for (number, (media_type, manifest)) in [
        image_of(&sized(configured.clone(), 1999), &layered),
        image_of(&configured, &sized(layered.clone(), 2001)),
        image_of(&configured, &sized(layered.clone(), usize::MAX >> 1)),
        image_of(&configured, &sized(elsewhere(&external), 5)),
        index_of(&sized(child.clone(), 5)),
        index_of(&sized(descriptor(UNKNOWN, &layer), 5)),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = app.put("wrong", media_type, &manifest);
        let error = ("MANIFEST_INVALID".to_owned(), "malformed".to_owned());
        assert_eq!((answer.status, answer.error()), (400, error), "{number}: {answer:?}");
        let told = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(told.contains("and it has "), "{told}");
        assert_eq!(app.get("manifests", "wrong").status, 404);
    }
    // What is not here may have any size, and what is nobody's to judge too.
    let opaque = json!({"layers": [sized(layered.clone(), 5)]}).to_string().into_bytes();
    for (media_type, manifest) in [
        image_of(&configured, &layered),
        image_of(&configured, &sized(elsewhere(b"nowhere"), 5)),
        index_of(&child),
        index_of(&sized(descriptor(UNKNOWN, b"nowhere"), 5)),
        (UNKNOWN, opaque),
    ] {
        let answer = app.put("right", media_type, &manifest);
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

/// Symptom: an index of indexes was accepted, and its tag never came to a device.
#[test]
fn f207_a_registry_accepts_as_many_levels_of_indexes_as_a_device_follows() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let app = App::at(&root, &user);
    let image = Image::new(1, &[5000]);
    let image_pushed = image.push(&root.login, (&user.0, &user.1), "app", &image.digest());
    assert_eq!(image_pushed.status, 201);
    let mut below = descriptor(MANIFEST, &image.manifest);
    let mut last = Vec::new();
    for level in 2..=8 {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [below]});
        last = index.to_string().into_bytes();
        below = descriptor(INDEX, &last);
        let answer = app.put(&format!("level{level}"), INDEX, &last);
        assert_eq!(answer.status, 201, "{level}: {answer:?}");
    }
    // The other way is short; this one counts.
    let short = descriptor(MANIFEST, &image.manifest);
    let over = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [short, below]});
    let answer = app.put("level9", INDEX, &over.to_string().into_bytes());
    let error = ("MANIFEST_INVALID".to_owned(), "malformed".to_owned());
    assert_eq!((answer.status, answer.error()), (400, error), "{answer:?}");
    assert!(String::from_utf8_lossy(&answer.body).contains("8 levels"), "{answer:?}");

    let device = Node::start_device(&connection);
    let scope = "repository:app:pull";
    eventually(SOON, "the deepest index comes", || {
        let token = token(&device.login, &user.0, &user.1, &[scope]).ok()?;
        let target = "/v2/app/manifests/level8";
        let served = crate::support::http::bearer(&device.login, &token, "GET", target, &[], b"");
        (served.status == 200 && served.body == last).then_some(())
    });
}

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

/// Symptom: pushes of manifests with thousands of layers filled the memory of a node, which was out
/// of it at each start from then on. Cause: the index keeps some for each of its rows, and their
/// number had no bound.
#[test]
fn f209_a_device_takes_no_more_references_than_its_memory_is_meant_for() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let app = App::at(&root, &user);
    app.push(b"{}");
    let manifests: Vec<Vec<u8>> = (0..9).map(|number| elsewhere(number, 9_990)).collect();
    for (number, manifest) in manifests.iter().enumerate() {
        assert_eq!(app.put(&format!("v{number}"), MANIFEST, manifest).status, 201);
    }
    let mut device = Node::device(&connection);
    let limits = "[limits]\nconnections = 8\nbody_memory = \"16MiB\"\nmemory = \"45MiB\"\n";
    device.add_configuration(limits);
    device.start();
    // What was asked for first is there, and what does not fit is told and waits.
    let told = |device: &Node| {
        let status = device.json(&["status"]);
        Some(status["reason"].as_str()?.to_owned()).filter(|why| why.contains("limits.memory"))
    };
    let here = |device: &Node| {
        let app = App::at(device, &user);
        (0..manifests.len())
            .filter(|n| app.get("manifests", &format!("v{n}")).status == 200)
            .count()
    };
    eventually(SOON, "the index is full", || told(&device));
    let before = here(&device);
    let status = device.json(&["status"]);
    let [rows, max] = ["indexRows", "indexRowsMax"].map(|key| status[key].as_u64().unwrap());
    assert!(rows >= max && max > 65_536, "{status}");
    assert!((6..9).contains(&before), "{before} of 9 came");
    let image = Image::new(1, &[5000]);
    let pushed = image.push(&device.login, (&user.0, &user.1), "app", "here");
    let full = ("DENIED".to_owned(), "index_full".to_owned());
    assert_eq!((pushed.status, pushed.error()), (507, full), "{pushed:?}");
    let ready = send(&device.login, "GET", "/readyz", &[], b"").unwrap();
    let text = String::from_utf8_lossy(&ready.body).into_owned();
    assert!(ready.status == 200 && text.contains("limits.memory"), "{text}");
    // So does one that was killed, and all comes when there is room.
    device.kill();
    device.start();
    eventually(SOON, "the index is full", || told(&device));
    assert_eq!(here(&device), before);
    for manifest in &manifests[..4] {
        assert_eq!(app.delete("manifests", &digest(manifest)).status, 202);
    }
    eventually(SOON, "the rest comes", || (here(&device) == 5).then_some(()));
    eventually(SOON, "all is well", || told(&device).is_none().then_some(()));
    let pushed = image.push(&device.login, (&user.0, &user.1), "app", "here");
    assert_eq!(pushed.status, 201, "{pushed:?}");
}

/// Symptom: ten accounts that pushed manifests of thousands of layers at once had a node use more
/// memory than its service may have. Cause: the budget counted their bytes, and not what they
/// are parsed into.
#[test]
fn f209_what_large_manifests_of_many_accounts_are_parsed_into_is_bounded() {
    const PUSHERS: usize = 40;
    let root = Node::root_with("[limits]\nbody_memory = \"16MiB\"\n");
    let users: Vec<_> = (0..PUSHERS).map(|n| root.pusher(&format!("owner{n}"), "app")).collect();
    App::at(&root, &users[0]).push(b"{}");
    let before = root.peak_rss_kib();
    std::thread::scope(|scope| {
        for (pusher, user) in users.iter().enumerate() {
            let root = &root;
            scope.spawn(move || {
                let app = App::at(root, user);
                let manifest = elsewhere(pusher, 1_400);
                for _ in 0..3 {
                    let put = app.put(&format!("v{pusher}"), MANIFEST, &manifest);
                    assert_eq!(put.status, 201, "{put:?}");
                }
            });
        }
    });
    let more = root.peak_rss_kib().saturating_sub(before);
    eprintln!("{more} KiB more at most");
    assert!(more < 40 * 1024, "{more} KiB more");
}

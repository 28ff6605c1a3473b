//! Damaged content of running nodes: found, not served, healed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::delivery::permissions;
use crate::support::clients::{must, skopeo};
use crate::support::http::{bearer, send, token};
use crate::support::image::{self, Image};
use crate::support::node::Node;
use crate::support::{TempDir, eventually, skip, tool};
use crate::sync::pair;

/// The file of a blob in a node's state.
fn file(node: &Node, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    node.state().join("blobs/sha256").join(&hex[..2]).join(hex)
}

pub fn flip_a_bit(node: &Node, digest: &str) {
    let path = file(node, digest);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn f173_a_device_heals_itself_from_its_parent() {
    let (root, device, user) = pair("ReadOnly");
    let user = (user.0.as_str(), user.1.as_str());
    let image = Image::new(40, &[300_000, 70_000]);
    let pusher = root.pusher("pusher-one", "app");
    assert_eq!(image.push(&root.login, (&pusher.0, &pusher.1), "app", "v2").status, 201);
    eventually(Duration::from_secs(20), "the image is at the device", || {
        image::pull(&device.login, user, "app", "v2").ok()
    });
    let layer = image::digest(&image.layers[0]);
    // A layer, and the manifest itself.
    flip_a_bit(&device, &layer);
    flip_a_bit(&device, &image.digest());
    let report = device.json(&["scrub", "--no-wait", "--full-speed"]);
    assert!(report["percent"].is_u64(), "{report}");
    eventually(Duration::from_secs(20), "both are healed", || {
        (device.metric("skerry_blobs_healed_total") == 2).then_some(())
    });
    assert_eq!(device.metric("skerry_blobs_damaged_total"), 2);
    assert_eq!(device.json(&["status"])["damagedBlobs"], 0);
    assert_eq!(image::pull(&device.login, user, "app", "v2").unwrap(), image.digest());
    // What cannot be healed is told upward.
    drop(root);
    flip_a_bit(&device, &layer);
    let output = device.run(&["scrub", "--full-speed"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(device.json(&["status"])["damagedBlobs"], 1);
}

/// A file that cannot be opened: `scrub` ended as if all were well, `status` said nothing, and the
/// next scrub waited ten minutes.
#[test]
fn f173_f211_a_scrub_that_cannot_check_everything_says_so_and_the_next_begins_at_once() {
    let root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let image = Image::new(42, &[50_000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let layer = image::digest(&image.layers[0]);
    let path = file(&root, &layer);
    let aside = path.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    for command in [["scrub", "--full-speed"], ["fsck", "--content"]] {
        let output = root.run(&command);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("not everything could be checked"), "{output:?}");
    }
    let status = root.json(&["status"]);
    assert!(status["reason"].as_str().unwrap().contains(&layer[7..]), "{status}");
    assert!(status["remedy"].as_str().unwrap().contains("chown"), "{status}");
    assert_eq!(status["damagedBlobs"], 0);
    std::fs::rename(&aside, &path).unwrap();
    for command in [["scrub", "--full-speed"], ["fsck", "--content"]] {
        let output = root.run(&command);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    assert!(root.json(&["status"])["reason"].is_null());
}

/// Symptom: a client that asks for parts got wrong bytes until somebody asked for all of it.
#[test]
fn f173_f211_damage_is_found_soon_after_a_part_was_sent() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let image = Image::new(43, &[300_000, 20_000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let layers: Vec<String> = image.layers.iter().map(|layer| image::digest(layer)).collect();
    // What was written before a kill is hashed after it, asked for or not.
    assert!(root.stop().success());
    layers.iter().for_each(|layer| flip_a_bit(&root, layer));
    root.start();
    let bearer_token = token(&root.login, &user.0, &user.1, &["repository:app:pull"]).unwrap();
    let ask = |layer: &str| {
        let path = format!("/v2/app/blobs/{layer}");
        bearer(&root.login, &bearer_token, "GET", &path, &[("range", "bytes=5-99")], b"")
    };
    let damaged = (503, "content_damaged".to_owned());
    let answer = ask(&layers[1]);
    assert_eq!((answer.status, answer.error().1), damaged, "what is short is hashed first");
    ask(&layers[0]);
    eventually(Duration::from_secs(20), "the long one is out of service", || {
        Some(ask(&layers[0])).filter(|answer| answer.status != 206)
    });
    assert_eq!((ask(&layers[0]).status, ask(&layers[0]).error().1), damaged);
    assert_eq!(root.json(&["status"])["damagedBlobs"], 2);
}

#[test]
fn f173_a_damaged_blob_of_a_root_is_told_and_taken_back_by_a_push() {
    let root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let image = Image::new(41, &[200_000]);
    assert_eq!(image.push(&root.login, user, "app", "v1").status, 201);
    let layer = image::digest(&image.layers[0]);
    flip_a_bit(&root, &layer);
    let output = root.run(&["scrub", "--full-speed"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let bearer_token = token(&root.login, user.0, user.1, &["repository:app:pull,push"]).unwrap();
    let path = format!("/v2/app/blobs/{layer}");
    let ask = |method| bearer(&root.login, &bearer_token, method, &path, &[], b"");
    let answer = ask("GET");
    assert_eq!((answer.status, answer.error().1.as_str()), (503, "content_damaged"));
    assert!(answer.header("retry-after").is_some());
    // A client that is about to push asks by HEAD, and then sends the layer.
    assert_eq!(ask("HEAD").status, 404);
    assert_eq!(image.push(&root.login, user, "app", "v1").status, 201);
    assert_eq!(ask("GET").body, image.layers[0]);
    let report = root.json(&["scrub", "--full-speed"]);
    assert_eq!(report["waitingToBeHealed"], 0);
    let finished = report["finished"].as_str().unwrap_or_default();
    assert!(finished.ends_with('Z') && finished.contains('T'), "{report}");
    assert_eq!(root.json(&["fsck", "--content"])["content"]["running"], false);
    // A file that was cut is noticed before the first byte is sent.
    std::fs::write(file(&root, &layer), &image.layers[0][..1000]).unwrap();
    assert_eq!(ask("GET").status, 503);
    assert_eq!(root.json(&["status"])["damagedBlobs"], 1);
}

/// A node that has been switched on sends nothing that rotted meanwhile as if it were whole.
#[test]
fn f211_what_rotted_while_a_node_was_off_does_not_arrive_whole() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let image = Image::new(43, &[1_000_000, 300_000]);
    assert_eq!(image.push(&root.login, user, "app", "v1").status, 201);
    assert!(root.stop().success());
    let [bad, good] = [0, 1].map(|n: usize| image::digest(&image.layers[n]));
    flip_a_bit(&root, &bad);
    flip_a_bit(&root, &image::digest(&image.config));
    root.start();
    let bearer_token = token(&root.login, user.0, user.1, &["repository:app:pull"]).unwrap();
    let path = |digest: &str| format!("/v2/app/blobs/{digest}");
    let ask = |digest: &str| bearer(&root.login, &bearer_token, "GET", &path(digest), &[], b"");
    let authorization = format!("Bearer {bearer_token}");
    let cut = send(&root.login, "GET", &path(&bad), &[("authorization", &authorization)], b"");
    assert!(cut.is_err(), "{:?}", cut.map(|answer| (answer.status, answer.body.len())));
    for digest in [&bad, &image::digest(&image.config)] {
        let answer = ask(digest);
        assert_eq!((answer.status, answer.error().1.as_str()), (503, "content_damaged"));
    }
    for _ in 0..2 {
        assert_eq!(ask(&good).body, image.layers[1]);
    }
    assert_eq!(root.json(&["status"])["damagedBlobs"], 2);
}

/// A file that is not there is noticed by whoever asks for it, and fetched again like one that is
/// damaged.
#[test]
fn f211_a_device_fetches_again_what_is_missing() {
    let (root, mut device, user) = pair("ReadOnly");
    let user = (user.0.as_str(), user.1.as_str());
    let image = Image::new(42, &[60_000]);
    let pusher = root.pusher("pusher-one", "app");
    assert_eq!(image.push(&root.login, (&pusher.0, &pusher.1), "app", "v2").status, 201);
    eventually(Duration::from_secs(20), "the image is at the device", || {
        image::pull(&device.login, user, "app", "v2").ok()
    });
    for missing in [image.digest(), image::digest(&image.layers[0])] {
        // What was read before may be in memory.
        device.kill();
        device.start();
        std::fs::remove_file(file(&device, &missing)).unwrap();
        let pulled = eventually(Duration::from_secs(20), "it is healed", || {
            image::pull(&device.login, user, "app", "v2").ok()
        });
        assert_eq!(pulled, image.digest());
        assert!(file(&device, &missing).exists());
    }
}

/// Symptom: "has 100 bytes, not 40000 as named", every quarter of an hour, until a scrub came by.
#[test]
fn f211_a_cut_file_keeps_no_other_repository_from_being_synced() {
    let (root, mut device, user) = pair("ReadOnly");
    let layer = Image::new(1, &[40_000]).layers.remove(0);
    // After an unclean stop it would be hashed anyway.
    device.stop();
    let path = file(&device, &image::digest(&layer));
    std::fs::write(&path, &layer[..100]).unwrap();
    let other = Image::of("arm64", "with the same layer", vec![layer]);
    let owner = (user.0.as_str(), user.1.as_str());
    assert_eq!(other.push(&root.login, owner, "other", "v2").status, 201);
    permissions(&root, &["--add", "other"]);
    device.start();
    let target = format!("/v2/other/manifests/{}", other.digest());
    // Nobody asks for the layer in the meantime.
    eventually(Duration::from_secs(20), "the other image is here", || {
        let token = token(&device.login, owner.0, owner.1, &["repository:other:pull"]).ok()?;
        let answer = bearer(&device.login, &token, "GET", &target, &[], b"");
        (answer.status == 200).then_some(())
    });
    assert_eq!(image::pull(&device.login, owner, "other", "v2").unwrap(), other.digest());
}

/// No request of a push is answered as if content were there that is not: the client brings it.
#[test]
fn f211_a_push_to_a_root_replaces_what_is_missing_or_damaged() {
    let mut root = Node::root();
    let user = root.pusher("pusher-one", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let image = Image::new(43, &[60_000]);
    assert_eq!(image.push(&root.login, user, "app", "v1").status, 201);
    let (layer, manifest) = (image::digest(&image.layers[0]), image.digest());
    for what in ["missing", "damaged", "cut"] {
        // What was read before may be in memory.
        root.kill();
        root.start();
        let scope = "repository:app:pull,push";
        let bearer_token = token(&root.login, user.0, user.1, &[scope]).unwrap();
        let ask = |method: &str, target: &str, body: &[u8]| {
            let headers = [("content-type", image::MANIFEST)];
            bearer(&root.login, &bearer_token, method, target, &headers, body)
        };
        let begun = ask("POST", "/v2/app/blobs/uploads/", b"");
        let last = format!("{}?digest={layer}", begun.header("location").unwrap());
        assert_eq!(ask("PUT", &last, &image.layers[0]).status, 201, "{what}");
        assert_eq!(ask("PUT", &last, b"").status, 201, "{what}: the answer was lost");
        for digest in [&layer, &manifest] {
            let path = file(&root, digest);
            match what {
                "missing" => std::fs::remove_file(path).unwrap(),
                "damaged" => flip_a_bit(&root, digest),
                _ => std::fs::write(&path, &std::fs::read(&path).unwrap()[..100]).unwrap(),
            }
        }
        if what == "damaged" {
            root.run(&["scrub", "--full-speed"]);
        }
        let target = "/v2/app/manifests/v1";
        let again = ask("PUT", target, &image.manifest);
        assert_eq!(again.error().0, "MANIFEST_BLOB_UNKNOWN", "{what}: {again:?}");
        let repeated = ask("PUT", &last, b"");
        assert_eq!(repeated.error().0, "BLOB_UPLOAD_UNKNOWN", "{what}: {repeated:?}");
        assert_eq!(ask("HEAD", &format!("/v2/app/blobs/{layer}"), b"").status, 404, "{what}");
        assert_eq!(ask("HEAD", target, b"").status, 404, "{what}");
        assert_eq!(ask("GET", target, b"").error().1, "content_damaged", "{what}");
        assert_eq!(image.push(&root.login, user, "app", "v1").status, 201, "{what}");
        assert_eq!(image::pull(&root.login, user, "app", "v1").unwrap(), manifest, "{what}");
        assert_eq!(root.json(&["status"])["damagedBlobs"], 0, "{what}");
    }
}

/// Symptom: clients that push an image again found its manifest, sent nothing, and reported
/// success; the root stayed damaged. Cause: HEAD of a manifest looked at its own file only.
#[test]
fn f211_an_image_whose_content_is_damaged_is_not_there_for_who_may_push_it() {
    let (root, device, user) = pair("ReadWrite");
    let owner = (user.0.as_str(), user.1.as_str());
    let reader = root.token("reader-one", &[("app", &["content/read"])]);
    let (image, other) = (Image::new(44, &[60_000]), Image::new(45, &[50_000]));
    for (image, tag) in [(&image, "v2"), (&other, "v3")] {
        assert_eq!(image.push(&root.login, owner, "app", tag).status, 201);
    }
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": image::INDEX,
        "manifests": [{"mediaType": image::MANIFEST, "digest": image.digest(),
            "size": image.manifest.len()}]});
    let index = index.to_string().into_bytes();
    let ask = |user: &(String, String), method: &str, reference: &str, body: &[u8]| {
        let scope = "repository:app:pull,push";
        let bearer_token = token(&root.login, &user.0, &user.1, &[scope]).unwrap();
        let target = format!("/v2/app/manifests/{reference}");
        let headers = [("content-type", image::INDEX)];
        bearer(&root.login, &bearer_token, method, &target, &headers, body)
    };
    assert_eq!(ask(&user, "PUT", "all", &index).status, 201);
    eventually(Duration::from_secs(20), "the image is at the device", || {
        image::pull(&device.login, owner, "app", "all").ok()
    });
    std::fs::remove_file(file(&root, &image::digest(&image.layers[0]))).unwrap();
    root.run(&["scrub", "--full-speed"]);
    let named = ["v2", "all", &image.digest(), &image::digest(&index)];
    for reference in named {
        let found = ask(&user, "HEAD", reference, b"");
        assert_eq!(found.status, 404, "{reference}");
        assert!(found.header("skerry-partial").is_some(), "{reference}: it is not deleted");
        assert_eq!(ask(&user, "GET", reference, b"").status, 200, "{reference}");
        // Who cannot bring it may need no more than the manifest.
        assert_eq!(ask(&reader, "HEAD", reference, b"").status, 200, "{reference}");
    }
    assert_eq!(ask(&user, "HEAD", "v3", b"").status, 200, "all of it is here");

    // A child moves such a tag as any other, and takes nothing for deleted.
    assert_eq!(other.push(&device.login, owner, "app", "v2").status, 201);
    eventually(Duration::from_secs(20), "the move goes up", || {
        let pulled = image::pull(&root.login, owner, "app", "v2").ok();
        (pulled == Some(other.digest())).then_some(())
    });
    assert!(!device.log().contains("retrying a push"), "{}", device.log());
    assert!(image::pull(&device.login, owner, "app", &image.digest()).is_ok());
    assert!(image::pull(&device.login, owner, "app", "all").is_ok());
    // One that delivers it brings what is damaged.
    assert_eq!(image.push(&device.login, owner, "app", "again").status, 201);
    eventually(Duration::from_secs(20), "a child's push heals the root", || {
        image::pull(&root.login, owner, "app", "again").ok()
    });
    for reference in ["again", "all", &image.digest(), &image::digest(&index)] {
        assert_eq!(ask(&user, "HEAD", reference, b"").status, 200, "{reference}");
    }
    // Also what an entry of an index needs.
    std::fs::remove_file(file(&root, &image::digest(&image.layers[0]))).unwrap();
    root.run(&["scrub", "--full-speed"]);
    let scope = "repository:app:pull,push";
    let at_device = token(&device.login, &user.0, &user.1, &[scope]).unwrap();
    let headers = [("content-type", image::INDEX)];
    let put = bearer(&device.login, &at_device, "PUT", "/v2/app/manifests/more", &headers, &index);
    assert_eq!(put.status, 201);
    eventually(Duration::from_secs(20), "the index heals the root", || {
        image::pull(&root.login, owner, "app", "more").ok()
    });
}

/// Symptom: an account that may push could not pull an index of which one entry was damaged, though
/// its other entries could be had. Cause: HEAD of the index was 404 for it, however it asked.
#[test]
fn f211_one_damaged_entry_of_an_index_keeps_nobody_from_pulling_the_others() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let images = [Image::new(54, &[60_000]), Image::new(55, &[50_000])];
    for image in &images {
        assert_eq!(image.push(&root.login, owner, "app", &image.digest()).status, 201);
    }
    let entries = images.each_ref().map(|image| {
        serde_json::json!({"mediaType": image::MANIFEST, "digest": image.digest(),
            "size": image.manifest.len()})
    });
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": image::INDEX,
        "manifests": entries});
    let index = index.to_string().into_bytes();
    let ask = |actions: &str, method: &str, reference: &str, body: &[u8]| {
        let scope = format!("repository:app:{actions}");
        let bearer_token = token(&root.login, &user.0, &user.1, &[&scope]).unwrap();
        let target = format!("/v2/app/manifests/{reference}");
        bearer(&root.login, &bearer_token, method, &target, &[("content-type", image::INDEX)], body)
    };
    assert_eq!(ask("pull,push", "PUT", "all", &index).status, 201);
    for lost in [&images[0].layers[0], &images[0].manifest] {
        std::fs::remove_file(file(&root, &image::digest(lost))).unwrap();
        root.run(&["scrub", "--full-speed"]);
        let index = image::digest(&index);
        let [bad, good] = images.each_ref().map(Image::digest);
        for (reference, pulls, pushes) in
            [("all", 200, 404), (&index, 200, 404), (&good, 200, 200), (&bad, 404, 404)]
        {
            assert_eq!(ask("pull", "HEAD", reference, b"").status, pulls, "{reference}");
            // A client that finds an index on its way sends nothing of its entries.
            assert_eq!(ask("pull,push", "HEAD", reference, b"").status, pushes, "{reference}");
        }
        assert_eq!(ask("pull", "GET", "all", b"").status, 200);
        assert!(image::pull(&root.login, owner, "app", &good).is_ok());
        assert_eq!(images[0].push(&root.login, owner, "app", &bad).status, 201);
        assert_eq!(ask("pull,push", "HEAD", "all", b"").status, 200, "all of it is here");
    }
}

/// The client pushes the index of this layout to `target` of the registry, from its home.
fn push_with(client: &str, path: &Path, home: &Path, (registry, target): (&str, &str)) {
    let layout = home.join("layout").display().to_string();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(path);
        command.env("HOME", home).env("DOCKER_CONFIG", home).current_dir(home);
        must(command.args(arguments));
    };
    match client {
        "crane" => run(&["push", "--index", &layout, target]),
        "regctl" => {
            run(&["registry", "set", "--skip-check", "--tls", "disabled", registry]);
            // Of an index that it finds it looks at no entry otherwise.
            let from = format!("ocidir://{layout}:v1");
            run(&["image", "copy", "--force-recursive", &from, target]);
        }
        "oras" => {
            let from = format!("{layout}:v1");
            run(&["cp", "--from-oci-layout", &from, "--to-plain-http", target]);
        }
        _ => {
            let mut copy = skopeo(home);
            copy.args(["copy", "--all", "--preserve-digests", "--dest-tls-verify=false"]);
            copy.env("REGISTRY_AUTH_FILE", home.join("config.json"));
            must(copy.args([format!("oci:{layout}:v1"), format!("docker://{target}")]));
        }
    }
}

#[test]
fn f186_f211_clients_that_push_an_image_again_heal_it() {
    let root = Node::root();
    let (user, password) = root.pusher("owner-token", "*");
    let home = TempDir::new();
    let auth = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
    let mut auths = serde_json::json!({"auths": {}});
    auths["auths"][&root.login] = serde_json::json!({ "auth": auth });
    std::fs::write(home.join("config.json"), auths.to_string()).unwrap();
    for (seed, client) in [(46, "crane"), (47, "regctl"), (48, "oras"), (49, "skopeo")] {
        let Some(path) = tool(client) else {
            skip(&format!("{client} is not there"));
            continue;
        };
        let (image, other) = (Image::new(seed, &[80_000, 3000]), Image::new(seed + 10, &[900]));
        let target = format!("{}/{client}/app:v1", root.login);
        let both = [("amd64", &image), ("arm64", &other)];
        Image::write_multi(&both, &home.join("layout"), "v1");
        let push = || push_with(client, &path, home.path(), (&root.login, &target));
        push();
        for damaged in [&image.layers[0], &image.config, &image.manifest] {
            std::fs::remove_file(file(&root, &image::digest(damaged))).unwrap();
            root.run(&["scrub", "--full-speed"]);
            assert_eq!(root.json(&["status"])["damagedBlobs"], 1, "{client}");
            push();
            assert_eq!(root.json(&["status"])["damagedBlobs"], 0, "{client}");
        }
        let repository = format!("{client}/app");
        assert!(image::pull(&root.login, (&user, &password), &repository, "v1").is_ok());
    }
}

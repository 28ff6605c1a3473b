//! Garbage collection of a running node.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::http::{bearer, token};
use crate::support::image::{self, Image};
use crate::support::node::{Node, binary};
use crate::support::{clients, eventually, skip};

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

/// A layer that a collection has seen as garbage is pushed again, and its push pauses for longer
/// than the grace: the layer is there as a whole, or the push is told to send it again.
#[test]
fn f206_a_layer_that_was_garbage_and_is_pushed_again_is_kept_or_asked_for_again() {
    let root = Node::root_with("[gc]\nenabled = false\ngrace = \"1s\"\n");
    let user = root.pusher("token-one", "app");
    let token = token(&root.login, &user.0, &user.1, &["repository:app:pull,push,delete"]).unwrap();
    let image = Image::new(3, &[9000]);
    let send = |method: &str, target: &str| bearer(&root.login, &token, method, target, &[], b"");
    for blob in image.blobs() {
        assert_eq!(image::push_blob(&root.login, &token, "app", blob).status, 201);
        let target = format!("/v2/app/blobs/{}", image::digest(blob));
        assert_eq!(send("DELETE", &target).status, 202);
    }
    assert_eq!(root.json(&["gc"])["blobsWaiting"], 2);
    for blob in image.blobs() {
        assert_eq!(image::push_blob(&root.login, &token, "app", blob).status, 201);
    }
    let (mut links, mut files) = (0, 0);
    eventually(Duration::from_secs(20), "the layer goes", || {
        let report = root.json(&["gc"]);
        links += report["linksRemoved"].as_u64().unwrap();
        files += report["blobsRemoved"].as_u64().unwrap();
        assert!(files <= links, "a file went and its link stays: {report}");
        (files == 2).then_some(())
    });
    let content_type = [("content-type", image::MANIFEST)];
    let put = |body: &[u8]| {
        bearer(&root.login, &token, "PUT", "/v2/app/manifests/v1", &content_type, body)
    };
    assert_eq!(put(&image.manifest).error().0, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(image.push_with(&root.login, &token, "app", "v1").status, 201);
    assert_eq!(image::pull_with(&root.login, &token, "app", "v1").unwrap(), image.digest());
}

/// Symptom: a client that pushes an index asks for each manifest that it names, sends only those
/// that are not here, and was told then that one of the others is not here either.
#[test]
fn f206_a_manifest_without_a_tag_stays_for_the_grace_when_somebody_has_asked_for_it() {
    let config = "[gc]\nenabled = false\ngrace = \"4s\"\nuntagged_manifests = \"1s\"\n";
    let root = Node::root_with(config);
    let user = root.pusher("token-one", "app");
    let token = token(&root.login, &user.0, &user.1, &["repository:app:pull,push"]).unwrap();
    let image = Image::new(5, &[9000]);
    let target = format!("/v2/app/manifests/{}", image.digest());
    for blob in image.blobs() {
        assert_eq!(image::push_blob(&root.login, &token, "app", blob).status, 201);
    }
    let content_type = [("content-type", image::MANIFEST)];
    let ask = |method| bearer(&root.login, &token, method, &target, &[], b"").status;
    let pushed = bearer(&root.login, &token, "PUT", &target, &content_type, &image.manifest);
    assert_eq!(pushed.status, 201);
    // Its time runs from the first look at it, in seconds since the first start.
    std::thread::sleep(Duration::from_secs(2));
    root.json(&["gc"]);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(ask("HEAD"), 200);
    assert_eq!(root.json(&["gc"])["manifestsRemoved"], 0);
    assert_eq!(ask("GET"), 200);
    eventually(Duration::from_secs(60), "it goes when nobody asks any more", || {
        std::thread::sleep(Duration::from_secs(1));
        (root.json(&["gc"])["manifestsRemoved"] == 1).then_some(())
    });
    assert_eq!(ask("HEAD"), 404);
}

/// A device that is off whenever its schedule fires collects after its start.
#[test]
fn f206_a_collection_that_was_missed_is_made_up_for_after_the_start() {
    if let Some(program) = clients::missing(&["faketime"]) {
        return skip(&format!("{program} is not installed"));
    }
    let mut root = Node::root_with("[gc]\ngrace = \"1s\"\n");
    let user = root.pusher("token-one", "app");
    let token = token(&root.login, &user.0, &user.1, &["repository:app:pull,push,delete"]).unwrap();
    let image = Image::new(4, &[9000]);
    let layer = &image.layers[0];
    assert_eq!(image::push_blob(&root.login, &token, "app", layer).status, 201);
    let target = format!("/v2/app/blobs/{}", image::digest(layer));
    assert_eq!(bearer(&root.login, &token, "DELETE", &target, &[], b"").status, 202);
    // From its first look on the node knows what it has missed.
    let journal = |root: &Node| -> u64 {
        let files = std::fs::read_dir(root.state().join("journal")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let before = journal(&root);
    eventually(Duration::from_secs(60), "the first look", || {
        (journal(&root) > before).then_some(())
    });
    assert!(root.stop().success());
    root.set_clock(Some("+25h"));
    root.start();
    let removed = "collected garbage blobs=1 ";
    eventually(Duration::from_secs(60), "the garbage goes", || {
        root.log().contains(removed).then_some(())
    });
}

/// Symptom: after a backup that was stopped with Ctrl-C no garbage was collected, and nothing that
/// was deleted gave its space back, for ten minutes and more, because of a backup that was not.
#[test]
fn f141_f201_a_backup_that_is_broken_off_holds_no_collection_up_for_long() {
    let root = Node::root();
    let user = root.pusher("token-one", "app");
    let token = token(&root.login, &user.0, &user.1, &["repository:app:pull,push"]).unwrap();
    for number in 0..300_u32 {
        let blob = [&number.to_be_bytes()[..], &[7; 2000]].concat();
        assert_eq!(image::push_blob(&root.login, &token, "app", &blob).status, 201);
    }
    let target = root.dir.join("backup");
    let mut backup = Command::new(binary());
    backup.arg("--admin-socket").arg(root.socket()).arg("backup").arg(&target);
    let mut backup = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(20), "it has begun", || {
        target.join("incoming").exists().then_some(())
    });
    backup.kill().unwrap();
    backup.wait().unwrap();
    let told = root.run(&["gc"]);
    let text = String::from_utf8_lossy(&told.stderr);
    assert!(!told.status.success() && text.contains("broken off"), "{text}");
    eventually(Duration::from_secs(90), "it is over", || {
        root.run(&["gc"]).status.success().then_some(())
    });
}

/// A request with its body.
fn whole_request(client: &mut UnixStream) -> Vec<u8> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = client.read(&mut piece).unwrap();
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= len.map_or(0, |len| len.parse().unwrap()) {
            return request;
        }
    }
}

/// Stands between the command line and a node, and counts how often the node is told that a backup
/// goes on, and takes it so. What a backup asks for first comes late.
fn slow_socket(root: &Node) -> (PathBuf, Arc<AtomicUsize>) {
    let (path, node) = (root.dir.join("slow.sock"), root.socket());
    let (listener, kept) = (UnixListener::bind(&path).unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = kept.clone();
    std::thread::spawn(move || {
        let mut is_first = true;
        for client in listener.incoming() {
            let (mut client, node) = (client.unwrap(), node.clone());
            let request = whole_request(&mut client);
            let head = String::from_utf8_lossy(&request).into_owned();
            let is_late = is_first && head.starts_with("GET ");
            is_first &= !is_late;
            let counted = counted.clone();
            std::thread::spawn(move || {
                if is_late {
                    std::thread::sleep(Duration::from_secs(12));
                }
                // The node's answer ends with its connection.
                let closing = head.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
                let mut node = UnixStream::connect(&node).unwrap();
                node.write_all(closing.as_bytes()).unwrap();
                let mut answer = Vec::new();
                node.read_to_end(&mut answer).unwrap();
                if head.contains("/backup/keep ") && answer.starts_with(b"HTTP/1.1 200 ") {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                // Whoever asked may be gone.
                let _ = client.write_all(&answer);
            });
        }
    });
    (path, kept)
}

/// Symptom: of a backup that took more than a minute what was deleted meanwhile was lost. Cause:
/// the node was not told that it goes on.
#[test]
fn f201_the_node_hears_for_as_long_as_a_backup_takes_that_it_goes_on() {
    let root = Node::root();
    let (socket, kept) = slow_socket(&root);
    let mut backup = Command::new(binary());
    backup.arg("--admin-socket").arg(socket).arg("backup").arg(root.dir.join("backup"));
    let output = backup.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(kept.load(Ordering::Relaxed) >= 2, "{kept:?}");
}

#[test]
fn f206_a_grace_of_nothing_ends_the_start_and_a_short_one_is_warned_of() {
    let mut root = Node::root_with("[gc]\nenabled = false\ngrace = \"30s\"\n");
    let warning = "gc.grace is below one minute";
    let check = root.run_configured(&["config", "check"]);
    assert!(check.status.success() && String::from_utf8_lossy(&check.stderr).contains(warning));
    assert!(root.log().contains(warning), "{}", root.log());
    assert!(root.stop().success());
    root.set_configuration("[gc]\ngrace = 0\n");
    for output in [root.run_to_end(), root.run_configured(&["config", "check"])] {
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("gc.grace: must not be 0: a layer"), "{text}");
    }
}

/// A manifest that lost its tag, was deleted and is pushed again has a whole time to get one.
#[test]
fn f206_a_manifest_that_is_pushed_again_is_new_to_a_collection() {
    let config = "[gc]\nenabled = false\ngrace = \"3s\"\nuntagged_manifests = \"6s\"\n";
    let root = Node::root_with(config);
    let (user, password) = root.pusher("token-one", "app");
    let scope = "repository:app:pull,push,delete";
    let token = token(&root.login, &user, &password, &[scope]).unwrap();
    let image = Image::new(5, &[3000]);
    let path = format!("/v2/app/manifests/{}", image.digest());
    let send = |method: &str| bearer(&root.login, &token, method, &path, &[], b"").status;
    let push = || image.push_with(&root.login, &token, "app", &image.digest()).status;
    assert_eq!(push(), 201);
    root.json(&["gc"]);
    assert_eq!(send("DELETE"), 202);
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(push(), 201);
    let report = root.json(&["gc"]);
    assert_eq!((send("GET"), report["manifestsRemoved"].as_u64()), (200, Some(0)), "{report}");
}

/// Pushes an image and indexes above it, each of which names the next one so many times; all of
/// them, the image first.
fn push_chain(address: &str, token: &str, image: &Image, times: usize) -> Vec<String> {
    assert_eq!(image.push_with(address, token, "app", "v0").status, 201);
    let (mut below, mut kind) = (image.manifest.clone(), image::MANIFEST);
    let mut chain = vec![image.digest()];
    for level in 1..=7 {
        let (digest, size) = (image::digest(&below), below.len());
        let entry = serde_json::json!({ "mediaType": kind, "digest": digest, "size": size });
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": image::INDEX, "manifests": vec![entry; times],
        });
        below = index.to_string().into_bytes();
        kind = image::INDEX;
        chain.push(image::digest(&below));
        let target = format!("/v2/app/manifests/v{level}");
        let put = bearer(address, token, "PUT", &target, &[("content-type", kind)], &below);
        assert_eq!(put.status, 201);
    }
    chain
}

/// Indexes that name the next one twice are two to the eighth ways to the last one.
#[test]
fn f209_a_collection_looks_at_an_index_once_however_often_it_is_named() {
    let root = Node::root_with("[gc]\nenabled = false\ngrace = \"1s\"\n");
    let (user, password) = root.pusher("token-one", "app");
    let scope = "repository:app:pull,push,delete";
    let token = token(&root.login, &user, &password, &[scope]).unwrap();
    let image = Image::new(6, &[3000]);
    push_chain(&root.login, &token, &image, 2);
    assert_eq!(root.json(&["gc"])["blobsRemoved"], 0);
    assert_eq!(image::pull_with(&root.login, &token, "app", "v0").unwrap(), image.digest());
}

/// What a change on its way up brings is followed by the bytes, as its rows are gone.
#[test]
fn f209_a_collection_looks_once_at_what_waits_for_the_parent_and_was_deleted() {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    let mut device = Node::device(&connection);
    device.add_configuration("[gc]\nenabled = false\ngrace = \"1s\"\n");
    device.start();
    let scope = "repository:app:pull,push,delete";
    let token = eventually(Duration::from_secs(30), "a client of the device", || {
        token(&device.login, &user.0, &user.1, &[scope]).ok()
    });
    eventually(Duration::from_secs(30), "the first comparison", || {
        (device.json(&["gc"])["waitsForSync"] == false).then_some(())
    });
    assert!(root.stop().success());
    let image = Image::new(7, &[3000]);
    let chain = push_chain(&device.login, &token, &image, 4);
    for digest in chain.iter().rev() {
        let target = format!("/v2/app/manifests/{digest}");
        assert_eq!(bearer(&device.login, &token, "DELETE", &target, &[], b"").status, 202);
    }
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(device.json(&["gc"])["waitsForSync"], false);
        std::thread::sleep(Duration::from_millis(700));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for bytes in [&image.manifest, &image.layers[0]] {
        assert!(device.blob_file(bytes).exists(), "the parent is to get it");
    }
}

//! What cannot be had is set aside, told and tried again; everything else goes on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::external::App;
use crate::support::eventually;
use crate::support::http::{bearer, token};
use crate::support::image::{self, Image, MANIFEST};
use crate::support::node::Node;
use crate::sync::{SOON, pull, root_behind};

/// Covers the pauses between several tries.
const LATER: Duration = Duration::from_secs(90);

/// The descriptions of what a device reports to its root, one a line.
fn told(root: &Node, code: &str) -> Vec<String> {
    let shown = root.json(&["connected-registry", "show", "--name", "dock01"]);
    let details = shown["statusDetails"].as_array().cloned().unwrap_or_default();
    let of_code = details.iter().filter(|detail| detail["code"] == code);
    of_code.map(|detail| detail["description"].as_str().unwrap().to_owned()).collect()
}

fn state_of(root: &Node) -> String {
    let shown = root.json(&["connected-registry", "show", "--name", "dock01"]);
    shown["connectionState"].as_str().unwrap().to_owned()
}

/// An image whose manifest names another size for its only layer.
fn with_size(image: &Image, size: usize) -> Image {
    let layer = image.layers[0].len();
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let (old, new) = (format!("\"size\":{layer}"), format!("\"size\":{size}"));
    assert_eq!(text.matches(&old).count(), 1);
    Image { manifest: text.replace(&old, &new).into_bytes(), ..image.clone() }
}

/// Symptom: a device showed `Online` and received nothing more, for any repository, because one
/// blob was damaged, missing, or of another size than its manifest names, at its parent. Cause: an
/// answer that ended early or said 503 counted as a fault of the link and ended the session, and
/// the next one began with the same blob.
#[test]
fn f204_what_is_wrong_with_one_blob_at_the_parent_holds_nothing_else_up() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let push = |image: &Image, repository: &str, tag: &str| {
        let answer = image.push(&root.login, owner, repository, tag);
        assert_eq!(answer.status, 201, "{answer:?}");
    };
    let images: Vec<Image> = (0..7).map(|n| Image::new(70 + n, &[40_000])).collect();
    push(&images[0], "a-missing", "v10");
    push(&images[1], "b-damaged", "v1");
    push(&images[2], "c-cut", "v1");
    let (long, short) = (with_size(&images[3], 90_000), with_size(&images[4], 30_000));
    // A root that compares sizes refuses these: then nobody has to find them out.
    let liars = [("d-long", &long), ("e-short", &short)];
    let liars = liars.map(|(repository, image)| {
        (repository, image.push(&root.login, owner, repository, "v1").status == 201)
    });
    push(&images[5], "z-good", "v1");
    std::fs::remove_file(root.blob_file(&images[0].layers[0])).unwrap();
    let damaged = root.blob_file(&images[1].layers[0]);
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[20_000] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    let cut = std::fs::File::options().write(true).open(root.blob_file(&images[2].layers[0]));
    cut.unwrap().set_len(10_000).unwrap();

    let connection = root.connect("dock01", &["--repository", "*"]);
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "what is whole comes", || pull(&device, &user, "z-good", "v1").ok());
    push(&images[6], "z-good", "v2");
    eventually(SOON, "and what follows", || pull(&device, &user, "z-good", "v2").ok());

    let mut broken: Vec<(String, &Image)> =
        vec![("a-missing:v10".into(), &images[0]), ("b-damaged:v1".into(), &images[1])];
    broken.push(("c-cut:v1".into(), &images[2]));
    let liars: Vec<&str> =
        liars.iter().filter(|(_, taken)| *taken).map(|(name, _)| *name).collect();
    let names: Vec<String> = broken
        .iter()
        .map(|(name, image)| format!("{name} is not complete: {}", image.digest()))
        .chain(liars.iter().map(|name| format!("{name}:v1 is not complete: sha256:")))
        .collect();
    eventually(SOON, "each is told with its repository, tag and digest", || {
        let told = told(&root, "SyncIncomplete");
        let all = names.iter().all(|name| told.iter().any(|line| line.starts_with(name.as_str())));
        (all && told.len() == names.len()).then_some(())
    });
    assert_eq!(state_of(&root), "Unhealthy");
    assert!(device.log().contains("set aside repository=a-missing tag=v10"), "{}", device.log());

    // What of a tag came does not clear another one whose name begins alike.
    push(&images[6], "a-missing", "v1");
    eventually(SOON, "v1 comes", || pull(&device, &user, "a-missing", "v1").ok());
    std::thread::sleep(Duration::from_secs(2));
    assert!(told(&root, "SyncIncomplete").iter().any(|line| line.starts_with("a-missing:v10")));

    // Known over a kill, and tried again without anybody's doing once the parent has it.
    device.kill();
    device.start();
    for (name, image) in &broken {
        let (repository, tag) = name.split_once(':').unwrap();
        let _ = std::fs::remove_file(root.blob_file(&image.layers[0]));
        push(image, repository, tag);
        let came = eventually(LATER, name, || pull(&device, &user, repository, tag).ok());
        assert_eq!(came, image.digest());
    }
    if liars.is_empty() {
        eventually(SOON, "nothing is left", || (state_of(&root) == "Online").then_some(()));
    }
}

/// The parent, or something before it, answers for one blob with an error, or breaks off each
/// time.
#[test]
fn f204_a_blob_that_the_parent_never_hands_out_holds_nothing_else_up() {
    let (root, login, _gateway) = root_behind(u64::MAX);
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let connection = root.connect("dock01", &["--repository", "a-first", "z-last"]);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    let busy = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 41536\r\nconnection: close\r\n\r\nbytes";
    for (round, answer) in [(1, busy), (2, cut), (3, "")] {
        let [bad, good] = [0, 1].map(|n| Image::new(90 + 10 * round + n, &[40_000]));
        let tag = format!("v{round}");
        login.refuse(&image::digest(&bad.layers[0]), answer);
        assert_eq!(bad.push(&root.login, owner, "a-first", &tag).status, 201);
        assert_eq!(good.push(&root.login, owner, "z-last", &tag).status, 201);
        eventually(SOON, "the others go on", || pull(&device, &user, "z-last", &tag).ok());
        assert!(pull(&device, &user, "a-first", &tag).is_err());
        login.pass();
        let came = eventually(LATER, "it comes", || pull(&device, &user, "a-first", &tag).ok());
        assert_eq!(came, bad.digest());
    }
    eventually(SOON, "nothing is left", || (state_of(&root) == "Online").then_some(()));
}

/// What did not fit the quota here when everything was compared comes when there is room.
#[test]
fn f204_what_was_over_quota_in_a_full_comparison_comes_when_the_quota_is_lifted() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let [small, large, other] =
        [(1, 20_000), (2, 300_000), (3, 20_000)].map(|(seed, size)| Image::new(60 + seed, &[size]));
    for (image, repository, tag) in
        [(&small, "app", "v1"), (&large, "app", "v2"), (&other, "lab", "v1")]
    {
        assert_eq!(image.push(&root.login, owner, repository, tag).status, 201);
    }
    let connection = root.connect("dock01", &["--repository", "app", "lab"]);
    root.link("dock01", &user.0);
    let mut device = Node::device(&connection);
    device.add_configuration("[registry]\nquotas = [\"app=100KiB\"]\n");
    device.start();
    eventually(SOON, "what fits comes", || pull(&device, &user, "app", "v1").ok());
    eventually(SOON, "and the rest", || pull(&device, &user, "lab", "v1").ok());
    eventually(SOON, "the rest is told", || {
        told(&root, "SyncIncomplete").iter().any(|line| line.starts_with("app:v2")).then_some(())
    });
    // While the device runs on: what was pushed and removed in between changes nothing.
    assert!(device.stop().success());
    device.set_configuration("[registry]\nquotas = [\"app=1MiB\"]\n");
    device.start();
    let came = eventually(LATER, "v2 comes", || pull(&device, &user, "app", "v2").ok());
    assert_eq!(came, large.digest());
    eventually(SOON, "nothing is left", || (state_of(&root) == "Online").then_some(()));
}

/// Symptom: 400 pushes and deletes at once at the root left 19 `SyncIncomplete` that only a
/// restart cleared. Cause: a manifest that was deleted between its message and its fetch counted as
/// missing, and nothing that came later cleared it.
#[test]
fn f204_what_is_deleted_before_it_is_fetched_is_no_fault() {
    const WRITERS: usize = 8;
    const EACH: usize = 50;
    // The device is slower than those who push and delete.
    let (root, _login, _gateway) = root_behind(100_000);
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let connection = root.connect("dock01", &["--repository", "*"]);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    let bearers: Vec<String> = (0..WRITERS)
        .map(|writer| {
            let scope = format!("repository:busy{writer}:pull,push,delete");
            token(&root.login, owner.0, owner.1, &[&scope]).unwrap()
        })
        .collect();
    let deleted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (writer, bearer_token) in bearers.iter().enumerate() {
            let (root, deleted) = (&root, &deleted);
            scope.spawn(move || {
                let repository = format!("busy{writer}");
                let image = Image::new(5000 + writer as u64, &[3000]);
                assert_eq!(
                    image.push_with(&root.login, bearer_token, &repository, "v").status,
                    201
                );
                for number in 0..EACH {
                    // The same content under other manifests: many come and go in little time.
                    let text = String::from_utf8(image.manifest.clone()).unwrap();
                    let manifest = format!("{text}{}", " ".repeat(number + 1)).into_bytes();
                    let target = format!("/v2/{repository}/manifests/t{number}");
                    let header = [("content-type", MANIFEST)];
                    let put = bearer(&root.login, bearer_token, "PUT", &target, &header, &manifest);
                    assert_eq!(put.status, 201);
                    if number % 5 != 4 {
                        std::thread::sleep(Duration::from_millis(7 * (number as u64 % 8)));
                        let digest = image::digest(&manifest);
                        let target = format!("/v2/{repository}/manifests/{digest}");
                        let gone = bearer(&root.login, bearer_token, "DELETE", &target, &[], b"");
                        assert_eq!(gone.status, 202);
                        deleted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(deleted.into_inner() >= WRITERS * EACH / 2);
    let last = Image::new(5999, &[3000]);
    assert_eq!(last.push(&root.login, owner, "zzz", "last").status, 201);
    eventually(LATER, "the last push comes", || pull(&device, &user, "zzz", "last").ok());
    for writer in 0..WRITERS {
        let repository = format!("busy{writer}");
        let at_root = pull(&root, &user, &repository, "t49").unwrap();
        let came = eventually(SOON, "what stayed is there", || {
            pull(&device, &user, &repository, "t49").ok().filter(|digest| *digest == at_root)
        });
        assert_eq!(came, at_root);
    }
    eventually(SOON, "the device is well", || (state_of(&root) == "Online").then_some(()));
    assert_eq!(told(&root, "SyncIncomplete"), Vec::<String>::new());
    assert!(!device.log().contains("SyncIncomplete"), "{}", device.log());
}

/// Symptom: an image that takes longer than `gc.grace` never became complete. Cause: the layers
/// that had come were collected before the last one came.
#[test]
fn f204_what_came_of_an_image_is_not_collected_before_the_rest_comes() {
    const GC: &str = "[gc]\nenabled = false\ngrace = \"1s\"\n";
    let (root, login, _gateway) = root_behind(u64::MAX);
    let user = root.pusher("owner-token", "app");
    let owner = (user.0.as_str(), user.1.as_str());
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    let mut device = Node::device(&connection);
    device.add_configuration(GC);
    device.start();
    // The first layer comes with an image that is deleted again.
    let image = Image::new(600, &[40_000, 50_000]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"].as_array_mut().unwrap().truncate(1);
    let (manifest, layers) = (manifest.to_string().into_bytes(), image.layers[..1].to_vec());
    let before = Image { manifest, layers, ..image.clone() };
    assert_eq!(before.push(&root.login, owner, "app", "v0").status, 201);
    eventually(SOON, "v0 comes", || pull(&device, &user, "app", "v0").ok());
    let busy = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    login.refuse(&image::digest(&image.layers[1]), busy);
    assert_eq!(image.push(&root.login, owner, "app", "v1").status, 201);
    eventually(SOON, "v1 is set aside", || {
        device.log().contains("set aside repository=app tag=v1").then_some(())
    });
    let [at_root, at_device] = [&root, &device].map(|node| App::at(node, &user));
    assert_eq!(at_root.delete("manifests", &before.digest()).status, 202);
    eventually(SOON, "v0 goes", || pull(&device, &user, "app", "v0").is_err().then_some(()));
    // What is collected after a while is at least as new as the layer.
    let waste = image::noise(6001, 3000);
    at_device.push(&waste);
    eventually(LATER, "the waste goes", || {
        device.json(&["gc"]);
        // A request for it would keep it.
        (!device.blob_file(&waste).exists()).then_some(())
    });
    assert_eq!(at_device.get("blobs", &image::digest(&image.layers[0])).status, 200);
    login.pass();
    let came = eventually(LATER, "v1 comes", || pull(&device, &user, "app", "v1").ok());
    assert_eq!(came, image.digest());
}

/// Symptom: after a restart without the parent the layers that had come were collected, and were
/// fetched again.
#[test]
fn f204_f206_what_came_of_an_image_outlasts_a_restart_without_the_parent() {
    let (mut root, login, _gateway) = root_behind(u64::MAX);
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let mut device = Node::device(&connection);
    device.add_configuration("[gc]\nenabled = false\ngrace = \"1s\"\n");
    device.start();
    eventually(SOON, "the first comparison", || {
        (device.json(&["gc"])["waitsForSync"] == false).then_some(())
    });
    let image = Image::new(610, &[40_000, 50_000]);
    let busy = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    login.refuse(&image::digest(&image.layers[1]), busy);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    eventually(SOON, "v1 is set aside", || {
        device.log().contains("set aside repository=app tag=v1").then_some(())
    });
    assert!(device.stop().success() && root.stop().success());
    device.start();
    let first = device.blob_file(&image.layers[0]);
    for _ in 0..8 {
        assert!(first.exists(), "the first layer");
        let report = device.json(&["gc"]);
        assert_eq!(report["waitsForSync"], true, "{report}");
        std::thread::sleep(Duration::from_millis(400));
    }
    login.pass();
    root.start();
    let came = eventually(LATER, "v1 comes", || pull(&device, &user, "app", "v1").ok());
    assert_eq!(came, image.digest());
}

/// Symptom: each thing of each repository was asked for, one after the other, at a parent that
/// could not hand out anything.
#[test]
fn f204_a_parent_that_hands_out_nothing_ends_the_session() {
    const EACH: u64 = 12;
    let (root, login, _gateway) = root_behind(u64::MAX);
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    for (repository, first) in [("a", 300), ("b", 400), ("c", 500)] {
        for number in 0..EACH {
            let image = Image::new(first + number, &[1000]);
            let tag = format!("v{number}");
            assert_eq!(image.push(&root.login, owner, repository, &tag).status, 201);
        }
    }
    let connection = root.connect("dock01", &["--repository", "a", "b", "c"]);
    root.link("dock01", &user.0);
    let busy = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    login.refuse(" /v2/", busy);
    let device = Node::start_device(&connection);
    let log = eventually(SOON, "the session ends", || {
        let log = device.log();
        let aside = log.matches("set aside repository=").count() as u64;
        assert!(aside <= EACH, "things are asked for one after the other:\n{log}");
        log.contains("the sync stopped").then_some(log)
    });
    assert!(log.contains("the parent hands out nothing"), "{log}");
    login.pass();
    for repository in ["a", "b", "c"] {
        eventually(LATER, repository, || pull(&device, &user, repository, "v0").ok());
    }
}

/// Symptom: a device received nothing more because its parent could not open one file. Cause: that
/// said `store_unavailable`, as a parent does that cannot answer at all.
#[test]
fn f204_one_file_that_the_parent_cannot_open_holds_nothing_else_up() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    let push = |image: &Image, tag: &str| {
        assert_eq!(image.push(&root.login, owner, "app", tag).status, 201);
    };
    let images: Vec<Image> = (0..3).map(|n| Image::new(170 + n, &[40_000])).collect();
    push(&images[0], "first");
    let connection = root.connect("dock01", &["--repository", "*"]);
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "the first comes", || pull(&device, &user, "app", "first").ok());
    device.stop();
    push(&images[1], "bad");
    push(&images[2], "good");
    // A link to itself cannot be opened, whoever asks.
    let files = [&images[1].layers[0], &images[1].manifest].map(|bytes| root.blob_file(bytes));
    for file in &files {
        std::fs::rename(file, file.with_extension("aside")).unwrap();
        std::os::unix::fs::symlink(file, file).unwrap();
    }
    let pass = token(&root.login, owner.0, owner.1, &["repository:app:pull"]).unwrap();
    let layer = format!("/v2/app/blobs/{}", image::digest(&images[1].layers[0]));
    for path in [layer.as_str(), "/v2/app/manifests/bad"] {
        let answer = bearer(&root.login, &pass, "GET", path, &[], b"");
        assert_eq!((answer.status, answer.error().1.as_str()), (503, "content_damaged"), "{path}");
        assert_eq!(bearer(&root.login, &pass, "HEAD", path, &[], b"").status, 404, "{path}");
    }
    device.start();
    eventually(SOON, "what can be read comes", || pull(&device, &user, "app", "good").ok());
    for file in &files {
        std::fs::rename(file.with_extension("aside"), file).unwrap();
    }
    eventually(LATER, "and the rest later", || pull(&device, &user, "app", "bad").ok());
}

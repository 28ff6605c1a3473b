//! The disk is full: pushes are refused in words, all else goes on, and nothing acknowledged is
//! lost. `SKERRY_LONG=1 cargo test --test suite full -- --nocapture` presses ten times as long.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::external::{App, elsewhere};
use crate::support::http::{self, Answer, bearer, token};
use crate::support::image::{self, Image, MANIFEST};
use crate::support::load::{Audit, Ledger};
use crate::support::node::Node;
use crate::support::small_disk::SmallDisk;
use crate::support::{eventually, skip};
use crate::sync::pull;

const SOON: Duration = Duration::from_secs(90);
const DISK_MIB: u64 = 64;
/// A twentieth of the disk, but for what the file system itself needs.
const RESERVE_BYTES_MIN: u64 = 2 << 20;
const LAYER_BYTES: usize = 5 << 20;
/// What a file system uses unless asked; the smallest one leaves a part of a write behind when it
/// is full.
const BLOCK_BYTES: u32 = 4096;
const SMALL_BLOCK_BYTES: u32 = 1024;
/// Garbage goes at once, and only when it is asked for.
const GC: &str = "[gc]\nenabled = false\ngrace = \"1s\"\n";
const GRACE: Duration = Duration::from_secs(1);
/// Garbage goes by itself.
const OWN_GC: &str = "[gc]\ngrace = \"1s\"\n";

/// A node whose state lies on a small disk. The process goes before the disk does.
struct Small {
    disk: SmallDisk,
    node: Node,
}

impl Drop for Small {
    fn drop(&mut self) {
        self.node.kill();
    }
}

/// Puts the state of a node that was not started on a small disk; `None`, loudly, where there is
/// none to be had.
fn small(node: Node, block_bytes: u32) -> Option<Small> {
    small_with(GC, node, block_bytes)
}

fn small_with(gc: &str, mut node: Node, block_bytes: u32) -> Option<Small> {
    node.add_configuration(gc);
    std::fs::create_dir(node.state()).unwrap();
    match SmallDisk::mount(&node.state(), DISK_MIB, block_bytes) {
        Ok(disk) => Some(Small { disk, node }),
        Err(why) => {
            skip(&why);
            None
        }
    }
}

fn small_root(block_bytes: u32) -> Option<(Small, (String, String))> {
    small_root_with(GC, block_bytes)
}

fn small_root_with(gc: &str, block_bytes: u32) -> Option<(Small, (String, String))> {
    let mut node = Node::device("");
    node.make_root();
    let mut small = small_with(gc, node, block_bytes)?;
    small.node.start();
    let user = small.node.pusher("owner-token", "*");
    Some((small, user))
}

/// What a node knows of its free space is up to a second old.
fn wait_for_the_next_look() {
    std::thread::sleep(Duration::from_millis(1100));
}

/// The answer of a full disk, in the registry's own words.
fn assert_full(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 507, "{what}: {answer:?}");
    assert_eq!(answer.error(), ("DENIED".to_owned(), "disk_reserve".to_owned()), "{what}");
    let message = answer.json()["errors"][0]["message"].to_string();
    assert!(message.contains("disk is full"), "{what}: {message}");
}

/// A client with everything it may do.
struct Client<'a> {
    node: &'a Node,
    token: String,
}

impl<'a> Client<'a> {
    fn new(node: &'a Node, user: &(String, String)) -> Client<'a> {
        let scope = "repository:app:pull,push,delete";
        Client { node, token: token(&node.login, &user.0, &user.1, &[scope]).unwrap() }
    }

    fn send(&self, method: &str, target: &str, body: &[u8]) -> Answer {
        let headers = [("content-type", MANIFEST)];
        bearer(&self.node.login, &self.token, method, target, &headers, body)
    }

    /// Starts an upload; where its bytes go.
    fn begin(&self) -> String {
        let begun = self.send("POST", "/v2/app/blobs/uploads/", b"");
        begun.header("location").unwrap_or_else(|| panic!("{begun:?}")).to_owned()
    }

    fn push(&self, image: &Image, tag: &str) -> Answer {
        image.push_with(&self.node.login, &self.token, "app", tag)
    }

    fn pull(&self, tag: &str) -> String {
        image::pull_with(&self.node.login, &self.token, "app", tag)
            .unwrap_or_else(|answer| panic!("{tag}: {answer:?}\n{}", self.node.log()))
    }

    fn delete(&self, reference: &str) {
        let answer = self.send("DELETE", &format!("/v2/app/manifests/{reference}"), b"");
        assert_eq!(answer.status, 202, "{reference}: {answer:?}\n{}", self.node.log());
    }

    /// Pushes until the disk is full; what was acknowledged.
    fn push_until_full(&self, seed: u64) -> Vec<Image> {
        let mut pushed = Vec::new();
        for number in 0..100 {
            let image = Image::new(seed + number, &[LAYER_BYTES]);
            let answer = self.push(&image, &format!("v{}", seed + number));
            if answer.status != 201 {
                assert_full(&answer, "a push");
                return pushed;
            }
            pushed.push(image);
        }
        panic!("the disk never fills");
    }

    /// Deletes an image, and its content with it.
    fn make_room(&self, image: &Image) {
        self.delete(&image.digest());
        eventually(SOON, "the garbage goes", || {
            let report = self.node.json(&["gc"]);
            (report["blobsRemoved"].as_u64() > Some(0)).then_some(())
        });
    }
}

#[test]
fn a_full_disk_refuses_pushes_in_words_and_goes_on_with_all_else() {
    let Some((mut small, user)) = small_root(BLOCK_BYTES) else { return };
    let client = Client::new(&small.node, &user);
    // Each ends when it is refused.
    let mut begun: Vec<String> = (0..6).map(|_| client.begin()).collect();
    let waiting = Image::new(1, &[3000]);
    for blob in waiting.blobs() {
        let pushed = image::push_blob(&small.node.login, &client.token, "app", blob);
        assert_eq!(pushed.status, 201);
    }
    let mut images = client.push_until_full(100);
    assert!(images.len() > 5, "{} images fit", images.len());
    let free = small.disk.free_bytes();
    assert!(free > RESERVE_BYTES_MIN, "pushes have left {free} bytes");
    let check = |client: &Client<'_>, images: &[Image], first: u64| {
        for (number, image) in images.iter().enumerate() {
            assert_eq!(client.pull(&format!("v{}", first + number as u64)), image.digest());
        }
    };
    // Larger and smaller than what is taken into memory before it is written.
    let (blob, small_blob) = (image::noise(7, 1 << 20), image::noise(8, 8192));
    for free_kib in [1024, 0] {
        small.disk.fill_but(free_kib);
        wait_for_the_next_look();
        assert_full(&client.send("POST", "/v2/app/blobs/uploads/", b""), "a new upload");
        let ready = http::send(&small.node.login, "GET", "/readyz", &[], b"").unwrap();
        let text = String::from_utf8_lossy(&ready.body).into_owned();
        assert_eq!(ready.status, 200, "f211: what is there is served");
        assert!(text.starts_with("ready, but") && text.contains("reserve"), "f211: {text}");
        let status = small.node.json(&["status"]);
        assert!(status["reason"].as_str().is_some_and(|why| why.contains("reserve")), "{status}");
        let mut next = || begun.pop().unwrap();
        assert_full(&client.send("PATCH", &next(), &small_blob), "a small chunk");
        assert_full(&client.send("PATCH", &next(), &blob), "a chunk");
        let last = format!("{}?digest={}", next(), image::digest(&blob));
        assert_full(&client.send("PUT", &last, &blob), "the last chunk");
        let manifest = client.send("PUT", "/v2/app/manifests/late", &waiting.manifest);
        assert_full(&manifest, "a manifest");
        check(&client, &images, 100);
    }
    // Nothing is free, and yet there is a way out.
    for _ in 0..3 {
        client.make_room(&images.pop().unwrap());
    }
    check(&client, &images, 100);
    small.disk.free();
    let late = eventually(SOON, "pushes go on without a restart", || {
        Some(client.push(&waiting, "late")).filter(|answer| answer.status == 201)
    });
    assert_eq!(late.header("docker-content-digest"), Some(waiting.digest().as_str()));

    let more = client.push_until_full(200);
    assert!(!more.is_empty(), "what was freed is used again");
    small.disk.fill();
    for stop in [false, true] {
        if stop {
            let _ = small.node.stop();
        } else {
            small.node.kill();
        }
        small.node.start();
        let client = Client::new(&small.node, &user);
        check(&client, &images, 100);
        check(&client, &more, 200);
        assert_full(&client.push(&Image::new(3, &[9000]), "v3"), "a push after a restart");
    }
    let client = Client::new(&small.node, &user);
    client.make_room(&more[0]);
    small.disk.free();
    check(&client, &more[1..], 201);
    eventually(SOON, "pushes go on after a restart", || {
        Some(client.push(&waiting, "late")).filter(|answer| answer.status == 201)
    });
    eprintln!("{} and {} images were there all the time", images.len(), more.len());
}

/// The disk fills inside a chunk. What fitted of it is nowhere, although another repository has
/// content of the digest that the client then finishes with.
#[test]
fn f211_a_chunk_that_fills_the_disk_leaves_nothing_behind() {
    let Some((small, user)) = small_root(SMALL_BLOCK_BYTES) else { return };
    let client = Client::new(&small.node, &user);
    let scope = "repository:other:pull,push";
    let other = token(&small.node.login, &user.0, &user.1, &[scope]).unwrap();
    let (good, more) = (image::noise(1, 3000), image::noise(2, 1 << 20));
    assert_eq!(image::push_blob(&small.node.login, &other, "other", &good).status, 201);
    // The node looks at the space once a second; a chunk must come before it notices.
    for attempt in 0..5 {
        let begun = client.begin();
        wait_for_the_next_look();
        assert_eq!(client.send("PATCH", &begun, &good).status, 202);
        small.disk.take_but(64);
        assert_full(&client.send("PATCH", &begun, &more), "a chunk");
        small.disk.free();
        wait_for_the_next_look();
        let last = format!("{begun}?digest={}", image::digest(&good));
        let finished = client.send("PUT", &last, b"");
        assert_eq!(finished.error().0, "BLOB_UPLOAD_UNKNOWN", "attempt {attempt}: {finished:?}");
        assert_eq!(bytes_in_uploads(&small.node), 0, "attempt {attempt}");
        let target = format!("/v2/other/blobs/{}", image::digest(&good));
        let served = bearer(&small.node.login, &other, "GET", &target, &[], b"");
        let text = String::from_utf8_lossy(&served.body[..served.body.len().min(200)]);
        assert_eq!(served.status, 200, "attempt {attempt}: {text}");
        assert!(served.body == good, "attempt {attempt}: {} bytes", served.body.len());
    }
}

fn bytes_in_uploads(node: &Node) -> u64 {
    let entries = std::fs::read_dir(node.state().join("uploads")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// What is larger than the disk is refused, and its space is there at once for what fits.
#[test]
fn f210_an_upload_that_fills_the_disk_gives_its_space_back() {
    let Some((small, user)) = small_root(BLOCK_BYTES) else { return };
    let client = Client::new(&small.node, &user);
    let large = image::noise(1, 100 << 20);
    let begun = client.begin();
    assert_full(&client.send("PATCH", &begun, &large), "more than fits");
    let gone = client.send("PATCH", &begun, &large[..1000]);
    assert_eq!((gone.status, gone.error().0.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"), "{gone:?}");
    assert_eq!(bytes_in_uploads(&small.node), 0);
    assert_eq!(client.push(&Image::new(2, &[LAYER_BYTES]), "v2").status, 201);
}

/// Uploads that were given up make room for others, the oldest first, and no more of them than
/// has to.
#[test]
fn f210_uploads_that_were_given_up_make_room() {
    let Some((small, user)) = small_root(BLOCK_BYTES) else { return };
    let client = Client::new(&small.node, &user);
    small.disk.fill_but(30 << 10);
    wait_for_the_next_look();
    let part = image::noise(1, 10 << 20);
    let [oldest, newer] = [0, 1].map(|_| {
        let begun = client.begin();
        assert_eq!(client.send("PATCH", &begun, &part).status, 202);
        begun
    });
    let image = Image::new(2, &[12 << 20]);
    eventually(SOON, "an upload that was given up makes room", || {
        Some(client.push(&image, "v2")).filter(|answer| answer.status == 201)
    });
    assert_eq!(client.send("GET", &oldest, b"").error().0, "BLOB_UPLOAD_UNKNOWN");
    let kept = client.send("GET", &newer, b"");
    assert_eq!(kept.header("range"), Some(format!("0-{}", part.len() - 1).as_str()), "{kept:?}");
}

#[test]
fn f210_a_disk_that_fills_again_and_again_loses_nothing_acknowledged() {
    fill_again_and_again(BLOCK_BYTES);
}

#[test]
fn f210_a_disk_of_small_blocks_that_fills_again_and_again_loses_nothing_acknowledged() {
    fill_again_and_again(SMALL_BLOCK_BYTES);
}

/// The space comes and goes while clients push, move and delete.
fn fill_again_and_again(block_bytes: u32) {
    let Some((mut small, user)) = small_root(block_bytes) else { return };
    let rounds = if std::env::var_os("SKERRY_LONG").is_some() { 100 } else { 10 };
    let ledger = Ledger::with_grace(GRACE);
    let user = (user.0.as_str(), user.1.as_str());
    for round in 0..rounds {
        ledger.press(&small.node.login, user, round, &[507, 503], || {
            // Each time it fills from another distance.
            small.disk.fill_but(4096 + round * 97 % 1024);
            std::thread::sleep(Duration::from_millis(300));
            small.disk.fill();
            std::thread::sleep(Duration::from_millis(200));
            small.disk.free();
            std::thread::sleep(Duration::from_millis(100));
        });
        if round % 3 == 2 {
            small.disk.fill();
            small.node.kill();
            small.node.start();
            small.disk.free();
        }
        eventually(SOON, "the node answers", || small.node.is_ready().then_some(()));
        let lost = ledger.audit(&small.node.login, user, Audit::Fresh);
        assert!(lost.is_empty(), "round {round}: {lost:#?}\n{}", small.node.log());
        if round % 8 == 7 {
            // What was acknowledged would fill the disk for good.
            ledger.delete_all(&small.node.login, user);
            eventually(SOON, "the garbage goes", || {
                let report = small.node.json(&["gc"]);
                (report["blobsWaiting"] == 0).then_some(())
            });
        }
    }
    let lost = ledger.audit(&small.node.login, user, Audit::All);
    assert!(lost.is_empty(), "{lost:#?}");
    let (changes, refused) = (ledger.acknowledged(), ledger.refused());
    assert!(changes > rounds && refused > 0, "{changes} acknowledged, {refused} refused");
    eprintln!("{rounds} times full: {changes} acknowledged, {refused} refused, nothing lost");
}

/// Symptom: a blob of 150 MB was written to a disk of 120 MB until that was full, and then refused.
#[test]
fn f210_a_body_that_cannot_fit_is_refused_before_it_comes() {
    let Some((small, user)) = small_root(BLOCK_BYTES) else { return };
    let client = Client::new(&small.node, &user);
    let begun = client.begin();
    let chunk = image::noise(1, 100_000);
    assert_eq!(client.send("PATCH", &begun, &chunk).status, 202);
    let blob = format!("sha256:{:064}", 1);
    for (line, what) in [
        (format!("POST /v2/app/blobs/uploads/?digest={blob}"), "a whole blob"),
        (format!("PATCH {}", client.begin()), "a chunk"),
        (format!("PUT {}?digest={blob}", client.begin()), "a last chunk"),
        (format!("PATCH {begun}"), "a chunk of an upload that has bytes"),
    ] {
        let (address, bearer) = (&small.node.login, &client.token);
        let head = format!(
            "{line} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {bearer}\r\n\
             content-length: 200000000\r\n\r\n"
        );
        // Not a byte of it is sent.
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_full(&http::parse(&answer, false).unwrap(), what);
    }
    let gone = client.send("GET", &begun, b"");
    assert_eq!(gone.error().0, "BLOB_UPLOAD_UNKNOWN", "what has no room takes none: {gone:?}");
    assert_eq!(client.push(&Image::new(2, &[9000]), "v1").status, 201);
}

/// A file system may be out of names for files while it has bytes left.
#[test]
fn f210_a_node_starts_on_a_disk_that_has_no_place_for_another_file() {
    let Some((mut small, user)) = small_root(BLOCK_BYTES) else { return };
    let image = Image::new(4, &[3000]);
    assert_eq!(Client::new(&small.node, &user).push(&image, "v1").status, 201);
    small.node.kill();
    let others = small.node.state().join("others");
    std::fs::create_dir(&others).unwrap();
    let full = (0..1_000_000).find_map(|n| std::fs::File::create(others.join(n.to_string())).err());
    assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
    small.node.start();
    let client = Client::new(&small.node, &user);
    assert_eq!(client.pull("v1"), image.digest());
    assert!(small.node.log().contains("serving without the admin socket"), "{}", small.node.log());
    small.node.kill();
    std::fs::remove_dir_all(&others).unwrap();
    small.node.start();
    let client = Client::new(&small.node, &user);
    assert_eq!(client.push(&Image::new(5, &[3000]), "v2").status, 201);
    assert!(small.node.run(&["status"]).status.success());
}

/// Symptom: what was deleted on a full disk was still there a minute later, and until the next
/// midnight. Cause: only the schedule, or an operator, began a collection.
#[test]
fn f142_f210_what_is_deleted_on_a_full_disk_makes_room_by_itself() {
    let Some((small, user)) = small_root_with(OWN_GC, BLOCK_BYTES) else { return };
    let client = Client::new(&small.node, &user);
    let kept = Image::new(1, &[9000]);
    assert_eq!(client.push(&kept, "kept").status, 201);
    let images = client.push_until_full(100);
    client.delete(&images[0].digest());
    let late = Image::new(2, &[LAYER_BYTES]);
    eventually(SOON, "pushes go on", || {
        Some(client.push(&late, "late")).filter(|answer| answer.status == 201)
    });
    for (number, image) in images.iter().enumerate().skip(1) {
        assert_eq!(client.pull(&format!("v{}", 100 + number)), image.digest());
    }
    assert_eq!(client.pull("kept"), kept.digest());
}

#[test]
fn f036_f037_a_device_whose_disk_is_full_says_so_and_recovers() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let push = |image: &Image, repository: &str, tag: &str| {
        let answer = image.push(&root.login, (&user.0, &user.1), repository, tag);
        assert_eq!(answer.status, 201);
    };
    push(&Image::new(1, &[40_000]), "app", "v1");
    push(&Image::new(2, &[40_000]), "big", "v1");
    let repositories = ["--repository", "app", "big", "--mode", "ReadOnly"];
    let connection = root.connect("dock01", &repositories);
    root.link("dock01", &user.0);
    let device = Node::device(&connection);
    let Some(mut small) = small_with(OWN_GC, device, BLOCK_BYTES) else { return };
    small.node.start();
    let shown = || root.json(&["connected-registry", "show", "--name", "dock01"]);
    let wait_for = |state: &str| {
        eventually(SOON, state, || Some(shown()).filter(|shown| shown["connectionState"] == state))
    };
    wait_for("Online");

    // The parent has more than fits; later changes wait behind it.
    let bigs: Vec<Image> = (0..16).map(|n| Image::new(100 + n, &[LAYER_BYTES])).collect();
    for (number, image) in bigs.iter().enumerate() {
        push(image, "big", &format!("v{}", 100 + number));
    }
    let ill = wait_for("Unhealthy");
    let detail = &ill["statusDetails"][0];
    assert_eq!((&detail["code"], &detail["type"]), (&"DiskError".into(), &"Disk".into()), "{ill}");
    for field in ["description", "timestamp", "correlationId"] {
        assert!(detail[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {ill}");
    }
    assert!(pull(&small.node, &user, "app", "v1").is_ok(), "what is there is served");

    // Deleted at the parent, content makes room here.
    let deleter = token(&root.login, &user.0, &user.1, &["repository:big:pull,delete"]).unwrap();
    for image in &bigs[..8] {
        let target = format!("/v2/big/manifests/{}", image.digest());
        assert_eq!(bearer(&root.login, &deleter, "DELETE", &target, &[], b"").status, 202);
    }
    eventually(SOON, "the rest arrives", || pull(&small.node, &user, "big", "v115").ok());
    let well = wait_for("Online");
    assert_eq!(well["statusDetails"].as_array().map(Vec::len), Some(0), "{well}");

    // Somebody else takes the space, and gives it back.
    small.disk.fill();
    // Nobody pushes, and the parent has nothing new.
    assert_eq!(wait_for("Unhealthy")["statusDetails"][0]["code"], "DiskError");
    let log = small.node.log();
    assert!(log.contains("free: pushes are refused, the disk is full"), "{log}");
    let late = Image::new(3, &[500_000]);
    push(&late, "app", "late");
    assert_eq!(wait_for("Unhealthy")["statusDetails"][0]["code"], "DiskError");
    assert!(pull(&small.node, &user, "big", "v115").is_ok(), "what is there is served");
    small.disk.free();
    eventually(SOON, "late arrives", || pull(&small.node, &user, "app", "late").ok());
    wait_for("Online");
    assert!(small.node.log().contains("the disk has space for pushes again"));
}

#[test]
fn f212_f036_a_miss_on_a_device_whose_disk_is_full_says_so() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let push = |seed: u64, bytes: usize, tag: &str| {
        let image = Image::new(seed, &[bytes]);
        assert_eq!(image.push(&root.login, (&user.0, &user.1), "big/one", tag).status, 201);
    };
    push(1, 40_000, "v1");
    let connection = root.connect("dock01", &["--repository", "big/*", "--mode", "ReadOnly"]);
    root.link("dock01", &user.0);
    let Some(mut small) = small(Node::device(&connection), BLOCK_BYTES) else { return };
    small.node.start();
    eventually(SOON, "the first sync", || pull(&small.node, &user, "big/one", "v1").ok());
    small.disk.fill_but(6 << 10);
    wait_for_the_next_look();
    push(2, LAYER_BYTES, "v2");
    // Until the sync has met it, the detail tells what the filling itself has refused.
    let text = eventually(SOON, "the disk has no space for the content", || {
        let details = small.node.json(&["status"])["sync"]["statusDetails"].clone();
        let told = details.as_array().unwrap().iter();
        told.filter(|detail| detail["code"] == "DiskError")
            .map(|detail| detail["description"].to_string())
            .find(|text| text.contains("MiB for the content"))
    });
    let missed = || pull(&small.node, &user, "big/one", "v2").unwrap_err();
    let answer = missed();
    let message = answer.json()["errors"][0]["message"].to_string();
    assert_eq!((answer.status, answer.error().1.as_str()), (404, "not_synced_yet"), "{message}");
    assert!(message.contains("the disk of this node has no space"), "{message}");
    for told in ["MiB free", "(storage.reserve) and 5.", "delete content", "gc.grace"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    small.disk.free();
    eventually(SOON, "v2 arrives", || pull(&small.node, &user, "big/one", "v2").ok());
    eventually(SOON, "what is complete is missed as before", || {
        let answer = pull(&small.node, &user, "big/one", "v3").unwrap_err();
        (answer.error().1 == "not_found").then_some(())
    });
}

/// Symptom: the device heard of it, its log said so, and the token went on working until the disk
/// took its journal again.
#[test]
fn f182_f210_a_token_that_is_disabled_is_refused_where_nothing_can_be_written() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let pulling = root.token("pull-token", &[("app", &["content/read"])]);
    let image = Image::new(7, &[40_000]);
    assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadOnly"]);
    root.link("dock01", &user.0);
    root.link("dock01", &pulling.0);
    let Some(mut small) = small(Node::device(&connection), BLOCK_BYTES) else { return };
    small.node.start();
    let device = &small.node;
    let pulled = |who| pull(device, who, "app", "v1").map_err(|answer| answer.status);
    eventually(SOON, "the first sync", || pulled(&pulling).ok());
    let scope = ["repository:app:pull"];
    let bearer_token = token(&device.login, &pulling.0, &pulling.1, &scope).unwrap();
    if !small.disk.fail() {
        return skip("the file system of the test does not become read-only by itself");
    }
    root.json(&["token", "update", "--name", &pulling.0, "--status", "disabled"]);
    eventually(SOON, "the token is refused", || {
        (token(&device.login, &pulling.0, &pulling.1, &scope).is_err()).then_some(())
    });
    let answer = bearer(&device.login, &bearer_token, "GET", "/v2/app/manifests/v1", &[], b"");
    assert_eq!((answer.status, answer.error().1.as_str()), (401, "token_disabled"));
    assert!(pulled(&user).is_ok(), "others are let in as before");
    assert!(device.log().contains("what it takes away counts"), "{}", device.log());
}

/// Symptoms: "the sync works again" each second, and nothing at the root, for as long as the parent
/// had news and the disk took none; nothing at the root while it had no news.
#[test]
fn f036_f212_a_device_that_can_write_nothing_does_not_call_its_sync_well() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let push = |seed: u64, tag: &str| {
        let image = Image::new(seed, &[40_000]);
        assert_eq!(image.push(&root.login, (&user.0, &user.1), "app", tag).status, 201);
    };
    push(7, "v1");
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadWrite"]);
    root.link("dock01", &user.0);
    let Some(mut small) = small(Node::device(&connection), BLOCK_BYTES) else { return };
    small.node.start();
    eventually(SOON, "the first sync", || pull(&small.node, &user, "app", "v1").ok());
    if !small.disk.fail() {
        return skip("the file system of the test does not become read-only by itself");
    }
    let image = Image::new(9, &[40_000]);
    let refused = image.push(&small.node.login, (&user.0, &user.1), "app", "refused");
    assert_eq!(refused.status, 503);
    eventually(SOON, "the root is told, though it has no news", || {
        let shown = root.json(&["connected-registry", "show", "--name", "dock01"]);
        let details = shown["statusDetails"].as_array().unwrap().clone();
        details.iter().any(|detail| detail["code"] == "DiskError").then_some(())
    });
    push(8, "v2");
    eventually(SOON, "it meets the disk", || {
        small.node.log().contains("the sync stopped").then_some(())
    });
    let log = small.node.log();
    assert!(log.contains("the sync stopped") && !log.contains("the sync works again"), "{log}");
    assert!(pull(&small.node, &user, "app", "v1").is_ok(), "what is here is served");
}

/// Symptom: the index was called damaged or gone, and the command that was named in its place gave
/// up half of what was acknowledged. Cause: sled does not open on a full disk.
#[test]
fn f211_a_damaged_journal_on_a_full_disk_costs_nothing() {
    for (has_ballast, is_cut) in [(true, false), (false, false), (false, true)] {
        let Some((mut small, _)) = small_root(BLOCK_BYTES) else { return };
        let names: Vec<String> = (0..40).map(|number| format!("map-{number:03}")).collect();
        for name in &names {
            let create = ["scope-map", "create", "--name", name, "--repository", "app"];
            let made = small.node.run(&[&create[..], &["content/read"]].concat());
            assert!(made.status.success(), "{made:?}");
        }
        small.node.stop();
        let segment = small.node.state().join("journal").join(format!("{:020}.log", 1));
        let mut bytes = std::fs::read(&segment).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes.truncate(if is_cut { middle } else { bytes.len() });
        std::fs::write(&segment, bytes).unwrap();
        if !has_ballast {
            std::fs::remove_file(small.node.state().join("ballast")).unwrap();
        }
        small.disk.fill();
        if !has_ballast {
            for command in [&["state", "cut-journal", "--yes"][..], &["serve"]] {
                let refused = small.node.run_configured(command);
                let why = String::from_utf8_lossy(&refused.stderr).into_owned();
                assert!(!refused.status.success() && why.contains("free some space"), "{why}");
            }
            small.disk.free();
        }
        small.node.start();
        let maps = small.node.json(&["scope-map", "list"]);
        let has = |name: &&String| maps.as_array().unwrap().iter().any(|map| map["name"] == **name);
        assert_eq!(names.iter().filter(has).count(), names.len(), "{}", small.node.log());
        let told = if is_cut { "may be lost" } else { "nothing is lost" };
        assert!(small.node.log().contains(told), "{}", small.node.log());
    }
}

/// Symptoms: of the starts of a node whose index had to be built with less space than that needs,
/// one in six did not come to its end, and those that did left no space for pushes. Cause: sled,
/// which had failed there, does not always come back from being closed, and what there was of the
/// new index stayed.
#[test]
fn f211_a_start_that_has_no_space_for_the_whole_index_ends_and_leaves_what_there_was() {
    let Some((mut small, user)) = small_root(BLOCK_BYTES) else { return };
    {
        let app = App::at(&small.node, &user);
        app.push(b"{}");
        for number in 0..24 {
            let put = app.put(&format!("v{number}"), MANIFEST, &elsewhere(number, 2000));
            assert_eq!(put.status, 201, "{put:?}");
        }
    }
    let index = small.node.state().join("index");
    for (round, free_kib) in
        [6000, 7000, 8000, 9000, 6500, 7500, 8500, 5500].into_iter().enumerate()
    {
        small.node.kill();
        std::fs::remove_dir_all(&index).unwrap_or_default();
        small.disk.fill_but(free_kib);
        small.node.start();
        let free = small.disk.free_bytes();
        assert!(free > (free_kib - 1000) * 1024, "of {free_kib} KiB {free} bytes are left");
        let app = App::at(&small.node, &user);
        let last = format!("v{}", 23 - round);
        assert_eq!(app.get("manifests", &last).body, elsewhere(23 - round, 2000));
        assert_eq!(app.put(&format!("again{round}"), MANIFEST, &elsewhere(0, 2000)).status, 201);
        small.disk.free();
    }
    small.node.kill();
    small.node.start();
    assert!(index.exists(), "there is space again");
}

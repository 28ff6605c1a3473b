//! Quotas of repositories.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::support::eventually;
use crate::support::http::{Answer, bearer, stream, token};
use crate::support::image::{self, INDEX, Image};
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

/// Symptom: an account with a quota of 1 MiB filled a disk in seconds, and nothing collected it.
/// Cause: a manifest was stored before the quota, the tag and the index were asked, and stayed.
#[test]
fn f210_a_manifest_that_is_refused_leaves_nothing_behind() {
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("quotas = [\"small=100KiB\"]\n");
    root.start();
    let user = root.pusher("owner-token", "*");
    let scopes = ["repository:small:*", "repository:large:*"];
    let access = token(&root.login, &user.0, &user.1, &scopes).unwrap();
    let put = |target: &str, seed: u64, len: usize, headers: &[(&str, &str)]| {
        let note = "x".repeat(len);
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],
                "annotations":{{"seed":"{seed}","note":"{note}"}}}}"#
        );
        let typed = [&[("content-type", INDEX)], headers].concat();
        let answer = bearer(&root.login, &access, "PUT", target, &typed, text.as_bytes());
        (answer.status, image::digest(text.as_bytes()))
    };
    assert_eq!(put("/v2/large/manifests/v1", 0, 10, &[]).0, 201);
    let before = bytes_in(&root.state().join("blobs"));
    for seed in 1..6 {
        assert_eq!(put("/v2/small/manifests/v1", seed, 200_000, &[]).0, 403);
        let only = [("if-none-match", "*")];
        assert_eq!(put("/v2/large/manifests/v1", seed, 200_000, &only).0, 412);
    }
    assert_eq!(bytes_in(&root.state().join("blobs")), before);
    // Nor does what is deleted again.
    let small = image::digest(b"small");
    let blob = format!("/v2/small/blobs/{small}");
    assert_eq!(image::push_blob(&root.login, &access, "small", b"small").status, 201);
    assert_eq!(bearer(&root.login, &access, "DELETE", &blob, &[], b"").status, 202);
    let (status, digest) = put("/v2/small/manifests/v1", 7, 50_000, &[]);
    let manifest = format!("/v2/small/manifests/{digest}");
    let deleted = bearer(&root.login, &access, "DELETE", &manifest, &[], b"");
    assert_eq!((status, deleted.status), (201, 202));
    assert_eq!(bytes_in(&root.state().join("blobs")), before);
    // What another repository has stays.
    let (status, digest) = put("/v2/large/manifests/v2", 9, 200_000, &[]);
    assert_eq!((status, put("/v2/small/manifests/v1", 9, 200_000, &[]).0), (201, 403));
    let path = format!("/v2/large/manifests/{digest}");
    assert_eq!(bearer(&root.login, &access, "GET", &path, &[], b"").status, 200);
}

/// What cannot fit is refused while it comes, and takes no space: neither as an upload nor as
/// content that waits for garbage collection.
#[test]
fn f210_a_stream_beyond_the_quota_is_refused_as_it_comes_and_takes_no_space() {
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
}

/// A root with quotas of 1 MiB, and a client of it.
struct Small {
    root: Node,
    token: String,
}

impl Small {
    fn start(repositories: &[&str]) -> Small {
        let mut root = Node::device("x");
        root.make_root();
        root.know_as("quotas = [\"small/*=1MiB\"]\n");
        root.start();
        let user = root.pusher("owner-token", "*");
        let scope = |name: &&str| format!("repository:{name}:pull,push");
        let scopes: Vec<String> = repositories.iter().map(scope).collect();
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let token = token(&root.login, &user.0, &user.1, &scopes).unwrap();
        Small { root, token }
    }

    fn send(&self, method: &str, target: &str, body: &[u8]) -> Answer {
        bearer(&self.root.login, &self.token, method, target, &[], body)
    }

    fn begin(&self, repository: &str) -> String {
        let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), b"");
        begun.header("location").unwrap_or_else(|| panic!("{begun:?}")).to_owned()
    }

    fn whole(&self, repository: &str, blob: &[u8]) -> Answer {
        let digest = image::digest(blob);
        self.send("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), blob)
    }

    fn stream(&self, upload: &str, blob: &[u8]) -> Answer {
        stream(&self.root.login, &self.token, "PATCH", upload, &[], blob)
    }

    fn finish(&self, upload: &str, blob: &[u8]) -> Answer {
        self.send("PUT", &format!("{upload}?digest={}", image::digest(blob)), b"")
    }

    /// Sends half of the last chunk of an upload, and hangs up.
    fn break_off(&self, upload: &str, blob: &[u8]) {
        let mut stream = TcpStream::connect(&self.root.login).unwrap();
        let (digest, token, len) = (image::digest(blob), &self.token, blob.len());
        let host = &self.root.login;
        let head = format!(
            "PUT {upload}?digest={digest} HTTP/1.1\r\nhost: {host}\r\n\
             authorization: Bearer {token}\r\ncontent-length: {len}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&blob[..len / 2]).unwrap();
    }

    fn bytes(&self, folder: &str) -> u64 {
        bytes_in(&self.root.state().join(folder))
    }
}

fn is_refused(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 403, "{what}: {answer:?}");
    assert_eq!(answer.error().1, "quota_exceeded", "{what}");
}

/// Symptom: two chunked uploads that fitted a quota one by one were both taken whole, and two
/// whole ones at once were both installed before one of them was refused.
#[test]
fn f210_uploads_at_once_share_a_quota_as_their_bytes_come() {
    const BYTES: usize = 700_000;
    let small = Small::start(&["small/a", "small/b", "large"]);
    let blobs = [image::noise(6, BYTES), image::noise(7, BYTES)];
    let [first, second] = [small.begin("small/a"), small.begin("small/a")];
    assert_eq!(small.stream(&first, &blobs[0]).status, 202);
    let refused = small.stream(&second, &blobs[1]);
    is_refused(&refused, "the second of two");
    let message = refused.message();
    assert!(message.contains("1048576") && message.contains("other uploads"), "{message}");
    assert_eq!(small.send("GET", &second, b"").error().0, "BLOB_UPLOAD_UNKNOWN");
    is_refused(&small.whole("small/a", &blobs[1]), "a whole blob");
    assert_eq!(small.whole("large", &blobs[1]).status, 201);
    let mount = format!("/v2/small/a/blobs/uploads/?mount={}&from=large", image::digest(&blobs[1]));
    is_refused(&small.send("POST", &mount, b""), "a mount");
    // Each repository has its own, and what is given up is given back.
    let other = small.begin("small/b");
    assert_eq!(small.stream(&other, &blobs[1]).status, 202);
    assert_eq!(small.send("DELETE", &other, b"").status, 204);
    let other = small.begin("small/b");
    assert_eq!(small.stream(&other, &blobs[0]).status, 202);
    assert_eq!(small.finish(&first, &blobs[0]).status, 201);
    // What is there already costs nothing more.
    assert_eq!(small.whole("small/a", &blobs[0]).status, 201);
    is_refused(&small.whole("small/a", &blobs[1]), "a blob beside it");
    // More than that cannot be it.
    let path = format!("/v2/small/a/blobs/uploads/?digest={}", image::digest(&blobs[0]));
    is_refused(&small.send("POST", &path, &blobs.concat()), "what begins like it");
    // What is refused, or breaks off on its way, leaves nothing that no quota counts.
    let begun = small.begin("small/a");
    assert_eq!(small.stream(&begun, &blobs[1][..100_000]).status, 202);
    let target = format!("{begun}?digest={}", image::digest(&blobs[0]));
    let range = [("content-range", "100000-100009")];
    let refused = stream(&small.root.login, &small.token, "PUT", &target, &range, b"x");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert_eq!(small.send("GET", &begun, b"").status, 404);
    let begun = small.begin("small/a");
    small.break_off(&begun, &blobs[0]);
    eventually(SOON, "it is gone", || {
        let left = small.send("GET", &begun, b"");
        (left.status == 404).then_some(())
    });
    assert_eq!(small.bytes("blobs"), 2 * BYTES as u64);
    // An upload that nobody goes on with does not keep the others out for a day.
    eventually(SOON, "an idle upload makes room", || {
        Some(small.whole("small/b", &blobs[1])).filter(|answer| answer.status == 201)
    });
    assert_eq!(small.send("GET", &other, b"").error().0, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(small.bytes("uploads"), 0);
}

#[test]
fn f210_of_two_blobs_at_once_that_do_not_fit_one_is_installed() {
    const ROUNDS: u64 = 20;
    const BYTES: usize = 700_000;
    let names: Vec<String> = (0..ROUNDS).map(|round| format!("small/r{round}")).collect();
    let scopes: Vec<&str> = names.iter().map(String::as_str).collect();
    let small = Small::start(&scopes);
    for (round, name) in names.iter().enumerate() {
        let blobs = [0, 1].map(|blob| image::noise(10 + 2 * round as u64 + blob, BYTES));
        let mut statuses = std::thread::scope(|scope| {
            let pushes =
                blobs.each_ref().map(|blob| scope.spawn(|| small.whole(name, blob).status));
            pushes.map(|push| push.join().unwrap())
        });
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 403], "round {round}");
        assert_eq!(small.bytes("blobs"), (round as u64 + 1) * BYTES as u64, "round {round}");
    }
    assert_eq!(small.bytes("uploads"), 0);
}

/// A root where `small` may hold 1500 KiB, and who may push there.
fn root_with_quota() -> (Node, (String, String)) {
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("quotas = [\"small=1500KiB\"]\n");
    root.start();
    let user = root.pusher("owner-token", "*");
    (root, user)
}

/// An upload of 1 MB to `small`, of which some bytes have come.
fn keeps_room(root: &Node, owner: (&str, &str)) -> TcpStream {
    let grant = token(&root.login, owner.0, owner.1, &["repository:small:pull,push"]).unwrap();
    let begun = bearer(&root.login, &grant, "POST", "/v2/small/blobs/uploads/", &[], b"");
    let place = begun.header("location").unwrap().trim_start_matches("http://").to_owned();
    let path = &place[place.find("/v2/").unwrap()..];
    let mut upload = TcpStream::connect(&root.login).unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {grant}\r\n\
         content-length: 1000000\r\n\r\nsome bytes",
        root.login
    );
    upload.write_all(head.as_bytes()).unwrap();
    eventually(SOON, "it keeps what it has announced", || {
        let answer = image::push_blob(&root.login, &grant, "small", &vec![1; 700_000]);
        (answer.status == 403 && answer.header("retry-after").is_some()).then_some(())
    });
    upload
}

/// A manifest that has room when it comes, and none when it is stored: another upload keeps it.
#[test]
fn f210_a_manifest_that_finds_no_room_in_the_end_leaves_nothing_behind() {
    let (root, user) = root_with_quota();
    let _upload = keeps_room(&root, (&user.0, &user.1));
    let before = bytes_in(&root.state().join("blobs"));
    let scopes = ["repository:small:*", "repository:large:*"];
    let access = token(&root.login, &user.0, &user.1, &scopes).unwrap();
    let note = "x".repeat(700_000);
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],
            "annotations":{{"a":"{note}"}}}}"#
    );
    let put = |target: &str| {
        let typed = [("content-type", INDEX)];
        bearer(&root.login, &access, "PUT", target, &typed, text.as_bytes())
    };
    is_refused(&put("/v2/small/manifests/v1"), "beside the upload");
    assert_eq!(bytes_in(&root.state().join("blobs")), before);
    assert_eq!(put("/v2/large/manifests/v1").status, 201);
    is_refused(&put("/v2/small/manifests/v1"), "beside the upload");
    assert_eq!(bytes_in(&root.state().join("blobs")), before + text.len() as u64);
}

/// Symptom: who pushed and deleted manifests in turn at a ReadWrite device filled its disk, and so
/// did who did it with blobs while any change waited. Cause: the deletion itself was a change that
/// waits for the parent, and with one nothing went at once.
#[test]
fn f210_what_is_deleted_at_a_readwrite_device_goes_at_once_whatever_waits() {
    let (mut root, user) = root_with_quota();
    let mut device = Node::device(&root.connect("dock01", &["--repository", "small", "large"]));
    device.add_configuration("[registry]\nquotas = [\"small=1500KiB\"]\n");
    device.start();
    root.link("dock01", &user.0);
    let scopes = ["repository:small:*", "repository:large:*"];
    let access = eventually(SOON, "the device knows the account", || {
        token(&device.login, &user.0, &user.1, &scopes).ok()
    });
    let send = |method: &str, target: &str, body: &[u8]| {
        bearer(&device.login, &access, method, target, &[("content-type", INDEX)], body).status
    };
    let text = |seed: &str| {
        let note = "x".repeat(300_000);
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],
                "annotations":{{"seed":"{seed}","note":"{note}"}}}}"#
        )
    };
    let bytes = || bytes_in(&device.state().join("blobs"));
    let churn = |seed: &str| {
        let text = text(seed);
        let by_digest = format!("/v2/small/manifests/{}", image::digest(text.as_bytes()));
        assert_eq!(send("PUT", "/v2/small/manifests/v1", text.as_bytes()), 201);
        assert_eq!(send("DELETE", &by_digest, b""), 202);
        let blob = seed.as_bytes();
        assert_eq!(image::push_blob(&device.login, &access, "small", blob).status, 201);
        let blob = format!("/v2/small/blobs/{}", image::digest(blob));
        assert_eq!(send("DELETE", &blob, b""), 202);
    };
    let before = bytes();
    churn("the parent is there");
    assert_eq!(bytes(), before);
    root.stop();
    assert_eq!(send("PUT", "/v2/large/manifests/v1", text("waits").as_bytes()), 201);
    let before = bytes();
    churn("the parent is away");
    assert_eq!(bytes(), before);
    root.start();
    let owner = (user.0.as_str(), user.1.as_str());
    let wanted = image::digest(text("waits").as_bytes());
    eventually(SOON * 3, "what waited arrives", || {
        let access = token(&root.login, owner.0, owner.1, &scopes).ok()?;
        let target = format!("/v2/large/manifests/{wanted}");
        let answer = bearer(&root.login, &access, "GET", &target, &[], b"");
        (answer.status == 200).then_some(())
    });
    let waiting = || device.json(&["status"])["sync"]["waitingChanges"].clone();
    eventually(SOON * 3, "nothing waits", || (waiting() == 0).then_some(()));
}

/// Symptom: an image that was listed could not be pulled, and its layer counted in no quota. Cause:
/// a blob could be deleted from under the manifests that name it.
#[test]
fn f210_a_blob_that_a_manifest_names_is_not_deleted() {
    let (root, user) = root_with_quota();
    let owner = (user.0.as_str(), user.1.as_str());
    let access = token(&root.login, owner.0, owner.1, &["repository:small:*"]).unwrap();
    let image = Image::new(91, &[10_000]);
    assert_eq!(image.push(&root.login, owner, "small", "v1").status, 201);
    let delete = |kind: &str, digest: &str| {
        let path = format!("/v2/small/{kind}/{digest}");
        bearer(&root.login, &access, "DELETE", &path, &[], b"")
    };
    let layer = image::digest(&image.layers[0]);
    let refused = delete("blobs", &layer);
    assert_eq!((refused.status, refused.error().1.as_str()), (405, "still_needed"), "{refused:?}");
    assert!(refused.message().contains(&image.digest()), "{refused:?}");
    assert_eq!(image::pull(&root.login, owner, "small", "v1").unwrap(), image.digest());
    assert_eq!(delete("manifests", &image.digest()).status, 202);
    assert_eq!(delete("blobs", &layer).status, 202);
    assert_eq!(delete("blobs", &layer).status, 404);
}

/// Symptom: a client with a quota of 10 MiB filled a disk for as long as it liked. Cause: no quota
/// counted what came of content that its repository had already, on however many connections.
#[test]
fn f210_content_that_is_there_already_comes_once_at_a_time_beside_the_quota() {
    let (root, user) = root_with_quota();
    let grant = token(&root.login, &user.0, &user.1, &["repository:small:pull,push"]).unwrap();
    let blob = vec![3; 1_000_000];
    assert_eq!(image::push_blob(&root.login, &grant, "small", &blob).status, 201);
    let path = format!("/v2/small/blobs/uploads/?digest={}", image::digest(&blob));
    let again = || bearer(&root.login, &grant, "POST", &path, &[], &blob);
    assert_eq!(again().status, 201, "it costs nothing more");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {grant}\r\n\
         content-length: 1000000\r\n\r\nsome bytes",
        root.login
    );
    // Either of the two may be the one that comes first: then the other is refused, and both go.
    let (first, second) = eventually(SOON, "the first has begun", || {
        let mut first = TcpStream::connect(&root.login).unwrap();
        first.write_all(head.as_bytes()).unwrap();
        let answer = again();
        (answer.status != 201).then_some((first, answer))
    });
    assert_eq!((second.status, second.error().1.as_str()), (403, "quota_exceeded"), "{second:?}");
    drop(first);
    eventually(SOON, "the first has ended", || (again().status == 201).then_some(()));
}

/// Symptom: a device's push was set aside for an hour as one over the quota, because an upload that
/// had broken off kept the room for some seconds more. Cause: both were the same refusal.
#[test]
fn f130_f203_a_delivery_waits_for_room_that_another_upload_keeps() {
    let (root, user) = root_with_quota();
    let owner = (user.0.as_str(), user.1.as_str());
    let device = Node::start_device(&root.connect("dock01", &["--repository", "small"]));
    root.link("dock01", &user.0);
    let upload = keeps_room(&root, owner);
    let image = Image::new(81, &[900_000]);
    eventually(SOON, "the device takes it", || {
        (image.push(&device.login, owner, "small", "v1").status == 201).then_some(())
    });
    eventually(SOON, "it was tried", || {
        device.log().contains("retrying a push to the parent repository=small").then_some(())
    });
    assert_eq!(device.json(&["status"])["sync"]["refusedChanges"], 0, "{}", device.log());
    drop(upload);
    let found =
        eventually(SOON * 3, "it arrives", || image::pull(&root.login, owner, "small", "v1").ok());
    assert_eq!(found, image.digest());
}

/// Symptom: one slow upload at the root held up all that a device had to deliver of the repository,
/// a removal too, and nobody was told. Cause: what waits for room had to go before the rest.
#[test]
fn f130_f203_a_slow_upload_in_a_quota_holds_up_one_delivery_only() {
    let (root, user) = root_with_quota();
    let owner = (user.0.as_str(), user.1.as_str());
    let mut device = Node::start_device(&root.connect("dock01", &["--repository", "small"]));
    root.link("dock01", &user.0);
    let push = |device: &Node, image: &Image, tag: &str| {
        eventually(SOON, "the device takes it", || {
            (image.push(&device.login, owner, "small", tag).status == 201).then_some(())
        });
    };
    push(&device, &Image::new(82, &[100]), "old");
    eventually(SOON, "it arrives", || image::pull(&root.login, owner, "small", "old").ok());
    let mut upload = keeps_room(&root, owner);
    let large = Image::new(83, &[900_000]);
    push(&device, &large, "v1");
    push(&device, &Image::new(84, &[200]), "v2");
    eventually(SOON * 3, "what fits arrives, and the rest is told", || {
        upload.write_all(b"x").unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let details = device.json(&["status"]).to_string();
        let small = image::pull(&root.login, owner, "small", "v2").is_ok();
        (small && details.contains("PushRefused") && details.contains("quota")).then_some(())
    });
    assert!(image::pull(&root.login, owner, "small", "v1").is_err());
    drop(upload);
    device.stop();
    device.start();
    let found =
        eventually(SOON * 3, "it arrives", || image::pull(&root.login, owner, "small", "v1").ok());
    assert_eq!(found, large.digest());
}

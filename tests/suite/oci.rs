//! The registry API to the letter of the OCI distribution-spec, over plain HTTP.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::http::{Answer, bearer, raw, send, stream, token};
use crate::support::image::{INDEX, Image, MANIFEST, digest, noise, push_blob, sha512};
use crate::support::node::Node;

const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];
const ALL: &str = "pull,push,delete,metadata_read";
const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

/// A root and a token that may do everything in `a`, `b` and below `team`.
struct Registry {
    node: Node,
    token: String,
}

impl Registry {
    fn new() -> Registry {
        Registry::on(Node::root())
    }

    fn on(node: Node) -> Registry {
        let (user, password) = node.pusher("owner-token", "*");
        let scopes = ["a", "b", "team/app"].map(|name| format!("repository:{name}:{ALL}"));
        let mut scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        scopes.push("registry:catalog:*");
        let token = token(&node.login, &user, &password, &scopes).unwrap();
        Registry { node, token }
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        bearer(&self.node.login, &self.token, method, target, headers, body)
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"")
    }

    fn put(&self, repository: &str, reference: &str, media_type: &str, body: &[u8]) -> Answer {
        let target = format!("/v2/{repository}/manifests/{reference}");
        self.ask("PUT", &target, &[("content-type", media_type)], body)
    }

    fn start(&self, repository: &str) -> String {
        let target = format!("/v2/{repository}/blobs/uploads/");
        let answer = self.ask("POST", &target, &[], b"");
        assert_eq!(answer.status, 202);
        answer.header("location").unwrap().to_owned()
    }

    fn blob(&self, repository: &str, content: &[u8]) -> String {
        assert_eq!(push_blob(&self.node.login, &self.token, repository, content).status, 201);
        digest(content)
    }

    fn push(&self, image: &Image, repository: &str, tag: &str) {
        assert_eq!(image.push_with(&self.node.login, &self.token, repository, tag).status, 201);
    }
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, reason: &str) {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(answer.error(), (code.to_owned(), reason.to_owned()), "{text}");
}

#[test]
fn f147_the_version_check_needs_a_login_and_nothing_else() {
    let registry = Registry::new();
    for target in ["/v2/", "/v2"] {
        let answer = registry.get(target);
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"{}"[..]));
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        let stranger = send(&registry.node.login, "GET", target, &[], b"").unwrap();
        refused(&stranger, 401, "UNAUTHORIZED", "authentication_required");
    }
    assert_eq!(registry.ask("HEAD", "/v2/", &[], b"").status, 200);
}

#[test]
fn f148_blobs_and_manifests_are_read_and_probed() {
    let registry = Registry::new();
    let image = Image::new(11, &[5000]);
    registry.push(&image, "team/app", "v1");
    let layer = &image.layers[0];
    for (target, content, name, media_type) in [
        (
            format!("/v2/team/app/blobs/{}", digest(layer)),
            layer,
            digest(layer),
            "application/octet-stream",
        ),
        ("/v2/team/app/manifests/v1".to_owned(), &image.manifest, image.digest(), MANIFEST),
        (
            format!("/v2/team/app/manifests/{}", image.digest()),
            &image.manifest,
            image.digest(),
            MANIFEST,
        ),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = registry.ask(method, &target, &[], b"");
            assert_eq!(answer.status, 200, "{method} {target}");
            assert_eq!(answer.header("docker-content-digest"), Some(name.as_str()));
            assert_eq!(answer.header("content-length"), Some(&*content.len().to_string()));
            assert_eq!(answer.header("content-type"), Some(media_type));
            assert_eq!(answer.header("etag"), Some(&*format!("\"{name}\"")));
            let body = if method == "GET" { content.as_slice() } else { b"" };
            assert!(answer.body == body, "{method} {target}");
        }
        let known = [("if-none-match", &*format!("\"{name}\""))];
        let answer = registry.ask("GET", &target, &known, b"");
        assert_eq!((answer.status, answer.body.len()), (304, 0));
    }
    let none = digest(b"none");
    for (target, code) in [
        (format!("/v2/team/app/blobs/{none}"), "BLOB_UNKNOWN"),
        ("/v2/team/app/manifests/v2".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("/v2/team/app/manifests/{none}"), "MANIFEST_UNKNOWN"),
        // Knowing a digest grants nothing in another repository.
        (format!("/v2/b/blobs/{}", digest(layer)), "BLOB_UNKNOWN"),
    ] {
        refused(&registry.get(&target), 404, code, "not_found");
        let answer = registry.ask("HEAD", &target, &[], b"");
        assert_eq!((answer.status, answer.body.len()), (404, 0));
    }
    // Nothing is converted: what was pushed is what comes, whatever is asked for.
    let accept = [("accept", "application/vnd.docker.distribution.manifest.v1+json")];
    let answer = registry.ask("GET", "/v2/team/app/manifests/v1", &accept, b"");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(MANIFEST)));
}

#[test]
fn f149_blobs_are_read_in_ranges() {
    let registry = Registry::new();
    let content = noise(3, 2048);
    let target = format!("/v2/a/blobs/{}", registry.blob("a", &content));
    for (range, from, to) in [
        ("bytes=500-1499", 500, 1500),
        ("bytes=500-", 500, 2048),
        ("bytes=-500", 1548, 2048),
        ("bytes=2000-5000", 2000, 2048),
        ("bytes=0-0", 0, 1),
    ] {
        let answer = registry.ask("GET", &target, &[("range", range)], b"");
        assert_eq!(answer.status, 206, "{range}");
        let stated = format!("bytes {from}-{}/2048", to - 1);
        assert_eq!(answer.header("content-range"), Some(stated.as_str()));
        assert!(answer.body == content[from..to], "{range}");
    }
    for range in ["bytes=500-0", "bytes=5000-10000", "bytes=2048-", "bytes=-0", "bytes=x-"] {
        let answer = registry.ask("GET", &target, &[("range", range)], b"");
        refused(&answer, 416, "SIZE_INVALID", "range_invalid");
        assert_eq!(answer.header("content-range"), Some("bytes */2048"));
    }
    let answer = registry.ask("GET", &target, &[("range", "lines=1-2")], b"");
    assert_eq!(answer.status, 200, "another unit is ignored");
}

#[test]
fn f150_f151_blobs_are_pushed_in_two_requests_or_one() {
    let registry = Registry::new();
    for (number, name) in [digest as fn(&[u8]) -> String, sha512].into_iter().enumerate() {
        let content = noise(number as u64 + 20, 70_000);
        let (good, wrong) = (name(&content), name(b"other"));
        for bad in [wrong.as_str(), "sha256:00", "md5:00112233445566778899aabbccddeeff", ""] {
            let target = format!("{}?digest={bad}", registry.start("a"));
            let answer = registry.ask("PUT", &target, &[OCTETS], &content);
            let reason = if bad == wrong { "digest_mismatch" } else { "malformed" };
            refused(&answer, 400, "DIGEST_INVALID", reason);
            let target = format!("/v2/a/blobs/uploads/?digest={bad}");
            let answer = registry.ask("POST", &target, &[OCTETS], &content);
            refused(&answer, 400, "DIGEST_INVALID", reason);
        }
        assert_eq!(registry.get(&format!("/v2/a/blobs/{wrong}")).status, 404);
        let two = format!("{}?digest={good}", registry.start("a"));
        let one = format!("/v2/b/blobs/uploads/?digest={good}");
        for (method, target) in [("PUT", two), ("POST", one)] {
            let answer = registry.ask(method, &target, &[OCTETS], &content);
            assert_eq!(answer.status, 201);
            assert_eq!(answer.header("docker-content-digest"), Some(good.as_str()));
            let location = answer.header("location").unwrap();
            assert!(registry.get(location).body == content, "{location}");
        }
    }
    let upload = registry.start("a");
    refused(&registry.ask("PUT", &upload, &[], b""), 400, "DIGEST_INVALID", "malformed");
    let empty = format!("{upload}?digest={}", digest(b""));
    assert_eq!(registry.ask("PUT", &empty, &[], b"").status, 201, "zero bytes are a blob");
    let target = "/v2/a/blobs/uploads/?digest-algorithm=sha512";
    assert_eq!(registry.ask("POST", target, &[], b"").status, 202);
    let target = "/v2/a/blobs/uploads/?digest-algorithm=md5";
    refused(&registry.ask("POST", target, &[], b""), 400, "DIGEST_INVALID", "malformed");
}

/// A chunk that turns out not to be what it announces is refused as a whole: the client sends it
/// again from where it began.
#[test]
fn f210_a_chunk_that_is_refused_half_way_can_be_sent_again() {
    let registry = Registry::new();
    let content = noise(31, 302_000);
    let location = registry.start("a");
    let chunk = |range: &str, part: &[u8]| {
        let (address, token) = (&registry.node.login, &registry.token);
        stream(address, token, "PATCH", &location, &[("content-range", range)], part)
    };
    assert_eq!(chunk("0-1999", &content[..2000]).status, 202);
    for len in [290_000, 310_000] {
        let refused = chunk("2000-301999", &noise(32, len));
        assert_eq!((refused.status, refused.error().0.as_str()), (400, "SIZE_INVALID"), "{len}");
        assert_eq!(registry.get(&location).header("range"), Some("0-1999"), "{len}");
    }
    let sent = chunk("2000-301999", &content[2000..]);
    assert_eq!((sent.status, sent.header("range")), (202, Some("0-301999")), "{sent:?}");
    let target = format!("{location}?digest={}", digest(&content));
    assert_eq!(registry.ask("PUT", &target, &[], b"").status, 201);
}

#[test]
fn f152_blobs_are_pushed_in_chunks_and_streams() {
    let mut registry = Registry::new();
    let content = noise(30, 5000);
    let location = registry.start("a");
    let send =
        |registry: &Registry, method: &str, target: &str, range: Option<&str>, part: &[u8]| {
            let mut headers = vec![OCTETS];
            headers.extend(range.map(|range| ("content-range", range)));
            registry.ask(method, target, &headers, part)
        };
    let status = registry.get(&location);
    assert_eq!((status.status, status.header("range")), (204, Some("0-0")));
    let answer = send(&registry, "PATCH", &location, Some("0-1999"), &content[..2000]);
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-1999")));
    let location = answer.header("location").unwrap().to_owned();
    for (method, range, part) in [
        ("PATCH", "3000-3999", &content[3000..4000]),
        ("PATCH", "0-1999", &content[..2000]),
        ("PATCH", "1999-2998", &content[1999..2999]),
        ("PUT", "3000-4999", &content[3000..]),
    ] {
        let target = match method {
            "PUT" => format!("{location}?digest={}", digest(&content)),
            _ => location.clone(),
        };
        let answer = send(&registry, method, &target, Some(range), part);
        refused(&answer, 416, "BLOB_UPLOAD_INVALID", "out_of_order");
        assert_eq!(answer.header("range"), Some("0-1999"));
        assert_eq!(answer.header("location"), Some(location.as_str()));
    }
    let short = send(&registry, "PATCH", &location, Some("2000-2999"), &content[2000..2500]);
    refused(&short, 400, "SIZE_INVALID", "malformed");
    let status = registry.get(&location);
    assert_eq!((status.status, status.header("range")), (204, Some("0-1999")));
    // The upload survives a power cut, as far as it was acknowledged.
    registry.node.kill();
    registry.node.start();
    let answer = send(&registry, "PATCH", &location, None, &content[2000..4000]);
    assert_eq!((answer.status, answer.header("range")), (202, Some("0-3999")), "a stream");
    let target = format!("{location}?digest={}", digest(&content));
    let answer = send(&registry, "PUT", &target, Some("4000-4999"), &content[4000..]);
    assert_eq!(answer.status, 201);
    assert!(registry.get(answer.header("location").unwrap()).body == content);

    let location = registry.start("a");
    assert_eq!(registry.ask("DELETE", &location, &[], b"").status, 204);
    for method in ["GET", "PATCH", "DELETE"] {
        let gone = registry.ask(method, &location, &[], b"");
        refused(&gone, 404, "BLOB_UPLOAD_UNKNOWN", "not_found");
    }
    let foreign = registry.start("a").replace("/v2/a/", "/v2/b/");
    refused(&registry.get(&foreign), 404, "BLOB_UPLOAD_UNKNOWN", "not_found");
}

#[test]
fn f153_manifests_are_kept_byte_for_byte_up_to_4_mib() {
    let registry = Registry::new();
    let image = Image::new(40, &[100]);
    let missing = registry.put("a", "v1", MANIFEST, &image.manifest);
    refused(&missing, 400, "MANIFEST_BLOB_UNKNOWN", "content_missing");
    registry.push(&image, "a", "v1");
    // Odd but valid JSON: blanks, an unknown field, escapes.
    let mut value: Value = serde_json::from_slice(&image.manifest).unwrap();
    value["org.example.unknown"] = json!({"x": [1, 2.50, "\u{e9}"]});
    let mut odd = b"\n  ".to_vec();
    odd.extend(serde_json::to_vec_pretty(&value).unwrap());
    odd.extend(b"\n\n");
    let answer = registry.put("a", "odd", MANIFEST, &odd);
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("docker-content-digest"), Some(digest(&odd).as_str()));
    assert_eq!(
        answer.header("location"),
        Some(format!("/v2/a/manifests/{}", digest(&odd)).as_str())
    );
    assert!(registry.get("/v2/a/manifests/odd").body == odd);

    let sized = |size: usize| {
        let mut value: Value = serde_json::from_slice(&image.manifest).unwrap();
        value["annotations"] = json!({"pad": ""});
        let pad = "x".repeat(size - value.to_string().len());
        value["annotations"]["pad"] = pad.into();
        value.to_string().into_bytes()
    };
    let largest = sized(4 * 1024 * 1024);
    assert_eq!(registry.put("a", "large", MANIFEST, &largest).status, 201);
    assert!(registry.get("/v2/a/manifests/large").body == largest);
    let over = registry.put("a", "over", MANIFEST, &sized(4 * 1024 * 1024 + 1));
    refused(&over, 413, "SIZE_INVALID", "too_large");
    assert_eq!(registry.get("/v2/a/manifests/over").status, 404);
}

#[test]
fn f153_a_push_by_digest_sets_any_number_of_tags() {
    let registry = Registry::new();
    let image = Image::new(41, &[100]);
    for blob in image.blobs() {
        registry.blob("a", blob);
    }
    for name in [digest(&image.manifest), sha512(&image.manifest)] {
        let reference = format!("{name}?tag=v1&tag=v1.2&tag=latest");
        let answer = registry.put("a", &reference, MANIFEST, &image.manifest);
        assert_eq!(answer.status, 201);
        let tags: Vec<&str> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "oci-tag")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(tags, ["v1", "v1.2", "latest"]);
        assert_eq!(answer.header("docker-content-digest"), Some(name.as_str()));
        for tag in tags {
            let answer = registry.ask("HEAD", &format!("/v2/a/manifests/{tag}"), &[], b"");
            assert_eq!(answer.header("docker-content-digest"), Some(name.as_str()));
        }
    }
    let wrong = registry.put("a", &digest(b"other"), MANIFEST, &image.manifest);
    refused(&wrong, 400, "DIGEST_INVALID", "digest_mismatch");
    let reference = format!("{}?tag=-bad", image.digest());
    let bad = registry.put("a", &reference, MANIFEST, &image.manifest);
    refused(&bad, 400, "NAME_INVALID", "malformed");
}

/// A manifest of an artifact that refers to `subject`.
fn artifact(subject: &str, kind: &str, number: usize) -> Vec<u8> {
    let empty = json!({"mediaType": "application/vnd.oci.empty.v1+json",
        "digest": digest(b"{}"), "size": 2});
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": empty,
        "layers": [empty], "annotations": {"number": number.to_string()},
        "subject": {"mediaType": MANIFEST, "digest": subject, "size": 123}})
    .to_string()
    .into_bytes()
}

#[test]
fn f154_referrers_are_listed_filtered_and_paged() {
    let registry = Registry::new();
    registry.blob("a", b"{}");
    let subject = digest(b"a manifest that nobody pushed");
    let target = format!("/v2/a/referrers/{subject}");
    let listed = |answer: &Answer| {
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(INDEX)));
        let index = answer.json();
        assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
        index["manifests"].as_array().unwrap().clone()
    };
    assert!(listed(&registry.get(&target)).is_empty());
    let mut pushed = BTreeSet::new();
    for number in 0..6 {
        let kind = ["application/x.sbom", "application/x.signature"][number % 2];
        let body = artifact(&subject, kind, number);
        let answer = registry.put("a", &digest(&body), MANIFEST, &body);
        assert_eq!((answer.status, answer.header("oci-subject")), (201, Some(subject.as_str())));
        pushed.insert(digest(&body));
    }
    let all = listed(&registry.get(&target));
    let names: BTreeSet<String> =
        all.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, pushed);
    for entry in &all {
        assert_eq!(entry["mediaType"], MANIFEST);
        assert!(entry["annotations"]["number"].is_string() && entry["size"].is_u64());
    }
    let answer = registry.get(&format!("{target}?artifactType=application/x.sbom"));
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    let sboms = listed(&answer);
    assert_eq!(sboms.len(), 3);
    assert!(sboms.iter().all(|entry| entry["artifactType"] == "application/x.sbom"));
    let gone = sboms[0]["digest"].as_str().unwrap();
    assert_eq!(registry.ask("DELETE", &format!("/v2/a/manifests/{gone}"), &[], b"").status, 202);
    assert_eq!(listed(&registry.get(&target)).len(), 5);
    assert_eq!(listed(&registry.get(&target.replace("/a/", "/b/"))).len(), 0);
    refused(&registry.get("/v2/a/referrers/x"), 400, "DIGEST_INVALID", "malformed");

    // A listing larger than a page goes on behind its Link.
    let many = digest(b"much referred to");
    let note = "x".repeat(15_000);
    let mut wanted = BTreeSet::new();
    for number in 0..80 {
        let mut value: Value =
            serde_json::from_slice(&artifact(&many, "application/x.note", number)).unwrap();
        value["annotations"]["note"] = note.as_str().into();
        let body = value.to_string().into_bytes();
        assert_eq!(registry.put("a", &digest(&body), MANIFEST, &body).status, 201);
        wanted.insert(digest(&body));
    }
    let (mut seen, mut pages) = (BTreeSet::new(), 0);
    let mut next = Some(format!("/v2/a/referrers/{many}?artifactType=application/x.note"));
    while let Some(target) = next {
        let answer = registry.get(&target);
        let entries = listed(&answer);
        seen.extend(entries.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()));
        pages += 1;
        next = next_page(&answer);
    }
    assert!(pages > 1, "one page only");
    assert_eq!(seen, wanted);
}

fn next_page(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let target = link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
    Some(target.unwrap_or_else(|| panic!("a link of another form: {link}")).to_owned())
}

#[test]
fn f155_tags_are_listed_in_lexical_pages() {
    let registry = Registry::new();
    let image = Image::new(50, &[10]);
    for blob in image.blobs() {
        registry.blob("a", blob);
    }
    let query: Vec<String> = (0..30).map(|n| format!("tag=t{n}")).collect();
    let reference = format!("{}?{}&tag=Z", image.digest(), query.join("&"));
    assert_eq!(registry.put("a", &reference, MANIFEST, &image.manifest).status, 201);
    let tags = |answer: &Answer| -> Vec<String> {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["name"], "a");
        serde_json::from_value(answer.json()["tags"].clone()).unwrap()
    };
    let answer = registry.get("/v2/a/tags/list");
    let all = tags(&answer);
    assert!(all.len() == 31 && all.is_sorted() && answer.header("link").is_none(), "{all:?}");
    let mut paged = Vec::new();
    let mut next = Some("/v2/a/tags/list?n=7".to_owned());
    while let Some(target) = next {
        let answer = registry.get(&target);
        assert!(tags(&answer).len() <= 7);
        paged.extend(tags(&answer));
        next = next_page(&answer);
    }
    assert_eq!(paged, all);
    let none = registry.get("/v2/a/tags/list?n=0");
    assert!(tags(&none).is_empty() && none.header("link").is_none());
    assert_eq!(tags(&registry.get("/v2/a/tags/list?last=t8")), ["t9"]);
    assert_eq!(tags(&registry.get("/v2/a/tags/list?n=1&last=t3")), ["t4"]);
    assert!(tags(&registry.get("/v2/a/tags/list?last=zzz")).is_empty());
    let answer = registry.get("/v2/a/tags/list?n=-1");
    refused(&answer, 400, "UNSUPPORTED", "malformed");
    refused(&registry.get("/v2/b/tags/list"), 404, "NAME_UNKNOWN", "not_found");
}

#[test]
fn f156_the_catalog_shows_what_the_token_may_see() {
    let registry = Registry::new();
    let login = registry.node.login.as_str();
    let image = Image::new(51, &[10]);
    for name in ["a", "b", "team/app"] {
        registry.push(&image, name, "v1");
    }
    let names = |answer: &Answer| -> Vec<String> {
        assert_eq!(answer.status, 200);
        serde_json::from_value(answer.json()["repositories"].clone()).unwrap()
    };
    assert_eq!(names(&registry.get("/v2/_catalog")), ["a", "b", "team/app"]);
    let first = registry.get("/v2/_catalog?n=2");
    assert_eq!(names(&first), ["a", "b"]);
    let second = registry.get(&next_page(&first).unwrap());
    assert_eq!(names(&second), ["team/app"]);
    assert!(second.header("link").is_none());
    // What holds nothing, not yet or not any more, is not listed.
    assert_eq!(registry.ask("DELETE", "/v2/b/manifests/v1", &[], b"").status, 202);
    assert_eq!(names(&registry.get("/v2/_catalog")), ["a", "b", "team/app"]);
    let gone = format!("/v2/b/manifests/{}", digest(&image.manifest));
    assert_eq!(registry.ask("DELETE", &gone, &[], b"").status, 202);
    assert_eq!(names(&registry.get("/v2/_catalog")), ["a", "team/app"]);
    let (user, password) =
        registry.node.token("team-token", &[("team/*", &["content/read", "metadata/read"])]);
    let narrow = token(login, &user, &password, &["registry:catalog:*"]).unwrap();
    let seen = bearer(login, &narrow, "GET", "/v2/_catalog", &[], b"");
    assert_eq!(names(&seen), ["team/app"]);
    let other = token(login, &user, &password, &["repository:team/app:pull"]).unwrap();
    let answer = bearer(login, &other, "GET", "/v2/_catalog", &[], b"");
    refused(&answer, 401, "DENIED", "not_in_scope_map");
}

#[test]
fn f157_tags_and_manifests_are_deleted() {
    let registry = Registry::new();
    let image = Image::new(52, &[10]);
    for tag in ["v1", "v2", "v3"] {
        registry.push(&image, "a", tag);
    }
    let delete =
        |reference: &str| registry.ask("DELETE", &format!("/v2/a/manifests/{reference}"), &[], b"");
    assert_eq!(delete("v1").status, 202);
    refused(&delete("v1"), 404, "MANIFEST_UNKNOWN", "not_found");
    let by_digest = format!("/v2/a/manifests/{}", image.digest());
    assert_eq!(registry.get(&by_digest).status, 200, "a tag leaves its manifest");
    assert_eq!(delete(&image.digest()).status, 202);
    for reference in ["v2", "v3", &image.digest()] {
        let answer = registry.get(&format!("/v2/a/manifests/{reference}"));
        refused(&answer, 404, "MANIFEST_UNKNOWN", "not_found");
    }
    assert_eq!(registry.get("/v2/a/tags/list").json()["tags"], json!([]));
    refused(&delete("sha256:00"), 400, "DIGEST_INVALID", "malformed");
}

#[test]
fn f158_blobs_are_deleted_and_mounted() {
    let registry = Registry::new();
    let login = registry.node.login.as_str();
    let content = noise(60, 1000);
    let name = registry.blob("a", &content);
    let mount = |token: &str, query: &str| {
        let target = format!("/v2/b/blobs/uploads/?mount={name}{query}");
        bearer(login, token, "POST", &target, &[], b"")
    };
    let into_b = format!("/v2/b/blobs/{name}");
    // From a repository that the sender may not read, or does not name: send it yourself.
    let (user, password) =
        registry.node.token("b-only-token", &[("b", &["content/read", "content/write"])]);
    let scopes = ["repository:b:pull,push", "repository:a:pull"];
    let stranger = token(login, &user, &password, &scopes).unwrap();
    for answer in [
        mount(&stranger, "&from=a"),
        mount(&registry.token, ""),
        mount(&registry.token, "&from=team/app"),
        mount(&registry.token, "&from=UPPER"),
    ] {
        assert_eq!(answer.status, 202);
        assert!(answer.header("location").unwrap().starts_with("/v2/b/blobs/uploads/"));
        assert_eq!(registry.get(&into_b).status, 404);
    }
    // A token that was issued for the one repository alone, of an account that may read the other:
    // the challenge names both, and with a token for both it goes through.
    let (user, password) = registry.node.token(
        "both-token",
        &[("a", &["content/read"]), ("b", &["content/read", "content/write"])],
    );
    let narrow = token(login, &user, &password, &["repository:b:pull,push"]).unwrap();
    let answer = mount(&narrow, "&from=a");
    refused(&answer, 401, "DENIED", "not_in_scope_map");
    let challenge = answer.header("www-authenticate").unwrap();
    let scopes = "repository:b:pull,push repository:a:pull";
    assert!(challenge.contains(&format!("scope=\"{scopes}\"")), "{challenge}");
    // Before any login, too: a client that logs in once must not need a second time.
    let target = format!("/v2/b/blobs/uploads/?mount={name}&from=a");
    let unknown = send(login, "POST", &target, &[], b"").unwrap();
    assert!(unknown.header("www-authenticate").unwrap().contains(scopes));
    let both: Vec<&str> = scopes.split(' ').collect();
    let wide = token(login, &user, &password, &both).unwrap();
    let answer = mount(&wide, "&from=a");
    assert_eq!((answer.status, answer.header("location")), (201, Some(into_b.as_str())));
    assert!(registry.get(&into_b).body == content);
    // Into a repository that the sender may not write: refused outright.
    let (user, password) = registry.node.token("a-only-token", &[("a", &["content/read"])]);
    let reader = token(login, &user, &password, &["repository:a:pull"]).unwrap();
    let denied = mount(&reader, "&from=a");
    refused(&denied, 401, "DENIED", "not_in_scope_map");
    let message = denied.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("it takes repository:b:pull,push"), "{message}");

    let in_a = format!("/v2/a/blobs/{name}");
    assert_eq!(registry.ask("DELETE", &in_a, &[], b"").status, 202);
    for method in ["GET", "DELETE"] {
        refused(&registry.ask(method, &in_a, &[], b""), 404, "BLOB_UNKNOWN", "not_found");
    }
    assert_eq!(registry.get(&into_b).status, 200, "the other repository keeps it");
    let bad = registry.ask("DELETE", "/v2/a/blobs/sha256:00", &[], b"");
    refused(&bad, 400, "DIGEST_INVALID", "malformed");
}

#[test]
fn f159_one_upload_too_many_is_told_when_to_come_back() {
    let registry = Registry::on(Node::root_with("[limits]\nuploads = 3\n"));
    for _ in 0..3 {
        registry.start("a");
    }
    let answer = registry.ask("POST", "/v2/a/blobs/uploads/", &[], b"");
    refused(&answer, 429, "TOOMANYREQUESTS", "throttled");
    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
}

#[test]
fn f160_names_and_tags_are_held_to_their_forms() {
    let registry = Registry::new();
    let image = Image::new(70, &[10]);
    for name in ["UPPER", "a//b", "-a", "a-", "a..b", "a___b", "a/-b", "%C3%A9", "a%20b"] {
        let target = format!("/v2/{name}/tags/list");
        refused(&registry.get(&target), 404, "NAME_INVALID", "malformed");
        let target = format!("/v2/{name}/blobs/uploads/");
        let answer = registry.ask("POST", &target, &[], b"");
        refused(&answer, 404, "NAME_INVALID", "malformed");
    }
    let longest = "a".repeat(255);
    let answer = registry.get(&format!("/v2/{longest}/tags/list"));
    assert_eq!(answer.status, 401, "a good name, which this token does not open");
    let answer = registry.get(&format!("/v2/{longest}a/tags/list"));
    refused(&answer, 404, "NAME_INVALID", "malformed");
    for blob in image.blobs() {
        registry.blob("a", blob);
    }
    for tag in ["t".repeat(128), "_x".to_owned(), "V1.0-rc_1".to_owned()] {
        assert_eq!(registry.put("a", &tag, MANIFEST, &image.manifest).status, 201, "{tag}");
    }
    for tag in ["t".repeat(129), "-x".to_owned(), ".x".to_owned(), "a%2Bb".to_owned()] {
        let answer = registry.put("a", &tag, MANIFEST, &image.manifest);
        refused(&answer, 400, "NAME_INVALID", "malformed");
        let answer = registry.get(&format!("/v2/a/manifests/{tag}"));
        refused(&answer, 404, "MANIFEST_UNKNOWN", "malformed");
    }
}

#[test]
fn f160_paths_may_be_percent_encoded_once() {
    let registry = Registry::new();
    let image = Image::new(71, &[10]);
    registry.push(&image, "team/app", "v1");
    let blob = digest(&image.layers[0]);
    for target in [
        format!("/v2/team%2Fapp/blobs/{}", blob.replace(':', "%3A")),
        format!("/v2/team/%61pp/blobs/{}", blob.replace(':', "%3a")),
        "/v2/team/app/manifests/v%31".to_owned(),
        format!("/v2/team/app/manifests/{}", image.digest().replace(':', "%3A")),
        format!("http://any.example/v2/team/app/blobs/{blob}"),
    ] {
        let answer = registry.get(&target);
        // An absolute target names another host, for which the token was not issued.
        let status = if target.starts_with("http") { 401 } else { 200 };
        assert_eq!(answer.status, status, "{target}");
    }
    for target in [
        format!("/v2/team%252Fapp/blobs/{blob}"),
        format!("/v2/team/../team/app/blobs/{blob}"),
        format!("/v2/team/x/%2e%2e/app/blobs/{blob}"),
        format!("/v2//team/app/blobs/{blob}"),
    ] {
        assert!([400, 404].contains(&registry.get(&target).status), "{target}");
    }
}

/// The words in README.md.
fn documented() -> BTreeSet<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.unwrap();
    let section = readme.split("### Why a request was refused").nth(1).unwrap();
    let words = section.split("\n#").next().unwrap().lines();
    words.filter_map(|l| l.strip_prefix("| `")?.split_once('`')).map(|(w, _)| w.into()).collect()
}

#[test]
fn f159_f176_every_refusal_has_a_code_of_the_table_and_a_documented_reason() {
    let registry = Registry::new();
    let login = registry.node.login.as_str();
    registry.push(&Image::new(80, &[10]), "a", "v1");
    let reasons = documented();
    let upload = registry.start("a");
    let none = digest(b"none");
    let wrong = "application/x-www-form-urlencoded";
    let mut seen = BTreeSet::new();
    let mut check = |answer: &Answer, what: &str| {
        assert!(answer.status >= 400, "{what}: {}", answer.status);
        assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
        let (code, reason) = answer.error();
        assert!(CODES.contains(&code.as_str()), "{what}: {code}");
        assert!(reasons.contains(&reason), "{what}: {reason}");
        assert!(answer.json()["errors"][0]["message"].as_str().unwrap().len() > 5, "{what}");
        seen.insert(reason);
    };
    for (method, target, headers, body) in [
        ("GET", "/v2/none/tags/list", &[][..], &b""[..]),
        ("GET", "/v2/a/manifests/none", &[], b""),
        ("GET", &format!("/v2/a/blobs/{none}"), &[], b""),
        ("GET", "/v2/a/blobs/sha256:x", &[], b""),
        ("GET", "/v2/a/nothing", &[], b""),
        ("GET", "/v2/A/tags/list", &[], b""),
        ("GET", "/v2/a/tags/list?n=x", &[], b""),
        ("POST", "/v2/", &[], b""),
        ("PUT", "/v2/a/tags/list", &[], b""),
        ("PATCH", "/v2/a/blobs/uploads/x", &[], b""),
        ("PATCH", &upload, &[("content-range", "7-8")], b"ab"),
        ("PATCH", &upload, &[("content-range", "x")], b"ab"),
        ("PUT", &upload, &[], b"ab"),
        ("PUT", &format!("{upload}?digest={none}"), &[], b"ab"),
        ("PUT", "/v2/a/manifests/v1", &[("content-type", MANIFEST)], b"{"),
        ("PUT", "/v2/a/manifests/v1", &[("content-type", "x")], b"{}"),
        ("PUT", "/v2/a/manifests/v1", &[("content-type", INDEX), ("if-match", "x")], b"{}"),
        ("GET", "/oauth2/token", &[], b""),
        ("POST", "/oauth2/token", &[("content-type", wrong)], b"grant_type=magic"),
        ("POST", "/oauth2/token", &[("content-type", wrong)], b"%zz"),
        ("PUT", "/oauth2/token", &[], b""),
        ("GET", "/oauth2/none", &[], b""),
        ("GET", "/none", &[], b""),
        ("FLY", "/v2/", &[], b""),
        ("GET", "/v2/%zz", &[], b""),
        ("GET", "/v2/../x", &[], b""),
        ("GET", "/v2/", &[("expect", "magic")], b""),
    ] {
        let answer = bearer(login, &registry.token, method, target, headers, body);
        check(&answer, &format!("{method} {target}"));
        let stranger = send(login, method, target, headers, body).unwrap();
        check(&stranger, &format!("stranger: {method} {target}"));
    }
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    let changed = [("content-type", INDEX), ("if-none-match", "*")];
    let answer = registry.ask("PUT", "/v2/a/manifests/v1", &changed, index);
    refused(&answer, 412, "DENIED", "precondition_failed");
    check(&answer, "precondition");
    let answer = bearer(login, "damaged", "GET", "/v2/", &[], b"");
    refused(&answer, 401, "UNAUTHORIZED", "token_invalid");
    let head = format!("GET /v2/ HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    let text = String::from_utf8(raw(login, head.as_bytes()).unwrap()).unwrap();
    assert!(text.starts_with("HTTP/1.1 431 ") && text.contains("\"too_large\""), "{text}");
    for reason in ["not_found", "malformed", "out_of_order", "digest_mismatch", "unsupported"] {
        assert!(seen.contains(reason), "{reason} was not met: {seen:?}");
    }
}

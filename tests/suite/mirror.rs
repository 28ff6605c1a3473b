//! A node as others see it: by which name it is reached, what it answers on behalf of another
//! registry, and what a device serves while its parent is silent.

use serde_json::json;

use crate::support::eventually;
use crate::support::http::{basic, bearer, raw, send, token};
use crate::support::image::{self, INDEX, Image, MANIFEST, digest, push_blob};
use crate::support::node::Node;
use crate::sync::{SOON, pair, pull};

fn challenge(address: &str, host: &str) -> String {
    let head = format!("GET /v2/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let answer = String::from_utf8(raw(address, head.as_bytes()).unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let line = answer.lines().find_map(|line| line.strip_prefix("www-authenticate: "));
    line.unwrap_or_else(|| panic!("no challenge: {answer}")).to_owned()
}

#[test]
fn f007_clients_log_in_at_a_bare_address_of_a_device() {
    let (_root, device, (user, password)) = pair("ReadOnly");
    let (host, port) = device.login.split_once(':').unwrap();
    assert!(host.parse::<std::net::IpAddr>().is_ok() && port != "80");
    let realm = challenge(&device.login, &device.login);
    assert!(realm.contains(&format!("realm=\"http://{}/oauth2/token\"", device.login)));
    let bearer_token = token(&device.login, &user, &password, &[]).unwrap();
    assert_eq!(bearer(&device.login, &bearer_token, "GET", "/v2/", &[], b"").status, 200);
    // As behind port 80, and as an IPv6 address is written.
    for bare in ["192.0.2.7", "[2001:db8::7]", "[2001:db8::7]:5000"] {
        let realm = challenge(&device.login, bare);
        let wanted = format!("realm=\"http://{bare}/oauth2/token\",service=\"{bare}\"");
        assert!(realm.contains(&wanted), "{realm}");
    }
}

#[test]
fn f008_any_host_is_taken_unless_the_login_server_is_set() {
    let free = Node::root();
    for host in ["reg.example", "reg.example:8443", "127.0.0.1:1"] {
        let wanted = format!("realm=\"http://{host}/oauth2/token\",service=\"{host}\"");
        assert!(challenge(&free.login, host).contains(&wanted));
    }
    let mut fixed = Node::device("x");
    fixed.make_root();
    fixed.know_as("login_server = \"reg.example:8443\"");
    fixed.start();
    let wanted = "realm=\"http://reg.example:8443/oauth2/token\",service=\"reg.example:8443\"";
    for host in ["reg.example:8443", "other.example", "127.0.0.1:1"] {
        assert!(challenge(&fixed.login, host).contains(wanted));
    }
    let (user, password) = fixed.pusher("owner-token", "a");
    let target = "/oauth2/token?service=reg.example:8443&scope=repository:a:pull,push";
    let headers = [("authorization", &*basic(&user, &password))];
    let answer = send(&fixed.login, "GET", target, &headers, b"").unwrap();
    assert_eq!(answer.status, 200);
    let issued = answer.json()["access_token"].as_str().unwrap().to_owned();
    let answer = bearer(&fixed.login, &issued, "POST", "/v2/a/blobs/uploads/", &[], b"");
    assert_eq!(answer.status, 202);
}

#[test]
fn f122_f123_artifacts_indexes_and_empty_blobs_reach_a_device() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let owner = token(&root.login, &user.0, &user.1, &["repository:app:pull,push"]).unwrap();
    let put = |reference: &str, media_type: &str, body: &[u8]| {
        let target = format!("/v2/app/manifests/{reference}");
        let headers = [("content-type", media_type)];
        let answer = bearer(&root.login, &owner, "PUT", &target, &headers, body);
        assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    };
    let (one, two) = (Image::new(1, &[5000]), Image::new(2, &[6000]));
    for blob in one.blobs().chain(two.blobs()) {
        assert_eq!(push_blob(&root.login, &owner, "app", blob).status, 201);
    }
    for blob in [&b"{}"[..], b"", b"a document"] {
        assert_eq!(push_blob(&root.login, &owner, "app", blob).status, 201);
    }
    put(&one.digest(), MANIFEST, &one.manifest);
    put(&two.digest(), MANIFEST, &two.manifest);
    let child = |image: &Image, arch: &str| {
        json!({"mediaType": MANIFEST, "digest": image.digest(), "size": image.manifest.len(),
            "platform": {"os": "linux", "architecture": arch}})
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [child(&one, "amd64"), child(&two, "arm64")]})
    .to_string();
    put("multi", INDEX, index.as_bytes());
    let descriptor = |media_type: &str, content: &[u8]| {
        let size = content.len();
        json!({"mediaType": media_type, "digest": digest(content), "size": size})
    };
    // Not an image: another configuration, an empty layer, and a subject.
    let artifact = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "artifactType": "application/x.document",
        "config": descriptor("application/x.config", b"{}"),
        "layers": [descriptor("application/x.empty", b""),
            descriptor("text/plain", b"a document")],
        "subject": {"mediaType": INDEX, "digest": digest(index.as_bytes()), "size": index.len()}})
    .to_string();
    put("doc", MANIFEST, artifact.as_bytes());
    let connection = root.connect("dock01", &["--repository", "app", "--mode", "ReadOnly"]);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    for (tag, content) in [("multi", &index), ("doc", &artifact)] {
        let what = format!("{tag} at the device");
        let found = eventually(SOON, &what, || pull(&device, &user, "app", tag).ok());
        assert_eq!(found, digest(content.as_bytes()));
    }
    let reader = token(&device.login, &user.0, &user.1, &["repository:app:pull"]).unwrap();
    let target = format!("/v2/app/referrers/{}", digest(index.as_bytes()));
    let answer = bearer(&device.login, &reader, "GET", &target, &[], b"");
    let listed = answer.json();
    assert_eq!(listed["manifests"][0]["digest"], digest(artifact.as_bytes()));
    assert_eq!(listed["manifests"][0]["artifactType"], "application/x.document");
    let target = format!("/v2/app/blobs/{}", digest(b""));
    let answer = bearer(&device.login, &reader, "GET", &target, &[], b"");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")));
}

#[test]
fn f167_what_is_local_is_served_while_the_parent_is_silent() {
    let (root, device, user) = pair("ReadOnly");
    // A black hole: the connection stands, and nothing ever comes.
    root.freeze();
    let bearer_token = token(&device.login, &user.0, &user.1, &["repository:app:pull"]).unwrap();
    let before = device.metric("skerry_sync_requests_total");
    let by_tag = image::pull_with(&device.login, &bearer_token, "app", "v1").unwrap();
    for _ in 0..50 {
        for reference in ["v1", &by_tag] {
            let found = image::pull_with(&device.login, &bearer_token, "app", reference);
            assert_eq!(found.unwrap(), by_tag);
        }
    }
    let after = device.metric("skerry_sync_requests_total");
    assert!(after - before <= 2, "200 pulls asked the parent {} times", after - before);
    let answer = bearer(&device.login, &bearer_token, "GET", "/v2/app/manifests/no", &[], b"");
    assert_eq!((answer.status, answer.error().1.as_str()), (404, "not_found"));
    root.thaw();
}

#[test]
fn f168_a_mirror_answers_for_the_registries_it_is_told_of() {
    let mut node = Node::device("x");
    node.make_root();
    node.know_as("namespaces = [\"docker.io=mirror/hub\", \"quay.io\"]");
    node.start();
    let (user, password) = node.pusher("owner-token", "*");
    let image = Image::new(5, &[3000]);
    for repository in ["mirror/hub/library/alpine", "coreos/etcd"] {
        let pushed = image.push(&node.login, (&user, &password), repository, "v1");
        assert_eq!(pushed.status, 201);
    }
    let scopes = ["repository:mirror/hub/library/alpine:pull", "repository:coreos/etcd:pull"];
    let reader = token(&node.login, &user, &password, &scopes).unwrap();
    let get = |target: &str| bearer(&node.login, &reader, "GET", target, &[], b"");
    let blob = digest(&image.layers[0]);
    for (repository, ns) in [
        ("library/alpine", "docker.io"),
        ("library/alpine", "Docker.IO"),
        ("coreos/etcd", "quay.io"),
    ] {
        let answer = get(&format!("/v2/{repository}/manifests/v1?ns={ns}"));
        assert_eq!((answer.status, answer.body.as_slice()), (200, image.manifest.as_slice()));
        assert_eq!(answer.header("oci-namespace"), Some(ns));
        let answer = get(&format!("/v2/{repository}/blobs/{blob}?ns={ns}"));
        assert_eq!((answer.status, answer.header("oci-namespace")), (200, Some(ns)));
    }
    for (target, code) in [
        ("/v2/library/alpine/manifests/v1?ns=gcr.io", "NAME_UNKNOWN"),
        ("/v2/coreos/etcd/manifests/none?ns=quay.io", "MANIFEST_UNKNOWN"),
    ] {
        let answer = get(target);
        assert_eq!((answer.status, answer.error().0.as_str()), (404, code));
    }
    // What a client must ask a token for is the repository that it will get.
    let target = "/v2/library/alpine/manifests/v1?ns=docker.io";
    let answer = send(&node.login, "GET", target, &[], b"").unwrap();
    let wanted = "scope=\"repository:mirror/hub/library/alpine:pull\"";
    assert!(answer.header("www-authenticate").unwrap().contains(wanted));
    // Without a mapping names stay as they are.
    let free = Node::root();
    let (user, password) = free.pusher("owner-token", "*");
    assert_eq!(image.push(&free.login, (&user, &password), "a", "v1").status, 201);
    let reader = token(&free.login, &user, &password, &["repository:a:pull"]).unwrap();
    let answer = bearer(&free.login, &reader, "GET", "/v2/a/manifests/v1?ns=any", &[], b"");
    assert_eq!((answer.status, answer.header("oci-namespace")), (200, Some("any")));
    let mut bad = Node::device("x");
    bad.make_root();
    bad.know_as("namespaces = [\"docker.io=UPPER\"]");
    let output = bad.run_to_end();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("registry.namespaces"));
}

#[test]
fn f217_ns_follows_the_conventions_of_clients() {
    let mut node = Node::device("x");
    node.make_root();
    node.know_as("namespaces = [\"docker.io=hub\", \"quay.io:443=q\"]");
    node.know_as("login_server = \"reg.example:443\"");
    node.start();
    let (user, password) = node.pusher("owner-token", "*");
    let authorization = basic(&user, &password);
    let target = "/oauth2/token?service=reg.example:443\
                  &scope=repository:hub/app:pull,push&scope=repository:q/app:pull,push\
                  &scope=repository:app:pull,push&scope=repository:q/hub/app:pull";
    let headers = [("authorization", authorization.as_str())];
    let answer = send(&node.login, "GET", target, &headers, b"").unwrap();
    let owner = answer.json()["access_token"].as_str().unwrap().to_owned();
    let images = [("hub/app", 1, 100), ("q/app", 2, 200), ("app", 3, 300)].map(
        |(repository, seed, size)| {
            let image = Image::new(seed, &[size]);
            assert_eq!(image.push_with(&node.login, &owner, repository, "v1").status, 201);
            (repository, image)
        },
    );
    let get = |name: &str, ns: &str| {
        let target = format!("/v2/{name}/manifests/v1?ns={ns}");
        bearer(&node.login, &owner, "GET", &target, &[], b"")
    };
    let own = node.login.as_str();
    for (name, ns, repository) in [
        // This registry by its names.
        ("app", "", "app"),
        ("app", own, "app"),
        ("app", "reg.example", "app"),
        ("app", "REG.example:443", "app"),
        ("app", "reg.example:80", "app"),
        // Default ports and the aliases of Docker Hub.
        ("app", "docker.io:443", "hub/app"),
        ("app", "index.docker.io", "hub/app"),
        ("app", "Registry-1.Docker.io:443", "hub/app"),
        ("app", "quay.io", "q/app"),
        ("app", "quay.io:80", "q/app"),
        // `override_path`: the client has put the prefix in place itself.
        ("hub/app", "docker.io", "hub/app"),
        ("q/app", "quay.io", "q/app"),
    ] {
        let answer = get(name, ns);
        let (_, image) = images.iter().find(|(known, _)| *known == repository).unwrap();
        assert_eq!(answer.status, 200, "{name} ns={ns}");
        assert_eq!(answer.body, image.manifest, "{name} ns={ns}");
        assert_eq!(answer.header("oci-namespace"), (!ns.is_empty()).then_some(ns));
    }
    for (name, ns) in [
        ("app", "gcr.io"),
        ("app", "reg.example:8443"),
        ("app", "quay.io:5000"),
        ("app", "notdocker.io"),
        // Another registry's prefix is a name like any other.
        ("hub/app", "quay.io"),
    ] {
        assert_eq!(get(name, ns).status, 404, "{name} ns={ns}");
    }
}

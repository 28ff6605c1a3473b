//! Bad input gets one clear line that names the cause and the cure.

use std::time::Duration;

use crate::support::eventually;
use crate::support::http::{bearer, raw, send, token};
use crate::support::image::{Image, MANIFEST, digest, push_blob};
use crate::support::node::Node;

fn last_line(node: &Node) -> (i32, String) {
    let output = node.run_to_end();
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let line = text.lines().last().unwrap_or_default().to_owned();
    (output.status.code().unwrap_or(-1), line)
}

#[test]
fn f166_a_broken_connection_string_names_its_key() {
    let good = "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword=secret-word;\
                ParentGatewayEndpoint=127.0.0.1:1;ParentEndpointProtocol=http";
    for (broken, names) in [
        (good.replace("SyncTokenName=dock01;", ""), "SyncTokenName"),
        (good.replace("=http", "=gopher"), "ParentEndpointProtocol"),
        ("nonsense".to_owned(), "connection"),
    ] {
        let (code, line) = last_line(&Node::device(&broken));
        assert_eq!(code, 78, "{line}");
        assert!(line.contains(names), "{line}");
        assert!(!line.contains("secret-word"), "{line}");
    }
}

#[test]
fn f034_a_wrong_sync_password_waits_and_says_so() {
    let root = Node::root();
    let connection = root.connect("dock01", &["--repository", "a"]);
    let from = connection.find("SyncTokenPassword=").unwrap() + 18;
    let to = from + connection[from..].find(';').unwrap();
    let wrong = format!("{}wrong{}", &connection[..from], &connection[to..]);
    let mut device = Node::device(&wrong);
    device.spawn();
    let status = eventually(Duration::from_secs(20), "it says what it waits for", || {
        let output = device.run(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["state"] == "Unauthorized").then_some(status)
    });
    assert!(status["parentSays"].as_str().unwrap().contains("Incorrect Password"), "{status}");
    assert!(status["remedy"].as_str().unwrap().contains("--generate-password"), "{status}");
    assert!(device.log().contains("Incorrect Password"), "{}", device.log());
    assert!(!device.log().contains("wrong;"), "no password in the log");
    let answers = ["/healthz", "/readyz", "/v2/", "/oauth2/token"]
        .map(|path| send(&device.login, "GET", path, &[], b"").unwrap().status);
    assert_eq!(answers, [200, 503, 503, 503], "nothing is served as activated");
    device.stop();
    device.provision(&connection);
    device.start();
    assert_eq!(device.json(&["status"])["state"], "Active");
}

#[test]
fn f034_a_disabled_sync_token_is_waited_for() {
    let root = Node::root();
    let connection = root.connect("dock01", &["--repository", "a"]);
    root.json(&["token", "update", "--name", "dock01", "--status", "disabled"]);
    let mut device = Node::device(&connection);
    device.spawn();
    let limit = Duration::from_secs(60);
    let state = || {
        let output = device.run(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        status["state"].as_str().map(str::to_owned)
    };
    eventually(limit, "it says so", || (state()? == "Unauthorized").then_some(()));
    root.json(&["token", "update", "--name", "dock01", "--status", "enabled"]);
    eventually(limit, "it goes on without a restart", || (state()? == "Active").then_some(()));
}

#[test]
fn an_unreachable_parent_is_named_and_tried_again() {
    let connection = "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword=x;\
                      ParentGatewayEndpoint=127.0.0.1:1;ParentEndpointProtocol=http";
    let mut device = Node::device(connection);
    device.spawn();
    eventually(Duration::from_secs(20), "it says what it cannot reach", || {
        let log = device.log();
        (log.contains("127.0.0.1:1") && log.contains("ParentGatewayEndpoint")).then_some(())
    });
    let answer = eventually(Duration::from_secs(10), "it answers", || {
        send(&device.login, "GET", "/v2/a/manifests/v1", &[], b"").ok()
    });
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn an_occupied_port_names_the_address_and_the_cure() {
    let root = Node::root();
    let mut second = Node::device("x");
    second.login.clone_from(&root.login);
    second.make_root();
    let (code, line) = last_line(&second);
    assert_ne!(code, 0);
    assert!(line.contains(&root.login) && line.contains("under [listen]"), "{line}");
}

#[test]
fn an_unusable_state_directory_is_named() {
    let mut node = Node::device("x");
    node.make_root();
    std::fs::write(node.state(), b"a file in its place").unwrap();
    let (code, line) = last_line(&node);
    assert_ne!(code, 0);
    assert!(line.contains(&node.state().display().to_string()), "{line}");
    assert!(line.contains("remove the file"), "{line}");
}

#[test]
fn a_configuration_typo_names_file_line_and_nearest_key() {
    let mut node = Node::device("x");
    node.make_root();
    node.add_configuration("[token]\naccess_lifetime = \"1h\"\n");
    let (code, line) = last_line(&node);
    assert_eq!(code, 78);
    assert!(line.contains("skerry.toml") && line.contains("tokens"), "{line}");
}

#[test]
fn malformed_content_is_refused_and_not_stored() {
    let root = Node::root();
    let (user, password) = root.pusher("owner-token", "app");
    let login = root.login.as_str();
    let token_for = |scope: &str| token(login, &user, &password, &[scope]).unwrap();
    let owner = token_for("repository:app:pull,push");
    let put = |reference: &str, content_type: &str, body: &[u8]| {
        let target = format!("/v2/app/manifests/{reference}");
        bearer(login, &owner, "PUT", &target, &[("content-type", content_type)], body)
    };
    let image = Image::new(1, &[100]);
    let missing = put("v1", MANIFEST, &image.manifest);
    assert_eq!((missing.status, missing.error().0.as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    for bad in [&b"not json"[..], b"[]", b"{\"schemaVersion\":1}"] {
        let answer = put("v1", MANIFEST, bad);
        assert_eq!((answer.status, answer.error().0.as_str()), (400, "MANIFEST_INVALID"));
    }
    for blob in image.blobs() {
        assert_eq!(push_blob(login, &owner, "app", blob).status, 201);
    }
    let wrong = put(&digest(b"something else"), MANIFEST, &image.manifest);
    assert_eq!((wrong.status, wrong.error().0.as_str()), (400, "DIGEST_INVALID"));
    let target = format!("/v2/app/blobs/uploads/?digest={}", digest(b"something else"));
    let answer = bearer(login, &owner, "POST", &target, &[], b"something");
    assert_eq!((answer.status, answer.error().0.as_str()), (400, "DIGEST_INVALID"));
    let unknown = bearer(login, &owner, "GET", "/v2/app/manifests/none", &[], b"");
    assert_eq!((unknown.status, unknown.error().0.as_str()), (404, "MANIFEST_UNKNOWN"));
    assert_eq!(put("v1", MANIFEST, &image.manifest).status, 201);
}

#[test]
fn every_bad_head_gets_an_answer() {
    let root = Node::root();
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    for (request, status) in [
        ("GET /v2/ HTTP/1.1\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nhost: a/b?c\r\n\r\n", 400),
        ("GET /v2/ HTTP/1.1\r\nhost: a\r\nuser-agent: \u{fc}\r\n\r\n", 400),
        ("GET /v2/../x HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET /v2/%2e%2e/x HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("GET /v2/%zz HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc", 400),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
        ("FLY / HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nhost: a\r\nexpect: magic\r\n\r\n", 417),
        ("nonsense\r\n\r\n", 400),
        (long.as_str(), 431),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
    ] {
        let answer = raw(&root.login, request.as_bytes()).unwrap();
        let head = String::from_utf8_lossy(&answer).into_owned();
        let wanted = format!("HTTP/1.1 {status} ");
        assert!(head.starts_with(&wanted), "{request:?}: {head}");
    }
    let two = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n\
               GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answers = raw(&root.login, two.as_bytes()).unwrap();
    let count = String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK").count();
    assert_eq!(count, 2, "pipelined requests are both answered");
}

//! Bad input gets one clear line that names the cause and the cure.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::support::authority::Authority;
use crate::support::eventually;
use crate::support::http::{bearer, raw, send, token};
use crate::support::image::{Image, MANIFEST, digest, push_blob};
use crate::support::node::{Node, binary, free_port, sync_token};

const SOON: Duration = Duration::from_secs(20);

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
    for key in ["parentSays", "reason"] {
        assert!(!status[key].as_str().unwrap().contains(['{', '"']), "no JSON in {key}: {status}");
    }
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

/// What the layer tells to type, but for the reboot.
#[test]
fn f031_f034_after_the_factory_reset_of_the_layer_a_device_waits_for_the_operator() {
    let root = Node::root();
    let connection = root.connect("dock01", &["--repository", "a"]);
    let mut device = Node::start_device(&connection);
    assert!(device.stop().success());
    let layer = include_str!("../../yocto-layer/README.md");
    let lines = layer.lines().skip_while(|line| !line.starts_with("For a factory reset"));
    let lines = lines.skip_while(|line| !line.starts_with("    "));
    let script: Vec<&str> = lines.take_while(|line| line.starts_with("    ")).collect();
    let script = script.join("\n").replace(" && reboot", "");
    assert!(script.contains("rm -rf /data/skerry-old") && script.contains("mv -T"), "{script}");
    let script = script.replace("/data/skerry", &device.state().display().to_string());
    assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success());
    assert!(!device.state().exists());
    device.spawn();
    let state = |device: &Node, wanted: &str| {
        let output = device.run(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["state"] == wanted).then_some(())
    };
    let limit = Duration::from_secs(60);
    eventually(limit, "it waits", || state(&device, "AlreadyActivated"));
    root.json(&["connected-registry", "deactivate", "--name", "dock01", "--yes"]);
    eventually(limit, "it is activated without a restart", || state(&device, "Active"));
}

#[test]
fn f034_a_disabled_sync_token_is_waited_for() {
    let root = Node::root();
    let connection = root.connect("dock01", &["--repository", "a"]);
    root.json(&["token", "update", "--name", &sync_token("dock01"), "--status", "disabled"]);
    let mut device = Node::device(&connection);
    device.spawn();
    let limit = Duration::from_secs(60);
    let state = || {
        let output = device.run(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        status["state"].as_str().map(str::to_owned)
    };
    eventually(limit, "it says so", || (state()? == "Unauthorized").then_some(()));
    root.json(&["token", "update", "--name", &sync_token("dock01"), "--status", "enabled"]);
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
    // Another string counts after a restart, as those who read only this must know.
    let status = device.json(&["status"]);
    assert_eq!(status["state"], "Activating", "{status}");
    assert!(status["remedy"].as_str().unwrap().contains("restart this node"), "{status}");
}

/// Symptom: the same error every 5 s without end, and a remedy that told to bring the connection
/// string that was there.
#[test]
fn f166_an_authority_that_cannot_be_read_is_told_once_with_its_remedy() {
    let root = Node::root();
    let connection = root.connect("dock01", &["--repository", "a"]);
    let mut device = Node::device("");
    let (string, authority) = (device.connection_string_file(), device.dir.join("ca.pem"));
    device.set_configuration(&format!(
        "[parent]\nconnection_string_file = {string:?}\nca_file = {authority:?}\n"
    ));
    let check = device.run_configured(&["config", "check"]);
    let told = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success() && told.contains("parent.ca_file"), "{told}");
    device.spawn();
    eventually(SOON, "it answers", || device.run(&["status"]).status.success().then_some(()));
    std::fs::write(&string, &connection).unwrap();
    let status = eventually(SOON, "it says what is wrong", || {
        let status = device.json(&["status"]);
        status["reason"].as_str()?.contains("parent.ca_file").then_some(status)
    });
    let remedy = status["remedy"].as_str().unwrap();
    assert!(remedy.contains("`reason`") && !remedy.contains("waits for its"), "{status}");
    // More than two looks later.
    std::thread::sleep(Duration::from_secs(12));
    let log = device.log();
    assert_eq!(log.matches("cannot be used: parent.ca_file").count(), 1, "{log}");
    std::fs::copy(Authority::new().ca(), &authority).unwrap();
    eventually(SOON, "it goes on by itself", || {
        (device.json(&["status"])["state"] == "Active").then_some(())
    });
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

/// Symptom: the service went on in the directory of its unit without a word.
#[test]
fn p010_a_state_directory_that_the_service_manager_does_not_give_is_refused() {
    let mut node = Node::device("x");
    node.make_root();
    assert_eq!(check(&node).0, 0, "from a shell it is used");
    let mut serve = Command::new(binary());
    serve.arg("--config").arg(node.dir.join("skerry.toml")).arg("serve");
    let output = serve.env("STATE_DIRECTORY", "/var/lib/skerry").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    let written = node.state().display().to_string();
    for part in [written.as_str(), "/var/lib/skerry", "remove the key", "StateDirectory="] {
        assert!(text.contains(part), "{part}: {text}");
    }
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

/// What `config check` says: exit code and all of its text.
fn check(node: &Node) -> (i32, String) {
    let output = node.run_configured(&["config", "check"]);
    let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    (output.status.code().unwrap_or(-1), texts.concat())
}

fn new_root() -> Node {
    let mut node = Node::device("x");
    node.make_root();
    node
}

fn expect_refusal(node: &Node, words: &[&str]) {
    let (code, text) = check(node);
    assert_eq!(code, 78, "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn f143_config_check_passes_beside_the_running_service_and_leaves_nothing() {
    let mut root = new_root();
    let (code, text) = check(&root);
    assert_eq!((code, text.starts_with("ok: ")), (0, true), "{text}");
    assert!(!root.state().exists(), "it makes no state directory");
    root.start();
    let (code, text) = check(&root);
    assert_eq!((code, text.starts_with("ok: ")), (0, true), "{text}");
    assert!(!text.contains("warning"), "{text}");
    assert!(root.is_ready());
    let before = root.stop();
    assert!(before.success());
    assert_eq!(check(&root).0, 0);
    root.start();
}

/// What the root refuses as a sync schedule, the configuration has no garbage collection by.
#[test]
fn f141_a_schedule_that_never_comes_is_refused() {
    let mut node = new_root();
    node.add_configuration("[gc]\nschedule = \"0 0 31 2 *\"\n");
    expect_refusal(
        &node,
        &["skerry.toml", "gc.schedule", "in the next eight years", "'0 0 28 * *'"],
    );
    let (code, line) = last_line(&node);
    assert!(code == 78 && line.contains("gc.schedule"), "{line}");
    node.set_configuration("[gc]\nschedule = \"0 0 29 2 *\"\n");
    assert_eq!(check(&node).0, 0);
}

#[test]
fn f143_config_check_says_what_is_wrong_with_the_state_directory() {
    let node = new_root();
    std::fs::write(node.state(), b"a file in its place").unwrap();
    expect_refusal(&node, &[&node.state().display().to_string(), "remove the file"]);
    std::fs::remove_file(node.state()).unwrap();
    std::fs::create_dir(node.state()).unwrap();
    std::fs::write(node.state().join("restoring"), b"").unwrap();
    expect_refusal(&node, &["a restore was not finished"]);
    std::fs::remove_file(node.state().join("restoring")).unwrap();
    std::fs::write(node.state().join("format"), b"skerry store format 99\n").unwrap();
    expect_refusal(&node, &["format 99"]);
    std::fs::remove_file(node.state().join("format")).unwrap();
    assert_eq!(check(&node).0, 0);
    // The name of a socket alone is one in the directory that the program runs in.
    for (socket, code) in [("adm.sock", 0), ("none/adm.sock", 78)] {
        let set = format!("listen.admin={socket}");
        let output = node.run_configured(&["--set", &set, "config", "check"]);
        assert_eq!(output.status.code(), Some(code), "{socket}: {output:?}");
    }
    let mut astray = new_root();
    let deep = astray.dir.join("none/state");
    astray.configure_from(astray.dir.join("skerry.toml"));
    std::fs::write(astray.dir.join("skerry.toml"), "").unwrap();
    let set = format!("storage.state_dir={}", deep.display());
    let output = astray.run_configured(&["--set", &set, "config", "check"]);
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("does not exist"), "{text}");

    // The role of the store counts as well.
    let mut root = Node::root();
    root.pusher("owner-token", "app");
    root.stop();
    root.know_as("role = \"connected\"");
    expect_refusal(&root, &["skerry state adopt --role connected"]);
    // A store of an earlier version has no note of its role, and only serve sees what it is.
    std::fs::remove_file(root.state().join("identity/role")).unwrap();
    let (code, text) = check(&root);
    assert!(code == 0 && text.contains("what the store belongs to cannot be seen"), "{text}");
    assert_eq!(root.run_to_end().status.code(), Some(78));
}

#[test]
fn f143_config_check_reads_certificate_key_and_connection_string() {
    let (good, other) = (Authority::new(), Authority::new());
    let section = |mode: &str, certificate: &std::path::Path, key: &std::path::Path| {
        format!("[tls]\n{mode}certificate = {certificate:?}\nprivate_key = {key:?}\n")
    };
    let with = |section: String| {
        let mut node = new_root();
        node.add_configuration(&section);
        node
    };
    let files = "mode = \"files\"\n";
    assert_eq!(check(&with(good.section())).0, 0);
    let none = std::path::Path::new("/none.pem");
    expect_refusal(&with(section(files, none, &good.key())), &["/none.pem"]);
    expect_refusal(
        &with(section(files, &good.certificate(), &other.key())),
        &["the private key does not belong to the certificate"],
    );
    expect_refusal(&with(section(files, &good.key(), &good.key())), &["certificate"]);

    // A certificate without the mode that uses it is refused by serve, too.
    let forgotten = with(section("", &good.certificate(), &good.key()));
    expect_refusal(&forgotten, &["tls.certificate", "tls.mode = \"files\""]);
    let (code, line) = last_line(&forgotten);
    assert_eq!((code, line.contains("tls.mode")), (78, true), "{line}");
    let meant = with(section("mode = \"off\"\n", &good.certificate(), &good.key()));
    let (code, text) = check(&meant);
    assert_eq!((code, text.contains("tls.certificate has no effect")), (0, true), "{text}");

    let partial = "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword=secret-word;\
                   ParentEndpointProtocol=http";
    let device = Node::device(partial);
    expect_refusal(&device, &["ParentGatewayEndpoint"]);
    assert!(!check(&device).1.contains("secret-word"));
    let mut waiting = Node::device(partial);
    waiting.add_configuration("ca_file = \"/none.pem\"\n");
    waiting.provision(&format!("{partial};ParentGatewayEndpoint=127.0.0.1:1"));
    expect_refusal(&waiting, &["parent.ca_file", "/none.pem"]);
}

#[test]
fn f143_a_certificate_that_clients_refuse_causes_a_warning() {
    let (good, expired, early) =
        (Authority::new(), Authority::signing(2000, 2001), Authority::signing(4000, 4001));
    let refused = |node: &Node, text: &str| {
        let (code, said) = check(node);
        assert!(code == 0 && said.contains(text), "{text}: {said}");
    };
    for (authority, text) in [
        (&expired, "server.pem has expired on 2001-01-01T00:00:00Z: clients refuse it"),
        (&early, "server.pem is not valid before 4000-01-01T00:00:00Z"),
    ] {
        let mut node = new_root();
        node.add_configuration(&authority.section());
        refused(&node, text);
    }
    let mut node = new_root();
    node.know_as("login_server = \"registry.example:5000\"");
    let secure = node.with_tls(&good);
    refused(&node, "server.pem is not for registry.example (registry.login_server)");
    node.start();
    let logged = |text: &str| {
        eventually(SOON, text, || node.log().contains(text).then_some(()));
    };
    logged("server.pem is not for registry.example");
    std::fs::copy(expired.certificate(), good.certificate()).unwrap();
    std::fs::copy(expired.key(), good.key()).unwrap();
    node.hang_up();
    logged("the certificate was read again");
    logged("server.pem has expired on 2001-01-01T00:00:00Z");
    assert!(std::net::TcpStream::connect(secure).is_ok());
}

#[test]
fn f143_config_check_refuses_a_kind_of_parent_that_serve_refuses() {
    let mut node = Node::device("x");
    node.lose_connection_string();
    node.add_configuration("[parent]\nkind = \"oci\"\nurl = \"https://reg.example\"\n");
    assert_eq!(last_line(&node).0, 78);
    expect_refusal(&node, &["parent.kind", "not available"]);
}

#[test]
fn f014_what_a_verb_names_and_nobody_has_is_not_found() {
    let root = Node::root();
    root.json(&["token", "create", "--name", "reader", "--repository", "app", "content/read"]);
    for verb in [&["create", "--name", "other"][..], &["update", "--name", "reader"]] {
        let output = root.run(&[&["token"], verb, &["--scope-map", "nosuchmap"]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("scope map 'nosuchmap' could not be found"), "{text}");
    }
    root.json(&["connected-registry", "create", "--name", "dock01", "--repository", "app"]);
    let create = ["create", "--name", "dock02", "--repository", "app"];
    let by_token = ["create", "--name", "dock02", "--sync-token", "nosuch1"];
    let parent = [&create[..], &["--parent", "nosuch1"]].concat();
    let client = [&create[..], &["--client-tokens", "reader", "nosuch1"]].concat();
    let added = ["update", "--name", "dock01", "--add-client-tokens", "nosuch1"];
    for (verb, told) in [
        (&parent[..], "parent connected registry 'nosuch1' could not be found"),
        (&by_token[..], "sync token 'nosuch1' could not be found"),
        (&client[..], "client token 'nosuch1' could not be found"),
        (&added[..], "client token 'nosuch1' could not be found"),
    ] {
        let output = root.run(&[&["connected-registry"], verb].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(told), "{text}");
    }
    let missing = root.dir.join("nosuch");
    let output = new_root().run_configured(&["restore", missing.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = format!("there is no backup {}", missing.display());
    assert!(!output.status.success() && text.contains(&told), "{text}");
}

/// Symptom: the log knew why, and `status` said something that does not help.
#[test]
fn f034_f036_status_says_why_the_parent_is_not_reached() {
    let (authority, mut root) = (Authority::new(), Node::root());
    let connection = root.connect("dock01", &["--repository", "app"]);
    let with = |from: &str, to: &str| {
        let mut device = Node::device(&connection.replace(from, to));
        device.spawn();
        device
    };
    let says = |device: &Node, state: &str, reason: &str, remedy: &str| {
        let mut last = serde_json::Value::Null;
        eventually(SOON, reason, || {
            let output = device.run(&["status", "-o", "json"]);
            last = serde_json::from_slice(&output.stdout).ok()?;
            last["reason"].as_str()?.contains(reason).then_some(())
        });
        assert_eq!(last["state"], state, "{last}");
        assert!(last["remedy"].as_str().unwrap_or_default().contains(remedy), "{last}");
    };
    let login = with(&root.gateway, &root.login);
    says(&login, "NotAGateway", "is no gateway", "ParentGatewayEndpoint");
    let secure = with("Protocol=http", "Protocol=https");
    says(&secure, "Activating", "does not speak TLS", "ParentGatewayEndpoint");

    let device = Node::start_device(&connection);
    eventually(SOON, "it is in contact", || {
        (device.json(&["status"])["sync"]["parentOnline"] == true).then_some(())
    });
    assert_eq!(device.json(&["status"])["reason"], serde_json::Value::Null);
    root.kill();
    says(&device, "Active", "127.0.0.1", "check that the parent runs");
    root.start();
    eventually(SOON, "it is in contact again", || {
        let status = device.json(&["status"]);
        (status["sync"]["parentOnline"] == true && status["reason"].is_null()).then_some(())
    });

    let mut root = Node::root();
    root.kill();
    let gateway = root.with_tls(&authority);
    root.start();
    let connection = root.connect("dock02", &["--repository", "app"]);
    let mut private = Node::device(
        &connection.replace(&root.gateway, &gateway).replace("Protocol=http", "Protocol=https"),
    );
    private.spawn();
    says(&private, "Activating", "an authority that is not trusted", "parent.ca_file");
}

#[test]
fn f143_config_check_tries_the_addresses() {
    let mut foreign = new_root();
    foreign.login = "192.0.2.1:5000".to_owned();
    expect_refusal(&foreign, &["192.0.2.1:5000", "no such address"]);
    let mut occupied = new_root();
    // Not one that the kernel gives to a connection of another test once it is free again.
    let stranger = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    occupied.gateway = stranger.local_addr().unwrap().to_string();
    expect_refusal(&occupied, &[&occupied.gateway, "another program listens there"]);
    drop(stranger);
    assert_eq!(check(&occupied).0, 0);
    // Whose role the store says, which is new: check and serve say the same.
    let mut twice = new_root();
    twice.gateway = twice.login.clone();
    assert!(!twice.configuration().contains("role"), "{}", twice.configuration());
    expect_refusal(&twice, &[&twice.login, "used twice"]);
    let served = twice.run_to_end();
    let text = String::from_utf8_lossy(&served.stderr);
    assert_eq!(served.status.code(), Some(78), "{text}");
    assert!(text.contains("used twice"), "{text}");
}

/// Symptom: in a journal that others write to, a line was torn after its first word.
#[test]
fn f014_a_complaint_is_written_at_once() {
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let mut command = Command::new(binary());
    command.args(["--admin-socket", "/nonexistent/admin.sock", "status"]);
    command.stderr(std::os::fd::OwnedFd::from(theirs));
    assert!(!command.status().unwrap().success());
    let mut bytes = [0; 4096];
    let len = ours.recv(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
    assert!(text.starts_with("skerry: ") && text.ends_with('\n') && text.len() > 20, "{text:?}");
}

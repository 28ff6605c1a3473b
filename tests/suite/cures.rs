//! What a node cannot use is named, with what helps.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::authority::Authority;
use crate::support::clients::is_root;
use crate::support::node::{Node, free_port};
use crate::support::{TempDir, eventually, have, skip};

fn new_root() -> Node {
    let mut node = Node::device("x");
    node.make_root();
    node
}

/// The last line of `config check`, and that of a start; neither passes.
fn refusals(node: &Node) -> [String; 2] {
    [node.run_configured(&["config", "check"]), node.run_to_end()].map(|output| {
        assert!(!output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines().last().unwrap_or_default().to_owned()
    })
}

fn expect(node: &Node, words: &[&str]) {
    for line in refusals(node) {
        for word in words {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}

/// `[tls]` with these files.
fn tls(certificate: &Path, key: &Path) -> String {
    format!(
        "[tls]\nmode = \"files\"\ncertificate = \"{}\"\nprivate_key = \"{}\"\n",
        certificate.display(),
        key.display()
    )
}

#[test]
fn f144_a_key_that_cannot_be_used_is_named_with_its_cure() {
    let (one, other, dir) = (Authority::new(), Authority::new(), TempDir::new());
    let mut node = new_root();
    let (certificate, strange) = (one.certificate(), other.key());
    node.set_configuration(&tls(&certificate, &strange));
    let names = [certificate.display().to_string(), strange.display().to_string()];
    let mismatch = "the private key does not belong to the certificate";
    expect(&node, &["[tls]", &names[0], &names[1], mismatch, "openssl"]);

    node.set_configuration(&tls(&certificate, &certificate));
    expect(&node, &["[tls]", &names[0], "has no private key", "BEGIN PRIVATE KEY"]);
    let missing = dir.join("none.key");
    node.set_configuration(&tls(&certificate, &missing));
    expect(&node, &["[tls]", "tls.private_key", &missing.display().to_string(), "put the file"]);

    // A reload names the same.
    node.set_configuration(&one.section());
    node.start();
    fs::copy(other.key(), one.key()).unwrap();
    node.hang_up();
    let line = eventually(Duration::from_secs(20), "it says why", || {
        node.log()
            .lines()
            .find(|line| line.contains("the old certificate stays"))
            .map(str::to_owned)
    });
    assert!(line.contains(&one.key().display().to_string()) && line.contains(mismatch), "{line}");

    if !have("openssl") {
        return skip("needs openssl");
    }
    let sealed = dir.join("sealed.key");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-aes256", "-passout", "pass:secret-word", "-in"]).arg(other.key());
    assert!(openssl.arg("-out").arg(&sealed).output().unwrap().status.success());
    let mut sealing = new_root();
    sealing.set_configuration(&tls(&other.certificate(), &sealed));
    expect(&sealing, &["[tls]", &sealed.display().to_string(), "is encrypted", "openssl pkey"]);
}

#[test]
fn f145_an_authority_of_the_parent_that_cannot_be_read_is_named_with_its_cure() {
    let connection = "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword=x;\
                      ParentGatewayEndpoint=127.0.0.1:1;ParentEndpointProtocol=https";
    let dir = TempDir::new();
    let mut node = Node::device("x");
    node.lose_connection_string();
    let string = dir.join("connection-string");
    fs::write(&string, connection).unwrap();
    let ca = dir.join("ca.pem");
    node.add_configuration(&format!(
        "[parent]\nconnection_string_file = \"{}\"\nca_file = \"{}\"\n",
        string.display(),
        ca.display()
    ));
    let name = ca.display().to_string();
    expect(&node, &["parent.ca_file", &name, "put the file there"]);
    fs::write(&ca, "no certificate").unwrap();
    expect(&node, &["parent.ca_file", &name, "BEGIN CERTIFICATE"]);
}

#[test]
fn f143_a_state_directory_that_cannot_be_made_is_refused_alike() {
    if !is_root() {
        return skip("needs root");
    }
    let mut node = new_root();
    fs::write(node.dir.join("skerry.toml"), "[registry]\nrole = \"root\"\n").unwrap();
    node.configure_from(node.dir.join("skerry.toml"));
    let state = "storage.state_dir=/proc/skerry";
    let output = node.run_configured(&["--set", state, "config", "check"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("/proc/skerry") && text.contains("set storage.state_dir"), "{text}");
}

/// As a link onto a data partition does that is not mounted.
#[test]
fn f143_a_state_directory_that_links_to_nothing_is_refused_alike() {
    let node = new_root();
    let state = node.state();
    let _ = fs::remove_dir_all(&state);
    std::os::unix::fs::symlink(node.dir.join("not-mounted/skerry"), &state).unwrap();
    let check = node.run_configured(&["config", "check"]);
    let serve = node.run_to_end();
    for output in [&check, &serve] {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text}");
        let told = "what it links to does not exist; mount its file system";
        assert!(text.contains(told), "{text}");
    }
}

/// The state is there, and its file system takes no more writes.
#[test]
fn f143_a_state_on_a_read_only_file_system_is_refused_alike() {
    if !is_root() || !have("unshare") || !have("mount") {
        return skip("needs root, unshare and mount");
    }
    let mut node = Node::root();
    assert!(node.stop().success());
    let state = node.state().display().to_string();
    let config = node.dir.join("skerry.toml").display().to_string();
    let program = crate::support::node::binary();
    let last = |verbs: &str| {
        let script = format!(
            "mount --bind {state} {state} && mount -o remount,bind,ro {state} && \
             exec {} --config {config} {verbs}",
            program.display()
        );
        let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines().last().unwrap_or_default().to_owned()
    };
    let (check, serve) = (last("config check"), last("serve"));
    let same = check.strip_prefix("skerry: ").unwrap();
    assert!(same.contains("Read-only file system") && same.contains("mount"), "{same}");
    assert!(serve.ends_with(same), "check: {check}\nserve: {serve}");
}

#[test]
fn f211_a_certificate_that_is_gone_is_not_made_anew_in_silence() {
    let mut root = new_root();
    root.add_configuration("[tls]\nmode = \"self-signed\"\n");
    root.start();
    let told = |root: &Node| root.log().matches("there was no self-signed certificate").count();
    assert_eq!(told(&root), 0, "of a new store it is the first: {}", root.log());
    root.json(&["connected-registry", "create", "--name", "dock01", "--repository", "app"]);
    assert!(root.stop().success());
    root.start();
    assert_eq!(told(&root), 0, "{}", root.log());
    assert!(root.stop().success());
    fs::remove_file(root.state().join("identity/tls.pem")).unwrap();
    root.start();
    assert_eq!(told(&root), 1, "{}", root.log());
    assert!(root.log().contains("get-settings"), "{}", root.log());
}

/// Symptom: the certificate was not for the address that a device was given, which went on
/// activating for ever; and `config check` said nothing of a certificate that was there.
#[test]
fn f145_a_self_signed_certificate_is_for_the_address_that_a_device_is_given() {
    let mut root = new_root();
    root.gateway = format!("127.0.0.2:{}", free_port());
    root.encrypt_gateway();
    root.add_configuration("[tls]\nmode = \"self-signed\"\n");
    root.start();
    let connection = root.connect("dock01", &["--repository", "app"]);
    assert!(connection.contains("ParentCaFingerprint=sha256:"), "no password here");
    let shown = root.json(&["status"])["caFingerprint"].as_str().unwrap().to_owned();
    assert!(connection.ends_with(&shown), "{shown}");
    // What clients are given: the certificate that has it, and nothing of the key beside it.
    let printed = String::from_utf8(root.run(&["ca"]).stdout).unwrap();
    let body = printed.strip_prefix("-----BEGIN CERTIFICATE-----\n").unwrap();
    let body = body.strip_suffix("-----END CERTIFICATE-----\n").unwrap().replace('\n', "");
    let bytes = data_encoding::BASE64.decode(body.as_bytes()).unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
    assert_eq!(shown, format!("sha256:{}", data_encoding::HEXLOWER.encode(hash.as_ref())));
    assert_eq!(root.json(&["ca"])["certificate"], printed.as_str());
    let without = Node::root().run(&["ca"]);
    assert_eq!(without.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&without.stderr).contains("tls.mode"));
    assert!(root.stop().success());

    root.know_as("gateway_server = \"root.example:5001\"");
    let check = |root: &Node| {
        let output = root.run_configured(&["config", "check"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!root.log().contains("is not for"), "{}", root.log());
    let told = check(&root);
    root.start();
    for text in [told, root.log()] {
        let line = text.lines().find(|line| line.contains("is not for root.example"));
        let line = line.unwrap_or_default();
        assert!(line.contains("(registry.gateway_server)"), "{text}");
        assert!(line.contains("identity/tls.pem") && line.contains("remove that file"), "{text}");
    }
    assert!(root.stop().success());
    fs::remove_file(root.state().join("identity/tls.pem")).unwrap();
    root.start();
    assert!(!check(&root).contains("is not for"), "{}", root.log());
}

/// Symptom: of a device that had never run, its first certificate was told as a second one.
#[test]
fn f211_the_first_certificate_of_a_new_device_is_no_other_one() {
    let mut device = Node::device("x");
    device.lose_connection_string();
    device.add_configuration("[registry]\nrole = \"connected\"\n");
    device.add_configuration("[tls]\nmode = \"self-signed\"\n");
    let count = |node: &Node, text: &str| node.log().matches(text).count();
    for (starts, told) in [(1, 0), (2, 1)] {
        device.spawn();
        eventually(Duration::from_secs(20), "it serves", || {
            (count(&device, "ready: ") == starts).then_some(())
        });
        let log = device.log();
        assert_eq!(count(&device, "there was no self-signed certificate"), told, "{log}");
        assert!(device.stop().success());
        fs::remove_file(device.state().join("identity/tls.pem")).unwrap();
    }
}

#[test]
fn f145_a_parent_with_another_certificate_than_the_connection_string_names_is_told() {
    let mut root = new_root();
    let authority = Authority::new();
    let address = root.with_tls(&authority);
    root.start();
    let text = format!(
        "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword=x;\
         ParentGatewayEndpoint={address};ParentEndpointProtocol=https;\
         ParentCaFingerprint=sha256:{}",
        "ab".repeat(32)
    );
    let mut device = Node::device(&text);
    device.spawn();
    let reason = eventually(Duration::from_secs(20), "it says why", || {
        let output = device.run(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        status["reason"].as_str().map(str::to_owned)
    });
    for part in ["ParentCaFingerprint", "get-settings", "[parent] ca_file"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[test]
fn f166_two_connection_strings_are_told_apart() {
    let connection = "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword=secret;\
                      ParentGatewayEndpoint=127.0.0.1:1;ParentEndpointProtocol=http";
    let mut node = Node::device(connection);
    node.add_configuration(&format!("connection_string = \"{connection}\"\n"));
    let check = |node: &Node| {
        let output = node.run_configured(&["config", "check"]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!text.contains("secret;"), "{text}");
        let told = text.lines().find(|line| line.contains("are both set"));
        told.unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let line = check(&node);
    assert!(line.contains("parent.connection_string_file counts"), "{line}");
    let file = node.connection_string_file();
    node.lose_connection_string();
    node.set_configuration(&format!(
        "[parent]\nconnection_string_file = \"{}\"\nconnection_string = \"{connection}\"\n",
        file.display()
    ));
    let line = check(&node);
    assert!(line.contains("parent.connection_string counts"), "{line}");
}

//! What a node is, by its store and its configuration, and what it waits for.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::json;

use crate::repo;
use crate::state::last_segment;
use crate::support::eventually;
use crate::support::http::{basic, send, token};
use crate::support::image::{self, Image};
use crate::support::node::{Node, sync_token};
use crate::topology::connection_below;

const SOON: Duration = Duration::from_secs(30);

/// A root with `app:v1` and the connected registry `dock01`: user, password, connection string.
fn root_with_app() -> (Node, (String, String), String) {
    let root = Node::root();
    let owner = root.pusher("owner-token", "app");
    let image = Image::new(1, &[40_000]);
    assert_eq!(image.push(&root.login, (&owner.0, &owner.1), "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &owner.0);
    (root, owner, connection)
}

fn pulls(node: &Node, (user, password): &(String, String), tag: &str) -> Option<String> {
    image::pull(&node.login, (user, password), "app", tag).ok()
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn adopt(node: &Node, role: &str, more: &[&str]) -> std::process::Output {
    let mut arguments = vec!["state", "adopt", "--role", role];
    arguments.extend_from_slice(more);
    node.run_configured(&arguments)
}

#[test]
fn f166_an_activated_store_serves_without_its_connection_string() {
    let (root, owner, connection) = root_with_app();
    let mut device = Node::start_device(&connection);
    let digest = eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    eventually(SOON, "the sync has ended", || {
        device.json(&["status"])["sync"]["lastSyncTime"].is_string().then_some(())
    });
    device.stop();
    device.lose_connection_string();
    device.start();

    let status = device.json(&["status"]);
    assert_eq!(
        (&status["role"], &status["state"]),
        (&"connected".into(), &"CredentialMissing".into())
    );
    assert!(status["remedy"].as_str().unwrap().contains("connection string"), "{status}");
    assert!(device.log().contains("CredentialMissing"), "a line in the log:\n{}", device.log());
    assert_eq!(pulls(&device, &owner, "v1"), Some(digest), "pulls and logins go on");
    let sync = &status["sync"];
    assert_eq!(
        (&sync["repositories"], &sync["contact"]),
        (&serde_json::json!(["app"]), &"no connection string".into()),
        "{status}"
    );
    assert!(sync["lastSyncTime"].is_string(), "{status}");
    let miss = image::pull(&device.login, (&owner.0, &owner.1), "app", "v9").unwrap_err();
    let miss = String::from_utf8_lossy(&miss.body);
    assert!(miss.contains("not_found") && miss.contains("at the last sync ("), "{miss}");
    assert!(miss.contains("no connection string"), "{miss}");
    let refused =
        device.run(&["token", "create", "--name", "more", "--repository", "a", "content/read"]);
    assert!(stderr(&refused).contains("is a connected registry"), "{}", stderr(&refused));

    // Pushes are kept, and go up as soon as the string is there again, without a restart.
    let second = Image::new(2, &[30_000]);
    assert_eq!(second.push(&device.login, (&owner.0, &owner.1), "app", "v2").status, 201);
    device.stop();
    let third = device.connection_string_file();
    device.add_configuration(&format!("[parent]\nconnection_string_file = {third:?}\n"));
    device.start();
    assert_eq!(device.json(&["status"])["state"], "CredentialMissing", "the file is not there");
    std::fs::write(third, &connection).unwrap();
    let climbed = eventually(SOON, "v2 goes up", || pulls(&root, &owner, "v2"));
    assert_eq!(climbed, second.digest());
    assert_eq!(device.json(&["status"])["state"], "Active");
}

#[test]
fn f166_an_image_without_connection_string_is_never_a_root() {
    let (_root, owner, connection) = root_with_app();
    let mut device = Node::device("");
    device.configure_from(repo::path("systemd/skerry.toml"));
    device.spawn();
    let health =
        eventually(SOON, "it answers", || send(&device.login, "GET", "/healthz", &[], b"").ok());
    assert_eq!(health.status, 200);
    let ready = send(&device.login, "GET", "/readyz", &[], b"").unwrap();
    assert_eq!(ready.status, 503);
    assert!(String::from_utf8_lossy(&ready.body).contains("connection string"));
    let status = device.json(&["status"]);
    assert_eq!((&status["role"], &status["state"]), (&"connected".into(), &"Unprovisioned".into()));
    let login = basic(&owner.0, &owner.1);
    for target in ["/v2/", "/oauth2/token?service=a", "/.well-known/jwks.json", "/gateway/v1/a"] {
        let headers = [("authorization", login.as_str())];
        let answer = send(&device.login, "GET", target, &headers, b"").unwrap();
        assert_eq!(answer.status, 503, "{target}");
        assert!(answer.header("retry-after").is_some(), "{target}");
    }
    let refused =
        device.run(&["token", "create", "--name", "more", "--repository", "a", "content/read"]);
    assert!(!refused.status.success());

    // Without the section that names its role it still is what it was at its first start.
    device.stop();
    let mut plain = device;
    plain.configure_plainly();
    plain.spawn();
    eventually(SOON, "it answers", || plain.run(&["status"]).status.success().then_some(()));
    assert_eq!(plain.json(&["status"])["state"], "Unprovisioned");
    plain.stop();
    plain.provision(&connection);
    plain.start();
    eventually(SOON, "v1 is synced", || pulls(&plain, &owner, "v1"));
}

/// A credential that cannot be read yet comes right by itself, or by hands that see why.
#[test]
fn f166_a_connection_string_that_cannot_be_read_is_waited_for() {
    let (_root, owner, connection) = root_with_app();
    let mut device = Node::device("");
    let file = device.connection_string_file();
    device.set_configuration(&format!("[parent]\nconnection_string_file = {file:?}\n"));
    std::fs::write(&file, "\n").unwrap();
    device.spawn();
    eventually(SOON, "it answers", || device.run(&["status"]).status.success().then_some(()));
    let status = device.json(&["status"]);
    assert_eq!(status["state"], "Unprovisioned", "{status}");
    let told = format!("{}: the file is empty", file.display());
    assert!(status["reason"].as_str().unwrap_or_default().contains(&told), "{status}");
    assert!(device.log().contains(&told), "{}", device.log());

    // A directory in its place cannot be read by anybody, not even by the superuser.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let told = format!("cannot read {}: ", file.display());
    eventually(SOON, "the new cause is told", || {
        let status = device.json(&["status"]);
        status["reason"].as_str()?.contains(&told).then_some(())
    });
    std::fs::remove_dir(&file).unwrap();
    let new = file.with_extension("new");
    std::fs::write(&new, &connection).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::rename(&new, &file).unwrap();
    eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    let status = device.json(&["status"]);
    assert_eq!((&status["state"], &status["reason"]), (&"Active".into(), &serde_json::Value::Null));
    // It is used, and whoever forgot its mode hears of it, here and from the check.
    let exposed = format!("can read and change {} (mode 0666)", file.display());
    let log = device.log();
    assert_eq!(log.matches(&exposed).count(), 1, "{log}");
    let checked = device.run_configured(&["config", "check"]);
    assert!(stderr(&checked).contains(&exposed), "{}", stderr(&checked));

    // One that is there and wrong is final for a store that serves nothing yet.
    let mut new = Node::device("");
    let file = new.connection_string_file();
    new.set_configuration(&format!("[parent]\nconnection_string_file = {file:?}\n"));
    std::fs::write(&file, "ConnectedRegistryName=").unwrap();
    let refused = new.run_to_end();
    assert_eq!(refused.status.code(), Some(78), "{}", stderr(&refused));
}

/// The clients of a device do not lose it to a slip of whoever writes its connection string.
#[test]
fn f166_an_activated_store_serves_with_a_malformed_connection_string() {
    let (root, owner, connection) = root_with_app();
    let mut device = Node::start_device(&connection);
    let digest = eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    device.stop();
    device.provision("ConnectedRegistryName=dock01;SyncToken");
    device.start();
    let status = device.json(&["status"]);
    assert_eq!(status["state"], "CredentialMissing", "{status}");
    let reason = status["reason"].as_str().unwrap_or_default();
    let place =
        format!("{}:1: parent.connection_string: ", device.connection_string_file().display());
    assert!(reason.contains(&place), "{status}");
    let log = device.log();
    let loud = |line: &str| line.contains(" error ") && line.contains(&place);
    assert!(log.lines().any(loud), "{log}");
    assert_eq!(pulls(&device, &owner, "v1"), Some(digest), "pulls and logins go on");
    let checked = device.run_configured(&["config", "check"]);
    assert_eq!(checked.status.code(), Some(78), "what is wrong is told: {}", stderr(&checked));

    // Mended, it is used without a restart.
    let second = Image::new(2, &[30_000]);
    assert_eq!(second.push(&device.login, (&owner.0, &owner.1), "app", "v2").status, 201);
    std::fs::write(device.connection_string_file(), &connection).unwrap();
    eventually(SOON, "v2 goes up", || pulls(&root, &owner, "v2"));
    let status = device.json(&["status"]);
    assert_eq!((&status["state"], &status["reason"]), (&"Active".into(), &serde_json::Value::Null));
}

/// Polls `skerry status` until it prints this state.
fn comes_to(device: &Node, state: &str) -> serde_json::Value {
    eventually(SOON * 2, &format!("the device is {state}"), || {
        let status = device.json(&["status"]);
        (status["state"] == state).then_some(status)
    })
}

/// Deletes `dock01` at the root.
fn delete(root: &Node, more: &[&str]) {
    let delete = ["connected-registry", "delete", "--name", "dock01", "--yes"];
    let deleted = root.run(&[&delete[..], more].concat());
    assert!(deleted.status.success(), "{}", stderr(&deleted));
}

/// Symptom: a device that was deleted at the root stayed `Active`, and nothing told its operator
/// what to do.
#[test]
fn f031_f212_a_device_that_was_deleted_at_the_root_says_so_until_it_is_created_again() {
    let (root, owner, connection) = root_with_app();
    let device = Node::start_device(&connection);
    let digest = eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    delete(&root, &[]);
    let status = comes_to(&device, "UnknownToParent");
    let remedy = status["remedy"].as_str().unwrap_or_default();
    assert!(remedy.contains("connected-registry create") && remedy.contains("--sync-token"));
    assert!(status["parentSays"].as_str().unwrap().contains("gateway:dock01"), "{status}");
    let log = device.log();
    let loud = log.lines().filter(|line| line.contains(" error ")).collect::<Vec<_>>();
    assert!(loud.len() == 1 && loud[0].contains("UnknownToParent: "), "{loud:?}");
    assert!(device.is_ready(), "it serves what it has");
    assert_eq!(pulls(&device, &owner, "v1"), Some(digest));

    let token = sync_token("dock01");
    let create = ["connected-registry", "create", "--name", "dock01", "--sync-token", &token];
    root.json(&[&create[..], &["--client-tokens", &owner.0]].concat());
    eventually(SOON * 2, "the device is active and nothing is to be done", || {
        let status = device.json(&["status"]);
        (status["state"] == "Active" && status["remedy"].is_null()).then_some(())
    });
    let second = Image::new(2, &[30_000]);
    assert_eq!(second.push(&root.login, (&owner.0, &owner.1), "app", "v2").status, 201);
    eventually(SOON, "v2 is synced", || pulls(&device, &owner, "v2"));
    let shown = root.json(&["connected-registry", "show", "--name", "dock01"]);
    assert_eq!(shown["activation"]["status"], "Active", "{shown}");
}

/// Symptom: the remedy named a token and a connected registry that did not exist any more.
#[test]
fn f034_f212_a_device_that_was_deleted_with_its_token_is_told_how_to_come_back() {
    let (root, owner, connection) = root_with_app();
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    delete(&root, &["--cleanup"]);
    let status = comes_to(&device, "Unauthorized");
    let remedy = status["remedy"].as_str().unwrap_or_default();
    for part in ["deleted at the root", "create it again", "outside a sync window", "an hour"] {
        assert!(remedy.contains(part), "{part}: {remedy}");
    }
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &owner.0);
    device.stop();
    device.provision(&connection);
    device.start();
    comes_to(&device, "Active");
}

#[test]
fn f166_another_role_than_that_of_the_store_is_refused() {
    let (mut root, owner, connection) = root_with_app();
    let other = root.connect("dock02", &["--repository", "app"]);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    device.stop();
    let refusal = |node: &Node, word: &str| {
        let output = node.run_to_end();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{text}");
        let line = text.lines().last().unwrap_or_default();
        assert!(line.contains(word) && line.contains("skerry state adopt"), "{line}");
    };
    device.provision(&other);
    refusal(&device, "dock01");
    device.lose_connection_string();
    device.add_configuration("[registry]\nrole = \"root\"\n");
    refusal(&device, "dock01");

    root.stop();
    root.know_as("role = \"connected\"");
    refusal(&root, "root");
}

#[test]
fn f166_a_role_is_changed_by_an_operator_only() {
    let (mut root, owner, connection) = root_with_app();
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    let running = adopt(&device, "root", &["--yes"]);
    assert!(!running.status.success());
    assert!(stderr(&running).contains("in use by another skerry process"), "{}", stderr(&running));
    device.stop();
    let asked = adopt(&device, "root", &[]);
    assert!(!asked.status.success());
    assert!(stderr(&asked).contains("backup") && stderr(&asked).contains("--yes"));

    // The device of a lost root takes its place: its clients and its content stay.
    root.kill();
    let adopted = adopt(&device, "root", &["--yes"]);
    assert!(adopted.status.success(), "{}", stderr(&adopted));
    device.make_root();
    device.start();
    assert_eq!(device.json(&["status"])["state"], "Root");
    assert!(pulls(&device, &owner, "v1").is_some());
    device.pusher("second-token", "app");

    // And back: nothing of the root is left but content, until the parent says what it serves.
    root.start();
    device.stop();
    let adopted = adopt(&device, "connected", &["--yes"]);
    assert!(adopted.status.success(), "{}", stderr(&adopted));
    device.provision(&connection);
    device.start();
    eventually(SOON, "v1 is there", || pulls(&device, &owner, "v1"));
    assert!(token(&device.login, "second-token", "x", &[]).is_err());
    assert_eq!(device.json(&["status"])["state"], "Active");
}

/// What a command changed, a configuration that was forgotten does not change back.
#[test]
fn f166_an_adopted_store_does_not_take_its_former_role_from_the_configuration() {
    let (mut node, _, _) = root_with_app();
    node.stop();
    let refused = |node: &Node, told: &[&str]| {
        for output in [node.run_configured(&["config", "check"]), node.run_to_end()] {
            assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
            let text = stderr(&output);
            assert!(told.iter().all(|part| text.contains(part)), "{text}");
        }
    };
    node.know_as("role = \"root\"");
    let adopted = adopt(&node, "connected", &["--yes"]);
    let text = String::from_utf8_lossy(&adopted.stdout).into_owned();
    assert!(text.contains("registry.role = \"connected\""), "{text}");
    refused(&node, &["is that of a connected registry", "a root", "adopt --role root"]);
    node.know_only_as("role = \"connected\"");
    node.spawn();
    eventually(SOON, "it answers", || node.run(&["status"]).status.success().then_some(()));
    assert_eq!(node.json(&["status"])["state"], "Unprovisioned");
    node.stop();
    adopt(&node, "root", &["--yes"]);
    refused(&node, &["is that of a root", "a connected registry", "adopt --role connected"]);
    node.know_only_as("role = \"root\"");
    let epoch = || std::fs::read_to_string(node.state().join("identity/feed-epoch")).unwrap();
    let before = epoch();
    let again = adopt(&node, "root", &["--yes"]);
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && text.contains("already; nothing was changed"), "{text}");
    assert_eq!(epoch(), before, "its children compare nothing anew");
    node.start();
    assert_eq!(node.json(&["status"])["state"], "Root");

    // Nothing is in the store of an image that was started once.
    let mut device = Node::device("");
    device.configure_from(repo::path("systemd/skerry.toml"));
    device.spawn();
    eventually(SOON, "it answers", || device.run(&["status"]).status.success().then_some(()));
    device.stop();
    device.configure_plainly();
    device.make_root();
    device.know_as("role = \"root\"");
    let check = device.run_configured(&["config", "check"]);
    assert!(check.status.success(), "{}", stderr(&check));
    device.start();
    assert_eq!(device.json(&["status"])["state"], "Root");
}

#[test]
fn f166_the_configuration_of_image_and_layer_names_the_role() {
    for file in ["board/base.toml", "systemd/skerry.toml"] {
        let text: toml::Table = repo::read(file).parse().unwrap();
        assert_eq!(text["registry"]["role"].as_str(), Some("connected"), "{file}");
    }
}

/// After a rollback: the older version serves what the newer one wrote, and says what it is about.
#[test]
fn p063_a_store_of_a_newer_version_is_served_read_only_and_says_so() {
    let (mut root, owner, connection) = root_with_app();
    let mut device = Node::start_device(&connection);
    let digest = eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    root.stop();
    device.stop();
    for node in [&mut root, &mut device] {
        let format = "skerry store format 7, readable from 1\n";
        std::fs::write(node.state().join("format"), format).unwrap();
        node.start();
        let told = |text: &str| text.contains("newer version") && text.contains("read-only");
        let status = node.json(&["status"]);
        assert!(status["readOnly"].as_bool().unwrap() && status["ready"].as_bool().unwrap());
        assert!(told(status["reason"].as_str().unwrap_or_default()), "{status}");
        assert!(status["remedy"].as_str().unwrap_or_default().contains("newer"), "{status}");
        assert!(node.log().lines().any(|line| line.contains(" error ") && told(line)));
        // A gate of an update sees that clients are served, and how.
        let ready = send(&node.login, "GET", "/readyz", &[], b"").unwrap();
        let body = String::from_utf8_lossy(&ready.body).into_owned();
        assert!(ready.status == 200 && told(&body), "{} {body}", ready.status);
        assert_eq!(node.metric("skerry_read_only"), 1);

        assert_eq!(pulls(node, &owner, "v1"), Some(digest.clone()), "{}", node.log());
        let image = Image::new(3, &[3000]);
        let refused = image.push(&node.login, (&owner.0, &owner.1), "app", "v3");
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(refused.status == 503 && told(&text), "{} {text}", refused.status);
    }
    let create = ["token", "create", "--name", "more-token", "--repository", "a", "content/read"];
    for refused in [root.run(&create), root.run(&["confirm"]), root.run(&["gc"])] {
        assert!(!refused.status.success());
        assert!(stderr(&refused).contains("newer version"), "{}", stderr(&refused));
    }
    // Verbs for a node that is stopped leave it as it is too.
    root.stop();
    let epoch = || std::fs::read_to_string(root.state().join("identity/feed-epoch")).unwrap();
    let before = epoch();
    let cut = root.run_configured(&["state", "cut-journal", "--yes"]);
    for refused in [adopt(&root, "connected", &["--yes"]), cut] {
        assert!(!refused.status.success());
        assert!(stderr(&refused).contains("newer version"), "{}", stderr(&refused));
    }
    assert_eq!(epoch(), before);
    let checked = root.run_configured(&["config", "check"]);
    let text = [&checked.stdout[..], &checked.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(checked.status.success() && text.contains("read-only"), "{text}");
    // A backup of it has what can be read, and says what is missing.
    let segment = last_segment(&root.state());
    let whole = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &whole[..whole.len() / 2]).unwrap();
    root.start();
    let told = |text: &str| text.contains("unless the index has them") && text.contains("version");
    let status = root.json(&["status"]).to_string();
    assert!(told(&status) && !status.contains("accept-loss"), "{status}");
    let backup = root.dir.join("backup");
    let output = root.run(&["backup", backup.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(told(&stderr(&output)), "{output:?}");
    let state = format!("storage.state_dir={}", root.dir.join("restored").display());
    let restored = root.run(&["--set", &state, "restore", backup.to_str().unwrap()]);
    assert_eq!(restored.status.code(), Some(1), "{restored:?}");
    assert!(stderr(&restored).contains("are lost"), "{restored:?}");
}

/// Symptom: a device that could note nothing, not even that it was activated as before, never asked
/// for its configuration, and a token that was disabled went on working.
#[test]
fn p063_f182_a_device_that_only_reads_its_store_hears_that_a_token_is_disabled() {
    let (root, owner, connection) = root_with_app();
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1 is synced", || pulls(&device, &owner, "v1"));
    device.stop();
    let format = "skerry store format 7, readable from 1\n";
    std::fs::write(device.state().join("format"), format).unwrap();
    device.start();
    assert!(pulls(&device, &owner, "v1").is_some(), "{}", device.log());
    root.json(&["token", "update", "--name", &owner.0, "--status", "disabled"]);
    eventually(SOON * 4, "the token is refused", || {
        pulls(&device, &owner, "v1").is_none().then_some(())
    });
    let refused = token(&device.login, &owner.0, &owner.1, &[]).unwrap_err();
    assert_eq!((refused.status, refused.error().1.as_str()), (401, "token_disabled"));
}

/// Symptom: below a node that could write nothing, a token that was disabled went on working, and
/// what it pushed went up once the node could write again.
#[test]
fn p063_f182_what_a_node_cannot_write_is_passed_on_to_the_nodes_below() {
    let (root, owner, connection) = root_with_app();
    root.connect("dock02", &["--parent", "dock01", "--repository", "app"]);
    root.link("dock02", &owner.0);
    let mut middle = Node::start_device(&connection);
    let below = connection_below(&root, "dock02", &middle);
    let leaf = Node::start_device(&below);
    eventually(SOON, "v1 is at the leaf", || pulls(&leaf, &owner, "v1"));
    middle.stop();
    let format = "skerry store format 7, readable from 1\n";
    std::fs::write(middle.state().join("format"), format).unwrap();
    middle.start();
    eventually(SOON, "the leaf has found the middle again", || {
        (leaf.json(&["status"])["sync"]["parentOnline"] == true).then_some(())
    });
    root.json(&["token", "update", "--name", &owner.0, "--status", "disabled"]);
    for node in [&middle, &leaf] {
        eventually(SOON * 5, "the token is refused", || {
            let refused = token(&node.login, &owner.0, &owner.1, &[]).err()?;
            (refused.error().1 == "token_disabled").then_some(())
        });
    }
    root.json(&["token", "update", "--name", &owner.0, "--status", "enabled"]);
    eventually(SOON * 5, "the parent has changed its mind", || pulls(&leaf, &owner, "v1"));
}

/// After a rollback to a version that is too old: starting it again does not help.
#[test]
fn p062_a_store_in_a_format_that_this_version_cannot_read_ends_the_start_for_good() {
    let mut root = Node::root();
    root.stop();
    let format = "skerry store format 7, readable from 2\n";
    std::fs::write(root.state().join("format"), format).unwrap();
    for output in [root.run_to_end(), root.run_configured(&["config", "check"])] {
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{text}");
        let parts = ["format 7", "knows format 2", "run the newer version", "restore a backup"];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    assert_eq!(std::fs::read_to_string(root.state().join("format")).unwrap(), format);
}

#[test]
fn p062_the_format_of_the_store_is_shown_and_confirmed_any_number_of_times() {
    let (root, _, connection) = root_with_app();
    let device = Node::start_device(&connection);
    let format = json!({ "writes": 1, "readableFrom": 1, "awaitsConfirmation": false });
    for node in [&root, &device] {
        for _ in 0..2 {
            assert_eq!(node.json(&["status"])["storeFormat"], format);
            assert_eq!(node.json(&["confirm"]), json!({ "storeFormat": format }));
        }
        let file = std::fs::read_to_string(node.state().join("format")).unwrap();
        assert_eq!(file, "skerry store format 1\n");
    }
}

/// Symptom: a device that got the connection string of another connected registry, and was adopted
/// as its log said, deleted what it had not delivered yet: it was nowhere else.
#[test]
fn f166_f130_what_had_not_reached_the_former_parent_is_offered_to_the_next_one() {
    let mut root = Node::root();
    let owner = root.pusher("owner-token", "app");
    let user = (owner.0.as_str(), owner.1.as_str());
    let images: Vec<Image> = (0..4).map(|seed| Image::new(seed, &[40_000])).collect();
    let push = |node: &Node, number: usize, tag: &str| {
        assert_eq!(images[number].push(&node.login, user, "app", tag).status, 201);
    };
    push(&root, 0, "v0");
    let [first, second] = ["leaf01", "leaf02"].map(|name| {
        let connection = root.connect(name, &["--repository", "app", "--mode", "ReadWrite"]);
        root.link(name, user.0);
        connection
    });
    let mut device = Node::start_device(&first);
    eventually(SOON, "v0 is synced", || pulls(&device, &owner, "v0"));
    root.kill();
    push(&device, 1, "v1");
    push(&device, 2, "v2");
    push(&device, 3, "v2");
    device.stop();
    device.provision(&second);
    let refused = device.run_to_end();
    assert!(stderr(&refused).contains("state adopt --role connected"), "{}", stderr(&refused));
    let asked = stderr(&adopt(&device, "connected", &[]));
    assert!(asked.contains("not reached its parent: 3;"), "{asked}");
    assert!(adopt(&device, "connected", &["--yes"]).status.success());
    root.start();
    device.start();
    for (number, tag) in [(1, "v1"), (3, "v2")] {
        let digest = images[number].digest();
        eventually(SOON, tag, || pulls(&root, &owner, tag).filter(|found| *found == digest));
        assert_eq!(pulls(&device, &owner, tag), Some(digest));
    }
    let untagged = images[2].digest();
    eventually(SOON, "what v2 was before", || pulls(&root, &owner, &untagged));
}

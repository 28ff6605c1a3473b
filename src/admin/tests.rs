//! Management commands over a store in memory, as the command line sends them.

#![allow(clippy::needless_pass_by_value, reason = "bodies are written in place")]

mod registries;
mod tokens;

use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::http::Body;
use crate::http::ReplyBody;
use crate::manage::{self, Contact};
use crate::store::journal::layout::Layout;
use crate::store::replica::node::testing::connected_registry;
use crate::store::rows::node::self_config_key;
use crate::store::rows::node::testing::beginning;
use crate::store::{Formats, IndexKind, StoreOptions};
use crate::sync::status_details;
use crate::sys::net::Peer;
use crate::sys::{Disk, MemoryDisk, Spawner, Sys};
use crate::types::connected_registry::ConnectionState;
use crate::types::connection_string::Protocol;
use crate::types::digest::Algorithm;
use crate::types::limits::NAME_MAX;
use crate::types::message::NodeConfig;
use crate::types::schedule::Schedule;
use crate::types::{ConnectedRegistry, ConnectedRegistryName, Digest, Role, UnixSeconds};

/// Children are in contact when the test says so; of what is further below, no continuous one is
/// heard of, and each other one had no window yet.
#[derive(Default)]
struct TestContact(Mutex<bool>);

impl Contact for TestContact {
    fn state(
        &self,
        node: &ConnectedRegistry,
        reported: ConnectionState,
        _: Option<UnixSeconds>,
    ) -> ConnectionState {
        let is_heard = node.parent.is_none() || !node.schedule.is_continuous();
        if is_heard && *self.0.lock().unwrap() { reported } else { ConnectionState::Offline }
    }

    fn last_seen(
        &self,
        _: &ConnectedRegistryName,
        stored: Option<UnixSeconds>,
    ) -> Option<UnixSeconds> {
        stored
    }

    fn told(&self, _: &ConnectedRegistryName) -> Option<(Schedule, Option<u64>)> {
        None
    }
}

struct Node {
    store: Store,
    admin: Admin,
    contact: Arc<TestContact>,
}

fn node_with(role: Role, scheme: &str, ca_fingerprint: Option<String>) -> Node {
    node_over(Store::in_memory(Sys::real(Spawner::new())), role, scheme, ca_fingerprint)
}

fn node_over(store: Store, role: Role, scheme: &str, ca_fingerprint: Option<String>) -> Node {
    node_of(store, options(role, scheme, ca_fingerprint))
}

fn options(role: Role, scheme: &str, ca_fingerprint: Option<String>) -> manage::Options {
    manage::Options {
        role,
        registry_name: "myregistry".into(),
        login_server: "reg.example:5000".into(),
        gateway_endpoint: "reg.site.data.example:5001".into(),
        gateway_warning: None,
        protocol: if scheme == "https" { Protocol::Https } else { Protocol::Http },
        ca_fingerprint,
    }
}

fn node_of(store: Store, options: manage::Options) -> Node {
    store.stand(options.role, true);
    let contact = Arc::new(TestContact::default());
    let manage = Manage::new(store.clone(), options, contact.clone());
    let options = AdminOptions {
        scrub_rate: 1 << 20,
        certificate: None,
        gc: GcOptions { grace: std::time::Duration::ZERO, untagged: None, dry_run: false },
    };
    let admin = Admin::new(store.clone(), manage, options);
    Node { store, admin, contact }
}

fn root() -> Node {
    node_with(Role::Root, "https", None)
}

impl Node {
    fn request(&self, method: Method, path: &str, body: &str, management: bool) -> (Reply, String) {
        let bytes = body.as_bytes().to_vec();
        let len = Some(bytes.len() as u64);
        let mut request = Request {
            method,
            path: path.to_owned(),
            query: Vec::new(),
            headers: Vec::new(),
            host: None,
            peer: Peer::Local(Some(1000)),
            secure: false,
            is_operator: false,
            body: Body::new(smol::io::Cursor::new(bytes), len),
        };
        let reply = smol::block_on(self.admin.handle(&mut request, management));
        let text = match &reply.body {
            ReplyBody::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            _ => String::new(),
        };
        (reply, text)
    }

    fn call(&self, verb: &str, body: &Value) -> (u16, Value) {
        let path = format!("/admin/v1/{verb}");
        let (reply, text) = self.request(Method::Post, &path, &body.to_string(), true);
        (reply.status, serde_json::from_str(&text).unwrap())
    }

    fn ok(&self, verb: &str, body: Value) -> Value {
        let (status, value) = self.call(verb, &body);
        assert_eq!(status, 200, "{verb} {body}: {value}");
        value
    }

    /// A refused command: its status and message.
    fn refused(&self, verb: &str, body: Value) -> (u16, String) {
        let before = self.store.sequence();
        let (status, value) = self.call(verb, &body);
        assert!(status >= 400, "{verb} {body}: {value}");
        assert_eq!(self.store.sequence(), before, "a refused command changes nothing");
        assert!(value["error"]["code"].is_string());
        (status, value["error"]["message"].as_str().unwrap().to_owned())
    }

    fn actions(&self, map: &str) -> Vec<String> {
        let shown = self.ok("scope-map/show", json!({ "name": map }));
        serde_json::from_value(shown["actions"].clone()).unwrap()
    }
}

#[test]
fn who_changed_what_and_who_was_refused_is_in_the_audit() {
    let node = root();
    let create = json!({ "name": "my-map", "repository": [["app", "content/read"]] });
    node.ok("scope-map/create", create.clone());
    node.ok("scope-map/show", json!({ "name": "my-map" }));
    node.refused("scope-map/create", create);
    let made = node.ok("token/create", json!({ "name": "my-token", "scopeMap": "my-map" }));
    node.ok("token/credential-generate", json!({ "name": "my-token", "password1": true }));
    node.ok("token/delete", json!({ "name": "my-token" }));
    node.refused("token/delete", json!({ "name": "x".repeat(1000) }));
    let audit = node.ok("audit", json!({}));
    let told: Vec<String> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap().to_owned();
            assert_eq!(text("actor"), "uid 1000");
            assert!(text("subject").len() <= NAME_MAX);
            format!("{} {} {}", text("action"), text("subject"), text("outcome"))
        })
        .collect();
    let mut expected = vec![
        "scope-map create my-map Succeeded".to_owned(),
        "token create my-token Succeeded".to_owned(),
        "token credential-generate my-token Succeeded".to_owned(),
        "token delete my-token Succeeded".to_owned(),
        "scope-map create my-map Conflict".to_owned(),
        format!("token delete {} InvalidArgument", "x".repeat(NAME_MAX)),
    ];
    let mut sorted = told.clone();
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);
    let secret = made["credentials"]["passwords"][0]["value"].as_str().unwrap();
    assert!(!audit.to_string().contains(secret));
}

#[test]
fn p062_status_shows_the_format_and_confirm_lets_it_rise() {
    let disk = MemoryDisk::new();
    let open = |formats| {
        let sys = Sys { disk: Arc::new(disk.clone()), ..Sys::real(Spawner::new()) };
        let index = IndexKind::Map;
        let options = StoreOptions { formats, index, ..StoreOptions::new(Path::new("/s")) };
        Store::open(sys, options).unwrap().0
    };
    drop(open(Formats::OURS));
    let next = Formats { newest: 3, reads_from: 1, readable_from: 2 };
    let node = node_over(open(next), Role::Connected, "https", None);
    let waits = json!({
        "writes": 1, "readableFrom": 1, "awaitsConfirmation": true, "afterConfirmation": 3,
    });
    assert_eq!(node.ok("status", json!({}))["storeFormat"], waits);
    let risen = json!({ "writes": 3, "readableFrom": 2, "awaitsConfirmation": false });
    for _ in 0..2 {
        assert_eq!(node.ok("confirm", json!({})), json!({ "storeFormat": risen }));
        assert_eq!(node.ok("status", json!({}))["storeFormat"], risen);
    }
}

/// A root whose store has a journal, in memory.
fn node_with_journal() -> (Node, MemoryDisk) {
    let disk = MemoryDisk::new();
    let sys = Sys { disk: Arc::new(disk.clone()), ..Sys::real(Spawner::new()) };
    let options = StoreOptions { index: IndexKind::Map, ..StoreOptions::new(Path::new("/s")) };
    (node_over(Store::open(sys, options).unwrap().0, Role::Root, "https", None), disk)
}

/// A backup went on without it, and neither `status` nor what heals heard of it.
#[test]
fn f201_what_a_backup_finds_missing_is_told_as_damage() {
    let (node, disk) = node_with_journal();
    let push = |text: &str| {
        let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let digest = Digest::from_raw(Algorithm::Sha256, hash.as_ref()).unwrap();
        smol::block_on(async {
            let lease = node.store.blob_put(&digest, text.into()).await.unwrap();
            let len = text.len() as u64;
            node.store.link_blob(&"app".parse().unwrap(), &lease, len).await.unwrap();
        });
        digest
    };
    let [lost, whole] = ["lost", "whole"].map(push);
    disk.remove(&Layout::new("/s").blob(&lost)).unwrap();
    let nowhere = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let begun = node.ok("backup/begin", json!({}));
    for (digest, status) in [(&lost, 404), (&whole, 200), (&nowhere, 404)] {
        let path = format!("/admin/v1/backup/{}/{digest}", begun["id"].as_str().unwrap());
        assert_eq!(node.request(Method::Get, &path, "", true).0.status, status);
    }
    node.ok("backup/end", json!({ "id": begun["id"] }));
    let told = node.ok("status", json!({}));
    let found = json!([{ "digest": lost, "repositories": ["app"] }]);
    assert_eq!(told["damagedContent"], found, "{told}");
}

/// Symptom: a backup that another one had ended took the place of a whole one, with a part of the
/// content. Cause: what came no more was told like what is missing.
#[test]
fn f201_a_backup_that_has_ended_hears_so() {
    let (node, _disk) = node_with_journal();
    let begun = node.ok("backup/begin", json!({}));
    node.ok("backup/begin", json!({}));
    for piece in [format!("sha256:{}", "0".repeat(64)), "0".to_owned()] {
        let path = format!("/admin/v1/backup/{}/{piece}", begun["id"].as_str().unwrap());
        let (reply, _) = node.request(Method::Get, &path, "", true);
        assert_eq!(reply.status, 409);
    }
}

/// Symptom: another password of a sync token cut its device off, and nobody was told.
#[test]
fn f067_another_password_of_a_sync_token_names_the_device_that_goes_by_it() {
    let root = root();
    let create = json!({ "name": "dock01", "repository": ["a"] });
    let made = root.ok("connected-registry/create", create);
    let sync_token = made["syncToken"]["name"].as_str().unwrap().to_owned();
    root.ok("token/create", json!({ "name": "client01", "repository": [["a", "content/read"]] }));
    let generate = |name: &str| {
        let wanted = json!({ "name": name, "password1": true });
        let made = root.ok("token/credential-generate", wanted);
        made["warnings"].to_string()
    };
    for name in [&sync_token, "client01"] {
        generate(name);
    }
    let told = generate(&sync_token);
    assert!(told.contains("The device of 'dock01'") && told.contains("get-settings"), "{told}");
    assert!(!generate("client01").contains("device"));
}

#[test]
fn a_connected_registry_shows_and_leaves_changes_to_the_root() {
    let root = root();
    root.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    root.ok(
        "connected-registry/create",
        json!({ "name": "ship01", "repository": ["a"], "parent": "dock01" }),
    );
    let get = |name: &str| root.store.connected_registry(&name.parse().unwrap()).unwrap().unwrap();
    let token = |name: &str| root.store.token(&name.parse().unwrap()).unwrap().unwrap();
    let device = node_with(Role::Connected, "http", None);
    let (reply, _) = device.request(Method::Get, "/readyz", "", false);
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
    let config = NodeConfig {
        registry: "theroot".into(),
        node: get("dock01"),
        sync_token: token("dock01"),
        client_tokens: Vec::new(),
        children: vec![get("ship01")],
        child_tokens: vec![token("ship01")],
        scope_maps: smol::block_on(root.store.scope_maps()).unwrap(),
        descendants: Vec::new(),
    };
    smol::block_on(device.store.receive_config(config, "v1".to_owned())).unwrap();
    for (verb, body) in [
        ("token/create", json!({ "name": "my-token", "scopeMap": "dock01" })),
        ("connected-registry/get-settings", json!({ "name": "ship01" })),
        ("connected-registry/permissions-update", json!({ "name": "ship01", "add": ["b"] })),
    ] {
        let (status, message) = device.refused(verb, body);
        assert_eq!(status, 409);
        assert!(message.contains("'theroot'"), "{message}");
    }
    assert_eq!(device.ok("connected-registry/list", json!({})).as_array().unwrap().len(), 2);
    assert_eq!(device.ok("token/list", json!({})).as_array().unwrap().len(), 2);
    let map = device.ok("connected-registry/permissions-show", json!({ "name": "ship01" }));
    assert_eq!(map["name"], "ship01");
    let status = device.ok("status", json!({}));
    assert_eq!(
        (&status["role"], &status["connectedRegistry"]["name"]),
        (&"connected".into(), &"dock01".into())
    );
    assert_eq!(device.request(Method::Get, "/readyz", "", false).0.status, 200);
}

#[test]
fn health_metrics_and_designed_refusals() {
    let node = root();
    node.store.sys().metrics.requests.add(3);
    let (reply, text) = node.request(Method::Get, "/metrics", "", false);
    assert_eq!(reply.status, 200);
    assert!(text.contains("\nskerry_requests_total 3\n"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(' ').unwrap();
        assert!(text.contains(&format!("# TYPE {name} ")) && value.parse::<u64>().is_ok());
    }
    assert_eq!(node.request(Method::Get, "/healthz", "", false).1, "ok\n");
    assert_eq!(node.request(Method::Head, "/healthz", "", false).0.status, 200);
    assert_eq!(node.request(Method::Post, "/healthz", "", false).0.status, 405);
    assert_eq!(node.ok("status", json!({}))["role"], "root");
    assert_eq!(node.ok("status", json!({}))["connectedRegistries"], 0);
    let long = " ".repeat(usize::try_from(SMALL_BODY_BYTES_MAX).unwrap() + 1);
    for (method, path, body, management, status) in [
        (Method::Post, "/admin/v1/status", "", true, 200),
        (Method::Post, "/admin/v1/status", "", false, 404),
        (Method::Get, "/admin/v1/status", "", true, 405),
        (Method::Post, "/admin/v1/status", "{", true, 400),
        (Method::Post, "/admin/v1/status", "[]", true, 400),
        (Method::Post, "/admin/v1/status", r#"{"a":1}"#, true, 400),
        (Method::Post, "/admin/v1/status", &long, true, 413),
        (Method::Get, "/elsewhere", "", true, 404),
    ] {
        assert_eq!(
            node.request(method, path, body, management).0.status,
            status,
            "{path} {status}"
        );
    }
}

/// A desired state may have 15 MiB, and these are asked for every few seconds.
#[test]
fn f209_what_a_node_is_is_told_without_reading_all_that_is_desired() {
    let device = node_with(Role::Connected, "https", None);
    let node = connected_registry("dock01", None);
    let row = beginning("harbour", &node);
    smol::block_on(device.store.commit(move |txn| txn.put(self_config_key(), &row))).unwrap();
    assert!(device.store.self_config().is_err(), "the rest cannot be read");
    assert_eq!(device.request(Method::Get, "/readyz", "", false).0.status, 200);
    assert!(summary(&device.store, "", "").starts_with("dock01: "));
    assert_eq!(device.admin.manage.registry_name(), "harbour");
    assert_eq!(device.store.may_deliver(&"child01".parse().unwrap(), &node.name), Ok(false));
    assert_eq!(status_details(&device.store, Vec::new()), Ok(Vec::new()));
}

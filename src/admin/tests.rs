//! Management commands over a store in memory, as the command line sends them.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::http::ReplyBody;
use crate::http::request::Body;
use crate::store::connected_registries::StatusRecord;
use crate::store::node::self_config_key;
use crate::store::passwords;
use crate::sys::{Spawner, Sys};
use crate::types::RepositoryAction;
use crate::types::connected_registry::{Activation, StatusReport};
use crate::types::connection_string::ConnectionString;
use crate::types::message::NodeConfig;
use crate::types::token::PasswordSlot;

/// Children are in contact when the test says so.
#[derive(Default)]
struct TestContact(Mutex<bool>);

impl Contact for TestContact {
    fn state(
        &self,
        _: &ConnectedRegistry,
        reported: ConnectionState,
        _: Option<UnixSeconds>,
    ) -> ConnectionState {
        if *self.0.lock().unwrap() { reported } else { ConnectionState::Offline }
    }

    fn last_seen(&self, _: &ConnectedRegistryName) -> Option<UnixSeconds> {
        None
    }
}

struct Node {
    store: Store,
    admin: Admin,
    contact: Arc<TestContact>,
}

fn node_with(role: Role, scheme: &str, ca_fingerprint: Option<String>) -> Node {
    let store = Store::in_memory(Sys::real(Spawner::new()));
    let contact = Arc::new(TestContact::default());
    let options = AdminOptions {
        role,
        registry_name: "myregistry".into(),
        login_server: "reg.example:5000".into(),
        gateway_endpoint: "reg.site.data.example:5001".into(),
        scheme: scheme.into(),
        ca_fingerprint,
    };
    let admin = Admin::new(store.clone(), options, contact.clone());
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
            peer: None,
            secure: false,
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
fn f048_f061_scope_maps() {
    let node = root();
    let map = node.ok(
        "scope-map/create",
        json!({
            "name": "My-Map",
            "repository": [["hello-world", "content/read", "metadata/read"], ["Team/*", "CONTENT/READ"]],
            "gateway": [["Dock01", "config/read"]],
            "description": "for dock 1",
        }),
    );
    assert_eq!((&map["name"], &map["description"]), (&"my-map".into(), &"for dock 1".into()));
    assert!(map["id"].as_str().unwrap().ends_with("/registries/myregistry/scopeMaps/my-map"));
    assert_eq!(
        node.actions("my-map"),
        [
            "repositories/team/*/content/read",
            "repositories/hello-world/content/read",
            "repositories/hello-world/metadata/read",
            "gateway/dock01/config/read",
        ]
    );
    for (verb, body, status, text) in [
        (
            "scope-map/create",
            json!({ "name": "my-map", "repository": [["a", "content/read"]] }),
            409,
            "exists already",
        ),
        ("scope-map/create", json!({ "name": "other" }), 400, "at least one"),
        (
            "scope-map/create",
            json!({ "name": "other", "repository": [["a"]] }),
            400,
            "At least one action must be specified with \"a\"",
        ),
        (
            "scope-map/create",
            json!({ "name": "other", "repository": [["a", "fly"]] }),
            400,
            "content/read, content/write",
        ),
        (
            "scope-map/create",
            json!({ "name": "other", "repository": [["a/*/b", "content/read"]] }),
            400,
            "wildcard",
        ),
        ("scope-map/create", json!({ "name": "oth", "repository": [] }), 400, "5 to 50"),
        (
            "scope-map/create",
            json!({ "name": "other", "description": "x".repeat(257), "repository": [["a", "content/read"]] }),
            400,
            "256",
        ),
        ("scope-map/create", json!({ "name": "other", "colour": "red" }), 400, "colour"),
        ("scope-map/create", json!({}), 400, "name"),
        (
            "scope-map/update",
            json!({ "name": "my-map" }),
            400,
            "No scope map properties to update.",
        ),
        (
            "scope-map/update",
            json!({ "name": "my-map", "addRepository": [["a", "content/read"]], "removeRepository": [["a", "content/read"]] }),
            400,
            "Update ambiguity",
        ),
        (
            "scope-map/update",
            json!({ "name": "no-map", "description": "x" }),
            404,
            "'no-map' could not be found",
        ),
        ("scope-map/show", json!({ "name": "no-map" }), 404, "no-map"),
        ("scope-map/delete", json!({ "name": "no-map" }), 404, "no-map"),
        ("scope-map/fly", json!({}), 404, "scope-map/fly"),
    ] {
        let (found, message) = node.refused(verb, body);
        assert_eq!(found, status, "{message}");
        assert!(message.contains(text), "{message}");
    }
    node.ok(
        "scope-map/update",
        json!({ "name": "my-map", "addRepository": [["a", "content/read"]],
                "removeGateway": [["dock01", "config/read"]] }),
    );
    assert_eq!(node.actions("my-map").len(), 4);
    assert_eq!(node.ok("scope-map/list", json!({})).as_array().unwrap().len(), 1);
    node.ok("token/create", json!({ "name": "my-token", "scopeMap": "my-map" }));
    let (status, message) = node.refused("scope-map/delete", json!({ "name": "my-map" }));
    assert_eq!(status, 409);
    assert!(message.contains("'my-token'"));
    node.ok("token/delete", json!({ "name": "my-token" }));
    assert_eq!(node.ok("scope-map/delete", json!({ "name": "my-map" })), Value::Null);
}

#[test]
fn f060_a_scope_map_is_bounded() {
    let node = root();
    let rules = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!([format!("r{n}"), "content/read"])).collect()
    };
    node.ok("scope-map/create", json!({ "name": "big-map", "repository": rules(500) }));
    let (status, message) =
        node.refused("scope-map/create", json!({ "name": "bigger", "repository": rules(501) }));
    assert_eq!(status, 400);
    assert!(message.contains("501") && message.contains("500"), "{message}");
}

#[test]
fn f049_f050_f051_f059_tokens_and_their_passwords() {
    let node = root();
    let created = node.ok(
        "token/create",
        json!({ "name": "My-Token", "repository": [["a", "content/read"]], "expirationInDays": 2 }),
    );
    assert_eq!(created["credentials"]["username"], "my-token");
    let passwords = created["credentials"]["passwords"].as_array().unwrap();
    assert_eq!(passwords.len(), 2);
    assert_eq!(
        (&passwords[0]["name"], &passwords[1]["name"]),
        (&"password1".into(), &"password2".into())
    );
    assert!(passwords[0]["value"].as_str().unwrap().len() >= 43);
    assert!(passwords[0]["expiry"].as_str().unwrap().ends_with('Z'));
    assert!(created["scopeMapId"].as_str().unwrap().ends_with("/my-token-scope-map"));
    assert_eq!(node.actions("my-token-scope-map"), ["repositories/a/content/read"]);
    let shown = node.ok("token/show", json!({ "name": "my-token" }));
    let listed = node.ok("token/list", json!({}));
    for text in [shown.to_string(), listed.to_string()] {
        assert!(!text.contains("value"));
        assert!(passwords.iter().all(|p| !text.contains(p["value"].as_str().unwrap())));
    }
    let again =
        node.ok("token/credential-generate", json!({ "name": "my-token", "password2": true }));
    assert_eq!(again["passwords"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&again["passwords"][0]["name"], &again["passwords"][0]["expiry"]),
        (&"password2".into(), &Value::Null)
    );
    let stored = node.store.token(&"my-token".parse().unwrap()).unwrap().unwrap();
    let matches = |slot: PasswordSlot, value: &Value| {
        let verifier = stored.passwords[slot.index()].as_ref().unwrap();
        passwords::matches(verifier, value["value"].as_str().unwrap())
    };
    assert!(matches(PasswordSlot::One, &passwords[0]));
    assert!(!matches(PasswordSlot::Two, &passwords[1]));
    assert!(matches(PasswordSlot::Two, &again["passwords"][0]));
    let both = node.ok("token/credential-generate", json!({ "name": "my-token" }));
    assert_eq!(both["passwords"].as_array().unwrap().len(), 2);
    let rest = node.ok("token/credential-delete", json!({ "name": "my-token", "password1": true }));
    assert_eq!(rest["credentials"]["passwords"].as_array().unwrap().len(), 1);
    let bare = json!({ "name": "bare-token", "scopeMap": "my-token-scope-map", "noPasswords": true, "status": "disabled" });
    let bare = node.ok("token/create", bare);
    assert_eq!(
        (&bare["status"], &bare["credentials"]["passwords"]),
        (&"disabled".into(), &json!([]))
    );
    let updated = node.ok("token/update", json!({ "name": "bare-token", "status": "enabled" }));
    assert_eq!(updated["status"], "enabled");
    let long = "x".repeat(41);
    for (verb, body, status, text) in [
        (
            "token/create",
            json!({ "name": "my-token", "scopeMap": "my-token-scope-map" }),
            409,
            "exists already",
        ),
        ("token/create", json!({ "name": "other" }), 400, "either"),
        (
            "token/create",
            json!({ "name": "other", "scopeMap": "m-map", "repository": [["a", "content/read"]] }),
            400,
            "either",
        ),
        (
            "token/create",
            json!({ "name": "other", "scopeMap": "no-map" }),
            400,
            "'no-map' could not be found",
        ),
        (
            "token/create",
            json!({ "name": long, "repository": [["a", "content/read"]] }),
            400,
            "at most 40 characters",
        ),
        (
            "token/create",
            json!({ "name": "other", "scopeMap": "my-token-scope-map", "expirationInDays": 0 }),
            400,
            "more than 0",
        ),
        (
            "token/create",
            json!({ "name": "other", "scopeMap": "my-token-scope-map", "expirationInDays": 1, "expiration": "2030-01-01T00:00:00Z" }),
            400,
            "either",
        ),
        (
            "token/create",
            json!({ "name": "other", "scopeMap": "my-token-scope-map", "expiration": "2001-01-01T00:00:00Z" }),
            400,
            "past",
        ),
        (
            "token/create",
            json!({ "name": "other", "scopeMap": "my-token-scope-map", "expiration": "soon" }),
            400,
            "soon",
        ),
        (
            "token/create",
            json!({ "name": "other", "scopeMap": "my-token-scope-map", "noPasswords": true, "expirationInDays": 1 }),
            400,
            "expire",
        ),
        ("token/update", json!({ "name": "my-token" }), 400, "No token properties"),
        ("token/update", json!({ "name": "my-token", "status": "asleep" }), 400, "asleep"),
        ("token/update", json!({ "name": "no-token", "status": "enabled" }), 404, "no-token"),
        (
            "token/credential-delete",
            json!({ "name": "my-token" }),
            400,
            "No credentials to delete.",
        ),
        (
            "token/credential-delete",
            json!({ "name": "my-token", "password1": true, "password2": true }),
            400,
            "no password1",
        ),
        ("token/credential-generate", json!({ "name": "no-token" }), 404, "no-token"),
    ] {
        let (found, message) = node.refused(verb, body);
        assert_eq!(found, status, "{message}");
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn f001_f013_f021_f022_f063_f064_f065_create_and_show() {
    let node = root();
    let created = node.ok(
        "connected-registry/create",
        json!({ "name": "Dock01", "repository": ["hello-world", "team/*"], "mode": "ReadOnly",
                "syncSchedule": "0 12 * * *", "syncWindow": "PT3H", "logLevel": "debug" }),
    );
    assert_eq!(created["syncToken"]["credentials"]["username"], "dock01");
    assert_eq!(created["syncToken"]["credentials"]["passwords"].as_array().unwrap().len(), 2);
    assert_eq!(created.get("warnings"), None);
    let shown = node.ok("connected-registry/show", json!({ "name": "dock01" }));
    for (pointer, value) in [
        ("/name", json!("dock01")),
        ("/mode", json!("ReadOnly")),
        ("/activation/status", json!("Inactive")),
        ("/connectionState", json!("Offline")),
        ("/lastActivityTime", Value::Null),
        ("/loginServer", Value::Null),
        ("/version", Value::Null),
        ("/statusDetails", json!([])),
        ("/clientTokenIds", json!([])),
        ("/logging/logLevel", json!("Debug")),
        ("/parent/id", Value::Null),
        ("/parent/syncProperties/schedule", json!("0 12 * * *")),
        ("/parent/syncProperties/syncWindow", json!("PT3H")),
        ("/parent/syncProperties/messageTtl", json!("P2D")),
        ("/parent/syncProperties/lastSyncTime", Value::Null),
        ("/parent/syncProperties/gatewayEndpoint", json!("reg.site.data.example:5001")),
        ("/provisioningState", json!("Succeeded")),
    ] {
        assert_eq!(shown.pointer(pointer), Some(&value), "{pointer}");
    }
    let token = &shown["parent"]["syncProperties"]["tokenId"];
    assert!(token.as_str().unwrap().ends_with("/tokens/dock01"));
    assert_eq!(
        node.actions("dock01"),
        [
            "repositories/team/*/content/read",
            "repositories/team/*/metadata/read",
            "repositories/hello-world/content/read",
            "repositories/hello-world/metadata/read",
            "gateway/dock01/config/read",
            "gateway/dock01/config/write",
            "gateway/dock01/message/read",
            "gateway/dock01/message/write",
        ]
    );
    let other =
        node.ok("connected-registry/create", json!({ "name": "dock02", "repository": ["a"] }));
    assert_eq!(other["mode"], "ReadWrite");
    assert!(other["warnings"][0].as_str().unwrap().contains("ReadWrite"));
    assert_eq!(node.actions("dock02").len(), 9);
    let child = json!({ "name": "child01", "repository": ["a"], "parent": "dock01" });
    let child = node.ok("connected-registry/create", child);
    assert_eq!(child["mode"], "ReadOnly", "under a ReadOnly parent");
    assert!(child["parent"]["id"].as_str().unwrap().ends_with("/connectedRegistries/dock01"));
}

#[test]
fn f011_to_f020_rules_of_create_and_update() {
    let node = root();
    let create = |name: &str, more: Value| {
        let mut body = json!({ "name": name, "repository": ["a"] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    node.ok("connected-registry/create", create("readonly", json!({ "mode": "mirror" })));
    node.ok("connected-registry/create", create("readwrite", json!({ "mode": "registry" })));
    let child = |parent: &str, mode: &str| json!({ "parent": parent, "mode": mode });
    node.ok("connected-registry/create", create("child1", child("readonly", "ReadOnly")));
    node.ok("connected-registry/create", create("child2", child("readwrite", "ReadOnly")));
    node.ok("connected-registry/create", create("child3", child("readwrite", "ReadWrite")));
    node.ok("token/create", json!({ "name": "client-1", "repository": [["a", "content/read"]] }));
    let many: Vec<String> = (0..51).map(|n| format!("client-{n}")).collect();
    for (body, status, text) in [
        (create("READONLY", json!({})), 409, "exists already"),
        (
            create("other", child("readonly", "ReadWrite")),
            400,
            "mode 'ReadWrite' when the connected registry parent 'readonly' mode is 'ReadOnly'",
        ),
        (
            create("other", child("nobody", "ReadOnly")),
            400,
            "The parent connected registry 'nobody' could not be found.",
        ),
        (create("other", json!({ "mode": "fast" })), 400, "ReadOnly, ReadWrite"),
        (create("other", json!({ "syncToken": "client-1" })), 400, "but not both"),
        (json!({ "name": "other" }), 400, "either --sync-token or --repository"),
        (json!({ "name": "other", "syncToken": "nobody" }), 400, "'nobody' could not be found"),
        (json!({ "name": "other", "syncToken": "child1" }), 409, "already the sync token"),
        (
            create("client1", json!({ "clientTokens": ["nobody"] })),
            400,
            "'nobody' could not be found",
        ),
        (create("other", json!({ "clientTokens": ["child1"] })), 400, "sync token"),
        (create("other", json!({ "clientTokens": many })), 400, "at most 50"),
        (create("other", json!({ "syncSchedule": "daily" })), 400, "daily"),
        (create("other", json!({ "syncWindow": "PT3H" })), 400, "schedule"),
        (
            create("other", json!({ "syncSchedule": "0 1 * * *", "syncWindow": "PT1M" })),
            400,
            "PT1H to P7D",
        ),
        (
            create("other", json!({ "syncSchedule": "0 1 * * *", "syncWindow": "P8D" })),
            400,
            "PT1H to P7D",
        ),
        (create("other", json!({ "syncMessageTtl": "PT1H" })), 400, "P1D to P90D"),
        (create("other", json!({ "syncMessageTtl": "2 days" })), 400, "ISO 8601"),
        (create("other", json!({ "logLevel": "loud" })), 400, "Warning"),
        (create("ab", json!({})), 400, "5 to 50"),
        (create("dock-1", json!({})), 400, "letters or digits"),
    ] {
        let (found, message) = node.refused("connected-registry/create", body);
        assert_eq!(found, status, "{message}");
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn f025_f027_f072_update_and_delete() {
    let node = root();
    node.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    for name in ["client-1", "client-2"] {
        node.ok("token/create", json!({ "name": name, "repository": [["a", "content/read"]] }));
    }
    let update = |body: Value| node.ok("connected-registry/update", body);
    update(json!({ "name": "dock01", "addClientTokens": ["client-1", "client-1"] }));
    let shown = update(json!({ "name": "dock01", "addClientTokens": ["client-2"],
                               "removeClientTokens": ["client-1"] }));
    assert_eq!(shown["clientTokenIds"].as_array().unwrap().len(), 1);
    let tokens = node.ok("connected-registry/list-client-tokens", json!({ "name": "dock01" }));
    assert_eq!(tokens[0]["name"], "client-2");
    let both = json!({ "name": "dock01", "addClientTokens": ["client-1"], "removeClientTokens": ["client-1"] });
    assert!(node.refused("connected-registry/update", both).1.contains("Update ambiguity"));
    let window = json!({ "name": "dock01", "syncSchedule": "0 1 * * *", "syncWindow": "PT2H" });
    assert_eq!(update(window)["parent"]["syncProperties"]["syncWindow"], "PT2H");
    let continuous = update(json!({ "name": "dock01", "syncSchedule": "* * * * *" }));
    assert_eq!(continuous["parent"]["syncProperties"]["syncWindow"], Value::Null);

    let (status, message) = node.refused("token/delete", json!({ "name": "dock01" }));
    assert_eq!(status, 409);
    assert!(message.contains("sync token"));
    node.ok("token/delete", json!({ "name": "client-2" }));
    let tokens = node.ok("connected-registry/list-client-tokens", json!({ "name": "dock01" }));
    assert_eq!(tokens, json!([]));
}

#[test]
fn f023_lists_show_every_branch() {
    let node = root();
    let create = |name: &str, parent: Option<&str>| {
        let body = json!({ "name": name, "repository": ["a"], "parent": parent });
        node.ok("connected-registry/create", body);
    };
    create("left1", None);
    create("right1", None);
    for (name, parent) in
        [("left2a", "left1"), ("left2b", "left1"), ("left3a", "left2a"), ("left3b", "left2b")]
    {
        create(name, Some(parent));
    }
    let list = |body: Value| -> Vec<String> {
        let listed = node.ok("connected-registry/list", body);
        listed.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list(json!({})).len(), 6);
    assert_eq!(list(json!({ "noChildren": true })), ["left1", "right1"]);
    assert_eq!(list(json!({ "parent": "left1" })), ["left2a", "left2b", "left3a", "left3b"]);
    assert_eq!(list(json!({ "parent": "left1", "noChildren": true })), ["left2a", "left2b"]);
    assert_eq!(node.refused("connected-registry/list", json!({ "parent": "nobody" })).0, 404);
    let (status, message) = node.refused("connected-registry/delete", json!({ "name": "left2a" }));
    assert_eq!((status, message.contains("'left3a'")), (409, true), "{message}");
}

#[test]
fn f026_f066_f083_sync_tokens_and_cleanup() {
    let node = root();
    node.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    node.ok("token/create", json!({ "name": "sync-token", "repository": [["b", "content/read"]] }));
    let body = json!({ "name": "ship01", "syncToken": "sync-token", "parent": "dock01" });
    let created = node.ok("connected-registry/create", body);
    assert_eq!(created.get("syncToken"), None);
    let gateway = |map: &str| node.actions(map).iter().filter(|a| a.contains("/ship01/")).count();
    assert_eq!((gateway("sync-token-scope-map"), gateway("dock01")), (4, 4));
    assert!(node.actions("dock01").contains(&"repositories/b/content/read".to_owned()));
    let delete = |cleanup| json!({ "name": "ship01", "cleanup": cleanup });
    assert_eq!(node.ok("connected-registry/delete", delete(false)), Value::Null);
    node.ok("token/show", json!({ "name": "sync-token" }));
    assert_eq!(gateway("dock01"), 4);
    let body = json!({ "name": "ship01", "syncToken": "sync-token", "parent": "dock01" });
    node.ok("connected-registry/create", body);
    node.ok("connected-registry/delete", delete(true));
    assert_eq!(node.refused("token/show", json!({ "name": "sync-token" })).0, 404);
    assert_eq!(node.refused("scope-map/show", json!({ "name": "sync-token-scope-map" })).0, 404);
    assert_eq!(gateway("dock01"), 0);
    assert!(node.actions("dock01").contains(&"repositories/b/content/read".to_owned()));
    assert_eq!(node.refused("connected-registry/delete", delete(true)).0, 404);
}

#[test]
fn f078_f079_f080_f081_permissions_cascade() {
    let node = root();
    let create = |name: &str, parent: Option<&str>, repository: &str| {
        let body = json!({ "name": name, "repository": [repository], "parent": parent });
        node.ok("connected-registry/create", body);
    };
    create("tier1", None, "a");
    create("tier2", Some("tier1"), "b");
    create("tier3", Some("tier2"), "c");
    create("tier3b", Some("tier2"), "b");
    let has = |map: &str, repository: &str| {
        let start = format!("repositories/{repository}/");
        node.actions(map).iter().filter(|action| action.starts_with(&start)).count()
    };
    let gateways = |map: &str| node.actions(map).iter().filter(|a| a.starts_with("gate")).count();
    assert_eq!([gateways("tier1"), gateways("tier2"), gateways("tier3")], [16, 12, 4]);
    assert_eq!([has("tier1", "c"), has("tier2", "c"), has("tier3", "a")], [5, 5, 0]);
    let update = |name: &str, add: &[&str], remove: &[&str]| {
        let body = json!({ "name": name, "add": add, "remove": remove });
        node.ok("connected-registry/permissions-update", body)
    };
    let map = update("tier3", &["d", "team/*"], &[]);
    assert_eq!(map["name"], "tier3");
    assert_eq!(
        [has("tier1", "d"), has("tier2", "d"), has("tier3", "d"), has("tier3b", "d")],
        [5, 5, 5, 0]
    );
    update("tier2", &[], &["b", "d"]);
    assert_eq!([has("tier1", "b"), has("tier2", "b"), has("tier3b", "b")], [5, 0, 0]);
    assert_eq!([has("tier1", "d"), has("tier2", "d"), has("tier3", "d")], [5, 0, 0]);
    let shown = node.ok("connected-registry/permissions-show", json!({ "name": "tier2" }));
    assert_eq!(shown["name"], "tier2");
    // What is removed by name goes everywhere below; what a narrower wildcard above still covers
    // stays.
    update("tier3b", &["team/x"], &[]);
    update("tier1", &["team/y"], &["team/*", "team/x"]);
    assert_eq!([has("tier3b", "team/x"), has("tier3", "team/*"), has("tier2", "team/*")], [0; 3]);
    update("tier3", &["team/*"], &["c"]);
    let mut rule = vec!["team/*"];
    rule.extend(RepositoryAction::ALL.map(RepositoryAction::name));
    let narrow = json!({ "name": "tier1", "removeRepository": [rule] });
    node.ok("scope-map/update", narrow);
    assert_eq!([has("tier1", "team/y"), has("tier2", "team/y"), has("tier3", "team/y")], [5; 3]);
    assert_eq!([has("tier1", "team/*"), has("tier2", "team/*"), has("tier3", "team/*")], [0; 3]);
    for (add, remove, text) in [
        (vec![], vec![], "No repository permissions to update."),
        (vec!["a", "b"], vec!["a"], "Update ambiguity. Duplicate repository names 'a'."),
    ] {
        let body = json!({ "name": "tier1", "add": add, "remove": remove });
        let (status, message) = node.refused("connected-registry/permissions-update", body);
        assert_eq!((status, message.as_str()), (400, text));
    }
    update("tier1", &["wide/*"], &[]);
    let covered = json!({ "name": "tier1", "remove": ["wide/x"] });
    let (_, message) = node.refused("connected-registry/permissions-update", covered);
    assert!(message.contains("still be granted by 'wide/*'"), "{message}");
    node.ok(
        "scope-map/update",
        json!({ "name": "tier2", "addRepository": [["e", "content/read"]] }),
    );
    assert_eq!([has("tier1", "e"), has("tier2", "e")], [1, 1]);
    node.ok(
        "scope-map/update",
        json!({ "name": "tier1", "removeRepository": [["e", "content/read"]] }),
    );
    assert_eq!([has("tier1", "e"), has("tier2", "e")], [0, 0]);
    node.ok(
        "scope-map/create",
        json!({ "name": "new-map", "repository": [["f", "content/read"]] }),
    );
    node.ok("token/update", json!({ "name": "tier2", "scopeMap": "new-map" }));
    assert_eq!([has("tier1", "f"), has("tier3", "c")], [1, 0]);
    let (status, _) =
        node.refused("token/update", json!({ "name": "tier3", "scopeMap": "new-map" }));
    assert_eq!(status, 409);
}

#[test]
fn f067_f068_f069_get_settings() {
    let node = node_with(Role::Root, "https", Some("ab".repeat(32)));
    node.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    node.ok(
        "connected-registry/create",
        json!({ "name": "ship01", "repository": ["a"], "parent": "dock01" }),
    );
    let before = node.store.token(&"dock01".parse().unwrap()).unwrap().unwrap();
    let plain = node.ok("connected-registry/get-settings", json!({ "name": "dock01" }));
    assert_eq!(
        plain["ACR_REGISTRY_CONNECTION_STRING"].as_str().unwrap(),
        format!(
            "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword=<use \
             --generate-password to generate a new password>;ParentGatewayEndpoint=\
             reg.site.data.example:5001;ParentEndpointProtocol=https;ParentCaFingerprint=sha256:{}",
            "ab".repeat(32)
        )
    );
    assert_eq!(plain["SYNC_TOKEN_USER"], "dock01");
    assert!(node.store.token(&"dock01".parse().unwrap()).unwrap().unwrap() == before);
    let settings = json!({ "name": "dock01", "generatePassword": 2, "parentProtocol": "http" });
    let settings = node.ok("connected-registry/get-settings", settings);
    assert!(settings["warnings"][0].as_str().unwrap().contains("https"));
    let text = settings["ACR_REGISTRY_CONNECTION_STRING"].as_str().unwrap();
    let parsed = ConnectionString::parse(text, |_| None).unwrap();
    assert_eq!(settings["SYNC_TOKEN_PASSWORD"], parsed.password.expose());
    let after = node.store.token(&"dock01".parse().unwrap()).unwrap().unwrap();
    assert!(after.passwords[0] == before.passwords[0]);
    let verifier = after.passwords[1].as_ref().unwrap();
    assert!(passwords::matches(verifier, parsed.password.expose()));
    let three = json!({ "name": "dock01", "generatePassword": 3 });
    assert_eq!(node.refused("connected-registry/get-settings", three).0, 400);

    let child = |node: &Node| {
        let body = json!({ "name": "ship01", "parentProtocol": "http" });
        let settings = node.ok("connected-registry/get-settings", body);
        settings["ACR_REGISTRY_CONNECTION_STRING"].as_str().unwrap().to_owned()
    };
    assert!(child(&node).contains("ParentGatewayEndpoint=<parent gateway endpoint>"));
    let report = StatusReport { login_server: "dock.lan:8080".into(), ..StatusReport::default() };
    let status = StatusRecord { report, last_contact: UnixSeconds(9) };
    smol::block_on(node.store.record_status("dock01".parse().unwrap(), status)).unwrap();
    let text = child(&node);
    assert!(text.contains("=dock.lan:8080;ParentEndpointProtocol=http"), "{text}");
    assert!(!text.contains("Fingerprint"));

    let plain = node_with(Role::Root, "http", None);
    plain.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    let settings = plain.ok("connected-registry/get-settings", json!({ "name": "dock01" }));
    assert!(settings["warnings"][0].as_str().unwrap().contains("not encrypted"));
}

#[test]
fn f032_f035_states_follow_activation_and_contact() {
    let node = root();
    node.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    let name = || "dock01".parse::<ConnectedRegistryName>().unwrap();
    let show = || {
        let shown = node.ok("connected-registry/show", json!({ "name": "dock01" }));
        [&shown["activation"]["status"], &shown["connectionState"]]
            .map(|v| v.as_str().unwrap().to_owned())
    };
    let report = StatusReport {
        version: "1.2.3".into(),
        login_server: "dock.lan:8080".into(),
        state: ConnectionState::Online,
        ..StatusReport::default()
    };
    let status = StatusRecord { report, last_contact: UnixSeconds(1_800_000_000) };
    smol::block_on(node.store.record_status(name(), status.clone())).unwrap();
    *node.contact.0.lock().unwrap() = true;
    assert_eq!(show(), ["Inactive", "Offline"]);
    let activation = Activation { epoch: 1, instance_id: "i".into(), at: UnixSeconds(1) };
    smol::block_on(node.store.record_activation(name(), activation)).unwrap();
    assert_eq!(show(), ["Active", "Online"]);
    let shown = node.ok("connected-registry/show", json!({ "name": "dock01" }));
    assert_eq!(shown["loginServer"]["host"], "dock.lan:8080");
    assert_eq!(
        (&shown["version"], &shown["lastActivityTime"]),
        (&"1.2.3".into(), &"2027-01-15T08:00:00Z".into())
    );
    *node.contact.0.lock().unwrap() = false;
    assert_eq!(show(), ["Active", "Offline"]);
    node.ok("connected-registry/deactivate", json!({ "name": "dock01" }));
    assert_eq!(show(), ["Inactive", "Offline"]);
    let unknown = smol::block_on(node.store.record_status("nobody".parse().unwrap(), status));
    assert!(unknown.is_err());
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
        scope_maps: root.store.scope_maps().unwrap(),
        descendants: Vec::new(),
    };
    smol::block_on(device.store.commit(move |txn| txn.put(self_config_key(), &config))).unwrap();
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
    assert_eq!(node.request(Method::Head, "/healthz", "", false).1, "");
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

//! Connected registries.

use serde_json::{Value, json};

use super::{Node, node_of, node_with, options, root};
use crate::manage::Options;
use crate::store::rows::connected_registry::StatusRecord;
use crate::store::tree::passwords;
use crate::sys::clock::EARLIEST_TIME;
use crate::types::connected_registry::{Activation, ConnectionState, StatusReport};
use crate::types::connection_string::ConnectionString;
use crate::types::{ConnectedRegistryName, RepositoryAction, Role, UnixSeconds};

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
            404,
            "The parent connected registry 'nobody' could not be found.",
        ),
        (create("other", json!({ "mode": "fast" })), 400, "ReadOnly, ReadWrite"),
        (create("other", json!({ "syncToken": "client-1" })), 400, "but not both"),
        (json!({ "name": "other" }), 400, "either --sync-token or --repository"),
        (json!({ "name": "other", "syncToken": "nobody" }), 404, "'nobody' could not be found"),
        (json!({ "name": "other", "syncToken": "child1" }), 409, "already the sync token"),
        (
            create("client1", json!({ "clientTokens": ["nobody"] })),
            404,
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
    let both = json!({ "name": "dock01", "addClientTokens": ["client-1"],
                       "removeClientTokens": ["client-1"] });
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
    let left = node.ok("connected-registry/delete", delete(false));
    let told = left["warnings"][0].as_str().unwrap();
    assert!(told.contains("skerry token delete --name sync-token"), "{told}");
    assert!(told.contains("skerry scope-map delete --name sync-token-scope-map"), "{told}");
    node.ok("token/show", json!({ "name": "sync-token" }));
    assert_eq!(gateway("dock01"), 4);
    let body = json!({ "name": "ship01", "syncToken": "sync-token", "parent": "dock01" });
    node.ok("connected-registry/create", body);
    assert_eq!(node.ok("connected-registry/delete", delete(true)), Value::Null);
    assert_eq!(node.refused("token/show", json!({ "name": "sync-token" })).0, 404);
    assert_eq!(node.refused("scope-map/show", json!({ "name": "sync-token-scope-map" })).0, 404);
    assert_eq!(gateway("dock01"), 0);
    assert!(node.actions("dock01").contains(&"repositories/b/content/read".to_owned()));
    assert_eq!(node.refused("connected-registry/delete", delete(true)).0, 404);
}

#[test]
fn f026_what_a_deleted_connected_registry_left_is_named_when_it_is_in_the_way() {
    let node = root();
    let create = || json!({ "name": "dock01", "repository": ["a"] });
    node.ok("connected-registry/create", create());
    node.ok("connected-registry/delete", json!({ "name": "dock01" }));
    let (token, map) =
        ("skerry token delete --name dock01", "skerry scope-map delete --name dock01");
    for delete in [None, Some("token/delete")] {
        if let Some(path) = delete {
            node.ok(path, json!({ "name": "dock01" }));
        }
        let (status, message) = node.refused("connected-registry/create", create());
        assert_eq!(status, 409);
        let wanted = (delete.is_none(), true);
        assert_eq!((message.contains(token), message.contains(map)), wanted, "{message}");
    }
    node.ok("scope-map/delete", json!({ "name": "dock01" }));
    node.ok("connected-registry/create", create());
}

/// Symptom: `create` did not say what `permissions update` says.
#[test]
fn f079_a_parent_that_only_mirrors_for_a_new_child_is_told() {
    let node = root();
    let create = |name: &str, parent: Option<&str>, mode: &str| {
        let body =
            json!({ "name": name, "parent": parent, "mode": mode, "repository": ["team/*"] });
        node.ok("connected-registry/create", body)["warnings"].to_string()
    };
    let mid = json!({ "name": "mid01", "mode": "ReadWrite", "repository": ["app"] });
    node.ok("connected-registry/create", mid);
    let told = create("leaf01", Some("mid01"), "ReadOnly");
    let wanted = "'mid01' is ReadWrite and mirrors team/* now, but may not write there: it refuses \
                  pushes to it. To allow them: skerry connected-registry permissions update \
                  --name mid01 --add team/*";
    assert!(told.contains(wanted), "{told}");
    let add = json!({ "name": "mid01", "add": ["team/*"] });
    node.ok("connected-registry/permissions-update", add);
    assert!(!create("leaf02", Some("mid01"), "ReadOnly").contains("refuses pushes"));
    let other = create("mid02", None, "ReadOnly");
    assert!(!other.contains("refuses pushes"), "{other}");
    let below = json!({ "name": "leaf03", "parent": "mid02", "repository": ["new"] });
    let told = node.ok("connected-registry/create", below)["warnings"].to_string();
    assert!(!told.contains("refuses pushes"), "a ReadOnly node takes no pushes: {told}");
    let below = json!({ "name": "leaf04", "parent": "mid01", "mode": "ReadWrite",
                        "repository": ["new"] });
    let told = node.ok("connected-registry/create", below)["warnings"].to_string();
    assert!(!told.contains("refuses pushes"), "it may write there too: {told}");
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

/// A root on the default address and a gateway of the network: its devices could not log in.
#[test]
fn f069_a_device_that_could_not_log_in_at_its_parent_is_told() {
    let node = root();
    node.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    let get = |node: &Node| node.ok("connected-registry/get-settings", json!({ "name": "dock01" }));
    assert!(get(&node)["warnings"].is_null(), "{}", get(&node));
    let login_server = "127.0.0.1:5000".into();
    let options = Options { login_server, ..options(Role::Root, "https", None) };
    let node = node_of(node.store, options);
    let told = get(&node)["warnings"][0].as_str().unwrap().to_owned();
    assert!(told.contains("127.0.0.1:5000") && told.contains("listen.login"), "{told}");
}

#[test]
fn f067_f068_a_connected_registry_is_made_with_all_that_its_device_needs() {
    let node = root();
    let wanted = json!({ "name": "dock01", "repository": ["a"], "connectionString": true });
    let made = node.ok("connected-registry/create", wanted);
    let text = made["ACR_REGISTRY_CONNECTION_STRING"].as_str().unwrap();
    let parsed = ConnectionString::parse(text, |_| None).unwrap();
    let passwords = &made["syncToken"]["credentials"]["passwords"];
    assert_eq!(passwords[0]["value"], parsed.password.expose());
    let token = node.store.token(&"dock01".parse().unwrap()).unwrap().unwrap();
    let verifier = token.passwords[0].as_ref().unwrap();
    assert!(passwords::matches(verifier, parsed.password.expose()));
    // What get-settings warns of is known as well.
    let wanted = json!({
        "name": "ship01", "repository": ["a"], "parent": "dock01", "connectionString": true,
    });
    let made = node.ok("connected-registry/create", wanted);
    assert!(made["warnings"].to_string().contains("dock01"), "{made}");
    let plain = json!({ "name": "dock02", "repository": ["a"] });
    let made = node.ok("connected-registry/create", plain);
    assert_eq!(made.get("ACR_REGISTRY_CONNECTION_STRING"), None);
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
    let warnings = |login: &str| {
        let report = StatusReport { login_server: login.into(), ..StatusReport::default() };
        let status = StatusRecord { report, last_contact: UnixSeconds(9) };
        smol::block_on(node.store.record_status("dock01".parse().unwrap(), status)).unwrap();
        let settings = node.ok("connected-registry/get-settings", json!({ "name": "ship01" }));
        settings["warnings"].to_string()
    };
    for (login, warned) in [
        ("127.0.0.1:5100", true),
        ("[::1]:5100", true),
        ("localhost", true),
        ("dock.lan:8080", false),
        ("192.0.2.1", false),
    ] {
        let text = warnings(login);
        assert_eq!(text.contains("cannot reach"), warned, "{login}: {text}");
    }

    // Symptom: the device did not trust a self-signed connected registry, and nothing said why.
    assert!(!warnings("dock.lan:8080").contains("caFingerprint"));
    let report =
        StatusReport { login_server: "dock.lan:8080".into(), tls: true, ..StatusReport::default() };
    let status = StatusRecord { report, last_contact: UnixSeconds(9) };
    smol::block_on(node.store.record_status("dock01".parse().unwrap(), status)).unwrap();
    let body = json!({ "name": "ship01", "generatePassword": 1 });
    let settings = node.ok("connected-registry/get-settings", body);
    let told = settings["warnings"].to_string();
    assert!(told.contains("caFingerprint that `skerry status` shows at 'dock01'"), "{told}");
    // What a self-signed node shows can be appended as it is.
    let shown = node.ok("status", json!({}));
    let [text, fingerprint] =
        [&settings["ACR_REGISTRY_CONNECTION_STRING"], &shown["caFingerprint"]]
            .map(|value| value.as_str().unwrap());
    let text = format!("{text};ParentCaFingerprint={fingerprint}");
    let parsed = ConnectionString::parse(&text, |_| None).unwrap();
    assert_eq!(parsed.ca_fingerprint, Some("ab".repeat(32)));

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
    smol::block_on(node.store.record_status(name(), status)).unwrap();
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
}

/// Symptom: the root showed a time of the last sync that was days ahead, since its clock, which had
/// been wrong, was set right.
#[test]
fn f212_a_last_sync_that_is_ahead_is_unknown() {
    let node = root();
    node.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    let shown = [(1_700_000_000, json!("2023-11-14T22:13:20Z")), (4_102_444_800, Value::Null)];
    for (at, expected) in shown {
        let last_sync = Some(UnixSeconds(at));
        let report = StatusReport { last_sync, ..StatusReport::default() };
        let status = StatusRecord { report, last_contact: UnixSeconds(9) };
        smol::block_on(node.store.record_status("dock01".parse().unwrap(), status)).unwrap();
        let shown = node.ok("connected-registry/show", json!({ "name": "dock01" }));
        assert_eq!(shown["parent"]["syncProperties"]["lastSyncTime"], expected);
    }
}

/// A restored root does not give a number again that it has given after its backup.
#[test]
fn f032_f201_a_deactivation_counts_past_all_that_was_active() {
    let node = root();
    node.ok("connected-registry/create", json!({ "name": "dock01", "repository": ["a"] }));
    let name: ConnectedRegistryName = "dock01".parse().unwrap();
    let granted = || node.store.connected_registry(&name).unwrap().unwrap().activation_epoch;
    let mut least = EARLIEST_TIME.0;
    for reported in [1, 1 << 40, u64::MAX, u64::MAX] {
        let at = UnixSeconds(1);
        let active = Activation { epoch: reported, instance_id: "one".into(), at };
        smol::block_on(node.store.record_activation(name.clone(), active)).unwrap();
        node.ok("connected-registry/deactivate", json!({ "name": "dock01" }));
        assert!(granted() >= least && granted() < u64::MAX / 2, "{}", granted());
        assert!(granted() > reported || reported == u64::MAX);
        least = granted() + 1;
    }
}

/// What the nodes below one that is out of contact last reported is of an unknown age.
#[test]
fn f035_below_a_node_that_is_out_of_contact_nobody_is_online() {
    let node = root();
    let above = [("site01", None), ("line02", Some("site01")), ("cell03", Some("line02"))];
    for (name, parent) in above {
        let create = json!({ "name": name, "parent": parent, "repository": ["a"] });
        node.ok("connected-registry/create", create);
        let name = || name.parse::<ConnectedRegistryName>().unwrap();
        let report = StatusReport { state: ConnectionState::Online, ..StatusReport::default() };
        let status = StatusRecord { report, last_contact: UnixSeconds(1_800_000_000) };
        smol::block_on(node.store.record_status(name(), status)).unwrap();
        let activation = Activation { epoch: 1, instance_id: "i".into(), at: UnixSeconds(1) };
        smol::block_on(node.store.record_activation(name(), activation)).unwrap();
    }
    for (contact, state) in [(true, "Online"), (false, "Offline")] {
        *node.contact.0.lock().unwrap() = contact;
        for (name, _) in above {
            let shown = node.ok("connected-registry/show", json!({ "name": name }));
            assert_eq!(shown["connectionState"], state, "{shown}");
            assert_eq!(shown["lastActivityTime"], "2027-01-15T08:00:00Z");
        }
    }
}

/// Symptom: the root showed a dead leaf as Online for ever. Cause: the node above it had been
/// replaced, and what the one before had reported of the leaf still counted.
#[test]
fn f033_f035_what_another_instance_above_reported_counts_no_more() {
    let node = root();
    *node.contact.0.lock().unwrap() = true;
    let above = [("site01", None), ("line02", Some("site01")), ("cell03", Some("line02"))];
    for (name, parent) in above {
        let create = json!({ "name": name, "parent": parent, "repository": ["a"] });
        node.ok("connected-registry/create", create);
    }
    let update = |name: &str, schedule: &str| {
        let schedule = json!({ "name": name, "syncSchedule": schedule, "syncWindow": "PT1H" });
        node.ok("connected-registry/update", schedule)
    };
    let (online, offline) = (ConnectionState::Online, ConnectionState::Offline);
    let start = EARLIEST_TIME.0;
    for (activated, told, reported, expected) in [
        // All of them are as they were; a restart of one with its store activates none.
        ([1, 1, 1], [9, 9], online, ["Online", "Online"]),
        ([1, 1, 1], [9, 9], offline, ["Online", "Offline"]),
        // The one above the last was replaced, and has not heard of that.
        ([1, 12, 1], [13, 9], online, ["Online", "Offline"]),
        // It has by now.
        ([1, 12, 1], [13, 14], online, ["Online", "Online"]),
        // The first was replaced: who is below the second is told by that, which was not, as soon
        // as it is in contact.
        ([12, 1, 1], [9, 9], online, ["Offline", "Offline"]),
        ([12, 1, 1], [13, 9], online, ["Online", "Online"]),
    ] {
        for (number, (name, _)) in above.into_iter().enumerate() {
            let name = || name.parse::<ConnectedRegistryName>().unwrap();
            let at = UnixSeconds(start + activated[number]);
            let activation = Activation { epoch: 1, instance_id: "i".into(), at };
            smol::block_on(node.store.record_activation(name(), activation)).unwrap();
            let state = if number == 2 { reported } else { online };
            let report = StatusReport { state, ..StatusReport::default() };
            let told = if number == 0 { 9 } else { told[number - 1] };
            let status = StatusRecord { report, last_contact: UnixSeconds(start + told) };
            smol::block_on(node.store.record_status(name(), status)).unwrap();
        }
        let shown = |name: &str| {
            let shown = node.ok("connected-registry/show", json!({ "name": name }));
            shown["connectionState"].as_str().unwrap().to_owned()
        };
        let found = [shown("line02"), shown("cell03")];
        assert_eq!(found, expected, "{activated:?} {told:?} {reported:?}");
    }
    // One with a schedule had no window in which the new one could hear of it.
    let replaced = Activation { epoch: 1, instance_id: "j".into(), at: UnixSeconds(start + 20) };
    smol::block_on(node.store.record_activation("line02".parse().unwrap(), replaced)).unwrap();
    let shown = || {
        let shown = node.ok("connected-registry/show", json!({ "name": "cell03" }));
        shown["connectionState"].as_str().unwrap().to_owned()
    };
    assert_eq!(shown(), "Offline");
    update("cell03", "0 12 * * *");
    assert_eq!(shown(), "Online");
}

/// Symptom: a device took the place of one with others below it, which had no contact from then on,
/// and nothing said so: its certificate was another one.
#[test]
fn f033_f211_who_deactivates_hears_that_those_below_may_trust_one_certificate() {
    let node = root();
    for (name, parent) in [("dock01", None), ("line02", Some("dock01"))] {
        let create = json!({ "name": name, "parent": parent, "repository": ["a"] });
        node.ok("connected-registry/create", create);
    }
    let warned = |name: &str, tls: bool| {
        let version = "1.2.3".into();
        let report = StatusReport { version, tls, ..StatusReport::default() };
        let status = StatusRecord { report, last_contact: UnixSeconds(1_800_000_000) };
        smol::block_on(node.store.record_status(name.parse().unwrap(), status)).unwrap();
        let shown = node.ok("connected-registry/deactivate", json!({ "name": name }));
        shown["warnings"].to_string().contains("identity/tls.pem")
    };
    assert!(warned("dock01", true) && !warned("dock01", false) && !warned("line02", true));
}

/// Symptom: of what was taken from a device and from those below it, only the first was told when
/// it hears of that; of a new password below a parent outside its window, and of a deletion,
/// nobody.
#[test]
fn f114_f213_who_hears_late_is_told_also_below_and_above() {
    let node = root();
    let tree = [("dock01", None), ("line02", Some("dock01")), ("cell03", Some("line02"))];
    for (name, parent) in tree {
        let create = json!({ "name": name, "parent": parent, "repository": ["a", "b"] });
        node.ok("connected-registry/create", create);
        let at = UnixSeconds(EARLIEST_TIME.0);
        let activation = Activation { epoch: 1, instance_id: "i".into(), at };
        smol::block_on(node.store.record_activation(name.parse().unwrap(), activation)).unwrap();
    }
    let schedule = json!({ "name": "line02", "syncSchedule": "0 0 29 2 *", "syncWindow": "PT1H" });
    node.ok("connected-registry/update", schedule);
    let told = |verb: &str, body: Value| node.ok(verb, body)["warnings"].to_string();
    let permissions = told(
        "connected-registry/permissions-update",
        json!({ "name": "dock01", "add": [], "remove": ["b"] }),
    );
    assert!(permissions.contains("'line02' hears of it"), "{permissions}");
    let settings = |name: &str| {
        told("connected-registry/get-settings", json!({ "name": name, "generatePassword": 1 }))
    };
    let below = settings("cell03");
    assert!(below.contains("The parent 'line02' hears of this password"), "{below}");
    assert!(!settings("line02").contains("hears of this password"));
    let delete = json!({ "name": "cell03", "cleanup": true });
    let deleted = told("connected-registry/delete", delete);
    assert!(deleted.contains("'cell03' hears of this"), "{deleted}");
}

//! Scope maps and tokens.

use serde_json::{Value, json};

use super::root;
use crate::store::tree::passwords;
use crate::types::token::PasswordSlot;

#[test]
fn f048_f061_scope_maps() {
    let node = root();
    let map = node.ok(
        "scope-map/create",
        json!({
            "name": "My-Map",
            "repository": [
                ["hello-world", "content/read", "metadata/read"],
                ["Team/*", "CONTENT/READ"],
            ],
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
    let rule = json!([["a", "content/read"]]);
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
            json!({ "name": "other", "description": "x".repeat(257), "repository": &rule }),
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
            json!({ "name": "my-map", "addRepository": &rule, "removeRepository": &rule }),
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
fn a_token_takes_the_scope_map_that_a_namesake_left_if_it_grants_the_same() {
    let node = root();
    let create = |action: &str| {
        let repositories = [["a", "content/read"], ["b", action]];
        json!({ "name": "my-token", "repository": repositories })
    };
    node.ok("token/create", create("content/write"));
    node.ok("token/delete", json!({ "name": "my-token" }));
    let (status, message) = node.refused("token/create", create("content/delete"));
    assert_eq!(status, 409, "{message}");
    assert!(message.contains("'my-token-scope-map' exists already"), "{message}");
    let created = node.ok("token/create", create("content/write"));
    assert!(created["scopeMapId"].as_str().unwrap().ends_with("/my-token-scope-map"));
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
    let bare = json!({ "name": "bare-token", "scopeMap": "my-token-scope-map",
                       "noPasswords": true, "status": "disabled" });
    let bare = node.ok("token/create", bare);
    assert_eq!(
        (&bare["status"], &bare["credentials"]["passwords"]),
        (&"disabled".into(), &json!([]))
    );
    let updated = node.ok("token/update", json!({ "name": "bare-token", "status": "enabled" }));
    assert_eq!(updated["status"], "enabled");
    let long = "x".repeat(41);
    let map = "my-token-scope-map";
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
            404,
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
            json!({ "name": "other", "scopeMap": map, "expirationInDays": 1,
                    "expiration": "2030-01-01T00:00:00Z" }),
            400,
            "either",
        ),
        (
            "token/create",
            json!({ "name": "other", "scopeMap": map, "expiration": "2001-01-01T00:00:00Z" }),
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
            json!({ "name": "other", "scopeMap": map, "noPasswords": true, "expirationInDays": 1 }),
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

//! Tokens, scope maps and what they open.

use crate::support::http::{basic, bearer, send, token};
use crate::support::image::{self, Image};
use crate::support::node::Node;
use crate::support::{self, clients};

#[test]
fn f048_scope_map_is_stored_with_its_description() {
    let root = Node::root();
    root.json(&[
        "scope-map",
        "create",
        "--name",
        "hello-world-scopemap",
        "--registry",
        "myregistry",
        "--repository",
        "hello-world",
        "content/read",
        "--description",
        "Scope map for the connected registry.",
    ]);
    let shown = root.json(&["scope-map", "show", "--name", "hello-world-scopemap"]);
    assert_eq!(shown["description"], "Scope map for the connected registry.");
    assert_eq!(shown["actions"], serde_json::json!(["repositories/hello-world/content/read"]));

    let long = "d".repeat(257);
    let refused = root.run(&[
        "scope-map",
        "create",
        "--name",
        "another-map",
        "--repository",
        "a",
        "content/read",
        "--description",
        &long,
    ]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("256"));
}

#[test]
fn f049_f050_passwords_are_shown_once_and_stored_as_verifiers_only() {
    let mut root = Node::root();
    root.json(&["scope-map", "create", "--name", "map-one", "--repository", "a", "content/read"]);
    let created = root.json(&["token", "create", "--name", "token-one", "--scope-map", "map-one"]);
    let passwords = created["credentials"]["passwords"].as_array().unwrap().clone();
    assert_eq!(passwords.len(), 2);
    assert_eq!(created["credentials"]["username"], "token-one");
    let values: Vec<&str> = passwords.iter().map(|p| p["value"].as_str().unwrap()).collect();
    for value in &values {
        token(&root.login, "token-one", value, &[]).expect("both passwords work");
    }

    let shown = root.json(&["token", "show", "--name", "token-one"]).to_string();
    let listed = root.json(&["token", "list"]).to_string();
    assert!(root.stop().success());
    let mut files = 0;
    let mut pending = vec![root.dir.path().to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                files += 1;
                let bytes = std::fs::read(entry.path()).unwrap();
                for value in &values {
                    let found = bytes.windows(value.len()).any(|w| w == value.as_bytes());
                    assert!(!found, "a password stands in {}", entry.path().display());
                }
            }
        }
    }
    assert!(files > 3, "the state was looked at");
    for value in values {
        assert!(!shown.contains(value) && !listed.contains(value));
    }
}

#[test]
fn f084_f085_challenges_name_realm_service_and_scope() {
    let root = Node::root();
    let answer = send(&root.login, "GET", "/v2/", &[], b"").unwrap();
    assert_eq!(answer.status, 401);
    let realm = format!("Bearer realm=\"http://{0}/oauth2/token\",service=\"{0}\"", root.login);
    assert_eq!(answer.header("www-authenticate"), Some(realm.as_str()));
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
    assert_eq!(answer.error().0, "UNAUTHORIZED");

    for (method, target, scope) in [
        ("GET", "/v2/a/b/manifests/latest", "repository:a/b:pull"),
        ("HEAD", "/v2/a/b/manifests/latest", "repository:a/b:pull"),
        ("POST", "/v2/a/b/blobs/uploads/", "repository:a/b:pull,push"),
        ("PUT", "/v2/a/b/manifests/latest", "repository:a/b:pull,push"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        let answer = send(&root.login, method, target, &[], b"").unwrap();
        assert_eq!(answer.status, 401, "{method} {target}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        let wanted = format!("{realm},scope=\"{scope}\"");
        assert!(challenge.starts_with(&wanted), "{method} {target}: {challenge}");
    }
}

#[test]
fn f086_f092_token_endpoint_answers_get_and_post() {
    let root = Node::root();
    let (user, password) = root.pusher("token-one", "team/*");
    let authorization = basic(&user, &password);
    for path in ["/oauth2/token", "/acr/oauth2/token"] {
        let target = format!("{path}?service={}&scope=repository:team/a:pull", root.login);
        let headers = [("authorization", authorization.as_str())];
        let answer = send(&root.login, "GET", &target, &headers, b"").unwrap();
        assert_eq!(answer.status, 200);
        let body = answer.json();
        assert_eq!(body["access_token"], body["token"]);
        assert!(body["expires_in"].as_u64().unwrap() >= 60);
        assert!(body["issued_at"].as_str().unwrap().ends_with('Z'));

        let form = format!(
            "grant_type=password&service={}&scope=repository%3Ateam%2Fa%3Apull&username={user}\
             &password={password}",
            root.login
        );
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = send(&root.login, "POST", path, &headers, form.as_bytes()).unwrap();
        assert_eq!(answer.status, 200);
        let token = answer.json()["access_token"].as_str().unwrap().to_owned();
        let answer = bearer(&root.login, &token, "GET", "/v2/", &[], b"");
        assert_eq!(answer.status, 200, "the version check takes any valid token");
    }
    let wrong = token(&root.login, &user, "not-the-password", &[]).unwrap_err();
    assert_eq!(wrong.status, 401);
    assert_eq!(wrong.json()["errors"][0]["message"], "Incorrect Password");
}

#[test]
fn f097_tampered_token_is_refused_with_a_fresh_challenge() {
    let root = Node::root();
    let (user, password) = root.pusher("token-one", "a");
    let image = Image::new(1, &[1000]);
    assert_eq!(image.push(&root.login, (&user, &password), "a", "v1").status, 201);
    let good = token(&root.login, &user, &password, &["repository:a:pull"]).unwrap();
    assert!(image::pull_with(&root.login, &good, "a", "v1").is_ok());

    let parts: Vec<&str> = good.split('.').collect();
    let claims = data_encoding::BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap();
    let claims = String::from_utf8(claims).unwrap();
    let wider = claims.replace("\"pull\"", "\"push\"");
    assert_ne!(claims, wider);
    let forged = data_encoding::BASE64URL_NOPAD.encode(wider.as_bytes());
    let mut flipped = parts[2].to_owned();
    let last = if flipped.starts_with('A') { "B" } else { "A" };
    flipped.replace_range(0..1, last);
    let none = data_encoding::BASE64URL_NOPAD.encode(br#"{"alg":"none","typ":"JWT"}"#);
    for bad in [
        format!("{}.{forged}.{}", parts[0], parts[2]),
        format!("{}.{}.{flipped}", parts[0], parts[1]),
        format!("{none}.{}.", parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        "garbage".to_owned(),
        String::new(),
    ] {
        let answer = bearer(&root.login, &bad, "GET", "/v2/a/manifests/v1", &[], b"");
        assert_eq!(answer.status, 401, "{bad}");
        assert!(answer.header("www-authenticate").unwrap().contains("repository:a:pull"));
    }
}

#[test]
fn f097_expired_token_is_refused() {
    if let Some(program) = clients::missing(&["faketime"]) {
        return support::skip(&format!("{program} is not installed"));
    }
    let mut root = Node::root();
    let (user, password) = root.pusher("token-one", "a");
    let issued = token(&root.login, &user, &password, &["repository:a:pull"]).unwrap();
    let status = |node: &Node| bearer(&node.login, &issued, "GET", "/v2/", &[], b"");
    for (clock, wanted) in [("+74m", 200), ("+80m", 401)] {
        root.kill();
        root.set_clock(Some(clock));
        root.start();
        let answer = status(&root);
        assert_eq!(answer.status, wanted, "{clock}");
        assert_eq!(answer.header("www-authenticate").is_some(), wanted == 401);
    }
}

#[test]
fn f042_f098_token_for_one_repository_opens_no_other() {
    let root = Node::root();
    let (owner, secret) = root.pusher("owner-token", "*");
    let image = Image::new(2, &[2000]);
    for repository in ["a", "b"] {
        assert_eq!(image.push(&root.login, (&owner, &secret), repository, "v1").status, 201);
    }
    let (user, password) = root.token("reader-a", &[("a", &["content/read"])]);
    assert!(image::pull(&root.login, (&user, &password), "a", "v1").is_ok());
    let refused = image::pull(&root.login, (&user, &password), "b", "v1").unwrap_err();
    assert_eq!(refused.status, 401);
    assert_eq!(refused.error().1, "not_in_scope_map");
    assert!(refused.header("www-authenticate").unwrap().contains("insufficient_scope"));

    let for_a = token(&root.login, &owner, &secret, &["repository:a:pull,push"]).unwrap();
    let wrong = [
        bearer(&root.login, &for_a, "GET", "/v2/b/manifests/v1", &[], b""),
        bearer(&root.login, &for_a, "POST", "/v2/b/blobs/uploads/", &[], b""),
    ];
    for answer in wrong {
        assert_eq!(answer.status, 401);
    }
    let blob = image::digest(&image.layers[0]);
    let target = format!("/v2/b/blobs/{blob}");
    assert_eq!(bearer(&root.login, &for_a, "GET", &target, &[], b"").status, 401);
    let target = format!("/v2/a/blobs/{blob}");
    assert_eq!(bearer(&root.login, &for_a, "GET", &target, &[], b"").status, 200);
}

#[test]
fn f046_f047_deleting_and_listing_need_their_actions() {
    let root = Node::root();
    let (owner, secret) = root.pusher("owner-token", "a");
    let image = Image::new(3, &[100]);
    assert_eq!(image.push(&root.login, (&owner, &secret), "a", "v1").status, 201);
    let (user, password) = root.token("reader-a", &[("a", &["content/read"])]);
    let all = "repository:a:pull,push,delete,metadata_read";
    let reader = token(&root.login, &user, &password, &[all]).unwrap();
    let manifest = format!("/v2/a/manifests/{}", image.digest());
    assert_eq!(bearer(&root.login, &reader, "GET", &manifest, &[], b"").status, 200);
    assert_eq!(bearer(&root.login, &reader, "DELETE", &manifest, &[], b"").status, 401);
    assert_eq!(bearer(&root.login, &reader, "GET", "/v2/a/tags/list", &[], b"").status, 401);
    let owner = token(&root.login, &owner, &secret, &[all]).unwrap();
    let tags = bearer(&root.login, &owner, "GET", "/v2/a/tags/list", &[], b"");
    assert_eq!(tags.json(), serde_json::json!({"name": "a", "tags": ["v1"]}));
    assert_eq!(bearer(&root.login, &owner, "DELETE", &manifest, &[], b"").status, 202);
    assert_eq!(bearer(&root.login, &owner, "GET", &manifest, &[], b"").status, 404);
}

#[test]
fn f182_disabling_and_rotating_end_what_was_issued() {
    let root = Node::root();
    let (user, password) = root.pusher("token-one", "a");
    let issued = token(&root.login, &user, &password, &["repository:a:pull"]).unwrap();
    let status = |t: &str| bearer(&root.login, t, "GET", "/v2/", &[], b"").status;
    assert_eq!(status(&issued), 200);
    root.json(&["token", "update", "--name", &user, "--status", "disabled"]);
    assert_eq!(status(&issued), 401);
    assert_eq!(token(&root.login, &user, &password, &[]).unwrap_err().status, 401);
    root.json(&["token", "update", "--name", &user, "--status", "enabled"]);
    assert_eq!(status(&issued), 200, "enabled again, with the same password");

    root.json(&["token", "credential", "generate", "--name", &user, "--password2"]);
    assert_eq!(status(&issued), 200, "the other password's sessions stay");
    root.json(&["token", "credential", "generate", "--name", &user, "--password1"]);
    assert_eq!(status(&issued), 401);
    assert_eq!(token(&root.login, &user, &password, &[]).unwrap_err().status, 401);
}

/// The words of an output that may be passwords.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 40).collect()
}

#[test]
fn f049_f067_no_format_drops_a_password_that_is_shown_once() {
    let root = Node::root();
    for format in ["json", "table", "tsv"] {
        let said = |arguments: &[&str]| {
            let output = root.run(&[arguments, &["-o", format]].concat());
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{arguments:?}: {error}");
            String::from_utf8(output.stdout).unwrap()
        };
        let works = |user: &str, text: &str| {
            let good = |word: &&str| token(&root.login, user, word, &[]).is_ok();
            words(text).into_iter().filter(good).count()
        };
        let (client, device) = (format!("client-{format}"), format!("dock{format}"));
        let grants = ["--repository", "a", "content/read"];
        let created = said(&[&["token", "create", "--name", &client], &grants[..]].concat());
        assert_eq!(works(&client, &created), 2, "{created}");
        let generate = ["token", "credential", "generate", "--name", &client];
        let both = said(&generate);
        assert_eq!(works(&client, &both), 2, "{both}");
        let one = said(&[&generate[..], &["--password2"]].concat());
        assert_eq!(works(&client, &one), 1, "{one}");
        let create = ["connected-registry", "create", "--name", &device, "--repository", "a"];
        let created = said(&create);
        assert_eq!(works(&device, &created), 2, "{created}");
        let named = ["--name", &device, "--yes"];
        for verb in [
            &["connected-registry", "get-settings", "--generate-password", "2"][..],
            &["connected-registry", "install", "renew-credentials"],
        ] {
            let settings = said(&[verb, &named].concat());
            assert!(works(&device, &settings) >= 1, "{settings}");
        }
        let shown = said(&["token", "show", "--name", &client]);
        assert!(shown.contains(&client) && words(&shown).is_empty(), "{shown}");
    }
}

/// Symptom: what was removed from the scope map of a connected registry was removed from those
/// below it without a word, and a new child widened that of its parent likewise.
#[test]
fn f082_a_command_names_the_other_scope_maps_that_it_changes() {
    let root = Node::root();
    let create = ["connected-registry", "create", "--name"];
    root.json(&[&create[..], &["midrw", "--repository", "app"]].concat());
    root.json(&[&create[..], &["leafrw", "--parent", "midrw", "--repository", "app"]].concat());
    let says = |output: &std::process::Output, parts: &[&str]| {
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for part in parts {
            assert!(text.contains(part), "no `{part}` in: {text}");
            assert!(root.log().contains(part), "no `{part}` in: {}", root.log());
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let change = |change| ["scope-map", "update", "--name", "midrw", change, "app"];
    let removed = root.run(&[&change("--remove-repository")[..], &["content/write"]].concat());
    let text = says(&removed, &["scope map 'leafrw'", "lost app (content/write) too", "not give"]);
    assert!(text.contains("alsoChanged") && text.contains("leafrw"), "{text}");
    let removed = root.json(&[&change("--remove-repository")[..], &["content/delete"]].concat());
    let also = serde_json::json!([{
        "added": [], "connectedRegistry": "leafrw",
        "removed": ["repositories/app/content/delete"], "scopeMap": "leafrw",
    }]);
    assert_eq!(removed["alsoChanged"], also);
    // It does not come back, and so nothing else changes.
    let added = root.json(&[&change("--add-repository")[..], &["content/write"]].concat());
    assert_eq!(added.get("alsoChanged"), None);

    let other = ["other", "--parent", "midrw", "--repository", "nogrant/*"];
    let created = root.run(&[&create[..], &other[..]].concat());
    says(&created, &["scope map 'midrw'", "was given nogrant/* (", "content/write"]);
    let permissions = ["connected-registry", "permissions", "update", "--name", "midrw"];
    let removed = root.run(&[&permissions[..], &["--remove", "nogrant/*"]].concat());
    says(&removed, &["scope map 'other'", "lost nogrant/* ("]);
}

/// Who changed what outlives a kill, and what was refused is told until the next start.
#[test]
fn the_audit_names_the_user_the_change_and_its_outcome() {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "app");
    assert!(!root.run(&["token", "delete", "--name", "nobody-there", "--yes"]).status.success());
    let told = |root: &Node| {
        let audit = root.json(&["audit"]);
        let entry = |entry: &serde_json::Value| {
            let text = |field: &str| entry[field].as_str().unwrap().to_owned();
            assert_eq!(text("actor"), format!("uid {}", rustix::process::geteuid().as_raw()));
            assert!(text("time").ends_with('Z'));
            format!("{} {} {}", text("action"), text("subject"), text("outcome"))
        };
        audit.as_array().unwrap().iter().map(entry).collect::<Vec<_>>()
    };
    let mut expected = told(&root);
    assert_eq!(expected.pop().unwrap(), "token delete nobody-there NotFound");
    assert!(expected.iter().any(|entry| entry == "token create owner-token Succeeded"));
    root.kill();
    root.start();
    assert_eq!(told(&root), expected);
    let output = root.run(&["audit", "--output", "table"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.starts_with("TIME (UTC)") && table.contains("token create"), "{table}");
    assert!(!table.contains(&user.1) && !root.json(&["audit"]).to_string().contains(&user.1));
}

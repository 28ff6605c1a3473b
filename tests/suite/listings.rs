//! What tools of the reference product see of repositories, under `/acr/v1/`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::http::{Answer, bearer, send, token};
use crate::support::image::{Image, digest, tar};
use crate::support::node::Node;

/// How long a device may take to follow.
const SOON: Duration = Duration::from_secs(60);

/// A sender with a token for everything in a repository.
struct Tool<'a> {
    address: &'a str,
    token: String,
}

impl<'a> Tool<'a> {
    fn new(address: &'a str, (user, password): (&str, &str), scopes: &[&str]) -> Tool<'a> {
        Tool { address, token: token(address, user, password, scopes).unwrap() }
    }

    fn send(&self, method: &str, target: &str) -> Answer {
        bearer(self.address, &self.token, method, &format!("/acr/v1/{target}"), &[], b"")
    }

    fn get(&self, target: &str) -> Value {
        let answer = self.send("GET", target);
        assert_eq!(answer.status, 200, "{target}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// Some member of all entries of a listing, page by page as its links say.
    fn all(&self, target: &str, list: &str, member: &str) -> Vec<String> {
        let (mut found, mut target) = (Vec::new(), target.to_owned());
        loop {
            let answer = self.send("GET", &target);
            assert_eq!(answer.status, 200, "{target}");
            let page = answer.json();
            let entries = page[list].as_array().unwrap();
            found.extend(entries.iter().map(|entry| entry[member].as_str().unwrap().to_owned()));
            let Some(link) = answer.header("link") else { return found };
            let link = link.strip_prefix("</acr/v1/").unwrap();
            target = link.strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        }
    }
}

#[test]
fn f185_tools_see_what_is_in_a_repository_at_the_root_and_at_a_device() {
    let root = Node::root();
    let actions = ["content/read", "content/write", "content/delete", "metadata/read"];
    let user = root.token("owner-token", &[("team/app", &actions), ("other", &actions)]);
    let user = (user.0.as_str(), user.1.as_str());
    let layer = |text: &str| vec![tar("file", text.as_bytes())];
    let old = Image::of("arm64", "one", layer("old"));
    let new = Image::of("amd64", "two", layer("new"));
    assert_eq!(old.push(&root.login, user, "team/app", "v2").status, 201);
    assert_eq!(new.push(&root.login, user, "team/app", "v3").status, 201);
    // Of two changes in one second nobody knows the order.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(old.push(&root.login, user, "team/app", "v1").status, 201);
    let device = Node::start_device(&root.connect("dock01", &["--repository", "team/app"]));
    root.link("dock01", user.0);
    let scopes = ["repository:team/app:metadata_read,delete"];
    let at_root = Tool::new(&root.login, user, &scopes);
    let at_device = eventually(SOON, "the device knows the token", || {
        token(&device.login, user.0, user.1, &scopes).ok()
    });
    let at_device = Tool { address: &device.login, token: at_device };
    eventually(SOON, "the device has the tags", || {
        let answer = at_device.send("GET", "team/app");
        (answer.status == 200 && answer.json()["tagCount"] == 3).then_some(())
    });
    let may = json!({
        "deleteEnabled": true, "writeEnabled": true, "listEnabled": true, "readEnabled": true,
    });
    for tool in [&at_root, &at_device] {
        // SDKs escape the slash.
        for target in ["team/app", "team%2Fapp"] {
            let shown = tool.get(target);
            assert_eq!(
                (&shown["registry"], &shown["imageName"]),
                (&tool.address.into(), &"team/app".into())
            );
            assert_eq!((&shown["manifestCount"], &shown["tagCount"]), (&2.into(), &3.into()));
            assert!(shown["createdTime"].as_str() <= shown["lastUpdateTime"].as_str(), "{shown}");
            assert_eq!(shown["changeableAttributes"], may);
        }
        for n in [1, 2, 3, 100] {
            let tags = tool.all(&format!("team/app/_tags?n={n}"), "tags", "name");
            assert_eq!(tags, ["v1", "v2", "v3"], "by {n}");
            let by = |order: &str| {
                let target = format!("team/app/_tags?orderby={order}&n={n}");
                tool.all(&target, "tags", "name")
            };
            let (first, last) = (by("timeasc"), by("timedesc"));
            assert_eq!((first.len(), last.len()), (3, 3));
            if tool.address == root.login {
                assert_eq!((first[2].as_str(), last[0].as_str()), ("v1", "v1"));
            }
            let manifests = tool.all(&format!("team/app/_manifests?n={n}"), "manifests", "digest");
            let mut expected = [old.digest(), new.digest()];
            expected.sort_unstable();
            assert_eq!(manifests, expected);
        }
        let of_old = format!("team/app/_tags?digest={}", old.digest());
        assert_eq!(tool.all(&of_old, "tags", "name"), ["v1", "v2"]);
        let tag = tool.get("team/app/_tags/v3");
        assert_eq!(
            (&tag["tag"]["name"], &tag["tag"]["digest"]),
            (&"v3".into(), &new.digest().into())
        );
        let manifest = &tool.get(&format!("team/app/_manifests/{}", old.digest()))["manifest"];
        let bytes = old.blobs().map(|blob| blob.len() as u64).sum::<u64>();
        for (member, value) in [
            ("digest", old.digest().into()),
            ("tags", json!(["v1", "v2"])),
            ("architecture", "arm64".into()),
            ("os", "linux".into()),
            ("imageSize", (bytes + old.manifest.len() as u64).into()),
            ("mediaType", "application/vnd.oci.image.manifest.v1+json".into()),
            ("configMediaType", "application/vnd.oci.image.config.v1+json".into()),
            ("changeableAttributes", may.clone()),
        ] {
            assert_eq!(manifest[member], value, "{member}");
        }
        for (target, code) in [
            ("team/app/_tags/none", "MANIFEST_UNKNOWN"),
            (&format!("team/app/_manifests/sha256:{}", "0".repeat(64)), "MANIFEST_UNKNOWN"),
        ] {
            let answer = tool.send("GET", target);
            assert_eq!((answer.status, answer.error().0.as_str()), (404, code), "{target}");
        }
        assert_eq!(tool.send("GET", "other").status, 401, "the token is for another one");
        assert_eq!(tool.send("GET", "team/app/_tags?orderby=size").status, 400);
        let answer = tool.send("PATCH", "team/app");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, DELETE")));
        let asked = send(tool.address, "GET", "/acr/v1/team/app/_tags", &[], b"").unwrap();
        let challenge = asked.header("www-authenticate").unwrap();
        assert!(challenge.contains("repository:team/app:metadata_read"), "{challenge}");
    }
    let lists = Tool::new(&root.login, user, &["registry:catalog:*"]);
    assert_eq!(lists.get("_catalog"), json!({ "repositories": ["team/app"] }));
    assert_eq!(at_root.send("DELETE", "team/app/_tags/v1").status, 202);
    assert_eq!(at_root.get("team/app")["tagCount"], 2);
    eventually(SOON, "the device follows", || {
        (at_device.get("team/app")["tagCount"] == 2).then_some(())
    });
    let nowhere = Tool::new(&root.login, user, &["repository:other:metadata_read"]);
    for target in ["other", "other/_tags", "other/_manifests"] {
        assert_eq!(nowhere.send("GET", target).error().0, "NAME_UNKNOWN");
    }
}

/// Symptom: one listing took as much memory as the longest texts that clients had pushed.
#[test]
fn f185_f209_a_page_takes_no_more_than_a_connection_has_whatever_clients_have_pushed() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let user = (user.0.as_str(), user.1.as_str());
    let push = token(&root.login, user.0, user.1, &["repository:app:pull,push"]).unwrap();
    for number in 0..12 {
        let text = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [], "artifactType": format!("a/{}", "b".repeat(1_000_000)),
            "annotations": { "number": number.to_string() },
        });
        let kind = [("content-type", "application/vnd.oci.image.index.v1+json")];
        let tags = (0..64).map(|tag| format!("tag={}{number}-{tag}", "t".repeat(100)));
        let query = tags.collect::<Vec<_>>().join("&");
        let bytes = text.to_string().into_bytes();
        let target = format!("/v2/app/manifests/{}?{query}", digest(&bytes));
        assert_eq!(bearer(&root.login, &push, "PUT", &target, &kind, &bytes).status, 201);
    }
    let tool = Tool::new(&root.login, user, &["repository:app:metadata_read"]);
    let page = tool.send("GET", "app/_manifests");
    assert_eq!(page.status, 200);
    assert!(page.body.len() < 100_000, "{}", page.body.len());
    assert!(page.header("link").is_some(), "the rest is on another page");
    assert_eq!(tool.all("app/_manifests", "manifests", "digest").len(), 12);
    for order in ["timeasc", "timedesc"] {
        let target = format!("app/_manifests?orderby={order}");
        assert_eq!(tool.all(&target, "manifests", "digest").len(), 12, "{order}");
    }
    assert_eq!(tool.send("GET", "app/_manifests?last=sha256:8").status, 400);
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn f185_what_is_in_repositories_is_managed_from_the_command_line_without_a_login() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let user = (user.0.as_str(), user.1.as_str());
    let (one, other) = (Image::new(76, &[9]), Image::new(77, &[20]));
    assert_eq!(one.push(&root.login, user, "team/app", "v1").status, 201);
    assert_eq!(one.push(&root.login, user, "team/app", "v2").status, 201);
    assert_eq!(one.push(&root.login, user, "other", "v1").status, 201);
    assert_eq!(other.push(&root.login, user, "team/app", "v3").status, 201);
    // More tags than one page has.
    let many = token(&root.login, user.0, user.1, &["repository:other:pull,push"]).unwrap();
    for page in 0..3 {
        let tags: Vec<String> = (0..50).map(|number| format!("tag=t{page}{number:02}")).collect();
        let target = format!("/v2/other/manifests/{}?{}", digest(&one.manifest), tags.join("&"));
        let kind = [("content-type", "application/vnd.oci.image.manifest.v1+json")];
        assert_eq!(bearer(&root.login, &many, "PUT", &target, &kind, &one.manifest).status, 201);
    }
    let device = Node::start_device(
        &root.connect("dock01", &["--mode", "ReadOnly", "--repository", "team/app"]),
    );
    let shows = |node: &Node, arguments: &[&str]| node.json(&[&["repository"], arguments].concat());
    eventually(SOON, "the device has the tags", || {
        (names(&shows(&device, &["list"])) == ["team/app"]
            && names(&shows(&device, &["show-tags", "--repository", "team/app"])).len() == 3)
            .then_some(())
    });

    assert_eq!(names(&shows(&root, &["list", "-n", "myregistry"])), ["other", "team/app"]);
    assert_eq!(names(&shows(&root, &["list", "--top", "1"])), ["other"]);
    let all = shows(&root, &["show-tags", "--repository", "other"]);
    assert_eq!(names(&all).len(), 151);
    let some = shows(&root, &["show-tags", "--repository", "other", "--top", "120"]);
    assert_eq!(names(&some), names(&all)[..120]);
    let text = root.run(&["repository", "show-tags", "--repository", "team/app"]);
    assert_eq!(String::from_utf8_lossy(&text.stdout), "TAG\nv1\nv2\nv3\n");
    let whole = shows(&root, &["show", "--repository", "team/app"]);
    assert_eq!((&whole["manifestCount"], &whole["tagCount"]), (&json!(2), &json!(3)));
    let v1 = shows(&root, &["show", "-t", "team/app:v1"]);
    assert_eq!(v1["digest"], digest(&one.manifest).as_str());
    let detail = ["show-tags", "--repository", "team/app", "--detail", "--orderby", "time_desc"];
    assert_eq!(shows(&root, &detail).as_array().unwrap().len(), 3);
    let manifests = root.json(&["manifest", "list-metadata", "-n", "team/app"]);
    assert_eq!(manifests.as_array().unwrap().len(), 2);
    let shown = root.json(&["manifest", "show-metadata", "-n", "team/app:v2"]);
    assert_eq!(shown["tags"], json!(["v1", "v2"]));

    let run = |node: &Node, arguments: &[&str]| {
        let done = node.run(arguments);
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let delete = ["repository", "delete", "--image", "team/app:v1"];
    let (code, asked) = run(&root, &delete);
    assert!(code == Some(1) && asked.contains("with its tags: v1, v2?"), "{asked}");
    let (code, refused) = run(&device, &[&delete[..], &["--yes"]].concat());
    assert!(code == Some(1) && refused.contains("It is ReadOnly"), "{refused}");
    for (arguments, expected) in [
        (&["repository", "show", "--repository", "nothing"][..], Some(3)),
        (&["repository", "delete", "--image", "team/app:v9", "-y"], Some(3)),
        (&["repository", "untag", "--image", &format!("team/app@{}", digest(b""))], Some(2)),
        (&["repository", "delete", "-y"], Some(2)),
        (&["repository", "show", "--image", "reg.example:5000/team/app"], Some(2)),
        (&["repository", "untag", "--image", "team/app:v2"], Some(0)),
    ] {
        let (code, text) = run(&root, arguments);
        assert_eq!(code, expected, "{arguments:?}: {text}");
    }
    let tags = ["show-tags", "--repository", "team/app"];
    assert_eq!(names(&shows(&root, &tags)), ["v1", "v3"]);
    assert_eq!(run(&root, &["manifest", "delete", "-n", "team/app:v1", "-y"]).0, Some(0));
    assert_eq!(names(&shows(&root, &tags)), ["v3"]);
    eventually(SOON, "the device follows", || {
        (names(&shows(&device, &tags)) == ["v3"]).then_some(())
    });
    let all_of_it = ["repository", "delete", "--repository", "team/app", "--yes"];
    assert_eq!(run(&root, &all_of_it).0, Some(0));
    assert_eq!(run(&root, &all_of_it).0, Some(3));
    for node in [&root, &device] {
        eventually(SOON, "the repository is gone", || {
            (!names(&shows(node, &["list"])).contains(&"team/app")).then_some(())
        });
    }
    // Only the socket is a login.
    assert_eq!(send(&root.login, "GET", "/acr/v1/_catalog", &[], b"").unwrap().status, 401);
    assert_eq!(send(&root.login, "DELETE", "/acr/v1/other", &[], b"").unwrap().status, 401);
    assert_eq!(names(&shows(&root, &["list"])), ["other"]);
}

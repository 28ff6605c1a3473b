//! What tools of the reference product see of repositories, under `/acr/v1/`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::http::{Answer, bearer, send, token};
use crate::support::image::{Image, tar};
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
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
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
        let target = format!("/v2/app/manifests/{}?{query}", crate::support::image::digest(&bytes));
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

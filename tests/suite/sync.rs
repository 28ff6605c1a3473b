//! What reaches a device, and what does not.

use std::time::Duration;

use crate::support::eventually;
use crate::support::http::{bearer, send, token};
use crate::support::image::{self, Image};
use crate::support::node::{Node, free_port};
use crate::support::proxy::Proxy;

pub const SOON: Duration = Duration::from_secs(30);

/// A root with content, a device that mirrors `app`, and a client token that works at both, for
/// `other` too.
pub fn pair(mode: &str) -> (Node, Node, (String, String)) {
    let root = Node::root();
    let actions = ["content/read", "content/write", "content/delete", "metadata/read"];
    let user = root.token("owner-token", &[("app", &actions), ("other", &actions)]);
    for (repository, image) in
        [("app", Image::new(1, &[40_000])), ("other", Image::new(1001, &[25_000, 300]))]
    {
        let pushed = image.push(&root.login, (&user.0, &user.1), repository, "v1");
        assert_eq!(pushed.status, 201);
    }
    let connection = root.connect("dock01", &["--repository", "app", "--mode", mode]);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    eventually(SOON, "v1 at the device", || pull(&device, &user, "app", "v1").ok());
    (root, device, user)
}

/// A root that others see through proxies only: that of its login server, and of its gateway.
pub fn root_behind(rate: u64) -> (Node, Proxy, Proxy) {
    let [login, gateway] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let proxies = (Proxy::slow(&login, rate), Proxy::new(&gateway));
    let root = Node::root_behind(&login, &gateway, &proxies.0.address, &proxies.1.address);
    (root, proxies.0, proxies.1)
}

pub fn pull(
    node: &Node,
    user: &(String, String),
    repository: &str,
    reference: &str,
) -> Result<String, crate::support::http::Answer> {
    image::pull(&node.login, (&user.0, &user.1), repository, reference)
}

#[test]
fn f067_a_device_starts_with_what_is_printed_when_it_is_made() {
    let root = Node::root();
    let (user, password) = root.pusher("owner-token", "app");
    let owner = (user.as_str(), password.as_str());
    let create = ["connected-registry", "create", "--name", "dock01", "--repository", "app"];
    let rest = ["--client-tokens", &user, "--connection-string"];
    let output = root.run(&[&create[..], &rest].concat());
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let device = Node::start_device(printed.strip_suffix('\n').unwrap());
    let image = Image::new(1, &[2000]);
    assert_eq!(image.push(&root.login, owner, "app", "v1").status, 201);
    let came = || pull(&device, &(user.clone(), password.clone()), "app", "v1").ok();
    assert_eq!(eventually(SOON, "the image comes", came), image.digest());
}

#[test]
fn f039_f040_f041_only_linked_tokens_log_in_at_a_device() {
    let (root, device, _owner) = pair("ReadOnly");
    let first = root.token("reader-one", &[("app", &["content/read"])]);
    let second = root.token("reader-two", &[("app", &["content/read"])]);
    let refused = pull(&device, &first, "app", "v1").unwrap_err();
    assert_eq!(refused.status, 401, "not linked, although the password is right");
    let told = refused.json()["errors"][0]["message"].to_string();
    assert!(told.contains("not linked to this connected registry"), "{told}");
    for user in [&first, &second] {
        root.link("dock01", &user.0);
        eventually(SOON, "a linked token logs in", || pull(&device, user, "app", "v1").ok());
    }
    assert!(pull(&device, &first, "app", "v1").is_ok(), "both at once");
}

#[test]
fn f045_f043_nobody_pushes_to_a_read_only_device() {
    let (_root, device, user) = pair("ReadOnly");
    let scope = "repository:app:pull,push";
    let bearer_token = token(&device.login, &user.0, &user.1, &[scope]).unwrap();
    let claims = bearer_token.split('.').nth(1).unwrap();
    let claims = data_encoding::BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
    assert!(!String::from_utf8(claims).unwrap().contains("push"));
    let target = "/v2/app/blobs/uploads/";
    let answer = bearer(&device.login, &bearer_token, "POST", target, &[], b"");
    assert_eq!(answer.status, 403);
    assert_eq!(answer.error(), ("DENIED".to_owned(), "read_only".to_owned()));
    let text = &answer.json()["errors"][0]["message"];
    assert_eq!(text, "This operation is not allowed on this registry.");
}

#[test]
fn f117_only_granted_repositories_are_at_a_device_and_a_miss_says_why() {
    let (_root, device, user) = pair("ReadOnly");
    let missing = pull(&device, &user, "other", "v1").unwrap_err();
    assert_eq!(missing.status, 404);
    assert_eq!(missing.error(), ("MANIFEST_UNKNOWN".to_owned(), "not_in_sync_scope".to_owned()));
    // The comparison ends a moment after the tag is here.
    eventually(SOON, "it is known what is missing", || {
        let missing = pull(&device, &user, "app", "v9").unwrap_err();
        let reason = missing.error().1;
        assert!(missing.status == 404 && ["not_found", "not_synced_yet"].contains(&&*reason));
        (reason == "not_found").then_some(())
    });
}

#[test]
fn f117_a_device_mirrors_what_its_own_scope_map_grants_and_not_what_those_of_clients_do() {
    let mut root = Node::root();
    let owner = root.pusher("owner-token", "*");
    let push = |root: &Node, tag: &str, repository: &str, seed: u64| {
        let image = Image::new(seed, &[3000]);
        assert_eq!(image.push(&root.login, (&owner.0, &owner.1), repository, tag).status, 201);
    };
    let all = ["of-device", "of-client", "of-nobody", "of-both"];
    for (seed, repository) in (1..).zip(all) {
        push(&root, "v1", repository, seed);
    }
    let read: &[&str] = &["content/read"];
    let client = root.token("reader-one", &[("of-client", read), ("of-both", read)]);
    let looker = root.token("reader-two", &[("*", &["content/read", "metadata/read"])]);
    let mirrored = ["--repository", "of-device", "of-both", "--mode", "ReadOnly"];
    let connection = root.connect("dock01", &mirrored);
    for user in [&client, &looker] {
        root.link("dock01", &user.0);
    }
    let device = Node::start_device(&connection);
    eventually(SOON, "v1 comes", || pull(&device, &client, "of-both", "v1").ok());
    // What comes later is told in order: when the last is there, the others will not come.
    for (seed, repository) in (5..).zip(all) {
        push(&root, "v2", repository, seed);
    }
    eventually(SOON, "v2 comes", || pull(&device, &client, "of-both", "v2").ok());
    root.kill();
    let scopes = ["registry:catalog:*"];
    let catalog = token(&device.login, &looker.0, &looker.1, &scopes).unwrap();
    let listed = bearer(&device.login, &catalog, "GET", "/v2/_catalog", &[], b"").json();
    assert_eq!(listed["repositories"], serde_json::json!(["of-both", "of-device"]));
    for tag in ["v1", "v2"] {
        assert!(pull(&device, &looker, "of-device", tag).is_ok(), "{tag}");
        for (user, repository) in [(&client, "of-client"), (&looker, "of-nobody")] {
            let missing = pull(&device, user, repository, tag).unwrap_err();
            let found = (missing.status, missing.error().1);
            assert_eq!(found, (404, "not_in_sync_scope".to_owned()), "{repository}:{tag}");
        }
    }
}

#[test]
fn f110_f119_tags_and_manifests_follow_the_parent() {
    let (root, device, user) = pair("ReadOnly");
    let next = Image::new(2, &[30_000, 10]);
    let credentials = (user.0.as_str(), user.1.as_str());
    for tag in ["v1", "v2"] {
        assert_eq!(next.push(&root.login, credentials, "app", tag).status, 201);
    }
    eventually(SOON, "v1 moves", || {
        pull(&device, &user, "app", "v1").ok().filter(|digest| *digest == next.digest())
    });
    eventually(SOON, "v2 comes", || pull(&device, &user, "app", "v2").ok());
    let all = "repository:app:pull,push,delete,metadata_read";
    let owner = token(&root.login, credentials.0, credentials.1, &[all]).unwrap();
    let delete = |what: &str| {
        let target = format!("/v2/app/manifests/{what}");
        assert_eq!(bearer(&root.login, &owner, "DELETE", &target, &[], b"").status, 202);
    };
    delete("v2");
    eventually(SOON, "v2 goes", || pull(&device, &user, "app", "v2").err());
    assert!(pull(&device, &user, "app", "v1").is_ok());
    delete(&next.digest());
    eventually(SOON, "the manifest goes", || pull(&device, &user, "app", &next.digest()).err());
}

#[test]
fn f120_a_push_to_a_read_write_device_reaches_the_root() {
    let (root, device, user) = pair("ReadWrite");
    let pushed = Image::new(3, &[60_000, 0]);
    let answer = pushed.push(&device.login, (&user.0, &user.1), "app", "from-device");
    assert_eq!(answer.status, 201);
    let digest =
        eventually(SOON, "the push climbs", || pull(&root, &user, "app", "from-device").ok());
    assert_eq!(digest, pushed.digest());
}

#[test]
fn f130_one_repository_whose_pushes_fail_does_not_hold_up_the_others() {
    let (root, login, _gateway) = root_behind(u64::MAX);
    let user = root.pusher("owner-token", "*");
    let mode = ["--repository", "stuck", "app", "lab", "--mode", "ReadWrite"];
    let connection = root.connect("dock01", &mode);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    let push = |image: &Image, repository: &str, tag: &str| {
        let answer = image.push(&device.login, (&user.0, &user.1), repository, tag);
        assert_eq!(answer.status, 201, "{answer:?}");
    };
    eventually(SOON, "the device takes pushes", || {
        let first = Image::new(1, &[1000]).push(&device.login, (&user.0, &user.1), "app", "v0");
        (first.status == 201).then_some(())
    });
    eventually(SOON, "the first push climbs", || pull(&root, &user, "app", "v0").ok());
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    // The parent is busy, or every connection breaks, for one repository.
    for (round, answer) in [(1, busy), (2, "")] {
        login.refuse("/v2/stuck/", answer);
        let tag = format!("v{round}");
        let images: Vec<Image> = (0..4).map(|n| Image::new(round * 10 + n, &[20_000])).collect();
        push(&images[0], "stuck", &tag);
        for (image, repository) in images[1..3].iter().zip(["app", "lab"]) {
            push(image, repository, &tag);
            let came =
                eventually(SOON, "the others go on", || pull(&root, &user, repository, &tag).ok());
            assert_eq!(came, image.digest());
        }
        push(&images[3], "stuck", &tag);
        assert_eq!(pull(&root, &user, "stuck", &tag).unwrap_err().status, 404);
        login.pass();
        // In order: what was pushed last is what stays, and nobody sees a conflict.
        eventually(SOON * 2, "what waited is delivered", || {
            let came = pull(&root, &user, "stuck", &tag).ok();
            came.filter(|digest| *digest == images[3].digest())
        });
        assert!(pull(&root, &user, "stuck", &images[0].digest()).is_ok(), "and what was before");
    }
    assert!(!device.log().contains("refused change"), "{}", device.log());
    assert!(!device.log().contains("moved or removed at the parent too"), "{}", device.log());
}

#[test]
fn f129_pull_and_login_work_with_the_parent_gone_and_after_kills() {
    let (mut root, mut device, user) = pair("ReadWrite");
    root.kill();
    device.kill();
    device.start();
    assert!(pull(&device, &user, "app", "v1").is_ok(), "nothing but the device is up");
    let pushed = Image::new(4, &[20_000]);
    assert_eq!(pushed.push(&device.login, (&user.0, &user.1), "app", "offline").status, 201);
    // Undelivered, and killed once more before the root comes back.
    device.kill();
    device.start();
    root.start();
    let digest = eventually(SOON * 2, "the push made offline is delivered", || {
        pull(&root, &user, "app", "offline").ok()
    });
    assert_eq!(digest, pushed.digest());
    let late = Image::new(5, &[20_000]);
    assert_eq!(late.push(&root.login, (&user.0, &user.1), "app", "late").status, 201);
    eventually(SOON * 2, "and the device follows again", || {
        pull(&device, &user, "app", "late").ok()
    });
}

/// Both moved a tag, and the device may not hold what the parent has: nothing is lost meanwhile.
#[test]
fn f130_a_conflict_waits_until_the_parents_content_can_be_had() {
    let (mut root, mut device, user) = pair("ReadWrite");
    let owner = (user.0.as_str(), user.1.as_str());
    root.kill();
    let ours = Image::new(6, &[20_000]);
    assert_eq!(ours.push(&device.login, owner, "app", "v1").status, 201);
    device.kill();
    device.add_configuration("[registry]\nquotas = [\"app=200KiB\"]\n");
    root.start();
    let (large, small) = (Image::new(7, &[300_000]), Image::new(8, &[30_000]));
    assert_eq!(large.push(&root.login, owner, "app", "v1").status, 201);
    device.start();
    eventually(SOON, "the device tries, and says why it waits", || {
        device.log().contains("a conflict over tag v1 cannot be settled").then_some(())
    });
    assert_eq!(pull(&device, &user, "app", "v1").unwrap(), ours.digest());
    assert_eq!(small.push(&root.login, owner, "app", "v1").status, 201);
    eventually(SOON * 2, "the parent's content takes the name", || {
        pull(&device, &user, "app", "v1").ok().filter(|digest| *digest == small.digest())
    });
    for node in [&device, &root] {
        eventually(SOON, "ours is kept under another name", || {
            pull(node, &user, "app", &ours.digest()).ok()
        });
    }
}

#[test]
fn a_node_stops_in_order_when_told() {
    let (mut root, mut device, _user) = pair("ReadOnly");
    assert!(device.stop().success());
    assert!(root.stop().success());
    assert!(send(&root.login, "GET", "/healthz", &[], b"").is_err());
    root.start();
    assert!(root.log().contains("opened after a clean stop"), "{}", root.log());
}

/// Symptom: a token that was disabled stayed good at a device, and below it, until the layer was
/// whole that was on its way: two minutes, or four hours of a slow link. Cause: the parent was
/// asked for the configuration between one item and the next.
#[test]
fn f182_a_token_is_refused_also_while_a_large_layer_is_on_its_way() {
    let (root, login, _gateway) = root_behind(200_000);
    let owner = root.token("owner-token", &[("app", &["content/read", "content/write"])]);
    let reader = root.token("reader-one", &[("app", &["content/read"])]);
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &owner.0);
    root.link("dock01", &reader.0);
    let device = Node::start_device(&connection);
    let small = Image::new(1, &[2000]);
    assert_eq!(small.push(&root.login, (&owner.0, &owner.1), "app", "v1").status, 201);
    eventually(SOON, "the small image", || pull(&device, &reader, "app", "v1").ok());
    let large = Image::new(2, &[20_000_000]);
    assert_eq!(large.push(&root.login, (&owner.0, &owner.1), "app", "v2").status, 201);
    let before = login.down();
    eventually(SOON, "it is on its way", || (login.down() > before + 300_000).then_some(()));
    root.json(&["token", "update", "--name", &reader.0, "--status", "disabled"]);
    eventually(SOON, "the token is refused", || {
        let refused = pull(&device, &reader, "app", "v1").err()?;
        (refused.status == 401).then_some(())
    });
    assert!(pull(&device, &owner, "app", "v2").is_err(), "it came while the token was good");
}

/// Symptom: a repository that was withdrawn was served, and was in the way of all others, until a
/// layer of it was whole that was on its way.
#[test]
fn f117_a_withdrawn_repository_goes_in_the_middle_of_a_transfer() {
    let (root, login, _gateway) = root_behind(200_000);
    let actions = ["content/read", "content/write"];
    let owner = root.token("owner-token", &["app", "other"].map(|name| (name, &actions[..])));
    let granted = ["--mode", "ReadOnly", "--repository", "app", "other"];
    let connection = root.connect("dock01", &granted);
    root.link("dock01", &owner.0);
    let device = Node::start_device(&connection);
    let push = |name: &str, tag: &str, image: Image| {
        assert_eq!(image.push(&root.login, (&owner.0, &owner.1), name, tag).status, 201);
    };
    push("app", "v1", Image::new(1, &[2000]));
    eventually(SOON, "the small image", || pull(&device, &owner, "app", "v1").ok());
    push("app", "v2", Image::new(2, &[20_000_000]));
    let before = login.down();
    eventually(SOON, "it is on its way", || (login.down() > before + 300_000).then_some(()));
    push("other", "v1", Image::new(3, &[2000]));
    let withdraw = ["connected-registry", "permissions", "update", "--name", "dock01"];
    root.json(&[&withdraw[..], &["--remove", "app"]].concat());
    eventually(SOON, "it is gone, and the other is here", || {
        let gone = pull(&device, &owner, "app", "v1").err()?;
        (gone.status == 404 && pull(&device, &owner, "other", "v1").is_ok()).then_some(())
    });
    assert!(login.down() < before + 15_000_000, "the transfer has ended");
}

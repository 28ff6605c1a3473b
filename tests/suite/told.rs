//! What a root shows of its devices, and a device of itself, is true.

use std::io::Write;
use std::net::TcpListener;

use crate::support::image::Image;
use crate::support::node::{Node, binary, sync_token};
use crate::support::{clients, eventually, skip};
use crate::sync::{SOON, pair, pull};

fn shown(node: &Node) -> serde_json::Value {
    node.json(&["connected-registry", "show", "--name", "dock01"])
}

fn state_at(node: &Node) -> String {
    shown(node)["connectionState"].as_str().unwrap().to_owned()
}

fn last_sync_at(node: &Node) -> Option<String> {
    shown(node)["parent"]["syncProperties"]["lastSyncTime"].as_str().map(str::to_owned)
}

/// A daily schedule of which no window is open for the next hours.
fn far_schedule() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("0 {} * * *", (now.as_secs() / 3600 + 12) % 24)
}

/// Symptom: a device that was set up between two windows was `Offline` at its root until the first
/// one, and its own view of itself was `Offline` and `Inactive` for ever.
#[test]
fn f212_a_device_between_its_windows_is_not_offline() {
    let mut root = Node::root();
    let connection =
        root.connect("dock01", &["--repository", "app", "--sync-schedule", &far_schedule()]);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "the device waits for its window", || {
        let status = device.json(&["status"]);
        (status["sync"]["waitingForWindow"] == true).then_some(())
    });
    let summary = device.json(&["status"])["sync"]["contact"].clone();
    assert_eq!(summary, "waiting for the next sync window");
    for node in [&root, &device] {
        assert_eq!(state_at(node), "Online", "{}", node.login);
        assert_eq!(shown(node)["activation"]["status"], "Active");
    }
    assert!(root.stop().success());
    root.start();
    assert_eq!(state_at(&root), "Online", "also when the root knows it from its disk only");
    device.kill();
    device.start();
    let log = device.log();
    assert!(!log.contains("out of contact") && !log.contains("answers again"), "{log}");
    assert_eq!(state_at(&device), "Online");

    if let Some(program) = clients::missing(&["faketime"]) {
        return skip(&format!("{program} is not installed"));
    }
    device.kill();
    for (clock, state) in [("+50h", "Online"), ("+110h", "Offline")] {
        assert!(root.stop().success());
        root.set_clock(Some(clock));
        root.start();
        assert_eq!(state_at(&root), state, "after {clock} without contact");
    }
    // A look at the configuration is contact, which a restart of the root does not forget.
    device.set_clock(Some("+110h"));
    device.start();
    eventually(SOON, "the device looks", || (state_at(&root) == "Online").then_some(()));
    assert!(root.stop().success());
    root.start();
    assert_eq!(state_at(&root), "Online", "though the window is days away");
}

/// Symptom: after a restart of a device its root showed an earlier last sync than before. Cause:
/// the device writes it down once an hour and reported that after the restart.
#[test]
fn f212_the_last_sync_never_runs_backwards() {
    let (root, mut device, user) = pair("ReadOnly");
    let first = eventually(SOON, "a first sync is told", || last_sync_at(&root));
    let mut looks = 0;
    let mut told_after = |known: &str| {
        if looks % 32 == 0 {
            let image = Image::new(700 + looks, &[1000]);
            image.push(&root.login, (&user.0, &user.1), "app", "again");
        }
        looks += 1;
        let now = last_sync_at(&root).unwrap();
        assert!(now.as_str() >= known, "{now} was told after {known}");
        (now.as_str() > known).then_some(now)
    };
    let later = eventually(SOON * 2, "and a later one", || told_after(&first));
    device.kill();
    device.start();
    assert!(last_sync_at(&device).is_some(), "the device knows of one too");
    let latest = eventually(SOON * 2, "the next one is told", || told_after(&later));
    assert!(last_sync_at(&device) >= Some(latest));
}

#[test]
fn f212_a_start_beside_a_healthy_parent_does_not_say_out_of_contact() {
    let (root, mut device, _user) = pair("ReadOnly");
    device.kill();
    let before = device.log().len();
    device.start();
    let log = device.log()[before..].to_owned();
    assert!(log.contains("ready: dock01: 1 repositories"), "{log}");
    assert!(!log.contains("out of contact"), "{log}");
    eventually(SOON, "the device is in contact", || {
        (device.json(&["status"])["sync"]["contact"] == "in contact").then_some(())
    });
    assert_eq!(state_at(&device), "Online");
    drop(root);
    eventually(SOON * 2, "the device says so when its parent has gone", || {
        (device.json(&["status"])["sync"]["contact"] == "out of contact").then_some(())
    });
    assert_eq!(state_at(&device), "Offline");
}

/// Symptom: `not_synced_yet` for ever for a misspelt name under a wildcard.
#[test]
fn f212_what_the_parent_does_not_have_is_not_said_to_be_on_its_way() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let owner = (user.0.as_str(), user.1.as_str());
    assert_eq!(Image::new(1, &[1000]).push(&root.login, owner, "team/app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "team/*"]);
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1 comes", || pull(&device, &user, "team/app", "v1").ok());
    let reason = |device: &Node, repository: &str| {
        pull(device, &user, repository, "v1").unwrap_err().error().1
    };
    eventually(SOON, "the parent has nothing of that name", || {
        (reason(&device, "team/ap") == "not_found").then_some(())
    });
    device.kill();
    device.start();
    assert_eq!(reason(&device, "team/ap"), "not_found", "also after a restart");
    assert_eq!(reason(&device, "other"), "not_in_sync_scope");
    assert_eq!(Image::new(2, &[1000]).push(&root.login, owner, "team/ap", "v1").status, 201);
    eventually(SOON, "and it comes when the parent has it", || {
        pull(&device, &user, "team/ap", "v1").ok()
    });
}

#[test]
fn f212_a_device_whose_sync_token_is_disabled_is_not_online() {
    let (root, device, _user) = pair("ReadOnly");
    eventually(SOON, "the device is online", || (state_at(&root) == "Online").then_some(()));
    let id = shown(&root)["parent"]["syncProperties"]["tokenId"].as_str().unwrap().to_owned();
    let token = id.rsplit('/').next().unwrap();
    root.json(&["token", "update", "--name", token, "--status", "disabled"]);
    assert_eq!(state_at(&root), "Offline");
    root.json(&["token", "update", "--name", token, "--status", "enabled"]);
    eventually(SOON * 3, "it comes back", || (state_at(&root) == "Online").then_some(()));
    drop(device);
}

/// Symptom: only the root knew of pushes that it refused, and nobody of those that wait.
#[test]
fn f212_a_device_tells_of_its_waiting_and_refused_pushes() {
    let (mut root, device, user) = pair("ReadWrite");
    let sync = || device.json(&["status"])["sync"].clone();
    assert_eq!((&sync()["waitingChanges"], &sync()["refusedChanges"]), (&0.into(), &0.into()));
    root.kill();
    let image = Image::new(2, &[1000]);
    assert_eq!(image.push(&device.login, (&user.0, &user.1), "app", "v2").status, 201);
    let waiting = sync()["waitingChanges"].as_u64().unwrap();
    assert!(waiting > 0);
    let table = String::from_utf8(device.run(&["status"]).stdout).unwrap();
    assert!(table.contains(&format!("waitingChanges: {waiting}\n")), "{table}");
    root.know_as("quotas = [\"app=1KiB\"]\n");
    root.start();
    let told = eventually(SOON * 3, "the refusal is told upward and here alike", || {
        let details = shown(&root)["statusDetails"].clone();
        let refused = details[0]["code"] == "PushRefused";
        (refused && sync()["statusDetails"] == details).then_some(details)
    });
    assert!(told[0]["description"].as_str().unwrap().contains("quota_exceeded"), "{told}");
    assert!(sync()["refusedChanges"].as_u64().unwrap() > 0);
    assert_eq!(
        (shown(&device)["statusDetails"].clone(), state_at(&device)),
        (told, "Unhealthy".into())
    );
    let table = String::from_utf8(device.run(&["status"]).stdout).unwrap();
    assert!(table.contains("PushRefused") && table.contains("quota_exceeded"), "{table}");
}

/// Symptom: the log said that the sync stopped, and never that it works again; and of an outage it
/// told the first cause only, which may be no more than how the parent went away.
#[test]
fn f212_the_log_says_why_the_sync_stopped_and_that_it_works_again() {
    let (mut root, device, _user) = pair("ReadOnly");
    let says = |text: &str| device.log().contains(text).then_some(());
    assert_eq!(says("the sync works again"), None, "{}", device.log());
    root.kill();
    eventually(SOON, "it says that it stopped", || says("the sync stopped"));
    let another = TcpListener::bind(&root.gateway).unwrap();
    let (mut call, _) = another.accept().unwrap();
    call.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").unwrap();
    drop((call, another));
    eventually(SOON, "it says what is wrong now", || {
        let log = device.log();
        let mut causes = log.lines().filter(|line| line.contains("the sync stopped"));
        causes.any(|line| line.contains("502")).then_some(())
    });
    root.start();
    eventually(SOON * 3, "it says that it works again", || says("the sync works again"));
}

/// Symptom: "there is no such content" for what the parent may have by now.
#[test]
fn f212_a_miss_without_contact_says_as_of_when() {
    let (mut root, device, user) = pair("ReadOnly");
    let miss = || {
        let answer = pull(&device, &user, "app", "v2").unwrap_err();
        assert_eq!(answer.status, 404);
        (answer.error().1, answer.message())
    };
    let in_contact = ("not_found".to_owned(), "app:v2 is not here: there is no such content");
    assert_eq!((miss().0, miss().1.as_str()), in_contact);
    root.kill();
    eventually(SOON * 2, "it says since when it is alone", || {
        let (reason, says) = miss();
        let alone = says.contains("no such content at the last sync (20")
            && says.contains("the parent cannot be reached since 20");
        (reason == "not_found" && alone).then_some(())
    });
    root.start();
    let mut update = vec!["connected-registry", "update", "--name", "dock01"];
    let schedule = far_schedule();
    update.extend_from_slice(&["--sync-schedule", &schedule]);
    root.json(&update);
    eventually(SOON * 3, "it says when it asks again", || {
        let (reason, says) = miss();
        let waits = says.contains("at the last sync (20") && says.contains("next one opens at 20");
        (reason == "waiting_for_window" && waits).then_some(())
    });
}

/// Symptom: "the parent cannot be reached" of a parent that answers, and refuses.
#[test]
fn f212_a_miss_says_that_the_parent_refuses_this_node() {
    let (mut root, device, user) = pair("ReadOnly");
    root.json(&["token", "update", "--name", &sync_token("dock01"), "--status", "disabled"]);
    eventually(SOON * 2, "the device hears of it", || {
        (device.json(&["status"])["state"] == "Unauthorized").then_some(())
    });
    eventually(SOON, "a miss says so", || {
        let says = pull(&device, &user, "app", "v2").unwrap_err().message();
        let refused = says.ends_with(", and the parent refuses this node (Unauthorized)");
        assert!(refused || !says.contains("cannot be reached"), "{says}");
        refused.then_some(())
    });
    root.kill();
    eventually(SOON * 2, "what was refused before is not why the sync fails now", || {
        let status = device.json(&["status"]);
        (status["state"] == "Active").then(|| {
            let remedy = status["remedy"].as_str().unwrap_or_default();
            assert!(remedy.contains("check that the parent runs"), "{status}");
            assert!(
                status["reason"].as_str().unwrap_or_default().contains("127.0.0.1"),
                "{status}"
            );
            assert_eq!(status["parentSays"], serde_json::Value::Null, "{status}");
        })
    });
}

/// A device whose parent cannot be reached at the first start is no root.
#[test]
fn f212_a_device_does_not_call_itself_root() {
    let root = Node::root();
    let connection = root.connect("dock01", &["--repository", "app"]);
    drop(root);
    let mut device = Node::device(&connection);
    device.spawn();
    let line = eventually(SOON, "the device says what it is", || {
        let line = device.log().lines().find(|line| line.contains(" ready: "))?.to_owned();
        Some(line)
    });
    assert!(line.contains("ready: connected registry") && !line.contains("root"), "{line}");
    assert_eq!(device.json(&["status"])["role"], "connected");
}

#[test]
fn f003_the_gateways_host_follows_from_name_region_and_suffix() {
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("region = \"site\"\nsuffix = \"registry.example\"");
    root.start();
    let port = root.gateway.rsplit_once(':').unwrap().1;
    let connection = root.connect("dock01", &["--repository", "app"]);
    let expected = format!(";ParentGatewayEndpoint=testreg.site.data.registry.example:{port};");
    assert!(connection.contains(&expected), "{}", root.log());
    // What is written out counts more; and nothing is made up without a suffix.
    assert!(root.stop().success());
    root.know_as("gateway_server = \"gateway.example:7\"");
    root.start();
    let status = root.json(&["status"]);
    assert_eq!(status["gatewayEndpoint"], "gateway.example:7");
    assert!(root.stop().success());
    root.know_only_as("region = \"site\"");
    root.start();
    assert_eq!(root.json(&["status"])["gatewayEndpoint"], root.gateway.as_str());
}

#[test]
fn f212_plain_http_that_others_can_reach_is_warned_about() {
    for (host, line, warned) in [
        ("0.0.0.0", "", true),
        ("127.0.0.1", "", false),
        // Something in front of it ends TLS.
        ("0.0.0.0", "public_scheme = \"https\"", false),
    ] {
        let mut root = Node::device("x");
        root.make_root();
        root.know_as(line);
        let port = root.login.rsplit_once(':').unwrap().1.to_owned();
        root.login = format!("{host}:{port}");
        let text = format!("{host}:{port} speaks plain HTTP");
        let check = root.run_configured(&["config", "check"]);
        let told = String::from_utf8_lossy(&check.stderr).into_owned();
        assert_eq!(told.contains(&text), warned, "{told}");
        root.start();
        assert_eq!(root.log().contains(&text), warned, "{}", root.log());
    }
}

#[test]
fn f026_what_a_deleted_connected_registry_leaves_is_named_whole() {
    let root = Node::root();
    root.connect("dock01", &["--repository", "app"]);
    root.connect("crane7", &["--repository", "app", "--parent", "dock01"]);
    let left = || {
        let maps = root.json(&["scope-map", "list"]).to_string();
        (maps.contains("/crane7/"), maps.contains("gateway/dock01/"))
    };
    assert_eq!(left(), (true, true));
    let output = root.run(&["connected-registry", "delete", "--name", "crane7", "--yes"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    // As an operator would copy them.
    let (_, commands) = told.trim().split_once("now: ").unwrap();
    for command in commands.split("; ") {
        let mut words: Vec<_> = command.split_whitespace().skip(1).collect();
        words.extend(words.contains(&"delete").then_some("--yes"));
        let done = root.run(&words);
        assert!(done.status.success(), "{command}: {done:?}");
    }
    assert_eq!(left(), (false, true), "{told}");
}

#[test]
fn the_version_comes_with_the_limits() {
    let output = |arguments: &[&str]| {
        let output = std::process::Command::new(binary()).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = output(&["version"]);
    assert!(text.starts_with(concat!("skerry ", env!("CARGO_PKG_VERSION"), "\n")), "{text}");
    let json: serde_json::Value = output(&["version", "-o", "json"]).parse().unwrap();
    for (name, limit) in json["limits"].as_object().unwrap() {
        assert!(text.contains(&format!("{name}: {limit}\n")), "{name}: {text}");
    }
}

//! Sync windows: no traffic outside them, across kills and restarts.

use std::time::Duration;

use crate::support::image::Image;
use crate::support::node::{Node, free_port, sync_token};
use crate::support::proxy::Proxy;
use crate::support::{clients, eventually, skip};
use crate::sync::{SOON, pull};
use crate::topology::connection_below;

#[test]
fn f111_f115_f116_a_schedule_set_at_the_root_holds_at_the_device() {
    if let Some(program) = clients::missing(&["faketime"]) {
        return skip(&format!("{program} is not installed"));
    }
    let (login, gateway) = (free(), free());
    // The device sees its parent through proxies only: both endpoints are counted.
    let root_login = Proxy::new(&login);
    let root_gateway = Proxy::new(&gateway);
    let root = Node::root_behind(&login, &gateway, &root_login.address, &root_gateway.address);
    let user = root.pusher("owner-token", "app");
    let image = Image::new(1, &[10_000]);
    let credentials = (user.0.as_str(), user.1.as_str());
    assert_eq!(image.push(&root.login, credentials, "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1 in continuous mode", || pull(&device, &user, "app", "v1").ok());

    // A window of an hour that opens twelve hours from now.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let hour = (now.as_secs() / 3600 + 12) % 24;
    let schedule = format!("0 {hour} * * *");
    root.json(&[
        "connected-registry",
        "update",
        "--name",
        "dock01",
        "--sync-schedule",
        &schedule,
        "--sync-window",
        "PT1H",
    ]);
    eventually(SOON, "the device hears of it", || device.log().contains("window").then_some(()));
    std::thread::sleep(Duration::from_secs(2));
    let quiet = |device: &Node, what: &str| {
        let before = (root_login.bytes(), root_gateway.bytes(), root_gateway.connections());
        std::thread::sleep(Duration::from_secs(4));
        let after = (root_login.bytes(), root_gateway.bytes(), root_gateway.connections());
        assert_eq!(before, after, "{what}\n{}", device.log());
    };
    let second = Image::new(2, &[10_000]);
    assert_eq!(second.push(&root.login, credentials, "app", "v2").status, 201);
    quiet(&device, "outside the window");
    device.kill();
    device.start();
    quiet(&device, "after a kill");
    assert!(pull(&device, &user, "app", "v1").is_ok());
    assert!(pull(&device, &user, "app", "v2").is_err());

    // The same device with its clock inside the window.
    device.kill();
    let minutes_to_the_hour = 60 - now.as_secs() / 60 % 60;
    let clock = format!("+{}m", 11 * 60 + minutes_to_the_hour + 5);
    device.set_clock(Some(&clock));
    device.start();
    eventually(SOON, "v2 inside the window", || pull(&device, &user, "app", "v2").ok());
}

/// Symptom: a device without a clock, started again, synced nothing under any schedule, and nothing
/// said why.
#[test]
fn f177_a_device_without_a_clock_goes_by_the_time_of_its_parent() {
    if let Some(program) = clients::missing(&["faketime"]) {
        return skip(&format!("{program} is not installed"));
    }
    let mut root = Node::root();
    let user = root.pusher("owner-token", "app");
    let credentials = (user.0.as_str(), user.1.as_str());
    let push = |root: &Node, seed: u64, tag: &str| {
        let image = Image::new(seed, &[10_000]);
        assert_eq!(image.push(&root.login, credentials, "app", tag).status, 201);
    };
    push(&root, 1, "v1");
    // One window opens as the other ends.
    let always = ["--sync-schedule", "0 * * * *", "--sync-window", "PT1H"];
    let connection = root.connect("dock01", &[&["--repository", "app"][..], &always].concat());
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1", || pull(&device, &user, "app", "v1").ok());
    device.kill();
    push(&root, 2, "v2");
    device.set_clock(Some("@1970-01-01 00:00:00"));
    device.start();
    eventually(SOON, "v2 by the time of the parent", || pull(&device, &user, "app", "v2").ok());
    assert!(device.log().contains("the parent says 20"), "{}", device.log());
    assert_eq!(device.json(&["status"])["clockTrusted"], true);

    // Nobody knows the time.
    device.kill();
    root.kill();
    root.set_clock(Some("@1970-01-01 00:00:00"));
    root.start();
    device.start();
    let description = eventually(SOON, "it is told", || {
        let details = device.json(&["status"])["sync"]["statusDetails"].clone();
        details[0]["description"].as_str().map(str::to_owned)
    });
    assert!(description.contains("no sync window opens. Set the clock"), "{description}");

    // A parent that comes up later than its device.
    device.kill();
    root.kill();
    device.start();
    eventually(SOON, "the first call has failed", || {
        device.log().contains("tried again").then_some(())
    });
    root.set_clock(None);
    root.start();
    eventually(SOON * 2, "the next call brings the time", || {
        (device.json(&["status"])["clockTrusted"] == true).then_some(())
    });
}

/// Symptom: after a power cut of a site, a device below another one never heard the time, which
/// that one heard a little later, and took passwords that had expired.
#[test]
fn f177_a_device_hears_the_time_that_its_parent_hears_later() {
    if let Some(program) = clients::missing(&["faketime"]) {
        return skip(&format!("{program} is not installed"));
    }
    let mut root = Node::root();
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.connect("dock02", &["--parent", "dock01", "--repository", "app"]);
    let mut middle = Node::start_device(&connection);
    let below = connection_below(&root, "dock02", &middle);
    let mut leaf = Node::start_device(&below);
    let in_contact =
        |node: &Node| (node.json(&["status"])["sync"]["parentOnline"] == true).then_some(());
    eventually(SOON, "all are in contact", || in_contact(&leaf));
    root.kill();
    middle.kill();
    leaf.kill();
    for node in [&mut middle, &mut leaf] {
        node.set_clock(Some("@1970-01-01 00:00:00"));
        node.start();
    }
    eventually(SOON, "the leaf is in contact", || in_contact(&leaf));
    assert_eq!(leaf.json(&["status"])["clockTrusted"], false);
    root.start();
    eventually(SOON * 5, "the leaf hears the time", || {
        (leaf.json(&["status"])["clockTrusted"] == true).then_some(())
    });
}

/// Symptom: a device with a window once a year, or with a schedule that never fires, could not be
/// told of another one. Cause: outside its windows it called nobody.
#[test]
fn f213_a_device_whose_window_is_far_away_hears_of_another_schedule_within_a_day() {
    if let Some(program) = clients::missing(&["faketime"]) {
        return skip(&format!("{program} is not installed"));
    }
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let credentials = (user.0.as_str(), user.1.as_str());
    assert_eq!(Image::new(1, &[10_000]).push(&root.login, credentials, "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1 in continuous mode", || pull(&device, &user, "app", "v1").ok());
    let schedule = |text: &str| {
        let update = ["connected-registry", "update", "--name", "dock01", "--sync-schedule", text];
        root.run(&update)
    };
    // Never, in words that a user would try.
    let refused = schedule("0 0 31 2 *");
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("'0 0 31 2 *'") && text.contains("eight years"), "{text}");
    assert!(schedule("0 0 29 2 *").status.success(), "the next leap day");
    eventually(SOON, "the device hears of it", || {
        device.log().contains("the sync window has ended").then_some(())
    });
    device.kill();
    assert!(schedule("* * * * *").status.success());
    assert_eq!(Image::new(2, &[10_000]).push(&root.login, credentials, "app", "v2").status, 201);
    // At a start the last look is not older than a day; two days later it is.
    let looks = |device: &Node| device.log().matches("looking at the configuration").count();
    device.set_clock(Some("+12h"));
    device.start();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(looks(&device), 0, "{}", device.log());
    assert!(pull(&device, &user, "app", "v2").is_err());
    device.kill();
    device.set_clock(Some("+48h"));
    device.start();
    eventually(SOON, "v2 in continuous mode", || pull(&device, &user, "app", "v2").ok());
    assert_eq!(looks(&device), 1, "{}", device.log());
}

/// Symptom: a device of a connected registry that was deleted and made again kept to the schedule
/// of the old one, for up to a day, with its new connection string and after restarts.
#[test]
fn f213_a_device_with_another_connection_string_asks_at_once() {
    let root = Node::root();
    let user = root.pusher("owner-token", "app");
    let credentials = (user.0.as_str(), user.1.as_str());
    assert_eq!(Image::new(1, &[10_000]).push(&root.login, credentials, "app", "v1").status, 201);
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "v1 in continuous mode", || pull(&device, &user, "app", "v1").ok());
    let far = ["connected-registry", "update", "--name", "dock01", "--sync-schedule", "0 0 29 2 *"];
    assert!(root.run(&far).status.success(), "the next leap day");
    eventually(SOON, "the device hears of it", || {
        device.log().contains("the sync window has ended").then_some(())
    });
    device.kill();
    let delete = ["connected-registry", "delete", "--name", "dock01", "--cleanup", "--yes"];
    assert!(root.run(&delete).status.success());
    device.provision(&root.connect("dock01", &["--repository", "app"]));
    root.link("dock01", &user.0);
    assert_eq!(Image::new(2, &[10_000]).push(&root.login, credentials, "app", "v2").status, 201);
    device.start();
    eventually(SOON, "v2 in continuous mode", || pull(&device, &user, "app", "v2").ok());
}

/// Symptom: a device that its parent refuses was `Active` after a restart, waiting for its window;
/// and one with a new connection string, whose parent was away, gave no reason.
#[test]
fn f031_f213_a_restart_outside_the_window_tells_what_is_wrong() {
    let root = Node::root();
    let connection = root.connect("dock01", &["--repository", "app"]);
    let mut device = Node::start_device(&connection);
    let far = ["connected-registry", "update", "--name", "dock01", "--sync-schedule", "0 0 29 2 *"];
    assert!(root.run(&far).status.success(), "the next leap day");
    eventually(SOON, "the device hears of it", || {
        device.log().contains("the sync window has ended").then_some(())
    });
    // Another string than the root has, and so an operator's word.
    let other = root.run(&["token", "credential", "generate", "--name", &sync_token("dock01")]);
    assert!(other.status.success(), "{other:?}");
    let wrong = connection.replace("SyncTokenPassword=", "SyncTokenPassword=x");
    device.stop();
    // The one from before is refused too, now that the other token has a new password.
    for (start, string) in [&wrong, &wrong, &connection].into_iter().enumerate() {
        device.provision(string);
        device.start();
        eventually(SOON, "the refusal is told", || {
            (device.json(&["status"])["state"] == "Unauthorized").then_some(start)
        });
        device.stop();
    }
    let nobody = format!("ParentGatewayEndpoint=127.0.0.1:{}", free_port());
    let parts =
        connection.split(';').map(|part| match part.starts_with("ParentGatewayEndpoint=") {
            true => &nobody,
            false => part,
        });
    device.provision(&parts.collect::<Vec<_>>().join(";"));
    device.start();
    let status = eventually(SOON, "the reason is told", || {
        Some(device.json(&["status"])).filter(|status| !status["reason"].is_null())
    });
    assert_eq!(status["state"], "Active", "{status}");
    let (reason, remedy) = (&status["reason"], &status["remedy"]);
    assert!(reason.as_str().unwrap().contains("cannot connect"), "{reason}");
    assert!(remedy.as_str().unwrap().contains("goes on trying"), "{remedy}");
}

/// Symptom: nobody could see when the window of a device opens and how long it is, nor why another
/// schedule did not reach it.
#[test]
fn f114_f213_a_schedule_in_force_is_seen_and_what_leaves_it_is_said() {
    let root = Node::root();
    let connection = root.connect("dock01", &["--repository", "app"]);
    let mut device = Node::start_device(&connection);
    eventually(SOON, "the device is active", || {
        (device.json(&["status"])["state"] == "Active").then_some(())
    });
    let update = |arguments: &[&str]| {
        let update = ["connected-registry", "update", "--name", "dock01"];
        let output = root.run(&[&update[..], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let sync = device.json(&["status"])["sync"].clone();
    assert_eq!(sync["nextWindowTime"], serde_json::Value::Null, "continuous: {sync}");
    let told = update(&["--sync-schedule", "0 0 29 2 *"]);
    assert!(told.contains("PT1H") && told.contains("--sync-window"), "{told}");
    assert!(!told.contains("daily look"), "a continuous device hears at once: {told}");
    let status = eventually(SOON, "the device waits for its window", || {
        let status = device.json(&["status"]);
        (status["sync"]["waitingForWindow"] == true).then_some(status)
    });
    assert_eq!(status["connectedRegistry"]["schedule"], "0 0 29 2 *", "{status}");
    assert_eq!(status["connectedRegistry"]["syncWindow"], "PT1H", "{status}");
    let next = status["sync"]["nextWindowTime"].as_str().unwrap();
    assert!(next.ends_with("-02-29T00:00:00Z"), "{next}");
    let text = String::from_utf8(device.run(&["status"]).stdout).unwrap();
    assert!(text.contains(next) && text.contains("PT1H"), "{text}");

    let seen = device.log().len();
    assert!(device.stop().success());
    device.start();
    let log = device.log();
    let started = log[seen..].to_owned();
    assert!(started.contains("repositories, waiting for the next sync window"), "{started}");
    assert!(!started.contains("connecting to its parent"), "{started}");

    let told = update(&["--sync-schedule", "* * * * *"]);
    for part in [next, "daily look", "--generate-password"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = update(&["--sync-schedule", "0 1 * * *", "--sync-window", "PT3H"]);
    assert!(!told.contains("PT1H"), "the window was given: {told}");
}

/// Symptom: after a second change of its schedule, the warning named one that the device had never
/// heard of; and of a token that was disabled meanwhile nothing was said.
#[test]
fn f114_f213_what_a_device_outside_its_window_has_not_heard_of_is_said() {
    let mut root = Node::root();
    let user = root.pusher("owner-token", "app");
    let connection = root.connect("dock01", &["--repository", "app"]);
    root.link("dock01", &user.0);
    let device = Node::start_device(&connection);
    let told = |root: &Node, arguments: &[&str]| {
        let output = root.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let schedule = |root: &Node, text: &str| {
        let update = ["connected-registry", "update", "--name", "dock01", "--sync-schedule", text];
        told(root, &[&update[..], &["--sync-window", "PT1H"]].concat())
    };
    let status = |root: &Node, status: &str| {
        told(root, &["token", "update", "--name", &user.0, "--status", status])
    };
    assert_eq!(status(&root, "disabled"), "", "a continuous device hears at once");
    assert_eq!(status(&root, "enabled"), "");
    assert_eq!(schedule(&root, "0 0 29 2 *"), "");
    let next = eventually(SOON, "the device waits for its window", || {
        let sync = device.json(&["status"])["sync"].clone();
        (sync["waitingForWindow"] == true).then_some(())?;
        sync["nextWindowTime"].as_str().map(str::to_owned)
    });
    let expect = |told: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?}: {told}");
    };
    // Of whatever is asked for, it goes by what it has.
    let has = ["'0 0 29 2 *' is in force", next.as_str(), "daily look"];
    expect(schedule(&root, "0 0 28 2 *"), &has);
    expect(schedule(&root, "0 0 26 2 *"), &has);
    expect(schedule(&root, "0 0 27 2 *"), &has);
    assert_eq!(schedule(&root, "0 0 29 2 *"), "", "it has that");
    let late = ["'dock01' hears of it when its next window opens", next.as_str(), "daily look"];
    expect(status(&root, "disabled"), &late);
    expect(status(&root, "enabled"), &late);
    let renew = ["token", "credential", "generate", "--name", &user.0, "--password2"];
    expect(told(&root, &renew), &late);
    // So does what changes a scope map, the permissions, or who may log in there.
    let map = root.json(&["token", "show", "--name", &user.0])["scopeMapId"].clone();
    let map = map.as_str().and_then(|id| id.rsplit('/').next()).unwrap().to_owned();
    let grants = |verb| ["scope-map", "update", "--name", &map, verb, "app", "content/delete"];
    expect(told(&root, &grants("--remove-repository")), &late);
    expect(told(&root, &grants("--add-repository")), &late);
    let describe = ["scope-map", "update", "--name", &map, "--description", "of the owner"];
    assert_eq!(told(&root, &describe), "");
    let permit = ["connected-registry", "permissions", "update", "--name", "dock01", "--add", "b"];
    expect(told(&root, &permit), &late);
    let clients =
        |verb| ["connected-registry", "update", "--name", "dock01", verb, user.0.as_str()];
    expect(told(&root, &clients("--remove-client-tokens")), &late);
    expect(told(&root, &clients("--add-client-tokens")), &late);
    let help = root.run(&["token", "update", "--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("as soon as that hears of it") && !help.contains("everywhere"), "{help}");

    // A root that was started since does not know what the device has.
    assert!(root.stop().success());
    root.start();
    let told_then = schedule(&root, "0 0 28 2 *");
    expect(told_then, &["'0 0 29 2 *', or an earlier one, may be in force", "has not asked"]);
    expect(status(&root, "disabled"), &["'dock01' hears of it", "with the schedule '0 0 28 2 *'"]);
    let deactivate = ["connected-registry", "deactivate", "--name", "dock01", "--yes"];
    expect(told(&root, &deactivate), &["'dock01' hears of this when", "serves what it has"]);
    let delete = ["token", "delete", "--name", &user.0, "--yes"];
    assert_eq!(told(&root, &delete), "", "there is no device now");
}

fn free() -> String {
    format!("127.0.0.1:{}", free_port())
}

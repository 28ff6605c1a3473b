//! Names and addresses that lead clients, children or this node itself astray.

use std::time::Duration;

use crate::support::eventually;
use crate::support::node::{Node, free_port};

/// What `config check` complains of; it must pass.
fn checked(node: &Node) -> String {
    let output = node.run_configured(&["config", "check"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// What `get-settings` of this child warns of.
fn warned(root: &Node, child: &str) -> String {
    let output = root.run(&["connected-registry", "get-settings", "--name", child]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn f068_a_name_without_a_port_that_nobody_listens_at_is_told() {
    let mut root = Node::device("x");
    root.make_root();
    root.know_as("login_server = \"reg.example\"\ngateway_server = \"root.example\"");
    let port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
    let told = |text: &str, key: &str, name: &str, address: &str| {
        let cure = format!("{name}:{}", port(address));
        let line = text.lines().find(|line| line.contains(&format!("registry.{key}")));
        let line = line.unwrap_or_default();
        assert!(line.contains("names no port") && line.contains(&cure), "{key}: {text}");
    };
    let text = checked(&root);
    told(&text, "login_server", "reg.example", &root.login);
    told(&text, "gateway_server", "root.example", &root.gateway);
    root.start();
    told(&root.log(), "login_server", "reg.example", &root.login);
    told(&root.log(), "gateway_server", "root.example", &root.gateway);
    root.json(&["connected-registry", "create", "--name", "dock01", "--repository", "app"]);
    told(&warned(&root, "dock01"), "gateway_server", "root.example", &root.gateway);
    assert!(root.stop().success());

    root.know_as("public_scheme = \"https\"");
    assert!(!checked(&root).contains("names no port"), "a proxy is there");
    let ports = format!(
        "login_server = \"reg.example:{}\"\ngateway_server = \"root.example:443\"",
        port(&root.login)
    );
    root.know_only_as(&ports);
    assert!(!checked(&root).contains("names no port"), "they have ports");
}

#[test]
fn f068_an_address_of_no_machine_is_told_where_children_would_be_told_of_it() {
    let mut root = Node::device("x");
    root.make_root();
    root.gateway = format!("0.0.0.0:{}", free_port());
    let told = |text: &str, address: &str, key: &str| {
        assert!(text.contains(address) && text.contains(key), "{key} for {address}: {text}");
    };
    told(&checked(&root), &root.gateway, "registry.gateway_server");
    root.start();
    told(&root.log(), &root.gateway, "set registry.gateway_server");
    root.json(&["connected-registry", "create", "--name", "site01", "--repository", "app"]);
    told(&warned(&root, "site01"), &root.gateway, "registry.gateway_server");
    assert!(root.stop().success());
    let port = root.gateway.rsplit_once(':').unwrap().1.to_owned();
    root.know_as(&format!("gateway_server = \"127.0.0.1:{port}\""));
    assert!(!checked(&root).contains("registry.gateway_server"));
    root.start();

    let string = root.connect("middle1", &["--repository", "app"]);
    let mut middle = Node::device(&string);
    middle.login = format!("0.0.0.0:{}", free_port());
    middle.start();
    let create = ["connected-registry", "create", "--name", "leaf01", "--parent", "middle1"];
    root.json(&[&create[..], &["--repository", "app"]].concat());
    eventually(Duration::from_secs(20), "the root knows where the middle listens", || {
        let text = warned(&root, "leaf01");
        (text.contains(&middle.login) && text.contains("registry.login_server")).then_some(())
    });
    eventually(Duration::from_secs(20), "the middle hears of its child", || {
        (middle.json(&["status"])["connectedRegistry"]["children"] == 1).then_some(())
    });
    assert!(middle.stop().success());
    middle.start();
    told(&middle.log(), &middle.login, "set registry.login_server");
}

#[test]
fn f068_a_device_that_is_its_own_parent_says_so() {
    let string = |endpoint: &str| {
        format!(
            "ConnectedRegistryName=dock01;SyncTokenName=dock01;SyncTokenPassword=secret-word;\
             ParentGatewayEndpoint={endpoint};ParentEndpointProtocol=http"
        )
    };
    let mut device = Node::device("x");
    let own = device.login.clone();
    let (_, port) = own.rsplit_once(':').unwrap();
    for endpoint in [own.clone(), format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        device.provision(&string(&endpoint));
        let text = checked(&device);
        assert!(text.contains(&format!("{endpoint} is this node itself")), "{endpoint}: {text}");
        assert!(text.contains("get-settings"), "{text}");
    }
    device.provision(&string("0.0.0.0:1"));
    let text = checked(&device);
    assert!(text.contains("0.0.0.0:1 is an address of no machine"), "{text}");
    assert!(!text.contains("this node itself"), "{text}");

    device.provision(&string(&own));
    device.spawn();
    eventually(Duration::from_secs(20), "it says so", || {
        let status = device.run(&["status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
        let reason = status["reason"].as_str()?;
        reason.contains(&format!("{own} is this node itself")).then_some(())
    });
    assert!(device.log().contains(&format!("{own} is this node itself")), "{}", device.log());
    assert!(!device.log().contains("secret-word"));
}

//! Logins of real clients that share one file of credentials, and a clock that moves on by days.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::clients::{Docker, must, podman, run, skopeo};
use crate::support::http::{bearer, send, token};
use crate::support::image::Image;
use crate::support::node::Node;
use crate::support::{TempDir, eventually, skip, tool};

/// How long a device may take to have something.
const SOON: Duration = Duration::from_secs(60);

/// The clients that can be had, with one file of credentials among them.
struct Clients {
    home: TempDir,
    auth: PathBuf,
    docker: Option<Docker>,
    tools: Vec<&'static str>,
}

/// All of them; docker also needs its daemon.
const CLIENTS: [&str; 6] = ["docker", "podman", "skopeo", "crane", "helm", "oras"];

impl Clients {
    fn new() -> Clients {
        Clients::with_docker(&[])
    }

    /// With these arguments of docker's daemon.
    fn with_docker(arguments: &[&str]) -> Clients {
        let home = TempDir::new();
        let docker = match Docker::start_with(&home.join("docker"), None, arguments) {
            Ok(docker) => Some(docker),
            Err(why) => {
                skip(&why);
                None
            }
        };
        let (there, absent): (Vec<&str>, Vec<&str>) = CLIENTS.into_iter().partition(|name| {
            if *name == "docker" { docker.is_some() } else { tool(name).is_some() }
        });
        for name in absent.iter().filter(|name| **name != "docker") {
            skip(&format!("{name} is not there"));
        }
        let dir = home.join("auth");
        std::fs::create_dir_all(&dir).unwrap();
        let auth = dir.join("config.json");
        Clients { home, auth, docker, tools: there }
    }

    /// A client that reads and writes the one file.
    fn client(&self, name: &str) -> Command {
        let own = self.home.join(name);
        let mut command = match (name, &self.docker) {
            ("docker", Some(docker)) => {
                let mut command = Command::new(&docker.docker);
                command.args(["-H", &docker.host]);
                command
            }
            ("podman", _) => podman(&own),
            ("skopeo", _) => skopeo(&own),
            _ => Command::new(tool(name).unwrap()),
        };
        std::fs::create_dir_all(&own).unwrap();
        command.env("HOME", &own).current_dir(&own).stdin(Stdio::null());
        command.env("DOCKER_CONFIG", self.auth.parent().unwrap());
        command.env("REGISTRY_AUTH_FILE", &self.auth).env("HELM_REGISTRY_CONFIG", &self.auth);
        command
    }

    fn login(&self, name: &str, address: &str, (user, password): (&str, &str)) {
        std::fs::write(&self.auth, "{}").unwrap();
        let mut command = self.client(name);
        match name {
            "crane" => command.args(["auth", "login"]),
            "helm" => command.args(["registry", "login", "--plain-http"]),
            "oras" => command.args(["login", "--plain-http"]),
            "podman" | "skopeo" => command.args(["login", "--tls-verify=false"]),
            _ => command.arg("login"),
        };
        must(command.args(["-u", user, "-p", password, address]));
        let stored: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&self.auth).unwrap()).unwrap();
        let entry = &stored["auths"][address];
        let basic = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
        assert_eq!(entry["auth"], basic, "what {name} keeps: {entry}");
        assert_eq!(entry.get("identitytoken"), None, "what {name} keeps: {entry}");
    }

    /// Takes the image, or the chart, from the registry, with what the file says.
    fn pull(&self, name: &str, address: &str) {
        let image = format!("{address}/app:v1");
        let out = self.home.join("out");
        let _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir_all(&out).unwrap();
        let (text, mut command) = (out.display().to_string(), self.client(name));
        match name {
            "crane" => command.args(["pull", "--format=oci", &image, &text]),
            "helm" => command.args([
                "pull",
                "--plain-http",
                &format!("oci://{address}/charts/app"),
                "--version",
                "0.1.0",
                "-d",
                &text,
            ]),
            "oras" => command.args(["manifest", "fetch", "--plain-http", &image]),
            "skopeo" => {
                let (from, to) = (format!("docker://{image}"), format!("dir:{text}"));
                command.args(["copy", "--src-tls-verify=false", &from, &to])
            }
            "podman" => command.args(["pull", "--tls-verify=false", &image]),
            _ => command.args(["pull", &image]),
        };
        must(&mut command);
    }

    /// Puts a chart there.
    fn push_chart(&self, address: &str) {
        let dir = self.home.join("helm/app");
        std::fs::create_dir_all(dir.join("templates")).unwrap();
        let about = "apiVersion: v2\nname: app\nversion: 0.1.0\ndescription: of the tests\n";
        std::fs::write(dir.join("Chart.yaml"), about).unwrap();
        std::fs::write(dir.join("templates/note.yaml"), "kind: ConfigMap\n").unwrap();
        must(self.client("helm").args(["package", "app"]));
        let into = format!("oci://{address}/charts");
        must(self.client("helm").args(["push", "--plain-http", "app-0.1.0.tgz", &into]));
    }
}

/// Starts the node again, so many hours from now.
fn move_clock(node: &mut Node, hours: u64) {
    node.kill();
    node.set_clock(Some(&format!("+{hours}h")));
    node.start();
}

#[test]
fn f205_a_login_lasts_as_long_as_its_password_whichever_client_reads_it() {
    if !Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1").exists() {
        return skip("faketime is not installed");
    }
    let clients = Clients::new();
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let user = (user.0.as_str(), user.1.as_str());
    let image = Image::of("amd64", "one", vec![crate::support::image::tar("small", b"hello\n")]);
    assert_eq!(image.push(&root.login, user, "app", "v1").status, 201);
    let address = root.login.clone();
    if clients.tools.contains(&"helm") {
        clients.login("helm", &address, user);
        clients.push_chart(&address);
    }
    let mut hours = 0;
    for login in &clients.tools {
        clients.login(login, &address, user);
        for later in [4, 5 * 24] {
            hours += later;
            move_clock(&mut root, hours);
            for reader in &clients.tools {
                eprintln!("login of {login}, {later} h later: {reader}");
                clients.pull(reader, &address);
            }
        }
    }
    // A new password ends all that.
    root.json(&["token", "credential", "generate", "--name", user.0]);
    for reader in clients.tools.iter().filter(|reader| **reader == "skopeo") {
        let from = format!("docker://{address}/app:v1");
        let mut inspect = clients.client(reader);
        inspect.args(["inspect", "--tls-verify=false", &from]);
        assert!(!run(&mut inspect).status.success());
    }
}

/// A device whose images of `library` are there for everybody, as are `app` and its charts.
#[test]
fn f198_everybody_pulls_without_a_login_what_a_node_says_and_nothing_else() {
    let root = Node::root();
    let user = root.pusher("owner-token", "*");
    let user = (user.0.as_str(), user.1.as_str());
    let image = Image::of("amd64", "one", vec![crate::support::image::tar("small", b"hello\n")]);
    let repositories = ["app", "charts/app", "library/tool", "secret"];
    let repository = [&["--repository"][..], &repositories].concat();
    let mut device = Node::device(&root.connect("dock01", &repository));
    let mirror = format!("http://{}", device.login);
    let clients = Clients::with_docker(&["--registry-mirror", &mirror]);
    for name in ["app", "library/tool", "secret"] {
        assert_eq!(image.push(&root.login, user, name, "v1").status, 201);
    }
    if clients.tools.contains(&"helm") {
        clients.login("helm", &root.login, user);
        clients.push_chart(&root.login);
    }
    let open = "[registry]\nanonymous_pull = [\"app\", \"charts/*\", \"library/*\"]\n";
    device.add_configuration(open);
    device.start();
    root.link("dock01", user.0);
    let here = |name: &str| crate::support::image::pull(&device.login, user, name, "v1").ok();
    for name in ["app", "library/tool", "secret"] {
        eventually(SOON, "the device has it", || here(name));
    }
    if clients.tools.contains(&"helm") {
        let scope = ["repository:charts/app:pull"];
        let token = token(&device.login, user.0, user.1, &scope).unwrap();
        eventually(SOON, "the device has the chart", || {
            let target = "/v2/charts/app/manifests/0.1.0";
            (bearer(&device.login, &token, "GET", target, &[], b"").status == 200).then_some(())
        });
    }
    // Nobody is logged in any more.
    std::fs::write(&clients.auth, "{}").unwrap();
    for name in &clients.tools {
        eprintln!("{name} without a login");
        clients.pull(name, &device.login);
    }
    if let Some(docker) = &clients.docker {
        must(Command::new(&docker.docker).args(["-H", &docker.host, "pull", "tool:v1"]));
    }
    let is_open = |login: &str, scope: &str| {
        let target = format!("/oauth2/token?service={login}&scope={scope}");
        send(login, "GET", &target, &[], b"").unwrap().status == 200
    };
    assert!(is_open(&device.login, "repository:app:pull"));
    for scope in ["repository:secret:pull", "repository:app:push", "registry:catalog:*"] {
        assert!(!is_open(&device.login, scope), "{scope}");
    }
    assert!(!is_open(&root.login, "repository:app:pull"), "each node says it for itself");
    // What goes in, goes in with a login only.
    let from = format!("docker://{}/app:v1", device.login);
    for (to, name) in [("secret", "pull"), ("app", "push")] {
        let there = format!("docker://{}/{to}:v1", device.login);
        let mut copy = clients.client("skopeo");
        match name {
            "pull" => copy.args(["inspect", "--tls-verify=false", &there]),
            _ => copy
                .args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"])
                .args([&from, &there.replace("v1", "v2")]),
        };
        let output = run(&mut copy);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("uthentication required"), "{text}");
    }
}

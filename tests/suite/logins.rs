//! Logins of real clients that share one file of credentials, and a clock that moves on by days.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::clients::{Docker, must, podman, skopeo};
use crate::support::image::Image;
use crate::support::node::Node;
use crate::support::{TempDir, skip, tool};

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
        let home = TempDir::new();
        let docker = match Docker::start(&home.join("docker"), None) {
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
        assert!(!crate::support::clients::run(&mut inspect).status.success());
    }
}

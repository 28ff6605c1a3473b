//! The five-minute tour of README.md, pasted into a shell as it stands there: on its own ports, so
//! in a network of its own. Only `docker` is another client, which needs no daemon.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::support::image::Image;
use crate::support::node::{Node, binary};
use crate::support::{TempDir, have, skip};

const README: &str = include_str!("../../README.md");
/// Takes the place of `docker`; as there, a login reads the password from where it is told to, or
/// else the next line that is typed.
const DOCKER: &str = r#"#!/bin/sh
copy() { skopeo --insecure-policy copy --preserve-digests "$@"; }
case "$1" in
login) # ADDRESS --username USER [--password-stdin]
  read -r password
  skopeo login --tls-verify=false --username "$4" --password "$password" "$2" ;;
tag) ;;
push) copy --dest-tls-verify=false "oci:$TOUR/layout:v1" "docker://$2" ;;
pull) rm -rf "$TOUR/pulled"; copy --src-tls-verify=false "docker://$2" "dir:$TOUR/pulled" ;;
*) exit 1 ;;
esac
"#;
/// Before the tour: what fails is written down, as nobody looks at what scrolls by.
const BEFORE: &str = "set -o pipefail\ntrap 'echo \"$BASH_COMMAND\" >> failed' ERR\n\
                      ip link set lo up\n";
/// What the tour promises at its end: the root stops, and the device goes on.
const AFTER: &str = "kill %1\nwait %1\nrm -r pulled\n\
                     docker login 127.0.0.1:5100 --username my-token --password-stdin < password\n\
                     docker pull 127.0.0.1:5100/hello-world:v1\n";

/// The blocks of the tour, one after the other, as somebody copies them.
fn blocks(tour: &str) -> String {
    let blocks = tour.split("```").skip(1).step_by(2);
    blocks.map(|block| block.strip_prefix("sh\n").expect("a block for a shell")).collect()
}

#[test]
fn the_tour_of_the_readme_works_as_it_stands() {
    if !rustix::process::geteuid().is_root() || !["ip", "unshare", "skopeo"].into_iter().all(have) {
        return skip("needs root, ip, unshare and skopeo");
    }
    let home = TempDir::new();
    let image = Image::new(1, &[20_000]);
    image.write_layout(&home.join("layout"), "v1");
    let programs = home.join("bin");
    fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink(binary(), programs.join("skerry")).unwrap();
    fs::write(programs.join("docker"), DOCKER).unwrap();
    fs::set_permissions(programs.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();
    let (_, rest) = README.split_once("\n## Five-minute tour\n").unwrap();
    let tour = blocks(rest.split_once("\n## ").unwrap().0);
    assert_eq!(tour.matches(" serve 2> ").count(), 2, "a root and a device are started");

    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let printed = |name: &str| File::create(home.join(name)).unwrap();
    let mut shell = Command::new("unshare");
    shell.args(["--net", "--pid", "--fork", "--kill-child"]);
    // A program that does not start is waited for, but not for ever.
    shell.args(["timeout", "120", "bash"]);
    shell.current_dir(home.path()).env("PATH", path).env("TOUR", home.path());
    shell.env("HOME", home.path()).env("REGISTRY_AUTH_FILE", home.join("auth.json"));
    shell.stdin(Stdio::piped()).stdout(printed("output")).stderr(printed("errors"));
    let mut shell = shell.spawn().unwrap();
    // All at once, on the standard input: a program that reads there takes what comes after it.
    let pasted = [BEFORE, &tour, AFTER].concat();
    shell.stdin.take().unwrap().write_all(pasted.as_bytes()).unwrap();
    let status = shell.wait().unwrap();
    let told = ["output", "errors", "root.log", "device.log"].map(|name| {
        let text = fs::read_to_string(home.join(name)).unwrap_or_default();
        format!("--- {name}\n{text}")
    });
    let failed = fs::read_to_string(home.join("failed")).unwrap_or_default();
    assert!(status.success() && failed.is_empty(), "{status} {failed}\n{}", told.concat());
    let pulled = fs::read(home.join("pulled/manifest.json")).unwrap();
    assert!(pulled == image.manifest, "{}", told.concat());
    assert!(home.join("device-data").is_dir());
    for secret in ["my-token", "password", "connection-string"] {
        let mode = fs::metadata(home.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret} has a password in it");
    }
}

/// The words of a command as a shell takes them: what stands between single quotes is one.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('\'').enumerate();
    let each = parts.flat_map(|(number, part)| match number % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    each.collect()
}

/// In their order, at a root as the tour leaves it, with another token.
#[test]
fn the_everyday_commands_of_the_readme_work_as_they_stand() {
    let root = Node::root();
    let actions = ["content/read", "content/write", "metadata/read"];
    let create = ["scope-map", "create", "--name", "hello-map", "--repository", "hello-world"];
    root.json(&[&create[..], &actions].concat());
    for token in ["my-token", "other-token"] {
        root.json(&["token", "create", "--name", token, "--scope-map", "hello-map"]);
    }
    root.connect("dock01", &["--repository", "hello-world"]);
    let (user, password) = root.pusher("app-token", "team/*");
    for (seed, tag) in [(91, "v1"), (92, "v2")] {
        let image = Image::new(seed, &[10]);
        let pushed = image.push(&root.login, (&user, &password), "team/app", tag);
        assert_eq!(pushed.status, 201);
    }
    let (_, rest) = README.split_once("\n| what changes, at the root | command |\n").unwrap();
    let rows = rest.lines().take_while(|line| line.starts_with('|')).skip(1);
    let mut tried = 0;
    for row in rows {
        let command = row.split("| `skerry ").nth(1).and_then(|rest| rest.split('`').next());
        let command = command.unwrap_or_else(|| panic!("no command in {row}"));
        if command.ends_with("...") {
            continue;
        }
        let mut words = words(command);
        if row.contains("which asks first") {
            let asked = root.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(!asked.status.success(), "nobody has answered: {asked:?}");
            words.push("--yes".to_owned());
        }
        let output = root.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{command}: {output:?}");
        tried += 1;
    }
    assert!(tried >= 8, "{tried}");
    assert_eq!(root.json(&["token", "show", "--name", "my-token"])["status"], "disabled");
    let device = root.json(&["connected-registry", "show", "--name", "dock01"]);
    assert_eq!(device["parent"]["syncProperties"]["schedule"], "0 2 * * *", "{device}");
}

/// The keys of a parent that is an OCI registry are read, and refused: README says that it is not
/// there yet.
const NOT_YET: [&str; 5] =
    ["parent.kind", "parent.url", "parent.repositories", "parent.username", "parent.password_file"];

#[test]
fn the_readme_lists_every_key_of_the_configuration() {
    let explained = Command::new(binary()).args(["config", "explain"]).output().unwrap();
    let explained = String::from_utf8(explained.stdout).unwrap();
    let reserve = explained.lines().find(|line| line.starts_with("storage.reserve"));
    assert!(
        reserve.unwrap().contains("at least 256 KiB, and at most 5 % of the file system"),
        "{explained}"
    );
    let keys = explained.lines().filter_map(|line| line.split(' ').next());
    let mut keys: Vec<&str> = keys.filter(|key| !NOT_YET.contains(key)).collect();
    let (_, section) = README.split_once("\n## Configuration\n").unwrap();
    let rows = section.split_once("\n## ").unwrap().0.lines();
    let mut listed = Vec::new();
    for row in rows.filter_map(|line| line.strip_prefix("| `")) {
        let (first, _) = row.split_once("` | ").unwrap();
        let section = first.split('.').next().unwrap();
        for key in first.split("`, `") {
            let inherited = key.strip_prefix('.').map(|name| format!("{section}.{name}"));
            listed.push(inherited.unwrap_or_else(|| key.to_owned()));
        }
    }
    keys.sort_unstable();
    listed.sort_unstable();
    assert_eq!(keys, listed);
}

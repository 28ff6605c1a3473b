//! The five-minute tour of README.md, command by command, as it stands there: on its own ports, so
//! in a network of its own. Only `docker` is another client, which needs no daemon.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::image::Image;
use crate::support::node::binary;
use crate::support::{TempDir, have, skip};

const README: &str = include_str!("../../README.md");
/// Takes the place of `docker`; the password is the first that the tour has printed.
const DOCKER: &str = r#"#!/bin/sh
copy() { skopeo --insecure-policy copy --preserve-digests "$@"; }
case "$1" in
login) # ADDRESS --username USER
  password=$(sed -n 's/^ *value: //p' "$TOUR/printed" | head -1)
  skopeo login --tls-verify=false --username "$4" --password "$password" "$2" ;;
tag) ;;
push) copy --dest-tls-verify=false "oci:$TOUR/layout:v1" "docker://$2" ;;
pull) # Who types is slower than the sync.
  for attempt in $(seq 50); do
    copy --src-tls-verify=false "docker://$2" "dir:$TOUR/pulled" && exit 0
    sleep 0.2
  done
  exit 1 ;;
*) exit 1 ;;
esac
"#;

/// The tour as a script: configuration files are written where they are shown.
fn script(tour: &str) -> String {
    let mut script = String::from("set -e -o pipefail\nip link set lo up\n");
    let mut ports = ["5000", "5100"].into_iter();
    for (number, part) in tour.split("```").enumerate() {
        let (language, text) = part.split_once('\n').unwrap();
        match (number % 2, language) {
            (1, "toml") => {
                let name = text.lines().next().unwrap().strip_prefix("# ").unwrap();
                script += &format!("cat > {name} <<'END'\n{text}END\n");
            }
            (1, "sh") => {
                for line in text.lines() {
                    script += &format!("{line}\n");
                    if line.ends_with(" serve &") {
                        let address = format!("/dev/tcp/127.0.0.1/{}", ports.next().unwrap());
                        script +=
                            &format!("until (: < {address}) 2> /dev/null; do sleep 0.1; done\n");
                    }
                }
            }
            (1, other) => panic!("a block in {other}"),
            _ => {}
        }
    }
    assert_eq!(ports.next(), None, "a root and a device are started");
    // What the tour promises at its end.
    script
        + "kill %1\nwait %1\nrm -r pulled\ndocker login 127.0.0.1:5100 --username my-token\n\
              docker pull 127.0.0.1:5100/hello-world:v1\n"
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
    fs::write(home.join("tour.sh"), script(rest.split_once("\n## ").unwrap().0)).unwrap();

    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let printed = File::create(home.join("printed")).unwrap();
    let mut tour = Command::new("unshare");
    tour.args(["--net", "--pid", "--fork", "--kill-child"]);
    // A program that does not start is waited for, but not for ever.
    tour.args(["timeout", "120", "bash", "tour.sh"]);
    tour.current_dir(home.path()).env("PATH", path).env("TOUR", home.path());
    tour.env("HOME", home.path()).env("REGISTRY_AUTH_FILE", home.join("auth.json"));
    let output = tour.stdout(printed).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let pulled = fs::read(home.join("pulled/manifest.json")).unwrap();
    assert!(pulled == image.manifest, "{errors}");
    assert!(home.join("device-data").is_dir());
}

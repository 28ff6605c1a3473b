//! Real clients, from the distribution's packages.

use std::path::Path;
use std::process::{Command, Output};

use super::have;

/// A command that fails the test with its output unless it succeeds.
pub fn must(command: &mut Command) -> String {
    let output = run(command);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// `skopeo`, with its state in `home`.
pub fn skopeo(home: &Path) -> Command {
    isolated("skopeo", home)
}

/// `podman` with the storage driver that works without privileges.
pub fn podman(home: &Path) -> Command {
    let mut command = isolated("podman", home);
    command.arg("--root").arg(home.join("podman")).arg("--runroot").arg(home.join("podman-run"));
    command.args(["--storage-driver", "vfs"]);
    command
}

/// `buildah` with the storage driver that works without privileges.
pub fn buildah(home: &Path) -> Command {
    let mut command = isolated("buildah", home);
    command.env("BUILDAH_ISOLATION", "chroot");
    command.arg("--root").arg(home.join("buildah")).arg("--runroot").arg(home.join("buildah-run"));
    command.args(["--storage-driver", "vfs"]);
    command
}

fn isolated(program: &str, home: &Path) -> Command {
    std::fs::create_dir_all(home).unwrap();
    let policy = home.join(".config/containers");
    std::fs::create_dir_all(&policy).unwrap();
    let accept = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    std::fs::write(policy.join("policy.json"), accept).unwrap();
    let auth = home.join("auth.json");
    if !auth.exists() {
        std::fs::write(&auth, "{}").unwrap();
    }
    let mut command = Command::new(program);
    command.env("HOME", home).env("XDG_RUNTIME_DIR", home).env("TMPDIR", home);
    command.env("REGISTRY_AUTH_FILE", auth);
    command
}

/// The first of these programs that is not installed.
pub fn missing(programs: &[&'static str]) -> Option<&'static str> {
    programs.iter().copied().find(|program| !have(program))
}

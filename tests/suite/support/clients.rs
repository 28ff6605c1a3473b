//! Real clients, from the distribution's packages.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::{cache, have, tool};

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

/// A daemon that ends with the test.
pub struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        for _ in 0..100 {
            if self.0.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts one, with its output in a file.
pub fn daemon(command: &mut Command, log: &Path) -> Daemon {
    let log = std::fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Daemon(command.spawn().unwrap())
}

/// The path, with the places of the cache behind it: daemons look for their helpers there.
pub fn path_with(program: &Path) -> std::ffi::OsString {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let debian = cache().join("debian/usr");
    let more = [debian.join("bin"), debian.join("sbin")];
    let near = program.parent().map(Path::to_owned);
    std::env::join_paths(std::env::split_paths(&paths).chain(near).chain(more)).unwrap()
}

pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

/// docker's daemon, and the program that talks to it.
pub struct Docker {
    pub server: PathBuf,
    pub docker: PathBuf,
    pub host: String,
    _daemon: Daemon,
}

impl Docker {
    /// Starts one with its state in `home`, which trusts the authority in the file `ca`; the
    /// reason when it cannot run here.
    pub fn start(home: &Path, ca: Option<PathBuf>) -> Result<Docker, String> {
        Docker::start_with(home, ca, &[])
    }

    /// The same with these arguments.
    pub fn start_with(home: &Path, ca: Option<PathBuf>, more: &[&str]) -> Result<Docker, String> {
        let (Some(server), Some(docker)) = (tool("dockerd"), tool("docker")) else {
            return Err("docker is not there".to_owned());
        };
        if !is_root() {
            return Err("dockerd needs root".to_owned());
        }
        std::fs::create_dir_all(home).unwrap();
        let host = format!("unix://{}", home.join("s").display());
        let mut start = Command::new(&server);
        start.arg("--data-root").arg(home.join("data")).arg("--exec-root").arg(home.join("exec"));
        start.arg("--pidfile").arg(home.join("pid")).args(["-H", &host, "--storage-driver=vfs"]);
        start.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]).args(more);
        start.env("PATH", path_with(&server)).envs(ca.map(|ca| ("SSL_CERT_FILE", ca)));
        let mut running = daemon(&mut start, &home.join("log"));
        let ready = || run(Command::new(&docker).args(["-H", &host, "version"])).status.success();
        for _ in 0..300 {
            if ready() || running.0.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if !ready() {
            let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default();
            return Err(format!("dockerd does not start here: {last}"));
        }
        Ok(Docker { server, docker, host, _daemon: running })
    }
}

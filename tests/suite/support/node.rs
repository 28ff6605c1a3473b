//! Nodes: the built binary in a process of its own, with its own state, on loopback.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::authority::Authority;
use super::{TempDir, eventually, http, image};

/// The program; `$SKERRY_TEST_BINARY`, where one for another machine is to be tested.
pub fn binary() -> OsString {
    let built = || env!("CARGO_BIN_EXE_skerry").into();
    std::env::var_os("SKERRY_TEST_BINARY").unwrap_or_else(built)
}

pub struct Node {
    pub dir: TempDir,
    /// host:port of the login server.
    pub login: String,
    /// host:port where children connect.
    pub gateway: String,
    names: Option<(String, String)>,
    tls: Option<String>,
    encrypts_gateway: bool,
    registry: String,
    extra: String,
    parent: Option<String>,
    faketime: Option<String>,
    uid: Option<u32>,
    shipped: Option<PathBuf>,
    notify: Option<PathBuf>,
    child: Option<Child>,
}

pub fn free_port() -> u16 {
    // Below the ports that the kernel gives to those who ask for any, so that no connection of
    // another test takes it meanwhile.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..10_000 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) + std::process::id() * 97;
        let port = 12_000 + u16::try_from(number % 18_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// The sync token of a connected registry that [`Node::connect`] makes.
pub fn sync_token(name: &str) -> String {
    format!("{name}-sync")
}

/// The scope map of that token.
pub fn sync_map(name: &str) -> String {
    format!("{name}-mirrors")
}

fn sync_actions(read_only: bool) -> &'static [&'static str] {
    let every =
        &["content/read", "metadata/read", "content/write", "content/delete", "metadata/write"];
    if read_only { &every[..2] } else { every }
}

impl Node {
    /// A root, started.
    pub fn root() -> Node {
        Node::root_with("")
    }

    /// A root that is known by these names of login server and gateway, started.
    pub fn root_named(login_server: &str, gateway_server: &str) -> Node {
        let mut node = Node::new_root("");
        node.names = Some((login_server.to_owned(), gateway_server.to_owned()));
        node.start();
        node
    }

    /// A root on these addresses, known by the names of proxies before them, started.
    pub fn root_behind(login: &str, gateway: &str, login_name: &str, gateway_name: &str) -> Node {
        let mut node = Node::new_root("");
        login.clone_into(&mut node.login);
        gateway.clone_into(&mut node.gateway);
        node.names = Some((login_name.to_owned(), gateway_name.to_owned()));
        node.start();
        node
    }

    /// Listens with TLS too, with this certificate; the address.
    pub fn with_tls(&mut self, authority: &Authority) -> String {
        let address = format!("127.0.0.1:{}", free_port());
        self.tls = Some(address.clone());
        self.extra.push_str(&authority.section());
        address
    }

    /// Lets the gateway speak TLS from the next start on, with what the configuration says.
    pub fn encrypt_gateway(&mut self) {
        self.encrypts_gateway = true;
    }

    /// Takes the connection string and the section `[parent]` from the next start.
    pub fn lose_connection_string(&mut self) {
        self.parent = Some(String::new());
        let _ = std::fs::remove_file(self.connection_string_file());
    }

    /// Gives the next start this connection string.
    pub fn provision(&mut self, connection_string: &str) {
        self.parent = Some(connection_string.to_owned());
    }

    /// Where a device looks for its connection string.
    pub fn connection_string_file(&self) -> PathBuf {
        self.dir.join("connection-string")
    }

    /// Turns a node that was not started into a root.
    pub fn make_root(&mut self) {
        self.parent = None;
        self.gateway = format!("127.0.0.1:{}", free_port());
    }

    /// Starts from this configuration file from now on, with the state and the address of the node.
    pub fn configure_from(&mut self, file: PathBuf) {
        self.shipped = Some(file);
    }

    /// Drops all configuration but the state and the address of the node.
    pub fn configure_plainly(&mut self) {
        self.shipped = None;
        self.extra.clear();
    }

    pub fn add_configuration(&mut self, text: &str) {
        self.extra.push_str(text);
    }

    /// What [`Node::add_configuration`] added is replaced.
    pub fn set_configuration(&mut self, text: &str) {
        text.clone_into(&mut self.extra);
    }

    /// What [`Node::know_as`] added is replaced.
    pub fn know_only_as(&mut self, line: &str) {
        self.registry.clear();
        self.know_as(line);
    }

    /// A line for the section `[registry]`.
    pub fn know_as(&mut self, line: &str) {
        self.registry.push_str(line);
        self.registry.push('\n');
    }

    /// A root with more configuration, started.
    pub fn root_with(extra: &str) -> Node {
        let mut node = Node::new_root(extra);
        node.start();
        node
    }

    fn new_root(extra: &str) -> Node {
        let (login, gateway) = (free_port(), free_port());
        Node {
            dir: TempDir::new(),
            login: format!("127.0.0.1:{login}"),
            gateway: format!("127.0.0.1:{gateway}"),
            names: None,
            tls: None,
            encrypts_gateway: false,
            registry: String::new(),
            extra: extra.to_owned(),
            parent: None,
            faketime: None,
            uid: None,
            shipped: None,
            notify: None,
            child: None,
        }
    }

    /// A connected registry, not started.
    pub fn device(connection_string: &str) -> Node {
        let login = format!("127.0.0.1:{}", free_port());
        Node {
            dir: TempDir::new(),
            login: login.clone(),
            gateway: login,
            names: None,
            tls: None,
            encrypts_gateway: false,
            registry: String::new(),
            extra: String::new(),
            parent: Some(connection_string.to_owned()),
            faketime: None,
            uid: None,
            shipped: None,
            notify: None,
            child: None,
        }
    }

    /// A connected registry, started and ready.
    pub fn start_device(connection_string: &str) -> Node {
        let mut node = Node::device(connection_string);
        node.start();
        node
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The file of a blob with these bytes.
    pub fn blob_file(&self, blob: &[u8]) -> PathBuf {
        let digest = image::digest(blob);
        let hex = &digest["sha256:".len()..];
        self.state().join("blobs/sha256").join(&hex[..2]).join(hex)
    }

    pub fn socket(&self) -> PathBuf {
        self.state().join("admin.sock")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub fn configuration(&self) -> String {
        let mut text = format!(
            "[storage]\nstate_dir = \"{}\"\n[log]\nlevel = \"debug\"\n",
            self.state().display()
        );
        match &self.parent {
            None => {
                text.push_str("[registry]\nname = \"testreg\"\n");
                text.push_str(&self.registry);
                if let Some((login, gateway)) = &self.names {
                    text.push_str(&format!("login_server = \"{login}\"\n"));
                    text.push_str(&format!("gateway_server = \"{gateway}\"\n"));
                }
                text.push_str(&format!(
                    "[listen]\nlogin = {}\ngateway = {{ address = \"{}\", tls = {} }}\n",
                    self.logins(),
                    self.gateway,
                    self.encrypts_gateway
                ));
            }
            Some(connection_string) if connection_string.is_empty() => {
                text.push_str(&format!("[listen]\nlogin = {}\n", self.logins()));
            }
            Some(connection_string) => {
                let file = self.connection_string_file();
                std::fs::write(&file, connection_string).unwrap();
                text.push_str(&format!("[listen]\nlogin = {}\n", self.logins()));
                text.push_str(&format!(
                    "[parent]\nconnection_string_file = \"{}\"\n",
                    file.display()
                ));
            }
        }
        text.push_str(&self.extra);
        text
    }

    fn logins(&self) -> String {
        let plain = format!("{{ address = \"{}\", tls = false }}", self.login);
        match &self.tls {
            None => plain,
            Some(tls) => format!("[{plain}, {{ address = \"{tls}\", tls = true }}]"),
        }
    }

    /// Sets the wall clock of the next start, as faketime understands it (`@2026-11-21 02:00:00`).
    pub fn set_clock(&mut self, time: Option<&str>) {
        self.faketime = time.map(str::to_owned);
    }

    /// The next starts are those of this user, and of the group of the same number.
    pub fn serve_as(&mut self, uid: u32) {
        self.uid = Some(uid);
    }

    /// The next starts tell the service manager behind this socket how they are.
    pub fn notify(&mut self, socket: &Path) {
        self.notify = Some(socket.to_owned());
    }

    fn command(&self) -> Command {
        let mut command = self.configured();
        if let Some(socket) = &self.notify {
            command.env("NOTIFY_SOCKET", socket);
        }
        if let Some(time) = &self.faketime {
            // Not through the wrapper, which would stay between us and the process to kill.
            command.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1");
            command.env("FAKETIME", time).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command.arg("serve");
        command
    }

    /// The program with the configuration of this node.
    fn configured(&self) -> Command {
        let mut command = Command::new(binary());
        command.stdin(Stdio::null());
        if let Some(file) = &self.shipped {
            let state = format!("storage.state_dir={}", self.state().display());
            let listen = format!("listen.login={}", self.login);
            command.arg("--config").arg(file).args(["--set", &state, "--set", &listen]);
            return command;
        }
        let config = self.dir.join("skerry.toml");
        std::fs::write(&config, self.configuration()).unwrap();
        command.arg("--config").arg(config);
        command
    }

    /// Runs a verb that reads the configuration of this node.
    pub fn run_configured(&self, arguments: &[&str]) -> Output {
        self.configured().args(arguments).output().expect("the built binary")
    }

    /// The same, as the user and group with this number.
    pub fn run_configured_as(&self, uid: u32, arguments: &[&str]) -> Output {
        let mut command = self.configured();
        command.uid(uid).gid(uid).args(arguments).output().expect("the built binary")
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        let log = self.dir.join("log");
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        let mut command = self.command();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().expect("the built binary"));
    }

    /// Starts the process as a socket unit does, with this address as the socket `login`; false
    /// where the tool for that is missing.
    pub fn activate(&mut self, address: &str) -> bool {
        let own = self.command();
        let log = self.dir.join("log");
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        let mut command = Command::new("systemd-socket-activate");
        command.args(["-l", address, "--fdname=login"]).arg(own.get_program());
        command.args(own.get_args()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    /// Starts the process and waits until it is ready.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    pub fn wait_ready(&mut self) {
        if let Err(why) = self.ready() {
            panic!("{why}:\n{}", self.log());
        }
    }

    /// Waits until the node is ready; an error when it ends or takes too long.
    pub fn ready(&mut self) -> Result<(), String> {
        for _ in 0..600 {
            let exited = self.child.as_mut().and_then(|c| c.try_wait().unwrap());
            if let Some(exited) = exited {
                return Err(format!("the node ended with {exited:?}"));
            }
            if self.is_ready() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the node is not ready after 30 s".to_owned())
    }

    /// Whether it says that it can work.
    pub fn is_ready(&self) -> bool {
        let ready = http::send(&self.login, "GET", "/readyz", &[], b"");
        ready.is_ok_and(|answer| answer.status == 200)
    }

    /// Runs the process to its end: what a wrong configuration does.
    pub fn run_to_end(&self) -> Output {
        let mut child =
            self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for _ in 0..400 {
            if child.try_wait().unwrap().is_some() {
                return child.wait_with_output().unwrap();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        panic!("still running after 20 s: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The process, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Stops the process where it stands: its sockets stay open and nobody answers.
    pub fn freeze(&self) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-CONT", &pid]).status().unwrap().success());
    }

    /// Largest resident memory so far, KiB.
    pub fn peak_rss_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    /// Resident memory now, KiB.
    pub fn rss_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// A counter of `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let answer = http::send(&self.login, "GET", "/metrics", &[], b"").unwrap();
        let text = String::from_utf8(answer.body).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// SIGTERM, and wait.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("running");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        eventually(Duration::from_secs(20), "the node stops", || child.try_wait().unwrap())
    }

    /// Runs a management verb against this node.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.arg("--admin-socket").arg(self.socket()).args(arguments);
        command.stdin(Stdio::null()).output().expect("the built binary")
    }

    /// Runs a management verb that must succeed; its JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let output = self.run(&all);
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!("{arguments:?}: {e}: {}", String::from_utf8_lossy(&output.stdout))
        })
    }

    /// Creates a client token with these grants, as (user, password).
    pub fn token(&self, name: &str, grants: &[(&str, &[&str])]) -> (String, String) {
        let mut arguments = vec!["token", "create", "--name", name];
        for (repository, actions) in grants {
            arguments.push("--repository");
            arguments.push(repository);
            arguments.extend_from_slice(actions);
        }
        let created = self.json(&arguments);
        let password = created["credentials"]["passwords"][0]["value"].as_str().expect("password");
        (name.to_owned(), password.to_owned())
    }

    /// A token that may do everything in the repositories of the pattern.
    pub fn pusher(&self, name: &str, repository: &str) -> (String, String) {
        let actions = ["content/read", "content/write", "content/delete", "metadata/read"];
        // No sync map of the tests grants the second, so that none is taken for the map of clients.
        self.token(name, &[(repository, &actions), ("clients/only", &actions[..1])])
    }

    /// Creates a connected registry; its connection string. Its sync token and its scope map have
    /// names of their own, [`sync_token`] and [`sync_map`], so that nothing works by taking one
    /// for another.
    pub fn connect(&self, name: &str, arguments: &[&str]) -> String {
        let from = arguments.iter().position(|word| *word == "--repository").expect("repositories");
        let (before, rest) = (&arguments[..from], &arguments[from + 1..]);
        let to = rest.iter().position(|word| word.starts_with("--")).unwrap_or(rest.len());
        let (repositories, after) = rest.split_at(to);
        let (token, map) = (sync_token(name), sync_map(name));
        let mut create = vec!["scope-map", "create", "--name", &map];
        let actions = sync_actions(arguments.contains(&"ReadOnly"));
        for repository in repositories {
            create.extend(["--repository", repository]);
            create.extend_from_slice(actions);
        }
        self.json(&create);
        self.json(&["token", "create", "--name", &token, "--scope-map", &map]);
        let create = ["connected-registry", "create", "--name", name, "--sync-token", &token];
        self.json(&[&create, before, after].concat());
        let settings = ["connected-registry", "get-settings", "--name", name];
        let mut settings = settings.to_vec();
        settings.extend(["--parent-protocol", "http", "--generate-password", "1", "--yes"]);
        let settings = self.json(&settings);
        settings["ACR_REGISTRY_CONNECTION_STRING"].as_str().expect("connection string").to_owned()
    }

    /// Links a client token to a connected registry.
    pub fn link(&self, name: &str, token: &str) {
        let update = ["connected-registry", "update", "--name", name, "--add-client-tokens", token];
        self.json(&update);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

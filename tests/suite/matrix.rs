//! Every client that can be had, over plain HTTP and over TLS with an authority of our own: log
//! in, push, pull, copy, list, delete; an index of two platforms, an image with a layer of 0
//! bytes and a large one, and what refers to an image.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::authority::Authority;
use crate::support::clients::{
    Docker, buildah, daemon, is_root, must, path_with, podman, run, skopeo,
};
use crate::support::http::{bearer, token};
use crate::support::image::{self, Image, digest, noise, tar};
use crate::support::node::Node;
use crate::support::{TempDir, eventually, skip, tool};

/// A root with both listeners, and the content that clients move.
struct Bench {
    home: TempDir,
    authority: Authority,
    node: Node,
    secure: String,
    user: String,
    password: String,
    image: Image,
    index: Vec<u8>,
}

/// One way in.
#[derive(Clone, Copy)]
struct Door<'a> {
    bench: &'a Bench,
    address: &'a str,
    tls: bool,
}

impl Bench {
    /// An index whose first image has a layer of 0 bytes (unless `no_empty_layer`: containerd
    /// takes no descriptor of size 0) and one of `$SKERRY_TEST_LARGE_MIB`.
    fn new(no_empty_layer: bool) -> Bench {
        let mib = std::env::var("SKERRY_TEST_LARGE_MIB").ok().and_then(|n| n.parse().ok());
        let mut layers =
            vec![tar("small", b"hello\n"), tar("large", &noise(1, mib.unwrap_or(64) << 20))];
        if !no_empty_layer {
            layers.push(Vec::new());
        }
        let image = Image::of("amd64", "one", layers);
        let other = Image::of("arm64", "two", vec![tar("small", b"hello\n")]);
        let home = TempDir::new();
        let layout = home.join("layout");
        let index = Image::write_multi(&[("amd64", &image), ("arm64", &other)], &layout, "v1");
        let authority = Authority::new();
        let mut node = Node::device("x");
        node.make_root();
        let secure = node.with_tls(&authority);
        node.start();
        let (user, password) = node.pusher("owner-token", "*");
        Bench { home, authority, node, secure, user, password, image, index }
    }

    fn doors(&self) -> [Door<'_>; 2] {
        let door = |address, tls| Door { bench: self, address, tls };
        [door(self.node.login.as_str(), false), door(self.secure.as_str(), true)]
    }

    fn layout(&self) -> String {
        self.home.join("layout").display().to_string()
    }

    /// Whether the repository has the index under this tag, with all content, byte for byte.
    fn holds(&self, repository: &str, tag: &str) -> bool {
        let user = (self.user.as_str(), self.password.as_str());
        let found = image::pull(&self.node.login, user, repository, tag);
        found.is_ok_and(|name| name == digest(&self.index))
    }

    /// The artifact types of what refers to the index in a repository.
    fn referrers(&self, repository: &str) -> Vec<String> {
        let scope = format!("repository:{repository}:pull");
        let reader = token(&self.node.login, &self.user, &self.password, &[&scope]).unwrap();
        let target = format!("/v2/{repository}/referrers/{}", digest(&self.index));
        let answer = bearer(&self.node.login, &reader, "GET", &target, &[], b"");
        let listed = answer.json()["manifests"].as_array().unwrap().clone();
        listed.iter().map(|e| e["artifactType"].as_str().unwrap_or("").to_owned()).collect()
    }
}

impl Door<'_> {
    /// A repository of this client and door alone.
    fn repository(&self, client: &str) -> String {
        format!("{client}/{}", self.name())
    }

    fn name(&self) -> &'static str {
        if self.tls { "tls" } else { "http" }
    }

    fn image(&self, client: &str, tag: &str) -> String {
        format!("{}/{}:{tag}", self.address, self.repository(client))
    }

    fn home(&self, client: &str) -> PathBuf {
        let home = self.bench.home.join(&format!("{client}-{}", self.name()));
        std::fs::create_dir_all(&home).unwrap();
        home
    }

    /// A program with a home of its own, which trusts our authority.
    fn tool(&self, path: &Path, client: &str) -> Command {
        let mut command = Command::new(path);
        let home = self.home(client);
        command.env("HOME", &home).env("DOCKER_CONFIG", home.join("docker")).current_dir(&home);
        command.env("SSL_CERT_FILE", self.bench.authority.ca());
        command
    }
}

/// What a client did through a door: a line of the matrix.
fn record(client: &str, door: &Door<'_>, version: &str, done: &[&str]) {
    let line = format!("{client}\t{}\t{}\t{}\n", version.trim(), door.name(), done.join(" "));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("SKERRY_TEST_MATRIX") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
    }
}

/// The command fails, and says why in words that contain one of these.
#[track_caller]
fn fails(command: &mut Command, words: &[&str]) {
    let output = run(command);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!output.status.success(), "{command:?}: {text}");
    let lower = text.to_lowercase();
    assert!(words.iter().any(|word| lower.contains(word)), "{command:?}: {text}");
}

const WRONG_PASSWORD: [&str; 3] =
    ["incorrect password", "unauthorized", "invalid username/password"];
const NOT_THERE: [&str; 4] = ["not here", "not found", "manifest unknown", "name_unknown"];

fn version(path: &Path, argument: &str) -> String {
    let output = run(Command::new(path).arg(argument));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = |word: &&str| word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    text.split_whitespace().find(word).unwrap_or("?").trim_end_matches(',').to_owned()
}

#[test]
fn f100_f186_skopeo() {
    let Some(path) = tool("skopeo") else {
        return skip("skopeo is not installed");
    };
    let bench = Bench::new(false);
    for door in bench.doors() {
        let home = door.home("skopeo");
        let trust = bench.authority.trust();
        let skopeo = |verb: &[&str], side: &str| {
            let mut command = skopeo(&home);
            command.args(verb);
            match door.tls {
                true => command.arg(format!("--{side}cert-dir={}", trust.display())),
                false => command.arg(format!("--{side}tls-verify=false")),
            };
            command
        };
        let login = |password: &str| {
            let mut command = skopeo(&["login"], "");
            command.args(["-u", &bench.user, "-p", password, door.address]);
            command
        };
        fails(&mut login("wrong"), &WRONG_PASSWORD);
        must(&mut login(&bench.password));
        let to = format!("docker://{}", door.image("skopeo", "v1"));
        // Neither plain HTTP nor our authority is taken unless the user says so.
        let untrusting = ["inspect", &to];
        let why = if door.tls { "unknown authority" } else { "http response to https client" };
        fails(crate::support::clients::skopeo(&home).args(untrusting), &[why]);
        let layout = format!("oci:{}:v1", bench.layout());
        let all = ["copy", "--all", "--preserve-digests"];
        must(skopeo(&all, "dest-").args([&layout, &to]));
        assert!(bench.holds(&door.repository("skopeo"), "v1"));
        let copy = format!("docker://{}", door.image("skopeo-copy", "v1"));
        let flag = match door.tls {
            true => format!("--src-cert-dir={}", trust.display()),
            false => "--src-tls-verify=false".to_owned(),
        };
        must(skopeo(&all, "dest-").args([&flag, &to, &copy]));
        assert!(bench.holds(&door.repository("skopeo-copy"), "v1"));
        let out = format!("dir:{}", home.join("out").display());
        must(skopeo(&all, "src-").args([&to, &out]));
        assert!(must(skopeo(&["inspect"], "").arg(&to)).contains("\"Digest\""));
        let list = must(skopeo(&["list-tags"], "").arg(to.trim_end_matches(":v1")));
        assert!(list.contains("\"v1\""));
        let none = format!("docker://{}", door.image("skopeo", "none"));
        fails(skopeo(&["inspect"], "").arg(&none), &NOT_THERE);
        must(skopeo(&["delete"], "").arg(&to));
        fails(skopeo(&["inspect"], "").arg(&to), &NOT_THERE);
        let done = ["login", "push", "index", "pull", "copy", "list", "delete", "0-byte", "large"];
        record("skopeo", &door, &version(&path, "--version"), &done);
    }
}

#[test]
fn f100_f186_podman_and_buildah() {
    let (Some(podman_path), Some(buildah_path)) = (tool("podman"), tool("buildah")) else {
        return skip("podman or buildah is not installed");
    };
    let bench = Bench::new(false);
    for door in bench.doors() {
        let home = door.home("podman");
        let flag = match door.tls {
            true => format!("--cert-dir={}", bench.authority.trust().display()),
            false => "--tls-verify=false".to_owned(),
        };
        let podman = |arguments: &[&str]| {
            let mut command = podman(&home);
            command.args(arguments).arg(&flag);
            command
        };
        let login = |password: &str| {
            let mut command = podman(&["login", "-u", &bench.user, "-p", password]);
            command.arg(door.address);
            command
        };
        fails(&mut login("wrong"), &WRONG_PASSWORD);
        assert!(must(&mut login(&bench.password)).contains("Login Succeeded"));
        // The index comes in by way of another client; podman takes its own platform of it.
        let (user, password) = (bench.user.as_str(), bench.password.as_str());
        let repository = door.repository("podman");
        let image = &bench.image;
        assert_eq!(image.push(&bench.node.login, (user, password), &repository, "v1").status, 201);
        must(podman(&["pull"]).arg(door.image("podman", "v1")));
        let again = door.image("podman-copy", "v1");
        must(crate::support::clients::podman(&home).args([
            "tag",
            &door.image("podman", "v1"),
            &again,
        ]));
        must(podman(&["push"]).arg(&again));
        must(crate::support::clients::podman(&home).args(["manifest", "create", "local-list"]));
        must(podman(&["manifest", "add", "local-list"]).arg(format!("docker://{again}")));
        let list = format!("docker://{}", door.image("podman-list", "v1"));
        must(podman(&["manifest", "push", "--all", "local-list"]).arg(&list));
        fails(podman(&["pull"]).arg(door.image("podman", "none")), &NOT_THERE);
        let done = ["login", "pull", "push", "copy", "index", "0-byte", "large"];
        record("podman", &door, &version(&podman_path, "--version"), &done);

        let home = door.home("buildah");
        let mut login = buildah(&home);
        login.args(["login", &flag, "-u", user, "-p", password, door.address]);
        must(&mut login);
        std::fs::write(home.join("hello"), "hello\n").unwrap();
        must(buildah(&home).args(["from", "--name", "work", "scratch"]));
        must(buildah(&home).args(["add", "work"]).arg(home.join("hello")).arg("/hello"));
        must(buildah(&home).args(["commit", "work", "localhost/built"]));
        for (format, tag) in [("oci", "v1"), ("v2s2", "v2")] {
            let target = format!("docker://{}", door.image("buildah", tag));
            let push = ["push", &flag, "--format", format, "localhost/built", &target];
            must(buildah(&home).args(push));
            must(buildah(&home).args(["pull", &flag, &door.image("buildah", tag)]));
        }
        let done = ["login", "build", "push", "push-v2s2", "pull"];
        record("buildah", &door, &version(&buildah_path, "--version"), &done);
    }
}

#[test]
fn f100_f186_crane() {
    let Some(path) = tool("crane") else { return skip("crane is not there") };
    let bench = Bench::new(false);
    for door in bench.doors() {
        let crane = |arguments: &[&str]| {
            let mut command = door.tool(&path, "crane");
            command.args(arguments);
            command
        };
        let login = ["auth", "login", door.address, "-u", &bench.user, "-p", &bench.password];
        must(&mut crane(&login));
        let (v1, copy) = (door.image("crane", "v1"), door.image("crane-copy", "v1"));
        must(&mut crane(&["push", "--index", &bench.layout(), &v1]));
        // What it pushes is the content of the layout's own index.
        let found = must(&mut crane(&["manifest", &v1]));
        assert!(found.contains(&digest(&bench.index)), "{found}");
        must(&mut crane(&["copy", &v1, &copy]));
        let user = (bench.user.as_str(), bench.password.as_str());
        image::pull(&bench.node.login, user, &door.repository("crane-copy"), "v1").unwrap();
        let out = door.home("crane").join("out");
        must(&mut crane(&["pull", "--format=oci", &v1, &out.display().to_string()]));
        let repository = v1.trim_end_matches(":v1");
        assert!(must(&mut crane(&["ls", repository])).contains("v1"));
        assert!(must(&mut crane(&["catalog", door.address])).contains("crane/"));
        must(&mut crane(&["tag", &v1, "v2"]));
        must(&mut crane(&["delete", &door.image("crane", "v2")]));
        fails(&mut crane(&["digest", &door.image("crane", "none")]), &["404", "unknown"]);
        must(&mut crane(&["auth", "login", door.address, "-u", &bench.user, "-p", "wrong"]));
        fails(&mut crane(&["digest", &v1]), &WRONG_PASSWORD);
        let done = [
            "login", "push", "index", "pull", "copy", "list", "catalog", "delete", "0-byte",
            "large",
        ];
        record("crane", &door, &version(&path, "version"), &done);
    }
}

#[test]
fn f100_f186_regctl() {
    let Some(path) = tool("regctl") else { return skip("regctl is not there") };
    let bench = Bench::new(false);
    for door in bench.doors() {
        let regctl = |arguments: &[&str]| {
            let mut command = door.tool(&path, "regctl");
            command.args(arguments).stdin(Stdio::null());
            command
        };
        let ca = std::fs::read_to_string(bench.authority.ca()).unwrap();
        let set: &[&str] = if door.tls { &["--cacert", &ca] } else { &["--tls", "disabled"] };
        must(regctl(&["registry", "set", "--skip-check", door.address]).args(set));
        let login = |password: &str| {
            regctl(&["registry", "login", door.address, "-u", &bench.user, "-p", password])
        };
        fails(&mut login("wrong"), &WRONG_PASSWORD);
        must(&mut login(&bench.password));
        let (v1, copy) = (door.image("regctl", "v1"), door.image("regctl-copy", "v1"));
        let layout = format!("ocidir://{}:v1", bench.layout());
        must(&mut regctl(&["image", "copy", &layout, &v1]));
        assert!(bench.holds(&door.repository("regctl"), "v1"));
        let sbom = door.home("regctl").join("sbom.json");
        std::fs::write(&sbom, "{\"spdxVersion\":\"SPDX-2.3\"}").unwrap();
        let sbom = sbom.display().to_string();
        let kind = "application/spdx+json";
        must(&mut regctl(&[
            "artifact",
            "put",
            "--artifact-type",
            kind,
            "--subject",
            &v1,
            "-f",
            &sbom,
        ]));
        assert!(must(&mut regctl(&["artifact", "list", &v1])).contains(kind));
        must(&mut regctl(&["image", "copy", "--referrers", "--digest-tags", &v1, &copy]));
        assert!(bench.holds(&door.repository("regctl-copy"), "v1"));
        assert_eq!(bench.referrers(&door.repository("regctl-copy")), [kind]);
        let out = format!("ocidir://{}:v1", door.home("regctl").join("out").display());
        must(&mut regctl(&["image", "copy", &v1, &out]));
        let repository = v1.trim_end_matches(":v1");
        assert!(must(&mut regctl(&["tag", "ls", repository])).contains("v1"));
        assert!(must(&mut regctl(&["repo", "ls", door.address])).contains("regctl"));
        fails(&mut regctl(&["manifest", "get", &door.image("regctl", "none")]), &NOT_THERE);
        must(&mut regctl(&["tag", "rm", &v1]));
        must(&mut regctl(&[
            "manifest",
            "delete",
            &format!("{repository}@{}", digest(&bench.index)),
        ]));
        let done = [
            "login",
            "push",
            "index",
            "pull",
            "copy",
            "list",
            "catalog",
            "delete",
            "0-byte",
            "large",
            "referrers",
        ];
        record("regctl", &door, &version(&path, "version"), &done);
    }
}

#[test]
fn f100_f186_oras_and_a_helm_chart() {
    let Some(path) = tool("oras") else { return skip("oras is not there") };
    let bench = Bench::new(false);
    for door in bench.doors() {
        let ca = bench.authority.ca().display().to_string();
        let flags = |side: &str| match door.tls {
            true => vec![format!("--{side}ca-file"), ca.clone()],
            false => vec![format!("--{side}plain-http")],
        };
        let oras = |arguments: &[&str]| {
            let mut command = door.tool(&path, "oras");
            command.args(arguments).args(flags(""));
            command
        };
        let copy = |from: &str, to: &str, more: &[&str], sides: &[&str]| {
            let mut command = door.tool(&path, "oras");
            command.arg("cp").args(more).args([from, to]);
            sides.iter().for_each(|side| {
                command.args(flags(side));
            });
            command
        };
        let login =
            |password: &str| oras(&["login", door.address, "-u", &bench.user, "-p", password]);
        fails(&mut login("wrong"), &WRONG_PASSWORD);
        must(&mut login(&bench.password));
        let (v1, other) = (door.image("oras", "v1"), door.image("oras-copy", "v1"));
        let layout = format!("{}:v1", bench.layout());
        must(&mut copy(&layout, &v1, &["--from-oci-layout"], &["to-"]));
        assert!(bench.holds(&door.repository("oras"), "v1"));
        std::fs::write(door.home("oras").join("sig"), "a signature").unwrap();
        let kind = "application/x.signature";
        must(&mut oras(&["attach", "--artifact-type", kind, &v1, "sig:text/plain"]));
        assert!(must(&mut oras(&["discover", &v1])).contains(kind));
        must(&mut copy(&v1, &other, &["-r"], &["from-", "to-"]));
        assert!(bench.holds(&door.repository("oras-copy"), "v1"));
        assert_eq!(bench.referrers(&door.repository("oras-copy")), [kind]);
        // A chart as helm pushes it: its own configuration and one archive.
        let home = door.home("oras");
        std::fs::write(home.join("config.json"), "{\"name\":\"app\",\"version\":\"0.1.0\"}")
            .unwrap();
        std::fs::write(home.join("app-0.1.0.tgz"), noise(3, 5000)).unwrap();
        let chart = door.image("oras-chart", "0.1.0");
        let config = "config.json:application/vnd.cncf.helm.config.v1+json";
        let layer = "app-0.1.0.tgz:application/vnd.cncf.helm.chart.content.v1.tar+gzip";
        must(&mut oras(&["push", "--config", config, &chart, layer]));
        must(&mut oras(&["pull", "-o", "pulled", &chart]));
        assert!(std::fs::read(home.join("pulled/app-0.1.0.tgz")).unwrap() == noise(3, 5000));
        let repository = v1.trim_end_matches(":v1");
        assert!(must(&mut oras(&["repo", "tags", repository])).contains("v1"));
        assert!(must(&mut oras(&["repo", "ls", door.address])).contains("oras"));
        fails(&mut oras(&["manifest", "fetch", &door.image("oras", "none")]), &NOT_THERE);
        must(&mut oras(&["manifest", "delete", "-f", &v1]));
        // The images of the index are still there.
        let blob = format!("{repository}@{}", digest(&bench.image.layers[1]));
        fails(&mut oras(&["blob", "delete", "-f", &blob]), &["name this blob"]);
        must(&mut oras(&["manifest", "delete", "-f", &chart]));
        let blob = format!("{}@{}", chart.trim_end_matches(":0.1.0"), digest(&noise(3, 5000)));
        must(&mut oras(&["blob", "delete", "-f", &blob]));
        let done = [
            "login",
            "push",
            "index",
            "pull",
            "copy",
            "list",
            "catalog",
            "delete",
            "0-byte",
            "large",
            "referrers",
            "chart",
        ];
        record("oras", &door, &version(&path, "version"), &done);
    }
}

#[test]
fn f100_f186_helm() {
    let Some(path) = tool("helm") else { return skip("helm is not there") };
    let bench = Bench::new(false);
    for door in bench.doors() {
        let home = door.home("helm");
        let ca = bench.authority.ca().display().to_string();
        // The authority is trusted by the flag alone.
        let bare = |arguments: &[&str]| {
            let mut command = door.tool(&path, "helm");
            command.args(arguments).env_remove("SSL_CERT_FILE").env("XDG_CONFIG_HOME", &home);
            command
        };
        let helm = |arguments: &[&str]| {
            let mut command = bare(arguments);
            if door.tls {
                command.args(["--ca-file", &ca])
            } else {
                command.arg("--plain-http")
            };
            command
        };
        let login = |password: &str| {
            helm(&["registry", "login", door.address, "-u", &bench.user, "-p", password])
        };
        fails(&mut login("wrong"), &WRONG_PASSWORD);
        must(&mut login(&bench.password));
        std::fs::create_dir_all(home.join("app/templates")).unwrap();
        let about = "apiVersion: v2\nname: app\nversion: 0.1.0\ndescription: of the tests\n";
        std::fs::write(home.join("app/Chart.yaml"), about).unwrap();
        std::fs::write(home.join("app/templates/note.yaml"), "kind: ConfigMap\n").unwrap();
        must(&mut bare(&["package", "app"]));
        let repository = door.repository("helm");
        let into = format!("oci://{}/{repository}", door.address);
        // It falls back to plain HTTP by itself, but takes no authority that it was not told of.
        if door.tls {
            fails(&mut bare(&["push", "app-0.1.0.tgz", &into]), &["unknown authority"]);
        }
        let pushed = run(&mut helm(&["push", "app-0.1.0.tgz", &into]));
        let said = String::from_utf8_lossy(&[pushed.stdout, pushed.stderr].concat()).into_owned();
        let scope = format!("repository:{repository}/app:pull");
        let reader = token(&bench.node.login, &bench.user, &bench.password, &[&scope]).unwrap();
        let target = format!("/v2/{repository}/app/manifests/0.1.0");
        let manifest = bearer(&bench.node.login, &reader, "GET", &target, &[], b"");
        assert_eq!(manifest.status, 200, "{said}");
        assert!(said.contains(&digest(&manifest.body)), "{said}");
        let chart = format!("{into}/app");
        let file = |dir: &str| std::fs::read(home.join(dir).join("app-0.1.0.tgz")).unwrap();
        std::fs::create_dir_all(home.join("pulled")).unwrap();
        must(&mut helm(&["pull", &chart, "--version", "0.1.0", "-d", "pulled"]));
        assert!(file("pulled") == file("."));
        // Without a version it takes the highest of the tags.
        let shown = must(&mut helm(&["show", "chart", &chart]));
        assert!(shown.contains("description: of the tests"), "{shown}");
        fails(&mut helm(&["pull", &chart, "--version", "0.2.0"]), &NOT_THERE);
        let version = must(&mut bare(&["version", "--short"]));
        record("helm", &door, &version, &["login", "push", "pull", "chart"]);
    }
}

#[test]
fn f186_cosign_signs_by_referrer() {
    let Some(path) = tool("cosign") else {
        return skip("cosign is not there");
    };
    let bench = Bench::new(false);
    for door in bench.doors() {
        let cosign = |arguments: &[&str]| {
            let mut command = door.tool(&path, "cosign");
            command.env("COSIGN_PASSWORD", "").env("COSIGN_EXPERIMENTAL", "1").args(arguments);
            command
        };
        must(&mut cosign(&["login", door.address, "-u", &bench.user, "-p", &bench.password]));
        must(&mut cosign(&["generate-key-pair"]));
        let (user, password) = (bench.user.as_str(), bench.password.as_str());
        let (image, repository) = (Image::new(9, &[1000]), door.repository("cosign"));
        assert_eq!(image.push(&bench.node.login, (user, password), &repository, "v1").status, 201);
        let name = format!("{}/{repository}@{}", door.address, image.digest());
        let plain: &[&str] = if door.tls { &[] } else { &["--allow-http-registry"] };
        let sign = ["sign", "--key", "cosign.key", "--tlog-upload=false", "-y"];
        must(cosign(&sign).arg("--registry-referrers-mode=oci-1-1").args(plain).arg(&name));
        let verify = ["verify", "--key", "cosign.pub", "--insecure-ignore-tlog"];
        let verify = [&verify[..], &["--experimental-oci11=true"]].concat();
        must(cosign(&verify).args(plain).arg(&name));
        record(
            "cosign",
            &door,
            &version(&path, "version"),
            &["login", "sign", "verify", "referrers"],
        );
    }
}

#[test]
fn f100_f168_f186_containerd() {
    let (Some(server), Some(ctr)) = (tool("containerd"), tool("ctr")) else {
        return skip("containerd is not there");
    };
    if !is_root() {
        return skip("containerd needs root");
    }
    let bench = Bench::new(true);
    let home = bench.home.join("containerd");
    std::fs::create_dir_all(&home).unwrap();
    let (dir, socket) = (home.display(), home.join("s"));
    let config = format!(
        "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = \"{dir}/s\"\n[ttrpc]\naddress = \"{dir}/t\"\n"
    );
    std::fs::write(home.join("config.toml"), config).unwrap();
    let mut start = Command::new(&server);
    start.arg("--config").arg(home.join("config.toml")).env("PATH", path_with(&server));
    let _daemon = daemon(&mut start, &home.join("log"));
    let base = |arguments: &[&str]| {
        let mut command = Command::new(&ctr);
        command.arg("--address").arg(&socket).args(arguments);
        command
    };
    eventually(Duration::from_secs(30), "containerd answers", || {
        run(&mut base(&["version"])).status.success().then_some(())
    });
    let (user, password) = (bench.user.as_str(), bench.password.as_str());
    let credentials = format!("{user}:{password}");
    for door in bench.doors() {
        let image = door.image("ctr", "v1");
        let repository = door.repository("ctr");
        let pushed = bench.image.push(&bench.node.login, (user, password), &repository, "v1");
        assert_eq!(pushed.status, 201);
        let scheme = if door.tls { "https" } else { "http" };
        // The door's own hosts, and another registry that this one mirrors.
        let hosts = home.join(format!("hosts-{scheme}"));
        for host in [door.address, "mirrored.example"] {
            let dir = hosts.join(host);
            std::fs::create_dir_all(&dir).unwrap();
            let text = format!(
                "server = \"{scheme}://{0}\"\nca = \"{1}\"\n[host.\"{scheme}://{0}\"]\n\
                 capabilities = [\"pull\", \"resolve\", \"push\"]\nca = \"{1}\"\n",
                door.address,
                bench.authority.ca().display()
            );
            std::fs::write(dir.join("hosts.toml"), text).unwrap();
        }
        let hosts = hosts.display().to_string();
        let ctr = |verb: &str, user: &str, names: &[&str]| {
            let mut command = base(&["images", verb, "--hosts-dir", &hosts, "--user", user]);
            command.args(names);
            command
        };
        let wrong = format!("{user}:wrong");
        fails(&mut ctr("pull", &wrong, &[&image]), &WRONG_PASSWORD);
        must(&mut ctr("pull", &credentials, &[&image]));
        let again = door.image("ctr-copy", "v1");
        must(&mut base(&["images", "tag", &image, &again]));
        must(&mut ctr("push", &credentials, &[&again, &again]));
        fails(&mut ctr("pull", &credentials, &[&door.image("ctr", "none")]), &NOT_THERE);
        let mirrored = format!("mirrored.example/{repository}:v1");
        must(&mut ctr("pull", &credentials, &[&mirrored]));
        let done = ["login", "pull", "push", "copy", "mirror", "large"];
        record("containerd", &door, &version(&server, "--version"), &done);
    }
}

#[test]
fn f100_f186_docker() {
    let bench = Bench::new(false);
    let running = match Docker::start(&bench.home.join("docker"), Some(bench.authority.ca())) {
        Ok(running) => running,
        Err(why) => return skip(&why),
    };
    let (user, password) = (bench.user.as_str(), bench.password.as_str());
    for door in bench.doors() {
        let docker = |arguments: &[&str]| {
            let mut command = door.tool(&running.docker, "docker");
            command.args(["-H", &running.host]).args(arguments).stdin(Stdio::null());
            command
        };
        let login = |password: &str| docker(&["login", "-u", user, "-p", password, door.address]);
        fails(&mut login("wrong"), &WRONG_PASSWORD);
        assert!(must(&mut login(password)).contains("Login Succeeded"));
        let repository = door.repository("docker");
        let pushed = bench.image.push(&bench.node.login, (user, password), &repository, "v1");
        assert_eq!(pushed.status, 201);
        let (v1, again) = (door.image("docker", "v1"), door.image("docker-copy", "v1"));
        must(&mut docker(&["pull", &v1]));
        must(&mut docker(&["tag", &v1, &again]));
        must(&mut docker(&["push", &again]));
        must(&mut docker(&["rmi", &v1, &again]));
        must(&mut docker(&["pull", &again]));
        fails(&mut docker(&["pull", &door.image("docker", "none")]), &NOT_THERE);
        let done = ["login", "pull", "push", "copy", "0-byte", "large"];
        record("docker", &door, &version(&running.server, "--version"), &done);
    }
}

#[test]
fn f045_f186_clients_say_why_a_read_only_device_takes_no_push() {
    let tools = ["skopeo", "crane", "regctl", "oras"].map(|name| (name, tool(name)));
    let (_root, device, (user, password)) = crate::sync::pair("ReadOnly");
    let home = TempDir::new();
    let image = Image::new(5, &[100]);
    image.write_layout(&home.join("layout"), "v1");
    let layout = home.join("layout").display().to_string();
    let target = format!("{}/app:v2", device.login);
    let mut tried = 0;
    for (name, path) in tools {
        let Some(path) = path else { continue };
        let mut command = Command::new(&path);
        command.env("HOME", home.path()).env("DOCKER_CONFIG", home.path());
        match name {
            "skopeo" => command
                .args(["copy", "--dest-tls-verify=false", "--insecure-policy"])
                .arg(format!("--dest-creds={user}:{password}"))
                .args([&format!("oci:{layout}:v1"), &format!("docker://{target}")]),
            "crane" => {
                let login = ["auth", "login", &device.login, "-u", &user, "-p", &password];
                must(Command::new(&path).env("DOCKER_CONFIG", home.path()).args(login));
                command.args(["push", &layout, &target])
            }
            "regctl" => command
                .arg("--host")
                .arg(format!("reg={},user={user},pass={password},tls=disabled", device.login))
                .args(["image", "copy", &format!("ocidir://{layout}:v1"), &target]),
            // One request: its copy of a whole image trips over two refusals at once.
            _ => command
                .args(["blob", "push", "--plain-http", "-u", &user, "-p", &password])
                .arg(target.trim_end_matches(":v2"))
                .arg(home.join("layout/index.json")),
        };
        fails(&mut command, &["not allowed on this registry", "read_only", "denied"]);
        tried += 1;
    }
    if tried == 0 {
        skip("no client is there");
    }
}

//! Real clients against the built program.

use crate::support::clients::{buildah, missing, must, podman, run, skopeo};
use crate::support::image::Image;
use crate::support::node::Node;
use crate::support::{TempDir, eventually, skip};
use crate::sync::{SOON, pull};

#[test]
fn f040_f120_skopeo_pushes_to_the_root_and_copies_from_a_device() {
    if let Some(program) = missing(&["skopeo"]) {
        return skip(&format!("{program} is not installed"));
    }
    let home = TempDir::new();
    let mut root = Node::root();
    let user = root.pusher("owner-token", "*");
    let credentials = format!("{}:{}", user.0, user.1);
    let image = Image::new(7, &[200_000, 0]);
    image.write_layout(&home.join("layout"), "v1");
    let layout = format!("oci:{}:v1", home.join("layout").display());
    let to = format!("docker://{}/team/app:v1", root.login);
    let mut copy = skopeo(home.path());
    copy.args([
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        &credentials,
        &layout,
        &to,
    ]);
    must(&mut copy);

    let connection = root.connect("dock01", &["--repository", "team/app"]);
    let mut device = Node::start_device(&connection);
    let from = format!("docker://{}/team/app:v1", device.login);
    let copied = format!("dir:{}", home.join("copied").display());
    let fetch = || {
        let mut copy = skopeo(home.path());
        copy.args([
            "copy",
            "--preserve-digests",
            "--src-tls-verify=false",
            "--src-creds",
            &credentials,
            &from,
            &copied,
        ]);
        run(&mut copy)
    };
    let refused = fetch();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "a token that is not linked");
    assert!(text.contains("unauthorized") || text.contains("401"), "{text}");
    root.link("dock01", &user.0);
    eventually(SOON, "skopeo copies from the device", || fetch().status.success().then_some(()));
    let manifest = std::fs::read(home.join("copied/manifest.json")).unwrap();
    assert_eq!(manifest, image.manifest, "byte for byte");

    root.kill();
    device.kill();
    device.start();
    assert!(fetch().status.success(), "the device alone, after kill -9");

    root.start();
    let mut list = skopeo(home.path());
    list.args(["list-tags", "--tls-verify=false", "--creds", &credentials]);
    assert!(must(list.arg(format!("docker://{}/team/app", root.login))).contains("\"v1\""));
    let climbed = format!("docker://{}/team/app:v2", device.login);
    let mut copy = skopeo(home.path());
    copy.args([
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        &credentials,
        &layout,
        &climbed,
    ]);
    must(&mut copy);
    let digest = eventually(SOON, "v2 climbs", || pull(&root, &user, "team/app", "v2").ok());
    assert_eq!(digest, image.digest());
    let mut delete = skopeo(home.path());
    delete.args(["delete", "--tls-verify=false", "--creds", &credentials]);
    must(delete.arg(format!("docker://{}/team/app:v2", root.login)));
}

#[test]
fn f186_buildah_builds_and_pushes_and_podman_pulls() {
    if let Some(program) = missing(&["buildah", "podman"]) {
        return skip(&format!("{program} is not installed"));
    }
    let home = TempDir::new();
    let root = Node::root();
    let (user, password) = root.pusher("owner-token", "app");
    let credentials = format!("{user}:{password}");
    std::fs::write(home.join("hello"), "hello from a layer\n").unwrap();
    must(buildah(home.path()).args(["from", "--name", "work", "scratch"]));
    let file = home.join("hello");
    must(buildah(home.path()).args(["add", "work"]).arg(&file).arg("/hello"));
    must(buildah(home.path()).args(["commit", "work", "localhost/built"]));
    for (format, tag) in [("oci", "v1"), ("v2s2", "v2")] {
        let mut push = buildah(home.path());
        push.args(["push", "--tls-verify=false", "--creds", &credentials, "--format", format]);
        must(push.args(["localhost/built", &format!("docker://{}/app:{tag}", root.login)]));
        let mut pull = podman(home.path());
        pull.args(["pull", "--tls-verify=false", "--creds", &credentials]);
        must(pull.arg(format!("{}/app:{tag}", root.login)));
    }
    let mut login = podman(home.path());
    login.args(["login", "--tls-verify=false", "-u", &user, "-p", &password, &root.login]);
    assert!(must(&mut login).contains("Login Succeeded"));
    let mut login = podman(home.path());
    login.args(["login", "--tls-verify=false", "-u", &user, "-p", "wrong", &root.login]);
    assert!(!run(&mut login).status.success());
}

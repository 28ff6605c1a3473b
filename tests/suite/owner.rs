//! Whose files there are after a command that was run as root on the state of a service.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Output;

use crate::support::authority::Authority;
use crate::support::image::{self, Image};
use crate::support::node::Node;
use crate::support::{have, skip};

/// The user of the service, and another one.
const SERVICE: u32 = 812;
const NOBODY: u32 = 65_534;

/// Everything below a directory and itself.
fn each(directory: &Path, found: &mut dyn FnMut(&Path)) {
    found(directory);
    if !directory.is_dir() {
        return;
    }
    for entry in std::fs::read_dir(directory).unwrap() {
        each(&entry.unwrap().path(), found);
    }
}

fn give(directory: &Path, uid: u32) {
    each(directory, &mut |path| chown(path, Some(uid), Some(uid)).unwrap());
}

/// What does not belong to the service.
fn of_others(directory: &Path) -> Vec<String> {
    let mut others = Vec::new();
    each(directory, &mut |path| {
        let found = std::fs::symlink_metadata(path).unwrap();
        if (found.uid(), found.gid()) != (SERVICE, SERVICE) {
            others.push(format!("{} {}:{}", path.display(), found.uid(), found.gid()));
        }
    });
    others
}

fn text(output: &Output) -> String {
    format!("{:?}{}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// A stopped root with `app:v1` whose state belongs to the service, a backup that belongs to root,
/// and who may pull; `None`, loudly, without the rights for that.
fn stopped() -> Option<(Node, String, (String, String))> {
    if !rustix::process::geteuid().is_root() {
        skip("only root can give files to another user");
        return None;
    }
    let mut node = Node::root();
    let owner = node.pusher("owner-token", "app");
    let image = Image::new(1, &[40_000]);
    assert_eq!(image.push(&node.login, (&owner.0, &owner.1), "app", "v1").status, 201);
    let backup = node.dir.join("backup").to_str().unwrap().to_owned();
    let output = node.run(&["backup", &backup]);
    assert!(output.status.success(), "{}", text(&output));
    node.stop();
    give(&node.state(), SERVICE);
    if node.run_configured_as(SERVICE, &["config", "check"]).status.code() == Some(126) {
        skip("another user cannot run the program where it was built");
        return None;
    }
    node.serve_as(SERVICE);
    Some((node, backup, owner))
}

fn serves(node: &mut Node, (user, password): &(String, String)) {
    node.start();
    assert!(image::pull(&node.login, (user, password), "app", "v1").is_ok(), "{}", node.log());
    node.stop();
}

#[test]
fn f166_a_role_that_root_changes_leaves_the_state_to_its_owner() {
    let Some((mut node, _backup, user)) = stopped() else {
        return;
    };
    for role in ["root", "connected"] {
        // Anybody else is told whose command it is.
        let adopt = ["state", "adopt", "--role", role, "--yes"];
        let refused = node.run_configured_as(NOBODY, &adopt);
        assert!(!refused.status.success());
        for part in ["belongs to another user, 812", "sudo -u ", " skerry state adopt"] {
            assert!(text(&refused).contains(part), "{}", text(&refused));
        }
        let adopted = node.run_configured(&adopt);
        assert!(adopted.status.success(), "{}", text(&adopted));
        assert_eq!(of_others(&node.state()), [""; 0]);
        let checked = node.run_configured_as(SERVICE, &["config", "check"]);
        assert!(role == "connected" || checked.status.success(), "{}", text(&checked));
        if role == "root" {
            serves(&mut node, &user);
        }
    }
}

#[test]
fn f201_a_state_that_root_restores_belongs_to_the_owner_of_its_place() {
    let Some((mut node, backup, user)) = stopped() else {
        return;
    };
    let lost = node.state().with_file_name("lost");
    std::fs::rename(node.state(), &lost).unwrap();
    std::fs::create_dir(node.state()).unwrap();
    give(&node.state(), SERVICE);
    let restored = node.run_configured(&["restore", &backup]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert_eq!(of_others(&node.state()), [""; 0]);
    serves(&mut node, &user);

    // Where there is no directory yet, the one above says whose it is to be.
    std::fs::remove_dir_all(node.state()).unwrap();
    chown(node.dir.path(), Some(SERVICE), Some(SERVICE)).unwrap();
    let restored = node.run_configured(&["restore", &backup]);
    assert!(restored.status.success(), "{}", text(&restored));
    assert_eq!(of_others(&node.state()), [""; 0]);
    serves(&mut node, &user);
}

/// What a start cannot open is named before the start, to root and to the service.
#[test]
fn f190_a_file_of_another_user_is_found_by_the_check() {
    let Some((node, _backup, _user)) = stopped() else {
        return;
    };
    let passes = node.run_configured(&["config", "check"]);
    assert!(passes.status.success(), "{}", text(&passes));
    for part in ["format", "identity", "journal", "index"] {
        let mut file = None;
        each(&node.state().join(part), &mut |path| {
            file = Some(path.to_owned()).filter(|path| path.is_file()).or(file.take());
        });
        let file = file.unwrap();
        chown(&file, Some(0), Some(0)).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let check = ["config", "check"];
        for output in [node.run_configured(&check), node.run_configured_as(SERVICE, &check)] {
            assert_eq!(output.status.code(), Some(78), "{part}: {}", text(&output));
            let name = file.strip_prefix(node.state()).unwrap().display().to_string();
            let told = text(&output);
            assert!(told.contains(&name) && told.contains("chown"), "{name}: {told}");
        }
        if ["format", "journal"].contains(&part) {
            let told = text(&node.run_to_end());
            assert!(told.contains("chown"), "{part}: {told}");
        }
        chown(&file, Some(SERVICE), Some(SERVICE)).unwrap();
    }
}

fn reaches(path: &Path, uid: u32, gid: u32, mode: u32) {
    chown(path, Some(uid), Some(gid)).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// Root, who can read everything, asks for the service.
#[test]
fn f190_what_only_root_can_use_is_found_by_the_check() {
    let Some((mut node, _backup, _user)) = stopped() else {
        return;
    };
    let authority = Authority::new();
    reaches(authority.key().parent().unwrap(), SERVICE, SERVICE, 0o755);
    node.with_tls(&authority);
    let key = authority.key();
    let check = |node: &Node| node.run_configured(&["config", "check"]);
    reaches(&key, SERVICE, SERVICE, 0o600);
    let passes = check(&node);
    assert_eq!(text(&passes), "ExitStatus(unix_wait_status(0))", "all is well");
    let set_up = || (check(&node), node.run_configured_as(SERVICE, &["config", "check"]));
    reaches(&key, 0, 0, 0o600);
    let (by_root, by_service) = set_up();
    for output in [&by_root, &by_service] {
        assert_eq!(output.status.code(), Some(78), "{}", text(output));
        assert!(text(output).contains("tls.private_key"), "{}", text(output));
    }
    assert!(text(&by_root).contains("as the user '#812'"), "{}", text(&by_root));
    // A unit may give its service another group; that of root it does not.
    reaches(&key, 0, 4711, 0o640);
    let (by_root, _) = set_up();
    assert_eq!(by_root.status.code(), Some(0), "{}", text(&by_root));
    assert!(text(&by_root).contains("SupplementaryGroups="), "{}", text(&by_root));
    reaches(&key, 0, SERVICE, 0o640);
    let (by_root, _) = set_up();
    assert_eq!(text(&by_root), text(&passes));
    // A file that is checked before it is put in its place.
    reaches(&node.dir.join("skerry.toml"), 0, 0, 0o600);
    let (by_root, _) = set_up();
    assert_eq!(by_root.status.code(), Some(0), "{}", text(&by_root));
    assert!(text(&by_root).contains("cannot read it from here"), "{}", text(&by_root));
}

/// `config check` by root where the program is installed as README says, after `changes`.
fn check_installed(changes: &str) -> Output {
    let script = format!(
        "umask 022 && mount -t tmpfs none /etc && mount -t tmpfs none /var/lib && \
         mkdir -p /etc/skerry/conf.d && cp {}/systemd/skerry.toml /etc/skerry/ && \
         echo 'skerry:x:812:812::/:/bin/false' > /etc/passwd && \
         install -d -o 812 -g 812 -m 0700 /var/lib/skerry && cd / && {changes} && \
         exec {} config check",
        env!("CARGO_MANIFEST_DIR"),
        crate::support::node::binary().display()
    );
    let (shell, arguments) = ("unshare", ["-mn", "sh", "-c", &script]);
    std::process::Command::new(shell).args(arguments).output().unwrap()
}

#[test]
fn f190_the_check_by_root_knows_what_the_installed_service_can_use() {
    let may = rustix::process::geteuid().is_root() && ["unshare", "mount"].into_iter().all(have);
    if !may || check_installed("true").status.code() == Some(126) {
        return skip("needs root, unshare, mount, and a program that others can run");
    }
    let expect = |changes: &str, code: i32, parts: &[&str]| {
        let output = check_installed(changes);
        let told = text(&output);
        assert_eq!(output.status.code(), Some(code), "{changes}: {told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{changes}: {told}");
        told
    };
    let none = ["no connection string that can be seen from here"];
    let told = expect("true", 0, &none);
    assert!(!told.contains("the user"), "{told}");

    let file = "printf '[log]\nlevel=\"warn\"\n' > /etc/skerry/conf.d/x.toml";
    expect(file, 0, &none);
    let parts = ["/etc/skerry/conf.d/x.toml", "as the user skerry, to whom /var/lib/skerry"];
    expect(&format!("{file} && chmod 0600 /etc/skerry/conf.d/x.toml"), 78, &parts);

    let string = "printf '[parent]\nconnection_string_file=\"/etc/skerry/string\"\n' > \
                  /etc/skerry/conf.d/x.toml && echo 'ConnectedRegistryName=dock01;\
                  SyncTokenName=dock01;SyncTokenPassword=x;ParentGatewayEndpoint=127.0.0.1:1;\
                  ParentEndpointProtocol=http' > /etc/skerry/string";
    expect(&format!("{string} && chmod 0640 /etc/skerry/string"), 0, &["cannot read", "waits"]);
    let told = expect(&format!("{string} && chown 0:812 /etc/skerry/string"), 0, &[]);
    assert!(!told.contains("cannot read"), "{told}");

    // skerry.socket passes it, which cannot be seen from here.
    let port = "printf '[listen]\nlogin=\"0.0.0.0:443\"\n' > /etc/skerry/conf.d/x.toml";
    expect(port, 0, &["listen.login: the user skerry may not listen on 0.0.0.0:443", "socket"]);
}

/// `verb` by another user beside the service, which has its directory in `/run`.
fn beside_the_service(verb: &str) -> Output {
    let script = format!(
        "mount -t tmpfs none /run && install -d -o 812 -g 812 -m 0750 /run/skerry && cd / && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups {} {verb}",
        crate::support::node::binary().display()
    );
    std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap()
}

#[test]
fn f190_another_user_beside_the_service_is_told_who_may() {
    let tools = ["unshare", "mount", "setpriv"];
    let may = rustix::process::geteuid().is_root() && tools.into_iter().all(have);
    if !may || beside_the_service("version").status.code() != Some(0) {
        return skip("needs root, unshare, mount, setpriv, and a program that others can run");
    }
    for (verb, code, names) in [
        ("status", 1, "/run/skerry/admin.sock"),
        ("connected-registry list", 1, "/run/skerry/admin.sock"),
        ("config check", 78, "/run/skerry/conf.d"),
        ("serve", 78, "--config FILE"),
    ] {
        let output = beside_the_service(verb);
        let told = text(&output);
        assert_eq!(output.status.code(), Some(code), "{verb}: {told}");
        for part in [names, "Permission denied", "use root or the user that runs the"] {
            assert!(told.contains(part), "{verb}: {part}: {told}");
        }
    }
}

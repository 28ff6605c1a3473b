//! The service on a device: units, user, presets. `pNNN` is the number of a rule for appliances.

use std::process::Command;
use std::time::Duration;

use crate::repo::{Unit, files, path, read};
use crate::support::http::send;
use crate::support::node::{Node, binary, free_port};
use crate::support::{TempDir, eventually, skip};

/// Directives that keep the service in its place. More may be added, none may go.
const HARDENING: &[(&str, &str)] = &[
    ("CapabilityBoundingSet", ""),
    ("AmbientCapabilities", ""),
    ("NoNewPrivileges", "yes"),
    ("DevicePolicy", "closed"),
    ("KeyringMode", "private"),
    ("LockPersonality", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("PrivateDevices", "yes"),
    ("PrivateMounts", "yes"),
    ("PrivateTmp", "yes"),
    ("PrivateUsers", "yes"),
    ("ProcSubset", "pid"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHome", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectProc", "invisible"),
    ("ProtectSystem", "strict"),
    ("RemoveIPC", "yes"),
    ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallErrorNumber", "EPERM"),
    ("UMask", "0077"),
];

fn service() -> Unit {
    Unit::parse(&read("systemd/skerry.service"))
}

/// The units of the program; those in `systemd/data` belong to a package of their own.
fn units() -> Vec<String> {
    let is_unit = |file: &String| {
        let unit = file.ends_with(".service") || file.ends_with(".socket");
        unit && !file.starts_with("systemd/data/")
    };
    files("systemd").into_iter().filter(is_unit).collect()
}

fn seconds(value: &str) -> u64 {
    value.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("no seconds: {value}"))
}

fn mebibytes(value: &str) -> u64 {
    value.trim_end_matches('M').parse().unwrap_or_else(|_| panic!("no mebibytes: {value}"))
}

/// A program that is not on every machine.
fn run(program: &str, arguments: &[&str]) -> Option<std::process::Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            skip(&format!("{program}: {error}"));
            None
        }
    }
}

#[test]
fn p001_the_units_are_valid() {
    for unit in units() {
        let file = path(&unit);
        let arguments = ["verify", "--man=no", file.to_str().unwrap()];
        let Some(output) = run("systemd-analyze", &arguments) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        // The program is not installed where the tests run.
        let complaints: Vec<&str> =
            text.lines().filter(|line| !line.contains("/usr/bin/skerry is not exec")).collect();
        assert!(complaints.is_empty(), "{unit}: {complaints:?}");
    }
}

#[test]
fn p002_the_exposure_is_low() {
    let file = path("systemd/skerry.service");
    let arguments = ["security", "--offline=true", "--threshold=20", file.to_str().unwrap()];
    let Some(output) = run("systemd-analyze", &arguments) else {
        return;
    };
    if String::from_utf8_lossy(&output.stderr).contains("unrecognized option") {
        skip("this systemd-analyze cannot judge a file offline");
        return;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", text.lines().last().unwrap_or_default());
}

#[test]
fn p003_the_watchdog_waits_for_three_reports() {
    let unit = service();
    assert_eq!(unit.get("Service.Type"), "notify");
    assert_eq!(unit.get("Service.NotifyAccess"), "main");
    let limit = seconds(unit.get("Service.WatchdogSec"));
    assert!(limit >= 3 * skerry::sys::notify::PING_PERIOD.as_secs());
}

#[test]
fn p008_the_user_has_the_same_numbers_everywhere() {
    let unit = service();
    assert_eq!(unit.get("Service.User"), "skerry");
    assert_eq!(unit.get("Service.Group"), "skerry");
    assert!(unit.all("Service.DynamicUser").is_empty());
    let sysusers = read("systemd/sysusers.d/skerry.conf");
    assert!(sysusers.contains("\ng skerry 812 "));
    assert!(sysusers.contains("\nu skerry 812:812 "));
    assert!(read("systemd/tmpfiles.d/skerry.conf").contains("d /var/lib/skerry 0700 812 812 -"));
    let recipe = read("yocto-layer/recipes-skerry/skerry/skerry_0.1.0.bb");
    assert!(recipe.contains("--system --gid 812 skerry"));
    assert!(recipe.contains("--system --uid 812 --gid skerry"));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a root directory for systemd-sysusers")]
fn p009_the_user_can_be_made_twice() {
    let text = read("systemd/sysusers.d/skerry.conf");
    assert!(text.find("\ng ").unwrap() < text.find("\nu ").unwrap(), "the group comes first");
    let root = std::env::temp_dir().join(format!("skerry-sysusers-{}", std::process::id()));
    let dir = root.join("usr/lib/sysusers.d");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(dir.join("skerry.conf"), text).unwrap();
    let argument = format!("--root={}", root.display());
    for _ in 0..2 {
        if let Some(output) = run("systemd-sysusers", &[&argument]) {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap();
            assert_eq!(passwd.matches("skerry:x:812:812:").count(), 1);
        }
    }
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn p010_directories_are_made_by_systemd() {
    let unit = service();
    for (kind, mode) in [("State", "0700"), ("Configuration", "0755"), ("Runtime", "0750")] {
        assert_eq!(unit.get(&format!("Service.{kind}Directory")), "skerry");
        assert_eq!(unit.get(&format!("Service.{kind}DirectoryMode")), mode);
    }
    assert_eq!(unit.get("Unit.RequiresMountsFor"), skerry::config::STATE_DIR);
}

#[test]
fn p011_no_secret_is_in_the_environment() {
    for file in files("systemd") {
        let text = read(&file);
        if !file.ends_with(".service") && !file.ends_with(".conf") {
            continue;
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(value) = line.strip_prefix("Environment=") {
                let name = value.to_ascii_uppercase();
                let secret = ["SECRET", "PASSWORD", "TOKEN", "KEY"];
                assert!(!secret.iter().any(|word| name.contains(word)), "{file}: {line}");
            }
            let credential = ["LoadCredential=", "LoadCredentialEncrypted=", "ImportCredential="]
                .iter()
                .find_map(|key| line.strip_prefix(key));
            // An absolute path that is missing would keep the service from starting.
            assert!(!credential.is_some_and(|value| value.contains('/')), "{file}: {line}");
        }
    }
    let credential = skerry::config::CONNECTION_STRING_CREDENTIAL;
    assert_eq!(service().get("Service.LoadCredential"), credential);
}

#[test]
fn p014_the_service_waits_for_neither_uplink_nor_time() {
    for unit in units() {
        let text = read(&unit);
        assert!(!text.contains("network-online.target"), "{unit}");
        assert!(!text.contains("time-sync.target"), "{unit}");
    }
    let unit = service();
    assert!(unit.all("Unit.Requires").is_empty());
    let after = unit.get("Unit.After");
    assert!(after.contains("time-set.target") && after.contains("local-fs.target"));
    assert_eq!(unit.get("Unit.Wants"), "time-set.target");
}

#[test]
fn p016_a_restart_backs_off_and_a_wrong_configuration_has_none() {
    let unit = service();
    assert_eq!(unit.get("Service.Restart"), "always");
    let code = skerry::cli::EXIT_CONFIG.to_string();
    assert_eq!(unit.get("Service.RestartPreventExitStatus"), code);
    // Nobody is near a device to start it again: it never gives up.
    assert_eq!(unit.get("Unit.StartLimitIntervalSec"), "0");
    let reboot = Unit::parse(&read("systemd/dropins/reboot-on-failure.conf"));
    assert!(
        seconds(reboot.get("Unit.StartLimitIntervalSec")) > 8 * (90 + 60),
        "starts that hang fit"
    );
    assert_eq!(reboot.get("Unit.StartLimitBurst"), "8");
    let backoff = Unit::parse(&read("systemd/dropins/backoff.conf"));
    assert!(seconds(backoff.get("Service.RestartMaxDelaySec")) >= 60);
    assert_eq!(backoff.get("Service.RestartSteps"), "5");
}

#[test]
fn p017_memory_and_tasks_are_bounded() {
    let unit = service();
    let (high, max) = ("Service.MemoryHigh", "Service.MemoryMax");
    let (least, most) = (mebibytes(unit.get(high)), mebibytes(unit.get(max)));
    assert!(least < most);
    assert_eq!(unit.get("Service.MemorySwapMax"), "0");
    assert_eq!(unit.get("Service.LimitCORE"), "0");
    let config = skerry::config::Config::default();
    let plan = skerry::config::MemoryPlan::of(&config);
    assert!(plan.total() <= least << 20, "the built-in limits fit: {} bytes", plan.total());
    let example = Unit::parse(&read("systemd/dropins/memory.conf"));
    assert!(mebibytes(example.get(high)) < mebibytes(example.get(max)));
    let tasks: u64 = unit.get("Service.TasksMax").parse().unwrap();
    assert!(tasks >= skerry::config::MemoryPlan::threads(&config) + 8);
    let files: usize = unit.get("Service.LimitNOFILE").parse().unwrap();
    assert!(files >= 2 * config.limits.connections, "a socket and a file for each connection");
}

/// State in memory is gone at the next boot: a partition that was not mounted must not stay unseen.
#[test]
fn p054_state_in_memory_is_told() {
    let Ok(memory) = TempDir::below(std::path::Path::new("/dev/shm")) else {
        return skip("/dev/shm is not writable");
    };
    let mut node = Node::device("");
    node.configure_from(path("systemd/skerry.toml"));
    node.dir = memory;
    node.spawn();
    let answers = || node.run(&["status"]).status.success().then_some(());
    eventually(Duration::from_secs(30), "it answers", answers);
    node.stop();
    let log = node.log();
    let told = log.lines().find(|line| line.contains("at the next boot")).unwrap_or_default();
    let state = node.state().display().to_string();
    assert!(told.contains(" warn ") && told.contains(&state) && told.contains("tmpfs"), "{log}");
}

#[test]
fn p018_the_hardening_is_whole() {
    let unit = service();
    for (key, value) in HARDENING {
        assert_eq!(unit.get(&format!("Service.{key}")), *value, "{key}");
    }
    let filter = unit.all("Service.SystemCallFilter");
    assert_eq!(filter, ["@system-service pidfd_getfd", "~@privileged @resources"]);
}

/// A socket unit that is not where `listen.login` says takes its place: nobody must have to guess.
#[test]
fn p020_a_passed_socket_in_the_place_of_another_address_is_told() {
    let mut node = Node::device("");
    node.configure_from(path("systemd/skerry.toml"));
    let passed = format!("127.0.0.1:{}", free_port());
    if !node.activate(&passed) {
        return skip("systemd-socket-activate is not there");
    }
    let health = || send(&passed, "GET", "/healthz", &[], b"").ok().filter(|a| a.status == 200);
    eventually(Duration::from_secs(30), "it answers on the passed socket", health);
    let log = node.log();
    let told = log.lines().find(|line| line.contains("is not served")).unwrap_or_default();
    assert!(told.contains(" warn "), "{log}");
    let names = ["listen.login", node.login.as_str(), passed.as_str()];
    assert!(names.iter().all(|name| told.contains(name)), "{told}: {log}");

    node.stop();
    node.login.clone_from(&passed);
    std::fs::remove_file(node.dir.join("log")).unwrap();
    assert!(node.activate(&passed));
    eventually(Duration::from_secs(30), "it answers on the same address", health);
    assert!(!node.log().contains("is not served"), "{}", node.log());
}

#[test]
fn p021_only_the_service_and_its_confirmation_are_enabled() {
    let text = read("systemd/system-preset/50-skerry.preset");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let wanted =
        ["enable skerry.service", "enable skerry-confirm.service", "disable skerry.socket"];
    assert_eq!(lines, wanted);
    for unit in units() {
        let name = unit.rsplit('/').next().unwrap();
        assert!(lines.iter().any(|line| line.ends_with(name)), "{name} has no preset");
    }
}

/// Symptom: a device that no client could reach until it was rebooted. Cause: a client that tried
/// again while the data partition could not be mounted had systemd give the socket up, and nothing
/// started it again when the service could start.
#[test]
fn p020_the_service_starts_its_socket_where_that_is_enabled() {
    let text = read("systemd/skerry.socket");
    assert!(text.lines().any(|line| line == "WantedBy=sockets.target skerry.service"), "{text}");
    // Exit code 78 is final for clients too: nothing is started more often than a restart needs.
    let socket = Unit::parse(&text);
    assert_eq!(socket.get("Socket.TriggerLimitBurst"), "5");
    assert_eq!(socket.get("Socket.TriggerLimitIntervalSec"), "10s");
}

/// An update that is rolled back must find the format of its version: the checks of a product are
/// ordered before `boot-complete.target`.
#[test]
fn p062_a_version_is_confirmed_when_the_boot_has_been_found_good() {
    let unit = Unit::parse(&read("systemd/skerry-confirm.service"));
    assert_eq!(unit.get("Service.Type"), "oneshot");
    assert_eq!(unit.get("Service.ExecStart"), "/usr/bin/skerry confirm");
    assert_eq!(unit.get("Unit.Requires"), "boot-complete.target");
    for earlier in ["boot-complete.target", "skerry.service", "systemd-bless-boot.service"] {
        assert!(unit.get("Unit.After").split(' ').any(|unit| unit == earlier), "{earlier}");
    }
    // The checks may come after multi-user.target, which must not wait for what waits for them.
    assert_eq!(unit.get("Unit.DefaultDependencies"), "no");
    assert_eq!(unit.get("Install.WantedBy"), "multi-user.target", "once for each boot");
    // Not with Requisite=, which would cancel it when the first start of the service fails, and
    // wherever the state is.
    for key in unit.0.keys() {
        let is_condition = key.starts_with("Unit.Condition") || key.starts_with("Unit.Assert");
        assert!(!is_condition && key != "Unit.Requisite", "{key}");
    }
    // It starts in every boot, but fails where the entry of the boot loader has no counter.
    assert!(!unit.get("Unit.Requires").contains("bless-boot"));
    let rauc = Unit::parse(&read("systemd/dropins/rauc-confirm.conf"));
    for key in ["Unit.Requires", "Unit.After"] {
        assert_eq!(rauc.get(key), "rauc-mark-good.service", "{key}");
    }
    let guard = Unit::parse(&read("systemd/dropins/data-confirm.conf"));
    assert_eq!(guard.get("Unit.ConditionPathIsMountPoint"), skerry::config::STATE_DIR);
    for key in ["Service.User", "Service.Group"] {
        assert_eq!(unit.get(key), service().get(key), "who may open the admin socket");
    }
}

/// Symptom: a version was confirmed though its slot was not marked good, so that the rollback found
/// a format that it cannot read; with `Requires=` of what marks it, a boot without a counter never
/// was.
#[test]
fn p062_a_version_is_confirmed_only_where_its_slot_was_marked_good() {
    const COUNTER: &str =
        "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    const GOOD: &str = "SubState=dead\\nResult=success";
    let unit = Unit::parse(&read("systemd/skerry-confirm.service"));
    // As root: it asks systemd, which does not answer the user of the service everywhere.
    let condition = unit.get("Service.ExecCondition").strip_prefix("+/bin/sh -c '").unwrap();
    let condition = condition.strip_suffix('\'').unwrap();
    assert!(condition.contains(COUNTER));
    let condition = condition.replace("$$", "$");
    let home = TempDir::new();
    let counter = home.join("counter");
    let condition = condition.replace(COUNTER, counter.to_str().unwrap());
    let confirms = |entry_counts: bool, bless: &str, rauc: &str| {
        match entry_counts {
            true => std::fs::write(&counter, "").unwrap(),
            false => drop(std::fs::remove_file(&counter)),
        }
        // Where systemctl finds that a unit is in this state, its exit code is 0.
        let functions = format!(
            "systemctl() {{ case \"$*\" in\n\
             '--quiet is-active systemd-bless-boot.service') test {bless} = active ;;\n\
             'show --property=Result,SubState rauc-mark-good.service') \
             printf '{rauc}\\n' ;;\n\
             *) echo \"unknown: $*\" >&2; exit 9 ;;\nesac; }}\n"
        );
        let script = functions + &condition;
        let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        // 1 to 254: not in this boot; 255: asked again (systemd.service(5), `ExecCondition=`).
        match output.status.code().unwrap() {
            0 => "confirmed",
            255 => "later",
            _ => "left out",
        }
    };
    for (case, entry_counts, bless, rauc, expected) in [
        ("neither of them, or an entry without counter", false, "inactive", GOOD, "confirmed"),
        ("marked by systemd", true, "active", GOOD, "confirmed"),
        ("/boot is not mounted", true, "failed", GOOD, "left out"),
        ("no marking by systemd", true, "inactive", GOOD, "left out"),
        ("marked by RAUC", false, "", "SubState=exited\\nResult=success", "confirmed"),
        ("RAUC could not", false, "", "SubState=failed\\nResult=exit-code", "left out"),
        ("left with an error", false, "", "SubState=dead\\nResult=signal", "left out"),
        ("under way", false, "", "SubState=start\\nResult=success", "later"),
        ("not of Type=oneshot", false, "", "SubState=running\\nResult=success", "later"),
        ("tried once more", false, "", "SubState=auto-restart\\nResult=exit-code", "later"),
        ("nobody answers", false, "", "", "later"),
    ] {
        assert_eq!(confirms(entry_counts, bless, rauc), expected, "{case}");
    }
    assert_eq!(unit.get("Service.Restart"), "on-failure");

    let rauc = Unit::parse(&read("systemd/dropins/rauc-confirm.conf"));
    let condition = rauc.get("Service.ExecCondition").strip_prefix("+/bin/sh -c '").unwrap();
    let condition = condition.strip_suffix('\'').unwrap().replace("$$", "$");
    for (shown, expected) in [
        ("Type=oneshot\nResult=success\nConditionResult=yes", true),
        ("Type=simple\nResult=success\nConditionResult=yes", false),
        ("Type=oneshot\nResult=success\nConditionResult=no", false),
        ("Type=oneshot\nResult=exit-code\nConditionResult=yes", false),
        ("Type=\nResult=success\nConditionResult=no", false),
    ] {
        let script = format!("systemctl() {{ printf '{shown}\n'; }}\n{condition}");
        let status = Command::new("/bin/sh").args(["-c", &script]).status().unwrap();
        assert_eq!(status.success(), expected, "{shown}");
    }
}

#[test]
fn p023_nothing_is_walked_through_at_boot() {
    let text = read("systemd/tmpfiles.d/skerry.conf");
    let mut made = 0;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(fields[0], "d", "{line}");
        let ours = ["/etc/skerry", "/var/lib/skerry", "/run/skerry"];
        assert!(ours.iter().any(|dir| fields[1].starts_with(dir)), "{line}");
        made += 1;
    }
    assert!(made >= 2);
    // So whoever puts a store there by hand sets its owner.
    let owner = "\n    chown -R 812:812 /data/skerry && chmod 700 /data/skerry\n";
    assert!(read("yocto-layer/README.md").contains(owner));
}

#[test]
fn p024_documents_and_programs_are_where_the_units_say() {
    let recipe = read("yocto-layer/recipes-skerry/skerry/skerry_0.1.0.bb");
    // In the package of the program: the one of documents is not in an image.
    assert!(recipe.contains("${S}/README.md ${D}${datadir}/skerry/"));
    assert!(crate::repo::bitbake(&recipe)["FILES:${PN}"].contains("${datadir}/skerry/README.md"));
    for unit in units() {
        let parsed = Unit::parse(&read(&unit));
        let document = parsed.get("Unit.Documentation");
        assert_eq!(document, "file:/usr/share/skerry/README.md", "{unit}");
        for start in parsed.all("Service.ExecStart") {
            // cargo.bbclass installs executables there.
            assert!(start.starts_with("/usr/bin/skerry "), "{unit}: {start}");
        }
    }
    assert!(path("README.md").exists());
}

/// The commands of README that copy files, as they stand there, into a directory.
#[test]
fn p024_the_install_of_the_readme_puts_everything_where_the_units_look() {
    let readme = read("README.md");
    let section = readme.split("\n## Install\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let root = TempDir::new();
    let place = root.path().display().to_string();
    let mut script = String::from("set -e\n");
    for line in section.lines().filter_map(|line| line.strip_prefix("sudo install ")) {
        let line = line.replace("target/release/skerry ", &format!("{} ", binary().display()));
        script += &format!("install {}\n", line.replace(" /usr/", &format!(" {place}/usr/")));
    }
    // The program itself stays where it was built: only targets begin so.
    script = script.replace(" /etc/", &format!(" {place}/etc/"));
    let output = Command::new("sh").arg("-c").arg(&script).current_dir(path("")).output().unwrap();
    assert!(output.status.success(), "{script}{}", String::from_utf8_lossy(&output.stderr));
    for unit in units() {
        let name = unit.rsplit('/').next().unwrap();
        let installed = root.join(&format!("etc/systemd/system/{name}"));
        let text = std::fs::read_to_string(&installed).unwrap();
        for start in Unit::parse(&text).all("Service.ExecStart") {
            let program = start.split(' ').next().unwrap().trim_start_matches('/');
            assert!(root.join(program).is_file(), "{unit}: {start}");
        }
    }
    let documents = "usr/share/skerry/README.md";
    for file in ["usr/lib/sysusers.d/skerry.conf", "usr/lib/tmpfiles.d/skerry.conf", documents] {
        assert!(root.join(file).is_file(), "{file}");
    }
    let configuration = std::fs::read_to_string(root.join("etc/skerry/skerry.toml")).unwrap();
    assert_eq!(configuration, read("systemd/skerry.toml"));
    assert!(section.contains("systemctl enable --now skerry.service"));
}

#[test]
fn the_owners_example_is_valid() {
    let example = read("systemd/skerry.toml");
    let source = skerry::config::MapSource::default().file(skerry::config::MAIN_FILE, &example);
    let loaded = skerry::config::load(&skerry::config::Options::default(), &source).unwrap();
    assert!(loaded.warnings.is_empty());
}

//! The data partition of an image: its mounts, and what starts on it. `pNNN` is the number of a
//! rule for appliances.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::repo::{Unit, bitbake, files, read};
use crate::support::clients::missing;
use crate::support::{TempDir, skip};

const RECIPE: &str = "yocto-layer/recipes-skerry/skerry/skerry-data_0.1.0.bb";

/// The unit that mounts `place`, of those in `systemd/data`.
fn mount_unit(place: &str) -> Unit {
    let name = place.trim_start_matches('/').replace('-', "\\x2d").replace('/', "-");
    let unit = Unit::parse(&read(&format!("systemd/data/{name}.mount")));
    assert_eq!(unit.get("Mount.Where"), place);
    unit
}

/// On a read-only root, volatile-binds of OE-core lays a file system in memory over /var/lib before
/// local-fs.target: what is mounted below it earlier is hidden, and the state is lost at each boot.
#[test]
fn p054_the_state_is_on_the_data_partition() {
    let data = mount_unit("/data");
    assert_eq!(data.get("Mount.What"), "/dev/disk/by-label/skerry-data");
    assert_eq!(data.get("Mount.Options"), "noatime,nodev,nosuid,noexec,errors=remount-ro");
    let check = "systemd-fsck@dev-disk-by\\x2dlabel-skerry\\x2ddata.service";
    assert!(data.get("Unit.Requires").contains(check) && data.get("Unit.After").contains(check));
    let state = mount_unit(skerry::config::STATE_DIR);
    assert_eq!(state.get("Unit.Wants"), "var-volatile-lib.service");
    assert_eq!(state.get("Unit.After"), "data.mount var-volatile-lib.service");
    assert_eq!(state.get("Mount.What"), "/data/skerry");
    assert_eq!(state.get("Mount.DirectoryMode"), "0700");
    let own = mount_unit("/etc/skerry/conf.d");
    assert_eq!(own.get("Mount.What"), "/data/skerry-conf.d");
    for unit in [&state, &own] {
        assert_eq!(unit.get("Unit.RequiresMountsFor"), "/data");
        assert_eq!(unit.get("Mount.Options"), "bind");
    }
    // Nothing requires them but the service: without its data a device still boots so far that one
    // can log in.
    assert_eq!(data.get("Install.WantedBy"), "dev-disk-by\\x2dlabel-skerry\\x2ddata.device");
    assert_eq!(state.get("Install.WantedBy"), "data.mount");
    assert_eq!(own.get("Install.WantedBy"), "data.mount");
    for unit in [&data, &state, &own] {
        assert!(unit.all("Unit.DefaultDependencies").is_empty(), "before local-fs.target");
    }
    // A lost one that is busy leaves its place; for a mount of fstab too.
    let lazy = Unit::parse(&read("systemd/dropins/data-lazy.conf"));
    for unit in [&lazy, &state, &own] {
        assert_eq!(unit.get("Mount.LazyUnmount"), "yes");
    }
    let guard = Unit::parse(&read("systemd/dropins/data.conf"));
    assert_eq!(guard.get("Unit.AssertPathIsMountPoint"), skerry::config::STATE_DIR);
    // A client that waits would start the mount in place of its stop.
    let socket = Unit::parse(&read("systemd/dropins/data-socket.conf"));
    for key in ["Unit.BindsTo", "Unit.After"] {
        assert_eq!(socket.get(key), "data.mount", "{key}");
    }
    for (file, place) in [
        ("data-lazy", "data.mount.d/10-lazy"),
        ("data-socket", "skerry.socket.d/20-data"),
        ("data", "skerry.service.d/20-data"),
    ] {
        let packaged = format!("${{systemd_system_unitdir}}/{place}.conf");
        let installs = format!("${{S}}/systemd/dropins/{file}.conf \\\n        ${{D}}{packaged}");
        assert!(read(RECIPE).contains(&installs), "{installs}");
        assert!(bitbake(&read(RECIPE))["FILES:${PN}"].contains(&packaged), "{packaged}");
    }
    assert_eq!(guard.get("Unit.RequiresMountsFor"), "/data /etc/skerry/conf.d");
    // A masked mount is none that RequiresMountsFor= finds.
    for unit in [&state, &own, &guard] {
        assert_eq!(unit.get("Unit.BindsTo"), "data.mount");
        assert!(unit.get("Unit.After").contains("data.mount"));
    }
}

/// Symptom: where the partition came after the 90 s that a boot waits for it, nothing mounted it
/// and nothing started the service, and no unit had failed.
#[test]
fn p054_a_data_partition_that_comes_late_starts_the_service() {
    let root = TempDir::new();
    let units = root.join("usr/lib/systemd/system");
    fs::create_dir_all(units.join("skerry.service.d")).unwrap();
    fs::write(units.join("skerry.service"), read("systemd/skerry.service")).unwrap();
    let dropin = units.join("skerry.service.d/20-data.conf");
    fs::write(dropin, read("systemd/dropins/data.conf")).unwrap();
    let recipe = bitbake(&read(RECIPE));
    for unit in recipe["SYSTEMD_SERVICE:${PN}"].split(' ') {
        fs::write(units.join(unit), read(&format!("systemd/data/{unit}"))).unwrap();
    }
    let mut enable = Command::new("systemctl");
    enable.arg(format!("--root={}", root.path().display())).args(["enable", "skerry.service"]);
    match enable.args(recipe["SYSTEMD_SERVICE:${PN}"].split(' ')).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => return skip(&format!("no systemctl: {error}")),
    }
    let links = root.join("etc/systemd/system");
    let wanted = |by: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(links.join(format!("{by}.wants"))).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(wanted("dev-disk-by\\x2dlabel-skerry\\x2ddata.device"), set(&["data.mount"]));
    let mounted = ["etc-skerry-conf.d.mount", "skerry-data.service", "var-lib-skerry.mount"];
    assert_eq!(wanted("data.mount"), set(&mounted), "and not the service itself");
    // What this target wants is asked for again with each start of anything.
    assert_eq!(wanted("local-fs.target"), set(&[]));
    assert_eq!(wanted("multi-user.target"), set(&["skerry.service"]));
    // A partition that was away for a moment, while the mount before had not ended yet, comes
    // without a word.
    assert_eq!(wanted("timers.target"), set(&["skerry-data.timer"]));
    let timer = Unit::parse(&read("systemd/data/skerry-data.timer"));
    assert_eq!(
        (timer.get("Timer.OnActiveSec"), timer.get("Timer.OnUnitInactiveSec")),
        ("10min", "10min")
    );
    assert!(timer.all("Timer.OnCalendar").is_empty(), "it would wait for the time");
    assert!(timer.all("Timer.OnBootSec").is_empty(), "it would not fire in its second start");
    assert_eq!(timer.get("Timer.Unit"), "skerry-data-look.service");
    // Where it required the mount, one that is masked would end the timer.
    let look = Unit::parse(&read("systemd/data/skerry-data-look.service"));
    for key in ["Unit.Requires", "Unit.BindsTo", "Unit.Wants"] {
        assert!(look.all(key).is_empty(), "{key}");
    }
    assert_eq!(
        look.get("Unit.DefaultDependencies"),
        "no",
        "fstab may have sysinit.target ask for it"
    );
    assert_eq!(look.get("Unit.ConditionPathExists"), "/dev/disk/by-label/skerry-data");
    let start = "-systemctl --no-block --job-mode=fail start data.mount";
    assert_eq!(look.get("Service.ExecStart"), start, "a failure is none of the timer");
}

/// Symptom: a service that somebody had stopped was started again, and rescue mode had a registry.
/// Cause: the mount of the data partition wanted the service itself.
#[test]
fn p054_a_mount_starts_the_service_once_and_never_in_rescue_mode() {
    let unit = Unit::parse(&read("systemd/data/skerry-data.service"));
    for key in ["Unit.BindsTo", "Install.WantedBy"] {
        assert_eq!(unit.get(key), "data.mount", "{key}");
    }
    // A requirement of sysinit.target would end emergency mode when somebody mounts the partition.
    assert_eq!(unit.get("Unit.DefaultDependencies"), "no");
    assert_eq!(unit.get("Unit.After"), "data.mount sysinit.target basic.target");
    assert_eq!(unit.get("Unit.Before"), "skerry.service shutdown.target");
    assert_eq!(unit.get("Unit.Conflicts"), "shutdown.target");
    assert_eq!((unit.get("Service.Type"), unit.get("Service.RemainAfterExit")), ("oneshot", "yes"));
    let start = unit.get("Service.ExecStart").strip_prefix("-/bin/sh -c '").unwrap();
    let script = start.strip_suffix('\'').unwrap().replace("$$", "$");
    let home = TempDir::new();
    // Answers like systemctl, by the variables of a case, and notes what is to be started.
    let fake = "#!/bin/sh\ncase \"$*\" in\n\
        'show --property=WantedBy --value skerry.service') echo $WANTED ;;\n\
        '--quiet is-active multi-user.target') exit $INACTIVE ;;\n\
        '--no-block start skerry.service') echo start ;;\n\
        'show --property=Job --value multi-user.target') echo $JOB ;;\n\
        *) echo \"unknown: $*\" ;;\nesac\n";
    fs::write(home.join("systemctl"), fake).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(home.join("systemctl"), mode).unwrap();
    // Also where an image enables the service below /usr, which is-enabled does not know.
    let enabled = "multi-user.target";
    for (case, wants, inactive, job, wanted) in [
        ("a boot", enabled, "3", "1", "start\n"),
        ("a partition that comes late", enabled, "0", "", "start\n"),
        ("wanted by others too", "acme.target multi-user.target", "0", "", "start\n"),
        ("rescue mode", enabled, "3", "", ""),
        ("a service that is disabled", "", "0", "", ""),
        ("wanted by others only", "acme-multi-user.target", "0", "", ""),
    ] {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]).env("PATH", format!("{}:/usr/bin:/bin", home.path().display()));
        shell.env("WANTED", wants).env("INACTIVE", inactive).env("JOB", job);
        let output = shell.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "{case}: {output:?}");
        assert!(output.status.success(), "{case}: {output:?}");
    }
}

/// What the recipe installs, and that the image has it.
#[test]
fn p054_the_image_has_the_mounts_of_the_data_partition() {
    let recipe = bitbake(&read(RECIPE));
    let units: Vec<String> = files("systemd/data")
        .iter()
        .filter(|file| [".mount", ".service", ".timer"].iter().any(|end| file.ends_with(end)))
        .filter_map(|file| file.rsplit('/').next().map(str::to_owned))
        .collect();
    let listed: BTreeSet<&str> = recipe["SYSTEMD_SERVICE:${PN}"].split(' ').collect();
    assert_eq!(listed, units.iter().map(String::as_str).collect(), "{units:?}");
    assert_eq!(recipe["SYSTEMD_AUTO_ENABLE:${PN}"], "enable");
    assert!(read(RECIPE).contains("install -d ${D}/data\n"), "a read-only root has the place");
    let image = bitbake(&read("yocto-layer/recipes-skerry/images/skerry-image.bb"));
    assert!(image["IMAGE_INSTALL:append"].contains("skerry-data"));
    for file in files("yocto-layer/kas") {
        for recipe in ["skerry", "skerry-conf", "skerry-data"] {
            let source = format!("EXTERNALSRC:pn-{recipe} = ");
            assert!(read(&file).contains(&source), "{file}: {recipe} from this checkout");
        }
    }
}

/// On a read-only root the connection string and the settings of one device are written there.
#[test]
fn p054_a_device_is_provisioned_on_its_data_partition() {
    let vendor = read("systemd/data/50-data.toml");
    let load = |own: &str| {
        let source = skerry::config::MapSource::default()
            .file("/usr/lib/skerry/conf.d/50-data.toml", &vendor)
            .file(skerry::config::MAIN_FILE, &read("systemd/skerry.toml"));
        let source = match own {
            "" => source,
            own => source.file("/etc/skerry/conf.d/50-data.toml", own),
        };
        skerry::config::load(&skerry::config::Options::default(), &source).unwrap().config
    };
    let config = load("");
    assert_eq!(config.named_role(), Some(skerry::types::Role::Connected));
    let file = config.parent.unwrap().connection_string_file.unwrap();
    assert_eq!(file.to_str(), Some("/data/skerry-provision/connection-string"));
    // A file of the same name on the data partition takes its place: so a device becomes a root.
    let root = load("[registry]\nrole = \"root\"\n");
    assert_eq!(root.named_role(), Some(skerry::types::Role::Root));
    let made = read("systemd/data/tmpfiles.conf");
    assert!(made.contains("\nd /data/skerry-provision 0750 root 812 -\n"), "the service may read");
    let readme = read("yocto-layer/README.md");
    let places = ["/data/skerry-provision/connection-string", "/data/skerry-conf.d"];
    for file in ["board/qemu-arm64/readme.txt", "board/qemu-x86_64/readme.txt"] {
        assert!(read(file).contains(places[0]), "{file}");
    }
    assert!(places.iter().all(|place| readme.contains(place)));
    for file in ["50-data.toml", "tmpfiles.conf"] {
        assert!(read(RECIPE).contains(&format!("${{S}}/systemd/data/{file}")), "{file}");
    }
}

/// Symptom: a device that went to somebody else kept settings in files whose names begin with a
/// dot. The mounts and tmpfiles make both directories anew.
#[test]
fn p054_a_reset_for_somebody_else_leaves_nothing() {
    let directories = ["/data/skerry-conf.d", "/data/skerry-provision"];
    let command = format!("    rm -rf /data/skerry-old {}\n", directories.join(" "));
    for file in
        ["yocto-layer/README.md", "board/qemu-arm64/readme.txt", "board/qemu-x86_64/readme.txt"]
    {
        let text = read(file);
        let place = text.find(&command).unwrap_or_else(|| panic!("{file}: {command}"));
        let rest = &text[place + command.len()..];
        assert!(rest.starts_with("    mv -T /data/skerry /data/skerry-old && sync && reboot\n"));
        assert!(!text.contains("/*"), "{file}: a pattern leaves names that begin with a dot");
    }
    let own = mount_unit("/etc/skerry/conf.d");
    assert_eq!((own.get("Mount.What"), own.get("Mount.DirectoryMode")), (directories[0], "0755"));
    let made = format!("\nd {} 0750 root 812 -\n", directories[1]);
    assert!(read("systemd/data/tmpfiles.conf").contains(&made));
}

/// Without this option the key is in /var/lib/systemd, which is new at each boot of a read-only
/// root.
#[test]
fn p054_the_example_seals_for_a_read_only_root() {
    let example = read("systemd/dropins/encrypted-credential.conf");
    let readme = read("yocto-layer/README.md");
    for text in [&example, &readme] {
        assert!(text.contains("--with-key=tpm2"));
    }
    assert!(example.contains("systemd-creds encrypt --with-key=tpm2 --name="));
    assert!(readme.contains("in its `fstab`"), "whose mount takes the place of data.mount");
}

/// What systemd says of the mounts, the service and OE-core's overlay, all in one place.
#[test]
fn p054_systemd_finds_no_fault_in_the_mounts() {
    if missing(&["systemd-analyze"]).is_some() {
        return skip("systemd-analyze is not there");
    }
    let root = TempDir::new();
    let mut units = files("systemd/data");
    units.retain(|file| [".mount", ".service", ".timer"].iter().any(|end| file.ends_with(end)));
    units.push("systemd/skerry.service".to_owned());
    // They are in one transaction with the target, as in an image: the service asks for all.
    let wants = root.join("local-fs.target.wants");
    let mounted = root.join("data.mount.wants");
    fs::create_dir(&wants).unwrap();
    fs::create_dir(&mounted).unwrap();
    for unit in &units {
        let name = unit.rsplit('/').next().unwrap();
        fs::write(root.join(name), read(unit)).unwrap();
        let is_wanted = read(unit).contains("\nWantedBy=data.mount\n");
        if unit.starts_with("systemd/data/") && is_wanted {
            std::os::unix::fs::symlink(root.join(name), mounted.join(name)).unwrap();
        }
    }
    let overlay = "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target\n\
                   RequiresMountsFor=/var/volatile /var\n[Service]\nType=oneshot\n\
                   RemainAfterExit=yes\nExecStart=/bin/true\n";
    fs::write(root.join("var-volatile-lib.service"), overlay).unwrap();
    let (unit, link) = ("var-volatile-lib.service", wants.join("var-volatile-lib.service"));
    std::os::unix::fs::symlink(root.join(unit), link).unwrap();
    let dropin = root.join("skerry.service.d");
    fs::create_dir(&dropin).unwrap();
    fs::write(dropin.join("20-data.conf"), read("systemd/dropins/data.conf")).unwrap();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["verify", "--man=no", "skerry.service", "local-fs.target"]);
    analyze.args(units.iter().filter_map(|unit| unit.rsplit('/').next()));
    analyze.env("SYSTEMD_UNIT_PATH", format!("{}:", root.path().display()));
    let output = analyze.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // The program is not installed where the tests run, and units of the machine are not ours.
    let ours = |line: &&str| {
        units.iter().any(|unit| line.contains(unit.rsplit('/').next().unwrap()))
            && !line.contains("/usr/bin/skerry is not exec")
    };
    let complaints: Vec<&str> = text.lines().filter(ours).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

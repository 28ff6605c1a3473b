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
    assert_eq!(data.get("Mount.What"), "/dev/disk/by-label/data");
    assert_eq!(data.get("Mount.Options"), "noatime,nodev,nosuid,noexec");
    let check = "systemd-fsck@dev-disk-by\\x2dlabel-data.service";
    assert!(data.get("Unit.Requires").contains(check) && data.get("Unit.After").contains(check));
    let state = mount_unit(skerry::config::STATE_DIR);
    assert_eq!(state.get("Unit.After"), "var-volatile-lib.service");
    assert_eq!(state.get("Mount.What"), "/data/skerry");
    assert_eq!(state.get("Mount.DirectoryMode"), "0700");
    let own = mount_unit("/etc/skerry/conf.d");
    assert_eq!(own.get("Mount.What"), "/data/skerry-conf.d");
    for unit in [&state, &own] {
        assert_eq!(unit.get("Unit.RequiresMountsFor"), "/data");
        assert_eq!(unit.get("Mount.Options"), "bind");
    }
    for unit in [&data, &state, &own] {
        // Wanted, not required: without its data a device still boots so far that one can log in.
        let by = unit.get("Install.WantedBy");
        assert_eq!(by.split(' ').next(), Some("local-fs.target"));
        assert!(unit.all("Unit.DefaultDependencies").is_empty(), "before local-fs.target");
    }
    let guard = Unit::parse(&read("systemd/dropins/data.conf"));
    assert_eq!(guard.get("Unit.AssertPathIsMountPoint"), skerry::config::STATE_DIR);
    assert_eq!(guard.get("Unit.RequiresMountsFor"), "/data /etc/skerry/conf.d");
}

/// Symptom: where the partition came after the 90 s that a boot waits for it, nothing mounted it
/// and nothing started the service, and no unit had failed.
#[test]
fn p054_a_data_partition_that_comes_late_starts_the_service() {
    let root = TempDir::new();
    let units = root.join("usr/lib/systemd/system");
    fs::create_dir_all(units.join("skerry.service.d")).unwrap();
    for (from, to) in [
        ("systemd/data/data.mount", "data.mount"),
        ("systemd/skerry.service", "skerry.service"),
        ("systemd/dropins/data.conf", "skerry.service.d/20-data.conf"),
    ] {
        fs::write(units.join(to), read(from)).unwrap();
    }
    let mut enable = Command::new("systemctl");
    enable.arg(format!("--root={}", root.path().display()));
    enable.args(["enable", "data.mount", "skerry.service"]);
    match enable.output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => return skip(&format!("no systemctl: {error}")),
    }
    for link in
        ["dev-disk-by\\x2dlabel-data.device.wants/data.mount", "data.mount.wants/skerry.service"]
    {
        let link = root.join("etc/systemd/system").join(link);
        assert!(link.symlink_metadata().is_ok(), "{}", link.display());
    }
}

/// What the recipe installs, and that the image has it.
#[test]
fn p054_the_image_has_the_mounts_of_the_data_partition() {
    let recipe = bitbake(&read(RECIPE));
    let units: Vec<String> = files("systemd/data")
        .iter()
        .filter(|file| file.ends_with(".mount"))
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

/// What systemd says of the mounts, the service and OE-core's overlay, all in one place.
#[test]
fn p054_systemd_finds_no_fault_in_the_mounts() {
    if missing(&["systemd-analyze"]).is_some() {
        return skip("systemd-analyze is not there");
    }
    let root = TempDir::new();
    let mut units = files("systemd/data");
    units.retain(|file| file.ends_with(".mount"));
    units.push("systemd/skerry.service".to_owned());
    // They are in one transaction with the target only when it wants them, as in an image.
    let wants = root.join("local-fs.target.wants");
    fs::create_dir(&wants).unwrap();
    for unit in &units {
        let name = unit.rsplit('/').next().unwrap();
        fs::write(root.join(name), read(unit)).unwrap();
        if name.ends_with(".mount") {
            std::os::unix::fs::symlink(root.join(name), wants.join(name)).unwrap();
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

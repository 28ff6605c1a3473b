//! The Yocto layer, as far as reading it goes. `pNNN` is the number of a rule for appliances.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::repo::{Unit, bitbake, files, path, read};
use crate::support::clients::missing;
use crate::support::{TempDir, cache, skip, tool};

const LAYER: &str = "yocto-layer";
const PROGRAM: &str = "yocto-layer/recipes-skerry/skerry/skerry_0.1.0.bb";
const CONF: &str = "yocto-layer/recipes-skerry/skerry/skerry-conf_0.1.0.bb";
const DATA: &str = "yocto-layer/recipes-skerry/skerry/skerry-data_0.1.0.bb";
const SOURCE: &str = "yocto-layer/recipes-skerry/skerry/skerry-source.inc";
const CRATES: &str = "yocto-layer/recipes-skerry/skerry/skerry-crates.inc";

fn recipes() -> Vec<String> {
    let is_recipe = |file: &String| file.ends_with(".bb") || file.ends_with(".inc");
    files(LAYER).into_iter().filter(is_recipe).collect()
}

#[test]
fn p041_the_layer_is_declared() {
    let text = read("yocto-layer/conf/layer.conf");
    let layer = bitbake(&text);
    assert!(text.contains("BBPATH .= \":${LAYERDIR}\""));
    assert!(layer["BBFILES"].contains("${LAYERDIR}/recipes-*/*/*.bb"));
    assert_eq!(layer["BBFILE_COLLECTIONS"], "meta-skerry");
    assert_eq!(layer["BBFILE_PATTERN_meta-skerry"], "^${LAYERDIR}/");
    assert!(layer["BBFILE_PRIORITY_meta-skerry"].parse::<u32>().is_ok());
    assert!(layer["LAYERVERSION_meta-skerry"].parse::<u32>().is_ok());
    assert_eq!(layer["LAYERDEPENDS_meta-skerry"], "core");
    assert!(layer["LAYERSERIES_COMPAT_meta-skerry"].split(' ').any(|s| s == "wrynose"));
}

#[test]
fn p042_the_layer_says_who_keeps_it() {
    let readme = read("yocto-layer/README.md");
    for word in ["maintainer", "patch", "@", "https://git.openembedded.org", "wrynose"] {
        assert!(readme.contains(word), "{word}");
    }
    assert!(!read("yocto-layer/SECURITY.md").is_empty());
    assert!(read("yocto-layer/COPYING.MIT").contains("Permission is hereby granted"));
    let maintainers = read("yocto-layer/MAINTAINERS.md");
    for file in recipes() {
        let dir = file.strip_prefix("yocto-layer/").unwrap().rsplit_once('/').unwrap().0;
        assert!(maintainers.contains(&format!("F: {dir}/")), "{dir}");
    }
}

/// Symptom: with the kernel of some vendors the service never started, and nothing said why: what
/// the unit needs of a kernel was named nowhere.
#[test]
fn p042_what_the_units_need_of_a_kernel_is_named() {
    let readme = read("yocto-layer/README.md");
    let unit = Unit::parse(&read("systemd/skerry.service"));
    assert_eq!(unit.get("Service.PrivateUsers"), "yes");
    assert!(!unit.all("Service.SystemCallFilter").is_empty());
    for word in ["CONFIG_USER_NS", "217/USER", "    PrivateUsers=no\n", "CONFIG_SECCOMP_FILTER"] {
        assert!(readme.contains(word), "{word}");
    }
    for (board, way, option) in [
        ("qemu-arm64", "-fw_cfg ", "CONFIG_FW_CFG_SYSFS"),
        ("qemu-x86_64", "-smbios ", "CONFIG_DMI_SYSFS"),
    ] {
        let text = read(&format!("board/{board}/readme.txt"));
        assert!(text.contains(way) && text.contains(option), "{board}: {option}");
        assert!(readme.contains(option), "{option}");
        let fragment = read("yocto-layer/files/linux/skerry.cfg");
        assert!(fragment.contains(&format!("\n{option}=y\n")), "{option}");
    }
    let line = "\n    SRC_URI += \"file://${LAYERDIR_META_SKERRY}/files/linux/skerry.cfg\"\n";
    assert!(readme.contains(line));
    for file in files("yocto-layer/kas").into_iter().filter(|file| file.ends_with(".yml")) {
        let added = "\" file://${LAYERDIR_META_SKERRY}/files/linux/skerry.cfg\"";
        assert!(read(&file).contains(added), "{file}");
    }
}

/// The list of crates that the lock file asks for.
fn crates() -> String {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let mut found: Vec<(String, String)> = packages
        .iter()
        .filter_map(|package| {
            let field = |name: &str| package.get(name).and_then(toml::Value::as_str);
            field("source").filter(|source| source.contains("crates.io-index"))?;
            let id = |separator: &str| Some([field("name")?, field("version")?].join(separator));
            let sum = format!("SRC_URI[{}.sha256sum] = \"{}\"\n", id("-")?, field("checksum")?);
            Some((format!("    crate://crates.io/{} \\\n", id("/")?), sum))
        })
        .collect();
    found.sort();
    let uris: String = found.iter().map(|(uri, _)| uri.as_str()).collect();
    let sums: String = found.iter().map(|(_, sum)| sum.as_str()).collect();
    format!(
        "# The crates of Cargo.lock. Regenerate after a change:\n\
         #   SKERRY_REGENERATE=1 cargo test --test suite p043\n\
         # 'bitbake -c update_crates skerry' would add those of tests/fuzz.\n\n\
         SRC_URI += \"\\\n{uris}\"\n\n{sums}"
    )
}

#[test]
#[allow(clippy::disallowed_methods, reason = "regenerates a file of the repository")]
fn p043_the_crates_are_those_of_the_lock_file() {
    let wanted = crates();
    if std::env::var_os("SKERRY_REGENERATE").is_some() {
        fs::write(path(CRATES), &wanted).unwrap();
    }
    assert!(wanted.matches("crate://").count() > 100);
    assert!(read(CRATES) == wanted, "{CRATES} is not up to date; its first lines say how");
}

#[test]
fn p044_version_and_licence_text_agree() {
    let version = env!("CARGO_PKG_VERSION");
    for recipe in [PROGRAM, CONF, DATA] {
        assert!(recipe.ends_with(&format!("_{version}.bb")), "{recipe}");
    }
    let file = path("LICENSE");
    match Command::new("md5sum").arg(file).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let sum = text.split_whitespace().next().unwrap();
            assert!(read(SOURCE).contains(&format!("file://LICENSE;md5={sum}")), "{sum}");
        }
        Err(error) => skip(&format!("md5sum: {error}")),
    }
}

#[test]
fn p044_the_licence_covers_every_linked_crate() {
    let stated = bitbake(&read(PROGRAM))["LICENSE"].clone();
    let stated: BTreeSet<&str> = stated.split(" & ").collect();
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let allowed = deny["licenses"]["allow"].as_array().unwrap();
    let allowed: BTreeSet<&str> = allowed.iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(stated, allowed, "the recipe and deny.toml name the same licences");
    let arguments = ["metadata", "--format-version=1", "--offline", "--locked"];
    let target = "--filter-platform=x86_64-unknown-linux-gnu";
    let manifest = path("Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(arguments).arg(target).arg("--manifest-path").arg(manifest);
    let output = match cargo.output() {
        Ok(output) if output.status.success() => output,
        _ => return skip("cargo metadata does not work offline here"),
    };
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let linked: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    for package in metadata["packages"].as_array().unwrap() {
        if !package["id"].as_str().is_some_and(|id| linked.contains(id)) {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_covered(licence, &stated), "{}: {licence}", package["name"]);
    }
}

/// Whether an SPDX expression can be met with these licences. Parentheses stand only round
/// alternatives in our tree, so AND may be split first.
fn is_covered(expression: &str, stated: &BTreeSet<&str>) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    expression.split(" AND ").all(|part| part.split(" OR ").any(|l| stated.contains(l.trim())))
}

#[test]
fn p045_sources_are_pinned() {
    let source = bitbake(&read(SOURCE));
    assert_eq!(source["SRC_URI"], "${SKERRY_GIT_URI};destsuffix=skerry-${PV}");
    // Whoever builds without kas sets the place of the source, and keeps the rest.
    assert!(read(SOURCE).contains("\nSKERRY_GIT_URI ?= "), "a default only");
    let uri = &source["SKERRY_GIT_URI"];
    for part in ["git://", "protocol=https", "branch=main"] {
        assert!(uri.contains(part), "{part}");
    }
    // What a tag means is asked of the server whenever a recipe is parsed, unless the hash of the
    // commit stands beside it: without a network bitbake stops there, for every layer.
    // A product sets its own for all recipes at once.
    assert_eq!(source["SRCREV"], "${SKERRY_SRCREV}");
    assert!(read(SOURCE).contains("\nSKERRY_SRCREV ?= "), "a default only");
    let commit = source.get("SKERRY_SRCREV").map_or("", String::as_str);
    let whole = commit.len() == 40 && commit.bytes().all(|b| b"0123456789abcdef".contains(&b));
    assert!(whole, "SKERRY_SRCREV is '{commit}', not the whole hash of a commit");
    assert_eq!(uri.matches("://").count(), 1, "one hash names one source: {uri}");
    for file in files(LAYER) {
        let text = read(&file);
        assert!(!text.contains("AUTOREV"), "{file}");
        let is_patch = [".patch", ".diff"].iter().any(|end| file.ends_with(end));
        assert!(!is_patch || text.contains("Upstream-Status:"), "{file}");
    }
    for recipe in recipes() {
        let local = bitbake(&read(&recipe)).get("SRC_URI").cloned().unwrap_or_default();
        assert!(!local.contains("file://"), "{recipe}: all files come with the source");
    }
}

/// The boards that the recipe knows machines of.
fn mapped_boards() -> BTreeSet<String> {
    let conf = read(CONF);
    let mapped = conf.lines().filter(|line| line.starts_with("SKERRY_MACHINE_BOARD:"));
    let boards: BTreeSet<String> =
        mapped.filter_map(|line| line.split('"').nth(1).map(str::to_owned)).collect();
    assert!(boards.len() >= 2, "{boards:?}");
    boards
}

/// What the recipes take from the source: each file that they install or check.
fn installed() -> BTreeSet<String> {
    let mut found = BTreeSet::from(["LICENSE".to_owned(), "Cargo.lock".to_owned()]);
    let (boards, conf) = (mapped_boards(), bitbake(&read(CONF)));
    for recipe in recipes() {
        let text = read(&recipe).replace("${SKERRY_BOARD_DIR}", &conf["SKERRY_BOARD_DIR"]);
        for word in text.split_whitespace() {
            let Some(file) = word.strip_prefix("${S}/") else {
                continue;
            };
            match file.contains("${SKERRY_BOARD}") {
                true => found.extend(boards.iter().map(|b| file.replace("${SKERRY_BOARD}", b))),
                false => drop(found.insert(file.to_owned())),
            }
        }
    }
    // A document: it changes with every other commit, and an image works with any of them.
    found.remove("README.md");
    found
}

/// The commit has what the recipes take from it, as it is here: else the layer would build
/// something else than what was tried, such as images that are roots.
#[test]
fn p045_the_pinned_commit_has_what_the_recipes_install() {
    let commit = bitbake(&read(SOURCE))["SKERRY_SRCREV"].clone();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(path("")).args(arguments).output()
    };
    let known = git(&["cat-file", "-e", &format!("{commit}^{{commit}}")]);
    if !known.is_ok_and(|output| output.status.success()) {
        return skip(&format!("this checkout has no history, or not commit {commit}"));
    }
    let below = git(&["merge-base", "--is-ancestor", &commit, "HEAD"]).unwrap();
    assert!(below.status.success(), "{commit} is on another branch");
    let shown = |file: &str| git(&["show", &format!("{commit}:{file}")]).unwrap();
    let files = installed();
    for part in ["systemd/skerry.service", "board/base.toml", "board/qemu-arm64/board.toml"] {
        assert!(files.contains(part), "{part} is installed: {files:?}");
    }
    let differs = |file: &&String| {
        let output = shown(file);
        !output.status.success() || output.stdout != read(file).into_bytes()
    };
    let different: Vec<&String> = files.iter().filter(differs).collect();
    let cure = "set SKERRY_SRCREV to a commit that has these files as they are here";
    assert!(different.is_empty(), "{commit}: {different:?}: {cure}");
    for file in ["systemd/skerry.toml", "board/base.toml"] {
        let text = String::from_utf8(shown(file).stdout).unwrap();
        assert!(text.contains("\nrole = \"connected\"\n"), "{file}: an image is never a root");
    }
}

/// Symptom: `do_package` ended with "uid not found". Cause: who makes the user is another recipe,
/// and its user is in no other sysroot.
#[test]
fn p046_a_recipe_owns_files_as_users_of_its_own_only() {
    for recipe in recipes() {
        let text = read(&recipe);
        let owns = ["chown", "chgrp", "install -o", " -o 812", " -g 812"];
        let named = owns.iter().find(|word| text.contains(**word));
        assert!(named.is_none() || text.contains("useradd"), "{recipe}: {named:?}");
    }
}

#[test]
fn p046_nothing_is_fetched_while_building() {
    for recipe in recipes() {
        let text = read(&recipe);
        for word in ["[network]", "cargo install", "curl ", "wget "] {
            assert!(!text.contains(word), "{recipe}: {word}");
        }
    }
}

/// insane.bbclass makes an error of a program that is stripped before it is packaged.
#[test]
fn p047_the_program_is_stripped_by_the_package_build_only() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    assert!(manifest["profile"]["release"]["strip"].as_bool().unwrap());
    assert!(read(PROGRAM).contains("\nexport CARGO_PROFILE_RELEASE_STRIP = \"false\"\n"));
}

// The C of ring is compiled with debug information, and bitbake.conf maps the paths of the recipe's
// own source and build only, not those of its crates.
#[test]
fn p047_the_program_does_not_name_the_directory_of_its_crates() {
    const LINE: &str =
        "\nDEBUG_PREFIX_MAP += \"-ffile-prefix-map=${CARGO_HOME}=${TARGET_DBGSRC_DIR}\"\n";
    assert!(read(PROGRAM).contains(LINE));
}

#[test]
fn p047_the_program_is_a_service_with_a_user() {
    let text = read(PROGRAM);
    let recipe = bitbake(&text);
    let inherit = text.lines().find_map(|line| line.strip_prefix("inherit ")).unwrap();
    let classes: BTreeSet<&str> = inherit.split(' ').collect();
    let wanted = ["cargo", "cargo-update-recipe-crates", "systemd", "useradd", "features_check"];
    for class in wanted {
        assert!(classes.contains(class), "{class}");
    }
    assert_eq!(recipe["REQUIRED_DISTRO_FEATURES"], "systemd");
    // The class enables each unit of a package whose SYSTEMD_AUTO_ENABLE is "enable", and no preset
    // disables it again: the socket, which takes the place of listen.login, is in its own package.
    assert_eq!(recipe["SYSTEMD_SERVICE:${PN}"], "skerry.service skerry-confirm.service");
    assert_eq!(recipe["SYSTEMD_AUTO_ENABLE:${PN}"], "enable");
    assert_eq!(recipe["SYSTEMD_SERVICE:${PN}-socket"], "skerry.socket");
    assert_eq!(recipe["SYSTEMD_AUTO_ENABLE:${PN}-socket"], "disable");
    assert_eq!(recipe["SYSTEMD_PACKAGES"], "${PN} ${PN}-socket");
    // With a socket the class also packs the service of its name: the first package keeps it.
    assert!(text.contains("\nPACKAGES += \"${PN}-socket\"\n"), "after the program's own");
    assert!(!recipe["FILES:${PN}"].contains("/skerry.socket"));
    assert!(!recipe["RRECOMMENDS:${PN}"].contains("socket"));
    let preset = read("systemd/system-preset/50-skerry.preset");
    assert!(preset.contains("\nenable skerry.service\nenable skerry-confirm.service\n"));
    assert!(preset.contains("\ndisable skerry.socket\n"));
}

/// Symptom: the unit of a product that decides in another way whether an update is good was enabled
/// in its image. Cause: the class enables what the recipe names, and presets only enable.
#[test]
fn p047_a_product_decides_in_another_way_whether_an_update_is_good() {
    const LINE: &str = "\n      SYSTEMD_SERVICE:${PN}:remove = \"skerry-confirm.service\"\n";
    const PRESET: &str = "\n      disable skerry-confirm.service\n";
    let readme = read("yocto-layer/README.md");
    assert!(readme.contains(LINE) && readme.contains(PRESET));
    let recipe = bitbake(&read(PROGRAM));
    for (removed, preset) in [("", ""), ("skerry-confirm.service", PRESET)] {
        let units = recipe["SYSTEMD_SERVICE:${PN}"].split(' ').filter(|unit| *unit != removed);
        let units: Vec<&str> = units.collect();
        let root = TempDir::new();
        let (folder, presets) = ("usr/lib/systemd/system", "usr/lib/systemd/system-preset");
        let write = |folder: &str, name: &str, text: &str| {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join(name), text).unwrap();
        };
        for unit in ["skerry.service", "skerry-confirm.service"] {
            write(folder, unit, &read(&format!("systemd/{unit}")));
        }
        write(presets, "10-acme.preset", preset);
        write(presets, "50-skerry.preset", &read("systemd/system-preset/50-skerry.preset"));
        let own: String = units.iter().map(|unit| format!("enable {unit}\n")).collect();
        write(presets, "98-skerry.preset", &own);
        write("etc", "machine-id", "");
        // The postinst of systemd.bbclass, and what rootfs-postcommands.bbclass does after it.
        let steps = [
            [vec!["enable"], units.clone()].concat(),
            vec!["--preset-mode=enable-only", "preset-all"],
        ];
        for step in steps {
            let mut command = Command::new("systemctl");
            command.arg(format!("--root={}", root.path().display())).args(&step);
            match command.output() {
                Ok(output) => assert!(output.status.success(), "{step:?}: {output:?}"),
                Err(error) => return skip(&format!("no systemctl: {error}")),
            }
        }
        let link = |wanted: &str| root.join("etc/systemd/system").join(wanted).symlink_metadata();
        assert!(link("multi-user.target.wants/skerry.service").is_ok());
        let confirms = link("multi-user.target.wants/skerry-confirm.service").is_ok();
        assert_eq!(confirms, removed.is_empty());
    }
}

#[test]
fn p048_everything_installed_is_packaged() {
    let text = read(PROGRAM);
    let recipe = bitbake(&text);
    let packaged = &recipe["FILES:${PN}"];
    for part in [
        "/skerry.service ",
        "/skerry-confirm.service ",
        "/10-backoff.conf",
        "/50-skerry.preset",
        "/sysusers.d/skerry.conf",
        "/tmpfiles.d/skerry.conf",
    ] {
        assert!(packaged.contains(part), "{part}");
    }
    assert_eq!(recipe["CONFFILES:${PN}"], "${sysconfdir}/skerry/skerry.toml");
    let conf = read(CONF);
    assert!(bitbake(&conf)["FILES:${PN}"].contains("${datadir}/skerry/board.toml"));
    for line in text.lines().chain(conf.lines()).filter(|line| line.contains("${D}")) {
        for dir in ["${D}/var", "${D}/run", "${D}${localstatedir}", "${D}${runstatedir}"] {
            assert!(!line.contains(dir), "{line}");
        }
    }
    for source in text.lines().flat_map(|line| line.split(' ')) {
        if let Some(file) = source.strip_prefix("${S}/")
            && file != "README.md"
        {
            assert!(path(file).exists(), "{file}");
        }
    }
}

#[test]
fn p049_local_files_and_partitions_are_where_the_series_looks() {
    for recipe in recipes() {
        assert!(!read(&recipe).contains("S = \"${WORKDIR}"), "{recipe}");
    }
    assert!(read(CONF).contains("S = \"${UNPACKDIR}/"));
    let image = bitbake(&read("yocto-layer/recipes-skerry/images/skerry-image.bb"));
    let partitions = format!("yocto-layer/files/wic/{}", image["WKS_FILE"]);
    assert!(path(&partitions).exists(), "{partitions}");
    let text = read(&partitions);
    assert_eq!(text.matches("--fixed-size 512M").count(), 2, "two equal roots");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("part ") && last.contains("--label skerry-data"), "{last}");
}

/// A line `part` of a kickstart file: where it is mounted, and its options.
struct Partition {
    mount: Option<String>,
    options: BTreeMap<String, String>,
}

impl Partition {
    fn get(&self, option: &str) -> Option<&str> {
        self.options.get(option).map(String::as_str)
    }

    fn has(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }
}

/// The partitions of a kickstart file, by the rules of wic for the options that we use.
fn partitions(text: &str) -> Vec<Partition> {
    let valued = [
        "source",
        "sourceparams",
        "fstype",
        "label",
        "fixed-size",
        "align",
        "ondisk",
        "part-type",
        "mkfs-extraopts",
    ];
    let flags = ["use-label", "use-uuid", "no-fstab-update"];
    let parse = |line: &str| {
        // As a shell splits it: blanks between quotes belong to the word.
        let pieces = line.split('"').enumerate();
        let unquoted: String = pieces
            .map(|(n, piece)| if n % 2 == 1 { piece.replace(' ', "\0") } else { piece.to_owned() })
            .collect();
        let mut words = unquoted.split_whitespace().skip(1).peekable();
        let mount = words.next_if(|word| !word.starts_with("--")).map(str::to_owned);
        let mut options = BTreeMap::new();
        while let Some(word) = words.next() {
            let word = word.strip_prefix("--").unwrap_or_else(|| panic!("{word}: {line}"));
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, value),
                None if valued.contains(&word) => (word, words.next().unwrap()),
                None if flags.contains(&word) => (word, ""),
                None => panic!("an option that this reader does not know: {word}"),
            };
            let value = value.replace('\0', " ");
            assert!(options.insert(name.to_owned(), value).is_none(), "{line}");
        }
        Partition { mount, options }
    };
    text.lines().filter(|line| line.starts_with("part ")).map(parse).collect()
}

/// The root file system is the same in every slot, in the image of the disk and as an artifact of
/// its own: its mounts are units in it, not lines that wic writes into some of the copies.
#[test]
fn p049_partitions_are_found_by_their_labels() {
    let text = read("yocto-layer/files/wic/skerry-ab.wks");
    let partitions = partitions(&text);
    for partition in partitions.iter().filter(|p| p.get("source") == Some("rootfs")) {
        assert!(partition.has("no-fstab-update"), "wic rewrites fstab of {:?}", partition.mount);
    }
    assert_eq!(partitions[3].mount, None, "the data partition is mounted by a unit");
    // What ext4 keeps for root, other daemons could take from the registry on a full disk.
    let made_with = partitions[3].get("mkfs-extraopts").unwrap_or_default();
    assert!(made_with.contains("-m 0"), "{made_with}");
    assert!(text.contains("fsck.repair=yes"), "nobody is near to answer fsck");
    let efi_system = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
    assert_eq!(partitions[0].get("part-type"), Some(efi_system), "firmware looks for this type");
    // systemd-repart takes the first partition of a type: the data partition has one of its own.
    let own = partitions[3].get("part-type").expect("a type of its own");
    assert!(read("yocto-layer/README.md").contains(&format!("`Type={own}`")), "{own}");
    assert!(partitions[1..3].iter().all(|root| root.get("part-type").is_none()));
    // The root is of the form PARTLABEL=root-a where there are labels of partitions: not in an MBR.
    assert!(text.lines().any(|line| line.starts_with("bootloader --ptable gpt ")), "{text}");
    let labels: Vec<&str> = partitions.iter().filter_map(|p| p.get("label")).collect();
    assert_eq!(labels, ["boot", "root-a", "root-b", "skerry-data"], "each is named, and once");
    assert_eq!(partitions[1].mount.as_deref(), Some("/"));
    let sizes: Vec<&str> = partitions.iter().filter_map(|p| p.get("fixed-size")).collect();
    for board in ["qemu-arm64", "qemu-x86_64"] {
        let profile: toml::Table = read(&format!("board/{board}/board.toml")).parse().unwrap();
        let size = |key: &str| format!("{}M", profile["image"][key].as_integer().unwrap());
        let (boot, root, data) = (size("boot_mib"), size("root_mib"), size("data_mib"));
        assert_eq!(sizes, [&boot, &root, &root, &data], "{board}");
        assert_eq!(profile["image"]["data_label"].as_str(), Some("skerry-data"), "{board}");
    }
}

#[test]
fn p050_only_the_configuration_knows_machines() {
    let conf = read(CONF);
    assert_eq!(bitbake(&conf)["PACKAGE_ARCH"], "${MACHINE_ARCH}");
    assert!(!conf.contains("DEPENDS"));
    let program = read(PROGRAM);
    for word in ["qemu", "MACHINE", "board/"] {
        assert!(!program.contains(word), "{word}");
    }
    for board in mapped_boards() {
        assert!(path(&format!("board/{board}/board.toml")).exists(), "{board}");
    }
}

#[test]
fn p051_other_layers_are_left_alone() {
    for file in files(LAYER) {
        let dynamic = file.starts_with("yocto-layer/dynamic-layers/");
        assert!(dynamic || !file.ends_with(".bbappend"), "{file}");
        let updater = ["rauc", "mender"].iter().any(|name| file.contains(name));
        assert!(dynamic || !updater, "{file}");
    }
}

#[test]
fn p052_the_linter_finds_no_error_and_no_warning() {
    let Some(linter) = tool("oelint-adv") else {
        return skip("oelint-adv is not there; tests/run installs it from PyPI");
    };
    let mut command = Command::new(linter);
    // Whether the home page answers is asked over the network.
    command.args(["--quiet", "--release=wrynose", "--suppress=oelint.vars.homepageping"]);
    let recipes = recipes().into_iter().filter(|file| file.ends_with(".bb"));
    command.args(recipes.map(|file| path(&file))).arg(path("yocto-layer/conf/layer.conf"));
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let known = |line: &&str| [":info:", ":warning:", ":error:"].iter().any(|l| line.contains(l));
    let (found, other): (Vec<_>, Vec<_>) = text.lines().partition(known);
    assert!(!found.is_empty() && other.is_empty(), "it did not run: {text}");
    let grave: Vec<_> = found.iter().filter(|line| !line.contains(":info:")).collect();
    assert!(grave.is_empty(), "{grave:#?}");
}

/// The configuration of a build that only parses this layer, on top of oe-core without its recipes.
fn build_of(home: &TempDir, core: &std::path::Path, extra: &str) {
    fs::create_dir(home.join("conf")).unwrap();
    let layers = format!(
        "BBPATH = \"${{TOPDIR}}\"\nBBFILES = \"\"\nBBLAYERS = \"{} {}\"\n",
        core.join("meta").display(),
        path(LAYER).display()
    );
    fs::write(home.join("conf/bblayers.conf"), layers).unwrap();
    let local = "MACHINE = \"qemux86-64\"\nDISTRO = \"nodistro\"\nBB_NO_NETWORK = \"1\"\n\
                 BBMASK = \"/meta/recipes-\"\nCONNECTIVITY_CHECK_URIS = \"\"\n";
    fs::write(home.join("conf/local.conf"), [local, extra].concat()).unwrap();
}

/// What bitbake prints with this configuration; `None`, loudly, where it cannot run.
fn bitbake_run(extra: &str, arguments: &[&str]) -> Option<String> {
    let sources = cache().join("oe");
    let (bitbake, core) = (sources.join("bitbake"), sources.join("openembedded-core"));
    if !bitbake.join("bin/bitbake").exists() || !core.join("meta/conf/layer.conf").exists() {
        skip("bitbake and openembedded-core are not there; tests/run --long asks for them");
        return None;
    }
    if let Some(program) = missing(&["unshare", "chrpath", "diffstat", "gawk", "cpio", "python3"]) {
        skip(&format!("bitbake needs {program}"));
        return None;
    }
    let home = TempDir::new();
    build_of(&home, &core, extra);
    // It refuses to work for root, who is somebody else in a namespace of users.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000", "python3"]);
    command.arg(bitbake.join("bin/bitbake")).args(arguments).current_dir(home.path());
    let scripts = core.join("scripts").display().to_string();
    let path = format!("{scripts}:{}/bin:/usr/bin:/bin", bitbake.display());
    command.env_clear().env("HOME", home.path()).env("PATH", path);
    let output = command.env("LC_ALL", "en_US.UTF-8").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if text.contains("locale 'en_US.UTF-8'") && !output.status.success() {
        skip("bitbake needs the locale en_US.UTF-8");
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(text)
}

/// bitbake itself, as it is and as the files for kas use it.
#[test]
fn p052_bitbake_parses_the_layer_without_a_network() {
    let kas = read("yocto-layer/kas/qemux86-64.yml");
    let (_, kas) = kas.split_once("skerry: |\n").unwrap();
    for extra in ["", kas] {
        let extra = extra.replace("\n    ", "\n").replacen("    ", "", 1);
        let Some(text) = bitbake_run(&extra, &["-p"]) else {
            return;
        };
        let parsed = text.contains("Parsing of 5 .bb files complete") && text.contains(" 0 errors");
        assert!(parsed && text.contains(" 0 skipped"), "{text}");
    }
}

/// The board of a machine is a default: a product names another one, or brings its own.
#[test]
fn p050_a_product_names_its_board() {
    let own = "SKERRY_BOARD = \"acme\"\n";
    let brought = "SKERRY_BOARD = \"acme\"\nSKERRY_BOARD_DIR = \"/layer/acme\"\n";
    for (extra, board, dir) in [
        ("", "qemu-x86_64", "/board/qemu-x86_64"),
        ("SKERRY_BOARD = \"\"\n", "", "/board/"),
        (own, "acme", "/board/acme"),
        (brought, "acme", "/layer/acme"),
    ] {
        // As a file: what it depends on is not asked for.
        let Some(text) = bitbake_run(extra, &["-e", "-b", path(CONF).to_str().unwrap()]) else {
            return;
        };
        let value = |name: &str| {
            let start = format!("{name}=\"");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("no {name}")).trim_end_matches('"').to_owned()
        };
        assert_eq!(value("SKERRY_BOARD"), board, "{extra}");
        assert!(value("SKERRY_BOARD_DIR").ends_with(dir), "{extra}");
    }
    for readme in ["yocto-layer/README.md", "board/README.md"] {
        assert!(read(readme).contains("SKERRY_BOARD_DIR"), "{readme}");
    }
}

#[test]
fn p058_builds_are_pinned() {
    let table = read("board/README.md");
    let kas: Vec<String> =
        files("yocto-layer/kas").into_iter().filter(|file| file.ends_with(".yml")).collect();
    assert!(!kas.is_empty());
    for file in kas {
        let text = read(&file);
        // kas takes a path as one below its working directory, which is outside of this checkout.
        assert!(!text.contains("\n    path:"), "{file}");
        let urls = text.matches("\n    url: https://").count();
        // A tag can be moved: kas stops where it is not at the commit.
        for pin in ["\n    tag: ", "\n    commit: "] {
            assert_eq!(text.matches(pin).count(), urls, "{file}");
        }
        assert!(!text.contains("\n    branch:") && !text.contains("refspec:"), "{file}");
        let machine = text.lines().find_map(|line| line.strip_prefix("machine: ")).unwrap();
        assert!(table.contains(&format!("| `{machine}` |")), "{machine} has no board");
    }
}

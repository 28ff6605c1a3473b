//! The Yocto layer, as far as reading it goes. `pNNN` is the number of a rule for appliances.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::repo::{bitbake, files, path, read};
use crate::support::skip;

const LAYER: &str = "yocto-layer";
const PROGRAM: &str = "yocto-layer/recipes-skerry/skerry/skerry_0.1.0.bb";
const CONF: &str = "yocto-layer/recipes-skerry/skerry/skerry-conf_0.1.0.bb";
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
         # 'bitbake -c update_crates skerry' writes the same set.\n\n\
         SRC_URI += \" \\\n{uris}\"\n\n{sums}"
    )
}

#[test]
#[allow(clippy::disallowed_methods, reason = "regenerates a file of the repository")]
fn p043_the_crates_are_those_of_the_lock_file() {
    let wanted = crates();
    if std::env::var_os("SKERRY_REGENERATE").is_some() {
        std::fs::write(path(CRATES), &wanted).unwrap();
    }
    assert!(wanted.matches("crate://").count() > 100);
    assert!(read(CRATES) == wanted, "{CRATES} is not up to date; its first lines say how");
}

#[test]
fn p044_version_and_licence_text_agree() {
    let version = env!("CARGO_PKG_VERSION");
    for recipe in [PROGRAM, CONF] {
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
    let uri = &source["SRC_URI"];
    for part in ["git://", "protocol=https", "branch=main", "tag=v${PV}"] {
        assert!(uri.contains(part), "{part}");
    }
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

#[test]
fn p046_nothing_is_fetched_while_building() {
    for recipe in recipes() {
        let text = read(&recipe);
        for word in ["[network]", "cargo install", "curl ", "wget "] {
            assert!(!text.contains(word), "{recipe}: {word}");
        }
    }
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
    let listed: BTreeSet<&str> = recipe["SYSTEMD_SERVICE:${PN}"].split(' ').collect();
    let units = files("systemd");
    let units: BTreeSet<&str> = units
        .iter()
        .filter(|file| file.ends_with(".service") || file.ends_with(".socket"))
        .filter_map(|file| file.rsplit('/').next())
        .collect();
    assert_eq!(listed, units);
    let preset = read("systemd/system-preset/50-skerry.preset");
    assert_eq!(recipe["SYSTEMD_AUTO_ENABLE:${PN}"], "enable");
    assert!(preset.contains("\nenable skerry.service\n"));
}

#[test]
fn p048_everything_installed_is_packaged() {
    let text = read(PROGRAM);
    let recipe = bitbake(&text);
    let packaged = &recipe["FILES:${PN}"];
    for part in [
        "/skerry.service ",
        "/skerry.socket",
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
    assert!(last.starts_with("part /var/lib/skerry ") && last.contains("--label data"), "{last}");
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
    for line in conf.lines().filter(|line| line.starts_with("SKERRY_BOARD:")) {
        let board = line.split('"').nth(1).unwrap();
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
fn p058_builds_are_pinned() {
    let table = read("board/README.md");
    let kas: Vec<String> =
        files("yocto-layer/kas").into_iter().filter(|file| file.ends_with(".yml")).collect();
    assert!(!kas.is_empty());
    for file in kas {
        let text = read(&file);
        let urls = text.matches("\n    url: https://").count();
        let pins = text.matches("\n    tag: ").count() + text.matches("\n    commit: ").count();
        assert_eq!(urls, pins, "{file}");
        assert!(!text.contains("\n    branch:") && !text.contains("refspec:"), "{file}");
        let machine = text.lines().find_map(|line| line.strip_prefix("machine: ")).unwrap();
        assert!(table.contains(&format!("| `{machine}` |")), "{machine} has no board");
    }
}

//! Board profiles. `pNNN` is the number of a rule for appliances.

use std::fs;
use std::process::Command;

use skerry::config::{BoardProfile, Loaded, MapSource, MemoryPlan, Options, load, read_board};
use skerry::types::limits::{CONNECTIONS_MAX, UPLOADS_MAX};

use crate::repo::{Unit, files, path, read};
use crate::support::clients::missing;
use crate::support::{TempDir, skip};

fn boards() -> Vec<String> {
    let mut boards: Vec<String> = files("board")
        .iter()
        .filter_map(|file| file.strip_prefix("board/")?.split_once('/').map(|(b, _)| b.to_owned()))
        .collect();
    boards.dedup();
    assert!(boards.len() >= 2);
    boards
}

fn profile(board: &str) -> BoardProfile {
    let name = format!("board/{board}/board.toml");
    read_board(&path(&name), &read(&name)).unwrap()
}

fn configured(board: &str) -> Loaded {
    let source = MapSource::default()
        .file("/board/x/../base.toml", &read("board/base.toml"))
        .file("/board/x/board.toml", &read(&format!("board/{board}/board.toml")));
    let board = Some("/board/x/board.toml".into());
    load(&Options { board, ..Options::default() }, &source).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn p025_every_board_is_whole() {
    for board in boards() {
        for file in ["board.toml", "readme.txt", "genimage.cfg", "dropin.conf"] {
            assert!(path(&format!("board/{board}/{file}")).exists(), "{board} has no {file}");
        }
        assert_eq!(profile(&board).board.id, board);
        assert!(read("board/README.md").contains(&format!("| `{board}` |")), "{board}");
    }
}

#[test]
fn p026_base_and_board_merge() {
    for board in boards() {
        assert_eq!(profile(&board).inherit.as_deref(), Some("base"));
        let config = configured(&board).config;
        let limits = &config.limits;
        let merged = format!(
            "threads {} reserve {} memory {} connections {} bodies {} uploads {} \
             blocking {} cache {}",
            config.listen.threads,
            config.storage.reserve,
            limits.memory.unwrap(),
            limits.connections,
            limits.body_memory,
            limits.uploads,
            limits.blocking_threads,
            limits.index_cache,
        );
        assert_eq!(
            merged,
            "threads 1 reserve 64MiB memory 96MiB connections 256 bodies 16MiB uploads 64 \
             blocking 8 cache 4MiB",
            "{board}"
        );
    }
}

#[test]
fn p027_limits_fit_the_memory_of_the_service() {
    for board in boards() {
        let config = configured(&board).config;
        let memory = config.limits.memory.unwrap().0;
        assert!(MemoryPlan::of(&config).total() <= memory, "{board}");
        let facts = profile(&board).board;
        assert!(memory <= u64::from(facts.ram_mib) << 19, "{board}: at most half of the board");
        let dropin = Unit::parse(&read(&format!("board/{board}/dropin.conf")));
        assert_eq!(dropin.get("Service.MemoryMax"), format!("{}M", memory >> 20), "{board}");
        // Below it the kernel would slow the program down at a load that its limits allow.
        let high: u64 = dropin.get("Service.MemoryHigh").trim_end_matches('M').parse().unwrap();
        assert!(MemoryPlan::of(&config).total() <= high << 20 && high << 20 < memory, "{board}");
    }
}

#[test]
fn p028_no_limit_is_zero_or_above_its_ceiling() {
    for board in boards() {
        let limits = configured(&board).config.limits;
        assert!((1..=CONNECTIONS_MAX).contains(&limits.connections), "{board}");
        assert!((1..=UPLOADS_MAX).contains(&limits.uploads), "{board}");
        assert!(limits.blocking_threads >= 1 && limits.index_cache.0 > 0, "{board}");
    }
}

#[test]
fn p031_partitions_are_those_of_the_profile() {
    for board in boards() {
        let BoardProfile { board: facts, image, .. } = profile(&board);
        let text = read(&format!("board/{board}/genimage.cfg"));
        let (table, _) = text.split_once("\nimage boot.vfat").unwrap();
        let parts: Vec<(&str, u32)> = table
            .split("partition ")
            .skip(1)
            .filter_map(|part| {
                let name = part.split_whitespace().next()?;
                let size = part.split("size = ").nth(1)?.split('M').next()?.parse().ok()?;
                Some((name, size))
            })
            .collect();
        let expected = [
            ("boot", image.boot_mib),
            ("root-a", image.root_mib),
            ("root-b", image.root_mib),
            ("data", image.data_mib),
        ];
        assert_eq!(parts, expected, "{board}");
        let sum: u32 = parts.iter().map(|(_, size)| size).sum();
        assert!(sum <= facts.storage_mib, "{board}");
        assert!(text.contains(&format!("label = \"{}\"", image.data_label)), "{board}");
        // genimage knows `empty` of an image only, and refuses it in what makes the file system.
        for kind in ["vfat", "ext4"] {
            let (_, rest) = text.split_once(&format!("\n\t{kind} {{\n")).unwrap();
            let (own, rest) = rest.split_once("\n\t}\n").unwrap();
            assert!(!own.contains("empty"), "{board}: {kind}");
            let (of_image, _) = rest.split_once("}\n").unwrap();
            assert!(of_image.contains("\tempty = true\n"), "{board}: {kind}");
        }
    }
}

/// Symptom: genimage refused the tables of partitions, `no such option 'empty'`.
#[test]
fn p031_genimage_makes_the_table_of_partitions() {
    if let Some(program) = missing(&["genimage", "mcopy", "mkdosfs", "mke2fs"]) {
        return skip(&format!("no {program}"));
    }
    for board in boards() {
        let BoardProfile { image, .. } = profile(&board);
        let work = TempDir::new();
        for folder in ["root", "input"] {
            fs::create_dir(work.join(folder)).unwrap();
        }
        fs::write(work.join("input/root.ext4"), [0; 4096]).unwrap();
        let table = path(&format!("board/{board}/genimage.cfg"));
        let mut command = Command::new("genimage");
        command.arg("--config").arg(table);
        for (option, folder) in
            [("root", "root"), ("input", "input"), ("tmp", "tmp"), ("output", "output")]
        {
            command.arg(format!("--{option}path")).arg(work.join(folder));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{board}: {output:?}");
        let made = fs::metadata(work.join("output").join(format!("skerry-{board}.img"))).unwrap();
        let mib = image.boot_mib + 2 * image.root_mib + image.data_mib;
        assert!(made.len() > u64::from(mib) * 1024 * 1024, "{board}");
    }
}

#[test]
fn p034_a_readme_says_what_hands_need() {
    for board in boards() {
        let text = read(&format!("board/{board}/readme.txt"));
        for head in ["How to flash", "Serial console", "First-boot provisioning", "Factory reset"] {
            assert!(text.contains(head), "{board}: {head}");
        }
        if let Some(emulator) = profile(&board).test {
            assert!(text.contains(&emulator.program), "{board}: the emulator's command");
            // The whole disk: a root file system alone has neither boot loader nor data partition.
            let disk = format!("skerry-image-{}.rootfs.wic", profile(&board).board.machine);
            assert!(text.contains(&disk) && !text.contains("-kernel"), "{board}: {disk}");
            // As the layer builds it: bitbake takes a build directory inside the checkout for
            // changed sources.
            let machine = profile(&board).board.machine;
            let build =
                format!("KAS_WORK_DIR=../skerry-build kas build yocto-layer/kas/{machine}.yml");
            assert!(text.contains(&format!("    mkdir ../skerry-build\n    {build}\n")), "{board}");
            assert_eq!(text.matches("kas build").count(), 1, "{board}");
            let place = format!("../skerry-build/build/tmp/deploy/images/{machine}\n");
            assert!(text.contains(&place), "{board}: {place}");
        }
    }
}

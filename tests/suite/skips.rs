//! A test that cannot run here is skipped loudly, by its name, and is never counted as passed.

use std::fs;
use std::process::{Command, Output};

use crate::repo::{files, path, read};
use crate::support::TempDir;

/// A test that needs a program, in a process of its own where no program can be found.
const SKIPPED: &str = "yocto::p044_version_and_licence_text_agree";

fn run_without_programs(threads: &str, skips: &std::path::Path) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", SKIPPED, "--test-threads", threads]);
    command.env("PATH", "").env("SKERRY_TEST_SKIPS", skips).output().unwrap()
}

#[test]
fn a_skipped_test_says_so_by_its_name_without_being_asked() {
    let home = TempDir::new();
    for threads in ["1", "4"] {
        let skips = home.join(threads);
        let output = run_without_programs(threads, &skips);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(&format!("SKIP {SKIPPED}: md5sum: ")), "{told}");
        let listed = fs::read_to_string(&skips).unwrap_or_default();
        assert!(listed.starts_with(&format!("{SKIPPED}\tmd5sum: ")), "{listed}");
    }
}

#[test]
fn a_skipped_test_is_not_counted_as_passed() {
    let home = TempDir::new();
    let skips = home.join("skips");
    let mut output = run_without_programs("4", &skips).stdout;
    // The rest of a run: another test passes, one fails, one is skipped twice, and a step is.
    output.extend_from_slice(
        b"test access::f091_f092_ours ... ok\ntest gc::f013_theirs ... FAILED\n\
          test matrix::f044_partly ... ok\ntest large::f001_long ... ignored, takes hours\n",
    );
    let more = "matrix::f044_partly\tno crane\nmatrix::f044_partly\tno oras\nformat\tno rustfmt\n";
    fs::write(home.join("output"), output).unwrap();
    fs::write(&skips, fs::read_to_string(&skips).unwrap() + more).unwrap();
    let mut count = Command::new(path("tests/count"));
    let printed = count.arg(home.join("output")).arg(&skips).output().unwrap();
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    let lines: Vec<&str> = printed.lines().collect();
    for line in [
        "F001  ignored  large::f001_long",
        "F013  failed   gc::f013_theirs",
        "F044  skipped  matrix::f044_partly",
        "F091  passed   access::f091_f092_ours",
        "F092  passed   access::f091_f092_ours",
        "P044  skipped  yocto::p044_version_and_licence_text_agree",
        "  format\tno rustfmt",
        "  matrix::f044_partly\tno oras",
    ] {
        assert!(lines.contains(&line), "{line}\n{printed}");
    }
    assert_eq!(lines.last(), Some(&"1 passed, 1 failed, 3 skipped"));
}

/// A skip of another kind would be counted as passed.
#[test]
fn tests_are_skipped_in_one_way() {
    let word = ["SKIP", " "].concat();
    for file in files("tests/suite").into_iter().chain(files("src")) {
        let told = file.ends_with(".rs") && read(&file).contains(&word);
        assert!(
            !told || ["support/skip.rs", "skips.rs"].iter().any(|own| file.ends_with(own)),
            "{file}"
        );
    }
}

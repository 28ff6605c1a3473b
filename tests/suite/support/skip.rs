//! Tests that cannot run on a machine: named, counted, and never a pass.

use std::io::Write;

/// Says loudly that the running test cannot run here, or not all of it. `tests/run` counts it, and
/// does not count it as passed. Its name is that of the thread that the test harness made for it.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().filter(|name| name.contains("::"));
    let test = test.expect("a test is skipped by its own thread, which has its name");
    // The harness shows what a passed test prints with a macro only when it is asked to.
    writeln!(std::io::stderr(), "SKIP {test}: {why}").expect("standard error");
    if let Some(path) = std::env::var_os("SKERRY_TEST_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let line = format!("{test}\t{why}\n");
        file.and_then(|mut f| f.write_all(line.as_bytes())).expect("the list of skips");
    }
}

//! The first thing that a new user runs.

use std::process::Command;

use crate::support::node::binary;

#[test]
fn demo_check_tells_each_step_and_succeeds() {
    let output = Command::new(binary()).args(["demo", "--check"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for step in ["pushed to the root", "synced to the device", "root cut off", "pulled again"] {
        assert!(text.contains(step), "{step}: {text}");
    }
}

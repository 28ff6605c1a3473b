//! The `skerry` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    skerry::cli::run(std::env::args_os())
}

//! Wires everything in one function.

use std::process::ExitCode;

use crate::config::Config;

/// What `skerry demo` was asked for.
#[derive(Clone, Copy, Default, Debug)]
pub struct DemoOptions {
    /// Stop after the tour, with 0 if every step succeeded.
    pub check: bool,
}

/// Runs a node until it is told to stop.
pub fn serve(_config: Config) -> ExitCode {
    todo!()
}

/// Runs a small tree on loopback ports and shows it.
pub fn demo(_options: DemoOptions) -> ExitCode {
    todo!()
}

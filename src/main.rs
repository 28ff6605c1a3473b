//! The `skerry` program.

fn main() {}

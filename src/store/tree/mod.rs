//! Who may do what, and the tree of connected registries.

pub mod connected_registries;
pub mod creation;
pub mod passwords;
pub mod scope_maps;
pub mod tokens;

mod cascade;
mod command;

pub use cascade::AlsoChanged;

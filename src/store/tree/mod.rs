//! Who may do what, and the tree of connected registries.

pub mod connected_registries;
pub mod passwords;
pub mod scope_maps;
pub mod tokens;

pub(super) mod cascade;
pub(super) mod creation;

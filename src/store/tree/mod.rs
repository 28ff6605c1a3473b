//! Who may do what, and the tree of connected registries.

pub mod connected_registries;
pub mod creation;
pub mod deeds;
pub mod passwords;
pub mod scope_maps;
pub mod tokens;
pub mod told;

mod cascade;
mod command;
mod granted;
mod sizes;
mod withdrawal;

pub use cascade::{AlsoChanged, WithoutWrite};
pub use withdrawal::{Others, Turns};

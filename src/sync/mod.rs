//! Drives a connected registry to the state that its parent grants.
//!
//! [`plan`], [`window`] and `contact` decide and are pure; the rest carries out. The full
//! comparison with the parent is the primary path; messages only make it fast. Every step can be
//! stopped at any point, by the end of a window, a lost connection or a power cut, and taken up
//! again.

pub mod backoff;
pub mod engine;
pub mod error;
pub mod plan;
pub mod window;

mod closure;
mod comparison;
mod contact;
mod debts;
mod deleted;
mod desired;
mod fetch;
mod heal;
mod lacking;
mod offers;
mod push;
mod refusal;
mod repay;
mod report;
mod room;
mod soon;
mod state;
mod strikes;
mod tags;
mod turns;
mod upload;
mod worker;

pub use engine::{ActivationError, Engine, EngineOptions};
pub use error::SyncError;
pub use report::status_details;
pub use state::publish_stored;

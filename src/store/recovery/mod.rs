//! What a start makes of journal, checkpoints and index.

pub mod apply;
pub mod epoch;
pub mod found;
pub mod loss;
pub mod recover;

pub(super) mod rebuild;
pub(super) mod salvage;

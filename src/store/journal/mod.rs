//! The promise: records that are durable before anything is acknowledged.

pub mod checkpoint;
pub mod frame;
pub mod layout;
pub mod segment;
pub mod txn;

pub(super) mod ballast;
pub(super) mod counts;
pub(super) mod reached;
pub(super) mod unmade;

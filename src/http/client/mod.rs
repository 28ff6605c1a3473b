//! The client side: requests to peers over connections that are kept.

pub(super) mod fetch;
pub(super) mod heads;
pub(super) mod message;
pub(super) mod pool;
pub(super) mod requests;
pub(super) mod trust;
pub(super) mod url;

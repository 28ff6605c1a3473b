//! What a request and a reply are.

pub(super) mod budget;
pub(super) mod percent;
pub(super) mod reply;
pub(super) mod request;

//! What a request and a reply are.

pub(super) mod body;
pub(super) mod budget;
pub(super) mod percent;
pub(super) mod refusal;
pub(super) mod reply;
pub(super) mod request;
pub(super) mod sender;

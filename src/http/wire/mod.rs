//! Messages as bytes: what carries them, where they begin and end, and what a head says.

pub(super) mod certificates;
pub(super) mod codec;
pub(super) mod field;
pub(super) mod file;
pub(super) mod framing;
pub(super) mod head;
pub(super) mod objections;
#[cfg(any(test, fuzzing))]
pub(super) mod script;
pub(super) mod target;
pub(super) mod transport;

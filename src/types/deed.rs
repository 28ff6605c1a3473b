//! Who changed what: entries of the audit.

use super::UnixSeconds;

/// A change of what the root manages, as its audit tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deed {
    /// When, by this node's clock.
    pub at: UnixSeconds,
    /// Who: see [`crate::sys::net::Peer`] for callers of the admin socket.
    pub actor: String,
    /// The verb, such as `token create`.
    pub action: String,
    /// The name of what it was done to; empty where a verb has none.
    pub subject: String,
}

//! What a node knows as the replica of its parent, and as the parent of its children.

pub mod feed;
pub mod gone;
pub mod heard;
pub mod inbox;
pub mod node;
pub mod offers;
pub mod outbox;
pub mod own;
pub mod pushes;
pub mod refused;
pub mod renewal;
pub mod starts;
pub mod unsent;
pub mod unwritten;

pub(super) mod along;
pub(super) mod delivered;
pub(super) mod forgotten;
pub(super) mod under_way;
pub(super) mod waiting;

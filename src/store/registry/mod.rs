//! What names content: repositories, manifests, tags, referrers and links.

pub mod conflicts;
pub mod lacking;
pub mod links;
pub mod listings;
pub mod manifests;
pub mod referrers;
pub mod removal;
pub mod repositories;
pub mod tags;

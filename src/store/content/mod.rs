//! The bytes: uploads that become content, what is read, verified, quarantined and removed.

pub mod blobs;
pub mod damage;
pub mod leases;
pub mod proof;
pub mod scrub;
pub mod trust;
pub mod uploads;

mod pieces;
mod slots;
pub mod space;

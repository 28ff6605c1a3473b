//! The bytes: uploads that become content, what is read, verified, quarantined and removed.

pub mod admission;
pub mod arrival;
pub mod blobs;
pub mod damage;
pub mod leases;
pub mod opened;
pub mod proof;
pub mod removal;
pub mod scrub;
pub mod trust;
pub mod unreadable;
pub mod uploads;

mod hashing;
mod hashings;
mod left;
mod pieces;
mod session;
mod slots;
pub mod space;
mod touched;
mod upload;

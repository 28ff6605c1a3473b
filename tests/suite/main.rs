//! One integration binary: every test drives the built program, over HTTP, the gateway or the
//! command line. A test that covers a promise carries its number in its name.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests stop at the first surprise and stand outside the seams"
)]

mod support;

mod access;
mod appliance;
mod backup;
mod bad_input;
mod board;
mod bodies;
mod bounds;
mod clients;
mod conformance;
mod cures;
mod damage;
mod data_partition;
mod debts;
mod delivery;
mod demo;
mod digests;
mod external;
mod full;
mod gc;
mod hostile;
mod kills;
mod large;
mod listings;
mod logins;
mod matrix;
mod mirror;
mod names;
mod notified;
mod oci;
mod owner;
mod power;
mod quota;
mod random_damage;
mod refusals;
mod repo;
mod resume;
mod role;
mod schedule;
mod scrub;
mod skips;
mod state;
mod sync;
mod tidy;
mod told;
mod topology;
mod tour;
mod unsent;
mod yocto;

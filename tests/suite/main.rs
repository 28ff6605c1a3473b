//! Tests of the whole product.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, reason = "the modules of one test program")]

mod appliance;
mod board;
mod repo;
mod tidy;
mod yocto;

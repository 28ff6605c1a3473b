//! What the limits amount to in memory, so that a board cannot promise more than it has.

use super::model::{Config, Limits};
use crate::types::limits::{
    ADMIN_BODY_MEMORY_BYTES, ADMIN_CONNECTIONS_MAX, BUFFER_BYTES, HEAD_BYTES_MAX,
};

/// Program, allocator and index at rest, bytes: measured on a node with 10,000 manifests, which
/// have more than [`ROWS_MIN`] rows.
pub const FIXED_BYTES: u64 = 16 * 1024 * 1024;
/// Task, TLS session and its record buffers of one connection, bytes.
const SESSION_BYTES: u64 = 48 * 1024;
/// One connection at its worst, bytes: its head, one body buffer and its session.
pub const PER_CONNECTION_BYTES: u64 = (HEAD_BYTES_MAX + BUFFER_BYTES) as u64 + SESSION_BYTES;
/// The part of a thread's stack that is ever touched, and its allocator arena, bytes.
pub const PER_THREAD_BYTES: u64 = 256 * 1024;
/// What the index keeps in memory for each of its rows, bytes: sled's table of its pages, measured.
const ROW_BYTES: u64 = 64;
/// Rows for which there is room in any case.
const ROWS_MIN: u64 = 64 * 1024;
/// Threads beside executor and blocking pool: main, reactor, writer and the index's own.
const OTHER_THREADS: u64 = 12;

/// Memory by use, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// At rest.
    pub fixed: u64,
    /// Cache of the index.
    pub cache: u64,
    /// All connections at their worst.
    pub connections: u64,
    /// Bodies of requests, and replies of more than one buffer.
    pub bodies: u64,
    /// All threads.
    pub threads: u64,
}

impl MemoryPlan {
    /// What this configuration may need.
    pub fn of(config: &Config) -> MemoryPlan {
        let Limits { connections, body_memory, blocking_threads, index_cache, .. } = config.limits;
        let threads = (config.listen.threads as u64)
            .saturating_add(blocking_threads as u64)
            .saturating_add(OTHER_THREADS);
        MemoryPlan {
            fixed: FIXED_BYTES,
            cache: index_cache.0,
            connections: (connections.saturating_add(ADMIN_CONNECTIONS_MAX) as u64)
                .saturating_mul(PER_CONNECTION_BYTES),
            bodies: body_memory.0.saturating_add(ADMIN_BODY_MEMORY_BYTES),
            threads: threads.saturating_mul(PER_THREAD_BYTES),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [self.fixed, self.cache, self.connections, self.bodies, self.threads];
        parts.iter().fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// With how many rows the index takes no more content. `allowed`: what the system lets the
    /// process have where the configuration does not say, bytes.
    pub fn index_rows(config: &Config, allowed: Option<u64>) -> u64 {
        let Some(memory) = config.limits.memory.map(|memory| memory.0).or(allowed) else {
            return u64::MAX;
        };
        ROWS_MIN + memory.saturating_sub(MemoryPlan::of(config).total()) / ROW_BYTES
    }

    /// Threads of the process under this configuration.
    pub fn threads(config: &Config) -> u64 {
        MemoryPlan::of(config).threads / PER_THREAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::ByteSize;

    #[test]
    fn f209_the_rows_of_the_index_have_what_the_limits_leave() {
        const MIB: u64 = 1 << 20;
        let mut config = Config::default();
        let total = MemoryPlan::of(&config).total();
        assert_eq!(MemoryPlan::index_rows(&config, None), u64::MAX);
        assert_eq!(MemoryPlan::index_rows(&config, Some(total + MIB)), ROWS_MIN + MIB / ROW_BYTES);
        assert_eq!(MemoryPlan::index_rows(&config, Some(0)), ROWS_MIN);
        config.limits.memory = Some(ByteSize(total));
        assert_eq!(MemoryPlan::index_rows(&config, Some(total + MIB)), ROWS_MIN);
    }
}

//! Counters that live in memory: a pull writes nothing to disk.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count since the start of the process.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The largest of some numbers.
#[derive(Default, Debug)]
pub struct Peak(AtomicU64);

impl Peak {
    /// Notes one of them.
    pub fn note(&self, n: u64) {
        // Mostly there is nothing to write, which threads share without a fight.
        if n > self.get() {
            self.0.fetch_max(n, Ordering::Relaxed);
        }
    }

    /// The largest since the start of the process.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Forgets them.
    #[cfg(test)]
    pub(crate) fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Every counter of the process; `admin` prints them.
#[derive(Default, Debug)]
pub struct Metrics {
    /// Requests answered, of any kind.
    pub requests: Counter,
    /// Requests answered with 4xx.
    pub requests_refused: Counter,
    /// Requests answered with 5xx.
    pub requests_failed: Counter,
    /// Handlers that panicked: defects.
    pub panics: Counter,
    /// Body bytes sent.
    pub bytes_sent: Counter,
    /// Body bytes received.
    pub bytes_received: Counter,
    /// Journal groups made durable.
    pub journal_groups: Counter,
    /// Journal bytes written.
    pub journal_bytes: Counter,
    /// Checkpoint bytes written.
    pub checkpoint_bytes: Counter,
    /// Content bytes written: blobs and manifests.
    pub blob_bytes: Counter,
    /// Content found damaged or missing.
    pub blobs_damaged: Counter,
    /// Damaged content that came again.
    pub blobs_healed: Counter,
    /// Content bytes hashed by scrubs.
    pub scrub_bytes: Counter,
    /// Times that the index was given up and built again.
    pub index_rebuilds: Counter,
    /// What was seen as garbage and is needed all the same: a defect.
    pub gc_disagreements: Counter,
    /// Bytes fetched from the parent: content.
    pub sync_bytes_fetched: Counter,
    /// Requests sent to the parent.
    pub sync_requests: Counter,
    /// Rows that one command of the store read and changed.
    pub command_rows: Peak,
}

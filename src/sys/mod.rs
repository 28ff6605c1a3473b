//! Every contact with the operating system: time, files, sockets, randomness, tasks, signals.
//!
//! Each is a small trait with one real implementation, so that a test can put its own in place;
//! clippy forbids the direct ways round them elsewhere.

pub mod activation;
pub mod cgroup;
pub mod clock;
pub mod credentials;
pub mod disk;
pub mod log;
pub mod memory_disk;
pub mod metrics;
pub mod net;
pub mod notify;
pub mod outcome;
pub mod owner;
pub mod rng;
pub mod signals;
pub mod spawn;
pub mod turn;

use std::sync::Arc;

pub use clock::{Clock, SystemClock};
pub use disk::{Disk, SystemDisk, mode, volatile_kind};
pub use memory_disk::MemoryDisk;
pub use metrics::Metrics;
pub use rng::{Rng, SystemRng};
pub use spawn::Spawner;

/// The seams, bundled; cheap to clone.
#[derive(Clone)]
pub struct Sys {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Random bytes.
    pub rng: Arc<dyn Rng>,
    /// Tasks and blocking work.
    pub spawner: Spawner,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Sys {
    /// The real thing.
    pub fn real(spawner: Spawner) -> Sys {
        Sys {
            clock: Arc::new(SystemClock::new()),
            disk: Arc::new(SystemDisk),
            rng: Arc::new(SystemRng::new()),
            spawner,
            metrics: Arc::new(Metrics::default()),
        }
    }
}

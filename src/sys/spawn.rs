//! Tasks on the executor, and the bounded pool for work that blocks.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use smol::lock::Semaphore;
use smol::{Executor, Task};

use super::metrics::Peak;
use super::outcome::Outcome;
use super::turn;
use crate::types::limits::BLOCKING_THREADS;

/// Spawns tasks; a clone spawns on the same executor.
#[derive(Clone)]
pub struct Spawner {
    executor: Arc<Executor<'static>>,
    turns: Arc<Turns>,
}

/// The longest turns of tasks.
#[derive(Default)]
struct Turns {
    rows: Peak,
    cpu_us: Peak,
}

impl Spawner {
    /// A new executor.
    pub fn new() -> Spawner {
        Spawner { executor: Arc::new(Executor::new()), turns: Arc::default() }
    }

    /// Runs `future` as a task until it ends or the handle is dropped.
    #[must_use = "dropping the handle cancels the task"]
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let turns = self.turns.clone();
        self.executor.spawn(turn::watched(Box::pin(future), move |work, ran| {
            turns.rows.note(work.rows);
            turns.cpu_us.note(u64::try_from(ran.as_micros()).unwrap_or(u64::MAX));
        }))
    }

    /// The most rows of the store that a task has read in one turn.
    pub fn turn_rows(&self) -> u64 {
        self.turns.rows.get()
    }

    /// The most processor time that a task has needed in one turn, microseconds, to a millisecond:
    /// so long the other tasks of its thread had to wait.
    pub fn turn_cpu_us(&self) -> u64 {
        self.turns.cpu_us.get()
    }

    /// Drives the executor on this thread, and on `threads - 1` more, until `main` ends.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn run<T>(&self, threads: usize, main: impl Future<Output = T>) -> T {
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        std::thread::scope(|scope| {
            for number in 1..threads {
                let (executor, stopped) = (self.executor.clone(), stopped.clone());
                let name = format!("skerry-{number}");
                let started =
                    std::thread::Builder::new().name(name).spawn_scoped(scope, move || {
                        let _ = smol::block_on(executor.run(stopped.recv()));
                    });
                if let Err(error) = started {
                    log::warn!("cannot start executor thread {number}: {error}");
                }
            }
            let result = smol::block_on(self.executor.run(main));
            drop(stop);
            result
        })
    }

    /// Runs a dedicated thread, for the one writer.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn thread(
        &self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new().name(name.to_owned()).spawn(body)
    }
}

impl Default for Spawner {
    fn default() -> Self {
        Spawner::new()
    }
}

/// Jobs of the pool at once; more wait their turn.
static BLOCKING_PERMITS: OnceLock<Semaphore> = OnceLock::new();

/// Bounds the pool for work that blocks; without this call the bound is
/// [`BLOCKING_THREADS`]. Only the first call counts.
pub fn limit_blocking_threads(threads: usize) {
    let _ = BLOCKING_PERMITS.set(Semaphore::new(threads));
}

/// Runs work that blocks in the bounded pool.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let outcome = Outcome::new();
    let left = outcome.clone();
    in_pool(Box::new(move || left.leave(work()))).await;
    outcome.take().unwrap_or_else(|| unreachable!("a job that panicked does not end"))
}

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
async fn in_pool(work: Box<dyn FnOnce() + Send>) {
    let permits = BLOCKING_PERMITS.get_or_init(|| Semaphore::new(BLOCKING_THREADS));
    let _permit = permits.acquire().await;
    let ((), _read) = smol::unblock(move || turn::apart(work)).await;
    #[cfg(test)]
    turn::testing::note_job(_read);
}

/// Starts work that blocks in the pool at once, whether or not the handle is awaited. Dropping
/// the handle cancels work that has not begun; detach it to let it run.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
#[must_use = "dropping the handle cancels the work"]
pub fn blocking_task<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    smol::unblock(work)
}

/// Lets other tasks run.
pub async fn yield_now() {
    smol::future::yield_now().await;
}

//! Tasks on the executor, and the bounded pool for work that blocks.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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

    /// Runs a dedicated thread: the writer, a checkpoint.
    pub fn thread(
        &self,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        thread(name, body)
    }
}

/// Starts a thread.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

impl Default for Spawner {
    fn default() -> Self {
        Spawner::new()
    }
}

/// The pool for work that blocks. A job has its place in it until it ends, whoever waits for it or
/// does not; those that found no place begin in the order in which they came.
///
/// A job must not wait for another one: those that hold all places could wait for each other.
struct Pool {
    jobs: Executor<'static>,
    threads: usize,
    load: Mutex<Load>,
}

#[derive(Default)]
struct Load {
    /// Threads that run jobs.
    running: usize,
    /// Jobs that no thread has taken, also those that were cancelled before they began.
    waiting: usize,
}

/// Which threads do work that blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Threads {
    /// Those for all other work.
    Common,
    /// Those that write what comes of uploads, three of eight: a card that stalls their writes
    /// keeps few pulls waiting.
    Uploads,
}

static COMMON: OnceLock<Pool> = OnceLock::new();
static UPLOADS: OnceLock<Pool> = OnceLock::new();

/// Bounds the threads for work that blocks, at least one of each kind; without this call the bound
/// is [`BLOCKING_THREADS`]. Only the first call counts.
pub fn limit_blocking_threads(threads: usize) {
    let _ = COMMON.set(Pool::new(Threads::Common.share(threads)));
    let _ = UPLOADS.set(Pool::new(Threads::Uploads.share(threads)));
}

impl Threads {
    /// How many of all threads are of this kind.
    fn share(self, threads: usize) -> usize {
        let uploads = (threads * 3 / 8).max(1);
        match self {
            Threads::Common => threads.saturating_sub(uploads).max(1),
            Threads::Uploads => uploads,
        }
    }

    fn pool(self) -> &'static Pool {
        let pool = match self {
            Threads::Common => &COMMON,
            Threads::Uploads => &UPLOADS,
        };
        pool.get_or_init(|| Pool::new(self.share(BLOCKING_THREADS)))
    }
}

impl Pool {
    fn new(threads: usize) -> Pool {
        Pool { jobs: Executor::new(), threads, load: Mutex::default() }
    }

    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn start<T: Send + 'static>(
        &'static self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Task<T> {
        let job = self.jobs.spawn(async move { work() });
        if self.needs_thread() {
            let run = || {
                while self.takes_job() {
                    // A panic reaches whoever waits for the job; this thread takes the next one.
                    let _ = catch_unwind(AssertUnwindSafe(|| self.jobs.try_tick()));
                }
            };
            smol::unblock(run).detach();
        }
        job
    }

    /// A job came; whether one more thread is to run jobs.
    fn needs_thread(&self) -> bool {
        let mut load = self.load();
        load.waiting += 1;
        let is_free = load.running < self.threads;
        load.running += usize::from(is_free);
        is_free
    }

    /// Whether a thread has a job to run; without one it ends.
    fn takes_job(&self) -> bool {
        let mut load = self.load();
        let takes = load.waiting > 0;
        match takes {
            true => load.waiting -= 1,
            false => load.running -= 1,
        }
        takes
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs work that blocks in the common pool. Dropping the future cancels work that has not begun.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    blocking_in(Threads::Common, work).await
}

/// The same on these threads.
pub async fn blocking_in<T: Send + 'static>(
    threads: Threads,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let outcome = Outcome::new();
    let left = outcome.clone();
    in_pool(threads, Box::new(move || left.leave(work()))).await;
    outcome.take().unwrap_or_else(|| unreachable!("a job that panicked does not end"))
}

async fn in_pool(threads: Threads, work: Box<dyn FnOnce() + Send>) {
    let ((), _read) = blocking_task(threads, move || turn::apart(work)).await;
    #[cfg(test)]
    turn::testing::note_job(_read);
}

/// Starts work that blocks as soon as one of these threads is free, whether or not the handle is
/// awaited. Dropping the handle cancels work that has not begun; detach it to let it run.
#[must_use = "dropping the handle cancels the work"]
pub fn blocking_task<T: Send + 'static>(
    threads: Threads,
    work: impl FnOnce() -> T + Send + 'static,
) -> Task<T> {
    threads.pool().start(work)
}

/// Lets other tasks run.
pub async fn yield_now() {
    smol::future::yield_now().await;
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use smol::future::FutureExt;

    use super::*;

    /// Else the pool would be a place smaller after each.
    #[test]
    fn f209_a_job_that_panics_leaves_its_place() {
        smol::block_on(async {
            for _ in 0..2 * BLOCKING_THREADS {
                let job =
                    AssertUnwindSafe(blocking_task(Threads::Uploads, || panic!("on purpose")));
                assert!(job.catch_unwind().await.is_err());
            }
            assert_eq!(blocking_task(Threads::Uploads, || 7).await, 7);
        });
    }

    /// A request that ended gave its place in the pool to the next one, and its job went on.
    #[test]
    fn f211_a_job_that_nobody_waits_for_any_more_counts_until_it_ends() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (open, gate) = smol::channel::bounded::<()>(1);
        smol::block_on(async {
            for _ in 0..5 * BLOCKING_THREADS {
                let (running, most, gate) = (running.clone(), most.clone(), gate.clone());
                let work = move || {
                    most.fetch_max(1 + running.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                    let _ = gate.recv_blocking();
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                let mut job = pin!(blocking(work));
                let _ = smol::future::poll_once(&mut job).await;
                (0..1000).for_each(|_| std::thread::yield_now());
            }
            drop(open);
            blocking(|| ()).await;
        });
        assert!((1..=BLOCKING_THREADS).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }
}

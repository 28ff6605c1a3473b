//! Rows and bytes that a thread reads of the store, and the processor time that it needs, before it
//! lets others go on.
//!
//! They are counted always, in cells of the thread: it costs a few instructions for each row and a
//! look at a clock for each turn. Tests look at the same code that devices run, and a device tells
//! of a loop that no test knew.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::ops::AddAssign;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How much was read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Work {
    /// Rows read, found or not.
    pub rows: u64,
    /// Bytes of the rows and of their keys.
    pub bytes: u64,
}

impl Work {
    /// The larger number of rows and the larger number of bytes.
    #[must_use]
    pub fn max(self, other: Work) -> Work {
        Work { rows: self.rows.max(other.rows), bytes: self.bytes.max(other.bytes) }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// Turns that are shorter than this together are not told apart: a look at the clock of a thread
/// costs a hundredth of a small request.
const GRAIN: Duration = Duration::from_millis(1);

thread_local! {
    /// What this thread has read since its turn began.
    static DONE: Cell<Work> = const { Cell::new(Work { rows: 0, bytes: 0 }) };
    /// When the processor time of this thread was last looked at, and what it was.
    static RAN: Cell<Option<(Duration, Duration)>> = const { Cell::new(None) };
}

/// Counts rows that this thread has read.
pub fn note(rows: usize, bytes: usize) {
    let mut done = DONE.get();
    done += Work { rows: rows as u64, bytes: bytes as u64 };
    DONE.set(done);
}

/// Runs a stretch of work by itself: what it reads is returned, and does not count as read by what
/// is around it.
pub fn apart<T>(run: impl FnOnce() -> T) -> (T, Work) {
    let around = DONE.take();
    let value = run();
    (value, DONE.replace(around))
}

fn read(clock: ClockId) -> Duration {
    // Neither clock is ever below zero.
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// The processor time that this thread needed for the turn that ends now, and for what it did in
/// [`GRAIN`] before that; zero when it was less.
fn ran() -> Duration {
    let now = read(ClockId::Monotonic);
    let last = RAN.get();
    if last.is_some_and(|(looked, _)| now.saturating_sub(looked) < GRAIN) {
        return Duration::ZERO;
    }
    let ran = read(ClockId::ThreadCPUTime);
    RAN.set(Some((now, ran)));
    last.map_or(Duration::ZERO, |(_, before)| ran.saturating_sub(before))
}

/// A task each of whose turns, from when the executor takes it up until it waits or yields, is
/// given to `each`, with the processor time that it needed.
pub fn watched<T: 'static>(
    mut future: Pin<Box<dyn Future<Output = T> + Send>>,
    each: impl Fn(Work, Duration) + Send + 'static,
) -> impl Future<Output = T> + Send + 'static {
    poll_fn(move |context: &mut Context<'_>| -> Poll<T> {
        let (poll, work) = apart(|| future.as_mut().poll(context));
        each(work, ran());
        poll
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use std::pin::pin;

    use super::*;

    thread_local! {
        static JOB: Cell<Work> = const { Cell::new(Work { rows: 0, bytes: 0 }) };
    }

    /// Notes what a job on the blocking pool has read that this thread waited for.
    pub(crate) fn note_job(work: Work) {
        JOB.set(JOB.get().max(work));
    }

    /// The most that was read in one turn, and in one job on the blocking pool.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub(crate) struct Longest {
        pub(crate) turn: Work,
        pub(crate) job: Work,
    }

    /// Waits for a future on this thread, and measures it.
    pub(crate) async fn measure<T>(future: impl Future<Output = T>) -> (T, Longest) {
        let (mut future, mut turn) = (pin!(future), Work::default());
        JOB.take();
        let value = poll_fn(|context| {
            let (poll, work) = apart(|| future.as_mut().poll(context));
            turn = turn.max(work);
            poll
        });
        let value = value.await;
        (value, Longest { turn, job: JOB.take() })
    }

    #[test]
    fn f209_a_device_tells_the_longest_time_that_a_task_kept_the_others_waiting() {
        let longest = |busy: Duration| {
            let spawner = crate::sys::Spawner::new();
            let task = spawner.spawn(async move {
                crate::sys::spawn::yield_now().await;
                let until = read(ClockId::ThreadCPUTime) + busy;
                while read(ClockId::ThreadCPUTime) < until {}
                crate::sys::clock::sleep(4 * GRAIN).await;
            });
            spawner.run(1, task);
            spawner.turn_cpu_us()
        };
        let busy = 30 * GRAIN;
        assert!(longest(Duration::ZERO) < longest(busy));
        assert!(u128::from(longest(busy)) >= busy.as_micros());
    }

    #[test]
    fn f209_a_turn_ends_where_others_go_on() {
        let read = async {
            note(3, 30);
            crate::sys::spawn::yield_now().await;
            note(2, 100);
            let (_, apart) = apart(|| note(50, 5000));
            note(2, 0);
            // It may be done before it is waited for: what follows can be of the same turn.
            crate::sys::spawn::blocking(|| note(40, 1)).await;
            apart
        };
        let (apart, longest) = smol::block_on(measure(read));
        assert_eq!(apart, Work { rows: 50, bytes: 5000 });
        assert_eq!(longest.turn, Work { rows: 4, bytes: 100 });
        assert_eq!(longest.job, Work { rows: 40, bytes: 1 });
        assert_eq!(DONE.get(), Work::default());
    }
}

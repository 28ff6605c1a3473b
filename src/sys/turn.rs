//! Rows and bytes that a thread reads of the store before it lets others go on.
//!
//! They are counted always, in two cells of the thread: it costs a few instructions for each row,
//! tests look at the same code that devices run, and a device tells of a loop that no test knew.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::ops::AddAssign;
use std::pin::Pin;
use std::task::{Context, Poll};

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

thread_local! {
    /// What this thread has read since its turn began.
    static DONE: Cell<Work> = const { Cell::new(Work { rows: 0, bytes: 0 }) };
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

/// A task each of whose turns, from when the executor takes it up until it waits or yields, is
/// given to `each`.
pub fn watched<F: Future + Send + 'static>(
    future: F,
    each: impl Fn(Work) + Send + 'static,
) -> impl Future<Output = F::Output> + Send + 'static {
    // The task has the future in one place, which a future around a future would not.
    let mut future: Pin<Box<F>> = Box::pin(future);
    poll_fn(move |context: &mut Context<'_>| -> Poll<F::Output> {
        let (poll, work) = apart(|| future.as_mut().poll(context));
        each(work);
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

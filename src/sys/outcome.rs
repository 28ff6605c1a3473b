//! What a job leaves for whoever waits until it has ended.
//!
//! Jobs of every kind of value are one type to the threads that run them: those are compiled once,
//! and not once for each job, which were a tenth of the program.

use std::sync::{Arc, Mutex, PoisonError};

/// A job's value; a clone is of the same job.
pub struct Outcome<T>(Arc<Mutex<Option<T>>>);

impl<T> Outcome<T> {
    /// Of a job that has not ended.
    pub fn new() -> Outcome<T> {
        Outcome(Arc::default())
    }

    /// Leaves the value.
    pub fn leave(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    /// The value; `None` when the job has not left one, or somebody has taken it.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Default for Outcome<T> {
    fn default() -> Self {
        Outcome::new()
    }
}

impl<T> Clone for Outcome<T> {
    fn clone(&self) -> Self {
        Outcome(self.0.clone())
    }
}

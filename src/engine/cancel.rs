//! How a run is stopped from outside and from inside: a token that anyone may pull, and a slot that keeps the first cause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Error;

/// Asks a running operation to stop; clones share one state. Cancelling is final and may be done from a signal handler's
/// thread, another thread, or an [`Observer`](crate::Observer).
#[derive(Debug, Clone, Default)]
pub struct CancelToken {
    cancelled: Arc<AtomicBool>,
}

impl CancelToken {
    /// A token that nobody has pulled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every operation that holds this token to stop; it then ends with [`Error::Interrupted`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether somebody has asked for an end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// The end of one run, shared by its threads: the first error wins, whatever comes later is a consequence.
///
/// Waiting places of the engine (permits, entry slots, lock polls) wait on this value, so that a stop wakes them all.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    stopped: AtomicBool,
    cause: Mutex<Option<Error>>,
    wake: Condvar,
}

impl Stop {
    /// Ends the run for this reason, unless it is ending for another one already.
    pub(crate) fn fail(&self, error: Error) {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.stopped.swap(true, Ordering::AcqRel) {
            *cause = Some(error);
        }
        self.wake.notify_all();
    }

    /// Whether the run is to end; checked by every worker between two items.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The first cause, once all threads are joined.
    pub(crate) fn take_cause(&self) -> Option<Error> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sleeps for `time`, or until the run is stopped; says whether it is.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            cause = self.wake.wait_timeout(cause, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_is_kept() {
        let stop = Stop::default();
        stop.fail(Error::Interrupted);
        stop.fail(Error::Usage("later".into()));
        assert!(stop.is_stopped());
        assert!(matches!(stop.take_cause(), Some(Error::Interrupted)));
    }

    #[test]
    fn a_stop_wakes_a_sleeper() {
        let stop = Stop::default();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| stop.sleep(Duration::from_secs(60)));
            stop.fail(Error::Interrupted);
            assert!(sleeper.join().expect("the sleeper does not panic"));
        });
    }
}

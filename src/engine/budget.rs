//! The one bound on the memory of data on its way: a budget of bytes, given out as permits.
//!
//! It cannot hang: permits are taken in one place only, by the planner, before a chunk enters the pipeline, and whole, so
//! nobody waits for a permit while holding another. What holds one is on its way to a stage that gives it back without
//! needing anything from the planner. A stop wakes the waiting planner.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::cancel::Stop;

/// How often a waiting planner looks whether the run is to end.
const STOP_POLL: Duration = Duration::from_millis(20);

/// A number of units that may be in use at once: bytes of buffers, or entries in flight.
#[derive(Debug)]
pub(crate) struct Budget {
    total: u64,
    used: Mutex<u64>,
    given_back: Condvar,
}

impl Budget {
    /// A budget of so many units.
    pub(crate) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, used: Mutex::new(0), given_back: Condvar::new() })
    }

    /// Takes `units` when so many are free, and says how long that took; `None` if the run ended meanwhile. More than the
    /// whole budget is taken when all of it is free, so that one item of any size goes through.
    pub(crate) fn acquire(self: &Arc<Self>, units: u64, stop: &Stop) -> Option<(Permit, Duration)> {
        let units = units.min(self.total);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waited = None;
        while self.total - *used < units {
            waited.get_or_insert_with(Instant::now);
            if stop.is_stopped() {
                return None;
            }
            used = self.given_back.wait_timeout(used, STOP_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += units;
        let wait = waited.map_or(Duration::ZERO, |since: Instant| since.elapsed());
        Some((Permit { budget: Arc::clone(self), units }, wait))
    }

    /// All its units.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Units in use now.
    pub(crate) fn used(&self) -> u64 {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, units: u64) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) -= units;
        self.given_back.notify_all();
    }
}

/// Units of a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    units: u64,
}

impl Permit {
    /// Gives back all but `units`.
    pub(crate) fn shrink_to(&mut self, units: u64) {
        let surplus = self.units.saturating_sub(units);
        if surplus > 0 {
            self.units -= surplus;
            self.budget.give_back(surplus);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.units > 0 {
            self.budget.give_back(self.units);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn nothing_beyond_the_budget_is_given_out() {
        let budget = Budget::new(10);
        let stop = Stop::default();
        let (mut first, _) = budget.acquire(6, &stop).expect("free");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| budget.acquire(6, &stop).expect("not stopped").0);
            assert_eq!(budget.used(), 6);
            first.shrink_to(4);
            let second = second.join().expect("no panic");
            assert_eq!(budget.used(), 10);
            drop(second);
        });
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let budget = Budget::new(1);
        let stop = Stop::default();
        let _all = budget.acquire(1, &stop).expect("free");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.acquire(1, &stop).is_none());
            stop.fail(Error::Interrupted);
            assert!(waiting.join().expect("no panic"));
        });
    }
}

//! How busy were the threads that list directories, and how long did the taker of entries wait for them?
//!
//! Each of those threads keeps its own figures and leaves them here when it ends, so they are whole once the scan has been
//! dropped. A scan without threads of its own leaves nothing: then the taker does the listing.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::primitives::latency::Latency;
use crate::primitives::sys::{thread_cpu_time, thread_run_delay};

/// What one thread did.
#[derive(Debug, Default)]
pub(crate) struct ListingWork {
    /// Directories whose entries it looked at.
    pub(crate) directories: u64,
    /// Looking at a directory's entries, each; to list their names is not in it.
    pub(crate) service: Latency,
    /// All of that together, and no less than `cpu`.
    pub(crate) busy: Duration,
    /// CPU time of the thread.
    pub(crate) cpu: Duration,
    /// Time in which it could have run and had no core; `None` if the system does not tell.
    pub(crate) ready: Option<Duration>,
}

/// The figures of all of them.
#[derive(Debug, Default)]
pub(crate) struct ScanMeter {
    waited_ns: AtomicU64,
    threads: Mutex<Vec<ListingWork>>,
}

thread_local! {
    /// Of this thread, if it lists directories.
    static OWN: RefCell<ListingWork> = RefCell::default();
}

/// Counts that this thread has looked at a directory since `began`.
pub(super) fn listed(began: Instant) {
    OWN.with_borrow_mut(|own| {
        let service = began.elapsed();
        own.directories += 1;
        own.service.record(service);
        own.busy += service;
    });
}

impl ScanMeter {
    /// For a thread that ends.
    pub(super) fn close(&self) {
        let mut own = OWN.take();
        own.cpu = thread_cpu_time();
        own.ready = thread_run_delay();
        own.busy = own.busy.max(own.cpu);
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(own);
    }

    /// The taker has waited for an entry since `began`.
    pub(super) fn waited(&self, began: Instant) {
        let waited = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(waited, Ordering::Relaxed);
    }

    /// How long the taker has waited since this was last asked.
    pub(crate) fn take_wait(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.swap(0, Ordering::Relaxed))
    }

    /// The work of the threads that have ended.
    pub(crate) fn take_threads(&self) -> Vec<ListingWork> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

//! What each worker measures about itself, and how the workers of a stage add up.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::engine::observe::{Percentiles, StageReport, Work};
use crate::engine::recorder::{Item, Shared, SpanLog};
use crate::primitives::latency::Latency;
use crate::primitives::sys::{thread_cpu_time, thread_run_delay};
use crate::stages::pack::scan::meter::ListingWork;

/// Durations of one kind: their sum, and how they are distributed.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    /// All together.
    pub(crate) total: Duration,
    /// Each of them.
    times: Latency,
    /// Those of the interval under way, of all workers of the stage, where somebody asked for them.
    interval: Option<Shared>,
}

impl Timed {
    /// Nothing yet; what comes is counted in `interval`, too.
    pub(crate) fn shared(interval: Shared) -> Self {
        Self { interval: Some(interval), ..Self::default() }
    }

    /// Counts one.
    pub(crate) fn record(&mut self, time: Duration) {
        self.total += time;
        self.times.record(time);
        if let Some(interval) = &self.interval {
            interval.lock().unwrap_or_else(PoisonError::into_inner).record(time);
        }
    }

    fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.times.count(),
            beyond_range: self.times.beyond(),
            p50: self.times.quantile(0.5),
            p90: self.times.quantile(0.9),
            p99: self.times.quantile(0.99),
            p999: self.times.quantile(0.999),
            max: self.times.max(),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.total += other.total;
        self.times.merge(&other.times);
    }
}

/// Figures of one worker, kept by the worker alone and merged when it ends.
#[derive(Debug, Default)]
pub(crate) struct WorkerStats {
    /// Items handled.
    pub(crate) items: u64,
    /// Items given on.
    pub(crate) items_out: u64,
    /// Bytes taken in.
    pub(crate) bytes_in: u64,
    /// Bytes given on.
    pub(crate) bytes_out: u64,
    /// The stage's own work on each item.
    pub(crate) service: Timed,
    /// Waiting for an item, each time.
    pub(crate) wait_input: Timed,
    /// Waiting for the next stage, each time.
    pub(crate) wait_output: Timed,
    /// Waiting for a permit, each time.
    pub(crate) wait_budget: Timed,
    /// Not let in: it did not count as a worker for so long.
    pub(crate) parked: Duration,
    /// It was never let in.
    pub(crate) kept_out: bool,
    /// CPU time of the thread.
    pub(crate) cpu: Duration,
    /// Time in which the thread could have run and had no core; `None` if the system does not tell.
    pub(crate) ready: Option<Duration>,
    /// Its work piece by piece, where somebody asked for it.
    pub(crate) spans: Option<Box<SpanLog>>,
}

impl WorkerStats {
    /// Books one item's work, less what was spent waiting inside it, and says how much that was.
    pub(crate) fn serviced(&mut self, began: Instant, waited: Duration) -> Duration {
        let service = began.elapsed().saturating_sub(waited);
        self.items += 1;
        self.service.record(service);
        service
    }

    /// Notes work that began then and took so long, if somebody asked for it.
    pub(crate) fn span(&mut self, began: Instant, service: Duration, item: Item) {
        if let Some(spans) = &mut self.spans {
            spans.push(began, service, item);
        }
    }

    /// To be called by the worker's own thread when it ends.
    pub(crate) fn close(mut self) -> Self {
        self.cpu = thread_cpu_time();
        self.ready = thread_run_delay();
        self
    }

    fn merge(&mut self, other: &Self) {
        self.items += other.items;
        self.items_out += other.items_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.service.merge(&other.service);
        self.wait_input.merge(&other.wait_input);
        self.wait_output.merge(&other.wait_output);
        self.wait_budget.merge(&other.wait_budget);
        self.cpu += other.cpu;
        self.ready = self.ready.zip(other.ready).map(|(one, other)| one + other);
    }

    fn report(&self) -> Work {
        Work {
            chunks: self.items,
            chunks_out: self.items_out,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            busy: self.service.total,
            cpu: self.cpu,
            ready: self.ready,
            wait_input: self.wait_input.total,
            wait_output: self.wait_output.total,
            wait_budget: self.wait_budget.total,
        }
    }
}

/// What a scan's own threads did, as workers: besides the one that takes the entries.
fn listing_stats(work: ListingWork) -> WorkerStats {
    WorkerStats {
        items: work.directories,
        items_out: work.directories,
        service: Timed { total: work.busy, times: work.service, interval: None },
        cpu: work.cpu,
        ready: work.ready,
        ..WorkerStats::default()
    }
}

/// The scan stage: the thread that takes and plans the entries, and those that list directories for it, if it does not do
/// that itself. The two can limit a run each for itself, so the utilization is that of the busier.
pub(crate) fn scan_report(taker: Vec<WorkerStats>, listing: Vec<ListingWork>, wall: Duration) -> StageReport {
    let listing = stage_report("scan", listing.into_iter().map(listing_stats).collect(), wall);
    let mut report = stage_report("scan", taker, wall);
    report.utilization = report.utilization.max(listing.utilization);
    report.workers = listing.workers.max(1);
    let (Work { busy, cpu, ready, .. }, own) = (listing.work, &mut report.work);
    own.busy += busy;
    own.cpu += cpu;
    own.ready = own.ready.zip(ready).map(|(own, others)| own + others);
    report.threads.extend(listing.threads);
    report
}

/// Adds up the workers of a stage that ran for `wall`.
pub(crate) fn stage_report(name: &'static str, mut workers: Vec<WorkerStats>, wall: Duration) -> StageReport {
    // Who was never let in was no worker.
    workers.retain(|worker| !worker.kept_out);
    let mut sum = WorkerStats { ready: Some(Duration::ZERO), ..WorkerStats::default() };
    workers.iter().for_each(|worker| sum.merge(worker));
    let available: Duration = workers.iter().map(|worker| wall.saturating_sub(worker.parked)).sum();
    let available = available.as_secs_f64();
    let utilization = if available > 0.0 { (sum.service.total.as_secs_f64() / available).min(1.0) } else { 0.0 };
    StageReport {
        name,
        workers: workers.len(),
        work: sum.report(),
        utilization,
        service: sum.service.percentiles(),
        service_curve: sum.service.times.curve(),
        input: sum.wait_input.percentiles(),
        output: sum.wait_output.percentiles(),
        budget: sum.wait_budget.percentiles(),
        threads: workers.iter().map(WorkerStats::report).collect(),
    }
}

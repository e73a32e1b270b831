//! What each worker measures about itself, and how the workers of a stage add up.

use std::time::{Duration, Instant};

use crate::engine::observe::{ServiceTimes, StageReport};
use crate::primitives::latency::Latency;
use crate::primitives::sys::thread_cpu_time;

/// Figures of one worker, kept by the worker alone and merged when it ends.
#[derive(Debug, Default)]
pub(crate) struct WorkerStats {
    /// Items handled.
    pub(crate) items: u64,
    /// Bytes taken in.
    pub(crate) bytes_in: u64,
    /// Bytes given on.
    pub(crate) bytes_out: u64,
    /// Time in the stage's own work.
    pub(crate) busy: Duration,
    /// Time waiting for an item.
    pub(crate) wait_input: Duration,
    /// Time waiting for the next stage.
    pub(crate) wait_output: Duration,
    /// Time waiting for a permit.
    pub(crate) wait_budget: Duration,
    /// CPU time of the thread.
    pub(crate) cpu: Duration,
    /// The work of each item.
    pub(crate) service: Latency,
}

impl WorkerStats {
    /// Books one item's work, less what was spent waiting inside it.
    pub(crate) fn serviced(&mut self, began: Instant, waited: Duration) {
        let service = began.elapsed().saturating_sub(waited);
        self.items += 1;
        self.busy += service;
        self.service.record(service);
    }

    /// To be called by the worker's own thread when it ends.
    pub(crate) fn close(mut self) -> Self {
        self.cpu = thread_cpu_time();
        self
    }
}

/// Adds up the workers of a stage that ran for `wall`.
pub(crate) fn stage_report(name: &'static str, workers: Vec<WorkerStats>, wall: Duration) -> StageReport {
    let mut report = StageReport { name, workers: workers.len(), ..StageReport::default() };
    let mut service = Latency::default();
    for worker in &workers {
        report.chunks += worker.items;
        report.bytes_in += worker.bytes_in;
        report.bytes_out += worker.bytes_out;
        report.busy += worker.busy;
        report.cpu += worker.cpu;
        report.wait_input += worker.wait_input;
        report.wait_output += worker.wait_output;
        report.wait_budget += worker.wait_budget;
        service.merge(&worker.service);
    }
    let available = wall.as_secs_f64() * workers.len() as f64;
    if available > 0.0 {
        report.utilization = (report.busy.as_secs_f64() / available).min(1.0);
    }
    report.service = ServiceTimes {
        p50: service.quantile(0.5),
        p90: service.quantile(0.9),
        p99: service.quantile(0.99),
        p999: service.quantile(0.999),
        max: service.max(),
    };
    report
}

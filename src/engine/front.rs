//! How do jobs that are known beforehand get into a pipeline? One after another, in their order, each under a permit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::budget::Budget;
use crate::engine::pipeline::{Envelope, Outlet as _};
use crate::engine::queue::Feed;
use crate::engine::recorder::Item;
use crate::engine::run::Run;
use crate::engine::stats::WorkerStats;

/// The one thread that starts each chunk's way where there is nothing to plan.
pub(crate) struct Front<'r, 'c> {
    pub(crate) run: &'r Run<'c>,
    pub(crate) budget: Arc<Budget>,
    /// What each job needs of the budget.
    pub(crate) permit: u64,
}

impl Front<'_, '_> {
    /// Hands all of them out, or as many as are taken until the run is to end.
    pub(crate) fn hand_out<T: Send>(&self, mut jobs: impl Iterator<Item = T>, to: &Feed<T>) -> WorkerStats {
        let mut stats = self.run.recorder.worker("plan", 0);
        loop {
            let began = Instant::now();
            let Some(item) = jobs.next() else { break };
            let Some((permit, waited)) = self.budget.acquire(self.permit, &self.run.stop) else { break };
            let sending = Instant::now();
            if to.send(Envelope { item, permit: Some(permit) }).is_err() {
                break;
            }
            let sent: Duration = sending.elapsed();
            stats.wait_budget.record(waited);
            stats.wait_output.record(sent);
            stats.items_out += 1;
            let service = stats.serviced(began, waited + sent);
            stats.span(began + waited, service, Item::default());
        }
        stats.close()
    }
}

//! Runs stages: named worker threads in a scope, bounded channels between them, every worker measured, all joined.
//!
//! Who owns what: the engine's operation owns the channels' ends until it has handed them to workers; a worker owns its
//! stage value and its ends, and drops them when it returns. How it ends: the planner is done and drops its sender; each
//! stage's workers see "disconnected" when the stage before has ended and its queue is empty, and end. On a stop the
//! worker that sees it first returns after its current item; its neighbours see a disconnected channel, which means stop
//! and is no error of theirs. What bounds it: slots bound a channel, [permits](crate::engine::budget) bound the bytes.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::engine::budget::Permit;
use crate::engine::gate::Gate;
use crate::engine::queue::Supply;
use crate::engine::recorder::Item;
use crate::engine::run::{Gauge, Run};
use crate::engine::stats::WorkerStats;
use crate::error::{Error, FileOp, Result};
use crate::stages::{Stage, Weighed};

/// An item on its way, with the permit for the memory it takes.
pub(crate) struct Envelope<T> {
    pub(crate) item: T,
    pub(crate) permit: Option<Permit>,
}

/// The next stage has ended.
#[derive(Debug)]
pub(crate) struct Gone;

/// Where a stage's items go.
pub(crate) trait Outlet<T>: Clone + Send {
    /// Hands an item on; waits while the next stage has no room.
    fn send(&self, envelope: Envelope<T>) -> Result<(), Gone>;
}

/// How many workers a stage has.
pub(crate) struct Crew {
    count: usize,
    /// Who of them works is learnt; if there is none, all do.
    gate: Option<Arc<Gate>>,
}

impl From<usize> for Crew {
    fn from(count: usize) -> Self {
        Self { count, gate: None }
    }
}

impl From<Arc<Gate>> for Crew {
    fn from(gate: Arc<Gate>) -> Self {
        Self { count: gate.most, gate: Some(gate) }
    }
}

/// A worker's place in its crew.
#[derive(Clone, Copy)]
struct Place<'g> {
    number: usize,
    gate: Option<&'g Gate>,
}

impl Place<'_> {
    /// Waits until this worker is to work, which is booked; false if it never will be again.
    fn enter(self, run: &Run<'_>, stats: &mut WorkerStats) -> bool {
        let Some(gate) = self.gate else { return true };
        let began = Instant::now();
        let enters = gate.enter(self.number, &run.stop);
        stats.parked += began.elapsed();
        stats.kept_out &= !enters;
        enters
    }
}

/// The workers of one stage.
pub(crate) struct StageHandle<'scope> {
    name: &'static str,
    workers: Vec<ScopedJoinHandle<'scope, Option<WorkerStats>>>,
}

impl StageHandle<'_> {
    /// Waits for all of them; what they measured. Panics have been turned into the run's error already.
    pub(crate) fn join(self) -> (&'static str, Vec<WorkerStats>) {
        let stats = self.workers.into_iter().filter_map(|worker| worker.join().ok().flatten()).collect();
        (self.name, stats)
    }
}

/// Starts `count` workers of a stage between two channels.
///
/// `make` is called once in each worker's own thread. If a thread cannot be started, those that were end by themselves as
/// their channels close.
pub(crate) fn spawn_stage<'scope, 'env, S, F, O>(
    scope: &'scope Scope<'scope, 'env>,
    run: &'env Run<'_>,
    crew: impl Into<Crew>,
    make: &'env F,
    input: Supply<S::In>,
    output: O,
) -> Result<StageHandle<'scope>>
where
    S: Stage + 'env,
    S::In: Weighed,
    S::Out: Weighed,
    F: Fn() -> Result<S> + Sync,
    O: Outlet<S::Out> + 'scope,
{
    let Crew { count, gate } = crew.into();
    let gauge = run.gauge(S::NAME, count, gate.clone(), Some(input.fill()));
    let mut workers = Vec::with_capacity(count);
    for number in 0..count {
        let (gauge, input, output) = (Arc::clone(&gauge), input.clone(), output.clone());
        let gate = gate.clone();
        let worker = Builder::new().name(format!("{}-{number}", S::NAME)).spawn_scoped(scope, move || {
            guarded(S::NAME, run, || {
                let mut stage = make()?;
                let place = Place { number, gate: gate.as_deref() };
                Ok(work(&mut stage, run, &gauge, place, &input, &output)?.close())
            })
        });
        workers.push(worker.map_err(|error| Error::io(FileOp::StartThread, S::NAME, error))?);
    }
    Ok(StageHandle { name: S::NAME, workers })
}

/// Starts one thread that is no [`Stage`]: a planner, the indexer.
pub(crate) fn spawn_one<'scope, 'env, F>(
    scope: &'scope Scope<'scope, 'env>,
    run: &'env Run<'_>,
    name: &'static str,
    body: F,
) -> Result<StageHandle<'scope>>
where
    F: FnOnce() -> Result<WorkerStats> + Send + 'env,
{
    let thread = Builder::new().name(name.into()).spawn_scoped(scope, move || guarded(name, run, body));
    Ok(StageHandle { name, workers: vec![thread.map_err(|error| Error::io(FileOp::StartThread, name, error))?] })
}

/// Runs a worker's body; an error or a panic of it ends the run.
fn guarded(name: &'static str, run: &Run<'_>, body: impl FnOnce() -> Result<WorkerStats>) -> Option<WorkerStats> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(stats)) => Some(stats),
        Ok(Err(error)) => {
            run.stop.fail(error);
            None
        }
        Err(panic) => {
            run.stop.fail(Error::WorkerPanicked { stage: name, message: panic_text(&*panic) });
            None
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

fn work<S>(
    stage: &mut S,
    run: &Run<'_>,
    gauge: &Gauge,
    place: Place<'_>,
    input: &Supply<S::In>,
    output: &impl Outlet<S::Out>,
) -> Result<WorkerStats>
where
    S: Stage,
    S::In: Weighed,
    S::Out: Weighed,
{
    let stats = run.recorder.worker(S::NAME, place.number);
    let mut stats = WorkerStats { kept_out: place.gate.is_some(), ..stats };
    while place.enter(run, &mut stats) {
        let idle = Instant::now();
        let received = input.recv();
        let began = Instant::now();
        stats.wait_input.record(began - idle);
        let Ok(Envelope { item, mut permit }) = received else {
            // Whoever is not let in need not wait any longer.
            place.gate.iter().for_each(|gate| gate.shut());
            break;
        };
        if run.stop.is_stopped() {
            break;
        }
        gauge.active.fetch_add(1, Ordering::Relaxed);
        gauge.begin(place.number);
        let (chunk, bytes_in) = (item.number(), item.bytes());
        stats.bytes_in += bytes_in;
        let mut waited = Duration::ZERO;
        let (mut items_out, mut bytes_out) = (0, 0);
        let mut neighbour_gone = false;
        let result = stage.process(item, &mut |out| {
            items_out += 1;
            bytes_out += out.bytes();
            let mut permit = permit.take();
            if let Some(permit) = &mut permit {
                permit.shrink_to(out.held());
            }
            gauge.pause(place.number);
            let sending = Instant::now();
            let sent = output.send(Envelope { item: out, permit });
            gauge.begin(place.number);
            let sent_after = sending.elapsed();
            stats.wait_output.record(sent_after);
            waited += sent_after;
            neighbour_gone = sent.is_err();
            // Only the message matters: the caller sees `neighbour_gone` first.
            sent.map_err(|_| Error::Interrupted)
        });
        gauge.pause(place.number);
        gauge.active.fetch_sub(1, Ordering::Relaxed);
        if neighbour_gone {
            break;
        }
        result?;
        stats.items_out += items_out;
        stats.bytes_out += bytes_out;
        let service = stats.serviced(began, waited);
        stats.span(began, service, Item { chunk, bytes_in, bytes_out });
        gauge.items.fetch_add(1, Ordering::Relaxed);
        gauge.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        gauge.bytes.fetch_add(bytes_out, Ordering::Relaxed);
        run.counters.tick();
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::engine::config::PipelineConfig;
    use crate::engine::queue::queue;

    impl Weighed for u64 {
        fn bytes(&self) -> u64 {
            1
        }
    }

    /// Lets nobody on before so many have come.
    struct Meeting {
        wanted: usize,
        there: Mutex<usize>,
        changed: Condvar,
    }

    impl Meeting {
        fn of(wanted: usize) -> Self {
            Self { wanted, there: Mutex::new(0), changed: Condvar::new() }
        }

        /// Whether all came while there was still patience.
        fn attend(&self) -> bool {
            let mut there = self.there.lock().unwrap();
            *there += 1;
            self.changed.notify_all();
            let waited = self.changed.wait_timeout_while(there, Duration::from_secs(30), |there| *there < self.wanted);
            !waited.unwrap().1.timed_out()
        }
    }

    struct Meet<'m>(&'m Meeting);

    impl Stage for Meet<'_> {
        type In = u64;
        type Out = u64;
        const NAME: &'static str = "meet";
        fn process(&mut self, item: u64, emit: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
            if !self.0.attend() {
                return Err(Error::Usage("the others never came".to_owned()));
            }
            emit(item)
        }
    }

    fn conduct<T>(work: impl FnOnce(&Run<'_>) -> Result<T>) -> Result<T> {
        Run::conduct("test", Path::new("v"), &PipelineConfig::default(), &(), work).0
    }

    #[test]
    fn a_stage_of_so_many_workers_has_so_many_at_work_at_once() {
        // Under Miri each worker's histogram takes ten seconds to make.
        let counts: &[usize] = if cfg!(miri) { &[2] } else { &[1, 2, 5, 16] };
        for &count in counts {
            let meeting = Meeting::of(count);
            let make = || Ok(Meet(&meeting));
            let worked = conduct(|run| {
                let stats = std::thread::scope(|scope| {
                    let (to_stage, input) = queue(count);
                    let (output, done) = queue(count);
                    let stage = spawn_stage(scope, run, count, &make, input, output)?;
                    for item in 0..count as u64 {
                        to_stage.send(Envelope { item, permit: None }).expect("the workers are there");
                    }
                    drop(to_stage);
                    assert_eq!(std::iter::from_fn(|| done.recv().ok()).count(), count);
                    Ok::<_, Error>(stage.join().1)
                })?;
                run.check()?;
                Ok(stats)
            });
            let stats = worked.unwrap();
            assert_eq!(stats.len(), count);
            assert!(stats.iter().all(|worker| worker.items == 1), "each had one in its hands when all had");
        }
    }

    /// Passes items on until it is told to fail, in one way or another.
    struct Link<'l> {
        fails_at: Option<u64>,
        panics: bool,
        alive: &'l AtomicUsize,
    }

    impl Stage for Link<'_> {
        type In = u64;
        type Out = u64;
        const NAME: &'static str = "link";
        fn process(&mut self, item: u64, emit: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
            if self.fails_at == Some(item) {
                assert!(!self.panics, "a defect");
                return Err(Error::Usage("this stage failed".to_owned()));
            }
            emit(item)
        }
    }

    impl Drop for Link<'_> {
        fn drop(&mut self) {
            self.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whichever_stage_fails_or_panics_all_workers_end_and_the_cause_is_kept() {
        const STAGES: usize = 4;
        for failing in 0..STAGES {
            for (panics, fails_at) in [(false, 0), (false, 500), (true, 0), (true, 500)] {
                let alive = AtomicUsize::new(0);
                let make = |stage: usize| {
                    let alive = &alive;
                    move || {
                        alive.fetch_add(1, Ordering::Relaxed);
                        let fails_at = (stage == failing).then_some(fails_at);
                        Ok(Link { fails_at, panics, alive })
                    }
                };
                let makers: [_; STAGES] = std::array::from_fn(make);
                let result = conduct(|run| {
                    std::thread::scope(|scope| {
                        let (to_first, mut input) = queue(2);
                        let mut stages = Vec::new();
                        for make in &makers {
                            let (output, next) = queue(2);
                            stages.push(spawn_stage(scope, run, 3, make, std::mem::replace(&mut input, next), output)?);
                        }
                        let feeder = scope.spawn(move || {
                            // Endless: only that nobody takes them any more ends it.
                            (0_u64..).find(|&item| to_first.send(Envelope { item, permit: None }).is_err())
                        });
                        while input.recv().is_ok() {}
                        drop(input);
                        feeder.join().expect("it sends until it cannot");
                        stages.into_iter().for_each(|stage| drop(stage.join()));
                        Ok::<_, Error>(())
                    })?;
                    run.check()
                });
                let error = result.expect_err("a stage failed");
                match panics {
                    false => assert!(matches!(&error, Error::Usage(what) if what == "this stage failed"), "{error}"),
                    true => assert!(matches!(&error, Error::WorkerPanicked { stage: "link", .. }), "{error}"),
                }
                assert_eq!(alive.load(Ordering::Relaxed), 0, "no stage outlives its run");
            }
        }
    }
}

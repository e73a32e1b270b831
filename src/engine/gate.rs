//! How many threads of a stage work, if that is to be learnt while the run goes on? A gate lets some of them in; a tuner
//! opens it further when that should help, and closes it again where it did not.
//!
//! Who owns what: the stage's threads share the [`Gate`], the run's monitor owns the [`Tuner`]. How it ends: a thread behind
//! the gate leaves as soon as the gate is shut for good, which the first thread does that finds its input at an end, or when
//! the run is stopped. What bounds it: there are never more threads than were planned for.
//!
//! What a run makes does not depend on it, as on no number of threads.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::cancel::Stop;
use crate::engine::run::Gauge;
use crate::primitives::sys::{available_cores, process_cpu_time};

/// How often a thread behind the gate looks whether the run is to end.
const STOP_POLL: Duration = Duration::from_millis(20);

/// How many of a stage's threads may work.
#[derive(Debug)]
pub(crate) struct Gate {
    /// There are so many.
    pub(crate) most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    open_for: usize,
    over: bool,
}

impl Gate {
    /// A gate that is open for `first` of `most` threads.
    pub(crate) fn new(first: usize, most: usize) -> Arc<Self> {
        let open_for = first.clamp(1, most.max(1));
        Arc::new(Self { most, state: Mutex::new(State { open_for, over: false }), changed: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are let in now.
    pub(crate) fn open_for(&self) -> usize {
        self.state().open_for
    }

    /// Lets so many in.
    fn set(&self, open_for: usize) {
        self.state().open_for = open_for.clamp(1, self.most);
        self.changed.notify_all();
    }

    /// Nobody needs to wait any more: there is no work left.
    pub(crate) fn shut(&self) {
        self.state().over = true;
        self.changed.notify_all();
    }

    /// Waits until thread `number`, from 0, is let in; false if it never will be.
    pub(crate) fn enter(&self, number: usize, stop: &Stop) -> bool {
        let mut state = self.state();
        loop {
            // Whoever may work finds out for itself that there is none.
            if number < state.open_for {
                return true;
            }
            if state.over || stop.is_stopped() {
                return false;
            }
            state = self.changed.wait_timeout(state, STOP_POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Figures are taken over this long at least, and over so many chunks for each thread, so that one more or less does not
/// decide; but over no more than this.
const WINDOW: Duration = Duration::from_millis(200);
const WINDOW_ITEMS: u64 = 4;
const LONGEST_WINDOW: Duration = Duration::from_secs(2);
/// After more threads did not help it is tried again no sooner than this, and each time twice as late.
const PATIENCE: Duration = Duration::from_secs(1);
/// A stage this busy, before one that is no busier than that, may be what others wait for.
const BUSY: f64 = 0.8;
const STARVED: f64 = 0.75;
/// Where the process uses this share of the cores or more, none is left for further threads.
const CORES_BUSY: f64 = 0.85;
/// More threads have to bring so much.
const GAIN: f64 = 1.1;

/// Opens a gate further while its stage keeps the one behind it waiting and more threads bring more bytes.
#[derive(Debug)]
pub(crate) struct Tuner {
    pub(crate) gate: Arc<Gate>,
    /// The gate's stage, and the one behind it.
    pub(crate) stage: &'static str,
    pub(crate) next: &'static str,
    since: Instant,
    last: Figures,
    trial: Option<Trial>,
    not_before: Option<Instant>,
    patience: Duration,
    /// What was tried, in words.
    pub(crate) learnt: Vec<String>,
}

/// More threads, on trial.
#[derive(Debug)]
struct Trial {
    before: usize,
    /// Bytes a second then.
    rate: f64,
    /// The window in which the number changed says nothing.
    settled: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    /// Of the whole process.
    cpu: Duration,
    items: u64,
    busy_ns: u64,
    next_busy_ns: u64,
    bytes: u64,
}

/// How busy the stage was in a window, the next one, and the cores with this process.
#[derive(Debug, Clone, Copy)]
struct Shares {
    busy: f64,
    next_busy: f64,
    cores: f64,
}

/// What a stage has come to since it began.
fn figures(stage: &Gauge, next: &Gauge) -> Figures {
    use std::sync::atomic::Ordering::Relaxed;
    Figures {
        cpu: process_cpu_time(),
        items: stage.items.load(Relaxed),
        busy_ns: stage.busy_ns.load(Relaxed),
        next_busy_ns: next.busy_ns.load(Relaxed),
        bytes: stage.bytes.load(Relaxed),
    }
}

impl Tuner {
    /// A tuner for the gate of `stage`, before the stage `next`.
    pub(crate) fn new(gate: Arc<Gate>, stage: &'static str, next: &'static str) -> Self {
        let (since, last) = (Instant::now(), Figures::default());
        Self { gate, stage, next, since, last, trial: None, not_before: None, patience: PATIENCE, learnt: Vec::new() }
    }

    /// Looks at the gauges, from time to time; `at` is the time since the run began.
    pub(crate) fn look(&mut self, stage: &Gauge, next: &Gauge, now: Instant, at: Duration) {
        let elapsed = now.saturating_duration_since(self.since);
        let figures = figures(stage, next);
        let open_for = self.gate.open_for();
        let enough = figures.items.saturating_sub(self.last.items) >= WINDOW_ITEMS * open_for as u64;
        if elapsed < WINDOW || !enough && elapsed < LONGEST_WINDOW {
            return;
        }
        let last = std::mem::replace(&mut self.last, figures);
        self.since = now;
        let seconds = elapsed.as_secs_f64();
        let share = |now: u64, before: u64, threads: usize| {
            now.saturating_sub(before) as f64 / 1e9 / (seconds * threads.max(1) as f64)
        };
        let busy = share(figures.busy_ns, last.busy_ns, open_for);
        let next_busy = share(figures.next_busy_ns, last.next_busy_ns, next.workers());
        let rate = figures.bytes.saturating_sub(last.bytes) as f64 / seconds;
        let cpu = figures.cpu.saturating_sub(last.cpu).as_secs_f64();
        let cores = cpu / (seconds * available_cores().get() as f64);
        self.step(Shares { busy, next_busy, cores }, rate, open_for, now, at);
    }

    fn step(&mut self, shares: Shares, rate: f64, open_for: usize, now: Instant, at: Duration) {
        match &mut self.trial {
            Some(trial) if !trial.settled => {
                trial.settled = true;
                return;
            }
            Some(trial) => {
                let (before, gain) = (trial.before, if trial.rate > 0.0 { rate / trial.rate } else { f64::INFINITY });
                let seconds = at.as_secs_f64();
                self.trial = None;
                if gain < GAIN {
                    self.gate.set(before);
                    self.not_before = Some(now + self.patience);
                    self.patience *= 2;
                    self.learnt.push(format!("{before} again after {seconds:.1} s: {open_for} brought no more"));
                    return;
                }
                let percent = (gain - 1.0) * 100.0;
                self.learnt.push(format!("{open_for} instead of {before} after {seconds:.1} s: {percent:.0} % more"));
            }
            None => {}
        }
        let may = self.not_before.is_none_or(|not_before| now >= not_before) && open_for < self.gate.most;
        if may && shares.busy >= BUSY && shares.next_busy <= STARVED && shares.cores < CORES_BUSY {
            self.trial = Some(Trial { before: open_for, rate, settled: false });
            self.gate.set(open_for * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_gate_lets_so_many_in_and_all_others_go_when_it_is_over() {
        let (gate, stop) = (Gate::new(2, 4), Stop::default());
        assert!(gate.enter(0, &stop) && gate.enter(1, &stop));
        std::thread::scope(|scope| {
            let (third, fourth) = (scope.spawn(|| gate.enter(2, &stop)), scope.spawn(|| gate.enter(3, &stop)));
            gate.set(3);
            assert!(third.join().unwrap(), "let in");
            gate.shut();
            assert!(!fourth.join().unwrap(), "sent home");
        });
        assert!(gate.enter(0, &stop) && !gate.enter(3, &stop));
    }

    #[test]
    fn a_stop_sends_home_who_waits_at_a_gate() {
        let (gate, stop) = (Gate::new(1, 2), Stop::default());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.enter(1, &stop));
            stop.fail(Error::Interrupted);
            assert!(!waiting.join().unwrap());
        });
    }

    /// Lets a tuner see windows of (busy, next busy, rate); the number that the gate is open for after each.
    fn tuned(first: usize, most: usize, windows: &[(f64, f64, f64)]) -> (Vec<usize>, Vec<String>) {
        tuned_beside(0.3, first, most, windows)
    }

    /// The same while the process uses this share of the cores.
    fn tuned_beside(cores: f64, first: usize, most: usize, windows: &[(f64, f64, f64)]) -> (Vec<usize>, Vec<String>) {
        let mut tuner = Tuner::new(Gate::new(first, most), "read", "compress");
        let began = Instant::now();
        let mut seen = Vec::new();
        for (number, &(busy, next_busy, rate)) in (1_u32..).zip(windows) {
            let at = WINDOW * number;
            let open_for = tuner.gate.open_for();
            let shares = Shares { busy, next_busy, cores };
            tuner.step(shares, rate, open_for, began + at, at);
            seen.push(tuner.gate.open_for());
        }
        (seen, tuner.learnt)
    }

    #[test]
    fn a_stage_that_starves_the_next_gets_threads_while_they_bring_something() {
        let windows = [(0.95, 0.2, 100.0), (0.9, 0.2, 150.0), (0.9, 0.3, 190.0), (0.9, 0.3, 250.0), (0.9, 0.3, 200.0)];
        let (seen, learnt) = tuned(1, 16, &windows);
        assert_eq!(seen, [2, 2, 4, 4, 2], "doubled, kept, doubled, and back, since it brought no more");
        assert_eq!(learnt.len(), 2, "{learnt:?}");
        assert!(learnt[0].starts_with("2 instead of 1") && learnt[1].starts_with("2 again"), "{learnt:?}");
    }

    #[test]
    fn a_stage_that_nobody_waits_for_gets_none_and_none_gets_more_than_there_are() {
        assert_eq!(tuned(2, 8, &[(0.9, 0.95, 100.0), (0.3, 0.3, 100.0)]).0, [2, 2]);
        assert_eq!(tuned(2, 2, &[(0.9, 0.1, 100.0)]).0, [2]);
        assert_eq!(tuned_beside(0.95, 2, 8, &[(0.9, 0.1, 100.0)]).0, [2], "no core is left for it");
        let growing: Vec<_> = (0..10).map(|window| (1.0, 0.1, 100.0 * 2_f64.powi(window))).collect();
        assert_eq!(*tuned(2, 6, &growing).0.last().unwrap(), 6);
    }

    #[test]
    fn what_did_not_help_is_not_tried_again_for_a_while() {
        let windows: Vec<_> = std::iter::repeat_n((0.95, 0.1, 100.0), 40).collect();
        let (seen, learnt) = tuned(2, 8, &windows);
        // In 8 s: at once, a second later, two seconds later, four seconds later; two windows each.
        assert_eq!(learnt.len(), 3, "{learnt:?}");
        assert_eq!(seen.iter().filter(|&&open_for| open_for == 4).count(), 6, "{seen:?}");
    }
}

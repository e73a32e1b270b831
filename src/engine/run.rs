//! One operation from its start to its end: who may stop it, what it has done so far, who is told.
//!
//! A [`Run`] is made when an operation begins and lives on its stack. A monitor thread beside it turns a pulled token, a
//! passed deadline or a stall into a stop, and reports progress; it ends with the run.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{RecvTimeoutError, bounded};

use crate::engine::budget::Budget;
use crate::engine::cancel::Stop;
use crate::engine::config::{DEFAULT_STALL_TIMEOUT, PipelineConfig};
use crate::engine::gate::{Gate, Tuner};
use crate::engine::observe::{EntryError, EntryErrorKind, Notice, Observer, Phases, Progress, Report, StageReport};
use crate::engine::queue::Fill;
use crate::engine::recorder::Recorder;
use crate::engine::timeline::{Lookout, Timeline};
use crate::error::{Error, Result};
use crate::primitives::sys::{available_cores, peak_rss_bytes};

/// How often the monitor looks.
const MONITOR_PERIOD: Duration = Duration::from_millis(100);
/// How long an interval of latencies is.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Locks, keys, roots: the stall clock rests.
    Prepare,
    /// Data moves, or should.
    Stream,
    /// What was written is brought to the disk, and nothing is committed by that: the stall clock rests.
    Sync,
    /// Syncs and the commit: the stall clock rests, and whoever wants to leave has to wait.
    Commit,
}

/// How long a run was in each phase.
#[derive(Debug)]
struct PhaseClock {
    current: Phase,
    since: Instant,
    spent: Phases,
}

impl PhaseClock {
    fn started_at(since: Instant) -> Self {
        Self { current: Phase::Prepare, since, spent: Phases::default() }
    }

    fn enter(&mut self, next: Phase) {
        let now = Instant::now();
        let spent = match self.current {
            Phase::Prepare => &mut self.spent.prepare,
            Phase::Stream => &mut self.spent.stream,
            Phase::Sync | Phase::Commit => &mut self.spent.finish,
        };
        *spent += now - self.since;
        (self.current, self.since) = (next, now);
    }
}

/// What has moved; written by workers, read by the monitor.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) files_known: AtomicU64,
    pub(crate) bytes_known: AtomicU64,
    pub(crate) all_known: AtomicBool,
    pub(crate) files_done: AtomicU64,
    pub(crate) bytes_done: AtomicU64,
    /// Of these, bytes that were not handled, since the snapshot has them.
    pub(crate) bytes_kept: AtomicU64,
    /// Rises whenever anything moves; that it stands still for long is a stall.
    pub(crate) activity: AtomicU64,
}

impl Counters {
    /// Something moved.
    pub(crate) fn tick(&self) {
        self.activity.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one stage is doing, as far as the monitor needs it.
#[derive(Debug)]
pub(crate) struct Gauge {
    pub(crate) name: &'static str,
    workers: usize,
    /// Who of them works is learnt.
    gate: Option<Arc<Gate>>,
    /// The queue before it.
    pub(crate) queue: Option<Arc<Fill>>,
    pub(crate) busy_ns: AtomicU64,
    /// Items done, bytes taken in, and bytes given on.
    pub(crate) items: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Workers that have an item in their hands.
    pub(crate) active: AtomicU64,
    /// Of each worker, when it took up what it does now, in nanoseconds since the gauge was made, and 1; 0 while it waits.
    since: Vec<AtomicU64>,
    made: Instant,
}

impl Gauge {
    pub(crate) fn new(name: &'static str, workers: usize, gate: Option<Arc<Gate>>, queue: Option<Arc<Fill>>) -> Self {
        Self {
            name,
            workers,
            gate,
            queue,
            busy_ns: AtomicU64::new(0),
            items: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            active: AtomicU64::new(0),
            since: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            made: Instant::now(),
        }
    }

    fn since_made(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A worker takes something up, or goes on with it.
    pub(crate) fn begin(&self, worker: usize) {
        if let Some(since) = self.since.get(worker) {
            since.store(self.since_made() + 1, Ordering::Relaxed);
        }
    }

    /// It is done, or waits for its neighbour; what it has done counts.
    pub(crate) fn pause(&self, worker: usize) {
        let since = self.since.get(worker).map_or(0, |since| since.swap(0, Ordering::Relaxed));
        if since > 0 {
            self.busy_ns.fetch_add((self.since_made() + 1).saturating_sub(since), Ordering::Relaxed);
        }
    }

    /// Time in the work of all workers, with what they have in their hands.
    pub(crate) fn busy_until_now(&self) -> u64 {
        let now = self.since_made() + 1;
        let in_hand = self.since.iter().map(|since| since.load(Ordering::Relaxed)).filter(|&since| since > 0);
        self.busy_ns.load(Ordering::Relaxed) + in_hand.map(|since| now.saturating_sub(since)).sum::<u64>()
    }

    /// Threads that work now.
    pub(crate) fn workers(&self) -> usize {
        self.gate.as_ref().map_or(self.workers, |gate| gate.open_for())
    }
}

/// One operation under way.
pub(crate) struct Run<'a> {
    pub(crate) stop: Arc<Stop>,
    pub(crate) config: &'a PipelineConfig,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) counters: Counters,
    pub(crate) started: Instant,
    phase_name: &'static str,
    phase: AtomicU8,
    clock: Mutex<PhaseClock>,
    vault: PathBuf,
    gauges: Mutex<Vec<Arc<Gauge>>>,
    /// Opens the gate of the stage whose threads are learnt.
    tuner: Mutex<Option<Tuner>>,
    pub(crate) recorder: Recorder,
    /// Bounds the bytes of buffers under way.
    buffers: Mutex<Option<Arc<Budget>>>,
    /// Sees how it goes.
    lookout: Mutex<Lookout>,
    /// By the system's clock.
    started_at: SystemTime,
    /// The file that a reader or writer took up last; named when a run stalls.
    current: Mutex<PathBuf>,
    errors: Mutex<Vec<EntryError>>,
    notes: Mutex<Vec<String>>,
}

impl<'a> Run<'a> {
    /// Runs `work` with a monitor beside it. The first cause of an end wins over whatever `work` answers.
    pub(crate) fn conduct<T>(
        phase_name: &'static str,
        vault: &Path,
        config: &'a PipelineConfig,
        observer: &'a dyn Observer,
        work: impl FnOnce(&Run<'a>) -> Result<T>,
    ) -> (Result<T>, Run<'a>) {
        let started = Instant::now();
        let run = Run {
            stop: Arc::new(Stop::default()),
            config,
            observer,
            counters: Counters::default(),
            started,
            phase_name,
            phase: AtomicU8::new(Phase::Prepare as u8),
            clock: Mutex::new(PhaseClock::started_at(started)),
            vault: vault.to_owned(),
            gauges: Mutex::default(),
            tuner: Mutex::default(),
            recorder: Recorder::new(started, config.record),
            buffers: Mutex::default(),
            lookout: Mutex::new(Lookout::new(started)),
            started_at: SystemTime::now(),
            current: Mutex::default(),
            errors: Mutex::default(),
            notes: Mutex::default(),
        };
        let result = std::thread::scope(|scope| {
            let (done, ended) = bounded::<()>(0);
            let monitor = std::thread::Builder::new().name("monitor".into());
            let spawned = monitor.spawn_scoped(scope, {
                let run = &run;
                move || run.monitor(&ended)
            });
            let result = match spawned {
                Ok(_) => work(&run),
                Err(error) => Err(Error::io(crate::error::FileOp::StartThread, "monitor", error)),
            };
            drop(done);
            result
        });
        let result = match result {
            // What may have been done is said, though a deadline has passed or somebody has pulled the token meanwhile.
            Err(error) if error.is_uncertain() => Err(error),
            Err(error) => Err(run.stop.take_cause().unwrap_or(error)),
            ok => ok,
        };
        if run.recorder.has_intervals() {
            run.recorder.end_interval(run.started.elapsed(), |interval| run.observer.interval(interval));
        }
        run.observer.progress(&run.progress());
        (result, run)
    }

    /// Says where the run is.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).enter(phase);
        if phase == Phase::Commit {
            // Who listens must know before anything is committed, not a moment later.
            self.observer.progress(&self.progress());
        }
    }

    /// An error if the run is to end.
    pub(crate) fn check(&self) -> Result<()> {
        self.poll_outside();
        if self.stop.is_stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Turns a pulled token or a passed deadline into a stop.
    fn poll_outside(&self) {
        if self.config.cancel.is_cancelled() {
            self.stop.fail(Error::Interrupted);
        }
        if let Some(timeout) = self.config.timeout
            && self.started.elapsed() >= timeout
        {
            self.stop.fail(Error::Deadline(timeout));
        }
    }

    /// A gauge for a stage that begins now.
    pub(crate) fn gauge(
        &self,
        name: &'static str,
        workers: usize,
        gate: Option<Arc<Gate>>,
        queue: Option<Arc<Fill>>,
    ) -> Arc<Gauge> {
        let gauge = Arc::new(Gauge::new(name, workers, gate, queue));
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&gauge));
        gauge
    }

    /// The file that is taken up now.
    pub(crate) fn at(&self, path: &Path) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clear();
        current.push(path);
    }

    /// An entry could not be handled as asked.
    pub(crate) fn entry_failed(&self, path: &Path, kind: EntryErrorKind, message: String) {
        let error = EntryError { path: path.to_owned(), kind, message };
        self.observer.notice(&Notice::Failed(error.clone()));
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    }

    /// The same, with the library's error as the cause.
    pub(crate) fn entry_error(&self, path: &Path, error: &Error) {
        let (kind, message) = describe(error);
        self.entry_failed(path, kind, message);
    }

    /// Worth a line, but no error.
    pub(crate) fn note(&self, path: &Path, message: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{message}: {}", path.display()));
        self.observer.notice(&Notice::Note { path: path.to_owned(), message });
    }

    /// How many entries failed so far.
    pub(crate) fn error_count(&self) -> usize {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The report of the whole; the caller adds what only it knows.
    pub(crate) fn into_report(self, command: &'static str, stages: Vec<StageReport>) -> Report {
        let learnt = self.take_learnt();
        let (timeline, tracks) = (self.take_timeline(), self.recorder.take_tracks());
        let mut clock = self.clock.into_inner().unwrap_or_else(PoisonError::into_inner);
        clock.enter(Phase::Prepare);
        Report {
            command,
            duration: clock.since - self.started,
            phases: clock.spent,
            cores: available_cores().get(),
            learnt,
            peak_memory_bytes: peak_rss_bytes().unwrap_or(0),
            stages,
            timeline,
            tracks,
            began_at: Some(self.started_at),
            errors: self.errors.into_inner().unwrap_or_else(PoisonError::into_inner),
            notes: self.notes.into_inner().unwrap_or_else(PoisonError::into_inner),
            ..Report::default()
        }
    }

    fn monitor(&self, ended: &crossbeam::channel::Receiver<()>) {
        let stall = match self.config.stall_timeout {
            None => Some(DEFAULT_STALL_TIMEOUT),
            Some(Duration::ZERO) => None,
            some => some,
        };
        let mut last_activity = u64::MAX;
        let mut moved_at = Instant::now();
        let mut interval_ends = INTERVAL;
        while ended.recv_timeout(MONITOR_PERIOD) == Err(RecvTimeoutError::Timeout) {
            self.poll_outside();
            let activity = self.counters.activity.load(Ordering::Relaxed);
            let streams = self.phase.load(Ordering::Acquire) == Phase::Stream as u8;
            if activity != last_activity || !streams {
                last_activity = activity;
                moved_at = Instant::now();
            } else if let Some(after) = stall
                && moved_at.elapsed() >= after
            {
                self.stop.fail(self.stalled(after));
            }
            if streams {
                self.tune();
            }
            self.observer.progress(&self.look());
            let now = self.started.elapsed();
            if self.recorder.has_intervals() && now >= interval_ends {
                self.recorder.end_interval(now, |interval| self.observer.interval(interval));
                // One that was missed is part of the one that has just ended.
                interval_ends = Duration::from_secs(now.as_secs()) + INTERVAL;
            }
        }
    }

    /// Has the threads of a stage learnt from here on.
    pub(crate) fn learn(&self, tuner: Tuner) {
        *self.tuner.lock().unwrap_or_else(PoisonError::into_inner) = Some(tuner);
    }

    /// What was learnt, by stage and in words; nothing more will be.
    fn take_learnt(&self) -> Vec<(&'static str, String)> {
        let tuner = self.tuner.lock().unwrap_or_else(PoisonError::into_inner).take();
        tuner.map_or_else(Vec::new, |tuner| tuner.learnt.into_iter().map(|words| (tuner.stage, words)).collect())
    }

    fn tune(&self) {
        let mut tuner = self.tuner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tuner) = &mut *tuner else { return };
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |name| gauges.iter().rfind(|gauge| gauge.name == name);
        if let (Some(stage), Some(next)) = (find(tuner.stage), find(tuner.next)) {
            tuner.look(stage, next, Instant::now(), self.started.elapsed());
        }
    }

    fn stalled(&self, after: Duration) -> Error {
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        // The last stage that has something in its hands is the one that does not let go of it.
        let stage =
            gauges.iter().rev().find(|gauge| gauge.active.load(Ordering::Relaxed) > 0).map_or("scan", |g| g.name);
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let path = if current.as_os_str().is_empty() { self.vault.clone() } else { current.clone() };
        Error::Stalled { stage, path, after }
    }

    /// Bounds the bytes of buffers under way from here on.
    pub(crate) fn buffers_of(&self, budget: &Arc<Budget>) {
        *self.buffers.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(budget));
    }

    /// How far the run is, by its counters alone.
    fn progress(&self) -> Progress {
        let counters = &self.counters;
        Progress {
            files_done: counters.files_done.load(Ordering::Relaxed),
            files_known: counters.files_known.load(Ordering::Relaxed),
            bytes_done: counters.bytes_done.load(Ordering::Relaxed),
            bytes_known: counters.bytes_known.load(Ordering::Relaxed),
            all_known: counters.all_known.load(Ordering::Relaxed),
            activity: counters.activity.load(Ordering::Relaxed),
            elapsed: self.started.elapsed(),
            phase: match self.phase.load(Ordering::Acquire) {
                commit if commit == Phase::Commit as u8 => "commit",
                sync if sync == Phase::Sync as u8 => "sync",
                _ => self.phase_name,
            },
            ..Progress::default()
        }
    }

    /// How far it is, and what its stages are doing.
    fn look(&self) -> Progress {
        let mut progress = self.progress();
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        let buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let buffers = buffers.as_ref().map(|budget| (budget.used(), budget.total()));
        let mut lookout = self.lookout.lock().unwrap_or_else(PoisonError::into_inner);
        lookout.look(&gauges, &self.counters, buffers, Instant::now(), &mut progress);
        progress
    }

    fn take_timeline(&self) -> Timeline {
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lookout = self.lookout.lock().unwrap_or_else(PoisonError::into_inner);
        let lookout = std::mem::replace(&mut *lookout, Lookout::new(self.started));
        lookout.finish(&gauges, &self.counters, Instant::now(), &mut self.progress())
    }
}

/// An error in the words of an entry's failure: a kind, and a message without the path.
pub(crate) fn describe(error: &Error) -> (EntryErrorKind, String) {
    match error {
        // What was a directory on the way to it is none any more: nothing is in its place.
        Error::Io { op, source, .. } if source.kind() == std::io::ErrorKind::NotADirectory => {
            (EntryErrorKind::NotFound, format!("cannot {op}: {source}"))
        }
        Error::Io { op, source, .. } => (EntryErrorKind::of_io(source), format!("cannot {op}: {source}")),
        Error::Damaged { source, offset, .. } => {
            (EntryErrorKind::Damaged, format!("damaged at byte {} of the vault: {source}", offset.0))
        }
        Error::Usage(message) => (EntryErrorKind::Unsupported, message.clone()),
        other => (EntryErrorKind::Io, other.to_string()),
    }
}

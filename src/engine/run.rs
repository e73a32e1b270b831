//! One operation from its start to its end: who may stop it, what it has done so far, who is told.
//!
//! A [`Run`] is made when an operation begins and lives on its stack. A monitor thread beside it turns a pulled token, a
//! passed deadline or a stall into a stop, and reports progress; it ends with the run.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, bounded};

use crate::engine::cancel::Stop;
use crate::engine::config::{DEFAULT_STALL_TIMEOUT, PipelineConfig};
use crate::engine::gate::{Gate, Tuner};
use crate::engine::observe::{EntryError, EntryErrorKind, Notice, Observer, Phases, Progress, Report, StageReport};
use crate::error::{Error, Result};
use crate::primitives::sys::{available_cores, peak_rss_bytes};

/// How often the monitor looks.
const MONITOR_PERIOD: Duration = Duration::from_millis(100);

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Locks, keys, roots: the stall clock rests.
    Prepare,
    /// Data moves, or should.
    Stream,
    /// Syncs and the commit: the stall clock rests.
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
            Phase::Commit => &mut self.spent.finish,
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
    pub(crate) busy_ns: AtomicU64,
    /// Items done, and bytes given on.
    pub(crate) items: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Workers that have an item in their hands.
    pub(crate) active: AtomicU64,
}

impl Gauge {
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
            Err(error) => Err(run.stop.take_cause().unwrap_or(error)),
            ok => ok,
        };
        run.report_progress(None);
        (result, run)
    }

    /// Says where the run is.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).enter(phase);
        if phase == Phase::Commit {
            // Who listens must know before anything is committed, not a moment later.
            self.report_progress(None);
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
    pub(crate) fn gauge(&self, name: &'static str, workers: usize, gate: Option<Arc<Gate>>) -> Arc<Gauge> {
        let gauge = Arc::new(Gauge {
            name,
            workers,
            gate,
            busy_ns: AtomicU64::new(0),
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            active: AtomicU64::new(0),
        });
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
        let mut last_busy: Vec<u64> = Vec::new();
        let mut looked_at = Instant::now();
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
            let busiest = self.busiest(&mut last_busy, looked_at.elapsed());
            looked_at = Instant::now();
            self.report_progress(busiest);
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

    fn busiest(&self, last: &mut Vec<u64>, elapsed: Duration) -> Option<(&'static str, f64)> {
        let gauges = self.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        last.resize(gauges.len(), 0);
        let mut busiest = None;
        for (gauge, last) in gauges.iter().zip(last) {
            let busy = gauge.busy_ns.load(Ordering::Relaxed);
            let share = (busy - *last) as f64 / (elapsed.as_nanos() as f64 * gauge.workers() as f64);
            *last = busy;
            if busiest.is_none_or(|(_, most)| share > most) {
                busiest = Some((gauge.name, share.min(1.0)));
            }
        }
        busiest
    }

    fn report_progress(&self, busiest: Option<(&'static str, f64)>) {
        let counters = &self.counters;
        self.observer.progress(&Progress {
            files_done: counters.files_done.load(Ordering::Relaxed),
            files_known: counters.files_known.load(Ordering::Relaxed),
            bytes_done: counters.bytes_done.load(Ordering::Relaxed),
            bytes_known: counters.bytes_known.load(Ordering::Relaxed),
            all_known: counters.all_known.load(Ordering::Relaxed),
            elapsed: self.started.elapsed(),
            busiest,
            phase: if self.phase.load(Ordering::Acquire) == Phase::Commit as u8 { "commit" } else { self.phase_name },
        });
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

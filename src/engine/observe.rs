//! What a run tells while it goes on, and what it says at its end.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::recorder::{Interval, Track};
use crate::engine::timeline::Timeline;
use crate::engine::verdict::Bottleneck;
use crate::error::Error;
use crate::primitives::fs::Timestamp;
use crate::primitives::units::{format_rate, format_size};

/// Listens to a run. Called from the engine's threads, several at once: implementations must be quick and not block.
pub trait Observer: Send + Sync {
    /// Something happened that a person may want to read now.
    fn notice(&self, notice: &Notice) {
        let _ = notice;
    }
    /// How far the run is; about ten times a second, and once at the end.
    fn progress(&self, progress: &Progress) {
        let _ = progress;
    }
    /// The latencies of the last second, about once a second and once at the end, where [`Recording::intervals`](crate::Recording::intervals) asks for
    /// them.
    fn interval(&self, interval: &Interval<'_>) {
        let _ = interval;
    }
}

/// An observer that listens to nothing.
impl Observer for () {}

/// Something that happened in a run and did not end it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Notice {
    /// An entry could not be handled as asked; it is in the report too.
    Failed(EntryError),
    /// Worth a line, but no error: a socket left out, a file that only grew while it was read, a copy of a header that is bad.
    Note {
        /// The file or the vault.
        path: PathBuf,
        /// What is to be said of it.
        message: String,
    },
    /// The run waits for a lock that another process holds.
    WaitingForLock {
        /// The vault.
        vault: PathBuf,
    },
}

/// How far a run is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Entries but directories, done.
    pub files_done: u64,
    /// Entries but directories, as far as they are known.
    pub files_known: u64,
    /// Bytes of file content done; of files under way, what is packed or written of them, as far as that is known.
    pub bytes_done: u64,
    /// Bytes of file content, as far as they are known.
    pub bytes_known: u64,
    /// Whether the known figures are final.
    pub all_known: bool,
    /// Rises whenever anything moves, be it a chunk of a file that is not done for long: that it stands still is a stall.
    pub activity: u64,
    /// Time since the run began.
    pub elapsed: Duration,
    /// The stage that was busiest lately, and its utilization, 0 to 1.
    pub busiest: Option<(&'static str, f64)>,
    /// Each stage that has begun, in the order in which they did.
    pub stages: Vec<StageProgress>,
    /// Bytes of buffers in use, and how many there may be at most.
    pub buffers: Option<(u64, u64)>,
    /// Bytes of content done a second, lately.
    pub bytes_per_sec: f64,
    /// The time that is left, by what the busiest stage has still to do and how fast it has been lately; `None` while
    /// that cannot be told.
    pub remaining: Option<Duration>,
    /// Where the run is: `scan`, `pack`, `commit`, `restore`, `verify`.
    pub phase: &'static str,
}

/// One stage while it works.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct StageProgress {
    /// `scan`, `read`, `compress`, ...
    pub name: &'static str,
    /// Threads that work now.
    pub workers: usize,
    /// The share of their time that went into the stage's own work lately, 0 to 1.
    pub utilization: f64,
    /// Items in the queue before it, and how many there is room for.
    pub queue: Option<(usize, usize)>,
}

/// One entry that failed, with the cause in words for people and in a word for programs.
#[derive(Debug, Clone)]
pub struct EntryError {
    /// The path: in the source when packing, in the vault when restoring.
    pub path: PathBuf,
    /// The cause in a word.
    pub kind: EntryErrorKind,
    /// The cause in words, as `cannot OP: WHY`.
    pub message: String,
}

/// Why an entry failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryErrorKind {
    /// It does not exist (any more).
    NotFound,
    /// The system does not allow it.
    PermissionDenied,
    /// It changed while it was read; what was read is stored.
    Changed,
    /// The disk is full.
    NoSpace,
    /// Something else is in the way.
    Exists,
    /// The vault's record of it is damaged.
    Damaged,
    /// It cannot be what it would have to be: a name that is not allowed, a type that cannot be restored.
    Unsupported,
    /// Any other answer of the system.
    Io,
}

impl EntryErrorKind {
    /// The word used in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::Changed => "changed",
            Self::NoSpace => "no_space",
            Self::Exists => "exists",
            Self::Damaged => "damaged",
            Self::Unsupported => "unsupported",
            Self::Io => "io",
        }
    }

    /// The kind of a system error.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::NotFound => Self::NotFound,
            K::PermissionDenied => Self::PermissionDenied,
            K::StorageFull | K::QuotaExceeded => Self::NoSpace,
            K::AlreadyExists | K::IsADirectory | K::NotADirectory | K::DirectoryNotEmpty => Self::Exists,
            _ => Self::Io,
        }
    }
}

/// What a run did. `Display` gives its figures in a few lines, without the paths of what failed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// The operation: `add`, `extract`, `get`, `verify`.
    pub command: &'static str,
    /// The snapshot made or read.
    pub snapshot: Option<u64>,
    /// The id of the key that was added, put in another's place, or removed; of an import, of the one that opened it.
    pub key: Option<u32>,
    /// Entries but directories.
    pub total_files: u64,
    /// Of these, handled (unchanged ones too).
    pub successful_files: u64,
    /// Of these, failed; `errors` has one element for each, and more for directories and missing sources.
    pub failed_files: u64,
    /// Of the successful, taken over without reading.
    pub unchanged_files: u64,
    /// Of the failed, stored, but changed while they were read.
    pub changed_files: u64,
    /// Directories handled.
    pub directories: u64,
    /// Entries but directories that the new snapshot has no longer (`remove`, `add` with `mirror`).
    pub removed_files: u64,
    /// Directories that it has no longer.
    pub removed_directories: u64,
    /// Bytes of file content handled.
    pub total_size: u64,
    /// Bytes written to the vault (packing), or read from it.
    pub stored_size: u64,
    /// Wall time of the whole operation.
    pub duration: Duration,
    /// The same by what was done.
    pub phases: Phases,
    /// Cores that the process might use: its affinity and the quota of its cgroup counted.
    pub cores: usize,
    /// The process's peak of resident memory, in bytes.
    pub peak_memory_bytes: u64,
    /// Each stage that took part, in the order of the data.
    pub stages: Vec<StageReport>,
    /// What is left of a damaged vault (`recover` only).
    pub recovery: Option<Recovery>,
    /// What became of the vault's file (`compact`, `rekey`).
    pub compaction: Option<Compaction>,
    /// Bytes of the vault's extents that no snapshot refers to (`verify` only).
    pub unreferenced_bytes: Option<u64>,
    /// What was learnt of the threads of a stage while it ran, by stage and in words: `4 instead of 2 after 0.4 s: 61 % more`.
    pub learnt: Vec<(&'static str, String)>,
    /// What kept the run from being faster; `None` where nothing ran, or what ran was over too soon to say.
    pub bottleneck: Option<Bottleneck>,
    /// What the run works with; for a dry run, what it would.
    pub plan: Option<PlanReport>,
    /// How it went over time.
    pub timeline: Timeline,
    /// The work of each thread, piece by piece, where [`Recording::spans`](crate::Recording::spans) asks for it.
    pub tracks: Vec<Track>,
    /// When it began, by the system's clock.
    pub began_at: Option<std::time::SystemTime>,
    /// Every failure, with its path.
    pub errors: Vec<EntryError>,
    /// What was mentioned without being an error.
    pub notes: Vec<String>,
}

impl Report {
    /// Bytes of file content a second, 0 for a run without time.
    #[must_use]
    pub fn throughput_bytes_per_sec(&self) -> f64 {
        let seconds = self.duration.as_secs_f64();
        if seconds > 0.0 { self.total_size as f64 / seconds } else { 0.0 }
    }

    /// Whether anything failed because bytes of the vault are damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.errors.iter().any(|error| error.kind == EntryErrorKind::Damaged)
    }

    /// Whether everything asked for was done, without any failure.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.errors.is_empty() && self.failed_files == 0
    }
}

impl fmt::Display for Report {
    /// What was processed and failed, sizes, duration, average speed, threads of each stage: a line each, no line end
    /// behind the last. Lines that have nothing to say are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.command.is_empty() { "operation" } else { self.command })?;
        if let Some(number) = self.snapshot {
            write!(f, ", snapshot {number}")?;
        }
        let Self { failed_files, unchanged_files, changed_files, .. } = self;
        let successful = count(self.successful_files, "file", "files");
        let directories = count(self.directories, "directory", "directories");
        write!(f, "\nsuccessfully processed: {successful}, {directories}")?;
        if *unchanged_files > 0 {
            write!(f, " ({unchanged_files} unchanged)")?;
        }
        write!(f, "\nfailed: {}", count(*failed_files, "file", "files"))?;
        if *changed_files > 0 {
            write!(f, " ({changed_files} stored, but changed meanwhile)")?;
        }
        // Directories and missing sources are no files, and would go unnoticed here.
        if u64::try_from(self.errors.len()).is_ok_and(|errors| errors > *failed_files) {
            write!(f, ", {} errors in all", self.errors.len())?;
        }
        write!(f, "\ntotal size: {}", format_size(self.total_size))?;
        if self.stored_size > 0 {
            write!(f, " ({} in the vault)", format_size(self.stored_size))?;
        }
        write!(f, "\nduration: {:.2} s", self.duration.as_secs_f64())?;
        write!(f, "\naverage speed: {}", format_rate(self.throughput_bytes_per_sec()))?;
        for (position, stage) in self.stages.iter().enumerate() {
            let before = if position == 0 { "\nworkers: " } else { ", " };
            write!(f, "{before}{} {}", stage.name, stage.workers)?;
        }
        Ok(())
    }
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Where the time of an operation went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Phases {
    /// Locks, opening, reading the index, before any data moves.
    pub prepare: Duration,
    /// The pipeline.
    pub stream: Duration,
    /// Syncs and the commit; of `extract`, what is done last to directories.
    pub finish: Duration,
}

/// What a vault's file was and is, where it is written anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// Numbers of the snapshots that are kept, ascending.
    pub kept: Vec<u64>,
    /// Numbers of the others.
    pub dropped: Vec<u64>,
    /// The length of the old file, in bytes.
    pub bytes_before: u64,
    /// The length of the new one; before that is written, an estimate.
    pub bytes_after: u64,
    /// Data records that stay as they are, or are sealed anew with the packed bytes that they have.
    pub moved_records: u64,
    /// Data records of which little was needed: that is packed anew.
    pub repacked_records: u64,
    /// Bytes that these took in the old file.
    pub repacked_bytes: u64,
}

/// What `recover` has found, beside the losses that the report's errors name.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// The newest first; then those that are no part of the vault, though they open.
    pub snapshots: Vec<RecoveredSnapshot>,
    /// What is damaged and costs nothing, since it can be made again from what is whole: a line each.
    pub faults: Vec<String>,
    /// These faults have been mended in place.
    pub mended: bool,
    /// The length of the vault that was saved, in bytes.
    pub saved_bytes: Option<u64>,
}

/// A snapshot that is left of a damaged vault.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RecoveredSnapshot {
    /// Its number; a new one, if it had none or another snapshot has the same.
    pub number: u64,
    /// When its commit was made; of one without a commit record, when it was found.
    pub time: Timestamp,
    /// Entries but directories that its run stored; 0 of one without a commit record, of which that is not known, all
    /// entries of one run alone.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Names that are lost, each a line of the report's errors; a range of names is one.
    pub lost_entries: u64,
    /// Nothing of it is lost.
    pub whole: bool,
    /// It is what the vault holds now.
    pub newest: bool,
    /// It was found, and does not lead to the newest one.
    pub recovered: bool,
    /// Its commit record is lost, or was never written.
    pub without_commit: bool,
    /// It holds what one run had stored, and nothing from before: what it was a change of is not known.
    pub one_run: bool,
    /// It is no part of the vault: a run had come so far when it was killed.
    pub beside: bool,
}

/// What a run works with: threads, buffers, and the memory that follows from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanReport {
    /// Threads of each stage, in the order of the data.
    pub workers: Vec<(&'static str, usize)>,
    /// Slots of the channel before each of these stages but the first.
    pub queue_depths: Vec<(&'static str, usize)>,
    /// The largest chunk, in bytes of content.
    pub chunk_size: u32,
    /// Bytes of buffers that chunks under way may take, all together.
    pub buffer_bytes: u64,
    /// Entries that may be under way at once.
    pub entries_in_flight: u64,
    /// The most memory that the pipeline is predicted to take, in bytes. The key derivation's comes before, and is given back.
    pub peak_memory_bytes: u64,
    /// Stages that have fewer threads than they would without a ceiling of memory, and how many that would be.
    pub reduced: Vec<(&'static str, usize)>,
    /// Why each stage has so many threads, in words; what is learnt while it runs is in [`Report::learnt`].
    pub reasons: Vec<(&'static str, String)>,
    /// The ceiling that would reduce nothing.
    pub unreduced_memory_bytes: u64,
}

/// What one stage did: its workers together, each by itself, and how the times of single items are distributed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct StageReport {
    /// `scan`, `read`, `compress`, ...
    pub name: &'static str,
    /// Threads of this stage.
    pub workers: usize,
    /// The work of all of them together.
    pub work: Work,
    /// `busy / (workers × wall)`, 0 to 1.
    pub utilization: f64,
    /// The stage's own work on a chunk.
    pub service: Percentiles,
    /// The same as a curve: the share of all chunks, 0 to 1, that took no longer; denser towards 1, which is the longest.
    pub service_curve: Vec<(f64, Duration)>,
    /// Each wait for something to do.
    pub input: Percentiles,
    /// Each wait for the next stage to take something.
    pub output: Percentiles,
    /// Each wait for memory to be given back.
    pub budget: Percentiles,
    /// The work of each thread.
    pub threads: Vec<Work>,
}

impl StageReport {
    /// What its threads spent of their busy time off the CPU, though not for want of a core.
    #[must_use]
    pub fn blocked(&self) -> Duration {
        self.threads.iter().map(Work::blocked).sum()
    }
}

/// What one thread did, or several together. Times are wall clock unless said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Work {
    /// Chunks handled; of `scan` and `plan` entries, of `index` messages.
    pub chunks: u64,
    /// Chunks given on.
    pub chunks_out: u64,
    /// Bytes taken in.
    pub bytes_in: u64,
    /// Bytes given on.
    pub bytes_out: u64,
    /// Time in the stage's own work.
    pub busy: Duration,
    /// CPU time.
    pub cpu: Duration,
    /// Time in which a thread could have run and had no core; `None` if the system does not tell.
    pub ready: Option<Duration>,
    /// Time waiting for something to do.
    pub wait_input: Duration,
    /// Time waiting for the next stage to take something.
    pub wait_output: Duration,
    /// Time waiting for memory to be given back.
    pub wait_budget: Duration,
}

impl Work {
    /// The part of `busy` that was spent on a core, or in want of one. A thread wants one while it waits for something to
    /// do, too, for moments: so this is an upper bound, and never more than `busy`.
    #[must_use]
    pub fn on_cpu(&self) -> Duration {
        (self.cpu + self.ready.unwrap_or_default()).min(self.busy)
    }

    /// The part of `busy` that was spent off the CPU, though not for want of a core: waiting for a device, mostly.
    #[must_use]
    pub fn blocked(&self) -> Duration {
        self.busy - self.on_cpu()
    }
}

/// How durations of one kind are distributed: three significant digits, the longest exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Percentiles {
    /// How many there were.
    pub count: u64,
    /// How many of them were longer than an hour: these count as an hour everywhere but in `max`.
    pub beyond_range: u64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 90 % of them took no longer.
    pub p90: Duration,
    /// 99 % of them took no longer.
    pub p99: Duration,
    /// 99.9 % of them took no longer.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

/// An operation that ended early, with what was done until then.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failed {
    /// The first cause.
    #[source]
    pub error: Error,
    /// What was done and found until then.
    pub report: Box<Report>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, report: Box::default() }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            command: "add",
            snapshot: Some(3),
            successful_files: 245,
            directories: 12,
            total_size: 1536 << 20,
            stored_size: 512 << 20,
            duration: Duration::from_millis(12_300),
            stages: [("scan", 1), ("read", 2)]
                .map(|(name, workers)| StageReport { name, workers, ..StageReport::default() })
                .into(),
            ..Report::default()
        }
    }

    #[test]
    fn a_report_reads_as_a_few_lines_of_figures() {
        let lines = [
            "add, snapshot 3",
            "successfully processed: 245 files, 12 directories",
            "failed: 0 files",
            "total size: 1.5 GiB (512 MiB in the vault)",
            "duration: 12.30 s",
            "average speed: 124.9 MiB/s",
            "workers: scan 1, read 2",
        ];
        assert_eq!(report().to_string().lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn failures_that_are_no_files_are_counted_too() {
        let missing = EntryError {
            path: PathBuf::from("gone"),
            kind: EntryErrorKind::NotFound,
            message: "cannot open: no such file".into(),
        };
        let report = Report { failed_files: 1, changed_files: 1, errors: vec![missing; 3], ..report() };
        let text = report.to_string();
        assert!(text.contains("failed: 1 file (1 stored, but changed meanwhile), 3 errors in all"), "{text}");
    }

    #[test]
    fn an_empty_report_has_no_infinite_speed_and_no_empty_lines() {
        let text = Report::default().to_string();
        assert!(text.ends_with("\naverage speed: 0 B/s"), "{text}");
        assert!(text.lines().all(|line| !line.is_empty()), "{text}");
    }
}

//! What a profile is asked, and what it answers: the words of the public interface.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::api::AddOptions;
use crate::engine::config::Level;
use crate::engine::observe::Report;
use crate::error::Error;

/// What `profile` measures, and for how long.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ProfileOptions {
    /// Threads, level, what is left out, how files are read; tags and `mirror` have no meaning here. On the way out of a
    /// vault only its [`pipeline`](AddOptions::pipeline) and [`dry_run`](AddOptions::dry_run) count: with it nothing is
    /// measured, and the one round has the plan, [`Report::plan`].
    pub pack: AddOptions,
    /// The file system that is written to: with a scratch vault that never has a name, or, on the way out of a vault, with a
    /// directory that is taken away again, and holds up to four times the content until then. `None`: nothing is written, what a run makes is dropped.
    pub to: Option<PathBuf>,
    /// When no further round, or point of a sweep, is begun, and none takes more than a fifth of it; `None`: 30 s, and 2 min
    /// for a sweep.
    pub time: Option<Duration>,
    /// The files (or the vault) are put out of the page cache before each round; if not, they are in it.
    pub cold: bool,
    /// Each stage is measured alone, too.
    pub roofline: bool,
    /// Other thread counts and levels are measured, beside what is predicted for them (packing only).
    pub sweep: bool,
}

/// What was measured.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Profile {
    /// The way out of a vault, not into one.
    pub unpack: bool,
    /// The level, packing.
    pub level: Level,
    /// See [`ProfileOptions::cold`].
    pub cold: bool,
    /// Rounds had a part of the content, the median one so many bytes of it; `None`: each had all.
    pub sample_bytes: Option<u64>,
    /// The rounds that count, in the order they were run; a first one that filled the page cache is not among them.
    pub rounds: Vec<Report>,
    /// The last rounds differed by less than 5 %.
    pub stable: bool,
    /// Each stage alone.
    pub roofline: Option<Roofline>,
    /// Other thread counts and levels.
    pub sweep: Option<Sweep>,
}

impl Profile {
    /// The round of median throughput; `None` if there was none.
    #[must_use]
    pub fn median(&self) -> Option<&Report> {
        let mut rounds: Vec<&Report> = self.rounds.iter().collect();
        rounds.sort_by(|one, other| one.throughput_bytes_per_sec().total_cmp(&other.throughput_bytes_per_sec()));
        rounds.get(rounds.len().saturating_sub(1) / 2).copied()
    }

    /// The lowest and the highest throughput of the rounds, in bytes a second.
    #[must_use]
    pub fn spread(&self) -> Option<(f64, f64)> {
        let rates = || self.rounds.iter().map(Report::throughput_bytes_per_sec);
        let least = rates().min_by(f64::total_cmp)?;
        rates().max_by(f64::total_cmp).map(|most| (least, most))
    }
}

/// What each stage reaches alone, on one thread with nothing beside it, with this very data; and what that allows.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Roofline {
    /// The stages, in the order of the data.
    pub kernels: Vec<Kernel>,
    /// Writing to the file system of [`ProfileOptions::to`] alone, bytes of output a second; packing, the sync is included.
    pub write_bytes_per_sec: Option<f64>,
    /// Cores that were counted with.
    pub cores: usize,
    /// Content a second that the cores, or writing, allow, whichever is less.
    pub bytes_per_sec: f64,
    /// What that is: `cpu` or `write`.
    pub bound: &'static str,
    /// What the median round reached of it; a little above 1 is possible, where a stage alone ran at a worse moment.
    pub share: f64,
}

/// A stage alone.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Kernel {
    /// Its name.
    pub name: &'static str,
    /// Bytes of content, before packing.
    pub bytes: u64,
    /// Wall time.
    pub wall: Duration,
    /// CPU time.
    pub cpu: Duration,
}

impl Kernel {
    /// Bytes of content a second of CPU time; 0 if it took none.
    #[must_use]
    pub fn bytes_per_cpu_sec(&self) -> f64 {
        let seconds = self.cpu.as_secs_f64();
        if seconds > 0.0 { self.bytes as f64 / seconds } else { 0.0 }
    }
}

/// A grid of thread counts and levels.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Sweep {
    /// The points had a part of the content, of so many bytes, so that there was time for all; `None`: what the rounds had.
    pub sample_bytes: Option<u64>,
    /// Its points, level by level.
    pub points: Vec<SweepPoint>,
    /// The median of how far predictions were off, as a share of what was measured; `None` where nothing was measured.
    pub median_error: Option<f64>,
}

/// One combination of threads and level.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SweepPoint {
    /// `--workers`; `None`: auto.
    pub workers: Option<u16>,
    /// `--level`.
    pub level: Level,
    /// Content a second as predicted from the profile and a sample of the data at this level.
    pub predicted_bytes_per_sec: f64,
    /// Content a second as measured; `None` if there was no time for it.
    pub measured_bytes_per_sec: Option<f64>,
    /// Bytes in the vault for a byte of content, measured if it was.
    pub stored_share: f64,
    /// It was measured, and none that was is both faster and smaller.
    pub pareto: bool,
}

/// A profile that ended early, with what was measured until then.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct ProfileFailed {
    /// The first cause.
    #[source]
    pub error: Error,
    /// What was measured.
    pub profile: Box<Profile>,
}

impl From<Error> for ProfileFailed {
    fn from(error: Error) -> Self {
        Self { error, profile: Box::default() }
    }
}

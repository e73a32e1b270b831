//! Profiling: the pipeline over and over, into nothing or onto a disk, until its figures are stable; each stage alone; and
//! other thread counts and levels, predicted and measured.
//!
//! Every round is an operation of its own, with the pipeline that a backup has: what is measured is what is used. Into
//! nothing means a vault whose data is dropped where the disk would be ([`sink`]). The profile's own deadline is that of
//! all rounds together, and a token that is pulled ends it with what was measured until then.

mod alone;
mod cache;
pub(crate) mod outcome;
mod sink;
mod sweep;
mod unpack;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crypto::derive::KdfParams;
use crate::crypto::key::{Password, fill_random};
use crate::engine::api::{AddOptions, CreateOptions};
use crate::engine::config::PipelineConfig;
use crate::engine::observe::{Observer, Progress, Report};
use crate::engine::profile::outcome::{Profile, ProfileFailed, ProfileOptions, Roofline};
use crate::engine::profile::sink::Scratch;
use crate::engine::run::Run;
use crate::engine::vault::Vault;
use crate::error::{Error, FileOp, Result};

/// How long is measured where nothing else is asked for; with a sweep.
const TIME: Duration = Duration::from_secs(30);
const SWEEP_TIME: Duration = Duration::from_secs(120);
/// Rounds of so much content are long enough, and so many of them enough.
const ROUND_BYTES: u64 = 4 << 30;
const LEAST_ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 20;
/// Rounds that differ by less than this are stable.
const STABLE: f64 = 1.05;
/// A round may take this share of the time.
const ROUND_SHARE: f64 = 0.2;

/// Measures how these sources are packed, by [`ProfileOptions`]; nothing that exists is changed.
///
/// # Errors
/// What ended it, with what was measured until then: of a sweep that was interrupted, the points that were finished.
/// [`Error::Refused`] where there is nothing to measure.
pub fn profile(
    sources: &[PathBuf],
    options: &ProfileOptions,
    observer: &dyn Observer,
) -> Result<Profile, ProfileFailed> {
    let mut profile = Profile { level: options.pack.level, cold: options.cold, ..Profile::default() };
    let session = Session::begin(options, observer);
    let packer = Packer { session: &session, sources };
    match packer.measure(&mut profile) {
        Ok(()) => Ok(profile),
        Err(error) => Err(ProfileFailed { error, profile: Box::new(profile) }),
    }
}

/// Tells of progress, and of nothing that the first round has told already.
struct Again<'o>(&'o dyn Observer);

impl Observer for Again<'_> {
    fn progress(&self, progress: &Progress) {
        self.0.progress(progress);
    }
}

/// What all rounds share.
struct Session<'o> {
    options: &'o ProfileOptions,
    observer: &'o dyn Observer,
    began: Instant,
    /// The same, for all rounds but the first.
    again: Again<'o>,
    /// A round has begun.
    has_told: Cell<bool>,
    /// Nothing is begun after this.
    time: Duration,
}

impl<'o> Session<'o> {
    fn begin(options: &'o ProfileOptions, observer: &'o dyn Observer) -> Self {
        let time = options.time.unwrap_or(if options.sweep { SWEEP_TIME } else { TIME });
        Self { options, observer, began: Instant::now(), again: Again(observer), has_told: Cell::new(false), time }
    }

    /// The options of the next operation: of a deadline what is left, and nothing that writes elsewhere.
    fn pack_options(&self) -> Result<AddOptions> {
        let options = AddOptions { tags: Vec::new(), mirror: false, dry_run: false, ..self.options.pack.clone() };
        Ok(AddOptions { pipeline: self.config()?, ..options })
    }

    fn config(&self) -> Result<PipelineConfig> {
        let mut config = self.options.pack.pipeline.clone();
        if let Some(timeout) = &mut config.timeout {
            let left = timeout.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                return Err(Error::Deadline(*timeout));
            }
            *timeout = left;
        }
        Ok(config)
    }

    /// An operation that is no round.
    fn conduct<T>(&self, path: &Path, work: impl FnOnce(&Run<'_>) -> Result<T>) -> Result<T> {
        Run::conduct("profile", path, &self.config()?, &self.again, work).0
    }

    /// Who hears of a round.
    fn listener(&self) -> &dyn Observer {
        if self.has_told.replace(true) { &self.again } else { self.observer }
    }

    fn left(&self) -> Duration {
        self.time.saturating_sub(self.began.elapsed())
    }

    /// Rounds until they are stable or the time, of which some is for what comes after, is over.
    ///
    /// - `round`: one round, of so much content at most.
    fn rounds(&self, profile: &mut Profile, mut round: impl FnMut(u64) -> Result<Report>) -> Result<()> {
        let share = if self.options.sweep { 0.25 } else { 0.8 };
        let until = self.began + self.time.mul_f64(share);
        let mut limit = ROUND_BYTES;
        // Into the page cache, or to learn how long a round takes.
        let first = round(limit)?;
        let longest = self.time.mul_f64(ROUND_SHARE);
        let mut counts = self.options.cold;
        if first.duration > longest {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a number of bytes")]
            let part = (first.total_size as f64 * longest.as_secs_f64() / first.duration.as_secs_f64()) as u64;
            (limit, counts) = (part.max(1), false);
        }
        if first.total_size >= limit {
            profile.sample_bytes = Some(limit);
        }
        if counts {
            profile.rounds.push(first);
        }
        while profile.rounds.len() < MOST_ROUNDS {
            if is_stable(&profile.rounds) {
                profile.stable = true;
                break;
            }
            if !profile.rounds.is_empty() && Instant::now() >= until {
                break;
            }
            profile.rounds.push(round(limit)?);
        }
        Ok(())
    }
}

/// Whether the last rounds say the same.
fn is_stable(rounds: &[Report]) -> bool {
    let Some(last) = rounds.len().checked_sub(LEAST_ROUNDS).map(|from| &rounds[from..]) else { return false };
    let rates = || last.iter().map(Report::throughput_bytes_per_sec);
    let (least, most) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
    most <= least * STABLE
}

/// The way into a vault.
struct Packer<'s, 'o> {
    session: &'s Session<'o>,
    sources: &'s [PathBuf],
}

impl Packer<'_, '_> {
    fn measure(&self, profile: &mut Profile) -> Result<()> {
        let options = self.session.options;
        let measured = self.session.rounds(profile, |limit| {
            let mut pack = self.session.pack_options()?;
            pack.sample_bytes = Some(limit);
            if options.cold {
                self.session.conduct(self.path(), |run| cache::forget_sources(run, self.sources, &pack))?;
            }
            self.round(&pack)
        });
        measured?;
        if options.roofline {
            profile.roofline = Some(self.roofline(profile)?);
        }
        if options.sweep { sweep::sweep(self, profile) } else { Ok(()) }
    }

    /// What messages call the vault that is none.
    fn path(&self) -> &Path {
        self.session.options.to.as_deref().unwrap_or(Path::new("nowhere"))
    }

    /// Packs once.
    fn round(&self, options: &AddOptions) -> Result<Report> {
        let place = Arc::new(scratch(self.session.options.to.as_deref())?);
        // Nobody is to open this vault ever again.
        let mut secret = [0; 32];
        fill_random(&mut secret)?;
        let password = Password::new(secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let kdf = KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 };
        let create = CreateOptions { kdf, ..CreateOptions::default() };
        let vault = Vault::open_in(self.path(), place, &password, Some(&create))?;
        let path = || self.sources.first().cloned().unwrap_or_default();
        let report =
            vault.add(self.sources, options, self.session.listener()).map_err(|failed| match failed.error {
                Error::NothingStored(_) => {
                    Error::Refused { what: "there is nothing to measure: nothing could be read", path: path() }
                }
                error => error,
            })?;
        if report.total_files == 0 {
            return Err(Error::Refused { what: "there is nothing to measure: no files", path: path() });
        }
        Ok(Report { command: "profile", snapshot: None, ..report })
    }

    fn roofline(&self, profile: &Profile) -> Result<Roofline> {
        let median = profile.median().ok_or(Error::Interrupted)?;
        let options = self.session.pack_options()?;
        let stride = alone::stride(median.total_size, alone::ENOUGH);
        let limit = profile.sample_bytes.unwrap_or(u64::MAX);
        let measured = self
            .session
            .conduct(self.path(), |run| alone::pack(run, self.sources, &options, options.level, stride, limit));
        let alone = measured?;
        let write = match &self.session.options.to {
            Some(directory) => {
                let bytes = median.stored_size.clamp(64 << 20, 1 << 30);
                let place = scratch(Some(directory))?;
                Some(self.session.conduct(directory, |run| alone::write(run, directory, &place, bytes))?)
            }
            None => None,
        };
        Ok(roofline(alone, write, median))
    }
}

/// A place for vaults that nobody keeps.
fn scratch(directory: Option<&Path>) -> Result<Scratch> {
    let path = || directory.unwrap_or(Path::new("nowhere"));
    Scratch::new(directory).map_err(|error| Error::io(FileOp::Open, path(), error))
}

/// What the stages alone allow, and how near a run came to it. Stages that cannot be run alone (index, write) count with
/// the CPU time that they had in the run.
fn roofline(alone: alone::Alone, write_bytes_per_sec: Option<f64>, median: &Report) -> Roofline {
    let total = (median.total_size as f64).max(1.0);
    let is_alone = |name: &str| alone.kernels.iter().any(|kernel| kernel.name == name);
    let rest = median.stages.iter().filter(|stage| !is_alone(stage.name));
    let rest: f64 = rest.map(|stage| stage.work.cpu.as_secs_f64()).sum::<f64>() / total;
    let cost: f64 = alone.kernels.iter().map(|kernel| alone.cost(kernel.name)).sum::<f64>() + rest;
    let cores = median.cores.max(1);
    let by_cpu = if cost > 0.0 { cores as f64 / cost } else { 0.0 };
    let by_write = write_bytes_per_sec.map(|rate| rate / alone.stored_share.max(1e-6));
    let (bytes_per_sec, bound) = match by_write {
        Some(by_write) if by_write < by_cpu => (by_write, "write"),
        _ => (by_cpu, "cpu"),
    };
    let share = if bytes_per_sec > 0.0 { median.throughput_bytes_per_sec() / bytes_per_sec } else { 0.0 };
    Roofline { kernels: alone.kernels, write_bytes_per_sec, cores, bytes_per_sec, bound, share }
}

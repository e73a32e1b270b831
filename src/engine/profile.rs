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

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::crypto::derive::KdfParams;
use crate::crypto::key::{Password, fill_random};
use crate::engine::api::{AddOptions, CreateOptions};
use crate::engine::config::PipelineConfig;
use crate::engine::observe::{Failed, Notice, Observer, Progress, Report, Work};
use crate::engine::profile::outcome::{Profile, ProfileFailed, ProfileOptions, Roofline};
use crate::engine::profile::sink::Scratch;
use crate::engine::recorder::Interval;
use crate::engine::run::Run;
use crate::engine::vault::Vault;
use crate::error::{Error, FileOp, Result};

/// How long is measured where nothing else is asked for; with a sweep.
const TIME: Duration = Duration::from_secs(30);
const SWEEP_TIME: Duration = Duration::from_secs(120);
/// Of that, the rounds may take this share; if other points are to be measured, too.
const ROUNDS_SHARE: f64 = 0.8;
const ROUNDS_SHARE_OF_SWEEP: f64 = 0.25;
/// A round may take this share of the time: then it is ended, and counts with what it did.
const ROUND_SHARE: f64 = 0.2;
const LEAST_ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 20;
/// Rounds that differ by less than this are stable.
const STABLE: f64 = 1.05;

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
    let measured = packer.measure(&mut profile);
    session.conclude(measured, profile)
}

/// Tells of progress, and of each failure once: every round meets the same.
struct Once<'o> {
    observer: &'o dyn Observer,
    told: Mutex<HashSet<PathBuf>>,
}

impl Observer for Once<'_> {
    fn notice(&self, notice: &Notice) {
        let path = match notice {
            Notice::Failed(error) => &error.path,
            Notice::Note { path, .. } => path,
            Notice::WaitingForLock { .. } => return self.observer.notice(notice),
        };
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            self.observer.notice(notice);
        }
    }

    fn progress(&self, progress: &Progress) {
        self.observer.progress(progress);
    }

    fn interval(&self, interval: &Interval<'_>) {
        self.observer.interval(interval);
    }
}

/// What all rounds share.
struct Session<'o> {
    options: &'o ProfileOptions,
    observer: Once<'o>,
    began: Instant,
    /// Nothing is begun after this.
    time: Duration,
}

impl<'o> Session<'o> {
    fn begin(options: &'o ProfileOptions, observer: &'o dyn Observer) -> Self {
        let time = options.time.unwrap_or(if options.sweep { SWEEP_TIME } else { TIME });
        Self { options, observer: Once { observer, told: Mutex::default() }, began: Instant::now(), time }
    }

    /// The answer of the whole.
    fn conclude(&self, measured: Result<()>, profile: Profile) -> Result<Profile, ProfileFailed> {
        let error = match (measured, self.options.pack.pipeline.timeout) {
            (Ok(()), _) => return Ok(profile),
            // Each operation had what was left.
            (Err(Error::Deadline(_)), Some(timeout)) => Error::Deadline(timeout),
            (Err(error), _) => error,
        };
        Err(ProfileFailed { error, profile: Box::new(profile) })
    }

    /// The options of the next operation, which may take so long, and nothing that writes elsewhere.
    fn pack_options(&self, slice: Duration) -> Result<AddOptions> {
        let options = AddOptions { tags: Vec::new(), mirror: false, dry_run: false, ..self.options.pack.clone() };
        Ok(AddOptions { pipeline: self.config(slice)?, ..options })
    }

    /// The configuration of an operation that may take so long; of a deadline what is left.
    fn config(&self, slice: Duration) -> Result<PipelineConfig> {
        let mut config = self.options.pack.pipeline.clone();
        let left = match config.timeout {
            Some(timeout) if timeout <= self.began.elapsed() => return Err(Error::Deadline(timeout)),
            Some(timeout) => timeout - self.began.elapsed(),
            None => Duration::MAX,
        };
        config.timeout = Some(left.min(slice));
        Ok(config)
    }

    /// What a round that was ended has done; the error, if it was not the slice that ended it.
    fn cut(&self, failed: Failed) -> Result<Report> {
        match failed.error {
            Error::Deadline(_) => {
                self.config(Duration::MAX)?;
                Ok(*failed.report)
            }
            error => Err(error),
        }
    }

    /// An operation that is no round.
    fn conduct<T>(&self, path: &Path, work: impl FnOnce(&Run<'_>) -> Result<T>) -> Result<T> {
        Run::conduct("profile", path, &self.config(Duration::MAX)?, &self.observer, work).0
    }

    fn left(&self) -> Duration {
        self.time.saturating_sub(self.began.elapsed())
    }

    /// How long a round may take.
    fn slice(&self) -> Duration {
        self.time.mul_f64(ROUND_SHARE)
    }

    /// Rounds until they are stable or the time, of which some is for what comes after, is over.
    ///
    /// - `most`: so many rounds at most, beside a first that does not count;
    /// - `round`: one round, of so many bytes of content at most, if that many are to be had at once; says whether it was
    ///   ended by its slice.
    fn rounds(
        &self,
        profile: &mut Profile,
        most: usize,
        mut round: impl FnMut(u64) -> Result<(Report, bool)>,
    ) -> Result<()> {
        let share = if self.options.sweep { ROUNDS_SHARE_OF_SWEEP } else { ROUNDS_SHARE };
        let until = self.time.mul_f64(share);
        // Into the page cache; what did not get there is no part of the rounds that count.
        let mut limit = u64::MAX;
        let mut is_part = false;
        if !self.options.cold {
            let (first, is_cut) = round(limit)?;
            if is_cut {
                (limit, is_part) = (first.total_size.max(1), true);
            }
        }
        while profile.rounds.len() < most {
            if is_stable(&profile.rounds) {
                profile.stable = true;
                break;
            }
            if !profile.rounds.is_empty() && self.began.elapsed() >= until {
                break;
            }
            let (report, is_cut) = round(limit)?;
            is_part |= is_cut;
            profile.rounds.push(report);
        }
        profile.sample_bytes = profile.median().filter(|_| is_part).map(|median| median.total_size);
        Ok(())
    }
}

/// Whether the last rounds say the same: of bytes, or of entries where there are none.
fn is_stable(rounds: &[Report]) -> bool {
    let Some(last) = rounds.len().checked_sub(LEAST_ROUNDS).map(|from| &rounds[from..]) else { return false };
    let rates = || last.iter().map(pace);
    let (least, most) = (rates().fold(f64::MAX, f64::min), rates().fold(0.0, f64::max));
    most <= least * STABLE
}

/// Bytes a second, or entries where there are no bytes.
fn pace(report: &Report) -> f64 {
    match report.total_size {
        0 => (report.total_files + report.directories) as f64 / report.duration.as_secs_f64().max(1e-9),
        _ => report.throughput_bytes_per_sec(),
    }
}

/// The way into a vault.
struct Packer<'s, 'o> {
    session: &'s Session<'o>,
    sources: &'s [PathBuf],
}

impl Packer<'_, '_> {
    fn measure(&self, profile: &mut Profile) -> Result<()> {
        let session = self.session;
        if session.options.pack.dry_run {
            let options = AddOptions { dry_run: true, ..session.pack_options(Duration::MAX)? };
            let rehearsed = self.vault()?.add(self.sources, &options, &session.observer);
            profile.rounds.push(rehearsed.map_err(|failed| self.named(failed).error)?);
            return Ok(());
        }
        session.rounds(profile, MOST_ROUNDS, |limit| {
            let mut pack = session.pack_options(session.slice())?;
            pack.sample_bytes = Some(limit);
            self.round(&pack)
        })?;
        // Without bytes there is nothing that a level, or a stage alone, could be measured with.
        if profile.median().is_none_or(|median| median.total_size == 0) {
            return Ok(());
        }
        if session.options.roofline {
            profile.roofline = Some(self.roofline(profile)?);
        }
        if session.options.sweep { sweep::sweep(self, profile) } else { Ok(()) }
    }

    /// What messages call the vault that is none.
    fn path(&self) -> &Path {
        self.session.options.to.as_deref().unwrap_or(Path::new("nowhere"))
    }

    /// A vault that nobody keeps.
    fn vault(&self) -> Result<Vault> {
        let place = Arc::new(scratch(self.session.options.to.as_deref())?);
        // Nobody is to open this vault ever again.
        let mut secret = [0; 32];
        fill_random(&mut secret)?;
        let password = Password::new(secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let kdf = KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 };
        let create = CreateOptions { kdf, ..CreateOptions::default() };
        Vault::open_in(self.path(), place, &password, Some(&create))
    }

    /// The error of there being nothing to measure.
    fn nothing(&self, what: &'static str) -> Error {
        Error::Refused { what, path: self.sources.first().cloned().unwrap_or_default() }
    }

    /// A failure that names the sources, where it would name the vault that is none.
    fn named(&self, failed: Failed) -> Failed {
        match failed.error {
            Error::NothingStored(_) => {
                Failed { error: self.nothing("there is nothing to measure: nothing could be read"), ..failed }
            }
            _ => failed,
        }
    }

    /// Packs once; says whether its time was over before it had ended.
    fn round(&self, options: &AddOptions) -> Result<(Report, bool)> {
        if self.session.options.cold {
            self.session.conduct(self.path(), |run| cache::forget_sources(run, self.sources, options))?;
        }
        let vault = self.vault()?;
        let (mut report, is_cut) = match vault.add(self.sources, options, &self.session.observer) {
            Ok(report) => (report, false),
            Err(failed) => (self.session.cut(self.named(failed))?, true),
        };
        let bytes = |name: &str, bytes: fn(&Work) -> u64| {
            report.stages.iter().find(|stage| stage.name == name).map_or(0, |stage| bytes(&stage.work))
        };
        // What was read: holes are no content. Of a round that was ended, what was compressed: the rest came to nothing.
        report.total_size =
            if is_cut { bytes("compress", |work| work.bytes_in) } else { bytes("read", |work| work.bytes_out) };
        if report.successful_files == 0 && report.total_size == 0 {
            return Err(self.nothing("there is nothing to measure: no files"));
        }
        Ok((Report { command: "profile", snapshot: None, ..report }, is_cut))
    }

    fn roofline(&self, profile: &Profile) -> Result<Roofline> {
        let median = profile.median().ok_or(Error::Interrupted)?;
        let options = self.session.pack_options(Duration::MAX)?;
        let part =
            alone::Part::of(median, profile.sample_bytes.unwrap_or(u64::MAX), alone::ENOUGH, self.session.slice());
        let measured =
            self.session.conduct(self.path(), |run| alone::pack(run, self.sources, &options, options.level, part));
        let alone = measured?;
        let write = match &self.session.options.to {
            Some(directory) => {
                let bytes = median.stored_size.clamp(64 << 20, 1 << 30);
                self.session.write_alone(directory, bytes, true)?
            }
            None => None,
        };
        Ok(roofline(alone, write, median))
    }
}

impl Session<'_> {
    /// Bytes a second that this file system takes; `None` if it takes too few to say.
    fn write_alone(&self, directory: &Path, bytes: u64, durable: bool) -> Result<Option<f64>> {
        let place = scratch(Some(directory))?;
        match self.conduct(directory, |run| alone::write(run, directory, &place, bytes, durable)) {
            Ok(rate) => Ok(Some(rate)),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => Ok(None),
            Err(error) => Err(error),
        }
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

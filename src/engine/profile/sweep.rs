//! What would other thread counts and levels bring? Predicted from the profile and a sample of the data at each level, then
//! measured as far as there is time, so that everybody sees what the prediction is worth.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::engine::add::source_device;
use crate::engine::config::{Level, Workers};
use crate::engine::device::Device;
use crate::engine::fit::fit_pack;
use crate::engine::model::Model;
use crate::engine::observe::Report;
use crate::engine::profile::outcome::{Profile, Sweep, SweepPoint};
use crate::engine::profile::{Packer, alone};
use crate::error::{Error, Result};
use crate::primitives::sys::available_cores;

/// The levels that are tried beside the one asked for.
const LEVELS: [Level; 4] = [Level::Zstd(1), Level::Zstd(3), Level::Zstd(6), Level::Zstd(9)];
/// How often a point is measured if there is time.
const PASSES: usize = 3;
/// A point that has less time says nothing.
const SHORTEST: Duration = Duration::from_millis(500);
/// The share of the time that the sample of a level may take.
const SAMPLE_SHARE: f64 = 0.03;

/// Measures a grid; what was measured stays in `profile` whatever happens.
pub(super) fn sweep(packer: &Packer<'_, '_>, profile: &mut Profile) -> Result<()> {
    let session = packer.session;
    let median = profile.median().ok_or(Error::Interrupted)?.clone();
    let limit = profile.sample_bytes.unwrap_or(u64::MAX);
    profile.sweep = Some(Sweep::default());
    let part = alone::Part::of(&median, limit, alone::SAMPLE, session.time.mul_f64(SAMPLE_SHARE));
    let mut points = grid(packer, &median, part)?;
    // All points are measured with the same data, and predicted from a run with it.
    let size = median.total_size as f64;
    let needed: f64 = points.iter().map(|point| size / point.predicted_bytes_per_sec.max(1.0)).sum();
    let left = session.left().as_secs_f64() * 0.9;
    let mut limit = limit;
    if needed > left {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a number of bytes")]
        let enough = (size * left / needed) as u64;
        limit = enough.max(1);
        let mut options = session.pack_options(session.slice())?;
        options.sample_bytes = Some(limit);
        let (base, _) = packer.round(&options)?;
        let part = alone::Part::of(&base, limit, alone::SAMPLE, session.time.mul_f64(SAMPLE_SHARE));
        points = grid(packer, &base, part)?;
        sweep_of(profile).sample_bytes = Some(base.total_size);
    }
    sweep_of(profile).points = points;
    let measured = measure(packer, profile, limit);
    conclude(sweep_of(profile));
    measured
}

/// All points, predicted from a run and from what each level costs and saves on a part of its data.
fn grid(packer: &Packer<'_, '_>, median: &Report, part: alone::Part) -> Result<Vec<SweepPoint>> {
    let session = packer.session;
    let own = session.options.pack.level;
    let mut levels: Vec<Level> = LEVELS.into();
    if !levels.contains(&own) {
        levels.insert(0, own);
    }
    let base = sample(packer, own, part)?;
    let mut points = Vec::new();
    for level in levels {
        let mut options = session.pack_options(Duration::MAX)?;
        // A high level may want more memory than there is.
        if matches!(fit_pack(&options.pipeline, level, Device::Unknown), Err(Error::Usage(_))) {
            continue;
        }
        let at_level = if level == own { None } else { Some(sample(packer, level, part)?) };
        let at_level = at_level.as_ref().unwrap_or(&base);
        options.level = level;
        for workers in worker_counts() {
            options.pipeline.workers = Workers { all: workers, ..Workers::default() };
            let plan = fit_pack(&options.pipeline, level, source_device(packer.sources, &options))?;
            let counts =
                [("read", plan.read), ("compress", plan.third), ("encrypt", plan.fourth), ("write", plan.write)];
            points.push(SweepPoint {
                workers: workers.map(NonZeroU16::get),
                level,
                predicted_bytes_per_sec: predict(median, &base, at_level, &counts),
                measured_bytes_per_sec: None,
                stored_share: at_level.stored_share,
                pareto: false,
            });
        }
    }
    Ok(points)
}

fn sweep_of(profile: &mut Profile) -> &mut Sweep {
    profile.sweep.get_or_insert_default()
}

/// `--workers`: auto, one, as many as cores, twice as many.
fn worker_counts() -> Vec<Option<NonZeroU16>> {
    let cores = u16::try_from(available_cores().get()).unwrap_or(512).min(512);
    let mut counts = vec![1, cores, cores * 2];
    counts.dedup();
    std::iter::once(None).chain(counts.into_iter().map(NonZeroU16::new)).collect()
}

/// What the stages cost at a level, on chunks from everywhere.
fn sample(packer: &Packer<'_, '_>, level: Level, part: alone::Part) -> Result<alone::Alone> {
    let options = packer.session.pack_options(Duration::MAX)?;
    packer.session.conduct(packer.path(), |run| alone::pack(run, packer.sources, &options, level, part))
}

/// Content a second of the median round, had it had these threads and this level.
fn predict(median: &Report, base: &alone::Alone, at_level: &alone::Alone, counts: &[(&str, usize)]) -> f64 {
    let Some(model) = Model::of(median) else { return 0.0 };
    let ratio = |now: f64, before: f64| if before > 0.0 { now / before } else { 1.0 };
    let size = ratio(at_level.stored_share, base.stored_share);
    let bytes = median.total_size as f64;
    let (alone, more) = (base.cost("compress") * bytes, (at_level.cost("compress") - base.cost("compress")) * bytes);
    let mut changed = model.with("compress", |stage| {
        // In a run it costs somewhat more than alone; where it costs next to nothing that says nothing.
        let beside = if alone > 0.5 * stage.cpu { (stage.cpu / alone).clamp(1.0, 2.0) } else { 1.0 };
        stage.cpu = (stage.cpu + beside * more).max(0.0);
    });
    for name in ["encrypt", "write"] {
        changed = changed.with(name, |stage| (stage.cpu, stage.blocked) = (stage.cpu * size, stage.blocked * size));
    }
    for &(name, workers) in counts {
        changed = changed.with(name, |stage| stage.workers = workers);
    }
    median.total_size as f64 / changed.seconds().max(1e-9)
}

/// Measures the points in turn, those first that should be the fastest, and again as long as there is time.
fn measure(packer: &Packer<'_, '_>, profile: &mut Profile, limit: u64) -> Result<()> {
    let session = packer.session;
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); sweep_of(profile).points.len()];
    let mut order: Vec<usize> = (0..rates.len()).collect();
    let speed = |sweep: &Sweep, at: usize| sweep.points[at].predicted_bytes_per_sec;
    let sweep = sweep_of(profile);
    order.sort_by(|&one, &other| speed(sweep, other).total_cmp(&speed(sweep, one)));
    let size = sweep.sample_bytes.or_else(|| profile.median().map(|median| median.total_size)).unwrap_or(0) as f64;
    for pass in 0..PASSES {
        for &at in &order {
            let point = sweep_of(profile).points[at];
            let rate = point.measured_bytes_per_sec.unwrap_or(point.predicted_bytes_per_sec);
            let (left, seconds) = (session.left(), size / rate.max(1.0));
            if left.is_zero() || pass > 0 && seconds > left.as_secs_f64() {
                continue;
            }
            // What takes far longer than it should is ended, and counts with what it did.
            let slice = Duration::try_from_secs_f64(3.0 * seconds).unwrap_or(Duration::MAX).max(SHORTEST);
            let mut options = session.pack_options(slice)?;
            options.sample_bytes = Some(limit);
            options.level = point.level;
            options.pipeline.workers = Workers { all: point.workers.and_then(NonZeroU16::new), ..Workers::default() };
            let (report, _) = packer.round(&options)?;
            if report.total_size == 0 {
                continue;
            }
            rates[at].push(report.throughput_bytes_per_sec());
            rates[at].sort_by(f64::total_cmp);
            let point = &mut sweep_of(profile).points[at];
            point.measured_bytes_per_sec = Some(rates[at][(rates[at].len() - 1) / 2]);
            point.stored_share = report.stored_size as f64 / (report.total_size as f64).max(1.0);
        }
    }
    Ok(())
}

/// Marks the front, and says how far off predictions were.
fn conclude(sweep: &mut Sweep) {
    let measured: Vec<(f64, f64)> =
        sweep.points.iter().filter_map(|point| Some((point.measured_bytes_per_sec?, point.stored_share))).collect();
    // Sizes that differ by less are one: salts and times differ from run to run.
    const SAME: f64 = 1.001;
    for point in &mut sweep.points {
        let Some(rate) = point.measured_bytes_per_sec else { continue };
        point.pareto = !measured.iter().any(|&(other, share)| {
            let no_larger = share <= point.stored_share * SAME;
            other > rate && no_larger || other >= rate && share * SAME < point.stored_share
        });
    }
    let off = |point: &SweepPoint| {
        point.measured_bytes_per_sec.map(|rate| (point.predicted_bytes_per_sec - rate).abs() / rate.max(1.0))
    };
    let mut errors: Vec<f64> = sweep.points.iter().filter_map(off).collect();
    errors.sort_by(f64::total_cmp);
    sweep.median_error = errors.get(errors.len().saturating_sub(1) / 2).copied();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(predicted: f64, measured: Option<f64>, share: f64) -> SweepPoint {
        SweepPoint {
            workers: None,
            level: Level::Store,
            predicted_bytes_per_sec: predicted,
            measured_bytes_per_sec: measured,
            stored_share: share,
            pareto: false,
        }
    }

    #[test]
    fn the_front_is_what_nothing_beats_in_both() {
        let points = vec![
            point(90.0, Some(100.0), 0.30),
            point(50.0, Some(50.0), 0.20),
            // Slower and larger than the first; slower and as large as the first; never measured.
            point(80.0, Some(90.0), 0.31),
            point(80.0, Some(90.0), 0.3001),
            point(500.0, None, 0.1),
        ];
        let mut sweep = Sweep { points, ..Sweep::default() };
        conclude(&mut sweep);
        assert_eq!(
            sweep.points.iter().map(|point| point.pareto).collect::<Vec<_>>(),
            [true, true, false, false, false]
        );
        assert!((sweep.median_error.expect("four were measured") - 0.1).abs() < 1e-9);
        let mut none = Sweep { points: vec![point(1.0, None, 1.0)], ..Sweep::default() };
        conclude(&mut none);
        assert_eq!(none.median_error, None);
    }
}

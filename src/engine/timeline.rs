//! How did a run go over time? What the monitor sees each time it looks, for who watches, and samples of it for the report.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::observe::{Progress, StageProgress};
use crate::engine::run::{Counters, Gauge};
use crate::primitives::sys::rss_bytes;

/// The most samples that are kept. When there are so many, each two become one, and the period twice as long.
const MOST_SAMPLES: usize = 600;
/// The time between two samples of a short run.
const FIRST_PERIOD: Duration = Duration::from_millis(100);
/// What is shown of a stage is smoothed over about so long, or it would flicker.
const SMOOTHED_OVER: Duration = Duration::from_secs(1);
/// Speeds that time left is told from are smoothed over about so long.
const RATES_OVER: Duration = Duration::from_secs(4);

/// A time that is longer is no forecast: something stands still.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a run did over time; at most 600 samples, however long it was.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Timeline {
    /// The time between two samples, about.
    pub period: Duration,
    /// The stages, in the order in which they began: those of [`Sample::stages`].
    pub stages: Vec<&'static str>,
    /// Bytes of buffers that may be in use at once; 0 if nothing was budgeted.
    pub budget: u64,
    /// The samples, in their order.
    pub samples: Vec<Sample>,
}

/// The state of a run at one time, and what was done since the sample before.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Sample {
    /// Time since the run began.
    pub at: Duration,
    /// Time since the sample before.
    pub length: Duration,
    /// Bytes of content done since the sample before.
    pub bytes: u64,
    /// Entries but directories done since the sample before.
    pub files: u64,
    /// Resident memory of the process, in bytes, at most in this time.
    pub memory: u64,
    /// Bytes of buffers in use, at most in this time.
    pub buffers: u64,
    /// Each stage; those that had not begun are not there.
    pub stages: Vec<StageSample>,
}

/// One stage in a [`Sample`].
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct StageSample {
    /// The share of its threads' time that went into its own work, 0 to 1.
    pub utilization: f64,
    /// How full the queue before it was, 0 to 1; 0 for a stage without one.
    pub queue: f64,
}

/// What stages and counters showed at one look.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    busy_ns: u64,
    bytes_in: u64,
    bytes: u64,
}

/// A value that follows what it is told, but slowly: the mean at first, and later that of the last while.
#[derive(Debug, Clone, Copy, Default)]
struct Smooth {
    value: f64,
    age: Duration,
}

impl Smooth {
    fn follow(&mut self, value: f64, elapsed: Duration, over: Duration) -> f64 {
        self.age += elapsed;
        let window = self.age.min(over).as_secs_f64().max(1e-9);
        self.value += (value - self.value) * (elapsed.as_secs_f64() / window).min(1.0);
        self.value
    }
}

/// One stage, as the monitor knows it.
#[derive(Debug, Default)]
struct Watched {
    seen: Seen,
    utilization: Smooth,
    /// Bytes taken in a second.
    rate: Smooth,
}

/// Looks at a run from time to time.
#[derive(Debug)]
pub(crate) struct Lookout {
    began: Instant,
    looked_at: Instant,
    watched: Vec<Watched>,
    done: (u64, u64),
    rate: Smooth,
    files_rate: Smooth,
    timeline: Timeline,
    /// The sample that is being gathered, and the stages as they were at its beginning.
    open: Sample,
    open_since: Instant,
    before: Vec<Seen>,
}

impl Lookout {
    /// For a run that began then.
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            looked_at: began,
            watched: Vec::new(),
            done: (0, 0),
            rate: Smooth::default(),
            files_rate: Smooth::default(),
            timeline: Timeline { period: FIRST_PERIOD, ..Timeline::default() },
            open: Sample::default(),
            open_since: began,
            before: Vec::new(),
        }
    }

    /// Looks once more; adds to `progress` what there is to say of stages, buffers, speed and time left.
    ///
    /// - `buffers`: bytes in use, and how many there may be.
    pub(crate) fn look(
        &mut self,
        gauges: &[Arc<Gauge>],
        counters: &Counters,
        buffers: Option<(u64, u64)>,
        now: Instant,
        progress: &mut Progress,
    ) {
        let elapsed = now.saturating_duration_since(self.looked_at);
        self.looked_at = now;
        self.watched.resize_with(gauges.len(), Watched::default);
        self.before.resize(gauges.len(), Seen::default());
        progress.buffers = buffers;
        progress.stages = gauges.iter().zip(&mut self.watched).map(|(gauge, own)| own.look(gauge, elapsed)).collect();
        let busiest = progress.stages.iter().max_by(|one, other| one.utilization.total_cmp(&other.utilization));
        progress.busiest = busiest.map(|stage| (stage.name, stage.utilization));
        let passed = self.content_passed(progress) + counters.bytes_kept.load(Ordering::Relaxed);
        progress.bytes_done = progress.bytes_done.max(passed.min(progress.bytes_known));
        let (bytes, files) = (progress.bytes_done, progress.files_done);
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed.as_secs_f64().max(1e-9);
        progress.bytes_per_sec = self.rate.follow(per_second(bytes, self.done.0), elapsed, RATES_OVER);
        let files_per_sec = self.files_rate.follow(per_second(files, self.done.1), elapsed, RATES_OVER);
        self.done = (bytes, files);
        progress.remaining = self.remaining(progress, counters, files_per_sec);
        self.sample(gauges, buffers, now, progress);
    }

    /// Content that is packed, or written, though the files that it belongs to are not done.
    fn content_passed(&self, progress: &Progress) -> u64 {
        let seen = |name: &str| {
            let at = progress.stages.iter().position(|stage| stage.name == name)?;
            Some(self.watched[at].seen.bytes_in)
        };
        match seen("compress") {
            Some(packed) => packed,
            None => seen("decompress").and_then(|_| seen("write")).unwrap_or(0),
        }
    }

    /// What is left to do for the stage that is busiest, at the speed that it has had lately.
    fn remaining(&self, progress: &Progress, counters: &Counters, files_per_sec: f64) -> Option<Duration> {
        let (name, _) = progress.busiest.filter(|_| progress.all_known)?;
        let at = progress.stages.iter().position(|stage| stage.name == name)?;
        let left = progress.bytes_known.saturating_sub(progress.bytes_done);
        let seconds = match name {
            // What these do costs the same whatever is in an entry.
            "scan" | "plan" | "index" => {
                progress.files_known.saturating_sub(progress.files_done) as f64 / files_per_sec
            }
            _ => {
                let share = self.content_share(progress, at);
                let taken = self.watched[at].seen.bytes_in as f64 * share;
                let kept = counters.bytes_kept.load(Ordering::Relaxed);
                let before_it = progress.bytes_known.saturating_sub(kept) as f64 - taken;
                before_it.clamp(0.0, left as f64) / (self.watched[at].rate.value * share)
            }
        };
        Duration::try_from_secs_f64(seconds).ok().filter(|left| *left < LONGEST)
    }

    /// Bytes of content for each byte that the stage at this place takes in.
    fn content_share(&self, progress: &Progress, at: usize) -> f64 {
        let packs = |name: &str| progress.stages.iter().position(|stage| stage.name == name);
        let ratio = |content: u64, packed: u64| if packed > 0 { content as f64 / packed as f64 } else { 1.0 };
        match (packs("compress"), packs("decompress")) {
            (Some(compress), _) if at > compress => {
                let Seen { bytes_in, bytes, .. } = self.watched[compress].seen;
                ratio(bytes_in, bytes)
            }
            (_, Some(decompress)) if at <= decompress => {
                let Seen { bytes_in, bytes, .. } = self.watched[decompress].seen;
                ratio(bytes, bytes_in)
            }
            _ => 1.0,
        }
    }

    /// Adds to the open sample, and closes it when its time has come.
    fn sample(&mut self, gauges: &[Arc<Gauge>], buffers: Option<(u64, u64)>, now: Instant, progress: &Progress) {
        let open = &mut self.open;
        open.memory = open.memory.max(rss_bytes().unwrap_or(0));
        if let Some((used, total)) = buffers {
            open.buffers = open.buffers.max(used);
            self.timeline.budget = total;
        }
        let length = now.saturating_duration_since(self.open_since);
        // The monitor comes a little late or early.
        if length < self.timeline.period.mul_f64(0.8) {
            return;
        }
        self.close(gauges, length, now, progress);
    }

    fn close(&mut self, gauges: &[Arc<Gauge>], length: Duration, now: Instant, progress: &Progress) {
        let total = |sum: fn(&Sample) -> u64| self.timeline.samples.iter().map(sum).sum::<u64>();
        let (bytes, files) = (total(|sample| sample.bytes), total(|sample| sample.files));
        let mut sample = std::mem::take(&mut self.open);
        sample.at = now.saturating_duration_since(self.began);
        sample.length = length;
        sample.bytes = progress.bytes_done.saturating_sub(bytes);
        sample.files = progress.files_done.saturating_sub(files);
        let stages = gauges.iter().zip(&self.watched).zip(&self.before).zip(&progress.stages);
        sample.stages = stages
            .map(|(((gauge, own), before), shown)| {
                let busy = own.seen.busy_ns.saturating_sub(before.busy_ns) as f64 / 1e9;
                let available = length.as_secs_f64() * gauge.workers().max(1) as f64;
                let queue = shown.queue.map_or(0.0, |(len, slots)| len as f64 / slots.max(1) as f64);
                StageSample { utilization: (busy / available.max(1e-9)).min(1.0), queue }
            })
            .collect();
        self.before = self.watched.iter().map(|own| own.seen).collect();
        self.timeline.stages = gauges.iter().map(|gauge| gauge.name).collect();
        self.timeline.samples.push(sample);
        self.open_since = now;
        if self.timeline.samples.len() >= MOST_SAMPLES {
            self.timeline.halve();
        }
    }

    /// The samples, with one for what came since the last of them.
    pub(crate) fn finish(
        mut self,
        gauges: &[Arc<Gauge>],
        counters: &Counters,
        now: Instant,
        progress: &mut Progress,
    ) -> Timeline {
        let buffers = (self.timeline.budget > 0).then_some((0, self.timeline.budget));
        self.look(gauges, counters, buffers, now, progress);
        let length = now.saturating_duration_since(self.open_since);
        if !length.is_zero() {
            self.close(gauges, length, now, progress);
        }
        self.timeline
    }
}

impl Watched {
    fn look(&mut self, gauge: &Gauge, elapsed: Duration) -> StageProgress {
        let now = Seen {
            // What is put down in this moment is counted a moment later.
            busy_ns: gauge.busy_until_now().max(self.seen.busy_ns),
            bytes_in: gauge.bytes_in.load(Ordering::Relaxed),
            bytes: gauge.bytes.load(Ordering::Relaxed),
        };
        let before = std::mem::replace(&mut self.seen, now);
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let workers = gauge.workers();
        let share = now.busy_ns.saturating_sub(before.busy_ns) as f64 / (seconds * 1e9 * workers.max(1) as f64);
        self.rate.follow(now.bytes_in.saturating_sub(before.bytes_in) as f64 / seconds, elapsed, RATES_OVER);
        StageProgress {
            name: gauge.name,
            workers,
            utilization: self.utilization.follow(share.min(1.0), elapsed, SMOOTHED_OVER),
            queue: gauge.queue.as_ref().map(|fill| fill.now()),
        }
    }
}

impl Timeline {
    /// Makes one of each two samples, and the period twice as long.
    fn halve(&mut self) {
        self.period *= 2;
        let samples = std::mem::take(&mut self.samples);
        self.samples =
            samples.chunks(2).map(|pair| pair.iter().cloned().reduce(Sample::and).unwrap_or_default()).collect();
    }
}

impl Sample {
    /// One sample of the time of both.
    fn and(self, next: Self) -> Self {
        let length = self.length + next.length;
        let share = if length.is_zero() { 0.5 } else { next.length.as_secs_f64() / length.as_secs_f64() };
        let mean = |one: f64, other: f64| one + (other - one) * share;
        let mut stages = next.stages;
        for (position, stage) in stages.iter_mut().enumerate() {
            // What had not begun was idle.
            let before = self.stages.get(position).copied().unwrap_or_default();
            stage.utilization = mean(before.utilization, stage.utilization);
            stage.queue = mean(before.queue, stage.queue);
        }
        Self {
            at: next.at,
            length,
            bytes: self.bytes + next.bytes,
            files: self.files + next.files,
            memory: self.memory.max(next.memory),
            buffers: self.buffers.max(next.buffers),
            stages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(name: &'static str) -> Arc<Gauge> {
        Arc::new(Gauge::new(name, 1, None, None))
    }

    /// Looks so often at a run that does so many bytes between two looks.
    fn looked(times: u32, step: u64) -> (Timeline, Progress) {
        let began = Instant::now();
        let gauges = [gauge("read"), gauge("compress")];
        let counters = Counters::default();
        let mut lookout = Lookout::new(began);
        let mut progress = Progress::default();
        (progress.bytes_known, progress.all_known) = (u64::from(times) * 2 * step, true);
        for look in 1..=times {
            progress.bytes_done += step;
            progress.files_done += 1;
            gauges[1].busy_ns.fetch_add(100_000_000, Ordering::Relaxed);
            gauges[1].bytes_in.fetch_add(step, Ordering::Relaxed);
            lookout.look(&gauges, &counters, Some((7, 9)), began + FIRST_PERIOD * look, &mut progress);
        }
        let end = began + FIRST_PERIOD * times + Duration::from_millis(1);
        let shown = progress.clone();
        (lookout.finish(&gauges, &counters, end, &mut progress), shown)
    }

    #[test]
    fn however_long_a_run_is_its_samples_are_bounded_and_sum_up_to_the_whole() {
        for times in [1, 5, 599, 600, 601, 5000] {
            let (timeline, _) = looked(times, 1000);
            let samples = &timeline.samples;
            assert!((1..=MOST_SAMPLES).contains(&samples.len()), "{times}: {}", samples.len());
            assert_eq!(samples.iter().map(|sample| sample.bytes).sum::<u64>(), u64::from(times) * 1000);
            assert_eq!(samples.iter().map(|sample| sample.files).sum::<u64>(), u64::from(times));
            let length: Duration = samples.iter().map(|sample| sample.length).sum();
            assert_eq!(length, samples.last().unwrap().at, "without gaps");
            assert!(samples.windows(2).all(|pair| pair[0].at < pair[1].at));
            assert_eq!((timeline.budget, samples[0].buffers), (9, 7));
            assert!((samples[0].stages[1].utilization - 1.0).abs() < 1e-6, "{:?}", samples[0]);
            assert_eq!(samples[0].stages[0].utilization, 0.0);
        }
    }

    #[test]
    fn time_left_is_that_of_the_busiest_stage_at_its_latest_speed() {
        let (_, progress) = looked(100, 1000);
        assert_eq!(progress.busiest.map(|(name, _)| name), Some("compress"));
        // A hundred steps of 0.1 s are left.
        let left = progress.remaining.expect("all is known").as_secs_f64();
        assert!((left - 10.0).abs() < 0.1, "{left}");
    }

    #[test]
    fn an_item_that_takes_long_counts_while_it_is_in_hand() {
        let began = Instant::now();
        let gauges = [gauge("compress")];
        gauges[0].begin(0);
        std::thread::sleep(Duration::from_millis(60));
        let mut lookout = Lookout::new(began);
        let mut progress = Progress::default();
        let counters = Counters::default();
        lookout.look(&gauges, &counters, None, Instant::now(), &mut progress);
        assert!(progress.stages[0].utilization > 0.5, "{:?}", progress.stages);
        let busy = gauges[0].busy_until_now();
        gauges[0].pause(0);
        std::thread::sleep(Duration::from_millis(10));
        let after = gauges[0].busy_until_now();
        assert!(after >= busy && after < busy + 5_000_000, "what was put down is done: {busy} {after}");
    }

    #[test]
    fn no_time_left_is_told_before_all_is_known() {
        let mut lookout = Lookout::new(Instant::now());
        let mut progress = Progress::default();
        lookout.look(&[gauge("read")], &Counters::default(), None, Instant::now(), &mut progress);
        assert_eq!(progress.remaining, None);
    }
}

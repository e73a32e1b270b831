//! How long would a run take with other thread counts, or if a stage cost less?
//!
//! A stage has to do a certain work, measured in one run: seconds on a CPU, and seconds in which a thread was busy and
//! waited for something that is no core. What is waited for a core is no work, and left out. Threads of a stage share its
//! work; all stages share the cores. So the pipeline takes at least
//!
//! ```text
//! max( max over stages of (cpu + blocked) / threads,  sum of cpu / cores )
//! ```
//!
//! and a run that was measured takes some factor more (filling, draining, unevenness, other programs), which is kept for
//! what is predicted. Where it errs: a device does not serve any number of threads side by side, a core shared by two
//! hardware threads is not two, and what waits may wait for a lock (docs/PROFILING.md).

use crate::engine::observe::{Report, StageReport};

/// What one stage costs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cost {
    pub(crate) name: &'static str,
    /// Seconds of CPU time.
    pub(crate) cpu: f64,
    /// Seconds busy, off the CPU, and not for want of a core.
    pub(crate) blocked: f64,
    pub(crate) workers: usize,
}

impl Cost {
    fn of(stage: &StageReport) -> Self {
        Self {
            name: stage.name,
            cpu: stage.work.cpu.as_secs_f64(),
            blocked: stage.blocked().as_secs_f64(),
            // Of `scan` the thread that takes the entries and those that list directories for it.
            workers: if stage.name == "scan" { stage.threads.len().max(1) } else { stage.workers },
        }
    }

    /// The least time that its threads need.
    fn seconds(&self) -> f64 {
        (self.cpu + self.blocked) / self.workers.max(1) as f64
    }
}

/// A run as it was measured, ready to be changed.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) stages: Vec<Cost>,
    cores: usize,
    /// Seconds outside of the pipeline: opening, syncs, the commit.
    outside: f64,
    /// How much longer the pipeline took than the stages explain; at least 1.
    factor: f64,
}

impl Model {
    /// The model of a run; `None` if it had no pipeline to speak of.
    pub(crate) fn of(report: &Report) -> Option<Self> {
        let stream = report.phases.stream.as_secs_f64();
        let stages = report.stages.iter().map(Cost::of).collect();
        let mut model = Self { stages, cores: report.cores.max(1), outside: 0.0, factor: 1.0 };
        let explained = model.pipeline();
        if stream <= 0.0 || explained <= 0.0 {
            return None;
        }
        model.outside = (report.phases.prepare + report.phases.finish).as_secs_f64();
        model.factor = (stream / explained).max(1.0);
        Some(model)
    }

    fn pipeline(&self) -> f64 {
        let stages = self.stages.iter().map(Cost::seconds).fold(0.0, f64::max);
        let cpu: f64 = self.stages.iter().map(|stage| stage.cpu).sum();
        stages.max(cpu / self.cores as f64)
    }

    /// Seconds that the operation takes by this model.
    pub(crate) fn seconds(&self) -> f64 {
        self.outside + self.factor * self.pipeline()
    }

    /// The same run with one of its stages changed.
    pub(crate) fn with(&self, name: &str, change: impl Fn(&mut Cost)) -> Self {
        let mut changed = self.clone();
        changed.stages.iter_mut().filter(|stage| stage.name == name).for_each(change);
        changed
    }

    /// How many times as fast as this one `other` is.
    pub(crate) fn speedup(&self, other: &Self) -> f64 {
        let seconds = other.seconds();
        if seconds > 0.0 { self.seconds() / seconds } else { 1.0 }
    }

    /// The fewest threads of a stage beyond which more bring nothing, by this model; the number it has, if that is more.
    pub(crate) fn enough_workers(&self, name: &str) -> usize {
        let others = self.with(name, |stage| (stage.cpu, stage.blocked) = (0.0, 0.0));
        let cpu: f64 = self.stages.iter().map(|stage| stage.cpu).sum();
        let floor = others.pipeline().max(cpu / self.cores as f64);
        let Some(stage) = self.stages.iter().find(|stage| stage.name == name) else { return 0 };
        // Whoever has nothing beside it to be held up by gains from each core.
        let needed = if floor > 0.0 { (stage.cpu + stage.blocked) / floor } else { self.cores as f64 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        let needed = needed.ceil().min(1024.0) as usize;
        needed.max(stage.workers)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::observe::{Phases, Work};

    fn duration(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Stages by name, threads, CPU and blocked seconds, in a run of so many seconds on so many cores.
    pub(crate) fn run(stages: &[(&'static str, usize, f64, f64)], stream: f64, cores: usize) -> Report {
        let stage = |&(name, workers, cpu, blocked): &(&'static str, usize, f64, f64)| StageReport {
            name,
            workers,
            work: Work {
                busy: duration(cpu + blocked),
                cpu: duration(cpu),
                ready: Some(Duration::ZERO),
                ..Work::default()
            },
            threads: vec![
                Work {
                    busy: duration((cpu + blocked) / workers as f64),
                    cpu: duration(cpu / workers as f64),
                    ready: Some(Duration::ZERO),
                    ..Work::default()
                };
                workers
            ],
            ..StageReport::default()
        };
        Report {
            stages: stages.iter().map(stage).collect(),
            phases: Phases { stream: duration(stream), ..Phases::default() },
            cores,
            ..Report::default()
        }
    }

    fn model(stages: &[(&'static str, usize, f64, f64)], stream: f64, cores: usize) -> Model {
        Model::of(&run(stages, stream, cores)).expect("it has a pipeline")
    }

    #[test]
    fn one_thread_too_few_is_predicted_to_gain_until_the_next_bound() {
        let model = model(&[("read", 2, 1.0, 0.0), ("compress", 1, 8.0, 0.0)], 8.0, 8);
        assert!((model.seconds() - 8.0).abs() < 1e-9);
        let doubled = model.with("compress", |stage| stage.workers = 2);
        assert!((model.speedup(&doubled) - 2.0).abs() < 1e-9);
        // At 8 threads the eight cores are the bound (9 s of work on 8 cores).
        assert_eq!(model.enough_workers("compress"), 8);
    }

    #[test]
    fn where_all_cores_are_busy_no_thread_helps_and_less_work_does() {
        let model = model(&[("read", 2, 1.0, 0.0), ("compress", 2, 9.0, 0.0)], 5.2, 2);
        let more = model.with("compress", |stage| stage.workers = 8);
        assert!((model.speedup(&more) - 1.0).abs() < 1e-9);
        let cheaper = model.with("compress", |stage| stage.cpu /= 2.0);
        assert!((model.speedup(&cheaper) - 10.0 / 5.5).abs() < 0.02, "{}", model.speedup(&cheaper));
    }

    #[test]
    fn what_a_run_took_beyond_its_stages_is_kept_and_what_lies_outside_does_not_shrink() {
        let mut report = run(&[("write", 1, 0.1, 3.9)], 5.0, 2);
        report.phases.finish = Duration::from_secs(5);
        let model = Model::of(&report).expect("it has a pipeline");
        assert!((model.seconds() - 10.0).abs() < 1e-9);
        let doubled = model.with("write", |stage| stage.workers = 2);
        assert!((doubled.seconds() - 7.5).abs() < 1e-9);
    }

    #[test]
    fn a_run_without_stages_has_no_model() {
        assert!(Model::of(&run(&[], 1.0, 2)).is_none());
        assert!(Model::of(&run(&[("read", 1, 1.0, 0.0)], 0.0, 2)).is_none());
    }
}

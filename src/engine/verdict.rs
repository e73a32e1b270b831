//! What bounded a run, how sure is that, what to change, and what should that bring?
//!
//! Read in this order, the first that holds counts (docs/PROFILING.md says it for users, with what can go wrong):
//!
//! 1. most of the time went by before or behind the pipeline: the final sync of much data is a device, all else serial;
//! 2. all cores were busy, or would have been if they had been ours: CPU;
//! 3. nobody was busy and memory was waited for, or the ceiling of memory took threads away from the busy stage: memory;
//! 4. one stage was busy nearly all of the time: off the CPU a device, on it the stage, which may be one thread only
//!    (serial);
//! 5. else the busiest of all, with little confidence.
//!
//! Where the stage found in 2 or 4 works for each file and the files are small, it is their number that counts: small files.

use std::fmt;
use std::time::Duration;

use crate::engine::config::Level;
use crate::engine::model::Model;
use crate::engine::observe::{Report, StageReport, Work};
use crate::primitives::units::format_size;

/// What kept a run from being faster.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Bottleneck {
    /// What it was.
    pub kind: BoundKind,
    /// The stage where it shows; `open` and `commit` for what lies before and behind the pipeline.
    pub stage: &'static str,
    /// How busy that was, 0 to 1: the stage's threads, or for [`BoundKind::Cpu`] the cores.
    pub utilization: f64,
    /// How sure this is, 0 to 1. Below 0.5 it is a guess.
    pub confidence: f64,
    /// The same in words, one sentence without a full stop.
    pub reason: String,
    /// What could be changed, the most promising first; empty where nothing here would help.
    pub advice: Vec<Advice>,
}

impl Bottleneck {
    /// What its stage does, as the subject of a sentence: `compressing`.
    #[must_use]
    pub fn doing(&self) -> &'static str {
        gerund(self.stage)
    }
}

/// What can bound a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BoundKind {
    /// One stage has too few threads.
    #[default]
    Stage,
    /// All cores are busy: no number of threads helps.
    Cpu,
    /// A stage waits for a device.
    Device,
    /// The ceiling of memory.
    Memory,
    /// Something that only one thread can do, or too little data to be done side by side.
    Serial,
    /// What each file costs, whatever is in it.
    SmallFiles,
}

impl BoundKind {
    /// The word used in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Cpu => "cpu",
            Self::Device => "device",
            Self::Memory => "memory",
            Self::Serial => "serial",
            Self::SmallFiles => "small_files",
        }
    }
}

/// Something that could be changed.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Advice {
    /// The option with its value, as typed: `--level 1`.
    pub option: String,
    /// How many times as fast the same run should be; an upper bound where a device is to serve more threads.
    pub predicted_speedup: f64,
    /// How many times as large the output should be.
    pub predicted_size: f64,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} should give about {:.1}x", self.option, self.predicted_speedup)?;
        match self.predicted_size {
            size if size >= 1.005 => write!(f, " for {:.0} % more space", (size - 1.0) * 100.0),
            size if size <= 0.995 => write!(f, " and {:.0} % less space", (1.0 - size) * 100.0),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Bottleneck {
    /// What bounded the run, how sure that is, and what to change: one or two sentences.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sure = match self.confidence {
            sure if sure >= 0.8 => "",
            sure if sure >= 0.5 => "probably: ",
            _ => "perhaps: ",
        };
        write!(f, "{sure}{}", self.reason)?;
        match self.advice.first() {
            // How many at once a device can serve is not known.
            Some(advice) if self.kind == BoundKind::Device && advice.predicted_size >= 1.0 => {
                write!(f, "; {} might give up to {:.1}x", advice.option, advice.predicted_speedup)
            }
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// What a run was to do, as far as it decides what can be advised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Into a vault, at this level.
    Pack(Level),
    /// Out of a vault.
    Unpack,
    /// From one vault file into another.
    Transfer,
}

/// From this share on cores, or a stage's threads, count as busy all the time.
const CORES_BUSY: f64 = 0.85;
const STAGE_BUSY: f64 = 0.75;
/// From this share of the time on, memory counts as waited for.
const MEMORY_WAITED_FOR: f64 = 0.3;
/// Files of fewer bytes than this, on average, are small: reading or writing so much costs about what a file costs.
const SMALL_FILE: u64 = 64 << 10;
/// From so many of them on.
const MANY_FILES: u64 = 500;
/// A run that was over sooner says nothing.
const TOO_SHORT: f64 = 0.01;
/// One that took this long is believed.
const LONG_ENOUGH: f64 = 0.3;
/// So much in the vault takes time to be synced.
const MUCH_TO_SYNC: u64 = 8 << 20;
/// Advice that brings less is none.
const WORTH_IT: f64 = 1.05;

/// What bounded a run; `None` if nothing ran, or it was over too soon to say.
pub(crate) fn judge(report: &Report, way: Way) -> Option<Bottleneck> {
    let model = Model::of(report)?;
    let case = Case { report, way, model, stream: report.phases.stream.as_secs_f64() };
    if report.duration.as_secs_f64() < TOO_SHORT {
        return None;
    }
    let found = case.outside().or_else(|| case.cores()).or_else(|| case.memory()).or_else(|| case.stage());
    let mut found = found.or_else(|| case.guess())?;
    // A short run is mostly its beginning and its end.
    found.confidence *= (report.duration.as_secs_f64() / LONG_ENOUGH).sqrt().clamp(0.3, 1.0);
    if report.stages.iter().any(|stage| stage.work.ready.is_none()) {
        // Waiting for a core cannot be told from waiting for a device.
        found.confidence *= 0.7;
    }
    Some(found)
}

struct Case<'r> {
    report: &'r Report,
    way: Way,
    model: Model,
    /// Seconds of the pipeline.
    stream: f64,
}

impl Case<'_> {
    /// Seconds of a stage's work on a core, or waiting for one.
    fn demand(stage: &StageReport) -> f64 {
        stage.threads.iter().map(Work::on_cpu).sum::<Duration>().as_secs_f64()
    }

    /// The share of the cores that the run had, or would have had if others had not had them.
    fn cores_busy(&self) -> f64 {
        let demand: f64 = self.report.stages.iter().map(Self::demand).sum();
        (demand / (self.stream * self.report.cores.max(1) as f64)).min(1.0)
    }

    /// The stages from the busiest on.
    fn by_utilization(&self) -> Vec<&StageReport> {
        let mut stages: Vec<&StageReport> = self.report.stages.iter().collect();
        stages.sort_by(|one, other| other.utilization.total_cmp(&one.utilization));
        stages
    }

    /// The share of its busy time that a stage was off the CPU, though not for want of a core.
    fn blocked(stage: &StageReport) -> f64 {
        let busy = stage.work.busy.as_secs_f64();
        if busy > 0.0 { stage.blocked().as_secs_f64() / busy } else { 0.0 }
    }

    /// Entries by far more than their bytes account for.
    fn has_small_files(&self) -> bool {
        let entries = self.report.total_files + self.report.directories;
        entries >= MANY_FILES && self.report.total_size / entries < SMALL_FILE
    }

    /// Whether a stage's work is done for each entry.
    fn is_per_file(&self, name: &str) -> bool {
        match self.way {
            Way::Pack(_) => matches!(name, "scan" | "read" | "index"),
            Way::Unpack => matches!(name, "plan" | "write"),
            Way::Transfer => false,
        }
    }

    /// Whether a stage waits for a disk, if it is off the CPU.
    fn waits_for_device(name: &str) -> bool {
        matches!(name, "scan" | "plan" | "read" | "write")
    }

    /// Whether a stage is one thread, whatever is asked for; of `scan` the one that takes the entries.
    fn is_single(name: &str) -> bool {
        matches!(name, "scan" | "plan" | "index")
    }

    /// 1: what lies before and behind the pipeline.
    fn outside(&self) -> Option<Bottleneck> {
        let phases = self.report.phases;
        let (prepare, finish) = (phases.prepare.as_secs_f64(), phases.finish.as_secs_f64());
        let total = prepare + self.stream + finish;
        let share = |part: f64| part / total;
        let sure = |share: f64| 0.6 + 0.4 * ((share - 0.5) / 0.3).clamp(0.0, 1.0);
        if finish > self.stream + prepare {
            let utilization = share(finish);
            if matches!(self.way, Way::Pack(_) | Way::Transfer) && self.report.stored_size >= MUCH_TO_SYNC {
                return Some(Bottleneck {
                    kind: BoundKind::Device,
                    stage: "write",
                    utilization,
                    confidence: sure(utilization),
                    reason: format!(
                        "the vault's disk was the bound: {finish:.2} s of {total:.2} s went by until it had what it was given"
                    ),
                    advice: self.smaller_output(),
                });
            }
            let what = match self.way {
                Way::Pack(_) => "the commit, whose syncs come one after another",
                Way::Unpack => "the attributes of directories and syncs at the end",
                Way::Transfer => "syncs and the change of the file's name",
            };
            return Some(Bottleneck {
                kind: BoundKind::Serial,
                stage: "commit",
                utilization,
                confidence: sure(utilization),
                reason: format!("{finish:.2} s of {total:.2} s went to {what}: there was little else to do"),
                advice: Vec::new(),
            });
        }
        (prepare > self.stream + finish).then(|| Bottleneck {
            kind: BoundKind::Serial,
            stage: "open",
            utilization: share(prepare),
            confidence: sure(share(prepare)),
            reason: format!("{prepare:.2} s of {total:.2} s went to opening the vault: its locks, its index"),
            advice: Vec::new(),
        })
    }

    /// 2: all cores.
    fn cores(&self) -> Option<Bottleneck> {
        let busy = self.cores_busy();
        if busy < CORES_BUSY {
            return None;
        }
        // By what they did there: waiting for a core is had by whoever wakes up often.
        let all: f64 = self.report.stages.iter().map(|stage| stage.work.cpu.as_secs_f64()).sum();
        let stage = self.report.stages.iter().max_by_key(|stage| stage.work.cpu)?;
        let share = stage.work.cpu.as_secs_f64() / all;
        let confidence = 0.75 + 0.25 * ((busy - CORES_BUSY) / (1.0 - CORES_BUSY)).clamp(0.0, 1.0);
        let cores = match self.report.cores {
            0 | 1 => "the one core was".to_owned(),
            cores => format!("all {cores} cores were"),
        };
        if self.is_per_file(stage.name) && self.has_small_files() {
            let reason = format!("{cores} busy with many small files, {}", self.each_file(stage, share));
            let kind = BoundKind::SmallFiles;
            return Some(Bottleneck {
                kind,
                stage: stage.name,
                utilization: busy,
                confidence,
                reason,
                advice: Vec::new(),
            });
        }
        // What waited for a core had none because others had them, or because there were more threads than cores.
        let beside = match all / (self.stream * self.report.cores.max(1) as f64) {
            own if own < 0.6 => format!(", {:.0} % of them with other programs", (1.0 - own) * 100.0),
            _ => String::new(),
        };
        let reason = format!(
            "{cores} busy{beside}, {:.0} % of {} with {}: more threads will not help",
            share * 100.0,
            if beside.is_empty() { "that" } else { "what was left" },
            gerund(stage.name)
        );
        let advice = if stage.name == "compress" { self.cheaper_level() } else { Vec::new() };
        Some(Bottleneck { kind: BoundKind::Cpu, stage: stage.name, utilization: busy, confidence, reason, advice })
    }

    fn each_file(&self, stage: &StageReport, share: f64) -> String {
        let entries = (self.report.total_files + self.report.directories).max(1);
        format!(
            "{:.0} % of that with {}: {entries} entries of {} on average, of which each costs the same whatever is in it",
            share * 100.0,
            gerund(stage.name),
            format_size(self.report.total_size / entries),
        )
    }

    /// 3: memory.
    fn memory(&self) -> Option<Bottleneck> {
        let plan = self.report.plan.as_ref()?;
        let busiest = *self.by_utilization().first()?;
        let advice = || {
            let size = plan.unreduced_memory_bytes.div_ceil(1 << 20);
            let without = plan
                .reduced
                .iter()
                .fold(self.model.clone(), |model, &(name, workers)| model.with(name, |stage| stage.workers = workers));
            let advice = Advice {
                option: format!("--memory {size}M"),
                predicted_speedup: self.model.speedup(&without),
                predicted_size: 1.0,
            };
            if advice.predicted_speedup >= WORTH_IT { vec![advice] } else { Vec::new() }
        };
        let bottleneck = |confidence, reason, advice| Bottleneck {
            kind: BoundKind::Memory,
            stage: busiest.name,
            utilization: busiest.utilization,
            confidence,
            reason,
            advice,
        };
        if let Some((_, wanted)) = plan.reduced.iter().find(|(name, _)| *name == busiest.name)
            && busiest.utilization >= STAGE_BUSY
        {
            let reason = format!(
                "the ceiling of memory was the bound: it left {} thread{} for {}, which would have had {wanted}, and was busy \
                 {:.0} % of the time",
                busiest.workers,
                if busiest.workers == 1 { "" } else { "s" },
                gerund(busiest.name),
                busiest.utilization * 100.0
            );
            return Some(bottleneck(0.6 + 0.4 * busiest.utilization, reason, advice()));
        }
        let waited =
            self.report.stages.iter().map(|stage| stage.work.wait_budget.as_secs_f64()).sum::<f64>() / self.stream;
        if waited < MEMORY_WAITED_FOR || busiest.utilization >= STAGE_BUSY {
            return None;
        }
        let reason = format!(
            "memory was the bound: for {:.0} % of the time nothing could be begun because {} of buffers were in use, while no \
             stage was busy more than {:.0} % of the time",
            waited * 100.0,
            format_size(plan.buffer_bytes),
            busiest.utilization * 100.0
        );
        let advice = if plan.reduced.is_empty() { Vec::new() } else { advice() };
        Some(bottleneck(0.5 + 0.4 * (waited - busiest.utilization + 0.5).clamp(0.0, 1.0), reason, advice))
    }

    /// 4: one stage.
    fn stage(&self) -> Option<Bottleneck> {
        let stages = self.by_utilization();
        let (first, second) = (*stages.first()?, stages.get(1).map_or(0.0, |stage| stage.utilization));
        if first.utilization < STAGE_BUSY {
            return None;
        }
        let blocked = Self::blocked(first);
        let clear = (2.0 * (blocked - 0.5)).abs();
        let apart = ((first.utilization - second) / 0.3).clamp(0.0, 1.0);
        let above = ((first.utilization - STAGE_BUSY) / (1.0 - STAGE_BUSY)).clamp(0.0, 1.0);
        let confidence = 0.5 + 0.3 * above.sqrt() + 0.1 * apart + 0.1 * clear;
        Some(self.bound_by(first, confidence))
    }

    /// 5: nothing stands out.
    fn guess(&self) -> Option<Bottleneck> {
        // Many threads that wait for a device are none of them busy all the time.
        let waiting = |stage: &StageReport| stage.blocked().as_secs_f64() / self.stream;
        let waits = self.report.stages.iter().filter(|stage| Self::waits_for_device(stage.name));
        if let Some(stage) = waits.max_by(|one, other| waiting(one).total_cmp(&waiting(other)))
            && waiting(stage) >= STAGE_BUSY
            && Self::blocked(stage) >= 0.5
        {
            return Some(self.bound_by(stage, 0.6));
        }
        let read = self.report.stages.iter().find(|stage| stage.name == "read")?;
        let busiest = *self.by_utilization().first()?;
        let few = 2 * self.report.cores.max(2) as u64;
        if read.work.chunks > 0 && read.work.chunks < few && !self.has_small_files() {
            let chunks = read.work.chunks;
            return Some(Bottleneck {
                kind: BoundKind::Serial,
                stage: busiest.name,
                utilization: busiest.utilization,
                confidence: 0.6,
                reason: format!(
                    "there was too little to do side by side: {chunks} chunk{} went through one stage after another",
                    if chunks == 1 { "" } else { "s" }
                ),
                advice: Vec::new(),
            });
        }
        Some(self.bound_by(busiest, 0.3 * (busiest.utilization / STAGE_BUSY) + 0.1))
    }

    /// The words and the advice for a stage that bounds the run.
    fn bound_by(&self, stage: &StageReport, confidence: f64) -> Bottleneck {
        let (name, percent) = (stage.name, stage.utilization * 100.0);
        let found = |kind, reason, advice| Bottleneck {
            kind,
            stage: name,
            utilization: stage.utilization,
            confidence,
            reason,
            advice,
        };
        let threads = match stage.workers {
            1 => "one thread".to_owned(),
            count => format!("{count} threads"),
        };
        if self.is_per_file(name) && self.has_small_files() {
            let entries = self.report.total_files + self.report.directories;
            let size = format_size(self.report.total_size / entries.max(1));
            let reason = format!(
                "many small files were the bound: {entries} entries of {size} on average kept {} busy {percent:.0} % of the \
                 time, and each costs the same whatever is in it",
                gerund(name)
            );
            let advice = if Self::is_single(name) { Vec::new() } else { self.more_workers(stage) };
            return found(BoundKind::SmallFiles, reason, advice);
        }
        if Self::blocked(stage) >= 0.5 && !Self::waits_for_device(name) {
            let reason = format!(
                "{} was the bound: busy {percent:.0} % of the time with {threads}, but off the CPU for {:.0} % of that, stopped, \
                 swapped out or held up by the system",
                gerund(name),
                Self::blocked(stage) * 100.0
            );
            return found(BoundKind::Stage, reason, Vec::new());
        }
        if Self::blocked(stage) >= 0.5 {
            let device = match (name, self.way) {
                ("scan" | "read", Way::Pack(_)) => "the disk of the sources",
                ("write", Way::Unpack) => "the disk that is restored to",
                _ => "the vault's disk",
            };
            let reason = format!(
                "{device} was the bound: {} was busy {percent:.0} % of the time with {threads}, {:.0} % of that waiting for it",
                gerund(name),
                Self::blocked(stage) * 100.0
            );
            let advice = match name {
                "write" => self.smaller_output(),
                "read" => self.more_readers(stage),
                _ => Vec::new(),
            };
            return found(BoundKind::Device, reason, advice);
        }
        if Self::is_single(name) {
            let reason = format!("{} was the bound: it is one thread, busy {percent:.0} % of the time", gerund(name));
            return found(BoundKind::Serial, reason, Vec::new());
        }
        let reason = format!(
            "{} was the bound: its {threads} {} busy {percent:.0} % of the time, while {:.0} % of {} core{} {} used",
            gerund(name),
            if stage.workers == 1 { "was" } else { "were" },
            self.cores_busy() * 100.0,
            self.report.cores,
            if self.report.cores == 1 { "" } else { "s" },
            if self.report.cores == 1 { "was" } else { "were" },
        );
        found(BoundKind::Stage, reason, self.more_workers(stage))
    }

    /// More threads for a stage, as far as the model says that they help.
    fn more_workers(&self, stage: &StageReport) -> Vec<Advice> {
        let enough = self.model.enough_workers(stage.name);
        let more = self.model.with(stage.name, |cost| cost.workers = enough);
        let predicted_speedup = self.model.speedup(&more);
        if enough <= stage.workers || predicted_speedup < WORTH_IT {
            return Vec::new();
        }
        vec![Advice { option: format!("--{}-workers {enough}", stage.name), predicted_speedup, predicted_size: 1.0 }]
    }

    /// Twice the threads for a device, which may serve them side by side or not.
    fn more_readers(&self, stage: &StageReport) -> Vec<Advice> {
        let more = stage.workers * 2;
        let predicted_speedup = self.model.speedup(&self.model.with(stage.name, |cost| cost.workers = more));
        if predicted_speedup < WORTH_IT || more > 64 {
            return Vec::new();
        }
        vec![Advice { option: format!("--read-workers {more}"), predicted_speedup, predicted_size: 1.0 }]
    }

    /// A level that costs less, where compressing is what the cores do.
    fn cheaper_level(&self) -> Vec<Advice> {
        let Way::Pack(Level::Zstd(level)) = self.way else { return Vec::new() };
        let speedup = |factor: f64| self.model.speedup(&self.model.with("compress", |stage| stage.cpu *= factor));
        if self.shrunk_to() > 0.98 {
            // A copy of the chunk is left.
            let predicted_speedup = speedup(0.05);
            let advice = Advice { option: "--level store".to_owned(), predicted_speedup, predicted_size: 1.0 };
            return if predicted_speedup >= WORTH_IT { vec![advice] } else { Vec::new() };
        }
        let now = LevelCost::of(level);
        let lower = LEVELS.iter().rev().filter(|cost| cost.level < level);
        let advice = |cost: &LevelCost| Advice {
            option: format!("--level {}", cost.level),
            predicted_speedup: speedup(cost.seconds / now.seconds),
            predicted_size: 1.0 + (now.ratio / cost.ratio - 1.0) * self.as_compressible_as(&now),
        };
        // The nearest that is worth it; where none is, whatever the lowest brings.
        let all: Vec<Advice> = lower.map(advice).collect();
        let chosen = all.iter().find(|advice| advice.predicted_speedup >= 1.3).or(all.last());
        chosen.filter(|advice| advice.predicted_speedup >= WORTH_IT).cloned().into_iter().collect()
    }

    /// A level that writes less, where the disk is the bound and the cores are idle.
    fn smaller_output(&self) -> Vec<Advice> {
        let Way::Pack(Level::Zstd(level)) = self.way else { return Vec::new() };
        let (now, idle) = (LevelCost::of(level), 1.0 - self.cores_busy());
        let compress = self.report.stages.iter().find(|stage| stage.name == "compress").map_or(0.0, Self::demand);
        let spare = idle * self.stream * self.report.cores as f64;
        let affordable = LEVELS.iter().rev().filter(|cost| cost.level > level);
        let chosen = affordable.into_iter().find(|cost| compress * (cost.seconds / now.seconds - 1.0) < spare * 0.5);
        let Some(cost) = chosen else { return Vec::new() };
        let predicted_size = 1.0 + (now.ratio / cost.ratio - 1.0) * self.as_compressible_as(&now);
        let predicted_speedup = 1.0 / predicted_size;
        if predicted_speedup < WORTH_IT {
            return Vec::new();
        }
        vec![Advice { option: format!("--level {}", cost.level), predicted_speedup, predicted_size }]
    }

    /// Size in the vault by size of the content.
    fn shrunk_to(&self) -> f64 {
        let read = self.report.stages.iter().find(|stage| stage.name == "read").map_or(0, |stage| stage.work.bytes_out);
        if read > 0 { self.report.stored_size as f64 / read as f64 } else { 1.0 }
    }

    /// How far this data can be squeezed, beside what the table was measured on: 0 not at all, 1 as well.
    fn as_compressible_as(&self, measured: &LevelCost) -> f64 {
        ((1.0 / self.shrunk_to().max(1e-3) - 1.0) / (measured.ratio - 1.0)).clamp(0.0, 1.0)
    }
}

/// What a stage does, as the subject of a sentence.
fn gerund(stage: &'static str) -> &'static str {
    match stage {
        "open" => "opening the vault",
        "scan" => "scanning",
        "plan" => "planning",
        "read" => "reading",
        "compress" => "compressing",
        "encrypt" => "encrypting",
        "decrypt" => "decrypting",
        "decompress" => "decompressing",
        "write" => "writing",
        "repack" => "packing anew",
        "index" => "indexing",
        "commit" => "committing",
        other => other,
    }
}

/// What a zstd level costs and saves on source code, in chunks of 4 MiB: CPU seconds a GiB, size before by size after.
#[derive(Debug, Clone, Copy)]
struct LevelCost {
    level: i32,
    seconds: f64,
    ratio: f64,
}

impl LevelCost {
    /// The row of a level, or of the nearest below it.
    fn of(level: i32) -> Self {
        *LEVELS.iter().rev().find(|cost| cost.level <= level).unwrap_or(&LEVELS[0])
    }
}

/// Measured with `profile --roofline --level N` on 24 MiB of the kernel's drivers, zstd 1.5.7 (docs/PROFILING.md): only
/// ratios between rows are used, and where the data is at hand `profile --sweep` measures instead.
const LEVELS: [LevelCost; 12] = [
    LevelCost { level: -7, seconds: 1.70, ratio: 3.18 },
    LevelCost { level: -3, seconds: 1.82, ratio: 4.01 },
    LevelCost { level: -1, seconds: 1.93, ratio: 4.49 },
    LevelCost { level: 1, seconds: 2.40, ratio: 5.28 },
    LevelCost { level: 2, seconds: 2.48, ratio: 5.70 },
    LevelCost { level: 3, seconds: 3.34, ratio: 6.22 },
    LevelCost { level: 5, seconds: 5.99, ratio: 6.81 },
    LevelCost { level: 7, seconds: 9.37, ratio: 7.31 },
    LevelCost { level: 9, seconds: 13.6, ratio: 7.47 },
    LevelCost { level: 12, seconds: 30.9, ratio: 7.61 },
    LevelCost { level: 16, seconds: 258.0, ratio: 8.20 },
    LevelCost { level: 19, seconds: 459.0, ratio: 8.44 },
];

#[cfg(test)]
mod tests;

//! From what was asked for to what is done: thread counts, queue depths, buffers, and the memory that follows from them.
//!
//! `peak ≤ base + budget + Σ workers × context + entries in flight × entry + what is recorded`, and before that the key
//! derivation's memory, which is given back first. `--memory` is a ceiling on the whole. Where it is tight, chunks are made smaller, unless their size
//! was asked for, and then workers are taken away. The chunk size follows from the ceiling alone, never from the number of cores,
//! since it decides what a vault holds.

use std::num::NonZeroU16;
use std::sync::Arc;

use crate::engine::config::{CHUNK_SIZES, DEFAULT_CHUNK_SIZE, Level, MAX_WORKERS, PipelineConfig, Recording, Workers};
use crate::engine::device::Device;
use crate::engine::gate::{Gate, Tuner};
use crate::engine::observe::PlanReport;
use crate::engine::pipeline::Crew;
use crate::engine::recorder::{INTERVALS_LEN, SPANS_LEN};
use crate::engine::run::Run;
use crate::error::{Error, Result};
use crate::primitives::direct::DIRECT_LEN;
use crate::primitives::pool::{HEAD_ROOM, TAIL_ROOM};
use crate::primitives::sys::available_cores;
use crate::primitives::units::{KIB, MIB, format_size};

/// The program itself, its tables and the index blocks being built.
const BASE: u64 = 28 * MIB;
/// Stack pages that a worker touches, its histogram, its caches.
const WORKER: u64 = 640 * KIB;
/// One entry between scan and index: names, attributes, where its bytes went.
const ENTRY: u64 = 512;
/// The most entries between scan and index.
const ENTRY_WINDOW: u64 = 65_536;
/// The fewest that cannot stall: twice the entries that a batch may lie open for.
const LEAST_ENTRY_WINDOW: u64 = 16_384;
/// What the budget is held to where no ceiling is given and the cores do not need more.
const AUTO_BUDGET: u64 = 128 * MIB;

/// So many blocks keep any disk busy: 68 MiB.
const MOST_STAGING_BLOCKS: usize = 17;
/// Where memory is short, so many blocks, and so short: slower than the others, and faster than the cache.
const SMALL_STAGING: (usize, usize) = (2, 1 << 20);

/// What the pipeline works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) scan: usize,
    pub(crate) read: usize,
    /// As many may be let in as the run goes on; as `read`, if that was set.
    pub(crate) read_most: usize,
    /// Compress, or decrypt.
    pub(crate) third: usize,
    /// Encrypt, or decompress.
    pub(crate) fourth: usize,
    pub(crate) write: usize,
    pub(crate) queue_depth: Option<usize>,
    /// The largest chunk in plain bytes; also what one buffer holds.
    pub(crate) chunk_size: u32,
    /// Bytes of buffers in use at once.
    pub(crate) budget: u64,
    pub(crate) entry_window: u64,
    /// Blocks in which records are gathered for writing, in packing, and the length of each; none on the way back.
    pub(crate) staging: (usize, usize),
    /// What is recorded besides.
    record: Recording,
    /// Threads of the five stages without a ceiling of memory, and the peak that they would have.
    unreduced: ([usize; 5], u64),
    /// Why each of the five stages has so many.
    reasons: [String; 5],
}

impl Plan {
    /// A plan that is not yet fitted to memory.
    ///
    /// - `read_most`: readers that may be let in, if their number is learnt.
    fn of(counts: [(usize, String); 5], read_most: Option<usize>, queue_depth: Option<usize>, chunk_size: u32) -> Self {
        let [scan, read, third, fourth, write] = counts.each_ref().map(|(count, _)| *count);
        Self {
            scan,
            read,
            read_most: read_most.unwrap_or(read).max(read),
            third,
            fourth,
            write,
            queue_depth,
            chunk_size,
            budget: 0,
            entry_window: ENTRY_WINDOW,
            staging: (0, 0),
            record: Recording::default(),
            unreduced: ([0; 5], 0),
            reasons: counts.map(|(_, reason)| reason),
        }
    }

    /// Slots of the channel before a stage of so many workers.
    pub(crate) fn depth(&self, workers: usize) -> usize {
        self.queue_depth.unwrap_or(workers * 2)
    }

    /// What one chunk needs while it is under way: the buffer it is read into, and the one it is packed into.
    pub(crate) fn permit(&self) -> u64 {
        2 * buffer_len(self.chunk_size)
    }

    /// The peak of memory that follows from this plan.
    pub(crate) fn peak(&self, context: u64) -> u64 {
        let workers = (self.scan + self.read_most + self.third + self.fourth + self.write + 2) as u64;
        let (blocks, block_len) = self.staging;
        let staging = (blocks * (block_len + HEAD_ROOM + TAIL_ROOM)) as u64;
        let recorded = if self.record.intervals { INTERVALS_LEN } else { 0 };
        let worker = WORKER + if self.record.spans { SPANS_LEN } else { 0 };
        let contexts = self.third as u64 * context;
        BASE + self.budget + staging + recorded + workers * worker + contexts + self.entry_window * ENTRY
    }

    /// The threads that read: those of them that the tuner lets in, where their number is learnt.
    pub(crate) fn readers(&self, run: &Run<'_>, next: &'static str) -> Crew {
        if self.read_most == self.read {
            return self.read.into();
        }
        let gate = Gate::new(self.read, self.read_most);
        run.learn(Tuner::new(Arc::clone(&gate), "read", next));
        gate.into()
    }

    /// Threads of each stage, in the order of the data.
    fn counts(&self) -> [usize; 5] {
        [self.scan, self.read, self.third, self.fourth, self.write]
    }

    /// The plan in the words of a report.
    ///
    /// - `context`: bytes that a worker of the third stage keeps: [`compress_context`], [`UNPACK_CONTEXT`] or
    ///   [`repack_context`].
    pub(crate) fn report(&self, context: u64, course: Course) -> PlanReport {
        let names = match course {
            Course::Pack => ["scan", "read", "compress", "encrypt", "write"],
            Course::Unpack => ["plan", "read", "decrypt", "decompress", "write"],
            Course::Transfer => ["plan", "read", "decrypt", "encrypt", "write"],
        };
        let counts = self.counts();
        // `verify` has nothing to write.
        let workers: Vec<_> = names.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        let counts = self.counts();
        let reduced = names.into_iter().zip(counts).zip(self.unreduced.0);
        let reduced =
            reduced.filter(|((_, count), without)| count < without).map(|((name, _), without)| (name, without));
        let reasons = names.into_iter().zip(self.counts()).zip(&self.reasons).filter(|((_, count), _)| *count > 0);
        // What is not sealed anew is written as it is read.
        let behind_read = if course == Course::Transfer && self.fourth == 0 { names[4] } else { names[2] };
        let reason = |name: &'static str, reason: &str| match name {
            "read" if self.read_most > self.read => {
                (name, format!("{reason}; up to {} while {behind_read} starves and they help", self.read_most))
            }
            _ => (name, reason.to_owned()),
        };
        PlanReport {
            reasons: reasons.map(|((name, _), why)| reason(name, why)).collect(),
            reduced: reduced.collect(),
            unreduced_memory_bytes: self.unreduced.1,
            queue_depths: workers[1..].iter().map(|&(name, count)| (name, self.depth(count))).collect(),
            workers,
            chunk_size: self.chunk_size,
            buffer_bytes: self.budget,
            entries_in_flight: self.entry_window,
            peak_memory_bytes: self.peak(context),
        }
    }
}

/// Which way the data goes: what the stages are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// From files into a vault.
    Pack,
    /// From a vault into files.
    Unpack,
    /// From one vault file into another.
    Transfer,
}

/// What a buffer for chunks of this size takes.
pub(crate) fn buffer_len(chunk_size: u32) -> u64 {
    u64::from(chunk_size) + (HEAD_ROOM + TAIL_ROOM) as u64
}

/// Bytes of a zstd compression context for chunks of this size, rounded up. Measured with libzstd 1.5.7 and the pledged
/// size set; below 4 MiB its tables shrink with the chunk.
pub(crate) fn compress_context(level: Level, chunk_size: u32) -> u64 {
    let level = match level {
        Level::Store => return 0,
        Level::Zstd(level) => level,
        Level::Auto => AUTO_HIGHEST_LEVEL,
    };
    let at_4_mib = match level {
        ..=2 => MIB,
        3..=4 => 2 * MIB,
        5..=8 => 16 * MIB,
        9..=12 => 48 * MIB,
        13..=17 => 64 * MIB,
        _ => 84 * MIB,
    };
    (at_4_mib * u64::from(chunk_size.max(MIB_U32)) / (4 * MIB)).max(512 * KIB)
}

/// What a decompression context takes; its window lies in the output buffer.
pub(crate) const UNPACK_CONTEXT: u64 = 256 * KIB;
/// The zstd level at which pieces of records are packed anew: the default of packing.
pub(crate) const REPACK_LEVEL: i32 = 3;

/// What a worker keeps who does that with records of this size.
pub(crate) fn repack_context(chunk_size: u32) -> u64 {
    UNPACK_CONTEXT + compress_context(Level::Zstd(REPACK_LEVEL), chunk_size)
}

const MIB_U32: u32 = 1 << 20;
/// The highest level that `--level auto` may pick.
pub(crate) const AUTO_HIGHEST_LEVEL: i32 = 6;

/// A stage's count and why it is that: what was set stays unless memory forbids it.
fn count(own: Option<NonZeroU16>, all: Option<NonZeroU16>, auto: (usize, String)) -> Result<(usize, String)> {
    let Some(set) = own.or(all) else { return Ok(auto) };
    if set.get() > MAX_WORKERS {
        return Err(Error::Usage(format!("{set} workers asked for a stage: at most {MAX_WORKERS} are allowed")));
    }
    Ok((usize::from(set.get()), "as asked for".to_owned()))
}

/// As many as there are cores, within limits.
fn by_cores(least: usize, most: usize) -> (usize, String) {
    let cores = available_cores().get();
    let reason = match cores.clamp(least, most) {
        count if count == cores => format!("as many as cores ({cores})"),
        count if count > cores => format!("at least {least}, with {cores} core{}", if cores == 1 { "" } else { "s" }),
        _ => format!("at most {most}, with {cores} cores"),
    };
    (cores.clamp(least, most), reason)
}

/// Threads that read, to begin with and at most, and why.
///
/// Measured by who waits: where the stage behind is starved, more of them are tried ([`crate::engine::gate`]).
fn readers(device: Device) -> (usize, usize, String) {
    let cores = available_cores().get();
    let (first, most) = match device {
        // Heads move for each; but where it only says that it turns, more are soon found to be better.
        Device::Rotational => (1, 8),
        Device::Network => (8, 32),
        Device::Flash | Device::Unknown => (cores.clamp(2, 4), (2 * cores).clamp(8, 16)),
    };
    (first, most, device.words().to_owned())
}

/// The plan of packing sources that are on such a device.
pub(crate) fn fit_pack(config: &PipelineConfig, level: Level, device: Device) -> Result<Plan> {
    let chunk_size = config.chunk_size.unwrap_or(DEFAULT_CHUNK_SIZE);
    if !CHUNK_SIZES.contains(&chunk_size) {
        let (least, most) = (u64::from(*CHUNK_SIZES.start()), u64::from(*CHUNK_SIZES.end()));
        let (least, most) = (format_size(least), format_size(most));
        let asked = format_size(u64::from(chunk_size));
        return Err(Error::Usage(format!("a chunk size of {asked} is out of range: {least} to {most} are allowed")));
    }
    let Workers { all, scan, read, compress, encrypt, write, .. } = config.workers;
    let (first, most, why) = readers(device);
    let counts = [
        count(scan, None, by_cores(1, 4))?,
        count(read, all, (first, why))?,
        count(compress, all, by_cores(1, usize::MAX))?,
        // One encrypts 5 GiB/s: more would only be woken in turn, and take memory.
        count(encrypt, all, by_cores(1, 4))?,
        count(write, all, by_cores(1, 4))?,
    ];
    let is_learnt = read.or(all).is_none();
    let mut plan = Plan::of(counts, is_learnt.then_some(most), checked_depth(config)?, chunk_size);
    plan.record = config.record;
    // One is being filled; each worker has written one and is about to write the next.
    plan.staging = ((2 * plan.write + 1).min(MOST_STAGING_BLOCKS), DIRECT_LEN);
    let chunks = if config.chunk_size.is_some() { Chunks::AskedFor } else { Chunks::Free };
    fit(plan, config.memory, |chunk_size| compress_context(level, chunk_size), chunks)
}

/// The plan of the way back out of a vault on such a device, for records of up to `largest_record` plain bytes.
pub(crate) fn fit_unpack(config: &PipelineConfig, largest_record: u32, writes: bool, device: Device) -> Result<Plan> {
    let Workers { all, read, decrypt, decompress, write, .. } = config.workers;
    let (first, most, why) = readers(device);
    let counts = [
        (1, "one thread by its nature".to_owned()),
        count(read, all, (first, why))?,
        count(decrypt, all, by_cores(1, usize::MAX))?,
        count(decompress, all, by_cores(1, usize::MAX))?,
        if writes { count(write, all, by_cores(2, usize::MAX))? } else { (0, String::new()) },
    ];
    let is_learnt = read.or(all).is_none();
    let chunk_size = largest_record.max(*CHUNK_SIZES.start());
    let mut plan = Plan::of(counts, is_learnt.then_some(most), checked_depth(config)?, chunk_size);
    plan.record = config.record;
    fit(plan, config.memory, |_| UNPACK_CONTEXT, Chunks::AsTheyAre)
}

/// The plan of bringing records of up to `largest_record` plain bytes from one file into another on such a device.
///
/// - `reseals`: they are sealed anew on their way; else some may be packed anew.
pub(crate) fn fit_transfer(
    config: &PipelineConfig,
    largest_record: u32,
    reseals: bool,
    device: Device,
) -> Result<Plan> {
    let Workers { all, read, decrypt, encrypt, write, .. } = config.workers;
    let (first, most, why) = readers(device);
    let counts = [
        (1, "one thread by its nature".to_owned()),
        count(read, all, (first, why))?,
        count(decrypt, all, by_cores(1, 4))?,
        if reseals { count(encrypt, all, by_cores(1, 4))? } else { (0, String::new()) },
        count(write, all, by_cores(1, 4))?,
    ];
    let is_learnt = read.or(all).is_none();
    let chunk_size = largest_record.max(*CHUNK_SIZES.start());
    let mut plan = Plan::of(counts, is_learnt.then_some(most), checked_depth(config)?, chunk_size);
    plan.record = config.record;
    // Blocks of the new file that no record under way has a buffer for: the first and the last of those that are open.
    plan.staging = (2, DIRECT_LEN / 2);
    let context = |chunk_size| if reseals { 0 } else { repack_context(chunk_size) };
    fit(plan, config.memory, context, Chunks::AsTheyAre)
}

/// Whether fitting to memory may make chunks smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunks {
    /// Nobody has asked for a size.
    Free,
    /// Their size was asked for, and is kept as long as anything else can be given up.
    AskedFor,
    /// Records are as they are.
    AsTheyAre,
}

/// A ceiling should leave room for so many chunks under way: with fewer, workers wait for each other. Sooner than that chunks are
/// halved, which costs 1 to 4 % of space and no speed (docs/adr/0013).
const PERMITS_FOR_SPEED: u64 = 4;

fn checked_depth(config: &PipelineConfig) -> Result<Option<usize>> {
    match config.queue_depth {
        Some(depth) if !(1..=65_536).contains(&depth) => {
            Err(Error::Usage(format!("a queue depth of {depth} is out of range: 1 to 65536 are allowed")))
        }
        depth => Ok(depth),
    }
}

/// Fits a plan to a ceiling.
///
/// - `context`: what a worker of the third stage needs for chunks of a size;
/// - `chunks`: whether they may be smaller than the plan has them.
fn fit(mut plan: Plan, ceiling: Option<u64>, context: impl Fn(u32) -> u64, chunks: Chunks) -> Result<Plan> {
    let wanted = |plan: &Plan| {
        // Every stage busy and something waiting before the slowest. Behind `compress` a chunk holds one buffer only.
        let chunks = plan.read + 2 * plan.third + plan.fourth + plan.write + 2;
        let floor = (plan.third.max(plan.fourth) as u64 + 4) * plan.permit();
        (chunks as u64 * plan.permit()).min(AUTO_BUDGET.max(floor))
    };
    plan.budget = wanted(&plan);
    // A reader has a chunk in its hands, for which there has to be a permit, and others need some, too.
    let enough_for = |plan: &Plan| plan.read.max(usize::try_from(plan.budget / plan.permit()).unwrap_or(0) / 2);
    plan.read_most = plan.read_most.min(enough_for(&plan));
    plan.unreduced = (plan.counts(), plan.peak(context(plan.chunk_size)));
    let Some(ceiling) = ceiling else { return Ok(plan) };
    if plan.unreduced.1 <= ceiling {
        return Ok(plan);
    }
    // Where memory is short nobody is let in beside those that are planned.
    plan.read_most = plan.read;

    let staging = plan.staging;
    if staging.0 > 0 {
        plan.staging = SMALL_STAGING;
    }
    let asked = plan.clone();
    let least = |chunk_size: u32, permits: u64| {
        let one_each = Plan {
            scan: 1,
            read: 1,
            read_most: 1,
            third: 1,
            fourth: asked.fourth.min(1),
            write: asked.write.min(1),
            ..asked.clone()
        };
        let one_each = Plan { chunk_size, entry_window: LEAST_ENTRY_WINDOW, ..one_each };
        Plan { budget: permits * one_each.permit(), ..one_each }
    };
    let peak = |plan: &Plan| plan.peak(context(plan.chunk_size));
    let smallest = *CHUNK_SIZES.start();
    while chunks == Chunks::Free
        && plan.chunk_size > smallest
        && peak(&least(plan.chunk_size, PERMITS_FOR_SPEED)) > ceiling
    {
        plan.chunk_size = (plan.chunk_size / 2).max(smallest);
    }
    while peak(&least(plan.chunk_size, 2)) > ceiling {
        if chunks == Chunks::AsTheyAre || plan.chunk_size <= smallest {
            let needed = peak(&least(plan.chunk_size, 2));
            // Rounded up, so that asking for what the message says is enough.
            let needed_mib = needed.div_ceil(MIB);
            let asked = format_size(ceiling);
            return Err(Error::Usage(format!("{asked} of memory is not enough: at least {needed_mib}M is needed")));
        }
        plan.chunk_size = (plan.chunk_size / 2).max(smallest);
    }
    if peak(&Plan { budget: wanted(&plan), ..plan.clone() }) > ceiling {
        plan.entry_window = LEAST_ENTRY_WINDOW;
    }
    loop {
        let without = peak(&Plan { budget: 0, ..plan.clone() });
        let enough = (plan.third as u64 + 1).max(2) * plan.permit();
        if without + enough <= ceiling {
            plan.budget = wanted(&plan).min(ceiling - without);
            let staged = Plan { staging, ..plan.clone() };
            if peak(&staged) <= ceiling {
                plan = staged;
            }
            let counts = plan.counts();
            for ((reason, count), without) in plan.reasons.iter_mut().zip(counts).zip(plan.unreduced.0) {
                if count < without {
                    reason.push_str(&format!("; {count} instead of {without} to fit --memory"));
                }
            }
            return Ok(plan);
        }
        let stages = [&mut plan.third, &mut plan.fourth, &mut plan.read, &mut plan.write, &mut plan.scan];
        let largest = stages.into_iter().max_by_key(|count| **count).expect("there are five");
        if *largest > 1 {
            *largest -= 1;
            plan.read_most = plan.read;
        } else {
            plan.budget = 2 * plan.permit();
            return Ok(plan);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(memory: Option<&str>, workers: Option<u16>) -> PipelineConfig {
        let memory = memory.map(|text| crate::primitives::units::parse_size(text).unwrap());
        let all = workers.map(|n| NonZeroU16::new(n).unwrap());
        PipelineConfig { memory, workers: Workers { all, ..Workers::default() }, ..PipelineConfig::default() }
    }

    #[test]
    fn a_plan_stays_under_its_ceiling() {
        for memory in ["48M", "64M", "128M", "256M", "1G"] {
            for workers in [None, Some(1), Some(8), Some(64)] {
                let plan = fit_pack(&config(Some(memory), workers), Level::Zstd(3), Device::Flash).unwrap();
                let ceiling = crate::primitives::units::parse_size(memory).unwrap();
                assert!(plan.peak(compress_context(Level::Zstd(3), plan.chunk_size)) <= ceiling, "{memory} {plan:?}");
                assert!(plan.budget >= 2 * plan.permit(), "{memory} {plan:?}");
            }
        }
    }

    #[test]
    fn too_little_memory_is_refused_with_what_would_do() {
        let refused = fit_pack(&config(Some("8M"), None), Level::Zstd(3), Device::Flash).unwrap_err().to_string();
        let needed: String = refused.split("at least ").nth(1).unwrap().chars().take_while(|c| *c != ' ').collect();
        assert!(fit_pack(&config(Some(&needed), None), Level::Zstd(3), Device::Flash).is_ok(), "{refused}");
    }

    #[test]
    fn the_chunk_size_follows_from_the_ceiling_and_not_from_the_workers() {
        for memory in ["48M", "64M", "128M"] {
            let sizes = [1, 2, 16]
                .map(|n| fit_pack(&config(Some(memory), Some(n)), Level::Zstd(3), Device::Flash).unwrap().chunk_size);
            assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
        }
    }

    #[test]
    fn where_memory_is_short_chunks_go_before_workers_unless_their_size_was_asked_for() {
        let plan = |chunk_size, workers| {
            let config = PipelineConfig { chunk_size, ..config(Some("64M"), workers) };
            fit_pack(&config, Level::Zstd(3), Device::Flash).unwrap()
        };
        assert_eq!((plan(None, Some(2)).chunk_size, plan(None, Some(2)).third), (2 << 20, 2));
        assert_eq!((plan(Some(4 << 20), Some(2)).chunk_size, plan(Some(4 << 20), Some(2)).third), (4 << 20, 1));
        assert_eq!(fit_pack(&config(Some("128M"), None), Level::Zstd(3), Device::Flash).unwrap().chunk_size, 4 << 20);
    }

    #[test]
    fn a_report_of_a_plan_names_the_stages_that_there_are() {
        let config = PipelineConfig { queue_depth: Some(7), ..config(Some("256M"), Some(3)) };
        let plan = fit_pack(&config, Level::Zstd(3), Device::Flash).unwrap();
        let report = plan.report(compress_context(Level::Zstd(3), plan.chunk_size), Course::Pack);
        assert_eq!(report.workers[1..], [("read", 3), ("compress", 3), ("encrypt", 3), ("write", 3)]);
        assert_eq!(report.queue_depths, ["read", "compress", "encrypt", "write"].map(|name| (name, 7)));
        assert!(report.peak_memory_bytes <= 256 * MIB && report.peak_memory_bytes > report.buffer_bytes);
        let verify = fit_unpack(&config, 1 << 20, false, Device::Flash).unwrap().report(UNPACK_CONTEXT, Course::Unpack);
        assert_eq!(verify.workers, [("plan", 1), ("read", 3), ("decrypt", 3), ("decompress", 3)]);
        assert_eq!(verify.chunk_size, 1 << 20);
    }

    #[test]
    fn the_default_stays_under_a_quarter_of_a_gib() {
        let plan = fit_pack(&config(None, None), Level::Zstd(3), Device::Flash).unwrap();
        if available_cores().get() <= 16 {
            assert!(plan.peak(compress_context(Level::Zstd(3), plan.chunk_size)) <= 280 * MIB, "{plan:?}");
        }
    }
}

//! Restoring: plan, read, decrypt, decompress, write.
//!
//! ```text
//! planner ──▶ read ──▶ decrypt ──▶ decompress ──▶ write        bounded channels
//!    └───── entries without content, lost records ───▶
//! ```

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::engine::api::ExtractOptions;
use crate::engine::budget::Budget;
use crate::engine::device::Device;
use crate::engine::fit::{Course, Plan, UNPACK_CONTEXT, fit_unpack};
use crate::engine::nearest::nearest;
use crate::engine::observe::{EntryErrorKind, Failed, Observer, PlanReport, Report, StageReport};
use crate::engine::pipeline::{Envelope, Gone, Outlet, StageHandle, spawn_one, spawn_stage};
use crate::engine::queue::{Feed, queue};
use crate::engine::rehearse::rehearse;
use crate::engine::restore_plan::{RestorePlanner, Seams, WriteJob};
use crate::engine::run::{Phase, Run};
use crate::engine::select::{Filter, Selection, trees_at};
use crate::engine::state::State;
use crate::engine::stats::stage_report;
use crate::engine::tell::{Tally, Telling, Told};
use crate::engine::vault::Vault;
use crate::engine::verdict::{Way, judge};
use crate::error::{Error, FileOp, Result};
use crate::format::entry::EntryPath;
use crate::format::record::sealed_len;
use crate::format::tree::Tree;
use crate::primitives::pool::BufferPool;
use crate::stages::unpack::decompress::Decompress;
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::destination::Destination;
use crate::stages::unpack::policy::RestorePolicy;
use crate::stages::unpack::read::{PlainRecord, ReadRecord};
use crate::stages::unpack::told::RestoreSink;
use crate::stages::unpack::write::{FileWriter, Piece};
use crate::stages::{Stage, Weighed};

impl Vault {
    /// Restores the entries of a snapshot below `destination`, which is made where it does not exist.
    ///
    /// What cannot be restored is named in the report; a file whose bytes are damaged in the vault is not there at all, all
    /// others are.
    ///
    /// # Errors
    /// Whatever ended the operation; nothing half written stays under a final name. [`Error::NothingRestored`] if there
    /// were entries to restore and none could be; [`Error::NoEntry`] if the names asked for stand for nothing.
    pub fn extract(
        &self,
        destination: &Path,
        options: &ExtractOptions,
        observer: &dyn Observer,
    ) -> Result<Report, Failed> {
        let tally = Arc::new(Tally::default());
        let mut done = Done::default();
        let (result, run) = Run::conduct("restore", &self.path, &options.pipeline, observer, |run| {
            let state = self.open_state(run, false)?;
            self.extract_from(run, &state, destination, options, &tally, &mut done)
        });
        let mut report = run.into_report("extract", std::mem::take(&mut done.stages));
        report.snapshot = done.snapshot;
        tally.fill(&mut report);
        report.stored_size = done.read_bytes;
        report.plan = done.plan.take();
        report.bottleneck = judge(&report, Way::Unpack);
        let result = result.and_then(|()| done.outcome(destination, options, &report));
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }

    /// The newest state for an operation that reads, its warnings told.
    pub(crate) fn open_state(&self, run: &Run<'_>, track: bool) -> Result<State> {
        let state = self.reader(track)?;
        self.warnings.iter().chain(&state.warnings).for_each(|warning| run.note(&self.path, warning.clone()));
        Ok(state)
    }

    fn extract_from(
        &self,
        run: &Run<'_>,
        state: &State,
        destination: &Path,
        options: &ExtractOptions,
        tally: &Arc<Tally>,
        done: &mut Done,
    ) -> Result<()> {
        let (commit, trees) = trees_at(state, options.at)?;
        done.snapshot = commit.snapshot.as_ref().map(|snapshot| snapshot.number);
        let filter = Filter::new(&options.include, &options.exclude)?;
        let selection = Selection::tolerant(state, &trees, &options.files)?.filtered(filter);
        let plan = fit_unpack(&options.pipeline, largest_record(&trees), true, Device::of(&self.path))?;
        done.plan = Some(plan.report(UNPACK_CONTEXT, Course::Unpack));
        let policy = RestorePolicy { overwrite: options.overwrite, preserve: options.preserve, sync: options.sync };
        if options.dry_run {
            let (selection, selected) = rehearse(run, selection, destination, policy, tally)?;
            done.end_of_selection(run, selection.unmatched(), selected);
            done.look_for_nearest(state, &trees);
            return Ok(());
        }
        let sink = Arc::new(Told::default());
        let opened = Destination::open(destination, policy, Arc::clone(&sink) as Arc<dyn RestoreSink>)?;
        let opened = Arc::new(opened);
        let telling = Telling { run, told: &sink, tally };
        let restore = Restore { run, state, plan: &plan, destination: &opened, trees: &trees };
        let result = restore.run(selection, &telling, done);
        if result.is_ok() {
            run.enter(Phase::Commit);
            opened.finish();
        } else {
            opened.abandon();
        }
        telling.pass_on();
        result?;
        done.look_for_nearest(state, &trees);
        opened.sync().map_err(|error| Error::io(FileOp::Sync, destination, error))
    }
}

/// The most plain bytes of any record of these trees.
pub(crate) fn largest_record(trees: &[Arc<Tree>]) -> u32 {
    trees.iter().map(|tree| tree.head().max_plain_len).max().unwrap_or(0)
}

/// A pool whose buffers hold any of these records with its frame.
pub(crate) fn record_pool(plan: &Plan) -> BufferPool {
    BufferPool::new(sealed_len(plan.chunk_size) as usize)
}

#[derive(Default)]
struct Done {
    stages: Vec<StageReport>,
    snapshot: Option<u64>,
    read_bytes: u64,
    plan: Option<PlanReport>,
    unmatched: Vec<EntryPath>,
    /// What the first of these may have been meant to be.
    nearest: Option<String>,
    selected: u64,
}

impl Done {
    /// Takes note of how many entries there were, and which of the names asked for stood for none: named here if others
    /// did, else by [`Done::outcome`].
    fn end_of_selection(&mut self, run: &Run<'_>, unmatched: &[EntryPath], selected: u64) {
        (self.unmatched, self.selected) = (unmatched.to_vec(), selected);
        if selected > 0 {
            for name in unmatched {
                let message = "no entry of the snapshot has this name".to_owned();
                run.entry_failed(name.as_path(), EntryErrorKind::NotFound, message);
            }
        }
    }

    /// For the hint, where none of the names stood for anything.
    fn look_for_nearest(&mut self, state: &State, trees: &[Arc<Tree>]) {
        if let (0, Some(name), Ok(mut merge)) = (self.selected, self.unmatched.first(), state.merge(trees)) {
            self.nearest = nearest(&mut merge, name);
        }
    }

    /// Whether a run that came to its end did anything of what was asked.
    fn outcome(&self, destination: &Path, options: &ExtractOptions, report: &Report) -> Result<()> {
        if self.selected == 0 && !report.is_damaged() {
            let unmatched = self.unmatched.first().map(|name| name.as_path().display().to_string());
            let name = unmatched.or_else(|| (!options.include.is_empty()).then(|| options.include.join(", ")));
            if let Some(name) = name {
                return Err(Error::NoEntry { name, nearest: self.nearest.clone() });
            }
        }
        let nothing = report.successful_files + report.directories == 0;
        if nothing && !report.errors.is_empty() && !report.is_damaged() {
            return Err(Error::NothingRestored(destination.to_owned()));
        }
        Ok(())
    }
}

/// Decompressors hand their records to the writers.
#[derive(Clone)]
struct ToWrite(Feed<WriteJob>);

impl Outlet<PlainRecord<Vec<Piece>>> for ToWrite {
    fn send(&self, envelope: Envelope<PlainRecord<Vec<Piece>>>) -> Result<(), Gone> {
        let job = Envelope { item: WriteJob::Record(envelope.item), permit: envelope.permit };
        self.0.send(job)
    }
}

/// One write worker of the way back.
struct WriteFiles<'r, 'c> {
    writer: FileWriter,
    telling: &'r Telling<'r, 'c>,
}

/// The last stage gives nothing on.
#[derive(Clone)]
struct Nowhere;

struct Nothing;

impl Weighed for Nothing {
    fn bytes(&self) -> u64 {
        0
    }
}

impl Outlet<Nothing> for Nowhere {
    fn send(&self, _: Envelope<Nothing>) -> Result<(), Gone> {
        Ok(())
    }
}

impl Stage for WriteFiles<'_, '_> {
    type In = WriteJob;
    type Out = Nothing;
    const NAME: &'static str = "write";

    fn process(&mut self, job: WriteJob, _: &mut dyn FnMut(Nothing) -> Result<()>) -> Result<()> {
        match job {
            WriteJob::Record(PlainRecord { bytes, purpose, .. }) => match bytes {
                Ok(plain) => self.writer.write(plain.as_slice(), &purpose),
                Err(why) => self.writer.lose(&purpose, &why),
            },
            WriteJob::Create(entries) => entries.into_iter().for_each(|entry| self.writer.create(entry)),
            WriteJob::Lost(pieces, why) => self.writer.lose(&pieces, &why),
        }
        self.telling.pass_on();
        Ok(())
    }
}

/// The pipeline of one run.
struct Restore<'r, 'c> {
    run: &'r Run<'c>,
    state: &'r State,
    plan: &'r Plan,
    destination: &'r Arc<Destination>,
    trees: &'r [Arc<Tree>],
}

impl Restore<'_, '_> {
    fn run(&self, selection: Selection, telling: &Telling<'_, '_>, done: &mut Done) -> Result<()> {
        let Self { run, plan, state, destination, trees } = *self;
        run.enter(Phase::Stream);
        let began = Instant::now();
        let budget = Budget::new(plan.budget);
        run.buffers_of(&budget);
        let window = Budget::new(plan.entry_window);
        let pool = record_pool(plan);
        let planned: Mutex<(Vec<EntryPath>, u64)> = Mutex::default();
        let make_read = || Ok(ReadRecord::<Vec<Piece>>::new(&*state.storage, pool.clone()));
        let make_decrypt = || Ok(Decrypt::new());
        let make_decompress = || Decompress::new(pool.clone());
        let make_write = || Ok(WriteFiles { writer: FileWriter::new(Arc::clone(destination)), telling });

        let stages = std::thread::scope(|scope| {
            let (to_read, for_read) = queue(plan.depth(plan.read));
            let (to_decrypt, for_decrypt) = queue(plan.depth(plan.third));
            let (to_decompress, for_decompress) = queue(plan.depth(plan.fourth));
            let (to_write, for_write) = queue(plan.depth(plan.write));
            let seams = Seams {
                run,
                plan,
                state,
                destination,
                telling,
                budget: &budget,
                window: &window,
                to_read,
                to_write: to_write.clone(),
            };
            let planner = RestorePlanner::new(seams, trees);
            let planned = &planned;
            let mut stages = Vec::new();
            let started = (|| {
                stages.push(spawn_one(scope, run, "plan", move || {
                    let (selection, selected, stats) = planner.work(selection)?;
                    let unmatched = selection.unmatched().to_vec();
                    *planned.lock().unwrap_or_else(PoisonError::into_inner) = (unmatched, selected);
                    Ok(stats)
                })?);
                stages.push(spawn_stage(scope, run, plan.readers(run, "decrypt"), &make_read, for_read, to_decrypt)?);
                stages.push(spawn_stage(scope, run, plan.third, &make_decrypt, for_decrypt, to_decompress)?);
                stages.push(spawn_stage(scope, run, plan.fourth, &make_decompress, for_decompress, ToWrite(to_write))?);
                stages.push(spawn_stage(scope, run, plan.write, &make_write, for_write, Nowhere)?);
                Ok(())
            })();
            if let Err(error) = started {
                run.stop.fail(error);
            }
            stages.into_iter().map(StageHandle::join).collect::<Vec<_>>()
        });
        let wall = began.elapsed();
        done.stages = stages.into_iter().map(|(name, workers)| stage_report(name, workers, wall)).collect();
        done.read_bytes = done.stages.iter().find(|stage| stage.name == "read").map_or(0, |stage| stage.work.bytes_in);
        let (unmatched, selected) = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.end_of_selection(run, &unmatched, selected);
        run.check()
    }
}

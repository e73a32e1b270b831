//! Packing: scan, plan, read, compress, encrypt, write, index, commit.
//!
//! ```text
//! scan ─ planner ──▶ read ──▶ compress ──▶ encrypt ──▶ write ──▶ indexer        bounded channels
//!           └──────────────────── entries ───────────────────────▶
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};

use crate::engine::api::AddOptions;
use crate::engine::budget::{Budget, Permit};
use crate::engine::catch_up::Skipped;
use crate::engine::commit::{Ready, about_this_run};
use crate::engine::compare::{BaseWalk, Before, Compared, Comparison, Ordinals, places};
use crate::engine::config::{Level, ReadMode};
use crate::engine::device::Device;
use crate::engine::fit::{Course, Plan, compress_context, fit_pack};
use crate::engine::full_index::write_full_if_due;
use crate::engine::indexer::{Announced, Deleted, Indexed, Indexer, Message};
use crate::engine::observe::{Failed, Observer, PlanReport, Report, StageReport};
use crate::engine::pipeline::{Envelope, Gone, Outlet, StageHandle, spawn_one, spawn_stage};
use crate::engine::plan::{Content, DELETED_WEIGHT, Decision, Planned, Planner};
use crate::engine::queue::{Feed, queue};
use crate::engine::recorder::Item;
use crate::engine::run::{Gauge, Phase, Run};
use crate::engine::same_bytes::OldContent;
use crate::engine::segment::SegmentWriter;
use crate::engine::state::State;
use crate::engine::stats::{Timed, WorkerStats, scan_report, stage_report};
use crate::engine::vault::{REPLACED, Vault, Writer};
use crate::engine::verdict::{Way, judge};
use crate::error::{Error, FileOp, Result};
use crate::format::commit::{SNAPSHOT_PARTIAL, SnapshotRecord};
use crate::format::entry::{Entry, EntryPath, EntryType};
use crate::format::index::BlockRef;
use crate::format::tree::Tree;
use crate::primitives::fs::StatKind;
use crate::primitives::pool::BufferPool;
use crate::stages::pack::compress::{Compress, Effort};
use crate::stages::pack::encrypt::Encrypt;
use crate::stages::pack::names::name_sources;
use crate::stages::pack::read::{Intake, Mapping, Read, now};
use crate::stages::pack::scan::meter::{ListingWork, ScanMeter};
use crate::stages::pack::scan::{Scan, ScanOptions, scan};
use crate::stages::pack::source::{FileSystem, Source};
use crate::stages::pack::write::{RecordSink, Write, Written};
use crate::stages::{EntrySeq, ReadJob, Scanned, ScannedEntry};

/// The zstd levels that may be asked for.
const LEVELS: std::ops::RangeInclusive<i32> = -7..=22;
/// Entries that the scan may list ahead of the planner.
const LOOK_AHEAD: usize = 32_768;

impl Vault {
    /// Packs files and directories into the vault: one new snapshot, which holds everything that the newest one held, with
    /// what was packed in the place of its older versions.
    ///
    /// Entries that cannot be read are left out and named in the report; their older versions stay.
    ///
    /// # Errors
    /// Whatever ended the operation, with what was done until then; the vault is as it was (but see
    /// [`Error::CommitUncertain`]). [`Error::NothingStored`] if not a single entry could be stored.
    pub fn add(&self, sources: &[PathBuf], options: &AddOptions, observer: &dyn Observer) -> Result<Report, Failed> {
        self.add_from(sources, options, observer, &FileSystem)
    }

    /// As [`Vault::add`], reading content from `source`.
    pub(crate) fn add_from(
        &self,
        sources: &[PathBuf],
        options: &AddOptions,
        observer: &dyn Observer,
        source: &dyn Source,
    ) -> Result<Report, Failed> {
        let mut done = Done::default();
        let config = &options.pipeline;
        let (result, run) = Run::conduct("pack", &self.path, config, observer, |run| {
            if options.dry_run {
                return self.rehearse_add(run, sources, options, source, &mut done);
            }
            self.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            let writer = self.writer(run).inspect_err(|_| self.unmake_new())?;
            let result = self.add_locked(run, sources, options, source, &writer, &mut done);
            if result.is_err() && writer.is_made {
                let Writer { state, presence, .. } = writer;
                self.unmake(&state.storage, presence);
            }
            result
        });
        let mut report = run.into_report("add", std::mem::take(&mut done.stages));
        report.snapshot = done.snapshot;
        report.plan = done.plan.take();
        let Indexed { failed, changed, bytes, .. } = done.indexed;
        let (files, directories) = done.handled();
        report.unchanged_files = done.unchanged.files;
        (report.removed_files, report.removed_directories) = done.indexed.removed;
        // A file that changed while it was read is stored, and failed all the same: the user has to know.
        report.successful_files = files - changed;
        report.changed_files = changed;
        report.failed_files = failed + changed + done.unseen;
        report.total_files = report.successful_files + report.failed_files;
        report.directories = directories;
        report.total_size = bytes + done.unchanged.bytes;
        report.stored_size = done.stored_size;
        report.bottleneck = judge(&report, Way::Pack(options.level));
        match result {
            Ok(()) => Ok(report),
            // The vault that this value was opened for may have been taken away by its maker, and another made since.
            Err(error @ Error::Refused { what: REPLACED, .. }) => match self.successor() {
                Some(successor) => successor?.add_from(sources, options, observer, source),
                None => Err(Failed { error, report: Box::new(report) }),
            },
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }

    fn add_locked(
        &self,
        run: &Run<'_>,
        sources: &[PathBuf],
        options: &AddOptions,
        source: &dyn Source,
        writer: &Writer,
        done: &mut Done,
    ) -> Result<()> {
        let base = &writer.state;
        base.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
        let plan = fit_pack(&options.pipeline, options.level, source_device(sources, options))?;
        let effort = effort(options.level)?;
        let segment =
            SegmentWriter::new(Arc::clone(&base.storage), &self.path, &self.keys, &run.stop, run.config.lock_timeout)?;
        let segment = segment.staged(plan.staging);
        let mapping = mapping(options.read_mode);
        let trees = base.trees(&base.commit)?;
        let (comparison, places) = self.compare(sources, options, &plan, base, &trees)?;
        done.plan = Some(plan.report(compress_context(options.level, plan.chunk_size), Course::Pack));
        let pack = Pack { run, plan: &plan, effort, mapping, segment: &segment, source, base, trees: &trees, options };
        let mut skipped = Skipped { trees: trees.clone(), places, ..Skipped::default() };
        let committed = self.commit_segment(run, base, &segment, || {
            pack.run(comparison, done)?;
            skipped.unchanged = std::mem::take(&mut done.unchanged.ordinals);
            skipped.deletes = done.indexed.removed != (0, 0);
            let delta = self.checked_delta(done)?;
            let full = write_full_if_due(run, base, &segment)?;
            let (files, directories) = done.handled();
            let bytes = |path: &OsStr| serde_bytes::ByteBuf::from(path.as_bytes());
            let snapshot = SnapshotRecord {
                sources: sources.iter().map(|source| bytes(source.as_os_str())).collect(),
                files,
                directories,
                bytes: done.indexed.bytes + done.unchanged.bytes,
                flags: if run.error_count() > 0 { SNAPSHOT_PARTIAL } else { 0 },
                ..about_this_run(&options.command_line, &options.tags)
            };
            Ok(Ready { delta, full, snapshot, skipped: Some(&skipped) })
        });
        done.stored_size = segment.written();
        done.snapshot = Some(committed?);
        Ok(())
    }

    /// Begins to scan the sources beside the base; answers also where in the vault they are.
    pub(super) fn compare(
        &self,
        sources: &[PathBuf],
        options: &AddOptions,
        plan: &Plan,
        base: &State,
        trees: &[Arc<Tree>],
    ) -> Result<(Comparison<Scan>, Vec<EntryPath>)> {
        let roots = name_sources(sources, options.directory.as_deref())?;
        let own = std::fs::metadata(&*self.path).map(|own| vec![(own.dev(), own.ino())]).unwrap_or_default();
        let scan_options = ScanOptions {
            skip: own,
            look_ahead: LOOK_AHEAD.min(usize::try_from(plan.entry_window).unwrap_or(LOOK_AHEAD)),
            ..scan_options(options, plan.scan)
        };
        let places = places(&roots);
        let scan = scan(roots, scan_options)?;
        // Who reads everything, and drops nothing, need not know what the snapshot has.
        let walk = (options.mirror || !options.force_read).then(|| base.merge(trees)).transpose()?;
        let walk = walk.map(|merge| BaseWalk::new(merge, places.clone()));
        Ok((Comparison::new(scan, walk), places))
    }

    /// The run's delta, if the run came to anything.
    fn checked_delta(&self, done: &Done) -> Result<(BlockRef, u64)> {
        if done.handled() == (0, 0) && done.indexed.removed == (0, 0) {
            return Err(Error::NothingStored(self.path.to_path_buf()));
        }
        done.indexed.delta.ok_or(Error::Interrupted)
    }
}

/// What a run came to, filled in as it goes on.
#[derive(Default)]
pub(super) struct Done {
    stages: Vec<StageReport>,
    pub(super) plan: Option<PlanReport>,
    pub(super) indexed: Indexed,
    pub(super) unchanged: Unchanged,
    /// Sources and entries that could not even be looked at.
    pub(super) unseen: u64,
    snapshot: Option<u64>,
    stored_size: u64,
}

impl Done {
    /// Entries but directories, and directories, that the new snapshot has as they are in the sources.
    pub(super) fn handled(&self) -> (u64, u64) {
        (self.indexed.files + self.unchanged.files, self.indexed.directories + self.unchanged.directories)
    }
}

/// Entries that the newest snapshot had already.
#[derive(Default)]
pub(super) struct Unchanged {
    files: u64,
    directories: u64,
    bytes: u64,
    ordinals: Ordinals,
}

impl Unchanged {
    /// Counts one; `ordinal` is that of the entry it is the same as.
    pub(super) fn count(&mut self, entry: &ScannedEntry, ordinal: u64) {
        self.ordinals.insert(ordinal);
        if entry.stat.kind == StatKind::Directory {
            self.directories += 1;
        } else {
            self.files += 1;
            self.bytes += entry.content_len();
        }
    }
}

pub(super) fn effort(level: Level) -> Result<Effort> {
    Ok(match level {
        Level::Store => Effort::Store,
        Level::Zstd(level) if LEVELS.contains(&level) => Effort::Level(level),
        Level::Zstd(level) => {
            return Err(Error::Usage(format!("level {level} is out of range: -7 to 22 are allowed")));
        }
        Level::Auto => Effort::BySample,
    })
}

/// What the sources are on.
pub(super) fn source_device(sources: &[PathBuf], options: &AddOptions) -> Device {
    let base = options.directory.as_deref().unwrap_or(Path::new(""));
    Device::of_all(sources.iter().map(|source| base.join(source)))
}

/// What a scan is to find, in so many threads.
pub(super) fn scan_options(options: &AddOptions, workers: usize) -> ScanOptions {
    ScanOptions {
        workers,
        exclude: options.exclude.clone(),
        exclude_caches: options.exclude_caches,
        one_file_system: options.one_file_system,
        ..ScanOptions::default()
    }
}

/// Where files are mapped in this mode.
pub(super) fn mapping(mode: ReadMode) -> Mapping {
    match mode {
        ReadMode::Auto => Mapping::Local,
        ReadMode::Mmap => Mapping::Always,
        ReadMode::Read => Mapping::Never,
    }
}

/// The pipeline of one run.
struct Pack<'r, 'c> {
    run: &'r Run<'c>,
    plan: &'r Plan,
    effort: Effort,
    mapping: Mapping,
    segment: &'r SegmentWriter,
    source: &'r dyn Source,
    base: &'r State,
    trees: &'r [Arc<Tree>],
    options: &'r AddOptions,
}

/// Records go into the run's segment.
impl RecordSink for SegmentWriter {
    fn write_record(&self, framed: &[u8], plain_len: u32) -> Result<u64> {
        let offset = self.write(framed)?;
        self.content_written(u64::from(plain_len));
        Ok(offset)
    }
}

impl Pack<'_, '_> {
    /// Runs all stages until everything is written and indexed, or the run is stopped.
    fn run(&self, comparison: Comparison<Scan>, done: &mut Done) -> Result<()> {
        let Self { run, plan, segment, source, base, trees, options, .. } = *self;
        run.enter(Phase::Stream);
        let (began, began_at) = (Instant::now(), now());
        let budget = Budget::new(plan.budget);
        run.buffers_of(&budget);
        let window = Budget::new(plan.entry_window);
        let pool = BufferPool::new(plan.chunk_size as usize);
        let intake = Intake { mapping: self.mapping, refused: AtomicBool::new(false) };
        let indexed: Mutex<Indexed> = Mutex::default();
        let unseen = AtomicU64::new(0);
        let unchanged: Mutex<Unchanged> = Mutex::default();
        let listing: Mutex<Vec<ListingWork>> = Mutex::default();
        let at = |path: &Path| run.at(path);
        let step = || {
            run.counters.tick();
            !run.stop.is_stopped()
        };
        let make_read = || Ok(Read::new(source, &intake, pool.clone(), &at, &step));
        let make_compress = || Compress::new(self.effort, pool.clone());
        let make_encrypt = || Ok(Encrypt::new(segment.keys(), segment.id()));
        let make_write = || Ok(Write::new(segment));

        let stages = std::thread::scope(|scope| {
            let (to_read, for_read) = queue(plan.depth(plan.read));
            let (to_compress, for_compress) = queue(plan.depth(plan.third));
            let (to_encrypt, for_encrypt) = queue(plan.depth(plan.fourth));
            let (to_write, for_write) = queue(plan.depth(plan.write));
            let (to_indexer, for_indexer) = bounded(INDEXER_QUEUE);
            let front = Front {
                run,
                options,
                window: &window,
                segment,
                unseen: &unseen,
                planner: Planner::new(source, plan.chunk_size, trees.to_vec()),
                seq: 0,
                unchanged: Unchanged::default(),
                gauge: run.gauge("scan", 1, None, None),
                jobs: Jobs {
                    run,
                    permit: plan.permit(),
                    budget: &budget,
                    old_content: OldContent::new(run, base, trees, source, &budget),
                    to_read,
                    waits: Waits::default(),
                },
                to_indexer: to_indexer.clone(),
            };
            let (outcome_slot, unchanged_slot, listing_slot) = (&indexed, &unchanged, &listing);

            let mut stages = Vec::new();
            // If a thread cannot be started, the channels' ends that it was to have are dropped here, and all others end.
            let started = (|| {
                stages.push(spawn_one(scope, run, "scan", move || {
                    let (unchanged, stats, meter) = front.work(comparison)?;
                    *listing_slot.lock().unwrap_or_else(PoisonError::into_inner) = meter.take_threads();
                    *unchanged_slot.lock().unwrap_or_else(PoisonError::into_inner) = unchanged;
                    Ok(stats)
                })?);
                stages.push(spawn_stage(scope, run, plan.readers(run, "compress"), &make_read, for_read, to_compress)?);
                stages.push(spawn_stage(scope, run, plan.third, &make_compress, for_compress, to_encrypt)?);
                stages.push(spawn_stage(scope, run, plan.fourth, &make_encrypt, for_encrypt, to_write)?);
                stages.push(spawn_stage(scope, run, plan.write, &make_write, for_write, Tell(to_indexer))?);
                let gauge = run.gauge("index", 1, None, None);
                stages.push(spawn_one(scope, run, "index", move || {
                    let (outcome, stats) =
                        Indexer::new(run, segment, base, trees, began_at).work(&for_indexer, &gauge)?;
                    *outcome_slot.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
                    Ok(stats.close())
                })?);
                Ok(())
            })();
            if let Err(error) = started {
                run.stop.fail(error);
            }
            stages.into_iter().map(StageHandle::join).collect::<Vec<_>>()
        });

        let wall = began.elapsed();
        let mut listing = Some(listing.into_inner().unwrap_or_else(PoisonError::into_inner));
        let report = |(name, workers)| match name {
            "scan" => scan_report(workers, listing.take().unwrap_or_default(), wall),
            name => stage_report(name, workers, wall),
        };
        done.stages = stages.into_iter().map(report).collect();
        done.indexed = indexed.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.unchanged = unchanged.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.unseen = unseen.into_inner();
        if intake.refused.into_inner() {
            let message = "the system does not permit copying out of a mapping; large files were read instead";
            run.note(&run_root(), message.to_owned());
        }
        run.check()
    }
}

/// Slots between the planner and the writers on one side and the indexer on the other. What it holds is bounded by the
/// window of entries and by the budget; this only keeps the planner from being woken for every entry.
const INDEXER_QUEUE: usize = 1024;

/// The path in messages about the machine as a whole.
fn run_root() -> PathBuf {
    PathBuf::from("/")
}

/// Writers tell the indexer what they have written.
#[derive(Clone)]
struct Tell(Sender<Message>);

impl Outlet<Written> for Tell {
    fn send(&self, envelope: Envelope<Written>) -> Result<(), Gone> {
        // The permit goes first: the buffers are back in their pool.
        drop(envelope.permit);
        self.0.send(Message::Written(envelope.item)).map_err(|_| Gone)
    }
}

/// The scan stage: takes entries as the scan finds them, leaves out what the newest snapshot has already, gives each of
/// the others a number, and cuts them into jobs. The only place that waits for memory.
struct Front<'r, 'c> {
    run: &'r Run<'c>,
    options: &'r AddOptions,
    window: &'r Arc<Budget>,
    segment: &'r SegmentWriter,
    unseen: &'r AtomicU64,
    planner: Planner<'r>,
    /// The number of the next entry that the indexer hears of.
    seq: u64,
    unchanged: Unchanged,
    gauge: Arc<Gauge>,
    jobs: Jobs<'r, 'c>,
    to_indexer: Sender<Message>,
}

/// The run is ending for a reason that is known elsewhere.
struct Ending;

impl Front<'_, '_> {
    fn work(mut self, mut comparison: Comparison<Scan>) -> Result<(Unchanged, WorkerStats, Arc<ScanMeter>)> {
        let mut stats = self.run.recorder.worker("scan", 0);
        let waits = &mut self.jobs.waits;
        (waits.budget, waits.output) = (std::mem::take(&mut stats.wait_budget), std::mem::take(&mut stats.wait_output));
        let meter = comparison.scan().meter();
        let mut began = Instant::now();
        while let Some(next) = comparison.next()? {
            if self.run.stop.is_stopped() {
                break;
            }
            let result = match next {
                Compared::Found(entry, before) => {
                    stats.bytes_out += entry.content_len();
                    self.entry(*entry, before)
                }
                Compared::Gone(before) if self.options.mirror => self.gone(*before.entry),
                Compared::Gone(_) => continue,
                Compared::Told(told) => {
                    self.unseen.fetch_add(tell(self.run, told), Ordering::Relaxed);
                    Ok(())
                }
            };
            if result.is_err() {
                break;
            }
            let idle = meter.take_wait();
            if !idle.is_zero() {
                stats.wait_input.record(idle);
            }
            let waited = self.jobs.waits.since() + idle;
            let service = stats.serviced(began, waited);
            stats.span(began + idle, service, Item::default());
            self.gauge.busy_ns.fetch_add(u64::try_from(service.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            began = Instant::now();
            self.run.counters.tick();
            if self
                .options
                .sample_bytes
                .is_some_and(|enough| self.run.counters.bytes_known.load(Ordering::Relaxed) >= enough)
            {
                break;
            }
        }
        if !self.run.stop.is_stopped() {
            // An error here is the consequence of a stop.
            let _ = self.planner.close_batch(&mut |job| self.jobs.emit(job));
        }
        let Waits { budget, output, sent, .. } = self.jobs.waits;
        (stats.wait_budget, stats.wait_output, stats.items_out) = (budget, output, sent);
        self.run.counters.all_known.store(true, Ordering::Relaxed);
        self.segment.expect_content(self.run.counters.bytes_known.load(Ordering::Relaxed));
        Ok((self.unchanged, stats.close(), meter))
    }

    /// A name that the newest snapshot has, and that is there no longer.
    fn gone(&mut self, entry: Entry) -> Result<(), Ending> {
        let permit = self.make_room(DELETED_WEIGHT)?;
        self.seq += 1;
        let is_directory = entry.entry_type == EntryType::Directory;
        self.announce(Message::Deleted(Deleted { path: entry.path, is_directory, permit }))
    }

    fn entry(&mut self, mut entry: ScannedEntry, before: Option<Before>) -> Result<(), Ending> {
        entry.keep_unknown_xattrs(before.as_ref().map(|before| &*before.entry));
        let seq = EntrySeq(self.seq);
        let counters = &self.run.counters;
        let ordinal = before.as_ref().map(|before| before.ordinal);
        if entry.stat.kind != StatKind::Directory {
            counters.files_known.fetch_add(1, Ordering::Relaxed);
            counters.bytes_known.fetch_add(entry.content_len(), Ordering::Relaxed);
        }
        let before = before.filter(|_| !self.options.force_read);
        let Jobs { old_content, waits, .. } = &mut self.jobs;
        let is_same =
            &mut |entry: &ScannedEntry, tree, old: &Entry| old_content.is_same(entry, tree, old, &mut waits.budget);
        let (planned, ranges, failed) = match (self.planner.plan(seq, &entry, before, is_same), ordinal) {
            (Ok(Decision::Keep), Some(ordinal)) => {
                self.keep(&entry, ordinal);
                return Ok(());
            }
            (Ok(Decision::Store(planned, ranges)), _) => (planned, ranges, None),
            // Its other names will refer to this one all the same, and fail with it.
            (Err(error), _) => {
                (Planned { content: Content::None, is_linked: entry.is_linked() }, Vec::new(), Some(error))
            }
            (Ok(Decision::Keep), None) => unreachable!("what is kept is in the newest snapshot"),
        };
        let permit = self.make_room(planned.weight(&entry))?;
        self.seq += 1;
        let content = planned.content.clone();
        let announced = Announced { entry: entry.clone(), planned, permit, failed };
        self.announce(Message::Announced(Box::new(announced)))?;
        self.planner.cut(seq, &entry, &content, ranges, &mut |job| self.jobs.emit(job)).map_err(|_| Ending)
    }

    /// Counts an entry that the newest snapshot has as it is.
    fn keep(&mut self, entry: &ScannedEntry, ordinal: u64) {
        self.unchanged.count(entry, ordinal);
        let counters = &self.run.counters;
        counters.files_done.fetch_add(u64::from(entry.stat.kind != StatKind::Directory), Ordering::Relaxed);
        counters.bytes_done.fetch_add(entry.content_len(), Ordering::Relaxed);
        counters.bytes_kept.fetch_add(entry.content_len(), Ordering::Relaxed);
    }

    /// Waits until there is room for something of this weight in the window of entries in flight.
    fn make_room(&mut self, weight: u64) -> Result<Permit, Ending> {
        self.planner.before(weight, &mut |job| self.jobs.emit(job)).map_err(|_| Ending)?;
        let (permit, waited) = self.window.acquire(weight, &self.run.stop).ok_or(Ending)?;
        self.jobs.waits.output(waited);
        Ok(permit)
    }

    /// Tells the indexer what comes next.
    fn announce(&mut self, message: Message) -> Result<(), Ending> {
        let sending = Instant::now();
        self.to_indexer.send(message).map_err(|_| Ending)?;
        self.jobs.waits.output(sending.elapsed());
        Ok(())
    }
}

/// Passes on what a scan has to tell beside entries; answers how many entries could not be looked at, 0 or 1.
pub(super) fn tell(run: &Run<'_>, told: Scanned) -> u64 {
    match told {
        Scanned::Failed { path, error, .. } => {
            // The entry itself is told of apart from what could not be learnt of it.
            let is_part = matches!(error, Error::Io { op: FileOp::ListDirectory | FileOp::ReadXattr, .. });
            run.entry_error(&path, &error);
            u64::from(!is_part)
        }
        Scanned::Note { path, message, .. } => {
            run.note(&path, message);
            0
        }
        // `Comparison` gives entries by another name.
        Scanned::Entry(_) => 0,
    }
}

/// The way to the readers.
struct Jobs<'r, 'c> {
    run: &'r Run<'c>,
    /// What a chunk will need.
    permit: u64,
    budget: &'r Arc<Budget>,
    /// Has a permit of the same budget while it compares.
    old_content: OldContent<'r, 'c>,
    to_read: Feed<ReadJob>,
    waits: Waits,
}

impl Jobs<'_, '_> {
    /// Hands a job to the readers, with the permit for all that its chunk will need. An error means that the run ends.
    fn emit(&mut self, job: ReadJob) -> Result<()> {
        self.old_content.release();
        let (permit, waited) = self.budget.acquire(self.permit, &self.run.stop).ok_or(Error::Interrupted)?;
        self.waits.budget.record(waited);
        let sending = Instant::now();
        let sent = self.to_read.send(Envelope { item: job, permit: Some(permit) });
        self.waits.output(sending.elapsed());
        self.waits.sent += u64::from(sent.is_ok());
        sent.map_err(|_| Error::Interrupted)
    }
}

/// What the front has waited for, and how often it has sent a job.
#[derive(Default)]
struct Waits {
    budget: Timed,
    output: Timed,
    sent: u64,
    /// All of these waits when this was asked last.
    before: Duration,
}

impl Waits {
    fn output(&mut self, waited: Duration) {
        self.output.record(waited);
    }

    /// How much it was since this was asked last.
    fn since(&mut self) -> Duration {
        let all = self.budget.total + self.output.total;
        all - std::mem::replace(&mut self.before, all)
    }
}

#[cfg(test)]
mod tests;

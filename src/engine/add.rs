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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Sender, bounded};

use crate::engine::api::AddOptions;
use crate::engine::budget::Budget;
use crate::engine::commit::{Reached, Ready, commit};
use crate::engine::config::{Level, ReadMode};
use crate::engine::fit::{Plan, fit_pack};
use crate::engine::indexer::{Announced, Indexed, Indexer, Message, current_user};
use crate::engine::observe::{Failed, Observer, Report, StageReport};
use crate::engine::pipeline::{Envelope, Gone, Outlet, StageHandle, spawn_one, spawn_stage};
use crate::engine::plan::{Content, Planned, Planner, weight};
use crate::engine::resolve::SegmentUnion;
use crate::engine::run::{Phase, Run};
use crate::engine::segment::SegmentWriter;
use crate::engine::state::State;
use crate::engine::stats::{WorkerStats, stage_report};
use crate::engine::vault::{REPLACED, Vault, Writer};
use crate::error::{Error, FileOp, Result};
use crate::format::commit::{SNAPSHOT_PARTIAL, SnapshotRecord};
use crate::format::index::{BlockRef, Item};
use crate::format::tree::TreeWriter;
use crate::primitives::fs::StatKind;
use crate::primitives::pool::BufferPool;
use crate::stages::pack::compress::{Compress, Effort};
use crate::stages::pack::encrypt::Encrypt;
use crate::stages::pack::names::name_sources;
use crate::stages::pack::read::{Intake, Mapping, Read};
use crate::stages::pack::scan::{Scan, ScanOptions, scan};
use crate::stages::pack::source::{FileSystem, Source};
use crate::stages::pack::write::{RecordSink, Write, Written};
use crate::stages::{EntrySeq, ReadJob, Scanned, ScannedEntry};

/// The zstd levels that may be asked for.
const LEVELS: std::ops::RangeInclusive<i32> = -7..=22;
/// Entries that the scan may list ahead of the planner.
const LOOK_AHEAD: usize = 32_768;
/// A full index is due when so many deltas have gathered, or when they take a quarter of what the last one takes.
const DELTAS_BEFORE_FULL: usize = 32;

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
        let Indexed { files, failed, changed, directories, bytes, .. } = done.indexed;
        // A file that changed while it was read is stored, and failed all the same: the user has to know.
        report.successful_files = files - changed;
        report.changed_files = changed;
        report.failed_files = failed + changed + done.unseen;
        report.total_files = report.successful_files + report.failed_files;
        report.directories = directories;
        report.total_size = bytes;
        report.stored_size = done.stored_size;
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
        let plan = fit_pack(&options.pipeline, options.level)?;
        let effort = effort(options.level)?;
        let roots = name_sources(sources, options.directory.as_deref())?;
        let own = std::fs::metadata(&*self.path).map(|own| vec![(own.dev(), own.ino())]).unwrap_or_default();
        let scan_options = ScanOptions {
            workers: plan.scan,
            exclude: options.exclude.clone(),
            skip: own,
            look_ahead: LOOK_AHEAD.min(usize::try_from(plan.entry_window).unwrap_or(LOOK_AHEAD)),
        };
        let scan = scan(roots, scan_options)?;
        let segment =
            SegmentWriter::new(Arc::clone(&base.storage), &self.path, &self.keys, &run.stop, run.config.lock_timeout)?;
        let mapping = match options.read_mode {
            ReadMode::Auto => Mapping::Local,
            ReadMode::Mmap => Mapping::Always,
            ReadMode::Read => Mapping::Never,
        };
        let pack = Pack { run, plan: &plan, effort, mapping, segment: &segment, source };
        let packed = match pack.run(scan, done) {
            Ok(()) => self.commit_packed(run, sources, options, base, &segment, done),
            Err(error) => Err((Reached::NoRoot, error)),
        };
        done.stored_size = segment.written();
        let released = match &packed {
            Ok(number) => {
                self.has_committed();
                done.snapshot = Some(*number);
                segment.trim()
            }
            Err((Reached::Root, _)) => segment.trim(),
            Err((Reached::NoRoot, _)) => segment.give_back(),
        };
        if let Err(error) = released {
            // The space is lost until the vault is compacted; nothing else is.
            run.note(&self.path, format!("unused space could not be given back ({error})"));
        }
        packed.map(|_| ()).map_err(|(_, error)| error)
    }

    fn commit_packed(
        &self,
        run: &Run<'_>,
        sources: &[PathBuf],
        options: &AddOptions,
        base: &State,
        segment: &SegmentWriter,
        done: &mut Done,
    ) -> Result<u64, (Reached, Error)> {
        let before = |error| (Reached::NoRoot, error);
        let indexed = &done.indexed;
        if indexed.files + indexed.directories == 0 {
            return Err(before(Error::NothingStored(self.path.to_path_buf())));
        }
        let delta = indexed.delta.ok_or((Reached::NoRoot, Error::Interrupted))?;
        let full = if full_is_due(base) { Some(write_full(run, base, segment).map_err(before)?) } else { None };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let partial = run.error_count() > 0;
        let bytes = |path: &OsStr| serde_bytes::ByteBuf::from(path.as_bytes());
        let snapshot = SnapshotRecord {
            number: 0,
            time_secs: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            time_nanos: now.subsec_nanos(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            user: current_user(),
            command_line: options.command_line.iter().map(|word| serde_bytes::ByteBuf::from(word.as_bytes())).collect(),
            sources: sources.iter().map(|source| bytes(source.as_os_str())).collect(),
            tags: options.tags.clone(),
            files: indexed.files,
            directories: indexed.directories,
            bytes: indexed.bytes,
            stored_bytes: 0,
            flags: if partial { SNAPSHOT_PARTIAL } else { 0 },
        };
        commit(run, base, &*self.dir, segment, Ready { delta, full, snapshot })
    }
}

/// What a run came to, filled in as it goes on.
#[derive(Default)]
struct Done {
    stages: Vec<StageReport>,
    indexed: Indexed,
    /// Sources and entries that could not even be looked at.
    unseen: u64,
    snapshot: Option<u64>,
    stored_size: u64,
}

fn effort(level: Level) -> Result<Effort> {
    Ok(match level {
        Level::Store => Effort::Store,
        Level::Zstd(level) if LEVELS.contains(&level) => Effort::Level(level),
        Level::Zstd(level) => {
            return Err(Error::Usage(format!("level {level} is out of range: -7 to 22 are allowed")));
        }
        Level::Auto => Effort::BySample,
    })
}

/// Whether the deltas that have gathered call for a new full index.
fn full_is_due(base: &State) -> bool {
    let deltas = &base.commit.deltas;
    let delta_bytes: u64 = deltas.iter().map(|delta| delta.stored_bytes).sum();
    let full_bytes = base.commit.full.map_or(0, |full| full.stored_bytes);
    // With one delta there is nothing to bring together, and the smallest vaults would rewrite their index every time.
    deltas.len() > 1 && (deltas.len() >= DELTAS_BEFORE_FULL || (full_bytes > 0 && delta_bytes > full_bytes / 4))
}

/// Writes the whole index of the base generation; answers its head, the bytes of its blocks, and the generation.
fn write_full(run: &Run<'_>, base: &State, segment: &SegmentWriter) -> Result<(BlockRef, u64, u64)> {
    let trees = base.trees(&base.commit)?;
    let mut merge = base.merge(&trees)?;
    let mut table = SegmentUnion::new(&trees, Arc::clone(&base.vault));
    let mut writer = TreeWriter::default();
    let mut sink = segment;
    while let Some((tree, mut entry)) = merge.next()? {
        run.check()?;
        table.adopt(tree, &mut entry)?;
        writer.push(&Item::Put(entry), &mut sink)?;
    }
    let (segments, records) = table.finish();
    let (head, stored_bytes) = writer.finish(segments, records, Vec::new(), &mut sink)?;
    Ok((head, stored_bytes, base.root.generation()))
}

/// The pipeline of one run.
struct Pack<'r, 'c> {
    run: &'r Run<'c>,
    plan: &'r Plan,
    effort: Effort,
    mapping: Mapping,
    segment: &'r SegmentWriter,
    source: &'r dyn Source,
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
    fn run(&self, scan: Scan, done: &mut Done) -> Result<()> {
        let Self { run, plan, segment, source, .. } = *self;
        run.enter(Phase::Stream);
        let began = Instant::now();
        let budget = Budget::new(plan.budget);
        let window = Budget::new(plan.entry_window);
        let pool = BufferPool::new(plan.chunk_size as usize);
        let intake = Intake { mapping: self.mapping, refused: AtomicBool::new(false) };
        let indexed: Mutex<Indexed> = Mutex::default();
        let unseen = AtomicU64::new(0);
        let at = |path: &Path| run.at(path);
        let make_read = || Ok(Read::new(source, &intake, pool.clone(), &at));
        let make_compress = || Compress::new(self.effort, pool.clone());
        let make_encrypt = || Ok(Encrypt::new(segment.keys(), segment.id()));
        let make_write = || Ok(Write::new(segment));

        let stages = std::thread::scope(|scope| {
            let (to_read, for_read) = bounded(plan.depth(plan.read));
            let (to_compress, for_compress) = bounded(plan.depth(plan.third));
            let (to_encrypt, for_encrypt) = bounded(plan.depth(plan.fourth));
            let (to_write, for_write) = bounded(plan.depth(plan.write));
            let (to_indexer, for_indexer) = bounded(INDEXER_QUEUE);
            let front = Front { run, plan, source, budget: &budget, window: &window, segment, unseen: &unseen };
            let announce = to_indexer.clone();
            let outcome_slot = &indexed;

            let mut stages = Vec::new();
            // If a thread cannot be started, the channels' ends that it was to have are dropped here, and all others end.
            let started = (|| {
                stages.push(spawn_one(scope, run, "scan", move || front.work(scan, &to_read, &announce))?);
                stages.push(spawn_stage(scope, run, plan.read, &make_read, for_read, to_compress)?);
                stages.push(spawn_stage(scope, run, plan.third, &make_compress, for_compress, to_encrypt)?);
                stages.push(spawn_stage(scope, run, plan.fourth, &make_encrypt, for_encrypt, to_write)?);
                stages.push(spawn_stage(scope, run, plan.write, &make_write, for_write, Tell(to_indexer))?);
                stages.push(spawn_one(scope, run, "index", move || {
                    let (outcome, stats) = Indexer::new(run, segment).work(&for_indexer)?;
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
        done.stages = stages.into_iter().map(|(name, workers)| stage_report(name, workers, wall)).collect();
        // The figures of `scan` are those of the thread that takes its entries; the listing goes on in more of them.
        done.stages.iter_mut().filter(|stage| stage.name == "scan").for_each(|stage| stage.workers = plan.scan);
        done.indexed = indexed.into_inner().unwrap_or_else(PoisonError::into_inner);
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

/// The scan stage: takes entries as the scan finds them, gives each a number, and cuts them into jobs. The only place that
/// waits for memory.
struct Front<'r, 'c> {
    run: &'r Run<'c>,
    plan: &'r Plan,
    source: &'r dyn Source,
    budget: &'r Arc<Budget>,
    window: &'r Arc<Budget>,
    segment: &'r SegmentWriter,
    unseen: &'r AtomicU64,
}

/// The run is ending for a reason that is known elsewhere.
struct Ending;

impl Front<'_, '_> {
    fn work(
        &self,
        scan: Scan,
        to_read: &Sender<Envelope<ReadJob>>,
        to_indexer: &Sender<Message>,
    ) -> Result<WorkerStats> {
        let mut stats = WorkerStats::default();
        let mut planner = Planner::new(self.source, self.plan.chunk_size);
        let mut waits = Waits::default();
        let mut seq = 0;
        let gauge = self.run.gauge("scan", 1);
        let mut began = Instant::now();
        for scanned in scan {
            if self.run.stop.is_stopped() {
                break;
            }
            match scanned {
                Scanned::Entry(entry) => {
                    let entry_seq = EntrySeq(seq);
                    seq += 1;
                    stats.bytes_out += if entry.stat.kind == StatKind::File { entry.stat.size } else { 0 };
                    if self.entry(entry_seq, *entry, &mut planner, &mut waits, to_read, to_indexer).is_err() {
                        break;
                    }
                }
                Scanned::Failed { path, error, .. } => {
                    // The entry itself is told of apart from what could not be learnt of it.
                    let is_part = matches!(error, Error::Io { op: FileOp::ListDirectory | FileOp::ReadXattr, .. });
                    self.unseen.fetch_add(u64::from(!is_part), Ordering::Relaxed);
                    self.run.entry_error(&path, &error);
                }
                Scanned::Note { path, message, .. } => self.run.note(&path, message),
            }
            let waited = waits.take(&mut stats);
            let service = began.elapsed().saturating_sub(waited);
            gauge.busy_ns.fetch_add(u64::try_from(service.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            stats.serviced(began, waited);
            began = Instant::now();
            self.run.counters.tick();
        }
        if !self.run.stop.is_stopped() {
            // An error here is the consequence of a stop.
            let _ = planner.close_batch(&mut |job| self.emit(job, &mut waits, to_read));
            waits.take(&mut stats);
        }
        self.run.counters.all_known.store(true, Ordering::Relaxed);
        self.segment.expect_content(self.run.counters.bytes_known.load(Ordering::Relaxed));
        Ok(stats.close())
    }

    fn entry(
        &self,
        seq: EntrySeq,
        entry: ScannedEntry,
        planner: &mut Planner<'_>,
        waits: &mut Waits,
        to_read: &Sender<Envelope<ReadJob>>,
        to_indexer: &Sender<Message>,
    ) -> Result<(), Ending> {
        let weight = weight(&entry);
        planner.before(weight, &mut |job| self.emit(job, waits, to_read)).map_err(|_| Ending)?;
        let (permit, waited) = self.window.acquire(weight, &self.run.stop).ok_or(Ending)?;
        waits.output += waited;
        if entry.stat.kind != StatKind::Directory {
            self.run.counters.files_known.fetch_add(1, Ordering::Relaxed);
            let size = if entry.stat.kind == StatKind::File { entry.stat.size } else { 0 };
            self.run.counters.bytes_known.fetch_add(size, Ordering::Relaxed);
        }
        let (planned, ranges, failed) = match planner.plan(seq, &entry) {
            Ok((planned, ranges)) => (planned, ranges, None),
            // Its other names will refer to this one all the same, and fail with it.
            Err(error) => {
                let is_linked = entry.stat.kind != StatKind::Directory && entry.stat.nlink > 1;
                (Planned { content: Content::None, is_linked }, Vec::new(), Some(error))
            }
        };
        let announced = Announced { entry: entry.clone(), planned, permit, failed };
        let sending = Instant::now();
        to_indexer.send(Message::Announced(Box::new(announced))).map_err(|_| Ending)?;
        waits.output += sending.elapsed();
        planner.cut(seq, &entry, planned, ranges, &mut |job| self.emit(job, waits, to_read)).map_err(|_| Ending)
    }

    /// Hands a job to the readers, with the permit for all that its chunk will need. An error means that the run ends.
    fn emit(&self, job: ReadJob, waits: &mut Waits, to_read: &Sender<Envelope<ReadJob>>) -> Result<()> {
        let (permit, waited) = self.budget.acquire(self.plan.permit(), &self.run.stop).ok_or(Error::Interrupted)?;
        waits.budget += waited;
        let sending = Instant::now();
        let sent = to_read.send(Envelope { item: job, permit: Some(permit) });
        waits.output += sending.elapsed();
        sent.map_err(|_| Error::Interrupted)
    }
}

/// What the front has waited since it was last asked.
#[derive(Default)]
struct Waits {
    budget: Duration,
    output: Duration,
}

impl Waits {
    fn take(&mut self, stats: &mut WorkerStats) -> Duration {
        let Self { budget, output } = std::mem::take(self);
        stats.wait_budget += budget;
        stats.wait_output += output;
        budget + output
    }
}

//! Restoring: plan, read, decrypt, decompress, write.
//!
//! ```text
//! planner ──▶ read ──▶ decrypt ──▶ decompress ──▶ write        bounded channels
//!    └───── entries without content, lost records ───▶
//! ```
//!
//! The planner walks the entries in index order, makes directories, and gathers what is wanted of each record, so that a
//! record full of small files is read once. A record is let go of when everything in it is asked for, or when so many
//! others have been begun since that waiting longer would cost memory; one that is then asked for again is read again.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};

use crate::engine::api::{ExtractOptions, Overwrite};
use crate::engine::budget::{Budget, Permit};
use crate::engine::fit::{Plan, fit_unpack};
use crate::engine::observe::{EntryErrorKind, Failed, Observer, Report, StageReport};
use crate::engine::pipeline::{Envelope, Gone, Outlet, StageHandle, spawn_one, spawn_stage};
use crate::engine::resolve::{RecordPiece, Resolver, pieces};
use crate::engine::run::{Phase, Run};
use crate::engine::select::{Selection, trees_at};
use crate::engine::state::State;
use crate::engine::stats::{WorkerStats, stage_report};
use crate::engine::vault::Vault;
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::entry::{Entry, EntryPath, EntryType, Extent, SegmentIndex};
use crate::format::index::{RecordPlace, SegmentSalt};
use crate::format::record::{RecordId, RecordKind, Salt, sealed_len};
use crate::format::tree::Tree;
use crate::primitives::pool::BufferPool;
use crate::stages::unpack::decompress::Decompress;
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::destination::{Destination, OverwritePolicy, RestoreError, RestorePolicy, RestoreSink};
use crate::stages::unpack::links::LinkRole;
use crate::stages::unpack::read::{PlainRecord, ReadRecord, RecordJob};
use crate::stages::unpack::write::{FileWriter, Piece, RestoreFile};
use crate::stages::{Stage, Weighed};

/// Records that the planner gathers pieces for at once.
const OPEN_RECORDS: usize = 8;
/// Pieces gathered for one record before it is let go of.
const MAX_PIECES: usize = 4096;
/// Entries without content that travel together.
const CREATE_BATCH: usize = 64;

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
        let result = result.and_then(|()| done.outcome(destination, &report));
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
        let selection = Selection::new(state, &trees, &options.files)?;
        let plan = fit_unpack(&options.pipeline, largest_record(&trees), true)?;
        let overwrite = match options.overwrite {
            Overwrite::Always => OverwritePolicy::Always,
            Overwrite::Never => OverwritePolicy::Never,
            Overwrite::IfChanged => return Err(Error::Usage("if-changed is not there yet".to_owned())),
        };
        let policy = RestorePolicy { overwrite, ..RestorePolicy::default() };
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
        result
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
    unmatched: Vec<EntryPath>,
    selected: u64,
}

impl Done {
    /// Whether a run that came to its end did anything of what was asked.
    fn outcome(&self, destination: &Path, report: &Report) -> Result<()> {
        if self.selected == 0
            && let Some(name) = self.unmatched.first()
        {
            return Err(Error::NoEntry { name: name.as_path().display().to_string(), nearest: None });
        }
        let nothing = report.successful_files + report.directories == 0;
        if nothing && !report.errors.is_empty() && !report.is_damaged() {
            return Err(Error::NothingRestored(destination.to_owned()));
        }
        Ok(())
    }
}

/// What became of the entries.
#[derive(Default)]
struct Tally {
    restored_files: AtomicU64,
    failed_files: AtomicU64,
    directories: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    fn fill(&self, report: &mut Report) {
        report.successful_files = self.restored_files.load(Ordering::Relaxed);
        report.failed_files = self.failed_files.load(Ordering::Relaxed);
        report.total_files = report.successful_files + report.failed_files;
        report.directories = self.directories.load(Ordering::Relaxed);
        report.total_size = self.bytes.load(Ordering::Relaxed);
    }
}

/// What the destination tells, kept until somebody who knows the run passes it on: the destination outlives no run, but
/// the compiler cannot know.
#[derive(Default)]
struct Told {
    events: Mutex<Vec<Event>>,
}

enum Event {
    Restored { is_directory: bool, size: u64 },
    Skipped { is_directory: bool },
    Failed { path: EntryPath, is_directory: bool, error: RestoreError },
    Note { path: EntryPath, message: String },
}

impl Told {
    fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

fn is_directory(entry: &Entry) -> bool {
    entry.entry_type == EntryType::Directory
}

impl RestoreSink for Told {
    fn restored(&self, entry: &Entry) {
        self.push(Event::Restored { is_directory: is_directory(entry), size: entry.size });
    }
    fn skipped(&self, entry: &Entry) {
        self.push(Event::Skipped { is_directory: is_directory(entry) });
    }
    fn failed(&self, entry: &Entry, error: RestoreError) {
        self.push(Event::Failed { path: entry.path.clone(), is_directory: is_directory(entry), error });
    }
    fn note(&self, path: &EntryPath, message: String) {
        self.push(Event::Note { path: path.clone(), message });
    }
}

/// Passes on what the destination told.
struct Telling<'r, 'c> {
    run: &'r Run<'c>,
    told: &'r Told,
    tally: &'r Tally,
}

impl Telling<'_, '_> {
    fn pass_on(&self) {
        let events = std::mem::take(&mut *self.told.events.lock().unwrap_or_else(PoisonError::into_inner));
        let counters = &self.run.counters;
        for event in events {
            match event {
                Event::Restored { is_directory: true, .. } => {
                    self.tally.directories.fetch_add(1, Ordering::Relaxed);
                }
                Event::Restored { size, .. } => {
                    self.tally.restored_files.fetch_add(1, Ordering::Relaxed);
                    self.tally.bytes.fetch_add(size, Ordering::Relaxed);
                    counters.files_done.fetch_add(1, Ordering::Relaxed);
                    counters.bytes_done.fetch_add(size, Ordering::Relaxed);
                }
                // Left alone as asked: handled.
                Event::Skipped { is_directory: true } => {}
                Event::Skipped { .. } => {
                    self.tally.restored_files.fetch_add(1, Ordering::Relaxed);
                    counters.files_done.fetch_add(1, Ordering::Relaxed);
                }
                Event::Failed { path, is_directory, error } => {
                    self.tally.failed_files.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
                    counters.files_done.fetch_add(u64::from(!is_directory), Ordering::Relaxed);
                    let (kind, message) = restore_failure(&error);
                    self.run.entry_failed(path.as_path(), kind, message);
                }
                Event::Note { path, message } => self.run.note(path.as_path(), message),
            }
        }
    }
}

fn restore_failure(error: &RestoreError) -> (EntryErrorKind, String) {
    match error {
        RestoreError::Io { op, source } => (EntryErrorKind::of_io(source), format!("cannot {op}: {source}")),
        RestoreError::Damaged(why) => (EntryErrorKind::Damaged, format!("damaged in the vault: {why}")),
        RestoreError::Unsupported(what) => (EntryErrorKind::Unsupported, (*what).to_owned()),
    }
}

/// What the write stage takes.
enum WriteJob {
    Record(PlainRecord<Vec<Piece>>),
    Create(Vec<Arc<Entry>>),
    Lost(Vec<Piece>, Malformation),
}

impl Weighed for WriteJob {
    fn bytes(&self) -> u64 {
        match self {
            Self::Record(record) => record.bytes(),
            Self::Create(_) | Self::Lost(..) => 0,
        }
    }
}

/// Decompressors hand their records to the writers.
#[derive(Clone)]
struct ToWrite(Sender<Envelope<WriteJob>>);

impl Outlet<PlainRecord<Vec<Piece>>> for ToWrite {
    fn send(&self, envelope: Envelope<PlainRecord<Vec<Piece>>>) -> Result<(), Gone> {
        let job = Envelope { item: WriteJob::Record(envelope.item), permit: envelope.permit };
        self.0.send(job).map_err(|_| Gone)
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
        let window = Budget::new(plan.entry_window);
        let pool = record_pool(plan);
        let planned: Mutex<(Vec<EntryPath>, u64)> = Mutex::default();
        let make_read = || Ok(ReadRecord::<Vec<Piece>>::new(&*state.storage, pool.clone()));
        let make_decrypt = || Ok(Decrypt::new());
        let make_decompress = || Decompress::new(pool.clone());
        let make_write = || Ok(WriteFiles { writer: FileWriter::new(Arc::clone(destination)), telling });

        let stages = std::thread::scope(|scope| {
            let (to_read, for_read) = bounded(plan.depth(plan.read));
            let (to_decrypt, for_decrypt) = bounded(plan.depth(plan.third));
            let (to_decompress, for_decompress) = bounded(plan.depth(plan.fourth));
            let (to_write, for_write) = bounded(plan.depth(plan.write));
            let planner = RestorePlanner {
                run,
                plan,
                state,
                destination,
                budget: &budget,
                window: &window,
                resolver: Resolver::new(trees, Arc::clone(&state.vault)),
                segments: Segments::default(),
                open: VecDeque::new(),
                creates: Vec::new(),
                waits: Duration::ZERO,
                stats: WorkerStats::default(),
                to_read,
                to_write: to_write.clone(),
            };
            let planned = &planned;
            let mut stages = Vec::new();
            let started = (|| {
                stages.push(spawn_one(scope, run, "plan", move || {
                    let (selection, selected, stats) = planner.work(selection)?;
                    let unmatched = selection.unmatched().to_vec();
                    *planned.lock().unwrap_or_else(PoisonError::into_inner) = (unmatched, selected);
                    Ok(stats)
                })?);
                stages.push(spawn_stage(scope, run, plan.read, &make_read, for_read, to_decrypt)?);
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
        done.read_bytes = done.stages.iter().find(|stage| stage.name == "read").map_or(0, |stage| stage.bytes_in);
        (done.unmatched, done.selected) = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
        if done.selected > 0 {
            for name in &done.unmatched {
                let message = "no entry of the snapshot has this name".to_owned();
                run.entry_failed(name.as_path(), EntryErrorKind::NotFound, message);
            }
        }
        run.check()
    }
}

/// Numbers for segments that hold across the trees of a commit.
#[derive(Default)]
pub(crate) struct Segments {
    numbers: HashMap<SegmentSalt, u32>,
}

impl Segments {
    pub(crate) fn number(&mut self, salt: &SegmentSalt) -> SegmentIndex {
        if let Some(&number) = self.numbers.get(salt) {
            return SegmentIndex(number);
        }
        let number = u32::try_from(self.numbers.len()).expect("fewer segments than bytes of the index");
        self.numbers.insert(salt.clone(), number);
        SegmentIndex(number)
    }
}

/// A record that pieces are being gathered for.
struct OpenRecord {
    segment: SegmentIndex,
    salt: SegmentSalt,
    place: RecordPlace,
    pieces: Vec<Piece>,
    /// Bytes that the pieces take.
    wanted: u64,
}

/// The first stage of the way back.
struct RestorePlanner<'r, 'c> {
    run: &'r Run<'c>,
    plan: &'r Plan,
    state: &'r State,
    destination: &'r Arc<Destination>,
    budget: &'r Arc<Budget>,
    /// Bounds the entries without content that are on their way to the writers.
    window: &'r Arc<Budget>,
    resolver: Resolver,
    segments: Segments,
    open: VecDeque<OpenRecord>,
    creates: Vec<Arc<Entry>>,
    waits: Duration,
    stats: WorkerStats,
    to_read: Sender<Envelope<RecordJob<Vec<Piece>>>>,
    to_write: Sender<Envelope<WriteJob>>,
}

impl RestorePlanner<'_, '_> {
    fn work(mut self, mut selection: Selection) -> Result<(Selection, u64, WorkerStats)> {
        let mut selected = 0;
        let gauge = self.run.gauge("plan", 1);
        loop {
            let began = Instant::now();
            if self.run.stop.is_stopped() {
                break;
            }
            let Some((tree, entry)) = selection.next()? else { break };
            selected += 1;
            if self.entry(tree, *entry).is_err() {
                break;
            }
            let waited = std::mem::take(&mut self.waits);
            self.stats.serviced(began, waited);
            let service = began.elapsed().saturating_sub(waited);
            gauge.busy_ns.fetch_add(u64::try_from(service.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            self.run.counters.tick();
        }
        if !self.run.stop.is_stopped() {
            // Errors here are the consequence of a stop.
            let _ = self.flush_creates();
            while let Some(record) = self.open.pop_front() {
                if self.emit(record).is_err() {
                    break;
                }
            }
        }
        self.run.counters.all_known.store(true, Ordering::Relaxed);
        Ok((selection, selected, self.stats.close()))
    }

    /// An error means that the run is ending.
    fn entry(&mut self, tree: usize, mut entry: Entry) -> Result<(), Gone> {
        let extents = std::mem::take(&mut entry.extents);
        // Segment numbers are the tree's own; across trees they have to mean the same.
        entry.extents = extents.iter().map(|extent| self.global(tree, *extent)).collect();
        if let Some(link) = &mut entry.link {
            link.segment = self.segments.number(self.resolver.segment(tree, link.segment));
        }
        let entry = Arc::new(entry);
        if entry.entry_type == EntryType::Directory {
            self.destination.make_directory(entry);
            return Ok(());
        }
        self.run.counters.files_known.fetch_add(1, Ordering::Relaxed);
        self.run.counters.bytes_known.fetch_add(entry.size, Ordering::Relaxed);
        if self.destination.link_plan(Arc::clone(&entry)) == LinkRole::Later {
            return Ok(());
        }
        let count: u64 =
            extents.iter().map(|extent| if let Extent::Data { count, .. } = extent { *count } else { 0 }).sum();
        if count == 0 {
            self.creates.push(entry);
            return if self.creates.len() >= CREATE_BATCH { self.flush_creates() } else { Ok(()) };
        }
        // No file has so many records, since each has a place in a table; an extent that says so is a lie.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let file = Arc::new(RestoreFile::new(entry, count));
        for piece in pieces(&extents) {
            let (at, len, file_offset) = (piece.at, piece.len, piece.file_offset);
            let whole = Piece { file: Arc::clone(&file), at, len, file_offset };
            match self.resolver.place(tree, piece.segment, piece.number) {
                Ok(place) => self.gather(tree, piece, place, whole)?,
                Err(Error::Damaged { source, .. }) => {
                    return self.send_write(WriteJob::Lost(vec![whole], source), None);
                }
                Err(error) => {
                    self.run.stop.fail(error);
                    return Err(Gone);
                }
            }
        }
        Ok(())
    }

    fn global(&mut self, tree: usize, mut extent: Extent) -> Extent {
        if let Extent::Data { segment, .. } = &mut extent {
            *segment = self.segments.number(self.resolver.segment(tree, *segment));
        }
        extent
    }

    fn gather(&mut self, tree: usize, piece: RecordPiece, place: RecordPlace, whole: Piece) -> Result<(), Gone> {
        let salt = self.resolver.segment(tree, piece.segment).clone();
        let segment = self.segments.number(&salt);
        let known = self.open.iter().rposition(|open| open.segment == segment && open.place.number == piece.number);
        let position = match known {
            Some(position) => position,
            None => {
                if self.open.len() == OPEN_RECORDS {
                    let oldest = self.open.pop_front().expect("it is full");
                    self.emit(oldest)?;
                }
                self.open.push_back(OpenRecord { segment, salt, place, pieces: Vec::new(), wanted: 0 });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[position];
        open.wanted += u64::from(whole.len);
        open.pieces.push(whole);
        if open.wanted >= u64::from(open.place.plain_len) || open.pieces.len() == MAX_PIECES {
            let complete = self.open.remove(position).expect("it was found there");
            return self.emit(complete);
        }
        Ok(())
    }

    fn emit(&mut self, record: OpenRecord) -> Result<(), Gone> {
        let OpenRecord { salt, place, pieces, .. } = record;
        let (permit, waited) = self.budget.acquire(self.plan.permit(), &self.run.stop).ok_or(Gone)?;
        self.stats.wait_budget += waited;
        let keys = self.state.reader.segment_keys(&salt);
        let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number: place.number };
        let job = RecordJob { place, id, keys, purpose: pieces };
        let sending = Instant::now();
        let sent = self.to_read.send(Envelope { item: job, permit: Some(permit) });
        self.stats.wait_output += sending.elapsed();
        self.waits += waited + sending.elapsed();
        sent.map_err(|_| Gone)
    }

    fn flush_creates(&mut self) -> Result<(), Gone> {
        if self.creates.is_empty() {
            return Ok(());
        }
        let creates = std::mem::take(&mut self.creates);
        let (permit, waited) = self.window.acquire(creates.len() as u64, &self.run.stop).ok_or(Gone)?;
        self.stats.wait_output += waited;
        self.waits += waited;
        self.send_write(WriteJob::Create(creates), Some(permit))
    }

    fn send_write(&mut self, job: WriteJob, permit: Option<Permit>) -> Result<(), Gone> {
        let sending = Instant::now();
        let sent = self.to_write.send(Envelope { item: job, permit });
        self.stats.wait_output += sending.elapsed();
        self.waits += sending.elapsed();
        sent.map_err(|_| Gone)
    }
}

impl Vault {
    /// Writes the content of one file of a snapshot to `out`, holes as zeros.
    ///
    /// # Errors
    /// [`Error::NoEntry`]; [`Error::Refused`] for what is no file; [`Error::Damaged`], with the bytes before the damage
    /// written already; [`Error::Io`] if `out` fails.
    pub fn copy_file(
        &self,
        path: &Path,
        options: &ExtractOptions,
        out: &mut (dyn std::io::Write + Send),
        observer: &dyn Observer,
    ) -> Result<Report, Failed> {
        let mut copied = (None, 0);
        let (result, run) = Run::conduct("restore", &self.path, &options.pipeline, observer, |run| {
            let state = self.open_state(run, false)?;
            run.enter(Phase::Stream);
            copied = copy_file(run, &state, path, options, out)?;
            Ok(())
        });
        let mut report = run.into_report("get", Vec::new());
        report.snapshot = copied.0;
        match result {
            Ok(()) => {
                (report.total_files, report.successful_files) = (1, 1);
                report.total_size = copied.1;
                Ok(report)
            }
            Err(error) => {
                (report.total_files, report.failed_files) = (1, 1);
                Err(Failed { error, report: Box::new(report) })
            }
        }
    }
}

/// Streams one file in order, a record at a time: a pipe takes the bytes one after another anyway.
fn copy_file(
    run: &Run<'_>,
    state: &State,
    path: &Path,
    options: &ExtractOptions,
    out: &mut (dyn std::io::Write + Send),
) -> Result<(Option<u64>, u64)> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let (commit, trees) = trees_at(state, options.at)?;
    let mut selection = Selection::new(state, &trees, &[path.to_owned()])?;
    let Some((tree, entry)) = selection.next()? else {
        return Err(Error::NoEntry { name: path.display().to_string(), nearest: None });
    };
    if entry.entry_type != EntryType::File {
        return Err(Error::Refused { what: "only files can be written to standard output", path: path.to_owned() });
    }
    let mut resolver = Resolver::new(&trees, Arc::clone(&state.vault));
    let plan = fit_unpack(&options.pipeline, largest_record(&trees), false)?;
    let pool = record_pool(&plan);
    let mut read = ReadRecord::new(&*state.storage, pool.clone());
    let mut decrypt = Decrypt::new();
    let mut decompress = Decompress::new(pool)?;
    let failed = |error| Error::io(FileOp::Write, "standard output", error);
    let mut position = 0;
    let zeros = |upto: u64, position: &mut u64, out: &mut (dyn std::io::Write + Send)| -> Result<()> {
        while *position < upto {
            let len = usize::try_from(upto - *position).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            run.check()?;
            out.write_all(&ZEROS[..len]).map_err(failed)?;
            *position += len as u64;
            run.counters.tick();
        }
        Ok(())
    };
    for piece in pieces(&entry.extents) {
        run.check()?;
        zeros(piece.file_offset, &mut position, out)?;
        let place = resolver.place(tree, piece.segment, piece.number)?;
        let salt = resolver.segment(tree, piece.segment);
        let keys = state.reader.segment_keys(salt);
        let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number: piece.number };
        let mut plain = None;
        let job = RecordJob { place, id, keys, purpose: () };
        read.process(job, &mut |sealed| {
            decrypt.process(sealed, &mut |packed| {
                decompress.process(packed, &mut |record| {
                    plain = Some(record.bytes);
                    Ok(())
                })
            })
        })?;
        let damaged = |why| Error::malformed(&*state.vault, place.offset, why);
        let plain = plain.expect("one record in, one record out").map_err(damaged)?;
        let (at, len) = (piece.at as usize, piece.len as usize);
        let bytes = plain.as_slice().get(at..at + len);
        let bytes = bytes.ok_or_else(|| damaged(Malformation::Field { structure: "entry", field: "extent" }))?;
        out.write_all(bytes).map_err(failed)?;
        position += bytes.len() as u64;
        run.counters.bytes_done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        run.counters.tick();
    }
    zeros(entry.size, &mut position, out)?;
    out.flush().map_err(failed)?;
    Ok((commit.snapshot.map(|snapshot| snapshot.number), position))
}

//! Which records are read for the entries that are wanted, in which order, and what of them goes where?
//!
//! The planner walks the entries in index order, makes directories, and gathers what is wanted of each record, so that a
//! record full of small files is read once. A record is let go of when everything in it is asked for, or when so many
//! others have been begun since that waiting longer would cost memory; one that is then asked for again is read again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::budget::{Budget, Permit};
use crate::engine::fit::Plan;
use crate::engine::pipeline::{Envelope, Gone, Outlet as _};
use crate::engine::queue::Feed;
use crate::engine::recorder::Item;
use crate::engine::resolve::{RecordPiece, Resolver, pieces};
use crate::engine::run::{Gauge, Run};
use crate::engine::select::Selection;
use crate::engine::state::State;
use crate::engine::stats::WorkerStats;
use crate::engine::tell::Telling;
use crate::error::{Error, Malformation, Result};
use crate::format::entry::{Entry, EntryType, Extent, SegmentIndex};
use crate::format::index::{RecordPlace, SegmentSalt};
use crate::format::record::{RecordId, RecordKind, Salt};
use crate::format::tree::Tree;
use crate::stages::Weighed;
use crate::stages::unpack::destination::Destination;
use crate::stages::unpack::links::LinkRole;
use crate::stages::unpack::read::{PlainRecord, RecordJob};
use crate::stages::unpack::write::{Piece, RestoreFile};

/// Records that the planner gathers pieces for at once.
const OPEN_RECORDS: usize = 8;
/// Pieces gathered for one record before it is let go of.
const MAX_PIECES: usize = 4096;
/// Entries without content that travel together.
const CREATE_BATCH: usize = 64;

/// What the write stage takes.
pub(crate) enum WriteJob {
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
    fn number(&self) -> Option<u64> {
        match self {
            Self::Record(record) => record.number(),
            Self::Create(_) | Self::Lost(..) => None,
        }
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

/// What the planner has in common with the pipeline that it is the first stage of.
pub(crate) struct Seams<'r, 'c> {
    pub(crate) run: &'r Run<'c>,
    pub(crate) plan: &'r Plan,
    pub(crate) state: &'r State,
    pub(crate) destination: &'r Arc<Destination>,
    /// Passes on what the destination tells of entries that do not get as far as the writers.
    pub(crate) telling: &'r Telling<'r, 'c>,
    /// Bounds the bytes under way.
    pub(crate) budget: &'r Arc<Budget>,
    /// Bounds the entries without content that are on their way to the writers.
    pub(crate) window: &'r Arc<Budget>,
    pub(crate) to_read: Feed<RecordJob<Vec<Piece>>>,
    pub(crate) to_write: Feed<WriteJob>,
}

/// The first stage of the way back.
pub(crate) struct RestorePlanner<'r, 'c> {
    seams: Seams<'r, 'c>,
    resolver: Resolver,
    segments: Segments,
    open: VecDeque<OpenRecord>,
    creates: Vec<Arc<Entry>>,
    waits: Duration,
    stats: WorkerStats,
    gauge: Arc<Gauge>,
}

impl<'r, 'c> RestorePlanner<'r, 'c> {
    /// A planner for the entries of these trees.
    pub(crate) fn new(seams: Seams<'r, 'c>, trees: &[Arc<Tree>]) -> Self {
        let resolver = Resolver::new(trees, Arc::clone(&seams.state.vault));
        let (stats, gauge) = (seams.run.recorder.worker("plan", 0), seams.run.gauge("plan", 1, None, None));
        Self {
            seams,
            resolver,
            segments: Segments::default(),
            open: VecDeque::new(),
            creates: Vec::new(),
            waits: Duration::ZERO,
            stats,
            gauge,
        }
    }

    /// Plans all that is selected; answers the selection at its end, and how many entries there were.
    pub(crate) fn work(mut self, mut selection: Selection) -> Result<(Selection, u64, WorkerStats)> {
        let mut selected = 0;
        loop {
            let began = Instant::now();
            if self.seams.run.stop.is_stopped() {
                break;
            }
            let next = selection.next()?;
            self.seams.telling.lost(selection.take_lost());
            let Some((tree, entry)) = next else { break };
            selected += 1;
            if self.entry(tree, *entry).is_err() {
                break;
            }
            let waited = std::mem::take(&mut self.waits);
            let service = self.stats.serviced(began, waited);
            self.stats.span(began, service, Item::default());
            self.gauge.busy_ns.fetch_add(u64::try_from(service.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            self.seams.run.counters.tick();
        }
        if !self.seams.run.stop.is_stopped() {
            // Errors here are the consequence of a stop.
            let _ = self.flush_creates();
            while let Some(record) = self.open.pop_front() {
                if self.emit(record).is_err() {
                    break;
                }
            }
        }
        self.seams.run.counters.all_known.store(true, Ordering::Relaxed);
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
            self.seams.destination.make_directory(entry);
            return Ok(());
        }
        self.seams.run.counters.files_known.fetch_add(1, Ordering::Relaxed);
        self.seams.run.counters.bytes_known.fetch_add(entry.size, Ordering::Relaxed);
        let Seams { destination, telling, .. } = &self.seams;
        if destination.keep_unchanged(&entry) || destination.link_plan(Arc::clone(&entry)) == LinkRole::Later {
            telling.pass_on();
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
                    self.seams.run.stop.fail(error);
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
        let (permit, waited) = self.seams.budget.acquire(self.seams.plan.permit(), &self.seams.run.stop).ok_or(Gone)?;
        self.stats.wait_budget.record(waited);
        let keys = self.seams.state.reader.segment_keys(&salt);
        let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number: place.number };
        let job = RecordJob { place, id, keys, purpose: pieces };
        let sending = Instant::now();
        let sent = self.seams.to_read.send(Envelope { item: job, permit: Some(permit) });
        let sent_after = sending.elapsed();
        self.stats.wait_output.record(sent_after);
        self.stats.items_out += 1;
        self.waits += waited + sent_after;
        sent
    }

    fn flush_creates(&mut self) -> Result<(), Gone> {
        if self.creates.is_empty() {
            return Ok(());
        }
        let creates = std::mem::take(&mut self.creates);
        let (permit, waited) = self.seams.window.acquire(creates.len() as u64, &self.seams.run.stop).ok_or(Gone)?;
        self.stats.wait_output.record(waited);
        self.waits += waited;
        self.send_write(WriteJob::Create(creates), Some(permit))
    }

    fn send_write(&mut self, job: WriteJob, permit: Option<Permit>) -> Result<(), Gone> {
        let sending = Instant::now();
        let sent = self.seams.to_write.send(Envelope { item: job, permit });
        let sent_after = sending.elapsed();
        self.stats.wait_output.record(sent_after);
        self.stats.items_out += 1;
        self.waits += sent_after;
        sent
    }
}

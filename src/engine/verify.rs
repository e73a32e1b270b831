//! Verifying: everything that a snapshot needs is read and authenticated, nothing is written.
//!
//! First the structure: both headers, both roots, the reserved bytes between them, the chain of commits, every index tree
//! and the heads of the segments; then, unless that is enough, every record that a tree lists: read, opened, unpacked.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::crypto::key::fill_random;
use crate::engine::api::VerifyOptions;
use crate::engine::budget::Budget;
use crate::engine::device::Device;
use crate::engine::extract::record_pool;
use crate::engine::fit::{Course, Plan, UNPACK_CONTEXT, fit_unpack};
use crate::engine::front::Front;
use crate::engine::observe::{EntryErrorKind, Failed, Observer, PlanReport, Report, StageReport};
use crate::engine::pipeline::{Envelope, Gone, Outlet, StageHandle, spawn_one, spawn_stage};
use crate::engine::queue::queue;
use crate::engine::resolve::{Resolver, pieces};
use crate::engine::run::{Phase, Run, describe};
use crate::engine::state::{MetaReader, State, read_at_most, read_headers, read_roots};
use crate::engine::stats::stage_report;
use crate::engine::vault::Vault;
use crate::engine::verdict::{Way, judge};
use crate::error::{Error, FileOp, Malformation, Result};
use crate::format::commit::Commit;
use crate::format::entry::EntryType;
use crate::format::header::{EXTENTS_AT, RESERVED_RANGES, UnverifiedHeader};
use crate::format::index::{Item, RecordPlace, SegmentSalt};
use crate::format::record::{RecordId, RecordKind, SEGMENT_HEADER_LEN, Salt, SegmentHeader};
use crate::format::tree::{Tree, TreeCursor};
use crate::primitives::storage::Storage;
use crate::stages::unpack::decompress::Decompress;
use crate::stages::unpack::decrypt::Decrypt;
use crate::stages::unpack::read::{PlainRecord, ReadRecord, RecordJob};

impl Vault {
    /// Reads and authenticates, without writing, everything that any snapshot needs (or the one that `options` names),
    /// both headers and both roots. Damage is named in the report, whose
    /// [`is_damaged`](Report::is_damaged) is the verdict.
    ///
    /// # Errors
    /// What kept the vault from being checked at all; damage that leaves nothing to go on from is [`Error::Damaged`].
    pub fn verify(&self, options: &VerifyOptions, observer: &dyn Observer) -> Result<Report, Failed> {
        let mut checked = Checked::default();
        let (result, run) = Run::conduct("verify", &self.path, &options.pipeline, observer, |run| {
            let state = self.reader(true)?;
            self.verify_state(run, &state, options, &mut checked)
        });
        let mut report = run.into_report("verify", checked.stages);
        report.snapshot = options.at;
        report.total_files = checked.files;
        report.failed_files = checked.damaged_files;
        report.successful_files = checked.files - checked.damaged_files.min(checked.files);
        report.directories = checked.directories;
        report.total_size = checked.content_bytes;
        report.stored_size = checked.stored_bytes;
        report.unreferenced_bytes = checked.unreferenced;
        report.plan = checked.plan;
        report.bottleneck = judge(&report, Way::Unpack);
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }

    fn verify_state(&self, run: &Run<'_>, state: &State, options: &VerifyOptions, checked: &mut Checked) -> Result<()> {
        let damage = |why: String| run.entry_failed(&self.path, EntryErrorKind::Damaged, why);
        self.verify_fixed(run, state, &damage)?;
        let mut walk = Walk::new(run, state);
        match options.at {
            Some(number) => walk.commit(&state.snapshot(number)?)?,
            None => walk.chain()?,
        }
        let (trees, heads) = walk.finish();
        verify_heads(run, state, &heads, &damage)?;
        let mut records = Records::default();
        for tree in &trees {
            run.check()?;
            let listed = records.list(tree, state).and_then(|()| check_tree(run, tree, state, checked));
            if let Err(error) = listed {
                keep_going(run, &self.path, error)?;
            }
        }
        let mut wanted: Vec<(SegmentSalt, RecordPlace)> = match options.at {
            None => records.into_places(),
            // Of the records that its trees list, those that its own entries are made of.
            Some(number) => needed(run, state, &state.snapshot(number)?)?,
        };
        wanted.sort_unstable_by_key(|(_, place)| place.offset);
        let listed_bytes: Vec<(u64, u32)> = wanted.iter().map(|(_, place)| (place.offset, place.sealed_len)).collect();
        if let Some(percent) = options.read_data_subset {
            let all = wanted.len();
            choose(&mut wanted, percent)?;
            run.note(&self.path, format!("{} of {all} data records were chosen at random to be read", wanted.len()));
        }
        if !options.quick {
            let largest = wanted.iter().map(|(_, place)| place.plain_len).max().unwrap_or(0);
            let plan = fit_unpack(&options.pipeline, largest, false, Device::of(&self.path))?;
            checked.plan = Some(plan.report(UNPACK_CONTEXT, Course::Unpack));
            if options.dry_run {
                checked.stored_bytes += wanted.iter().map(|(_, place)| u64::from(place.sealed_len)).sum::<u64>();
            } else {
                let ReadThrough { stages, stored_bytes, failed } =
                    read_through(run, &*state.storage, &state.reader, &plan, wanted)?;
                (checked.stages, checked.stored_bytes) = (stages, checked.stored_bytes + stored_bytes);
                let lost = failed.into_iter().map(|(salt, place, why)| ((salt, place.number), why)).collect();
                name_entries(run, state, &trees, &lost, checked)?;
            }
        }
        if options.at.is_none() {
            let file_len = state.storage.len().map_err(|error| Error::io(FileOp::Stat, &self.path, error))?;
            let heads = heads.iter().map(|(_, at)| (*at, SEGMENT_HEADER_LEN_U32));
            checked.unreferenced = Some(unreferenced(file_len, listed_bytes.into_iter().chain(heads), state));
        }
        checked.stored_bytes += state.reader.visited().iter().map(|(_, len)| u64::from(*len)).sum::<u64>();
        Ok(())
    }

    /// Headers, roots and the reserved bytes between them.
    fn verify_fixed(&self, run: &Run<'_>, state: &State, damage: &dyn Fn(String)) -> Result<()> {
        let mut good = Vec::new();
        for (at, copy) in read_headers(&*state.storage, &self.path, false)? {
            let sequence = copy.as_ref().map_or(0, UnverifiedHeader::sequence);
            match copy.and_then(|header| header.verify(&self.keys.header)) {
                Ok(header) => good.push((at, sequence, header)),
                Err(why) => damage(format!("the copy of the header at byte {at} is bad: {why}")),
            }
        }
        // Two that differ are a change that was cut short, and then of two sequences.
        if let [(_, one, first), (_, other, second)] = &good[..]
            && one == other
            && first != second
        {
            let at = good.iter().find(|(_, _, header)| *header != self.header).map_or(0, |(at, ..)| *at);
            damage(format!("the copy of the header at byte {at} is bad: it is another one of the same sequence"));
        }
        if let [(one_at, one, _), (other_at, other, _)] = &good[..]
            && one != other
        {
            let at = if one < other { one_at } else { other_at };
            run.note(&self.path, format!("{OLDER_COPY} {at} still; the next change writes both"));
        }
        for (at, root) in read_roots(&*state.storage, &self.path, &self.keys, false)? {
            if let Err(why) = root {
                damage(format!("the root at byte {at} is bad: {why}"));
            }
        }
        for range in RESERVED_RANGES {
            run.check()?;
            let len = usize::try_from(range.end - range.start).expect("reserved ranges are a few KiB");
            let mut bytes = vec![0; len];
            let read = read_at_most(&*state.storage, &self.path, &mut bytes, range.start)?;
            if read < len || bytes.iter().any(|&byte| byte != 0) {
                damage(format!("reserved bytes from byte {} on are not zero", range.start));
            }
        }
        Ok(())
    }
}

/// What is no damage: a change of the keys that was cut short between the two copies.
const OLDER_COPY: &str =
    "a change of the keys was cut short, and the keys from before it stand in the copy of the header at byte";

#[expect(clippy::cast_possible_truncation, reason = "256")]
const SEGMENT_HEADER_LEN_U32: u32 = SEGMENT_HEADER_LEN as u32;

/// Damage is noted and the rest goes on, and so is what the disk does not give back; anything else ends the run.
fn keep_going(run: &Run<'_>, vault: &Path, error: Error) -> Result<()> {
    match &error {
        Error::Damaged { .. } | Error::Io { op: FileOp::Read, .. } => {
            run.entry_failed(vault, EntryErrorKind::Damaged, describe(&error).1);
            Ok(())
        }
        _ => Err(error),
    }
}

/// What has been checked so far.
#[derive(Default)]
pub(super) struct Checked {
    stages: Vec<StageReport>,
    files: u64,
    damaged_files: u64,
    directories: u64,
    content_bytes: u64,
    stored_bytes: u64,
    unreferenced: Option<u64>,
    plan: Option<PlanReport>,
}

/// Collects the trees that commits refer to, each once.
pub(super) struct Walk<'s, 'r, 'c> {
    state: &'s State,
    run: &'r Run<'c>,
    trees: Vec<Arc<Tree>>,
    seen: HashSet<(u64, u64)>,
    heads: Vec<(SegmentSalt, u64)>,
    seen_heads: HashSet<u64>,
}

impl<'s, 'r, 'c> Walk<'s, 'r, 'c> {
    pub(super) fn new(run: &'r Run<'c>, state: &'s State) -> Self {
        Self { state, run, trees: Vec::new(), seen: HashSet::new(), heads: Vec::new(), seen_heads: HashSet::new() }
    }

    /// The trees, and where segment headers are.
    pub(super) fn finish(self) -> (Vec<Arc<Tree>>, Vec<(SegmentSalt, u64)>) {
        (self.trees, self.heads)
    }

    fn commit(&mut self, commit: &Commit) -> Result<()> {
        for tree in commit.full.iter().chain(&commit.deltas) {
            if !self.seen.insert((tree.head.offset, tree.head.number)) {
                continue;
            }
            match self.state.tree(commit, tree) {
                Ok(opened) => self.trees.push(opened),
                Err(error) => keep_going(self.run, &self.state.vault, error)?,
            }
        }
        for (segment, at) in &commit.heads {
            // A run that makes several commits lists its heads in each.
            if self.seen_heads.insert(*at) {
                self.heads.push((commit.segments[*segment as usize].clone(), *at));
            }
        }
        Ok(())
    }

    /// The newest commit and all before it.
    pub(super) fn chain(&mut self) -> Result<()> {
        let mut next = Some(self.state.commit.clone());
        while let Some(commit) = next {
            self.run.check()?;
            self.commit(&commit)?;
            // Behind a commit that is lost, nothing is known of those before it.
            next = match self.state.previous(&commit) {
                Ok(before) => before,
                Err(error) => {
                    keep_going(self.run, &self.state.vault, error)?;
                    None
                }
            };
        }
        Ok(())
    }
}

fn verify_heads(run: &Run<'_>, state: &State, heads: &[(SegmentSalt, u64)], damage: &dyn Fn(String)) -> Result<()> {
    for (segment, at) in heads {
        run.check()?;
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        let read = read_at_most(&*state.storage, &state.vault, &mut bytes, *at)?;
        let truncated = Malformation::Truncated { structure: "segment header" };
        let head = if read == SEGMENT_HEADER_LEN { SegmentHeader::decode(&bytes) } else { Err(truncated) };
        let is_right = |head: &SegmentHeader| head.salt.0 == segment.salt && head.vault_id == state.keys.vault_id;
        match head {
            Ok(head) if is_right(&head) => {}
            Ok(_) => damage(format!("the segment header at byte {at} is another segment's")),
            Err(why) => damage(format!("the segment header at byte {at} is bad: {why}")),
        }
    }
    Ok(())
}

/// Every record that the trees list, each once.
#[derive(Default)]
pub(super) struct Records {
    places: HashMap<(SegmentSalt, u64), RecordPlace>,
}

impl Records {
    pub(super) fn list(&mut self, tree: &Tree, state: &State) -> Result<()> {
        for table in &tree.head().records {
            let salt = &tree.head().segments[table.segment as usize];
            for place in tree.record_table(table)? {
                let known = self.places.insert((salt.clone(), place.number), place);
                if known.is_some_and(|known| known != place) {
                    let why = Malformation::Field { structure: "record table", field: "two places of one record" };
                    return Err(Error::malformed(&*state.vault, place.offset, why));
                }
            }
        }
        Ok(())
    }

    pub(super) fn into_places(self) -> Vec<(SegmentSalt, RecordPlace)> {
        self.places.into_iter().map(|((salt, _), place)| (salt, place)).collect()
    }
}

/// Reads all items of a tree; what they refer to has to be there, and as long as they say.
pub(super) fn check_tree(run: &Run<'_>, tree: &Arc<Tree>, state: &State, checked: &mut Checked) -> Result<()> {
    let mut cursor = TreeCursor::new(Arc::clone(tree))?;
    let mut resolver = Resolver::new(std::slice::from_ref(tree), Arc::clone(&state.vault));
    let (mut puts, mut deletes, mut content_bytes) = (0, 0, 0_u64);
    while let Some(item) = cursor.next()? {
        run.check()?;
        run.counters.tick();
        let Item::Put(entry) = item else {
            deletes += 1;
            continue;
        };
        puts += 1;
        content_bytes = content_bytes.saturating_add(entry.size);
        for piece in pieces(&entry.extents) {
            let place = resolver.place(0, piece.segment, piece.number)?;
            if u64::from(piece.at) + u64::from(piece.len) > u64::from(place.plain_len) {
                let why = Malformation::Field { structure: "entry", field: "extent" };
                return Err(Error::malformed(&*state.vault, place.offset, why));
            }
        }
        if entry.entry_type == EntryType::Directory {
            checked.directories += 1;
        } else {
            checked.files += 1;
            checked.content_bytes += entry.size;
        }
    }
    let head = tree.head();
    if (puts, deletes, content_bytes) != (head.puts, head.deletes, head.content_bytes) {
        let why = Malformation::Field { structure: "tree head", field: "number or size of the entries" };
        return Err(Error::malformed(&*state.vault, 0, why));
    }
    Ok(())
}

/// The records that the entries of one snapshot are made of, each once.
pub(super) fn needed(run: &Run<'_>, state: &State, commit: &Commit) -> Result<Vec<(SegmentSalt, RecordPlace)>> {
    let trees = state.trees(commit)?;
    let mut merge = state.merge(&trees)?;
    let mut resolver = Resolver::new(&trees, Arc::clone(&state.vault));
    let mut needed = Records::default();
    while let Some((tree, entry)) = merge.next()? {
        run.check()?;
        for piece in pieces(&entry.extents) {
            let salt = resolver.segment(tree, piece.segment).clone();
            needed.places.insert((salt, piece.number), resolver.place(tree, piece.segment, piece.number)?);
        }
    }
    Ok(needed.into_places())
}

/// A record that is lost: its segment and number.
type Lost = HashMap<(SegmentSalt, u64), Malformation>;

/// Where verified records end.
#[derive(Clone)]
struct Verdicts<'v> {
    lost: &'v Mutex<Vec<(SegmentSalt, RecordPlace, Malformation)>>,
    bytes: &'v AtomicU64,
    done: &'v AtomicU64,
}

impl Outlet<PlainRecord<SegmentSalt>> for Verdicts<'_> {
    fn send(&self, envelope: Envelope<PlainRecord<SegmentSalt>>) -> Result<(), Gone> {
        let PlainRecord { place, bytes, purpose, .. } = envelope.item;
        self.bytes.fetch_add(u64::from(place.sealed_len), Ordering::Relaxed);
        self.done.fetch_add(u64::from(place.plain_len), Ordering::Relaxed);
        if let Err(why) = bytes {
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).push((purpose, place, why));
        }
        Ok(())
    }
}

/// What became of records that were read.
pub(super) struct ReadThrough {
    pub(super) stages: Vec<StageReport>,
    /// Bytes of the file that were read.
    pub(super) stored_bytes: u64,
    /// Records that did not open.
    pub(super) failed: Vec<(SegmentSalt, RecordPlace, Malformation)>,
}

/// Runs every record through the way back, but for the writing.
pub(super) fn read_through(
    run: &Run<'_>,
    storage: &dyn Storage,
    reader: &MetaReader,
    plan: &Plan,
    wanted: Vec<(SegmentSalt, RecordPlace)>,
) -> Result<ReadThrough> {
    run.enter(Phase::Stream);
    let began = Instant::now();
    let budget = Budget::new(plan.budget);
    run.buffers_of(&budget);
    let pool = record_pool(plan);
    let lost = Mutex::default();
    let bytes = AtomicU64::new(0);
    let known = wanted.iter().map(|(_, place)| u64::from(place.plain_len)).sum();
    run.counters.bytes_known.store(known, Ordering::Relaxed);
    run.counters.all_known.store(true, Ordering::Relaxed);
    let make_read = || Ok(ReadRecord::<SegmentSalt>::new(storage, pool.clone()));
    let make_decrypt = || Ok(Decrypt::new());
    let make_decompress = || Decompress::new(pool.clone());
    let verdicts = Verdicts { lost: &lost, bytes: &bytes, done: &run.counters.bytes_done };
    let stages = std::thread::scope(|scope| {
        let (to_read, for_read) = queue(plan.depth(plan.read));
        let (to_decrypt, for_decrypt) = queue(plan.depth(plan.third));
        let (to_decompress, for_decompress) = queue(plan.depth(plan.fourth));
        let front = Front { run, budget: Arc::clone(&budget), permit: plan.permit() };
        // In the order of the file.
        let jobs = wanted.into_iter().map(|(salt, place)| {
            let id = RecordId { segment: Salt(salt.salt).segment_id(), kind: RecordKind::Data, number: place.number };
            RecordJob { place, id, keys: reader.segment_keys(&salt), purpose: salt }
        });
        let mut stages = Vec::new();
        let started = (|| {
            stages.push(spawn_one(scope, run, "plan", move || Ok(front.hand_out(jobs, &to_read)))?);
            stages.push(spawn_stage(scope, run, plan.readers(run, "decrypt"), &make_read, for_read, to_decrypt)?);
            stages.push(spawn_stage(scope, run, plan.third, &make_decrypt, for_decrypt, to_decompress)?);
            stages.push(spawn_stage(scope, run, plan.fourth, &make_decompress, for_decompress, verdicts)?);
            Ok(())
        })();
        if let Err(error) = started {
            run.stop.fail(error);
        }
        stages.into_iter().map(StageHandle::join).collect::<Vec<_>>()
    });
    let wall = began.elapsed();
    run.check()?;
    Ok(ReadThrough {
        stages: stages.into_iter().map(|(name, workers)| stage_report(name, workers, wall)).collect(),
        stored_bytes: bytes.into_inner(),
        failed: lost.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// Keeps so many percent of the records, each as likely as any other, in their order; at least one, if there is any.
fn choose(records: &mut Vec<(SegmentSalt, RecordPlace)>, percent: f64) -> Result<()> {
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(Error::Usage(format!("{percent} % of the data cannot be read: above 0 and at most 100 can")));
    }
    #[expect(clippy::cast_possible_truncation, reason = "no more than there are")]
    let count = (records.len() as f64 * percent / 100.0).ceil() as usize;
    for at in 0..count.min(records.len()) {
        let mut random = [0; 8];
        fill_random(&mut random)?;
        let left = (records.len() - at) as u64;
        let further = usize::try_from(u64::from_le_bytes(random) % left).expect("less than the length of a vector");
        records.swap(at, at + further);
    }
    records.truncate(count);
    records.sort_unstable_by_key(|(_, place)| place.offset);
    Ok(())
}

/// Names the entries that lost records belong to.
fn name_entries(run: &Run<'_>, state: &State, trees: &[Arc<Tree>], lost: &Lost, checked: &mut Checked) -> Result<()> {
    if lost.is_empty() {
        return Ok(());
    }
    let mut named: HashSet<PathBuf> = HashSet::new();
    for tree in trees {
        let Ok(mut cursor) = TreeCursor::new(Arc::clone(tree)) else { continue };
        // A tree that cannot be read has been reported already.
        while let Ok(Some(item)) = cursor.next() {
            run.check()?;
            let Item::Put(entry) = item else { continue };
            let segments = &tree.head().segments;
            let why = pieces(&entry.extents)
                .find_map(|piece| lost.get(&(segments[piece.segment.0 as usize].clone(), piece.number)));
            if let Some(why) = why {
                checked.damaged_files += 1;
                if named.insert(entry.path.as_path().to_owned()) {
                    run.entry_failed(entry.path.as_path(), EntryErrorKind::Damaged, format!("damaged: {why}"));
                }
            }
        }
    }
    if named.is_empty() {
        run.entry_failed(&state.vault, EntryErrorKind::Damaged, format!("{} records are damaged", lost.len()));
    }
    Ok(())
}

/// Bytes of the extents that nothing refers to.
fn unreferenced(file_len: u64, ranges: impl Iterator<Item = (u64, u32)>, state: &State) -> u64 {
    let mut ranges: Vec<(u64, u64)> = ranges.map(|(at, len)| (at, at + u64::from(len))).collect();
    ranges.extend(state.reader.visited().into_iter().map(|(at, len)| (at, at + u64::from(len))));
    ranges.sort_unstable();
    let mut free = 0;
    let mut end = EXTENTS_AT;
    for (from, to) in ranges {
        free += from.saturating_sub(end);
        end = end.max(to);
    }
    free + file_len.saturating_sub(end)
}

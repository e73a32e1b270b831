//! How is a vault written anew, into a file that takes the place of the old one in one step?
//!
//! | step | where | |
//! |---|---|---|
//! | which records do the kept snapshots need? | [`needed`] | reads every index that is kept |
//! | where does each go, and which are packed anew? | [`layout`] | no input or output |
//! | is there room, and may the new file be what the old one is? | [`replace`] | nothing is written before |
//! | data | [`data`] | the pipeline |
//! | indexes and commits | [`history`] | in a segment of the run's own |
//! | is what was written sound? | here | reads every new index |
//! | the new file gets the name | [`replace`] | sync, rename, sync of the directory |
//!
//! Who owns what: PRESENCE of the old file is held alone from before the first look until the directory is synced, so nobody
//! writes to it; readers go on reading it, also when it has lost its name. The new file has no name and belongs to this run. How
//! it ends: whatever fails before the rename drops the new file and leaves the old one as it was; the rename is the commit.

mod assembly;
pub(crate) mod data;
pub(crate) mod history;
pub(crate) mod layout;
pub(crate) mod needed;
pub(crate) mod replace;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::engine::device::Device;
use crate::engine::fit::{Course, Plan, fit_transfer, repack_context};
use crate::engine::observe::{Compaction, PlanReport, StageReport};
use crate::engine::rewrite::history::Moved;
use crate::engine::rewrite::layout::{Layout, Repacking};
use crate::engine::rewrite::needed::{Kept, Needed, Segments};
use crate::engine::run::{Phase, Run};
use crate::engine::segment::{SegmentWriter, write_all_at};
use crate::engine::state::{State, VaultKeys};
use crate::engine::verify::{Checked, Records, check_tree};
use crate::error::{Error, FileOp, Result};
use crate::format::commit::Commit;
use crate::format::entry::{Entry, Extent, SegmentIndex};
use crate::format::header::{EXTENTS_AT, HEADER_A_AT, HEADER_B_AT, Header, ROOT_A_AT, ROOT_B_AT, Root};
use crate::format::index::SegmentSalt;
use crate::format::record::Salt;
use crate::primitives::storage::Storage;

/// What is to be done, known before anything is written.
pub(crate) struct Task {
    kept: Vec<Kept>,
    needed: Needed,
    layout: Layout,
    plan: Plan,
    /// About the length of the new file.
    estimate: u64,
}

/// Room for what trees take that there were none of, and for what was estimated too low.
const SLACK: u64 = 64 << 10;
/// About what a commit record takes.
const COMMIT_LEN: u64 = 512;

impl Task {
    /// Looks at everything that the kept commits hold.
    ///
    /// - `kept`: the oldest first.
    /// - `reseals`: everything is to be sealed anew; then nothing is packed anew.
    pub(crate) fn plan(run: &Run<'_>, state: &State, kept: Vec<Kept>, reseals: bool) -> Result<Self> {
        let needed = Needed::find(run, state, &kept)?;
        let largest = needed.records.iter().map(|record| record.place.plain_len).max().unwrap_or(0);
        let plan = fit_transfer(run.config, largest, reseals, Device::of(&state.vault))?;
        let repacking = if reseals { Repacking::Never } else { Repacking::BelowHalf };
        let layout = Layout::plan(&needed, repacking, plan.chunk_size);
        let index =
            kept.iter().fold(0, |sum: u64, kept| sum.saturating_add(kept.index_bytes()).saturating_add(COMMIT_LEN));
        let estimate = index.saturating_add(layout.end + layout.repacked_estimate);
        Ok(Self { kept, needed, layout, plan, estimate })
    }

    /// The room that has to be there for the new file.
    pub(crate) fn room(&self) -> u64 {
        self.estimate.saturating_add(SLACK)
    }

    /// The plan of the pipeline.
    pub(crate) fn plan_report(&self) -> PlanReport {
        self.plan.report(repack_context(self.plan.chunk_size), Course::Transfer)
    }

    /// Plain bytes of what is needed.
    pub(crate) fn plain_bytes(&self) -> u64 {
        self.needed.records.iter().map(|record| u64::from(record.alive)).sum()
    }

    /// What it means for the file; of the new one, the length is an estimate.
    ///
    /// - `dropped`: numbers of the snapshots that are not kept.
    pub(crate) fn figures(&self, bytes_before: u64, dropped: Vec<u64>) -> Compaction {
        let taken_apart = || self.layout.taken_apart().map(|position| &self.needed.records[position]);
        let repacked_records = taken_apart().count() as u64;
        Compaction {
            kept: self.kept.iter().filter_map(|kept| Some(kept.commit.snapshot.as_ref()?.number)).collect(),
            dropped,
            bytes_before,
            bytes_after: self.estimate,
            moved_records: self.needed.records.len() as u64 - repacked_records,
            repacked_records,
            repacked_bytes: taken_apart().map(|record| u64::from(record.place.sealed_len)).sum(),
        }
    }
}

/// One vault being written anew.
pub(crate) struct Rewrite<'a, 'c> {
    run: &'a Run<'c>,
    /// What messages call either file.
    path: &'a Arc<Path>,
    from: &'a State,
    to: Arc<dyn Storage>,
    /// The keys of the new file.
    keys: &'a Arc<VaultKeys>,
    /// Of each segment, its salt in the new file; `None`: what it is in the old one.
    new_salts: Option<Vec<SegmentSalt>>,
}

/// What was written.
pub(crate) struct Written {
    pub(crate) stages: Vec<StageReport>,
    /// The length of the new file.
    pub(crate) file_size: u64,
    /// Bytes of records that were moved, and of those that were made.
    pub(crate) data_bytes: u64,
}

impl<'a, 'c> Rewrite<'a, 'c> {
    /// - `to`: the new file, empty and without a name.
    /// - `keys`: the vault's own, or others: then everything is sealed anew, under fresh salts.
    pub(crate) fn new(
        run: &'a Run<'c>,
        path: &'a Arc<Path>,
        from: &'a State,
        to: Arc<dyn Storage>,
        keys: &'a Arc<VaultKeys>,
        task: &Task,
    ) -> Result<Self> {
        let fresh = |_: &SegmentSalt| Ok(SegmentSalt { salt: Salt::generate()?.0, wrapped: Vec::new() });
        let new_salts = match Arc::ptr_eq(keys, &from.keys) {
            true => None,
            false => Some(task.needed.segments.salts().iter().map(fresh).collect::<Result<_>>()?),
        };
        Ok(Self { run, path, from, to, keys, new_salts })
    }

    /// Whether everything is sealed anew.
    fn reseals(&self) -> bool {
        self.new_salts.is_some()
    }

    /// The salt that a segment has in the new file.
    fn new_salt<'s>(&'s self, segments: &'s Segments, segment: u32) -> &'s SegmentSalt {
        let salts = self.new_salts.as_deref().unwrap_or(segments.salts());
        &salts[segment as usize]
    }

    /// Writes the whole file and syncs it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a record that is needed does not open. The new file is worth nothing then.
    pub(crate) fn write(&self, header: &Header, task: &Task) -> Result<Written> {
        let Task { kept, needed, layout, plan, .. } = task;
        let (path, to) = (&**self.path, &self.to);
        let io = |op| move |error| Error::io(op, path, error);
        // At once: if there is too little space, that is known before anything is written.
        to.allocate(0, layout.end.max(EXTENTS_AT)).map_err(io(FileOp::Allocate))?;
        let segment = SegmentWriter::new(Arc::clone(to), path, self.keys, &self.run.stop, None)?;
        let done = self.transfer(plan, needed, layout, &segment)?;
        let moved = Moved {
            needed,
            layout,
            new_records: &done.new_records,
            highest_snapshot: kept
                .iter()
                .filter_map(|kept| Some(kept.commit.snapshot.as_ref()?.number))
                .fold(self.from.commit.highest_snapshot, u64::max),
            generation: self.from.root.generation(),
        };
        let (generation, place) = self.write_history(&segment, &moved, kept)?;
        let end = place.offset.0 + u64::from(place.sealed_len);
        let root = Root::new(self.keys.vault_id, generation, place, end);
        let root = root.map_err(|why| Error::malformed(path, ROOT_A_AT, why))?.encode(&self.keys.root);
        for at in [ROOT_A_AT, ROOT_B_AT] {
            write_all_at(&**to, path, &root, at)?;
        }
        // Last: where it has a temporary name, what begins with zeros is known for what it is, if this run is killed.
        let header = header.encode(&self.keys.header);
        for at in [HEADER_A_AT, HEADER_B_AT] {
            write_all_at(&**to, path, &header[..], at)?;
        }
        segment.trim()?;
        self.look_over(kept)?;
        self.run.check()?;
        // The sync of a large file takes its time; the stall clock rests. Who does not want to wait loses a file without a name.
        self.run.enter(Phase::Sync);
        segment.sync(io(FileOp::Sync))?;
        let new_bytes: u64 = done.new_records.iter().map(|place| u64::from(place.sealed_len)).sum();
        let file_size = to.len().map_err(io(FileOp::Stat))?;
        Ok(Written { stages: done.stages, file_size, data_bytes: done.moved_bytes + new_bytes })
    }

    /// Looks at the new file as `verify` does, and at what it holds beside what the old one holds: the only copy is not replaced by
    /// what was never looked at.
    fn look_over(&self, kept: &[Kept]) -> Result<()> {
        let state = State::newest(Arc::clone(&self.to), Arc::clone(self.path), Arc::clone(self.keys), false);
        state.and_then(|state| self.look_over_state(&state, kept)).map_err(|error| match error {
            // The old file is not damaged, which is what that would be taken for.
            Error::Damaged { .. } => self.is_wrong(),
            error => error,
        })
    }

    fn is_wrong(&self) -> Error {
        let what = "what was written does not read back as it should, so the old file stays";
        Error::Refused { what, path: self.path.to_path_buf() }
    }

    fn look_over_state(&self, state: &State, kept: &[Kept]) -> Result<()> {
        let mut records = Records::default();
        let mut seen = HashSet::new();
        let mut next = Some(state.commit.clone());
        let mut kept = kept.iter().rev();
        let mut is_newest = true;
        while let Some(commit) = next {
            self.run.check()?;
            for tree in commit.full.iter().chain(&commit.deltas) {
                if seen.insert(tree.head.offset) {
                    let tree = state.tree(&commit, tree)?;
                    records.list(&tree, state)?;
                    check_tree(self.run, &tree, state, &mut Checked::default())?;
                }
            }
            // What is told by its own deltas is told as before, item by item.
            if let Some(old) = kept.next()
                && (is_newest || !old.follows)
            {
                self.compare(&old.commit, state, &commit)?;
            }
            is_newest = false;
            next = state.previous(&commit)?;
        }
        if kept.next().is_some() { Err(self.is_wrong()) } else { Ok(()) }
    }

    /// Whether a snapshot holds in the new file what it holds in the old one, but for where that is.
    fn compare(&self, old: &Commit, new_state: &State, new: &Commit) -> Result<()> {
        let mut was = self.from.merge(&self.from.trees(old)?)?;
        let mut is = new_state.merge(&new_state.trees(new)?)?;
        loop {
            self.run.check()?;
            self.run.counters.tick();
            let [was, is] = [was.next()?, is.next()?].map(|next| next.map(|(_, entry)| without_places(*entry)));
            if was != is {
                return Err(self.is_wrong());
            }
            if was.is_none() {
                return Ok(());
            }
        }
    }
}

/// An entry without what says where its content is: the lengths of its data and of its holes stay.
fn without_places(mut entry: Entry) -> Entry {
    for extent in &mut entry.extents {
        if let Extent::Data { segment, first, count, record_len, offset, .. } = extent {
            (*segment, *first, *count, *record_len, *offset) = (SegmentIndex(0), 0, 0, 0, 0);
        }
    }
    if let Some(link) = &mut entry.link {
        link.segment = SegmentIndex(0);
    }
    entry
}

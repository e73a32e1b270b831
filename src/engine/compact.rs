//! Compacting: the vault without what its kept snapshots do not need, written anew.

use std::sync::Arc;

use crate::engine::api::{CompactOptions, Keep};
use crate::engine::device::Device;
use crate::engine::fit::{Course, Plan, fit_transfer, repack_context};
use crate::engine::observe::{Compaction, Failed, Observer, PlanReport, Report, StageReport};
use crate::engine::rewrite::Rewrite;
use crate::engine::rewrite::layout::{Layout, Repacking};
use crate::engine::rewrite::needed::{Kept, Needed};
use crate::engine::run::Run;
use crate::engine::state::State;
use crate::engine::vault::Vault;
use crate::engine::verdict::{Way, judge};
use crate::error::{Error, FileOp, Result};
use crate::format::commit::Commit;

impl Vault {
    /// Writes the vault anew without what the kept snapshots do not need, and puts that in the place of the old file, in one
    /// step: whatever happens, the path leads to the old file or to the new one, each whole.
    ///
    /// Sealed records are moved as they are; of a record of which less than half is needed, that is packed anew. Snapshots keep
    /// their numbers, passwords and keys stay. The vault must be to be had alone; who reads it goes on with the old file.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is more than one snapshot and [`CompactOptions::keep`] says nothing; [`Error::NoSnapshot`] for
    /// a number that there is not; [`Error::Damaged`] if something that is needed is; [`Error::Locked`];
    /// [`Error::Refused`] for a file with several names; [`Error::Io`] for lack of space. The old file is as it was then.
    pub fn compact(&self, options: &CompactOptions, observer: &dyn Observer) -> Result<Report, Failed> {
        let mut done = Done::default();
        let (result, run) = Run::conduct("compact", &self.path, &options.pipeline, observer, |run| {
            self.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            if options.dry_run {
                return self.plan_compaction(run, &self.reader(false)?, options, &mut done).map(drop);
            }
            let alone = self.alone(run)?;
            let state = &alone.state;
            state.warnings.iter().for_each(|warning| run.note(&self.path, warning.clone()));
            self.warn_of_network(run);
            let Planned { kept, needed, layout, plan, estimate } =
                self.plan_compaction(run, state, options, &mut done)?;
            let new = self.make_replacement(&alone, estimate)?;
            let rewrite = Rewrite::new(run, &self.path, state, Arc::clone(&new), &self.keys, &needed.segments)?;
            let written = rewrite.write(&alone.header, &plan, &kept, &needed, &layout)?;
            done.stages = written.stages;
            done.stored_bytes = written.data_bytes;
            done.compaction.bytes_after = written.file_size;
            self.replace_by(run, &alone, &new)
        });
        let mut report = run.into_report("compact", done.stages);
        report.snapshot = done.compaction.kept.last().copied();
        report.total_size = done.plain_bytes;
        report.stored_size = done.stored_bytes;
        report.plan = done.plan;
        report.compaction = Some(done.compaction);
        report.bottleneck = judge(&report, Way::Transfer);
        match result {
            Ok(()) => Ok(report),
            Err(error) => Err(Failed { error, report: Box::new(report) }),
        }
    }

    /// Looks at everything that is kept, and says what is to be done.
    fn plan_compaction(
        &self,
        run: &Run<'_>,
        state: &State,
        options: &CompactOptions,
        done: &mut Done,
    ) -> Result<Planned> {
        let Chosen { kept, dropped } = choose(run, state, options.keep.as_ref())?;
        let file_len = state.storage.len().map_err(|error| Error::io(FileOp::Stat, &self.path, error))?;
        let compaction = &mut done.compaction;
        compaction.kept = kept.iter().filter_map(|kept| Some(kept.commit.snapshot.as_ref()?.number)).collect();
        compaction.dropped = dropped;
        compaction.bytes_before = file_len;
        let needed = Needed::find(run, state, &kept)?;
        let largest = needed.records.iter().map(|record| record.place.plain_len).max().unwrap_or(0);
        let plan = fit_transfer(&options.pipeline, largest, false, Device::of(&self.path))?;
        let layout = Layout::plan(&needed, Repacking::BelowHalf, plan.chunk_size);
        let estimate = estimate(&layout, &kept);
        for position in layout.taken_apart() {
            let record = &needed.records[position];
            compaction.repacked_records += 1;
            compaction.repacked_bytes += u64::from(record.place.sealed_len);
        }
        compaction.moved_records = needed.records.len() as u64 - compaction.repacked_records;
        compaction.bytes_after = estimate;
        done.plain_bytes = needed.records.iter().map(|record| u64::from(record.alive)).sum();
        done.plan = Some(plan.report(repack_context(plan.chunk_size), Course::Transfer));
        Ok(Planned { kept, needed, layout, plan, estimate })
    }
}

/// What was done so far.
#[derive(Default)]
struct Done {
    stages: Vec<StageReport>,
    plain_bytes: u64,
    stored_bytes: u64,
    plan: Option<PlanReport>,
    compaction: Compaction,
}

/// What is to be done.
struct Planned {
    kept: Vec<Kept>,
    needed: Needed,
    layout: Layout,
    plan: Plan,
    /// About the length of the new file.
    estimate: u64,
}

/// What a whole index takes that is written where there was none, and the commit records, beside what the trees say.
const SLACK: u64 = 64 << 10;
/// About what a commit record takes.
const COMMIT_LEN: u64 = 1 << 10;

/// About how long the new file will be.
pub(crate) fn estimate(layout: &Layout, kept: &[Kept]) -> u64 {
    let index: u64 = kept.iter().map(|kept| kept.index_bytes() + COMMIT_LEN).sum();
    layout.end + layout.repacked_estimate + index + SLACK
}

/// Which commits are kept.
pub(crate) struct Chosen {
    /// The oldest first.
    pub(crate) kept: Vec<Kept>,
    /// Numbers of the snapshots that are not, the oldest first.
    pub(crate) dropped: Vec<u64>,
}

/// Goes along the chain of commits and keeps what is chosen.
///
/// - `keep`: `None` where nothing was said, which does where there is nothing to choose.
pub(crate) fn choose(run: &Run<'_>, state: &State, keep: Option<&Keep>) -> Result<Chosen> {
    let mut next = Some(state.commit.clone());
    let mut kept: Vec<Kept> = Vec::new();
    let mut dropped = Vec::new();
    let (mut snapshots, mut is_newest, mut is_behind_kept) = (0_u64, true, false);
    let mut missing: Vec<u64> = keep.map_or_else(Vec::new, |keep| keep.snapshots.clone());
    while let Some(commit) = next {
        run.check()?;
        let before = state.previous(&commit)?;
        let number = commit.snapshot.as_ref().map(|snapshot| snapshot.number);
        snapshots += u64::from(number.is_some());
        missing.retain(|wanted| Some(*wanted) != number);
        let is_kept = match number {
            Some(number) => keep.is_none_or(|keep| keep.wants(number, snapshots)),
            // What the vault holds now, which is no snapshot: only a mended vault has that. An empty one is written anyway.
            None => is_newest && has_trees(&commit),
        };
        if is_behind_kept && let Some(later) = kept.last_mut() {
            // A commit whose full index covers itself has no deltas that say what it changed.
            let has_own = later.commit.full.is_none_or(|full| full.generation < later.commit.generation);
            later.follows = is_kept && has_own;
        }
        is_behind_kept = is_kept;
        if is_kept {
            kept.push(Kept { commit, follows: false });
        } else {
            dropped.extend(number);
        }
        is_newest = false;
        next = before;
    }
    if let Some(&number) = missing.first() {
        let newest = state.commit.snapshot.as_ref().map(|snapshot| snapshot.number);
        return Err(Error::NoSnapshot { vault: state.vault.to_path_buf(), number, newest });
    }
    if keep.is_none() && snapshots > 1 {
        return Err(Error::Usage(format!("the vault has {snapshots} snapshots: say which of them are kept")));
    }
    if snapshots > 0 && kept.iter().all(|kept| kept.commit.snapshot.is_none()) {
        return Err(Error::Usage("none of the vault's snapshots would be kept".to_owned()));
    }
    kept.reverse();
    dropped.reverse();
    Ok(Chosen { kept, dropped })
}

fn has_trees(commit: &Commit) -> bool {
    commit.full.is_some() || !commit.deltas.is_empty()
}

impl Keep {
    /// Whether a snapshot is kept: by its number, and its place from the newest, which is 1.
    fn wants(&self, number: u64, place: u64) -> bool {
        self.all || place <= self.last || self.snapshots.contains(&number)
    }
}
